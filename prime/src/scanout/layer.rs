//! What wants a plane. It owns the description alone; who has the content fills it.

use drm_fourcc::{DrmFourcc, DrmModifier};

use super::geometry::{Rect, SourceRect};
use super::plane::{ColorEncoding, ColorRange, Rotation};
use super::refusal::Refusal;

/// A buffer that could be scanned out: its framebuffer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Scannable {
    /// Format of the framebuffer (an opaque substitute where the layer is opaque).
    #[cfg_attr(feature = "serde", serde(with = "super::serial::format"))]
    pub format: DrmFourcc,
    /// Its modifier, never INVALID.
    #[cfg_attr(feature = "serde", serde(with = "super::serial::modifier"))]
    pub modifier: DrmModifier,
    /// Matrix and range, which matter for YUV formats.
    pub color: (ColorEncoding, ColorRange),
    /// The memory belongs to another device.
    pub foreign: bool,
}

impl Scannable {
    /// A buffer of the device's own, in the colours of [`super::YuvCaps::FIXED`].
    pub fn new(format: DrmFourcc, modifier: DrmModifier) -> Self {
        Self { format, modifier, color: Default::default(), foreign: false }
    }
}

/// What a client says its content is (wp_content_type_v1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ContentType {
    /// Nothing was said, or a photo.
    #[default]
    Still,
    /// A game: latency matters.
    Game,
    /// A video: planes convert and scale it best.
    Video,
}

/// Content that wants a plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Layer {
    /// Tells layers apart from one plan to the next: who was on a plane stays there, and who has come and gone too often
    /// waits. Nothing else rests on it.
    pub key: u64,
    /// Where it is shown.
    pub dst: Rect,
    /// What part of the buffer is shown.
    pub src: SourceRect,
    /// How the plane has to turn the buffer for the picture to be upright.
    pub rotation: Rotation,
    /// How much of it is seen: 0xffff for all, as the property `alpha` counts.
    pub alpha: u16,
    /// No pixel of the buffer's part lets anything below shine through.
    pub opaque: bool,
    /// A rectangle of the CRTC in which that is so, empty if there is none; all of `dst` where `opaque`.
    pub opaque_region: Rect,
    /// What it is.
    pub content_type: ContentType,
    /// How often it changes, on a scale of the caller's own; more is more often.
    pub rate: u8,
    /// The buffer, or the reason why it can only be composited.
    #[cfg_attr(feature = "serde", serde(with = "super::serial::content"))]
    pub content: Result<Scannable, Refusal>,
}

impl Layer {
    /// A layer that is shown upright and whole, opaque or not.
    pub fn new(dst: Rect, src: SourceRect, opaque: bool, content: Result<Scannable, Refusal>) -> Self {
        let opaque_region = if opaque { dst } else { Rect::default() };
        Self {
            key: 0,
            dst,
            src,
            rotation: Rotation::NORMAL,
            alpha: u16::MAX,
            opaque,
            opaque_region,
            content_type: ContentType::default(),
            rate: 0,
            content,
        }
    }

    /// It hides what is below all of it.
    pub fn is_solid(&self) -> bool {
        self.opaque && self.alpha == u16::MAX
    }

    /// The part of the CRTC in which it hides what is below.
    pub fn hides(&self) -> Rect {
        match (self.alpha, self.opaque) {
            (u16::MAX, true) => self.dst,
            (u16::MAX, false) => self.opaque_region.intersection(&self.dst).unwrap_or_default(),
            _ => Rect::default(),
        }
    }
}

/// The pointer's image in a buffer for a cursor plane ([`super::PlaneCaps::cursor_buffer`]): it lies over all layers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pointer {
    /// Where the buffer is shown; as large as the buffer.
    pub dst: Rect,
    /// The point of the image, in its pixels, that is where the pointer is: for the properties HOTSPOT_X and HOTSPOT_Y of
    /// drivers that have the host draw it.
    pub hotspot: (i32, i32),
    /// Its buffer, or why there is none.
    #[cfg_attr(feature = "serde", serde(with = "super::serial::content"))]
    pub content: Result<Scannable, Refusal>,
}
