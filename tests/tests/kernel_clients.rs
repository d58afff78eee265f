//! How the compositor treats clients on the lab's kernel: zero-copy that is proven, buffers that lie, and
//! nothing left behind.
//!
//! Owns the cases about behaviour and resources; what the pictures look like is in `kernel_picture`. Each case
//! starts its own primeway.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::bench::scenario::DISPLAY;
use primeway_tests::check::{Subject, Verdict, check};
use primeway_tests::client::Report;
use primeway_tests::client::bad::{self, BadCase};
use primeway_tests::ctl::{Resources, Stats};
use primeway_tests::debugfs::{DebugDevice, dmabufs};
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::process::Process;
use primeway_tests::session::{Compositor, RunningClient, sibling_program};

const CASES: &[Case] = &[
    ("full_screen_is_zero_copy", full_screen_is_zero_copy),
    ("new_buffer_each_frame_is_zero_copy", new_buffer_each_frame_is_zero_copy),
    ("buffers_that_take_turns_stay_mapped", buffers_that_take_turns_stay_mapped),
    ("version_3_with_invalid_modifier_is_zero_copy", version_3_with_invalid_modifier_is_zero_copy),
    ("weston_simple_dmabuf_egl_is_zero_copy", weston_simple_dmabuf_egl_is_zero_copy),
    ("checker_agrees_for_planes_and_copies", checker_agrees_for_planes_and_copies),
    ("checker_fails_a_copying_build", checker_fails_a_copying_build),
    ("lying_buffers_get_the_right_error", lying_buffers_get_the_right_error),
    ("buffer_churn_leaves_nothing_behind", buffer_churn_leaves_nothing_behind),
    ("client_death_leaves_nothing_behind", client_death_leaves_nothing_behind),
    ("demo_passes_for_an_unprivileged_user", demo_passes_for_an_unprivileged_user),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

/// Runs a client to its end and returns its report.
fn run_client(compositor: &mut Compositor, name: &str, arguments: &[&str]) -> Result<Report> {
    let mut client = RunningClient::start_test_client(&compositor.display, name, arguments)?;
    let status = client.wait_end(Duration::from_secs(600))?;
    compositor.check_alive()?;
    let report = client.counts().with_context(|| format!("no report: {}", client.output()))?;
    ensure!(status.success() && report.errors.is_empty(), "{name} failed ({status}): {}", client.output());
    Ok(report)
}

/// At least 95 % zero-copy, and frames at the rate of the display.
fn ensure_zero_copy(name: &str, report: &Report, wanted_frames: u64) -> Result<()> {
    ensure!(
        report.presented >= wanted_frames,
        "{name}: only {} frames presented: {report:?}",
        report.presented
    );
    let percent = report.zero_copy_percent();
    ensure!(percent >= 95.0, "{name}: {percent:.1} % zero-copy: {report:?}");
    Ok(())
}

fn full_screen_is_zero_copy() -> Result<()> {
    let mut compositor = Compositor::start("full-screen", &[])?;
    for format in ["XR24", "AR24", "NV12"] {
        let report =
            run_client(&mut compositor, format, &["--fullscreen", "--format", format, "--frames", "90"])?;
        ensure_zero_copy(format, &report, 80)?;
    }
    Ok(())
}

fn new_buffer_each_frame_is_zero_copy() -> Result<()> {
    let mut compositor = Compositor::start("new-buffers", &[])?;
    let report =
        run_client(&mut compositor, "new", &["--fullscreen", "--new-buffer-each-frame", "--frames", "90"])?;
    ensure_zero_copy("new buffers", &report, 80)?;
    ensure!(report.buffers_created >= 90, "{report:?}");
    Ok(())
}

/// Buffers that composition has at most: on screen, pending, being drawn, one to spare.
const COMPOSED: usize = 4;

/// Planes that hold a buffer beside the picture.
fn out_of_sight() -> Result<usize> {
    let planes = DebugDevice::of_driver("vkms")?.planes()?;
    Ok(planes.iter().filter(|plane| plane.is_out_of_sight(DISPLAY)).count())
}

/// The kernel's mappings of pictures for the CPU.
fn mappings() -> Result<Vec<String>> {
    let all = std::fs::read_to_string("/proc/vmallocinfo").context("/proc/vmallocinfo")?;
    let pictures = |line: &&str| {
        line.ends_with(" vmap") && (line.contains("heap_vmap+") || line.contains("gem_shmem_vmap"))
    };
    let mut lines: Vec<String> = all.lines().filter(pictures).map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

/// vkms finds the mapping of a buffer that was shown before: planes that show nothing hold them, out of sight, as long as they
/// come again.
fn buffers_that_take_turns_stay_mapped() -> Result<()> {
    let mut compositor = Compositor::start("mapped", &[])?;
    for (name, arguments) in [
        ("heap", &["--fullscreen", "--alloc", "heap"][..]),
        ("new", &["--fullscreen", "--alloc", "heap", "--new-buffer-each-frame"]),
        ("shm", &["--alloc", "shm", "--size", "300x200"]),
    ] {
        let client = RunningClient::start_test_client(&compositor.display, name, arguments)?;
        let pid = client.pid();
        let presented = |stats: &Stats| stats.surface(pid).map_or(0, |surface| surface.frames_presented);
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut mapped, mut since) = (Vec::new(), 0);
        loop {
            compositor.check_alive()?;
            // Mapped anew, a picture is at another address, or not at all for a while.
            let (now, shown) = (mappings()?, presented(&compositor.ctl.stats()?));
            if now != mapped {
                (mapped, since) = (now, shown);
            } else if shown >= since + 60 {
                break;
            }
            ensure!(Instant::now() < deadline, "{name}: mapped again and again: {mapped:#?}");
        }
        ensure!(mapped.len() >= 2 && out_of_sight()? >= 1, "{name}: {mapped:#?}");
        drop(client);
        held(&compositor)?;
        let after = mappings()?;
        ensure!(after.len() <= COMPOSED, "{name}: no more than pictures of the desktop: {after:#?}");
    }
    Ok(())
}

fn version_3_with_invalid_modifier_is_zero_copy() -> Result<()> {
    let mut compositor = Compositor::start("version-3", &[])?;
    let arguments =
        ["--dmabuf-version", "3", "--modifier", "invalid", "--create", "--y-invert", "--frames", "90"];
    let report = run_client(&mut compositor, "v3", &arguments)?;
    ensure_zero_copy("version 3, INVALID, Y_INVERT", &report, 80)
}

fn weston_simple_dmabuf_egl_is_zero_copy() -> Result<()> {
    let mut compositor = Compositor::start("weston-client", &[])?;
    let card = format!("-d{}", compositor.ctl.stats()?.device.card()?.display());
    let program = std::path::Path::new("/usr/bin/weston-simple-dmabuf-egl");
    let client = RunningClient::start(&compositor.display, "simple-dmabuf-egl", program, &[&card])?;
    let pid = client.pid();
    let stats = compositor
        .wait_stats("100 frames", Duration::from_secs(30), |stats| {
            stats.surface(pid).is_some_and(|surface| surface.frames_presented >= 100)
        })
        .with_context(|| client.output())?;
    let surface = stats.surface(pid).context("no surface")?;
    let percent = 100.0 * surface.frames_zero_copy as f64 / surface.frames_presented as f64;
    ensure!(percent >= 95.0, "{percent:.1} % zero-copy: {surface:?}");
    let verdict = judge(&compositor, &[&client])?;
    ensure!(verdict.is_consistent() && verdict.findings[0].scanned_out, "{verdict:#?}");
    Ok(())
}

/// Runs the checker on clients, with the feedback each had so far.
fn judge(compositor: &Compositor, clients: &[&RunningClient]) -> Result<Verdict> {
    let subjects: Vec<Subject> = clients
        .iter()
        .map(|client| Subject {
            name: client.name.clone(),
            pid: client.pid(),
            feedback: client.counts().map(|report| (report.presented, report.zero_copy)),
        })
        .collect();
    check(&DebugDevice::of_driver("vkms")?, &compositor.ctl, &subjects)
}

/// The CRC changes for clients on planes, and only for them.
fn checker_agrees_for_planes_and_copies() -> Result<()> {
    let compositor = Compositor::start("checker", &[])?;
    let mut clients = Vec::new();
    let kinds = [
        ("vgem XR24", "vgem", "XR24"),
        ("udmabuf AR24", "udmabuf", "AR24"),
        ("heap NV12", "heap", "NV12"),
        ("shm XR24", "shm", "XR24"),
    ];
    for (name, allocator, format) in kinds {
        let arguments = ["--alloc", allocator, "--format", format, "--size", "200x200"];
        let mut client = RunningClient::start_test_client(&compositor.display, name, &arguments)?;
        client.wait_presented(Duration::from_secs(10))?;
        clients.push(client);
    }
    std::thread::sleep(Duration::from_secs(1));
    let verdict = judge(&compositor, &clients.iter().collect::<Vec<_>>())?;
    ensure!(verdict.is_consistent(), "{verdict:#?}");
    for (finding, (name, allocator, _)) in verdict.findings.iter().zip(kinds) {
        ensure!(finding.scanned_out == (allocator != "shm"), "{name}: {finding:#?}");
    }
    // Stopped and changed behind its back, it must go on as if nothing had been.
    let before = clients[0].counts().context("no counts")?;
    std::thread::sleep(Duration::from_secs(1));
    let after = clients[0].counts().context("no counts")?;
    ensure!(after.presented > before.presented, "the client did not go on: {before:?} {after:?}");
    Ok(())
}

fn checker_fails_a_copying_build() -> Result<()> {
    let compositor = Compositor::start("copying", &[("PRIMEWAY_TEST_COPY", "1")])?;
    let mut client = RunningClient::start_test_client(&compositor.display, "copied", &["--size", "300x200"])?;
    client.wait_presented(Duration::from_secs(10))?;
    std::thread::sleep(Duration::from_secs(1));
    let report = client.counts().context("no counts")?;
    ensure!(report.zero_copy_percent() >= 95.0, "the test switch should claim zero-copy: {report:?}");
    let verdict = judge(&compositor, &[&client])?;
    ensure!(!verdict.is_consistent(), "the checker was fooled: {verdict:#?}");
    ensure!(!verdict.findings[0].scanned_out, "the pixels are not copied: {verdict:#?}");
    Ok(())
}

/// Each lie ends its own client with the XML's error; a neighbour goes on drawing.
fn lying_buffers_get_the_right_error() -> Result<()> {
    let mut compositor = Compositor::start("lies", &[])?;
    let mut neighbour =
        RunningClient::start_test_client(&compositor.display, "neighbour", &["--size", "200x200"])?;
    neighbour.wait_presented(Duration::from_secs(10))?;
    let program = sibling_program("primeway-test-client")?;
    let mut wrong = Vec::new();
    for case in bad::ALL {
        let name = bad_name(*case);
        let mut liar = RunningClient::start(&compositor.display, &name, &program, &["--bad", &name])?;
        let status = liar.wait_end(Duration::from_secs(20))?;
        compositor.check_alive().with_context(|| name.clone())?;
        if !status.success() {
            wrong.push(format!("{name}: {}", liar.output().trim()));
        }
    }
    ensure!(wrong.is_empty(), "wrong answers:\n{}", wrong.join("\n"));
    let before = neighbour.counts().context("no counts")?.presented;
    std::thread::sleep(Duration::from_secs(1));
    let after = neighbour.counts().context("no counts")?.presented;
    ensure!(
        neighbour.is_running() && after > before + 20,
        "the neighbour stalled: {before} then {after} frames"
    );
    Ok(())
}

fn bad_name(case: BadCase) -> String {
    use clap::ValueEnum;
    case.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What the kernel counts for the compositor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    fds: usize,
    framebuffers: usize,
    dmabufs: usize,
    claimed: Resources,
}

/// Counts once the compositor has let go of what clients left.
fn held(compositor: &Compositor) -> Result<Held> {
    // What planes hold out of sight they hold no longer.
    std::thread::sleep(Duration::from_secs(1));
    let fds = Process::open(compositor.pid())?.open_files()?;
    // First of all: it counts what is open, also for those who have asked.
    let claimed = compositor.ctl.stats()?.resources;
    let (framebuffers, dmabufs) = (compositor.framebuffers_of_others()?, dmabufs()?);
    let gem_handles = compositor.ctl.ledger()?.others_handles() as u64;
    let claimed = Resources { gem_handles, ..claimed };
    Ok(Held { fds, framebuffers, dmabufs, claimed })
}

fn buffer_churn_leaves_nothing_behind() -> Result<()> {
    // The long form is for a release; the short one sees the same leak, only fewer times.
    let cycles = if std::env::var_os("PRIMEWAY_LONG").is_some() { "100000" } else { "5000" };
    let mut compositor = Compositor::start("churn", &[])?;
    run_client(&mut compositor, "warm-up", &["--churn", "64"])?;
    let before = held(&compositor)?;
    for format in ["XR24", "NV12"] {
        let report = run_client(&mut compositor, format, &["--churn", cycles, "--format", format])?;
        ensure!(report.buffers_created.to_string() == cycles, "{report:?}");
    }
    let after = held(&compositor)?;
    ensure!(before == after, "{cycles} cycles left something: before {before:?}, after {after:?}");
    Ok(())
}

fn client_death_leaves_nothing_behind() -> Result<()> {
    let mut compositor = Compositor::start("deaths", &[])?;
    run_client(&mut compositor, "warm-up", &["--frames", "20"])?;
    let before = held(&compositor)?;
    for round in 0..10 {
        let mut client = RunningClient::start_test_client(&compositor.display, "victim", &[])?;
        client.wait_presented(Duration::from_secs(10)).with_context(|| format!("round {round}"))?;
        // Dropping it kills it in the middle of its loop.
        drop(client);
        compositor.check_alive()?;
    }
    let after = held(&compositor)?;
    ensure!(before == after, "ten dead clients left something: before {before:?}, after {after:?}");
    Ok(())
}

/// The last case: it closes the card nodes to everybody but root.
fn demo_passes_for_an_unprivileged_user() -> Result<()> {
    ensure!(primeway_tests::demo::run(Some(1000))?, "the demo says what was wrong");
    Ok(())
}
