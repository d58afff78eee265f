//! What clients hear when, whom the frame clock calls as late as it can.

use std::time::Duration;

use crate::headless_support::client::{Buffer, Client, Window};
use primeway_tests::picture::Pattern;

use super::{OUTPUT, start};

/// Frames after which the clock knows how long a client takes.
const KNOWN: u32 = 24;

/// Shows frames, each drawn when the client is called; the last of them is committed and not waited for.
fn draw(client: &mut Client, window: &Window, buffers: &[Buffer; 2], frames: u32) -> (u32, u32) {
    let mut tokens = (0, 0);
    for number in 0..frames {
        tokens = (client.frame(&window.surface), client.feedback(&window.surface).unwrap());
        client.attach(&window.surface, &buffers[number as usize % 2]);
        window.surface.commit();
        if number + 1 < frames {
            client.wait("called", |seen| seen.frame_done(tokens.0)).unwrap();
        }
    }
    tokens
}

fn two_buffers(client: &mut Client) -> [Buffer; 2] {
    [1, 2].map(|n| client.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap())
}

#[test]
fn a_client_that_is_called_late_hears_all_of_a_frame_at_once() {
    let (server, mut client) = start();
    let buffers = two_buffers(&mut client);
    let window = client.open_window("late").unwrap();
    draw(&mut client, &window, &buffers, KNOWN);
    let (mut together, rounds) = (0, 20);
    for number in 0..rounds {
        client.seen.log.clear();
        let tokens = (client.frame(&window.surface), client.feedback(&window.surface).unwrap());
        client.attach(&window.surface, &buffers[number % 2]);
        window.surface.commit();
        client.wait("presented", |seen| seen.presented_at(tokens.1).is_some()).unwrap();
        // What is there with it came with it.
        let before = &buffers[(number + 1) % 2];
        together += usize::from(client.seen.frame_done(tokens.0) && client.seen.released(before.id()));
        client.wait("called", |seen| seen.frame_done(tokens.0)).unwrap();
    }
    assert!(together > rounds / 2, "{together} of {rounds}");
    server.settle().unwrap();
}

#[test]
fn what_is_held_back_for_a_call_comes_when_the_surface_is_gone() {
    let (server, mut client) = start();
    let buffers = two_buffers(&mut client);
    // At any time of the frame.
    for step in 0..6 {
        let window = client.open_window("gone").unwrap();
        draw(&mut client, &window, &buffers, KNOWN);
        let limit = Duration::from_millis(4 * step);
        client.wait_within(limit, |_| false).unwrap();
        client.seen.log.clear();
        window.close();
        let last = buffers[(KNOWN as usize - 1) % 2].id();
        client.wait("release", |seen| seen.released(last)).unwrap();
    }
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["composited", "none", "none"]);
}

#[test]
fn a_client_that_never_draws_again_keeps_nobody_waiting() {
    let (server, mut client) = start();
    let mut idle = server.connect().unwrap();
    let (mine, theirs) = (two_buffers(&mut client), two_buffers(&mut idle));
    let window = client.open_window("draws").unwrap();
    let other = idle.open_window("stops").unwrap();
    draw(&mut idle, &other, &theirs, KNOWN);
    // It has been called, or will be, and does not answer.
    for number in 0..30 {
        let tokens = (client.frame(&window.surface), client.feedback(&window.surface).unwrap());
        client.attach(&window.surface, &mine[number % 2]);
        window.surface.commit();
        client.wait("called", |seen| seen.frame_done(tokens.0)).unwrap();
    }
    server.settle().unwrap();
}

#[test]
fn a_composited_buffer_comes_back_with_the_call() {
    let (server, mut client) = start();
    let buffers = [1, 2].map(|n| client.shm("XR24", (64, 48), Pattern::Noise(n)).unwrap());
    let window = client.open_window("composited").unwrap();
    draw(&mut client, &window, &buffers, KNOWN);
    let mut together = 0;
    for number in 0..20 {
        let before = buffers[(number + 1) % 2].id();
        let token = client.frame(&window.surface);
        client.attach(&window.surface, &buffers[number % 2]);
        client.seen.log.clear();
        window.surface.commit();
        client.wait("the old buffer", |seen| seen.released(before)).unwrap();
        together += usize::from(client.seen.frame_done(token));
        client.wait("called", |seen| seen.frame_done(token)).unwrap();
    }
    assert_eq!(together, 20);
    server.settle().unwrap();
}

#[test]
fn who_does_not_wait_for_a_call_gets_composited_buffers_back_at_once() {
    let (server, mut client) = start();
    let buffers = [1, 2].map(|n| client.shm("XR24", (64, 48), Pattern::Noise(n)).unwrap());
    let window = client.open_window("does not wait").unwrap();
    client.show(&window.surface, &buffers[0]).unwrap();
    for number in 1..9 {
        client.seen.log.clear();
        let before = buffers[(number + 1) % 2].id();
        client.attach(&window.surface, &buffers[number % 2]);
        window.surface.commit();
        client.roundtrip().unwrap();
        assert!(client.seen.released(before), "commit {number}");
    }
    // Who waits has it back when the window is taken away.
    let _ = client.frame(&window.surface);
    client.attach(&window.surface, &buffers[1]);
    window.surface.commit();
    client.seen.log.clear();
    window.surface.attach(None, 0, 0);
    window.surface.commit();
    client.wait("both", |seen| buffers.iter().all(|b| seen.released(b.id()))).unwrap();
    server.settle().unwrap();
}
