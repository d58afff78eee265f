//! Fences of clients' buffers on the lab's kernel: what waits for one, what does not, and what is left afterwards.
//!
//! Owns the cases with sw_sync, whose fences signal when a case wants it. The clients are in this process, so that a
//! client can end while its fences live on. Each case starts its own primeway.

mod cursor;
mod late;
mod reads;
mod scene;
mod trees;
mod waits;
mod walk;

use std::process::ExitCode;

use primeway_tests::kernel_cases::{self, Case};

const CASES: &[Case] = &[
    ("a_fence_holds_back_its_surface_alone", waits::a_fence_holds_back_its_surface_alone),
    ("frames_that_are_done_late_are_scanned_out", waits::frames_that_are_done_late_are_scanned_out),
    ("fences_added_later_do_not_hold_a_commit", waits::fences_added_later_do_not_hold_a_commit),
    (
        "without_timelines_there_is_no_explicit_synchronisation",
        waits::without_timelines_there_is_no_explicit_synchronisation,
    ),
    ("commits_behind_a_fence_are_bounded", waits::commits_behind_a_fence_are_bounded),
    ("what_ends_while_it_waits_leaves_nothing", waits::what_ends_while_it_waits_leaves_nothing),
    ("a_tree_waits_for_its_synced_subsurfaces", trees::a_tree_waits_for_its_synced_subsurfaces),
    ("without_snapshots_buffers_are_polled", trees::without_snapshots_buffers_are_polled),
    ("random_walks_leave_nothing", walk::random_walks_leave_nothing),
    ("a_cursor_waits_alone", cursor::a_cursor_waits_alone),
    ("a_late_fence_does_not_stall_the_display", late::a_late_fence_does_not_stall_the_display),
    ("a_wait_in_the_kernel_is_bounded", reads::a_wait_in_the_kernel_is_bounded),
    ("the_cpu_waits_for_no_late_fence", reads::the_cpu_waits_for_no_late_fence),
    ("nor_does_gles", reads::nor_does_gles),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}
