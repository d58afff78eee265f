//! Connectors that are plugged in and out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::vkms::{Device, Status};
use primeway_tests::ctl::Stats;
use primeway_tests::process::Process;
use primeway_tests::session::{Compositor, RunningClient};
use primeway_tests::stage::Stage;

pub const PATIENCE: Duration = Duration::from_secs(10);

/// A device of its own with a compositor on it.
pub fn start(name: &str, spec: &str, arguments: &[&str]) -> Result<(Device, Stage)> {
    let device = Device::create(name, &spec.parse()?)?;
    let node = device.card_node()?;
    let mut all = vec!["--renderer", "pixman", "--device", node.to_str().context("the card's name")?];
    all.extend(arguments);
    Ok((device, Stage::of(Compositor::start_with(name, &all)?, name)))
}

/// Waits until there are so many outputs.
pub fn outputs(stage: &mut Stage, count: usize) -> Result<Stats> {
    stage.compositor.wait_stats(&format!("{count} outputs"), PATIENCE, |stats| stats.outputs.len() == count)
}

/// Waits until a client's window is on an output and has a place, and its picture is there.
fn on(stage: &mut Stage, index: usize, output: &str, at: [i32; 2]) -> Result<()> {
    let pid = stage.clients[index].pid();
    let is = |stats: &Stats| {
        let lit = stats.outputs.iter().any(|o| o.name == output && o.frames > 0);
        lit && stats.surface(pid).is_some_and(|s| s.position == at)
    };
    stage.compositor.wait_stats(&format!("client {index} at {at:?} of {output}"), PATIENCE, is)?;
    Ok(())
}

/// Windows go to what is left, go back when their output does, and are drawn there.
pub fn windows_follow_the_outputs() -> Result<()> {
    let (device, mut stage) = start("plug", "crtcs=2,connectors=2,connected=1,overlays=2,writeback", &[])?;
    let first = outputs(&mut stage, 1)?.outputs[0].name.clone();
    let size = (200, 150);
    let a = stage.add_noise("XR24", 1, size, &[])?;
    let b = stage.add_noise("NV12", 2, size, &[])?;
    let [place_a, place_b] = [stage.surface(a)?.position, stage.surface(b)?.position];
    device.set_connector(1, Status::Connected)?;
    let both = outputs(&mut stage, 2)?;
    let second = both.outputs[1].name.clone();
    ensure!(both.outputs[0].name == first, "{both:#?}");
    for round in 0..3 {
        device.set_connector(0, Status::Disconnected)?;
        let left = outputs(&mut stage, 1)?;
        ensure!(left.outputs[0].name == second, "{left:#?}");
        on(&mut stage, a, &second, place_a)?;
        on(&mut stage, b, &second, place_b)?;
        let screen = stage.capture()?;
        stage.expect_noise(&screen, a, "XR24", 1, size)?;
        stage.expect_noise(&screen, b, "NV12", 2, size)?;
        device.set_connector(0, Status::Connected)?;
        outputs(&mut stage, 2)?;
        on(&mut stage, a, &first, place_a)?;
        let stats = stage.stats()?;
        // The one that came back is at the right of the other, and has the windows.
        let names: Vec<&str> = stats.outputs.iter().map(|o| o.name.as_str()).collect();
        ensure!(names == [&second, &first], "round {round}: {names:?}");
        let file = primeway_tests::session::artefacts().join("plug-back.png");
        stage.compositor.ctl.capture_output(&first, &file)?;
        let screen = primeway_tests::screen::Screen::read(&file)?;
        stage.expect_noise(&screen, a, "XR24", 1, size)?;
        // As before for the next round.
        device.set_connector(1, Status::Disconnected)?;
        outputs(&mut stage, 1)?;
        device.set_connector(1, Status::Connected)?;
        outputs(&mut stage, 2)?;
    }
    stage.compositor.check_alive()
}

/// Frames that a client has drawn.
fn drawn(client: &RunningClient) -> Result<u64> {
    Ok(client.counts().context("no counts")?.presented)
}

/// Without any output clients stay, are not called to draw, and go on when an output comes.
pub fn no_output_is_a_state_like_others() -> Result<()> {
    let (device, mut stage) = start("none", "crtcs=1,connectors=1,overlays=2,writeback", &[])?;
    let still = stage.add_noise("XR24", 5, (200, 150), &[])?;
    let mut moving =
        RunningClient::start_test_client(&stage.compositor.display, "moving", &["--size", "128x96"])?;
    moving.wait_presented(PATIENCE)?;
    let pid = stage.compositor.pid();
    for _ in 0..2 {
        device.set_connector(0, Status::Disconnected)?;
        outputs(&mut stage, 0)?;
        // The client writes its figures now and then.
        std::thread::sleep(Duration::from_millis(1500));
        let before = (drawn(&moving)?, cpu(pid)?);
        std::thread::sleep(Duration::from_secs(2));
        let after = (drawn(&moving)?, cpu(pid)?);
        ensure!(after.0 <= before.0 + 1, "the client was called {} times", after.0 - before.0);
        ensure!(after.1 - before.1 < Duration::from_millis(200), "{:?} of CPU", after.1 - before.1);
        ensure!(moving.is_running() && stage.clients[still].is_running(), "a client has ended");
        // Who comes now waits for an output as well.
        let mut late =
            RunningClient::start_test_client(&stage.compositor.display, "late", &["--size", "64x48"])?;
        std::thread::sleep(Duration::from_millis(500));
        ensure!(late.is_running(), "{}", late.output());
        device.set_connector(0, Status::Connected)?;
        outputs(&mut stage, 1)?;
        late.wait_presented(PATIENCE)?;
        let start = drawn(&moving)?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(drawn(&moving)? > start + 10, "it does not go on");
        drop(late);
        stage.clients[still].is_running();
        let screen = stage.capture()?;
        stage.expect_noise(&screen, still, "XR24", 5, (200, 150))?;
    }
    stage.compositor.check_alive()
}

/// User and system time of a process.
fn cpu(pid: i32) -> Result<Duration> {
    Ok(Duration::from_secs_f64(Process::open(pid)?.cpu_seconds()?))
}

/// More displays than CRTCs: the one too many is told of by name, and lit when there is room.
pub fn a_connector_without_a_crtc_is_told_of() -> Result<()> {
    let (device, mut stage) = start("many", "crtcs=1,connectors=2,overlays=1,writeback", &[])?;
    let stats = outputs(&mut stage, 1)?;
    let log = std::fs::read_to_string(primeway_tests::session::artefacts().join("many.log"))?;
    ensure!(log.contains("no free crtc"), "{log}");
    let first = stats.outputs[0].name.clone();
    let client = stage.add_noise("XR24", 1, (100, 80), &[])?;
    device.set_connector(0, Status::Disconnected)?;
    let other = move |stats: &Stats| stats.outputs.len() == 1 && stats.outputs[0].name != first;
    stage.compositor.wait_stats("the other display", PATIENCE, other)?;
    let name = stage.stats()?.outputs[0].name.clone();
    on(&mut stage, client, &name, [0, 0])?;
    let screen = stage.capture()?;
    stage.expect_noise(&screen, client, "XR24", 1, (100, 80))?;
    stage.compositor.check_alive()
}
