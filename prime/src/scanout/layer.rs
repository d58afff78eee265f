//! What wants a plane. It owns the description alone; who has the content fills it.

use drm_fourcc::{DrmFourcc, DrmModifier};

use super::geometry::{Rect, SourceRect};
use super::refusal::Refusal;

/// A buffer that could be scanned out: its framebuffer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scannable {
    /// Format of the framebuffer (an opaque substitute where the layer is opaque).
    pub format: DrmFourcc,
    /// Its modifier, never INVALID.
    pub modifier: DrmModifier,
    /// The first row in memory is the bottom row of the picture.
    pub y_invert: bool,
}

/// Content that wants a plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Where it is shown.
    pub dst: Rect,
    /// What part of the buffer is shown.
    pub src: SourceRect,
    /// No pixel of it lets anything below shine through.
    pub opaque: bool,
    /// The buffer, or the reason why it can only be composited.
    pub content: Result<Scannable, Refusal>,
}
