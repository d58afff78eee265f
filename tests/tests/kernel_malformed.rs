//! The table of malformed sequences on a display device, with the kernel's dma-bufs and linux-dmabuf version 6; and what
//! a thief of files gets from a compositor of its own process.
//!
//! Owns the second column of `malformed.md`; the first is written by `headless_bounds`.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::client::malformed::{self, Environment};
use primeway_tests::client::raw::{Arg, DISPLAY, End, FILES_AT_ONCE, Raw, copies, message};
use primeway_tests::format::Format;
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::process::Process;
use primeway_tests::session::{Compositor, RunningClient, artefacts};

const CASES: &[Case] = &[
    ("every_malformed_sequence_has_the_outcome_of_the_table", table),
    ("stray_files_end_their_sender_alone", stray_files),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn connect(compositor: &Compositor) -> Result<Raw> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).context("XDG_RUNTIME_DIR")?;
    Raw::over(UnixStream::connect(folder.join(&compositor.display)).context("cannot connect")?)
}

/// A neighbour in full screen that has drawn `more` frames since it was asked last.
fn draws(neighbour: &mut RunningClient, more: u64, what: &str) -> Result<()> {
    let before = neighbour.counts().map_or(0, |report| report.presented);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while neighbour.counts().map_or(0, |report| report.presented) < before + more {
        ensure!(neighbour.is_running(), "{what}: the neighbour has ended: {}", neighbour.output());
        ensure!(std::time::Instant::now() < deadline, "{what}: the neighbour does not draw");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn neighbour(compositor: &Compositor) -> Result<RunningClient> {
    let mut client = RunningClient::start_test_client(&compositor.display, "neighbour", &["--fullscreen"])?;
    client.wait_presented(Duration::from_secs(10))?;
    Ok(client)
}

fn table() -> Result<()> {
    let mut compositor = Compositor::start("malformed", &[])?;
    let mut neighbour = neighbour(&compositor)?;
    let memory = ClientBuffer::allocate(Allocator::Udmabuf, Format::named("XR24")?, 64, 64)?;
    let mut outcomes = Vec::new();
    for case in malformed::cases() {
        let raw = connect(&compositor)?;
        let file = memory.plane_fd(0).try_clone_to_owned()?;
        outcomes.push((case.name, malformed::outcome(&case, raw, file, Environment::Display)?));
        compositor.check_alive().with_context(|| case.name)?;
    }
    draws(&mut neighbour, 30, "after the table")?;
    let bless = std::env::var_os("PRIMEWAY_BLESS").map(|_| artefacts().join("malformed.md"));
    malformed::compare(Environment::Display, &outcomes, bless.as_deref())
}

fn stray_files() -> Result<()> {
    let mut compositor = Compositor::start("stray-files", &[])?;
    let mut neighbour = neighbour(&compositor)?;
    let process = Process::open(compositor.pid())?;
    let before = process.open_files()?;
    let null = File::open("/dev/null")?;
    for turn in 0..20 {
        let mut raw = connect(&compositor)?;
        for _ in 0..100 {
            let callback = raw.id();
            raw.send(&message(DISPLAY, 0, &[Arg::U(callback)]), &copies(&null, FILES_AT_ONCE))?;
        }
        let end = raw.end()?;
        ensure!(matches!(end, End::Error { object: DISPLAY, code: 3, .. }), "{turn}: {end:?}");
    }
    draws(&mut neighbour, 30, "after stray files")?;
    compositor.check_alive()?;
    let after = process.open_files()?;
    println!("stray_files_end_their_sender_alone: {before} files before, {after} after");
    // The neighbour's own come and go; each of the twenty sent hundreds.
    ensure!(after < before + 10, "{after} files, {before} before");
    Ok(())
}
