//! What can be asked of a file descriptor before anything is imported: is it a dma-buf, and how big is it.
//!
//! Does not own: reading, mapping or importing; an fd sent by a client is never read here, because a read may
//! block or have effects on a file that is not what the client says it is.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, SeekFrom, fstat, fstatfs, seek};

/// `f_type` of the kernel's dma-buf file system: `DMA_BUF_MAGIC`, "DMAB" (`include/uapi/linux/magic.h`).
pub const DMA_BUF_MAGIC: u64 = 0x444d_4142;

/// Says whether `fd` is a dma-buf, by the file system that it lives on.
///
/// An ioctl that happens to work is no evidence: other files answer ioctls too. A file that cannot be asked is
/// not a dma-buf.
pub fn is_dmabuf(fd: BorrowedFd<'_>) -> bool {
    // The width and sign of `f_type` differ per architecture; the magic has 32 bits.
    fstatfs(fd).is_ok_and(|fs| (fs.f_type as u64) & 0xffff_ffff == DMA_BUF_MAGIC)
}

/// What the file behind a descriptor says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmabufFile {
    /// `st_dev`; with `ino` the identity of a dma-buf from Linux 5.3 on, as long as a descriptor of it is held.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// Size of the memory in bytes; `None` when the file has none that can be asked.
    pub size: Option<u64>,
}

impl DmabufFile {
    /// Asks with one system call (`fstat`), which leaves the size open where the file has none to tell.
    pub fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let stat = fstat(fd).ok()?;
        let size = match (u64::try_from(stat.st_size), FileType::from_raw_mode(stat.st_mode)) {
            (Ok(size), FileType::RegularFile) => Some(size),
            (Ok(size), _) if size > 0 => Some(size),
            _ => None,
        };
        Some(Self { dev: stat.st_dev, ino: stat.st_ino, size })
    }

    /// Asks for the size with a second system call, if the first left it open.
    ///
    /// The file position of a regular file (a memfd) is the client's and is left alone. A dma-buf before Linux 5.3 has no
    /// size but by `lseek(SEEK_END)`, and keeps no position (`dma_buf_llseek` in `drivers/dma-buf/dma-buf.c`).
    #[must_use]
    pub fn with_size(self, fd: BorrowedFd<'_>) -> Self {
        Self { size: self.size.or_else(|| seek(fd, SeekFrom::End(0)).ok()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn a_memfd_is_no_dmabuf_and_has_its_size() {
        let fd = memfd_create("size", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 12_345).unwrap();
        assert!(!is_dmabuf(fd.as_fd()));
        let file = DmabufFile::of(fd.as_fd()).unwrap();
        let again = DmabufFile::of(fd.try_clone().unwrap().as_fd()).unwrap();
        assert_eq!((file.size, file), (Some(12_345), again));
        let other = memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
        let other = DmabufFile::of(other.as_fd()).unwrap();
        assert_eq!((other.size, other.ino == file.ino), (Some(0), false));
        assert_eq!(seek(&fd, SeekFrom::Current(0)).unwrap(), 0, "the file position is the client's");
    }

    #[test]
    fn a_pipe_is_no_dmabuf_and_has_no_size() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert!(!is_dmabuf(reader.as_fd()));
        assert_eq!(DmabufFile::of(reader.as_fd()).unwrap().with_size(reader.as_fd()).size, None);
    }
}
