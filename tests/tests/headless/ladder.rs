//! Which buffers are taken in, and why the others are not: one way to show a buffer is enough.

use std::os::fd::AsFd as _;

use primeway::ctl::RefusedBuffer;
use primeway_tests::picture::Pattern;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::Flags;

use crate::headless_support::client::{Client, Event};
use crate::headless_support::memory;

use super::{BACKGROUND, OUTPUT, assert_pixels, colour, present, start};

const SIZE: (u32, u32) = (200, 160);
/// Where a second window goes that does not fit beside the first: the first step of the cascade.
const STEP: u32 = 32;

fn fourcc(name: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*name)
}

/// Asks for a buffer of [`SIZE`] with one plane by `create` and returns it; `None` is `failed`. The CPU can read its
/// memory, but Pixman takes rows of whole words only.
fn create(client: &mut Client, format: &[u8; 4], stride: u32, flags: Flags) -> Option<WlBuffer> {
    let file = memory(u64::from(stride) * u64::from(SIZE.1));
    let params = client.params().unwrap();
    params.add(file.as_fd(), 0, 0, stride, 0, 0);
    let before = client.seen.log.len();
    client.create(&params, (SIZE.0 as i32, SIZE.1 as i32), fourcc(format), flags);
    let answered = |event: &Event| matches!(event, Event::Created(_) | Event::Failed);
    client.wait("an answer", |seen| seen.log[before..].iter().any(answered)).unwrap();
    params.destroy();
    client.roundtrip().unwrap();
    let answers: Vec<Event> = client.seen.log[before..].iter().filter(|e| answered(e)).cloned().collect();
    match &answers[..] {
        [Event::Created(buffer)] => Some(buffer.clone()),
        [Event::Failed] => None,
        other => panic!("one answer, not {other:?}"),
    }
}

/// The rungs of the reasons.
fn rungs(refused: &RefusedBuffer) -> Vec<&str> {
    refused.reasons.iter().filter_map(|reason| reason.split(':').next()).collect()
}

#[test]
fn a_buffer_that_only_planes_can_show_is_shown_by_one_and_black_where_it_is_composited() {
    let (server, mut client) = start();
    let stride = SIZE.0 * 4 + 2;
    let buffer = create(&mut client, b"XR24", stride, Flags::empty()).expect("a plane can show it");
    let window = client.open_window("odd").unwrap();
    let show = |client: &mut Client| {
        window.surface.attach(Some(&buffer), 0, 0);
        window.surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        client.presented(&window.surface).unwrap()
    };
    assert!(show(&mut client), "ZERO_COPY");
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["composited", "none", "client"]);
    let report = server.window("odd").unwrap();
    assert_eq!(report.reason, None);
    let ways: Vec<_> = report.ways.iter().filter_map(|way| way.split(':').next()).collect();
    assert_eq!(ways, ["gpu", "cpu"], "{:?}", report.ways);
    // Something composited above it: no plane can have it.
    let cover = client.shm("XR24", (64, 48), Pattern::Noise(2)).unwrap();
    let above = client.show_window("cover", &cover).unwrap();
    assert!(!show(&mut client), "ZERO_COPY while composited");
    server.settle().unwrap();
    let report = server.window("odd").unwrap();
    let reason = report.reason.unwrap();
    assert!(reason.contains("covers part of it; it cannot be composited either: "), "{reason}");
    let at = server.window("cover").unwrap().position;
    assert_pixels(&server.picture().unwrap(), |x, y| {
        let (left, top) = (x.wrapping_sub(at.0 as u32), y.wrapping_sub(at.1 as u32));
        if left < 64 && top < 48 {
            colour(&cover, left, top, BACKGROUND)
        } else if x < SIZE.0 && y < SIZE.1 {
            [0; 3]
        } else {
            BACKGROUND
        }
    });
    assert_eq!(at, (STEP as i32, STEP as i32), "it covers a part");
    // Alone again, a plane shows it again and there is nothing to say.
    above.close();
    assert!(show(&mut client), "ZERO_COPY");
    assert_eq!(server.window("odd").unwrap().reason, None);
    assert_eq!(server.stats().unwrap().imports.refused, 0);
}

#[test]
fn a_buffer_that_can_only_be_shown_by_planes_lets_what_is_below_through_where_it_is_not_opaque() {
    let (server, mut client) = start();
    let below = client.dmabuf("XR24", OUTPUT, Pattern::Noise(3)).unwrap();
    client.show_window("below", &below).unwrap();
    let buffer = create(&mut client, b"AR24", SIZE.0 * 4 + 2, Flags::empty()).unwrap();
    let window = client.open_window("odd").unwrap();
    // Turned, so that no plane takes it; the upper rows are opaque.
    window.surface.set_buffer_transform(wayland_client::protocol::wl_output::Transform::_180);
    client.set_opaque(&window.surface, [0, 0, SIZE.0 as i32, 16]).unwrap();
    window.surface.attach(Some(&buffer), 0, 0);
    window.surface.commit();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    let report = server.window("odd").unwrap();
    let at = (report.position.0 as u32, report.position.1 as u32);
    assert_pixels(&server.picture().unwrap(), |x, y| {
        let black = x.wrapping_sub(at.0) < SIZE.0 && y.wrapping_sub(at.1) < 16;
        if black { [0; 3] } else { colour(&below, x, y, BACKGROUND) }
    });
}

#[test]
fn a_buffer_fails_only_if_nothing_can_show_it_and_each_rung_says_why() {
    let (server, mut client) = start();
    server.settle().unwrap();
    let before = server.stats().unwrap().resources;
    let before = (before.gem_handles, before.framebuffers);
    // No plane has the format, and the CPU reads whole words only.
    assert_eq!(create(&mut client, b"RG16", SIZE.0 * 2 + 1, Flags::empty()), None);
    let stats = server.stats().unwrap();
    assert_eq!(stats.imports.refused, 1);
    let refused = &stats.imports.last[0];
    assert_eq!((refused.format.as_str(), refused.modifier.as_str()), ("RG16", "LINEAR"));
    assert_eq!(refused.size, (SIZE.0 as i32, SIZE.1 as i32));
    assert_eq!(rungs(refused), ["plane", "gpu", "cpu"], "{refused:?}");
    assert_eq!(refused.rung, "cpu");
    assert!(refused.reasons[0].contains("no plane takes RG16"), "{refused:?}");
    assert!(refused.reasons[2].contains("stride of 401"), "{refused:?}");
    assert_eq!((stats.resources.gem_handles, stats.resources.framebuffers), before, "nothing is left");
    assert!(create(&mut client, b"RG16", SIZE.0 * 2, Flags::empty()).is_some(), "the CPU can");
    assert!(create(&mut client, b"XR24", SIZE.0 * 4 + 1, Flags::empty()).is_some(), "a plane can");
}

#[test]
fn interlaced_contents_are_refused_whatever_they_are_called() {
    let (server, mut client) = start();
    let flags = |bits| Flags::from_bits(bits).unwrap();
    // INTERLACED is 2 and BOTTOM_FIRST is 4, each alone and with all others.
    for (count, bits) in (1..).zip([2, 4, 6, 3, 5, 7]) {
        assert_eq!(create(&mut client, b"XR24", SIZE.0 * 4, flags(bits)), None, "{bits}");
        let imports = server.stats().unwrap().imports;
        assert_eq!(imports.refused, 2 * count - 1);
        assert_eq!(imports.last[0].rung, "description", "{imports:?}");
        assert!(imports.last[0].reasons[0].contains("interlaced"), "{imports:?}");
        // At once: there is a wl_buffer, which shows nothing.
        let params = client.params().unwrap();
        let file = memory(u64::from(SIZE.0 * SIZE.1 * 4));
        params.add(file.as_fd(), 0, 0, SIZE.0 * 4, 0, 0);
        let before = client.seen.log.len();
        let size = (SIZE.0 as i32, SIZE.1 as i32);
        let buffer = client.create_immed(&params, size, fourcc(b"XR24"), flags(bits));
        client.wait("failed", |seen| seen.log[before..].contains(&Event::Failed)).unwrap();
        assert_eq!(server.stats().unwrap().imports.refused, 2 * count);
        buffer.destroy();
        params.destroy();
    }
    assert!(create(&mut client, b"XR24", SIZE.0 * 4, flags(1)).is_some(), "Y_INVERT alone is shown");
    let buffer = client.dmabuf("XR24", SIZE, Pattern::Noise(1)).unwrap();
    let window = client.open_window("goes on").unwrap();
    assert!(present(&mut client, &window.surface, &buffer));
}

#[test]
fn a_refused_buffer_counts_against_no_quota() {
    let server = crate::headless_support::Server::start_with(OUTPUT, &["buffers=1"]).unwrap();
    let mut client = server.connect().unwrap();
    for _ in 0..3 {
        assert_eq!(create(&mut client, b"RG16", SIZE.0 * 2 + 1, Flags::empty()), None);
    }
    let first = create(&mut client, b"XR24", SIZE.0 * 4, Flags::empty()).expect("there is room for one");
    assert_eq!(create(&mut client, b"XR24", SIZE.0 * 4, Flags::empty()), None);
    let imports = server.stats().unwrap().imports;
    assert_eq!((imports.last[0].rung.as_str(), imports.refused), ("files", 4), "{imports:?}");
    first.destroy();
    assert!(create(&mut client, b"XR24", SIZE.0 * 4, Flags::empty()).is_some());
}
