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
//! A `create` whose import may take its time goes to a thread for the middle part ([`Worker`]); everything else runs
//! through at once.
//!
//! The types are the order: each is made from the one before, and there is no other way to get it. What stops a buffer,
//! or a way to show it, is a [`Reason`] of its [`Rung`]; the last refusals are kept for `ctl` ([`Imports`]).
//!
//! A buffer is taken in if *one* way to show it is known to work. A page of a LINEAR buffer is mapped to see that the CPU can
//! read it; if it cannot, the GPU is asked for a texture; if that fails too, a plane has to list its pair and the device has
//! to make a framebuffer of it. A buffer that only planes can show is black where it would have to be composited: black
//! where its surface is opaque, nothing where it is not, and the surface's reason says so ([`crate::output`]). The pixels
//! of something else would be wrong, and what lies behind an opaque surface is not drawn at all.
//!
//! An implicit layout (INVALID) becomes LINEAR where the exporter is known to have no other. Any other implicit layout is for
//! the GPU alone: a framebuffer without modifier would have the display's driver guess.
//!
//! A buffer that was just destroyed and is described again skips all of this (`revive`).
//!
//! Owns: the pipeline and its reasons. Does not own: the protocol's rules, handles and framebuffers
//! ([`crate::backend::buffers`]), textures and views ([`crate::render`]).

pub mod probe;
mod reason;
mod revive;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::Rotation;
use drm_prime::{DmabufId, DmabufStat, GemHandle, HandleTable, Owner};
use primeway_protocols::linux_dmabuf::{BufferPlane, DmabufFile, DmabufParams, Flags};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags, WeakDmabuf};

pub use self::reason::{Reason, Refused, Rung, Ways};
use self::revive::{Counted, Ended};
pub use self::worker::Worker;

use crate::backend::Backend;
use crate::clients::ClientState;
use crate::render::{Painter, cpu};

/// Refusals that are remembered.
const REMEMBERED: usize = 16;

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who.
    pub owner: Owner,
    /// Fourcc as sent.
    pub format: u32,
    /// Modifier as sent.
    pub modifier: u64,
    /// Pixels.
    pub size: (i32, i32),
}

impl Asked {
    fn refused(self, why: impl Into<Refused>) -> Refusal {
        Refusal { asked: self, why: why.into() }
    }
}

/// A buffer that is no wl_buffer yet, counted against its client's quota.
#[derive(Debug)]
pub struct Candidate {
    asked: Asked,
    dmabuf: Dmabuf,
    reservation: Reservation,
}

impl Candidate {
    /// Looks at the description, the files, and the client's quota.
    ///
    /// # Errors
    /// Which of them stops it; nothing is left counted.
    pub fn new(
        client: Option<&Arc<ClientState>>,
        owner: Owner,
        params: DmabufParams,
        backend: &Backend,
    ) -> Result<Self, Refusal> {
        let (format, modifier, size) = (params.format, params.modifier, (params.width, params.height));
        let asked = Asked { owner, format, modifier, size };
        match Self::describe(client, params, backend) {
            Ok((dmabuf, reservation)) => Ok(Self { asked, dmabuf, reservation }),
            Err(reason) => Err(asked.refused(reason)),
        }
    }

    fn describe(
        client: Option<&Arc<ClientState>>,
        params: DmabufParams,
        backend: &Backend,
    ) -> Result<(Dmabuf, Reservation), Reason> {
        let client = client.ok_or(Reason::ClientGone)?;
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
        let reservation = Reservation::new(client, files)?;
        let flags = DmabufFlags::from_bits_truncate(params.flags.bits());
        let mut builder = Dmabuf::builder((params.width, params.height), format, modifier, flags);
        for (index, plane) in (0..).zip(params.planes) {
            builder.add_plane(plane.fd, index, plane.offset, plane.stride);
        }
        Ok((builder.build().ok_or(Reason::Planes)?, reservation))
    }

    /// Whether its import asks the device, which may take its time. What the table knows already does not.
    pub fn may_block(&self, table: &HandleTable) -> bool {
        !self.reservation.files.iter().all(|(id, _)| table.knows(*id))
    }

    /// Imports every plane and sees whether the CPU can read them. This is what may take its time: the exporter's
    /// driver is asked to share its memory.
    pub fn import(self, table: &HandleTable) -> Imported {
        let table = table.owned_by(self.asked.owner.clone());
        let handles: Result<Vec<_>, _> = self.stats().map(|stat| table.import_stat(&stat)).collect();
        self.imported(handles.map_err(Reason::Import))
    }

    /// The same, but does not wait while another thread imports something: the buffer is not imported then.
    pub fn import_unless_busy(self, table: &HandleTable) -> Imported {
        let table = table.owned_by(self.asked.owner.clone());
        let import = |stat: DmabufStat<'_>| {
            table.try_import_stat(&stat).map_err(Reason::Import)?.ok_or(Reason::DeviceBusy)
        };
        let handles: Result<Vec<_>, _> = self.stats().map(import).collect();
        self.imported(handles)
    }

    /// What is known of each plane's file.
    fn stats(&self) -> impl Iterator<Item = DmabufStat<'_>> {
        let known = |(fd, (id, size)): (_, &(DmabufId, u64))| DmabufStat::known(fd, *id, *size);
        self.dmabuf.handles().zip(&self.reservation.files).map(known)
    }

    fn imported(self, handles: Result<Vec<GemHandle>, Reason>) -> Imported {
        Imported {
            handles,
            cpu: cpu::check(&self.dmabuf, self.reservation.files.iter().map(|(_, size)| *size)),
            asked: self.asked,
            dmabuf: self.dmabuf,
            reservation: self.reservation,
        }
    }
}

/// The file that a buffer plane lies in, and its size.
fn memory(plane: &BufferPlane) -> Option<(DmabufId, u64)> {
    let DmabufFile { dev, ino, size } = plane.file?;
    Some((DmabufId { dev, ino }, size?))
}

/// A buffer whose memory was tried.
#[derive(Debug)]
pub struct Imported {
    asked: Asked,
    dmabuf: Dmabuf,
    handles: Result<Vec<GemHandle>, Reason>,
    cpu: Result<(), Reason>,
    reservation: Reservation,
}

impl Imported {
    /// Finds the ways to show it. Its handles stay open until it is forgotten.
    ///
    /// # Errors
    /// [`Refused::NoWay`]; nothing is left counted or open.
    pub fn accept(
        self,
        backend: &mut Backend,
        painter: &mut Painter,
        imports: &mut Imports,
        direct_scanout: bool,
    ) -> Result<Accepted, Refusal> {
        let Self { asked, dmabuf, handles, cpu, reservation } = self;
        let key = dmabuf.weak();
        let cpu = cpu.and_then(|()| painter.reads(&dmabuf));
        let gpu = cpu.is_err().then(|| painter.samples(&dmabuf));
        let composited = cpu.is_ok() || matches!(gpu, Some(Ok(())));
        let plane = match handles {
            Ok(handles) => {
                backend.buffers_mut().keep(&dmabuf, handles);
                if direct_scanout { plane(&dmabuf, backend, composited) } else { Err(Reason::Disabled) }
            }
            Err(reason) => {
                if matches!(reason, Reason::DeviceBusy) {
                    backend.buffers_mut().postpone(&dmabuf, asked.owner.clone());
                }
                Err(reason)
            }
        };
        let ways = Ways { plane, gpu, cpu };
        if !ways.any() {
            // What was tried with it is forgotten with the buffer.
            backend.forget_buffer(&key);
            painter.forget(&key);
            return Err(asked.refused(Refused::NoWay(Box::new(ways))));
        }
        if let Err(reason) = &ways.plane {
            tracing::debug!(reason = reason.text(), "buffer will not be scanned out");
        }
        if !ways.composited() {
            let reasons: Vec<_> = ways.reasons().map(Reason::text).collect();
            tracing::debug!(?reasons, "buffer can be shown by planes alone");
        }
        imports.accepted(key, ways);
        Ok(Accepted { dmabuf, counted: Counted { reservation, modifier: asked.modifier } })
    }
}

/// A buffer that can be shown.
#[derive(Debug)]
pub struct Accepted {
    dmabuf: Dmabuf,
    counted: Counted,
}

impl Accepted {
    /// The buffer, counted until its wl_buffer is destroyed ([`State::buffer_ended`](crate::state::State)).
    pub fn keep(self, imports: &mut Imports) -> Dmabuf {
        imports.counted.insert(self.dmabuf.weak(), self.counted);
        self.dmabuf
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
        backend.every_plane().any(|p| {
            p.formats.contains(&(code, format.modifier))
                && (!mirror || Rotation::REFLECT_Y.within(p.rotations).is_some())
        })
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

/// Planes and bytes counted against a client until it is dropped.
#[derive(Debug)]
struct Reservation {
    client: Arc<ClientState>,
    files: Vec<(DmabufId, u64)>,
}

impl Reservation {
    fn new(client: &Arc<ClientState>, files: Vec<(DmabufId, u64)>) -> Result<Self, Reason> {
        let mut usage = client.usage();
        let (planes, bytes) = (usage.planes + files.len() as u64, usage.bytes_with(&files));
        if planes > client.limits.buffers || bytes > client.limits.bytes {
            return Err(Reason::Quota { planes, bytes });
        }
        files.iter().for_each(|(file, size)| usage.add_plane(*file, *size));
        drop(usage);
        Ok(Self { client: client.clone(), files })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut usage = self.client.usage();
        self.files.iter().for_each(|(file, _)| usage.remove_plane(*file));
    }
}

/// A buffer that was not taken.
#[derive(Debug)]
pub struct Refusal {
    /// What was asked for.
    pub asked: Asked,
    /// Why it was not had.
    pub why: Refused,
}

/// What is known of the buffers that came.
#[derive(Debug, Default)]
pub struct Imports {
    ways: HashMap<WeakDmabuf, Ways>,
    /// Buffers whose wl_buffer is there.
    counted: HashMap<WeakDmabuf, Counted>,
    /// Those that were destroyed in this turn.
    ended: Ended,
    /// Buffers that came back, ever.
    revived: u64,
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
        let Refusal { asked: Asked { owner, format, modifier, size }, why } = &refusal;
        let format = drm_prime::format::name(*format);
        tracing::debug!(%owner, format, modifier, ?size, %why, "dma-buf refused");
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

    /// Buffers that came back after their wl_buffer was destroyed, ever (`revive`).
    #[must_use]
    pub fn revived(&self) -> u64 {
        self.revived
    }

    /// Buffers that were refused, ever, and the last of them, the newest first.
    pub fn refusals(&self) -> (u64, impl Iterator<Item = &Refusal>) {
        (self.refused, self.last.iter())
    }
}
