//! drm-prime inside somebody else's compositor, on the lab's kernel: smithay's own `DrmCompositor` with this
//! crate's exporter and with smithay's own, the example compositor under the demo's checker, and the probe.
//!
//! Owns the cases; a bare output of smithay is in `output`, the programs of `examples/` in `example`.

mod example;
mod gbm;
mod output;
mod scanout;

use std::process::ExitCode;

use primeway_tests::kernel_cases::{self, Case};

const CASES: &[Case] = &[
    ("client_buffers_are_scanned_out_by_smithays_compositor", scanout::client_buffers_are_scanned_out),
    ("nv12_is_scanned_out_though_no_renderer_can_read_it", scanout::nv12_is_scanned_out),
    ("a_full_screen_buffer_takes_the_primary_plane", scanout::a_full_screen_buffer_takes_the_primary_plane),
    ("the_gbm_exporter_copies_what_prime_scans_out", gbm::a_foreign_buffer_is_copied),
    ("nv12_through_gbm_depends_on_its_driver", gbm::nv12_depends_on_the_gbm_driver),
    ("without_a_gpu_the_gbm_exporter_shows_no_frame", gbm::no_frame_without_a_gpu),
    ("a_swapchain_of_vgem_is_shown_on_vkms", gbm::a_swapchain_of_another_device),
    ("refusals_reach_the_embedder", scanout::refusals_reach_the_embedder),
    ("framebuffers_and_handles_go_with_their_buffers", scanout::nothing_is_left_behind),
    ("the_probe_finds_the_matrix", example::the_probe_finds_the_matrix),
    ("weston_is_scanned_out_by_the_small_compositor", example::weston_is_scanned_out_by_the_small_compositor),
    ("the_probe_says_what_is_missing", example::the_probe_says_what_is_missing),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}
