//! Where pictures go: real planes ([`kms`]) or planes in memory ([`headless`]).
//!
//! The contract every backend meets:
//!
//! - An output is a stack of planes ([`Backend::planes`]), one of them primary. A [`FrameSpec`] says what every plane
//!   shows; a plane it does not name is off.
//! - [`Backend::submit`] shows a frame at the next vertical blank and then calls
//!   [`State::frame_shown`](crate::state::State::frame_shown) exactly once, later, never from inside `submit`. Until
//!   then the output takes no other frame.
//! - A framebuffer held in a frame keeps its memory and its framebuffer; the caller holds every frame until
//!   another one has replaced it on screen.
//! - [`Backend::buffers`] import and make framebuffers at any time, also while the session is inactive.

pub mod buffers;
mod canvas;
pub mod headless;
pub mod kms;
mod swapchain;

use std::num::NonZeroU32;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::SharedFramebuffer;
use drm_prime::scanout::{
    self, BlendMode, ColorEncoding, ColorRange, PlaneCaps, PlaneSetting, PlaneType, Rect, Refusal, Rotation,
    SourceRect,
};
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};
use smithay::backend::renderer::utils::CommitCounter;

use self::buffers::Buffers;
use crate::render::Target;

/// Pixels of the buffer with which sharing is tried.
const SHARE_EXAMPLE: (u32, u32) = (64, 64);

/// Edges of composited pictures that are smaller than the output lie on a grid of so many pixels: 64 bytes, so that rows begin
/// on cache lines. How often a picture gets another size does not depend on it: see [`drm_prime::scanout::SHRINK_AFTER`].
const GRID: Option<NonZeroU32> = NonZeroU32::new(16);

/// Names an output for its whole life: the CRTC's object id with the number of its device above it ([`kms::crtc_of`]), or a
/// number of the backend's own.
pub type OutputId = u32;

/// What one plane shows.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaneUpdate {
    /// The plane.
    pub plane: NonZeroU32,
    /// The buffer it scans out.
    pub buffer: SharedFramebuffer,
    /// The part of the buffer, 16.16 fixed point.
    pub src: SourceRect,
    /// Where on the CRTC, in pixels.
    pub dst: Rect,
    /// How the plane turns it.
    pub rotation: Rotation,
    /// The plane's zpos, where the driver lets it be set.
    pub zpos: Option<i64>,
    /// How much of it is seen, 0xffff for all.
    pub alpha: u16,
    /// The plane's blend mode, where it has that property.
    pub blend: Option<BlendMode>,
    /// Matrix and range of a YUV buffer.
    pub color: (ColorEncoding, ColorRange),
    /// The point of a pointer's image that is where the pointer is, for hosts that draw it themselves.
    pub hotspot: Option<(i32, i32)>,
    /// The content's commit: two updates that differ only in this show new content of the same buffer.
    pub commit: Option<CommitCounter>,
    /// What of the buffer is not as it was on the plane before.
    pub damage: Damage,
}

/// Parts of a buffer, in its pixels, that have changed; `None` for all of it.
#[derive(Clone, Debug, Default)]
pub struct Damage(pub Option<Vec<Rect>>);

/// What is shown is the same, whatever of it is new.
impl PartialEq for Damage {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl PlaneUpdate {
    /// A buffer as it lies in memory.
    pub fn new(plane: NonZeroU32, buffer: SharedFramebuffer, src: SourceRect, dst: Rect) -> Self {
        Self {
            plane,
            buffer,
            src,
            dst,
            rotation: Rotation::NORMAL,
            zpos: None,
            alpha: u16::MAX,
            blend: None,
            color: Default::default(),
            hotspot: None,
            commit: None,
            damage: Damage::default(),
        }
    }

    /// The same, set as a plan says.
    #[must_use]
    pub fn set(self, setting: Option<&PlaneSetting>) -> Self {
        let Some(PlaneSetting { rotation, zpos, alpha, blend, .. }) = setting.copied() else { return self };
        Self { rotation, zpos, alpha, blend, ..self }
    }
}

/// What every plane of an output shows; the primary plane is always among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameSpec {
    /// One entry per plane that is on.
    pub planes: Vec<PlaneUpdate>,
    /// What other planes hold beside the picture, where nobody sees it; see [`Backend::maps_in_commit`].
    pub parked: Vec<PlaneUpdate>,
    /// One full-screen window is all that is seen, but for the pointer.
    pub alone: bool,
    /// Its client would rather have it shown at once than whole.
    pub tearing: bool,
    /// What is seen where no plane is: red, green and blue of 16 bits, as the planes' pixels are. Black where
    /// [`Backend::shows_backdrop`] says that nothing else can be.
    pub backdrop: [u16; 3],
}

impl FrameSpec {
    /// What every plane has that has anything, seen or not.
    pub fn updates(&self) -> impl Iterator<Item = &PlaneUpdate> {
        self.planes.iter().chain(&self.parked)
    }

    /// Lets go of all buffers, but not of the memory of the lists.
    pub fn clear(&mut self) {
        self.planes.clear();
        self.parked.clear();
    }
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
    /// The vertical blank's number; none if no event told of it, and the time is that of noticing.
    pub sequence: Option<u32>,
}

/// Which of an output's pictures is composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canvas {
    /// XRGB8888, of so many pixels, for the primary plane.
    Primary(u32, u32),
    /// The same in ARGB8888, where planes below the primary shine through holes.
    Holes(u32, u32),
    /// ARGB8888, of so many pixels, for the pointer.
    Cursor(u32, u32),
}

/// The backend in use.
#[derive(Debug)]
pub enum Backend {
    /// Real planes.
    Kms(Box<kms::Kms>),
    /// Planes in memory.
    Headless(Box<headless::Headless>),
}

impl Backend {
    /// The KMS backend, where it is in use.
    pub fn kms(&mut self) -> Option<&mut kms::Kms> {
        match self {
            Self::Kms(kms) => Some(kms),
            Self::Headless(_) => None,
        }
    }

    /// The name of the driver that shows the outputs.
    pub fn driver(&self) -> &str {
        match self {
            Self::Kms(kms) => kms.driver(),
            Self::Headless(_) => headless::DRIVER,
        }
    }

    /// Another session is shown in place of this one.
    pub fn is_paused(&self) -> bool {
        matches!(self, Self::Kms(kms) if !kms.is_active())
    }

    /// What composition draws into, as the planner needs it.
    pub fn canvas(&self) -> scanout::Canvas {
        let whole = scanout::Canvas::default();
        match self {
            Self::Kms(_) => scanout::Canvas { alpha: Some(DrmFourcc::Argb8888), grid: GRID, ..whole },
            Self::Headless(_) => whole,
        }
    }

    /// Planes that `output` can use, in no particular order; empty for an unknown output.
    pub fn planes(&self, output: OutputId) -> &[PlaneCaps] {
        match self {
            Self::Kms(kms) => kms.planes(output),
            Self::Headless(headless) => headless.planes(output),
        }
    }

    /// The outputs with their sizes in pixels.
    pub fn outputs(&self) -> Vec<(OutputId, (u32, u32))> {
        match self {
            Self::Kms(kms) => kms.output_ids().filter_map(|id| Some((id, kms.describe(id)?.size))).collect(),
            Self::Headless(headless) => vec![(headless::OUTPUT, headless.size())],
        }
    }

    /// Has a plane of an output not take a format with a modifier that it lists: it was tried and refused.
    pub fn forbid(&mut self, output: OutputId, plane: NonZeroU32, pair: (DrmFourcc, DrmModifier)) {
        match self {
            Self::Kms(kms) => kms.forbid(output, plane, pair),
            Self::Headless(headless) => headless.forbid(plane, pair),
        }
    }

    /// The planes of all outputs that can show a client's picture: the cursor planes cannot.
    pub fn every_plane(&self) -> impl Iterator<Item = &PlaneCaps> {
        let (kms, headless) = match self {
            Self::Kms(kms) => (Some(kms.every_plane()), None),
            Self::Headless(headless) => (None, Some(headless.planes(headless::OUTPUT))),
        };
        let all = kms.into_iter().flatten().chain(headless.into_iter().flatten());
        all.filter(|plane| plane.kind != PlaneType::Cursor)
    }

    /// The framebuffer of a client's buffer on the device of an output, made at first use there; see [`Buffers::framebuffer`].
    ///
    /// # Errors
    /// Why there is none.
    pub fn framebuffer(
        &mut self,
        output: OutputId,
        dmabuf: &Dmabuf,
        opaque: bool,
    ) -> Result<SharedFramebuffer, Refusal> {
        let buffers = match self {
            Self::Kms(kms) => kms.buffers_of_mut(output).ok_or(Refusal::Disabled)?,
            Self::Headless(headless) => &mut headless.buffers,
        };
        buffers.framebuffer(dmabuf, opaque)
    }

    /// Forgets a client's buffer that is gone, on all devices.
    pub fn forget_buffer(&mut self, dmabuf: &WeakDmabuf) {
        match self {
            Self::Kms(kms) => kms.all_buffers().for_each(|buffers| buffers.forget(dmabuf)),
            Self::Headless(headless) => headless.buffers.forget(dmabuf),
        }
    }

    /// Live GEM handles, and framebuffers of clients' buffers, of all devices.
    pub fn resources(&self) -> (usize, usize) {
        match self {
            Self::Kms(kms) => kms.resources(),
            Self::Headless(headless) => headless.buffers.resources(),
        }
    }

    /// The number of the device that shows an output; none of one in memory.
    pub fn device_of(&self, output: OutputId) -> Option<u64> {
        match self {
            Self::Kms(kms) => kms.device_of(output),
            Self::Headless(_) => None,
        }
    }

    /// The buffers of the device that shows an output.
    pub fn buffers_of(&self, output: OutputId) -> Option<&Buffers> {
        match self {
            Self::Kms(kms) => kms.buffers_of(output),
            Self::Headless(headless) => Some(&headless.buffers),
        }
    }

    /// The buffers of its first device, which take a client's buffer in when the client creates it.
    pub fn buffers(&self) -> &Buffers {
        match self {
            Self::Kms(kms) => kms.buffers(),
            Self::Headless(headless) => &headless.buffers,
        }
    }

    /// See [`Backend::buffers`].
    pub fn buffers_mut(&mut self) -> &mut Buffers {
        match self {
            Self::Kms(kms) => kms.buffers_mut(),
            Self::Headless(headless) => &mut headless.buffers,
        }
    }

    /// Shares what is drawn into with a GPU, as far as there is memory to share, if `works` says so of one example.
    pub fn share_targets(&mut self, works: impl FnOnce(&mut Target) -> bool) {
        if let Self::Kms(kms) = self {
            let buffers = kms.buffers_mut();
            buffers.share_targets(true);
            let example = canvas::DumbCanvas::new(buffers, SHARE_EXAMPLE, DrmFourcc::Xrgb8888);
            let shared = example.is_ok_and(|mut canvas| works(&mut canvas.target));
            buffers.share_targets(shared);
        }
    }

    /// The last frame was not made for a vertical blank at a known time: it tore, or the refresh rate is free.
    pub fn shows_at_once(&self, output: OutputId) -> bool {
        self.varies(output) || self.tore(output)
    }

    /// Tells whether an output's refresh rate is free now.
    pub fn varies(&self, output: OutputId) -> bool {
        match self {
            Self::Kms(kms) => kms.vrr(output) == Some(true),
            Self::Headless(_) => false,
        }
    }

    /// Tells whether an output shows any colour where no plane is; others show black.
    pub fn shows_backdrop(&self, output: OutputId) -> bool {
        match self {
            Self::Kms(kms) => kms.shows_backdrop(output),
            Self::Headless(_) => false,
        }
    }

    /// Tells whether the last frame of an output was shown at once rather than at the vertical blank.
    pub fn tore(&self, output: OutputId) -> bool {
        match self {
            Self::Kms(kms) => matches!(kms.tearing(output), Some(Ok(()))),
            Self::Headless(_) => false,
        }
    }

    /// Tells whether a plane of an output gains from being told what of its buffer has changed.
    pub fn takes_damage(&self, output: OutputId, plane: NonZeroU32) -> bool {
        match self {
            Self::Kms(kms) => kms.takes_damage(output, plane),
            Self::Headless(_) => false,
        }
    }

    /// Tells whether a buffer that some plane of an output has is shown for less than another, seen or not.
    pub fn maps_in_commit(&self, output: OutputId) -> bool {
        match self {
            Self::Kms(kms) => kms.maps_in_commit(output),
            Self::Headless(_) => false,
        }
    }

    /// Tells whether the next frame of an output sets its mode.
    pub fn sets_mode(&self, output: OutputId) -> bool {
        match self {
            Self::Kms(kms) => kms.sets_mode(output),
            Self::Headless(_) => false,
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

    /// Some buffer like those that one of the output's pictures is composed into, whatever it holds: what a test commit shows
    /// on the primary plane while nothing is composited yet.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn any_target(
        &mut self,
        output: OutputId,
        canvas: Canvas,
    ) -> Result<SharedFramebuffer, rustix::io::Errno> {
        match self {
            Self::Kms(kms) => kms.any_target(output, canvas),
            Self::Headless(headless) => headless.any_target(output, canvas),
        }
    }

    /// Lets `draw` draw into a free buffer of one of the output's composition swapchains, given its age as in
    /// EGL_EXT_buffer_age. Buffers of another size than asked for the last time are let go. `draw` returns whether it changed anything; if not, the buffer shown last is returned.
    ///
    /// # Errors
    /// [`SubmitError::Busy`] when every buffer is still on screen; the errno when memory cannot be had.
    pub fn compose(
        &mut self,
        output: OutputId,
        canvas: Canvas,
        draw: &mut dyn FnMut(&mut Target, usize) -> bool,
    ) -> Result<SharedFramebuffer, SubmitError> {
        match self {
            Self::Kms(kms) => kms.compose(output, canvas, draw),
            Self::Headless(headless) => headless.compose(output, canvas, draw),
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
}
