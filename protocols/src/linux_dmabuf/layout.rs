//! How many buffer planes a pixel format has and how many bytes a row of each takes.
//!
//! Owns: the description [`FormatLayout`] and a table of the formats of `drm_fourcc.h` whose LINEAR layout is
//! plain rows. Does not own: which formats a compositor advertises, and nothing about modifiers.

use super::MAX_PLANES;

/// Layout of one buffer plane.
///
/// A plane is an array of blocks, `block_width` x `block_height` pixels and `bytes_per_block` bytes each. For
/// most formats a block is one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlaneLayout {
    /// Bytes of one block.
    pub bytes_per_block: u32,
    /// Pixels of this plane in one block, across.
    pub block_width: u32,
    /// Pixels of this plane in one block, down.
    pub block_height: u32,
    /// The plane is this many times narrower than the buffer. Ignored on plane 0, which is never subsampled.
    pub hsub: u32,
    /// The plane is this many times lower than the buffer. Ignored on plane 0, which is never subsampled.
    pub vsub: u32,
}

impl PlaneLayout {
    /// A plane of `cpp` bytes per pixel, subsampled by `hsub` and `vsub`.
    pub const fn new(cpp: u32, hsub: u32, vsub: u32) -> Self {
        Self { bytes_per_block: cpp, block_width: 1, block_height: 1, hsub, vsub }
    }

    /// The same plane with blocks of `width` x `height` pixels.
    #[must_use]
    pub const fn with_block(self, width: u32, height: u32) -> Self {
        Self { block_width: width, block_height: height, ..self }
    }

    const NONE: Self = Self::new(0, 1, 1);
}

/// Buffer planes of a format, one to four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FormatLayout {
    planes: [PlaneLayout; MAX_PLANES],
    count: u8,
}

impl FormatLayout {
    /// Layout with the given planes, in the order of their index; `None` unless there are one to four.
    pub const fn new(planes: &[PlaneLayout]) -> Option<Self> {
        let count = planes.len();
        if count == 0 || count > MAX_PLANES {
            return None;
        }
        let mut all = [PlaneLayout::NONE; MAX_PLANES];
        let mut i = 0;
        while i < count {
            all[i] = planes[i];
            i += 1;
        }
        Some(Self { planes: all, count: count as u8 })
    }

    /// The planes, in the order of their index. Never empty.
    pub fn planes(&self) -> &[PlaneLayout] {
        &self.planes[..usize::from(self.count)]
    }

    /// Looks a DRM fourcc up in the table of this crate; `None` for a format it does not know.
    ///
    /// The table has the formats of `drm_fourcc.h` that are plain rows when LINEAR. Values as in the kernel's
    /// `drm_fourcc.c`, except that YUYV and its like are described as blocks of two pixels, so that a row of an
    /// odd width still holds its last block.
    pub fn from_fourcc(fourcc: u32) -> Option<Self> {
        Some(match &fourcc.to_le_bytes() {
            b"C1  " | b"D1  " | b"R1  " => Self::block(1, 8),
            b"C2  " | b"D2  " | b"R2  " => Self::block(1, 4),
            b"C4  " | b"D4  " | b"R4  " => Self::block(1, 2),
            b"C8  " | b"D8  " | b"R8  " | b"RGB8" | b"BGR8" | b"GREY" => Self::packed(1),
            b"R10 " | b"R12 " | b"R16 " | b"RG88" | b"GR88" => Self::packed(2),
            b"XR12" | b"XB12" | b"RX12" | b"BX12" | b"AR12" | b"AB12" | b"RA12" | b"BA12" => Self::packed(2),
            b"XR15" | b"XB15" | b"RX15" | b"BX15" | b"AR15" | b"AB15" | b"RA15" | b"BA15" => Self::packed(2),
            b"RG16" | b"BG16" => Self::packed(2),
            b"RG24" | b"BG24" | b"VU24" => Self::packed(3),
            b"XR24" | b"XB24" | b"RX24" | b"BX24" | b"AR24" | b"AB24" | b"RA24" | b"BA24" => Self::packed(4),
            b"XR30" | b"XB30" | b"RX30" | b"BX30" | b"AR30" | b"AB30" | b"RA30" | b"BA30" => Self::packed(4),
            b"RG32" | b"GR32" | b"AYUV" | b"XYUV" | b"AVUY" | b"XVUY" | b"Y410" | b"XV30" | b"XY30" => {
                Self::packed(4)
            }
            b"RG48" | b"BG48" => Self::packed(6),
            b"XR48" | b"XB48" | b"AR48" | b"AB48" | b"XR4H" | b"XB4H" | b"AR4H" | b"AB4H" | b"AB10" => {
                Self::packed(8)
            }
            b"Y412" | b"Y416" | b"XV36" | b"XV48" => Self::packed(8),
            b"YUYV" | b"YVYU" | b"UYVY" | b"VYUY" => Self::block(4, 2),
            b"Y210" | b"Y212" | b"Y216" => Self::block(8, 2),
            b"NV12" | b"NV21" => Self::semi_planar(1, 2, 2),
            b"NV16" | b"NV61" => Self::semi_planar(1, 2, 1),
            b"NV24" | b"NV42" => Self::semi_planar(1, 1, 1),
            b"P010" | b"P012" | b"P016" => Self::semi_planar(2, 2, 2),
            b"P210" => Self::semi_planar(2, 2, 1),
            b"NV15" => Self::ten_bit_semi_planar(2, 2),
            b"NV20" => Self::ten_bit_semi_planar(2, 1),
            b"NV30" => Self::ten_bit_semi_planar(1, 1),
            b"YUV9" | b"YVU9" => Self::planar(1, 4, 4),
            b"YU11" | b"YV11" => Self::planar(1, 4, 1),
            b"YU12" | b"YV12" => Self::planar(1, 2, 2),
            b"YU16" | b"YV16" => Self::planar(1, 2, 1),
            b"YU24" | b"YV24" => Self::planar(1, 1, 1),
            b"Q410" | b"Q401" => Self::planar(2, 1, 1),
            b"S010" | b"S012" | b"S016" => Self::planar(2, 2, 2),
            b"S210" | b"S212" | b"S216" => Self::planar(2, 2, 1),
            b"S410" | b"S412" | b"S416" => Self::planar(2, 1, 1),
            _ => return None,
        })
    }

    const fn of<const N: usize>(planes: [PlaneLayout; N]) -> Self {
        const { assert!(N > 0 && N <= MAX_PLANES) };
        let mut all = [PlaneLayout::NONE; MAX_PLANES];
        let mut i = 0;
        while i < N {
            all[i] = planes[i];
            i += 1;
        }
        Self { planes: all, count: N as u8 }
    }

    const fn packed(cpp: u32) -> Self {
        Self::of([PlaneLayout::new(cpp, 1, 1)])
    }

    const fn block(bytes: u32, width: u32) -> Self {
        Self::of([PlaneLayout::new(bytes, 1, 1).with_block(width, 1)])
    }

    const fn semi_planar(bytes: u32, hsub: u32, vsub: u32) -> Self {
        Self::of([PlaneLayout::new(bytes, 1, 1), PlaneLayout::new(2 * bytes, hsub, vsub)])
    }

    /// NV15 and its like: ten-bit components without padding, four of them in five bytes.
    const fn ten_bit_semi_planar(hsub: u32, vsub: u32) -> Self {
        Self::of([
            PlaneLayout::new(5, 1, 1).with_block(4, 1),
            PlaneLayout::new(5, hsub, vsub).with_block(2, 1),
        ])
    }

    const fn planar(bytes: u32, hsub: u32, vsub: u32) -> Self {
        let chroma = PlaneLayout::new(bytes, hsub, vsub);
        Self::of([PlaneLayout::new(bytes, 1, 1), chroma, chroma])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(code: &[u8; 4]) -> FormatLayout {
        FormatLayout::from_fourcc(u32::from_le_bytes(*code)).unwrap()
    }

    #[test]
    fn plane_counts_follow_the_fourcc() {
        for (code, count) in [(b"XR24", 1), (b"NV12", 2), (b"P010", 2), (b"YU12", 3), (b"YUYV", 1)] {
            assert_eq!(layout(code).planes().len(), count, "{code:?}");
        }
        assert_eq!(FormatLayout::from_fourcc(0), None);
        assert_eq!(FormatLayout::from_fourcc(u32::from_le_bytes(*b"????")), None);
    }

    #[test]
    fn chroma_of_p010_is_four_bytes_per_two_by_two_pixels() {
        assert_eq!(
            layout(b"P010").planes(),
            [PlaneLayout::new(2, 1, 1), PlaneLayout::new(4, 2, 2)].as_slice()
        );
    }

    #[test]
    fn a_layout_has_one_to_four_planes() {
        let plane = PlaneLayout::new(1, 1, 1);
        assert_eq!(FormatLayout::new(&[]), None);
        assert_eq!(FormatLayout::new(&[plane; 5]), None);
        assert_eq!(FormatLayout::new(&[plane; 4]).unwrap().planes(), &[plane; 4]);
    }
}
