//! The control socket: one JSON line each way.
//!
//! | request | answer |
//! |---|---|
//! | `{"request":"stats"}` | `{"ok": Stats}` |
//! | `{"request":"ledger"}` | `{"ok": LedgerReport}`: every open handle, framebuffer and descriptor of the PRIME file |
//! | `{"request":"explain","all":true}`; or `app_id`, `pid`, `surface`, or none of them for the focused window | `{"ok": ExplainReport}` |
//! | `{"request":"planes"}` | `{"ok": PlanesReport}` |
//! | `{"request":"buffers"}` | `{"ok": BuffersReport}` |
//! | `{"request":"timeline"}` | `{"ok": TimelineReport}`: the last changes of planes, and how long frames took |
//! | `{"request":"events"}` | a line `{"event":"state",…}` with everything, then a line for each change: [`events::Event`] |
//! | `{"request":"outputs"}` | `{"ok": OutputsReport}` |
//! | `{"request":"output","name":"HDMI-A-1","mode":"800x600@60","power":true}`, without `mode` or `power` | the same, as it is then |
//! | `{"request":"capture","file":"/abs.png","source":"writeback"}` | `{"ok":{"width":W,"height":H}}` |
//!
//! A request that fails is answered `{"error":"text"}`.
//!
//! Each connection is for one request, a line of at most 64 KiB within five seconds. Frames and clients come first: answers take a
//! quarter of the time at most, and when 32 requests wait, the next one is told to ask again. 16 may listen to events; who reads
//! them slowly misses some and is told everything anew.

pub mod buffers;
pub mod client;
pub mod counters;
pub mod events;
pub mod explain;
pub mod identity;
mod ledger;
pub mod outputs;
pub mod planes;
pub mod probe;
pub mod refusal;
pub mod remedy;
pub mod report;
pub mod server;
pub mod show;
pub mod table;
pub mod timeline;
pub mod top;
pub mod watch;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use ledger::{DescriptorReport, FramebufferReport, HandleReport, HolderReport, LedgerReport};

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Figures of everything.
    Stats,
    /// What is open on the PRIME file, for whom, and for how long.
    Ledger,
    /// Why surfaces are on planes, or not.
    Explain(explain::Query),
    /// What every plane shows and can do.
    Planes,
    /// What everybody holds.
    Buffers,
    /// The last changes of planes, and how long frames took.
    Timeline,
    /// Everything, and then what changes.
    Events,
    /// The outputs and their modes.
    Outputs,
    /// Another mode of an output, or its power.
    Output(outputs::Wish),
    /// A picture of an output.
    Capture {
        /// Absolute path of the PNG.
        file: PathBuf,
        /// How it is read.
        source: CaptureSource,
        /// The output's name, the first one without.
        #[serde(default)]
        output: Option<String>,
    },
}

/// How a picture is read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureSource {
    /// Through the writeback connector (headless: the planes in memory, blended).
    Writeback,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The request's result.
    Ok(serde_json::Value),
    /// Why there is none.
    Error(String),
}

/// Figures of everything.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stats {
    /// The device that shows the outputs.
    pub device: DeviceStats,
    /// What composites.
    pub renderer: RendererStats,
    /// Left to right.
    pub outputs: Vec<OutputStats>,
    /// Clients with windows.
    pub clients: Vec<ClientStats>,
    /// What became of the buffers that clients brought.
    pub imports: ImportStats,
    /// Surfaces that wait for a fence, with and without a window.
    pub fences: Vec<FenceStats>,
    /// What is held.
    pub resources: ResourceStats,
}

/// The display device.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeviceStats {
    /// Its node; none for the embedded device of the headless backend.
    pub node: Option<PathBuf>,
    /// Its kernel driver.
    pub driver: String,
    /// How the PRIME file was got.
    pub acquisition: String,
    /// Whether the session is active.
    pub active: bool,
}

/// What composites.
#[derive(Debug, Serialize, Deserialize)]
pub struct RendererStats {
    /// pixman or gles.
    pub name: String,
    /// The GL driver's name of itself.
    pub driver: Option<String>,
    /// The DRM node that GL draws on; none for a driver without a device.
    pub node: Option<PathBuf>,
    /// The CPU draws.
    pub software: bool,
    /// Every composited frame is copied once more, from the renderer's memory to the output's.
    pub reads_back: bool,
}

/// An output.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutputStats {
    /// Its name.
    pub name: String,
    /// The CRTC's object id.
    pub crtc: u32,
    /// Pixels.
    pub width: i32,
    /// Pixels.
    pub height: i32,
    /// Atomic commits, test commits not counted.
    pub commits: u64,
    /// Frames shown.
    pub frames: u64,
    /// Its planes.
    pub planes: Vec<PlaneStats>,
}

/// A plane.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlaneStats {
    /// KMS object id.
    pub id: u32,
    /// Primary, Overlay or Cursor.
    pub r#type: String,
    /// The framebuffer it shows.
    pub fb: Option<u32>,
    /// client, composited, cursor, parked or none.
    pub content: String,
    /// The wl_surface whose buffer it shows.
    pub surface: Option<u32>,
}

/// A client.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientStats {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Its mapped surfaces.
    pub surfaces: Vec<SurfaceReport>,
}

/// A mapped surface.
#[derive(Debug, Serialize, Deserialize)]
pub struct SurfaceReport {
    /// Its object id on the client's connection.
    pub surface: u32,
    /// The window's app id.
    pub app_id: Option<String>,
    /// The window's title.
    pub title: Option<String>,
    /// toplevel, popup or subsurface.
    pub role: String,
    /// Fourcc of the dma-buf; none for wl_shm.
    pub format: Option<String>,
    /// LINEAR, or the number in hex.
    pub modifier: Option<String>,
    /// What luma and chroma are taken for: matrix and range, as in `BT.709 limited`; none for RGB.
    pub color: Option<String>,
    /// Where the dma-buf comes from.
    pub origin: Option<String>,
    /// Shown size in pixels.
    pub size: (i32, i32),
    /// Top left corner in pixels of the output.
    pub position: (i32, i32),
    /// The plane it is on.
    pub plane: Option<u32>,
    /// Frames with new content that were shown.
    pub frames_presented: u64,
    /// Those of them that a plane scanned out.
    pub frames_zero_copy: u64,
    /// Why it is not on a plane; and, if it cannot be composited either and is black instead, why that is. Of a surface that
    /// waits for a fence for long: that.
    pub reason: Option<String>,
    /// Ways to show its buffer that were found closed when the client brought it, each `rung: reason`.
    pub ways: Vec<String>,
    /// Its linux-dmabuf feedback names what planes take, or would if the client asked for it. Otherwise it is the default.
    pub scanout_feedback: bool,
}

/// What became of the buffers that clients brought.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImportStats {
    /// Buffers that were refused, ever.
    pub refused: u64,
    /// The last of them, the newest first.
    pub last: Vec<RefusedBuffer>,
}

/// A buffer that was refused.
#[derive(Debug, Serialize, Deserialize)]
pub struct RefusedBuffer {
    /// Whose it was.
    pub owner: String,
    /// Its fourcc.
    pub format: String,
    /// LINEAR, or the number in hex.
    pub modifier: String,
    /// Pixels.
    pub size: (i32, i32),
    /// The rung at which its way ended: description, files, import, plane, gpu or cpu.
    pub rung: String,
    /// The reason of each rung that did not bear it, `rung: reason`.
    pub reasons: Vec<String>,
}

/// A surface that waits for a fence; what it showed before stays meanwhile.
#[derive(Debug, Serialize, Deserialize)]
pub struct FenceStats {
    /// Process id of its client.
    pub pid: Option<i32>,
    /// Its object id on the client's connection.
    pub surface: u32,
    /// The first buffer plane whose fence has not signalled.
    pub buffer_plane: Option<usize>,
    /// The acquire point that it waits for instead, if its client synchronises explicitly.
    pub acquire_point: Option<u64>,
    /// For how many milliseconds.
    pub waiting_ms: u64,
    /// Longer than a picture takes ([`crate::fences::LATE`]); then it is also the surface's reason.
    pub late: bool,
}

/// What is held.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResourceStats {
    /// GEM handles of the PRIME file.
    pub gem_handles: usize,
    /// Framebuffers of client buffers.
    pub framebuffers: usize,
    /// Open files of the process.
    pub fds: usize,
    /// dma-bufs mapped for composition.
    pub mapped: usize,
    /// linux-dmabuf feedback objects of clients.
    pub feedback_objects: usize,
    /// Surfaces that feedback is decided for: those that show a dma-buf, and those that have not been told yet that they
    /// no longer do.
    pub feedback_surfaces: usize,
}
