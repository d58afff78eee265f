//! [`SyncFile`]: a descriptor of fences that one can wait for (sync_file.c). It never changes; what it waits for was decided
//! when it was made.

use rustix::{event::PollFlags, io::Errno};

use super::{Machine, fault::FaultPoint, fence::FenceSet, syscall::Syscall};

/// A descriptor of a sync file. Closes when dropped.
#[derive(Debug)]
pub struct SyncFile {
    machine: Machine,
    fences: FenceSet,
}

/// What `SYNC_IOC_FILE_INFO` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncFileInfo {
    /// Whether all fences are signalled: status 1 rather than 0.
    pub signalled: bool,
    /// Number of fences, at least 1.
    pub fences: usize,
}

impl SyncFile {
    /// Takes over a reserved descriptor.
    pub(super) fn new(machine: Machine, fences: FenceSet) -> Self {
        Self { machine, fences }
    }

    /// Its fences.
    #[must_use]
    pub fn fences(&self) -> &FenceSet {
        &self.fences
    }

    /// `dup`.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        self.machine.state().reserve_fd()?;
        Ok(Self::new(self.machine.clone(), self.fences.clone()))
    }

    /// `poll`: `POLLIN` once all fences are signalled.
    #[must_use]
    pub fn poll(&self, events: PollFlags) -> PollFlags {
        if self.fences.is_signalled() { events & PollFlags::IN } else { PollFlags::empty() }
    }

    /// `SYNC_IOC_MERGE`: a sync file of the unsignalled fences of both. `None` stands for what is no sync file.
    ///
    /// # Errors
    /// In this order: `EMFILE`; `EINVAL` for flags or padding; `ENOENT` for what is no sync file; `ENOMEM`.
    pub fn merge<'a>(&self, other: impl Into<Option<&'a Self>>, flags: u32, pad: u32) -> Result<Self, Errno> {
        let fences = self.machine.call(|call| {
            with_fd(call, || {
                if flags != 0 || pad != 0 {
                    return Err(Errno::INVAL);
                }
                let other = other.into().ok_or(Errno::NOENT)?;
                call.fault(FaultPoint::SyncFileAlloc)?;
                Ok(self.fences.merge(&other.fences))
            })
        })?;
        Ok(Self::new(self.machine.clone(), fences))
    }

    /// `SYNC_IOC_FILE_INFO` with room for `num_fences` of them; 0 asks for their number only.
    ///
    /// # Errors
    /// `EINVAL` for flags, padding or too little room.
    pub fn info(&self, num_fences: usize, flags: u32, pad: u32) -> Result<SyncFileInfo, Errno> {
        let fences = self.fences.fences().len();
        if flags != 0 || pad != 0 || (num_fences > 0 && num_fences < fences) {
            return Err(Errno::INVAL);
        }
        Ok(SyncFileInfo { signalled: self.fences.is_signalled(), fences })
    }
}

impl Drop for SyncFile {
    fn drop(&mut self) {
        self.machine.state().descriptors -= 1;
    }
}

/// Reserves a descriptor before anything else is looked at, and gives it back if that fails.
pub(super) fn with_fd<R>(call: &Syscall<'_>, body: impl FnOnce() -> Result<R, Errno>) -> Result<R, Errno> {
    call.state().reserve_fd()?;
    body().inspect_err(|_| call.state().descriptors -= 1)
}

#[cfg(test)]
mod tests;
