//! `primeway-test-client`: a Wayland client that shows a test picture from a dma-buf and counts what becomes of it.
//!
//! Owns the command line only; the client is `primeway_tests::client`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use primeway_tests::buffer::{Allocator, Placement};
use primeway_tests::client::bad::{self, BadCase};
use primeway_tests::client::connection::BufferRequest;
use primeway_tests::client::{self, Options};
use primeway_tests::format::{Format, MODIFIER_INVALID, MODIFIER_LINEAR};
use primeway_tests::picture::Pattern;

/// Shows a test picture from a dma-buf and prints what the compositor did with it, as one JSON line.
#[derive(Debug, Parser)]
#[command(name = "primeway-test-client", version)]
struct Cli {
    /// Where the buffers come from.
    #[arg(long, value_enum, default_value = "vgem")]
    alloc: Allocator,
    /// Pixel format by its four characters: XR24 AR24 NV12 P010 ...
    #[arg(long, default_value = "XR24")]
    format: String,
    /// Put each plane into a memory object of its own.
    #[arg(long)]
    separate_planes: bool,
    /// Leave so many bytes before the first plane of an object.
    #[arg(long, default_value_t = 0)]
    offset: u32,
    /// Buffer size, WIDTHxHEIGHT [default: 256x256, or the output's size in full screen].
    #[arg(long, value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// card, `noise[:SEED]` or solid:AARRGGBB.
    #[arg(long, default_value = "card", value_parser = parse_pattern)]
    pattern: Pattern,
    /// Ask for full screen.
    #[arg(long)]
    fullscreen: bool,
    /// Scale the surface by wp_viewport, WIDTHxHEIGHT.
    #[arg(long, value_parser = parse_size)]
    viewport: Option<(u32, u32)>,
    /// wl_surface.set_buffer_transform, by its number in wl_output.transform.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..8))]
    transform: u32,
    /// Add a subsurface of half the size at X,Y.
    #[arg(long, value_parser = parse_place)]
    subsurface: Option<(i32, i32)>,
    /// Add a popup of half the size at X,Y of the window.
    #[arg(long, value_parser = parse_place)]
    popup: Option<(i32, i32)>,
    /// End after so many frames.
    #[arg(long)]
    frames: Option<u64>,
    /// End after so many seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// Commit one frame, then wait for --seconds or a signal.
    #[arg(long = "static")]
    still: bool,
    /// Draw each frame anew instead of committing prepared buffers in turn.
    #[arg(long)]
    redraw: bool,
    /// Make a new wl_buffer for each frame.
    #[arg(long)]
    new_buffer_each_frame: bool,
    /// Buffers in the loop.
    #[arg(long, default_value_t = 3)]
    buffers: usize,
    /// Create and destroy so many wl_buffers, and end.
    #[arg(long)]
    churn: Option<u64>,
    /// Modifier named in the requests.
    #[arg(long, value_enum, default_value = "linear")]
    modifier: Modifier,
    /// Draw bottom up and set the Y_INVERT flag.
    #[arg(long)]
    y_invert: bool,
    /// Use `create` and wait for its answer instead of `create_immed`.
    #[arg(long)]
    create: bool,
    /// Bind zwp_linux_dmabuf_v1 at most at this version.
    #[arg(long, default_value_t = 5)]
    dmabuf_version: u32,
    /// Send a buffer that lies, and compare the error with the XML's.
    #[arg(long, value_enum)]
    bad: Option<BadCase>,
    /// Window title.
    #[arg(long, default_value = "primeway test client")]
    title: String,
    /// Write the process id to this file.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Keep the running counts in this file, as JSON.
    #[arg(long)]
    progress: Option<PathBuf>,
    /// Print the line `presented` when the first frame is on the screen.
    #[arg(long)]
    announce: bool,
    /// Print the report as one JSON line instead of words.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Modifier {
    Linear,
    Invalid,
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let (width, height) = text.split_once('x').ok_or("use WIDTHxHEIGHT")?;
    match (width.parse(), height.parse()) {
        (Ok(width), Ok(height)) if width > 0 && height > 0 => Ok((width, height)),
        _ => Err("use WIDTHxHEIGHT".to_owned()),
    }
}

fn parse_place(text: &str) -> Result<(i32, i32), String> {
    let (x, y) = text.split_once(',').ok_or("use X,Y")?;
    match (x.parse(), y.parse()) {
        (Ok(x), Ok(y)) => Ok((x, y)),
        _ => Err("use X,Y".to_owned()),
    }
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    let (name, argument) = text.split_once(':').unwrap_or((text, ""));
    match name {
        "card" => Ok(Pattern::Card),
        "noise" => argument
            .parse()
            .or(if argument.is_empty() { Ok(1) } else { Err("SEED is a number".to_owned()) })
            .map(Pattern::Noise),
        "solid" => {
            u32::from_str_radix(argument, 16).map(Pattern::Solid).map_err(|_| "use solid:AARRGGBB".to_owned())
        }
        _ => Err("use card, noise[:SEED] or solid:AARRGGBB".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("primeway-test-client: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    if let Some(path) = &cli.pid_file {
        std::fs::write(path, std::process::id().to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(case) = cli.bad {
        let outcome = bad::tell(case, cli.alloc, cli.dmabuf_version)?;
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(if outcome.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if cli.buffers == 0 {
        bail!("--buffers must be at least 1");
    }
    let modifier = match cli.modifier {
        Modifier::Linear => MODIFIER_LINEAR,
        Modifier::Invalid => MODIFIER_INVALID,
    };
    let options = Options {
        allocator: cli.alloc,
        format: Format::named(&cli.format)?,
        placement: Placement { separate: cli.separate_planes, offset: cli.offset },
        size: cli.size,
        pattern: cli.pattern,
        fullscreen: cli.fullscreen,
        viewport: cli.viewport,
        transform: cli.transform,
        subsurface: cli.subsurface,
        popup: cli.popup,
        frames: cli.frames,
        time: cli.seconds.map(Duration::try_from_secs_f64).transpose().context("--seconds")?,
        still: cli.still,
        redraw: cli.redraw,
        new_buffer_each_frame: cli.new_buffer_each_frame,
        buffers: cli.buffers,
        churn: cli.churn,
        request: BufferRequest { modifier, y_invert: cli.y_invert, immediate: !cli.create },
        dmabuf_version: cli.dmabuf_version,
        title: cli.title.clone(),
        progress: cli.progress.clone(),
    };
    let announce = cli.announce;
    let report = client::run(&options, &mut |_| {
        if announce {
            println!("presented");
        }
    })?;
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!(
            "{} frames, {} presented, {} zero-copy ({:.1} %), {} discarded",
            report.frames,
            report.presented,
            report.zero_copy,
            report.zero_copy_percent(),
            report.discarded
        );
    }
    for error in &report.errors {
        eprintln!("primeway-test-client: {error}");
    }
    Ok(if report.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
