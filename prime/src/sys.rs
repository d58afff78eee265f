//! The crate's only unsafe code: `CLOSEFB`, `kcmp`, `F_DUPFD_QUERY`, `close_range`, file locks, dma-buf CPU sync and fences, memory mappings.
//! It holds no policy: which file, when, and what a failure means is decided by its callers.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    ptr::NonNull,
};

use drm_ffi::{drm_mode_closefb, drm_sys::DRM_IOCTL_BASE};
use rustix::{
    ioctl::{Opcode, Setter, Updater, opcode},
    mm::{MapFlags, ProtFlags},
};

/// `DRM_IOCTL_MODE_CLOSEFB`, drm.h (Linux 6.8).
const CLOSEFB: Opcode = opcode::read_write::<drm_mode_closefb>(DRM_IOCTL_BASE, 0xD0);
/// `DMA_BUF_IOCTL_SYNC`, dma-buf.h.
const DMA_BUF_SYNC: Opcode = opcode::write::<u64>(b'b', 0);
/// `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`, dma-buf.h (Linux 6.0).
const EXPORT_SYNC_FILE: Opcode = opcode::read_write::<SyncFile>(b'b', 2);
/// `KCMP_FILE`, kcmp.h.
const KCMP_FILE: libc::c_long = 0;
/// `F_DUPFD_QUERY`, fcntl.h (Linux 6.10).
const F_DUPFD_QUERY: libc::c_int = 1024 + 3;

/// `struct dma_buf_export_sync_file`, dma-buf.h.
#[repr(C)]
struct SyncFile {
    flags: u32,
    fd: i32,
}

/// Drops a framebuffer id without touching the planes that still show it.
///
/// # Errors
/// The kernel's errno: `ENOENT` for an id that is not a framebuffer of this file, `EINVAL` before Linux 6.8.
pub(crate) fn close_framebuffer(fd: BorrowedFd<'_>, fb_id: u32) -> io::Result<()> {
    let mut request = drm_mode_closefb { fb_id, pad: 0 };
    // SAFETY: CLOSEFB reads one `drm_mode_closefb`, which `request` is, and keeps no pointer to it.
    unsafe { rustix::ioctl::ioctl(fd, Updater::<CLOSEFB, _>::new(&mut request)) }?;
    Ok(())
}

/// Whether two descriptors name one file description (`kcmp`, else `F_DUPFD_QUERY`).
///
/// # Errors
/// The errno of `kcmp` when neither call can answer (a kernel without both, or a seccomp filter).
pub(crate) fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let pid = libc::c_long::from(rustix::process::getpid().as_raw_nonzero().get());
    let (first, second) = (libc::c_long::from(a.as_raw_fd()), libc::c_long::from(b.as_raw_fd()));
    // SAFETY: kcmp takes five integers and touches no memory of ours.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, first, second) };
    if order >= 0 {
        return Ok(order == 0);
    }
    let error = io::Error::last_os_error();
    // SAFETY: F_DUPFD_QUERY takes an integer and touches no memory; an older kernel answers EINVAL.
    match unsafe { libc::fcntl(a.as_raw_fd(), F_DUPFD_QUERY, b.as_raw_fd()) } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(error),
    }
}

/// Closes descriptors, with one system call for each run of numbers that follow each other (`close_range`, Linux 5.9), and
/// one for each descriptor before that.
pub fn close_together(descriptors: impl IntoIterator<Item = OwnedFd>) {
    let mut numbers: Vec<RawFd> = descriptors.into_iter().map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|one, next| one + 1 == *next) {
        let (first, last) = (run[0], run[run.len() - 1]);
        // SAFETY: close_range takes integers. All descriptors of the range are open, since these values owned them, and so
        // nobody else's; nobody uses them afterwards.
        if run.len() > 1 && unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
            continue;
        }
        // SAFETY: each was taken out of an `OwnedFd` and not closed: a kernel without the call closes none.
        run.iter().for_each(|number| drop(unsafe { OwnedFd::from_raw_fd(*number) }));
    }
}

/// A lock on some bytes of a file, which need not exist.
fn byte_lock(kind: libc::c_int, range: std::ops::Range<u64>) -> libc::flock {
    // Zero padding, and the l_pid of 0 that open-file-description locks demand (fcntl(2)).
    // SAFETY: flock is plain integers, for which all zeroes are a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = range.start as libc::off_t;
    lock.l_len = range.end.saturating_sub(range.start) as libc::off_t;
    lock
}

/// Takes a read lock on one byte, owned by the file description: it lasts until the last descriptor and the last mapping of
/// that description are gone, in whatever process (`F_OFD_SETLK`).
///
/// # Errors
/// `EAGAIN` if another description holds a write lock there; `EBADF` if the descriptor cannot be read.
pub(crate) fn lock_byte(fd: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    let lock = byte_lock(libc::F_RDLCK, byte..byte + 1);
    // SAFETY: F_OFD_SETLK reads one flock, which `lock` is, and keeps no pointer to it.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops all locks of a file description.
#[cfg(test)]
pub(crate) fn unlock_all(fd: BorrowedFd<'_>) -> io::Result<()> {
    let lock = byte_lock(libc::F_UNLCK, 0..0);
    // SAFETY: as in `lock_byte`. A length of 0 is all that follows.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a file description other than that of `fd` holds a lock on one of the bytes, of which there must be one at least
/// (`F_OFD_GETLK`).
///
/// # Errors
/// The kernel's errno.
pub(crate) fn locked_elsewhere(fd: BorrowedFd<'_>, bytes: std::ops::Range<u64>) -> io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, bytes);
    // SAFETY: F_OFD_GETLK reads and writes one flock, which `lock` is, and keeps no pointer to it.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the CPU is about to do, or has done, with a mapped dma-buf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuAccess {
    /// `DMA_BUF_SYNC_READ`.
    Read,
    /// `DMA_BUF_SYNC_WRITE`.
    Write,
    /// Both.
    ReadWrite,
}

impl CpuAccess {
    fn flags(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::ReadWrite => 3,
        }
    }
}

/// Opens (`begin`) or ends a CPU access window on a dma-buf (`DMA_BUF_IOCTL_SYNC`).
///
/// The call can wait without bound for the buffer's fences (dma-buf.c): poll the descriptor first.
///
/// # Errors
/// The kernel's errno; `ENOTTY` if `fd` is not a dma-buf.
pub fn cpu_access(fd: BorrowedFd<'_>, access: CpuAccess, begin: bool) -> io::Result<()> {
    let flags = u64::from(access.flags()) | if begin { 0 } else { 4 };
    loop {
        // SAFETY: SYNC reads one u64 of flags (struct dma_buf_sync) and keeps no pointer to it.
        match unsafe { rustix::ioctl::ioctl(fd, Setter::<DMA_BUF_SYNC, u64>::new(flags)) } {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            done => return done.map_err(io::Error::from),
        }
    }
}

/// The fences that an access to a dma-buf must wait for, as they are now, in a sync file of their own
/// (`DMA_BUF_IOCTL_EXPORT_SYNC_FILE`): it is readable once all of them have signalled, whatever is attached to the buffer
/// later. Without any fence it is readable at once.
///
/// # Errors
/// `ENOTTY` before Linux 6.0 and for what is no dma-buf; `EMFILE`.
pub fn export_sync_file(fd: BorrowedFd<'_>, access: CpuAccess) -> io::Result<OwnedFd> {
    let mut request = SyncFile { flags: access.flags(), fd: -1 };
    // SAFETY: EXPORT_SYNC_FILE reads and writes one `struct dma_buf_export_sync_file`, which `request` is, and keeps no
    // pointer to it.
    unsafe { rustix::ioctl::ioctl(fd, Updater::<EXPORT_SYNC_FILE, _>::new(&mut request)) }?;
    Ok(adopt(request.fd))
}

/// A shared memory mapping, unmapped when dropped.
///
/// Other parties (a device, another process) may change the bytes at any time, so it hands out no slices: it copies
/// in and out, or gives the raw pointer. The pointer is page aligned and valid for [`Mapping::len`] bytes
/// while the mapping lives. The mapping holds a reference on what is mapped, not on any descriptor.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: the mapping is plain memory that belongs to no thread; munmap may be called from any of them.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` only reads; writing takes `&mut`. That other parties write the same memory at the same time is what shared
// mappings are for: every byte is a valid u8, and nothing here relies on one staying what it was.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset` (a page multiple), shared.
    ///
    /// # Errors
    /// The kernel's errno; `EINVAL` for `len` 0; `EACCES` when the descriptor does not allow the access.
    pub fn of_fd(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<Self> {
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: no address is asked for, so the kernel picks a free range and no existing memory is replaced.
        let address =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, offset) }?;
        Self::from_address(address, len, writable)
    }

    /// Maps a whole dma-buf from offset 0, whatever the offset of the plane one is after: dma-bufs of shmem
    /// GEM drivers (vgem, vkms, virtio-gpu) ignore a mapping's offset and show page 0 (drm_gem_shmem_helper.c).
    ///
    /// # Errors
    /// The kernel's errno of asking the size or of `mmap`.
    pub fn of_dmabuf(fd: BorrowedFd<'_>, writable: bool) -> io::Result<Self> {
        let len = usize::try_from(crate::dmabuf::real_size(fd)?)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        Self::of_fd(fd, 0, len, writable)
    }

    /// Zeroed private memory, for devices that live in this process.
    ///
    /// # Errors
    /// The kernel's errno; `EINVAL` for `len` 0.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as in `of_fd`; the kernel picks a free range.
        let address =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE) }?;
        Self::from_address(address, len, true)
    }

    fn from_address(address: *mut c_void, len: usize, writable: bool) -> io::Result<Self> {
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address, len, writable })
    }

    /// Size in bytes; never 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// First byte. Dereferencing is the caller's unsafe code, under the rules in the type's docs.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Whether the mapping may be written.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable
    }

    fn range(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        // SAFETY: `offset <= end <= self.len`, so the pointer stays inside the mapping (or one past its end).
        (end <= self.len).then(|| unsafe { self.address.as_ptr().add(offset) })
    }

    /// Copies `bytes` to `offset`; false, and nothing written, if the range or the access is not the mapping's.
    #[must_use]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let Some(target) = self.range(offset, bytes.len()).filter(|_| self.writable) else { return false };
        // SAFETY: `range` proved the target range; `bytes` is a Rust slice, and no Rust reference points into
        // the mapping, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        true
    }

    /// Fills `len` bytes from `offset` with `value`; false and nothing written outside of the mapping.
    #[must_use]
    pub fn fill(&mut self, offset: usize, len: usize, value: u8) -> bool {
        let Some(target) = self.range(offset, len).filter(|_| self.writable) else { return false };
        // SAFETY: `range` proved the target range.
        unsafe { target.write_bytes(value, len) };
        true
    }

    /// Copies `bytes.len()` bytes out from `offset`; false and nothing copied outside of the mapping.
    #[must_use]
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> bool {
        let Some(source) = self.range(offset, bytes.len()) else { return false };
        // SAFETY: as in `write`, with the roles exchanged.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this value's constructor, is unmapped once, and no reference to it exists.
        if let Err(err) = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.len) } {
            tracing::error!(%err, len = self.len, "cannot unmap");
        }
    }
}

/// Takes ownership of a descriptor that a DRM ioctl has just returned.
pub(crate) fn adopt(raw: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the ioctls that return a descriptor (CREATE_LEASE, PRIME_HANDLE_TO_FD, SYNCOBJ_HANDLE_TO_FD,
    // EXPORT_SYNC_FILE) install a new one for the caller alone, and the callers of this function pass it on at once.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) }
}

/// Opens a second descriptor on the same file description (`F_DUPFD_CLOEXEC`).
pub(crate) fn dup(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Others may open files meanwhile, so it is told from what the pipes do whether their ends are closed.
    #[test]
    fn descriptors_are_closed_in_whatever_order_and_no_others() {
        let mut pipes: Vec<_> = (0..9).map(|_| rustix::pipe::pipe().unwrap()).collect();
        let kept = pipes.remove(4);
        let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
        let third = readers[3].try_clone().unwrap();
        close_together(writers.into_iter().rev().chain(readers.into_iter().skip(1)));
        assert_eq!(rustix::io::read(&third, &mut [0; 1]), Ok(0), "the writing end is closed");
        assert_eq!(rustix::io::write(&kept.1, b"x"), Ok(1));
        assert_eq!(rustix::io::read(&kept.0, &mut [0; 1]), Ok(1));
        close_together([]);
    }

    #[test]
    fn mapping_refuses_what_lies_outside() {
        let mut mapping = Mapping::anonymous(4096).unwrap();
        assert!(mapping.write(4090, b"sixsix"));
        assert!(!mapping.write(4091, b"sixsix"));
        assert!(!mapping.write(usize::MAX, b"x"));
        let mut out = [0; 6];
        assert!(mapping.read(4090, &mut out));
        assert_eq!(&out, b"sixsix");
        assert!(!mapping.read(4091, &mut out));
        assert!(mapping.fill(0, 4096, 7) && !mapping.fill(1, 4096, 7));
    }

    #[test]
    fn read_only_mapping_is_not_written() {
        let file = rustix::fs::memfd_create("ro", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        let mut mapping = Mapping::of_fd(file.as_fd(), 0, 4096, false).unwrap();
        assert!(!mapping.write(0, b"x"));
        assert!(!mapping.fill(0, 1, 1));
    }

    #[test]
    fn dup_is_the_same_file_and_reopen_is_not() {
        let one = std::fs::File::open("/dev/null").unwrap();
        let two = std::fs::File::open("/dev/null").unwrap();
        let dup = dup(one.as_fd()).unwrap();
        // kcmp may be filtered where the tests run; then both calls must say so rather than guess.
        match same_file(one.as_fd(), dup.as_fd()) {
            Ok(same) => {
                assert!(same);
                assert!(!same_file(one.as_fd(), two.as_fd()).unwrap());
            }
            Err(_) => assert!(same_file(one.as_fd(), two.as_fd()).is_err()),
        }
    }
}
