//! Owns running long set-up steps: output to a log file, a visible sign of life, a clear failure.
//! Does not own which steps there are.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::sys;

/// How often a line is printed when standard error is no terminal.
const QUIET_INTERVAL: Duration = Duration::from_secs(15);

/// Prints one line of the lab's own progress to standard error.
pub fn say(message: &str) {
    eprintln!("lab: {message}");
}

/// Runs `command` to its end with its output in `log`; shows `what`, the elapsed time and the last line.
///
/// # Errors
/// When it cannot start, or ends with a failure: the error quotes the end of the log.
pub fn run(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot open {}", log.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = sys::die_with_parent(command, libc::SIGTERM)
        .spawn()
        .with_context(|| format!("{what}: cannot start {program}"))?;
    let terminal = std::io::stderr().is_terminal();
    let started = Instant::now();
    let mut shown = started;
    if !terminal {
        say(what);
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Some(signal) = sys::caught_signal() {
            sys::signal_process(child.id().cast_signed(), libc::SIGTERM);
            child.wait()?;
            bail!("{what}: stopped by signal {signal}");
        }
        if terminal {
            let line: String = last_lines(log, 1).chars().filter(|c| !c.is_control()).take(60).collect();
            eprint!("\r\x1b[Klab: {what} {} s  {line}", started.elapsed().as_secs());
            let _ = std::io::stderr().flush();
        } else if shown.elapsed() >= QUIET_INTERVAL {
            shown = Instant::now();
            say(&format!("{what} {} s: {}", started.elapsed().as_secs(), last_lines(log, 1)));
        }
        std::thread::sleep(Duration::from_millis(if started.elapsed().as_secs() < 1 { 20 } else { 250 }));
    };
    if terminal {
        eprint!("\r\x1b[K");
    }
    if !status.success() {
        bail!("{what} failed ({program}: {status}); the end of {}:\n{}", log.display(), last_lines(log, 20));
    }
    say(&format!("{what}: done in {:.0} s", started.elapsed().as_secs_f32()));
    Ok(())
}

/// The last `count` non-empty lines of a file, from its last 8 KiB.
#[must_use]
pub fn last_lines(path: &Path, count: usize) -> String {
    let Ok(file) = File::open(path) else { return String::new() };
    let len = file.metadata().map_or(0, |meta| meta.len());
    let start = len.saturating_sub(8192);
    let mut bytes = vec![0; usize::try_from(len - start).unwrap_or(0)];
    if file.read_exact_at(&mut bytes, start).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
