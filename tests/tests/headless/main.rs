//! Clients against the compositor in this process, on the headless backend: no device, no root.
//!
//! Every case asserts what a client is told, which plane shows what, and the picture. The memory of the clients is
//! memfds, which that backend takes for dma-bufs.

#![allow(clippy::unwrap_used)]

mod alpha;
mod bad;
mod colors;
mod control;
mod cycle;
mod events;
mod explain;
#[allow(dead_code, reason = "the other headless cases use the rest")]
#[path = "../headless_support/mod.rs"]
mod headless_support;
mod hostile;
mod ladder;
mod later;
mod planes;
mod probe;
mod release;
mod rewrap;
mod shell;
mod surfaces;
mod time;

use crate::headless_support::client::{Buffer, Client};
use crate::headless_support::{BACKGROUND, Screen, Server, blend_tolerance, renderer, run_again_with_gles};
use primeway::cli::Renderer;
use wayland_client::protocol::wl_surface::WlSurface;

/// The output of most cases, in pixels.
const OUTPUT: (u32, u32) = (256, 192);

fn start() -> (Server, Client) {
    let server = Server::start(OUTPUT).unwrap();
    let client = server.connect().unwrap();
    (server, client)
}

/// Blue, green and red of a pixel of the buffer's picture, composed over `below` as Pixman does.
fn colour(buffer: &Buffer, x: u32, y: u32, below: [u8; 3]) -> [u8; 3] {
    let pixel = buffer.picture.rgba(&buffer.memory.format, x, y);
    let through = 255 - u32::from(pixel.a);
    let over = |source: u8, below: u8| {
        let product = u32::from(below) * through + 0x80;
        source.saturating_add(((product + (product >> 8)) >> 8) as u8)
    };
    [over(pixel.b, below[0]), over(pixel.g, below[1]), over(pixel.r, below[2])]
}

/// Asserts that the buffer's picture is on screen, exactly, with its top left corner at `at`, and the background
/// everywhere else.
fn assert_shows(screen: &Screen, at: (u32, u32), buffer: &Buffer) {
    assert_pixels(screen, |x, y| {
        let (width, height) = (buffer.picture.width, buffer.picture.height);
        let inside = (at.0..at.0 + width).contains(&x) && (at.1..at.1 + height).contains(&y);
        if inside { colour(buffer, x - at.0, y - at.1, BACKGROUND) } else { BACKGROUND }
    });
}

fn assert_pixels(screen: &Screen, expected: impl Fn(u32, u32) -> [u8; 3]) {
    for y in 0..screen.height {
        for x in 0..screen.width {
            assert_near(screen.at(x, y), expected(x, y), || format!("blue, green, red at {x},{y}"));
        }
    }
}

/// Asserts that two pixels are the same, as far as the renderer promises.
fn assert_near(got: [u8; 3], expected: [u8; 3], what: impl FnOnce() -> String) {
    let tolerance = blend_tolerance();
    if got.iter().zip(expected).any(|(g, e)| g.abs_diff(e) > tolerance) {
        assert_eq!(got, expected, "{}", what());
    }
}

/// The largest difference of a full-output buffer's picture from the floating-point reference, in 255ths.
fn worst(screen: &Screen, buffer: &Buffer, skip: impl Fn(u32, u32) -> bool) -> f64 {
    let mut worst: f64 = 0.0;
    for y in 0..screen.height {
        for x in (0..screen.width).filter(|x| !skip(*x, y)) {
            let [r, g, b] = buffer.picture.reference(&buffer.memory.format, x, y);
            for (got, want) in screen.at(x, y).into_iter().zip([b, g, r]) {
                worst = worst.max((f64::from(got) - want).abs());
            }
        }
    }
    worst
}

/// Both renderers pass all the cases of this target: each has a process of its own, and this case is what joins them.
#[test]
fn the_other_renderer_passes_them_too() {
    let (server, _client) = start();
    let composited_by = server.stats().unwrap().renderer;
    match renderer() {
        Renderer::Gles => assert_eq!((composited_by.name.as_str(), composited_by.reads_back), ("gles", true)),
        _ => {
            assert_eq!((composited_by.name.as_str(), composited_by.reads_back), ("pixman", false));
            drop(server);
            run_again_with_gles();
        }
    }
}

/// [`Client::present`], which must not fail.
fn present(client: &mut Client, surface: &WlSurface, buffer: &Buffer) -> bool {
    client.present(surface, buffer).unwrap()
}
