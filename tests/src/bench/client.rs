//! The client of the benchmark: windows with prepared buffers, each on a connection of its own, and a record of when each
//! frame was committed and presented.
//!
//! Owns the loop and the record. It speaks xdg-shell, linux-dmabuf or wl_shm, and presentation-time, and no more, so that
//! every compositor can serve it.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use wayland_client::backend::ObjectId;
use wayland_client::protocol::wl_buffer::{self, WlBuffer};
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_shm;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, delegate_noop, event_created_child};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    self, Flags, ZwpLinuxBufferParamsV1,
};
use wayland_protocols::wp::presentation_time::client::wp_presentation_feedback::{
    self, WpPresentationFeedback,
};
use wayland_protocols::xdg::shell::client::xdg_surface::XdgSurface;
use wayland_protocols::xdg::shell::client::xdg_toplevel::{self, XdgToplevel};

use super::churn::{BATCH, Churn};
use crate::buffer::{Allocator, ClientBuffer};
use crate::client::link::{Configured, Feedback, Globals, Link};
use crate::format::{Format, MODIFIER_INVALID, MODIFIER_LINEAR};
use crate::picture::{Pattern, Picture};
use crate::{delegate_configure, delegate_link};

/// The line that says that every window has been presented.
pub const READY: &str = "ready";
/// The line that says that the compositor has answered, before all else.
pub const ANSWERED: &str = "answered";
/// A pause before and after the compositor's work, for the other side to look at it.
const LOOK: Duration = Duration::from_millis(300);
/// Buffers of each window.
pub const BUFFERS: usize = 3;
/// linux-dmabuf is bound at most at this version: the last one that says its formats by events.
const DMABUF_VERSION: u32 = 3;
/// How long a compositor may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the client does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of windows.
    pub windows: u32,
    /// Width and height of each in pixels.
    pub size: (u32, u32),
    /// Pixel format by its four characters.
    pub format: String,
    /// Where buffers come from.
    #[serde(with = "allocator")]
    pub allocator: Allocator,
    /// Asks for full screen.
    pub fullscreen: bool,
    /// From a frame callback to the commit.
    pub draw: Duration,
    /// A new wl_buffer for each frame.
    pub new_buffers: bool,
    /// Creates and destroys so many wl_buffers, and shows nothing.
    pub churn: Option<u64>,
}

/// [`Allocator`] by the name that the command line has for it.
mod allocator {
    use clap::ValueEnum;
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::buffer::Allocator;

    pub fn serialize<S: Serializer>(value: &Allocator, to: S) -> Result<S::Ok, S::Error> {
        let name = value.to_possible_value();
        to.serialize_str(name.as_ref().map_or("", |name| name.get_name()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Allocator, D::Error> {
        let name = String::deserialize(from)?;
        Allocator::from_str(&name, false).map_err(de::Error::custom)
    }
}

/// What the client saw. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When the compositor had answered the first round trip.
    pub answered: u64,
    /// What the compositor does not offer; then nothing was shown.
    pub lacks: Option<String>,
    /// Every presented frame.
    pub frames: Vec<Frame>,
    /// Frames that were never shown.
    pub discarded: u64,
    /// Windows whose buffer is on the screen.
    pub shown: u32,
    /// From the first to the last of the buffers that were to be created and destroyed.
    pub churn: Option<Duration>,
    /// When each batch of [`BATCH`] was done that was created and destroyed after these, until the end.
    pub batches: Vec<u64>,
}

/// A frame that was presented. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Whose.
    pub window: u32,
    /// When it was committed.
    pub committed: u64,
    /// When it became visible, as the compositor says.
    pub presented: u64,
    /// The compositor's flag.
    pub zero_copy: bool,
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Waits for a compositor in the runtime folder, and does what `plan` says until standard input ends. Prints [`READY`]
/// when every window has been presented.
///
/// # Errors
///
/// When there is no compositor in time, or the connection or a device fails.
pub fn run(plan: &Plan) -> Result<Record> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set")?;
    let socket = wait_for_socket(Path::new(&folder))?;
    let first = Pane::connect(&socket, 0)?;
    let mut record = Record { answered: now(), ..Record::default() };
    record.lacks = first.lacks(plan)?;
    if record.lacks.is_some() {
        return Ok(record);
    }
    if let Some(count) = plan.churn {
        let modifier =
            first.modifier(Format::named(&plan.format)?).context("a format that is not offered")?;
        let mut churn = Churn::connect(&socket, allocate(plan, 0)?, modifier)?;
        say(ANSWERED)?;
        std::thread::sleep(LOOK);
        record.churn = Some(churn.run(count)?);
        say(READY)?;
        std::thread::sleep(LOOK);
        // For those who count system calls, which makes everything slow.
        while !told_to_end()? {
            churn.run(BATCH)?;
            record.batches.push(now());
        }
        return Ok(record);
    }
    let mut panes = vec![first];
    for window in 1..plan.windows {
        panes.push(Pane::connect(&socket, window)?);
    }
    for pane in &mut panes {
        pane.open(plan)?;
    }
    turn_until_told(&mut panes, plan)?;
    for pane in panes {
        record.discarded += pane.events.discarded;
        record.shown += u32::from(!pane.events.frames.is_empty());
        record.frames.extend(pane.events.frames);
    }
    Ok(record)
}

/// Whether standard input has ended.
fn told_to_end() -> Result<bool> {
    let stdin = std::io::stdin();
    let timeout = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
        Ok(_) => Ok(true),
        Err(err) => Err(err).context("cannot wait for the end"),
    }
}

fn say(line: &str) -> Result<()> {
    println!("{line}");
    std::io::stdout().flush().context("stdout")
}

/// The first socket that a compositor listens on.
fn wait_for_socket(folder: &Path) -> Result<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for entry in std::fs::read_dir(folder).context("the runtime folder")? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with("wayland-") && !name.ends_with(".lock") && UnixStream::connect(&path).is_ok()
            {
                return Ok(path);
            }
        }
        ensure!(Instant::now() < deadline, "no compositor in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Serves all windows until standard input ends, from one thread: as many connections as there are windows, without as
/// many processes to switch between.
fn turn_until_told(panes: &mut [Pane], plan: &Plan) -> Result<()> {
    let stdin = std::io::stdin();
    let mut ready = false;
    loop {
        let due = panes.iter().filter_map(|pane| pane.due).min();
        let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = wait
            .map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) });
        let awake: Vec<bool> = {
            let guards: Vec<_> = panes.iter().map(|pane| pane.link.as_fd()).collect();
            let mut fds: Vec<PollFd<'_>> = guards.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            fds.push(PollFd::new(&stdin, PollFlags::IN));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err).context("cannot wait for the compositor"),
            }
            fds.iter().map(|fd| !fd.revents().is_empty()).collect()
        };
        if awake.last() == Some(&true) {
            return Ok(());
        }
        for (pane, awake) in panes.iter_mut().zip(awake) {
            pane.turn(plan, awake)?;
        }
        if !ready && panes.iter().all(|pane| !pane.events.frames.is_empty()) {
            ready = true;
            say(READY)?;
        }
    }
}

/// What the events of one connection left behind.
#[derive(Debug, Default)]
struct Events {
    globals: Globals,
    window: u32,
    configured: Configured,
    closed: bool,
    frame_done: bool,
    released: Vec<ObjectId>,
    frames: Vec<Frame>,
    discarded: u64,
}

#[derive(Debug, Default)]
struct Slot {
    buffer: Option<ClientBuffer>,
    wl: Option<WlBuffer>,
    busy: bool,
}

/// A window and its connection.
#[derive(Debug)]
struct Pane {
    link: Link<Events>,
    events: Events,
    surface: Option<(WlSurface, XdgSurface, XdgToplevel)>,
    slots: [Slot; BUFFERS],
    /// When the frame that is being drawn is finished.
    due: Option<Instant>,
}

impl Pane {
    fn connect(socket: &Path, window: u32) -> Result<Pane> {
        let socket = UnixStream::connect(socket).context("cannot connect")?;
        let connection = Connection::from_socket(socket).context("not a socket")?;
        let mut events =
            Events { globals: Globals::with_dmabuf(DMABUF_VERSION), window, ..Events::default() };
        let link = Link::over(connection, &mut events)?;
        Ok(Pane { link, events, surface: None, slots: Default::default(), due: None })
    }

    /// What of `plan` the compositor cannot do.
    fn lacks(&self, plan: &Plan) -> Result<Option<String>> {
        ensure!(self.events.globals.presentation.is_some(), "no wp_presentation");
        if plan.allocator == Allocator::Shm {
            return Ok(None);
        }
        if self.events.globals.dmabuf.is_none() {
            return Ok(Some("offers no linux-dmabuf".to_owned()));
        }
        let offered = self.modifier(Format::named(&plan.format)?);
        Ok(offered.is_none().then(|| format!("does not offer {}", plan.format)))
    }

    /// The modifier to name: linear, or none where the compositor offers the format only without. Mesa's software drivers
    /// know no modifiers.
    fn modifier(&self, format: Format) -> Option<u64> {
        let fourcc = format.fourcc as u32;
        let offered = |modifier: &u64| self.events.globals.formats.contains(&(fourcc, *modifier));
        [MODIFIER_LINEAR, MODIFIER_INVALID].into_iter().find(offered)
    }

    fn open(&mut self, plan: &Plan) -> Result<()> {
        let handle = self.link.handle();
        let compositor = self.events.globals.compositor.as_ref().context("no wl_compositor")?;
        let wm_base = self.events.globals.wm_base.as_ref().context("no xdg_wm_base")?;
        let surface = compositor.create_surface(&handle, ());
        let xdg_surface = wm_base.get_xdg_surface(&surface, &handle, ());
        let toplevel = xdg_surface.get_toplevel(&handle, ());
        toplevel.set_title(title(self.events.window));
        toplevel.set_app_id("primeway-bench".to_owned());
        if plan.fullscreen {
            toplevel.set_fullscreen(None);
        }
        surface.commit();
        let deadline = Instant::now() + Duration::from_secs(10);
        if !self.link.wait(&mut self.events, deadline, |events| events.configured.0)? {
            bail!("no xdg_surface.configure in 10 s");
        }
        self.surface = Some((surface, xdg_surface, toplevel));
        self.events.frame_done = true;
        self.turn(plan, false)
    }

    /// Handles what arrived, and commits if there is a frame to commit.
    fn turn(&mut self, plan: &Plan, arrived: bool) -> Result<()> {
        if arrived {
            self.link.turn(&mut self.events)?;
            ensure!(!self.events.closed, "the compositor closed window {}", self.events.window);
            for id in self.events.released.drain(..) {
                for slot in &mut self.slots {
                    if slot.wl.as_ref().is_some_and(|wl| wl.id() == id) {
                        slot.busy = false;
                    }
                }
            }
        }
        let free = self.slots.iter().position(|slot| !slot.busy);
        if let Some(index) = free.filter(|_| self.events.frame_done) {
            let now = Instant::now();
            let due = *self.due.get_or_insert(now + plan.draw);
            // The first frame has nothing to wait for.
            if now >= due || self.events.frames.is_empty() {
                self.due = None;
                self.commit(plan, index)?;
            }
        }
        self.link.flush()
    }

    fn commit(&mut self, plan: &Plan, index: usize) -> Result<()> {
        if self.slots[index].buffer.is_none() {
            self.slots[index].buffer = Some(allocate(plan, index)?);
        }
        if plan.new_buffers
            && let Some(old) = self.slots[index].wl.take()
        {
            old.destroy();
        }
        if self.slots[index].wl.is_none() {
            let wl = self.create(index)?;
            self.slots[index].wl = Some(wl);
        }
        let Pane { slots, surface, events, link, .. } = self;
        let (Some(wl), Some((surface, ..))) = (&slots[index].wl, &surface) else { return Ok(()) };
        let presentation = events.globals.presentation.as_ref().context("no wp_presentation")?;
        let handle = link.handle();
        events.frame_done = false;
        surface.attach(Some(wl), 0, 0);
        surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        surface.frame(&handle, ());
        presentation.feedback(surface, &handle, now());
        surface.commit();
        slots[index].busy = true;
        Ok(())
    }

    /// Makes the wl_buffer of a slot.
    fn create(&self, index: usize) -> Result<WlBuffer> {
        let buffer = self.slots[index].buffer.as_ref().context("no buffer")?;
        let handle = self.link.handle();
        let (width, height) = (buffer.width as i32, buffer.height as i32);
        if buffer.allocator == Allocator::Shm {
            let shm = self.events.globals.shm.as_ref().context("no wl_shm")?;
            let pool = shm.create_pool(buffer.as_fd(), buffer.size() as i32, &handle, ());
            let stride = buffer.layout[0].stride as i32;
            let wl = pool.create_buffer(0, width, height, stride, wl_shm::Format::Xrgb8888, &handle, ());
            pool.destroy();
            return Ok(wl);
        }
        let dmabuf = self.events.globals.dmabuf.as_ref().context("no linux-dmabuf")?;
        let params = dmabuf.create_params(&handle, ());
        let modifier = self.modifier(buffer.format).context("a format that is not offered")?;
        let (hi, lo) = ((modifier >> 32) as u32, modifier as u32);
        for (index, plane) in buffer.layout.iter().enumerate() {
            params.add(buffer.plane_fd(index), index as u32, plane.offset, plane.stride, hi, lo);
        }
        let fourcc = buffer.format.fourcc as u32;
        let wl = params.create_immed(width, height, fourcc, Flags::empty(), &handle, ());
        params.destroy();
        Ok(wl)
    }
}

/// The title of a window: rules of compositors go by it.
#[must_use]
pub fn title(window: u32) -> String {
    format!("bench-{window:02}")
}

/// A buffer of one colour, another one for each of a window.
///
/// # Errors
///
/// When there is no such memory or format.
pub fn allocate(plan: &Plan, index: usize) -> Result<ClientBuffer> {
    let (width, height) = plan.size;
    let mut buffer = ClientBuffer::allocate(plan.allocator, Format::named(&plan.format)?, width, height)?;
    let colours = [0xff60_2020, 0xff20_6020, 0xff20_2060];
    let pattern = Pattern::Solid(colours[index % colours.len()]);
    buffer.draw(&Picture { pattern, width, height, frame: 0 }, false)?;
    Ok(buffer)
}

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
            state.released.push(buffer.id());
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
        if let xdg_toplevel::Event::Close = event {
            state.closed = true;
        }
    }
}

impl Dispatch<ZwpLinuxBufferParamsV1, ()> for Events {
    fn event(
        _: &mut Self,
        _: &ZwpLinuxBufferParamsV1,
        _: zwp_linux_buffer_params_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }

    event_created_child!(Events, ZwpLinuxBufferParamsV1, [
        zwp_linux_buffer_params_v1::EVT_CREATED_OPCODE => (WlBuffer, ()),
    ]);
}

/// The user data is when the frame was committed.
impl Dispatch<WpPresentationFeedback, u64> for Events {
    fn event(
        state: &mut Self,
        _: &WpPresentationFeedback,
        event: wp_presentation_feedback::Event,
        committed: &u64,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match Feedback::of(&event) {
            Some(Feedback::Presented { time, zero_copy, .. }) => {
                let (window, committed) = (state.window, *committed);
                state.frames.push(Frame { window, committed, presented: time, zero_copy });
            }
            Some(Feedback::Discarded) => state.discarded += 1,
            None => {}
        }
    }
}

delegate_link!(Events);
delegate_configure!(Events);
delegate_noop!(Events: ignore WlSeat);
