//! A dumb buffer that composition draws into and a plane shows.
#![allow(unsafe_code)]

use drm_fourcc::DrmFourcc;
use drm_prime::{DumbBuffer, SharedFramebuffer};
use rustix::io::Errno;

use super::buffers::Buffers;

/// Memory, its Pixman image and its framebuffer.
#[derive(Debug)]
pub struct DumbCanvas {
    /// Draws into the memory.
    pub image: pixman::Image<'static, 'static>,
    /// Shows the memory.
    pub framebuffer: SharedFramebuffer,
    /// Keeps the memory that `image` points into; dropped after it.
    _memory: DumbBuffer,
}

impl DumbCanvas {
    /// Allocates `size` pixels of a 32-bit format.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn new(device: &Buffers, size: (u32, u32), format: DrmFourcc) -> Result<Self, Errno> {
        let (memory, framebuffer) = device.allocate(size.0, size.1, format)?;
        let code = pixman::FormatCode::try_from(format).map_err(|_| Errno::INVAL)?;
        let image = image_over(&memory, size, code)?;
        Ok(Self { image, framebuffer: SharedFramebuffer::new(framebuffer), _memory: memory })
    }

    /// No frame holds it.
    pub fn is_free(&self) -> bool {
        !self.framebuffer.is_shared()
    }
}

/// A Pixman image over the whole of a dumb buffer. The image must not outlive `memory`.
fn image_over(
    memory: &DumbBuffer,
    (width, height): (u32, u32),
    code: pixman::FormatCode,
) -> Result<pixman::Image<'static, 'static>, Errno> {
    let (stride, len) = (memory.stride() as usize, memory.mapping().len());
    if !stride.is_multiple_of(4) || stride < width as usize * 4 || len < stride * height as usize {
        return Err(Errno::INVAL);
    }
    // SAFETY: the mapping is page aligned and holds height rows of stride bytes, checked above. The caller keeps
    // the DumbBuffer beside the image and drops it later; nobody else writes to it.
    unsafe {
        let bits = memory.mapping().as_ptr().cast::<u32>();
        pixman::Image::from_raw_mut(code, width as usize, height as usize, bits, stride, false)
    }
    .map_err(|_| Errno::INVAL)
}
