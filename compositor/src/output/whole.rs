//! What a frame is as a whole, and what of each plane's buffer is new in it: facts that a backend may use to show it sooner
//! or with less work.

use std::num::NonZeroU32;

use drm_prime::scanout::{Plan, PlaneType, PrimaryContent, Rect};
use smithay::backend::renderer::damage::OutputDamageTracker;
use smithay::backend::renderer::element::Id;
use smithay::backend::renderer::utils::CommitCounter;
use smithay::utils::{Physical, Rectangle, Transform};

use super::layers::SurfaceLayer;
use super::{OutputState, RedrawParts};
use crate::backend::{Canvas, Damage, FrameSpec};
use crate::render::LayerElement;

/// Rectangles of damage that a plane is told; of more their bounds.
const MOST: usize = 8;

/// What a plane that is told of damage showed last.
#[derive(Debug)]
pub(super) struct Told {
    plane: NonZeroU32,
    surface: Id,
    commit: CommitCounter,
}

/// Damage of a picture that has a place on the output. At another place it is another picture: all of it is drawn anew, whatever
/// buffers of the same size hold.
#[derive(Debug, Default)]
pub(super) struct Tracker(Option<(Rect, OutputDamageTracker)>);

impl Tracker {
    /// The tracker of the picture at `place`.
    pub(super) fn of(&mut self, place: Rect) -> &mut OutputDamageTracker {
        let same = self.0.take().filter(|(before, _)| *before == place);
        let fresh = || {
            let side = |len: u32| i32::try_from(len).unwrap_or(i32::MAX);
            let size = (side(place.w), side(place.h));
            (place, OutputDamageTracker::new(size, 1.0, Transform::Normal))
        };
        &mut self.0.insert(same.unwrap_or_else(fresh)).1
    }
}

/// What is composed, and where on the output it is shown.
type Placed = (Canvas, Rect);

/// What of the composited picture is new, from one composition to the next, in pixels of the picture.
#[derive(Debug, Default)]
pub(super) struct Clips {
    tracker: Tracker,
    /// The picture drawn last, and what of it is not as in the one before; none for all of it.
    drawn: Option<(Placed, Option<Vec<Rect>>)>,
    /// What the plane was told to show last is the picture drawn last.
    shown: Option<Placed>,
}

impl Clips {
    /// A picture for a place was composed of these elements.
    pub(super) fn composed(&mut self, canvas: Canvas, place: Rect, elements: &[LayerElement]) {
        let canvas = (canvas, place);
        let damage = match self.tracker.of(place).damage_output(1, elements) {
            Ok((damage, _)) => Some(damage.map_or_else(Vec::new, |all| bounded(all.iter().map(rect)))),
            Err(err) => {
                tracing::debug!(%err, "damage not known");
                None
            }
        };
        // Of two pictures since the last frame, what is new in either.
        let damage = match self.drawn.take() {
            None => damage,
            Some((before, known)) => known.zip(damage).filter(|_| before == canvas).map(|(mut all, more)| {
                all.extend(more);
                bounded(all.into_iter())
            }),
        };
        self.drawn = Some((canvas, damage));
    }

    /// The picture drawn last is about to be shown after the one before it: what of it is new?
    fn told(&mut self) -> Option<Vec<Rect>> {
        let (canvas, damage) = self.drawn.take()?;
        let before = self.shown.replace(canvas);
        damage.filter(|_| before == Some(canvas))
    }
}

fn rect(r: &Rectangle<i32, Physical>) -> Rect {
    Rect::new(r.loc.x.max(0), r.loc.y.max(0), r.size.w.max(0) as u32, r.size.h.max(0) as u32)
}

impl OutputState {
    /// What was said of damage may not be what the planes show.
    pub(super) fn forget_told(&mut self) {
        self.told.clear();
        (self.clips.drawn, self.clips.shown) = (None, None);
    }

    /// Fills in what a frame is as a whole.
    pub(super) fn pace(&self, spec: &mut FrameSpec, layers: &[SurfaceLayer], plan: &Plan) {
        let full =
            layers.first().filter(|layer| plan.visible == 1 && layer.dst_rect().contains(&self.picture()));
        spec.alone = full.is_some();
        spec.tearing = full.is_some_and(|layer| layer.tearing) && plan.primary == PrimaryContent::Layer(0);
    }

    /// Fills in what has changed on planes that gain from being told, since the frame that is on the screen.
    pub(super) fn tell_damage(
        &mut self,
        spec: &mut FrameSpec,
        layers: &[SurfaceLayer],
        plan: &Plan,
        parts: &RedrawParts<'_>,
    ) {
        let before = std::mem::take(&mut self.told);
        if plan.primary == PrimaryContent::Composited {
            let primary = parts.backend.planes(self.id).iter().find(|p| p.kind == PlaneType::Primary);
            let primary = primary.map(|primary| primary.id);
            let update = spec.planes.iter_mut().find(|update| Some(update.plane) == primary);
            if let (Some(rects), Some(update)) = (self.clips.told(), update) {
                update.damage = Damage(Some(rects));
            }
        } else {
            (self.clips.drawn, self.clips.shown) = (None, None);
        }
        for (layer, plane) in layers.iter().zip(&plan.planes) {
            let Some(plane) = plane.filter(|plane| parts.backend.takes_damage(self.id, *plane)) else {
                continue;
            };
            let known = before.iter().find(|t| t.plane == plane && t.surface == layer.id);
            let damage = known.and_then(|told| layer.damage.damage_since(Some(told.commit)));
            let rects = damage.map(|damage| {
                bounded(damage.iter().map(|r| {
                    Rect::new(r.loc.x.max(0), r.loc.y.max(0), r.size.w.max(0) as u32, r.size.h.max(0) as u32)
                }))
            });
            self.told.push(Told { plane, surface: layer.id.clone(), commit: layer.commit });
            let update = spec.planes.iter_mut().find(|update| update.plane == plane);
            if let Some(update) = update {
                update.damage = Damage(rects);
            }
        }
    }
}

/// So many rectangles at most, and no empty ones.
fn bounded(rects: impl Iterator<Item = Rect>) -> Vec<Rect> {
    let mut all: Vec<Rect> = rects.filter(|r| r.area() > 0).collect();
    if all.len() > MOST {
        let (mut left, mut top, mut right, mut bottom) = (i64::MAX, i64::MAX, 0, 0);
        for r in &all {
            (left, top) = (left.min(r.x.into()), top.min(r.y.into()));
            right = right.max(i64::from(r.x) + i64::from(r.w));
            bottom = bottom.max(i64::from(r.y) + i64::from(r.h));
        }
        let len = |from: i64, to: i64| u32::try_from(to - from).unwrap_or(u32::MAX);
        let corner = |v: i64| i32::try_from(v).unwrap_or(i32::MAX);
        all = vec![Rect::new(corner(left), corner(top), len(left, right), len(top, bottom))];
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Texture;

    #[test]
    fn what_is_new_is_told_in_pixels_of_the_picture_and_all_of_it_elsewhere() {
        let canvas = Canvas::Primary(128, 64);
        let (here, there) = (Rect::new(64, 0, 128, 64), Rect::new(128, 64, 128, 64));
        let (id, mut clips, mut commit) = (Id::new(), Clips::default(), CommitCounter::default());
        let mut compose = |clips: &mut Clips, place: Rect| {
            commit.increment();
            // Something at 80, 70 of the output.
            let at = Rectangle::<i32, Physical>::new((80 - place.x, 70 - place.y).into(), (60, 10).into());
            let element = LayerElement::still(id.clone(), commit, Texture::Hole, at);
            clips.composed(canvas, place, &[element]);
        };
        compose(&mut clips, there);
        assert_eq!(clips.told(), None, "the first one");
        compose(&mut clips, there);
        assert_eq!(clips.told(), Some(vec![Rect::new(0, 6, 12, 10)]), "what of it is in the picture");
        compose(&mut clips, here);
        assert_eq!(clips.told(), None, "another picture of the same size");
        compose(&mut clips, here);
        compose(&mut clips, there);
        assert_eq!(clips.told(), None, "of which one was never shown");
    }

    #[test]
    fn many_rectangles_become_their_bounds() {
        let few: Vec<Rect> = (0..8).map(|i| Rect::new(i * 10, 5, 3, 3)).collect();
        assert_eq!(bounded(few.iter().copied()), few);
        let many = (0..9).map(|i| Rect::new(i * 10, 5 + i, 3, 3));
        assert_eq!(bounded(many), [Rect::new(0, 5, 83, 11)]);
        assert_eq!(bounded([Rect::new(1, 1, 0, 5)].into_iter()), []);
    }
}
