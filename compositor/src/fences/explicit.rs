//! Explicit synchronisation: the points of clients' timelines that come with commits (linux-drm-syncobj).
//!
//! Owns the timelines of clients, and for each commit the promise to signal its release point ([`Release`]): it travels
//! with the commit's state, is held by the surface and by each frame that scans the commit's buffer out, and signals with
//! the last of them. So it does when another commit replaces it before it was shown, when the surface goes, and when
//! the client does. What was composited is a copy by then: the renderers are done when they say so (a GPU that hangs is not
//! waited for without end). A buffer that is attached again comes with points of its own, which the Wayland library's own
//! promise (`wl_buffer.release`) does not have.
//!
//! Does not own the protocol's rules (`primeway_protocols::drm_syncobj`), nor the waiting, which is the same for all fences.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use drm_prime::{TimelineError, Timelines};
use primeway_protocols::drm_syncobj::{Attachment, CommitFault, DrmSyncobjState, SyncPoint};
use rustix::fs::{Mode, OFlags};
use smithay::reexports::wayland_server::DisplayHandle;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::{Cacheable, SurfaceData, with_states};

use super::implicit;
use crate::backend::Backend;
use crate::clients::ClientState;
use crate::render::Painter;
use crate::state::State;

/// How many timelines a client has.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimelineCount(Arc<AtomicU64>);

/// One of them.
#[derive(Debug)]
struct Counted(Arc<AtomicU64>);

impl TimelineCount {
    /// The number.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn one_more(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.0.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's timeline: a handle on a device of ours, which goes with it.
#[derive(Debug)]
pub struct Timeline {
    timeline: drm_prime::Timeline,
    _count: Counted,
}

/// What explicit synchronisation needs.
#[derive(Debug)]
pub(crate) struct Explicit {
    pub(crate) protocol: DrmSyncobjState<Timeline>,
    timelines: Option<Timelines>,
}

impl Explicit {
    /// Offers the protocol to clients if there are timelines.
    pub(super) fn new(display: &DisplayHandle, timelines: Option<Timelines>) -> Self {
        let mut protocol = DrmSyncobjState::new();
        if timelines.is_some() {
            protocol.create_global::<State>(display);
        }
        Self { protocol, timelines }
    }

    /// Imports a client's timeline; `None` if it is none.
    pub(crate) fn import(&self, fd: BorrowedFd<'_>, owner: &TimelineCount) -> Option<Timeline> {
        let imported = self.timelines.as_ref()?.import(fd);
        let imported = imported.inspect_err(|err| tracing::debug!(%err, "timeline refused"));
        Some(Timeline { timeline: imported.ok()?, _count: owner.one_more() })
    }

    /// Takes in the points of the commit that a surface is about to make; gives the acquire point, if there is one.
    pub(super) fn commit(
        &mut self,
        surface: &WlSurface,
        attachment: Attachment,
    ) -> Result<Option<SyncPoint<Timeline>>, CommitFault> {
        let points = self.protocol.commit(surface, attachment)?;
        let (acquire, release) = points.map(|p| (p.acquire, Release::new(p.release))).unzip();
        if attachment != Attachment::Kept {
            with_states(surface, |states| SurfaceSync::attach(states, release));
        }
        Ok(acquire)
    }
}

/// A descriptor that becomes readable with an acquire point; `None` if it has signalled.
///
/// A second one is kept with the client until then, whether or not its surface is still there: the kernel does not give a
/// registration back, so there must be no way to make more of them than a client may have commits held back.
pub(super) fn until(
    acquire: &SyncPoint<Timeline>,
    data: &ClientState,
) -> Result<Option<OwnedFd>, TimelineError> {
    let timeline = &acquire.timeline.timeline;
    if timeline.is_signalled(acquire.point)? {
        return Ok(None);
    }
    let event = timeline.watch(acquire.point)?;
    let kept = event.try_clone();
    let kept = kept.map_err(|source| TimelineError::System { action: "keep a descriptor", source })?;
    forget_signalled(data);
    data.usage().watched.push(kept);
    Ok(Some(event))
}

/// Closes what was kept for points that have signalled.
pub(super) fn forget_signalled(data: &ClientState) {
    data.usage().watched.retain(|event| implicit::pending([event.as_fd()]) != 0);
}

/// The promise to signal a commit's release point. It is kept when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Release(Arc<ReleasePoint>);

#[derive(Debug)]
struct ReleasePoint {
    point: SyncPoint<Timeline>,
    /// A frame that was submitted reads the buffer, and ends the promise when it is replaced.
    in_frame: AtomicBool,
    signalled: AtomicBool,
}

impl Release {
    fn new(point: SyncPoint<Timeline>) -> Self {
        let (in_frame, signalled) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(ReleasePoint { point, in_frame, signalled }))
    }

    /// For a frame that scans the buffer out: it outlasts the surface.
    pub(crate) fn for_frame(&self) -> Self {
        self.0.in_frame.store(true, Ordering::Relaxed);
        self.clone()
    }

    /// The promise of what a surface shows, if it was made explicitly.
    pub(crate) fn of(states: &SurfaceData) -> Option<Self> {
        if !states.cached_state.has::<SurfaceSync>() {
            return None;
        }
        states.cached_state.get::<SurfaceSync>().current().release().cloned()
    }

    /// A surface is gone: what no frame shows is released, also commits that wait and will never be applied.
    pub(super) fn forget(surface: &WlSurface) {
        with_states(surface, |states| {
            if states.cached_state.has::<SurfaceSync>() {
                SurfaceSync::forget(states);
            }
        });
    }
}

impl ReleasePoint {
    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::Relaxed)
            && let Err(err) = self.point.timeline.timeline.signal(self.point.point)
        {
            tracing::warn!(%err, point = self.point.point, "release point not signalled");
        }
    }
}

impl Drop for ReleasePoint {
    fn drop(&mut self) {
        self.signal();
    }
}

/// What a commit does to the promise of its surface.
#[derive(Debug, Default)]
enum Change {
    /// No buffer was attached.
    #[default]
    Keep,
    /// Another buffer, or the same again, or none.
    Replace(Option<Release>),
}

/// The part of a surface's double-buffered state.
#[derive(Debug, Default)]
struct SurfaceSync {
    change: Change,
    /// Every promise that may still be open; in the current state only.
    made: Vec<Weak<ReleasePoint>>,
}

impl SurfaceSync {
    fn release(&self) -> Option<&Release> {
        match &self.change {
            Change::Keep => None,
            Change::Replace(release) => release.as_ref(),
        }
    }

    /// Notes what comes with the buffer that is about to be committed. Surfaces that never had points are left alone.
    fn attach(states: &SurfaceData, release: Option<Release>) {
        if release.is_none() && !states.cached_state.has::<Self>() {
            return;
        }
        let mut sync = states.cached_state.get::<Self>();
        if let Some(release) = &release {
            let made = &mut sync.current().made;
            made.retain(|release| release.strong_count() > 0);
            made.push(Arc::downgrade(&release.0));
        }
        sync.pending().change = Change::Replace(release);
    }

    fn forget(states: &SurfaceData) {
        let mut sync = states.cached_state.get::<Self>();
        *sync.pending() = Self::default();
        let Self { change, made } = std::mem::take(sync.current());
        drop(change);
        let open = made.iter().filter_map(Weak::upgrade);
        open.filter(|point| !point.in_frame.load(Ordering::Relaxed)).for_each(|point| point.signal());
    }
}

impl Cacheable for SurfaceSync {
    fn commit(&mut self, _: &DisplayHandle) -> Self {
        std::mem::take(self)
    }

    fn merge_into(self, into: &mut Self, _: &DisplayHandle) {
        if let Change::Replace(_) = self.change {
            into.change = self.change;
        }
    }
}

/// The timelines of the display's device, else those of the GPU that composites.
pub(crate) fn timelines(backend: &Backend, painter: &Painter) -> Option<Timelines> {
    let of_display = backend.buffers().timelines().cloned();
    let found = of_display.or_else(|| {
        let minor = rustix::fs::minor(painter.device()?);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let node = rustix::fs::open(format!("/dev/dri/renderD{minor}"), flags, Mode::empty());
        Timelines::new(node.ok()?).inspect_err(|err| tracing::debug!(%err, "no timelines on the GPU")).ok()
    });
    tracing::info!(timelines = found.is_some(), "explicit synchronisation");
    found
}
