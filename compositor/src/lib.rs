//! primeway: a Wayland compositor built around dma-buf, PRIME and display planes.
//!
//! ```text
//!  clients ──> handlers ──> shell (windows) ──> output (layers, plan, frames) ──> backend (planes)
//!                 │                                  └── render (what no plane took)
//!                 └── dma-bufs: protocols checks them, import finds a way to show them, output shows them
//! ```
//!
//! The library exists for the binary and for the tests; embedders want `drm-prime` and `primeway-protocols`.

pub mod arrangement;
pub mod backend;
pub mod cli;
pub mod clients;
pub mod ctl;
pub mod cursor;
pub mod feedback;
pub mod fences;
mod handlers;
pub mod import;
mod input;
pub mod output;
pub mod reactor;
pub mod record;
mod redraw;
pub mod render;
pub mod run;
pub mod shell;
pub mod state;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks smithay's per-surface data; a panic elsewhere does not make it unreadable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
