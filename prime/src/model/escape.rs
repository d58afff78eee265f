//! dma-bufs and the world outside: real descriptors of a machine's buffers, how they come back, and foreign memory taken for
//! dma-bufs. Whether one that left is still alive is found out by [`super::memory`]; here its reference is counted.
//!
//! The model keeps the description it handed out while it holds the dma-buf itself, so that all descriptors of the
//! buffer are one file; then their end is not seen, and they count as one reference until the model's own are gone.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{fs::OFlags, io::Errno};

use super::{
    DmaBufKey, Machine, State, attachment,
    descriptor::{DmabufFd, errno_of},
    dmabuf::{self, DmabufOps},
    fault::FaultPoint,
    memory::{Access, Memory, Outside},
    object::Resv,
    syscall::Syscall,
};
use crate::DmabufId;

/// Somebody else's memory: a memfd, or a dma-buf of the real kernel.
static FOREIGN_OPS: DmabufOps = DmabufOps {
    exp_name: "foreign",
    attach: None,
    detach: None,
    map: attachment::map_pages,
    unmap: attachment::unmap_pages,
    release: |_, _| {},
    mmap: Some(|_, _, offset| Ok(offset)),
    vmap: Some(|call, _| call.fault(FaultPoint::Vmap)),
    vunmap: Some(|_, _| {}),
    kmap: None,
    begin_cpu_access: None,
    end_cpu_access: None,
};

/// Below this many dma-bufs the table is not looked through for dead ones.
const SWEEP_FROM: usize = 64;

impl Machine {
    /// Takes a memfd that cannot shrink, and a dma-buf of the real kernel, for a dma-buf of exporter `foreign`, where a descriptor
    /// is imported or received. Off at first; then, as always for other files, importing one is `EINVAL`.
    pub fn accept_foreign(&self, accept: bool) {
        self.state().accept_foreign = accept;
    }

    /// Takes a real descriptor into the machine: a buffer of its own that comes back, or foreign memory (see
    /// [`Machine::accept_foreign`]).
    ///
    /// # Errors
    /// `EBADF` for `O_PATH`; `EINVAL` for a file that is no buffer; `EMFILE`.
    pub fn receive(&self, fd: BorrowedFd<'_>) -> Result<DmabufFd, Errno> {
        let key = self.call(|call| {
            let key = find(call, fd)?;
            let reserved = call.state().reserve_fd();
            reserved.inspect_err(|_| dmabuf::put(call, key)).map(|()| key)
        })?;
        Ok(DmabufFd::new(self.clone(), key))
    }
}

/// Whether [`find`] would find or take it.
pub(super) fn is_buffer(machine: &Machine, fd: BorrowedFd<'_>) -> io::Result<bool> {
    let id = DmabufId::of(fd)?;
    let state = machine.state();
    Ok(state.escaped.contains_key(&id) || state.accept_foreign && Memory::is_adoptable(fd))
}

/// The dma-buf behind a real descriptor, with one more reference (`dma_buf_get`).
pub(super) fn find(call: &Syscall<'_>, fd: BorrowedFd<'_>) -> Result<DmaBufKey, Errno> {
    if rustix::fs::fcntl_getfl(fd)?.contains(OFlags::PATH) {
        return Err(Errno::BADF);
    }
    let id = DmabufId::of(fd).map_err(|err| errno_of(&err))?;
    if let Some(key) = known(&mut call.state(), id) {
        return Ok(key);
    }
    if !call.state().accept_foreign {
        return Err(Errno::INVAL);
    }
    let memory = {
        let state = call.state();
        Memory::adopt(fd, &state.frames).map_err(|_| Errno::INVAL)?
    };
    let (size, writable) = (memory.size(), memory.access() == Access::ReadWrite);
    let key = dmabuf::export(call, &FOREIGN_OPS, None, size, writable, Resv::new())?;
    let mut state = call.state();
    // Another thread may have been faster.
    if let Some(first) = known(&mut state, id) {
        state.dmabufs.remove(key);
        return Ok(first);
    }
    if let Some(dmabuf) = state.dmabufs.get_mut(key) {
        dmabuf.memory = Some(Arc::new(memory));
        dmabuf.file_id = Some(id);
    }
    state.escaped.insert(id, key);
    Ok(key)
}

/// A dma-buf by its memfd, with one more reference.
fn known(state: &mut State, id: DmabufId) -> Option<DmaBufKey> {
    let key = *state.escaped.get(&id)?;
    let dmabuf = state.dmabufs.get_mut(key)?;
    dmabuf.f_count += 1;
    dmabuf.away = false;
    Some(key)
}

impl DmabufFd {
    /// Makes a real descriptor of it, close-on-exec, which can be mapped, passed to other processes and imported again here.
    /// The buffer lives until that one, and all its duplicates and mappings, are gone.
    ///
    /// # Errors
    /// The errno of making it: `EMFILE`, `ENFILE`, `ENOMEM`; `ENOENT` without /proc.
    pub fn into_owned(self) -> io::Result<OwnedFd> {
        let key = self.key();
        let (memory, outside) = {
            let mut state = self.machine().state();
            let memory = dmabuf::memory_of(&state, key).ok_or(Errno::BADF)?;
            let dmabuf = state.dmabufs.get_mut(key).ok_or(Errno::BADF)?;
            if dmabuf.ops.is(&FOREIGN_OPS) {
                drop(state);
                return memory.file()?.try_clone_to_owned();
            }
            let access = if dmabuf.writable { Access::ReadWrite } else { Access::ReadOnly };
            let outside = dmabuf.outside.get_or_insert_with(|| Arc::new(Outside::new(access))).clone();
            outside.keep(dmabuf.f_count > dmabuf.tokens);
            (memory, outside)
        };
        let fd = outside.hand_out(&memory)?;
        let id = DmabufId::of(fd.as_fd())?;
        let mut state = self.machine().state();
        state.escaped.insert(id, key);
        if let Some(dmabuf) = state.dmabufs.get_mut(key) {
            dmabuf.file_id = Some(id);
        }
        drop(state);
        Ok(fd)
    }
}

/// Looks which of the dma-bufs that only descriptors outside keep are kept by none any more.
pub(super) fn sweep(call: &Syscall<'_>) {
    let away = std::mem::take(&mut call.state().away);
    for key in away {
        // Puts it back on the list if it is still alive.
        dmabuf::release(call, key);
    }
}

/// Sweeps when there are twice as many dma-bufs as the last sweep left.
pub(super) fn sweep_if_grown(call: &Syscall<'_>) {
    let grown = {
        let state = call.state();
        !state.away.is_empty() && state.dmabufs.len() >= state.sweep_at.max(SWEEP_FROM)
    };
    if grown {
        sweep(call);
        let mut state = call.state();
        state.sweep_at = 2 * state.dmabufs.len();
    }
}
