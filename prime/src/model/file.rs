//! [`File`]: an open DRM file, with its handles, cache and framebuffers, and the ioctls that are made on it. What they do
//! is in the modules of their subject.

use std::{os::fd::BorrowedFd, sync::Arc};

use rustix::io::Errno;

use super::{
    DeviceKey, DmaBufKey, FileKey, FramebufferKey, ObjectKey,
    arena::Idr,
    cache::MemberCache,
    descriptor::DmabufFd,
    device::{Device, DeviceLocks, Driver, Node},
    dmabuf, escape,
    event::EventKind,
    fault::FaultPoint,
    fence::{Clock, ImplicitAccess, VgemFences},
    handles::{self, Slot},
    kms,
    lock::{LockClass, ModelLock},
    object, prime,
    profile::SeedTrait,
    sync,
    syscall::Syscall,
};

/// `DRM_CLOEXEC`.
pub const DRM_CLOEXEC: u32 = 0o2_000_000;
/// `DRM_RDWR`.
pub const DRM_RDWR: u32 = 2;

/// Locks of a file.
#[derive(Debug)]
pub(super) struct FileLocks {
    pub(super) prime: ModelLock,
    pub(super) table: ModelLock,
    pub(super) framebuffers: ModelLock,
}

#[derive(Debug)]
pub(super) struct FileState {
    pub(super) device: DeviceKey,
    pub(super) node: Node,
    pub(super) locks: Arc<FileLocks>,
    pub(super) handles: Idr<Slot>,
    pub(super) members: MemberCache,
    pub(super) framebuffers: Vec<FramebufferKey>,
    /// Handles whose close is under way; noted where the seed's race with exports is possible.
    pub(super) closing: Vec<(u32, ObjectKey)>,
    /// Cache entries that this race left behind.
    pub(super) orphans: Vec<(u32, ObjectKey)>,
    /// The master it is, or was; a lessee has its lessor's.
    pub(super) master: Option<u64>,
    pub(super) lessee: bool,
    pub(super) vgem: VgemFences,
    /// Descriptors and mappings that keep it open.
    f_count: u32,
}

/// Who may make a call (the flags of `DRM_IOCTL_DEF`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// `DRM_RENDER_ALLOW`.
    Anyone,
    /// No flag: not on render nodes.
    Primary,
    /// `DRM_MASTER`.
    Master,
}

impl Syscall<'_> {
    pub(super) fn file_locks(&self, file: FileKey) -> Result<Arc<FileLocks>, Errno> {
        self.state().files.get(file).map(|file| file.locks.clone()).ok_or(Errno::BADF)
    }

    pub(super) fn device_of(&self, file: FileKey) -> Result<DeviceKey, Errno> {
        self.state().files.get(file).map(|file| file.device).ok_or(Errno::BADF)
    }

    pub(super) fn device_locks(&self, device: DeviceKey) -> Arc<DeviceLocks> {
        self.state().devices[device].locks.clone()
    }

    pub(super) fn driver(&self, device: DeviceKey) -> Arc<Driver> {
        self.state().devices[device].driver.clone()
    }

    /// `drm_ioctl_kernel`: what comes before any ioctl.
    pub(super) fn permit(&self, file: FileKey, permit: Permit) -> Result<(), Errno> {
        let state = self.state();
        let it = state.files.get(file).ok_or(Errno::BADF)?;
        if state.devices[it.device].unplugged {
            return Err(Errno::NODEV);
        }
        let refused = match permit {
            Permit::Anyone => false,
            Permit::Primary => it.node == Node::Render,
            Permit::Master => !is_current_master(&state, file),
        };
        if refused { Err(Errno::ACCESS) } else { Ok(()) }
    }
}

/// `drm_is_current_master`.
pub(super) fn is_current_master(state: &super::State, file: FileKey) -> bool {
    state.files.get(file).is_some_and(|file| {
        file.node == Node::Primary
            && file.master.is_some()
            && state.devices[file.device].master == file.master
    })
}

/// `drm_master_check_perm`: who was master by itself may become and stop being it. A lessee never was.
fn check_permission(state: &super::State, file: FileKey) -> Result<(), Errno> {
    let file = state.files.get(file).ok_or(Errno::BADF)?;
    let was_master = file.master.is_some() && !file.lessee;
    if state.unprivileged && !was_master { Err(Errno::ACCESS) } else { Ok(()) }
}

/// `open` of a node.
pub(super) fn open(call: &Syscall<'_>, device: DeviceKey, node: Node) -> Result<FileKey, Errno> {
    let list = call.has(SeedTrait::ListCache);
    let mut state = call.state();
    state.reserve_fd()?;
    let it = &state.devices[device];
    let refused = match (it.unplugged, node) {
        (true, _) => Some(Errno::NODEV),
        (false, Node::Render) if !it.driver.render => Some(Errno::NOENT),
        _ => None,
    };
    if let Some(errno) = refused {
        state.descriptors -= 1;
        return Err(errno);
    }
    let mut master = None;
    if node == Node::Primary && it.master.is_none() {
        state.masters += 1;
        master = Some(state.masters);
        state.devices[device].master = master;
    }
    let clock = state.clock.clone();
    Ok(state.files.insert(new_file(device, node, list, clock, (master, false))))
}

fn new_file(
    device: DeviceKey,
    node: Node,
    list: bool,
    clock: Arc<Clock>,
    (master, lessee): (Option<u64>, bool),
) -> FileState {
    let locks = FileLocks {
        prime: ModelLock::new(LockClass::Prime),
        table: ModelLock::new(LockClass::Table),
        framebuffers: ModelLock::new(LockClass::Framebuffers),
    };
    FileState {
        device,
        node,
        locks: Arc::new(locks),
        handles: Idr::new(1),
        members: MemberCache::new(list),
        framebuffers: Vec::new(),
        closing: Vec::new(),
        orphans: Vec::new(),
        master,
        lessee,
        vgem: VgemFences::new(clock),
        f_count: 1,
    }
}

/// One more thing that keeps the file open.
pub(super) fn get(call: &Syscall<'_>, key: FileKey) {
    if let Some(file) = call.state().files.get_mut(key) {
        file.f_count += 1;
    }
}

/// One less.
pub(super) fn put(call: &Syscall<'_>, key: FileKey) {
    let last = call.state().files.get_mut(key).is_some_and(|file| {
        file.f_count -= 1;
        file.f_count == 0
    });
    if last {
        call.defer_file(key);
    }
}

/// `drm_file_free` (S32): framebuffers, handles, master, cache.
pub(super) fn release(call: &Syscall<'_>, key: FileKey) {
    let Ok(device) = call.device_of(key) else { return };
    if call.driver(device).modeset {
        kms::release_framebuffers(call, key);
    }
    let handles: Vec<(u32, ObjectKey)> = {
        let state = call.state();
        let file = state.files.get(key);
        file.map(|file| file.handles.iter().filter_map(|(handle, slot)| Some((handle, (*slot)?))).collect())
            .unwrap_or_default()
    };
    for (handle, object) in handles {
        handles::release(call, key, handle, object);
    }
    let mut state = call.state();
    let Some(file) = state.files.remove(key) else { return };
    let it = &mut state.devices[file.device];
    if file.master.is_some() && it.master == file.master && !file.lessee {
        it.master = None;
    }
    let left = file.members.dmabufs().len();
    if left > 0 {
        state.report("S28", EventKind::Warn, format!("file closed with {left} entries in its cache"));
        state.report("S28", EventKind::WouldLeak, format!("references on dma-bufs of {left} cache entries"));
    }
}

/// A DRM file. Clones are descriptors of the same file; the last one to be dropped closes it.
#[derive(Debug)]
pub struct File {
    device: Device,
    key: FileKey,
}

/// What stands where `PRIME_FD_TO_HANDLE` takes a descriptor.
#[derive(Debug, Clone, Copy)]
pub enum FdArg<'a> {
    /// A dma-buf.
    Dmabuf(&'a DmabufFd),
    /// A number that is no open descriptor.
    Bad,
    /// A descriptor opened with `O_PATH`.
    OPath,
    /// A descriptor of something else.
    NotDmabuf,
    /// A real descriptor.
    Real(BorrowedFd<'a>),
}

impl Clone for File {
    fn clone(&self) -> Self {
        self.device.machine.call(|call| {
            call.state().descriptors += 1;
            get(call, self.key);
        });
        Self { device: self.device.clone(), key: self.key }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.device.machine.call(|call| {
            call.state().descriptors -= 1;
            put(call, self.key);
        });
    }
}

impl File {
    pub(super) fn new(device: Device, key: FileKey) -> Self {
        Self { device, key }
    }

    pub(super) fn driver(&self) -> Arc<Driver> {
        self.device.machine.state().devices[self.device.key].driver.clone()
    }

    pub(super) fn key(&self) -> FileKey {
        self.key
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs an ioctl.
    pub(super) fn ioctl<R>(
        &self,
        permit: Permit,
        body: impl FnOnce(&Syscall<'_>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.device.machine.call(|call| {
            call.permit(self.key, permit)?;
            body(call)
        })
    }

    /// `dup`, which [`Clone`] does without asking whether a descriptor is free.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        self.device.machine.call(|call| {
            call.state().reserve_fd()?;
            get(call, self.key);
            Ok(())
        })?;
        Ok(Self { device: self.device.clone(), key: self.key })
    }

    /// Whether two descriptors name one file (`KCMP_FILE`).
    #[must_use]
    pub fn same_file(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.device.machine.shared, &other.device.machine.shared) && self.key == other.key
    }

    /// `GET_CAP`.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for display capabilities of a device without one; `EINVAL` for unknown ones.
    pub fn get_cap(&self, capability: u64) -> Result<u64, Errno> {
        self.ioctl(Permit::Anyone, |call| {
            let driver = call.driver(self.device.key);
            let prime = match call.has(SeedTrait::PrimeIsAFeature) {
                true => {
                    let present = |callback: bool, bit| if driver.prime && callback { bit } else { 0 };
                    present(driver.fd_to_handle, 1) | present(driver.handle_to_fd, 2)
                }
                false => 3,
            };
            match capability {
                cap::PRIME => return Ok(prime),
                cap::TIMESTAMP_MONOTONIC => return Ok(1),
                cap::SYNCOBJ | cap::SYNCOBJ_TIMELINE => return Ok(0),
                _ if !driver.modeset => return Err(Errno::OPNOTSUPP),
                _ => {}
            }
            Ok(match capability {
                cap::DUMB_BUFFER => u64::from(driver.dumb),
                cap::VBLANK_HIGH_CRTC | cap::CRTC_IN_VBLANK_EVENT => 1,
                cap::DUMB_PREFERRED_DEPTH | cap::DUMB_PREFER_SHADOW | cap::ASYNC_PAGE_FLIP => 0,
                cap::PAGE_FLIP_TARGET | cap::ATOMIC_ASYNC_PAGE_FLIP => 0,
                cap::CURSOR_WIDTH | cap::CURSOR_HEIGHT => 512,
                cap::ADDFB2_MODIFIERS => u64::from(driver.modifiers),
                _ => return Err(Errno::INVAL),
            })
        })
    }

    /// `PRIME_HANDLE_TO_FD`. `flags` are [`DRM_CLOEXEC`] and [`DRM_RDWR`].
    ///
    /// # Errors
    /// In this order: `EINVAL` for other flags, `EMFILE`, `ENOENT` for an unknown handle (the seed: `EMFILE` last, and
    /// `EINVAL`/`ENOSYS` first for a driver without PRIME); the driver's errno; `ENOMEM`.
    pub fn handle_to_fd(&self, handle: u32, flags: u32) -> Result<DmabufFd, Errno> {
        let key = self.ioctl(Permit::Anyone, |call| prime::handle_to_fd(call, self.key, handle, flags))?;
        Ok(DmabufFd::new(self.device.machine.clone(), key))
    }

    /// `PRIME_FD_TO_HANDLE`: the handle, never 0. A buffer the file knows gives the handle it has, not counted.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL` for what is no dma-buf; the exporter's or driver's errno; `ENOMEM`.
    pub fn fd_to_handle(&self, fd: FdArg<'_>) -> Result<u32, Errno> {
        self.ioctl(Permit::Anyone, |call| prime::fd_to_handle(call, self.key, || self.dmabuf_get(call, fd)))
    }

    /// `dma_buf_get`: the dma-buf with one more reference.
    fn dmabuf_get(&self, call: &Syscall<'_>, fd: FdArg<'_>) -> Result<DmaBufKey, Errno> {
        match fd {
            FdArg::Bad | FdArg::OPath => Err(Errno::BADF),
            FdArg::NotDmabuf => Err(Errno::INVAL),
            FdArg::Dmabuf(fd) if !Arc::ptr_eq(&fd.machine().shared, &self.device.machine.shared) => {
                Err(Errno::INVAL)
            }
            FdArg::Dmabuf(fd) => dmabuf::get(call, fd.key()).map(|()| fd.key()),
            FdArg::Real(fd) => escape::find(call, fd),
        }
    }

    /// `GEM_CLOSE`.
    ///
    /// # Errors
    /// `EINVAL` for a handle the file does not have.
    pub fn gem_close(&self, handle: u32) -> Result<(), Errno> {
        self.ioctl(Permit::Anyone, |call| handles::delete(call, self.key, handle))
    }

    /// `GEM_CHANGE_HANDLE`.
    ///
    /// # Errors
    /// `EINVAL` always: the kernel has it switched off (drm_ioctl.c).
    pub fn gem_change_handle(&self, _handle: u32, _new_handle: u32) -> Result<(), Errno> {
        self.ioctl(Permit::Anyone, |_| Err(Errno::INVAL))
    }

    /// vgem's `FENCE_ATTACH`: a fence on a buffer, signalled by [`File::fence_signal`], the file's close or after ten seconds.
    ///
    /// # Errors
    /// In this order: `EINVAL` on other drivers, for flags and padding; `ENOENT` for an unknown handle; `ENOMEM`; `EBUSY` if a
    /// conflicting fence is pending; `ENOSPC`.
    pub fn fence_attach(&self, handle: u32, flags: u32, pad: u32) -> Result<u32, Errno> {
        self.ioctl(Permit::Anyone, |call| {
            if !call.driver(self.device.key).vgem_fences {
                return Err(Errno::INVAL);
            }
            let access = ImplicitAccess::from_vgem_flags(flags, pad)?;
            let key = handles::lookup(call, self.key, handle)?;
            let attached = self.attach_fence(call, key, access);
            object::put(call, key);
            attached
        })
    }

    fn attach_fence(&self, call: &Syscall<'_>, key: ObjectKey, access: ImplicitAccess) -> Result<u32, Errno> {
        let (resv, fence) = {
            let state = call.state();
            let file = state.files.get(self.key).ok_or(Errno::BADF)?;
            let object = state.objects.get(key).ok_or(Errno::NOENT)?;
            (object.resv.clone(), file.vgem.make())
        };
        call.fault(FaultPoint::FenceAlloc)?;
        // The look is not under the lock (vgem_fence.c): two that attach at once may both find nothing in their way.
        VgemFences::check(&sync::lock(&resv.fences), access)?;
        {
            let _resv = call.lock(&resv.lock);
            call.fault(FaultPoint::ResvAlloc)?;
            sync::lock(&resv.fences).add(fence.clone(), access.usage());
        }
        let mut state = call.state();
        state.files.get_mut(self.key).ok_or(Errno::BADF)?.vgem.remember(fence)
    }

    /// vgem's `FENCE_SIGNAL`.
    ///
    /// # Errors
    /// `EINVAL` for flags and on other drivers; `ENOENT` for an unknown fence; `ETIMEDOUT` if it expired before.
    pub fn fence_signal(&self, fence: u32, flags: u32) -> Result<(), Errno> {
        self.ioctl(Permit::Anyone, |call| {
            if !call.driver(self.device.key).vgem_fences {
                return Err(Errno::INVAL);
            }
            call.state().files.get_mut(self.key).ok_or(Errno::BADF)?.vgem.signal(fence, flags)
        })
    }

    /// Whether the file is the device's current master, or a lessee of it.
    #[must_use]
    pub fn is_master(&self) -> bool {
        is_current_master(&self.device.machine.state(), self.key)
    }

    /// `SET_MASTER`.
    ///
    /// # Errors
    /// `EACCES` without privileges unless it was master by itself, which a lessee never was; `EBUSY` while another is; `EINVAL` for a lessee.
    pub fn set_master(&self) -> Result<(), Errno> {
        self.ioctl(Permit::Primary, |call| {
            let mut state = call.state();
            check_permission(&state, self.key)?;
            if is_current_master(&state, self.key) {
                return Ok(());
            }
            let file = state.files.get(self.key).ok_or(Errno::BADF)?;
            let (was, lessee) = (file.master, file.lessee);
            if state.devices[self.device.key].master.is_some() {
                return Err(Errno::BUSY);
            }
            if lessee {
                return Err(Errno::INVAL);
            }
            let master = was.unwrap_or(state.masters + 1);
            state.masters = state.masters.max(master);
            state.devices[self.device.key].master = Some(master);
            if let Some(file) = state.files.get_mut(self.key) {
                file.master = Some(master);
            }
            Ok(())
        })
    }

    /// `DROP_MASTER`.
    ///
    /// # Errors
    /// `EACCES` without privileges unless it was master by itself; `EINVAL` if it is not master, or a lessee.
    pub fn drop_master(&self) -> Result<(), Errno> {
        self.ioctl(Permit::Primary, |call| {
            let mut state = call.state();
            check_permission(&state, self.key)?;
            let lessee = state.files.get(self.key).is_some_and(|file| file.lessee);
            if lessee || !is_current_master(&state, self.key) {
                return Err(Errno::INVAL);
            }
            state.devices[self.device.key].master = None;
            Ok(())
        })
    }

    /// `CREATE_LEASE` of no objects: another file of the device, which counts as master while this one does.
    ///
    /// # Errors
    /// `EACCES` if not master; `EOPNOTSUPP` without modesetting; `EINVAL` for a lessee, and on kernels that lease only objects;
    /// `EMFILE`.
    pub fn create_empty_lease(&self) -> Result<Self, Errno> {
        let key = self.ioctl(Permit::Master, |call| {
            let driver = call.driver(self.device.key);
            if !driver.modeset {
                return Err(Errno::OPNOTSUPP);
            }
            let list = call.has(SeedTrait::ListCache);
            let mut state = call.state();
            let file = state.files.get(self.key).ok_or(Errno::BADF)?;
            let master = file.master;
            if file.lessee || !driver.empty_lease {
                return Err(Errno::INVAL);
            }
            state.reserve_fd()?;
            let file = new_file(self.device.key, Node::Primary, list, state.clock.clone(), (master, true));
            Ok(state.files.insert(file))
        })?;
        Ok(Self { device: self.device.clone(), key })
    }
}

/// `DRM_CAP_*`.
mod cap {
    pub(super) const DUMB_BUFFER: u64 = 0x1;
    pub(super) const VBLANK_HIGH_CRTC: u64 = 0x2;
    pub(super) const DUMB_PREFERRED_DEPTH: u64 = 0x3;
    pub(super) const DUMB_PREFER_SHADOW: u64 = 0x4;
    pub(super) const PRIME: u64 = 0x5;
    pub(super) const TIMESTAMP_MONOTONIC: u64 = 0x6;
    pub(super) const ASYNC_PAGE_FLIP: u64 = 0x7;
    pub(super) const CURSOR_WIDTH: u64 = 0x8;
    pub(super) const CURSOR_HEIGHT: u64 = 0x9;
    pub(super) const ADDFB2_MODIFIERS: u64 = 0x10;
    pub(super) const PAGE_FLIP_TARGET: u64 = 0x11;
    pub(super) const CRTC_IN_VBLANK_EVENT: u64 = 0x12;
    pub(super) const SYNCOBJ: u64 = 0x13;
    pub(super) const SYNCOBJ_TIMELINE: u64 = 0x14;
    pub(super) const ATOMIC_ASYNC_PAGE_FLIP: u64 = 0x15;
}
