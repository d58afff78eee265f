//! [`KernelDevice`]: the real DRM device, on a file description of its own, and how it comes by one.
//! It commits nothing and never becomes master; it owns its descriptor and no handles.

use std::{
    fmt, io,
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use drm_ffi::drm_sys;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::{
    device::{DumbAllocation, FramebufferRequest, GemDevice},
    sys::{self, Mapping},
};

/// How a [`KernelDevice`] got its file description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquisition {
    /// A lease of no objects. Survives the loss of master, needs no permission on the node.
    EmptyLease {
        /// The kernel's number of the lessee.
        lessee: u32,
    },
    /// The node was opened again.
    SecondOpen,
    /// The master's own file: nobody else in the process may import or close handles on it.
    Degraded,
}

/// What a device does without although its kernel may have it: an older kernel's ways, run on a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Denials {
    /// Leases of no objects (Linux 5.15): the node is opened again.
    pub empty_lease: bool,
    /// `CLOSEFB` (Linux 6.8): framebuffers are given up with `RMFB`.
    pub closefb: bool,
    /// Modifiers in `ADDFB2`: the flag is never sent.
    pub modifiers: bool,
}

impl Denials {
    /// Everything that can be denied.
    pub const ALL: Self = Self { empty_lease: true, closefb: true, modifiers: true };
}

/// A device could not be acquired.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The descriptor is not a DRM device.
    #[error("the descriptor is not a drm device")]
    NotDrm(#[source] io::Error),
    /// The node belongs to another device than the master.
    #[error("{} is device {got:#x}, and the master's is {expected:#x}", node.display())]
    WrongNode {
        /// The node that was opened.
        node: PathBuf,
        /// `st_rdev` of the master's file.
        expected: u64,
        /// `st_rdev` of the node.
        got: u64,
    },
    /// The driver neither imports nor exports dma-bufs (`DRM_CAP_PRIME`).
    #[error("driver {driver} cannot import dma-bufs (prime capability {capability})")]
    NoPrime {
        /// The driver's name.
        driver: String,
        /// The capability's value.
        capability: u64,
    },
    /// A system call failed that should not.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why one way to a file description did not work; for the log only, since the next way is tried.
#[derive(Debug, thiserror::Error)]
enum Attempt {
    #[error("{0}: {1}")]
    Call(&'static str, #[source] io::Error),
    #[error("it is the master's own file")]
    SameFile,
    #[error("it is device {0:#x}")]
    OtherDevice(u64),
    #[error("no node is known")]
    NoNode,
}

/// A kernel DRM device on a file description of its own (see [`KernelDevice::acquire`]).
pub struct KernelDevice {
    fd: OwnedFd,
    rdev: u64,
    driver: String,
    modifiers: bool,
    acquisition: Acquisition,
    denials: Denials,
    /// Set once the kernel has said that it has no `CLOSEFB`.
    no_closefb: AtomicBool,
}

impl fmt::Debug for KernelDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelDevice")
            .field("fd", &self.fd.as_raw_fd())
            .field("rdev", &format_args!("{:#x}", self.rdev))
            .field("driver", &self.driver)
            .field("acquisition", &self.acquisition)
            .finish_non_exhaustive()
    }
}

impl KernelDevice {
    /// Gets a file description of its own on the master's device.
    ///
    /// In this order: an empty lease (while `master` is master; the only way for a user who may not open the node); a
    /// second open of `node`, authenticated by the master and never left master itself; the master's own
    /// file, reported once in the log, with which gbm and EGL must not be used. The first two are verified: the same
    /// `st_rdev`, and `kcmp` says another file.
    ///
    /// `master` is only borrowed, and is not touched beyond the lease and the authentication.
    ///
    /// # Errors
    /// [`DeviceError::NotDrm`] if `master` is no DRM device; [`DeviceError::WrongNode`] if `node` is another device,
    /// which no other way would repair; [`DeviceError::NoPrime`] if its driver cannot import.
    pub fn acquire(master: BorrowedFd<'_>, node: Option<&Path>) -> Result<Self, DeviceError> {
        Self::acquire_without(Denials::default(), master, node)
    }

    /// [`KernelDevice::acquire`] on a kernel that is taken to lack what `denials` name. The kernel is not asked for it, so that
    /// the ways around it are the ones that run.
    ///
    /// # Errors
    /// As [`KernelDevice::acquire`].
    pub fn acquire_without(
        denials: Denials,
        master: BorrowedFd<'_>,
        node: Option<&Path>,
    ) -> Result<Self, DeviceError> {
        let mut device = Self::acquire_file(denials.empty_lease, master, node)?;
        device.modifiers &= !denials.modifiers;
        device.denials = denials;
        Ok(device)
    }

    fn acquire_file(
        no_lease: bool,
        master: BorrowedFd<'_>,
        node: Option<&Path>,
    ) -> Result<Self, DeviceError> {
        driver_name(master).map_err(DeviceError::NotDrm)?;
        let rdev = rdev(master).map_err(DeviceError::NotDrm)?;
        let lease = match no_lease {
            true => Err(Attempt::Call("create a lease", Errno::INVAL.into())),
            false => Self::empty_lease(master, rdev),
        };
        let lease = match lease {
            Ok((fd, lessee)) => return Self::on_file(fd, Acquisition::EmptyLease { lessee }),
            Err(attempt) => attempt,
        };
        tracing::debug!(err = %lease, "no empty lease");
        let open = match Self::second_open(master, node, rdev) {
            Ok(fd) => return Self::on_file(fd, Acquisition::SecondOpen),
            Err(Attempt::OtherDevice(got)) => {
                let node = node.map(Path::to_owned).unwrap_or_default();
                return Err(DeviceError::WrongNode { node, expected: rdev, got });
            }
            Err(attempt) => attempt,
        };
        tracing::warn!(%lease, %open, "drm file is shared with the master: no gbm or egl on it");
        let fd = sys::dup(master)
            .map_err(|source| DeviceError::System { action: "duplicate the master's descriptor", source })?;
        Self::on_file(fd, Acquisition::Degraded)
    }

    /// [`KernelDevice::acquire`] without the lease, for tests and for kernels whose leases misbehave.
    ///
    /// # Errors
    /// As [`KernelDevice::acquire`]; [`DeviceError::System`] if the node cannot be opened.
    pub fn open_again(master: BorrowedFd<'_>, node: &Path) -> Result<Self, DeviceError> {
        let rdev = rdev(master).map_err(DeviceError::NotDrm)?;
        match Self::second_open(master, Some(node), rdev) {
            Ok(fd) => Self::on_file(fd, Acquisition::SecondOpen),
            Err(Attempt::OtherDevice(got)) => {
                Err(DeviceError::WrongNode { node: node.to_owned(), expected: rdev, got })
            }
            Err(Attempt::Call(action, source)) => Err(DeviceError::System { action, source }),
            Err(Attempt::SameFile | Attempt::NoNode) => Err(DeviceError::System {
                action: "get a file of its own",
                source: io::ErrorKind::Other.into(),
            }),
        }
    }

    /// Takes a descriptor of a DRM node that nothing else in the process imports on, such as a vgem node of one's own.
    ///
    /// # Errors
    /// As [`KernelDevice::acquire`].
    pub fn from_own_file(fd: OwnedFd) -> Result<Self, DeviceError> {
        drop_master(fd.as_fd());
        Self::on_file(fd, Acquisition::SecondOpen)
    }

    fn empty_lease(master: BorrowedFd<'_>, rdev: u64) -> Result<(OwnedFd, u32), Attempt> {
        let flags = OFlags::CLOEXEC.bits() | OFlags::NONBLOCK.bits();
        let lease = retry(|| drm_ffi::mode::create_lease(master, &[], flags))
            .map_err(|source| Attempt::Call("create a lease", source))?;
        let raw = i32::try_from(lease.fd)
            .map_err(|_| Attempt::Call("create a lease", io::ErrorKind::InvalidData.into()))?;
        let fd = sys::adopt(raw);
        verify(master, fd.as_fd(), rdev)?;
        Ok((fd, lease.lessee_id))
    }

    fn second_open(master: BorrowedFd<'_>, node: Option<&Path>, rdev: u64) -> Result<OwnedFd, Attempt> {
        let node = node.ok_or(Attempt::NoNode)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let fd = rustix::fs::open(node, flags, Mode::empty())
            .map_err(|errno| Attempt::Call("open the node again", errno.into()))?;
        drop_master(fd.as_fd());
        verify(master, fd.as_fd(), rdev)?;
        authenticate(master, fd.as_fd());
        Ok(fd)
    }

    fn on_file(fd: OwnedFd, acquisition: Acquisition) -> Result<Self, DeviceError> {
        let driver = driver_name(fd.as_fd()).map_err(DeviceError::NotDrm)?;
        let rdev = rdev(fd.as_fd()).map_err(DeviceError::NotDrm)?;
        let capability = |which: u32| {
            drm_ffi::get_capability(fd.as_fd(), u64::from(which)).map(|answer| answer.value).unwrap_or(0)
        };
        let prime = capability(drm_sys::DRM_CAP_PRIME);
        if prime & u64::from(drm_sys::DRM_PRIME_CAP_IMPORT) == 0 {
            return Err(DeviceError::NoPrime { driver, capability: prime });
        }
        let modifiers = capability(drm_sys::DRM_CAP_ADDFB2_MODIFIERS) == 1;
        tracing::debug!(%driver, ?acquisition, modifiers, "prime device ready");
        let (denials, no_closefb) = (Denials::default(), AtomicBool::new(false));
        Ok(Self { fd, rdev, driver, modifiers, acquisition, denials, no_closefb })
    }

    /// How the file description came about.
    #[must_use]
    pub fn acquisition(&self) -> Acquisition {
        self.acquisition
    }

    /// Name of the kernel driver, e.g. `vkms`.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Whether this device's file is another one than `other` (`kcmp`); `None` if the kernel cannot tell.
    #[must_use]
    pub fn is_apart_from(&self, other: BorrowedFd<'_>) -> Option<bool> {
        sys::same_file(self.fd.as_fd(), other).ok().map(|same| !same)
    }
}

/// The descriptor, for looking only (capabilities, object properties): handles and framebuffers on it are this crate's.
impl AsFd for KernelDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl GemDevice for KernelDevice {
    fn driver(&self) -> &str {
        &self.driver
    }

    fn dev_id(&self) -> u64 {
        self.rdev
    }

    fn supports_modifiers(&self) -> bool {
        self.modifiers
    }

    /// Linux 5.19 gave dma-bufs inode numbers of their own, 64 bits wide and never used twice (dma-buf.c). Before 5.3 all
    /// share one; in between the number comes from `get_next_ino`, whose 32 bits pipes and sockets use up, too, so that two
    /// live dma-bufs can meet. On the master's own file somebody else may close handles, and only the kernel knows.
    fn identifies_dmabufs(&self) -> bool {
        self.acquisition != Acquisition::Degraded
            && std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .is_ok_and(|release| has_dmabuf_inodes(&release))
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.fd.as_raw_fd()]
    }

    fn is_dmabuf_on(&self, fd: BorrowedFd<'_>, dev: u64) -> io::Result<bool> {
        crate::dmabuf::is_dmabuf_on(fd, dev)
    }

    fn prime_fd_to_handle(&self, fd: BorrowedFd<'_>) -> io::Result<NonZeroU32> {
        nonzero(retry(|| drm_ffi::gem::fd_to_handle(self.fd.as_fd(), fd))?.handle)
    }

    fn prime_handle_to_fd(&self, handle: NonZeroU32) -> io::Result<OwnedFd> {
        let flags = drm_sys::DRM_CLOEXEC | drm_sys::DRM_RDWR;
        let answer = retry(|| drm_ffi::gem::handle_to_fd(self.fd.as_fd(), handle.get(), flags))?;
        Ok(sys::adopt(answer.fd))
    }

    fn gem_close(&self, handle: NonZeroU32) -> io::Result<()> {
        retry(|| drm_ffi::gem::close(self.fd.as_fd(), handle.get())).map(drop)
    }

    fn add_framebuffer(&self, request: &FramebufferRequest) -> io::Result<NonZeroU32> {
        if self.denials.modifiers && request.modifier.is_some() {
            return Err(Errno::INVAL.into());
        }
        let mut handles = [0; 4];
        let (mut pitches, mut offsets, mut modifiers) = ([0; 4], [0; 4], [0; 4]);
        for (index, (handle, layout)) in request.planes.iter().flatten().enumerate() {
            handles[index] = handle.get();
            pitches[index] = layout.stride;
            offsets[index] = layout.offset;
            modifiers[index] = request.modifier.map_or(0, u64::from);
        }
        let flags = if request.modifier.is_some() { drm_sys::DRM_MODE_FB_MODIFIERS } else { 0 };
        let answer = retry(|| {
            drm_ffi::mode::add_fb2(
                self.fd.as_fd(),
                request.width,
                request.height,
                request.format as u32,
                &handles,
                &pitches,
                &offsets,
                &modifiers,
                flags,
            )
        })?;
        nonzero(answer.fb_id)
    }

    fn close_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        let close = || match self.denials.closefb {
            true => Err(Errno::INVAL.into()),
            false => retry(|| sys::close_framebuffer(self.fd.as_fd(), id.get())),
        };
        close_or_remove(&self.no_closefb, close, || self.remove_framebuffer(id))
    }

    fn remove_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        retry(|| drm_ffi::mode::rm_fb(self.fd.as_fd(), id.get()))
    }

    fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> io::Result<DumbAllocation> {
        let answer = retry(|| drm_ffi::mode::dumbbuffer::create(self.fd.as_fd(), width, height, bpp, 0))?;
        Ok(DumbAllocation { handle: nonzero(answer.handle)?, stride: answer.pitch, size: answer.size })
    }

    fn map_dumb(&self, handle: NonZeroU32, len: usize) -> io::Result<Mapping> {
        let answer = retry(|| drm_ffi::mode::dumbbuffer::map(self.fd.as_fd(), handle.get(), 0, 0))?;
        Mapping::of_fd(self.fd.as_fd(), answer.offset, len, true)
    }
}

/// Name of the driver behind a DRM descriptor (`DRM_IOCTL_VERSION`); works on any node and needs no rights.
///
/// # Errors
/// The kernel's errno; `ENOTTY` if `fd` is no DRM device.
pub fn driver_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = Vec::new();
    retry(|| drm_ffi::get_version(fd, Some(&mut name), None, None))?;
    Ok(name.into_iter().map(|byte| byte as u8 as char).take_while(|c| *c != '\0').collect())
}

/// Another file description of the same device, or the reason why not.
fn verify(master: BorrowedFd<'_>, fd: BorrowedFd<'_>, expected: u64) -> Result<(), Attempt> {
    let got = rdev(fd).map_err(|source| Attempt::Call("ask for the device number", source))?;
    if got != expected {
        return Err(Attempt::OtherDevice(got));
    }
    match sys::same_file(master, fd) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Attempt::SameFile),
        // A lease and an open make a new file by their nature; without kcmp that has to do.
        Err(err) => {
            tracing::warn!(%err, "cannot verify that the drm file is a separate one");
            Ok(())
        }
    }
}

/// Gives up master on a file that became it by being the first to open the node.
fn drop_master(fd: BorrowedFd<'_>) {
    // AUTH_MAGIC of no token is EACCES unless the file is master (drm_auth.c), and has no effect.
    let refused = |err: &io::Error| err.raw_os_error() == Some(Errno::ACCESS.raw_os_error());
    if drm_ffi::auth::auth_magic_token(fd, 0).is_err_and(|err| refused(&err)) {
        return;
    }
    match drm_ffi::auth::release_master(fd) {
        Ok(()) => tracing::debug!("opening the node made it master: dropped"),
        // Render nodes have no master and refuse the call.
        Err(err) => tracing::debug!(%err, "no master to drop"),
    }
}

/// Has the master vouch for a second file. Kernels since 5.x import without; older ones answer `EACCES` otherwise.
fn authenticate(master: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
    let outcome = drm_ffi::auth::get_magic_token(fd)
        .and_then(|token| drm_ffi::auth::auth_magic_token(master, token.magic));
    if let Err(err) = outcome {
        tracing::debug!(%err, "second file is not authenticated");
    }
}

fn rdev(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_rdev)
}

/// Whether a kernel of that release gives each dma-buf an inode number of its own (5.19 and later).
fn has_dmabuf_inodes(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (5, 19))
}

fn nonzero(id: u32) -> io::Result<NonZeroU32> {
    NonZeroU32::new(id).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// `CLOSEFB`, or `RMFB` on a kernel that has said once that it has no `CLOSEFB`.
fn close_or_remove(
    no_closefb: &AtomicBool,
    close: impl FnOnce() -> io::Result<()>,
    remove: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    if !no_closefb.load(Ordering::Relaxed) {
        match close() {
            // An ioctl number beyond a kernel's table is EINVAL (drm_ioctl.c), which CLOSEFB itself only gives for
            // padding.
            Err(err) if is_missing_ioctl(&err) => {
                tracing::info!(%err, "no closefb on this kernel, using rmfb");
                no_closefb.store(true, Ordering::Relaxed);
            }
            done => return done,
        }
    }
    remove()
}

fn is_missing_ioctl(err: &io::Error) -> bool {
    let missing = [Errno::INVAL, Errno::NOTTY, Errno::OPNOTSUPP, Errno::NOSYS];
    missing.iter().any(|errno| err.raw_os_error() == Some(errno.raw_os_error()))
}

/// DRM ioctls give up with `EINTR` when a signal comes, and with `EAGAIN` to have the call made anew.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(err)
                if [Errno::INTR, Errno::AGAIN]
                    .map(|e| Some(e.raw_os_error()))
                    .contains(&err.raw_os_error()) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_drm_device_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = KernelDevice::acquire(null.as_fd(), None).unwrap_err();
        assert!(matches!(error, DeviceError::NotDrm(_)), "{error:?}");
        let error = KernelDevice::open_again(null.as_fd(), Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(error, DeviceError::WrongNode { .. }), "{error:?}");
    }

    #[test]
    fn a_kernel_without_closefb_is_asked_once() {
        let missing = AtomicBool::new(false);
        let asked = std::cell::Cell::new(0);
        let run = |errno: Option<Errno>| {
            let close = || {
                asked.set(asked.get() + 1);
                errno.map_or(Ok(()), |errno| Err(errno.into()))
            };
            close_or_remove(&missing, close, || Err(Errno::OVERFLOW.into())).map_err(|err| err.raw_os_error())
        };
        assert_eq!(run(None), Ok(()));
        assert_eq!(run(Some(Errno::NOENT)), Err(Some(Errno::NOENT.raw_os_error())));
        let removed = Err(Some(Errno::OVERFLOW.raw_os_error()));
        assert_eq!(run(Some(Errno::INVAL)), removed);
        assert_eq!(run(None), removed);
        assert_eq!(asked.get(), 3);
    }

    #[test]
    fn releases_without_inodes_are_asked() {
        for old in ["", "x", "5", "5.", "4.19.0-26-amd64", "5.2.21", "5.3.0", "5.18.19", "-5.19"] {
            assert!(!has_dmabuf_inodes(old), "{old}");
        }
        for new in ["5.19", "5.19.0-rc1", "6.1.0-41-cloud-amd64", "7.2.13", "10.0"] {
            assert!(has_dmabuf_inodes(new), "{new}");
        }
    }

    #[test]
    fn retry_ends_with_the_first_real_answer() {
        let mut answers = [Errno::INTR, Errno::AGAIN, Errno::NODEV].into_iter();
        let error = retry::<()>(|| Err(answers.next().unwrap_or(Errno::PERM).into())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    }
}
