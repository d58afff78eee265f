//! Hysteresis: layers keep their planes against others that are not better for long, and who comes and goes too often
//! stays composited for a while.
//!
//! | what | until |
//! |---|---|
//! | who is on a plane counts as changing one step more often | it leaves the plane |
//! | so does who has waited for a plane, from then on | it gets one |
//! | who has lost its plane three times in a row, each within [`FLAP_WINDOW`] of the last, waits | [`HOLD`], twice as long with each further time |

use std::num::NonZeroU32;
use std::time::Duration;

use super::layer::{ContentType, Layer};
use super::plan::Plan;
use super::planner::MAX_CANDIDATES;

/// How long a layer is worth less than those on planes.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Losses of a plane that are this far apart are not counted together.
pub const FLAP_WINDOW: Duration = Duration::from_secs(2);
/// How long a layer waits after its third loss.
pub const HOLD: Duration = Duration::from_millis(500);
/// How long it waits at most.
const LONGEST_HOLD: Duration = Duration::from_secs(8);
/// Losses that are nothing special.
const FREE_LOSSES: u32 = 2;

#[derive(Clone, Copy, Debug)]
struct Past {
    key: u64,
    plane: Option<NonZeroU32>,
    /// Since when it has been wanting a plane.
    wants_since: Option<Duration>,
    losses: u32,
    lost_at: Duration,
    held: Option<Duration>,
}

/// What is remembered of the layers of the last plan.
#[derive(Debug, Default)]
pub(super) struct History {
    past: Vec<Past>,
    /// For each layer of the scene that is being planned, its past.
    of: Vec<Option<usize>>,
    now: Duration,
    next: Option<Duration>,
}

impl History {
    /// Tells whether the last plan is still what it would be, for all that time tells.
    pub fn stands(&self, now: Duration) -> bool {
        self.next.is_none_or(|next| now < next)
    }

    /// The plan stands until something changes.
    pub fn stand(&mut self) {
        self.next = None;
    }

    /// A scene is about to be planned.
    pub fn enter(&mut self, layers: &[Layer], now: Duration) {
        self.now = now;
        self.of.clear();
        let past = &self.past;
        self.of.extend(layers.iter().map(|l| past.iter().position(|p| p.key == l.key)));
    }

    fn past(&self, layer: usize) -> Option<&Past> {
        self.of[layer].map(|index| &self.past[index])
    }

    /// The layer has to wait.
    pub fn waits(&self, layer: usize) -> bool {
        self.held(layer).is_some()
    }

    /// How often a layer that has to wait lost its plane, and how long it waits in all.
    pub fn held(&self, layer: usize) -> Option<(u32, Duration)> {
        let past = self.past(layer)?;
        past.held.filter(|until| self.now < *until).map(|_| (past.losses, wait(past.losses)))
    }

    /// What decides about planes when there are not enough: how often the layer changes, what it is, and its size.
    pub fn rank(&self, index: usize, layer: &Layer, now: Duration) -> (u16, ContentType, u64) {
        let past = self.past(index);
        let patient = |p: &Past| p.wants_since.is_some_and(|since| since + PATIENCE <= now);
        let bonus = past.is_some_and(|p| p.plane.is_some() || patient(p));
        (u16::from(layer.rate) + u16::from(bonus), layer.content_type, layer.dst.area())
    }

    /// The plane that each layer was on.
    pub fn before(&self, layers: usize) -> Vec<Option<NonZeroU32>> {
        (0..layers).map(|i| self.past(i).and_then(|p| p.plane)).collect()
    }

    /// The scene has been planned.
    pub fn leave(&mut self, layers: &[Layer], plan: &Plan, order: &[usize], now: Duration) {
        let mut next: Option<Duration> = None;
        let mut wake = |at: Duration| next = Some(next.map_or(at, |n: Duration| n.min(at)));
        let mut past = Vec::with_capacity(layers.len().min(MAX_CANDIDATES));
        for (index, layer) in layers.iter().enumerate() {
            let known = self.past(index).copied();
            let candidate = order.contains(&index);
            if known.is_none() && !candidate {
                continue;
            }
            let fresh =
                Past { key: layer.key, plane: None, wants_since: None, losses: 0, lost_at: now, held: None };
            let mut p = known.unwrap_or(fresh);
            let plane = plan.planes[index];
            let seen = index < plan.visible && plan.hidden[index].is_none();
            if plane.is_none() && p.plane.is_some() && seen {
                let again = p.losses > 0 && now.saturating_sub(p.lost_at) <= FLAP_WINDOW;
                p.losses = if again { p.losses.saturating_add(1) } else { 1 };
                p.lost_at = now;
                if p.losses > FREE_LOSSES {
                    p.held = Some(now + wait(p.losses));
                }
            }
            p.held = p.held.filter(|until| now < *until);
            p.wants_since = match (plane, candidate) {
                (None, true) => Some(p.wants_since.unwrap_or(now)),
                _ => None,
            };
            p.held.into_iter().for_each(&mut wake);
            p.wants_since
                .map(|since| since + PATIENCE)
                .filter(|at| *at > now)
                .into_iter()
                .for_each(&mut wake);
            p.plane = plane;
            let recent = p.losses > 0 && now.saturating_sub(p.lost_at) <= FLAP_WINDOW;
            if candidate || plane.is_some() || p.held.is_some() || recent {
                past.push(p);
            }
        }
        self.past = past;
        self.next = next;
    }
}

/// How long a layer waits after so many losses.
fn wait(losses: u32) -> Duration {
    let doublings = losses.saturating_sub(FREE_LOSSES + 1).min(8);
    (HOLD * (1 << doublings)).min(LONGEST_HOLD)
}
