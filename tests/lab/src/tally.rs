//! Owns reading what a test binary printed: counts, names, and the rules that turn them into a verdict.
//! Pure; does not run anything (see `testing`).

use std::fmt;

/// Counted cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ran and held.
    pub passed: usize,
    /// Ran and failed, or did not report.
    pub failed: usize,
    /// Did not run, with a reason.
    pub skipped: usize,
}

impl Tally {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Whether something ran and nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What an ignored case means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skips {
    /// It is skipped, or left to the lab when its reason says `in the lab`: outside the lab.
    Allowed,
    /// It failed: inside the lab everything is there.
    Forbidden,
    /// It failed, unless the case printed `skipped: NAME: REASON`.
    WithReason,
}

/// The verdict on one test binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The counts.
    pub tally: Tally,
    /// One line per thing worth naming: failures and skips.
    pub notes: Vec<String>,
    /// Ignored cases that are to be run in the lab; not counted here.
    pub deferred: Vec<String>,
}

/// Judges the output of a libtest-like binary.
///
/// `succeeded` is its exit status. A missing result line, or a bad status without a failed case, is a failure.
#[must_use]
pub fn judge(output: &str, succeeded: bool, skips: Skips) -> Verdict {
    let mut verdict = Verdict::default();
    let results: Vec<Option<[usize; 3]>> =
        output.lines().filter_map(|line| line.trim().strip_prefix("test result: ")).map(counts).collect();
    if results.is_empty() || results.contains(&None) {
        verdict.tally.failed += 1;
        verdict
            .notes
            .push("failed: no readable `test result:` line (it crashed, hung or lost its output)".to_owned());
    }
    let [mut passed, mut failed, ignored] = results
        .into_iter()
        .flatten()
        .fold([0; 3], |sum, counts| [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]]);
    let reasons: Vec<(&str, &str)> = output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("skipped: ")?.split_once(": "))
        .filter(|(name, reason)| !name.is_empty() && !reason.trim().is_empty())
        .collect();
    let reason_of = |name: &str| reasons.iter().find(|(case, _)| *case == name).map(|(_, reason)| *reason);
    let cases: Vec<(&str, &str)> = output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("test ")?.split_once(" ... "))
        .map(|(name, state)| (name.trim(), state.trim()))
        .collect();
    let state_of = |name: &str| cases.iter().find(|(case, _)| *case == name).map(|(_, state)| *state);

    let mut named = 0;
    for (name, state) in cases.iter().filter(|(_, state)| state.starts_with("ignored")) {
        named += 1;
        let reason = reason_of(name).unwrap_or(state);
        if skips == Skips::Allowed && state.contains("in the lab") {
            verdict.deferred.push((*name).to_owned());
            continue;
        }
        if skips == Skips::Allowed || (skips == Skips::WithReason && reason_of(name).is_some()) {
            verdict.tally.skipped += 1;
            verdict.notes.push(format!("skipped: {name}: {reason}"));
        } else {
            failed += 1;
            verdict.notes.push(format!("failed: {name}: not run inside the lab: {reason}"));
        }
    }
    // Ignored cases that the result line counts but no line names.
    let unnamed = ignored.saturating_sub(named);
    match skips {
        Skips::Allowed => verdict.tally.skipped += unnamed,
        _ => failed += unnamed,
    }
    // A case that says it was skipped and then reports success did not run.
    for (name, reason) in reasons.iter().filter(|(name, _)| state_of(name).is_some_and(|state| state == "ok"))
    {
        passed = passed.saturating_sub(1);
        if skips == Skips::Forbidden {
            failed += 1;
            verdict.notes.push(format!("failed: {name}: not run inside the lab: {reason}"));
        } else {
            verdict.tally.skipped += 1;
            verdict.notes.push(format!("skipped: {name}: {reason}"));
        }
    }
    for (name, _) in cases.iter().filter(|(_, state)| state.starts_with("FAILED")) {
        verdict.notes.push(format!("failed: {name}"));
    }
    verdict.tally.passed += passed;
    verdict.tally.failed += failed;
    if !succeeded && verdict.tally.failed == 0 {
        verdict.tally.failed = 1;
        verdict.notes.push("failed: it ended with a failure although no case failed".to_owned());
    }
    verdict
}

/// `ok. 3 passed; 0 failed; 1 ignored; …`
fn counts(result: &str) -> Option<[usize; 3]> {
    let (_, counts) = result.split_once(". ")?;
    let mut parts = counts.split(';').map(str::trim);
    let mut next = |word: &str| parts.next()?.strip_suffix(word)?.trim().parse().ok();
    Some([next("passed")?, next("failed")?, next("ignored")?])
}

/// The names of cases that `--list` prints.
#[must_use]
pub fn listed(output: &str) -> Vec<String> {
    output.lines().filter_map(|line| line.trim().strip_suffix(": test")).map(str::to_owned).collect()
}

/// The lines of a kernel log that tell of a kernel bug: warnings with a trace, bugs, oopses.
///
/// Only what comes after process 1 was started counts: User-Mode Linux warns about itself while booting.
#[must_use]
pub fn kernel_complaints(log: &str) -> Vec<String> {
    let marks =
        ["WARNING: ", "BUG: ", "kernel BUG at", "Oops", "Kernel panic", "rcu: INFO: ", "refcount_t: "];
    let lines = log.lines().skip_while(|line| !line.contains(" as init process")).skip(1);
    let lines = lines.filter(|line| marks.iter().any(|mark| line.contains(mark)));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "running 3 tests\ntest a ... ok\ntest b ... ok\ntest c ... ignored, needs the lab\n\n\
        test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    fn tally(passed: usize, failed: usize, skipped: usize) -> Tally {
        Tally { passed, failed, skipped }
    }

    #[test]
    fn ignored_is_skipped_outside_and_failed_inside() {
        let outside = judge(GOOD, true, Skips::Allowed);
        assert_eq!(outside.tally, tally(2, 0, 1));
        assert_eq!(outside.notes, ["skipped: c: ignored, needs the lab"]);
        assert_eq!(judge(GOOD, true, Skips::Forbidden).tally, tally(2, 1, 0));
        assert_eq!(judge(GOOD, true, Skips::WithReason).tally, tally(2, 1, 0));
    }

    #[test]
    fn a_case_for_the_lab_is_left_to_it() {
        let output = GOOD.replace("needs the lab", "needs a heap, run it in the lab");
        let verdict = judge(&output, true, Skips::Allowed);
        assert_eq!((verdict.tally, verdict.deferred), (tally(2, 0, 0), vec!["c".to_owned()]));
        assert_eq!(judge(&output, true, Skips::Forbidden).tally, tally(2, 1, 0));
    }

    #[test]
    fn a_reason_makes_a_skip_where_reasons_count() {
        let reasoned = format!("skipped: c: no v4l client\n{GOOD}");
        assert_eq!(judge(&reasoned, true, Skips::WithReason).tally, tally(2, 0, 1));
        assert_eq!(judge(&reasoned, true, Skips::Forbidden).tally, tally(2, 1, 0));
        let ok_but_skipped =
            format!("skipped: a: no such client\n{GOOD}").replace("ignored, needs the lab", "ok");
        let ok_but_skipped =
            ok_but_skipped.replace("2 passed; 0 failed; 1 ignored", "3 passed; 0 failed; 0 ignored");
        assert_eq!(judge(&ok_but_skipped, true, Skips::WithReason).tally, tally(2, 0, 1));
        assert_eq!(judge(&ok_but_skipped, true, Skips::Forbidden).tally, tally(2, 1, 0));
    }

    #[test]
    fn silence_garbage_and_a_bad_status_fail() {
        assert_eq!(judge("", true, Skips::Allowed).tally, tally(0, 1, 0));
        assert_eq!(judge("running 1 test\ntest a ... ", false, Skips::Allowed).tally, tally(0, 1, 0));
        assert_eq!(judge("test result: ok. many passed", true, Skips::Allowed).tally, tally(0, 1, 0));
        assert_eq!(judge(GOOD, false, Skips::Allowed).tally, tally(2, 1, 1));
    }

    #[test]
    fn failures_are_counted_and_named_once() {
        let output = "test a ... FAILED\ntest b ... ok\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let verdict = judge(output, false, Skips::Forbidden);
        assert_eq!(verdict.tally, tally(1, 1, 0));
        assert_eq!(verdict.notes, ["failed: a"]);
    }

    #[test]
    fn several_results_are_summed() {
        let twice = format!("{GOOD}{GOOD}").replace("test c ... ignored, needs the lab\n", "");
        assert_eq!(judge(&twice, true, Skips::Allowed).tally, tally(4, 0, 2));
    }

    #[test]
    fn nothing_run_is_not_good() {
        assert!(!tally(0, 0, 5).is_good());
        assert!(!tally(5, 1, 0).is_good());
        assert!(tally(5, 0, 1).is_good());
        assert_eq!(tally(5, 0, 1).to_string(), "5 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn lists_and_complaints() {
        assert_eq!(listed("a: test\nb::c: test\nd: benchmark\n\n2 tests, 1 benchmark\n"), ["a", "b::c"]);
        let log = "[0.1] WARNING: at boot\n[1.0] Run /x/lab as init process\n[1.5] ok\n[2.0] WARNING: CPU: 0 PID: 1 at drivers/gpu/drm/drm_file.c\n";
        assert_eq!(kernel_complaints(log), ["[2.0] WARNING: CPU: 0 PID: 1 at drivers/gpu/drm/drm_file.c"]);
    }
}
