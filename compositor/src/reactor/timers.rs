//! [`Timers`]: what happens later. Owns the one timerfd and the order; the reactor says when it is due.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::state::{State, monotonic};

type Action<S> = Box<dyn FnOnce(&mut S)>;

/// Names a timer: when it is due, in CLOCK_MONOTONIC, and a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId(Duration, u64);

struct Queue<S> {
    next: u64,
    actions: BTreeMap<TimerId, Action<S>>,
    /// What the descriptor is set to.
    armed: Option<Duration>,
}

impl<S> Queue<S> {
    fn first(&self) -> Option<Duration> {
        self.actions.keys().next().map(|id| id.0)
    }

    fn pop_due(&mut self, now: Duration) -> Option<Action<S>> {
        let first = self.actions.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}

/// All timers. Clones are the same timers.
pub struct Timers<S = State> {
    fd: Rc<OwnedFd>,
    queue: Rc<RefCell<Queue<S>>>,
}

impl<S> Clone for Timers<S> {
    fn clone(&self) -> Self {
        Self { fd: self.fd.clone(), queue: self.queue.clone() }
    }
}

impl<S> std::fmt::Debug for Timers<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timers").field("count", &self.queue.borrow().actions.len()).finish_non_exhaustive()
    }
}

impl<S> AsFd for Timers<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S> Timers<S> {
    /// No timers.
    ///
    /// # Errors
    /// When there is no descriptor to be had.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = Rc::new(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        let queue = Queue { next: 0, actions: BTreeMap::new(), armed: None };
        Ok(Self { fd, queue: Rc::new(RefCell::new(queue)) })
    }

    /// Runs `action` after `delay`, unless it is cancelled. Timers run in the order in which they are due.
    pub fn after(&self, delay: Duration, action: impl FnOnce(&mut S) + 'static) -> TimerId {
        let deadline = monotonic().saturating_add(delay);
        let mut queue = self.queue.borrow_mut();
        let id = TimerId(deadline, queue.next);
        queue.next += 1;
        queue.actions.insert(id, Box::new(action));
        id
    }

    /// Forgets a timer; one that has run is gone anyway.
    pub fn cancel(&self, id: TimerId) {
        // What is dropped with it may ask for timers.
        let action = self.queue.borrow_mut().actions.remove(&id);
        drop(action);
    }

    /// Sets the descriptor to the first timer. One that was cancelled may leave it set too early: no harm.
    pub(super) fn arm(&self) {
        let mut queue = self.queue.borrow_mut();
        let Some(first) = queue.first() else { return };
        if queue.armed.is_some_and(|armed| armed <= first) {
            return;
        }
        // All zeroes would mean never.
        let value = first.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: value.subsec_nanos().into(),
        };
        let setting = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        match timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &setting) {
            Ok(_) => queue.armed = Some(first),
            Err(err) => tracing::error!(%err, "cannot set a timer"),
        }
    }

    /// The descriptor is readable: runs what is due.
    pub(super) fn run_due(&self, state: &mut S) {
        let mut count = [0; 8];
        match rustix::io::read(&self.fd, &mut count) {
            Ok(_) => self.queue.borrow_mut().armed = None,
            Err(rustix::io::Errno::AGAIN) => {}
            Err(err) => tracing::error!(%err, "cannot read a timer"),
        }
        let now = monotonic();
        loop {
            let action = self.queue.borrow_mut().pop_due(now);
            let Some(action) = action else { return };
            action(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn wait(timers: &Timers<Vec<u32>>, limit: Duration) -> bool {
        timers.arm();
        let limit = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        poll(&mut [PollFd::new(timers, PollFlags::IN)], Some(&limit)).unwrap() == 1
    }

    #[test]
    fn they_run_when_they_are_due_in_that_order_and_once() {
        let (timers, mut ran) = (Timers::new().unwrap(), Vec::new());
        let note = |number| move |ran: &mut Vec<u32>| ran.push(number);
        let start = monotonic();
        timers.after(Duration::from_millis(40), note(3));
        timers.after(Duration::from_millis(20), note(2));
        let cancelled = timers.after(Duration::from_millis(1), note(9));
        let again = timers.clone();
        timers.after(Duration::from_millis(10), move |ran: &mut Vec<u32>| {
            ran.push(1);
            // Due by the time that the next one is looked for, but not in this round.
            again.after(Duration::ZERO, |ran| ran.push(11));
        });
        timers.cancel(cancelled);
        timers.cancel(cancelled);
        while ran.last() != Some(&3) {
            assert!(wait(&timers, Duration::from_millis(900)), "{ran:?}");
            timers.run_due(&mut ran);
        }
        assert!(monotonic() - start >= Duration::from_millis(40));
        assert_eq!(ran, [1, 11, 2, 3]);
        assert!(!wait(&timers, Duration::from_millis(5)));
    }

    #[test]
    fn one_that_is_due_earlier_than_all_others_is_not_overslept() {
        let (timers, mut ran) = (Timers::new().unwrap(), Vec::new());
        timers.after(Duration::from_secs(3600), |ran: &mut Vec<u32>| ran.push(1));
        timers.arm();
        timers.after(Duration::from_millis(5), |ran| ran.push(2));
        assert!(wait(&timers, Duration::from_millis(900)));
        timers.run_due(&mut ran);
        assert_eq!(ran, [2]);
        assert!(!wait(&timers, Duration::from_millis(5)));
    }
}
