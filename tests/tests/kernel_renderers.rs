//! Which renderer composites, what it says of itself, and what it leaves behind: GLES on the lab's kernel is Mesa on
//! the CPU, which draws into the display's own memory through a dma-buf, or is read back.
//!
//! Owns these cases; that both renderers draw the same pictures is in `kernel_picture` and `headless`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use primeway_tests::ctl::Stats;
use primeway_tests::debugfs::dmabufs;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::process::Process;
use primeway_tests::session::{Compositor, RunningClient, sibling_program};
use primeway_tests::stage::{Stage, background, note_figure, place};

const CASES: &[Case] = &[
    ("without_a_gpu_pixman_composites", without_a_gpu_pixman_composites),
    ("a_software_driver_is_passed_over", a_software_driver_is_passed_over),
    ("what_cannot_be_had_is_refused_with_a_reason", what_cannot_be_had_is_refused_with_a_reason),
    ("without_libegl_it_starts", without_libegl_it_starts),
    ("a_window_that_goes_leaves_no_trace", a_window_that_goes_leaves_no_trace),
    ("textures_go_with_their_buffers", textures_go_with_their_buffers),
    ("without_the_card_the_picture_is_read_back", without_the_card_the_picture_is_read_back),
];

/// A user without rights of any kind.
const USER: u32 = 1000;

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn card() -> Result<PathBuf> {
    Ok(DrmNode::of_driver("vkms")?.path().to_owned())
}

/// The render node of the lab, which has no GPU behind it.
fn render_node() -> Result<PathBuf> {
    let nodes = std::fs::read_dir("/dev/dri").context("/dev/dri")?;
    let mut paths = nodes.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths.find(|path| path.to_string_lossy().contains("renderD")).context("no render node")
}

/// Runs primeway for no longer than a program that ends at once.
fn run_briefly(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(sibling_program("primeway")?);
    command.args(["--backend", "kms"]).args(arguments).args(["--", "true"]);
    command.output().context("cannot run primeway")
}

/// Runs it and expects that it does not start, for a reason that has all of `words`.
fn ensure_refused(arguments: &[&str], words: &[&str]) -> Result<()> {
    let output = run_briefly(arguments)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{arguments:?} started: {error}");
    ensure!(words.iter().all(|word| error.contains(word)), "{arguments:?}: no {words:?} in {error}");
    ensure!(!error.contains("panicked"), "{error}");
    Ok(())
}

fn without_a_gpu_pixman_composites() -> Result<()> {
    let compositor = Compositor::start("auto", &[])?;
    let renderer = compositor.ctl.stats()?.renderer;
    ensure!(renderer.name == "pixman" && renderer.driver.is_none(), "{renderer:?}");
    // Mesa was not even asked: starting it takes longer than everything else.
    ensure!(!maps(compositor.pid(), "libEGL")?, "libEGL is loaded");
    Ok(())
}

fn maps(pid: i32, library: &str) -> Result<bool> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).context("maps")?;
    Ok(maps.contains(library))
}

/// A node that is named is tried; what draws on the CPU is no reason to give Pixman up.
fn a_software_driver_is_passed_over() -> Result<()> {
    let card = card()?;
    let compositor = Compositor::start_with("auto-software", &["--render-node", &card.to_string_lossy()])?;
    let renderer = compositor.ctl.stats()?.renderer;
    ensure!(renderer.name == "pixman", "{renderer:?}");
    let log = compositor.log_end();
    let line = log.lines().find(|line| line.contains("no gpu: software renderer"));
    ensure!(line.is_some_and(|line| line.contains("llvmpipe")), "{log}");
    Ok(())
}

fn what_cannot_be_had_is_refused_with_a_reason() -> Result<()> {
    let render_node = render_node()?;
    let render_node = render_node.to_string_lossy();
    ensure_refused(
        &["--renderer", "gles", "--render-node", &render_node],
        &["--renderer gles asks for", "no GPU behind this render node", "llvmpipe"],
    )?;
    ensure_refused(
        &["--renderer", "gles", "--render-node", "/dev/dri/renderD200"],
        &["/dev/dri/renderD200"],
    )?;
    ensure_refused(&["--renderer", "gles", "--render-node", "/dev/null"], &["/dev/null"])?;
    ensure_refused(&["--renderer", "pixman", "--render-node", &render_node], &["leave one of them out"])?;
    ensure_refused(&["--renderer", "vulkan"], &["auto, gles, pixman"])
}

/// A file under another name for as long as this lives. The root of the lab is an overlay: the host's stays.
struct Hidden(PathBuf, PathBuf);

impl Hidden {
    fn hide(path: &Path) -> Result<Hidden> {
        let aside = path.with_extension("hidden");
        std::fs::rename(path, &aside).with_context(|| format!("cannot hide {}", path.display()))?;
        Ok(Hidden(path.to_owned(), aside))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(err) = std::fs::rename(&self.1, &self.0) {
            eprintln!("{} is not back: {err}", self.0.display());
        }
    }
}

fn without_libegl_it_starts() -> Result<()> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found = folders.iter().map(|folder| Path::new(folder).join("libEGL.so.1")).find(|path| path.exists());
    let _hidden = Hidden::hide(&found.context("libEGL.so.1 is not installed: nothing can be hidden")?)?;
    let card = card()?;
    let card = card.to_string_lossy();
    {
        let compositor = Compositor::start_with("no-libegl", &["--render-node", &card])?;
        let (renderer, log) = (compositor.ctl.stats()?.renderer, compositor.log_end());
        ensure!(renderer.name == "pixman" && log.contains("libEGL.so.1 cannot be loaded"), "{log}");
    }
    ensure_refused(&["--renderer", "gles"], &["libEGL.so.1 cannot be loaded", "install", "libegl1"])
}

/// Damage and buffer ages: what a window showed is gone with it, from every buffer of the swapchain, while another
/// window goes on and nothing but that one is damaged.
fn a_window_that_goes_leaves_no_trace() -> Result<()> {
    let mut stage = Stage::start_with("trace", &["--renderer", "gles"])?;
    let renderer = stage.stats()?.renderer;
    ensure!(renderer.name == "gles" && renderer.software && !renderer.reads_back, "{renderer:?}");
    ensure!(renderer.node == Some(card()?) && renderer.driver.is_some(), "{renderer:?}");
    let still = stage.add_noise("XR24", 7, (300, 200), &["--alloc", "shm"])?;
    let going_on = ["--alloc", "shm", "--size", "100x100", "--redraw"];
    let mut going_on = RunningClient::start_test_client(&stage.compositor.display, "going on", &going_on)?;
    going_on.wait_presented(Duration::from_secs(10))?;
    let mut areas = Vec::new();
    for pid in [stage.clients[still].pid(), going_on.pid()] {
        let stats = stage.stats()?;
        let surface = stats.surface(pid).context("no window")?;
        ensure!(surface.plane.is_none(), "not composited: {surface:?}");
        areas.push((place(surface)?, surface.size.map(|side| side.max(0) as u32)));
    }
    let used = |x: u32, y: u32| {
        let within = |from: u32, len: u32, at: u32| (from..from + len).contains(&at);
        areas.iter().any(|&((left, top), [w, h])| within(left, w, x) && within(top, h, y))
    };
    for allocator in ["shm", "vkms"] {
        let arguments = ["--alloc", allocator, "--size", "150x100", "--viewport", "301x201", "--redraw"];
        let mut going = RunningClient::start_test_client(&stage.compositor.display, allocator, &arguments)?;
        going.wait_presented(Duration::from_secs(10))?;
        let pid = going.pid();
        drop(going);
        let commits = |stats: &Stats| stats.outputs.iter().map(|output| output.commits).sum::<u64>();
        let patience = Duration::from_secs(10);
        let gone = stage
            .compositor
            .wait_stats("the window's end", patience, |stats| stats.surface(pid).is_none())?;
        // The frame that shows it no more may be the next one, or the one after a pending one.
        let shown = commits(&gone) + 3;
        stage.compositor.wait_stats("more frames", patience, |stats| commits(stats) >= shown)?;
        for capture in 0..4 {
            let screen = stage.capture()?;
            stage.expect_noise(&screen, still, "XR24", 7, (300, 200))?;
            let empty = background(&screen);
            let all = (0..screen.height).flat_map(|y| (0..screen.width).map(move |x| (x, y)));
            let stale = { all }.find(|&(x, y)| !used(x, y) && screen.pixel(x, y) != empty);
            ensure!(stale.is_none(), "{allocator}, capture {capture}: something is left at {stale:?}");
        }
    }
    Ok(())
}

/// Buffers that were textures leave nothing, be they read by the driver (`vkms`) or through the CPU (`udmabuf`).
fn textures_go_with_their_buffers() -> Result<()> {
    let mut compositor = Compositor::start_with("textures", &["--renderer", "gles"])?;
    let held = |compositor: &Compositor| -> Result<_> {
        std::thread::sleep(Duration::from_millis(300));
        Ok((Process::open(compositor.pid())?.open_files()?, compositor.ctl.stats()?.resources, dmabufs()?))
    };
    let run = |compositor: &mut Compositor, allocator: &str, frames: &str| -> Result<()> {
        // Scaled, so that no plane takes it.
        let scaled = ["--alloc", allocator, "--size", "64x64", "--viewport", "96x96"];
        let arguments = [&scaled[..], &["--new-buffer-each-frame", "--frames", frames]].concat();
        let mut client = RunningClient::start_test_client(&compositor.display, allocator, &arguments)?;
        let status = client.wait_end(Duration::from_secs(60))?;
        ensure!(status.success(), "{allocator}: {status}: {}", client.output());
        let report = client.counts().context("no report")?;
        ensure!(report.zero_copy_percent() == 0.0, "{allocator} was not composited: {report:?}");
        compositor.check_alive()
    };
    run(&mut compositor, "vkms", "10")?;
    let before = held(&compositor)?;
    for allocator in ["vkms", "udmabuf"] {
        run(&mut compositor, allocator, "60")?;
    }
    // A surface keeps its last texture until it is gone, and the driver what it drew last until it draws again.
    let after = held(&compositor)?;
    ensure!(before == after, "120 buffers left something: before {before:?}, after {after:?}");
    Ok(())
}

/// Nodes that only root may open, for as long as this lives.
struct Closed(Vec<(PathBuf, u32)>);

impl Closed {
    fn close() -> Result<Closed> {
        let mut closed = Closed(Vec::new());
        for path in [card()?, render_node()?] {
            let mode = std::fs::metadata(&path).context("a node is gone")?.permissions().mode() & 0o7777;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            closed.0.push((path, mode));
        }
        Ok(closed)
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        for (path, mode) in &self.0 {
            if let Err(err) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode)) {
                eprintln!("{} stays closed: {err}", path.display());
            }
        }
    }
}

/// The card comes from seatd alone, which gives no second file of it: GLES draws somewhere else, and says so.
fn without_the_card_the_picture_is_read_back() -> Result<()> {
    let _closed = Closed::close()?;
    let name = "read-back";
    let compositor = Compositor::start_as_with(Some(USER), name, &["--renderer", "gles"])?;
    let mut stage = Stage::of(compositor, name);
    let renderer = stage.stats()?.renderer;
    ensure!(renderer.name == "gles" && renderer.reads_back && renderer.node.is_none(), "{renderer:?}");
    let log = stage.compositor.log_end();
    ensure!(log.contains("copied from the gpu's memory"), "it is not said: {log}");
    let clients =
        ["shm", "vgem"].map(|allocator| stage.add_noise("XR24", 3, (200, 150), &["--alloc", allocator]));
    stage.settle()?;
    let screen = stage.capture()?;
    for client in clients {
        let worst = stage.expect_noise(&screen, client?, "XR24", 3, (200, 150))?;
        if worst.steps != 0.0 {
            bail!("{worst:?}");
        }
    }
    note_figure("read back: exact")
}
