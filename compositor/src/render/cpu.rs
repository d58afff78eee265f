//! Composition with Pixman: on the CPU, straight from the clients' memory where its format allows.
//!
//! It owns the Pixman renderer and the views of dma-bufs that it reads. Which layers it gets, and what is kept of a
//! texture from one frame to the next, is decided in [`super`].

use drm_fourcc::{DrmFourcc, DrmModifier};
use pixman::{FormatCode, Image};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};
use smithay::backend::renderer::damage::OutputDamageTracker;
use smithay::backend::renderer::pixman::{PixmanRenderer, PixmanTexture};
use smithay::backend::renderer::{Bind as _, Color32F, ImportMemWl as _};
use smithay::utils::{Buffer as BufferCoords, Size};
use smithay::wayland::compositor::SurfaceData;

use super::dmabuf_view::{self, DmabufView, Views};
use super::element::{LayerElement, Texture};
use super::{Imported, RenderError, Target, image, resample, yuv};
use crate::fences::bounded;
use crate::import::Reason;
use crate::output::color::Color;
use crate::output::layers::SurfaceLayer;

use std::sync::Arc;

/// Formats that can be read from a LINEAR dma-buf on the CPU: Pixman's and those that are converted from YUV.
pub fn reads(format: DrmFourcc) -> bool {
    FormatCode::try_from(format).is_ok() || yuv::supports(format)
}

/// Tells whether the CPU can read a dma-buf, by mapping some of it for a moment. `sizes` are those of its planes' files, in bytes.
///
/// # Errors
/// Why not.
pub fn check(dmabuf: &Dmabuf, sizes: impl Iterator<Item = u64>) -> Result<(), Reason> {
    let format = dmabuf.format();
    if !reads(format.code) {
        return Err(Reason::NotReadable(format.code));
    }
    if format.modifier != DrmModifier::Linear {
        return Err(Reason::NotLinear(format.modifier));
    }
    let converted = yuv::supports(format.code);
    dmabuf_view::check(dmabuf, sizes, !converted).map_err(|err| Reason::View(err.into()))?;
    if converted {
        let strides: Vec<u32> = dmabuf.strides().collect();
        return yuv::check(format.code, &strides).map_err(|err| Reason::View(err.into()));
    }
    Ok(())
}

/// A dma-buf on its way to a texture.
pub(super) enum Source {
    /// Converted pixels, which do not follow the client's.
    Copy(Image<'static, 'static>),
    /// The client's own memory.
    View(Arc<DmabufView>, FormatCode),
}

/// Makes a LINEAR dma-buf readable for Pixman. `color` says what luma and chroma are.
///
/// # Errors
/// When its layout is not known to the CPU or its memory cannot be read.
pub(super) fn read(views: &mut Views, dmabuf: &Dmabuf, color: Color) -> Result<Source, RenderError> {
    let format = dmabuf.format();
    if format.modifier != DrmModifier::Linear {
        return Err(RenderError::Format(format.code));
    }
    let view = views.get(dmabuf)?;
    if yuv::supports(format.code) {
        let pixels = view.read(|planes| yuv::to_xrgb(format.code, color, dmabuf.size(), planes))??;
        let size = dmabuf.size();
        let image = image::from_xrgb(&pixels, size.w, size.h).ok_or(RenderError::Format(format.code))?;
        return Ok(Source::Copy(image));
    }
    let code = FormatCode::try_from(format.code).map_err(|_| RenderError::Format(format.code))?;
    Ok(Source::View(view, code))
}

/// Reads a buffer as it would be composited; says whether it has a pixel that is not black.
///
/// # Errors
/// See [`read`].
pub(super) fn try_out(views: &mut Views, dmabuf: &Dmabuf) -> Result<bool, RenderError> {
    let pixels = match read(views, dmabuf, Color::default())? {
        Source::Copy(mut image) => Some(image::to_xrgb(&mut image)),
        Source::View(view, code) => view.with_image(code, |image| image::to_argb(image))?,
    };
    Ok(image::is_lit(&pixels.ok_or(RenderError::Resample)?))
}

/// Pixman and the dma-bufs that it has mapped.
#[derive(Debug)]
pub struct Cpu {
    renderer: PixmanRenderer,
    views: Views,
}

impl Cpu {
    /// Makes a renderer.
    ///
    /// # Errors
    /// When Pixman cannot be initialised.
    pub fn new() -> Result<Self, RenderError> {
        Ok(Self { renderer: PixmanRenderer::new()?, views: Views::default() })
    }

    /// See [`super::Painter::try_out`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn try_out(&mut self, dmabuf: &Dmabuf) -> Result<bool, RenderError> {
        try_out(&mut self.views, dmabuf)
    }

    pub(super) fn forget(&mut self, dmabuf: &WeakDmabuf) {
        self.views.forget(dmabuf);
    }

    pub(super) fn mapped(&self) -> usize {
        self.views.len()
    }

    /// The texture of a layer: as it is, or resampled to `size`.
    ///
    /// # Errors
    /// When the buffer cannot be read.
    pub(super) fn texture(
        &mut self,
        layer: &SurfaceLayer,
        states: &SurfaceData,
        size: Option<Size<i32, BufferCoords>>,
    ) -> Result<Imported, RenderError> {
        if let Some(size) = size {
            return self.resample(layer, size);
        }
        let live = |texture, view| Imported { texture: Texture::Pixman(texture, view), live: true };
        Ok(match &layer.dmabuf {
            None => live(self.renderer.import_shm_buffer(&layer.buffer, Some(states), &[])?, None),
            Some(dmabuf) => match read(&mut self.views, dmabuf, layer.color.unwrap_or_default())? {
                Source::Copy(image) => copied(image.into()),
                Source::View(view, code) => live(view.image(code)?.into(), Some(view)),
            },
        })
    }

    fn resample(
        &mut self,
        layer: &SurfaceLayer,
        size: Size<i32, BufferCoords>,
    ) -> Result<Imported, RenderError> {
        let sheer = layer.alpha != u16::MAX;
        let scale = |image: &mut Image<'static, 'static>| resample::resample(image, layer.src, size, sheer);
        let image = match &layer.dmabuf {
            None => resample::with_shm_image(&layer.buffer, scale)?.flatten(),
            Some(dmabuf) => match read(&mut self.views, dmabuf, layer.color.unwrap_or_default())? {
                Source::Copy(mut image) => scale(&mut image),
                Source::View(view, code) => view.with_image(code, scale)?,
            },
        };
        Ok(copied(image.ok_or(RenderError::Resample)?.into()))
    }

    /// See [`super::Painter::draw`].
    ///
    /// # Errors
    /// When Pixman fails.
    pub(super) fn draw(
        &mut self,
        tracker: &mut OutputDamageTracker,
        target: &mut Target,
        age: usize,
        elements: &[LayerElement],
        background: Color32F,
    ) -> Result<bool, RenderError> {
        let mut framebuffer = self.renderer.bind(&mut target.image)?;
        let reads = elements.iter().any(LayerElement::reads_dmabuf);
        let mut draw = || {
            let renderer = &mut self.renderer;
            let result = tracker.render_output(renderer, &mut framebuffer, age, elements, background);
            result.map(|result| result.damage.is_some())
        };
        // One limit for all: setting it costs more than looking at a buffer's fences.
        Ok(if reads { bounded(draw) } else { draw() }?)
    }
}

fn copied(texture: PixmanTexture) -> Imported {
    Imported { texture: Texture::Pixman(texture, None), live: false }
}
