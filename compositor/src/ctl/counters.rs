//! `counters`: numbers for monitors, as text or as JSON.
//!
//! It owns which numbers there are and what they are called. They come from the other answers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::explain::{ExplainReport, Way};
use super::planes::{FlipReport, PlanesReport};
use super::table::plain;
use super::timeline::{Latency, TimelineReport};

/// The numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counters {
    /// Left to right.
    pub outputs: Vec<OutputCounters>,
    /// How many surfaces get to the screen in each way: scanned-out, composited, hidden.
    pub surfaces: BTreeMap<&'static str, usize>,
    /// What is held, as `stats` has it.
    pub resources: Value,
}

/// The numbers of an output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputCounters {
    /// Its name.
    pub output: String,
    /// Frames shown.
    pub frames: u64,
    /// Vertical blanks that passed while a frame was pending.
    pub missed_vblanks: u64,
    /// How its flips went.
    pub flips: FlipReport,
    /// From a client's commit to its being on screen, of the last frames that showed one.
    pub commit_to_flip: Option<Latency>,
}

impl Counters {
    /// Collects them.
    pub fn new(
        surfaces: &ExplainReport,
        planes: &PlanesReport,
        timeline: &TimelineReport,
        resources: Value,
    ) -> Self {
        let flips = |name: &str| {
            let found = planes.outputs.iter().find(|o| o.output == name);
            found.map(|o| o.flips.clone()).unwrap_or_default()
        };
        let output = |o: &super::timeline::OutputTimeline| OutputCounters {
            output: o.output.clone(),
            frames: o.frames,
            missed_vblanks: o.missed,
            flips: flips(&o.output),
            commit_to_flip: o.latency,
        };
        let count = |way| surfaces.surfaces.iter().filter(|e| e.verdict.way == way).count();
        let ways =
            [("scanned-out", Way::ScannedOut), ("composited", Way::Composited), ("hidden", Way::Hidden)];
        Self {
            outputs: timeline.outputs.iter().map(output).collect(),
            surfaces: ways.into_iter().map(|(name, way)| (name, count(way))).collect(),
            resources,
        }
    }

    /// A name and a number in each line, as text exposition formats have it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for output in &self.outputs {
            let name = label(&output.output);
            let mut line = |counter: &str, number: u64| {
                let _ = writeln!(text, "primeway_{counter}{{output=\"{name}\"}} {number}");
            };
            line("frames", output.frames);
            line("missed_vblanks", output.missed_vblanks);
            line("lost_flips", output.flips.lost);
            output.flips.vrr.into_iter().for_each(|vrr| line("vrr", vrr.into()));
            let tears = output.flips.tearing.as_ref().map(|how| how == "at once");
            tears.into_iter().for_each(|tears| line("tearing", tears.into()));
            if let Some(latency) = &output.commit_to_flip {
                for (quantile, ms) in [("0.5", latency.p50_ms), ("0.99", latency.p99_ms)] {
                    let _ = writeln!(
                        text,
                        "primeway_commit_to_flip_ms{{output=\"{name}\",quantile=\"{quantile}\"}} {ms:.3}"
                    );
                }
            }
        }
        for (way, count) in &self.surfaces {
            let _ = writeln!(text, "primeway_surfaces{{way=\"{way}\"}} {count}");
        }
        for (name, number) in self.resources.as_object().into_iter().flatten() {
            let _ = writeln!(text, "primeway_{name} {number}");
        }
        text
    }
}

/// A name between quotation marks.
fn label(name: &str) -> String {
    plain(name).replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::super::planes::OutputPlanes;
    use super::super::timeline::OutputTimeline;
    use super::*;

    #[test]
    fn counters_are_a_name_and_a_number_a_line() {
        let surfaces = ExplainReport { scanned_out: false, surfaces: Vec::new() };
        let output = OutputTimeline {
            output: "A\"1".to_owned(),
            refresh_ms: 16.7,
            frames: 9,
            missed: 2,
            latency: None,
            changes: Vec::new(),
        };
        let planes = OutputPlanes {
            output: "A\"1".to_owned(),
            crtc: 1,
            size: (1, 1),
            off: false,
            flips: FlipReport { lost: 3, vrr: Some(true), tearing: Some("no".to_owned()) },
            planes: Vec::new(),
        };
        let timeline = TimelineReport { now_unix_ms: 0, outputs: vec![output] };
        let planes = PlanesReport { outputs: vec![planes] };
        let all = Counters::new(&surfaces, &planes, &timeline, serde_json::json!({ "fds": 20 }));
        let expected = "primeway_frames{output=\"A\\\"1\"} 9\nprimeway_missed_vblanks{output=\"A\\\"1\"} 2\n\
                        primeway_lost_flips{output=\"A\\\"1\"} 3\nprimeway_vrr{output=\"A\\\"1\"} 1\n\
                        primeway_tearing{output=\"A\\\"1\"} 0\n\
                        primeway_surfaces{way=\"composited\"} 0\nprimeway_surfaces{way=\"hidden\"} 0\n\
                        primeway_surfaces{way=\"scanned-out\"} 0\nprimeway_fds 20\n";
        assert_eq!(all.text(), expected);
        let json = serde_json::to_value(&all).unwrap();
        assert_eq!(
            (&json["outputs"][0]["flips"]["lost"], &json["surfaces"]["hidden"]),
            (&3.into(), &0.into())
        );
    }
}
