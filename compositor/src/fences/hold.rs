//! What holds one commit back, for as long as the Wayland library keeps the commit.
//!
//! Owns the count of a client's held commits: one for each value. Does not know what is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{Resource as _, Weak};
use smithay::wayland::compositor::{Blocker, BlockerState};

/// How many commits of a client are held back.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldCommits(Arc<AtomicU64>);

impl HeldCommits {
    /// The number.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// When a commit may be applied, as far as its own buffer goes.
#[derive(Debug)]
pub(super) enum Until {
    /// After those before it.
    Now,
    /// Once this is set.
    Cleared(Arc<AtomicBool>),
}

/// Goes into a commit's transaction and out with it: applied, or dropped with the last of its surfaces.
#[derive(Debug)]
pub(super) struct Hold {
    /// What the commit attaches, and the surface that shows it from then on.
    buffer: Option<(Weak<WlSurface>, WlBuffer)>,
    held: HeldCommits,
    until: Until,
}

impl Hold {
    pub(super) fn new(
        surface: &WlSurface,
        buffer: Option<WlBuffer>,
        held: &HeldCommits,
        until: Until,
    ) -> Self {
        held.0.fetch_add(1, Ordering::Relaxed);
        let buffer = buffer.map(|buffer| (surface.downgrade(), buffer));
        Self { buffer, held: held.clone(), until }
    }
}

impl Blocker for Hold {
    fn state(&self) -> BlockerState {
        match &self.until {
            Until::Cleared(cleared) if !cleared.load(Ordering::Acquire) => BlockerState::Pending,
            _ => BlockerState::Released,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.0.fetch_sub(1, Ordering::Relaxed);
        // The surface went before the commit was applied: nobody else knows of the buffer any more.
        if let Some((surface, buffer)) = self.buffer.take()
            && !surface.is_alive()
        {
            buffer.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_pending_until_it_is_cleared_and_counts_until_it_is_dropped() {
        let held = HeldCommits::default();
        let cleared = Arc::new(AtomicBool::new(false));
        let hold = |until| {
            held.0.fetch_add(1, Ordering::Relaxed);
            Hold { buffer: None, held: held.clone(), until }
        };
        let (behind, waiting) = (hold(Until::Now), hold(Until::Cleared(cleared.clone())));
        assert_eq!((behind.state(), waiting.state()), (BlockerState::Released, BlockerState::Pending));
        assert_eq!(held.count(), 2);
        cleared.store(true, Ordering::Release);
        assert_eq!(waiting.state(), BlockerState::Released);
        drop((behind, waiting));
        assert_eq!(held.count(), 0);
    }
}
