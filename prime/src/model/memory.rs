//! What lies behind a buffer: page numbers, a memfd made when somebody wants bytes or a real descriptor, and descriptors
//! handed out of the model into the world. It counts no references of the model's own: it tells which of the
//! descriptors it handed out are still alive somewhere, and their number is the dma-buf's to add.
//!
//! # How a descriptor is known to be alive
//!
//! Each descriptor that leaves is a new opening of the memfd (`/proc/self/fd/N`), so a file description of its own, and
//! holds a read lock on a byte of its own. Such a lock belongs to the description, and goes with the last descriptor and
//! the last mapping of it, in whatever process they are. Whether the byte is locked, asked from the memory's own
//! description, tells whether that descriptor, a duplicate or a mapping of it is alive (fcntl(2), "Open file description
//! locks").
//!
//! A holder can lie in both directions: it can drop the lock, and counts as gone, while its memory stays valid; and it
//! can take one, and counts as alive for as long as it lives. A write lock of a holder makes later exports of that
//! buffer fail with `EAGAIN`. All of it concerns buffers the holder has anyway.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags},
    io::Errno,
};

use super::sg::{PAGE_SIZE, Page};
use crate::{
    DmabufId, Mapping,
    dmabuf::{is_dmabuf, real_size},
    sys,
};

/// Longest run of contiguous frames of a scattered buffer.
const LONGEST_RUN: u64 = 8;
/// Longest gap between two runs, in frames.
const LONGEST_GAP: u64 = 3;

/// Whether a buffer's pages follow each other in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Placement {
    /// Runs of 1 to 8 contiguous pages with gaps of 1 to 3, as shmem might give them.
    #[default]
    Scattered,
    /// One run, as from a reserved area.
    Contiguous,
}

/// Gives out page frame numbers: the same in every run of the program, and never one twice.
#[derive(Debug)]
pub struct Frames(AtomicU64);

impl Default for Frames {
    fn default() -> Self {
        Self(AtomicU64::new(0x10_0000))
    }
}

impl Frames {
    /// Sets frames aside for `pages` pages, with room for the gaps, and returns the first.
    fn set_aside(&self, pages: u64) -> u64 {
        self.0.fetch_add(pages.saturating_mul(1 + LONGEST_GAP), Ordering::Relaxed)
    }
}

/// The memory of one buffer. Its bytes exist from the first call that needs them.
#[derive(Debug)]
pub struct Memory {
    /// In bytes; never 0.
    size: u64,
    first_frame: u64,
    placement: Placement,
    access: Access,
    /// The memory's own file description. It is never handed out, and holds no lock.
    file: OnceLock<Arc<OwnedFd>>,
    /// The next lock byte: no two descriptors of one memfd have the same.
    next_byte: AtomicU64,
}

/// What a descriptor lets its holder do with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// A mapping for writing is refused with `EACCES`.
    ReadOnly,
    /// All.
    ReadWrite,
}

impl Memory {
    /// Memory of `size` bytes, all zero. Makes no system call.
    #[must_use]
    pub fn new(size: u64, placement: Placement, frames: &Frames) -> Self {
        let first_frame = frames.set_aside(pages_of(size));
        Self {
            size,
            first_frame,
            placement,
            access: Access::ReadWrite,
            file: OnceLock::new(),
            next_byte: AtomicU64::new(0),
        }
    }

    /// Takes somebody else's memfd, or a dma-buf of the real kernel, as memory, through a duplicate of its descriptor.
    ///
    /// # Errors
    /// `EINVAL` for what is neither, can still shrink (its reader would get SIGBUS), has no bytes or cannot be read;
    /// `EBADF` for an `O_PATH` descriptor; the errno of the duplication.
    pub fn adopt(fd: BorrowedFd<'_>, frames: &Frames) -> Result<Self, Errno> {
        let (size, writable) = adoptable(fd)?;
        let own = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        Ok(Self {
            access: if writable { Access::ReadWrite } else { Access::ReadOnly },
            file: OnceLock::from(Arc::new(own)),
            ..Self::new(size, Placement::default(), frames)
        })
    }

    /// Whether [`Memory::adopt`] would take it.
    #[must_use]
    pub fn is_adoptable(fd: BorrowedFd<'_>) -> bool {
        adoptable(fd).is_ok()
    }

    /// Size in bytes; a page multiple unless it was adopted with another size.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the memory allows at most: foreign memory can be read-only.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Whether its bytes exist.
    #[must_use]
    pub fn is_materialised(&self) -> bool {
        self.file.get().is_some()
    }

    /// Its pages in order: contiguous runs and gaps, the same at every call.
    #[must_use]
    pub fn pages(&self) -> Vec<Page> {
        let count = pages_of(self.size);
        let mut pages = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let (mut frame, mut left, mut state) = (self.first_frame, count, self.first_frame);
        while left > 0 {
            let (run, gap) = match self.placement {
                Placement::Contiguous => (left, 0),
                Placement::Scattered => {
                    state = mix(state);
                    ((1 + state % LONGEST_RUN).min(left), 1 + (state >> 32) % LONGEST_GAP)
                }
            };
            pages.extend((frame..frame + run).map(Page));
            frame += run + gap;
            left -= run;
        }
        pages
    }

    /// Its bytes, made now if need be: a memfd that neither grows nor shrinks.
    ///
    /// # Errors
    /// The errno of making it (`EMFILE`, `ENFILE`, `ENOMEM`, `EFBIG`).
    pub fn file(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.own()?.as_fd())
    }

    fn own(&self) -> io::Result<&Arc<OwnedFd>> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = rustix::fs::memfd_create("prime", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, self.size)?;
        // The last seal keeps holders from adding one against writing, which would turn later mappings down.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // Whoever was first stays.
        Ok(self.file.get_or_init(|| Arc::new(file)))
    }

    /// Device and inode number by which a descriptor that comes back is known, however often it was duplicated or opened anew.
    ///
    /// # Errors
    /// As [`Memory::file`].
    pub fn id(&self) -> io::Result<DmabufId> {
        DmabufId::of(self.file()?)
    }

    /// Maps `len` bytes from `offset` (a page multiple).
    ///
    /// # Errors
    /// As [`Memory::file`]; `EACCES` for writing to what may only be read; `EINVAL` for `len` 0 or a range past the last page.
    pub fn map(&self, offset: u64, len: usize, access: Access) -> io::Result<Mapping> {
        let end = offset.checked_add(len as u64).ok_or(Errno::INVAL)?;
        if end > pages_of(self.size) * u64::from(PAGE_SIZE) {
            return Err(Errno::INVAL.into());
        }
        let writable = access == Access::ReadWrite;
        if writable && self.access == Access::ReadOnly {
            return Err(Errno::ACCESS.into());
        }
        Mapping::of_fd(self.file()?, offset, len, writable)
    }
}

/// Size in bytes, and whether it may be written.
fn adoptable(fd: BorrowedFd<'_>) -> Result<(u64, bool), Errno> {
    let mode = rustix::fs::fcntl_getfl(fd)?;
    if mode.contains(OFlags::PATH) {
        return Err(Errno::BADF);
    }
    let errno = |err: io::Error| Errno::from_io_error(&err).unwrap_or(Errno::IO);
    // A dma-buf has its size for life.
    let seals = match is_dmabuf(fd).map_err(errno)? {
        true => SealFlags::SHRINK,
        false => rustix::fs::fcntl_get_seals(fd)?,
    };
    let (mode, size) = (mode & OFlags::ACCMODE, real_size(fd).map_err(errno)?);
    if !seals.contains(SealFlags::SHRINK) || size == 0 || mode == OFlags::WRONLY {
        return Err(Errno::INVAL);
    }
    let sealed = seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE);
    Ok((size, mode == OFlags::RDWR && !sealed))
}

fn pages_of(size: u64) -> u64 {
    size.div_ceil(u64::from(PAGE_SIZE))
}

/// The next number of a fixed sequence (splitmix64).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The descriptors of one dma-buf that have left the model: makes them, and knows which are alive.
///
/// The access is the dma-buf's, fixed by its first export. While [`Outside::keep`] is on, all descriptors are duplicates of
/// one description, which the model holds, too: then they are one file to `kcmp` and share file flags as those of a real
/// dma-buf do, but whether one is alive outside cannot be told, and all of them count as one that is.
#[derive(Debug)]
pub struct Outside {
    access: Access,
    state: Mutex<OutsideState>,
}

#[derive(Debug, Default)]
struct OutsideState {
    /// The memory's own description, once a descriptor left.
    probe: Option<Arc<OwnedFd>>,
    /// The lock byte of each description that left and was alive when last asked, ascending.
    bytes: Vec<u64>,
    /// How many entries `bytes` may have before the next departure asks who is still alive.
    ask_at: usize,
    keep: bool,
    /// The description kept; its byte is among `bytes`.
    kept: Option<OwnedFd>,
}

/// Below this many descriptors out, a departure does not ask who is alive.
const ASK_FROM: usize = 16;

impl Outside {
    /// No descriptor yet; later ones will have this access.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self { access, state: Mutex::default() }
    }

    /// What the descriptors allow.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Makes a descriptor for the world, close-on-exec, and counts it until it and all its duplicates and mappings are gone.
    ///
    /// # Errors
    /// As [`Memory::file`]; `EMFILE`, `ENFILE`; `ENOENT` without /proc; `EACCES` if `memory` may not be opened this way;
    /// `EAGAIN` if a holder keeps a write lock on it.
    pub fn hand_out(&self, memory: &Memory) -> io::Result<OwnedFd> {
        let probe = memory.own()?;
        let mut state = self.lock();
        if let Some(kept) = &state.kept {
            return sys::dup(kept.as_fd());
        }
        if state.bytes.len() >= state.ask_at.max(ASK_FROM) {
            state.forget_the_dead();
            state.ask_at = 2 * state.bytes.len();
        }
        let mode = if self.access == Access::ReadWrite { OFlags::RDWR } else { OFlags::RDONLY };
        let path = format!("/proc/self/fd/{}", probe.as_raw_fd());
        let fd = rustix::fs::open(path, mode | OFlags::CLOEXEC, Mode::empty())?;
        let byte = memory.next_byte.fetch_add(1, Ordering::Relaxed);
        sys::lock_byte(fd.as_fd(), byte)?;
        if state.keep {
            state.kept = Some(sys::dup(fd.as_fd())?);
        }
        state.probe.get_or_insert_with(|| Arc::clone(probe));
        // Ascending: the lock has been held since the byte was taken.
        state.bytes.push(byte);
        Ok(fd)
    }

    /// Whether all later descriptors are to be one description, which the model keeps. Turning it off lets go of that
    /// description, so that it can be seen to die.
    pub fn keep(&self, keep: bool) {
        let mut state = self.lock();
        state.keep = keep;
        if !keep {
            state.kept = None;
        }
    }

    /// Whether a descriptor ever left.
    #[must_use]
    pub fn escaped(&self) -> bool {
        self.lock().probe.is_some()
    }

    /// How many of the descriptors that left are alive: one for each with all its duplicates and mappings; one for all that
    /// share a kept description, alive or not. Costs no system call when none is left, one when all have died since.
    ///
    /// A process that this one forks has them all until its exec, so that a death may be seen a moment late.
    #[must_use]
    pub fn alive(&self) -> usize {
        let mut state = self.lock();
        state.forget_the_dead();
        state.bytes.len()
    }

    fn lock(&self) -> MutexGuard<'_, OutsideState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutsideState {
    fn forget_the_dead(&mut self) {
        let Some(probe) = self.probe.as_ref() else { return };
        // An answer that does not come leaves them alive: better counted too long than freed too soon.
        let alive = |bytes: std::ops::Range<u64>| sys::locked_elsewhere(probe.as_fd(), bytes).unwrap_or(true);
        let (Some(first), Some(last)) = (self.bytes.first(), self.bytes.last()) else { return };
        if !alive(*first..last + 1) {
            self.bytes.clear();
        } else {
            self.bytes.retain(|byte| alive(*byte..byte + 1));
        }
    }
}

#[cfg(test)]
mod tests;
