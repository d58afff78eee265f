//! Debian sid's clients on primeway, in the sid guest: they speak newer protocol versions than the host's.
//!
//! Owns what these clients must see and show; what the guest itself promises is in `sid_lab`. Each case starts its own
//! primeway. Mesa there has no GPU either: clients that need EGL get it from llvmpipe on the card node.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use primeway_tests::ctl::Surface;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::screen::Screen;
use primeway_tests::session::{Compositor, RunningClient, artefacts};
use primeway_tests::stage::note_figure;
use rustix::process::{Pid, Signal, kill_process};

const CASES: &[Case] = &[
    ("simple_dmabuf_feedback_follows_the_tranches", simple_dmabuf_feedback_follows_the_tranches),
    ("simple_dmabuf_egl_on_the_display_is_zero_copy", || simple_dmabuf_egl("vkms")),
    ("simple_dmabuf_egl_on_another_device_is_zero_copy", || simple_dmabuf_egl("vgem")),
    ("presentation_shm_gets_feedback", presentation_shm_gets_feedback),
    ("simple_egl_draws", || draws("weston-simple-egl", 30)),
    ("foot_draws", || draws("foot", 1)),
    ("weston_terminal_draws", || draws("weston-terminal", 1)),
];

/// How long a client may take to what is wanted of it.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

/// Starts a program of the distribution, with its requests and events in its log.
fn start(compositor: &Compositor, program: &str, arguments: &[&str]) -> Result<RunningClient> {
    let path = format!("/usr/bin/{program}");
    let mut all = vec!["WAYLAND_DEBUG=1", &path];
    all.extend_from_slice(arguments);
    RunningClient::start(&compositor.display, program, Path::new("/usr/bin/env"), &all)
}

/// The window of a client once it has presented so many frames.
fn wait_frames(compositor: &mut Compositor, client: &RunningClient, frames: u64) -> Result<Surface> {
    let pid = client.pid();
    let what = format!("frame {frames} of {}", client.name);
    let stats = compositor.wait_stats(&what, PATIENCE, |stats| {
        stats.surface(pid).is_some_and(|surface| surface.frames_presented >= frames)
    });
    let stats = stats.with_context(|| last_lines(client))?;
    ensure_no_error(client)?;
    stats.surface(pid).cloned().context("its window has gone")
}

fn last_lines(client: &RunningClient) -> String {
    let text = client.output();
    let lines: Vec<&str> = text.lines().collect();
    format!("{} said last:\n{}", client.name, lines[lines.len().saturating_sub(12)..].join("\n"))
}

/// The server raised no protocol error.
fn ensure_no_error(client: &RunningClient) -> Result<()> {
    let text = client.output();
    let error = text.lines().find(|line| line.contains("wl_display") && line.contains(".error("));
    ensure!(error.is_none(), "{}: {error:?}", client.name);
    Ok(())
}

fn ensure_zero_copy(client: &RunningClient, surface: &Surface) -> Result<()> {
    let percent = 100.0 * surface.frames_zero_copy as f64 / surface.frames_presented as f64;
    ensure!(surface.plane.is_some() && percent >= 95.0, "{}: {percent:.1} %: {surface:?}", client.name);
    note_figure(&format!("sid's {}: {percent:.1} % of {} zero-copy", client.name, surface.frames_presented))
}

/// The client picks XRGB8888 from the first feedback of its surface, which must have no scanout tranche, and then another
/// format from the scanout tranche of the next one; its own assertions end it when the feedback is anything else.
fn simple_dmabuf_feedback_follows_the_tranches() -> Result<()> {
    const END: &str = "end of dma-buf feedback";
    let mut compositor = Compositor::start("sid-feedback", &[])?;
    let client = start(&compositor, "weston-simple-dmabuf-feedback", &[])?;
    let surface = wait_frames(&mut compositor, &client, 60)?;
    let text = client.output();
    let version = bound_version(&text).context("it did not bind linux-dmabuf")?;
    ensure!(version >= 4, "it bound linux-dmabuf at version {version}");
    let node = compositor.ctl.stats()?.device.card()?.display().to_string();
    let scanout = format!("tranche: target device {node}, scanout");
    let (first, later) = text.split_once(END).context("it read no feedback")?;
    ensure!(!first.contains(&scanout), "a scanout tranche at first:\n{first}");
    ensure!(later.contains(END), "only one feedback:\n{}", last_lines(&client));
    let (renderer, main) =
        (format!("tranche: target device {node}, no flags"), format!("feedback: main device {node}"));
    for (part, wanted) in [
        (first, ".format_table(fd "),
        (first, main.as_str()),
        (first, renderer.as_str()),
        (first, "format XRGB8888, modifier LINEAR"),
        (later, scanout.as_str()),
        (later, "format ARGB8888, modifier LINEAR"),
        (later, renderer.as_str()),
    ] {
        ensure!(part.contains(wanted), "it did not read {wanted:?}:\n{part}");
    }
    ensure!(surface.format.as_deref() == Some("AR24"), "it did not take the scanout format: {surface:?}");
    ensure_zero_copy(&client, &surface)?;
    // It ends by itself after some more frames, but not always well: once it hung when its window was already destroyed.
    compositor.check_alive()
}

/// Ends a client as its user does from a terminal; it must end well.
fn interrupt(client: &mut RunningClient) -> Result<()> {
    kill_process(Pid::from_raw(client.pid()).context("its process id")?, Signal::INT).context("SIGINT")?;
    let status = client.wait_end(PATIENCE)?;
    ensure!(status.success(), "it ended with {status}: {}", last_lines(client));
    ensure_no_error(client)
}

/// The version in `-> wl_registry#2.bind(10, "zwp_linux_dmabuf_v1", 4, new id ...`.
fn bound_version(log: &str) -> Option<u32> {
    let line =
        log.lines().find(|line| line.contains(".bind(") && line.contains("\"zwp_linux_dmabuf_v1\""))?;
    line.split("\"zwp_linux_dmabuf_v1\", ").nth(1)?.split(',').next()?.parse().ok()
}

/// Buffers of the display's own device and of another one reach a plane.
fn simple_dmabuf_egl(driver: &str) -> Result<()> {
    let mut compositor = Compositor::start(&format!("sid-egl-{driver}"), &[])?;
    let card = format!("-d{}", DrmNode::of_driver(driver)?.path().display());
    let client = start(&compositor, "weston-simple-dmabuf-egl", &[&card])?;
    let surface = wait_frames(&mut compositor, &client, 100)?;
    ensure!(surface.format.as_deref() == Some("XR24"), "{surface:?}");
    ensure_zero_copy(&client, &surface)?;
    compositor.check_alive()
}

/// It prints a line for each feedback, and ends with status 0 when it is interrupted.
fn presentation_shm_gets_feedback() -> Result<()> {
    let mut compositor = Compositor::start("sid-presentation", &[])?;
    let mut client = start(&compositor, "weston-presentation-shm", &[])?;
    let surface = wait_frames(&mut compositor, &client, 60)?;
    ensure!(surface.frames_zero_copy == 0, "wl_shm cannot be zero-copy: {surface:?}");
    interrupt(&mut client)?;
    let text = client.output();
    // Lines such as `2: f2c  2 ms, c2p 26 ms, f2p 28 ms, p2p 16666 us, t2p  26040, [sce_], seq 1068`.
    let periods: Vec<u32> = text.lines().filter_map(period).collect();
    ensure!(periods.len() >= 50, "only {} feedbacks of 60 frames: {}", periods.len(), last_lines(&client));
    let regular = periods.iter().filter(|period| (16_000..17_400).contains(*period)).count();
    ensure!(regular * 2 > periods.len(), "only {regular} of {} frames came each refresh", periods.len());
    note_figure(&format!(
        "sid's weston-presentation-shm: {regular} of {} frames 16.7 ms apart",
        periods.len()
    ))?;
    compositor.check_alive()
}

/// Microseconds from the frame before, of a line of weston-presentation-shm.
fn period(line: &str) -> Option<u32> {
    line.split_once("p2p ")?.1.split_once(" us")?.0.trim().parse().ok()
}

/// A client of another kind is seen on the display.
fn draws(program: &str, frames: u64) -> Result<()> {
    let mut compositor = Compositor::start(&format!("sid-{program}"), &[])?;
    let client = start(&compositor, program, &[])?;
    wait_frames(&mut compositor, &client, frames)?;
    // The first frame of a terminal may be empty.
    std::thread::sleep(Duration::from_millis(500));
    let surface = wait_frames(&mut compositor, &client, frames)?;
    let file = artefacts().join(format!("sid-{program}.png"));
    compositor.capture(&file)?;
    let share = Screen::read(&file)?.share_in_front(surface.position, surface.size)?;
    ensure!(share >= 0.3, "{program}: only {:.0} % of its window can be seen: {surface:?}", 100.0 * share);
    ensure_no_error(&client)?;
    compositor.check_alive()
}
