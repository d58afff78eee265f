//! dma-bufs: a buffer's file, its references, and what a descriptor of it can do (dma-buf.c, udmabuf.c). The GEM exporter's
//! side is in [`super::prime`].

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    AttachmentKey, DmaBufKey, Machine, ObjectKey,
    attachment::{self, Direction, SgTableId},
    event::EventKind,
    fault::FaultPoint,
    object::Resv,
    syscall::Syscall,
};

/// What an exporter can do with its dma-bufs (`struct dma_buf_ops`). Two of them are the same exporter only if they are the
/// same value: that is how a driver knows its own buffers (row S14).
#[derive(Debug)]
pub struct DmabufOps {
    pub(super) exp_name: &'static str,
    pub(super) attach: Option<fn(&Syscall<'_>, DmaBufKey, AttachmentKey) -> Result<(), Errno>>,
    pub(super) detach: Option<fn(&Syscall<'_>, DmaBufKey, AttachmentKey)>,
    pub(super) map: fn(&Syscall<'_>, AttachmentKey, Direction) -> Result<Option<SgTableId>, Errno>,
    pub(super) unmap: fn(&Syscall<'_>, AttachmentKey, SgTableId, Direction),
    pub(super) release: fn(&Syscall<'_>, DmaBufKey),
    pub(super) vmap: Option<fn(&Syscall<'_>, DmaBufKey) -> Result<(), Errno>>,
    pub(super) vunmap: Option<fn(&Syscall<'_>, DmaBufKey)>,
}

impl DmabufOps {
    /// Whether two tables are one.
    pub(super) fn is(&'static self, other: &'static Self) -> bool {
        std::ptr::eq(self, other)
    }
}

#[derive(Debug)]
pub(super) struct DmaBuf {
    pub(super) ops: &'static DmabufOps,
    /// The exporter's object; it has none for udmabufs.
    pub(super) object: Option<ObjectKey>,
    /// References on the file.
    pub(super) f_count: u32,
    pub(super) size: u64,
    /// May be mapped for writing: fixed by the first export (row I6).
    pub(super) writable: bool,
    pub(super) inode: u64,
    pub(super) attachments: Vec<AttachmentKey>,
    pub(super) vmaps: u32,
    pub(super) resv: Arc<Resv>,
}

/// `dma_buf_export`: a new dma-buf with one reference.
pub(super) fn export(
    call: &Syscall<'_>,
    ops: &'static DmabufOps,
    object: Option<ObjectKey>,
    size: u64,
    writable: bool,
    resv: Arc<Resv>,
) -> Result<DmaBufKey, Errno> {
    call.fault(FaultPoint::DmabufAlloc)?;
    let mut state = call.state();
    state.inodes += 1;
    let inode = state.inodes;
    Ok(state.dmabufs.insert(DmaBuf {
        ops,
        object,
        f_count: 1,
        size,
        writable,
        inode,
        attachments: Vec::new(),
        vmaps: 0,
        resv,
    }))
}

/// `get_dma_buf`.
///
/// # Errors
/// The oops of reviving a file whose last reference is gone: possible through weak links only.
pub(super) fn get(call: &Syscall<'_>, key: DmaBufKey) -> Result<(), Errno> {
    let mut state = call.state();
    match state.dmabufs.get_mut(key) {
        Some(dmabuf) if dmabuf.f_count > 0 => {
            dmabuf.f_count += 1;
            Ok(())
        }
        _ => {
            drop(state);
            Err(call.oops("S10", "reference taken on a dma-buf that is being released"))
        }
    }
}

/// `dma_buf_put`: the release of the last reference waits for the end of the call.
pub(super) fn put(call: &Syscall<'_>, key: DmaBufKey) {
    let mut state = call.state();
    let Some(dmabuf) = state.dmabufs.get_mut(key).filter(|dmabuf| dmabuf.f_count > 0) else {
        state.report("S07", EventKind::WouldOops, "put of a released dma-buf");
        return;
    };
    dmabuf.f_count -= 1;
    if dmabuf.f_count == 0 {
        drop(state);
        call.defer_dmabuf(key);
    }
}

/// `dma_buf_release`, at the end of the call that put the last reference.
pub(super) fn release(call: &Syscall<'_>, key: DmaBufKey) {
    let ops = {
        let mut state = call.state();
        let Some(dmabuf) = state.dmabufs.get(key) else { return };
        let (ops, attached) = (dmabuf.ops, dmabuf.attachments.len());
        if attached > 0 {
            state.report("S10", EventKind::Warn, "dma-buf released while attached to");
        }
        ops
    };
    (ops.release)(call, key);
    call.state().dmabufs.remove(key);
}

/// A size in whole pages, as udmabuf demands.
pub(super) fn udmabuf_create(call: &Syscall<'_>, size: u64) -> Result<DmaBufKey, Errno> {
    const LIMIT: u64 = 64 << 20;
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) || size > LIMIT {
        return Err(Errno::INVAL);
    }
    let key = export(call, &UDMABUF_OPS, None, size, true, Resv::new())?;
    let reserved = call.state().reserve_fd();
    if let Err(errno) = reserved {
        put(call, key);
        return Err(errno);
    }
    Ok(key)
}

/// Bytes of a page.
pub(super) const PAGE_SIZE: u64 = 4096;

/// udmabuf.c: pages of a memfd.
static UDMABUF_OPS: DmabufOps = DmabufOps {
    exp_name: "udmabuf",
    attach: None,
    detach: None,
    map: |call, key, dir| {
        call.fault(FaultPoint::GetSgTable)?;
        attachment::dma_map(call, key, dir).map(Some)
    },
    unmap: |call, _, table, _| attachment::free_table(call, table),
    release: |_, _| {},
    vmap: Some(|call, _| call.fault(FaultPoint::Vmap)),
    vunmap: Some(|_, _| {}),
};

/// Whence a descriptor is sought from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// `SEEK_SET`.
    Set,
    /// `SEEK_CUR`.
    Current,
    /// `SEEK_END`.
    End,
}

/// A descriptor of a dma-buf. Closes when dropped.
#[derive(Debug)]
pub struct DmabufFd {
    machine: Machine,
    key: DmaBufKey,
}

impl DmabufFd {
    /// Takes over a reserved descriptor and the reference that goes with it.
    pub(super) fn new(machine: Machine, key: DmaBufKey) -> Self {
        Self { machine, key }
    }

    pub(super) fn key(&self) -> DmaBufKey {
        self.key
    }

    /// The machine it is a descriptor of.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// `dup`.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        self.machine.call(|call| {
            call.state().reserve_fd()?;
            get(call, self.key)
        })?;
        Ok(Self { machine: self.machine.clone(), key: self.key })
    }

    fn read<R>(&self, field: impl FnOnce(&DmaBuf) -> R) -> Option<R> {
        self.machine.state().dmabufs.get(self.key).map(field)
    }

    /// References on the dma-buf, as `count:` in `/proc/self/fdinfo`.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.read(|dmabuf| u64::from(dmabuf.f_count)).unwrap_or(0)
    }

    /// `st_ino`: never reused.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.read(|dmabuf| dmabuf.inode).unwrap_or(0)
    }

    /// `st_size`: bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.read(|dmabuf| dmabuf.size).unwrap_or(0)
    }

    /// Whether it may be mapped for writing (`O_RDWR`).
    #[must_use]
    pub fn writable(&self) -> bool {
        self.read(|dmabuf| dmabuf.writable).unwrap_or(false)
    }

    /// `exp_name:` in `/proc/self/fdinfo`.
    #[must_use]
    pub fn exporter_name(&self) -> &'static str {
        self.read(|dmabuf| dmabuf.ops.exp_name).unwrap_or("")
    }

    /// Whether two descriptors name one file (`KCMP_FILE`).
    #[must_use]
    pub fn same_file(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.machine.shared, &other.machine.shared) && self.key == other.key
    }

    /// `lseek`.
    ///
    /// # Errors
    /// `EINVAL` for anything but offset 0 from the start or the end.
    pub fn seek(&self, whence: Whence, offset: i64) -> Result<u64, Errno> {
        match (whence, offset) {
            (Whence::End, 0) => Ok(self.size()),
            (Whence::Set, 0) => Ok(0),
            _ => Err(Errno::INVAL),
        }
    }

    /// `dma_buf_vmap`, as a driver in the kernel calls it.
    ///
    /// # Errors
    /// `EINVAL` or `EOPNOTSUPP` if the exporter has none, `ENOMEM`.
    pub fn vmap(&self) -> Result<(), Errno> {
        self.machine.call(|call| {
            let (ops, resv, first) = {
                let state = call.state();
                let dmabuf = state.dmabufs.get(self.key).ok_or(Errno::INVAL)?;
                (dmabuf.ops, dmabuf.resv.clone(), dmabuf.vmaps == 0)
            };
            let _resv = call.lock(&resv.lock);
            let vmap = ops.vmap.ok_or(Errno::INVAL)?;
            if first {
                vmap(call, self.key)?;
            }
            if let Some(dmabuf) = call.state().dmabufs.get_mut(self.key) {
                dmabuf.vmaps += 1;
            }
            Ok(())
        })
    }

    /// `dma_buf_vunmap`; reports a [`EventKind::Warn`] if there is no mapping.
    pub fn vunmap(&self) {
        self.machine.call(|call| {
            let found = {
                let state = call.state();
                state.dmabufs.get(self.key).map(|dmabuf| (dmabuf.ops, dmabuf.resv.clone()))
            };
            let Some((ops, resv)) = found else { return };
            let _resv = call.lock(&resv.lock);
            let last = {
                let mut state = call.state();
                match state.dmabufs.get_mut(self.key).filter(|dmabuf| dmabuf.vmaps > 0) {
                    Some(dmabuf) => {
                        dmabuf.vmaps -= 1;
                        dmabuf.vmaps == 0
                    }
                    None => {
                        state.report("S11", EventKind::Warn, "vunmap without a vmap");
                        false
                    }
                }
            };
            if let (true, Some(vunmap)) = (last, ops.vunmap) {
                vunmap(call, self.key);
            }
        });
    }
}

impl Drop for DmabufFd {
    fn drop(&mut self) {
        self.machine.call(|call| {
            call.state().descriptors -= 1;
            put(call, self.key);
        });
    }
}
