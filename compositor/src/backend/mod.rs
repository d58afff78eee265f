//! Where pictures go: real planes ([`kms`]) or planes in memory ([`headless`]).
//!
//! The contract every backend meets:
//!
//! - An output is a stack of planes ([`Backend::planes`]), one of them primary. A [`FrameSpec`] says what every plane
//!   shows; a plane it does not name is off.
//! - [`Backend::submit`] shows a frame at the next vertical blank and then calls
//!   [`State::frame_shown`](crate::state::State::frame_shown) exactly once, later, never from inside `submit`. Until
//!   then the output takes no other frame.
//! - A [`ScanoutBuffer`] held in a frame keeps its memory and its framebuffer; the caller holds every frame until
//!   another one has replaced it on screen.
//! - [`Backend::import`] and [`Backend::framebuffer`] work at any time, also while the session is inactive.

pub mod buffers;
mod canvas;
pub mod headless;
pub mod kms;
mod swapchain;

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{PlaneCaps, Rect, Refusal, SourceRect};
use drm_prime::{Ledger, Owner, SharedFramebuffer};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};
use smithay::backend::renderer::utils::CommitCounter;

use crate::render::Target;

/// Pixels of the buffer with which sharing is tried.
const SHARE_EXAMPLE: (u32, u32) = (64, 64);

/// Names an output for its whole life: the CRTC's object id, or a number of the backend's own.
pub type OutputId = u32;

/// A buffer that a plane can show.
#[derive(Clone, Debug)]
pub enum ScanoutBuffer {
    /// A KMS framebuffer.
    Kms(SharedFramebuffer),
    /// Memory of the headless backend.
    Memory(Rc<headless::MemoryBuffer>),
}

impl ScanoutBuffer {
    /// What debugfs calls the framebuffer (headless: a number of the backend's own); for comparing, not for committing.
    pub fn number(&self) -> Option<u32> {
        match self {
            Self::Kms(fb) => fb.name().to_string().parse().ok(),
            Self::Memory(buffer) => Some(buffer.id().get()),
        }
    }

    /// The format as scanned out (an opaque substitute for an opaque layer).
    pub fn format(&self) -> DrmFourcc {
        match self {
            Self::Kms(fb) => fb.format(),
            Self::Memory(buffer) => buffer.format(),
        }
    }

    /// The modifier, never INVALID.
    pub fn modifier(&self) -> DrmModifier {
        match self {
            Self::Kms(fb) => fb.modifier(),
            Self::Memory(_) => DrmModifier::Linear,
        }
    }
}

impl PartialEq for ScanoutBuffer {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kms(a), Self::Kms(b)) => a == b,
            (Self::Memory(a), Self::Memory(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// What one plane shows.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaneUpdate {
    /// The plane.
    pub plane: NonZeroU32,
    /// The buffer it scans out.
    pub buffer: ScanoutBuffer,
    /// The part of the buffer, 16.16 fixed point.
    pub src: SourceRect,
    /// Where on the CRTC, in pixels.
    pub dst: Rect,
    /// Shown bottom row first.
    pub reflect_y: bool,
    /// The content's commit: two updates that differ only in this show new content of the same buffer.
    pub commit: Option<CommitCounter>,
}

/// What every plane of an output shows; the primary plane is always among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameSpec {
    /// One entry per plane that is on.
    pub planes: Vec<PlaneUpdate>,
}

/// Why a frame was not submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The session is inactive or master was lost; the frame is drawn again when it returns.
    #[error("the session is not active")]
    Inactive,
    /// A frame is still pending; try again after it.
    #[error("a frame is still pending")]
    Busy,
    /// The device refused.
    #[error("the commit failed: {0}")]
    Failed(rustix::io::Errno),
}

/// A frame is on screen.
#[derive(Clone, Copy, Debug)]
pub struct Flip {
    /// The output that shows its frame now.
    pub output: OutputId,
    /// When, on CLOCK_MONOTONIC.
    pub time: Duration,
    /// The vertical blank's number.
    pub sequence: u32,
}

/// Which of an output's two pictures is composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canvas {
    /// XRGB8888, the size of the output, for the primary plane.
    Primary,
    /// ARGB8888, [`crate::cursor::PLANE_SIZE`] square, for the cursor plane.
    Cursor,
}

/// The backend in use.
#[derive(Debug)]
pub enum Backend {
    /// Real planes.
    Kms(Box<kms::Kms>),
    /// Planes in memory.
    Headless(headless::Headless),
}

impl Backend {
    /// The KMS backend, where it is in use.
    pub fn kms(&mut self) -> Option<&mut kms::Kms> {
        match self {
            Self::Kms(kms) => Some(kms),
            Self::Headless(_) => None,
        }
    }

    /// Planes that `output` can use, in no particular order; empty for an unknown output.
    pub fn planes(&self, output: OutputId) -> &[PlaneCaps] {
        match self {
            Self::Kms(kms) => kms.planes(output),
            Self::Headless(headless) => headless.planes(output),
        }
    }

    /// Takes a client's buffer in when the client creates it. A refusal means that it cannot be scanned out; the
    /// buffer may still be composited. `owner` is who it is for, in the ledger.
    ///
    /// # Errors
    /// The driver's, or the system's.
    pub fn import(&mut self, dmabuf: &Dmabuf, owner: Owner) -> Result<(), drm_prime::ImportError> {
        match self {
            Self::Kms(kms) => kms.buffers.import(dmabuf, owner),
            Self::Headless(_) => Ok(()),
        }
    }

    /// The framebuffer of a buffer, made at first use; `opaque` asks for the format without alpha.
    ///
    /// # Errors
    /// The reason, remembered for the buffer.
    pub fn framebuffer(&mut self, dmabuf: &Dmabuf, opaque: bool) -> Result<ScanoutBuffer, Refusal> {
        let format = dmabuf.format();
        let refusal = Refusal::Format { format: format.code, modifier: format.modifier.into() };
        match (&*self, format.modifier) {
            // A layout that only the GPU's driver knows, which an AddFB without a modifier would have to guess.
            (Self::Kms(_), DrmModifier::Invalid) => return Err(refusal),
            // Planes in memory read plain rows.
            (Self::Headless(_), modifier) if modifier != DrmModifier::Linear => return Err(refusal),
            _ => {}
        }
        match self {
            Self::Kms(kms) => kms.buffers.framebuffer(dmabuf, opaque).map(ScanoutBuffer::Kms),
            Self::Headless(headless) => headless.framebuffer(dmabuf, opaque).map(ScanoutBuffer::Memory),
        }
    }

    /// Forgets a buffer that is gone.
    pub fn forget(&mut self, dmabuf: &WeakDmabuf) {
        match self {
            Self::Kms(kms) => kms.buffers.forget(dmabuf),
            Self::Headless(headless) => headless.forget(dmabuf),
        }
    }

    /// Shares what is drawn into with a GPU, as far as there is memory to share, if `works` says so of one example.
    pub fn share_targets(&mut self, works: impl FnOnce(&mut Target) -> bool) {
        if let Self::Kms(kms) = self {
            kms.buffers.share_targets(true);
            let example = canvas::DumbCanvas::new(&kms.buffers, SHARE_EXAMPLE, DrmFourcc::Xrgb8888);
            let shared = example.is_ok_and(|mut canvas| works(&mut canvas.target));
            kms.buffers.share_targets(shared);
        }
    }

    /// Asks whether the device would show `frame`.
    ///
    /// # Errors
    /// The errno of the test commit.
    pub fn test(&mut self, output: OutputId, frame: &FrameSpec) -> Result<(), rustix::io::Errno> {
        match self {
            Self::Kms(kms) => kms.test(output, frame),
            Self::Headless(headless) => headless.test(frame),
        }
    }

    /// Some buffer of the output's composition swapchain, whatever it holds: what a test commit shows on the
    /// primary plane while nothing is composited yet.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn any_target(&mut self, output: OutputId) -> Result<ScanoutBuffer, rustix::io::Errno> {
        match self {
            Self::Kms(kms) => kms.any_target(output).map(ScanoutBuffer::Kms),
            Self::Headless(headless) => headless.any_target(output).map(ScanoutBuffer::Memory),
        }
    }

    /// Lets `draw` draw into a free buffer of one of the output's composition swapchains, given its age as in
    /// EGL_EXT_buffer_age. `draw` returns whether it changed anything; if not, the buffer shown last is returned.
    ///
    /// # Errors
    /// [`SubmitError::Busy`] when every buffer is still on screen; the errno when memory cannot be had.
    pub fn compose(
        &mut self,
        output: OutputId,
        canvas: Canvas,
        draw: &mut dyn FnMut(&mut Target, usize) -> bool,
    ) -> Result<ScanoutBuffer, SubmitError> {
        match self {
            Self::Kms(kms) => kms.compose(output, canvas, draw).map(ScanoutBuffer::Kms),
            Self::Headless(headless) => headless.compose(output, canvas, draw).map(ScanoutBuffer::Memory),
        }
    }

    /// Shows a frame at the next vertical blank, even if it is no other than `before`, the one that is on screen.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn submit(
        &mut self,
        output: OutputId,
        frame: &FrameSpec,
        before: &FrameSpec,
    ) -> Result<(), SubmitError> {
        match self {
            Self::Kms(kms) => kms.submit(output, frame, before),
            Self::Headless(headless) => headless.submit(output, frame),
        }
    }

    /// The number of live GEM handles and framebuffers, as (handles, framebuffers).
    pub fn resources(&self) -> (usize, usize) {
        match self {
            Self::Kms(kms) => kms.buffers.resources(),
            Self::Headless(headless) => (0, headless.buffers()),
        }
    }

    /// Everything that is open on the device's file, with owners and ages; `None` without a device.
    pub fn ledger(&self) -> Option<Ledger> {
        match self {
            Self::Kms(kms) => Some(kms.buffers.ledger()),
            Self::Headless(_) => None,
        }
    }

    /// Tells whether a buffer without a modifier is laid out in plain rows.
    pub fn is_linear(&self, fd: std::os::fd::BorrowedFd<'_>) -> bool {
        match self {
            Self::Kms(kms) => kms.buffers.is_linear(fd),
            Self::Headless(_) => true,
        }
    }

    /// Where a buffer comes from, for people.
    pub fn origin(&self, dmabuf: &Dmabuf) -> Option<String> {
        match self {
            Self::Kms(kms) => kms.buffers.origin(dmabuf),
            Self::Headless(_) => None,
        }
    }
}
