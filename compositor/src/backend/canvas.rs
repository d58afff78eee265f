//! A dumb buffer that composition draws into and a plane shows.
//!
//! It owns the memory with its framebuffer, and the dma-buf by which a GPU draws into it. What is drawn, and by whom, is
//! in [`crate::render`].
#![allow(unsafe_code)]

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::{DumbBuffer, SharedFramebuffer};
use rustix::io::Errno;
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags};

use super::buffers::Buffers;
use crate::render::Target;

/// Memory, what draws into it and its framebuffer.
#[derive(Debug)]
pub struct DumbCanvas {
    /// Draws into the memory.
    pub target: Target,
    /// Shows the memory.
    pub framebuffer: SharedFramebuffer,
    /// Keeps the memory that `target` points into; dropped after it.
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
        let shared = if device.shares_targets() { share(&memory, size, format) } else { None };
        let framebuffer = SharedFramebuffer::new(framebuffer);
        Ok(Self { target: Target::shared(image, shared), framebuffer, _memory: memory })
    }

    /// No frame holds it.
    pub fn is_free(&self) -> bool {
        !self.framebuffer.is_shared()
    }
}

/// The memory as a dma-buf, for a GPU to draw into; `None` if the device does not export it.
fn share(memory: &DumbBuffer, size: (u32, u32), format: DrmFourcc) -> Option<Dmabuf> {
    let fd = memory
        .export()
        .inspect_err(|err| tracing::warn!(err = err as &dyn std::error::Error, "display memory not shared"))
        .ok()?;
    let size = (i32::try_from(size.0).ok()?, i32::try_from(size.1).ok()?);
    let mut builder = Dmabuf::builder(size, format, DrmModifier::Linear, DmabufFlags::empty());
    builder.add_plane(fd, 0, 0, memory.stride());
    builder.build()
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
