//! The PRIME system in software: [`Machine`] is a kernel with DRM devices, GEM objects, dma-bufs and framebuffers, and
//! answers as Linux 7.2 does, errno for errno, or as the kernel of 2013 that [`Profile::SEED`] stands for.
//!
//! It runs on tokens, without system calls: a [`DmabufFd`] is a descriptor that exists in this machine only. Memory and real
//! descriptors are made when a mapping or [`DmabufFd::into_owned`] asks for them. What the C does where
//! references or pointers go wrong is reported as an [`Event`], never done.
//!
//! This file owns the machine's state and the way in and out of a call. The calls are in the modules named after the
//! kernel's files.
//!
//! ```
//! use drm_prime::model::{Driver, FdArg, Machine, Node, Profile};
//! use rustix::io::Errno;
//!
//! # fn main() -> Result<(), Errno> {
//! let machine = Machine::new(Profile::MODERN);
//! let (vgem, vkms) = (machine.add_device(Driver::vgem()), machine.add_device(Driver::vkms()));
//! let (renderer, display) = (vgem.open(Node::Primary)?, vkms.open(Node::Primary)?);
//! let dumb = renderer.create_dumb(64, 64, 32)?;
//! let fd = renderer.handle_to_fd(dumb.handle, 0)?;
//! assert_eq!(fd.count(), 3); // the descriptor, the object's link and the file's cache
//! let handle = display.fd_to_handle(FdArg::Dmabuf(&fd))?;
//! assert_eq!(display.fd_to_handle(FdArg::Dmabuf(&fd))?, handle);
//! display.gem_close(handle)?;
//! assert_eq!(display.gem_close(handle), Err(Errno::INVAL));
//! drop((fd, renderer, display));
//! assert!(machine.census().is_empty());
//! # Ok(())
//! # }
//! ```

mod arena;
mod attachment;
mod cache;
mod descriptor;
mod device;
mod dmabuf;
mod dumb;
mod escape;
mod event;
mod fault;
pub mod fence;
mod file;
mod formats;
mod gem_device;
mod handles;
mod kms;
mod lock;
pub mod memory;
mod names;
mod object;
mod plain;
mod prime;
mod profile;
pub mod rows;
pub mod sg;
pub(crate) mod sync;
mod sync_file;
mod syscall;
mod udmabuf;

use std::{collections::HashMap, sync::Arc};

use rustix::io::Errno;

pub use attachment::{Direction, Importer, SgTableId};
pub use descriptor::{DmabufFd, DmabufMap, Whence};
pub use device::{Device, Driver, Import, Node, Pin};
pub use dmabuf::DmabufOps;
pub use dumb::{Dumb, DumbMap};
pub use event::{Event, EventKind, WOULD_OOPS};
pub use fault::FaultPoint;
pub use file::{DRM_CLOEXEC, DRM_RDWR, FdArg, File};
pub use kms::{Fb, Fb2, Fb2Request, MODIFIERS};
pub use lock::LockClass;
pub use prime::DRIVER_OPS;
pub use profile::{Profile, SeedTrait};
pub use sync_file::{SyncFile, SyncFileInfo};
pub use udmabuf::UdmabufMemory;

use arena::{Key, Slab};
use attachment::{Attachment, MappedTable, PrimeAttachment};
use device::DeviceState;
use dmabuf::DmaBuf;
use fault::Faults;
use fence::Clock;
use file::FileState;
use kms::Framebuffer;
use memory::Frames;
use object::Object;
use sync::{Mutex, MutexGuard};
use syscall::Syscall;

use crate::DmabufId;

/// How many events are kept: a seed that runs for hours warns at almost every close.
const EVENTS_KEPT: usize = 1 << 16;

type DeviceKey = usize;
type FileKey = Key<FileState>;
type ObjectKey = Key<Object>;
type DmaBufKey = Key<DmaBuf>;
type AttachmentKey = Key<Attachment>;
type FramebufferKey = Key<Framebuffer>;

/// Everything the kernel remembers. Locked for one step at a time, never while a modelled lock is taken.
#[derive(Debug, Default)]
struct State {
    devices: Vec<DeviceState>,
    files: Slab<FileState>,
    objects: Slab<Object>,
    dmabufs: Slab<DmaBuf>,
    attachments: Slab<Attachment>,
    privs: Slab<PrimeAttachment>,
    tables: Slab<MappedTable>,
    frames: Frames,
    clock: Arc<Clock>,
    /// dma-bufs that only a waiting poll keeps.
    lingering: Vec<DmaBufKey>,
    /// dma-bufs that only real descriptors keep.
    away: Vec<DmaBufKey>,
    /// How many dma-bufs there may be before those are asked for.
    sweep_at: usize,
    /// dma-bufs that have real descriptors.
    escaped: HashMap<DmabufId, DmaBufKey>,
    accept_foreign: bool,
    no_sync_files: bool,
    framebuffers: Slab<Framebuffer>,
    events: Vec<Event>,
    faults: Faults,
    descriptors: usize,
    descriptor_limit: Option<usize>,
    inodes: u64,
    masters: u64,
    unprivileged: bool,
}

impl State {
    fn report(&mut self, row: &'static str, kind: EventKind, detail: impl Into<String>) {
        let detail = detail.into();
        tracing::debug!(row, ?kind, detail, "the kernel would have gone wrong");
        if self.events.len() < EVENTS_KEPT {
            self.events.push(Event { row, kind, detail });
        }
    }

    /// Counts one more descriptor.
    fn reserve_fd(&mut self) -> Result<(), Errno> {
        self.faults.hit(FaultPoint::FdReserve)?;
        if self.descriptor_limit.is_some_and(|limit| self.descriptors >= limit) {
            return Err(Errno::MFILE);
        }
        self.descriptors += 1;
        Ok(())
    }
}

#[derive(Debug)]
struct Shared {
    profile: Profile,
    state: Mutex<State>,
}

/// A kernel. Clones are the same kernel.
#[derive(Debug, Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new(Profile::MODERN)
    }
}

impl Machine {
    /// A machine without devices.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self { shared: Arc::new(Shared { profile, state: Mutex::new(State::default()) }) }
    }

    /// Which kernel it runs.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.shared.profile
    }

    /// Plugs in a device.
    #[must_use]
    pub fn add_device(&self, driver: Driver) -> Device {
        let mut state = self.state();
        state.devices.push(DeviceState::new(driver));
        Device::new(self.clone(), state.devices.len() - 1)
    }

    /// Makes a dma-buf of `size` bytes (a multiple of 4096, at most 64 MiB) that no DRM device exported (udmabuf.c).
    ///
    /// # Errors
    /// `EINVAL` for other sizes; `ENOMEM`, `EMFILE`.
    pub fn udmabuf(&self, size: u64) -> Result<DmabufFd, Errno> {
        self.call(|call| dmabuf::udmabuf_create(call, size)).map(|key| DmabufFd::new(self.clone(), key))
    }

    /// Lets the `nth` use of a step from now on (the first is 1) fail once.
    pub fn fail(&self, point: FaultPoint, nth: u64, errno: Errno) {
        self.state().faults.arm(point, nth, errno);
    }

    /// Disarms all faults; says how many had not come to pass.
    pub fn clear_faults(&self) -> usize {
        let mut state = self.state();
        let pending = state.faults.pending();
        state.faults.clear();
        pending
    }

    /// Lets descriptors run out: at most `limit` of them (files and dma-bufs, duplicates too) may be open.
    pub fn limit_fds(&self, limit: Option<usize>) {
        self.state().descriptor_limit = limit;
    }

    /// Whether callers have `CAP_SYS_ADMIN`, as they have at first. Without it only a master gets handles from `GETFB`.
    pub fn set_admin(&self, admin: bool) {
        self.state().unprivileged = !admin;
    }

    /// Whether the kernel has `EXPORT_SYNC_FILE` and `IMPORT_SYNC_FILE` (6.0), as at first.
    pub fn set_sync_files(&self, present: bool) {
        self.state().no_sync_files = !present;
    }

    /// What fences take the time from.
    #[must_use]
    pub fn clock(&self) -> Arc<Clock> {
        self.state().clock.clone()
    }

    /// What the kernel would have done wrong so far, oldest first. Of more than 65,536 the latest are lost.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    /// Takes the events away.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().events)
    }

    /// Counts everything that is alive.
    #[must_use]
    pub fn census(&self) -> Census {
        // A signal, or a process that closed a descriptor, can have let go of something since the last call.
        self.call(escape::sweep);
        let state = self.state();
        Census {
            files: state.files.len(),
            descriptors: state.descriptors,
            handles: state.files.iter().map(|(_, file)| file.handles.len()).sum(),
            members: state.files.iter().map(|(_, file)| file.members.len()).sum(),
            objects: state.objects.len(),
            object_references: state.objects.iter().map(|(_, object)| u64::from(object.kref)).sum(),
            dmabufs: state.dmabufs.len(),
            dmabuf_references: state.dmabufs.iter().map(|(_, dmabuf)| u64::from(dmabuf.f_count)).sum(),
            attachments: state.attachments.len(),
            attachment_privs: state.privs.len(),
            sg_tables: state.tables.len(),
            pins: state.objects.iter().map(|(_, object)| u64::from(object.pin_count)).sum(),
            vmaps: state.dmabufs.iter().map(|(_, dmabuf)| u64::from(dmabuf.vmaps)).sum(),
            framebuffers: state.framebuffers.len(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.shared.state)
    }

    /// Runs one system call: afterwards, with all locks dropped, the last references that it gave up are released.
    fn call<R>(&self, body: impl FnOnce(&Syscall<'_>) -> R) -> R {
        let call = Syscall::new(&self.shared);
        let result = body(&call);
        call.exit();
        result
    }
}

/// How many things a machine holds. With all files, descriptors and mappings dropped, anything left has leaked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Open DRM files.
    pub files: usize,
    /// Descriptors of files and dma-bufs.
    pub descriptors: usize,
    /// GEM handles of all files, reserved numbers included.
    pub handles: usize,
    /// Entries of all files' caches.
    pub members: usize,
    /// GEM objects.
    pub objects: usize,
    /// References on them.
    pub object_references: u64,
    /// dma-bufs.
    pub dmabufs: usize,
    /// References on their files.
    pub dmabuf_references: u64,
    /// Attachments.
    pub attachments: usize,
    /// Private data of attachments (the seed's).
    pub attachment_privs: usize,
    /// Scatter/gather tables.
    pub sg_tables: usize,
    /// Pins on objects.
    pub pins: u64,
    /// Kernel mappings of dma-bufs.
    pub vmaps: u64,
    /// Framebuffers.
    pub framebuffers: usize,
}

impl Census {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests;
