//! A composited picture that is smaller than the output.

use std::time::Duration;

use primeway::backend::kms::device::capabilities::{Capabilities, PlaneKind};
use primeway::backend::kms::device::model::{Asked, Model};
use primeway::record::replay::{Summary, replay};

use super::{NOISE, OUTPUT, Session, capabilities, start_with};
use crate::Vrr;
use crate::headless_support::Server;

/// Left, top, width and height of what a request has the primary plane show; none if it does not say.
fn place(session: &Session, asked: &Asked) -> Option<[i32; 4]> {
    let primary = session.primary();
    asked.value(primary, "FB_ID").filter(|fb| *fb != 0)?;
    let value = |name| asked.value(primary, name).map(|value| value as i64 as i32);
    let place = [value("CRTC_X")?, value("CRTC_Y")?, value("CRTC_W")?, value("CRTC_H")?];
    let source = [value("SRC_X")?, value("SRC_Y")?, value("SRC_W")?, value("SRC_H")?];
    assert_eq!(source, [0, 0, place[2] << 16, place[3] << 16], "all of its buffer, and nothing else");
    Some(place)
}

const WHOLE: [i32; 4] = [0, 0, OUTPUT.0 as i32, OUTPUT.1 as i32];

/// A primary plane that may cover a part, on a CRTC that has a background.
pub fn vkms() -> Capabilities {
    let mut all = capabilities("vkms");
    for connector in all.connectors.iter_mut().filter(|connector| !connector.modes.is_empty()) {
        connector.modes = vec![format!("{}x{}@60", OUTPUT.0, OUTPUT.1)];
    }
    all
}

/// The display that is believed to take a part of the output, and does not.
fn refusing() -> Capabilities {
    let mut all = vkms();
    for plane in all.planes.iter_mut().filter(|plane| plane.kind == PlaneKind::Primary) {
        assert!(std::mem::take(&mut plane.covers_part));
    }
    all
}

#[test]
fn a_composited_window_has_a_picture_of_its_size() {
    let mut session = start_with(vkms(), Vrr::Never);
    let buffer = session.client.shm("XR24", (64, 48), NOISE).unwrap();
    let window = session.client.open_window("shm").unwrap();
    assert!(!session.client.present(&window.surface, &buffer).unwrap());
    session.server.settle().unwrap();
    let at = session.server.window("shm").unwrap().position;
    let commits = session.commits();
    let [x, y, w, h] = commits.iter().rev().find_map(|asked| place(&session, asked)).unwrap();
    assert!(x <= at.0 && y <= at.1 && at.0 + 64 <= x + w && at.1 + 48 <= y + h, "{at:?}");
    assert_ne!([x, y, w, h], WHOLE);
    assert!(commits.iter().all(|asked| asked.answer.is_ok()));
}

#[test]
fn where_the_driver_refuses_a_part_the_picture_covers_the_output() {
    let mut session = start_with(refusing(), Vrr::Never);
    let mut shown = Vec::new();
    for (title, composited) in [("shm", true), ("plane", false), ("more", true), ("still more", false)] {
        let size = (40, 30);
        let buffer = if composited {
            session.client.shm("XR24", size, NOISE).unwrap()
        } else {
            session.client.dmabuf("XR24", size, NOISE).unwrap()
        };
        let window = session.client.open_window(title).unwrap();
        assert_eq!(session.client.present(&window.surface, &buffer).unwrap(), !composited, "{title}");
        shown.push((window, buffer));
    }
    session.server.settle().unwrap();
    let asked = session.model.take_asked();
    let (commits, tests): (Vec<&Asked>, Vec<&Asked>) = asked.iter().partition(|asked| asked.is_commit());
    assert!(commits.iter().all(|asked| asked.answer.is_ok()), "no commit is refused");
    let places: Vec<_> = commits.iter().filter_map(|asked| place(&session, asked)).collect();
    assert!(!places.is_empty() && places.iter().all(|place| *place == WHOLE), "{places:?}");
    let mut parts = tests.iter().filter(|asked| place(&session, asked).is_some_and(|place| place != WHOLE));
    let refused = parts.by_ref().take_while(|asked| asked.answer.is_err()).count();
    assert!((1..=3).contains(&refused), "{refused} times");
    assert_eq!(parts.count(), 0, "and none was taken");
}

/// The picture is not of another size with each frame, and the window is always in it.
#[test]
fn a_moving_window_has_few_sizes() {
    let mut session = start_with(vkms(), Vrr::Never);
    let parent = session.client.shm("XR24", (40, 30), NOISE).unwrap();
    let window = session.client.open_window("parent").unwrap();
    session.client.present(&window.surface, &parent).unwrap();
    let child = session.client.shm("XR24", (30, 20), NOISE).unwrap();
    let (surface, role) = session.client.subsurface(&window.surface).unwrap();
    role.set_desync();
    session.client.attach(&surface, &child);
    surface.commit();
    session.client.present(&window.surface, &parent).unwrap();
    session.server.settle().unwrap();
    session.commits();
    let mut places = Vec::new();
    for step in 0..60 {
        let by = (step * 3 - 90, step - 30);
        role.set_position(by.0, by.1);
        session.client.present(&window.surface, &parent).unwrap();
        session.server.settle().unwrap();
        let commits = session.commits();
        let Some([x, y, w, h]) = commits.iter().rev().find_map(|asked| place(&session, asked)) else {
            panic!("step {step}: {commits:?}");
        };
        let surfaces = session.server.surfaces().unwrap();
        let at = surfaces.iter().find(|surface| surface.size == (30, 20)).unwrap().position;
        let inside = |from: i32, len: i32, part: (i32, i32), whole: i32| {
            part.0 <= from.clamp(0, whole) && (from + len).clamp(0, whole) <= part.0 + part.1
        };
        let is_drawn = inside(at.0, 30, (x, w), WHOLE[2]) && inside(at.1, 20, (y, h), WHOLE[3]);
        assert!(is_drawn, "step {step}: at {at:?}, and the picture at {:?}", [x, y, w, h]);
        places.push([x, y, w, h]);
    }
    places.dedup();
    assert!(places.len() <= 4, "{places:?}");
}

#[test]
fn a_recording_of_parts_is_planned_again_as_it_was() {
    let path = std::env::temp_dir().join(format!("primeway-part-{}", std::process::id()));
    let model = Model::new(vkms()).unwrap();
    let server = Server::start_recorded(&model, Vrr::Never, Some(path.clone())).unwrap();
    let client = server.connect().unwrap();
    let mut session = Session { model, server, client };
    let buffer = session.client.shm("XR24", (64, 48), NOISE).unwrap();
    let window = session.client.open_window("shm").unwrap();
    session.client.present(&window.surface, &buffer).unwrap();
    // What was needed before is no longer.
    std::thread::sleep(Duration::from_millis(1100));
    session.client.present(&window.surface, &buffer).unwrap();
    session.server.settle().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"part\":{") && text.contains("\"grid\":16"), "{text}");
    let summary = replay(&path, None, |_, _| ()).unwrap();
    assert_eq!(summary, Summary { plans: summary.plans, ..Summary::default() });
    // Planned without the part, it is another plan.
    std::fs::write(&path, text.replace("\"grid\":16", "\"grid\":null")).unwrap();
    assert!(replay(&path, None, |_, _| ()).unwrap().different > 0);
    std::fs::remove_file(path).unwrap();
}
