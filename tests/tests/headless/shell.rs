//! xdg-shell: configure events, sizes, focus.

use crate::headless_support::Server;
use crate::headless_support::client::{Client, Event, Window};
use primeway_tests::picture::Pattern;

use super::{BACKGROUND, OUTPUT, assert_pixels, assert_shows, colour, start};

const SMALL: (u32, u32) = (96, 64);
/// Values of `xdg_toplevel.state`.
const MAXIMIZED: u32 = 1;
const FULLSCREEN: u32 = 2;
const ACTIVATED: u32 = 4;

fn id(object: &impl wayland_client::Proxy) -> u32 {
    object.id().protocol_id()
}

/// The last configured size and states of a window.
fn told(client: &mut Client, window: &Window) -> ((i32, i32), Vec<u32>) {
    client.roundtrip().unwrap();
    let (size, mut states) = client.seen.toplevel(id(&window.toplevel)).unwrap();
    states.sort_unstable();
    (size, states)
}

fn show_small(server: &Server, client: &mut Client, title: &str, seed: u32) -> Window {
    let buffer = client.shm("XR24", SMALL, Pattern::Noise(seed)).unwrap();
    let window = client.show_window(title, &buffer).unwrap();
    server.settle().unwrap();
    window
}

/// The last keyboard event.
fn keyboard(client: &mut Client) -> Option<Event> {
    client.roundtrip().unwrap();
    let is_focus = |e: &&Event| matches!(e, Event::KeyboardEnter(_) | Event::KeyboardLeave(_));
    client.seen.log.iter().rev().find(is_focus).cloned()
}

#[test]
fn the_first_configure_leaves_the_size_to_the_client() {
    let (server, mut client) = start();
    let window = client.open_window("free").unwrap();
    assert_eq!(told(&mut client, &window).0, (0, 0));
    let configures = client.seen.log.iter().filter(|e| matches!(e, Event::Configure(..))).count();
    assert_eq!(configures, 1);
    assert!(server.surfaces().unwrap().is_empty(), "not shown before its first buffer");
}

#[test]
fn a_buffer_before_the_first_configure_is_an_error() {
    let (_server, mut client) = start();
    let buffer = client.shm("XR24", SMALL, Pattern::Noise(1)).unwrap();
    client.seen.acknowledge = false;
    let window = client.open_window("hasty").unwrap();
    client.attach(&window.surface, &buffer);
    window.surface.commit();
    let error = client.expect_error().unwrap();
    // The XML has unconfigured_buffer (3) for it; smithay 0.7 sends not_constructed (1).
    assert_eq!(error.interface, "xdg_surface");
    assert!(matches!(error.code, 1 | 3), "{error:?}");
}

#[test]
fn titles_and_app_ids_are_known() {
    let (server, mut client) = start();
    let window = show_small(&server, &mut client, "before", 1);
    window.toplevel.set_title("after".to_owned());
    window.toplevel.set_app_id("org.example.Test".to_owned());
    client.roundtrip().unwrap();
    let report = server.window("after").unwrap();
    assert_eq!(report.app_id.as_deref(), Some("org.example.Test"));
    assert_eq!((report.role.as_str(), report.size, report.position), ("toplevel", (96, 64), (0, 0)));
}

#[test]
fn full_screen_and_back() {
    let (server, mut client) = start();
    show_small(&server, &mut client, "other", 1);
    let window = show_small(&server, &mut client, "window", 2);
    assert_eq!(server.window("window").unwrap().position, (96, 0));
    window.toplevel.set_fullscreen(None);
    assert_eq!(told(&mut client, &window), ((256, 192), vec![FULLSCREEN, ACTIVATED]));
    let full = client.dmabuf("XR24", OUTPUT, Pattern::Noise(3)).unwrap();
    client.show(&window.surface, &full).unwrap();
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
    assert_shows(&server.picture().unwrap(), (0, 0), &full);
    window.toplevel.unset_fullscreen();
    assert_eq!(told(&mut client, &window), ((96, 64), vec![ACTIVATED]), "the size it had");
    let small = client.shm("XR24", SMALL, Pattern::Noise(4)).unwrap();
    client.show(&window.surface, &small).unwrap();
    server.settle().unwrap();
    let report = server.window("window").unwrap();
    assert_eq!((report.position, report.size), ((96, 0), (96, 64)), "the place it had");
}

#[test]
fn maximized_and_back() {
    let (server, mut client) = start();
    let window = show_small(&server, &mut client, "window", 1);
    window.toplevel.set_maximized();
    assert_eq!(told(&mut client, &window), ((256, 192), vec![MAXIMIZED, ACTIVATED]));
    window.toplevel.set_fullscreen(None);
    let ((width, height), states) = told(&mut client, &window);
    assert_eq!((width, height), (256, 192));
    assert!(states.contains(&FULLSCREEN) && states.contains(&ACTIVATED), "{states:?}");
    window.toplevel.unset_fullscreen();
    window.toplevel.unset_maximized();
    assert_eq!(told(&mut client, &window), ((96, 64), vec![ACTIVATED]));
}

#[test]
fn a_window_that_starts_full_screen_is_told_so_at_once() {
    let (server, mut client) = start();
    let window = client.open_window_as("full", |toplevel| toplevel.set_fullscreen(None)).unwrap();
    let (size, states) = told(&mut client, &window);
    assert_eq!((size, states.contains(&FULLSCREEN)), ((256, 192), true));
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    client.show(&window.surface, &buffer).unwrap();
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
    window.toplevel.unset_fullscreen();
    assert_eq!(told(&mut client, &window), ((0, 0), vec![ACTIVATED]), "it never had another size");
}

#[test]
fn a_new_window_takes_the_focus_and_gives_it_back_when_it_closes() {
    let (server, mut first) = start();
    let mut second = server.connect().unwrap();
    first.take_keyboard().unwrap();
    second.take_keyboard().unwrap();
    let lower = show_small(&server, &mut first, "lower", 1);
    assert_eq!(keyboard(&mut first), Some(Event::KeyboardEnter(id(&lower.surface))));
    let upper = show_small(&server, &mut second, "upper", 2);
    assert_eq!(keyboard(&mut first), Some(Event::KeyboardLeave(id(&lower.surface))));
    assert_eq!(told(&mut first, &lower).1, Vec::<u32>::new());
    assert_eq!(keyboard(&mut second), Some(Event::KeyboardEnter(id(&upper.surface))));
    assert_eq!(told(&mut second, &upper).1, [ACTIVATED]);
    upper.close();
    second.roundtrip().unwrap();
    assert_eq!(keyboard(&mut first), Some(Event::KeyboardEnter(id(&lower.surface))));
    assert_eq!(told(&mut first, &lower).1, [ACTIVATED]);
}

#[test]
fn a_window_that_unmaps_gives_the_focus_back_and_may_come_again() {
    let (server, mut first) = start();
    let mut second = server.connect().unwrap();
    first.take_keyboard().unwrap();
    let lower = show_small(&server, &mut first, "lower", 1);
    let upper = show_small(&server, &mut second, "upper", 2);
    upper.surface.attach(None, 0, 0);
    upper.surface.commit();
    second.roundtrip().unwrap();
    assert_eq!(keyboard(&mut first), Some(Event::KeyboardEnter(id(&lower.surface))));
    // Unmapped, it is as new: an initial commit, a configure, then a buffer.
    second.seen.log.clear();
    upper.surface.commit();
    let object = id(&upper.xdg_surface);
    second.wait("configure", |seen| seen.configured(object)).unwrap();
    let buffer = second.shm("XR24", SMALL, Pattern::Noise(3)).unwrap();
    second.show(&upper.surface, &buffer).unwrap();
    server.settle().unwrap();
    assert_eq!(server.surfaces().unwrap().len(), 2);
    assert_eq!(keyboard(&mut first), Some(Event::KeyboardLeave(id(&lower.surface))));
}

#[test]
fn a_client_that_dies_gives_the_focus_back() {
    let (server, mut first) = start();
    let mut second = server.connect().unwrap();
    first.take_keyboard().unwrap();
    let lower = show_small(&server, &mut first, "lower", 1);
    show_small(&server, &mut second, "upper", 2);
    first.seen.log.clear();
    drop(second);
    let enter = Event::KeyboardEnter(id(&lower.surface));
    first.wait("focus", |seen| seen.log.contains(&enter)).unwrap();
}

#[test]
fn a_click_raises_and_focuses() {
    let (server, mut first) = start();
    let mut second = server.connect().unwrap();
    first.take_keyboard().unwrap();
    let lower = first.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    let window = first.show_window("lower", &lower).unwrap();
    show_small(&server, &mut second, "upper", 2);
    let titles = || -> Vec<String> {
        server.surfaces().unwrap().into_iter().filter_map(|surface| surface.title).collect()
    };
    assert_eq!(titles(), ["upper", "lower"]);
    // The upper window went to the first step of the cascade; its corner of the output is the lower one's.
    server.click(5.0, 5.0).unwrap();
    server.settle().unwrap();
    assert_eq!(titles(), ["lower", "upper"]);
    assert_eq!(keyboard(&mut first), Some(Event::KeyboardEnter(id(&window.surface))));
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
}

#[test]
fn window_geometry_leaves_the_shadow_outside() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", (96, 80), Pattern::Noise(1)).unwrap();
    let window = client.open_window("shadow").unwrap();
    window.xdg_surface.set_window_geometry(8, 16, 80, 56);
    client.show(&window.surface, &buffer).unwrap();
    server.settle().unwrap();
    // The geometry's corner is at the output's.
    assert_eq!(server.window("shadow").unwrap().position, (-8, -16));
    assert_pixels(&server.picture().unwrap(), |x, y| {
        if x < 88 && y < 64 { colour(&buffer, x + 8, y + 16, BACKGROUND) } else { BACKGROUND }
    });
    // The next window stands beside the geometry, not beside the shadow.
    show_small(&server, &mut client, "next", 2);
    assert_eq!(server.window("next").unwrap().position, (80, 0));
}
