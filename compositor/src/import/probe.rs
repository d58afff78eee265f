//! What is advertised is tried first: each pair of the planes and of the renderer, with one dumb buffer for all of them.
//!
//! ```text
//!  CREATE_DUMB ─┬─ for each LINEAR format of the planes: ADDFB2, one TEST_ONLY commit per output with every plane that
//!               │  lists it (one for each plane if that fails), CLOSEFB
//!               └─ HANDLE_TO_FD, for each LINEAR format of the renderer: taken in and drawn, 16x16 pixels
//! ```
//!
//! Outputs that are plugged in later are tried then. A pair that fails is taken out of the plane's capabilities, or is
//! not advertised; the log has all of them in one line. A pair with another modifier stays: there is no allocator for it
//! here, and a plan has a test commit of its own. In the lab (vkms, 26 formats on planes, 28 read by Pixman, unoptimized
//! build) it is about 90 ioctls and 13 ms; the log has the figures.
//!
//! Owns: what is tried and what follows from it. Does not own: the commits ([`crate::backend`]) and the drawing
//! ([`crate::render`]).

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::format::{self, FormatInfo};
use drm_prime::scanout::{PlaneCaps, PlaneType, Rect, SourceRect};
use drm_prime::{DumbBuffer, Fault, Framebuffer, FramebufferError, HandleTable, Layout, SharedFramebuffer};
use rustix::io::Errno;
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags};

use crate::backend::{Backend, Canvas, FrameSpec, OutputId, PlaneUpdate};
use crate::feedback::Pair;
use crate::render::{Painter, RenderError};

/// Pixels that overlays show in a test: even, and more than any display's least.
const OVERLAY: u32 = 64;
/// Pixels that the renderer draws.
const SAMPLE: u32 = 16;
/// Rows start at multiples of this many bytes, which every display and GPU can do with.
const ROW: u32 = 256;
/// What the memory holds. No format reads it as black.
const FILL: u8 = 0x3c;

/// Why a pair failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// No framebuffer.
    #[error(transparent)]
    Framebuffer(#[from] FramebufferError),
    /// The test commit.
    #[error("test commit: {0}")]
    Commit(Errno),
    /// The renderer.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// It drew nothing.
    #[error("drawn black")]
    Black,
}

impl Failure {
    /// Whether it says nothing about the pair.
    fn is_the_systems(&self) -> bool {
        match self {
            Self::Framebuffer(err) => err.fault() == Fault::System,
            Self::Commit(errno) => !matches!(
                *errno,
                Errno::INVAL | Errno::RANGE | Errno::NOENT | Errno::OPNOTSUPP | Errno::NOSPC
            ),
            Self::Render(_) | Self::Black => false,
        }
    }
}

/// A pair and who was asked about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    /// A plane, or else the renderer.
    plane: Option<NonZeroU32>,
    format: u32,
    modifier: u64,
}

impl Asked {
    fn new(plane: Option<NonZeroU32>, (format, modifier): Pair) -> Self {
        Self { plane, format: format as u32, modifier: modifier.into() }
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#x} on ", format::name(self.format), self.modifier)?;
        match self.plane {
            Some(plane) => write!(f, "plane {plane}"),
            None => write!(f, "the renderer"),
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
struct Findings {
    refused: Vec<(Asked, Failure)>,
    untried: BTreeSet<Asked>,
    tests: u32,
}

impl Findings {
    /// Notes a failure; says whether it is the pair's.
    fn failed(&mut self, asked: Asked, failure: Failure) -> bool {
        if failure.is_the_systems() {
            tracing::debug!(?asked, %failure, "not tried");
            self.untried.insert(asked);
            return false;
        }
        self.refused.push((asked, failure));
        true
    }
}

/// Tries what planes and renderer say they take. Takes what planes refuse out of their capabilities, and returns what
/// the renderer can do.
pub fn run(backend: &mut Backend, painter: &mut Painter) -> Vec<Pair> {
    let mut pairs = painter.formats();
    let all = backend.outputs();
    let mut first = true;
    for outputs in by_device(backend, all) {
        try_with(backend, &outputs, |backend, scratch, findings| {
            planes(backend, outputs.clone(), scratch, findings);
            if std::mem::take(&mut first) {
                renderer(painter, scratch, &mut pairs, findings);
            }
        });
    }
    if first {
        try_with(backend, &Vec::new(), |_, scratch, findings| {
            renderer(painter, scratch, &mut pairs, findings)
        });
    }
    pairs
}

/// Outputs with their sizes.
type Outputs = Vec<(OutputId, (u32, u32))>;

/// Those of each device: a framebuffer of one is none of another.
fn by_device(backend: &Backend, all: Outputs) -> Vec<Outputs> {
    let mut groups: Vec<(Option<u64>, Outputs)> = Vec::new();
    for output in all {
        let device = backend.device_of(output.0);
        match groups.iter_mut().find(|(known, _)| *known == device) {
            Some((_, group)) => group.push(output),
            None => groups.push((device, vec![output])),
        }
    }
    groups.into_iter().map(|(_, outputs)| outputs).collect()
}

/// Tries what the planes of outputs say they take that came later.
pub fn added(backend: &mut Backend, added: &[OutputId]) {
    let all = backend.outputs().into_iter().filter(|(output, _)| added.contains(output)).collect();
    for outputs in by_device(backend, all) {
        try_with(backend, &outputs, |backend, scratch, findings| {
            planes(backend, outputs.clone(), scratch, findings);
        });
    }
}

/// Has something tried and logs what comes of it.
fn try_with(
    backend: &mut Backend,
    outputs: &Outputs,
    attempt: impl FnOnce(&mut Backend, &Scratch, &mut Findings),
) {
    let (started, mut findings) = (Instant::now(), Findings::default());
    match Scratch::new(backend, outputs) {
        Ok(scratch) => attempt(backend, &scratch, &mut findings),
        Err(err) => tracing::info!(err = &err as &dyn std::error::Error, "no memory to try formats with"),
    }
    tracing::debug!(tests = findings.tests, took = ?started.elapsed(), "formats probed");
    if !findings.refused.is_empty() {
        let refused = findings.refused.iter().map(|(asked, why)| format!("{asked:?}: {why}"));
        tracing::warn!(refused = ?refused.collect::<Vec<_>>(), "formats that failed are not used");
    }
    if !findings.untried.is_empty() {
        tracing::debug!(untried = ?findings.untried, "formats that could not be tried are kept");
    }
}

/// One dumb buffer for every format.
struct Scratch {
    /// Of the device whose memory it is.
    table: HandleTable,
    memory: DumbBuffer,
    /// Pixels of the framebuffers: as many as the largest output, and even.
    size: (u32, u32),
}

impl Scratch {
    /// Memory of the device that shows `outputs`.
    fn new(backend: &Backend, outputs: &Outputs) -> Result<Self, drm_prime::DumbError> {
        let largest =
            outputs.iter().fold((OVERLAY, OVERLAY), |(w, h), (_, size)| (w.max(size.0), h.max(size.1)));
        let size = (largest.0.next_multiple_of(2), largest.1.next_multiple_of(2));
        let planes = outputs.iter().flat_map(|(output, _)| backend.planes(*output));
        let planes = planes.filter(|plane| plane.kind != PlaneType::Cursor);
        let linear = planes.flat_map(|plane| plane.formats.iter()).filter(is_linear);
        let bytes = linear.filter_map(|(code, _)| Some(layout(format::info(*code)?, size).1)).max();
        let bytes = bytes.unwrap_or(0).max(u64::from(ROW) * u64::from(SAMPLE) * 4);
        let width = size.0.next_multiple_of(ROW / 4);
        let rows = bytes.div_ceil(u64::from(width) * 4);
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let buffers = outputs.first().and_then(|(output, _)| backend.buffers_of(*output));
        let table = buffers.unwrap_or(backend.buffers()).table().owned_by("probe");
        let mut memory = table.create_dumb(width, rows, 32)?;
        let sample = (ROW * SAMPLE * 4) as usize;
        if !memory.mapping_mut().fill(0, sample, FILL) {
            tracing::error!("a dumb buffer is smaller than it was asked to be");
        }
        Ok(Self { table, memory, size })
    }

    fn framebuffer(&self, code: DrmFourcc) -> Result<SharedFramebuffer, FramebufferError> {
        let info = format::info(code).ok_or(FramebufferError::UnknownFormat { format: code })?;
        let (layout, _) = layout(info, self.size);
        let (width, height) = self.size;
        Framebuffer::for_dumb_planes(&self.table, &self.memory, code, width, height, &layout)
            .map(SharedFramebuffer::new)
    }

    /// The first rows as a small picture.
    fn sample(&self, fd: &OwnedFd, code: DrmFourcc) -> Option<Dmabuf> {
        let (layout, _) = layout(format::info(code)?, (SAMPLE, SAMPLE));
        let size = (SAMPLE as i32, SAMPLE as i32);
        let mut builder = Dmabuf::builder(size, code, DrmModifier::Linear, DmabufFlags::empty());
        for (plane, index) in layout.iter().zip(0..) {
            let fd = fd.as_fd().try_clone_to_owned().ok()?;
            builder.add_plane(fd, index, plane.offset, plane.stride);
        }
        builder.build()
    }
}

fn is_linear(pair: &&Pair) -> bool {
    pair.1 == DrmModifier::Linear
}

/// Planes one behind the other, and the bytes of all of them.
fn layout(info: &FormatInfo, (width, height): (u32, u32)) -> (Vec<Layout>, u64) {
    let mut end = 0;
    let planes = (0..info.plane_count()).map(|plane| {
        let stride = info.min_stride(plane, width).next_multiple_of(u64::from(ROW));
        let offset = end;
        end += stride * info.plane_rows(plane, height);
        let part = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        Layout { offset: part(offset), stride: part(stride) }
    });
    (planes.collect(), end)
}

/// What an output is tried with.
struct Bench {
    output: OutputId,
    size: (u32, u32),
    planes: Vec<PlaneCaps>,
    primary: NonZeroU32,
    /// For the primary plane while others are tried.
    target: SharedFramebuffer,
}

impl Bench {
    /// `None` if the output does not even take what it will always be shown.
    fn new(backend: &mut Backend, output: OutputId, size: (u32, u32)) -> Option<Self> {
        let mut planes = backend.planes(output).to_vec();
        planes.retain(|plane| plane.kind != PlaneType::Cursor);
        let primary = planes.iter().find(|plane| plane.kind == PlaneType::Primary)?.id;
        let target = backend.any_target(output, Canvas::Primary(size.0, size.1)).ok()?;
        let bench = Self { output, size, planes, primary, target };
        match backend.test(output, &bench.frame(&[], &bench.target)) {
            Ok(()) => Some(bench),
            Err(err) => {
                tracing::info!(%err, output, "the output takes no test commit: its formats are not tried");
                None
            }
        }
    }

    /// `planes` with the framebuffer that is tried; the primary plane has the whole output in any case.
    fn frame(&self, planes: &[NonZeroU32], tried: &SharedFramebuffer) -> FrameSpec {
        let update = |plane: NonZeroU32, buffer: &SharedFramebuffer, (w, h): (u32, u32)| {
            PlaneUpdate::new(plane, buffer.clone(), SourceRect::whole(w, h), Rect::new(0, 0, w, h))
        };
        let below = if planes.contains(&self.primary) { tried } else { &self.target };
        let mut spec =
            FrameSpec { planes: vec![update(self.primary, below, self.size)], ..FrameSpec::default() };
        let small = (OVERLAY.min(self.size.0), OVERLAY.min(self.size.1));
        let overlays = planes.iter().filter(|plane| **plane != self.primary);
        spec.planes.extend(overlays.map(|plane| update(*plane, tried, small)));
        spec
    }
}

fn planes(
    backend: &mut Backend,
    outputs: Vec<(OutputId, (u32, u32))>,
    scratch: &Scratch,
    findings: &mut Findings,
) {
    let benches: Vec<Bench> =
        outputs.into_iter().filter_map(|(output, size)| Bench::new(backend, output, size)).collect();
    findings.tests += benches.len() as u32;
    let all = || benches.iter().flat_map(|bench| bench.planes.iter().map(move |plane| (bench, plane)));
    let mut formats = BTreeSet::new();
    for (_, plane) in all() {
        for pair in plane.formats.iter() {
            if is_linear(&pair) {
                formats.insert(pair.0 as u32);
            } else {
                findings.untried.insert(Asked::new(Some(plane.id), *pair));
            }
        }
    }
    for code in formats.into_iter().filter_map(|code| DrmFourcc::try_from(code).ok()) {
        let pair = (code, DrmModifier::Linear);
        let lists = |plane: &&PlaneCaps| plane.formats.contains(&pair);
        let framebuffer = match scratch.framebuffer(code) {
            Ok(framebuffer) => framebuffer,
            Err(err) => {
                // The same for every plane, so that one of them says why.
                let mut takers =
                    all().filter(|(_, plane)| lists(plane)).map(|(bench, p)| (bench.output, p.id));
                let Some((output, first)) = takers.next() else { continue };
                if findings.failed(Asked::new(Some(first), pair), err.into()) {
                    backend.forbid(output, first, pair);
                    takers.for_each(|(output, plane)| backend.forbid(output, plane, pair));
                }
                continue;
            }
        };
        for bench in &benches {
            let takers: Vec<_> = bench.planes.iter().filter(lists).map(|plane| plane.id).collect();
            if takers.is_empty() {
                continue;
            }
            findings.tests += 1;
            if backend.test(bench.output, &bench.frame(&takers, &framebuffer)).is_ok() {
                continue;
            }
            for plane in takers {
                findings.tests += 1;
                let tested = backend.test(bench.output, &bench.frame(&[plane], &framebuffer));
                let Err(errno) = tested else { continue };
                if findings.failed(Asked::new(Some(plane), pair), Failure::Commit(errno)) {
                    backend.forbid(bench.output, plane, pair);
                }
            }
        }
    }
}

/// Takes out of `pairs` what the renderer cannot do.
fn renderer(painter: &mut Painter, scratch: &Scratch, pairs: &mut Vec<Pair>, findings: &mut Findings) {
    let fd = match scratch.memory.export() {
        Ok(fd) => fd,
        Err(err) => {
            tracing::info!(err = &err as &dyn std::error::Error, "no dma-buf to try the renderer with");
            findings.untried.extend(pairs.iter().map(|pair| Asked::new(None, *pair)));
            return;
        }
    };
    let mut failed = BTreeSet::new();
    for pair in pairs.iter() {
        let asked = Asked::new(None, *pair);
        let sample = scratch.sample(&fd, pair.0).filter(|_| is_linear(&pair));
        let Some(sample) = sample else {
            findings.untried.insert(asked);
            continue;
        };
        findings.tests += 1;
        let drawn = painter.try_out(&sample);
        painter.forget(&sample.weak());
        let failure = match drawn {
            Ok(true) => continue,
            Ok(false) => Failure::Black,
            Err(err) => err.into(),
        };
        if findings.failed(asked, failure) {
            failed.insert(asked);
        }
    }
    pairs.retain(|(code, modifier)| {
        let failed = |modifier| failed.contains(&Asked::new(None, (*code, modifier)));
        // Without a GPU an implicit layout is a linear one.
        let as_linear = *modifier == DrmModifier::Invalid && !painter.names_implicit(*code);
        !failed(if as_linear { DrmModifier::Linear } else { *modifier })
    });
}
