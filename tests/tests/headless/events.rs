//! The event stream: everything first, then every change; readers that hang up, and readers that do not read.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use primeway::ctl::events::{Event, Snapshot};
use primeway::ctl::explain::Way;

use super::explain::{dmabuf, with_socket};
use super::headless_support::Server;
use super::start;

/// Somebody who listens.
struct Reader(BufReader<UnixStream>);

impl Reader {
    fn connect(path: &Path) -> Self {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"{\"request\":\"events\"}\n").unwrap();
        Self(BufReader::new(stream))
    }

    fn next(&mut self) -> Event {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the stream has ended");
        serde_json::from_str(&line).unwrap_or_else(|err| panic!("{err}: {line}"))
    }

    fn state(&mut self) -> (bool, Snapshot) {
        match self.next() {
            Event::State { missed, all } => (missed, all),
            other => panic!("{other:?}"),
        }
    }

    /// Reads up to an event, which must come.
    fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next();
            if wanted(&event) {
                return event;
            }
        }
    }
}

fn readers(server: &Server) -> usize {
    server.ask(|state| state.runtime.watchers.len()).unwrap()
}

#[test]
fn what_is_there_is_told_first_and_then_what_changes() {
    let (server, mut client) = start();
    let (_folder, path) = with_socket(&server);
    let _before = dmabuf(&mut client, "before", "XB24", (64, 64));
    server.settle().unwrap();
    let mut reader = Reader::connect(&path);
    let (missed, all) = reader.state();
    assert!(!missed);
    assert_eq!((all.outputs.len(), all.surfaces.len()), (1, 1), "{all:?}");
    let surface = &all.surfaces[0];
    assert_eq!((surface.who.app_id.as_deref(), surface.way), (Some("before"), Way::Composited));
    assert_eq!(surface.reason.as_ref().unwrap().kind, "format");

    let (window, _buffer) = dmabuf(&mut client, "after", "XR24", (64, 64));
    let mapped = reader.until(|event| matches!(event, Event::SurfaceMapped { .. }));
    let Event::SurfaceMapped { surface } = mapped else { unreachable!() };
    assert_eq!(surface.who.app_id.as_deref(), Some("after"));
    let id = surface.who.surface;
    if surface.way != Way::ScannedOut {
        // It was mapped while a frame was pending.
        let shown =
            |event: &Event| matches!(event, Event::Verdict { surface } if surface.way == Way::ScannedOut);
        reader.until(shown);
    }

    // One more window takes the plane of the topmost one away from nobody: the other plane is free.
    let small = client.shm("XR24", (8, 8), primeway_tests::picture::Pattern::Card).unwrap();
    let (cover, role) = client.subsurface(&window.surface).unwrap();
    role.set_desync();
    client.show(&cover, &small).unwrap();
    window.surface.commit();
    client.roundtrip().unwrap();
    let verdict = reader.until(|event| matches!(event, Event::Verdict { .. }));
    let Event::Verdict { surface } = verdict else { unreachable!() };
    assert_eq!((surface.who.surface, surface.way), (id, Way::Composited));
    assert_eq!(surface.reason.unwrap().kind, "covered-by-composited");

    window.close();
    client.roundtrip().unwrap();
    reader.until(|event| matches!(event, Event::SurfaceGone { surface } if surface.surface == id));
}

#[test]
fn planes_are_told_of_by_who_they_show() {
    let (server, mut client) = start();
    let (_folder, path) = with_socket(&server);
    let mut reader = Reader::connect(&path);
    reader.state();
    let _window = dmabuf(&mut client, "one", "XR24", (64, 64));
    let name = format!("one (pid {})", std::process::id());
    let event = reader.until(|event| matches!(event, Event::Plane { to: Some(to), .. } if *to == name));
    assert!(matches!(event, Event::Plane { plane, from: None, .. } if plane.get() == 3));
}

#[test]
fn who_hangs_up_is_forgotten() {
    let (server, _client) = start();
    let (_folder, path) = with_socket(&server);
    let mut all: Vec<_> = (0..16).map(|_| Reader::connect(&path)).collect();
    all.iter_mut().for_each(|reader| drop(reader.state()));
    assert_eq!(readers(&server), 16);
    let mut one_more = Reader::connect(&path);
    let mut line = String::new();
    one_more.0.read_line(&mut line).unwrap();
    assert_eq!(line, "{\"error\":\"16 listen already\"}\n");
    drop(all);
    for _ in 0..1000 {
        if readers(&server) == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{} readers are left", readers(&server));
}

/// Readers that do not read cost a bounded amount of memory, keep nobody waiting, and hear the whole state when they read.
#[test]
fn a_slow_reader_is_told_everything_anew() {
    let (server, mut client) = start();
    let (_folder, path) = with_socket(&server);
    let (mut slow, mut quick) = (Reader::connect(&path), Reader::connect(&path));
    quick.state();
    let mut unsent = 0;
    let buffer = client.dmabuf("XR24", (16, 16), primeway_tests::picture::Pattern::Card).unwrap();
    for round in 0..1200 {
        let window = client.show_window(&format!("{round}{}", "x".repeat(200)), &buffer).unwrap();
        let mapped = quick.until(|event| matches!(event, Event::SurfaceMapped { .. }));
        let Event::SurfaceMapped { surface } = mapped else { unreachable!() };
        window.close();
        client.roundtrip().unwrap();
        let gone = surface.who.surface;
        quick.until(|event| matches!(event, Event::SurfaceGone { surface } if surface.surface == gone));
        unsent = unsent.max(server.ask(|state| state.runtime.watchers.unsent()).unwrap());
    }
    assert!(unsent > 0 && unsent <= 64 * 1024, "{unsent} bytes wait for the slow one");
    let _last = dmabuf(&mut client, "last", "XR24", (16, 16));
    quick.until(|event| matches!(event, Event::SurfaceMapped { .. }));
    assert!(!slow.state().0);
    let again = slow.until(|event| matches!(event, Event::State { .. }));
    let Event::State { missed, all } = again else { unreachable!() };
    assert!(missed);
    assert_eq!(all.surfaces.len(), 1, "{all:?}");
    assert_eq!(all.surfaces[0].who.app_id.as_deref(), Some("last"));
    // From here on it hears every change again.
    let _more = dmabuf(&mut client, "more", "XR24", (16, 16));
    slow.until(|event| {
        matches!(event, Event::SurfaceMapped { surface } if surface.who.app_id.as_deref() == Some("more"))
    });
}
