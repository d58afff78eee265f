//! The frame clock: as late as what was measured allows, when is an output redrawn, and when do clients hear that they may
//! draw for it?
//!
//! ```text
//!  blank ────────────────────────────────────────────────────────────────────── blank
//!    │ flip               │ frame callback    │ commits        │ redraw   │ slack │ flip
//!    │                    │<── the client's ─>│                │<─ cost ─>│       │
//!    │                    │   measured time                    │<───── lead ─────>│
//! ```
//!
//! It owns the estimates and the phase of the display; it knows neither surfaces nor frames. All times are CLOCK_MONOTONIC.

use std::time::Duration;

/// A prediction from an older vertical blank than this is not trusted: displays stop counting when nothing is shown.
const STALE: Duration = Duration::from_secs(1);
/// What a redraw is begun earlier than it has to be, at first.
const SLACK: Duration = Duration::from_millis(3);
/// The same, at least.
const LEAST_SLACK: Duration = Duration::from_millis(1);
/// What a missed vertical blank adds to it.
const MISSED: Duration = Duration::from_millis(1);
/// What one that was not missed takes from it: far less, so that one in a thousand is missed where it cannot be known better.
const MET: Duration = Duration::from_micros(1);

/// How long something takes, most of the time: it is exceeded about once in a hundred times, and then mostly by little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    value: Duration,
    seen: u32,
}

impl Bound {
    /// Times that must have been seen.
    const ENOUGH: u32 = 8;
    /// What a longer time adds at most: one that is far out is not what to count on.
    const UP: Duration = Duration::from_millis(2);
    /// What is counted on besides the longer time.
    const ROOM: Duration = Duration::from_micros(500);
    /// What a shorter time takes away, besides a part of the distance.
    const DOWN: Duration = Duration::from_micros(2);
    /// That part, in the end; at first it is larger, since what happens at the start is seldom typical.
    const PART: u32 = 128;
    const FIRST_PART: u32 = 8;

    /// Notes how long it took once.
    pub fn note(&mut self, took: Duration) {
        if self.seen == 0 {
            self.value = took + Self::ROOM;
        } else if took > self.value {
            self.value = (took + Self::ROOM).min(self.value + Self::UP);
        } else {
            let part = (Self::FIRST_PART + self.seen / 4).min(Self::PART);
            let down = (self.value - took) / part + Self::DOWN;
            self.value = self.value.saturating_sub(down);
        }
        self.seen = self.seen.saturating_add(1);
    }

    /// How long it takes, once that is known.
    pub fn get(&self) -> Option<Duration> {
        (self.seen >= Self::ENOUGH).then_some(self.value)
    }
}

/// An output's frame clock.
#[derive(Clone, Debug)]
pub struct FrameClock {
    refresh: Duration,
    /// The last vertical blank that was seen.
    last: Option<Duration>,
    /// Vertical blanks do not come at fixed times.
    free: bool,
    /// From the start of a redraw to the end of its submission.
    cost: Bound,
    slack: Duration,
    /// The vertical blank that the pending frame was begun early enough for.
    target: Option<Duration>,
}

impl FrameClock {
    /// Of a display with so long from one vertical blank to the next; more than nothing.
    pub fn new(refresh: Duration) -> Self {
        let refresh = refresh.max(Duration::from_micros(1));
        Self {
            refresh,
            last: None,
            free: false,
            cost: Bound::default(),
            slack: SLACK.min(refresh / 2),
            target: None,
        }
    }

    /// Forgets the phase: somebody else had the display.
    pub fn forget_phase(&mut self) {
        (self.last, self.target) = (None, None);
    }

    /// From now on vertical blanks come when there is a frame, or at fixed times.
    pub fn set_free(&mut self, free: bool) {
        self.free = free;
    }

    /// The first vertical blank after `now`, if the last one is not too long ago.
    pub fn blank_after(&self, now: Duration) -> Option<Duration> {
        let last = self.last.filter(|_| !self.free)?;
        let Some(since) = now.checked_sub(last) else { return Some(last) };
        let periods = u32::try_from(since.as_nanos() / self.refresh.as_nanos()).ok()?;
        (since <= STALE).then(|| last + self.refresh * (periods + 1))
    }

    /// How long before a vertical blank a redraw begins.
    pub fn lead(&self) -> Duration {
        (self.cost.get().unwrap_or(self.refresh / 4) + self.slack).min(self.refresh)
    }

    /// When to redraw what has changed by `now`. What is too late for the next vertical blank may still be in time: at once.
    pub fn redraw_at(&self, now: Duration) -> Duration {
        self.blank_after(now).map_or(now, |blank| blank.saturating_sub(self.lead()))
    }

    /// When a client draws for the frame after the one that was submitted at `now`, if it takes so long.
    pub fn draw_at(&self, now: Duration, takes: Option<Duration>) -> Duration {
        let (Some(blank), Some(takes)) = (self.blank_after(now), takes) else { return now };
        let at = (blank + self.refresh).saturating_sub(self.lead() + takes);
        at.max(now)
    }

    /// When something that was not submitted would have been shown.
    pub fn shown_at(&self, now: Duration) -> Duration {
        self.blank_after(now).unwrap_or(now + self.refresh)
    }

    /// A frame that was begun at `began` was submitted by `now`.
    pub fn submitted(&mut self, began: Duration, now: Duration) {
        let lead = self.lead();
        tracing::trace!(?began, ?now, blank = ?self.blank_after(began), ?lead, "submitted");
        self.target = self.blank_after(began).filter(|blank| began + lead <= *blank + LEAST_SLACK / 2);
        self.cost.note(now.saturating_sub(began));
    }

    /// The frame was shown at the vertical blank at `time`.
    pub fn shown(&mut self, time: Duration) {
        tracing::trace!(?time, target = ?self.target, slack = ?self.slack, cost = ?self.cost, "shown");
        if let Some(target) = self.target.take() {
            let missed = time > target + self.refresh / 2;
            let slack = if missed { self.slack + MISSED } else { self.slack.saturating_sub(MET) };
            let most = self.refresh * 3 / 4;
            self.slack = slack.clamp(LEAST_SLACK.min(most), most);
        }
        self.last = Some(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_micros(16_667);
    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A clock that has shown so many frames, whose redraws took `cost` and needed `need` before the vertical blank. Returns
    /// the share of them that were late.
    fn run(clock: &mut FrameClock, frames: u32, cost: Duration, need: Duration) -> f64 {
        let start = clock.last.unwrap_or(ms(1000));
        clock.shown(start);
        let (mut at, mut late) = (start, 0);
        for _ in 0..frames {
            let began = clock.redraw_at(at + Duration::from_nanos(1)).max(at);
            clock.submitted(began, began + cost);
            let blank = at + REFRESH;
            let missed = began + cost + need > blank;
            late += u32::from(missed);
            at = if missed { blank + REFRESH } else { blank };
            clock.shown(at);
        }
        f64::from(late) / f64::from(frames)
    }

    #[test]
    fn nothing_is_put_off_without_a_phase() {
        let mut clock = FrameClock::new(REFRESH);
        assert_eq!(clock.redraw_at(ms(5)), ms(5));
        assert_eq!(clock.draw_at(ms(5), Some(ms(1))), ms(5));
        clock.shown(ms(1000));
        assert!(clock.redraw_at(ms(1001)) > ms(1001));
        assert_eq!(clock.redraw_at(ms(2100)), ms(2100), "the phase is too old");
        clock.shown(ms(3000));
        clock.set_free(true);
        assert_eq!(clock.redraw_at(ms(3001)), ms(3001), "the display waits for the frame");
        clock.set_free(false);
        assert!(clock.redraw_at(ms(3001)) > ms(3001));
        clock.forget_phase();
        assert_eq!(clock.redraw_at(ms(3001)), ms(3001));
    }

    #[test]
    fn vertical_blanks_are_predicted() {
        let mut clock = FrameClock::new(ms(10));
        clock.shown(ms(100));
        for (now, next) in [(100, 110), (109, 110), (110, 120), (555, 560), (99, 100)] {
            assert_eq!(clock.blank_after(ms(now)), Some(ms(next)), "{now}");
        }
        assert_eq!(clock.shown_at(ms(123)), ms(130));
    }

    #[test]
    fn redraws_come_later_where_that_is_well_and_earlier_where_not() {
        let mut clock = FrameClock::new(REFRESH);
        let first = clock.lead();
        assert!(run(&mut clock, 3000, Duration::from_micros(300), Duration::from_micros(100)) < 0.001);
        assert!(clock.lead() < first.min(ms(2)), "{:?}", clock.lead());
        // A display that wants to know five milliseconds before.
        run(&mut clock, 20, Duration::from_micros(300), ms(5));
        let late = run(&mut clock, 5000, Duration::from_micros(300), ms(5));
        assert!(late <= 0.002, "{late}");
        assert!(clock.lead() > ms(5) && clock.lead() < Duration::from_micros(6500), "{:?}", clock.lead());
    }

    #[test]
    fn a_display_that_is_always_late_is_asked_at_once() {
        let mut clock = FrameClock::new(REFRESH);
        run(&mut clock, 100, ms(15), ms(10));
        assert!(clock.lead() <= REFRESH);
        let now = clock.last.unwrap() + Duration::from_nanos(1);
        assert!(clock.redraw_at(now) <= now + ms(1));
    }

    #[test]
    fn clients_draw_as_late_as_they_can() {
        let mut clock = FrameClock::new(REFRESH);
        run(&mut clock, 3000, Duration::from_micros(300), Duration::from_micros(100));
        let last = clock.last.unwrap();
        let submitted = last + REFRESH - ms(1);
        let blank = last + REFRESH * 2;
        assert_eq!(clock.draw_at(submitted, Some(ms(1))), blank - clock.lead() - ms(1));
        // One that takes longer than there is draws at once, and so does one of which nothing is known.
        assert_eq!(clock.draw_at(submitted, Some(ms(20))), submitted);
        assert_eq!(clock.draw_at(submitted, None), submitted);
    }

    #[test]
    fn a_bound_holds_most_of_the_time_and_follows() {
        let mut bound = Bound::default();
        let (mut exceeded, mut random) = (0, 1u32);
        for n in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let took = Duration::from_micros(1000 + u64::from(random >> 22));
            exceeded += u32::from(n > 1000 && bound.get().is_some_and(|bound| took > bound));
            bound.note(took);
        }
        assert!((20..=250).contains(&exceeded), "{exceeded}");
        let before = bound.get().unwrap();
        bound.note(ms(15));
        assert_eq!(bound.get(), Some(before + Bound::UP));
        for _ in 0..10 {
            bound.note(ms(12));
        }
        assert!(bound.get() > Some(ms(11)));
        for _ in 0..3000 {
            bound.note(ms(1));
        }
        let mut started = Bound::default();
        started.note(ms(40));
        (0..120).for_each(|_| started.note(ms(1)));
        assert!(started.get() < Some(ms(3)), "{started:?}");
        assert!(bound.get() < Some(ms(2)), "{bound:?}");
    }
}
