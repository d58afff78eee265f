//! A display device without a session: what it takes of whose memory, by format, modifier and plane.
//!
//! It owns the questions: an import, `ADDFB2`, and a test commit for each plane that lists the format, in that order, each
//! only if the one before it worked. Nothing is shown and nothing is changed. What is asked about, and how the answers are
//! told, is in [`crate::ctl::probe`].

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use drm::control::connector;
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{PlaneCaps, PlaneType, Rect, SourceRect};
use drm_prime::{
    BufferPlane, Dmabuf, ErrorChain, Fault, Framebuffer, FramebufferError, HandleTable, ImportError,
    SharedFramebuffer, exporting, format,
};
use rustix::io::Errno;

use super::device::kernel::Card;
use super::device::{CardError, KmsDevice as _};
use super::output::KmsOutput;
use super::plane::read_planes;
use crate::backend::buffers::Buffers;
use crate::backend::{Canvas, FrameSpec, PlaneUpdate};

/// Why a device cannot be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is none.
    #[error("no card under /dev/dri drives a display; name one with --device to see why")]
    NoDevice,
    /// The node does not open.
    #[error("{}: it does not open", node.display())]
    Open {
        /// The node.
        node: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The node is no display device.
    #[error("{}", node.display())]
    Card {
        /// The node.
        node: PathBuf,
        /// Why.
        source: CardError,
    },
    /// There is no file to import on.
    #[error("{}: no file for buffer imports", node.display())]
    Prime {
        /// The node.
        node: PathBuf,
        /// Why.
        source: drm_prime::DeviceError,
    },
}

/// What is asked about: a linear picture of that size, said to have that modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Pixels.
    pub size: (u32, u32),
    /// Its format.
    pub format: DrmFourcc,
    /// Its modifier.
    pub modifier: DrmModifier,
}

/// How far a picture in one exporter's memory got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The exporter gives no memory.
    NoMemory(String),
    /// The device does not import it.
    NotImported {
        /// The errno's text.
        errno: String,
        /// It was the system's fault rather than the memory's.
        system: bool,
    },
    /// No framebuffer can be made of it.
    NoFramebuffer(String),
    /// There is a framebuffer: what the planes say of it.
    Framebuffer(Vec<(NonZeroU32, PlaneAnswer)>),
}

/// What a plane says of a framebuffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaneAnswer {
    /// It would show it.
    Takes,
    /// The test commit failed.
    Refuses(Errno),
    /// It does not list the format with that modifier: it was not asked.
    NotListed,
    /// It could not be asked.
    NotAsked(NotAsked),
}

/// Why a plane could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    /// Test commits are the master's, and that is somebody else.
    #[error("another program is master of the device")]
    Busy,
    /// There is no mode to test with.
    #[error("nothing is connected")]
    NothingConnected,
}

/// A device that is being probed.
#[derive(Debug)]
pub struct Probe {
    /// Its node.
    pub node: PathBuf,
    /// Its driver.
    pub driver: String,
    /// Its file is master, so that planes can be asked.
    pub is_master: bool,
    /// The planes of its first display, or all of them without one.
    pub planes: Vec<PlaneCaps>,
    /// The display and its mode.
    pub display: Option<(String, (u32, u32))>,
    card: Rc<Card>,
    buffers: Buffers,
    output: Option<KmsOutput>,
}

impl Probe {
    /// Opens a node, or the first card that has a display.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn open(node: Option<&Path>) -> Result<Self, ProbeError> {
        if let Some(node) = node {
            return Self::open_node(node);
        }
        let mut first = None;
        for node in exporting::nodes("/dev/dri", "card") {
            match Self::open_node(&node) {
                Ok(probe) if probe.output.is_some() => return Ok(probe),
                Ok(probe) => first = first.or(Some(Ok(probe))),
                Err(ProbeError::Card { source: CardError::NoOutputs, .. }) => {}
                Err(err) => first = first.or(Some(Err(err))),
            }
        }
        first.unwrap_or(Err(ProbeError::NoDevice))
    }

    fn open_node(node: &Path) -> Result<Self, ProbeError> {
        let node = node.to_path_buf();
        let file = File::options().read(true).write(true).open(&node);
        let file = file.map_err(|source| ProbeError::Open { node: node.clone(), source })?;
        let card = Card::look_at(OwnedFd::from(file))
            .map_err(|source| ProbeError::Card { node: node.clone(), source })?;
        let found = display(&card).map_err(|source| ProbeError::Card { node: node.clone(), source })?;
        let buffers = Buffers::of_card(&*card, &node)
            .map_err(|source| ProbeError::Prime { node: node.clone(), source })?;
        let (planes, output) = found;
        let display = output.as_ref().map(|output| (output.name.clone(), output.mode.size()));
        let is_master = card.is_master();
        Ok(Self { driver: card.driver(), node, is_master, planes, display, card, buffers, output })
    }

    /// How the file for imports was got.
    pub fn acquisition(&self) -> &'static str {
        self.buffers.acquisition()
    }

    /// Everything here that makes memory, with a buffer that is large enough for all of the questions.
    pub fn exporters(&self, questions: &[Question]) -> Vec<exporting::Exporter> {
        let most = questions.iter().map(|question| layout(question).1).max().unwrap_or(4096);
        exporting::exporters(self.buffers.table(), &self.node, most.next_multiple_of(4096).max(4096))
    }

    /// Asks a question about memory.
    pub fn ask(&mut self, question: &Question, memory: BorrowedFd<'_>) -> Cell {
        let framebuffer = match framebuffer(self.buffers.table(), question, memory) {
            Ok(framebuffer) => SharedFramebuffer::new(framebuffer),
            Err(FramebufferError::Import { source, .. }) => return not_imported(&source),
            Err(err) => return Cell::NoFramebuffer(ErrorChain(&err).to_string()),
        };
        let planes: Vec<_> =
            self.planes.iter().map(|caps| (caps.id, caps.kind, caps.formats.clone())).collect();
        let answers = planes.into_iter().map(|(plane, kind, formats)| {
            let listed = formats.contains(&(question.format, question.modifier));
            let answer =
                if listed { self.ask_plane(plane, kind, &framebuffer) } else { PlaneAnswer::NotListed };
            (plane, answer)
        });
        Cell::Framebuffer(answers.collect())
    }

    fn ask_plane(&mut self, plane: NonZeroU32, kind: PlaneType, buffer: &SharedFramebuffer) -> PlaneAnswer {
        let Some(output) = &mut self.output else {
            return PlaneAnswer::NotAsked(NotAsked::NothingConnected);
        };
        if !self.is_master {
            return PlaneAnswer::NotAsked(NotAsked::Busy);
        }
        let mut spec = FrameSpec::default();
        if kind != PlaneType::Primary {
            let primary = self.planes.iter().find(|caps| caps.kind == PlaneType::Primary);
            let (w, h) = output.size();
            let (Some(primary), Ok(base)) =
                (primary, output.any_target(&self.buffers, Canvas::Primary(w, h)))
            else {
                return PlaneAnswer::NotAsked(NotAsked::NothingConnected);
            };
            spec.planes.push(whole(primary.id, base));
        }
        spec.planes.push(whole(plane, buffer.clone()));
        match output.test(&*self.card, &spec) {
            Ok(()) => PlaneAnswer::Takes,
            // It was taken away meanwhile.
            Err(Errno::ACCESS) => PlaneAnswer::NotAsked(NotAsked::Busy),
            Err(errno) => PlaneAnswer::Refuses(errno),
        }
    }
}

/// A buffer as it is, in the corner.
fn whole(plane: NonZeroU32, buffer: SharedFramebuffer) -> PlaneUpdate {
    let (w, h) = (buffer.width(), buffer.height());
    PlaneUpdate::new(plane, buffer, SourceRect::whole(w, h), Rect::new(0, 0, w, h))
}

/// The planes of the first display, and the output to test with; all planes where nothing is connected.
fn display(card: &Card) -> Result<(Vec<PlaneCaps>, Option<KmsOutput>), CardError> {
    let resources = card.resources().map_err(CardError::io("reading resources"))?;
    let mut planes = read_planes(card)?;
    for handle in &resources.connectors {
        let Ok(info) = card.connector(*handle, true) else { continue };
        let is_display = info.interface != connector::Interface::Writeback;
        let crtc = resources.crtcs_of(info.crtcs).next().filter(|_| info.connected && is_display);
        let Some(crtc) = crtc.filter(|_| !info.modes.is_empty()) else { continue };
        let index = resources.crtcs.iter().position(|c| *c == crtc).unwrap_or(0);
        planes.retain(|(_, caps)| caps.crtcs & (1 << index) != 0);
        let caps = planes.iter().map(|(_, caps)| caps.clone()).collect();
        return Ok((caps, Some(KmsOutput::new(card, &info, crtc, planes)?)));
    }
    Ok((planes.into_iter().map(|(_, caps)| caps).collect(), None))
}

/// A linear picture's planes one after the other, offset and stride each, and its bytes.
fn layout(question: &Question) -> (Vec<(u32, u32)>, u64) {
    let (mut planes, mut bytes) = (Vec::new(), 0);
    let Some(info) = format::info(question.format) else { return (planes, bytes) };
    let (width, height) = question.size;
    for plane in 0..info.plane_count() {
        let stride = info.min_stride(plane, width).next_multiple_of(64);
        let number = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
        planes.push((number(bytes), number(stride)));
        bytes += (stride * info.plane_rows(plane, height)).next_multiple_of(64);
    }
    (planes, bytes)
}

fn framebuffer(
    table: &HandleTable,
    question: &Question,
    memory: BorrowedFd<'_>,
) -> Result<Framebuffer, FramebufferError> {
    let fd = memory.as_fd();
    let planes: Vec<BufferPlane<'_>> =
        layout(question).0.into_iter().map(|(offset, stride)| BufferPlane { fd, offset, stride }).collect();
    let (width, height) = question.size;
    let buffer = Dmabuf::new(width, height, question.format, question.modifier, &planes)?;
    Framebuffer::new(table, &buffer, false)
}

fn not_imported(error: &ImportError) -> Cell {
    let source = match error {
        ImportError::NotDmabuf { source }
        | ImportError::NotImportable { source, .. }
        | ImportError::System { source, .. } => source,
    };
    let errno = source.raw_os_error().map(Errno::from_raw_os_error);
    let errno = errno.map_or_else(|| source.to_string(), drm_prime::errno_name);
    Cell::NotImported { errno, system: error.fault() == Fault::System }
}
