//! Presentation feedback of the surfaces in a frame.

use std::time::Duration;

use smithay::output::Output;
use smithay::reexports::wayland_protocols::wp::presentation_time::server::wp_presentation_feedback::Kind;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::with_states;
use smithay::wayland::presentation::{
    PresentationFeedbackCachedState, PresentationFeedbackCallback, Refresh,
};

use super::Shown;

/// Tells whether a client waits to hear when the surface's content is shown.
pub fn has_feedback(surface: &WlSurface) -> bool {
    with_states(surface, |states| {
        !states.cached_state.get::<PresentationFeedbackCachedState>().current().callbacks.is_empty()
    })
}

/// Takes the feedback of the content that a frame is about to show.
pub fn take_feedback(surface: &WlSurface) -> Vec<PresentationFeedbackCallback> {
    with_states(surface, |states| {
        std::mem::take(&mut states.cached_state.get::<PresentationFeedbackCachedState>().current().callbacks)
    })
}

/// Tells a client that its content is on screen, and how it got there; without a `sequence` the display did not tell.
pub fn presented(
    output: &Output,
    mut shown: Shown,
    time: Duration,
    refresh: Duration,
    sequence: Option<u32>,
) {
    let mut flags = Kind::empty();
    if sequence.is_some() {
        flags |= Kind::HwClock | Kind::HwCompletion;
    }
    if sequence.is_some() && !shown.torn {
        flags |= Kind::Vsync;
    }
    if shown.zero_copy {
        flags |= Kind::ZeroCopy;
    }
    // Of a free rate, the fastest; clients of version 1 hear 0.
    let rate = if shown.varies { Refresh::variable(refresh) } else { Refresh::fixed(refresh) };
    for callback in shown.feedback.drain(..) {
        callback.presented(output, time, rate, sequence.unwrap_or(0).into(), flags);
    }
}
