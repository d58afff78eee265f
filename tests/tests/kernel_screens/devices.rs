//! Several display devices, and devices that come and go while a session runs.
//!
//! The lab's own device, `lab0`, is there throughout; its connector and the device itself are switched through configfs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::vkms::{self, Device};
use primeway_tests::ctl::Stats;
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::process::Process;
use primeway_tests::session::{Compositor, RunningClient};
use primeway_tests::stage::Stage;

use crate::plug::{PATIENCE, outputs};

const LAB0: &str = "/sys/kernel/config/vkms/lab0";
const SECOND: &str = "overlays=2,writeback";
const SIZE: (u32, u32) = (200, 150);

/// Has the lab's own device in another state while it lives.
struct Lab0(&'static str, &'static str);

impl Lab0 {
    fn set(file: &'static str, value: &str, before: &'static str) -> Result<Self> {
        std::fs::write(Path::new(LAB0).join(file), value).with_context(|| format!("{file} of lab0"))?;
        Ok(Self(file, before))
    }

    /// Nothing is connected to it.
    fn unplugged() -> Result<Self> {
        Self::set("connectors/connector0/status", "2", "1")
    }

    /// It is not there.
    fn removed() -> Result<Self> {
        Self::set("enabled", "0", "1")
    }
}

impl Drop for Lab0 {
    fn drop(&mut self) {
        if let Err(err) = std::fs::write(Path::new(LAB0).join(self.0), self.1) {
            eprintln!("lab0 is not as it was: {err}");
        }
    }
}

fn start(name: &str) -> Result<Stage> {
    Ok(Stage::of(Compositor::start_with(name, &["--renderer", "pixman"])?, name))
}

/// Waits until a window is on a plane of the only output, and its picture there.
fn shown(stage: &mut Stage, index: usize, format: &str, seed: u32) -> Result<()> {
    let pid = stage.clients[index].pid();
    let on_plane = |stats: &Stats| {
        let lit = stats.outputs.len() == 1 && stats.outputs[0].frames > 0;
        lit && stats.surface(pid).is_some_and(|s| s.plane.is_some())
    };
    stage.compositor.wait_stats(&format!("client {index} on a plane"), PATIENCE, on_plane)?;
    let screen = stage.capture()?;
    stage.expect_noise(&screen, index, format, seed, SIZE)?;
    Ok(())
}

/// Both devices show windows, whosever memory these have: that of the first one on the second, too, without a copy.
pub fn two_devices_show_windows() -> Result<()> {
    let second = Device::create("two", &SECOND.parse()?)?;
    let mut stage = start("two")?;
    let both = outputs(&mut stage, 2)?;
    ensure!(both.outputs[0].name != both.outputs[1].name, "{both:#?}");
    // Memory of the first device, of no display, and of none at all.
    let native = stage.add_noise("XR24", 1, SIZE, &["--alloc", "vkms"])?;
    let foreign = stage.add_noise("XR24", 2, SIZE, &["--alloc", "vgem"])?;
    let pages = stage.add_noise("NV12", 3, SIZE, &["--alloc", "udmabuf"])?;
    ensure!(stage.surface(native)?.plane.is_some(), "not on a plane of the first device");
    let away = Lab0::unplugged()?;
    let left = outputs(&mut stage, 1)?;
    ensure!(left.outputs[0].name == both.outputs[1].name, "{left:#?}");
    let pids: Vec<i32> = stage.clients.iter().map(RunningClient::pid).collect();
    let planes = move |stats: &Stats| {
        pids.iter().filter(|pid| stats.surface(**pid).is_some_and(|s| s.plane.is_some())).count()
    };
    // Two overlays, and the primary plane on the background of the CRTC.
    let three = |stats: &Stats| planes(stats) == 3 && stats.outputs[0].frames > 0;
    stage.compositor.wait_stats("three windows on planes", PATIENCE, three)?;
    let screen = stage.capture()?;
    for (client, format, seed) in [(native, "XR24", 1), (foreign, "XR24", 2), (pages, "NV12", 3)] {
        stage.expect_noise(&screen, client, format, seed, SIZE)?;
    }
    // The kernel says so, too: what the second device shows was imported.
    let debug = DebugDevice::of_node(&second.card_node()?)?;
    let shown: Vec<_> = debug.planes()?.into_iter().filter_map(|plane| plane.framebuffer).collect();
    ensure!(shown.iter().filter(|fb| fb.imported).count() == 3, "{shown:#?}");
    drop(away);
    outputs(&mut stage, 2)?;
    let back = |stats: &Stats| planes(stats) == 3;
    stage.compositor.wait_stats("all back", PATIENCE, back)?;
    stage.compositor.check_alive()
}

/// What is open for a compositor, and in the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Open {
    files: usize,
    handles: u64,
    framebuffers: u64,
    dmabufs: usize,
}

fn open(stage: &mut Stage) -> Result<Open> {
    let resources = stage.stats()?.resources;
    Ok(Open {
        files: Process::open(stage.compositor.pid())?.open_files()?,
        handles: resources.gem_handles,
        framebuffers: resources.framebuffers,
        dmabufs: primeway_tests::debugfs::dmabufs()?,
    })
}

/// Waits until nothing more is open than before.
fn nothing_left(stage: &mut Stage, before: &Open) -> Result<()> {
    let mut now = open(stage)?;
    for _ in 0..100 {
        if now == *before {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
        now = open(stage)?;
    }
    let pid = stage.compositor.pid();
    let links = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let links: Vec<_> = links.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
    anyhow::bail!("{now:?} is open, {before:?} was: {links:?}")
}

/// A device that comes is driven, shows the windows that have nowhere else to go, and is let go of when it is removed, in
/// the middle of everything: twenty times, and nothing is left.
pub fn devices_come_and_go() -> Result<()> {
    let mut stage = start("comes")?;
    outputs(&mut stage, 1)?;
    let still = stage.add_noise("XR24", 7, SIZE, &[])?;
    let mut moving =
        RunningClient::start_test_client(&stage.compositor.display, "moving", &["--size", "128x96"])?;
    moving.wait_presented(PATIENCE)?;
    let mut before = None;
    for round in 0..20 {
        let device = Device::create("comes", &SECOND.parse()?)?;
        outputs(&mut stage, 2).with_context(|| format!("round {round}"))?;
        let away = Lab0::unplugged()?;
        outputs(&mut stage, 1)?;
        shown(&mut stage, still, "XR24", 7).with_context(|| format!("round {round}"))?;
        device.remove()?;
        outputs(&mut stage, 0)?;
        drop(away);
        outputs(&mut stage, 1)?;
        shown(&mut stage, still, "XR24", 7).with_context(|| format!("round {round}, back"))?;
        ensure!(moving.is_running(), "{}", moving.output());
        match &before {
            // The first round makes what stays, such as buffers to compose in.
            None if round == 1 => before = Some(open(&mut stage)?),
            None => {}
            Some(before) => nothing_left(&mut stage, before).with_context(|| format!("round {round}"))?,
        }
    }
    stage.compositor.check_alive()
}

/// The first device goes, which takes clients' buffers in: the other one does from then on, and the first one is driven again
/// when it comes back.
pub fn the_first_device_goes_and_comes_back() -> Result<()> {
    let second = Device::create("other", &SECOND.parse()?)?;
    let mut stage = start("other")?;
    outputs(&mut stage, 2)?;
    let old = stage.add_noise("XR24", 1, SIZE, &[])?;
    let node = vkms::card_by_device("lab0")?;
    let away = Lab0::removed()?;
    outputs(&mut stage, 1)?;
    shown(&mut stage, old, "XR24", 1)?;
    ensure!(stage.stats()?.device.node == Some(second.card_node()?), "{:?}", stage.stats()?.device);
    // Nothing of the device is open any more.
    let pid = stage.compositor.pid();
    let links = || -> Result<Vec<_>> {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
        Ok(links.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect())
    };
    for _ in 0..100 {
        if !links()?.iter().any(|link| link.starts_with(&node)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let gone = format!("{} (deleted)", node.display());
    let open = links()?;
    ensure!(!open.iter().any(|link| *link == node || link.as_os_str() == &*gone), "{open:?}");
    // Who comes now is shown by the other one.
    let new = stage.add_noise("NV12", 2, SIZE, &["--create"])?;
    shown(&mut stage, new, "NV12", 2)?;
    drop(away);
    outputs(&mut stage, 2)?;
    // And without any device there is still a session, which takes buffers in.
    let away = Lab0::removed()?;
    outputs(&mut stage, 1)?;
    second.remove()?;
    outputs(&mut stage, 0)?;
    let display = stage.compositor.display.clone();
    let mut late = RunningClient::start_test_client(&display, "late", &["--size", "64x48"])?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(late.is_running(), "{}", late.output());
    drop(away);
    outputs(&mut stage, 1)?;
    late.wait_presented(PATIENCE)?;
    drop(late);
    shown(&mut stage, old, "XR24", 1)?;
    stage.compositor.check_alive()
}

/// One device was asked for: others are left alone, and it is taken in again when it comes back.
pub fn only_the_device_that_was_asked_for() -> Result<()> {
    let device = Device::create("asked", &SECOND.parse()?)?;
    let node = device.card_node()?;
    let arguments = ["--renderer", "pixman", "--device", node.to_str().context("the card's name")?];
    let mut stage = Stage::of(Compositor::start_with("asked", &arguments)?, "asked");
    outputs(&mut stage, 1)?;
    let client = stage.add_noise("XR24", 1, SIZE, &[])?;
    let other = Device::create("stranger", &SECOND.parse()?)?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(stage.stats()?.outputs.len() == 1, "a device that nobody asked for is driven");
    device.remove()?;
    outputs(&mut stage, 0)?;
    let device = Device::create("asked", &SECOND.parse()?)?;
    ensure!(device.card_node()? == node, "the kernel gave it another number");
    outputs(&mut stage, 1)?;
    shown(&mut stage, client, "XR24", 1)?;
    drop(other);
    stage.compositor.check_alive()
}
