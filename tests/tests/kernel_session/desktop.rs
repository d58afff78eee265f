//! A primeway started the way a case wants it: as which user, with which arguments and environment.
//!
//! Owns its process, the clients' view of its sockets, and what the kernel counts for it. `session` of the library
//! starts the plain one as root; here a start may also be refused, and an end is looked at.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use primeway_tests::ctl::{Ctl, Resources, Stats, Surface};
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::drm_node::card_nodes;
use primeway_tests::process::Process;
use primeway_tests::screen::Screen;
use primeway_tests::session::{RunningClient, artefacts, sibling_program};
use rustix::process::Signal;

/// The ordinary user of the lab.
pub const USER: u32 = 1000;
/// How long a start, an end or a first frame may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What is started, before it is.
#[derive(Debug)]
pub struct Launch {
    name: String,
    uid: u32,
    command: Command,
}

/// How a start ended that did not come to a running compositor.
#[derive(Debug)]
pub struct Refused {
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its standard error.
    pub stderr: String,
}

impl Launch {
    /// Primeway on its own socket, by default with KMS as this user. `name` names the socket and the log.
    ///
    /// # Errors
    ///
    /// When primeway is not built.
    pub fn new(name: &str) -> Result<Launch> {
        let mut command = Command::new(sibling_program("primeway")?);
        command.env_remove("WAYLAND_DISPLAY").stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Launch { name: name.to_owned(), uid: 0, command })
    }

    /// Runs it as another user, with that user's runtime folder and no groups.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Launch {
        self.uid = uid;
        self.command.uid(uid).gid(uid).env("XDG_RUNTIME_DIR", runtime_folder(uid));
        self.command.env("HOME", format!("/run/home/{uid}"));
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Launch {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Launch {
        self.command.env(name, value);
        self
    }

    /// Takes a variable out of the environment.
    #[must_use]
    pub fn without(mut self, name: &str) -> Launch {
        self.command.env_remove(name);
        self
    }

    fn spawn(&mut self) -> Result<(Child, PathBuf)> {
        let log = artefacts().join(format!("{}.log", self.name));
        self.command.stderr(File::create(&log).with_context(|| format!("cannot create {}", log.display()))?);
        Ok((self.command.spawn().context("cannot start primeway")?, log))
    }

    /// Starts it and waits until its control socket listens.
    ///
    /// # Errors
    ///
    /// When it does not get ready; the message has the end of its log.
    pub fn start(mut self) -> Result<Desktop> {
        let display = format!("wayland-{}", self.name);
        self.command.args(["--socket", &display]);
        if self.uid != 0 {
            // Under these names root's programs find what is in the user's runtime folder.
            for socket in sockets(&display) {
                let link = runtime_folder(0).join(&socket);
                std::fs::remove_file(&link).ok();
                symlink(runtime_folder(self.uid).join(socket), &link).context("cannot link a socket")?;
            }
        }
        let (child, log) = self.spawn()?;
        let ctl = Ctl::of_display(&display)?;
        let socket = runtime_folder(self.uid).join(&sockets(&display)[1]);
        let mut desktop = Desktop { child, display, ctl, log, uid: self.uid };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            desktop.check_alive()?;
            ensure!(Instant::now() < deadline, "primeway did not get ready:\n{}", desktop.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(desktop)
    }

    /// Starts it and waits for its end.
    ///
    /// # Errors
    ///
    /// When it still runs after [`PATIENCE`]; it is killed then.
    pub fn refused(mut self) -> Result<Refused> {
        let (mut child, log) = self.spawn()?;
        let status = wait_end(&mut child, PATIENCE);
        let stderr = std::fs::read_to_string(log).context("cannot read the log")?;
        Ok(Refused { status: status.with_context(|| stderr.clone())?, stderr })
    }
}

/// `$XDG_RUNTIME_DIR` of a user of the lab.
#[must_use]
pub fn runtime_folder(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}"))
}

/// The names of the sockets of a display in its runtime folder.
#[must_use]
pub fn sockets(display: &str) -> [String; 2] {
    [display.to_owned(), format!("primeway-{display}.sock")]
}

fn wait_end(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for primeway")? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill().ok();
            child.wait().ok();
            bail!("primeway still ran after {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running primeway.
#[derive(Debug)]
pub struct Desktop {
    child: Child,
    /// Its `WAYLAND_DISPLAY`, for programs of root and of its own user.
    pub display: String,
    /// Its control socket.
    pub ctl: Ctl,
    log: PathBuf,
    uid: u32,
}

/// What the kernel counts for a compositor, beside what it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Open files of the process, as /proc has them.
    pub files: usize,
    /// Framebuffers of the display device, as debugfs has them.
    pub framebuffers: usize,
    /// dma-bufs of the whole system.
    pub dmabufs: usize,
    /// Devices attached to them: one per import.
    pub attachments: usize,
    /// Its own figures.
    pub claimed: Resources,
}

impl Desktop {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// All it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it is still running.
    ///
    /// # Errors
    ///
    /// When it has ended; the message has its status and its log.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait for primeway")? {
            None => Ok(()),
            Some(status) => bail!("primeway ended with {status}:\n{}", self.log()),
        }
    }

    /// Its figures.
    ///
    /// # Errors
    ///
    /// When it has ended or does not answer.
    pub fn stats(&mut self) -> Result<Stats> {
        self.check_alive()?;
        self.ctl.stats()
    }

    /// Asks for figures until `done` accepts them.
    ///
    /// # Errors
    ///
    /// When it ended, or none were accepted within [`PATIENCE`]; the message names `what`.
    pub fn wait_stats(&mut self, what: &str, done: impl Fn(&Stats) -> bool) -> Result<Stats> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats()?;
            if done(&stats) {
                return Ok(stats);
            }
            ensure!(Instant::now() < deadline, "{what} did not come: {stats:#?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a window of the process has shown more than `frames` frames.
    ///
    /// # Errors
    ///
    /// When it does not come to that; the message has what the client printed.
    pub fn wait_frames(&mut self, client: &RunningClient, frames: u64) -> Result<Surface> {
        let pid = client.pid();
        let shown = |stats: &Stats| stats.surface(pid).is_some_and(|s| s.frames_presented > frames);
        let what = format!("{frames} frames of {}", client.name);
        let stats = self
            .wait_stats(&what, shown)
            .with_context(|| format!("{} printed: {}", client.name, client.output()))?;
        stats.surface(pid).cloned().context("the window is gone")
    }

    /// Whether its session is active.
    ///
    /// # Errors
    ///
    /// When it does not answer, or says nothing about it.
    pub fn is_active(&self) -> Result<bool> {
        self.ctl.stats()?.device.active.context("no word about activity")
    }

    /// Starts our test client as root.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn client(&self, name: &str, arguments: &[&str]) -> Result<RunningClient> {
        RunningClient::start_test_client(&self.display, name, arguments)
    }

    /// Starts a program of the system as another user.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn client_of_user(&self, uid: u32, program: &str, arguments: &[&str]) -> Result<RunningClient> {
        // setpriv and env each become the program they are given, so the process id stays.
        let (group, folder) = (format!("--regid={uid}"), runtime_folder(uid));
        let user = format!("--reuid={uid}");
        let runtime = format!("XDG_RUNTIME_DIR={}", folder.display());
        let home = format!("HOME=/run/home/{uid}");
        let mut all = vec![&user, &group, "--clear-groups", "env", "SHELL=/bin/sh", &runtime, &home, program];
        all.extend_from_slice(arguments);
        RunningClient::start(&self.display, program, Path::new("/usr/bin/setpriv"), &all)
    }

    /// What the display shows, through the writeback connector.
    ///
    /// # Errors
    ///
    /// When it was started without `--writeback`, or the capture fails.
    pub fn capture(&self) -> Result<Screen> {
        let name = format!("{}.png", self.display);
        let taken = runtime_folder(self.uid).join(&name);
        self.ctl.capture_writeback(&taken)?;
        std::fs::copy(&taken, artefacts().join(&name)).context("cannot keep the picture")?;
        Screen::read(&taken)
    }

    /// Counts once it had the time to let go of what clients left.
    ///
    /// # Errors
    ///
    /// When one of the sources cannot be read.
    pub fn held(&mut self) -> Result<Held> {
        std::thread::sleep(Duration::from_millis(500));
        let (dmabufs, attachments) = dmabufs()?;
        Ok(Held {
            files: Process::open(self.pid())?.open_files()?,
            framebuffers: DebugDevice::of_driver("vkms")?.framebuffers()?.len(),
            dmabufs,
            attachments,
            claimed: self.stats()?.resources,
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Process::open(self.pid())?.signal(signal)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it still runs after [`PATIENCE`].
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        wait_end(&mut self.child, PATIENCE).with_context(|| self.log())
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        // An end in time leaves the seat to the next case.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM).ok();
            wait_end(&mut self.child, Duration::from_secs(3)).ok();
        }
    }
}

/// How many dma-bufs there are, and how many attachments they have together.
fn dmabufs() -> Result<(usize, usize)> {
    let path = "/sys/kernel/debug/dma_buf/bufinfo";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("Total ")?.strip_suffix(" bytes"));
    let objects = total.and_then(|line| line.split_whitespace().next()?.parse().ok());
    let attached = text.lines().filter_map(|line| {
        line.strip_prefix("Total ")?.strip_suffix(" devices attached")?.trim().parse::<usize>().ok()
    });
    Ok((objects.with_context(|| format!("{path} has another form: {text}"))?, attached.sum()))
}

/// Everything under /dev/dri with the permissions of a case; they are as before when this is dropped.
#[derive(Debug)]
pub struct NodeModes(Vec<(PathBuf, u32)>);

impl NodeModes {
    /// Gives every node under /dev/dri `mode`.
    ///
    /// # Errors
    ///
    /// When one cannot be changed, or there is none.
    pub fn set(mode: u32) -> Result<NodeModes> {
        let mut changed = NodeModes(Vec::new());
        for path in card_nodes()?.into_iter().chain(render_nodes()?) {
            let old = std::fs::metadata(&path).context("a node is gone")?.permissions().mode() & 0o7777;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
                .with_context(|| format!("cannot change {}", path.display()))?;
            changed.0.push((path, old));
        }
        ensure!(!changed.0.is_empty(), "there are no nodes under /dev/dri");
        Ok(changed)
    }
}

impl Drop for NodeModes {
    fn drop(&mut self) {
        for (path, mode) in &self.0 {
            if let Err(err) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode)) {
                eprintln!("cannot restore {}: {err}", path.display());
            }
        }
    }
}

fn render_nodes() -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir("/dev/dri").context("cannot list /dev/dri")?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    Ok(paths.filter(|path| path.to_string_lossy().contains("renderD")).collect())
}
