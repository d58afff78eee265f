//! The redraws: what joins shell, outputs, backend and clients in a frame, and when that is.
//!
//! It owns the order of things in a turn and in a redraw. When an output is due is up to its cycle ([`crate::output`]).

use std::time::Duration;

use smallvec::SmallVec;
use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;

use crate::backend::kms::slot_of;
use crate::backend::{Flip, OutputId};
use crate::output::{self, Drawn, OutputState, Redraw, RedrawParts};
use crate::shell::Scene;
use crate::state::{OutputEntry, State};

/// How often a surface that cannot be seen may draw.
const HIDDEN_INTERVAL: Duration = Duration::from_secs(1);

impl State {
    /// A turn begins: what is due by the clock. `now` is its time.
    pub(crate) fn run_cycles(&mut self, now: Duration) {
        for entry in &mut self.outputs {
            entry.state.run_cycle(now, |surface| self.runtime.clients.told(surface));
        }
    }

    /// Whether it is soon enough to hear of the frames that are about to be shown when their clients are called.
    pub(crate) fn flips_can_wait(&self) -> bool {
        let now = self.runtime.clock.last();
        self.outputs.iter().all(|entry| entry.state.flip_can_wait(now))
    }

    /// Hears of the frames that should have been shown by `now`, after a sleep that no display device has ended.
    pub(crate) fn read_late_flips(&mut self, now: Duration) {
        let shown = self.outputs.iter().filter(|entry| entry.state.should_be_shown(now));
        let mut slots: SmallVec<[u32; 4]> = shown.map(|entry| slot_of(entry.state.id)).collect();
        slots.dedup();
        slots.into_iter().for_each(|slot| self.card_readable(slot));
    }

    /// Does what the display and those who can be seen have brought about, before others have their turns.
    pub(crate) fn show_changes(&mut self, now: Duration) {
        self.charge_slices();
        self.redraw_due(now);
        self.tell_waiting();
    }

    /// The end of a turn: what was put off until all events are known. `urgent` if others than clients and displays have spoken.
    pub(crate) fn end_turn(&mut self, now: Duration, urgent: bool) {
        self.charge_slices();
        self.redraw_due(now);
        self.serve_queue();
        self.charge_slices();
        self.apply_cleared();
        self.redraw_due(now);
        self.forget_dead_buffers();
        self.clear_parking();
        self.tell_clients(urgent);
        self.tell_watchers();
    }

    /// How long nothing has to be done that nobody else tells of; none if there is nothing.
    pub(crate) fn rest(&mut self) -> Option<Duration> {
        if self.runtime.clients.has_queue() {
            return Some(Duration::ZERO);
        }
        let (now, timer) = (self.runtime.clock.last(), self.runtime.timers.first());
        let timer = timer.into_iter().chain(self.held_back_until()).min();
        let due = self.outputs.iter_mut().filter_map(|entry| entry.state.next_due(now)).chain(timer).min();
        due.map(|due| due.saturating_sub(now))
    }

    /// Queues a redraw of every output.
    pub fn queue_redraw_all(&mut self) {
        self.queue_redraw_where(|_| true);
    }

    pub(crate) fn queue_redraw_where(&mut self, concerned: impl Fn(&OutputState) -> bool) {
        for entry in &mut self.outputs {
            if concerned(&entry.state) {
                entry.state.want_redraw();
            }
        }
    }

    /// A surface has committed: a redraw may have waited for that.
    pub(crate) fn surface_answered(&mut self, surface: &WlSurface) {
        if output::committed(surface, self.runtime.clock.last()) {
            self.outputs.iter_mut().for_each(|entry| entry.state.answered(surface));
        }
    }

    /// Does the queued redraws now, due or not.
    pub fn redraw_queued(&mut self) {
        self.redraw_where(|output| output.redraw == Redraw::Queued);
    }

    fn redraw_due(&mut self, now: Duration) {
        self.redraw_where(|output| output.is_due(now));
    }

    fn redraw_where(&mut self, mut wanted: impl FnMut(&mut OutputState) -> bool) {
        if self.runtime.opening {
            return;
        }
        let mut find = |entry: &mut OutputEntry| wanted(&mut entry.state).then_some(entry.state.id);
        while let Some(id) = self.outputs.iter_mut().find_map(&mut find) {
            self.redraw(id);
        }
    }

    /// Draws an output that wants it.
    fn redraw(&mut self, id: OutputId) {
        let Some(entry) = self.outputs.iter_mut().find(|o| o.state.id == id) else { return };
        let output = &mut entry.state;
        output.begin_redraw();
        if output.is_off() {
            return self.throttle(id);
        }
        // Without mastership every test commit would fail and be remembered as the planes' fault.
        if self.backend.kms().is_some_and(|kms| !kms.is_active()) {
            return;
        }
        let began = self.runtime.clock.last();
        let area = output.geometry();
        let Scene { layers, covers, backdrop } = self.shell.scene(area, output.take_memory());
        let at = self.input.position().filter(|at| area.to_f64().contains(*at));
        let cursor = at.and_then(|at| {
            let at = (at - area.loc.to_f64()).to_physical(1.0);
            self.input.cursor.layer(&mut self.painter, at)
        });
        let mut parts = RedrawParts {
            backend: &mut self.backend,
            painter: &mut self.painter,
            cursor,
            backdrop,
            copy_on_purpose: self.runtime.copy_on_purpose,
            direct_scanout: self.runtime.direct_scanout,
        };
        let plans = output.plans;
        let drawn = output.draw(&layers, began, &mut parts);
        let planned = output.plans != plans;
        if planned && let Some(device) = self.backend.device_of(id) {
            let planes = self.backend.planes(id);
            self.dmabuf.feedback.planned(&self.runtime.timers, device, planes, output, &layers);
        }
        let visible = layers.iter().take(output.visible()).map(|l| l.surface.clone());
        let surfaces = visible.chain(self.input.cursor.surface().cloned());
        let hides = covers || output.visible() < layers.len();
        let now = self.runtime.clock.read();
        match drawn {
            Drawn::Submitted => {
                let free = self.backend.shows_at_once(id);
                output.call_after_frame(surfaces, (began, now), free);
            }
            Drawn::Unchanged => output.wait_for_blank(surfaces, now),
            // Without a session the next redraw comes with its return; otherwise try again soon.
            Drawn::Failed if self.backend.kms().is_none_or(|kms| kms.is_active()) => {
                output.wait_for_blank(std::iter::empty(), now);
                output.want_redraw();
            }
            Drawn::Failed => {}
        }
        output.run_cycle(now, |surface| self.runtime.clients.told(surface));
        output.keep_memory(layers);
        if planned {
            self.runtime.clients.set_visible(self.outputs.iter().flat_map(|o| o.state.seen()));
            self.bisect_later(id);
        }
        if hides {
            self.throttle(id);
        }
    }

    /// Has planes let go of buffers that are gone, if no other frame comes before that.
    fn clear_parking(&mut self) {
        if self.runtime.clears_parking {
            return;
        }
        let now = self.runtime.clock.last();
        let Some(wait) = self.outputs.iter().filter_map(|entry| entry.state.parking_ends(now)).min() else {
            return;
        };
        self.runtime.clears_parking = true;
        self.runtime.timers.after(wait, |state| {
            state.runtime.clears_parking = false;
            let now = state.runtime.clock.last();
            state.outputs.iter_mut().for_each(|entry| entry.state.end_parking(now));
        });
    }

    /// Surfaces behind an opaque one draw a frame a second, so that they are not quite stopped.
    pub(crate) fn throttle(&mut self, id: OutputId) {
        let Some(entry) = self.outputs.iter_mut().find(|o| o.state.id == id) else { return };
        if std::mem::replace(&mut entry.state.throttling, true) {
            return;
        }
        self.runtime.timers.after(HIDDEN_INTERVAL, move |state| {
            let Some(entry) = state.outputs.iter_mut().find(|o| o.state.id == id) else { return };
            entry.state.throttling = false;
            let hidden = state
                .shell
                .behind(entry.state.geometry(), |surface| entry.state.seen().any(|s| s == surface));
            let now = state.runtime.clock.last();
            for surface in hidden.iter().filter(|surface| surface.is_alive()) {
                if output::call(surface, now) {
                    state.runtime.clients.told(surface);
                }
            }
        });
    }

    /// A submitted frame is on screen.
    pub fn frame_shown(&mut self, flip: Flip) {
        let Some(entry) = self.outputs.iter_mut().find(|o| o.state.id == flip.output) else { return };
        entry.state.frame_shown(flip.time, flip.sequence, |surface| self.runtime.clients.told(surface));
    }
}
