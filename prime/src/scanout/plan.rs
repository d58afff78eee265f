//! A decision about every layer, and what can be read from it.

use std::num::NonZeroU32;

use super::geometry::Rect;
use super::layer::Layer;
use super::plane::{BlendMode, Rotation};
use super::refusal::Refusal;

/// Opaque layers, the largest seen from the top down, behind which a layer is looked for.
const MAX_SCREENS: usize = 16;

/// What the primary plane shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PrimaryContent {
    /// A composited picture (or, without any composited layer, the background). Where [`Plan::underlays`] is not empty it
    /// has alpha, and holes.
    Composited,
    /// The buffer of this layer.
    Layer(usize),
}

/// What is set on a plane that is on, besides its buffer and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PlaneSetting {
    /// The plane.
    pub plane: NonZeroU32,
    /// Its zpos, where the driver lets it be set.
    pub zpos: Option<i64>,
    /// Its rotation.
    pub rotation: Rotation,
    /// Its `alpha`; 0xffff where it has no such property.
    pub alpha: u16,
    /// Its `pixel blend mode`, where it has that property.
    pub blend: Option<BlendMode>,
}

/// A decision about every layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For each layer the plane that shows it, `None` if composited or hidden.
    pub planes: Vec<Option<NonZeroU32>>,
    /// What the primary plane shows.
    pub primary: PrimaryContent,
    /// The plane that shows the pointer, `None` if it is composited over all layers, or there is none.
    pub pointer: Option<NonZeroU32>,
    /// Layers whose planes lie under the primary, topmost first. In the composited picture each is a hole at its place in
    /// the order of layers: what is drawn below it is wiped out in all of its destination, and nothing but what lies above
    /// it is drawn there, over full transparency.
    pub underlays: Vec<usize>,
    /// The part of the output that the composited picture covers, in pixels of the CRTC; around it nothing is drawn. `None`
    /// for the whole output.
    pub part: Option<Rect>,
    /// One entry for every plane that is on.
    pub settings: Vec<PlaneSetting>,
    /// Number of layers, from the top, that are visible at all; those below lie under an opaque layer as large
    /// as the output.
    pub visible: usize,
    /// For each layer the opaque one above that hides all of it, if there is one.
    pub hidden: Vec<Option<usize>>,
    /// Every pair that was not used: (layer, plane, reason), by ascending layer.
    pub refusals: Vec<(usize, NonZeroU32, Refusal)>,
    /// The planes that do not show the pointer, with the reason.
    pub pointer_refusals: Vec<(NonZeroU32, Refusal)>,
    /// Times the driver was asked for this plan, at most [`super::MAX_ASKS`].
    pub asked: usize,
}

impl Plan {
    /// The plan that composites everything; the always valid fallback.
    pub fn composite_all(layers: &[Layer], output: Rect) -> Self {
        let (visible, hidden) = sight(layers, output);
        Self {
            planes: vec![None; layers.len()],
            primary: PrimaryContent::Composited,
            pointer: None,
            underlays: Vec::new(),
            part: None,
            settings: Vec::new(),
            visible,
            hidden,
            refusals: Vec::new(),
            pointer_refusals: Vec::new(),
            asked: 0,
        }
    }

    /// Indices of the layers that can be seen and that no plane took, topmost first.
    pub fn composited(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.visible).filter(|&i| self.planes[i].is_none() && self.hidden[i].is_none())
    }

    /// What is drawn into the composited picture, topmost first: each layer's index, and whether it is a hole.
    pub fn drawn(&self) -> impl Iterator<Item = (usize, bool)> + '_ {
        let hole = |i: usize| self.underlays.contains(&i);
        let drawn = move |i: usize| match self.planes[i] {
            None => self.hidden[i].is_none().then_some((i, false)),
            Some(_) => hole(i).then_some((i, true)),
        };
        (0..self.visible).filter_map(drawn)
    }

    /// The refusals of one layer.
    pub fn refusals_of(&self, layer: usize) -> &[(usize, NonZeroU32, Refusal)] {
        let start = self.refusals.partition_point(|(l, ..)| *l < layer);
        let end = self.refusals.partition_point(|(l, ..)| *l <= layer);
        &self.refusals[start..end]
    }

    /// What is set on a plane.
    pub fn setting(&self, plane: NonZeroU32) -> Option<&PlaneSetting> {
        self.settings.iter().find(|s| s.plane == plane)
    }

    /// What was decided for the layers above `layer`: all others count as composited.
    pub fn above(&self, layer: usize) -> Self {
        let mut planes = vec![None; self.planes.len()];
        planes[..layer].copy_from_slice(&self.planes[..layer]);
        let primary = PrimaryContent::Composited;
        let on = |s: &&PlaneSetting| {
            self.pointer == Some(s.plane) || planes.contains(&Some(s.plane)) || !self.shows_layer(s.plane)
        };
        let settings = self.settings.iter().filter(on).copied().collect();
        let underlays = self.underlays.iter().copied().filter(|&u| u < layer).collect();
        let (hidden, pointer) = (self.hidden.clone(), self.pointer);
        Self {
            planes,
            primary,
            pointer,
            underlays,
            part: self.part,
            settings,
            visible: self.visible,
            hidden,
            refusals: Vec::new(),
            pointer_refusals: Vec::new(),
            asked: 0,
        }
    }

    fn shows_layer(&self, plane: NonZeroU32) -> bool {
        self.planes.contains(&Some(plane))
    }

    /// The last word on why a layer is not on a plane: the refusal of the plane that came nearest to taking it.
    pub fn reason(&self, layer: usize) -> Option<&Refusal> {
        let rank = |r: &Refusal| match r {
            Refusal::CursorPlane => 0,
            Refusal::NotFullOutput { .. } | Refusal::NotOpaque => 1,
            Refusal::HoldsComposited | Refusal::BelowPrimary | Refusal::UnderlayNotOpaque => 2,
            Refusal::Taken { .. }
            | Refusal::TakenByPointer
            | Refusal::StackOrder { .. }
            | Refusal::NoZpos
            | Refusal::ShownBy { .. } => 3,
            _ => 4,
        };
        self.refusals_of(layer).iter().map(|(.., r)| r).max_by_key(|r| rank(r))
    }
}

/// How many layers from the top can be seen, and which of all layers one opaque layer hides.
pub(super) fn sight(layers: &[Layer], output: Rect) -> (usize, Vec<Option<usize>>) {
    let mut hidden = Vec::with_capacity(layers.len());
    let mut screens: Vec<(Rect, usize)> = Vec::with_capacity(MAX_SCREENS);
    let mut visible = layers.len();
    for (index, layer) in layers.iter().enumerate() {
        let seen = layer.dst.intersection(&output);
        let by = seen.and_then(|seen| screens.iter().find(|(screen, _)| screen.contains(&seen)));
        hidden.push(by.map(|(_, by)| *by));
        let hides = layer.hides();
        if hides.contains(&output) {
            visible = visible.min(index + 1);
        }
        if by.is_none() && hides.area() > 0 {
            if screens.len() < MAX_SCREENS {
                screens.push((hides, index));
            } else if let Some(least) = screens.iter_mut().min_by_key(|(screen, _)| screen.area())
                && least.0.area() < hides.area()
            {
                *least = (hides, index);
            }
        }
    }
    (visible, hidden)
}
