//! Whoever connects to the control socket, whatever is sent there and however it is read: the session goes on, others are
//! answered, and what it costs is bounded.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use primeway::ctl::client as ctl;
use primeway::ctl::{Answer, Request};

use super::explain::{dmabuf, with_socket};
use super::headless_support::client::{Buffer, Client, Window};
use super::start;

/// What a normal user may have to wait for an answer at the most.
const SOON: Duration = Duration::from_secs(2);

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends bytes, and returns what comes back until the end; a peer that is hung up on may not get all of it out.
fn say(path: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(path);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => said,
        Err(err) if err.kind() == ErrorKind::ConnectionReset => said,
        Err(err) => panic!("{err}"),
    }
}

/// A normal user is answered soon.
fn is_served(path: &Path) {
    let asked = Instant::now();
    let planes = ctl::ask(Some(path.to_owned()), &Request::Planes).unwrap();
    assert!(planes["outputs"].is_array(), "{planes}");
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

/// A client's frame is shown soon.
fn is_shown(client: &mut Client, window: &Window, buffer: &Buffer) {
    let committed = Instant::now();
    client.present(&window.surface, buffer).unwrap();
    assert!(committed.elapsed() < SOON, "{:?}", committed.elapsed());
}

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// Lines of any bytes, requests with some bytes changed, halves of requests: each is answered by one line, an error but for
/// those that are a request after all.
#[test]
fn garbage_is_answered_and_harms_nobody() {
    const REQUESTS: [&str; 5] = [
        r#"{"request":"planes"}"#,
        r#"{"request":"explain","all":true,"pid":1,"surface":4294967295,"app_id":"x"}"#,
        r#"{"request":"timeline"}"#,
        r#"{"request":"ledger"}"#,
        r#"{"request":"capture","file":"/nowhere/x.png","source":"writeback"}"#,
    ];
    let (server, mut client) = start();
    let (_folder, path) = with_socket(&server);
    let (window, buffer) = dmabuf(&mut client, "shown", "XR24", (64, 64));
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut errors, mut answers) = (0, 0);
    for round in 0..400 {
        let mut line = match round % 4 {
            0 => (0..numbers.below(300)).map(|_| numbers.below(256) as u8).collect(),
            1 => "[".repeat(numbers.below(20_000)).into_bytes(),
            _ => REQUESTS[numbers.below(REQUESTS.len())].as_bytes().to_vec(),
        };
        match round % 4 {
            2 => {
                for _ in 0..=numbers.below(3) {
                    let at = numbers.below(line.len());
                    line[at] = numbers.below(256) as u8;
                }
            }
            3 => line.truncate(numbers.below(line.len())),
            _ => {}
        }
        line.retain(|byte| *byte != b'\n');
        line.push(b'\n');
        let said = say(&path, &line);
        let shown = String::from_utf8_lossy(&line).into_owned();
        match serde_json::from_slice(&said).unwrap_or_else(|err| panic!("{shown}: {err}")) {
            Answer::Ok(_) => answers += 1,
            Answer::Error(_) => errors += 1,
        }
    }
    assert!(errors > 200 && errors + answers == 400, "{errors} errors, {answers} answers");
    is_served(&path);
    assert!(client.present(&window.surface, &buffer).unwrap());
}

/// Half a line is no request: its sender is told so if it ends there, and dropped if it says nothing more.
#[test]
fn half_a_line_is_not_waited_for_long() {
    let (server, _client) = start();
    let (_folder, path) = with_socket(&server);
    let said = say(&path, br#"{"request":"pla"#);
    let text = String::from_utf8(said).unwrap();
    assert!(text.starts_with(r#"{"error":"not a request: "#), "{text}");
    let mut silent = connect(&path);
    silent.write_all(br#"{"request":"pla"#).unwrap();
    // One that sends a byte now and then is no better.
    let mut trickles = connect(&path);
    let began = Instant::now();
    while trickles.write_all(b" ").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(9), "it may send for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(silent.read(&mut [0; 64]).unwrap(), 0);
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    is_served(&path);
}

/// A line without an end is refused at 64 KiB, not read to its end.
#[test]
fn ten_megabytes_without_a_newline_are_refused_at_once() {
    let (server, _client) = start();
    let (_folder, path) = with_socket(&server);
    let mut stream = connect(&path);
    let mut sent = 0;
    while sent < 10 << 20 && stream.write_all(&[b'a'; 4096]).is_ok() {
        sent += 4096;
    }
    // What the socket itself holds is the kernel's.
    assert!(sent < 2 << 20, "{sent} bytes were taken");
    let text = String::from_utf8(say(&path, &[b'a'; 64 << 10])).unwrap();
    assert_eq!(text, "{\"error\":\"a request is a line of at most 65536 bytes\"}\n");
    is_served(&path);
}

/// However many connect and say nothing, few are kept, and the others' frames and answers go on.
#[test]
fn a_thousand_who_say_nothing_are_not_kept() {
    let (server, mut client) = start();
    let (_folder, path) = with_socket(&server);
    let (window, buffer) = dmabuf(&mut client, "shown", "XR24", (64, 64));
    let mut crowd = Vec::new();
    let began = Instant::now();
    for count in 0..1000 {
        crowd.push(connect(&path));
        if count % 100 == 50 {
            is_served(&path);
            is_shown(&mut client, &window, &buffer);
        }
    }
    // Those who came after them are in by now, and before anybody's time is up.
    is_served(&path);
    crowd.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let kept = crowd.iter_mut().filter(|stream| {
        let mut stream: &UnixStream = stream;
        matches!(stream.read(&mut [0; 1]), Err(err) if err.kind() == ErrorKind::WouldBlock)
    });
    let kept = kept.count();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!((32..=64).contains(&kept), "{kept} are kept");
}

/// Who asks for much and does not read it holds neither threads, nor the session, nor the others' answers for long.
#[test]
fn a_thousand_who_do_not_read_keep_nobody_waiting() {
    let (server, mut client) = start();
    let (_folder, path) = with_socket(&server);
    let (window, buffer) = dmabuf(&mut client, "shown", "XR24", (64, 64));
    // Titles make answers long.
    for _ in 0..120 {
        client.show_window(&"t".repeat(3000), &buffer).unwrap();
    }
    server.settle().unwrap();
    let ask_all = b"{\"request\":\"explain\",\"all\":true}\n";
    let answer = say(&path, ask_all).len();
    assert!(answer > 300 << 10, "{answer} bytes fit into a socket");
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().filter(is_answering).count();
    let (mut crowd, mut most) = (Vec::new(), 0);
    for count in 0..1000 {
        let mut stream = connect(&path);
        stream.write_all(ask_all).unwrap();
        crowd.push(stream);
        most = most.max(threads());
        if count % 250 == 125 {
            is_shown(&mut client, &window, &buffer);
        }
    }
    // Most of them have been told to ask again, and so may a normal user be for a while.
    let began = Instant::now();
    while let Err(err) = ctl::ask(Some(path.clone()), &Request::Planes) {
        assert!(err.to_string().ends_with(" requests wait to be answered: ask again"), "{err}");
        assert!(began.elapsed() < Duration::from_secs(20), "nobody else is answered");
        std::thread::sleep(Duration::from_millis(10));
    }
    is_shown(&mut client, &window, &buffer);
    // Other cases of this process are answered by such threads, too.
    assert!((1..=64).contains(&most), "{most} threads");
}

/// A thread that sends an answer.
fn is_answering(task: &std::io::Result<std::fs::DirEntry>) -> bool {
    let name = task.as_ref().map(|task| std::fs::read_to_string(task.path().join("comm")));
    matches!(name, Ok(Ok(name)) if name.trim_end() == "ctl")
}

/// Who listens to events has nothing to say; who sends without end is dropped.
#[test]
fn a_listener_who_talks_without_end_is_dropped() {
    let (server, mut client) = start();
    let (_folder, path) = with_socket(&server);
    let mut stream = connect(&path);
    stream.write_all(b"{\"request\":\"events\"}\n\n\n").unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).unwrap();
    let mut sent = 0;
    while sent < 10 << 20 && stream.write_all(&[b'\n'; 4096]).is_ok() {
        sent += 4096;
    }
    assert!(sent < 2 << 20, "{sent} bytes were taken");
    let gone = || server.ask(|state| state.runtime.watchers.is_empty()).unwrap();
    let began = Instant::now();
    while !gone() {
        assert!(began.elapsed() < SOON, "it is still there");
    }
    let (window, buffer) = dmabuf(&mut client, "shown", "XR24", (64, 64));
    assert!(client.present(&window.surface, &buffer).unwrap());
}
