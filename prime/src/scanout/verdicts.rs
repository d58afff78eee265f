//! What the driver said, by configuration: nothing is asked twice while it is remembered.
//!
//! A configuration is what a test commit names: every plane that is on with its format, place and settings, but not its
//! buffer. A pointer on a cursor plane counts wherever it is.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::io::Errno;

use super::assign::{Problem, Who};
use super::geometry::{Rect, SourceRect};
use super::layer::Scannable;
use super::plan::{Plan, PlaneSetting, PrimaryContent};
use super::plane::{ColorEncoding, ColorRange, PlaneType};

/// Configurations that are remembered at most.
pub const MAX_VERDICTS: usize = 64;
/// Shapes of single layers that are remembered as refused at most.
const MAX_SHAPES: usize = 128;
/// How long a refused commit is held against its configuration, though the test had passed.
pub(super) const DISTRUST: Duration = Duration::from_secs(5);

/// A plane of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlaneState {
    setting: PlaneSetting,
    format: DrmFourcc,
    modifier: DrmModifier,
    color: (ColorEncoding, ColorRange),
    foreign: bool,
    src: SourceRect,
    dst: Rect,
}

impl PlaneState {
    fn new(setting: PlaneSetting, content: &Scannable, src: SourceRect, dst: Rect) -> Self {
        let Scannable { format, modifier, color, foreign } = *content;
        Self { setting, format, modifier, color, foreign, src, dst }
    }

    /// The same without its place, except for whether it is within the output: who was refused alone is refused there.
    fn shape(mut self, output: Rect) -> Self {
        let inside = output.contains(&self.dst);
        self.setting.zpos = None;
        self.dst = Rect { x: i32::from(inside), y: 0, ..self.dst };
        self.src = SourceRect { x: self.src.x & 0xffff, y: self.src.y & 0xffff, ..self.src };
        self
    }
}

/// Fills `out` with the configuration that a plan stands for.
pub(super) fn configuration(problem: &Problem<'_>, plan: &Plan, out: &mut Vec<PlaneState>) {
    out.clear();
    let scene = problem.scene;
    let setting = |plane: NonZeroU32| plan.setting(plane).copied();
    if let (PrimaryContent::Composited, Some(primary)) = (plan.primary, problem.primary())
        && let Some(setting) = setting(scene.planes[primary].id)
    {
        let canvas = scene.canvas;
        let format = canvas.alpha.filter(|_| !plan.underlays.is_empty()).unwrap_or(canvas.opaque);
        let dst = plan.part.unwrap_or(scene.output);
        let content = Scannable::new(format, canvas.modifier);
        out.push(PlaneState::new(setting, &content, SourceRect::whole(dst.w, dst.h), dst));
    }
    for (layer, plane) in scene.layers.iter().zip(&plan.planes) {
        if let (Some(plane), Ok(content)) = (*plane, &layer.content)
            && let Some(setting) = setting(plane)
        {
            out.push(PlaneState::new(setting, content, layer.src, layer.dst));
        }
    }
    if let (Some(plane), Some(pointer)) = (plan.pointer, scene.pointer)
        && let (Some(setting), Ok(content)) = (setting(plane), &pointer.content)
    {
        let mut dst = pointer.dst;
        if scene.planes.iter().any(|p| p.id == plane && p.kind == PlaneType::Cursor) {
            (dst.x, dst.y) = (0, 0);
        }
        out.push(PlaneState::new(setting, content, SourceRect::whole(dst.w, dst.h), dst));
    }
}

/// What is held against a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The test was refused.
    Test(Errno),
    /// The test passed and the commit was refused; held until then.
    Commit(Errno, Duration),
}

#[derive(Debug)]
struct Verdict {
    hash: u64,
    configuration: Box<[PlaneState]>,
    answer: Result<(), Held>,
    used: u64,
}

/// The answers that are remembered.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    all: Vec<Verdict>,
    shapes: Vec<(PlaneState, Errno, u64)>,
    clock: u64,
}

fn hash(configuration: &[PlaneState]) -> u64 {
    let mut hasher = DefaultHasher::new();
    configuration.hash(&mut hasher);
    hasher.finish()
}

/// Errnos that tell of the moment rather than of the configuration.
fn passing(errno: Errno) -> bool {
    matches!(errno, Errno::INTR | Errno::AGAIN | Errno::BUSY | Errno::NOMEM | Errno::ACCESS | Errno::PERM)
}

/// Forgets what was used longest ago if there are as many as there may be.
fn make_room<T>(all: &mut Vec<T>, most: usize, used: impl Fn(&T) -> u64) {
    if all.len() >= most
        && let Some(oldest) = (0..all.len()).min_by_key(|&i| used(&all[i]))
    {
        all.swap_remove(oldest);
    }
}

impl Verdicts {
    /// What is known of a configuration.
    pub fn known(&mut self, configuration: &[PlaneState], now: Duration) -> Option<Result<(), Held>> {
        let wanted = hash(configuration);
        let index = self.all.iter().position(|v| v.hash == wanted && *v.configuration == *configuration)?;
        if matches!(self.all[index].answer, Err(Held::Commit(_, until)) if until <= now) {
            self.all.swap_remove(index);
            return None;
        }
        self.clock += 1;
        self.all[index].used = self.clock;
        Some(self.all[index].answer)
    }

    /// Remembers an answer, and forgets the one that was of no use for longest.
    pub fn learn(&mut self, configuration: &[PlaneState], answer: Result<(), Held>) {
        if matches!(answer, Err(Held::Test(errno)) if passing(errno)) {
            return;
        }
        self.clock += 1;
        let hash = hash(configuration);
        self.all.retain(|v| v.hash != hash || *v.configuration != *configuration);
        make_room(&mut self.all, MAX_VERDICTS, |v| v.used);
        self.all.push(Verdict { hash, configuration: configuration.into(), answer, used: self.clock });
    }

    /// Remembers that nothing but `state` was on, and refused.
    pub fn learn_shape(&mut self, state: PlaneState, output: Rect, errno: Errno) {
        if passing(errno) {
            return;
        }
        self.clock += 1;
        make_room(&mut self.shapes, MAX_SHAPES, |shape| shape.2);
        self.shapes.push((state.shape(output), errno, self.clock));
    }

    /// The errno with which a plane refused the layer's shape when it was alone.
    pub fn refuses(&self, state: PlaneState, output: Rect) -> Option<Errno> {
        let shape = state.shape(output);
        self.shapes.iter().find(|(known, ..)| *known == shape).map(|(_, errno, _)| *errno)
    }

    /// Forgets everything: the mode, the outputs or the master are others now.
    pub fn forget(&mut self) {
        self.all.clear();
        self.shapes.clear();
    }

    pub fn has_shapes(&self) -> bool {
        !self.shapes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }
}

/// What a layer or the pointer would be on a plane, alone.
pub(super) fn alone(problem: &Problem<'_>, who: Who, plane: usize) -> Option<PlaneState> {
    let (scene, caps) = (problem.scene, &problem.scene.planes[plane]);
    let Who::Layer(index) = who else { return None };
    let layer = &scene.layers[index];
    let content = layer.content.as_ref().ok()?;
    let fit = super::fit::fit(caps, layer, Some(content)).ok()?;
    let setting = PlaneSetting {
        plane: caps.id,
        zpos: None,
        rotation: fit.rotation,
        alpha: layer.alpha,
        blend: fit.blend,
    };
    Some(PlaneState::new(setting, content, layer.src, layer.dst))
}
