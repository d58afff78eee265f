//! When a surface is told what: which of the planes that are open to it count, on which output, and for how long a change
//! must have held.
//!
//! It owns the decision alone. It knows no protocol and no clock: surfaces, tranches and times are values, so that tests
//! can make them.
//!
//! ```text
//!  plan of an output ──> what the surface is best told now ── same as it was told ──> nothing
//!                                      │ another
//!                                      └──> change, since when ── PATIENCE later, still the same ──> told
//! ```

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use drm_prime::scanout::{Rect, SourceRect};

use super::PlaneId;

/// How long a change of mind must hold before it is told: clients allocate anew, which costs more than a few frames on
/// the second best way.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What decides about a layer besides its buffer. As long as it stays, a plane that the driver refused stays refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Part of the buffer.
    pub src: SourceRect,
    /// Place on the output.
    pub dst: Rect,
}

/// A dma-buf on an output, as the output's new plan treats it.
#[derive(Clone, Debug)]
pub struct Planned<S> {
    /// Whose.
    pub surface: S,
    /// Pixels of the output that it covers.
    pub area: u64,
    /// How it is shown.
    pub shape: Shape,
    /// No pixel of it lets anything below shine through.
    pub opaque: bool,
    /// The plane that shows it.
    pub plane: Option<PlaneId>,
    /// Planes off which nothing but its buffer keeps it, with the one that shows it.
    pub open: Vec<PlaneId>,
    /// Planes on which the driver refused it.
    pub refused: Vec<PlaneId>,
}

/// What surfaces are told: `S` names a surface, `O` an output, `T` is a tranche. `None` in place of a tranche is the
/// default feedback.
#[derive(Debug)]
pub struct Policy<S, O, T> {
    surfaces: HashMap<S, Told<O, T>>,
}

impl<S, O, T> Default for Policy<S, O, T> {
    fn default() -> Self {
        Self { surfaces: HashMap::new() }
    }
}

/// A surface that shows a dma-buf somewhere, or has been told of a tranche.
#[derive(Debug)]
struct Told<O, T> {
    views: Vec<View<O, T>>,
    now: Option<T>,
    /// When it was told that.
    at: Option<Duration>,
    change: Option<Change<T>>,
}

/// A surface on an output.
#[derive(Debug)]
struct View<O, T> {
    output: O,
    area: u64,
    shape: Shape,
    /// Planes on which the driver refused this shape. Without them a surface that is told of a tranche, refused for
    /// another reason and told of none would go round and round.
    refused: Vec<PlaneId>,
    wish: Option<T>,
    /// Seen in the plan that is being taken in.
    fresh: bool,
}

#[derive(Debug)]
struct Change<T> {
    to: Option<T>,
    since: Duration,
}

impl<S, O, T> Policy<S, O, T>
where
    S: Clone + Eq + Hash,
    O: Copy + Eq,
    T: Clone + PartialEq,
{
    /// Takes in an output's new plan: all dma-bufs that it shows. `tranche` is what the planes of the output take from a
    /// surface that is opaque or not, `None` if that is nothing.
    pub fn planned(
        &mut self,
        now: Duration,
        output: O,
        layers: impl IntoIterator<Item = Planned<S>>,
        mut tranche: impl FnMut(&[PlaneId], bool) -> Option<T>,
    ) {
        for layer in layers {
            let told = self.surfaces.entry(layer.surface);
            let told = told.or_insert_with(|| Told { views: Vec::new(), now: None, at: None, change: None });
            let index = told.views.iter().position(|view| view.output == output);
            let mut refused = match index.map(|index| told.views.remove(index)) {
                Some(view) if view.shape == layer.shape => view.refused,
                _ => Vec::new(),
            };
            refused.retain(|plane| layer.plane != Some(*plane) && !layer.refused.contains(plane));
            refused.extend(&layer.refused);
            let mut open = layer.open;
            open.retain(|plane| !refused.contains(plane));
            let wish = if open.is_empty() { None } else { tranche(&open, layer.opaque) };
            let (area, shape) = (layer.area, layer.shape);
            let view = View { output, area, shape, refused, wish, fresh: true };
            told.views.insert(index.unwrap_or(told.views.len()), view);
        }
        self.surfaces.retain(|_, told| {
            told.views.retain_mut(|view| view.output != output || std::mem::take(&mut view.fresh));
            told.reconsider(now)
        });
    }

    /// An output is gone.
    pub fn output_gone(&mut self, now: Duration, output: O) {
        self.planned(now, output, [], |_, _| None);
    }

    /// The outputs on which something is shown.
    pub fn outputs(&self) -> Vec<O> {
        let mut all: Vec<O> = Vec::new();
        for view in self.surfaces.values().flat_map(|told| &told.views) {
            if !all.contains(&view.output) {
                all.push(view.output);
            }
        }
        all
    }

    /// A surface is gone.
    pub fn surface_gone(&mut self, surface: &S) {
        self.surfaces.remove(surface);
    }

    /// What a surface has been told, or would have been, had it listened.
    pub fn told(&self, surface: &S) -> Option<&T> {
        self.surfaces.get(surface)?.now.as_ref()
    }

    /// When a surface was told what it has been told.
    pub fn told_at(&self, surface: &S) -> Option<Duration> {
        self.surfaces.get(surface)?.at
    }

    /// When [`Policy::due`] will next have something; `None` while nobody is to be told anything.
    pub fn deadline(&self) -> Option<Duration> {
        self.surfaces.values().filter_map(|told| told.change.as_ref()).map(|c| c.since + PATIENCE).min()
    }

    /// Who is to be told what now. Each is asked for once.
    pub fn due(&mut self, now: Duration) -> Vec<(S, Option<T>)> {
        let mut due = Vec::new();
        self.surfaces.retain(|surface, told| {
            if let Some(change) = told.change.take_if(|change| change.since + PATIENCE <= now) {
                told.now.clone_from(&change.to);
                told.at = Some(now);
                due.push((surface.clone(), change.to));
            }
            told.reconsider(now)
        });
        due
    }

    /// Surfaces that are remembered.
    pub fn len(&self) -> usize {
        self.surfaces.len()
    }

    /// Nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.surfaces.is_empty()
    }
}

impl<O, T: Clone + PartialEq> Told<O, T> {
    /// Starts, keeps or drops a change; says whether there is anything to remember.
    fn reconsider(&mut self, now: Duration) -> bool {
        // The output that shows most of it decides; of equals the one that showed it first.
        let view = self.views.iter().reduce(|best, view| if view.area > best.area { view } else { best });
        let wish = view.and_then(|view| view.wish.as_ref());
        if wish == self.now.as_ref() {
            self.change = None;
        } else if self.change.as_ref().is_none_or(|change| change.to.as_ref() != wish) {
            self.change = Some(Change { to: wish.cloned(), since: now });
        }
        !self.views.is_empty() || self.now.is_some() || self.change.is_some()
    }
}

#[cfg(test)]
mod tests;
