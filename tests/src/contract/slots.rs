//! [`Slots`]: the values behind a side's slots of one kind. The lowest free number is given out first, on every side alike.

use std::fmt;
use std::marker::PhantomData;

/// A slot of one kind, by number.
pub(super) trait Slot: Copy + fmt::Debug {
    fn of(number: u16) -> Self;
    fn number(self) -> u16;
}

/// Values by slot.
#[derive(Debug)]
pub(super) struct Slots<S, T> {
    values: Vec<Option<T>>,
    kind: PhantomData<S>,
}

impl<S, T> Default for Slots<S, T> {
    fn default() -> Self {
        Slots { values: Vec::new(), kind: PhantomData }
    }
}

impl<S: Slot, T> Slots<S, T> {
    pub(super) fn insert(&mut self, value: T) -> S {
        let free = self.values.iter().position(Option::is_none).unwrap_or(self.values.len());
        if free == self.values.len() {
            self.values.push(None);
        }
        self.values[free] = Some(value);
        S::of(free as u16)
    }

    pub(super) fn get(&self, slot: S) -> &T {
        match self.values.get(usize::from(slot.number())) {
            Some(Some(value)) => value,
            _ => panic!("{slot:?} is closed"),
        }
    }

    pub(super) fn get_mut(&mut self, slot: S) -> &mut T {
        match self.values.get_mut(usize::from(slot.number())) {
            Some(Some(value)) => value,
            _ => panic!("{slot:?} is closed"),
        }
    }

    pub(super) fn take(&mut self, slot: S) -> T {
        match self.values.get_mut(usize::from(slot.number())).and_then(Option::take) {
            Some(value) => value,
            None => panic!("{slot:?} is closed"),
        }
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
    }
}

/// The calls of a side that let go of slots, where `files`, `fds`, `maps` and `syncs` hold them.
macro_rules! closing {
    () => {
        fn close_everything(&mut self) {
            self.limit_fds(None);
            self.maps.clear();
            self.fds.clear();
            self.syncs.clear();
            self.files.clear();
        }

        fn close_file(&mut self, file: File) {
            self.files.take(file);
        }

        fn close_fd(&mut self, fd: Fd) {
            self.fds.take(fd);
        }

        fn unmap(&mut self, map: Map) {
            self.maps.take(map);
        }

        fn close_sync(&mut self, sync: SyncFile) {
            self.syncs.take(sync);
        }
    };
}
pub(super) use closing;
