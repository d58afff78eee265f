//! Variable refresh rates, and flips that do not wait for the vertical blank.

use drm::control::AtomicCommitFlags;
use primeway::backend::kms::device::model::Refuse;
use primeway::backend::kms::pacing::{TearingRefusal, Vrr};
use rustix::io::Errno;
use wayland_protocols::wp::tearing_control::v1::client::wp_tearing_control_v1::PresentationHint;

use crate::headless_support::client::Event;

use super::{Session, capabilities, is_async, start, start_with};

/// Shows so many frames of a full-screen window; returns what was committed for each.
fn frames(
    session: &mut Session,
    title: &str,
    count: usize,
    hint: Option<PresentationHint>,
) -> Vec<super::Asked> {
    let buffers = [session.full(), session.full()];
    let window = session.client.open_window(title).unwrap();
    let tearing = hint.map(|_| session.client.tearing(&window.surface).unwrap());
    let mut all = Vec::new();
    session.server.settle().unwrap();
    session.commits();
    for frame in 0..count {
        if let (Some(hint), Some(tearing), 0) = (hint, &tearing, frame) {
            tearing.set_presentation_hint(hint);
        }
        session.client.present(&window.surface, &buffers[frame % 2]).unwrap();
        all.extend(session.commits());
    }
    session.server.settle().unwrap();
    window.close();
    session.client.roundtrip().unwrap();
    all
}

#[test]
fn the_rate_is_free_while_a_full_screen_window_is_alone() {
    let mut session = start_with(capabilities("i915"), Vrr::Auto);
    let crtc = session.crtc();
    session.server.settle().unwrap();
    assert_eq!(session.model.value(crtc, "VRR_ENABLED"), Some(0));
    assert_eq!(session.kms(|kms, crtc| kms.vrr(crtc)), Some(false));
    let full = session.full();
    let window = session.client.open_window("full").unwrap();
    session.client.present(&window.surface, &full).unwrap();
    assert_eq!(session.model.value(crtc, "VRR_ENABLED"), Some(1));
    // Set once, not in every frame.
    session.server.settle().unwrap();
    session.commits();
    let next = session.full();
    session.client.present(&window.surface, &next).unwrap();
    assert!(session.commits().iter().all(|c| c.value(crtc, "VRR_ENABLED").is_none()));
    // A second window above it ends that.
    let small = session.small();
    let other = session.client.open_window("small").unwrap();
    session.client.present(&other.surface, &small).unwrap();
    session.server.settle().unwrap();
    assert_eq!(session.model.value(crtc, "VRR_ENABLED"), Some(0));
}

#[test]
fn feedback_names_no_fixed_rate_while_it_is_free() {
    let refresh = |vrr| {
        let mut session = start_with(capabilities("i915"), vrr);
        let full = [session.full(), session.full()];
        let window = session.client.open_window("full").unwrap();
        session.client.present(&window.surface, &full[0]).unwrap();
        let token = session.client.feedback(&window.surface).unwrap();
        session.client.show(&window.surface, &full[1]).unwrap();
        session.client.wait("presented", |seen| seen.presented_at(token).is_some()).unwrap();
        let at = session.client.seen.presented_at(token).unwrap();
        match &session.client.seen.log[at] {
            Event::Presented { refresh, .. } => *refresh,
            other => panic!("{other:?}"),
        }
    };
    // The client has version 1 of wp_presentation, which has 0 for that.
    assert_eq!(refresh(Vrr::Always), 0);
    assert!((16_000_000..17_500_000).contains(&refresh(Vrr::Never)));
}

#[test]
fn the_rate_follows_the_command_line() {
    for (vrr, expected) in [(Vrr::Never, 0), (Vrr::Always, 1)] {
        let mut session = start_with(capabilities("i915"), vrr);
        let small = session.small();
        let window = session.client.open_window("small").unwrap();
        session.client.present(&window.surface, &small).unwrap();
        let full = session.full();
        let window = session.client.open_window("full").unwrap();
        session.client.present(&window.surface, &full).unwrap();
        assert_eq!(session.model.value(session.crtc(), "VRR_ENABLED"), Some(expected), "{vrr:?}");
    }
    // The display must be able to.
    let mut fixed = capabilities("i915");
    fixed.connectors[0].properties.clear();
    let session = start_with(fixed, Vrr::Always);
    session.server.settle().unwrap();
    assert_eq!(session.model.value(session.crtc(), "VRR_ENABLED"), Some(0));
    assert_eq!(session.kms(|kms, crtc| kms.vrr(crtc)), None);
}

#[test]
fn a_client_that_asks_is_flipped_without_waiting() {
    let mut session = start("i915");
    let commits = frames(&mut session, "tears", 4, Some(PresentationHint::Async));
    // The first one changes more than the framebuffer.
    let asynchronous: Vec<bool> = commits.iter().map(is_async).collect();
    assert_eq!(asynchronous, [false, true, true, true]);
    assert!(commits.iter().all(|c| c.answer.is_ok()), "{commits:?}");
    assert_eq!(session.kms(|kms, crtc| kms.tearing(crtc)), None, "the window is gone");
    // Who does not ask, or asks for the contrary, is not.
    for hint in [None, Some(PresentationHint::Vsync)] {
        let commits = frames(&mut session, "whole", 3, hint);
        assert!(!commits.is_empty() && !commits.iter().any(is_async), "{hint:?}");
    }
}

#[test]
fn the_end_of_the_object_takes_the_hint_back_with_the_next_commit() {
    let mut session = start("i915");
    let buffers = [session.full(), session.full()];
    let window = session.client.open_window("tears").unwrap();
    let tearing = session.client.tearing(&window.surface).unwrap();
    session.client.present(&window.surface, &buffers[0]).unwrap();
    // Double-buffered: not before the next commit.
    tearing.set_presentation_hint(PresentationHint::Async);
    session.client.roundtrip().unwrap();
    session.server.settle().unwrap();
    session.commits();
    session.client.present(&window.surface, &buffers[1]).unwrap();
    assert!(session.commits().iter().any(is_async));
    tearing.destroy();
    session.client.present(&window.surface, &buffers[0]).unwrap();
    assert!(!session.commits().iter().any(is_async));
}

#[test]
fn a_window_that_is_not_alone_is_shown_whole() {
    let mut session = start("i915");
    let small = session.small();
    let buffers = [session.full(), session.full()];
    let window = session.client.open_window("full").unwrap();
    session.client.tearing(&window.surface).unwrap().set_presentation_hint(PresentationHint::Async);
    session.client.present(&window.surface, &buffers[0]).unwrap();
    let other = session.client.open_window("small").unwrap();
    session.client.present(&other.surface, &small).unwrap();
    session.commits();
    session.client.present(&window.surface, &buffers[1]).unwrap();
    assert!(!session.commits().iter().any(is_async));
}

#[test]
fn without_the_capability_it_is_not_tried() {
    let mut session = start("rockchip");
    let buffers = [session.full(), session.full()];
    let window = session.client.open_window("full").unwrap();
    session.client.tearing(&window.surface).unwrap().set_presentation_hint(PresentationHint::Async);
    for buffer in &buffers {
        session.client.present(&window.surface, buffer).unwrap();
    }
    assert!(!session.commits().iter().any(is_async));
    assert_eq!(session.kms(|kms, crtc| kms.tearing(crtc)), Some(Err(TearingRefusal::NoCapability)));
}

#[test]
fn what_the_driver_refuses_is_flipped_in_the_usual_way_and_not_tried_again() {
    let mut session = start("amdgpu");
    session.model.refuse(Refuse {
        with: AtomicCommitFlags::PAGE_FLIP_ASYNC,
        without: AtomicCommitFlags::empty(),
        planes: None,
        errno: Errno::INVAL,
    });
    let buffers = [session.full(), session.full()];
    let window = session.client.open_window("full").unwrap();
    session.client.tearing(&window.surface).unwrap().set_presentation_hint(PresentationHint::Async);
    session.client.present(&window.surface, &buffers[0]).unwrap();
    session.commits();
    session.client.present(&window.surface, &buffers[1]).unwrap();
    let commits = session.commits();
    let answers: Vec<_> = commits.iter().map(|c| (is_async(c), c.answer)).collect();
    assert_eq!(answers, [(true, Err(Errno::INVAL)), (false, Ok(()))]);
    let refusal = session.kms(|kms, crtc| kms.tearing(crtc));
    let Some(Err(TearingRefusal::Driver { errno: Errno::INVAL, modifier: 0, .. })) = refusal else {
        panic!("{refusal:?}");
    };
    session.client.present(&window.surface, &buffers[0]).unwrap();
    assert!(!session.commits().iter().any(is_async), "remembered");
}
