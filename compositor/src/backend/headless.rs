//! Outputs in memory: no DRM, no root. Its device is the software model of the kernel's
//! ([`drm_prime::model`]), with buffers in memfds; the vertical blank is a timer.
//!
//! ```text
//!  client's dma-buf or memfd ──> PRIME file ──> handle, framebuffer     [super::buffers]
//!                                                   │ shown by number
//!                          display file (master) ──> planes ──> picture
//! ```
//!
//! It owns the model, its planes and the two files on it. The in-process tests run on it: clients' buffers pass through the
//! same table, planner and frames as on KMS, and what is shown is read from the planes' framebuffers.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::model::{Driver, File, Machine, Node, Profile};
use drm_prime::scanout::{PlaneCaps, PlaneType, YuvCaps, Zpos};
use drm_prime::{GemDevice, PlaneFramebuffers, SharedFramebuffer};
use pixman::{FormatCode, Image, Operation};
use rustix::io::Errno;
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags};

use super::buffers::Buffers;
use super::canvas::DumbCanvas;
use super::swapchain::Swapchain;
use super::{Canvas, Flip, FrameSpec, OutputId, SubmitError};
use crate::reactor::Timers;
use crate::render::{DmabufView, RenderError, Target, image, yuv};
use crate::state::monotonic;

/// The one output's number.
pub const OUTPUT: OutputId = 1;
/// Its refresh interval.
pub const REFRESH: Duration = Duration::from_nanos(16_666_667);

/// The vertical blanks of an output in memory are whole numbers of refresh intervals.
fn blank_after(now: Duration) -> Duration {
    let past = u64::try_from(now.as_nanos() / REFRESH.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(past.saturating_add(1).saturating_mul(REFRESH.as_nanos() as u64))
}

/// What the embedded device is called where drivers are named.
pub const DRIVER: &str = "headless";

/// Planes of the output, lowest first.
const PLANES: [(u32, PlaneType); 3] =
    [(1, PlaneType::Primary), (2, PlaneType::Overlay), (3, PlaneType::Overlay)];
/// What every plane takes, LINEAR only.
const FORMATS: [DrmFourcc; 4] = [DrmFourcc::Xrgb8888, DrmFourcc::Argb8888, DrmFourcc::Nv12, DrmFourcc::P010];
/// Widest and highest framebuffer in pixels, as in Pixman's images.
const LARGEST: u32 = 32767;

/// Why the backend did not start, or has no picture.
#[derive(Debug, thiserror::Error)]
pub enum HeadlessError {
    /// A call on the embedded device failed.
    #[error("the embedded device: {what}")]
    Device {
        /// What was attempted.
        what: &'static str,
        /// Its errno.
        #[source]
        source: std::io::Error,
    },
    /// A buffer that is shown cannot be read.
    #[error("a buffer on screen cannot be read")]
    Render(#[from] RenderError),
}

impl HeadlessError {
    fn device<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Device { what, source: source.into() }
    }
}

/// The backend.
#[derive(Debug)]
pub struct Headless {
    timers: Timers,
    size: (u32, u32),
    planes: Vec<PlaneCaps>,
    /// Client buffers and their framebuffers.
    pub buffers: Buffers,
    display: File,
    targets: Swapchain<DumbCanvas>,
    /// Keeps the framebuffers on screen and those about to be.
    framebuffers: PlaneFramebuffers,
    /// What each plane shows from the next vertical blank on.
    latched: [Option<u32>; PLANES.len()],
    pending: bool,
    sequence: u32,
    shown: FrameSpec,
}

impl Headless {
    /// One output of `size` pixels.
    ///
    /// # Errors
    /// When the embedded device does not open.
    pub fn new(timers: Timers, size: (u32, u32)) -> Result<Self, HeadlessError> {
        Self::on(timers, size, Self::driver(), |file| Arc::new(file))
    }

    /// The embedded device's driver.
    pub fn driver() -> Driver {
        Driver {
            name: DRIVER.into(),
            planes: PLANES.len(),
            width: (1, LARGEST),
            height: (1, LARGEST),
            rdev: 0,
            ..Driver::vkms()
        }
    }

    /// The same on a device of another driver, whose file for imports goes through `wrap`: for tests of devices that
    /// refuse something, or are slow.
    ///
    /// # Errors
    /// When the embedded device does not open.
    pub fn on(
        timers: Timers,
        size: (u32, u32),
        driver: Driver,
        wrap: impl FnOnce(File) -> Arc<dyn GemDevice>,
    ) -> Result<Self, HeadlessError> {
        let machine = Machine::new(Profile::MODERN);
        machine.accept_foreign(true);
        let device = machine.add_device(driver);
        let open = || device.open(Node::Primary).map_err(HeadlessError::device("opening it"));
        let (display, file) = (open()?, open()?);
        let planes = PLANES
            .iter()
            .zip(0..)
            .filter_map(|(&(id, kind), stack)| {
                let id = NonZeroU32::new(id)?;
                let formats = FORMATS.map(|format| (format, DrmModifier::Linear));
                let caps = PlaneCaps::new(id, kind, formats, Zpos::Fixed(stack));
                Some(PlaneCaps { yuv: YuvCaps::ALL, ..caps })
            })
            .collect();
        Ok(Self {
            timers,
            size,
            planes,
            buffers: Buffers::new(wrap(file), "embedded"),
            display,
            targets: Swapchain::default(),
            framebuffers: PlaneFramebuffers::new(),
            latched: [None; PLANES.len()],
            pending: false,
            sequence: 0,
            shown: FrameSpec::default(),
        })
    }

    /// The output's size in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// See [`super::Backend::planes`].
    pub fn planes(&self, output: OutputId) -> &[PlaneCaps] {
        if output == OUTPUT { &self.planes } else { &[] }
    }

    /// See [`super::Backend::forbid`].
    pub fn forbid(&mut self, plane: NonZeroU32, pair: (DrmFourcc, DrmModifier)) {
        self.planes.iter_mut().filter(|caps| caps.id == plane).for_each(|caps| caps.forbid(pair));
    }

    /// Has its planes convert no more luma and chroma than this: for tests of planes that cannot do all.
    pub fn convert_only(&mut self, yuv: YuvCaps) {
        self.planes.iter_mut().for_each(|caps| caps.yuv = yuv);
    }

    /// See [`super::Backend::any_target`].
    ///
    /// # Errors
    /// When there is no memory.
    pub fn any_target(&mut self, _output: OutputId, canvas: Canvas) -> Result<SharedFramebuffer, Errno> {
        if canvas != Canvas::Primary(self.size.0, self.size.1) {
            return Err(Errno::NODEV);
        }
        let (size, buffers) = (self.size, &self.buffers);
        let target = self.targets.any(|| DumbCanvas::new(buffers, size, DrmFourcc::Xrgb8888))?;
        Ok(target.framebuffer.clone())
    }

    /// See [`super::Backend::compose`]. There is no cursor plane, nor one under the primary: the
    /// pointer is composited, and the picture has no holes and is as large as the output.
    ///
    /// # Errors
    /// Busy when every target is shown or pending.
    pub fn compose(
        &mut self,
        _output: OutputId,
        canvas: Canvas,
        draw: &mut dyn FnMut(&mut Target, usize) -> bool,
    ) -> Result<SharedFramebuffer, SubmitError> {
        if canvas != Canvas::Primary(self.size.0, self.size.1) {
            return Err(SubmitError::Failed(Errno::NODEV));
        }
        let (size, buffers) = (self.size, &self.buffers);
        let drawn = self.targets.compose(
            DumbCanvas::is_free,
            || DumbCanvas::new(buffers, size, DrmFourcc::Xrgb8888),
            |canvas, age| draw(&mut canvas.target, age),
        );
        drawn.map(|canvas| canvas.framebuffer.clone())
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
        let (timers, latched, next) = (&self.timers, &mut self.latched, frame.clone());
        self.framebuffers.commit(|staging| {
            let blank = blank_after(monotonic());
            timers.at(blank, move |state| state.headless_vblank(next, blank));
            staging.turn_all_off();
            *latched = PLANES.map(|(id, _)| {
                let update = frame.planes.iter().find(|update| update.plane.get() == id)?;
                Some(staging.show(update.plane, &update.buffer).get())
            });
            Ok(())
        })?;
        self.pending = true;
        Ok(())
    }

    /// The timer fired: `frame` is shown since `time`.
    pub fn vblank(&mut self, frame: FrameSpec, time: Duration) -> Flip {
        for (plane, framebuffer) in self.latched.iter().enumerate() {
            if let Err(err) = self.display.set_plane(plane, *framebuffer) {
                tracing::error!(%err, plane, fb = ?framebuffer, "plane not set");
            }
        }
        self.framebuffers.flipped();
        self.pending = false;
        self.shown = frame;
        self.sequence = self.sequence.wrapping_add(1);
        Flip { output: OUTPUT, time, sequence: Some(self.sequence) }
    }

    /// What the planes show together, blended lowest first.
    ///
    /// # Errors
    /// When memory on screen cannot be read.
    pub fn picture(&self) -> Result<image::Picture, HeadlessError> {
        let (width, height) = self.size;
        let failed = || RenderError::NoMode;
        let mut out =
            Image::new(FormatCode::X8R8G8B8, width as usize, height as usize, true).map_err(|_| failed())?;
        for (index, (id, _)) in PLANES.iter().enumerate() {
            let update = self.shown.planes.iter().find(|update| update.plane.get() == *id);
            let shown = self.display.device().plane_framebuffer(index);
            let (Some(update), Some(framebuffer)) = (update, shown) else { continue };
            let place = |out: &mut Image<'static, 'static>, image: &Image<'static, 'static>| {
                let (src, dst) = (update.src, update.dst);
                let at = ((src.x >> 16) as i32, (src.y >> 16) as i32);
                let size = (dst.w as i32, dst.h as i32);
                out.composite32(Operation::Over, image, None, at, (0, 0), (dst.x, dst.y), size);
            };
            let dmabuf = self.read_back(framebuffer)?;
            let view = DmabufView::new(&dmabuf).map_err(RenderError::from)?;
            let (code, size) = (update.buffer.format(), (update.buffer.width(), update.buffer.height()));
            if yuv::supports(code) {
                let size = (size.0 as i32, size.1 as i32).into();
                let read = view.read(|planes| yuv::to_xrgb(code, update.color, size, planes));
                let pixels = read.map_err(RenderError::from)?.map_err(RenderError::from)?;
                place(&mut out, &image::from_xrgb(&pixels, size.w, size.h).ok_or_else(failed)?);
            } else {
                let code = FormatCode::try_from(code).map_err(|_| RenderError::Format(code))?;
                view.with_image(code, |image| place(&mut out, image)).map_err(RenderError::from)?;
            }
        }
        Ok(image::Picture { width, height, pixels: image::to_xrgb(&mut out) })
    }

    /// The memory of a framebuffer on screen, by its number alone (`GETFB2`).
    fn read_back(&self, framebuffer: u32) -> Result<Dmabuf, HeadlessError> {
        let fb = self.display.getfb2(framebuffer).map_err(HeadlessError::device("reading a framebuffer"))?;
        let mut handles: Vec<u32> = fb.handles.into_iter().filter(|handle| *handle != 0).collect();
        let export = |handle: &u32| -> Result<OwnedFd, HeadlessError> {
            let fd = self.display.handle_to_fd(*handle, drm_prime::model::DRM_CLOEXEC);
            let fd = fd.map_err(HeadlessError::device("exporting a handle"))?;
            fd.into_owned().map_err(HeadlessError::device("making a descriptor"))
        };
        let fds: Result<Vec<_>, _> = handles.iter().map(export).collect();
        handles.sort_unstable();
        handles.dedup();
        for handle in handles {
            self.display.gem_close(handle).map_err(HeadlessError::device("closing a handle"))?;
        }
        let format = DrmFourcc::try_from(fb.pixel_format).map_err(|_| RenderError::NoMode)?;
        let size = (fb.width as i32, fb.height as i32);
        let mut builder = Dmabuf::builder(size, format, DrmModifier::Linear, DmabufFlags::empty());
        for ((fd, index), (offset, stride)) in
            fds?.into_iter().zip(0..).zip(fb.offsets.into_iter().zip(fb.pitches))
        {
            builder.add_plane(fd, index, offset, stride);
        }
        Ok(builder.build().ok_or(RenderError::NoMode)?)
    }
}
