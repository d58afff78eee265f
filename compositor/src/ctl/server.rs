//! The server side of the control socket.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use calloop::generic::Generic;
use calloop::{Interest, LoopHandle, Mode, PostAction};
use drm_prime::scanout::PlaneType;
use smithay::backend::allocator::Buffer as _;
use smithay::reexports::wayland_server::Resource;
use smithay::wayland::compositor::{get_role, with_states};
use smithay::wayland::dmabuf::get_dmabuf;
use smithay::wayland::shell::xdg::XdgToplevelSurfaceData;

use super::{
    Answer, ClientStats, DeviceStats, FenceStats, ImportStats, LedgerReport, OutputStats, PlaneStats,
    RefusedBuffer, RendererStats, Request, ResourceStats, Stats, SurfaceReport, buffers, explain, planes,
    timeline,
};
use crate::backend::kms::crtc_of;
use crate::backend::{Backend, headless};
use crate::clients::{self, ClientState};
use crate::fences::{Awaited, Waiter, Waiting};
use crate::import::{Imports, Reason, Refusal, Ways};
use crate::output::SurfaceStats;
use crate::output::layers::SurfaceLayer;
use crate::render::Painter;
use crate::render::gles::Way;
use crate::render::image::Picture;
use crate::run::{Accepted, accept_from};
use crate::state::State;

/// Longest request in bytes.
const MAX_REQUEST: usize = 64 * 1024;
/// A peer that takes longer than this to send its line, or to read its answer, is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

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
        accept_from(handle, listener, "a control connection", |listener, state| match listener.accept() {
            Ok((stream, _)) => {
                if let Err(err) = take_peer(stream, state) {
                    tracing::debug!(%err, "control connection");
                }
                Ok(Accepted::One)
            }
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => Ok(Accepted::Nobody),
            Err(err) => Err(err),
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
fn take_peer(stream: UnixStream, state: &mut State) -> anyhow::Result<()> {
    stream.set_nonblocking(true)?;
    let mut line = Vec::new();
    let source = Generic::new(stream, Interest::READ, Mode::Level);
    let read = move |_, stream: &mut calloop::generic::NoIoDrop<UnixStream>, state: &mut State| {
        let mut chunk = [0; 4096];
        let stream: &UnixStream = stream;
        let got = match (&*stream).read(&mut chunk) {
            Ok(got) => got,
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => return Ok(PostAction::Continue),
            Err(_) => return Ok(PostAction::Remove),
        };
        line.extend_from_slice(&chunk[..got]);
        let end = line.iter().position(|byte| *byte == b'\n');
        if end.is_none() && got > 0 && line.len() < MAX_REQUEST {
            return Ok(PostAction::Continue);
        }
        match stream.try_clone() {
            Ok(stream) => answer(&line[..end.unwrap_or(line.len())], stream, state),
            Err(err) => tracing::debug!(%err, "control request"),
        }
        Ok(PostAction::Remove)
    };
    let handle = &state.runtime.handle;
    let token = handle.insert_source(source, read).map_err(|err| anyhow!("{}", err.error))?;
    state.runtime.timers.after(PATIENCE, move |state| state.runtime.handle.remove(token));
    Ok(())
}

/// Answers a request; what may take long (writing a file, a peer that reads slowly) happens on a thread of its own.
fn answer(line: &[u8], stream: UnixStream, state: &mut State) {
    type Rest = Box<dyn FnOnce() -> anyhow::Result<serde_json::Value> + Send>;
    let rest: anyhow::Result<Rest> = match serde_json::from_slice(line) {
        Err(err) => Err(anyhow!("not a request: {err}")),
        Ok(Request::Stats) => {
            let value = serde_json::to_value(stats(state));
            Ok(Box::new(move || Ok(value?)))
        }
        Ok(Request::Ledger) => {
            let ledger = state.backend.buffers().ledger();
            Ok(Box::new(move || Ok(serde_json::to_value(LedgerReport::from(ledger))?)))
        }
        Ok(Request::Explain(query)) => explain::explain(state, &query)
            .map_err(|text| anyhow!(text))
            .map(|report| -> Rest { Box::new(move || Ok(serde_json::to_value(report)?)) }),
        Ok(Request::Events) => return state.watch(stream),
        Ok(Request::Planes) => {
            let report = planes::planes(state);
            Ok(Box::new(move || Ok(serde_json::to_value(report)?)))
        }
        Ok(Request::Buffers) => {
            let report = buffers::buffers(state);
            Ok(Box::new(move || Ok(serde_json::to_value(report)?)))
        }
        Ok(Request::Timeline) => {
            let report = timeline::timeline(state);
            Ok(Box::new(move || Ok(serde_json::to_value(report)?)))
        }
        Ok(Request::Capture { file, source: _, output }) => {
            picture(state, output.as_deref()).map(|picture| {
                let rest: Rest = Box::new(move || {
                    save(&file, &picture).with_context(|| format!("cannot write {}", file.display()))?;
                    Ok(serde_json::json!({ "width": picture.width, "height": picture.height }))
                });
                rest
            })
        }
    };
    let send = move || -> anyhow::Result<()> {
        let answer = match rest.and_then(|rest| rest()) {
            Ok(value) => Answer::Ok(value),
            Err(err) => Answer::Error(format!("{err:#}")),
        };
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok((&stream).write_all(text.as_bytes())?)
    };
    let thread = std::thread::Builder::new().name("ctl".into()).spawn(move || {
        if let Err(err) = send() {
            tracing::debug!(%err, "control answer");
        }
    });
    if let Err(err) = thread {
        tracing::warn!(%err, "no thread for a control answer");
    }
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
        let content = match (shown, caps.kind, surface) {
            (None, ..) => "none",
            (_, PlaneType::Cursor, _) => "cursor",
            (_, _, Some(_)) => "client",
            _ => "composited",
        };
        PlaneStats {
            id: caps.id.get(),
            r#type: format!("{:?}", caps.kind),
            fb: shown.map(|p| p.buffer.name().number()),
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
