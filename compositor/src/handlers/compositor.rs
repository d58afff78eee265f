//! wl_compositor: surfaces and their commits.

use smithay::backend::renderer::buffer_dimensions;
use smithay::backend::renderer::utils::{RendererSurfaceStateUserData, on_commit_buffer_handler};
use smithay::reexports::wayland_server::backend::ClientId;
use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::reexports::wayland_server::protocol::wl_callback::WlCallback;
use smithay::reexports::wayland_server::protocol::wl_compositor::WlCompositor;
use smithay::reexports::wayland_server::protocol::wl_region::WlRegion;
use smithay::reexports::wayland_server::protocol::wl_surface::{self, WlSurface};
use smithay::reexports::wayland_server::{
    Client, DataInit, Dispatch, DisplayHandle, Resource, delegate_dispatch, delegate_global_dispatch,
};
use smithay::wayland::buffer::BufferHandler;
use smithay::wayland::compositor::{
    BufferAssignment, CompositorClientState, CompositorHandler, CompositorState, RegionUserData,
    SurfaceAttributes, SurfaceUserData, add_pre_commit_hook, get_parent, is_sync_subsurface, with_states,
};
use smithay::wayland::seat::CURSOR_IMAGE_ROLE;

use super::attach;
use super::guard::{self, guarded_dispatch};
use crate::clients::{ClientState, over_quota};
use crate::lock;
use crate::output;
use crate::state::State;

impl CompositorHandler for State {
    fn compositor_state(&mut self) -> &mut CompositorState {
        &mut self.protocols.compositor
    }

    fn client_compositor_state<'a>(&self, client: &'a Client) -> &'a CompositorClientState {
        static STRAY: std::sync::OnceLock<CompositorClientState> = std::sync::OnceLock::new();
        match client.get_data::<ClientState>() {
            Some(data) => &data.compositor,
            None => {
                tracing::error!("client without data");
                STRAY.get_or_init(CompositorClientState::default)
            }
        }
    }

    fn new_surface(&mut self, surface: &WlSurface) {
        let client = surface.client();
        if let Some((client, data)) = client.as_ref().and_then(|c| Some((c, ClientState::of(c)?))) {
            let surfaces = {
                let mut usage = data.usage();
                usage.surfaces += 1;
                usage.surfaces
            };
            if surfaces > data.limits.surfaces {
                over_quota(&self.runtime.display, client, format!("{surfaces} surfaces"));
            }
        }
        add_pre_commit_hook::<Self, _>(surface, |state, _, surface| {
            check_scale(surface);
            output::commits(surface, state.runtime.clock.last());
            state.commit_color(surface);
            state.commit_alpha(surface);
            state.wait_for_fences(surface);
        });
    }

    fn commit(&mut self, surface: &WlSurface) {
        self.surface_answered(surface);
        super::subcompositor::place_children(surface);
        output::replace(surface);
        on_commit_buffer_handler::<Self>(surface);
        self.commit_popup(surface);
        if is_sync_subsurface(surface) {
            return;
        }
        let mut root = surface.clone();
        while let Some(parent) = get_parent(&root) {
            root = parent;
        }
        self.check_limits(&root);
        self.root_committed(&root);
    }

    fn destroyed(&mut self, surface: &WlSurface) {
        if let Some(data) = surface.client().as_ref().and_then(ClientState::of) {
            let mut usage = data.usage();
            usage.surfaces = usage.surfaces.saturating_sub(1);
        }
        self.forget_fences(surface);
        output::forget(surface);
        self.outputs.iter_mut().for_each(|entry| entry.state.surface_gone(surface));
        self.dmabuf.feedback.surface_gone(&self.runtime.timers, surface);
        self.queue_redraw_all();
    }
}

/// A buffer is a whole number of times its scale in size. Of cursors that is not demanded: clients use what their
/// themes have.
fn check_scale(surface: &WlSurface) {
    let wrong = with_states(surface, |states| {
        let mut guard = states.cached_state.get::<SurfaceAttributes>();
        let pending = guard.pending();
        let Some(BufferAssignment::NewBuffer(buffer)) = &pending.buffer else { return None };
        let (scale, size) = (pending.buffer_scale, buffer_dimensions(buffer)?);
        let whole = scale > 0 && size.w % scale == 0 && size.h % scale == 0;
        (!whole && states.role != Some(CURSOR_IMAGE_ROLE)).then_some((size, scale))
    });
    if let Some((size, scale)) = wrong {
        let text = format!("a buffer of {}x{} at scale {scale}", size.w, size.h);
        surface.post_error(wl_surface::Error::InvalidSize, text);
    }
}

/// Tells whether the surface shows a buffer.
pub(super) fn has_buffer(surface: &WlSurface) -> bool {
    with_states(surface, |states| {
        states.data_map.get::<RendererSurfaceStateUserData>().is_some_and(|s| lock(s).buffer().is_some())
    })
}

impl BufferHandler for State {
    /// Those of dma-bufs are `State::buffer_ended`'s.
    fn buffer_destroyed(&mut self, _: &WlBuffer) {}
}

// As delegate_compositor!, but guarded, and without what is in subcompositor.rs.
delegate_global_dispatch!(State: [WlCompositor: ()] => CompositorState);
delegate_dispatch!(State: [WlCompositor: ()] => CompositorState);

impl Dispatch<WlSurface, SurfaceUserData> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        surface: &WlSurface,
        request: wl_surface::Request,
        data: &SurfaceUserData,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        // Version 6 has an error for it.
        let has_role = matches!(request, wl_surface::Request::Destroy)
            && surface.version() >= 6
            && state.has_live_role(surface);
        if has_role {
            surface.post_error(wl_surface::Error::DefunctRoleObject, "destroyed before its role object");
            return;
        }
        let Some(request) = guard::surface(surface, request, data) else { return };
        let Some(request) = attach::keep(surface, request) else { return };
        let attached = matches!(request, wl_surface::Request::Commit).then(|| attach::take(surface));
        for request in attached.flatten().into_iter().chain([request]) {
            <CompositorState as Dispatch<WlSurface, SurfaceUserData, Self>>::request(
                state, client, surface, request, data, display, init,
            );
        }
    }

    fn destroyed(state: &mut Self, client: ClientId, surface: &WlSurface, data: &SurfaceUserData) {
        <CompositorState as Dispatch<WlSurface, SurfaceUserData, Self>>::destroyed(
            state, client, surface, data,
        );
    }
}

guarded_dispatch!(WlRegion, RegionUserData => CompositorState, guard::region);
delegate_dispatch!(State: [WlCallback: ()] => CompositorState);
