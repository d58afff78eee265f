//! dma-bufs: a buffer's file, its references and its end (dma-buf.c), and the exporter that is no DRM device (udmabuf.c). The
//! GEM exporter's side is in [`super::prime`], what a descriptor can do in [`super::descriptor`].

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    AttachmentKey, DmaBufKey, ObjectKey, State,
    attachment::{self, Direction, SgTableId},
    escape,
    event::EventKind,
    fault::FaultPoint,
    fence::DmabufPoll,
    memory::{Memory, Outside, Placement},
    object::Resv,
    sg::Page,
    syscall::Syscall,
};
use crate::DmabufId;

/// What an exporter can do with its dma-bufs (`struct dma_buf_ops`). Two of them are the same exporter only if they are the
/// same value: that is how a driver knows its own buffers (row S14).
#[derive(Debug)]
pub struct DmabufOps {
    pub(super) exp_name: &'static str,
    pub(super) attach: Option<AttachOp>,
    pub(super) detach: Option<fn(&Syscall<'_>, DmaBufKey, AttachmentKey)>,
    pub(super) map: fn(&Syscall<'_>, AttachmentKey, Direction) -> Result<Option<SgTableId>, Errno>,
    pub(super) unmap: fn(&Syscall<'_>, AttachmentKey, SgTableId, Direction),
    pub(super) release: fn(&Syscall<'_>, DmaBufKey),
    pub(super) mmap: Option<MmapOp>,
    pub(super) vmap: Option<CallOp>,
    pub(super) vunmap: Option<fn(&Syscall<'_>, DmaBufKey)>,
    /// `kmap` and `kmap_atomic`, which are one function here.
    pub(super) kmap: Option<KmapOp>,
    pub(super) begin_cpu_access: Option<CallOp>,
    pub(super) end_cpu_access: Option<CallOp>,
}

type AttachOp = fn(&Syscall<'_>, DmaBufKey, AttachmentKey) -> Result<(), Errno>;
type CallOp = fn(&Syscall<'_>, DmaBufKey) -> Result<(), Errno>;
type KmapOp = fn(&Syscall<'_>, DmaBufKey, u64) -> Option<Page>;
/// Of `offset` bytes asked for, the answer says where in the memory the mapping really starts.
type MmapOp = fn(&Syscall<'_>, DmaBufKey, u64) -> Result<u64, Errno>;

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
    /// The pages of what has no object.
    pub(super) memory: Option<Arc<Memory>>,
    /// References on the file.
    pub(super) f_count: u32,
    pub(super) size: u64,
    /// May be mapped for writing: fixed by the first export (row I6).
    pub(super) writable: bool,
    pub(super) inode: u64,
    /// `O_NONBLOCK`.
    pub(super) nonblocking: bool,
    pub(super) attachments: Vec<AttachmentKey>,
    pub(super) vmaps: u32,
    /// Mapped for its own device by a first CPU access (udmabuf.c).
    cpu_mapped: bool,
    pub(super) poll: DmabufPoll,
    /// How many of the references are descriptors and mappings of the model.
    pub(super) tokens: u32,
    /// Its real descriptors.
    pub(super) outside: Option<Arc<Outside>>,
    /// What real descriptors of it are known by.
    pub(super) file_id: Option<DmabufId>,
    /// Its release is under way: nobody else begins one.
    released: bool,
    /// Only real descriptors keep it.
    pub(super) away: bool,
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
    escape::sweep_if_grown(call);
    let mut state = call.state();
    state.inodes += 1;
    let inode = state.inodes;
    Ok(state.dmabufs.insert(DmaBuf {
        ops,
        object,
        memory: None,
        f_count: 1,
        size,
        writable,
        inode,
        nonblocking: false,
        attachments: Vec::new(),
        vmaps: 0,
        cpu_mapped: false,
        poll: DmabufPoll::default(),
        tokens: 0,
        outside: None,
        file_id: None,
        released: false,
        away: false,
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
        Some(dmabuf) if dmabuf.f_count > 0 || dmabuf.away => {
            dmabuf.away = false;
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
    put_any(call, key, 0);
}

/// [`put`] of a reference that was a descriptor or a mapping.
pub(super) fn put_token(call: &Syscall<'_>, key: DmaBufKey) {
    put_any(call, key, 1);
}

/// Notes that a reference is a descriptor or a mapping.
pub(super) fn note_token(state: &mut State, key: DmaBufKey) {
    if let Some(dmabuf) = state.dmabufs.get_mut(key) {
        dmabuf.tokens += 1;
    }
}

fn put_any(call: &Syscall<'_>, key: DmaBufKey, tokens: u32) {
    let mut state = call.state();
    let Some(dmabuf) = state.dmabufs.get_mut(key).filter(|dmabuf| dmabuf.f_count > 0) else {
        state.report("S07", EventKind::WouldOops, "put of a released dma-buf");
        return;
    };
    dmabuf.tokens -= tokens.min(dmabuf.tokens);
    dmabuf.f_count -= 1;
    let (last, outside) = (dmabuf.f_count == 0, dmabuf.outside.clone());
    let kernel = dmabuf.f_count > dmabuf.tokens;
    drop(state);
    // Without references of its own the kernel no longer keeps the description, and sees it die.
    if let Some(outside) = outside.filter(|_| !kernel) {
        outside.keep(false);
    }
    if last {
        call.defer_dmabuf(key);
    }
}

/// Releases what only a waiting poll has kept, and no longer does.
pub(super) fn release_lingering(call: &Syscall<'_>) {
    loop {
        let found = {
            let mut state = call.state();
            let found = state
                .lingering
                .iter()
                .position(|key| state.dmabufs.get(*key).is_none_or(|dmabuf| dmabuf.poll.references() == 0));
            found.map(|at| state.lingering.remove(at))
        };
        let Some(key) = found else { return };
        release(call, key);
    }
}

/// `dma_buf_release`, at the end of the call that put the last reference, unless a waiting poll or a descriptor outside of the
/// model still holds one.
pub(super) fn release(call: &Syscall<'_>, key: DmaBufKey) {
    let outside = {
        let mut state = call.state();
        let Some(dmabuf) = state.dmabufs.get(key).filter(|dmabuf| dmabuf.f_count == 0) else { return };
        if dmabuf.poll.references() > 0 {
            state.lingering.push(key);
            return;
        }
        dmabuf.outside.clone()
    };
    let away = outside.is_some_and(|outside| outside.alive() > 0);
    let ops = {
        let mut state = call.state();
        let idle = |dmabuf: &&mut DmaBuf| dmabuf.f_count == 0 && !dmabuf.released;
        let Some(dmabuf) = state.dmabufs.get_mut(key).filter(idle) else { return };
        dmabuf.away = away;
        // A descriptor that came back and went again may have begun a second release of it.
        dmabuf.released = !away;
        let (ops, attached, id) = (dmabuf.ops, dmabuf.attachments.len(), dmabuf.file_id);
        if away {
            state.away.push(key);
            return;
        }
        if let Some(id) = id.filter(|id| state.escaped.get(id) == Some(&key)) {
            state.escaped.remove(&id);
        }
        // Cannot come while each importer holds a reference; the kernel looks all the same.
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
    let reserved = {
        let mut state = call.state();
        let memory = Memory::new(size, Placement::default(), &state.frames);
        if let Some(dmabuf) = state.dmabufs.get_mut(key) {
            dmabuf.memory = Some(Arc::new(memory));
        }
        state.reserve_fd()
    };
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
    map: attachment::map_pages,
    unmap: attachment::unmap_pages,
    release: |_, _| {},
    mmap: Some(|_, _, offset| Ok(offset)),
    vmap: Some(|call, _| call.fault(FaultPoint::Vmap)),
    vunmap: Some(|_, _| {}),
    kmap: None,
    begin_cpu_access: Some(|call, key| {
        call.fault(FaultPoint::GetSgTable)?;
        if let Some(dmabuf) = call.state().dmabufs.get_mut(key) {
            dmabuf.cpu_mapped = true;
        }
        Ok(())
    }),
    end_cpu_access: Some(|call, key| {
        let mapped = call.state().dmabufs.get(key).is_some_and(|dmabuf| dmabuf.cpu_mapped);
        if mapped { Ok(()) } else { Err(Errno::INVAL) }
    }),
};

/// What is behind a dma-buf: its own pages, or its object's.
pub(super) fn memory_of(state: &State, key: DmaBufKey) -> Option<Arc<Memory>> {
    let dmabuf = state.dmabufs.get(key)?;
    dmabuf.memory.clone().or_else(|| state.objects.get(dmabuf.object?)?.memory.clone())
}
