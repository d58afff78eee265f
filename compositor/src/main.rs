//! The primeway binary: a thin skin over the library.

use std::process::ExitCode;

use clap::Parser;
use primeway::cli::{Cli, Command};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("PRIMEWAY_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,primeway=info,drm_prime=info,primeway_protocols=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match &cli.command {
        Some(Command::Ctl(ctl)) => primeway::ctl::client::run(ctl),
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
