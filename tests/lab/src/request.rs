//! Owns what the host tells the guest's process 1, and what it answers: two JSON files in the run folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// File in the run folder with the [`Request`].
pub const REQUEST: &str = "request.json";
/// File in the run folder with the [`Answer`].
pub const ANSWER: &str = "answer.json";
/// Name of the environment variable (a kernel argument) that gives process 1 the run folder.
pub const RUN_VARIABLE: &str = "PRIMEWAY_LAB_RUN";

/// What the guest is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The folder that becomes the guest's root (below a throw-away overlay): `/` or a sid root.
    pub root: PathBuf,
    /// Folders of the host that the guest sees too, each below a throw-away overlay, when `root` is not `/`.
    pub shared: Vec<PathBuf>,
    /// The run folder, the one place that the guest writes to for real.
    pub run: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment of the program.
    pub environment: Vec<(String, String)>,
    /// Where the program starts.
    pub directory: PathBuf,
    /// The user and group that it runs as.
    pub uid: u32,
    /// vkms devices to build, as SPEC texts.
    pub vkms: Vec<String>,
    /// Whether seatd runs.
    pub seatd: Seatd,
    /// The program gets the serial line as its terminal, rather than files for its output.
    pub terminal: bool,
}

/// How seatd runs in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Seatd {
    /// Bound to virtual terminals: a session can be switched away and back.
    #[default]
    Vt,
    /// Without virtual terminals: several sessions in turn.
    Free,
    /// Not started.
    None,
}

/// What process 1 reports at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The command's exit status, as a shell reports it.
    Exit(i32),
    /// The guest could not be set up; the reason.
    Failed(String),
}

/// The file that a stream of the command goes to.
#[must_use]
pub fn stream(run: &Path, name: &str) -> PathBuf {
    run.join(name)
}
