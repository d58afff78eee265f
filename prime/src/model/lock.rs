//! The modelled locks: real mutexes, taken where the kernel takes its own, with their rank. It reports an order that the
//! profile does not have (row S33), and does not enforce it.

use super::{
    event::EventKind,
    sync::{self, Mutex, MutexGuard},
    syscall::Syscall,
};

/// Which lock of the kernel a lock stands for, in the order in which they nest: a later one may be taken under an earlier
/// one, never the reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockClass {
    /// `drm_file.fbs_lock`.
    Framebuffers,
    /// `drm_file.prime.lock`.
    Prime,
    /// `drm_device.object_name_lock` (not in the seed).
    ObjectName,
    /// `drm_device.struct_mutex` (the seed only).
    Struct,
    /// `dma_resv.lock`.
    Resv,
    /// `drm_file.table_lock`: innermost.
    Table,
}

/// One lock.
#[derive(Debug)]
pub(super) struct ModelLock {
    class: LockClass,
    mutex: Mutex<()>,
}

impl ModelLock {
    pub(super) fn new(class: LockClass) -> Self {
        Self { class, mutex: Mutex::new(()) }
    }
}

/// A lock held by a call.
pub(super) struct Held<'s> {
    call: &'s Syscall<'s>,
    class: LockClass,
    _guard: MutexGuard<'s, ()>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.call.held.borrow_mut();
        if let Some(at) = held.iter().rposition(|class| *class == self.class) {
            held.remove(at);
        }
    }
}

impl<'s> Syscall<'s> {
    /// Takes a lock. Never called with the machine's state locked.
    pub(super) fn lock<'a>(&'a self, lock: &'a ModelLock) -> Held<'a>
    where
        's: 'a,
    {
        let outer = self.held.borrow().iter().copied().filter(|outer| *outer >= lock.class).max();
        if let Some(outer) = outer {
            self.report("S33", EventKind::LockOrder, format!("{:?} taken under {outer:?}", lock.class));
        }
        let guard = sync::lock(&lock.mutex);
        self.held.borrow_mut().push(lock.class);
        Held { call: self, class: lock.class, _guard: guard }
    }
}
