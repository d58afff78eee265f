//! The part of the output that the composited picture covers, where the primary plane may cover less than the output and
//! nothing needs to be drawn where no layer is.
//!
//! It owns what is needed, and hysteresis: the part grows at once and becomes smaller late, so that a window that moves does not
//! cost new buffers with each frame.
//!
//! | needed | the part |
//! |---|---|
//! | first time | what is needed |
//! | more than there is | both together; if it has grown within the last [`SHRINK_AFTER`] already, the whole output |
//! | less than there is | stays for [`SHRINK_AFTER`], and then becomes what was needed in that time; or stays for as long again, if that is more than is needed now and than was needed in the time before: something is on its way |
//!
//! The driver may refuse a part that the planes' description allows: then it is the whole output, and after
//! [`MAX_REFUSED`] such refusals one after the other no part is tried any more.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Scene;
use super::geometry::Rect;
use super::plan::{Plan, PrimaryContent};
use super::plane::PlaneType;

/// How long a composited picture is larger than it needs to be.
pub const SHRINK_AFTER: Duration = Duration::from_secs(1);
/// Parts that the driver refused one after the other, before none is tried any more.
const MAX_REFUSED: u32 = 3;

#[derive(Clone, Copy, Debug)]
struct Held {
    output: Rect,
    part: Rect,
    /// When it became so large, or was last looked at.
    since: Duration,
    /// It grew then.
    grew: bool,
    /// What was needed since then.
    needed: Rect,
    /// What was needed in the time before.
    before: Rect,
}

impl Held {
    fn is_over(&self, now: Duration) -> bool {
        now >= self.since + SHRINK_AFTER
    }
}

/// What is remembered of the parts of the last plans.
#[derive(Debug, Default)]
pub(super) struct Parts {
    held: Option<Held>,
    refused: u32,
    next: Option<Duration>,
}

/// A part that the composited picture of an assignment may cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What composition draws, on the grid.
    needed: Rect,
    /// What the picture is to cover.
    pub part: Rect,
}

impl Parts {
    /// What the composited picture of `plan` is to cover; none if that is the whole output in any case.
    pub fn wanted(&self, scene: &Scene<'_>, plan: &Plan, now: Duration) -> Option<Wanted> {
        let grid = scene.canvas.grid.filter(|_| scene.crtc_shows_backdrop && self.refused < MAX_REFUSED)?;
        let primary = scene.planes.iter().find(|p| p.kind == PlaneType::Primary)?;
        if !primary.covers_part || plan.primary != PrimaryContent::Composited {
            return None;
        }
        let held = self.held.filter(|held| held.output == scene.output);
        let needed = needed(scene, plan, grid, held.map(|held| held.part));
        let part = match held {
            None => needed,
            Some(held) if held.part.contains(&needed) && !held.is_over(now) => held.part,
            Some(held) if held.part.contains(&needed) => {
                let all = held.needed.union(&needed);
                if all == needed || held.before.contains(&all) { all } else { held.part }
            }
            Some(held) if held.grew && !held.is_over(now) => scene.output,
            Some(held) => held.part.union(&needed),
        };
        Some(Wanted { needed, part })
    }

    /// The driver refused a part of a plan that it takes with the whole output.
    pub fn refused(&mut self) {
        self.refused += 1;
    }

    /// A plan was made; `wanted` is what became of its composited picture, none if that covers the output or there is none.
    pub fn leave(&mut self, scene: &Scene<'_>, wanted: Option<Wanted>, now: Duration) {
        self.next = None;
        let Some(Wanted { needed, part }) = wanted else { return };
        let output = scene.output;
        if part != output {
            self.refused = 0;
        }
        let held = match self.held.filter(|held| held.output == output) {
            Some(held) if held.part == part && !held.is_over(now) => {
                Held { needed: held.needed.union(&needed), ..held }
            }
            Some(held) if held.part == part => {
                Held { since: now, grew: false, needed, before: held.needed.union(&needed), ..held }
            }
            Some(held) => {
                let grew = !held.part.contains(&part);
                Held { output, part, since: now, grew, needed, before: if grew { needed } else { part } }
            }
            None => Held { output, part, since: now, grew: false, needed, before: needed },
        };
        self.held = Some(held);
        self.next = (needed != part).then(|| held.since + SHRINK_AFTER);
    }

    /// Tells whether the last part is still what it would be, for all that time tells.
    pub fn stands(&self, now: Duration) -> bool {
        self.next.is_none_or(|next| now < next)
    }

    /// The part stands until something changes.
    pub fn stand(&mut self) {
        self.next = None;
    }
}

/// What composition draws, on the grid and inside the output; a first cell of `held` or the output if that is nothing.
fn needed(scene: &Scene<'_>, plan: &Plan, grid: NonZeroU32, held: Option<Rect>) -> Rect {
    let output = scene.output;
    // It may be anywhere the next moment.
    if scene.pointer.is_some() && plan.pointer.is_none() {
        return output;
    }
    let seen = plan.drawn().filter_map(|(layer, _)| scene.layers[layer].dst.intersection(&output));
    let at = held.unwrap_or(output);
    let drawn = seen.reduce(|all, dst| all.union(&dst)).unwrap_or(Rect { w: 1, h: 1, ..at });
    let (x, w) = along(i64::from(grid.get()), (drawn.x, drawn.w), (output.x, output.w));
    let (y, h) = along(i64::from(grid.get()), (drawn.y, drawn.h), (output.y, output.h));
    Rect { x, y, w, h }
}

/// The steps of a grid that begins where `whole` does, up to its end, that an extent within it touches.
fn along(grid: i64, (at, len): (i32, u32), whole: (i32, u32)) -> (i32, u32) {
    let from = i64::from(at) - i64::from(whole.0);
    let (first, end) = (from / grid * grid, (from + i64::from(len) + grid - 1) / grid * grid);
    let end = end.min(i64::from(whole.1));
    let start = i32::try_from(first + i64::from(whole.0)).unwrap_or(at);
    (start, u32::try_from(end - first).unwrap_or(len))
}
