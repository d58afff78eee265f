//! How often a surface changes, in a few steps: who changes most gains most from a plane.
//!
//! It owns the measure. A step is left only when the pace is clearly another, so that plans stand.

use std::sync::Mutex;
use std::time::Duration;

use smithay::backend::renderer::utils::CommitCounter;
use smithay::wayland::compositor::with_states;

use super::layers::SurfaceLayer;
use crate::lock;

/// Changes a second from which on a surface is on the next step.
const STEPS: [f64; 3] = [1.0, 8.0, 40.0];
/// The share of a step's rate below which it is left.
const SLACK: f64 = 0.6;
/// Changes that must have been seen: a window that opens commits a few times in a row.
const ENOUGH: u32 = 8;
/// The share of the newest interval in the mean.
const NEWEST: f64 = 0.2;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Pace {
    last: Option<(CommitCounter, Duration)>,
    /// Mean time between changes; zero before there were any.
    interval: Duration,
    changes: u32,
    step: u8,
}

impl Pace {
    /// Notes what is shown now.
    fn tick(&mut self, commit: CommitCounter, now: Duration) -> u8 {
        let Some((last, at)) = self.last else {
            self.last = Some((commit, now));
            return self.step;
        };
        let since = now.saturating_sub(at);
        if commit != last {
            self.last = Some((commit, now));
            self.changes = self.changes.saturating_add(1);
            self.interval = if self.interval.is_zero() {
                since
            } else {
                self.interval.mul_f64(1.0 - NEWEST) + since.mul_f64(NEWEST)
            };
        }
        // One that has stopped is slower than its mean says.
        let interval = self.interval.max(since).as_secs_f64();
        let rate = if self.changes < ENOUGH || interval <= 0.0 { 0.0 } else { 1.0 / interval };
        while usize::from(self.step) < STEPS.len() && rate >= STEPS[usize::from(self.step)] {
            self.step += 1;
        }
        while self.step > 0 && rate < STEPS[usize::from(self.step) - 1] * SLACK {
            self.step -= 1;
        }
        self.step
    }
}

/// How often a layer's surface changes: 0 hardly ever, 1 now and then, 2 several times a second, 3 like a video.
pub fn rate(layer: &SurfaceLayer, now: Duration) -> u8 {
    with_states(&layer.surface, |states| {
        lock(states.data_map.get_or_insert_threadsafe(Mutex::<Pace>::default)).tick(layer.commit, now)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps after so many changes at a pace, in milliseconds each.
    fn run(pace: &mut Pace, commit: &mut CommitCounter, now: &mut u64, millis: u64, changes: u32) -> u8 {
        let mut step = pace.step;
        for _ in 0..changes {
            *now += millis;
            commit.increment();
            step = pace.tick(*commit, Duration::from_millis(*now));
        }
        step
    }

    #[test]
    fn a_pace_is_known_after_a_few_changes_and_kept() {
        let (mut pace, mut commit, mut now) = (Pace::default(), CommitCounter::default(), 1000);
        assert_eq!(run(&mut pace, &mut commit, &mut now, 16, ENOUGH), 0);
        assert_eq!(run(&mut pace, &mut commit, &mut now, 16, 1), 3);
        // A few frames late are nothing.
        for millis in [33, 16, 33, 16, 16, 33] {
            assert_eq!(run(&mut pace, &mut commit, &mut now, millis, 1), 3);
        }
        assert_eq!(run(&mut pace, &mut commit, &mut now, 100, 30), 2);
        assert_eq!(run(&mut pace, &mut commit, &mut now, 700, 30), 1);
    }

    #[test]
    fn who_stops_comes_to_rest() {
        let (mut pace, mut commit, mut now) = (Pace::default(), CommitCounter::default(), 0);
        run(&mut pace, &mut commit, &mut now, 16, 50);
        assert_eq!(pace.tick(commit, Duration::from_millis(now + 5000)), 0);
    }
}
