//! Memory from everything on this machine that exports dma-bufs: DRM devices, udmabuf, the heaps. For probes of what a
//! display device does with everybody's memory.
//!
//! It owns the allocation. What is tried with the memory is the caller's.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{HandleTable, KernelDevice, device::kernel::driver_name};
use rustix::{
    fs::{MemfdFlags, SealFlags},
    ioctl::{Ioctl, IoctlOutput, Opcode, Updater, opcode},
};

/// Something that makes dma-bufs.
#[derive(Debug)]
pub struct Exporter {
    /// What it is called in the table.
    pub name: String,
    /// Where it is.
    pub node: PathBuf,
    /// A buffer of the size asked for, or why there is none.
    pub memory: io::Result<OwnedFd>,
}

/// Asks everything for `size` bytes, a multiple of the page size: `own`, which is behind `own_node`, comes first.
pub fn exporters(own: &HandleTable, own_node: &Path, size: u64) -> Vec<Exporter> {
    let mut found =
        vec![Exporter { name: "own".to_owned(), node: own_node.to_owned(), memory: dumb(own, size) }];
    for node in nodes("/dev/dri", "card") {
        // Opening is all: a device of another driver may be as good an exporter as vgem.
        let Ok(file) = File::options().read(true).write(true).open(&node) else { continue };
        let rdev = rustix::fs::fstat(&file).map(|stat| stat.st_rdev);
        if rdev.is_ok_and(|rdev| rdev == own.device().dev_id()) {
            continue;
        }
        let mut name = driver_name(file.as_fd()).unwrap_or_else(|_| "unknown".to_owned());
        if found.iter().any(|exporter| exporter.name == name) {
            name = format!("{name}:{}", node.display());
        }
        let memory = KernelDevice::from_own_file(OwnedFd::from(file))
            .map_err(io::Error::other)
            .and_then(|device| dumb(&HandleTable::new(Arc::new(device)), size));
        found.push(Exporter { name, node, memory });
    }
    let udmabuf = PathBuf::from("/dev/udmabuf");
    if udmabuf.exists() {
        found.push(Exporter {
            name: "udmabuf".to_owned(),
            memory: create_udmabuf(&udmabuf, size),
            node: udmabuf,
        });
    }
    for node in nodes("/dev/dma_heap", "") {
        let name =
            node.file_name().map_or_else(String::new, |name| format!("heap:{}", name.to_string_lossy()));
        found.push(Exporter { name, memory: allocate_of_heap(&node, size), node });
    }
    found
}

/// The files of a folder whose names begin with `prefix`, sorted; none if there is no folder.
pub fn nodes(folder: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut nodes: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .filter(|path| !path.is_dir())
        .collect();
    nodes.sort();
    nodes
}

/// A dumb buffer in rows of 4096 bytes, exported; the dma-buf keeps the memory.
fn dumb(table: &HandleTable, size: u64) -> io::Result<OwnedFd> {
    let rows = u32::try_from(size.div_ceil(4096)).map_err(io::Error::other)?;
    let buffer = table.create_dumb(1024, rows, 32).map_err(io::Error::other)?;
    buffer.export().map_err(io::Error::other)
}

/// `struct udmabuf_create`, linux/udmabuf.h.
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

/// `UDMABUF_CREATE`: the descriptor is what the ioctl itself returns.
struct CreateUdmabuf(UdmabufCreate);

// SAFETY: UDMABUF_CREATE reads one `udmabuf_create`, keeps no pointer to it, and returns a new descriptor or an error.
unsafe impl Ioctl for CreateUdmabuf {
    type Output = RawFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::write::<UdmabufCreate>(b'u', 0x42)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<RawFd> {
        Ok(out)
    }
}

/// Pages of a memfd, sealed against shrinking as udmabuf demands.
fn create_udmabuf(node: &Path, size: u64) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(node)?;
    let memfd = rustix::fs::memfd_create("probe", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memfd, size)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
    let flags = 1; // UDMABUF_FLAGS_CLOEXEC
    let request = UdmabufCreate { memfd: memfd.as_raw_fd().cast_unsigned(), flags, offset: 0, size };
    // SAFETY: the node is udmabuf's, whose ioctl this is; a file that is none refuses the number.
    let fd = unsafe { rustix::ioctl::ioctl(&device, CreateUdmabuf(request)) }?;
    // SAFETY: the ioctl has just returned this descriptor, to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct dma_heap_allocation_data`, linux/dma-heap.h.
#[repr(C)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

fn allocate_of_heap(node: &Path, size: u64) -> io::Result<OwnedFd> {
    const ALLOC: Opcode = opcode::read_write::<HeapAllocation>(b'H', 0);
    let heap = File::options().read(true).write(true).open(node)?;
    let fd_flags = rustix::fs::OFlags::RDWR.union(rustix::fs::OFlags::CLOEXEC).bits();
    let mut request = HeapAllocation { len: size, fd: 0, fd_flags, heap_flags: 0 };
    // SAFETY: DMA_HEAP_IOCTL_ALLOC reads and writes one `dma_heap_allocation_data` and keeps no pointer to it.
    unsafe { rustix::ioctl::ioctl(&heap, Updater::<ALLOC, _>::new(&mut request)) }?;
    // SAFETY: the ioctl has put a new descriptor there, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(request.fd.cast_signed()) })
}
