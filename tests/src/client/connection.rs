//! The wire side of a test client: globals, one window, events as plain fields.
//!
//! Owns every protocol object of a client; the connection is in `link`. It decides nothing: what to send and when is in
//! `client` and its scripts.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wayland_client::backend::ObjectId;
use wayland_client::protocol::wl_buffer::{self, WlBuffer};
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_pointer::{self, WlPointer};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_shm;
use wayland_client::protocol::wl_subsurface::WlSubsurface;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, delegate_noop, event_created_child};
use wayland_protocols::wp::alpha_modifier::v1::client::wp_alpha_modifier_surface_v1::WpAlphaModifierSurfaceV1;
use wayland_protocols::wp::color_representation::v1::client::wp_color_representation_surface_v1::WpColorRepresentationSurfaceV1;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    self, Flags, ZwpLinuxBufferParamsV1,
};
use wayland_protocols::wp::linux_drm_syncobj::v1::client::wp_linux_drm_syncobj_manager_v1::WpLinuxDrmSyncobjManagerV1;
use wayland_protocols::wp::linux_drm_syncobj::v1::client::wp_linux_drm_syncobj_surface_v1::WpLinuxDrmSyncobjSurfaceV1;
use wayland_protocols::wp::linux_drm_syncobj::v1::client::wp_linux_drm_syncobj_timeline_v1::WpLinuxDrmSyncobjTimelineV1;
use wayland_protocols::wp::presentation_time::client::wp_presentation_feedback::{
    self, WpPresentationFeedback,
};
use wayland_protocols::wp::viewporter::client::wp_viewport::WpViewport;
use wayland_protocols::xdg::shell::client::xdg_popup::{self, XdgPopup};
use wayland_protocols::xdg::shell::client::xdg_positioner::{Anchor, Gravity, XdgPositioner};
use wayland_protocols::xdg::shell::client::xdg_surface::XdgSurface;
use wayland_protocols::xdg::shell::client::xdg_toplevel::{self, XdgToplevel};

use super::link::{Configured, Feedback, Globals, Link, WireError};
use crate::buffer::{Allocator, ClientBuffer};
use crate::{delegate_configure, delegate_link};

/// What the events of the server left behind.
#[derive(Debug, Default)]
pub struct Events {
    globals: Globals,
    /// There was an `xdg_surface.configure`.
    pub configured: Configured,
    /// The last size of `xdg_toplevel.configure`; 0 means that the client chooses.
    pub configure_size: (u32, u32),
    /// The last place of a popup: x, y, width, height.
    pub popup: Option<[i32; 4]>,
    /// The compositor asked the window to close.
    pub closed: bool,
    /// The last frame callback is done.
    pub frame_done: bool,
    /// Buffers the compositor released since somebody looked.
    pub released: HashSet<ObjectId>,
    /// Frames that were presented.
    pub presented: u64,
    /// Of these, with the ZERO_COPY flag.
    pub zero_copy: u64,
    /// Frames that were never shown.
    pub discarded: u64,
    /// The answer to `zwp_linux_buffer_params_v1.create`: the buffer, or `None` for `failed`.
    pub created: Option<Option<WlBuffer>>,
    /// `failed` events for `create_immed`.
    pub failed: u64,
    /// The serial of the last `wl_pointer.enter`.
    pub pointer_entered: Option<u32>,
    /// `wl_pointer.motion` events.
    pub motions: u64,
}

/// A connection with its queue.
#[derive(Debug)]
pub struct Wire {
    link: Link<Events>,
    /// What arrived.
    pub events: Events,
}

/// A mapped toplevel window.
#[derive(Debug)]
pub struct Window {
    /// The surface.
    pub surface: WlSurface,
    xdg_surface: XdgSurface,
    toplevel: XdgToplevel,
    viewport: Option<WpViewport>,
    popups: Vec<(XdgPopup, XdgSurface, WlSurface)>,
}

impl Wire {
    /// Connects to `$WAYLAND_DISPLAY` and binds the globals; linux-dmabuf at most at `dmabuf_version`.
    ///
    /// # Errors
    ///
    /// When there is no server.
    pub fn connect(dmabuf_version: u32) -> Result<Wire> {
        let connection = Connection::connect_to_env().context("cannot connect to $WAYLAND_DISPLAY")?;
        Wire::over(connection, dmabuf_version)
    }

    /// The same with `display` instead of `$WAYLAND_DISPLAY`.
    ///
    /// # Errors
    ///
    /// When there is no such server.
    pub fn connect_to(display: &str, dmabuf_version: u32) -> Result<Wire> {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set")?;
        let socket = UnixStream::connect(Path::new(&folder).join(display)).context("no such server")?;
        Wire::over(Connection::from_socket(socket).context("not a socket")?, dmabuf_version)
    }

    fn over(connection: Connection, dmabuf_version: u32) -> Result<Wire> {
        let mut events = Events { globals: Globals::with_dmabuf(dmabuf_version), ..Events::default() };
        let link = Link::over(connection, &mut events)?;
        Ok(Wire { link, events })
    }

    /// Waits until the server has handled everything sent so far.
    ///
    /// # Errors
    ///
    /// As [`Link::roundtrip`].
    pub fn roundtrip(&mut self) -> Result<()> {
        self.link.roundtrip(&mut self.events)
    }

    /// Handles events until `done` holds or `deadline` has passed; says whether `done` held.
    ///
    /// # Errors
    ///
    /// When the connection broke; [`Wire::error`] then has the protocol error, if it was one.
    pub fn wait(&mut self, deadline: Instant, done: impl Fn(&Events) -> bool) -> Result<bool> {
        self.link.wait(&mut self.events, deadline, done)
    }

    /// The fatal error the server raised, if it did.
    #[must_use]
    pub fn error(&self) -> Option<WireError> {
        self.link.error()
    }

    /// Opens a toplevel and waits for its first configure.
    ///
    /// # Errors
    ///
    /// When wl_compositor or xdg_wm_base is missing, or no configure comes within ten seconds.
    pub fn open_window(&mut self, title: &str, fullscreen: bool) -> Result<Window> {
        let handle = self.link.handle();
        let compositor = self.events.globals.compositor.as_ref().context("no wl_compositor")?;
        let wm_base = self.events.globals.wm_base.as_ref().context("no xdg_wm_base")?;
        let surface = compositor.create_surface(&handle, ());
        let xdg_surface = wm_base.get_xdg_surface(&surface, &handle, ());
        let toplevel = xdg_surface.get_toplevel(&handle, ());
        toplevel.set_title(title.to_owned());
        toplevel.set_app_id("primeway-test-client".to_owned());
        if fullscreen {
            toplevel.set_fullscreen(None);
        }
        surface.commit();
        if !self.wait(Instant::now() + Duration::from_secs(10), |events| events.configured.0)? {
            bail!("no xdg_surface.configure in 10 s");
        }
        Ok(Window { surface, xdg_surface, toplevel, viewport: None, popups: Vec::new() })
    }

    /// Shows the window scaled to `size` by wp_viewport, in surface-local units.
    ///
    /// # Errors
    ///
    /// When the server has no viewporter.
    pub fn set_viewport(&mut self, window: &mut Window, size: (u32, u32)) -> Result<()> {
        let viewporter = self.events.globals.viewporter.as_ref().context("no wp_viewporter")?;
        let viewport = viewporter.get_viewport(&window.surface, &self.link.handle(), ());
        viewport.set_destination(size.0 as i32, size.1 as i32);
        window.viewport = Some(viewport);
        Ok(())
    }

    /// Shows no more than the part of `size` from the top left corner of the buffers on, unscaled.
    ///
    /// # Errors
    ///
    /// When the server has no viewporter.
    pub fn crop(&mut self, window: &mut Window, size: (u32, u32)) -> Result<()> {
        let viewporter = self.events.globals.viewporter.as_ref().context("no wp_viewporter")?;
        let viewport = viewporter.get_viewport(&window.surface, &self.link.handle(), ());
        viewport.set_source(0.0, 0.0, f64::from(size.0), f64::from(size.1));
        window.viewport = Some(viewport);
        Ok(())
    }

    /// Puts a subsurface at `place` over `parent`, in sync with nothing.
    ///
    /// # Errors
    ///
    /// When wl_subcompositor is missing.
    pub fn open_subsurface(&mut self, parent: &WlSurface, place: (i32, i32)) -> Result<WlSurface> {
        let (surface, subsurface) = self.open_synced_subsurface(parent, place)?;
        subsurface.set_desync();
        Ok(surface)
    }

    /// The same in sync with its parent.
    ///
    /// # Errors
    ///
    /// When wl_subcompositor is missing.
    pub fn open_synced_subsurface(
        &mut self,
        parent: &WlSurface,
        place: (i32, i32),
    ) -> Result<(WlSurface, WlSubsurface)> {
        let handle = self.link.handle();
        let compositor = self.events.globals.compositor.as_ref().context("no wl_compositor")?;
        let subcompositor = self.events.globals.subcompositor.as_ref().context("no wl_subcompositor")?;
        let surface = compositor.create_surface(&handle, ());
        let subsurface = subcompositor.get_subsurface(&surface, parent, &handle, ());
        subsurface.set_position(place.0, place.1);
        Ok((surface, subsurface))
    }

    /// A surface without a role, and the pointer that it may become the image of.
    ///
    /// # Errors
    ///
    /// When wl_compositor or wl_seat is missing.
    pub fn open_cursor(&mut self) -> Result<(WlSurface, WlPointer)> {
        let handle = self.link.handle();
        let compositor = self.events.globals.compositor.as_ref().context("no wl_compositor")?;
        let seat = self.events.globals.seat.as_ref().context("no wl_seat")?;
        Ok((compositor.create_surface(&handle, ()), seat.get_pointer(&handle, ())))
    }

    /// Opens a popup of `size` with its corner at `place` of the window, and waits until it is configured there.
    ///
    /// # Errors
    ///
    /// When xdg_wm_base is missing, or the compositor does not put it there within ten seconds.
    pub fn open_popup(
        &mut self,
        window: &mut Window,
        place: (i32, i32),
        size: (u32, u32),
    ) -> Result<WlSurface> {
        let handle = self.link.handle();
        let compositor = self.events.globals.compositor.as_ref().context("no wl_compositor")?;
        let wm_base = self.events.globals.wm_base.as_ref().context("no xdg_wm_base")?;
        let (width, height) = (size.0 as i32, size.1 as i32);
        let positioner = wm_base.create_positioner(&handle, ());
        positioner.set_size(width, height);
        positioner.set_anchor_rect(0, 0, 1, 1);
        positioner.set_anchor(Anchor::TopLeft);
        positioner.set_gravity(Gravity::BottomRight);
        positioner.set_offset(place.0, place.1);
        let surface = compositor.create_surface(&handle, ());
        let xdg_surface = wm_base.get_xdg_surface(&surface, &handle, ());
        let popup = xdg_surface.get_popup(Some(&window.xdg_surface), &positioner, &handle, ());
        window.popups.push((popup, xdg_surface, surface.clone()));
        positioner.destroy();
        self.events.popup = None;
        surface.commit();
        // The window's own configure may come first.
        if !self.wait(Instant::now() + Duration::from_secs(10), |events| events.popup.is_some())? {
            bail!("no xdg_popup.configure in 10 s");
        }
        // It is acknowledged with the xdg_surface.configure that follows.
        self.roundtrip()?;
        let wanted = Some([place.0, place.1, width, height]);
        if self.events.popup != wanted {
            bail!("the popup is at {:?}, not at {wanted:?}", self.events.popup);
        }
        Ok(surface)
    }

    /// Starts a linux-dmabuf parameter object.
    ///
    /// # Errors
    ///
    /// When the server has no linux-dmabuf.
    pub fn params(&self) -> Result<ZwpLinuxBufferParamsV1> {
        let dmabuf =
            self.events.globals.dmabuf.as_ref().context("the compositor offers no zwp_linux_dmabuf_v1")?;
        Ok(dmabuf.create_params(&self.link.handle(), ()))
    }

    /// Makes a `wl_buffer` by `create_immed`.
    pub fn create_immed(
        &self,
        params: &ZwpLinuxBufferParamsV1,
        size: (i32, i32),
        format: u32,
        flags: Flags,
    ) -> WlBuffer {
        params.create_immed(size.0, size.1, format, flags, &self.link.handle(), ())
    }

    /// Makes a `wl_buffer` of a client buffer: linux-dmabuf by `create_immed` (or `create`, then waiting for
    /// the answer), or wl_shm.
    ///
    /// # Errors
    ///
    /// When the server lacks the protocol, or answers `failed` to `create`.
    pub fn create_buffer(&mut self, buffer: &ClientBuffer, how: &BufferRequest) -> Result<WlBuffer> {
        if buffer.allocator == Allocator::Shm {
            return self.create_shm_buffer(buffer);
        }
        let params = self.params()?;
        for (index, plane) in buffer.layout.iter().enumerate() {
            let (hi, lo) = ((how.modifier >> 32) as u32, how.modifier as u32);
            params.add(buffer.plane_fd(index), index as u32, plane.offset, plane.stride, hi, lo);
        }
        let flags = if how.y_invert { Flags::YInvert } else { Flags::empty() };
        let (width, height) = (buffer.width as i32, buffer.height as i32);
        let fourcc = buffer.format.fourcc as u32;
        if how.immediate {
            let wl = self.create_immed(&params, (width, height), fourcc, flags);
            params.destroy();
            return Ok(wl);
        }
        self.events.created = None;
        params.create(width, height, fourcc, flags);
        if !self.wait(Instant::now() + Duration::from_secs(10), |events| events.created.is_some())? {
            bail!("neither created nor failed came in 10 s");
        }
        params.destroy();
        match self.events.created.take() {
            Some(Some(wl)) => Ok(wl),
            _ => bail!("zwp_linux_buffer_params_v1.failed for {}", buffer.format.name()),
        }
    }

    fn create_shm_buffer(&self, buffer: &ClientBuffer) -> Result<WlBuffer> {
        let shm = self.events.globals.shm.as_ref().context("no wl_shm")?;
        let handle = self.link.handle();
        let format = match buffer.format.name().as_str() {
            "XR24" => wl_shm::Format::Xrgb8888,
            "AR24" => wl_shm::Format::Argb8888,
            other => bail!("no wl_shm for {other} here: use XR24 or AR24"),
        };
        let pool = shm.create_pool(buffer.as_fd(), buffer.size() as i32, &handle, ());
        let stride = buffer.layout[0].stride as i32;
        let wl =
            pool.create_buffer(0, buffer.width as i32, buffer.height as i32, stride, format, &handle, ());
        pool.destroy();
        Ok(wl)
    }

    /// Attaches, damages everything, asks for a frame callback and presentation feedback, and commits.
    pub fn commit(&mut self, surface: &WlSurface, buffer: &WlBuffer) {
        let handle = self.link.handle();
        self.events.frame_done = false;
        surface.attach(Some(buffer), 0, 0);
        surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        surface.frame(&handle, ());
        if let Some(presentation) = &self.events.globals.presentation {
            presentation.feedback(surface, &handle, ());
        }
        surface.commit();
    }

    /// Attaches and commits without callbacks: for surfaces beside the one that is counted.
    pub fn commit_quietly(&mut self, surface: &WlSurface, buffer: &WlBuffer) {
        surface.attach(Some(buffer), 0, 0);
        surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        surface.commit();
    }

    /// The server's explicit synchronisation, if it offers any.
    #[must_use]
    pub fn syncobj(&self) -> Option<&WpLinuxDrmSyncobjManagerV1> {
        self.events.globals.syncobj.as_ref()
    }

    /// Has a surface's buffers synchronised explicitly.
    ///
    /// # Errors
    ///
    /// When the server does not offer that.
    pub fn explicit(&self, surface: &WlSurface) -> Result<WpLinuxDrmSyncobjSurfaceV1> {
        let syncobj = self.syncobj().context("no wp_linux_drm_syncobj_manager_v1")?;
        Ok(syncobj.get_surface(surface, &self.link.handle(), ()))
    }

    /// Hands a file over as a timeline.
    ///
    /// # Errors
    ///
    /// When the server does not offer explicit synchronisation.
    pub fn import_timeline(&self, file: impl AsFd) -> Result<WpLinuxDrmSyncobjTimelineV1> {
        let syncobj = self.syncobj().context("no wp_linux_drm_syncobj_manager_v1")?;
        Ok(syncobj.import_timeline(file.as_fd(), &self.link.handle(), ()))
    }

    /// The object by which is said how much of a surface is seen.
    ///
    /// # Errors
    ///
    /// When the server does not offer that.
    pub fn alpha(&self, surface: &WlSurface) -> Result<WpAlphaModifierSurfaceV1> {
        let alpha = self.events.globals.alpha.as_ref().context("no wp_alpha_modifier_v1")?;
        Ok(alpha.get_surface(surface, &self.link.handle(), ()))
    }

    /// The object by which a surface's colour representation is set.
    ///
    /// # Errors
    ///
    /// When the server does not offer that.
    pub fn color(&self, surface: &WlSurface) -> Result<WpColorRepresentationSurfaceV1> {
        let color = self.events.globals.color.as_ref();
        let color = color.context("no wp_color_representation_manager_v1")?;
        Ok(color.get_surface(surface, &self.link.handle(), ()))
    }

    /// Asks for presentation feedback and commits nothing but what was set.
    pub fn commit_state(&mut self, surface: &WlSurface) {
        if let Some(presentation) = &self.events.globals.presentation {
            presentation.feedback(surface, &self.link.handle(), ());
        }
        surface.commit();
    }

    /// A surface without a role.
    ///
    /// # Errors
    ///
    /// When wl_compositor is missing.
    pub fn bare_surface(&self) -> Result<WlSurface> {
        let compositor = self.events.globals.compositor.as_ref().context("no wl_compositor")?;
        Ok(compositor.create_surface(&self.link.handle(), ()))
    }

    /// Whether the server sends presentation feedback.
    #[must_use]
    pub fn has_presentation(&self) -> bool {
        self.events.globals.presentation.is_some()
    }
}

impl Window {
    /// Unmaps and destroys the window.
    pub fn close(self) {
        for (popup, xdg_surface, surface) in self.popups {
            popup.destroy();
            xdg_surface.destroy();
            surface.destroy();
        }
        if let Some(viewport) = self.viewport {
            viewport.destroy();
        }
        self.toplevel.destroy();
        self.xdg_surface.destroy();
        self.surface.destroy();
    }
}

/// How a `wl_buffer` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferRequest {
    /// Modifier of every plane.
    pub modifier: u64,
    /// Sets the Y_INVERT flag.
    pub y_invert: bool,
    /// `create_immed` instead of `create`.
    pub immediate: bool,
}

/// A `wl_surface.frame`.
impl Dispatch<WlCallback, ()> for Events {
    fn event(
        state: &mut Self,
        _: &WlCallback,
        event: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_callback::Event::Done { .. } = event {
            state.frame_done = true;
        }
    }
}

impl Dispatch<WlBuffer, ()> for Events {
    fn event(
        state: &mut Self,
        buffer: &WlBuffer,
        event: wl_buffer::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_buffer::Event::Release = event {
            state.released.insert(buffer.id());
        }
    }
}

impl Dispatch<WlPointer, ()> for Events {
    fn event(
        state: &mut Self,
        _: &WlPointer,
        event: wl_pointer::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_pointer::Event::Enter { serial, .. } => state.pointer_entered = Some(serial),
            wl_pointer::Event::Motion { .. } => state.motions += 1,
            _ => {}
        }
    }
}

impl Dispatch<XdgToplevel, ()> for Events {
    fn event(
        state: &mut Self,
        _: &XdgToplevel,
        event: xdg_toplevel::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            xdg_toplevel::Event::Configure { width, height, .. } => {
                state.configure_size = (width.max(0) as u32, height.max(0) as u32);
            }
            xdg_toplevel::Event::Close => state.closed = true,
            _ => {}
        }
    }
}

impl Dispatch<XdgPopup, ()> for Events {
    fn event(
        state: &mut Self,
        _: &XdgPopup,
        event: xdg_popup::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_popup::Event::Configure { x, y, width, height } = event {
            state.popup = Some([x, y, width, height]);
        }
    }
}

impl Dispatch<ZwpLinuxBufferParamsV1, ()> for Events {
    fn event(
        state: &mut Self,
        _: &ZwpLinuxBufferParamsV1,
        event: zwp_linux_buffer_params_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            zwp_linux_buffer_params_v1::Event::Created { buffer } => state.created = Some(Some(buffer)),
            zwp_linux_buffer_params_v1::Event::Failed => {
                state.created = Some(None);
                state.failed += 1;
            }
            _ => {}
        }
    }

    event_created_child!(Events, ZwpLinuxBufferParamsV1, [
        zwp_linux_buffer_params_v1::EVT_CREATED_OPCODE => (WlBuffer, ()),
    ]);
}

impl Dispatch<WpPresentationFeedback, ()> for Events {
    fn event(
        state: &mut Self,
        _: &WpPresentationFeedback,
        event: wp_presentation_feedback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match Feedback::of(&event) {
            Some(Feedback::Presented { zero_copy, .. }) => {
                state.presented += 1;
                state.zero_copy += u64::from(zero_copy);
            }
            Some(Feedback::Discarded) => state.discarded += 1,
            None => {}
        }
    }
}

delegate_link!(Events);
delegate_configure!(Events);
delegate_noop!(Events: WlSubsurface);
delegate_noop!(Events: WpAlphaModifierSurfaceV1);
delegate_noop!(Events: WpColorRepresentationSurfaceV1);
delegate_noop!(Events: WpLinuxDrmSyncobjSurfaceV1);
delegate_noop!(Events: WpLinuxDrmSyncobjTimelineV1);
delegate_noop!(Events: XdgPositioner);
delegate_noop!(Events: WpViewport);
delegate_noop!(Events: ignore WlSeat);
