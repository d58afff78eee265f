//! The raw calls of [`super::kernel`]: ioctls by struct, `mmap`, `fork`, `kcmp`, `capset`.
//!
//! The only unsafe code of the contract. It decides nothing and keeps nothing but [`Mapping`].

#![allow(unsafe_code)]

use std::ffi::c_ulong;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use drm_ffi::drm_sys::{
    drm_gem_close, drm_gem_flink, drm_gem_open, drm_get_cap, drm_mode_closefb, drm_mode_create_dumb,
    drm_mode_destroy_dumb, drm_mode_fb_cmd, drm_mode_fb_cmd2, drm_mode_map_dumb, drm_prime_handle,
};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::Answer;

/// The argument of one ioctl.
///
/// # Safety
///
/// The kernel's handler of `NUMBER` reads and writes one `Self` at most, and keeps no pointer to it.
pub(super) unsafe trait Request {
    const NUMBER: c_ulong;
}

/// `_IOC` of `asm-generic/ioctl.h`.
const fn ioc(direction: u32, group: u8, number: u32, size: usize) -> c_ulong {
    ((direction << 30) | ((size as u32) << 16) | ((group as u32) << 8) | number) as c_ulong
}

const W: u32 = 1;
const RW: u32 = 3;
const DRM: u8 = b'd';
const DMABUF: u8 = b'b';

/// `struct drm_gem_change_handle` of `drm.h`.
#[repr(C)]
pub(super) struct ChangeHandle {
    pub handle: u32,
    pub new_handle: u32,
}

/// The bare id that `RMFB` takes.
#[repr(transparent)]
pub(super) struct RemoveFb(pub u32);

/// `struct drm_vgem_fence_attach` of `vgem_drm.h`.
#[repr(C)]
pub(super) struct FenceAttach {
    pub handle: u32,
    pub flags: u32,
    pub out_fence: u32,
    pub pad: u32,
}

/// `struct drm_vgem_fence_signal` of `vgem_drm.h`.
#[repr(C)]
pub(super) struct FenceSignal {
    pub fence: u32,
    pub flags: u32,
}

/// `struct udmabuf_create` of `udmabuf.h`.
#[repr(C)]
pub(super) struct UdmabufCreate {
    pub memfd: u32,
    pub flags: u32,
    pub offset: u64,
    pub size: u64,
}

/// `struct dma_buf_sync` of `dma-buf.h`.
#[repr(C)]
pub(super) struct Sync(pub u64);

/// `struct dma_buf_export_sync_file` of `dma-buf.h`.
#[repr(C)]
pub(super) struct ExportSyncFile {
    pub flags: u32,
    pub fd: i32,
}

/// `struct dma_buf_import_sync_file` of `dma-buf.h`.
#[repr(C)]
pub(super) struct ImportSyncFile {
    pub flags: u32,
    pub fd: i32,
}

/// A number of dma-buf's type that the kernel does not know.
#[repr(C)]
pub(super) struct Unknown(pub u64);

macro_rules! requests {
    ($($request:ty = $direction:ident $group:ident $number:expr;)*) => {$(
        // SAFETY: the number is the one of the header that declares the struct, and encodes its size; none of these
        // structs carries a pointer.
        unsafe impl Request for $request {
            const NUMBER: c_ulong = ioc($direction, $group, $number, size_of::<$request>());
        }
    )*};
}

requests! {
    drm_gem_close = W DRM 0x09;
    drm_gem_flink = RW DRM 0x0a;
    drm_gem_open = RW DRM 0x0b;
    drm_get_cap = RW DRM 0x0c;
    FenceAttach = RW DRM 0x41;
    FenceSignal = W DRM 0x42;
    drm_mode_fb_cmd = RW DRM 0xad;
    RemoveFb = RW DRM 0xaf;
    drm_mode_create_dumb = RW DRM 0xb2;
    drm_mode_map_dumb = RW DRM 0xb3;
    drm_mode_destroy_dumb = RW DRM 0xb4;
    drm_mode_closefb = RW DRM 0xd0;
    ChangeHandle = RW DRM 0xd2;
    Sync = W DMABUF 0;
    ExportSyncFile = RW DMABUF 2;
    ImportSyncFile = W DMABUF 3;
    Unknown = RW DMABUF 0x7f;
}

/// One struct has two numbers here: the two directions of PRIME.
#[repr(transparent)]
pub(super) struct HandleToFd(pub drm_prime_handle);
#[repr(transparent)]
pub(super) struct FdToHandle(pub drm_prime_handle);
#[repr(transparent)]
pub(super) struct AddFb2(pub drm_mode_fb_cmd2);
#[repr(transparent)]
pub(super) struct GetFb2(pub drm_mode_fb_cmd2);

const USER: u8 = b'u';

requests! {
    HandleToFd = RW DRM 0x2d;
    FdToHandle = RW DRM 0x2e;
    AddFb2 = RW DRM 0xb8;
    GetFb2 = RW DRM 0xce;
    UdmabufCreate = W USER 0x42;
}

/// Makes an ioctl once. Nothing here is interrupted by signals, so `EINTR` is an answer like any other.
pub(super) fn ioctl<R: Request>(fd: BorrowedFd<'_>, request: &mut R) -> Answer<()> {
    // SAFETY: `Request` promises that the handler of this number touches no more than the struct we point to.
    if unsafe { libc::ioctl(fd.as_raw_fd(), R::NUMBER, &raw mut *request) } < 0 {
        Err(last())
    } else {
        Ok(())
    }
}

/// As [`ioctl`], for the call whose return value is a new descriptor.
pub(super) fn ioctl_fd(fd: BorrowedFd<'_>, request: &mut UdmabufCreate) -> Answer<OwnedFd> {
    // SAFETY: as in `ioctl`.
    let fd = unsafe { libc::ioctl(fd.as_raw_fd(), UdmabufCreate::NUMBER, &raw mut *request) };
    if fd < 0 { Err(last()) } else { Ok(adopt(fd)) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Takes over a descriptor that an ioctl has just made.
pub(super) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass the number that a successful ioctl stored in its answer: it is open, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `kcmp(KCMP_FILE)` of two descriptors of this process.
pub(super) fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Answer<bool> {
    let pid = libc::c_long::from(rustix::process::getpid().as_raw_nonzero().get());
    let (a, b) = (libc::c_long::from(a.as_raw_fd()), libc::c_long::from(b.as_raw_fd()));
    // SAFETY: kcmp takes five integers and touches no memory of ours. KCMP_FILE is 0.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, 0, a, b) };
    if order < 0 { Err(last()) } else { Ok(order == 0) }
}

/// A shared mapping, unmapped on drop. It hands out bytes, never slices: others write the same memory.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: the mapping is plain shared memory that belongs to no thread, and munmap may be called from any of them.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(super) fn new(fd: BorrowedFd<'_>, offset: u64, len: u64, writable: bool) -> Answer<Mapping> {
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        // SAFETY: no address is given, so no existing memory of this process is replaced.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, offset) }?;
        Ok(Mapping { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?, len, writable })
    }

    fn at(&self, offset: u64) -> NonNull<u8> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        assert!(offset < self.len, "byte {offset} of a mapping of {}", self.len);
        // SAFETY: the offset lies inside of the mapping.
        unsafe { self.start.add(offset) }
    }

    pub(super) fn peek(&self, offset: u64) -> u8 {
        // SAFETY: `at` has checked the range. Other processes may write the byte meanwhile: the access is volatile, and every
        // value is a valid u8. The objects mapped here have a fixed size.
        unsafe { self.at(offset).read_volatile() }
    }

    pub(super) fn poke(&self, offset: u64, value: u8) {
        assert!(self.writable, "a store to a read-only mapping");
        // SAFETY: as in `peek`, and the mapping is writable.
        unsafe { self.at(offset).write_volatile(value) };
    }
}

impl Mapping {
    pub(super) fn flood(&self, value: u8) {
        assert!(self.writable, "a store to a read-only mapping");
        // SAFETY: the range is the mapping's, which is writable and into which no Rust reference points.
        unsafe { self.start.as_ptr().write_bytes(value, self.len) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that mmap returned, and no reference into it exists.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "munmap of our own mapping");
    }
}

/// Runs `child` in a forked process and answers the byte it returns. It must not allocate, lock or open anything.
pub(super) fn in_child(child: impl FnOnce() -> u8) -> Answer<u8> {
    // SAFETY: the child runs `child`, which by this function's contract needs no lock that another thread might hold, and
    // leaves by _exit, which runs no destructor of the parent's values.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(last()),
        0 => {
            let byte = child();
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(i32::from(byte)) }
        }
        pid => pid,
    };
    let mut status = 0;
    // SAFETY: waitpid stores one int at `status`; the child is ours and is waited for once.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        return Err(last());
    }
    if libc::WIFEXITED(status) { Ok(libc::WEXITSTATUS(status) as u8) } else { Err(Errno::FAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_headers() {
        assert_eq!(HandleToFd::NUMBER, 0xc00c_642d);
        assert_eq!(FdToHandle::NUMBER, 0xc00c_642e);
        assert_eq!(AddFb2::NUMBER, 0xc068_64b8);
        assert_eq!(drm_mode_closefb::NUMBER, 0xc008_64d0);
        assert_eq!(drm_gem_close::NUMBER, 0x4008_6409);
        assert_eq!(UdmabufCreate::NUMBER, 0x4018_7542);
        assert_eq!(Sync::NUMBER, 0x4008_6200);
        assert_eq!(ExportSyncFile::NUMBER, 0xc008_6202);
        assert_eq!(ImportSyncFile::NUMBER, 0x4008_6203);
    }

    #[test]
    fn a_child_answers_a_byte_and_shares_the_mapping() {
        let file = rustix::fs::memfd_create("contract", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        let map = Mapping::new(std::os::fd::AsFd::as_fd(&file), 0, 4096, true).unwrap();
        map.poke(7, 41);
        let before = in_child(|| {
            let before = map.peek(7);
            map.poke(7, 42);
            before
        });
        assert_eq!((before, map.peek(7)), (Ok(41), 42));
    }
}
