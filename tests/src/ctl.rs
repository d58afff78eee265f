//! The compositor's control socket, as a user of it sees it.
//!
//! Owns the request and the shape of the answers that tests read. What the compositor says here is a claim;
//! `check` compares it with the kernel.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// The socket of one compositor.
#[derive(Debug, Clone)]
pub struct Ctl {
    socket: PathBuf,
}

/// The answer to `stats`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Stats {
    /// The display device.
    #[serde(default)]
    pub device: Device,
    /// What composites.
    #[serde(default)]
    pub renderer: Renderer,
    /// The outputs that are on.
    #[serde(default)]
    pub outputs: Vec<Output>,
    /// The connected clients.
    #[serde(default)]
    pub clients: Vec<Client>,
    /// Surfaces that wait for a fence.
    #[serde(default)]
    pub fences: Vec<Fence>,
    /// What the compositor holds.
    #[serde(default)]
    pub resources: Resources,
}

/// A surface that waits for a fence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Fence {
    /// Its client's process.
    pub pid: Option<i32>,
    /// Its object id.
    pub surface: u64,
    /// The first plane that is not ready.
    pub buffer_plane: Option<usize>,
    /// The acquire point that it waits for instead.
    pub acquire_point: Option<u64>,
    /// For how long.
    pub waiting_ms: u64,
    /// Longer than the compositor finds usual.
    pub late: bool,
}

/// The display device.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Device {
    /// Card node; none for the embedded device.
    #[serde(default)]
    pub node: Option<PathBuf>,
    /// Driver name.
    #[serde(default)]
    pub driver: String,
    /// How the device file for imports was had, `empty-lease` for example.
    #[serde(default)]
    pub acquisition: String,
    /// Whether the session is the one that the user sees.
    #[serde(default)]
    pub active: Option<bool>,
}

/// What composites.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Renderer {
    /// `pixman` or `gles`.
    #[serde(default)]
    pub name: String,
    /// What the GL driver calls itself.
    #[serde(default)]
    pub driver: Option<String>,
    /// The node that GL draws on.
    #[serde(default)]
    pub node: Option<PathBuf>,
    /// Whether the CPU draws.
    #[serde(default)]
    pub software: bool,
    /// Whether every composited frame is copied once more.
    #[serde(default)]
    pub reads_back: bool,
}

/// An output and its planes.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Output {
    /// Connector name.
    pub name: String,
    /// In pixels.
    #[serde(default)]
    pub width: u32,
    /// In pixels.
    #[serde(default)]
    pub height: u32,
    /// Atomic commits so far.
    #[serde(default)]
    pub commits: u64,
    /// Frames that were on the screen.
    #[serde(default)]
    pub frames: u64,
    /// The stack.
    #[serde(default)]
    pub planes: Vec<Plane>,
}

/// A plane as the compositor describes it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Plane {
    /// KMS object id.
    pub id: u32,
    /// `Primary`, `Overlay` or `Cursor`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Framebuffer id.
    #[serde(default)]
    pub fb: Option<u32>,
    /// `client`, `composited`, `cursor` or `none`.
    #[serde(default)]
    pub content: String,
    /// The surface whose buffer it shows.
    #[serde(default)]
    pub surface: Option<u64>,
}

/// A connected client.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Client {
    /// Process id.
    pub pid: i32,
    /// Its surfaces.
    #[serde(default)]
    pub surfaces: Vec<Surface>,
}

/// A surface with content.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Surface {
    /// Number of the compositor.
    pub surface: u64,
    /// Window title.
    #[serde(default)]
    pub title: Option<String>,
    /// `toplevel`, `popup` or `subsurface`.
    #[serde(default)]
    pub role: Option<String>,
    /// Four characters.
    #[serde(default)]
    pub format: Option<String>,
    /// In words.
    #[serde(default)]
    pub modifier: Option<String>,
    /// What luma and chroma are taken for, in words.
    #[serde(default)]
    pub color: Option<String>,
    /// Where the buffer came from, in words.
    #[serde(default)]
    pub origin: Option<String>,
    /// Width and height.
    #[serde(default)]
    pub size: [i32; 2],
    /// Left and top on the output.
    #[serde(default)]
    pub position: [i32; 2],
    /// The plane that scans it out, if one does.
    #[serde(default)]
    pub plane: Option<u32>,
    /// Frames presented.
    #[serde(default)]
    pub frames_presented: u64,
    /// Of these, scanned out from the client's own buffer.
    #[serde(default)]
    pub frames_zero_copy: u64,
    /// Why it is not on a plane.
    #[serde(default)]
    pub reason: Option<String>,
    /// Its feedback names what planes take.
    #[serde(default)]
    pub scanout_feedback: bool,
}

/// What the compositor holds of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Resources {
    /// GEM handles.
    #[serde(default)]
    pub gem_handles: u64,
    /// Framebuffers.
    #[serde(default)]
    pub framebuffers: u64,
    /// File descriptors.
    #[serde(default)]
    pub fds: u64,
    /// linux-dmabuf feedback objects of clients.
    #[serde(default)]
    pub feedback_objects: u64,
    /// Surfaces that feedback is decided for.
    #[serde(default)]
    pub feedback_surfaces: u64,
}

impl Device {
    /// The card's node.
    ///
    /// # Errors
    ///
    /// When it is no card.
    pub fn card(&self) -> Result<&Path> {
        self.node.as_deref().context("primeway drives no card")
    }
}

impl Stats {
    /// The surfaces of a process.
    #[must_use]
    pub fn surfaces(&self, pid: i32) -> Vec<&Surface> {
        self.clients.iter().filter(|client| client.pid == pid).flat_map(|client| &client.surfaces).collect()
    }

    /// The first window of a process.
    #[must_use]
    pub fn surface(&self, pid: i32) -> Option<&Surface> {
        self.surfaces(pid).into_iter().find(|surface| surface.role.as_deref() == Some("toplevel"))
    }

    /// A plane of any output.
    #[must_use]
    pub fn plane(&self, id: u32) -> Option<&Plane> {
        self.outputs.iter().flat_map(|output| &output.planes).find(|plane| plane.id == id)
    }
}

/// What is open on the PRIME file.
#[derive(Debug, Clone, Deserialize)]
pub struct Ledger {
    handles: Vec<LedgerHandle>,
    framebuffers: Vec<LedgerFramebuffer>,
}

#[derive(Debug, Clone, Deserialize)]
struct LedgerHandle {
    holders: Vec<LedgerOwner>,
}

#[derive(Debug, Clone, Deserialize)]
struct LedgerFramebuffer {
    fb: u32,
    #[serde(flatten)]
    owner: LedgerOwner,
}

#[derive(Debug, Clone, Deserialize)]
struct LedgerOwner {
    owner: String,
}

impl LedgerOwner {
    fn is_composition(&self) -> bool {
        self.owner == "composition" || self.owner == "parked"
    }
}

impl Ledger {
    /// A framebuffer is composition's own: it has as many as its pictures need.
    #[must_use]
    pub fn composes_into(&self, framebuffer: u32) -> bool {
        self.framebuffers.iter().any(|known| known.fb == framebuffer && known.owner.is_composition())
    }

    /// Handles that are not composition's own.
    #[must_use]
    pub fn others_handles(&self) -> usize {
        let own = |handle: &&LedgerHandle| handle.holders.iter().all(LedgerOwner::is_composition);
        self.handles.len() - self.handles.iter().filter(own).count()
    }
}

impl Ctl {
    /// The socket of the compositor on `display` in `$XDG_RUNTIME_DIR`.
    ///
    /// # Errors
    ///
    /// When `XDG_RUNTIME_DIR` is not set.
    pub fn of_display(display: &str) -> Result<Ctl> {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set")?;
        Ok(Ctl { socket: Path::new(&folder).join(format!("primeway-{display}.sock")) })
    }

    fn request(&self, request: &Value) -> Result<Value> {
        let at = || format!("control socket {}", self.socket.display());
        let mut stream = UnixStream::connect(&self.socket).with_context(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).with_context(at)?;
        stream.write_all(format!("{request}\n").as_bytes()).with_context(at)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).with_context(at)?;
        let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line:?}"))?;
        match answer.get_mut("ok") {
            Some(ok) => Ok(ok.take()),
            None => bail!("the compositor refused {request}: {}", answer["error"]),
        }
    }

    /// What the compositor says about itself and its clients.
    ///
    /// # Errors
    ///
    /// When the socket does not answer.
    pub fn stats(&self) -> Result<Stats> {
        serde_json::from_value(self.request(&json!({"request": "stats"}))?).context("stats of another form")
    }

    /// What is open on the PRIME file, and for whom.
    ///
    /// # Errors
    ///
    /// When the socket does not answer.
    pub fn ledger(&self) -> Result<Ledger> {
        serde_json::from_value(self.request(&json!({"request": "ledger"}))?).context("ledger of another form")
    }

    /// Saves what the display shows, by the writeback connector.
    ///
    /// # Errors
    ///
    /// When the compositor refuses or does not answer.
    pub fn capture_writeback(&self, file: &Path) -> Result<()> {
        self.request(&json!({"request": "capture", "file": file, "source": "writeback"}))?;
        Ok(())
    }

    /// The same of an output by its name.
    ///
    /// # Errors
    ///
    /// When the compositor refuses.
    pub fn capture_output(&self, output: &str, file: &Path) -> Result<()> {
        let request = json!({"request": "capture", "file": file, "source": "writeback", "output": output});
        self.request(&request)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_read() {
        let text = r#"{"device":{"node":"/dev/dri/card1","driver":"vkms","acquisition":"empty-lease"},
            "outputs":[{"name":"Virtual-1","crtc":39,"width":1024,"height":768,"commits":5,"frames":5,
              "planes":[{"id":35,"type":"Primary","fb":70,"content":"composited","surface":null},
                        {"id":40,"type":"Overlay","fb":71,"content":"client","surface":7}]}],
            "clients":[{"pid":12,"uid":0,"surfaces":[{"surface":7,"app_id":"a","title":"t","role":"toplevel",
              "format":"XR24","modifier":"LINEAR","origin":"foreign","size":[256,256],"position":[0,0],"plane":40,
              "frames_presented":10,"frames_zero_copy":9,"reason":null}]}],
            "resources":{"gem_handles":3,"framebuffers":3,"fds":20}}"#;
        let stats: Stats = serde_json::from_str(text).unwrap();
        let surface = stats.surface(12).unwrap();
        assert_eq!(surface.plane, Some(40));
        assert_eq!(stats.plane(40).unwrap().content, "client");
        assert_eq!(stats.surfaces(13).len(), 0);
        assert_eq!(stats.resources.fds, 20);
    }
}
