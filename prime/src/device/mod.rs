//! The contract between this crate and whatever keeps GEM handles: [`GemDevice`]. It decides nothing: who closes what,
//! and what is checked first, belongs to [`crate::handles`] and [`crate::framebuffer`].

use std::{
    fmt, io,
    num::NonZeroU32,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
};

use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::{
    dmabuf::{Layout, MAX_BUFFER_PLANES},
    sys::Mapping,
};

pub mod faults;
pub mod kernel;
pub mod timeline;

/// What `ADDFB2` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramebufferRequest {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The format, already replaced by its opaque substitute if that is wanted.
    pub format: DrmFourcc,
    /// `Some` sends the modifier with `DRM_MODE_FB_MODIFIERS`; `None` leaves the layout to the driver.
    pub modifier: Option<DrmModifier>,
    /// Handle and layout of each buffer plane; the used ones come first.
    pub planes: [Option<(NonZeroU32, Layout)>; MAX_BUFFER_PLANES],
}

/// What `CREATE_DUMB` answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumbAllocation {
    /// The new handle, which the caller closes.
    pub handle: NonZeroU32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Size in bytes.
    pub size: u64,
}

/// Buffer operations of one DRM file description, or of something that behaves like one.
///
/// # Contract
/// Handles and framebuffer ids belong to the file, not to the value: two devices on one file break each other.
/// - [`prime_fd_to_handle`](Self::prime_fd_to_handle) of a buffer the file already knows returns the handle it already
///   has; it is *not* counted, so one [`gem_close`](Self::gem_close) ends it for everyone.
/// - A closed handle's number is the first to be given out again.
/// - A framebuffer keeps its memory alive: its handles may be closed before it.
/// - Failures carry the kernel's errno ([`io::Error::raw_os_error`]). A failed call leaves nothing behind.
/// - Calls may come from any thread. The device adds no order of its own: whoever shares handles brings the lock.
pub trait GemDevice: fmt::Debug + Send + Sync {
    /// `st_rdev` of the node, which tells devices apart in evidence and logs.
    fn dev_id(&self) -> u64;

    /// Name of the kernel driver, for [`crate::quirks`]; empty for devices that are not the kernel's.
    fn driver(&self) -> &str {
        ""
    }

    /// Whether `ADDFB2` takes modifiers (`DRM_CAP_ADDFB2_MODIFIERS`).
    fn supports_modifiers(&self) -> bool;

    /// Whether the inode number of a dma-buf's file names that dma-buf alone for as long as it lives, *and* its handle here
    /// keeps it alive: then [`crate::HandleTable`] recognises what it knows without asking. The default is to ask.
    fn identifies_dmabufs(&self) -> bool {
        false
    }

    /// Whether a descriptor that this device refused was a dma-buf at all, which decides whose fault it was.
    ///
    /// # Errors
    /// As [`crate::is_dmabuf`].
    fn is_dmabuf(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        crate::dmabuf::is_dmabuf(fd)
    }

    /// [`is_dmabuf`](Self::is_dmabuf) of a descriptor whose file is known to live on the device `dev` (`st_dev`), which may
    /// spare asking.
    ///
    /// # Errors
    /// As [`crate::is_dmabuf`].
    fn is_dmabuf_on(&self, fd: BorrowedFd<'_>, dev: u64) -> io::Result<bool> {
        let _ = dev;
        self.is_dmabuf(fd)
    }

    /// The descriptors that the device holds open, for the ledger.
    fn descriptors(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// Finds or makes the handle of a dma-buf.
    ///
    /// # Errors
    /// `EINVAL`/`EBADF` if `fd` is no dma-buf; otherwise the exporter's or driver's errno (`ENODEV`, `EINVAL`, `EOPNOTSUPP`
    /// for a buffer it cannot take; `ENOMEM`, `EMFILE` ... for failures of the system).
    fn prime_fd_to_handle(&self, fd: BorrowedFd<'_>) -> io::Result<NonZeroU32>;

    /// Exports a handle as a dma-buf that may be mapped for writing. A handle that came from a dma-buf gives that one.
    ///
    /// # Errors
    /// `ENOENT` for an unknown handle, `EMFILE` (which comes first) without a free descriptor.
    fn prime_handle_to_fd(&self, handle: NonZeroU32) -> io::Result<OwnedFd>;

    /// Closes a handle.
    ///
    /// # Errors
    /// `EINVAL` if the file has no such handle.
    fn gem_close(&self, handle: NonZeroU32) -> io::Result<()>;

    /// Makes a framebuffer.
    ///
    /// # Errors
    /// `ENOENT` for an unknown handle (`EINVAL` on virtio-gpu), `EINVAL` or `ERANGE` for what the driver does not take.
    fn add_framebuffer(&self, request: &FramebufferRequest) -> io::Result<NonZeroU32>;

    /// Gives up a framebuffer; planes that show it go on showing it (`CLOSEFB`; `RMFB` on kernels without it).
    ///
    /// # Errors
    /// `ENOENT` if the file has no such framebuffer.
    fn close_framebuffer(&self, id: NonZeroU32) -> io::Result<()>;

    /// Removes a framebuffer and turns off the planes that show it (`RMFB`).
    ///
    /// # Errors
    /// `ENOENT` if the file has no such framebuffer.
    fn remove_framebuffer(&self, id: NonZeroU32) -> io::Result<()>;

    /// Allocates memory for the CPU and the display. `bpp` is in bits.
    ///
    /// # Errors
    /// `EINVAL` for sizes that make no sense, `EACCES` on render nodes, `ENOMEM`, `EOPNOTSUPP` ...
    fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> io::Result<DumbAllocation>;

    /// Maps `len` bytes of a buffer that was allocated here, for reading and writing.
    ///
    /// # Errors
    /// `ENOENT` for an unknown handle, `EINVAL` for a buffer of another device.
    fn map_dumb(&self, handle: NonZeroU32, len: usize) -> io::Result<Mapping>;
}
