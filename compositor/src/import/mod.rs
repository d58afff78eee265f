//! A client's buffer on its way in, from what the protocol has checked to a buffer that can be shown.
//!
//! ```text
//!  DmabufParams ─> Candidate ───────> Imported ───────────> Dmabuf of a wl_buffer
//!   (protocol:      description,       PRIME handles or      ways to show it: plane, GPU, CPU;
//!    values, sizes,  files, quota       why not; the CPU's    refused only if there is none
//!    DMA_BUF_MAGIC)                     view of it
//!                    main thread        any thread            main thread
//! ```
//!
//! The types are the order: each is made from the one before, and there is no other way to get it. What stops a buffer,
//! or a way to show it, is a [`Reason`] of its [`Rung`]; the last refusals are kept for `ctl` ([`Imports`]).
//!
//! A buffer is taken in if *one* way to show it is known to work. A LINEAR buffer is mapped once to see that the CPU can
//! read it; if it cannot, the GPU is asked for a texture; if that fails too, a plane has to list its pair and the device has
//! to make a framebuffer of it. A buffer that only planes can show is black where it would have to be composited: black
//! where its surface is opaque, nothing where it is not, and the surface's reason says so ([`crate::output`]). The pixels
//! of something else would be wrong, and what lies behind an opaque surface is not drawn at all.
//!
//! An implicit layout (INVALID) becomes LINEAR where the exporter is known to have no other. Any other implicit layout is for
//! the GPU alone: a framebuffer without modifier would have the display's driver guess.
//!
//! Owns: the pipeline and its reasons. Does not own: the protocol's rules, handles and framebuffers
//! ([`crate::backend::buffers`]), textures and views ([`crate::render`]).

pub mod probe;
mod reason;

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::{GemHandle, HandleTable, Owner};
use primeway_protocols::linux_dmabuf::{BufferPlane, DmabufParams, Flags};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags, WeakDmabuf};

pub use self::reason::{Reason, Refused, Rung, Ways};

use crate::backend::Backend;
use crate::clients::{ClientState, FileId};
use crate::render::{Painter, cpu};

/// Refusals that are remembered.
const REMEMBERED: usize = 16;

/// A buffer that is no wl_buffer yet, counted against its client's quota.
#[derive(Debug)]
pub struct Candidate {
    dmabuf: Dmabuf,
    owner: Owner,
    reservation: Reservation,
}

impl Candidate {
    /// Looks at the description, the files, and the client's quota.
    ///
    /// # Errors
    /// Which of them stops it; nothing is left counted.
    pub fn new(
        client: &Arc<ClientState>,
        owner: Owner,
        params: DmabufParams,
        backend: &Backend,
    ) -> Result<Self, Reason> {
        if params.flags.intersects(Flags::Interlaced | Flags::BottomFirst) {
            return Err(Reason::Interlaced(params.flags));
        }
        let format = DrmFourcc::try_from(params.format).map_err(|_| Reason::UnknownFormat(params.format))?;
        let modifier = match DrmModifier::from(params.modifier) {
            // No modifier, from an exporter that knows nothing but plain rows.
            DrmModifier::Invalid
                if params.planes.iter().all(|p| backend.buffers().is_linear(p.fd.as_fd())) =>
            {
                DrmModifier::Linear
            }
            modifier => modifier,
        };
        let files = params.planes.iter().enumerate();
        let files = files.map(|(index, plane)| memory(plane).ok_or(Reason::NoSize(index)));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let reservation = Reservation::new(client, &files)?;
        let flags = DmabufFlags::from_bits_truncate(params.flags.bits());
        let mut builder = Dmabuf::builder((params.width, params.height), format, modifier, flags);
        for (index, plane) in (0..).zip(params.planes) {
            builder.add_plane(plane.fd, index, plane.offset, plane.stride);
        }
        let dmabuf = builder.build().ok_or(Reason::Planes)?;
        Ok(Self { dmabuf, owner, reservation })
    }

    /// Imports every plane and sees whether the CPU can read them. This is what may take its time: the exporter's
    /// driver is asked to share its memory.
    pub fn import(self, table: &HandleTable) -> Imported {
        let table = table.owned_by(self.owner);
        let handles: Result<Vec<_>, _> = self.dmabuf.handles().map(|fd| table.import(fd)).collect();
        Imported {
            handles: handles.map_err(Reason::Import),
            cpu: cpu::check(&self.dmabuf),
            dmabuf: self.dmabuf,
            reservation: self.reservation,
        }
    }
}

/// The file that a buffer plane lies in, and its size.
fn memory(plane: &BufferPlane) -> Option<(FileId, u64)> {
    let size = plane.size?;
    let stat = rustix::fs::fstat(&plane.fd).ok()?;
    Some(((stat.st_dev, stat.st_ino), size))
}

/// A buffer whose memory was tried.
#[derive(Debug)]
pub struct Imported {
    dmabuf: Dmabuf,
    handles: Result<Vec<GemHandle>, Reason>,
    cpu: Result<(), Reason>,
    reservation: Reservation,
}

impl Imported {
    /// Finds the ways to show it. The buffer stays counted until its wl_buffer is destroyed, and its handles stay open.
    ///
    /// # Errors
    /// [`Refused::NoWay`]; nothing is left counted or open.
    pub fn accept(
        self,
        backend: &mut Backend,
        painter: &mut Painter,
        imports: &mut Imports,
        direct_scanout: bool,
    ) -> Result<Dmabuf, Refused> {
        let Self { dmabuf, handles, cpu, reservation } = self;
        let key = dmabuf.weak();
        let cpu = cpu.and_then(|()| painter.reads(&dmabuf));
        let gpu = cpu.is_err().then(|| painter.samples(&dmabuf));
        let composited = cpu.is_ok() || matches!(gpu, Some(Ok(())));
        let plane = handles.and_then(|handles| {
            backend.buffers_mut().keep(&dmabuf, handles);
            if direct_scanout { plane(&dmabuf, backend, composited) } else { Err(Reason::Disabled) }
        });
        let ways = Ways { plane, gpu, cpu };
        if !ways.any() {
            // What was tried with it is forgotten with the buffer.
            backend.buffers_mut().forget(&key);
            painter.forget(&key);
            return Err(Refused::NoWay(Box::new(ways)));
        }
        if let Err(reason) = &ways.plane {
            tracing::debug!(reason = reason.text(), "buffer will not be scanned out");
        }
        if !ways.composited() {
            let reasons: Vec<_> = ways.reasons().map(Reason::text).collect();
            tracing::debug!(?reasons, "buffer can be shown by planes alone");
        }
        imports.accepted(key, ways);
        reservation.keep();
        Ok(dmabuf)
    }
}

/// Whether a plane can show a buffer that is imported. The framebuffer, which is made at first use, is made now if
/// nothing else could show the buffer.
fn plane(dmabuf: &Dmabuf, backend: &mut Backend, composited: bool) -> Result<(), Reason> {
    let format = dmabuf.format();
    if format.modifier == DrmModifier::Invalid {
        return Err(Reason::ImplicitLayout);
    }
    let opaque = drm_prime::format::info(format.code).and_then(|info| DrmFourcc::try_from(info.opaque?).ok());
    let takes = |code: DrmFourcc, mirror: bool| {
        backend
            .every_plane()
            .any(|p| p.formats.contains(&(code, format.modifier)) && (p.reflect_y || !mirror))
    };
    let takes_any = |mirror| takes(format.code, mirror) || opaque.is_some_and(|code| takes(code, mirror));
    if !takes_any(false) {
        return Err(Reason::NoPlane { format: format.code, modifier: format.modifier });
    }
    if !takes_any(dmabuf.y_inverted()) {
        return Err(Reason::NoReflectY);
    }
    if composited {
        return Ok(());
    }
    let buffers = backend.buffers_mut();
    let made = buffers.framebuffer(dmabuf, false).or_else(|_| buffers.framebuffer(dmabuf, true));
    made.map(|_| ()).map_err(Reason::Framebuffer)
}

/// Planes and bytes counted against a client for a buffer that is not there yet.
#[derive(Debug)]
struct Reservation {
    client: Arc<ClientState>,
    files: Vec<FileId>,
}

impl Reservation {
    fn new(client: &Arc<ClientState>, files: &[(FileId, u64)]) -> Result<Self, Reason> {
        let mut usage = client.usage();
        let (planes, bytes) = (usage.planes + files.len() as u64, usage.bytes_with(files));
        if planes > client.limits.buffers || bytes > client.limits.bytes {
            return Err(Reason::Quota { planes, bytes });
        }
        files.iter().for_each(|(file, size)| usage.add_plane(*file, *size));
        drop(usage);
        Ok(Self { client: client.clone(), files: files.iter().map(|(file, _)| *file).collect() })
    }

    /// Leaves it counted: the wl_buffer's end takes it back.
    fn keep(mut self) {
        self.files.clear();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            let mut usage = self.client.usage();
            self.files.iter().for_each(|file| usage.remove_plane(*file));
        }
    }
}

/// A buffer that was not taken.
#[derive(Debug)]
pub struct Refusal {
    /// Whose it was.
    pub owner: Owner,
    /// Its format, modifier, width and height, as the client gave them.
    pub asked: (u32, u64, i32, i32),
    /// Why.
    pub why: Refused,
}

/// What is known of the buffers that came.
#[derive(Debug, Default)]
pub struct Imports {
    ways: HashMap<WeakDmabuf, Ways>,
    refused: u64,
    last: VecDeque<Refusal>,
}

impl Imports {
    fn accepted(&mut self, key: WeakDmabuf, ways: Ways) {
        // Most buffers can be shown in any way, which needs no room.
        if ways.reasons().next().is_some() {
            self.ways.insert(key, ways);
        }
    }

    /// Notes a refusal, and logs it.
    pub fn refused(&mut self, refusal: Refusal) {
        let (format, modifier, width, height) = refusal.asked;
        let why = &refusal.why;
        let (owner, format) = (refusal.owner.as_str(), drm_prime::format::name(format));
        tracing::debug!(owner, format, modifier, width, height, %why, "dma-buf refused");
        self.refused += 1;
        self.last.truncate(REMEMBERED - 1);
        self.last.push_front(refusal);
    }

    /// Drops what is kept for a buffer that is gone.
    pub fn forget(&mut self, dmabuf: &WeakDmabuf) {
        self.ways.remove(dmabuf);
    }

    /// How a buffer can be shown; `None` if there is nothing against any way.
    #[must_use]
    pub fn ways(&self, dmabuf: &Dmabuf) -> Option<&Ways> {
        self.ways.get(&dmabuf.weak())
    }

    /// Buffers that were refused, ever, and the last of them, the newest first.
    pub fn refusals(&self) -> (u64, impl Iterator<Item = &Refusal>) {
        (self.refused, self.last.iter())
    }
}
