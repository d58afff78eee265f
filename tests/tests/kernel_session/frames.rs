//! What a frame costs: the system calls of primeway while a full-screen client is scanned out.
//!
//! Owns the reading of strace's output. The evidence for a presented frame is the kernel's flip event.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use evdev::{EventType, InputEvent, RelativeAxisCode};
use primeway_tests::process::Process;
use primeway_tests::session::{RunningClient, artefacts};
use rustix::process::Signal;

use crate::desktop::{Desktop, Launch, PATIENCE};

/// How many frames are recorded, by the client's count.
const FRAMES: u64 = 60;
/// Bytes of a flip event (`struct drm_event_vblank`).
const FLIP_EVENT: u64 = 32;

/// What a recording holds.
#[derive(Debug, Default)]
struct Recording {
    calls: u64,
    /// Flip events read from the display device.
    flips: u64,
    /// Every ioctl, as strace writes it, with the number of flips before it.
    ioctls: Vec<(u64, String)>,
    /// Looks at the fences of buffers.
    polls: u64,
    /// Registrations of buffers or fences with the event loop.
    watched: u64,
    /// Mappings of buffers, and questions about their file system.
    looks: u64,
    /// Events read from input devices, or looks at them.
    input: u64,
    /// Calls that calloop makes around each wait of its own.
    detours: u64,
}

impl Recording {
    fn parse(text: &str) -> Recording {
        let mut recording = Recording::default();
        for line in text.lines() {
            // PID NAME(ARGUMENTS) = RESULT
            let Some((_, call)) = line.trim_start().split_once(' ') else { continue };
            let call = call.trim_start();
            let Some((name, _)) = call.split_once('(') else { continue };
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            recording.calls += 1;
            let of_buffer = call.contains("dmabuf:") || call.contains("sync_file");
            recording.polls += u64::from(of_buffer && matches!(name, "poll" | "ppoll"));
            recording.looks += u64::from(of_buffer && matches!(name, "mmap" | "fstatfs"));
            recording.input += u64::from(name == "read" && call.contains("</dev/input/event"));
            recording.detours += u64::from(name == "timerfd_settime");
            recording.watched += u64::from(of_buffer && name == "epoll_ctl");
            if name == "read" && call.contains("</dev/dri/card") {
                let bytes = call.rsplit_once(" = ").and_then(|(_, result)| result.trim().parse::<u64>().ok());
                recording.flips += bytes.unwrap_or(0) / FLIP_EVENT;
            } else if name == "ioctl" {
                recording.ioctls.push((recording.flips, call.to_owned()));
            }
        }
        recording
    }
}

/// Records `pid` while `client` is shown [`FRAMES`] frames. The client is asked, because asking the compositor would
/// be recorded.
fn record(pid: i32, client: &RunningClient, file: &Path) -> Result<Recording> {
    let presented = || client.counts().map(|report| report.presented).context("the client does not count");
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut strace = Command::new("strace")
        .args(["-f", "-y", "-p", &pid.to_string(), "-o"])
        .arg(file)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start strace: apt install strace")?;
    let waited = presented().and_then(|before| {
        while presented()? < before + FRAMES && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    });
    // Whatever happened, it must not stay attached.
    let detached = Process::open(strace.id() as i32).and_then(|process| process.signal(Signal::TERM));
    strace.wait().context("cannot wait for strace")?;
    waited.and(detached)?;
    let text = std::fs::read_to_string(file).with_context(|| format!("no {}", file.display()))?;
    Ok(Recording::parse(&text))
}

/// In the steady state the only ioctl is the commit of each frame, and fences are looked at once for each: for a
/// full-screen client, for one that wraps its memory in a new wl_buffer for each frame, and for a window on an overlay plane
/// above a desktop at rest.
pub fn one_ioctl_per_frame() -> Result<()> {
    let mut desktop = Launch::new("frames")?.start()?;
    one_ioctl_for(&mut desktop, "full screen", &["--fullscreen"], 60.0)?;
    one_ioctl_for(&mut desktop, "new buffers", &["--fullscreen", "--new-buffer-each-frame"], 90.0)?;
    one_ioctl_for(&mut desktop, "overlay", &["--format", "NV12", "--alloc", "udmabuf"], 60.0)
}

/// What a mouse costs that moves eight times as often as the display shows it, over a full-screen client: one commit for
/// each frame all the same, and each movement is read without a detour.
pub fn a_moving_mouse_costs_no_commits() -> Result<()> {
    let mut desktop = Launch::new("mouse")?.start()?;
    let mut mouse = primeway_tests::mouse::mouse()?;
    let client = desktop.client("mouse", &["--fullscreen"])?;
    desktop.wait_frames(&client, 60)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let mover = std::thread::spawn(move || -> Result<()> {
        let steps = [3, -3].into_iter().flat_map(|step| std::iter::repeat_n(step, 50)).cycle();
        for step in steps.take_while(|_| !stopped.load(Ordering::Relaxed)) {
            let event = InputEvent::new(EventType::RELATIVE.0, RelativeAxisCode::REL_X.0, step);
            mouse.emit(&[event]).context("uinput")?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    });
    let recording = record(desktop.pid(), &client, &artefacts().join("mouse.strace"));
    stop.store(true, Ordering::Relaxed);
    mover.join().map_err(|_| anyhow!("the mouse's thread panicked"))??;
    let Recording { calls, flips, ref ioctls, input, detours, .. } = recording?;
    println!("a_moving_mouse_costs_no_commits: {flips} frames, {input} reads of the mouse, {calls} calls");
    ensure!(input > flips, "{input} reads of the mouse in {flips} frames");
    let commits = ioctls.iter().filter(|(_, call)| call.contains("DRM_IOCTL_MODE_ATOMIC")).count();
    ensure!(commits.abs_diff(flips as usize) <= 1, "{commits} commits for {flips} frames");
    // The signal that ends strace, a timer of the frame clock: nothing that comes with each movement.
    ensure!(detours * 10 <= input, "{detours} detours through calloop for {input} reads of the mouse");
    Ok(())
}

fn one_ioctl_for(desktop: &mut Desktop, name: &str, arguments: &[&str], most: f64) -> Result<()> {
    let client = desktop.client(name, arguments)?;
    let surface = desktop.wait_frames(&client, 60)?;
    ensure!(surface.plane.is_some(), "not scanned out: {:?}", surface.reason);
    let before = desktop.stats()?;
    let recording =
        record(desktop.pid(), &client, &artefacts().join(format!("{}.strace", name.replace(' ', "-"))))?;
    let after = desktop.wait_frames(&client, surface.frames_presented)?;
    let shown =
        after.frames_presented - before.surface(client.pid()).map_or(0, |surface| surface.frames_presented);
    let Recording { calls, flips, ref ioctls, polls, watched, looks, .. } = recording;
    ensure!(flips >= FRAMES / 2, "only {flips} frames recorded, {shown} shown meanwhile");
    ensure!(flips <= shown, "the kernel counts {flips} frames, primeway {shown}");
    let foreign: Vec<_> = ioctls.iter().filter(|(_, call)| !call.contains("DRM_IOCTL_MODE_ATOMIC")).collect();
    ensure!(foreign.is_empty(), "ioctls beside the commits: {foreign:#?}");
    // Between two flips there is exactly one commit; the recording may start and end between the two.
    for flip in 1..flips {
        let commits = ioctls.iter().filter(|(before, _)| *before == flip).count();
        ensure!(commits == 1, "{commits} commits between flips {flip} and {}", flip + 1);
    }
    // One look at all planes of a commit, and the recording may begin or end between it and the frame's commit.
    ensure!(looks == 0, "{looks} mappings and questions about buffers that are known");
    ensure!(watched == 0, "{watched} registrations of buffers whose fences have signalled");
    ensure!(polls > 0 && polls <= flips + 2, "{polls} looks at fences in {flips} frames");
    let per_frame = calls as f64 / flips as f64;
    println!(
        "one_ioctl_per_frame: {name}: {flips} frames presented, {} ioctls, {polls} looks at fences, {per_frame:.1} system \
         calls per frame",
        ioctls.len()
    );
    ensure!(ioctls.len().abs_diff(flips as usize) <= 1, "{} ioctls for {flips} frames", ioctls.len());
    // An empty event loop with one client costs 17 to 22 calls a frame. On a busy machine requests and events come one
    // by one, each with its own turn of the loop: up to 41 were seen, and 56 with a new buffer. Much more is a regression.
    ensure!(per_frame < most, "{per_frame:.1} system calls per frame");
    drop(client);
    desktop.wait_stats("the end of its window", |stats| stats.clients.is_empty())?;
    Ok(())
}
