//! `primeway-check`: asks the kernel whether clients are really scanned out.
//!
//! Owns the command line only; the experiment is `primeway_tests::check`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use primeway_tests::check::{Subject, check};
use primeway_tests::ctl::Ctl;
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::process::Process;

/// Stops all clients of a compositor for a moment, changes the pixels of each behind its back, and compares what
/// the display shows with what compositor and presentation feedback say. Needs root and a display that reports
/// CRCs, such as vkms.
#[derive(Debug, Parser)]
#[command(name = "primeway-check", version)]
struct Cli {
    /// WAYLAND_DISPLAY of the compositor.
    #[arg(long, env = "WAYLAND_DISPLAY")]
    display: String,
    /// Process ids of its clients [default: all that the compositor lists].
    #[arg(long)]
    pid: Vec<i32>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("primeway-check: {err:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let ctl = Ctl::of_display(&cli.display)?;
    let stats = ctl.stats()?;
    let device = DebugDevice::of_node(stats.device.card()?).context("the compositor's device")?;
    let pids = if cli.pid.is_empty() {
        stats.clients.iter().map(|client| client.pid).collect()
    } else {
        cli.pid.clone()
    };
    let subjects = pids
        .into_iter()
        .map(|pid| Ok(Subject { name: Process::open(pid)?.name(), pid, feedback: None }))
        .collect::<Result<Vec<_>>>()?;
    let verdict = check(&device, &ctl, &subjects)?;
    for finding in &verdict.findings {
        let shown = if finding.scanned_out { "scanned out" } else { "not scanned out" };
        println!("{} ({}): {shown}", finding.name, finding.pid);
        for disagreement in &finding.disagreements {
            println!("  WRONG: {disagreement}");
        }
    }
    Ok(verdict.is_consistent())
}
