//! [`DumbBuffer`]: memory allocated on the device for the CPU to draw and the display to show.
//! It draws nothing, and its handle is counted in [`crate::handles`] like any other.

use std::{io, os::fd::OwnedFd};

use crate::{
    Fault,
    handles::{ExportError, GemHandle, HandleTable},
    sys::Mapping,
};

/// A dumb buffer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DumbError {
    /// The device does not make dumb buffers of this size or depth, or none at all (render nodes, `EACCES`).
    #[error("device {device:#x} makes no dumb buffer of {width}x{height} at {bpp} bits")]
    Refused {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bits per pixel.
        bpp: u32,
        /// `st_rdev` of the device.
        device: u64,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
    /// The system failed: memory, address space, a device that went away.
    #[error("cannot {action} on device {device:#x}")]
    System {
        /// What was tried.
        action: &'static str,
        /// `st_rdev` of the device.
        device: u64,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
}

impl DumbError {
    /// Whose fault it is; never the client's.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused { .. } => Fault::CannotScanOut,
            Self::System { .. } => Fault::System,
        }
    }
}

/// Memory of the device, mapped once for as long as it lives. Starts zeroed.
///
/// Dropping it gives up this buffer's reference on the handle: a framebuffer made of it, or an export, keeps the memory.
#[derive(Debug)]
pub struct DumbBuffer {
    // Dropped in this order: the mapping goes before the handle.
    mapping: Mapping,
    handle: GemHandle,
    table: HandleTable,
    width: u32,
    height: u32,
    bpp: u32,
    stride: u32,
    size: u64,
}

impl HandleTable {
    /// Allocates a dumb buffer and maps it. For planar formats ask for the rows of all planes at 8 bits a pixel.
    ///
    /// # Errors
    /// [`DumbError`]; nothing is left behind.
    pub fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> Result<DumbBuffer, DumbError> {
        let device = self.device().dev_id();
        let (handle, allocation) = self.allocate(width, height, bpp).map_err(|source| {
            let access = source.kind() == io::ErrorKind::PermissionDenied;
            if crate::handles::is_system_errno(&source) && !access {
                DumbError::System { action: "create a dumb buffer", device, source }
            } else {
                DumbError::Refused { width, height, bpp, device, source }
            }
        })?;
        let system = |source| DumbError::System { action: "map a dumb buffer", device, source };
        let len = usize::try_from(allocation.size).map_err(|_| system(io::ErrorKind::OutOfMemory.into()))?;
        let mapping = self.device().map_dumb(handle.raw(), len).map_err(system)?;
        let (stride, size) = (allocation.stride, allocation.size);
        Ok(DumbBuffer { mapping, handle, table: self.clone(), width, height, bpp, stride, size })
    }
}

impl DumbBuffer {
    /// Width in pixels, as asked for.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, as asked for.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Bits per pixel, as asked for.
    #[must_use]
    pub fn bpp(&self) -> u32 {
        self.bpp
    }

    /// Bytes from one row to the next.
    #[must_use]
    pub fn stride(&self) -> u32 {
        self.stride
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The handle; its origin is [`crate::Origin::Owned`].
    #[must_use]
    pub fn handle(&self) -> &GemHandle {
        &self.handle
    }

    /// The memory. Valid while this buffer lives, whatever the display does with it.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The memory, to write to.
    pub fn mapping_mut(&mut self) -> &mut Mapping {
        &mut self.mapping
    }

    /// Exports the memory as a dma-buf that may be mapped for writing.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn export(&self) -> Result<OwnedFd, ExportError> {
        self.table.export(&self.handle)
    }
}
