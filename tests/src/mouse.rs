//! A mouse of uinput, for libinput to find.
//!
//! Owns how it is made; who holds it moves it, and it is gone when it is dropped.

use anyhow::{Context, Result};
use evdev::uinput::VirtualDevice;
use evdev::{AttributeSet, KeyCode, RelativeAxisCode};

/// Makes a mouse with two buttons.
///
/// # Errors
///
/// Without uinput.
pub fn mouse() -> Result<VirtualDevice> {
    let keys: AttributeSet<KeyCode> = [KeyCode::BTN_LEFT, KeyCode::BTN_RIGHT].into_iter().collect();
    let axes: AttributeSet<RelativeAxisCode> =
        [RelativeAxisCode::REL_X, RelativeAxisCode::REL_Y].into_iter().collect();
    let device = VirtualDevice::builder().and_then(|device| {
        device.name("primeway test mouse").with_keys(&keys)?.with_relative_axes(&axes)?.build()
    });
    device.context("cannot make a uinput mouse")
}
