//! Composition of what no plane took, into a buffer that the backend owns: with Pixman on the CPU ([`cpu`]) or with
//! GLES ([`gles`]).
//!
//! It owns the renderers, their textures of client buffers and the readable views of these. It does not decide what is
//! composited ([`crate::output`] does) and never sees a layer that a plane shows.
//!
//! Both renderers draw the same picture: pixels that are shown 1:1 differ by at most 2 of 255 (RGB by none), scaled
//! ones by at most [`SCALED_TOLERANCE`]. Both scale bilinearly, with the pixels at the buffer's edges repeated outwards;
//! what differs is the precision of the weights.

pub mod choice;
pub mod cpu;
mod dmabuf_view;
mod element;
pub mod gles;
pub mod image;
mod resample;
mod target;
pub mod yuv;

use std::sync::{Mutex, PoisonError};

use drm_fourcc::{DrmFourcc, DrmModifier};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};
use smithay::backend::renderer::Color32F;
use smithay::backend::renderer::damage::{Error as DamageError, OutputDamageTracker};
use smithay::backend::renderer::gles::GlesError;
use smithay::backend::renderer::pixman::PixmanError;
use smithay::backend::renderer::utils::CommitCounter;
use smithay::reexports::wayland_server::Resource;
use smithay::reexports::wayland_server::backend::ObjectId;
use smithay::utils::{Buffer as BufferCoords, Rectangle, Size};
use smithay::wayland::compositor::with_states;
use smithay::wayland::shm::BufferAccessError;

pub use dmabuf_view::{DmabufView, ViewError};
pub use element::{LayerElement, Texture};
pub use target::Target;

use crate::import::Reason;
use crate::output::color::Color;
use crate::output::layers::SurfaceLayer;

/// The background of an output: opaque, sRGB 0x24, 0x29, 0x33.
pub const BACKGROUND: Color32F =
    Color32F::new(0x24 as f32 / 255.0, 0x29 as f32 / 255.0, 0x33 as f32 / 255.0, 1.0);

/// How far two renderers may be apart where a picture is scaled, in steps of 1/255: Pixman's bilinear weights have 7
/// bits (pixman-private.h), GL's at least 8 of sub-texel precision, which between black and white is up to 2 steps in
/// each direction.
pub const SCALED_TOLERANCE: u8 = 4;

/// The longest side of a picture that Pixman can place: its coordinates are 16.16 fixed point.
const LARGEST: i32 = 32767;

/// Why a layer could not be composited.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The renderer refused.
    #[error("pixman: {0}")]
    Pixman(#[from] PixmanError),
    /// The renderer refused.
    #[error("gles: {0}")]
    Gles(#[from] GlesError),
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
    /// Larger than the renderer's largest picture.
    #[error("{width}x{height} is larger than the largest picture, {limit}")]
    TooLarge {
        /// Pixels per row.
        width: i32,
        /// Rows.
        height: i32,
        /// What the renderer takes, in both directions.
        limit: i32,
    },
    /// No memory for a scaled picture, or no picture.
    #[error("the picture cannot be scaled")]
    Resample,
    /// The GPU waits for something, a client's fence for example.
    #[error("the gpu has not finished the picture")]
    Unfinished,
    /// The output has no mode.
    #[error("the output has no mode")]
    NoMode,
}

impl<E: std::error::Error + Into<Self>> From<DamageError<E>> for RenderError {
    fn from(err: DamageError<E>) -> Self {
        match err {
            DamageError::Rendering(err) => err.into(),
            DamageError::OutputNoMode(_) => Self::NoMode,
        }
    }
}

fn check_size(size: Size<i32, BufferCoords>, limit: i32) -> Result<(), RenderError> {
    if size.w > limit || size.h > limit {
        return Err(RenderError::TooLarge { width: size.w, height: size.h, limit });
    }
    Ok(())
}

/// A client's picture as a renderer took it in.
struct Imported {
    texture: Texture,
    /// It shows what the client writes later, too; otherwise each commit is taken in anew.
    live: bool,
}

/// The texture of a client buffer, kept with the surface until its next buffer.
struct Cached {
    buffer: ObjectId,
    color: Option<Color>,
    sheer: bool,
    commit: CommitCounter,
    resampled: Option<(Rectangle<f64, BufferCoords>, Size<i32, BufferCoords>)>,
    imported: Imported,
}

#[derive(Default)]
struct TextureSlot(Mutex<Option<Cached>>);

/// The renderer in use.
#[derive(Debug)]
pub enum Painter {
    /// Pixman.
    Pixman(cpu::Cpu),
    /// GLES.
    Gles(Box<gles::Gles>),
}

impl Painter {
    /// Makes the renderer that needs no device.
    ///
    /// # Errors
    /// When Pixman cannot be initialised.
    pub fn pixman() -> Result<Self, RenderError> {
        Ok(Self::Pixman(cpu::Cpu::new()?))
    }

    /// Formats with modifiers that can be composited. INVALID stands for the layout that the exporter's driver keeps
    /// to itself; where it is only known to be linear for some exporters, it is listed too.
    pub fn formats(&self) -> Vec<(DrmFourcc, DrmModifier)> {
        let known = drm_prime::format::all().iter().filter_map(|info| DrmFourcc::try_from(info.fourcc).ok());
        let known: Vec<DrmFourcc> = known.collect();
        let both = |f: &DrmFourcc| [(*f, DrmModifier::Linear), (*f, DrmModifier::Invalid)];
        let mut formats: Vec<_> = known.iter().filter(|f| cpu::reads(**f)).flat_map(both).collect();
        if let Self::Gles(gles) = self {
            let more = gles.formats().filter(|(f, _)| known.contains(f));
            let more: Vec<_> = more.filter(|pair| !formats.contains(pair)).collect();
            formats.extend(more);
        }
        formats
    }

    /// Number of the GPU's device, on which clients had best allocate; `None` where the CPU draws.
    pub fn device(&self) -> Option<u64> {
        match self {
            Self::Pixman(_) => None,
            Self::Gles(gles) => gles.device(),
        }
    }

    /// Tells whether pixels that the CPU reads from a buffer can be drawn; [`cpu::check`] says whether it can read them.
    ///
    /// # Errors
    /// Why not.
    pub fn reads(&self, dmabuf: &Dmabuf) -> Result<(), Reason> {
        let size = dmabuf.size();
        match self {
            Self::Pixman(_) => check_size(size, LARGEST),
            Self::Gles(gles) => gles.check_size(size),
        }
        .map_err(Reason::View)
    }

    /// Takes a client's buffer in as a texture of the GPU, without a copy.
    ///
    /// # Errors
    /// Why it is none.
    pub fn samples(&mut self, dmabuf: &Dmabuf) -> Result<(), Reason> {
        match self {
            Self::Pixman(_) => Err(Reason::NoGpu),
            Self::Gles(gles) => gles.samples(dmabuf),
        }
    }

    /// Draws a small buffer somewhere, as it would be composited; says whether anything is to be seen.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub fn try_out(&mut self, dmabuf: &Dmabuf) -> Result<bool, RenderError> {
        match self {
            Self::Pixman(cpu) => cpu.try_out(dmabuf),
            Self::Gles(gles) => gles.try_out(dmabuf),
        }
    }

    /// Tells whether a GPU takes buffers of a format in layouts that only its driver knows.
    pub fn names_implicit(&self, format: DrmFourcc) -> bool {
        match self {
            Self::Pixman(_) => false,
            Self::Gles(gles) => gles.formats().any(|pair| pair == (format, DrmModifier::Invalid)),
        }
    }

    /// Drops what is kept for a buffer that is gone.
    pub fn forget(&mut self, dmabuf: &WeakDmabuf) {
        match self {
            Self::Pixman(cpu) => cpu.forget(dmabuf),
            Self::Gles(gles) => gles.forget(dmabuf),
        }
    }

    /// Number of dma-bufs that are mapped for reading.
    pub fn mapped(&self) -> usize {
        match self {
            Self::Pixman(cpu) => cpu.mapped(),
            Self::Gles(gles) => gles.mapped(),
        }
    }

    /// A picture of ARGB8888 pixels (bytes B, G, R, A, premultiplied, tightly packed), or `None` if there are too few
    /// of them or no memory.
    pub fn picture(&mut self, pixels: &[u8], size: Size<i32, BufferCoords>) -> Option<Texture> {
        match self {
            Self::Pixman(_) => {
                image::from_argb(pixels, size.w, size.h).map(|image| Texture::Pixman(image.into(), None))
            }
            Self::Gles(gles) => gles
                .upload(pixels, DrmFourcc::Argb8888, size)
                .inspect_err(|err| tracing::warn!(%err, "picture not uploaded"))
                .ok(),
        }
    }

    /// Makes the element that draws a layer.
    ///
    /// # Errors
    /// When the buffer of the layer cannot be read.
    pub fn element(&mut self, layer: &SurfaceLayer) -> Result<LayerElement, RenderError> {
        let sheer = layer.alpha != u16::MAX;
        let resampled = match self {
            // Pixman reads no rows that are not whole words; smithay's Pixman frame cannot scale well, and replaces what is
            // below pixels without alpha, also where they are to be seen in part: a copy has alpha.
            Self::Pixman(_) => {
                let odd = layer.dmabuf.is_none() && resample::has_odd_rows(&layer.buffer);
                let copied_size = (odd || sheer).then(|| layer.src.size.to_i32_round());
                layer.scaled_size().or(copied_size).map(|size| (layer.src, size))
            }
            Self::Gles(_) => None,
        };
        with_states(&layer.surface, |states| {
            let slot = states.data_map.get_or_insert_threadsafe(TextureSlot::default);
            let mut slot = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
            let id = layer.buffer.id();
            let current = slot.take_if(|cached| {
                cached.buffer == id
                    && (cached.color, cached.sheer) == (layer.color, sheer)
                    && cached.resampled == resampled
                    && (cached.imported.live || cached.commit == layer.commit)
            });
            let imported = match (current, &mut *self) {
                (Some(cached), _) => cached.imported,
                (None, Self::Pixman(cpu)) => cpu.texture(layer, states, resampled.map(|r| r.1))?,
                (None, Self::Gles(gles)) => Imported { texture: gles.texture(layer, states)?, live: false },
            };
            let element = LayerElement::new(layer, imported.texture.clone(), resampled.map(|r| r.1));
            *slot = Some(Cached {
                buffer: id,
                color: layer.color,
                sheer,
                commit: layer.commit,
                resampled,
                imported,
            });
            Ok(element)
        })
    }

    /// Draws elements, topmost first, into `target`; `age` as in EGL_EXT_buffer_age (0: contents unknown). When it
    /// returns, the picture is in the target's memory. Returns whether anything changed since the tracker's last
    /// call; if not, `target` is untouched.
    ///
    /// # Errors
    /// When the renderer fails.
    pub fn draw(
        &mut self,
        tracker: &mut OutputDamageTracker,
        target: &mut Target,
        age: usize,
        elements: &[LayerElement],
        background: Color32F,
    ) -> Result<bool, RenderError> {
        match self {
            Self::Pixman(cpu) => cpu.draw(tracker, target, age, elements, background),
            Self::Gles(gles) => gles.draw(tracker, target, age, elements, background),
        }
    }
}
