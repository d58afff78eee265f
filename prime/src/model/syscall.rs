//! [`Syscall`]: one call into the kernel, with the locks it holds and the work it leaves for its end. It knows none of
//! the calls.

use std::{cell::RefCell, collections::VecDeque};

use rustix::io::Errno;

use super::{
    DmaBufKey, FileKey, Shared, State, dmabuf,
    event::{EventKind, WOULD_OOPS},
    fault::FaultPoint,
    file,
    lock::LockClass,
    profile::SeedTrait,
    sync::{self, MutexGuard},
};

/// What a task does on its way out of the kernel (`task_work`).
enum Work {
    /// The last reference on a dma-buf's file is gone.
    Dmabuf(DmaBufKey),
    /// The last reference on a DRM file is gone.
    File(FileKey),
}

/// A call in progress. Belongs to one thread.
pub(super) struct Syscall<'m> {
    shared: &'m Shared,
    pub(super) held: RefCell<Vec<LockClass>>,
    work: RefCell<VecDeque<Work>>,
}

impl<'m> Syscall<'m> {
    pub(super) fn new(shared: &'m Shared) -> Self {
        Self { shared, held: RefCell::default(), work: RefCell::default() }
    }

    /// The machine's state, for one step. Drop it before taking a lock.
    pub(super) fn state(&self) -> MutexGuard<'m, State> {
        sync::lock(&self.shared.state)
    }

    pub(super) fn has(&self, it: SeedTrait) -> bool {
        self.shared.profile.has(it)
    }

    pub(super) fn report(&self, row: &'static str, kind: EventKind, detail: impl Into<String>) {
        self.state().report(row, kind, detail);
    }

    /// Reports what would have been an oops; gives the errno that stands for it.
    pub(super) fn oops(&self, row: &'static str, detail: impl Into<String>) -> Errno {
        self.report(row, EventKind::WouldOops, detail);
        WOULD_OOPS
    }

    pub(super) fn fault(&self, point: FaultPoint) -> Result<(), Errno> {
        self.state().faults.hit(point)
    }

    /// Leaves a dma-buf's release for the end of the call (`fput`).
    pub(super) fn defer_dmabuf(&self, key: DmaBufKey) {
        self.work.borrow_mut().push_back(Work::Dmabuf(key));
    }

    /// Leaves a DRM file's release for the end of the call.
    pub(super) fn defer_file(&self, key: FileKey) {
        self.work.borrow_mut().push_back(Work::File(key));
    }

    /// Does the work that was left.
    pub(super) fn exit(self) {
        debug_assert!(self.held.borrow().is_empty(), "a call returned with locks held");
        loop {
            let next = self.work.borrow_mut().pop_front();
            match next {
                Some(Work::Dmabuf(key)) => dmabuf::release(&self, key),
                Some(Work::File(key)) => file::release(&self, key),
                None => break,
            }
        }
        if !self.state().lingering.is_empty() {
            dmabuf::release_lingering(&self);
        }
    }
}
