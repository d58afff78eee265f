//! Owns keeping the host's CPUs awake while a lab kernel runs. Does not own the kernel (see `run`).
//!
//! Each system call of a lab process is a hand-over between two threads of the host: the process and the kernel that
//! serves it. On an idle host the scheduler puts the two on two CPUs, each of which sleeps while the other works, and
//! each hand-over then waits until one has woken up: in a virtual machine 15 µs each way, so that a system call costs
//! 34 to 70 µs instead of 4. A CPU that has anything at all to do does not sleep; so each gets a thread that spins in
//! the scheduling class that runs only where nothing else wants to.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::sys;

/// CPUs that stay awake until it is dropped.
#[derive(Debug)]
pub struct Awake {
    over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Awake {
    /// Keeps every CPU of this process awake. Does nothing where CPU time is rationed: spinning would use it up.
    #[must_use]
    pub fn keep() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let cpus = if rationed() { Vec::new() } else { sys::usable_cpus() };
        let spin = |cpu| {
            let over = Arc::clone(&over);
            // Without the thread all works as well, only slower.
            thread::Builder::new().name(format!("awake-{cpu}")).spawn(move || spin(cpu, &over)).ok()
        };
        let threads = cpus.into_iter().filter_map(spin).collect();
        Self { over, threads }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn spin(cpu: usize, over: &AtomicBool) {
    // A spinning thread of the usual class would take time from the lab itself.
    if sys::run_when_idle(cpu).is_err() {
        return;
    }
    while !over.load(Ordering::Relaxed) {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
}

/// Whether a control group of this process, or one above it, limits the CPU time.
fn rationed() -> bool {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().any(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return false };
        // Version 2 has one hierarchy without a name, version 1 a folder for each set of controllers.
        let limit: fn(&Path) -> bool = match controllers {
            "" => |folder| number(&folder.join("cpu.max")),
            _ if controllers.split(',').any(|name| name == "cpu") => {
                |folder| number(&folder.join("cpu.cfs_quota_us"))
            }
            _ => return false,
        };
        let top = Path::new("/sys/fs/cgroup").join(controllers);
        let own = top.join(group.trim_start_matches('/'));
        own.ancestors().take_while(|folder| folder.starts_with(&top)).any(limit)
    })
}

/// Whether the file begins with a positive number; no limit is `max` or -1.
fn number(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().next().is_some_and(|word| word.parse::<u64>().is_ok())
}
