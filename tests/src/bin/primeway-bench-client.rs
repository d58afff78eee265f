//! `primeway-bench-client`: the client of `primeway-bench`.
//!
//! Owns the command line only; the client is `primeway_tests::bench::client`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use primeway_tests::bench::client::{Plan, run};

/// Waits for a compositor in $XDG_RUNTIME_DIR, shows windows until standard input ends, and writes down what became of
/// each frame.
#[derive(Debug, Parser)]
#[command(name = "primeway-bench-client", version)]
struct Cli {
    /// What to do, as JSON.
    plan: String,
    /// Where the record goes, as JSON.
    record: PathBuf,
}

fn main() -> ExitCode {
    match act(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("primeway-bench-client: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: &Cli) -> Result<()> {
    let plan: Plan = serde_json::from_str(&cli.plan).context("the plan")?;
    let record = serde_json::to_vec(&run(&plan)?)?;
    std::fs::write(&cli.record, record).with_context(|| format!("cannot write {}", cli.record.display()))
}
