//! [`PrimeAllocator`]: dumb buffers as smithay's swapchains want them, for composition by the CPU. It draws nothing.

use std::{convert::Infallible, io, sync::Arc};

use ::smithay::{
    backend::allocator::{
        Allocator, Buffer,
        dmabuf::{AsDmabuf, Dmabuf, DmabufFlags},
    },
    utils::{Buffer as BufferCoords, Size},
};
use drm_fourcc::{DrmFormat, DrmFourcc, DrmModifier};

use crate::{DumbBuffer, DumbError, Fault, HandleTable, format, handles::ExportError};

/// A swapchain buffer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// Dumb buffers are one plane of whole bytes per pixel, and linear.
    #[error("{format} with modifiers {modifiers:x?} is no dumb buffer")]
    Unsupported {
        /// The format asked for.
        format: DrmFourcc,
        /// The codes of the modifiers that would do.
        modifiers: Vec<u64>,
    },
    /// The device did not make it.
    #[error(transparent)]
    Dumb(#[from] DumbError),
    /// The buffer was made, and did not become a dma-buf.
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl AllocateError {
    /// Whose fault it is; never the client's.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unsupported { .. } => Fault::CannotScanOut,
            Self::Dumb(error) => error.fault(),
            Self::Export(_) => Fault::System,
        }
    }
}

/// Allocates dumb buffers on a table's device. With smithay's `PixmanRenderer` that makes an output without a GPU or gbm.
#[derive(Debug, Clone)]
pub struct PrimeAllocator {
    table: HandleTable,
}

impl PrimeAllocator {
    /// An allocator on a table's device; use the table of the [`PrimeExporter`](super::PrimeExporter), so that an exported
    /// buffer is known again there and needs no second import.
    #[must_use]
    pub fn new(table: HandleTable) -> Self {
        Self { table }
    }
}

impl Allocator for PrimeAllocator {
    type Buffer = PrimeBuffer;
    type Error = AllocateError;

    /// Takes one-plane formats with `LINEAR` or `INVALID` among the modifiers; the buffer is `LINEAR` and zeroed.
    fn create_buffer(
        &mut self,
        width: u32,
        height: u32,
        fourcc: DrmFourcc,
        modifiers: &[DrmModifier],
    ) -> Result<PrimeBuffer, AllocateError> {
        let linear = modifiers.iter().any(|modifier| crate::dmabuf::is_plain(*modifier));
        let bpp = match format::info(fourcc).map(|info| info.planes) {
            Some([plane]) if plane.block_width == 1 && plane.hsub == 1 => {
                Some(u32::from(plane.block_bytes) * 8)
            }
            _ => None,
        };
        let Some(bpp) = bpp.filter(|_| linear) else {
            let modifiers = modifiers.iter().map(|modifier| u64::from(*modifier)).collect();
            return Err(AllocateError::Unsupported { format: fourcc, modifiers });
        };
        let buffer = self.table.owned_by("swapchain").create_dumb(width, height, bpp)?;
        let modifier = DrmModifier::Linear;
        let mut dmabuf = Dmabuf::builder(size(&buffer), fourcc, modifier, DmabufFlags::empty());
        dmabuf.add_plane(buffer.export()?, 0, 0, buffer.stride());
        let dmabuf = dmabuf.build().ok_or_else(|| ExportError {
            handle: buffer.handle().raw(),
            device: self.table.device().dev_id(),
            source: io::ErrorKind::InvalidData.into(),
        })?;
        Ok(PrimeBuffer { buffer: Arc::new(buffer), dmabuf })
    }
}

fn size(buffer: &DumbBuffer) -> Size<i32, BufferCoords> {
    // CREATE_DUMB makes no buffer of 4 GiB or more, so neither side can exceed an i32.
    let side = |length: u32| i32::try_from(length).unwrap_or(i32::MAX);
    (side(buffer.width()), side(buffer.height())).into()
}

/// A dumb buffer of a format, and its dma-buf. Clones share both.
#[derive(Debug, Clone)]
pub struct PrimeBuffer {
    buffer: Arc<DumbBuffer>,
    dmabuf: Dmabuf,
}

impl PrimeBuffer {
    /// The memory, its handle and its size.
    #[must_use]
    pub fn dumb(&self) -> &DumbBuffer {
        &self.buffer
    }
}

impl Buffer for PrimeBuffer {
    fn size(&self) -> Size<i32, BufferCoords> {
        self.dmabuf.size()
    }

    fn format(&self) -> DrmFormat {
        self.dmabuf.format()
    }
}

impl AsDmabuf for PrimeBuffer {
    type Error = Infallible;

    fn export(&self) -> Result<Dmabuf, Infallible> {
        Ok(self.dmabuf.clone())
    }
}
