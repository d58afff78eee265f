//! Windows: their stacking, their place, which of them has the focus, and popups.
//!
//! It owns the order and position of windows in the space of all outputs (logical pixels, which are also pixels of
//! the output: the scale is 1). It draws nothing and talks to clients only through configure events.

pub mod layout;
mod place;

use std::collections::HashMap;

use smithay::backend::renderer::Color32F;
use smithay::desktop::{PopupManager, Window, WindowSurfaceType};
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_toplevel;
use smithay::reexports::wayland_server::backend::ObjectId;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{IsAlive, Logical, Physical, Point, Rectangle, Size};
use smithay::wayland::shell::xdg::ToplevelSurface;

use crate::output::layers::{SurfaceLayer, collect_tree};
use crate::render::BACKGROUND;

/// How large a window is shown; without either, as the client likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizing {
    /// As large as the output, with nothing but black behind it. Comes before `maximized`.
    pub fullscreen: bool,
    /// As large as the output.
    pub maximized: bool,
}

impl Sizing {
    fn is_floating(self) -> bool {
        self == Self::default()
    }
}

/// What a commit did to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// It has its first buffer.
    Mapped,
    /// It has lost its buffer.
    Unmapped,
}

/// A toplevel window.
#[derive(Debug)]
pub struct WindowEntry {
    /// smithay's view of it.
    pub window: Window,
    /// Where the window geometry's top left corner is.
    pub position: Point<i32, Logical>,
    /// It has been given a place.
    pub mapped: bool,
    /// How large it is shown.
    pub sizing: Sizing,
    /// The corner of the output that it fills while it is not floating.
    anchor: Point<i32, Logical>,
    /// Where it returns to after being maximized or full screen.
    restore: Option<(Point<i32, Logical>, Size<i32, Logical>)>,
    /// Where it returns to when an output that is gone comes back.
    home: Option<layout::Home>,
}

impl WindowEntry {
    fn geometry(&self) -> Rectangle<i32, Logical> {
        Rectangle::new(self.position, self.window.geometry().size)
    }

    /// Where the root surface's origin is.
    fn origin(&self) -> Point<i32, Logical> {
        self.position - self.window.geometry().loc
    }

    fn toplevel_surface(&self) -> Option<&WlSurface> {
        self.window.toplevel().map(ToplevelSurface::wl_surface)
    }

    /// Has a window that fills an output be as large as it is now.
    fn fill(&self, size: Size<i32, Logical>) {
        let Some(toplevel) = self.window.toplevel() else { return };
        toplevel.with_pending_state(|state| state.size = Some(size));
        if toplevel.is_initial_configure_sent() {
            toplevel.send_configure();
        }
    }

    /// Nothing below it is shown on an output with this area.
    fn covers(&self, area: Rectangle<i32, Logical>) -> bool {
        self.sizing.fullscreen && area.contains(self.anchor)
    }

    /// Appends what an output with this area shows of it, popups first.
    fn collect(&self, area: Rectangle<i32, Logical>, out: &mut Vec<SurfaceLayer>) {
        let Some(root) = self.toplevel_surface() else { return };
        let (origin, size) = (self.origin() - area.loc, area.size.to_physical(1));
        for (popup, offset) in PopupManager::popups_for_surface(root) {
            let at = origin + self.window.geometry().loc + offset - popup.geometry().loc;
            collect_tree(out, popup.wl_surface(), at.to_physical(1), size);
        }
        collect_tree(out, root, origin.to_physical(1), size);
    }
}

/// What one output shows.
#[derive(Debug)]
pub struct Scene {
    /// Topmost first.
    pub layers: Vec<SurfaceLayer>,
    /// A full-screen window keeps others from being shown.
    pub covers: bool,
    /// What is behind the layers.
    pub backdrop: Color32F,
}

/// All windows.
#[derive(Debug, Default)]
pub struct Shell {
    /// Bottom to top.
    windows: Vec<WindowEntry>,
    /// Popups of all windows.
    pub popups: PopupManager,
    /// The surfaces of xdg_surfaces that have had a role object.
    pub(crate) constructed: HashMap<ObjectId, WlSurface>,
    /// The xdg_surface that is getting its role object.
    pub(crate) constructing: Option<ObjectId>,
}

impl Shell {
    /// Bottom to top.
    pub fn windows(&self) -> impl DoubleEndedIterator<Item = &WindowEntry> {
        self.windows.iter()
    }

    /// Adds a window that has no place yet.
    pub fn add(&mut self, toplevel: ToplevelSurface) {
        self.windows.push(WindowEntry {
            window: Window::new_wayland_window(toplevel),
            position: (0, 0).into(),
            mapped: false,
            sizing: Sizing::default(),
            anchor: (0, 0).into(),
            restore: None,
            home: None,
        });
    }

    /// Removes a window whose toplevel is gone.
    pub fn remove(&mut self, surface: &WlSurface) {
        self.windows.retain(|w| w.window.alive() && w.toplevel_surface() != Some(surface));
    }

    /// The window of a toplevel's root surface.
    pub fn find(&self, surface: &WlSurface) -> Option<&WindowEntry> {
        self.windows.iter().find(|w| w.toplevel_surface() == Some(surface))
    }

    fn find_mut(&mut self, surface: &WlSurface) -> Option<&mut WindowEntry> {
        self.windows.iter_mut().find(|w| w.toplevel_surface() == Some(surface))
    }

    /// Handles a commit of a toplevel's root surface: places the window with its first buffer, takes its place away
    /// with its last.
    pub fn commit(
        &mut self,
        surface: &WlSurface,
        has_buffer: bool,
        area: Rectangle<i32, Logical>,
    ) -> Option<Mapping> {
        let index = self.windows.iter().position(|w| w.toplevel_surface() == Some(surface))?;
        let entry = &mut self.windows[index];
        entry.window.on_commit();
        if entry.sizing.fullscreen {
            // A client that insists on a smaller size is shown in the middle.
            let spare = (area.size - entry.window.geometry().size).to_point();
            entry.position = entry.anchor + Point::from((spare.x.max(0) / 2, spare.y.max(0) / 2));
        }
        let mapped = std::mem::replace(&mut entry.mapped, has_buffer);
        if mapped && !has_buffer {
            // To be shown again, the client starts anew.
            if let Some(toplevel) = entry.window.toplevel() {
                toplevel.reset_initial_configure_sent();
            }
            return Some(Mapping::Unmapped);
        }
        if mapped || !has_buffer {
            return None;
        }
        if entry.sizing.is_floating() {
            let size = entry.window.geometry().size;
            let others = self.windows.iter().enumerate().filter(|(other, w)| w.mapped && *other != index);
            let taken: Vec<_> = others.map(|(_, w)| w.geometry()).collect();
            self.windows[index].position = place::place(size, area, &taken);
        }
        Some(Mapping::Mapped)
    }

    /// The topmost window that has a place.
    pub fn topmost(&self) -> Option<WlSurface> {
        self.windows.iter().rev().find(|w| w.mapped).and_then(|w| w.toplevel_surface().cloned())
    }

    /// Puts a window on top and tells all windows which one is active.
    pub fn activate(&mut self, surface: Option<&WlSurface>) {
        if let Some(index) =
            self.windows.iter().position(|w| surface.is_some() && w.toplevel_surface() == surface)
        {
            let entry = self.windows.remove(index);
            self.windows.push(entry);
        }
        for entry in &self.windows {
            let active = surface.is_some() && entry.toplevel_surface() == surface;
            if entry.window.set_activated(active)
                && let Some(toplevel) = entry.window.toplevel().filter(|t| t.is_initial_configure_sent())
            {
                toplevel.send_pending_configure();
            }
        }
    }

    /// Changes how large a window is shown and tells the client. `area` is the output it goes to.
    pub fn set_sizing(
        &mut self,
        surface: &WlSurface,
        area: Rectangle<i32, Logical>,
        change: impl FnOnce(&mut Sizing),
    ) {
        let Some(entry) = self.find_mut(surface) else { return };
        let before = entry.sizing;
        change(&mut entry.sizing);
        let sizing = entry.sizing;
        entry.home = None;
        // A window that was never shown has no size to return to.
        let known = |size: Size<i32, Logical>| Some(size).filter(|s| s.w > 0 && s.h > 0);
        let mut size = known(entry.window.geometry().size);
        if before.is_floating() && !sizing.is_floating() {
            entry.restore = Some((entry.position, entry.window.geometry().size));
        }
        if !sizing.is_floating() {
            entry.position = area.loc;
            entry.anchor = area.loc;
            size = Some(area.size);
        } else if let Some((position, restored)) = entry.restore.take() {
            entry.position = position;
            size = known(restored);
        }
        let Some(toplevel) = entry.window.toplevel() else { return };
        toplevel.with_pending_state(|state| {
            state.size = size;
            for (flag, on) in [
                (xdg_toplevel::State::Fullscreen, sizing.fullscreen),
                (xdg_toplevel::State::Maximized, sizing.maximized),
            ] {
                if on {
                    state.states.set(flag)
                } else {
                    state.states.unset(flag)
                };
            }
        });
        if toplevel.is_initial_configure_sent() {
            toplevel.send_configure();
        }
    }

    /// Moves a window by hand.
    pub fn move_to(&mut self, surface: &WlSurface, position: Point<i32, Logical>) {
        if let Some(entry) = self.find_mut(surface).filter(|e| e.sizing.is_floating()) {
            entry.position = position;
            entry.home = None;
        }
    }

    /// The surface under a point and where its origin is, with the window's root surface.
    pub fn surface_under(
        &self,
        at: Point<f64, Logical>,
    ) -> Option<(WlSurface, Point<f64, Logical>, WlSurface)> {
        self.windows.iter().rev().filter(|w| w.mapped).find_map(|entry| {
            let origin = entry.origin();
            let inside = at - origin.to_f64();
            let (surface, offset) = entry.window.surface_under(inside, WindowSurfaceType::ALL)?;
            Some((surface, (origin + offset).to_f64(), entry.toplevel_surface()?.clone()))
        })
    }

    /// What an output shows, in `memory`. Below a full-screen window there is nothing but black (xdg_toplevel.set_fullscreen).
    pub fn scene(&self, area: Rectangle<i32, Logical>, mut memory: Vec<SurfaceLayer>) -> Scene {
        memory.clear();
        let mut scene = Scene { layers: memory, covers: false, backdrop: BACKGROUND };
        let size: Size<i32, Physical> = area.size.to_physical(1);
        let mut windows = self.shown_windows();
        for entry in windows.by_ref() {
            entry.collect(area, &mut scene.layers);
            if entry.covers(area) {
                scene.backdrop = Color32F::BLACK;
                // Blended over black, premultiplied pixels are shown as they are: no alpha is needed.
                if let Some(bottom) = scene.layers.last_mut() {
                    bottom.opaque |= bottom.dst == Rectangle::from_size(size);
                }
                scene.covers = windows.next().is_some();
                break;
            }
        }
        scene
    }

    /// Tells whether a full-screen window keeps a window from being shown on an output.
    pub fn is_covered(&self, surface: &WlSurface, area: Rectangle<i32, Logical>) -> bool {
        if !self.windows.iter().any(|w| w.covers(area)) {
            return false;
        }
        let mut windows = self.shown_windows();
        let above = |w: &&WindowEntry| w.toplevel_surface() != Some(surface);
        windows.by_ref().take_while(above).any(|w| w.covers(area)) && windows.any(|w| !above(&w))
    }

    /// The surfaces on an output that are not `seen`.
    pub fn behind(&self, area: Rectangle<i32, Logical>, seen: impl Fn(&WlSurface) -> bool) -> Vec<WlSurface> {
        let mut all = Vec::new();
        self.shown_windows().for_each(|entry| entry.collect(area, &mut all));
        all.into_iter().map(|layer| layer.surface).filter(|surface| !seen(surface)).collect()
    }

    /// Windows that are mapped, topmost first.
    fn shown_windows(&self) -> impl Iterator<Item = &WindowEntry> {
        self.windows.iter().rev().filter(|w| w.mapped && w.window.alive())
    }

    /// Where a window, its subsurfaces and its popups can be, in the space of all outputs.
    pub fn reach(&self, surface: &WlSurface) -> Option<Rectangle<i32, Logical>> {
        let entry = self.find(surface)?;
        let mut reach = entry.window.bbox_with_popups();
        reach.loc += entry.origin();
        Some(reach)
    }

    /// Where a window's geometry is, in the space of all outputs.
    pub fn geometry(&self, surface: &WlSurface) -> Option<Rectangle<i32, Logical>> {
        self.find(surface).map(WindowEntry::geometry)
    }
}
