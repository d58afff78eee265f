//! Displays that come, go and change while a session runs, on the lab's kernel: connectors through vkms' configfs, modes and
//! power through the control socket, devices that are added and removed.
//!
//! What vkms cannot do (modes that change, imports that fail) is in `model_kms/outputs.rs`.

mod devices;
mod modes;
mod plug;

use std::process::ExitCode;

use primeway_tests::kernel_cases::{self, Case};

const CASES: &[Case] = &[
    ("windows_follow_the_outputs", plug::windows_follow_the_outputs),
    ("no_output_is_a_state_like_others", plug::no_output_is_a_state_like_others),
    ("a_connector_without_a_crtc_is_told_of", plug::a_connector_without_a_crtc_is_told_of),
    ("a_mode_is_chosen", modes::a_mode_is_chosen),
    ("an_output_is_turned_off_and_on", modes::an_output_is_turned_off_and_on),
    ("two_devices_show_windows", devices::two_devices_show_windows),
    ("the_first_device_goes_and_comes_back", devices::the_first_device_goes_and_comes_back),
    ("only_the_device_that_was_asked_for", devices::only_the_device_that_was_asked_for),
    ("devices_come_and_go", devices::devices_come_and_go),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}
