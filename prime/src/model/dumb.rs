//! Dumb buffers: `CREATE_DUMB`, `MAP_DUMB`, `DESTROY_DUMB` (drm_dumb_buffers.c, drm_gem_shmem_helper.c).

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    FileKey, Machine, ObjectKey,
    descriptor::errno_of,
    dmabuf::PAGE_SIZE,
    fault::FaultPoint,
    file::{self, File, Permit},
    formats, handles,
    memory::{Access, Memory, Placement},
    object::{self, Object, Resv},
};
use crate::Mapping;

/// A new dumb buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dumb {
    /// Its handle.
    pub handle: u32,
    /// Bytes from one row to the next.
    pub pitch: u32,
    /// Bytes; whole pages.
    pub size: u64,
}

impl File {
    /// `CREATE_DUMB`. `bpp` is in bits.
    ///
    /// # Errors
    /// `EACCES` on a render node, `ENOSYS` if the driver makes none, `EINVAL` for no or too large a size, `ENOMEM`.
    pub fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> Result<Dumb, Errno> {
        self.ioctl(Permit::Primary, |call| {
            if !call.driver(self.device().key).dumb {
                return Err(Errno::NOSYS);
            }
            let (pitch, size) = size_of(width, height, bpp).ok_or(Errno::INVAL)?;
            call.fault(FaultPoint::ObjectAlloc)?;
            let mut object = Object::new(self.device().key, size, Resv::new());
            let key = {
                let mut state = call.state();
                object.memory = Some(Arc::new(Memory::new(size, Placement::default(), &state.frames)));
                state.objects.insert(object)
            };
            let locks = call.device_locks(self.device().key);
            let weak = call.has(super::SeedTrait::WeakExportLink);
            let name = (!weak).then(|| call.lock(&locks.object_name));
            let created = handles::create(call, self.key(), key, name);
            object::put(call, key);
            Ok(Dumb { handle: created?, pitch, size })
        })
    }

    /// `MAP_DUMB` and `mmap`: `len` bytes of the buffer from its start, for reading and writing. The mapping keeps the buffer,
    /// and the file open.
    ///
    /// # Errors
    /// `EACCES` on a render node, `ENOSYS` if the driver makes no dumb buffers; `ENOENT` for an unknown handle; `EINVAL` for an
    /// import, for no bytes and for more than there are; `ENOMEM`, `EMFILE`.
    pub fn map_dumb(&self, handle: u32, len: usize) -> Result<DumbMap, Errno> {
        let (object, memory) = self.ioctl(Permit::Primary, |call| {
            if !call.driver(self.device().key).dumb {
                return Err(Errno::NOSYS);
            }
            let key = handles::lookup(call, self.key(), handle)?;
            let found = {
                let state = call.state();
                state.objects.get(key).and_then(|object| Some((object.size, object.memory.clone()?)))
            };
            // The lookup's reference becomes the mapping's.
            match found.filter(|(size, _)| len > 0 && len as u64 <= *size) {
                Some((_, memory)) => {
                    file::get(call, self.key());
                    Ok((key, memory))
                }
                None => {
                    object::put(call, key);
                    Err(Errno::INVAL)
                }
            }
        })?;
        let hold = Vma { machine: self.device().machine.clone(), file: self.key(), object };
        let mapping = memory.map(0, len, Access::ReadWrite).map_err(|err| errno_of(&err))?;
        Ok(DumbMap { mapping, _hold: hold })
    }

    /// `DESTROY_DUMB`, which closes any handle.
    ///
    /// # Errors
    /// `EACCES` on a render node, `ENOSYS` if the driver makes none, `EINVAL` for an unknown handle.
    pub fn destroy_dumb(&self, handle: u32) -> Result<(), Errno> {
        self.ioctl(Permit::Primary, |call| {
            if !call.driver(self.device().key).dumb {
                return Err(Errno::NOSYS);
            }
            handles::delete(call, self.key(), handle)
        })
    }
}

/// Pitch and size; `None` for what the kernel refuses. All of it in the kernel's 32 bits.
fn size_of(width: u32, height: u32, bpp: u32) -> Option<(u32, u64)> {
    if width == 0 || height == 0 || bpp == 0 || bpp > u32::MAX - 8 {
        return None;
    }
    let rough = bpp.div_ceil(8).checked_mul(width)?;
    page_align(height.checked_mul(rough)?)?;
    // Colour modes have a format; other depths are rounded up to bytes.
    let format = match bpp {
        15 => formats::legacy(16, 15),
        32 => formats::legacy(32, 24),
        other => formats::legacy(other, other),
    };
    let pitch = match format {
        Some(format) => u32::try_from(format.min_pitch(0, width)).ok()?,
        None => rough,
    };
    Some((pitch, u64::from(page_align(height.checked_mul(pitch)?)?)))
}

/// Rounds up to pages; `None` if that wraps to nothing.
fn page_align(size: u32) -> Option<u32> {
    size.checked_next_multiple_of(PAGE_SIZE as u32)
}

/// What a mapping of a dumb buffer holds: the object, and the file it was mapped through.
#[derive(Debug)]
struct Vma {
    machine: Machine,
    file: FileKey,
    object: ObjectKey,
}

impl Drop for Vma {
    fn drop(&mut self) {
        self.machine.call(|call| {
            object::put(call, self.object);
            file::put(call, self.file);
        });
    }
}

/// A mapping of a dumb buffer.
#[derive(Debug)]
pub struct DumbMap {
    // Dropped in this order: the bytes go before what holds them.
    mapping: Mapping,
    _hold: Vma,
}

impl DumbMap {
    #[cfg(test)]
    pub(super) fn object(&self) -> ObjectKey {
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

    /// The bytes alone, for who keeps handle and file alive himself.
    pub(super) fn into_mapping(self) -> Mapping {
        self.mapping
    }
}
