//! Owns `cargo lab bench`: the release build, and the run of the measuring program in the sid guest.
//! Does not own what is measured (crate `primeway-tests`, program `primeway-bench`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::packages::Consent;
use crate::request::Seatd;
use crate::run::{self, Options};
use crate::testing::cargo;
use crate::{layout, progress, sid};

/// What every scenario runs on: a plane for each of eight windows beside the primary one.
const DISPLAY: &str = "overlays=8,cursor";

/// Builds and measures; returns the exit status to pass on. `arguments` are those of `primeway-bench`.
///
/// # Errors
/// When the build fails, the sid root cannot be made, or the run cannot start.
pub fn run(linux: &Path, arguments: &[String], consent: Consent) -> Result<i32> {
    warn_if_busy();
    let sid = sid::ensure(consent).map_err(sid::Unavailable::into_error)?;
    progress::say("building primeway and the measuring programs in release");
    if !cargo()
        .args(["build", "--release", "--package", "primeway", "--package", "primeway-tests", "--bins"])
        .status()
        .context("cannot run cargo")?
        .success()
    {
        bail!("the build failed");
    }
    let program = layout::target().join("release/primeway-bench");
    let mut command = vec![program.to_str().context("the target folder is not UTF-8")?.to_owned()];
    command.extend_from_slice(arguments);
    let options = Options {
        command,
        sid: Some(sid),
        vkms: vec![DISPLAY.to_owned()],
        timeout: Some(Duration::from_secs(3600)),
        // Sessions one after the other, none of which is switched away.
        seatd: Seatd::Free,
        name: Some("bench".to_owned()),
        first: true,
        // On one CPU of the host, so that more would only wait for each other.
        cpus: 1,
        ..Options::default()
    };
    progress::say("starting the lab kernel, and the compositors in it one after the other");
    let outcome = run::run(linux, &options)?;
    let table = outcome.folder.join("table.md");
    if table.is_file() {
        progress::say(&format!("the figures: {} and results.json beside it", table.display()));
    }
    Ok(outcome.ending.status())
}

/// Whatever else runs takes time from all compositors, but not the same time from each.
fn warn_if_busy() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = load.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    if let Some(load) = minute.filter(|load| *load > 1.0) {
        progress::say(&format!("the host is busy (load {load}): times will be noise, counts will not"));
    }
}
