//! The independent checker: is a client's buffer really what the display reads?
//!
//! Owns the experiment and its verdict. It believes neither the compositor nor the client: it stops all
//! clients, changes the pixels of one of them behind everybody's back, and looks whether the kernel's CRC of
//! the display changes. A buffer that is scanned out shows the change in the next frame; one that was copied
//! does not, because nobody committed anything. What the compositor claims (control socket) and what the
//! client was told (presentation feedback) must agree with that.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::ctl::{Ctl, Stats};
use crate::debugfs::{CrcReader, DebugDevice, FramebufferState, PlaneState};
use crate::process::{Pixels, Process};

/// Frames without a change that count as a picture at rest: several compositions even on a slow machine.
const REST: u32 = 10;
/// The longest wait for a picture at rest.
const PATIENCE: Duration = Duration::from_secs(10);
/// From this share of zero-copy frames on, a client counts as scanned out by its own feedback.
const MOSTLY: f64 = 0.95;

/// A client to be judged.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What it is called in the findings.
    pub name: String,
    /// Process id.
    pub pid: i32,
    /// Frames presented and frames with ZERO_COPY over the last seconds, as the client was told by
    /// presentation feedback; `None` when it does not ask for feedback.
    pub feedback: Option<(u64, u64)>,
}

/// What the experiment showed for one client.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The client.
    pub name: String,
    /// Process id.
    pub pid: i32,
    /// Whether the display changed when its pixels did, without a commit.
    pub scanned_out: bool,
    /// The plane the compositor claims it is on.
    pub claimed_plane: Option<u32>,
    /// What the kernel has on that plane.
    pub framebuffer: Option<FramebufferState>,
    /// Everything that does not fit together, in words; empty when all agrees.
    pub disagreements: Vec<String>,
}

/// All findings of a run.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// One per subject.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Whether kernel, compositor and clients agree about everything.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.findings.iter().all(|finding| finding.disagreements.is_empty())
    }

    /// The finding for a process.
    #[must_use]
    pub fn of(&self, pid: i32) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.pid == pid)
    }
}

/// Stopped processes; they go on when this is dropped.
struct Stopped<'a>(Vec<&'a Process>);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        for process in &self.0 {
            // It may have been killed meanwhile, which is not our business here.
            process.signal(Signal::CONT).ok();
        }
    }
}

/// Runs the experiment on all `subjects`. Every client of the compositor must be among them, or one that is
/// not may draw and disturb the CRC.
///
/// # Errors
///
/// When the experiment cannot be made: no rights, a client ended, or the picture does not come to rest. A
/// disagreement is not an error but part of the verdict.
pub fn check(device: &DebugDevice, ctl: &Ctl, subjects: &[Subject]) -> Result<Verdict> {
    experiment(device, Some(ctl), subjects)
}

/// The same for a compositor that claims nothing, because it is not ours.
///
/// # Errors
///
/// As [`check`].
pub fn check_kernel(device: &DebugDevice, subjects: &[Subject]) -> Result<Verdict> {
    experiment(device, None, subjects)
}

fn experiment(device: &DebugDevice, ctl: Option<&Ctl>, subjects: &[Subject]) -> Result<Verdict> {
    let processes: Vec<Process> =
        subjects.iter().map(|subject| Process::open(subject.pid)).collect::<Result<_>>()?;
    let mut stopped = Stopped(Vec::new());
    for process in &processes {
        process.signal(Signal::STOP)?;
        stopped.0.push(process);
    }
    let mut display = Display::open(device)?;
    display.rest().context("with all clients stopped")?;
    let stats = ctl.map(Ctl::stats).transpose()?;
    let planes = device.planes()?;
    let mut memory: Vec<Vec<Pixels>> = processes.iter().map(Process::pixels).collect::<Result<_>>()?;
    let card = device.open_node()?;
    let mut findings = Vec::new();
    for (index, subject) in subjects.iter().enumerate() {
        let shared = identities_of_others(&memory, index);
        let mut disagreements = Vec::new();
        if memory[index].is_empty() {
            disagreements.push("it has no memory object that could hold pixels".to_owned());
        }
        if memory[index].iter().any(|pixels| shared.contains(&pixels.identity)) {
            disagreements.push("it shares a buffer with another client".to_owned());
        }
        let scanned_out = display.reacts_to(&mut memory[index]).with_context(|| subject.name.clone())?;
        let foreign = memory[index].iter().all(|pixels| pixels.dmabuf && !pixels.is_native_to(&card));
        let seen = Seen { scanned_out, foreign };
        findings.push(match &stats {
            Some(stats) => judge(subject, seen, stats, &planes, disagreements),
            None => judge_kernel(subject, seen, &planes, disagreements),
        });
    }
    Ok(Verdict { findings })
}

fn identities_of_others(memory: &[Vec<Pixels>], index: usize) -> HashSet<(u64, u64)> {
    let others = memory.iter().enumerate().filter(|(other, _)| *other != index);
    others.flat_map(|(_, pixels)| pixels.iter().map(|pixels| pixels.identity)).collect()
}

/// The CRCs of every CRTC that is on.
struct Display {
    readers: Vec<CrcReader>,
}

impl Display {
    fn open(device: &DebugDevice) -> Result<Display> {
        let active: HashSet<String> = device.planes()?.into_iter().filter_map(|plane| plane.crtc).collect();
        let names: Vec<String> = device.crtcs()?.into_iter().filter(|name| active.contains(name)).collect();
        if names.is_empty() {
            bail!("no CRTC is on");
        }
        Ok(Display { readers: names.iter().map(|name| device.crc(name)).collect::<Result<_>>()? })
    }

    fn rest(&mut self) -> Result<Vec<u32>> {
        self.readers.iter_mut().map(|reader| reader.stable(REST, PATIENCE)).collect()
    }

    /// Inverts the pixels, looks, and puts them back.
    fn reacts_to(&mut self, memory: &mut [Pixels]) -> Result<bool> {
        let before = self.rest()?;
        let inverted = memory.iter_mut().try_for_each(Pixels::invert);
        let during = inverted.and_then(|()| self.rest());
        memory.iter_mut().try_for_each(Pixels::invert).context("cannot put the pixels back")?;
        let (during, after) = (during?, self.rest()?);
        if after != before {
            bail!("the picture changed by itself: {before:08x?} became {after:08x?} with the same pixels");
        }
        Ok(during != before)
    }
}

/// What the kernel showed of a client.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The display changed with its pixels.
    scanned_out: bool,
    /// All its memory came from other devices than the display's.
    foreign: bool,
}

/// What the kernel alone says.
fn judge_kernel(
    subject: &Subject,
    Seen { scanned_out, foreign }: Seen,
    planes: &[PlaneState],
    mut disagreements: Vec<String>,
) -> Finding {
    let imported = |plane: &PlaneState| plane.framebuffer.as_ref().is_some_and(|fb| fb.imported);
    if scanned_out && foreign && !planes.iter().any(imported) {
        disagreements.push("no plane has an imported buffer, but the client's is".to_owned());
    }
    Finding {
        name: subject.name.clone(),
        pid: subject.pid,
        scanned_out,
        claimed_plane: None,
        framebuffer: None,
        disagreements,
    }
}

fn judge(
    subject: &Subject,
    Seen { scanned_out, foreign }: Seen,
    stats: &Stats,
    planes: &[PlaneState],
    mut disagreements: Vec<String>,
) -> Finding {
    let surface = stats
        .surfaces(subject.pid)
        .into_iter()
        .find(|surface| surface.plane.is_some())
        .or_else(|| stats.surface(subject.pid));
    let claimed_plane = surface.and_then(|surface| surface.plane);
    let kernel = claimed_plane.and_then(|id| planes.iter().find(|plane| plane.id == id));
    let framebuffer = kernel.and_then(|plane| plane.framebuffer.clone());
    match (surface, claimed_plane) {
        (None, _) => disagreements.push("the compositor does not list it".to_owned()),
        (Some(_), Some(id)) if !scanned_out => {
            disagreements
                .push(format!("the compositor claims plane {id}, but the display does not read its buffer"));
        }
        (Some(_), None) if scanned_out => {
            disagreements.push("the display reads its buffer, but the compositor claims no plane".to_owned());
        }
        _ => {}
    }
    if let Some(id) = claimed_plane {
        compare_plane(
            id,
            stats,
            framebuffer.as_ref(),
            surface.and_then(|s| s.format.as_deref()),
            &mut disagreements,
        );
    }
    // A compositor that copies in every frame shows the change too, but from a buffer of its own.
    if foreign
        && let Some(framebuffer) = &framebuffer
        && !framebuffer.imported
    {
        disagreements
            .push(format!("framebuffer {} is no imported buffer, but the client's is", framebuffer.id));
    }
    let told = match (subject.feedback, surface) {
        (Some((presented, zero_copy)), _) if presented > 0 => {
            Some(("presentation feedback", presented, zero_copy))
        }
        (_, Some(surface)) if subject.feedback.is_none() && surface.frames_presented > 0 => {
            Some(("the compositor's count", surface.frames_presented, surface.frames_zero_copy))
        }
        _ => None,
    };
    if let Some((who, presented, zero_copy)) = told {
        let share = zero_copy as f64 / presented as f64;
        if scanned_out && zero_copy == 0 {
            disagreements.push(format!("the display reads its buffer, but {who} never said ZERO_COPY"));
        }
        if !scanned_out && share >= MOSTLY {
            disagreements
                .push(format!("{who} says ZERO_COPY for {zero_copy} of {presented}, but pixels are copied"));
        }
    }
    Finding {
        name: subject.name.clone(),
        pid: subject.pid,
        scanned_out,
        claimed_plane,
        framebuffer,
        disagreements,
    }
}

fn compare_plane(
    id: u32,
    stats: &Stats,
    framebuffer: Option<&FramebufferState>,
    format: Option<&str>,
    disagreements: &mut Vec<String>,
) {
    let claimed = stats.plane(id).and_then(|plane| plane.fb);
    let Some(framebuffer) = framebuffer else {
        disagreements.push(format!("the compositor claims plane {id}, but the kernel has nothing on it"));
        return;
    };
    if claimed.is_some_and(|fb| fb != framebuffer.id) {
        disagreements.push(format!(
            "plane {id}: the compositor says framebuffer {claimed:?}, the kernel {}",
            framebuffer.id
        ));
    }
    // An opaque region lets AR24 be shown as XR24: the same bytes without the alpha.
    let same = |a: &str, b: &str| {
        a == b
            || (a.len() == 4
                && b.len() == 4
                && a[1..] == b[1..]
                && "AX".contains(&a[..1])
                && "AX".contains(&b[..1]))
    };
    if let Some(format) = format
        && !same(format, &framebuffer.format)
    {
        disagreements
            .push(format!("plane {id}: the buffer is {format}, the kernel shows {}", framebuffer.format));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(plane: Option<u32>, zero_copy: u64) -> Stats {
        let plane_id = plane.map_or("null".to_owned(), |id| id.to_string());
        serde_json::from_str(&format!(
            r#"{{"outputs":[{{"name":"V","planes":[{{"id":40,"fb":71,"content":"client","surface":7}}]}}],
                "clients":[{{"pid":12,"surfaces":[{{"surface":7,"role":"toplevel","format":"AR24","plane":{plane_id},
                "frames_presented":100,"frames_zero_copy":{zero_copy}}}]}}]}}"#
        ))
        .unwrap()
    }

    fn planes(format: &str) -> Vec<PlaneState> {
        let framebuffer = FramebufferState {
            id: 71,
            format: format.to_owned(),
            imported: true,
            ..FramebufferState::default()
        };
        vec![PlaneState { id: 40, framebuffer: Some(framebuffer), ..PlaneState::default() }]
    }

    fn subject(feedback: Option<(u64, u64)>) -> Subject {
        Subject { name: "c".into(), pid: 12, feedback }
    }

    fn seen(scanned_out: bool) -> Seen {
        Seen { scanned_out, foreign: true }
    }

    #[test]
    fn a_copy_in_every_frame_is_caught() {
        let mut planes = planes("XR24");
        planes[0].framebuffer.as_mut().unwrap().imported = false;
        let judge = |foreign| {
            let seen = Seen { scanned_out: true, foreign };
            judge(&subject(None), seen, &stats(Some(40), 100), &planes, Vec::new()).disagreements
        };
        assert!(judge(true)[0].contains("no imported buffer"));
        assert!(judge(false).is_empty());
    }

    #[test]
    fn without_claims_the_kernel_must_have_an_imported_buffer() {
        let mut planes = planes("XR24");
        let judge = |planes: &[PlaneState], scanned_out| {
            judge_kernel(&subject(None), seen(scanned_out), planes, Vec::new()).disagreements
        };
        assert!(judge(&planes, true).is_empty());
        planes[0].framebuffer.as_mut().unwrap().imported = false;
        assert!(judge(&planes, true)[0].contains("no plane has an imported buffer"));
        assert!(judge(&planes, false).is_empty());
    }

    fn complaints(scanned_out: bool, plane: Option<u32>, feedback: Option<(u64, u64)>) -> Vec<String> {
        let all = if plane.is_some() { 100 } else { 0 };
        judge(&subject(feedback), seen(scanned_out), &stats(plane, all), &planes("XR24"), Vec::new())
            .disagreements
    }

    #[test]
    fn agreement_is_silent() {
        assert!(complaints(true, Some(40), Some((60, 60))).is_empty());
        assert!(complaints(true, Some(40), None).is_empty());
        assert!(complaints(false, None, Some((60, 0))).is_empty());
    }

    #[test]
    fn a_copy_that_claims_a_plane_is_caught_twice() {
        let found = complaints(false, Some(40), Some((60, 60)));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("does not read its buffer"));
        assert!(found[1].contains("pixels are copied"));
    }

    #[test]
    fn a_scanout_that_is_not_told_is_caught() {
        let found = complaints(true, None, Some((60, 0)));
        assert!(found.iter().any(|text| text.contains("claims no plane")));
        assert!(found.iter().any(|text| text.contains("never said ZERO_COPY")));
    }

    #[test]
    fn another_format_on_the_plane_is_caught() {
        let finding = judge(&subject(None), seen(true), &stats(Some(40), 100), &planes("NV12"), Vec::new());
        assert!(finding.disagreements[0].contains("NV12"), "{finding:?}");
    }

    #[test]
    fn an_empty_plane_is_caught() {
        let finding = judge(&subject(None), seen(true), &stats(Some(40), 100), &[], Vec::new());
        assert!(finding.disagreements[0].contains("nothing on it"), "{finding:?}");
    }
}
