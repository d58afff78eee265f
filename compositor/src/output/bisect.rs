//! Idle-time questions to the driver: what it likely minds about a layer that it refused in a test.
//!
//! It owns when to ask, how often, and the guesses that came out. What to ask is [`drm_prime::scanout::bisect`]'s decision.
//!
//! An output is idle when no frame is pending, wanted or waited for; then one question is asked, and the next one a moment
//! later if it is idle still. So a search never delays a frame by more than one test commit, and none is begun for an output
//! that never rests. While the driver refuses nothing, a plan costs a look at its refusals, and a frame nothing.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use drm_prime::SharedFramebuffer;
use drm_prime::scanout::bisect::{Bisection, Guess, Step, Trial};
use drm_prime::scanout::{Layer, Plan, Refusal};

use super::layers::SurfaceLayer;
use super::{OutputState, Redraw, make_requests};
use crate::backend::{Backend, OutputId, PlaneUpdate};
use crate::state::{State, monotonic};

/// How long after a plan an output is first looked at.
const IDLE: Duration = Duration::from_millis(500);
/// An output that never rests is looked at less and less often, but not less often than this.
const RARELY: Duration = Duration::from_secs(64);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);
/// Questions for one plan.
const MOST: usize = 64;
/// Guesses that are kept.
const GUESSES: usize = 32;

/// A layer that a plane refused in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    plane: NonZeroU32,
    layer: Layer,
}

impl Subject {
    fn new(plane: NonZeroU32, layer: &Layer) -> Self {
        // How often it changes is nothing to the driver.
        Self { plane, layer: Layer { rate: 0, ..layer.clone() } }
    }
}

/// What an output's driver is being asked, and what came out so far.
#[derive(Debug, Default)]
pub(super) struct Searches {
    guesses: VecDeque<(Subject, Guess)>,
    /// How many there have been.
    learned: u64,
    search: Option<(Subject, Bisection)>,
    /// A timer runs.
    armed: bool,
    /// How long the output was let alone the last time that it was busy.
    waited: Duration,
    /// Questions since that plan.
    asked: (u64, usize),
}

impl Searches {
    fn guess(&self, subject: &Subject) -> Option<&Guess> {
        self.guesses.iter().find(|(known, _)| known == subject).map(|(_, guess)| guess)
    }

    fn learn(&mut self, subject: Subject, guess: Guess) {
        if self.guesses.len() >= GUESSES {
            self.guesses.pop_front();
        }
        self.guesses.push_back((subject, guess));
        self.learned += 1;
    }
}

impl OutputState {
    /// How often something was learned of what the driver minds.
    pub fn guesses(&self) -> u64 {
        self.searches.learned
    }

    /// What the driver likely minds about a layer of the last plan on a plane that refused it in a test.
    pub fn guess(&self, layer: usize, plane: NonZeroU32) -> Option<&Guess> {
        let layer = self.planner.layers().get(layer)?;
        self.searches.guess(&Subject::new(plane, layer))
    }

    /// The first layer of the last plan that is composited for a test that failed, and that nothing is known of yet.
    fn subject(&self) -> Option<(usize, Subject)> {
        let (scene, plan) = self.last_plan()?;
        let seen = |layer: usize| layer < plan.visible && plan.hidden[layer].is_none();
        let refused = plan.refusals.iter().filter(|(layer, _, refusal)| {
            matches!(refusal, Refusal::Test { .. }) && plan.planes[*layer].is_none() && seen(*layer)
        });
        let mut subjects =
            refused.map(|(layer, plane, _)| (*layer, Subject::new(*plane, &scene.layers[*layer])));
        subjects.find(|(_, subject)| self.searches.guess(subject).is_none())
    }

    /// Asks the driver about a trial. `None` if there is nothing to ask with.
    fn try_out(
        &self,
        trial: &Trial,
        subject: &Subject,
        index: usize,
        layers: &[SurfaceLayer],
        buffers: &[Option<SharedFramebuffer>],
        backend: &mut Backend,
    ) -> Option<bool> {
        let (scene, plan) = self.last_plan()?;
        let plan = match trial.with_others {
            true => Plan { pointer: None, ..plan.clone() },
            false => Plan::composite_all(scene.layers, scene.output),
        };
        let composed = backend.any_target(self.id, self.canvas(&plan)).ok()?;
        let mut spec = self.spec(&plan, layers, buffers, Some(&composed), None, backend)?;
        spec.planes.retain(|update| update.plane != subject.plane);
        let caps = scene.planes.iter().find(|caps| caps.id == subject.plane)?;
        let Layer { src, dst, alpha, rotation, .. } = trial.layer;
        let rotation = rotation.within(caps.rotations)?;
        let update = PlaneUpdate::new(subject.plane, buffers.get(index)?.clone()?, src, dst);
        spec.planes.push(PlaneUpdate { rotation, alpha, ..update });
        Some(backend.test(self.id, &spec).is_ok())
    }
}

impl State {
    /// An output has a new plan: if the driver refused something, it is asked why when there is time.
    pub(crate) fn bisect_later(&mut self, id: OutputId) {
        let Some(entry) = self.outputs.iter_mut().find(|o| o.state.id == id) else { return };
        let output = &mut entry.state;
        if !output.searches.armed && output.subject().is_some() {
            output.searches.armed = true;
            output.searches.waited = IDLE;
            self.runtime.timers.after(IDLE, move |state| state.bisect(id));
        }
    }

    fn bisect(&mut self, id: OutputId) {
        let Some(index) = self.outputs.iter().position(|o| o.state.id == id) else { return };
        let output = &mut self.outputs[index].state;
        output.searches.armed = false;
        let active = self.backend.kms().is_none_or(|kms| kms.is_active());
        let Some((layer, subject)) = output.subject().filter(|_| active) else { return };
        if output.searches.asked.0 != output.plans {
            output.searches.asked = (output.plans, 0);
        }
        let pause = if output.redraw == Redraw::Idle {
            output.searches.waited = IDLE;
            if output.searches.asked.1 >= MOST || !self.ask_once(index, layer, subject) {
                return;
            }
            PAUSE
        } else {
            output.searches.waited = (output.searches.waited * 2).min(RARELY);
            output.searches.waited
        };
        self.outputs[index].state.searches.armed = true;
        self.runtime.timers.after(pause, move |state| state.bisect(id));
    }

    /// Asks the next question about a layer. Returns false if there is none to ask with the plan that there is.
    fn ask_once(&mut self, index: usize, layer: usize, subject: Subject) -> bool {
        let output = &mut self.outputs[index].state;
        let layers = self.shell.scene(output.geometry(), Vec::new()).layers;
        if !layers.iter().map(|l| &l.surface).eq(&output.entered) {
            return false;
        }
        let others = output.planner.last().is_some_and(|plan| plan.planes.iter().any(Option::is_some));
        let search = output.searches.search.take().filter(|(known, _)| *known == subject);
        let (_, mut search) = search.unwrap_or_else(|| {
            let search = Bisection::new(subject.layer.clone(), output.picture(), others);
            (subject.clone(), search)
        });
        let trial = match search.step() {
            Step::Ask(trial) => trial,
            Step::Done(guess) => {
                tracing::debug!(output = output.output.name(), plane = subject.plane, %guess, "refusal guessed");
                output.searches.learn(subject, guess);
                return true;
            }
        };
        let mut requests = Vec::new();
        let mut buffers = Vec::new();
        make_requests(&layers, Some(output.id), &mut self.backend, monotonic(), &mut requests, &mut buffers);
        let backend = &mut self.backend;
        let Some(taken) = output.try_out(&trial, &subject, layer, &layers, &buffers, backend) else {
            return false;
        };
        output.searches.asked.1 += 1;
        search.answer(trial.without, taken);
        output.searches.search = Some((subject, search));
        true
    }
}
