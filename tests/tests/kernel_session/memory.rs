//! The headless backend on a machine that has exporters: real dma-bufs on the embedded device.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use primeway_tests::format::Format;
use primeway_tests::picture::{Pattern, Picture};
use primeway_tests::session::sibling_program;

use crate::desktop::{Launch, PATIENCE};

/// Every exporter's buffers, and a memfd, are taken as foreign memory, shown by the planes, and given back.
pub fn headless_takes_real_dmabufs() -> Result<()> {
    let mut desktop =
        Launch::new("memory")?.arguments(&["--backend", "headless", "--size", "640x480"]).start()?;
    let mut before = None;
    for (allocator, format, worst) in
        [("vgem", "XR24", 0.0), ("udmabuf", "NV12", 2.0), ("heap", "XR24", 0.0), ("memfd", "NV12", 2.0)]
    {
        let arguments = [
            "--alloc",
            allocator,
            "--format",
            format,
            "--static",
            "--pattern",
            "noise:5",
            "--size",
            "300x200",
        ];
        let mut client = desktop.client(&format!("{allocator}-{format}"), &arguments)?;
        client.wait_presented(PATIENCE)?;
        let pid = client.pid();
        let stats = desktop.wait_stats("a zero-copy frame", |stats| {
            stats.surface(pid).is_some_and(|surface| surface.frames_zero_copy > 0)
        })?;
        let surface = stats.surface(pid).context("no window")?;
        let origin = surface.origin.as_deref().unwrap_or("none");
        ensure!(origin.starts_with("foreign"), "{allocator} is said to be {origin}");
        let ledger = Command::new(sibling_program("primeway")?)
            .args(["ctl", "ledger"])
            .env("WAYLAND_DISPLAY", &desktop.display)
            .output()
            .context("primeway ctl ledger")?;
        let ledger = String::from_utf8_lossy(&ledger.stdout);
        ensure!(ledger.contains(&format!("\"client {pid}\"")), "no client {pid} in {ledger}");
        let place = (surface.position[0] as u32, surface.position[1] as u32);
        let picture = Picture { pattern: Pattern::Noise(5), width: 300, height: 200, frame: 0 };
        let difference = desktop.capture()?.difference(&picture, &Format::named(format)?, place)?;
        ensure!(difference.steps <= worst, "{allocator} {format}: {difference:?}");
        drop(client);
        let after = desktop.wait_stats("the end of its window", |stats| {
            stats.surface(pid).is_none() && stats.resources.framebuffers == 0
        })?;
        // The first client has composition draw into all that it needs.
        let first = *before.get_or_insert(after.resources.gem_handles);
        ensure!(after.resources.gem_handles == first, "{allocator} left {:?}", after.resources);
    }
    desktop.check_alive()
}
