//! A readable view of a client's dma-buf: mapped from offset 0, bracketed by DMA_BUF_IOCTL_SYNC.
//!
//! Nothing is waited for: a commit's fences have signalled before it is latched ([`crate::fences`]), and a fence that is
//! pending now was attached by a client that writes to what it shows. It gets to see what is in the memory then, as it
//! would on a plane, since that ioctl would wait for the fence without end.
//!
//! It owns the mappings. Mapping at the plane's offset is not an option: dma-bufs of shmem GEM objects (vgem, vkms,
//! virtio-gpu) ignore the offset of mmap and always show page 0.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drm_prime::{DmabufStat, Mapping, format};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufSyncFailed, DmabufSyncFlags, WeakDmabuf};

use crate::fences::{bounded, pending_planes};

/// What a test mapping is long.
const PAGE: usize = 4096;

/// Why a dma-buf cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// mmap or lseek failed.
    #[error("cannot map the dma-buf: {0}")]
    Map(#[from] std::io::Error),
    /// The file is smaller than the planes say.
    #[error("plane {plane} needs {needed} bytes of a file of {size}")]
    TooSmall {
        /// Index of the buffer plane.
        plane: usize,
        /// Bytes needed from the start of the file.
        needed: u64,
        /// Size of the file.
        size: u64,
    },
    /// The format's layout is not known.
    #[error("unknown format layout")]
    Layout,
    /// The buffer is gone, or DMA_BUF_IOCTL_SYNC failed.
    #[error("cannot begin reading the dma-buf")]
    Sync,
    /// Pixman cannot take the address or stride.
    #[error("pixman cannot read a stride of {stride} bytes at offset {offset}")]
    Alignment {
        /// Bytes per row.
        stride: u32,
        /// Offset of the first row.
        offset: u32,
    },
}

/// One plane's bytes, from its first row on.
#[derive(Clone, Copy, Debug)]
pub struct PlaneBytes<'a> {
    /// `stride` bytes a row, all rows of the plane.
    pub bytes: &'a [u8],
    /// Bytes per row.
    pub stride: u32,
}

/// Where a plane lies in its file, in bytes.
#[derive(Debug)]
struct PlaneView {
    /// Size of the file.
    file: usize,
    offset: u32,
    stride: u32,
    len: usize,
}

impl PlaneView {
    /// Whether Pixman can read it.
    fn check_alignment(&self) -> Result<(), ViewError> {
        if self.stride.is_multiple_of(4) && self.offset.is_multiple_of(4) {
            return Ok(());
        }
        Err(ViewError::Alignment { stride: self.stride, offset: self.offset })
    }
}

/// Where the planes of a dma-buf lie in files of these sizes, in bytes.
fn layout(
    dmabuf: &Dmabuf,
    sizes: impl Iterator<Item = std::io::Result<u64>>,
) -> Result<Vec<PlaneView>, ViewError> {
    let size = dmabuf.size();
    let (width, height) = (size.w.max(0) as u32, size.h.max(0) as u32);
    let info = format::info(dmabuf.format().code).ok_or(ViewError::Layout)?;
    let planes = dmabuf.offsets().zip(dmabuf.strides()).zip(sizes).enumerate();
    let planes = planes.map(|(plane, ((offset, stride), size))| {
        let size = size?;
        let file = usize::try_from(size).map_err(|_| std::io::Error::from(rustix::io::Errno::OVERFLOW))?;
        // The last row may end before its stride does.
        let needed = info.plane_end(plane, width, height, offset, stride);
        if needed > size || info.min_stride(plane, width) > u64::from(stride) {
            return Err(ViewError::TooSmall { plane, needed, size });
        }
        let rows = info.plane_rows(plane, height);
        let len = (u64::from(stride) * rows).min(size - u64::from(offset)) as usize;
        Ok(PlaneView { file, offset, stride, len })
    });
    planes.collect()
}

/// Tells whether a view can be made of a dma-buf whose planes' files have these sizes, in bytes; for Pixman, or for a
/// conversion. Whether its exporter lets the CPU map its memory is seen by one page of it: mapping all of it costs as much as
/// everything else that happens to a buffer when it is created.
///
/// # Errors
/// See [`DmabufView::new`].
pub(super) fn check(
    dmabuf: &Dmabuf,
    sizes: impl Iterator<Item = u64>,
    for_pixman: bool,
) -> Result<(), ViewError> {
    let planes = layout(dmabuf, sizes.map(Ok))?;
    for (fd, plane) in dmabuf.handles().zip(&planes) {
        drop(Mapping::of_fd(fd, 0, plane.file.min(PAGE), false)?);
    }
    let first = planes.first().ok_or(ViewError::Layout)?;
    if for_pixman { first.check_alignment() } else { Ok(()) }
}

/// A mapped dma-buf; dropped with its `wl_buffer`.
#[derive(Debug)]
pub struct DmabufView {
    dmabuf: WeakDmabuf,
    mappings: Vec<Mapping>,
    planes: Vec<PlaneView>,
    width: usize,
    height: usize,
    /// A fence appeared while a read was about to begin: the client does that on purpose, and gets no second chance.
    contested: AtomicBool,
}

impl DmabufView {
    /// Maps every plane of `dmabuf`, each file from offset 0.
    ///
    /// # Errors
    /// When a file cannot be mapped or is smaller than the planes say.
    pub fn new(dmabuf: &Dmabuf) -> Result<Self, ViewError> {
        let planes = layout(dmabuf, dmabuf.handles().map(|fd| DmabufStat::of(fd)?.size()))?;
        let map = |(fd, plane): (_, &PlaneView)| Mapping::of_fd(fd, 0, plane.file, false);
        let mappings = dmabuf.handles().zip(&planes).map(map).collect::<Result<Vec<_>, _>>()?;
        let size = dmabuf.size();
        Ok(Self {
            dmabuf: dmabuf.weak(),
            mappings,
            planes,
            width: size.w.max(0) as usize,
            height: size.h.max(0) as usize,
            contested: AtomicBool::new(false),
        })
    }

    /// Begins a CPU read on every plane that nothing writes to; the guard ends it. Waits for no fence, if it is called within
    /// [`bounded`].
    pub(super) fn begin_read(&self) -> Result<ReadGuard, ViewError> {
        let dmabuf = self.dmabuf.upgrade().ok_or(ViewError::Sync)?;
        let mut guard = ReadGuard { dmabuf, begun: 0 };
        if self.contested.load(Ordering::Relaxed) {
            return Ok(guard);
        }
        let pending = pending_planes(guard.dmabuf.handles());
        for plane in (0..self.planes.len()).filter(|plane| pending & 1 << plane == 0) {
            let sync = DmabufSyncFlags::START | DmabufSyncFlags::READ;
            match guard.dmabuf.sync_plane(plane, sync) {
                Ok(()) => guard.begun |= 1 << plane,
                Err(DmabufSyncFailed::Io(err)) if err.kind() == ErrorKind::Interrupted => {
                    tracing::debug!(plane, "a fence came between a look at a buffer and its reading");
                    self.contested.store(true, Ordering::Relaxed);
                    break;
                }
                // A memfd of the software device has no such ioctl and needs none.
                Err(_) => {}
            }
        }
        Ok(guard)
    }

    /// Calls `f` with the bytes of every plane, inside a CPU read.
    ///
    /// # Errors
    /// When the buffer is gone.
    pub fn read<T>(&self, f: impl FnOnce(&[PlaneBytes<'_>]) -> T) -> Result<T, ViewError> {
        let _guard = bounded(|| self.begin_read())?;
        let planes: Vec<PlaneBytes<'_>> = self
            .planes
            .iter()
            .zip(&self.mappings)
            .map(|(plane, mapping)| {
                let base = mapping.as_ptr();
                // SAFETY: `new` checked offset + len against the mapping. The client may write meanwhile; the
                // bytes are only ever used as pixel values, so a torn value is a wrong pixel, nothing more.
                let bytes = unsafe { std::slice::from_raw_parts(base.add(plane.offset as usize), plane.len) };
                PlaneBytes { bytes, stride: plane.stride }
            })
            .collect();
        Ok(f(&planes))
    }

    /// Calls `f` with plane 0 as a Pixman image, inside a CPU read.
    ///
    /// # Errors
    /// When the buffer is gone or Pixman cannot take its layout.
    pub fn with_image<T>(
        &self,
        code: pixman::FormatCode,
        f: impl FnOnce(&mut pixman::Image<'static, 'static>) -> T,
    ) -> Result<T, ViewError> {
        let _guard = bounded(|| self.begin_read())?;
        Ok(f(&mut self.image(code)?))
    }

    /// A Pixman image over plane 0, for reading only and only while `self` lives.
    pub(super) fn image(
        &self,
        code: pixman::FormatCode,
    ) -> Result<pixman::Image<'static, 'static>, ViewError> {
        let plane = self.planes.first().ok_or(ViewError::Layout)?;
        plane.check_alignment()?;
        let base = self.mappings.first().ok_or(ViewError::Layout)?.as_ptr();
        // SAFETY: `new` checked that height rows of stride bytes (the last one at least as wide as the picture)
        // lie in the mapping. The image is used as a source only, and its owner (an element or a cached texture)
        // keeps an Arc of this view beside it.
        unsafe {
            let bits = base.add(plane.offset as usize).cast::<u32>();
            pixman::Image::from_raw_mut(code, self.width, self.height, bits, plane.stride as usize, false)
        }
        .map_err(|_| ViewError::Alignment { stride: plane.stride, offset: plane.offset })
    }
}

/// The views of the dma-bufs that were read, one each.
#[derive(Debug, Default)]
pub(super) struct Views(HashMap<WeakDmabuf, Arc<DmabufView>>);

impl Views {
    /// The view of a dma-buf, made at first use.
    ///
    /// # Errors
    /// See [`DmabufView::new`].
    pub(super) fn get(&mut self, dmabuf: &Dmabuf) -> Result<Arc<DmabufView>, ViewError> {
        let key = dmabuf.weak();
        if let Some(view) = self.0.get(&key) {
            return Ok(view.clone());
        }
        let view = Arc::new(DmabufView::new(dmabuf)?);
        self.0.insert(key, view.clone());
        Ok(view)
    }

    /// Drops the view of a buffer that is gone.
    pub(super) fn forget(&mut self, dmabuf: &WeakDmabuf) {
        self.0.remove(dmabuf);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Ends a CPU read when dropped.
#[derive(Debug)]
pub(super) struct ReadGuard {
    dmabuf: Dmabuf,
    begun: u8,
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        for plane in (0..8).filter(|p| self.begun & (1 << p) != 0) {
            if self.dmabuf.sync_plane(plane, DmabufSyncFlags::END | DmabufSyncFlags::READ).is_err() {
                tracing::debug!("cannot end a cpu read");
            }
        }
    }
}
