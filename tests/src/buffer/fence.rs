//! Fences that a test signals when it wants to: the kernel's sw_sync, and vgem's where that is missing.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};

use super::sys;
use crate::drm_node::DrmNode;

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

/// A write fence of vgem on a buffer of it. It signals when the test wants, when it is dropped, or after ten seconds.
#[derive(Debug)]
pub struct VgemFence {
    vgem: DrmNode,
    fence: u32,
}

impl VgemFence {
    /// Attaches one, as if something were to write to the buffer until it signals.
    ///
    /// # Errors
    ///
    /// When it is no buffer of vgem, or has such a fence already.
    pub fn block(dmabuf: BorrowedFd<'_>) -> Result<VgemFence> {
        use drm::control::Device as _;
        let vgem = DrmNode::of_driver("vgem")?;
        let handle = vgem.prime_fd_to_buffer(dmabuf).context("PRIME_FD_TO_HANDLE")?;
        let fence = sys::vgem_attach(vgem.as_fd(), handle.into()).context("VGEM_FENCE_ATTACH");
        vgem.close_buffer(handle).context("GEM_CLOSE")?;
        Ok(VgemFence { vgem, fence: fence? })
    }

    /// Signals it.
    ///
    /// # Errors
    ///
    /// The ioctl's; `ETIMEDOUT` if it was too late.
    pub fn signal(self) -> Result<()> {
        sys::vgem_signal(self.vgem.as_fd(), self.fence).context("VGEM_FENCE_SIGNAL")
    }
}

/// Makes a point of a timeline, given by the descriptor of its syncobj, signal when a sync file does.
///
/// # Errors
///
/// The ioctls'.
pub fn promise(drm: BorrowedFd<'_>, syncobj: BorrowedFd<'_>, point: u64, file: BorrowedFd<'_>) -> Result<()> {
    let binary = drm_ffi::syncobj::create(drm, false).context("SYNCOBJ_CREATE")?.handle;
    let timeline =
        drm_ffi::syncobj::fd_to_handle(drm, syncobj, false).context("SYNCOBJ_FD_TO_HANDLE")?.handle;
    sys::syncobj_import_sync_file(drm, binary, file).context("SYNCOBJ_FD_TO_HANDLE with a sync file")?;
    drm_ffi::syncobj::transfer(drm, binary, timeline, 0, point).context("SYNCOBJ_TRANSFER")?;
    for handle in [binary, timeline] {
        drm_ffi::syncobj::destroy(drm, handle).context("SYNCOBJ_DESTROY")?;
    }
    Ok(())
}
