//! Protocols that give each surface at most one object of an interface: which object is whose.
//!
//! Owns the live objects. Does not own: what is set on them.

use std::collections::HashMap;

use wayland_server::Resource;
use wayland_server::backend::ObjectId;
use wayland_server::protocol::wl_surface::WlSurface;

/// The live object of each surface that has one.
#[derive(Debug)]
pub(crate) struct SurfaceObjects<I>(HashMap<ObjectId, I>);

impl<I> Default for SurfaceObjects<I> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<I: Resource + PartialEq> SurfaceObjects<I> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `surface` has one.
    pub(crate) fn has(&self, surface: &WlSurface) -> bool {
        self.0.contains_key(&surface.id())
    }

    /// That of `surface`.
    pub(crate) fn get(&self, surface: &WlSurface) -> Option<&I> {
        self.0.get(&surface.id())
    }

    /// Registers the object of a surface that has none.
    pub(crate) fn add(&mut self, surface: ObjectId, object: I) {
        self.0.insert(surface, object);
    }

    /// Forgets a destroyed object; the surface's number may be another one's by now.
    pub(crate) fn remove(&mut self, surface: &ObjectId, object: &I) {
        if self.0.get(surface).is_some_and(|known| known == object) {
            self.0.remove(surface);
        }
    }
}
