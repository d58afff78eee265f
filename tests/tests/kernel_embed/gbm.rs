//! The same buffers through what smithay has itself: gbm, and dumb buffers of the display's own device.
//!
//! Owns the concrete ways in which those fail on a display without a gbm driver, each next to drm-prime's success.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use drm::control::framebuffer;
use drm_fourcc::{DrmFormat, DrmModifier};
use drm_prime::smithay::{PrimeBuffer, PrimeExporter, PrimeFramebuffer};
use primeway_tests::buffer::Allocator;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::stage::{noise, note_figure};
use rustix::io::Errno;
use smithay::backend::allocator::dumb::{DumbAllocator, DumbBuffer};
use smithay::backend::allocator::gbm::{GbmAllocator, GbmBuffer, GbmBufferFlags, GbmDevice};
use smithay::backend::drm::compositor::{FrameError, RenderFrameError};
use smithay::backend::drm::exporter::gbm::{Error as GbmExportError, GbmFramebufferExporter};
use smithay::backend::drm::exporter::{ExportBuffer, ExportFramebuffer, dumb};
use smithay::backend::drm::gbm::{Error as GbmError, GbmFramebuffer};
use smithay::backend::drm::{DrmDeviceFd, DrmNode as SmithayNode, Framebuffer};
use smithay::backend::renderer::damage::Error as DamageError;
use smithay::backend::renderer::element::RenderElementPresentationState::{Rendering, ZeroCopy};
use smithay::backend::renderer::pixman::PixmanError;
use smithay::utils::DeviceFd;

use super::output::{Buffers, Screen, buffer_dmabuf, master, prime};
use super::scanout::{
    PLACE, SIZE, client_memory, crc, expected_crc, follows_the_memory, on_a_plane, prime_screen,
};

/// smithay's gbm exporter for clients, drm-prime's for the swapchain, so that both compositors draw alike.
struct GbmForClients {
    clients: GbmFramebufferExporter<DrmDeviceFd>,
    swapchain: PrimeExporter,
    failures: Rc<RefCell<Vec<GbmExportError>>>,
}

#[derive(Debug)]
enum Either {
    Gbm(GbmFramebuffer),
    Prime(PrimeFramebuffer),
}

impl AsRef<framebuffer::Handle> for Either {
    fn as_ref(&self) -> &framebuffer::Handle {
        match self {
            Self::Gbm(framebuffer) => framebuffer.as_ref(),
            Self::Prime(framebuffer) => framebuffer.as_ref(),
        }
    }
}

impl Framebuffer for Either {
    fn format(&self) -> DrmFormat {
        match self {
            Self::Gbm(framebuffer) => framebuffer.format(),
            Self::Prime(framebuffer) => framebuffer.format(),
        }
    }
}

#[derive(Debug)]
struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no framebuffer")
    }
}

impl std::error::Error for Failed {}

impl ExportFramebuffer<PrimeBuffer> for GbmForClients {
    type Framebuffer = Either;
    type Error = Failed;

    fn add_framebuffer(
        &self,
        drm: &DrmDeviceFd,
        buffer: ExportBuffer<'_, PrimeBuffer>,
        use_opaque: bool,
    ) -> Result<Option<Either>, Failed> {
        match buffer {
            ExportBuffer::Wayland(buffer) => {
                let buffer = ExportBuffer::<GbmBuffer>::Wayland(buffer);
                let made = self.clients.add_framebuffer(drm, buffer, use_opaque).map_err(|err| {
                    self.failures.borrow_mut().push(err);
                    Failed
                })?;
                Ok(made.map(Either::Gbm))
            }
            buffer => {
                let made = self.swapchain.add_framebuffer(drm, buffer, use_opaque).map_err(|_| Failed)?;
                Ok(made.map(Either::Prime))
            }
        }
    }

    fn can_add_framebuffer(&self, buffer: &ExportBuffer<'_, PrimeBuffer>) -> bool {
        match buffer {
            ExportBuffer::Wayland(buffer) => {
                self.clients.can_add_framebuffer(&ExportBuffer::<GbmBuffer>::Wayland(buffer))
            }
            buffer => self.swapchain.can_add_framebuffer(buffer),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing else masters vgem")]
fn vgem() -> Result<DrmDeviceFd> {
    let path = DrmNode::of_driver("vgem")?.path().to_owned();
    let file = std::fs::File::options().read(true).write(true).open(path).context("vgem")?;
    Ok(DrmDeviceFd::new(DeviceFd::from(OwnedFd::from(file))))
}

fn gbm(master: &DrmDeviceFd) -> Result<GbmDevice<DrmDeviceFd>> {
    GbmDevice::new(master.clone()).context("gbm_create_device")
}

/// The gbm exporter leaves memory of another device alone: it is composited, and the display shows the old picture when
/// the memory changes. drm-prime puts the very same buffer on a plane.
pub fn a_foreign_buffer_is_copied() -> Result<()> {
    let mut memory = client_memory(Allocator::Vgem, "XR24", 1)?;
    let buffers = Buffers::new()?;
    let buffer = buffers.add(&memory)?;
    buffer_dmabuf(&buffer)?.set_node(SmithayNode::from_file(vgem()?)?);
    {
        let (master, node) = master()?;
        let (prime, allocator) = prime(&master, &node)?;
        let clients = GbmFramebufferExporter::new(gbm(&master)?, SmithayNode::from_file(&master).ok());
        let exporter = GbmForClients { clients, swapchain: prime, failures: <_>::default() };
        let mut screen = Screen::light(&master, allocator, exporter)?;
        let windows = [screen.element(&buffer, PLACE)?];
        let states = screen.show(&windows)?;
        ensure!(matches!(states[..], [Rendering { .. }]), "{states:?}");
        ensure!(windows[0].drawn.get() == 1 && on_a_plane(SIZE)?.is_none());
        let before = expected_crc(screen.size, &memory, 1, PLACE);
        ensure!(crc()? == before, "its picture is not shown at all");
        memory.draw(&noise(2, SIZE.0, SIZE.1), false)?;
        ensure!(crc()? == before, "a copy changed with the client's memory");
    }
    let (mut screen, _) = prime_screen()?;
    let windows = [screen.element(&buffer, PLACE)?];
    ensure!(screen.show(&windows)? == [ZeroCopy]);
    follows_the_memory(screen.size, &mut memory, PLACE)
}

/// With smithay's filter got round, gbm imports NV12 only if its driver keeps a handle for the second plane. Mesa 22's
/// software driver does not, and `ADDFB2` says EINVAL. drm-prime asks no gbm driver.
pub fn nv12_depends_on_the_gbm_driver() -> Result<()> {
    let mut memory = client_memory(Allocator::Vgem, "NV12", 1)?;
    let buffers = Buffers::new()?;
    let buffer = buffers.add(&memory)?;
    {
        let (master, node) = master()?;
        let own = SmithayNode::from_file(&master)?;
        let (dmabuf, gbm) = (buffer_dmabuf(&buffer)?, gbm(&master)?);
        dmabuf.set_node(own);
        let object = dmabuf.import_to(&gbm, GbmBufferFlags::SCANOUT);
        let complete = object.is_ok_and(|object| {
            use drm::buffer::PlanarBuffer as _;
            object.handles()[1].is_some_and(|handle| u32::from(handle) as i32 > 0)
        });
        let (prime, allocator) = prime(&master, &node)?;
        let failures = Rc::new(RefCell::new(Vec::new()));
        let clients = GbmFramebufferExporter::new(gbm, Some(own));
        let exporter = GbmForClients { clients, swapchain: prime, failures: failures.clone() };
        let mut screen = Screen::light(&master, allocator, exporter)?;
        // A compositor that cannot read it has nothing to draw, so the frame itself fails.
        let windows = [screen.element(&buffer, PLACE)?];
        let shown = screen.show(&windows);
        note_figure(&format!("NV12 of vgem through gbm: {:?}", failures.borrow()))?;
        if complete {
            ensure!(failures.borrow().is_empty() && shown? == [ZeroCopy]);
        } else {
            ensure!(shown.is_err() && on_a_plane(SIZE)?.is_none());
            let failures = failures.borrow();
            let [GbmExportError::Gbm(GbmError::Drm(err)), ..] = &failures[..] else { bail!("{failures:?}") };
            ensure!(err.source.raw_os_error() == Some(Errno::INVAL.raw_os_error()), "{err:?}");
        }
    }
    let (mut screen, _) = prime_screen()?;
    let windows = [screen.element(&buffer, PLACE)?];
    ensure!(screen.show(&windows)? == [ZeroCopy]);
    follows_the_memory(screen.size, &mut memory, PLACE)
}

/// The gbm exporter takes swapchains of gbm only. Without a GPU's driver they have no modifier, and the renderer that
/// needs no GPU draws into none of those: not even the background is shown.
pub fn no_frame_without_a_gpu() -> Result<()> {
    let (master, _) = master()?;
    let gbm = gbm(&master)?;
    let allocator = GbmAllocator::new(gbm.clone(), GbmBufferFlags::SCANOUT | GbmBufferFlags::LINEAR);
    let exporter = GbmFramebufferExporter::new(gbm, SmithayNode::from_file(&master).ok());
    let Err(err) = Screen::light(&master, allocator, exporter) else { bail!("it is lit") };
    type Failure = RenderFrameError<
        std::io::Error,
        smithay::backend::allocator::gbm::GbmConvertError,
        GbmExportError,
        PixmanError,
    >;
    let modifier = match err.downcast_ref::<Failure>() {
        Some(RenderFrameError::RenderFrame(DamageError::Rendering(PixmanError::UnsupportedModifier(
            modifier,
        )))) => modifier,
        _ => return Err(err.context("another failure")),
    };
    ensure!(*modifier == DrmModifier::Invalid);
    drop(master);
    prime_screen()?;
    Ok(())
}

/// Swapchain on one device, display on the other (vgem and vkms): smithay's exporter for dumb buffers looks for the handle
/// on the wrong device; drm-prime imports the buffer.
pub fn a_swapchain_of_another_device() -> Result<()> {
    let (master, node) = master()?;
    let failed = Screen::light(&master, DumbAllocator::new(vgem()?), master.clone());
    let Err(err) = failed else { bail!("a handle of vgem was found on vkms") };
    type Failure = FrameError<std::io::Error, std::io::Error, dumb::Error>;
    let Some(FrameError::FramebufferExport(dumb::Error::Drm(access))) = err.downcast_ref::<Failure>() else {
        return Err(err.context("another failure"));
    };
    ensure!(access.source.raw_os_error() == Some(Errno::NOENT.raw_os_error()), "{access:?}");

    let (exporter, _) = prime(&master, &node)?;
    fn takes_any<B: smithay::backend::allocator::Buffer, E: ExportFramebuffer<B>>(_: &E) {}
    takes_any::<DumbBuffer, _>(&exporter);
    takes_any::<GbmBuffer, _>(&exporter);
    let mut screen = Screen::light(&master, DumbAllocator::new(vgem()?), exporter)?;
    let (framebuffer, _) = on_a_plane(screen.size)?.context("nothing is shown")?;
    ensure!(framebuffer.imported, "{framebuffer:?}");
    let memory = client_memory(Allocator::Udmabuf, "XR24", 1)?;
    let buffers = Buffers::new()?;
    let windows = [screen.element(&buffers.add(&memory)?, PLACE)?];
    ensure!(screen.show(&windows)? == [ZeroCopy]);
    ensure!(crc()? == expected_crc(screen.size, &memory, 1, PLACE));
    Ok(())
}
