//! Owns `cargo lab demo`: build, run the demo program in the guest, say where its picture is.
//! Does not own the demo itself nor its verdict (crate `primeway-tests`, program `primeway-demo`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::{self, Options};
use crate::testing::cargo;
use crate::{layout, progress};

/// Builds and runs the demo; returns the exit status to pass on.
///
/// # Errors
/// When the build fails or the run cannot start.
pub fn run(linux: &Path) -> Result<i32> {
    progress::say("building primeway and its test clients");
    // The whole workspace with its examples: the dependencies' features are then those of the tests, and nothing is built twice.
    if !cargo()
        .args(["build", "--workspace", "--bins", "--examples"])
        .status()
        .context("cannot run cargo")?
        .success()
    {
        bail!("the build failed");
    }
    let program = layout::target().join("debug/primeway-demo");
    let options = Options {
        command: vec![program.to_str().context("the target folder is not UTF-8")?.to_owned()],
        timeout: Some(Duration::from_secs(300)),
        name: Some("demo".to_owned()),
        ..Options::default()
    };
    progress::say("starting the lab kernel and the demo in it");
    let outcome = run::run(linux, &options)?;
    let picture = outcome.folder.join("screen.png");
    if picture.is_file() {
        println!("what the display showed: {}", picture.display());
    }
    Ok(outcome.ending.status())
}
