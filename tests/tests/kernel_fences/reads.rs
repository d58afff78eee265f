//! Buffers that composition reads: a fence that comes late stops neither it nor others.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::fence::Timeline;
use primeway_tests::buffer::{Allocator, ClientBuffer, sync_for_cpu};
use primeway_tests::client::connection::Wire;
use primeway_tests::format::Format;
use primeway_tests::screen::Screen;
use primeway_tests::session::{Compositor, RunningClient, artefacts};

use crate::scene::{COLOUR, FLUENT, Pane, memory, neighbour, presented, rate};

const SIZE: (u32, u32) = (200, 150);

/// A window that no plane takes is drawn again and again, with a fence that never signals on the buffer that it shows; one
/// window for each kind of memory.
fn composited(name: &str, renderer: &str, allocators: &[Allocator]) -> Result<()> {
    let mut compositor = Compositor::start_with(name, &["--renderer", renderer, "--no-direct-scanout"])?;
    let other = neighbour(&compositor, &["--size", "200x150"])?;
    for &allocator in allocators {
        let what = format!("{name} {allocator:?}");
        let (others, own) = read_again(&compositor, &other, allocator).with_context(|| what.clone())?;
        ensure!(others > FLUENT, "{what}: {others:.0} frames a second");
        println!("{what}: others {others:.0} frames/s, its own {own:.0}");
    }
    compositor.check_alive()
}

/// Frames a second, of the other client and of its own.
fn read_again(compositor: &Compositor, other: &RunningClient, allocator: Allocator) -> Result<(f64, f64)> {
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let mut pane = Pane::open_of(&mut wire, "read", allocator, "XR24", SIZE)?;
    let before = wire.events.presented;
    pane.commit(&mut wire);
    ensure!(presented(&mut wire, before)?, "not shown");
    let report = pane.report(&compositor.ctl.stats()?)?;
    ensure!(report.plane.is_none(), "it is on a plane: {report:?}");

    // What is drawn above it has it read again.
    let above = wire.open_subsurface(&pane.window.surface, (0, 0))?;
    let cover = [0, 1].map(|_| memory(&mut wire, Allocator::Shm, "AR24", (64, 64)));
    let [first, second] = cover;
    let cover = [first?, second?];
    let mut timeline = Timeline::new()?;
    timeline.block(pane.last().plane_fd(0), 1)?;
    let (start, time) = (Instant::now(), Duration::from_millis(400));
    let mut frames = 0;
    while start.elapsed() < time {
        let before = wire.events.presented;
        wire.commit(&above, &cover[frames % 2].1);
        ensure!(presented(&mut wire, before)?, "the client stands still after {frames} frames");
        frames += 1;
    }
    let others = rate(compositor, other, time)?;
    let file = artefacts().join("late-read.png");
    compositor.capture(&file)?;
    let report = pane.report(&compositor.ctl.stats()?)?;
    let [x, y] = report.position.map(|v| v as u32);
    let pixel = Screen::read(&file)?.pixel(x + 100, y + 75);
    ensure!(pixel.iter().zip(COLOUR).all(|(p, c)| p.abs_diff(c) <= 2), "{pixel:?} is shown");
    timeline.advance()?;
    Ok((others, frames as f64 / time.as_secs_f64()))
}

/// The end of the wait that is left to a client that attaches its fence between the look at a buffer and its reading.
pub fn a_wait_in_the_kernel_is_bounded() -> Result<()> {
    let format = Format::named("XR24").context("no such format")?;
    let buffer = ClientBuffer::allocate(Allocator::Vgem, format, 64, 64)?;
    let mut timeline = Timeline::new()?;
    timeline.block(buffer.as_fd(), 1)?;
    for _ in 0..20 {
        let start = Instant::now();
        let result = primeway::fences::bounded(|| sync_for_cpu(buffer.as_fd(), true));
        let kind = result.as_ref().map_err(std::io::Error::kind);
        ensure!(kind == Err(ErrorKind::Interrupted), "{result:?}");
        ensure!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    }
    timeline.advance()?;
    primeway::fences::bounded(|| sync_for_cpu(buffer.as_fd(), true)).context("signalled")?;
    Ok(sync_for_cpu(buffer.as_fd(), false)?)
}

pub fn the_cpu_waits_for_no_late_fence() -> Result<()> {
    composited("read-pixman", "pixman", &[Allocator::Vgem])
}

/// With GLES: of all memory here, what Mesa reads itself. It reads without regard to fences; a GPU would wait.
pub fn nor_does_gles() -> Result<()> {
    composited("read-gles", "gles", &[Allocator::Vkms])
}
