//! Which commits wait: their surfaces, what has not signalled, and since when.
//!
//! Owns the bookkeeping alone, so that it can be tested without fences, clocks or clients: what belongs to a wait in the
//! event loop is its payload, handed back when the wait ends.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

use smithay::reexports::wayland_server::backend::ObjectId;

use super::LATE;

/// A wait's number, never used again; later waits have higher ones.
pub(super) type WaitId = u64;

/// What has to signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Awaited {
    /// An implicit fence of this buffer plane.
    Plane(usize),
    /// The acquire point of this value.
    Point(u64),
}

impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plane(plane) => write!(f, "a fence of buffer plane {plane}"),
            Self::Point(point) => write!(f, "acquire point {point}"),
        }
    }
}

/// What a surface waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The first of what has not signalled.
    pub awaited: Awaited,
    /// For how long.
    pub since: Duration,
}

impl Waiting {
    /// Longer than [`LATE`].
    pub fn is_late(&self) -> bool {
        self.since >= LATE
    }
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.since.as_secs_f64();
        write!(f, "waits for {} since {seconds:.1} s", self.awaited)
    }
}

#[derive(Debug)]
struct Wait<S, T> {
    surface: S,
    begun: Instant,
    awaited: Vec<Awaited>,
    payload: T,
}

impl<S, T> Wait<S, T> {
    fn waiting(&self, now: Instant) -> Option<Waiting> {
        let awaited = *self.awaited.iter().min()?;
        Some(Waiting { awaited, since: now.saturating_duration_since(self.begun) })
    }
}

/// All waits, by surface and age.
#[derive(Debug)]
pub(super) struct Waits<T, S = ObjectId> {
    next: WaitId,
    waits: BTreeMap<WaitId, Wait<S, T>>,
    /// Surfaces that were told of as late.
    told: HashSet<S>,
}

impl<T, S> Default for Waits<T, S> {
    fn default() -> Self {
        Self { next: 0, waits: BTreeMap::new(), told: HashSet::new() }
    }
}

impl<T, S: Clone + Eq + Hash> Waits<T, S> {
    /// A number for a wait that is about to begin.
    pub(super) fn next_id(&mut self) -> WaitId {
        self.next += 1;
        self.next
    }

    /// A commit of `surface` waits for something: `awaited` is not empty.
    pub(super) fn begin(&mut self, id: WaitId, surface: S, awaited: Vec<Awaited>, now: Instant, payload: T) {
        self.waits.insert(id, Wait { surface, begun: now, awaited, payload });
    }

    /// What belongs to a wait.
    pub(super) fn payload(&mut self, id: WaitId) -> Option<&mut T> {
        self.waits.get_mut(&id).map(|wait| &mut wait.payload)
    }

    /// One thing has signalled. Gives the payload back if it was the last one.
    pub(super) fn signalled(&mut self, id: WaitId, awaited: Awaited) -> Option<T> {
        let wait = self.waits.get_mut(&id)?;
        wait.awaited.retain(|other| *other != awaited);
        if !wait.awaited.is_empty() {
            return None;
        }
        self.waits.remove(&id).map(|wait| wait.payload)
    }

    /// A wait has lasted long; says, the first time for its surface, for what.
    pub(super) fn late(&mut self, id: WaitId) -> Option<(&T, Awaited)> {
        let wait = self.waits.get(&id)?;
        let awaited = *wait.awaited.iter().min()?;
        self.told.insert(wait.surface.clone()).then_some((&wait.payload, awaited))
    }

    /// The surface is gone.
    pub(super) fn end_surface(&mut self, surface: &S) -> Vec<T> {
        if !self.told.is_empty() {
            self.told.remove(surface);
        }
        let of_surface = self.waits.iter().filter(|(_, wait)| wait.surface == *surface).map(|(id, _)| *id);
        let ids: Vec<WaitId> = of_surface.collect();
        ids.into_iter().filter_map(|id| self.waits.remove(&id)).map(|wait| wait.payload).collect()
    }

    /// What a surface's oldest wait is for.
    pub(super) fn of(&self, surface: &S, now: Instant) -> Option<Waiting> {
        self.waits.values().find(|wait| wait.surface == *surface)?.waiting(now)
    }

    /// All waits, oldest first.
    pub(super) fn all(&self, now: Instant) -> impl Iterator<Item = (&T, Waiting)> {
        self.waits.values().filter_map(move |wait| Some((&wait.payload, wait.waiting(now)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::Awaited::{Plane, Point};
    use super::*;

    type Table = Waits<&'static str, u32>;

    fn begin(table: &mut Table, surface: u32, planes: &[usize], now: Instant, name: &'static str) -> WaitId {
        let id = table.next_id();
        table.begin(id, surface, planes.iter().copied().map(Plane).collect(), now, name);
        id
    }

    #[test]
    fn a_wait_ends_with_its_last_plane_and_says_what_is_left() {
        let (mut table, now) = (Table::default(), Instant::now());
        let id = begin(&mut table, 7, &[2, 0, 1], now, "a");
        let later = now + Duration::from_millis(400);
        let at = |plane| Some(Waiting { awaited: Plane(plane), since: Duration::from_millis(400) });
        assert_eq!(table.of(&7, later), at(0));
        assert_eq!((table.signalled(id, Plane(0)), table.of(&7, later)), (None, at(1)));
        // Twice the same, or one that nobody waits for, ends nothing.
        assert_eq!((table.signalled(id, Plane(0)), table.signalled(id + 1, Plane(1))), (None, None));
        assert_eq!(table.signalled(id, Plane(2)), None);
        assert_eq!((table.signalled(id, Plane(1)), table.of(&7, later)), (Some("a"), None));
        assert_eq!(table.signalled(id, Plane(1)), None);
    }

    #[test]
    fn a_surface_answers_with_its_oldest_wait() {
        let (mut table, now) = (Table::default(), Instant::now());
        let first = begin(&mut table, 1, &[3], now, "first");
        begin(&mut table, 1, &[0], now + LATE, "second");
        begin(&mut table, 2, &[1], now + LATE, "other");
        let later = now + 2 * LATE;
        assert_eq!(table.of(&1, later), Some(Waiting { awaited: Plane(3), since: 2 * LATE }));
        assert_eq!(table.signalled(first, Plane(3)), Some("first"));
        assert_eq!(table.of(&1, later), Some(Waiting { awaited: Plane(0), since: LATE }));
        let names: Vec<_> = table.all(later).map(|(name, _)| *name).collect();
        assert_eq!(names, ["second", "other"]);
    }

    #[test]
    fn a_surface_is_told_of_once_and_forgotten_with_it() {
        let (mut table, now) = (Table::default(), Instant::now());
        let (a, b) = (begin(&mut table, 1, &[1, 2], now, "a"), begin(&mut table, 1, &[0], now, "b"));
        let other = begin(&mut table, 2, &[0], now, "other");
        assert_eq!(table.late(a), Some((&"a", Plane(1))));
        assert_eq!(table.late(a), None);
        assert_eq!(table.late(b), None);
        assert_eq!(table.end_surface(&1), ["a", "b"]);
        assert_eq!(table.of(&1, now), None);
        assert_eq!(table.late(a), None);
        assert_eq!(table.late(other), Some((&"other", Plane(0))));
        // Another surface under the same name.
        let again = begin(&mut table, 1, &[0], now, "again");
        assert_eq!(table.late(again), Some((&"again", Plane(0))));
    }

    #[test]
    fn it_says_when_it_is_late_and_for_what() {
        let waiting = |since| Waiting { awaited: Plane(1), since };
        assert!(!waiting(LATE - Duration::from_millis(1)).is_late() && waiting(LATE).is_late());
        let text = waiting(Duration::from_millis(2340)).to_string();
        assert_eq!(text, "waits for a fence of buffer plane 1 since 2.3 s");
        let text = Waiting { awaited: Point(9), since: LATE }.to_string();
        assert_eq!(text, "waits for acquire point 9 since 1.0 s");
    }
}
