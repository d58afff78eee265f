//! The programs of `examples/`, run as anybody would: the small compositor with real clients, and the probe.
//!
//! Owns starting them. What reaches the display is judged by the demo's checker, which asks the kernel only.

use std::path::{Path, PathBuf};
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
    let verdict = check_kernel(&device, &subjects)?;
    ensure!(verdict.is_consistent(), "{verdict:#?}");
    for finding in &verdict.findings {
        ensure!(finding.scanned_out == (finding.name != "shm"), "{finding:#?}");
    }
    drop((clients, embed));
    let left = device.framebuffers()?;
    ensure!(left.iter().all(|framebuffer| framebuffer.allocated_by != "embed"), "{left:?}");
    Ok(())
}
