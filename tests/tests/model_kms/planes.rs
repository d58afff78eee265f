//! Properties of planes that vkms lacks: place in the stack, scaling, blending, tiled modifiers, hotspots, damage.

use drm_fourcc::{DrmFourcc, DrmModifier};
use primeway::backend::kms::device::capabilities::PlaneKind;
use primeway_tests::picture::Pattern;
use wayland_client::protocol::wl_output::Transform;

use super::{NOISE, OUTPUT, Session, capabilities, start, start_with, wait_until};
use crate::Vrr;

/// The plane of a window.
fn plane_of(session: &Session, title: &str) -> Option<u32> {
    session.server.settle().unwrap();
    session.server.window(title).unwrap().plane
}

#[test]
fn overlays_are_put_above_the_primary_by_their_zpos() {
    let mut session = start("amdgpu");
    // Too large to lie side by side.
    let buffers = [(); 2].map(|()| session.client.dmabuf("XR24", (200, 150), NOISE).unwrap());
    let titles = ["below", "above"];
    for (title, buffer) in titles.iter().zip(&buffers) {
        let window = session.client.open_window(title).unwrap();
        assert!(session.client.present(&window.surface, buffer).unwrap(), "{title}: ZERO_COPY");
    }
    let planes = titles.map(|title| plane_of(&session, title).unwrap());
    let overlays = session.model.planes(PlaneKind::Overlay);
    assert!(planes.iter().all(|plane| overlays.contains(plane)) && planes[0] != planes[1], "{planes:?}");
    // The primary's is 2 and cannot be set.
    let zpos = planes.map(|plane| session.model.value(plane, "zpos").unwrap());
    assert!(2 < zpos[0] && zpos[0] < zpos[1] && zpos[1] < 255, "{zpos:?}");
    let commits = session.commits();
    assert!(commits.iter().any(|c| c.value(planes[1], "zpos") == Some(zpos[1])));
    assert!(commits.iter().all(|c| c.value(session.primary(), "zpos").is_none()), "immutable");
}

#[test]
fn opacity_and_blend_mode_are_set_on_every_plane_that_has_them() {
    let mut session = start("rockchip");
    let buffer = session.client.dmabuf("AR24", (64, 48), NOISE).unwrap();
    let window = session.client.open_window("alpha").unwrap();
    // Whoever was master before left something else.
    let shown = session.client.present(&window.surface, &buffer).unwrap();
    let plane = plane_of(&session, "alpha");
    assert!(shown && plane.is_some(), "{:?}", session.server.window("alpha").unwrap().reason);
    let plane = plane.unwrap();
    let commits = session.commits();
    let on = commits.iter().find(|c| c.value(plane, "FB_ID").is_some_and(|fb| fb != 0)).unwrap();
    assert_eq!(on.value(plane, "alpha"), Some(0xffff));
    // "Pre-multiplied" of the file.
    assert_eq!(on.value(plane, "pixel blend mode"), Some(0));
    assert_eq!(on.value(plane, "rotation"), Some(1));
}

#[test]
fn a_scaled_window_is_scaled_by_its_plane_and_one_too_many_is_composited() {
    let mut session = start("i915");
    let mut planes = Vec::new();
    for title in ["one", "two", "three"] {
        let buffer = session.small();
        let window = session.client.open_window(title).unwrap();
        let viewport = session.client.viewport(&window.surface).unwrap();
        viewport.set_destination(80, 60);
        session.client.present(&window.surface, &buffer).unwrap();
        session.server.settle().unwrap();
    }
    for title in ["one", "two", "three"] {
        planes.extend(session.server.window(title).unwrap().plane);
    }
    // The pipe has two scalers.
    assert_eq!(planes.len(), 2, "{planes:?}");
    for plane in planes {
        let value = |name| session.model.value(plane, name).unwrap();
        assert_eq!((value("SRC_W"), value("SRC_H")), (64 << 16, 48 << 16));
        assert_eq!((value("CRTC_W"), value("CRTC_H")), (80, 60));
    }
    let reasons: Vec<_> =
        session.server.surfaces().unwrap().into_iter().filter_map(|surface| surface.reason).collect();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
}

#[test]
fn beyond_the_scalers_bounds_a_window_is_composited_and_said_why() {
    let mut session = start("i915");
    // Less than a third is too small.
    let buffer = session.client.dmabuf("XR24", (256, 48), NOISE).unwrap();
    let window = session.client.open_window("small").unwrap();
    session.client.viewport(&window.surface).unwrap().set_destination(64, 48);
    assert!(!session.client.present(&window.surface, &buffer).unwrap());
    session.server.settle().unwrap();
    let report = session.server.window("small").unwrap();
    assert_eq!(report.plane, None);
    // ERANGE, 34.
    assert!(report.reason.unwrap().contains("test commit failed"), "refused by the driver");
}

#[test]
fn a_turned_buffer_is_turned_back_by_its_plane() {
    let mut session = start("i915");
    let buffer = session.small();
    let window = session.client.open_window("turned").unwrap();
    window.surface.set_buffer_transform(Transform::_180);
    assert!(session.client.present(&window.surface, &buffer).unwrap(), "ZERO_COPY");
    let plane = plane_of(&session, "turned").unwrap();
    // rotate-180
    assert_eq!(session.model.value(plane, "rotation"), Some(1 << 2));
    // A reflection along y is half a turn after one along x, which this device has.
    window.surface.set_buffer_transform(Transform::Flipped180);
    assert!(session.client.present(&window.surface, &buffer).unwrap());
    let plane = plane_of(&session, "turned").unwrap();
    assert_eq!(session.model.value(plane, "rotation"), Some(1 << 2 | 1 << 4));
}

#[test]
fn tiled_modifiers_come_out_of_in_formats() {
    let session = start("i915");
    let tiled = DrmModifier::from(0x0100_0000_0000_0001);
    let pairs = session.kms(move |kms, crtc| {
        let of = |kind| {
            let mut planes = kms.planes(crtc).iter().filter(move |caps| caps.kind == kind);
            planes.next().unwrap().formats.clone()
        };
        (of(drm_prime::scanout::PlaneType::Primary), of(drm_prime::scanout::PlaneType::Cursor))
    });
    assert!(pairs.0.contains(&(DrmFourcc::Xrgb8888, tiled)) && pairs.0.contains(&(DrmFourcc::Nv12, tiled)));
    assert_eq!(pairs.1.iter().copied().collect::<Vec<_>>(), [(DrmFourcc::Argb8888, DrmModifier::Linear)]);
    // What is told to clients comes from there.
    let (rgb, mc) = (DrmFourcc::Xrgb8888, DrmModifier::from(0x0100_0000_0000_0007));
    assert!(pairs.0.contains(&(DrmFourcc::Nv12, mc)) && !pairs.0.contains(&(rgb, mc)), "for YUV alone");
}

#[test]
fn a_cursor_plane_that_needs_hotspots_gets_them() {
    let mut session = start("virtio_gpu");
    let buffer = session.small();
    let window = session.client.open_window("under the pointer").unwrap();
    session.client.present(&window.surface, &buffer).unwrap();
    session.server.ask(|state| state.input.pointers = 1).unwrap();
    session.server.click(20.0, 30.0).unwrap();
    session.server.ask(primeway::state::State::queue_redraw_all).unwrap();
    session.server.settle().unwrap();
    let cursor = session.model.planes(PlaneKind::Cursor)[0];
    wait_until("the pointer is on its plane", || session.model.value(cursor, "FB_ID") != Some(0));
    let commits = session.commits();
    let on = commits.iter().rfind(|c| c.value(cursor, "FB_ID").is_some()).unwrap();
    let (x, y) = (on.value(cursor, "HOTSPOT_X").unwrap(), on.value(cursor, "HOTSPOT_Y").unwrap());
    let at = (on.value(cursor, "CRTC_X").unwrap() as i64, on.value(cursor, "CRTC_Y").unwrap() as i64);
    // Where the pointer is.
    assert_eq!((at.0 + x as i64, at.1 + y as i64), (20, 30));
}

#[test]
fn damage_is_told_to_drivers_that_copy_and_to_no_other() {
    let clips = |driver: &str| {
        let mut session = start(driver);
        let mut buffer = session.full();
        let window = session.client.open_window("full").unwrap();
        session.client.present(&window.surface, &buffer).unwrap();
        session.server.settle().unwrap();
        let before = session.model.blobs();
        session.commits();
        buffer.redraw(Pattern::Noise(2)).unwrap();
        window.surface.attach(Some(&buffer.wl), 0, 0);
        window.surface.damage_buffer(10, 20, 30, 40);
        session.client.presented(&window.surface).unwrap();
        session.server.settle().unwrap();
        assert_eq!(session.model.blobs(), before, "its blob was destroyed");
        let (commits, primary) = (session.commits(), session.primary());
        assert_eq!(commits.len(), 1);
        let blob = commits[0].value(primary, "FB_DAMAGE_CLIPS");
        blob.map(|id| {
            let bytes = commits[0].blobs[&id].chunks_exact(4);
            bytes.map(|b| i32::from_ne_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
        })
    };
    assert_eq!(clips("virtio_gpu"), Some(vec![10, 20, 40, 60]));
    // It scans memory out.
    assert_eq!(clips("i915"), None);
}

#[test]
fn damage_of_composited_pictures_is_told_too() {
    let mut session = start("virtio_gpu");
    let mut buffers = [(); 2].map(|()| session.client.shm("XR24", (64, 48), NOISE).unwrap());
    let window = session.client.open_window("shm").unwrap();
    session.client.present(&window.surface, &buffers[0]).unwrap();
    session.server.settle().unwrap();
    let (before, primary) = (session.model.blobs(), session.primary());
    let at = session.server.window("shm").unwrap().position;
    for (round, rect) in [[10, 20, 30, 8], [0, 0, 5, 5], [40, 30, 24, 18]].into_iter().enumerate() {
        session.commits();
        let buffer = &mut buffers[(round + 1) % 2];
        buffer.redraw(Pattern::Noise(round as u32 + 2)).unwrap();
        window.surface.attach(Some(&buffer.wl), 0, 0);
        window.surface.damage_buffer(rect[0], rect[1], rect[2], rect[3]);
        session.client.presented(&window.surface).unwrap();
        session.server.settle().unwrap();
        let commits = session.commits();
        let told: Vec<_> =
            commits.iter().filter_map(|c| Some((c, c.value(primary, "FB_DAMAGE_CLIPS")?))).collect();
        assert_eq!(told.len(), 1, "round {round}: {commits:?}");
        let bytes = told[0].0.blobs[&told[0].1].chunks_exact(4);
        let clip: Vec<i32> = bytes.map(|b| i32::from_ne_bytes(b.try_into().unwrap())).collect();
        let (x, y) = (at.0 + rect[0], at.1 + rect[1]);
        assert_eq!(clip, [x, y, x + rect[2], y + rect[3]], "round {round}");
    }
    assert_eq!(session.model.blobs(), before, "a blob is left");
}

#[test]
fn another_surface_on_the_plane_counts_as_new_altogether() {
    let mut session = start("virtio_gpu");
    let buffers = [session.full(), session.full()];
    for (title, buffer) in ["one", "two"].iter().zip(&buffers) {
        let window = session.client.open_window(title).unwrap();
        session.client.present(&window.surface, buffer).unwrap();
        session.server.settle().unwrap();
    }
    let (commits, primary) = (session.commits(), session.primary());
    assert!(commits.iter().all(|c| c.value(primary, "FB_DAMAGE_CLIPS").is_none()));
}

/// In a device that has every plane in use, the primary of a second output is not the first one's overlay.
#[test]
fn two_outputs_have_planes_of_their_own() {
    let mut all = capabilities("amdgpu");
    all.connectors[1].modes = vec![format!("{}x{}@60", OUTPUT.0, OUTPUT.1)];
    let session = start_with(all, Vrr::Never);
    session.server.settle().unwrap();
    let crtcs = session.model.crtcs();
    let primaries = session.model.planes(PlaneKind::Primary);
    for (crtc, primary) in crtcs.iter().zip(&primaries).take(2) {
        assert_eq!(session.model.value(*crtc, "ACTIVE"), Some(1));
        assert_eq!(session.model.value(*primary, "CRTC_ID"), Some(u64::from(*crtc)));
    }
    assert_eq!(session.model.value(crtcs[2], "ACTIVE"), Some(0));
}
