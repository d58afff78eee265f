//! The `main` of every target whose cases need the lab.
//!
//! Owns when cases run and what is said when they do not. What they show is in `tests/kernel_*` and `tests/sid_*`.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

/// The name of a case and what it does.
pub type Case = (&'static str, fn() -> Result<()>);

/// A case whose name is made up at run time, for suites that run on several sides.
pub type NamedCase = (String, Box<dyn Fn() -> Result<()> + Send>);

/// Runs the cases of a target one after the other, because they share a display and a seat. Outside of the lab all
/// are listed as ignored, with the command that runs them.
#[must_use]
pub fn run(target: &str, cases: &[Case]) -> ExitCode {
    let named = cases.iter().map(|&(name, case)| (name.to_owned(), Box::new(case) as _));
    run_named(target, named.collect())
}

/// [`run`] for cases with names of their own.
#[must_use]
pub fn run_named(target: &str, cases: Vec<NamedCase>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let in_lab = std::env::var_os("PRIMEWAY_LAB").is_some();
    if !in_lab && !arguments.list {
        println!("{target}: not run here, `cargo lab test --only {target}` runs it");
    }
    let trials = cases.into_iter().map(|(name, case)| {
        Trial::test(name, move || case().map_err(|err| Failed::from(format!("{err:#}"))))
            .with_ignored_flag(!in_lab)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
