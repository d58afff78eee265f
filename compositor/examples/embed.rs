//! A whole compositor around drm-prime: smithay's `DrmCompositor` and `PixmanRenderer`, primeway-protocols' linux-dmabuf, and
//! drm-prime's exporter and allocator. No GPU, no gbm device, nothing of the primeway crate. It shows xdg toplevels side by
//! side on the first connected output and takes no input. `embed /dev/dri/cardN SOCKET`, by who can be the card's master.

use std::os::fd::{AsFd, OwnedFd};
use std::{fs::OpenOptions, path::Path, sync::Arc, sync::OnceLock, time::Duration};

use drm_fourcc::DrmFourcc;
use drm_prime::smithay::{PrimeAllocator, PrimeExporter};
use drm_prime::{HandleTable, KernelDevice, exporter_is_linear};
use primeway_protocols::linux_dmabuf::{
    BufferPlane, DmabufFeedbackBuilder, DmabufFormat, DmabufParams, Flags, ImportError, LinuxDmabufHandler,
    LinuxDmabufState, MOD_INVALID, MOD_LINEAR,
};
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags};
use smithay::backend::drm::compositor::{DrmCompositor, FrameFlags};
use smithay::backend::drm::{DrmDevice, DrmDeviceFd, DrmDeviceNotifier, DrmEvent};
use smithay::backend::renderer::element::{Kind, surface::*};
use smithay::backend::renderer::pixman::PixmanRenderer;
use smithay::backend::renderer::{ImportDma, ImportMemWl, utils::on_commit_buffer_handler};
use smithay::desktop::utils::{bbox_from_surface_tree, send_frames_surface_tree};
use smithay::input::{SeatHandler, SeatState};
use smithay::output::{Output, PhysicalProperties, Subpixel};
use smithay::reexports::calloop::{EventLoop, Interest, Mode, PostAction, generic::Generic};
use smithay::reexports::drm::control::{Device as _, connector};
use smithay::reexports::wayland_server::backend::{ClientData, ClientId, DisconnectReason};
use smithay::reexports::wayland_server::protocol::wl_buffer::{Request, WlBuffer};
use smithay::reexports::wayland_server::protocol::{wl_seat::WlSeat, wl_surface::WlSurface};
use smithay::reexports::wayland_server::{Client, DataInit, Dispatch, Display, DisplayHandle};
use smithay::utils::{Clock, DeviceFd, Monotonic, Serial};
use smithay::wayland::compositor::{CompositorClientState, CompositorHandler, CompositorState};
use smithay::wayland::shell::xdg::{self, PopupSurface, ToplevelSurface, XdgShellHandler, XdgShellState};
use smithay::wayland::shm::{ShmHandler, ShmState};
use smithay::wayland::{buffer::BufferHandler, output::OutputHandler, socket::ListeningSocketSource};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct State {
    compositor: CompositorState,
    xdg: XdgShellState,
    seats: SeatState<State>,
    shm: ShmState,
    dmabuf: LinuxDmabufState,
    screen: Screen,
}

struct Screen {
    output: Output,
    planes: DrmCompositor<PrimeAllocator, PrimeExporter, (), DrmDeviceFd>,
    renderer: PixmanRenderer,
    stale: bool, // something has changed since the last frame was drawn
    busy: bool,  // a frame is on its way to the screen
    _device: DrmDevice,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [card, socket] = &arguments[..] else { return Err("usage: embed /dev/dri/cardN SOCKET".into()) };
    let (mut events, mut display) = (EventLoop::<State>::try_new()?, Display::<State>::new()?);
    let (screen, flips) = light(Path::new(card))?;
    let mut state = State::new(screen, &display.handle())?;
    events.handle().insert_source(flips, |event, _, state| match event {
        DrmEvent::VBlank(_) => state.flipped(),
        DrmEvent::Error(err) => tracing::error!(%err, "display failed"),
    })?;
    let mut clients = display.handle();
    events.handle().insert_source(ListeningSocketSource::with_name(socket)?, move |stream, (), _| {
        let accepted = clients.insert_client(stream, Arc::new(ClientState::default()));
        accepted.map_or_else(|err| tracing::warn!(%err, "client not accepted"), drop);
    })?;
    let requests = Generic::new(display.as_fd().try_clone_to_owned()?, Interest::READ, Mode::Level);
    events.handle().insert_source(requests, |_, _, _| Ok(PostAction::Continue))?;
    println!("embed: ready on {socket}");
    loop {
        display.dispatch_clients(&mut state)?;
        let idle = state.draw()?;
        display.flush_clients()?;
        events.dispatch(idle, &mut state)?;
        if idle.is_some() {
            state.invite();
        }
    }
}

/// Lights the first connected output of a card.
#[expect(clippy::disallowed_methods, reason = "this file is the master's; the PRIME file is another")]
fn light(card: &Path) -> Result<(Screen, DrmDeviceNotifier)> {
    let file = OpenOptions::new().read(true).write(true).open(card)?;
    let master = DrmDeviceFd::new(DeviceFd::from(OwnedFd::from(file)));
    let (mut device, flips) = DrmDevice::new(master.clone(), false)?;
    let resources = master.resource_handles()?;
    let mut infos = resources.connectors().iter().filter_map(|c| master.get_connector(*c, true).ok());
    let info = infos.find(|info| info.state() == connector::State::Connected).ok_or("no display")?;
    let mode = *info.modes().first().ok_or("a connector without modes")?;
    let encoders = info.encoders().iter().filter_map(|encoder| master.get_encoder(*encoder).ok());
    let mut crtcs = encoders.flat_map(|encoder| resources.filter_crtcs(encoder.possible_crtcs()));
    let surface = device.create_surface(crtcs.next().ok_or("no CRTC")?, mode, &[info.handle()])?;
    let (size, subpixel, make, model) = ((0, 0).into(), Subpixel::Unknown, String::new(), String::new());
    let output = Output::new(info.to_string(), PhysicalProperties { size, subpixel, make, model });
    output.change_current_state(Some(mode.into()), None, None, Some((0, 0).into()));

    // drm-prime: a file of its own beside the master's, its handles, framebuffers for all, buffers for us.
    let table = HandleTable::new(Arc::new(KernelDevice::acquire(master.as_fd(), Some(card))?));
    let (exports, memory) = (PrimeExporter::new(table.clone())?, PrimeAllocator::new(table));
    let (renderer, cursor) = (PixmanRenderer::new()?, device.cursor_size());
    let (codes, formats) = ([DrmFourcc::Xrgb8888, DrmFourcc::Argb8888], renderer.dmabuf_formats());
    let planes = DrmCompositor::new(&output, surface, None, memory, exports, codes, formats, cursor, None)?;
    // A first frame without clients sets the mode: before that no plane can be tested.
    Ok((Screen { output, planes, renderer, stale: true, busy: false, _device: device }, flips))
}

impl State {
    fn new(screen: Screen, display: &DisplayHandle) -> Result<State> {
        screen.output.create_global::<State>(display);
        // Software clients leave the modifier out; `import` finds out whether that means linear.
        let formats = screen.renderer.dmabuf_formats().into_iter().map(|format| format.code as u32);
        let pair = |fourcc| [MOD_LINEAR, MOD_INVALID].map(|modifier| DmabufFormat { fourcc, modifier });
        let pairs: Vec<_> = formats.flat_map(pair).collect();
        let device = screen.planes.surface().device_fd().dev_id()?;
        let feedback = DmabufFeedbackBuilder::new(device, pairs.clone()).build()?;
        let dmabuf = LinuxDmabufState::new::<State>(display, pairs, Some(feedback));
        let shm = ShmState::new::<State>(display, screen.renderer.shm_formats());
        let (xdg, seats) = (XdgShellState::new::<State>(display), SeatState::new());
        Ok(State { compositor: CompositorState::new::<State>(display), xdg, seats, shm, dmabuf, screen })
    }

    /// Draws what has changed; if that was nothing to be seen, says how long a frame would have taken.
    fn draw(&mut self) -> Result<Option<Duration>> {
        let Screen { planes, renderer, stale, busy, .. } = &mut self.screen;
        if *busy || !*stale {
            return Ok(None);
        }
        let (mut right, mut elements) = (0, Vec::<WaylandSurfaceRenderElement<_>>::new());
        for window in self.xdg.toplevel_surfaces().iter().map(ToplevelSurface::wl_surface) {
            let (at, kind) = ((right, 0), Kind::Unspecified);
            elements.extend(render_elements_from_surface_tree(renderer, window, at, 1.0, 1.0, kind));
            right += bbox_from_surface_tree(window, (0, 0)).size.w;
        }
        let frame = planes.render_frame(renderer, &elements, [0.1, 0.2, 0.3, 1.0], FrameFlags::DEFAULT)?;
        (*stale, *busy) = (false, !frame.is_empty);
        if frame.is_empty {
            return Ok(Some(Duration::from_millis(16)));
        }
        drop(frame);
        planes.queue_frame(())?;
        Ok(None)
    }

    fn flipped(&mut self) {
        self.screen.busy = false;
        self.screen.planes.frame_submitted().map_or_else(|err| tracing::error!(%err, "frame lost"), drop);
        self.invite();
    }

    /// Lets clients draw their next frame.
    fn invite(&self) {
        let (now, always) = (Clock::<Monotonic>::new().now(), Some(Duration::ZERO));
        for window in self.xdg.toplevel_surfaces().iter().map(ToplevelSurface::wl_surface) {
            send_frames_surface_tree(window, &self.screen.output, now, always, |_, _| None);
        }
    }
}

impl LinuxDmabufHandler for State {
    type Buffer = Dmabuf;
    #[rustfmt::skip]
    fn linux_dmabuf_state(&mut self) -> &mut LinuxDmabufState { &mut self.dmabuf }

    /// Whatever finds no plane is composited, so it must be what the renderer can read: one plane from offset 0.
    /// Y_INVERT is not heeded, since nothing in smithay 0.7.0 turns a picture without a GPU: `DrmCompositor` asks for
    /// REFLECT_Y without ROTATE_0, which kernels refuse.
    fn import(&mut self, _: &Client, params: DmabufParams) -> std::result::Result<Dmabuf, ImportError> {
        let code = DrmFourcc::try_from(params.format).map_err(|_| ImportError::InvalidFormat)?;
        if params.flags.intersects(Flags::Interlaced | Flags::BottomFirst) {
            return Err(ImportError::Failed);
        }
        let Ok([BufferPlane { fd, offset: 0, stride, .. }]) = <[_; 1]>::try_from(params.planes) else {
            return Err(ImportError::Failed);
        };
        let linearity = exporter_is_linear(fd.as_fd()).map_err(|_| ImportError::Failed)?;
        let (modifier, flags) = (linearity.resolve(params.modifier.into()), DmabufFlags::empty());
        let mut builder = Dmabuf::builder((params.width, params.height), code, modifier, flags);
        builder.add_plane(fd, 0, 0, stride);
        let dmabuf = builder.build().ok_or(ImportError::Incomplete)?;
        self.screen.renderer.import_dmabuf(&dmabuf, None).map_err(|_| ImportError::Failed)?;
        Ok(dmabuf)
    }
}

impl CompositorHandler for State {
    #[rustfmt::skip]
    fn compositor_state(&mut self) -> &mut CompositorState { &mut self.compositor }

    fn client_compositor_state<'a>(&self, client: &'a Client) -> &'a CompositorClientState {
        static STRAY: OnceLock<ClientState> = OnceLock::new();
        &client.get_data::<ClientState>().unwrap_or_else(|| STRAY.get_or_init(ClientState::default)).0
    }

    fn commit(&mut self, surface: &WlSurface) {
        on_commit_buffer_handler::<Self>(surface);
        self.screen.stale = true;
    }
}

#[rustfmt::skip]
impl XdgShellHandler for State {
    fn xdg_shell_state(&mut self) -> &mut XdgShellState { &mut self.xdg }
    fn new_toplevel(&mut self, window: ToplevelSurface) { window.send_configure(); }
    fn toplevel_destroyed(&mut self, _: ToplevelSurface) { self.screen.stale = true; }
    fn new_popup(&mut self, popup: PopupSurface, _: xdg::PositionerState) { popup.send_popup_done(); }
    fn grab(&mut self, _: PopupSurface, _: WlSeat, _: Serial) {}
    fn reposition_request(&mut self, _: PopupSurface, _: xdg::PositionerState, _: u32) {}
}

#[rustfmt::skip]
impl SeatHandler for State {
    type KeyboardFocus = WlSurface;
    type PointerFocus = WlSurface;
    type TouchFocus = WlSurface;
    fn seat_state(&mut self) -> &mut SeatState<State> { &mut self.seats }
}

#[rustfmt::skip]
impl ShmHandler for State { fn shm_state(&self) -> &ShmState { &self.shm } }
#[rustfmt::skip]
impl BufferHandler for State { fn buffer_destroyed(&mut self, _: &WlBuffer) {} }
impl OutputHandler for State {}

#[rustfmt::skip]
impl Dispatch<WlBuffer, Dmabuf> for State {
    fn request(
        _: &mut State, _: &Client, _: &WlBuffer, _: Request, _: &Dmabuf,
        _: &DisplayHandle, _: &mut DataInit<'_, State>,
    ) {}
}

#[derive(Default)]
struct ClientState(CompositorClientState);

impl ClientData for ClientState {
    fn initialized(&self, _: ClientId) {}
    fn disconnected(&self, _: ClientId, _: DisconnectReason) {}
}

primeway_protocols::delegate_linux_dmabuf!(State);
smithay::delegate_compositor!(State);
smithay::delegate_output!(State);
smithay::delegate_shm!(State);
smithay::delegate_xdg_shell!(State);
