//! YUV buffers that no plane takes, converted on the CPU: which formats, and what they look like to the converter
//! ([`primeway_ycbcr`]).
//!
//! Matrix and range are those that planes are told too ([`crate::output::color`]): a buffer must look the same whether it is
//! scanned out or composited.

use drm_fourcc::DrmFourcc;
use drm_prime::scanout::{ColorEncoding, ColorRange};
use primeway_ycbcr::{Layout, Matrix, Plane, Range};
use smithay::utils::{Buffer as BufferCoords, Size};

use super::dmabuf_view::PlaneBytes;
use crate::output::color::Color;

/// Why a YUV picture could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum YuvError {
    /// The converter refused planes or strides.
    #[error("yuv: {0}")]
    Convert(#[from] primeway_ycbcr::Error),
    /// Not one of [`supports`].
    #[error("{0} is not a format that is converted")]
    Format(DrmFourcc),
}

/// The layout of a format that is converted.
fn layout(format: DrmFourcc) -> Option<Layout> {
    Some(match format {
        DrmFourcc::Nv12 => Layout::semi_planar((2, 2), 8, false),
        DrmFourcc::Nv21 => Layout::semi_planar((2, 2), 8, true),
        DrmFourcc::Nv16 => Layout::semi_planar((2, 1), 8, false),
        DrmFourcc::Nv61 => Layout::semi_planar((2, 1), 8, true),
        DrmFourcc::Nv24 => Layout::semi_planar((1, 1), 8, false),
        DrmFourcc::Nv42 => Layout::semi_planar((1, 1), 8, true),
        DrmFourcc::P010 => Layout::semi_planar((2, 2), 10, false),
        DrmFourcc::Yuv420 => Layout::planar((2, 2), false),
        DrmFourcc::Yvu420 => Layout::planar((2, 2), true),
        DrmFourcc::Yuv422 => Layout::planar((2, 1), false),
        DrmFourcc::Yvu422 => Layout::planar((2, 1), true),
        DrmFourcc::Yuv444 => Layout::planar((1, 1), false),
        DrmFourcc::Yvu444 => Layout::planar((1, 1), true),
        DrmFourcc::Yuyv => Layout::packed(0, 1, 3),
        DrmFourcc::Uyvy => Layout::packed(1, 0, 2),
        _ => return None,
    })
}

/// Tells whether [`to_xrgb`] knows the format.
pub fn supports(format: DrmFourcc) -> bool {
    layout(format).is_some()
}

/// Tells whether [`to_xrgb`] can do with the strides of a buffer in a format that it knows.
///
/// # Errors
/// When they are misaligned.
pub fn check(format: DrmFourcc, strides: &[u32]) -> Result<(), YuvError> {
    let wide = layout(format).is_some_and(|layout| layout.is_wide());
    if wide && !strides.iter().all(|stride| stride.is_multiple_of(2)) {
        return Err(primeway_ycbcr::Error::Alignment.into());
    }
    Ok(())
}

/// The converter's words for matrix and range.
pub(super) fn meaning((encoding, range): Color) -> (Matrix, Range) {
    let matrix = match encoding {
        ColorEncoding::Bt601 => Matrix::Bt601,
        ColorEncoding::Bt709 => Matrix::Bt709,
        ColorEncoding::Bt2020 => Matrix::Bt2020,
    };
    let range = match range {
        ColorRange::Limited => Range::Limited,
        ColorRange::Full => Range::Full,
    };
    (matrix, range)
}

/// Converts to XRGB8888 (bytes B, G, R, X), `size.w * 4` bytes a row.
///
/// # Errors
/// When planes are missing, misaligned or too small for `size`.
pub fn to_xrgb(
    format: DrmFourcc,
    color: Color,
    size: Size<i32, BufferCoords>,
    planes: &[PlaneBytes<'_>],
) -> Result<Vec<u8>, YuvError> {
    let layout = layout(format).ok_or(YuvError::Format(format))?;
    let planes = planes.iter().map(|plane| Plane { bytes: plane.bytes, stride: plane.stride as usize });
    let planes: Vec<_> = planes.collect();
    let size = (size.w.max(0) as usize, size.h.max(0) as usize);
    Ok(primeway_ycbcr::to_xrgb(&layout, meaning(color), size, &planes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limited_range_white_red_and_black_come_out_right() {
        // BT.601 limited: white (235,128,128), red (81,90,240).
        let y = [235, 81, 126, 16];
        for (uv, pixel, expected) in
            [([128, 128], 0usize, [255u8, 255, 255]), ([90, 240], 1, [0, 0, 254]), ([128, 128], 3, [0, 0, 0])]
        {
            let planes = [PlaneBytes { bytes: &y, stride: 2 }, PlaneBytes { bytes: &uv, stride: 2 }];
            let out = to_xrgb(DrmFourcc::Nv12, Color::default(), (2, 2).into(), &planes).unwrap();
            let got = &out[pixel * 4..pixel * 4 + 3];
            assert!(got.iter().zip(expected).all(|(g, e)| g.abs_diff(e) <= 1), "{got:?} {expected:?}");
        }
    }

    #[test]
    fn every_plane_of_a_format_is_read() {
        for info in drm_prime::format::all() {
            let Some(format) = DrmFourcc::try_from(info.fourcc).ok().filter(|f| supports(*f)) else {
                continue;
            };
            let bytes = [0; 64];
            let planes = vec![PlaneBytes { bytes: &bytes, stride: 8 }; info.plane_count()];
            assert!(to_xrgb(format, Color::default(), (2, 2).into(), &planes).is_ok(), "{format}");
            let fewer = to_xrgb(format, Color::default(), (2, 2).into(), &planes[1..]);
            assert!(matches!(fewer, Err(YuvError::Convert(_))), "{format}");
        }
    }

    #[test]
    fn wide_samples_want_even_strides() {
        assert!(check(DrmFourcc::P010, &[5, 4]).is_err());
        assert!(check(DrmFourcc::P010, &[6, 4]).is_ok() && check(DrmFourcc::Nv12, &[5, 5]).is_ok());
        assert!(matches!(
            to_xrgb(DrmFourcc::Xrgb8888, Color::default(), (2, 2).into(), &[]),
            Err(YuvError::Format(_))
        ));
    }
}
