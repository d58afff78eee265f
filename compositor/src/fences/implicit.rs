//! The implicit fences of a dma-buf: whether a reader must wait, and for what.
//!
//! Owns the order of the system calls: one poll(2) of all planes, which is all that happens while nothing is pending, and a
//! sync file of each dma-buf that is. It keeps nothing. Files that are no dma-bufs (memfds of the headless backend) are
//! always ready.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::LazyLock;

use drm_prime::sys::{CpuAccess, export_sync_file};
use drm_prime::{DmabufId, MAX_BUFFER_PLANES};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Awaited, Pending};

/// The buffer planes, as bits, to which something is still writing. One system call.
pub(crate) fn pending<'a>(planes: impl IntoIterator<Item = BorrowedFd<'a>>) -> u8 {
    let mut planes = planes.into_iter().take(MAX_BUFFER_PLANES);
    let Some(first) = planes.next() else { return 0 };
    let mut polled: [PollFd<'a>; MAX_BUFFER_PLANES] =
        std::array::from_fn(|_| PollFd::from_borrowed_fd(first, PollFlags::IN));
    let mut count = 1;
    for (slot, fd) in polled[1..].iter_mut().zip(planes) {
        *slot = PollFd::from_borrowed_fd(fd, PollFlags::IN);
        count += 1;
    }
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut polled[..count], Some(&now)) {
        Ok(ready) if ready == count => 0,
        Ok(_) => (0..count).filter(|&i| polled[i].revents().is_empty()).fold(0, |bits, i| bits | 1 << i),
        Err(err) => {
            tracing::debug!(%err, "fences not polled");
            0
        }
    }
}

/// The fences that a reader of a buffer has to wait for now, one for each distinct dma-buf that has any.
pub(super) fn snapshot<'a, I: Iterator<Item = BorrowedFd<'a>>>(planes: impl Fn() -> I) -> Vec<Pending> {
    snapshot_by(planes, |fd| sync_file(fd, CpuAccess::Read))
}

/// The fences that an access to a dma-buf waits for now, as a file.
///
/// # Errors
/// See [`export_sync_file`].
pub(crate) fn sync_file(fd: BorrowedFd<'_>, access: CpuAccess) -> std::io::Result<OwnedFd> {
    // Tests have it as before Linux 6.0.
    static OFF: LazyLock<bool> = LazyLock::new(|| std::env::var_os("PRIMEWAY_TEST_NO_SYNC_FILE").is_some());
    if *OFF {
        return Err(rustix::io::Errno::NOTTY.into());
    }
    export_sync_file(fd, access)
}

fn snapshot_by<'a, I: Iterator<Item = BorrowedFd<'a>>>(
    planes: impl Fn() -> I,
    export: impl Fn(BorrowedFd<'_>) -> std::io::Result<OwnedFd>,
) -> Vec<Pending> {
    let bits = pending(planes());
    let several = bits.count_ones() > 1;
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for (plane, fd) in planes().enumerate().filter(|(plane, _)| bits & 1 << plane != 0) {
        let file = several.then(|| DmabufId::of(fd).ok()).flatten();
        if file.is_some_and(|file| seen.contains(&file)) {
            continue;
        }
        let fence = match export(fd) {
            Ok(fence) => {
                seen.extend(file);
                Ok(fence)
            }
            // Before Linux 6.0 there are no snapshots, and not always inodes to tell dma-bufs apart. A descriptor of its own:
            // the event loop takes each number once, and several commits may wait for the same buffer.
            Err(_) => fd.try_clone_to_owned(),
        };
        match fence {
            Ok(fence) => found.push(Pending { awaited: Awaited::Plane(plane), fence }),
            Err(err) => tracing::warn!(%err, plane, "a fence is not waited for"),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::io::{Error, ErrorKind};
    use std::os::fd::AsFd;

    fn plane(pending: &Pending) -> usize {
        match pending.awaited {
            Awaited::Plane(plane) => plane,
            Awaited::Point(_) => panic!("a point among implicit fences"),
        }
    }

    /// Stands for a dma-buf: readable once something was written to it.
    fn fence() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC).unwrap()
    }

    fn signal(fence: &OwnedFd) {
        rustix::io::write(fence, &1u64.to_ne_bytes()).unwrap();
    }

    /// Pipes, which unlike eventfds have an inode each.
    fn pipes<const N: usize>() -> ([OwnedFd; N], [OwnedFd; N]) {
        let mut writers = Vec::new();
        let readers = std::array::from_fn(|_| {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            writers.push(writer);
            reader
        });
        (readers, writers.try_into().unwrap())
    }

    #[test]
    fn pending_names_the_planes_that_are_not_ready() {
        let fences = [fence(), fence(), fence(), fence()];
        let of = |n: usize| pending(fences[..n].iter().map(AsFd::as_fd));
        assert_eq!((of(0), of(1), of(4)), (0, 0b1, 0b1111));
        signal(&fences[1]);
        assert_eq!(of(4), 0b1101);
        fences.iter().for_each(signal);
        assert_eq!(of(4), 0);
    }

    #[test]
    fn a_memfd_is_always_ready() {
        let memory = rustix::fs::memfd_create("plane", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(pending([memory.as_fd(), memory.as_fd()]), 0);
    }

    #[test]
    fn each_distinct_file_is_exported_once_and_named_by_its_first_plane() {
        let (readers, writers) = pipes::<2>();
        let twin = readers[1].try_clone().unwrap();
        let planes = [readers[0].as_fd(), readers[1].as_fd(), twin.as_fd(), readers[1].as_fd()];
        let exports = std::cell::Cell::new(0);
        let export = |_: BorrowedFd<'_>| {
            exports.set(exports.get() + 1);
            Ok(fence())
        };
        let found: Vec<usize> = snapshot_by(|| planes.into_iter(), export).iter().map(plane).collect();
        assert_eq!((found, exports.get()), (vec![0, 1], 2));
        rustix::io::write(&writers[0], b"x").unwrap();
        let found: Vec<usize> = snapshot_by(|| planes.into_iter(), export).iter().map(plane).collect();
        assert_eq!((found, exports.get()), (vec![1], 3));
    }

    #[test]
    fn without_snapshots_the_buffer_itself_is_waited_for() {
        let (readers, writers) = pipes::<1>();
        let none = |_: BorrowedFd<'_>| Err(Error::from(ErrorKind::Unsupported));
        let found = snapshot_by(|| readers.iter().map(AsFd::as_fd), none);
        assert_eq!((found.len(), pending([found[0].fence.as_fd()])), (1, 1));
        rustix::io::write(&writers[0], b"x").unwrap();
        assert_eq!(pending([found[0].fence.as_fd()]), 0);
    }
}
