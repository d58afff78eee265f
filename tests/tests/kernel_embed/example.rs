//! The programs of `examples/`, run as anybody would: the small compositor with real clients, and the probe.
//!
//! Owns starting them. What reaches the display is judged by the demo's checker, which asks the kernel only; what the
//! probe must find is known from the source of vkms.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::check::{Subject, check_kernel};
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::session::{RunningClient, sibling_program};

const EMBED: &str = include_str!("../../../compositor/examples/embed.rs");
const SOCKET: &str = "wayland-embed";
const WESTON: &str = "/usr/bin/weston-simple-dmabuf-egl";

fn program(name: &str) -> Result<PathBuf> {
    sibling_program(&format!("examples/{name}")).context("cargo build --workspace --examples")
}

/// Waits until the client of each process is on the screen: as many framebuffers of its windows' size as `count`.
fn wait_for_planes(device: &DebugDevice, count: usize, clients: &[RunningClient]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let planes = device.planes()?;
        let shown = planes.iter().filter_map(|plane| plane.framebuffer.as_ref());
        let windows = shown.filter(|framebuffer| framebuffer.size == [240, 240]).count();
        if windows == count {
            return Ok(());
        }
        let said: String = clients.iter().map(|client| client.output()).collect();
        ensure!(Instant::now() < deadline, "{said}\n{windows} windows on planes, not {count}: {planes:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// weston-simple-dmabuf-egl and clients with memory of vgem and udmabuf are scanned out by a compositor that shares no
/// code with primeway; a `wl_shm` client beside them is composited.
pub fn weston_is_scanned_out_by_the_small_compositor() -> Result<()> {
    ensure!(EMBED.lines().count() <= 250, "it is no small compositor any more");
    ensure!(!EMBED.contains("primeway::"), "it shares code with primeway");
    let device = DebugDevice::of_driver("vkms")?;
    let card = DrmNode::of_driver("vkms")?.path().to_str().context("card")?.to_owned();
    let embed = RunningClient::start(SOCKET, "embed", &program("embed")?, &[&card, SOCKET])?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !embed.output().contains("embed: ready on") {
        ensure!(Instant::now() < deadline, "it does not get ready: {}", embed.output());
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(Path::new(WESTON).exists(), "{WESTON} is missing: apt install weston");
    let node = format!("-d{card}");
    let mut clients = vec![RunningClient::start(SOCKET, "weston", Path::new(WESTON), &[&node, "-s240"])?];
    wait_for_planes(&device, 1, &clients)?;
    for (name, allocator, format) in
        [("vgem", "vgem", "XR24"), ("udmabuf", "udmabuf", "AR24"), ("shm", "shm", "XR24")]
    {
        let arguments = ["--alloc", allocator, "--format", format, "--size", "240x240"];
        clients.push(RunningClient::start_test_client(SOCKET, name, &arguments)?);
    }
    wait_for_planes(&device, 3, &clients)?;
    let subject =
        |client: &RunningClient| Subject { name: client.name.clone(), pid: client.pid(), feedback: None };
    let subjects: Vec<_> = clients.iter().map(subject).collect();
    // The last of the clients has no plane that could be waited for.
    let deadline = Instant::now() + Duration::from_secs(10);
    let verdict = loop {
        let verdict = check_kernel(&device, &subjects)?;
        if verdict.is_consistent() {
            break verdict;
        }
        ensure!(Instant::now() < deadline, "{verdict:#?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    for finding in &verdict.findings {
        ensure!(finding.scanned_out == (finding.name != "shm"), "{finding:#?}");
    }
    drop((clients, embed));
    let left = device.framebuffers()?;
    ensure!(left.iter().all(|framebuffer| framebuffer.allocated_by != "embed"), "{left:?}");
    Ok(())
}

/// How the probe ended, and what it printed to standard output and standard error.
fn probe(command: &mut Command) -> Result<(bool, String, String)> {
    let output = command.output().context("probe")?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).context("not UTF-8");
    Ok((output.status.success(), text(output.stdout)?, text(output.stderr)?))
}

/// The matrix of vkms has the cells that the kernel's source says, and probing leaves the planes alone.
pub fn the_probe_finds_the_matrix() -> Result<()> {
    let (program, card) = (program("probe")?, DrmNode::of_driver("vkms")?.path().to_owned());
    let device = DebugDevice::of_driver("vkms")?;
    let before = device.planes()?;
    let (good, text, err) = probe(Command::new(&program).arg(&card))?;
    ensure!(good && text.starts_with(&format!("{}: vkms\n", card.display())), "{text}{err}");
    let row = |name: &str| -> Result<Vec<String>> {
        let line = text.lines().find(|line| line.starts_with(name)).with_context(|| text.clone())?;
        Ok(line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect())
    };
    ensure!(row(" ")? == ["own", "vgem", "udmabuf", "heap:system"], "{text}");
    // The last two vkms does not have.
    for (format, cell) in [
        ("XR24", "ok ok"),
        ("RG16", "ok ok"),
        ("NV12", "ok ok"),
        ("P010", "ok ok"),
        ("YU12", "ok ok"),
        ("XR30", "ok EINVAL"),
        ("YUYV", "ok EINVAL"),
    ] {
        ensure!(row(format)? == [format, cell, cell, cell, cell], "{format}: {text}");
    }
    ensure!(device.planes()? == before, "the display has changed");
    ensure!(device.framebuffers()?.iter().all(|framebuffer| framebuffer.allocated_by != "probe"));
    Ok(())
}

/// Every way not to have a device is told apart.
pub fn the_probe_says_what_is_missing() -> Result<()> {
    let (program, card) = (program("probe")?, DrmNode::of_driver("vkms")?.path().to_owned());
    let mut user = Command::new(&program);
    std::fs::set_permissions(&card, Permissions::from_mode(0o600)).context("cannot close the card node")?;
    user.uid(1000).gid(1000).arg(&card);
    let mut empty = Command::new("unshare");
    empty.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev/dri && exec \"$0\""]).arg(&program);
    let (mut null, mut absent) = (Command::new(&program), Command::new(&program));
    null.arg("/dev/null");
    absent.arg("/dev/dri/card99");
    for (command, words) in [
        (&mut user, "permission denied"),
        (&mut empty, "no DRM device here"),
        (&mut null, "is no DRM device"),
        (&mut absent, "no such device"),
    ] {
        let (good, text, err) = probe(command)?;
        ensure!(!good && text.is_empty() && err.contains(words), "{words}: {text}{err}");
    }
    Ok(())
}
