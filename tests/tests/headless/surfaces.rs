//! What surfaces are made of: subsurfaces, popups, viewports, buffer transforms and scales, damage.

use crate::headless_support::client::{Buffer, Client, Event, Popup, Window};
use crate::headless_support::{BACKGROUND, Screen, Server};
use primeway_tests::picture::Pattern;
use wayland_client::Proxy as _;
use wayland_client::protocol::wl_output::Transform;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::Flags;
use wayland_protocols::xdg::shell::client::xdg_positioner::{
    Anchor, ConstraintAdjustment, Gravity, XdgPositioner,
};

use super::{OUTPUT, assert_near, assert_pixels, assert_shows, colour, present, start};

const SIDE: (u32, u32) = (64, 64);
/// The reason when a memory plane would have to scale.
const NO_SCALING: &str = "the driver's test commit failed: Invalid argument (os error 22)";

fn picture(server: &Server) -> Screen {
    server.settle().unwrap();
    server.picture().unwrap()
}

/// Asserts the picture of buffers, topmost first, each at its place.
fn assert_stack(screen: &Screen, stack: &[(&Buffer, (u32, u32))]) {
    assert_pixels(screen, |x, y| {
        let hit = stack.iter().find_map(|(buffer, at)| {
            let (left, top) = (x.checked_sub(at.0)?, y.checked_sub(at.1)?);
            (left < buffer.picture.width && top < buffer.picture.height)
                .then(|| colour(buffer, left, top, BACKGROUND))
        });
        hit.unwrap_or(BACKGROUND)
    });
}

fn shm(client: &mut Client, seed: u32) -> Buffer {
    client.shm("XR24", SIDE, Pattern::Noise(seed)).unwrap()
}

#[test]
fn a_subsurface_on_an_overlay_above_a_composited_parent() {
    let (server, mut client) = start();
    let (base, content) = (shm(&mut client, 1), client.dmabuf("AR24", SIDE, Pattern::Noise(2)).unwrap());
    let window = client.show_window("parent", &base).unwrap();
    let (child, role) = client.subsurface(&window.surface).unwrap();
    role.set_position(16, 32);
    role.set_desync();
    client.show(&child, &content).unwrap();
    window.surface.commit();
    assert!(present(&mut client, &child, &content), "ZERO_COPY");
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["composited", "none", "client"]);
    let report = server.surfaces().unwrap().into_iter().find(|s| s.role == "subsurface").unwrap();
    assert_eq!((report.position, report.size, report.plane), ((16, 32), (64, 64), Some(3)));
    assert_pixels(&picture(&server), |x, y| {
        let below = if x < 64 && y < 64 { colour(&base, x, y, BACKGROUND) } else { BACKGROUND };
        match (x.checked_sub(16), y.checked_sub(32)) {
            (Some(left), Some(top)) if left < 64 && top < 64 => colour(&content, left, top, below),
            _ => below,
        }
    });
}

#[test]
fn a_synchronized_subsurface_waits_for_its_parent() {
    let (server, mut client) = start();
    let buffers: Vec<_> = (0..3).map(|n| shm(&mut client, n)).collect();
    let window = client.show_window("parent", &buffers[0]).unwrap();
    let (child, role) = client.subsurface(&window.surface).unwrap();
    role.set_position(80, 0);
    client.show(&child, &buffers[1]).unwrap();
    assert_stack(&picture(&server), &[(&buffers[0], (0, 0))]);
    window.surface.commit();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[(&buffers[1], (80, 0)), (&buffers[0], (0, 0))]);
    client.show(&child, &buffers[2]).unwrap();
    assert_stack(&picture(&server), &[(&buffers[1], (80, 0)), (&buffers[0], (0, 0))]);
    // Desynchronized, what was held back is shown.
    role.set_desync();
    client.show(&child, &buffers[2]).unwrap();
    assert_stack(&picture(&server), &[(&buffers[2], (80, 0)), (&buffers[0], (0, 0))]);
    client.show(&child, &buffers[1]).unwrap();
    assert_stack(&picture(&server), &[(&buffers[1], (80, 0)), (&buffers[0], (0, 0))]);
}

/// What is attached and not committed is not the parent's to apply.
#[test]
fn a_parents_commit_does_not_commit_its_subsurface() {
    let (server, mut client) = start();
    let buffers: Vec<_> = (0..3).map(|n| shm(&mut client, n)).collect();
    let window = client.show_window("parent", &buffers[0]).unwrap();
    let (child, role) = client.subsurface(&window.surface).unwrap();
    role.set_position(80, 0);
    let commit_parent = |client: &mut Client| {
        window.surface.commit();
        client.roundtrip().unwrap();
    };
    child.attach(Some(&buffers[1].wl), 0, 0);
    commit_parent(&mut client);
    assert_stack(&picture(&server), &[(&buffers[0], (0, 0))]);
    child.commit();
    commit_parent(&mut client);
    assert_stack(&picture(&server), &[(&buffers[1], (80, 0)), (&buffers[0], (0, 0))]);
    // Nor is a null buffer, nor what was attached before the last attach.
    child.attach(None, 0, 0);
    commit_parent(&mut client);
    assert_stack(&picture(&server), &[(&buffers[1], (80, 0)), (&buffers[0], (0, 0))]);
    child.attach(Some(&buffers[2].wl), 0, 0);
    child.damage(0, 0, i32::MAX, i32::MAX);
    child.commit();
    commit_parent(&mut client);
    assert_stack(&picture(&server), &[(&buffers[2], (80, 0)), (&buffers[0], (0, 0))]);
    // A commit without an attach keeps the buffer.
    child.commit();
    commit_parent(&mut client);
    assert_stack(&picture(&server), &[(&buffers[2], (80, 0)), (&buffers[0], (0, 0))]);
}

#[test]
fn place_above_and_below_take_effect_with_the_parent() {
    let (server, mut client) = start();
    let buffers: Vec<_> = (0..3).map(|n| shm(&mut client, n)).collect();
    let window = client.show_window("parent", &buffers[0]).unwrap();
    let children: Vec<_> = (1..3)
        .map(|n| {
            let (surface, role) = client.subsurface(&window.surface).unwrap();
            role.set_position(24 * n, 24 * n);
            role.set_desync();
            client.show(&surface, &buffers[n as usize]).unwrap();
            (surface, role)
        })
        .collect();
    window.surface.commit();
    client.roundtrip().unwrap();
    let at = |n: usize| (&buffers[n], (24 * n as u32, 24 * n as u32));
    assert_stack(&picture(&server), &[at(2), at(1), at(0)]);
    children[1].1.place_below(&window.surface);
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[at(2), at(1), at(0)]);
    window.surface.commit();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[at(1), at(0), at(2)]);
    children[1].1.place_above(&children[0].0);
    window.surface.commit();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[at(2), at(1), at(0)]);
    children[1].1.set_position(0, 80);
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[at(2), at(1), at(0)]);
    window.surface.commit();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[(&buffers[2], (0, 80)), at(1), at(0)]);
    children[1].1.destroy();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[at(1), at(0)]);
}

#[test]
fn a_subsurface_of_a_subsurface_adds_its_position() {
    let (server, mut client) = start();
    let buffers: Vec<_> = (0..3).map(|n| client.dmabuf("XR24", SIDE, Pattern::Noise(n)).unwrap()).collect();
    let window = client.show_window("root", &buffers[0]).unwrap();
    let (middle, role) = client.subsurface(&window.surface).unwrap();
    role.set_position(40, 8);
    let (leaf, inner) = client.subsurface(&middle).unwrap();
    inner.set_position(40, 8);
    client.show(&leaf, &buffers[2]).unwrap();
    client.show(&middle, &buffers[1]).unwrap();
    window.surface.commit();
    client.roundtrip().unwrap();
    assert_stack(
        &picture(&server),
        &[(&buffers[2], (80, 16)), (&buffers[1], (40, 8)), (&buffers[0], (0, 0))],
    );
    assert_eq!(server.contents().unwrap(), ["composited", "client", "client"]);
    // Without its parent's buffer it is not shown.
    middle.attach(None, 0, 0);
    middle.commit();
    window.surface.commit();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[(&buffers[0], (0, 0))]);
}

#[test]
fn a_window_cannot_become_a_subsurface() {
    let (_server, mut client) = start();
    let parent = client.surface().unwrap();
    let window = client.open_window("role").unwrap();
    client.subsurface_of(&window.surface, &parent).unwrap();
    let error = client.expect_error().unwrap();
    // wl_subcompositor.error.bad_surface: it has another role.
    assert_eq!((error.interface.as_str(), error.code), ("wl_subcompositor", 0), "{error:?}");
}

/// A positioner for a popup of 40x30 at `rect`, below its left edge and growing to the right.
fn below(client: &Client, rect: [i32; 4], adjust: ConstraintAdjustment) -> XdgPositioner {
    let positioner = client.positioner().unwrap();
    positioner.set_size(40, 30);
    positioner.set_anchor_rect(rect[0], rect[1], rect[2], rect[3]);
    positioner.set_anchor(Anchor::BottomLeft);
    positioner.set_gravity(Gravity::BottomRight);
    positioner.set_constraint_adjustment(adjust);
    positioner
}

/// Opens a popup and waits for its place.
fn open(client: &mut Client, window: &Window, positioner: &XdgPositioner) -> (Popup, [i32; 4]) {
    // Object ids are used again.
    client.seen.log.clear();
    let popup = client.popup(&window.xdg_surface, positioner).unwrap();
    popup.surface.commit();
    let id = popup.popup.id().protocol_id();
    client.wait("popup configure", |seen| seen.popup(id).is_some()).unwrap();
    let place = client.seen.popup(id).unwrap();
    (popup, place)
}

fn full_window(client: &mut Client) -> (Window, Buffer) {
    let buffer = client.shm("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    let window = client.show_window("window", &buffer).unwrap();
    (window, buffer)
}

#[test]
fn a_popup_is_placed_by_its_positioner_and_shown_above_its_window() {
    let (server, mut client) = start();
    let (window, base) = full_window(&mut client);
    let positioner = below(&client, [10, 10, 20, 20], ConstraintAdjustment::None);
    let (popup, place) = open(&mut client, &window, &positioner);
    assert_eq!(place, [10, 30, 40, 30]);
    let content = client.dmabuf("XR24", (40, 30), Pattern::Noise(2)).unwrap();
    assert!(present(&mut client, &popup.surface, &content), "a popup may have an overlay");
    assert_stack(&picture(&server), &[(&content, (10, 30)), (&base, (0, 0))]);
    let report = server.surfaces().unwrap().remove(0);
    assert_eq!((report.role.as_str(), report.position), ("popup", (10, 30)));
    popup.close();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[(&base, (0, 0))]);
}

#[test]
fn a_popup_beyond_the_edge_flips_slides_or_shrinks() {
    let (server, mut client) = start();
    let (window, _base) = full_window(&mut client);
    server.settle().unwrap();
    for (rect, adjust, expected) in [
        ([200, 170, 20, 20], ConstraintAdjustment::None, [200, 190, 40, 30]),
        ([200, 170, 20, 20], ConstraintAdjustment::FlipY, [200, 140, 40, 30]),
        ([200, 170, 20, 20], ConstraintAdjustment::SlideY, [200, 162, 40, 30]),
        ([240, 10, 10, 10], ConstraintAdjustment::SlideX, [216, 20, 40, 30]),
        ([200, 160, 20, 12], ConstraintAdjustment::ResizeY, [200, 172, 40, 20]),
        ([240, 170, 10, 10], ConstraintAdjustment::SlideX | ConstraintAdjustment::FlipY, [216, 140, 40, 30]),
    ] {
        let positioner = below(&client, rect, adjust);
        let (popup, place) = open(&mut client, &window, &positioner);
        assert_eq!(place, expected, "{adjust:?}");
        popup.close();
        positioner.destroy();
        client.roundtrip().unwrap();
    }
}

#[test]
fn a_popup_that_is_repositioned_gets_its_token_back() {
    let (server, mut client) = start();
    let (window, base) = full_window(&mut client);
    let positioner = below(&client, [10, 10, 20, 20], ConstraintAdjustment::None);
    let (popup, _) = open(&mut client, &window, &positioner);
    let content = client.shm("XR24", (40, 30), Pattern::Noise(2)).unwrap();
    client.show(&popup.surface, &content).unwrap();
    let id = popup.popup.id().protocol_id();
    popup.popup.reposition(&below(&client, [50, 60, 20, 20], ConstraintAdjustment::None), 77);
    client.wait("repositioned", |seen| seen.log.contains(&Event::Repositioned(id, 77))).unwrap();
    client.wait("configure", |seen| seen.popup(id) == Some([50, 80, 40, 30])).unwrap();
    client.show(&popup.surface, &content).unwrap();
    assert_stack(&picture(&server), &[(&content, (50, 80)), (&base, (0, 0))]);
}

#[test]
fn a_grabbing_popup_is_dismissed_by_a_click_elsewhere() {
    let (server, mut client) = start();
    let buffer = shm(&mut client, 1);
    let window = client.show_window("menu", &buffer).unwrap();
    server.settle().unwrap();
    let serial = server.click(5.0, 5.0).unwrap();
    let positioner = below(&client, [10, 10, 20, 20], ConstraintAdjustment::None);
    let popup = client.popup(&window.xdg_surface, &positioner).unwrap();
    popup.popup.grab(&client.seat().unwrap(), serial);
    popup.surface.commit();
    let id = popup.popup.id().protocol_id();
    client.wait("popup configure", |seen| seen.popup(id).is_some()).unwrap();
    let content = client.shm("XR24", (40, 30), Pattern::Noise(2)).unwrap();
    client.show(&popup.surface, &content).unwrap();
    server.settle().unwrap();
    // Inside it, a click is the popup's own.
    server.click(20.0, 40.0).unwrap();
    client.roundtrip().unwrap();
    assert_eq!(client.seen.position(&Event::PopupDone(id)), None);
    server.click(200.0, 150.0).unwrap();
    client.wait("popup_done", |seen| seen.log.contains(&Event::PopupDone(id))).unwrap();
    popup.close();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[(&buffer, (0, 0))]);
}

#[test]
fn a_viewport_that_crops_stays_on_the_plane() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", (128, 128), Pattern::Noise(1)).unwrap();
    let window = client.open_window("crop").unwrap();
    let viewport = client.viewport(&window.surface).unwrap();
    viewport.set_source(16.0, 32.0, 64.0, 48.0);
    assert!(present(&mut client, &window.surface, &buffer));
    assert_eq!(server.window("crop").unwrap().size, (64, 48));
    assert_pixels(&picture(&server), |x, y| {
        if x < 64 && y < 48 { colour(&buffer, x + 16, y + 32, BACKGROUND) } else { BACKGROUND }
    });
    assert_eq!(server.contents().unwrap(), ["composited", "none", "client"]);
}

#[test]
fn a_viewport_that_scales_is_refused_by_the_planes_and_composited() {
    for format in ["XR24", "NV12", "shm"] {
        let (server, mut client) = start();
        let pattern = Pattern::Solid(0xff20_c060);
        let buffer = match format {
            "shm" => client.shm("XR24", SIDE, pattern).unwrap(),
            _ => client.dmabuf(format, SIDE, pattern).unwrap(),
        };
        let window = client.open_window(format).unwrap();
        client.viewport(&window.surface).unwrap().set_destination(128, 32);
        assert!(!present(&mut client, &window.surface, &buffer), "{format}");
        let report = server.window(format).unwrap();
        let reason = if format == "shm" { "the buffer is not a dma-buf" } else { NO_SCALING };
        assert_eq!((report.size, report.reason.as_deref()), ((128, 32), Some(reason)), "{format}");
        let screen = picture(&server);
        let [r, g, b] = buffer.picture.reference(&buffer.memory.format, 0, 0);
        for y in 0..OUTPUT.1 {
            for x in 0..OUTPUT.0 {
                let got = screen.at(x, y);
                if x < 128 && y < 32 {
                    let near = got.iter().zip([b, g, r]).all(|(g, w)| (f64::from(*g) - w).abs() <= 2.0);
                    assert!(near, "{format}: {got:?} at {x},{y}");
                } else {
                    assert_eq!(got, BACKGROUND, "{format} at {x},{y}");
                }
            }
        }
    }
}

#[test]
fn a_viewport_crops_and_scales_what_is_composited() {
    // The second colour bar of the card: 32 pixels wide in a buffer of 224.
    let (server, mut client) = start();
    let buffer = client.shm("XR24", (224, 64), Pattern::Card).unwrap();
    let window = client.open_window("bar").unwrap();
    let viewport = client.viewport(&window.surface).unwrap();
    viewport.set_source(34.0, 2.0, 28.0, 28.0);
    viewport.set_destination(84, 56);
    assert!(!present(&mut client, &window.surface, &buffer));
    let bar = colour(&buffer, 40, 8, BACKGROUND);
    assert_pixels(&picture(&server), |x, y| if x < 84 && y < 56 { bar } else { BACKGROUND });
}

#[test]
fn a_source_outside_the_buffer_is_an_error() {
    let (_server, mut client) = start();
    let buffer = shm(&mut client, 1);
    let window = client.open_window("outside").unwrap();
    client.viewport(&window.surface).unwrap().set_source(32.0, 0.0, 64.0, 64.0);
    client.attach(&window.surface, &buffer);
    window.surface.commit();
    let error = client.expect_error().unwrap();
    // wp_viewport.error.out_of_buffer
    assert_eq!((error.interface.as_str(), error.code), ("wp_viewport", 2), "{error:?}");
}

#[test]
fn every_buffer_transform_is_undone_exactly() {
    // Where the pixel (x, y) of a surface of w x h is in the buffer; wl_output.transform
    // flips first and turns counter-clockwise then.
    type Map = fn(u32, u32, u32, u32) -> (u32, u32);
    let cases: [(Transform, Map); 7] = [
        (Transform::_90, |x, y, w, _| (y, w - 1 - x)),
        (Transform::_180, |x, y, w, h| (w - 1 - x, h - 1 - y)),
        (Transform::_270, |x, y, _, h| (h - 1 - y, x)),
        (Transform::Flipped, |x, y, w, _| (w - 1 - x, y)),
        (Transform::Flipped90, |x, y, _, _| (y, x)),
        (Transform::Flipped180, |x, y, _, h| (x, h - 1 - y)),
        (Transform::Flipped270, |x, y, w, h| (h - 1 - y, w - 1 - x)),
    ];
    for (transform, map) in cases {
        for (kind, flags) in
            [("shm", Flags::empty()), ("dmabuf", Flags::empty()), ("inverted", Flags::YInvert)]
        {
            let (server, mut client) = start();
            let buffer = match kind {
                "shm" => client.shm("XR24", (96, 64), Pattern::Noise(1)).unwrap(),
                _ => client.dmabuf_with("XR24", (96, 64), Pattern::Noise(1), flags).unwrap(),
            };
            let window = client.open_window("turned").unwrap();
            window.surface.set_buffer_transform(transform);
            // Turned over and stored bottom row first, it lies in memory as it is shown.
            let upright = kind == "inverted" && transform == Transform::Flipped180;
            assert_eq!(present(&mut client, &window.surface, &buffer), upright, "{transform:?} {kind}");
            let turned = matches!(
                transform,
                Transform::_90 | Transform::_270 | Transform::Flipped90 | Transform::Flipped270
            );
            let (w, h) = if turned { (64, 96) } else { (96, 64) };
            let report = server.window("turned").unwrap();
            assert_eq!(report.size, (w as i32, h as i32), "{transform:?}");
            if kind != "shm" && !upright {
                let reason = report.reason.unwrap();
                let turn = reason.strip_prefix("the picture needs ").unwrap();
                let turn = turn.strip_suffix(" and the plane has rotate-0 only").unwrap();
                assert!(turn.starts_with("rotate-") || turn.starts_with("reflect-"), "{transform:?}: {turn}");
            }
            let screen = picture(&server);
            for y in 0..OUTPUT.1 {
                for x in 0..OUTPUT.0 {
                    let expected = if x < w && y < h {
                        let (bx, by) = map(x, y, w, h);
                        colour(&buffer, bx, by, BACKGROUND)
                    } else {
                        BACKGROUND
                    };
                    assert_near(screen.at(x, y), expected, || format!("{transform:?} {kind} at {x},{y}"));
                }
            }
        }
    }
}

#[test]
fn a_buffer_stored_bottom_row_first_is_composited_upright() {
    for format in ["XR24", "AR24", "NV12"] {
        let (server, mut client) = start();
        let buffer = client.dmabuf_with(format, (96, 64), Pattern::Card, Flags::YInvert).unwrap();
        let window = client.open_window("inverted").unwrap();
        assert!(!present(&mut client, &window.surface, &buffer), "{format}");
        let reason = server.window("inverted").unwrap().reason.unwrap();
        assert_eq!(reason, "the picture needs reflect-y and the plane has rotate-0 only");
        let screen = picture(&server);
        if format == "NV12" {
            for y in 0..64 {
                for x in 0..96 {
                    let [r, g, b] = buffer.picture.reference(&buffer.memory.format, x, y);
                    let got = screen.at(x, y);
                    let near = got.iter().zip([b, g, r]).all(|(g, w)| (f64::from(*g) - w).abs() <= 2.0);
                    assert!(near, "{got:?} at {x},{y} for {r},{g},{b}");
                }
            }
        } else {
            assert_shows(&screen, (0, 0), &buffer);
        }
    }
}

#[test]
fn a_cropped_inverted_buffer_shows_the_right_rows() {
    let (server, mut client) = start();
    let buffer = client.dmabuf_with("XR24", (96, 64), Pattern::Noise(5), Flags::YInvert).unwrap();
    let window = client.open_window("inverted").unwrap();
    client.viewport(&window.surface).unwrap().set_source(8.0, 4.0, 40.0, 20.0);
    assert!(!present(&mut client, &window.surface, &buffer));
    assert_pixels(&picture(&server), |x, y| {
        if x < 40 && y < 20 { colour(&buffer, x + 8, y + 4, BACKGROUND) } else { BACKGROUND }
    });
}

#[test]
fn an_inverted_buffer_is_scaled_as_an_upright_one_is() {
    // All of it to twice its size, and a part from the middle to three times its own.
    for source in [None, Some([8.0, 4.0, 40.0, 20.0])] {
        let screens = [Flags::empty(), Flags::YInvert].map(|flags| {
            let (server, mut client) = start();
            let buffer = client.dmabuf_with("XR24", (96, 64), Pattern::Noise(6), flags).unwrap();
            let window = client.open_window("scaled").unwrap();
            let viewport = client.viewport(&window.surface).unwrap();
            if let Some([x, y, w, h]) = source {
                viewport.set_source(x, y, w, h);
            }
            viewport.set_destination(120, 60);
            assert!(!present(&mut client, &window.surface, &buffer));
            picture(&server)
        });
        for y in 0..OUTPUT.1 {
            for x in 0..OUTPUT.0 {
                let (upright, inverted) = (screens[0].at(x, y), screens[1].at(x, y));
                // Weights are rounded from the other end.
                let near = upright.iter().zip(inverted).all(|(a, b)| a.abs_diff(b) <= 4);
                assert!(near, "{source:?}: {upright:?} upright, {inverted:?} inverted at {x},{y}");
            }
        }
        let row = |y| (0..120).map(|x| screens[0].at(x, y)).collect::<Vec<_>>();
        assert_ne!(row(5), row(54), "a picture that is the same upside down shows nothing");
    }
}

#[test]
fn an_inverted_subsurface_is_upright_over_an_inverted_parent() {
    let (server, mut client) = start();
    let sizes = [(160, 120), (64, 48)];
    let [below, above] = [0, 1].map(|n: usize| {
        client.dmabuf_with("XR24", sizes[n], Pattern::Noise(n as u32), Flags::YInvert).unwrap()
    });
    let window = client.show_window("parent", &below).unwrap();
    let (surface, role) = client.subsurface(&window.surface).unwrap();
    role.set_position(24, 16);
    client.attach(&surface, &above);
    surface.commit();
    window.surface.commit();
    client.roundtrip().unwrap();
    assert_stack(&picture(&server), &[(&above, (24, 16)), (&below, (0, 0))]);
}

#[test]
fn a_buffer_of_scale_two_is_shown_at_half_its_size() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", (128, 96), Pattern::Solid(0xff10_2030)).unwrap();
    let window = client.open_window("scaled").unwrap();
    window.surface.set_buffer_scale(2);
    assert!(!present(&mut client, &window.surface, &buffer));
    let report = server.window("scaled").unwrap();
    assert_eq!((report.size, report.reason.as_deref()), ((64, 48), Some(NO_SCALING)));
    let solid = colour(&buffer, 0, 0, BACKGROUND);
    assert_pixels(&picture(&server), |x, y| if x < 64 && y < 48 { solid } else { BACKGROUND });
}

#[test]
fn small_damage_adds_up_to_the_whole_picture() {
    for kind in ["shm", "dmabuf"] {
        let (server, mut client) = start();
        let buffer = match kind {
            "shm" => client.shm("XR24", SIDE, Pattern::Solid(0xff00_0000)).unwrap(),
            // A format without a plane, so that it is composited.
            _ => client.dmabuf("XB24", SIDE, Pattern::Solid(0xff00_0000)).unwrap(),
        };
        let window = client.show_window("damage", &buffer).unwrap();
        server.settle().unwrap();
        let stride = u64::from(buffer.memory.layout[0].stride);
        let mut white = Vec::new();
        // More steps than there are buffers in the swapchain: each is drawn with a different age.
        for step in 0..7u32 {
            let (left, top) = (step * 23 % 56, step * 13 % 56);
            white.push((left, top));
            for row in 0..8 {
                let offset = u64::from(top + row) * stride + u64::from(left) * 4;
                rustix::io::pwrite(&buffer.memory, &[0xff; 32], offset).unwrap();
            }
            window.surface.attach(Some(&buffer.wl), 0, 0);
            window.surface.damage_buffer(left as i32, top as i32, 8, 8);
            window.surface.commit();
            client.roundtrip().unwrap();
            assert_pixels(&picture(&server), |x, y| {
                let hit = |&(l, t): &(u32, u32)| x.wrapping_sub(l) < 8 && y.wrapping_sub(t) < 8;
                match (x < 64 && y < 64, white.iter().any(hit)) {
                    (false, _) => BACKGROUND,
                    (true, true) => [255; 3],
                    (true, false) => [0; 3],
                }
            });
        }
    }
}

#[test]
fn a_pool_that_grows_under_a_composited_window_harms_nobody() {
    let (server, mut client) = start();
    let (mut buffer, pool) = client.shm_in_pool("XR24", SIDE, Pattern::Noise(1)).unwrap();
    let window = client.show_window("pool", &buffer).unwrap();
    server.settle().unwrap();
    for turn in 1..6u32 {
        let size = buffer.memory.size() * u64::from(turn + 1) * 64;
        rustix::fs::ftruncate(&buffer.memory, size).unwrap();
        pool.resize(size as i32);
        buffer.redraw(Pattern::Noise(turn + 1)).unwrap();
        client.show(&window.surface, &buffer).unwrap();
        assert_stack(&picture(&server), &[(&buffer, (0, 0))]);
    }
}
