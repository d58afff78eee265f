//! Keyboard and pointer from the kernel to clients: uinput devices, through udev, libinput and primeway.
//!
//! Owns the devices. Where the pointer is, is read from the kernel's cursor plane.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use evdev::uinput::VirtualDevice;
use evdev::{AttributeSet, EventType, InputEvent, KeyCode, RelativeAxisCode};
use primeway_tests::ctl::Surface;
use primeway_tests::debugfs::{DebugDevice, PlaneState};
use primeway_tests::mouse::mouse;

use crate::desktop::{Desktop, Launch, PATIENCE};
use crate::seat_client::SeatClient;
use crate::terminals::{ELSEWHERE, active_terminal, switch_to, wait_active};

/// Sides of the windows.
const SIZE: (u32, u32) = (240, 180);
/// How near the pointer must come, in pixels.
const NEAR: i32 = 12;

fn keyboard() -> Result<VirtualDevice> {
    // udev calls a device a keyboard when it has the whole first row of keys.
    let mut keys = AttributeSet::<KeyCode>::new();
    (1..=120).for_each(|code| keys.insert(KeyCode(code)));
    let device = VirtualDevice::builder()
        .and_then(|device| device.name("primeway test keyboard").with_keys(&keys)?.build());
    device.context("cannot make a uinput keyboard")
}

fn press(device: &mut VirtualDevice, key: KeyCode, pressed: bool) -> Result<()> {
    let event = InputEvent::new(EventType::KEY.0, key.0, i32::from(pressed));
    device.emit(&[event]).context("uinput")
}

/// The plane of the pointer as the kernel has it; `None` while it is off.
fn cursor_plane(desktop: &mut Desktop) -> Result<Option<PlaneState>> {
    let stats = desktop.stats()?;
    let planes = stats.outputs.iter().flat_map(|output| &output.planes);
    let id = planes.filter(|plane| plane.kind == "Cursor").map(|plane| plane.id).next();
    let id = id.context("the display has no cursor plane")?;
    let known = DebugDevice::of_driver("vkms")?.planes()?;
    Ok(known.into_iter().find(|plane| plane.id == id).filter(|plane| plane.framebuffer.is_some()))
}

/// Moves the mouse in small steps until the cursor plane is at `target`.
fn move_to(desktop: &mut Desktop, mouse: &mut VirtualDevice, target: (i32, i32)) -> Result<PlaneState> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let plane = cursor_plane(desktop)?.context("the cursor plane is off")?;
        let (dx, dy) = (target.0 - plane.position[2], target.1 - plane.position[3]);
        if dx.abs() <= NEAR && dy.abs() <= NEAR {
            return Ok(plane);
        }
        ensure!(Instant::now() < deadline, "the pointer does not reach {target:?}: {:?}", plane.position);
        let step = |distance: i32| distance.clamp(-20, 20);
        let events = [(RelativeAxisCode::REL_X, dx), (RelativeAxisCode::REL_Y, dy)]
            .map(|(axis, distance)| InputEvent::new(EventType::RELATIVE.0, axis.0, step(distance)));
        mouse.emit(&events).context("uinput")?;
        std::thread::sleep(Duration::from_millis(40));
    }
}

/// The window of a client in this process, by its title.
fn window(desktop: &mut Desktop, title: &str) -> Result<Surface> {
    let own = std::process::id() as i32;
    let find = |surface: &&Surface| surface.title.as_deref() == Some(title);
    let what = format!("the window {title:?}");
    let stats = desktop.wait_stats(&what, |stats| stats.surfaces(own).iter().any(find))?;
    stats.surfaces(own).into_iter().find(find).cloned().context("the window is gone")
}

fn centre(surface: &Surface) -> (i32, i32) {
    (surface.position[0] + surface.size[0] / 2, surface.position[1] + surface.size[1] / 2)
}

/// Clicks into the middle of `into`, which then has the keyboard, and `other` has not.
fn click_focuses(
    desktop: &mut Desktop,
    mouse: &mut VirtualDevice,
    keyboard: &mut VirtualDevice,
    into: &mut SeatClient,
    other: &mut SeatClient,
) -> Result<()> {
    let surface = window(desktop, &into.title)?;
    move_to(desktop, mouse, centre(&surface))?;
    into.wait("wl_pointer.enter and motion", |seen| seen.pointer_inside && seen.motions > 0)?;
    into.forget();
    other.forget();
    for pressed in [true, false] {
        press(mouse, KeyCode::BTN_LEFT, pressed)?;
    }
    let left = u32::from(KeyCode::BTN_LEFT.0);
    into.wait("the click", |seen| seen.buttons == [(left, true), (left, false)])?;
    into.wait("wl_keyboard.enter", |seen| seen.keyboard_inside)?;
    for (key, pressed) in [(KeyCode::KEY_A, true), (KeyCode::KEY_A, false)] {
        press(keyboard, key, pressed)?;
    }
    let a = u32::from(KeyCode::KEY_A.0);
    into.wait("the key", |seen| seen.keys == [(a, true), (a, false)])?;
    other.settle()?;
    let seen = &other.seen;
    ensure!(
        seen.keys.is_empty() && seen.buttons.is_empty() && !seen.keyboard_inside && !seen.pointer_inside,
        "{} got what was for {}: {seen:?}",
        other.title,
        into.title
    );
    Ok(())
}

/// Motion moves the cursor plane, a click focuses, and keys go to the focused window.
pub fn keyboard_and_pointer_reach_clients() -> Result<()> {
    let mut desktop = Launch::new("input")?.arguments(&["--writeback"]).start()?;
    let mut first = SeatClient::open(&desktop.display, "first", SIZE, 0xff20_8020)?;
    let mut second = SeatClient::open(&desktop.display, "second", SIZE, 0xff80_2020)?;
    let places = (window(&mut desktop, "first")?, window(&mut desktop, "second")?);
    ensure!(places.0.position != places.1.position, "the windows lie on each other: {places:?}");
    if let Some(plane) = cursor_plane(&mut desktop)? {
        bail!("a pointer is shown without a pointing device: {plane:?}");
    }
    let without = desktop.capture()?;
    let (mut keyboard, mut mouse) = (keyboard()?, mouse()?);
    let deadline = Instant::now() + PATIENCE;
    while cursor_plane(&mut desktop)?.is_none() {
        ensure!(Instant::now() < deadline, "no pointer is shown: {}", desktop.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    // A place where nothing else changes: below the windows.
    let target = (500, 600);
    let plane = move_to(&mut desktop, &mut mouse, target)?;
    std::thread::sleep(Duration::from_millis(200));
    let with = desktop.capture()?;
    let (x, y) = (plane.position[2] as u32, plane.position[3] as u32);
    let changed = (x..x + 24).flat_map(|x| (y..y + 24).map(move |y| (x, y)));
    let changed = changed.filter(|(x, y)| with.pixel(*x, *y) != without.pixel(*x, *y)).count();
    ensure!(changed > 20, "the pointer at {x},{y} cannot be seen: {changed} pixels differ");
    first.wait("a keymap", |seen| seen.keymap_bytes > 1000)?;
    click_focuses(&mut desktop, &mut mouse, &mut keyboard, &mut first, &mut second)?;
    click_focuses(&mut desktop, &mut mouse, &mut keyboard, &mut second, &mut first)?;
    click_focuses(&mut desktop, &mut mouse, &mut keyboard, &mut first, &mut second)?;
    // Devices that go away take the pointer with them.
    drop(mouse);
    let deadline = Instant::now() + PATIENCE;
    while cursor_plane(&mut desktop)?.is_some() {
        ensure!(Instant::now() < deadline, "the pointer stays without its device");
        std::thread::sleep(Duration::from_millis(50));
    }
    desktop.check_alive()
}

/// Ctrl+Alt+F7 is primeway's own: it switches, and the client hears nothing of F7.
pub fn the_keyboard_switches_terminals() -> Result<()> {
    ensure!(ELSEWHERE == 7, "F7 is pressed below");
    let home = active_terminal()?;
    let mut desktop = Launch::new("switch-keys")?.start()?;
    let mut client = SeatClient::open(&desktop.display, "only", SIZE, 0xff20_8020)?;
    client.wait("the keyboard", |seen| seen.keyboard_inside)?;
    let mut keyboard = keyboard()?;
    // A first key tells when the device is there.
    let deadline = Instant::now() + PATIENCE;
    while client.seen.keys.is_empty() {
        ensure!(Instant::now() < deadline, "no key arrives: {}", desktop.log());
        for pressed in [true, false] {
            press(&mut keyboard, KeyCode::KEY_B, pressed)?;
        }
        std::thread::sleep(Duration::from_millis(50));
        client.settle()?;
    }
    let chord = [KeyCode::KEY_LEFTCTRL, KeyCode::KEY_LEFTALT, KeyCode::KEY_F7];
    chord.iter().try_for_each(|key| press(&mut keyboard, *key, true))?;
    let switched = wait_active(&desktop, false);
    let terminal = active_terminal();
    chord.iter().rev().try_for_each(|key| press(&mut keyboard, *key, false))?;
    switch_to(home)?;
    switched?;
    ensure!(terminal? == ELSEWHERE, "the session is inactive but its terminal is still there");
    wait_active(&desktop, true)?;
    client.settle()?;
    let f7 = u32::from(KeyCode::KEY_F7.0);
    ensure!(client.seen.keys.iter().all(|(key, _)| *key != f7), "F7 came: {:?}", client.seen.keys);
    // The keys that were let go elsewhere must not stick: a plain key arrives, and no further switch happens.
    client.forget();
    press(&mut keyboard, KeyCode::KEY_F7, true)?;
    press(&mut keyboard, KeyCode::KEY_F7, false)?;
    client.wait("a plain F7", |seen| seen.keys == [(f7, true), (f7, false)])?;
    ensure!(active_terminal()? == home, "Ctrl and Alt still count as pressed");
    desktop.check_alive()
}
