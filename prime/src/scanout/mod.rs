//! The planner: which display plane shows which layer, and why not the others.
//!
//! It owns the decision alone. It creates no framebuffer, issues no ioctl and knows no client: what planes can do
//! ([`PlaneCaps`]) and what is to be shown ([`Scene`]) come in, a [`Plan`] goes out together with one typed [`Refusal`] for
//! every pair of layer and plane that is not used. The only question it asks the outside is `test` of [`Planner::plan`],
//! which a KMS backend answers with a TEST_ONLY commit.
//!
//! Coordinates are pixels of the CRTC, origin top left, y downwards. Layers are listed from the topmost down.
//!
//! ```text
//!  top    pointer  ──> cursor plane, else an overlay, else composited
//!         layer 0  ──> overlay                             (if nothing composited covers it)
//!         layer 1  ──> overlay below
//!         layer 2  ──> composited into the primary         (wl_shm, refused format, no plane left …)
//!         layer 3  ──> underlay, if opaque: a plane below the primary, whose picture has a hole there
//!         layer 4  ──> composited
//!  bottom layer 5  ──> the primary itself, if opaque, as large as the output and nothing is composited
//! ```
//!
//! # The composited picture
//!
//! It covers the output. Where the CRTC shows the backdrop by itself, the primary plane may cover less than the output and
//! [`Canvas::grid`] is set, it covers no more than what is drawn ([`Plan::part`]): the windows that are composited, the holes
//! over underlays, and the whole output while the pointer is composited. It grows at once and becomes smaller when it has been
//! too large for [`SHRINK_AFTER`]. If the driver refuses that in a test, the picture covers the output.
//!
//! # Bounds
//!
//! A plan considers [`MAX_CANDIDATES`] layers, those that change most often and, of those, the largest first; it asks the
//! driver [`MAX_ASKS`] times at most, and not at all about a configuration whose answer it remembers ([`MAX_VERDICTS`]).
//! With a scene that did not change it asks nothing, allocates nothing and returns the kept plan.
//!
//! # Stacking
//!
//! Whatever overlaps is blended in the order of the layers, or composited: by [`Zpos`] values, which the plan sets where the
//! driver lets them be set, or else by the driver's row in [`crate::quirks::stacking`], or else not at all
//! ([`Refusal::StackingUnknown`]).

mod assign;
pub mod bisect;
mod explain;
mod fit;
mod geometry;
mod history;
mod layer;
mod open;
mod part;
mod plan;
mod plane;
mod planner;
mod refusal;
#[cfg(feature = "serde")]
mod serial;
mod share;
mod stack;
#[cfg(test)]
mod tests;
mod verdicts;

use std::num::NonZeroU32;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};

pub use self::geometry::{Rect, SourceRect};
pub use self::history::{FLAP_WINDOW, HOLD, PATIENCE};
pub use self::layer::{ContentType, Layer, Pointer, Scannable};
pub use self::open::open_planes;
pub use self::part::SHRINK_AFTER;
pub use self::plan::{Plan, PlaneSetting, PrimaryContent};
pub use self::plane::{
    BlendMode, BlendModes, ColorEncoding, ColorRange, PlaneCaps, PlaneType, Rotation, Rotations, Scaling,
    YuvCaps, Zpos,
};
pub use self::planner::{MAX_ASKS, MAX_CANDIDATES, Planner};
pub use self::refusal::{FramebufferRefusal, Refusal};
pub use self::share::{Claim, share};
pub use self::verdicts::MAX_VERDICTS;

/// The buffers that composition draws into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Canvas {
    /// Format without alpha.
    #[cfg_attr(feature = "serde", serde(with = "serial::format"))]
    pub opaque: DrmFourcc,
    /// Format with alpha, if the picture can have holes; needed for underlays.
    #[cfg_attr(feature = "serde", serde(with = "serial::some_format"))]
    pub alpha: Option<DrmFourcc>,
    /// Their modifier.
    #[cfg_attr(feature = "serde", serde(with = "serial::modifier"))]
    pub modifier: DrmModifier,
    /// They may be smaller than the output: their edges lie on a grid of so many pixels, or on the edges of the output.
    /// `None` if they are always as large as the output.
    #[cfg_attr(feature = "serde", serde(default))]
    pub grid: Option<NonZeroU32>,
}

impl Default for Canvas {
    /// XRGB8888 without holes, linear, as large as the output.
    fn default() -> Self {
        Self { opaque: DrmFourcc::Xrgb8888, alpha: None, modifier: DrmModifier::Linear, grid: None }
    }
}

/// An output as it is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The planes that the CRTC uses, in any order; see [`share`].
    pub planes: &'a [PlaneCaps],
    /// What is shown, from the topmost down.
    pub layers: &'a [Layer],
    /// The pointer, if it is on this output.
    pub pointer: Option<&'a Pointer>,
    /// The CRTC's whole picture.
    pub output: Rect,
    /// What composition draws into.
    pub canvas: Canvas,
    /// Where no layer is, the picture is what the CRTC shows where no plane is: its background colour, which is black where it
    /// cannot be set. Then nothing needs to be drawn there.
    pub crtc_shows_backdrop: bool,
    /// Overlay planes may be used. Without them the plan is the one to try when a mode was refused with them.
    pub overlays: bool,
}

impl<'a> Scene<'a> {
    /// A scene without a pointer, on a drawn backdrop.
    pub fn new(planes: &'a [PlaneCaps], layers: &'a [Layer], output: Rect) -> Self {
        let (canvas, pointer) = (Canvas::default(), None);
        Self { planes, layers, pointer, output, canvas, crtc_shows_backdrop: false, overlays: true }
    }
}

/// Decides about a scene once, with nothing remembered; see [`Planner::plan`].
pub fn plan(scene: &Scene<'_>, test: impl FnMut(&Plan) -> Result<(), rustix::io::Errno>) -> Plan {
    let mut planner = Planner::new();
    planner.plan(scene, Duration::ZERO, test);
    let none = || Plan::composite_all(scene.layers, scene.output);
    planner.last().cloned().unwrap_or_else(none)
}
