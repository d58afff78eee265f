//! Flips that do not complete: they are noticed and the output goes on.
//!
//! ```text
//!  submit ── nobody looks? ── timer ──(1 s)──> a commit outstanding that was outstanding the last time, too?
//!                                                │ no, or a client is still writing to one of its buffers: look again
//!                                                │ while any is outstanding
//!                                                │ yes
//!                     its frame once more, in a commit that sets the mode; if the kernel is not ready for that (EBUSY),
//!                     in one that blocks, on a thread: the kernel carries out, or gives up, what is before it, and then
//!                     this is on the screen
//!                                                │ refused: everything off, and the next frame sets the mode
//! ```
//!
//! A frame costs no clock and no timer for it: one timer a second looks at counters while something moves. Clients'
//! buffers stay held until the kernel has carried out a commit that shows something else: [`crate::output`] releases them
//! when it is told of the flip, which it is afterwards.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use drm::control::AtomicCommitFlags;

use super::Kms;
use super::device::{KmsDevice, Request, turn_everything_off};
use super::display::DisplayDevice;
use crate::backend::{Flip, OutputId};
use crate::reactor::Timers;
use crate::state::{State, monotonic};

/// From one look to the next: a flip is late after one of them, and after two of them at the latest.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked at whether a thread has recovered an output.
const SOON: Duration = Duration::from_millis(50);
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
    /// The events of the commits up to this one do not count: they were given up.
    pub given_up: u64,
    /// When the last commit was made that set the mode.
    pub lit: Duration,
    /// A thread makes up for the flip.
    recovery: Option<Receiver<Recovered>>,
}

impl Watched {
    /// A thread makes up for a flip: until it has, nothing else is committed.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovery.is_some()
    }
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
pub(super) enum Recovered {
    /// Its frame is on the screen.
    Shown,
    /// It is off; the next frame lights it.
    Off,
    /// Nothing helped yet.
    Not,
    /// A thread waits for the kernel.
    Waiting,
}

impl State {
    fn look_at_flips(&mut self) {
        // Where everything stood still for a while, as in a suspended machine, the event is there and was not read.
        self.cards_readable();
        let Some(kms) = self.backend.kms() else { return };
        let fenced = |id| self.outputs.iter().any(|entry| entry.state.id == id && entry.state.awaits_fence());
        let (flips, off) = kms.look_at_flips(fenced);
        let recovering = kms.is_recovering();
        self.made_up_for(flips, off);
        if recovering {
            self.runtime.timers.after(SOON, Self::look_at_recoveries);
        }
    }

    fn look_at_recoveries(&mut self) {
        let Some(kms) = self.backend.kms() else { return };
        let (flips, off) = kms.finish_recoveries();
        let recovering = kms.is_recovering();
        self.made_up_for(flips, off);
        if recovering {
            self.runtime.timers.after(SOON, Self::look_at_recoveries);
        }
    }

    fn made_up_for(&mut self, flips: Vec<Flip>, off: Vec<OutputId>) {
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

    fn is_recovering(&self) -> bool {
        self.devices.iter().flat_map(|d| &d.outputs).any(|o| o.watched.is_recovering())
    }

    fn finish_recoveries(&mut self) -> (Vec<Flip>, Vec<OutputId>) {
        let (mut flips, mut off) = (Vec::new(), Vec::new());
        self.devices.iter_mut().for_each(|device| device.finish_recoveries(&mut flips, &mut off));
        (flips, off)
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
            if self.outputs[index].watched.is_recovering() || !self.outputs[index].is_late() {
                continue;
            }
            match self.recover(index) {
                Recovered::Shown => flips.push(Flip { output: id, time: monotonic(), sequence: None }),
                Recovered::Off => off.extend(self.ids()),
                Recovered::Not | Recovered::Waiting => {}
            }
        }
    }

    /// The kernel may wait ten seconds for a commit that does not end before it gives it up (drm_atomic_helper.c): that is
    /// waited for on a thread, unless another one is taken at once.
    fn recover(&mut self, index: usize) -> Recovered {
        let (device, fence) = (&*self.device, self.fence.value());
        let output = &mut self.outputs[index];
        match output.show_again_at_once(device, fence) {
            Ok(()) => {
                tracing::warn!(output = output.name, "output recovered: its frame was committed again");
                return Recovered::Shown;
            }
            Err(errno) => tracing::debug!(%errno, output = output.name, "frame not taken at once"),
        }
        let request = output.request_again(fence);
        let recovery = device.elsewhere().and_then(|elsewhere| begin(elsewhere, request.clone()));
        if recovery.is_some() {
            output.watched.recovery = recovery;
            return Recovered::Waiting;
        }
        match commit_or_turn_off(device, request) {
            Recovered::Shown => {
                output.shown_again(fence);
                Recovered::Shown
            }
            Recovered::Off => {
                self.all_off();
                Recovered::Off
            }
            recovered => recovered,
        }
    }

    /// Everything was turned off.
    fn all_off(&mut self) {
        for output in &mut self.outputs {
            output.turned_off();
            output.give_up();
        }
    }

    /// Takes in what has come of the recoveries that were begun.
    fn finish_recoveries(&mut self, flips: &mut Vec<Flip>, off: &mut Vec<OutputId>) {
        for index in 0..self.outputs.len() {
            let fence = self.fence.value();
            let id = self.id_of(self.outputs[index].pipe.crtc);
            let watched = &mut self.outputs[index].watched;
            let Some(recovery) = &watched.recovery else { continue };
            let recovered = match recovery.try_recv() {
                Ok(recovered) => recovered,
                Err(TryRecvError::Empty) => continue,
                Err(TryRecvError::Disconnected) => Recovered::Not,
            };
            watched.recovery = None;
            match recovered {
                Recovered::Shown => {
                    self.outputs[index].shown_again(fence);
                    flips.push(Flip { output: id, time: monotonic(), sequence: None });
                }
                Recovered::Off => {
                    self.all_off();
                    off.extend(self.ids());
                }
                Recovered::Waiting | Recovered::Not => {}
            }
        }
    }
}

/// Commits a request that sets a mode, waiting; when it is refused, everything is turned off.
fn commit_or_turn_off(device: &dyn KmsDevice, mut request: Request) -> Recovered {
    match device.commit(AtomicCommitFlags::ALLOW_MODESET, &mut request) {
        Ok(()) => {
            tracing::warn!("output recovered: its frame was committed again");
            return Recovered::Shown;
        }
        Err(errno) => tracing::warn!(%errno, "frame not committed again"),
    }
    match turn_everything_off(device) {
        Ok(()) => {
            tracing::warn!("outputs turned off to be set anew");
            Recovered::Off
        }
        Err(errno) => {
            tracing::warn!(%errno, "outputs not turned off");
            Recovered::Not
        }
    }
}

/// The same on a thread; none if there is no thread.
fn begin(device: Box<dyn KmsDevice + Send>, request: Request) -> Option<Receiver<Recovered>> {
    let (done, recovery) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("recovery".into());
    let spawned = thread.spawn(move || {
        // Whoever waited may be gone with the device.
        let _ = done.send(commit_or_turn_off(&*device, request));
    });
    spawned.inspect_err(|err| tracing::warn!(%err, "no thread to recover an output")).ok()?;
    Some(recovery)
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
        self.watched.given_up = self.commits;
        self.watched.waiting = None;
    }
}
