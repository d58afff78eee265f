//! Owns the Debian sid root: newer clients and tools than the host has. Made by debootstrap, cached.
//! Does not own how the guest uses it (see `guest`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::archive::{self, Archive};
use crate::packages::{self, Consent};
use crate::{cache, layout, progress};

/// What the root holds beyond the base system: clients, tools, the compositors that primeway is measured beside, and the
/// libraries that primeway itself needs.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "drm-info",
    "fonts-dejavu-core",
    "foot",
    "labwc",
    "libegl1",
    "libgbm1",
    "libgl1-mesa-dri",
    "libgles2",
    "libinput10",
    "libpixman-1-0",
    "libseat1",
    "libudev1",
    "libxkbcommon0",
    "seatd",
    "strace",
    "sway",
    "udev",
    "wayland-utils",
    "weston",
    "xkb-data",
];

/// Files whose state stands for the whole root.
const FILES: &[&str] = &[
    "usr/bin/weston",
    "usr/bin/weston-simple-dmabuf-feedback",
    "usr/bin/labwc",
    "usr/bin/sway",
    "usr/bin/strace",
    "packages.txt",
];

const RECIPE: &str = "1";

/// Why there is no sid root.
#[derive(Debug)]
pub enum Unavailable {
    /// The archive cannot be reached: what needs the root is skipped.
    Unreachable(anyhow::Error),
    /// It was reached, but the root could not be made.
    Failed(anyhow::Error),
}

impl Unavailable {
    /// As one error, for commands that cannot do without the root.
    #[must_use]
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unreachable(err) => err.context("the archive of Debian sid cannot be reached"),
            Self::Failed(err) => err.context("the sid root could not be made"),
        }
    }
}

fn key() -> String {
    let hash = cache::hash(format!("{RECIPE}\n{}", PACKAGES.join("\n")).as_bytes());
    format!("root-{}", &hash[..16])
}

fn cached(dir: &Path) -> Option<PathBuf> {
    let entry = dir.join(key());
    if !entry.exists() {
        return None;
    }
    match cache::check(&entry, FILES) {
        Ok(()) => Some(entry),
        Err(reason) => {
            progress::say(&format!("cached root {} is not used: {reason}", entry.display()));
            None
        }
    }
}

/// Returns the root's folder, making it first when the cache has none.
///
/// # Errors
/// [`Unavailable`] says whether the archive or the making is at fault.
pub fn ensure(consent: Consent) -> Result<PathBuf, Unavailable> {
    let dir = layout::cache().map_err(Unavailable::Failed)?.join("sid");
    if let Some(root) = cached(&dir) {
        return Ok(root);
    }
    let waiting = "another run is making the sid root; waiting for it";
    let _lock = cache::lock(&dir.join("lock"), waiting).map_err(Unavailable::Failed)?;
    if let Some(root) = cached(&dir) {
        return Ok(root);
    }
    let log = dir.join("build.log");
    fs::write(&log, "").map_err(|err| Unavailable::Failed(err.into()))?;
    packages::ensure(packages::SID.iter().copied(), consent).map_err(Unavailable::Failed)?;
    let scratch = dir.join("apt");
    Archive::open(&scratch, &log).map_err(Unavailable::Unreachable)?;
    let _ = layout::remove_dir(&scratch);
    build(&dir, &log).map_err(Unavailable::Failed)
}

fn build(dir: &Path, log: &Path) -> Result<PathBuf> {
    progress::say("making the sid root, once: about 2 minutes and 1.2 GB");
    let entry = dir.join(key());
    remove(&entry)?;
    let mut bootstrap = privileged("debootstrap");
    bootstrap.args(["--variant=minbase", "sid"]).arg(&entry).arg(archive::mirror()?);
    progress::run("bootstrapping Debian sid", &mut bootstrap, log)?;
    // debootstrap itself does not resolve virtual packages, so apt does the rest.
    let mut install = privileged("chroot");
    install.arg(&entry).args([
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "LC_ALL=C",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ]);
    install.args(["apt-get", "-y", "-o", "APT::Sandbox::User=root", "install", "--no-install-recommends"]);
    progress::run("installing sid's clients and tools", install.args(PACKAGES), log)?;
    let mut clean = privileged("chroot");
    progress::run("cleaning up", clean.arg(&entry).args(["apt-get", "clean"]), log)?;
    let owner = format!("{}", rustix::process::geteuid().as_raw());
    let mut own = privileged("chown");
    // The marker is written by the caller, who need not be root.
    progress::run("handing the folder over", own.arg(owner).arg(&entry), log)?;
    let versions = Command::new("dpkg-query")
        .arg(format!("--admindir={}", entry.join("var/lib/dpkg").display()))
        .arg("--show")
        .output();
    fs::write(entry.join("packages.txt"), versions.context("cannot run dpkg-query")?.stdout)?;
    cache::seal(&entry, FILES)?;
    Ok(entry)
}

/// A command as root, with mounts of its own where the system allows it: they end with it, however it ends.
fn privileged(program: &str) -> Command {
    let root = rustix::process::geteuid().is_root();
    let mut prefix: Vec<&str> = if root { vec![] } else { vec!["sudo", "--non-interactive"] };
    let unshare = ["unshare", "--mount", "--propagation", "private", "--"];
    let mut probe = Command::new(prefix.first().unwrap_or(&unshare[0]));
    let words: Vec<&str> = prefix.iter().chain(&unshare).copied().skip(1).chain(["true"]).collect();
    probe.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if probe.status().is_ok_and(|status| status.success()) {
        prefix.extend(unshare);
    }
    prefix.push(program);
    let mut command = Command::new(prefix[0]);
    command.args(&prefix[1..]).env("LC_ALL", "C");
    command
}

/// Removes a root; refuses while something is mounted below it, so that nothing else is emptied.
///
/// # Errors
/// When something is mounted below, or the removal fails.
pub fn remove(entry: &Path) -> Result<()> {
    if !entry.exists() {
        return Ok(());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
    if let Some(mount) = mounts_below(&mounts, entry).first() {
        bail!("{mount} is still mounted: umount it first");
    }
    let mut command = privileged("rm");
    let status = command.arg("-rf").arg("--one-file-system").arg(entry).status()?;
    if !status.success() {
        bail!("cannot remove {}", entry.display());
    }
    Ok(())
}

fn mounts_below(mounts: &str, dir: &Path) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split_whitespace().nth(1));
    points.filter(|point| Path::new(point).starts_with(dir)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_root_are_seen() {
        let mounts = "proc /c/root/proc proc rw 0 0\nsysfs /c/root2/sys sysfs rw 0 0\n";
        assert_eq!(mounts_below(mounts, Path::new("/c/root")), ["/c/root/proc"]);
        assert!(mounts_below(mounts, Path::new("/c/other")).is_empty());
    }

    #[test]
    fn a_half_made_root_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(key()).join("usr/bin")).unwrap();
        assert_eq!(cached(dir.path()), None);
    }
}
