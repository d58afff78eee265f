//! When the compositor hears of it that a frame is on screen: with the next call of its clients, unless somebody is to hear of
//! it at once.

use std::cell::Cell;
use std::time::Duration;

use primeway::backend::kms::device::model::Flips;
use primeway::backend::kms::pacing::Vrr;

use super::{OUTPUT, Session, capabilities, start_with, wait_until};
use crate::headless_support::client::{Buffer, Event, Seen, Window};

/// A slow display, so that even a busy machine draws in time.
fn start() -> Session {
    let mut slow = capabilities("i915");
    let first = slow.connectors.iter_mut().find(|c| !c.modes.is_empty()).unwrap();
    first.modes = vec![format!("{}x{}@10", OUTPUT.0, OUTPUT.1)];
    start_with(slow, Vrr::Auto)
}

/// A window that has been shown so often that it is known how long its client takes, with a buffer that it does not show.
fn settled(session: &mut Session) -> (Window, Buffer) {
    let [first, second] = [(); 2].map(|()| session.small());
    let window = session.client.open_window("settled").unwrap();
    for frame in 0..12 {
        let buffer = if frame % 2 == 0 { &first } else { &second };
        let token = session.client.frame(&window.surface);
        session.client.show(&window.surface, buffer).unwrap();
        session.client.wait("a call", |seen| seen.frame_done(token)).unwrap();
    }
    session.server.settle().unwrap();
    (window, first)
}

/// From now on nothing is shown but by hand.
fn stop(session: &Session) {
    session.model.set_flips(Flips::ByHand);
    assert_eq!(session.model.outstanding(), 0);
}

/// Waits for a pending frame; says whether the compositor sleeps on when it is shown.
fn sleeps_on(session: &Session) -> bool {
    wait_until("committed", || session.model.outstanding() == 1);
    let asked = session.server.ask(|state| {
        let output = &state.outputs[0].state;
        // As soon as it was submitted, however long ago that is.
        output.flip_can_wait(Duration::ZERO)
    });
    asked.unwrap()
}

/// A session that sleeps on while a frame is pending, with the tokens of its client's call and feedback.
fn slept_on() -> (Session, [u32; 2]) {
    let mut session = start();
    let (window, buffer) = settled(&mut session);
    stop(&session);
    let (call, shown) = (session.client.frame(&window.surface), session.client.feedback(&window.surface));
    let shown = shown.unwrap();
    session.client.show(&window.surface, &buffer).unwrap();
    assert!(sleeps_on(&session));
    (session, [call, shown])
}

#[test]
fn clients_that_are_called_hear_then_what_was_shown() {
    let (mut session, [call, shown]) = slept_on();
    session.model.flip();
    session.client.wait("a call", |seen| seen.frame_done(call)).unwrap();
    let seen = &session.client.seen;
    assert!(seen.presented_at(shown).is_some(), "it heard of the frame before: {:?}", seen.log);
    assert_eq!(session.model.outstanding(), 0);
}

#[test]
fn a_frame_that_is_late_is_heard_of_when_it_comes() {
    let (mut session, [call, shown]) = slept_on();
    // Long after it was looked for.
    session.client.wait("a call", |seen| seen.frame_done(call)).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    session.client.roundtrip().unwrap();
    assert!(session.client.seen.presented_at(shown).is_none(), "not shown yet");
    session.model.flip();
    session.client.wait("presented", |seen| seen.presented_at(shown).is_some()).unwrap();
}

#[test]
fn who_is_not_called_hears_at_once() {
    let mut session = start();
    let (window, buffer) = settled(&mut session);
    stop(&session);
    let shown = session.client.feedback(&window.surface).unwrap();
    session.client.show(&window.surface, &buffer).unwrap();
    assert!(!sleeps_on(&session), "nobody is called");
    session.model.flip();
    session.client.wait("presented", |seen| seen.presented_at(shown).is_some()).unwrap();
}

#[test]
fn a_buffer_of_a_window_that_is_not_called_comes_back_at_once() {
    let mut session = start();
    let [first, second] = [(); 2].map(|()| session.small());
    let other = session.client.open_window("other").unwrap();
    assert!(session.client.present(&other.surface, &first).unwrap());
    let (window, buffer) = settled(&mut session);
    stop(&session);
    session.client.frame(&window.surface);
    session.client.attach(&other.surface, &second);
    other.surface.commit();
    session.client.show(&window.surface, &buffer).unwrap();
    let released = session.client.seen.log.len();
    assert!(!sleeps_on(&session), "one of two is called");
    session.model.flip();
    let is_back = |seen: &Seen| seen.log[released..].contains(&Event::Release(first.id()));
    session.client.wait("the buffer", is_back).unwrap();
}

#[test]
fn who_changes_something_meanwhile_is_not_kept_waiting() {
    let mut session = start();
    let (window, buffer) = settled(&mut session);
    stop(&session);
    session.client.frame(&window.surface);
    session.client.show(&window.surface, &buffer).unwrap();
    assert!(sleeps_on(&session));
    let next = session.small();
    session.client.show(&window.surface, &next).unwrap();
    session.client.roundtrip().unwrap();
    assert!(!sleeps_on(&session), "a frame waits for this one to be shown");
    session.model.flip();
    wait_until("the next frame", || session.model.outstanding() == 1);
}

#[test]
fn that_objects_are_gone_wakes_no_client_that_is_called_soon() {
    let mut session = start();
    let (window, first) = settled(&mut session);
    let second = session.small();
    session.client.roundtrip().unwrap();
    let mut reads = Vec::new();
    for frame in 0..6 {
        // The library confirms with an event of wl_display that the region is gone.
        session.client.set_opaque(&window.surface, [0, 0, 64, 48]).unwrap();
        let call = session.client.frame(&window.surface);
        session.client.attach(&window.surface, if frame % 2 == 0 { &first } else { &second });
        window.surface.commit();
        let looks = Cell::new(0);
        let called = |seen: &Seen| {
            looks.set(looks.get() + 1);
            seen.frame_done(call)
        };
        session.client.wait("a call", called).unwrap();
        reads.push(looks.get() - 1);
    }
    // The first of them answers no call; on a busy machine, requests that came at once may be handled in several turns.
    let once = reads[1..].iter().filter(|reads| **reads == 1).count();
    assert!(once >= 3, "one reading a frame: {reads:?}");
}
