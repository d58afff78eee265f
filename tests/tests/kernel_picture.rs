//! What the display really shows: pictures and CRCs on the lab's kernel, against references computed here.
//!
//! Owns the picture cases. Each starts its own primeway; the expected picture never comes from the compositor,
//! except for the colour of its empty background, which is read from a corner of the capture.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::crc::{Layer, Scene};
use primeway_tests::ctl::{Stats, Surface};
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::format::Format;
use primeway_tests::kms_master::KmsMaster;
use primeway_tests::picture::{Pattern, Picture};
use primeway_tests::screen::Screen;
use primeway_tests::session::{Compositor, RunningClient, artefacts};

type Case = (&'static str, fn() -> Result<()>);

const CASES: &[Case] = &[
    ("kernel_crc_is_the_model", kernel_crc_is_the_model),
    ("xrgb_full_screen_is_exact", xrgb_full_screen_is_exact),
    ("xrgb_windows_are_exact", xrgb_windows_are_exact),
    ("nv12_scanned_out_is_near_the_reference", || yuv_scanned_out("NV12")),
    ("p010_scanned_out_is_near_the_reference", || yuv_scanned_out("P010")),
    ("nv12_composited_is_near_the_reference", || yuv_composited("NV12")),
    ("p010_composited_is_near_the_reference", || yuv_composited("P010")),
    ("argb_overlay_blends", argb_overlay_blends),
    ("argb_composited_blends", argb_composited_blends),
    ("y_invert_is_upright", y_invert_is_upright),
    ("stacking_with_an_overlay_created_first", stacking_with_an_overlay_created_first),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The cases share one display.
    arguments.test_threads = Some(1);
    let in_lab = std::env::var_os("PRIMEWAY_LAB").is_some();
    if !in_lab {
        println!("kernel_picture: not run here, `cargo lab test` runs it on the lab's kernel");
    }
    let trials = CASES
        .iter()
        .map(|(name, case)| {
            Trial::test(*name, move || case().map_err(|err| Failed::from(format!("{err:#}"))))
                .with_ignored_flag(!in_lab)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A compositor and its clients; the clients end first.
struct Stage {
    clients: Vec<RunningClient>,
    compositor: Compositor,
    name: &'static str,
}

/// What the clients of these cases draw; every pixel differs from its neighbours.
fn noise(seed: u32, width: u32, height: u32) -> Picture {
    Picture { pattern: Pattern::Noise(seed), width, height, frame: 0 }
}

impl Stage {
    fn start(name: &'static str) -> Result<Stage> {
        Ok(Stage { clients: Vec::new(), compositor: Compositor::start(name, &[])?, name })
    }

    /// Starts a still client and waits until it is on the screen; returns its index.
    fn add(&mut self, name: &str, arguments: &[&str]) -> Result<usize> {
        let mut all = vec!["--static"];
        all.extend_from_slice(arguments);
        let mut client = RunningClient::start_test_client(&self.compositor.display, name, &all)?;
        client.wait_presented(Duration::from_secs(10))?;
        self.clients.push(client);
        Ok(self.clients.len() - 1)
    }

    /// Adds a client that shows [`noise`] of a size in a format.
    fn add_noise(&mut self, format: &str, seed: u32, size: (u32, u32), more: &[&str]) -> Result<usize> {
        let (pattern, size) = (format!("noise:{seed}"), format!("{}x{}", size.0, size.1));
        let mut arguments = vec!["--format", format, "--pattern", &pattern, "--size", &size];
        arguments.extend_from_slice(more);
        self.add(&format!("{format}-{seed}"), &arguments)
    }

    fn stats(&mut self) -> Result<Stats> {
        self.compositor.check_alive()?;
        self.compositor.ctl.stats()
    }

    fn surface(&mut self, index: usize) -> Result<Surface> {
        let pid = self.clients[index].pid();
        let stats = self.stats()?;
        stats.surface(pid).cloned().with_context(|| format!("no surface of client {index} in {stats:#?}"))
    }

    /// What the display shows, through the writeback connector.
    fn capture(&mut self) -> Result<Screen> {
        let path = artefacts().join(format!("{}.png", self.name));
        self.compositor.ctl.capture_writeback(&path)?;
        Screen::read(&path)
    }

    /// The kernel's CRC of the resting display.
    fn crc(&self) -> Result<u32> {
        let device = DebugDevice::of_driver("vkms")?;
        let active: Vec<String> = device.planes()?.into_iter().filter_map(|plane| plane.crtc).collect();
        let crtc = active.first().context("no CRTC is on")?;
        device.crc(crtc)?.stable(10, Duration::from_secs(10))
    }

    /// Waits until the planner has come to rest, so that plane assignments do not change any more.
    fn settle(&mut self) -> Result<()> {
        self.crc()?;
        self.compositor.check_alive()
    }
}

fn place(surface: &Surface) -> Result<(u32, u32)> {
    let [x, y] = surface.position;
    Ok((u32::try_from(x).context("left of the screen")?, u32::try_from(y).context("above the screen")?))
}

fn layer(picture: Picture, format: Format, surface: &Surface) -> Layer {
    Layer { picture, format, x: surface.position[0], y: surface.position[1] }
}

/// The bottom right corner, which no window of these cases covers.
fn background(screen: &Screen) -> [u8; 3] {
    screen.pixel(screen.width - 1, screen.height - 1)
}

/// Without a compositor: the model that the other cases rely on is what this kernel does.
fn kernel_crc_is_the_model() -> Result<()> {
    let master = KmsMaster::take(DrmNode::of_driver("vkms")?)?;
    let (width, height) = master.size();
    let draw = |allocator, format: &str, picture: Picture| -> Result<(ClientBuffer, Format)> {
        let format = Format::named(format)?;
        let mut buffer = ClientBuffer::allocate(allocator, format, picture.width, picture.height)?;
        buffer.draw(&picture, false)?;
        Ok((buffer, format))
    };
    let under = noise(1, width, height);
    let (primary, format) = draw(Allocator::Vgem, "XR24", under)?;
    master.show(&primary)?;
    let mut scene = Scene {
        width,
        height,
        background: [0; 3],
        layers: vec![Layer { picture: under, format, x: 0, y: 0 }],
    };
    let device = DebugDevice::of_driver("vkms")?;
    let active: Vec<String> = device.planes()?.into_iter().filter_map(|plane| plane.crtc).collect();
    let crtc = active.first().context("no CRTC is on")?;
    let mut reader = device.crc(crtc)?;
    let mut compare = |scene: &Scene, what: &str| -> Result<()> {
        let (wanted, shown) = (scene.crc(), reader.stable(10, Duration::from_secs(10))?);
        ensure!(wanted == shown, "{what}: the model says {wanted:08x}, the kernel {shown:08x}");
        Ok(())
    };
    compare(&scene, "XRGB")?;
    let overlays = [
        (Allocator::Udmabuf, "AR24", (40, 30)),
        (Allocator::Heap, "NV12", (-10, 300)),
        (Allocator::Vgem, "P010", (900, 650)),
        (Allocator::Vkms, "RG16", (500, 100)),
    ];
    let mut shown = Vec::new();
    for (index, (allocator, name, (x, y))) in overlays.into_iter().enumerate() {
        let picture = noise(index as u32 + 2, 202, 150);
        let (buffer, format) = draw(allocator, name, picture)?;
        master.show_overlay(index, &buffer, (x, y))?;
        scene.layers.push(Layer { picture, format, x, y });
        shown.push(buffer);
        compare(&scene, name)?;
    }
    Ok(())
}

fn xrgb_full_screen_is_exact() -> Result<()> {
    let mut stage = Stage::start("xrgb-full")?;
    let client = stage.add("full", &["--fullscreen", "--pattern", "noise:5"])?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_some(), "not scanned out: {:?}", surface.reason);
    let screen = stage.capture()?;
    let format = Format::named("XR24")?;
    let picture = noise(5, screen.width, screen.height);
    let worst = screen.difference(&picture, &format, (0, 0))?;
    ensure!(worst.steps == 0.0, "not exact: {worst:?}");
    let layers = vec![Layer { picture, format, x: 0, y: 0 }];
    let scene = Scene { width: screen.width, height: screen.height, background: [0; 3], layers };
    let (wanted, shown) = (scene.crc(), stage.crc()?);
    ensure!(wanted == shown, "the CRC of the expected picture is {wanted:08x}, the kernel's {shown:08x}");
    Ok(())
}

/// Windows of every exporter, on planes or not, are exact; the CRC of the whole screen is the model's.
fn xrgb_windows_are_exact() -> Result<()> {
    let mut stage = Stage::start("xrgb-windows")?;
    let format = Format::named("XR24")?;
    let allocators = ["vgem", "udmabuf", "heap", "vkms", "shm"];
    for (seed, allocator) in allocators.iter().enumerate() {
        stage.add_noise("XR24", seed as u32, (190, 140), &["--alloc", allocator])?;
    }
    stage.settle()?;
    let screen = stage.capture()?;
    let mut layers = Vec::new();
    for (index, allocator) in allocators.iter().enumerate() {
        let surface = stage.surface(index)?;
        let picture = noise(index as u32, 190, 140);
        let worst = screen.difference(&picture, &format, place(&surface)?)?;
        ensure!(worst.steps == 0.0, "{allocator}: not exact: {worst:?}");
        let is_shm = *allocator == "shm";
        ensure!(
            surface.plane.is_none() || !is_shm,
            "wl_shm cannot be scanned out, but claims plane {:?}",
            surface.plane
        );
        ensure!(surface.plane.is_some() || is_shm, "{allocator} is not scanned out: {:?}", surface.reason);
        layers.push(layer(picture, format, &surface));
    }
    let scene = Scene { width: screen.width, height: screen.height, background: background(&screen), layers };
    let (wanted, shown) = (scene.crc(), stage.crc()?);
    ensure!(wanted == shown, "the CRC of the expected picture is {wanted:08x}, the kernel's {shown:08x}");
    Ok(())
}

/// The largest difference allowed for luma and chroma, in steps of 1/255.
const YUV_TOLERANCE: f64 = 2.0;

fn yuv_scanned_out(name: &str) -> Result<()> {
    let mut stage = Stage::start(if name == "NV12" { "nv12-plane" } else { "p010-plane" })?;
    let format = Format::named(name)?;
    let client = stage.add_noise(name, 9, (320, 240), &[])?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_some(), "{name} is not scanned out: {:?}", surface.reason);
    let screen = stage.capture()?;
    let picture = noise(9, 320, 240);
    let worst = screen.difference(&picture, &format, place(&surface)?)?;
    ensure!(worst.steps <= YUV_TOLERANCE, "{name} scanned out: {worst:?}");
    let scene = Scene {
        width: screen.width,
        height: screen.height,
        background: background(&screen),
        layers: vec![layer(picture, format, &surface)],
    };
    let (wanted, shown) = (scene.crc(), stage.crc()?);
    ensure!(wanted == shown, "the CRC of the expected picture is {wanted:08x}, the kernel's {shown:08x}");
    Ok(())
}

/// More windows than overlays: some must be converted and composited, and all must look the same.
fn yuv_composited(name: &str) -> Result<()> {
    const WINDOWS: u32 = 7;
    let mut stage = Stage::start(if name == "NV12" { "nv12-composited" } else { "p010-composited" })?;
    let format = Format::named(name)?;
    for seed in 0..WINDOWS {
        stage.add_noise(name, seed, (140, 120), &[])?;
    }
    stage.settle()?;
    let screen = stage.capture()?;
    let mut composited = 0;
    for seed in 0..WINDOWS {
        let surface = stage.surface(seed as usize)?;
        let worst = screen.difference(&noise(seed, 140, 120), &format, place(&surface)?)?;
        ensure!(worst.steps <= YUV_TOLERANCE, "{name} on plane {:?}: {worst:?}", surface.plane);
        if surface.plane.is_none() {
            ensure!(surface.reason.is_some(), "a composited surface without a reason");
            composited += 1;
        }
    }
    ensure!(composited > 0, "all of {WINDOWS} windows are on planes: nothing was composited");
    Ok(())
}

/// What premultiplied pixels over an opaque background must look like.
fn blended(picture: &Picture, format: &Format, under: [u8; 3], x: u32, y: u32) -> [f64; 3] {
    let over = picture.rgba(format, x, y);
    let keep = 1.0 - f64::from(over.a) / 255.0;
    let channel = |over: u8, under: u8| f64::from(over) + f64::from(under) * keep;
    [channel(over.r, under[0]), channel(over.g, under[1]), channel(over.b, under[2])]
}

fn argb_overlay_blends() -> Result<()> {
    let mut stage = Stage::start("argb-overlay")?;
    let format = Format::named("AR24")?;
    let client = stage.add_noise("AR24", 3, (300, 200), &["--alloc", "udmabuf"])?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_some(), "ARGB is not scanned out: {:?}", surface.reason);
    let screen = stage.capture()?;
    let (picture, under) = (noise(3, 300, 200), background(&screen));
    let worst =
        screen.difference_to((300, 200), place(&surface)?, |x, y| blended(&picture, &format, under, x, y))?;
    ensure!(worst.steps <= 1.0, "blended by the plane: {worst:?}");
    let scene = Scene {
        width: screen.width,
        height: screen.height,
        background: under,
        layers: vec![layer(picture, format, &surface)],
    };
    let (wanted, shown) = (scene.crc(), stage.crc()?);
    ensure!(wanted == shown, "the CRC of the expected picture is {wanted:08x}, the kernel's {shown:08x}");
    Ok(())
}

/// The renderer blends as the planes do.
fn argb_composited_blends() -> Result<()> {
    let mut stage = Stage::start("argb-composited")?;
    let format = Format::named("AR24")?;
    let client = stage.add_noise("AR24", 4, (300, 200), &["--alloc", "shm"])?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_none(), "wl_shm cannot be scanned out");
    let screen = stage.capture()?;
    let (picture, under) = (noise(4, 300, 200), background(&screen));
    let worst =
        screen.difference_to((300, 200), place(&surface)?, |x, y| blended(&picture, &format, under, x, y))?;
    ensure!(worst.steps <= 1.0, "blended by the renderer: {worst:?}");
    Ok(())
}

/// Y_INVERT: on a plane, and composited where there are more windows than planes.
fn y_invert_is_upright() -> Result<()> {
    const WINDOWS: u32 = 6;
    let mut stage = Stage::start("y-invert")?;
    for seed in 0..WINDOWS {
        let format = if seed % 2 == 0 { "XR24" } else { "NV12" };
        stage.add_noise(format, seed, (160, 120), &["--y-invert"])?;
    }
    stage.settle()?;
    let screen = stage.capture()?;
    for seed in 0..WINDOWS {
        let name = if seed % 2 == 0 { "XR24" } else { "NV12" };
        let surface = stage.surface(seed as usize)?;
        let allowed = if name == "XR24" { 0.0 } else { YUV_TOLERANCE };
        let worst = screen.difference(&noise(seed, 160, 120), &Format::named(name)?, place(&surface)?)?;
        ensure!(worst.steps <= allowed, "{name} y-inverted, plane {:?}: {worst:?}", surface.plane);
    }
    Ok(())
}

/// vkms blends in creation order. With an overlay below the primary plane, a window on that overlay would be
/// hidden by the background: the picture must be right all the same.
fn stacking_with_an_overlay_created_first() -> Result<()> {
    let _only = lab_device("overlays=1,writeback,order=overlay+primary")?;
    let mut stage = Stage::start("overlay-first")?;
    let client = stage.add_noise("XR24", 6, (300, 200), &[])?;
    stage.settle()?;
    let screen = stage.capture()?;
    let surface = stage.surface(client)?;
    let format = Format::named("XR24")?;
    let worst = screen.difference(&noise(6, 300, 200), &format, place(&surface)?)?;
    ensure!(worst.steps == 0.0, "the window is not seen, it claims plane {:?}: {worst:?}", surface.plane);
    Ok(())
}

/// Replaces the lab's display by one of another shape, for as long as the result lives.
fn lab_device(spec: &str) -> Result<OnlyDevice> {
    let disabled = disable_devices()?;
    let device = lab::vkms::Device::create("stacking", &spec.parse()?)?;
    Ok(OnlyDevice { device: Some(device), disabled })
}

struct OnlyDevice {
    device: Option<lab::vkms::Device>,
    disabled: Vec<std::path::PathBuf>,
}

impl Drop for OnlyDevice {
    fn drop(&mut self) {
        drop(self.device.take());
        for switch in &self.disabled {
            if let Err(err) = std::fs::write(switch, "1") {
                eprintln!("cannot enable {} again: {err}", switch.display());
            }
        }
    }
}

fn disable_devices() -> Result<Vec<std::path::PathBuf>> {
    let mut switches = Vec::new();
    for entry in std::fs::read_dir("/sys/kernel/config/vkms").context("configfs")? {
        let switch = entry?.path().join("enabled");
        if std::fs::read_to_string(&switch)?.trim() == "1" {
            std::fs::write(&switch, "0")?;
            switches.push(switch);
        }
    }
    Ok(switches)
}
