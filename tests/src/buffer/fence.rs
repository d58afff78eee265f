//! Fences that a test signals when it wants to, or never: the kernel's sw_sync.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};

use super::sys;

/// A counter whose fences signal when it has come to their number. All of them signal when it is dropped.
#[derive(Debug)]
pub struct Timeline {
    file: File,
    value: u32,
}

impl Timeline {
    /// A counter at 0.
    ///
    /// # Errors
    ///
    /// When the kernel has no sw_sync, or this is not root.
    pub fn new() -> Result<Timeline> {
        let path = "/sys/kernel/debug/sync/sw_sync";
        let file = File::options().read(true).write(true).open(path);
        Ok(Timeline { file: file.with_context(|| format!("cannot open {path}"))?, value: 0 })
    }

    /// A fence `steps` from now.
    ///
    /// # Errors
    ///
    /// The ioctl's.
    pub fn fence(&self, steps: u32) -> Result<OwnedFd> {
        sys::timeline_fence(self.file.as_fd(), self.value + steps).context("SW_SYNC_IOC_CREATE_FENCE")
    }

    /// Attaches a fence `steps` from now to a dma-buf, as if something were to write to it until then.
    ///
    /// # Errors
    ///
    /// The ioctls'.
    pub fn block(&self, dmabuf: BorrowedFd<'_>, steps: u32) -> Result<()> {
        let fence = self.fence(steps)?;
        sys::attach_write_fence(dmabuf, fence.as_fd()).context("DMA_BUF_IOCTL_IMPORT_SYNC_FILE")
    }

    /// Goes on by one.
    ///
    /// # Errors
    ///
    /// The ioctl's.
    pub fn advance(&mut self) -> Result<()> {
        self.value += 1;
        sys::timeline_advance(self.file.as_fd(), 1).context("SW_SYNC_IOC_INC")
    }
}
