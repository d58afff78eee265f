//! `primeway-bench`: what `cargo lab bench` runs inside the lab.
//!
//! Owns the command line and the exit status only; the measuring is `primeway_tests::bench`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use primeway_tests::bench::peers::Peer;
use primeway_tests::bench::scenario::Scenario;
use primeway_tests::bench::{Options, run, table};

/// Measures primeway and other compositors with the same clients. `cargo lab bench` runs this inside the lab.
#[derive(Debug, Parser)]
#[command(name = "primeway-bench", version)]
struct Cli {
    /// How long frames are counted in each scenario
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Only this scenario; may be repeated
    #[arg(long, value_enum, value_name = "SCENARIO")]
    only: Vec<Scenario>,
    /// Only this compositor; may be repeated
    #[arg(long, value_enum, value_name = "COMPOSITOR")]
    compositor: Vec<Peer>,
    /// Print the results as JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match act(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("primeway-bench: {err:#}");
            ExitCode::from(2)
        }
    }
}

fn act(cli: &Cli) -> Result<bool> {
    if std::env::var_os("PRIMEWAY_LAB").is_none() {
        anyhow::bail!("it needs the lab's kernel and devices; run `cargo lab bench`");
    }
    let options = Options {
        interval: Duration::try_from_secs_f64(cli.seconds).context("--seconds")?,
        only: cli.only.clone(),
        compositors: cli.compositor.clone(),
    };
    let results = run(&options, &mut |row| eprintln!("{}", table::line(row)))?;
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        println!("{}", table::markdown(&results));
    }
    Ok(results.is_complete())
}
