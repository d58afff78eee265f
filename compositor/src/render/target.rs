//! What is drawn into: memory that the CPU sees and, where the backend shares it, a dma-buf of the same memory.
//!
//! It owns neither the memory (the backend does) nor the decision which way is taken ([`super::Painter`]).

use pixman::Image;
use smithay::backend::allocator::dmabuf::Dmabuf;
use smithay::backend::renderer::gles::GlesRenderbuffer;

/// A buffer of a composition swapchain, as the renderers see it. Its pixels are 32 bits each.
#[derive(Debug)]
pub struct Target {
    /// Draws into the memory. It points into memory that the owner of the target keeps.
    pub image: Image<'static, 'static>,
    /// The same memory for a GPU; `None` where it cannot be shared: then a GPU's picture is read back into `image`.
    pub shared: Option<Dmabuf>,
    /// The GPU's picture of a target that is not shared, as large as `image`; made at first use.
    pub(super) offscreen: Option<GlesRenderbuffer>,
}

impl Target {
    /// A target that only the CPU sees.
    pub fn new(image: Image<'static, 'static>) -> Self {
        Self { image, shared: None, offscreen: None }
    }

    /// A target of which `shared` is the same memory.
    pub fn shared(image: Image<'static, 'static>, shared: Option<Dmabuf>) -> Self {
        Self { image, shared, offscreen: None }
    }
}
