//! wl_subcompositor, where smithay's own would keep a change back.

use smithay::reexports::wayland_server::backend::ClientId;
use smithay::reexports::wayland_server::protocol::wl_subcompositor::WlSubcompositor;
use smithay::reexports::wayland_server::protocol::wl_subsurface::{self, WlSubsurface};
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{
    Client, DataInit, Dispatch, DisplayHandle, delegate_global_dispatch,
};
use smithay::wayland::compositor::{
    CompositorState, SubsurfaceCachedState, SubsurfaceUserData, get_children, with_states,
};

use super::guard::{self, guarded_dispatch};
use crate::state::State;

/// A subsurface's position is applied with its parent's commit, whatever its mode; smithay keeps it back until the
/// child's own.
pub(super) fn place_children(parent: &WlSurface) {
    for child in get_children(parent) {
        with_states(&child, |states| {
            let mut state = states.cached_state.get::<SubsurfaceCachedState>();
            let location = state.pending().location;
            state.current().location = location;
        });
    }
}

delegate_global_dispatch!(State: [WlSubcompositor: ()] => CompositorState);
guarded_dispatch!(WlSubcompositor, () => CompositorState, guard::subcompositor);

impl Dispatch<WlSubsurface, SubsurfaceUserData> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        subsurface: &WlSubsurface,
        request: wl_subsurface::Request,
        data: &SubsurfaceUserData,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        let Some(request) = guard::subsurface(subsurface, request, data) else { return };
        // A destroyed role unmaps the surface at once, without any commit.
        let destroyed = matches!(request, wl_subsurface::Request::Destroy);
        <CompositorState as Dispatch<WlSubsurface, SubsurfaceUserData, Self>>::request(
            state, client, subsurface, request, data, display, init,
        );
        if destroyed {
            state.queue_redraw_all();
        }
    }

    fn destroyed(state: &mut Self, client: ClientId, subsurface: &WlSubsurface, data: &SubsurfaceUserData) {
        <CompositorState as Dispatch<WlSubsurface, SubsurfaceUserData, Self>>::destroyed(
            state, client, subsurface, data,
        );
    }
}
