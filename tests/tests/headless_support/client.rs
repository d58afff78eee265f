//! A scripted client: every request by hand, every event in one list in the order of arrival.
//!
//! Owns the connection and the list of events. It decides nothing and draws nothing on its own; configure events
//! are acknowledged unless a test switches that off. Protocol plumbing is in `events`.

mod events;

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_shm;
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::protocol::wl_subsurface::WlSubsurface;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection, Proxy as _, QueueHandle};
use wayland_protocols::wp::alpha_modifier::v1::client::wp_alpha_modifier_surface_v1::WpAlphaModifierSurfaceV1;
use wayland_protocols::wp::color_representation::v1::client::wp_color_representation_surface_v1::WpColorRepresentationSurfaceV1;
use wayland_protocols::wp::content_type::v1::client::wp_content_type_v1::WpContentTypeV1;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Flags, ZwpLinuxBufferParamsV1,
};
use wayland_protocols::wp::tearing_control::v1::client::wp_tearing_control_v1::WpTearingControlV1;
use wayland_protocols::wp::viewporter::client::wp_viewport::WpViewport;
use wayland_protocols::xdg::shell::client::xdg_popup::XdgPopup;
use wayland_protocols::xdg::shell::client::xdg_positioner::XdgPositioner;
use wayland_protocols::xdg::shell::client::xdg_surface::XdgSurface;
use wayland_protocols::xdg::shell::client::xdg_toplevel::XdgToplevel;

use super::PATIENCE;
pub use events::{Event, Seen};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::client::link::{Link, WireError};
use primeway_tests::format::{Format, MODIFIER_LINEAR};
use primeway_tests::picture::{Pattern, Picture};

/// A connection with its queue.
#[derive(Debug)]
pub struct Client {
    link: Link<Seen>,
    /// What arrived, and the globals.
    pub seen: Seen,
    tokens: u32,
}

/// A toplevel window that was configured once.
#[derive(Debug)]
pub struct Window {
    /// The surface.
    pub surface: WlSurface,
    /// Its xdg_surface.
    pub xdg_surface: XdgSurface,
    /// Its xdg_toplevel.
    pub toplevel: XdgToplevel,
}

impl Window {
    /// Destroys the window, role first.
    pub fn close(self) {
        self.toplevel.destroy();
        self.xdg_surface.destroy();
        self.surface.destroy();
    }
}

/// A popup that may not have been configured yet.
#[derive(Debug)]
pub struct Popup {
    /// The surface.
    pub surface: WlSurface,
    /// Its xdg_surface.
    pub xdg_surface: XdgSurface,
    /// Its xdg_popup.
    pub popup: XdgPopup,
}

impl Popup {
    /// Destroys the popup, role first.
    pub fn close(self) {
        self.popup.destroy();
        self.xdg_surface.destroy();
        self.surface.destroy();
    }
}

/// A `wl_buffer` with the memory behind it.
#[derive(Debug)]
pub struct Buffer {
    /// The protocol object.
    pub wl: WlBuffer,
    /// The memory.
    pub memory: ClientBuffer,
    /// What was drawn.
    pub picture: Picture,
}

impl Buffer {
    /// The protocol object's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.wl.id().protocol_id()
    }

    /// Draws another pattern, without telling the compositor.
    ///
    /// # Errors
    ///
    /// When the memory cannot be written.
    pub fn redraw(&mut self, pattern: Pattern) -> Result<()> {
        self.picture.pattern = pattern;
        self.memory.draw(&self.picture, false)
    }
}

impl Client {
    pub(super) fn over(stream: UnixStream) -> Result<Client> {
        let connection = Connection::from_socket(stream).context("cannot use the socket")?;
        let mut seen = Seen::new();
        let link = Link::over(connection, &mut seen)?;
        Ok(Client { link, seen, tokens: 0 })
    }

    fn handle(&self) -> QueueHandle<Seen> {
        self.link.handle()
    }

    fn token(&mut self) -> u32 {
        self.tokens += 1;
        self.tokens
    }

    /// Waits until the server has handled everything sent so far.
    ///
    /// # Errors
    ///
    /// When the connection broke or no answer comes.
    pub fn roundtrip(&mut self) -> Result<()> {
        self.link.roundtrip(&mut self.seen)
    }

    /// [`Client::roundtrip`] that waits no longer than `limit`; says whether it was answered.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub fn roundtrip_within(&mut self, limit: Duration) -> Result<bool> {
        self.link.roundtrip_within(&mut self.seen, limit)
    }

    /// Handles events until `done` holds.
    ///
    /// # Errors
    ///
    /// When the connection broke or it never holds.
    pub fn wait(&mut self, what: &str, done: impl Fn(&Seen) -> bool) -> Result<()> {
        if self.wait_within(PATIENCE, done)? {
            return Ok(());
        }
        bail!("{what}: not in {PATIENCE:?}; events so far: {:?}", self.seen.log)
    }

    /// Handles events until `done` holds or `limit` has passed; says whether `done` held.
    ///
    /// # Errors
    ///
    /// When the connection broke; [`Client::error`] then has the protocol error, if it was one.
    pub fn wait_within(&mut self, limit: Duration, done: impl Fn(&Seen) -> bool) -> Result<bool> {
        self.link.wait(&mut self.seen, Instant::now() + limit, done)
    }

    /// The fatal error the server raised, if it did.
    #[must_use]
    pub fn error(&self) -> Option<WireError> {
        self.link.error()
    }

    /// Sends everything and waits for the fatal error that it must raise.
    ///
    /// # Errors
    ///
    /// When the server raises none.
    pub fn expect_error(&mut self) -> Result<WireError> {
        let answered = self.roundtrip();
        self.error().with_context(|| format!("no protocol error, but {answered:?}"))
    }

    /// Makes a surface without a role.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn surface(&self) -> Result<WlSurface> {
        let compositor = self.seen.globals.compositor.as_ref().context("no wl_compositor")?;
        Ok(compositor.create_surface(&self.handle(), ()))
    }

    /// Opens a toplevel and waits for its first configure.
    ///
    /// # Errors
    ///
    /// When no configure comes.
    pub fn open_window(&mut self, title: &str) -> Result<Window> {
        self.open_window_as(title, |_| ())
    }

    /// Opens a toplevel with `requests` before its first commit and waits for its first configure.
    ///
    /// # Errors
    ///
    /// When no configure comes.
    pub fn open_window_as(&mut self, title: &str, requests: impl FnOnce(&XdgToplevel)) -> Result<Window> {
        let surface = self.surface()?;
        let wm_base = self.seen.globals.wm_base.as_ref().context("no xdg_wm_base")?;
        let xdg_surface = wm_base.get_xdg_surface(&surface, &self.handle(), ());
        let toplevel = xdg_surface.get_toplevel(&self.handle(), ());
        toplevel.set_title(title.to_owned());
        requests(&toplevel);
        surface.commit();
        let id = xdg_surface.id().protocol_id();
        // Object ids are used again: an older event may have the same.
        let before = self.seen.log.len();
        self.wait("first configure", |seen| {
            seen.log[before..].iter().any(|e| matches!(e, Event::Configure(object, _) if *object == id))
        })?;
        Ok(Window { surface, xdg_surface, toplevel })
    }

    /// Opens a window, shows `buffer` in it, and waits until the compositor has taken it.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub fn show_window(&mut self, title: &str, buffer: &Buffer) -> Result<Window> {
        let window = self.open_window(title)?;
        self.show(&window.surface, buffer)?;
        Ok(window)
    }

    /// Attaches, damages everything, commits and waits until the compositor has handled it.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub fn show(&mut self, surface: &WlSurface, buffer: &Buffer) -> Result<()> {
        self.attach(surface, buffer);
        surface.commit();
        self.roundtrip()
    }

    /// Attaches, damages everything, commits and waits until it is on screen; says whether the ZERO_COPY flag was set.
    ///
    /// # Errors
    ///
    /// As [`Client::presented`].
    pub fn present(&mut self, surface: &WlSurface, buffer: &Buffer) -> Result<bool> {
        self.attach(surface, buffer);
        self.presented(surface)
    }

    /// Commits what is attached with feedback and waits until it is on screen; says whether the ZERO_COPY flag was set.
    ///
    /// # Errors
    ///
    /// When the connection broke or it is never shown.
    pub fn presented(&mut self, surface: &WlSurface) -> Result<bool> {
        let token = self.feedback(surface)?;
        surface.commit();
        self.wait("presented", |seen| seen.presented_at(token).is_some())?;
        self.seen.zero_copy(token).context("no flags")
    }

    /// Attaches and damages everything.
    pub fn attach(&self, surface: &WlSurface, buffer: &Buffer) {
        surface.attach(Some(&buffer.wl), 0, 0);
        surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
    }

    /// A subsurface of `parent`, synchronized as the protocol starts it.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn subsurface(&self, parent: &WlSurface) -> Result<(WlSurface, WlSubsurface)> {
        let surface = self.surface()?;
        let role = self.subsurface_of(&surface, parent)?;
        Ok((surface, role))
    }

    /// Makes `surface` a subsurface of `parent`.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn subsurface_of(&self, surface: &WlSurface, parent: &WlSurface) -> Result<WlSubsurface> {
        let subcompositor = self.seen.globals.subcompositor.as_ref().context("no wl_subcompositor")?;
        Ok(subcompositor.get_subsurface(surface, parent, &self.handle(), ()))
    }

    /// Says which part of a surface is opaque: x, y, width, height.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn set_opaque(&self, surface: &WlSurface, [x, y, w, h]: [i32; 4]) -> Result<()> {
        let compositor = self.seen.globals.compositor.as_ref().context("no wl_compositor")?;
        let region = compositor.create_region(&self.handle(), ());
        region.add(x, y, w, h);
        surface.set_opaque_region(Some(&region));
        region.destroy();
        Ok(())
    }

    /// A positioner.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn positioner(&self) -> Result<XdgPositioner> {
        let wm_base = self.seen.globals.wm_base.as_ref().context("no xdg_wm_base")?;
        Ok(wm_base.create_positioner(&self.handle(), ()))
    }

    /// A popup of `parent`, not committed yet.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn popup(&self, parent: &XdgSurface, positioner: &XdgPositioner) -> Result<Popup> {
        let surface = self.surface()?;
        let wm_base = self.seen.globals.wm_base.as_ref().context("no xdg_wm_base")?;
        let xdg_surface = wm_base.get_xdg_surface(&surface, &self.handle(), ());
        let popup = xdg_surface.get_popup(Some(parent), positioner, &self.handle(), ());
        Ok(Popup { surface, xdg_surface, popup })
    }

    /// A popup that names itself as its parent, which no client should.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn popup_of_itself(&self, positioner: &XdgPositioner) -> Result<Popup> {
        let surface = self.surface()?;
        let wm_base = self.seen.globals.wm_base.as_ref().context("no xdg_wm_base")?;
        let xdg_surface = wm_base.get_xdg_surface(&surface, &self.handle(), ());
        let popup = xdg_surface.get_popup(Some(&xdg_surface), positioner, &self.handle(), ());
        Ok(Popup { surface, xdg_surface, popup })
    }

    /// The viewport of a surface.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn viewport(&self, surface: &WlSurface) -> Result<WpViewport> {
        let viewporter = self.seen.globals.viewporter.as_ref().context("no wp_viewporter")?;
        Ok(viewporter.get_viewport(surface, &self.handle(), ()))
    }

    /// The tearing object of a surface.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn tearing(&self, surface: &WlSurface) -> Result<WpTearingControlV1> {
        let manager = self.seen.globals.tearing.as_ref().context("no wp_tearing_control_manager_v1")?;
        Ok(manager.get_tearing_control(surface, &self.handle(), ()))
    }

    /// The object by which is said how much of a surface is seen.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn alpha(&self, surface: &WlSurface) -> Result<WpAlphaModifierSurfaceV1> {
        let alpha = self.seen.globals.alpha.as_ref().context("no wp_alpha_modifier_v1")?;
        Ok(alpha.get_surface(surface, &self.handle(), ()))
    }

    /// The object by which is said what a surface shows.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn content_type(&self, surface: &WlSurface) -> Result<WpContentTypeV1> {
        let manager = self.seen.globals.content_type.as_ref().context("no wp_content_type_manager_v1")?;
        Ok(manager.get_surface_content_type(surface, &self.handle(), ()))
    }

    /// The object by which a surface's colour representation is set.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn color(&self, surface: &WlSurface) -> Result<WpColorRepresentationSurfaceV1> {
        let color = self.seen.globals.color.as_ref();
        let color = color.context("no wp_color_representation_manager_v1")?;
        Ok(color.get_surface(surface, &self.handle(), ()))
    }

    /// The seat.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn seat(&self) -> Result<WlSeat> {
        self.seen.globals.seat.clone().context("no wl_seat")
    }

    /// Binds the seat's keyboard, so that focus events arrive.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn take_keyboard(&mut self) -> Result<()> {
        self.seat()?.get_keyboard(&self.handle(), ());
        self.roundtrip()
    }

    /// Asks for a frame callback with the next commit; the token comes back in [`Event::Frame`].
    pub fn frame(&mut self, surface: &WlSurface) -> u32 {
        let token = self.token();
        surface.frame(&self.handle(), token);
        token
    }

    /// Asks for presentation feedback for the next commit; the token comes back in [`Event::Presented`] or
    /// [`Event::Discarded`].
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn feedback(&mut self, surface: &WlSurface) -> Result<u32> {
        let token = self.token();
        let presentation = self.seen.globals.presentation.as_ref().context("no wp_presentation")?;
        presentation.feedback(surface, &self.handle(), token);
        Ok(token)
    }

    /// Memory with a picture of `format` in it.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn memory(
        format: &str,
        size: (u32, u32),
        pattern: Pattern,
        y_invert: bool,
    ) -> Result<(ClientBuffer, Picture)> {
        let mut memory = ClientBuffer::allocate(Allocator::Memfd, Format::named(format)?, size.0, size.1)?;
        let picture = Picture { pattern, width: size.0, height: size.1, frame: 0 };
        memory.draw(&picture, y_invert)?;
        Ok((memory, picture))
    }

    /// A linux-dmabuf buffer (a memfd, which the headless backend takes) with a picture in it.
    ///
    /// # Errors
    ///
    /// When there is no memory or no linux-dmabuf.
    pub fn dmabuf(&mut self, format: &str, size: (u32, u32), pattern: Pattern) -> Result<Buffer> {
        self.dmabuf_with(format, size, pattern, Flags::empty())
    }

    /// [`Client::dmabuf`] with flags; with Y_INVERT the rows lie bottom first, so that the picture is upright.
    ///
    /// # Errors
    ///
    /// As [`Client::dmabuf`].
    pub fn dmabuf_with(
        &mut self,
        format: &str,
        size: (u32, u32),
        pattern: Pattern,
        flags: Flags,
    ) -> Result<Buffer> {
        let (memory, picture) = Self::memory(format, size, pattern, flags.contains(Flags::YInvert))?;
        let params = self.params()?;
        for (index, plane) in (0..).zip(&memory.layout) {
            params.add(
                memory.as_fd(),
                index,
                plane.offset,
                plane.stride,
                hi(MODIFIER_LINEAR),
                lo(MODIFIER_LINEAR),
            );
        }
        let fourcc = memory.format.fourcc as u32;
        let wl = self.create_immed(&params, (size.0 as i32, size.1 as i32), fourcc, flags);
        params.destroy();
        Ok(Buffer { wl, memory, picture })
    }

    /// A linux-dmabuf parameter object.
    ///
    /// # Errors
    ///
    /// When the global is missing.
    pub fn params(&self) -> Result<ZwpLinuxBufferParamsV1> {
        let dmabuf = self.seen.globals.dmabuf.as_ref().context("no zwp_linux_dmabuf_v1")?;
        Ok(dmabuf.create_params(&self.handle(), ()))
    }

    /// Makes a `wl_buffer` by `create_immed`.
    pub fn create_immed(
        &self,
        params: &ZwpLinuxBufferParamsV1,
        size: (i32, i32),
        fourcc: u32,
        flags: Flags,
    ) -> WlBuffer {
        params.create_immed(size.0, size.1, fourcc, flags, &self.handle(), ())
    }

    /// Asks for a `wl_buffer` by `create`, whose answer is an event.
    pub fn create(&self, params: &ZwpLinuxBufferParamsV1, size: (i32, i32), fourcc: u32, flags: Flags) {
        params.create(size.0, size.1, fourcc, flags);
    }

    /// A wl_shm buffer in a pool of its own, with a picture in it: `XR24` or `AR24`.
    ///
    /// # Errors
    ///
    /// When there is no memory or no wl_shm.
    pub fn shm(&mut self, format: &str, size: (u32, u32), pattern: Pattern) -> Result<Buffer> {
        let (buffer, pool) = self.shm_in_pool(format, size, pattern)?;
        pool.destroy();
        Ok(buffer)
    }

    /// [`Client::shm`] with its pool, which the caller destroys.
    ///
    /// # Errors
    ///
    /// As [`Client::shm`].
    pub fn shm_in_pool(
        &mut self,
        format: &str,
        size: (u32, u32),
        pattern: Pattern,
    ) -> Result<(Buffer, WlShmPool)> {
        let (memory, picture) = Self::memory(format, size, pattern, false)?;
        let shm = self.seen.globals.shm.as_ref().context("no wl_shm")?;
        let code = match format {
            "XR24" => wl_shm::Format::Xrgb8888,
            "AR24" => wl_shm::Format::Argb8888,
            other => bail!("no wl_shm for {other} here: use XR24 or AR24"),
        };
        let pool = shm.create_pool(memory.as_fd(), memory.size() as i32, &self.handle(), ());
        let stride = memory.layout[0].stride as i32;
        let wl = pool.create_buffer(0, size.0 as i32, size.1 as i32, stride, code, &self.handle(), ());
        Ok((Buffer { wl, memory, picture }, pool))
    }
}

impl Client {
    /// A white wl_shm buffer of 20x10 whose offset and rows are no whole 32-bit words.
    ///
    /// # Errors
    ///
    /// When there is no memory or no wl_shm.
    pub fn shm_with_odd_rows(&mut self) -> Result<WlBuffer> {
        let (_, pool) = self.shm_in_pool("AR24", (64, 48), Pattern::Solid(0xffff_ffff))?;
        let wl = pool.create_buffer(1, 20, 10, 83, wl_shm::Format::Xrgb8888, &self.handle(), ());
        pool.destroy();
        Ok(wl)
    }

    /// A wl_shm buffer whose last row lies beyond its pool.
    ///
    /// # Errors
    ///
    /// When there is no memory or no wl_shm.
    pub fn shm_beyond_pool(&mut self) -> Result<WlBuffer> {
        let (buffer, pool) = self.shm_in_pool("XR24", (64, 64), Pattern::Noise(1))?;
        let stride = buffer.memory.layout[0].stride as i32;
        let rows = (buffer.memory.size() / u64::from(buffer.memory.layout[0].stride)) as i32 + 1;
        Ok(pool.create_buffer(0, 64, rows, stride, wl_shm::Format::Xrgb8888, &self.handle(), ()))
    }

    /// Shows a window of wl_shm whose file can be cut short; its `wl_buffer` and file.
    ///
    /// # Errors
    ///
    /// When there is no memory or no wl_shm.
    pub fn show_unsealed(&mut self, title: &str, size: (u32, u32)) -> Result<((WlBuffer, OwnedFd), Window)> {
        let bytes = u64::from(size.0) * u64::from(size.1) * 4;
        let file = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::CLOEXEC).context("memfd")?;
        rustix::fs::ftruncate(&file, bytes).context("ftruncate")?;
        let shm = self.seen.globals.shm.as_ref().context("no wl_shm")?;
        let pool = shm.create_pool(file.as_fd(), bytes as i32, &self.handle(), ());
        let (width, height) = (size.0 as i32, size.1 as i32);
        let format = wl_shm::Format::Xrgb8888;
        let wl = pool.create_buffer(0, width, height, width * 4, format, &self.handle(), ());
        let window = self.open_window(title)?;
        window.surface.attach(Some(&wl), 0, 0);
        window.surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        window.surface.commit();
        self.roundtrip()?;
        Ok(((wl, file), window))
    }
}

/// The upper half of a modifier.
#[must_use]
pub fn hi(modifier: u64) -> u32 {
    (modifier >> 32) as u32
}

/// The lower half of a modifier.
#[must_use]
pub fn lo(modifier: u64) -> u32 {
    modifier as u32
}
