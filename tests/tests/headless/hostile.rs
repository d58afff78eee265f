//! Clients that mean harm: each gets its error (or none, where the XML has none), and another client goes on.

use primeway_tests::picture::Pattern;

use crate::headless_support::Server;
use crate::headless_support::client::{Client, Window};

use super::{BACKGROUND, assert_pixels, start};

/// Runs `attack` and asserts that its client got `error` as (interface, code), or none, and that a bystander can
/// still show a window afterwards.
fn attack(error: Option<(&str, u32)>, attack: impl FnOnce(&mut Client, &Window)) {
    let (server, mut client) = start();
    let buffer = client.shm("XR24", (64, 48), Pattern::Noise(1)).unwrap();
    let window = client.show_window("hostile", &buffer).unwrap();
    attack(&mut client, &window);
    match error {
        Some((interface, code)) => {
            let got = client.expect_error().unwrap();
            assert_eq!((got.interface.as_str(), got.code), (interface, code), "{got:?}");
        }
        None => client.roundtrip().unwrap(),
    }
    bystander_goes_on(&server);
}

fn bystander_goes_on(server: &Server) {
    let mut other = server.connect().unwrap();
    let buffer = other.shm("XR24", (64, 48), Pattern::Noise(2)).unwrap();
    other.show_window("bystander", &buffer).unwrap();
    server.settle().unwrap();
    assert!(server.window("bystander").is_ok());
}

#[test]
fn a_window_geometry_without_a_size_is_invalid() {
    for (w, h) in [(-5, -5), (0, 10), (10, i32::MIN)] {
        attack(Some(("xdg_surface", 5)), |_, window| window.xdg_surface.set_window_geometry(0, 0, w, h));
    }
}

#[test]
fn a_window_geometry_at_the_end_of_the_numbers_is_bounded() {
    attack(None, |_, window| {
        window.xdg_surface.set_window_geometry(i32::MAX, i32::MIN, i32::MAX, i32::MAX);
        window.surface.commit();
    });
}

#[test]
fn negative_size_limits_are_invalid() {
    attack(Some(("xdg_toplevel", 2)), |_, window| window.toplevel.set_max_size(-1, -1));
    attack(Some(("xdg_toplevel", 2)), |_, window| window.toplevel.set_min_size(0, i32::MIN));
}

#[test]
fn damage_of_any_numbers_is_only_damage() {
    attack(None, |_, window| {
        for (a, b) in [(i32::MIN, i32::MAX), (i32::MAX, i32::MAX), (0, -1), (i32::MIN, i32::MIN)] {
            window.surface.damage(a, a, b, b);
            window.surface.damage_buffer(a, a, b, b);
        }
        window.surface.commit();
    });
}

#[test]
fn a_surface_is_no_sibling_of_itself() {
    attack(Some(("wl_subsurface", 0)), |client, window| {
        let (surface, role) = client.subsurface(&window.surface).unwrap();
        role.place_above(&surface);
    });
}

#[test]
fn a_popup_is_not_its_own_parent() {
    attack(Some(("xdg_wm_base", 3)), |client, _| {
        let positioner = client.positioner().unwrap();
        client.popup_of_itself(&positioner).unwrap();
    });
}

#[test]
fn a_positioner_at_the_end_of_the_numbers_is_bounded() {
    attack(None, |client, window| {
        let positioner = client.positioner().unwrap();
        positioner.set_size(i32::MAX, i32::MAX);
        positioner.set_anchor_rect(i32::MIN, i32::MAX, i32::MAX, i32::MAX);
        positioner.set_offset(i32::MAX, i32::MIN);
        client.popup(&window.xdg_surface, &positioner).unwrap();
    });
}

#[test]
fn subsurfaces_are_not_nested_without_end() {
    attack(Some(("wl_subcompositor", 0)), |client, window| {
        let mut parent = window.surface.clone();
        for _ in 0..100 {
            parent = client.subsurface(&parent).unwrap().0;
        }
    });
}

#[test]
fn the_depth_counts_from_both_ends() {
    attack(Some(("wl_subcompositor", 0)), |client, window| {
        let mut child = client.surface().unwrap();
        for _ in 0..100 {
            let parent = client.surface().unwrap();
            client.subsurface_of(&child, &parent).unwrap();
            child = parent;
        }
        client.subsurface_of(&child, &window.surface).unwrap();
    });
}

#[test]
fn rows_that_are_no_whole_words_are_shown_right() {
    let (server, mut client) = start();
    let buffer = client.shm_with_odd_rows().unwrap();
    let window = client.open_window("odd").unwrap();
    window.surface.attach(Some(&buffer), 0, 0);
    window.surface.damage(0, 0, 20, 10);
    window.surface.commit();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    let screen = server.picture().unwrap();
    assert_pixels(&screen, |x, y| if x < 20 && y < 10 { [0xff; 3] } else { BACKGROUND });
}
