//! What clients are told: formats and modifiers before version 4, feedback since.

use std::time::Instant;

use primeway_protocols::linux_dmabuf::{DmabufFeedbackBuilder, MOD_INVALID, MOD_LINEAR, TrancheFlags};
use rustix::fs::{SealFlags, fcntl_get_seals};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::Flags;

use super::harness::{
    Feedback, MAIN_DEVICE, NV12, P010, Plane, SCANOUT_DEVICE, Server, TILED, XRGB, feedback, format, formats,
};

const SCANOUT: u32 = 1;
const SAMPLING: u32 = 2;

/// The default feedback of the harness as a client of `version` gets it, with or without the table.
fn expected_default(version: u32, with_table: bool) -> Vec<Feedback> {
    let mut events = Vec::new();
    if with_table {
        let mut table = formats();
        table.push(format(P010, MOD_LINEAR));
        events.push(Feedback::Table(table));
    }
    if version < 6 {
        events.push(Feedback::MainDevice(MAIN_DEVICE));
    }
    events.extend([
        Feedback::TargetDevice(SCANOUT_DEVICE),
        Feedback::Flags(SCANOUT),
        Feedback::Formats(vec![4, 0]),
        Feedback::TrancheDone,
        Feedback::TargetDevice(MAIN_DEVICE),
        Feedback::Flags(if version < 6 { 0 } else { SAMPLING }),
        Feedback::Formats(vec![0, 1, 2, 3]),
        Feedback::TrancheDone,
        Feedback::Done,
    ]);
    events
}

#[test]
fn version_three_gets_formats_and_modifiers() {
    for (server, offered) in [(Server::new(None), 3), (Server::new(Some(feedback())), 6)] {
        let mut server = server;
        let client = server.connect(3);
        assert_eq!(client.offered_version(), offered);
        assert_eq!(client.log.formats, [XRGB, NV12]);
        assert_eq!(
            client.log.modifiers,
            [(XRGB, MOD_LINEAR), (XRGB, MOD_INVALID), (NV12, MOD_LINEAR), (NV12, TILED)]
        );
    }
}

#[test]
fn older_versions_get_formats_with_an_implicit_modifier() {
    for version in [1, 2] {
        let client = Server::new(None).connect(version);
        assert_eq!((client.log.formats, client.log.modifiers), (vec![XRGB], vec![]));
    }
}

#[test]
fn since_version_four_there_is_feedback_instead() {
    for version in 4..=6 {
        let mut server = Server::new(Some(feedback()));
        let mut client = server.connect(version);
        assert_eq!((&client.log.formats, &client.log.modifiers), (&vec![], &vec![]));
        let object = client.default_feedback();
        client.roundtrip(&mut server).unwrap();
        assert_eq!(client.take_feedback(&object), expected_default(version, true));
    }
}

#[test]
fn all_tables_are_one_sealed_file() {
    let mut server = Server::new(Some(feedback()));
    let mut first = server.connect(6);
    let mut second = server.connect(4);
    first.default_feedback();
    first.surface_feedback(&first.create_surface());
    second.default_feedback();
    first.roundtrip(&mut server).unwrap();
    second.roundtrip(&mut server).unwrap();
    let files: Vec<_> = first
        .log
        .tables
        .iter()
        .chain(&second.log.tables)
        .map(|fd| {
            let seals = fcntl_get_seals(fd).unwrap();
            assert_eq!(seals, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE);
            rustix::fs::fstat(fd).unwrap().st_ino
        })
        .collect();
    assert_eq!(files, [files[0]; 3]);
}

#[test]
fn feedback_is_sent_again_only_when_it_changed() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(5);
    let default = client.default_feedback();
    let surface = client.create_surface();
    let follows = client.surface_feedback(&surface);
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.take_feedback(&default), expected_default(5, true));
    assert_eq!(client.take_feedback(&follows), expected_default(5, true));

    // The same contents in another file are no change.
    assert!(!server.state.dmabuf.set_default_feedback(&feedback()));
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.log.feedback, []);

    // A smaller one within the same table: everything but the table, to both.
    let smaller = DmabufFeedbackBuilder::new(MAIN_DEVICE, formats())
        .share_table(server.state.dmabuf.default_feedback().unwrap())
        .build()
        .unwrap();
    assert!(server.state.dmabuf.set_default_feedback(&smaller));
    client.roundtrip(&mut server).unwrap();
    let expected = [
        Feedback::MainDevice(MAIN_DEVICE),
        Feedback::TargetDevice(MAIN_DEVICE),
        Feedback::Flags(0),
        Feedback::Formats(vec![0, 1, 2, 3]),
        Feedback::TrancheDone,
        Feedback::Done,
    ];
    assert_eq!(client.take_feedback(&default), expected);
    assert_eq!(client.take_feedback(&follows), expected);

    // A destroyed object gets nothing more.
    default.destroy();
    client.roundtrip(&mut server).unwrap();
    assert!(server.state.dmabuf.set_default_feedback(&feedback()));
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.take_feedback(&follows), expected_default(5, false));
    assert_eq!(client.log.feedback, []);
}

#[test]
fn a_surface_has_feedback_of_its_own() {
    let mut server = Server::new(Some(feedback()));
    let own = DmabufFeedbackBuilder::new(MAIN_DEVICE, [format(XRGB, MOD_LINEAR)])
        .share_table(server.state.dmabuf.default_feedback().unwrap())
        .build()
        .unwrap();
    let expected = [
        Feedback::TargetDevice(MAIN_DEVICE),
        Feedback::Flags(SAMPLING),
        Feedback::Formats(vec![0]),
        Feedback::TrancheDone,
        Feedback::Done,
    ];
    let mut client = server.connect(6);
    let surface = client.create_surface();
    client.roundtrip(&mut server).unwrap();
    let served = server.state.surfaces[0].clone();

    // Nobody asked yet: there is nothing to remember.
    assert!(!server.state.dmabuf.set_surface_feedback(&served, &own));
    server.state.surface_feedback = Some(own.clone());
    let object = client.surface_feedback(&surface);
    let second = client.surface_feedback(&surface);
    client.roundtrip(&mut server).unwrap();
    for object in [&object, &second] {
        let events = client.take_feedback(object);
        assert!(matches!(events[0], Feedback::Table(_)));
        assert_eq!(events[1..], expected);
    }

    // The default changes: no business of this surface.
    let other = DmabufFeedbackBuilder::new(MAIN_DEVICE, [format(NV12, MOD_LINEAR)]).build().unwrap();
    assert!(server.state.dmabuf.set_default_feedback(&other));
    assert!(server.state.dmabuf.set_default_feedback(&feedback()));
    assert!(!server.state.dmabuf.set_surface_feedback(&served, &own));
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.log.feedback, []);

    // Back to the default, and to its own again.
    assert!(server.state.dmabuf.reset_surface_feedback(&served));
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.take_feedback(&object), expected_default(6, false));
    assert!(server.state.dmabuf.set_surface_feedback(&served, &own));
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.take_feedback(&object), expected);
}

#[test]
fn feedback_of_a_destroyed_surface_is_inert() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    let surface = client.create_surface();
    let object = client.surface_feedback(&surface);
    client.roundtrip(&mut server).unwrap();
    client.take_feedback(&object);
    surface.destroy();
    client.roundtrip(&mut server).unwrap();
    let other = DmabufFeedbackBuilder::new(MAIN_DEVICE, [format(NV12, MOD_LINEAR)]).build().unwrap();
    let served = server.state.surfaces[0].clone();
    assert!(server.state.dmabuf.set_default_feedback(&other));
    server.state.dmabuf.set_surface_feedback(&served, &feedback());
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.log.feedback, []);
    assert_eq!(server.state.dmabuf.feedback_objects(), 1);
    // Another surface afterwards is served as usual, and the object can still be destroyed.
    let next = client.surface_feedback(&client.create_surface());
    object.destroy();
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.take_feedback(&next).last(), Some(&Feedback::Done));
    assert_eq!(server.state.dmabuf.feedback_objects(), 1);
    drop(client);
    server.dispatch();
    assert_eq!(server.state.dmabuf.feedback_objects(), 0);
}

#[test]
fn destroyed_feedback_objects_are_forgotten() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    let objects = [client.default_feedback(), client.surface_feedback(&client.create_surface())];
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.dmabuf.feedback_objects(), 2);
    objects.iter().for_each(|object| object.destroy());
    client.roundtrip(&mut server).unwrap();
    assert_eq!(server.state.dmabuf.feedback_objects(), 0);
}

/// Forgetting is not dearer than making: the end of a client with many objects keeps nobody else waiting.
#[test]
fn many_feedback_objects_go_at_once() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    let surface = client.create_surface();
    let start = Instant::now();
    let half = 15_000;
    for _ in 0..half / 100 {
        for _ in 0..100 {
            client.default_feedback();
            client.surface_feedback(&surface);
        }
        client.roundtrip(&mut server).unwrap();
        client.log.tables.clear();
        client.log.feedback.clear();
    }
    let making = start.elapsed();
    assert_eq!(server.state.dmabuf.feedback_objects(), 2 * half);
    let start = Instant::now();
    drop(client);
    server.dispatch();
    let forgetting = start.elapsed();
    assert_eq!(server.state.dmabuf.feedback_objects(), 0);
    assert!(forgetting < making, "made in {making:?}, forgotten in {forgetting:?}");
}

/// Whichever way a pair was advertised, a buffer with it is imported.
#[test]
fn every_feedback_advertises() {
    let new_pairs = [0x51, 0x52, 0x53].map(|modifier| format(XRGB, modifier));
    let with = |pair| {
        let builder = DmabufFeedbackBuilder::new(MAIN_DEVICE, formats());
        builder.add_tranche(SCANOUT_DEVICE, TrancheFlags::Scanout, [pair]).build().unwrap()
    };
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    server.state.dmabuf.set_default_feedback(&with(new_pairs[0]));
    server.state.surface_feedback = Some(with(new_pairs[1]));
    let surface = client.create_surface();
    client.surface_feedback(&surface);
    client.roundtrip(&mut server).unwrap();
    let served = server.state.surfaces[0].clone();
    assert!(server.state.dmabuf.set_surface_feedback(&served, &with(new_pairs[2])));
    for (pair, created) in new_pairs.into_iter().zip(1..) {
        let plane = Plane { index: 0, size: 4096, offset: 0, stride: 64, modifier: pair.modifier };
        client.params_with(&[plane]).create(16, 16, XRGB, Flags::empty());
        client.roundtrip(&mut server).unwrap();
        assert_eq!(client.log.created.len(), created);
    }
}

#[test]
fn a_table_that_lacks_a_pair_is_not_shared() {
    let shared = DmabufFeedbackBuilder::new(MAIN_DEVICE, [format(NV12, TILED)]).share_table(&feedback());
    assert_eq!(shared.build().unwrap().table().entries(), feedback().table().entries());
    let lacking =
        DmabufFeedbackBuilder::new(MAIN_DEVICE, [format(NV12, MOD_INVALID)]).share_table(&feedback());
    assert_eq!(lacking.build().unwrap().table().entries(), [format(NV12, MOD_INVALID)]);
}

#[test]
fn a_pair_stays_good_after_it_left_the_feedback() {
    let mut server = Server::new(Some(feedback()));
    let mut client = server.connect(6);
    let without_p010 = DmabufFeedbackBuilder::new(MAIN_DEVICE, formats()).build().unwrap();
    server.state.dmabuf.set_default_feedback(&without_p010);
    let planes = [0, 1].map(|index| Plane { index, size: 4096, offset: 0, stride: 64, modifier: MOD_LINEAR });
    client.params_with(&planes).create(16, 16, P010, Flags::empty());
    client.roundtrip(&mut server).unwrap();
    assert_eq!(client.log.created.len(), 1, "the client may have chosen it before the change");
}

#[test]
fn more_indices_than_a_message_holds_come_in_parts() {
    let many: Vec<_> = (0..5000).map(|modifier| format(XRGB, modifier)).collect();
    let feedback = DmabufFeedbackBuilder::new(MAIN_DEVICE, many.clone()).build().unwrap();
    let mut server = Server::new(Some(feedback));
    let mut client = server.connect(6);
    let object = client.default_feedback();
    client.roundtrip(&mut server).unwrap();
    let mut indices = Vec::new();
    for event in client.take_feedback(&object) {
        match event {
            Feedback::Table(table) => assert_eq!(table, many),
            Feedback::Formats(part) => indices.extend(part),
            _ => {}
        }
    }
    assert_eq!(indices, (0..5000).collect::<Vec<u16>>());
}

#[test]
fn pairs_are_not_repeated_for_the_same_device_and_flags() {
    let pairs = [format(XRGB, MOD_LINEAR), format(XRGB, MOD_LINEAR), format(NV12, MOD_LINEAR)];
    let scanout_and_sampling = TrancheFlags::Scanout | TrancheFlags::Sampling;
    let feedback = DmabufFeedbackBuilder::new(MAIN_DEVICE, pairs)
        .add_tranche(MAIN_DEVICE, scanout_and_sampling, pairs)
        .add_tranche(MAIN_DEVICE, TrancheFlags::Scanout, pairs)
        .build()
        .unwrap();
    let mut server = Server::new(Some(feedback));
    let mut flags_and_formats = |version| {
        let mut client = server.connect(version);
        let object = client.default_feedback();
        client.roundtrip(&mut server).unwrap();
        let events = client.take_feedback(&object).into_iter();
        events.filter(|event| matches!(event, Feedback::Flags(_) | Feedback::Formats(_))).collect::<Vec<_>>()
    };
    let tranche = |flags| [Feedback::Flags(flags), Feedback::Formats(vec![0, 1])];
    assert_eq!(
        flags_and_formats(6),
        [tranche(SCANOUT | SAMPLING), tranche(SCANOUT), tranche(SAMPLING)].concat()
    );
    // Without the sampling flag the first two would be the same.
    assert_eq!(flags_and_formats(5), [tranche(SCANOUT), tranche(0)].concat());
}

#[test]
fn feedback_that_no_client_could_use_is_not_built() {
    let kind = |builder: DmabufFeedbackBuilder| builder.build().unwrap_err().kind();
    let invalid = std::io::ErrorKind::InvalidInput;
    assert_eq!(kind(DmabufFeedbackBuilder::new(MAIN_DEVICE, [])), invalid);
    let flagless = DmabufFeedbackBuilder::new(MAIN_DEVICE, formats());
    assert_eq!(kind(flagless.add_tranche(SCANOUT_DEVICE, TrancheFlags::empty(), formats())), invalid);
    let too_many = (0..=65_536).map(|modifier| format(XRGB, modifier));
    assert_eq!(kind(DmabufFeedbackBuilder::new(MAIN_DEVICE, too_many)), invalid);
}
