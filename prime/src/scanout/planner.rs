//! The planner as it lives with an output: it keeps the last plan, what the driver said, and who came and went.
//!
//! ```text
//!  scene == the last one ──> the kept plan                                   no question, no allocation
//!        │ differs
//!  rank ──> search ──> the whole configuration, asked once unless known ── accepted ──> plan, refusals
//!             ^                         │ refused
//!             └── without the pair ── halves of it, until one pair is the culprit        at most MAX_ASKS in all
//! ```

use std::num::NonZeroU32;
use std::time::Duration;

use rustix::io::Errno;

use super::assign::{Assignment, Exclusions, Problem, Who};
use super::explain::{Standing, explain};
use super::geometry::Rect;
use super::history::History;
use super::layer::{Layer, Pointer};
use super::part::{Parts, Wanted};
use super::plan::{Plan, sight};
use super::plane::{PlaneCaps, PlaneType};
use super::refusal::Refusal;
use super::verdicts::{DISTRUST, Held, PlaneState, Verdicts, alone, configuration};
use super::{Canvas, Scene};

/// Times that the driver is asked for one plan, at most. An accepted configuration takes one question; a culprit among n
/// planes takes the logarithm of n, and then one for what is left.
pub const MAX_ASKS: usize = 16;
/// Layers that are considered for planes, the best ones first; the others are composited.
pub const MAX_CANDIDATES: usize = 64;
/// Planes that a layer is refused on by the driver before the rest of them are spared the question.
const MAX_CULPRIT: usize = 3;

/// What a plan was made of.
#[derive(Debug, Default)]
struct Made {
    planes: Vec<PlaneCaps>,
    layers: Vec<Layer>,
    pointer: Option<Pointer>,
    output: Rect,
    canvas: Canvas,
    crtc_shows_backdrop: bool,
    overlays: bool,
}

impl Made {
    fn of(&mut self, scene: &Scene<'_>) {
        self.planes.clear();
        self.planes.extend_from_slice(scene.planes);
        self.layers.clear();
        self.layers.extend_from_slice(scene.layers);
        self.pointer = scene.pointer.cloned();
        (self.output, self.canvas) = (scene.output, scene.canvas);
        (self.crtc_shows_backdrop, self.overlays) = (scene.crtc_shows_backdrop, scene.overlays);
    }

    /// Nothing changed, or nothing but the place of a pointer that a cursor plane shows.
    fn is(&self, scene: &Scene<'_>, pointer_is_free: bool) -> bool {
        let pointer = match (&self.pointer, scene.pointer) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let place = pointer_is_free || (a.dst.x, a.dst.y) == (b.dst.x, b.dst.y);
                place && (a.dst.w, a.dst.h, &a.content) == (b.dst.w, b.dst.h, &b.content)
            }
            _ => false,
        };
        pointer
            && (self.output, self.canvas) == (scene.output, scene.canvas)
            && (self.crtc_shows_backdrop, self.overlays) == (scene.crtc_shows_backdrop, scene.overlays)
            && self.layers == scene.layers
            && self.planes == scene.planes
    }
}

/// Plans one output, again and again.
#[derive(Debug, Default)]
pub struct Planner {
    made: Made,
    plan: Option<Plan>,
    configuration: Vec<PlaneState>,
    verdicts: Verdicts,
    history: History,
    parts: Parts,
    asked: u64,
}

impl Planner {
    /// A planner that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decides about `scene`, and returns whether the plan is a new one: with the same scene as the last time it is the
    /// kept one. `now` is a monotonic clock, which hysteresis goes by.
    ///
    /// `test` is asked whether the driver takes a configuration, at most [`MAX_ASKS`] times; its error (a TEST_ONLY
    /// commit's errno) becomes a [`Refusal::Test`]. What it is asked has no refusals yet.
    pub fn plan(
        &mut self,
        scene: &Scene<'_>,
        now: Duration,
        test: impl FnMut(&Plan) -> Result<(), Errno>,
    ) -> bool {
        if self.stands(scene, now) {
            return false;
        }
        self.replan(scene, now, test);
        true
    }

    /// Tells whether the last plan is that of `scene`.
    pub fn stands(&self, scene: &Scene<'_>, now: Duration) -> bool {
        self.plan.as_ref().is_some_and(|plan| {
            self.history.stands(now)
                && self.parts.stands(now)
                && self.made.is(scene, on_cursor_plane(&self.made.planes, plan))
        })
    }

    /// The last plan.
    pub fn last(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The layers that the last plan was made of.
    pub fn layers(&self) -> &[Layer] {
        &self.made.layers
    }

    /// What the last plan was made of.
    pub fn scene(&self) -> Scene<'_> {
        Scene {
            planes: &self.made.planes,
            layers: &self.made.layers,
            pointer: self.made.pointer.as_ref(),
            output: self.made.output,
            canvas: self.made.canvas,
            crtc_shows_backdrop: self.made.crtc_shows_backdrop,
            overlays: self.made.overlays,
        }
    }

    /// Times that the driver was asked so far.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Configurations that are remembered, at most [`super::MAX_VERDICTS`].
    pub fn verdicts(&self) -> usize {
        self.verdicts.len()
    }

    /// Forgets the plan and all that the driver said: the mode is another, or somebody else was master.
    pub fn forget(&mut self) {
        self.plan = None;
        self.verdicts.forget();
        self.parts = Parts::default();
    }

    /// The driver took the last plan in a test and refused it in a commit, as it does when a mode needs what the overlays
    /// take: everything is composited from now on, until something changes. Then the configuration counts as refused for
    /// five seconds, so that less is tried first.
    pub fn refused(&mut self, errno: Errno, now: Duration) {
        let Some(plan) = &mut self.plan else { return };
        if !self.configuration.is_empty() {
            self.verdicts.learn(&self.configuration, Err(Held::Commit(errno, now + DISTRUST)));
        }
        let mut composed = Plan::composite_all(&self.made.layers, self.made.output);
        let used = plan.planes.iter().enumerate();
        composed.refusals = used.filter_map(|(i, p)| Some((i, (*p)?, Refusal::Commit { errno }))).collect();
        composed.pointer_refusals.extend(plan.pointer.map(|plane| (plane, Refusal::Commit { errno })));
        *plan = composed;
        self.history.stand();
        self.parts.stand();
    }

    fn replan(&mut self, scene: &Scene<'_>, now: Duration, mut test: impl FnMut(&Plan) -> Result<(), Errno>) {
        let (visible, hidden) = sight(scene.layers, scene.output);
        self.history.enter(scene.layers, now);
        let mut order: Vec<usize> = (0..visible)
            .filter(|&i| hidden[i].is_none() && scene.layers[i].content.is_ok() && !self.history.waits(i))
            .collect();
        order.sort_by_cached_key(|&i| std::cmp::Reverse(self.history.rank(i, &scene.layers[i], now)));
        let ranked = order.clone();
        order.truncate(MAX_CANDIDATES);

        let mut excluded = Exclusions::new();
        let mut asks = Asks { left: MAX_ASKS, made: 0 };
        let before = self.history.before(scene.layers.len());
        let nothing = Exclusions::new();
        let base = Problem {
            scene,
            visible,
            hidden: &hidden,
            order: &order,
            before: &before,
            excluded: &nothing,
            wild: None,
        };
        if self.verdicts.has_shapes() {
            excluded = self.known_shapes(&base, &order);
        }
        let (found, spent, part) = loop {
            let problem = Problem { excluded: &excluded, ..base };
            let whole = problem.solve();
            let part = self.parts.wanted(scene, &problem.plan(&whole), now);
            let smaller = part.filter(|wanted| wanted.part != scene.output);
            if smaller.is_some() {
                let answer = self.verdict(&problem, &whole, smaller, now, &mut asks, &mut test);
                if matches!(answer, Answer::Yes) {
                    break (whole, false, part);
                }
            }
            match self.settle(&problem, &whole, now, &mut asks, &mut test) {
                Settled::Accepted => {
                    smaller.into_iter().for_each(|_| self.parts.refused());
                    break (whole, false, part.filter(|_| smaller.is_none()));
                }
                Settled::Spent(placed) => break (whole.prefix(placed), true, None),
                Settled::Culprit(who, plane, refusal) => {
                    let refused = excluded.iter().filter(|(w, ..)| *w == who).count();
                    let others = scene.planes.iter().filter(|p| p.id != plane).map(|p| p.id);
                    if matches!(refusal, Refusal::Commit { .. }) {
                        // It is not the plane that was refused, but one more of them.
                        excluded.extend(others.map(|p| (who, p, refusal.clone())));
                    } else if refused + 1 >= MAX_CULPRIT {
                        let asked = refused + 1;
                        excluded.extend(others.map(|p| (who, p, Refusal::Unasked { asked })));
                    }
                    // The first entry of a pair counts.
                    excluded.insert(0, (who, plane, refusal));
                }
            }
        };
        let problem = Problem { excluded: &excluded, ..base };
        let mut plan = problem.plan(&found);
        plan.part = part.map(|wanted| wanted.part).filter(|part| *part != scene.output);
        plan.asked = asks.made;
        configuration(&problem, &plan, &mut self.configuration);
        let standing = |layer: usize| match (&scene.layers[layer].content, self.history.held(layer)) {
            (Err(refusal), _) => Standing::Out(refusal.clone()),
            (Ok(_), Some((losses, wait))) => Standing::Out(Refusal::Held { losses, wait }),
            (Ok(_), None) => match ranked.iter().skip(MAX_CANDIDATES).position(|&i| i == layer) {
                Some(rank) => Standing::Out(Refusal::NotAmongBest {
                    rank: MAX_CANDIDATES + rank + 1,
                    bound: MAX_CANDIDATES,
                }),
                None => Standing::Candidate,
            },
        };
        explain(&problem, &found, standing, spent.then_some(MAX_ASKS), &mut plan);
        self.history.leave(scene.layers, &plan, &order, now);
        self.parts.leave(scene, part, now);
        self.asked += asks.made as u64;
        self.made.of(scene);
        self.plan = Some(plan);
    }

    /// What is known to be refused wherever it is.
    fn known_shapes(&self, problem: &Problem<'_>, order: &[usize]) -> Exclusions {
        let mut known = Exclusions::new();
        for &layer in order {
            for (plane, caps) in problem.scene.planes.iter().enumerate() {
                let who = Who::Layer(layer);
                let state = alone(problem, who, plane);
                let refused = state.and_then(|state| self.verdicts.refuses(state, problem.scene.output));
                known.extend(refused.map(|errno| (who, caps.id, Refusal::Test { errno })));
            }
        }
        known
    }

    /// Asks about an assignment, and who is to blame if it is refused.
    fn settle(
        &mut self,
        problem: &Problem<'_>,
        whole: &Assignment,
        now: Duration,
        asks: &mut Asks,
        test: &mut impl FnMut(&Plan) -> Result<(), Errno>,
    ) -> Settled {
        let all = whole.log.len();
        let (mut accepted, mut refused) = (0, all);
        let mut last = match self.verdict(problem, whole, None, now, asks, test) {
            Answer::Yes => return Settled::Accepted,
            Answer::No(refusal) => refusal,
            Answer::NotAsked => return Settled::Spent(0),
        };
        while refused - accepted > 1 {
            let middle = accepted + (refused - accepted) / 2;
            match self.verdict(problem, &whole.prefix(middle), None, now, asks, test) {
                Answer::Yes => accepted = middle,
                Answer::No(refusal) => (refused, last) = (middle, refusal),
                Answer::NotAsked => return Settled::Spent(accepted),
            }
        }
        let who = whole.log[refused - 1];
        let plane = match who {
            Who::Pointer => whole.pointer,
            Who::Layer(layer) => whole.at[layer].map(|(plane, _)| plane),
        };
        let Some(plane) = plane else { return Settled::Spent(accepted) };
        if let (1, Refusal::Test { errno }, Some(state)) = (refused, &last, alone(problem, who, plane)) {
            self.verdicts.learn_shape(state, problem.scene.output, *errno);
        }
        Settled::Culprit(who, problem.scene.planes[plane].id, last)
    }

    fn verdict(
        &mut self,
        problem: &Problem<'_>,
        a: &Assignment,
        part: Option<Wanted>,
        now: Duration,
        asks: &mut Asks,
        test: &mut impl FnMut(&Plan) -> Result<(), Errno>,
    ) -> Answer {
        if a.log.is_empty() && part.is_none() {
            return Answer::Yes;
        }
        let plan = Plan { part: part.map(|wanted| wanted.part), ..problem.plan(a) };
        configuration(problem, &plan, &mut self.configuration);
        let known = match self.verdicts.known(&self.configuration, now) {
            Some(known) => known,
            None if asks.left == 0 => return Answer::NotAsked,
            None => {
                asks.left -= 1;
                asks.made += 1;
                let answer = test(&plan).map_err(Held::Test);
                self.verdicts.learn(&self.configuration, answer);
                answer
            }
        };
        match known {
            Ok(()) => Answer::Yes,
            Err(Held::Test(errno)) => Answer::No(Refusal::Test { errno }),
            Err(Held::Commit(errno, _)) => Answer::No(Refusal::Commit { errno }),
        }
    }
}

struct Asks {
    left: usize,
    made: usize,
}

enum Answer {
    Yes,
    No(Refusal),
    NotAsked,
}

enum Settled {
    Accepted,
    /// This much of it was accepted before the questions ran out.
    Spent(usize),
    Culprit(Who, NonZeroU32, Refusal),
}

fn on_cursor_plane(planes: &[PlaneCaps], plan: &Plan) -> bool {
    let is = |p: &PlaneCaps| Some(p.id) == plan.pointer && p.kind == PlaneType::Cursor;
    planes.iter().any(is)
}
