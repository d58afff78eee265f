//! The kernel's PRIME system in safe Rust. This file is the list of its parts; each part says what it owns.

pub mod fence;
pub mod memory;
pub mod sg;
