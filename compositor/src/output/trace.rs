//! What became of an output's planes and frames lately, for whoever asks: since when each surface stands where it is, the last
//! changes of planes, how long frames took, and since when each plane shows what it shows.
//!
//! It owns bounded memory and nothing else: a frame that changes no plane writes numbers into memory that is there already,
//! and asks no clock of its own. What is made of it is in [`crate::ctl`].

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use drm_prime::scanout::{Plan, PlaneCaps, PlaneType};
use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;

use super::SurfaceStats;
use super::layers::SurfaceLayer;
use crate::backend::FrameSpec;
use crate::clients;

/// Frames whose times are kept.
const FRAMES: usize = 512;
/// Changes of planes that are kept.
const CHANGES: usize = 256;

/// Since when a surface stands where it is.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The surface.
    pub surface: WlSurface,
    /// The plane that shows it; none if it is composited, or hidden.
    pub plane: Option<NonZeroU32>,
    /// Since then, on CLOCK_MONOTONIC.
    pub since: Duration,
    /// Frames with new content of it that had been shown by then.
    pub presented: u64,
}

/// Whom a plane shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nothing.
    Off,
    /// The composited picture.
    Composited,
    /// The pointer.
    Pointer,
    /// A surface, by its client's process and its object id there.
    Surface {
        /// Process id; 0 where it is not known.
        pid: i32,
        /// Object id.
        surface: u32,
    },
}

/// From then on the planes showed something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, on CLOCK_MONOTONIC.
    pub at: Duration,
    /// One entry per plane.
    pub planes: Vec<(NonZeroU32, Holder)>,
    /// Surfaces that were to be seen and on no plane.
    pub composited: usize,
}

/// What is remembered of an output.
#[derive(Debug, Default)]
pub struct Trace {
    standing: Vec<Standing>,
    changes: VecDeque<Change>,
    /// When the frame that is pending began to be drawn.
    begun: Duration,
    /// From a client's commit to its being shown, in microseconds, in a ring.
    latencies: Vec<u32>,
    next: usize,
    missed: u64,
    /// Plane, framebuffer, and since when it shows that.
    held: Vec<(NonZeroU32, u32, Duration)>,
}

impl Trace {
    /// A frame is being drawn.
    pub(super) fn begun(&mut self, now: Duration) {
        self.begun = now;
    }

    /// A frame is on screen; `made` is when the oldest of the commits was made that it is the first to show.
    pub(super) fn shown(
        &mut self,
        spec: &FrameSpec,
        made: Option<Duration>,
        at: Duration,
        refresh: Duration,
    ) {
        made.into_iter().for_each(|made| self.took(at.saturating_sub(made)));
        // The vertical blank that it was for may be a little more than an interval away.
        let late = at.saturating_sub(self.begun).saturating_sub(refresh / 4);
        let intervals = late.as_nanos().checked_div(refresh.as_nanos()).unwrap_or(0);
        self.missed += u64::try_from(intervals).unwrap_or(u64::MAX);
        // An event may carry no time, or an old one.
        let at = at.max(self.begun);
        self.held.retain(|(plane, ..)| spec.planes.iter().any(|update| update.plane == *plane));
        for update in &spec.planes {
            let fb = update.buffer.name().number();
            match self.held.iter_mut().find(|(plane, ..)| *plane == update.plane) {
                Some((_, shown, _)) if *shown == fb => {}
                Some(entry) => *entry = (update.plane, fb, at),
                None => self.held.push((update.plane, fb, at)),
            }
        }
    }

    /// The planes show nothing any more.
    pub(super) fn off(&mut self, now: Duration) {
        self.held.clear();
        let Some(last) = self.changes.back() else { return };
        let planes = last.planes.iter().map(|(plane, _)| (*plane, Holder::Off)).collect();
        self.changed(Change { at: now, planes, composited: 0 });
    }

    fn changed(&mut self, change: Change) {
        if self.changes.len() >= CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    fn took(&mut self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        if self.latencies.len() < FRAMES {
            if self.latencies.is_empty() {
                self.latencies.reserve_exact(FRAMES);
            }
            self.latencies.push(micros);
        } else {
            self.latencies[self.next] = micros;
            self.next = (self.next + 1) % FRAMES;
        }
    }

    /// There is a new plan, or other surfaces in the same one.
    pub(super) fn planned(
        &mut self,
        now: Duration,
        layers: &[SurfaceLayer],
        plan: &Plan,
        planes: &[PlaneCaps],
    ) {
        let before = std::mem::take(&mut self.standing);
        self.standing = layers
            .iter()
            .zip(&plan.planes)
            .map(|(layer, plane)| {
                let same = before.iter().find(|b| b.surface == layer.surface && b.plane == *plane);
                same.cloned().unwrap_or_else(|| Standing {
                    surface: layer.surface.clone(),
                    plane: *plane,
                    since: now,
                    presented: SurfaceStats::of(&layer.surface).presented,
                })
            })
            .collect();
        let holder = |caps: &PlaneCaps| {
            let layer = plan.planes.iter().take(plan.visible).position(|p| *p == Some(caps.id));
            let holder = match layer {
                Some(index) => of_surface(&layers[index].surface),
                None if plan.pointer == Some(caps.id) => Holder::Pointer,
                None if caps.kind == PlaneType::Primary
                    && plan.primary == drm_prime::scanout::PrimaryContent::Composited =>
                {
                    Holder::Composited
                }
                None => Holder::Off,
            };
            (caps.id, holder)
        };
        let planes: Vec<_> = planes.iter().map(holder).collect();
        let composited = plan.composited().count();
        let same = |last: &Change| last.planes == planes && last.composited == composited;
        if self.changes.back().is_some_and(same) {
            return;
        }
        self.changed(Change { at: now, planes, composited });
    }

    /// Where the surfaces of the last plan stand, topmost first.
    pub fn standing(&self) -> &[Standing] {
        &self.standing
    }

    /// The last changes of planes, oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter()
    }

    /// From a client's commit to its being shown: the last frames that showed one, in no order.
    pub fn latencies(&self) -> impl Iterator<Item = Duration> {
        self.latencies.iter().map(|micros| Duration::from_micros((*micros).into()))
    }

    /// Vertical blanks that passed while a frame was pending, but for the one that showed it.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Since when a plane shows the framebuffer that it shows.
    pub fn held(&self, plane: NonZeroU32) -> Option<Duration> {
        self.held.iter().find(|(held, ..)| *held == plane).map(|(.., since)| *since)
    }
}

fn of_surface(surface: &WlSurface) -> Holder {
    let pid = surface.client().as_ref().and_then(clients::pid).unwrap_or(0);
    Holder::Surface { pid, surface: surface.id().protocol_id() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_micros(16_667);

    fn after(trace: &mut Trace, micros: u64) {
        trace.begun(Duration::from_secs(1));
        // Its client had committed half a second before.
        let (made, at) = (Duration::from_millis(500), Duration::from_secs(1) + Duration::from_micros(micros));
        trace.shown(&FrameSpec::default(), Some(made), at, REFRESH);
    }

    #[test]
    fn frames_are_late_by_whole_intervals_and_the_last_ones_are_kept() {
        let mut trace = Trace::default();
        for micros in [3_000, 16_667, 20_000] {
            after(&mut trace, micros);
        }
        assert_eq!(trace.missed(), 0);
        after(&mut trace, 30_000);
        assert_eq!(trace.missed(), 1);
        after(&mut trace, 64_000);
        assert_eq!(trace.missed(), 4);
        for _ in 0..FRAMES {
            after(&mut trace, 5_000);
        }
        assert_eq!(trace.latencies().count(), FRAMES);
        assert!(trace.latencies().all(|took| took == Duration::from_millis(505)));
        let counted = trace.latencies().count();
        trace.shown(&FrameSpec::default(), None, Duration::from_secs(9), REFRESH);
        assert_eq!(trace.latencies().count(), counted, "nobody had committed");
    }
}
