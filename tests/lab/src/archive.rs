//! Owns the scratch view of Debian sid's archive: its own sources list, package lists and cache.
//! The system's apt configuration of sources stays untouched. Does not install anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{layout, progress};

/// The mirror that the system uses for Debian itself.
///
/// # Errors
/// When the system's apt sources name none.
pub fn mirror() -> Result<String> {
    let output = Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    pick_mirror(&text).context("the system's apt sources name no Debian mirror: add one (man sources.list)")
}

/// Security and third-party archives do not carry sid; a Debian mirror's path ends in `/debian`.
fn pick_mirror(targets: &str) -> Option<String> {
    let mut uris = targets.lines().map(|line| line.trim().trim_end_matches('/'));
    uris.find(|uri| uri.ends_with("/debian") && uri.starts_with("http")).map(str::to_owned)
}

/// A folder with sid's package lists.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    log: PathBuf,
}

impl Archive {
    /// Fetches sid's package lists into `dir`.
    ///
    /// # Errors
    /// When the archive cannot be reached.
    pub fn open(dir: &Path, log: &Path) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            layout::create_dir(&dir.join(sub))?;
        }
        std::fs::write(dir.join("sources.list"), format!("deb {} sid main\n", mirror()?))?;
        let archive = Self { dir: dir.to_owned(), log: log.to_owned() };
        let mut update = archive.apt("apt-get");
        update.args(["-o", "APT::Update::Error-Mode=any", "update"]);
        progress::run("fetching the package lists of Debian sid", &mut update, log)?;
        Ok(archive)
    }

    fn apt(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        let option = |name: &str, path: &str| format!("{name}={}", self.dir.join(path).display());
        command
            .args(["-o", &option("Dir::Etc::sourcelist", "sources.list"), "-o", "Dir::Etc::sourceparts=-"])
            .args(["-o", &option("Dir::State::Lists", "lists"), "-o", &option("Dir::Cache", "cache")])
            // A mirror that lags behind serves as well; what counts is the signature, which stays checked.
            .args(["-o", "Acquire::Check-Valid-Until=false"])
            // The hooks of the system's update are no concern of a scratch folder; nor can apt's own user read it.
            .args(["-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3", "-o", "Acquire::Languages=none"])
            .env("LC_ALL", "C");
        command
    }

    /// The newest package called `linux-source-N`, and its version.
    ///
    /// # Errors
    /// When the archive has none.
    pub fn newest_kernel_source(&self) -> Result<(String, String)> {
        let names = self.apt("apt-cache").args(["pkgnames", "linux-source-"]).output()?;
        let Some(name) = newest(&String::from_utf8_lossy(&names.stdout)) else {
            bail!("Debian sid has no package linux-source-N");
        };
        let show = self.apt("apt-cache").args(["show", "--no-all-versions", &name]).output()?;
        let show = String::from_utf8_lossy(&show.stdout).into_owned();
        let version = show.lines().find_map(|line| line.strip_prefix("Version: "));
        Ok((name, version.context("the package has no version")?.trim().to_owned()))
    }

    /// The packages that hold the newest kernel for PCs and its modules, and their version.
    ///
    /// # Errors
    /// When the archive has none.
    pub fn newest_kernel_image(&self) -> Result<(Vec<String>, String)> {
        let depends = |package: &str| -> Result<Vec<String>> {
            let output = self.apt("apt-cache").args(["depends", package]).output()?;
            Ok(dependencies(&String::from_utf8_lossy(&output.stdout)))
        };
        // The package without a version depends on the newest, and that on its parts, if it has any.
        let newest = depends("linux-image-amd64")?.into_iter().find(|name| name.starts_with("linux-image-"));
        let image = newest.context("Debian sid has no package linux-image-amd64")?;
        let parts = depends(&image)?.into_iter();
        let mut packages: Vec<String> = parts
            .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"))
            .collect();
        if packages.is_empty() {
            packages.push(image.clone());
        }
        let version = image.trim_start_matches("linux-image-").to_owned();
        Ok((packages, version))
    }

    /// Downloads `package` (checked by apt against the signed lists) into `into` and returns the .deb.
    ///
    /// # Errors
    /// When the download fails.
    pub fn download(&self, package: &str, into: &Path) -> Result<PathBuf> {
        layout::remove_dir(into)?;
        layout::create_dir(into)?;
        let mut command = self.apt("apt-get");
        command.args(["download", package]).current_dir(into);
        progress::run(&format!("downloading {package}"), &mut command, &self.log)?;
        let file = std::fs::read_dir(into)?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut debs = file.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
        debs.next().with_context(|| format!("apt-get downloaded no .deb of {package}"))
    }
}

/// The packages in the answer of `apt-cache depends`, alternatives and recommendations left out.
fn dependencies(answer: &str) -> Vec<String> {
    answer
        .lines()
        .filter_map(|line| line.strip_prefix("  Depends: "))
        .map(|name| name.trim().to_owned())
        .collect()
}

fn newest(names: &str) -> Option<String> {
    let versioned = |name: &&str| {
        let number = name.strip_prefix("linux-source-").unwrap_or("");
        !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.')
    };
    names
        .lines()
        .map(str::trim)
        .filter(versioned)
        .max_by_key(|name| crate::cache::version_key(name))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_source_is_by_number_and_ignores_variants() {
        let names = "linux-source-7.9\nlinux-source-7.10\nlinux-source-7.11-rt\nlinux-source\n";
        assert_eq!(newest(names).as_deref(), Some("linux-source-7.10"));
        assert_eq!(newest("linux-source\n"), None);
    }

    #[test]
    fn dependencies_are_plain_names() {
        let answer = "linux-image-7.2-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  Depends: linux-binary-7.2-amd64\n    busybox\n  Depends: linux-modules-7.2-amd64\n  Recommends: apparmor\n";
        assert_eq!(dependencies(answer), ["linux-binary-7.2-amd64", "linux-modules-7.2-amd64"]);
    }

    #[test]
    fn the_mirror_is_debians_own_archive() {
        let targets =
            "http://mirror.test/debian-security/\nhttps://other.test/apt/\nhttp://mirror.test/debian/\n";
        assert_eq!(pick_mirror(targets).as_deref(), Some("http://mirror.test/debian"));
        assert_eq!(pick_mirror("https://other.test/apt/\n"), None);
    }
}
