//! A client that means well beside those that a case is about: what is left for it.

use std::time::{Duration, Instant};

use primeway_tests::picture::Pattern;

use super::Server;
use super::client::{Buffer, Client, Window};

/// How long its frames are counted.
const WHILE: Duration = Duration::from_millis(700);
/// Frames that it must have in that time. Undisturbed it has 42; the machine may be busy.
const FRAMES: u32 = 12;

/// Someone who draws as fast as the display shows, over the whole of it.
#[derive(Debug)]
pub struct Neighbour {
    client: Client,
    buffers: [Buffer; 2],
    window: Window,
}

impl Neighbour {
    /// Opens a window of `size` pixels, that of the output.
    ///
    /// # Panics
    ///
    /// When the compositor does not let it.
    pub fn new(server: &Server, size: (u32, u32)) -> Neighbour {
        let mut client = server.connect().unwrap();
        let buffers = [1, 2].map(|n| client.dmabuf("XR24", size, Pattern::Noise(n)).unwrap());
        // In full screen, so that it is seen whatever else there is.
        let window = client.open_window_as("neighbour", |toplevel| toplevel.set_fullscreen(None)).unwrap();
        client.show(&window.surface, &buffers[0]).unwrap();
        Neighbour { client, buffers, window }
    }

    /// Shows one more frame; says whether it was zero-copy.
    ///
    /// # Panics
    ///
    /// When it is not shown.
    pub fn frame(&mut self, number: u32) -> bool {
        self.client.present(&self.window.surface, &self.buffers[number as usize % 2]).unwrap()
    }

    /// Draws for a while and asserts that its frames are shown; returns their number.
    ///
    /// # Panics
    ///
    /// When they are not, or too few.
    pub fn draws(&mut self, what: &str) -> u32 {
        let (began, mut frames) = (Instant::now(), 0);
        while began.elapsed() < WHILE {
            self.frame(frames);
            frames += 1;
        }
        assert!(frames >= FRAMES, "{what}: {frames} frames in {WHILE:?}");
        frames
    }
}
