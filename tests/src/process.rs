//! Another process from outside: its signals, its CPU time, its files, and the pixels of its buffers.
//!
//! Owns the reading of `/proc/PID` and the change of a client's pixels without its cooperation, through
//! `pidfd_getfd` (needs ptrace rights: root). It knows neither Wayland nor the display.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};

use crate::buffer::{Mapping, sync_for_cpu};
use crate::drm_node::{DrmNode, card_nodes};

/// A process that is watched, held by a pidfd so that the number cannot come to mean another.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

/// A memory object of the process whose pixels can be changed.
#[derive(Debug)]
pub struct Pixels {
    fd: OwnedFd,
    /// `st_dev` and `st_ino`: the same for one object that is seen through two descriptors.
    pub identity: (u64, u64),
    /// Bytes.
    pub size: u64,
    /// Whether it is a dma-buf (otherwise a memfd).
    pub dmabuf: bool,
    mapping: Mapping,
}

/// What kinds of memory to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dmabuf,
    Memfd,
}

impl Process {
    /// Opens a process by number.
    ///
    /// # Errors
    ///
    /// When it does not exist.
    pub fn open(pid: i32) -> Result<Process> {
        let Some(number) = Pid::from_raw(pid) else { bail!("{pid} is no process id") };
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())
            .with_context(|| format!("no process {pid}"))?;
        Ok(Process { pid, pidfd })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its name, at most 15 characters.
    #[must_use]
    pub fn name(&self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default().trim().to_owned()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::pidfd_send_signal(&self.pidfd, signal)
            .with_context(|| format!("cannot signal process {}", self.pid))
    }

    /// User and system time it has used, in seconds.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.pid);
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("{path} has another form"))?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Its memory that is in use now, in KiB.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn resident_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let figure = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
        figure.with_context(|| format!("no VmRSS in {path}"))
    }

    /// How many file descriptors it has open.
    ///
    /// # Errors
    ///
    /// When it has ended or belongs to somebody else.
    pub fn open_files(&self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.pid);
        Ok(fs::read_dir(&path).with_context(|| format!("cannot list {path}"))?.count())
    }

    /// Maps what the process may have given to the compositor: its dma-bufs, or its writable memfds when it
    /// has no dma-buf.
    ///
    /// # Errors
    ///
    /// When its descriptors cannot be listed or duplicated.
    pub fn pixels(&self) -> Result<Vec<Pixels>> {
        let dmabufs = self.memory(Kind::Dmabuf)?;
        if dmabufs.is_empty() { self.memory(Kind::Memfd) } else { Ok(dmabufs) }
    }

    fn memory(&self, kind: Kind) -> Result<Vec<Pixels>> {
        let folder = format!("/proc/{}/fd", self.pid);
        let mut found: Vec<Pixels> = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))? {
            let Ok(entry) = entry else { continue };
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let wanted = match kind {
                Kind::Dmabuf => is_dmabuf(&target),
                Kind::Memfd => target.to_string_lossy().starts_with("/memfd:"),
            };
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if !wanted {
                continue;
            }
            let fd = rustix::process::pidfd_getfd(&self.pidfd, number, PidfdGetfdFlags::empty())
                .with_context(|| format!("cannot take descriptor {number} of process {}", self.pid))?;
            let stat = rustix::fs::fstat(&fd).context("fstat")?;
            // Memfds and dma-bufs are files of two file systems, which number theirs each on its own.
            let identity = (stat.st_dev, stat.st_ino);
            if found.iter().any(|pixels| pixels.identity == identity) {
                continue;
            }
            let size = stat.st_size as u64;
            let mapping = match kind {
                Kind::Dmabuf => map_dmabuf(fd.as_fd(), size)
                    .with_context(|| format!("cannot map dma-buf {number} of process {}", self.pid))?,
                // A keymap's memfd is sealed against writing, and cannot be a window's pixels.
                Kind::Memfd => match Mapping::shared(fd.as_fd(), size) {
                    Ok(mapping) => mapping,
                    Err(_) => continue,
                },
            };
            found.push(Pixels { fd, identity, size, dmabuf: kind == Kind::Dmabuf, mapping });
        }
        Ok(found)
    }
}

impl Pixels {
    /// Whether the memory belongs to a DRM device itself, so that its framebuffers do not count as imported.
    #[must_use]
    pub fn is_native_to(&self, card: &DrmNode) -> bool {
        self.dmabuf && card.map_own_dmabuf(self.fd.as_fd(), self.size).is_ok()
    }

    /// Inverts every byte. Done twice, the memory is as before.
    ///
    /// # Errors
    ///
    /// When `DMA_BUF_IOCTL_SYNC` fails.
    pub fn invert(&mut self) -> Result<()> {
        if self.dmabuf {
            sync_for_cpu(self.fd.as_fd(), true).context("DMA_BUF_IOCTL_SYNC start")?;
        }
        for byte in self.mapping.bytes_mut() {
            *byte = !*byte;
        }
        if self.dmabuf {
            sync_for_cpu(self.fd.as_fd(), false).context("DMA_BUF_IOCTL_SYNC end")?;
        }
        Ok(())
    }
}

/// Maps a dma-buf for writing. Many clients export read-only descriptors (no `DRM_RDWR`); then the device that
/// exported it is asked.
fn map_dmabuf(fd: BorrowedFd<'_>, size: u64) -> Result<Mapping> {
    let refused = match Mapping::shared(fd, size) {
        Ok(mapping) => return Ok(mapping),
        Err(err) => err,
    };
    let mut cards = card_nodes()?.into_iter().filter_map(|path| DrmNode::open(&path).ok());
    cards
        .find_map(|card| card.map_own_dmabuf(fd, size).ok())
        .ok_or(refused)
        .context("read-only, and no DRM device here exported it")
}

/// `/proc/PID/fd` shows a dma-buf as `/dmabuf:` with an optional name.
fn is_dmabuf(target: &Path) -> bool {
    target.to_string_lossy().starts_with("/dmabuf:")
}

/// Fields 14 and 15 (utime, stime) of `/proc/PID/stat`; the name in field 2 may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{Allocator, ClientBuffer};
    use crate::format::Format;

    #[test]
    fn cpu_time_survives_a_hostile_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 11 22 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_ticks(stat), Some(33));
    }

    #[test]
    fn own_memfd_is_found_and_changed() {
        let buffer = ClientBuffer::allocate(Allocator::Memfd, Format::named("XR24").unwrap(), 8, 8).unwrap();
        let stat = rustix::fs::fstat(&buffer).unwrap();
        let identity = (stat.st_dev, stat.st_ino);
        let process = Process::open(std::process::id() as i32).unwrap();
        let mut all = process.memory(Kind::Memfd).unwrap();
        let pixels = all.iter_mut().find(|pixels| pixels.identity == identity).unwrap();
        let mut bytes = [0u8; 2];
        pixels.invert().unwrap();
        rustix::io::pread(&buffer, &mut bytes, 0).unwrap();
        assert_eq!(bytes, [0xff, 0xff]);
        pixels.invert().unwrap();
        rustix::io::pread(&buffer, &mut bytes, 0).unwrap();
        assert_eq!(bytes, [0, 0]);
    }

    #[test]
    fn own_cpu_time_is_read() {
        let process = Process::open(std::process::id() as i32).unwrap();
        assert!(process.cpu_seconds().unwrap() >= 0.0);
        assert!(process.open_files().unwrap() > 2);
    }
}
