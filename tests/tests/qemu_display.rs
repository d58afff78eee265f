//! A display whose pointer the host draws: virtio-gpu, in the emulated guest. Its cursor plane is only there for who sets
//! hotspots, and its capability file is what it says.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drm::ClientCapability;
use evdev::{EventType, InputEvent, RelativeAxisCode};
use lab::vkms::card_by_driver;
use primeway::backend::kms::device::capabilities::Capabilities;
use primeway::backend::kms::device::kernel::Card;
use primeway::backend::kms::device::{KmsDevice, Object, Properties};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::client::connection::{BufferRequest, Events, Wire};
use primeway_tests::format::{Format, MODIFIER_LINEAR};
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::mouse::mouse;
use primeway_tests::picture::{Pattern, Picture};
use primeway_tests::session::{Compositor, artefacts};
use wayland_client::protocol::wl_buffer::WlBuffer;

/// The emulated display.
const SCREEN: (u32, u32) = (640, 480);
/// Of the pointer's image.
const HOTSPOT: (i32, i32) = (7, 9);
/// On an emulated processor.
const PATIENCE: Duration = Duration::from_secs(60);

const CASES: &[Case] = &[
    ("the_capability_file_of_virtio_gpu_is_what_it_says", the_capability_file_of_virtio_gpu_is_what_it_says),
    (
        "the_pointer_is_on_the_cursor_plane_with_its_hotspot",
        the_pointer_is_on_the_cursor_plane_with_its_hotspot,
    ),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn open() -> Result<OwnedFd> {
    let node = card_by_driver("virtio_gpu")?;
    let file = std::fs::File::options().read(true).write(true).open(&node);
    Ok(file.with_context(|| node.display().to_string())?.into())
}

/// A file beside that of who is master, which sees what it sees.
fn beside() -> Result<Card> {
    let card = Card::beside(open()?);
    for capability in
        [ClientCapability::UniversalPlanes, ClientCapability::Atomic, ClientCapability::CursorPlaneHotspot]
    {
        KmsDevice::set_client_capability(&card, capability, true)?;
    }
    Ok(card)
}

fn the_capability_file_of_virtio_gpu_is_what_it_says() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/capabilities/virtio_gpu.json");
    let mut known = Capabilities::load(&path)?.without_rules();
    let mut seen = Capabilities::of(&beside()?, "")?.without_rules();
    if std::env::var_os("PRIMEWAY_WRITE_CAPABILITIES").is_some() {
        std::fs::write(artefacts().join("virtio_gpu.json"), serde_json::to_string(&seen)?)?;
    }
    // The modes are those of the host's window.
    let modes = |all: &mut Capabilities| {
        all.connectors.iter_mut().map(|c| std::mem::take(&mut c.modes).first().cloned()).collect::<Vec<_>>()
    };
    let preferred = (modes(&mut known), modes(&mut seen));
    ensure!(preferred.0 == preferred.1, "{preferred:?}");
    ensure!(known == seen, "the device says\n{}", serde_json::to_string(&seen)?);
    Ok(())
}

/// A buffer of one colour.
fn buffer(
    wire: &mut Wire,
    allocator: Allocator,
    format: &str,
    (width, height): (u32, u32),
) -> Result<(ClientBuffer, WlBuffer)> {
    let mut memory = ClientBuffer::allocate(allocator, Format::named(format)?, width, height)?;
    memory.draw(&Picture { pattern: Pattern::Solid(0xff30_60c0), width, height, frame: 0 }, false)?;
    let how = BufferRequest { modifier: MODIFIER_LINEAR, y_invert: false, immediate: true };
    let wl = wire.create_buffer(&memory, &how)?;
    Ok((memory, wl))
}

fn the_pointer_is_on_the_cursor_plane_with_its_hotspot() -> Result<()> {
    let compositor = Compositor::start_plain("hotspot", &[])?;
    let mut wire = Wire::connect_to(&compositor.display, 4)?;
    let (cursor, pointer) = wire.open_cursor()?;
    let mut mouse = mouse()?;
    let window = wire.open_window("below", false)?;
    let (_memory, wl) = buffer(&mut wire, Allocator::Vkms, "XR24", SCREEN)?;
    wire.commit(&window.surface, &wl);
    let deadline = Instant::now() + PATIENCE;
    let mut moves = |wire: &mut Wire, done: &dyn Fn(&Events) -> bool| -> Result<()> {
        for step in [5, -5].into_iter().cycle() {
            let step = |axis: RelativeAxisCode| InputEvent::new(EventType::RELATIVE.0, axis.0, step);
            mouse.emit(&[step(RelativeAxisCode::REL_X), step(RelativeAxisCode::REL_Y)])?;
            if wire.wait(Instant::now() + Duration::from_millis(50), done)? {
                break;
            }
            ensure!(Instant::now() < deadline, "the pointer does not move");
        }
        Ok(())
    };
    moves(&mut wire, &|events| events.pointer_entered.is_some())?;
    let serial = wire.events.pointer_entered.context("no serial")?;
    let (_image, shape) = buffer(&mut wire, Allocator::Vkms, "AR24", (48, 48))?;
    pointer.set_cursor(serial, Some(&cursor), HOTSPOT.0, HOTSPOT.1);
    wire.commit_quietly(&cursor, &shape);
    wire.roundtrip()?;

    let card = beside()?;
    let planes = card.resources()?.planes;
    let read = |plane| Properties::read(&card, Object::Plane(plane));
    let is_cursor = |plane: &&_| read(**plane).is_ok_and(|p| p.value("type") == Some(2));
    let plane = *planes.iter().find(is_cursor).context("no cursor plane")?;
    let mut places = Vec::new();
    loop {
        ensure!(Instant::now() < deadline, "the pointer is not on its plane: {:?}", compositor.ctl.stats()?);
        let motions = wire.events.motions;
        moves(&mut wire, &|events| events.motions > motions)?;
        let properties = read(plane)?;
        let value = |name: &str| properties.value(name).with_context(|| format!("no {name}"));
        if value("FB_ID")? == 0 || value("HOTSPOT_X")? == 0 {
            continue;
        }
        let hotspot = (value("HOTSPOT_X")? as i32, value("HOTSPOT_Y")? as i32);
        ensure!(hotspot == HOTSPOT, "{hotspot:?}");
        let place = (value("CRTC_X")?, value("CRTC_Y")?);
        if !places.contains(&place) {
            places.push(place);
        }
        if places.len() > 1 {
            return Ok(());
        }
    }
}
