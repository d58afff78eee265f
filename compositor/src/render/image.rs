//! Pixels in and out of Pixman images.
#![allow(unsafe_code)]

use pixman::{FormatCode, Image, Operation};

/// A picture of XRGB8888 pixels, tightly packed rows.
#[derive(Debug)]
pub struct Picture {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes B, G, R, X for each pixel.
    pub pixels: Vec<u8>,
}

/// Makes an image of XRGB8888 pixels (bytes B, G, R, X, tightly packed). `None` if there are too few of them.
pub fn from_xrgb(pixels: &[u8], width: i32, height: i32) -> Option<Image<'static, 'static>> {
    from_bytes(FormatCode::X8R8G8B8, pixels, width, height)
}

/// Makes an image of ARGB8888 pixels, premultiplied. `None` if there are too few of them.
pub fn from_argb(pixels: &[u8], width: i32, height: i32) -> Option<Image<'static, 'static>> {
    from_bytes(FormatCode::A8R8G8B8, pixels, width, height)
}

fn from_bytes(code: FormatCode, pixels: &[u8], width: i32, height: i32) -> Option<Image<'static, 'static>> {
    let (width, height) = (usize::try_from(width).ok()?, usize::try_from(height).ok()?);
    let row = width.checked_mul(4)?;
    if row == 0 || height == 0 || pixels.len() < row.checked_mul(height)? {
        return None;
    }
    let image = Image::new(code, width, height, true).ok()?;
    let stride = image.stride();
    for (y, line) in pixels.chunks_exact(row).take(height).enumerate() {
        // SAFETY: the image owns height rows of stride >= row bytes, and nothing else refers to them yet.
        unsafe {
            let to = image.data().cast::<u8>().add(y * stride);
            std::ptr::copy_nonoverlapping(line.as_ptr(), to, row);
        }
    }
    Some(image)
}

/// The pixels of a 32-bit image, tightly packed.
pub fn to_xrgb(image: &mut Image<'static, 'static>) -> Vec<u8> {
    let (width, height, stride) = (image.width(), image.height(), image.stride());
    let mut out = Vec::with_capacity(width * height * 4);
    for y in 0..height {
        // SAFETY: the image holds height rows of stride >= width * 4 bytes, borrowed for this call.
        let line =
            unsafe { std::slice::from_raw_parts(image.data().cast::<u8>().add(y * stride), width * 4) };
        out.extend_from_slice(line);
    }
    out
}

/// The pixels of an image of any format in 32 bits (bytes B, G, R, A, premultiplied), tightly packed; A is 255 if the
/// image has no alpha. `None` when there is no memory.
pub fn to_argb(image: &Image<'static, 'static>) -> Option<Vec<u8>> {
    let (width, height) = (image.width(), image.height());
    let mut out = Image::new(FormatCode::A8R8G8B8, width, height, true).ok()?;
    let size = (i32::try_from(width).ok()?, i32::try_from(height).ok()?);
    out.composite32(Operation::Src, image, None, (0, 0), (0, 0), (0, 0), size);
    Some(to_xrgb(&mut out))
}

/// Tells whether any of the pixels (four bytes each, the last one alpha or nothing) is not black.
pub fn is_lit(pixels: &[u8]) -> bool {
    pixels.chunks_exact(4).any(|pixel| pixel[..3] != [0; 3])
}

/// Copies a 32-bit image into another one of the same order of channels, its top left corner to `at`.
pub fn place(to: &mut Image<'static, 'static>, part: &Image<'static, 'static>, at: (i32, i32)) {
    let size = (part.width() as i32, part.height() as i32);
    to.composite32(Operation::Src, part, None, (0, 0), (0, 0), at, size);
}
