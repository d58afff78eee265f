//! What clients may do, what ends them and with which code, and that nobody else notices.

use primeway_protocols::drm_syncobj::CommitFault;
use wayland_client::Proxy;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_protocols::wp::linux_drm_syncobj::v1::client::{
    wp_linux_drm_syncobj_manager_v1::Error as ManagerError,
    wp_linux_drm_syncobj_surface_v1::{Error, WpLinuxDrmSyncobjSurfaceV1},
};

use super::harness::{Server, TestClient, memfd};

/// A client does `bad`, which names the object that gets the error `code`; another client goes on, and no timeline of
/// the ended one is left.
fn refused(code: u32, bad: impl FnOnce(&TestClient) -> (&'static str, u32)) -> Server {
    let mut server = Server::new();
    let mut bystander = server.connect();
    let mut client = server.connect();
    let (interface, id) = bad(&client);
    let got = client.roundtrip(&mut server).expect_err("a protocol error");
    assert_eq!((got.code, got.object_interface.as_str(), got.object_id), (code, interface, id));
    bystander.assert_alive(&mut server);
    drop(client);
    bystander.roundtrip(&mut server).unwrap();
    assert_eq!((server.live(), server.state.syncobj.surface_objects()), (0, 0));
    server
}

/// As [`refused`], on the synchronisation object of a surface; says what the compositor was told of the commit.
fn commit_refused(
    error: Error,
    fault: CommitFault,
    bad: impl FnOnce(&TestClient, &WlSurface, &WpLinuxDrmSyncobjSurfaceV1),
) {
    let server = refused(error as u32, |client| {
        let surface = client.surface();
        let explicit = client.explicit(&surface);
        bad(client, &surface, &explicit);
        surface.commit();
        ("wp_linux_drm_syncobj_surface_v1", explicit.id().protocol_id())
    });
    assert_eq!(server.state.commits, [Err(fault)]);
}

#[test]
fn points_arrive_with_their_commit() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (surface, buffer) = (client.surface(), client.buffer(true));
    let explicit = client.explicit(&surface);
    let (one, two) = (client.timeline(1), client.timeline(2));
    surface.attach(Some(&buffer), 0, 0);
    // The last of several counts.
    explicit.set_acquire_point(&two, 0, 9);
    explicit.set_acquire_point(&one, 0x1234_5678, 0x9abc_def0);
    explicit.set_release_point(&two, 0, 9);
    explicit.set_release_point(&two, u32::MAX, u32::MAX);
    surface.commit();
    // Without a buffer there are no points, and none of the last commit's.
    surface.commit();
    surface.attach(None, 0, 0);
    surface.commit();
    // The same buffer again has points of its own.
    for value in [3, 5] {
        surface.attach(Some(&buffer), 0, 0);
        explicit.set_acquire_point(&one, 0, value);
        explicit.set_release_point(&one, 0, value + 1);
        surface.commit();
    }
    client.roundtrip(&mut server).unwrap();
    assert_eq!(
        server.state.commits,
        [
            Ok(Some([(1, 0x1234_5678_9abc_def0), (2, u64::MAX)])),
            Ok(None),
            Ok(None),
            Ok(Some([(1, 3), (1, 4)])),
            Ok(Some([(1, 5), (1, 6)])),
        ]
    );
}

#[test]
fn surfaces_without_an_object_are_implicit() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (surface, other) = (client.surface(), client.surface());
    client.explicit(&other);
    for buffer in [client.buffer(true), client.buffer(false)] {
        surface.attach(Some(&buffer), 0, 0);
        surface.commit();
    }
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.commits, [Ok(None), Ok(None)]);
}

#[test]
fn a_surface_has_one_object_at_a_time() {
    refused(ManagerError::SurfaceExists as u32, |client| {
        let surface = client.surface();
        client.explicit(&surface);
        client.explicit(&surface);
        ("wp_linux_drm_syncobj_manager_v1", client.syncobj.id().protocol_id())
    });
}

/// The second object of a surface counts as the first did, and what was set on the first is discarded.
#[test]
fn a_surface_can_get_another_object_after_the_first() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (surface, buffer, timeline) = (client.surface(), client.buffer(true), client.timeline(1));
    let first = client.explicit(&surface);
    first.set_acquire_point(&timeline, 0, 1);
    first.set_release_point(&timeline, 0, 2);
    first.destroy();
    surface.attach(Some(&buffer), 0, 0);
    surface.commit();
    let second = client.explicit(&surface);
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.commits, [Ok(None)]);
    surface.attach(Some(&buffer), 0, 0);
    surface.commit();
    let got = client.roundtrip(&mut server).expect_err("a protocol error");
    assert_eq!((got.code, got.object_id), (Error::NoAcquirePoint as u32, second.id().protocol_id()));
}

#[test]
fn a_file_that_is_no_timeline_is_invalid() {
    refused(ManagerError::InvalidTimeline as u32, |client| {
        client.import(&memfd(1));
        ("wp_linux_drm_syncobj_manager_v1", client.syncobj.id().protocol_id())
    });
}

#[test]
fn points_need_a_living_surface() {
    for acquire in [true, false] {
        refused(Error::NoSurface as u32, |client| {
            let (surface, timeline) = (client.surface(), client.timeline(1));
            let explicit = client.explicit(&surface);
            surface.destroy();
            match acquire {
                true => explicit.set_acquire_point(&timeline, 0, 1),
                false => explicit.set_release_point(&timeline, 0, 1),
            }
            ("wp_linux_drm_syncobj_surface_v1", explicit.id().protocol_id())
        });
    }
}

#[test]
fn an_object_can_be_destroyed_after_its_surface() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (surface, timeline) = (client.surface(), client.timeline(1));
    let explicit = client.explicit(&surface);
    explicit.set_acquire_point(&timeline, 0, 1);
    surface.destroy();
    explicit.destroy();
    timeline.destroy();
    client.assert_alive(&mut server);
    assert_eq!((server.live(), server.state.syncobj.surface_objects()), (0, 0));
}

#[test]
fn points_without_a_buffer_are_an_error() {
    for acquire in [true, false] {
        for null in [true, false] {
            commit_refused(Error::NoBuffer, CommitFault::NoBuffer, |client, surface, explicit| {
                match acquire {
                    true => explicit.set_acquire_point(&client.timeline(1), 0, 1),
                    false => explicit.set_release_point(&client.timeline(1), 0, 1),
                }
                if null {
                    surface.attach(None, 0, 0);
                }
            });
        }
    }
}

#[test]
fn a_buffer_without_points_is_an_error() {
    for kind in [true, false] {
        commit_refused(Error::NoAcquirePoint, CommitFault::NoAcquirePoint, |client, surface, _| {
            surface.attach(Some(&client.buffer(kind)), 0, 0);
        });
        commit_refused(Error::NoAcquirePoint, CommitFault::NoAcquirePoint, |client, surface, explicit| {
            surface.attach(Some(&client.buffer(kind)), 0, 0);
            explicit.set_release_point(&client.timeline(1), 0, 1);
        });
        commit_refused(Error::NoReleasePoint, CommitFault::NoReleasePoint, |client, surface, explicit| {
            surface.attach(Some(&client.buffer(kind)), 0, 0);
            explicit.set_acquire_point(&client.timeline(1), 0, 1);
        });
    }
}

#[test]
fn a_release_point_comes_after_its_acquire_point() {
    for (acquire, release) in [(2, 2), (2, 1), (1 << 32, 1), (u64::MAX, 0)] {
        let fault = CommitFault::ConflictingPoints { acquire, release };
        commit_refused(Error::ConflictingPoints, fault, |client, surface, explicit| {
            let timeline = client.timeline(1);
            surface.attach(Some(&client.buffer(true)), 0, 0);
            explicit.set_acquire_point(&timeline, (acquire >> 32) as u32, acquire as u32);
            explicit.set_release_point(&timeline, (release >> 32) as u32, release as u32);
        });
    }
}

#[test]
fn points_on_different_timelines_have_no_order() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (surface, buffer) = (client.surface(), client.buffer(true));
    let explicit = client.explicit(&surface);
    surface.attach(Some(&buffer), 0, 0);
    explicit.set_acquire_point(&client.timeline(1), 0, 5);
    explicit.set_release_point(&client.timeline(2), 0, 5);
    surface.commit();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.commits, [Ok(Some([(1, 5), (2, 5)]))]);
}

#[test]
fn a_buffer_of_another_kind_is_unsupported() {
    commit_refused(Error::UnsupportedBuffer, CommitFault::UnsupportedBuffer, |client, surface, explicit| {
        surface.attach(Some(&client.buffer(false)), 0, 0);
        explicit.set_acquire_point(&client.timeline(1), 0, 1);
        explicit.set_release_point(&client.timeline(2), 0, 1);
    });
}

/// A timeline lives as long as its object or a point on it, and not longer.
#[test]
fn timelines_go_with_their_object_and_points() {
    let mut server = Server::new();
    let mut client = server.connect();
    let timelines: Vec<_> = (0..100).map(|name| client.timeline(name)).collect();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.live(), 100);
    let surface = client.surface();
    let explicit = client.explicit(&surface);
    explicit.set_acquire_point(&timelines[0], 0, 1);
    explicit.set_release_point(&timelines[1], 0, 1);
    timelines.iter().for_each(|timeline| timeline.destroy());
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.live(), 2, "points hold their timelines");
    explicit.set_release_point(&client.timeline(101), 0, 1);
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.live(), 2, "a replaced point lets go of its timeline");
    explicit.destroy();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.live(), 1);
    drop(client);
    server.connect().assert_alive(&mut server);
    assert_eq!(server.live(), 0, "a client that ends leaves no timeline");
}

/// The objects of surfaces and timelines outlive the factory.
#[test]
fn the_factory_can_go_first() {
    let mut server = Server::new();
    let mut client = server.connect();
    let (surface, buffer, timeline) = (client.surface(), client.buffer(true), client.timeline(1));
    let explicit = client.explicit(&surface);
    client.syncobj.destroy();
    surface.attach(Some(&buffer), 0, 0);
    explicit.set_acquire_point(&timeline, 0, 1);
    explicit.set_release_point(&timeline, 0, 2);
    surface.commit();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.commits, [Ok(Some([(1, 1), (1, 2)]))]);
}
