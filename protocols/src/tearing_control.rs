//! `wp_tearing_control_manager_v1`: clients say of a surface that it may be shown at once, even if the picture tears.
//!
//! Owns: the protocol's objects, its rule and its error. Does not own: surfaces' state, and whether anything tears.
//!
//! # Use
//!
//! The hint is double-buffered: [`TearingControlHandler::presentation_hint`] is told of each change, and the compositor
//! keeps it with the pending state of the surface, so that it takes effect with the next commit, also that of a synchronized
//! subsurface. A surface without an object has the hint [`PresentationHint::Vsync`].
//!
//! ```
//! use primeway_protocols::tearing_control::{PresentationHint, TearingControlHandler, TearingControlState};
//! use wayland_server::Display;
//! use wayland_server::protocol::wl_surface::WlSurface;
//!
//! struct State { tearing: TearingControlState }
//!
//! impl TearingControlHandler for State {
//!     fn tearing_control_state(&mut self) -> &mut TearingControlState {
//!         &mut self.tearing
//!     }
//!     fn presentation_hint(&mut self, surface: &WlSurface, hint: PresentationHint) { /* pending state */ }
//! }
//! primeway_protocols::delegate_tearing_control!(State);
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let display = Display::<State>::new()?;
//! let state = State { tearing: TearingControlState::new::<State>(&display.handle()) };
//! # Ok(())
//! # }
//! ```
//!
//! # Errors, rules and tests
//!
//! | error | rule | tests |
//! |---|---|---|
//! | tearing_control_exists | `get_tearing_control` of a surface that has an object already | `a_surface_has_one_tearing_object_at_a_time` |

use wayland_protocols::wp::tearing_control::v1::server::{
    wp_tearing_control_manager_v1::{self, WpTearingControlManagerV1},
    wp_tearing_control_v1::{self, WpTearingControlV1},
};
use wayland_server::backend::{ClientId, GlobalId};
use wayland_server::protocol::wl_surface::WlSurface;
use wayland_server::{Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, WEnum, Weak};

use crate::surface_objects::SurfaceObjects;

pub use wp_tearing_control_v1::PresentationHint;

/// Version of the global.
const VERSION: u32 = 1;

/// State of the protocol, to be kept by the compositor.
#[derive(Debug)]
pub struct TearingControlState {
    global: GlobalId,
    /// The live object of each surface that has one.
    surfaces: SurfaceObjects<WpTearingControlV1>,
}

impl TearingControlState {
    /// Creates the global.
    #[must_use]
    pub fn new<D>(display: &DisplayHandle) -> Self
    where
        D: GlobalDispatch<WpTearingControlManagerV1, TearingControlGlobalData> + 'static,
    {
        let data = TearingControlGlobalData(());
        let global = display.create_global::<D, WpTearingControlManagerV1, _>(VERSION, data);
        Self { global, surfaces: SurfaceObjects::default() }
    }

    /// The global's id, to disable or remove it.
    pub fn global(&self) -> GlobalId {
        self.global.clone()
    }

    /// Objects of surfaces that clients hold.
    pub fn surface_objects(&self) -> usize {
        self.surfaces.len()
    }
}

/// What the protocol asks of a compositor.
pub trait TearingControlHandler: Sized + 'static {
    /// The protocol's state, which the compositor keeps.
    fn tearing_control_state(&mut self) -> &mut TearingControlState;

    /// A hint was set for the next commit of a surface.
    fn presentation_hint(&mut self, surface: &WlSurface, hint: PresentationHint);
}

/// User data of the global and of its objects.
#[derive(Debug)]
pub struct TearingControlGlobalData(());

/// User data of a surface's object.
#[derive(Debug)]
pub struct TearingControlSurfaceData(Weak<WlSurface>);

impl<D> GlobalDispatch<WpTearingControlManagerV1, TearingControlGlobalData, D> for TearingControlState
where
    D: GlobalDispatch<WpTearingControlManagerV1, TearingControlGlobalData>
        + Dispatch<WpTearingControlManagerV1, TearingControlGlobalData>
        + 'static,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<WpTearingControlManagerV1>,
        _global: &TearingControlGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, TearingControlGlobalData(()));
    }
}

impl<D> Dispatch<WpTearingControlManagerV1, TearingControlGlobalData, D> for TearingControlState
where
    D: TearingControlHandler
        + Dispatch<WpTearingControlManagerV1, TearingControlGlobalData>
        + Dispatch<WpTearingControlV1, TearingControlSurfaceData>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        manager: &WpTearingControlManagerV1,
        request: wp_tearing_control_manager_v1::Request,
        _data: &TearingControlGlobalData,
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use wp_tearing_control_manager_v1::{Error, Request};
        match request {
            Request::GetTearingControl { id, surface } => {
                // The id may stay without an object only because the error ends the client.
                if state.tearing_control_state().surfaces.has(&surface) {
                    manager
                        .post_error(Error::TearingControlExists, "the surface has a tearing object already");
                    return;
                }
                let object = data_init.init(id, TearingControlSurfaceData(surface.downgrade()));
                state.tearing_control_state().surfaces.add(surface.id(), object);
            }
            // Other objects outlive the factory.
            Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }
}

impl<D> Dispatch<WpTearingControlV1, TearingControlSurfaceData, D> for TearingControlState
where
    D: TearingControlHandler + Dispatch<WpTearingControlV1, TearingControlSurfaceData>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        _object: &WpTearingControlV1,
        request: wp_tearing_control_v1::Request,
        data: &TearingControlSurfaceData,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        use wp_tearing_control_v1::Request;
        match (request, data.0.upgrade()) {
            // A hint that no version of the protocol has counts for nothing: the XML has no error for it.
            (Request::SetPresentationHint { hint: WEnum::Value(hint) }, Ok(surface)) => {
                state.presentation_hint(&surface, hint);
            }
            (Request::Destroy, Ok(surface)) => state.presentation_hint(&surface, PresentationHint::Vsync),
            // Without its surface the object is inert.
            _ => {}
        }
    }

    fn destroyed(
        state: &mut D,
        _client: ClientId,
        object: &WpTearingControlV1,
        data: &TearingControlSurfaceData,
    ) {
        state.tearing_control_state().surfaces.remove(&data.0.id(), object);
    }
}

/// Implements the protocol's dispatch traits for a compositor's state, which has to be a [`TearingControlHandler`].
#[macro_export]
macro_rules! delegate_tearing_control {
    ($ty:ty) => {
        $crate::wayland_server::delegate_global_dispatch!($ty: [
            $crate::wayland_protocols::wp::tearing_control::v1::server::wp_tearing_control_manager_v1::WpTearingControlManagerV1:
                $crate::tearing_control::TearingControlGlobalData
        ] => $crate::tearing_control::TearingControlState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::tearing_control::v1::server::wp_tearing_control_manager_v1::WpTearingControlManagerV1:
                $crate::tearing_control::TearingControlGlobalData
        ] => $crate::tearing_control::TearingControlState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::tearing_control::v1::server::wp_tearing_control_v1::WpTearingControlV1:
                $crate::tearing_control::TearingControlSurfaceData
        ] => $crate::tearing_control::TearingControlState);
    };
}
