//! Rectangles: places on the CRTC and parts of buffers.

/// A rectangle of CRTC pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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

    fn right(&self) -> i64 {
        i64::from(self.x) + i64::from(self.w)
    }

    fn bottom(&self) -> i64 {
        i64::from(self.y) + i64::from(self.h)
    }

    /// Tells whether the two rectangles share at least one pixel.
    pub fn overlaps(&self, other: &Rect) -> bool {
        self.overlap(other) > 0
    }

    /// Pixels that the two rectangles share.
    pub fn overlap(&self, other: &Rect) -> u64 {
        let shared = |end: i64, start: i64| u64::try_from(end - start).unwrap_or(0);
        let width = shared(self.right().min(other.right()), i64::from(self.x.max(other.x)));
        width * shared(self.bottom().min(other.bottom()), i64::from(self.y.max(other.y)))
    }

    /// The pixels that both have, if any.
    pub fn intersection(&self, other: &Rect) -> Option<Rect> {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let len = |end: i64, start: i32| u32::try_from(end - i64::from(start)).ok().filter(|len| *len > 0);
        let w = len(self.right().min(other.right()), x)?;
        let h = len(self.bottom().min(other.bottom()), y)?;
        Some(Rect { x, y, w, h })
    }

    /// The smallest rectangle that has the pixels of both.
    pub fn union(&self, other: &Rect) -> Rect {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let len = |end: i64, start: i32| u32::try_from(end - i64::from(start)).unwrap_or(u32::MAX);
        let (w, h) = (len(self.right().max(other.right()), x), len(self.bottom().max(other.bottom()), y));
        Rect { x, y, w, h }
    }

    /// Tells whether all pixels of `other` are among its own.
    pub fn contains(&self, other: &Rect) -> bool {
        self.x <= other.x
            && self.y <= other.y
            && self.right() >= other.right()
            && self.bottom() >= other.bottom()
    }

    /// Pixels in it.
    pub fn area(&self) -> u64 {
        u64::from(self.w) * u64::from(self.h)
    }
}

/// A source rectangle in 16.16 fixed point buffer pixels, as the plane properties SRC_X to SRC_H take it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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

impl SourceRect {
    /// The whole of a buffer of `width` times `height` pixels.
    pub const fn whole(width: u32, height: u32) -> Self {
        Self { x: 0, y: 0, w: width << 16, h: height << 16 }
    }
}
