//! Buffers on their way in, with the kernel's dma-bufs: layouts that are not named, and what creating a buffer costs.
//!
//! Owns the cases that need real exporters. What becomes of buffers that nothing can show, or that take long, is in the
//! `headless` cases.

#[allow(dead_code, clippy::unwrap_used, reason = "the headless cases use the rest, and may panic")]
mod headless_support;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drm_prime::device::faults::Call;
use drm_prime::model::Driver;
use drm_prime::{HandleTable, KernelDevice, LinearExporters};
use primeway::backend::headless::Headless;
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::client::raw::{Arg, Raw, message};
use primeway_tests::drm_node::DrmNode;
use primeway_tests::format::{Format, MODIFIER_INVALID};
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::picture::{Pattern, Picture};
use primeway_tests::session::Compositor;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::Flags;

use headless_support::client::{Client, Event, hi, lo};
use headless_support::{FaultyDevice, Server};

const CASES: &[Case] = &[
    ("implicit_layouts_are_shown_where_they_are_known", implicit_layouts_are_shown_where_they_are_known),
    ("implicit_layouts_of_a_gpu_never_reach_addfb", implicit_layouts_of_a_gpu_never_reach_addfb),
    ("what_an_import_and_a_create_cost", what_an_import_and_a_create_cost),
    ("the_probe_is_short", the_probe_is_short),
];

const OUTPUT: (u32, u32) = (256, 192);

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

/// A compositor on the model device, with or without modifiers, for which the machine has these drivers.
fn start(modifiers: bool, drivers: &'static [&'static str]) -> Result<(Server, FaultyDevice)> {
    let driver = Driver { modifiers, ..Headless::driver() };
    Server::start_faulty(OUTPUT, &[], driver, move |headless| {
        headless.buffers.suppose_exporters(LinearExporters::of_drivers(drivers.iter().copied()));
    })
}

/// A buffer as large as the output with a picture in it.
fn picture(allocator: Allocator, seed: u32) -> Result<(ClientBuffer, Picture)> {
    let mut buffer = ClientBuffer::allocate(allocator, Format::named("XR24")?, OUTPUT.0, OUTPUT.1)?;
    let picture = Picture { pattern: Pattern::Noise(seed), width: OUTPUT.0, height: OUTPUT.1, frame: 0 };
    buffer.draw(&picture, false)?;
    Ok((buffer, picture))
}

/// Asks for a buffer without naming its layout; `None` is `failed`.
fn create_implicit(client: &mut Client, buffer: &ClientBuffer) -> Result<Option<WlBuffer>> {
    let params = client.params()?;
    let stride = buffer.layout[0].stride;
    params.add(buffer.plane_fd(0), 0, 0, stride, hi(MODIFIER_INVALID), lo(MODIFIER_INVALID));
    let before = client.seen.log.len();
    let size = (buffer.width as i32, buffer.height as i32);
    client.create(&params, size, buffer.format.fourcc as u32, Flags::empty());
    client.roundtrip()?;
    params.destroy();
    let answer = client.seen.log[before..].iter().find_map(|event| match event {
        Event::Created(buffer) => Some(Some(buffer.clone())),
        Event::Failed => Some(None),
        _ => None,
    });
    answer.context("no answer before the roundtrip's")
}

/// Shows a buffer in full screen; says whether a plane showed it.
fn show(client: &mut Client, buffer: &WlBuffer) -> Result<bool> {
    let window = client.open_window("implicit")?;
    window.surface.attach(Some(buffer), 0, 0);
    window.surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
    client.presented(&window.surface)
}

/// Every exporter of a machine without GPU, on a device that takes modifiers and on one that takes none: by a plane, and
/// upright as the CPU reads it.
fn implicit_layouts_are_shown_where_they_are_known() -> Result<()> {
    for modifiers in [true, false] {
        for (seed, allocator) in
            (1..).zip([Allocator::Vgem, Allocator::Vkms, Allocator::Udmabuf, Allocator::Heap])
        {
            let (server, _device) = start(modifiers, &["faux", "vgem"])?;
            let mut client = server.connect()?;
            let (memory, picture) = picture(allocator, seed)?;
            let buffer = create_implicit(&mut client, &memory)?;
            let buffer = buffer.with_context(|| format!("{allocator:?}, modifiers {modifiers}: refused"))?;
            ensure!(show(&mut client, &buffer)?, "{allocator:?}, modifiers {modifiers}: composited");
            server.settle()?;
            let report = server.window("implicit")?;
            ensure!(report.modifier.as_deref() == Some("LINEAR"), "{report:?}");
            let screen = server.picture()?;
            for (x, y) in [(0, 0), (17, 3), (255, 191), (100, 150)] {
                let wanted = picture.rgba(&memory.format, x, y);
                ensure!(
                    screen.at(x, y) == [wanted.b, wanted.g, wanted.r],
                    "{allocator:?} at {x},{y}: {:?}, not {wanted:?}",
                    screen.at(x, y)
                );
            }
        }
    }
    Ok(())
}

/// Where a GPU of the machine may have made it, nobody guesses: not the CPU, and not a driver that takes no modifiers.
fn implicit_layouts_of_a_gpu_never_reach_addfb() -> Result<()> {
    for modifiers in [true, false] {
        let (server, device) = start(modifiers, &["amdgpu", "faux"])?;
        let mut client = server.connect()?;
        server.settle()?;
        let made = device.uses(Call::AddFramebuffer);
        for allocator in [Allocator::Vgem, Allocator::Vkms] {
            let (memory, _) = picture(allocator, 1)?;
            ensure!(
                create_implicit(&mut client, &memory)?.is_none(),
                "{allocator:?}, modifiers {modifiers}: taken"
            );
            let imports = server.stats()?.imports;
            let reasons = imports.last[0].reasons.join("; ");
            ensure!(reasons.contains("plane: the layout is implicit"), "{reasons}");
            ensure!(reasons.contains("cpu: modifier 0xffffffffffffff is not for the cpu"), "{reasons}");
        }
        ensure!(
            device.uses(Call::AddFramebuffer) == made,
            "a layout was guessed: {:?}",
            device.last_request()
        );
        // What no GPU can have made is shown all the same.
        let (memory, _) = picture(Allocator::Udmabuf, 2)?;
        let buffer = create_implicit(&mut client, &memory)?.context("udmabuf was refused")?;
        ensure!(show(&mut client, &buffer)?, "udmabuf was composited");
        let request = device.last_request().context("no framebuffer")?;
        ensure!(request.modifier.is_some() == modifiers, "{request:?}");
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How long the display's device takes to import a buffer that it does not know.
fn import_time(table: &HandleTable, allocator: Allocator, side: u32) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..15 {
        let buffer = ClientBuffer::allocate(allocator, Format::named("XR24")?, side, side)?;
        let fd: BorrowedFd<'_> = buffer.plane_fd(0);
        let began = Instant::now();
        let handle = table.import(fd)?;
        times.push(began.elapsed());
        drop(handle);
    }
    Ok(median(times))
}

/// A client that asks for buffers and measures.
struct Asking {
    raw: Raw,
    dmabuf: u32,
}

impl Asking {
    fn new(compositor: &Compositor) -> Result<Asking> {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).context("XDG_RUNTIME_DIR")?;
        let mut raw = Raw::over(UnixStream::connect(folder.join(&compositor.display))?)?;
        let dmabuf = raw.bind("zwp_linux_dmabuf_v1", 4)?;
        raw.roundtrip()?.map_err(|end| anyhow::anyhow!("{end:?}"))?;
        Ok(Asking { raw, dmabuf })
    }

    /// Creates a buffer of the memory and waits for it; how long that took.
    fn ask(&mut self, fd: BorrowedFd<'_>, side: u32, immediate: bool) -> Result<Duration> {
        let params = self.raw.id();
        self.raw.request(self.dmabuf, 1, &[Arg::U(params)])?;
        let words = [0, 0, side * 4, 0, 0].map(Arg::U);
        self.raw.send(&message(params, 1, &words), &[fd])?;
        // The compositor has taken the file in; what is measured is the creation.
        self.raw.roundtrip()?.map_err(|end| anyhow::anyhow!("{end:?}"))?;
        let size =
            [Arg::I(side as i32), Arg::I(side as i32), Arg::U(u32::from_le_bytes(*b"XR24")), Arg::U(0)];
        let began = Instant::now();
        if immediate {
            let buffer = self.raw.id();
            let arguments: Vec<_> = [Arg::U(buffer)].into_iter().chain(size).collect();
            self.raw.request(params, 3, &arguments)?;
        } else {
            self.raw.request(params, 2, &size)?;
        }
        let events = self.raw.roundtrip()?.map_err(|end| anyhow::anyhow!("{end:?}"))?;
        let took = began.elapsed();
        if !immediate && !events.iter().any(|event| event.object == params && event.opcode == 0) {
            bail!("not created: {events:?}");
        }
        self.raw.request(params, 0, &[])?;
        Ok(took)
    }
}

/// The figures that decide what goes to the thread; what must hold of them is only that nothing is out of all proportion.
fn what_an_import_and_a_create_cost() -> Result<()> {
    {
        let node = File::options().read(true).write(true).open(DrmNode::of_driver("vkms")?.path())?;
        let table = HandleTable::new(Arc::new(KernelDevice::from_own_file(OwnedFd::from(node))?));
        for (allocator, side) in [
            (Allocator::Vgem, 64),
            (Allocator::Vgem, 4096),
            (Allocator::Udmabuf, 64),
            (Allocator::Udmabuf, 3840),
            (Allocator::Heap, 64),
            (Allocator::Heap, 4096),
        ] {
            let time = import_time(&table, allocator, side)?;
            println!("import of {allocator:?} {side}x{side} on vkms: {time:?}");
            ensure!(time < Duration::from_millis(50), "{allocator:?} {side}: {time:?}");
        }
    }
    let compositor = Compositor::start("create-cost", &[])?;
    let mut asking = Asking::new(&compositor)?;
    let buffers: Vec<_> = (0..40)
        .map(|_| ClientBuffer::allocate(Allocator::Vgem, Format::named("XR24")?, 256, 256))
        .collect::<Result<_>>()?;
    let mut times = Vec::new();
    for (name, range, immediate) in [
        ("create of unknown memory (thread)", 0..20, false),
        ("create of known memory", 0..20, false),
        ("create_immed of unknown memory", 20..40, true),
        ("create_immed of known memory", 20..40, true),
    ] {
        let took = buffers[range].iter().map(|buffer| asking.ask(buffer.as_fd(), 256, immediate));
        let time = median(took.collect::<Result<_>>()?);
        println!("{name}: {time:?}");
        times.push(time);
    }
    ensure!(times.iter().all(|time| *time < Duration::from_millis(50)), "{times:?}");
    Ok(())
}

/// What is tried at the start, on this kernel's display, and again on an output that comes later: nothing is refused, and it
/// does not take long.
fn the_probe_is_short() -> Result<()> {
    let spec = "crtcs=2,connectors=2,connected=1,overlays=2,writeback";
    let display = lab::vkms::Device::create("probe", &spec.parse()?)?;
    let card = display.card_node()?;
    let arguments = ["--device", card.to_str().context("the card's name")?];
    let mut compositor = Compositor::start_logged("probe", "primeway=debug", &arguments)?;
    let log = primeway_tests::session::artefacts().join("probe.log");
    let probes = || -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&log)?;
        ensure!(!text.contains("formats that failed"), "{text}");
        Ok(text.lines().filter(|line| line.contains("formats probed")).map(str::to_owned).collect())
    };
    let at_start = probes()?;
    ensure!(at_start.len() == 1, "{at_start:?}");
    println!("the_probe_is_short: {}", at_start[0]);
    display.set_connector(1, lab::vkms::Status::Connected)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while probes()?.len() < 2 {
        ensure!(Instant::now() < deadline, "the second output is not tried");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("the_probe_is_short: {}", probes()?[1]);
    compositor.wait_stats("two outputs", Duration::from_secs(5), |stats| stats.outputs.len() == 2)?;
    compositor.check_alive()
}
