//! Creation and destruction of many `wl_buffer`s.
//!
//! Owns the cycle only: every buffer is made by `create_immed` from the same memory, every sixteenth is shown
//! before it goes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wayland_client::Proxy;
use wayland_client::protocol::wl_buffer::WlBuffer;

use super::Script;

/// A shown buffer per so many.
const SHOWN: u64 = 16;
/// A round trip per so many, so that neither side's socket buffer fills.
const BATCH: u64 = 32;

impl Script<'_> {
    /// Creates and destroys `count` buffers.
    pub(super) fn churn(&mut self, count: u64) -> Result<()> {
        let (width, height) = self.size;
        let mut buffer = self.allocate((width, height))?;
        buffer.draw(&self.picture(0), self.options.request.y_invert)?;
        let mut shown: Vec<WlBuffer> = Vec::new();
        for n in 0..count {
            let wl = self.wire.create_buffer(&buffer, &self.options.request)?;
            self.report.buffers_created += 1;
            if n % SHOWN == 0 {
                self.wire.commit(&self.window.surface, &wl);
                self.report.frames += 1;
                shown.push(wl);
            } else {
                wl.destroy();
            }
            if n % BATCH == BATCH - 1 {
                self.wire.roundtrip()?;
                let released = std::mem::take(&mut self.wire.events.released);
                shown.retain(|wl| {
                    let keep = !released.contains(&wl.id());
                    if !keep {
                        wl.destroy();
                    }
                    keep
                });
                ensure!(shown.len() < 64, "{} shown buffers wait for their release", shown.len());
            }
        }
        // Take the last one off the window, so that nothing of this stays behind.
        self.window.surface.attach(None, 0, 0);
        self.window.surface.commit();
        for wl in shown {
            wl.destroy();
        }
        self.wire.roundtrip()?;
        self.wire.wait(Instant::now() + Duration::from_millis(100), |_| false)?;
        Ok(())
    }
}
