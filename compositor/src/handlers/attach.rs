//! What is attached stays out of smithay's hands until its surface commits.
//!
//! smithay 0.7.0 applies what a synchronized subsurface has *pending* with its parent's commit (tree.rs,
//! `commit_sync_surface_tree`), and without the hooks that run before a commit: a buffer that was attached and not yet
//! committed would be shown, nobody would have waited for its fences, and the points that come with its own commit would find
//! no buffer, which ends the client. So buffers are kept here and handed over just before the commit.

use std::sync::Mutex;

use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::{Request, WlSurface};
use smithay::wayland::compositor::with_states;

use crate::lock;

/// The last attach since the surface's last commit.
#[derive(Debug, Default)]
struct Attached(Mutex<Option<Request>>);

/// Keeps an attach that has nothing wrong with it; gives every other request back.
pub(super) fn keep(surface: &WlSurface, request: Request) -> Option<Request> {
    match request {
        // An offset is an error since version 5, which must not come late.
        Request::Attach { x, y, .. } if surface.version() < 5 || (x, y) == (0, 0) => {
            with_states(surface, |states| {
                *lock(&states.data_map.get_or_insert_threadsafe(Attached::default).0) = Some(request);
            });
            None
        }
        other => Some(other),
    }
}

/// Takes what was kept, for a surface that is about to commit.
pub(super) fn take(surface: &WlSurface) -> Option<Request> {
    with_states(surface, |states| lock(&states.data_map.get::<Attached>()?.0).take())
}
