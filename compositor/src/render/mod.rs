//! Composition of what no plane took: Pixman, on the CPU, into a buffer that the backend owns.
//!
//! It owns the renderer and the readable views of client buffers. It does not decide what is composited
//! ([`crate::output`] does) and never sees a layer that a plane shows.

mod dmabuf_view;
mod element;
pub mod image;
mod resample;
pub mod yuv;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use drm_fourcc::{DrmFourcc, DrmModifier};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};
use smithay::backend::renderer::damage::OutputDamageTracker;
use smithay::backend::renderer::pixman::{PixmanError, PixmanRenderer, PixmanTexture};
use smithay::backend::renderer::utils::CommitCounter;
use smithay::backend::renderer::{Bind, Color32F, ImportMemWl};
use smithay::reexports::wayland_server::Resource;
use smithay::reexports::wayland_server::backend::ObjectId;
use smithay::utils::{Buffer as BufferCoords, Rectangle, Size};
use smithay::wayland::compositor::{SurfaceData, with_states};
use smithay::wayland::shm::BufferAccessError;

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
    /// A wl_shm pool was made smaller than its buffers.
    #[error("the wl_shm buffer cannot be read: {0}")]
    Shm(#[from] BufferAccessError),
    /// No memory for a scaled picture, or no picture.
    #[error("the picture cannot be scaled")]
    Resample,
    /// The output has no mode.
    #[error("the output has no mode")]
    NoMode,
}

/// A picture that the renderer can read.
#[derive(Clone, Debug)]
struct Texture {
    texture: PixmanTexture,
    /// The client's memory that the texture reads from.
    view: Option<Arc<DmabufView>>,
    /// The texture has pixels of its own, which do not follow the client's.
    copied: bool,
}

/// A dma-buf on its way to a texture.
enum Import {
    Copy(pixman::Image<'static, 'static>),
    View(Arc<DmabufView>, pixman::FormatCode),
}

/// The texture of a client buffer, kept with the surface until its next buffer.
struct CachedTexture {
    buffer: ObjectId,
    commit: CommitCounter,
    resampled: Option<(Rectangle<f64, BufferCoords>, Size<i32, BufferCoords>)>,
    texture: Texture,
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

    fn import_dmabuf(&mut self, dmabuf: &Dmabuf) -> Result<Import, RenderError> {
        let format = dmabuf.format();
        if format.modifier != DrmModifier::Linear {
            return Err(RenderError::Format(format.code));
        }
        let view = self.view(dmabuf)?;
        if yuv::supports(format.code) {
            let pixels = view.read(|planes| yuv::to_xrgb(format.code, dmabuf.size(), planes))??;
            let size = dmabuf.size();
            let image = image::from_xrgb(&pixels, size.w, size.h).ok_or(RenderError::Format(format.code))?;
            return Ok(Import::Copy(image));
        }
        let code = pixman::FormatCode::try_from(format.code).map_err(|_| RenderError::Format(format.code))?;
        Ok(Import::View(view, code))
    }

    /// The texture of a layer as it is, and the view that it reads from; without a view it is a copy.
    fn import(&mut self, layer: &SurfaceLayer, states: &SurfaceData) -> Result<Texture, RenderError> {
        match &layer.dmabuf {
            None => {
                let texture = self.renderer.import_shm_buffer(&layer.buffer, Some(states), &[])?;
                Ok(Texture { texture, view: None, copied: false })
            }
            Some(dmabuf) => match self.import_dmabuf(dmabuf)? {
                Import::Copy(image) => Ok(Texture { texture: image.into(), view: None, copied: true }),
                Import::View(view, code) => {
                    Ok(Texture { texture: view.image(code)?.into(), view: Some(view), copied: false })
                }
            },
        }
    }

    /// The texture of a layer, resampled to the size that it is shown in.
    fn resample(
        &mut self,
        layer: &SurfaceLayer,
        size: Size<i32, BufferCoords>,
    ) -> Result<Texture, RenderError> {
        let scale = |image: &mut pixman::Image<'static, 'static>| resample::resample(image, layer.src, size);
        let image = match &layer.dmabuf {
            None => resample::with_shm_image(&layer.buffer, scale)?.flatten(),
            Some(dmabuf) => match self.import_dmabuf(dmabuf)? {
                Import::Copy(mut image) => scale(&mut image),
                Import::View(view, code) => view.with_image(code, scale)?,
            },
        };
        let image = image.ok_or(RenderError::Resample)?;
        Ok(Texture { texture: image.into(), view: None, copied: true })
    }

    /// Makes the element that draws a layer.
    ///
    /// # Errors
    /// When the buffer of the layer cannot be read on the CPU.
    pub fn element(&mut self, layer: &SurfaceLayer) -> Result<LayerElement, RenderError> {
        let odd = layer.dmabuf.is_none() && resample::has_odd_rows(&layer.buffer);
        let copied_size = odd.then(|| layer.src.size.to_i32_round());
        let resampled = layer.scaled_size().or(copied_size).map(|size| (layer.src, size));
        with_states(&layer.surface, |states| {
            let slot = states.data_map.get_or_insert_threadsafe(TextureSlot::default);
            let mut slot = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
            let id = layer.buffer.id();
            let current = slot.as_ref().filter(|cached| {
                cached.buffer == id
                    && cached.resampled == resampled
                    && (!cached.texture.copied || cached.commit == layer.commit)
            });
            let texture = match current {
                Some(cached) => cached.texture.clone(),
                None => match resampled {
                    Some((_, size)) => self.resample(layer, size)?,
                    None => self.import(layer, states)?,
                },
            };
            let element = LayerElement::new(layer, &texture, resampled.map(|r| r.1));
            *slot = Some(CachedTexture { buffer: id, commit: layer.commit, resampled, texture });
            Ok(element)
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
