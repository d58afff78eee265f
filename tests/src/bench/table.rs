//! The results for readers: one table for each scenario, with the ratio to the best other compositor.
//!
//! Owns the words and the layout.

use std::fmt::Write;

use super::goals;
use super::measure::Frames;
use super::peers::Peer;
use super::scenario::Scenario;
use super::{Outcome, Results, Row};

/// One line for somebody who waits.
#[must_use]
pub fn line(row: &Row) -> String {
    let what = format!("{}, {}: ", row.scenario.title(), row.compositor.name());
    what + &match &row.outcome {
        Outcome::Lacks(reason) => reason.clone(),
        Outcome::Failed(reason) => format!("FAILED: {reason}"),
        Outcome::Measured(figures) => match (&figures.frames, &figures.churn) {
            (Some(frames), _) => format!(
                "{:.1} fps, {} of vblanks, CPU {:.0} µs a frame, {:.1}/{:.1} ms",
                frames.fps,
                percent(frames.vblanks),
                frames.cpu,
                frames.latency_p50,
                frames.latency_p99
            ),
            (None, Some(churn)) => format!("{:.1} µs each, CPU {:.1} µs", churn.wall, churn.cpu),
            (None, None) => String::new(),
        },
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A column: its heading, and what of the figures it shows. Smaller is better in those with a ratio.
struct Column {
    heading: &'static str,
    text: fn(&Frames) -> String,
    smaller: Option<fn(&Frames) -> f64>,
}

const COLUMNS: &[Column] = &[
    Column { heading: "fps", text: |f| format!("{:.1}", f.fps), smaller: None },
    Column { heading: "vblanks", text: |f| percent(f.vblanks), smaller: None },
    Column { heading: "zero-copy", text: |f| percent(f.zero_copy), smaller: None },
    Column { heading: "on planes", text: |f| f.on_planes.map_or("–".into(), percent), smaller: None },
    Column { heading: "CPU µs", text: |f| format!("{:.0}", f.cpu), smaller: Some(|f| f.cpu) },
    Column { heading: "DRM ioctls", text: |f| format!("{:.2}", f.drm_ioctls), smaller: None },
    Column { heading: "calls", text: |f| format!("{:.1}", f.calls), smaller: Some(|f| f.calls) },
    Column { heading: "p50 ms", text: |f| format!("{:.1}", f.latency_p50), smaller: Some(|f| f.latency_p50) },
    Column { heading: "p99 ms", text: |f| format!("{:.1}", f.latency_p99), smaller: Some(|f| f.latency_p99) },
];

/// The whole of a run as Markdown.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    let versions: Vec<String> =
        results.versions.iter().map(|(peer, version)| format!("{}: {version}", peer.name())).collect();
    text.push_str(&format!(
        "Linux {}, vkms 1024x768 at 60 Hz, {} s each. {}.\n",
        results.kernel,
        results.seconds,
        versions.join("; ")
    ));
    text.push_str(&format!(
        "Of the CPU time in full screen, {:.0} µs a frame are the kernel's own: a bare page flip without any compositor.\n",
        results.bare_flip
    ));
    for scenario in Scenario::ALL {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| row.scenario == scenario).collect();
        if rows.is_empty() {
            continue;
        }
        text.push_str(&format!("\n### {}\n\n", scenario.title()));
        if scenario == Scenario::Churn { churn(&mut text, &rows) } else { frames(&mut text, &rows) }
    }
    text.push_str("\n### Start and memory\n\n");
    start(&mut text, results);
    text.push_str("\n### Goals\n\n");
    text.push_str("| goal | measured | |\n|---|---|---|\n");
    for goal in goals::goals(results) {
        let met = if goal.met { "met" } else { "**missed**" };
        let _ = writeln!(text, "| {} | {} | {met} |", goal.what, goal.measured);
    }
    text
}

fn head(text: &mut String, headings: &[&str]) {
    text.push_str(&format!("| | {} |\n|---|{}\n", headings.join(" | "), "---|".repeat(headings.len())));
}

fn instead(text: &mut String, row: &Row) -> bool {
    let reason = match &row.outcome {
        Outcome::Measured(_) => return false,
        Outcome::Lacks(reason) => reason.clone(),
        Outcome::Failed(reason) => format!("FAILED: {reason}"),
    };
    text.push_str(&format!("| {} | {} |\n", row.compositor.name(), reason.replace(['|', '\n'], " ")));
    true
}

fn frames(text: &mut String, rows: &[&Row]) {
    let headings: Vec<&str> = COLUMNS.iter().map(|column| column.heading).collect();
    head(text, &headings);
    let found = |row: &&Row| row.figures().and_then(|figures| figures.frames.as_ref()).cloned();
    for row in rows {
        if instead(text, row) {
            continue;
        }
        let Some(frames) = found(row) else { continue };
        let cells: Vec<String> = COLUMNS.iter().map(|column| (column.text)(&frames)).collect();
        let partly = if frames.shown < frames.windows {
            format!(" ({} of {} windows shown)", frames.shown, frames.windows)
        } else {
            String::new()
        };
        text.push_str(&format!("| {}{partly} | {} |\n", row.compositor.name(), cells.join(" | ")));
    }
    let own = rows.iter().find(|row| row.compositor == Peer::Primeway).and_then(found);
    let others: Vec<Frames> =
        rows.iter().filter(|row| row.compositor != Peer::Primeway).filter_map(found).collect();
    let Some(own) = own.filter(|_| !others.is_empty()) else { return };
    let ratio = |smaller: fn(&Frames) -> f64| {
        let best = others.iter().map(smaller).fold(f64::INFINITY, f64::min);
        format!("**{:.2}**", smaller(&own) / best)
    };
    let cells: Vec<String> =
        COLUMNS.iter().map(|column| column.smaller.map_or_else(String::new, ratio)).collect();
    text.push_str(&format!("| primeway / best other | {} |\n", cells.join(" | ")));
}

fn churn(text: &mut String, rows: &[&Row]) {
    head(text, &["µs each", "CPU µs each", "DRM ioctls", "calls"]);
    let found = |row: &&Row| row.figures().and_then(|figures| figures.churn.clone());
    for row in rows {
        if instead(text, row) {
            continue;
        }
        let Some(churn) = found(row) else { continue };
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.2} | {:.1} |",
            row.compositor.name(),
            churn.wall,
            churn.cpu,
            churn.drm_ioctls,
            churn.calls
        );
    }
    let own = rows.iter().find(|row| row.compositor == Peer::Primeway).and_then(found);
    let others: Vec<_> =
        rows.iter().filter(|row| row.compositor != Peer::Primeway).filter_map(found).collect();
    let Some(own) = own.filter(|_| !others.is_empty()) else { return };
    let best = |figure: fn(&super::measure::Churn) -> f64| {
        figure(&own) / others.iter().map(figure).fold(f64::INFINITY, f64::min)
    };
    let _ = writeln!(
        text,
        "| primeway / best other | **{:.2}** | **{:.2}** | | **{:.2}** |",
        best(|churn| churn.wall),
        best(|churn| churn.cpu),
        best(|churn| churn.calls)
    );
}

/// Medians over the scenarios: each has a start of its own.
fn start(text: &mut String, results: &Results) {
    head(text, &["start to first answer, s", "start to first frame, s", "RSS MiB", "starts"]);
    let mut own = None;
    let mut best = [f64::INFINITY; 3];
    for (peer, _) in &results.versions {
        let Some(starts) = results.starts(*peer) else { continue };
        let _ = writeln!(
            text,
            "| {} | {:.3} | {:.3} | {:.1} | {} |",
            peer.name(),
            starts.answer,
            starts.first_frame,
            starts.resident,
            starts.number
        );
        let medians = [starts.answer, starts.first_frame, starts.resident];
        if *peer == Peer::Primeway {
            own = Some(medians);
        } else {
            for (best, value) in best.iter_mut().zip(medians) {
                *best = best.min(value);
            }
        }
    }
    if let Some(own) = own.filter(|_| best[0].is_finite()) {
        let cells: Vec<String> =
            own.iter().zip(best).map(|(own, best)| format!("**{:.2}**", own / best)).collect();
        let _ = writeln!(text, "| primeway / best other | {} | |", cells.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Figures;

    fn row(compositor: Peer, cpu: f64) -> Row {
        let frames = Frames { cpu, calls: 10.0, windows: 1, shown: 1, ..Frames::default() };
        let figures =
            Figures { answer: cpu, first_frame: Some(cpu), frames: Some(frames), ..Figures::default() };
        Row { scenario: Scenario::Fullscreen, compositor, outcome: Outcome::Measured(Box::new(figures)) }
    }

    fn results(rows: Vec<Row>) -> Results {
        let versions = Peer::ALL.into_iter().map(|peer| (peer, String::new())).collect();
        Results { kernel: "7".into(), versions, seconds: 5.0, bare_flip: 2.0, rows }
    }

    #[test]
    fn the_ratio_is_to_the_best_other() {
        let rows = vec![row(Peer::Primeway, 100.0), row(Peer::Labwc, 400.0), row(Peer::Sway, 200.0)];
        let text = markdown(&results(rows));
        let ratio = text.lines().find(|line| line.starts_with("| primeway / best other")).unwrap();
        assert!(ratio.contains("**0.50**"), "{ratio}");
    }

    #[test]
    fn a_failure_is_a_row_and_no_complete_run() {
        let failed = Row {
            scenario: Scenario::Fullscreen,
            compositor: Peer::Weston,
            outcome: Outcome::Failed("it ended\nat once".into()),
        };
        let all = results(vec![row(Peer::Primeway, 1.0), failed]);
        assert!(!all.is_complete());
        assert!(markdown(&all).contains("| weston | FAILED: it ended at once |"));
    }
}
