//! Many buffers and many clients: what they leave behind, and what a client beside them notices.
//!
//! Owns the figures under load. Fairness between hostile clients is in `headless_bounds`, single buffers are in
//! `kernel_clients`. The long form is the release's: 200 clients for a minute, 100,000 buffers.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::Allocator;
use primeway_tests::client::crowd::{Crowd, Size};
use primeway_tests::client::raw::Raw;
use primeway_tests::debugfs::dmabufs;
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::process::Process;
use primeway_tests::session::{Compositor, RunningClient};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CASES: &[Case] = &[
    ("a_crowd_leaves_nothing_behind", a_crowd_leaves_nothing_behind),
    ("buffers_without_end_leave_nothing_behind", buffers_without_end_leave_nothing_behind),
];

/// KiB by which the compositor may grow after the warm-up.
const GROWTH: u64 = 1024;
/// Between two commits of each client of a crowd.
const PACE: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn is_long() -> bool {
    std::env::var_os("PRIMEWAY_LONG").is_some()
}

/// What the compositor holds for others than composition, by the kernel's counts and by its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    fds: usize,
    framebuffers: usize,
    dmabufs: usize,
    handles: usize,
}

fn held(compositor: &Compositor) -> Result<Held> {
    Ok(Held {
        fds: Process::open(compositor.pid())?.open_files()?,
        framebuffers: compositor.framebuffers_of_others()?,
        dmabufs: dmabufs()?,
        handles: compositor.ctl.ledger()?.others_handles(),
    })
}

/// Waits until no client is left, and says what the compositor holds then.
fn at_rest(compositor: &Compositor) -> Result<Held> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !compositor.ctl.stats()?.clients.is_empty() {
        ensure!(Instant::now() < deadline, "clients are still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Two frames, so that nothing of theirs is on screen.
    std::thread::sleep(Duration::from_millis(500));
    held(compositor)
}

/// Waits until the compositor holds what it held before, and says what it holds at last.
fn settled(compositor: &Compositor, before: Held) -> Result<Held> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = held(compositor)?;
        if now == before || Instant::now() > deadline {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Flips of the neighbour, and the time in which they were.
#[derive(Debug, Clone, Copy)]
struct Flips {
    count: u64,
    time: Duration,
}

impl Flips {
    fn of(neighbour: &RunningClient, work: impl FnOnce() -> Result<()>) -> Result<Flips> {
        let presented = || neighbour.counts().map(|report| report.presented).context("no counts");
        let (before, start) = (presented()?, Instant::now());
        work()?;
        Ok(Flips { count: presented()? - before, time: start.elapsed() })
    }

    fn per_second(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }
}

fn neighbour(compositor: &Compositor) -> Result<RunningClient> {
    let mut client = RunningClient::start_test_client(&compositor.display, "neighbour", &["--fullscreen"])?;
    client.wait_presented(Duration::from_secs(10))?;
    Ok(client)
}

/// What connects the clients of a crowd.
fn connect(compositor: &Compositor) -> Result<impl FnMut() -> Result<Raw> + use<>> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).context("XDG_RUNTIME_DIR")?;
    let socket = folder.join(&compositor.display);
    Ok(move || Raw::over(UnixStream::connect(&socket).context("cannot connect")?))
}

fn a_crowd_leaves_nothing_behind() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let (size, warm_up, time) = if is_long() {
        (Size { clients: 200, buffers: 8 }, Duration::from_secs(10), Duration::from_secs(60))
    } else {
        (Size { clients: 50, buffers: 8 }, Duration::from_secs(2), Duration::from_secs(3))
    };
    let mut compositor = Compositor::start("crowd", &[])?;
    let process = Process::open(compositor.pid())?;
    // What the compositor keeps from its first clients on.
    drop(neighbour(&compositor)?);
    drop(Crowd::gather(connect(&compositor)?, Allocator::Udmabuf, Size { clients: 2, buffers: 2 })?);
    let before = at_rest(&compositor)?;

    let mut crowd = Crowd::gather(connect(&compositor)?, Allocator::Udmabuf, size)?;
    crowd.settle()?;
    let full = held(&compositor)?;
    let wanted = size.clients * size.buffers;
    ensure!(full.dmabufs >= before.dmabufs + wanted, "the crowd has no buffers: {before:?} then {full:?}");
    ensure!(full.handles >= wanted, "not imported: {before:?} then {full:?}");
    // On top of them all, so that it is the only one to be shown.
    let neighbour = neighbour(&compositor)?;
    let a_while = time.min(Duration::from_secs(10));
    let alone = Flips::of(&neighbour, || {
        std::thread::sleep(a_while);
        Ok(())
    })?;
    // What a process costs the neighbour that never speaks to the compositor, on a machine with few CPUs.
    let beside_work = Flips::of(&neighbour, || {
        compute(a_while);
        Ok(())
    })?;
    crowd.work(warm_up, PACE)?;
    crowd.settle()?;
    let (warm, cpu) = (process.resident_kib()?, process.cpu_seconds()?);
    let done = crowd.tally;
    let mut residents = Vec::new();
    let beside = Flips::of(&neighbour, || {
        for _ in 0..6 {
            crowd.work(time / 6, PACE)?;
            residents.push(process.resident_kib()?);
        }
        Ok(())
    })?;
    let cpu = process.cpu_seconds()? - cpu;
    crowd.settle()?;
    let resident = process.resident_kib()?;
    let tally = crowd.tally;
    drop((crowd, neighbour));
    let after = settled(&compositor, before)?;
    compositor.check_alive()?;
    println!(
        "{} clients with {} buffers, {:.0} s: {} commits, {} buffers replaced, {} released; {warm} KiB resident \
         after the warm-up, {resident} at the end; {cpu:.1} s of CPU; neighbour {:.1} flips/s alone, {:.1} beside as \
         busy a process without a connection, {:.1} beside the crowd",
        size.clients,
        size.buffers,
        beside.time.as_secs_f64(),
        tally.commits - done.commits,
        tally.replaced - done.replaced,
        tally.released - done.released,
        alone.per_second(),
        beside_work.per_second(),
        beside.per_second(),
    );
    println!("resident meanwhile {residents:?}; before {before:?}, with the crowd {full:?}, after {after:?}");
    ensure!(tally.commits - done.commits >= size.clients as u64 * 3, "the crowd did little: {tally:?}");
    ensure!(after == before, "the crowd left something: before {before:?}, after {after:?}");
    ensure!(resident < warm + GROWTH, "{warm} KiB after the warm-up, {resident} at the end");
    ensure!(beside.count > 0, "the neighbour stood still");
    // The same CPUs in the same minute: only the compositor can make a difference. Short runs differ by chance.
    let fair = !is_long() || beside.per_second() > beside_work.per_second() * 0.9;
    ensure!(
        fair,
        "{beside:?} beside the crowd, {beside_work:?} beside work that is none of the compositor's"
    );
    Ok(())
}

/// Keeps one CPU busy.
fn compute(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..100_000 {
            std::hint::spin_loop();
        }
    }
}

fn buffers_without_end_leave_nothing_behind() -> Result<()> {
    let count: u64 = if is_long() { 100_000 } else { 3000 };
    let mut compositor = Compositor::start("buffers", &[])?;
    let process = Process::open(compositor.pid())?;
    drop(neighbour(&compositor)?);
    let before = at_rest(&compositor)?;
    let mut one = Crowd::gather(connect(&compositor)?, Allocator::Udmabuf, Size { clients: 1, buffers: 4 })?;
    let neighbour = neighbour(&compositor)?;
    let mut warm = 0;
    let beside = Flips::of(&neighbour, || {
        while one.tally.replaced < count {
            one.round()?;
            if one.tally.replaced % 50 == 0 {
                one.settle()?;
            }
            if one.tally.replaced == count / 10 {
                warm = process.resident_kib()?;
            }
        }
        one.settle()
    })?;
    let resident = process.resident_kib()?;
    let tally = one.tally;
    drop((one, neighbour));
    let after = settled(&compositor, before)?;
    compositor.check_alive()?;
    println!(
        "{} buffers of one client in {:.1} s: {warm} KiB resident at a tenth, {resident} at the end; neighbour {:.1} \
         flips/s",
        tally.replaced,
        beside.time.as_secs_f64(),
        beside.per_second(),
    );
    println!("before {before:?}, after {after:?}");
    ensure!(after == before, "the buffers left something: before {before:?}, after {after:?}");
    ensure!(resident < warm + GROWTH, "{warm} KiB at a tenth, {resident} at the end");
    ensure!(beside.count > 0, "the neighbour stood still");
    Ok(())
}
