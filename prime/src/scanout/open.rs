//! For which planes nothing but a layer's buffer matters: what feedback to clients rests on.

use super::geometry::Rect;
use super::layer::Layer;
use super::plan::Plan;
use super::plane::{PlaneCaps, PlaneType};
use super::refusal::Refusal;
use super::search::{refuse_overlay, refuse_primary};

/// The planes for which nothing but its buffer matters to a layer: one that shows it, or whose formats or memory are all
/// that keep it from being shown there. Empty for a layer that no other buffer would bring onto a plane.
///
/// `planes`, `layers` and `output` are those that `made` was made of. What the driver says in a test is not considered:
/// a plane that refused the layer so can be among those of a layer that another one shows.
pub fn open_planes<'a>(
    planes: &'a [PlaneCaps],
    layers: &[Layer],
    output: Rect,
    made: &Plan,
    layer: usize,
) -> Vec<&'a PlaneCaps> {
    let (Some(content), true) = (layers.get(layer).map(|l| &l.content), layer < made.visible) else {
        return Vec::new();
    };
    match content {
        Ok(_) if made.planes[layer].is_none() => {
            let refusals = made.refusals_of(layer);
            let refused = |p: &&PlaneCaps| {
                refusals.iter().any(|(_, id, r)| *id == p.id && matches!(r, Refusal::Format { .. }))
            };
            return planes.iter().filter(refused).collect();
        }
        Err(refusal) if !refusal.is_of_the_buffer() => return Vec::new(),
        _ => {}
    }
    let above = made.above(layer);
    let composited: Vec<usize> = (0..layer).filter(|&i| above.planes[i].is_none()).collect();
    let covered = composited.iter().copied().find(|&c| layers[c].dst.overlaps(&layers[layer].dst));
    let primary = planes.iter().find(|p| p.kind == PlaneType::Primary);
    let bottom = layer + 1 == made.visible && composited.is_empty();
    let refuse = |p: &PlaneCaps| match p.kind {
        PlaneType::Cursor => Some(Refusal::CursorPlane),
        PlaneType::Primary => refuse_primary(&layers[layer], output, bottom),
        PlaneType::Overlay => refuse_overlay(p, primary, &layers[layer], covered, &above, layers, planes),
    };
    planes.iter().filter(|p| refuse(p).is_none()).collect()
}
