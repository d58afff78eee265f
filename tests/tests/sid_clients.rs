//! Debian sid's clients on primeway, in the sid guest: they speak newer protocol versions than the host's.
//!
//! Owns what these clients must see and show; what the guest itself promises is in `sid_lab`. Each case starts its own
//! primeway. Mesa there has no GPU either: clients that need EGL get it from llvmpipe on the card node.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use primeway_tests::ctl::Surface;
use primeway_tests::debugfs::{DebugDevice, FramebufferState};
use primeway_tests::drm_node::DrmNode;
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::screen::Screen;
use primeway_tests::session::{Compositor, RunningClient, artefacts};
use primeway_tests::stage::note_figure;
use rustix::process::{Pid, Signal, kill_process};

const CASES: &[Case] = &[
    ("simple_dmabuf_feedback_follows_the_tranches", simple_dmabuf_feedback_follows_the_tranches),
    ("without_direct_scanout_there_is_no_tranche", without_direct_scanout_there_is_no_tranche),
    ("simple_dmabuf_v4l_is_zero_copy", simple_dmabuf_v4l_is_zero_copy),
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

/// Starts weston-simple-dmabuf-feedback with its clock stopped: it would end after three seconds, in which no surface can be
/// told anything, covered, and told again.
fn start_feedback_client(compositor: &Compositor) -> Result<RunningClient> {
    let stopped = format!("inject=clock_gettime:poke_exit=@arg2={}", "00".repeat(16));
    let calls = ["-D", "-f", "-qq", "--seccomp-bpf", "-o/dev/null", "-etrace=clock_gettime", "-e", &stopped];
    let arguments = [&calls[..], &["/usr/bin/weston-simple-dmabuf-feedback"]].concat();
    RunningClient::start(&compositor.display, "feedback", Path::new("/usr/bin/strace"), &arguments)
}

/// Waits until the client draws in a format, on a plane or not.
fn wait_format(
    compositor: &mut Compositor,
    client: &RunningClient,
    format: &str,
    on: bool,
) -> Result<Surface> {
    let pid = client.pid();
    let wanted =
        |surface: &Surface| surface.format.as_deref() == Some(format) && surface.plane.is_some() == on;
    let what = format!("a buffer in {format}, on a plane: {on}");
    let stats = compositor.wait_stats(&what, PATIENCE, |stats| stats.surface(pid).is_some_and(wanted));
    let stats = stats.with_context(|| last_lines(client))?;
    stats.surface(pid).cloned().context("its window has gone")
}

/// What the kernel says is on the plane that the compositor names.
fn framebuffer_of(surface: &Surface) -> Result<FramebufferState> {
    let plane = surface.plane.context("on no plane")?;
    let planes = DebugDevice::of_driver("vkms")?.planes()?;
    let shown = planes.into_iter().find(|state| state.id == plane).and_then(|state| state.framebuffer);
    shown.with_context(|| format!("plane {plane} is off"))
}

const END: &str = "end of dma-buf feedback";

/// The client picks XRGB8888 from the first feedback of its surface, which must have no scanout tranche, and then another
/// format from the scanout tranche of the next one; its own assertions end it when the feedback is anything else. When
/// something covers it, it is told of no scanout tranche, and goes back to XRGB8888 for the buffers that it makes from then
/// on, which are none (it keeps those it has).
fn simple_dmabuf_feedback_follows_the_tranches() -> Result<()> {
    let mut compositor = Compositor::start("sid-feedback", &[])?;
    let client = start_feedback_client(&compositor)?;
    wait_format(&mut compositor, &client, "XR24", true)?;
    let surface = wait_format(&mut compositor, &client, "AR24", true)?;
    let text = client.output();
    let node = compositor.ctl.stats()?.device.card()?.display().to_string();
    let scanout = format!("tranche: target device {node}, scanout");
    let (first, later) = text.split_once(END).context("it read no feedback")?;
    ensure!(!first.contains(&scanout), "a scanout tranche at first:\n{first}");
    wait_feedback(&mut compositor, &client, 2)?;
    let (renderer, main) =
        (format!("tranche: target device {node}, no flags"), format!("feedback: main device {node}"));
    for (part, wanted) in [
        (first, main.as_str()),
        (first, renderer.as_str()),
        (first, "format XRGB8888, modifier LINEAR"),
        (later, scanout.as_str()),
        (later, "format ARGB8888, modifier LINEAR"),
        (later, renderer.as_str()),
    ] {
        ensure!(part.contains(wanted), "it did not read {wanted:?}:\n{part}");
    }
    let (offered, _) = later.split_once("end of tranche").context("no tranche")?;
    ensure!(!offered.contains("INVALID"), "planes take no implicit layouts:\n{offered}");
    // It is opaque, so that the plane shows the twin without alpha.
    let (framebuffer, size) = (framebuffer_of(&surface)?, surface.size.map(|side| side as u32));
    ensure!(framebuffer.format == "XR24" && framebuffer.size == size, "{framebuffer:?}");
    ensure!(surface.scanout_feedback, "it is not said: {surface:?}");
    ensure_zero_copy(&client, &surface)?;

    let cover = ["--alloc", "shm", "--size", "200x200", "--static"];
    let cover = RunningClient::start_test_client(&compositor.display, "cover", &cover)?;
    let third = wait_feedback(&mut compositor, &client, 3)?;
    ensure!(!third.contains(&scanout) && third.contains(&renderer), "while covered: {third}");
    let covered = wait_format(&mut compositor, &client, "AR24", false)?;
    ensure!(!covered.scanout_feedback, "it is said: {covered:?}");
    drop(cover);
    let fourth = wait_feedback(&mut compositor, &client, 4)?;
    ensure!(fourth.contains(&scanout), "when free again: {fourth}");
    wait_format(&mut compositor, &client, "AR24", true)?;
    compositor.check_alive()
}

/// The last feedback that the client read, once these are so many.
fn wait_feedback(compositor: &mut Compositor, client: &RunningClient, count: usize) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        compositor.check_alive()?;
        let text = client.output();
        let feedbacks: Vec<&str> = text.split(END).collect();
        match feedbacks.len() - 1 {
            read if read < count => ensure!(Instant::now() < deadline, "only {read} feedbacks: {text}"),
            read => {
                ensure!(read == count, "{read} feedbacks instead of {count}: {text}");
                return Ok(feedbacks[count - 1].to_owned());
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Without direct scanout nobody is told to allocate for it.
fn without_direct_scanout_there_is_no_tranche() -> Result<()> {
    let mut compositor = Compositor::start_with("sid-no-scanout", &["--no-direct-scanout"])?;
    let client = start_feedback_client(&compositor)?;
    let surface = wait_format(&mut compositor, &client, "XR24", false)?;
    std::thread::sleep(Duration::from_secs(3));
    let later = wait_format(&mut compositor, &client, "XR24", false)?;
    ensure!(later.frames_presented > surface.frames_presented && later.frames_zero_copy == 0, "{later:?}");
    ensure!(later.reason.as_deref() == Some("direct scanout is disabled"), "{later:?}");
    let text = client.output();
    ensure!(text.matches(END).count() == 1 && !text.contains("scanout"), "{text}");
    compositor.check_alive()
}

/// Frames of the kernel's virtual camera, which is an exporter of its own, go from its driver to a plane.
fn simple_dmabuf_v4l_is_zero_copy() -> Result<()> {
    let camera = camera()?;
    for format in ["NV12", "XR24"] {
        let mut compositor = Compositor::start(&format!("sid-v4l-{format}"), &[])?;
        let arguments = ["-v", &camera, "-f", format, "-d", format];
        let client = start(&compositor, "weston-simple-dmabuf-v4l", &arguments)?;
        let surface = wait_frames(&mut compositor, &client, 5)?;
        ensure!(surface.format.as_deref() == Some(format), "{surface:?}");
        ensure_zero_copy(&client, &surface)?;
        let framebuffer = framebuffer_of(&surface)?;
        ensure!(framebuffer.format == format && framebuffer.imported, "{framebuffer:?}");
        let [width, height] = framebuffer.size;
        let said = format!("creating buffer of size {width}x{height} format {format}");
        ensure!(client.output().contains(&said), "it did not say {said:?}: {}", last_lines(&client));
        // Colour bars: more than one colour, and not the background's.
        let file = artefacts().join(format!("sid-v4l-{format}.png"));
        compositor.capture(&file)?;
        let share = Screen::read(&file)?.share_in_front(surface.position, surface.size)?;
        ensure!(share >= 0.9, "only {:.0} % of its window can be seen: {surface:?}", 100.0 * share);
        compositor.check_alive()?;
    }
    Ok(())
}

/// The node of vivid's capture device.
fn camera() -> Result<String> {
    for entry in std::fs::read_dir("/sys/class/video4linux").context("no video devices")? {
        let entry = entry?;
        if std::fs::read_to_string(entry.path().join("name"))?.trim_end().ends_with("-vid-cap") {
            return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    bail!("no capture device of vivid")
}

/// Ends a client as its user does from a terminal; it must end well.
fn interrupt(client: &mut RunningClient) -> Result<()> {
    kill_process(Pid::from_raw(client.pid()).context("its process id")?, Signal::INT).context("SIGINT")?;
    let status = client.wait_end(PATIENCE)?;
    ensure!(status.success(), "it ended with {status}: {}", last_lines(client));
    ensure_no_error(client)
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
