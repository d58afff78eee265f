//! [`Object`]: a GEM object, its reference count and its end (drm_gem.c). It does not know handles' numbers.

use std::sync::Arc;

use super::{
    AttachmentKey, DeviceKey, DmaBufKey, ObjectKey,
    attachment::SgTableId,
    event::EventKind,
    fence,
    lock::{LockClass, ModelLock},
    memory::Memory,
    prime,
    profile::SeedTrait,
    sync::Mutex,
    syscall::Syscall,
};

/// A reservation object: lock and fences of a buffer's memory, shared by all objects and dma-bufs on it.
#[derive(Debug)]
pub(super) struct Resv {
    pub(super) lock: ModelLock,
    pub(super) fences: Mutex<fence::Resv>,
}

impl Resv {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { lock: ModelLock::new(LockClass::Resv), fences: Mutex::new(fence::Resv::default()) })
    }
}

#[derive(Debug)]
pub(super) struct Object {
    pub(super) device: DeviceKey,
    pub(super) kref: u32,
    pub(super) handle_count: u32,
    /// Its global name (`GEM_FLINK`).
    pub(super) name: Option<u32>,
    /// Bytes; whole pages.
    pub(super) size: u64,
    /// Its pages; an import has none of its own.
    pub(super) memory: Option<Arc<Memory>>,
    /// Where an import hangs on its dma-buf.
    pub(super) import_attach: Option<AttachmentKey>,
    /// The table an import was made of.
    pub(super) sgt: Option<SgTableId>,
    /// Modern: a counted reference. [`SeedTrait::WeakExportLink`]: a plain pointer, `export_dma_buf`.
    pub(super) dma_buf: Option<DmaBufKey>,
    pub(super) pin_count: u32,
    pub(super) vmap_count: u32,
    pub(super) resv: Arc<Resv>,
}

impl Object {
    /// A new object with the creator's reference.
    pub(super) fn new(device: DeviceKey, size: u64, resv: Arc<Resv>) -> Self {
        Self {
            device,
            kref: 1,
            handle_count: 0,
            name: None,
            size,
            memory: None,
            import_attach: None,
            sgt: None,
            dma_buf: None,
            pin_count: 0,
            vmap_count: 0,
            resv,
        }
    }
}

/// Takes a reference on an object that something else keeps alive.
pub(super) fn get(call: &Syscall<'_>, key: ObjectKey) {
    if let Some(object) = call.state().objects.get_mut(key) {
        object.kref += 1;
    }
}

/// Gives a reference back; the last one frees.
pub(super) fn put(call: &Syscall<'_>, key: ObjectKey) {
    let locks = {
        let mut state = call.state();
        let Some(object) = state.objects.get_mut(key) else {
            state.report("S22", EventKind::WouldOops, "put of a freed object");
            return;
        };
        if object.kref > 1 {
            object.kref -= 1;
            return;
        }
        let device = object.device;
        if !call.has(SeedTrait::WeakExportLink) {
            object.kref = 0;
            drop(state);
            return free(call, key);
        }
        state.devices[device].locks.clone()
    };
    // The seed's last put goes through struct_mutex, and looks again under it.
    let _struct_mutex = call.lock(&locks.struct_mutex);
    let last = call.state().objects.get_mut(key).is_some_and(|object| {
        object.kref -= 1;
        object.kref == 0
    });
    if last {
        free(call, key);
    }
}

/// The driver's free callback: an import lets go of its dma-buf, memory goes.
fn free(call: &Syscall<'_>, key: ObjectKey) {
    let (import, sgt, as_import) = {
        let state = call.state();
        let Some(object) = state.objects.get(key) else { return };
        let driver = &state.devices[object.device].driver;
        (object.import_attach, object.sgt, driver.destroys_all_as_imports)
    };
    if import.is_some() || as_import {
        prime::gem_destroy(call, key, sgt);
    }
    let mut state = call.state();
    let Some(object) = state.objects.remove(key) else { return };
    // Cannot come while the last handle drops the link; the kernel looks all the same.
    if object.dma_buf.is_some() && !call.has(SeedTrait::WeakExportLink) {
        state.report("C1", EventKind::Warn, "object freed with a dma-buf linked");
    }
    if object.vmap_count > 0 {
        state.report("S11", EventKind::Warn, "object freed while mapped into the kernel");
    }
    if object.pin_count > 0 && object.import_attach.is_none() {
        state.report("S06", EventKind::Warn, "object freed while pinned");
    }
}
