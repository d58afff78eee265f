//! When a frame is shown within a refresh: variable refresh rates (VRR_ENABLED) and flips that do not wait for the vertical
//! blank (`DRM_MODE_PAGE_FLIP_ASYNC`).
//!
//! It owns the policy of the first and what is known of the second. What is alone on an output, and what its client asks for,
//! [`crate::output`] says; clients ask by wp_tearing_control_v1.
//!
//! A flip without waiting changes the framebuffer of the primary plane and nothing else (drm_atomic_uapi.c, since Linux
//! 6.8); the driver may still refuse, mostly over the modifier. It is then made in the usual way, and not tried again
//! until the buffers are of another kind.

use std::num::NonZeroU32;

use clap::ValueEnum;
use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::io::Errno;

use crate::backend::{FrameSpec, PlaneUpdate};

/// When displays that can are refreshed when there is something new, rather than at a fixed rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Vrr {
    /// Never.
    Never,
    /// While a full-screen window is alone on the output.
    #[default]
    Auto,
    /// Always.
    Always,
}

impl Vrr {
    /// What it means for a frame.
    pub(super) fn wants(self, frame: &FrameSpec) -> bool {
        match self {
            Self::Never => false,
            Self::Auto => frame.alone,
            Self::Always => true,
        }
    }
}

/// Why a flip that was asked to tear did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TearingRefusal {
    /// DRM_CAP_ATOMIC_ASYNC_PAGE_FLIP is missing.
    #[error("the driver flips at vertical blanks only")]
    NoCapability,
    /// The commit sets the mode, or whether the refresh rate varies.
    #[error("the commit sets the mode or the refresh rate")]
    Crtc,
    /// More than the framebuffer of the primary plane changes.
    #[error("more than the primary plane's framebuffer changes")]
    MoreThanAFlip,
    /// The driver refused.
    #[error("the driver refused {format} with modifier {modifier:#x}: {errno}")]
    Driver {
        /// With this.
        errno: Errno,
        /// Of the framebuffer.
        format: DrmFourcc,
        /// Of the framebuffer.
        modifier: u64,
    },
}

/// What is known of an output's flips without waiting.
#[derive(Debug, Default)]
pub(super) struct Tearing {
    /// The device can.
    supported: bool,
    /// What it refused.
    refused: Option<(DrmFourcc, DrmModifier, Errno)>,
    /// How the last frame that asked for it was shown.
    pub last: Option<Result<(), TearingRefusal>>,
}

impl Tearing {
    pub fn new(supported: bool) -> Self {
        Self { supported, ..Self::default() }
    }

    /// Whether to try it for a frame that asks for it.
    pub fn allows(
        &self,
        primary: Option<NonZeroU32>,
        frame: &FrameSpec,
        before: &FrameSpec,
        crtc: bool,
    ) -> Result<(), TearingRefusal> {
        if !self.supported {
            return Err(TearingRefusal::NoCapability);
        }
        if crtc {
            return Err(TearingRefusal::Crtc);
        }
        let flip =
            primary.and_then(|plane| flip_of(plane, frame, before)).ok_or(TearingRefusal::MoreThanAFlip)?;
        let (format, modifier) = (flip.buffer.format(), flip.buffer.modifier());
        match self.refused {
            Some((f, m, errno)) if (f, m) == (format, modifier) => {
                Err(TearingRefusal::Driver { errno, format, modifier: modifier.into() })
            }
            _ => Ok(()),
        }
    }

    /// Notes that the driver refused it.
    pub fn refuse(&mut self, primary: Option<NonZeroU32>, frame: &FrameSpec, errno: Errno) {
        let Some(update) = frame.planes.iter().find(|update| Some(update.plane) == primary) else { return };
        let (format, modifier) = (update.buffer.format(), update.buffer.modifier());
        self.refused = Some((format, modifier, errno));
        let refusal = TearingRefusal::Driver { errno, format, modifier: modifier.into() };
        tracing::debug!(err = %refusal, "flip made at the vertical blank");
        self.last = Some(Err(refusal));
    }
}

/// The update of the primary plane, if a frame differs from the last one by nothing but its buffer.
fn flip_of<'a>(primary: NonZeroU32, frame: &'a FrameSpec, before: &FrameSpec) -> Option<&'a PlaneUpdate> {
    let same = |update: &PlaneUpdate| {
        let old = before.planes.iter().find(|old| old.plane == update.plane);
        old.is_some_and(|old| {
            update == old
                || (update.plane == primary && {
                    let kind = |u: &PlaneUpdate| (u.buffer.format(), u.buffer.modifier());
                    kind(update) == kind(old)
                        && *update == PlaneUpdate { plane: primary, ..changed(update, old) }
                })
        })
    };
    let flip = frame.planes.iter().find(|update| update.plane == primary)?;
    let all = frame.planes.len() == before.planes.len()
        && frame.planes.iter().all(same)
        && frame.parked == before.parked;
    (all && frame != before).then_some(flip)
}

/// The old update with the new buffer.
fn changed(new: &PlaneUpdate, old: &PlaneUpdate) -> PlaneUpdate {
    PlaneUpdate { buffer: new.buffer.clone(), commit: new.commit, damage: new.damage.clone(), ..old.clone() }
}
