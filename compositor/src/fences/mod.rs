//! Waiting for the fences of clients' buffers: one owner for all of it, so that no place of the compositor blocks on one.
//!
//! ```text
//!  wl_surface.commit ── poll(2) of all planes ── nothing pending ──────────────────────────────> latched at once
//!         │                    │ pending                                                              ^
//!         │                    └─ sync file of each dma-buf ──> event loop ── all signalled ──────────┤
//!         └─ acquire point, not signalled: eventfd ───────────> event loop ── signalled ──────────────┘
//! ```
//!
//! Owns: what a commit waits for (`implicit`, `explicit`), which commits wait and since when (`waits`), and their end:
//! signalled, or the surface gone. Does not own what a held commit contains: the Wayland library queues it by surface, and
//! applies the commits of a surface in order. So a fence that does not signal holds back its own surface, with the tree that
//! its synchronized subsurfaces belong to, and nothing else.
//!
//! # Rules
//!
//! - A commit waits for the fences that are there when it is made, each dma-buf's once. What a client attaches later does
//!   not hold it back longer. Only where the kernel has no `DMA_BUF_IOCTL_EXPORT_SYNC_FILE` (before Linux 6.0) the dma-buf
//!   itself is polled, and new fences count until there is a moment without one.
//! - A commit that comes with an acquire point waits for that alone, whatever fences its buffer has, and also for a point
//!   that nobody has promised yet. Registrations for such points stay in the kernel until they signal: a client may have as
//!   many as commits held back, its destroyed surfaces' included.
//! - There is no end to the waiting: what is on screen stays there. After [`LATE`] a surface is late: `primeway ctl stats`
//!   says so as the surface's reason, and the log once for each surface.
//! - A client may have so many commits held back (`--limit commits=NUMBER`), those behind the waiting one included. Beyond, it
//!   ends with wl_display.no_memory. A client that waits for its buffers' releases, as all do that draw, has a handful; by
//!   default there is room for one that commits with each motion of a mouse, a thousand times in a second.
//! - A fence attached after a commit was latched is nobody's to wait for: the display is told to wait for a fence of ours
//!   instead ([`crate::backend::kms`], IN_FENCE_FD), and the CPU reads without waiting ([`crate::render`]).
//!
//! The kernel keeps a dma-buf that was polled while a fence was pending until that fence signals (dma-buf.c), whoever has
//! closed it: its memory, not a descriptor of ours.

mod alarm;
mod explicit;
mod hold;
mod implicit;
mod waits;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calloop::generic::Generic;
use calloop::{Interest, LoopHandle, Mode, PostAction, RegistrationToken};
use drm_prime::Timelines;
use primeway_protocols::drm_syncobj::{Attachment, SyncPoint};
use primeway_protocols::linux_dmabuf::FailedBuffer;
use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{Client, DisplayHandle, Resource as _};
use smithay::wayland::compositor::{
    BufferAssignment, SurfaceAttributes, add_blocker, is_sync_subsurface, with_states,
};
use smithay::wayland::dmabuf::get_dmabuf;

pub use alarm::bounded;
pub use explicit::Timeline;
pub(crate) use explicit::{Release, TimelineCount, timelines};
pub(crate) use hold::HeldCommits;
pub(crate) use implicit::{pending as pending_planes, sync_file};
pub use waits::{Awaited, Waiting};

use self::explicit::Explicit;
use self::hold::{Hold, Until};
use self::waits::{WaitId, Waits};
use crate::clients::{self, ClientState, over_quota};
use crate::reactor::{TimerId, Timers};
use crate::state::State;

/// How long a commit waits before that is worth telling: longer than a GPU takes for any picture that a person waits for
/// (drivers reset one that hangs after 2 to 10 seconds), and short enough to explain a window that stands still.
pub const LATE: Duration = Duration::from_secs(1);

/// What belongs to one waiting commit.
#[derive(Debug)]
struct Held {
    client: Client,
    surface: WlSurface,
    cleared: Arc<AtomicBool>,
    fences: Vec<(Awaited, RegistrationToken)>,
    timer: TimerId,
}

/// What a reader of a buffer has to wait for.
#[derive(Debug)]
struct Pending {
    awaited: Awaited,
    /// Readable once it has signalled.
    fence: OwnedFd,
}

/// All commits that wait.
#[derive(Debug)]
pub struct Fences {
    handle: LoopHandle<'static, State>,
    timers: Timers,
    waits: Waits<Held>,
    /// Whose commits may wait for nothing any more.
    cleared: Vec<Client>,
    /// linux-drm-syncobj.
    pub(crate) explicit: Explicit,
}

/// A surface that waits, for people.
#[derive(Debug)]
pub struct Waiter {
    /// The surface.
    pub surface: WlSurface,
    /// For what.
    pub waiting: Waiting,
}

impl Fences {
    /// Nobody waits. With timelines, clients may synchronise explicitly.
    pub fn new(
        handle: LoopHandle<'static, State>,
        timers: Timers,
        display: &DisplayHandle,
        timelines: Option<Timelines>,
    ) -> Self {
        let explicit = Explicit::new(display, timelines);
        Self { handle, timers, waits: Waits::default(), cleared: Vec::new(), explicit }
    }

    /// What a surface's oldest held commit waits for.
    pub fn of(&self, surface: &WlSurface) -> Option<Waiting> {
        self.waits.of(&surface.id(), Instant::now())
    }

    /// Every surface that waits, with its oldest held commit.
    pub fn waiters(&self) -> Vec<Waiter> {
        let now = Instant::now();
        let mut waiters: Vec<Waiter> = Vec::new();
        for (held, waiting) in self.waits.all(now) {
            if waiters.iter().all(|w| w.surface != held.surface) {
                waiters.push(Waiter { surface: held.surface.clone(), waiting });
            }
        }
        waiters
    }

    fn watch(&self, id: WaitId, awaited: Awaited, fence: OwnedFd) -> Option<RegistrationToken> {
        let source = Generic::new(fence, Interest::READ, Mode::Level);
        let inserted = self.handle.insert_source(source, move |_, _, state| {
            state.fence_signalled(id, awaited);
            Ok(PostAction::Remove)
        });
        inserted.map_err(|err| tracing::warn!(err = %err.error, "cannot wait for a fence")).ok()
    }

    fn watch_clock(&self, id: WaitId) -> TimerId {
        self.timers.after(LATE, move |state| state.runtime.fences.late(id))
    }

    fn late(&mut self, id: WaitId) {
        let Some((held, awaited)) = self.waits.late(id) else { return };
        let pid = clients::pid(&held.client);
        let surface = held.surface.id().protocol_id();
        tracing::warn!(pid, surface, %awaited, "a surface waits for a fence");
    }

    /// Takes down what a wait has set up.
    fn end(&self, held: Held) {
        held.cleared.store(true, Ordering::Release);
        if let Some(data) = ClientState::of(&held.client) {
            let mut usage = data.usage();
            usage.fences = usage.fences.saturating_sub(held.fences.len() as u64);
        }
        held.fences.into_iter().for_each(|(_, token)| self.handle.remove(token));
        self.timers.cancel(held.timer);
    }
}

impl State {
    /// Holds the commit that a surface is about to make back until its buffer may be read.
    pub(crate) fn wait_for_fences(&mut self, surface: &WlSurface) {
        let (buffer, attachment) = with_states(surface, |states| {
            match &states.cached_state.get::<SurfaceAttributes>().pending().buffer {
                Some(BufferAssignment::NewBuffer(buffer)) => (Some(buffer.clone()), attachment(buffer)),
                Some(BufferAssignment::Removed) => (None, Attachment::Removed),
                None => (None, Attachment::Kept),
            }
        });
        let Some(client) = surface.client() else { return };
        let Some(data) = ClientState::of(&client) else { return };
        // A commit with a fault ends its client.
        let Ok(acquire) = self.runtime.fences.explicit.commit(surface, attachment) else { return };
        let pending = match (acquire, buffer.as_ref().map(get_dmabuf)) {
            (Some(acquire), _) => pending_point(&acquire, data),
            (None, Some(Ok(dmabuf))) => implicit::snapshot(|| dmabuf.handles()),
            _ => Vec::new(),
        };
        let watched = data.usage().watched.len() as u64;
        if watched > data.limits.commits {
            over_quota(&self.runtime.display, &client, format!("{watched} acquire points"));
        }
        if pending.is_empty() && data.held.count() == 0 {
            return;
        }
        let cleared = self.begin_wait(&client, data, surface, pending);
        // What a synchronized subsurface had before is replaced, and released, within the transaction that waits.
        let buffer = buffer.filter(|_| !is_sync_subsurface(surface));
        add_blocker(surface, Hold::new(surface, buffer, &data.held, cleared));
        if data.held.count() > data.limits.commits {
            let text = format!("{} commits behind a fence", data.held.count());
            over_quota(&self.runtime.display, &client, text);
        }
    }

    fn begin_wait(
        &mut self,
        client: &Client,
        data: &ClientState,
        surface: &WlSurface,
        pending: Vec<Pending>,
    ) -> Until {
        let fences = &mut self.runtime.fences;
        if pending.is_empty() {
            return Until::Now;
        }
        let id = fences.waits.next_id();
        let watched =
            pending.into_iter().filter_map(|p| Some((p.awaited, fences.watch(id, p.awaited, p.fence)?)));
        let watched: Vec<_> = watched.collect();
        if watched.is_empty() {
            // Shown unfinished rather than never: neither the display nor the CPU waits for it.
            return Until::Now;
        }
        data.usage().fences += watched.len() as u64;
        let cleared = Arc::new(AtomicBool::new(false));
        let awaited = watched.iter().map(|(awaited, _)| *awaited).collect();
        let held = Held {
            client: client.clone(),
            surface: surface.clone(),
            cleared: cleared.clone(),
            fences: watched,
            timer: fences.watch_clock(id),
        };
        fences.waits.begin(id, surface.id(), awaited, Instant::now(), held);
        Until::Cleared(cleared)
    }

    /// A fence has signalled; its source goes by itself.
    fn fence_signalled(&mut self, id: WaitId, awaited: Awaited) {
        let fences = &mut self.runtime.fences;
        if let Some(held) = fences.waits.payload(id) {
            held.fences.retain(|(other, _)| *other != awaited);
            if let Some(data) = ClientState::of(&held.client) {
                let mut usage = data.usage();
                usage.fences = usage.fences.saturating_sub(1);
                drop(usage);
                explicit::forget_signalled(data);
            }
        }
        if let Some(held) = fences.waits.signalled(id, awaited) {
            let client = held.client.clone();
            fences.end(held);
            self.apply_held(&client);
        }
    }

    /// A surface is gone, and what it waited for is of no interest any more.
    pub(crate) fn forget_fences(&mut self, surface: &WlSurface) {
        Release::forget(surface);
        let ended = self.runtime.fences.waits.end_surface(&surface.id());
        let client = ended.first().map(|held| held.client.clone());
        ended.into_iter().for_each(|held| self.runtime.fences.end(held));
        // Not now: the surface is still being taken down.
        self.runtime.fences.cleared.extend(client);
    }

    /// Applies what was held back behind surfaces that are gone.
    pub(crate) fn apply_cleared(&mut self) {
        for client in std::mem::take(&mut self.runtime.fences.cleared) {
            self.apply_held(&client);
        }
    }

    /// Applies the commits of a client that wait for nothing any more.
    fn apply_held(&mut self, client: &Client) {
        let display = self.runtime.display.clone();
        if let Some(data) = ClientState::of(client) {
            data.compositor.blocker_cleared(self, &display);
        }
    }
}

/// What a commit of `buffer` does, as linux-drm-syncobj has it: dma-bufs can be synchronised explicitly, also those that
/// could not be imported.
fn attachment(buffer: &WlBuffer) -> Attachment {
    Attachment::Buffer { explicit: get_dmabuf(buffer).is_ok() || buffer.data::<FailedBuffer>().is_some() }
}

/// What an acquire point makes its commit wait for. The buffer's implicit fences do not count.
fn pending_point(acquire: &SyncPoint<Timeline>, data: &ClientState) -> Vec<Pending> {
    match explicit::until(acquire, data) {
        Ok(event) => {
            let pending = event.map(|fence| Pending { awaited: Awaited::Point(acquire.point), fence });
            pending.into_iter().collect()
        }
        Err(err) => {
            // Shown unfinished rather than never, as with any fence that cannot be waited for.
            tracing::warn!(%err, "an acquire point is not waited for");
            Vec::new()
        }
    }
}
