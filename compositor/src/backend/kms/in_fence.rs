//! A fence of our own that has signalled: what every plane is told to wait for.
//!
//! A commit without IN_FENCE_FD waits in the kernel for the write fences that its buffers have *then*, and a client may attach
//! one that never signals after its commit was latched; all flips of the CRTC would wait behind it. With IN_FENCE_FD the
//! kernel takes only fences of its own (moves of memory) from the buffer (drm_gem_atomic_helper.c,
//! drm_gem_plane_helper_prepare_fb). What clients' pictures wait for was waited for before they were latched
//! ([`crate::fences`]).
//!
//! It owns one sync file for the device's life, so that no frame costs a system call more. Drivers that read the picture
//! with the CPU while they commit (udl, gud: drm_gem_fb_begin_cpu_access) wait for such fences all the same.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use drm_fourcc::DrmFourcc;
use drm_prime::sys::{CpuAccess, export_sync_file};

use crate::backend::buffers::Buffers;
use crate::fences::pending_planes;

/// Variable with which tests turn it off, to see the stall that it prevents.
const OFF: &str = "PRIMEWAY_TEST_NO_IN_FENCE";

/// The sync file.
#[derive(Debug)]
pub struct SignalledFence(OwnedFd);

impl SignalledFence {
    /// Takes one from an idle buffer of our own: that has no fences, and stands for a signalled one. `None`, told once, where
    /// that cannot be had (before Linux 6.0).
    pub fn new(buffers: &Buffers) -> Option<Self> {
        if std::env::var_os(OFF).is_some() {
            tracing::warn!("fences of clients are waited for by the display: {OFF} is set");
            return None;
        }
        let no = |err: &dyn std::fmt::Display| {
            tracing::info!(%err, "no fence for planes: one that a client attaches late can hold up the display");
        };
        let (memory, _framebuffer) =
            buffers.allocate(64, 64, DrmFourcc::Xrgb8888).map_err(|err| no(&err)).ok()?;
        let memory = memory.export().map_err(|err| no(&err)).ok()?;
        let fence = export_sync_file(memory.as_fd(), CpuAccess::ReadWrite).map_err(|err| no(&err)).ok()?;
        if pending_planes([fence.as_fd()]) != 0 {
            no(&"it has not signalled");
            return None;
        }
        Some(Self(fence))
    }

    /// The value for IN_FENCE_FD. The kernel takes a reference of its own during the commit.
    pub fn value(&self) -> u64 {
        u64::from(self.0.as_raw_fd().unsigned_abs())
    }
}
