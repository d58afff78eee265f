//! A cursor whose picture has a fence: it waits like any surface, and the pointer moves on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use evdev::uinput::VirtualDevice;
use evdev::{EventType, InputEvent, RelativeAxisCode};
use primeway_tests::buffer::fence::Timeline;
use primeway_tests::client::connection::{Events, Wire};
use primeway_tests::mouse::mouse;
use primeway_tests::session::Compositor;
use wayland_client::Proxy;

use crate::scene::{FLUENT, PATIENCE, Pane, buffer, neighbour, presented, rate};

/// As large as the output, so that the pointer is in it.
const WHOLE: (u32, u32) = (1024, 768);

/// Moves to and fro until `done`.
fn moves(wire: &mut Wire, mouse: &mut VirtualDevice, done: impl Fn(&Events) -> bool) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    for step in [5, -5].into_iter().cycle() {
        let event = InputEvent::new(EventType::RELATIVE.0, RelativeAxisCode::REL_X.0, step);
        mouse.emit(&[event]).context("uinput")?;
        if wire.wait(Instant::now() + Duration::from_millis(20), &done)? {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
    }
    Ok(false)
}

pub fn a_cursor_waits_alone() -> Result<()> {
    let compositor = Compositor::start("fence-cursor", &[])?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    // Before the window, which the pointer enters as soon as both are there.
    let (cursor, pointer) = wire.open_cursor()?;
    let mut mouse = mouse()?;
    let mut pane = Pane::open(&mut wire, "below", "XR24", WHOLE)?;
    let other = neighbour(&compositor, &["--size", "64x64"])?;
    ensure!(moves(&mut wire, &mut mouse, |events| events.pointer_entered.is_some())?, "no wl_pointer.enter");
    let serial = wire.events.pointer_entered.context("no serial")?;

    let (image, shape) = buffer(&mut wire, "AR24", (48, 48))?;
    let mut timeline = Timeline::new()?;
    timeline.block(image.plane_fd(0), 1)?;
    pointer.set_cursor(serial, Some(&cursor), 0, 0);
    wire.commit_quietly(&cursor, &shape);
    wire.roundtrip()?;
    let waiting: Vec<u64> = compositor.ctl.stats()?.fences.iter().map(|f| f.surface).collect();
    ensure!(waiting == [u64::from(cursor.id().protocol_id())], "{waiting:?} wait");
    let motions = wire.events.motions;
    ensure!(
        moves(&mut wire, &mut mouse, |events| events.motions > motions + 10)?,
        "the pointer stands still"
    );
    let before = wire.events.presented;
    pane.commit(&mut wire);
    ensure!(presented(&mut wire, before)?, "the window below waits");
    timeline.advance()?;
    wire.roundtrip()?;
    let deadline = Instant::now() + PATIENCE;
    while !compositor.ctl.stats()?.fences.is_empty() {
        ensure!(Instant::now() < deadline, "the cursor waits on");
    }

    // And now one that comes when the picture has been latched.
    let (late, shape) = buffer(&mut wire, "AR24", (32, 32))?;
    wire.commit_quietly(&cursor, &shape);
    wire.roundtrip()?;
    timeline.block(late.plane_fd(0), 1)?;
    let motions = wire.events.motions;
    ensure!(
        moves(&mut wire, &mut mouse, |events| events.motions > motions + 10)?,
        "the pointer stands still"
    );
    let others = rate(&compositor, &other, Duration::from_millis(500))?;
    ensure!(others > FLUENT, "{others:.0} frames a second");
    timeline.advance()?;
    Ok(())
}
