//! [`Device`] and its [`Driver`]: what a DRM device can do, as plain values, so that tests can build odd ones. No calls;
//! those are made on a [`File`](super::File).

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    DeviceKey, File, FramebufferKey, Machine, ObjectKey,
    arena::Idr,
    dmabuf::DmabufOps,
    file, formats,
    lock::{LockClass, ModelLock},
    prime,
    sg::DmaDevice,
};

/// How a driver imports what it did not export (`gem_prime_import`, `gem_prime_import_sg_table`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Import {
    /// Attaches and never maps (`drm_gem_shmem_prime_import_no_map`).
    NoMap,
    /// Attaches, maps and takes the table of pages.
    SgTable,
    /// Has no `gem_prime_import_sg_table`.
    Missing,
    /// Has one that always fails.
    Refused(Errno),
}

/// What a driver does when one of its buffers is pinned for an importer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// No such callback.
    Missing,
    /// Counts.
    Works,
    /// Fails.
    Fails(Errno),
}

/// A DRM driver: its features, callbacks and limits.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Name, as `DRM_IOCTL_VERSION` gives it.
    pub name: String,
    /// `DRIVER_PRIME`. Looked at by kernels that have the feature (the seed's).
    pub prime: bool,
    /// Has the `prime_handle_to_fd` callback (the seed's).
    pub handle_to_fd: bool,
    /// Has the `prime_fd_to_handle` callback (the seed's).
    pub fd_to_handle: bool,
    /// Import of other devices' buffers.
    pub import: Import,
    /// The ops of its dma-bufs. Another driver's ops are not recognised as its own.
    pub ops: &'static DmabufOps,
    /// Has `get_sg_table`.
    pub get_sg_table: bool,
    /// Its `get_sg_table` returns a null pointer.
    pub null_sg_table: bool,
    /// Pinning of its buffers.
    pub pin: Pin,
    /// Has `vmap` and `vunmap`.
    pub vmap: bool,
    /// Gives native objects to `drm_prime_gem_destroy` too, which is for imports only.
    pub destroys_all_as_imports: bool,
    /// Maps its dma-bufs from page 0 whatever the offset (drm_gem_shmem_helper.c).
    pub mmap_ignores_offset: bool,
    /// `DRIVER_RENDER`: has a render node.
    pub render: bool,
    /// `DRIVER_MODESET`.
    pub modeset: bool,
    /// Makes dumb buffers.
    pub dumb: bool,
    /// The kernel has `DRM_IOCTL_MODE_CLOSEFB` (6.8).
    pub closefb: bool,
    /// Takes format modifiers.
    pub modifiers: bool,
    /// The kernel leases no objects at all to who asks (`CREATE_LEASE` with an empty list).
    pub empty_lease: bool,
    /// Least and greatest width of a framebuffer.
    pub width: (u32, u32),
    /// Least and greatest height of a framebuffer.
    pub height: (u32, u32),
    /// Formats of its planes, all `LINEAR` only.
    pub formats: &'static [u32],
    /// Number of its planes.
    pub planes: usize,
    /// The first id a framebuffer can get: lower ones are the device's own objects.
    pub first_id: u32,
    /// Has vgem's calls for fences.
    pub vgem_fences: bool,
    /// How it reaches memory.
    pub dma: DmaDevice,
    /// `st_rdev` of the node.
    pub rdev: u64,
}

impl Driver {
    /// vgem of Linux 7.2: buffers to allocate and share, no display.
    #[must_use]
    pub fn vgem() -> Self {
        Self {
            name: "vgem".into(),
            prime: true,
            handle_to_fd: true,
            fd_to_handle: true,
            import: Import::NoMap,
            ops: &prime::GEM_PRIME_OPS,
            get_sg_table: true,
            null_sg_table: false,
            pin: Pin::Works,
            vmap: true,
            destroys_all_as_imports: false,
            mmap_ignores_offset: true,
            render: true,
            modeset: false,
            dumb: true,
            closefb: true,
            modifiers: true,
            empty_lease: true,
            width: (0, 0),
            height: (0, 0),
            formats: &[],
            planes: 0,
            first_id: 1,
            vgem_fences: true,
            dma: DmaDevice::Direct,
            rdev: 226 << 8,
        }
    }

    /// vkms of Linux 7.2: a display with a primary and a cursor plane, 10 to 8192 pixels either way.
    #[must_use]
    pub fn vkms() -> Self {
        Self {
            name: "vkms".into(),
            render: false,
            vgem_fences: false,
            modeset: true,
            width: (10, 8192),
            height: (10, 8192),
            formats: formats::VKMS,
            planes: 2,
            first_id: 42,
            rdev: 226 << 8 | 1,
            ..Self::vgem()
        }
    }
}

/// Which node of a device is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    /// `cardN`. The first to open it is master.
    Primary,
    /// `renderDN`: no modesetting, no dumb buffers.
    Render,
}

/// Locks of a device.
#[derive(Debug)]
pub(super) struct DeviceLocks {
    pub(super) object_name: ModelLock,
    pub(super) struct_mutex: ModelLock,
}

#[derive(Debug)]
pub(super) struct DeviceState {
    pub(super) driver: Arc<Driver>,
    pub(super) locks: Arc<DeviceLocks>,
    pub(super) framebuffers: Idr<FramebufferKey>,
    /// Global names of objects.
    pub(super) names: Idr<ObjectKey>,
    /// What each plane shows.
    pub(super) planes: Vec<Option<FramebufferKey>>,
    /// The current master.
    pub(super) master: Option<u64>,
    pub(super) unplugged: bool,
    /// Bus addresses given out so far.
    pub(super) dma: DmaDevice,
}

impl DeviceState {
    pub(super) fn new(driver: Driver) -> Self {
        let locks = DeviceLocks {
            object_name: ModelLock::new(LockClass::ObjectName),
            struct_mutex: ModelLock::new(LockClass::Struct),
        };
        Self {
            locks: Arc::new(locks),
            framebuffers: Idr::new(driver.first_id),
            names: Idr::new(1),
            planes: vec![None; driver.planes],
            master: None,
            unplugged: false,
            dma: driver.dma.clone(),
            driver: Arc::new(driver),
        }
    }
}

/// A DRM device of a [`Machine`].
#[derive(Debug, Clone)]
pub struct Device {
    pub(super) machine: Machine,
    pub(super) key: DeviceKey,
}

impl Device {
    pub(super) fn new(machine: Machine, key: DeviceKey) -> Self {
        Self { machine, key }
    }

    /// The machine it is plugged into.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Opens a node.
    ///
    /// # Errors
    /// `ENOENT` for a node it does not have, `ENODEV` once unplugged, `EMFILE`.
    pub fn open(&self, node: Node) -> Result<File, Errno> {
        self.machine
            .call(|call| file::open(call, self.key, node))
            .map(|opened| File::new(self.clone(), opened))
    }

    /// Pulls the device out (`drm_dev_unplug`): every call on it answers `ENODEV`; what it holds stays until closed.
    pub fn unplug(&self) {
        self.machine.state().devices[self.key].unplugged = true;
    }

    /// Id of the framebuffer that a plane shows.
    #[must_use]
    pub fn plane_framebuffer(&self, plane: usize) -> Option<u32> {
        let state = self.machine.state();
        let shown = (*state.devices[self.key].planes.get(plane)?)?;
        state.framebuffers.get(shown).map(|framebuffer| framebuffer.id)
    }
}
