//! The pixel formats of the test pictures: names, fourcc codes and the layout of their buffer planes.
//!
//! Owns the table that test clients allocate by. It is deliberately not the compositor's table: the two must
//! agree because both are right, not because they are the same code. It does not know how pixels look
//! (`picture`) or where memory comes from (`buffer`).

use anyhow::{Result, bail};
use drm_fourcc::DrmFourcc;

/// `DRM_FORMAT_MOD_LINEAR` of `drm_fourcc.h`.
pub const MODIFIER_LINEAR: u64 = 0;
/// `DRM_FORMAT_MOD_INVALID` of `drm_fourcc.h`: the client names no modifier.
pub const MODIFIER_INVALID: u64 = 0x00ff_ffff_ffff_ffff;

/// How the samples of a pixel are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Samples {
    /// Four bytes per pixel; the byte index of red, green, blue and alpha (`None` when opaque).
    Bytes { r: usize, g: usize, b: usize, a: Option<usize> },
    /// Two bytes, little endian 5:6:5, red in the high bits.
    Rgb565,
    /// One luma plane and one plane of interleaved chroma; `bytes` per sample, `swapped` for V before U.
    SemiPlanar { bytes: usize, swapped: bool },
    /// Three planes of one byte per sample, `swapped` for V before U.
    Planar { swapped: bool },
}

/// A format a test client can draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The code of `drm_fourcc.h`.
    pub fourcc: DrmFourcc,
    /// How the samples are stored.
    pub samples: Samples,
    /// Horizontal chroma subsampling, 1 where there is none.
    pub hsub: u32,
    /// Vertical chroma subsampling, 1 where there is none.
    pub vsub: u32,
    /// Significant bits of one sample: 8, or 10 in the high bits of 16 for P010.
    pub bits: u32,
}

/// One buffer plane inside the single memory object of a client buffer, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneLayout {
    /// From the start of the memory object.
    pub offset: u32,
    /// From one row to the next.
    pub stride: u32,
    /// Rows of this plane.
    pub rows: u32,
}

const fn bytes(fourcc: DrmFourcc, r: usize, g: usize, b: usize, a: Option<usize>) -> Format {
    Format { fourcc, samples: Samples::Bytes { r, g, b, a }, hsub: 1, vsub: 1, bits: 8 }
}

const fn semi(fourcc: DrmFourcc, sub: (u32, u32), bytes: usize, bits: u32, swapped: bool) -> Format {
    Format { fourcc, samples: Samples::SemiPlanar { bytes, swapped }, hsub: sub.0, vsub: sub.1, bits }
}

const fn planar(fourcc: DrmFourcc, sub: (u32, u32), swapped: bool) -> Format {
    Format { fourcc, samples: Samples::Planar { swapped }, hsub: sub.0, vsub: sub.1, bits: 8 }
}

/// Every format the test clients can draw.
pub const FORMATS: &[Format] = &[
    bytes(DrmFourcc::Xrgb8888, 2, 1, 0, None),
    bytes(DrmFourcc::Argb8888, 2, 1, 0, Some(3)),
    bytes(DrmFourcc::Xbgr8888, 0, 1, 2, None),
    bytes(DrmFourcc::Abgr8888, 0, 1, 2, Some(3)),
    Format { fourcc: DrmFourcc::Rgb565, samples: Samples::Rgb565, hsub: 1, vsub: 1, bits: 8 },
    semi(DrmFourcc::Nv12, (2, 2), 1, 8, false),
    semi(DrmFourcc::Nv21, (2, 2), 1, 8, true),
    semi(DrmFourcc::Nv16, (2, 1), 1, 8, false),
    semi(DrmFourcc::Nv24, (1, 1), 1, 8, false),
    semi(DrmFourcc::P010, (2, 2), 2, 10, false),
    semi(DrmFourcc::P016, (2, 2), 2, 16, false),
    planar(DrmFourcc::Yuv420, (2, 2), false),
    planar(DrmFourcc::Yvu420, (2, 2), true),
    planar(DrmFourcc::Yuv444, (1, 1), false),
];

impl Format {
    /// Finds a format by the four characters of its code, as in `XR24`, `AR24`, `NV12`, `P010`.
    ///
    /// # Errors
    ///
    /// When the table does not have it; the message lists the names it has.
    pub fn named(name: &str) -> Result<Format> {
        match FORMATS.iter().find(|format| format.name() == name) {
            Some(format) => Ok(*format),
            None => {
                let known: Vec<String> = FORMATS.iter().map(Format::name).collect();
                bail!("unknown format {name}; known are {}", known.join(" "))
            }
        }
    }

    /// The four characters of the code.
    #[must_use]
    pub fn name(&self) -> String {
        self.fourcc.to_string().trim().to_owned()
    }

    /// Whether the pixels carry alpha.
    #[must_use]
    pub fn has_alpha(&self) -> bool {
        matches!(self.samples, Samples::Bytes { a: Some(_), .. })
    }

    /// Whether the pixels are luma and chroma.
    #[must_use]
    pub fn is_yuv(&self) -> bool {
        matches!(self.samples, Samples::SemiPlanar { .. } | Samples::Planar { .. })
    }

    /// Lays the buffer planes one after the other in one memory object. Strides are multiples of 64 bytes,
    /// plane offsets of 4096, so that any exporter and any display driver take them.
    #[must_use]
    pub fn layout(&self, width: u32, height: u32) -> Vec<PlaneLayout> {
        let chroma_width = width.div_ceil(self.hsub);
        let chroma_rows = height.div_ceil(self.vsub);
        let sizes: Vec<(u32, u32)> = match self.samples {
            Samples::Bytes { .. } => vec![(width * 4, height)],
            Samples::Rgb565 => vec![(width * 2, height)],
            Samples::SemiPlanar { bytes, .. } => {
                let bytes = bytes as u32;
                vec![(width * bytes, height), (chroma_width * 2 * bytes, chroma_rows)]
            }
            Samples::Planar { .. } => {
                vec![(width, height), (chroma_width, chroma_rows), (chroma_width, chroma_rows)]
            }
        };
        let mut offset = 0u32;
        sizes
            .into_iter()
            .map(|(row, rows)| {
                let plane = PlaneLayout { offset, stride: row.next_multiple_of(64), rows };
                offset = (offset + plane.stride * rows).next_multiple_of(4096);
                plane
            })
            .collect()
    }

    /// The bytes that all planes of [`Format::layout`] need, rounded up to whole pages.
    #[must_use]
    pub fn size(&self, width: u32, height: u32) -> u64 {
        self.layout(width, height)
            .iter()
            .map(|plane| u64::from(plane.offset) + u64::from(plane.stride) * u64::from(plane.rows))
            .max()
            .unwrap_or(0)
            .next_multiple_of(4096)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for format in FORMATS {
            assert_eq!(Format::named(&format.name()).unwrap(), *format);
        }
        assert!(Format::named("ZZ99").unwrap_err().to_string().contains("NV12"));
    }

    #[test]
    fn nv12_has_half_size_chroma_after_luma() {
        let planes = Format::named("NV12").unwrap().layout(100, 51);
        assert_eq!(planes[0], PlaneLayout { offset: 0, stride: 128, rows: 51 });
        assert_eq!(planes[1], PlaneLayout { offset: 8192, stride: 128, rows: 26 });
        assert_eq!(Format::named("NV12").unwrap().size(100, 51), 12288);
    }

    #[test]
    fn planes_never_overlap() {
        for format in FORMATS {
            let planes = format.layout(333, 77);
            for pair in planes.windows(2) {
                assert!(pair[0].offset + pair[0].stride * pair[0].rows <= pair[1].offset, "{format:?}");
            }
        }
    }
}
