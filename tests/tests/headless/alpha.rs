//! How much of a surface is seen (alpha-modifier) and what it shows (content-type): the planner is told, and composition
//! draws it so.

use drm_prime::scanout::ContentType;
use primeway_tests::picture::Pattern;
use wayland_protocols::wp::content_type::v1::client::wp_content_type_v1::Type;

use super::{OUTPUT, present, start};
use crate::headless_support::client::Buffer;
use crate::headless_support::{BACKGROUND, Screen, Server};

const NOISE: Pattern = Pattern::Noise(1);
const HALF: u32 = u32::MAX / 2;

/// The largest difference of a buffer's picture, of which a `part` is seen over the background, in 255ths.
fn off(screen: &Screen, buffer: &Buffer, part: f64) -> f64 {
    let format = &buffer.memory.format;
    let mut worst: f64 = 0.0;
    for (x, y) in (0..screen.height).flat_map(|y| (0..screen.width).map(move |x| (x, y))) {
        let [r, g, b] = buffer.picture.reference(format, x, y);
        let own = f64::from(buffer.picture.rgba(format, x, y).a) / 255.0;
        for ((got, over), under) in screen.at(x, y).into_iter().zip([b, g, r]).zip(BACKGROUND) {
            let wanted = over * part + f64::from(under) * (1.0 - own * part);
            worst = worst.max((f64::from(got) - wanted).abs());
        }
    }
    worst
}

fn assert_seen(server: &Server, buffer: &Buffer, part: f64, what: &str) {
    server.settle().unwrap();
    let off = off(&server.picture().unwrap(), buffer, part);
    assert!(off <= 2.0, "{what}, {part} of it: off by {off}/255");
}

/// Nothing but the factor changes with the commits: neither buffer nor damage.
#[test]
fn a_part_of_a_surface_is_seen_over_what_is_below() {
    for kind in ["XR24", "AR24", "NV12", "shm XR24", "shm AR24"] {
        let (server, mut client) = start();
        let buffer = match kind.strip_prefix("shm ") {
            Some(format) => client.shm(format, OUTPUT, NOISE).unwrap(),
            None => client.dmabuf(kind, OUTPUT, Pattern::Card).unwrap(),
        };
        let window = client.open_window(kind).unwrap();
        let planes = present(&mut client, &window.surface, &buffer);
        assert_seen(&server, &buffer, 1.0, kind);
        let alpha = client.alpha(&window.surface).unwrap();
        for factor in [HALF, u32::MAX / 5, 0, u32::MAX - 0x8001, HALF] {
            alpha.set_multiplier(factor);
            assert!(!client.presented(&window.surface).unwrap(), "{kind}");
            assert_seen(&server, &buffer, f64::from(factor) / f64::from(u32::MAX), kind);
        }
        let reason = server.window(kind).unwrap().reason.unwrap();
        let text = "shown with alpha 0x7fff of 0xffff and the plane has no alpha property";
        assert_eq!(reason == text, planes, "{kind}: {reason}");
        // All of it again, with the object's end.
        alpha.destroy();
        assert_eq!(client.presented(&window.surface).unwrap(), planes, "{kind}");
        assert_seen(&server, &buffer, 1.0, kind);
    }
}

/// Scaled, where the renderers have other ways.
#[test]
fn a_part_of_a_scaled_surface_is_seen() {
    let (server, mut client) = start();
    let grey = Pattern::Solid(0xff80_c040);
    let buffer = client.dmabuf("XR24", (OUTPUT.0 / 2, OUTPUT.1 / 2), grey).unwrap();
    let window = client.open_window("scaled").unwrap();
    client.viewport(&window.surface).unwrap().set_destination(OUTPUT.0 as i32, OUTPUT.1 as i32);
    assert!(!present(&mut client, &window.surface, &buffer));
    let whole =
        Buffer { picture: primeway_tests::picture::Picture { width: OUTPUT.0, ..buffer.picture }, ..buffer };
    assert_seen(&server, &whole, 1.0, "scaled");
    let alpha = client.alpha(&window.surface).unwrap();
    alpha.set_multiplier(HALF);
    client.presented(&window.surface).unwrap();
    assert_seen(&server, &whole, 0.5, "scaled");
}

/// What is behind a window that is seen in part is drawn, and one that is seen in full hides it.
#[test]
fn what_is_below_is_drawn_as_long_as_it_is_seen() {
    let (server, mut client) = start();
    let below = client.shm("XR24", OUTPUT, Pattern::Solid(0xffff_0000)).unwrap();
    let above = client.dmabuf("XR24", OUTPUT, Pattern::Solid(0xff00_00ff)).unwrap();
    let lower = client.show_window("below", &below).unwrap();
    let (child, _role) = client.subsurface(&lower.surface).unwrap();
    client.show(&child, &above).unwrap();
    lower.surface.commit();
    let colour = |client: &mut crate::headless_support::client::Client| {
        client.roundtrip().unwrap();
        server.settle().unwrap();
        server.picture().unwrap().at(5, 5)
    };
    assert_eq!(colour(&mut client), [255, 0, 0]);
    let alpha = client.alpha(&child).unwrap();
    alpha.set_multiplier(HALF);
    child.commit();
    // Set after the child's commit: not its parent's to take.
    alpha.set_multiplier(0);
    assert_eq!(colour(&mut client), [255, 0, 0]);
    lower.surface.commit();
    let [b, g, r] = colour(&mut client);
    assert!(b.abs_diff(127) <= 1 && g == 0 && r.abs_diff(128) <= 1, "{b} {g} {r}");
    child.commit();
    lower.surface.commit();
    assert_eq!(colour(&mut client), [0, 0, 255]);
}

#[test]
fn what_a_client_says_that_it_shows_reaches_the_planner() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", OUTPUT, NOISE).unwrap();
    let window = client.show_window("video", &buffer).unwrap();
    let planned = || {
        server.settle().unwrap();
        server.ask(|state| state.outputs[0].state.last_plan().unwrap().0.layers[0].content_type).unwrap()
    };
    assert_eq!(planned(), ContentType::Still);
    let object = client.content_type(&window.surface).unwrap();
    for (said, expected) in [
        (Type::Video, ContentType::Video),
        (Type::Game, ContentType::Game),
        (Type::Photo, ContentType::Still),
    ] {
        object.set_content_type(said);
        assert!(client.presented(&window.surface).unwrap());
        assert_eq!(planned(), expected);
    }
    object.set_content_type(Type::Video);
    object.destroy();
    client.presented(&window.surface).unwrap();
    assert_eq!(planned(), ContentType::Still);
}
