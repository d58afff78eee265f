//! [`Faulty`]: a device whose calls fail when told to. It passes everything else on, and counts the calls.
//!
//! A fault is injected *instead of* the call: the device below never hears of it, as the contract wants of a failed call. So
//! what is left open afterwards was left by the caller.

use std::{
    io,
    num::NonZeroU32,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use crate::{
    device::{DumbAllocation, FramebufferRequest, GemDevice},
    sys::Mapping,
};

/// A call of the contract that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`GemDevice::prime_fd_to_handle`].
    FdToHandle,
    /// [`GemDevice::prime_handle_to_fd`].
    HandleToFd,
    /// [`GemDevice::gem_close`].
    GemClose,
    /// [`GemDevice::add_framebuffer`].
    AddFramebuffer,
    /// [`GemDevice::close_framebuffer`].
    CloseFramebuffer,
    /// [`GemDevice::remove_framebuffer`].
    RemoveFramebuffer,
    /// [`GemDevice::create_dumb`].
    CreateDumb,
    /// [`GemDevice::map_dumb`].
    MapDumb,
}

impl Call {
    /// All of them.
    pub const ALL: [Call; 8] = [
        Call::FdToHandle,
        Call::HandleToFd,
        Call::GemClose,
        Call::AddFramebuffer,
        Call::CloseFramebuffer,
        Call::RemoveFramebuffer,
        Call::CreateDumb,
        Call::MapDumb,
    ];
}

#[derive(Debug)]
struct Fault {
    call: Call,
    /// Uses of the call that still succeed first.
    after: u64,
    errno: Errno,
}

#[derive(Debug, Default)]
struct Script {
    faults: Vec<Fault>,
    uses: [u64; Call::ALL.len()],
    injected: u64,
}

/// A device with a script of failures.
///
/// ```no_run
/// use std::{os::fd::OwnedFd, sync::Arc};
/// use drm_prime::{HandleTable, KernelDevice, device::faults::{Call, Faulty}};
/// use rustix::io::Errno;
///
/// # fn demo(vgem: OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
/// let device = Arc::new(Faulty::new(KernelDevice::from_own_file(vgem)?));
/// let table = HandleTable::new(device.clone());
/// device.fail(Call::CreateDumb, 2, Errno::NOMEM);
/// let first = table.create_dumb(64, 64, 32)?;
/// assert!(table.create_dumb(64, 64, 32).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty<D> {
    inner: D,
    script: Mutex<Script>,
}

impl<D: GemDevice> Faulty<D> {
    /// A device that fails at nothing yet.
    pub fn new(inner: D) -> Self {
        Self { inner, script: Mutex::default() }
    }

    /// The device below.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Has the `nth` use of a call from now on fail, the next one being the first. 0 is as good as 1.
    pub fn fail(&self, call: Call, nth: u64, errno: Errno) {
        self.script().faults.push(Fault { call, after: nth.saturating_sub(1), errno });
    }

    /// Forgets failures that have not come to pass.
    pub fn clear(&self) {
        self.script().faults.clear();
    }

    /// How often a call has been made, failures included.
    pub fn uses(&self, call: Call) -> u64 {
        self.script().uses[call as usize]
    }

    /// How many failures have come to pass.
    pub fn injected(&self) -> u64 {
        self.script().injected
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        // Every change is one assignment.
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: Call) -> io::Result<&D> {
        let mut script = self.script();
        script.uses[call as usize] += 1;
        let mut failure = None;
        script.faults.retain_mut(|fault| {
            if fault.call != call {
                return true;
            }
            if fault.after == 0 && failure.is_none() {
                failure = Some(fault.errno);
                return false;
            }
            fault.after = fault.after.saturating_sub(1);
            true
        });
        match failure {
            Some(errno) => {
                script.injected += 1;
                Err(errno.into())
            }
            None => Ok(&self.inner),
        }
    }
}

impl<D: GemDevice> GemDevice for Faulty<D> {
    fn dev_id(&self) -> u64 {
        self.inner.dev_id()
    }

    fn driver(&self) -> &str {
        self.inner.driver()
    }

    fn supports_modifiers(&self) -> bool {
        self.inner.supports_modifiers()
    }

    fn identifies_dmabufs(&self) -> bool {
        self.inner.identifies_dmabufs()
    }

    fn is_dmabuf(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        self.inner.is_dmabuf(fd)
    }

    fn descriptors(&self) -> Vec<RawFd> {
        self.inner.descriptors()
    }

    fn prime_fd_to_handle(&self, fd: BorrowedFd<'_>) -> io::Result<NonZeroU32> {
        self.enter(Call::FdToHandle)?.prime_fd_to_handle(fd)
    }

    fn prime_handle_to_fd(&self, handle: NonZeroU32) -> io::Result<OwnedFd> {
        self.enter(Call::HandleToFd)?.prime_handle_to_fd(handle)
    }

    fn gem_close(&self, handle: NonZeroU32) -> io::Result<()> {
        self.enter(Call::GemClose)?.gem_close(handle)
    }

    fn add_framebuffer(&self, request: &FramebufferRequest) -> io::Result<NonZeroU32> {
        self.enter(Call::AddFramebuffer)?.add_framebuffer(request)
    }

    fn close_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        self.enter(Call::CloseFramebuffer)?.close_framebuffer(id)
    }

    fn remove_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        self.enter(Call::RemoveFramebuffer)?.remove_framebuffer(id)
    }

    fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> io::Result<DumbAllocation> {
        self.enter(Call::CreateDumb)?.create_dumb(width, height, bpp)
    }

    fn map_dumb(&self, handle: NonZeroU32, len: usize) -> io::Result<Mapping> {
        self.enter(Call::MapDumb)?.map_dumb(handle, len)
    }
}

#[cfg(test)]
mod tests;
