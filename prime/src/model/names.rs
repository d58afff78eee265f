//! Global names of GEM objects: `GEM_FLINK` and `GEM_OPEN` (drm_gem.c). A name lives as long as the object has a handle.

use rustix::io::Errno;

use super::{
    ObjectKey, State,
    file::{File, Permit},
    handles, object,
    profile::SeedTrait,
};

/// `drm_gem_object_handle_free`: the last handle takes the name along. The caller holds the device's lock of names.
pub(super) fn forget(state: &mut State, key: ObjectKey) {
    let Some(object) = state.objects.get_mut(key) else { return };
    if let Some(name) = object.name.take() {
        let device = object.device;
        state.devices[device].names.remove(name);
    }
}

impl File {
    /// `GEM_FLINK`: the object's name, the same each time.
    ///
    /// # Errors
    /// `EACCES` on a render node; `ENOENT` for an unknown handle.
    pub fn gem_flink(&self, handle: u32) -> Result<u32, Errno> {
        self.ioctl(Permit::Primary, |call| {
            let key = handles::lookup(call, self.key(), handle)?;
            let locks = call.device_locks(self.device().key);
            let name = {
                let _name = call.lock(&locks.object_name);
                let mut state = call.state();
                let object = state.objects.get(key).filter(|object| object.handle_count > 0);
                match object.map(|object| object.name) {
                    None => Err(Errno::NOENT),
                    Some(Some(name)) => Ok(name),
                    Some(None) => {
                        let name = state.devices[self.device().key].names.alloc(key);
                        if let Some(object) = state.objects.get_mut(key) {
                            object.name = Some(name);
                        }
                        Ok(name)
                    }
                }
            };
            object::put(call, key);
            name
        })
    }

    /// `GEM_OPEN`: a new handle of the object with a name, whether the file has one already or not.
    ///
    /// # Errors
    /// `EACCES` on a render node; `ENOENT` for an unknown name; `ENOMEM`.
    pub fn gem_open(&self, name: u32) -> Result<u32, Errno> {
        self.ioctl(Permit::Primary, |call| {
            let locks = call.device_locks(self.device().key);
            let held = call.lock(&locks.object_name);
            let key = {
                let state = call.state();
                state.devices[self.device().key].names.get(name).copied().ok_or(Errno::NOENT)?
            };
            object::get(call, key);
            // The seed lets go of the lock before it makes the handle.
            let held = (!call.has(SeedTrait::WeakExportLink)).then_some(held);
            let handle = handles::create(call, self.key(), key, held);
            object::put(call, key);
            handle
        })
    }
}
