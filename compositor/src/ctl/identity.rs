//! Who a surface is: its process, its window, and its part in that window.

use serde::{Deserialize, Serialize};
use smithay::desktop::{PopupManager, find_popup_root_surface};
use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::{
    TraversalAction, get_parent, get_role, with_states, with_surface_tree_downward,
};
use smithay::wayland::shell::xdg::XdgToplevelSurfaceData;

use super::table::plain;
use crate::clients::ClientState;
use crate::shell::Shell;
use crate::state::State;

/// Who a surface is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its client's process.
    pub pid: i32,
    /// That process's user.
    pub uid: u32,
    /// Its connection, by a number that is never used again.
    pub connection: u64,
    /// Its object id on the client's connection.
    pub surface: u32,
    /// The object id of its window's surface, which may be itself.
    pub window: u32,
    /// toplevel, popup, subsurface or none.
    pub role: String,
    /// The app id of its window.
    pub app_id: Option<String>,
    /// The title of its window.
    pub title: Option<String>,
}

impl Identity {
    /// Looks a surface up.
    pub fn of(surface: &WlSurface, shell: &Shell) -> Self {
        let window = window_of(surface, shell);
        let (app_id, title) = with_states(&window, |states| {
            let data = states.data_map.get::<XdgToplevelSurfaceData>().map(|d| crate::lock(d));
            data.map(|d| (d.app_id.clone(), d.title.clone())).unwrap_or_default()
        });
        let role = match get_role(surface) {
            Some("xdg_toplevel") => "toplevel",
            Some("xdg_popup") => "popup",
            Some(other) => other,
            None => "none",
        };
        let client = surface.client();
        let data = client.as_ref().and_then(ClientState::of);
        let credentials = data.and_then(|data| data.credentials);
        Self {
            pid: credentials.map_or(0, |c| c.pid),
            uid: credentials.map_or(0, |c| c.uid),
            connection: data.map_or(0, ClientState::number),
            surface: surface.id().protocol_id(),
            window: window.id().protocol_id(),
            role: role.to_owned(),
            app_id,
            title,
        }
    }

    /// For people: `mpv (pid 4121)`, or `subsurface of mpv (pid 4121)`.
    pub fn name(&self) -> String {
        let app = self.app_id.as_deref().filter(|id| !id.is_empty()).map(plain);
        let app = app.unwrap_or_else(|| "a window".to_owned());
        let pid = self.pid;
        match self.role.as_str() {
            "toplevel" => format!("{app} (pid {pid})"),
            role => format!("{role} {} of {app} (pid {pid})", self.surface),
        }
    }

    /// The same surface, whatever it is called by now.
    pub fn is(&self, other: &Self) -> bool {
        (self.connection, self.surface) == (other.connection, other.surface)
    }
}

/// The toplevel surface that a surface belongs to, or as near to it as can be found.
fn window_of(surface: &WlSurface, shell: &Shell) -> WlSurface {
    let mut root = surface.clone();
    while let Some(parent) = get_parent(&root) {
        root = parent;
    }
    let popup = shell.popups.find_popup(&root);
    popup.and_then(|popup| find_popup_root_surface(&popup).ok()).unwrap_or(root)
}

/// The surfaces of every window that has a place, the topmost window first; each with its popups and subsurfaces.
pub fn surfaces(state: &State) -> Vec<WlSurface> {
    let mut all = Vec::new();
    for entry in state.shell.windows().rev().filter(|entry| entry.mapped) {
        let Some(root) = entry.window.toplevel().map(|toplevel| toplevel.wl_surface().clone()) else {
            continue;
        };
        for (popup, _) in PopupManager::popups_for_surface(&root) {
            tree(popup.wl_surface(), &mut all);
        }
        tree(&root, &mut all);
    }
    all
}

fn tree(root: &WlSurface, out: &mut Vec<WlSurface>) {
    with_surface_tree_downward(
        root,
        (),
        |_, _, ()| TraversalAction::DoChildren(()),
        |surface, _, ()| out.push(surface.clone()),
        |_, _, ()| true,
    );
}
