//! Owns one run on the host's side: starting the kernel, passing output on, timeout, Ctrl-C, panic, the end of every
//! process, the exit status. Does not own what happens inside (see `guest`).

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::awake::Awake;
use crate::request::{self, ANSWER, Answer, REQUEST, RUN_VARIABLE, Request, Seatd};
use crate::{cache, layout, progress, qemu, sys};

/// Exit status for the lab's own failures: set-up of the guest, a kernel panic.
pub const LAB_FAILED: i32 = 125;
/// Exit status after a timeout, as timeout(1) has it.
pub const TIMED_OUT: i32 = 124;

/// How many unnamed runs are kept under target/lab.
const KEPT_RUNS: usize = 30;

/// How long the guest may take from its answer to its power-off.
const POWER_OFF: Duration = Duration::from_secs(10);
/// The same for the emulated guest.
const SLOW_POWER_OFF: Duration = Duration::from_secs(60);

/// How often the host looks for output and for the end.
const POLL: Duration = Duration::from_millis(5);

/// What to run, and in what guest.
#[derive(Clone, Debug)]
pub struct Options {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The sid root, or the host's own system.
    pub sid: Option<PathBuf>,
    /// The emulated guest, rather than one of the lab kernel. Without vkms, sid and terminal.
    pub qemu: Option<qemu::Image>,
    /// Ends the run when it takes longer.
    pub timeout: Option<Duration>,
    /// vkms SPEC texts.
    pub vkms: Vec<String>,
    /// The user that the command runs as.
    pub uid: u32,
    /// Memory of the guest in MiB; a file of this size, filled as it is used.
    pub memory: u32,
    /// Number of CPUs.
    pub cpus: usize,
    /// How seatd runs.
    pub seatd: Seatd,
    /// Name of the run's folder under target/lab; by default made from the time.
    pub name: Option<String>,
    /// Passes standard input and a terminal through.
    pub terminal: bool,
    /// More environment for the command.
    pub environment: Vec<(String, String)>,
    /// Writes the command's output to files only, not to this process's output as well.
    pub quiet: bool,
    /// Runs the kernel on one CPU of the host, and before everything else there, as far as that is permitted: for
    /// measurements.
    pub first: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            sid: None,
            qemu: None,
            timeout: Some(Duration::from_secs(600)),
            vkms: vec!["default".to_owned()],
            uid: 0,
            memory: 2048,
            cpus: std::thread::available_parallelism().map_or(1, usize::from).min(2),
            seatd: Seatd::default(),
            name: None,
            terminal: false,
            environment: Vec::new(),
            quiet: false,
            first: false,
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The command ended with this status.
    Exit(i32),
    /// The time was over.
    TimedOut,
    /// A signal told the lab to stop.
    Interrupted(i32),
    /// The kernel or the guest's set-up failed; the message was printed.
    Failed,
}

impl Ending {
    /// The exit status that the lab passes on.
    #[must_use]
    pub fn status(self) -> i32 {
        match self {
            Self::Exit(status) => status,
            Self::TimedOut => TIMED_OUT,
            Self::Interrupted(signal) => 128 + signal,
            Self::Failed => LAB_FAILED,
        }
    }
}

/// A finished run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The run folder: kernel.log, stdout, stderr and what the command left in `$PRIMEWAY_ARTEFACTS`.
    pub folder: PathBuf,
}

/// Boots `linux`, runs the command in it, and cleans up.
///
/// # Errors
/// When the run cannot be prepared. What goes wrong later is in the [`Outcome`], with a message on standard error.
pub fn run(linux: &Path, options: &Options) -> Result<Outcome> {
    let (folder, _lock) = run_folder(options.name.as_deref())?;
    fs::write(folder.join(REQUEST), serde_json::to_vec_pretty(&request(options, &folder)?)?)?;
    for name in ["stdout", "stderr"] {
        fs::write(request::stream(&folder, name), "")?;
    }
    sys::catch_termination();
    let terminal = options.terminal.then(TerminalState::save).flatten();
    let mut kernel = Kernel::start(linux, options, &folder)?;
    // Not while somebody thinks at a prompt, and not for the emulated guest, whose system calls are its own.
    let awake = (!options.terminal && options.qemu.is_none()).then(Awake::keep);
    let ending = supervise(&mut kernel, options, &folder);
    kernel.end();
    drop((awake, terminal));
    let _ = layout::remove_dir(&folder.join("uml"));
    for name in ["init", "initramfs"] {
        let _ = fs::remove_file(folder.join(name));
    }
    Ok(Outcome { ending: ending?, folder })
}

fn run_folder(name: Option<&str>) -> Result<(PathBuf, cache::Lock)> {
    let runs = layout::runs();
    layout::create_dir(&runs)?;
    let folder = match name {
        Some(name) => runs.join(name),
        None => {
            prune(&runs);
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            runs.join(format!("run-{}.{:03}-{}", now.as_secs(), now.subsec_millis(), std::process::id()))
        }
    };
    let file = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lock = cache::try_lock(&runs.join(format!(".{file}.lock")))?;
    let Some(lock) = lock else {
        bail!("another run uses {}; wait for its end, or choose another --name", folder.display())
    };
    layout::remove_dir(&folder)?;
    layout::create_dir(&folder)?;
    Ok((fs::canonicalize(folder)?, lock))
}

/// Takes the lock of every run folder, so that all can be removed.
///
/// # Errors
/// When one is in use.
pub fn lock_all() -> Result<Vec<cache::Lock>> {
    let mut locks = Vec::new();
    for path in cache::entries(&layout::runs(), ".lock") {
        let lock = cache::try_lock(&path)?;
        locks.push(lock.with_context(|| format!("a run is under way ({} is held)", path.display()))?);
    }
    Ok(locks)
}

/// Drops the oldest unnamed runs that nobody uses any more.
fn prune(runs: &Path) {
    let mut old = cache::entries(runs, "");
    old.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("run-")));
    for folder in old.into_iter().skip(KEPT_RUNS) {
        let Some(name) = folder.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let lock = runs.join(format!(".{name}.lock"));
        if let Ok(Some(_held)) = cache::try_lock(&lock) {
            let _ = layout::remove_dir(&folder);
            let _ = fs::remove_file(&lock);
        }
    }
}

fn request(options: &Options, folder: &Path) -> Result<Request> {
    let workspace = fs::canonicalize(layout::workspace()).unwrap_or_else(|_| layout::workspace());
    let directory = std::env::current_dir().context("the present folder is gone")?;
    let mut shared = vec![workspace.clone()];
    shared.extend(fs::canonicalize(layout::target()).ok().filter(|target| !target.starts_with(&workspace)));
    let mut environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            matches!(name.as_str(), "PATH" | "RUST_LOG" | "RUST_BACKTRACE" | "TERM" | "LANG" | "LC_ALL")
                || name.starts_with("PRIMEWAY_")
        })
        .filter(|(name, _)| name != RUN_VARIABLE)
        .collect();
    environment.extend([
        ("PRIMEWAY_LAB".to_owned(), "1".to_owned()),
        ("PRIMEWAY_ARTEFACTS".to_owned(), folder.to_string_lossy().into_owned()),
    ]);
    environment.extend(options.environment.iter().cloned());
    Ok(Request {
        root: options.sid.clone().unwrap_or_else(|| PathBuf::from("/")),
        shared: if options.sid.is_some() { shared } else { Vec::new() },
        run: folder.to_owned(),
        command: options.command.clone(),
        environment,
        directory,
        uid: options.uid,
        vkms: options.vkms.clone(),
        seatd: options.seatd,
        terminal: options.terminal,
    })
}

/// The running kernel. Its userspace processes are children of the one process that is the kernel.
struct Kernel {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Kernel {
    fn start(linux: &Path, options: &Options, folder: &Path) -> Result<Self> {
        let log = File::create(folder.join("kernel.log"))?;
        let mut command = match &options.qemu {
            Some(image) => {
                let run = quoted(RUN_VARIABLE, folder)?;
                let mut command = image.command(options, folder, &run)?;
                command.env_clear().env("PATH", "/usr/bin:/bin");
                command
            }
            None => Self::lab_kernel(linux, options, folder)?,
        };
        command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if options.terminal {
            sys::pass_terminal(&mut command);
        }
        if options.first {
            sys::go_first(&mut command);
        }
        let child = sys::die_with_parent(&mut command, libc::SIGKILL).spawn();
        let child = child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, ended: None })
    }

    fn lab_kernel(linux: &Path, options: &Options, folder: &Path) -> Result<Command> {
        // A copy, because a build under way (`cargo lab test` starts one) may replace the binary that runs now.
        let init = folder.join("init");
        fs::copy("/proc/self/exe", &init).context("cannot copy the lab's own binary")?;
        let mut command = Command::new(linux);
        command.arg(format!("mem={}M", options.memory)).arg(format!("ncpus={}", options.cpus));
        command.args(["seccomp=on", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]);
        command.args(["console=ttyS0", "con=null", "ssl=null", "ssl0=null,fd:1", "panic=-1"]);
        command.arg(if options.terminal { "ssl1=fd:3,fd:4" } else { "ssl1=null" });
        command.args(["vkms.create_default_dev=0", "uml_dir=uml"]);
        command.arg(quoted("init", &init)?).arg(quoted(RUN_VARIABLE, folder)?);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TMPDIR", memory_dir(options.memory)?);
        Ok(command)
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Kills what is left: the kernel, and then each process that was below it.
    fn end(&mut self) {
        let root = self.child.id().cast_signed();
        let below = descendants(root);
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for (pid, start) in below {
            if start_time(pid) == Some(start) {
                sys::signal_process(pid, libc::SIGKILL);
            }
        }
    }
}

/// Process ids with their start times (so that a reused id is not mistaken) of everything below `root`.
fn descendants(root: i32) -> Vec<(i32, u64)> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Some((parent, start)) = stat(pid) {
            processes.push((pid, parent, start));
        }
    }
    let mut found = vec![root];
    let mut below = Vec::new();
    while let Some(parent) = found.pop() {
        for (pid, _, start) in processes.iter().filter(|(_, of, _)| *of == parent) {
            below.push((*pid, *start));
            found.push(*pid);
        }
    }
    below
}

fn start_time(pid: i32) -> Option<u64> {
    stat(pid).map(|(_, start)| start)
}

/// Parent and start time from /proc/PID/stat (fields 4 and 22; the name in field 2 may hold anything).
fn stat(pid: i32) -> Option<(i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

/// `name="path"`: the kernel takes quotes around a value with spaces.
fn quoted(name: &str, path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.contains(['"', '\n']));
    let text = text.with_context(|| format!("{} cannot be passed to the kernel", path.display()))?;
    Ok(if text.contains(' ') { format!("{name}=\"{text}\"") } else { format!("{name}={text}") })
}

/// The kernel keeps the guest's memory in an unlinked file: on tmpfs if one has the space, else in the cache folder.
fn memory_dir(mebibytes: u32) -> Result<PathBuf> {
    let needed = u64::from(mebibytes) << 20;
    let fits = |dir: &Path| {
        let space = rustix::fs::statvfs(dir).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        space >= needed && !noexec(dir)
    };
    let shm = PathBuf::from("/dev/shm");
    if fits(&shm) {
        return Ok(shm);
    }
    let cached = layout::cache()?.join("memory");
    layout::create_dir(&cached)?;
    let from_environment = std::env::var_os("TMPDIR").map(PathBuf::from);
    let mut places = from_environment.into_iter().chain([PathBuf::from("/tmp"), cached]);
    let found = places.find(|dir| fits(dir));
    found.with_context(|| {
        format!("no folder with {mebibytes} MiB free for the guest's memory (/dev/shm, $TMPDIR, /tmp, the cache): free some, or pass --memory")
    })
}

fn noexec(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

fn supervise(kernel: &mut Kernel, options: &Options, folder: &Path) -> Result<Ending> {
    let started = Instant::now();
    let mut streams = [
        Tail::new(request::stream(folder, "stdout"), options.quiet, false),
        Tail::new(request::stream(folder, "stderr"), options.quiet, true),
    ];
    let mut answered: Option<Instant> = None;
    let power_off = if options.qemu.is_some() { SLOW_POWER_OFF } else { POWER_OFF };
    loop {
        let ended = kernel.ended()?;
        for stream in &mut streams {
            stream.pass_on();
        }
        if ended.is_some() {
            return Ok(conclude(folder));
        }
        if answered.is_none() && folder.join(ANSWER).exists() {
            answered = Some(Instant::now());
        }
        if answered.is_some_and(|since| since.elapsed() > power_off) {
            progress::say("the guest does not power off after its answer; it is killed");
            return Ok(conclude(folder));
        }
        if let Some(signal) = sys::caught_signal() {
            progress::say(&format!("stopped by signal {signal}; the guest is killed"));
            return Ok(Ending::Interrupted(signal));
        }
        if let Some(timeout) = options.timeout
            && started.elapsed() >= timeout
        {
            progress::say(&format!(
                "timeout after {} s; the guest is killed; its kernel log: {}",
                timeout.as_secs_f32(),
                folder.join("kernel.log").display()
            ));
            return Ok(Ending::TimedOut);
        }
        std::thread::sleep(POLL);
    }
}

/// The kernel ended by itself: with an answer all is well, else it panicked or could not boot.
fn conclude(folder: &Path) -> Ending {
    let answer = fs::read(folder.join(ANSWER)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let log = folder.join("kernel.log");
    match answer {
        Some(Answer::Exit(status)) => Ending::Exit(status),
        Some(Answer::Failed(reason)) => {
            progress::say(&format!("the guest could not be set up: {reason}; kernel log: {}", log.display()));
            Ending::Failed
        }
        None => {
            let text =
                fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let panic = text.lines().find(|line| line.contains("Kernel panic"));
            let reason = panic.map_or("the kernel ended without an answer".to_owned(), |line| {
                line.split_once("Kernel panic")
                    .map_or(line.to_owned(), |(_, rest)| format!("kernel panic{rest}"))
            });
            progress::say(&format!(
                "{reason}; the end of {}:\n{}",
                log.display(),
                progress::last_lines(&log, 15)
            ));
            Ending::Failed
        }
    }
}

/// Follows a growing file and copies what is new to this process's own output.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    position: u64,
    quiet: bool,
    to_stderr: bool,
}

impl Tail {
    fn new(path: PathBuf, quiet: bool, to_stderr: bool) -> Self {
        let file = File::open(&path).ok();
        Self { path, file, position: 0, quiet, to_stderr }
    }

    fn pass_on(&mut self) {
        let Some(file) = &mut self.file else { return };
        let len = fs::metadata(&self.path).map_or(0, |meta| meta.size());
        if self.quiet || len <= self.position || file.seek(SeekFrom::Start(self.position)).is_err() {
            return;
        }
        let mut buffer = Vec::new();
        let Ok(read) = file.take(len - self.position).read_to_end(&mut buffer) else { return };
        self.position += read as u64;
        let written = if self.to_stderr {
            std::io::stderr().write_all(&buffer)
        } else {
            std::io::stdout().write_all(&buffer).and_then(|()| std::io::stdout().flush())
        };
        // A reader that went away (`| head`) does not end the run; the file keeps everything.
        self.quiet = written.is_err();
    }
}

/// The caller's terminal settings, put back when dropped: the kernel's serial line makes the terminal raw.
struct TerminalState(rustix::termios::Termios);

impl TerminalState {
    fn save() -> Option<Self> {
        rustix::termios::tcgetattr(rustix::stdio::stdin()).ok().map(Self)
    }
}

impl Drop for TerminalState {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(
            rustix::stdio::stdin(),
            rustix::termios::OptionalActions::Drain,
            &self.0,
        );
    }
}
