//! Random scripts on the model and on the lab's kernel, step by step: where they differ, the kernel is right.
//!
//! Owns how many scripts there are, and the proof that they can see: with a trait of the seed the same run fails, and shrinks to
//! a script that shows that trait. `PRIMEWAY_LONG=1` plays 10,000 scripts, `PRIMEWAY_SEED=N` other ones.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use drm_prime::model::{Profile, SeedTrait};
use primeway_tests::contract::differential::{self, Coverage, Divergence, Look};
use primeway_tests::contract::kernel::Kernel;
use primeway_tests::contract::model::{Model, Switches};
use primeway_tests::contract::script::{self, Step, Theme};
use primeway_tests::contract::shrink::Scripts;
use primeway_tests::contract::{Contract, Device, Fb2, Node, fine};
use primeway_tests::kernel_cases::{self, Case};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

const CASES: &[Case] = &[
    ("model_and_kernel_agree", model_and_kernel_agree),
    ("seed_differs", seed_differs),
    ("c2_is_shown_by_counts", || {
        shows(SeedTrait::ExportSkipsCache, EVERYTHING, &["HANDLE_TO_FD", "count"], 8)
    }),
    ("c2_is_shown_by_a_second_handle", || {
        shows(
            SeedTrait::ExportSkipsCache,
            (Look::Answers, Theme::Sharing),
            &["HANDLE_TO_FD", "FD_TO_HANDLE", "GEM_OPEN"],
            9,
        )
    }),
    ("c7_is_shown", || shows(SeedTrait::CloexecOnly, EVERYTHING, &["HANDLE_TO_FD"], 1)),
    ("c11_is_shown", || {
        shows(SeedTrait::LookupBeforeFd, EVERYTHING, &["HANDLE_TO_FD", "no descriptor left"], 1)
    }),
];

/// Scripts of all calls, looked at closely.
const EVERYTHING: (Look, Theme) = (Look::Everything, Theme::Everything);

/// Steps of a script.
const LENGTH: usize = 50;

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

/// The kernel, and what a model must know to give out the same ids.
struct Lab {
    kernel: Kernel,
    first_id: u32,
    look: Look,
    theme: Theme,
}

impl Lab {
    fn new((look, theme): (Look, Theme)) -> Result<Lab> {
        let mut kernel = Kernel::new()?;
        let file = fine("open", kernel.open(Device::Vkms, Node::Primary))?;
        let handle = fine("CREATE_DUMB", kernel.create_dumb(file, 64, 64, 32))?.handle;
        let first_id = fine("ADDFB2", kernel.addfb2(file, &Fb2::xrgb(handle, 64, 64)))?;
        kernel.close_everything();
        Ok(Lab { kernel, first_id, look, theme })
    }

    fn play(&mut self, profile: Profile, steps: &[Step], coverage: &mut Coverage) -> Result<(), Divergence> {
        let mut model = Model::with(profile, Switches::ALL, self.first_id);
        differential::play(steps, &mut model, &mut self.kernel, self.look, coverage)
    }

    /// Plays random scripts until one fails, and shrinks that one.
    fn search(&mut self, profile: Profile, scripts: u32, coverage: &mut Coverage) -> Result<Option<Found>> {
        let config = Config {
            cases: scripts,
            max_shrink_iters: 20_000,
            failure_persistence: None,
            ..Config::default()
        };
        let seed: u64 = std::env::var("PRIMEWAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let theme = self.theme;
        let mut at_first = None;
        let lab = std::cell::RefCell::new((self, coverage, &mut at_first));
        let outcome = runner.run(&Scripts::new(theme, LENGTH), |steps| {
            let (lab, coverage, at_first) = &mut *lab.borrow_mut();
            lab.play(profile, &steps, coverage).map_err(|err| {
                at_first.get_or_insert_with(|| err.to_string());
                TestCaseError::fail(err.to_string())
            })
        });
        match outcome {
            Ok(()) => Ok(None),
            Err(TestError::Fail(at_last, steps)) => {
                let (at_first, at_last) = (at_first.unwrap_or_default(), at_last.to_string());
                Ok(Some(Found { steps, at_first, at_last }))
            }
            Err(TestError::Abort(reason)) => bail!("the search was given up: {reason}"),
        }
    }
}

/// A script that parted the two.
struct Found {
    /// As short as it became.
    steps: Vec<Step>,
    /// Where they parted when it was still long.
    at_first: String,
    /// Where they parted at last.
    at_last: String,
}

/// The script and where it parts the two, one step per line.
fn show(lab: &mut Lab, profile: Profile, found: &Found) -> String {
    let Found { steps, at_first, at_last } = found;
    let parted = lab.play(profile, steps, &mut Coverage::default());
    let lines: Vec<String> =
        steps.iter().enumerate().map(|(number, step)| format!("  {}. {step:?}", number + 1)).collect();
    match parted {
        Ok(()) => format!(
            "{}\n  it does not fail again; at first it failed with {at_first}\n  and at last with {at_last}",
            lines.join("\n")
        ),
        Err(parted) => format!("{}\n  model here, kernel there: {parted}", lines.join("\n")),
    }
}

fn model_and_kernel_agree() -> Result<()> {
    let mut lab = Lab::new(EVERYTHING)?;
    let mut coverage = Coverage::default();
    for (name, steps) in script::directed() {
        if let Err(parted) = lab.play(Profile::MODERN, &steps, &mut coverage) {
            bail!("{name}: model here, kernel there: {parted}");
        }
    }
    let scripts = if std::env::var_os("PRIMEWAY_LONG").is_some() { 10_000 } else { 300 };
    let started = Instant::now();
    if let Some(found) = lab.search(Profile::MODERN, scripts, &mut coverage)? {
        bail!("they differ:\n{}", show(&mut lab, Profile::MODERN, &found));
    }
    println!(
        "{scripts} scripts of {LENGTH} steps in {:.1} s; calls and answers met:",
        started.elapsed().as_secs_f64()
    );
    print!("{coverage}");
    let empty = coverage.empty_cells();
    ensure!(empty.is_empty(), "never met: {}", empty.join(", "));
    Ok(())
}

fn seed_differs() -> Result<()> {
    let mut lab = Lab::new(EVERYTHING)?;
    let found = lab.search(Profile::SEED, 100, &mut Coverage::default())?;
    let found = found.context("the seed passes for a kernel of today")?;
    println!("the seed:\n{}", show(&mut lab, Profile::SEED, &found));
    ensure!(found.steps.len() <= 3, "{} steps", found.steps.len());
    Ok(())
}

/// Of all traits of the seed but one: a script is found that shows it, and it is short.
fn shows(shown: SeedTrait, scripts: (Look, Theme), telling: &[&str], most: usize) -> Result<()> {
    let mut lab = Lab::new(scripts)?;
    let alone = Profile::MODERN.with(shown);
    let found = lab.search(alone, 5000, &mut Coverage::default())?;
    let found = found.with_context(|| format!("nothing shows {shown:?}"))?;
    let text = show(&mut lab, alone, &found);
    let steps = found.steps;
    println!("{} ({shown:?}):\n{text}", shown.row());
    ensure!(steps.len() <= most, "{} steps, not {most} at most", steps.len());
    for word in telling {
        ensure!(text.contains(word), "no {word} in it");
    }
    // From the whole seed to this trait alone, mending the others one at a time, it goes on failing.
    let mut profile = Profile::SEED;
    for other in SeedTrait::ALL.iter().filter(|other| **other != shown) {
        ensure!(
            lab.play(profile, &steps, &mut Coverage::default()).is_err(),
            "{profile:?} passes for a kernel of today"
        );
        profile = profile.without(*other);
    }
    // And with the last one mended it passes.
    lab.play(profile.without(shown), &steps, &mut Coverage::default()).map_err(|parted| anyhow!("{parted}"))
}
