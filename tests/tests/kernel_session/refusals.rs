//! Starts that cannot succeed: each ends at once, with one line that says what to do.
//!
//! Owns the situations. The words are compared only as far as they are the advice.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::vkms::card_by_driver;
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::drm_node::DrmNode;

use crate::desktop::{Launch, PATIENCE, Refused, USER};

/// Exit status 1 and one line of primeway's that holds every one of `words`; returns the line.
fn check(refused: &Refused, words: &[&str]) -> Result<String> {
    let Refused { status, stderr } = refused;
    ensure!(status.code() == Some(1), "ended with {status}:\n{stderr}");
    ensure!(!stderr.contains("panicked"), "a panic:\n{stderr}");
    let own: Vec<&str> = stderr.lines().filter(|line| line.starts_with("primeway: ")).collect();
    let [line] = own[..] else {
        anyhow::bail!("{} lines of primeway's:\n{stderr}", own.len());
    };
    ensure!(stderr.lines().last() == Some(line), "it goes on after the error:\n{stderr}");
    let parts: Vec<&str> = line.split(": ").collect();
    ensure!(parts.windows(2).all(|pair| pair[0] != pair[1]), "it says the same twice: {line:?}");
    for word in words {
        ensure!(line.contains(word), "{line:?} does not say {word:?}");
    }
    Ok(line.to_owned())
}

type Situation = (&'static str, fn() -> Result<Refused>, &'static [&'static str]);

const SITUATIONS: &[Situation] = &[
    ("a node without a display", || device("/dev/null"), &["/dev/null", "--device"]),
    ("a node that does not exist", || device("/dev/dri/card99"), &["/dev/dri/card99", "--device"]),
    ("a card without outputs", card_without_outputs, &["no display outputs", "--device"]),
    ("no card that drives a display", no_display_device, &["load a KMS driver", "--backend headless"]),
    ("no seat", no_seat, &["no seat", "start seatd", "--backend headless"]),
    ("no seat daemon known", no_seat_known, &["seatd", "--backend headless"]),
    ("another master", another_master, &["another program controls the display", "switch to a free VT"]),
    ("another primeway on the seat", another_primeway, &["seat", "VT"]),
    ("no XDG_RUNTIME_DIR", no_runtime_folder, &["XDG_RUNTIME_DIR is not set", "set it"]),
    ("a missing XDG_RUNTIME_DIR", missing_runtime_folder, &["XDG_RUNTIME_DIR", "/run/user/404"]),
    ("a socket in use", socket_in_use, &["wayland-taken", "in use", "--socket"]),
];

/// Every situation is tried, so that one run shows all that is wrong.
pub fn start_errors_say_what_to_do() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, situation, words) in SITUATIONS {
        let started = Instant::now();
        let result = situation().and_then(|refused| check(&refused, words));
        match result {
            Ok(line) => println!("start_errors_say_what_to_do: {name} ({:?}): {line}", started.elapsed()),
            Err(err) => wrong.push(format!("{name}: {err:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // After all of it, a start succeeds.
    Launch::new("refusals")?.start()?.check_alive()
}

fn launch() -> Result<Launch> {
    Launch::new("refused")
}

fn device(node: &str) -> Result<Refused> {
    launch()?.arguments(&["--device", node]).refused()
}

fn card_without_outputs() -> Result<Refused> {
    device(&card_by_driver("vgem")?.to_string_lossy())
}

/// The lab's displays, switched off until this is dropped.
struct NoDisplays(Vec<PathBuf>);

impl NoDisplays {
    fn new() -> Result<NoDisplays> {
        let mut switched = NoDisplays(Vec::new());
        for entry in fs::read_dir("/sys/kernel/config/vkms").context("configfs")? {
            let switch = entry?.path().join("enabled");
            if fs::read_to_string(&switch)?.trim() == "1" {
                fs::write(&switch, "0").with_context(|| format!("cannot write {}", switch.display()))?;
                switched.0.push(switch);
            }
        }
        ensure!(!switched.0.is_empty(), "the lab has no display to switch off");
        settle()?;
        Ok(switched)
    }
}

impl Drop for NoDisplays {
    fn drop(&mut self) {
        for switch in &self.0 {
            if let Err(err) = fs::write(switch, "1") {
                eprintln!("cannot enable {} again: {err}", switch.display());
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while card_by_driver("vkms").is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Err(err) = settle() {
            eprintln!("{err:#}");
        }
    }
}

/// Waits until udev knows what the kernel has.
fn settle() -> Result<()> {
    let status = Command::new("udevadm").args(["settle", "--timeout=20"]).status();
    ensure!(status.context("cannot run udevadm")?.success(), "udev did not settle");
    Ok(())
}

fn no_display_device() -> Result<Refused> {
    let _off = NoDisplays::new()?;
    launch()?.refused()
}

fn no_seat() -> Result<Refused> {
    launch()?.variable("SEATD_SOCK", "/run/no-such-seatd.sock").refused()
}

/// As an ordinary user without logind, and without a word about which daemon to ask.
fn no_seat_known() -> Result<Refused> {
    launch()?
        .user(USER)
        .without("LIBSEAT_BACKEND")
        .variable("SEATD_SOCK", "/run/no-such-seatd.sock")
        .refused()
}

fn another_master() -> Result<Refused> {
    // The first to open a card becomes its master.
    let _master = DrmNode::of_driver("vkms")?;
    let own = std::process::id() as i32;
    let files = DebugDevice::of_driver("vkms")?.files()?;
    ensure!(files.iter().any(|file| file.master && file.pid == own), "not master: {files:?}");
    launch()?.refused()
}

fn another_primeway() -> Result<Refused> {
    let mut first = Launch::new("first")?.start()?;
    let refused = launch()?.refused()?;
    first.check_alive()?;
    Ok(refused)
}

fn no_runtime_folder() -> Result<Refused> {
    launch()?.without("XDG_RUNTIME_DIR").refused()
}

fn missing_runtime_folder() -> Result<Refused> {
    launch()?.variable("XDG_RUNTIME_DIR", "/run/user/404").refused()
}

fn socket_in_use() -> Result<Refused> {
    let mut first = Launch::new("taken")?.arguments(&["--backend", "headless"]).start()?;
    let refused = launch()?.arguments(&["--backend", "headless", "--socket", "wayland-taken"]).refused()?;
    first.check_alive().context("the first primeway was disturbed")?;
    Ok(refused)
}
