//! Buffers that planes hold out of sight.
//!
//! A driver that draws with the CPU maps a picture in the commit that shows it, page by page, and takes the mapping away when
//! the next one is on the screen: on vkms that is most of what a frame costs ([`drm_prime::quirks::maps_in_commit`]). Buffers
//! go round, so a plane that has nothing to show is put beside the picture with those that come again: the kernel finds the
//! mapping when one of them is shown the next time.
//!
//! It owns which buffers that are, and framebuffers of its own for them, of as many buffers each as the plane's formats have
//! buffer planes: a parked buffer is nobody's buffer on the screen, it is released, drawn into and destroyed as any other, and
//! the memory of one that is gone is let go soon ([`GRACE`]). What stands still stays: nothing is committed for it. Which planes
//! are free is up to the plan, which does not know of this.

use std::num::NonZeroU32;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{PlaneCaps, PlaneType, Rect, SourceRect};
use drm_prime::{Framebuffer, FramebufferError, FramebufferWatch, GemHandle, HandleTable, SharedFramebuffer};
use smallvec::SmallVec;

use super::OutputState;
use crate::backend::{Backend, FrameSpec, PlaneUpdate};

/// Formats of parked buffers, and how many a framebuffer has room for. Those with most room come first.
const FORMATS: [(DrmFourcc, usize); 2] = [(DrmFourcc::Yuv444, 3), (DrmFourcc::Xrgb8888, 1)];
/// What a plane is said to show of them, in both directions: less than a page.
const SIDE: u32 = 16;
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
    places: Vec<Place>,
    /// The memory of those that were shown last, in turn.
    seen: Vec<NonZeroU32>,
    /// Whose place the next one takes.
    oldest: usize,
    /// When the frame was begun.
    now: Duration,
    /// The driver has refused it.
    off: bool,
}

/// A plane with what it holds.
#[derive(Debug)]
struct Place {
    update: PlaneUpdate,
    room: usize,
    held: SmallVec<[Held; 3]>,
    /// Its framebuffer has more than that.
    has_more: bool,
}

#[derive(Debug)]
struct Held {
    handle: GemHandle,
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

/// A framebuffer of all of them, of which nothing is to be seen.
fn hold(table: &HandleTable, held: &[Held], room: usize) -> Result<SharedFramebuffer, FramebufferError> {
    let handles = held.iter().map(|held| held.handle.clone()).collect();
    let format =
        FORMATS.iter().find(|format| format.1 == room).map_or(DrmFourcc::Xrgb8888, |format| format.0);
    Framebuffer::unseen(&table.owned_by("parked"), handles, format, SIDE).map(SharedFramebuffer::new)
}

impl Place {
    /// Holds what is in its list now. Says whether it does.
    fn renew(&mut self, table: &HandleTable) -> bool {
        match hold(table, &self.held, self.room) {
            Ok(framebuffer) => {
                (self.update.buffer, self.has_more) = (framebuffer, false);
                true
            }
            Err(err) => {
                tracing::debug!(err = &err as &dyn std::error::Error, "buffers not parked");
                false
            }
        }
    }

    /// Lets go of what is over, with the next framebuffer. Says whether there is something.
    fn let_go(&mut self, now: Duration) -> bool {
        let before = self.held.len();
        self.held.retain(|held| !held.is_over(now));
        self.has_more |= self.held.len() < before;
        self.has_more
    }
}

/// No picture of a frame is on the plane.
fn is_spare(plane: NonZeroU32, frame: &FrameSpec) -> bool {
    frame.planes.iter().all(|update| update.plane != plane)
}

/// How many buffers a plane has room for, if it is one of this output alone.
fn room(caps: &PlaneCaps) -> Option<usize> {
    let lists = |format: &&(DrmFourcc, usize)| caps.formats.contains(&(format.0, DrmModifier::Linear));
    let alone = caps.kind != PlaneType::Primary && caps.crtcs.count_ones() == 1;
    FORMATS.iter().find(lists).filter(|_| alone).map(|format| format.1)
}

impl Parked {
    /// A frame is begun.
    pub(super) fn begin(&mut self, now: Duration) {
        self.now = now;
    }

    /// Adds to a frame that follows `before` what the planes hold that it does not use. Nobody sees what is at `beside`.
    fn fill(
        &mut self,
        frame: &mut FrameSpec,
        before: &FrameSpec,
        planes: &[PlaneCaps],
        table: &HandleTable,
        beside: (i32, i32),
    ) {
        if self.off {
            return;
        }
        let now = self.now;
        self.let_go(now);
        self.places.retain_mut(|place| {
            let update = &place.update;
            let at = (update.dst.x, update.dst.y) == beside && update.buffer.is_open();
            let stays = at && is_spare(update.plane, frame);
            stays && (!place.has_more || (!place.held.is_empty() && place.renew(table)))
        });
        for shown in &frame.planes {
            if before.planes.iter().any(|old| old.buffer == shown.buffer) {
                continue;
            }
            let Some(handle) = shown.buffer.handles().first() else { continue };
            let mut all = self.places.iter_mut().flat_map(|place| &mut place.held);
            if let Some(held) = all.find(|held| held.handle.raw() == handle.raw()) {
                held.shown = now;
                if !held.of.is_of(&shown.buffer) {
                    held.of = shown.buffer.watch();
                }
            } else if self.comes_again(handle.raw()) {
                let held = Held { handle: handle.clone(), of: shown.buffer.watch(), shown: now };
                self.park(held, frame, planes, table, beside);
            }
        }
        frame.parked.extend(self.places.iter().map(|place| place.update.clone()));
    }

    /// Lets go of what is over, with the next frame. Says whether there is something.
    fn let_go(&mut self, now: Duration) -> bool {
        let gone = self.places.iter_mut().fold(false, |gone, place| place.let_go(now) | gone);
        if gone {
            // Their numbers may be others' next.
            self.seen.clear();
            self.oldest = 0;
        }
        gone
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

    /// Parks a buffer beside others, or on a plane that nobody uses, or in the place of one that does not come any more.
    fn park(
        &mut self,
        held: Held,
        frame: &FrameSpec,
        planes: &[PlaneCaps],
        table: &HandleTable,
        beside: (i32, i32),
    ) {
        if let Some(index) = self.places.iter().position(|place| place.held.len() < place.room) {
            self.places[index].held.push(held);
            return self.renew(index, table);
        }
        let is_free = |caps: &&PlaneCaps| {
            is_spare(caps.id, frame) && self.places.iter().all(|place| place.update.plane != caps.id)
        };
        let free = planes.iter().filter(is_free).find_map(|caps| Some((caps.id, room(caps)?)));
        if let Some((plane, room)) = free {
            let held = SmallVec::from_iter([held]);
            let dst = Rect::new(beside.0, beside.1, SIDE, SIDE);
            match hold(table, &held, room) {
                Ok(framebuffer) => {
                    let update = PlaneUpdate::new(plane, framebuffer, SourceRect::whole(SIDE, SIDE), dst);
                    self.places.push(Place { update, room, held, has_more: false });
                }
                Err(err) => tracing::debug!(err = &err as &dyn std::error::Error, "buffer not parked"),
            }
            return;
        }
        let is_stale = |held: &Held| held.shown + STALE <= self.now;
        let stale = |place: &Place| place.held.iter().position(is_stale);
        let found = self.places.iter().enumerate().find_map(|(index, place)| Some((index, stale(place)?)));
        if let Some((index, stale)) = found {
            self.places[index].held[stale] = held;
            self.renew(index, table);
        }
    }

    fn renew(&mut self, index: usize, table: &HandleTable) {
        if !self.places[index].renew(table) {
            self.places.swap_remove(index);
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

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.places.iter().flat_map(|place| &place.held)
    }
}

impl OutputState {
    /// What planes hold out of sight.
    pub fn parked(&self) -> impl Iterator<Item = &PlaneUpdate> {
        self.current.spec.parked.iter()
    }

    /// Has the planes that a frame does not use hold buffers that come again, where that saves something.
    pub(super) fn park(&mut self, spec: &mut FrameSpec, backend: &Backend) {
        if backend.maps_in_commit(self.id)
            && let Some(buffers) = backend.buffers_of(self.id)
        {
            let (planes, beside) = (backend.planes(self.id), (self.size.w, self.size.h));
            self.parked.fill(spec, &self.current.spec, planes, buffers.table(), beside);
        }
    }

    /// How long planes may hold buffers that are gone, if they do.
    pub(crate) fn parking_ends(&self, now: Duration) -> Option<Duration> {
        let gone = self.parked.held().filter(|held| !held.of.is_held());
        gone.map(|held| (held.shown + GRACE).saturating_sub(now)).min()
    }

    /// Has planes let go of buffers that are gone.
    pub(crate) fn end_parking(&mut self, now: Duration) {
        if self.parked.let_go(now) {
            self.want_redraw();
        }
    }
}
