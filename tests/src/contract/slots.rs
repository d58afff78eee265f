//! [`Slots`]: the values behind a side's slot numbers. The lowest free number is given out first, on every side alike.

/// Values by number.
#[derive(Debug)]
pub(super) struct Slots<T> {
    kind: &'static str,
    values: Vec<Option<T>>,
}

impl<T> Slots<T> {
    pub(super) fn new(kind: &'static str) -> Slots<T> {
        Slots { kind, values: Vec::new() }
    }

    pub(super) fn insert(&mut self, value: T) -> u16 {
        let free = self.values.iter().position(Option::is_none).unwrap_or(self.values.len());
        if free == self.values.len() {
            self.values.push(None);
        }
        self.values[free] = Some(value);
        free as u16
    }

    pub(super) fn get(&self, slot: u16) -> &T {
        match self.values.get(usize::from(slot)) {
            Some(Some(value)) => value,
            _ => panic!("{} {slot} is closed", self.kind),
        }
    }

    pub(super) fn get_mut(&mut self, slot: u16) -> &mut T {
        match self.values.get_mut(usize::from(slot)) {
            Some(Some(value)) => value,
            _ => panic!("{} {slot} is closed", self.kind),
        }
    }

    pub(super) fn take(&mut self, slot: u16) -> T {
        match self.values.get_mut(usize::from(slot)).and_then(Option::take) {
            Some(value) => value,
            None => panic!("{} {slot} is closed", self.kind),
        }
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
    }
}
