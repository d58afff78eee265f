//! A client that listens to keyboard and pointer: one window of one colour, and a record of what it was told.
//!
//! Owns its connection. Dma-bufs, frames and feedback are the business of the library's `client`.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use primeway_tests::client::link::{Configured, Globals, Link};
use primeway_tests::{delegate_configure, delegate_link};
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_keyboard::{self, KeyState, WlKeyboard};
use wayland_client::protocol::wl_pointer::{self, ButtonState, WlPointer};
use wayland_client::protocol::wl_seat::{self, Capability, WlSeat};
use wayland_client::protocol::wl_shm;
use wayland_client::{Connection, Dispatch, QueueHandle, WEnum, delegate_noop};
use wayland_protocols::xdg::shell::client::xdg_toplevel::XdgToplevel;

use crate::desktop::{PATIENCE, runtime_folder};

/// What the compositor told the client.
#[derive(Debug, Default)]
pub struct Seen {
    globals: Globals,
    keyboard: Option<WlKeyboard>,
    pointer: Option<WlPointer>,
    configured: Configured,
    /// Between `wl_pointer.enter` and `leave`.
    pub pointer_inside: bool,
    /// `wl_pointer.motion` events.
    pub motions: u64,
    /// Button and whether it is pressed.
    pub buttons: Vec<(u32, bool)>,
    /// Between `wl_keyboard.enter` and `leave`.
    pub keyboard_inside: bool,
    /// Key (evdev code) and whether it is pressed.
    pub keys: Vec<(u32, bool)>,
    /// Size of the keymap.
    pub keymap_bytes: u32,
}

/// A window with its connection.
#[derive(Debug)]
pub struct SeatClient {
    /// The window's title.
    pub title: String,
    /// What it was told.
    pub seen: Seen,
    link: Link<Seen>,
}

impl SeatClient {
    /// Connects and maps a window of one colour (AARRGGBB).
    ///
    /// # Errors
    ///
    /// When a global is missing or the compositor does not answer.
    pub fn open(display: &str, title: &str, size: (u32, u32), colour: u32) -> Result<SeatClient> {
        let stream = UnixStream::connect(runtime_folder(0).join(display)).context("cannot connect")?;
        let connection = Connection::from_socket(stream).context("no Wayland connection")?;
        let mut seen = Seen::default();
        let link = Link::over(connection, &mut seen)?;
        let mut client = SeatClient { title: title.to_owned(), seen, link };
        client.map(size, colour)?;
        client.settle()?;
        Ok(client)
    }

    fn map(&mut self, (width, height): (u32, u32), colour: u32) -> Result<()> {
        let handle = self.link.handle();
        let surface =
            self.seen.globals.compositor.as_ref().context("no wl_compositor")?.create_surface(&handle, ());
        let wm_base = self.seen.globals.wm_base.as_ref().context("no xdg_wm_base")?;
        let xdg_surface = wm_base.get_xdg_surface(&surface, &handle, ());
        let toplevel = xdg_surface.get_toplevel(&handle, ());
        toplevel.set_title(self.title.clone());
        surface.commit();
        self.wait("a configure", |seen| seen.configured.0)?;
        let memory = rustix::fs::memfd_create("colour", rustix::fs::MemfdFlags::CLOEXEC).context("memfd")?;
        let mut file = std::fs::File::from(memory);
        file.write_all(&colour.to_le_bytes().repeat((width * height) as usize)).context("memfd")?;
        let shm = self.seen.globals.shm.as_ref().context("no wl_shm")?;
        let (width, height) = (width as i32, height as i32);
        let pool = shm.create_pool(file.as_fd(), width * height * 4, &handle, ());
        let format = wl_shm::Format::Xrgb8888;
        let buffer = pool.create_buffer(0, width, height, width * 4, format, &handle, ());
        pool.destroy();
        surface.attach(Some(&buffer), 0, 0);
        surface.damage_buffer(0, 0, width, height);
        surface.commit();
        Ok(())
    }

    /// Forgets what happened, but not where pointer and keyboard are.
    pub fn forget(&mut self) {
        self.seen.buttons.clear();
        self.seen.keys.clear();
        self.seen.motions = 0;
    }

    /// Reads everything that was sent up to now.
    ///
    /// # Errors
    ///
    /// When the connection broke.
    pub fn settle(&mut self) -> Result<()> {
        // Twice: the answers to the first one may make objects, whose events come with the second.
        self.link.roundtrip(&mut self.seen)?;
        self.link.roundtrip(&mut self.seen)
    }

    /// Handles events until `done` holds.
    ///
    /// # Errors
    ///
    /// When it does not within [`PATIENCE`], or the connection broke.
    pub fn wait(&mut self, what: &str, done: impl Fn(&Seen) -> bool) -> Result<()> {
        let came = self.link.wait(&mut self.seen, Instant::now() + PATIENCE, done)?;
        ensure!(came, "{}: {what} did not come: {:?}", self.title, self.seen);
        Ok(())
    }
}

impl Dispatch<WlSeat, ()> for Seen {
    fn event(
        seen: &mut Self,
        seat: &WlSeat,
        event: wl_seat::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        let wl_seat::Event::Capabilities { capabilities: WEnum::Value(capabilities) } = event else { return };
        if capabilities.contains(Capability::Keyboard) && seen.keyboard.is_none() {
            seen.keyboard = Some(seat.get_keyboard(handle, ()));
        }
        if capabilities.contains(Capability::Pointer) && seen.pointer.is_none() {
            seen.pointer = Some(seat.get_pointer(handle, ()));
        }
    }
}

impl Dispatch<WlPointer, ()> for Seen {
    fn event(
        seen: &mut Self,
        _: &WlPointer,
        event: wl_pointer::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_pointer::Event::Enter { .. } => seen.pointer_inside = true,
            wl_pointer::Event::Leave { .. } => seen.pointer_inside = false,
            wl_pointer::Event::Motion { .. } => seen.motions += 1,
            wl_pointer::Event::Button { button, state, .. } => {
                seen.buttons.push((button, state == WEnum::Value(ButtonState::Pressed)));
            }
            _ => {}
        }
    }
}

impl Dispatch<WlKeyboard, ()> for Seen {
    fn event(
        seen: &mut Self,
        _: &WlKeyboard,
        event: wl_keyboard::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_keyboard::Event::Keymap { size, .. } => seen.keymap_bytes = size,
            wl_keyboard::Event::Enter { .. } => seen.keyboard_inside = true,
            wl_keyboard::Event::Leave { .. } => seen.keyboard_inside = false,
            wl_keyboard::Event::Key { key, state, .. } => {
                seen.keys.push((key, state == WEnum::Value(KeyState::Pressed)));
            }
            _ => {}
        }
    }
}

delegate_link!(Seen);
delegate_configure!(Seen);
delegate_noop!(Seen: ignore WlBuffer);
delegate_noop!(Seen: ignore XdgToplevel);
