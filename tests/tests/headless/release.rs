//! `wl_buffer.release` comes when nothing needs the buffer any more, and not before.

use std::time::Duration;

use crate::headless_support::client::Event;
use primeway::ctl::LedgerReport;
use primeway_tests::picture::Pattern;

use super::{OUTPUT, assert_shows, present, start};

/// Six frames.
const A_WHILE: Duration = Duration::from_millis(100);

#[test]
fn a_scanned_out_buffer_is_released_after_its_successor_is_on_screen() {
    let (server, mut client) = start();
    let window = client.open_window("swap").unwrap();
    let buffers: Vec<_> = (0..3).map(|n| client.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap()).collect();
    for turn in 0..9 {
        let (buffer, before) = (&buffers[turn % 3], &buffers[(turn + 2) % 3]);
        client.seen.log.clear();
        let token = client.feedback(&window.surface).unwrap();
        client.attach(&window.surface, buffer);
        window.surface.commit();
        client.wait("presented", |seen| seen.presented_at(token).is_some()).unwrap();
        if turn > 0 {
            client.wait("release", |seen| seen.released(before.id())).unwrap();
            let presented = client.seen.presented_at(token);
            assert!(client.seen.position(&Event::Release(before.id())) > presented, "{:?}", client.seen.log);
        }
        let releases = client.seen.log.iter().filter(|e| matches!(e, Event::Release(_))).count();
        assert_eq!(releases, usize::from(turn > 0), "each buffer once: {:?}", client.seen.log);
        server.settle().unwrap();
        assert_shows(&server.picture().unwrap(), (0, 0), buffer);
    }
}

#[test]
fn a_buffer_on_a_plane_is_never_released_however_often_it_is_committed() {
    let (server, mut client) = start();
    let window = client.open_window("same").unwrap();
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    for _ in 0..5 {
        assert!(present(&mut client, &window.surface, &buffer));
    }
    let released = client.wait_within(A_WHILE, |seen| seen.released(buffer.id())).unwrap();
    assert!(!released, "released while on screen: {:?}", client.seen.log);
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
}

#[test]
fn a_buffer_that_is_replaced_before_it_is_shown_is_released() {
    let (server, mut client) = start();
    let window = client.open_window("quick").unwrap();
    let buffers: Vec<_> = (0..4).map(|n| client.dmabuf("XR24", OUTPUT, Pattern::Noise(n)).unwrap()).collect();
    for buffer in &buffers {
        client.attach(&window.surface, buffer);
        window.surface.commit();
    }
    client.roundtrip().unwrap();
    client.wait("release", |seen| buffers[..3].iter().all(|b| seen.released(b.id()))).unwrap();
    server.settle().unwrap();
    assert_shows(&server.picture().unwrap(), (0, 0), &buffers[3]);
    assert!(!client.seen.released(buffers[3].id()));
}

#[test]
fn a_composited_buffer_is_released_once_it_is_replaced() {
    for kind in ["dma-buf", "wl_shm"] {
        let (server, mut client) = start();
        let window = client.open_window(kind).unwrap();
        let make = |client: &mut crate::headless_support::client::Client, n| match kind {
            "dma-buf" => client.dmabuf("XB24", OUTPUT, Pattern::Noise(n)).unwrap(),
            _ => client.shm("XR24", OUTPUT, Pattern::Noise(n)).unwrap(),
        };
        let (first, second) = (make(&mut client, 1), make(&mut client, 2));
        assert!(!present(&mut client, &window.surface, &first), "{kind}");
        assert!(!present(&mut client, &window.surface, &second), "{kind}");
        client.wait("release", |seen| seen.released(first.id())).unwrap();
        server.settle().unwrap();
        assert_shows(&server.picture().unwrap(), (0, 0), &second);
        let times = client.seen.log.iter().filter(|e| **e == Event::Release(first.id())).count();
        assert_eq!(times, 1, "{kind}: {:?}", client.seen.log);
    }
}

#[test]
fn a_dmabuf_that_is_composited_is_not_released_while_it_may_be_drawn_again() {
    let (server, mut client) = start();
    let lower = client.open_window("lower").unwrap();
    let below = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    let cover = client.shm("XR24", (32, 32), Pattern::Noise(2)).unwrap();
    client.show(&lower.surface, &below).unwrap();
    let upper = client.show_window("cover", &cover).unwrap();
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["composited", "none", "none"]);
    assert!(!client.wait_within(A_WHILE, |seen| seen.released(below.id())).unwrap());
    upper.close();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    assert_eq!(server.contents().unwrap(), ["client", "none", "none"]);
    assert!(!client.seen.released(below.id()), "{:?}", client.seen.log);
}

#[test]
fn an_unmapped_window_gives_its_buffer_back() {
    let (server, mut client) = start();
    let window = client.open_window("gone").unwrap();
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    assert!(present(&mut client, &window.surface, &buffer));
    window.surface.attach(None, 0, 0);
    window.surface.commit();
    client.wait("release", |seen| seen.released(buffer.id())).unwrap();
    // Released means that no plane shows it.
    assert_eq!(server.contents().unwrap(), ["composited", "none", "none"]);
}

#[test]
fn a_buffer_destroyed_on_screen_stays_there_until_it_is_replaced() {
    let (server, mut client) = start();
    let window = client.open_window("destroyed").unwrap();
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    assert!(present(&mut client, &window.surface, &buffer));
    buffer.wl.destroy();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
    // Another window makes the output redraw; it is gone again.
    let other = client.shm("XR24", (16, 16), Pattern::Noise(3)).unwrap();
    let passing = client.show_window("passing", &other).unwrap();
    server.settle().unwrap();
    passing.close();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
    let next = client.dmabuf("XR24", OUTPUT, Pattern::Noise(4)).unwrap();
    assert!(present(&mut client, &window.surface, &next));
    server.settle().unwrap();
    assert_shows(&server.picture().unwrap(), (0, 0), &next);
    let resources = server.stats().unwrap().resources;
    assert_eq!((resources.framebuffers, resources.mapped), (1, 0), "the dead buffer is forgotten");
}

#[test]
fn a_client_that_leaves_leaves_nothing() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    let cover = client.shm("AR24", (32, 32), Pattern::Noise(2)).unwrap();
    client.show_window("lower", &buffer).unwrap();
    client.show_window("upper", &cover).unwrap();
    server.settle().unwrap();
    assert_eq!(server.surfaces().unwrap().len(), 2);
    drop(client);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while !server.surfaces().unwrap().is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    server.settle().unwrap();
    let stats = server.stats().unwrap();
    assert_eq!((stats.resources.framebuffers, stats.resources.mapped, stats.clients.len()), (0, 0, 0));
    assert_eq!(server.contents().unwrap(), ["composited", "none", "none"]);
    let picture = server.picture().unwrap();
    super::assert_pixels(&picture, |_, _| super::BACKGROUND);
}

/// What a client's buffer holds open stands in the ledger under the client's name, and goes with the client.
#[test]
fn the_ledger_names_the_client_of_a_buffer_while_it_is_there() {
    let (server, mut client) = start();
    let name = format!("client {}", std::process::id());
    let ledger = || server.ask(|state| LedgerReport::from(state.backend.buffers().ledger())).unwrap();
    let count = |report: &LedgerReport| {
        let holders = report.handles.iter().flat_map(|handle| &handle.holders);
        let references: usize =
            holders.filter(|holder| holder.owner == name).map(|holder| holder.references).sum();
        (references, report.framebuffers.iter().filter(|fb| fb.owner == name).count())
    };
    assert_eq!(count(&ledger()), (0, 0));
    let window = client.open_window("ledger").unwrap();
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    assert!(present(&mut client, &window.surface, &buffer));
    let report = ledger();
    assert_eq!(count(&report), (2, 1), "the import and its framebuffer: {report:?}");
    let shown = report.framebuffers.iter().find(|fb| fb.owner == name).unwrap();
    assert_eq!((shown.width, shown.height, shown.format.as_str()), (OUTPUT.0, OUTPUT.1, "XR24"));
    assert!(report.framebuffers.iter().any(|fb| fb.owner == "composition"), "{report:?}");
    drop((window, buffer, client));
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        count(&ledger()) == (0, 0)
    });
    assert!(gone, "left behind: {:?}", ledger());
}
