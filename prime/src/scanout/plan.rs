//! A decision about every layer, and what can be read from it.

use std::num::NonZeroU32;

use super::geometry::Rect;
use super::layer::Layer;
use super::refusal::Refusal;
use super::search::visible_layers;

/// What the primary plane shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryContent {
    /// A composited picture (or, without any composited layer, the background).
    Composited,
    /// The buffer of this layer.
    Layer(usize),
}

/// A decision about every layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For each layer the plane that shows it, `None` if composited or hidden.
    pub planes: Vec<Option<NonZeroU32>>,
    /// What the primary plane shows.
    pub primary: PrimaryContent,
    /// Number of layers, from the top, that are visible at all; those below lie under an opaque layer as large
    /// as the output.
    pub visible: usize,
    /// Every pair that was considered and not used: (layer, plane, reason), by ascending layer.
    pub refusals: Vec<(usize, NonZeroU32, Refusal)>,
}

impl Plan {
    /// The plan that composites everything; the always valid fallback.
    pub fn composite_all(layers: &[Layer], output: Rect) -> Self {
        Self {
            planes: vec![None; layers.len()],
            primary: PrimaryContent::Composited,
            visible: visible_layers(layers, output),
            refusals: Vec::new(),
        }
    }

    /// Indices of the visible layers that no plane took, topmost first.
    pub fn composited(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.visible).filter(|&i| self.planes[i].is_none())
    }

    /// The refusals of one layer.
    pub fn refusals_of(&self, layer: usize) -> &[(usize, NonZeroU32, Refusal)] {
        let start = self.refusals.partition_point(|(l, ..)| *l < layer);
        let end = self.refusals.partition_point(|(l, ..)| *l <= layer);
        &self.refusals[start..end]
    }

    /// What was decided for the layers above `layer`: all others count as composited, as when the planner came to this one.
    pub fn above(&self, layer: usize) -> Self {
        let mut planes = vec![None; self.planes.len()];
        planes[..layer].copy_from_slice(&self.planes[..layer]);
        let primary = PrimaryContent::Composited;
        Self { planes, primary, visible: self.visible, refusals: Vec::new() }
    }

    /// The last word on why a layer is not on a plane: the refusal of the plane that came nearest to taking it.
    pub fn reason(&self, layer: usize) -> Option<&Refusal> {
        let rank = |r: &Refusal| match r {
            Refusal::CursorPlane => 0,
            Refusal::NotFullOutput { .. } | Refusal::NotOpaque => 1,
            Refusal::HoldsComposited | Refusal::BelowPrimary => 2,
            Refusal::Taken { .. } | Refusal::StackOrder { .. } => 3,
            _ => 4,
        };
        self.refusals_of(layer).iter().map(|(.., r)| r).max_by_key(|r| rank(r))
    }
}
