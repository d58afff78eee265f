//! Buffers that lie get the error that linux-dmabuf's XML has for them, and nobody else notices.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use crate::headless_support::Server;
use crate::headless_support::client::{Client, Event, hi, lo};
use primeway_tests::client::link::WireError;
use primeway_tests::picture::Pattern;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Error, Flags, ZwpLinuxBufferParamsV1,
};

use super::{OUTPUT, start};

const SIZE: (u32, u32) = (64, 64);

fn add(params: &ZwpLinuxBufferParamsV1, fd: BorrowedFd<'_>, index: u32, offset: u32, stride: u32) {
    params.add(fd, index, offset, stride, hi(0), lo(0));
}

/// Tells a lie on a connection of its own.
fn lie(
    server: &Server,
    format: &str,
    size: (i32, i32),
    planes: impl Fn(&ZwpLinuxBufferParamsV1, BorrowedFd<'_>, u32),
) -> (Client, anyhow::Result<WireError>) {
    let mut client = server.connect().unwrap();
    let (memory, _) = Client::memory(format, SIZE, Pattern::Noise(1), false).unwrap();
    let params = client.params().unwrap();
    planes(&params, memory.as_fd(), memory.layout[0].stride);
    client.create_immed(&params, size, memory.format.fourcc as u32, Flags::empty());
    let error = client.expect_error();
    (client, error)
}

#[test]
fn each_lie_has_its_error_and_the_other_client_goes_on() {
    let (server, mut honest) = start();
    let buffers = [1, 2].map(|n| honest.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap());
    let window = honest.show_window("honest", &buffers[0]).unwrap();
    server.settle().unwrap();
    let whole = (SIZE.0 as i32, SIZE.1 as i32);
    let gap = |p: &ZwpLinuxBufferParamsV1, fd: BorrowedFd<'_>, s| {
        add(p, fd, 0, 0, s);
        add(p, fd, 2, 4096, s);
    };
    let twice = |p: &ZwpLinuxBufferParamsV1, fd: BorrowedFd<'_>, s| {
        add(p, fd, 0, 0, s);
        add(p, fd, 0, 0, s);
    };
    let two = |p: &ZwpLinuxBufferParamsV1, fd: BorrowedFd<'_>, s| {
        add(p, fd, 0, 0, s);
        add(p, fd, 1, 0, s);
    };
    type Planes<'a> = &'a dyn Fn(&ZwpLinuxBufferParamsV1, BorrowedFd<'_>, u32);
    type Lie<'a> = (&'a str, &'a str, (i32, i32), Planes<'a>, Error);
    let one: Planes<'_> = &|p, fd, s| add(p, fd, 0, 0, s);
    let cases: &[Lie<'_>] = &[
        ("width -1", "XR24", (-1, 64), one, Error::InvalidDimensions),
        ("height 0", "XR24", (64, 0), one, Error::InvalidDimensions),
        ("width beyond the stride", "XR24", (65536, 64), one, Error::OutOfBounds),
        ("height beyond the file", "XR24", (64, i32::MAX), one, Error::OutOfBounds),
        ("stride 0", "XR24", whole, &|p, fd, _| add(p, fd, 0, 0, 0), Error::OutOfBounds),
        ("stride near 2^32", "XR24", whole, &|p, fd, _| add(p, fd, 0, 0, u32::MAX - 3), Error::OutOfBounds),
        (
            "offset near 2^32",
            "XR24",
            whole,
            &|p, fd, s| add(p, fd, 0, u32::MAX - 4095, s),
            Error::OutOfBounds,
        ),
        ("one plane of NV12", "NV12", whole, one, Error::Incomplete),
        ("two planes of XR24", "XR24", whole, &two, Error::Incomplete),
        ("no plane", "XR24", whole, &|_, _, _| (), Error::Incomplete),
        ("NV12 with a gap", "NV12", whole, &gap, Error::Incomplete),
        ("plane 0 twice", "XR24", whole, &twice, Error::PlaneSet),
        ("plane 4", "XR24", whole, &|p, fd, s| add(p, fd, 4, 0, s), Error::PlaneIdx),
    ];
    for (turn, (name, format, size, planes, expected)) in cases.iter().enumerate() {
        let (_client, error) = lie(&server, format, *size, planes);
        let error = error.unwrap_or_else(|err| panic!("{name}: {err}"));
        let wanted = ("zwp_linux_buffer_params_v1", *expected as u32);
        assert_eq!((error.interface.as_str(), error.code), wanted, "{name}: {}", error.message);
        // The other client's frames go on.
        assert!(super::present(&mut honest, &window.surface, &buffers[turn % 2]), "{name}");
    }
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
    assert!(server.stats().unwrap().resources.framebuffers <= buffers.len());
}

#[test]
fn a_file_that_is_no_dmabuf_is_refused() {
    let (server, _honest) = start();
    // The headless backend takes memfds too, but not files and pipes.
    let file = File::open("/proc/self/exe").unwrap();
    let pipe = rustix::pipe::pipe().unwrap().0;
    for fd in [file.as_fd(), pipe.as_fd()] {
        let (client, error) =
            lie(&server, "XR24", (64, 64), |params, _, stride| add(params, fd, 0, 0, stride));
        // The XML leaves the choice: an invalid wl_buffer is fatal, or the client hears `failed`.
        match error {
            Ok(error) => assert_eq!(error.code, Error::InvalidWlBuffer as u32, "{}", error.message),
            Err(_) => assert!(client.seen.log.contains(&Event::Failed), "{:?}", client.seen.log),
        }
    }
}

#[test]
fn a_modifier_that_was_not_advertised_fails_without_ending_the_client() {
    let (server, mut client) = start();
    let (memory, _) = Client::memory("XR24", SIZE, Pattern::Noise(1), false).unwrap();
    let params = client.params().unwrap();
    params.add(memory.as_fd(), 0, 0, memory.layout[0].stride, 0x0100_0000, 1);
    let (width, height) = (SIZE.0 as i32, SIZE.1 as i32);
    client.create(&params, (width, height), memory.format.fourcc as u32, Flags::empty());
    client.wait("failed", |seen| seen.log.contains(&Event::Failed)).unwrap();
    client.roundtrip().unwrap();
    assert_eq!(server.stats().unwrap().resources.framebuffers, 0);
}

#[test]
fn a_wl_shm_buffer_beyond_its_pool_is_an_error() {
    let (server, mut client) = start();
    client.shm_beyond_pool().unwrap();
    let error = client.expect_error().unwrap();
    assert_eq!(error.interface, "wl_shm_pool", "{error:?}");
    // The compositor goes on.
    let mut other = server.connect().unwrap();
    let buffer = other.shm("XR24", SIZE, Pattern::Noise(1)).unwrap();
    other.show_window("other", &buffer).unwrap();
    assert!(server.window("other").is_ok());
}

#[test]
fn a_wl_shm_file_cut_short_while_it_is_shown_harms_nobody_else() {
    let (server, mut honest) = start();
    let mut liar = server.connect().unwrap();
    let (buffer, window) = liar.show_unsealed("liar", SIZE).unwrap();
    server.settle().unwrap();
    rustix::fs::ftruncate(&buffer.1, 0).unwrap();
    window.surface.attach(Some(&buffer.0), 0, 0);
    window.surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
    window.surface.commit();
    // It may be thrown out or shown as nothing.
    let outcome = liar.roundtrip();
    assert!(outcome.is_ok() || liar.error().is_some(), "{outcome:?}");
    server.settle().unwrap();
    let content = honest.dmabuf("XR24", OUTPUT, Pattern::Noise(2)).unwrap();
    let full = honest.open_window_as("honest", |toplevel| toplevel.set_fullscreen(None)).unwrap();
    assert!(super::present(&mut honest, &full.surface, &content));
}
