//! For which planes nothing but a layer's buffer matters: what feedback to clients rests on.

use std::cmp::Reverse;

use super::Scene;
use super::assign::{Assignment, Exclusions, Problem, Side, Who};
use super::plan::{Plan, PrimaryContent};
use super::plane::PlaneCaps;
use super::planner::MAX_CANDIDATES;
use super::refusal::Refusal;

/// The planes for which nothing but its buffer matters to a layer: one that shows it, or whose formats or memory are all
/// that keep it from being shown there. Empty for a layer that no other buffer would bring onto a plane.
///
/// `scene` is what `made` was made of. What the driver says in a test is considered only as far as it was asked: a plane
/// that refused the layer is not among those of a layer that another one shows.
pub fn open_planes<'a>(scene: &Scene<'a>, made: &Plan, layer: usize) -> Vec<&'a PlaneCaps> {
    let visible = layer < made.visible && made.hidden.get(layer) == Some(&None);
    let (Some(content), true) = (scene.layers.get(layer).map(|l| &l.content), visible) else {
        return Vec::new();
    };
    if matches!(content, Err(refusal) if !refusal.is_of_the_buffer()) {
        return Vec::new();
    }
    let excluded: Exclusions = made
        .refusals
        .iter()
        .filter(|(.., refusal)| is_the_drivers(refusal))
        .map(|(layer, plane, refusal)| (Who::Layer(*layer), *plane, refusal.clone()))
        .collect();
    let by_the_buffer = |plane: &PlaneCaps| {
        let mut refusals = made.refusals_of(layer).iter().filter(|(_, id, _)| *id == plane.id);
        refusals.any(|(.., refusal)| refusal.is_of_the_buffer())
    };
    let shown = made.planes[layer].is_some();
    if !shown && content.is_ok() && !scene.planes.iter().any(by_the_buffer) {
        return Vec::new();
    }
    let order = order(scene, made, layer);
    let problem = Problem {
        scene,
        visible: made.visible,
        hidden: &made.hidden,
        order: &order,
        before: &made.planes,
        excluded: &excluded,
        wild: Some(layer),
    };
    let a = if shown { assignment(scene, made) } else { problem.solve() };
    if a.at[layer].is_none() {
        return Vec::new();
    }
    let open = problem.elsewhere(&a, layer).into_iter().map(|plane| &scene.planes[plane]);
    open.filter(|plane| shown || content.is_err() || by_the_buffer(plane)).collect()
}

fn is_the_drivers(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Test { .. } | Refusal::Commit { .. } | Refusal::Unasked { .. })
}

/// The candidates of a plan and `wild`, best first.
fn order(scene: &Scene<'_>, made: &Plan, wild: usize) -> Vec<usize> {
    let waits =
        |i: usize| made.refusals_of(i).iter().any(|(.., refusal)| matches!(refusal, Refusal::Held { .. }));
    let wants = |i: &usize| *i == wild || (scene.layers[*i].content.is_ok() && !waits(*i));
    let mut order: Vec<usize> =
        (0..made.visible).filter(|&i| made.hidden[i].is_none()).filter(wants).collect();
    order.sort_by_cached_key(|&i| {
        let layer = &scene.layers[i];
        let rate = u16::from(layer.rate) + u16::from(made.planes[i].is_some());
        Reverse((rate, layer.content_type, layer.dst.area()))
    });
    order.truncate(MAX_CANDIDATES);
    order
}

/// The assignment that a plan was made of.
fn assignment(scene: &Scene<'_>, made: &Plan) -> Assignment {
    let index = |id| scene.planes.iter().position(|p| p.id == id);
    let side = |layer: usize| match made.primary {
        PrimaryContent::Layer(direct) if direct == layer => Side::Primary,
        _ if made.underlays.contains(&layer) => Side::Under,
        _ => Side::Over,
    };
    let on = |layer: usize| made.planes[layer].and_then(index).map(|plane| (plane, side(layer)));
    let at: Vec<_> = (0..made.planes.len()).map(on).collect();
    let pointer = made.pointer.and_then(index);
    let layers = (0..at.len()).filter(|&i| at[i].is_some()).map(Who::Layer);
    let log = pointer.map(|_| Who::Pointer).into_iter().chain(layers).collect();
    Assignment { at, pointer, log }
}
