//! linux-dmabuf feedback as it is on the wire, on a machine with two display devices and one without outputs: which devices it
//! names, by which file, when it changes, and what is left afterwards.
//!
//! Owns what is read from the socket; what clients make of it is in `sid_clients`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::vkms::{Device, Status, card_by_device, card_by_driver};
use primeway_tests::buffer::{Allocator, ClientBuffer, Placement};
use primeway_tests::client::raw::{Arg, Event, Raw, message};
use primeway_tests::ctl::Surface;
use primeway_tests::format::{Format, MODIFIER_LINEAR};
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::session::{Compositor, sibling_program};

const CASES: &[Case] = &[
    ("feedback_names_the_right_one_of_several_devices", several_devices),
    ("feedback_changes_when_it_should_and_is_then_forgotten", changes),
    ("a_client_that_does_not_follow_is_explained", does_not_follow),
];

/// Tranche flags of the XML.
const SCANOUT: u32 = 1;
const SAMPLING: u32 = 2;
/// A change must hold for two seconds before it is told.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn device_number(node: &Path) -> Result<u64> {
    Ok(std::fs::metadata(node).with_context(|| node.display().to_string())?.rdev())
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tranche {
    device: u64,
    flags: u32,
    /// Fourcc and modifier.
    pairs: Vec<(u32, u64)>,
}

/// One `done`'s worth of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Feedback {
    /// Inode of the table's file, if one came.
    table: Option<u64>,
    main: Option<u64>,
    tranches: Vec<Tranche>,
}

/// What came before `done`, and the pairs of the table.
#[derive(Debug, Default)]
struct Partial {
    feedback: Feedback,
    tranche: Tranche,
    table: Vec<(u32, u64)>,
}

/// A client with a window that shows a dma-buf, and feedback for everybody and for its surface.
struct Client {
    raw: Raw,
    _buffer: ClientBuffer,
    default: u32,
    own: u32,
    /// What is being read of each object.
    partial: [Partial; 2],
    /// What was read.
    read: [Vec<Feedback>; 2],
}

impl Client {
    /// Asks for feedback before it shows anything. The buffer starts at `offset` of its memory: vkms shows none that does not
    /// start at 0. The surface is `scale` times as large as the buffer.
    fn show(compositor: &Compositor, version: u32, offset: u32, scale: i32) -> Result<Client> {
        Client::show_as(*b"XR24", compositor, version, offset, scale)
    }

    /// The same with memory that is said to be of another format of four bytes a pixel.
    fn show_as(
        code: [u8; 4],
        compositor: &Compositor,
        version: u32,
        offset: u32,
        scale: i32,
    ) -> Result<Client> {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).context("XDG_RUNTIME_DIR")?;
        let socket = UnixStream::connect(folder.join(&compositor.display)).context("cannot connect")?;
        let mut raw = Raw::over(socket)?;
        let compositor = raw.bind("wl_compositor", 4)?;
        let wm_base = raw.bind("xdg_wm_base", 1)?;
        let dmabuf = raw.bind("zwp_linux_dmabuf_v1", version)?;
        let [surface, default, own, xdg_surface, toplevel, params, wl_buffer] = [(); 7].map(|()| raw.id());
        raw.request(compositor, 0, &[Arg::U(surface)])?;
        raw.request(dmabuf, 2, &[Arg::U(default)])?;
        raw.request(dmabuf, 3, &[Arg::U(own), Arg::U(surface)])?;
        raw.request(wm_base, 2, &[Arg::U(xdg_surface), Arg::U(surface)])?;
        raw.request(xdg_surface, 1, &[Arg::U(toplevel)])?;
        raw.request(surface, 6, &[])?;
        let (format, placement) = (Format::named("XR24")?, Placement { separate: false, offset });
        let buffer = ClientBuffer::allocate_placed(Allocator::Udmabuf, format, (64, 64), placement)?;
        raw.request(dmabuf, 1, &[Arg::U(params)])?;
        let stride = buffer.layout[0].stride;
        let add = [0, offset, stride, 0, 0].map(Arg::U);
        raw.send(&message(params, 1, &add), &[buffer.plane_fd(0)])?;
        let code = u32::from_le_bytes(code);
        let create = [Arg::U(wl_buffer), Arg::I(64), Arg::I(64), Arg::U(code), Arg::U(0)];
        raw.request(params, 3, &create)?;
        if scale != 1 {
            let viewporter = raw.bind("wp_viewporter", 1)?;
            let viewport = raw.id();
            raw.request(viewporter, 1, &[Arg::U(viewport), Arg::U(surface)])?;
            raw.request(viewport, 2, &[Arg::I(64 * scale), Arg::I(64 * scale)])?;
        }
        let mut client = Client {
            raw,
            _buffer: buffer,
            default,
            own,
            partial: Default::default(),
            read: Default::default(),
        };
        let events = client.roundtrip()?;
        let configure = events.iter().find(|event| (event.object, event.opcode) == (xdg_surface, 0));
        let serial = configure.context("no configure")?.word(0);
        client.raw.request(xdg_surface, 4, &[Arg::U(serial)])?;
        client.raw.request(surface, 1, &[Arg::U(wl_buffer), Arg::I(0), Arg::I(0)])?;
        client.raw.request(surface, 6, &[])?;
        client.roundtrip()?;
        Ok(client)
    }

    fn roundtrip(&mut self) -> Result<Vec<Event>> {
        let events = self.raw.roundtrip()?.map_err(|end| anyhow!("the connection ended: {end:?}"))?;
        events.iter().try_for_each(|event| self.take(event))?;
        Ok(events)
    }

    /// The feedback of its surface once it has been told so often.
    fn wait(&mut self, count: usize) -> Result<Feedback> {
        let deadline = Instant::now() + 3 * PATIENCE;
        while self.read[1].len() < count {
            ensure!(Instant::now() < deadline, "not told {count} times: {:?}", self.read[1]);
            let events = self.raw.read(Duration::from_millis(200))?;
            let events = events.map_err(|end| anyhow!("the connection ended: {end:?}"))?;
            events.iter().try_for_each(|event| self.take(event))?;
        }
        ensure!(self.read[1].len() == count, "told too often: {:?}", self.read[1]);
        Ok(self.read[1][count - 1].clone())
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        let Some(index) = [self.default, self.own].iter().position(|id| *id == event.object) else {
            return Ok(());
        };
        let Partial { feedback, tranche, table } = &mut self.partial[index];
        let array = event.body.get(4..4 + event.word(0) as usize).unwrap_or_default();
        let device = || array.try_into().map(u64::from_ne_bytes).context("not the size of a dev_t");
        match event.opcode {
            0 => self.read[index].push(std::mem::take(feedback)),
            1 => {
                let file = File::from(self.raw.files.pop_front().context("no file came")?);
                ensure!(table_can_be_trusted(&file)?, "the table can change");
                let mut bytes = vec![0; event.word(0) as usize];
                file.read_exact_at(&mut bytes, 0).context("the table is shorter than said")?;
                *table = bytes
                    .chunks_exact(16)
                    .map(|entry| {
                        let (fourcc, modifier) = (&entry[..4], &entry[8..]);
                        let fourcc = fourcc.try_into().map(u32::from_ne_bytes).unwrap_or_default();
                        (fourcc, modifier.try_into().map(u64::from_ne_bytes).unwrap_or_default())
                    })
                    .collect();
                feedback.table = Some(file.metadata()?.ino());
            }
            2 => feedback.main = Some(device()?),
            3 => feedback.tranches.push(std::mem::take(tranche)),
            4 => tranche.device = device()?,
            5 => {
                for index in array.chunks_exact(2) {
                    let index = u16::from_ne_bytes([index[0], index[1]]);
                    tranche.pairs.push(*table.get(usize::from(index)).context("an index beyond the table")?);
                }
            }
            6 => tranche.flags = event.word(0),
            other => return Err(anyhow!("event {other} of feedback")),
        }
        Ok(())
    }
}

fn table_can_be_trusted(file: &File) -> Result<bool> {
    use rustix::fs::SealFlags;
    let seals = rustix::fs::fcntl_get_seals(file.as_fd()).context("no seals")?;
    Ok(seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL))
}

/// What clients of all versions with feedback read, with outputs on `target` and composition on `main`.
fn expect(name: &str, arguments: &[&str], main: u64, target: u64) -> Result<()> {
    let mut compositor = Compositor::start_with(name, arguments)?;
    let mut clients = Vec::new();
    for version in 4..=6 {
        clients.push((version, Client::show(&compositor, version, 0, 1)?));
    }
    let mut tables = Vec::new();
    for (version, client) in &mut clients {
        let told = client.wait(2)?;
        let sampling = if *version < 6 { 0 } else { SAMPLING };
        let says_main = (*version < 6).then_some(main);
        let [default, first] = [0, 1].map(|index| client.read[index].first().cloned().unwrap_or_default());
        ensure!(client.read[0].len() == 1, "version {version}: the default changed: {:?}", client.read[0]);
        tables.extend([default.table, first.table]);
        ensure!(told.table.is_none(), "version {version}: the same table again");
        for feedback in [&default, &first, &told] {
            ensure!(feedback.main == says_main, "version {version}: main device {:?}", feedback.main);
        }
        ensure!(default == first, "version {version}: {default:?} and {first:?}");
        let kinds = |feedback: &Feedback| -> Vec<(u64, u32)> {
            feedback.tranches.iter().map(|tranche| (tranche.device, tranche.flags)).collect()
        };
        ensure!(kinds(&default) == [(main, sampling)], "version {version}: {:x?}", kinds(&default));
        let expected = [(target, SCANOUT), (main, sampling)];
        ensure!(kinds(&told) == expected, "version {version}: {:x?}, not {expected:x?}", kinds(&told));
        let (scanout, usable) = (&told.tranches[0].pairs, &told.tranches[1].pairs);
        ensure!(scanout.iter().all(|pair| usable.contains(pair)), "version {version}: not for clients");
        // What is known of vkms: plain rows alone, no format of 10 bits per colour.
        let pair = |name: [u8; 4]| (u32::from_le_bytes(name), MODIFIER_LINEAR);
        ensure!(scanout.iter().all(|(_, modifier)| *modifier == MODIFIER_LINEAR), "{scanout:x?}");
        for (name, taken) in [(*b"XR24", true), (*b"AR24", true), (*b"NV12", true), (*b"XR30", false)] {
            ensure!(scanout.contains(&pair(name)) == taken, "version {version}, {name:?}: {scanout:x?}");
            ensure!(usable.contains(&pair(name)), "version {version}: clients may not use {name:?}");
        }
    }
    ensure!(tables[0].is_some() && tables.iter().all(|table| *table == tables[0]), "tables: {tables:?}");
    compositor.check_alive()
}

/// Outputs on one device and on the other. The device without outputs is never named, nor one that is merely opened for
/// Mesa to draw on the CPU: there is no GPU in the lab, so that the display is always the main device.
fn several_devices() -> Result<()> {
    let second = Device::create("second", &"overlays=3,writeback".parse()?)?;
    let nodes = [card_by_device("lab0")?, second.card_node()?, card_by_driver("vgem")?];
    let [first, second, vgem] =
        [device_number(&nodes[0])?, device_number(&nodes[1])?, device_number(&nodes[2])?];
    ensure!(first != second && first != vgem && second != vgem, "{first:#x} {second:#x} {vgem:#x}");
    let names = nodes.map(|node| node.display().to_string());
    expect("first", &["--device", &names[0]], first, first)?;
    expect("second", &["--device", &names[1]], second, second)?;
    let apart = ["--device", &names[1], "--renderer", "gles", "--render-node", &names[0]];
    expect("apart", &apart, second, second)
}

/// The main thread's sleeps that ended.
fn wakeups(compositor: &Compositor) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", compositor.pid())).context("status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).context("no count of switches")
}

fn changes() -> Result<()> {
    let display = Device::create("display", &"overlays=2,writeback".parse()?)?;
    let node = display.card_node()?.display().to_string();
    let mut compositor = Compositor::start_with("changes", &["--device", &node])?;
    // No plane takes its buffer, but planes would take another one.
    let mut client = Client::show(&compositor, 6, 4096, 1)?;
    let shown = Instant::now();
    // Nor that of another client, which is scaled: vkms cannot do that with any.
    let mut scaled = Client::show(&compositor, 6, 4096, 2)?;
    let told = client.wait(2)?;
    let after = shown.elapsed();
    ensure!(after >= Duration::from_millis(1900), "told after {after:?}");
    ensure!(told.tranches.len() == 2, "{told:?}");
    let stats = compositor.ctl.stats()?;
    let surfaces: Vec<_> = stats.clients.iter().flat_map(|client| &client.surfaces).collect();
    let why = |reason: &str| reason.contains("adds the offset of the first buffer plane twice");
    let refused = |surface: &&&Surface| surface.reason.as_deref().is_some_and(why);
    ensure!(surfaces.iter().filter(refused).count() == 2, "not composited for their buffers: {surfaces:?}");
    std::thread::sleep(Duration::from_millis(500));
    scaled.roundtrip()?;
    ensure!(scaled.read[1].len() == 1, "the scaled one was told: {:?}", scaled.read[1]);
    drop(scaled);
    // Nothing is pending any more: nothing wakes it up.
    std::thread::sleep(Duration::from_millis(500));
    let before = wakeups(&compositor)?;
    std::thread::sleep(Duration::from_secs(1));
    let woken = wakeups(&compositor)? - before;
    ensure!(woken <= 1, "woken up {woken} times in a second in which nothing happened");
    let resources = compositor.ctl.stats()?.resources;
    ensure!((resources.feedback_objects, resources.feedback_surfaces) == (2, 1), "{resources:?}");
    // Without an output the surface is shown nowhere.
    display.set_connector(0, Status::Disconnected)?;
    let told = client.wait(3)?;
    ensure!(told.tranches.len() == 1 && told.tranches[0].flags == SAMPLING, "{told:?}");
    let resources = compositor.ctl.stats()?.resources;
    ensure!((resources.feedback_objects, resources.feedback_surfaces) == (2, 0), "{resources:?}");
    display.set_connector(0, Status::Connected)?;
    ensure!(client.wait(4)?.tranches.len() == 2, "not told when the output was back");
    drop(client);
    compositor.wait_stats("nothing left", Duration::from_secs(1), |stats| {
        (stats.resources.feedback_objects, stats.resources.feedback_surfaces) == (0, 0)
    })?;
    compositor.check_alive()
}

/// vkms has no format of 10 bits: its client is told which there are, and `primeway explain` tells that it goes on without.
fn does_not_follow() -> Result<()> {
    let mut compositor = Compositor::start_with("follow", &["--renderer", "pixman"])?;
    let explain = || -> Result<String> {
        let mut command = Command::new(sibling_program("primeway")?);
        command.args(["explain", "--pid", &std::process::id().to_string()]);
        let output =
            command.env("WAYLAND_DISPLAY", "wayland-follow").env_remove("PRIMEWAY_SOCKET").output()?;
        ensure!(output.status.code() == Some(3), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let mut client = Client::show_as(*b"XR30", &compositor, 5, 0, 1)?;
    let told = client.wait(2)?;
    ensure!(told.tranches.len() == 2, "{told:?}");
    let text = explain()?;
    let line = text.lines().find(|line| line.contains("feedback tranche with")).context(text.clone())?;
    ensure!(line.starts_with("TRY ") && line.contains("XR24 LINEAR"), "{text}");
    ensure!(line.ends_with("; the client has not reallocated (0 of 1 buffers)"), "{text}");
    ensure!(text.contains("XR30 is not among the plane's formats"), "{text}");
    ensure!(text.contains("TRY      use another format; the plane takes "), "{text}");
    compositor.check_alive()
}
