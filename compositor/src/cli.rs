//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::backend::kms::pacing::Vrr;
use crate::clients::LimitArg;
use crate::ctl::explain::Query;
use crate::record::replay::ReplayArgs;
pub use crate::render::choice::Renderer;

/// A Wayland compositor built around dma-buf, PRIME and display planes.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Talk to a running primeway.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where pictures go.
    #[arg(long, value_enum, default_value_t = BackendKind::Kms)]
    pub backend: BackendKind,

    /// Name of the Wayland socket in $XDG_RUNTIME_DIR [default: the first free wayland-N].
    #[arg(long, value_name = "NAME", value_parser = parse_socket)]
    pub socket: Option<String>,

    /// The one display device to drive [default: all of the seat that have displays, also those that come later].
    #[arg(long, value_name = "NODE")]
    pub device: Option<PathBuf>,

    /// Attach the writeback connectors, so that `primeway ctl capture --writeback` can read back what is shown.
    #[arg(long)]
    pub writeback: bool,

    /// What composites that no plane shows.
    #[arg(long, value_enum, default_value_t = Renderer::Auto)]
    pub renderer: Renderer,

    /// DRM node that OpenGL ES draws on [default: the display's GPU, else the first one].
    #[arg(long, value_name = "NODE")]
    pub render_node: Option<PathBuf>,

    /// Composite everything: no plane shows a client's buffer.
    #[arg(long)]
    pub no_direct_scanout: bool,

    /// When displays that can are refreshed when there is something new, rather than at a fixed rate.
    #[arg(long, value_enum, default_value_t = Vrr::Auto)]
    pub vrr: Vrr,

    /// Record what planes can do, what is to be shown and what the driver says, for `primeway replay`; no titles. It
    /// ends at 64 MiB.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Size of the headless output in pixels.
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "1024x768", value_parser = parse_size)]
    pub size: (u32, u32),

    /// A quota of each client: surfaces, objects, buffers, bytes, params, pending, pools, files, outgoing,
    /// commits, timelines; or open-files, of the whole process. K, M and G are powers of 1024. May be given several times.
    #[arg(long = "limit", value_name = "NAME=NUMBER", value_parser = LimitArg::parse)]
    pub limits: Vec<LimitArg>,

    /// Program to run; primeway ends with it, with its exit status.
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<String>,
}

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// A display device of the seat.
    Kms,
    /// An output in memory; needs no device and no rights.
    Headless,
}

/// What to do instead of running a compositor.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk to a running primeway.
    Ctl(Ctl),
    /// Tell of surfaces whether planes scan them out, why not, and what would help.
    #[command(after_help = EXPLAIN_STATUS)]
    Explain(ExplainArgs),
    /// Tell what every display plane shows.
    #[command(after_help = STATUS)]
    Planes(To),
    /// Tell which outputs there are and what modes their displays have; with a name, change one.
    Output(OutputArgs),
    /// Tell who holds how many buffers, framebuffers and GEM handles.
    #[command(after_help = STATUS)]
    Buffers(To),
    /// Tell what is shown where, and then every change, until primeway ends; with --json a line each.
    #[command(after_help = STATUS)]
    Events(To),
    /// Show planes and surfaces live in a terminal; with --json a line each second.
    #[command(after_help = STATUS)]
    Top(To),
    /// Print counters as text, a name and a number in each line, for monitors of kiosks; with --json as an object.
    #[command(after_help = STATUS)]
    Counters(To),
    /// Write a page about devices, planes, surfaces and what happened lately, for a bug report; with --json what the page is
    /// made of. Titles are left out.
    #[command(after_help = STATUS)]
    Report(ReportArgs),
    /// Ask a display device what it takes: import, ADDFB2 and TEST_ONLY by format, modifier, plane and whose memory it is.
    /// It needs no running primeway, shows nothing and changes nothing.
    #[command(after_help = PROBE_STATUS)]
    Probe(ProbeArgs),
    /// Plan again what `--record` recorded, without a display, and compare.
    #[command(after_help = REPLAY_STATUS)]
    Replay(ReplayArgs),
    /// Exit 0 if a program's windows are scanned out, 3 if not: for tests.
    #[command(after_help = EXPLAIN_STATUS)]
    Check(CheckArgs),
}

/// What those exit with that ask a running primeway and judge nothing.
const STATUS: &str = "Exit status:
  0  there is an answer
  1  there is no primeway to ask, or it is another user's; of `top`, also if there is no terminal
  2  the command line is wrong";

/// What `probe` exits with.
const PROBE_STATUS: &str = "Exit status:
  0  the device was asked, whatever it takes
  1  there is no such device, or a SPEC is wrong
  2  the command line is wrong";

/// What `explain` and `check` exit with.
const EXPLAIN_STATUS: &str = "Exit status:
  0  every surface asked about that can be seen is scanned out
  3  at least one is composited, or none can be seen
  1  there is no such surface, or no primeway to ask
  2  the command line is wrong";

/// What `replay` exits with.
const REPLAY_STATUS: &str = "Exit status:
  0  every plan is the recorded one
  3  at least one differs, or needs an answer that the recording does not have
  1  a file cannot be used; the message names the line
  2  the command line is wrong";

/// Whom to ask, and how to tell.
#[derive(Clone, Debug, Args)]
pub struct To {
    /// The control socket [default: $PRIMEWAY_SOCKET, else that of $WAYLAND_DISPLAY].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `primeway explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Surfaces of windows with this app id.
    #[arg(long, value_name = "ID")]
    pub app_id: Option<String>,
    /// Surfaces of this process.
    #[arg(long, value_name = "PID")]
    pub pid: Option<i32>,
    /// The surface of this object id, as in WAYLAND_DEBUG.
    #[arg(long, value_name = "ID")]
    pub surface: Option<u32>,
    /// All surfaces [default: those of the window that has the focus].
    #[arg(long, conflicts_with_all = ["app_id", "pid", "surface"])]
    pub all: bool,
    /// Explain again whenever something has changed, until primeway ends; with --json a line each.
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub to: To,
}

impl ExplainArgs {
    /// Which surfaces are asked about.
    pub fn query(&self) -> Query {
        let Self { app_id, pid, surface, all, .. } = self.clone();
        Query { app_id, pid, surface, all }
    }
}

/// `primeway output`.
#[derive(Clone, Debug, Args)]
pub struct OutputArgs {
    /// The output to change, such as HDMI-A-1 [default: tell of all].
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Drive its display with this mode: WIDTHxHEIGHT, WIDTHxHEIGHT@HERTZ or `preferred`. It lasts until the display is gone.
    #[arg(long, value_name = "MODE", requires = "name")]
    pub mode: Option<String>,
    /// Light it.
    #[arg(long, requires = "name")]
    pub on: bool,
    /// Turn it off: windows stay on it and may draw once a second.
    #[arg(long, requires = "name", conflicts_with = "on")]
    pub off: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub to: To,
}

/// `primeway probe`.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// The card's node [default: the first one with a display].
    #[arg(long, value_name = "NODE")]
    pub device: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// A text file with a SPEC in each line; # begins a comment.
    pub file: Option<PathBuf>,
    /// WIDTHxHEIGHT:FORMAT or WIDTHxHEIGHT:FORMAT:MODIFIER, such as 1920x1080:NV12:LINEAR [default: all that the planes list].
    #[arg(last = true, value_name = "SPEC")]
    pub specs: Vec<String>,
}

/// `primeway report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Where to save it; - for the standard output, where JSON goes anyway.
    #[arg(short, long, value_name = "FILE.html", required_unless_present = "json")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub to: To,
}

/// `primeway check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The windows with this app id must be scanned out.
    #[arg(long, value_name = "APP_ID")]
    pub require_scanout: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub to: To,
}

/// `primeway ctl`.
#[derive(Debug, Args)]
pub struct Ctl {
    /// The control socket [default: $PRIMEWAY_SOCKET, else that of $WAYLAND_DISPLAY].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What to ask.
    #[command(subcommand)]
    pub request: CtlRequest,
}

/// Requests of `primeway ctl`.
#[derive(Debug, Subcommand)]
pub enum CtlRequest {
    /// Print device, outputs, planes, clients and resources as JSON.
    Stats,
    /// Print every open GEM handle, framebuffer and descriptor of the PRIME file as JSON, with owner and age.
    Ledger,
    /// Save what an output shows as a PNG.
    Capture {
        /// Read it back through the writeback connector, which is the default and the only way so far.
        #[arg(long)]
        writeback: bool,
        /// The output's name [default: the first].
        #[arg(long, value_name = "NAME")]
        output: Option<String>,
        /// Where to save it.
        file: PathBuf,
    },
}

fn parse_socket(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.len() <= 64 && !text.contains('/') && !text.starts_with('.');
    if plain {
        Ok(text.to_owned())
    } else {
        Err("a socket name is a plain file name of at most 64 bytes".into())
    }
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let parse = |s: &str| s.parse::<u32>().ok().filter(|v| (16..=16384).contains(v));
    text.split_once('x')
        .and_then(|(w, h)| Some((parse(w)?, parse(h)?)))
        .ok_or_else(|| format!("`{text}` is not WIDTHxHEIGHT with both between 16 and 16384"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(parse_size("640x480"), Ok((640, 480)));
        for bad in ["640", "640x", "0x480", "640x99999", "-1x5", "axb"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
