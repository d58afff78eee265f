//! The element that draws one composited layer: a texture, its damage and its place.

use std::sync::Arc;

use smithay::backend::renderer::element::{Element, Id, RenderElement};
use smithay::backend::renderer::gles::{GlesError, GlesFrame, GlesRenderer, GlesTexture};
use smithay::backend::renderer::pixman::{PixmanError, PixmanFrame, PixmanRenderer, PixmanTexture};
use smithay::backend::renderer::utils::{CommitCounter, DamageSet, DamageSnapshot, OpaqueRegions};
use smithay::backend::renderer::{Color32F, Frame};
use smithay::utils::{Buffer as BufferCoords, Physical, Point, Rectangle, Scale, Size, Transform};
use smithay::wayland::compositor::with_states;

use super::DmabufView;
use super::gles::bind_sampler;
use crate::output::layers::SurfaceLayer;

/// A picture that one of the renderers can read.
#[derive(Clone, Debug)]
pub enum Texture {
    /// For Pixman, with the client's memory that it reads from, if it is not a copy.
    Pixman(PixmanTexture, Option<Arc<DmabufView>>),
    /// For GLES, with the sampler object to read it through (0: none).
    Gles(GlesTexture, u32),
    /// None: black where the layer is opaque, and nothing elsewhere.
    Blank,
    /// None: full transparency, through which a plane below is seen.
    Hole,
}

/// A composited layer.
#[derive(Debug)]
pub struct LayerElement {
    id: Id,
    commit: CommitCounter,
    damage: DamageSnapshot<i32, BufferCoords>,
    /// The part of the buffer that is shown, in which damage is given.
    damage_src: Rectangle<f64, BufferCoords>,
    /// The part of the texture that is drawn.
    src: Rectangle<f64, BufferCoords>,
    dst: Rectangle<i32, Physical>,
    transform: Transform,
    opaque: Vec<Rectangle<i32, Physical>>,
    /// How much of it is seen, 1 for all.
    alpha: f32,
    texture: Texture,
}

impl LayerElement {
    /// The element of a layer; `resampled` is the size of its texture if that holds no more than is shown.
    pub(super) fn new(
        layer: &SurfaceLayer,
        texture: Texture,
        resampled: Option<Size<i32, BufferCoords>>,
    ) -> Self {
        Self {
            id: layer.id.clone(),
            commit: layer.commit,
            damage: layer.damage.clone(),
            damage_src: layer.src,
            src: resampled.map_or(layer.src, |size| Rectangle::from_size(size.to_f64())),
            dst: layer.dst,
            transform: layer.memory_transform(),
            opaque: if layer.alpha == u16::MAX { layer.opaque_regions.to_vec() } else { Vec::new() },
            alpha: f32::from(layer.alpha) / f32::from(u16::MAX),
            texture,
        }
    }

    /// What stands in for a layer that cannot be drawn.
    pub fn blank(layer: &SurfaceLayer) -> Self {
        Self::new(layer, Texture::Blank, None)
    }

    /// The hole through which the plane of a layer is seen: what is drawn below it is wiped out.
    pub fn hole(layer: &SurfaceLayer) -> Self {
        #[derive(Debug)]
        struct HoleId(Id);
        // Not the layer's own: nothing of its picture is there any more.
        let id = with_states(&layer.surface, |states| {
            states.data_map.get_or_insert_threadsafe(|| HoleId(Id::new())).0.clone()
        });
        let hole = Self::still(id, CommitCounter::default(), Texture::Hole, layer.dst);
        Self { opaque: vec![Rectangle::from_size(layer.dst.size)], ..hole }
    }

    /// The parts of `damage` (relative to the element) that are black for want of a texture.
    fn black(&self, damage: &[Rectangle<i32, Physical>]) -> Vec<Rectangle<i32, Physical>> {
        let opaque = self.opaque.iter();
        opaque.flat_map(|part| damage.iter().filter_map(|rect| rect.intersection(*part))).collect()
    }

    /// An element with contents that never change, at `place`.
    pub fn still(id: Id, commit: CommitCounter, texture: Texture, place: Rectangle<i32, Physical>) -> Self {
        let (w, h) = (f64::from(place.size.w), f64::from(place.size.h));
        Self {
            id,
            commit,
            damage: DamageSnapshot::empty(),
            damage_src: Rectangle::from_size((w, h).into()),
            src: Rectangle::from_size((w, h).into()),
            dst: place,
            transform: Transform::Normal,
            opaque: Vec::new(),
            alpha: 1.0,
            texture,
        }
    }

    /// Drawing it reads a client's dma-buf.
    pub(super) fn reads_dmabuf(&self) -> bool {
        matches!(self.texture, Texture::Pixman(_, Some(_)))
    }

    /// Where it is drawn.
    pub fn place(&self) -> Rectangle<i32, Physical> {
        self.dst
    }

    /// The element, moved by `by`.
    #[must_use]
    pub fn moved(mut self, by: Point<i32, Physical>) -> Self {
        self.dst.loc += by;
        self
    }
}

impl Element for LayerElement {
    fn id(&self) -> &Id {
        &self.id
    }

    fn current_commit(&self) -> CommitCounter {
        self.commit
    }

    fn src(&self) -> Rectangle<f64, BufferCoords> {
        self.src
    }

    fn transform(&self) -> Transform {
        self.transform
    }

    fn geometry(&self, _scale: Scale<f64>) -> Rectangle<i32, Physical> {
        self.dst
    }

    fn damage_since(&self, scale: Scale<f64>, commit: Option<CommitCounter>) -> DamageSet<i32, Physical> {
        let whole = Rectangle::from_size(self.geometry(scale).size);
        // Buffer damage maps to the output by a plain scale only without a transform; the rest is redrawn whole.
        let (Some(damage), Transform::Normal) = (self.damage.damage_since(commit), self.transform) else {
            return if commit == Some(self.commit) {
                DamageSet::default()
            } else {
                DamageSet::from_slice(&[whole])
            };
        };
        if self.damage_src.size.w <= 0.0 || self.damage_src.size.h <= 0.0 {
            return DamageSet::default();
        }
        let sx = f64::from(self.dst.size.w) / self.damage_src.size.w;
        let sy = f64::from(self.dst.size.h) / self.damage_src.size.h;
        let scaled = (sx, sy) != (1.0, 1.0);
        let rects: Vec<_> = damage
            .into_iter()
            .filter_map(|rect| rect.to_f64().intersection(self.damage_src))
            .filter_map(|rect| {
                let left = ((rect.loc.x - self.damage_src.loc.x) * sx).floor() as i32;
                let top = ((rect.loc.y - self.damage_src.loc.y) * sy).floor() as i32;
                let right = ((rect.loc.x + rect.size.w - self.damage_src.loc.x) * sx).ceil() as i32;
                let bottom = ((rect.loc.y + rect.size.h - self.damage_src.loc.y) * sy).ceil() as i32;
                // A bilinear filter reads one neighbour further.
                let more = i32::from(scaled) * (sx.max(sy).ceil() as i32).max(1);
                Rectangle::<i32, Physical>::new(
                    (left - more, top - more).into(),
                    (right - left + 2 * more, bottom - top + 2 * more).into(),
                )
                .intersection(whole)
            })
            .collect();
        DamageSet::from_slice(&rects)
    }

    fn alpha(&self) -> f32 {
        self.alpha
    }

    fn opaque_regions(&self, _scale: Scale<f64>) -> OpaqueRegions<i32, Physical> {
        OpaqueRegions::from_slice(&self.opaque)
    }
}

/// Damage of an element at `dst`, in pixels of the output.
fn placed(
    damage: &[Rectangle<i32, Physical>],
    dst: Rectangle<i32, Physical>,
) -> Vec<Rectangle<i32, Physical>> {
    damage.iter().map(|rect| Rectangle::new(rect.loc + dst.loc, rect.size)).collect()
}

/// An element of one renderer was given to the other: nothing can be drawn.
fn other_renderer() {
    tracing::error!("a texture of the other renderer");
}

impl RenderElement<PixmanRenderer> for LayerElement {
    fn draw(
        &self,
        frame: &mut PixmanFrame<'_, '_>,
        src: Rectangle<f64, BufferCoords>,
        dst: Rectangle<i32, Physical>,
        damage: &[Rectangle<i32, Physical>],
        opaque_regions: &[Rectangle<i32, Physical>],
    ) -> Result<(), PixmanError> {
        let (texture, view) = match &self.texture {
            Texture::Pixman(texture, view) => (texture, view),
            Texture::Blank => return frame.draw_solid(dst, &self.black(damage), Color32F::BLACK),
            Texture::Hole => return frame.clear(Color32F::TRANSPARENT, &placed(damage, dst)),
            Texture::Gles(..) => {
                other_renderer();
                return Ok(());
            }
        };
        let _reading = match view.as_ref().map(|view| view.begin_read()) {
            Some(Ok(guard)) => Some(guard),
            Some(Err(_)) => return Ok(()),
            None => None,
        };
        frame.render_texture_from_to(texture, src, dst, damage, opaque_regions, self.transform, self.alpha)
    }
}

impl RenderElement<GlesRenderer> for LayerElement {
    fn draw(
        &self,
        frame: &mut GlesFrame<'_, '_>,
        src: Rectangle<f64, BufferCoords>,
        dst: Rectangle<i32, Physical>,
        damage: &[Rectangle<i32, Physical>],
        opaque_regions: &[Rectangle<i32, Physical>],
    ) -> Result<(), GlesError> {
        let (texture, sampler) = match &self.texture {
            Texture::Gles(texture, sampler) => (texture, sampler),
            Texture::Blank => return frame.draw_solid(dst, &self.black(damage), Color32F::BLACK),
            Texture::Hole => return frame.clear(Color32F::TRANSPARENT, &placed(damage, dst)),
            Texture::Pixman(..) => {
                other_renderer();
                return Ok(());
            }
        };
        if *sampler != 0 {
            frame.with_context(|gl| bind_sampler(gl, *sampler))?;
        }
        let drawn = Frame::render_texture_from_to(
            frame,
            texture,
            src,
            dst,
            damage,
            opaque_regions,
            self.transform,
            self.alpha,
        );
        if *sampler != 0 {
            frame.with_context(|gl| bind_sampler(gl, 0))?;
        }
        drawn
    }
}
