//! Timelines on a device that has them (virtio-gpu, in the emulated guest): drm-prime's own, and linux-drm-syncobj with a
//! real client.
//!
//! Owns what is expected; the client is in `client`, the kernel's own count of what is left in `leaks`.

mod device;
mod leaks;

use std::process::ExitCode;

use primeway_tests::kernel_cases::{self, Case};

const CASES: &[Case] = &[
    ("every_file_of_the_device_has_timelines", device::every_file_of_the_device_has_timelines),
    ("a_driver_without_timelines_says_so", device::a_driver_without_timelines_says_so),
    ("a_point_is_heard_of_when_it_signals", device::a_point_is_heard_of_when_it_signals),
    ("points_go_from_one_timeline_to_another", device::points_go_from_one_timeline_to_another),
    ("what_is_no_syncobj_is_refused", device::what_is_no_syncobj_is_refused),
    ("timelines_leave_nothing_behind", device::timelines_leave_nothing_behind),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}
