//! Sequences that the protocols forbid, written on the wire, and what came of each.
//!
//! Owns the list and how an outcome is told; what is right stands in `malformed.md`, one column for each
//! environment, and is compared here. No client library takes part, so nothing is checked before it is sent.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::raw::{Arg, DISPLAY, End, REGISTRY, Raw, message};

mod buffers;
mod colors;
mod hints;
mod windows;

/// Where the sequences run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// The headless backend: linux-dmabuf version 3, sealed memfds for dma-bufs.
    Headless,
    /// A display device: version 6, dma-bufs of udmabuf.
    Display,
}

impl Environment {
    /// The version at which linux-dmabuf is bound.
    #[must_use]
    pub fn version(self) -> u32 {
        match self {
            Environment::Headless => 3,
            Environment::Display => 6,
        }
    }
}

/// A sequence.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What is wrong.
    pub name: &'static str,
    send: fn(&mut Stage) -> Result<()>,
}

/// All sequences, each name once.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    buffers::list(&mut cases);
    windows::list(&mut cases);
    colors::list(&mut cases);
    hints::list(&mut cases);
    cases
}

/// A fresh connection with the globals, and memory for a buffer of 64x64 XRGB8888.
#[derive(Debug)]
pub struct Stage {
    raw: Raw,
    memory: OwnedFd,
    /// The interface of each object.
    kinds: HashMap<u32, &'static str>,
    dmabuf: u32,
    compositor: u32,
    wm_base: u32,
    subcompositor: u32,
    shm: u32,
    viewporter: u32,
    color: u32,
    alpha: u32,
    content_type: u32,
    tearing: u32,
}

/// Bytes of the memory.
const SIZE: u64 = 64 * 64 * 4;

impl Stage {
    fn new(mut raw: Raw, memory: OwnedFd, environment: Environment) -> Result<Stage> {
        let mut kinds = HashMap::from([(DISPLAY, "wl_display"), (REGISTRY, "wl_registry")]);
        let mut bind = |interface: &'static str, version| -> Result<u32> {
            let id = raw.bind(interface, version)?;
            kinds.insert(id, interface);
            Ok(id)
        };
        let dmabuf = bind("zwp_linux_dmabuf_v1", environment.version())?;
        let compositor = bind("wl_compositor", 6)?;
        let wm_base = bind("xdg_wm_base", 3)?;
        let subcompositor = bind("wl_subcompositor", 1)?;
        let shm = bind("wl_shm", 1)?;
        let viewporter = bind("wp_viewporter", 1)?;
        let color = bind("wp_color_representation_manager_v1", 1)?;
        let alpha = bind("wp_alpha_modifier_v1", 1)?;
        let content_type = bind("wp_content_type_manager_v1", 1)?;
        let tearing = bind("wp_tearing_control_manager_v1", 1)?;
        raw.roundtrip()?.ok().context("the connection ended")?;
        Ok(Stage {
            raw,
            memory,
            kinds,
            dmabuf,
            compositor,
            wm_base,
            subcompositor,
            shm,
            viewporter,
            color,
            alpha,
            content_type,
            tearing,
        })
    }

    /// Number for a new object of an interface.
    fn id(&mut self, interface: &'static str) -> u32 {
        let id = self.raw.id();
        self.kinds.insert(id, interface);
        id
    }

    fn request(&mut self, object: u32, opcode: u16, arguments: &[Arg<'_>]) -> Result<()> {
        self.raw.request(object, opcode, arguments)
    }

    /// A new object that a request with no other arguments makes.
    fn make(&mut self, interface: &'static str, by: u32, opcode: u16) -> Result<u32> {
        let id = self.id(interface);
        self.request(by, opcode, &[Arg::U(id)])?;
        Ok(id)
    }

    /// A new object for a surface: the id, then the surface.
    fn make_for(&mut self, interface: &'static str, by: u32, opcode: u16, surface: u32) -> Result<u32> {
        let id = self.id(interface);
        self.request(by, opcode, &[Arg::U(id), Arg::U(surface)])?;
        Ok(id)
    }

    fn params(&mut self) -> Result<u32> {
        self.make("zwp_linux_buffer_params_v1", self.dmabuf, 1)
    }

    fn surface(&mut self) -> Result<u32> {
        self.make("wl_surface", self.compositor, 0)
    }

    fn commit(&mut self, surface: u32) -> Result<()> {
        self.request(surface, 6, &[])
    }

    fn attach(&mut self, surface: u32, buffer: u32) -> Result<()> {
        self.request(surface, 1, &[Arg::U(buffer), Arg::I(0), Arg::I(0)])
    }

    /// zwp_linux_buffer_params_v1.add with a file.
    fn add_file(&mut self, params: u32, file: BorrowedFd<'_>, plane: Plane) -> Result<()> {
        self.raw.send(&plane.add(params), &[file])
    }

    /// zwp_linux_buffer_params_v1.add with the memory.
    fn add(&mut self, params: u32, plane: Plane) -> Result<()> {
        let file = self.memory.try_clone()?;
        self.add_file(params, file.as_fd(), plane)
    }

    fn create(&mut self, params: u32, buffer: Buffer) -> Result<()> {
        self.request(params, 2, &buffer.arguments(None))
    }

    fn create_immed(&mut self, params: u32, buffer: Buffer) -> Result<u32> {
        let id = self.id("wl_buffer");
        self.request(params, 3, &buffer.arguments(Some(id)))?;
        Ok(id)
    }

    /// A good wl_buffer of linux-dmabuf.
    fn good_buffer(&mut self) -> Result<u32> {
        let params = self.params()?;
        self.add(params, Plane::default())?;
        let buffer = self.create_immed(params, Buffer::default())?;
        self.request(params, 0, &[])?;
        Ok(buffer)
    }
}

/// Arguments of `add`: by default the only plane of 64x64 XRGB8888.
#[derive(Debug, Clone, Copy)]
struct Plane {
    index: u32,
    offset: u32,
    stride: u32,
    modifier: u64,
}

impl Default for Plane {
    fn default() -> Self {
        Plane { index: 0, offset: 0, stride: 256, modifier: 0 }
    }
}

impl Plane {
    fn add(self, params: u32) -> Vec<u8> {
        let [high, low] = [(self.modifier >> 32) as u32, self.modifier as u32];
        let words = [self.index, self.offset, self.stride, high, low].map(Arg::U);
        message(params, 1, &words)
    }
}

/// Arguments of `create`: by default 64x64 XRGB8888.
#[derive(Debug, Clone, Copy)]
struct Buffer {
    width: i32,
    height: i32,
    format: [u8; 4],
    flags: u32,
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer { width: 64, height: 64, format: *b"XR24", flags: 0 }
    }
}

impl Buffer {
    fn arguments(self, id: Option<u32>) -> Vec<Arg<'static>> {
        let format = Arg::U(u32::from_le_bytes(self.format));
        let rest = [Arg::I(self.width), Arg::I(self.height), format, Arg::U(self.flags)];
        id.map(Arg::U).into_iter().chain(rest).collect()
    }
}

/// Sends a sequence on a connection of its own and says what came of it.
///
/// # Errors
///
/// When the connection cannot be made or the compositor does not answer.
pub fn outcome(case: &Case, raw: Raw, memory: OwnedFd, environment: Environment) -> Result<String> {
    let mut stage = Stage::new(raw, memory, environment)?;
    (case.send)(&mut stage)?;
    let answer = stage.raw.roundtrip().with_context(|| case.name.to_owned())?;
    Ok(match answer {
        Err(End::Closed) => "closed".to_owned(),
        Err(End::Error { object, code, .. }) => {
            let interface = stage.kinds.get(&object).copied().unwrap_or("?");
            format!("{interface}.{}", error_name(interface, code))
        }
        Ok(events) => {
            let of_params = |opcode| {
                events.iter().any(|e| {
                    e.opcode == opcode && stage.kinds.get(&e.object) == Some(&"zwp_linux_buffer_params_v1")
                })
            };
            match (of_params(0), of_params(1)) {
                (true, true) => "created and failed",
                (true, false) => "created",
                (false, true) => "failed",
                _ => "goes on",
            }
            .to_owned()
        }
    })
}

/// The XML's name of an error.
fn error_name(interface: &str, code: u32) -> String {
    let names: &[&str] = match interface {
        "wl_display" => &["invalid_object", "invalid_method", "no_memory", "implementation"],
        "wl_shm" | "wl_shm_pool" => &["invalid_format", "invalid_stride", "invalid_fd"],
        "wl_surface" => {
            &["invalid_scale", "invalid_transform", "invalid_size", "invalid_offset", "defunct_role_object"]
        }
        "wl_subcompositor" => &["bad_surface", "bad_parent"],
        "wl_subsurface" => &["bad_surface"],
        "wp_color_representation_manager_v1" => &["0", "surface_exists"],
        "wp_color_representation_surface_v1" => {
            &["0", "alpha_mode", "coefficients", "pixel_format", "inert", "chroma_location"]
        }
        "wp_alpha_modifier_v1" | "wp_content_type_manager_v1" => &["already_constructed"],
        "wp_alpha_modifier_surface_v1" => &["no_surface"],
        "wp_tearing_control_manager_v1" => &["tearing_control_exists"],
        "wp_viewporter" => &["viewport_exists"],
        "wp_viewport" => &["bad_value", "bad_size", "out_of_buffer", "no_surface"],
        "xdg_wm_base" => &[
            "role",
            "defunct_surfaces",
            "not_the_topmost_popup",
            "invalid_popup_parent",
            "invalid_surface_state",
            "invalid_positioner",
            "unresponsive",
        ],
        "xdg_positioner" => &["invalid_input"],
        "xdg_surface" => &[
            "0",
            "not_constructed",
            "already_constructed",
            "unconfigured_buffer",
            "invalid_serial",
            "invalid_size",
            "defunct_role_object",
        ],
        "xdg_toplevel" => &["invalid_resize_edge", "invalid_parent", "invalid_size"],
        "xdg_popup" => &["invalid_grab"],
        "zwp_linux_buffer_params_v1" => &[
            "already_used",
            "plane_idx",
            "plane_set",
            "incomplete",
            "invalid_format",
            "invalid_dimensions",
            "out_of_bounds",
            "invalid_wl_buffer",
            "invalid_dev_t_size",
        ],
        _ => &[],
    };
    names.get(code as usize).map_or_else(|| code.to_string(), |name| (*name).to_owned())
}

/// Where the table is.
#[must_use]
pub fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("malformed.md")
}

const HEAD: &str = "# Malformed sequences and what comes of them

Written by the tests from the raw wire, each on a connection of its own, and compared by them: `headless_bounds`
(headless backend, linux-dmabuf version 3, sealed memfds as memory) and `kernel_malformed` (vkms, version 6, udmabuf).
`PRIMEWAY_BLESS=1` writes the column anew. After each sequence another client is served.

`interface.error`: the protocol error that ends the client. `failed`, `created`: the event of the params object; the
client lives on. `goes on`: no error; the client lives on. `closed`: disconnected without an error, because the Wayland
library (wayland-backend 0.3) does not send one.

";

/// Compares outcomes with the table's column, or writes the column to `bless`.
///
/// # Errors
///
/// What differs; or when there is no table.
pub fn compare(environment: Environment, outcomes: &[(&str, String)], bless: Option<&Path>) -> Result<()> {
    let text = std::fs::read_to_string(table()).unwrap_or_default();
    let mut rows: Vec<[String; 3]> = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| sequence")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, headless, display] = cells[..] else { bail!("a row of {} cells: {line}", cells.len()) };
        rows.push([name, headless, display].map(str::to_owned));
    }
    let column = match environment {
        Environment::Headless => 1,
        Environment::Display => 2,
    };
    let old: HashMap<String, [String; 3]> = rows.into_iter().map(|row| (row[0].clone(), row)).collect();
    if let Some(file) = bless {
        let mut out = HEAD.to_owned();
        out.push_str("| sequence | headless, version 3 | display, version 6 |\n|---|---|---|\n");
        for (name, outcome) in outcomes {
            let mut row = old.get(*name).cloned().unwrap_or_default();
            row[column].clone_from(outcome);
            out.push_str(&format!("| {name} | {} | {} |\n", row[1], row[2]));
        }
        std::fs::write(file, out).with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(());
    }
    let expected = |name: &str| old.get(name).map_or("not in the table", |row| row[column].as_str());
    let different: Vec<String> = outcomes
        .iter()
        .filter(|(name, outcome)| expected(name) != outcome)
        .map(|(name, outcome)| format!("{name}: {outcome}, not {}", expected(name)))
        .collect();
    ensure!(different.is_empty(), "{}", different.join("\n"));
    ensure!(outcomes.len() == old.len(), "{} sequences, {} in the table", outcomes.len(), old.len());
    Ok(())
}

/// A file that is no memory.
fn no_memory(kind: &str) -> Result<OwnedFd> {
    Ok(match kind {
        "pipe" => rustix::pipe::pipe()?.0,
        "socket" => std::os::unix::net::UnixStream::pair()?.0.into(),
        "path" => {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open("/proc/self/exe", flags, rustix::fs::Mode::empty())?
        }
        "directory" => File::open("/")?.into(),
        "regular" => File::open("/proc/self/exe")?.into(),
        "null" => File::open("/dev/null")?.into(),
        "eventfd" => rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?,
        "epoll" => rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?,
        "memfd" => {
            let file = rustix::fs::memfd_create("plain", rustix::fs::MemfdFlags::CLOEXEC)?;
            rustix::fs::ftruncate(&file, SIZE)?;
            file
        }
        other => bail!("no file of kind {other}"),
    })
}
