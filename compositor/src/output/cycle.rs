//! An output's cycle: when it draws, whom it calls to draw, and what clients hear of the frame that is on screen.
//!
//! ```text
//!            commit, input, …             when the clock says so, or when all have committed that were called
//!   Idle ───────────────────────> Queued ─────────────────────> Estimated ──(vertical blank)──> Idle or Queued
//!    ^                              │ submitted                     nothing changed
//!    └──── vertical blank ──── Waiting { again: false }
//!          Queued <─────────── Waiting { again: true }
//! ```
//!
//! Frame callbacks go out as late as the client's measured time to draw allows ([`super::clock`]). What there is to say of the
//! frame on screen (presentation feedback, `wl_buffer.release`) goes with them to the clients that are called soon: they are
//! woken once a frame. The others hear of it at once. Where there are no others, the compositor sleeps on until the first call
//! when a frame comes on screen, and is woken once less.
//!
//! It owns the state machine, the calls, and the news that is held back. It does not own the frames ([`super`]).

use std::time::Duration;

use smithay::backend::renderer::utils::Buffer;
use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;

use super::clock::FrameClock;
use super::{Frame, OutputState, present, rhythm, stats};
use crate::clients::{Key, key_of};

/// Clients whose calls are less than this apart are called together: one wake-up serves them all, and their answers come together.
const TOGETHER: Duration = Duration::from_millis(2);
/// So long after the vertical blank the display device has certainly told of it, unless it was missed.
const TELLS: Duration = Duration::from_micros(500);

/// Where an output is in its cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redraw {
    /// Nothing to do.
    Idle,
    /// A redraw runs when the clock says so.
    Queued,
    /// A frame is pending; `again` if another one is wanted after it.
    Waiting {
        /// Something changed since.
        again: bool,
    },
    /// Nothing was submitted; a vertical blank that nobody tells of is waited for.
    Estimated {
        /// Something changed since.
        again: bool,
    },
}

/// What a frame on screen brings to tell.
#[derive(Debug)]
struct News {
    /// The frame before: its surfaces are those of the frame on screen, its buffers are off the screen, and
    /// dropped, and so released, with the news.
    frame: Frame,
    time: Duration,
    sequence: Option<u32>,
}

/// What an output keeps for its cycle.
#[derive(Debug)]
pub(super) struct Cycle {
    pub(super) clock: FrameClock,
    /// When the queued redraw is due, once that was asked.
    due: Option<Duration>,
    /// When [`Redraw::Estimated`] is over.
    until: Duration,
    /// Clients that are going to be called to draw, and when.
    calls: Vec<(Duration, WlSurface)>,
    /// Clients that were called, and have not committed yet.
    awaited: Vec<WlSurface>,
    /// One that was called has committed.
    answered: bool,
    news: Option<News>,
    /// Some of the news may be held back for a call that does not come any more.
    owes_news: bool,
    /// When the pending frame should be on screen, if nobody hears of it before the calls that follow.
    unheard: Option<Duration>,
}

/// When a call goes out that is due at `at`, if the first of all is due at `first`. No later than due.
fn together(first: Duration, at: Duration) -> Duration {
    let steps = at.saturating_sub(first).as_nanos() / TOGETHER.as_nanos();
    first + TOGETHER * u32::try_from(steps).unwrap_or_default()
}

impl Cycle {
    pub(super) fn new(refresh: Duration) -> Self {
        Self {
            clock: FrameClock::new(refresh),
            due: None,
            until: Duration::ZERO,
            calls: Vec::new(),
            awaited: Vec::new(),
            answered: false,
            news: None,
            owes_news: false,
            unheard: None,
        }
    }

    /// All who were called have drawn: there is nothing to wait for.
    fn is_complete(&self) -> bool {
        self.answered && self.awaited.is_empty() && self.calls.is_empty()
    }

    fn calls(&self, surface: &WlSurface) -> bool {
        self.calls.iter().any(|(_, called)| called == surface)
    }
}

impl OutputState {
    /// Notes that something changed.
    pub fn want_redraw(&mut self) {
        match &mut self.redraw {
            Redraw::Idle => self.redraw = Redraw::Queued,
            Redraw::Queued => {}
            Redraw::Waiting { again } | Redraw::Estimated { again } => *again = true,
        }
    }

    /// Whether a redraw is to be done now.
    pub fn is_due(&mut self, now: Duration) -> bool {
        self.redraw == Redraw::Queued && self.redraw_at(now) <= now
    }

    /// When the queued redraw is due. Once said, it stays so.
    fn redraw_at(&mut self, now: Duration) -> Duration {
        let cycle = &mut self.cycle;
        let due = *cycle.due.get_or_insert_with(|| cycle.clock.redraw_at(now));
        if cycle.is_complete() { now.min(due) } else { due }
    }

    /// When a client is going to be called, if it is.
    pub(crate) fn calls_client(&self, client: Key) -> Option<Duration> {
        self.cycle.calls.iter().find(|(_, surface)| key_of(surface) == Some(client)).map(|(at, _)| *at)
    }

    /// When there is something to do that nobody else tells of.
    pub fn next_due(&mut self, now: Duration) -> Option<Duration> {
        let cycle = match self.redraw {
            Redraw::Queued => Some(self.redraw_at(now)),
            Redraw::Estimated { .. } => Some(self.cycle.until),
            Redraw::Idle | Redraw::Waiting { .. } => None,
        };
        let news = self.cycle.owes_news.then_some(now);
        self.cycle.calls.iter().map(|(at, _)| *at).chain(cycle).chain(news).min()
    }

    /// A redraw begins: who has not committed by now is in a later frame.
    pub(crate) fn begin_redraw(&mut self) {
        self.redraw = Redraw::Idle;
        let cycle = &mut self.cycle;
        (cycle.due, cycle.answered) = (None, false);
        cycle.awaited.clear();
    }

    /// The frame that was begun at `began` was submitted by `now`, and is shown when the display is ready if `free`: when do
    /// the surfaces in it hear that they may draw the next one?
    pub(crate) fn call_after_frame(
        &mut self,
        surfaces: impl Iterator<Item = WlSurface>,
        (began, now): (Duration, Duration),
        free: bool,
    ) {
        let Self { cycle: Cycle { clock, calls, owes_news, .. }, .. } = self;
        clock.set_free(free);
        clock.submitted(began, now);
        *owes_news |= !calls.is_empty();
        calls.clear();
        for surface in surfaces.filter(rhythm::waits) {
            calls.push((clock.draw_at(now, rhythm::takes(&surface)), surface));
        }
        if let Some(first) = calls.iter().map(|(at, _)| *at).min() {
            calls.iter_mut().for_each(|(at, _)| *at = together(first, *at));
        }
        self.cycle.unheard = self.unheard_until_calls(now);
    }

    /// When the frame that was submitted by `now` should be on screen, if whoever hears of that is called, and later.
    fn unheard_until_calls(&self, now: Duration) -> Option<Duration> {
        let cycle = &self.cycle;
        let blank = cycle.clock.blank_after(now)?;
        let first = cycle.calls.iter().map(|(at, _)| *at).min()?;
        let Frame { shown, buffers, .. } = self.pending.as_ref()?;
        let is_called = |surface: &WlSurface| cycle.calls(surface);
        let stays = |buffer: &Buffer| buffers.iter().any(|(_, next)| *next == **buffer);
        let quiet = first >= blank + TELLS
            && cycle.news.is_none()
            && self.current._releases.is_empty()
            && shown.iter().all(|shown| shown.feedback.is_empty() || is_called(&shown.surface))
            && self.current.buffers.iter().all(|(surface, buffer)| is_called(surface) || stays(buffer));
        quiet.then_some(blank)
    }

    /// Whether there is nothing to do when the pending frame is shown, if there is one, before its clients are called.
    pub fn flip_can_wait(&self, now: Duration) -> bool {
        match self.redraw {
            Redraw::Waiting { again } => !again && self.cycle.unheard.is_some_and(|blank| now < blank),
            Redraw::Idle | Redraw::Queued | Redraw::Estimated { .. } => true,
        }
    }

    /// Whether there is a pending frame that should be on screen by `now`.
    pub(crate) fn should_be_shown(&self, now: Duration) -> bool {
        matches!(self.redraw, Redraw::Waiting { .. }) && self.cycle.unheard.is_some_and(|blank| blank <= now)
    }

    /// Nothing was submitted: these surfaces hear at the next vertical blank that they may draw, and nothing is drawn before.
    pub(crate) fn wait_for_blank(&mut self, surfaces: impl Iterator<Item = WlSurface>, now: Duration) {
        let cycle = &mut self.cycle;
        cycle.until = cycle.clock.shown_at(now);
        cycle.owes_news |= !cycle.calls.is_empty();
        cycle.calls.clear();
        cycle.calls.extend(surfaces.filter(rhythm::waits).map(|surface| (cycle.until, surface)));
        self.redraw = Redraw::Estimated { again: false };
    }

    /// Does what is due. `told` is asked to send what the surfaces' clients are told.
    pub(crate) fn run_cycle(&mut self, now: Duration, mut told: impl FnMut(&WlSurface)) {
        if let Redraw::Estimated { again } = self.redraw
            && self.cycle.until <= now
        {
            self.redraw = if again { Redraw::Queued } else { Redraw::Idle };
        }
        if std::mem::take(&mut self.cycle.owes_news) {
            self.deliver(&mut told, |cycle, surface| !cycle.calls(surface));
        }
        if self.cycle.calls.iter().all(|(at, _)| *at > now) {
            return;
        }
        let due = |(at, called): &(Duration, WlSurface), surface: &WlSurface| *at <= now && called == surface;
        self.deliver(&mut told, |cycle, surface| cycle.calls.iter().any(|call| due(call, surface)));
        let Cycle { calls, awaited, .. } = &mut self.cycle;
        calls.retain(|(at, surface)| {
            let wait = *at > now;
            if !wait && surface.is_alive() && rhythm::call(surface, now) {
                told(surface);
                awaited.push(surface.clone());
            }
            wait
        });
    }

    /// A surface has committed that was called.
    pub(crate) fn answered(&mut self, surface: &WlSurface) {
        let cycle = &mut self.cycle;
        if let Some(index) = cycle.awaited.iter().position(|awaited| awaited == surface) {
            cycle.awaited.swap_remove(index);
            cycle.answered = true;
        }
    }

    /// A surface is gone: it is neither called nor awaited.
    pub(crate) fn surface_gone(&mut self, surface: &WlSurface) {
        (self.cycle.owes_news, self.cycle.unheard) = (true, None);
        self.cycle.calls.retain(|(_, called)| called != surface);
        self.cycle.awaited.retain(|awaited| awaited != surface);
    }

    /// The pending frame is on screen since the vertical blank at `time`. `told` is asked to send what is said of it.
    pub fn frame_shown(&mut self, time: Duration, sequence: Option<u32>, mut told: impl FnMut(&WlSurface)) {
        let Some(frame) = self.pending.take() else { return };
        self.deliver(&mut told, |_, _| true);
        frame.shown.iter().filter(|shown| shown.surface.is_alive()).for_each(stats::record_shown);
        let made = frame.shown.iter().filter_map(|shown| shown.fresh?.made).min();
        self.trace.shown(&frame.spec, made, time, self.refresh);
        let mut before = std::mem::replace(&mut self.current, frame);
        before.spec.clear();
        before._releases.clear();
        std::mem::swap(&mut before.shown, &mut self.current.shown);
        self.frames += 1;
        self.cycle.clock.shown(time);
        self.cycle.unheard = None;
        self.cycle.news = Some(News { frame: before, time, sequence });
        self.deliver(&mut told, |cycle, surface| !cycle.calls(surface));
        let again = matches!(self.redraw, Redraw::Waiting { again: true });
        self.redraw = if again { Redraw::Queued } else { Redraw::Idle };
    }

    /// Calls nobody any more, and tells what there is to tell.
    pub(super) fn end_cycle(&mut self, mut told: impl FnMut(&WlSurface)) {
        self.deliver(&mut told, |_, _| true);
        self.cycle.calls.clear();
        self.cycle.awaited.clear();
    }

    /// Tells what there is to tell of the frame on screen, to the clients of the surfaces for which it is time.
    fn deliver(&mut self, told: &mut impl FnMut(&WlSurface), is_time: impl Fn(&Cycle, &WlSurface) -> bool) {
        let Some(News { mut frame, time, sequence }) = self.cycle.news.take() else { return };
        let mut index = 0;
        while let Some(shown) = frame.shown.get(index) {
            if !is_time(&self.cycle, &shown.surface) {
                index += 1;
                continue;
            }
            let shown = frame.shown.swap_remove(index);
            if !shown.feedback.is_empty() {
                told(&shown.surface);
            }
            present::presented(&self.output, shown, time, self.refresh, sequence);
        }
        let mut index = 0;
        while let Some((surface, buffer)) = frame.buffers.get(index) {
            if !is_time(&self.cycle, surface) {
                index += 1;
                continue;
            }
            if !self.current.buffers.iter().any(|(_, shown)| *shown == **buffer) {
                told(surface);
            }
            frame.buffers.swap_remove(index);
        }
        if frame.shown.is_empty() && frame.buffers.is_empty() {
            self.spare.push(frame.emptied());
        } else {
            self.cycle.news = Some(News { frame, time, sequence });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_are_close_go_together_and_none_goes_late() {
        const fn us(us: u64) -> Duration {
            Duration::from_micros(us)
        }
        let first = us(50_000);
        for (at, called) in [(50_000, 50_000), (51_999, 50_000), (52_000, 52_000), (55_500, 54_000)] {
            assert_eq!(together(first, us(at)), us(called), "{at}");
        }
    }
}
