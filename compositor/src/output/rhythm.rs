//! How long a surface's client takes from hearing that it may draw to its commit, and when it made the commit that is shown.
//!
//! It owns the measures, which are kept with the surface, and sending frame callbacks. It keeps the buffer that a commit replaced
//! until then: a client that is going to be called hears in one go that it may draw, and that it has that buffer back.

use std::sync::Mutex;
use std::time::Duration;

use smithay::backend::renderer::utils::{Buffer, RendererSurfaceStateUserData};
use smithay::reexports::wayland_server::DisplayHandle;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::{
    BufferAssignment, Cacheable, SurfaceAttributes, SurfaceData, with_states,
};

use super::clock::Bound;
use crate::lock;

/// Clients that take about as long hear of it together.
const STEP: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
struct Rhythm {
    /// When it heard that it may draw, and has not committed since.
    called: Option<Duration>,
    takes: Bound,
    /// What the last commit replaced. `wl_buffer.release` goes out when nobody has it any more.
    replaced: Option<Buffer>,
}

/// When the commit was made that content came with: it goes with the commit, however long that is held back.
#[derive(Clone, Copy, Debug, Default)]
struct Made(Option<Duration>);

impl Cacheable for Made {
    fn commit(&mut self, _display: &DisplayHandle) -> Self {
        *self
    }

    fn merge_into(self, into: &mut Self, _display: &DisplayHandle) {
        *into = self;
    }
}

/// Notes that a client commits at `now`.
pub fn commits(surface: &WlSurface, now: Duration) {
    with_states(surface, |states| {
        let content = {
            let mut attributes = states.cached_state.get::<SurfaceAttributes>();
            let pending = attributes.pending();
            pending.buffer.is_some() || !pending.damage.is_empty()
        };
        if content {
            states.cached_state.get::<Made>().pending().0 = Some(now);
        }
    });
}

/// When the client made the commit whose content a surface has.
pub fn made(states: &SurfaceData) -> Option<Duration> {
    states.cached_state.has::<Made>().then(|| states.cached_state.get::<Made>().current().0)?
}

/// Tells whether a client waits to hear when to draw the surface's next frame.
pub fn waits(surface: &WlSurface) -> bool {
    with_states(surface, |states| {
        !states.cached_state.get::<SurfaceAttributes>().current().frame_callbacks.is_empty()
    })
}

/// How long the surface's client takes to draw, in whole steps, once that is known.
pub fn takes(surface: &WlSurface) -> Option<Duration> {
    let takes = with_states(surface, |states| {
        states.data_map.get::<Mutex<Rhythm>>().and_then(|rhythm| lock(rhythm).takes.get())
    })?;
    let steps = takes.as_nanos().div_ceil(STEP.as_nanos());
    Some(STEP * u32::try_from(steps).unwrap_or(u32::MAX))
}

/// Tells a client to draw its next frame. Says whether it waited for that.
pub fn call(surface: &WlSurface, now: Duration) -> bool {
    with_states(surface, |states| {
        let mut guard = states.cached_state.get::<SurfaceAttributes>();
        let callbacks = &mut guard.current().frame_callbacks;
        if callbacks.is_empty() {
            return false;
        }
        let mut rhythm = lock(states.data_map.get_or_insert_threadsafe(Mutex::<Rhythm>::default));
        rhythm.called = Some(now);
        // Before the call: what the client draws into is known when it is told to draw.
        rhythm.replaced = None;
        // Milliseconds, which wrap around.
        let time = now.as_millis() as u32;
        callbacks.drain(..).for_each(|callback| callback.done(time));
        true
    })
}

/// Notes a commit that came by `now`. Says whether it answers a call.
pub fn committed(surface: &WlSurface, now: Duration) -> bool {
    with_states(surface, |states| {
        let Some(rhythm) = states.data_map.get::<Mutex<Rhythm>>() else { return false };
        let mut rhythm = lock(rhythm);
        let Some(called) = rhythm.called.take() else { return false };
        tracing::trace!(?called, ?now, takes = ?rhythm.takes, "answered");
        rhythm.takes.note(now.saturating_sub(called));
        true
    })
}

/// A commit is about to replace the buffer of a surface, or not: a client that is going to be called gets the old one back then.
pub fn replace(surface: &WlSurface) {
    let replaced = with_states(surface, |states| {
        let mut guard = states.cached_state.get::<SurfaceAttributes>();
        let current = guard.current();
        let (waits, replaces) = (!current.frame_callbacks.is_empty(), current.buffer.is_some());
        let removes = matches!(current.buffer, Some(BufferAssignment::Removed));
        drop(guard);
        if !replaces {
            return None;
        }
        let state = states.data_map.get::<RendererSurfaceStateUserData>()?;
        let buffer = (waits && !removes).then(|| lock(state).buffer().cloned()).flatten();
        let rhythm = states.data_map.get_or_insert_threadsafe(Mutex::<Rhythm>::default);
        std::mem::replace(&mut lock(rhythm).replaced, buffer)
    });
    drop(replaced);
}

/// A surface is gone, and is not called any more.
pub fn forget(surface: &WlSurface) {
    let replaced = with_states(surface, |states| {
        let rhythm = states.data_map.get::<Mutex<Rhythm>>()?;
        lock(rhythm).replaced.take()
    });
    drop(replaced);
}
