//! The pixel formats that Linux 7.2 knows, as `ADDFB2` judges them (drm_fourcc.c). [`crate::format`] is the crate's own
//! table, of what it can show; this one also has the block formats, and the depths that old calls speak of.

/// Memory shape of a group of formats.
struct Shape {
    /// Per plane: bytes of a block, its width and height in samples. No bytes: only non-linear layouts exist.
    planes: &'static [(u8, u8, u8)],
    hsub: u8,
    vsub: u8,
    /// Code and depth, which is 0 for what has none.
    formats: &'static [(&'static [u8; 4], u8)],
}

/// One format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KmsFormat {
    pub(super) fourcc: u32,
    pub(super) depth: u8,
    planes: &'static [(u8, u8, u8)],
    hsub: u8,
    vsub: u8,
}

impl KmsFormat {
    pub(super) fn plane_count(&self) -> usize {
        self.planes.len()
    }

    /// Width in samples of a plane.
    pub(super) fn plane_width(&self, plane: usize, width: u32) -> u32 {
        if plane == 0 { width } else { width.div_ceil(u32::from(self.hsub)) }
    }

    /// Height in samples of a plane.
    pub(super) fn plane_height(&self, plane: usize, height: u32) -> u32 {
        if plane == 0 { height } else { height.div_ceil(u32::from(self.vsub)) }
    }

    /// Whether a linear layout exists.
    pub(super) fn has_blocks(&self, plane: usize) -> bool {
        self.planes[plane].0 != 0
    }

    /// Least pitch in bytes of a plane that is `width` samples wide.
    pub(super) fn min_pitch(&self, plane: usize, width: u32) -> u64 {
        let (bytes, w, h) = self.planes[plane];
        (u64::from(width) * u64::from(bytes)).div_ceil(u64::from(w) * u64::from(h))
    }

    /// Bits per pixel of the first plane; 0 if that is no whole number.
    pub(super) fn bpp(&self) -> u32 {
        let (bytes, w, h) = self.planes[0];
        let (bits, samples) = (u32::from(bytes) * 8, u32::from(w) * u32::from(h));
        if bits.is_multiple_of(samples) { bits / samples } else { 0 }
    }
}

/// Finds a format.
pub(super) fn find(fourcc: u32) -> Option<KmsFormat> {
    let code = fourcc.to_le_bytes();
    SHAPES.iter().find_map(|shape| {
        let (_, depth) = shape.formats.iter().find(|(name, _)| **name == code)?;
        Some(KmsFormat { fourcc, depth: *depth, planes: shape.planes, hsub: shape.hsub, vsub: shape.vsub })
    })
}

/// The format that a colour mode of a dumb buffer or of the old `ADDFB` stands for (`drm_mode_legacy_fb_format`).
pub(super) fn legacy(bpp: u32, depth: u32) -> Option<KmsFormat> {
    let name = match (bpp, depth) {
        (1, 1) => b"C1  ",
        (2, 2) => b"C2  ",
        (4, 4) => b"C4  ",
        (8, 8) => b"C8  ",
        (16, 15) => b"XR15",
        (16, 16) => b"RG16",
        (24, 24) => b"RG24",
        (32, 24) => b"XR24",
        (32, 30) => b"XR30",
        (32, 32) => b"AR24",
        _ => return None,
    };
    find(u32::from_le_bytes(*name))
}

/// What the planes of vkms show (vkms_plane.c).
#[rustfmt::skip]
pub(super) static VKMS: &[u32] = &[
    u32::from_le_bytes(*b"AR24"), u32::from_le_bytes(*b"AB24"), u32::from_le_bytes(*b"BA24"),
    u32::from_le_bytes(*b"RA24"), u32::from_le_bytes(*b"XR24"), u32::from_le_bytes(*b"XB24"),
    u32::from_le_bytes(*b"RG24"), u32::from_le_bytes(*b"BG24"), u32::from_le_bytes(*b"XR48"),
    u32::from_le_bytes(*b"XB48"), u32::from_le_bytes(*b"AR48"), u32::from_le_bytes(*b"AB48"),
    u32::from_le_bytes(*b"RG16"), u32::from_le_bytes(*b"BG16"), u32::from_le_bytes(*b"NV12"),
    u32::from_le_bytes(*b"NV16"), u32::from_le_bytes(*b"NV24"), u32::from_le_bytes(*b"NV21"),
    u32::from_le_bytes(*b"NV61"), u32::from_le_bytes(*b"NV42"), u32::from_le_bytes(*b"YU12"),
    u32::from_le_bytes(*b"YU16"), u32::from_le_bytes(*b"YU24"), u32::from_le_bytes(*b"YV12"),
    u32::from_le_bytes(*b"YV16"), u32::from_le_bytes(*b"YV24"), u32::from_le_bytes(*b"P010"),
    u32::from_le_bytes(*b"P012"), u32::from_le_bytes(*b"P016"), u32::from_le_bytes(*b"R1  "),
    u32::from_le_bytes(*b"R2  "), u32::from_le_bytes(*b"R4  "), u32::from_le_bytes(*b"R8  "),
];

#[rustfmt::skip]
static SHAPES: &[Shape] = &[
    Shape { planes: &[(4, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"XR24", 24), (b"XB24", 24), (b"RX24", 24), (b"BX24", 24), (b"XR30", 30), (b"XB30", 30), (b"RX30", 30),
        (b"BX30", 30), (b"AR30", 30), (b"AB30", 30), (b"RA30", 30), (b"BA30", 30), (b"AR24", 32), (b"AB24", 32),
        (b"RA24", 32), (b"BA24", 32), (b"XYUV", 0), (b"XY30", 0), (b"AYUV", 0), (b"Y410", 0), (b"XV30", 0),
    ] },
    Shape { planes: &[(4, 1, 1)], hsub: 2, vsub: 1, formats: &[
        (b"Y210", 0), (b"Y212", 0), (b"Y216", 0),
    ] },
    Shape { planes: &[(1, 8, 1)], hsub: 1, vsub: 1, formats: &[
        (b"C1  ", 1), (b"D1  ", 1), (b"R1  ", 1),
    ] },
    Shape { planes: &[(1, 4, 1)], hsub: 1, vsub: 1, formats: &[
        (b"C2  ", 2), (b"D2  ", 2), (b"R2  ", 2),
    ] },
    Shape { planes: &[(1, 2, 1)], hsub: 1, vsub: 1, formats: &[
        (b"C4  ", 4), (b"D4  ", 4), (b"R4  ", 4),
    ] },
    Shape { planes: &[(1, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"C8  ", 8), (b"D8  ", 8), (b"R8  ", 8), (b"RGB8", 8), (b"BGR8", 8), (b"GREY", 8),
    ] },
    Shape { planes: &[(2, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"R10 ", 10), (b"R12 ", 12), (b"XR12", 0), (b"XB12", 0), (b"RX12", 0), (b"BX12", 0), (b"AR12", 0),
        (b"AB12", 0), (b"RA12", 0), (b"BA12", 0), (b"XR15", 15), (b"XB15", 15), (b"RX15", 15), (b"BX15", 15),
        (b"AR15", 15), (b"AB15", 15), (b"RA15", 15), (b"BA15", 15), (b"RG16", 16), (b"BG16", 16),
    ] },
    Shape { planes: &[(3, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"RG24", 24), (b"BG24", 24), (b"VU24", 0),
    ] },
    Shape { planes: &[(2, 1, 1), (1, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"R5A8", 24), (b"B5A8", 24),
    ] },
    Shape { planes: &[(6, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"RG48", 0), (b"BG48", 0),
    ] },
    Shape { planes: &[(8, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"XR4H", 0), (b"XB4H", 0), (b"AR4H", 0), (b"AB4H", 0), (b"AB10", 0), (b"XR48", 0), (b"XB48", 0),
        (b"AR48", 0), (b"AB48", 0), (b"Y412", 0), (b"Y416", 0), (b"XV36", 0), (b"XV48", 0),
    ] },
    Shape { planes: &[(3, 1, 1), (1, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"R8A8", 32), (b"B8A8", 32),
    ] },
    Shape { planes: &[(4, 1, 1), (1, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"XRA8", 32), (b"XBA8", 32), (b"RXA8", 32), (b"BXA8", 32),
    ] },
    Shape { planes: &[(1, 1, 1), (1, 1, 1), (1, 1, 1)], hsub: 4, vsub: 4, formats: &[
        (b"YUV9", 0), (b"YVU9", 0),
    ] },
    Shape { planes: &[(1, 1, 1), (1, 1, 1), (1, 1, 1)], hsub: 4, vsub: 1, formats: &[
        (b"YU11", 0), (b"YV11", 0),
    ] },
    Shape { planes: &[(1, 1, 1), (1, 1, 1), (1, 1, 1)], hsub: 2, vsub: 2, formats: &[
        (b"YU12", 0), (b"YV12", 0),
    ] },
    Shape { planes: &[(1, 1, 1), (1, 1, 1), (1, 1, 1)], hsub: 2, vsub: 1, formats: &[
        (b"YU16", 0), (b"YV16", 0),
    ] },
    Shape { planes: &[(1, 1, 1), (1, 1, 1), (1, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"YU24", 0), (b"YV24", 0),
    ] },
    Shape { planes: &[(1, 1, 1), (2, 1, 1)], hsub: 2, vsub: 2, formats: &[
        (b"NV12", 0), (b"NV21", 0),
    ] },
    Shape { planes: &[(1, 1, 1), (2, 1, 1)], hsub: 2, vsub: 1, formats: &[
        (b"NV16", 0), (b"NV61", 0),
    ] },
    Shape { planes: &[(1, 1, 1), (2, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"NV24", 0), (b"NV42", 0),
    ] },
    Shape { planes: &[(2, 1, 1)], hsub: 2, vsub: 1, formats: &[
        (b"YUYV", 0), (b"YVYU", 0), (b"UYVY", 0), (b"VYUY", 0),
    ] },
    Shape { planes: &[(8, 2, 2)], hsub: 2, vsub: 2, formats: &[
        (b"Y0L0", 0), (b"X0L0", 0), (b"Y0L2", 0), (b"X0L2", 0),
    ] },
    Shape { planes: &[(2, 1, 1), (4, 1, 1)], hsub: 2, vsub: 2, formats: &[
        (b"P010", 0), (b"P012", 0), (b"P016", 0),
    ] },
    Shape { planes: &[(2, 1, 1), (4, 1, 1)], hsub: 2, vsub: 1, formats: &[
        (b"P210", 0),
    ] },
    Shape { planes: &[(0, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"VU30", 0),
    ] },
    Shape { planes: &[(0, 1, 1)], hsub: 2, vsub: 2, formats: &[
        (b"YU08", 0), (b"YU10", 0),
    ] },
    Shape { planes: &[(5, 4, 1), (5, 2, 1)], hsub: 2, vsub: 2, formats: &[
        (b"NV15", 0),
    ] },
    Shape { planes: &[(5, 4, 1), (5, 2, 1)], hsub: 2, vsub: 1, formats: &[
        (b"NV20", 0),
    ] },
    Shape { planes: &[(5, 4, 1), (5, 2, 1)], hsub: 1, vsub: 1, formats: &[
        (b"NV30", 0),
    ] },
    Shape { planes: &[(2, 1, 1), (2, 1, 1), (2, 1, 1)], hsub: 1, vsub: 1, formats: &[
        (b"Q410", 0), (b"Q401", 0), (b"S410", 0), (b"S412", 0), (b"S416", 0),
    ] },
    Shape { planes: &[(4, 3, 1), (8, 3, 1)], hsub: 2, vsub: 2, formats: &[
        (b"P030", 0),
    ] },
    Shape { planes: &[(4, 3, 1), (8, 3, 1)], hsub: 2, vsub: 1, formats: &[
        (b"P230", 0),
    ] },
    Shape { planes: &[(2, 1, 1), (2, 1, 1), (2, 1, 1)], hsub: 2, vsub: 2, formats: &[
        (b"S010", 0), (b"S012", 0), (b"S016", 0),
    ] },
    Shape { planes: &[(2, 1, 1), (2, 1, 1), (2, 1, 1)], hsub: 2, vsub: 1, formats: &[
        (b"S210", 0), (b"S212", 0), (b"S216", 0),
    ] },
    Shape { planes: &[(4, 3, 1)], hsub: 1, vsub: 1, formats: &[
        (b"YPA4", 0),
    ] },
    Shape { planes: &[(4, 3, 1), (4, 3, 1), (4, 3, 1)], hsub: 1, vsub: 1, formats: &[
        (b"T430", 0),
    ] },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_crates_own_table() {
        let mut compared = 0;
        for known in crate::format::all() {
            // A few codes of drm_fourcc.h are in no table of the kernel's: ADDFB2 refuses them.
            let Some(kernel) = find(known.fourcc) else { continue };
            let name = crate::format::name(known.fourcc);
            assert_eq!(kernel.plane_count(), known.plane_count(), "{name}");
            for plane in 0..kernel.plane_count() {
                let samples = kernel.plane_width(plane, 480);
                assert_eq!(kernel.min_pitch(plane, samples), known.min_stride(plane, 480), "{name}");
                assert_eq!(
                    u64::from(kernel.plane_height(plane, 480)),
                    known.plane_rows(plane, 480),
                    "{name}"
                );
            }
            compared += 1;
        }
        assert!(compared > 90, "{compared}");
        assert!(VKMS.iter().all(|fourcc| find(*fourcc).is_some()));
        assert_eq!(find(u32::from_le_bytes(*b"none")), None);
    }

    #[test]
    fn bits_of_whole_and_broken_pixels() {
        let bpp = |name: &[u8; 4]| find(u32::from_le_bytes(*name)).unwrap().bpp();
        let bits = [b"XR24", b"RG24", b"RG16", b"R8  ", b"C4  ", b"C2  ", b"R1  ", b"NV15", b"VU30"].map(bpp);
        assert_eq!(bits, [32, 24, 16, 8, 4, 2, 1, 10, 0]);
        let linear = |name: &[u8; 4]| find(u32::from_le_bytes(*name)).unwrap().has_blocks(0);
        assert_eq!([b"XR24", b"VU30", b"YU08"].map(linear), [true, false, false]);
    }

    #[test]
    fn colour_modes_stand_for_formats() {
        let modes = [
            (1, 1, b"C1  "),
            (2, 2, b"C2  "),
            (4, 4, b"C4  "),
            (8, 8, b"C8  "),
            (16, 15, b"XR15"),
            (16, 16, b"RG16"),
            (24, 24, b"RG24"),
            (32, 24, b"XR24"),
            (32, 30, b"XR30"),
            (32, 32, b"AR24"),
        ];
        for (bpp, depth, name) in modes {
            let format = legacy(bpp, depth).unwrap();
            assert_eq!((format.fourcc, format.bpp()), (u32::from_le_bytes(*name), bpp), "{bpp} {depth}");
        }
        assert_eq!([legacy(32, 16), legacy(15, 15), legacy(0, 0)], [None; 3]);
    }
}
