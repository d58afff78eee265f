//! [`Clock`]: the time of a turn.
//!
//! Reading the clock is a system call where there is no vDSO. Most of what asks for the time asks in the course of handling
//! one event, and for those a reading that was made when it began is good enough.

use std::cell::Cell;
use std::time::Duration;

use crate::state::monotonic;

/// CLOCK_MONOTONIC, as of the last reading.
#[derive(Debug)]
pub struct Clock(Cell<Duration>);

impl Default for Clock {
    fn default() -> Self {
        Self(Cell::new(monotonic()))
    }
}

impl Clock {
    /// Reads the clock.
    pub fn read(&self) -> Duration {
        let now = monotonic();
        self.0.set(now);
        now
    }

    /// What was read last: at the beginning of the turn, of a slice of a client's requests, or at the end of either.
    pub fn last(&self) -> Duration {
        self.0.get()
    }
}
