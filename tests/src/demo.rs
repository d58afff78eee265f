//! The demo: real clients on a real kernel's display, a table of what became of their buffers, and the verdict
//! of the independent checker.
//!
//! Owns the sequence and its output. It runs as root inside the lab, where seatd and the devices are. Measuring
//! is in `process`, judging in `check`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::check::{self, Subject, Verdict};
use crate::ctl::Stats;
use crate::debugfs::DebugDevice;
use crate::drm_node::card_nodes;
use crate::process::Process;
use crate::session::{Compositor, RunningClient, artefacts};

/// How long frames are counted.
const INTERVAL: Duration = Duration::from_secs(5);
/// The share of zero-copy frames that every client here must reach.
const REQUIRED: f64 = 95.0;
/// Side of each window: four fit side by side on 1024 pixels.
const SIDE: &str = "240";

/// What one client did during the interval.
#[derive(Debug)]
struct Row {
    name: String,
    pid: i32,
    format: String,
    modifier: String,
    origin: String,
    plane: String,
    reason: Option<String>,
    presented: u64,
    zero_copy: u64,
    cpu_ms_per_frame: f64,
}

impl Row {
    fn percent(&self) -> f64 {
        if self.presented == 0 { 0.0 } else { 100.0 * self.zero_copy as f64 / self.presented as f64 }
    }
}

/// Runs the demo; with `user`, primeway runs as that user, the card nodes have mode 0600, and the device comes from
/// seatd alone. `Ok(true)` when everything that should be scanned out was, and the checker agrees.
///
/// # Errors
///
/// When the demo cannot be made at all: primeway does not start, a client ends, the kernel has no vkms.
pub fn run(user: Option<u32>) -> Result<bool> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    println!("primeway demo: a display without a GPU (Linux {kernel}, driver vkms)");
    if let Some(user) = user {
        for node in card_nodes()? {
            std::fs::set_permissions(&node, Permissions::from_mode(0o600))
                .context("cannot close a card node")?;
        }
        println!(
            "primeway runs as user {user}; the card nodes have mode 0600, the device comes from seatd alone."
        );
    }
    println!();
    let real = scanned_out_part(user)?;
    println!();
    let caught = copying_part(user)?;
    println!();
    let good = real && caught;
    println!("{}", if good { "DEMO PASSED" } else { "DEMO FAILED" });
    Ok(good)
}

fn scanned_out_part(user: Option<u32>) -> Result<bool> {
    let mut compositor = Compositor::start_as(user, "demo", &[])?;
    let stats = compositor.ctl.stats()?;
    let node = stats.device.card()?;
    println!("1. primeway drives {} and imports buffers by {}.", node.display(), stats.device.acquisition);
    let mut clients = start_clients(&compositor.display, node)?;
    wait_for_all(&mut compositor, &mut clients)?;
    println!(
        "   Four clients draw for {} seconds, each into memory of another origin or format:",
        INTERVAL.as_secs()
    );
    println!();
    let (rows, compositor_line) = measure(&mut compositor, &mut clients)?;
    print_table(&rows);
    println!();
    println!("   {compositor_line}");
    let screen = artefacts().join("screen.png");
    compositor.capture(&screen).context("capture through the writeback connector")?;
    println!("   What the display showed, read back from the kernel: {}", screen.display());
    println!();
    println!(
        "2. The checker asks the kernel only: it stops all clients, inverts the pixels of one of them in memory"
    );
    println!(
        "   without a commit, and looks whether the CRC of the display changes. Copies would not change it."
    );
    println!();
    let verdict = judge(&compositor, &mut clients)?;
    print_verdict(&verdict, "WRONG");
    compositor.check_alive()?;
    let mut good = verdict.is_consistent();
    for row in &rows {
        let scanned_out = verdict.of(row.pid).is_some_and(|finding| finding.scanned_out);
        if row.percent() < REQUIRED || !scanned_out {
            good = false;
            let reason = row.reason.as_deref().unwrap_or("no reason given");
            println!(
                "   WRONG: {} should be scanned out: {:.1} % zero-copy, {REQUIRED} % required; {reason}",
                row.name,
                row.percent()
            );
        }
    }
    Ok(good)
}

fn copying_part(user: Option<u32>) -> Result<bool> {
    println!(
        "3. The same with PRIMEWAY_TEST_COPY=1: primeway now copies every buffer but still claims zero-copy."
    );
    println!();
    let mut compositor = Compositor::start_as(user, "demo-copy", &[("PRIMEWAY_TEST_COPY", "1")])?;
    let mut clients = test_clients(&compositor.display, &TEST_CLIENTS[..2])?;
    wait_for_all(&mut compositor, &mut clients)?;
    std::thread::sleep(Duration::from_secs(1));
    let verdict = judge(&compositor, &mut clients)?;
    print_verdict(&verdict, "caught");
    let caught =
        verdict.findings.iter().all(|finding| !finding.scanned_out && !finding.disagreements.is_empty());
    if caught {
        println!("   The checker sees a copying build.");
    } else {
        println!("   WRONG: the checker was fooled by a copying build.");
    }
    Ok(caught)
}

/// Name, allocator and format of our own clients.
const TEST_CLIENTS: [(&str, &str, &str); 3] =
    [("vgem XRGB", "vgem", "XR24"), ("vgem NV12", "vgem", "NV12"), ("udmabuf ARGB", "udmabuf", "AR24")];

fn test_clients(display: &str, which: &[(&str, &str, &str)]) -> Result<Vec<RunningClient>> {
    let size = format!("{SIDE}x{SIDE}");
    which
        .iter()
        .map(|(name, allocator, format)| {
            let arguments = ["--alloc", allocator, "--format", format, "--size", &size];
            RunningClient::start_test_client(display, name, &arguments)
        })
        .collect()
}

fn start_clients(display: &str, card: &Path) -> Result<Vec<RunningClient>> {
    let program = Path::new("/usr/bin/weston-simple-dmabuf-egl");
    if !program.exists() {
        bail!("{} is missing: apt install weston", program.display());
    }
    let node = format!("-d{}", card.display());
    let size = format!("-s{SIDE}");
    let weston = RunningClient::start(display, "weston-simple-dmabuf-egl", program, &[&node, &size])?;
    let mut clients = vec![weston];
    clients.extend(test_clients(display, &TEST_CLIENTS)?);
    Ok(clients)
}

fn wait_for_all(compositor: &mut Compositor, clients: &mut [RunningClient]) -> Result<()> {
    for client in clients {
        let pid = client.pid();
        let shown = |stats: &Stats| stats.surface(pid).is_some_and(|surface| surface.frames_presented > 2);
        let what = format!("the first frames of {}", client.name);
        compositor
            .wait_stats(&what, Duration::from_secs(15), shown)
            .with_context(|| format!("{} printed: {}", client.name, client.output()))?;
    }
    // The planner may need some frames until every client has its plane.
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// Frames and CPU time of one moment.
struct Sample {
    at: Instant,
    stats: Stats,
    client_cpu: Vec<f64>,
    compositor_cpu: f64,
}

fn sample(compositor: &Compositor, clients: &[RunningClient]) -> Result<Sample> {
    let cpu = |pid| Process::open(pid)?.cpu_seconds();
    Ok(Sample {
        at: Instant::now(),
        stats: compositor.ctl.stats()?,
        client_cpu: clients.iter().map(|client| cpu(client.pid())).collect::<Result<_>>()?,
        compositor_cpu: cpu(compositor.pid())?,
    })
}

fn measure(compositor: &mut Compositor, clients: &mut [RunningClient]) -> Result<(Vec<Row>, String)> {
    let before = sample(compositor, clients)?;
    std::thread::sleep(INTERVAL);
    compositor.check_alive()?;
    let after = sample(compositor, clients)?;
    let mut rows = Vec::new();
    for (index, client) in clients.iter_mut().enumerate() {
        if !client.is_running() {
            bail!("{} ended: {}", client.name, client.output());
        }
        let pid = client.pid();
        let surface = after.stats.surface(pid).with_context(|| format!("{} has no surface", client.name))?;
        let old = before.stats.surface(pid).cloned().unwrap_or_default();
        let presented = surface.frames_presented.saturating_sub(old.frames_presented);
        let zero_copy = surface.frames_zero_copy.saturating_sub(old.frames_zero_copy);
        let cpu = after.client_cpu[index] - before.client_cpu[index];
        let plane = surface.plane.map_or("composited".to_owned(), |id| {
            let kind = after.stats.plane(id).map_or("plane", |plane| plane.kind.as_str());
            format!("{kind} {id}")
        });
        rows.push(Row {
            name: client.name.clone(),
            pid,
            format: surface.format.clone().unwrap_or_default(),
            modifier: surface.modifier.clone().unwrap_or_default(),
            origin: surface.origin.clone().unwrap_or_default(),
            plane,
            reason: surface.reason.clone(),
            presented,
            zero_copy,
            cpu_ms_per_frame: 1000.0 * cpu / presented.max(1) as f64,
        });
    }
    let commits = |stats: &Stats| stats.outputs.iter().map(|output| output.commits).sum::<u64>();
    let frames = commits(&after.stats).saturating_sub(commits(&before.stats));
    let seconds = (after.at - before.at).as_secs_f64();
    let cpu = after.compositor_cpu - before.compositor_cpu;
    let line = format!(
        "primeway: {frames} atomic commits in {seconds:.1} s, {:.2} ms CPU for each ({:.0} % of one CPU).",
        1000.0 * cpu / frames.max(1) as f64,
        100.0 * cpu / seconds
    );
    Ok((rows, line))
}

fn print_table(rows: &[Row]) {
    let head = ["client", "format", "modifier", "origin", "plane", "presented", "zero-copy", "CPU/frame"]
        .map(str::to_owned);
    let mut table = vec![head.to_vec()];
    for row in rows {
        table.push(vec![
            row.name.clone(),
            row.format.clone(),
            row.modifier.clone(),
            row.origin.clone(),
            row.plane.clone(),
            row.presented.to_string(),
            format!("{} ({:.1} %)", row.zero_copy, row.percent()),
            format!("{:.2} ms", row.cpu_ms_per_frame),
        ]);
    }
    for line in align(&table) {
        println!("   {line}");
    }
}

/// Pads every column to its widest cell.
fn align(table: &[Vec<String>]) -> Vec<String> {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| {
            table.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    table
        .iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

fn judge(compositor: &Compositor, clients: &mut [RunningClient]) -> Result<Verdict> {
    // What each client was told during the last second, by its own count.
    let before: Vec<_> = clients.iter().map(RunningClient::counts).collect();
    std::thread::sleep(Duration::from_secs(1));
    let mut subjects = Vec::new();
    for (client, before) in clients.iter().zip(before) {
        let feedback = client.counts().map(|now| {
            let before = before.unwrap_or_default();
            (now.presented.saturating_sub(before.presented), now.zero_copy.saturating_sub(before.zero_copy))
        });
        subjects.push(Subject { name: client.name.clone(), pid: client.pid(), feedback });
    }
    let device = DebugDevice::of_driver("vkms")?;
    check::check(&device, &compositor.ctl, &subjects)
}

fn print_verdict(verdict: &Verdict, label: &str) {
    for finding in &verdict.findings {
        let seen = if finding.scanned_out {
            "the display changed: scanned out"
        } else {
            "the display did not change: copied"
        };
        println!("   {}: {seen}", finding.name);
        if let (Some(plane), Some(fb)) = (finding.claimed_plane, &finding.framebuffer) {
            println!(
                "      kernel: plane {plane} has framebuffer {} ({} {}x{})",
                fb.id, fb.format, fb.size[0], fb.size[1]
            );
        }
        for disagreement in &finding.disagreements {
            println!("      {label}: {disagreement}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let table = vec![vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(align(&table), ["a    bb", "ccc  d"]);
    }
}
