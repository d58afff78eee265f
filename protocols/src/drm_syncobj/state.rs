//! What the protocol remembers: the global, and which surface has its object.
//!
//! Owns: [`DrmSyncobjState`]. Does not own: requests (`dispatch`), the rules of a commit (`points`).

use wayland_protocols::wp::linux_drm_syncobj::v1::server::{
    wp_linux_drm_syncobj_manager_v1::WpLinuxDrmSyncobjManagerV1,
    wp_linux_drm_syncobj_surface_v1::WpLinuxDrmSyncobjSurfaceV1,
};
use wayland_server::backend::{GlobalId, ObjectId};
use wayland_server::protocol::wl_surface::WlSurface;
use wayland_server::{DisplayHandle, GlobalDispatch, Resource};

use super::{Attachment, CommitFault, DrmSyncobjGlobalData, DrmSyncobjSurfaceData, SyncPoints};
use crate::surface_objects::SurfaceObjects;

/// Version of the global.
const VERSION: u32 = 1;

/// State of the protocol, to be kept by the compositor. `T` is its
/// [`Timeline`](super::DrmSyncobjHandler::Timeline).
#[derive(Debug)]
pub struct DrmSyncobjState<T> {
    global: Option<GlobalId>,
    /// The live synchronisation object of each surface that has one.
    surfaces: SurfaceObjects<WpLinuxDrmSyncobjSurfaceV1>,
    timelines: std::marker::PhantomData<T>,
}

impl<T> Default for DrmSyncobjState<T> {
    fn default() -> Self {
        Self { global: None, surfaces: SurfaceObjects::default(), timelines: std::marker::PhantomData }
    }
}

impl<T: Send + Sync + 'static> DrmSyncobjState<T> {
    /// Without a global: for a compositor that finds no device with timelines, or not yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the global, unless there is one.
    pub fn create_global<D>(&mut self, display: &DisplayHandle)
    where
        D: GlobalDispatch<WpLinuxDrmSyncobjManagerV1, DrmSyncobjGlobalData> + 'static,
    {
        self.global.get_or_insert_with(|| {
            display.create_global::<D, WpLinuxDrmSyncobjManagerV1, _>(VERSION, DrmSyncobjGlobalData::new())
        });
    }

    /// The global's id, to disable or remove it.
    pub fn global(&self) -> Option<GlobalId> {
        self.global.clone()
    }

    /// Synchronisation objects of surfaces that clients hold.
    pub fn surface_objects(&self) -> usize {
        self.surfaces.len()
    }

    /// Whether the buffers of `surface` are synchronised explicitly.
    pub fn is_explicit(&self, surface: &WlSurface) -> bool {
        self.surfaces.has(surface)
    }

    /// Takes the points that belong to a commit of `surface`, to be called once for each `wl_surface.commit`.
    ///
    /// `None` for a surface whose buffers are synchronised implicitly, and for a commit without a buffer.
    ///
    /// # Errors
    ///
    /// The client's fault. It was posted already: the client ends, and its commit counts for nothing.
    pub fn commit(
        &mut self,
        surface: &WlSurface,
        attachment: Attachment,
    ) -> Result<Option<SyncPoints<T>>, CommitFault> {
        let Some(object) = self.surfaces.get(surface) else { return Ok(None) };
        let Some(data) = object.data::<DrmSyncobjSurfaceData<T>>() else { return Ok(None) };
        let taken = data.points().take(attachment);
        if let Err(fault) = &taken {
            tracing::debug!(surface = surface.id().protocol_id(), %fault, "commit refused");
            object.post_error(fault.code(), fault.to_string());
        }
        taken
    }

    /// Registers the object of a surface that has none.
    pub(crate) fn add_surface(&mut self, surface: ObjectId, object: WpLinuxDrmSyncobjSurfaceV1) {
        self.surfaces.add(surface, object);
    }

    /// Forgets a destroyed object.
    pub(crate) fn remove_surface(&mut self, surface: &ObjectId, object: &WpLinuxDrmSyncobjSurfaceV1) {
        self.surfaces.remove(surface, object);
    }
}
