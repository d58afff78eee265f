//! Random scripts that shrink: [`Scripts`], a proptest strategy.
//!
//! Owns the way from a script that failed to a short one: fewer steps first, many at a time, then lower numbers and the first
//! variant of each enum, then fewer steps again. What a step is, and how likely, is in [`super::script`].

use std::fmt;

use proptest::strategy::{BoxedStrategy, NewTree, Strategy, ValueTree};
use proptest::test_runner::{Reason, TestRunner};

use super::script::{self, Step, Theme};

/// Scripts of so many steps, which shrink to fewer.
#[derive(Debug, Clone)]
pub struct Scripts {
    length: usize,
    step: BoxedStrategy<Step>,
}

impl Scripts {
    /// Scripts of `length` steps about a theme.
    #[must_use]
    pub fn new(theme: Theme, length: usize) -> Scripts {
        let step = match theme {
            Theme::Everything => script::step().boxed(),
            Theme::Sharing => script::sharing().boxed(),
        };
        Scripts { length, step }
    }
}

impl Strategy for Scripts {
    type Tree = ScriptTree;
    type Value = Vec<Step>;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let steps: Vec<_> = (0..self.length)
            .map(|_| Ok((true, self.step.new_tree(runner)?)))
            .collect::<Result<_, Reason>>()?;
        let shrink = Shrink::Drop { from: 0, count: (self.length / 2).max(1) };
        Ok(ScriptTree { steps, shrink, last: Last::Nothing, changed: false })
    }
}

/// What is tried next.
#[derive(Debug, Clone, Copy)]
enum Shrink {
    /// Leaving out `count` steps from one on, then half as many at a time.
    Drop { from: usize, count: usize },
    /// A simpler call at one place.
    Simplify(usize),
}

/// What was tried last, to be taken back if it was too much.
#[derive(Debug)]
enum Last {
    Nothing,
    Dropped(Vec<usize>),
    Simplified(usize),
}

/// A script on its way to a shorter one: first steps are left out, many at a time, then those that stay become simpler.
pub struct ScriptTree {
    steps: Vec<(bool, Box<dyn ValueTree<Value = Step>>)>,
    shrink: Shrink,
    last: Last,
    /// Whether a step has become simpler since steps were last left out.
    changed: bool,
}

impl fmt::Debug for ScriptTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.current()).finish()
    }
}

impl ValueTree for ScriptTree {
    type Value = Vec<Step>;

    fn current(&self) -> Vec<Step> {
        self.steps.iter().filter(|(kept, _)| *kept).map(|(_, step)| step.current()).collect()
    }

    fn simplify(&mut self) -> bool {
        loop {
            match self.shrink {
                Shrink::Drop { count: 0, .. } => self.shrink = Shrink::Simplify(0),
                Shrink::Drop { from, count } if from >= self.steps.len() => {
                    self.shrink = Shrink::Drop { from: 0, count: count / 2 };
                }
                Shrink::Drop { from, count } => {
                    let end = (from + count).min(self.steps.len());
                    let dropped: Vec<usize> = (from..end).filter(|step| self.steps[*step].0).collect();
                    self.shrink = Shrink::Drop { from: end, count };
                    if !dropped.is_empty() {
                        dropped.iter().for_each(|step| self.steps[*step].0 = false);
                        self.last = Last::Dropped(dropped);
                        return true;
                    }
                }
                Shrink::Simplify(step) if step >= self.steps.len() => {
                    if !std::mem::take(&mut self.changed) {
                        return false;
                    }
                    self.shrink = Shrink::Drop { from: 0, count: 1 };
                }
                Shrink::Simplify(step) => {
                    if self.steps[step].0 && self.steps[step].1.simplify() {
                        self.last = Last::Simplified(step);
                        return true;
                    }
                    self.shrink = Shrink::Simplify(step + 1);
                }
            }
        }
    }

    fn complicate(&mut self) -> bool {
        match std::mem::replace(&mut self.last, Last::Nothing) {
            Last::Nothing => false,
            Last::Dropped(steps) => {
                steps.iter().for_each(|step| self.steps[*step].0 = true);
                true
            }
            Last::Simplified(step) => {
                if self.steps[step].1.complicate() {
                    self.last = Last::Simplified(step);
                    return true;
                }
                self.shrink = Shrink::Simplify(step + 1);
                self.simplify()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng};

    use super::super::script::Op;
    use super::*;

    /// Shrinks the first script that fails.
    fn shrunk(fails: impl Fn(&[Step]) -> bool) -> Vec<Step> {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
        let config =
            Config { cases: 2000, max_shrink_iters: 50_000, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, rng);
        let outcome = runner.run(&Scripts::new(Theme::Everything, 50), |steps| match fails(&steps) {
            true => Err(TestCaseError::fail("as wanted")),
            false => Ok(()),
        });
        match outcome {
            Err(TestError::Fail(_, steps)) => steps,
            other => panic!("{other:?}"),
        }
    }

    /// Strategies of this size want more stack than a test thread has.
    fn with_stack(test: impl FnOnce() + Send + 'static) {
        std::thread::Builder::new().stack_size(64 << 20).spawn(test).unwrap().join().unwrap();
    }

    #[test]
    fn a_script_shrinks_to_the_step_that_matters() {
        with_stack(|| {
            let steps =
                shrunk(|steps| steps.iter().any(|step| matches!(step.op, Op::GetFb2 { file: 1, .. })));
            assert_eq!(steps, [Step::from(Op::GetFb2 { file: 1, fb: 0 })]);
        });
    }

    #[test]
    fn a_script_shrinks_to_steps_that_matter_together() {
        with_stack(|| {
            let steps = shrunk(|steps| {
                let export = |step: &Step| matches!(step.op, Op::Export { .. });
                let close = |step: &Step| matches!(step.op, Op::GemClose { .. });
                let first = steps.iter().position(export);
                first.is_some_and(|first| steps[first..].iter().any(close))
            });
            assert!(
                matches!(
                    steps[..],
                    [Step { op: Op::Export { .. }, .. }, Step { op: Op::GemClose { .. }, .. }]
                ),
                "{steps:?}"
            );
            assert!(steps.iter().all(|step| !step.aimed && !step.starved), "{steps:?}");
        });
    }

    #[test]
    fn scripts_are_as_long_as_asked() {
        with_stack(|| {
            let mut runner = TestRunner::deterministic();
            let tree = Scripts::new(Theme::Sharing, 50).new_tree(&mut runner).unwrap();
            assert_eq!(tree.current().len(), 50);
        });
    }
}
