//! xdg_wm_base and xdg_surface: the rules between a surface and its role that smithay 0.7 leaves out, or whose errors it
//! sends with another code or on another object than the XML says.

use std::sync::Mutex;

use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_surface::{self, XdgSurface};
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_toplevel;
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_wm_base::{self, XdgWmBase};
use smithay::reexports::wayland_server::backend::{ClientId, ObjectId};
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{Client, DataInit, Dispatch, DisplayHandle, Resource as _, Weak};
use smithay::wayland::compositor::with_states;
use smithay::wayland::shell::xdg::{
    SurfaceCachedState, XdgPopupSurfaceData, XdgShellHandler as _, XdgShellState, XdgSurfaceUserData,
    XdgToplevelSurfaceData, XdgWmBaseUserData,
};

use super::guard;
use crate::lock;
use crate::state::State;

/// The xdg_wm_base that a surface's xdg_surface came from.
#[derive(Debug, Default)]
struct Base(Mutex<Option<Weak<XdgWmBase>>>);

/// Ends the client with an error of xdg_wm_base, on the object that made the surface's xdg_surface.
pub(super) fn post_on_base(surface: &WlSurface, code: xdg_wm_base::Error, text: &str) {
    let base = with_states(surface, |states| {
        states.data_map.get::<Base>().and_then(|base| lock(&base.0).as_ref().and_then(|b| b.upgrade().ok()))
    });
    match base {
        Some(base) => base.post_error(code, text),
        None => tracing::error!(text, "no xdg_wm_base to raise an error on"),
    }
}

impl Dispatch<XdgWmBase, XdgWmBaseUserData> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        base: &XdgWmBase,
        request: xdg_wm_base::Request,
        data: &XdgWmBaseUserData,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        if let xdg_wm_base::Request::GetXdgSurface { surface, .. } = &request {
            if Self::is_mapped(surface) {
                let text = "an xdg_surface of a surface that shows a buffer";
                base.post_error(xdg_wm_base::Error::InvalidSurfaceState, text);
                return;
            }
            with_states(surface, |states| {
                let kept = states.data_map.get_or_insert_threadsafe(Base::default);
                *lock(&kept.0) = Some(base.downgrade());
            });
        }
        <XdgShellState as Dispatch<XdgWmBase, XdgWmBaseUserData, Self>>::request(
            state, client, base, request, data, display, init,
        );
    }

    fn destroyed(state: &mut Self, client: ClientId, base: &XdgWmBase, data: &XdgWmBaseUserData) {
        <XdgShellState as Dispatch<XdgWmBase, XdgWmBaseUserData, Self>>::destroyed(state, client, base, data);
    }
}

impl Dispatch<XdgSurface, XdgSurfaceUserData> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        xdg_surface: &XdgSurface,
        request: xdg_surface::Request,
        data: &XdgSurfaceUserData,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        use xdg_surface::{Error, Request};
        let Some(request) = guard::xdg_surface(xdg_surface, request, data) else { return };
        let surface = state.shell.constructed.get(&xdg_surface.id()).cloned();
        let role = surface.as_ref().filter(|surface| state.has_live_role(surface));
        match &request {
            Request::Destroy if role.is_some() => {
                xdg_surface.post_error(Error::DefunctRoleObject, "destroyed before its role object");
                return;
            }
            Request::GetToplevel { .. } | Request::GetPopup { .. } if role.is_some() => {
                xdg_surface.post_error(Error::AlreadyConstructed, "it has a role object already");
                return;
            }
            Request::GetToplevel { .. } | Request::GetPopup { .. } => {
                state.shell.constructing = Some(xdg_surface.id());
            }
            Request::AckConfigure { serial } => {
                if let Some(surface) = &surface
                    && !is_pending(surface, *serial)
                {
                    let text = format!("serial {serial} was not sent, or acknowledged already");
                    xdg_surface.post_error(Error::InvalidSerial, text);
                    return;
                }
            }
            _ => {}
        }
        <XdgShellState as Dispatch<XdgSurface, XdgSurfaceUserData, Self>>::request(
            state,
            client,
            xdg_surface,
            request,
            data,
            display,
            init,
        );
    }

    fn destroyed(state: &mut Self, client: ClientId, xdg_surface: &XdgSurface, data: &XdgSurfaceUserData) {
        state.shell.constructed.remove(&xdg_surface.id());
        <XdgShellState as Dispatch<XdgSurface, XdgSurfaceUserData, Self>>::destroyed(
            state,
            client,
            xdg_surface,
            data,
        );
    }
}

/// Whether a configure event of this serial waits for its acknowledgement.
fn is_pending(surface: &WlSurface, serial: u32) -> bool {
    with_states(surface, |states| {
        let toplevel = states.data_map.get::<XdgToplevelSurfaceData>().is_some_and(|data| {
            lock(data).pending_configures().iter().any(|configure| u32::from(configure.serial) == serial)
        });
        toplevel
            || states.data_map.get::<XdgPopupSurfaceData>().is_some_and(|data| {
                lock(data).pending_configures().iter().any(|configure| u32::from(configure.serial) == serial)
            })
    })
}

impl State {
    /// Remembers which surface the xdg_surface that is getting its role belongs to.
    pub(super) fn constructed(&mut self, surface: &WlSurface) {
        if let Some(id) = self.shell.constructing.take() {
            self.shell.constructed.insert(id, surface.clone());
        }
    }

    /// Whether the surface has an xdg_toplevel or xdg_popup that exists.
    pub(super) fn has_live_role(&mut self, surface: &WlSurface) -> bool {
        let shell = self.xdg_shell_state();
        shell.toplevel_surfaces().iter().any(|toplevel| toplevel.wl_surface() == surface)
            || shell.popup_surfaces().iter().any(|popup| popup.wl_surface() == surface)
    }

    /// Checks what a role demands of a surface that shows a buffer; if it is not so, the client gets the error.
    pub(crate) fn is_configured(&self, root: &WlSurface) -> bool {
        let configured = with_states(root, |states| {
            let toplevel = states.data_map.get::<XdgToplevelSurfaceData>().map(|data| lock(data).configured);
            let popup = states.data_map.get::<XdgPopupSurfaceData>().map(|data| lock(data).configured);
            toplevel.or(popup).unwrap_or(true)
        });
        if !configured {
            let owner = |(id, surface): (&ObjectId, &WlSurface)| (surface == root).then(|| id.clone());
            let display = &self.runtime.display;
            match self.shell.constructed.iter().find_map(owner).map(|id| XdgSurface::from_id(display, id)) {
                Some(Ok(xdg_surface)) => xdg_surface.post_error(
                    xdg_surface::Error::UnconfiguredBuffer,
                    "a buffer before the first configure event was acknowledged",
                ),
                _ => tracing::error!("no xdg_surface to raise an error on"),
            }
        }
        configured
    }

    /// Checks the committed limits of a toplevel's size.
    pub(super) fn check_limits(&self, root: &WlSurface) {
        let (least, most) = with_states(root, |states| {
            let mut cached = states.cached_state.get::<SurfaceCachedState>();
            let current = cached.current();
            (current.min_size, current.max_size)
        });
        let above = |least: i32, most: i32| most > 0 && least > most;
        if (above(least.w, most.w) || above(least.h, most.h))
            && let Some(toplevel) = self.shell.find(root).and_then(|w| w.window.toplevel())
        {
            let text = "the least size is above the most";
            toplevel.xdg_toplevel().post_error(xdg_toplevel::Error::InvalidSize, text);
        }
    }
}
