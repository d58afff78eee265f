//! A file's GEM handles: numbers for objects, their making and their end in the kernel's steps (drm_gem.c). It knows of
//! dma-bufs only that closing a handle removes its cache entry.

use rustix::io::Errno;

use super::{
    DmaBufKey, FileKey, ObjectKey, dmabuf, event::EventKind, fault::FaultPoint, lock::Held, names, object,
    prime, profile::SeedTrait, syscall::Syscall,
};

/// What stands behind a number: nothing yet or any more, or an object.
pub(super) type Slot = Option<ObjectKey>;

/// `drm_gem_object_lookup`: the object with one more reference.
///
/// # Errors
/// `ENOENT`; the oops of a handle that outlived its object (the seed's failed imports).
pub(super) fn lookup(call: &Syscall<'_>, file: FileKey, handle: u32) -> Result<ObjectKey, Errno> {
    let locks = call.file_locks(file)?;
    let _table = call.lock(&locks.table);
    let mut state = call.state();
    let slot = state.files.get(file).and_then(|file| file.handles.get(handle).copied()).flatten();
    let key = slot.ok_or(Errno::NOENT)?;
    match state.objects.get_mut(key) {
        Some(object) => {
            object.kref += 1;
            Ok(key)
        }
        None => {
            drop(state);
            Err(call.oops("S22", format!("handle {handle} leads to a freed object")))
        }
    }
}

/// `drm_gem_handle_create_tail`: gives an object a number. `name_lock` is the device's, released on the way (not in the seed).
pub(super) fn create(
    call: &Syscall<'_>,
    file: FileKey,
    key: ObjectKey,
    name_lock: Option<Held<'_>>,
) -> Result<u32, Errno> {
    let locks = call.file_locks(file)?;
    let weak = call.has(SeedTrait::WeakExportLink);
    if !weak {
        count_up(call, key);
    }
    let allocated = {
        let _table = call.lock(&locks.table);
        let mut state = call.state();
        match state.faults.hit(FaultPoint::HandleAlloc) {
            // The seed's number leads to the object at once.
            Ok(()) => match state.files.get_mut(file) {
                Some(file) => Ok(file.handles.alloc(weak.then_some(key))),
                None => Err(Errno::BADF),
            },
            Err(errno) => Err(errno),
        }
    };
    drop(name_lock);
    let handle = match allocated {
        Ok(handle) => handle,
        Err(errno) => {
            if !weak {
                put_handle(call, key);
            }
            return Err(errno);
        }
    };
    if weak {
        count_up(call, key);
        return Ok(handle);
    }
    if let Err(errno) = call.fault(FaultPoint::HandleAllow) {
        {
            let _table = call.lock(&locks.table);
            if let Some(file) = call.state().files.get_mut(file) {
                file.handles.remove(handle);
            }
        }
        put_handle(call, key);
        return Err(errno);
    }
    let _table = call.lock(&locks.table);
    if let Some(slot) = call.state().files.get_mut(file).and_then(|file| file.handles.get_mut(handle)) {
        *slot = Some(key);
    }
    Ok(handle)
}

/// `drm_gem_object_handle_get`. In the seed each handle holds a reference of its own; in 7.2 all of them share one.
pub(super) fn count_up(call: &Syscall<'_>, key: ObjectKey) {
    let each = call.has(SeedTrait::WeakExportLink);
    if let Some(object) = call.state().objects.get_mut(key) {
        object.handle_count += 1;
        if each || object.handle_count == 1 {
            object.kref += 1;
        }
    }
}

/// `drm_gem_object_handle_put_unlocked`: the last handle unlinks the dma-buf (not in the seed).
pub(super) fn put_handle(call: &Syscall<'_>, key: ObjectKey) {
    let locks = {
        let mut state = call.state();
        let found = state.objects.get(key).map(|object| (object.handle_count, object.device));
        match found {
            Some((count, device)) if count > 0 => state.devices[device].locks.clone(),
            Some(_) => {
                state.report("S22", EventKind::Warn, "handle count of an object is 0 already");
                return;
            }
            None => {
                state.report("S22", EventKind::WouldOops, "handle of a freed object put");
                return;
            }
        }
    };
    if call.has(SeedTrait::WeakExportLink) {
        {
            let mut state = call.state();
            let Some(object) = state.objects.get_mut(key) else { return };
            object.handle_count = object.handle_count.saturating_sub(1);
            if object.handle_count == 0 {
                names::forget(&mut state, key);
            }
        }
        return object::put(call, key);
    }
    let last = {
        let _name = call.lock(&locks.object_name);
        let mut state = call.state();
        let Some(object) = state.objects.get_mut(key) else { return };
        object.handle_count -= 1;
        let last = object.handle_count == 0;
        let linked = if last { object.dma_buf.take() } else { None };
        if last {
            names::forget(&mut state, key);
        }
        drop(state);
        if let Some(dmabuf) = linked {
            dmabuf::put(call, dmabuf);
        }
        last
    };
    if last {
        object::put(call, key);
    }
}

/// `drm_gem_handle_delete`: the end of a number (`GEM_CLOSE`).
pub(super) fn delete(call: &Syscall<'_>, file: FileKey, handle: u32) -> Result<(), Errno> {
    let locks = call.file_locks(file)?;
    let one_phase = call.has(SeedTrait::OnePhaseDelete);
    let key = {
        let _table = call.lock(&locks.table);
        let mut state = call.state();
        let handles = &mut state.files.get_mut(file).ok_or(Errno::BADF)?.handles;
        let key = handles.get_mut(handle).and_then(Option::take).ok_or(Errno::INVAL)?;
        if one_phase {
            handles.remove(handle);
        }
        if call.has(SeedTrait::UnlockedLookup)
            && let Some(file) = state.files.get_mut(file)
        {
            file.closing.push((handle, key));
        }
        key
    };
    let linked = if call.has(SeedTrait::UnlockedLookup) { prime::existing(call, key) } else { None };
    release(call, file, handle, key);
    if !one_phase {
        let _table = call.lock(&locks.table);
        if let Some(file) = call.state().files.get_mut(file) {
            file.handles.remove(handle);
        }
    }
    if call.has(SeedTrait::UnlockedLookup) {
        if let Some(file) = call.state().files.get_mut(file)
            && let Some(at) = file.closing.iter().position(|closing| *closing == (handle, key))
        {
            file.closing.remove(at);
        }
        // An export may have linked one meanwhile; an import had its own before.
        if let Some(dmabuf) = prime::existing(call, key).or(linked) {
            report_orphan(call, file, handle, key, dmabuf);
        }
    }
    Ok(())
}

/// C3b: reports the dma-buf's cache entry of a handle that is closed, and which no close under way will remove: nobody
/// ever will.
pub(super) fn report_orphan(
    call: &Syscall<'_>,
    file: FileKey,
    handle: u32,
    key: ObjectKey,
    dmabuf: DmaBufKey,
) {
    let mut state = call.state();
    let Some(it) = state.files.get(file) else { return };
    let alive = it.handles.get(handle).copied().flatten() == Some(key);
    if alive || it.closing.contains(&(handle, key)) || it.orphans.contains(&(handle, key)) {
        return;
    }
    if !it.members.dmabufs_of(handle).contains(&dmabuf) {
        return;
    }
    state.report("C3b", EventKind::WouldLeak, format!("cache entry of handle {handle}, which is closed"));
    if let Some(it) = state.files.get_mut(file) {
        it.orphans.push((handle, key));
    }
}

/// `drm_gem_object_release_handle`: cache entry first, then the count.
pub(super) fn release(call: &Syscall<'_>, file: FileKey, handle: u32, key: ObjectKey) {
    let Ok(locks) = call.file_locks(file) else { return };
    if call.has(SeedTrait::CloseByDmabuf) {
        let dmabufs = {
            let mut state = call.state();
            let Some(object) = state.objects.get(key) else {
                state.report(
                    "S22",
                    EventKind::WouldOops,
                    format!("handle {handle} of a freed object closed"),
                );
                return;
            };
            let imported = object.import_attach.and_then(|attach| state.attachments.get(attach));
            [imported.map(|attachment| attachment.dmabuf), object.dma_buf]
        };
        for dmabuf in dmabufs.into_iter().flatten() {
            let _prime = call.lock(&locks.prime);
            remove_members(call, file, dmabuf);
        }
    } else {
        let _prime = call.lock(&locks.prime);
        let removed = call.state().files.get_mut(file).and_then(|file| file.members.remove_handle(handle));
        if let Some(dmabuf) = removed {
            dmabuf::put(call, dmabuf);
        }
    }
    put_handle(call, key);
}

/// `drm_prime_remove_buf_handle_locked` of the seed: every entry of a dma-buf goes. The caller holds `prime.lock`.
pub(super) fn remove_members(call: &Syscall<'_>, file: FileKey, dmabuf: DmaBufKey) {
    let removed = {
        let mut state = call.state();
        let removed = state.files.get_mut(file).map_or(0, |file| file.members.remove_dmabuf(dmabuf));
        let left = state.dmabufs.get(dmabuf).map_or(0, |dmabuf| dmabuf.f_count as usize);
        if removed > 0 && removed == left && call.has(SeedTrait::PutBeforeUnlink) {
            state.report("S07", EventKind::Warn, "last reference put while its cache entry is still linked");
        }
        removed
    };
    for _ in 0..removed {
        dmabuf::put(call, dmabuf);
    }
}
