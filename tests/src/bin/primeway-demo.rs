//! `primeway-demo`: what `cargo lab demo` runs inside the lab.
//!
//! Owns the command line and the exit status only; the demo is `primeway_tests::demo`.

use std::process::ExitCode;

use clap::Parser;

/// Shows real clients on planes of a real kernel, and proves it. `cargo lab demo` runs this inside the lab.
#[derive(Debug, Parser)]
#[command(name = "primeway-demo", version)]
struct Cli {
    /// Run primeway as this user, who may open no card node: the device comes from seatd alone.
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if std::env::var_os("PRIMEWAY_LAB").is_none() {
        eprintln!("primeway-demo: it needs the lab's kernel and devices; run `cargo lab demo`");
        return ExitCode::from(2);
    }
    match primeway_tests::demo::run(cli.user) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            println!();
            println!("DEMO FAILED: {err:#}");
            ExitCode::from(2)
        }
    }
}
