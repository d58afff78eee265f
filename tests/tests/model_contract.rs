//! The conformance suite on the model: as it is, and with each of its abilities switched off. The cases are the kernel's
//! (`kernel_contract`).
//!
//! Owns also the proof that the suite has teeth: a model with one trait of the seed fails the case that is about it.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use drm_prime::model::{Driver, Profile, SeedTrait};
use libtest_mimic::{Arguments, Failed, Trial};
use primeway_tests::contract::model::{Model, Switches};
use primeway_tests::contract::suite;

/// Traits of the seed that a process can see, and a case that sees each.
const TEETH: &[(SeedTrait, &str)] = &[
    (SeedTrait::WeakExportLink, "count_first_export_is_three"),
    (SeedTrait::ExportSkipsCache, "c2_every_export_joins_the_files_cache"),
    (SeedTrait::CloseByDmabuf, "c5_closing_a_second_handle_leaves_the_first_in_the_cache"),
    (SeedTrait::CloexecOnly, "h2f_takes_its_two_flags"),
    (SeedTrait::MmapRefused, "igt_prime_mmap_correct"),
    (SeedTrait::LookupBeforeFd, "h2f_emfile_comes_before_enoent"),
    (SeedTrait::FbHoldsObjectOnly, "i08_the_framebuffer_outlives_the_handle_and_keeps_the_dmabuf"),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (name, switches) in [("model", Switches::ALL)].iter().chain(Switches::EACH) {
        for case in suite::all() {
            trials.push(trial(format!("{name}::{}", case.name), move || {
                let mut model = Model::with(Profile::MODERN, *switches, Driver::vkms().first_id);
                suite::run(&case, &mut model)?;
                let events = model.machine().events();
                ensure!(events.is_empty(), "{events:?}");
                Ok(())
            }));
        }
    }
    for (seed, name) in TEETH {
        trials.push(trial(format!("teeth::{seed:?}"), move || bites(*seed, name)));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, run: impl Fn() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || run().map_err(|err| Failed::from(format!("{err:#}"))))
}

fn bites(seed: SeedTrait, name: &str) -> Result<()> {
    let case = suite::all().into_iter().find(|case| case.name == name).context("no such case")?;
    let passes = |profile| suite::run(&case, &mut Model::new(profile));
    passes(Profile::MODERN)?;
    ensure!(passes(Profile::MODERN.with(seed)).is_err(), "{name} does not see {seed:?}");
    Ok(())
}
