//! The conformance suite on the model: as it is, and with each of its abilities switched off. The cases are the kernel's
//! (`kernel_contract`).
//!
//! Owns also the proof that suite and scripts have teeth: a model with one trait of the seed fails the case that is about it, and
//! random scripts tell it from the model without, unless the trait is one that no process can see.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use drm_prime::model::{Driver, Profile, SeedTrait};
use libtest_mimic::{Arguments, Failed, Trial};
use primeway_tests::contract::differential::{self, Coverage, Look};
use primeway_tests::contract::model::{Model, Switches};
use primeway_tests::contract::script::Theme;
use primeway_tests::contract::shrink::Scripts;
use primeway_tests::contract::suite;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

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

/// Random scripts for each trait in the long mode. Those that can be seen are seen much earlier; for the others there is a
/// fiftieth of it in the ordinary run.
const SCRIPTS: usize = 1000;

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
    for seed in SeedTrait::ALL {
        let visible = TEETH.iter().any(|(visible, _)| visible == seed);
        let name = if visible { "tell_apart" } else { "agree_with" };
        trials.push(trial(format!("scripts::{name}::{seed:?}"), move || {
            // Strategies of this size want more stack than a test thread has.
            let thread = std::thread::Builder::new().stack_size(64 << 20);
            let told = thread.spawn(move || told_apart(*seed, visible))?;
            told.join().map_err(|_| anyhow::anyhow!("it panicked"))?
        }));
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

/// What a kernel with the trait does otherwise, it does where no call shows it: in its locks, in its allocations, where memory
/// runs out. The list of the seed and the trees of today are such a pair.
fn told_apart(seed: SeedTrait, visible: bool) -> Result<()> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let scripts = Scripts::new(Theme::Everything, 50);
    let long = std::env::var_os("PRIMEWAY_LONG").is_some();
    for number in 0..if visible || long { SCRIPTS } else { SCRIPTS / 50 } {
        let steps = scripts.new_tree(&mut runner).map_err(|reason| anyhow::anyhow!("{reason}"))?.current();
        let (mut one, mut two) = (Model::new(Profile::MODERN), Model::new(Profile::MODERN.with(seed)));
        let outcome =
            differential::play(&steps, &mut one, &mut two, Look::Everything, &mut Coverage::default());
        match outcome {
            Ok(()) => {}
            Err(_) if visible => return Ok(()),
            Err(parted) => anyhow::bail!("script {number}, {parted}"),
        }
    }
    ensure!(!visible, "{SCRIPTS} scripts do not see {seed:?}");
    Ok(())
}
