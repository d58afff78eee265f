//! Owns `cargo lab test`: which test binaries belong to which tier, running them, the summary.
//! Tiers: *host* (no kernel of ours), *lab* (targets `kernel_*`, each in a boot of its own, and `lab_runs`, which boots
//! guests itself, and ignored host cases whose reason says `in the lab`), *sid* (targets `sid_*`, in the sid guest), *qemu*
//! (targets `qemu_*`, in the emulated guest). Does not own the verdict on their output (see `tally`).

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::packages::Consent;
use crate::run::{self, Ending};
use crate::sid::{self, Unavailable};
use crate::tally::{self, Skips, Tally, Verdict};
use crate::{cache, layout, progress, qemu, sys};

/// No test binary may take longer.
const LIMIT: Duration = Duration::from_secs(900);

/// What to test.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only targets whose name contains this.
    pub only: Option<String>,
    /// Arguments for the test binaries, such as a part of a case's name.
    pub arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Host,
    Lab,
    Sid,
    Qemu,
}

#[derive(Clone, Debug)]
struct Target {
    name: String,
    package: String,
    kind: String,
    folder: PathBuf,
    executable: PathBuf,
}

impl Target {
    fn tier(&self) -> Tier {
        match self.name.as_str() {
            name if self.kind == "test" && name.starts_with("kernel_") => Tier::Lab,
            name if self.kind == "test" && name.starts_with("sid_") => Tier::Sid,
            name if self.kind == "test" && name.starts_with("qemu_") => Tier::Qemu,
            "lab_runs" => Tier::Lab,
            _ => Tier::Host,
        }
    }

    fn of_documentation(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            package: "workspace".to_owned(),
            kind: "doc".to_owned(),
            folder: layout::workspace(),
            executable: PathBuf::new(),
        }
    }

    fn in_guest(&self) -> bool {
        self.name != "lab_runs"
    }
}

/// Builds and runs the tests; prints each target's verdict, one line per tier, and the total on the last line.
///
/// # Errors
/// When the build fails or the run is interrupted.
pub fn run(linux: &Path, selection: &Selection, consent: Consent) -> Result<Tally> {
    sys::catch_termination();
    let waiting = "another `cargo lab test` is under way in this workspace; waiting for it";
    let _lock = cache::lock(&layout::runs().join(".test.lock"), waiting)?;
    let targets = build()?;
    let chosen =
        |target: &&Target| selection.only.as_ref().is_none_or(|only| target.name.contains(only.as_str()));
    let of = |tier: Tier| targets.iter().filter(chosen).filter(move |target| target.tier() == tier);

    let mut work: VecDeque<Work> = of(Tier::Host).cloned().map(Work::Host).collect();
    if selection.only.is_none() && selection.arguments.is_empty() {
        work.extend([Work::Documentation, Work::Reference]);
    }
    // The slowest guests first, so that none of them is under way alone at the end.
    work.extend(of(Tier::Qemu).cloned().map(Work::Qemu));
    let (guests, alone): (Vec<_>, Vec<_>) = of(Tier::Lab).cloned().partition(Target::in_guest);
    work.extend(guests.into_iter().map(Work::Lab));
    work.extend(of(Tier::Sid).cloned().map(Work::Sid));
    let bench =
        Bench { linux, selection, consent, sid: Mutex::default(), books: Mutex::new(Books::new(work)) };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| bench.work());
        }
    });
    // What starts and ends guests of its own looks for processes that other guests have, too.
    if bench.books().failure.is_none() {
        bench.books().work.extend(alone.into_iter().map(Work::Lab));
        bench.work();
    }
    let books = bench.books.into_inner().unwrap_or_else(PoisonError::into_inner);
    books.failure.map_or(Ok(()), Err)?;

    println!();
    let mut total = Tally::default();
    for summary in books.summaries {
        summary.print();
        total.add(summary.tally);
    }
    println!("{total}");
    Ok(total)
}

/// Targets that run at the same time: most of them wait for frames or for one thread of their own.
const AT_A_TIME: usize = 2;

/// Something to run.
enum Work {
    Host(Target),
    /// The examples in the documentation.
    Documentation,
    /// drm-prime's documentation itself.
    Reference,
    Lab(Target),
    /// Cases of a host target that wait for the lab.
    Deferred(Target, Vec<String>),
    Sid(Target),
    Qemu(Target),
}

/// What is still to run, and what came of the rest.
struct Books {
    work: VecDeque<Work>,
    /// Work under way, which may leave more.
    running: usize,
    /// By [`Tier`].
    summaries: [Summary; 4],
    failure: Option<anyhow::Error>,
}

impl Books {
    fn new(work: VecDeque<Work>) -> Self {
        let summaries = ["host", "lab", "sid", "qemu"].map(Summary::new);
        Self { work, running: 0, summaries, failure: None }
    }

    fn take(&mut self, tier: Tier, target: &Target, verdict: Verdict, output: &Output) {
        self.summaries[tier as usize].take(target, verdict, output);
    }
}

/// Where the work is done.
struct Bench<'a> {
    linux: &'a Path,
    selection: &'a Selection,
    consent: Consent,
    /// The root of the sid guests, once one was needed.
    sid: Mutex<Option<Result<PathBuf, Unavailable>>>,
    books: Mutex<Books>,
}

impl Bench<'_> {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what there is to do, until there is nothing and nothing can come; the first failure ends everybody's work.
    fn work(&self) {
        loop {
            let next = {
                let mut books = self.books();
                let next = books.work.pop_front();
                if next.is_none() && books.running == 0 {
                    return;
                }
                books.running += usize::from(next.is_some());
                next
            };
            let Some(work) = next else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let outcome = self.run(work);
            let mut books = self.books();
            books.running -= 1;
            if let Err(err) = outcome {
                books.failure.get_or_insert(err);
                books.work.clear();
            }
        }
    }

    fn run(&self, work: Work) -> Result<()> {
        let (linux, selection) = (self.linux, self.selection);
        match work {
            Work::Host(target) => {
                let output = on_host(&target, selection, &[])?;
                let verdict = tally::judge(&output.text, output.succeeded, Skips::Allowed);
                let cases = verdict.deferred.clone();
                let mut books = self.books();
                books.take(Tier::Host, &target, verdict, &output);
                if !cases.is_empty() {
                    books.work.push_back(Work::Deferred(target, cases));
                }
            }
            Work::Documentation => {
                let output = documentation()?;
                let verdict = tally::judge(&output.text, output.succeeded, Skips::Allowed);
                let target = Target::of_documentation("examples in the documentation");
                self.books().take(Tier::Host, &target, verdict, &output);
            }
            Work::Reference => {
                let output = reference()?;
                let held =
                    Tally { passed: output.succeeded.into(), failed: (!output.succeeded).into(), skipped: 0 };
                let verdict = Verdict { tally: held, ..Verdict::default() };
                let target = Target::of_documentation("drm-prime's documentation has no warning");
                self.books().take(Tier::Host, &target, verdict, &output);
            }
            Work::Deferred(target, cases) => {
                let mut arguments = vec!["--ignored".to_owned(), "--exact".to_owned()];
                arguments.extend(cases.iter().cloned());
                let output = in_guest(&target, linux, Root::Host, &arguments)?;
                let mut verdict = judge_guest(&output, Skips::Forbidden);
                let ran = verdict.tally.passed + verdict.tally.failed;
                if ran < cases.len() {
                    verdict.tally.failed += cases.len() - ran;
                    verdict.notes.push(format!("failed: of {} only {ran} ran in the lab", cases.join(", ")));
                }
                self.books().take(Tier::Lab, &target, verdict, &output);
            }
            Work::Lab(target) => {
                let output = if target.in_guest() {
                    in_guest(&target, linux, Root::Host, &selection.arguments)?
                } else {
                    progress::say("starting and ending guests from the host");
                    on_host(&target, selection, &[("PRIMEWAY_LAB_RUNS", linux)])?
                };
                let verdict = judge_lab(&output, Skips::Forbidden, selection);
                self.books().take(Tier::Lab, &target, verdict, &output);
            }
            Work::Sid(target) => self.run_in_sid(&target)?,
            Work::Qemu(target) => self.run_emulated(&target)?,
        }
        Ok(())
    }

    /// What only the emulated guest has is not skipped where there is none: it would never be noticed.
    fn run_emulated(&self, target: &Target) -> Result<()> {
        match qemu::ensure(self.consent) {
            Ok(image) => {
                let kernel = image.kernel();
                let output = in_guest(target, &kernel, Root::Emulated(image), &self.selection.arguments)?;
                let verdict = judge_lab(&output, Skips::Forbidden, self.selection);
                self.books().take(Tier::Qemu, target, verdict, &output);
            }
            Err(err) => {
                let reason = format!("the emulated guest cannot be had: {err:#}");
                self.books().summaries[Tier::Qemu as usize].fail(target, &reason);
            }
        }
        Ok(())
    }

    fn run_in_sid(&self, target: &Target) -> Result<()> {
        let mut sid = self.sid.lock().unwrap_or_else(PoisonError::into_inner);
        match sid.get_or_insert_with(|| sid::ensure(self.consent)) {
            Ok(root) => {
                let root = root.clone();
                drop(sid);
                let output = in_guest(target, self.linux, Root::Sid(root), &self.selection.arguments)?;
                let verdict = judge_lab(&output, Skips::WithReason, self.selection);
                self.books().take(Tier::Sid, target, verdict, &output);
            }
            Err(Unavailable::Unreachable(err)) => {
                // apt's own words are many; its first error says enough, the rest is in the log.
                let text = format!("{err:#}");
                let cause = text.lines().find(|line| line.starts_with("E: ")).unwrap_or(text.as_str());
                let reason = format!("the archive of Debian sid cannot be reached ({cause})");
                self.books().summaries[Tier::Sid as usize].skip(target, &list(target)?, &reason);
            }
            Err(Unavailable::Failed(err)) => {
                self.books().summaries[Tier::Sid as usize].fail(target, &format!("{err:#}"));
            }
        }
        Ok(())
    }
}

/// One tier's counts.
struct Summary {
    tier: &'static str,
    tally: Tally,
    /// Of all its targets together; two of them run at a time.
    taken: Duration,
}

impl Summary {
    fn new(tier: &'static str) -> Self {
        Self { tier, tally: Tally::default(), taken: Duration::ZERO }
    }

    fn take(&mut self, target: &Target, verdict: Verdict, output: &Output) {
        let Verdict { tally, notes, .. } = verdict;
        if tally == Tally::default() {
            return; // a program without unit tests
        }
        println!(
            "{}: {} {}: {tally} ({:.1} s)",
            self.tier,
            target.package,
            target.name,
            output.taken.as_secs_f32()
        );
        if tally.failed > 0 {
            println!("{}", output.text.trim_end());
        }
        for note in notes {
            println!("  {note}");
        }
        if tally.failed > 0 {
            println!("  everything it said: {}", output.folder.display());
        }
        self.tally.add(tally);
        self.taken += output.taken;
    }

    fn skip(&mut self, target: &Target, cases: &[String], reason: &str) {
        for case in cases {
            println!("  skipped: {} {case}: {reason}", target.name);
        }
        self.tally.skipped += cases.len();
    }

    fn fail(&mut self, target: &Target, reason: &str) {
        println!("  failed: {}: {reason}", target.name);
        self.tally.failed += 1;
    }

    fn print(&self) {
        println!("{}: {} ({:.0} s)", self.tier, self.tally, self.taken.as_secs_f32());
    }
}

/// What a test binary said.
struct Output {
    text: String,
    succeeded: bool,
    taken: Duration,
    /// Where the log, and in a guest the artefacts, are.
    folder: PathBuf,
    /// In a guest: how it ended, if not by the command's own end, and what the kernel complained of.
    trouble: Vec<String>,
}

fn judge_guest(output: &Output, skips: Skips) -> Verdict {
    let mut verdict = tally::judge(&output.text, output.succeeded, skips);
    for trouble in &output.trouble {
        verdict.tally.failed += 1;
        verdict.notes.push(format!("failed: {trouble}"));
    }
    verdict
}

/// As [`judge_guest`]; a target that ran no case although none was deselected has failed, too.
fn judge_lab(output: &Output, skips: Skips, selection: &Selection) -> Verdict {
    let mut verdict = judge_guest(output, skips);
    if selection.arguments.is_empty() && verdict.tally == Tally::default() {
        verdict.tally.failed = 1;
        verdict.notes.push("failed: it ran no case".to_owned());
    }
    verdict
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<MessageTarget>,
    profile: Option<MessageProfile>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct MessageProfile {
    test: bool,
}

/// The `cargo` that runs this program.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(layout::workspace());
    command
}

/// Builds programs, tests and examples of the workspace; cargo's own progress is shown.
fn build() -> Result<Vec<Target>> {
    progress::say("building the workspace and its tests");
    // One call for both, so that cargo settles on one set of features and builds each dependency once.
    let mut messages = build_messages(&["--workspace", "--bins", "--tests", "--examples"])?;
    // Threads in an order that the test chooses: the library has other locks than everybody else's, so a build of its own.
    let scheduled = ["--package", "drm-prime", "--features", "shuttle", "--test", "shuttle"];
    messages.push_str(&build_messages(&scheduled)?);
    let targets = targets(&messages);
    if targets.is_empty() {
        bail!("cargo named no test binary");
    }
    Ok(targets)
}

/// What cargo says, message by message, of building a selection.
fn build_messages(selection: &[&str]) -> Result<String> {
    let output = cargo()
        .arg("build")
        .args(selection)
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the build failed");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn targets(messages: &str) -> Vec<Target> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let mut targets: Vec<Target> = parsed
        .filter(|message| {
            message.reason == "compiler-artifact" && message.profile.as_ref().is_some_and(|p| p.test)
        })
        .filter_map(|message| {
            let folder = message.manifest_path?.parent()?.to_owned();
            let target = message.target?;
            let package =
                fs::read_to_string(folder.join("Cargo.toml")).ok().and_then(|text| package_name(&text));
            Some(Target {
                name: target.name,
                package: package.unwrap_or_default(),
                kind: target.kind.first()?.clone(),
                executable: message.executable?,
                folder,
            })
        })
        .collect();
    targets.sort_by(|a, b| (&a.package, &a.kind, &a.name).cmp(&(&b.package, &b.kind, &b.name)));
    targets
}

fn package_name(manifest: &str) -> Option<String> {
    let line = manifest.lines().find_map(|line| line.trim().strip_prefix("name = "))?;
    Some(line.trim().trim_matches('"').to_owned())
}

fn log_folder(target: &str) -> Result<PathBuf> {
    let folder = layout::runs().join("test").join(target.replace(['/', ' '], "-"));
    layout::remove_dir(&folder)?;
    layout::create_dir(&folder)?;
    Ok(folder)
}

fn on_host(target: &Target, selection: &Selection, environment: &[(&str, &Path)]) -> Result<Output> {
    let mut command = Command::new(&target.executable);
    command.args(&selection.arguments).current_dir(&target.folder);
    command.env("CARGO_MANIFEST_DIR", &target.folder).env("CARGO_PKG_NAME", &target.package);
    command.env_remove("PRIMEWAY_LAB").envs(environment.iter().copied());
    captured(&mut command, &format!("{}-{}", target.package, target.name))
}

fn documentation() -> Result<Output> {
    progress::say("building and running the examples in the documentation");
    captured(cargo().args(["test", "--workspace", "--doc"]), "documentation")
}

/// The documentation of the published library, with all that users can choose.
fn reference() -> Result<Output> {
    progress::say("building the documentation of drm-prime");
    let mut command = cargo();
    command.args(["doc", "--package", "drm-prime", "--features", "smithay", "--no-deps"]);
    captured(command.env("RUSTDOCFLAGS", "--deny warnings"), "reference")
}

/// Runs a command of the host with its output in a file, within the limit, in a process group of its own.
fn captured(command: &mut Command, name: &str) -> Result<Output> {
    let folder = log_folder(name)?;
    let path = folder.join("output");
    let file = File::create(&path)?;
    let started = Instant::now();
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let child = sys::die_with_parent(sys::own_group(command), libc::SIGKILL).spawn();
    let mut child = child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let mut trouble = Vec::new();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        let interrupted = sys::caught_signal();
        if interrupted.is_some() || started.elapsed() > LIMIT {
            sys::signal_group(child.id().cast_signed(), libc::SIGKILL);
            child.wait()?;
            if let Some(signal) = interrupted {
                bail!("stopped by signal {signal}");
            }
            trouble.push(format!("ended after {} s", LIMIT.as_secs()));
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let succeeded = status.is_some_and(|status| status.success());
    Ok(Output { text, succeeded, taken: started.elapsed(), folder, trouble })
}

/// What is in a guest.
enum Root {
    Host,
    Sid(PathBuf),
    Emulated(qemu::Image),
}

fn in_guest(target: &Target, linux: &Path, root: Root, arguments: &[String]) -> Result<Output> {
    let started = Instant::now();
    let executable = target.executable.to_str().context("a path is not UTF-8")?.to_owned();
    let mut command = vec![executable, "--test-threads=1".to_owned()];
    command.extend(arguments.iter().cloned());
    progress::say(&format!("running {} in a guest", target.name));
    let (sid, qemu) = match root {
        Root::Host => (None, None),
        Root::Sid(root) => (Some(root), None),
        Root::Emulated(image) => (None, Some(image)),
    };
    let defaults = run::Options::default();
    let options = run::Options {
        command,
        sid,
        vkms: if qemu.is_some() { Vec::new() } else { defaults.vkms.clone() },
        qemu,
        timeout: Some(LIMIT),
        name: Some(format!("test-{}", target.name)),
        quiet: true,
        environment: vec![("CARGO_MANIFEST_DIR".to_owned(), target.folder.to_string_lossy().into_owned())],
        ..defaults
    };
    let outcome = run::run(linux, &options)?;
    let read = |name: &str| {
        fs::read(outcome.folder.join(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    };
    let mut trouble = tally::kernel_complaints(&read("kernel.log"));
    match outcome.ending {
        Ending::Exit(_) => {}
        Ending::TimedOut => trouble.push(format!("ended after {} s", LIMIT.as_secs())),
        Ending::Interrupted(signal) => bail!("stopped by signal {signal}"),
        Ending::Failed => trouble.push("the guest failed; see its kernel.log".to_owned()),
    }
    Ok(Output {
        text: format!("{}{}", read("stdout"), read("stderr")),
        succeeded: outcome.ending == Ending::Exit(0),
        taken: started.elapsed(),
        folder: outcome.folder,
        trouble,
    })
}

/// The cases of a target, without running them.
fn list(target: &Target) -> Result<Vec<String>> {
    let output = Command::new(&target.executable).arg("--list").stdin(Stdio::null()).output();
    let cases = tally::listed(&String::from_utf8_lossy(&output.context("cannot list the cases")?.stdout));
    if cases.is_empty() {
        bail!("{} lists no case", target.name);
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_read_from_cargos_messages_and_sorted_into_tiers() {
        let message = |name: &str, kind: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/x/Cargo.toml","executable":"/w/t/{name}","target":{{"name":"{name}","kind":["{kind}"]}},"profile":{{"test":{test}}}}}"#
            )
        };
        let messages = [
            message("kernel_picture", "test", true),
            message("sid_clients", "test", true),
            message("qemu_syncobj", "test", true),
            message("prime", "lib", true),
            message("primeway", "bin", false),
            message("lab_runs", "test", true),
            "{\"reason\":\"build-finished\",\"success\":true}".to_owned(),
        ]
        .join("\n");
        let found: Vec<(String, Tier)> =
            targets(&messages).into_iter().map(|target| (target.name.clone(), target.tier())).collect();
        let expected = [
            ("prime", Tier::Host),
            ("kernel_picture", Tier::Lab),
            ("lab_runs", Tier::Lab),
            ("qemu_syncobj", Tier::Qemu),
            ("sid_clients", Tier::Sid),
        ];
        assert_eq!(found, expected.map(|(name, tier)| (name.to_owned(), tier)));
    }

    #[test]
    fn the_package_name_is_the_manifests_first_name() {
        assert_eq!(
            package_name("[package]\nname = \"drm-prime\"\n[lib]\nname = \"x\"\n").as_deref(),
            Some("drm-prime")
        );
    }
}
