//! Clients that mean harm, against the compositor in this process: what each is told, and what is left for a neighbour.
//!
//! The cases count open files, mappings and memory of this process, so they run one after another, and apart from the
//! other in-process cases.

#![allow(clippy::unwrap_used)]

mod crowd;
mod fuzz;
mod grammar;
#[allow(dead_code, reason = "the other headless cases use the rest")]
#[path = "../headless_support/mod.rs"]
mod headless_support;
mod malformed;
mod quotas;
mod thief;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::headless_support::Server;

/// The output, in pixels.
const OUTPUT: (u32, u32) = (256, 192);

/// One case at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
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
