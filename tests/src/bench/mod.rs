//! `cargo lab bench`: primeway beside other compositors, in one run, with the same clients.
//!
//! Owns the sequence: each scenario with each compositor that can do it. `peers` starts the compositors, `scenario` says
//! what is shown, `client` and `churn` show it, `measure` looks at compositor and kernel meanwhile, `trace` counts system calls,
//! `table` writes down what came out, `goals` compares it with what primeway is to reach. It runs as root inside the lab. Nothing here knows primeway's inside.

pub mod churn;
pub mod client;
pub mod goals;
pub mod measure;
pub mod peers;
pub mod pointer;
pub mod scenario;
pub mod table;
pub mod trace;

use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::session::artefacts;
use measure::Figures;
use peers::Peer;
use scenario::Scenario;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long frames are counted.
    pub interval: Duration,
    /// These scenarios; empty for all.
    pub only: Vec<Scenario>,
    /// These compositors; empty for all.
    pub compositors: Vec<Peer>,
}

/// One scenario with one compositor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was shown.
    pub scenario: Scenario,
    /// By whom.
    pub compositor: Peer,
    /// What came out.
    pub outcome: Outcome,
}

/// What came out of one scenario with one compositor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran.
    Measured(Box<Figures>),
    /// The compositor does not offer what the scenario needs.
    Lacks(String),
    /// It could not be measured.
    Failed(String),
}

impl Row {
    /// The figures, if there are any.
    #[must_use]
    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Measured(figures) => Some(figures),
            Outcome::Lacks(_) | Outcome::Failed(_) => None,
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// Release of the kernel.
    pub kernel: String,
    /// What each compositor calls itself.
    pub versions: Vec<(Peer, String)>,
    /// Seconds for which frames were counted.
    pub seconds: f64,
    /// CPU time of a full-screen page flip without any compositor, in microseconds.
    pub bare_flip: f64,
    /// Every scenario with every compositor.
    pub rows: Vec<Row>,
}

impl Results {
    /// The row of a scenario and a compositor.
    #[must_use]
    pub fn row(&self, scenario: Scenario, compositor: Peer) -> Option<&Row> {
        self.rows.iter().find(|row| row.scenario == scenario && row.compositor == compositor)
    }

    /// The starts of a compositor: medians over the scenarios, each of which starts it anew.
    #[must_use]
    pub fn starts(&self, compositor: Peer) -> Option<Starts> {
        let rows = self.rows.iter().filter(|row| row.compositor == compositor);
        let figures: Vec<&Figures> = rows.filter_map(Row::figures).collect();
        Some(Starts {
            answer: median(figures.iter().map(|figures| figures.answer))?,
            first_frame: median(figures.iter().filter_map(|figures| figures.first_frame)).unwrap_or(f64::NAN),
            resident: median(figures.iter().map(|figures| figures.resident))?,
            number: figures.len(),
        })
    }

    /// Whether every row was measured, or lacks what a scenario needs.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| !matches!(row.outcome, Outcome::Failed(_)))
    }
}

/// What starting a compositor takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Starts {
    /// Until it answers a first round trip, in seconds.
    pub answer: f64,
    /// Until the first frame is on the screen, in seconds; not a number when nothing was shown.
    pub first_frame: f64,
    /// Memory in use at the end of an interval, in MiB.
    pub resident: f64,
    /// How often it was started.
    pub number: usize,
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Measures, and leaves `results.json` and `table.md` among the artefacts. Each row is told to `told` as it comes.
///
/// # Errors
///
/// When the guest is not one that things can be measured in, or the results cannot be written. A compositor that does not
/// work is a row that says so.
pub fn run(options: &Options, told: &mut dyn FnMut(&Row)) -> Result<Results> {
    let chosen = |peer: &Peer| options.compositors.is_empty() || options.compositors.contains(peer);
    let peers: Vec<Peer> = Peer::ALL.into_iter().filter(chosen).collect();
    let guest = peers::prepare()?;
    let mut results = Results {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        versions: peers.iter().map(|peer| (*peer, peer.version())).collect(),
        seconds: options.interval.as_secs_f64(),
        bare_flip: measure::bare_flip().context("a bare page flip")?,
        rows: Vec::new(),
    };
    for scenario in Scenario::ALL {
        if !options.only.is_empty() && !options.only.contains(&scenario) {
            continue;
        }
        for peer in peers.iter().copied().filter(|peer| scenario.suits(*peer)) {
            let outcome = measure::measure(&guest, peer, scenario, options.interval)
                .unwrap_or_else(|err| Outcome::Failed(format!("{err:#}")));
            let row = Row { scenario, compositor: peer, outcome };
            told(&row);
            results.rows.push(row);
            // What there is survives whatever comes next.
            write(&results)?;
        }
    }
    Ok(results)
}

fn write(results: &Results) -> Result<()> {
    let folder = artefacts();
    for (name, text) in
        [("results.json", serde_json::to_string_pretty(results)?), ("table.md", table::markdown(results))]
    {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
