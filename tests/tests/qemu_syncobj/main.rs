//! Timelines on a device that has them (virtio-gpu, in the emulated guest): drm-prime's own, and linux-drm-syncobj with a
//! real client.
//!
//! Owns the list of cases. Those of `device` use the library alone, `commits` and `bounds` start a primeway each; the client is in
//! `client`, the kernel's own count of what is left in `leaks`.

mod bounds;
mod client;
mod commits;
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
    ("an_acquire_point_holds_back_its_surface_alone", commits::an_acquire_point_holds_back_its_surface_alone),
    ("only_the_acquire_point_counts", commits::only_the_acquire_point_counts),
    (
        "release_points_signal_when_the_buffer_has_left_the_screen",
        commits::release_points_signal_when_the_buffer_has_left_the_screen,
    ),
    ("a_buffer_committed_again_has_new_points", commits::a_buffer_committed_again_has_new_points),
    ("release_points_signal_for_what_is_never_shown", commits::release_points_signal_for_what_is_never_shown),
    (
        "release_points_signal_while_the_session_is_away",
        commits::release_points_signal_while_the_session_is_away,
    ),
    ("synchronized_subsurfaces_carry_their_points", commits::synchronized_subsurfaces_carry_their_points),
    ("a_failed_buffer_takes_points_as_well", bounds::a_failed_buffer_takes_points_as_well),
    ("every_error_has_its_code", bounds::every_error_has_its_code),
    ("timelines_and_watched_points_are_bounded", bounds::timelines_and_watched_points_are_bounded),
    ("timelines_of_clients_leave_nothing_behind", bounds::timelines_of_clients_leave_nothing_behind),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}
