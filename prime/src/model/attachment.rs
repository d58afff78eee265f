//! Attachments: an importing device's tie to a dma-buf, and the tables mapped through it (dma-buf.c, and the GEM side in
//! drm_prime.c). What an exporter does when attached is in its ops table.

use rustix::io::Errno;

use super::{
    AttachmentKey, Device, DeviceKey, DmaBufKey, Machine,
    arena::Key,
    dmabuf::{self, DmabufFd},
    event::EventKind,
    fault::FaultPoint,
    profile::SeedTrait,
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

/// A mapped scatter/gather table.
#[derive(Debug)]
pub(super) struct SgTable {
    /// The device it is mapped for.
    pub(super) device: DeviceKey,
    pub(super) dir: Direction,
}

/// Names one mapped table; equal for one and the same table only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SgTableId(pub(super) Key<SgTable>);

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
    if call.has(SeedTrait::CachedMapping) {
        return (ops.map)(call, key, dir);
    }
    let _resv = call.lock(&resv.lock);
    match (ops.map)(call, key, dir)? {
        None if call.has(SeedTrait::NullSgtUnchecked) => Ok(None),
        None => Err(Errno::NOMEM),
        table => Ok(table),
    }
}

/// `dma_buf_unmap_attachment_unlocked`.
pub(super) fn unmap(call: &Syscall<'_>, key: AttachmentKey, table: SgTableId, dir: Direction) {
    let Some((ops, resv)) = ops_of(call, key) else { return };
    if call.has(SeedTrait::CachedMapping) {
        return (ops.unmap)(call, key, table, dir);
    }
    let _resv = call.lock(&resv.lock);
    (ops.unmap)(call, key, table, dir);
}

type OpsAndResv = (&'static dmabuf::DmabufOps, std::sync::Arc<super::object::Resv>);

fn ops_of(call: &Syscall<'_>, key: AttachmentKey) -> Option<OpsAndResv> {
    let state = call.state();
    let dmabuf = state.dmabufs.get(state.attachments.get(key)?.dmabuf)?;
    Some((dmabuf.ops, dmabuf.resv.clone()))
}

/// Maps pages for a device (`dma_map_sgtable`).
pub(super) fn dma_map(call: &Syscall<'_>, key: AttachmentKey, dir: Direction) -> Result<SgTableId, Errno> {
    call.fault(FaultPoint::DmaMap)?;
    let mut state = call.state();
    let device = state.attachments.get(key).map(|it| it.device).ok_or(Errno::INVAL)?;
    Ok(SgTableId(state.tables.insert(SgTable { device, dir })))
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
    /// Maps the buffer for the device. `None` is a null pointer that went through unchecked (the seed).
    ///
    /// # Errors
    /// `EINVAL` for [`Direction::None`]; `EBUSY` for a second direction (the seed); `ENOMEM`; the exporter's errno.
    pub fn map(&self, dir: Direction) -> Result<Option<SgTableId>, Errno> {
        self.machine.call(|call| map(call, self.key, dir))
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
