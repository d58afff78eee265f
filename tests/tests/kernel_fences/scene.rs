//! What the cases share: windows of a client in this process, and another client that draws all the time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::{Allocator, ClientBuffer, Placement};
use primeway_tests::client::connection::{BufferRequest, Window, Wire};
use primeway_tests::ctl::{Fence, Stats, Surface};
use primeway_tests::format::{Format, MODIFIER_LINEAR};
use primeway_tests::picture::{Pattern, Picture};
use primeway_tests::session::{Compositor, RunningClient};
use wayland_client::Proxy;
use wayland_client::protocol::wl_buffer::WlBuffer;

/// How long something may take that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(3);
const REQUEST: BufferRequest = BufferRequest { modifier: MODIFIER_LINEAR, y_invert: false, immediate: true };

/// Frames a second of somebody who is not held up, of 60 that the display has, on a busy machine. Who is has 0 or 1.
pub const FLUENT: f64 = 20.0;
/// What the windows of this process show: red, green, blue.
pub const COLOUR: [u8; 3] = [0x30, 0x60, 0xc0];

/// A window of this process with its buffers.
pub struct Pane {
    pub window: Window,
    pub buffers: Vec<(ClientBuffer, WlBuffer)>,
    next: usize,
}

/// A dma-buf of `size` in one colour, with an object for each plane.
pub fn buffer(wire: &mut Wire, format: &str, size: (u32, u32)) -> Result<(ClientBuffer, WlBuffer)> {
    memory(wire, Allocator::Vgem, format, size)
}

/// A buffer of any memory.
pub fn memory(
    wire: &mut Wire,
    allocator: Allocator,
    format: &str,
    size: (u32, u32),
) -> Result<(ClientBuffer, WlBuffer)> {
    let format = Format::named(format).context("no such format")?;
    let placement = Placement { separate: true, offset: 0 };
    let mut buffer = ClientBuffer::allocate_placed(allocator, format, size, placement)?;
    let [r, g, b] = COLOUR;
    let colour = u32::from_be_bytes([0xff, r, g, b]);
    let picture = Picture { pattern: Pattern::Solid(colour), width: size.0, height: size.1, frame: 0 };
    buffer.draw(&picture, false)?;
    let wl = wire.create_buffer(&buffer, &REQUEST)?;
    Ok((buffer, wl))
}

impl Pane {
    /// Opens a window that has shown its first frame.
    pub fn open(wire: &mut Wire, title: &str, format: &str, size: (u32, u32)) -> Result<Pane> {
        Pane::open_of(wire, title, Allocator::Vgem, format, size)
    }

    /// The same of any memory.
    pub fn open_of(
        wire: &mut Wire,
        title: &str,
        allocator: Allocator,
        format: &str,
        size: (u32, u32),
    ) -> Result<Pane> {
        wire.events.configured.0 = false;
        let window = wire.open_window(title, false)?;
        let buffers = (0..3).map(|_| memory(wire, allocator, format, size)).collect::<Result<_>>()?;
        let mut pane = Pane { window, buffers, next: 0 };
        let before = wire.events.presented;
        pane.commit(wire);
        ensure!(presented(wire, before)?, "the first frame of {title} was not shown");
        Ok(pane)
    }

    /// The buffer that the next commit shows.
    pub fn coming(&self) -> &ClientBuffer {
        &self.buffers[self.next % self.buffers.len()].0
    }

    /// The buffer of the last commit.
    pub fn last(&self) -> &ClientBuffer {
        &self.buffers[(self.next + self.buffers.len() - 1) % self.buffers.len()].0
    }

    /// Commits the next buffer, with feedback.
    pub fn commit(&mut self, wire: &mut Wire) {
        let wl = &self.buffers[self.next % self.buffers.len()].1;
        self.next += 1;
        wire.commit(&self.window.surface, wl);
    }

    /// Its object id.
    pub fn id(&self) -> u64 {
        u64::from(self.window.surface.id().protocol_id())
    }

    /// What is said of it.
    pub fn report(&self, stats: &Stats) -> Result<Surface> {
        let surfaces = stats.surfaces(own_pid());
        surfaces.into_iter().find(|s| s.surface == self.id()).cloned().context("the window is not there")
    }

    /// What it is said to wait for.
    pub fn fence(&self, stats: &Stats) -> Option<Fence> {
        let own = |f: &&Fence| f.pid == Some(own_pid()) && f.surface == self.id();
        stats.fences.iter().find(own).cloned()
    }
}

pub fn own_pid() -> i32 {
    std::process::id() as i32
}

/// Waits until more than `before` frames of this client were shown.
pub fn presented(wire: &mut Wire, before: u64) -> Result<bool> {
    wire.wait(Instant::now() + PATIENCE, |events| events.presented > before)
}

/// Another client, of which some frames are on the screen.
pub fn neighbour(compositor: &Compositor, arguments: &[&str]) -> Result<RunningClient> {
    let mut client = RunningClient::start_test_client(&compositor.display, "neighbour", arguments)?;
    client.wait_presented(2 * PATIENCE)?;
    Ok(client)
}

/// Frames of the other client that are shown in the next `time`, by the second.
pub fn rate(compositor: &Compositor, client: &RunningClient, time: Duration) -> Result<f64> {
    let count = || -> Result<u64> {
        let stats = compositor.ctl.stats()?;
        Ok(stats.surface(client.pid()).context("the neighbour has no window")?.frames_presented)
    };
    let (before, start) = (count()?, Instant::now());
    std::thread::sleep(time);
    Ok((count()? - before) as f64 / start.elapsed().as_secs_f64())
}
