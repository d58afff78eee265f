//! Flips that do not complete: they are noticed and the output goes on.
//!
//! ```text
//!  submit ── nobody looks? ── timer ──(1 s)──> a commit outstanding that was outstanding the last time, too?
//!                                                │ no, or a client is still writing to one of its buffers: look again
//!                                                │ while any is outstanding
//!                                                │ yes
//!                     its frame once more, in a commit that blocks and sets the mode: the kernel carries out, or gives
//!                     up, what is before it, and then this is on the screen
//!                                                │ refused: everything off, and the next frame sets the mode
//! ```
//!
//! A frame costs no clock and no timer for it: one timer a second looks at counters while something moves. Clients'
//! buffers stay held until the kernel has carried out a commit that shows something else: [`crate::output`] releases them
//! when it is told of the flip, which it is afterwards.

use std::time::Duration;

use super::Kms;
use super::device::turn_everything_off;
use super::display::DisplayDevice;
use crate::backend::{Flip, OutputId};
use crate::reactor::Timers;
use crate::state::{State, monotonic};

/// From one look to the next: a flip is late after one of them, and after two of them at the latest.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause between two attempts to recover an output.
const LONGEST: u32 = 32;

/// What is known of an output's flips at the last look.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Commits then, if one was outstanding.
    waiting: Option<u64>,
    /// Looks until it is tried again.
    pause: u32,
    /// Looks that the next pause lasts.
    next_pause: u32,
    /// Flips that did not complete.
    pub lost: u64,
    /// Events up to then are those of commits that were given up.
    pub ignore_until: Duration,
}

/// Looks at flips.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    timers: Option<Timers>,
    running: bool,
}

impl Watchdog {
    pub fn new(timers: Timers) -> Self {
        Self { timers: Some(timers), running: false }
    }

    /// A commit was made.
    pub fn wake(&mut self) {
        if !self.running
            && let Some(timers) = &self.timers
        {
            self.running = true;
            timers.after(LOOK, State::look_at_flips);
        }
    }
}

/// What became of an output whose flip did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovered {
    /// Its frame is on the screen.
    Shown,
    /// It is off; the next frame lights it.
    Off,
    /// Nothing helped yet.
    Not,
}

impl State {
    fn look_at_flips(&mut self) {
        // Where everything stood still for a while, as in a suspended machine, the event is there and was not read.
        self.cards_readable();
        let Some(kms) = self.backend.kms() else { return };
        let fenced = |id| self.outputs.iter().any(|entry| entry.state.id == id && entry.state.awaits_fence());
        let (flips, off) = kms.look_at_flips(fenced);
        if flips.is_empty() && off.is_empty() {
            return;
        }
        for flip in flips {
            self.frame_shown(flip);
        }
        for id in off {
            if let Some(entry) = self.outputs.iter_mut().find(|o| o.state.id == id) {
                entry.state.reset();
            }
        }
        self.queue_redraw_all();
    }
}

impl Kms {
    /// Flips that did not complete on an output.
    pub fn lost_flips(&self, output: OutputId) -> u64 {
        self.output(output).map_or(0, |o| o.watched.lost)
    }

    /// Looks for late flips, but for those that wait for a fence. Returns those that were made up for, and the outputs that
    /// are off now.
    fn look_at_flips(&mut self, fenced: impl Fn(OutputId) -> bool) -> (Vec<Flip>, Vec<OutputId>) {
        let (mut flips, mut off) = (Vec::new(), Vec::new());
        self.watchdog.running = false;
        // Whoever is master now decides; with the session's return everything is set anew.
        if !self.active {
            self.devices.iter_mut().flat_map(|d| &mut d.outputs).for_each(|o| o.watched.waiting = None);
            return (flips, off);
        }
        for device in &mut self.devices {
            device.look_at_flips(&fenced, &mut flips, &mut off);
        }
        if self.devices.iter().flat_map(|d| &d.outputs).any(|o| o.shown.outstanding() > 0) {
            self.watchdog.wake();
        }
        (flips, off)
    }
}

impl DisplayDevice {
    fn look_at_flips(
        &mut self,
        fenced: &impl Fn(OutputId) -> bool,
        flips: &mut Vec<Flip>,
        off: &mut Vec<OutputId>,
    ) {
        for index in 0..self.outputs.len() {
            let id = self.id_of(self.outputs[index].pipe.crtc);
            if self.outputs[index].shown.outstanding() > 0 && fenced(id) {
                // The kernel waits for whoever writes to a buffer, and so would the commit that makes up for the flip.
                self.outputs[index].watched.waiting = None;
                continue;
            }
            if !self.outputs[index].is_late() {
                continue;
            }
            match self.recover(index) {
                Recovered::Shown => flips.push(Flip { output: id, time: monotonic(), sequence: 0 }),
                Recovered::Off => off.extend(self.ids()),
                Recovered::Not => {}
            }
        }
    }

    fn recover(&mut self, index: usize) -> Recovered {
        let (device, fence) = (&*self.device, self.fence.value());
        match self.outputs[index].show_again(device, fence) {
            Ok(()) => {
                tracing::warn!(
                    output = self.outputs[index].name,
                    "output recovered: its frame was committed again"
                );
                return Recovered::Shown;
            }
            Err(errno) => tracing::warn!(%errno, "frame not committed again"),
        }
        match turn_everything_off(device) {
            Ok(()) => {
                tracing::warn!("outputs turned off to be set anew");
                for output in &mut self.outputs {
                    output.turned_off();
                    output.give_up();
                }
                Recovered::Off
            }
            Err(errno) => {
                tracing::warn!(%errno, "outputs not turned off");
                Recovered::Not
            }
        }
    }
}

impl super::KmsOutput {
    /// Tells whether a commit is outstanding that was so at the last look, and it is time to do something.
    fn is_late(&mut self) -> bool {
        let waiting = (self.shown.outstanding() > 0).then_some(self.commits);
        let late = waiting.is_some() && waiting == self.watched.waiting;
        self.watched.waiting = waiting;
        if !late {
            (self.watched.pause, self.watched.next_pause) = (0, 1);
            return false;
        }
        if self.watched.pause > 0 {
            self.watched.pause -= 1;
            return false;
        }
        if self.watched.next_pause <= 1 {
            self.watched.lost += 1;
            tracing::error!(output = self.name, "a flip did not complete");
        }
        self.watched.pause = self.watched.next_pause;
        self.watched.next_pause = (self.watched.next_pause * 2).min(LONGEST);
        true
    }

    /// Notes that no event of the commits so far counts.
    pub(super) fn give_up(&mut self) {
        self.shown.settle();
        self.watched.ignore_until = monotonic();
        self.watched.waiting = None;
    }
}
