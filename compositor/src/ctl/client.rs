//! The programs that ask a running primeway: `ctl`, `explain`, `planes`, `buffers`, `events`, `counters`, `report` and `check`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::de::DeserializeOwned;

use super::counters::Counters;
use super::events::Event;
use super::explain::{ExplainReport, Explanation, Query};
use super::report::Parts;
use super::{Answer, CaptureSource, Request, outputs, report, show};
use crate::cli::{CheckArgs, Ctl, CtlRequest, ExplainArgs, OutputArgs, ReportArgs, To};

/// How long an answer may take: that of a capture waits for a picture of the display, and for the file.
const PATIENCE: Duration = Duration::from_secs(30);
/// Every surface asked about is scanned out.
const SCANNED_OUT: u8 = 0;
/// At least one of them is composited.
const COMPOSITED: u8 = 3;

/// Asks, prints the answer, returns the exit status.
///
/// # Errors
/// When there is no primeway to ask, or it answers with an error.
pub fn run(ctl: &Ctl) -> anyhow::Result<u8> {
    let request = match &ctl.request {
        CtlRequest::Stats => Request::Stats,
        CtlRequest::Ledger => Request::Ledger,
        CtlRequest::Capture { file, output, .. } => Request::Capture {
            file: std::path::absolute(file)?,
            source: CaptureSource::Writeback,
            output: output.clone(),
        },
    };
    let answer = ask(ctl.socket.clone(), &request)?;
    print(&match request {
        Request::Capture { file, .. } => format!("{}\n", file.display()),
        _ => serde_json::to_string_pretty(&answer)? + "\n",
    })?;
    Ok(0)
}

/// `primeway explain`.
///
/// # Errors
/// As [`run`], or when no surface is asked about.
pub fn explain(args: &ExplainArgs) -> anyhow::Result<u8> {
    let request = Request::Explain(args.query());
    if args.watch {
        return watch(args, &request);
    }
    let (text, report): (_, ExplainReport) = tell(&args.to, &request, show::explain)?;
    print(&text)?;
    Ok(if report.scanned_out { SCANNED_OUT } else { COMPOSITED })
}

/// Explains anew whenever something has changed, until primeway ends.
fn watch(args: &ExplainArgs, request: &Request) -> anyhow::Result<u8> {
    let (mut last, mut status) = (None, COMPOSITED);
    for event in EventStream::open(args.to.socket.clone())? {
        event?;
        let (text, report) = match ask(args.to.socket.clone(), request) {
            Ok(answer) if args.to.json => (answer.to_string() + "\n", serde_json::from_value(answer)?),
            Ok(answer) => {
                let report: ExplainReport = serde_json::from_value(answer)?;
                (show::explain(&report) + "\n", report)
            }
            // The window may come back.
            Err(err) => {
                let text = format!("{err:#}");
                let json = serde_json::json!({ "error": text }).to_string();
                let none = ExplainReport { scanned_out: false, surfaces: Vec::new() };
                (if args.to.json { json } else { text } + "\n", none)
            }
        };
        let stands = |e: &Explanation| (e.who.clone(), e.verdict.way, e.verdict.plane, e.planes.clone());
        let stands: Vec<_> = report.surfaces.iter().map(stands).collect();
        status = if report.scanned_out { SCANNED_OUT } else { COMPOSITED };
        if last.as_ref() != Some(&stands) && !print(&text)? {
            return Ok(status);
        }
        last = Some(stands);
    }
    Ok(status)
}

/// `primeway events`.
///
/// # Errors
/// As [`run`].
pub fn events(to: &To) -> anyhow::Result<u8> {
    for event in EventStream::open(to.socket.clone())? {
        let (line, event) = event?;
        if !print(&if to.json { line } else { show::event(&event) })? {
            break;
        }
    }
    Ok(0)
}

/// The events of a running primeway, each with its line; it ends with primeway.
#[derive(Debug)]
pub struct EventStream(BufReader<UnixStream>);

impl EventStream {
    /// Begins to listen.
    ///
    /// # Errors
    /// When there is no primeway to ask.
    pub fn open(socket: Option<PathBuf>) -> anyhow::Result<Self> {
        Ok(Self(BufReader::new(send(socket, &Request::Events)?)))
    }
}

impl Iterator for EventStream {
    type Item = anyhow::Result<(String, Event)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(err) if err.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(err) => return Some(Err(err.into())),
        }
        let event = serde_json::from_str(&line).map_err(|err| match serde_json::from_str(&line) {
            Ok(Answer::Error(text)) => anyhow!(text),
            _ => anyhow!("not an event of this version of primeway: {err}"),
        });
        Some(event.map(|event| (line, event)))
    }
}

/// `primeway planes`.
///
/// # Errors
/// As [`run`].
pub fn planes(to: &To) -> anyhow::Result<u8> {
    let (text, _) = tell(to, &Request::Planes, show::planes)?;
    print(&text)?;
    Ok(0)
}

/// `primeway buffers`.
///
/// # Errors
/// As [`run`].
pub fn buffers(to: &To) -> anyhow::Result<u8> {
    let (text, _) = tell(to, &Request::Buffers, show::buffers)?;
    print(&text)?;
    Ok(0)
}

/// `primeway output`.
///
/// # Errors
/// As [`run`], or when the output is not there or the driver refuses.
pub fn output(args: &OutputArgs) -> anyhow::Result<u8> {
    let power = if args.on { Some(true) } else { args.off.then_some(false) };
    let request = match args.name.clone() {
        Some(name) => Request::Output(outputs::Wish { name, mode: args.mode.clone(), power }),
        None => Request::Outputs,
    };
    let (text, _) = tell(&args.to, &request, outputs::show)?;
    print(&text)?;
    Ok(0)
}

/// `primeway check`: says nothing but what is wrong.
///
/// # Errors
/// As [`run`], or when no window has the app id.
pub fn check(args: &CheckArgs) -> anyhow::Result<u8> {
    let app_id = Some(args.require_scanout.clone());
    let request = Request::Explain(Query { app_id, ..Query::default() });
    let (text, report): (_, ExplainReport) = tell(&args.to, &request, show::explain)?;
    if report.scanned_out && !args.to.json {
        return Ok(SCANNED_OUT);
    }
    print(&text)?;
    Ok(if report.scanned_out { SCANNED_OUT } else { COMPOSITED })
}

/// What there is to say of every surface; without one there is nothing to explain, and no error.
pub(super) fn everything(socket: Option<PathBuf>) -> anyhow::Result<serde_json::Value> {
    let all = Request::Explain(Query { all: true, ..Query::default() });
    let nothing = || serde_json::to_value(ExplainReport { scanned_out: false, surfaces: Vec::new() });
    match answer(socket, &all)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(_) => Ok(nothing()?),
    }
}

/// `primeway counters`.
///
/// # Errors
/// As [`run`].
pub fn counters(to: &To) -> anyhow::Result<u8> {
    let get = |request: &Request| ask(to.socket.clone(), request);
    let explain = serde_json::from_value(everything(to.socket.clone())?)?;
    let planes = serde_json::from_value(get(&Request::Planes)?)?;
    let timeline = serde_json::from_value(get(&Request::Timeline)?)?;
    let resources = get(&Request::Stats)?["resources"].take();
    let counters = Counters::new(&explain, &planes, &timeline, resources);
    print(&if to.json { serde_json::to_string_pretty(&counters)? + "\n" } else { counters.text() })?;
    Ok(0)
}

/// `primeway report`.
///
/// # Errors
/// As [`run`], or when the file cannot be written.
pub fn write_report(args: &ReportArgs) -> anyhow::Result<u8> {
    let untitled = |mut answer: serde_json::Value| {
        report::untitle(&mut answer);
        answer
    };
    let get = |request: &Request| ask(args.to.socket.clone(), request).map(untitled);
    let parts = Parts {
        stats: get(&Request::Stats)?,
        explain: serde_json::from_value(untitled(everything(args.to.socket.clone())?))?,
        planes: serde_json::from_value(get(&Request::Planes)?)?,
        buffers: serde_json::from_value(get(&Request::Buffers)?)?,
        timeline: serde_json::from_value(get(&Request::Timeline)?)?,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        outputs: serde_json::from_value(get(&Request::Outputs)?)?,
    };
    let text = if args.to.json { serde_json::to_string_pretty(&parts)? + "\n" } else { report::page(&parts) };
    let Some(output) = args.output.as_deref().filter(|output| output.as_os_str() != "-") else {
        print(&text)?;
        return Ok(0);
    };
    write_whole(output, &text).with_context(|| format!("cannot write {}", output.display()))?;
    print(&format!("{}\n", output.display()))?;
    Ok(0)
}

/// Writes a file, whole or not at all; what is no regular file is written to as it is.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::symlink_metadata(file).is_ok_and(|known| !known.is_file()) {
        return std::fs::write(file, text);
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, file)).inspect_err(|_| {
        // It may not be there.
        let _ = std::fs::remove_file(&partial);
    })
}

/// Asks, and returns the answer as text for people or for programs, and as itself.
fn tell<T: DeserializeOwned>(
    to: &To,
    request: &Request,
    show: impl Fn(&T) -> String,
) -> anyhow::Result<(String, T)> {
    let answer = ask(to.socket.clone(), request)?;
    let json = to.json.then(|| serde_json::to_string_pretty(&answer)).transpose()?;
    let report: T = serde_json::from_value(answer).context("an answer of another version of primeway")?;
    Ok((json.map_or_else(|| show(&report), |json| json + "\n"), report))
}

/// Prints. Returns whether whoever reads wants more.
pub(super) fn print(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Sends one request and returns the result.
///
/// # Errors
/// When there is no primeway to ask, or it answers with an error.
pub fn ask(socket: Option<PathBuf>, request: &Request) -> anyhow::Result<serde_json::Value> {
    match answer(socket, request)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(text) => Err(anyhow!(text)),
    }
}

fn answer(socket: Option<PathBuf>, request: &Request) -> anyhow::Result<Answer> {
    let stream = send(socket, request)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("no answer")?;
    serde_json::from_str(&answer).context("not an answer of primeway")
}

/// Sends one request, and returns the connection that it is answered on.
///
/// # Errors
/// When there is no primeway to ask.
pub(super) fn send(socket: Option<PathBuf>, request: &Request) -> anyhow::Result<UnixStream> {
    let path = match socket {
        Some(path) => path,
        None => default_socket().ok_or_else(|| {
            anyhow!("no primeway here: PRIMEWAY_SOCKET and WAYLAND_DISPLAY are not set; use --socket")
        })?,
    };
    let mut stream = UnixStream::connect(&path).with_context(|| no_primeway(&path))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    Ok(stream)
}

/// What to say of a socket that cannot be connected to.
fn no_primeway(path: &Path) -> String {
    let shown = path.display();
    let owner = std::fs::metadata(path).map(|file| std::os::unix::fs::MetadataExt::uid(&file));
    match owner {
        Ok(uid) if uid != rustix::process::geteuid().as_raw() => {
            format!("{shown} is of a session of another user (uid {uid})")
        }
        Err(err) if err.kind() == std::io::ErrorKind::PermissionDenied => {
            format!("{shown} is in a folder of another user")
        }
        _ => format!("no primeway answers on {shown}"),
    }
}

fn default_socket() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PRIMEWAY_SOCKET") {
        return Some(path.into());
    }
    let display = std::env::var("WAYLAND_DISPLAY").ok()?;
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")?;
    Some(PathBuf::from(runtime).join(format!("primeway-{display}.sock")))
}
