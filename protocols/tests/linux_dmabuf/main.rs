//! `zwp_linux_dmabuf_v1` on the wire: real clients against the server in this process.
//!
//! Each case states what a client sends and the exact error code, or the exact events, that it gets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod feedback;
mod harness;
mod heap;
mod params;
mod pending;
