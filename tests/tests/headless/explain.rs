//! What `primeway explain`, `planes` and `buffers` say of clients whose fate is known.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use primeway::cli::{CheckArgs, ExplainArgs, ReportArgs, To};
use primeway::ctl::client as ctl;
use primeway::ctl::explain::{ExplainReport, Explanation, Query, Way, explain};
use primeway::ctl::planes::PlaneRow;
use primeway::ctl::server::CtlServer;
use primeway::ctl::{Request, show};
use primeway_tests::picture::Pattern;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::headless_support::Server;
use super::headless_support::client::{Buffer, Client, Window};
use super::{OUTPUT, start};

const NOISE: Pattern = Pattern::Noise(1);

fn ask(server: &Server, query: Query) -> Result<ExplainReport, String> {
    server.ask(move |state| explain(state, &query)).unwrap()
}

fn all(server: &Server) -> Vec<Explanation> {
    ask(server, Query { all: true, ..Query::default() }).unwrap().surfaces
}

fn titled(server: &Server, title: &str) -> Explanation {
    let found = all(server).into_iter().find(|e| e.who.title.as_deref() == Some(title));
    found.unwrap_or_else(|| panic!("{title} is not explained"))
}

/// Opens a window with a title that is also its app id, and shows a buffer in it.
fn window(client: &mut Client, name: &str, buffer: &Buffer) -> Window {
    let window = client.open_window_as(name, |toplevel| toplevel.set_app_id(name.to_owned())).unwrap();
    client.show(&window.surface, buffer).unwrap();
    window
}

/// A dma-buf in a window of its own.
pub(super) fn dmabuf(client: &mut Client, name: &str, format: &str, size: (u32, u32)) -> (Window, Buffer) {
    let buffer = client.dmabuf(format, size, NOISE).unwrap();
    (window(client, name, &buffer), buffer)
}

/// The refusals' kinds by plane, the topmost plane first; `shows` for the plane that shows it.
fn kinds(explanation: &Explanation) -> Vec<(u32, String)> {
    let kind = |refusal: &Option<primeway::ctl::refusal::RefusalReport>| {
        refusal.as_ref().map_or_else(|| "shows".to_owned(), |refusal| refusal.kind.clone())
    };
    explanation.planes.iter().map(|p| (p.plane.get(), kind(&p.refusal))).collect()
}

/// A server with a control socket.
pub(super) fn with_socket(server: &Server) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ctl");
    let at = path.clone();
    server
        .ask(move |state| {
            let listening = CtlServer::listen_at(&state.runtime.handle, at)?;
            // It lives as long as the compositor.
            std::mem::forget(listening);
            anyhow::Ok(())
        })
        .unwrap()
        .unwrap();
    (folder, path)
}

fn to(path: &std::path::Path) -> To {
    To { socket: Some(path.to_owned()), json: false }
}

fn status(path: &std::path::Path, app_id: &str) -> Result<u8, String> {
    let app_id = Some(app_id.to_owned());
    let args = ExplainArgs { app_id, pid: None, surface: None, all: false, watch: false, to: to(path) };
    ctl::explain(&args).map_err(|err| err.to_string())
}

#[test]
fn a_window_on_the_primary_plane_is_scanned_out() {
    let (server, mut client) = start();
    let _window = dmabuf(&mut client, "full", "XR24", OUTPUT);
    server.settle().unwrap();
    let report = ask(&server, Query::default()).unwrap();
    assert!(report.scanned_out);
    let [full] = report.surfaces.as_slice() else { panic!("{report:?}") };
    assert_eq!((full.verdict.way, full.verdict.plane.map(u32::from)), (Way::ScannedOut, Some(1)));
    assert_eq!(full.verdict.frames, 1);
    assert!(full.culprit.is_none() && full.remedies.is_empty(), "{full:?}");
    let expected = [(3, "shown-by"), (2, "shown-by"), (1, "shows")].map(|(p, k)| (p, k.to_owned()));
    assert_eq!(kinds(full), expected);
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!((full.who.pid, full.who.app_id.as_deref()), (own, Some("full")));
    let text = show::explain(&report);
    assert!(text.contains("VERDICT  scanned out by plane 1 since ") && !text.contains("TRY"), "{text}");
}

#[test]
fn who_has_the_planes_is_named() {
    let (server, mut client) = start();
    let windows: Vec<_> = (0..3).map(|i| dmabuf(&mut client, &format!("w{i}"), "XR24", (64, 64))).collect();
    server.settle().unwrap();
    // Which of them is left depends on the frames between their coming.
    let surfaces = all(&server);
    let [left] = surfaces.iter().filter(|e| e.verdict.way == Way::Composited).collect::<Vec<_>>()[..] else {
        panic!("{surfaces:?}")
    };
    let expected = [(3, "taken"), (2, "taken"), (1, "not-full-output")].map(|(p, k)| (p, k.to_owned()));
    assert_eq!(kinds(left), expected);
    for plane in &left.planes[..2] {
        let shown = surfaces.iter().find(|e| e.verdict.plane == Some(plane.plane)).unwrap();
        assert_eq!(shown.verdict.way, Way::ScannedOut);
        let text = format!("the plane shows {}", shown.who.name());
        assert_eq!(plane.refusal.as_ref().unwrap().text, text);
    }
    let culprit = left.culprit.as_ref().unwrap();
    assert_eq!((culprit.kind.as_str(), culprit.window.is_some()), ("window", true));
    assert!(left.remedies[0].starts_with("show fewer windows: 2 overlays"), "{:?}", left.remedies);
    drop(windows);
}

#[test]
fn a_covered_window_names_what_covers_it_and_why() {
    let (server, mut client) = start();
    let video = dmabuf(&mut client, "video", "XR24", (128, 128));
    let cover = client.shm("XR24", (16, 16), NOISE).unwrap();
    let (surface, role) = client.subsurface(&video.0.surface).unwrap();
    role.set_desync();
    client.show(&surface, &cover).unwrap();
    video.0.surface.commit();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    let surfaces = all(&server);
    let video_of = |role: &str| surfaces.iter().find(|e| e.who.role == role).unwrap();
    let (window, sub) = (video_of("toplevel"), video_of("subsurface"));
    assert_eq!(sub.culprit.as_ref().unwrap().text, "the buffer is not a dma-buf");
    assert_eq!(sub.buffer.as_ref().unwrap().format, None);
    let own = std::process::id();
    let who = format!("subsurface {} of video (pid {own})", sub.who.surface);
    let culprit = window.culprit.as_ref().unwrap();
    assert_eq!(culprit.window.as_deref(), Some(who.as_str()));
    let text = format!("{who} lies over it and is composited: the buffer is not a dma-buf");
    assert_eq!(culprit.text, text);
    assert!(window.remedies[1].contains("have the client draw into dma-bufs"), "{:?}", window.remedies);
}

#[test]
fn a_format_that_no_plane_has_comes_with_those_that_they_have() {
    let (server, mut client) = start();
    let _window = dmabuf(&mut client, "xb24", "XB24", (64, 64));
    server.settle().unwrap();
    let window = titled(&server, "xb24");
    let refusal = window.planes[0].refusal.as_ref().unwrap();
    assert_eq!(refusal.text, "XB24 is not among the plane's formats");
    assert_eq!(refusal.values, json!({ "format": "XB24", "modifier": "LINEAR", "accepted": [] }));
    assert_eq!(window.remedies, ["use another format; the plane takes AR24, XR24"]);
    assert_eq!(window.culprit.unwrap().kind, "client");
}

#[test]
fn a_window_that_nobody_sees_is_hidden_and_not_composited() {
    let (server, mut client) = start();
    let _below = dmabuf(&mut client, "below", "XR24", (64, 64));
    let buffer = client.dmabuf("XR24", OUTPUT, NOISE).unwrap();
    let full = client.open_window_as("full", |toplevel| {
        toplevel.set_app_id("full".to_owned());
        toplevel.set_maximized();
    });
    let full = full.unwrap();
    client.show(&full.surface, &buffer).unwrap();
    server.settle().unwrap();
    let below = titled(&server, "below");
    assert_eq!(below.verdict.way, Way::Hidden);
    assert!(below.culprit.unwrap().text.starts_with("hidden behind full (pid "));
    // Who cannot be seen does not count.
    assert!(ask(&server, Query { all: true, ..Query::default() }).unwrap().scanned_out);
    let only = ask(&server, Query { app_id: Some("below".to_owned()), ..Query::default() }).unwrap();
    assert!(!only.scanned_out);
    // Below a full-screen window nothing is on the output at all.
    full.toplevel.set_fullscreen(None);
    client.show(&full.surface, &buffer).unwrap();
    server.settle().unwrap();
    let below = titled(&server, "below");
    assert_eq!((below.verdict.way, below.output), (Way::Hidden, None));
    assert!(below.culprit.unwrap().text.starts_with("it is behind a full-screen window"));
}

#[test]
fn the_exit_status_tells_scanned_out_from_composited_and_from_nobody() {
    let (server, mut client) = start();
    let (_folder, path) = with_socket(&server);
    let args =
        ExplainArgs { app_id: None, pid: None, surface: None, all: false, watch: false, to: to(&path) };
    let nobody = ctl::explain(&args).map_err(|err| err.to_string());
    assert_eq!(nobody, Err("no window has the focus: name one, or ask for --all".to_owned()));
    let shown = dmabuf(&mut client, "shown", "XR24", (64, 64));
    let _drawn = dmabuf(&mut client, "drawn", "XB24", (64, 64));
    server.settle().unwrap();
    assert_eq!(status(&path, "shown"), Ok(0));
    assert_eq!(status(&path, "drawn"), Ok(3));
    assert_eq!(status(&path, "other"), Err("no surface that is asked about is shown".to_owned()));
    let check =
        |app_id: &str| ctl::check(&CheckArgs { require_scanout: app_id.to_owned(), to: to(&path) }).unwrap();
    assert_eq!((check("shown"), check("drawn")), (0, 3));
    // The focused window is the one that was opened last.
    assert_eq!(ctl::explain(&args).unwrap(), 3);
    server.click(4.0, 4.0).unwrap();
    assert_eq!(ctl::explain(&args).unwrap(), 0);
    shown.0.close();
    client.roundtrip().unwrap();
    assert!(status(&path, "shown").is_err());
}

#[test]
fn bad_requests_are_answered() {
    use std::io::{Read as _, Write as _};
    let (server, _client) = start();
    let (_folder, path) = with_socket(&server);
    for bad in [
        "",
        "null",
        "{\"request\":\"explain\",\"pid\":\"x\"}",
        "{\"request\":\"explain\",\"pid\":99999999999}",
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        writeln!(stream, "{bad}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["error"].is_string(), "{bad}: {answer}");
    }
    let nobody = ctl::ask(Some(path), &Request::Explain(Query { surface: Some(4), ..Query::default() }));
    assert!(nobody.is_err());
}

#[test]
fn planes_are_listed_from_the_topmost_down() {
    let (server, mut client) = start();
    let _windows: Vec<_> =
        ["XR24", "NV12"].iter().map(|format| dmabuf(&mut client, format, format, (64, 64))).collect();
    server.settle().unwrap();
    let report = server.ask(|state| primeway::ctl::planes::planes(state)).unwrap();
    let rows: &[PlaneRow] = &report.outputs[0].planes;
    let stack: Vec<_> = rows.iter().map(|row| (row.z, row.plane.get(), row.r#type.as_str())).collect();
    assert_eq!(stack, [(Some(2), 3, "overlay"), (Some(1), 2, "overlay"), (Some(0), 1, "primary")]);
    let mut who: Vec<_> = rows.iter().map(|row| row.who.clone()).collect();
    who.sort();
    let own = std::process::id();
    assert_eq!(who, [format!("NV12 (pid {own})"), format!("XR24 (pid {own})"), "composited".to_owned()]);
    assert_eq!(rows[2].who, "composited");
    let row = rows.iter().find(|row| row.who.starts_with("NV12")).unwrap();
    let nv12 = row.shows.as_ref().unwrap();
    assert_eq!((nv12.format.as_str(), nv12.modifier.as_str(), nv12.shown_size), ("NV12", "LINEAR", (64, 64)));
    assert_eq!(nv12.fence, None);
    assert!(nv12.held_ms.is_some_and(|held| held < 10_000), "{nv12:?}");
    assert_eq!(rows[0].caps.formats["P010"], ["LINEAR"]);
    let text = show::planes(&report);
    assert!(text.lines().any(|line| line.starts_with("2  3 overlay  ")), "{text}");
}

#[test]
fn buffers_are_counted_for_each_owner() {
    let (server, mut client) = start();
    let first = dmabuf(&mut client, "one", "XR24", (64, 64));
    let second = client.dmabuf("NV12", (64, 64), NOISE).unwrap();
    let _shm = client.shm("XR24", (8, 8), NOISE).unwrap();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    let report = server.ask(|state| primeway::ctl::buffers::buffers(state)).unwrap();
    let name = format!("client {}", std::process::id());
    let own = report.owners.iter().find(|row| row.owner == name).unwrap();
    assert_eq!((own.dmabufs, own.shm_buffers, own.framebuffers), (2, 1, 1), "{own:?}");
    let sizes: u64 = [&first.1, &second].iter().map(|b| b.memory.size()).sum();
    assert_eq!((own.bytes, own.app_ids.as_slice()), (sizes, ["one".to_owned()].as_slice()));
    assert!(own.handles >= 2 && own.files >= 4 && own.oldest_ms.is_some(), "{own:?}");
    let composition = report.owners.iter().find(|row| row.owner == "composition").unwrap();
    assert!(composition.bytes >= u64::from(OUTPUT.0 * OUTPUT.1 * 4), "{composition:?}");
    assert!(show::buffers(&report).contains(&name));
}

/// Frames and the changes of planes are kept for reports, and no change is kept twice.
#[test]
fn the_timeline_has_each_change_once() {
    let (server, mut client) = start();
    let (window, buffer) = dmabuf(&mut client, "one", "XR24", (64, 64));
    server.settle().unwrap();
    for _ in 0..5 {
        assert!(client.present(&window.surface, &buffer).unwrap());
    }
    // Plans that put everybody where he was are no change.
    let drawn = client.dmabuf("XB24", (32, 32), NOISE).unwrap();
    let moving = client.show_window("moving", &drawn).unwrap();
    let viewport = client.viewport(&moving.surface).unwrap();
    let plans = server.ask(|state| state.outputs[0].state.plans).unwrap();
    for side in [40, 50, 60] {
        viewport.set_destination(side, side);
        client.present(&moving.surface, &drawn).unwrap();
    }
    assert!(server.ask(|state| state.outputs[0].state.plans).unwrap() >= plans + 3);
    let timeline = server.ask(|state| primeway::ctl::timeline::timeline(state)).unwrap();
    let [output] = timeline.outputs.as_slice() else { panic!("{timeline:?}") };
    let who = |plane: u32| {
        let shown = |c: &primeway::ctl::timeline::PlaneChange| {
            c.planes.iter().find(|(id, _)| id.get() == plane).and_then(|(_, who)| who.clone())
        };
        output.changes.iter().map(shown).collect::<Vec<_>>()
    };
    let name = format!("one (pid {})", std::process::id());
    assert_eq!(who(3).last(), Some(&Some(name.clone())), "{output:?}");
    let same = |pair: &[primeway::ctl::timeline::PlaneChange]| {
        (&pair[0].planes, pair[0].composited) == (&pair[1].planes, pair[1].composited)
    };
    assert!(!output.changes.windows(2).any(same), "{output:?}");
    assert!(output.frames >= 6, "{output:?}");
    let latency = output.latency.unwrap();
    // From its client's commit; not of the frame in which it first was there.
    assert!((5..output.frames).contains(&(latency.frames as u64)), "{latency:?}");
    assert!(latency.p50_ms <= latency.p99_ms, "{latency:?}");
}

/// The embedded device refuses to scale without saying so beforehand.
#[test]
fn what_the_driver_minds_is_guessed_while_nothing_else_happens() {
    let (server, mut client) = start();
    let buffer = client.dmabuf("XR24", (32, 32), NOISE).unwrap();
    let window = client.open_window("scaled").unwrap();
    client.viewport(&window.surface).unwrap().set_destination(64, 48);
    client.show(&window.surface, &buffer).unwrap();
    server.settle().unwrap();
    let guesses = |e: &Explanation| -> Vec<(u32, Option<String>)> {
        e.planes.iter().map(|p| (p.plane.get(), p.guess.clone())).collect()
    };
    let before = titled(&server, "scaled");
    let kinds_of = kinds(&before);
    let refused = kinds_of.iter().filter(|(_, kind)| kind == "test").count();
    assert!(refused > 0, "{kinds_of:?}");
    assert!(guesses(&before).iter().all(|(_, guess)| guess.is_none()), "nobody was asked yet");
    let deadline = std::time::Instant::now() + super::headless_support::PATIENCE;
    let after = loop {
        let after = titled(&server, "scaled");
        if after.planes.iter().filter(|p| p.guess.is_some()).count() == refused {
            break after;
        }
        assert!(std::time::Instant::now() < deadline, "{:?}", guesses(&after));
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    for plane in after.planes.iter().filter(|p| p.guess.is_some()) {
        assert_eq!(plane.guess.as_deref(), Some("likely: scaling, a guess from 2 tests"));
    }
    assert!(show::explain(&ask(&server, Query::default()).unwrap()).contains("(likely: scaling"));
    assert!(after.remedies[0].contains("unusual about it: scaled 2.00x by 1.50x"), "{:?}", after.remedies);
    // The frames that the client shows meanwhile are the same as ever.
    assert!(!client.present(&window.surface, &buffer).unwrap());
}

/// Neither a frame nor a test is made for guesses where the driver refuses nothing.
#[test]
fn nobody_is_asked_where_nothing_was_refused_by_the_driver() {
    let (server, mut client) = start();
    let _window = dmabuf(&mut client, "xb24", "XB24", (64, 64));
    server.settle().unwrap();
    let frames = server.frames().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let after = titled(&server, "xb24");
    assert!(after.planes.iter().all(|plane| plane.guess.is_none()), "{after:?}");
    assert_eq!(server.frames().unwrap(), frames);
}

/// A report has what there is, in one file without references, and no titles; what a client calls itself stays text.
#[test]
fn a_report_has_no_titles_and_no_markup_of_clients() {
    let (server, mut client) = start();
    let (folder, path) = with_socket(&server);
    let output = folder.path().join("report.html");
    let args = ReportArgs { to: to(&path), output: Some(output.clone()) };
    assert_eq!(ctl::write_report(&args).unwrap(), 0);
    assert!(std::fs::read_to_string(&output).unwrap().contains("No surface is shown."));
    let buffer = client.dmabuf("XB24", (64, 64), NOISE).unwrap();
    let evil = "<script>alert(1)</script>";
    let window = client.open_window_as("A <b>secret</b>", |toplevel| toplevel.set_app_id(evil.to_owned()));
    let window = window.unwrap();
    client.show(&window.surface, &buffer).unwrap();
    let shown = dmabuf(&mut client, "shown", "XR24", (64, 64));
    server.settle().unwrap();
    assert_eq!(ctl::write_report(&args).unwrap(), 0);
    let html = std::fs::read_to_string(&output).unwrap();
    assert!(!html.contains("secret") && !html.contains("<script"), "{html}");
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt; (pid "), "{html}");
    for part in
        ["<svg ", "XB24 is not among the plane&#39;s formats", "<td class=\"m\">P010</td>", "shown (pid "]
    {
        assert!(html.contains(part), "{part} is missing: {html}");
    }
    drop(shown);
}
