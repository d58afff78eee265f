//! The compositor's state: eight parts, each with a module of its own. What joins them in a frame is in `redraw.rs`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use calloop::LoopHandle;
use primeway_protocols::alpha_modifier::AlphaModifierState;
use primeway_protocols::color_representation::ColorRepresentationState;
use primeway_protocols::linux_dmabuf::LinuxDmabufState;
use primeway_protocols::tearing_control::TearingControlState;
use smithay::backend::allocator::dmabuf::WeakDmabuf;
use smithay::input::SeatState;
use smithay::reexports::wayland_server::backend::GlobalId;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{DisplayHandle, Resource as _};
use smithay::wayland::compositor::CompositorState;
use smithay::wayland::content_type::ContentTypeState;
use smithay::wayland::output::OutputManagerState;
use smithay::wayland::presentation::PresentationState;
use smithay::wayland::selection::data_device::DataDeviceState;
use smithay::wayland::shell::xdg::XdgShellState;
use smithay::wayland::shm::ShmState;
use smithay::wayland::viewporter::ViewporterState;

use crate::backend::{Backend, FrameSpec, OutputId};
use crate::clients::Clients;
use crate::ctl::watch::Watchers;
use crate::feedback::Feedback;
use crate::fences::Fences;
use crate::import::{Imports, Worker};
use crate::input::Input;
use crate::output::{OutputState, color};
use crate::reactor::{Clock, Timers};
use crate::record::Recorder;
use crate::render::Painter;
use crate::shell::{Mapping, Shell};

/// smithay's protocol states.
#[derive(Debug)]
pub struct Protocols {
    pub(crate) compositor: CompositorState,
    pub(crate) xdg_shell: XdgShellState,
    pub(crate) shm: ShmState,
    pub(crate) seat: SeatState<State>,
    pub(crate) data_device: DataDeviceState,
    pub(crate) color_representation: ColorRepresentationState,
    pub(crate) alpha_modifier: AlphaModifierState,
    pub(crate) _outputs: OutputManagerState,
    pub(crate) _viewporter: ViewporterState,
    pub(crate) _content_type: ContentTypeState,
    pub(crate) _presentation: PresentationState,
    pub(crate) tearing_control: TearingControlState,
}

impl Protocols {
    /// Creates the globals.
    pub fn new(display: &DisplayHandle) -> Self {
        Self {
            compositor: CompositorState::new_v6::<State>(display),
            xdg_shell: XdgShellState::new::<State>(display),
            shm: ShmState::new::<State>(display, []),
            seat: SeatState::new(),
            data_device: DataDeviceState::new::<State>(display),
            alpha_modifier: AlphaModifierState::new::<State>(display),
            _content_type: ContentTypeState::new::<State>(display),
            color_representation: ColorRepresentationState::new::<State>(display, color::supported()),
            _outputs: OutputManagerState::new_with_xdg_output::<State>(display),
            _viewporter: ViewporterState::new::<State>(display),
            _presentation: PresentationState::new::<State>(display, libc::CLOCK_MONOTONIC as u32),
            tearing_control: TearingControlState::new::<State>(display),
        }
    }
}

/// linux-dmabuf's state.
#[derive(Debug)]
pub struct DmabufPart {
    /// The global.
    pub global: LinuxDmabufState,
    /// What surfaces are told.
    pub feedback: Feedback,
    /// How the buffers can be shown that came, and why others were refused.
    pub imports: Imports,
    /// Imports what may take long.
    pub worker: Worker,
    /// Buffers whose `wl_buffer` is destroyed and which may still be shown.
    pub(crate) dying: Vec<WeakDmabuf>,
    /// Files of buffers that were there already; they are closed together.
    pub(crate) closing: Vec<OwnedFd>,
}

/// What the event loop needs.
#[derive(Debug)]
pub struct Runtime {
    /// Takes in sources that speak seldom.
    pub handle: LoopHandle<'static, State>,
    /// What happens later.
    pub timers: Timers,
    /// The time of the turn.
    pub clock: Clock,
    /// The Wayland display.
    pub display: DisplayHandle,
    /// The clients.
    pub clients: Clients,
    /// Their commits that wait for fences.
    pub fences: Fences,
    /// Those who hear the event stream.
    pub watchers: Watchers,
    /// The exit status, once the end is decided.
    pub exit: Option<u8>,
    /// Nothing is drawn yet: those who waited for the start are answered first.
    pub(crate) opening: bool,
    /// A timer runs for buffers that planes hold out of sight and that are gone.
    pub(crate) clears_parking: bool,
    /// Copy on purpose while claiming zero-copy (PRIMEWAY_TEST_COPY).
    pub copy_on_purpose: bool,
    /// Planes may show clients' buffers.
    pub direct_scanout: bool,
    /// Where plans are recorded.
    pub recorder: Option<Recorder>,
    /// The name of the Wayland socket.
    pub socket: String,
}

impl Runtime {
    /// Ends the compositor, after this turn, with an exit status.
    pub fn stop(&mut self, status: u8) {
        self.exit.get_or_insert(status);
    }
}

/// An output with its Wayland global.
#[derive(Debug)]
pub struct OutputEntry {
    /// Its state.
    pub state: OutputState,
    pub(crate) global: GlobalId,
}

/// Everything.
#[derive(Debug)]
pub struct State {
    /// Where pictures go.
    pub backend: Backend,
    /// What composites.
    pub painter: Painter,
    /// smithay's protocols.
    pub protocols: Protocols,
    /// linux-dmabuf.
    pub dmabuf: DmabufPart,
    /// Windows.
    pub shell: Shell,
    /// Keyboard and pointer.
    pub input: Input,
    /// Outputs, left to right.
    pub outputs: Vec<OutputEntry>,
    /// The event loop.
    pub runtime: Runtime,
}

/// CLOCK_MONOTONIC.
pub(crate) fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl State {
    /// Handles a commit of a surface tree.
    pub fn root_committed(&mut self, root: &WlSurface) {
        self.send_initial_configure(root);
        let mapped = Self::is_mapped(root);
        if mapped && !self.is_configured(root) {
            // The client has been sent its error.
            return;
        }
        // One that fills an output is laid out there, a new one goes where new windows go.
        let filled = self.shell.anchor(root).and_then(|at| self.area_at(at));
        let area = filled.unwrap_or_else(|| self.work_area());
        match self.shell.commit(root, mapped, area) {
            Some(Mapping::Mapped) => {
                self.focus(Some(root.clone()), smithay::utils::SERIAL_COUNTER.next_serial());
            }
            Some(Mapping::Unmapped) => self.focus_topmost(),
            None => {}
        }
        let client = root.client().map(|c| c.id());
        let reach = self.shell.reach(root);
        let covered = |o: &OutputEntry| self.shell.is_covered(root, o.state.geometry());
        let covered: Vec<OutputId> = self.outputs.iter().filter(|o| covered(o)).map(|o| o.state.id).collect();
        self.queue_redraw_where(|output| {
            let shown = !covered.contains(&output.id) && reach.is_some_and(|r| r.overlaps(output.geometry()));
            shown || output.shows_client(client.as_ref())
        });
        // Nothing changes there, but it hears from time to time that it may draw.
        covered.into_iter().for_each(|id| self.throttle(id));
    }

    /// Forgets a buffer that is gone.
    pub(crate) fn forget_buffer(&mut self, dmabuf: &WeakDmabuf) {
        self.backend.forget_buffer(dmabuf);
        self.painter.forget(dmabuf);
        self.dmabuf.imports.forget(dmabuf);
    }

    /// Forgets destroyed buffers that nothing shows any more.
    pub(crate) fn forget_dead_buffers(&mut self) {
        self.end_buffers();
        let mut dying = std::mem::take(&mut self.dmabuf.dying);
        dying.retain(|dmabuf| {
            let gone = dmabuf.is_gone();
            if gone {
                self.forget_buffer(dmabuf);
            }
            !gone
        });
        self.dmabuf.dying = dying;
    }

    /// Events are waiting on the card of a slot.
    pub fn card_readable(&mut self, slot: u32) {
        let Some(kms) = self.backend.kms() else { return };
        match kms.read_flips(slot) {
            Ok(flips) => flips.into_iter().for_each(|flip| self.frame_shown(flip)),
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(err) => {
                tracing::error!(%err, "a display device cannot be read any more");
                self.device_gone(slot);
            }
        }
    }

    /// Events may be waiting on any card.
    pub fn cards_readable(&mut self) {
        let slots = self.backend.kms().map(|kms| kms.slots()).unwrap_or_default();
        slots.into_iter().for_each(|slot| self.card_readable(slot));
    }

    /// The headless backend's vertical blank.
    pub fn headless_vblank(&mut self, frame: FrameSpec, time: Duration) {
        if let Backend::Headless(headless) = &mut self.backend {
            let flip = headless.vblank(frame, time);
            self.frame_shown(flip);
        }
    }

    /// The end: nothing of the clients' pictures stays on the screen.
    pub fn leave(&mut self) {
        if let Some(kms) = self.backend.kms() {
            kms.leave();
        }
    }

    /// The session was switched away.
    pub fn session_paused(&mut self) {
        tracing::info!("session paused");
        if let Some(kms) = self.backend.kms() {
            kms.pause();
        }
    }

    /// The session is back.
    pub fn session_resumed(&mut self) {
        tracing::info!("session resumed");
        if let Some(kms) = self.backend.kms() {
            kms.resume();
        }
        for entry in &mut self.outputs {
            entry.state.reset();
        }
        // What came or went meanwhile could not be opened.
        self.devices_changed();
        self.connectors_changed(None);
        self.keep_off();
        self.queue_redraw_all();
    }
}
