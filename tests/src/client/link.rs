//! What every client here has, whatever it does: a connection with its queue, the globals, and waiting with a limit.
//!
//! Owns the registry, round trips, pings, the list of formats, how feedback is read, and the answer to a broken connection. What a client does with its events is
//! its own: see `connection`, and the clients of the targets in `tests`.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wayland_client::backend::WaylandError;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_compositor::WlCompositor;
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_shm::WlShm;
use wayland_client::protocol::wl_subcompositor::WlSubcompositor;
use wayland_client::{Connection, Dispatch, EventQueue, QueueHandle, WEnum};
use wayland_protocols::wp::alpha_modifier::v1::client::wp_alpha_modifier_v1::WpAlphaModifierV1;
use wayland_protocols::wp::color_representation::v1::client::wp_color_representation_manager_v1::WpColorRepresentationManagerV1;
use wayland_protocols::wp::content_type::v1::client::wp_content_type_manager_v1::WpContentTypeManagerV1;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_dmabuf_v1::{self, ZwpLinuxDmabufV1};
use wayland_protocols::wp::linux_drm_syncobj::v1::client::wp_linux_drm_syncobj_manager_v1::WpLinuxDrmSyncobjManagerV1;
use wayland_protocols::wp::presentation_time::client::wp_presentation::WpPresentation;
use wayland_protocols::wp::presentation_time::client::wp_presentation_feedback::{self, Kind};
use wayland_protocols::wp::tearing_control::v1::client::wp_tearing_control_manager_v1::WpTearingControlManagerV1;
use wayland_protocols::wp::viewporter::client::wp_viewporter::WpViewporter;
use wayland_protocols::xdg::shell::client::xdg_surface::{self, XdgSurface};
use wayland_protocols::xdg::shell::client::xdg_wm_base::{self, XdgWmBase};

/// How long a server may take to answer a round trip.
const PATIENCE: Duration = Duration::from_secs(10);

/// A fatal protocol error as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WireError {
    /// Interface of the object it was raised on.
    pub interface: String,
    /// Code of that interface's error enum.
    pub code: u32,
    /// The server's words.
    pub message: String,
}

/// The globals of the server that clients here use; `None` for what it does not offer.
#[derive(Debug, Default)]
pub struct Globals {
    /// wl_compositor, at most version 4.
    pub compositor: Option<WlCompositor>,
    /// wl_subcompositor.
    pub subcompositor: Option<WlSubcompositor>,
    /// wl_shm, version 1.
    pub shm: Option<WlShm>,
    /// wl_seat, at most version 5.
    pub seat: Option<WlSeat>,
    /// xdg_wm_base, at most version 3.
    pub wm_base: Option<XdgWmBase>,
    /// zwp_linux_dmabuf_v1, at most the version of [`Globals::with_dmabuf`].
    pub dmabuf: Option<ZwpLinuxDmabufV1>,
    /// wp_viewporter.
    pub viewporter: Option<WpViewporter>,
    /// wp_presentation, version 1.
    pub presentation: Option<WpPresentation>,
    /// wp_alpha_modifier_v1, version 1.
    pub alpha: Option<WpAlphaModifierV1>,
    /// wp_content_type_manager_v1, version 1.
    pub content_type: Option<WpContentTypeManagerV1>,
    /// wp_color_representation_manager_v1, version 1.
    pub color: Option<WpColorRepresentationManagerV1>,
    /// wp_linux_drm_syncobj_manager_v1, version 1.
    pub syncobj: Option<WpLinuxDrmSyncobjManagerV1>,
    /// wp_tearing_control_manager_v1, version 1.
    pub tearing: Option<WpTearingControlManagerV1>,
    /// What linux-dmabuf lists, as fourcc and modifier.
    pub formats: HashSet<(u32, u64)>,
    dmabuf_version: u32,
    synced: u64,
}

impl Globals {
    /// Nothing yet; linux-dmabuf will be bound at most at this version.
    #[must_use]
    pub fn with_dmabuf(version: u32) -> Globals {
        Globals { dmabuf_version: version, ..Globals::default() }
    }
}

/// A connection with its queue, for a client whose events go to `D`.
///
/// `D` has a field `globals` and names [`delegate_link!`](crate::delegate_link).
#[derive(Debug)]
pub struct Link<D> {
    connection: Connection,
    queue: EventQueue<D>,
    syncs: u64,
}

impl<D> Link<D>
where
    D: AsRef<Globals> + Dispatch<WlRegistry, ()> + Dispatch<WlCallback, Sync> + 'static,
{
    /// Binds the globals.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn over(connection: Connection, state: &mut D) -> Result<Link<D>> {
        let queue = connection.new_event_queue();
        connection.display().get_registry(&queue.handle(), ());
        let mut link = Link { connection, queue, syncs: 0 };
        link.roundtrip(state)?;
        // The first one answers the binding of globals, this one what they say of themselves.
        link.roundtrip(state)?;
        Ok(link)
    }

    /// For requests that make objects.
    #[must_use]
    pub fn handle(&self) -> QueueHandle<D> {
        self.queue.handle()
    }

    /// Waits until the server has handled everything sent so far.
    ///
    /// # Errors
    ///
    /// When the connection broke or the server does not answer within ten seconds.
    pub fn roundtrip(&mut self, state: &mut D) -> Result<()> {
        if self.roundtrip_within(state, PATIENCE)? {
            return Ok(());
        }
        bail!("the compositor did not answer a round trip in {PATIENCE:?}")
    }

    /// The same, but waits no longer than `limit`; says whether it was answered.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub fn roundtrip_within(&mut self, state: &mut D, limit: Duration) -> Result<bool> {
        self.syncs += 1;
        let target = self.syncs;
        self.connection.display().sync(&self.handle(), Sync);
        self.wait(state, Instant::now() + limit, |state| state.as_ref().synced >= target)
    }

    /// Handles events until `done` holds or `deadline` has passed; says whether `done` held.
    ///
    /// # Errors
    ///
    /// When the connection broke; [`Link::error`] then has the protocol error, if it was one.
    pub fn wait(&mut self, state: &mut D, deadline: Instant, done: impl Fn(&D) -> bool) -> Result<bool> {
        loop {
            self.queue.dispatch_pending(state).map_err(|err| self.broken(&err))?;
            if done(state) {
                return Ok(true);
            }
            let mut interest = PollFlags::IN;
            match self.queue.flush() {
                Ok(()) => {}
                Err(WaylandError::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {
                    interest |= PollFlags::OUT;
                }
                // The reason of a lost connection is still in the receive buffer.
                Err(WaylandError::Io(_)) => {}
                Err(err) => return Err(self.broken(&err)),
            }
            let Some(guard) = self.queue.prepare_read() else { continue };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let ready = {
                let fd = guard.connection_fd();
                let mut fds = [PollFd::new(&fd, interest)];
                match poll(&mut fds, Some(&timeout)) {
                    Ok(_) => fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
                    Err(rustix::io::Errno::INTR) => false,
                    Err(err) => return Err(err).context("cannot wait for the compositor"),
                }
            };
            if ready {
                match guard.read() {
                    Ok(_) => {}
                    Err(WaylandError::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(err) => return Err(self.broken(&err)),
                }
            }
        }
    }

    /// Handles what has arrived, without waiting. Says nothing to the server: see [`Link::flush`].
    ///
    /// # Errors
    ///
    /// When the connection broke; [`Link::error`] then has the protocol error, if it was one.
    pub fn turn(&mut self, state: &mut D) -> Result<()> {
        if let Some(guard) = self.queue.prepare_read() {
            match guard.read() {
                Ok(_) => {}
                Err(WaylandError::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(self.broken(&err)),
            }
        }
        self.queue.dispatch_pending(state).map_err(|err| self.broken(&err))?;
        Ok(())
    }

    /// Sends what was requested, as far as the server takes it now.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub fn flush(&self) -> Result<()> {
        match self.queue.flush() {
            Err(WaylandError::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            done => done.map_err(|err| self.broken(&err)),
        }
    }

    fn broken(&self, err: &dyn std::fmt::Display) -> anyhow::Error {
        match self.error() {
            Some(wire) => anyhow!("protocol error {} on {}: {}", wire.code, wire.interface, wire.message),
            None => anyhow!("the connection broke: {err}"),
        }
    }

    /// The fatal error the server raised, if it did.
    #[must_use]
    pub fn error(&self) -> Option<WireError> {
        let error = self.connection.protocol_error()?;
        Some(WireError { interface: error.object_interface, code: error.code, message: error.message })
    }
}

/// The connection's socket, to wait for several connections at once.
impl<D> AsFd for Link<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Marks the callbacks of round trips.
#[derive(Debug, Clone, Copy)]
pub struct Sync;

impl<D> Dispatch<WlRegistry, (), D> for Globals
where
    D: AsMut<Globals>
        + Dispatch<WlRegistry, ()>
        + Dispatch<WlCompositor, ()>
        + Dispatch<WlSubcompositor, ()>
        + Dispatch<WlShm, ()>
        + Dispatch<WlSeat, ()>
        + Dispatch<XdgWmBase, ()>
        + Dispatch<ZwpLinuxDmabufV1, ()>
        + Dispatch<WpViewporter, ()>
        + Dispatch<WpPresentation, ()>
        + Dispatch<WpLinuxDrmSyncobjManagerV1, ()>
        + Dispatch<WpTearingControlManagerV1, ()>
        + Dispatch<WpColorRepresentationManagerV1, ()>
        + Dispatch<WpAlphaModifierV1, ()>
        + Dispatch<WpContentTypeManagerV1, ()>
        + 'static,
{
    fn event(
        state: &mut D,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<D>,
    ) {
        let wl_registry::Event::Global { name, interface, version } = event else { return };
        let globals = state.as_mut();
        match interface.as_str() {
            "wl_compositor" => globals.compositor = Some(registry.bind(name, version.min(4), handle, ())),
            "wl_subcompositor" => globals.subcompositor = Some(registry.bind(name, 1, handle, ())),
            "wl_shm" => globals.shm = Some(registry.bind(name, 1, handle, ())),
            "wl_seat" => globals.seat = Some(registry.bind(name, version.min(5), handle, ())),
            "xdg_wm_base" => globals.wm_base = Some(registry.bind(name, version.min(3), handle, ())),
            "wp_viewporter" => globals.viewporter = Some(registry.bind(name, 1, handle, ())),
            "wp_presentation" => globals.presentation = Some(registry.bind(name, 1, handle, ())),
            "wp_alpha_modifier_v1" => globals.alpha = Some(registry.bind(name, 1, handle, ())),
            "wp_content_type_manager_v1" => globals.content_type = Some(registry.bind(name, 1, handle, ())),
            "wp_color_representation_manager_v1" => {
                globals.color = Some(registry.bind(name, 1, handle, ()));
            }
            "wp_linux_drm_syncobj_manager_v1" => globals.syncobj = Some(registry.bind(name, 1, handle, ())),
            "wp_tearing_control_manager_v1" => globals.tearing = Some(registry.bind(name, 1, handle, ())),
            "zwp_linux_dmabuf_v1" if globals.dmabuf_version > 0 => {
                let version = version.min(globals.dmabuf_version);
                globals.dmabuf = Some(registry.bind(name, version, handle, ()));
            }
            _ => {}
        }
    }
}

impl<D: AsMut<Globals> + Dispatch<WlCallback, Sync>> Dispatch<WlCallback, Sync, D> for Globals {
    fn event(
        state: &mut D,
        _: &WlCallback,
        event: wl_callback::Event,
        _: &Sync,
        _: &Connection,
        _: &QueueHandle<D>,
    ) {
        if let wl_callback::Event::Done { .. } = event {
            state.as_mut().synced += 1;
        }
    }
}

impl<D: AsMut<Globals> + Dispatch<ZwpLinuxDmabufV1, ()>> Dispatch<ZwpLinuxDmabufV1, (), D> for Globals {
    fn event(
        state: &mut D,
        _: &ZwpLinuxDmabufV1,
        event: zwp_linux_dmabuf_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<D>,
    ) {
        if let zwp_linux_dmabuf_v1::Event::Modifier { format, modifier_hi, modifier_lo } = event {
            let modifier = u64::from(modifier_hi) << 32 | u64::from(modifier_lo);
            state.as_mut().formats.insert((format, modifier));
        }
    }
}

/// What a client with one window at a time knows of it: it has been configured, which was acknowledged. The state that has
/// this names [`delegate_configure!`](crate::delegate_configure).
#[derive(Debug, Default)]
pub struct Configured(pub bool);

impl<D: AsMut<Configured> + Dispatch<XdgSurface, ()>> Dispatch<XdgSurface, (), D> for Configured {
    fn event(
        state: &mut D,
        surface: &XdgSurface,
        event: xdg_surface::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<D>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            surface.ack_configure(serial);
            state.as_mut().0 = true;
        }
    }
}

/// What became of a frame that presentation feedback was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feedback {
    /// It was shown.
    Presented {
        /// When, in nanoseconds.
        time: u64,
        /// Nanoseconds to the next refresh.
        refresh: u32,
        /// Number of the vertical blank.
        sequence: u64,
        /// The display showed the client's own buffer.
        zero_copy: bool,
    },
    /// It never was.
    Discarded,
}

impl Feedback {
    /// Reads an event; `None` for one that decides nothing.
    #[must_use]
    pub fn of(event: &wp_presentation_feedback::Event) -> Option<Feedback> {
        match *event {
            wp_presentation_feedback::Event::Presented {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
                refresh,
                seq_hi,
                seq_lo,
                flags,
            } => {
                let seconds = u64::from(tv_sec_hi) << 32 | u64::from(tv_sec_lo);
                Some(Feedback::Presented {
                    time: seconds * 1_000_000_000 + u64::from(tv_nsec),
                    refresh,
                    sequence: u64::from(seq_hi) << 32 | u64::from(seq_lo),
                    zero_copy: matches!(flags, WEnum::Value(kind) if kind.contains(Kind::ZeroCopy)),
                })
            }
            wp_presentation_feedback::Event::Discarded => Some(Feedback::Discarded),
            _ => None,
        }
    }
}

impl<D: Dispatch<XdgWmBase, ()>> Dispatch<XdgWmBase, (), D> for Globals {
    fn event(
        _: &mut D,
        base: &XdgWmBase,
        event: xdg_wm_base::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<D>,
    ) {
        if let xdg_wm_base::Event::Ping { serial } = event {
            base.pong(serial);
        }
    }
}

/// Lets [`Globals`](crate::client::link::Globals) in the field `globals` of a client's state handle what all clients
/// handle alike. The state handles `WlSeat` and every object it makes.
#[macro_export]
macro_rules! delegate_link {
    ($state:ty) => {
        impl AsRef<$crate::client::link::Globals> for $state {
            fn as_ref(&self) -> &$crate::client::link::Globals {
                &self.globals
            }
        }

        impl AsMut<$crate::client::link::Globals> for $state {
            fn as_mut(&mut self) -> &mut $crate::client::link::Globals {
                &mut self.globals
            }
        }

        const _: () = {
            use wayland_client::protocol::{
                wl_callback::WlCallback, wl_compositor::WlCompositor, wl_registry::WlRegistry, wl_shm::WlShm,
                wl_shm_pool::WlShmPool, wl_subcompositor::WlSubcompositor, wl_surface::WlSurface,
            };
            use wayland_client::{delegate_dispatch, delegate_noop};
            use wayland_protocols::wp::alpha_modifier::v1::client::wp_alpha_modifier_v1::WpAlphaModifierV1;
            use wayland_protocols::wp::content_type::v1::client::wp_content_type_manager_v1::WpContentTypeManagerV1;
            use wayland_protocols::wp::color_representation::v1::client::wp_color_representation_manager_v1::WpColorRepresentationManagerV1;
            use wayland_protocols::wp::linux_drm_syncobj::v1::client::wp_linux_drm_syncobj_manager_v1::WpLinuxDrmSyncobjManagerV1;
            use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1;
            use wayland_protocols::wp::presentation_time::client::wp_presentation::WpPresentation;
            use wayland_protocols::wp::tearing_control::v1::client::wp_tearing_control_manager_v1::WpTearingControlManagerV1;
            use wayland_protocols::wp::viewporter::client::wp_viewporter::WpViewporter;
            use wayland_protocols::xdg::shell::client::xdg_wm_base::XdgWmBase;
            use $crate::client::link::{Globals, Sync};

    delegate_dispatch!($state: [WlRegistry: ()] => Globals);
    delegate_dispatch!($state: [WlCallback: Sync] => Globals);
    delegate_dispatch!($state: [XdgWmBase: ()] => Globals);
    delegate_dispatch!($state: [ZwpLinuxDmabufV1: ()] => Globals);
    delegate_noop!($state: WlCompositor);
    delegate_noop!($state: WlSubcompositor);
    delegate_noop!($state: WlShmPool);
    delegate_noop!($state: WpViewporter);
    delegate_noop!($state: WpLinuxDrmSyncobjManagerV1);
    delegate_noop!($state: WpTearingControlManagerV1);
    delegate_noop!($state: WpAlphaModifierV1);
    delegate_noop!($state: WpContentTypeManagerV1);
    delegate_noop!($state: ignore WpColorRepresentationManagerV1);
    delegate_noop!($state: ignore WlShm);
    delegate_noop!($state: ignore WlSurface);
    delegate_noop!($state: ignore WpPresentation);
        };
    };
}

/// Has [`Configured`](crate::client::link::Configured) in the field `configured` of a client's state acknowledge configures.
#[macro_export]
macro_rules! delegate_configure {
    ($state:ty) => {
        impl AsMut<$crate::client::link::Configured> for $state {
            fn as_mut(&mut self) -> &mut $crate::client::link::Configured {
                &mut self.configured
            }
        }

        wayland_client::delegate_dispatch!($state: [
            wayland_protocols::xdg::shell::client::xdg_surface::XdgSurface: ()
        ] => $crate::client::link::Configured);
    };
}
