//! `wp_alpha_modifier_v1`: clients say how much of a surface is seen, beside the alpha of its pixels.
//!
//! Owns: the protocol's objects, its rules and errors, the factor that is set for the commits of each surface. Does not own:
//! the committed state of surfaces, and what is made of it.
//!
//! smithay 0.7.0 has this protocol, too. There, the factor of a synchronized subsurface that is set and not committed takes
//! effect with its parent's commit, and a client that destroys a surface before its object is ended.
//!
//! # Use
//!
//! The compositor calls [`AlphaModifierState::commit`] once for each `wl_surface.commit`, before the commit has an effect,
//! and carries the factor with the rest of the commit's state.
//!
//! ```
//! use primeway_protocols::alpha_modifier::{AlphaModifierHandler, AlphaModifierState};
//! use wayland_server::Display;
//! use wayland_server::protocol::wl_surface::WlSurface;
//!
//! struct State { alpha: AlphaModifierState }
//!
//! impl AlphaModifierHandler for State {
//!     fn alpha_modifier_state(&mut self) -> &mut AlphaModifierState {
//!         &mut self.alpha
//!     }
//! }
//! primeway_protocols::delegate_alpha_modifier!(State);
//!
//! impl State {
//!     fn surface_commit(&mut self, surface: &WlSurface) {
//!         let seen = self.alpha.commit(surface).unwrap_or(u32::MAX);
//!         println!("{} of {} is seen", seen, u32::MAX);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let display = Display::<State>::new()?;
//! let state = State { alpha: AlphaModifierState::new::<State>(&display.handle()) };
//! # Ok(())
//! # }
//! ```
//!
//! # Errors, rules and tests
//!
//! | error | rule | tests |
//! |---|---|---|
//! | already_constructed | `get_surface` of a surface that has an object already | `a_surface_has_one_alpha_object_at_a_time` |
//! | no_surface | `set_multiplier` after the wl_surface was destroyed | `no_factor_is_set_on_a_surface_that_is_gone` |

use std::sync::{Mutex, PoisonError};

use wayland_protocols::wp::alpha_modifier::v1::server::{
    wp_alpha_modifier_surface_v1::{self, WpAlphaModifierSurfaceV1},
    wp_alpha_modifier_v1::{self, WpAlphaModifierV1},
};
use wayland_server::backend::{ClientId, GlobalId};
use wayland_server::protocol::wl_surface::WlSurface;
use wayland_server::{Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, Weak};

use crate::surface_objects::SurfaceObjects;

/// Version of the global.
const VERSION: u32 = 1;

/// State of the protocol, to be kept by the compositor.
#[derive(Debug)]
pub struct AlphaModifierState {
    global: GlobalId,
    /// The live object of each surface that has one.
    surfaces: SurfaceObjects<WpAlphaModifierSurfaceV1>,
}

impl AlphaModifierState {
    /// Creates the global.
    #[must_use]
    pub fn new<D>(display: &DisplayHandle) -> Self
    where
        D: GlobalDispatch<WpAlphaModifierV1, AlphaModifierGlobalData> + 'static,
    {
        let data = AlphaModifierGlobalData(());
        let global = display.create_global::<D, WpAlphaModifierV1, _>(VERSION, data);
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

    /// How much of `surface` is seen from the commit on that it is about to make: all at `u32::MAX`. `None` if nothing is
    /// said of that.
    pub fn commit(&self, surface: &WlSurface) -> Option<u32> {
        let data = self.surfaces.get(surface)?.data::<AlphaModifierSurfaceData>()?;
        *data.factor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the protocol asks of a compositor.
pub trait AlphaModifierHandler: Sized + 'static {
    /// The protocol's state, which the compositor keeps.
    fn alpha_modifier_state(&mut self) -> &mut AlphaModifierState;
}

/// User data of the global and of its objects.
#[derive(Debug)]
pub struct AlphaModifierGlobalData(());

/// User data of a surface's object: the factor for the next commit and all after it.
#[derive(Debug)]
pub struct AlphaModifierSurfaceData {
    surface: Weak<WlSurface>,
    factor: Mutex<Option<u32>>,
}

impl<D> GlobalDispatch<WpAlphaModifierV1, AlphaModifierGlobalData, D> for AlphaModifierState
where
    D: GlobalDispatch<WpAlphaModifierV1, AlphaModifierGlobalData>
        + Dispatch<WpAlphaModifierV1, AlphaModifierGlobalData>
        + 'static,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<WpAlphaModifierV1>,
        _global: &AlphaModifierGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, AlphaModifierGlobalData(()));
    }
}

impl<D> Dispatch<WpAlphaModifierV1, AlphaModifierGlobalData, D> for AlphaModifierState
where
    D: AlphaModifierHandler
        + Dispatch<WpAlphaModifierV1, AlphaModifierGlobalData>
        + Dispatch<WpAlphaModifierSurfaceV1, AlphaModifierSurfaceData>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        manager: &WpAlphaModifierV1,
        request: wp_alpha_modifier_v1::Request,
        _data: &AlphaModifierGlobalData,
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use wp_alpha_modifier_v1::{Error, Request};
        match request {
            Request::GetSurface { id, surface } => {
                // The id may stay without an object only because the error ends the client.
                if state.alpha_modifier_state().surfaces.has(&surface) {
                    manager.post_error(Error::AlreadyConstructed, "the surface has an alpha object already");
                    return;
                }
                let data =
                    AlphaModifierSurfaceData { surface: surface.downgrade(), factor: Mutex::default() };
                let object = data_init.init(id, data);
                state.alpha_modifier_state().surfaces.add(surface.id(), object);
            }
            // Other objects outlive the factory.
            Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }
}

impl<D> Dispatch<WpAlphaModifierSurfaceV1, AlphaModifierSurfaceData, D> for AlphaModifierState
where
    D: AlphaModifierHandler + Dispatch<WpAlphaModifierSurfaceV1, AlphaModifierSurfaceData>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        object: &WpAlphaModifierSurfaceV1,
        request: wp_alpha_modifier_surface_v1::Request,
        data: &AlphaModifierSurfaceData,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        use wp_alpha_modifier_surface_v1::{Error, Request};
        match request {
            Request::SetMultiplier { .. } if !data.surface.is_alive() => {
                object.post_error(Error::NoSurface, "the surface was destroyed");
            }
            Request::SetMultiplier { factor } => {
                *data.factor.lock().unwrap_or_else(PoisonError::into_inner) = Some(factor);
            }
            // The next commit unsets the factor.
            Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }

    fn destroyed(
        state: &mut D,
        _client: ClientId,
        object: &WpAlphaModifierSurfaceV1,
        data: &AlphaModifierSurfaceData,
    ) {
        state.alpha_modifier_state().surfaces.remove(&data.surface.id(), object);
    }
}

/// Implements the protocol's dispatch traits for a compositor's state, which has to be a [`AlphaModifierHandler`].
#[macro_export]
macro_rules! delegate_alpha_modifier {
    ($ty:ty) => {
        $crate::wayland_server::delegate_global_dispatch!($ty: [
            $crate::wayland_protocols::wp::alpha_modifier::v1::server::wp_alpha_modifier_v1::WpAlphaModifierV1:
                $crate::alpha_modifier::AlphaModifierGlobalData
        ] => $crate::alpha_modifier::AlphaModifierState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::alpha_modifier::v1::server::wp_alpha_modifier_v1::WpAlphaModifierV1:
                $crate::alpha_modifier::AlphaModifierGlobalData
        ] => $crate::alpha_modifier::AlphaModifierState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::alpha_modifier::v1::server::wp_alpha_modifier_surface_v1::WpAlphaModifierSurfaceV1:
                $crate::alpha_modifier::AlphaModifierSurfaceData
        ] => $crate::alpha_modifier::AlphaModifierState);
    };
}
