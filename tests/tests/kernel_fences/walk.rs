//! A client that does anything, in any order, while fences come and go.
//!
//! Owns the walk and its seed. Nothing is looked at on the way but that the compositor answers; in the end everything must
//! be as before. A run is told by its seed: `PRIMEWAY_SEED=N` does it again, `PRIMEWAY_LONG=1` makes it a minute.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::ClientBuffer;
use primeway_tests::buffer::fence::Timeline;
use primeway_tests::client::connection::Wire;
use primeway_tests::session::Compositor;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_subsurface::WlSubsurface;
use wayland_client::protocol::wl_surface::WlSurface;

use crate::scene::{PATIENCE, Pane, buffer, own_pid, presented};
use crate::waits::{files_at_rest, wait_files};

const SIZE: (u32, u32) = (120, 90);
/// Steps after which every fence is signalled, so that the quota is never met.
const ROUND: u32 = 60;

/// Numbers that look random (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

struct Walk {
    wire: Wire,
    pane: Pane,
    /// Of the window, or of one of each other.
    children: Vec<(WlSurface, WlSubsurface)>,
    buffers: Vec<(ClientBuffer, WlBuffer)>,
    timelines: Vec<Timeline>,
    dice: Dice,
}

impl Walk {
    fn surface(&mut self) -> WlSurface {
        let window = &self.pane.window.surface;
        match self.dice.roll(self.children.len() + 1) {
            0 => window.clone(),
            n => self.children[n - 1].0.clone(),
        }
    }

    fn step(&mut self) -> Result<()> {
        match self.dice.roll(20) {
            0..9 => {
                let (surface, which) = (self.surface(), self.dice.roll(self.buffers.len()));
                if self.dice.roll(3) == 0 {
                    let (timeline, steps) = (self.dice.roll(self.timelines.len()), self.dice.roll(3) + 1);
                    let memory = self.buffers[which].0.plane_fd(0);
                    self.timelines[timeline].block(memory, steps as u32)?;
                }
                self.wire.commit_quietly(&surface, &self.buffers[which].1);
            }
            9..11 => self.surface().commit(),
            11..13 => {
                let timeline = self.dice.roll(self.timelines.len());
                self.timelines[timeline].advance()?;
            }
            13 => {
                let child = self.dice.roll(self.children.len().max(1));
                if let Some((surface, _)) = self.children.get(child) {
                    surface.attach(None, 0, 0);
                    surface.commit();
                }
            }
            14 if self.children.len() < 4 => {
                let parent = self.surface();
                let place = (self.dice.roll(50) as i32, self.dice.roll(50) as i32);
                self.children.push(self.wire.open_synced_subsurface(&parent, place)?);
            }
            15 if !self.children.is_empty() => {
                let child = self.dice.roll(self.children.len());
                let (surface, subsurface) = self.children.swap_remove(child);
                if self.dice.roll(2) == 0 {
                    subsurface.destroy();
                    surface.destroy();
                } else {
                    surface.destroy();
                    subsurface.destroy();
                }
            }
            16 => {
                let which = self.dice.roll(self.buffers.len());
                self.buffers[which].1.destroy();
                self.buffers[which] = buffer(&mut self.wire, "XR24", SIZE)?;
            }
            17 | 18 => {
                let child = self.dice.roll(self.children.len().max(1));
                if let Some((_, subsurface)) = self.children.get(child) {
                    match self.dice.roll(3) {
                        0 => subsurface.set_sync(),
                        1 => subsurface.set_desync(),
                        _ => subsurface.set_position(self.dice.roll(50) as i32, 7),
                    }
                }
            }
            _ => self.wire.roundtrip()?,
        }
        Ok(())
    }

    /// Signals everything and waits until nothing waits.
    fn clear(&mut self, compositor: &mut Compositor) -> Result<()> {
        for timeline in &mut self.timelines {
            (0..3).try_for_each(|_| timeline.advance())?;
        }
        self.wire.roundtrip()?;
        compositor.wait_stats("the end of all fences", PATIENCE, |stats| stats.fences.is_empty())?;
        Ok(())
    }
}

pub fn random_walks_leave_nothing() -> Result<()> {
    let long = std::env::var_os("PRIMEWAY_LONG").is_some();
    let time = Duration::from_secs(if long { 60 } else { 1 });
    let seed = match std::env::var("PRIMEWAY_SEED") {
        Ok(seed) => seed.parse().context("PRIMEWAY_SEED is no number")?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).context("no time")?.as_nanos() as u64,
    };
    walk(seed, time).with_context(|| format!("PRIMEWAY_SEED={seed}"))
}

fn walk(seed: u64, time: Duration) -> Result<()> {
    let mut compositor = Compositor::start("fence-walk", &[])?;
    // What is made once and kept.
    drop(Pane::open(&mut Wire::connect_to(&compositor.display, 4)?, "first", "XR24", SIZE)?);
    std::thread::sleep(Duration::from_millis(300));
    let files = files_at_rest(&compositor)?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let pane = Pane::open(&mut wire, "walk", "XR24", SIZE)?;
    let buffers = (0..6).map(|_| buffer(&mut wire, "XR24", SIZE)).collect::<Result<_>>()?;
    let timelines = (0..3).map(|_| Timeline::new()).collect::<Result<_>>()?;
    let mut walk = Walk { wire, pane, children: Vec::new(), buffers, timelines, dice: Dice(seed) };
    let (start, mut steps) = (Instant::now(), 0u32);
    while start.elapsed() < time {
        walk.step().with_context(|| format!("step {steps}: {:?}", walk.wire.error()))?;
        steps += 1;
        if steps.is_multiple_of(ROUND) {
            walk.clear(&mut compositor).with_context(|| format!("step {steps}"))?;
        }
    }
    walk.clear(&mut compositor)?;
    let before = walk.wire.events.presented;
    walk.pane.commit(&mut walk.wire);
    ensure!(presented(&mut walk.wire, before)?, "the window stands still after {steps} steps");
    drop(walk);
    compositor.wait_stats("the end", PATIENCE, |stats| stats.surfaces(own_pid()).is_empty())?;
    wait_files(&compositor, files)?;
    println!("random_walks_leave_nothing: {steps} steps");
    Ok(())
}
