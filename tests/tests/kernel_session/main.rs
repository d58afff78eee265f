//! Primeway as a session on the lab's kernel: its seat and virtual terminal, its users, its input, its ends, and
//! what it costs per frame.
//!
//! Owns the cases in which primeway is started, interrupted or ended in a particular way. What its pictures look
//! like is in `kernel_picture`, how it treats buffers in `kernel_clients`. Each case starts its own primeway.

mod desktop;
mod endings;
mod frames;
mod input;
mod memory;
mod refusals;
mod seat_client;
mod terminals;
mod users;

use std::process::ExitCode;

use primeway_tests::kernel_cases::{self, Case};

const CASES: &[Case] = &[
    ("one_ioctl_per_frame", frames::one_ioctl_per_frame),
    ("a_moving_mouse_costs_no_commits", frames::a_moving_mouse_costs_no_commits),
    ("as_an_unprivileged_user", users::as_an_unprivileged_user),
    ("vt_switches_lose_and_leak_nothing", terminals::vt_switches_lose_and_leak_nothing),
    ("a_full_screen_client_survives_switches", terminals::a_full_screen_client_survives_switches),
    ("ordinary_clients_start_and_draw", users::ordinary_clients_start_and_draw),
    ("start_errors_say_what_to_do", refusals::start_errors_say_what_to_do),
    ("a_killed_client_leaves_nothing", endings::a_killed_client_leaves_nothing),
    ("a_killed_compositor_leaves_nothing", endings::a_killed_compositor_leaves_nothing),
    ("a_terminated_compositor_ends_cleanly", endings::a_terminated_compositor_ends_cleanly),
    ("planes_are_left_upright", endings::planes_are_left_upright),
    ("a_session_ended_while_away_leaves_nothing", endings::a_session_ended_while_away_leaves_nothing),
    ("headless_takes_real_dmabufs", memory::headless_takes_real_dmabufs),
    ("keyboard_and_pointer_reach_clients", input::keyboard_and_pointer_reach_clients),
    ("the_keyboard_switches_terminals", input::the_keyboard_switches_terminals),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}
