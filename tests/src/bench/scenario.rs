//! What is shown: windows, their buffers, and what happens to them.
//!
//! Owns the list and the places of windows. How a compositor is told the places is in `peers`.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::client::Plan;
use super::peers::Peer;
use crate::buffer::Allocator;

/// Width and height of the lab's display.
pub const DISPLAY: (u32, u32) = (1024, 768);

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// One full-screen window.
    Fullscreen,
    /// The same by a client that commits 1 ms after its frame callback.
    FullscreenLate,
    /// One window of 640x480.
    Window,
    /// Eight windows of 200x200 that do not overlap.
    Windows8,
    /// 32 windows of 120x120 that do not overlap.
    Windows32,
    /// Eight windows of 200x200 from wl_shm.
    Shm8,
    /// 32 windows of 120x120 from wl_shm.
    Shm32,
    /// Full screen with a new wl_buffer for each frame.
    NewBuffer,
    /// One NV12 window of 640x480.
    Nv12,
    /// A pointer that moves over a window of 640x480.
    Pointer,
    /// 20,000 wl_buffers created and destroyed.
    Churn,
}

impl Scenario {
    /// All, in the order in which they run.
    pub const ALL: [Scenario; 11] = [
        Scenario::Fullscreen,
        Scenario::FullscreenLate,
        Scenario::Window,
        Scenario::Windows8,
        Scenario::Windows32,
        Scenario::Shm8,
        Scenario::Shm32,
        Scenario::NewBuffer,
        Scenario::Nv12,
        Scenario::Pointer,
        Scenario::Churn,
    ];

    /// Its heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Scenario::Fullscreen => "Full screen",
            Scenario::FullscreenLate => "Full screen, drawn in 1 ms after the frame callback",
            Scenario::Window => "One window, 640x480",
            Scenario::Windows8 => "8 windows, 200x200",
            Scenario::Windows32 => "32 windows, 120x120",
            Scenario::Shm8 => "8 wl_shm windows, 200x200",
            Scenario::Shm32 => "32 wl_shm windows, 120x120",
            Scenario::NewBuffer => "Full screen, a new wl_buffer each frame",
            Scenario::Nv12 => "One NV12 window, 640x480",
            Scenario::Pointer => "Pointer moving over a 640x480 window",
            Scenario::Churn => "20,000 wl_buffers created and destroyed",
        }
    }

    /// Whether its buffers come from wl_shm.
    #[must_use]
    pub fn is_shm(self) -> bool {
        matches!(self, Scenario::Shm8 | Scenario::Shm32)
    }

    /// Whether a pointer moves.
    #[must_use]
    pub fn has_pointer(self) -> bool {
        self == Scenario::Pointer
    }

    /// Whether a compositor is measured in it: what composites by Pixman takes no dma-bufs, primeway apart.
    #[must_use]
    pub fn suits(self, peer: Peer) -> bool {
        peer != Peer::SwayPixman || self.is_shm()
    }

    /// What the client does.
    #[must_use]
    pub fn plan(self) -> Plan {
        let base = Plan {
            windows: 1,
            size: (640, 480),
            format: "XR24".to_owned(),
            // Of large runs of pages. A display that maps what it shows pays for each run, and how scattered pages of shmem are
            // differs from start to start: that would be half of a figure.
            allocator: Allocator::Heap,
            fullscreen: false,
            draw: Duration::ZERO,
            new_buffers: false,
            churn: None,
        };
        let fullscreen = Plan { size: DISPLAY, fullscreen: true, ..base.clone() };
        let eight = Plan { windows: 8, size: (200, 200), ..base.clone() };
        let many = Plan { windows: 32, size: (120, 120), ..base.clone() };
        match self {
            Scenario::Fullscreen => fullscreen,
            Scenario::FullscreenLate => Plan { draw: Duration::from_millis(1), ..fullscreen },
            Scenario::Window | Scenario::Pointer => base,
            Scenario::Windows8 => eight,
            Scenario::Windows32 => many,
            Scenario::Shm8 => Plan { allocator: Allocator::Shm, ..eight },
            Scenario::Shm32 => Plan { allocator: Allocator::Shm, ..many },
            Scenario::NewBuffer => Plan { new_buffers: true, ..fullscreen },
            Scenario::Nv12 => Plan { format: "NV12".to_owned(), ..base },
            Scenario::Churn => Plan { churn: Some(20_000), size: (200, 200), ..base },
        }
    }

    /// Left and top of each window, in rows from the top left.
    #[must_use]
    pub fn places(self) -> Vec<(u32, u32)> {
        let plan = self.plan();
        let per_row = DISPLAY.0 / plan.size.0;
        (0..plan.windows)
            .map(|index| (index % per_row * plan.size.0, index / per_row * plan.size.1))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_on_the_display_and_not_over_each_other() {
        for scenario in Scenario::ALL {
            let (width, height) = scenario.plan().size;
            let places = scenario.places();
            for (index, &(x, y)) in places.iter().enumerate() {
                assert!(x + width <= DISPLAY.0 && y + height <= DISPLAY.1, "{scenario:?} {index}");
                let beside = |&(a, b): &(u32, u32)| x.abs_diff(a) >= width || y.abs_diff(b) >= height;
                assert!(places[..index].iter().all(beside), "{scenario:?} {index}");
            }
        }
    }
}
