//! Attachments: an importing device's tie to a dma-buf, and the tables mapped through it (dma-buf.c, and the GEM side in
//! drm_prime.c). What an exporter does when attached is in its ops table.

use rustix::io::Errno;

use super::{
    AttachmentKey, Device, DeviceKey, DmaBufKey, Machine,
    arena::Key,
    descriptor::DmabufFd,
    dmabuf,
    event::EventKind,
    fault::FaultPoint,
    memory::Memory,
    profile::SeedTrait,
    sg::{self, MinusOne, Page, SgBug, SgTable},
    syscall::Syscall,
};

/// Who moves data (`enum dma_data_direction`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Both ways: what imports of DRM drivers ask for.
    Bidirectional,
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
    /// None: no mapping.
    None,
}

#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) dmabuf: DmaBufKey,
    /// The importing device.
    pub(super) device: DeviceKey,
    /// The exporter's private data (the seed's).
    pub(super) private: Option<Key<PrimeAttachment>>,
}

/// What the seed remembers of an attachment: its one mapping.
#[derive(Debug)]
pub(super) struct PrimeAttachment {
    pub(super) sgt: Option<SgTableId>,
    pub(super) dir: Direction,
}

/// A scatter/gather table, mapped for a device.
#[derive(Debug)]
pub(super) struct MappedTable {
    dir: Direction,
    table: SgTable,
}

/// Names one mapped table; equal for one and the same table only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SgTableId(pub(super) Key<MappedTable>);

/// `dma_buf_attach`. The caller holds a reference on the dma-buf.
pub(super) fn attach(
    call: &Syscall<'_>,
    dmabuf: DmaBufKey,
    device: DeviceKey,
) -> Result<AttachmentKey, Errno> {
    call.fault(FaultPoint::AttachmentAlloc)?;
    let (key, ops, resv) = {
        let mut state = call.state();
        let key = state.attachments.insert(Attachment { dmabuf, device, private: None });
        let Some(it) = state.dmabufs.get(dmabuf) else { return Err(Errno::INVAL) };
        (key, it.ops, it.resv.clone())
    };
    if let Some(attach) = ops.attach
        && let Err(errno) = attach(call, dmabuf, key)
    {
        call.state().attachments.remove(key);
        return Err(errno);
    }
    let _resv = call.lock(&resv.lock);
    if let Some(it) = call.state().dmabufs.get_mut(dmabuf) {
        it.attachments.push(key);
    }
    Ok(key)
}

/// `dma_buf_detach`.
pub(super) fn detach(call: &Syscall<'_>, key: AttachmentKey) {
    let found = {
        let state = call.state();
        state.attachments.get(key).and_then(|it| {
            let dmabuf = state.dmabufs.get(it.dmabuf)?;
            Some((it.dmabuf, dmabuf.ops, dmabuf.resv.clone()))
        })
    };
    let Some((dmabuf, ops, resv)) = found else {
        call.report("S06", EventKind::WouldOops, "detach of a freed attachment");
        return;
    };
    {
        let _resv = call.lock(&resv.lock);
        if let Some(it) = call.state().dmabufs.get_mut(dmabuf) {
            it.attachments.retain(|other| *other != key);
        }
    }
    if let Some(detach) = ops.detach {
        detach(call, dmabuf, key);
    }
    call.state().attachments.remove(key);
}

/// `dma_buf_map_attachment_unlocked`. `None` is the null pointer that the seed lets through.
pub(super) fn map(
    call: &Syscall<'_>,
    key: AttachmentKey,
    dir: Direction,
) -> Result<Option<SgTableId>, Errno> {
    let Some((ops, resv)) = ops_of(call, key) else { return Err(Errno::INVAL) };
    // Before reservation objects the exporter locked for itself.
    let _resv = (!call.has(SeedTrait::CachedMapping)).then(|| call.lock(&resv.lock));
    match (ops.map)(call, key, dir)? {
        None if !call.has(SeedTrait::NullSgtUnchecked) => Err(Errno::NOMEM),
        table => Ok(table),
    }
}

/// `dma_buf_unmap_attachment_unlocked`.
pub(super) fn unmap(call: &Syscall<'_>, key: AttachmentKey, table: SgTableId, dir: Direction) {
    let Some((ops, resv)) = ops_of(call, key) else { return };
    let _resv = (!call.has(SeedTrait::CachedMapping)).then(|| call.lock(&resv.lock));
    (ops.unmap)(call, key, table, dir);
}

/// The map operation of exporters that only have pages.
pub(super) fn map_pages(
    call: &Syscall<'_>,
    key: AttachmentKey,
    dir: Direction,
) -> Result<Option<SgTableId>, Errno> {
    let memory = {
        let state = call.state();
        let dmabuf = state.attachments.get(key).map(|it| it.dmabuf).ok_or(Errno::INVAL)?;
        dmabuf::memory_of(&state, dmabuf).ok_or(Errno::INVAL)?
    };
    let table = get_sg_table(call, &memory)?;
    dma_map(call, key, table, dir).map(Some)
}

/// Its counterpart.
pub(super) fn unmap_pages(call: &Syscall<'_>, _: AttachmentKey, table: SgTableId, dir: Direction) {
    check_direction(call, table, dir);
    free_table(call, table);
}

/// Whether a table was mapped in this direction; a warning if not.
pub(super) fn check_direction(call: &Syscall<'_>, table: SgTableId, dir: Direction) {
    let mapped = call.state().tables.get(table.0).map(|mapped| mapped.dir);
    if mapped.is_some_and(|mapped| mapped != dir) {
        call.report("S09", EventKind::Warn, "table unmapped in another direction than it was mapped in");
    }
}

type OpsAndResv = (&'static dmabuf::DmabufOps, std::sync::Arc<super::object::Resv>);

fn ops_of(call: &Syscall<'_>, key: AttachmentKey) -> Option<OpsAndResv> {
    let state = call.state();
    let dmabuf = state.dmabufs.get(state.attachments.get(key)?.dmabuf)?;
    Some((dmabuf.ops, dmabuf.resv.clone()))
}

/// The exporter's callback (`get_sg_table`): a table of its pages (S25).
pub(super) fn get_sg_table(call: &Syscall<'_>, memory: &Memory) -> Result<SgTable, Errno> {
    call.fault(FaultPoint::GetSgTable)?;
    let pages = memory.pages();
    let mut allocate = |_| call.fault(FaultPoint::SgAlloc);
    if !call.has(SeedTrait::PagesOverflow) {
        return sg::pages_to_sg(&pages, 0, &mut allocate);
    }
    sg::pages_to_sg_seed(&pages, &mut allocate, &mut |bug| {
        call.report(bug.row(), EventKind::WouldOops, bug.to_string());
    })
}

/// Maps a table for the importing device (`dma_map_sgtable`); frees it if that fails.
pub(super) fn dma_map(
    call: &Syscall<'_>,
    key: AttachmentKey,
    mut table: SgTable,
    dir: Direction,
) -> Result<SgTableId, Errno> {
    call.fault(FaultPoint::DmaMap)?;
    let mut state = call.state();
    let device = state.attachments.get(key).map(|it| it.device).ok_or(Errno::INVAL)?;
    let dma = &mut state.devices[device].dma;
    if call.has(SeedTrait::CachedMapping) {
        // The count of mapped segments is looked at, and dropped: S26 walks the CPU's.
        if table.map_sg(dma) == 0 {
            return Err(Errno::NOMEM);
        }
    } else {
        table.map(dma)?;
    }
    Ok(SgTableId(state.tables.insert(MappedTable { dir, table })))
}

/// Frees a table (`sg_free_table`), unmapped or not.
pub(super) fn free_table(call: &Syscall<'_>, table: SgTableId) {
    let freed = call.state().tables.remove(table.0);
    if freed.is_none() {
        call.report("S06", EventKind::WouldOops, "scatter/gather table freed twice");
    }
}

/// A kernel driver's use of a dma-buf: attached, with a reference of its own. Detaches when dropped.
#[derive(Debug)]
pub struct Importer {
    machine: Machine,
    dmabuf: DmaBufKey,
    key: AttachmentKey,
}

impl DmabufFd {
    /// Attaches a device, as a driver's import callback does.
    ///
    /// # Errors
    /// `ENOMEM`; `ENOSYS` if the exporter has no table of pages (7.2); the exporter's errno of pinning.
    pub fn attach(&self, device: &Device) -> Result<Importer, Errno> {
        let (machine, dmabuf) = (self.machine().clone(), self.key());
        let key = machine.call(|call| {
            let key = attach(call, dmabuf, device.key)?;
            dmabuf::get(call, dmabuf)?;
            Ok::<_, Errno>(key)
        })?;
        Ok(Importer { machine, dmabuf, key })
    }
}

impl Importer {
    #[cfg(test)]
    pub(super) fn dmabuf(&self) -> DmaBufKey {
        self.dmabuf
    }

    #[cfg(test)]
    pub(super) fn key(&self) -> AttachmentKey {
        self.key
    }

    /// Maps the buffer for the device. `None` is a null pointer that went through unchecked (the seed).
    ///
    /// # Errors
    /// `EINVAL` for [`Direction::None`]; `EBUSY` for a second direction (the seed); `ENOMEM`; the exporter's errno.
    pub fn map(&self, dir: Direction) -> Result<Option<SgTableId>, Errno> {
        self.machine.call(|call| map(call, self.key, dir))
    }

    /// A look at a mapped table, if it is still there.
    #[must_use]
    pub fn table(&self, table: SgTableId) -> Option<SgTable> {
        self.machine.state().tables.get(table.0).map(|mapped| mapped.table.clone())
    }

    /// The pages and bus addresses of a mapped table, at most `max_pages` of them, as the machine's kernel works them out (S26).
    ///
    /// # Errors
    /// [`MinusOne`] if there are more.
    pub fn page_arrays(&self, table: SgTableId, max_pages: usize) -> Result<(Vec<Page>, Vec<u64>), MinusOne> {
        let found = self.table(table).ok_or(MinusOne)?;
        let (mut pages, mut addrs) = (vec![Page::default(); max_pages], vec![0; max_pages]);
        self.machine.call(|call| {
            let mut report = |bug: SgBug| {
                let kind = if bug.is_warning() { EventKind::Warn } else { EventKind::WouldOops };
                call.report(bug.row(), kind, bug.to_string());
            };
            if call.has(SeedTrait::AddrArrayUnderflow) {
                return sg::sg_to_page_addr_arrays(&found, &mut pages, Some(&mut addrs), &mut report);
            }
            sg::sg_to_page_array(&found, &mut pages, &mut report)?;
            sg::sg_to_dma_addr_array(&found, &mut addrs, &mut report)
        })?;
        Ok((pages, addrs))
    }

    /// Gives a mapping back.
    pub fn unmap(&self, table: SgTableId, dir: Direction) {
        self.machine.call(|call| unmap(call, self.key, table, dir));
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        self.machine.call(|call| {
            detach(call, self.key);
            dmabuf::put(call, self.dmabuf);
        });
    }
}
