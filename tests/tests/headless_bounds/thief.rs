//! A thief takes as much of everything as its quotas allow, and nobody else notices; when it goes, all comes back.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use primeway_tests::client::raw::{Arg, DISPLAY, End, FILES_AT_ONCE, Raw, copies, message};

use crate::headless_support::neighbour::Neighbour;
use crate::headless_support::{Server, memory};

use super::fuzz::{is_long, memory_and_maps};
use super::{OUTPUT, alone, assert_files_return, files};

/// Thieves at once, each of whom takes all it can.
const THIEVES: usize = 4;
/// Resident memory that later rounds may add to what the first one took, in KiB.
const GROWTH: u64 = 4 * 1024;

/// Everything a client may have, by the default quotas, without being sent away.
fn steal(server: &Server) -> Raw {
    let mut raw = server.connect_raw().unwrap();
    let compositor = raw.bind("wl_compositor", 4).unwrap();
    let shm = raw.bind("wl_shm", 1).unwrap();
    let dmabuf = raw.bind("zwp_linux_dmabuf_v1", 3).unwrap();
    let subcompositor = raw.bind("wl_subcompositor", 1).unwrap();
    raw.roundtrip().unwrap().unwrap();
    // Surfaces, half of them subsurfaces, each with frame callbacks.
    for _ in 0..500 {
        let (parent, child, role, callback) = (raw.id(), raw.id(), raw.id(), raw.id());
        raw.request(compositor, 0, &[Arg::U(parent)]).unwrap();
        raw.request(compositor, 0, &[Arg::U(child)]).unwrap();
        raw.request(subcompositor, 1, &[Arg::U(role), Arg::U(child), Arg::U(parent)]).unwrap();
        raw.request(parent, 3, &[Arg::U(callback)]).unwrap();
    }
    // Mappings.
    let file = memory(1 << 20);
    for _ in 0..500 {
        let (pool, buffer) = (raw.id(), raw.id());
        raw.send(&message(shm, 0, &[Arg::U(pool), Arg::I(1 << 20)]), &[file.as_fd()]).unwrap();
        let place = [0, 16, 16, 64].map(Arg::I);
        let arguments: Vec<_> = [Arg::U(buffer)].into_iter().chain(place).chain([Arg::U(1)]).collect();
        raw.request(pool, 0, &arguments).unwrap();
        raw.request(pool, 1, &[]).unwrap();
    }
    // Buffers, and planes that never become one.
    for n in 0..1100 {
        let params = raw.id();
        raw.request(dmabuf, 1, &[Arg::U(params)]).unwrap();
        raw.send(&message(params, 1, &[0, 0, 64, 0, 0].map(Arg::U)), &[file.as_fd()]).unwrap();
        if n < 1024 {
            let buffer = raw.id();
            let format = Arg::U(u32::from_le_bytes(*b"XR24"));
            raw.request(params, 3, &[Arg::U(buffer), Arg::I(16), Arg::I(16), format, Arg::U(0)]).unwrap();
            raw.request(params, 0, &[]).unwrap();
        }
    }
    // Files that nobody asked for.
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    for _ in 0..500 / FILES_AT_ONCE {
        let callback = raw.id();
        raw.send(&message(DISPLAY, 0, &[Arg::U(callback)]), &copies(&null, FILES_AT_ONCE)).unwrap();
    }
    raw.roundtrip().unwrap().unwrap_or_else(|end| panic!("within the quotas: {end:?}"));
    raw
}

#[test]
fn thieves_take_what_they_may_and_all_comes_back() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    neighbour.draws("before the thieves");
    let before = files(&server);
    let (_, maps_before) = memory_and_maps();
    let mut first = 0;
    for round in 0..3 {
        let thieves: Vec<Raw> = (0..THIEVES).map(|_| steal(&server)).collect();
        let (stolen, (resident, maps)) = (files(&server) - before, memory_and_maps());
        let frames = neighbour.draws("beside thieves");
        drop(thieves);
        let asked = Instant::now();
        neighbour.frame(0);
        let pause = asked.elapsed();
        assert_files_return(&server, before);
        server.settle().unwrap();
        // smithay unmaps pools on a thread of its own.
        let deadline = Instant::now() + Duration::from_secs(5);
        while memory_and_maps().1 > maps_before + 64 {
            assert!(Instant::now() < deadline, "{} mappings, {maps_before} before", memory_and_maps().1);
            std::thread::sleep(Duration::from_millis(10));
        }
        let (after, maps_after) = memory_and_maps();
        println!(
            "round {round}: {stolen} files, {} mappings, {resident} KiB; {frames} frames beside, the next {pause:.0?} after \
             their end; left {} files, {} mappings, {after} KiB",
            maps.saturating_sub(maps_before),
            files(&server).saturating_sub(before),
            maps_after.saturating_sub(maps_before),
        );
        assert!(stolen > THIEVES * 1500, "only {stolen} files were stolen");
        if round == 0 {
            first = after;
        }
        assert!(after < first + GROWTH, "{after} KiB, {first} after the first round");
    }
    let resources = server.stats().unwrap().resources;
    assert_eq!(resources.framebuffers, 2, "the neighbour's: {resources:?}");
    neighbour.draws("after the thieves");
}

#[test]
fn many_buffers_one_after_the_other_leave_nothing() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let mut raw = server.connect_raw().unwrap();
    let dmabuf = raw.bind("zwp_linux_dmabuf_v1", 3).unwrap();
    raw.roundtrip().unwrap().unwrap();
    let file = memory(16384);
    let before = files(&server);
    let count = if is_long() { 100_000 } else { 4000 };
    let (mut warm, mut frames) = (0, 0);
    for n in 0..count {
        let (params, buffer) = (raw.id(), raw.id());
        raw.request(dmabuf, 1, &[Arg::U(params)]).unwrap();
        raw.send(&message(params, 1, &[0, 0, 256, 0, 0].map(Arg::U)), &[file.as_fd()]).unwrap();
        let format = Arg::U(u32::from_le_bytes(*b"XR24"));
        raw.request(params, 3, &[Arg::U(buffer), Arg::I(64), Arg::I(64), format, Arg::U(0)]).unwrap();
        raw.request(params, 0, &[]).unwrap();
        raw.request(buffer, 0, &[]).unwrap();
        if n % 50 == 0 {
            raw.roundtrip().unwrap().unwrap();
        }
        if n % 500 == 0 {
            neighbour.frame(frames);
            frames += 1;
        }
        if n == count / 10 {
            warm = memory_and_maps().0;
        }
    }
    raw.roundtrip().unwrap().unwrap();
    assert_files_return(&server, before);
    let after = memory_and_maps().0;
    println!("{count} buffers: {warm} KiB resident at a tenth, {after} at the end, {before} files as before");
    assert!(after < warm + 1024, "{warm} KiB at a tenth, {after} at the end");
    assert_eq!(server.stats().unwrap().resources.framebuffers, 2);
}

/// Popups of popups, whose cost grows with more than the square of their number.
#[test]
fn popups_of_popups_have_an_end() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let mut raw = server.connect_raw().unwrap();
    let compositor = raw.bind("wl_compositor", 4).unwrap();
    let base = raw.bind("xdg_wm_base", 3).unwrap();
    let [surface, mut parent, toplevel, positioner] = std::array::from_fn(|_| raw.id());
    raw.request(compositor, 0, &[Arg::U(surface)]).unwrap();
    raw.request(base, 2, &[Arg::U(parent), Arg::U(surface)]).unwrap();
    raw.request(parent, 1, &[Arg::U(toplevel)]).unwrap();
    raw.request(surface, 6, &[]).unwrap();
    raw.request(base, 1, &[Arg::U(positioner)]).unwrap();
    raw.request(positioner, 1, &[Arg::I(10), Arg::I(10)]).unwrap();
    raw.request(positioner, 2, &[0, 0, 5, 5].map(Arg::I)).unwrap();
    for _ in 0..300 {
        let [surface, xdg_surface, popup] = std::array::from_fn(|_| raw.id());
        raw.request(compositor, 0, &[Arg::U(surface)]).unwrap();
        raw.request(base, 2, &[Arg::U(xdg_surface), Arg::U(surface)]).unwrap();
        raw.request(xdg_surface, 2, &[Arg::U(popup), Arg::U(parent), Arg::U(positioner)]).unwrap();
        raw.request(surface, 6, &[]).unwrap();
        parent = xdg_surface;
    }
    let end = raw.end().unwrap();
    assert!(matches!(end, End::Error { object: DISPLAY, code: 2, .. }), "{end:?}");
    neighbour.draws("beside popups of popups");
}
