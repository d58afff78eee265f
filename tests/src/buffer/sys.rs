//! The unsafe calls of the tests: mappings and the dma-buf ioctls that no crate offers.
//!
//! Owns [`Mapping`] and the ioctl numbers of `udmabuf.h`, `dma-heap.h`, `dma-buf.h`, `vgem_drm.h` and sw_sync. It decides nothing.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use drm_ffi::drm_sys::{DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE, drm_syncobj_handle};
use rustix::mm::{MapFlags, ProtFlags};

/// A shared, writable mapping of a whole memory object. It is unmapped on drop.
///
/// A dma-buf is always mapped from offset 0: the kernel's shmem GEM objects ignore the offset of an `mmap`.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and no thread-local state is involved.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd`.
    ///
    /// # Errors
    ///
    /// The error of `mmap`, or `InvalidInput` when the length does not fit the address space.
    pub fn shared(fd: BorrowedFd<'_>, len: u64) -> io::Result<Mapping> {
        Mapping::at(fd, len, 0)
    }

    /// Maps `len` bytes of a DRM file at the fake offset that `MAP_DUMB` gave.
    ///
    /// # Errors
    ///
    /// As [`Mapping::shared`].
    pub fn of_dumb(drm: BorrowedFd<'_>, len: u64, offset: u64) -> io::Result<Mapping> {
        Mapping::at(drm, len, offset)
    }

    fn at(fd: BorrowedFd<'_>, len: u64, offset: u64) -> io::Result<Mapping> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at an address that the kernel chooses aliases no memory of this process.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                offset,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Mapping { start, len })
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory. Another process may change it at any time; callers treat it as bytes without meaning.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mmap returned `len` readable and writable bytes at `start` that live until drop, and the
        // exclusive borrow keeps a second slice from being made. The objects mapped here cannot shrink:
        // dma-bufs have a fixed size and the memfds of the tests are sealed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that mmap returned, and no slice of it outlives `self`.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "munmap of our own mapping");
    }
}

/// `struct udmabuf_create` of `linux/udmabuf.h`.
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

/// `struct dma_heap_allocation_data` of `linux/dma-heap.h`.
#[repr(C)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

/// `struct dma_buf_sync` of `linux/dma-buf.h`.
#[repr(C)]
struct DmabufSync {
    flags: u64,
}

/// `struct dma_buf_import_sync_file` of `linux/dma-buf.h`.
#[repr(C)]
struct ImportSyncFile {
    flags: u32,
    fd: i32,
}

/// `struct drm_vgem_fence_attach` of `drm/vgem_drm.h`.
#[repr(C)]
struct VgemAttach {
    handle: u32,
    flags: u32,
    out_fence: u32,
    pad: u32,
}

/// `struct drm_vgem_fence_signal` of `drm/vgem_drm.h`.
#[repr(C)]
struct VgemSignal {
    fence: u32,
    flags: u32,
}

/// `struct sw_sync_create_fence_data` of the kernel's sw_sync.c.
#[repr(C)]
struct CreateFence {
    value: u32,
    name: [u8; 32],
    fence: i32,
}

/// `_IOC` of `asm-generic/ioctl.h`.
const fn ioc(direction: u32, group: u8, number: u32, size: usize) -> libc::c_ulong {
    ((direction << 30) | ((size as u32) << 16) | ((group as u32) << 8) | number) as libc::c_ulong
}

const WRITE: u32 = 1;
const READ: u32 = 2;
const UDMABUF_CREATE: libc::c_ulong = ioc(WRITE, b'u', 0x42, size_of::<UdmabufCreate>());
const DMA_HEAP_IOCTL_ALLOC: libc::c_ulong = ioc(READ | WRITE, b'H', 0, size_of::<HeapAllocation>());
const DMA_BUF_IOCTL_SYNC: libc::c_ulong = ioc(WRITE, b'b', 0, size_of::<DmabufSync>());
const DMA_BUF_IOCTL_IMPORT_SYNC_FILE: libc::c_ulong = ioc(WRITE, b'b', 3, size_of::<ImportSyncFile>());
const SW_SYNC_IOC_CREATE_FENCE: libc::c_ulong = ioc(READ | WRITE, b'W', 0, size_of::<CreateFence>());
const SW_SYNC_IOC_INC: libc::c_ulong = ioc(WRITE, b'W', 1, size_of::<u32>());
const SYNCOBJ_FD_TO_HANDLE: libc::c_ulong = ioc(READ | WRITE, b'd', 0xc2, size_of::<drm_syncobj_handle>());
const VGEM_FENCE_ATTACH: libc::c_ulong = ioc(READ | WRITE, b'd', 0x41, size_of::<VgemAttach>());
const VGEM_FENCE_SIGNAL: libc::c_ulong = ioc(WRITE, b'd', 0x42, size_of::<VgemSignal>());
/// `VGEM_FENCE_WRITE`.
const VGEM_WRITE: u32 = 1;
/// `DMA_BUF_SYNC_WRITE`.
const SYNC_WRITE: u32 = 2;
/// `UDMABUF_FLAGS_CLOEXEC`.
const UDMABUF_CLOEXEC: u32 = 1;
/// `DMA_BUF_SYNC_RW`.
const SYNC_RW: u64 = 3;
/// `DMA_BUF_SYNC_END`.
const SYNC_END: u64 = 4;

/// Makes a dma-buf of the first `size` bytes of a sealed memfd. The dma-buf keeps the pages, the memfd may be
/// closed.
///
/// # Errors
///
/// The ioctl's: `EINVAL` without the seal or beyond the limit, `EBADFD` when it is not a memfd.
pub fn udmabuf_create(device: BorrowedFd<'_>, memfd: BorrowedFd<'_>, size: u64) -> io::Result<OwnedFd> {
    let request = UdmabufCreate { memfd: memfd.as_raw_fd() as u32, flags: UDMABUF_CLOEXEC, offset: 0, size };
    // SAFETY: the number encodes the size of the struct that the pointer refers to, and the kernel only reads it.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), UDMABUF_CREATE, &raw const request) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: UDMABUF_CREATE returned a new file descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Allocates from a dma-heap.
///
/// # Errors
///
/// The ioctl's.
pub fn heap_allocate(heap: BorrowedFd<'_>, len: u64) -> io::Result<OwnedFd> {
    let fd_flags = (libc::O_CLOEXEC | libc::O_RDWR) as u32;
    let mut request = HeapAllocation { len, fd: 0, fd_flags, heap_flags: 0 };
    // SAFETY: the number encodes the size of the struct that the pointer refers to, which is ours and writable.
    if unsafe { libc::ioctl(heap.as_raw_fd(), DMA_HEAP_IOCTL_ALLOC, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success the kernel stored a new file descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(request.fd as i32) })
}

/// Attaches the fence of a sync file to a dma-buf, for writing.
///
/// # Errors
///
/// The ioctl's.
pub fn attach_write_fence(dmabuf: BorrowedFd<'_>, fence: BorrowedFd<'_>) -> io::Result<()> {
    let request = ImportSyncFile { flags: SYNC_WRITE, fd: fence.as_raw_fd() };
    // SAFETY: the number encodes the size of the struct that the pointer refers to, and the kernel only reads it.
    if unsafe { libc::ioctl(dmabuf.as_raw_fd(), DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts the fence of a sync file into a syncobj (drm-ffi 0.9.1 does not send the syncobj's handle).
///
/// # Errors
///
/// The ioctl's.
pub fn syncobj_import_sync_file(drm: BorrowedFd<'_>, handle: u32, file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = DRM_SYNCOBJ_FD_TO_HANDLE_FLAGS_IMPORT_SYNC_FILE;
    let mut request = drm_syncobj_handle { handle, flags, fd: file.as_raw_fd(), pad: 0, point: 0 };
    // SAFETY: the number encodes the size of the struct that the pointer refers to, which is ours and writable.
    if unsafe { libc::ioctl(drm.as_raw_fd(), SYNCOBJ_FD_TO_HANDLE, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Attaches a fence of vgem's own to a buffer of it, for writing; gives the fence's number. It signals by itself after ten
/// seconds.
///
/// # Errors
///
/// The ioctl's.
pub fn vgem_attach(vgem: BorrowedFd<'_>, handle: u32) -> io::Result<u32> {
    let mut request = VgemAttach { handle, flags: VGEM_WRITE, out_fence: 0, pad: 0 };
    // SAFETY: the number encodes the size of the struct that the pointer refers to, which is ours and writable.
    if unsafe { libc::ioctl(vgem.as_raw_fd(), VGEM_FENCE_ATTACH, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request.out_fence)
}

/// Signals a fence of vgem.
///
/// # Errors
///
/// The ioctl's.
pub fn vgem_signal(vgem: BorrowedFd<'_>, fence: u32) -> io::Result<()> {
    let request = VgemSignal { fence, flags: 0 };
    // SAFETY: the number encodes the size of the struct that the pointer refers to, and the kernel only reads it.
    if unsafe { libc::ioctl(vgem.as_raw_fd(), VGEM_FENCE_SIGNAL, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes a sync file that signals once the counter of a sw_sync timeline has come to `value`.
///
/// # Errors
///
/// The ioctl's.
pub fn timeline_fence(timeline: BorrowedFd<'_>, value: u32) -> io::Result<OwnedFd> {
    let mut request = CreateFence { value, name: [0; 32], fence: -1 };
    // SAFETY: the number encodes the size of the struct that the pointer refers to, which is ours and writable.
    if unsafe { libc::ioctl(timeline.as_raw_fd(), SW_SYNC_IOC_CREATE_FENCE, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success the kernel stored a new file descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(request.fence) })
}

/// Adds to the counter of a sw_sync timeline.
///
/// # Errors
///
/// The ioctl's.
pub fn timeline_advance(timeline: BorrowedFd<'_>, by: u32) -> io::Result<()> {
    // SAFETY: the number encodes the size of the integer that the pointer refers to, and the kernel only reads it.
    if unsafe { libc::ioctl(timeline.as_raw_fd(), SW_SYNC_IOC_INC, &raw const by) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Begins (`true`) or ends CPU access for reading and writing. It waits for fences without limit.
///
/// # Errors
///
/// The ioctl's: `ENOTTY` when `fd` is no dma-buf.
pub fn sync_for_cpu(fd: BorrowedFd<'_>, begin: bool) -> io::Result<()> {
    let request = DmabufSync { flags: if begin { SYNC_RW } else { SYNC_RW | SYNC_END } };
    // SAFETY: the number encodes the size of the struct that the pointer refers to, and the kernel only reads it.
    if unsafe { libc::ioctl(fd.as_raw_fd(), DMA_BUF_IOCTL_SYNC, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_the_headers() {
        assert_eq!(UDMABUF_CREATE, 0x4018_7542);
        assert_eq!(DMA_HEAP_IOCTL_ALLOC, 0xc018_4800);
        assert_eq!(DMA_BUF_IOCTL_SYNC, 0x4008_6200);
        assert_eq!(DMA_BUF_IOCTL_IMPORT_SYNC_FILE, 0x4008_6203);
        assert_eq!(SW_SYNC_IOC_CREATE_FENCE, 0xc028_5700);
        assert_eq!(SW_SYNC_IOC_INC, 0x4004_5701);
    }
}
