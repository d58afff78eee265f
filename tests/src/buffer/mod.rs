//! Client buffers: memory from every exporter a software machine has, with a picture in it.
//!
//! Owns allocation and the mapping of test buffers. The unsafe calls are in `sys`, the only such module of
//! this crate. It does not know Wayland (`client`).

pub mod fence;
mod sys;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::fs::{MemfdFlags, SealFlags};

pub use sys::{Mapping, sync_for_cpu};

use crate::drm_node::DrmNode;
use crate::format::{Format, PlaneLayout};
use crate::picture::Picture;

/// Bytes per row of the XRGB8888 objects whose memory gbm gives us.
const GBM_ROW: u32 = 4096;

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
    /// Memory of the display's own device by way of gbm, as Mesa's clients get it.
    Gbm,
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

/// How the planes of a buffer lie in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placement {
    /// Each plane in a memory object of its own.
    pub separate: bool,
    /// Bytes before the first plane of every object.
    pub offset: u32,
}

/// One buffer with all planes of a format.
#[derive(Debug)]
pub struct ClientBuffer {
    objects: Vec<Object>,
    /// The pixel format.
    pub format: Format,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Where each plane lies in its object.
    pub layout: Vec<PlaneLayout>,
    /// Where the memory came from.
    pub allocator: Allocator,
}

#[derive(Debug)]
struct Object {
    fd: OwnedFd,
    mapping: Mapping,
}

impl ClientBuffer {
    /// Allocates and maps a buffer with all planes in one object, from offset 0. The content is undefined (zero
    /// from every allocator here).
    ///
    /// # Errors
    ///
    /// When the device of `allocator` is absent or an ioctl fails.
    pub fn allocate(allocator: Allocator, format: Format, width: u32, height: u32) -> Result<ClientBuffer> {
        ClientBuffer::allocate_placed(allocator, format, (width, height), Placement::default())
    }

    /// Allocates and maps a buffer with its planes placed as asked for.
    ///
    /// # Errors
    ///
    /// When the device of `allocator` is absent or an ioctl fails.
    pub fn allocate_placed(
        allocator: Allocator,
        format: Format,
        (width, height): (u32, u32),
        placement: Placement,
    ) -> Result<ClientBuffer> {
        let mut layout = format.layout(width, height);
        let start = u64::from(placement.offset);
        let sizes: Vec<u64> = if placement.separate {
            layout.iter().map(|plane| start + u64::from(plane.stride) * u64::from(plane.rows)).collect()
        } else {
            vec![start + format.size(width, height)]
        };
        for plane in &mut layout {
            plane.offset = placement.offset + if placement.separate { 0 } else { plane.offset };
        }
        let objects = sizes
            .into_iter()
            .map(|size| {
                let size = size.next_multiple_of(4096);
                if allocator == Allocator::Gbm {
                    return gbm_object(size);
                }
                let fd = memory(allocator, size)?;
                let mapping = Mapping::shared(fd.as_fd(), size).context("cannot map the buffer")?;
                Ok(Object { fd, mapping })
            })
            .collect::<Result<_>>()?;
        Ok(ClientBuffer { objects, format, width, height, layout, allocator })
    }

    /// Bytes of the first memory object.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.objects[0].mapping.len() as u64
    }

    /// The object that holds a plane.
    #[must_use]
    pub fn plane_fd(&self, plane: usize) -> BorrowedFd<'_> {
        self.objects.get(plane).unwrap_or(&self.objects[0]).fd.as_fd()
    }

    /// Draws a picture, between the begin and end of CPU access that a dma-buf wants.
    ///
    /// # Errors
    ///
    /// When `DMA_BUF_IOCTL_SYNC` fails.
    pub fn draw(&mut self, picture: &Picture, y_invert: bool) -> Result<()> {
        self.sync(true).context("DMA_BUF_IOCTL_SYNC start")?;
        if let [object] = &mut self.objects[..] {
            picture.draw(&self.format, &self.layout, object.mapping.bytes_mut(), y_invert);
        } else {
            let together = self.format.layout(self.width, self.height);
            let mut pixels = vec![0; self.format.size(self.width, self.height) as usize];
            picture.draw(&self.format, &together, &mut pixels, y_invert);
            for (index, object) in self.objects.iter_mut().enumerate() {
                let bytes = (together[index].stride * together[index].rows) as usize;
                let (from, to) = (together[index].offset as usize, self.layout[index].offset as usize);
                object.mapping.bytes_mut()[to..to + bytes].copy_from_slice(&pixels[from..from + bytes]);
            }
        }
        self.sync(false).context("DMA_BUF_IOCTL_SYNC end")
    }

    /// Lets `write` write into the memory of a buffer with all planes in one object, between the begin and end of CPU
    /// access.
    ///
    /// # Errors
    ///
    /// When the planes lie in several objects, or `DMA_BUF_IOCTL_SYNC` fails.
    pub fn write(&mut self, write: impl FnOnce(&Format, &[PlaneLayout], &mut [u8])) -> Result<()> {
        self.sync(true).context("DMA_BUF_IOCTL_SYNC start")?;
        let [object] = &mut self.objects[..] else { bail!("planes in several objects") };
        write(&self.format, &self.layout, object.mapping.bytes_mut());
        self.sync(false).context("DMA_BUF_IOCTL_SYNC end")
    }

    fn sync(&self, begin: bool) -> std::io::Result<()> {
        if !self.allocator.is_dmabuf() {
            return Ok(());
        }
        self.objects.iter().try_for_each(|object| sync_for_cpu(object.fd.as_fd(), begin))
    }
}

impl AsFd for ClientBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.plane_fd(0)
    }
}

/// A memory object of `size` bytes, a multiple of the page size.
fn memory(allocator: Allocator, size: u64) -> Result<OwnedFd> {
    match allocator {
        Allocator::Vgem => DrmNode::of_driver("vgem")?.dumb_dmabuf(size),
        Allocator::Vkms => DrmNode::of_display()?.dumb_dmabuf(size),
        Allocator::Gbm => gbm_object(size).map(|object| object.fd),
        Allocator::Udmabuf => udmabuf(size),
        Allocator::Heap => {
            let heap = File::options()
                .read(true)
                .write(true)
                .open("/dev/dma_heap/system")
                .context("cannot open /dev/dma_heap/system")?;
            sys::heap_allocate(heap.as_fd(), size).context("DMA_HEAP_IOCTL_ALLOC")
        }
        Allocator::Memfd | Allocator::Shm => memfd(size),
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

/// Memory of a buffer object that gbm makes for scanout. Mesa exports it read-only, so it is mapped as the dumb
/// buffer that it is; dma-buf and mapping outlive the object.
fn gbm_object(size: u64) -> Result<Object> {
    let device = gbm::Device::new(DrmNode::of_driver("vkms")?).context("gbm_create_device")?;
    let rows = u32::try_from(size.div_ceil(u64::from(GBM_ROW))).context("too large for gbm")?;
    let usage = gbm::BufferObjectFlags::SCANOUT | gbm::BufferObjectFlags::LINEAR;
    let object = device
        .create_buffer_object::<()>(GBM_ROW / 4, rows, gbm::Format::Xrgb8888, usage)
        .context("gbm_bo_create")?;
    let fd = object.fd().context("gbm_bo_get_fd")?;
    let mapping = DrmNode::of_driver("vkms")?.map_own_dmabuf(fd.as_fd(), size)?;
    Ok(Object { fd, mapping })
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

    #[test]
    fn separate_planes_hold_what_one_object_holds() {
        let format = Format::named("NV12").unwrap();
        let picture = Picture { pattern: Pattern::Noise(1), width: 64, height: 4, frame: 0 };
        let mut together = ClientBuffer::allocate(Allocator::Memfd, format, 64, 4).unwrap();
        let placement = Placement { separate: true, offset: 8192 };
        let mut apart = ClientBuffer::allocate_placed(Allocator::Memfd, format, (64, 4), placement).unwrap();
        together.draw(&picture, false).unwrap();
        apart.draw(&picture, false).unwrap();
        for plane in 0..2 {
            let (mut one, mut other) = ([0u8; 128], [1u8; 128]);
            rustix::io::pread(together.plane_fd(plane), &mut one, u64::from(together.layout[plane].offset))
                .unwrap();
            rustix::io::pread(apart.plane_fd(plane), &mut other, 8192).unwrap();
            assert_eq!(one, other, "plane {plane}");
        }
    }
}
