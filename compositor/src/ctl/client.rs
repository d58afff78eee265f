//! `primeway ctl`: one question to a running primeway.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};

use super::{Answer, CaptureSource, Request};
use crate::cli::{Ctl, CtlRequest};

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
    let text = match request {
        Request::Stats | Request::Ledger => serde_json::to_string_pretty(&answer)?,
        Request::Capture { file, .. } => file.display().to_string(),
    };
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever reads has seen enough.
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        result => Ok(result.map(|()| 0)?),
    }
}

/// Sends one request and returns the result.
///
/// # Errors
/// When there is no primeway to ask, or it answers with an error.
pub fn ask(socket: Option<PathBuf>, request: &Request) -> anyhow::Result<serde_json::Value> {
    let path = match socket {
        Some(path) => path,
        None => default_socket().ok_or_else(|| {
            anyhow!("no primeway here: PRIMEWAY_SOCKET and WAYLAND_DISPLAY are not set; use --socket")
        })?,
    };
    let mut stream =
        UnixStream::connect(&path).with_context(|| format!("no primeway answers on {}", path.display()))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("no answer")?;
    match serde_json::from_str(&answer).context("not an answer of primeway")? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(text) => Err(anyhow!(text)),
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
