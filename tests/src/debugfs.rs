//! What the kernel says about a DRM device: planes, framebuffers, files and the CRC of the display.
//!
//! Owns the parsers of `/sys/kernel/debug/dri/*/{state,framebuffer,clients,crtc-*/crc}` (needs root). It asks
//! no compositor. It judges nothing (`check`).

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use drm::{Device as _, VblankWaitFlags, VblankWaitTarget};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::drm_node::{DrmNode, card_nodes};

/// Where debugfs is mounted.
const ROOT: &str = "/sys/kernel/debug/dri";

/// The debugfs folder of one DRM device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugDevice {
    path: PathBuf,
    node: PathBuf,
}

/// A plane in the kernel's current state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaneState {
    /// KMS object id.
    pub id: u32,
    /// As in `plane-3`.
    pub name: String,
    /// `None` while the plane is off.
    pub crtc: Option<String>,
    /// What it shows.
    pub framebuffer: Option<FramebufferState>,
    /// Width, height, x and y on the CRTC.
    pub position: [i32; 4],
    /// Bits of drm_mode.h; 1 is upright.
    pub rotation: u32,
}

impl PlaneState {
    /// It is on, and lies beside a picture of `size` pixels.
    #[must_use]
    pub fn is_out_of_sight(&self, size: (u32, u32)) -> bool {
        let [w, h, x, y] = self.position;
        let beyond = |from: i32, len: i32, size: u32| {
            i64::from(from) >= i64::from(size) || i64::from(from) + i64::from(len) <= 0
        };
        self.framebuffer.is_some() && (beyond(x, w, size.0) || beyond(y, h, size.1))
    }
}

/// A framebuffer as the kernel lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FramebufferState {
    /// KMS object id.
    pub id: u32,
    /// The name of the task that created it, at most 15 characters.
    pub allocated_by: String,
    /// Four characters, for example `XR24`.
    pub format: String,
    /// Format modifier.
    pub modifier: u64,
    /// Width and height.
    pub size: [u32; 2],
    /// Whether every GEM object behind it came through PRIME from another exporter.
    pub imported: bool,
}

/// An open file of a DRM device, from `clients`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFile {
    /// Task name.
    pub command: String,
    /// Process id.
    pub pid: i32,
    /// Whether it is master.
    pub master: bool,
}

impl DebugDevice {
    /// Finds the device of a driver.
    ///
    /// # Errors
    ///
    /// When debugfs cannot be read or no device has that driver.
    pub fn of_driver(driver: &str) -> Result<DebugDevice> {
        for node in card_nodes()? {
            let device = DebugDevice::of_node(&node)?;
            if device.read("name")?.split_whitespace().next() == Some(driver) {
                return Ok(device);
            }
        }
        bail!("no card of driver {driver} here")
    }

    /// The device whose card node is `/dev/dri/cardN`.
    ///
    /// # Errors
    ///
    /// When the name has no number or debugfs has no such device.
    pub fn of_node(node: &Path) -> Result<DebugDevice> {
        let name = node.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let minor = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let path = Path::new(ROOT).join(minor);
        if minor.is_empty() || !path.join("name").exists() {
            bail!("{} has no folder in {ROOT}: debugfs and root are needed", node.display());
        }
        Ok(DebugDevice { path, node: node.to_owned() })
    }

    /// Opens its card node.
    ///
    /// # Errors
    ///
    /// When that is not permitted.
    pub fn open_node(&self) -> Result<DrmNode> {
        DrmNode::open(&self.node)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Every plane with what it shows at this moment.
    ///
    /// # Errors
    ///
    /// When `state` cannot be read.
    pub fn planes(&self) -> Result<Vec<PlaneState>> {
        Ok(parse_planes(&self.read("state")?))
    }

    /// What each CRTC shows where no plane is: opaque ARGB16161616. Nothing before the kernel has the property.
    ///
    /// # Errors
    ///
    /// When `state` cannot be read.
    pub fn backgrounds(&self) -> Result<Vec<u64>> {
        let state = self.read("state")?;
        let values = state.lines().filter_map(|line| line.trim().strip_prefix("background_color="));
        values.map(|value| u64::from_str_radix(value, 16).context("background_color")).collect()
    }

    /// Every framebuffer of the device, on a plane or not.
    ///
    /// # Errors
    ///
    /// When `framebuffer` cannot be read.
    pub fn framebuffers(&self) -> Result<Vec<FramebufferState>> {
        Ok(parse_framebuffers(&self.read("framebuffer")?))
    }

    /// Every open file of the device.
    ///
    /// # Errors
    ///
    /// When `clients` cannot be read.
    pub fn files(&self) -> Result<Vec<DeviceFile>> {
        Ok(parse_files(&self.read("clients")?))
    }

    /// Opens the CRC source of a CRTC. The display composes and sums each frame while the reader is open.
    ///
    /// # Errors
    ///
    /// When the CRTC is off, or another reader has it.
    pub fn crc(&self, crtc: &str) -> Result<CrcReader> {
        let pipe = crtc.trim_start_matches("crtc-").parse().with_context(|| format!("{crtc} is no CRTC"))?;
        let node = self.open_node()?;
        let folder = self.path.join(crtc).join("crc");
        fs::write(folder.join("control"), "auto")
            .with_context(|| format!("cannot choose the CRC source of {crtc}"))?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(folder.join("data"))
            .with_context(|| format!("cannot open the CRCs of {crtc} (is it on?)"))?;
        Ok(CrcReader { file, node, pipe })
    }

    /// The CRTCs that have a CRC source, as debugfs names them: `crtc-0`.
    ///
    /// # Errors
    ///
    /// When the folder cannot be listed.
    pub fn crtcs(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(&self.path)
            .with_context(|| format!("cannot list {}", self.path.display()))?
            .filter_map(|entry| entry.ok().and_then(|entry| entry.file_name().into_string().ok()))
            .filter(|name| name.starts_with("crtc-"))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// One CRC per frame of a display.
#[derive(Debug)]
pub struct CrcReader {
    file: File,
    node: DrmNode,
    pipe: u32,
}

/// The CRC of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameCrc {
    /// Vblank counter.
    pub frame: u32,
    /// The sum.
    pub crc: u32,
}

impl CrcReader {
    /// Waits for the next entry.
    ///
    /// # Errors
    ///
    /// When none comes before `deadline`, or the entry cannot be read.
    pub fn next(&mut self, deadline: Instant) -> Result<FrameCrc> {
        loop {
            let mut line = [0u8; 256];
            match self.file.read(&mut line) {
                Ok(0) => bail!("the CRC source was closed"),
                Ok(n) => return parse_crc(&String::from_utf8_lossy(&line[..n])),
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(err).context("cannot read the CRC"),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no CRC came in time");
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err).context("cannot wait for a CRC"),
            }
        }
    }

    /// The number of the last vblank, in the count that [`FrameCrc::frame`] uses.
    fn vblank(&self) -> Result<u32> {
        let reply = self
            .node
            .wait_vblank(VblankWaitTarget::Relative(0), VblankWaitFlags::empty(), self.pipe, 0)
            .context("WAIT_VBLANK")?;
        Ok(reply.frame())
    }

    /// Waits until the picture does not change for `frames` frames and returns its CRC.
    ///
    /// Only frames count whose composition began after the call. A composer that falls behind reports one picture
    /// for several frames at once, all of them with vblank numbers from before it began.
    ///
    /// # Errors
    ///
    /// When the picture does not come to rest within `timeout`.
    pub fn stable(&mut self, frames: u32, timeout: Duration) -> Result<u32> {
        let deadline = Instant::now() + timeout;
        // One more, because the count may lag behind by one.
        let called = self.vblank()?.wrapping_add(1);
        let mut run: Option<FrameCrc> = None;
        loop {
            let entry =
                self.next(deadline).with_context(|| format!("the picture never rested, last {run:08x?}"))?;
            if entry.frame.wrapping_sub(called).cast_signed() <= 0 {
                continue;
            }
            match run {
                Some(first) if first.crc == entry.crc => {
                    if entry.frame.wrapping_sub(first.frame) >= frames {
                        return Ok(entry.crc);
                    }
                }
                _ => run = Some(entry),
            }
        }
    }
}

/// How many dma-bufs exist in the whole system. A GEM handle that somebody forgot to close keeps one.
///
/// # Errors
///
/// When `dma_buf/bufinfo` cannot be read.
pub fn dmabufs() -> Result<usize> {
    let path = "/sys/kernel/debug/dma_buf/bufinfo";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_dmabufs(&text).with_context(|| format!("{path} has no total"))
}

/// `Total 3 objects, 12288 bytes` at the end.
fn parse_dmabufs(text: &str) -> Option<usize> {
    text.lines().rev().find_map(|line| line.strip_prefix("Total ")?.split_whitespace().next()?.parse().ok())
}

fn parse_crc(line: &str) -> Result<FrameCrc> {
    let mut words =
        line.split_whitespace().map(|word| u32::from_str_radix(word.trim_start_matches("0x"), 16));
    match (words.next(), words.next()) {
        (Some(Ok(frame)), Some(Ok(crc))) => Ok(FrameCrc { frame, crc }),
        _ => bail!("not a CRC line: {line:?}"),
    }
}

fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key).map(str::trim)
}

/// `12x34+5-6` as width, height, x, y.
fn parse_rect(text: &str) -> Option<[i32; 4]> {
    let (width, rest) = text.split_once('x')?;
    let sign = rest.find(['+', '-'])?;
    let (height, place) = rest.split_at(sign);
    let split = place[1..].find(['+', '-'])? + 1;
    let number = |text: &str| text.trim_start_matches('+').parse::<i32>().ok();
    Some([number(width)?, number(height)?, number(&place[..split])?, number(&place[split..])?])
}

fn parse_size(text: &str) -> Option<[u32; 2]> {
    let (width, height) = text.split_once('x')?;
    Some([width.parse().ok()?, height.parse().ok()?])
}

/// `name[12]:` gives 12 and what follows the colon.
fn parse_heading<'a>(line: &'a str, name: &str) -> Option<(u32, &'a str)> {
    let rest = line.strip_prefix(name)?.strip_prefix('[')?;
    let (id, rest) = rest.split_once("]:")?;
    Some((id.parse().ok()?, rest.trim()))
}

fn fill_framebuffer(framebuffer: &mut FramebufferState, line: &str) {
    if let Some(value) = after(line, "allocated by =") {
        framebuffer.allocated_by = value.to_owned();
    } else if let Some(value) = after(line, "format=") {
        framebuffer.format = value.split_whitespace().next().unwrap_or_default().to_owned();
    } else if let Some(value) = after(line, "modifier=") {
        framebuffer.modifier = u64::from_str_radix(value.trim_start_matches("0x"), 16).unwrap_or_default();
    } else if let Some(size) = after(line, "size=").and_then(parse_size) {
        framebuffer.size = size;
    } else if let Some(value) = after(line, "imported=") {
        framebuffer.imported &= value == "yes";
    }
}

fn parse_planes(text: &str) -> Vec<PlaneState> {
    let mut planes: Vec<PlaneState> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some((id, name)) = parse_heading(line, "plane") {
            planes.push(PlaneState { id, name: name.to_owned(), ..PlaneState::default() });
            inside = true;
            continue;
        }
        if !line.starts_with(char::is_whitespace) {
            inside = false;
        }
        let (true, Some(plane)) = (inside, planes.last_mut()) else { continue };
        let line = line.trim();
        if let Some(crtc) = after(line, "crtc=") {
            plane.crtc = (crtc != "(null)").then(|| crtc.to_owned());
        } else if let Some(id) = after(line, "fb=").and_then(|id| id.parse().ok()) {
            plane.framebuffer =
                (id != 0).then(|| FramebufferState { id, imported: true, ..FramebufferState::default() });
        } else if let Some(position) = after(line, "crtc-pos=").and_then(parse_rect) {
            plane.position = position;
        } else if let Some(rotation) = after(line, "rotation=") {
            // Hexadecimal, without a prefix (drm_atomic.c).
            plane.rotation = u32::from_str_radix(rotation, 16).unwrap_or(0);
        } else if let Some(framebuffer) = &mut plane.framebuffer {
            fill_framebuffer(framebuffer, line);
        }
    }
    planes
}

fn parse_framebuffers(text: &str) -> Vec<FramebufferState> {
    let mut framebuffers: Vec<FramebufferState> = Vec::new();
    for line in text.lines() {
        if let Some((id, _)) = parse_heading(line, "framebuffer") {
            framebuffers.push(FramebufferState { id, imported: true, ..FramebufferState::default() });
        } else if let Some(framebuffer) = framebuffers.last_mut() {
            fill_framebuffer(framebuffer, line.trim());
        }
    }
    framebuffers
}

fn parse_files(text: &str) -> Vec<DeviceFile> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // The command may hold spaces; the columns after it are tgid dev master a uid magic.
            let at = (1..words.len()).find(|&i| {
                words[i].parse::<i32>().is_ok()
                    && words.get(i + 2).is_some_and(|word| *word == "y" || *word == "n")
            })?;
            Some(DeviceFile {
                command: words[..at].join(" "),
                pid: words[at].parse().ok()?,
                master: words[at + 2] == "y",
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = "plane[35]: plane-0\n\tcrtc=crtc-0\n\tfb=78\n\t\tallocated by = primeway\n\t\trefcount=3\n\
        \t\tformat=XR24 little-endian (0x34325258)\n\t\tmodifier=0x0\n\t\tsize=1024x768\n\t\tlayers:\n\
        \t\t\tsize[0]=1024x768\n\t\t\tpitch[0]=4096\n\t\t\toffset[0]=0\n\t\t\tobj[0]:\n\t\t\t\tname=0\n\
        \t\t\t\trefcount=3\n\t\t\t\tstart=00010000\n\t\t\t\tsize=3145728\n\t\t\t\timported=no\n\
        \tcrtc-pos=1024x768+0+0\n\tsrc-pos=1024.000000x768.000000+0.000000+0.000000\n\trotation=1\n\
        plane[40]: plane-1\n\tcrtc=crtc-0\n\tfb=80\n\t\tallocated by = primeway\n\
        \t\tformat=NV12 little-endian (0x3231564e)\n\t\tmodifier=0x0\n\t\tsize=256x200\n\t\tlayers:\n\
        \t\t\tobj[0]:\n\t\t\t\timported=yes\n\t\t\tobj[1]:\n\t\t\t\timported=yes\n\tcrtc-pos=256x200-10+20\n\
        plane[45]: plane-2\n\tcrtc=(null)\n\tfb=0\n\tcrtc-pos=0x0+0+0\n\
        crtc[39]: crtc-0\n\tenable=1\nconnector[79]: Virtual-1\n\tcrtc=crtc-0\n";

    #[test]
    fn state_is_parsed() {
        let planes = parse_planes(STATE);
        assert_eq!(planes.len(), 3);
        assert_eq!(planes[0].rotation, 1);
        let primary = planes[0].framebuffer.clone().unwrap();
        assert_eq!((primary.id, primary.format.as_str(), primary.imported), (78, "XR24", false));
        assert_eq!(primary.size, [1024, 768]);
        assert_eq!(planes[1].position, [256, 200, -10, 20]);
        let overlay = planes[1].framebuffer.clone().unwrap();
        assert!(overlay.imported);
        assert_eq!(overlay.allocated_by, "primeway");
        assert_eq!(planes[2].crtc, None);
        assert_eq!(planes[2].framebuffer, None);
    }

    #[test]
    fn framebuffer_list_is_parsed() {
        let text = "framebuffer[78]:\n\tallocated by = primeway\n\tformat=AR24 little-endian (0x34325241)\n\
            \tmodifier=0x0\n\tsize=64x64\n\tlayers:\n\t\tobj[0]:\n\t\t\timported=yes\nframebuffer[80]:\n\tsize=1x2\n";
        let list = parse_framebuffers(text);
        assert_eq!(list.iter().map(|fb| fb.id).collect::<Vec<_>>(), [78, 80]);
        assert_eq!(list[0].format, "AR24");
        assert_eq!(list[1].size, [1, 2]);
    }

    #[test]
    fn clients_are_parsed() {
        let text = "             command  tgid dev master a   uid      magic    name   id\n\
                    \x20           primeway   112   1   y    y  1000          0  <unset>  3\n\
                    \x20   a b weston       99   1   n    y     0          1  <unset>  4\n";
        let files = parse_files(text);
        assert_eq!(files[0], DeviceFile { command: "primeway".into(), pid: 112, master: true });
        assert_eq!(files[1], DeviceFile { command: "a b weston".into(), pid: 99, master: false });
    }

    #[test]
    fn dmabuf_total_is_parsed() {
        let text = "Dma-buf Objects:\nsize\tflags\n00012288\t...\n\nTotal 3 objects, 36864 bytes\n";
        assert_eq!(parse_dmabufs(text), Some(3));
        assert_eq!(parse_dmabufs("nothing"), None);
    }

    #[test]
    fn crc_line_is_parsed() {
        assert_eq!(parse_crc("0x0000002a 0xdeadbeef\n").unwrap(), FrameCrc { frame: 42, crc: 0xdead_beef });
        assert!(parse_crc("nonsense").is_err());
    }
}
