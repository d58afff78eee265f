//! Buffers that planes hold out of sight, so that the kernel keeps them mapped.

use std::time::Duration;

use drm::control::AtomicCommitFlags;
use primeway::backend::kms::device::capabilities::PlaneKind;
use primeway::backend::kms::device::model::{Asked, Refuse};
use rustix::io::Errno;

use super::part::vkms;
use super::{OUTPUT, Session, start, start_with, wait_until};
use crate::Vrr;
use crate::headless_support::client::{Buffer, Window};

/// Framebuffer and place of what the overlays and the cursor plane have; none of one that is off.
fn overlays(session: &Session) -> Vec<Option<(u64, (i32, i32))>> {
    let now = |plane: u32| {
        let value = |name| session.model.value(plane, name).unwrap();
        let at = (value("CRTC_X") as i64 as i32, value("CRTC_Y") as i64 as i32);
        Some(value("FB_ID")).filter(|fb| *fb != 0).map(|fb| (fb, at))
    };
    let kinds = [PlaneKind::Overlay, PlaneKind::Cursor];
    kinds.into_iter().flat_map(|kind| session.model.planes(kind)).map(now).collect()
}

/// Overlays that hold something beside the picture.
fn parked(session: &Session) -> usize {
    let beside = (OUTPUT.0 as i32, OUTPUT.1 as i32);
    overlays(session).into_iter().flatten().filter(|(_, at)| *at == beside).count()
}

/// Buffers that they hold.
fn held(session: &Session) -> usize {
    let count = |state: &mut primeway::state::State| {
        state.outputs[0].state.parked().map(|update| update.buffer.handles().len()).sum()
    };
    session.server.ask(count).unwrap()
}

/// A full-screen window that shows its buffers in turn.
fn turning(session: &mut Session, buffers: usize, frames: usize) -> (Window, Vec<Buffer>) {
    let buffers: Vec<Buffer> = (0..buffers).map(|_| session.full()).collect();
    let window = session.client.open_window("full").unwrap();
    show(session, &window, &buffers, frames);
    (window, buffers)
}

fn show(session: &mut Session, window: &Window, buffers: &[Buffer], frames: usize) {
    for frame in 0..frames {
        assert!(session.client.present(&window.surface, &buffers[frame % buffers.len()]).unwrap(), "{frame}");
    }
    session.server.settle().unwrap();
}

/// Planes whose framebuffer a request sets, but for the primary plane.
fn changed(session: &Session, asked: &Asked) -> usize {
    let others = [PlaneKind::Overlay, PlaneKind::Cursor].map(|kind| session.model.planes(kind));
    others.into_iter().flatten().filter(|plane| asked.value(*plane, "FB_ID").is_some()).count()
}

#[test]
fn buffers_that_come_again_are_parked() {
    let mut session = start_with(vkms(), Vrr::Never);
    let (window, buffers) = turning(&mut session, 2, 2);
    assert_eq!(parked(&session), 0, "nothing has come again");
    show(&mut session, &window, &buffers, 4);
    assert_eq!((parked(&session), held(&session)), (1, 2));
    let parked: Vec<u64> = overlays(&session).into_iter().flatten().map(|(fb, _)| fb).collect();
    session.commits();
    show(&mut session, &window, &buffers, 6);
    let commits = session.commits();
    assert!(commits.len() >= 6 && commits.iter().all(|asked| asked.answer.is_ok()));
    // From now on a commit is about the primary plane alone, but that no plane waits for what is drawn into what it holds.
    assert!(commits.iter().all(|asked| changed(&session, asked) == 0), "{commits:?}");
    let planes = session.model.planes(PlaneKind::Overlay);
    let waits = |asked: &Asked| planes.iter().any(|plane| asked.value(*plane, "IN_FENCE_FD").is_some());
    assert!(commits.iter().all(waits), "{commits:?}");
    let shown: Vec<u64> = commits.iter().filter_map(|c| c.value(session.primary(), "FB_ID")).collect();
    assert!(shown.iter().all(|fb| !parked.contains(fb)), "{shown:?}, and {parked:?}");
}

/// As many as there are planes for, three on each; and the cursor plane is one of them.
#[test]
fn every_plane_takes_three() {
    let mut session = start_with(vkms(), Vrr::Never);
    let (window, buffers) = turning(&mut session, 11, 22);
    assert_eq!((parked(&session), held(&session)), (3, 9), "two overlays and the cursor plane");
    // Those that are not shown any more make room.
    let buffers: Vec<Buffer> = buffers.into_iter().skip(9).collect();
    std::thread::sleep(Duration::from_millis(1100));
    session.commits();
    show(&mut session, &window, &buffers, 4);
    let commits = session.commits();
    let renewed: usize = commits.iter().map(|asked| changed(&session, asked)).sum();
    assert!((1..=2).contains(&renewed), "{renewed} times: {commits:?}");
    assert_eq!((parked(&session), held(&session)), (3, 9));
}

#[test]
fn a_picture_takes_the_plane() {
    let mut session = start_with(vkms(), Vrr::Never);
    let (_window, _buffers) = turning(&mut session, 2, 6);
    assert_eq!(parked(&session), 1);
    let small = session.small();
    let first = session.client.open_window("first").unwrap();
    assert!(session.client.present(&first.surface, &small).unwrap(), "on a plane");
    session.server.settle().unwrap();
    assert_eq!((parked(&session), overlays(&session).into_iter().flatten().count()), (1, 2));
    let second = session.client.open_window("second").unwrap();
    let other = session.small();
    session.client.present(&second.surface, &other).unwrap();
    session.server.settle().unwrap();
    let asked = session.model.take_asked();
    assert!(asked.iter().filter(|asked| asked.is_commit()).all(|asked| asked.answer.is_ok()), "{asked:?}");
}

/// Nothing is kept of buffers that are gone, whether their window is there or not; and nothing is committed for those that stand
/// still.
#[test]
fn what_is_gone_is_let_go() {
    let mut session = start_with(vkms(), Vrr::Never);
    let before = session.server.ask(|state| state.backend.buffers().ledger().framebuffers.len()).unwrap();
    let (window, buffers) = turning(&mut session, 2, 6);
    assert_eq!(held(&session), 2);
    session.commits();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!((session.commits().len(), held(&session)), (0, 2), "it stands still");
    // The one on the screen stays, also with its wl_buffer destroyed.
    buffers.iter().for_each(|buffer| buffer.wl.destroy());
    session.client.roundtrip().unwrap();
    wait_until("the other one is let go", || held(&session) == 1);
    let other = session.full();
    session.client.present(&window.surface, &other).unwrap();
    wait_until("both are let go", || parked(&session) == 0);
    let buffers = [other, session.full()];
    show(&mut session, &window, &buffers, 6);
    assert_eq!(held(&session), 2);
    session.client = session.server.connect().unwrap();
    let left = |session: &Session| {
        session.server.ask(|state| state.backend.buffers().ledger().framebuffers.len()).unwrap()
    };
    // The picture of the empty desktop may have been composited meanwhile.
    wait_until("all is let go", || parked(&session) == 0 && left(&session) <= before + 1);
    session.commits();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(session.commits().len(), 0, "and then nothing happens");
}

#[test]
fn a_client_with_buffers_without_end_parks_none() {
    let mut session = start_with(vkms(), Vrr::Never);
    let window = session.client.open_window("full").unwrap();
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(session.full());
        assert!(session.client.present(&window.surface, all.last().unwrap()).unwrap());
    }
    session.server.settle().unwrap();
    assert_eq!(overlays(&session).into_iter().flatten().count(), 0);
}

#[test]
fn a_driver_that_refuses_it_is_not_asked_again() {
    let mut session = start_with(vkms(), Vrr::Never);
    session.model.refuse(Refuse {
        with: AtomicCommitFlags::NONBLOCK,
        without: AtomicCommitFlags::TEST_ONLY,
        planes: Some(1),
        errno: Errno::INVAL,
    });
    let (window, buffers) = turning(&mut session, 2, 8);
    let commits = session.commits();
    let refused = commits.iter().filter(|asked| asked.answer.is_err()).count();
    assert_eq!((refused, parked(&session)), (1, 0), "{commits:?}");
    session.model.refuse_nothing();
    show(&mut session, &window, &buffers, 4);
    assert_eq!(parked(&session), 0);
}

#[test]
fn a_commit_that_fails_for_another_reason_ends_nothing() {
    let mut session = start_with(vkms(), Vrr::Never);
    let (window, buffers) = turning(&mut session, 2, 6);
    session.model.refuse(Refuse {
        with: AtomicCommitFlags::NONBLOCK,
        without: AtomicCommitFlags::TEST_ONLY,
        planes: None,
        errno: Errno::NOMEM,
    });
    session.client.show(&window.surface, &buffers[0]).unwrap();
    wait_until("it is refused", || session.commits().iter().any(|asked| asked.answer == Err(Errno::NOMEM)));
    session.model.refuse_nothing();
    for frame in 0..8 {
        session.client.present(&window.surface, &buffers[frame % 2]).unwrap();
    }
    session.server.settle().unwrap();
    // And what was composited meanwhile.
    assert!(held(&session) >= 2, "{}", held(&session));
}

#[test]
fn a_session_that_comes_back_has_them_again() {
    let mut session = start_with(vkms(), Vrr::Never);
    let (window, buffers) = turning(&mut session, 2, 6);
    session.server.ask(primeway::state::State::session_paused).unwrap();
    session.server.ask(primeway::state::State::session_resumed).unwrap();
    session.commits();
    show(&mut session, &window, &buffers, 6);
    assert!(session.commits().iter().all(|asked| asked.answer.is_ok()));
    assert_eq!((parked(&session), held(&session)), (1, 2));
}

#[test]
fn hardware_keeps_its_planes_off() {
    let mut session = start("i915");
    let (_window, _buffers) = turning(&mut session, 2, 8);
    assert_eq!(overlays(&session).into_iter().flatten().count(), 0);
}
