//! Which plane shows which layer.

use std::num::NonZeroU32;

use super::geometry::Rect;
use super::layer::{Layer, Scannable};
use super::plan::{Plan, PrimaryContent};
use super::plane::{PlaneCaps, PlaneType};
use super::refusal::Refusal;

fn covers(layer: &Layer, output: Rect) -> bool {
    let (l, o) = (layer.dst, output);
    i64::from(l.x) <= i64::from(o.x)
        && i64::from(l.y) <= i64::from(o.y)
        && i64::from(l.x) + i64::from(l.w) >= i64::from(o.x) + i64::from(o.w)
        && i64::from(l.y) + i64::from(l.h) >= i64::from(o.y) + i64::from(o.h)
}

pub(super) fn visible_layers(layers: &[Layer], output: Rect) -> usize {
    layers.iter().position(|l| l.opaque && covers(l, output)).map_or(layers.len(), |i| i + 1)
}

/// Decides which plane shows which layer.
///
/// `planes` are the planes that the CRTC can use, in any order; `layers` go from the topmost down; `output` is the
/// CRTC's whole picture. `test` is asked about each step of a growing plan, in which every layer without a plane
/// counts as composited; its error (a TEST_ONLY commit's errno) becomes [`Refusal::Test`] for that pair.
pub fn plan(
    planes: &[PlaneCaps],
    layers: &[Layer],
    output: Rect,
    mut test: impl FnMut(&Plan) -> Result<(), rustix::io::Errno>,
) -> Plan {
    let mut plan = Plan::composite_all(layers, output);
    let primary = planes.iter().find(|p| p.kind == PlaneType::Primary);
    let mut overlays: Vec<&PlaneCaps> = planes.iter().filter(|p| p.kind == PlaneType::Overlay).collect();
    overlays.sort_by_key(|p| std::cmp::Reverse(p.stack));
    let mut composited: Vec<usize> = Vec::new();

    for (index, layer) in layers.iter().enumerate().take(plan.visible) {
        let scannable = match &layer.content {
            Ok(scannable) => *scannable,
            Err(refusal) => {
                plan.refusals.extend(planes.iter().map(|p| (index, p.id, refusal.clone())));
                composited.push(index);
                continue;
            }
        };
        let covered = composited.iter().copied().find(|&c| layers[c].dst.overlaps(&layer.dst));
        let mut candidates: Vec<&PlaneCaps> = Vec::with_capacity(planes.len());
        candidates.extend(primary);
        candidates.extend(&overlays);
        for plane in planes.iter().filter(|p| p.kind == PlaneType::Cursor) {
            plan.refusals.push((index, plane.id, Refusal::CursorPlane));
        }
        for plane in candidates {
            let is_last = index + 1 == plan.visible;
            let refusal = if plane.kind == PlaneType::Primary {
                refuse_primary(layer, output, is_last && composited.is_empty())
            } else {
                refuse_overlay(plane, primary, layer, covered, &plan, layers, planes)
            };
            if let Some(refusal) = refusal.or_else(|| refuse_format(plane, scannable)) {
                plan.refusals.push((index, plane.id, refusal));
                continue;
            }
            let before = plan.primary;
            plan.planes[index] = Some(plane.id);
            if plane.kind == PlaneType::Primary {
                plan.primary = PrimaryContent::Layer(index);
            }
            match test(&plan) {
                Ok(()) => break,
                Err(errno) => {
                    plan.planes[index] = None;
                    plan.primary = before;
                    plan.refusals.push((index, plane.id, Refusal::Test { errno }));
                }
            }
        }
        if plan.planes[index].is_none() {
            composited.push(index);
        }
    }
    plan
}

pub(super) fn refuse_primary(layer: &Layer, output: Rect, nothing_composited: bool) -> Option<Refusal> {
    if layer.dst != output {
        Some(Refusal::NotFullOutput { dst: layer.dst })
    } else if !layer.opaque {
        Some(Refusal::NotOpaque)
    } else if !nothing_composited {
        Some(Refusal::HoldsComposited)
    } else {
        None
    }
}

pub(super) fn refuse_overlay(
    plane: &PlaneCaps,
    primary: Option<&PlaneCaps>,
    layer: &Layer,
    covered: Option<usize>,
    plan: &Plan,
    layers: &[Layer],
    planes: &[PlaneCaps],
) -> Option<Refusal> {
    let (Some(stack), Some(base)) = (plane.stack, primary.and_then(|p| p.stack)) else {
        return Some(Refusal::StackingUnknown);
    };
    if stack <= base {
        return Some(Refusal::BelowPrimary);
    }
    if let Some(layer) = covered {
        return Some(Refusal::CoveredByComposited { layer });
    }
    if let Some(layer) = plan.planes.iter().position(|p| *p == Some(plane.id)) {
        return Some(Refusal::Taken { layer });
    }
    // Everything already on a plane is above this layer; where they overlap, the planes must agree.
    let stack_of = |id: NonZeroU32| planes.iter().find(|p| p.id == id).and_then(|p| p.stack);
    plan.planes.iter().enumerate().find_map(|(above, id)| {
        let above_stack = stack_of((*id)?)?;
        (layers[above].dst.overlaps(&layer.dst) && above_stack <= stack)
            .then_some(Refusal::StackOrder { layer: above })
    })
}

fn refuse_format(plane: &PlaneCaps, content: Scannable) -> Option<Refusal> {
    if !plane.formats.contains(&(content.format, content.modifier)) {
        return Some(Refusal::Format { format: content.format, modifier: u64::from(content.modifier) });
    }
    (content.y_invert && !plane.reflect_y).then_some(Refusal::NoReflectY)
}
