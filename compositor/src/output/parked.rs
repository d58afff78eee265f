//! Buffers that planes hold out of sight.
//!
//! A driver that draws with the CPU maps a picture in the commit that shows it, page by page, and takes the mapping away when
//! the next one is on the screen: on vkms that is most of what a frame costs ([`drm_prime::quirks::maps_in_commit`]). Buffers
//! go round, so a plane that has nothing to show is put beside the picture with one of those that come again: the kernel finds
//! the mapping when the buffer is shown the next time.
//!
//! It owns which buffers that are, and framebuffers of its own for them: a parked buffer is nobody's buffer on the screen,
//! it is released, drawn into and destroyed as any other, and the memory of one that is gone is let go soon ([`GRACE`]). What
//! stands still stays: nothing is committed for it. Which planes are free is up to the plan, which does not know of this.

use std::num::NonZeroU32;
use std::time::Duration;

use drm_prime::scanout::{PlaneCaps, PlaneType, Rect, SourceRect};
use drm_prime::{FramebufferWatch, SharedFramebuffer};

use super::OutputState;
use crate::backend::{Backend, FrameSpec, PlaneUpdate};

/// Buffers that are remembered: those of as many windows as there are planes, three of each.
const REMEMBERED: usize = 32;
/// So long after it was shown, a buffer that is gone may come again under another name: clients make `wl_buffer`s anew of the
/// same memory.
const GRACE: Duration = Duration::from_millis(250);
/// What was not shown for so long makes room for others.
const STALE: Duration = Duration::from_secs(1);

/// The parked buffers of an output.
#[derive(Debug, Default)]
pub(super) struct Parked {
    held: Vec<Held>,
    /// The memory of those that were shown last, in turn.
    seen: Vec<NonZeroU32>,
    /// Whose place the next one takes.
    oldest: usize,
    /// When the frame was begun.
    now: Duration,
    /// The driver has refused it.
    off: bool,
}

#[derive(Debug)]
struct Held {
    update: PlaneUpdate,
    memory: NonZeroU32,
    /// What was shown of that memory last.
    of: FramebufferWatch,
    shown: Duration,
}

impl Held {
    /// Nobody but its plane has it, and nobody will.
    fn is_over(&self, now: Duration) -> bool {
        !self.of.is_held() && self.shown + GRACE <= now
    }
}

/// A number of the memory that a framebuffer shows, for as long as somebody has it.
fn memory_of(framebuffer: &SharedFramebuffer) -> Option<NonZeroU32> {
    Some(framebuffer.handles().first()?.raw())
}

/// No picture of a frame is on the plane.
fn is_spare(plane: NonZeroU32, frame: &FrameSpec) -> bool {
    frame.planes.iter().all(|update| update.plane != plane)
}

impl Parked {
    /// A frame is begun.
    pub(super) fn begin(&mut self, now: Duration) {
        self.now = now;
    }

    /// Adds to a frame that follows `before` what the planes hold that it does not use. Nobody sees what is at `beside`.
    fn fill(&mut self, frame: &mut FrameSpec, before: &FrameSpec, planes: &[PlaneCaps], beside: (i32, i32)) {
        if self.off {
            return;
        }
        let now = self.now;
        for shown in &frame.planes {
            if before.planes.iter().any(|old| old.buffer == shown.buffer) {
                continue;
            }
            let Some(memory) = memory_of(&shown.buffer) else { continue };
            if let Some(held) = self.held.iter_mut().find(|held| held.memory == memory) {
                held.shown = now;
                if !held.of.is_of(&shown.buffer) {
                    held.of = shown.buffer.watch();
                }
            } else if self.comes_again(memory)
                && let Some(plane) = self.free_plane(frame, planes, &shown.buffer)
            {
                self.park(plane, memory, &shown.buffer, beside);
            }
        }
        self.held.retain(|held| {
            let at = (held.update.dst.x, held.update.dst.y) == beside;
            at && !held.is_over(now) && held.update.buffer.is_open() && is_spare(held.update.plane, frame)
        });
        frame.parked.extend(self.held.iter().map(|held| held.update.clone()));
    }

    /// Tells whether the memory was shown before, and not long ago.
    fn comes_again(&mut self, memory: NonZeroU32) -> bool {
        if self.seen.contains(&memory) {
            return true;
        }
        if self.seen.len() < REMEMBERED {
            self.seen.push(memory);
        } else {
            self.seen[self.oldest] = memory;
            self.oldest = (self.oldest + 1) % REMEMBERED;
        }
        false
    }

    /// A plane for a buffer: an overlay of this output alone that nobody uses.
    fn free_plane(
        &mut self,
        frame: &FrameSpec,
        planes: &[PlaneCaps],
        buffer: &SharedFramebuffer,
    ) -> Option<NonZeroU32> {
        let is_free = |caps: &&PlaneCaps| {
            caps.kind == PlaneType::Overlay
                && caps.crtcs.count_ones() == 1
                && caps.formats.contains(&(buffer.format(), buffer.modifier()))
                && is_spare(caps.id, frame)
        };
        let has = |held: &Held, caps: &PlaneCaps| held.update.plane == caps.id;
        let mut free = planes.iter().filter(is_free);
        if let Some(caps) = free.clone().find(|caps| !self.held.iter().any(|held| has(held, caps))) {
            return Some(caps.id);
        }
        let is_stale = |held: &&Held| held.shown + STALE <= self.now;
        let stale = free.find_map(|caps| {
            self.held.iter().filter(is_stale).find(|held| has(held, caps)).map(|_| caps.id)
        })?;
        self.held.retain(|held| held.update.plane != stale);
        Some(stale)
    }

    fn park(&mut self, plane: NonZeroU32, memory: NonZeroU32, shown: &SharedFramebuffer, beside: (i32, i32)) {
        let (w, h) = (shown.width(), shown.height());
        match shown.twin() {
            Ok(twin) => {
                let dst = Rect::new(beside.0, beside.1, w, h);
                let update = PlaneUpdate::new(plane, twin, SourceRect::whole(w, h), dst);
                self.held.push(Held { update, memory, of: shown.watch(), shown: self.now });
            }
            Err(err) => tracing::debug!(err = &err as &dyn std::error::Error, "buffer not parked"),
        }
    }

    /// The driver does not take it: nothing is parked any more.
    pub(super) fn give_up(&mut self) {
        *self = Self { off: true, ..Self::default() };
    }

    /// Lets go of everything: the planes are off.
    pub(super) fn clear(&mut self) {
        *self = Self { off: self.off, ..Self::default() };
    }
}

impl OutputState {
    /// What planes hold out of sight.
    pub fn parked(&self) -> impl Iterator<Item = &PlaneUpdate> {
        self.current.spec.parked.iter()
    }

    /// Has the planes that a frame does not use hold buffers that come again, where that saves something.
    pub(super) fn park(&mut self, spec: &mut FrameSpec, backend: &Backend) {
        if backend.maps_in_commit(self.id) {
            self.parked.fill(spec, &self.current.spec, backend.planes(self.id), (self.size.w, self.size.h));
        }
    }

    /// How long planes may hold buffers that are gone, if they do.
    pub(crate) fn parking_ends(&self, now: Duration) -> Option<Duration> {
        let gone = self.parked.held.iter().filter(|held| !held.of.is_held());
        gone.map(|held| (held.shown + GRACE).saturating_sub(now)).min()
    }

    /// Has planes let go of buffers that are gone.
    pub(crate) fn end_parking(&mut self, now: Duration) {
        let held = &mut self.parked.held;
        let before = held.len();
        held.retain(|held| !held.is_over(now));
        if held.len() < before {
            self.want_redraw();
        }
    }
}
