//! Outputs that come, go and change, as vkms cannot have them do; and what clients are told.

use std::rc::Rc;

use drm::control::AtomicCommitFlags;
use drm_prime::model::{Driver, Import};
use primeway::backend::kms::device::model::{Model, Refuse};
use primeway::backend::kms::{Kms, buffers_of_model, buffers_of_model_on};
use primeway::ctl::explain::Query;
use primeway::ctl::outputs::{self, Wish};
use primeway_tests::picture::Pattern;
use rustix::io::Errno;

use super::watcher::Watcher;
use super::{OUTPUT, capabilities, start, wait_until};
use crate::headless_support::Server;

fn rescan(server: &Server) {
    server.ask(|state| state.connectors_changed(None)).unwrap();
}

/// The first connector with a display, by its place.
fn connector(driver: &str) -> usize {
    capabilities(driver).connectors.iter().position(|c| !c.modes.is_empty()).unwrap()
}

#[test]
fn another_display_on_the_same_connector_is_driven_with_its_mode() {
    let mut session = start("i915");
    let buffer = session.full();
    let window = session.client.open_window_as("full", |t| t.set_fullscreen(None)).unwrap();
    session.client.present(&window.surface, &buffer).unwrap();
    let (blobs, id) = (session.model.blobs(), session.crtc());
    let toplevel = wayland_client::Proxy::id(&window.toplevel).protocol_id();
    for (mode, size) in [("320x240@60", (320, 240)), ("640x480@75", (640, 480)), ("256x192@60", (256, 192))] {
        let before = session.model.value(id, "MODE_ID");
        session.model.set_modes(connector("i915"), &[mode]);
        rescan(&session.server);
        session
            .client
            .wait(mode, |seen| seen.toplevel(toplevel).is_some_and(|(told, _)| told == size))
            .unwrap();
        let size = (size.0 as u32, size.1 as u32);
        let buffer = session.client.dmabuf("XR24", size, Pattern::Noise(3)).unwrap();
        assert!(session.client.present(&window.surface, &buffer).unwrap(), "{mode}: on a plane");
        assert_ne!(session.model.value(id, "MODE_ID"), before, "{mode}");
        let stats = session.server.stats().unwrap();
        assert_eq!((stats.outputs[0].width as u32, stats.outputs[0].height as u32), size);
        assert_eq!(session.model.blobs(), blobs, "{mode}: the blob of the mode before is left");
    }
    // What has not changed is left alone.
    session.commits();
    rescan(&session.server);
    session.server.settle().unwrap();
    assert!(session.commits().iter().all(|c| c.value(id, "MODE_ID").is_none()));
}

#[test]
fn a_mode_that_the_driver_refuses_changes_nothing() {
    let session = start("i915");
    session.server.settle().unwrap();
    session.model.set_modes(connector("i915"), &["256x192@60", "1024x768@60"]);
    let name = session.server.stats().unwrap().outputs[0].name.clone();
    let wish = |mode: &str| Wish { name: name.clone(), mode: Some(mode.to_owned()), power: None };
    let set = |wish: Wish| session.server.ask(move |state| outputs::set(state, &wish)).unwrap();
    let blobs = session.model.blobs();
    let tests = AtomicCommitFlags::TEST_ONLY | AtomicCommitFlags::ALLOW_MODESET;
    let without = AtomicCommitFlags::empty();
    session.model.refuse(Refuse { with: tests, without, planes: None, errno: Errno::RANGE });
    let refused = set(wish("1024x768")).unwrap_err();
    assert!(refused.contains("the driver refuses 1024x768@60"), "{refused}");
    let stats = session.server.stats().unwrap();
    assert_eq!((stats.outputs[0].width as u32, stats.outputs[0].height as u32), OUTPUT);
    assert_eq!(session.model.blobs(), blobs);
    session.model.refuse_nothing();
    set(wish("1024x768")).unwrap();
    session.server.settle().unwrap();
    assert_eq!(session.server.stats().unwrap().outputs[0].width, 1024);
    assert_eq!(session.model.blobs(), blobs);
    // It was chosen, and stays while the display has it.
    rescan(&session.server);
    assert_eq!(session.server.stats().unwrap().outputs[0].width, 1024);
}

/// Two devices of the same kind, with the same object ids, the second of which imports what `import` says.
fn two(import: Import) -> (Server, [Model; 2]) {
    // The kernel numbers connectors through all devices.
    let models = [0, 10].map(|more| {
        let mut all = capabilities("i915");
        all.connectors.iter_mut().for_each(|c| c.number += more);
        Model::new(all).unwrap()
    });
    let [first, second] = models.clone();
    let open = move || {
        let mut kms = Kms::on_model(&first)?;
        let driver = Driver { name: "i915".into(), import, rdev: 0, ..Driver::vkms() };
        let buffers = match import {
            Import::NoMap => buffers_of_model(&second)?,
            _ => buffers_of_model_on(&second, driver)?,
        };
        kms.add_model(Rc::new(second), buffers)?;
        Ok(kms)
    };
    (Server::start_kms_with(open).unwrap(), models)
}

#[test]
fn what_a_second_device_does_not_import_is_composited_and_said_why() {
    for (import, on_plane) in [(Import::NoMap, true), (Import::Refused(Errno::NODEV), false)] {
        let (server, models) = two(import);
        let mut client = server.connect().unwrap();
        let buffer = client.dmabuf("XR24", (64, 48), Pattern::Noise(1)).unwrap();
        let window = client.open_window("shared").unwrap();
        assert!(client.present(&window.surface, &buffer).unwrap(), "on a plane of the first device");
        assert_eq!(server.stats().unwrap().outputs.len(), 2);
        // Its display is gone, and the window goes to the second device's.
        models[0].set_modes(connector("i915"), &[]);
        rescan(&server);
        server.settle().unwrap();
        assert_eq!(server.stats().unwrap().outputs.len(), 1);
        assert_eq!(client.present(&window.surface, &buffer).unwrap(), on_plane, "{import:?}: ZERO_COPY");
        let seen = server.window("shared").unwrap();
        assert_eq!(seen.plane.is_some(), on_plane, "{:?}", seen.reason);
        if on_plane {
            continue;
        }
        let query = Query { all: true, ..Query::default() };
        let report =
            server.ask(move |state| primeway::ctl::explain::explain(state, &query)).unwrap().unwrap();
        let text = primeway::ctl::show::explain(&report);
        assert!(text.contains("was not imported") && text.contains("os error 19"), "{text}");
        // Nothing of it is left on that device.
        let none = server.ask(|state| state.backend.resources().1).unwrap();
        assert!(none <= 1, "{none} framebuffers");
    }
}

#[test]
fn a_device_that_goes_leaves_nothing_and_the_other_takes_over() {
    let (server, models) = two(Import::NoMap);
    let mut client = server.connect().unwrap();
    let buffers = [(); 2].map(|()| client.dmabuf("XR24", (64, 48), Pattern::Noise(1)).unwrap());
    let window = client.open_window("stays").unwrap();
    client.present(&window.surface, &buffers[0]).unwrap();
    // In the middle of a flip.
    models[0].set_flips(primeway::backend::kms::device::model::Flips::ByHand);
    let token = client.feedback(&window.surface).unwrap();
    client.show(&window.surface, &buffers[1]).unwrap();
    wait_until("a flip is outstanding", || models[0].outstanding() == 1);
    server.ask(|state| state.device_gone(0)).unwrap();
    client
        .wait("an answer", |seen| {
            let discarded = seen.log.contains(&crate::headless_support::client::Event::Discarded(token));
            discarded || seen.presented_at(token).is_some()
        })
        .unwrap();
    for round in 0..4 {
        assert!(client.present(&window.surface, &buffers[round % 2]).unwrap(), "on the other device's plane");
    }
    let fresh = client.dmabuf("XR24", (64, 48), Pattern::Noise(2)).unwrap();
    assert!(client.present(&window.surface, &fresh).unwrap());
    // The last one, too.
    server.ask(|state| state.device_gone(1)).unwrap();
    assert!(server.stats().unwrap().outputs.is_empty());
    let late = client.dmabuf("XR24", (64, 48), Pattern::Noise(4)).unwrap();
    let frame = client.frame(&window.surface);
    client.show(&window.surface, &late).unwrap();
    client.roundtrip().unwrap();
    assert!(!client.seen.frame_done(frame), "there is nothing to draw for");
    let third = Model::new(capabilities("i915")).unwrap();
    let model = third.clone();
    server
        .ask(move |state| {
            let buffers = buffers_of_model(&model).unwrap();
            let changes = state.backend.kms().unwrap().add_model(Rc::new(model), buffers).unwrap();
            state.take_changes(changes);
        })
        .unwrap();
    client.wait("the callback", |seen| seen.frame_done(frame)).unwrap();
    assert!(client.present(&window.surface, &fresh).unwrap(), "on a plane of the new device");
}

#[test]
fn clients_hear_of_outputs_that_come_and_go() {
    let (server, models) = two(Import::NoMap);
    let names: Vec<String> = server.stats().unwrap().outputs.iter().map(|o| o.name.clone()).collect();
    assert_ne!(names[0], names[1], "two outputs of one name");
    let [first, second] = [names[0].as_str(), names[1].as_str()];
    let both = [first, second];
    let mut client = Watcher::connect(&server);
    client.open((64, 48));
    client.wait(&both, &[first]);
    assert_eq!(client.told(second).position, (OUTPUT.0 as i32, 0));
    let number = client.number(first);
    models[0].set_modes(connector("i915"), &[]);
    rescan(&server);
    client.wait(&[second], &[second]);
    assert_eq!(client.told(second).position, (0, 0), "moved to where the first one was");
    client.bind_too_late(number);
    models[1].set_modes(connector("i915"), &["640x480@60"]);
    rescan(&server);
    client.wait(&[second], &[second]);
    let told = client.told(second);
    assert_eq!((told.mode, told.logical), ((640, 480), (640, 480)));
    models[1].set_modes(connector("i915"), &[]);
    rescan(&server);
    client.wait(&[], &[]);
    // Back in the other order: the window goes to the first that comes, and home when its own does.
    models[1].set_modes(connector("i915"), &["640x480@60"]);
    rescan(&server);
    client.wait(&[second], &[second]);
    models[0].set_modes(connector("i915"), &["256x192@60"]);
    rescan(&server);
    client.wait(&both, &[first]);
    assert_eq!(client.told(first).position, (640, 0));
}
