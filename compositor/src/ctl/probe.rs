//! `primeway probe`: what a display device takes, without a client and without a running compositor.
//!
//! It owns the specs and the report. The device is asked by [`crate::backend::kms::probe`].

use std::num::NonZeroU32;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::exporting::Exporter;
use drm_prime::{errno_name, format};
use serde::{Deserialize, Serialize};

use super::client::print;
use super::explain::plane_type;
use super::refusal::modifier_name;
use super::table::lay_out;
use crate::backend::kms::probe::{Cell, PlaneAnswer, Probe, Question};
use crate::cli::ProbeArgs;

/// Width and height, at most: more than any display has.
const LARGEST: u32 = 16384;

/// What a device takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Its node.
    pub node: PathBuf,
    /// Its driver.
    pub driver: String,
    /// How the file for imports was got.
    pub acquisition: String,
    /// Its display and the mode's size, if one is connected.
    pub display: Option<(String, (u32, u32))>,
    /// Why no plane could be asked, if none could.
    pub not_asked: Option<String>,
    /// What was tried.
    pub rows: Vec<ProbeRow>,
}

/// What became of one kind of picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// Pixels.
    pub size: (u32, u32),
    /// Its fourcc.
    pub format: String,
    /// Its modifier by name.
    pub modifier: String,
    /// In the memory of each exporter.
    pub cells: Vec<ProbeCell>,
}

/// What became of it in one exporter's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCell {
    /// Whose memory.
    pub exporter: String,
    /// The step at which it ended: memory, import, addfb2 or test; none if every plane that lists it was asked.
    pub ended_at: Option<String>,
    /// Why it ended there.
    pub reason: Option<String>,
    /// Of a failed import: it was the system's fault.
    pub system: bool,
    /// What the planes say, once there is a framebuffer.
    pub planes: Vec<ProbePlane>,
}

/// What a plane says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePlane {
    /// KMS object id.
    pub plane: NonZeroU32,
    /// primary, overlay or cursor.
    pub r#type: String,
    /// takes, refuses, not-listed or not-asked.
    pub answer: String,
    /// The errno of a refusal, or why it was not asked.
    pub reason: Option<String>,
}

/// Reads `WIDTHxHEIGHT:FORMAT` or `WIDTHxHEIGHT:FORMAT:MODIFIER`. FORMAT is a fourcc such as NV12 or XR24; MODIFIER is LINEAR,
/// a name as `primeway planes` has it, or a number in hex.
///
/// # Errors
/// What is wrong with it.
pub fn parse_spec(text: &str) -> Result<Question, String> {
    let mut parts = text.split(':');
    let (size, name, modifier) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(format!("`{text}` has too many parts: WIDTHxHEIGHT:FORMAT:MODIFIER"));
    }
    let name = name.ok_or_else(|| format!("`{text}` has no format: WIDTHxHEIGHT:FORMAT:MODIFIER"))?;
    let side = |s: &str| s.parse::<u32>().ok().filter(|v| (1..=LARGEST).contains(v));
    let size = size.split_once('x').and_then(|(w, h)| Some((side(w)?, side(h)?)));
    let size = size.ok_or_else(|| format!("`{text}`: the size is WIDTHxHEIGHT, both from 1 to {LARGEST}"))?;
    let known = format::all().iter().find(|info| format::name(info.fourcc).eq_ignore_ascii_case(name.trim()));
    let fourcc = known.and_then(|info| DrmFourcc::try_from(info.fourcc).ok());
    let format = fourcc.ok_or_else(|| format!("`{text}`: {name} is no format that is known here"))?;
    let modifier = match modifier {
        None => DrmModifier::Linear,
        Some(name) => parse_modifier(name)
            .ok_or_else(|| format!("`{text}`: {name} is no modifier: LINEAR, a name, or a number in hex"))?,
    };
    Ok(Question { size, format, modifier })
}

fn parse_modifier(name: &str) -> Option<DrmModifier> {
    if let Some(hex) = name.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(DrmModifier::from);
    }
    // The vendor's number, and then the vendor's list, which is short.
    let vendors = 0..=0xbu64;
    let all = vendors.flat_map(|vendor| (0..=32u64).map(move |code| vendor << 56 | code));
    let known = all.map(DrmModifier::from).filter(|m| !matches!(m, DrmModifier::Unrecognized(_)));
    let mut known = known.filter(|modifier| *modifier != DrmModifier::Invalid);
    known.find(|modifier| modifier_name(u64::from(*modifier)).eq_ignore_ascii_case(name))
}

/// Reads a file of specs, one in a line; `#` begins a comment.
///
/// # Errors
/// The number of the first bad line, and what is wrong with it.
pub fn parse_file(text: &str) -> Result<Vec<Question>, String> {
    let mut questions = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let spec = line.split('#').next().unwrap_or_default().trim();
        if !spec.is_empty() {
            questions.push(parse_spec(spec).map_err(|err| format!("line {number}: {err}"))?);
        }
    }
    Ok(questions)
}

/// `primeway probe`.
///
/// # Errors
/// When a spec is wrong or there is no device.
pub fn run(args: &ProbeArgs) -> anyhow::Result<u8> {
    let mut questions = match &args.file {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let all = parse_file(&text).map_err(|err| anyhow!("{}: {err}", file.display()))?;
            if all.is_empty() {
                bail!("{}: no spec is in it", file.display());
            }
            all
        }
        None => Vec::new(),
    };
    for spec in &args.specs {
        questions.push(parse_spec(spec).map_err(|err| anyhow!(err))?);
    }
    let mut probe = Probe::open(args.device.as_deref())?;
    if questions.is_empty() {
        questions = everything(&probe);
    }
    let report = report(&mut probe, &questions);
    let text = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { table(&report) };
    print(&text)?;
    Ok(0)
}

/// Whatever the planes list, as large as the mode.
fn everything(probe: &Probe) -> Vec<Question> {
    let size = probe.display.as_ref().map_or((640, 480), |(_, size)| *size);
    let known = |pair: &&(DrmFourcc, DrmModifier)| format::info(pair.0).is_some();
    let mut pairs: Vec<_> = probe.planes.iter().flat_map(|caps| caps.formats.iter()).filter(known).collect();
    pairs.sort_by_key(|(fourcc, modifier)| (format::name(*fourcc as u32), u64::from(*modifier)));
    pairs.dedup();
    pairs.into_iter().map(|&(format, modifier)| Question { size, format, modifier }).collect()
}

fn report(probe: &mut Probe, questions: &[Question]) -> ProbeReport {
    let exporters = probe.exporters(questions);
    let rows = questions.iter().map(|question| row(probe, question, &exporters)).collect();
    let not_asked = match (&probe.display, probe.is_master) {
        (None, _) => Some("nothing is connected"),
        (Some(_), false) => Some("another program is master of the device"),
        (Some(_), true) => None,
    };
    ProbeReport {
        node: probe.node.clone(),
        driver: probe.driver.clone(),
        acquisition: probe.acquisition().to_owned(),
        display: probe.display.clone(),
        not_asked: not_asked.map(|why| format!("no plane could be asked: {why}")),
        rows,
    }
}

fn row(probe: &mut Probe, question: &Question, exporters: &[Exporter]) -> ProbeRow {
    let cell = |exporter: &Exporter| {
        let asked = match &exporter.memory {
            Ok(memory) => probe.ask(question, memory.as_fd()),
            Err(err) => Cell::NoMemory(err.to_string()),
        };
        describe(probe, &exporter.name, asked)
    };
    ProbeRow {
        size: question.size,
        format: format::name(question.format as u32),
        modifier: modifier_name(question.modifier.into()),
        cells: exporters.iter().map(cell).collect(),
    }
}

fn describe(probe: &Probe, exporter: &str, cell: Cell) -> ProbeCell {
    let ended = |step: &str, reason: String, system: bool| ProbeCell {
        exporter: exporter.to_owned(),
        ended_at: Some(step.to_owned()),
        reason: Some(reason),
        system,
        planes: Vec::new(),
    };
    let answers = match cell {
        Cell::NoMemory(reason) => return ended("memory", reason, false),
        Cell::NotImported { errno, system } => return ended("import", errno, system),
        Cell::NoFramebuffer(reason) => return ended("addfb2", reason, false),
        Cell::Framebuffer(answers) => answers,
    };
    let kind = |plane| probe.planes.iter().find(|caps| caps.id == plane).map(|caps| plane_type(caps.kind));
    let of_plane = |(plane, answer): (NonZeroU32, PlaneAnswer)| {
        let (answer, reason) = match answer {
            PlaneAnswer::Takes => ("takes", None),
            PlaneAnswer::Refuses(errno) => ("refuses", Some(errno_name(errno))),
            PlaneAnswer::NotListed => ("not-listed", None),
            PlaneAnswer::NotAsked(why) => ("not-asked", Some(why.to_string())),
        };
        let r#type = kind(plane).unwrap_or_default().to_owned();
        ProbePlane { plane, r#type, answer: answer.to_owned(), reason }
    };
    let planes: Vec<ProbePlane> = answers.into_iter().map(of_plane).collect();
    let not_asked = planes.iter().find(|plane| plane.answer == "not-asked");
    ProbeCell {
        exporter: exporter.to_owned(),
        ended_at: not_asked.map(|_| "test".to_owned()),
        reason: not_asked.and_then(|plane| plane.reason.clone()),
        system: false,
        planes,
    }
}

fn cell_text(cell: &ProbeCell) -> String {
    let count = |answer: &str| cell.planes.iter().filter(|plane| plane.answer == answer).count();
    let reason = cell.reason.clone().unwrap_or_default();
    match cell.ended_at.as_deref() {
        Some("test") => "ok ok ?".to_owned(),
        Some("addfb2") => format!("ok {reason}"),
        Some("memory") => format!("no memory: {reason}"),
        Some(_) if cell.system => format!("{reason} (system)"),
        Some(_) => reason,
        None => {
            let (takes, refuses) = (count("takes"), count("refuses"));
            let errno = cell.planes.iter().find(|p| p.answer == "refuses").and_then(|p| p.reason.clone());
            let errno = errno.map(|errno| format!(" ({errno})")).unwrap_or_default();
            if takes + refuses == 0 {
                "ok ok not listed".to_owned()
            } else {
                format!("ok ok {takes}/{}{errno}", takes + refuses)
            }
        }
    }
}

/// The report for people.
fn table(report: &ProbeReport) -> String {
    let mut text = format!("{}: {}", report.node.display(), report.driver);
    match &report.display {
        Some((name, (width, height))) => text += &format!(", {name} {width}x{height}"),
        None => text += ", nothing connected",
    }
    text += &format!("\nPRIME file: {}\n", report.acquisition);
    if let Some(why) = &report.not_asked {
        text += &format!("{why}: `?` below\n");
    }
    text += "Each cell: import, ADDFB2, and how many of the planes that list the pair pass a TEST_ONLY commit.\n\n";
    let mut rows = vec![vec!["size".to_owned(), "format".to_owned(), "modifier".to_owned()]];
    let first = report.rows.first();
    rows[0].extend(first.into_iter().flat_map(|row| row.cells.iter().map(|cell| cell.exporter.clone())));
    for row in &report.rows {
        let size = format!("{}x{}", row.size.0, row.size.1);
        let mut cells = vec![size, row.format.clone(), row.modifier.clone()];
        cells.extend(row.cells.iter().map(cell_text));
        rows.push(cells);
    }
    text + &lay_out(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_read() {
        let nv12 = Question { size: (1920, 1080), format: DrmFourcc::Nv12, modifier: DrmModifier::Linear };
        assert_eq!(parse_spec("1920x1080:NV12:LINEAR"), Ok(nv12));
        assert_eq!(parse_spec("1920x1080:nv12"), Ok(nv12));
        let tiled = Question { modifier: DrmModifier::I915_x_tiled, ..nv12 };
        assert_eq!(parse_spec("1920x1080:NV12:I915_X_TILED"), Ok(tiled));
        assert_eq!(parse_spec("1920x1080:NV12:0x100000000000001"), Ok(tiled));
    }

    #[test]
    fn what_is_no_spec_is_refused_with_the_reason() {
        for (bad, why) in [
            ("", "has no format"),
            ("1920x1080", "has no format"),
            ("0x1080:NV12", "the size is"),
            ("1920x99999:NV12", "the size is"),
            ("1920:NV12", "the size is"),
            ("-1x5:NV12", "the size is"),
            ("64x64:ABCD", "no format that is known"),
            ("64x64:", "no format that is known"),
            ("64x64:NV12:", "no modifier"),
            ("64x64:NV12:0xzz", "no modifier"),
            ("64x64:NV12:WIDE", "no modifier"),
            ("64x64:NV12:LINEAR:1", "too many parts"),
        ] {
            let err = parse_spec(bad).unwrap_err();
            assert!(err.contains(why), "{bad}: {err}");
        }
    }

    #[test]
    fn a_file_has_comments_and_its_bad_line_is_named() {
        let text = "# what we need\n\n64x64:XR24  # small\n 1920x1080:NV12:LINEAR\n";
        assert_eq!(parse_file(text).unwrap().len(), 2);
        let err = parse_file("64x64:XR24\n64:XR24\n").unwrap_err();
        assert!(err.starts_with("line 2: `64:XR24`"), "{err}");
        assert_eq!(parse_file("# nothing\n"), Ok(Vec::new()));
    }

    #[test]
    fn a_cell_says_where_it_ended() {
        let plane = |answer: &str, reason: Option<&str>| ProbePlane {
            plane: NonZeroU32::MIN,
            r#type: "overlay".to_owned(),
            answer: answer.to_owned(),
            reason: reason.map(str::to_owned),
        };
        let cell = |ended_at: Option<&str>, reason: &str, planes: &[ProbePlane]| ProbeCell {
            exporter: "own".to_owned(),
            ended_at: ended_at.map(str::to_owned),
            reason: Some(reason.to_owned()),
            system: false,
            planes: planes.to_vec(),
        };
        let asked = [plane("takes", None), plane("refuses", Some("EINVAL")), plane("not-listed", None)];
        assert_eq!(cell_text(&cell(None, "", &asked)), "ok ok 1/2 (EINVAL)");
        assert_eq!(cell_text(&cell(None, "", &asked[2..])), "ok ok not listed");
        assert_eq!(cell_text(&cell(Some("import"), "ENODEV", &[])), "ENODEV");
        assert_eq!(cell_text(&cell(Some("addfb2"), "EINVAL", &[])), "ok EINVAL");
        assert_eq!(cell_text(&cell(Some("test"), "busy", &[])), "ok ok ?");
    }
}
