//! `wp_color_representation_manager_v1`: clients say which matrix and range a surface's luma and chroma are of, how alpha
//! affects colours, and where chroma samples lie.
//!
//! Owns: the protocol's objects, its rules and errors, what is set for the commits of each surface. Does not own: the
//! committed state of surfaces, what is made of it, and what is assumed where nothing was set.
//!
//! # Use
//!
//! The compositor calls [`ColorRepresentationState::commit`] once for each `wl_surface.commit`, before the commit has an
//! effect, and carries the [`Representation`] with the rest of the commit's state. It says what it supports once;
//! clients can set nothing else. A chroma location is not among that: the protocol allows each of them.
//!
//! ```
//! use primeway_protocols::color_representation::{
//!     AlphaMode, Coefficients, ColorRepresentationHandler, ColorRepresentationState, Contents, Model, Range,
//!     Supported,
//! };
//! use wayland_server::Display;
//! use wayland_server::protocol::wl_surface::WlSurface;
//!
//! struct State { color: ColorRepresentationState }
//!
//! impl ColorRepresentationHandler for State {
//!     fn color_representation_state(&mut self) -> &mut ColorRepresentationState {
//!         &mut self.color
//!     }
//! }
//! primeway_protocols::delegate_color_representation!(State);
//!
//! impl State {
//!     fn surface_commit(&mut self, surface: &WlSurface) {
//!         let nv12 = Contents::Pixels(Model::Ycbcr { is_420: true });
//!         if let Ok(set) = self.color.commit(surface, nv12) {
//!             println!("matrix and range: {:?}", set.coefficients);
//!         } // else the client was sent its error
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let display = Display::<State>::new()?;
//! let supported = Supported {
//!     alpha_modes: vec![AlphaMode::PremultipliedElectrical],
//!     coefficients: vec![(Coefficients::Bt709, Range::Limited)],
//! };
//! let state = State { color: ColorRepresentationState::new::<State>(&display.handle(), supported) };
//! # Ok(())
//! # }
//! ```
//!
//! # Errors, rules and tests
//!
//! Every error of the XML, when a client gets it, and the tests that show that it gets this code and that another client
//! goes on. A test checks this table: each error is in it, each test exists.
//!
//! | error | rule | tests |
//! |---|---|---|
//! | surface_exists | `get_surface` of a surface that has an object already | `a_surface_has_one_object_at_a_time` |
//! | alpha_mode | `set_alpha_mode` with a mode that was not offered | `a_mode_that_was_not_offered_is_an_error` |
//! | coefficients | `set_coefficients_and_range` with a combination that was not offered | `a_combination_that_was_not_offered_is_an_error` |
//! | pixel_format | a commit after which a surface shows RGB with another matrix than identity, luma and chroma with identity, or with a chroma location what is not 4:2:0 | `a_matrix_has_to_go_with_the_format`, `a_location_has_to_go_with_the_format`, `a_matrix_is_for_luma_and_chroma_and_identity_for_colours`, `a_chroma_location_is_for_420` |
//! | inert | a request but `destroy` after the wl_surface was destroyed | `nothing_is_set_on_a_surface_that_is_gone` |
//! | chroma_location | `set_chroma_location` with a value that the protocol does not have | `a_location_that_there_is_not_is_an_error` |
//!
//! Identity goes with RGB alone here: of the formats with luma and chroma, 4:4:4 could hold it by H.273, and no
//! producer is known that does so.

mod dispatch;
mod representation;
mod state;

pub use dispatch::{ColorRepresentationGlobalData, ColorRepresentationSurfaceData};
pub use representation::{
    AlphaMode, ChromaLocation, Coefficients, CommitFault, Contents, Model, Range, Representation, Supported,
};
pub use state::ColorRepresentationState;

/// What the protocol asks of a compositor.
pub trait ColorRepresentationHandler: Sized + 'static {
    /// The protocol's state, which the compositor keeps.
    fn color_representation_state(&mut self) -> &mut ColorRepresentationState;
}

/// Implements the protocol's dispatch traits for a compositor's state, which has to be a
/// [`ColorRepresentationHandler`].
#[macro_export]
macro_rules! delegate_color_representation {
    ($ty:ty) => {
        $crate::wayland_server::delegate_global_dispatch!($ty: [
            $crate::wayland_protocols::wp::color_representation::v1::server::wp_color_representation_manager_v1::WpColorRepresentationManagerV1:
                $crate::color_representation::ColorRepresentationGlobalData
        ] => $crate::color_representation::ColorRepresentationState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::color_representation::v1::server::wp_color_representation_manager_v1::WpColorRepresentationManagerV1:
                $crate::color_representation::ColorRepresentationGlobalData
        ] => $crate::color_representation::ColorRepresentationState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::color_representation::v1::server::wp_color_representation_surface_v1::WpColorRepresentationSurfaceV1:
                $crate::color_representation::ColorRepresentationSurfaceData
        ] => $crate::color_representation::ColorRepresentationState);
    };
}
