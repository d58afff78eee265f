//! Client buffers: memory from every exporter a software machine has, with a picture in it.
//!
//! Owns allocation and the mapping of test buffers. The unsafe calls are in `sys`, the only such module of
//! this crate. It does not know Wayland (`client`).

mod sys;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustix::fs::{MemfdFlags, SealFlags};

pub use sys::{Mapping, sync_for_cpu};

use crate::drm_node::DrmNode;
use crate::format::{Format, PlaneLayout};
use crate::picture::Picture;

/// Where the memory of a client buffer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Allocator {
    /// Dumb buffer of the `vgem` card, exported through PRIME: a foreign DRM device.
    Vgem,
    /// Pages of a sealed memfd through `/dev/udmabuf`.
    Udmabuf,
    /// The system dma-heap.
    Heap,
    /// Dumb buffer of the display's own device, on a file of the client.
    Vkms,
    /// A memfd as if it were a dma-buf. It is not one: only a software device may take it.
    Memfd,
    /// `wl_shm`, for comparison.
    Shm,
}

impl Allocator {
    /// Whether the result is a dma-buf of the kernel.
    #[must_use]
    pub fn is_dmabuf(self) -> bool {
        !matches!(self, Allocator::Memfd | Allocator::Shm)
    }
}

/// One buffer: a single memory object that holds all planes of a format.
#[derive(Debug)]
pub struct ClientBuffer {
    fd: OwnedFd,
    mapping: Mapping,
    /// The pixel format.
    pub format: Format,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Where each plane lies in the object.
    pub layout: Vec<PlaneLayout>,
    /// Where the memory came from.
    pub allocator: Allocator,
}

impl ClientBuffer {
    /// Allocates and maps a buffer. The content is undefined (zero from every allocator here).
    ///
    /// # Errors
    ///
    /// When the device of `allocator` is absent or an ioctl fails.
    pub fn allocate(allocator: Allocator, format: Format, width: u32, height: u32) -> Result<ClientBuffer> {
        let size = format.size(width, height);
        let fd = match allocator {
            Allocator::Vgem => DrmNode::of_driver("vgem")?.dumb_dmabuf(size)?,
            Allocator::Vkms => DrmNode::of_driver("vkms")?.dumb_dmabuf(size)?,
            Allocator::Udmabuf => udmabuf(size)?,
            Allocator::Heap => {
                let heap = File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/dma_heap/system")
                    .context("cannot open /dev/dma_heap/system")?;
                sys::heap_allocate(heap.as_fd(), size).context("DMA_HEAP_IOCTL_ALLOC")?
            }
            Allocator::Memfd | Allocator::Shm => memfd(size)?,
        };
        let mapping = Mapping::shared(fd.as_fd(), size).context("cannot map the buffer")?;
        Ok(ClientBuffer {
            fd,
            mapping,
            format,
            width,
            height,
            layout: format.layout(width, height),
            allocator,
        })
    }

    /// Bytes of the memory object.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Draws a picture, between the begin and end of CPU access that a dma-buf wants.
    ///
    /// # Errors
    ///
    /// When `DMA_BUF_IOCTL_SYNC` fails.
    pub fn draw(&mut self, picture: &Picture, y_invert: bool) -> Result<()> {
        let is_dmabuf = self.allocator.is_dmabuf();
        if is_dmabuf {
            sync_for_cpu(self.fd.as_fd(), true).context("DMA_BUF_IOCTL_SYNC start")?;
        }
        picture.draw(&self.format, &self.layout, self.mapping.bytes_mut(), y_invert);
        if is_dmabuf {
            sync_for_cpu(self.fd.as_fd(), false).context("DMA_BUF_IOCTL_SYNC end")?;
        }
        Ok(())
    }
}

impl AsFd for ClientBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A memfd of `size` bytes, sealed against shrinking as udmabuf demands.
fn memfd(size: u64) -> Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("primeway-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .context("memfd_create")?;
    rustix::fs::ftruncate(&fd, size).context("ftruncate")?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).context("F_ADD_SEALS")?;
    Ok(fd)
}

fn udmabuf(size: u64) -> Result<OwnedFd> {
    let device =
        File::options().read(true).write(true).open("/dev/udmabuf").context("cannot open /dev/udmabuf")?;
    let memory = memfd(size)?;
    sys::udmabuf_create(device.as_fd(), memory.as_fd(), size).context("UDMABUF_CREATE")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Pattern;

    #[test]
    fn memfd_buffer_holds_the_picture() {
        let format = Format::named("XR24").unwrap();
        let mut buffer = ClientBuffer::allocate(Allocator::Memfd, format, 16, 16).unwrap();
        let picture = Picture { pattern: Pattern::Solid(0xff01_0203), width: 16, height: 16, frame: 0 };
        buffer.draw(&picture, false).unwrap();
        let mut first = [0u8; 4];
        rustix::io::pread(&buffer, &mut first, 0).unwrap();
        assert_eq!(first, [3, 2, 1, 0]);
        assert_eq!(buffer.size(), 4096);
    }
}
