//! `timeline`: what the planes of each output showed lately, and how long its frames took.
//!
//! It owns the report; what is remembered is [`crate::output::trace`]'s.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::explain::Moment;
use super::identity::{Identity, surfaces};
use crate::output::OutputState;
use crate::output::trace::{Change, Holder};
use crate::state::State;

/// What happened lately.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineReport {
    /// When it was asked for, in milliseconds since 1970.
    pub now_unix_ms: u64,
    /// Left to right.
    pub outputs: Vec<OutputTimeline>,
}

/// What happened on an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputTimeline {
    /// Its name.
    pub output: String,
    /// Milliseconds from one vertical blank to the next.
    pub refresh_ms: f64,
    /// Frames shown since the start.
    pub frames: u64,
    /// Vertical blanks that passed while a frame was pending, but for the one that showed it.
    pub missed: u64,
    /// From a client's commit to its being on screen, of the last frames that showed one.
    pub latency: Option<Latency>,
    /// The last changes of its planes, oldest first.
    pub changes: Vec<PlaneChange>,
}

/// How long frames took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Frames that this is of.
    pub frames: usize,
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// None took longer.
    pub max_ms: f64,
}

/// From then on planes showed something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaneChange {
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Every plane with what it shows: a client, `composited`, `pointer` or nothing.
    pub planes: Vec<(NonZeroU32, Option<String>)>,
    /// Surfaces that no plane showed and that could be seen.
    pub composited: usize,
}

/// The latencies' quantiles; nothing of nothing.
pub fn latency(all: impl Iterator<Item = Duration>) -> Option<Latency> {
    let mut sorted: Vec<f64> = all.map(|took| took.as_secs_f64() * 1000.0).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(index.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied()
    };
    Some(Latency { frames: sorted.len(), p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: at(1.0)? })
}

/// Collects what happened lately.
pub fn timeline(state: &State) -> TimelineReport {
    let moment = Moment::now();
    let who: Vec<Identity> = surfaces(state).iter().map(|s| Identity::of(s, &state.shell)).collect();
    let outputs = state.outputs.iter().map(|entry| of_output(&entry.state, &who, moment)).collect();
    TimelineReport { now_unix_ms: moment.unix_ms(crate::state::monotonic()), outputs }
}

fn of_output(output: &OutputState, who: &[Identity], moment: Moment) -> OutputTimeline {
    OutputTimeline {
        output: output.output.name(),
        refresh_ms: output.refresh.as_secs_f64() * 1000.0,
        frames: output.frames,
        missed: output.trace().missed(),
        latency: latency(output.trace().latencies()),
        changes: output.trace().changes().map(|change| of_change(change, who, moment)).collect(),
    }
}

/// Whom a plane showed, as people say it; `who` are those whose names are known.
pub(super) fn holder_name<'a>(
    holder: &Holder,
    mut who: impl Iterator<Item = &'a Identity>,
) -> Option<String> {
    match *holder {
        Holder::Off => None,
        Holder::Composited => Some("composited".to_owned()),
        Holder::Pointer => Some("pointer".to_owned()),
        Holder::Surface { pid, surface } => {
            let known = who.find(|who| (who.pid, who.surface) == (pid, surface));
            Some(known.map_or_else(|| format!("surface {surface} of pid {pid}"), Identity::name))
        }
    }
}

fn of_change(change: &Change, who: &[Identity], moment: Moment) -> PlaneChange {
    let name = |holder: &Holder| holder_name(holder, who.iter());
    PlaneChange {
        at_unix_ms: moment.unix_ms(change.at),
        planes: change.planes.iter().map(|(plane, holder)| (*plane, name(holder))).collect(),
        composited: change.composited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_there_is() {
        assert_eq!(latency(std::iter::empty()), None);
        let all = latency((1..=200).map(Duration::from_millis)).unwrap();
        assert_eq!((all.frames, all.p50_ms, all.p99_ms, all.max_ms), (200, 100.0, 198.0, 200.0));
        let one = latency(std::iter::once(Duration::from_millis(7))).unwrap();
        assert_eq!((one.p50_ms, one.p99_ms), (7.0, 7.0));
    }
}
