//! [`Framebuffer`], which closes itself. Checks come before the kernel is asked. Who shares one is [`crate::flip`]'s
//! business, which buffers have one already [`crate::cache`]'s.

use std::{
    io,
    num::NonZeroU32,
    sync::atomic::{AtomicBool, Ordering},
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::io::Errno;

use crate::{
    Fault,
    device::{FramebufferRequest, GemDevice},
    dmabuf::{Dmabuf, DmabufStat, Layout, LayoutError, MAX_BUFFER_PLANES, SizeError, check_format},
    dumb::DumbBuffer,
    format,
    handles::{GemHandle, HandleTable, ImportError, is_one_of, is_system_errno},
    ledger::{FramebufferEntry, FramebufferName},
    origin::Origin,
    quirks::{self, Quirk},
};

/// A framebuffer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FramebufferError {
    /// The description does not fit the memory, or the memory could not be asked ([`SizeError::fault`] tells which).
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The numbers of the description contradict each other. The client's fault.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A buffer plane could not be imported.
    #[error("buffer plane {plane} was not imported")]
    Import {
        /// Index of the buffer plane.
        plane: usize,
        /// Why, and whose fault.
        #[source]
        source: ImportError,
    },
    /// A format whose layout is not known here, so that its size cannot be checked.
    #[error("layout of format {format} is not known")]
    UnknownFormat {
        /// The format.
        format: DrmFourcc,
    },
    /// The format has alpha and no twin without.
    #[error("format {format} has no opaque substitute")]
    NoOpaqueSubstitute {
        /// The format.
        format: DrmFourcc,
    },
    /// The driver takes no modifiers, and the buffer has one that means something.
    #[error("device {device:#x} takes no modifiers, and the buffer has {modifier:#x}")]
    ModifiersUnsupported {
        /// `st_rdev` of the device.
        device: u64,
        /// The modifier's code.
        modifier: u64,
    },
    /// The buffer or handle belongs to another device's table.
    #[error("the buffer belongs to another device than {device:#x}")]
    OtherDevice {
        /// `st_rdev` of the device.
        device: u64,
    },
    /// The layout asked for reaches beyond the end of a dumb buffer.
    #[error("buffer plane {plane} needs {needed} bytes, and the dumb buffer has {actual}")]
    OutsideDumb {
        /// Index of the buffer plane.
        plane: usize,
        /// End of the buffer plane: bytes from the start of the buffer.
        needed: u64,
        /// Size in bytes.
        actual: u64,
    },
    /// The driver does not scan out this buffer.
    #[error("device {device:#x} makes no framebuffer of {format} {modifier:#x} {width}x{height}")]
    Refused {
        /// `st_rdev` of the device.
        device: u64,
        /// The format asked for, after substitution.
        format: DrmFourcc,
        /// The modifier's code.
        modifier: u64,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The driver's errno.
        #[source]
        source: io::Error,
    },
    /// The driver would take the buffer and show it wrongly.
    #[error("driver {driver} does not show this buffer right")]
    Quirk {
        /// The kernel driver.
        driver: String,
        /// What it gets wrong.
        #[source]
        source: Quirk,
    },
    /// The system failed: memory, a device that went away.
    #[error("cannot make a framebuffer on device {device:#x}")]
    System {
        /// `st_rdev` of the device.
        device: u64,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
}

impl FramebufferError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Size(error) => error.fault(),
            Self::Layout(error) => error.fault(),
            Self::Import { source, .. } => source.fault(),
            Self::UnknownFormat { .. }
            | Self::NoOpaqueSubstitute { .. }
            | Self::ModifiersUnsupported { .. }
            | Self::OtherDevice { .. }
            | Self::Quirk { .. }
            | Self::OutsideDumb { .. }
            | Self::Refused { .. } => Fault::CannotScanOut,
            Self::System { .. } => Fault::System,
        }
    }
}

/// A KMS framebuffer on the table's file. Any file of the device may commit its id to a plane.
///
/// It holds a reference on each handle it was made of. Dropping it closes the id and leaves planes alone that still show it: the
/// kernel keeps the memory until they show something else.
#[derive(Debug)]
pub struct Framebuffer {
    id: NonZeroU32,
    /// Tells the ledger's entry from that of the number's next owner.
    serial: u64,
    /// Cleared once the id is gone.
    open: AtomicBool,
    table: HandleTable,
    /// One per buffer plane; planes of one dma-buf share an entry of the table.
    handles: Vec<GemHandle>,
    format: DrmFourcc,
    modifier: DrmModifier,
    width: u32,
    height: u32,
}

impl Framebuffer {
    /// Imports a buffer's planes and makes a framebuffer. With `opaque` the alpha bits are ignored
    /// ([`format::FormatInfo::opaque`]).
    ///
    /// Sizes are checked first; the kernel is not relied on for it. `LINEAR` goes with the modifier flag if
    /// the device takes modifiers, and without otherwise; `INVALID` always goes without.
    ///
    /// # Errors
    /// [`FramebufferError`]; nothing is left behind.
    pub fn new(table: &HandleTable, buffer: &Dmabuf<'_>, opaque: bool) -> Result<Self, FramebufferError> {
        let format = scanout_format(buffer.format(), opaque)?;
        let stats = buffer.stats()?;
        // Refuse before importing: an import of a large buffer can be slow.
        let modifier = request_modifier(table.device().as_ref(), buffer.modifier())?;
        let attempt = |import: Import| {
            let mut planes = [None; MAX_BUFFER_PLANES];
            let mut handles = Vec::with_capacity(buffer.plane_count());
            for (index, (plane, stat)) in buffer.planes().zip(stats.iter().flatten()).enumerate() {
                let handle = import(table, stat)
                    .map_err(|source| FramebufferError::Import { plane: index, source })?;
                planes[index] = Some((handle.raw(), Layout { offset: plane.offset, stride: plane.stride }));
                handles.push(handle);
            }
            let (width, height) = (buffer.width(), buffer.height());
            let request = FramebufferRequest { width, height, format, modifier, planes };
            Self::request(table, handles, &request, buffer.modifier())
        };
        match attempt(HandleTable::import_stat) {
            // The device does not know one of our handles, or says so of something else (virtio-gpu of formats): ask it
            // which handles it has.
            Err(FramebufferError::Refused { source, .. }) if is_one_of(&source, &[Errno::NOENT]) => {
                attempt(HandleTable::import_again)
            }
            outcome => outcome,
        }
    }

    /// Makes a framebuffer of a dumb buffer's own size in a one-plane format of the same depth.
    ///
    /// # Errors
    /// [`FramebufferError`]: `Layout` or `OutsideDumb` if the format needs more than the buffer has.
    pub fn for_dumb(
        table: &HandleTable,
        buffer: &DumbBuffer,
        format: DrmFourcc,
    ) -> Result<Self, FramebufferError> {
        let layout = [Layout { offset: 0, stride: buffer.stride() }];
        Self::for_dumb_planes(table, buffer, format, buffer.width(), buffer.height(), &layout)
    }

    /// Makes a framebuffer of any size and layout inside a dumb buffer, e.g. NV12 in 8-bit rows.
    ///
    /// # Errors
    /// [`FramebufferError`]: `Layout` or `OutsideDumb` if the layout does not fit the buffer.
    pub fn for_dumb_planes(
        table: &HandleTable,
        buffer: &DumbBuffer,
        format: DrmFourcc,
        width: u32,
        height: u32,
        layout: &[Layout],
    ) -> Result<Self, FramebufferError> {
        let device = table.device().dev_id();
        if !buffer.handle().shares_table_with(table) {
            return Err(FramebufferError::OtherDevice { device });
        }
        check_format(format)?;
        let info = format::info(format).ok_or(FramebufferError::UnknownFormat { format })?;
        let (expected, got) = (info.plane_count(), layout.len());
        let modifier = DrmModifier::Linear;
        if expected != got {
            return Err(LayoutError::PlaneCount { format, modifier: modifier.into(), expected, got }.into());
        }
        let mut planes = [None; MAX_BUFFER_PLANES];
        for (plane, layout) in layout.iter().enumerate() {
            let least = info.min_stride(plane, width);
            if u64::from(layout.stride) < least {
                return Err(LayoutError::Stride { plane, stride: layout.stride, least }.into());
            }
            let needed = info.plane_end(plane, width, height, layout.offset, layout.stride);
            let actual = buffer.size();
            if needed > actual {
                return Err(FramebufferError::OutsideDumb { plane, needed, actual });
            }
            planes[plane] = Some((buffer.handle().raw(), *layout));
        }
        let request_modifier = request_modifier(table.device().as_ref(), modifier)?;
        let request = FramebufferRequest { width, height, format, modifier: request_modifier, planes };
        Self::request(table, vec![buffer.handle().clone()], &request, modifier)
    }

    /// Makes a framebuffer of the first `side` x `side` pixels of some memory, for a plane that nobody sees: one buffer plane
    /// of a handle each, and the last handle's for those that are left. Quirks of what is seen do not matter.
    ///
    /// # Errors
    /// [`FramebufferError`]: `Layout` if there are no handles or more than buffer planes.
    pub fn unseen(
        table: &HandleTable,
        handles: Vec<GemHandle>,
        format: DrmFourcc,
        side: u32,
    ) -> Result<Self, FramebufferError> {
        let device = table.device().dev_id();
        if handles.iter().any(|handle| !handle.shares_table_with(table)) {
            return Err(FramebufferError::OtherDevice { device });
        }
        let info = format::info(format).ok_or(FramebufferError::UnknownFormat { format })?;
        let (expected, got, modifier) = (info.plane_count(), handles.len(), DrmModifier::Linear);
        let last = handles.last().filter(|_| got <= expected);
        let Some(last) = last else {
            return Err(LayoutError::PlaneCount { format, modifier: modifier.into(), expected, got }.into());
        };
        let mut planes = [None; MAX_BUFFER_PLANES];
        for (plane, slot) in planes.iter_mut().enumerate().take(expected) {
            let stride = u32::try_from(info.min_stride(plane, side)).unwrap_or(u32::MAX);
            *slot = Some((handles.get(plane).unwrap_or(last).raw(), Layout { offset: 0, stride }));
        }
        let request_modifier = request_modifier(table.device().as_ref(), modifier)?;
        let request =
            FramebufferRequest { width: side, height: side, format, modifier: request_modifier, planes };
        Self::add(table, handles, &request, modifier)
    }

    fn request(
        table: &HandleTable,
        handles: Vec<GemHandle>,
        request: &FramebufferRequest,
        modifier: DrmModifier,
    ) -> Result<Self, FramebufferError> {
        if let Some(source) = quirks::met_by(table.device().driver(), request) {
            return Err(FramebufferError::Quirk { driver: table.device().driver().to_owned(), source });
        }
        Self::add(table, handles, request, modifier)
    }

    fn add(
        table: &HandleTable,
        handles: Vec<GemHandle>,
        request: &FramebufferRequest,
        modifier: DrmModifier,
    ) -> Result<Self, FramebufferError> {
        let FramebufferRequest { width, height, format, .. } = *request;
        let id = table.device().add_framebuffer(request).map_err(|source| {
            let device = table.device().dev_id();
            if is_system_errno(&source) {
                FramebufferError::System { device, source }
            } else {
                let modifier = modifier.into();
                FramebufferError::Refused { device, format, modifier, width, height, source }
            }
        })?;
        let serial = table.note_framebuffer(FramebufferEntry {
            name: FramebufferName(id),
            owner: table.owner().clone(),
            age: std::time::Duration::ZERO,
            width,
            height,
            format,
            modifier,
            unclosed: false,
        });
        let (table, open) = (table.clone(), AtomicBool::new(true));
        Ok(Self { id, serial, open, table, handles, format, modifier, width, height })
    }

    /// The id to commit, for the one owner of an unshared framebuffer: keep it until the display shows something else.
    /// What is shared, or cached, has no id to be had here: see [`PlaneFramebuffers`](crate::PlaneFramebuffers).
    #[must_use]
    pub fn id(&self) -> NonZeroU32 {
        self.id
    }

    /// What logs and debugfs call it.
    #[must_use]
    pub fn name(&self) -> FramebufferName {
        FramebufferName(self.id)
    }

    /// The framebuffer's format: the buffer's, or its opaque substitute.
    #[must_use]
    pub fn format(&self) -> DrmFourcc {
        self.format
    }

    /// The buffer's modifier.
    #[must_use]
    pub fn modifier(&self) -> DrmModifier {
        self.modifier
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Where the memory of the first buffer plane came from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        self.handles.first().map_or(&Origin::Owned, GemHandle::origin)
    }

    /// References on the handles it was made of, one per buffer plane.
    #[must_use]
    pub fn handles(&self) -> &[GemHandle] {
        &self.handles
    }

    /// Gives the framebuffer up *and turns off every plane that shows it* (`RMFB`), so that the next master cannot read
    /// its content: for session locks and capture targets. A plain drop leaves planes on.
    ///
    /// # Errors
    /// The kernel's errno; the framebuffer is then closed without turning planes off.
    pub fn remove(self) -> io::Result<()> {
        self.turn_off()
    }

    /// As [`Framebuffer::remove`], for a framebuffer that is shared: it is of no use to anybody afterwards.
    pub(crate) fn turn_off(&self) -> io::Result<()> {
        if self.open.swap(false, Ordering::Relaxed)
            && let Err(err) = self.table.remove_framebuffer(self.id, self.serial)
        {
            self.open.store(true, Ordering::Relaxed);
            return Err(err);
        }
        Ok(())
    }

    /// Whether it has not been removed.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Framebuffer {
    fn drop(&mut self) {
        if self.is_open() {
            self.table.close_framebuffer(self.id, self.serial);
        }
    }
}

/// How a buffer plane becomes a handle.
type Import = fn(&HandleTable, &DmabufStat<'_>) -> Result<GemHandle, ImportError>;

fn scanout_format(format: DrmFourcc, opaque: bool) -> Result<DrmFourcc, FramebufferError> {
    let info = format::info(format).ok_or(FramebufferError::UnknownFormat { format })?;
    if !opaque {
        return Ok(format);
    }
    let substitute = info.opaque.and_then(|fourcc| DrmFourcc::try_from(fourcc).ok());
    substitute.ok_or(FramebufferError::NoOpaqueSubstitute { format })
}

fn request_modifier(
    device: &dyn GemDevice,
    modifier: DrmModifier,
) -> Result<Option<DrmModifier>, FramebufferError> {
    match modifier {
        DrmModifier::Invalid => Ok(None),
        modifier if device.supports_modifiers() => Ok(Some(modifier)),
        DrmModifier::Linear => Ok(None),
        modifier => {
            Err(FramebufferError::ModifiersUnsupported { device: device.dev_id(), modifier: modifier.into() })
        }
    }
}

#[cfg(test)]
mod tests;
