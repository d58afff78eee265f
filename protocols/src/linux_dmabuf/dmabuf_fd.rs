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

/// Size in bytes of the memory behind `fd`; `None` when the file has no size that can be asked.
///
/// Regular files (memfds) are asked with `fstat`, which leaves the client's file position alone. A dma-buf
/// answers `lseek(SEEK_END)` and keeps no position (`dma_buf_llseek` in `drivers/dma-buf/dma-buf.c`).
pub fn fd_size(fd: BorrowedFd<'_>) -> Option<u64> {
    let stat = fstat(fd).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => u64::try_from(stat.st_size).ok(),
        _ => seek(fd, SeekFrom::End(0)).ok(),
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
        assert_eq!(fd_size(fd.as_fd()), Some(12_345));
        assert_eq!(seek(&fd, SeekFrom::Current(0)).unwrap(), 0, "the file position is the client's");
    }

    #[test]
    fn a_pipe_is_no_dmabuf_and_has_no_size() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert!(!is_dmabuf(reader.as_fd()));
        assert_eq!(fd_size(reader.as_fd()), None);
    }
}
