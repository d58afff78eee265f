//! Buffers: good ones arrive as sent, bad ones get their error, and nobody else notices.

use primeway_protocols::linux_dmabuf::{ImportError, MAX_PENDING_PLANES, MOD_INVALID, MOD_LINEAR};
use wayland_client::Proxy;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Error, Flags, ZwpLinuxBufferParamsV1,
};
use wayland_server::Resource as _;

use super::harness::{
    ARGB, NV12, P010, Plane, Server, TILED, TestClient, XRGB, feedback, is_failed_buffer, memfd,
};

/// Two ways to ask for a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Create,
    Immed,
}

const BOTH: [Ask; 2] = [Ask::Create, Ask::Immed];

impl Ask {
    fn ask(self, client: &TestClient, params: &ZwpLinuxBufferParamsV1, what: (i32, i32, u32)) {
        match self {
            Self::Create => params.create(what.0, what.1, what.2, Flags::empty()),
            Self::Immed => {
                client.create_immed(params, what);
            }
        }
    }
}

fn plane(index: u32, size: u64, offset: u32, stride: u32, modifier: u64) -> Plane {
    Plane { index, size, offset, stride, modifier }
}

fn good(index: u32) -> Plane {
    plane(index, 4096, 0, 64, MOD_LINEAR)
}

/// A client of `version` does `bad`; it must get `error` on its params object, and another client goes on.
fn refused(version: u32, error: Error, bad: impl FnOnce(&TestClient) -> ZwpLinuxBufferParamsV1) {
    let mut server = Server::new(Some(feedback()));
    refused_by(&mut server, version, error, bad);
}

fn refused_by(
    server: &mut Server,
    version: u32,
    error: Error,
    bad: impl FnOnce(&TestClient) -> ZwpLinuxBufferParamsV1,
) {
    let mut bystander = server.connect(6);
    let mut client = server.connect(version);
    let params = bad(&client);
    let got = client.roundtrip(server).expect_err("a protocol error");
    assert_eq!(
        (got.code, got.object_interface.as_str(), got.object_id),
        (error as u32, "zwp_linux_buffer_params_v1", params.id().protocol_id()),
        "{got}"
    );
    assert_eq!(server.state.imported, Vec::<String>::new(), "nothing reached the import");
    server.state.accept_memfds = true;
    bystander.assert_alive(server);
    assert_eq!(server.state.buffers, 0);
}

/// Planes and arguments that are refused with `error` by both requests, in versions 3 to 6.
fn bad_buffer(error: Error, planes: impl Fn() -> Vec<Plane>, what: (i32, i32, u32)) {
    for version in 3..=6 {
        for ask in BOTH {
            refused(version, error, |client| {
                let params = client.params_with(&planes());
                ask.ask(client, &params, what);
                params
            });
        }
    }
}

#[test]
fn negative_and_empty_sizes_are_invalid_dimensions() {
    for (width, height) in [(-1, 16), (16, -1), (0, 16), (16, 0), (i32::MIN, i32::MIN)] {
        bad_buffer(Error::InvalidDimensions, || vec![good(0)], (width, height, XRGB));
    }
}

#[test]
fn a_stride_of_zero_is_out_of_bounds() {
    bad_buffer(Error::OutOfBounds, || vec![plane(0, 4096, 0, 0, MOD_LINEAR)], (16, 16, XRGB));
}

#[test]
fn a_row_wider_than_its_stride_is_out_of_bounds() {
    bad_buffer(Error::OutOfBounds, || vec![good(0)], (17, 16, XRGB));
}

#[test]
fn an_offset_near_u32_max_is_out_of_bounds() {
    for offset in [u32::MAX, u32::MAX - 63, u32::MAX - 1023] {
        bad_buffer(Error::OutOfBounds, || vec![plane(0, 4096, offset, 64, MOD_LINEAR)], (16, 16, XRGB));
    }
}

#[test]
fn a_plane_that_ends_behind_its_file_is_out_of_bounds() {
    bad_buffer(Error::OutOfBounds, || vec![plane(0, 1023, 0, 64, MOD_LINEAR)], (16, 16, XRGB));
    bad_buffer(Error::OutOfBounds, || vec![plane(0, 1024, 1, 64, MOD_LINEAR)], (16, 16, XRGB));
    let nv12 = || vec![good(0), plane(1, 16 * 8 - 1, 0, 16, MOD_LINEAR)];
    bad_buffer(Error::OutOfBounds, nv12, (16, 16, NV12));
}

#[test]
fn wrong_plane_counts_are_incomplete() {
    bad_buffer(Error::Incomplete, Vec::new, (16, 16, XRGB));
    bad_buffer(Error::Incomplete, || vec![good(0), good(1)], (16, 16, XRGB));
    bad_buffer(Error::Incomplete, || vec![good(0)], (16, 16, NV12));
    bad_buffer(Error::Incomplete, || vec![good(0), good(1), good(2)], (16, 16, NV12));
}

#[test]
fn gaps_are_incomplete() {
    bad_buffer(Error::Incomplete, || vec![good(0), good(2)], (16, 16, NV12));
    bad_buffer(Error::Incomplete, || vec![good(1), good(2)], (16, 16, NV12));
    bad_buffer(Error::Incomplete, || vec![good(1)], (16, 16, XRGB));
}

#[test]
fn unknown_and_unadvertised_formats_are_invalid() {
    for fourcc in [0, 0xdead_beef, ARGB] {
        bad_buffer(Error::InvalidFormat, || vec![good(0)], (16, 16, fourcc));
    }
}

#[test]
fn an_unadvertised_modifier_is_invalid_since_version_four() {
    for version in 4..=6 {
        for ask in BOTH {
            refused(version, Error::InvalidFormat, |client| {
                let params = client.params_with(&[plane(0, 4096, 0, 64, TILED)]);
                ask.ask(client, &params, (16, 16, XRGB));
                params
            });
        }
    }
    // Before, `create` must not end the client; `create_immed` has no other code for it.
    refused(3, Error::InvalidWlBuffer, |client| {
        let params = client.params_with(&[plane(0, 4096, 0, 64, TILED)]);
        client.create_immed(&params, (16, 16, XRGB));
        params
    });
    create_fails(3, |client| client.params_with(&[plane(0, 4096, 0, 64, TILED)]), (16, 16, XRGB), true);
}

#[test]
fn mixed_modifiers_are_an_invalid_format_since_version_five() {
    let planes = || [plane(0, 4096, 0, 64, MOD_LINEAR), plane(1, 4096, 0, 64, TILED)];
    for version in [5, 6] {
        // The second `add` is enough.
        refused(version, Error::InvalidFormat, |client| client.params_with(&planes()));
    }
    for version in [3, 4] {
        create_fails(version, |client| client.params_with(&planes()), (16, 16, NV12), true);
    }
}

#[test]
fn a_plane_index_of_four_is_out_of_range() {
    for version in 1..=6 {
        for index in [4, 5, u32::MAX] {
            refused(version, Error::PlaneIdx, |client| client.params_with(&[good(index)]));
        }
    }
}

#[test]
fn a_plane_is_set_once() {
    for version in 1..=6 {
        refused(version, Error::PlaneSet, |client| client.params_with(&[good(0), good(1), good(0)]));
    }
}

#[test]
fn a_used_params_object_can_only_be_destroyed() {
    let use_again: [fn(&TestClient, &ZwpLinuxBufferParamsV1); 4] = [
        |_, params| params.create(16, 16, XRGB, Flags::empty()),
        |client, params| drop(client.create_immed(params, (16, 16, XRGB))),
        |_, params| {
            let fd = memfd(4096);
            params.add(std::os::fd::AsFd::as_fd(&fd), 1, 0, 64, 0, 0);
        },
        |_, params| params.set_sampling_device(vec![0; 8]),
    ];
    for first in BOTH {
        for again in use_again {
            for import_error in [None, Some(ImportError::Failed)] {
                let mut server = Server::new(Some(feedback()));
                server.state.import_error = import_error;
                let mut client = server.connect(6);
                let params = client.params_with(&[good(0)]);
                first.ask(&client, &params, (16, 16, XRGB));
                client.roundtrip(&mut server).unwrap();
                again(&client, &params);
                let got = client.roundtrip(&mut server).expect_err("a protocol error");
                assert_eq!(got.code, Error::AlreadyUsed as u32, "{got}");
            }
        }
    }
}

#[test]
fn a_used_or_unused_params_object_can_be_destroyed() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    client.params().destroy();
    client.params_with(&[good(0), good(1)]).destroy();
    let params = client.params_with(&[good(0)]);
    let buffer = client.create_immed(&params, (16, 16, XRGB));
    params.destroy();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.buffers, 1, "the buffer outlives its params");
    // And its factory.
    client.dmabuf.destroy();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.buffers, 1);
    buffer.destroy();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.buffers, 0);
}

#[test]
fn a_memfd_is_no_dmabuf() {
    for version in 3..=6 {
        let mut server = Server::new(Some(feedback()));
        server.state.accept_memfds = false;
        refused_by(&mut server, version, Error::InvalidWlBuffer, |client| {
            let params = client.params_with(&[good(0)]);
            client.create_immed(&params, (16, 16, XRGB));
            params
        });
        create_fails(version, |client| client.params_with(&[good(0)]), (16, 16, XRGB), false);
    }
}

/// `create` answers `failed` without an import, and the client goes on.
fn create_fails(
    version: u32,
    make: impl FnOnce(&TestClient) -> ZwpLinuxBufferParamsV1,
    (width, height, fourcc): (i32, i32, u32),
    accept_memfds: bool,
) {
    let mut server = Server::new(Some(feedback()));
    server.state.accept_memfds = accept_memfds;
    let mut client = server.connect(version);
    make(&client).create(width, height, fourcc, Flags::empty());
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.failed, client.log.created.len()), (1, 0));
    assert_eq!(server.state.imported, Vec::<String>::new());
    server.state.accept_memfds = true;
    client.assert_alive(&mut server);
}

#[test]
fn a_dev_t_of_another_size_is_an_error() {
    for len in [0, 4, 9] {
        refused(6, Error::InvalidDevTSize, |client| {
            let params = client.params();
            params.set_sampling_device(vec![0; len]);
            params
        });
    }
}

#[test]
fn a_good_buffer_arrives_as_it_was_sent() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    // Planes in the wrong order on one file, flags, and a device that nobody advertised.
    let params = client.params();
    let fd = memfd(4096);
    params.add(std::os::fd::AsFd::as_fd(&fd), 1, 1024, 32, 0, 0);
    params.add(std::os::fd::AsFd::as_fd(&fd), 0, 0, 64, 0, 0);
    params.set_sampling_device(0x1234_u64.to_ne_bytes().to_vec());
    params.create(16, 16, NV12, Flags::YInvert | Flags::BottomFirst);
    client.roundtrip(&mut server).unwrap();
    assert_eq!(
        server.state.imported,
        ["NV12 0x0 16x16 flags 5 planes [(0, 64), (1024, 32)] device Some(4660)"]
    );
    assert_eq!((client.log.created.len(), client.log.failed), (1, 0));
    assert_eq!(server.state.buffers, 1);
}

#[test]
fn the_last_row_may_end_with_the_file() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    client.create_immed(&client.params_with(&[plane(0, 1024, 0, 64, MOD_LINEAR)]), (16, 16, XRGB));
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.buffers, 1);
}

#[test]
fn formats_for_scanout_only_are_imported() {
    for version in 4..=6 {
        let mut server = Server::new(Some(feedback()));
        let mut client = server.connect(version);
        let params = client.params_with(&[good(0), good(1)]);
        client.create_immed(&params, (16, 16, P010));
        client.roundtrip(&mut server).unwrap();
        assert_eq!(server.state.buffers, 1);
    }
}

#[test]
fn clients_without_modifiers_get_the_implicit_one() {
    for version in [1, 2] {
        let mut server = Server::new(Some(feedback()));
        let mut client = server.connect(version);
        // They may send anything here.
        client.params_with(&[plane(0, 4096, 0, 64, TILED)]).create(16, 16, XRGB, Flags::empty());
        // NV12 is not advertised with an implicit modifier.
        client.params_with(&[good(0), good(1)]).create(16, 16, NV12, Flags::empty());
        client.roundtrip(&mut server).unwrap();
        assert_eq!((client.log.created.len(), client.log.failed), (1, 1));
        let expected = format!("XR24 {MOD_INVALID:#x} 16x16 flags 0 planes [(0, 64)] device None");
        assert_eq!(server.state.imported, [expected]);
    }
}

#[test]
fn an_unforeseeable_failure_ends_nobody() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    server.state.import_error = Some(ImportError::Failed);
    client.params_with(&[good(0)]).create(16, 16, XRGB, Flags::empty());
    let buffer = client.create_immed(&client.params_with(&[good(0)]), (16, 16, XRGB));
    client.create_surface();
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed), (0, 2));
    let owner = server.state.surfaces[0].client().unwrap();
    assert!(is_failed_buffer(&server, &owner, &buffer));
    buffer.destroy();
    server.state.import_error = None;
    client.assert_alive(&mut server);
}

#[test]
fn import_errors_have_their_codes() {
    for (import_error, error) in [
        (ImportError::InvalidWlBuffer, Error::InvalidWlBuffer),
        (ImportError::Incomplete, Error::Incomplete),
        (ImportError::InvalidFormat, Error::InvalidFormat),
        (ImportError::InvalidDimensions, Error::InvalidDimensions),
        (ImportError::OutOfBounds, Error::OutOfBounds),
    ] {
        for ask in BOTH {
            let mut server = Server::new(Some(feedback()));
            let mut client = server.connect(6);
            server.state.import_error = Some(import_error);
            let params = client.params_with(&[good(0)]);
            ask.ask(&client, &params, (16, 16, XRGB));
            let result = client.roundtrip(&mut server);
            if (import_error, ask) == (ImportError::InvalidWlBuffer, Ask::Create) {
                result.unwrap();
                assert_eq!(client.log.failed, 1);
            } else {
                assert_eq!(result.expect_err("a protocol error").code, error as u32);
            }
        }
    }
}

#[test]
fn a_client_cannot_hoard_planes() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    let mut other = server.connect(6);
    let hoard: Vec<_> = (0..MAX_PENDING_PLANES).map(|_| client.params_with(&[good(0)])).collect();
    let over = client.params_with(&[good(0)]);
    over.create(16, 16, XRGB, Flags::empty());
    let over = client.params_with(&[good(0)]);
    let buffer = client.create_immed(&over, (16, 16, XRGB));
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.failed, server.state.imported.len()), (2, 0));
    // It is this client's quota; and what it holds can become buffers, or go.
    other.assert_alive(&mut server);
    client.create_immed(&hoard[0], (16, 16, XRGB));
    hoard[1..].iter().for_each(|params| params.destroy());
    buffer.destroy();
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.failed, server.state.buffers), (2, 1));
    let hoard: Vec<_> = (0..MAX_PENDING_PLANES).map(|_| client.params_with(&[good(0)])).collect();
    hoard.iter().for_each(|params| params.create(16, 16, XRGB, Flags::empty()));
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.failed, server.state.buffers), (2, 1 + MAX_PENDING_PLANES));
    client.assert_alive(&mut server);
}

#[test]
fn params_objects_are_limited() {
    let mut server = Server::new(Some(feedback()));
    server.state.dmabuf.set_quotas(3, MAX_PENDING_PLANES);
    let mut client = server.connect(6);
    let mut bystander = server.connect(6);
    let all: Vec<_> = (0..5).map(|_| client.params_with(&[good(0)])).collect();
    for params in &all {
        params.create(16, 16, XRGB, Flags::empty());
    }
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed), (3, 2));
    // Those that are gone count no more.
    all.iter().for_each(ZwpLinuxBufferParamsV1::destroy);
    let params = client.params_with(&[good(0)]);
    params.create(16, 16, XRGB, Flags::empty());
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed), (4, 2));
    bystander.assert_alive(&mut server);
}

#[test]
fn unknown_flags_are_not_dropped() {
    let unknown = Flags::from_bits_retain(8 | 1);
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    client.params_with(&[good(0)]).create(16, 16, XRGB, unknown);
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.failed, server.state.imported.len()), (1, 0));
    refused(6, Error::InvalidWlBuffer, |client| {
        let params = client.params_with(&[good(0)]);
        params.create_immed(16, 16, XRGB, unknown, &client.handle(), ());
        params
    });
}
