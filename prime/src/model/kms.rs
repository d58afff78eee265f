//! Framebuffers: `ADDFB2`, `RMFB`, `CLOSEFB`, `GETFB`, `GETFB2`, and what planes show (drm_framebuffer.c,
//! drm_gem_framebuffer_helper.c). No modes, no commits: a plane is set as a whole.

use rustix::io::Errno;

use super::{
    DeviceKey, FileKey, FramebufferKey, ObjectKey,
    event::EventKind,
    fault::FaultPoint,
    file::{self, File, Permit},
    formats::{self, KmsFormat},
    handles, object,
    profile::SeedTrait,
    syscall::Syscall,
};

/// `DRM_MODE_FB_INTERLACED`.
const INTERLACED: u32 = 1;
/// `DRM_MODE_FB_MODIFIERS`.
pub const MODIFIERS: u32 = 2;
/// `DRM_FORMAT_MOD_SAMSUNG_64_32_TILE`.
const SAMSUNG_64_32_TILE: u64 = 0x04 << 56 | 1;

/// `struct drm_mode_fb_cmd2`, without the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fb2Request {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Code of the format.
    pub pixel_format: u32,
    /// `DRM_MODE_FB_INTERLACED`, [`MODIFIERS`].
    pub flags: u32,
    /// GEM handle of each buffer plane.
    pub handles: [u32; 4],
    /// Bytes from row to row.
    pub pitches: [u32; 4],
    /// Bytes from the start of the buffer.
    pub offsets: [u32; 4],
    /// Modifier, the same for all used planes.
    pub modifiers: [u64; 4],
}

/// What `GETFB2` answers, in the same shape.
pub type Fb2 = Fb2Request;

/// What `GETFB` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fb {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Bytes from row to row.
    pub pitch: u32,
    /// Bits.
    pub bpp: u32,
    /// Colour bits.
    pub depth: u32,
    /// A new handle; 0 for who is neither master nor privileged.
    pub handle: u32,
}

#[derive(Debug)]
pub(super) struct Framebuffer {
    device: DeviceKey,
    pub(super) id: u32,
    refcount: u32,
    format: KmsFormat,
    width: u32,
    height: u32,
    modifier: u64,
    pitches: [u32; 4],
    offsets: [u32; 4],
    objects: Vec<ObjectKey>,
    /// Which of the objects it holds by a handle reference as well (C12).
    handle_refs: Vec<bool>,
}

#[cfg(test)]
impl Framebuffer {
    /// Objects it holds, and whether by a handle reference as well.
    pub(super) fn holds(&self) -> Vec<(ObjectKey, bool)> {
        self.objects.iter().copied().zip(self.handle_refs.iter().copied()).collect()
    }
}

/// `framebuffer_check`.
fn check(format: &KmsFormat, r: &Fb2Request) -> Result<(), Errno> {
    if r.width == 0 || r.height == 0 {
        return Err(Errno::INVAL);
    }
    let with_modifiers = r.flags & MODIFIERS != 0;
    for i in 0..format.plane_count() {
        let (width, height) = (format.plane_width(i, r.width), format.plane_height(i, r.height));
        let min_pitch = format.min_pitch(i, width);
        if (!format.has_blocks(i) && r.modifiers[i] == 0) || r.handles[i] == 0 {
            return Err(Errno::INVAL);
        }
        let end = u64::from(height) * u64::from(r.pitches[i]) + u64::from(r.offsets[i]);
        if min_pitch > u64::from(u32::MAX) || end > u64::from(u32::MAX) {
            return Err(Errno::RANGE);
        }
        let short = format.has_blocks(i) && u64::from(r.pitches[i]) < min_pitch;
        let unannounced = r.modifiers[i] != 0 && !with_modifiers;
        let mixed = with_modifiers && r.modifiers[i] != r.modifiers[0];
        let samsung = r.modifiers[i] == SAMSUNG_64_32_TILE
            && (r.pixel_format != u32::from_le_bytes(*b"NV12")
                || !width.is_multiple_of(128)
                || !height.is_multiple_of(32)
                || !r.pitches[i].is_multiple_of(128));
        if short || unannounced || mixed || samsung {
            return Err(Errno::INVAL);
        }
    }
    for i in format.plane_count()..4 {
        let stray = r.handles[i] != 0 || r.pitches[i] != 0 || r.offsets[i] != 0;
        if r.modifiers[i] != 0 || (with_modifiers && stray) {
            return Err(Errno::INVAL);
        }
    }
    Ok(())
}

/// `drm_internal_framebuffer_create` with `drm_gem_fb_create` behind it.
fn create(
    call: &Syscall<'_>,
    file: FileKey,
    device: DeviceKey,
    r: &Fb2Request,
) -> Result<FramebufferKey, Errno> {
    let driver = call.driver(device);
    let outside = |value: u32, (least, most): (u32, u32)| value < least || value > most;
    if r.flags & !(INTERLACED | MODIFIERS) != 0
        || outside(r.width, driver.width)
        || outside(r.height, driver.height)
        || (r.flags & MODIFIERS != 0 && !driver.modifiers)
    {
        return Err(Errno::INVAL);
    }
    let format = formats::find(r.pixel_format).ok_or(Errno::INVAL)?;
    check(&format, r)?;
    call.fault(FaultPoint::FramebufferAlloc)?;
    if !driver.formats.contains(&r.pixel_format) || r.modifiers[0] != 0 {
        return Err(Errno::INVAL);
    }
    let mut objects = Vec::new();
    let put_all = |objects: &[ObjectKey]| objects.iter().rev().for_each(|key| object::put(call, *key));
    for i in 0..format.plane_count() {
        let key = match handles::lookup(call, file, r.handles[i]) {
            Ok(key) => key,
            Err(errno) => {
                put_all(&objects);
                return Err(errno);
            }
        };
        objects.push(key);
        let min_pitch = format.min_pitch(i, format.plane_width(i, r.width)) as u32;
        let rows = format.plane_height(i, r.height) - 1;
        let min_size = rows.wrapping_mul(r.pitches[i]).wrapping_add(min_pitch).wrapping_add(r.offsets[i]);
        let size = call.state().objects.get(key).map_or(0, |object| object.size);
        if size < u64::from(min_size) {
            put_all(&objects);
            return Err(Errno::INVAL);
        }
    }
    let handle_refs: Vec<bool> = objects.iter().map(|key| take_handle(call, device, *key)).collect();
    let mut state = call.state();
    if let Err(errno) = state.faults.hit(FaultPoint::FramebufferId) {
        drop(state);
        put_handles(call, &objects, &handle_refs);
        put_all(&objects);
        return Err(errno);
    }
    let key = state.framebuffers.insert(Framebuffer {
        device,
        id: 0,
        refcount: 1,
        format,
        width: r.width,
        height: r.height,
        modifier: r.modifiers[0],
        pitches: r.pitches,
        offsets: r.offsets,
        objects,
        handle_refs,
    });
    let id = state.devices[device].framebuffers.alloc(key);
    if let Some(framebuffer) = state.framebuffers.get_mut(key) {
        framebuffer.id = id;
    }
    Ok(key)
}

/// C12: the framebuffer keeps the object's handles alive, if there are any.
fn take_handle(call: &Syscall<'_>, device: DeviceKey, key: ObjectKey) -> bool {
    if call.has(SeedTrait::FbHoldsObjectOnly) {
        return false;
    }
    let locks = call.device_locks(device);
    let _name = call.lock(&locks.object_name);
    let exists = call.state().objects.get(key).is_some_and(|object| object.handle_count > 0);
    if exists {
        handles::count_up(call, key);
    }
    exists
}

fn put_handles(call: &Syscall<'_>, objects: &[ObjectKey], handle_refs: &[bool]) {
    for (key, held) in objects.iter().zip(handle_refs) {
        if *held {
            handles::put_handle(call, *key);
        }
    }
}

/// `drm_framebuffer_put`.
fn put(call: &Syscall<'_>, key: FramebufferKey) {
    let last = {
        let mut state = call.state();
        let Some(framebuffer) = state.framebuffers.get_mut(key) else {
            state.report("S32", EventKind::WouldOops, "put of a freed framebuffer");
            return;
        };
        framebuffer.refcount -= 1;
        framebuffer.refcount == 0
    };
    if !last {
        return;
    }
    let mut state = call.state();
    let Some(framebuffer) = state.framebuffers.remove(key) else { return };
    state.devices[framebuffer.device].framebuffers.remove(framebuffer.id);
    drop(state);
    for key in &framebuffer.objects {
        object::put(call, *key);
    }
    put_handles(call, &framebuffer.objects, &framebuffer.handle_refs);
}

/// `drm_framebuffer_lookup`: one more reference. Any file finds any framebuffer.
fn lookup(call: &Syscall<'_>, device: DeviceKey, id: u32) -> Result<FramebufferKey, Errno> {
    let mut state = call.state();
    let key = state.devices[device].framebuffers.get(id).copied().ok_or(Errno::NOENT)?;
    state.framebuffers.get_mut(key).ok_or(Errno::NOENT)?.refcount += 1;
    Ok(key)
}

/// `drm_mode_closefb`: takes it off the file's list.
fn unlist(call: &Syscall<'_>, file: FileKey, key: FramebufferKey) -> Result<(), Errno> {
    let locks = call.file_locks(file)?;
    let _list = call.lock(&locks.framebuffers);
    let mut state = call.state();
    let list = &mut state.files.get_mut(file).ok_or(Errno::BADF)?.framebuffers;
    let at = list.iter().position(|listed| *listed == key).ok_or(Errno::NOENT)?;
    list.remove(at);
    Ok(())
}

/// `drm_framebuffer_remove`: takes it off all planes, and puts the caller's reference.
fn remove(call: &Syscall<'_>, device: DeviceKey, key: FramebufferKey) {
    let shown = {
        let mut state = call.state();
        let planes = state.devices[device].planes.iter_mut().filter(|plane| **plane == Some(key));
        planes.map(|plane| *plane = None).count()
    };
    for _ in 0..=shown {
        put(call, key);
    }
}

/// `drm_fb_release`: what a file's close does to its framebuffers.
pub(super) fn release_framebuffers(call: &Syscall<'_>, file: FileKey) {
    let (device, list) = {
        let mut state = call.state();
        let Some(file) = state.files.get_mut(file) else { return };
        (file.device, std::mem::take(&mut file.framebuffers))
    };
    for key in list {
        remove(call, device, key);
    }
}

impl File {
    /// An ioctl of a display. `missing` is what a device without one answers.
    fn display<R>(
        &self,
        missing: Errno,
        body: impl FnOnce(&Syscall<'_>, DeviceKey) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.ioctl(Permit::Primary, |call| {
            let device = self.device().key;
            if !call.driver(device).modeset {
                return Err(missing);
            }
            body(call, device)
        })
    }

    /// `ADDFB2`: the framebuffer's id.
    ///
    /// # Errors
    /// `EACCES` on a render node, `EOPNOTSUPP` without modesetting; `EINVAL` for flags, sizes, formats, modifiers, pitches
    /// and handles 0; `ERANGE` beyond 4 GiB; `ENOENT` for an unknown handle; `ENOMEM`.
    pub fn addfb2(&self, request: &Fb2Request) -> Result<u32, Errno> {
        self.display(Errno::OPNOTSUPP, |call, device| {
            let key = create(call, self.key(), device, request)?;
            let locks = call.file_locks(self.key())?;
            let _list = call.lock(&locks.framebuffers);
            let mut state = call.state();
            if let Some(file) = state.files.get_mut(self.key()) {
                file.framebuffers.insert(0, key);
            }
            state.framebuffers.get(key).map(|framebuffer| framebuffer.id).ok_or(Errno::NOENT)
        })
    }

    /// `RMFB`: planes that show it are turned off.
    ///
    /// # Errors
    /// `ENOENT` for an unknown framebuffer, or another file's; `EOPNOTSUPP`, `EACCES` as for [`File::addfb2`].
    pub fn rmfb(&self, id: u32) -> Result<(), Errno> {
        self.display(Errno::OPNOTSUPP, |call, device| {
            let key = lookup(call, device, id)?;
            if let Err(errno) = unlist(call, self.key(), key) {
                put(call, key);
                return Err(errno);
            }
            put(call, key);
            remove(call, device, key);
            Ok(())
        })
    }

    /// `CLOSEFB`: planes that show it go on.
    ///
    /// # Errors
    /// As [`File::rmfb`]; `EINVAL` if `pad` is not 0, and on kernels that lack the call.
    pub fn closefb(&self, id: u32, pad: u32) -> Result<(), Errno> {
        if !self.driver().closefb {
            return self.ioctl(Permit::Anyone, |_| Err(Errno::INVAL));
        }
        self.display(Errno::OPNOTSUPP, |call, device| {
            if pad != 0 {
                return Err(Errno::INVAL);
            }
            let key = lookup(call, device, id)?;
            let closed = unlist(call, self.key(), key);
            if closed.is_ok() {
                put(call, key);
            }
            put(call, key);
            closed
        })
    }

    /// `GETFB`, for framebuffers of one plane.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for several planes; `EOPNOTSUPP`, `EACCES` as for [`File::addfb2`]; `ENOMEM`.
    pub fn getfb(&self, id: u32) -> Result<Fb, Errno> {
        self.display(Errno::OPNOTSUPP, |call, device| {
            let key = lookup(call, device, id)?;
            let answer = self.describe(call, key).and_then(|(fb, objects)| {
                if objects.len() > 1 {
                    return Err(Errno::INVAL);
                }
                let format = formats::find(fb.pixel_format).ok_or(Errno::INVAL)?;
                let handle = match self.may_have_handles(call) {
                    true => self.new_handle(call, objects[0])?,
                    false => 0,
                };
                Ok(Fb {
                    width: fb.width,
                    height: fb.height,
                    pitch: fb.pitches[0],
                    bpp: format.bpp(),
                    depth: u32::from(format.depth),
                    handle,
                })
            });
            put(call, key);
            answer
        })
    }

    /// `GETFB2`: new handles, one per object (0 for who is neither master nor privileged).
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` without modesetting; `EACCES` on a render node; `ENOMEM`.
    pub fn getfb2(&self, id: u32) -> Result<Fb2, Errno> {
        self.display(Errno::INVAL, |call, device| {
            let key = lookup(call, device, id)?;
            let answer = self.describe(call, key).and_then(|(mut fb, objects)| {
                if !self.may_have_handles(call) {
                    return Ok(fb);
                }
                for i in 0..objects.len() {
                    let same = (0..i).find(|j| objects[*j] == objects[i]);
                    fb.handles[i] = match same {
                        Some(j) => fb.handles[j],
                        None => self.new_handle(call, objects[i]).inspect_err(|_| {
                            let mut made = fb.handles[..i].to_vec();
                            made.dedup();
                            for handle in made {
                                handles::delete(call, self.key(), handle).ok();
                            }
                        })?,
                    };
                }
                Ok(fb)
            });
            put(call, key);
            answer
        })
    }

    fn describe(&self, call: &Syscall<'_>, key: FramebufferKey) -> Result<(Fb2, Vec<ObjectKey>), Errno> {
        let state = call.state();
        let fb = state.framebuffers.get(key).ok_or(Errno::NOENT)?;
        let modifiers = state.devices[fb.device].driver.modifiers;
        let mut answer = Fb2 {
            width: fb.width,
            height: fb.height,
            pixel_format: fb.format.fourcc,
            flags: if modifiers { MODIFIERS } else { 0 },
            ..Fb2::default()
        };
        for i in 0..fb.format.plane_count() {
            answer.pitches[i] = fb.pitches[i];
            answer.offsets[i] = fb.offsets[i];
            answer.modifiers[i] = if modifiers { fb.modifier } else { 0 };
        }
        Ok((answer, fb.objects.clone()))
    }

    fn may_have_handles(&self, call: &Syscall<'_>) -> bool {
        let state = call.state();
        !state.unprivileged || file::is_current_master(&state, self.key())
    }

    /// `drm_gem_handle_create`.
    fn new_handle(&self, call: &Syscall<'_>, key: ObjectKey) -> Result<u32, Errno> {
        let locks = call.device_locks(self.device().key);
        let weak = call.has(SeedTrait::WeakExportLink);
        let name = (!weak).then(|| call.lock(&locks.object_name));
        handles::create(call, self.key(), key, name)
    }

    /// Shows a framebuffer on a plane, or turns it off: a stand-in for an atomic commit.
    ///
    /// # Errors
    /// `EACCES` if not master, `EOPNOTSUPP` without modesetting, `ENOENT` for a plane or framebuffer that is not there.
    pub fn set_plane(&self, plane: usize, id: Option<u32>) -> Result<(), Errno> {
        self.ioctl(Permit::Master, |call| {
            let device = self.device().key;
            if !call.driver(device).modeset {
                return Err(Errno::OPNOTSUPP);
            }
            if plane >= call.state().devices[device].planes.len() {
                return Err(Errno::NOENT);
            }
            let new = id.map(|id| lookup(call, device, id)).transpose()?;
            let old = std::mem::replace(&mut call.state().devices[device].planes[plane], new);
            if let Some(old) = old {
                put(call, old);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
