//! PRIME proper (drm_prime.c): export, import, the GEM dma-buf ops and both ioctls, in the kernel's order of checks, locks
//! and unwinds. Where the two kernels differ each branch names its trait.

use rustix::io::Errno;

use super::{
    AttachmentKey, DeviceKey, DmaBufKey, FileKey, ObjectKey,
    arena::Key,
    attachment::{self, Direction, PrimeAttachment, SgTableId},
    cache::Member,
    device::{Driver, Import, Pin},
    dmabuf::{self, DmabufOps},
    event::EventKind,
    fault::FaultPoint,
    file::{DRM_CLOEXEC, DRM_RDWR},
    handles,
    object::{self, Object, Resv},
    profile::SeedTrait,
    sg::SgTable,
    syscall::Syscall,
};

/// The dma-bufs of drivers that use the PRIME helpers.
pub(super) static GEM_PRIME_OPS: DmabufOps = gem_ops("drm");

/// The same functions in a table of a driver's own: its buffers look foreign, to itself too.
pub static DRIVER_OPS: DmabufOps = gem_ops("driver");

const fn gem_ops(exp_name: &'static str) -> DmabufOps {
    DmabufOps {
        exp_name,
        attach: Some(map_attach),
        detach: Some(map_detach),
        map: map_dma_buf,
        unmap: unmap_dma_buf,
        release: dmabuf_release,
        mmap: Some(dmabuf_mmap),
        vmap: Some(dmabuf_vmap),
        vunmap: Some(dmabuf_vunmap),
        kmap: Some(|_, _, _| None),
        begin_cpu_access: None,
        end_cpu_access: None,
    }
}

/// The exporter behind an attachment or dma-buf of GEM ops.
struct Exporter {
    object: ObjectKey,
    driver: std::sync::Arc<super::Driver>,
    locks: std::sync::Arc<super::device::DeviceLocks>,
    resv: std::sync::Arc<Resv>,
}

fn exporter(call: &Syscall<'_>, dmabuf: DmaBufKey) -> Option<Exporter> {
    let state = call.state();
    let object = state.dmabufs.get(dmabuf)?.object?;
    let it = state.objects.get(object)?;
    let device = &state.devices[it.device];
    Some(Exporter {
        object,
        driver: device.driver.clone(),
        locks: device.locks.clone(),
        resv: it.resv.clone(),
    })
}

/// The driver's table of pages.
fn get_sg_table(call: &Syscall<'_>, exporter: &Exporter) -> Result<SgTable, Errno> {
    let memory = call.state().objects.get(exporter.object).and_then(|object| object.memory.clone());
    let memory = memory.ok_or(Errno::INVAL)?;
    attachment::get_sg_table(call, &memory)
}

/// The driver's pin callback.
fn pin(call: &Syscall<'_>, exporter: &Exporter) -> Result<(), Errno> {
    match exporter.driver.pin {
        Pin::Missing => Ok(()),
        Pin::Fails(errno) => Err(errno),
        Pin::Works => {
            call.fault(FaultPoint::Pin)?;
            if let Some(object) = call.state().objects.get_mut(exporter.object) {
                object.pin_count += 1;
            }
            Ok(())
        }
    }
}

fn unpin(call: &Syscall<'_>, exporter: &Exporter) {
    if exporter.driver.pin == Pin::Missing {
        return;
    }
    let mut state = call.state();
    match state.objects.get_mut(exporter.object).filter(|object| object.pin_count > 0) {
        Some(object) => object.pin_count -= 1,
        None => state.report("S06", EventKind::Warn, "unpin without a pin"),
    }
}

/// S05.
fn map_attach(call: &Syscall<'_>, dmabuf: DmaBufKey, key: AttachmentKey) -> Result<(), Errno> {
    let Some(exporter) = exporter(call, dmabuf) else { return Err(call.oops("S05", "exporter is gone")) };
    if !call.has(SeedTrait::CachedMapping) {
        if !exporter.driver.get_sg_table {
            return Err(Errno::NOSYS);
        }
        let _resv = call.lock(&exporter.resv.lock);
        return pin(call, &exporter);
    }
    call.fault(FaultPoint::PrivAlloc)?;
    let private = {
        let mut state = call.state();
        let private = state.privs.insert(PrimeAttachment { sgt: None, dir: Direction::None });
        if let Some(attachment) = state.attachments.get_mut(key) {
            attachment.private = Some(private);
        }
        private
    };
    pin(call, &exporter).inspect_err(|_| {
        if call.has(SeedTrait::PinFailureLeaks) {
            call.report("S05", EventKind::WouldLeak, "private data of an attachment whose pin failed");
        } else {
            call.state().privs.remove(private);
        }
    })
}

/// S06.
fn map_detach(call: &Syscall<'_>, dmabuf: DmaBufKey, key: AttachmentKey) {
    let Some(exporter) = exporter(call, dmabuf) else {
        call.report("S06", EventKind::WouldOops, "exporter is gone");
        return;
    };
    if !call.has(SeedTrait::CachedMapping) {
        let _resv = call.lock(&exporter.resv.lock);
        return unpin(call, &exporter);
    }
    unpin(call, &exporter);
    let private = {
        let mut state = call.state();
        let private = state.attachments.get_mut(key).and_then(|attachment| attachment.private.take());
        private.and_then(|private| state.privs.remove(private))
    };
    let Some(private) = private else { return };
    match private.sgt {
        Some(table) => attachment::free_table(call, table),
        None if call.has(SeedTrait::DetachUnmappedOopses) => {
            call.report("S06", EventKind::WouldOops, "table of a never mapped attachment freed");
        }
        None => {}
    }
}

/// S08.
fn map_dma_buf(call: &Syscall<'_>, key: AttachmentKey, dir: Direction) -> Result<Option<SgTableId>, Errno> {
    let (dmabuf, private) = {
        let state = call.state();
        let attachment = state.attachments.get(key).ok_or(Errno::INVAL)?;
        (attachment.dmabuf, attachment.private)
    };
    let Some(exporter) = exporter(call, dmabuf) else { return Err(call.oops("S08", "exporter is gone")) };
    let cached = call.has(SeedTrait::CachedMapping);
    if dir == Direction::None || (cached && private.is_none()) {
        call.report("S08", EventKind::Warn, "mapping without a direction or an attachment");
        return Err(Errno::INVAL);
    }
    if exporter.driver.null_sg_table {
        return Ok(None);
    }
    let Some(private) = private.filter(|_| cached) else {
        if !exporter.driver.get_sg_table {
            return Err(Errno::NOSYS);
        }
        let table = get_sg_table(call, &exporter)?;
        return attachment::dma_map(call, key, table, dir).map(Some);
    };
    if call.has(SeedTrait::MapCheckUnlocked)
        && let Some(answer) = cached_mapping(call, private, dir)
    {
        return answer;
    }
    map_after_check(call, key, dir)
}

/// The seed's look at the one mapping of an attachment: the table if the direction is right, `EBUSY` if not.
fn cached_mapping(
    call: &Syscall<'_>,
    private: Key<PrimeAttachment>,
    dir: Direction,
) -> Option<Result<Option<SgTableId>, Errno>> {
    let found = call.state().privs.get(private).map(|it| (it.dir, it.sgt));
    match found {
        Some((mapped, table)) if mapped == dir => Some(Ok(table)),
        Some((mapped, _)) if mapped != Direction::None => {
            call.report("S08", EventKind::Warn, "attachment is mapped in another direction");
            Some(Err(Errno::BUSY))
        }
        _ => None,
    }
}

/// What the seed does when it has looked and found no mapping: without the trait it looks again under the lock.
pub(super) fn map_after_check(
    call: &Syscall<'_>,
    key: AttachmentKey,
    dir: Direction,
) -> Result<Option<SgTableId>, Errno> {
    let (dmabuf, private) = {
        let state = call.state();
        let attachment = state.attachments.get(key).ok_or(Errno::INVAL)?;
        (attachment.dmabuf, attachment.private.ok_or(Errno::INVAL)?)
    };
    let Some(exporter) = exporter(call, dmabuf) else { return Err(call.oops("S08", "exporter is gone")) };
    let _struct_mutex = call.lock(&exporter.locks.struct_mutex);
    if !call.has(SeedTrait::MapCheckUnlocked)
        && let Some(answer) = cached_mapping(call, private, dir)
    {
        return answer;
    }
    let table = get_sg_table(call, &exporter)?;
    let table = attachment::dma_map(call, key, table, dir).map_err(|_| Errno::NOMEM)?;
    let mut state = call.state();
    let overwritten = match state.privs.get_mut(private) {
        Some(it) => {
            it.dir = dir;
            it.sgt.replace(table)
        }
        None => None,
    };
    if overwritten.is_some() {
        state.report("S08", EventKind::WouldLeak, "two racing mappings: the first table is forgotten");
    }
    Ok(Some(table))
}

/// S09: in the seed the table stays until detach.
fn unmap_dma_buf(call: &Syscall<'_>, _: AttachmentKey, table: SgTableId, dir: Direction) {
    attachment::check_direction(call, table, dir);
    if !call.has(SeedTrait::CachedMapping) {
        attachment::free_table(call, table);
    }
}

/// S10.
fn dmabuf_release(call: &Syscall<'_>, dmabuf: DmaBufKey) {
    let key = call.state().dmabufs.get(dmabuf).and_then(|dmabuf| dmabuf.object);
    let Some(key) = key else { return };
    if !call.has(SeedTrait::WeakExportLink) {
        return object::put(call, key);
    }
    let linked = {
        let mut state = call.state();
        match state.objects.get(key) {
            Some(object) => object.dma_buf == Some(dmabuf),
            None => {
                state.report("S10", EventKind::WouldOops, "release looks at a freed object");
                return;
            }
        }
    };
    if linked {
        if let Some(object) = call.state().objects.get_mut(key) {
            object.dma_buf = None;
        }
        object::put(call, key);
    }
}

/// S11.
fn dmabuf_vmap(call: &Syscall<'_>, dmabuf: DmaBufKey) -> Result<(), Errno> {
    let Some(exporter) = exporter(call, dmabuf) else { return Err(call.oops("S11", "exporter is gone")) };
    if !exporter.driver.vmap {
        return Err(match call.has(SeedTrait::VmapUnchecked) {
            true => call.oops("S11", "the driver has no vmap callback"),
            false => Errno::OPNOTSUPP,
        });
    }
    call.fault(FaultPoint::Vmap)?;
    if let Some(object) = call.state().objects.get_mut(exporter.object) {
        object.vmap_count += 1;
    }
    Ok(())
}

/// S13; in 7.2 the mapping holds the object, which it maps from page 0 if the driver is one of the many that do.
fn dmabuf_mmap(call: &Syscall<'_>, dmabuf: DmaBufKey, offset: u64) -> Result<u64, Errno> {
    if call.has(SeedTrait::MmapRefused) {
        return Err(Errno::INVAL);
    }
    let exporter = exporter(call, dmabuf).ok_or(Errno::INVAL)?;
    call.fault(FaultPoint::Pages)?;
    object::get(call, exporter.object);
    Ok(if exporter.driver.mmap_ignores_offset { 0 } else { offset })
}

fn dmabuf_vunmap(call: &Syscall<'_>, dmabuf: DmaBufKey) {
    let Some(exporter) = exporter(call, dmabuf) else { return };
    if let Some(object) = call.state().objects.get_mut(exporter.object) {
        object.vmap_count = object.vmap_count.saturating_sub(1);
    }
}

/// `drm_prime_add_buf_handle` (S04): one more reference on the dma-buf. The caller holds `prime.lock`.
fn add_member(call: &Syscall<'_>, file: FileKey, dmabuf: DmaBufKey, handle: u32) -> Result<(), Errno> {
    call.fault(FaultPoint::MemberAlloc)?;
    dmabuf::get(call, dmabuf)?;
    if let Some(file) = call.state().files.get_mut(file) {
        file.members.add(Member { dmabuf, handle });
    }
    Ok(())
}

/// What both ioctls look at first where PRIME is a feature: the driver's flag, then its callback (S23, S24).
fn check_feature(
    call: &Syscall<'_>,
    device: DeviceKey,
    callback: impl FnOnce(&Driver) -> bool,
) -> Result<(), Errno> {
    let driver = call.driver(device);
    match call.has(SeedTrait::PrimeIsAFeature) {
        true if !driver.prime => Err(Errno::INVAL),
        true if !callback(&driver) => Err(Errno::NOSYS),
        _ => Ok(()),
    }
}

/// `PRIME_HANDLE_TO_FD`: the dma-buf, with a reference and a reserved descriptor (S16, S17, S18, S23).
pub(super) fn handle_to_fd(
    call: &Syscall<'_>,
    file: FileKey,
    handle: u32,
    flags: u32,
) -> Result<DmaBufKey, Errno> {
    let device = call.device_of(file)?;
    check_feature(call, device, |driver| driver.handle_to_fd)?;
    let valid = DRM_CLOEXEC | if call.has(SeedTrait::CloexecOnly) { 0 } else { DRM_RDWR };
    if flags & !valid != 0 {
        return Err(Errno::INVAL);
    }
    let writable = flags & DRM_RDWR != 0;
    if call.has(SeedTrait::LookupBeforeFd) {
        return if call.has(SeedTrait::WeakExportLink) {
            weak_handle_to_fd(call, file, handle, writable, true)
        } else {
            let dmabuf = handle_to_dmabuf(call, file, device, handle, writable)?;
            let reserved = call.state().reserve_fd();
            reserved.inspect_err(|_| dmabuf::put(call, dmabuf)).map(|()| dmabuf)
        };
    }
    call.state().reserve_fd()?;
    let exported = if call.has(SeedTrait::WeakExportLink) {
        weak_handle_to_fd(call, file, handle, writable, false)
    } else {
        handle_to_dmabuf(call, file, device, handle, writable)
    };
    exported.inspect_err(|_| call.state().descriptors -= 1)
}

/// `drm_gem_prime_handle_to_dmabuf` of 7.2.
fn handle_to_dmabuf(
    call: &Syscall<'_>,
    file: FileKey,
    device: DeviceKey,
    handle: u32,
    writable: bool,
) -> Result<DmaBufKey, Errno> {
    let locks = call.file_locks(file)?;
    if call.has(SeedTrait::UnlockedLookup) {
        let key = handles::lookup(call, file, handle)?;
        let exported = {
            let _prime = call.lock(&locks.prime);
            known_or_link(call, file, device, key, handle, writable)
        };
        if let Ok(dmabuf) = exported {
            handles::report_orphan(call, file, handle, key, dmabuf);
        }
        return exported;
    }
    let _prime = call.lock(&locks.prime);
    let key = handles::lookup(call, file, handle)?;
    known_or_link(call, file, device, key, handle, writable)
}

/// What the file's cache has for the handle, else [`link`]; puts the lookup's reference. The caller holds `prime.lock`.
fn known_or_link(
    call: &Syscall<'_>,
    file: FileKey,
    device: DeviceKey,
    key: ObjectKey,
    handle: u32,
    writable: bool,
) -> Result<DmaBufKey, Errno> {
    let known = call.state().files.get(file).and_then(|file| file.members.dmabuf_of(handle));
    let exported = match known {
        Some(dmabuf) => dmabuf::get(call, dmabuf).map(|()| dmabuf),
        None => link(call, file, device, key, handle, writable),
    };
    object::put(call, key);
    exported
}

/// Finds or makes the object's dma-buf and adds it to the file's cache. The caller holds `prime.lock`.
pub(super) fn link(
    call: &Syscall<'_>,
    file: FileKey,
    device: DeviceKey,
    key: ObjectKey,
    handle: u32,
    writable: bool,
) -> Result<DmaBufKey, Errno> {
    let locks = call.device_locks(device);
    let _name = call.lock(&locks.object_name);
    let fresh = existing(call, key).is_none();
    let dmabuf = match existing(call, key) {
        Some(dmabuf) => {
            dmabuf::get(call, dmabuf)?;
            dmabuf
        }
        None => {
            let handle_count = call.state().objects.get(key).map_or(0, |object| object.handle_count);
            if handle_count == 0 {
                return Err(Errno::NOENT);
            }
            let dmabuf = driver_export(call, key, writable)?;
            object::get(call, key);
            if let Some(object) = call.state().objects.get_mut(key) {
                object.dma_buf = Some(dmabuf);
            }
            dmabuf::get(call, dmabuf)?;
            dmabuf
        }
    };
    if fresh || !call.has(SeedTrait::ExportSkipsCache) {
        add_member(call, file, dmabuf, handle).inspect_err(|_| dmabuf::put(call, dmabuf))?;
    }
    Ok(dmabuf)
}

/// The dma-buf an object came from, or else is exported as.
pub(super) fn existing(call: &Syscall<'_>, key: ObjectKey) -> Option<DmaBufKey> {
    let state = call.state();
    let object = state.objects.get(key)?;
    match object.import_attach {
        Some(attach) => state.attachments.get(attach).map(|attachment| attachment.dmabuf),
        None => object.dma_buf,
    }
}

/// `gem_prime_export` (S15): takes no reference on the object.
fn driver_export(call: &Syscall<'_>, key: ObjectKey, writable: bool) -> Result<DmaBufKey, Errno> {
    call.fault(FaultPoint::DriverExport)?;
    let (ops, size, resv) = {
        let state = call.state();
        let object = state.objects.get(key).ok_or(Errno::INVAL)?;
        (state.devices[object.device].driver.ops, object.size, object.resv.clone())
    };
    dmabuf::export(call, ops, Some(key), size, writable, resv)
}

/// `drm_gem_prime_handle_to_fd` of the seed.
fn weak_handle_to_fd(
    call: &Syscall<'_>,
    file: FileKey,
    handle: u32,
    writable: bool,
    reserve: bool,
) -> Result<DmaBufKey, Errno> {
    let reserve = |call: &Syscall<'_>| if reserve { call.state().reserve_fd() } else { Ok(()) };
    if call.has(SeedTrait::UnlockedLookup) {
        let key = handles::lookup(call, file, handle)?;
        return weak_export(call, file, key, handle, writable, &reserve);
    }
    let locks = call.file_locks(file)?;
    let _prime = call.lock(&locks.prime);
    let key = handles::lookup(call, file, handle)?;
    weak_export_locked(call, file, key, handle, writable, &reserve)
}

/// What the seed does after its lookup, whose reference it has.
pub(super) fn weak_export(
    call: &Syscall<'_>,
    file: FileKey,
    key: ObjectKey,
    handle: u32,
    writable: bool,
    reserve: &dyn Fn(&Syscall<'_>) -> Result<(), Errno>,
) -> Result<DmaBufKey, Errno> {
    let locks = call.file_locks(file)?;
    let exported = {
        let _prime = call.lock(&locks.prime);
        weak_export_locked(call, file, key, handle, writable, reserve)
    };
    if let Ok(dmabuf) = exported {
        handles::report_orphan(call, file, handle, key, dmabuf);
    }
    exported
}

/// The same under `prime.lock`: the lookup's reference moves to a new dma-buf.
fn weak_export_locked(
    call: &Syscall<'_>,
    file: FileKey,
    key: ObjectKey,
    handle: u32,
    writable: bool,
    reserve: &dyn Fn(&Syscall<'_>) -> Result<(), Errno>,
) -> Result<DmaBufKey, Errno> {
    if let Some(dmabuf) = existing(call, key) {
        let done = dmabuf::get(call, dmabuf).and_then(|()| {
            let added = match call.has(SeedTrait::ExportSkipsCache) || knows(call, file, dmabuf, handle) {
                true => Ok(()),
                false => add_member(call, file, dmabuf, handle),
            };
            added.and_then(|()| reserve(call)).inspect_err(|_| dmabuf::put(call, dmabuf))
        });
        object::put(call, key);
        return done.map(|()| dmabuf);
    }
    let dmabuf = driver_export(call, key, writable).inspect_err(|_| object::put(call, key))?;
    set_link(call, key, Some(dmabuf));
    let failed = match add_member(call, file, dmabuf, handle) {
        Ok(()) => match reserve(call) {
            Ok(()) => return Ok(dmabuf),
            Err(errno) => {
                handles::remove_members(call, file, dmabuf);
                errno
            }
        },
        Err(errno) => errno,
    };
    // Cleared, so that the release does not take it for the link's reference.
    set_link(call, key, None);
    dmabuf::put(call, dmabuf);
    object::put(call, key);
    Err(failed)
}

fn set_link(call: &Syscall<'_>, key: ObjectKey, link: Option<DmaBufKey>) {
    if let Some(object) = call.state().objects.get_mut(key) {
        object.dma_buf = link;
    }
}

fn knows(call: &Syscall<'_>, file: FileKey, dmabuf: DmaBufKey, handle: u32) -> bool {
    call.state().files.get(file).is_some_and(|file| file.members.dmabuf_of(handle) == Some(dmabuf))
}

/// `PRIME_FD_TO_HANDLE` (S21, S22, S24). `dmabuf` looks at the descriptor (`dma_buf_get`).
pub(super) fn fd_to_handle(
    call: &Syscall<'_>,
    file: FileKey,
    dmabuf: impl FnOnce() -> Result<DmaBufKey, Errno>,
) -> Result<u32, Errno> {
    let device = call.device_of(file)?;
    check_feature(call, device, |driver| driver.fd_to_handle)?;
    let dmabuf = dmabuf()?;
    let handle = import_handle(call, file, device, dmabuf);
    dmabuf::put(call, dmabuf);
    handle
}

fn import_handle(
    call: &Syscall<'_>,
    file: FileKey,
    device: DeviceKey,
    dmabuf: DmaBufKey,
) -> Result<u32, Errno> {
    let locks = call.file_locks(file)?;
    let prime = call.lock(&locks.prime);
    let known = call.state().files.get(file).and_then(|file| file.members.handle_of(dmabuf));
    if let Some(handle) = known {
        return Ok(handle);
    }
    let weak = call.has(SeedTrait::WeakExportLink);
    let device_locks = call.device_locks(device);
    let name = (!weak).then(|| call.lock(&device_locks.object_name));
    let key = match import(call, device, dmabuf)? {
        Some(key) => key,
        None => return Err(call.oops("S20", "handle made for a null object")),
    };
    if !weak {
        let unlinked = {
            let mut state = call.state();
            match state.objects.get_mut(key) {
                Some(object) if object.dma_buf.is_none() => {
                    object.dma_buf = Some(dmabuf);
                    true
                }
                Some(object) if object.dma_buf != Some(dmabuf) => {
                    state.report("C1", EventKind::Warn, "object is linked to another dma-buf");
                    false
                }
                _ => false,
            }
        };
        if unlinked {
            dmabuf::get(call, dmabuf)?;
        }
    }
    let created = handles::create(call, file, key, name);
    object::put(call, key);
    let handle = created?;
    let added = add_member(call, file, dmabuf, handle);
    if let Err(errno) = added {
        if call.has(SeedTrait::AddFailureDangles) {
            call.report("S22", EventKind::Warn, format!("handle {handle} stays without its reference"));
            handles::put_handle(call, key);
        } else {
            drop(prime);
            handles::delete(call, file, handle).ok();
        }
        return Err(errno);
    }
    Ok(handle)
}

/// `drm_gem_prime_import` (S19, S20): an object with a reference; `None` is the seed's null pointer.
fn import(call: &Syscall<'_>, device: DeviceKey, dmabuf: DmaBufKey) -> Result<Option<ObjectKey>, Errno> {
    let driver = call.driver(device);
    let needs_callback = call.has(SeedTrait::SelfImportNeedsSgTable);
    if needs_callback && driver.import == Import::Missing {
        return Err(Errno::INVAL);
    }
    let own = {
        let state = call.state();
        let it = state.dmabufs.get(dmabuf).ok_or(Errno::INVAL)?;
        let object = it.object.filter(|_| it.ops.is(&GEM_PRIME_OPS));
        object.filter(|object| state.objects.get(*object).is_some_and(|object| object.device == device))
    };
    if let Some(key) = own {
        object::get(call, key);
        return Ok(Some(key));
    }
    if driver.import == Import::Missing {
        return Err(Errno::INVAL);
    }
    let attach = attachment::attach(call, dmabuf, device)?;
    dmabuf::get(call, dmabuf)?;
    let detach = |call: &Syscall<'_>| {
        attachment::detach(call, attach);
        dmabuf::put(call, dmabuf);
    };
    let table = if driver.import == Import::NoMap && !call.has(SeedTrait::CachedMapping) {
        None
    } else {
        match attachment::map(call, attach, Direction::Bidirectional) {
            Ok(Some(table)) => Some(table),
            Ok(None) => {
                detach(call);
                return Ok(None);
            }
            Err(errno) => {
                detach(call);
                return Err(errno);
            }
        }
    };
    let answer = match driver.import {
        Import::Refused(errno) => Err(errno),
        _ => call.fault(FaultPoint::DriverImport),
    };
    if let Err(errno) = answer {
        if let Some(table) = table {
            attachment::unmap(call, attach, table, Direction::Bidirectional);
        }
        detach(call);
        return Err(errno);
    }
    let mut state = call.state();
    let (size, resv) = match state.dmabufs.get(dmabuf) {
        Some(it) => (it.size.next_multiple_of(dmabuf::PAGE_SIZE), it.resv.clone()),
        None => return Err(Errno::INVAL),
    };
    let mut object = Object::new(device, size, resv);
    object.import_attach = Some(attach);
    object.sgt = table;
    Ok(Some(state.objects.insert(object)))
}

/// `drm_prime_gem_destroy` (S27): lets an import go.
pub(super) fn gem_destroy(call: &Syscall<'_>, key: ObjectKey, table: Option<SgTableId>) {
    let found = {
        let state = call.state();
        let attach = state.objects.get(key).and_then(|object| object.import_attach);
        attach.and_then(|attach| Some((attach, state.attachments.get(attach)?.dmabuf)))
    };
    let Some((attach, dmabuf)) = found else {
        call.report("S27", EventKind::WouldOops, "an object that was not imported has no attachment");
        return;
    };
    if let Some(table) = table {
        attachment::unmap(call, attach, table, Direction::Bidirectional);
    }
    attachment::detach(call, attach);
    dmabuf::put(call, dmabuf);
}
