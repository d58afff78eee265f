//! What the sid guest promises: newer clients and tools, usable there.
//!
//! Owns the promises seen from inside; how primeway treats those clients is in other `sid_*` targets.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use primeway_tests::kernel_cases::{self, Case};

const CASES: &[Case] = &[
    ("the_clients_are_there", the_clients_are_there),
    ("libdrm_lists_devices_on_the_faux_bus", libdrm_lists_devices_on_the_faux_bus),
    ("strace_counts_ioctls", strace_counts_ioctls),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}, {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn the_clients_are_there() -> Result<()> {
    for client in [
        "weston-simple-dmabuf-feedback",
        "weston-simple-dmabuf-egl",
        "weston-simple-dmabuf-v4l",
        "weston-simple-egl",
        "weston-terminal",
        "foot",
    ] {
        ensure!(Path::new("/usr/bin").join(client).is_file(), "no {client}");
    }
    let version = output("weston", &["--version"])?;
    let major: u32 = version
        .split_whitespace()
        .nth(1)
        .and_then(|version| version.split('.').next()?.parse().ok())
        .with_context(|| format!("no version in {version:?}"))?;
    ensure!(major >= 14, "weston {version}");
    Ok(())
}

/// libdrm before 2.4.125 fails to list vkms and vgem, which breaks clients that look for their device.
fn libdrm_lists_devices_on_the_faux_bus() -> Result<()> {
    let node = lab::vkms::card_by_driver("vkms")?;
    let info = output("drm_info", &[node.to_str().context("node")?])?;
    ensure!(info.contains("Driver: vkms"), "drm_info: {info}");
    let version = output("dpkg-query", &["--show", "--showformat=${Version}", "libdrm2"])?;
    let patch: u32 = version
        .split(['.', '-', '+'])
        .nth(2)
        .and_then(|patch| patch.parse().ok())
        .with_context(|| format!("no version in {version:?}"))?;
    ensure!(patch >= 125, "libdrm {version}");
    Ok(())
}

fn strace_counts_ioctls() -> Result<()> {
    let node = lab::vkms::card_by_driver("vkms")?;
    let text = output("strace", &["-f", "-e", "trace=ioctl", "drm_info", node.to_str().context("node")?])?;
    ensure!(text.contains("DRM_IOCTL_VERSION"), "no DRM ioctl in strace's output: {text}");
    Ok(())
}
