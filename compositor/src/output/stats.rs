//! Per surface: frames shown, how many of them zero-copy, which plane, and why not another.

use std::sync::Mutex;
use std::time::Duration;

use drm_prime::scanout::Plan;
use smithay::backend::renderer::utils::CommitCounter;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::with_states;

use super::Shown;
use super::layers::SurfaceLayer;
use crate::backend::OutputId;
use crate::lock;
use crate::render::RenderError;

/// What is known of a surface's way to the screen.
#[derive(Clone, Debug, Default)]
pub struct SurfaceStats {
    /// Frames with new content of the surface that were shown.
    pub presented: u64,
    /// Those of them in which a plane showed the client's buffer itself.
    pub zero_copy: u64,
    /// The plane it is on, if any.
    pub plane: Option<u32>,
    /// Why it is not on a plane.
    pub reason: Option<String>,
    /// Why it is black, or not there, instead of composited.
    pub undrawn: Option<String>,
    last: Option<CommitCounter>,
    /// The frame that it was in last: of an output, how many it had shown before.
    seen: Option<(OutputId, u64)>,
}

fn with_stats<T>(surface: &WlSurface, f: impl FnOnce(&mut SurfaceStats) -> T) -> T {
    with_states(surface, |states| {
        f(&mut lock(states.data_map.get_or_insert_threadsafe(Mutex::<SurfaceStats>::default)))
    })
}

impl SurfaceStats {
    /// Why it is not on a plane, and not to be seen either if it could not be composited.
    pub fn reason(&self) -> Option<String> {
        let why = self.undrawn.as_ref().map(|why| format!("it cannot be composited either: {why}"));
        match (&self.reason, why) {
            (Some(reason), Some(why)) => Some(format!("{reason}; {why}")),
            (reason, why) => why.or_else(|| reason.clone()),
        }
    }

    /// A copy of a surface's figures.
    pub fn of(surface: &WlSurface) -> Self {
        with_stats(surface, |stats| stats.clone())
    }
}

/// Notes where a new plan puts each layer.
pub fn record_plan(layers: &[SurfaceLayer], plan: &Plan) {
    for (index, layer) in layers.iter().enumerate() {
        let reason = plan.planes[index].is_none().then(|| match plan.reason(index) {
            Some(refusal) => refusal.to_string(),
            None => "hidden behind an opaque layer".to_owned(),
        });
        with_stats(&layer.surface, |stats| {
            stats.plane = plan.planes[index].map(std::num::NonZeroU32::get);
            stats.reason = reason;
            if stats.plane.is_some() {
                stats.undrawn = None;
            }
        });
    }
}

/// Notes whether composition could draw a layer.
pub fn record_composed(layer: &SurfaceLayer, failed: Option<&RenderError>) {
    with_stats(&layer.surface, |stats| stats.undrawn = failed.map(ToString::to_string));
}

/// A layer's content is newer than in the frame before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// When its client committed it. Not of a surface that the output did not show before: nobody had to hurry.
    pub made: Option<Duration>,
}

/// Tells whether a layer's content is newer than in the frame before, as it goes into a frame of an output that has shown
/// `frames`.
pub fn take_fresh(layer: &SurfaceLayer, output: OutputId, frames: u64) -> Option<Fresh> {
    with_stats(&layer.surface, |stats| {
        let before = stats.seen.replace((output, frames));
        let stayed = before.is_some_and(|(on, shown)| on == output && (shown..=shown + 1).contains(&frames));
        let fresh = stats.last.replace(layer.commit) != Some(layer.commit);
        fresh.then(|| Fresh { made: layer.made.filter(|_| stayed) })
    })
}

/// Counts a frame that is on screen.
pub fn record_shown(shown: &Shown) {
    if shown.fresh.is_some() {
        with_stats(&shown.surface, |stats| {
            stats.presented += 1;
            stats.zero_copy += u64::from(shown.zero_copy);
        });
    }
}
