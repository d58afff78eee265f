//! Requests of the protocol's three interfaces.
//!
//! Owns: dispatch, the user data of the objects, posting errors. Does not own: the rules of a commit (`points`), which
//! surface has an object (`state`), importing ([`DrmSyncobjHandler`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wayland_protocols::wp::linux_drm_syncobj::v1::server::{
    wp_linux_drm_syncobj_manager_v1::{self, WpLinuxDrmSyncobjManagerV1},
    wp_linux_drm_syncobj_surface_v1::{self, WpLinuxDrmSyncobjSurfaceV1},
    wp_linux_drm_syncobj_timeline_v1::{self, WpLinuxDrmSyncobjTimelineV1},
};
use wayland_server::backend::ClientId;
use wayland_server::protocol::wl_surface::WlSurface;
use wayland_server::{Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, Weak};

use super::points::PendingPoints;
use super::{DrmSyncobjHandler, DrmSyncobjState, ImportTimelineError, SyncPoint};

/// User data of the global and of its objects.
#[derive(Debug)]
pub struct DrmSyncobjGlobalData(());

impl DrmSyncobjGlobalData {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// User data of a timeline object.
#[derive(Debug)]
pub struct DrmSyncobjTimelineData<T>(Arc<T>);

/// User data of a surface's synchronisation object: the points set since the last commit.
#[derive(Debug)]
pub struct DrmSyncobjSurfaceData<T> {
    surface: Weak<WlSurface>,
    points: Mutex<PendingPoints<T>>,
}

impl<T> DrmSyncobjSurfaceData<T> {
    pub(crate) fn points(&self) -> MutexGuard<'_, PendingPoints<T>> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, D> GlobalDispatch<WpLinuxDrmSyncobjManagerV1, DrmSyncobjGlobalData, D> for DrmSyncobjState<T>
where
    D: DrmSyncobjHandler<Timeline = T>
        + GlobalDispatch<WpLinuxDrmSyncobjManagerV1, DrmSyncobjGlobalData>
        + Dispatch<WpLinuxDrmSyncobjManagerV1, DrmSyncobjGlobalData>,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<WpLinuxDrmSyncobjManagerV1>,
        _global: &DrmSyncobjGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, DrmSyncobjGlobalData::new());
    }
}

impl<T, D> Dispatch<WpLinuxDrmSyncobjManagerV1, DrmSyncobjGlobalData, D> for DrmSyncobjState<T>
where
    T: Send + Sync + 'static,
    D: DrmSyncobjHandler<Timeline = T>
        + Dispatch<WpLinuxDrmSyncobjManagerV1, DrmSyncobjGlobalData>
        + Dispatch<WpLinuxDrmSyncobjTimelineV1, DrmSyncobjTimelineData<T>>
        + Dispatch<WpLinuxDrmSyncobjSurfaceV1, DrmSyncobjSurfaceData<T>>,
{
    fn request(
        state: &mut D,
        client: &Client,
        manager: &WpLinuxDrmSyncobjManagerV1,
        request: wp_linux_drm_syncobj_manager_v1::Request,
        _data: &DrmSyncobjGlobalData,
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use wp_linux_drm_syncobj_manager_v1::{Error, Request};
        match request {
            Request::GetSurface { id, surface } => {
                // An id may stay without an object only because the error ends the client; so below.
                if state.drm_syncobj_state().is_explicit(&surface) {
                    manager
                        .post_error(Error::SurfaceExists, "the surface has a synchronisation object already");
                    return;
                }
                let data = DrmSyncobjSurfaceData { surface: surface.downgrade(), points: Mutex::default() };
                let object = data_init.init(id, data);
                state.drm_syncobj_state().add_surface(surface.id(), object);
            }
            Request::ImportTimeline { id, fd } => match state.import_timeline(client, fd) {
                Ok(timeline) => {
                    data_init.init(id, DrmSyncobjTimelineData(Arc::new(timeline)));
                }
                Err(ImportTimelineError::Invalid) => {
                    manager.post_error(Error::InvalidTimeline, ImportTimelineError::Invalid.to_string());
                }
                Err(ImportTimelineError::Ended) => {}
            },
            // Other objects outlive the factory.
            Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }
}

impl<T, D> Dispatch<WpLinuxDrmSyncobjTimelineV1, DrmSyncobjTimelineData<T>, D> for DrmSyncobjState<T>
where
    T: Send + Sync + 'static,
    D: DrmSyncobjHandler<Timeline = T> + Dispatch<WpLinuxDrmSyncobjTimelineV1, DrmSyncobjTimelineData<T>>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _object: &WpLinuxDrmSyncobjTimelineV1,
        request: wp_linux_drm_syncobj_timeline_v1::Request,
        _data: &DrmSyncobjTimelineData<T>,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        match request {
            // Points that were set hold the timeline; without them it goes with the object.
            wp_linux_drm_syncobj_timeline_v1::Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }
}

impl<T, D> Dispatch<WpLinuxDrmSyncobjSurfaceV1, DrmSyncobjSurfaceData<T>, D> for DrmSyncobjState<T>
where
    T: Send + Sync + 'static,
    D: DrmSyncobjHandler<Timeline = T> + Dispatch<WpLinuxDrmSyncobjSurfaceV1, DrmSyncobjSurfaceData<T>>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        object: &WpLinuxDrmSyncobjSurfaceV1,
        request: wp_linux_drm_syncobj_surface_v1::Request,
        data: &DrmSyncobjSurfaceData<T>,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        use wp_linux_drm_syncobj_surface_v1::Request;
        match request {
            Request::SetAcquirePoint { timeline, point_hi, point_lo } => {
                if let Some(point) = data.point(object, &timeline, point_hi, point_lo) {
                    data.points().acquire = Some(point);
                }
            }
            Request::SetReleasePoint { timeline, point_hi, point_lo } => {
                if let Some(point) = data.point(object, &timeline, point_hi, point_lo) {
                    data.points().release = Some(point);
                }
            }
            // What was set since the last commit goes with the object.
            Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }

    fn destroyed(
        state: &mut D,
        _client: ClientId,
        object: &WpLinuxDrmSyncobjSurfaceV1,
        data: &DrmSyncobjSurfaceData<T>,
    ) {
        state.drm_syncobj_state().remove_surface(&data.surface.id(), object);
    }
}

impl<T: Send + Sync + 'static> DrmSyncobjSurfaceData<T> {
    /// The point that a request names; without a surface there is an error instead.
    fn point(
        &self,
        object: &WpLinuxDrmSyncobjSurfaceV1,
        timeline: &WpLinuxDrmSyncobjTimelineV1,
        high: u32,
        low: u32,
    ) -> Option<SyncPoint<T>> {
        if !self.surface.is_alive() {
            let code = wp_linux_drm_syncobj_surface_v1::Error::NoSurface;
            object.post_error(code, "the surface was destroyed");
            return None;
        }
        let Some(DrmSyncobjTimelineData(timeline)) = timeline.data() else {
            tracing::error!("a timeline of another implementation");
            return None;
        };
        Some(SyncPoint { timeline: Arc::clone(timeline), point: u64::from(high) << 32 | u64::from(low) })
    }
}
