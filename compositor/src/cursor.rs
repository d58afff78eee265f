//! The pointer's image: the built-in arrow or a client's surface, and where it is.
//!
//! It owns the picture. Whether a cursor plane shows it or composition draws it is decided with the frame.

use smithay::backend::renderer::element::Id;
use smithay::backend::renderer::utils::CommitCounter;
use smithay::input::pointer::{CursorImageAttributes, CursorImageStatus};
use smithay::utils::{IsAlive, Physical, Point, Rectangle, Size};
use smithay::wayland::compositor::with_states;

use crate::lock;
use crate::output::layers;
use crate::render::{LayerElement, Painter, Texture};

const HOTSPOT_LIMIT: i32 = 1 << 16;
const ARROW: (i32, i32) = (16, 24);

/// The pointer as it is shown on one output.
#[derive(Debug)]
pub struct CursorLayer {
    /// Top left corner of the image, in pixels of the output.
    pub position: Point<i32, Physical>,
    /// Where in the image the pointer is.
    pub hotspot: Point<i32, Physical>,
    /// What to draw, topmost first, relative to `position`.
    pub elements: Vec<LayerElement>,
}

impl CursorLayer {
    /// What it covers, relative to `position`; `None` if there is nothing to be seen.
    pub fn bounds(&self) -> Option<Rectangle<i32, Physical>> {
        self.elements.iter().map(LayerElement::place).reduce(|all, place| all.merge(place))
    }

    /// The size of a buffer that holds all of it with `position` at its top left corner; `None` if some of it is beyond.
    pub fn size(&self) -> Option<(u32, u32)> {
        let bounds = self.bounds().filter(|bounds| bounds.loc.x >= 0 && bounds.loc.y >= 0)?;
        let (right, bottom) = (bounds.loc.x + bounds.size.w, bounds.loc.y + bounds.size.h);
        Some((u32::try_from(right).ok()?, u32::try_from(bottom).ok()?))
    }

    /// The elements at their place on the output.
    pub fn placed(self) -> impl Iterator<Item = LayerElement> {
        let position = self.position;
        self.elements.into_iter().map(move |e| e.moved(position))
    }
}

/// The pointer's image.
#[derive(Debug)]
pub struct Cursor {
    status: CursorImageStatus,
    arrow: Option<(Id, Texture)>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { status: CursorImageStatus::default_named(), arrow: None }
    }
}

impl Cursor {
    /// Takes what a client (or the seat) asked for.
    pub fn set(&mut self, status: CursorImageStatus) {
        self.status = status;
    }

    /// The surface that is shown, if it is one.
    pub fn surface(&self) -> Option<&smithay::reexports::wayland_server::protocol::wl_surface::WlSurface> {
        match &self.status {
            CursorImageStatus::Surface(surface) => Some(surface),
            _ => None,
        }
    }

    /// What is shown with the pointer at `at` (pixels of the output), if anything.
    pub fn layer(&mut self, painter: &mut Painter, at: Point<f64, Physical>) -> Option<CursorLayer> {
        let at = at.to_i32_floor::<i32>();
        match &self.status {
            CursorImageStatus::Hidden => None,
            CursorImageStatus::Surface(surface) if surface.alive() => {
                let hotspot = with_states(surface, |states| {
                    let attributes = states.data_map.get::<std::sync::Mutex<CursorImageAttributes>>();
                    attributes.map(|a| lock(a).hotspot).unwrap_or_default()
                });
                let mut trees = Vec::new();
                let everywhere = Size::from((i32::MAX / 2, i32::MAX / 2));
                layers::collect_tree(&mut trees, surface, (0, 0).into(), everywhere);
                let elements = trees.iter().filter_map(|l| painter.element(l).ok()).collect();
                // A client may send any number for the hotspot.
                let far = |v: i32| v.clamp(-HOTSPOT_LIMIT, HOTSPOT_LIMIT);
                let hotspot: Point<i32, Physical> = (far(hotspot.x), far(hotspot.y)).into();
                Some(CursorLayer { position: at - hotspot, hotspot, elements })
            }
            _ => {
                if self.arrow.is_none() {
                    self.arrow = Some((Id::new(), painter.picture(&arrow(), ARROW.into())?));
                }
                let (id, texture) = self.arrow.as_ref()?;
                let place = Rectangle::from_size(ARROW.into());
                let element =
                    LayerElement::still(id.clone(), CommitCounter::default(), texture.clone(), place);
                Some(CursorLayer { position: at, hotspot: (0, 0).into(), elements: vec![element] })
            }
        }
    }
}

/// A white arrow with a black edge, ARGB8888 premultiplied (bytes B, G, R, A), its tip at the top left.
fn arrow() -> Vec<u8> {
    let (width, height) = ARROW;
    // The outline of an arrow head with its lower edge cut at 45 degrees.
    let inside = |x: i32, y: i32| x >= 0 && y >= 0 && x <= y && x + y <= 22 && x <= 12;
    let mut pixels = Vec::with_capacity((width * height * 4) as usize);
    for y in 0..height {
        for x in 0..width {
            let edge = [(-1, 0), (1, 0), (0, -1), (0, 1)].iter().any(|(dx, dy)| !inside(x + dx, y + dy));
            pixels.extend(match (inside(x, y), edge) {
                (false, _) => [0, 0, 0, 0],
                (true, true) => [0, 0, 0, 255],
                (true, false) => [255, 255, 255, 255],
            });
        }
    }
    pixels
}
