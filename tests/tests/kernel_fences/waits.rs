//! Fences that are there when a commit is made: it waits, its neighbours do not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::fence::Timeline;
use primeway_tests::client::connection::Wire;
use primeway_tests::ctl::Surface;
use primeway_tests::process::Process;
use primeway_tests::session::Compositor;

use crate::scene::{FLUENT, PATIENCE, Pane, buffer, neighbour, own_pid, presented, rate};

const SIZE: (u32, u32) = (200, 150);
/// How long frames are counted.
const MOMENT: Duration = Duration::from_millis(400);

/// The surface keeps its picture and says what it waits for; its client's other surface and other clients go on.
pub fn a_fence_holds_back_its_surface_alone() -> Result<()> {
    let mut compositor = Compositor::start("fence-alone", &[])?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let mut held = Pane::open(&mut wire, "held", "NV12", SIZE)?;
    let mut free = Pane::open(&mut wire, "free", "XR24", SIZE)?;
    let other = neighbour(&compositor, &["--size", "200x150"])?;
    let usual = rate(&compositor, &other, MOMENT)?;

    // The luma is ready, the chroma is not.
    let mut timeline = Timeline::new()?;
    timeline.block(held.coming().plane_fd(1), 1)?;
    let shown = held.report(&compositor.ctl.stats()?)?;
    held.commit(&mut wire);
    wire.roundtrip()?;
    let fence = held.fence(&compositor.ctl.stats()?).context("nothing waits")?;
    ensure!(fence.buffer_plane == Some(1) && !fence.late, "{fence:?}");
    timeline.block(held.coming().plane_fd(0), 1)?;
    held.commit(&mut wire);
    wire.roundtrip()?;
    for _ in 0..10 {
        let before = wire.events.presented;
        free.commit(&mut wire);
        ensure!(presented(&mut wire, before)?, "the client's other surface stands still");
    }
    let meanwhile = rate(&compositor, &other, MOMENT)?;
    ensure!(meanwhile > FLUENT, "{meanwhile:.0} frames a second, {usual:.0} before");

    // A second commit behind it, late as well, is not told of again.
    std::thread::sleep(Duration::from_millis(600));
    let stats = compositor.ctl.stats()?;
    let (report, fence) = (held.report(&stats)?, held.fence(&stats).context("nothing waits any more")?);
    ensure!(fence.late && fence.waiting_ms >= 1000 && fence.buffer_plane == Some(1), "{fence:?}");
    let reason = report.reason.clone().unwrap_or_default();
    ensure!(reason.starts_with("waits for a fence of buffer plane 1 since "), "{report:?}");
    let kept = |s: &Surface| (s.frames_presented, s.plane, s.position, s.size);
    ensure!(kept(&report) == kept(&shown), "{shown:?} before, {report:?}");
    let told = compositor.log_end().matches("a surface waits for a fence").count();
    ensure!(told == 1, "told {told} times:\n{}", compositor.log_end());

    let before = wire.events.presented;
    timeline.advance()?;
    ensure!(presented(&mut wire, before)?, "still not shown");
    let stats = compositor.wait_stats("its end", PATIENCE, |stats| stats.fences.is_empty())?;
    let report = held.report(&stats)?;
    ensure!(!report.reason.unwrap_or_default().contains("fence"), "{:?}", held.report(&stats)?);
    println!(
        "a_fence_holds_back_its_surface_alone: others {usual:.0} frames/s before, {meanwhile:.0} meanwhile"
    );
    Ok(())
}

/// As with a GPU: each frame is committed while it is still being drawn, and done some milliseconds later.
pub fn frames_that_are_done_late_are_scanned_out() -> Result<()> {
    const FRAMES: u64 = 20;
    let compositor = Compositor::start("fence-gpu", &[])?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let mut pane = Pane::open(&mut wire, "gpu", "XR24", SIZE)?;
    let mut timeline = Timeline::new()?;
    let (start, zero_copy) = (Instant::now(), wire.events.zero_copy);
    for frame in 0..FRAMES {
        let before = wire.events.presented;
        timeline.block(pane.coming().plane_fd(0), 1)?;
        pane.commit(&mut wire);
        wire.roundtrip()?;
        std::thread::sleep(Duration::from_millis(3));
        ensure!(wire.events.presented == before, "frame {frame} was shown before it was done");
        timeline.advance()?;
        ensure!(presented(&mut wire, before)?, "frame {frame} was not shown");
    }
    let rate = FRAMES as f64 / start.elapsed().as_secs_f64();
    let copied = FRAMES - (wire.events.zero_copy - zero_copy);
    ensure!(copied == 0, "{copied} frames were not scanned out");
    println!("frames_that_are_done_late_are_scanned_out: {rate:.0} frames/s");
    Ok(())
}

/// A commit waits for what was there when it was made, and no longer.
pub fn fences_added_later_do_not_hold_a_commit() -> Result<()> {
    let compositor = Compositor::start("fence-more", &[])?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let mut pane = Pane::open(&mut wire, "more", "XR24", SIZE)?;
    let (mut first, second) = (Timeline::new()?, Timeline::new()?);
    first.block(pane.coming().plane_fd(0), 1)?;
    pane.commit(&mut wire);
    wire.roundtrip()?;
    ensure!(pane.fence(&compositor.ctl.stats()?).is_some(), "it does not wait for the first");
    second.block(pane.last().plane_fd(0), 1)?;
    let before = wire.events.presented;
    first.advance()?;
    ensure!(presented(&mut wire, before)?, "it waits for the second");
    Ok(())
}

/// vkms has no timelines, so clients are not offered any (they are in the target qemu_syncobj).
pub fn without_timelines_there_is_no_explicit_synchronisation() -> Result<()> {
    let compositor = Compositor::start("fence-implicit", &[])?;
    let wire = Wire::connect_to(&compositor.display, 4)?;
    ensure!(wire.has_presentation(), "the globals were not looked at");
    ensure!(wire.syncobj().is_none(), "wp_linux_drm_syncobj_manager_v1 is offered");
    Ok(())
}

/// A client that commits and commits behind a fence is ended; nobody else notices.
pub fn commits_behind_a_fence_are_bounded() -> Result<()> {
    const COMMITS: u32 = 100_000;
    const LIMIT: u32 = 300;
    let mut compositor = Compositor::start_with("fence-bound", &["--limit", &format!("commits={LIMIT}")])?;
    let other = neighbour(&compositor, &["--size", "200x150"])?;
    std::thread::sleep(Duration::from_millis(500));
    let process = Process::open(compositor.pid())?;
    let (files, resident) = (files_at_rest(&compositor)?, process.resident_kib()?);
    let timeline = Timeline::new()?;
    for busy in [true, false] {
        // Either each commit has a fence of its own to wait for, or only the first.
        let mut wire = Wire::connect_to(&compositor.display, 4)?;
        let mut pane = Pane::open(&mut wire, "greedy", "XR24", SIZE)?;
        timeline.block(pane.coming().plane_fd(0), 1)?;
        let start = Instant::now();
        let mut made = 0;
        let ended = (0..COMMITS).find_map(|commit| {
            if busy || commit == 0 {
                wire.commit_quietly(&pane.window.surface, &pane.buffers[1].1);
            } else {
                pane.window.surface.commit();
            }
            made = commit;
            (commit % 16 == 15).then(|| wire.roundtrip().err()).flatten()
        });
        let error = wire.error();
        let expected = format!("{} commits behind a fence", LIMIT + 1);
        let said = error.as_ref().map(|e| (e.interface.as_str(), e.code, e.message.as_str()));
        ensure!(
            said == Some(("wl_display", 2, expected.as_str())),
            "{said:?} ({ended:?}) after {made} commits in {:?}",
            start.elapsed()
        );
        ensure!(made < LIMIT + 50, "ended after {made} commits");
        let grown = process.resident_kib()?.saturating_sub(resident);
        ensure!(grown < 8 * 1024, "{grown} KiB for {made} commits");
        println!(
            "commits_behind_a_fence_are_bounded: {made} commits in {:?}, {grown} KiB more",
            start.elapsed()
        );
        pane.buffers.clear();
    }
    let meanwhile = rate(&compositor, &other, MOMENT)?;
    ensure!(meanwhile > FLUENT, "{meanwhile:.0} frames a second");
    compositor.wait_stats("its end", PATIENCE, |stats| {
        stats.fences.is_empty() && stats.surfaces(own_pid()).is_empty()
    })?;
    wait_files(&compositor, files)
}

/// The compositor's open files, once their number does not change any more: the last connection to its control socket
/// may still be one of them.
pub fn files_at_rest(compositor: &Compositor) -> Result<usize> {
    let process = Process::open(compositor.pid())?;
    let (mut files, mut alike) = (process.open_files()?, 0);
    while alike < 5 {
        std::thread::sleep(Duration::from_millis(40));
        let now = process.open_files()?;
        alike = if now == files { alike + 1 } else { 0 };
        files = now;
    }
    Ok(files)
}

pub fn wait_files(compositor: &Compositor, wanted: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let files = Process::open(compositor.pid())?.open_files()?;
        if files == wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{files} open files, {wanted} before");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Destroys the surface, the buffer or the client while its commits wait for a fence that stays as it is.
pub fn what_ends_while_it_waits_leaves_nothing() -> Result<()> {
    let mut compositor = Compositor::start("fence-ends", &[])?;
    let timeline = Timeline::new()?;
    // What is made once and kept.
    drop(Pane::open(&mut Wire::connect_to(&compositor.display, 4)?, "first", "XR24", SIZE)?);
    std::thread::sleep(Duration::from_millis(500));
    let empty = files_at_rest(&compositor)?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let keeper = Pane::open(&mut wire, "keeper", "XR24", SIZE)?;
    wire.roundtrip()?;
    let before = compositor.ctl.stats()?.resources;
    let files = files_at_rest(&compositor)?;

    for what in ["surface", "buffer"] {
        let mut pane = Pane::open(&mut wire, what, "XR24", SIZE)?;
        timeline.block(pane.coming().plane_fd(0), 1)?;
        let waiting = [pane.buffers[1].1.clone(), pane.buffers[2].1.clone()];
        pane.commit(&mut wire);
        // Behind the first, with nothing to wait for itself.
        pane.commit(&mut wire);
        wire.roundtrip()?;
        ensure!(pane.fence(&compositor.ctl.stats()?).is_some(), "{what}: it does not wait");
        wire.events.released.clear();
        let Pane { window, buffers, .. } = pane;
        if what == "buffer" {
            buffers.into_iter().for_each(|(_, wl)| wl.destroy());
            wire.roundtrip()?;
            ensure!(!compositor.ctl.stats()?.fences.is_empty(), "the surface forgot what it waits for");
            window.close();
            wire.roundtrip()?;
        } else {
            window.close();
            wire.roundtrip()?;
            // What was never shown is the client's again.
            use wayland_client::Proxy;
            let back =
                |wl: &wayland_client::protocol::wl_buffer::WlBuffer| wire.events.released.contains(&wl.id());
            ensure!(waiting.iter().all(back), "buffers were not released: {:?}", wire.events.released);
            buffers.into_iter().for_each(|(_, wl)| wl.destroy());
        }
        wire.roundtrip()?;
        let same = |stats: &primeway_tests::ctl::Stats| {
            stats.fences.is_empty()
                && (stats.resources.gem_handles, stats.resources.framebuffers)
                    == (before.gem_handles, before.framebuffers)
        };
        compositor.wait_stats(&format!("the end of the {what}"), PATIENCE, same)?;
        wait_files(&compositor, files).context(what)?;
    }

    let mut pane = Pane::open(&mut wire, "killed", "NV12", SIZE)?;
    timeline.block(pane.coming().plane_fd(0), 1)?;
    timeline.block(pane.coming().plane_fd(1), 1)?;
    pane.commit(&mut wire);
    let unmapped = buffer(&mut wire, "XR24", SIZE)?;
    timeline.block(unmapped.0.plane_fd(0), 1)?;
    wire.roundtrip()?;
    ensure!(pane.fence(&compositor.ctl.stats()?).is_some(), "the client does not wait");
    drop((pane, keeper, unmapped, wire));
    compositor.wait_stats("the end of the client", PATIENCE, |stats| {
        stats.fences.is_empty() && stats.surfaces(own_pid()).is_empty()
    })?;
    wait_files(&compositor, empty).context("client")
}
