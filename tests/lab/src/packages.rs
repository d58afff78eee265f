//! Owns the list of Debian packages that the lab and the build need, and their installation.
//! Does not own the scratch archive of newer packages (see `archive`).

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress;

/// What the lab kernel is built with.
pub const KERNEL: &[&str] =
    &["bc", "bison", "ca-certificates", "flex", "gcc", "libc6-dev", "libelf-dev", "make", "xz-utils"];

/// What the guest of the host's own system needs.
pub const GUEST: &[&str] = &["seatd", "udev"];

/// What the emulated guest is made with.
pub const QEMU: &[&str] = &["ca-certificates", "qemu-system-x86", "xz-utils"];

/// What primeway is built with.
pub const BUILD: &[&str] = &[
    "libdrm-dev",
    "libegl-dev",
    "libgbm-dev",
    "libgles-dev",
    "libinput-dev",
    "libpixman-1-dev",
    "libseat-dev",
    "libudev-dev",
    "libxkbcommon-dev",
    "pkg-config",
];

/// The clients that the demo and the kernel cases start.
pub const CLIENTS: &[&str] =
    &["fonts-dejavu-core", "foot", "libgl1-mesa-dri", "strace", "weston", "xkb-data"];

/// What the sid root is made with.
pub const SID: &[&str] = &["debian-archive-keyring", "debootstrap"];

/// Whether to ask before something is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Ask on the terminal.
    Ask,
    /// Go on.
    Given,
}

impl Consent {
    /// Given by `--yes`, by `CI=true`, or by being root.
    #[must_use]
    pub fn from_environment(yes: bool) -> Self {
        let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        if yes || ci || rustix::process::geteuid().is_root() { Self::Given } else { Self::Ask }
    }
}

/// Those of `wanted` that dpkg does not know as installed.
///
/// # Errors
/// When dpkg-query cannot be run: then this is no Debian system.
pub fn missing<'a>(wanted: impl IntoIterator<Item = &'a str>) -> Result<Vec<&'a str>> {
    let wanted: Vec<&str> = wanted.into_iter().collect();
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(&wanted)
        .env("LC_ALL", "C")
        .output()
        .context("cannot run dpkg-query: the lab sets itself up on Debian 12 and its relatives")?;
    let known = String::from_utf8_lossy(&output.stdout);
    Ok(wanted.into_iter().filter(|name| !is_installed(&known, name)).collect())
}

fn is_installed(known: &str, name: &str) -> bool {
    known.lines().any(|line| line.split_once(' ') == Some((name, "installed")))
}

/// Installs those of `wanted` that are missing. Prints their names first.
///
/// # Errors
/// When consent is refused, or apt-get fails.
pub fn ensure<'a>(wanted: impl IntoIterator<Item = &'a str>, consent: Consent) -> Result<()> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    progress::say(&format!("missing Debian packages: {}", missing.join(" ")));
    if consent == Consent::Ask && !agreed()? {
        bail!("not installed; by hand: sudo apt-get install {}", missing.join(" "));
    }
    let log = crate::layout::cache()?.join("packages.log");
    crate::layout::create_dir(log.parent().unwrap_or(Path::new("/")))?;
    let apt = |arguments: &[&str]| {
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new("apt-get")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.args(["--non-interactive", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            sudo
        };
        command.args(["-y", "-o", "DPkg::Lock::Timeout=600"]).args(arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    if !rustix::process::geteuid().is_root() {
        // The password is asked for here, on the terminal; the calls below then need none.
        let status = Command::new("sudo").arg("--validate").status().context("cannot run sudo")?;
        if !status.success() {
            bail!("sudo refused; by hand: apt-get install {}", missing.join(" "));
        }
    }
    progress::run("updating the package lists", &mut apt(&["update"]), &log)?;
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(&missing);
    progress::run(&format!("installing {} packages", missing.len()), &mut apt(&install), &log)
}

fn agreed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody to ask; run again with --yes, with CI=true, or as root");
    }
    eprint!("lab: install them with apt-get now? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_is_an_exact_name_and_state() {
        let known = "gcc installed\nweston config-files\nlibelf-dev installed\n";
        assert!(is_installed(known, "gcc"));
        assert!(!is_installed(known, "weston"));
        assert!(!is_installed(known, "libelf"));
        assert!(!is_installed(known, "make"));
    }
}
