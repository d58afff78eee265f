//! An output of vkms driven by smithay's `DrmCompositor`, and client buffers as elements on it.
//!
//! Owns opening the card, showing elements and waiting for the flip. `wl_buffer`s are real protocol objects, without a
//! client behind them: nobody commits, so what the display shows changes with the memory or not at all.

use std::cell::Cell;
use std::fmt::Debug;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drm::Device as _;
use drm::control::{Device as _, Mode, connector, property};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::smithay::{ExportError, PrimeAllocator, PrimeExporter, PrimeFramebuffer, Refusal};
use drm_prime::{HandleTable, KernelDevice};
use primeway_tests::buffer::ClientBuffer;
use primeway_tests::drm_node::DrmNode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smithay::backend::allocator::dmabuf::{AsDmabuf, Dmabuf, DmabufFlags};
use smithay::backend::allocator::{Allocator, Buffer as _};
use smithay::backend::drm::compositor::{DrmCompositor, FrameFlags};
use smithay::backend::drm::exporter::{ExportBuffer, ExportFramebuffer};
use smithay::backend::drm::{DrmDevice, DrmDeviceFd};
use smithay::backend::renderer::element::{
    Element, Id, RenderElement, RenderElementPresentationState, UnderlyingStorage,
};
use smithay::backend::renderer::pixman::{PixmanError, PixmanFrame, PixmanRenderer, PixmanTexture};
use smithay::backend::renderer::utils::{Buffer, CommitCounter, OpaqueRegions};
use smithay::backend::renderer::{Bind, Frame as _, ImportDma as _};
use smithay::output::OutputModeSource;
use smithay::reexports::wayland_server::backend::{ClientData, ClientId, DisconnectReason};
use smithay::reexports::wayland_server::protocol::wl_buffer::{self, WlBuffer};
use smithay::reexports::wayland_server::{Client, DataInit, Dispatch, Display, DisplayHandle};
use smithay::utils::{Buffer as BufferCoords, DeviceFd, Physical, Rectangle, Scale, Transform};

/// What lies behind the elements. Not black, which would let `DrmCompositor` put a window on the primary plane.
pub const BACKGROUND: [u8; 3] = [0x20, 0x40, 0x60];

/// Opens the display's card as its master.
#[expect(clippy::disallowed_methods, reason = "this file drives the display")]
pub fn master() -> Result<(DrmDeviceFd, PathBuf)> {
    let node = DrmNode::of_driver("vkms")?.path().to_owned();
    let file = OpenOptions::new().read(true).write(true).open(&node).context("cannot open the card")?;
    let fd = DrmDeviceFd::new(DeviceFd::from(OwnedFd::from(file)));
    limit_range(&fd).context("COLOR_RANGE")?;
    Ok((fd, node))
}

/// The exporter and the allocator of drm-prime for a master, on a file of their own.
pub fn prime(master: &DrmDeviceFd, node: &std::path::Path) -> Result<(PrimeExporter, PrimeAllocator)> {
    let device = KernelDevice::acquire(master.as_fd(), Some(node))?;
    ensure!(device.is_apart_from(master.as_fd()) == Some(true), "the prime file is the master's own");
    let table = HandleTable::new(Arc::new(device));
    Ok((PrimeExporter::new(table.clone())?, PrimeAllocator::new(table)))
}

/// Sets every plane to the range of the tests' reference; `DrmCompositor` leaves it alone.
fn limit_range(fd: &DrmDeviceFd) -> Result<()> {
    fd.set_client_capability(drm::ClientCapability::UniversalPlanes, true)?;
    for plane in fd.plane_handles()? {
        for (handle, _) in fd.get_properties(plane)? {
            let info = fd.get_property(handle)?;
            let property::ValueType::Enum(values) = info.value_type() else { continue };
            let names = values.values().1;
            let limited = names.iter().find(|value| value.name().to_string_lossy().contains("limited range"));
            if let Some(limited) = limited {
                fd.set_property(plane, handle, limited.value())?;
            }
        }
    }
    Ok(())
}

/// What `DrmCompositor` was made with.
pub type Compositor<A, F> = DrmCompositor<A, F, (), DrmDeviceFd>;

/// The first connected output of a card.
pub struct Screen<A, F>
where
    A: Allocator<Buffer: AsDmabuf>,
    F: ExportFramebuffer<A::Buffer, Framebuffer: Debug + 'static>,
{
    compositor: Compositor<A, F>,
    renderer: PixmanRenderer,
    master: DrmDeviceFd,
    _device: DrmDevice,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

impl<A, F> Screen<A, F>
where
    A: Allocator<Error: Send + Sync + 'static, Buffer: AsDmabuf<Error: Send + Sync + 'static>>,
    F: ExportFramebuffer<A::Buffer, Framebuffer: Debug + 'static, Error: Send + Sync + 'static>,
{
    /// Lights the output; what `DrmCompositor` refuses is the error, to be downcast.
    pub fn light(master: &DrmDeviceFd, allocator: A, exporter: F) -> Result<Self> {
        let (mut device, _notifier) = DrmDevice::new(master.clone(), false)?;
        let resources = master.resource_handles()?;
        let mut infos = resources.connectors().iter().filter_map(|c| master.get_connector(*c, true).ok());
        let info = infos.find(|info| info.state() == connector::State::Connected);
        let info = info.context("nothing is connected")?;
        // The smallest, because the reference picture is computed pixel by pixel.
        let area = |mode: &&Mode| u32::from(mode.size().0) * u32::from(mode.size().1);
        let mode = *info.modes().iter().min_by_key(area).context("no mode")?;
        let crtc = *device.crtcs().first().context("no crtc")?;
        let surface = device.create_surface(crtc, mode, &[info.handle()])?;
        let renderer = PixmanRenderer::new()?;
        let (width, height) = (mode.size().0, mode.size().1);
        let mode = OutputModeSource::Static {
            size: (i32::from(width), i32::from(height)).into(),
            scale: 1.0.into(),
            transform: Transform::Normal,
        };
        let formats = Bind::<Dmabuf>::supported_formats(&renderer).context("the renderer has no formats")?;
        let (codes, cursor) = ([DrmFourcc::Xrgb8888], device.cursor_size());
        let compositor =
            DrmCompositor::new(mode, surface, None, allocator, exporter, codes, formats, cursor, None)?;
        let size = (width.into(), height.into());
        let mut screen = Self { compositor, renderer, master: master.clone(), _device: device, size };
        // DrmCompositor tests planes without ALLOW_MODESET, which fails until the mode is set.
        screen.show(&[])?;
        Ok(screen)
    }

    /// A client buffer at a place. Its picture can be composited only if the renderer can read it.
    pub fn element(&mut self, buffer: &WlBuffer, place: (i32, i32)) -> Result<Window> {
        let dmabuf = buffer_dmabuf(buffer)?;
        let size = dmabuf.size();
        Ok(Window {
            id: Id::new(),
            size: (size.w, size.h),
            place,
            buffer: Buffer::with_implicit(buffer.clone()),
            texture: self.renderer.import_dmabuf(dmabuf, None).ok(),
            opaque: false,
            drawn: Cell::new(0),
        })
    }

    /// Shows windows, the highest first, until the flip is done, and says what became of each.
    pub fn show(&mut self, windows: &[Window]) -> Result<Vec<RenderElementPresentationState>> {
        let background = BACKGROUND.map(|c| f32::from(c) / 255.0);
        let clear = [background[0], background[1], background[2], 1.0];
        let flags = FrameFlags::DEFAULT;
        let frame = self.compositor.render_frame(&mut self.renderer, windows, clear, flags)?;
        let state_of = |window: &Window| frame.states.element_render_state(window.id.clone());
        let states = windows.iter().map(state_of).collect::<Option<Vec<_>>>().context("no state")?;
        let is_empty = frame.is_empty;
        drop(frame);
        if !is_empty {
            self.compositor.queue_frame(())?;
            self.wait_flip()?;
        }
        Ok(states.into_iter().map(|state| state.presentation_state).collect())
    }

    /// Asks an exporter for a framebuffer, outside of any frame.
    pub fn export(&self, exporter: &PrimeExporter, buffer: &WlBuffer) -> Result<PrimeFramebuffer, Refusal> {
        let buffer = ExportBuffer::<Dmabuf>::Wayland(buffer);
        match exporter.add_framebuffer(&self.master, buffer, false) {
            Ok(Some(framebuffer)) => Ok(framebuffer),
            Ok(None) => unreachable!("the buffers of these cases are dma-bufs"),
            Err(ExportError::Refused(refusal)) => Err(refusal),
            Err(ExportError::Export(never)) => match never {},
        }
    }

    fn wait_flip(&mut self) -> Result<()> {
        let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
        let limit = Timespec::try_from(Duration::from_secs(5))?;
        ensure!(poll(&mut ready, Some(&limit))? == 1, "no flip within 5 s");
        for event in self.master.receive_events()? {
            if matches!(event, drm::control::Event::PageFlip(_)) {
                self.compositor.frame_submitted()?;
                return Ok(());
            }
        }
        bail!("an event, but no flip")
    }
}

/// A `wl_buffer` as an element of `DrmCompositor`.
#[derive(Debug)]
pub struct Window {
    id: Id,
    size: (i32, i32),
    place: (i32, i32),
    buffer: Buffer,
    texture: Option<PixmanTexture>,
    /// Whether nothing shines through, whatever the alpha says.
    pub opaque: bool,
    /// How often it was composited.
    pub drawn: Cell<u32>,
}

impl Element for Window {
    fn id(&self) -> &Id {
        &self.id
    }

    fn current_commit(&self) -> CommitCounter {
        CommitCounter::default()
    }

    fn src(&self) -> Rectangle<f64, BufferCoords> {
        Rectangle::from_size((f64::from(self.size.0), f64::from(self.size.1)).into())
    }

    fn geometry(&self, _: Scale<f64>) -> Rectangle<i32, Physical> {
        Rectangle::new(self.place.into(), self.size.into())
    }

    fn opaque_regions(&self, _: Scale<f64>) -> OpaqueRegions<i32, Physical> {
        if self.opaque {
            OpaqueRegions::from_slice(&[Rectangle::from_size(self.size.into())])
        } else {
            OpaqueRegions::default()
        }
    }
}

impl RenderElement<PixmanRenderer> for Window {
    fn draw(
        &self,
        frame: &mut PixmanFrame<'_, '_>,
        src: Rectangle<f64, BufferCoords>,
        dst: Rectangle<i32, Physical>,
        damage: &[Rectangle<i32, Physical>],
        opaque: &[Rectangle<i32, Physical>],
    ) -> Result<(), PixmanError> {
        self.drawn.set(self.drawn.get() + 1);
        let texture = self.texture.as_ref().ok_or(PixmanError::UnsupportedNumberOfPlanes)?;
        frame.render_texture_from_to(texture, src, dst, damage, opaque, Transform::Normal, 1.0)
    }

    fn underlying_storage(&self, _: &mut PixmanRenderer) -> Option<UnderlyingStorage<'_>> {
        Some(UnderlyingStorage::Wayland(&self.buffer))
    }
}

/// Where `wl_buffer`s live.
pub struct Buffers {
    display: Display<Server>,
    client: Client,
    _peer: UnixStream,
}

struct Server;
struct Peer;

impl ClientData for Peer {
    fn initialized(&self, _: ClientId) {}
    fn disconnected(&self, _: ClientId, _: DisconnectReason) {}
}

impl Dispatch<WlBuffer, Dmabuf> for Server {
    fn request(
        _: &mut Self,
        _: &Client,
        _: &WlBuffer,
        _: wl_buffer::Request,
        _: &Dmabuf,
        _: &DisplayHandle,
        _: &mut DataInit<'_, Self>,
    ) {
    }
}

impl Buffers {
    /// An empty connection.
    pub fn new() -> Result<Self> {
        let display = Display::new()?;
        let (ours, peer) = UnixStream::pair()?;
        let client = display.handle().insert_client(ours, Arc::new(Peer))?;
        Ok(Self { display, client, _peer: peer })
    }

    /// What linux-dmabuf makes of a client's memory.
    pub fn add(&self, memory: &ClientBuffer) -> Result<WlBuffer> {
        self.add_as(memory, memory.format.fourcc, DrmModifier::Linear)
    }

    /// The same under another format and modifier.
    pub fn add_as(&self, memory: &ClientBuffer, code: DrmFourcc, modifier: DrmModifier) -> Result<WlBuffer> {
        let size = (i32::try_from(memory.width)?, i32::try_from(memory.height)?);
        let mut builder = Dmabuf::builder(size, code, modifier, DmabufFlags::empty());
        for (index, plane) in memory.layout.iter().enumerate() {
            let fd = memory.plane_fd(index).try_clone_to_owned()?;
            builder.add_plane(fd, u32::try_from(index)?, plane.offset, plane.stride);
        }
        let dmabuf = builder.build().context("no planes")?;
        Ok(self.client.create_resource::<WlBuffer, Dmabuf, Server>(&self.display.handle(), 1, dmabuf)?)
    }
}

/// The dma-buf behind a `wl_buffer`.
pub fn buffer_dmabuf(buffer: &WlBuffer) -> Result<&Dmabuf> {
    smithay::wayland::dmabuf::get_dmabuf(buffer).ok().context("no dma-buf")
}
