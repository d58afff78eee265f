//! What the protocol remembers: the global, what is supported, and which surface has its object.
//!
//! Owns: [`ColorRepresentationState`]. Does not own: requests (`dispatch`), the rules of a commit (`representation`).

use wayland_protocols::wp::color_representation::v1::server::{
    wp_color_representation_manager_v1::WpColorRepresentationManagerV1,
    wp_color_representation_surface_v1::{Error, WpColorRepresentationSurfaceV1},
};
use wayland_server::backend::{GlobalId, ObjectId};
use wayland_server::protocol::wl_surface::WlSurface;
use wayland_server::{DisplayHandle, GlobalDispatch, Resource};

use super::{
    ColorRepresentationGlobalData, ColorRepresentationSurfaceData, CommitFault, Contents, Representation,
    Supported,
};
use crate::surface_objects::SurfaceObjects;

/// Version of the global.
const VERSION: u32 = 1;

/// State of the protocol, to be kept by the compositor.
#[derive(Debug)]
pub struct ColorRepresentationState {
    global: GlobalId,
    supported: Supported,
    /// The live object of each surface that has one.
    surfaces: SurfaceObjects<WpColorRepresentationSurfaceV1>,
}

impl ColorRepresentationState {
    /// Creates the global, which offers what is supported.
    pub fn new<D>(display: &DisplayHandle, supported: Supported) -> Self
    where
        D: GlobalDispatch<WpColorRepresentationManagerV1, ColorRepresentationGlobalData> + 'static,
    {
        let data = ColorRepresentationGlobalData::new();
        let global = display.create_global::<D, WpColorRepresentationManagerV1, _>(VERSION, data);
        Self { global, supported, surfaces: SurfaceObjects::default() }
    }

    /// The global's id, to disable or remove it.
    pub fn global(&self) -> GlobalId {
        self.global.clone()
    }

    /// What clients may set.
    pub fn supported(&self) -> &Supported {
        &self.supported
    }

    /// Objects of surfaces that clients hold.
    pub fn surface_objects(&self) -> usize {
        self.surfaces.len()
    }

    /// Whether `surface` has an object.
    pub fn has_object(&self, surface: &WlSurface) -> bool {
        self.surfaces.has(surface)
    }

    /// What a commit of `surface` sets, to be called once for each `wl_surface.commit`. `contents` is what the surface
    /// shows from this commit on, be it attached by it or by one before.
    ///
    /// # Errors
    ///
    /// The client's fault. It was posted already: the client ends, and its commit counts for nothing.
    pub fn commit(&self, surface: &WlSurface, contents: Contents) -> Result<Representation, CommitFault> {
        let Some(object) = self.surfaces.get(surface) else { return Ok(Representation::default()) };
        let Some(data) = object.data::<ColorRepresentationSurfaceData>() else {
            return Ok(Representation::default());
        };
        let set = *data.set();
        if let Err(fault) = set.check(contents) {
            tracing::debug!(surface = surface.id().protocol_id(), %fault, "commit refused");
            object.post_error(Error::PixelFormat, fault.to_string());
            return Err(fault);
        }
        Ok(set)
    }

    /// Registers the object of a surface that has none.
    pub(crate) fn add_surface(&mut self, surface: ObjectId, object: WpColorRepresentationSurfaceV1) {
        self.surfaces.add(surface, object);
    }

    /// Forgets a destroyed object.
    pub(crate) fn remove_surface(&mut self, surface: &ObjectId, object: &WpColorRepresentationSurfaceV1) {
        self.surfaces.remove(surface, object);
    }
}
