//! Real dma-bufs, from the kernel's system heap, with the default test of what a dma-buf is.
//!
//! They need `/dev/dma_heap/system`. Where that is missing they are ignored and counted as such; the lab has it:
//! `cargo lab exec -- target/debug/deps/linux_dmabuf-HASH --ignored`.

use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use primeway_protocols::linux_dmabuf::{DmabufFile, is_dmabuf};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{Error, Flags};

use super::harness::{Server, XRGB, feedback};

/// `struct dma_heap_allocation_data` of `include/uapi/linux/dma-heap.h`.
#[repr(C)]
#[derive(Default)]
struct Allocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

/// A dma-buf of `len` bytes, a multiple of the page size.
#[allow(unsafe_code)]
fn heap_buffer(len: u64) -> OwnedFd {
    const ALLOC: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<Allocation>(b'H', 0);
    let heap = File::open("/dev/dma_heap/system").unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let mut data = Allocation { len, fd_flags: flags.bits(), ..Allocation::default() };
    // SAFETY: DMA_HEAP_IOCTL_ALLOC reads and writes one dma_heap_allocation_data, which `Allocation` mirrors.
    unsafe { rustix::ioctl::ioctl(&heap, rustix::ioctl::Updater::<ALLOC, Allocation>::new(&mut data)) }
        .unwrap();
    // SAFETY: the ioctl succeeded, so `fd` is a new fd that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(data.fd as i32) }
}

#[test]
#[ignore = "needs /dev/dma_heap/system, run it in the lab"]
fn a_heap_buffer_is_a_dmabuf_and_has_its_size() {
    let fd = heap_buffer(8192);
    assert!(is_dmabuf(fd.as_fd()));
    assert_eq!(DmabufFile::of(fd.as_fd()).unwrap().size, Some(8192));
    assert!(!is_dmabuf(File::open("/dev/dma_heap/system").unwrap().as_fd()));
}

#[test]
#[ignore = "needs /dev/dma_heap/system, run it in the lab"]
fn a_real_dmabuf_becomes_a_buffer_where_memfds_do_not() {
    let mut server = Server::new(Some(feedback()));
    server.state.accept_memfds = false;
    let mut client = server.connect(6);
    let fd = heap_buffer(4096);
    let params = client.params();
    params.add(fd.as_fd(), 0, 0, 64, 0, 0);
    params.create(16, 64, XRGB, Flags::empty());
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), server.state.buffers), (1, 1));
    // One byte more than the dma-buf has.
    let params = client.params();
    params.add(fd.as_fd(), 0, 1, 64, 0, 0);
    params.create(16, 64, XRGB, Flags::empty());
    assert_eq!(client.roundtrip(&mut server).unwrap_err().code, Error::OutOfBounds as u32);
}
