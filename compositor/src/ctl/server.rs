//! The server side of the control socket.
//!
//! It owns the connections until they are answered, and what `stats` is made of. Whoever connects costs a bounded number of files,
//! bytes and threads, and a bounded time, whatever it sends and however it reads. Who listens to events is [`super::watch`]'s.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use calloop::generic::Generic;
use calloop::{Interest, LoopHandle, Mode, PostAction, RegistrationToken};
use drm_prime::scanout::PlaneType;
use serde::Serialize;
use smithay::backend::allocator::Buffer as _;
use smithay::reexports::wayland_server::Resource;
use smithay::wayland::compositor::{get_role, with_states};
use smithay::wayland::dmabuf::get_dmabuf;
use smithay::wayland::shell::xdg::XdgToplevelSurfaceData;

use super::{
    Answer, ClientStats, DeviceStats, FenceStats, ImportStats, LedgerReport, OutputStats, PlaneStats,
    RefusedBuffer, RendererStats, Request, ResourceStats, Stats, SurfaceReport, buffers, explain, outputs,
    planes, timeline,
};
use crate::backend::kms::crtc_of;
use crate::backend::{Backend, headless};
use crate::clients::{self, ClientState};
use crate::fences::{Awaited, Waiter, Waiting};
use crate::import::{Imports, Reason, Refusal, Ways};
use crate::output::SurfaceStats;
use crate::output::layers::SurfaceLayer;
use crate::reactor::TimerId;
use crate::render::Painter;
use crate::render::gles::Way;
use crate::render::image::Picture;
use crate::run::{Accepted, accept_from};
use crate::state::{State, monotonic};

/// Longest request in bytes.
const MAX_REQUEST: usize = 64 * 1024;
/// A peer that takes longer than this to send its line, or to read its answer, is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// Peers at a time that have not sent their line yet; with one more, the one that has been there longest is dropped.
const READING: usize = 64;
/// Requests at a time that wait for their turn.
const WAITING: usize = 32;
/// After each answer, so many times as long as it took belongs to frames and clients.
const REST: u32 = 3;
/// Answers at a time that wait for a file or for their reader.
const ANSWERING: usize = 32;

/// A peer that has not sent its line yet.
#[derive(Debug)]
struct Peer {
    number: u64,
    source: RegistrationToken,
    patience: TimerId,
}

/// Who is connected.
#[derive(Debug, Default)]
struct Peers {
    /// Who has not sent a line yet, the oldest first.
    reading: VecDeque<Peer>,
    next: u64,
    /// Who has, the oldest first.
    waiting: VecDeque<(Vec<u8>, UnixStream)>,
    /// Nothing is answered before.
    rest: Duration,
    /// A timer runs for those who wait.
    armed: bool,
    answering: Arc<AtomicUsize>,
}

impl Peers {
    /// Forgets a peer and its timer; its source is the caller's.
    fn take(&mut self, number: u64, state: &State) -> Option<Peer> {
        let index = self.reading.iter().position(|peer| peer.number == number)?;
        let peer = self.reading.remove(index)?;
        state.runtime.timers.cancel(peer.patience);
        Some(peer)
    }

    /// Drops a peer.
    fn drop_peer(&mut self, number: u64, state: &State) {
        if let Some(peer) = self.take(number, state) {
            state.runtime.handle.remove(peer.source);
        }
    }
}

/// One of the answers that may wait at a time.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn among(answering: &Arc<AtomicUsize>) -> Option<Self> {
        let one_more = |taken: usize| (taken < ANSWERING).then_some(taken + 1);
        let taken = answering.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Self(answering.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct CtlServer {
    path: PathBuf,
}

impl CtlServer {
    /// Listens beside the Wayland socket of the given name.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(handle: &LoopHandle<'static, State>, display: &str) -> anyhow::Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set")?;
        Self::listen_at(handle, PathBuf::from(runtime).join(format!("primeway-{display}.sock")))
    }

    /// Listens on a path of one's own.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen_at(handle: &LoopHandle<'static, State>, path: PathBuf) -> anyhow::Result<Self> {
        // The Wayland socket's lock is ours, so a file of that name is a dead compositor's.
        if let Err(err) = std::fs::remove_file(&path)
            && err.kind() != std::io::ErrorKind::NotFound
        {
            return Err(err).with_context(|| format!("cannot replace {}", path.display()));
        }
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let peers = Rc::new(RefCell::new(Peers::default()));
        accept_from(handle, listener, "a control connection", move |listener, state| {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Err(err) = take_peer(stream, state, &peers) {
                        tracing::debug!(%err, "control connection");
                    }
                    Ok(Accepted::One)
                }
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => Ok(Accepted::Nobody),
                Err(err) => Err(err),
            }
        })?;
        Ok(Self { path })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for CtlServer {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_file(&self.path) {
            tracing::debug!(%err, "control socket not removed");
        }
    }
}

/// Reads a request as it comes, without ever waiting for it.
fn take_peer(stream: UnixStream, state: &mut State, peers: &Rc<RefCell<Peers>>) -> anyhow::Result<()> {
    stream.set_nonblocking(true)?;
    let number = {
        let mut peers = peers.borrow_mut();
        while peers.reading.len() >= READING
            && let Some(oldest) = peers.reading.front().map(|peer| peer.number)
        {
            peers.drop_peer(oldest, state);
        }
        peers.next += 1;
        peers.next
    };
    let mut line = Vec::new();
    let source = Generic::new(stream, Interest::READ, Mode::Level);
    let among = peers.clone();
    let read = move |_, stream: &mut calloop::generic::NoIoDrop<UnixStream>, state: &mut State| {
        let mut chunk = [0; 4096];
        let stream: &UnixStream = stream;
        let got = match (&*stream).read(&mut chunk) {
            Ok(got) => got,
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => return Ok(PostAction::Continue),
            Err(_) => {
                among.borrow_mut().take(number, state);
                return Ok(PostAction::Remove);
            }
        };
        line.extend_from_slice(&chunk[..got]);
        let end = line.iter().position(|byte| *byte == b'\n');
        if end.is_none() && got > 0 && line.len() < MAX_REQUEST {
            return Ok(PostAction::Continue);
        }
        among.borrow_mut().take(number, state);
        line.truncate(end.unwrap_or(line.len()));
        match stream.try_clone() {
            Ok(stream) => wait(std::mem::take(&mut line), stream, &among, state),
            Err(err) => tracing::debug!(%err, "control request"),
        }
        Ok(PostAction::Remove)
    };
    let inserted = state.runtime.handle.insert_source(source, read);
    let source = inserted.map_err(|err| anyhow!("{}", err.error))?;
    let among = peers.clone();
    let patience =
        state.runtime.timers.after(PATIENCE, move |state| among.borrow_mut().drop_peer(number, state));
    peers.borrow_mut().reading.push_back(Peer { number, source, patience });
    Ok(())
}

/// Takes a request in, and answers it when it is its turn.
fn wait(line: Vec<u8>, stream: UnixStream, peers: &Rc<RefCell<Peers>>, state: &mut State) {
    if peers.borrow().waiting.len() >= WAITING {
        if let Err(err) = send(Err(anyhow!("{WAITING} requests wait to be answered: ask again")), &stream) {
            tracing::debug!(%err, "control answer");
        }
        return;
    }
    peers.borrow_mut().waiting.push_back((line, stream));
    serve(peers, state);
}

/// Answers who waits, as far as the time for that goes.
fn serve(peers: &Rc<RefCell<Peers>>, state: &mut State) {
    loop {
        let (line, stream) = {
            let mut all = peers.borrow_mut();
            if all.armed || all.waiting.is_empty() {
                return;
            }
            if monotonic() < all.rest {
                all.armed = true;
                let waiting = peers.clone();
                state.runtime.timers.at(all.rest, move |state| {
                    waiting.borrow_mut().armed = false;
                    serve(&waiting, state);
                });
                return;
            }
            let Some(first) = all.waiting.pop_front() else { return };
            first
        };
        let place = Place::among(&peers.borrow().answering);
        let began = monotonic();
        answer(&line, stream, place, state);
        let ended = monotonic();
        peers.borrow_mut().rest = ended + (ended - began) * REST;
    }
}

/// The end of an answer: what may take long, and so may happen on a thread of its own.
type Rest = Box<dyn FnOnce() -> anyhow::Result<serde_json::Value> + Send>;

fn rest<T: Serialize + Send + 'static>(report: T) -> Rest {
    Box::new(move || Ok(serde_json::to_value(report)?))
}

/// Answers a request. With a `place`, what may take long (writing a file, a peer that reads slowly) happens on a thread of its
/// own; without one a picture is not saved, and the peer gets of its answer what its socket holds at once.
fn answer(line: &[u8], stream: UnixStream, place: Option<Place>, state: &mut State) {
    let rest: anyhow::Result<Rest> = match serde_json::from_slice(line) {
        Err(_) if line.len() >= MAX_REQUEST => {
            Err(anyhow!("a request is a line of at most {MAX_REQUEST} bytes"))
        }
        Err(err) => Err(anyhow!("not a request: {err}")),
        Ok(Request::Stats) => Ok(rest(stats(state))),
        Ok(Request::Ledger) => {
            let ledger = state.backend.buffers().ledger();
            Ok(Box::new(move || Ok(serde_json::to_value(LedgerReport::from(ledger))?)))
        }
        Ok(Request::Explain(query)) => {
            explain::explain(state, &query).map_err(|text| anyhow!(text)).map(rest)
        }
        Ok(Request::Events) => return state.watch(stream),
        Ok(Request::Outputs) => Ok(rest(outputs::outputs(state))),
        Ok(Request::Output(wish)) => {
            let done = outputs::set(state, &wish).map(|()| outputs::outputs(state));
            done.map_err(|text| anyhow!(text)).map(rest)
        }
        Ok(Request::Planes) => Ok(rest(planes::planes(state))),
        Ok(Request::Buffers) => Ok(rest(buffers::buffers(state))),
        Ok(Request::Timeline) => Ok(rest(timeline::timeline(state))),
        Ok(Request::Capture { .. }) if place.is_none() => {
            Err(anyhow!("{ANSWERING} answers wait for their readers: ask again"))
        }
        Ok(Request::Capture { file, source: _, output }) => {
            picture(state, output.as_deref()).map(|picture| -> Rest {
                Box::new(move || {
                    save(&file, &picture).with_context(|| format!("cannot write {}", file.display()))?;
                    Ok(serde_json::json!({ "width": picture.width, "height": picture.height }))
                })
            })
        }
    };
    let Some(place) = place else {
        if let Err(err) = send(rest, &stream) {
            tracing::debug!(%err, "control answer, cut short");
        }
        return;
    };
    let thread = std::thread::Builder::new().name("ctl".into()).spawn(move || {
        let _place = place;
        let patient = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        if let Err(err) = patient.map_err(anyhow::Error::from).and_then(|()| send(rest, &stream)) {
            tracing::debug!(%err, "control answer");
        }
    });
    if let Err(err) = thread {
        tracing::warn!(%err, "no thread for a control answer");
    }
}

fn send(rest: anyhow::Result<Rest>, mut stream: &UnixStream) -> anyhow::Result<()> {
    let answer = match rest.and_then(|rest| rest()) {
        Ok(value) => Answer::Ok(value),
        Err(err) => Answer::Error(format!("{err:#}")),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    Ok(stream.write_all(text.as_bytes())?)
}

fn picture(state: &mut State, output: Option<&str>) -> anyhow::Result<Picture> {
    // A display that is not lit yet never delivers a picture.
    state.redraw_queued();
    Ok(match &mut state.backend {
        Backend::Kms(kms) => kms.capture(output)?,
        Backend::Headless(headless) => {
            let known = |name| state.outputs.iter().any(|o| o.state.output.name() == name);
            if !output.is_none_or(known) {
                return Err(crate::backend::kms::writeback::CaptureError::NoOutput.into());
            }
            headless.picture()?
        }
    })
}

/// Writes a PNG beside the file and renames it: a full disk leaves no half picture under the name, and nobody else's
/// file is touched on the way.
fn save(file: &Path, picture: &Picture) -> anyhow::Result<()> {
    static SAVED: AtomicU32 = AtomicU32::new(0);
    let mut rgb = vec![0; picture.pixels.len() / 4 * 3];
    for (to, from) in rgb.chunks_exact_mut(3).zip(picture.pixels.chunks_exact(4)) {
        (to[0], to[1], to[2]) = (from[2], from[1], from[0]);
    }
    if std::fs::symlink_metadata(file).is_ok_and(|there| !there.is_file()) {
        return Err(anyhow!("it is there and is no regular file"));
    }
    let name = file.file_name().context("no file name")?.to_string_lossy();
    let number = SAVED.fetch_add(1, Ordering::Relaxed);
    let partial = file.with_file_name(format!(".{name}.{}-{number}", std::process::id()));
    let out = std::fs::File::create_new(&partial)?;
    let write = || -> anyhow::Result<()> {
        let mut encoder = png::Encoder::new(std::io::BufWriter::new(out), picture.width, picture.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&rgb)?;
        writer.finish()?;
        Ok(std::fs::rename(&partial, file)?)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })
}

/// Collects the figures.
pub fn stats(state: &mut State) -> Stats {
    let (node, driver, active) = match &state.backend {
        Backend::Kms(kms) => (kms.node().map(Path::to_path_buf), kms.driver(), kms.is_active()),
        Backend::Headless(_) => (None, headless::DRIVER, true),
    };
    let acquisition = state.backend.buffers().acquisition().to_owned();
    let device = DeviceStats { node, driver: driver.to_owned(), acquisition, active };
    let mut clients: Vec<ClientStats> = Vec::new();
    let mut outputs = Vec::new();
    for index in 0..state.outputs.len() {
        let area = state.outputs[index].state.geometry();
        let layers = state.shell.scene(area, Vec::new()).layers;
        for layer in &layers {
            let Some(client) = layer.surface.client() else { continue };
            let Some(credentials) = ClientState::of(&client).and_then(|data| data.credentials) else {
                continue;
            };
            let report = report(layer, state);
            match clients.iter_mut().find(|c| c.pid == credentials.pid) {
                Some(entry) => entry.surfaces.push(report),
                None => clients.push(ClientStats {
                    pid: credentials.pid,
                    uid: credentials.uid,
                    surfaces: vec![report],
                }),
            }
        }
        outputs.push(output_stats(state, index, &layers));
    }
    let (gem_handles, framebuffers) = state.backend.resources();
    let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let mapped = state.painter.mapped();
    let renderer = renderer(&state.painter);
    let imports = imports(&state.dmabuf.imports);
    Stats {
        device,
        renderer,
        outputs,
        clients,
        imports,
        fences: fence_stats(state),
        resources: ResourceStats {
            gem_handles,
            framebuffers,
            fds,
            mapped,
            feedback_objects: state.dmabuf.global.feedback_objects(),
            feedback_surfaces: state.dmabuf.feedback.surfaces(),
        },
    }
}

fn imports(imports: &Imports) -> ImportStats {
    let (refused, last) = imports.refusals();
    let report = |refusal: &Refusal| {
        let (asked, reasons) = (&refusal.asked, refusal.why.reasons());
        RefusedBuffer {
            owner: asked.owner.to_string(),
            format: drm_prime::format::name(asked.format),
            modifier: modifier_text(asked.modifier),
            size: asked.size,
            rung: reasons.last().map(|reason| reason.rung().to_string()).unwrap_or_default(),
            reasons: reasons.into_iter().map(Reason::text).collect(),
        }
    };
    ImportStats { refused, last: last.map(report).collect() }
}

fn modifier_text(modifier: u64) -> String {
    match modifier {
        0 => "LINEAR".to_owned(),
        other => format!("{other:#x}"),
    }
}

fn fence_stats(state: &State) -> Vec<FenceStats> {
    let waiters = state.runtime.fences.waiters();
    let stats = waiters.into_iter().map(|Waiter { surface, waiting }| FenceStats {
        pid: surface.client().as_ref().and_then(clients::pid),
        surface: surface.id().protocol_id(),
        buffer_plane: match waiting.awaited {
            Awaited::Plane(plane) => Some(plane),
            Awaited::Point(_) => None,
        },
        acquire_point: match waiting.awaited {
            Awaited::Plane(_) => None,
            Awaited::Point(point) => Some(point),
        },
        waiting_ms: u64::try_from(waiting.since.as_millis()).unwrap_or(u64::MAX),
        late: waiting.is_late(),
    });
    stats.collect()
}

fn renderer(painter: &Painter) -> RendererStats {
    match painter {
        Painter::Pixman(_) => RendererStats {
            name: "pixman".to_owned(),
            driver: None,
            node: None,
            software: true,
            reads_back: false,
        },
        Painter::Gles(gles) => RendererStats {
            name: "gles".to_owned(),
            driver: Some(gles.driver().to_owned()),
            node: gles.node().map(Path::to_owned),
            software: gles.is_software(),
            reads_back: gles.way() == Way::ReadBack,
        },
    }
}

fn output_stats(state: &mut State, index: usize, layers: &[SurfaceLayer]) -> OutputStats {
    let output = &state.outputs[index].state;
    let planes = state.backend.planes(output.id).iter().map(|caps| {
        let shown = output.planes().find(|p| p.plane == caps.id);
        let on_plane = |l: &&SurfaceLayer| SurfaceStats::of(&l.surface).plane == Some(caps.id.get());
        let surface = shown.and_then(|_| layers.iter().find(on_plane)).map(|l| l.surface.id().protocol_id());
        let parked = output.parked().find(|p| p.plane == caps.id);
        let content = match (shown, caps.kind, surface) {
            (None, ..) if parked.is_some() => "parked",
            (None, ..) => "none",
            (_, PlaneType::Cursor, _) => "cursor",
            (_, _, Some(_)) => "client",
            _ => "composited",
        };
        PlaneStats {
            id: caps.id.get(),
            r#type: format!("{:?}", caps.kind),
            fb: shown.or(parked).map(|p| p.buffer.name().number()),
            content: content.to_owned(),
            surface,
        }
    });
    let planes = planes.collect();
    let (name, id, size, frames) = (output.output.name(), output.id, output.size, output.frames);
    let commits = state.backend.kms().map_or(frames, |kms| kms.commits(id));
    OutputStats { name, crtc: crtc_of(id), width: size.w, height: size.h, commits, frames, planes }
}

fn report(layer: &SurfaceLayer, state: &State) -> SurfaceReport {
    let (backend, imports) = (&state.backend, &state.dmabuf.imports);
    let waiting = state.runtime.fences.of(&layer.surface).filter(Waiting::is_late);
    let stats = SurfaceStats::of(&layer.surface);
    let dmabuf = get_dmabuf(&layer.buffer).ok();
    let (app_id, title) = with_states(&layer.surface, |states| {
        let data = states.data_map.get::<XdgToplevelSurfaceData>().map(|d| crate::lock(d));
        data.map(|d| (d.app_id.clone(), d.title.clone())).unwrap_or_default()
    });
    let role = match get_role(&layer.surface) {
        Some("xdg_toplevel") => "toplevel",
        Some("xdg_popup") => "popup",
        Some(other) => other,
        None => "none",
    };
    SurfaceReport {
        surface: layer.surface.id().protocol_id(),
        app_id,
        title,
        role: role.to_owned(),
        format: dmabuf.map(|d| d.format().code.to_string()),
        modifier: dmabuf.map(|d| modifier_text(d.format().modifier.into())),
        color: layer.color.map(|(encoding, range)| format!("{encoding} {range}")),
        origin: dmabuf.and_then(|d| backend.buffers().origin(d)),
        size: (layer.dst.size.w, layer.dst.size.h),
        position: (layer.dst.loc.x, layer.dst.loc.y),
        plane: stats.plane,
        frames_presented: stats.presented,
        frames_zero_copy: stats.zero_copy,
        reason: waiting.map(|waiting| waiting.to_string()).or(stats.reason()),
        scanout_feedback: state.dmabuf.feedback.of(&layer.surface).is_some(),
        ways: dmabuf.map_or_else(Vec::new, |dmabuf| {
            // It may have been imported since.
            let late = backend.buffers().is_imported(dmabuf);
            let reasons = imports.ways(dmabuf).into_iter().flat_map(Ways::reasons);
            reasons.filter(|r| !(late && matches!(r, Reason::DeviceBusy))).map(Reason::text).collect()
        }),
    }
}
