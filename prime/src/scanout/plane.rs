//! What a plane can do. It owns the description alone; backends fill it.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};

/// The type of a KMS plane (its `type` property).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PlaneType {
    /// Shows the composited picture, or one opaque layer.
    Primary,
    /// Shows one layer.
    Overlay,
    /// Shows the pointer; the planner puts no other layer there.
    Cursor,
}

/// Where a plane is in the blending order, higher is nearer to the viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Zpos {
    /// Neither a zpos property nor a table of the driver tells. Overlays are refused then, since drm_blend.c leaves their
    /// order undefined; a cursor plane is taken to be the topmost and a primary plane the lowest.
    Unknown,
    /// It cannot be changed: an immutable zpos, or the place in [`crate::quirks::stacking`].
    Fixed(i64),
    /// The plan sets it, within these bounds.
    Range {
        /// Lowest value.
        min: i64,
        /// Highest value.
        max: i64,
    },
}

/// How a plane turns what it shows, in the terms of the `rotation` property: reflected first, then rotated counter-clockwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rotation(u8);

impl Rotation {
    /// As it lies in memory.
    pub const NORMAL: Self = Self(1);
    /// Upside down: the last row in memory is the top row.
    pub const REFLECT_Y: Self = Self(1 | Self::Y);
    const X: u8 = 1 << 4;
    const Y: u8 = 1 << 5;

    /// Reflected along the axes named, and then turned by `quarters` times 90 degrees, counter-clockwise.
    pub const fn new(quarters: u8, reflect_x: bool, reflect_y: bool) -> Self {
        let mut bits = 1 << (quarters % 4);
        if reflect_x {
            bits |= Self::X;
        }
        if reflect_y {
            bits |= Self::Y;
        }
        Self(bits)
    }

    /// The value of the `rotation` property (`DRM_MODE_ROTATE_0` and following, drm_mode.h).
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }

    /// Quarter turns, and the reflections along x and y.
    pub const fn parts(self) -> (u8, bool, bool) {
        ((self.0 & 0xf).trailing_zeros() as u8, self.0 & Self::X != 0, self.0 & Self::Y != 0)
    }

    /// Width and height change places.
    pub const fn turns_sides(self) -> bool {
        self.0 & 0b1010 != 0
    }

    /// The same picture in other words: both reflections together are half a turn.
    const fn other(self) -> Self {
        let (quarters, x, y) = self.parts();
        Self::new(quarters + 2, !x, !y)
    }

    /// The way to say it with what a plane supports.
    pub fn within(self, supported: Rotations) -> Option<Self> {
        [self, self.other()].into_iter().find(|way| way.0 & !supported.0 == 0)
    }
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Rotation {
    /// The kernel's names of the bits, in the shortest of its words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = |way: &Self| if way.0 == 1 { 0 } else { (way.0 & !1).count_ones() };
        let shortest = std::cmp::min_by_key(*self, self.other(), bits);
        let turns = shortest.0 & !1;
        write_bits(f, if turns == 0 { 1 } else { turns }, "+")
    }
}

fn write_bits(f: &mut fmt::Formatter<'_>, bits: u8, between: &str) -> fmt::Result {
    let names = ["rotate-0", "rotate-90", "rotate-180", "rotate-270", "reflect-x", "reflect-y"];
    let mut separator = "";
    for (_, name) in names.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0) {
        write!(f, "{separator}{name}")?;
        separator = between;
    }
    Ok(())
}

/// A set of the `rotation` property's bits: what a plane supports.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rotations(u8);

impl Rotations {
    /// A plane without the property.
    pub const NONE: Self = Self(1);
    /// Every turn and reflection.
    pub const ALL: Self = Self(0x3f);

    /// From the bits that the property lists; 0 degrees is always among them.
    pub const fn from_bits(bits: u64) -> Self {
        Self((bits & 0x3f) as u8 | 1)
    }
}

impl fmt::Debug for Rotations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Rotations {
    /// The kernel's names of the bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bits(f, self.0, ", ")
    }
}

/// How a plane's pixels are mixed with those below (`pixel blend mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum BlendMode {
    /// The pixels' alpha is not looked at.
    None,
    /// Colours are premultiplied with alpha: what Wayland's buffers are.
    Premultiplied,
}

/// The blend modes of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BlendModes {
    /// "Pre-multiplied".
    pub premultiplied: bool,
    /// "None".
    pub none: bool,
    /// The plane has the property, so that the mode is to be set.
    pub settable: bool,
}

impl BlendModes {
    /// A plane without the property: drm_blend.c has it blend premultiplied.
    pub const FIXED: Self = Self { premultiplied: true, none: false, settable: false };
}

/// The matrix of a YUV picture (`COLOR_ENCODING`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ColorEncoding {
    /// ITU-R BT.601.
    #[default]
    Bt601,
    /// ITU-R BT.709.
    Bt709,
    /// ITU-R BT.2020, non-constant luminance.
    Bt2020,
}

impl fmt::Display for ColorEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bt601 => "BT.601",
            Self::Bt709 => "BT.709",
            Self::Bt2020 => "BT.2020",
        })
    }
}

/// The range of a YUV picture's samples (`COLOR_RANGE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ColorRange {
    /// 16 to 235 of 255.
    #[default]
    Limited,
    /// 0 to 255.
    Full,
}

impl fmt::Display for ColorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Limited => "limited",
            Self::Full => "full",
        })
    }
}

/// What a plane makes of YUV pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct YuvCaps {
    /// Of each [`ColorEncoding`], in the order of the enum.
    pub encodings: [bool; 3],
    /// Of each [`ColorRange`], in the order of the enum.
    pub ranges: [bool; 2],
}

impl YuvCaps {
    /// A plane without the properties: BT.601, limited range.
    pub const FIXED: Self = Self { encodings: [true, false, false], ranges: [true, false] };
    /// Every combination.
    pub const ALL: Self = Self { encodings: [true; 3], ranges: [true; 2] };
}

/// What a plane makes of a source rectangle that has another size than its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scaling {
    /// It is not known: the driver is asked.
    Unknown,
    /// Never.
    Never,
    /// Between these factors, destination by source in 16.16 fixed point.
    Range {
        /// Smallest factor.
        min: u32,
        /// Largest factor.
        max: u32,
    },
}

/// What one plane can do, as the planner needs it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PlaneCaps {
    /// KMS object id (or an id of the backend's own for planes that are not KMS).
    pub id: NonZeroU32,
    /// Its type.
    pub kind: PlaneType,
    /// `possible_crtcs`: a bit for each CRTC's index. See [`super::share`].
    pub crtcs: u32,
    /// The (fourcc, modifier) pairs of IN_FORMATS.
    #[cfg_attr(feature = "serde", serde(with = "super::serial::formats"))]
    pub formats: Arc<HashSet<(DrmFourcc, DrmModifier)>>,
    /// Its place in the blending order.
    pub zpos: Zpos,
    /// Smallest and largest destination in pixels; `None` where the kernel does not tell.
    pub sizes: Option<((u32, u32), (u32, u32))>,
    /// Of a cursor plane: the buffer sizes it takes, smallest first (`SIZE_HINTS`, or the one of `DRM_CAP_CURSOR_WIDTH`
    /// and `_HEIGHT`); empty for any.
    pub cursor_sizes: Vec<(u32, u32)>,
    /// Whether it scales.
    pub scaling: Scaling,
    /// The bits of its `rotation` property.
    pub rotations: Rotations,
    /// It has the `alpha` property.
    pub alpha: bool,
    /// Its `pixel blend mode`.
    pub blend: BlendModes,
    /// `COLOR_ENCODING` and `COLOR_RANGE`.
    pub yuv: YuvCaps,
    /// Of a primary plane: it may cover less than the CRTC, and the rest is black.
    pub covers_part: bool,
    /// It shows memory of other devices as well as the device's own.
    pub foreign: bool,
}

impl PlaneCaps {
    /// A plane that can do nothing but show its formats as they are.
    pub fn new(
        id: NonZeroU32,
        kind: PlaneType,
        formats: impl IntoIterator<Item = (DrmFourcc, DrmModifier)>,
        zpos: Zpos,
    ) -> Self {
        Self {
            id,
            kind,
            crtcs: u32::MAX,
            formats: Arc::new(formats.into_iter().collect()),
            zpos,
            sizes: None,
            cursor_sizes: Vec::new(),
            scaling: Scaling::Unknown,
            rotations: Rotations::NONE,
            alpha: false,
            blend: BlendModes::FIXED,
            yuv: YuvCaps::FIXED,
            covers_part: false,
            foreign: true,
        }
    }

    /// Takes a pair out of its formats.
    pub fn forbid(&mut self, pair: (DrmFourcc, DrmModifier)) {
        if self.formats.contains(&pair) {
            Arc::make_mut(&mut self.formats).remove(&pair);
        }
    }

    /// The smallest buffer for a pointer's image of `size` pixels; the image's own size where any will do.
    pub fn cursor_buffer(&self, size: (u32, u32)) -> Option<(u32, u32)> {
        let fits = |s: &&(u32, u32)| s.0 >= size.0 && s.1 >= size.1;
        if self.cursor_sizes.is_empty() { Some(size) } else { self.cursor_sizes.iter().find(fits).copied() }
    }
}
