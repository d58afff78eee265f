//! Memory layout facts of pixel formats: buffer planes, bytes per block, subsampling, alpha, opaque substitute.
//! It says nothing about which device supports what, nor how to convert pixels. Source: `drm_fourcc.h`, drm_fourcc.c.

use drm_fourcc::DrmFourcc;

/// One buffer plane of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneInfo {
    /// Bytes of one block.
    pub block_bytes: u8,
    /// Samples of this plane in one block, horizontally (1 unless samples are packed below a byte boundary).
    pub block_width: u8,
    /// Horizontal subsampling against the image.
    pub hsub: u8,
    /// Vertical subsampling against the image.
    pub vsub: u8,
}

/// What the memory of a format looks like.
#[derive(Debug, PartialEq, Eq)]
pub struct FormatInfo {
    /// The code, as in `drm_fourcc.h`. A number, because [`DrmFourcc`] does not name all that kernels know.
    pub fourcc: u32,
    /// 1 to 3 buffer planes.
    pub planes: &'static [PlaneInfo],
    /// Whether pixels carry alpha.
    pub has_alpha: bool,
    /// Whether pixels are luma and chroma.
    pub is_yuv: bool,
    /// The same memory layout with the alpha bits ignored. `None` for formats with alpha that have no such twin;
    /// the format itself when it has no alpha.
    pub opaque: Option<u32>,
}

impl FormatInfo {
    /// Number of buffer planes, without the auxiliary planes that a modifier can add.
    #[must_use]
    pub fn plane_count(&self) -> usize {
        self.planes.len()
    }

    /// Least stride of a linear plane, in bytes, for an image `width` pixels wide; 0 for a plane it does not have.
    #[must_use]
    pub fn min_stride(&self, plane: usize, width: u32) -> u64 {
        self.planes.get(plane).map_or(0, |info| {
            let samples = u64::from(width.div_ceil(u32::from(info.hsub)));
            (samples * u64::from(info.block_bytes)).div_ceil(u64::from(info.block_width))
        })
    }

    /// Rows of a plane for an image `height` pixels high; 0 for a plane it does not have.
    #[must_use]
    pub fn plane_rows(&self, plane: usize, height: u32) -> u64 {
        self.planes.get(plane).map_or(0, |info| u64::from(height.div_ceil(u32::from(info.vsub))))
    }

    /// First byte after the last sample of a linear plane. The last row counts without its padding, as in
    /// drm_gem_framebuffer_helper.c. Saturates.
    #[must_use]
    pub fn plane_end(&self, plane: usize, width: u32, height: u32, offset: u32, stride: u32) -> u64 {
        let before = self.plane_rows(plane, height).saturating_sub(1) * u64::from(stride);
        (u64::from(offset) + self.min_stride(plane, width)).saturating_add(before)
    }
}

/// Facts about a format; `None` if the table does not have it (device-private and block formats).
#[must_use]
pub fn info(fourcc: DrmFourcc) -> Option<&'static FormatInfo> {
    info_raw(fourcc as u32)
}

/// [`info`] for a code that [`DrmFourcc`] may not name.
#[must_use]
pub fn info_raw(fourcc: u32) -> Option<&'static FormatInfo> {
    FORMATS.iter().find(|format| format.fourcc == fourcc)
}

/// All formats of the table.
#[must_use]
pub fn all() -> &'static [FormatInfo] {
    FORMATS
}

/// Spells a code the way `drm_fourcc.h` does, e.g. `XR24`; bytes that are no ASCII become `?`.
#[must_use]
pub fn name(fourcc: u32) -> String {
    fourcc
        .to_le_bytes()
        .iter()
        .map(|b| if b.is_ascii_graphic() || *b == b' ' { *b as char } else { '?' })
        .collect()
}

const fn code(name: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*name)
}

const fn plane(block_bytes: u8, hsub: u8, vsub: u8) -> PlaneInfo {
    PlaneInfo { block_bytes, block_width: 1, hsub, vsub }
}

const fn packed(name: &[u8; 4], planes: &'static [PlaneInfo]) -> FormatInfo {
    FormatInfo { fourcc: code(name), planes, has_alpha: false, is_yuv: false, opaque: Some(code(name)) }
}

const fn alpha(name: &[u8; 4], planes: &'static [PlaneInfo], opaque: &[u8; 4]) -> FormatInfo {
    FormatInfo { fourcc: code(name), planes, has_alpha: true, is_yuv: false, opaque: Some(code(opaque)) }
}

const fn alpha_only(name: &[u8; 4], planes: &'static [PlaneInfo]) -> FormatInfo {
    FormatInfo { fourcc: code(name), planes, has_alpha: true, is_yuv: false, opaque: None }
}

const fn yuv(name: &[u8; 4], planes: &'static [PlaneInfo]) -> FormatInfo {
    FormatInfo { fourcc: code(name), planes, has_alpha: false, is_yuv: true, opaque: Some(code(name)) }
}

const fn yuva(name: &[u8; 4], planes: &'static [PlaneInfo], opaque: Option<u32>) -> FormatInfo {
    FormatInfo { fourcc: code(name), planes, has_alpha: true, is_yuv: true, opaque }
}

const B1: &[PlaneInfo] = &[plane(1, 1, 1)];
const B2: &[PlaneInfo] = &[plane(2, 1, 1)];
const B3: &[PlaneInfo] = &[plane(3, 1, 1)];
const B4: &[PlaneInfo] = &[plane(4, 1, 1)];
const B6: &[PlaneInfo] = &[plane(6, 1, 1)];
const B8: &[PlaneInfo] = &[plane(8, 1, 1)];
const BITS1: &[PlaneInfo] = &[PlaneInfo { block_bytes: 1, block_width: 8, hsub: 1, vsub: 1 }];
const BITS2: &[PlaneInfo] = &[PlaneInfo { block_bytes: 1, block_width: 4, hsub: 1, vsub: 1 }];
const BITS4: &[PlaneInfo] = &[PlaneInfo { block_bytes: 1, block_width: 2, hsub: 1, vsub: 1 }];
const NV_420: &[PlaneInfo] = &[plane(1, 1, 1), plane(2, 2, 2)];
const NV_422: &[PlaneInfo] = &[plane(1, 1, 1), plane(2, 2, 1)];
const NV_444: &[PlaneInfo] = &[plane(1, 1, 1), plane(2, 1, 1)];
const P_420: &[PlaneInfo] = &[plane(2, 1, 1), plane(4, 2, 2)];
const P_422: &[PlaneInfo] = &[plane(2, 1, 1), plane(4, 2, 1)];
/// Four samples in five bytes; a block of the chroma plane holds two pairs.
const NV15_PLANES: &[PlaneInfo] = &[
    PlaneInfo { block_bytes: 5, block_width: 4, hsub: 1, vsub: 1 },
    PlaneInfo { block_bytes: 5, block_width: 2, hsub: 2, vsub: 2 },
];
const I410: &[PlaneInfo] = &[plane(1, 1, 1), plane(1, 4, 4), plane(1, 4, 4)];
const I411: &[PlaneInfo] = &[plane(1, 1, 1), plane(1, 4, 1), plane(1, 4, 1)];
const I420: &[PlaneInfo] = &[plane(1, 1, 1), plane(1, 2, 2), plane(1, 2, 2)];
const I422: &[PlaneInfo] = &[plane(1, 1, 1), plane(1, 2, 1), plane(1, 2, 1)];
const I444: &[PlaneInfo] = &[plane(1, 1, 1), plane(1, 1, 1), plane(1, 1, 1)];
const Q444: &[PlaneInfo] = &[plane(2, 1, 1), plane(2, 1, 1), plane(2, 1, 1)];
/// Two pixels of two bytes each that share one pair of chroma samples.
const YUYV_PLANES: &[PlaneInfo] = &[PlaneInfo { block_bytes: 4, block_width: 1, hsub: 2, vsub: 1 }];
const Y210_PLANES: &[PlaneInfo] = &[PlaneInfo { block_bytes: 8, block_width: 1, hsub: 2, vsub: 1 }];
const A565: &[PlaneInfo] = &[plane(2, 1, 1), plane(1, 1, 1)];
const A888: &[PlaneInfo] = &[plane(3, 1, 1), plane(1, 1, 1)];
const A8888: &[PlaneInfo] = &[plane(4, 1, 1), plane(1, 1, 1)];

#[rustfmt::skip]
static FORMATS: &[FormatInfo] = &[
    // 32-bit RGB first: they are what almost every buffer is.
    packed(b"XR24", B4), alpha(b"AR24", B4, b"XR24"),
    packed(b"XB24", B4), alpha(b"AB24", B4, b"XB24"),
    packed(b"RX24", B4), alpha(b"RA24", B4, b"RX24"),
    packed(b"BX24", B4), alpha(b"BA24", B4, b"BX24"),
    packed(b"XR30", B4), alpha(b"AR30", B4, b"XR30"),
    packed(b"XB30", B4), alpha(b"AB30", B4, b"XB30"),
    packed(b"RX30", B4), alpha(b"RA30", B4, b"RX30"),
    packed(b"BX30", B4), alpha(b"BA30", B4, b"BX30"),
    packed(b"XR48", B8), alpha(b"AR48", B8, b"XR48"),
    packed(b"XB48", B8), alpha(b"AB48", B8, b"XB48"),
    packed(b"XR4H", B8), alpha(b"AR4H", B8, b"XR4H"),
    packed(b"XB4H", B8), alpha(b"AB4H", B8, b"XB4H"),
    alpha_only(b"AB10", B8),
    packed(b"RG48", B6), packed(b"BG48", B6),
    packed(b"RG24", B3), packed(b"BG24", B3),
    packed(b"RG16", B2), packed(b"BG16", B2),
    packed(b"XR15", B2), alpha(b"AR15", B2, b"XR15"),
    packed(b"XB15", B2), alpha(b"AB15", B2, b"XB15"),
    packed(b"RX15", B2), alpha(b"RA15", B2, b"RX15"),
    packed(b"BX15", B2), alpha(b"BA15", B2, b"BX15"),
    packed(b"XR12", B2), alpha(b"AR12", B2, b"XR12"),
    packed(b"XB12", B2), alpha(b"AB12", B2, b"XB12"),
    packed(b"RX12", B2), alpha(b"RA12", B2, b"RX12"),
    packed(b"BX12", B2), alpha(b"BA12", B2, b"BX12"),
    packed(b"RGB8", B1), packed(b"BGR8", B1),
    // one and two channels, indexed
    packed(b"C8  ", B1), packed(b"R8  ", B1), packed(b"R16 ", B2),
    packed(b"R1  ", BITS1), packed(b"R2  ", BITS2), packed(b"R4  ", BITS4),
    packed(b"RG88", B2), packed(b"GR88", B2), packed(b"RG32", B4), packed(b"GR32", B4),
    // alpha in a plane of its own
    alpha_only(b"R5A8", A565), alpha_only(b"B5A8", A565),
    alpha_only(b"R8A8", A888), alpha_only(b"B8A8", A888),
    alpha_only(b"XRA8", A8888), alpha_only(b"XBA8", A8888), alpha_only(b"RXA8", A8888), alpha_only(b"BXA8", A8888),
    // two planes
    yuv(b"NV12", NV_420), yuv(b"NV21", NV_420), yuv(b"NV16", NV_422), yuv(b"NV61", NV_422),
    yuv(b"NV24", NV_444), yuv(b"NV42", NV_444), yuv(b"NV15", NV15_PLANES),
    yuv(b"P010", P_420), yuv(b"P012", P_420), yuv(b"P016", P_420), yuv(b"P210", P_422),
    // three planes
    yuv(b"YU12", I420), yuv(b"YV12", I420), yuv(b"YU16", I422), yuv(b"YV16", I422),
    yuv(b"YU24", I444), yuv(b"YV24", I444), yuv(b"YUV9", I410), yuv(b"YVU9", I410),
    yuv(b"YU11", I411), yuv(b"YV11", I411), yuv(b"Q410", Q444), yuv(b"Q401", Q444),
    // packed YUV
    yuv(b"YUYV", YUYV_PLANES), yuv(b"YVYU", YUYV_PLANES), yuv(b"UYVY", YUYV_PLANES), yuv(b"VYUY", YUYV_PLANES),
    yuv(b"Y210", Y210_PLANES), yuv(b"Y212", Y210_PLANES), yuv(b"Y216", Y210_PLANES),
    yuv(b"XYUV", B4), yuva(b"AYUV", B4, Some(code(b"XYUV"))), yuv(b"VU24", B3),
    yuv(b"XV30", B4), yuva(b"Y410", B4, Some(code(b"XV30"))),
    yuv(b"XV36", B8), yuva(b"Y412", B8, Some(code(b"XV36"))),
    yuv(b"XV48", B8), yuva(b"Y416", B8, Some(code(b"XV48"))),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The formats that vkms takes on its planes (vkms_plane.c, Linux 7.2).
    const VKMS: &[&[u8; 4]] = &[
        b"AR24", b"AB24", b"BA24", b"RA24", b"XR24", b"XB24", b"RG24", b"BG24", b"XR48", b"XB48", b"AR48",
        b"AB48", b"RG16", b"BG16", b"NV12", b"NV16", b"NV24", b"NV21", b"NV61", b"NV42", b"YU12", b"YU16",
        b"YU24", b"YV12", b"YV16", b"YV24", b"P010", b"P012", b"P016", b"R1  ", b"R2  ", b"R4  ", b"R8  ",
    ];

    #[test]
    fn every_vkms_format_is_known() {
        for code_bytes in VKMS {
            assert!(info_raw(code(code_bytes)).is_some(), "{:?}", name(code(code_bytes)));
        }
    }

    #[test]
    fn table_has_no_duplicates_and_sound_substitutes() {
        for (index, format) in FORMATS.iter().enumerate() {
            let name = name(format.fourcc);
            assert!(FORMATS[..index].iter().all(|other| other.fourcc != format.fourcc), "{name} twice");
            assert!((1..=3).contains(&format.plane_count()), "{name}");
            assert_eq!((format.planes[0].vsub, format.planes[0].block_width == 0), (1, false), "{name}");
            match format.opaque {
                None => assert!(format.has_alpha, "{name}"),
                Some(substitute) => {
                    let substitute = info_raw(substitute).unwrap();
                    assert!(!substitute.has_alpha, "{name}");
                    assert_eq!(
                        (substitute.planes, substitute.is_yuv),
                        (format.planes, format.is_yuv),
                        "{name}"
                    );
                }
            }
        }
    }

    #[test]
    fn names_agree_with_drm_fourcc() {
        for (fourcc, bytes) in [
            (DrmFourcc::Xrgb8888, b"XR24"),
            (DrmFourcc::Nv12, b"NV12"),
            (DrmFourcc::P010, b"P010"),
            (DrmFourcc::Yuv420, b"YU12"),
            (DrmFourcc::Xvyu2101010, b"XV30"),
            (DrmFourcc::Abgr16161616f, b"AB4H"),
            (DrmFourcc::Axbxgxrx106106106106, b"AB10"),
            (DrmFourcc::Xrgb8888_a8, b"XRA8"),
            (DrmFourcc::Vuy888, b"VU24"),
        ] {
            assert_eq!(info(fourcc).unwrap().fourcc, code(bytes));
            assert_eq!(name(fourcc as u32).as_bytes(), bytes);
        }
    }

    #[test]
    fn strides_and_rows() {
        let nv12 = info(DrmFourcc::Nv12).unwrap();
        assert_eq!((nv12.min_stride(0, 641), nv12.min_stride(1, 641)), (641, 642));
        assert_eq!((nv12.plane_rows(0, 481), nv12.plane_rows(1, 481)), (481, 241));
        assert_eq!((nv12.min_stride(2, 641), nv12.plane_rows(2, 481)), (0, 0));
        assert_eq!(info(DrmFourcc::P010).unwrap().min_stride(1, 640), 1280);
        assert_eq!(info(DrmFourcc::Yuyv).unwrap().min_stride(0, 3), 8);
        assert_eq!(info(DrmFourcc::Nv15).unwrap().min_stride(0, 8), 10);
        assert_eq!(info(DrmFourcc::Nv15).unwrap().min_stride(1, 8), 10);
        assert_eq!(info_raw(code(b"R1  ")).unwrap().min_stride(0, 9), 2);
    }

    #[test]
    fn plane_end_does_not_overflow() {
        let format = info(DrmFourcc::Xrgb8888).unwrap();
        let max = u32::MAX;
        assert_eq!(format.plane_end(0, max, max, max, max), u64::MAX);
        assert_eq!(format.plane_end(0, 1, max, 0, max), u64::from(max) * u64::from(max - 1) + 4);
        assert_eq!(format.plane_end(0, 16, 2, 8, 128), 8 + 128 + 64);
    }
}
