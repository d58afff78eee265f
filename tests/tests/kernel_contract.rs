//! The conformance suite on the lab's kernel: as it is, and without what older kernels lack.

use std::process::ExitCode;

use anyhow::Result;
use primeway_tests::contract::denied::{Denials, Denied};
use primeway_tests::contract::kernel::Kernel;
use primeway_tests::contract::suite;
use primeway_tests::kernel_cases::{self, NamedCase};

fn main() -> ExitCode {
    let mut cases: Vec<NamedCase> = Vec::new();
    for case in suite::all() {
        cases.push((format!("kernel::{}", case.name), Box::new(move || plain(&case))));
    }
    for (name, denials) in Denials::EACH {
        for case in suite::all() {
            let run = move || suite::run(&case, &mut Denied::new(Kernel::new()?, *denials));
            cases.push((format!("{name}::{}", case.name), Box::new(run)));
        }
    }
    kernel_cases::run_named(env!("CARGO_CRATE_NAME"), cases)
}

fn plain(case: &suite::Case) -> Result<()> {
    suite::run(case, &mut Kernel::new()?)
}
