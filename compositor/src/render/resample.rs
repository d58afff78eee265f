//! Scaled layers: resampled into an image of their own, with the edge pixels repeated outwards.
//!
//! smithay's Pixman frame blends the edges of a scaled picture with transparent black and rounds the source
//! rectangle to whole pixels; here neither happens.
#![allow(unsafe_code)]

use pixman::{Filter, FormatCode, Image, Operation, Repeat, Transform};
use smithay::reexports::wayland_server::WEnum;
use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::utils::{Buffer as BufferCoords, Rectangle, Size};
use smithay::wayland::shm::{
    BufferAccessError, shm_format_to_fourcc, with_buffer_contents, wl_bytes_per_pixel,
};

/// Resamples the part `src` of an image to `size` pixels, bilinear; to an image with alpha if the source has it or it is
/// asked for. `None` when there is no memory or nothing to show.
pub fn resample(
    source: &mut Image<'static, 'static>,
    src: Rectangle<f64, BufferCoords>,
    size: Size<i32, BufferCoords>,
    with_alpha: bool,
) -> Option<Image<'static, 'static>> {
    let (width, height) = (usize::try_from(size.w).ok()?, usize::try_from(size.h).ok()?);
    if width == 0 || height == 0 {
        return None;
    }
    let fourcc = drm_fourcc::DrmFourcc::try_from(source.format()).ok()?;
    let has_alpha = with_alpha || drm_prime::format::info(fourcc).is_none_or(|info| info.has_alpha);
    let code = if has_alpha { FormatCode::A8R8G8B8 } else { FormatCode::X8R8G8B8 };
    let mut out = Image::new(code, width, height, true).ok()?;
    let (sx, sy) = (src.size.w / f64::from(size.w), src.size.h / f64::from(size.h));
    let to_source = Transform::identity().scale(sx, sy, false)?.translate(src.loc.x, src.loc.y, false)?;
    source.set_transform(to_source).ok()?;
    source.set_filter(Filter::Bilinear, &[]).ok()?;
    source.set_repeat(Repeat::Pad);
    out.composite32(Operation::Src, source, None, (0, 0), (0, 0), (0, 0), (size.w, size.h));
    source.clear_transform().ok()?;
    Some(out)
}

/// Tells whether the rows of a wl_shm buffer are no whole 32-bit words, which Pixman cannot read in place.
pub fn has_odd_rows(buffer: &WlBuffer) -> bool {
    with_buffer_contents(buffer, |_, _, data| data.stride % 4 != 0 || data.offset % 4 != 0).unwrap_or(false)
}

/// Calls `f` with the picture of a wl_shm buffer, guarded against a pool that its client makes smaller. `None` for
/// a format that Pixman does not know or a picture that reaches beyond its pool.
///
/// # Errors
/// When it is no wl_shm buffer, or the pool was made smaller meanwhile.
pub fn with_shm_image<T>(
    buffer: &WlBuffer,
    f: impl FnOnce(&mut Image<'static, 'static>) -> T,
) -> Result<Option<T>, BufferAccessError> {
    with_buffer_contents(buffer, |pool, len, data| {
        let code = shm_format_to_fourcc(data.format).and_then(|f| FormatCode::try_from(f).ok())?;
        let (offset, stride) = (usize::try_from(data.offset).ok()?, usize::try_from(data.stride).ok()?);
        let (width, height) = (usize::try_from(data.width).ok()?, usize::try_from(data.height).ok()?);
        if stride.checked_mul(height)?.checked_add(offset)? > len {
            return None;
        }
        if !(offset | stride).is_multiple_of(4) {
            // Pixman wants whole words per row: the rows are copied into an image that has them.
            let mut image = Image::new(code, width, height, true).ok()?;
            let row =
                (width * usize::try_from(wl_bytes_per_pixel(WEnum::Value(data.format))).ok()?).min(stride);
            let to_stride = image.stride();
            // SAFETY: only the address is taken.
            let to = unsafe { image.data() }.cast::<u8>();
            for y in 0..height {
                // SAFETY: the row lies in the pool (checked above) and in the image, whose rows are at least as long.
                unsafe {
                    std::ptr::copy_nonoverlapping(pool.add(offset + y * stride), to.add(y * to_stride), row)
                };
            }
            return Some(f(&mut image));
        }
        // SAFETY: height rows of stride bytes from offset lie in the pool, and smithay checked width against stride
        // when the buffer was made. The image is a source only and does not outlive the closure.
        let image = unsafe {
            let bits = pool.add(offset).cast_mut().cast::<u32>();
            Image::from_raw_mut(code, width, height, bits, stride, false)
        };
        image.ok().map(|mut image| f(&mut image))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::image;

    fn row(pixels: &[u8], size: i32) -> Vec<u8> {
        let mut source = image::from_xrgb(pixels, pixels.len() as i32 / 4, 1).unwrap();
        let src = Rectangle::from_size((pixels.len() as f64 / 4.0, 1.0).into());
        let mut out = resample(&mut source, src, (size, 1).into(), false).unwrap();
        image::to_xrgb(&mut out).chunks(4).map(|p| p[0]).collect()
    }

    #[test]
    fn one_colour_stays_that_colour_up_to_the_edges() {
        assert_eq!(row(&[200, 200, 200, 0, 200, 200, 200, 0], 8), [200; 8]);
    }

    #[test]
    fn between_two_colours_it_is_smooth() {
        let out = row(&[0, 0, 0, 0, 200, 200, 200, 0], 8);
        assert_eq!((out[0], out[7]), (0, 200));
        assert!(out.windows(2).all(|w| w[0] <= w[1]) && out[3] > 0 && out[4] < 200, "{out:?}");
    }
}
