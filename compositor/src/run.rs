//! Start, run, end.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use calloop::generic::Generic;
use calloop::signals::{Signal, Signals};
use calloop::{Interest, LoopHandle, Mode, PostAction, RegistrationToken};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smithay::backend::session::libseat::{LibSeatSession, LibSeatSessionNotifier};
use smithay::reexports::wayland_server::{Display, DisplayHandle, ListeningSocket};

use crate::backend::kms::{Kms, StartError, insert_sources};
use crate::backend::{Backend, OutputId, headless};
use crate::cli::{BackendKind, Cli};
use crate::clients::{Clients, Limits};
use crate::ctl::server::CtlServer;
use crate::ctl::watch::Watchers;
use crate::feedback::{Devices, Feedback};
use crate::fences::{self, Fences};
use crate::import::{Imports, Worker, probe};
use crate::input::Input;
use crate::output::OutputState;
use crate::reactor::{Clock, Reactor, Timers};
use crate::record::Recorder;
use crate::render::{Painter, choice};
use crate::shell::Shell;
use crate::state::{DmabufPart, Protocols, Runtime, State};

/// How long no new client is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// New connections of one turn, so that whoever connects again and again does not keep the compositor from its work.
const ACCEPTED_AT_ONCE: usize = 4;

/// Runs a compositor until it ends; returns its exit status.
///
/// # Errors
/// When it cannot start. The text says what to do.
pub fn run(cli: &Cli) -> anyhow::Result<u8> {
    let file_limit = raise_file_limit();
    // Who connects while everything is being made ready waits in the socket.
    let listening = listen(cli.socket.as_deref())?;
    let (mut reactor, mut state) = prepare(cli)?;
    let socket = accept_clients(&reactor.handle(), listening)?;
    state.runtime.socket.clone_from(&socket);
    let ctl = CtlServer::listen(&reactor.handle(), &socket)?;
    watch_signals(&reactor.handle())?;

    {
        use std::io::Write as _;
        let mut out = std::io::stdout();
        // Whoever started us may not read it.
        let _ = writeln!(out, "primeway: ready on {socket}").and_then(|()| out.flush());
    }
    let child = spawn(&cli.program, &socket, &ctl)?;
    if let Some(child) = child {
        restore_file_limit(&child, file_limit);
        watch_child(&reactor.handle(), reactor.timers(), child)?;
    }
    reactor.open(&mut state)?;
    serve(&mut reactor, &mut state)
}

/// Builds a compositor that listens nowhere yet; clients come through [`add_client`].
///
/// # Errors
/// When the backend does not start.
pub fn prepare(cli: &Cli) -> anyhow::Result<(Reactor, State)> {
    prepare_on(cli, |timers| open_backend(cli, timers))
}

/// [`prepare`] on a headless backend of one's own making.
///
/// # Errors
/// When `backend` fails, or the compositor does not start on it.
pub fn prepare_headless(
    cli: &Cli,
    backend: impl FnOnce(Timers) -> anyhow::Result<headless::Headless>,
) -> anyhow::Result<(Reactor, State)> {
    prepare_on(cli, |timers| Ok((Backend::Headless(Box::new(backend(timers)?)), None)))
}

/// [`prepare`] on a display device that is not there; see [`Kms::on_model`].
///
/// # Errors
/// When `backend` fails, or the compositor does not start on it.
pub fn prepare_kms(
    cli: &Cli,
    backend: impl FnOnce() -> anyhow::Result<Kms>,
) -> anyhow::Result<(Reactor, State)> {
    prepare_on(cli, |timers| {
        let mut kms = backend()?;
        kms.set_pacing(timers, cli.vrr);
        Ok((Backend::Kms(Box::new(kms)), None))
    })
}

/// A backend, and what tells of the session if it has one.
type Opened = (Backend, Option<LibSeatSessionNotifier>);

fn prepare_on(
    cli: &Cli,
    backend: impl FnOnce(Timers) -> anyhow::Result<Opened>,
) -> anyhow::Result<(Reactor, State)> {
    let reactor = Reactor::new()?;
    let display: Display<State> = Display::new().context("no wayland display")?;
    let opened = backend(reactor.timers().clone())?;
    let state = start(cli, &reactor, display, opened)?;
    Ok((reactor, state))
}

fn open_backend(cli: &Cli, timers: Timers) -> anyhow::Result<Opened> {
    match cli.backend {
        BackendKind::Headless => {
            Ok((Backend::Headless(Box::new(headless::Headless::new(timers, cli.size)?)), None))
        }
        BackendKind::Kms => {
            let (session, notifier) =
                LibSeatSession::new().map_err(|err| StartError::NoSeat(err.to_string()))?;
            let mut kms = Kms::open(session, cli.device.as_deref(), cli.writeback)?;
            kms.set_pacing(timers, cli.vrr);
            Ok((Backend::Kms(Box::new(kms)), Some(notifier)))
        }
    }
}

/// Handles events until [`Runtime::stop`]; returns the exit status.
///
/// # Errors
/// When the event loop fails.
pub fn serve(reactor: &mut Reactor, state: &mut State) -> anyhow::Result<u8> {
    state.open_input(reactor.watch())?;
    state.queue_redraw_all();
    reactor.run(state)?;
    // A request of the seat to let go may be waiting; seatd 0.7 does not survive a client that leaves without an answer.
    if let Err(err) = reactor.dispatch_calloop(state) {
        tracing::debug!(%err, "last events");
    }
    state.leave();
    Ok(state.runtime.exit.unwrap_or(0))
}

/// Takes a client in over its end of a socket pair.
pub fn add_client(state: &mut State, stream: UnixStream) {
    state.take_client(stream);
}

/// Builds the state with its backend.
fn start(
    cli: &Cli,
    reactor: &Reactor,
    owner: Display<State>,
    (mut backend, notifier): Opened,
) -> anyhow::Result<State> {
    let handle = reactor.handle();
    let display = &owner.handle();
    let mut protocols = Protocols::new(display);
    let seat = protocols.seat.new_wl_seat(display, "seat0");
    let input = Input::new(seat).map_err(|err| anyhow!("no keymap: {err}"))?;
    let limits = Limits::with(&cli.limits);
    let mut painter = choice::choose(cli.renderer, cli.render_node.as_deref(), &mut backend)?;
    let mut dmabuf = dmabuf_part(display, &mut backend, &mut painter)?;
    let quota = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    dmabuf.global.set_quotas(quota(limits.params), quota(limits.pending));
    let timelines = fences::timelines(&backend, &painter);
    let driver = backend.kms().map_or(headless::DRIVER.to_owned(), |kms| kms.driver().to_owned());
    let recorder = cli.record.as_deref().map(|path| {
        Recorder::create(path, &driver).with_context(|| format!("cannot record to {}", path.display()))
    });
    let recorder = recorder.transpose()?;
    let states: Vec<OutputState> = match &mut backend {
        Backend::Kms(kms) => {
            let ids: Vec<OutputId> = kms.output_ids().collect();
            ids.into_iter().filter_map(|id| output_state(kms, id)).collect()
        }
        Backend::Headless(headless) => vec![OutputState::new(
            "HEADLESS-1".into(),
            headless::OUTPUT,
            headless.size(),
            (0, 0),
            headless::REFRESH,
        )],
    };
    let mut state = State {
        backend,
        painter,
        protocols,
        dmabuf,
        shell: Shell::default(),
        input,
        outputs: Vec::new(),
        runtime: Runtime {
            handle: handle.clone(),
            timers: reactor.timers().clone(),
            clock: Clock::default(),
            display: display.clone(),
            clients: Clients::new(owner, reactor.watch().clone(), limits),
            fences: Fences::new(handle.clone(), reactor.timers().clone(), display, timelines),
            watchers: Watchers::default(),
            exit: None,
            opening: false,
            clears_parking: false,
            copy_on_purpose: std::env::var_os("PRIMEWAY_TEST_COPY").is_some(),
            direct_scanout: !cli.no_direct_scanout,
            recorder,
            socket: String::new(),
        },
    };
    states.into_iter().for_each(|output| state.add_output(output));
    match (notifier, state.backend.kms()) {
        (Some(notifier), Some(kms)) => insert_sources(&handle, reactor.watch(), kms, notifier)?,
        (None, Some(kms)) => kms.watch_cards(reactor.watch())?,
        (_, None) => {}
    }
    Ok(state)
}

/// The state of an output that the KMS backend drives.
pub(crate) fn output_state(kms: &Kms, id: OutputId) -> Option<OutputState> {
    let info = kms.describe(id)?;
    Some(OutputState::new(info.name, id, info.size, info.physical_mm, info.refresh))
}

/// linux-dmabuf: what can be composited is advertised, since a plane may always be refused.
fn dmabuf_part(
    display: &DisplayHandle,
    backend: &mut Backend,
    painter: &mut Painter,
) -> anyhow::Result<DmabufPart> {
    let formats = probe::run(backend, painter);
    let displays = backend.kms().map(|kms| kms.device_ids().collect()).unwrap_or_default();
    let devices = Devices { renderer: painter.device(), displays };
    let (global, feedback) =
        Feedback::start(display, &formats, &devices).context("no memory for the format table")?;
    let (imports, worker) = (Imports::default(), Worker::default());
    Ok(DmabufPart { global, feedback, imports, worker, dying: Vec::new(), closing: Vec::new() })
}

/// Makes the socket, where clients can connect from now on.
fn listen(name: Option<&str>) -> anyhow::Result<ListeningSocket> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folder = folder.filter(|f| f.is_dir()).with_context(|| {
        let value =
            std::env::var("XDG_RUNTIME_DIR").map_or("not set".to_owned(), |v| format!("{v}, no folder"));
        format!("XDG_RUNTIME_DIR is {value}: log in properly, or set it to a folder of your own")
    })?;
    let folder = folder.display();
    match name {
        Some(name) => ListeningSocket::bind(name).map_err(|err| {
            anyhow!(
                "cannot listen on {folder}/{name}: {err}; give another name with --socket, or leave it out"
            )
        }),
        // wayland-0 is left to whoever connects without WAYLAND_DISPLAY.
        None => ListeningSocket::bind_auto("wayland", 1..33)
            .map_err(|err| anyhow!("no free wayland socket in {folder}: {err}")),
    }
}

/// Takes in those who connect; returns the socket's name.
fn accept_clients(handle: &LoopHandle<'static, State>, socket: ListeningSocket) -> anyhow::Result<String> {
    let name = socket.socket_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    accept_from(handle, socket, "a client", |socket, state| {
        let stream = socket.accept()?;
        Ok(stream.map_or(Accepted::Nobody, |stream| {
            if state.take_client(stream) { Accepted::One } else { Accepted::NoRoom }
        }))
    })?;
    Ok(name)
}

/// What came of looking for a new connection.
pub(crate) enum Accepted {
    /// There was one.
    One,
    /// There was one, and there is no room for another.
    NoRoom,
    /// There is none.
    Nobody,
}

/// Takes in those who connect to a listening socket, a few in each turn, and none for a while when there is no room.
///
/// # Errors
/// When the event loop cannot watch the socket.
pub(crate) fn accept_from<S: AsFd + 'static>(
    handle: &LoopHandle<'static, State>,
    socket: S,
    what: &'static str,
    accept: impl Fn(&S, &mut State) -> std::io::Result<Accepted> + 'static,
) -> anyhow::Result<()> {
    let token = Rc::new(Cell::new(None));
    let accepting = token.clone();
    let source = Generic::new(socket, Interest::READ, Mode::Level);
    let inserted = handle.insert_source(source, move |_, socket, state| {
        for _ in 0..ACCEPTED_AT_ONCE {
            match accept(socket, state) {
                Ok(Accepted::One) => {}
                Ok(Accepted::Nobody) => break,
                Ok(Accepted::NoRoom) => {
                    accept_later(state, accepting.get(), what);
                    return Ok(PostAction::Disable);
                }
                Err(err) => {
                    // Out of files, most likely: the connections that are there matter more than a new one.
                    tracing::warn!(%err, what, "nobody is accepted for a while");
                    accept_later(state, accepting.get(), what);
                    return Ok(PostAction::Disable);
                }
            }
        }
        Ok(PostAction::Continue)
    });
    let inserted = inserted.map_err(|err| anyhow!("cannot watch for connections ({what}): {}", err.error));
    token.set(Some(inserted?));
    Ok(())
}

fn accept_later(state: &State, token: Option<RegistrationToken>, what: &'static str) {
    state.runtime.timers.after(ACCEPT_PAUSE, move |state| {
        if let Some(Err(err)) = token.map(|token| state.runtime.handle.enable(&token)) {
            tracing::error!(%err, what, "nobody will be accepted");
        }
    });
}

fn watch_signals(handle: &LoopHandle<'static, State>) -> anyhow::Result<()> {
    let signals = Signals::new(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]).context("signals")?;
    handle
        .insert_source(signals, |event, (), state| {
            tracing::info!(signal = ?event.signal(), "ending");
            state.runtime.stop(0);
        })
        .map(|_| ())
        .map_err(|err| anyhow!("cannot watch signals: {}", err.error))
}

fn spawn(program: &[String], socket: &str, ctl: &CtlServer) -> anyhow::Result<Option<Child>> {
    let Some((name, arguments)) = program.split_first() else { return Ok(None) };
    let child = Command::new(name)
        .args(arguments)
        .env("WAYLAND_DISPLAY", socket)
        .env("PRIMEWAY_SOCKET", ctl.path())
        .env_remove("DISPLAY")
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    Ok(Some(child))
}

/// Ends the compositor with the program it was started for.
fn watch_child(handle: &LoopHandle<'static, State>, timers: &Timers, mut child: Child) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
    let ended = move |state: &mut State| {
        use std::os::unix::process::ExitStatusExt as _;
        match child.try_wait() {
            Ok(None) => return false,
            Ok(Some(status)) => {
                let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
                state.runtime.stop(u8::try_from(code).unwrap_or(1));
            }
            Err(err) => {
                tracing::error!(%err, "waiting for the program");
                state.runtime.stop(1);
            }
        }
        true
    };
    let failed = |err: &dyn std::fmt::Display| anyhow!("cannot watch the program: {err}");
    let mut ended = ended;
    match pidfd {
        Some(pidfd) => {
            let source = Generic::new(pidfd, Interest::READ, Mode::Level);
            handle
                .insert_source(source, move |_, _, state| {
                    Ok(if ended(state) { PostAction::Remove } else { PostAction::Continue })
                })
                .map_err(|err| failed(&err.error))?;
        }
        // Kernels before 5.3 and sandboxes without pidfd.
        None => ask_each_second(timers, ended),
    }
    Ok(())
}

fn ask_each_second(timers: &Timers, mut ended: impl FnMut(&mut State) -> bool + 'static) {
    timers.after(Duration::from_secs(1), move |state| {
        if !ended(state) {
            let timers = state.runtime.timers.clone();
            ask_each_second(&timers, ended);
        }
    });
}

/// Every buffer plane of every client is an open file.
fn raise_file_limit() -> Rlimit {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(err) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%err, "file limit not raised");
    }
    limit
}

/// Programs that still use select() break with more than 1024 files.
fn restore_file_limit(child: &Child, limit: Rlimit) {
    let pid = rustix::process::Pid::from_child(child);
    if let Err(err) = rustix::process::prlimit(Some(pid), Resource::Nofile, limit) {
        tracing::debug!(%err, "the program's file limit not restored");
    }
}
