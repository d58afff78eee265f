//! File descriptors: whatever clients do, the process holds as many after them as before.
//!
//! The cases of this file count all fds of the process, so they exclude each other and live in a binary of their own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "linux_dmabuf/harness.rs"]
mod harness;

use std::sync::{Mutex, PoisonError};

use harness::{ARGB, NV12, P010, Plane, Server, TILED, TestClient, XRGB, feedback};
use primeway_protocols::linux_dmabuf::{ImportError, MOD_INVALID, MOD_LINEAR};
use proptest::prelude::*;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Flags, ZwpLinuxBufferParamsV1,
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn good(index: u32) -> Plane {
    Plane { index, size: 4096, offset: 0, stride: 64, modifier: MOD_LINEAR }
}

/// Runs `bad` with a fresh client a hundred times; the fds of the process must not grow while the server lives.
fn leaks_nothing(accept_memfds: bool, import_error: Option<ImportError>, bad: impl Fn(&TestClient)) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = Server::new(Some(feedback()));
    // Whatever is opened once is open now.
    server.connect(6).assert_alive(&mut server);
    server.dispatch();
    server.state.accept_memfds = accept_memfds;
    server.state.import_error = import_error;
    let before = open_fds();
    for _ in 0..100 {
        let mut client = server.connect(6);
        bad(&client);
        let _ = client.roundtrip(&mut server);
        drop(client);
        server.dispatch();
    }
    assert_eq!(open_fds(), before);
    assert_eq!(server.state.buffers, 0);
}

#[test]
fn of_every_error_path() {
    let immed = |client: &TestClient, planes: &[Plane], what: (i32, i32, u32)| {
        client.create_immed(&client.params_with(planes), what);
    };
    // Never created.
    leaks_nothing(true, None, |client| drop(client.params_with(&[good(0), good(1), good(2), good(3)])));
    // Errors of add, with planes collected before.
    leaks_nothing(true, None, |client| drop(client.params_with(&[good(0), good(4)])));
    leaks_nothing(true, None, |client| drop(client.params_with(&[good(0), good(0)])));
    // Errors of create.
    leaks_nothing(true, None, |client| immed(client, &[good(0), good(2)], (16, 16, NV12)));
    leaks_nothing(true, None, |client| immed(client, &[good(0)], (-1, 16, XRGB)));
    leaks_nothing(true, None, |client| immed(client, &[good(0)], (16, 16, ARGB)));
    leaks_nothing(true, None, |client| immed(client, &[good(0)], (16, 4096, XRGB)));
    // No dma-buf, with and without an error.
    leaks_nothing(false, None, |client| immed(client, &[good(0)], (16, 16, XRGB)));
    leaks_nothing(false, None, |client| {
        client.params_with(&[good(0)]).create(16, 16, XRGB, Flags::empty());
    });
    // Import failures.
    for error in [ImportError::Failed, ImportError::InvalidWlBuffer, ImportError::OutOfBounds] {
        leaks_nothing(true, Some(error), |client| immed(client, &[good(0)], (16, 16, XRGB)));
    }
    // Adding to a used object.
    leaks_nothing(true, None, |client| {
        let params = client.params_with(&[good(0)]);
        client.create_immed(&params, (16, 16, XRGB));
        params.add(std::os::fd::AsFd::as_fd(&harness::memfd(4096)), 1, 0, 64, 0, 0);
    });
    // Good buffers, left behind by a client that ends.
    leaks_nothing(true, None, |client| immed(client, &[good(0)], (16, 16, XRGB)));
    // Feedback objects, left behind.
    leaks_nothing(true, None, |client| {
        client.default_feedback();
        client.surface_feedback(&client.create_surface());
    });
}

#[test]
fn of_a_thousand_buffers_on_one_connection() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    client.assert_alive(&mut server);
    let before = open_fds();
    for _ in 0..1000 {
        client.assert_alive(&mut server);
    }
    assert_eq!(open_fds(), before);
    assert_eq!(server.state.buffers, 0);
}

/// One thing that a client may send.
#[derive(Debug, Clone)]
enum Op {
    Params,
    Add { index: u32, size: u16, offset: u32, stride: u32, modifier: u64 },
    Create { immed: bool, width: i32, height: i32, fourcc: u32, flags: u32 },
    Device(usize),
    DestroyParams,
    DestroyBuffers,
    Feedback { surface: bool },
    Roundtrip,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let modifier =
        prop_oneof![6 => Just(MOD_LINEAR), 1 => Just(MOD_INVALID), 1 => Just(TILED), 1 => any::<u64>()];
    let offset = prop_oneof![4 => Just(0), 1 => 0_u32..5000, 1 => any::<u32>()];
    let stride = prop_oneof![4 => Just(64), 1 => 0_u32..200, 1 => any::<u32>()];
    let side = || prop_oneof![4 => 1..=16, 1 => -2..5000, 1 => any::<i32>()];
    let fourcc =
        prop_oneof![4 => Just(XRGB), 2 => Just(NV12), 2 => Just(P010), 1 => Just(ARGB), 1 => any::<u32>()];
    let op = prop_oneof![
        3 => Just(Op::Params),
        6 => (0_u32..5, 0_u16..8192, offset, stride, modifier)
            .prop_map(|(index, size, offset, stride, modifier)| Op::Add { index, size, offset, stride, modifier }),
        4 => (any::<bool>(), side(), side(), fourcc, prop_oneof![6 => 0_u32..8, 1 => any::<u32>()])
            .prop_map(|(immed, width, height, fourcc, flags)| Op::Create { immed, width, height, fourcc, flags }),
        1 => (0_usize..12).prop_map(Op::Device),
        1 => Just(Op::DestroyParams),
        1 => Just(Op::DestroyBuffers),
        1 => any::<bool>().prop_map(|surface| Op::Feedback { surface }),
        2 => Just(Op::Roundtrip),
    ];
    prop::collection::vec(op, 1..40)
}

/// Plays the operations until one is answered with an error; gives the error's code.
fn play(server: &mut Server, client: &mut TestClient, ops: &[Op]) -> Option<(String, u32)> {
    let mut params: Option<ZwpLinuxBufferParamsV1> = None;
    let mut buffers = Vec::new();
    for op in ops {
        match op {
            Op::Params => params = Some(client.params()),
            Op::Add { index, size, offset, stride, modifier } => {
                let Some(params) = &params else { continue };
                let fd = harness::memfd(u64::from(*size));
                let (high, low) = ((modifier >> 32) as u32, *modifier as u32);
                params.add(std::os::fd::AsFd::as_fd(&fd), *index, *offset, *stride, high, low);
            }
            Op::Create { immed, width, height, fourcc, flags } => {
                let Some(params) = &params else { continue };
                let flags = Flags::from_bits_retain(*flags);
                if *immed {
                    let handle = client.handle();
                    buffers.push(params.create_immed(*width, *height, *fourcc, flags, &handle, ()));
                } else {
                    params.create(*width, *height, *fourcc, flags);
                }
            }
            Op::Device(len) => {
                let Some(params) = &params else { continue };
                params.set_sampling_device(vec![0; *len]);
            }
            Op::DestroyParams => {
                if let Some(params) = params.take() {
                    params.destroy();
                }
            }
            Op::DestroyBuffers => {
                buffers.append(&mut client.log.created);
                buffers.drain(..).for_each(|buffer| buffer.destroy());
            }
            Op::Feedback { surface: true } => {
                client.surface_feedback(&client.create_surface());
            }
            Op::Feedback { surface: false } => {
                client.default_feedback();
            }
            Op::Roundtrip => {
                if let Err(error) = client.roundtrip(server) {
                    return Some((error.object_interface, error.code));
                }
            }
        }
    }
    client.roundtrip(server).err().map(|error| (error.object_interface, error.code))
}

/// Any client: it ends with an error of the params object or not at all, another client does not notice, and what
/// was opened for it is closed.
#[test]
fn of_random_clients() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let config = ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(ops in ops(), failing in prop::option::weighted(0.2, Just(ImportError::Failed)))| {
        let mut server = Server::new(Some(feedback()));
        let mut bystander = server.connect(6);
        bystander.assert_alive(&mut server);
        let before = open_fds();
        server.state.import_error = failing;
        let mut client = server.connect(6);
        if let Some((interface, code)) = play(&mut server, &mut client, &ops) {
            prop_assert_eq!(interface, "zwp_linux_buffer_params_v1");
            prop_assert!(code <= 8);
        }
        drop(client);
        server.dispatch();
        server.state.import_error = None;
        server.state.surfaces.clear();
        bystander.assert_alive(&mut server);
        prop_assert_eq!(server.state.buffers, 0);
        prop_assert_eq!(open_fds(), before);
    });
}
