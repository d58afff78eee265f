//! [`Faulty`]: a device whose calls fail when told to. It passes everything else on, and counts the calls. It can also give
//! itself out for another device than it is.
//!
//! A fault is injected *instead of* the call: the device below never hears of it, as the contract wants of a failed call. So
//! what is left open afterwards was left by the caller.

use std::{
    io,
    num::NonZeroU32,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
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
    /// Calls that wait until they are let go, and how many do.
    held: Vec<Call>,
    waiting: [usize; Call::ALL.len()],
    uses: [u64; Call::ALL.len()],
    injected: u64,
    request: Option<FramebufferRequest>,
}

/// A device with a script of failures.
///
/// ```
/// use std::sync::Arc;
/// use drm_prime::device::faults::{Call, Faulty};
/// use drm_prime::{Fault, HandleTable, model::{Driver, Machine, Node, Profile}};
/// use rustix::io::Errno;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let machine = Machine::new(Profile::MODERN);
/// let device = Arc::new(Faulty::new(machine.add_device(Driver::vgem()).open(Node::Primary)?));
/// let table = HandleTable::new(device.clone());
/// device.fail(Call::MapDumb, 2, Errno::NOMEM);
/// let first = table.create_dumb(64, 64, 32)?;
/// let error = table.create_dumb(64, 64, 32).unwrap_err();
/// assert_eq!(error.fault(), Fault::System);
/// assert_eq!(machine.census().handles, 1); // the handle of the second was given back
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty<D> {
    inner: D,
    driver: Option<&'static str>,
    identifies: bool,
    descriptors: Option<Vec<RawFd>>,
    yields: bool,
    script: Mutex<Script>,
    released: Condvar,
}

impl<D: GemDevice> Faulty<D> {
    /// A device that fails at nothing yet.
    pub fn new(inner: D) -> Self {
        let identifies = inner.identifies_dmabufs();
        Self {
            inner,
            driver: None,
            identifies,
            descriptors: None,
            yields: false,
            script: Mutex::default(),
            released: Condvar::new(),
        }
    }

    /// Gives itself out for a device of that kernel driver, for [`crate::quirks`].
    #[must_use]
    pub fn as_driver(mut self, driver: &'static str) -> Self {
        self.driver = Some(driver);
        self
    }

    /// Denies that an inode number names one dma-buf alone, as before Linux 5.19.
    #[must_use]
    pub fn without_identity(mut self) -> Self {
        self.identifies = false;
        self
    }

    /// Claims to hold these descriptors open.
    #[must_use]
    pub fn holding(mut self, descriptors: Vec<RawFd>) -> Self {
        self.descriptors = Some(descriptors);
        self
    }

    /// Lets other threads in before and after every call, where a missing lock shows.
    #[must_use]
    pub fn yielding(mut self) -> Self {
        self.yields = true;
        self
    }

    /// The device below.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Has the `nth` use of a call from now on fail, the next one being the first. 0 is as good as 1.
    pub fn fail(&self, call: Call, nth: u64, errno: Errno) {
        self.script().faults.push(Fault { call, after: nth.saturating_sub(1), errno });
    }

    /// Has every use of a call from now on wait, as if the exporter's driver took its time, until [`release`](Self::release).
    pub fn hold(&self, call: Call) {
        self.script().held.push(call);
    }

    /// Lets the held uses of a call go on.
    pub fn release(&self, call: Call) {
        self.script().held.retain(|held| *held != call);
        self.released.notify_all();
    }

    /// How many threads wait in a held call.
    pub fn waiting(&self, call: Call) -> usize {
        self.script().waiting[call as usize]
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

    /// The framebuffer that was last asked for, made or not.
    pub fn last_request(&self) -> Option<FramebufferRequest> {
        self.script().request
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        // Every change is one assignment.
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<R>(&self, call: Call, pass_on: impl FnOnce(&D) -> io::Result<R>) -> io::Result<R> {
        if self.yields {
            std::thread::yield_now();
        }
        self.wait_while_held(call);
        let outcome = self.fault(call).map_or_else(|| pass_on(&self.inner), |errno| Err(errno.into()));
        if self.yields {
            std::thread::yield_now();
        }
        outcome
    }

    fn wait_while_held(&self, call: Call) {
        let mut script = self.script();
        script.waiting[call as usize] += 1;
        while script.held.contains(&call) {
            script = self.released.wait(script).unwrap_or_else(PoisonError::into_inner);
        }
        script.waiting[call as usize] -= 1;
    }

    /// Counts a use of a call; the errno if it is to fail.
    fn fault(&self, call: Call) -> Option<Errno> {
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
        script.injected += u64::from(failure.is_some());
        failure
    }
}

impl<D: GemDevice> GemDevice for Faulty<D> {
    fn dev_id(&self) -> u64 {
        self.inner.dev_id()
    }

    fn driver(&self) -> &str {
        self.driver.unwrap_or_else(|| self.inner.driver())
    }

    fn supports_modifiers(&self) -> bool {
        self.inner.supports_modifiers()
    }

    fn identifies_dmabufs(&self) -> bool {
        self.identifies
    }

    fn is_dmabuf(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        self.inner.is_dmabuf(fd)
    }

    fn is_dmabuf_on(&self, fd: BorrowedFd<'_>, dev: u64) -> io::Result<bool> {
        self.inner.is_dmabuf_on(fd, dev)
    }

    fn descriptors(&self) -> Vec<RawFd> {
        self.descriptors.clone().unwrap_or_else(|| self.inner.descriptors())
    }

    fn prime_fd_to_handle(&self, fd: BorrowedFd<'_>) -> io::Result<NonZeroU32> {
        self.call(Call::FdToHandle, |inner| inner.prime_fd_to_handle(fd))
    }

    fn prime_handle_to_fd(&self, handle: NonZeroU32) -> io::Result<OwnedFd> {
        self.call(Call::HandleToFd, |inner| inner.prime_handle_to_fd(handle))
    }

    fn gem_close(&self, handle: NonZeroU32) -> io::Result<()> {
        self.call(Call::GemClose, |inner| inner.gem_close(handle))
    }

    fn add_framebuffer(&self, request: &FramebufferRequest) -> io::Result<NonZeroU32> {
        self.script().request = Some(*request);
        self.call(Call::AddFramebuffer, |inner| inner.add_framebuffer(request))
    }

    fn close_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        self.call(Call::CloseFramebuffer, |inner| inner.close_framebuffer(id))
    }

    fn remove_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        self.call(Call::RemoveFramebuffer, |inner| inner.remove_framebuffer(id))
    }

    fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> io::Result<DumbAllocation> {
        self.call(Call::CreateDumb, |inner| inner.create_dumb(width, height, bpp))
    }

    fn map_dumb(&self, handle: NonZeroU32, len: usize) -> io::Result<Mapping> {
        self.call(Call::MapDumb, |inner| inner.map_dumb(handle, len))
    }
}

#[cfg(test)]
mod tests;
