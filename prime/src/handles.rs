//! [`HandleTable`]: one reference-counted entry per GEM handle of a file, and the only place that closes handles.
//! It does not know framebuffers or formats. See the crate's docs for why the count exists.
//!
//! One mutex spans {`FD_TO_HANDLE`, count up} and another spell of it {count down, `GEM_CLOSE`}: a table that unlocked
//! between the two halves would hand a dying handle to a concurrent import, or close the number's next owner.

use std::{
    collections::HashMap,
    fmt, io,
    num::NonZeroU32,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::io::Errno;

use crate::{
    Fault,
    device::{DumbAllocation, GemDevice},
    dmabuf::{DmabufId, is_dmabuf},
    exporter,
    origin::{self, Export, Origin},
};

/// A dma-buf could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The descriptor is no dma-buf. The client's fault.
    #[error("the descriptor is no dma-buf")]
    NotDmabuf {
        /// What the import said.
        #[source]
        source: io::Error,
    },
    /// The device does not take this exporter's memory (`DRM_CAP_PRIME` promises nothing).
    #[error("device {device:#x} does not import {dmabuf} from exporter {exporter:?}")]
    NotImportable {
        /// The dma-buf.
        dmabuf: DmabufId,
        /// `st_rdev` of the importing device.
        device: u64,
        /// The kernel's name for the exporter.
        exporter: Option<String>,
        /// The driver's errno.
        #[source]
        source: io::Error,
    },
    /// The system failed: memory, descriptors, a device that went away.
    #[error("cannot {action} on device {device:#x}")]
    System {
        /// What was tried.
        action: &'static str,
        /// `st_rdev` of the importing device.
        device: u64,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
}

impl ImportError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotDmabuf { .. } => Fault::Client,
            Self::NotImportable { .. } => Fault::CannotScanOut,
            Self::System { .. } => Fault::System,
        }
    }
}

/// A handle could not be exported. Always the system's fault.
#[derive(Debug, thiserror::Error)]
#[error("cannot export handle {handle} of device {device:#x}")]
pub struct ExportError {
    /// The handle.
    pub handle: NonZeroU32,
    /// `st_rdev` of the device.
    pub device: u64,
    /// The kernel's errno.
    #[source]
    pub source: io::Error,
}

/// Errnos that say nothing about the buffer: it may be tried again, and is not refused for good.
pub(crate) fn is_system_errno(err: &io::Error) -> bool {
    const SYSTEM: &[Errno] = &[
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NODEV,
        Errno::NXIO,
        Errno::IO,
        Errno::INTR,
        Errno::AGAIN,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOTTY,
        Errno::BUSY,
        Errno::FAULT,
    ];
    err.raw_os_error().is_none_or(|raw| SYSTEM.iter().any(|errno| errno.raw_os_error() == raw))
}

/// One line of the ledger: a handle as the table sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandleEntry {
    /// The handle's number.
    pub handle: NonZeroU32,
    /// How many [`GemHandle`]s share it.
    pub references: usize,
    /// Where its memory first came from; never `Known`.
    pub origin: Arc<Origin>,
    /// Its dma-buf, if it has been imported or exported.
    pub dmabuf: Option<DmabufId>,
}

/// What a table has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableStats {
    /// Handles open now.
    pub handles: usize,
    /// References on them.
    pub references: usize,
    /// Imports that succeeded, ever.
    pub imports: u64,
    /// Imports among them that met a handle the table already had.
    pub hits: u64,
    /// `GEM_CLOSE` calls, ever.
    pub closes: u64,
    /// Times the table found that somebody else closed one of its handles. Anything but 0 is a bug in the process.
    pub violations: u64,
}

struct Entry {
    references: usize,
    /// Told apart from an earlier owner of the same number.
    generation: u64,
    origin: Arc<Origin>,
    dmabuf: Option<DmabufId>,
}

#[derive(Default)]
struct State {
    entries: HashMap<NonZeroU32, Entry>,
    generation: u64,
    stats: TableStats,
}

impl State {
    fn insert(&mut self, handle: NonZeroU32, origin: Arc<Origin>, dmabuf: Option<DmabufId>) -> u64 {
        self.generation += 1;
        let generation = self.generation;
        self.entries.insert(handle, Entry { references: 1, generation, origin, dmabuf });
        generation
    }
}

struct Shared {
    id: u64,
    device: Arc<dyn GemDevice>,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handles of one file. Clones share the table; it lives until the last clone and the last handle are gone.
#[derive(Clone)]
pub struct HandleTable {
    shared: Arc<Shared>,
}

impl fmt::Debug for HandleTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleTable").field("device", &self.shared.device).finish_non_exhaustive()
    }
}

impl HandleTable {
    /// An empty table for a device. There must be one table per file; nothing else may close handles on it.
    #[must_use]
    pub fn new(device: Arc<dyn GemDevice>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::new(Shared { id, device, state: Mutex::default() }) }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn GemDevice> {
        &self.shared.device
    }

    /// Imports a dma-buf, or takes one more reference on the handle it already has here. The descriptor is not kept.
    ///
    /// # Errors
    /// [`ImportError`]; the table is unchanged.
    pub fn import(&self, fd: BorrowedFd<'_>) -> Result<GemHandle, ImportError> {
        let device = &self.shared.device;
        let system = |action, source| ImportError::System { action, device: device.dev_id(), source };
        let dmabuf = DmabufId::of(fd).map_err(|source| system("identify a dma-buf", source))?;
        let mut state = self.shared.lock();
        let handle = match device.prime_fd_to_handle(fd) {
            Ok(handle) => handle,
            Err(source) => {
                drop(state);
                return Err(self.import_failure(fd, dmabuf, source));
            }
        };
        state.stats.imports += 1;
        if let Some(entry) = state.entries.get_mut(&handle) {
            if entry.dmabuf.is_none_or(|known| known == dmabuf) {
                entry.dmabuf = Some(dmabuf);
                entry.references += 1;
                let generation = entry.generation;
                let origin = match &*entry.origin {
                    Origin::Owned => entry.origin.clone(),
                    _ => Arc::new(Origin::Known { first: entry.origin.clone() }),
                };
                state.stats.hits += 1;
                return Ok(self.guard(handle, generation, origin));
            }
            // The number now belongs to another buffer, so somebody else closed ours. The old guards keep their
            // generation and will not close it a second time.
            tracing::error!(%handle, old = ?entry.dmabuf, new = %dmabuf, "handle was closed behind the table's back");
            state.stats.violations += 1;
            if let Some(old) = state.entries.remove(&handle).and_then(|entry| entry.dmabuf) {
                origin::forget(old, self.shared.id, handle);
            }
        }
        let origin = Arc::new(match origin::find(dmabuf, self.shared.id) {
            Some(Export { dev, handle, .. }) => Origin::SameProcess { dmabuf, exporter: dev, handle },
            None => Origin::Foreign { dmabuf, exporter: exporter::exporter_name(fd).ok().flatten() },
        });
        let generation = state.insert(handle, origin.clone(), Some(dmabuf));
        tracing::debug!(%handle, %dmabuf, ?origin, "imported");
        Ok(self.guard(handle, generation, origin))
    }

    fn import_failure(&self, fd: BorrowedFd<'_>, dmabuf: DmabufId, source: io::Error) -> ImportError {
        let device = self.shared.device.dev_id();
        let unsuitable = [Errno::INVAL, Errno::BADF].map(|errno| Some(errno.raw_os_error()));
        if unsuitable.contains(&source.raw_os_error()) && !is_dmabuf(fd).unwrap_or(false) {
            return ImportError::NotDmabuf { source };
        }
        // virtio-gpu answers ENODEV to foreign buffers while the device is well: only an import says so, and
        // then the buffer is what the device does not take.
        let unwanted = source.raw_os_error() == Some(Errno::NODEV.raw_os_error());
        if is_system_errno(&source) && !unwanted {
            return ImportError::System { action: "import a dma-buf", device, source };
        }
        let exporter = exporter::exporter_name(fd).ok().flatten();
        ImportError::NotImportable { dmabuf, device, exporter, source }
    }

    /// Exports a handle as a dma-buf; for an import that is the dma-buf it came from. Exports of what was allocated
    /// here are remembered: an import by another table of this process is then [`Origin::SameProcess`].
    ///
    /// # Errors
    /// [`ExportError`]; the table is unchanged.
    pub fn export(&self, handle: &GemHandle) -> Result<OwnedFd, ExportError> {
        let mut state = self.shared.lock();
        let raw = handle.raw();
        let device = self.shared.device.dev_id();
        let failed = |source| ExportError { handle: raw, device, source };
        let entry = state.entries.get_mut(&raw).filter(|entry| {
            Arc::ptr_eq(&self.shared, &handle.inner.table) && entry.generation == handle.inner.generation
        });
        let Some(entry) = entry else { return Err(failed(Errno::NOENT.into())) };
        let fd = self.shared.device.prime_handle_to_fd(raw).map_err(failed)?;
        let dmabuf = DmabufId::of(std::os::fd::AsFd::as_fd(&fd)).map_err(failed)?;
        entry.dmabuf = Some(dmabuf);
        // The export of an import is the exporter's dma-buf, not ours.
        if matches!(*entry.origin, Origin::Owned) {
            origin::register(dmabuf, Export { table: self.shared.id, dev: device, handle: raw });
        }
        Ok(fd)
    }

    /// Allocates on the device and takes the handle over.
    pub(crate) fn allocate(
        &self,
        width: u32,
        height: u32,
        bpp: u32,
    ) -> io::Result<(GemHandle, DumbAllocation)> {
        let mut state = self.shared.lock();
        let allocation = self.shared.device.create_dumb(width, height, bpp)?;
        let handle = allocation.handle;
        if let Some(entry) = state.entries.remove(&handle) {
            tracing::error!(%handle, old = ?entry.dmabuf, "handle was closed behind the table's back");
            state.stats.violations += 1;
            if let Some(old) = entry.dmabuf {
                origin::forget(old, self.shared.id, handle);
            }
        }
        let origin = Arc::new(Origin::Owned);
        let generation = state.insert(handle, origin.clone(), None);
        Ok((self.guard(handle, generation, origin), allocation))
    }

    fn guard(&self, raw: NonZeroU32, generation: u64, origin: Arc<Origin>) -> GemHandle {
        GemHandle { origin, inner: Reference { table: self.shared.clone(), raw, generation } }
    }

    /// What the table has done, and holds now.
    #[must_use]
    pub fn stats(&self) -> TableStats {
        let state = self.shared.lock();
        let references = state.entries.values().map(|entry| entry.references).sum();
        TableStats { handles: state.entries.len(), references, ..state.stats }
    }

    /// All open handles, by number.
    #[must_use]
    pub fn entries(&self) -> Vec<HandleEntry> {
        let state = self.shared.lock();
        let mut entries: Vec<_> = state
            .entries
            .iter()
            .map(|(handle, entry)| HandleEntry {
                handle: *handle,
                references: entry.references,
                origin: entry.origin.clone(),
                dmabuf: entry.dmabuf,
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.handle);
        entries
    }
}

/// One counted reference on a handle. The last one to be dropped closes the handle.
#[derive(Clone)]
pub struct GemHandle {
    origin: Arc<Origin>,
    inner: Reference,
}

impl GemHandle {
    /// The handle's number, valid on the table's file while this value lives. Never close it.
    #[must_use]
    pub fn raw(&self) -> NonZeroU32 {
        self.inner.raw
    }

    /// Where the memory came from, as seen when this reference was obtained.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn shares_table_with(&self, table: &HandleTable) -> bool {
        Arc::ptr_eq(&self.inner.table, &table.shared)
    }
}

impl fmt::Debug for GemHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GemHandle").field("raw", &self.inner.raw).field("origin", &self.origin).finish()
    }
}

struct Reference {
    table: Arc<Shared>,
    raw: NonZeroU32,
    generation: u64,
}

impl Clone for Reference {
    fn clone(&self) -> Self {
        let mut state = self.table.lock();
        if let Some(entry) = state.entries.get_mut(&self.raw).filter(|e| e.generation == self.generation) {
            entry.references += 1;
        }
        drop(state);
        Self { table: self.table.clone(), raw: self.raw, generation: self.generation }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let mut state = self.table.lock();
        let handle = self.raw;
        let Some(entry) = state.entries.get_mut(&handle).filter(|e| e.generation == self.generation) else {
            return;
        };
        entry.references -= 1;
        if entry.references > 0 {
            return;
        }
        if let Some(dmabuf) = state.entries.remove(&handle).and_then(|entry| entry.dmabuf) {
            origin::forget(dmabuf, self.table.id, handle);
        }
        state.stats.closes += 1;
        // Still under the lock: once closed, the number may come back from the next import at any time.
        if let Err(err) = self.table.device.gem_close(handle) {
            state.stats.violations += 1;
            tracing::error!(%handle, %err, "handle was closed behind the table's back");
        }
    }
}

#[cfg(test)]
mod tests;
