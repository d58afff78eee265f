//! A session that is recorded, and the planner offline with what was recorded.

use std::path::PathBuf;

use drm::control::AtomicCommitFlags;
use primeway::backend::kms::device::model::{Model, Refuse};
use primeway::backend::kms::pacing::Vrr;
use primeway::record::replay::{Summary, replay};
use rustix::io::Errno;

use super::{NOISE, OUTPUT, Session, capabilities, folder};
use crate::headless_support::Server;

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("primeway-{name}-{}", std::process::id()))
}

/// Windows on planes, scaled ones of which the driver refuses some, a commit that is refused, and a session that came back.
fn record(name: &str) -> PathBuf {
    let path = file(name);
    let model = Model::new(capabilities("i915")).unwrap();
    let server = Server::start_recorded(&model, Vrr::Auto, Some(path.clone())).unwrap();
    let client = server.connect().unwrap();
    let mut session = Session { model, server, client };
    let mut windows = Vec::new();
    for title in ["a secret", "another secret", "a third"] {
        let buffer = session.small();
        let window = session.client.open_window(title).unwrap();
        session.client.viewport(&window.surface).unwrap().set_destination(80, 60);
        session.client.present(&window.surface, &buffer).unwrap();
        windows.push((window, buffer));
    }
    session.server.settle().unwrap();
    session.model.refuse(Refuse {
        with: AtomicCommitFlags::NONBLOCK,
        without: AtomicCommitFlags::TEST_ONLY,
        planes: Some(1),
        errno: Errno::NOSPC,
    });
    let shm = session.client.shm("XR24", (40, 40), NOISE).unwrap();
    let window = session.client.open_window("shm").unwrap();
    session.client.present(&window.surface, &shm).unwrap();
    session.server.settle().unwrap();
    session.model.refuse_nothing();
    session.server.ask(primeway::state::State::session_resumed).unwrap();
    session.server.settle().unwrap();
    let full = session.client.dmabuf("XR24", OUTPUT, NOISE).unwrap();
    session.client.present(&window.surface, &full).unwrap();
    session.server.settle().unwrap();
    path
}

#[test]
fn a_recorded_session_is_planned_again_as_it_was() {
    let path = record("again");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("secret"), "no titles");
    assert!(
        text.contains("\"refused\":{\"output\"") && text.contains("\"forget\":true"),
        "all of it happened"
    );
    assert!(text.contains("\"errno\":22"), "the driver refused a third scaled plane");
    let mut told = String::new();
    let summary = replay(&path, None, |text, _| told.push_str(text)).unwrap();
    assert!(summary.plans >= 5, "{summary:?}");
    assert_eq!(summary, Summary { plans: summary.plans, ..Summary::default() }, "{told}");
    // Another answer of the driver gives another plan.
    std::fs::write(&path, text.replace("\"errno\":22", "\"errno\":null")).unwrap();
    let summary = replay(&path, None, |_, _| ()).unwrap();
    assert!(summary.different > 0, "{summary:?}");
    // And a planner that asks something else is told that nobody knows.
    std::fs::write(&path, text.replace("\"asked\":[{", "\"asked\":[],\"was\":[{")).unwrap();
    let summary = replay(&path, None, |_, _| ()).unwrap();
    assert!(summary.unknown > 0, "{summary:?}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_recording_is_planned_for_another_device() {
    let path = record("against");
    let against = |driver: &str| {
        let mut told = String::new();
        let caps = folder().join(format!("{driver}.json"));
        (replay(&path, Some(&caps), |text, _| told.push_str(text)).unwrap(), told)
    };
    // It has planes enough, but scales none of them.
    let (summary, told) = against("vkms");
    assert!(summary.different > 0 && summary.unknown == 0, "{summary:?}");
    assert!(told.contains("scaled from") || told.contains("test commit failed"), "{told}");
    let (summary, told) = against("rockchip");
    assert!(summary.plans > 0 && summary.unknown == 0, "{summary:?}");
    assert!(told.contains("plane "), "{told}");
    std::fs::remove_file(path).unwrap();
}
