//! Fences attached after a commit was latched: nobody waits for them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use primeway_tests::buffer::fence::Timeline;
use primeway_tests::client::connection::Wire;
use primeway_tests::session::{Compositor, artefacts};

use crate::scene::{FLUENT, PATIENCE, Pane, neighbour, presented, rate};

const SIZE: (u32, u32) = (200, 150);

/// What a late fence on a plane did.
#[derive(Debug)]
struct Outcome {
    /// Frames a second of another client.
    others: f64,
    /// The client's own next frame came.
    own: bool,
    plane: Option<u32>,
    capture: Duration,
}

fn late_fence(name: &str, environment: &[(&str, &str)]) -> Result<Outcome> {
    let compositor = Compositor::start(name, environment)?;
    let other = neighbour(&compositor, &["--size", "200x150"])?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let mut pane = Pane::open(&mut wire, "late", "XR24", SIZE)?;
    let mut timeline = Timeline::new()?;
    // Just after its commit was latched, while its flip is to come or pending.
    let before = wire.events.presented;
    pane.commit(&mut wire);
    wire.roundtrip()?;
    timeline.block(pane.last().plane_fd(0), 1)?;
    let others = rate(&compositor, &other, Duration::from_millis(400))?;
    let soon = Instant::now() + Duration::from_millis(400);
    let mut own = wire.wait(soon, |events| events.presented > before)?;
    // Its next buffer has no fence.
    if own {
        let before = wire.events.presented;
        pane.commit(&mut wire);
        own = presented(&mut wire, before)?;
    }
    let plane = pane.report(&compositor.ctl.stats()?)?.plane;
    timeline.block(pane.last().plane_fd(0), 1)?;
    let start = Instant::now();
    let waited = if own { compositor.capture(&artefacts().join(format!("{name}.png"))) } else { Ok(()) };
    let capture = start.elapsed();
    // The kernel must be free again before the compositor is ended.
    timeline.advance()?;
    waited?;
    Ok(Outcome { others, own, plane, capture })
}

/// The display goes on with a fence of ours on every plane, and stands still without: so the case can see it.
pub fn a_late_fence_does_not_stall_the_display() -> Result<()> {
    let with = late_fence("late-fence", &[])?;
    // Before Linux 6.0 the first commit brings the fence.
    let older = late_fence("late-fence-older", &[("PRIMEWAY_TEST_NO_SYNC_FILE", "1")])?;
    for outcome in [&with, &older] {
        let fluent = outcome.others > FLUENT && outcome.own && outcome.plane.is_some();
        ensure!(fluent && outcome.capture < PATIENCE, "{with:?}, with an older kernel's means {older:?}");
    }
    let without = late_fence("late-fence-off", &[("PRIMEWAY_TEST_NO_IN_FENCE", "1")])?;
    ensure!(without.others < 5.0, "the case sees nothing: {without:?}");
    println!(
        "a_late_fence_does_not_stall_the_display: others {:.0} frames/s, without a fence of ours {:.0}",
        with.others, without.others
    );
    Ok(())
}
