//! [`HandleTable`]: one reference-counted entry per GEM handle of a file, and the only place that closes handles.
//! It does not know formats, and of framebuffers only that they are open. See the crate's docs for why the count exists.
//!
//! One mutex, the gate, spans {`FD_TO_HANDLE`, count up} and another spell of it {take out of the books, `GEM_CLOSE`}: a table
//! that opened it between the two halves would hand a dying handle to a concurrent import, or close the number's next owner.
//!
//! An import can take long: the exporter's driver pins and maps its memory. So the gate is not the lock of the books, which
//! is never held over either call, and a thread that drops a handle does not wait at the gate: if it is shut, whoever is
//! inside closes the handle on its way out. What an import keeps waiting is other imports of what the table does not know;
//! [`HandleTable::try_import`] says so instead. (The kernel has a gate of its own, the file's `prime.lock`, and holds the
//! device's `object_name_lock` over the driver's import, so that a second file would not help.)
//!
//! # When the kernel is not asked
//!
//! Where the device says that an inode number names one dma-buf alone ([`GemDevice::identifies_dmabufs`]), a buffer that the
//! table knows is recognised by it, and `FD_TO_HANDLE` is spared. That is sound because the entry's handle keeps the dma-buf
//! alive, so that nothing else can have its number; the key goes in the same spell of the lock that closes the handle.
//!
//! The price: a handle that somebody else closed is not noticed by an import that does not ask. It is noticed when
//! the table's own close or export of it fails, when `ADDFB2` does not know it, and when its number or its dma-buf comes back
//! from the device under another name; all of them count as [`TableStats::violations`].

use std::{
    fmt, io,
    num::NonZeroU32,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::io::Errno;

use crate::{
    device::{DumbAllocation, GemDevice},
    dmabuf::{DmabufId, DmabufStat},
    exporter,
    ledger::{Clock, DescriptorEntry, FramebufferEntry, HandleEntry, Ledger, Owner},
    model::sync::{self, Mutex, MutexGuard},
    origin::{self, Export, Origin, Seen},
};

mod error;
mod state;

pub use error::{ExportError, ImportError};
pub(crate) use error::{is_one_of, is_system_errno};
use state::{Entry, State};

/// What a table has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableStats {
    /// Handles open now, with those that wait for the end of an import to be closed.
    pub handles: usize,
    /// References on them.
    pub references: usize,
    /// Framebuffers open now.
    pub framebuffers: usize,
    /// Handles and framebuffers among them that nobody wants any more and the device would not close.
    pub unclosed: usize,
    /// Imports that succeeded, ever.
    pub imports: u64,
    /// Imports among them that met a handle the table already had.
    pub hits: u64,
    /// Hits among them that were known by their identity, without asking the device.
    pub spared: u64,
    /// `GEM_CLOSE` calls that succeeded, ever.
    pub closes: u64,
    /// Times the table found that somebody else closed one of its handles or framebuffers. Anything but 0 is a bug in
    /// the process.
    pub violations: u64,
}

struct Shared {
    id: u64,
    device: Arc<dyn GemDevice>,
    clock: Clock,
    since: std::time::Duration,
    /// Held over every import and every close of a handle. Taken before `state`, if both are.
    gate: Mutex<()>,
    state: Mutex<State>,
}

/// The gate is shut behind the thread that has it.
type Gate<'a> = MutexGuard<'a, ()>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs between two changes that belong together.
        sync::lock(&self.state)
    }

    /// Strikes an entry whose handle somebody else closed. Its references keep their generation, count no more, and will
    /// not close the number's next owner.
    fn strike(&self, state: &mut State, handle: NonZeroU32) {
        state.stats.violations += 1;
        let Some(entry) = state.remove(handle) else { return };
        tracing::error!(%handle, dmabuf = ?entry.dmabuf, "handle was closed behind the table's back");
        self.forget_export(&entry, handle);
    }

    fn forget_export(&self, entry: &Entry, handle: NonZeroU32) {
        if let Some(dmabuf) = entry.dmabuf {
            origin::forget(dmabuf, self.id, handle);
        }
    }

    /// Closes the handle of an entry that was taken out of the books, or puts it back.
    fn close(&self, _gate: &Gate<'_>, handle: NonZeroU32, entry: Entry) {
        self.forget_export(&entry, handle);
        // Still behind the gate: once closed, the number may come back from the next import at any time.
        let outcome = self.device.gem_close(handle);
        let mut state = self.lock();
        match outcome {
            Ok(()) => state.stats.closes += 1,
            Err(err) if is_one_of(&err, &[Errno::INVAL, Errno::NOENT]) => {
                state.stats.violations += 1;
                tracing::error!(%handle, %err, "handle was closed behind the table's back");
            }
            Err(err) => {
                tracing::warn!(%handle, %err, "handle not closed, will be tried again");
                state.put_back(handle, entry);
            }
        }
    }

    /// Closes the handles that nobody holds any more.
    fn close_idle(&self, gate: &Gate<'_>) {
        loop {
            let idle = self.lock().take_idle();
            let Some((handle, entry)) = idle else { return };
            self.close(gate, handle, entry);
        }
    }

    /// Closes the handles that nobody holds any more, unless somebody is behind the gate: who does so on the way out.
    fn settle(&self) {
        // Looked at again after the gate was opened: a handle may have been dropped in front of it meanwhile.
        while self.lock().has_idle() {
            let Some(gate) = sync::try_lock(&self.gate) else { return };
            self.close_idle(&gate);
        }
    }

    fn close_unclosed(&self, gate: &Gate<'_>) {
        let (handles, framebuffers) = {
            let mut state = self.lock();
            if !state.has_unclosed() {
                return;
            }
            (state.take_unclosed(), state.take_unclosed_framebuffers())
        };
        for (handle, entry) in handles {
            self.close(gate, handle, entry);
        }
        for (id, serial) in framebuffers {
            let outcome = self.device.close_framebuffer(id);
            self.framebuffer_closed(&mut self.lock(), id, serial, outcome);
        }
    }

    /// Books the outcome of closing a framebuffer.
    fn framebuffer_closed(&self, state: &mut State, fb: NonZeroU32, serial: u64, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => state.remove_framebuffer(fb, serial),
            Err(err) if is_one_of(&err, &[Errno::NOENT]) => {
                state.stats.violations += 1;
                state.remove_framebuffer(fb, serial);
                tracing::error!(%fb, %err, "framebuffer was closed behind the table's back");
            }
            Err(err) => {
                tracing::warn!(%fb, %err, "framebuffer not closed, will be tried again");
                state.keep_framebuffer(fb, serial);
            }
        }
    }
}

/// The handles of one file. Clones share the table; it lives until the last clone and the last handle are gone.
///
/// The table owns every handle of its file, lends them as counted [`GemHandle`]s, and closes each at the last one's drop. It
/// owns no descriptor: [`import`](Self::import) borrows one, [`export`](Self::export) gives a new one away.
///
/// ```
/// use std::{os::fd::AsFd, sync::Arc};
/// use drm_prime::{HandleTable, model::{Driver, Machine, Node, Profile}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let machine = Machine::new(Profile::MODERN);
/// let buffer = machine.udmabuf(4096)?.into_owned()?;
/// let table = HandleTable::new(Arc::new(machine.add_device(Driver::vgem()).open(Node::Primary)?));
/// let first = table.owned_by("client 7").import(buffer.as_fd())?;
/// let second = table.owned_by("screen capture").import(buffer.as_fd())?;
/// assert_eq!(first.raw(), second.raw());
/// drop(first); // the handle stays open for the second
/// let ledger = table.ledger();
/// assert_eq!(ledger.handles[0].holders[0].owner.as_str(), "screen capture");
/// drop(second); // and is closed with it
/// assert_eq!((table.stats().handles, machine.census().handles), (0, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HandleTable {
    shared: Arc<Shared>,
    owner: Owner,
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
        Self::with_clock(device, Clock::default())
    }

    /// As [`HandleTable::new`], with a clock of one's own for the ages in the ledger.
    #[must_use]
    pub fn with_clock(device: Arc<dyn GemDevice>, clock: Clock) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let state = Mutex::new(State::new(device.identifies_dmabufs()));
        let since = clock.now();
        let gate = Mutex::new(());
        Self { shared: Arc::new(Shared { id, device, clock, since, gate, state }), owner: Owner::default() }
    }

    /// The same table; what is obtained through this value is held in the name of `owner`.
    #[must_use]
    pub fn owned_by(&self, owner: impl Into<Owner>) -> Self {
        Self { shared: self.shared.clone(), owner: owner.into() }
    }

    /// In whose name this value obtains handles.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The device. Closing its handles or framebuffers is the table's business alone.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn GemDevice> {
        &self.shared.device
    }

    /// Imports a dma-buf, or takes one more reference on the handle it already has here. The descriptor is not kept.
    ///
    /// # Errors
    /// [`ImportError`]; the table is unchanged.
    pub fn import(&self, fd: BorrowedFd<'_>) -> Result<GemHandle, ImportError> {
        self.import_stat(&self.stat(fd)?)
    }

    /// As [`HandleTable::import`], but does not wait while another thread imports something: `None` then.
    ///
    /// # Errors
    /// As [`HandleTable::import`].
    pub fn try_import(&self, fd: BorrowedFd<'_>) -> Result<Option<GemHandle>, ImportError> {
        self.try_import_stat(&self.stat(fd)?)
    }

    /// [`HandleTable::try_import`] for a descriptor that has been looked at already.
    ///
    /// # Errors
    /// As [`HandleTable::import`].
    pub fn try_import_stat(&self, stat: &DmabufStat<'_>) -> Result<Option<GemHandle>, ImportError> {
        if let Some(hit) = self.known(stat.id()) {
            return Ok(Some(hit));
        }
        let Some(gate) = sync::try_lock(&self.shared.gate) else { return Ok(None) };
        self.import_behind(gate, stat, true).map(Some)
    }

    /// Whether an import of that dma-buf would be answered without asking the device, so that it cannot take long.
    #[must_use]
    pub fn knows(&self, dmabuf: DmabufId) -> bool {
        self.shared.lock().of_dmabuf(dmabuf).is_some()
    }

    fn stat<'a>(&self, fd: BorrowedFd<'a>) -> Result<DmabufStat<'a>, ImportError> {
        let device = self.shared.device.dev_id();
        DmabufStat::of(fd).map_err(|source| ImportError::System {
            action: "identify a dma-buf",
            device,
            source,
        })
    }

    /// As [`HandleTable::import`] for a descriptor that has been looked at already, which saves the second look.
    ///
    /// # Errors
    /// As [`HandleTable::import`].
    pub fn import_stat(&self, stat: &DmabufStat<'_>) -> Result<GemHandle, ImportError> {
        match self.known(stat.id()) {
            Some(hit) => Ok(hit),
            None => self.import_behind(sync::lock(&self.shared.gate), stat, true),
        }
    }

    /// As [`HandleTable::import`], and the device is asked even if the table knows the answer: after it has denied one of
    /// the table's handles.
    pub(crate) fn import_again(&self, stat: &DmabufStat<'_>) -> Result<GemHandle, ImportError> {
        self.import_behind(sync::lock(&self.shared.gate), stat, false)
    }

    /// Closes what the device would not close before, unless somebody is behind the gate.
    fn try_close_unclosed(&self) {
        if let Some(gate) = sync::try_lock(&self.shared.gate) {
            self.shared.close_unclosed(&gate);
        }
        self.shared.settle();
    }

    /// One more reference on a handle that is known by its dma-buf.
    fn known(&self, dmabuf: DmabufId) -> Option<GemHandle> {
        let mut state = self.shared.lock();
        if state.has_unclosed() {
            drop(state);
            self.try_close_unclosed();
            state = self.shared.lock();
        }
        let handle = state.of_dmabuf(dmabuf)?;
        let hit = self.hit(&mut state, handle)?;
        state.stats.spared += 1;
        Some(hit)
    }

    fn import_behind(
        &self,
        gate: Gate<'_>,
        stat: &DmabufStat<'_>,
        by_identity: bool,
    ) -> Result<GemHandle, ImportError> {
        let shared = &*self.shared;
        shared.close_unclosed(&gate);
        // It may have been imported while we waited.
        let known = if by_identity { self.known(stat.id()) } else { None };
        let imported = match known {
            Some(hit) => Ok(hit),
            None => {
                shared.device.prime_fd_to_handle(stat.fd()).map(|handle| self.imported(handle, stat.id()))
            }
        };
        drop(gate);
        shared.settle();
        imported.map_err(|source| self.import_failure(stat.fd(), stat.id(), source))
    }

    /// Books what the device gave for a dma-buf. Behind the gate.
    fn imported(&self, handle: NonZeroU32, dmabuf: DmabufId) -> GemHandle {
        let shared = &*self.shared;
        let mut state = shared.lock();
        if let Some(known) = state.of_dmabuf(dmabuf).filter(|known| *known != handle) {
            // The device has another handle for a dma-buf whose handle we thought we had.
            shared.strike(&mut state, known);
        }
        match state.get(handle).map(|entry| entry.dmabuf.is_none_or(|known| known == dmabuf)) {
            Some(true) => {
                state.identify(handle, dmabuf);
                if let Some(hit) = self.hit(&mut state, handle) {
                    return hit;
                }
            }
            // The number now belongs to another buffer, so somebody else closed ours.
            Some(false) => shared.strike(&mut state, handle),
            None => {}
        }
        let export = if state.by_identity { origin::find(dmabuf, shared.id) } else { None };
        let seen = Seen::imported(dmabuf, export);
        let generation = state.insert(handle, seen, Some(dmabuf), &self.owner, shared.clock.now());
        state.stats.imports += 1;
        tracing::debug!(%handle, %dmabuf, "imported");
        self.guard(handle, generation, seen, false)
    }

    /// One more reference on a handle that is there.
    fn hit(&self, state: &mut State, handle: NonZeroU32) -> Option<GemHandle> {
        let entry = state.take(handle, &self.owner, self.shared.clock.now())?;
        let (generation, seen) = (entry.generation, entry.seen);
        state.stats.imports += 1;
        state.stats.hits += 1;
        Some(self.guard(handle, generation, seen, true))
    }

    fn import_failure(&self, fd: BorrowedFd<'_>, dmabuf: DmabufId, source: io::Error) -> ImportError {
        let device = self.shared.device.dev_id();
        let unsuitable = is_one_of(&source, &[Errno::INVAL, Errno::BADF]);
        if unsuitable && !self.shared.device.is_dmabuf(fd).unwrap_or(false) {
            return ImportError::NotDmabuf { source };
        }
        // virtio-gpu answers ENODEV to foreign buffers while the device is well: only an import says so, and
        // then the buffer is what the device does not take.
        if is_system_errno(&source) && !is_one_of(&source, &[Errno::NODEV]) {
            return ImportError::System { action: "import a dma-buf", device, source };
        }
        let exporter = exporter::exporter_name(fd).ok().flatten();
        ImportError::NotImportable { dmabuf, device, exporter, source }
    }

    /// Exports a handle as a dma-buf; for an import that is the dma-buf it came from. Exports of what was allocated
    /// here are remembered: an import by another table of this process is then [`Origin::SameProcess`].
    ///
    /// # Errors
    /// [`ExportError`]; the table is unchanged, unless somebody else has closed the handle (`ENOENT`).
    pub fn export(&self, handle: &GemHandle) -> Result<OwnedFd, ExportError> {
        let (shared, raw) = (&*self.shared, handle.raw());
        let failed = |source| ExportError { handle: raw, device: shared.device.dev_id(), source };
        let mut state = shared.lock();
        let entry = state
            .current(raw, handle.inner.generation)
            .filter(|_| Arc::ptr_eq(&self.shared, &handle.inner.table))
            .ok_or_else(|| failed(Errno::NOENT.into()))?;
        let (before, owned) = (entry.dmabuf, entry.seen == Seen::Owned);
        let fd = match shared.device.prime_handle_to_fd(raw) {
            Ok(fd) => fd,
            Err(source) => {
                if is_one_of(&source, &[Errno::NOENT]) {
                    shared.strike(&mut state, raw);
                }
                return Err(failed(source));
            }
        };
        let dmabuf = DmabufId::of(fd.as_fd()).map_err(failed)?;
        if before.is_some_and(|before| before != dmabuf) {
            shared.strike(&mut state, raw);
            return Err(failed(Errno::NOENT.into()));
        }
        state.identify(raw, dmabuf);
        // The export of an import is the exporter's dma-buf, not ours.
        if owned && state.by_identity {
            origin::register(dmabuf, Export { table: shared.id, dev: shared.device.dev_id(), handle: raw });
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
        let shared = &*self.shared;
        self.try_close_unclosed();
        let allocation = shared.device.create_dumb(width, height, bpp)?;
        let handle = allocation.handle;
        let mut state = shared.lock();
        if state.get(handle).is_some() {
            shared.strike(&mut state, handle);
        }
        let generation = state.insert(handle, Seen::Owned, None, &self.owner, shared.clock.now());
        Ok((self.guard(handle, generation, Seen::Owned, false), allocation))
    }

    fn guard(&self, raw: NonZeroU32, generation: u64, seen: Seen, known: bool) -> GemHandle {
        let inner = Reference { table: self.shared.clone(), raw, generation, owner: self.owner.clone() };
        GemHandle { seen, known: known && seen != Seen::Owned, origin: OnceLock::new(), inner }
    }

    /// Notes a framebuffer of this table's file. Returns what [`HandleTable::close_framebuffer`] needs to know.
    pub(crate) fn note_framebuffer(&self, entry: FramebufferEntry) -> u64 {
        let now = self.shared.clock.now();
        self.shared.lock().insert_framebuffer(entry.name.0, entry, now)
    }

    /// Closes a framebuffer, and leaves planes alone that show it.
    pub(crate) fn close_framebuffer(&self, id: NonZeroU32, serial: u64) {
        // Not under the lock: without CLOSEFB the call can wait for a vertical blank. The serial tells a number's owners
        // apart.
        let outcome = self.shared.device.close_framebuffer(id);
        self.shared.framebuffer_closed(&mut self.shared.lock(), id, serial, outcome);
    }

    /// Removes a framebuffer and turns off the planes that show it.
    pub(crate) fn remove_framebuffer(&self, id: NonZeroU32, serial: u64) -> io::Result<()> {
        self.shared.device.remove_framebuffer(id)?;
        self.shared.lock().remove_framebuffer(id, serial);
        Ok(())
    }

    /// Closes what the device would not close before, and returns how much is left. Imports and allocations do
    /// so, too.
    pub fn retry_closes(&self) -> usize {
        let gate = sync::lock(&self.shared.gate);
        self.shared.close_unclosed(&gate);
        drop(gate);
        self.shared.settle();
        self.shared.lock().stats().unclosed
    }

    /// What the table has done, and holds now.
    #[must_use]
    pub fn stats(&self) -> TableStats {
        self.shared.lock().stats()
    }

    /// All open handles, by number: the ledger's first part.
    #[must_use]
    pub fn entries(&self) -> Vec<HandleEntry> {
        self.shared.lock().handles(self.shared.clock.now())
    }

    /// Everything that is open now, with owners and ages. Costs no system call beyond reading the clock.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let (shared, now) = (&*self.shared, self.shared.clock.now());
        let age = now.saturating_sub(shared.since);
        let descriptor = |descriptor| DescriptorEntry { descriptor, owner: Owner::new("device"), age };
        let mut descriptors: Vec<_> = shared.device.descriptors().into_iter().map(descriptor).collect();
        descriptors.sort_unstable_by_key(|entry| entry.descriptor);
        let state = shared.lock();
        Ledger {
            device: shared.device.dev_id(),
            handles: state.handles(now),
            framebuffers: state.framebuffers(now),
            descriptors,
        }
    }
}

/// One counted reference on a handle. The last one to be dropped closes the handle.
#[derive(Clone)]
pub struct GemHandle {
    seen: Seen,
    /// The table had it already when this reference was obtained.
    known: bool,
    /// Once asked for.
    origin: OnceLock<Origin>,
    inner: Reference,
}

impl GemHandle {
    /// The handle's number, valid on the table's file while this value lives. Never close it.
    #[must_use]
    pub fn raw(&self) -> NonZeroU32 {
        self.inner.raw
    }

    /// Where the memory came from, as seen when this reference was obtained. The first question about foreign memory
    /// exports the handle for a moment to read the exporter's name; it stays `None` if that fails.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        self.origin.get_or_init(|| {
            let first = self.seen.origin(|dmabuf| self.exporter_name(dmabuf));
            if self.known { Origin::Known { first: Arc::new(first) } } else { first }
        })
    }

    /// In whose name the reference is held.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.inner.owner
    }

    /// Asks once for all references on the handle.
    fn exporter_name(&self, dmabuf: DmabufId) -> Option<String> {
        let Reference { table, raw, generation, .. } = &self.inner;
        let fd = {
            let state = table.lock();
            let entry = state.current(*raw, *generation)?;
            if let Some(exporter) = &entry.exporter {
                return exporter.clone();
            }
            table.device.prime_handle_to_fd(*raw).ok()?
        };
        // Somebody else may have closed the handle, and the number be another buffer's.
        let same = DmabufId::of(fd.as_fd()).ok()? == dmabuf;
        let name = if same { exporter::exporter_name(fd.as_fd()).ok()? } else { None };
        table.lock().name_exporter(*raw, *generation, name.clone());
        name
    }

    /// It is a handle of this table's file, not of another device.
    #[must_use]
    pub fn shares_table_with(&self, table: &HandleTable) -> bool {
        Arc::ptr_eq(&self.inner.table, &table.shared)
    }
}

impl fmt::Debug for GemHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GemHandle")
            .field("raw", &self.inner.raw)
            .field("known", &self.known)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

struct Reference {
    table: Arc<Shared>,
    raw: NonZeroU32,
    generation: u64,
    owner: Owner,
}

impl Clone for Reference {
    fn clone(&self) -> Self {
        let mut state = self.table.lock();
        if state.current(self.raw, self.generation).is_some() {
            // Its owner is a holder already, so no time is needed.
            state.take(self.raw, &self.owner, self.table.since);
        }
        drop(state);
        Self {
            table: self.table.clone(),
            raw: self.raw,
            generation: self.generation,
            owner: self.owner.clone(),
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let last = self.table.lock().give_back(self.raw, self.generation, &self.owner);
        if last {
            self.table.settle();
        }
    }
}

#[cfg(test)]
mod tests;
