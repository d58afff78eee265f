//! What primeway is to reach, beside what it did.
//!
//! Owns the limits. A goal whose figures were not all measured is left out.

use super::Results;
use super::measure::{Churn, Frames};
use super::peers::Peer;
use super::scenario::Scenario;

/// A limit and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// In words, with the limit.
    pub what: String,
    /// The figure.
    pub measured: String,
    /// Whether the figure keeps the limit.
    pub met: bool,
}

/// Every goal that the results say something about.
#[must_use]
pub fn goals(results: &Results) -> Vec<Goal> {
    let frames = |scenario| frames(results, scenario, Peer::Primeway);
    let mut goals = Vec::new();
    if let Some(own) = frames(Scenario::Fullscreen) {
        let exactly_one = (0.95..1.05).contains(&own.drm_ioctls);
        goals.push(goal("full screen: exactly 1 DRM ioctl per frame", own.drm_ioctls, "", exactly_one));
        goals.push(goal("full screen: at most 14 system calls per frame", own.calls, "", own.calls <= 14.0));
        let share = own.vblanks * 100.0;
        goals.push(goal("full screen: at least 99 % of vblanks", share, " %", share >= 99.0));
        goals.push(goal("full screen: p99 at most 18 ms", own.latency_p99, " ms", own.latency_p99 <= 18.0));
    }
    if let Some(own) = frames(Scenario::FullscreenLate) {
        let what = "full screen, drawn in 1 ms: p50 at most 8 ms";
        goals.push(goal(what, own.latency_p50, " ms", own.latency_p50 <= 8.0));
    }
    if let Some(own) = frames(Scenario::Windows8) {
        let share = own.zero_copy.min(own.on_planes.unwrap_or_default()) * 100.0;
        goals.push(goal("8 windows: 100 % zero-copy, and on planes", share, " %", share >= 100.0));
    }
    if let Some(own) = frames(Scenario::Windows32) {
        let planes = own.on_planes.unwrap_or_default() * f64::from(own.windows);
        goals.push(goal("32 windows: 8 of them on planes", planes, "", planes >= 7.9));
    }
    for (scenario, limit) in [
        (Scenario::Fullscreen, 0.5),
        (Scenario::Windows8, 0.25),
        (Scenario::Windows32, 1.0),
        (Scenario::Shm8, 1.0),
        (Scenario::Shm32, 1.0),
        (Scenario::NewBuffer, 0.6),
    ] {
        let ratio = ratio(|peer| self::frames(results, scenario, peer).map(|frames| frames.cpu));
        let what = format!("{}: CPU per frame at most {limit} of the best other", scenario.title());
        goals.extend(ratio.map(|ratio| goal(&what, ratio, "", ratio <= limit)));
    }
    let wall = ratio(|peer| churn(results, peer).map(|churn| churn.wall));
    let what = "creating and destroying a wl_buffer: at most 0.6 of the best other";
    goals.extend(wall.map(|ratio| goal(what, ratio, "", ratio <= 0.6)));
    if let Some(own) = results.starts(Peer::Primeway) {
        goals.push(goal(
            "RSS at most 50 MB",
            own.resident * 1.048_576,
            " MB",
            own.resident * 1.048_576 <= 50.0,
        ));
    }
    let start = ratio(|peer| results.starts(peer).map(|starts| starts.answer));
    let what = "start to the first answer: at most 0.3 of the best other";
    goals.extend(start.map(|ratio| goal(what, ratio, "", ratio <= 0.3)));
    goals
}

fn goal(what: &str, figure: f64, unit: &str, met: bool) -> Goal {
    Goal { what: what.to_owned(), measured: format!("{figure:.2}{unit}"), met }
}

fn frames(results: &Results, scenario: Scenario, peer: Peer) -> Option<&Frames> {
    results.row(scenario, peer)?.figures()?.frames.as_ref()
}

fn churn(results: &Results, peer: Peer) -> Option<&Churn> {
    results.row(Scenario::Churn, peer)?.figures()?.churn.as_ref()
}

/// primeway's figure through the smallest of the others.
fn ratio(figure: impl Fn(Peer) -> Option<f64>) -> Option<f64> {
    let own = figure(Peer::Primeway)?;
    let others = Peer::ALL.into_iter().filter(|peer| *peer != Peer::Primeway).filter_map(figure);
    others.reduce(f64::min).map(|best| own / best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Figures;
    use crate::bench::{Outcome, Row};

    fn row(compositor: Peer, cpu: f64, latency_p99: f64) -> Row {
        let frames =
            Frames { cpu, latency_p99, drm_ioctls: 1.0, calls: 14.0, vblanks: 0.99, ..Frames::default() };
        let figures = Figures { frames: Some(frames), resident: 10.0, answer: cpu, ..Figures::default() };
        let outcome = Outcome::Measured(Box::new(figures));
        Row { scenario: Scenario::Fullscreen, compositor, outcome }
    }

    fn missed(rows: Vec<Row>) -> Vec<String> {
        let results =
            Results { kernel: String::new(), versions: Vec::new(), seconds: 1.0, bare_flip: 0.0, rows };
        let missed = goals(&results).into_iter().filter(|goal| !goal.met);
        missed.map(|goal| goal.what).collect()
    }

    #[test]
    fn limits_are_met_at_the_limit_and_missed_beyond() {
        let best = || row(Peer::Labwc, 100.0, 40.0);
        assert_eq!(missed(vec![row(Peer::Primeway, 30.0, 18.0), best()]), Vec::<String>::new());
        let beyond = missed(vec![row(Peer::Primeway, 51.0, 18.1), best(), row(Peer::Sway, 900.0, 1.0)]);
        assert_eq!(beyond.len(), 3, "{beyond:?}");
        assert!(beyond[0].contains("p99") && beyond[1].contains("CPU") && beyond[2].contains("start"));
    }

    #[test]
    fn what_was_not_measured_is_no_goal() {
        assert_eq!(missed(Vec::new()), Vec::<String>::new());
    }
}
