//! A client in this process that synchronises explicitly, and a primeway of its own for each case.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drm_prime::{Timeline, Timelines};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::client::connection::{BufferRequest, Window, Wire};
use primeway_tests::ctl::Fence;
use primeway_tests::format::{Format, MODIFIER_LINEAR};
use primeway_tests::picture::{Pattern, Picture};
use primeway_tests::session::Compositor;
use wayland_client::Proxy as _;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_protocols::wp::linux_drm_syncobj::v1::client::{
    wp_linux_drm_syncobj_surface_v1::WpLinuxDrmSyncobjSurfaceV1,
    wp_linux_drm_syncobj_timeline_v1::WpLinuxDrmSyncobjTimelineV1,
};

use super::device;

/// How long something may take that should come at once: on an emulated processor.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long something that must not happen is waited for.
pub const A_WHILE: Duration = Duration::from_millis(200);
/// The emulated display.
pub const SCREEN: (u32, u32) = (640, 480);

/// A compositor and what its clients make timelines with.
pub struct Stage {
    pub compositor: Compositor,
    pub timelines: Timelines,
}

impl Stage {
    pub fn new(name: &str, arguments: &[&str]) -> Result<Stage> {
        let compositor = Compositor::start_plain(name, arguments)?;
        Ok(Stage { compositor, timelines: device::timelines()? })
    }

    pub fn connect(&self) -> Result<Wire> {
        Wire::connect_to(&self.compositor.display, 4)
    }

    /// A timeline that both know.
    pub fn line(&self, wire: &Wire) -> Result<Line> {
        let ours = self.timelines.create()?;
        let theirs = wire.import_timeline(ours.export()?)?;
        Ok(Line { ours, theirs })
    }

    /// What a surface of this process waits for.
    pub fn fence(&self, surface: &WlSurface) -> Result<Option<Fence>> {
        let (pid, id) = (std::process::id() as i32, u64::from(surface.id().protocol_id()));
        let stats = self.compositor.ctl.stats()?;
        Ok(stats.fences.into_iter().find(|fence| fence.pid == Some(pid) && fence.surface == id))
    }
}

/// A timeline of the client, and its object.
pub struct Line {
    pub ours: Timeline,
    pub theirs: WpLinuxDrmSyncobjTimelineV1,
}

impl Line {
    pub fn has(&self, point: u64) -> Result<bool> {
        Ok(self.ours.is_signalled(point)?)
    }

    /// Waits until a point has signalled.
    pub fn wait(&self, point: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.has(point)? {
            ensure!(Instant::now() < deadline, "point {point} does not signal");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Fails if a point signals in a while.
    pub fn stays(&self, point: u64) -> Result<()> {
        std::thread::sleep(A_WHILE);
        ensure!(!self.has(point)?, "point {point} has signalled");
        Ok(())
    }
}

/// A buffer of the client with a timeline of its own for its release points, which count up from 1.
pub struct Buffer {
    pub memory: ClientBuffer,
    pub wl: WlBuffer,
    pub released: Line,
    pub uses: u64,
}

impl Buffer {
    /// Of the display's device, or of vgem, which the display cannot show.
    pub fn new(stage: &Stage, wire: &mut Wire, allocator: Allocator, size: (u32, u32)) -> Result<Buffer> {
        let mut memory = ClientBuffer::allocate(allocator, Format::named("XR24")?, size.0, size.1)?;
        let picture =
            Picture { pattern: Pattern::Solid(0xff30_60c0), width: size.0, height: size.1, frame: 0 };
        memory.draw(&picture, false)?;
        let how = BufferRequest { modifier: MODIFIER_LINEAR, y_invert: false, immediate: true };
        let wl = wire.create_buffer(&memory, &how)?;
        Ok(Buffer { memory, wl, released: stage.line(wire)?, uses: 0 })
    }

    /// Whether its last commit is done with it.
    pub fn is_free(&self) -> Result<bool> {
        self.released.has(self.uses)
    }

    pub fn wait_free(&self) -> Result<()> {
        self.released.wait(self.uses)
    }

    pub fn stays_busy(&self) -> Result<()> {
        self.released.stays(self.uses)
    }
}

/// A window that is synchronised explicitly, with a timeline for its acquire points.
pub struct Pane {
    pub window: Window,
    pub explicit: WpLinuxDrmSyncobjSurfaceV1,
    pub ready: Line,
    pub points: u64,
}

impl Pane {
    pub fn open(stage: &Stage, wire: &mut Wire, title: &str, fullscreen: bool) -> Result<Pane> {
        wire.events.configured.0 = false;
        let window = wire.open_window(title, fullscreen)?;
        let explicit = wire.explicit(&window.surface)?;
        Ok(Pane { window, explicit, ready: stage.line(wire)?, points: 0 })
    }

    /// Commits a buffer that is not ready; it is when the pane's last point is signalled.
    pub fn commit_early(&mut self, wire: &mut Wire, buffer: &mut Buffer) {
        self.points += 1;
        set_points(&self.explicit, (&self.ready, self.points), buffer);
        wire.commit(&self.window.surface, &buffer.wl);
    }

    /// What was committed last is ready.
    pub fn signal(&self) -> Result<()> {
        Ok(self.ready.ours.signal(self.points)?)
    }

    /// Commits a buffer that is ready.
    pub fn commit(&mut self, wire: &mut Wire, buffer: &mut Buffer) -> Result<()> {
        self.ready.ours.signal(self.points + 1)?;
        self.commit_early(wire, buffer);
        Ok(())
    }

    /// Shows a buffer that is ready.
    pub fn show(&mut self, wire: &mut Wire, buffer: &mut Buffer) -> Result<()> {
        let before = wire.events.presented;
        self.commit(wire, buffer)?;
        shown(wire, before)
    }
}

/// Sets the points of the next commit; the release point is the buffer's next.
pub fn set_points(explicit: &WpLinuxDrmSyncobjSurfaceV1, acquire: (&Line, u64), buffer: &mut Buffer) {
    buffer.uses += 1;
    set_point(explicit, true, acquire.0, acquire.1);
    set_point(explicit, false, &buffer.released, buffer.uses);
}

pub fn set_point(explicit: &WpLinuxDrmSyncobjSurfaceV1, acquire: bool, line: &Line, point: u64) {
    let (high, low) = ((point >> 32) as u32, point as u32);
    if acquire {
        explicit.set_acquire_point(&line.theirs, high, low);
    } else {
        explicit.set_release_point(&line.theirs, high, low);
    }
}

/// Waits until more than `before` frames of this client were shown.
pub fn shown(wire: &mut Wire, before: u64) -> Result<()> {
    let come = wire.wait(Instant::now() + PATIENCE, |events| events.presented > before)?;
    ensure!(come, "a frame was not shown");
    Ok(())
}

/// Fails if more than `before` frames of this client are shown in a while.
pub fn not_shown(wire: &mut Wire, before: u64) -> Result<()> {
    let come = wire.wait(Instant::now() + A_WHILE, |events| events.presented > before)?;
    ensure!(!come, "a frame was shown");
    Ok(())
}

/// A file that is no syncobj.
pub fn stranger() -> Result<OwnedFd> {
    Ok(rustix::pipe::pipe().context("pipe")?.0)
}
