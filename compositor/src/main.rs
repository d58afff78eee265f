//! The primeway binary: a thin skin over the library.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser;
use primeway::cli::{Cli, Command};
use primeway::ctl::client;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("PRIMEWAY_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,primeway=info,drm_prime=info,primeway_protocols=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = match &cli.command {
        Some(Command::Ctl(ctl)) => client::run(ctl),
        Some(Command::Explain(args)) => client::explain(args),
        Some(Command::Planes(to)) => client::planes(to),
        Some(Command::Output(args)) => client::output(args),
        Some(Command::Buffers(to)) => client::buffers(to),
        Some(Command::Events(to)) => client::events(to),
        Some(Command::Top(to)) => primeway::ctl::top::run(to),
        Some(Command::Counters(to)) => client::counters(to),
        Some(Command::Report(args)) => client::write_report(args),
        Some(Command::Probe(args)) => primeway::ctl::probe::run(args),
        Some(Command::Check(args)) => client::check(args),
        Some(Command::Replay(args)) => primeway::record::replay::run(args),
        None => primeway::run::run(&cli),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            eprintln!("primeway: {err:#}");
            ExitCode::FAILURE
        }
    }
}
