//! Rectangles: places on the CRTC and parts of buffers.

/// A rectangle of CRTC pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left edge; may be negative for a layer that hangs over the output's edge.
    pub x: i32,
    /// Top edge.
    pub y: i32,
    /// Width in pixels.
    pub w: u32,
    /// Height in pixels.
    pub h: u32,
}

impl Rect {
    /// Makes a rectangle from its position and size.
    pub const fn new(x: i32, y: i32, w: u32, h: u32) -> Self {
        Self { x, y, w, h }
    }

    /// Tells whether the two rectangles share at least one pixel.
    pub fn overlaps(&self, other: &Rect) -> bool {
        let end = |at: i32, len: u32| i64::from(at) + i64::from(len);
        i64::from(self.x) < end(other.x, other.w)
            && i64::from(other.x) < end(self.x, self.w)
            && i64::from(self.y) < end(other.y, other.h)
            && i64::from(other.y) < end(self.y, self.h)
    }

    /// Pixels that the two rectangles share.
    pub fn overlap(&self, other: &Rect) -> u64 {
        let shared = |a: (i32, u32), b: (i32, u32)| {
            let end = |(at, len): (i32, u32)| i64::from(at) + i64::from(len);
            u64::try_from(end(a).min(end(b)) - i64::from(a.0.max(b.0))).unwrap_or(0)
        };
        let width = shared((self.x, self.w), (other.x, other.w));
        width * shared((self.y, self.h), (other.y, other.h))
    }
}

/// A source rectangle in 16.16 fixed point buffer pixels, as the plane properties SRC_X to SRC_H take it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceRect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}
