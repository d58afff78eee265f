//! The system calls of a compositor during an interval, by strace, in a pass of its own: a traced compositor is slow.
//!
//! Owns the start of strace and the reading of its log.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::client::now;
use crate::session::end;

/// Left out: a library function elsewhere, which user-mode Linux has no page for.
const CLOCK: &str = "clock_gettime";

/// How often each call was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calls {
    /// From when to when, in nanoseconds of `CLOCK_MONOTONIC`.
    pub from: u64,
    /// The end.
    pub to: u64,
    /// Calls by name; ioctls by the name of their request.
    pub counts: BTreeMap<String, u64>,
}

impl Calls {
    /// All calls, `clock_gettime` aside.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().filter(|(name, _)| *name != CLOCK).map(|(_, count)| count).sum()
    }

    /// How often each was made for each of `number` things, the most frequent first.
    #[must_use]
    pub fn each(&self, number: u64) -> Vec<(String, f64)> {
        let share = |count: &u64| *count as f64 / number.max(1) as f64;
        let mut all: Vec<_> = self.counts.iter().map(|(name, count)| (name.clone(), share(count))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }

    /// The ioctls on DRM devices.
    #[must_use]
    pub fn drm(&self) -> u64 {
        self.counts.iter().filter(|(name, _)| name.starts_with("DRM_IOCTL")).map(|(_, count)| count).sum()
    }
}

/// Traces all threads of a process for `interval`; what strace writes goes to `log`.
///
/// # Errors
///
/// When strace is not there, or cannot trace it.
pub fn trace(pid: i32, interval: Duration, log: &Path) -> Result<Calls> {
    fs::remove_file(log).ok();
    let mut child = Command::new("strace")
        .args(["-f", "-q", "-ttt", "-s0", "-a1", "-e", "signal=none", "-o"])
        .arg(log)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start strace")?;
    let attached = wait_for_text(log);
    let from = now();
    if attached.is_ok() {
        std::thread::sleep(interval);
    }
    let to = now();
    end(&mut child, Duration::from_secs(3));
    attached?;
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let (from_real, to_real) = (realtime(from), realtime(to));
    Ok(Calls { from, to, counts: count(&text, from_real, to_real) })
}

fn wait_for_text(log: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::metadata(log).map_or(0, |data| data.len()) == 0 {
        ensure!(Instant::now() < deadline, "strace saw no call in 5 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Seconds of `CLOCK_REALTIME`, which strace's log has, at a time of `CLOCK_MONOTONIC`.
fn realtime(monotonic: u64) -> f64 {
    let real = clock_gettime(ClockId::Realtime);
    let real = real.tv_sec as f64 + real.tv_nsec as f64 / 1e9;
    real - (now() as f64 - monotonic as f64) / 1e9
}

/// Counts the lines between two times: `PID SECONDS call(...`. A call that was interrupted by that of another thread has a
/// second line, `PID SECONDS <... call resumed>`.
fn count(text: &str, from: f64, to: f64) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        // Short process ids are padded.
        let Some((_, rest)) = line.split_once(' ') else { continue };
        let Some((time, call)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(time) = time.parse::<f64>() else { continue };
        if time < from || time >= to {
            continue;
        }
        let Some((name, arguments)) = call.trim_start().split_once('(') else { continue };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let name = if name == "ioctl" { request(arguments) } else { name.to_owned() };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// `9, DRM_IOCTL_MODE_ATOMIC, {...` is that request; an unknown one stays `ioctl`.
fn request(arguments: &str) -> String {
    let request = arguments.split(',').nth(1).map_or("", str::trim);
    let name = request.split([' ', ')', '<']).next().unwrap_or_default();
    if name.starts_with(|c: char| c.is_ascii_uppercase()) { name.to_owned() } else { "ioctl".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_name_and_time() {
        let log = "12 99.5 read(3, \"\"..., 8) = 8\n\
            12 100.0 epoll_wait(4, [{events=EPOLLIN}], 32, -1) = 1\n\
            12 100.1 ioctl(9, DRM_IOCTL_MODE_ATOMIC, 0x7ffd) = 0\n\
            13 100.2 futex(0x1, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>\n\
            12 100.3 clock_gettime(CLOCK_MONOTONIC, {tv_sec=1, tv_nsec=2}) = 0\n\
            13 100.4 <... futex resumed>) = 0\n\
            12 100.5 ioctl(9, _IOC(0, 0x1, 0x2, 0x3), 0) = 0\n\
            12 101.0 read(3, \"\"..., 8) = 8\n";
        let calls = Calls { from: 0, to: 0, counts: count(log, 100.0, 101.0) };
        assert_eq!(calls.total(), 4);
        assert_eq!(calls.drm(), 1);
        assert_eq!(calls.counts.get("futex"), Some(&1));
        assert_eq!(calls.counts.get("DRM_IOCTL_MODE_ATOMIC"), Some(&1));
        assert_eq!(calls.counts.get(CLOCK), Some(&1));
    }

    #[test]
    fn short_process_ids_are_padded() {
        assert_eq!(count("7     100.1 read(3) = 0\n", 100.0, 101.0).get("read"), Some(&1));
    }
}
