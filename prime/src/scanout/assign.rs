//! The search: layers to planes, by what planes can do and what the driver is known to refuse. It asks nobody.
//!
//! Layers are visited best first, but whatever lies over a layer is visited before it, since an overlay may show it only
//! if overlays show all of that. So any first part of the order in which layers were placed is an assignment in itself,
//! which is what the driver is asked about when it refuses the whole ([`super::ask`]).

use std::num::NonZeroU32;

use super::Scene;
use super::fit::{Fit, fills, fit, fit_pointer};
use super::geometry::Rect;
use super::plan::{Plan, PlaneSetting, PrimaryContent};
use super::plane::{BlendMode, PlaneCaps, PlaneType, Rotation, Zpos};
use super::refusal::Refusal;
use super::stack::{Entry, solve};

/// Where a plane shows a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Above the composited picture.
    Over,
    /// Below it, through a hole.
    Under,
    /// Instead of it.
    Primary,
}

/// Who is on a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Pointer,
    Layer(usize),
}

/// Layers to planes, by the planes' indices in the scene.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assignment {
    pub at: Vec<Option<(usize, Side)>>,
    pub pointer: Option<usize>,
    /// In the order in which they were placed.
    pub log: Vec<Who>,
}

impl Assignment {
    fn empty(layers: usize) -> Self {
        Self { at: vec![None; layers], pointer: None, log: Vec::new() }
    }

    /// The first `placed` of it.
    pub fn prefix(&self, placed: usize) -> Self {
        let mut first = Self::empty(self.at.len());
        for who in &self.log[..placed] {
            match *who {
                Who::Pointer => first.pointer = self.pointer,
                Who::Layer(i) => first.at[i] = self.at[i],
            }
            first.log.push(*who);
        }
        first
    }

    /// Who is on a plane.
    pub fn holder(&self, plane: usize) -> Option<Who> {
        if self.pointer == Some(plane) {
            return Some(Who::Pointer);
        }
        self.placed().find(|&(_, p, _)| p == plane).map(|(layer, ..)| Who::Layer(layer))
    }

    /// The layers on planes in the order in which they were placed, with their planes.
    fn placed(&self) -> impl Iterator<Item = (usize, usize, Side)> + '_ {
        self.log.iter().filter_map(|who| match who {
            Who::Layer(layer) => self.at[*layer].map(|(plane, side)| (*layer, plane, side)),
            Who::Pointer => None,
        })
    }

    /// The layers on one side of the primary plane with their planes, lowest first.
    fn on_side(&self, side: Side) -> Vec<(usize, usize)> {
        let mut on: Vec<_> = self.placed().filter(|p| p.2 == side).map(|p| (p.0, p.1)).collect();
        on.sort_unstable_by_key(|(layer, _)| std::cmp::Reverse(*layer));
        on
    }

    /// The layer on the primary plane.
    pub fn direct(&self) -> Option<usize> {
        self.placed().find(|p| p.2 == Side::Primary).map(|p| p.0)
    }
}

/// What was learnt from the driver, or is withheld from it: (who, plane, why not).
pub(super) type Exclusions = Vec<(Who, NonZeroU32, Refusal)>;

/// A scene with what the search needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem<'a> {
    pub scene: &'a Scene<'a>,
    pub visible: usize,
    pub hidden: &'a [Option<usize>],
    /// Layers that may be given a plane, best first.
    pub order: &'a [usize],
    /// Where each layer was last.
    pub before: &'a [Option<NonZeroU32>],
    pub excluded: &'a Exclusions,
    /// A layer whose buffer could be any.
    pub wild: Option<usize>,
}

impl<'a> Problem<'a> {
    pub fn primary(&self) -> Option<usize> {
        self.scene.planes.iter().position(|p| p.kind == PlaneType::Primary)
    }

    pub fn excluded(&self, who: Who, plane: &PlaneCaps) -> Option<&'a Refusal> {
        self.excluded.iter().find(|(w, p, _)| (*w, *p) == (who, plane.id)).map(|(.., r)| r)
    }

    /// How a plane shows a layer, by what it can do and by what the driver said.
    fn allowed(&self, layer: usize, plane: usize) -> Option<Fit> {
        let (layers, plane) = (self.scene.layers, &self.scene.planes[plane]);
        let content = layers[layer].content.as_ref().ok().filter(|_| self.wild != Some(layer));
        if content.is_none() && self.wild != Some(layer) {
            return None;
        }
        let free = self.excluded(Who::Layer(layer), plane).is_none();
        fit(plane, &layers[layer], content).ok().filter(|_| free)
    }

    /// The composited picture can have alpha, and the primary plane shows it so.
    pub fn holes(&self) -> bool {
        let canvas = self.scene.canvas;
        let primary = self.primary().map(|p| &self.scene.planes[p]);
        primary.zip(canvas.alpha).is_some_and(|(primary, alpha)| {
            primary.blend.premultiplied && primary.formats.contains(&(alpha, canvas.modifier))
        })
    }

    /// The order of overlays is known.
    pub fn stacked(&self, plane: &PlaneCaps) -> bool {
        let primary = self.primary().map(|p| self.scene.planes[p].zpos);
        plane.zpos != Zpos::Unknown && primary.is_some_and(|z| z != Zpos::Unknown)
    }

    pub fn seen(&self, layer: usize) -> bool {
        layer < self.visible && self.hidden[layer].is_none()
    }

    /// Layers that can be seen above `layer` and share pixels with it.
    pub fn above(&self, layer: usize) -> impl Iterator<Item = usize> + '_ {
        let dst = self.scene.layers[layer].dst;
        (0..layer).filter(move |&i| self.seen(i) && self.scene.layers[i].dst.overlaps(&dst))
    }

    /// The planes that are on, lowest first, with what they cover; `None` where the order cannot be told.
    fn entries(&self, a: &Assignment) -> Vec<(usize, Entry)> {
        let (scene, mut entries) = (self.scene, Vec::with_capacity(a.log.len() + 1));
        let mut push = |plane: usize, covers: Option<Rect>| {
            entries.push((plane, Entry { zpos: scene.planes[plane].zpos, covers }));
        };
        for (layer, plane) in a.on_side(Side::Under) {
            push(plane, Some(scene.layers[layer].dst));
        }
        if let Some(primary) = self.primary() {
            push(primary, Some(a.direct().map_or(scene.output, |layer| scene.layers[layer].dst)));
        }
        for (layer, plane) in a.on_side(Side::Over) {
            push(plane, Some(scene.layers[layer].dst));
        }
        if let (Some(plane), Some(pointer)) = (a.pointer, scene.pointer) {
            let anywhere = scene.planes[plane].kind == PlaneType::Cursor;
            push(plane, (!anywhere).then_some(pointer.dst));
        }
        entries
    }

    /// The zpos of each plane that is on; `None` if no values give the order.
    fn stack(&self, a: &Assignment) -> Option<Vec<(usize, i64)>> {
        // What lies over the primary plane cannot be covered by what lies under it.
        let over = a.on_side(Side::Over);
        for (layer, _) in a.on_side(Side::Under) {
            let dst = self.scene.layers[layer].dst;
            if over.iter().any(|(i, _)| *i > layer && self.scene.layers[*i].dst.overlaps(&dst)) {
                return None;
            }
        }
        let entries = self.entries(a);
        let only: Vec<Entry> = entries.iter().map(|(_, entry)| *entry).collect();
        let values = solve(&only)?;
        Some(entries.iter().map(|(plane, _)| *plane).zip(values).collect())
    }

    /// The plan of an assignment, without refusals.
    pub fn plan(&self, a: &Assignment) -> Plan {
        let scene = self.scene;
        let id = |plane: usize| scene.planes[plane].id;
        let mut settings = Vec::with_capacity(a.log.len() + 1);
        for (plane, value) in self.stack(a).unwrap_or_default() {
            let caps = &scene.planes[plane];
            let (mut rotation, mut alpha) = (Rotation::NORMAL, u16::MAX);
            let mut blend = caps.blend.settable.then_some(BlendMode::Premultiplied);
            if let Some(Who::Layer(i)) = a.holder(plane)
                && let Ok(fit) = fit(caps, &scene.layers[i], None)
            {
                (rotation, alpha, blend) = (fit.rotation, scene.layers[i].alpha, fit.blend);
            }
            let zpos = matches!(caps.zpos, Zpos::Range { .. }).then_some(value);
            settings.push(PlaneSetting { plane: caps.id, zpos, rotation, alpha, blend });
        }
        Plan {
            planes: a.at.iter().map(|at| at.map(|(plane, _)| id(plane))).collect(),
            primary: a.direct().map_or(PrimaryContent::Composited, PrimaryContent::Layer),
            pointer: a.pointer.map(id),
            underlays: a.on_side(Side::Under).into_iter().rev().map(|(layer, _)| layer).collect(),
            part: None,
            settings,
            visible: self.visible,
            hidden: self.hidden.to_vec(),
            refusals: Vec::new(),
            pointer_refusals: Vec::new(),
            asked: 0,
        }
    }

    /// The planes that could show `layer` if all others stay where `a` has them, whatever else is composited.
    pub fn elsewhere(&self, a: &Assignment, layer: usize) -> Vec<usize> {
        let mut others = a.clone();
        others.at[layer] = None;
        others.log.retain(|who| *who != Who::Layer(layer));
        let planes = self.scene.planes;
        let mut search =
            Search { problem: self, sticky: false, decided: vec![true; a.at.len()], found: others };
        let mut takes = |plane: usize| {
            let free = search.found.holder(plane).is_none();
            let sides = match planes[plane].kind {
                PlaneType::Cursor => [None, None],
                PlaneType::Primary => [Some(Side::Primary), None],
                PlaneType::Overlay => [Some(Side::Over), Some(Side::Under)],
            };
            free && sides.into_iter().flatten().any(|side| {
                let placed = search.may_be(layer, plane, side) && search.place(layer, plane, side);
                search.found.at[layer] = None;
                search.found.log.retain(|who| *who != Who::Layer(layer));
                placed
            })
        };
        (0..planes.len()).filter(|&plane| takes(plane)).collect()
    }

    /// The best assignment found. With `sticky`, layers keep the planes that they had, if that costs nobody a plane.
    pub fn solve(&self) -> Assignment {
        let free = Search::new(self, false).run();
        if !self.before.iter().any(Option::is_some) {
            return free;
        }
        let sticky = Search::new(self, true).run();
        if self.score(&sticky) >= self.score(&free) { sticky } else { free }
    }

    /// Greater is better: nothing composited, the pointer on a plane, and then layer after layer, the best one first.
    fn score(&self, a: &Assignment) -> Vec<bool> {
        let first = [a.direct().is_some(), a.pointer.is_some()];
        first.into_iter().chain(self.order.iter().map(|&i| a.at[i].is_some())).collect()
    }
}

struct Search<'a> {
    problem: &'a Problem<'a>,
    sticky: bool,
    /// On a plane, or composited for good.
    decided: Vec<bool>,
    found: Assignment,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem<'a>, sticky: bool) -> Self {
        let layers = problem.scene.layers.len();
        let mut decided = vec![true; layers];
        problem.order.iter().for_each(|&i| decided[i] = false);
        Self { problem, sticky, decided, found: Assignment::empty(layers) }
    }

    fn run(mut self) -> Assignment {
        self.place_pointer();
        for &layer in self.problem.order {
            self.visit(layer);
        }
        self.found
    }

    fn place_pointer(&mut self) {
        let (problem, scene) = (self.problem, self.problem.scene);
        let Some(pointer) = scene.pointer else { return };
        let cursors = (0..scene.planes.len()).filter(|&p| scene.planes[p].kind == PlaneType::Cursor);
        let overlays = self.overlays(None);
        for plane in cursors.chain(overlays) {
            let caps = &scene.planes[plane];
            if fit_pointer(caps, pointer).is_err() || problem.excluded(Who::Pointer, caps).is_some() {
                continue;
            }
            self.found.pointer = Some(plane);
            if problem.stack(&self.found).is_some() {
                self.found.log.push(Who::Pointer);
                return;
            }
            self.found.pointer = None;
        }
    }

    /// Overlay planes that may be used, best first for whoever is to be near the top; the one that `layer` had last first.
    fn overlays(&self, layer: Option<usize>) -> Vec<usize> {
        let (problem, planes) = (self.problem, self.problem.scene.planes);
        let usable = |p: &usize| planes[*p].kind == PlaneType::Overlay && problem.stacked(&planes[*p]);
        let mut all: Vec<usize> =
            (0..planes.len()).filter(usable).filter(|_| problem.scene.overlays).collect();
        let had = layer.filter(|_| self.sticky).and_then(|layer| problem.before[layer]);
        let height = |p: usize| match planes[p].zpos {
            Zpos::Fixed(z) | Zpos::Range { max: z, .. } => z,
            Zpos::Unknown => i64::MIN,
        };
        all.sort_by_key(|&p| (Some(planes[p].id) != had, std::cmp::Reverse(height(p))));
        all
    }

    fn free_overlays(&self) -> usize {
        self.overlays(None).into_iter().filter(|&p| self.found.holder(p).is_none()).count()
    }

    fn visit(&mut self, layer: usize) {
        if std::mem::replace(&mut self.decided[layer], true) {
            return;
        }
        if self.try_primary(layer) || self.try_over(layer) {
            return;
        }
        self.try_under(layer);
    }

    /// Visits all of `others`, if there is room for them and `more`. Returns whether overlays show all of them.
    fn all_over(&mut self, others: &[usize], more: usize) -> bool {
        let over = |a: &Assignment, i: usize| matches!(a.at[i], Some((_, Side::Over)));
        let wanting = others.iter().filter(|&&i| !self.decided[i]).count();
        let refused = others.iter().any(|&i| self.decided[i] && !over(&self.found, i));
        if refused || wanting + more > self.free_overlays() {
            return false;
        }
        for &other in others {
            self.visit(other);
            if !over(&self.found, other) {
                return false;
            }
        }
        true
    }

    fn pointer_covers(&self, dst: Rect) -> bool {
        let composited = self.problem.scene.pointer.filter(|_| self.found.pointer.is_none());
        composited.is_some_and(|pointer| pointer.dst.overlaps(&dst))
    }

    /// All that can be seen but `layer`.
    fn others(&self, layer: usize) -> Vec<usize> {
        (0..self.problem.visible).filter(|&i| i != layer && self.problem.seen(i)).collect()
    }

    /// Tells whether a plane may show a layer on a side, given where the others are; zpos values aside.
    fn may_be(&mut self, layer: usize, plane: usize, side: Side) -> bool {
        let (problem, scene) = (self.problem, self.problem.scene);
        let (content, caps) = (&scene.layers[layer], &scene.planes[plane]);
        if problem.allowed(layer, plane).is_none() {
            return false;
        }
        if side != Side::Primary && !(scene.overlays && problem.stacked(caps)) {
            return false;
        }
        match side {
            Side::Primary => {
                layer + 1 == problem.visible
                    && content.is_solid()
                    && fills(caps, content.dst, scene.output, scene.crtc_shows_backdrop)
                    && !self.pointer_covers(scene.output)
                    && self.all_over(&self.others(layer), 0)
            }
            Side::Over => {
                let above: Vec<usize> = problem.above(layer).collect();
                !self.pointer_covers(content.dst) && self.all_over(&above, 1)
            }
            Side::Under => problem.holes() && content.is_solid() && self.found.direct().is_none(),
        }
    }

    fn try_primary(&mut self, layer: usize) -> bool {
        let Some(primary) = self.problem.primary() else { return false };
        self.may_be(layer, primary, Side::Primary) && self.place(layer, primary, Side::Primary)
    }

    fn try_over(&mut self, layer: usize) -> bool {
        let (problem, dst) = (self.problem, self.problem.scene.layers[layer].dst);
        let above: Vec<usize> = problem.above(layer).collect();
        if self.pointer_covers(dst) || !self.all_over(&above, 1) {
            return false;
        }
        let overlays = self.overlays(Some(layer));
        let fits: Vec<usize> =
            overlays.iter().copied().filter(|&p| problem.allowed(layer, p).is_some()).collect();
        for &plane in &fits {
            if self.found.holder(plane).is_none() && self.place(layer, plane, Side::Over) {
                return true;
            }
        }
        // Whoever has a plane that would do may do as well with another one.
        for &plane in &fits {
            let Some(Who::Layer(holder)) = self.found.holder(plane) else { continue };
            let Some((_, side)) = self.found.at[holder] else { continue };
            for &other in &overlays {
                if self.found.holder(other).is_some() || problem.allowed(holder, other).is_none() {
                    continue;
                }
                self.found.at[holder] = Some((other, side));
                if self.place(layer, plane, Side::Over) {
                    return true;
                }
                self.found.at[holder] = Some((plane, side));
            }
        }
        false
    }

    fn try_under(&mut self, layer: usize) -> bool {
        // The lowest first, so that the others stay for what lies above.
        self.overlays(Some(layer)).into_iter().rev().any(|plane| {
            self.found.holder(plane).is_none()
                && self.may_be(layer, plane, Side::Under)
                && self.place(layer, plane, Side::Under)
        })
    }

    fn place(&mut self, layer: usize, plane: usize, side: Side) -> bool {
        self.found.at[layer] = Some((plane, side));
        self.found.log.push(Who::Layer(layer));
        let stacks = self.problem.stack(&self.found).is_some();
        if !stacks {
            self.found.at[layer] = None;
            self.found.log.pop();
        }
        stacks
    }
}
