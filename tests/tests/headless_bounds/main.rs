//! Clients that mean harm, against the compositor in this process: what each is told, and what is left for a neighbour.
//!
//! The cases count open files, mappings and memory of this process, so they run one after another, and apart from the
//! other in-process cases.

#![allow(clippy::unwrap_used)]

mod fuzz;
mod grammar;
#[allow(dead_code, reason = "the other headless cases use the rest")]
#[path = "../headless_support/mod.rs"]
mod headless_support;
mod malformed;
mod quotas;
mod thief;

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::headless_support::Server;
use crate::headless_support::client::{Buffer, Client, Window};
use primeway_tests::picture::Pattern;
use rustix::fs::{MemfdFlags, SealFlags};

/// The output, in pixels.
const OUTPUT: (u32, u32) = (256, 192);
/// How long the neighbour's frames are counted.
const WHILE: Duration = Duration::from_millis(700);
/// Frames that the neighbour must have in that time. Undisturbed it has 42; the machine may be busy.
const FRAMES: u32 = 12;

/// One case at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Someone who draws as fast as the display shows.
struct Neighbour {
    client: Client,
    buffers: [Buffer; 2],
    window: Window,
}

impl Neighbour {
    fn new(server: &Server) -> Neighbour {
        let mut client = server.connect().unwrap();
        let buffers = [1, 2].map(|n| client.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap());
        let window = client.show_window("neighbour", &buffers[0]).unwrap();
        Neighbour { client, buffers, window }
    }

    /// Shows one more frame.
    fn frame(&mut self, number: u32) {
        let surface = &self.window.surface;
        let token = self.client.feedback(surface).unwrap();
        self.client.attach(surface, &self.buffers[number as usize % 2]);
        surface.commit();
        self.client.wait("presented", |seen| seen.presented_at(token).is_some()).unwrap();
    }

    /// Draws for a while and asserts that its frames are shown; returns their number.
    fn draws(&mut self, what: &str) -> u32 {
        let (began, mut frames) = (Instant::now(), 0);
        while began.elapsed() < WHILE {
            self.frame(frames);
            frames += 1;
        }
        assert!(frames >= FRAMES, "{what}: {frames} frames in {WHILE:?}");
        frames
    }
}

fn files(server: &Server) -> usize {
    server.stats().unwrap().resources.fds
}

/// Waits until the process has as few files open as before.
fn assert_files_return(server: &Server, before: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while files(server) > before {
        assert!(Instant::now() < deadline, "{} files, {before} before", files(server));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A sealed memfd, which the headless backend takes for a dma-buf.
fn memory(size: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("buffer", flags).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    file
}
