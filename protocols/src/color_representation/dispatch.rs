//! Requests of the protocol's two interfaces.
//!
//! Owns: dispatch, the user data of the objects, posting errors. Does not own: the rules of a commit (`representation`),
//! which surface has an object (`state`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use wayland_protocols::wp::color_representation::v1::server::{
    wp_color_representation_manager_v1::{self, WpColorRepresentationManagerV1},
    wp_color_representation_surface_v1::{self, WpColorRepresentationSurfaceV1},
};
use wayland_server::backend::ClientId;
use wayland_server::protocol::wl_surface::WlSurface;
use wayland_server::{Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, Weak};

use super::{ColorRepresentationHandler, ColorRepresentationState, Representation};

/// User data of the global and of its objects.
#[derive(Debug)]
pub struct ColorRepresentationGlobalData(());

impl ColorRepresentationGlobalData {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// User data of a surface's object: what its client has set, for the next commit and all after it.
#[derive(Debug)]
pub struct ColorRepresentationSurfaceData {
    surface: Weak<WlSurface>,
    set: Mutex<Representation>,
}

impl ColorRepresentationSurfaceData {
    pub(crate) fn set(&self) -> MutexGuard<'_, Representation> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D> GlobalDispatch<WpColorRepresentationManagerV1, ColorRepresentationGlobalData, D>
    for ColorRepresentationState
where
    D: ColorRepresentationHandler
        + GlobalDispatch<WpColorRepresentationManagerV1, ColorRepresentationGlobalData>
        + Dispatch<WpColorRepresentationManagerV1, ColorRepresentationGlobalData>,
{
    fn bind(
        state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<WpColorRepresentationManagerV1>,
        _global: &ColorRepresentationGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        let manager = data_init.init(resource, ColorRepresentationGlobalData::new());
        let supported = state.color_representation_state().supported();
        supported.alpha_modes.iter().for_each(|mode| manager.supported_alpha_mode(*mode));
        for (coefficients, range) in &supported.coefficients {
            manager.supported_coefficients_and_ranges(*coefficients, *range);
        }
        manager.done();
    }
}

impl<D> Dispatch<WpColorRepresentationManagerV1, ColorRepresentationGlobalData, D>
    for ColorRepresentationState
where
    D: ColorRepresentationHandler
        + Dispatch<WpColorRepresentationManagerV1, ColorRepresentationGlobalData>
        + Dispatch<WpColorRepresentationSurfaceV1, ColorRepresentationSurfaceData>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        manager: &WpColorRepresentationManagerV1,
        request: wp_color_representation_manager_v1::Request,
        _data: &ColorRepresentationGlobalData,
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use wp_color_representation_manager_v1::{Error, Request};
        match request {
            Request::GetSurface { id, surface } => {
                // The id may stay without an object only because the error ends the client.
                if state.color_representation_state().has_object(&surface) {
                    manager
                        .post_error(Error::SurfaceExists, "the surface has a colour representation already");
                    return;
                }
                let data =
                    ColorRepresentationSurfaceData { surface: surface.downgrade(), set: Mutex::default() };
                let object = data_init.init(id, data);
                state.color_representation_state().add_surface(surface.id(), object);
            }
            // Other objects outlive the factory.
            Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }
}

impl<D> Dispatch<WpColorRepresentationSurfaceV1, ColorRepresentationSurfaceData, D>
    for ColorRepresentationState
where
    D: ColorRepresentationHandler + Dispatch<WpColorRepresentationSurfaceV1, ColorRepresentationSurfaceData>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        object: &WpColorRepresentationSurfaceV1,
        request: wp_color_representation_surface_v1::Request,
        data: &ColorRepresentationSurfaceData,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        use wp_color_representation_surface_v1::{Error, Request};
        if !matches!(request, Request::Destroy) && !data.surface.is_alive() {
            object.post_error(Error::Inert, "the surface was destroyed");
            return;
        }
        let supported = state.color_representation_state().supported();
        match request {
            Request::SetAlphaMode { alpha_mode } => match supported.alpha_mode(alpha_mode) {
                Some(mode) => data.set().alpha_mode = Some(mode),
                None => object.post_error(Error::AlphaMode, format!("{alpha_mode:?} was not offered")),
            },
            Request::SetCoefficientsAndRange { coefficients, range } => {
                match supported.coefficients(coefficients, range) {
                    Some(pair) => data.set().coefficients = Some(pair),
                    None => {
                        let text = format!("{coefficients:?} in range {range:?} was not offered");
                        object.post_error(Error::Coefficients, text);
                    }
                }
            }
            Request::SetChromaLocation { chroma_location } => match chroma_location.into_result() {
                Ok(location) => data.set().chroma_location = Some(location),
                Err(_) => {
                    object.post_error(Error::ChromaLocation, format!("there is no {chroma_location:?}"));
                }
            },
            // The next commit unsets everything.
            Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }

    fn destroyed(
        state: &mut D,
        _client: ClientId,
        object: &WpColorRepresentationSurfaceV1,
        data: &ColorRepresentationSurfaceData,
    ) {
        state.color_representation_state().remove_surface(&data.surface.id(), object);
    }
}
