//! Composition of what no plane took: Pixman, on the CPU, into a buffer that the backend owns.
//!
//! It owns the renderer and the readable views of client buffers. It does not decide what is composited
//! ([`crate::output`] does) and never sees a layer that a plane shows.

mod dmabuf_view;
mod element;
pub mod image;
pub mod yuv;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use drm_fourcc::{DrmFourcc, DrmModifier};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};
use smithay::backend::renderer::damage::OutputDamageTracker;
use smithay::backend::renderer::pixman::{PixmanError, PixmanRenderer, PixmanTexture};
use smithay::backend::renderer::utils::CommitCounter;
use smithay::backend::renderer::{Bind, Color32F, ImportMem, ImportMemWl};
use smithay::reexports::wayland_server::Resource;
use smithay::reexports::wayland_server::backend::ObjectId;
use smithay::wayland::compositor::with_states;

pub use dmabuf_view::{DmabufView, ViewError};
pub use element::LayerElement;

use crate::output::layers::SurfaceLayer;

/// The background of an output: opaque, sRGB 0x24, 0x29, 0x33.
pub const BACKGROUND: Color32F =
    Color32F::new(0x24 as f32 / 255.0, 0x29 as f32 / 255.0, 0x33 as f32 / 255.0, 1.0);

/// Why a layer could not be composited.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The renderer refused.
    #[error("pixman: {0}")]
    Pixman(#[from] PixmanError),
    /// The memory of the dma-buf cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The YUV conversion refused.
    #[error(transparent)]
    Yuv(#[from] yuv::YuvError),
    /// Neither Pixman nor the YUV conversion knows the format.
    #[error("no CPU path for format {0}")]
    Format(DrmFourcc),
    /// The output has no mode.
    #[error("the output has no mode")]
    NoMode,
}

/// A picture of a client buffer that the renderer can read, kept with the surface until its next buffer.
struct CachedTexture {
    buffer: ObjectId,
    commit: CommitCounter,
    texture: PixmanTexture,
    view: Option<Arc<DmabufView>>,
}

#[derive(Default)]
struct TextureSlot(Mutex<Option<CachedTexture>>);

/// The renderer and the views of dma-bufs that it has mapped.
#[derive(Debug)]
pub struct Painter {
    renderer: PixmanRenderer,
    views: HashMap<WeakDmabuf, Arc<DmabufView>>,
}

impl Painter {
    /// Makes a renderer.
    ///
    /// # Errors
    /// When Pixman cannot be initialised.
    pub fn new() -> Result<Self, RenderError> {
        Ok(Self { renderer: PixmanRenderer::new()?, views: HashMap::new() })
    }

    /// Formats that can be composited from a LINEAR dma-buf: Pixman's and those that are converted from YUV.
    pub fn can_composite(format: DrmFourcc) -> bool {
        pixman::FormatCode::try_from(format).is_ok() || yuv::supports(format)
    }

    /// Drops the view of a buffer that is gone.
    pub fn forget(&mut self, dmabuf: &WeakDmabuf) {
        self.views.remove(dmabuf);
    }

    /// Number of dma-bufs that are mapped for reading.
    pub fn mapped(&self) -> usize {
        self.views.len()
    }

    fn view(&mut self, dmabuf: &Dmabuf) -> Result<Arc<DmabufView>, RenderError> {
        let key = dmabuf.weak();
        if let Some(view) = self.views.get(&key) {
            return Ok(view.clone());
        }
        let view = Arc::new(DmabufView::new(dmabuf)?);
        self.views.insert(key, view.clone());
        Ok(view)
    }

    fn import_dmabuf(
        &mut self,
        dmabuf: &Dmabuf,
    ) -> Result<(PixmanTexture, Option<Arc<DmabufView>>), RenderError> {
        let format = dmabuf.format();
        if format.modifier != DrmModifier::Linear {
            return Err(RenderError::Format(format.code));
        }
        let view = self.view(dmabuf)?;
        if yuv::supports(format.code) {
            let pixels = view.read(|planes| yuv::to_xrgb(format.code, dmabuf.size(), planes))??;
            let texture = self.renderer.import_memory(&pixels, DrmFourcc::Xrgb8888, dmabuf.size(), false)?;
            return Ok((texture, None));
        }
        let code = pixman::FormatCode::try_from(format.code).map_err(|_| RenderError::Format(format.code))?;
        let texture = view.image(code)?;
        Ok((PixmanTexture::from(texture), Some(view)))
    }

    /// Makes the element that draws a layer.
    ///
    /// # Errors
    /// When the buffer of the layer cannot be read on the CPU.
    pub fn element(&mut self, layer: &SurfaceLayer) -> Result<LayerElement, RenderError> {
        with_states(&layer.surface, |states| {
            let slot = states.data_map.get_or_insert_threadsafe(TextureSlot::default);
            let mut slot = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
            let id = layer.buffer.id();
            if let Some(cached) = slot.as_ref() {
                let converted = cached.view.is_none() && layer.dmabuf.is_some();
                if cached.buffer == id && (!converted || cached.commit == layer.commit) {
                    return Ok(LayerElement::new(layer, cached.texture.clone(), cached.view.clone()));
                }
            }
            let (texture, view) = match &layer.dmabuf {
                Some(dmabuf) => self.import_dmabuf(dmabuf)?,
                None => (self.renderer.import_shm_buffer(&layer.buffer, Some(states), &[])?, None),
            };
            *slot = Some(CachedTexture {
                buffer: id,
                commit: layer.commit,
                texture: texture.clone(),
                view: view.clone(),
            });
            Ok(LayerElement::new(layer, texture, view))
        })
    }

    /// Draws elements, topmost first, into `image`; `age` as in EGL_EXT_buffer_age (0: contents unknown).
    /// Returns whether anything changed since the tracker's last call; if not, `image` is untouched.
    ///
    /// # Errors
    /// When Pixman fails.
    pub fn draw(
        &mut self,
        tracker: &mut OutputDamageTracker,
        image: &mut pixman::Image<'static, 'static>,
        age: usize,
        elements: &[LayerElement],
        background: Color32F,
    ) -> Result<bool, RenderError> {
        let mut target = self.renderer.bind(image)?;
        tracker
            .render_output(&mut self.renderer, &mut target, age, elements, background)
            .map(|result| result.damage.is_some())
            .map_err(|err| match err {
                smithay::backend::renderer::damage::Error::Rendering(err) => err.into(),
                smithay::backend::renderer::damage::Error::OutputNoMode(_) => RenderError::NoMode,
            })
    }
}
