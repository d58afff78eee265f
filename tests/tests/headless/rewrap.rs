//! Clients that wrap their memory in a new wl_buffer for each frame: the one that was just destroyed comes back, and only
//! that one.

use std::os::fd::{AsFd, OwnedFd};

use drm_prime::device::faults::Call;
use primeway::backend::headless::Headless;
use primeway_tests::picture::Pattern;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Flags, ZwpLinuxBufferParamsV1,
};

use crate::headless_support::client::{Buffer, Client, Event};
use crate::headless_support::{self, FaultyDevice, Server};

use super::{OUTPUT, assert_shows, present};

/// What a buffer is asked of the device.
const CALLS: [Call; 4] = [Call::FdToHandle, Call::GemClose, Call::AddFramebuffer, Call::CloseFramebuffer];

/// A compositor whose calls are counted.
fn start(limits: &[&str]) -> (Server, FaultyDevice) {
    Server::start_faulty(OUTPUT, limits, Headless::driver(), |_| {}).unwrap()
}

fn uses(device: &FaultyDevice) -> [u64; 4] {
    CALLS.map(|call| device.uses(call))
}

/// A description of a buffer.
#[derive(Clone, Copy)]
struct Described {
    size: (u32, u32),
    offset: u32,
    stride: u32,
    format: &'static [u8; 4],
    flags: Flags,
}

const PLAIN: Described =
    Described { size: OUTPUT, offset: 0, stride: OUTPUT.0 * 4, format: b"XR24", flags: Flags::empty() };

fn wrap(client: &Client, file: impl AsFd, what: Described) -> WlBuffer {
    let (wl, params) = wrap_and_listen(client, file, what);
    params.destroy();
    wl
}

/// As [`wrap`]; the params object stays, which hears of a failure.
fn wrap_and_listen(client: &Client, file: impl AsFd, what: Described) -> (WlBuffer, ZwpLinuxBufferParamsV1) {
    let params = client.params().unwrap();
    params.add(file.as_fd(), 0, what.offset, what.stride, 0, 0);
    let size = (what.size.0 as i32, what.size.1 as i32);
    let wl = client.create_immed(&params, size, u32::from_le_bytes(*what.format), what.flags);
    (wl, params)
}

/// Wraps the memory of a buffer anew, as a client does that keeps none: all in one go.
fn rewrap(client: &Client, buffer: &mut Buffer) {
    buffer.wl.destroy();
    buffer.wl = wrap(client, buffer.memory.as_fd(), PLAIN);
}

#[test]
fn a_new_wl_buffer_for_each_frame_asks_the_device_for_nothing() {
    let (server, device) = start(&[]);
    let mut client = server.connect().unwrap();
    let mut buffers = [1, 2, 3].map(|n| client.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap());
    let window = client.open_window("new").unwrap();
    for buffer in &buffers {
        assert!(present(&mut client, &window.surface, buffer));
    }
    let before = uses(&device);
    for frame in 0..30 {
        let buffer = &mut buffers[frame % 3];
        buffer.redraw(Pattern::Noise(10 + frame as u32)).unwrap();
        rewrap(&client, buffer);
        assert!(present(&mut client, &window.surface, buffer), "frame {frame}");
    }
    assert_eq!(uses(&device), before, "{CALLS:?} for 30 frames");
    assert_shows(&server.picture().unwrap(), (0, 0), &buffers[2]);
    // Events of the old objects do not get to the new ones, and each new one is released as any other.
    assert_eq!(client.error(), None);
    buffers.into_iter().for_each(|buffer| buffer.wl.destroy());
    window.close();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    // What nothing shows any more is let go of at the end of a turn, and settling is asked about within one.
    client.roundtrip().unwrap();
    let after = uses(&device);
    assert_eq!((after[1] - before[1], after[3] - before[3]), (3, 3), "all of it is closed at the end");
}

#[test]
fn a_create_is_answered_with_the_buffer_that_was_destroyed() {
    let (server, device) = start(&[]);
    let mut client = server.connect().unwrap();
    let file = memory();
    let mut wl = wrap(&client, &file, PLAIN);
    client.roundtrip().unwrap();
    let before = uses(&device);
    for n in 0..40 {
        wl.destroy();
        let params = client.params().unwrap();
        params.add(file.as_fd(), 0, PLAIN.offset, PLAIN.stride, 0, 0);
        client.create(
            &params,
            (OUTPUT.0 as i32, OUTPUT.1 as i32),
            u32::from_le_bytes(*b"XR24"),
            Flags::empty(),
        );
        client.roundtrip().unwrap();
        let created = client.seen.log.iter().filter_map(|event| match event {
            Event::Created(buffer) => Some(buffer.clone()),
            _ => None,
        });
        let created: Vec<WlBuffer> = created.collect();
        assert_eq!(created.len(), n + 1);
        wl = created[n].clone();
        params.destroy();
    }
    assert_eq!(uses(&device), before);
    assert!(!server.ask(|state| state.dmabuf.worker.is_running()).unwrap(), "no thread was needed");
    wl.destroy();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    assert_eq!((uses(&device)[1] - before[1], uses(&device)[0]), (1, before[0]));
}

fn memory() -> OwnedFd {
    headless_support::memory(u64::from(PLAIN.stride * (OUTPUT.1 + 8)))
}

#[test]
fn what_is_described_otherwise_is_another_buffer() {
    let (server, _device) = start(&[]);
    let mut client = server.connect().unwrap();
    let mut other = server.connect().unwrap();
    let (file, same_size) = (memory(), memory());
    let known = |server: &Server| server.ask(|state| state.dmabuf.imports.revived()).unwrap();
    let mut wl = wrap(&client, &file, PLAIN);
    client.roundtrip().unwrap();
    assert_eq!(known(&server), 0);
    let (width, height) = PLAIN.size;
    let otherwise = [
        Described { size: (width - 1, height), ..PLAIN },
        Described { size: (width, height - 1), ..PLAIN },
        Described { offset: 64, ..PLAIN },
        Described { stride: PLAIN.stride + 4, ..PLAIN },
        Described { format: b"AR24", ..PLAIN },
        Described { flags: Flags::YInvert, ..PLAIN },
    ];
    for (n, what) in otherwise.into_iter().enumerate() {
        wl.destroy();
        wl = wrap(&client, &file, what);
        client.roundtrip().unwrap();
        assert_eq!(known(&server), 2 * n as u64, "description {n}");
        wl.destroy();
        // The same as the last one, which comes back.
        wl = wrap(&client, &file, what);
        wl.destroy();
        wl = wrap(&client, &file, PLAIN);
        client.roundtrip().unwrap();
        wl.destroy();
        wl = wrap(&client, &file, PLAIN);
        client.roundtrip().unwrap();
        assert_eq!(known(&server), 2 * (n as u64 + 1), "description {n}");
    }
    // Other memory of the same size.
    let before = known(&server);
    wl.destroy();
    wl = wrap(&client, &same_size, PLAIN);
    client.roundtrip().unwrap();
    assert_eq!(known(&server), before);
    // The memory of somebody else. Both are served in one turn or in two; the buffer is never theirs.
    wl.destroy();
    client.roundtrip().unwrap();
    wrap(&other, &same_size, PLAIN);
    other.roundtrip().unwrap();
    assert_eq!(known(&server), before);
    // And not in a later turn.
    wl = wrap(&client, &file, PLAIN);
    client.roundtrip().unwrap();
    wl.destroy();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    wrap(&client, &file, PLAIN);
    client.roundtrip().unwrap();
    assert_eq!(known(&server), before);
}

#[test]
fn what_was_destroyed_leaves_room_for_the_next() {
    let size = u64::from(PLAIN.stride * (OUTPUT.1 + 8));
    for limit in ["buffers=1".to_owned(), format!("bytes={size}")] {
        let (server, _device) = start(&[&limit]);
        let mut client = server.connect().unwrap();
        let (mut wl, _) = wrap_and_listen(&client, memory(), PLAIN);
        for n in 0..4 {
            wl.destroy();
            (wl, _) = wrap_and_listen(&client, memory(), PLAIN);
            client.roundtrip().unwrap();
            assert!(!client.seen.log.contains(&Event::Failed), "{limit}, buffer {n}");
        }
        wrap_and_listen(&client, memory(), PLAIN);
        client.roundtrip().unwrap();
        assert!(client.seen.log.contains(&Event::Failed), "{limit}");
    }
}
