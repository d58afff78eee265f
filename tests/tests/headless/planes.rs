//! Which plane shows which buffer, what the client is told of it, and the picture.

use primeway_tests::picture::Pattern;

use super::{BACKGROUND, OUTPUT, assert_pixels, assert_shows, colour, present, start, worst};

const NOISE: Pattern = Pattern::Noise(1);
const SMALL: (u32, u32) = (96, 64);
/// Where a second window goes that does not fit beside the first: the first step of the cascade.
const STEP: u32 = 32;

#[test]
fn an_opaque_buffer_as_large_as_the_output_is_shown_by_the_primary_plane() {
    let (server, mut client) = start();
    let mut buffer = client.dmabuf("XR24", OUTPUT, NOISE).unwrap();
    let window = client.open_window("full").unwrap();
    assert!(present(&mut client, &window.surface, &buffer), "ZERO_COPY");
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
    let report = server.window("full").unwrap();
    assert_eq!((report.plane, report.reason.as_deref()), (Some(1), None));
    assert_eq!((report.frames_presented, report.frames_zero_copy), (1, 1));
    assert_eq!(report.format.as_deref(), Some("XR24"));
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
    // The client's own memory is on the plane: what it writes there is seen without a commit.
    buffer.redraw(Pattern::Noise(2)).unwrap();
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
    assert_eq!(server.stats().unwrap().resources.mapped, 0, "no view for composition");
}

#[test]
fn a_window_with_alpha_is_blended_by_the_topmost_overlay() {
    let (server, mut client) = start();
    let mut buffer = client.dmabuf("AR24", SMALL, NOISE).unwrap();
    let window = client.open_window("alpha").unwrap();
    assert!(present(&mut client, &window.surface, &buffer), "ZERO_COPY");
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["composited", "none", "client"]);
    assert_eq!(server.window("alpha").unwrap().plane, Some(3));
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
    buffer.redraw(Pattern::Noise(2)).unwrap();
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
}

#[test]
fn a_buffer_with_alpha_as_large_as_the_output_is_not_put_on_the_primary_plane() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("AR24", OUTPUT, NOISE).unwrap();
    let window = client.open_window("alpha").unwrap();
    assert!(present(&mut client, &window.surface, &buffer));
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["composited", "none", "client"]);
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
}

#[test]
fn an_opaque_region_makes_a_buffer_with_alpha_fit_for_the_primary_plane() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("AR24", OUTPUT, Pattern::Solid(0xff12_3456)).unwrap();
    let window = client.open_window("opaque").unwrap();
    client.set_opaque(&window.surface, [0, 0, OUTPUT.0 as i32, OUTPUT.1 as i32]).unwrap();
    assert!(present(&mut client, &window.surface, &buffer));
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
}

#[test]
fn wl_shm_is_composited_and_not_called_zero_copy() {
    let (server, mut client) = start();
    for (format, size) in [("XR24", OUTPUT), ("AR24", SMALL)] {
        let mut buffer = client.shm(format, size, NOISE).unwrap();
        let window = client.open_window(format).unwrap();
        assert!(!present(&mut client, &window.surface, &buffer), "ZERO_COPY");
        server.settle().unwrap();
        assert_eq!(server.contents().unwrap(), ["composited", "none", "none"]);
        let report = server.window(format).unwrap();
        assert_eq!(report.reason.as_deref(), Some("the buffer is not a dma-buf"));
        assert_eq!((report.plane, report.frames_presented, report.frames_zero_copy), (None, 1, 0));
        let before = server.picture().unwrap();
        assert_shows(&before, (0, 0), &buffer);
        // What was composited is a copy.
        buffer.redraw(Pattern::Noise(2)).unwrap();
        assert_eq!(server.picture().unwrap(), before);
        window.close();
        client.roundtrip().unwrap();
    }
}

#[test]
fn without_direct_scanout_dmabufs_are_composited() {
    let (server, mut client) = start();
    server.ask(|state| state.runtime.direct_scanout = false).unwrap();
    for (name, size) in [("full", OUTPUT), ("small", SMALL)] {
        let buffer = client.dmabuf("XR24", size, NOISE).unwrap();
        let window = client.open_window(name).unwrap();
        assert!(!present(&mut client, &window.surface, &buffer), "ZERO_COPY");
        server.settle().unwrap();
        assert_eq!(server.contents().unwrap(), ["composited", "none", "none"]);
        let report = server.window(name).unwrap();
        assert_eq!(report.reason.as_deref(), Some("direct scanout is disabled"));
        assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
        window.close();
        client.roundtrip().unwrap();
    }
}

#[test]
fn a_dmabuf_under_composited_content_is_composited_too() {
    let (server, mut client) = start();
    let below = client.dmabuf("XR24", OUTPUT, NOISE).unwrap();
    let above = client.shm("XR24", SMALL, Pattern::Noise(2)).unwrap();
    let lower = client.open_window("below").unwrap();
    assert!(present(&mut client, &lower.surface, &below));
    let upper = client.show_window("above", &above).unwrap();
    assert!(!present(&mut client, &lower.surface, &below), "ZERO_COPY while composited");
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["composited", "none", "none"]);
    let report = server.window("below").unwrap();
    assert_eq!(report.plane, None);
    assert_eq!(report.reason.as_deref(), Some("layer 0 above it is composited and covers part of it"));
    assert_pixels(&server.picture().unwrap(), |x, y| {
        let (left, top) = (x.wrapping_sub(STEP), y.wrapping_sub(STEP));
        let inside = left < SMALL.0 && top < SMALL.1;
        if inside { colour(&above, left, top, BACKGROUND) } else { colour(&below, x, y, BACKGROUND) }
    });
    // Alone again, it returns to the plane.
    upper.close();
    assert!(present(&mut client, &lower.surface, &below));
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
    assert_shows(&server.picture().unwrap(), (0, 0), &below);
    assert_eq!(server.stats().unwrap().resources.framebuffers, 1);
}

#[test]
fn yuv_on_a_plane_is_within_two_255ths_of_the_reference() {
    for format in ["NV12", "P010"] {
        let (server, mut client) = start();
        let buffer = client.dmabuf(format, OUTPUT, Pattern::Card).unwrap();
        let window = client.open_window(format).unwrap();
        assert!(present(&mut client, &window.surface, &buffer), "{format}: ZERO_COPY");
        server.settle().unwrap();
        assert_eq!(server.contents().unwrap(), ["client", "none", "none"], "{format}");
        let off = worst(&server.picture().unwrap(), &buffer, |_, _| false);
        assert!(off <= 2.0, "{format}: off by {off}/255");
    }
}

#[test]
fn yuv_composited_is_within_two_255ths_of_the_reference() {
    // NV16 and YU12 are no plane format here, the others are under a wl_shm window.
    for (format, covered) in [("NV12", true), ("P010", true), ("NV16", false), ("YU12", false)] {
        let (server, mut client) = start();
        let buffer = client.dmabuf(format, OUTPUT, Pattern::Card).unwrap();
        let window = client.show_window(format, &buffer).unwrap();
        let cover = client.shm("XR24", (16, 16), NOISE).unwrap();
        if covered {
            client.show_window("cover", &cover).unwrap();
        }
        assert!(!present(&mut client, &window.surface, &buffer), "{format}: ZERO_COPY");
        server.settle().unwrap();
        assert_eq!(server.contents().unwrap(), ["composited", "none", "none"], "{format}");
        let under = |x: u32, y: u32| covered && x.wrapping_sub(STEP) < 16 && y.wrapping_sub(STEP) < 16;
        let off = worst(&server.picture().unwrap(), &buffer, under);
        assert!(off <= 2.0, "{format}: off by {off}/255");
    }
}

#[test]
fn a_format_that_no_plane_has_says_so() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XB24", OUTPUT, NOISE).unwrap();
    let window = client.open_window("xb24").unwrap();
    assert!(!present(&mut client, &window.surface, &buffer));
    server.settle().unwrap();
    let reason = server.window("xb24").unwrap().reason;
    assert_eq!(reason.as_deref(), Some("XB24 with modifier 0x0 is not among the plane's formats"));
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
}

/// What another buffer would be refused for as well is found out before a client is told to make one.
#[test]
fn planes_are_asked_about_the_place_of_a_buffer_that_they_do_not_take() {
    for (size, refused) in [(None, false), (Some((64, 32)), true)] {
        let (server, mut client) = start();
        let buffer = client.dmabuf("XB24", SMALL, NOISE).unwrap();
        let window = client.open_window("xb24").unwrap();
        if let Some((width, height)) = size {
            client.viewport(&window.surface).unwrap().set_destination(width, height);
        }
        assert!(!present(&mut client, &window.surface, &buffer));
        server.settle().unwrap();
        let answers = server.ask(|state| state.outputs[0].state.stand_ins().to_vec()).unwrap();
        let mut planes: Vec<u32> = answers.iter().map(|answer| answer.plane.get()).collect();
        planes.sort_unstable();
        assert_eq!(planes, [2, 3], "{answers:?}");
        assert!(answers.iter().all(|answer| answer.refused == refused), "{answers:?}");
    }
}

#[test]
fn surfaces_without_end_are_not_asked_about_without_end() {
    let (server, mut client) = start();
    let windows: Vec<_> = (0..20u32)
        .map(|index| {
            let buffer = client.dmabuf("XB24", (8, 8), Pattern::Noise(index)).unwrap();
            (client.show_window(&index.to_string(), &buffer).unwrap(), buffer)
        })
        .collect();
    server.settle().unwrap();
    let answers = server.ask(|state| state.outputs[0].state.stand_ins().to_vec()).unwrap();
    assert_eq!(answers.len(), 32, "{} windows, two planes", windows.len());
}

#[test]
fn three_windows_and_two_overlays_leave_one_composited() {
    let (server, mut client) = start();
    let mut windows = Vec::new();
    for index in 0..3u32 {
        let buffer = client.dmabuf("XR24", (64, 64), Pattern::Noise(index)).unwrap();
        let window = client.show_window(&index.to_string(), &buffer).unwrap();
        windows.push((window, buffer));
    }
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["composited", "client", "client"]);
    // The topmost windows have the planes.
    let planes: Vec<_> = ["0", "1", "2"].iter().map(|t| server.window(t).unwrap().plane).collect();
    assert_eq!(planes, [None, Some(2), Some(3)]);
    let reason = server.window("0").unwrap().reason;
    assert_eq!(reason.as_deref(), Some("the plane is taken by layer 0"));
    assert_pixels(&server.picture().unwrap(), |x, y| match windows.get(x as usize / 64) {
        Some((_, buffer)) if y < 64 => colour(buffer, x % 64, y, BACKGROUND),
        _ => BACKGROUND,
    });
}

#[test]
fn copying_on_purpose_is_seen_in_the_picture() {
    let (server, mut client) = start();
    server.ask(|state| state.runtime.copy_on_purpose = true).unwrap();
    let mut buffer = client.dmabuf("XR24", OUTPUT, NOISE).unwrap();
    let window = client.open_window("copied").unwrap();
    assert!(present(&mut client, &window.surface, &buffer), "the build that lies says ZERO_COPY");
    server.settle().unwrap();
    let before = server.picture().unwrap();
    assert_shows(&before, (0, 0), &buffer);
    buffer.redraw(Pattern::Noise(2)).unwrap();
    assert_eq!(server.picture().unwrap(), before, "a copy does not follow the client's memory");
}

#[test]
fn a_window_in_the_place_of_an_equal_one_is_reported_as_itself() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", SMALL, NOISE).unwrap();
    let before = client.show_window("before", &buffer).unwrap();
    server.settle().unwrap();
    let window = client.open_window("after").unwrap();
    before.close();
    client.show(&window.surface, &buffer).unwrap();
    server.settle().unwrap();
    let report = server.window("after").unwrap();
    assert_eq!((report.plane, report.reason.as_deref(), report.position), (Some(3), None, (0, 0)));
    assert_eq!(server.contents().unwrap(), ["composited", "none", "client"]);
}
