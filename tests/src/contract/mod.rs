//! The kernel's PRIME contract as a process sees it: [`Contract`], one call per ioctl or system call.
//!
//! Owns the vocabulary that the conformance suite and the random scripts are written in. [`kernel`] answers with vgem, vkms and
//! udmabuf, [`model`] with `drm_prime::model`; [`denied`] takes away what older kernels lack. What must hold is in [`suite`];
//! [`script`] makes up scripts, [`shrink`] makes them short, and [`differential`] plays them on two sides at once. How the kernel is called is in `sys`.
//!
//! Descriptors are small slot numbers here, so that the same call can be made on two sides and a script can be printed;
//! handles, framebuffer ids and inodes are the kernel's own numbers. Failures are the bare errno. A slot that is used
//! after it was closed is a mistake in the case and panics, except where a call takes [`FdArg`].

use std::fmt;

use anyhow::{Context, Result, bail};
use drm_prime::errno_name;
use rustix::io::Errno;

pub mod denied;
pub mod differential;
pub mod kernel;
pub mod model;
pub mod script;
pub mod shrink;
mod slots;
pub mod suite;
mod sys;

/// What a call answers: its value or its errno.
pub type Answer<T> = std::result::Result<T, Errno>;

/// A page.
pub const PAGE: u64 = 4096;
/// `DRM_CLOEXEC`.
pub const CLOEXEC: u32 = 0o2_000_000;
/// `DRM_RDWR`.
pub const RDWR: u32 = 2;
/// `DRM_MODE_FB_MODIFIERS`.
pub const FB_MODIFIERS: u32 = 2;
/// `DMA_BUF_SYNC_READ`.
pub const SYNC_READ: u64 = 1;
/// `DMA_BUF_SYNC_WRITE`.
pub const SYNC_WRITE: u64 = 2;
/// `DMA_BUF_SYNC_END`.
pub const SYNC_END: u64 = 4;
/// `DRM_CAP_DUMB_BUFFER`.
pub const CAP_DUMB_BUFFER: u64 = 1;
/// `DRM_CAP_PRIME`.
pub const CAP_PRIME: u64 = 5;
/// `DRM_CAP_ADDFB2_MODIFIERS`.
pub const CAP_ADDFB2_MODIFIERS: u64 = 0x10;
/// `VGEM_FENCE_WRITE`.
pub const FENCE_WRITE: u32 = 1;
/// `POLLIN`: no write fence is pending.
pub const READABLE: u16 = 1;
/// `POLLOUT`: no fence is pending.
pub const WRITABLE: u16 = 4;

macro_rules! slots {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u16);

        impl slots::Slot for $name {
            fn of(number: u16) -> Self {
                Self(number)
            }

            fn number(self) -> u16 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "{}"), self.0)
            }
        }
    )*};
}

slots! {
    /// A descriptor of a DRM node.
    File,
    /// A descriptor of a dma-buf.
    Fd,
    /// A mapping.
    Map,
    /// A descriptor of a sync file.
    SyncFile
}

/// The devices every lab has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// Buffers and fences, no display.
    Vgem,
    /// A display, no render node.
    Vkms,
}

/// Which node of a device is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    /// `/dev/dri/cardN`.
    Primary,
    /// `/dev/dri/renderDN`.
    Render,
}

/// What `FD_TO_HANDLE` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FdArg {
    /// A dma-buf.
    Dmabuf(Fd),
    /// A number that is no descriptor.
    Bad,
    /// A descriptor that was opened with `O_PATH`.
    OPath,
    /// `/dev/null`.
    DevNull,
    /// A memory file that is no dma-buf.
    Memfd,
    /// A DRM node.
    Drm(File),
}

/// What `IMPORT_SYNC_FILE` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncArg {
    /// A sync file.
    File(SyncFile),
    /// A number that is no descriptor.
    Bad,
    /// A descriptor of something else.
    DevNull,
}

/// The memory that `UDMABUF_CREATE` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Memory {
    /// A memfd of this many bytes, sealed against shrinking.
    Sealed(u64),
    /// The same without the seal.
    Unsealed(u64),
    /// Sealed against writing, too.
    WriteSealed(u64),
    /// `/dev/null`.
    DevNull,
    /// A number that is no descriptor.
    Bad,
}

/// `lseek`'s base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whence {
    /// `SEEK_SET`.
    Set,
    /// `SEEK_CUR`.
    Cur,
    /// `SEEK_END`.
    End,
}

/// `struct drm_mode_create_dumb`'s answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dumb {
    /// The handle.
    pub handle: u32,
    /// Bytes from row to row.
    pub pitch: u32,
    /// Bytes in all.
    pub size: u64,
}

/// `struct drm_mode_fb_cmd2`, without the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fb2 {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The fourcc.
    pub format: u32,
    /// `DRM_MODE_FB_*`.
    pub flags: u32,
    /// One handle per plane.
    pub handles: [u32; 4],
    /// Bytes from row to row.
    pub pitches: [u32; 4],
    /// Bytes from the start of the object.
    pub offsets: [u32; 4],
    /// One modifier per plane, all equal.
    pub modifiers: [u64; 4],
}

/// `XR24`, 32 bits a pixel.
pub const XRGB8888: u32 = u32::from_le_bytes(*b"XR24");
/// `NV12`, two planes.
pub const NV12: u32 = u32::from_le_bytes(*b"NV12");

impl Fb2 {
    /// A one-plane XRGB8888 framebuffer with the tightest pitch, without a modifier.
    #[must_use]
    pub fn xrgb(handle: u32, width: u32, height: u32) -> Fb2 {
        let (handles, pitches) = ([handle, 0, 0, 0], [width.wrapping_mul(4), 0, 0, 0]);
        Fb2 { width, height, format: XRGB8888, handles, pitches, ..Fb2::default() }
    }

    /// An NV12 framebuffer with both planes in one object, one after the other.
    #[must_use]
    pub fn nv12(handle: u32, width: u32, height: u32) -> Fb2 {
        let (handles, pitches) = ([handle, handle, 0, 0], [width, width, 0, 0]);
        Fb2 {
            width,
            height,
            format: NV12,
            handles,
            pitches,
            offsets: [0, width * height, 0, 0],
            ..Fb2::default()
        }
    }
}

/// What `GETFB` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FbInfo {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Bytes from row to row.
    pub pitch: u32,
    /// Bits per pixel.
    pub bpp: u32,
    /// Bits of colour.
    pub depth: u32,
    /// A fresh handle, or 0 for who may not have one.
    pub handle: u32,
}

/// What a side can do. A call that it cannot do answers the errno of a kernel without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// `CLOSEFB` (Linux 6.8); without it `EINVAL`, as of every number beyond the table.
    pub closefb: bool,
    /// `EXPORT_SYNC_FILE` and `IMPORT_SYNC_FILE` (Linux 6.0); without them `ENOTTY`.
    pub sync_files: bool,
    /// Modifiers in `ADDFB2`; without them the capability is 0 and the flag `EINVAL`.
    pub modifiers: bool,
    /// Leases of nothing (Linux 5.15); without them `EINVAL`.
    pub empty_lease: bool,
}

/// What is alive beyond the descriptors of the process, counted by the side itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// dma-bufs.
    pub dmabufs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Framebuffers of all devices.
    pub framebuffers: u64,
    /// GEM objects, attachments and whatever else the side can count.
    pub objects: u64,
}

/// One process on one kernel.
///
/// Each method is the call that its name says, with the kernel's arguments; each error is the errno of that call.
#[allow(clippy::missing_errors_doc)]
pub trait Contract {
    /// What this side can do.
    fn caps(&self) -> Caps;
    /// Leaves room for `Some(n)` new descriptors only, or lifts the limit.
    fn limit_fds(&mut self, free: Option<usize>);
    /// What is alive now.
    fn census(&mut self) -> Result<Census>;
    /// Closes every slot and lifts the limit.
    fn close_everything(&mut self);

    /// `open` of a device node.
    fn open(&mut self, device: Device, node: Node) -> Answer<File>;
    /// `dup` of a DRM descriptor: the same drm_file.
    fn dup_file(&mut self, file: File) -> Answer<File>;
    /// `close`.
    fn close_file(&mut self, file: File);
    /// Whether `GETFB` sees a process with `CAP_SYS_ADMIN` from now on.
    fn set_admin(&mut self, on: bool) -> Answer<()>;
    /// `SET_MASTER` or `DROP_MASTER`.
    fn set_master(&mut self, file: File, on: bool) -> Answer<()>;
    /// `GET_CAP`.
    fn get_cap(&mut self, file: File, cap: u64) -> Answer<u64>;
    /// `CREATE_LEASE` of no objects.
    fn empty_lease(&mut self, file: File) -> Answer<File>;

    /// `CREATE_DUMB`; `bpp` in bits.
    fn create_dumb(&mut self, file: File, width: u32, height: u32, bpp: u32) -> Answer<Dumb>;
    /// `MAP_DUMB`.
    fn map_dumb(&mut self, file: File, handle: u32) -> Answer<()>;
    /// `MAP_DUMB` and `mmap` of `len` bytes, for reading and writing.
    fn mmap_dumb(&mut self, file: File, handle: u32, len: u64) -> Answer<Map>;
    /// `DESTROY_DUMB`.
    fn destroy_dumb(&mut self, file: File, handle: u32) -> Answer<()>;
    /// `GEM_CLOSE`.
    fn gem_close(&mut self, file: File, handle: u32) -> Answer<()>;
    /// `GEM_CHANGE_HANDLE`.
    fn change_handle(&mut self, file: File, handle: u32, new: u32) -> Answer<()>;
    /// `GEM_FLINK`: a global name.
    fn flink(&mut self, file: File, handle: u32) -> Answer<u32>;
    /// `GEM_OPEN`: a fresh handle for a global name.
    fn gem_open(&mut self, file: File, name: u32) -> Answer<u32>;
    /// `PRIME_HANDLE_TO_FD`.
    fn handle_to_fd(&mut self, file: File, handle: u32, flags: u32) -> Answer<Fd>;
    /// `PRIME_FD_TO_HANDLE`.
    fn fd_to_handle(&mut self, file: File, fd: FdArg, flags: u32) -> Answer<u32>;

    /// `ADDFB2`.
    fn addfb2(&mut self, file: File, request: &Fb2) -> Answer<u32>;
    /// `RMFB`.
    fn rmfb(&mut self, file: File, id: u32) -> Answer<()>;
    /// `CLOSEFB`.
    fn closefb(&mut self, file: File, id: u32, pad: u32) -> Answer<()>;
    /// `GETFB`.
    fn getfb(&mut self, file: File, id: u32) -> Answer<FbInfo>;
    /// `GETFB2`.
    fn getfb2(&mut self, file: File, id: u32) -> Answer<Fb2>;
    /// `SETCRTC`: shows a framebuffer of 1024 by 768 on the display.
    fn show(&mut self, file: File, id: u32) -> Answer<()>;
    /// The framebuffers on the CRTC and on its primary plane, 0 for none.
    fn shown(&mut self, file: File) -> Answer<(u32, u32)>;
    /// A number that is the same for two displays that show the same pixels: the CRC, or a digest of the plane's source.
    fn picture(&mut self, file: File) -> Result<u32>;

    /// `dup` of a dma-buf.
    fn dup_fd(&mut self, fd: Fd) -> Answer<Fd>;
    /// `close`.
    fn close_fd(&mut self, fd: Fd);
    /// `st_ino`.
    fn inode(&mut self, fd: Fd) -> Answer<u64>;
    /// `st_size`.
    fn size(&mut self, fd: Fd) -> Answer<u64>;
    /// `count:` in fdinfo: the references on the file.
    fn count(&mut self, fd: Fd) -> Answer<u64>;
    /// `lseek`.
    fn seek(&mut self, fd: Fd, offset: i64, whence: Whence) -> Answer<u64>;
    /// `read` of one byte.
    fn read(&mut self, fd: Fd) -> Answer<()>;
    /// `write` of one byte.
    fn write(&mut self, fd: Fd) -> Answer<()>;
    /// `ftruncate`.
    fn ftruncate(&mut self, fd: Fd, len: u64) -> Answer<()>;
    /// An ioctl of dma-buf's type with a number that means nothing.
    fn unknown_ioctl(&mut self, fd: Fd) -> Answer<()>;
    /// `kcmp(KCMP_FILE)`: whether two descriptors name one open file.
    fn same_file(&mut self, a: Fd, b: Fd) -> Answer<bool>;
    /// `open` of `/proc/self/fd/N`.
    fn reopen(&mut self, fd: Fd) -> Answer<()>;
    /// Whether `F_GETFL` says `O_NONBLOCK`.
    fn nonblocking(&mut self, fd: Fd) -> Answer<bool>;
    /// `F_SETFL` of `O_NONBLOCK`.
    fn set_nonblocking(&mut self, fd: Fd, on: bool) -> Answer<()>;
    /// `mmap`, shared, for reading and, if wanted, for writing.
    fn mmap(&mut self, fd: Fd, offset: u64, len: u64, writable: bool) -> Answer<Map>;
    /// One byte of a mapping.
    fn peek(&mut self, map: Map, offset: u64) -> u8;
    /// Stores one byte in a mapping.
    fn poke(&mut self, map: Map, offset: u64, value: u8);
    /// Stores one byte all over a mapping.
    fn flood(&mut self, map: Map, value: u8);
    /// `munmap`.
    fn unmap(&mut self, map: Map);
    /// Stores `value` at `offset` in a child of this process, which inherits the mapping, and answers what was there.
    fn poke_forked(&mut self, map: Map, offset: u64, value: u8) -> Answer<u8>;

    /// `DMA_BUF_IOCTL_SYNC`.
    fn sync(&mut self, fd: Fd, flags: u64) -> Answer<()>;
    /// `poll` without waiting: which of `events` are ready.
    fn poll(&mut self, fd: Fd, events: u16) -> Answer<u16>;
    /// `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`.
    fn export_sync_file(&mut self, fd: Fd, flags: u32) -> Answer<SyncFile>;
    /// `DMA_BUF_IOCTL_IMPORT_SYNC_FILE`.
    fn import_sync_file(&mut self, fd: Fd, sync: SyncArg, flags: u32) -> Answer<()>;
    /// `poll` of a sync file without waiting: whether all its fences are signalled.
    fn signalled(&mut self, sync: SyncFile) -> Answer<bool>;
    /// `close`.
    fn close_sync(&mut self, sync: SyncFile);
    /// `VGEM_FENCE_ATTACH`.
    fn fence_attach(&mut self, file: File, handle: u32, flags: u32, pad: u32) -> Answer<u32>;
    /// `VGEM_FENCE_SIGNAL`.
    fn fence_signal(&mut self, file: File, fence: u32, flags: u32) -> Answer<()>;

    /// `UDMABUF_CREATE`.
    fn udmabuf(&mut self, memory: Memory, offset: u64, size: u64) -> Answer<Fd>;
    /// Stores one byte all over a dma-buf, through a mapping made for that.
    fn fill(&mut self, fd: Fd, value: u8) -> Answer<()> {
        let size = self.size(fd)?;
        let map = self.mmap(fd, 0, size, true)?;
        self.flood(map, value);
        self.unmap(map);
        Ok(())
    }
}

/// Demands that a call succeeds.
///
/// # Errors
///
/// The call's name and errno.
pub fn fine<T>(what: &str, answer: Answer<T>) -> Result<T> {
    answer.map_err(errno_name).map_err(anyhow::Error::msg).with_context(|| what.to_owned())
}

/// Demands that a call fails with one errno.
///
/// # Errors
///
/// What it answered instead.
pub fn refused<T: fmt::Debug>(what: &str, answer: Answer<T>, errno: Errno) -> Result<()> {
    let expected = errno_name(errno);
    match answer {
        Err(got) if got == errno => Ok(()),
        Err(got) => bail!("{what}: {} instead of {expected}", errno_name(got)),
        Ok(value) => bail!("{what}: {value:?} instead of {expected}"),
    }
}
