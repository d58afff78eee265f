//! YUV buffers that no plane takes, converted on the CPU.
//!
//! The matrix is BT.601, limited range, as the planes are told too ([`crate::backend::kms`]): without a
//! colour protocol a buffer must look the same whether it is scanned out or composited.

use drm_fourcc::DrmFourcc;
use smithay::utils::{Buffer as BufferCoords, Size};
use yuv::{YuvBiPlanarImage, YuvPackedImage, YuvPlanarImage, YuvRange, YuvStandardMatrix};

use super::dmabuf_view::PlaneBytes;

const RANGE: YuvRange = YuvRange::Limited;
const MATRIX: YuvStandardMatrix = YuvStandardMatrix::Bt601;

/// Why a YUV picture could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum YuvError {
    /// The converter refused sizes or strides.
    #[error("yuv: {0}")]
    Convert(#[from] yuv::YuvError),
    /// Fewer planes than the format has.
    #[error("a plane is missing")]
    MissingPlane,
    /// A 16-bit plane at an odd address or stride.
    #[error("16-bit samples at an odd address or stride")]
    Alignment,
    /// Not one of [`supports`].
    #[error("{0} is not a format that is converted")]
    Format(DrmFourcc),
}

/// Tells whether [`to_xrgb`] knows the format.
pub fn supports(format: DrmFourcc) -> bool {
    matches!(
        format,
        DrmFourcc::Nv12
            | DrmFourcc::Nv21
            | DrmFourcc::Nv16
            | DrmFourcc::Nv61
            | DrmFourcc::Nv24
            | DrmFourcc::Nv42
            | DrmFourcc::P010
            | DrmFourcc::Yuv420
            | DrmFourcc::Yvu420
            | DrmFourcc::Yuv422
            | DrmFourcc::Yvu422
            | DrmFourcc::Yuv444
            | DrmFourcc::Yvu444
            | DrmFourcc::Yuyv
            | DrmFourcc::Uyvy
    )
}

/// Tells whether [`to_xrgb`] can do with the strides of a buffer in a format that it knows.
///
/// # Errors
/// When they are misaligned.
pub fn check(format: DrmFourcc, strides: &[u32]) -> Result<(), YuvError> {
    let whole = |stride: &u32| stride.is_multiple_of(2);
    if format == DrmFourcc::P010 && !strides.iter().all(whole) { Err(YuvError::Alignment) } else { Ok(()) }
}

/// Converts to XRGB8888 (bytes B, G, R, X), `size.w * 4` bytes a row.
///
/// # Errors
/// When planes are missing, misaligned or too small for `size`.
pub fn to_xrgb(
    format: DrmFourcc,
    size: Size<i32, BufferCoords>,
    planes: &[PlaneBytes<'_>],
) -> Result<Vec<u8>, YuvError> {
    let (width, height) = (size.w.max(0) as u32, size.h.max(0) as u32);
    let stride = width * 4;
    let mut out = vec![0; stride as usize * height as usize];
    let plane = |i: usize| planes.get(i).ok_or(YuvError::MissingPlane);
    match format {
        DrmFourcc::P010 => p010(&mut out, stride, (width, height), plane(0)?, plane(1)?)?,
        DrmFourcc::Nv12
        | DrmFourcc::Nv21
        | DrmFourcc::Nv16
        | DrmFourcc::Nv61
        | DrmFourcc::Nv24
        | DrmFourcc::Nv42 => {
            let (y, uv) = (plane(0)?, plane(1)?);
            let image = YuvBiPlanarImage {
                y_plane: y.bytes,
                y_stride: y.stride,
                uv_plane: uv.bytes,
                uv_stride: uv.stride,
                width,
                height,
            };
            let mode = yuv::YuvConversionMode::Balanced;
            match format {
                DrmFourcc::Nv12 => yuv::yuv_nv12_to_bgra(&image, &mut out, stride, RANGE, MATRIX, mode)?,
                DrmFourcc::Nv21 => yuv::yuv_nv21_to_bgra(&image, &mut out, stride, RANGE, MATRIX, mode)?,
                DrmFourcc::Nv16 => yuv::yuv_nv16_to_bgra(&image, &mut out, stride, RANGE, MATRIX, mode)?,
                DrmFourcc::Nv61 => yuv::yuv_nv61_to_bgra(&image, &mut out, stride, RANGE, MATRIX, mode)?,
                DrmFourcc::Nv24 => yuv::yuv_nv24_to_bgra(&image, &mut out, stride, RANGE, MATRIX, mode)?,
                _ => yuv::yuv_nv42_to_bgra(&image, &mut out, stride, RANGE, MATRIX, mode)?,
            }
        }
        DrmFourcc::Yuyv | DrmFourcc::Uyvy => {
            let packed = plane(0)?;
            let image = YuvPackedImage { yuy: packed.bytes, yuy_stride: packed.stride, width, height };
            if format == DrmFourcc::Yuyv {
                yuv::yuyv422_to_bgra(&image, &mut out, stride, RANGE, MATRIX)?;
            } else {
                yuv::uyvy422_to_bgra(&image, &mut out, stride, RANGE, MATRIX)?;
            }
        }
        _ => {
            let swapped = matches!(format, DrmFourcc::Yvu420 | DrmFourcc::Yvu422 | DrmFourcc::Yvu444);
            let (y, first, second) = (plane(0)?, plane(1)?, plane(2)?);
            let (u, v) = if swapped { (second, first) } else { (first, second) };
            let image = YuvPlanarImage {
                y_plane: y.bytes,
                y_stride: y.stride,
                u_plane: u.bytes,
                u_stride: u.stride,
                v_plane: v.bytes,
                v_stride: v.stride,
                width,
                height,
            };
            match format {
                DrmFourcc::Yuv420 | DrmFourcc::Yvu420 => {
                    yuv::yuv420_to_bgra(&image, &mut out, stride, RANGE, MATRIX)?;
                }
                DrmFourcc::Yuv422 | DrmFourcc::Yvu422 => {
                    yuv::yuv422_to_bgra(&image, &mut out, stride, RANGE, MATRIX)?;
                }
                DrmFourcc::Yuv444 | DrmFourcc::Yvu444 => {
                    yuv::yuv444_to_bgra(&image, &mut out, stride, RANGE, MATRIX)?;
                }
                other => return Err(YuvError::Format(other)),
            }
        }
    }
    Ok(out)
}

fn p010(
    out: &mut [u8],
    stride: u32,
    (width, height): (u32, u32),
    y: &PlaneBytes<'_>,
    uv: &PlaneBytes<'_>,
) -> Result<(), YuvError> {
    let (luma, chroma) = (samples(y)?, samples(uv)?);
    let image = YuvBiPlanarImage {
        y_plane: &luma,
        y_stride: y.stride / 2,
        uv_plane: &chroma,
        uv_stride: uv.stride / 2,
        width,
        height,
    };
    Ok(yuv::p010_to_bgra(&image, out, stride, RANGE, MATRIX, yuv::YuvConversionMode::Balanced)?)
}

fn samples(plane: &PlaneBytes<'_>) -> Result<Vec<u16>, YuvError> {
    if !plane.stride.is_multiple_of(2) {
        return Err(YuvError::Alignment);
    }
    Ok(plane.bytes.chunks_exact(2).map(|s| u16::from_le_bytes([s[0], s[1]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limited_range_white_grey_and_red_come_out_right() {
        // BT.601 limited: white (235,128,128), red (81,90,240).
        let y = [235, 81, 126, 16];
        for (uv, pixel, expected) in
            [([128, 128], 0usize, [255u8, 255, 255]), ([90, 240], 1, [0, 0, 254]), ([128, 128], 3, [0, 0, 0])]
        {
            let planes = [PlaneBytes { bytes: &y, stride: 2 }, PlaneBytes { bytes: &uv, stride: 2 }];
            let out = to_xrgb(DrmFourcc::Nv12, (2, 2).into(), &planes).unwrap();
            let got = &out[pixel * 4..pixel * 4 + 3];
            assert!(got.iter().zip(expected).all(|(g, e)| g.abs_diff(e) <= 2), "{got:?} {expected:?}");
        }
    }

    #[test]
    fn a_missing_plane_is_an_error() {
        let planes = [PlaneBytes { bytes: &[0; 4], stride: 2 }];
        assert!(matches!(to_xrgb(DrmFourcc::Nv12, (2, 2).into(), &planes), Err(YuvError::MissingPlane)));
    }
}
