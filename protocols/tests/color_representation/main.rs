//! `wp_color_representation_manager_v1` on the wire: real clients against the server in this process.
//!
//! Each case states what a client sends and the exact error code that it gets, or what the compositor was told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod harness;
