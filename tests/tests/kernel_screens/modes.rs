//! `primeway output`: modes of a display, off and on.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use primeway_tests::ctl::Stats;
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::session::{RunningClient, sibling_program};
use primeway_tests::stage::Stage;

use crate::plug::{PATIENCE, outputs, start};

const SIZE: (u32, u32) = (200, 150);

/// The program that a user runs.
fn primeway(stage: &Stage, arguments: &[&str]) -> Result<Output> {
    run(stage, "output", arguments)
}

fn run(stage: &Stage, subcommand: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(sibling_program("primeway")?);
    command.env("WAYLAND_DISPLAY", &stage.compositor.display).arg(subcommand).args(arguments);
    command.output().context("cannot run primeway")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn done(stage: &Stage, arguments: &[&str]) -> Result<String> {
    let output = primeway(stage, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", said(&output));
    Ok(said(&output))
}

/// Another mode, one that the display does not have, and its favourite again; each time the windows are shown.
pub fn a_mode_is_chosen() -> Result<()> {
    let (_device, mut stage) = start("modes", "overlays=2,writeback", &[])?;
    let before = outputs(&mut stage, 1)?.outputs[0].clone();
    let name = before.name.clone();
    let client = stage.add_noise("XR24", 1, SIZE, &[])?;
    let list = done(&stage, &[])?;
    ensure!(list.contains(&name) && list.contains("800x600@60") && list.contains("current"), "{list}");
    for (mode, size) in [("800x600@60", (800, 600)), ("1280x1024", (1280, 1024)), ("preferred", (1024, 768))]
    {
        let told = done(&stage, &[&name, "--mode", mode])?;
        ensure!(told.contains(&format!("{}x{}@", size.0, size.1)), "{told}");
        let is = |stats: &Stats| (stats.outputs[0].width, stats.outputs[0].height) == size;
        stage.compositor.wait_stats(mode, PATIENCE, is)?;
        let screen = stage.capture()?;
        ensure!((screen.width, screen.height) == size, "{}x{}", screen.width, screen.height);
        stage.expect_noise(&screen, client, "XR24", 1, SIZE)?;
        ensure!(stage.surface(client)?.plane.is_some(), "{mode}: not on a plane");
    }
    for (wrong, why) in [("9999x9999", "it has"), ("800", "is not WIDTHxHEIGHT"), ("800x600@17", "it has")] {
        let output = primeway(&stage, &[&name, "--mode", wrong])?;
        ensure!(output.status.code() == Some(1) && said(&output).contains(why), "{wrong}: {}", said(&output));
    }
    let output = primeway(&stage, &["HDMI-A-77", "--mode", "800x600"])?;
    let text = said(&output);
    ensure!(output.status.code() == Some(1) && text.contains(&name), "{text}");
    let screen = stage.capture()?;
    stage.expect_noise(&screen, client, "XR24", 1, SIZE)?;
    stage.compositor.check_alive()
}

/// Frames that a client has drawn.
fn drawn(client: &RunningClient) -> Result<u64> {
    Ok(client.counts().context("no counts")?.frames)
}

/// Off: the CRTC is, no buffer is held by it, clients go on at a frame a second. On: as before.
pub fn an_output_is_turned_off_and_on() -> Result<()> {
    let (device, mut stage) = start("power", "overlays=2,writeback", &[])?;
    let name = outputs(&mut stage, 1)?.outputs[0].name.clone();
    let still = stage.add_noise("XR24", 1, SIZE, &[])?;
    let mut moving =
        RunningClient::start_test_client(&stage.compositor.display, "moving", &["--size", "128x96"])?;
    moving.wait_presented(PATIENCE)?;
    let debug = DebugDevice::of_node(&device.card_node()?)?;
    for round in 0..3 {
        let told = done(&stage, &[&name, "--off"])?;
        ensure!(told.contains("off"), "{told}");
        let lit = debug.planes()?.into_iter().filter(|plane| plane.crtc.is_some()).count();
        ensure!(lit == 0, "round {round}: {lit} planes are on");
        // The client writes its figures now and then.
        std::thread::sleep(Duration::from_millis(1500));
        let before = drawn(&moving)?;
        std::thread::sleep(Duration::from_secs(3));
        let frames = drawn(&moving)? - before;
        ensure!((1..=5).contains(&frames), "round {round}: {frames} frames in three seconds of darkness");
        let failed = stage.capture().map(|_| "a picture").map_err(|err| format!("{err:#}"));
        ensure!(failed.as_ref().is_err_and(|err| err.contains("off")), "{failed:?}");
        let why = said(&run(&stage, "explain", &["--all"])?);
        let on = format!("primeway output {name} --on");
        ensure!(why.contains(&format!("{name} is off")) && why.contains(&on), "{why}");
        let held = said(&run(&stage, "planes", &[])?);
        ensure!(!held.contains(" ms") && !held.contains(" h\n"), "{held}");
        done(&stage, &[&name, "--off"])?;
        done(&stage, &[&name, "--on"])?;
        let shown = outputs(&mut stage, 1)?.outputs[0].frames;
        let lights = |stats: &Stats| stats.outputs[0].frames > shown + 20;
        stage.compositor.wait_stats("frames", PATIENCE, lights)?;
        let counters = run(&stage, "counters", &[])?;
        let none = format!("primeway_lost_flips{{output=\"{name}\"}} 0\n");
        ensure!(said(&counters).contains(&none), "round {round}: {}", said(&counters));
        let screen = stage.capture()?;
        stage.expect_noise(&screen, still, "XR24", 1, SIZE)?;
    }
    ensure!(moving.is_running(), "{}", moving.output());
    stage.compositor.check_alive()
}
