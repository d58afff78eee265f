//! [`Request`]: the property changes of one atomic commit.
//!
//! It owns the four lists in the form in which the ioctl takes them, so that a request that is used again for the next
//! frame costs no allocation.

use drm::control::{RawResourceHandle, property};

/// Property changes, in the order in which they are to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub(super) objects: Vec<u32>,
    /// Properties of each object.
    pub(super) counts: Vec<u32>,
    pub(super) properties: Vec<u32>,
    pub(super) values: Vec<u64>,
    /// What its events are known by.
    pub(super) number: u64,
}

impl Request {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number that the events of the commit carry; 0 without one.
    pub fn set_number(&mut self, number: u64) {
        self.number = number;
    }

    /// Forgets everything but its memory.
    pub fn clear(&mut self) {
        self.number = 0;
        self.objects.clear();
        self.counts.clear();
        self.properties.clear();
        self.values.clear();
    }

    /// Sets a property of an object.
    pub fn set(&mut self, object: RawResourceHandle, property: property::Handle, value: u64) {
        match self.counts.last_mut() {
            Some(count) if self.objects.last() == Some(&object.get()) => *count += 1,
            _ => {
                self.objects.push(object.get());
                self.counts.push(1);
            }
        }
        self.properties.push(u32::from(property));
        self.values.push(value);
    }

    /// Object, property and value of each change.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        let objects = self.objects.iter().zip(&self.counts);
        let objects = objects.flat_map(|(object, count)| std::iter::repeat_n(*object, *count as usize));
        objects
            .zip(&self.properties)
            .zip(&self.values)
            .map(|((object, property), value)| (object, *property, *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drm::control::from_u32;

    #[test]
    fn changes_come_out_as_they_went_in() {
        let mut request = Request::new();
        let all = [(7, 1, 10), (7, 2, 20), (8, 1, 30), (7, 1, u64::MAX)];
        for (object, property, value) in all {
            request.set(from_u32(object).unwrap(), from_u32(property).unwrap(), value);
        }
        assert!(request.iter().eq(all));
        assert_eq!((&*request.objects, &*request.counts), (&[7, 8, 7][..], &[2, 1, 1][..]));
        request.clear();
        assert_eq!(request.iter().count(), 0);
    }
}
