//! Commits that belong together, and buffers that several commits wait for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::fence::Timeline;
use primeway_tests::client::connection::Wire;
use primeway_tests::session::Compositor;
use wayland_client::Proxy;

use crate::scene::{PATIENCE, Pane, buffer, presented};

const SIZE: (u32, u32) = (200, 150);
/// Some refresh intervals, in which nothing must happen.
const QUIET: Duration = Duration::from_millis(150);

/// Says that no frame of the client is shown for a while.
fn stands_still(wire: &mut Wire) -> Result<bool> {
    let before = wire.events.presented;
    Ok(!wire.wait(Instant::now() + QUIET, |events| events.presented > before)?)
}

/// A window's commit waits for the fence of its synchronized subsurface; its other windows do not.
pub fn a_tree_waits_for_its_synced_subsurfaces() -> Result<()> {
    let compositor = Compositor::start("fence-tree", &[])?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let mut parent = Pane::open(&mut wire, "parent", "XR24", SIZE)?;
    let mut apart = Pane::open(&mut wire, "apart", "XR24", SIZE)?;
    let (child, _subsurface) = wire.open_synced_subsurface(&parent.window.surface, (10, 10))?;
    let pictures = [0, 1].map(|_| buffer(&mut wire, "XR24", (64, 64)));
    let [first, second] = pictures;
    let (first, second) = (first?, second?);
    let id = u64::from(child.id().protocol_id());
    let mut timeline = Timeline::new()?;

    for (end, picture) in [("signal", &first), ("destroy", &second)] {
        timeline.block(picture.0.plane_fd(0), 1)?;
        wire.commit_quietly(&child, &picture.1);
        parent.commit(&mut wire);
        ensure!(stands_still(&mut wire)?, "{end}: the window did not wait for its subsurface");
        let waiting: Vec<u64> = compositor.ctl.stats()?.fences.iter().map(|f| f.surface).collect();
        ensure!(waiting == [id], "{end}: {waiting:?} wait, not {id}");
        let before = wire.events.presented;
        apart.commit(&mut wire);
        ensure!(presented(&mut wire, before)?, "{end}: the other window waited, too");
        let before = wire.events.presented;
        match end {
            "signal" => timeline.advance()?,
            _ => child.destroy(),
        }
        ensure!(presented(&mut wire, before)?, "{end}: the window waits on");
    }
    let stats = compositor.ctl.stats()?;
    ensure!(stats.fences.is_empty(), "{:?}", stats.fences);
    Ok(())
}

/// Where the kernel makes no sync files, the dma-buf itself is waited for, also by several commits at once.
pub fn without_snapshots_buffers_are_polled() -> Result<()> {
    let mut compositor = Compositor::start("fence-poll", &[("PRIMEWAY_TEST_NO_SYNC_FILE", "1")])?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let mut one = Pane::open(&mut wire, "one", "XR24", SIZE)?;
    let other = Pane::open(&mut wire, "other", "XR24", SIZE)?;
    let mut timeline = Timeline::new()?;
    timeline.block(one.coming().plane_fd(0), 1)?;
    let shared = one.buffers[1].1.clone();
    one.commit(&mut wire);
    wire.commit(&other.window.surface, &shared);
    wire.roundtrip()?;
    let stats = compositor.ctl.stats()?;
    ensure!(one.fence(&stats).is_some() && other.fence(&stats).is_some(), "{:?}", stats.fences);
    ensure!(stands_still(&mut wire)?, "they did not wait");
    let before = wire.events.presented;
    timeline.advance()?;
    let both = wire.wait(Instant::now() + PATIENCE, |events| events.presented >= before + 2)?;
    ensure!(both, "{} of 2 shown", wire.events.presented - before);
    compositor.wait_stats("its end", PATIENCE, |stats| stats.fences.is_empty()).context("polled")?;
    Ok(())
}
