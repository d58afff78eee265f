//! The compositors: how each is started, told where windows go, and ended.
//!
//! Owns their command lines and configurations. All run as one user who is not root (sway refuses root), on the same seat
//! and display. What they do is looked at in `measure`.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::client::{now, title};
use super::scenario::Scenario;
use crate::drm_node::{DrmNode, card_nodes};
use crate::session::{artefacts, end, sibling_program};

/// The user that compositors run as.
const USER: u32 = 1000;
/// How long a compositor may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// A compositor with one renderer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// primeway, composited by Pixman as on every machine without a GPU.
    Primeway,
    /// labwc, composited by OpenGL ES.
    Labwc,
    /// sway, composited by OpenGL ES.
    Sway,
    /// sway, composited by Pixman.
    SwayPixman,
    /// weston, composited by OpenGL ES.
    Weston,
}

impl Peer {
    /// All, primeway first.
    pub const ALL: [Peer; 5] = [Peer::Primeway, Peer::Labwc, Peer::Sway, Peer::SwayPixman, Peer::Weston];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Peer::Primeway => "primeway",
            Peer::Labwc => "labwc",
            Peer::Sway => "sway",
            Peer::SwayPixman => "sway, Pixman",
            Peer::Weston => "weston",
        }
    }

    fn program(self) -> Result<PathBuf> {
        Ok(match self {
            Peer::Primeway => sibling_program("primeway")?,
            Peer::Labwc => "labwc".into(),
            Peer::Sway | Peer::SwayPixman => "sway".into(),
            Peer::Weston => "weston".into(),
        })
    }

    /// What it calls itself, or why it does not.
    #[must_use]
    pub fn version(self) -> String {
        let output = self.program().and_then(|program| {
            let output = Command::new(&program).arg("--version").output();
            output.with_context(|| format!("cannot start {}", program.display()))
        });
        match output {
            Ok(output) => {
                String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
            }
            Err(err) => format!("{err:#}"),
        }
    }
}

/// What all compositors share.
#[derive(Debug)]
pub struct Guest {
    card: PathBuf,
}

/// Opens up the display's nodes, which udev gives to the group of the seat's user.
///
/// # Errors
///
/// Without a vkms device.
pub fn prepare() -> Result<Guest> {
    let card = DrmNode::of_driver("vkms")?.path().to_owned();
    let mut nodes = card_nodes()?;
    nodes.extend(fs::read_dir("/dev/dri").context("/dev/dri")?.filter_map(|entry| Some(entry.ok()?.path())));
    for node in nodes.iter().filter(|node| !node.is_dir()) {
        fs::set_permissions(node, Permissions::from_mode(0o666))
            .with_context(|| format!("cannot open up {}", node.display()))?;
    }
    Ok(Guest { card })
}

/// A folder of its own for a run of a compositor: sockets and configuration.
#[derive(Debug)]
pub struct Place {
    /// `XDG_RUNTIME_DIR`.
    pub folder: PathBuf,
    log: PathBuf,
}

impl Place {
    /// An empty folder, and a log among the artefacts.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn new(peer: Peer, scenario: Scenario) -> Result<Place> {
        let name = format!("{peer:?}-{scenario:?}").to_lowercase();
        let folder = Path::new("/run/bench").join(&name);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).context("chmod")?;
        chown(&folder, Some(USER), Some(USER)).context("chown")?;
        Ok(Place { folder, log: artefacts().join(format!("{name}.log")) })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// A compositor that was started.
#[derive(Debug)]
pub struct RunningPeer {
    child: Child,
    log: PathBuf,
    /// When it was started, in nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
}

impl RunningPeer {
    /// Starts it; it is not ready when this returns.
    ///
    /// # Errors
    ///
    /// When it is not installed.
    pub fn start(guest: &Guest, peer: Peer, scenario: Scenario, place: &Place) -> Result<RunningPeer> {
        let mut command = command(guest, peer, scenario, place)?;
        let log =
            File::create(&place.log).with_context(|| format!("cannot create {}", place.log.display()))?;
        command
            .env("XDG_RUNTIME_DIR", &place.folder)
            .env("HOME", &place.folder)
            .env_remove("WAYLAND_DISPLAY")
            .uid(USER)
            .gid(USER)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log);
        let started = now();
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(RunningPeer { child, log: place.log.clone(), started })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether it is still running.
    ///
    /// # Errors
    ///
    /// When it has ended; the message has the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait for the compositor")? {
            None => Ok(()),
            Some(status) => bail!("it ended with {status}: {}", self.log_end()),
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join(" / ")
    }
}

impl Drop for RunningPeer {
    fn drop(&mut self) {
        end(&mut self.child, PATIENCE);
    }
}

fn command(guest: &Guest, peer: Peer, scenario: Scenario, place: &Place) -> Result<Command> {
    let mut command = Command::new(peer.program()?);
    match peer {
        Peer::Primeway => {
            command.args([
                "--backend",
                "kms",
                "--renderer",
                "pixman",
                "--socket",
                "wayland-bench",
                "--device",
            ]);
            command.arg(&guest.card);
        }
        Peer::Labwc => {
            place.write("rc.xml", &labwc(scenario))?;
            command.arg("--config-dir").arg(&place.folder);
            wlroots(&mut command, guest, "gles2");
        }
        Peer::Sway | Peer::SwayPixman => {
            command.arg("--config").arg(place.write("sway.conf", &sway(scenario))?);
            wlroots(&mut command, guest, if peer == Peer::Sway { "gles2" } else { "pixman" });
        }
        Peer::Weston => {
            let card =
                guest.card.file_name().context("a node without a name")?.to_string_lossy().into_owned();
            let config = place.write("weston.ini", WESTON)?;
            command.args(["--backend=drm", "--renderer=gl", "--socket=wayland-bench"]);
            command.arg(format!("--drm-device={card}")).arg(format!("--config={}", config.display()));
        }
    }
    Ok(command)
}

/// wlroots takes no software driver for OpenGL ES unless it is told to.
fn wlroots(command: &mut Command, guest: &Guest, renderer: &str) {
    command
        .env("WLR_DRM_DEVICES", &guest.card)
        .env("WLR_BACKENDS", "drm,libinput")
        .env("WLR_LIBINPUT_NO_DEVICES", "1")
        .env("WLR_RENDERER", renderer)
        .env("WLR_RENDERER_ALLOW_SOFTWARE", "1");
}

fn labwc(scenario: Scenario) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\"?>\n<labwc_config>\n<core><decoration>client</decoration><gap>0</gap></core>\n<windowRules>\n",
    );
    if !scenario.plan().fullscreen {
        for (window, (x, y)) in (0..).zip(scenario.places()) {
            text.push_str(&format!(
                "<windowRule title=\"{}\" serverDecoration=\"no\"><action name=\"MoveTo\" x=\"{x}\" y=\"{y}\"/></windowRule>\n",
                title(window)
            ));
        }
    }
    text.push_str("</windowRules>\n</labwc_config>\n");
    text
}

fn sway(scenario: Scenario) -> String {
    let mut text = String::from("xwayland disable\ndefault_border none\ndefault_floating_border none\n");
    if !scenario.plan().fullscreen {
        for (window, (x, y)) in (0..).zip(scenario.places()) {
            let title = title(window);
            text.push_str(&format!(
                "for_window [title=\"{title}\"] floating enable, move absolute position {x} {y}\n"
            ));
        }
    }
    text
}

/// Nothing but the desktop, at rest. Its shell puts windows where it likes: it cannot be told.
const WESTON: &str = "[core]\nidle-time=0\nrequire-input=false\nxwayland=false\n[shell]\npanel-position=none\nlocking=false\n\
    animation=none\nstartup-animation=none\nclose-animation=none\nfocus-animation=none\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_has_its_rule() {
        for text in [labwc(Scenario::Windows8), sway(Scenario::Windows8)] {
            assert_eq!(text.matches("bench-").count(), 8, "{text}");
            assert!(text.contains("bench-07"), "{text}");
        }
        assert!(
            sway(Scenario::Windows8)
                .contains("[title=\"bench-06\"] floating enable, move absolute position 200 200")
        );
        assert!(!labwc(Scenario::Fullscreen).contains("bench-"));
    }
}
