//! Owns the few system calls that need `unsafe`: signal handlers, parent-death signals, ioctls.
//! Owns no policy.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

static CAUGHT: AtomicI32 = AtomicI32::new(0);

extern "C" fn remember(signal: libc::c_int) {
    CAUGHT.store(signal, Ordering::SeqCst);
}

/// Makes SIGINT, SIGTERM and SIGHUP only set the value that [`caught_signal`] reads.
pub fn catch_termination() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = remember;
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// The last termination signal that arrived since [`catch_termination`], if any.
pub fn caught_signal() -> Option<i32> {
    match CAUGHT.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// The child gets `signal` when the thread that spawns it ends, however that happens.
pub fn die_with_parent(command: &mut Command, signal: i32) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have gone before the call above.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        })
    }
}

/// The child leads a session of its own whose controlling terminal is its standard input.
pub fn own_terminal(command: &mut Command) -> &mut Command {
    // SAFETY: setsid and ioctl are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

/// The child runs on one CPU, in a real-time class before everything else there, as far as that is permitted.
///
/// Each system call of a lab process is a hand-over between two threads of the host. On one CPU it takes 4 µs however busy
/// the host is. A real-time thread that may run elsewhere is woken up on another CPU each time (50 µs), and one of the usual
/// class waits until what runs has had its turn, some milliseconds on a busy host, whatever its priority (`nice`).
pub fn go_first(command: &mut Command) -> &mut Command {
    let cpus = usable_cpus().last().map(|cpu| only(*cpu));
    // SAFETY: two async-signal-safe system calls on values of the closure; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            // What is not permitted leaves it as it was: slower, but running.
            let _ = cpus.map(|cpus| sched_setaffinity(None, &cpus));
            let _ = schedule(libc::SCHED_RR, 1);
            Ok(())
        })
    }
}

/// The child leads a process group of its own.
pub fn own_group(command: &mut Command) -> &mut Command {
    command.process_group(0)
}

/// The child runs as `id` (user and group) without supplementary groups.
pub fn as_user(command: &mut Command, id: u32) -> &mut Command {
    // SAFETY: the three system calls are async-signal-safe and touch no memory of ours.
    unsafe {
        command.pre_exec(move || {
            if libc::setgroups(0, std::ptr::null()) < 0 || libc::setgid(id) < 0 || libc::setuid(id) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

/// The child has the caller's standard input and output as descriptors 3 and 4 as well.
pub fn pass_terminal(command: &mut Command) -> &mut Command {
    // Copies far from 3 and 4, made before the child's own 0 and 1 are replaced.
    // SAFETY: fcntl on descriptors that the process has for its whole life.
    let (input, output) = unsafe { (libc::fcntl(0, libc::F_DUPFD, 100), libc::fcntl(1, libc::F_DUPFD, 100)) };
    // SAFETY: dup2 and close are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if libc::dup2(input, 3) < 0 || libc::dup2(output, 4) < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::close(input);
            libc::close(output);
            Ok(())
        })
    }
}

/// Sends `signal` to every process of the system that may be signalled, except the caller.
pub fn signal_everyone(signal: i32) {
    // SAFETY: kill has no memory effects.
    unsafe { libc::kill(-1, signal) };
}

/// Sends `signal` to one process; an absent process is fine.
pub fn signal_process(pid: i32, signal: i32) {
    if pid > 1 {
        // SAFETY: kill has no memory effects; 0, 1 and negative ids were excluded.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Sends `signal` to a process group; an absent group is fine.
pub fn signal_group(group: i32, signal: i32) {
    if group > 1 {
        // SAFETY: kill has no memory effects; the special values 0 and 1 were excluded.
        unsafe { libc::kill(-group, signal) };
    }
}

/// A zombie collected by [`reap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// The process that ended.
    pub pid: i32,
    /// Its exit status as a shell reports it: 128 + signal for a death by signal.
    pub status: i32,
}

/// Waits for any child, for process 1.
///
/// # Errors
/// ECHILD when there is none left.
pub fn reap() -> io::Result<Reaped> {
    loop {
        let mut status = 0;
        // SAFETY: status is a valid place for the result.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid > 0 {
            let status = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            return Ok(Reaped { pid, status });
        }
        let err = io::Error::last_os_error();
        if err.kind() != io::ErrorKind::Interrupted {
            return Err(err);
        }
    }
}

/// Starts the write-back of everything written to `file` and waits for it, without asking the disk to flush.
///
/// On hostfs this hands the data to the host at once, where fsync would also wait for the host's disk.
pub fn write_back(file: &File) -> io::Result<()> {
    let flags =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open for the time of the call.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Brings the loopback interface up.
///
/// # Errors
/// The system's error of the socket or of the ioctl.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: ifreq is plain data, and all-zero is a valid value; the name is copied with its terminator.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
            *place = *byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let result = match libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        libc::close(socket);
        result
    }
}

/// struct drm_version of drm.h.
#[repr(C)]
struct DrmVersion {
    major: libc::c_int,
    minor: libc::c_int,
    patchlevel: libc::c_int,
    name_len: libc::size_t,
    name: *mut libc::c_char,
    date_len: libc::size_t,
    date: *mut libc::c_char,
    desc_len: libc::size_t,
    desc: *mut libc::c_char,
}

/// DRM_IOWR(0x00, struct drm_version): direction 3, size 64, type 'd', number 0.
const DRM_IOCTL_VERSION: libc::c_ulong =
    (3 << 30) | ((size_of::<DrmVersion>() as libc::c_ulong) << 16) | ((b'd' as libc::c_ulong) << 8);

/// The name of the DRM driver behind a device node, by DRM_IOCTL_VERSION.
///
/// # Errors
/// The system's error of open or of the ioctl.
pub fn drm_driver(node: &Path) -> io::Result<String> {
    let file = File::options().read(true).write(true).open(node)?;
    let mut name = [0u8; 64];
    let mut version = DrmVersion {
        major: 0,
        minor: 0,
        patchlevel: 0,
        name_len: name.len(),
        name: name.as_mut_ptr().cast(),
        date_len: 0,
        date: std::ptr::null_mut(),
        desc_len: 0,
        desc: std::ptr::null_mut(),
    };
    // SAFETY: the struct has the layout of drm.h, `name` holds name_len bytes, the other lengths are zero.
    if unsafe { libc::ioctl(file.as_raw_fd(), DRM_IOCTL_VERSION, &raw mut version) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let len = version.name_len.min(name.len());
    Ok(String::from_utf8_lossy(&name[..len]).into_owned())
}

/// The CPUs that the calling thread may run on.
#[must_use]
pub fn usable_cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// Puts the calling thread into a scheduling class.
fn schedule(class: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: priority };
    // SAFETY: the call reads the structure and nothing else of ours.
    let done = unsafe { libc::sched_setscheduler(0, class, &raw const priority) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Binds the calling thread to `cpu` and lets it run only where nothing else wants to.
///
/// # Errors
/// The kernel's.
pub fn run_when_idle(cpu: usize) -> io::Result<()> {
    sched_setaffinity(None, &only(cpu))?;
    schedule(libc::SCHED_IDLE, 0)
}
