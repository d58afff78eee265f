//! [`Timers`]: what happens later. Owns the order; the reactor sleeps no longer than until the first is due.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::state::{State, monotonic};

type Action<S> = Box<dyn FnOnce(&mut S)>;

/// Names a timer: when it is due, in CLOCK_MONOTONIC, and a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId(Duration, u64);

struct Queue<S> {
    next: u64,
    actions: BTreeMap<TimerId, Action<S>>,
}

/// All timers. Clones are the same timers.
pub struct Timers<S = State>(Rc<RefCell<Queue<S>>>);

impl<S> Clone for Timers<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> std::fmt::Debug for Timers<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timers").field("count", &self.0.borrow().actions.len()).finish()
    }
}

impl<S> Default for Timers<S> {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Queue { next: 0, actions: BTreeMap::new() })))
    }
}

impl<S> Timers<S> {
    /// Runs `action` after `delay`, unless it is cancelled. Timers run in the order in which they are due.
    pub fn after(&self, delay: Duration, action: impl FnOnce(&mut S) + 'static) -> TimerId {
        self.at(monotonic().saturating_add(delay), action)
    }

    /// Runs `action` at a time of CLOCK_MONOTONIC.
    pub fn at(&self, deadline: Duration, action: impl FnOnce(&mut S) + 'static) -> TimerId {
        let mut queue = self.0.borrow_mut();
        let id = TimerId(deadline, queue.next);
        queue.next += 1;
        queue.actions.insert(id, Box::new(action));
        id
    }

    /// Forgets a timer; one that has run is gone anyway.
    pub fn cancel(&self, id: TimerId) {
        // What is dropped with it may ask for timers.
        let action = self.0.borrow_mut().actions.remove(&id);
        drop(action);
    }

    /// When the first is due.
    pub(crate) fn first(&self) -> Option<Duration> {
        self.0.borrow().actions.keys().next().map(|id| id.0)
    }

    /// Runs what is due at `now`.
    pub(super) fn run_due(&self, state: &mut S, now: Duration) {
        loop {
            let mut queue = self.0.borrow_mut();
            let Some(first) = queue.actions.first_entry().filter(|first| first.key().0 <= now) else {
                return;
            };
            let action = first.remove();
            drop(queue);
            action(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn they_run_when_they_are_due_in_that_order_and_once() {
        let (timers, mut ran) = (Timers::<Vec<u32>>::default(), Vec::new());
        let note = |number| move |ran: &mut Vec<u32>| ran.push(number);
        timers.at(ms(40), note(3));
        timers.at(ms(20), note(2));
        let cancelled = timers.at(ms(1), note(9));
        let again = timers.clone();
        timers.at(ms(10), move |ran: &mut Vec<u32>| {
            ran.push(1);
            again.at(ms(15), |ran| ran.push(11));
        });
        timers.cancel(cancelled);
        timers.cancel(cancelled);
        for (now, want) in
            [(9, &[][..]), (10, &[1]), (19, &[1, 11]), (40, &[1, 11, 2, 3]), (99, &[1, 11, 2, 3])]
        {
            timers.run_due(&mut ran, ms(now));
            assert_eq!(ran, want, "at {now}");
        }
        assert_eq!(timers.first(), None);
    }

    #[test]
    fn a_delay_counts_from_now_and_the_first_one_is_known() {
        let timers = Timers::<()>::default();
        let before = monotonic();
        timers.after(Duration::from_secs(3600), |()| {});
        timers.after(ms(5), |()| {});
        let first = timers.first().unwrap();
        assert!(first >= before + ms(5) && first <= monotonic() + ms(5));
    }

    #[test]
    fn what_a_timer_drops_may_ask_for_timers() {
        struct Asks(Timers<()>);
        impl Drop for Asks {
            fn drop(&mut self) {
                self.0.at(ms(7), |()| {});
            }
        }
        let timers = Timers::default();
        let asks = Asks(timers.clone());
        let id = timers.at(ms(1), move |()| drop(asks));
        timers.cancel(id);
        assert_eq!(timers.first(), Some(ms(7)));
    }
}
