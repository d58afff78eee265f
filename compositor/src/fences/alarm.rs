//! An end to system calls that wait for fences and take no time limit.
//!
//! `DMA_BUF_IOCTL_SYNC` waits for a buffer's fences for ever, and a poll before it proves nothing to a client that attaches
//! one in between. The wait can be interrupted (dma-buf.c), so a timer of the calling thread sends it signals as long as
//! the call lasts. The signal is SIGURG, which is ignored by default and so harms nobody who gets it late.
//!
//! Owns that timer, one for each thread that asks, and the signal's handler, which does nothing. A program that handles
//! SIGURG already keeps its handler; then there is no limit.
#![allow(unsafe_code)]

use std::cell::OnceCell;
use std::sync::OnceLock;
use std::time::Duration;

/// How long a call may wait. It is reached by clients alone that attach a fence just then, and each of their buffers does
/// it once.
const LIMIT: Duration = Duration::from_millis(2);
const SIGNAL: libc::c_int = libc::SIGURG;

thread_local! {
    static ALARM: OnceCell<Option<Alarm>> = const { OnceCell::new() };
}

/// Calls `f`; a system call in it that still waits after some milliseconds, and can be interrupted, fails with EINTR. Not to be
/// called within itself.
pub fn bounded<T>(f: impl FnOnce() -> T) -> T {
    ALARM.with(|alarm| {
        let alarm = alarm.get_or_init(Alarm::new).as_ref();
        let _ringing = alarm.map(Ringing::start);
        f()
    })
}

/// A timer that signals the thread that made it.
#[derive(Debug)]
struct Alarm(libc::timer_t);

impl Alarm {
    fn new() -> Option<Self> {
        if !handle_signal() {
            return None;
        }
        // SAFETY: sigevent is integers, a union of them and a pointer that SIGEV_THREAD_ID does not use: zeroes are a value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGNAL;
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: timer_create reads one sigevent and writes one timer_t, which these are.
        let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if made != 0 {
            let err = std::io::Error::last_os_error();
            tracing::warn!(%err, "no limit for waits in the kernel");
            return None;
        }
        Some(Self(timer))
    }

    /// Rings every `interval`, or no longer.
    fn set(&self, interval: Duration) {
        let interval =
            libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(interval.subsec_nanos() as i32) };
        // Again and again: the first signal may come before the call has begun to wait.
        let setting = libc::itimerspec { it_interval: interval, it_value: interval };
        // SAFETY: the timer is this value's, and timer_settime reads one itimerspec. It may not ask for the old setting.
        if unsafe { libc::timer_settime(self.0, 0, &raw const setting, std::ptr::null_mut()) } != 0 {
            let err = std::io::Error::last_os_error();
            tracing::warn!(%err, "timer not set");
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's and is not used again.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Stops the alarm when dropped.
struct Ringing<'a>(&'a Alarm);

impl<'a> Ringing<'a> {
    fn start(alarm: &'a Alarm) -> Self {
        alarm.set(LIMIT);
        Self(alarm)
    }
}

impl Drop for Ringing<'_> {
    fn drop(&mut self) {
        self.0.set(Duration::ZERO);
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Sees to it, once, that the signal interrupts calls; says whether it does.
fn handle_signal() -> bool {
    static HANDLED: OnceLock<bool> = OnceLock::new();
    *HANDLED.get_or_init(|| {
        // SAFETY: sigaction is integers and a pointer that may be null: zeroes are a value (SIG_DFL, no flags).
        let (mut ours, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        // SAFETY: reads the present action into `before`, which is one sigaction.
        let read = unsafe { libc::sigaction(SIGNAL, std::ptr::null(), &raw mut before) };
        if read != 0 || (before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != libc::SIG_IGN) {
            tracing::warn!("SIGURG is in use: no limit for waits in the kernel");
            return false;
        }
        // No SA_RESTART, so that calls fail with EINTR.
        ours.sa_sigaction = nothing as *const () as libc::sighandler_t;
        // SAFETY: `ours` is a whole sigaction with an empty mask; its handler touches nothing.
        unsafe { libc::sigaction(SIGNAL, &raw const ours, std::ptr::null_mut()) == 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::time::Instant;

    #[test]
    fn a_call_that_waits_for_ever_is_interrupted_and_others_are_not() {
        let (silent, _writer) = rustix::pipe::pipe().unwrap();
        let wait = || poll(&mut [PollFd::new(&silent, PollFlags::IN)], None);
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(bounded(wait), Err(rustix::io::Errno::INTR));
            assert!(start.elapsed() >= LIMIT, "{:?}", start.elapsed());
        }
        // Nothing rings any more.
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        assert_eq!(poll(&mut [PollFd::new(&silent, PollFlags::IN)], Some(&limit)), Ok(0));
        assert_eq!(bounded(|| 7), 7);
    }

    #[test]
    fn each_thread_has_an_alarm_of_its_own() {
        let interrupted = || {
            let (silent, _writer) = rustix::pipe::pipe().unwrap();
            bounded(|| poll(&mut [PollFd::new(&silent, PollFlags::IN)], None)).is_err()
        };
        let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(interrupted)).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    }
}
