//! [`Timelines`]: DRM timeline syncobjs of one file, and [`Timeline`], one of them.
//!
//! Owns the handles: each is destroyed with its value. Does not own when a point is waited for or signalled, and keeps no
//! descriptor of a client.
//!
//! A syncobj is a container that two processes share; a *point* on it is a 64-bit number that signals once, together with
//! all before it. A point can be waited for before anybody has promised to signal it.
//!
//! # Contract
//!
//! - Unlike a GEM handle, each import makes a handle of its own, also of a syncobj that the file has already
//!   (drm_syncobj.c). Nobody counts, and closing one does not touch another.
//! - A handle takes no descriptor: what is imported can be closed.
//! - [`Timeline::watch`] registers with the kernel for good: the registration ends when the point signals or the syncobj
//!   itself goes, which its other holders decide, and not when the descriptor is closed. Who watches for a stranger counts.
//! - The points of a syncobj that another process holds change at any time, in any order.

use std::{
    io,
    num::NonZeroU32,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use drm_ffi::drm_sys;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

use super::kernel::{KernelDevice, retry};
use crate::{Fault, sys};

/// A DRM file gives no timelines.
#[derive(Debug, thiserror::Error)]
pub enum NoTimelines {
    /// The driver has none (`DRM_CAP_SYNCOBJ_TIMELINE`): vkms, vgem and other drivers without a GPU.
    #[error("the driver has no timelines")]
    Driver,
    /// It says that it has them, and one of the calls that are needed fails. `SYNCOBJ_EVENTFD` is of Linux 6.6.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A point was signalled and the descriptor that watched it was not.
    #[error("a signalled point did not signal its descriptor")]
    Deaf,
}

/// A call on a timeline failed.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// The descriptor is no syncobj.
    #[error("the descriptor is no drm syncobj")]
    NotSyncobj,
    /// The system failed: memory, descriptors, a device that went away.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl TimelineError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotSyncobj => Fault::Client,
            Self::System { .. } => Fault::System,
        }
    }
}

fn system<T>(action: &'static str, result: io::Result<T>) -> Result<T, TimelineError> {
    result.map_err(|source| TimelineError::System { action, source })
}

/// The timelines of a DRM file that has them and tells their points through eventfds.
///
/// Clones share the file, and so do the timelines on it: it stays open as long as one of them lives.
#[derive(Debug, Clone)]
pub struct Timelines(Arc<OwnedFd>);

impl Timelines {
    /// The timelines of a device's PRIME file.
    ///
    /// # Errors
    /// Why it has none that can be used; see [`Timelines::new`].
    pub fn of_device(device: &KernelDevice) -> Result<Self, NoTimelines> {
        let fd = sys::dup(device.as_fd());
        Self::new(fd.map_err(|source| NoTimelines::Kernel { action: "duplicate the descriptor", source })?)
    }

    /// The timelines of a DRM node of any kind; render nodes have them, too.
    ///
    /// Tried out: a point on a timeline of its own is watched, signalled, and has to arrive.
    ///
    /// # Errors
    /// [`NoTimelines`].
    pub fn new(fd: OwnedFd) -> Result<Self, NoTimelines> {
        let capability = u64::from(drm_sys::DRM_CAP_SYNCOBJ_TIMELINE);
        if !drm_ffi::get_capability(fd.as_fd(), capability).is_ok_and(|answer| answer.value == 1) {
            return Err(NoTimelines::Driver);
        }
        let timelines = Self(Arc::new(fd));
        let heard = timelines.try_out().map_err(|error| match error {
            TimelineError::System { action, source } => NoTimelines::Kernel { action, source },
            TimelineError::NotSyncobj => NoTimelines::Deaf,
        })?;
        if heard { Ok(timelines) } else { Err(NoTimelines::Deaf) }
    }

    /// Whether a point that signals is heard of, and only then.
    fn try_out(&self) -> Result<bool, TimelineError> {
        let (timeline, other) = (self.create()?, self.create()?);
        timeline.import_own(&other)?;
        let event = timeline.watch(1)?;
        let before = is_readable(event.as_fd());
        timeline.signal(1)?;
        Ok(!before && is_readable(event.as_fd()) && timeline.is_signalled(1)?)
    }

    /// Makes a timeline without any point.
    ///
    /// # Errors
    /// [`TimelineError::System`].
    pub fn create(&self) -> Result<Timeline, TimelineError> {
        let answer = retry(|| drm_ffi::syncobj::create(self.fd(), false));
        self.adopt("create a timeline", answer.map(|answer| answer.handle))
    }

    /// Imports a timeline from the descriptor of a syncobj. The descriptor is not kept.
    ///
    /// # Errors
    /// [`TimelineError::NotSyncobj`]; [`TimelineError::System`].
    pub fn import(&self, syncobj: BorrowedFd<'_>) -> Result<Timeline, TimelineError> {
        let answer = retry(|| drm_ffi::syncobj::fd_to_handle(self.fd(), syncobj, false));
        // Nothing else of what is sent can be invalid (drm_syncobj_fd_to_handle_ioctl).
        let errno = answer.as_ref().err().and_then(io::Error::raw_os_error);
        if errno == Some(Errno::INVAL.raw_os_error()) {
            return Err(TimelineError::NotSyncobj);
        }
        self.adopt("import a timeline", answer.map(|answer| answer.handle))
    }

    fn adopt(&self, action: &'static str, handle: io::Result<u32>) -> Result<Timeline, TimelineError> {
        let nonzero = |handle| NonZeroU32::new(handle).ok_or_else(|| io::ErrorKind::InvalidData.into());
        let handle = system(action, handle.and_then(nonzero))?;
        Ok(Timeline { file: Arc::clone(&self.0), handle })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A handle of a timeline syncobj, destroyed when dropped.
#[derive(Debug)]
pub struct Timeline {
    file: Arc<OwnedFd>,
    handle: NonZeroU32,
}

impl Timeline {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether a point has signalled. Never waits.
    ///
    /// # Errors
    /// [`TimelineError::System`].
    pub fn is_signalled(&self, point: u64) -> Result<bool, TimelineError> {
        // A deadline in the past. Not the number of the last signalled point: that is told of the newest context only.
        let (handles, points) = ([self.handle.get()], [point]);
        let waited =
            retry(|| drm_ffi::syncobj::timeline_wait(self.fd(), &handles, &points, 0, true, true, false));
        match waited {
            Err(err) if err.raw_os_error() == Some(Errno::TIME.raw_os_error()) => Ok(false),
            answer => system("ask for a point", answer).map(|_| true),
        }
    }

    /// A new eventfd that becomes readable when a point signals, at once if it has already.
    ///
    /// # Errors
    /// [`TimelineError::System`].
    pub fn watch(&self, point: u64) -> Result<OwnedFd, TimelineError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let event = system("make an eventfd", eventfd(0, flags).map_err(io::Error::from))?;
        let watched =
            retry(|| drm_ffi::syncobj::eventfd(self.fd(), self.handle.get(), point, event.as_fd(), false));
        system("watch a point", watched).map(|_| event)
    }

    /// Signals a point, and so all before it.
    ///
    /// # Errors
    /// [`TimelineError::System`].
    pub fn signal(&self, point: u64) -> Result<(), TimelineError> {
        let (handles, points) = ([self.handle.get()], [point]);
        let signalled = retry(|| drm_ffi::syncobj::timeline_signal(self.fd(), &handles, &points));
        system("signal a point", signalled).map(drop)
    }

    /// Makes `to_point` of `to`, on the same file, signal together with `point` of this timeline, which must have been
    /// promised or signalled already.
    ///
    /// # Errors
    /// [`TimelineError::System`]; `EINVAL` for a point that nobody has promised.
    pub fn transfer(&self, point: u64, to: &Self, to_point: u64) -> Result<(), TimelineError> {
        let [from, to] = [self.handle, to.handle].map(NonZeroU32::get);
        let moved = retry(|| drm_ffi::syncobj::transfer(self.fd(), from, to, point, to_point));
        system("transfer a point", moved).map(drop)
    }

    /// A descriptor of the syncobj, for another process or file.
    ///
    /// # Errors
    /// [`TimelineError::System`].
    pub fn export(&self) -> Result<OwnedFd, TimelineError> {
        let answer = retry(|| drm_ffi::syncobj::handle_to_fd(self.fd(), self.handle.get(), false));
        system("export a timeline", answer).map(|answer| sys::adopt(answer.fd))
    }

    /// Imports `other` and lets go of it again: the way of a client's timeline, for [`Timelines::try_out`].
    fn import_own(&self, other: &Self) -> Result<(), TimelineError> {
        Timelines(Arc::clone(&self.file)).import(other.export()?.as_fd()).map(drop)
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        if let Err(err) = retry(|| drm_ffi::syncobj::destroy(self.fd(), self.handle.get())) {
            tracing::error!(%err, handle = self.handle, "timeline not destroyed");
        }
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)) == Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_drm_device_has_no_timelines() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(Timelines::new(null.into()), Err(NoTimelines::Driver)));
    }

    #[test]
    fn a_strange_descriptor_is_the_clients_fault_and_nothing_else_is() {
        assert_eq!(TimelineError::NotSyncobj.fault(), Fault::Client);
        let error = system::<()>("try", Err(Errno::NOMEM.into())).unwrap_err();
        assert_eq!(error.fault(), Fault::System);
    }

    #[test]
    fn an_eventfd_is_readable_once_it_was_written() {
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert!(!is_readable(event.as_fd()));
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        assert!(is_readable(event.as_fd()));
    }
}
