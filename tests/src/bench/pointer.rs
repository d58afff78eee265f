//! A mouse that moves in a square over the window at the display's corner.
//!
//! Owns the uinput device and its thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use evdev::uinput::VirtualDevice;
use evdev::{EventType, InputEvent, RelativeAxisCode};

use crate::mouse::mouse;

/// From one event to the next: that of a common USB mouse.
const PERIOD: Duration = Duration::from_millis(8);
/// Events along each side.
const SIDE: usize = 50;

/// A mouse, moving until it is dropped.
#[derive(Debug)]
pub struct Mouse {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mouse {
    /// Makes the device, and moves it.
    ///
    /// # Errors
    ///
    /// Without uinput.
    pub fn start() -> Result<Mouse> {
        let device = mouse()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || walk(device, &stopped));
        Ok(Mouse { stop, thread: Some(thread) })
    }
}

impl Drop for Mouse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn walk(mut device: VirtualDevice, stop: &AtomicBool) {
    let (x, y) = (RelativeAxisCode::REL_X, RelativeAxisCode::REL_Y);
    let sides = [(x, 3), (y, 3), (x, -3), (y, -3)];
    // Into the corner first, wherever the pointer is.
    let home = [(x, -20), (y, -20)].into_iter().cycle().take(2 * 2 * SIDE);
    let square = sides.into_iter().flat_map(|step| std::iter::repeat_n(step, SIDE)).cycle();
    for (axis, distance) in home.chain(square) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let event = InputEvent::new(EventType::RELATIVE.0, axis.0, distance);
        if device.emit(&[event]).is_err() {
            return;
        }
        std::thread::sleep(PERIOD);
    }
}
