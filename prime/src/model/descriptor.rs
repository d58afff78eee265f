//! [`DmabufFd`]: what a descriptor of a dma-buf can do (dma-buf.c), and the sync files and mappings that come of it. The
//! buffer itself, and who else holds it, is in [`super::dmabuf`].

use std::sync::Arc;

use rustix::{event::PollFlags, io::Errno};

use super::{
    DmaBufKey, Machine, ObjectKey,
    dmabuf::{self, DmaBuf, PAGE_SIZE, get},
    event::EventKind,
    fault::FaultPoint,
    fence::{self, ImplicitAccess, Usage},
    memory::Access,
    object,
    sg::Page,
    sync,
    sync_file::{self, SyncFile},
};
use crate::Mapping;

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
        dmabuf::note_token(&mut machine.state(), key);
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
        Ok(Self::new(self.machine.clone(), self.key))
    }

    fn read<R>(&self, field: impl FnOnce(&DmaBuf) -> R) -> Option<R> {
        self.machine.state().dmabufs.get(self.key).map(field)
    }

    /// References on the dma-buf, as `count:` in `/proc/self/fdinfo`. Real descriptors are one for each description (see
    /// [`DmabufFd::into_owned`]).
    #[must_use]
    pub fn count(&self) -> u64 {
        let found = self.read(|dmabuf| {
            let inside = dmabuf.f_count as usize + dmabuf.poll.references();
            (inside, dmabuf.outside.clone())
        });
        found.map_or(0, |(inside, outside)| (inside + outside.map_or(0, |it| it.alive())) as u64)
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

    /// `kmap` or `kmap_atomic` of a page, as a driver in an old kernel calls it (S12).
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the exporter or the kernel has no such operation.
    pub fn kmap(&self, page: u64) -> Result<Option<Page>, Errno> {
        self.machine.call(|call| {
            let ops = call.state().dmabufs.get(self.key).map(|dmabuf| dmabuf.ops).ok_or(Errno::INVAL)?;
            let kmap = ops.kmap.filter(|_| call.has(super::SeedTrait::KmapStubs)).ok_or(Errno::OPNOTSUPP)?;
            Ok(kmap(call, self.key, page))
        })
    }

    /// `mmap`, shared: `len` bytes from `offset`. The mapping keeps the dma-buf, not this descriptor.
    ///
    /// # Errors
    /// `EINVAL` for no bytes, an offset that is no page multiple, a range past the end, and an exporter that cannot;
    /// `EACCES` for writing to what was exported for reading; `ENOMEM`, `EMFILE`.
    pub fn map(&self, offset: u64, len: usize, access: Access) -> Result<DmabufMap, Errno> {
        if len == 0 || !offset.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        let (object, memory, start) = self.machine.call(|call| {
            let (ops, size, writable) = {
                let state = call.state();
                let dmabuf = state.dmabufs.get(self.key).ok_or(Errno::BADF)?;
                (dmabuf.ops, dmabuf.size, dmabuf.writable)
            };
            if access == Access::ReadWrite && !writable {
                return Err(Errno::ACCESS);
            }
            let mmap = ops.mmap.ok_or(Errno::INVAL)?;
            let pages = (len as u64).div_ceil(PAGE_SIZE);
            if offset / PAGE_SIZE + pages > size / PAGE_SIZE {
                return Err(Errno::INVAL);
            }
            let start = mmap(call, self.key, offset)?;
            get(call, self.key)?;
            let mut state = call.state();
            dmabuf::note_token(&mut state, self.key);
            let memory = dmabuf::memory_of(&state, self.key).ok_or(Errno::INVAL)?;
            Ok((state.dmabufs.get(self.key).and_then(|dmabuf| dmabuf.object), memory, start))
        })?;
        let hold = Vma { machine: self.machine.clone(), dmabuf: self.key, object };
        let mapping = memory.map(start, len, access).map_err(|err| errno_of(&err))?;
        Ok(DmabufMap { mapping, _hold: hold })
    }

    /// `DMA_BUF_IOCTL_SYNC`. Waits for the buffer's fences at the begin of an access, however long that takes.
    ///
    /// # Errors
    /// `EINVAL` for flags of neither reading nor writing or unknown ones, and for the end of an access that never began where
    /// the exporter notices (udmabuf).
    pub fn sync(&self, flags: u64) -> Result<(), Errno> {
        let access = fence::sync_flags(flags)?;
        let pending = self.machine.call(|call| {
            let (ops, resv) = {
                let state = call.state();
                let dmabuf = state.dmabufs.get(self.key).ok_or(Errno::BADF)?;
                (dmabuf.ops, dmabuf.resv.clone())
            };
            let op = if access.is_some() { ops.begin_cpu_access } else { ops.end_cpu_access };
            if let Some(op) = op {
                op(call, self.key)?;
            }
            let resv = sync::lock(&resv.fences);
            Ok::<Vec<_>, Errno>(match access {
                Some(access) => resv.pending(Usage::awaited_by(access)).cloned().collect(),
                None => Vec::new(),
            })
        })?;
        for fence in pending {
            let _signalled = fence.wait(None);
        }
        Ok(())
    }

    /// `poll`, without waiting: `POLLIN` when all writers are done, `POLLOUT` when everybody is. One that finds a fence
    /// pending holds a reference until the fence signals.
    #[must_use]
    pub fn poll(&self, events: PollFlags) -> PollFlags {
        self.machine.call(|call| {
            let resv = call.state().dmabufs.get(self.key).map(|dmabuf| dmabuf.resv.clone());
            let Some(resv) = resv else { return PollFlags::ERR };
            let _resv = call.lock(&resv.lock);
            let fences = sync::lock(&resv.fences).clone();
            let mut state = call.state();
            state.dmabufs.get_mut(self.key).map_or(PollFlags::ERR, |dmabuf| dmabuf.poll.poll(&fences, events))
        })
    }

    /// `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`: what an access would have to wait for now.
    ///
    /// # Errors
    /// In this order: `ENOTTY` on kernels without it; `EINVAL` for flags; `EMFILE`; `ENOMEM`.
    pub fn export_sync_file(&self, flags: u32) -> Result<SyncFile, Errno> {
        let fences = self.machine.call(|call| {
            if call.state().no_sync_files {
                return Err(Errno::NOTTY);
            }
            let access = ImplicitAccess::from_sync_file_flags(flags)?;
            sync_file::with_fd(call, || {
                let resv = call.state().dmabufs.get(self.key).map(|dmabuf| dmabuf.resv.clone());
                call.fault(FaultPoint::SyncFileAlloc)?;
                let resv = resv.ok_or(Errno::BADF)?;
                let fences = sync::lock(&resv.fences).export(access);
                Ok(fences)
            })
        })?;
        Ok(SyncFile::new(self.machine.clone(), fences))
    }

    /// `DMA_BUF_IOCTL_IMPORT_SYNC_FILE`: lets others wait for its fences. `None` stands for a descriptor that is no sync file.
    ///
    /// # Errors
    /// In this order: `ENOTTY` on kernels without it; `EINVAL` for flags and for no sync file; `ENOMEM`.
    pub fn import_sync_file<'a>(
        &self,
        file: impl Into<Option<&'a SyncFile>>,
        flags: u32,
    ) -> Result<(), Errno> {
        self.machine.call(|call| {
            if call.state().no_sync_files {
                return Err(Errno::NOTTY);
            }
            let access = ImplicitAccess::from_sync_file_flags(flags)?;
            let file = file.into().ok_or(Errno::INVAL)?;
            let resv = call.state().dmabufs.get(self.key).map(|dmabuf| dmabuf.resv.clone());
            let resv = resv.ok_or(Errno::BADF)?;
            let _resv = call.lock(&resv.lock);
            call.fault(FaultPoint::ResvAlloc)?;
            sync::lock(&resv.fences).import(file.fences(), access);
            Ok(())
        })
    }
}

impl Drop for DmabufFd {
    fn drop(&mut self) {
        self.machine.call(|call| {
            call.state().descriptors -= 1;
            dmabuf::put_token(call, self.key);
        });
    }
}

pub(super) fn errno_of(err: &std::io::Error) -> Errno {
    Errno::from_io_error(err).unwrap_or(Errno::IO)
}

/// What a mapping holds: the dma-buf, and its exporter's object.
#[derive(Debug)]
struct Vma {
    machine: Machine,
    dmabuf: DmaBufKey,
    object: Option<ObjectKey>,
}

impl Drop for Vma {
    fn drop(&mut self) {
        self.machine.call(|call| {
            if let Some(object) = self.object {
                object::put(call, object);
            }
            dmabuf::put_token(call, self.dmabuf);
        });
    }
}

/// A mapping of a dma-buf.
#[derive(Debug)]
pub struct DmabufMap {
    // Dropped in this order: the bytes go before what holds them.
    mapping: Mapping,
    _hold: Vma,
}

impl DmabufMap {
    #[cfg(test)]
    pub(super) fn object(&self) -> Option<ObjectKey> {
        self._hold.object
    }

    /// The bytes.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The bytes, to write to.
    pub fn mapping_mut(&mut self) -> &mut Mapping {
        &mut self.mapping
    }
}
