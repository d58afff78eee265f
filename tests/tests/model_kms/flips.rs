//! Flips that do not complete, and modes that are refused.

use std::time::{Duration, Instant};

use drm::control::AtomicCommitFlags;
use primeway::backend::kms::device::model::{Flips, Refuse};
use rustix::io::Errno;

use super::{OUTPUT, Session, start, wait_until};
use crate::headless_support::client::{Buffer, Event, Window};
use primeway::ctl::outputs::{self, Wish};

const BLOCKING: Refuse = Refuse {
    with: AtomicCommitFlags::ALLOW_MODESET,
    without: AtomicCommitFlags::NONBLOCK.union(AtomicCommitFlags::TEST_ONLY),
    planes: None,
    errno: Errno::IO,
};

fn lost(session: &Session) -> u64 {
    session.kms(|kms, crtc| kms.lost_flips(crtc))
}

/// A full-screen window with two buffers, the first one shown.
fn window(session: &mut Session) -> (Window, [Buffer; 2]) {
    let buffers = [session.full(), session.full()];
    let window = session.client.open_window("full").unwrap();
    session.client.present(&window.surface, &buffers[0]).unwrap();
    session.server.settle().unwrap();
    session.commits();
    (window, buffers)
}

fn released(session: &Session, buffer: &Buffer) -> bool {
    session.client.seen.log.contains(&Event::Release(buffer.id()))
}

#[test]
fn a_flip_that_never_completes_is_made_up_for() {
    let mut session = start("i915");
    let (window, buffers) = window(&mut session);
    session.model.set_flips(Flips::Never);
    let start = Instant::now();
    let token = session.client.feedback(&window.surface).unwrap();
    session.client.show(&window.surface, &buffers[1]).unwrap();
    // Nobody knows whether the first buffer is still read.
    std::thread::sleep(Duration::from_millis(500));
    session.client.roundtrip().unwrap();
    assert!(!released(&session, &buffers[0]), "still on the screen, for all that is known");
    assert_eq!(lost(&session), 0);
    let shown = |session: &mut Session| {
        session.client.roundtrip().unwrap();
        session.client.seen.presented_at(token).is_some()
    };
    wait_until("the frame is shown", || shown(&mut session));
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(990) && waited < Duration::from_secs(4), "{waited:?}");
    assert!(released(&session, &buffers[0]));
    assert_eq!(lost(&session), 1);
    // The second commit does not wait and is refused for that, the third one waits; both name everything.
    let commits = session.commits();
    let flags: Vec<_> = commits.iter().map(|c| (c.flags, c.answer)).collect();
    let normal = AtomicCommitFlags::NONBLOCK | AtomicCommitFlags::PAGE_FLIP_EVENT;
    let mode = AtomicCommitFlags::ALLOW_MODESET;
    let expected = [(normal, Ok(())), (AtomicCommitFlags::NONBLOCK | mode, Err(Errno::BUSY)), (mode, Ok(()))];
    assert_eq!(flags, expected);
    assert!(commits[2].value(session.crtc(), "MODE_ID").is_some());
    // The session goes on, and the blob of no lost frame is left.
    session.model.set_flips(Flips::After(Duration::from_millis(5)));
    for buffer in [&buffers[0], &buffers[1], &buffers[0]] {
        assert!(session.client.present(&window.surface, buffer).unwrap());
    }
    assert_eq!((lost(&session), session.model.outstanding()), (1, 0));
}

#[test]
fn a_lost_flip_keeps_nobody_waiting() {
    let mut session = start("i915");
    let (window, buffers) = window(&mut session);
    session.model.set_flips(Flips::Never);
    // As drm_atomic_helper does, but it waits for ten seconds.
    session.model.set_patience(Duration::from_secs(3));
    let start = Instant::now();
    let token = session.client.feedback(&window.surface).unwrap();
    session.client.show(&window.surface, &buffers[1]).unwrap();
    let mut longest = Duration::ZERO;
    while session.client.seen.presented_at(token).is_none() {
        let asked = Instant::now();
        session.client.roundtrip().unwrap();
        longest = longest.max(asked.elapsed());
        assert!(start.elapsed() < Duration::from_secs(10), "not recovered");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(start.elapsed() > Duration::from_secs(4), "recovered before the kernel could");
    assert!(longest < Duration::from_millis(700), "a client waited for {longest:?}");
    session.model.set_flips(Flips::After(Duration::from_millis(5)));
    assert!(session.client.present(&window.surface, &buffers[0]).unwrap());
    assert_eq!(lost(&session), 1);
}

#[test]
fn a_flip_of_which_only_the_event_is_lost_is_made_up_for_at_once() {
    let mut session = start("i915");
    let (window, buffers) = window(&mut session);
    session.model.set_flips(Flips::ByHand);
    session.client.show(&window.surface, &buffers[1]).unwrap();
    wait_until("committed", || session.model.outstanding() == 1);
    session.model.lose_events();
    session.model.set_flips(Flips::After(Duration::from_millis(5)));
    wait_until("it is noticed", || lost(&session) == 1);
    assert!(session.client.present(&window.surface, &buffers[0]).unwrap());
    let blocking = |c: &super::Asked| !c.flags.contains(AtomicCommitFlags::NONBLOCK);
    assert!(!session.commits().iter().any(blocking), "somebody waited for nothing");
}

#[test]
fn an_event_that_comes_too_late_is_not_taken_for_another() {
    let mut session = start("i915");
    let (window, buffers) = window(&mut session);
    // The model sends the event of the late commit when another one blocks for it.
    session.model.set_flips(Flips::ByHand);
    session.client.show(&window.surface, &buffers[1]).unwrap();
    wait_until("it is noticed", || lost(&session) == 1);
    wait_until("its event is read", || session.model.outstanding() == 0);
    session.server.settle().unwrap();
    // The next frame is pending until its own event.
    let token = session.client.feedback(&window.surface).unwrap();
    session.client.show(&window.surface, &buffers[0]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    session.client.roundtrip().unwrap();
    assert!(session.client.seen.presented_at(token).is_none(), "not shown yet");
    session.model.flip();
    session.client.wait("presented", |seen| seen.presented_at(token).is_some()).unwrap();
    assert_eq!(lost(&session), 1);
}

#[test]
fn an_output_that_cannot_be_recovered_is_tried_again_and_again() {
    let mut session = start("i915");
    let (window, buffers) = window(&mut session);
    session.model.set_flips(Flips::Never);
    session.model.refuse(BLOCKING);
    session.client.show(&window.surface, &buffers[1]).unwrap();
    session.model.set_flips(Flips::ByHand);
    wait_until("it is noticed", || lost(&session) == 1);
    let tried = |session: &Session| session.commits().iter().filter(|c| c.answer == Err(Errno::IO)).count();
    let mut count = 0;
    wait_until("the frame once more, and everything off", || {
        count += tried(&session);
        count >= 2
    });
    assert_eq!(count, 2);
    // What is held stays held, and the compositor answers.
    session.client.roundtrip().unwrap();
    assert!(!released(&session, &buffers[0]));
    let mut count = 0;
    wait_until("it is tried again", || {
        count += tried(&session);
        count == 2
    });
    assert!(!released(&session, &buffers[0]));
    session.model.refuse_nothing();
    wait_until("the first buffer is free", || {
        session.client.roundtrip().unwrap();
        released(&session, &buffers[0])
    });
    session.model.set_flips(Flips::After(Duration::from_millis(5)));
    assert!(session.client.present(&window.surface, &buffers[0]).unwrap());
    assert_eq!(lost(&session), 1, "one flip was lost, however often it was tried");
}

#[test]
fn an_output_whose_frame_is_refused_is_turned_off_and_set_anew() {
    let mut session = start("i915");
    let (window, buffers) = window(&mut session);
    session.model.set_flips(Flips::Never);
    // But not when nothing is on.
    session.model.refuse(Refuse { planes: Some(0), ..BLOCKING });
    session.client.show(&window.surface, &buffers[1]).unwrap();
    session.model.set_flips(Flips::After(Duration::from_millis(5)));
    wait_until("it is noticed", || lost(&session) == 1);
    assert!(session.client.present(&window.surface, &buffers[0]).unwrap());
    session.server.settle().unwrap();
    let commits = session.commits();
    let off = commits.iter().position(|c| c.value(session.crtc(), "ACTIVE") == Some(0)).unwrap();
    let on = commits.iter().rposition(|c| c.value(session.crtc(), "ACTIVE") == Some(1)).unwrap();
    assert!(off < on && commits[off].answer.is_ok() && commits[on].answer.is_ok(), "{commits:?}");
    assert_eq!(session.model.value(session.crtc(), "ACTIVE"), Some(1));
    assert_eq!(lost(&session), 1);
}

#[test]
fn flips_that_come_cost_nothing_more() {
    let mut session = start("i915");
    let (window, buffers) = window(&mut session);
    let end = Instant::now() + Duration::from_millis(2500);
    let mut frames = 0;
    while Instant::now() < end {
        session.client.present(&window.surface, &buffers[(frames + 1) % 2]).unwrap();
        frames += 1;
    }
    let commits = session.commits();
    assert_eq!(commits.len(), frames, "one commit a frame and no other");
    assert_eq!(lost(&session), 0);
}

#[test]
fn when_a_mode_is_refused_the_overlays_go_first() {
    let mut session = start("i915");
    let buffer = session.small();
    let window = session.client.open_window("small").unwrap();
    assert!(session.client.present(&window.surface, &buffer).unwrap(), "on an overlay");
    session.server.settle().unwrap();
    // As after the return of the session, on a device that cannot set this mode with two planes on.
    session.model.refuse(Refuse {
        with: AtomicCommitFlags::ALLOW_MODESET | AtomicCommitFlags::NONBLOCK,
        without: AtomicCommitFlags::TEST_ONLY,
        planes: Some(1),
        errno: Errno::NOSPC,
    });
    session.commits();
    session.server.ask(primeway::state::State::session_resumed).unwrap();
    session.server.settle().unwrap();
    let commits = session.commits();
    let modes: Vec<_> = commits
        .iter()
        .filter(|c| c.flags.contains(AtomicCommitFlags::NONBLOCK | AtomicCommitFlags::ALLOW_MODESET))
        .map(|c| c.answer)
        .collect();
    assert_eq!(modes.last(), Some(&Ok(())), "{modes:?}");
    assert!(modes.contains(&Err(Errno::NOSPC)), "{modes:?}");
    // With the mode set, the window has its plane back.
    assert!(session.client.present(&window.surface, &buffer).unwrap());
    session.server.settle().unwrap();
    let report = session.server.window("small").unwrap();
    assert!(report.plane.is_some(), "{:?}", report.reason);
    // A full-screen window keeps its plane throughout: the primary is no overlay.
    window.close();
    let full = session.client.dmabuf("XR24", OUTPUT, super::NOISE).unwrap();
    let window = session.client.open_window("full").unwrap();
    session.client.present(&window.surface, &full).unwrap();
    session.server.ask(primeway::state::State::session_resumed).unwrap();
    session.server.settle().unwrap();
    assert_eq!(session.server.window("full").unwrap().plane, Some(session.primary()));
}

#[test]
fn the_first_flip_after_turning_on_counts_whatever_time_it_tells() {
    let mut session = start("i915");
    let (window, buffers) = window(&mut session);
    let name = session.server.stats().unwrap().outputs[0].name.clone();
    let power = |session: &Session, on: bool| {
        let wish = Wish { name: name.clone(), mode: None, power: Some(on) };
        session.server.ask(move |state| outputs::set(state, &wish)).unwrap().unwrap();
    };
    for round in 0..3 {
        power(&session, false);
        assert_eq!(session.model.value(session.crtc(), "ACTIVE"), Some(0));
        power(&session, true);
        let start = Instant::now();
        assert!(session.client.present(&window.surface, &buffers[round % 2]).unwrap());
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
        session.server.settle().unwrap();
        assert_eq!(lost(&session), 0, "round {round}");
    }
}
