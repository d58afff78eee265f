//! Ordinary users: primeway without permission on the card, and the clients that every distribution has.
//!
//! Owns the permissions of the nodes during a case. Everything comes from seatd here.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::debugfs::DebugDevice;

use crate::desktop::{Desktop, Launch, NodeModes, PATIENCE, USER};

/// The share of zero-copy frames that a client on a plane must reach.
const REQUIRED: f64 = 95.0;

/// Whether a program of `uid` may open a file for reading and writing.
fn may_open(uid: u32, path: &std::path::Path) -> Result<bool> {
    let script = "exec 3<>\"$0\"";
    let status = Command::new("/bin/sh").args(["-c", script]).arg(path).uid(uid).gid(uid).output();
    Ok(status.context("cannot run sh")?.status.success())
}

/// The device comes from seatd alone, and buffers still reach planes.
pub fn as_an_unprivileged_user() -> Result<()> {
    let _modes = NodeModes::set(0o600)?;
    let mut desktop = Launch::new("user")?.user(USER).arguments(&["--writeback"]).start()?;
    let stats = desktop.stats()?;
    let node = stats.device.card()?;
    let mode = std::fs::metadata(node).context("no card node")?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{} has mode {mode:o}", node.display());
    ensure!(!may_open(USER, node)?, "user {USER} may open {}", node.display());
    ensure!(stats.device.driver == "vkms", "{:?}", stats.device);
    ensure!(stats.device.acquisition == "empty-lease", "{:?}", stats.device);
    let kinds = [("vgem", "XR24"), ("udmabuf", "AR24"), ("vgem", "NV12"), ("udmabuf", "NV12")];
    let mut clients = Vec::new();
    for (allocator, format) in kinds {
        let name = format!("{allocator} {format}");
        let arguments = ["--alloc", allocator, "--format", format, "--size", "240x240"];
        let client = desktop.client(&name, &arguments)?;
        desktop.wait_frames(&client, 2)?;
        clients.push(client);
    }
    for client in &clients {
        let before = desktop.wait_frames(client, 2)?;
        let after = desktop.wait_frames(client, before.frames_presented + 60)?;
        let presented = after.frames_presented - before.frames_presented;
        let zero_copy = after.frames_zero_copy - before.frames_zero_copy;
        let percent = 100.0 * zero_copy as f64 / presented as f64;
        ensure!(percent >= REQUIRED, "{}: {percent:.1} % zero-copy: {after:?}", client.name);
        let plane = after.plane.with_context(|| format!("{}: {:?}", client.name, after.reason))?;
        let planes = DebugDevice::of_driver("vkms")?.planes()?;
        let shown = planes.iter().find(|known| known.id == plane).and_then(|known| known.framebuffer.clone());
        let framebuffer = shown.with_context(|| format!("{}: plane {plane} is off", client.name))?;
        ensure!(
            Some(&framebuffer.format) == after.format.as_ref() && framebuffer.imported,
            "{}: the kernel has {framebuffer:?} on plane {plane}",
            client.name
        );
        println!("as_an_unprivileged_user: {}: {percent:.1} % of {presented} zero-copy", client.name);
    }
    desktop.check_alive()
}

/// A client of the system, with what it is expected to do.
struct Ordinary {
    program: &'static str,
    arguments: &'static [&'static str],
    /// It draws all the time.
    animated: bool,
    /// It allocates on a DRM node of its own, so without permission it cannot even start.
    needs_node: bool,
}

const ORDINARY: &[Ordinary] = &[
    Ordinary { program: "weston-simple-egl", arguments: &[], animated: true, needs_node: false },
    Ordinary { program: "weston-simple-shm", arguments: &[], animated: true, needs_node: false },
    Ordinary { program: "foot", arguments: &[], animated: false, needs_node: false },
    Ordinary { program: "weston-terminal", arguments: &[], animated: false, needs_node: false },
    Ordinary { program: "weston-simple-dmabuf-egl", arguments: &[], animated: true, needs_node: true },
];

/// Clients of every kind map a window that can be seen, whatever their user may open.
pub fn ordinary_clients_start_and_draw() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, mode) in [("permitted", 0o666), ("forbidden", 0o600)] {
        let _modes = NodeModes::set(mode)?;
        let mut desktop = Launch::new(name)?.user(USER).arguments(&["--writeback"]).start()?;
        for client in ORDINARY.iter().filter(|client| !client.needs_node || mode == 0o666) {
            match draws(&mut desktop, client) {
                Ok(told) => println!("ordinary_clients_start_and_draw: {name}: {}: {told}", client.program),
                Err(err) => wrong.push(format!("{name}: {}: {err:#}", client.program)),
            }
        }
        desktop.check_alive()?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Starts one client, looks at its window on the display and ends it.
fn draws(desktop: &mut Desktop, ordinary: &Ordinary) -> Result<String> {
    let card = format!("-d{}", desktop.stats()?.device.card()?.display());
    let mut arguments = ordinary.arguments.to_vec();
    if ordinary.needs_node {
        arguments.push(&card);
    }
    let client = desktop.client_of_user(USER, ordinary.program, &arguments)?;
    let wanted = if ordinary.animated { 10 } else { 0 };
    let surface = desktop.wait_frames(&client, wanted)?;
    // The first frame of a terminal may be empty.
    let deadline = Instant::now() + PATIENCE;
    let share = loop {
        let share = desktop.capture()?.share_in_front(surface.position, surface.size)?;
        if share >= 0.3 {
            break share;
        }
        ensure!(
            Instant::now() < deadline,
            "only {:.0} % of its window can be seen: {surface:?}",
            100.0 * share
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    let format = surface.format.as_deref().unwrap_or("wl_shm");
    let told = format!("{format} {}x{}, {:.0} % seen", surface.size[0], surface.size[1], 100.0 * share);
    drop(client);
    desktop.wait_stats("the end of its window", |stats| stats.clients.is_empty())?;
    Ok(told)
}
