//! A fence of our own that has signalled: what every plane is told to wait for.
//!
//! A commit without IN_FENCE_FD waits in the kernel for the write fences that its buffers have *then*, and a client may attach
//! one that never signals after its commit was latched; all flips of the CRTC would wait behind it. With IN_FENCE_FD the
//! kernel takes only fences of its own (moves of memory) from the buffer (drm_gem_atomic_helper.c,
//! drm_gem_plane_helper_prepare_fb). What clients' pictures wait for was waited for before they were latched
//! ([`crate::fences`]).
//!
//! OUT_FENCE_PTR, the fence of a commit's end, is asked for once at most, to get that fence where the kernel gives none of an
//! idle buffer. Nothing else needs it: when a commit is on the screen the flip event says, with the time, for the system call
//! that reads it anyway; release points of clients are signalled then, by us. A fence a frame would be two system calls and a
//! descriptor more. What a capture waits for is its own, WRITEBACK_OUT_FENCE_PTR ([`super::writeback`]).
//!
//! It owns one sync file for the device's life, so that no frame costs a system call more. Drivers that read the picture
//! with the CPU while they commit (udl, gud: drm_gem_fb_begin_cpu_access) wait for such fences all the same.
#![allow(unsafe_code)]

use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use drm_fourcc::DrmFourcc;
use drm_prime::sys::CpuAccess;

use crate::backend::buffers::Buffers;
use crate::fences::{pending_planes, sync_file};

/// Variable with which tests turn it off, to see the stall that it prevents.
const OFF: &str = "PRIMEWAY_TEST_NO_IN_FENCE";

/// What planes are told to wait for.
#[derive(Debug)]
pub enum InFence {
    /// The sync file.
    Signalled(OwnedFd),
    /// None yet. The end of a commit is a fence as well, so the next commit asks for it.
    Wanted,
    /// It came with a commit that is not on the screen yet.
    Coming(OwnedFd),
    /// There is none.
    Off,
}

impl InFence {
    /// Takes one from an idle buffer of our own: that has no fences, and stands for a signalled one. Where the kernel makes
    /// no sync files of buffers (before Linux 6.0), the first commit brings it.
    pub fn new(buffers: &Buffers) -> Self {
        if std::env::var_os(OFF).is_some() {
            tracing::warn!("fences of clients are waited for by the display: {OFF} is set");
            return Self::Off;
        }
        let idle = || -> Option<OwnedFd> {
            let (memory, _framebuffer) = buffers.allocate(64, 64, DrmFourcc::Xrgb8888).ok()?;
            let memory = memory.export().ok()?;
            sync_file(memory.as_fd(), CpuAccess::ReadWrite).ok()
        };
        match idle().filter(|fence| pending_planes([fence.as_fd()]) == 0) {
            Some(fence) => Self::Signalled(fence),
            None => Self::Wanted,
        }
    }

    /// That of a display that waits for nothing: something that has a number.
    pub fn of_model() -> Self {
        let fence = rustix::event::eventfd(1, rustix::event::EventfdFlags::CLOEXEC);
        fence.map_or(Self::Off, Self::Signalled)
    }

    /// The value for IN_FENCE_FD, once there is one. The kernel takes a reference of its own during the commit.
    pub fn value(&mut self) -> Option<u64> {
        *self = match std::mem::replace(self, Self::Off) {
            Self::Coming(fence) if pending_planes([fence.as_fd()]) == 0 => Self::Signalled(fence),
            other => other,
        };
        match self {
            Self::Signalled(fence) => Some(u64::from(fence.as_raw_fd().unsigned_abs())),
            _ => None,
        }
    }

    /// Whether the next commit is to bring one.
    pub fn is_wanted(&self) -> bool {
        matches!(self, Self::Wanted)
    }

    /// Takes what a commit brought; of a device that brought none, none is wanted again.
    pub fn came(&mut self, fence: OutFence) {
        *self = fence.take().map_or(Self::Off, |fence| {
            tracing::info!("planes wait for the fence of the first commit");
            Self::Coming(fence)
        });
    }
}

/// Where the kernel puts the fence of a commit (OUT_FENCE_PTR) or of its writeback (WRITEBACK_OUT_FENCE_PTR).
#[derive(Debug)]
pub struct OutFence(Box<RawFd>);

impl OutFence {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(Box::new(-1))
    }

    /// The value of the property, valid while this lives and stays where it is.
    pub fn pointer(&mut self) -> u64 {
        (&raw mut *self.0) as u64
    }

    /// What a commit that has succeeded left there.
    pub(super) fn take(self) -> Option<OwnedFd> {
        // SAFETY: the commit, which has succeeded, stored a new file descriptor there, which nobody else owns; without one
        // it is -1 as before.
        (*self.0 >= 0).then(|| unsafe { OwnedFd::from_raw_fd(*self.0) })
    }
}
