//! Outputs in memory: no device, no root. Planes are buffers in memory, the vertical blank is a timer.
//!
//! It owns the memory outputs and what they "show". The in-process tests run on it, with memfds as client buffers:
//! they pass through the same planner and the same frames as on KMS.

use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use calloop::LoopHandle;
use calloop::timer::{TimeoutAction, Timer};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::FramebufferError;
use drm_prime::scanout::{FramebufferRefusal, PlaneCaps, PlaneType, Refusal};
use pixman::{FormatCode, Image, Operation};
use rustix::io::Errno;
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};

use super::swapchain::Swapchain;
use super::{Canvas, Flip, FrameSpec, OutputId, SubmitError};
use crate::render::{DmabufView, Target, image, yuv};
use crate::state::State;

/// The one output's number.
pub const OUTPUT: OutputId = 1;
/// Its refresh interval.
pub const REFRESH: Duration = Duration::from_nanos(16_666_667);

/// Planes of the output, lowest first.
const PLANES: [(u32, PlaneType); 3] =
    [(1, PlaneType::Primary), (2, PlaneType::Overlay), (3, PlaneType::Overlay)];
/// What every plane takes, LINEAR only.
const FORMATS: [DrmFourcc; 4] = [DrmFourcc::Xrgb8888, DrmFourcc::Argb8888, DrmFourcc::Nv12, DrmFourcc::P010];

/// Memory that a plane can show.
#[derive(Debug)]
pub struct MemoryBuffer {
    id: NonZeroU32,
    format: DrmFourcc,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Kept by the frame that shows it.
    Client(WeakDmabuf),
    Target(RefCell<Target>),
}

impl MemoryBuffer {
    fn target(id: NonZeroU32, (width, height): (u32, u32)) -> Result<Rc<Self>, Errno> {
        let image = Image::new(FormatCode::X8R8G8B8, width as usize, height as usize, true);
        let content = Content::Target(RefCell::new(Target::new(image.map_err(|_| Errno::NOMEM)?)));
        Ok(Rc::new(Self { id, format: DrmFourcc::Xrgb8888, content }))
    }

    /// A number that no other buffer of the backend ever had.
    pub fn id(&self) -> NonZeroU32 {
        self.id
    }

    /// The format it is shown in.
    pub fn format(&self) -> DrmFourcc {
        self.format
    }
}

/// The backend.
#[derive(Debug)]
pub struct Headless {
    handle: LoopHandle<'static, State>,
    size: (u32, u32),
    planes: Vec<PlaneCaps>,
    clients: HashMap<(WeakDmabuf, bool), Rc<MemoryBuffer>>,
    targets: Swapchain<Rc<MemoryBuffer>>,
    next_id: u32,
    pending: bool,
    sequence: u32,
    shown: FrameSpec,
}

impl Headless {
    /// One output of `size` pixels.
    pub fn new(handle: LoopHandle<'static, State>, size: (u32, u32)) -> Self {
        let formats = || FORMATS.iter().map(|f| (*f, DrmModifier::Linear)).collect();
        let planes = PLANES
            .iter()
            .zip(0..)
            .filter_map(|(&(id, kind), stack)| {
                Some(PlaneCaps {
                    id: NonZeroU32::new(id)?,
                    kind,
                    formats: formats(),
                    stack: Some(stack),
                    reflect_y: false,
                })
            })
            .collect();
        Self {
            handle,
            size,
            planes,
            clients: HashMap::new(),
            targets: Swapchain::default(),
            next_id: 1,
            pending: false,
            sequence: 0,
            shown: FrameSpec::default(),
        }
    }

    /// The output's size in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// See [`super::Backend::planes`].
    pub fn planes(&self, output: OutputId) -> &[PlaneCaps] {
        if output == OUTPUT { &self.planes } else { &[] }
    }

    /// Number of client buffers that a plane can show.
    pub fn buffers(&self) -> usize {
        self.clients.len()
    }

    fn new_id(&mut self) -> NonZeroU32 {
        let id = NonZeroU32::new(self.next_id).unwrap_or(NonZeroU32::MIN);
        self.next_id = self.next_id.wrapping_add(1).max(1);
        id
    }

    /// See [`super::Backend::framebuffer`].
    ///
    /// # Errors
    /// When the format has no layout.
    pub fn framebuffer(&mut self, dmabuf: &Dmabuf, opaque: bool) -> Result<Rc<MemoryBuffer>, Refusal> {
        let key = (dmabuf.weak(), opaque);
        if let Some(buffer) = self.clients.get(&key) {
            return Ok(buffer.clone());
        }
        let code = dmabuf.format().code;
        let info = drm_prime::format::info(code).ok_or_else(|| {
            Refusal::Framebuffer(FramebufferRefusal(Arc::new(FramebufferError::UnknownFormat {
                format: code,
            })))
        })?;
        let substitute = info.opaque.and_then(|f| DrmFourcc::try_from(f).ok());
        let format = substitute.filter(|_| opaque).unwrap_or(code);
        let buffer =
            Rc::new(MemoryBuffer { id: self.new_id(), format, content: Content::Client(dmabuf.weak()) });
        self.clients.insert(key, buffer.clone());
        Ok(buffer)
    }

    /// See [`super::Backend::forget`].
    pub fn forget(&mut self, dmabuf: &WeakDmabuf) {
        self.clients.retain(|(key, _), _| key != dmabuf);
    }

    /// See [`super::Backend::any_target`].
    ///
    /// # Errors
    /// When there is no memory.
    pub fn any_target(&mut self, _output: OutputId) -> Result<Rc<MemoryBuffer>, Errno> {
        let (id, size) = (self.new_id(), self.size);
        self.targets.any(|| MemoryBuffer::target(id, size)).cloned()
    }

    /// See [`super::Backend::compose`]. There is no cursor plane: the pointer is composited.
    ///
    /// # Errors
    /// Busy when every target is shown or pending.
    pub fn compose(
        &mut self,
        _output: OutputId,
        canvas: Canvas,
        draw: &mut dyn FnMut(&mut Target, usize) -> bool,
    ) -> Result<Rc<MemoryBuffer>, SubmitError> {
        if canvas == Canvas::Cursor {
            return Err(SubmitError::Failed(Errno::NODEV));
        }
        let (id, size) = (self.new_id(), self.size);
        let drawn = self.targets.compose(
            |target| Rc::strong_count(target) == 1,
            || MemoryBuffer::target(id, size),
            |target, age| match &target.content {
                Content::Target(target) => draw(&mut target.borrow_mut(), age),
                Content::Client(_) => false,
            },
        );
        drawn.cloned()
    }

    /// Planes in memory neither scale nor mirror.
    ///
    /// # Errors
    /// EINVAL for a plane that would have to scale.
    pub fn test(&self, frame: &FrameSpec) -> Result<(), Errno> {
        let scaled = |p: &super::PlaneUpdate| p.src.w != p.dst.w << 16 || p.src.h != p.dst.h << 16;
        if frame.planes.iter().any(scaled) { Err(Errno::INVAL) } else { Ok(()) }
    }

    /// See [`super::Backend::submit`].
    ///
    /// # Errors
    /// Busy while a frame is pending.
    pub fn submit(&mut self, output: OutputId, frame: &FrameSpec) -> Result<(), SubmitError> {
        if output != OUTPUT {
            return Err(SubmitError::Failed(Errno::NODEV));
        }
        if self.pending {
            return Err(SubmitError::Busy);
        }
        let next = frame.clone();
        self.handle
            .insert_source(Timer::from_duration(REFRESH), move |_, (), state| {
                state.headless_vblank(next.clone());
                TimeoutAction::Drop
            })
            .map_err(|_| SubmitError::Failed(Errno::NOMEM))?;
        self.pending = true;
        Ok(())
    }

    /// The timer fired: `frame` is shown.
    pub fn vblank(&mut self, frame: FrameSpec) -> Flip {
        self.pending = false;
        self.shown = frame;
        self.sequence = self.sequence.wrapping_add(1);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let time = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        Flip { output: OUTPUT, time, sequence: self.sequence }
    }

    /// What the planes show together, blended lowest first.
    ///
    /// # Errors
    /// When a client's memory cannot be read.
    pub fn picture(&self) -> Result<image::Picture, crate::render::RenderError> {
        let (width, height) = self.size;
        let failed = || crate::render::RenderError::NoMode;
        let mut out =
            Image::new(FormatCode::X8R8G8B8, width as usize, height as usize, true).map_err(|_| failed())?;
        let mut planes: Vec<_> = self.shown.planes.iter().collect();
        planes.sort_by_key(|p| p.plane);
        for plane in planes {
            let super::ScanoutBuffer::Memory(buffer) = &plane.buffer else { continue };
            let place = |out: &mut Image<'static, 'static>, image: &Image<'static, 'static>| {
                let (src, dst) = (plane.src, plane.dst);
                let at = ((src.x >> 16) as i32, (src.y >> 16) as i32);
                let size = (dst.w as i32, dst.h as i32);
                out.composite32(Operation::Over, image, None, at, (0, 0), (dst.x, dst.y), size);
            };
            match &buffer.content {
                Content::Target(target) => place(&mut out, &target.borrow().image),
                Content::Client(dmabuf) => {
                    let dmabuf = &dmabuf.upgrade().ok_or(crate::render::ViewError::Sync)?;
                    let view = DmabufView::new(dmabuf)?;
                    let (code, size) = (buffer.format, dmabuf.size());
                    if yuv::supports(code) {
                        let pixels = view.read(|planes| yuv::to_xrgb(code, size, planes))??;
                        place(&mut out, &image::from_xrgb(&pixels, size.w, size.h).ok_or_else(failed)?);
                    } else {
                        let code = FormatCode::try_from(code)
                            .map_err(|_| crate::render::RenderError::Format(code))?;
                        view.with_image(code, |image| place(&mut out, image))?;
                    }
                }
            }
        }
        Ok(image::Picture { width, height, pixels: image::to_xrgb(&mut out) })
    }
}
