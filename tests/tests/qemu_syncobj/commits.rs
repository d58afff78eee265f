//! Commits with points: what waits, and when buffers are free again.

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use drm_prime::sys::{CpuAccess, export_sync_file};
use lab::vkms::card_by_driver;
use primeway_tests::buffer::Allocator;
use primeway_tests::buffer::fence::{VgemFence, promise};
use primeway_tests::client::connection::Wire;
use primeway_tests::ctl::Stats;
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::terminals::{ELSEWHERE, active_terminal, switch_to};

use super::client::{Buffer, PATIENCE, Pane, SCREEN, Stage, not_shown, set_points, shown};
use super::device::open;

const SMALL: (u32, u32) = (160, 120);

fn buffers<const N: usize>(
    stage: &Stage,
    wire: &mut Wire,
    allocator: Allocator,
    size: (u32, u32),
) -> Result<[Buffer; N]> {
    let made: Result<Vec<Buffer>> = (0..N).map(|_| Buffer::new(stage, wire, allocator, size)).collect();
    made?.try_into().map_err(|_| anyhow::anyhow!("another number of buffers"))
}

/// The framebuffer that the kernel shows on the primary plane.
fn on_screen(device: &DebugDevice) -> Result<u32> {
    let planes = device.planes()?;
    let shown = planes.into_iter().find_map(|plane| plane.framebuffer);
    Ok(shown.context("no plane shows anything")?.id)
}

/// The surface keeps its picture and says what it waits for; another surface of its client goes on, and it is shown once the
/// point signals.
pub fn an_acquire_point_holds_back_its_surface_alone() -> Result<()> {
    let stage = Stage::new("acquire", &[])?;
    let mut wire = stage.connect()?;
    let mut held = Pane::open(&stage, &mut wire, "held", false)?;
    let mut free = Pane::open(&stage, &mut wire, "free", false)?;
    let [mut a, mut b, mut c, mut d] = buffers(&stage, &mut wire, Allocator::Vkms, SMALL)?;
    held.show(&mut wire, &mut a)?;
    free.show(&mut wire, &mut c)?;

    held.commit_early(&mut wire, &mut b);
    wire.roundtrip()?;
    let fence = stage.fence(&held.window.surface)?.context("nothing waits")?;
    ensure!(fence.acquire_point == Some(held.points) && fence.buffer_plane.is_none(), "{fence:?}");
    for _ in 0..5 {
        free.show(&mut wire, &mut d)?;
        free.show(&mut wire, &mut c)?;
    }
    ensure!(!a.is_free()? && !b.is_free()?, "what is shown, and what waits, is not free");
    let before = wire.events.presented;
    not_shown(&mut wire, before)?;
    held.signal()?;
    shown(&mut wire, before)?;
    a.wait_free()?;
    b.stays_busy()?;
    ensure!(stage.fence(&held.window.surface)?.is_none(), "it still waits");
    Ok(())
}

/// What an explicit commit does not wait for are its buffer's implicit fences; a point that stands for a fence, promised and
/// not signalled, holds it back as one that nobody promised does.
pub fn only_the_acquire_point_counts() -> Result<()> {
    let stage = Stage::new("only", &[])?;
    let mut wire = stage.connect()?;
    let mut pane = Pane::open(&stage, &mut wire, "pane", false)?;
    let [mut first, mut second] = buffers(&stage, &mut wire, Allocator::Vgem, SMALL)?;
    pane.show(&mut wire, &mut first)?;
    // Without points the fence holds the commit back: the window of another client.
    let fence = VgemFence::block(second.memory.plane_fd(0))?;
    let mut other = stage.connect()?;
    let implicit = other.open_window("implicit", false)?;
    let how = primeway_tests::client::connection::BufferRequest {
        modifier: primeway_tests::format::MODIFIER_LINEAR,
        y_invert: false,
        immediate: true,
    };
    let same = other.create_buffer(&second.memory, &how)?;
    other.commit(&implicit.surface, &same);
    other.roundtrip()?;
    let waits = stage.fence(&implicit.surface)?.context("the implicit commit does not wait")?;
    ensure!(waits.buffer_plane == Some(0) && waits.acquire_point.is_none(), "{waits:?}");
    // With points it is shown at once, although the fence is still there.
    pane.show(&mut wire, &mut second)?;
    ensure!(stage.fence(&implicit.surface)?.is_some(), "the fence has signalled by itself");

    // A point behind that very fence.
    let file = export_sync_file(second.memory.plane_fd(0), CpuAccess::Read)?;
    let card = open(&card_by_driver("virtio_gpu")?)?;
    promise(card.as_fd(), pane.ready.ours.export()?.as_fd(), pane.points + 1, file.as_fd())?;
    let before = wire.events.presented;
    pane.commit_early(&mut wire, &mut first);
    wire.roundtrip()?;
    ensure!(stage.fence(&pane.window.surface)?.is_some(), "the promised point does not hold");
    not_shown(&mut wire, before)?;
    fence.signal()?;
    shown(&mut wire, before)?;
    first.stays_busy()
}

/// On a plane: not before the kernel shows something else, ten times; composited: with the commit that replaces it.
pub fn release_points_signal_when_the_buffer_has_left_the_screen() -> Result<()> {
    let stage = Stage::new("release", &[])?;
    let device = DebugDevice::of_driver("virtio_gpu")?;
    let mut wire = stage.connect()?;
    let mut pane = Pane::open(&stage, &mut wire, "whole", true)?;
    let mut pair: [Buffer; 2] = buffers(&stage, &mut wire, Allocator::Vkms, SCREEN)?;
    pane.show(&mut wire, &mut pair[0])?;
    ensure!(wire.events.zero_copy == 1, "the display does not show the client's own memory");
    pair[0].stays_busy()?;
    for round in 0..10 {
        let [now, next] = &mut pair;
        let shown_now = on_screen(&device)?;
        pane.commit_early(&mut wire, next);
        wire.roundtrip()?;
        ensure!(!now.is_free()?, "round {round}: free while the next is not ready");
        pane.signal()?;
        // No sleep in between: that there is none between the signal and the flip is what is looked at.
        while !now.is_free()? {}
        ensure!(on_screen(&device)? != shown_now, "round {round}: free while the display reads it");
        ensure!(!next.is_free()?, "round {round}: what is shown is free");
        pair.swap(0, 1);
    }
    ensure!(wire.events.zero_copy >= 1);
    // The surface goes: the display shows the buffer until the next frame.
    let shown_now = on_screen(&device)?;
    pane.explicit.destroy();
    pane.window.close();
    wire.roundtrip()?;
    while !pair[0].is_free()? {}
    ensure!(on_screen(&device)? != shown_now, "free while the display reads it, after its surface's end");

    let mut pane = Pane::open(&stage, &mut wire, "part", false)?;
    let [mut a, mut b] = buffers(&stage, &mut wire, Allocator::Vkms, SMALL)?;
    pane.show(&mut wire, &mut a)?;
    a.stays_busy()?;
    pane.show(&mut wire, &mut b)?;
    a.wait_free()?;
    b.stays_busy()
}

/// The same wl_buffer again, with and without new pixels: each commit has a release point of its own.
pub fn a_buffer_committed_again_has_new_points() -> Result<()> {
    let stage = Stage::new("again", &[])?;
    let mut wire = stage.connect()?;
    for (fullscreen, size) in [(true, SCREEN), (false, SMALL)] {
        let mut pane = Pane::open(&stage, &mut wire, "pane", fullscreen)?;
        let [mut a, mut b] = buffers(&stage, &mut wire, Allocator::Vkms, size)?;
        pane.show(&mut wire, &mut a)?;
        pane.show(&mut wire, &mut a)?;
        a.released.wait(1)?;
        a.released.stays(2)?;
        // A new acquire point counts, too.
        let before = wire.events.presented;
        pane.commit_early(&mut wire, &mut a);
        wire.roundtrip()?;
        ensure!(stage.fence(&pane.window.surface)?.is_some(), "the new acquire point does not count");
        not_shown(&mut wire, before)?;
        ensure!(!a.released.has(2)?, "released by a commit that waits");
        pane.signal()?;
        shown(&mut wire, before)?;
        a.released.wait(2)?;
        a.released.stays(3)?;
        // Without damage nothing new is drawn; the promise is another one all the same.
        pane.ready.ours.signal(pane.points + 1)?;
        pane.points += 1;
        set_points(&pane.explicit, (&pane.ready, pane.points), &mut a);
        pane.window.surface.attach(Some(&a.wl), 0, 0);
        pane.window.surface.commit();
        wire.roundtrip()?;
        a.released.wait(3)?;
        a.released.stays(4)?;
        pane.show(&mut wire, &mut b)?;
        a.wait_free()?;
        ensure!(!b.is_free()?);
        pane.explicit.destroy();
        pane.window.close();
        wire.roundtrip()?;
        b.wait_free()?;
    }
    Ok(())
}

/// Replaced before it was shown, held back for ever, taken off, switched to implicit, or its client gone.
pub fn release_points_signal_for_what_is_never_shown() -> Result<()> {
    let stage = Stage::new("never", &[])?;
    let mut wire = stage.connect()?;
    let mut pane = Pane::open(&stage, &mut wire, "pane", false)?;
    let [mut a, mut b, mut c, mut d] = buffers(&stage, &mut wire, Allocator::Vkms, SMALL)?;
    // Three in one go: the last one stays.
    for buffer in [&mut a, &mut b, &mut c] {
        pane.commit(&mut wire, buffer)?;
    }
    wire.roundtrip()?;
    a.wait_free()?;
    b.wait_free()?;
    c.stays_busy()?;
    // Held back behind a point, with the one before: the surface goes.
    pane.commit_early(&mut wire, &mut a);
    pane.commit_early(&mut wire, &mut b);
    wire.roundtrip()?;
    ensure!(!a.is_free()? && !b.is_free()? && !c.is_free()?);
    pane.explicit.destroy();
    pane.window.close();
    wire.roundtrip()?;
    for buffer in [&a, &b, &c] {
        buffer.wait_free()?;
    }

    let mut pane = Pane::open(&stage, &mut wire, "pane", false)?;
    pane.show(&mut wire, &mut a)?;
    pane.window.surface.attach(None, 0, 0);
    pane.window.surface.commit();
    wire.roundtrip()?;
    a.wait_free()?;
    pane.explicit.destroy();
    pane.window.close();

    // From explicit to implicit, and back.
    let mut pane = Pane::open(&stage, &mut wire, "pane", false)?;
    pane.show(&mut wire, &mut a)?;
    pane.explicit.destroy();
    let before = wire.events.presented;
    wire.commit(&pane.window.surface, &b.wl);
    shown(&mut wire, before)?;
    a.wait_free()?;
    pane.explicit = wire.explicit(&pane.window.surface)?;
    pane.show(&mut wire, &mut c)?;
    c.stays_busy()?;

    // The client goes, with one shown and one held back; its timelines live on in this process.
    pane.commit_early(&mut wire, &mut d);
    wire.roundtrip()?;
    ensure!(!c.is_free()? && !d.is_free()?);
    drop((pane, wire));
    c.wait_free()?;
    d.wait_free()
}

/// Switched away, nothing is drawn: what a surface held back or had composited is released with it all the same, and not with
/// the first frame after the return.
pub fn release_points_signal_while_the_session_is_away() -> Result<()> {
    let mut stage = Stage::new("away", &[])?;
    let home = active_terminal()?;
    let mut wire = stage.connect()?;
    let mut pane = Pane::open(&stage, &mut wire, "pane", false)?;
    let [mut a, mut b, mut c] = buffers(&stage, &mut wire, Allocator::Vkms, SMALL)?;
    pane.show(&mut wire, &mut a)?;
    switch_to(ELSEWHERE)?;
    let active = |stats: &Stats| stats.device.active == Some(true);
    stage.compositor.wait_stats("the pause", PATIENCE, |stats| !active(stats))?;
    pane.commit(&mut wire, &mut b)?;
    wire.roundtrip()?;
    a.wait_free()?;
    pane.commit_early(&mut wire, &mut c);
    wire.roundtrip()?;
    ensure!(!b.is_free()? && !c.is_free()?);
    pane.explicit.destroy();
    pane.window.close();
    wire.roundtrip()?;
    let released = b.wait_free().and_then(|()| c.wait_free());
    switch_to(home)?;
    stage.compositor.wait_stats("the return", PATIENCE, active)?;
    released
}

/// The points of a synchronized subsurface come into force with its parent's commit, which waits for them; what another
/// commit has replaced by then is released with it, and so is what waits when the subsurface goes.
pub fn synchronized_subsurfaces_carry_their_points() -> Result<()> {
    let stage = Stage::new("tree", &[])?;
    let mut wire = stage.connect()?;
    let mut parent = Pane::open(&stage, &mut wire, "parent", false)?;
    let [mut p, mut q] = buffers(&stage, &mut wire, Allocator::Vkms, SMALL)?;
    let [mut a, mut b, mut c] = buffers(&stage, &mut wire, Allocator::Vkms, (64, 64))?;
    parent.show(&mut wire, &mut p)?;
    let (child, subsurface) = wire.open_synced_subsurface(&parent.window.surface, (10, 10))?;
    let explicit = wire.explicit(&child)?;
    let ready = stage.line(&wire)?;
    let attach = |buffer: &mut Buffer, point| {
        set_points(&explicit, (&ready, point), buffer);
        child.attach(Some(&buffer.wl), 0, 0);
        child.damage_buffer(0, 0, i32::MAX, i32::MAX);
    };
    let commit = |buffer: &mut Buffer, point| {
        attach(buffer, point);
        child.commit();
    };
    ready.ours.signal(2)?;
    // Another part of the client may commit the parent in between.
    attach(&mut a, 1);
    parent.window.surface.commit();
    wire.roundtrip()?;
    child.commit();
    wire.roundtrip().context("attach, parent's commit, commit")?;
    commit(&mut b, 2);
    wire.roundtrip()?;
    b.stays_busy()?;
    ensure!(!p.is_free()?, "the parent's buffer is free without a commit");
    parent.show(&mut wire, &mut q)?;
    a.wait_free()?;
    p.wait_free()?;
    b.stays_busy()?;

    commit(&mut c, 3);
    let before = wire.events.presented;
    parent.commit(&mut wire, &mut p)?;
    wire.roundtrip()?;
    ensure!(stage.fence(&child)?.is_some(), "the subsurface does not wait");
    not_shown(&mut wire, before)?;
    ensure!(!b.is_free()? && !q.is_free()?, "free, and still on the screen");
    explicit.destroy();
    subsurface.destroy();
    child.destroy();
    // The parent has nothing to wait for any more.
    shown(&mut wire, before)?;
    for buffer in [&b, &c, &q] {
        buffer.wait_free()?;
    }
    p.stays_busy()
}
