//! `primeway replay`: the planner, run offline against a recording.
//!
//! It owns reading recordings, with errors that name the line, and the comparison. The driver's answers are those of the
//! recording; of a question that was not asked then, nobody knows the answer, which counts as a difference. With
//! `--against` the planes and the answers are those of a capability file instead ([`super::against`]).

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use drm_prime::scanout::{Plan, PlaneCaps, Planner, Scene};
use rustix::io::Errno;

use super::against::{Against, AgainstError};
use super::{Assigned, Line, Outcome, SceneLine, VERSION};

/// Longest line of a recording.
const LONGEST: u64 = 16 << 20;

/// `primeway replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    /// A recording that `primeway --record` made.
    pub file: PathBuf,
    /// Plan with the planes of this capability file instead.
    #[arg(long, value_name = "CAPS")]
    pub against: Option<PathBuf>,
    /// Print the plans that differ alone.
    #[arg(long)]
    pub quiet: bool,
}

/// What a replay came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Plans that were made.
    pub plans: usize,
    /// Those that are not the recorded ones.
    pub different: usize,
    /// Questions that nobody asked when the recording was made.
    pub unknown: usize,
}

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[from] std::io::Error),
    /// A line is not what a recording has there.
    #[error("line {line}: {why}")]
    Line {
        /// From 1 on.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The capability file cannot be used.
    #[error("{}", .0.display())]
    Against(PathBuf, #[source] AgainstError),
}

/// Runs the command; its exit status is 0 if all plans are the recorded ones, and 3 if not.
///
/// # Errors
/// When a file cannot be used, with the line that is wrong.
pub fn run(args: &ReplayArgs) -> anyhow::Result<u8> {
    use anyhow::Context as _;
    let mut out = std::io::stdout().lock();
    let mut print = |text: &str| {
        // Whoever reads may have seen enough.
        let _ = std::io::Write::write_all(&mut out, text.as_bytes());
    };
    let summary = replay(&args.file, args.against.as_deref(), |text, differs| {
        if differs || !args.quiet {
            print(text);
        }
    });
    let summary = summary.with_context(|| args.file.display().to_string())?;
    let Summary { plans, different, unknown } = summary;
    print(&format!(
        "{plans} plans, {different} differ from the recording, {unknown} questions without an answer\n"
    ));
    Ok(if different + unknown == 0 { 0 } else { 3 })
}

/// An output of a recording.
struct Output {
    name: String,
    planes: Vec<PlaneCaps>,
    planner: Planner,
    against: Option<Against>,
}

/// Plans every scene of a recording again. `tell` is given a text for each, and whether it differs.
///
/// # Errors
/// See [`ReplayError`].
pub fn replay(
    file: &Path,
    against: Option<&Path>,
    mut tell: impl FnMut(&str, bool),
) -> Result<Summary, ReplayError> {
    let mut reader = BufReader::new(std::fs::File::open(file)?);
    let mut outputs: Vec<Output> = Vec::new();
    let (mut summary, mut number, mut text) = (Summary::default(), 0, Vec::new());
    loop {
        text.clear();
        let read = (&mut reader).take(LONGEST + 1).read_until(b'\n', &mut text)?;
        if read == 0 {
            break;
        }
        number += 1;
        let wrong = |why: String| ReplayError::Line { line: number, why };
        if text.last() != Some(&b'\n') {
            let why = if read as u64 > LONGEST { "is longer than any line" } else { "ends in its middle" };
            return Err(wrong(why.into()));
        }
        let line: Line = serde_json::from_slice(&text).map_err(|err| wrong(err.to_string()))?;
        match (number, line) {
            (1, Line::Head { version: VERSION, .. }) => {}
            (1, Line::Head { version, .. }) => {
                return Err(wrong(format!(
                    "has version {version}, and this primeway reads version {VERSION}"
                )));
            }
            (1, _) => return Err(wrong("is no head: this is no recording".into())),
            (_, Line::Head { .. }) => return Err(wrong("is a second head".into())),
            (_, Line::Planes { output, planes }) => match outputs.iter_mut().find(|o| o.name == output) {
                Some(known) => known.planes = planes,
                None => {
                    let (planner, against) = (Planner::new(), None);
                    outputs.push(Output { name: output, planes, planner, against });
                }
            },
            (_, Line::Scene(scene)) => {
                let output = find(&mut outputs, &scene.output).map_err(wrong)?;
                check(&scene, output).map_err(wrong)?;
                if let (Some(path), None) = (against, &output.against) {
                    let made = Against::new(path, scene.size);
                    let made = made.map_err(|err| ReplayError::Against(path.to_path_buf(), err))?;
                    output.planes = made.planes().to_vec();
                    output.against = Some(made);
                }
                let unknown = plan(output, &scene);
                compare(&mut summary, output, &scene.plan, (number, unknown), &mut tell);
            }
            (_, Line::Refused { output, now, errno, plan }) => {
                let output = find(&mut outputs, &output).map_err(wrong)?;
                // What another device commits is not known.
                if output.against.is_none() {
                    output.planner.refused(Errno::from_raw_os_error(errno), Duration::from_nanos(now));
                    compare(&mut summary, output, &plan, (number, 0), &mut tell);
                }
            }
        }
    }
    if number == 0 {
        return Err(ReplayError::Line { line: 1, why: "is not there: the file is empty".into() });
    }
    Ok(summary)
}

fn find<'a>(outputs: &'a mut [Output], name: &str) -> Result<&'a mut Output, String> {
    let output = outputs.iter_mut().find(|o| o.name == name);
    output.ok_or_else(|| format!("is about {name}, of which no planes were told"))
}

/// What no planner could have said, and what a planner need not expect.
fn check(scene: &SceneLine, output: &Output) -> Result<(), String> {
    let layers = scene.layers.len();
    let inside = |plan: &Assigned| {
        let primary = match plan.primary {
            drm_prime::scanout::PrimaryContent::Layer(layer) => layer < layers,
            drm_prime::scanout::PrimaryContent::Composited => true,
        };
        plan.planes.len() == layers && primary && plan.underlays.iter().all(|layer| *layer < layers)
    };
    let plans = scene.asked.iter().map(|ask| &ask.plan).chain([&scene.plan.assigned]);
    if !plans.into_iter().all(inside) {
        return Err("has a plan of other layers than its own".into());
    }
    if output.planes.len() > 256 || layers > 1 << 16 {
        return Err("has more planes or layers than there can be".into());
    }
    Ok(())
}

/// Makes the plan of a scene; returns how many questions nobody asked before.
fn plan(output: &mut Output, line: &SceneLine) -> usize {
    let scene = Scene {
        planes: &output.planes,
        layers: &line.layers,
        pointer: line.pointer.as_ref(),
        output: line.size,
        canvas: line.canvas,
        crtc_shows_backdrop: line.crtc_shows_backdrop,
        overlays: line.overlays,
    };
    if line.forget {
        output.planner.forget();
    }
    let (mut unknown, against) = (0, &output.against);
    output.planner.plan(&scene, Duration::from_nanos(line.now), |plan| {
        if let Some(against) = against {
            return against.test(&scene, plan);
        }
        let assigned = Assigned::of(plan);
        match line.asked.iter().find(|ask| ask.plan == assigned) {
            Some(ask) => ask.errno.map_or(Ok(()), |errno| Err(Errno::from_raw_os_error(errno))),
            None => {
                unknown += 1;
                Err(Errno::NODATA)
            }
        }
    });
    unknown
}

fn compare(
    summary: &mut Summary,
    output: &Output,
    recorded: &Outcome,
    (number, unknown): (usize, usize),
    tell: &mut impl FnMut(&str, bool),
) {
    let Some(plan) = output.planner.last() else { return };
    let differs = Outcome::of(plan) != *recorded;
    summary.plans += 1;
    summary.different += usize::from(differs);
    summary.unknown += unknown;
    tell(&describe(number, &output.name, plan, recorded, differs, unknown), differs || unknown > 0);
}

/// A plan for people.
fn describe(
    number: usize,
    output: &str,
    plan: &Plan,
    recorded: &Outcome,
    differs: bool,
    unknown: usize,
) -> String {
    let mut text = format!("line {number}  {output}  {}", if differs { "DIFFERS" } else { "as recorded" });
    if unknown > 0 {
        let _ = write!(text, "  {unknown} questions without an answer");
    }
    text.push('\n');
    let place = |planes: &[Option<std::num::NonZeroU32>], layer: usize| match planes.get(layer) {
        Some(Some(plane)) => format!("plane {plane}"),
        _ => "composited".to_owned(),
    };
    for layer in 0..plan.visible {
        let (now, then) = (place(&plan.planes, layer), place(&recorded.assigned.planes, layer));
        let was = if now == then { String::new() } else { format!("  (was {then})") };
        let _ = writeln!(text, "  layer {layer}  {now}{was}");
        for (_, plane, refusal) in plan.refusals_of(layer) {
            let _ = writeln!(text, "    plane {plane}  {refusal}");
        }
    }
    if plan.pointer != recorded.assigned.pointer {
        let _ = writeln!(text, "  pointer  {:?}  (was {:?})", plan.pointer, recorded.assigned.pointer);
    }
    if differs {
        let new = Outcome::of(plan);
        for (layer, plane, why) in recorded.refusals.iter().filter(|r| !new.refusals.contains(r)) {
            let _ = writeln!(text, "  then: layer {layer}  plane {plane}  {why}");
        }
    }
    text
}
