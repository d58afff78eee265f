//! The device of this crate's tests: a display of the model that takes every format and any sealed memfd, behind [`Faulty`], and
//! questions about what is open on it. It checks nothing itself.

use std::{
    num::NonZeroU32,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, LazyLock},
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::{
    BufferPlane, Dmabuf, DmabufId, GemDevice,
    device::faults::Faulty,
    format,
    handles::{GemHandle, HandleTable},
    model::{Driver, File, Machine, Node, Profile},
};

pub(crate) type TestDevice = Faulty<File>;

/// A device of that number.
pub(crate) fn device(dev: u64) -> TestDevice {
    device_with(|driver| driver.rdev = dev)
}

/// A device like vkms that takes everything, except for what `change` says.
pub(crate) fn device_with(change: impl FnOnce(&mut Driver)) -> TestDevice {
    static FORMATS: LazyLock<Vec<u32>> =
        LazyLock::new(|| format::all().iter().map(|info| info.fourcc).collect());
    let mut driver = Driver { width: (1, 8192), height: (1, 8192), formats: &FORMATS, ..Driver::vkms() };
    change(&mut driver);
    let machine = Machine::new(Profile::MODERN);
    machine.accept_foreign(true);
    Faulty::new(machine.add_device(driver).open(Node::Primary).unwrap())
}

/// A buffer of some other exporter.
pub(crate) fn memory(size: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("buffer", flags).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    fd
}

/// A table on a device of its own.
pub(crate) fn table() -> (Arc<TestDevice>, HandleTable) {
    let device = Arc::new(device(0xe200));
    (device.clone(), HandleTable::new(device))
}

/// One plane of a description.
pub(crate) fn plane(fd: &OwnedFd, offset: u32, stride: u32) -> BufferPlane<'_> {
    BufferPlane { fd: fd.as_fd(), offset, stride }
}

/// 16x16 pixels of ARGB8888 in plain rows.
pub(crate) fn argb(fd: &OwnedFd, modifier: DrmModifier) -> Dmabuf<'_> {
    Dmabuf::new(16, 16, DrmFourcc::Argb8888, modifier, &[plane(fd, 0, 64)]).unwrap()
}

impl TestDevice {
    /// The kernel it is a device of.
    pub(crate) fn machine(&self) -> &Machine {
        self.inner().device().machine()
    }

    /// Handles that are open on it. There is no other file.
    pub(crate) fn handles(&self) -> usize {
        self.machine().census().handles
    }

    /// Framebuffers that exist.
    pub(crate) fn framebuffers(&self) -> usize {
        self.machine().census().framebuffers
    }

    /// Whether nothing is open, nothing leaked, and nothing went wrong on the way.
    pub(crate) fn is_clean(&self) -> bool {
        let census = self.machine().census();
        let left = (census.handles, census.members, census.objects, census.attachments, census.framebuffers);
        left == (0, 0, 0, 0, 0) && self.machine().events().is_empty()
    }

    /// The buffer that a handle names on the device right now. The question is not counted.
    pub(crate) fn named(&self, handle: &GemHandle) -> Option<DmabufId> {
        self.buffer_of(handle.raw())
    }

    /// As [`TestDevice::named`], by number.
    pub(crate) fn buffer_of(&self, handle: NonZeroU32) -> Option<DmabufId> {
        let fd = self.inner().prime_handle_to_fd(handle).ok()?;
        Some(DmabufId::of(fd.as_fd()).unwrap())
    }
}
