//! Why every layer is not on every other plane: the refusals of a plan that has been decided.

use super::assign::{Assignment, Problem, Side, Who};
use super::fit::{fills, fit, fit_pointer};
use super::layer::Layer;
use super::plan::Plan;
use super::plane::{PlaneCaps, PlaneType, Zpos};
use super::refusal::Refusal;

/// What a layer's own standing says, before any plane is looked at.
pub(super) enum Standing {
    /// It was a candidate.
    Candidate,
    /// It was not, for this reason.
    Out(Refusal),
}

/// Fills the refusals of `plan`, which was made of `a`.
pub(super) fn explain(
    problem: &Problem<'_>,
    a: &Assignment,
    standing: impl Fn(usize) -> Standing,
    spent: Option<usize>,
    plan: &mut Plan,
) {
    let planes = problem.scene.planes;
    let explainer = Explainer { problem, a, spent };
    let mut refusals = std::mem::take(&mut plan.refusals);
    refusals.clear();
    for layer in 0..problem.scene.layers.len() {
        let hidden = problem.hidden[layer].or((layer >= problem.visible).then(|| problem.visible - 1));
        let out = match (hidden, standing(layer)) {
            (Some(by), _) => Some(Refusal::Hidden { by }),
            (None, Standing::Out(refusal)) => Some(refusal),
            (None, Standing::Candidate) => None,
        };
        if let Some(out) = out {
            refusals.extend(planes.iter().map(|p| (layer, p.id, out.clone())));
            continue;
        }
        let covered = explainer.covered(layer);
        for (index, plane) in planes.iter().enumerate() {
            if plan.planes[layer] != Some(plane.id) {
                refusals.push((layer, plane.id, explainer.why_not(layer, index, covered.clone())));
            }
        }
    }
    plan.refusals = refusals;
    plan.pointer_refusals.clear();
    if problem.scene.pointer.is_some() {
        let others = planes.iter().enumerate().filter(|(_, p)| plan.pointer != Some(p.id));
        plan.pointer_refusals.extend(others.map(|(index, p)| (p.id, explainer.why_not_pointer(index))));
    }
}

struct Explainer<'a> {
    problem: &'a Problem<'a>,
    a: &'a Assignment,
    /// The driver was asked so often that it was not asked any more.
    spent: Option<usize>,
}

impl Explainer<'_> {
    /// What keeps a layer off all planes above the primary.
    fn covered(&self, layer: usize) -> Option<Refusal> {
        let scene = self.problem.scene;
        let composited = scene.pointer.filter(|_| self.a.pointer.is_none());
        if composited.is_some_and(|pointer| pointer.dst.overlaps(&scene.layers[layer].dst)) {
            return Some(Refusal::CoveredByPointer);
        }
        self.problem.above(layer).find_map(|layer| match self.a.at[layer] {
            None => Some(Refusal::CoveredByComposited { layer }),
            Some((_, Side::Under)) => Some(Refusal::StackOrder { layer }),
            Some(_) => None,
        })
    }

    fn why_not(&self, index: usize, plane: usize, covered: Option<Refusal>) -> Refusal {
        let caps = &self.problem.scene.planes[plane];
        let layer = &self.problem.scene.layers[index];
        let place = match caps.kind {
            PlaneType::Cursor => Some(Refusal::CursorPlane),
            PlaneType::Primary => self.not_primary(index, layer, caps),
            PlaneType::Overlay => self.not_overlay(layer, caps, covered),
        };
        let content = layer.content.as_ref();
        let unfit = || content.map_or_else(|r| Some(r.clone()), |c| fit(caps, layer, Some(c)).err());
        let refused = || self.problem.excluded(Who::Layer(index), caps).cloned();
        let taken = || match self.a.holder(plane) {
            Some(Who::Layer(layer)) => Some(Refusal::Taken { layer }),
            Some(Who::Pointer) => Some(Refusal::TakenByPointer),
            None => None,
        };
        place.or_else(unfit).or_else(refused).or_else(taken).unwrap_or_else(|| self.left_over(index, caps))
    }

    /// Nothing of the plane itself speaks against it.
    fn left_over(&self, index: usize, caps: &PlaneCaps) -> Refusal {
        let planes = self.problem.scene.planes;
        if let Some((plane, _)) = self.a.at[index] {
            return Refusal::ShownBy { plane: planes[plane].id };
        }
        let on = |layer: usize| self.a.at[layer].map(|(plane, _)| &planes[plane]);
        let lower = |p: &PlaneCaps| match (p.zpos, caps.zpos) {
            (Zpos::Fixed(above), Zpos::Fixed(here)) => above <= here,
            _ => false,
        };
        let wrong = self.problem.above(index).find(|&layer| on(layer).is_some_and(lower));
        match (wrong, self.spent) {
            (Some(layer), _) => Refusal::StackOrder { layer },
            (None, Some(asked)) => Refusal::Unasked { asked },
            (None, None) => Refusal::NoZpos,
        }
    }

    fn not_primary(&self, index: usize, layer: &Layer, caps: &PlaneCaps) -> Option<Refusal> {
        let (problem, scene) = (self.problem, self.problem.scene);
        if !fills(caps, layer.dst, scene.output, scene.crtc_shows_backdrop) {
            return Some(Refusal::NotFullOutput { dst: layer.dst });
        }
        if !layer.is_solid() {
            return Some(Refusal::NotOpaque);
        }
        let over = |i: usize| matches!(self.a.at[i], Some((_, Side::Over)));
        let alone = (0..problem.visible).all(|i| i == index || !problem.seen(i) || over(i));
        let pointer = scene.pointer.is_none() || self.a.pointer.is_some();
        let bottom = index + 1 == problem.visible;
        (!(alone && pointer && bottom)).then_some(Refusal::HoldsComposited)
    }

    fn not_overlay(&self, layer: &Layer, caps: &PlaneCaps, covered: Option<Refusal>) -> Option<Refusal> {
        let problem = self.problem;
        if !problem.stacked(caps) {
            return Some(Refusal::StackingUnknown);
        }
        if !problem.scene.overlays {
            return Some(Refusal::Disabled);
        }
        let base = problem.primary().map(|p| problem.scene.planes[p].zpos);
        let (lowest, highest) = bounds(caps.zpos);
        let (base_lowest, base_highest) = base.map(bounds).unwrap_or_default();
        let (over, under) = (highest > base_lowest, lowest < base_highest);
        let no_hole = if !problem.holes() {
            Some(Refusal::BelowPrimary)
        } else if !layer.is_solid() {
            Some(Refusal::UnderlayNotOpaque)
        } else {
            None
        };
        match (over, under) {
            (false, _) => no_hole,
            (true, false) => covered,
            (true, true) => covered.filter(|_| no_hole.is_some()),
        }
    }

    fn why_not_pointer(&self, plane: usize) -> Refusal {
        let scene = self.problem.scene;
        let (caps, Some(pointer)) = (&scene.planes[plane], scene.pointer) else {
            return Refusal::CursorPlane;
        };
        if caps.kind == PlaneType::Primary {
            return Refusal::NotFullOutput { dst: pointer.dst };
        }
        if caps.kind == PlaneType::Overlay && !self.problem.stacked(caps) {
            return Refusal::StackingUnknown;
        }
        let refused = || self.problem.excluded(Who::Pointer, caps).cloned();
        fit_pointer(caps, pointer).err().or_else(refused).unwrap_or_else(|| match self.a.pointer {
            Some(plane) => Refusal::ShownBy { plane: scene.planes[plane].id },
            None => self.spent.map_or(Refusal::NoZpos, |asked| Refusal::Unasked { asked }),
        })
    }
}

fn bounds(zpos: Zpos) -> (i64, i64) {
    match zpos {
        Zpos::Unknown => (0, 0),
        Zpos::Fixed(z) => (z, z),
        Zpos::Range { min, max } => (min, max),
    }
}
