//! `primeway-demo`: what `cargo lab demo` runs inside the lab.
//!
//! Owns the exit status only; the demo is `primeway_tests::demo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os("PRIMEWAY_LAB").is_none() {
        eprintln!("primeway-demo: it needs the lab's kernel and devices; run `cargo lab demo`");
        return ExitCode::from(2);
    }
    match primeway_tests::demo::run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            println!();
            println!("DEMO FAILED: {err:#}");
            ExitCode::from(2)
        }
    }
}
