//! Buffers whose planes lie in memory as few clients put them, on the lab's kernel.
//!
//! Owns these cases, in a boot of their own: vkms 7.2 reads outside such a buffer when it is scanned out, which can
//! hang the lab's kernel. A compositor must show them right all the same, so on vkms by compositing.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::stage::Stage;

const CASES: &[Case] = &[
    ("planes_in_separate_objects_are_honoured", planes_in_separate_objects_are_honoured),
    ("an_offset_before_the_picture_is_honoured", an_offset_before_the_picture_is_honoured),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn is_shown(format: &str, seed: u32, argument: &[&str]) -> Result<()> {
    let mut stage = Stage::start("placement")?;
    let client = stage.add_noise(format, seed, (320, 240), argument)?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_none(), "vkms would read outside the buffer on plane {:?}", surface.plane);
    stage.settle()?;
    let screen = stage.capture()?;
    stage.expect_noise(&screen, client, format, seed, (320, 240))?;
    Ok(())
}

/// vkms 7.2 reads every plane from the memory of plane 0 (`packed_pixels_addr` uses `map[0]` only).
fn planes_in_separate_objects_are_honoured() -> Result<()> {
    is_shown("NV12", 1, &["--separate-planes"])?;
    is_shown("P010", 2, &["--separate-planes"])
}

/// vkms 7.2 adds the offset of plane 0 twice (`drm_gem_fb_vmap`, then `packed_pixels_offset`).
fn an_offset_before_the_picture_is_honoured() -> Result<()> {
    is_shown("XR24", 3, &["--offset", "8192"])?;
    is_shown("NV12", 4, &["--offset", "8192"])
}
