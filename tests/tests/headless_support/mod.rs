//! The compositor in this process: its state and event loop on a thread, clients over socket pairs.
//!
//! Owns starting, asking and ending it. It runs on the headless backend, so it needs no device and no rights; the
//! planner and the frames are the same as on KMS. The clients are in [`client`]; what is asserted is in the tests.
//!
//! It is a module of each `headless*` target rather than of the library, which must build without the compositor.

pub mod client;
pub mod neighbour;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use calloop::channel::{Channel, Event, Sender, channel};
use drm_prime::device::faults::Faulty;
use drm_prime::model::{Driver, File};
use primeway::backend::Backend;
use primeway::backend::headless::Headless;
use primeway::backend::kms::Kms;
use primeway::backend::kms::device::model::Model;
use primeway::backend::kms::pacing::Vrr;
use primeway::cli::{BackendKind, Cli, Renderer};
use primeway::clients::LimitArg;
use primeway::ctl::{PlaneStats, Stats, SurfaceReport};
use primeway::output::Redraw;
use primeway::reactor::{Reactor, Timers};
use primeway::state::State;
use rustix::fs::{MemfdFlags, SealFlags};
use smithay::backend::input::ButtonState;
use smithay::input::pointer::{ButtonEvent, MotionEvent};
use smithay::utils::SERIAL_COUNTER;

use client::Client;
use primeway_tests::client::raw::Raw;

/// The background of an output, as XRGB bytes B, G, R.
pub const BACKGROUND: [u8; 3] = [0x33, 0x29, 0x24];
/// Nothing here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// `BTN_LEFT` of `linux/input-event-codes.h`.
const BTN_LEFT: u32 = 0x110;

/// A software device whose calls are counted, and can be held up or fail.
pub type FaultyDevice = Arc<Faulty<File>>;

struct Question(Box<dyn FnOnce(&mut State) + Send>);

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question")
    }
}

/// What composites in the compositors of this process: Pixman, or what this variable says.
pub const RENDERER: &str = "PRIMEWAY_TEST_RENDERER";

/// The renderer that [`RENDERER`] names.
///
/// # Panics
///
/// When it names something else: nothing may be tested by mistake.
pub fn renderer() -> Renderer {
    match std::env::var(RENDERER).as_deref() {
        Err(_) | Ok("pixman") => Renderer::Pixman,
        Ok("gles") => Renderer::Gles,
        Ok(other) => panic!("{RENDERER} is {other}: pixman or gles"),
    }
}

/// Runs every test of this executable once more, in a process whose compositors composite with GLES. It needs no
/// device: Mesa draws on the CPU, and the picture is read back.
///
/// # Panics
///
/// When one of them fails, or there is no EGL; the message has the output.
pub fn run_again_with_gles() {
    assert_eq!(renderer(), Renderer::Pixman, "once is enough");
    let own = std::env::current_exe().unwrap();
    // A thread for each test at most: several GL contexts in one process are drawn by as many threads again.
    let run = std::process::Command::new(own).args(["--test-threads", "2"]).env(RENDERER, "gles").output();
    let run = run.unwrap();
    assert!(
        run.status.success(),
        "with gles: {}\n{}{}",
        run.status,
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
}

/// How far a blended pixel may be from what Pixman makes of it, in steps of 1/255: how a blend is rounded is GL's choice.
pub fn blend_tolerance() -> u8 {
    if renderer() == Renderer::Gles { 1 } else { 0 }
}

/// A sealed memfd of `size` bytes, which the headless backend takes for a dma-buf.
///
/// # Panics
///
/// When there is no memory.
pub fn memory(size: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("buffer", flags).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    file
}

/// What an output shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes B, G, R, X for each pixel.
    pub pixels: Vec<u8>,
}

impl Screen {
    /// Blue, green and red at `(x, y)`.
    #[must_use]
    pub fn at(&self, x: u32, y: u32) -> [u8; 3] {
        let start = (y as usize * self.width as usize + x as usize) * 4;
        [self.pixels[start], self.pixels[start + 1], self.pixels[start + 2]]
    }
}

/// A running compositor; dropping it ends it.
#[derive(Debug)]
pub struct Server {
    questions: Sender<Question>,
    thread: Option<JoinHandle<Result<u8>>>,
}

impl Server {
    /// Starts a compositor with one output of `size` pixels and waits until it runs.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start(size: (u32, u32)) -> Result<Server> {
        Server::start_with(size, &[])
    }

    /// [`Server::start`] with quotas, as `--limit` takes them.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_with(size: (u32, u32), limits: &[&str]) -> Result<Server> {
        Server::start_on(size, limits, move |timers| Ok(Headless::new(timers, size)?))
    }

    /// [`Server::start_with`] on a backend of the test's own making.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_on(
        size: (u32, u32),
        limits: &[&str],
        backend: impl FnOnce(Timers) -> Result<Headless> + Send + 'static,
    ) -> Result<Server> {
        let cli = cli(size, limits)?;
        Server::start_prepared(move || primeway::run::prepare_headless(&cli, backend))
    }

    /// The same on a software device whose calls are counted, and can be held up or fail; `prepare` is given the backend.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_faulty(
        size: (u32, u32),
        limits: &[&str],
        driver: Driver,
        prepare: impl FnOnce(&mut Headless) + Send + 'static,
    ) -> Result<(Server, FaultyDevice)> {
        let (sender, device) = std::sync::mpsc::channel();
        let server = Server::start_on(size, limits, move |handle| {
            let mut headless = Headless::on(handle, size, driver, move |file| {
                let device = Arc::new(Faulty::new(file));
                // Whoever asked for it waits for the compositor to start.
                let _ = sender.send(device.clone());
                device
            })?;
            prepare(&mut headless);
            Ok(headless)
        })?;
        Ok((server, device.recv()?))
    }

    /// Starts a compositor on the display of a model.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_kms(model: &Model, vrr: Vrr) -> Result<Server> {
        Server::start_recorded(model, vrr, None)
    }

    /// The same with a recording.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_recorded(model: &Model, vrr: Vrr, record: Option<PathBuf>) -> Result<Server> {
        let cli = Cli { vrr, record, backend: BackendKind::Kms, ..cli((0, 0), &[])? };
        let model = model.clone();
        Server::start_prepared(move || primeway::run::prepare_kms(&cli, || Ok(Kms::on_model(&model)?)))
    }

    /// Starts a compositor on a display of one's own making, at a fixed rate.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_kms_with(open: impl FnOnce() -> Result<Kms> + Send + 'static) -> Result<Server> {
        let cli = Cli { vrr: Vrr::Never, backend: BackendKind::Kms, ..cli((0, 0), &[])? };
        Server::start_prepared(move || primeway::run::prepare_kms(&cli, open))
    }

    fn start_prepared(prepare: impl FnOnce() -> Result<(Reactor, State)> + Send + 'static) -> Result<Server> {
        let (questions, asked) = channel();
        let thread =
            std::thread::Builder::new().name("compositor".into()).spawn(move || run(prepare, asked))?;
        let mut server = Server { questions, thread: Some(thread) };
        match server.ask(|_| ()) {
            Ok(()) => Ok(server),
            Err(err) => {
                let end = server.thread.take().map(JoinHandle::join);
                Err(err.context(format!("the compositor did not start: {end:?}")))
            }
        }
    }

    /// Runs `question` on the compositor's thread, between two turns of its event loop, and returns its answer.
    ///
    /// # Errors
    ///
    /// When the compositor is gone or does not answer in time.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = std::sync::mpsc::channel();
        let question = Question(Box::new(move |state| {
            // Whoever asked may have given up.
            let _ = reply.send(question(state));
        }));
        self.questions.send(question).map_err(|_| anyhow!("the compositor has ended"))?;
        answer.recv_timeout(PATIENCE).context("the compositor does not answer")
    }

    /// Connects a client.
    ///
    /// # Errors
    ///
    /// When there is no socket pair to be had or the globals do not come.
    pub fn connect(&self) -> Result<Client> {
        let (ours, theirs) = UnixStream::pair().context("socketpair")?;
        self.ask(move |state| primeway::run::add_client(state, theirs))?;
        Client::over(ours)
    }

    /// Connects a client that writes the wire itself.
    ///
    /// # Errors
    ///
    /// As [`Server::connect`].
    pub fn connect_raw(&self) -> Result<Raw> {
        let (ours, theirs) = UnixStream::pair().context("socketpair")?;
        self.ask(move |state| primeway::run::add_client(state, theirs))?;
        Raw::over(ours)
    }

    /// What `primeway ctl stats` says.
    ///
    /// # Errors
    ///
    /// As [`Server::ask`].
    pub fn stats(&self) -> Result<Stats> {
        self.ask(primeway::ctl::server::stats)
    }

    /// What is known of the surfaces of every client, topmost first.
    ///
    /// # Errors
    ///
    /// As [`Server::ask`].
    pub fn surfaces(&self) -> Result<Vec<SurfaceReport>> {
        Ok(self.stats()?.clients.into_iter().flat_map(|client| client.surfaces).collect())
    }

    /// The window of this title.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn window(&self, title: &str) -> Result<SurfaceReport> {
        let found = self.surfaces()?.into_iter().find(|surface| surface.title.as_deref() == Some(title));
        found.with_context(|| format!("no window {title} is shown"))
    }

    /// The planes of the output.
    ///
    /// # Errors
    ///
    /// As [`Server::ask`].
    pub fn planes(&self) -> Result<Vec<PlaneStats>> {
        let output = self.stats()?.outputs.into_iter().next();
        output.map(|output| output.planes).context("no output")
    }

    /// The planes' contents from the lowest plane up, such as `["composited", "client", "none"]`.
    ///
    /// # Errors
    ///
    /// As [`Server::ask`].
    pub fn contents(&self) -> Result<Vec<String>> {
        let mut planes = self.planes()?;
        planes.sort_by_key(|plane| plane.id);
        Ok(planes.into_iter().map(|plane| plane.content).collect())
    }

    /// Frames shown so far.
    ///
    /// # Errors
    ///
    /// As [`Server::ask`].
    pub fn frames(&self) -> Result<u64> {
        self.ask(|state| state.outputs.first().map_or(0, |output| output.state.frames))
    }

    /// Waits until the output has nothing to do: no frame pending, none wanted, no timer.
    ///
    /// # Errors
    ///
    /// When it never comes to rest.
    pub fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.ask(|state| state.outputs.iter().all(|output| output.state.redraw == Redraw::Idle))? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("the output did not come to rest in {PATIENCE:?}")
    }

    /// What the planes show, blended.
    ///
    /// # Errors
    ///
    /// When a plane's memory cannot be read.
    pub fn picture(&self) -> Result<Screen> {
        let picture = self.ask(|state| match &state.backend {
            Backend::Headless(headless) => headless.picture().map_err(|err| anyhow!("no picture: {err}")),
            Backend::Kms(_) => Err(anyhow!("not the headless backend")),
        })??;
        Ok(Screen { width: picture.width, height: picture.height, pixels: picture.pixels })
    }

    /// Presses and releases the left button at a point of the output, as a user does: what is under the pointer
    /// gets the focus unless somebody holds a grab. Returns the serial of the press.
    ///
    /// # Errors
    ///
    /// As [`Server::ask`], or when the seat has no pointer.
    pub fn click(&self, x: f64, y: f64) -> Result<u32> {
        self.ask(move |state| {
            let pointer = state.input.seat.get_pointer().context("no pointer")?;
            let location = (x, y).into();
            let under = state.shell.surface_under(location);
            let focus = under.as_ref().map(|(surface, at, _)| (surface.clone(), *at));
            let serial = SERIAL_COUNTER.next_serial();
            pointer.motion(state, focus, &MotionEvent { location, serial, time: 1 });
            let press = SERIAL_COUNTER.next_serial();
            if !pointer.is_grabbed() {
                state.focus(under.map(|(.., window)| window), press);
            }
            for (serial, button_state) in
                [(press, ButtonState::Pressed), (SERIAL_COUNTER.next_serial(), ButtonState::Released)]
            {
                pointer
                    .button(state, &ButtonEvent { serial, time: 1, button: BTN_LEFT, state: button_state });
                pointer.frame(state);
            }
            Ok(u32::from(press))
        })?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.ask(|state| state.runtime.stop(0));
        let Some(thread) = self.thread.take() else { return };
        let end = thread.join();
        // A second panic would hide the first.
        if !std::thread::panicking() {
            assert!(stopped.is_ok() && matches!(end, Ok(Ok(0))), "the compositor ended badly: {end:?}");
        }
    }
}

fn cli(size: (u32, u32), limits: &[&str]) -> Result<Cli> {
    let limits: Result<Vec<_>, String> = limits.iter().map(|limit| LimitArg::parse(limit)).collect();
    Ok(Cli {
        command: None,
        backend: BackendKind::Headless,
        socket: None,
        device: None,
        writeback: false,
        renderer: renderer(),
        render_node: None,
        no_direct_scanout: false,
        size,
        limits: limits.map_err(|err| anyhow!("{err}"))?,
        program: Vec::new(),
        vrr: Vrr::Auto,
        record: None,
    })
}

fn run(prepare: impl FnOnce() -> Result<(Reactor, State)>, asked: Channel<Question>) -> Result<u8> {
    let (mut reactor, mut state) = prepare()?;
    reactor
        .handle()
        .insert_source(asked, |event, (), state| match event {
            Event::Msg(question) => question.0(state),
            Event::Closed => state.runtime.stop(0),
        })
        .map_err(|err| anyhow!("cannot take questions: {}", err.error))?;
    primeway::run::serve(&mut reactor, &mut state)
}
