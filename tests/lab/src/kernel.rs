//! Owns the lab kernel: which options it has, getting its source, configuring, checking, building, caching.
//! Does not own how it is run (see `run`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::archive::Archive;
use crate::cache::{Kept, Making};
use crate::{layout, progress};

/// The options, as a fragment for KCONFIG_ALLCONFIG.
pub const OPTIONS: &str = include_str!("../kernel.config");

/// Files that a usable cache entry holds.
const FILES: &[&str] = &["linux", "config"];

/// Raise this when the build itself changes without a change of options.
const RECIPE: &str = "2";

/// The file of the source that gets [`CLOCK`].
const CLOCK_FILE: &str = "arch/um/kernel/time.c";

/// The clock by which the scheduler accounts CPU time. User-Mode Linux has none of its own outside its time-travel mode, and
/// the default counts ticks of 10 ms: a process that runs for some microseconds after each vblank is then charged with 10 ms
/// or with nothing.
const CLOCK: &str = "
#ifndef CONFIG_UML_TIME_TRAVEL_SUPPORT
#include <linux/sched/clock.h>

notrace unsigned long long sched_clock(void)
{
	return os_nsecs();
}
#endif
";

fn kept() -> Result<Kept> {
    Ok(Kept::new(layout::cache()?.join("kernel"), &format!("{RECIPE}\n{CLOCK}\n{OPTIONS}"), FILES))
}

/// The cached kernel for the present options, if there is one that can be trusted.
///
/// # Errors
/// When there is no place for a cache.
pub fn cached() -> Result<Option<PathBuf>> {
    Ok(kept()?.find().map(|entry| entry.join("linux")))
}

/// Returns the kernel's binary, building it first when the cache has none.
///
/// # Errors
/// When the source cannot be fetched, an option is missing, or the build fails.
pub fn ensure() -> Result<PathBuf> {
    let waiting = "another run is building the lab kernel; waiting for it";
    Ok(kept()?.find_or_make(waiting, build)?.join("linux"))
}

fn build(Making { work, entry, log }: &Making) -> Result<String> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the lab kernel (User-Mode Linux) exists for x86_64 only");
    }
    progress::say("building the lab kernel, once: about 5 minutes and 3 GB of scratch space on 2 cores");

    let archive = Archive::open(&work.join("apt"), log)?;
    let (package, version) = archive.newest_kernel_source()?;
    let deb = archive.download(&package, &work.join("deb"))?;
    let source = unpack(&deb, &package, work, log)?;
    let clock = source.join(CLOCK_FILE);
    let with_clock = fs::read_to_string(&clock).map(|text| text + CLOCK);
    fs::write(&clock, with_clock?).with_context(|| format!("cannot amend {}", clock.display()))?;
    let out = work.join("out");
    layout::create_dir(&out)?;
    fs::write(work.join("fragment"), OPTIONS)?;
    let mut configure = make(&source, &out);
    configure.env("KCONFIG_ALLCONFIG", work.join("fragment")).arg("allnoconfig");
    progress::run("configuring the kernel", &mut configure, log)?;
    let config = fs::read_to_string(out.join(".config")).context("the kernel has no .config")?;
    let missing = missing_options(OPTIONS, &config);
    if !missing.is_empty() {
        bail!("kernel {version} does not take these options: {}", missing.join(", "));
    }
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let mut compile = make(&source, &out);
    compile.arg(format!("-j{jobs}")).arg("linux");
    progress::run(&format!("building kernel {version}"), &mut compile, log)?;
    fs::copy(out.join("linux"), entry.join("linux")).context("the build left no binary")?;
    fs::copy(out.join(".config"), entry.join("config"))?;
    Ok(version)
}

fn unpack(deb: &Path, package: &str, work: &Path, log: &Path) -> Result<PathBuf> {
    let mut extract = Command::new("dpkg-deb");
    extract.arg("-x").arg(deb).arg(work.join("package"));
    progress::run("unpacking the package", &mut extract, log)?;
    let source = work.join("source");
    layout::create_dir(&source)?;
    let tarball = work.join(format!("package/usr/src/{package}.tar.xz"));
    let mut extract = Command::new("tar");
    extract.arg("-xf").arg(&tarball).arg("--strip-components=1").arg("-C").arg(&source);
    progress::run("unpacking the kernel's source", &mut extract, log)?;
    layout::remove_dir(&work.join("package"))?;
    layout::remove_dir(&work.join("deb"))?;
    Ok(source)
}

fn make(source: &Path, out: &Path) -> Command {
    let mut command = Command::new("make");
    command.arg("ARCH=um").arg(format!("O={}", out.display())).current_dir(source);
    // What the caller exports for builds of their own must not reach this one.
    for name in ["MAKEFLAGS", "MFLAGS", "CFLAGS", "LDFLAGS", "CROSS_COMPILE", "KBUILD_OUTPUT", "SUBARCH"] {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C");
    command
}

/// The options of `fragment` that `config` does not have as asked.
#[must_use]
pub fn missing_options(fragment: &str, config: &str) -> Vec<String> {
    let has = |wanted: &str| config.lines().any(|line| line == wanted);
    let mut missing = Vec::new();
    for line in fragment.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
            let prefix = format!("{name}=");
            if config.lines().any(|line| line.starts_with(&prefix)) {
                missing.push(format!("{name} (to be off)"));
            }
        } else if line.starts_with("CONFIG_") && !has(line) {
            missing.push(line.to_owned());
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_option_is_named() {
        let fragment = "# a comment\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=\"x\"\n# CONFIG_D is not set\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n";
        assert_eq!(missing_options(fragment, config), ["CONFIG_B=y"]);
        let config = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=\"y\"\nCONFIG_D=y\n";
        assert_eq!(missing_options(fragment, config), ["CONFIG_C=\"x\"", "CONFIG_D (to be off)"]);
    }

    #[test]
    fn a_prefix_of_an_option_is_not_the_option() {
        assert_eq!(missing_options("CONFIG_DRM=y\n", "CONFIG_DRM_VKMS=y\n"), ["CONFIG_DRM=y"]);
        assert_eq!(missing_options("CONFIG_DRM=y\n", "CONFIG_DRM=m\n"), ["CONFIG_DRM=y"]);
    }

    #[test]
    fn the_options_hold_what_the_lab_promises() {
        for name in [
            "DRM_VKMS",
            "DRM_VGEM",
            "UDMABUF",
            "DMABUF_HEAPS_SYSTEM",
            "SW_SYNC",
            "INPUT_UINPUT",
            "VIDEO_VIVID",
        ] {
            assert!(OPTIONS.lines().any(|line| line == format!("CONFIG_{name}=y")), "{name}");
        }
    }
}
