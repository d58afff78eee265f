//! A primeway under test and the clients in it, as child processes.
//!
//! Owns starting, waiting until ready, and ending them: whatever happens, no child outlives its value. It does
//! not look at what they show.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::Report;
use crate::ctl::{Ctl, Stats};
use crate::debugfs::DebugDevice;

/// The file next to this executable, or one folder up (test executables are in `deps`).
///
/// # Errors
///
/// When neither place has it; the message says how to build it.
pub fn sibling_program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("own path")?;
    for folder in own.ancestors().skip(1).take(2) {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("{name} is not built: cargo build -p primeway -p primeway-tests")
}

/// The folder for logs and pictures: `$PRIMEWAY_ARTEFACTS`, or the temporary folder.
#[must_use]
pub fn artefacts() -> PathBuf {
    std::env::var_os("PRIMEWAY_ARTEFACTS").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// A running compositor.
#[derive(Debug)]
pub struct Compositor {
    child: Child,
    user: Option<u32>,
    links: Vec<PathBuf>,
    /// Its `WAYLAND_DISPLAY`.
    pub display: String,
    /// Its control socket.
    pub ctl: Ctl,
    log: PathBuf,
}

impl Compositor {
    /// Starts `primeway --backend kms --writeback` on its own socket and waits until it is ready. `name` names
    /// the socket and the log; `environment` is added to that of this process.
    ///
    /// # Errors
    ///
    /// When it is not built, or not ready within 20 seconds; the message has the end of its log.
    pub fn start(name: &str, environment: &[(&str, &str)]) -> Result<Compositor> {
        Compositor::start_as(None, name, environment)
    }

    /// The same without `--writeback`, for a display that has none, composited by Pixman and with more on its command
    /// line.
    ///
    /// # Errors
    ///
    /// As [`Compositor::start`].
    pub fn start_plain(name: &str, arguments: &[&str]) -> Result<Compositor> {
        let all: Vec<&str> = ["--renderer", "pixman"].iter().chain(arguments).copied().collect();
        Compositor::launch_with(None, name, &[], &[], &all)
    }

    /// The same with more on its command line.
    ///
    /// # Errors
    ///
    /// As [`Compositor::start`].
    pub fn start_with(name: &str, arguments: &[&str]) -> Result<Compositor> {
        Compositor::launch(None, name, &[], arguments)
    }

    /// The same as another user, in that user's runtime folder. Links in the runtime folder of this process make
    /// its sockets reachable by the same names.
    ///
    /// # Errors
    ///
    /// As [`Compositor::start`].
    pub fn start_as(user: Option<u32>, name: &str, environment: &[(&str, &str)]) -> Result<Compositor> {
        Compositor::launch(user, name, environment, &[])
    }

    /// The same with more on its command line.
    ///
    /// # Errors
    ///
    /// As [`Compositor::start`].
    pub fn start_as_with(user: Option<u32>, name: &str, arguments: &[&str]) -> Result<Compositor> {
        Compositor::launch(user, name, &[], arguments)
    }

    /// [`Compositor::start_with`] and a log filter.
    ///
    /// # Errors
    ///
    /// As [`Compositor::start`].
    pub fn start_logged(name: &str, filter: &str, arguments: &[&str]) -> Result<Compositor> {
        Compositor::launch(None, name, &[("PRIMEWAY_LOG", filter)], arguments)
    }

    fn launch(
        user: Option<u32>,
        name: &str,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<Compositor> {
        Compositor::launch_with(user, name, environment, &["--writeback"], arguments)
    }

    fn launch_with(
        user: Option<u32>,
        name: &str,
        environment: &[(&str, &str)],
        capture: &[&str],
        arguments: &[&str],
    ) -> Result<Compositor> {
        let program = sibling_program("primeway")?;
        let display = format!("wayland-{name}");
        let log = artefacts().join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(&program);
        command
            .args(["--backend", "kms", "--socket", &display])
            .args(capture)
            .args(arguments)
            .envs(environment.iter().copied())
            .env_remove("WAYLAND_DISPLAY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        if let Some(user) = user {
            command.uid(user).gid(user).env("XDG_RUNTIME_DIR", runtime_folder(user));
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let ready = child.stdout.take().map(first_ready_line);
        let ctl = Ctl::of_display(&display)?;
        let mut compositor = Compositor { child, user, links: Vec::new(), display, ctl, log };
        match ready.and_then(|ready| ready.recv_timeout(Duration::from_secs(20)).ok()) {
            Some(true) => compositor.link_sockets()?,
            _ => bail!("primeway did not get ready:\n{}", compositor.log_end()),
        }
        Ok(compositor)
    }

    fn link_sockets(&mut self) -> Result<()> {
        let Some(user) = self.user else { return Ok(()) };
        let own = std::env::var_os("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set")?;
        for socket in [self.display.clone(), format!("primeway-{}.sock", self.display)] {
            let link = Path::new(&own).join(&socket);
            symlink(runtime_folder(user).join(&socket), &link)
                .with_context(|| format!("cannot link {}", link.display()))?;
            self.links.push(link);
        }
        Ok(())
    }

    /// Saves what the display shows, read back through the writeback connector.
    ///
    /// # Errors
    ///
    /// When the compositor refuses, or the file cannot be written.
    pub fn capture(&self, file: &Path) -> Result<()> {
        let Some(user) = self.user else { return self.ctl.capture_writeback(file) };
        // The compositor writes the file, and its user may not write to the folder of the artefacts.
        let draft = runtime_folder(user).join("capture.png");
        self.ctl.capture_writeback(&draft)?;
        std::fs::copy(&draft, file).with_context(|| format!("cannot write {}", file.display()))?;
        std::fs::remove_file(&draft).with_context(|| format!("cannot remove {}", draft.display()))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Whether it is still running.
    ///
    /// # Errors
    ///
    /// When it has ended; the message has its status and the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait for primeway")? {
            None => Ok(()),
            Some(status) => bail!("primeway ended with {status}:\n{}", self.log_end()),
        }
    }

    /// The kernel's framebuffers on vkms but those that composition draws into.
    ///
    /// # Errors
    ///
    /// When the kernel or the compositor does not say.
    pub fn framebuffers_of_others(&self) -> Result<usize> {
        let ledger = self.ctl.ledger()?;
        let all = DebugDevice::of_driver("vkms")?.framebuffers()?;
        Ok(all.iter().filter(|framebuffer| !ledger.composes_into(framebuffer.id)).count())
    }

    /// Asks for statistics until `done` accepts them, and returns these.
    ///
    /// # Errors
    ///
    /// When it ended, or `done` accepted none within `timeout`; the message names `what`.
    pub fn wait_stats(
        &mut self,
        what: &str,
        timeout: Duration,
        done: impl Fn(&Stats) -> bool,
    ) -> Result<Stats> {
        let deadline = Instant::now() + timeout;
        loop {
            self.check_alive()?;
            let stats = self.ctl.stats()?;
            if done(&stats) {
                return Ok(stats);
            }
            if Instant::now() > deadline {
                bail!("{what} did not come within {timeout:?}; the compositor says {stats:#?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Compositor {
    fn drop(&mut self) {
        end(&mut self.child, Duration::from_secs(3));
        for link in &self.links {
            std::fs::remove_file(link).ok();
        }
    }
}

/// The runtime folder that the lab makes for a user.
fn runtime_folder(user: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{user}"))
}

/// Reads standard output on a thread of its own, so that the pipe never fills; sends once whether the ready
/// line came.
fn first_ready_line(stdout: impl Read + Send + 'static) -> mpsc::Receiver<bool> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut told = false;
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if !told && line.starts_with("primeway: ready on ") {
                told = true;
                // The receiver may have given up waiting; then nobody wants to know.
                sender.send(true).ok();
            }
        }
        if !told {
            sender.send(false).ok();
        }
    });
    receiver
}

/// Waits for a child's end; `None` if it still runs after `timeout`.
pub(crate) fn wait_end(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a child: SIGTERM, then SIGKILL after `patience`.
pub(crate) fn end(child: &mut Child, patience: Duration) {
    if let (Ok(None), Some(pid)) = (child.try_wait(), Pid::from_raw(child.id() as i32)) {
        // A stopped process handles no signal but SIGKILL, so it is continued as well.
        kill_process(pid, Signal::TERM).ok();
        kill_process(pid, Signal::CONT).ok();
    }
    if !matches!(wait_end(child, patience), Ok(None)) {
        return;
    }
    child.kill().ok();
    child.wait().ok();
}

/// A running client.
#[derive(Debug)]
pub struct RunningClient {
    child: Child,
    /// What it is called in reports.
    pub name: String,
    progress: Option<PathBuf>,
    log: PathBuf,
}

impl RunningClient {
    /// Starts any program as a client of `display`; its output goes to a log of its name.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(display: &str, name: &str, program: &Path, arguments: &[&str]) -> Result<RunningClient> {
        let file_name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let log = artefacts().join(format!("{display}-{file_name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .env("WAYLAND_DISPLAY", display)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(RunningClient { child, name: name.to_owned(), progress: None, log })
    }

    /// Starts `primeway-test-client`, with its running counts in a file that [`RunningClient::counts`] reads.
    ///
    /// # Errors
    ///
    /// When it is not built or cannot be started.
    pub fn start_test_client(display: &str, name: &str, arguments: &[&str]) -> Result<RunningClient> {
        let program = sibling_program("primeway-test-client")?;
        let file_name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let progress = artefacts().join(format!("{display}-{file_name}.json"));
        std::fs::remove_file(&progress).ok();
        let path = progress.to_string_lossy().into_owned();
        let mut all = vec!["--json", "--announce", "--title", name, "--progress", &path];
        all.extend_from_slice(arguments);
        let mut client = RunningClient::start(display, name, &program, &all)?;
        client.progress = Some(progress);
        Ok(client)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has counted so far; `None` for a program that does not count.
    #[must_use]
    pub fn counts(&self) -> Option<Report> {
        let path = self.progress.as_ref()?;
        // In the lab the file is on the host, where a replaced one may be missing or short for a moment; and a client on a
        // busy machine writes it some time after its first frame.
        for _ in 0..400 {
            let report = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            if report.is_some() {
                return report;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Waits until a test client says that its first frame is on the screen.
    ///
    /// # Errors
    ///
    /// When it ended or does not say so within `timeout`; the message has its output.
    pub fn wait_presented(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.output().lines().any(|line| line == "presented") {
            let ended = self.child.try_wait().context("cannot wait for the client")?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("{} showed no frame ({ended:?}): {}", self.name, self.output());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it still runs after `timeout`.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let status = wait_end(&mut self.child, timeout)?;
        status.with_context(|| format!("{} still runs after {timeout:?}: {}", self.name, self.output()))
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        end(&mut self.child, Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_says_how_to_build_it() {
        let err = sibling_program("no-such-program").unwrap_err().to_string();
        assert!(err.contains("cargo build"), "{err}");
    }

    #[test]
    fn ready_line_is_told_once() {
        let ready = first_ready_line(&b"noise\nprimeway: ready on wayland-x\nmore\n"[..]);
        assert_eq!(ready.recv(), Ok(true));
        let ended = first_ready_line(&b"noise\n"[..]);
        assert_eq!(ended.recv(), Ok(false));
    }
}
