//! Composition with OpenGL ES: client buffers become textures, in the GPU's own layouts too, and the picture goes
//! straight into the memory that the display shows.
//!
//! ```text
//!  wl_shm ───────── upload (what was damaged) ──┐
//!  dma-buf ──────── EGLImage ───────────────────┼─> texture ──> frame ──> dma-buf of the swapchain's buffer [shared]
//!     └ no import ─ CPU view, converted, upload ┘                   └──> GPU memory, read back               [last resort]
//! ```
//!
//! It owns the GL context, what is known of each dma-buf's way into a texture, and the views of those that the GPU does
//! not take. A node's file is EGL's alone (`egl`); which nodes there are is in `nodes`.
//!
//! A layer shown 1:1 is sampled with the nearest texel, so its pixels are exact and the chroma of YUV is not smeared; a
//! scaled one bilinearly.

mod egl;
mod mapped;
mod nodes;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{ColorEncoding, ColorRange};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags, WeakDmabuf};
use smithay::backend::egl::fence::EGLFence;
use smithay::backend::renderer::damage::OutputDamageTracker;
use smithay::backend::renderer::gles::{GlesError, GlesRenderbuffer, GlesRenderer, GlesTexture};
use smithay::backend::renderer::sync::SyncPoint;
use smithay::backend::renderer::utils::CommitCounter;
use smithay::backend::renderer::{
    Bind as _, Color32F, ExportMem as _, Frame as _, ImportDma as _, ImportMem as _, ImportMemWl as _,
    Offscreen as _, Renderer as _,
};
use smithay::utils::{Buffer as BufferCoords, Physical, Rectangle, Size, Transform};
use smithay::wayland::compositor::SurfaceData;

pub(super) use egl::bind_sampler;

use self::egl::{Driver, Samplers};
use self::mapped::SoftwareReach;
use super::cpu::{self, Source};
use super::dmabuf_view::Views;
use super::element::{LayerElement, Texture};
use super::{RenderError, Target, image, resample};
use crate::fences::LATE;
use crate::import::Reason;
use crate::output::color::Color;
use crate::output::layers::SurfaceLayer;

/// Why there is no GLES renderer; each text says what to do, if something can be done.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A library is not there.
    #[error("{name} cannot be loaded: install Mesa's EGL (Debian: libegl1 libgbm1 libgl1-mesa-dri)")]
    Library {
        /// Its file name.
        name: &'static str,
        /// The loader's words.
        source: libloading::Error,
    },
    /// A node cannot be opened.
    #[error("{} cannot be opened", node.display())]
    Open {
        /// The node.
        node: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// gbm has no driver for it.
    #[error("{}: gbm has no driver for it", node.display())]
    Gbm {
        /// The node.
        node: PathBuf,
    },
    /// EGL refused.
    #[error("egl")]
    Egl(#[from] smithay::backend::egl::Error),
    /// GL refused.
    #[error("gles")]
    Gles(#[from] GlesError),
    /// Dma-bufs cannot be tried on the node.
    #[error("{}: it imports no buffers", node.display())]
    Prime {
        /// The node.
        node: PathBuf,
        /// Why.
        source: drm_prime::DeviceError,
    },
    /// The driver draws on the CPU and its node gives it no memory.
    #[error(
        "{}: there is no GPU behind this render node ({driver}); leave --render-node out", node.display()
    )]
    NoGpu {
        /// The node.
        node: PathBuf,
        /// GL_RENDERER.
        driver: String,
    },
}

/// What EGL takes luma and chroma for if nothing is said, which smithay 0.7.0 does not: Mesa's default.
const EGL_COLOR: Color = (ColorEncoding::Bt601, ColorRange::Limited);

/// How a picture gets from the GPU to the display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is drawn into the memory that the display shows.
    Shared,
    /// It is drawn into GPU memory and copied by the CPU, one copy for each frame.
    ReadBack,
}

/// What is known of a dma-buf's way into a texture.
#[derive(Debug)]
enum Route {
    /// The GPU reads the client's memory. For a buffer stored bottom row first: the same without that flag, since
    /// smithay would flip it where the layer's transform does already.
    Gpu { upright: Option<Dmabuf> },
    /// The CPU reads it.
    Cpu,
}

/// The commit of a surface up to which its wl_shm texture is uploaded.
#[derive(Default)]
struct Uploaded(Mutex<Option<CommitCounter>>);

/// The renderer.
#[derive(Debug)]
pub struct Gles {
    renderer: GlesRenderer,
    driver: Driver,
    node: Option<PathBuf>,
    device: Option<u64>,
    samplers: Samplers,
    /// For a driver that draws on the CPU: which memory it reaches.
    reach: Option<SoftwareReach>,
    way: Way,
    routes: HashMap<WeakDmabuf, Route>,
    views: Views,
}

impl Gles {
    /// Makes a renderer on a DRM node, or without a device, on the CPU.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn open(node: Option<&Path>) -> Result<Self, StartError> {
        let (mut renderer, driver) = egl::renderer(node)?;
        let reach = match node.filter(|_| driver.software) {
            Some(node) if nodes::is_render_node(node) => {
                return Err(StartError::NoGpu { node: node.to_owned(), driver: driver.name });
            }
            Some(node) => Some(SoftwareReach::open(node)?),
            None => None,
        };
        let samplers = Samplers::new(&mut renderer, &driver);
        let stat = node.and_then(|node| rustix::fs::stat(node).ok());
        Ok(Self {
            renderer,
            node: node.map(Path::to_owned),
            device: stat.map(|stat| stat.st_rdev).filter(|_| !driver.software),
            driver,
            samplers,
            reach,
            way: Way::ReadBack,
            routes: HashMap::new(),
            views: Views::default(),
        })
    }

    /// Render nodes with a GPU, that of the display device (its `st_rdev`) first.
    pub fn gpus(display: Option<u64>) -> Vec<PathBuf> {
        nodes::gpus(display)
    }

    /// The node it draws on.
    pub fn node(&self) -> Option<&Path> {
        self.node.as_deref()
    }

    /// Number of the GPU's device, on which clients had best allocate; `None` if it draws on the CPU.
    pub fn device(&self) -> Option<u64> {
        self.device
    }

    /// GL_RENDERER.
    pub fn driver(&self) -> &str {
        &self.driver.name
    }

    /// It draws on the CPU.
    pub fn is_software(&self) -> bool {
        self.driver.software
    }

    /// How pictures get to the display.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Tries to draw into the memory of a target of the backend, and draws into shared memory from then on if the
    /// CPU sees there what was drawn. Returns whether it does.
    pub fn try_shared(&mut self, target: &mut Target) -> bool {
        let shared = self.draw_test(target).unwrap_or_else(|err| {
            tracing::info!(%err, "cannot draw into the display's memory");
            false
        });
        self.way = if shared { Way::Shared } else { Way::ReadBack };
        shared
    }

    fn draw_test(&mut self, target: &mut Target) -> Result<bool, RenderError> {
        let Some(dmabuf) = target.shared.as_mut() else { return Ok(false) };
        if self.reach.as_ref().is_some_and(|reach| !reach.reaches(dmabuf)) {
            return Ok(false);
        }
        let size = dmabuf.size();
        let whole = Rectangle::<i32, Physical>::from_size((size.w, size.h).into());
        let mut framebuffer = self.renderer.bind(dmabuf)?;
        let mut frame = self.renderer.render(&mut framebuffer, whole.size, Transform::Normal)?;
        let [r, g, b] = [0x35, 0x97, 0xda];
        let part = |v: u8| f32::from(v) / 255.0;
        frame.clear(Color32F::new(part(r), part(g), part(b), 1.0), &[whole])?;
        if !wait(&frame.finish()?) {
            return Ok(false);
        }
        let pixels = image::to_xrgb(&mut target.image);
        Ok(!pixels.is_empty() && pixels.chunks_exact(4).all(|p| p[..3] == [b, g, r]))
    }

    /// Formats with modifiers of which textures can be made without a copy. INVALID is the layout that the GPU's own
    /// driver knows; a driver that draws on the CPU has none but the linear one.
    pub(super) fn formats(&self) -> impl Iterator<Item = (DrmFourcc, DrmModifier)> {
        let formats = self.renderer.egl_context().dmabuf_texture_formats();
        let gpu = !self.driver.software;
        formats.iter().filter(move |_| gpu).map(|format| (format.code, format.modifier))
    }

    /// Tells whether EGL names the pair, so that it may be asked for an image.
    fn names(&self, dmabuf: &Dmabuf) -> bool {
        let format = dmabuf.format();
        let formats = self.renderer.egl_context().dmabuf_texture_formats();
        let is = |modifier| formats.iter().any(|f| f.code == format.code && f.modifier == modifier);
        // Without EGL_EXT_image_dma_buf_import_modifiers no modifier is listed, and LINEAR goes as none.
        is(format.modifier) || (format.modifier == DrmModifier::Linear && is(DrmModifier::Invalid))
    }

    /// Tells whether there is any sense, and no harm, in asking the driver for a texture of a dma-buf.
    fn may_import(&self, dmabuf: &Dmabuf) -> Result<(), Reason> {
        let format = dmabuf.format();
        if !self.names(dmabuf) {
            return Err(Reason::NotNamed { format: format.code, modifier: format.modifier });
        }
        // Mesa 22.3 draws YUV images wrong on the CPU: texture coordinates instead of colours.
        let is_yuv = drm_prime::format::info(format.code).is_none_or(|info| info.is_yuv);
        let safe = !self.driver.software
            || (!is_yuv && self.reach.as_ref().is_some_and(|reach| reach.reaches(dmabuf)));
        if !safe {
            return Err(Reason::Untrusted);
        }
        self.check_size(dmabuf.size()).map_err(Reason::Texture)
    }

    /// Takes a client's buffer in as a texture, without a copy.
    ///
    /// # Errors
    /// Why that is not possible.
    pub(super) fn samples(&mut self, dmabuf: &Dmabuf) -> Result<(), Reason> {
        self.may_import(dmabuf)?;
        match self.gpu_texture(dmabuf) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Reason::Texture(GlesError::UnsupportedPixelLayout.into())),
            Err(err) => Err(Reason::Texture(err)),
        }
    }

    /// See [`super::Painter::try_out`].
    ///
    /// # Errors
    /// When neither the GPU nor the CPU can read it, or GL fails.
    pub(super) fn try_out(&mut self, dmabuf: &Dmabuf) -> Result<bool, RenderError> {
        let Some(texture) = self.gpu_texture(dmabuf)?.filter(|_| !self.driver.software) else {
            // What the CPU reads is uploaded as pixels of one format, whatever it was. And a driver that draws on the CPU
            // compiles code for each format at its first draw, 900 ms for all of them in the lab.
            return cpu::try_out(&mut self.views, dmabuf);
        };
        let size = dmabuf.size();
        let mut target = self.offscreen(size)?;
        let mut framebuffer = self.renderer.bind(&mut target)?;
        let whole = Rectangle::<i32, Physical>::from_size((size.w, size.h).into());
        let mut frame = self.renderer.render(&mut framebuffer, whole.size, Transform::Normal)?;
        frame.clear(Color32F::BLACK, &[whole])?;
        frame.render_texture_at(&texture, (0, 0).into(), 1, 1.0, Transform::Normal, &[whole], &[], 1.0)?;
        wait(&frame.finish()?);
        let region = Rectangle::from_size(size);
        let mapping = self.renderer.copy_framebuffer(&framebuffer, region, DrmFourcc::Argb8888)?;
        Ok(image::is_lit(self.renderer.map_texture(&mapping)?))
    }

    /// Drops what is kept for a buffer that is gone.
    pub(super) fn forget(&mut self, dmabuf: &WeakDmabuf) {
        self.views.forget(dmabuf);
        // The texture itself goes with smithay's cache, at the latest with the next frame: now, if there is none.
        if let Some(Route::Gpu { .. }) = self.routes.remove(dmabuf)
            && let Err(err) = self.renderer.cleanup_texture_cache()
        {
            tracing::warn!(%err, "textures not freed");
        }
    }

    /// Number of dma-bufs that are mapped for reading.
    pub(super) fn mapped(&self) -> usize {
        self.views.len()
    }

    pub(super) fn check_size(&self, size: Size<i32, BufferCoords>) -> Result<(), RenderError> {
        super::check_size(size, self.driver.max_texture)
    }

    /// Makes a texture of pixels in memory, tightly packed.
    ///
    /// # Errors
    /// When they are too few or too many.
    pub(super) fn upload(
        &mut self,
        pixels: &[u8],
        format: DrmFourcc,
        size: Size<i32, BufferCoords>,
    ) -> Result<Texture, RenderError> {
        self.check_size(size)?;
        let texture = self.renderer.import_memory(pixels, format, size, false)?;
        Ok(Texture::Gles(texture, self.samplers.nearest))
    }

    /// The texture of a layer.
    ///
    /// # Errors
    /// When neither the GPU nor the CPU can read the buffer.
    pub(super) fn texture(
        &mut self,
        layer: &SurfaceLayer,
        states: &SurfaceData,
    ) -> Result<Texture, RenderError> {
        let texture = match &layer.dmabuf {
            Some(dmabuf) => self.dmabuf_texture(dmabuf, layer.color)?,
            // GL counts rows in pixels.
            None if resample::has_odd_rows(&layer.buffer) => {
                let read = |image: &mut pixman::Image<'static, 'static>| {
                    let size = (image.width() as i32, image.height() as i32);
                    image::to_argb(image).map(|pixels| (pixels, size, has_alpha(image)))
                };
                let read = resample::with_shm_image(&layer.buffer, read)?.flatten();
                let (pixels, size, alpha) = read.ok_or(RenderError::Resample)?;
                self.upload_argb(&pixels, size.into(), alpha)?
            }
            None => self.shm_texture(layer, states)?,
        };
        let scaled = layer.scaled_size().is_some();
        Ok(Texture::Gles(texture, if scaled { self.samplers.linear } else { self.samplers.nearest }))
    }

    /// Uploads what was damaged since the last upload.
    fn shm_texture(
        &mut self,
        layer: &SurfaceLayer,
        states: &SurfaceData,
    ) -> Result<GlesTexture, RenderError> {
        let size = smithay::backend::renderer::buffer_dimensions(&layer.buffer).unwrap_or_default();
        self.check_size(size)?;
        let slot = states.data_map.get_or_insert_threadsafe(Uploaded::default);
        let mut slot = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = Rectangle::from_size(size);
        // No rectangle at all means everything.
        let damage = slot.take().and_then(|last| layer.damage.damage_since(Some(last))).unwrap_or_default();
        let damage: Vec<_> = damage.into_iter().filter_map(|rect| rect.intersection(whole)).collect();
        let texture = self.renderer.import_shm_buffer(&layer.buffer, Some(states), &damage)?;
        *slot = Some(layer.commit);
        Ok(texture)
    }

    fn upload_argb(
        &mut self,
        pixels: &[u8],
        size: Size<i32, BufferCoords>,
        alpha: bool,
    ) -> Result<GlesTexture, RenderError> {
        self.check_size(size)?;
        let format = if alpha { DrmFourcc::Argb8888 } else { DrmFourcc::Xrgb8888 };
        Ok(self.renderer.import_memory(pixels, format, size, false)?)
    }

    fn dmabuf_texture(&mut self, dmabuf: &Dmabuf, color: Option<Color>) -> Result<GlesTexture, RenderError> {
        let by_driver = color.is_none_or(|color| color == EGL_COLOR);
        if by_driver && let Some(texture) = self.gpu_texture(dmabuf)? {
            return Ok(texture);
        }
        match self.cpu_texture(dmabuf, color.unwrap_or_default()) {
            Ok(texture) => Ok(texture),
            // Wrong colours rather than none.
            Err(err) if by_driver => Err(err),
            Err(err) => self.gpu_texture(dmabuf)?.ok_or(err),
        }
    }

    /// A texture of what the CPU reads.
    fn cpu_texture(&mut self, dmabuf: &Dmabuf, color: Color) -> Result<GlesTexture, RenderError> {
        match cpu::read(&mut self.views, dmabuf, color)? {
            Source::Copy(mut image) => self.upload_argb(&image::to_xrgb(&mut image), dmabuf.size(), false),
            Source::View(view, code) => {
                let pixels =
                    view.with_image(code, |image| Some((image::to_argb(image)?, has_alpha(image))))?;
                let (pixels, alpha) = pixels.ok_or(RenderError::Resample)?;
                self.upload_argb(&pixels, dmabuf.size(), alpha)
            }
        }
    }

    /// The texture over a client's memory, or `None` where the GPU does not take it: that is remembered.
    fn gpu_texture(&mut self, dmabuf: &Dmabuf) -> Result<Option<GlesTexture>, RenderError> {
        let key = dmabuf.weak();
        let upright = match self.routes.get(&key) {
            Some(Route::Cpu) => return Ok(None),
            Some(Route::Gpu { upright }) => upright.clone(),
            None => {
                if self.may_import(dmabuf).is_err() {
                    self.routes.insert(key, Route::Cpu);
                    return Ok(None);
                }
                if dmabuf.y_inverted() { Some(upright(dmabuf)?) } else { None }
            }
        };
        match self.import(upright.as_ref().unwrap_or(dmabuf)) {
            Ok(texture) => {
                self.routes.insert(key, Route::Gpu { upright });
                Ok(Some(texture))
            }
            Err(err) => {
                let format = dmabuf.format();
                let modifier = u64::from(format.modifier);
                tracing::debug!(%err, format = %format.code, modifier, "the gpu does not take a dma-buf");
                self.routes.insert(key, Route::Cpu);
                Ok(None)
            }
        }
    }

    /// Has the driver make a texture over a dma-buf, and asks whether it did: smithay only sees to the image.
    fn import(&mut self, dmabuf: &Dmabuf) -> Result<GlesTexture, GlesError> {
        self.renderer.with_context(egl::take_errors)?;
        let texture = self.renderer.import_dmabuf(dmabuf, None)?;
        match self.renderer.with_context(egl::take_errors)? {
            false => Ok(texture),
            true => Err(GlesError::UnsupportedPixelLayout),
        }
    }

    /// See [`super::Painter::draw`].
    ///
    /// # Errors
    /// When GL fails.
    pub(super) fn draw(
        &mut self,
        tracker: &mut OutputDamageTracker,
        target: &mut Target,
        age: usize,
        elements: &[LayerElement],
        background: Color32F,
    ) -> Result<bool, RenderError> {
        if let (Way::Shared, Some(dmabuf)) = (self.way, target.shared.as_mut()) {
            match self.renderer.bind(dmabuf) {
                Ok(mut framebuffer) => {
                    let renderer = &mut self.renderer;
                    let result =
                        tracker.render_output(renderer, &mut framebuffer, age, elements, background)?;
                    // Not every driver attaches its fence to the memory, and the CPU may read a capture at once. If it takes
                    // too long, what is missing appears on the screen later.
                    wait(&result.sync);
                    return Ok(result.damage.is_some());
                }
                Err(err) => tracing::warn!(%err, "a buffer of the display is drawn by copying"),
            }
            target.shared = None;
        }
        let size = (target.image.width() as i32, target.image.height() as i32);
        let fresh = target.offscreen.is_none();
        let offscreen = match &mut target.offscreen {
            Some(offscreen) => offscreen,
            none => none.insert(self.offscreen(size.into())?),
        };
        let mut framebuffer = self.renderer.bind(offscreen)?;
        let age = if fresh { 0 } else { age };
        let result =
            tracker.render_output(&mut self.renderer, &mut framebuffer, age, elements, background)?;
        let Some(damage) = result.damage else { return Ok(false) };
        let Some(damage) = damage.iter().copied().reduce(Rectangle::merge) else { return Ok(false) };
        if !wait(&result.sync) {
            return Err(RenderError::Unfinished);
        }
        let region =
            Rectangle::new((damage.loc.x, damage.loc.y).into(), (damage.size.w, damage.size.h).into());
        let mapping = self.renderer.copy_framebuffer(&framebuffer, region, DrmFourcc::Argb8888)?;
        let pixels = self.renderer.map_texture(&mapping)?;
        image::from_argb(pixels, region.size.w, region.size.h)
            .map(|part| image::place(&mut target.image, &part, (region.loc.x, region.loc.y)))
            .ok_or(RenderError::Resample)?;
        Ok(true)
    }

    fn offscreen(&mut self, size: Size<i32, BufferCoords>) -> Result<GlesRenderbuffer, RenderError> {
        self.check_size(size)?;
        // RGBA8 is the one that every driver draws into; it is read back in the target's order.
        Ok(self.renderer.create_buffer(DrmFourcc::Abgr8888, size)?)
    }
}

/// The same buffer, its first row in memory taken for the top one.
fn upright(dmabuf: &Dmabuf) -> Result<Dmabuf, RenderError> {
    let (size, format) = (dmabuf.size(), dmabuf.format());
    let mut builder = Dmabuf::builder(size, format.code, format.modifier, DmabufFlags::empty());
    let planes = dmabuf.handles().zip(dmabuf.offsets().zip(dmabuf.strides()));
    for (index, (fd, (offset, stride))) in (0..).zip(planes) {
        let fd = fd.try_clone_to_owned().map_err(super::ViewError::Map)?;
        builder.add_plane(fd, index, offset, stride);
    }
    builder.build().ok_or(RenderError::View(super::ViewError::Layout))
}

fn has_alpha(image: &pixman::Image<'static, 'static>) -> bool {
    let format = DrmFourcc::try_from(image.format()).ok();
    format.and_then(drm_prime::format::info).is_none_or(|info| info.has_alpha)
}

/// Waits until the GPU is done, at most [`LATE`]; says whether it is.
///
/// The GPU waits for fences that clients attached to their buffers after these were latched. Fences of drivers signal in the
/// end, the latest when a hanging GPU is reset; until then each frame costs so much, and no more.
fn wait(sync: &SyncPoint) -> bool {
    let Some(fence) = sync.get::<EGLFence>() else {
        while sync.wait().is_err() {
            // Interrupted.
        }
        return true;
    };
    let done = fence.client_wait(Some(LATE), false).unwrap_or_else(|err| {
        tracing::warn!(%err, "cannot wait for the gpu");
        true
    });
    if !done {
        tracing::warn!("the gpu has not finished a picture");
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_on_the_cpu_offers_no_layouts_and_no_device() {
        let mut gles = Gles::open(None).unwrap();
        assert!(gles.is_software() && gles.node().is_none() && gles.device().is_none(), "{gles:?}");
        assert_eq!((gles.formats().count(), gles.way()), (0, Way::ReadBack));
        let wide = gles.driver.max_texture + 1;
        let pixels = vec![0; wide as usize * 4];
        let refused = gles.upload(&pixels, DrmFourcc::Argb8888, (wide, 1).into());
        assert!(matches!(refused, Err(RenderError::TooLarge { .. })), "{refused:?}");
        assert!(gles.upload(&[0; 16], DrmFourcc::Argb8888, (2, 2).into()).is_ok());
    }
}
