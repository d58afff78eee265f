//! A device that behaves like one DRM file, for this crate's tests: lowest-free handles that are reused at once, one handle per
//! buffer and file, `EINVAL` for a handle it does not have. Memfds stand for dma-bufs. No planes, no pixels.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    num::NonZeroU32,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use crate::{
    device::{DumbAllocation, FramebufferRequest, GemDevice},
    dmabuf::{DmabufId, real_size},
    format,
    sys::Mapping,
};

/// What stands behind a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Object {
    pub serial: u64,
    pub size: u64,
    pub dmabuf: Option<DmabufId>,
}

#[derive(Debug, Default)]
pub(crate) struct FakeState {
    pub handles: BTreeMap<NonZeroU32, Object>,
    /// The memfd of each object that was imported or exported: its one dma-buf as long as its handle is open.
    exports: HashMap<u64, OwnedFd>,
    pub framebuffers: BTreeMap<NonZeroU32, FramebufferRequest>,
    serial: u64,
    /// Errno of the next call of that name.
    pub fail: HashMap<&'static str, Errno>,
    /// Calls so far, by name.
    pub calls: HashMap<&'static str, usize>,
    /// Closes of handles that were not open.
    pub bad_closes: usize,
}

#[derive(Debug)]
pub(crate) struct FakeDevice {
    state: Mutex<FakeState>,
    pub dev: u64,
    pub modifiers: bool,
    pub identifies: bool,
    pub driver: &'static str,
    /// Lets other threads in around every call, where a missing lock would show.
    pub yields: bool,
}

impl FakeDevice {
    pub(crate) fn new(dev: u64) -> Self {
        Self { state: Mutex::default(), dev, modifiers: true, identifies: true, driver: "", yields: false }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FakeState> {
        // A failed assertion poisons it, and drops during its unwinding must not panic on top.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn calls(&self, name: &'static str) -> usize {
        self.state().calls.get(name).copied().unwrap_or(0)
    }

    fn call(&self, name: &'static str) -> io::Result<MutexGuard<'_, FakeState>> {
        if self.yields {
            std::thread::yield_now();
        }
        let mut state = self.state();
        *state.calls.entry(name).or_default() += 1;
        match state.fail.remove(name) {
            Some(errno) => Err(errno.into()),
            None => Ok(state),
        }
    }

    fn done(&self) {
        if self.yields {
            std::thread::yield_now();
        }
    }
}

/// A buffer of some other exporter.
pub(crate) fn memory(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("buffer", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

fn lowest_free<T>(map: &BTreeMap<NonZeroU32, T>) -> NonZeroU32 {
    (1..).filter_map(NonZeroU32::new).find(|number| !map.contains_key(number)).unwrap()
}

impl GemDevice for FakeDevice {
    fn dev_id(&self) -> u64 {
        self.dev
    }

    fn supports_modifiers(&self) -> bool {
        self.modifiers
    }

    fn driver(&self) -> &str {
        self.driver
    }

    fn identifies_dmabufs(&self) -> bool {
        self.identifies
    }

    fn descriptors(&self) -> Vec<std::os::fd::RawFd> {
        vec![7, 3]
    }

    fn prime_fd_to_handle(&self, fd: BorrowedFd<'_>) -> io::Result<NonZeroU32> {
        let (dmabuf, size) = (DmabufId::of(fd)?, real_size(fd)?);
        let mut state = self.call("import")?;
        let known =
            state.handles.iter().find(|(_, object)| object.dmabuf == Some(dmabuf)).map(|(handle, _)| *handle);
        let handle = match known {
            Some(handle) => handle,
            None => {
                state.serial += 1;
                let object = Object { serial: state.serial, size, dmabuf: Some(dmabuf) };
                state.exports.insert(object.serial, fd.try_clone_to_owned()?);
                let handle = lowest_free(&state.handles);
                state.handles.insert(handle, object);
                handle
            }
        };
        drop(state);
        self.done();
        Ok(handle)
    }

    fn prime_handle_to_fd(&self, handle: NonZeroU32) -> io::Result<OwnedFd> {
        let mut state = self.call("export")?;
        let mut object = *state.handles.get(&handle).ok_or(Errno::NOENT)?;
        if let Some(fd) = state.exports.get(&object.serial) {
            return fd.try_clone();
        }
        let fd = memory(object.size);
        object.dmabuf = Some(DmabufId::of(fd.as_fd())?);
        state.handles.insert(handle, object);
        state.exports.insert(object.serial, fd.try_clone()?);
        Ok(fd)
    }

    fn gem_close(&self, handle: NonZeroU32) -> io::Result<()> {
        let mut state = self.call("close")?;
        let removed = state.handles.remove(&handle);
        match removed {
            Some(object) => drop(state.exports.remove(&object.serial)),
            None => state.bad_closes += 1,
        }
        drop(state);
        self.done();
        removed.map(drop).ok_or_else(|| Errno::INVAL.into())
    }

    fn add_framebuffer(&self, request: &FramebufferRequest) -> io::Result<NonZeroU32> {
        let mut state = self.call("addfb")?;
        let info = format::info(request.format).ok_or(Errno::INVAL)?;
        for (index, (handle, layout)) in request.planes.iter().flatten().enumerate() {
            let object = state.handles.get(handle).ok_or(Errno::NOENT)?;
            let end = info.plane_end(index, request.width, request.height, layout.offset, layout.stride);
            if end > object.size {
                return Err(Errno::INVAL.into());
            }
        }
        let id = lowest_free(&state.framebuffers);
        state.framebuffers.insert(id, *request);
        Ok(id)
    }

    fn close_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        let mut state = self.call("closefb")?;
        state.framebuffers.remove(&id).map(drop).ok_or_else(|| Errno::NOENT.into())
    }

    fn remove_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        let mut state = self.call("rmfb")?;
        state.framebuffers.remove(&id).map(drop).ok_or_else(|| Errno::NOENT.into())
    }

    fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> io::Result<DumbAllocation> {
        let mut state = self.call("create")?;
        if width == 0 || height == 0 {
            return Err(Errno::INVAL.into());
        }
        let stride = width * bpp.div_ceil(8);
        let size = (u64::from(stride) * u64::from(height)).next_multiple_of(4096);
        state.serial += 1;
        let object = Object { serial: state.serial, size, dmabuf: None };
        let handle = lowest_free(&state.handles);
        state.handles.insert(handle, object);
        Ok(DumbAllocation { handle, stride, size })
    }

    fn map_dumb(&self, handle: NonZeroU32, len: usize) -> io::Result<Mapping> {
        let state = self.call("map")?;
        state.handles.get(&handle).ok_or(Errno::NOENT)?;
        Mapping::anonymous(len)
    }
}
