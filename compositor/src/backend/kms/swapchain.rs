//! The buffers that composition draws into: up to four dumb buffers per output, with their age.
#![allow(unsafe_code)]

use std::sync::Arc;

use drm_fourcc::DrmFourcc;
use drm_prime::{DumbBuffer, Framebuffer};
use rustix::io::Errno;

use super::buffers::Buffers;
use crate::backend::SubmitError;

/// On screen, pending, being drawn, and one to spare while a frame waits for its release.
const MAX_BUFFERS: usize = 4;

#[derive(Debug)]
struct SwapBuffer {
    image: pixman::Image<'static, 'static>,
    framebuffer: Arc<Framebuffer>,
    drawn_at: u64,
    /// Keeps the memory that `image` points into; dropped after it.
    _memory: DumbBuffer,
}

/// A swapchain of 32-bit buffers.
#[derive(Debug)]
pub struct Swapchain {
    size: (u32, u32),
    format: DrmFourcc,
    buffers: Vec<SwapBuffer>,
    drawn: u64,
}

impl Swapchain {
    /// A swapchain for pictures of `size` pixels of a 32-bit format; memory is taken at first use.
    pub fn new(size: (u32, u32), format: DrmFourcc) -> Self {
        Self { size, format, buffers: Vec::new(), drawn: 0 }
    }

    fn grow(&mut self, device: &Buffers) -> Result<usize, Errno> {
        let (width, height) = self.size;
        let (memory, framebuffer) = device.allocate(width, height, self.format)?;
        let code = pixman::FormatCode::try_from(self.format).map_err(|_| Errno::INVAL)?;
        let image = image_over(&memory, self.size, code)?;
        self.buffers.push(SwapBuffer { image, framebuffer, drawn_at: 0, _memory: memory });
        Ok(self.buffers.len() - 1)
    }

    /// Any buffer, for test commits.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn any(&mut self, device: &Buffers) -> Result<Arc<Framebuffer>, Errno> {
        let index = if self.buffers.is_empty() { self.grow(device)? } else { 0 };
        Ok(self.buffers[index].framebuffer.clone())
    }

    /// Lets `draw` draw into the free buffer with the youngest contents; see [`crate::backend::Backend::compose`].
    ///
    /// # Errors
    /// Busy when every buffer is shown or pending.
    pub fn compose(
        &mut self,
        device: &Buffers,
        draw: &mut dyn FnMut(&mut pixman::Image<'static, 'static>, usize) -> bool,
    ) -> Result<Arc<Framebuffer>, SubmitError> {
        let free = (0..self.buffers.len())
            .filter(|&i| Arc::strong_count(&self.buffers[i].framebuffer) == 1)
            .max_by_key(|&i| self.buffers[i].drawn_at);
        let index = match free {
            Some(index) => index,
            None if self.buffers.len() < MAX_BUFFERS => self.grow(device).map_err(SubmitError::Failed)?,
            None => return Err(SubmitError::Busy),
        };
        let buffer = &mut self.buffers[index];
        let age = if buffer.drawn_at == 0 { 0 } else { self.drawn - buffer.drawn_at + 1 };
        if draw(&mut buffer.image, usize::try_from(age).unwrap_or(0)) {
            self.drawn += 1;
            buffer.drawn_at = self.drawn;
            return Ok(buffer.framebuffer.clone());
        }
        let last = self.buffers.iter().max_by_key(|b| b.drawn_at);
        last.map(|b| b.framebuffer.clone()).ok_or(SubmitError::Failed(Errno::NOENT))
    }
}

/// A Pixman image over the whole of a dumb buffer. The image must not outlive `memory`.
pub(super) fn image_over(
    memory: &DumbBuffer,
    (width, height): (u32, u32),
    code: pixman::FormatCode,
) -> Result<pixman::Image<'static, 'static>, Errno> {
    let (stride, len) = (memory.stride() as usize, memory.mapping().len());
    if stride % 4 != 0 || stride < width as usize * 4 || len < stride * height as usize {
        return Err(Errno::INVAL);
    }
    // SAFETY: the mapping is page aligned and holds height rows of stride bytes, checked above. The callers keep
    // the DumbBuffer beside the image and drop it later; nobody else writes to it.
    unsafe {
        let bits = memory.mapping().as_ptr().cast::<u32>();
        pixman::Image::from_raw_mut(code, width as usize, height as usize, bits, stride, false)
    }
    .map_err(|_| Errno::INVAL)
}
