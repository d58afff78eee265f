//! xdg_wm_base: toplevels and popups.

use smithay::desktop::{PopupGrab, PopupKeyboardGrab, PopupKind, PopupPointerGrab, find_popup_root_surface};
use smithay::input::Seat;
use smithay::input::pointer::Focus;
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_popup::XdgPopup;
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_positioner::XdgPositioner;
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_toplevel::XdgToplevel;
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_wm_base::{self, XdgWmBase};
use smithay::reexports::wayland_server::protocol::wl_output::WlOutput;
use smithay::reexports::wayland_server::protocol::wl_seat::WlSeat;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{Resource as _, delegate_dispatch, delegate_global_dispatch};
use smithay::utils::{IsAlive as _, Logical, Rectangle, Serial};
use smithay::wayland::compositor::{get_role, with_states};
use smithay::wayland::shell::xdg::{
    PopupSurface, PositionerState, ToplevelSurface, XDG_POPUP_ROLE, XdgPopupSurfaceData,
    XdgPositionerUserData, XdgShellHandler, XdgShellState, XdgShellSurfaceUserData,
};

use super::guard::{self, guarded_dispatch};
use super::xdg_surface::post_on_base;
use crate::clients::over_quota;
use crate::lock;
use crate::shell::Sizing;
use crate::state::State;

/// Popups that may be open one above the other: menus have some ten levels.
const MAX_POPUPS: usize = 64;

/// The parent of a surface that is a popup.
fn popup_parent(surface: &WlSurface) -> Option<WlSurface> {
    with_states(surface, |states| {
        states.data_map.get::<XdgPopupSurfaceData>().and_then(|data| lock(data).parent.clone())
    })
}

impl XdgShellHandler for State {
    fn xdg_shell_state(&mut self) -> &mut XdgShellState {
        &mut self.protocols.xdg_shell
    }

    fn new_toplevel(&mut self, surface: ToplevelSurface) {
        self.constructed(surface.wl_surface());
        let bounds = self.work_area().size;
        surface.with_pending_state(|state| state.bounds = Some(bounds));
        self.shell.add(surface);
    }

    fn toplevel_destroyed(&mut self, surface: ToplevelSurface) {
        self.shell.remove(surface.wl_surface());
        self.focus_topmost();
        self.queue_redraw_all();
    }

    fn fullscreen_request(&mut self, surface: ToplevelSurface, output: Option<WlOutput>) {
        let area = self.area_of(output.as_ref());
        self.resize_window(&surface, area, |sizing| sizing.fullscreen = true);
    }

    fn unfullscreen_request(&mut self, surface: ToplevelSurface) {
        self.resize_window(&surface, self.work_area(), |sizing| sizing.fullscreen = false);
    }

    fn maximize_request(&mut self, surface: ToplevelSurface) {
        self.resize_window(&surface, self.work_area(), |sizing| sizing.maximized = true);
    }

    fn unmaximize_request(&mut self, surface: ToplevelSurface) {
        self.resize_window(&surface, self.work_area(), |sizing| sizing.maximized = false);
    }

    fn move_request(&mut self, surface: ToplevelSurface, _seat: WlSeat, serial: Serial) {
        self.start_move(surface.wl_surface(), serial);
    }

    fn new_popup(&mut self, surface: PopupSurface, positioner: PositionerState) {
        self.constructed(surface.wl_surface());
        // A parent without a role could become a descendant of its own: walks to the root would never end.
        let parent = surface.get_parent_surface();
        if parent.is_some_and(|p| p == *surface.wl_surface() || get_role(&p).is_none()) {
            let text = "the parent of a popup is a toplevel or popup that exists already";
            post_on_base(surface.wl_surface(), xdg_wm_base::Error::InvalidPopupParent, text);
            return;
        }
        if positioner.rect_size.is_empty() || positioner.anchor_rect.size.is_empty() {
            let text = "a positioner needs a size and an anchor rectangle";
            post_on_base(surface.wl_surface(), xdg_wm_base::Error::InvalidPositioner, text);
            return;
        }
        // smithay walks the chain for each of its popups, again and again.
        let ancestors = std::iter::successors(surface.get_parent_surface(), popup_parent);
        if ancestors.take(MAX_POPUPS + 1).count() > MAX_POPUPS {
            if let Some(client) = surface.wl_surface().client() {
                over_quota(&self.runtime.display, &client, format!("{MAX_POPUPS} popups of one another"));
            }
            return;
        }
        self.constrain(&surface, positioner);
        if let Err(err) = self.shell.popups.track_popup(PopupKind::Xdg(surface)) {
            tracing::debug!(%err, "popup without a parent");
        }
    }

    fn reposition_request(&mut self, surface: PopupSurface, positioner: PositionerState, token: u32) {
        self.constrain(&surface, positioner);
        surface.send_repositioned(token);
    }

    fn popup_destroyed(&mut self, _surface: PopupSurface) {
        self.shell.popups.cleanup();
        self.queue_redraw_all();
    }

    fn grab(&mut self, surface: PopupSurface, seat: WlSeat, serial: Serial) {
        let Some(seat) = Seat::<Self>::from_resource(&seat) else { return };
        let popup = PopupKind::Xdg(surface);
        let Ok(root) = find_popup_root_surface(&popup) else { return };
        let Ok(grab) = self.shell.popups.grab_popup(root, popup, &seat, serial) else { return };
        self.grab_for_popup(&seat, &grab, serial);
    }
}

impl State {
    fn resize_window(
        &mut self,
        surface: &ToplevelSurface,
        area: Rectangle<i32, Logical>,
        change: impl FnOnce(&mut Sizing),
    ) {
        self.shell.set_sizing(surface.wl_surface(), area, change);
        self.queue_redraw_all();
    }

    /// Keeps a popup inside the output of its window.
    fn constrain(&self, surface: &PopupSurface, positioner: PositionerState) {
        let popup = PopupKind::Xdg(surface.clone());
        let window = find_popup_root_surface(&popup).ok().and_then(|root| self.shell.geometry(&root));
        let geometry = match window {
            Some(window) => {
                let parent = smithay::desktop::get_popup_toplevel_coords(&popup);
                let mut target = self.work_area();
                target.loc -= window.loc + parent;
                positioner.get_unconstrained_geometry(target)
            }
            None => positioner.get_geometry(),
        };
        surface.with_pending_state(|state| {
            state.geometry = geometry;
            state.positioner = positioner;
        });
    }

    fn grab_for_popup(&mut self, seat: &Seat<Self>, grab: &PopupGrab<Self>, serial: Serial) {
        if let Some(keyboard) = seat.get_keyboard() {
            keyboard.set_focus(self, grab.current_grab(), serial);
            keyboard.set_grab(self, PopupKeyboardGrab::new(grab), serial);
        }
        if let Some(pointer) = seat.get_pointer() {
            pointer.set_grab(self, PopupPointerGrab::new(grab), serial, Focus::Keep);
        }
    }

    /// Sends the configure event that a new role waits for.
    pub(crate) fn send_initial_configure(&mut self, root: &WlSurface) {
        if let Some(toplevel) = self.shell.find(root).and_then(|w| w.window.toplevel())
            && !toplevel.is_initial_configure_sent()
        {
            toplevel.send_configure();
        }
        if let Some(PopupKind::Xdg(popup)) = self.shell.popups.find_popup(root)
            && !popup.is_initial_configure_sent()
            && let Err(err) = popup.send_configure()
        {
            tracing::debug!(%err, "popup not configured");
        }
    }

    /// Handles a commit of what may be a popup. One that neither its request nor another protocol gave a parent is an
    /// error now.
    pub(super) fn commit_popup(&mut self, surface: &WlSurface) {
        if get_role(surface) != Some(XDG_POPUP_ROLE) {
            return;
        }
        let popup = self.shell.popups.find_popup(surface);
        if popup.is_some_and(|popup| popup.alive() && popup_parent(surface).is_none()) {
            post_on_base(surface, xdg_wm_base::Error::InvalidPopupParent, "a popup without a parent");
            return;
        }
        self.shell.popups.commit(surface);
    }

    /// Tells whether the surface shows a buffer.
    pub(crate) fn is_mapped(root: &WlSurface) -> bool {
        super::compositor::has_buffer(root)
    }
}

// As delegate_xdg_shell!, but guarded; the rest is in xdg_surface.rs.
delegate_global_dispatch!(State: [XdgWmBase: ()] => XdgShellState);
delegate_dispatch!(State: [XdgPopup: XdgShellSurfaceUserData] => XdgShellState);
guarded_dispatch!(XdgPositioner, XdgPositionerUserData => XdgShellState, guard::xdg_positioner);
guarded_dispatch!(XdgToplevel, XdgShellSurfaceUserData => XdgShellState, guard::xdg_toplevel);
