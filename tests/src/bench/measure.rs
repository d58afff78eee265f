//! One scenario with one compositor: what the client saw, and what kernel and compositor did meanwhile.
//!
//! Owns the sequence of a measurement and its arithmetic.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drm::{Device as _, VblankWaitFlags, VblankWaitTarget};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::client::{Frame, Plan, Record, now};
use super::peers::{Guest, Peer, Place, RunningPeer};
use super::pointer::Mouse;
use super::scenario::{DISPLAY, Scenario};
use super::trace::{self, Calls};
use super::{Outcome, churn, client};
use crate::debugfs::DebugDevice;
use crate::drm_node::DrmNode;
use crate::kms_master::KmsMaster;
use crate::process::Process;
use crate::session::{end, sibling_program, wait_end};

/// From the first frames to the interval: what is done once is done by then.
const SETTLE: Duration = Duration::from_millis(1500);
/// How long until every window has been presented.
const READY: Duration = Duration::from_secs(30);
/// How long system calls are traced.
const TRACED: Duration = Duration::from_secs(3);
/// How many bare flips are measured.
const FLIPS: usize = 180;
/// How often the kernel is asked during the interval what its planes show.
const LOOKS: u32 = 5;

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// From start to the answer of a first round trip, in seconds.
    pub answer: f64,
    /// From start to the first frame on the screen, in seconds.
    pub first_frame: Option<f64>,
    /// Memory in use at the end of the interval, in MiB.
    pub resident: f64,
    /// What windows that were shown did.
    pub frames: Option<Frames>,
    /// What creating and destroying buffers took.
    pub churn: Option<Churn>,
}

/// What windows did during the interval.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Frames {
    /// Windows that were asked for.
    pub windows: u32,
    /// Windows that were ever presented.
    pub shown: u32,
    /// Presented frames of all windows together.
    pub presented: u64,
    /// The same per second.
    pub fps: f64,
    /// Of the vblanks in the interval, those at which some frame was presented; 0 to 1.
    pub vblanks: f64,
    /// Presented frames with the ZERO_COPY flag; 0 to 1.
    pub zero_copy: f64,
    /// Windows on planes by the kernel's word, of all; 0 to 1. `None` for wl_shm.
    pub on_planes: Option<f64>,
    /// CPU time of the compositor per presented frame, in microseconds.
    pub cpu: f64,
    /// CPU time of the compositor per second, in milliseconds.
    pub cpu_per_second: f64,
    /// DRM ioctls per presented frame.
    pub drm_ioctls: f64,
    /// System calls per presented frame, `clock_gettime` aside.
    pub calls: f64,
    /// Frames that were presented while system calls were traced.
    pub traced: u64,
    /// System calls per presented frame by name.
    pub by_name: Vec<(String, f64)>,
    /// From commit to presented, in milliseconds: half of the frames took less.
    pub latency_p50: f64,
    /// The same for 99 of 100 frames.
    pub latency_p99: f64,
}

/// What creating and destroying buffers took, each, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Churn {
    /// Time that passed.
    pub wall: f64,
    /// CPU time of the compositor.
    pub cpu: f64,
    /// Buffers that were created while system calls were traced.
    pub traced: u64,
    /// DRM ioctls for each.
    pub drm_ioctls: f64,
    /// System calls for each, `clock_gettime` aside.
    pub calls: f64,
    /// The same by name.
    pub by_name: Vec<(String, f64)>,
}

/// Measures one scenario with one compositor.
///
/// # Errors
///
/// When the compositor does not start, or does not show what it should.
pub fn measure(guest: &Guest, peer: Peer, scenario: Scenario, interval: Duration) -> Result<Outcome> {
    let plan = scenario.plan();
    let place = Place::new(peer, scenario)?;
    // Before the compositor: it waits for the socket.
    let mut client = Client::start(&plan, &place)?;
    let mouse = scenario.has_pointer().then(Mouse::start).transpose()?;
    let mut running = RunningPeer::start(guest, peer, scenario, &place)?;
    let outcome = watch(&mut running, &mut client, scenario, interval, &place);
    drop(mouse);
    if let Err(alive) = running.check_alive() {
        return outcome.and(Err(alive));
    }
    outcome.with_context(|| format!("its log ends with: {}", running.log_end()))
}

fn watch(
    running: &mut RunningPeer,
    client: &mut Client,
    scenario: Scenario,
    interval: Duration,
    place: &Place,
) -> Result<Outcome> {
    let plan = scenario.plan();
    let ready = client.wait_ready(running)?;
    if !ready {
        let record = client.finish()?;
        let Some(lacks) = record.lacks else { bail!("the client ended before it showed anything") };
        return Ok(Outcome::Lacks(lacks));
    }
    if let Some(count) = plan.churn {
        return churn(running, client, count, place);
    }
    std::thread::sleep(SETTLE);
    let device = DebugDevice::of_driver("vkms")?;
    let node = DrmNode::of_driver("vkms")?;
    let process = Process::open(running.pid())?;

    let (cpu, vblank, from) = (cpu(running.pid())?, vblank(&node)?, now());
    let start = Instant::now();
    let mut looks = Vec::new();
    for look in 1..=LOOKS {
        std::thread::sleep((interval * look / (LOOKS + 1)).saturating_sub(start.elapsed()));
        looks.push(on_planes(&device, &plan)?);
    }
    std::thread::sleep(interval.saturating_sub(start.elapsed()));
    let (cpu, vblanks, to) =
        (self::cpu(running.pid())? - cpu, self::vblank(&node)?.wrapping_sub(vblank), now());
    let resident = process.resident_kib()? as f64 / 1024.0;
    let calls = trace::trace(running.pid(), TRACED, &place.folder.join("strace.log"))?;
    running.check_alive()?;

    let record = client.finish()?;
    let first = record.frames.iter().map(|frame| frame.presented).min();
    let mut frames = count(&record, &plan, from, to, vblanks)?;
    frames.cpu = cpu.as_secs_f64() * 1e6 / frames.presented as f64;
    frames.cpu_per_second = cpu.as_secs_f64() * 1e3 * 1e9 / (to - from) as f64;
    frames.on_planes =
        (!scenario.is_shm()).then(|| looks.iter().sum::<f64>() / f64::from(LOOKS) / f64::from(plan.windows));
    per_frame(&mut frames, &record, &calls)?;
    Ok(Outcome::Measured(Box::new(Figures {
        answer: seconds(running.started, record.answered),
        first_frame: first.map(|first| seconds(running.started, first)),
        resident,
        frames: Some(frames),
        churn: None,
    })))
}

fn churn(running: &mut RunningPeer, client: &mut Client, count: u64, place: &Place) -> Result<Outcome> {
    let cpu = cpu(running.pid())?.saturating_sub(client.cpu_before.context("the client did not answer")?);
    let resident = Process::open(running.pid())?.resident_kib()? as f64 / 1024.0;
    let calls = trace::trace(running.pid(), TRACED, &place.folder.join("strace.log"))?;
    let record = client.finish()?;
    let wall = record.churn.context("the client created nothing")?;
    let batches = record.batches.iter().filter(|at| (calls.from..calls.to).contains(*at)).count() as u64;
    ensure!(batches > 0, "nothing was created while system calls were traced");
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    let traced = batches * churn::BATCH;
    Ok(Outcome::Measured(Box::new(Figures {
        answer: seconds(running.started, record.answered),
        first_frame: None,
        resident,
        frames: None,
        churn: Some(Churn {
            wall: each(wall),
            cpu: each(cpu),
            traced,
            drm_ioctls: calls.drm() as f64 / traced as f64,
            calls: calls.total() as f64 / traced as f64,
            by_name: calls.each(traced),
        }),
    })))
}

fn seconds(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e9
}

/// CPU time of a process, all threads, to the nanosecond: what /proc/PID/stat has in ticks of 10 ms.
fn cpu(pid: i32) -> Result<Duration> {
    let clock: ClockId = clock_getcpuclockid(Pid::from_raw(pid)).context("clock_getcpuclockid")?;
    Ok(clock_gettime(clock).context("clock_gettime")?.into())
}

/// CPU time of one page flip by a process that does nothing else, in microseconds: what no compositor can save. vkms maps
/// each buffer anew, for its composer, in the call that shows it.
///
/// # Errors
///
/// When somebody else drives the display.
pub fn bare_flip() -> Result<f64> {
    let plan = Scenario::Fullscreen.plan();
    let buffers =
        (0..client::BUFFERS).map(|index| client::allocate(&plan, index)).collect::<Result<Vec<_>>>()?;
    let master = KmsMaster::take(DrmNode::of_driver("vkms")?)?;
    // The mode and the first mappings are not counted.
    master.flip(&buffers, 30)?;
    let own = std::process::id() as i32;
    let before = cpu(own)?;
    master.flip(&buffers, FLIPS)?;
    Ok((cpu(own)? - before).as_secs_f64() * 1e6 / FLIPS as f64)
}

/// The kernel's count of vblanks.
fn vblank(node: &DrmNode) -> Result<u32> {
    let reply = node.wait_vblank(VblankWaitTarget::Relative(0), VblankWaitFlags::empty(), 0, 0);
    Ok(reply.context("WAIT_VBLANK")?.frame())
}

/// How many planes show a buffer of the client, which is another device's memory and as large as a window.
fn on_planes(device: &DebugDevice, plan: &Plan) -> Result<f64> {
    let shows = |framebuffer: &crate::debugfs::FramebufferState| {
        framebuffer.imported && framebuffer.size == [plan.size.0, plan.size.1]
    };
    let planes = device.planes()?;
    let seen = planes.iter().filter(|plane| !plane.is_out_of_sight(DISPLAY));
    Ok(seen.filter(|plane| plane.framebuffer.as_ref().is_some_and(shows)).count() as f64)
}

fn count(record: &Record, plan: &Plan, from: u64, to: u64, vblanks: u32) -> Result<Frames> {
    let within = |frame: &&Frame| (from..to).contains(&frame.presented);
    let frames: Vec<&Frame> = record.frames.iter().filter(within).collect();
    ensure!(!frames.is_empty() && vblanks > 0, "nothing was presented in {vblanks} vblanks");
    let mut times: Vec<u64> = frames.iter().map(|frame| frame.presented).collect();
    times.sort_unstable();
    times.dedup();
    let mut latencies: Vec<f64> =
        frames.iter().map(|frame| seconds(frame.committed, frame.presented) * 1e3).collect();
    latencies.sort_by(f64::total_cmp);
    let zero_copy = frames.iter().filter(|frame| frame.zero_copy).count();
    Ok(Frames {
        windows: plan.windows,
        shown: record.shown,
        presented: frames.len() as u64,
        fps: frames.len() as f64 / seconds(from, to),
        vblanks: times.len() as f64 / f64::from(vblanks),
        zero_copy: zero_copy as f64 / frames.len() as f64,
        latency_p50: percentile(&latencies, 50),
        latency_p99: percentile(&latencies, 99),
        ..Frames::default()
    })
}

/// The value that `percent` of the sorted `values` do not exceed.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let index = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(index).copied().unwrap_or_default()
}

/// Divides the traced calls by the frames that were presented meanwhile.
fn per_frame(frames: &mut Frames, record: &Record, calls: &Calls) -> Result<()> {
    let traced = record.frames.iter().filter(|frame| (calls.from..calls.to).contains(&frame.presented));
    let traced = traced.count();
    ensure!(traced > 0, "nothing was presented while system calls were traced");
    let each = |count: u64| count as f64 / traced as f64;
    frames.traced = traced as u64;
    frames.drm_ioctls = each(calls.drm());
    frames.calls = each(calls.total());
    frames.by_name = calls.each(traced as u64);
    Ok(())
}

/// The client's process.
struct Client {
    child: Child,
    lines: mpsc::Receiver<String>,
    record: PathBuf,
    errors: PathBuf,
    /// The compositor's CPU time when it first answered.
    cpu_before: Option<Duration>,
}

impl Client {
    fn start(plan: &Plan, place: &Place) -> Result<Client> {
        let program = sibling_program("primeway-bench-client")?;
        let record = place.folder.join("record.json");
        let errors = place.folder.join("client.log");
        let mut child = Command::new(&program)
            .arg(serde_json::to_string(plan)?)
            .arg(&record)
            .env("XDG_RUNTIME_DIR", &place.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).context("the client's log")?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Client { child, lines, record, errors, cpu_before: None })
    }

    /// Waits until all windows are on the screen; `false` when the client has ended instead, or not all are in time.
    fn wait_ready(&mut self, running: &mut RunningPeer) -> Result<bool> {
        let deadline = Instant::now() + READY;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) if line == client::READY => return Ok(true),
                Ok(line) if line == client::ANSWERED => self.cpu_before = Some(cpu(running.pid())?),
                Ok(line) => bail!("the client says {line:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(false),
                Err(mpsc::RecvTimeoutError::Timeout) => running.check_alive()?,
            }
            // Windows that a compositor hides are never presented; the figures say how many were.
            if Instant::now() > deadline {
                return Ok(self.child.try_wait().context("cannot wait for the client")?.is_none());
            }
        }
    }

    /// Ends it, and reads what it recorded.
    fn finish(&mut self) -> Result<Record> {
        drop(self.child.stdin.take());
        let status =
            wait_end(&mut self.child, Duration::from_secs(60))?.context("the client does not end")?;
        let said = std::fs::read_to_string(&self.errors).unwrap_or_default();
        ensure!(status.success(), "the client ended with {status}: {}", said.trim());
        let text = std::fs::read(&self.record).context("the client's record")?;
        serde_json::from_slice(&text).context("the client's record")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        end(&mut self.child, Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 50), 100.0);
        assert_eq!(percentile(&values, 99), 198.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
    }

    #[test]
    fn frames_of_one_vblank_count_as_one_vblank() {
        let frame = |window, presented, zero_copy| Frame { window, committed: 0, presented, zero_copy };
        let frames = vec![frame(0, 10, true), frame(1, 10, false), frame(0, 20, true), frame(0, 99, true)];
        let record = Record { frames, shown: 2, ..Record::default() };
        let counted = count(&record, &Scenario::Windows8.plan(), 5, 50, 4).unwrap();
        assert_eq!((counted.presented, counted.vblanks), (3, 0.5));
        assert_eq!(counted.zero_copy, 2.0 / 3.0);
    }

    #[test]
    fn own_cpu_time_is_finer_than_a_tick() {
        let own = std::process::id() as i32;
        let before = cpu(own).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2) {}
        let used = cpu(own).unwrap() - before;
        assert!(used >= Duration::from_millis(1), "{used:?}");
    }
}
