//! `wp_linux_drm_syncobj_manager_v1`: clients say by points on timelines when a buffer is ready and when it is free.
//!
//! Owns: the protocol's objects, its rules and errors, the points set for the next commit of each surface. Does not
//! own: what a timeline is ([`DrmSyncobjHandler::Timeline`]), waiting for a point, signalling one, and the committed
//! state of surfaces.
//!
//! # Use
//!
//! The compositor calls [`DrmSyncobjState::commit`] once for each `wl_surface.commit`, before the commit has an effect,
//! and carries the [`SyncPoints`] with the rest of the commit's state: the commit is held back until the acquire point
//! has signalled, and the release point is signalled once nothing reads the buffer *for that commit* any more:
//! because another commit of the surface has taken its place, on screen too, because it never got there, or because
//! the surface is gone. A buffer that is attached again has new points; each commit's release point is signalled.
//!
//! ```
//! use std::os::fd::OwnedFd;
//!
//! use primeway_protocols::drm_syncobj::{
//!     Attachment, DrmSyncobjHandler, DrmSyncobjState, ImportTimelineError, SyncPoints,
//! };
//! use wayland_server::protocol::wl_surface::WlSurface;
//! use wayland_server::{Client, Display};
//!
//! struct Timeline(OwnedFd);
//! struct State { syncobj: DrmSyncobjState<Timeline> }
//!
//! impl DrmSyncobjHandler for State {
//!     type Timeline = Timeline;
//!     fn drm_syncobj_state(&mut self) -> &mut DrmSyncobjState<Timeline> {
//!         &mut self.syncobj
//!     }
//!     fn import_timeline(&mut self, _client: &Client, fd: OwnedFd) -> Result<Timeline, ImportTimelineError> {
//!         Ok(Timeline(fd)) // DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE in earnest
//!     }
//! }
//! primeway_protocols::delegate_drm_syncobj!(State);
//!
//! impl State {
//!     fn surface_commit(&mut self, surface: &WlSurface, attachment: Attachment) {
//!         match self.syncobj.commit(surface, attachment) {
//!             Ok(Some(SyncPoints { acquire, release })) => { /* explicit */ }
//!             Ok(None) => { /* implicit */ }
//!             Err(_) => { /* the client was sent its error */ }
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let display = Display::<State>::new()?;
//! let mut state = State { syncobj: DrmSyncobjState::new() };
//! // Only with a device that has timelines and tells their points through eventfds.
//! state.syncobj.create_global::<State>(&display.handle());
//! # Ok(())
//! # }
//! ```
//!
//! # Errors, rules and tests
//!
//! Every error of the XML, when a client gets it, and the tests that show that it gets this code and that another client
//! goes on. Of several errors that a commit deserves the uppermost of the last five is sent. A test checks this table:
//! each error is in it, each test exists.
//!
//! | error | rule | tests |
//! |---|---|---|
//! | surface_exists | `get_surface` of a surface that has an object already | `a_surface_has_one_object_at_a_time` |
//! | invalid_timeline | `import_timeline` of a file that the device does not take for a timeline | `a_file_that_is_no_timeline_is_invalid` |
//! | no_surface | `set_acquire_point` or `set_release_point` after the wl_surface was destroyed | `points_need_a_living_surface` |
//! | no_buffer | a commit with a point and without a new buffer, or with a null one | `points_without_a_buffer_are_an_error`, `points_and_buffers_come_together` |
//! | no_acquire_point | a commit with a buffer and without an acquire point | `a_buffer_without_points_is_an_error`, `points_and_buffers_come_together` |
//! | no_release_point | a commit with a buffer and without a release point | `a_buffer_without_points_is_an_error`, `points_and_buffers_come_together` |
//! | conflicting_points | both points on one timeline object, the release point not behind the acquire point | `a_release_point_comes_after_its_acquire_point`, `on_one_timeline_the_release_comes_after` |
//! | unsupported_buffer | a commit with a buffer that the compositor cannot synchronise explicitly | `a_buffer_of_another_kind_is_unsupported`, `points_and_buffers_come_together` |
//!
//! Two objects that were imported from one DRM syncobj count as two timelines: the kernel does not tell whether two files
//! are the same syncobj. Points in conflict on them hurt their client only.

mod dispatch;
mod points;
mod state;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use wayland_server::Client;

pub use dispatch::{DrmSyncobjGlobalData, DrmSyncobjSurfaceData, DrmSyncobjTimelineData};
pub use points::CommitFault;
pub use state::DrmSyncobjState;

/// A point on a timeline. Holding it holds the timeline, also after the client destroyed its object.
#[derive(Debug)]
pub struct SyncPoint<T> {
    /// The timeline, as imported; one `Arc` for each object that the client made.
    pub timeline: Arc<T>,
    /// The point's value.
    pub point: u64,
}

impl<T> Clone for SyncPoint<T> {
    fn clone(&self) -> Self {
        Self { timeline: Arc::clone(&self.timeline), point: self.point }
    }
}

/// The two points that come with a buffer.
#[derive(Debug)]
pub struct SyncPoints<T> {
    /// To be waited for before the buffer is read.
    pub acquire: SyncPoint<T>,
    /// To be signalled when the buffer is read no more for the sake of this commit.
    pub release: SyncPoint<T>,
}

/// What a commit does to the buffer of its surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// Nothing was attached since the last commit.
    Kept,
    /// The null buffer was attached.
    Removed,
    /// A buffer was attached.
    Buffer {
        /// It can be synchronised explicitly. The XML demands it of every linux-dmabuf buffer, also of one that
        /// `create_immed` could not import.
        explicit: bool,
    },
}

/// Why [`DrmSyncobjHandler::import_timeline`] gave no timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImportTimelineError {
    /// The file is no timeline that the device takes: the error invalid_timeline.
    #[error("the file cannot be imported as a timeline")]
    Invalid,
    /// The handler has ended the client itself, say over a quota.
    #[error("the client was ended")]
    Ended,
}

/// What the protocol asks of a compositor.
pub trait DrmSyncobjHandler: Sized + 'static {
    /// An imported timeline. It is dropped with its object and the last point on it, which has to give the device's
    /// handle back.
    type Timeline: Send + Sync + 'static;

    /// The protocol's state, which the compositor keeps.
    fn drm_syncobj_state(&mut self) -> &mut DrmSyncobjState<Self::Timeline>;

    /// Imports a timeline. The file is the handler's; it need not be kept.
    ///
    /// # Errors
    ///
    /// Why there is none; each variant of [`ImportTimelineError`] says what the client gets.
    fn import_timeline(
        &mut self,
        client: &Client,
        fd: OwnedFd,
    ) -> Result<Self::Timeline, ImportTimelineError>;
}

/// Implements the protocol's dispatch traits for a compositor's state, which has to be a [`DrmSyncobjHandler`].
#[macro_export]
macro_rules! delegate_drm_syncobj {
    ($ty:ty) => {
        $crate::wayland_server::delegate_global_dispatch!($ty: [
            $crate::wayland_protocols::wp::linux_drm_syncobj::v1::server::wp_linux_drm_syncobj_manager_v1::WpLinuxDrmSyncobjManagerV1:
                $crate::drm_syncobj::DrmSyncobjGlobalData
        ] => $crate::drm_syncobj::DrmSyncobjState<<$ty as $crate::drm_syncobj::DrmSyncobjHandler>::Timeline>);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::linux_drm_syncobj::v1::server::wp_linux_drm_syncobj_manager_v1::WpLinuxDrmSyncobjManagerV1:
                $crate::drm_syncobj::DrmSyncobjGlobalData
        ] => $crate::drm_syncobj::DrmSyncobjState<<$ty as $crate::drm_syncobj::DrmSyncobjHandler>::Timeline>);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::linux_drm_syncobj::v1::server::wp_linux_drm_syncobj_timeline_v1::WpLinuxDrmSyncobjTimelineV1:
                $crate::drm_syncobj::DrmSyncobjTimelineData<<$ty as $crate::drm_syncobj::DrmSyncobjHandler>::Timeline>
        ] => $crate::drm_syncobj::DrmSyncobjState<<$ty as $crate::drm_syncobj::DrmSyncobjHandler>::Timeline>);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::linux_drm_syncobj::v1::server::wp_linux_drm_syncobj_surface_v1::WpLinuxDrmSyncobjSurfaceV1:
                $crate::drm_syncobj::DrmSyncobjSurfaceData<<$ty as $crate::drm_syncobj::DrmSyncobjHandler>::Timeline>
        ] => $crate::drm_syncobj::DrmSyncobjState<<$ty as $crate::drm_syncobj::DrmSyncobjHandler>::Timeline>);
    };
}
