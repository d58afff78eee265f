//! Storage that survives the model's own bugs: keys carry a generation, so a reference to something freed is found out
//! instead of followed. Counts are the owners' business; nothing is freed by itself.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
};

/// Names a `T` in its [`Slab`], like the pointer it stands for, but checked.
pub(super) struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}

impl<T> Eq for Key<T> {}

impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.index, self.generation).hash(state);
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

/// Values under keys that are never reused.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    live: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), live: 0 }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> Key<T> {
        self.live += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.1 = Some(value);
        Key { index, generation: slot.0, of: PhantomData }
    }

    pub(super) fn get(&self, key: Key<T>) -> Option<&T> {
        let (generation, value) = self.slots.get(key.index as usize)?;
        value.as_ref().filter(|_| *generation == key.generation)
    }

    pub(super) fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(key.index as usize)?;
        value.as_mut().filter(|_| *generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: Key<T>) -> Option<T> {
        self.get(key)?;
        let slot = &mut self.slots[key.index as usize];
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(key.index);
        self.live -= 1;
        slot.1.take()
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, (generation, value))| {
            let key = Key { index: index as u32, generation: *generation, of: PhantomData };
            Some((key, value.as_ref()?))
        })
    }
}

/// Numbers given out lowest first, as `idr_alloc` does (drm_gem.c).
#[derive(Debug)]
pub(super) struct Idr<T> {
    /// The first number.
    base: u32,
    slots: Vec<Option<T>>,
    free: BinaryHeap<Reverse<u32>>,
}

impl<T> Idr<T> {
    pub(super) fn new(base: u32) -> Self {
        Self { base, slots: Vec::new(), free: BinaryHeap::new() }
    }

    /// Gives out the lowest free number.
    pub(super) fn alloc(&mut self, value: T) -> u32 {
        let index = match self.free.pop() {
            Some(Reverse(index)) => index,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        self.slots[index as usize] = Some(value);
        self.base + index
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(id.checked_sub(self.base)? as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut(id.checked_sub(self.base)? as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let index = id.checked_sub(self.base)?;
        let value = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(Reverse(index));
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Numbers and values in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let base = self.base;
        self.slots.iter().enumerate().filter_map(move |(i, value)| Some((base + i as u32, value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_find_the_next_owner_of_its_slot() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.index, second.index);
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&"second")));
        assert_eq!(slab.remove(first), None);
        assert_eq!((slab.len(), slab.iter().count()), (1, 1));
    }

    #[test]
    fn numbers_come_lowest_first() {
        let mut idr = Idr::new(1);
        assert_eq!([idr.alloc('a'), idr.alloc('b'), idr.alloc('c')], [1, 2, 3]);
        assert_eq!((idr.remove(0), idr.remove(9)), (None, None));
        assert_eq!((idr.remove(3), idr.remove(1), idr.remove(1)), (Some('c'), Some('a'), None));
        assert_eq!([idr.alloc('d'), idr.alloc('e'), idr.alloc('f')], [1, 3, 4]);
        assert_eq!(
            idr.iter().map(|(id, c)| (id, *c)).collect::<Vec<_>>(),
            [(1, 'd'), (2, 'b'), (3, 'e'), (4, 'f')]
        );
        assert_eq!(idr.len(), 4);
    }
}
