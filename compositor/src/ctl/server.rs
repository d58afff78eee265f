//! The server side of the control socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
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
    Answer, ClientStats, DeviceStats, OutputStats, PlaneStats, Request, ResourceStats, Stats, SurfaceReport,
};
use crate::backend::Backend;
use crate::backend::kms::writeback::Picture;
use crate::output::SurfaceStats;
use crate::output::layers::SurfaceLayer;
use crate::state::State;

/// Longest request in bytes.
const MAX_REQUEST: u64 = 64 * 1024;
/// A peer that sends no line in this time is dropped; the compositor waits meanwhile.
const PATIENCE: Duration = Duration::from_millis(50);

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
        let path = PathBuf::from(runtime).join(format!("primeway-{display}.sock"));
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
        handle
            .insert_source(Generic::new(listener, Interest::READ, Mode::Level), |_, listener, state| {
                while let Ok((stream, _)) = listener.accept() {
                    if let Err(err) = serve(stream, state) {
                        tracing::debug!(%err, "control request");
                    }
                }
                Ok(PostAction::Continue)
            })
            .map_err(|err| anyhow!("cannot watch the control socket: {}", err.error))?;
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

fn serve(stream: UnixStream, state: &mut State) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new((&stream).take(MAX_REQUEST)).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => match answer(request, state) {
            Ok(value) => Answer::Ok(value),
            Err(err) => Answer::Error(format!("{err:#}")),
        },
        Err(err) => Answer::Error(format!("not a request: {err}")),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    (&stream).write_all(text.as_bytes())
}

fn answer(request: Request, state: &mut State) -> anyhow::Result<serde_json::Value> {
    match request {
        Request::Stats => Ok(serde_json::to_value(stats(state))?),
        Request::Capture { file, source: _, output } => {
            let picture = match &mut state.backend {
                Backend::Kms(kms) => kms.capture(output.as_deref())?,
                Backend::Headless(headless) => headless.picture()?,
            };
            save(&file, &picture).with_context(|| format!("cannot write {}", file.display()))?;
            Ok(serde_json::json!({ "width": picture.width, "height": picture.height }))
        }
    }
}

fn save(file: &Path, picture: &Picture) -> anyhow::Result<()> {
    let rgb: Vec<u8> = picture.pixels.chunks_exact(4).flat_map(|p| [p[2], p[1], p[0]]).collect();
    // Written beside and renamed: a full disk leaves no half picture under the name.
    let partial = file.with_extension("partial");
    let write = || -> anyhow::Result<()> {
        let out = std::io::BufWriter::new(std::fs::File::create(&partial)?);
        let mut encoder = png::Encoder::new(out, picture.width, picture.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&rgb)?;
        writer.finish()?;
        std::fs::rename(&partial, file)?;
        Ok(())
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })
}

/// Collects the figures.
pub fn stats(state: &mut State) -> Stats {
    let device = state.backend.kms().map(|kms| DeviceStats {
        node: kms.node().to_path_buf(),
        driver: kms.driver().to_owned(),
        acquisition: kms.buffers.acquisition().to_owned(),
        active: kms.is_active(),
    });
    let mut clients: Vec<ClientStats> = Vec::new();
    let mut outputs = Vec::new();
    for index in 0..state.outputs.len() {
        let area = state.outputs[index].state.geometry();
        let layers = state.shell.scene(area).layers;
        for layer in &layers {
            let Some(client) = layer.surface.client() else { continue };
            let Ok(credentials) = client.get_credentials(&state.runtime.display) else { continue };
            let report = report(layer, &state.backend);
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
    Stats { device, outputs, clients, resources: ResourceStats { gem_handles, framebuffers, fds, mapped } }
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
            fb: shown.map(|p| p.buffer.id().get()),
            content: content.to_owned(),
            surface,
        }
    });
    let planes = planes.collect();
    let (name, id, size, frames) = (output.output.name(), output.id, output.size, output.frames);
    let commits = state.backend.kms().map_or(frames, |kms| kms.commits(id));
    OutputStats { name, crtc: id, width: size.w, height: size.h, commits, frames, planes }
}

fn report(layer: &SurfaceLayer, backend: &Backend) -> SurfaceReport {
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
        modifier: dmabuf.map(|d| match u64::from(d.format().modifier) {
            0 => "LINEAR".to_owned(),
            other => format!("{other:#x}"),
        }),
        origin: dmabuf.and_then(|d| backend.origin(d)),
        size: (layer.dst.size.w, layer.dst.size.h),
        position: (layer.dst.loc.x, layer.dst.loc.y),
        plane: stats.plane,
        frames_presented: stats.presented,
        frames_zero_copy: stats.zero_copy,
        reason: stats.reason,
    }
}
