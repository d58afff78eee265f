//! Ends, wanted and not: of a client in the middle of a frame, and of primeway itself.
//!
//! Owns the comparison of what is left with what was there before, by the kernel's word.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result, ensure};
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::format::Format;
use primeway_tests::picture::{Pattern, Picture};
use primeway_tests::process::Process;
use rustix::process::Signal;

use crate::desktop::{Desktop, Launch, PATIENCE, runtime_folder, sockets};
use crate::terminals::{ELSEWHERE, active_terminal, switch_to, wait_active};

/// SIGKILL in the middle of the loop, for each kind of memory and format.
pub fn a_killed_client_leaves_nothing() -> Result<()> {
    let mut desktop = Launch::new("victims")?.start()?;
    let neighbour = desktop.client("neighbour", &["--size", "200x200"])?;
    desktop.wait_frames(&neighbour, 10)?;
    let kinds = [
        ("vgem", "XR24", "--fullscreen"),
        ("udmabuf", "NV12", "--new-buffer-each-frame"),
        ("heap", "AR24", "--redraw"),
        ("shm", "XR24", "--redraw"),
        ("vkms", "XR24", "--new-buffer-each-frame"),
    ];
    let mut before = None;
    // The first round makes what is made once and kept.
    for round in 0..3 {
        for (allocator, format, more) in kinds {
            let arguments = ["--alloc", allocator, "--format", format, more];
            let mut victim = desktop.client("victim", &arguments)?;
            desktop.wait_frames(&victim, 3)?;
            Process::open(victim.pid())?.signal(Signal::KILL)?;
            let status = victim.wait_end(PATIENCE)?;
            ensure!(status.signal() == Some(Signal::KILL.as_raw()), "it ended by itself: {status}");
            let gone = victim.pid();
            desktop.wait_stats("the end of its window", |stats| stats.surface(gone).is_none())?;
            let shown = desktop.wait_frames(&neighbour, 0)?.frames_presented;
            desktop.wait_frames(&neighbour, shown + 10).context("the neighbour stopped")?;
        }
        let held = desktop.held()?;
        let first = *before.get_or_insert(held);
        ensure!(first == held, "round {round} left something: before {first:?}, after {held:?}");
    }
    desktop.check_alive()
}

/// The PRIME file, the framebuffers and the seat of a killed compositor are free for the next one.
pub fn a_killed_compositor_leaves_nothing() -> Result<()> {
    let device = DebugDevice::of_driver("vkms")?;
    for round in 0..3 {
        let mut desktop = Launch::new("killed")?.arguments(&["--writeback"]).start()?;
        let mut still =
            desktop.client("still", &["--static", "--pattern", "noise:8", "--size", "300x200"])?;
        still.wait_presented(PATIENCE).with_context(|| format!("round {round}"))?;
        let mut moving = desktop.client("moving", &["--format", "NV12", "--new-buffer-each-frame"])?;
        desktop.wait_frames(&moving, 10)?;
        let stats = desktop.stats()?;
        let surface = stats.surface(still.pid()).context("no window")?;
        let place = (surface.position[0] as u32, surface.position[1] as u32);
        let picture = Picture { pattern: Pattern::Noise(8), width: 300, height: 200, frame: 0 };
        let worst = desktop.capture()?.difference(&picture, &Format::named("XR24")?, place)?;
        ensure!(worst.steps == 0.0, "round {round}: the picture is wrong: {worst:?}");
        let home = active_terminal()?;
        if round == 1 {
            // Once while another terminal is shown.
            switch_to(ELSEWHERE)?;
            wait_active(&desktop, false)?;
        }
        desktop.signal(Signal::KILL)?;
        let status = desktop.wait_end()?;
        switch_to(home)?;
        ensure!(status.signal() == Some(Signal::KILL.as_raw()), "it ended by itself: {status}");
        // Clients hear of it and end; then nothing pins the buffers.
        for client in [&mut still, &mut moving] {
            client.wait_end(PATIENCE)?;
        }
        let pid = desktop.pid();
        let files: Vec<_> = device.files()?.into_iter().filter(|file| file.pid == pid).collect();
        ensure!(files.is_empty(), "open files of a dead process: {files:?}");
        // seatd holds the card a moment longer: it has the client's hang-up still to read.
        let deadline = std::time::Instant::now() + PATIENCE;
        while !device.files()?.is_empty() || !device.framebuffers()?.is_empty() {
            let (files, framebuffers) = (device.files()?, device.framebuffers()?);
            ensure!(std::time::Instant::now() < deadline, "left: {files:?} {framebuffers:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    Ok(())
}

/// SIGTERM and SIGINT: exit status 0, no sockets, no framebuffers, the planes off.
pub fn a_terminated_compositor_ends_cleanly() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        end_by(signal, &mut |_| Ok(())).with_context(|| format!("{signal:?}"))?;
    }
    Ok(())
}

/// The same while another terminal is shown, and no commit is possible any more.
pub fn a_session_ended_while_away_leaves_nothing() -> Result<()> {
    let home = active_terminal()?;
    let result = end_by(Signal::TERM, &mut |desktop| {
        switch_to(ELSEWHERE)?;
        // seatd 0.7 aborts when a client leaves that has not yet answered its request to let go.
        wait_active(desktop, false)
    });
    let terminal = active_terminal();
    switch_to(home)?;
    result?;
    ensure!(terminal? == ELSEWHERE, "the end of a session in the background took its terminal to the front");
    // The seat is free again.
    Launch::new("after-away")?.start()?.check_alive()
}

/// A plane that showed a buffer upside down shows the next master's upright.
pub fn planes_are_left_upright() -> Result<()> {
    let device = DebugDevice::of_driver("vkms")?;
    let turned = || -> Result<Vec<_>> {
        Ok(device.planes()?.into_iter().filter(|plane| plane.rotation != 1).collect())
    };
    let mut desktop = Launch::new("upright")?.start()?;
    let mut client = desktop.client("inverted", &["--y-invert", "--size", "200x100"])?;
    desktop.wait_frames(&client, 3)?;
    ensure!(turned()?.len() == 1, "the inverted buffer is on no plane: {:?}", device.planes()?);
    desktop.signal(Signal::TERM)?;
    let status = desktop.wait_end()?;
    ensure!(status.code() == Some(0), "{status}\n{}", desktop.log());
    client.wait_end(PATIENCE)?;
    ensure!(turned()?.is_empty(), "left turned: {:?}", turned()?);
    Ok(())
}

fn end_by(signal: Signal, before_the_end: &mut dyn FnMut(&Desktop) -> Result<()>) -> Result<()> {
    let device = DebugDevice::of_driver("vkms")?;
    let list = || -> Result<BTreeSet<_>> {
        let entries = std::fs::read_dir(runtime_folder(0)).context("no runtime folder")?;
        Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name())).collect())
    };
    let before = list()?;
    let mut desktop = Launch::new("ended")?.start()?;
    let mut client = desktop.client("moving", &["--fullscreen"])?;
    desktop.wait_frames(&client, 10)?;
    let during = list()?;
    for socket in sockets(&desktop.display) {
        ensure!(during.contains(std::ffi::OsStr::new(&socket)), "no {socket} in {during:?}");
    }
    before_the_end(&desktop)?;
    desktop.signal(signal)?;
    let status = desktop.wait_end()?;
    ensure!(status.code() == Some(0), "{status}\n{}", desktop.log());
    let left: Vec<_> = list()?.difference(&before).cloned().collect();
    ensure!(left.is_empty(), "left in the runtime folder: {left:?}");
    client.wait_end(PATIENCE)?;
    let framebuffers = device.framebuffers()?;
    ensure!(framebuffers.is_empty(), "framebuffers left: {framebuffers:?}");
    let on: Vec<_> = device.planes()?.into_iter().filter(|plane| plane.framebuffer.is_some()).collect();
    ensure!(on.is_empty(), "planes left on: {on:?}");
    Ok(())
}
