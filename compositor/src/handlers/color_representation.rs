//! wp_color_representation_manager_v1: what clients say of their pixels comes with their commits. What is made of it is in
//! [`crate::output::color`].

use primeway_protocols::color_representation::{
    ColorRepresentationHandler, ColorRepresentationState, Contents, Model,
};
use primeway_protocols::delegate_color_representation;
use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::{BufferAssignment, SurfaceAttributes, with_states};
use smithay::wayland::dmabuf::get_dmabuf;
use smithay::wayland::shm::ShmBufferUserData;

use crate::output::color;
use crate::state::State;

impl ColorRepresentationHandler for State {
    fn color_representation_state(&mut self) -> &mut ColorRepresentationState {
        &mut self.protocols.color_representation
    }
}

impl State {
    /// Takes in what was said of a surface, which is about to commit.
    pub(super) fn commit_color(&mut self, surface: &WlSurface) {
        with_states(surface, |states| {
            let attached = match &states.cached_state.get::<SurfaceAttributes>().pending().buffer {
                Some(BufferAssignment::NewBuffer(buffer)) => Some(match get_dmabuf(buffer) {
                    Ok(dmabuf) => color::contents(dmabuf),
                    // Of wl_shm there is RGB alone; what is left has no pixels.
                    Err(_) if buffer.data::<ShmBufferUserData>().is_some() => Contents::Pixels(Model::Rgb),
                    Err(_) => Contents::None,
                }),
                Some(BufferAssignment::Removed) => Some(Contents::None),
                None => None,
            };
            let contents = color::attach(states, attached);
            // A commit with a fault ends its client.
            if let Ok(set) = self.protocols.color_representation.commit(surface, contents) {
                color::set(states, set);
            }
        });
    }
}

delegate_color_representation!(State);
