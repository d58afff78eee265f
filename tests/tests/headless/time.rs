//! When clients may draw and when their content was shown: frame callbacks and presentation-time.

use std::time::{Duration, Instant};

use crate::headless_support::Server;
use crate::headless_support::client::{Client, Event};
use primeway_tests::picture::Pattern;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_protocols::xdg::shell::client::xdg_toplevel::XdgToplevel;

use super::{OUTPUT, assert_shows, start};

/// One refresh at 60 Hz, in nanoseconds.
const REFRESH: u32 = 16_666_667;
const SMALL: (u32, u32) = (64, 64);

/// Commits without a change and waits for the frame callback.
fn idle_commit(client: &mut Client, surface: &WlSurface) {
    let token = client.frame(surface);
    surface.commit();
    client.wait("frame callback", |seen| seen.frame_done(token)).unwrap();
}

fn cpu_time(server: &Server) -> Duration {
    let now = server.ask(|_| rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap();
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
fn a_commit_without_damage_gets_its_frame_callback_and_no_frame() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    let window = client.show_window("still", &buffer).unwrap();
    server.settle().unwrap();
    let frames = server.frames().unwrap();
    for _ in 0..5 {
        idle_commit(&mut client, &window.surface);
    }
    assert_eq!(server.frames().unwrap(), frames, "nothing changed on screen");
}

#[test]
fn the_first_frame_callback_comes_with_the_first_frame() {
    let (_server, mut client) = start();
    let buffer = client.shm("XR24", SMALL, Pattern::Noise(1)).unwrap();
    let window = client.open_window("first").unwrap();
    client.attach(&window.surface, &buffer);
    idle_commit(&mut client, &window.surface);
}

#[test]
fn callbacks_pace_a_client_at_the_refresh_rate() {
    let (server, mut client) = start();
    let buffers = [1, 2].map(|n| client.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap());
    let window = client.show_window("drawing", &buffers[0]).unwrap();
    server.settle().unwrap();
    let (began, frames) = (Instant::now(), server.frames().unwrap());
    for turn in 0..20 {
        client.attach(&window.surface, &buffers[turn % 2]);
        idle_commit(&mut client, &window.surface);
    }
    server.settle().unwrap();
    let shown = server.frames().unwrap() - frames;
    assert_eq!(shown, 20, "each commit that waits for its callback is a frame");
    assert!(began.elapsed() >= Duration::from_nanos(u64::from(REFRESH) * 19), "{:?}", began.elapsed());
}

#[test]
fn undamaged_commits_are_paced_too() {
    let (server, mut client) = start();
    let buffer = client.shm("XR24", SMALL, Pattern::Noise(1)).unwrap();
    let window = client.show_window("still", &buffer).unwrap();
    server.settle().unwrap();
    let (began, cpu) = (Instant::now(), cpu_time(&server));
    for _ in 0..12 {
        idle_commit(&mut client, &window.surface);
    }
    assert!(began.elapsed() >= Duration::from_nanos(u64::from(REFRESH) * 10), "{:?}", began.elapsed());
    let used = cpu_time(&server) - cpu;
    assert!(used < Duration::from_millis(100), "{used:?} of CPU for twelve turns");
}

/// A frame a second is enough for what nobody sees, but it must not be none.
fn hidden_window(cover: impl FnOnce(&XdgToplevel)) -> (Server, Client) {
    let (server, mut client) = start();
    let contents = [1, 2].map(|n| client.shm("XR24", SMALL, Pattern::Noise(n)).unwrap());
    let full = client.dmabuf("XR24", OUTPUT, Pattern::Noise(3)).unwrap();
    let below = client.show_window("hidden", &contents[0]).unwrap();
    let top = client.open_window_as("top", cover).unwrap();
    client.show(&top.surface, &full).unwrap();
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
    let frames = server.frames().unwrap();
    for content in [&contents[1], &contents[0]] {
        client.attach(&below.surface, content);
        idle_commit(&mut client, &below.surface);
    }
    server.settle().unwrap();
    assert_eq!(server.frames().unwrap(), frames, "what is hidden needs no frame");
    (server, client)
}

#[test]
fn a_window_behind_an_opaque_one_gets_callbacks_and_causes_no_frames() {
    let (server, _client) = hidden_window(XdgToplevel::set_maximized);
    assert_eq!(server.window("hidden").unwrap().reason.as_deref(), Some("hidden behind an opaque layer"));
}

#[test]
fn a_window_below_a_full_screen_one_gets_callbacks_and_causes_no_frames() {
    hidden_window(|toplevel| toplevel.set_fullscreen(None));
}

#[test]
fn a_compositor_with_nothing_to_do_sleeps() {
    let (server, mut client) = start();
    let scanned = client.dmabuf("AR24", SMALL, Pattern::Noise(1)).unwrap();
    let composited = client.shm("XR24", SMALL, Pattern::Noise(2)).unwrap();
    client.show_window("scanned", &scanned).unwrap();
    client.show_window("composited", &composited).unwrap();
    server.settle().unwrap();
    let (frames, cpu) = (server.frames().unwrap(), cpu_time(&server));
    std::thread::sleep(Duration::from_millis(300));
    let used = cpu_time(&server) - cpu;
    assert_eq!(server.frames().unwrap(), frames);
    assert!(used < Duration::from_millis(15), "{used:?} of CPU while nothing happened");
}

#[test]
fn presented_times_rise_one_refresh_at_a_time() {
    let (_server, mut client) = start();
    let buffers = [1, 2].map(|n| client.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap());
    let window = client.open_window("timed").unwrap();
    let mut last: Option<(u64, u64)> = None;
    for turn in 0..8 {
        let token = client.feedback(&window.surface).unwrap();
        client.attach(&window.surface, &buffers[turn % 2]);
        window.surface.commit();
        client.wait("presented", |seen| seen.presented_at(token).is_some()).unwrap();
        let at = client.seen.presented_at(token).unwrap();
        let Event::Presented { time, refresh, sequence, zero_copy, .. } = client.seen.log[at] else {
            panic!()
        };
        assert!(zero_copy);
        assert_eq!(refresh, REFRESH);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        assert!(time <= now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64, "not in the future");
        if let Some((before, count)) = last {
            assert_eq!(sequence, count + 1);
            assert!(time >= before + u64::from(REFRESH), "{before} then {time}");
        }
        last = Some((time, sequence));
    }
}

#[test]
fn feedback_without_new_content_is_answered() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    let window = client.show_window("asks", &buffer).unwrap();
    server.settle().unwrap();
    let token = client.feedback(&window.surface).unwrap();
    window.surface.commit();
    client.wait("presented", |seen| seen.zero_copy(token) == Some(true)).unwrap();
}

#[test]
fn content_that_is_replaced_before_it_is_shown_is_discarded() {
    let (server, mut client) = start();
    let buffers = [1, 2].map(|n| client.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap());
    let window = client.open_window("replaced").unwrap();
    let tokens = [0, 1].map(|n: usize| {
        let token = client.feedback(&window.surface).unwrap();
        client.attach(&window.surface, &buffers[n]);
        window.surface.commit();
        token
    });
    client.wait("presented", |seen| seen.presented_at(tokens[1]).is_some()).unwrap();
    assert!(client.seen.log.contains(&Event::Discarded(tokens[0])), "{:?}", client.seen.log);
    assert_eq!(client.seen.presented_at(tokens[0]), None);
    server.settle().unwrap();
    assert_shows(&server.picture().unwrap(), (0, 0), &buffers[1]);
}

#[test]
fn feedback_of_a_surface_that_is_destroyed_is_answered_once() {
    // Before the frame is submitted, and while it is pending.
    for wait in [Duration::ZERO, Duration::from_millis(4)] {
        let (server, mut client) = start();
        let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
        let window = client.open_window("short").unwrap();
        server.settle().unwrap();
        let token = client.feedback(&window.surface).unwrap();
        client.attach(&window.surface, &buffer);
        window.surface.commit();
        if !wait.is_zero() {
            client.roundtrip().unwrap();
            std::thread::sleep(wait);
        }
        window.close();
        client.roundtrip().unwrap();
        server.settle().unwrap();
        client.roundtrip().unwrap();
        let answers =
            client.seen.log.iter().filter(
                |e| matches!(e, Event::Discarded(t) | Event::Presented { token: t, .. } if *t == token),
            );
        assert_eq!(answers.count(), 1, "after {wait:?}: {:?}", client.seen.log);
    }
}

#[test]
fn hidden_content_is_presented_when_it_is_uncovered() {
    let (server, mut client) = start();
    let content = client.shm("XR24", SMALL, Pattern::Noise(1)).unwrap();
    let cover = client.dmabuf("XR24", OUTPUT, Pattern::Noise(2)).unwrap();
    let below = client.show_window("below", &content).unwrap();
    let top = client.open_window_as("top", |toplevel| toplevel.set_fullscreen(None)).unwrap();
    client.show(&top.surface, &cover).unwrap();
    server.settle().unwrap();
    let token = client.feedback(&below.surface).unwrap();
    client.show(&below.surface, &content).unwrap();
    server.settle().unwrap();
    assert_eq!(client.seen.presented_at(token), None, "it is not on screen");
    top.close();
    client.wait("presented", |seen| seen.zero_copy(token) == Some(false)).unwrap();
}
