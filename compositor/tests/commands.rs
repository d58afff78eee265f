//! `primeway explain` and its kin as programs: what they exit with and say, beside a primeway that answers by a script, or none.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Every command that asks a running primeway.
const COMMANDS: [&[&str]; 8] = [
    &["explain"],
    &["explain", "--watch"],
    &["planes"],
    &["buffers", "--json"],
    &["events"],
    &["counters"],
    &["report", "-o", "-"],
    &["check", "--require-scanout", "x"],
];

fn primeway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_primeway"));
    command.args(arguments).env_remove("PRIMEWAY_SOCKET").env_remove("WAYLAND_DISPLAY").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a program that must end by itself.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.code(), said)
}

/// A socket on which a script answers.
struct Fake {
    _folder: TempDir,
    path: PathBuf,
}

impl Fake {
    /// `answer` gets each request's name and the connection; an error of it is its peer's hanging up.
    fn new(answer: impl Fn(&str, &mut UnixStream) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("primeway.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = std::sync::Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answer.clone());
                std::thread::spawn(move || {
                    let mut line = String::new();
                    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                    let request: Value = serde_json::from_str(&line).unwrap();
                    let _ = answer(request["request"].as_str().unwrap(), &mut stream);
                });
            }
        });
        Self { _folder: folder, path }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        primeway(arguments).env("PRIMEWAY_SOCKET", &self.path).output().unwrap()
    }

    /// Starts one whose output is read here.
    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = primeway(arguments);
        command.env("PRIMEWAY_SOCKET", &self.path).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

fn surface(app_id: &str, plane: Option<u32>) -> Value {
    json!({
        "pid": 41, "uid": 0, "connection": 1, "surface": 3, "window": 3, "role": "toplevel", "app_id": app_id,
        "title": null, "output": "A", "buffer": null, "position": [0, 0], "size": [64, 64],
        "verdict": {
            "way": if plane.is_some() { "scanned-out" } else { "composited" }, "plane": plane, "since_unix_ms": null,
            "frames": 7, "avoidable_bytes_per_second": null,
        },
        "planes": [], "culprit": null, "remedies": [], "feedback": null, "waits_for": null, "undrawn": null,
    })
}

fn report(surfaces: &[Value]) -> Value {
    let scanned_out = surfaces.iter().all(|surface| surface["verdict"]["plane"].is_number());
    json!({ "ok": { "scanned_out": scanned_out, "surfaces": surfaces } })
}

fn state() -> Value {
    json!({ "event": "state", "missed": false, "outputs": [], "surfaces": [] })
}

#[test]
fn without_a_session_each_says_so_and_exits_1() {
    let nowhere = Path::new("/nonexistent/primeway.sock");
    for arguments in COMMANDS.into_iter().chain([["ctl", "stats"].as_slice()]) {
        let output = primeway(arguments).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains("no primeway here: PRIMEWAY_SOCKET and WAYLAND_DISPLAY are not set"), "{said}");
        let output = primeway(arguments).env("PRIMEWAY_SOCKET", nowhere).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("primeway: no primeway answers on /nonexistent/primeway.sock: "), "{said}");
    }
    // A file that a dead session has left.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.sock");
    drop(UnixListener::bind(&path).unwrap());
    let output = primeway(&["planes"]).env("PRIMEWAY_SOCKET", &path).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no primeway answers on "), "{output:?}");
}

#[test]
fn what_explain_finds_is_in_its_exit_status() {
    for (answer, expected) in [
        (report(&[surface("a", Some(3))]), Some(0)),
        (report(&[surface("a", Some(3)), surface("b", None)]), Some(3)),
        (json!({ "error": "no surface that is asked about is shown" }), Some(1)),
    ] {
        let line = format!("{answer}\n");
        let fake = Fake::new(move |_, stream| stream.write_all(line.as_bytes()));
        for arguments in [
            ["explain", "--surface", "3"].as_slice(),
            &["explain", "--json"],
            &["check", "--require-scanout", "a"],
        ] {
            let output = fake.run(arguments);
            assert_eq!(output.status.code(), expected, "{arguments:?}: {output:?}");
            let failed = text(&output.stderr).contains("no surface that is asked about is shown");
            assert_eq!(failed, expected == Some(1), "{output:?}");
        }
    }
    for wrong in [["explain", "--surface", "-1"].as_slice(), &["explain", "--pid", "1", "--all"], &["report"]]
    {
        assert_eq!(primeway(wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}

/// As in `primeway explain | head -1`: whoever has read enough ends it, without a word.
#[test]
fn a_reader_who_has_enough_ends_each() {
    let many: Vec<Value> = (0..2000).map(|i| surface(&format!("app{i}"), None)).collect();
    let all = format!("{}\n", report(&many));
    let fake = Fake::new(move |request, stream| match request {
        "explain" => stream.write_all(all.as_bytes()),
        "planes" => {
            let plane = json!({
                "plane": 1, "type": "overlay", "z": 1, "who": "x".repeat(300), "surface": null, "shows": null, "pointer": null,
                "caps": {
                    "formats": {}, "zpos": "", "sizes": null, "cursor_sizes": [], "scaling": "", "rotations": "",
                    "alpha": false, "blends": false, "encodings": [false, false, false], "ranges": [false, false],
                    "covers_part": false, "foreign": false,
                },
            });
            let output = json!({
                "output": "A", "crtc": 1, "size": [1, 1], "flips": { "lost": 0, "vrr": null, "tearing": null },
                "planes": vec![plane; 500],
            });
            writeln!(stream, "{}", json!({ "ok": { "outputs": [output] } }))
        }
        "timeline" => writeln!(stream, "{}", json!({ "ok": { "now_unix_ms": 0, "outputs": [] } })),
        _ => {
            writeln!(stream, "{}", state())?;
            let gone = json!({ "event": "output-removed", "output": "A".repeat(300) });
            loop {
                writeln!(stream, "{gone}")?;
            }
        }
    });
    for (arguments, expected) in [
        (["explain", "--all"].as_slice(), 3),
        (&["explain", "--all", "--watch"], 3),
        (&["planes"], 0),
        (&["events"], 0),
        (&["events", "--json"], 0),
        (&["top", "--json"], 0),
    ] {
        let mut child = fake.start(arguments);
        let mut first = String::new();
        // It is closed with the reader.
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty(), "{arguments:?}");
        assert_eq!(ended(child), (Some(expected), String::new()), "{arguments:?}");
    }
}

#[test]
fn answers_that_are_none_are_errors() {
    for answer in
        ["", "\n", "hello\n", "{\"ok\":", "{\"ok\":{}}\n", "[1]\n", "{\"what\":1}\n", "\u{0}\u{1}\n"]
    {
        let fake = Fake::new(move |_, stream| stream.write_all(answer.as_bytes()));
        for arguments in [["explain"].as_slice(), &["planes", "--json"], &["counters"], &["top", "--json"]] {
            let output = fake.run(arguments);
            assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()), "{answer:?}");
            let said = text(&output.stderr);
            assert!(said.starts_with("primeway: ") && said.lines().count() == 1, "{answer:?}: {said}");
        }
        // An event stream that ends has ended with its primeway.
        let output = fake.run(&["events"]);
        assert_eq!(output.status.code(), Some(u8::from(!answer.is_empty()).into()), "{answer:?}: {output:?}");
    }
}

/// The explanation comes anew with each change and only then; a window that goes is told of, may come back, and the last word
/// is the exit status.
#[test]
fn a_watch_tells_each_change_until_the_end() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let fake = Fake::new(|request, stream| {
        if request == "explain" {
            // One answer for each event; the second is as the first.
            let answers = [
                report(&[surface("mpv", None)]),
                report(&[surface("mpv", None)]),
                json!({ "error": "no surface that is asked about is shown" }),
                report(&[surface("mpv", Some(5))]),
            ];
            let asked = ASKED.fetch_add(1, Ordering::Relaxed);
            return writeln!(stream, "{}", answers[asked % answers.len()]);
        }
        writeln!(stream, "{}", state())?;
        for _ in 0..3 {
            writeln!(stream, "{}", json!({ "event": "output-removed", "output": "A" }))?;
        }
        Ok(())
    });
    let output = fake.run(&["explain", "--app-id", "mpv", "--watch"]);
    let told = text(&output.stdout);
    let verdicts: Vec<&str> =
        told.lines().filter(|line| !line.is_empty() && !line.starts_with("mpv")).collect();
    let expected = [
        "VERDICT  composited (7 frames)",
        "no surface that is asked about is shown",
        "VERDICT  scanned out by plane 5 (7 frames)",
    ];
    assert_eq!(verdicts, expected, "{told}");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    // The same as lines of JSON: an error is one, too.
    let output = fake.run(&["explain", "--app-id", "mpv", "--watch", "--json"]);
    let lines: Result<Vec<Value>, _> = text(&output.stdout).lines().map(serde_json::from_str).collect();
    let lines = lines.unwrap_or_else(|err| panic!("{err}: {}", text(&output.stdout)));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[1], json!({ "error": "no surface that is asked about is shown" }));
    assert_eq!(lines[2]["surfaces"][0]["verdict"]["plane"], 5);
}
