//! The description of a client's buffer and its checks against the buffer's real size; the identity of a dma-buf.
//! It borrows descriptors and never keeps one; importing is [`crate::handles`]' business.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::fs::SeekFrom;

use crate::{
    Fault,
    format::{self, FormatInfo},
};

/// Most buffer planes one buffer can have (`drm_mode_fb_cmd2`, linux-dmabuf).
pub const MAX_BUFFER_PLANES: usize = 4;

/// `DMA_BUF_MAGIC`, magic.h: what `fstatfs` says of every dma-buf.
const DMA_BUF_MAGIC: u64 = 0x444d_4142;

/// One buffer plane: where its first sample lies, and how far apart its rows are.
#[derive(Debug, Clone, Copy)]
pub struct BufferPlane<'a> {
    /// The dma-buf, borrowed for as long as the description lives.
    pub fd: BorrowedFd<'a>,
    /// Bytes from the start of the dma-buf.
    pub offset: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
}

/// A layout without descriptors: what a framebuffer request says of one buffer plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Bytes from the start of the buffer.
    pub offset: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
}

/// A buffer as its owner describes it: 1 to 4 buffer planes in order, without gaps, all of one modifier.
///
/// [`Dmabuf::new`] has checked the numbers against each other, [`Dmabuf::check_sizes`] checks them against the memory.
#[derive(Debug, Clone, Copy)]
pub struct Dmabuf<'a> {
    width: u32,
    height: u32,
    format: DrmFourcc,
    modifier: DrmModifier,
    planes: [Option<BufferPlane<'a>>; MAX_BUFFER_PLANES],
}

/// The numbers of a description contradict each other, whatever the memory behind them. Always the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The code is a flag (`DRM_FORMAT_BIG_ENDIAN`) and no format.
    #[error("{code:#x} is no format")]
    NoFormat {
        /// The code.
        code: u32,
    },
    /// A width or height of 0, or beyond what a protocol's signed integer can carry.
    #[error("size {width}x{height} is out of range")]
    Dimensions {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Too few or too many buffer planes for the format and modifier.
    #[error(
        "{format} with modifier {modifier:#x} has {expected} buffer planes or more with auxiliary ones, not {got}"
    )]
    PlaneCount {
        /// The format.
        format: DrmFourcc,
        /// The modifier's code.
        modifier: u64,
        /// Buffer planes of the format itself.
        expected: usize,
        /// Buffer planes described.
        got: usize,
    },
    /// A stride that cannot hold one row of the width.
    #[error("stride {stride} of buffer plane {plane} is less than the {least} bytes of a row")]
    Stride {
        /// Index of the buffer plane.
        plane: usize,
        /// The stride described, in bytes.
        stride: u32,
        /// The least stride, in bytes.
        least: u64,
    },
}

impl LayoutError {
    /// Always the client's.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Client
    }
}

/// The description does not fit the memory behind it, or the memory could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum SizeError {
    /// A buffer plane reaches beyond the end of its dma-buf. The client's fault.
    #[error("buffer plane {plane} needs {needed} bytes, and {dmabuf} has {actual}")]
    OutOfBounds {
        /// Index of the buffer plane.
        plane: usize,
        /// The dma-buf.
        dmabuf: DmabufId,
        /// End of the buffer plane: bytes from the start of the dma-buf.
        needed: u64,
        /// Real size in bytes.
        actual: u64,
    },
    /// A system call failed.
    #[error("cannot ask the size of buffer plane {plane}")]
    System {
        /// Index of the buffer plane.
        plane: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl SizeError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::OutOfBounds { .. } => Fault::Client,
            Self::System { .. } => Fault::System,
        }
    }
}

impl<'a> Dmabuf<'a> {
    /// Takes a description whose numbers agree with each other.
    ///
    /// Strides are checked for `LINEAR` and `INVALID` only, where a stride is what the format says it is. Plane counts are
    /// exact there; other modifiers may add auxiliary planes. A format outside of [`format::info`] passes: such a
    /// buffer is not wrong, it only cannot become a framebuffer here.
    ///
    /// # Errors
    /// [`LayoutError`], always the client's fault.
    pub fn new(
        width: u32,
        height: u32,
        format: DrmFourcc,
        modifier: DrmModifier,
        planes: &[BufferPlane<'a>],
    ) -> Result<Self, LayoutError> {
        const LIMIT: u32 = i32::MAX as u32;
        check_format(format)?;
        if width == 0 || height == 0 || width > LIMIT || height > LIMIT {
            return Err(LayoutError::Dimensions { width, height });
        }
        let got = planes.len();
        let layout = format::info(format);
        let expected = layout.map_or(1, FormatInfo::plane_count);
        let most = if is_plain(modifier) && layout.is_some() { expected } else { MAX_BUFFER_PLANES };
        if !(expected..=most).contains(&got) {
            return Err(LayoutError::PlaneCount { format, modifier: modifier.into(), expected, got });
        }
        if let (Some(layout), true) = (layout, is_plain(modifier)) {
            for (index, plane) in planes.iter().enumerate() {
                let least = layout.min_stride(index, width);
                if u64::from(plane.stride) < least {
                    return Err(LayoutError::Stride { plane: index, stride: plane.stride, least });
                }
            }
        }
        let mut kept = [None; MAX_BUFFER_PLANES];
        for (slot, plane) in kept.iter_mut().zip(planes) {
            *slot = Some(*plane);
        }
        Ok(Self { width, height, format, modifier, planes: kept })
    }

    /// Width in pixels; never 0.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels; never 0.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The format's code.
    #[must_use]
    pub fn format(&self) -> DrmFourcc {
        self.format
    }

    /// The modifier of all buffer planes.
    #[must_use]
    pub fn modifier(&self) -> DrmModifier {
        self.modifier
    }

    /// The same buffer under another modifier: what is known to be linear may be called so.
    ///
    /// # Errors
    /// [`LayoutError`] as for [`Dmabuf::new`].
    pub fn with_modifier(&self, modifier: DrmModifier) -> Result<Self, LayoutError> {
        let planes: Vec<_> = self.planes().collect();
        Self::new(self.width, self.height, self.format, modifier, &planes)
    }

    /// The buffer planes in order.
    pub fn planes(&self) -> impl Iterator<Item = BufferPlane<'a>> + '_ {
        self.planes.iter().flatten().copied()
    }

    /// Number of buffer planes, 1 to 4.
    #[must_use]
    pub fn plane_count(&self) -> usize {
        self.planes().count()
    }

    /// Identity of each buffer plane's dma-buf, in order.
    ///
    /// # Errors
    /// The errno of `fstat`.
    pub fn ids(&self) -> io::Result<Vec<DmabufId>> {
        self.planes().map(|plane| DmabufId::of(plane.fd)).collect()
    }

    /// Checks that every buffer plane lies inside its dma-buf, with 64-bit maths.
    ///
    /// Kernels must not be relied on for it: virtio-gpu makes a 4000x4000 framebuffer of a 16 KiB buffer. For modifiers other
    /// than `LINEAR` and `INVALID` only the offset can be judged. A dma-buf cannot shrink, so one check lasts.
    ///
    /// # Errors
    /// [`SizeError::OutOfBounds`] if the client lied, [`SizeError::System`] if the size could not be asked.
    pub fn check_sizes(&self) -> Result<(), SizeError> {
        self.stats().map(drop)
    }

    /// [`Dmabuf::check_sizes`], and what was seen of each buffer plane's dma-buf on the way.
    pub(crate) fn stats(&self) -> Result<[Option<DmabufStat<'a>>; MAX_BUFFER_PLANES], SizeError> {
        let layout = format::info(self.format).filter(|_| is_plain(self.modifier));
        let mut stats = [None; MAX_BUFFER_PLANES];
        for (index, (plane, stat)) in self.planes().zip(&mut stats).enumerate() {
            let system = |source| SizeError::System { plane: index, source };
            let seen = DmabufStat::of(plane.fd).map_err(system)?;
            let actual = seen.size().map_err(system)?;
            let needed = match layout {
                Some(layout) => layout.plane_end(index, self.width, self.height, plane.offset, plane.stride),
                None => u64::from(plane.offset) + 1,
            };
            if needed > actual {
                let dmabuf = seen.id;
                return Err(SizeError::OutOfBounds { plane: index, dmabuf, needed, actual });
            }
            *stat = Some(seen);
        }
        Ok(stats)
    }
}

/// Refuses the one code of drm-fourcc that is no format, and that panics when it is printed.
pub(crate) fn check_format(format: DrmFourcc) -> Result<(), LayoutError> {
    match format {
        DrmFourcc::Big_endian => Err(LayoutError::NoFormat { code: format as u32 }),
        _ => Ok(()),
    }
}

/// Whether a modifier leaves the layout to format, offset and stride alone, as far as anyone can tell.
#[must_use]
pub(crate) fn is_plain(modifier: DrmModifier) -> bool {
    matches!(modifier, DrmModifier::Linear | DrmModifier::Invalid)
}

/// Identity of a dma-buf: device and inode number of its file.
///
/// Valid only while something holds the dma-buf (a descriptor, or a GEM handle that came from it): inode numbers
/// come back on older kernels, and before Linux 5.3 all dma-bufs share one. Never key on a descriptor's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DmabufId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

impl DmabufId {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The errno of `fstat`.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(DmabufStat::of(fd)?.id)
    }
}

impl std::fmt::Display for DmabufId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "dma-buf {}:{}", self.dev, self.ino)
    }
}

/// A descriptor, and what one look at it (`fstat`) told: whose it is and how large.
///
/// It borrows the descriptor, which keeps the dma-buf alive and its identity valid.
///
/// ```
/// use std::{os::fd::AsFd, sync::Arc};
/// use drm_prime::{DmabufStat, HandleTable, model::{Driver, Machine, Node, Profile}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let machine = Machine::new(Profile::MODERN);
/// let buffer = machine.udmabuf(4096)?.into_owned()?;
/// let table = HandleTable::new(Arc::new(machine.add_device(Driver::vgem()).open(Node::Primary)?));
/// let stat = DmabufStat::of(buffer.as_fd())?; // one system call for the check of the size and the import
/// assert_eq!(stat.size()?, 4096);
/// let handle = table.import_stat(&stat)?;
/// assert_eq!(table.ledger().handles[0].dmabuf, Some(stat.id()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct DmabufStat<'a> {
    fd: BorrowedFd<'a>,
    id: DmabufId,
    /// 0 where seeking must tell.
    size: i64,
}

impl<'a> DmabufStat<'a> {
    /// Looks at a descriptor.
    ///
    /// # Errors
    /// The errno of `fstat`.
    pub fn of(fd: BorrowedFd<'a>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        let id = DmabufId { dev: stat.st_dev, ino: stat.st_ino };
        Ok(Self { fd, id, size: stat.st_size })
    }

    /// What was learnt of a descriptor before: its identity and real size in bytes, which stay what they are while any
    /// descriptor of it is held.
    #[must_use]
    pub fn known(fd: BorrowedFd<'a>, id: DmabufId, size: u64) -> Self {
        Self { fd, id, size: i64::try_from(size).unwrap_or(i64::MAX) }
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'a> {
        self.fd
    }

    /// The identity.
    #[must_use]
    pub fn id(&self) -> DmabufId {
        self.id
    }

    /// Real size in bytes, without moving a regular file's position.
    ///
    /// # Errors
    /// The kernel's errno; `ESPIPE` for something that has no size.
    pub fn size(&self) -> io::Result<u64> {
        if let (Ok(size), true) = (u64::try_from(self.size), self.size > 0) {
            return Ok(size);
        }
        // Before Linux 5.3 a dma-buf's inode has no size, and only seeking tells. Positions mean nothing to a dma-buf.
        let end = rustix::fs::seek(self.fd, SeekFrom::End(0))?;
        rustix::fs::seek(self.fd, SeekFrom::Start(0))?;
        Ok(end)
    }
}

/// Whether a descriptor is a dma-buf, by the file system its file lives on.
///
/// # Errors
/// The errno of `fstatfs`; `EBADF` for an `O_PATH` descriptor before Linux 3.12 only.
pub fn is_dmabuf(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // f_type is a signed word of the machine's size: compare its low 32 bits.
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff == DMA_BUF_MAGIC)
}

/// [`is_dmabuf`] of a descriptor whose file is known to live on the device `dev` (`st_dev`): no system call where a dma-buf has
/// been seen there before. The kernel mounts their file system once, at its start, and nobody can undo that, so that its
/// number belongs to nothing else.
///
/// # Errors
/// As [`is_dmabuf`].
pub fn is_dmabuf_on(fd: BorrowedFd<'_>, dev: u64) -> io::Result<bool> {
    /// No file system has the number 0.
    static SEEN: AtomicU64 = AtomicU64::new(0);
    if dev != 0 && SEEN.load(Ordering::Relaxed) == dev {
        return Ok(true);
    }
    let is = is_dmabuf(fd)?;
    if is {
        SEEN.store(dev, Ordering::Relaxed);
    }
    Ok(is)
}

/// Real size in bytes of what a descriptor names, without moving a regular file's position.
///
/// # Errors
/// The kernel's errno; `ESPIPE` for something that has no size.
pub fn real_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    DmabufStat::of(fd)?.size()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    fn memory(size: u64) -> OwnedFd {
        let fd = rustix::fs::memfd_create("buffer", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        fd
    }

    fn one(fd: &OwnedFd, offset: u32, stride: u32) -> BufferPlane<'_> {
        BufferPlane { fd: fd.as_fd(), offset, stride }
    }

    fn xrgb<'a>(w: u32, h: u32, plane: BufferPlane<'a>) -> Result<Dmabuf<'a>, LayoutError> {
        Dmabuf::new(w, h, DrmFourcc::Xrgb8888, DrmModifier::Linear, &[plane])
    }

    #[test]
    fn dimensions_out_of_range() {
        let fd = memory(4096);
        for (width, height) in [(0, 1), (1, 0), (u32::MAX, 1), (1, 1 << 31)] {
            let error = xrgb(width, height, one(&fd, 0, u32::MAX)).unwrap_err();
            assert_eq!(error, LayoutError::Dimensions { width, height });
        }
    }

    #[test]
    fn a_flag_is_no_format() {
        let fd = memory(4096);
        let flag = DrmFourcc::try_from(1 << 31).unwrap();
        let error = Dmabuf::new(1, 1, flag, DrmModifier::Linear, &[one(&fd, 0, 4)]).unwrap_err();
        assert_eq!((error, error.fault()), (LayoutError::NoFormat { code: 1 << 31 }, Fault::Client));
        assert_eq!(error.to_string(), "0x80000000 is no format");
    }

    #[test]
    fn plane_counts() {
        let fd = memory(4096);
        let planes = [one(&fd, 0, 64); 4];
        let count = |format, modifier, n: usize| Dmabuf::new(16, 4, format, modifier, &planes[..n]).is_ok();
        let tiled = DrmModifier::I915_y_tiled_ccs;
        assert!(!count(DrmFourcc::Xrgb8888, DrmModifier::Linear, 0));
        assert!(count(DrmFourcc::Xrgb8888, DrmModifier::Linear, 1));
        assert!(!count(DrmFourcc::Xrgb8888, DrmModifier::Linear, 2));
        assert!(!count(DrmFourcc::Nv12, DrmModifier::Invalid, 1));
        assert!(count(DrmFourcc::Nv12, DrmModifier::Invalid, 2));
        assert!(!count(DrmFourcc::Nv12, DrmModifier::Invalid, 3));
        assert!(count(DrmFourcc::Xrgb8888, tiled, 2));
        assert!(!count(DrmFourcc::Nv12, tiled, 1));
    }

    #[test]
    fn stride_below_a_row() {
        let fd = memory(4096);
        let error = xrgb(16, 4, one(&fd, 0, 63)).unwrap_err();
        assert_eq!(error, LayoutError::Stride { plane: 0, stride: 63, least: 64 });
        assert_eq!(error.fault(), Fault::Client);
        let nv12 = [one(&fd, 0, 16), one(&fd, 64, 15)];
        let error = Dmabuf::new(16, 4, DrmFourcc::Nv12, DrmModifier::Linear, &nv12).unwrap_err();
        assert_eq!(error, LayoutError::Stride { plane: 1, stride: 15, least: 16 });
    }

    #[test]
    fn sizes_are_held_to_the_byte() {
        let fd = memory(16 * 4 * 4);
        xrgb(16, 4, one(&fd, 0, 64)).unwrap().check_sizes().unwrap();
        let error = xrgb(16, 4, one(&fd, 1, 64)).unwrap().check_sizes().unwrap_err();
        assert!(
            matches!(error, SizeError::OutOfBounds { plane: 0, needed: 257, actual: 256, .. }),
            "{error:?}"
        );
        assert_eq!(error.fault(), Fault::Client);
        // offset and stride that wrap in 32 bits
        for (offset, stride) in [(u32::MAX - 3, 64), (0, u32::MAX), (u32::MAX, u32::MAX)] {
            let error = xrgb(16, 4, one(&fd, offset, stride)).unwrap().check_sizes().unwrap_err();
            assert!(matches!(error, SizeError::OutOfBounds { .. }), "{error:?}");
        }
    }

    #[test]
    fn each_plane_is_held_to_its_own_memory() {
        let (big, small) = (memory(4096), memory(63));
        let planes = [one(&big, 0, 16), one(&small, 0, 16)];
        let buffer = Dmabuf::new(16, 8, DrmFourcc::Nv12, DrmModifier::Invalid, &planes).unwrap();
        let error = buffer.check_sizes().unwrap_err();
        assert!(
            matches!(error, SizeError::OutOfBounds { plane: 1, needed: 64, actual: 63, .. }),
            "{error:?}"
        );
        let ids = buffer.ids().unwrap();
        assert_ne!(ids[0], ids[1]);
        assert_eq!(ids[0], DmabufId::of(big.try_clone().unwrap().as_fd()).unwrap());
    }

    #[test]
    fn memory_without_a_size_is_a_system_error() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let error = xrgb(1, 1, one(&reader, 0, 4)).unwrap().check_sizes().unwrap_err();
        assert!(matches!(error, SizeError::System { plane: 0, .. }), "{error:?}");
        assert_eq!(error.fault(), Fault::System);
    }

    #[test]
    fn a_memfd_is_not_a_dmabuf() {
        assert!(!is_dmabuf(memory(1).as_fd()).unwrap());
    }
}
