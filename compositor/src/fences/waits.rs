//! Which commits wait: their surfaces, the buffer planes that are not ready, and since when.
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

/// What a surface waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The first buffer plane whose fence has not signalled.
    pub plane: usize,
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
        write!(f, "waits for a fence of buffer plane {} since {seconds:.1} s", self.plane)
    }
}

#[derive(Debug)]
struct Wait<S, T> {
    surface: S,
    begun: Instant,
    planes: Vec<usize>,
    payload: T,
}

impl<S, T> Wait<S, T> {
    fn waiting(&self, now: Instant) -> Option<Waiting> {
        let plane = *self.planes.iter().min()?;
        Some(Waiting { plane, since: now.saturating_duration_since(self.begun) })
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

    /// A commit of `surface` waits for `planes`, of which there is at least one.
    pub(super) fn begin(&mut self, id: WaitId, surface: S, planes: Vec<usize>, now: Instant, payload: T) {
        self.waits.insert(id, Wait { surface, begun: now, planes, payload });
    }

    /// What belongs to a wait.
    pub(super) fn payload(&mut self, id: WaitId) -> Option<&mut T> {
        self.waits.get_mut(&id).map(|wait| &mut wait.payload)
    }

    /// A plane is ready. Gives the payload back if it was the last one.
    pub(super) fn signalled(&mut self, id: WaitId, plane: usize) -> Option<T> {
        let wait = self.waits.get_mut(&id)?;
        wait.planes.retain(|p| *p != plane);
        if !wait.planes.is_empty() {
            return None;
        }
        self.waits.remove(&id).map(|wait| wait.payload)
    }

    /// A wait has lasted long; says, the first time for its surface, for which plane.
    pub(super) fn late(&mut self, id: WaitId) -> Option<(&T, usize)> {
        let wait = self.waits.get(&id)?;
        let plane = *wait.planes.iter().min()?;
        self.told.insert(wait.surface.clone()).then_some((&wait.payload, plane))
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
    use super::*;

    type Table = Waits<&'static str, u32>;

    fn begin(table: &mut Table, surface: u32, planes: &[usize], now: Instant, name: &'static str) -> WaitId {
        let id = table.next_id();
        table.begin(id, surface, planes.to_vec(), now, name);
        id
    }

    #[test]
    fn a_wait_ends_with_its_last_plane_and_says_what_is_left() {
        let (mut table, now) = (Table::default(), Instant::now());
        let id = begin(&mut table, 7, &[2, 0, 1], now, "a");
        let later = now + Duration::from_millis(400);
        let at = |plane| Some(Waiting { plane, since: Duration::from_millis(400) });
        assert_eq!(table.of(&7, later), at(0));
        assert_eq!((table.signalled(id, 0), table.of(&7, later)), (None, at(1)));
        // Twice the same, or one that nobody waits for, ends nothing.
        assert_eq!((table.signalled(id, 0), table.signalled(id + 1, 1)), (None, None));
        assert_eq!(table.signalled(id, 2), None);
        assert_eq!((table.signalled(id, 1), table.of(&7, later)), (Some("a"), None));
        assert_eq!(table.signalled(id, 1), None);
    }

    #[test]
    fn a_surface_answers_with_its_oldest_wait() {
        let (mut table, now) = (Table::default(), Instant::now());
        let first = begin(&mut table, 1, &[3], now, "first");
        begin(&mut table, 1, &[0], now + LATE, "second");
        begin(&mut table, 2, &[1], now + LATE, "other");
        let later = now + 2 * LATE;
        assert_eq!(table.of(&1, later), Some(Waiting { plane: 3, since: 2 * LATE }));
        assert_eq!(table.signalled(first, 3), Some("first"));
        assert_eq!(table.of(&1, later), Some(Waiting { plane: 0, since: LATE }));
        let names: Vec<_> = table.all(later).map(|(name, _)| *name).collect();
        assert_eq!(names, ["second", "other"]);
    }

    #[test]
    fn a_surface_is_told_of_once_and_forgotten_with_it() {
        let (mut table, now) = (Table::default(), Instant::now());
        let (a, b) = (begin(&mut table, 1, &[1, 2], now, "a"), begin(&mut table, 1, &[0], now, "b"));
        let other = begin(&mut table, 2, &[0], now, "other");
        assert_eq!(table.late(a), Some((&"a", 1)));
        assert_eq!(table.late(a), None);
        assert_eq!(table.late(b), None);
        assert_eq!(table.end_surface(&1), ["a", "b"]);
        assert_eq!(table.of(&1, now), None);
        assert_eq!(table.late(a), None);
        assert_eq!(table.late(other), Some((&"other", 0)));
        // Another surface under the same name.
        let again = begin(&mut table, 1, &[0], now, "again");
        assert_eq!(table.late(again), Some((&"again", 0)));
    }

    #[test]
    fn it_says_when_it_is_late_and_for_what() {
        let waiting = |since| Waiting { plane: 1, since };
        assert!(!waiting(LATE - Duration::from_millis(1)).is_late() && waiting(LATE).is_late());
        let text = waiting(Duration::from_millis(2340)).to_string();
        assert_eq!(text, "waits for a fence of buffer plane 1 since 2.3 s");
    }
}
