//! Virtual terminals: which one the kernel shows, and switching to another, by the ioctl that `chvt` uses.
//!
//! Owns the switch. It believes the kernel's word about which terminal is active.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// `VT_ACTIVATE` of linux/vt.h.
const VT_ACTIVATE: libc::Ioctl = 0x5606;
/// How long a switch may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A terminal that nobody uses.
pub const ELSEWHERE: u32 = 7;

/// The number of the terminal that the kernel shows.
///
/// # Errors
///
/// When the kernel has no virtual terminals.
pub fn active_terminal() -> Result<u32> {
    let name = std::fs::read_to_string("/sys/class/tty/tty0/active").context("no virtual terminals")?;
    name.trim().trim_start_matches("tty").parse().with_context(|| format!("terminal {name:?}"))
}

/// Asks for a terminal and waits until it is the active one.
///
/// # Errors
///
/// When it does not become active in ten seconds.
pub fn switch_to(terminal: u32) -> Result<()> {
    let console =
        File::options().read(true).write(true).open("/dev/tty0").context("cannot open /dev/tty0")?;
    #[allow(unsafe_code)]
    // SAFETY: VT_ACTIVATE takes a number, no pointer, and the descriptor is open.
    let result = unsafe { libc::ioctl(console.as_raw_fd(), VT_ACTIVATE, libc::c_ulong::from(terminal)) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("VT_ACTIVATE");
    }
    let deadline = Instant::now() + PATIENCE;
    while active_terminal()? != terminal {
        ensure!(Instant::now() < deadline, "terminal {terminal} did not become active");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
