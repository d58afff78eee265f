//! What the lab promises to everything that runs in it: devices, plane order, hotplug, udev, seatd, a writable root.
//!
//! Owns the promises seen from inside; what the host sees of a run is in the crate `lab`, target `lab_runs`.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drm::ClientCapability;
use drm::control::{Device as ControlDevice, PlaneType};
use lab::vkms::{self, Device, Status, card_by_driver};
use primeway_tests::kernel_cases::{self, Case};

const CASES: &[Case] = &[
    ("devices_are_present", devices_are_present),
    ("default_device_has_the_default_planes", default_device_has_the_default_planes),
    ("planes_come_in_the_order_of_the_spec", planes_come_in_the_order_of_the_spec),
    ("vkms_devices_come_and_go", vkms_devices_come_and_go),
    ("connectors_are_plugged_and_unplugged", connectors_are_plugged_and_unplugged),
    ("udev_knows_the_card", udev_knows_the_card),
    ("seatd_answers", seatd_answers),
    ("runtime_dir_is_private", runtime_dir_is_private),
    ("the_root_is_writable_and_an_overlay", the_root_is_writable_and_an_overlay),
    ("virtual_terminals_exist", virtual_terminals_exist),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

struct Card(fs::File);

impl Card {
    fn open(node: &Path) -> Result<Self> {
        let file = fs::File::options().read(true).write(true).open(node);
        Ok(Self(file.with_context(|| format!("cannot open {}", node.display()))?))
    }

    /// The types of all planes in index order.
    fn plane_types(&self) -> Result<Vec<PlaneType>> {
        drm::Device::set_client_capability(self, ClientCapability::UniversalPlanes, true)?;
        let mut types = Vec::new();
        for plane in self.plane_handles()? {
            let properties = self.get_properties(plane)?;
            for (property, value) in &properties {
                if self.get_property(*property)?.name().to_bytes() == b"type" {
                    types.push(match u32::try_from(*value)? {
                        0 => PlaneType::Overlay,
                        1 => PlaneType::Primary,
                        2 => PlaneType::Cursor,
                        other => bail!("plane of type {other}"),
                    });
                }
            }
        }
        Ok(types)
    }
}

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl drm::Device for Card {}
impl ControlDevice for Card {}

fn devices_are_present() -> Result<()> {
    for driver in ["vkms", "vgem"] {
        let node = card_by_driver(driver)?;
        let version = drm::Device::get_driver(&Card::open(&node)?)?;
        ensure!(version.name() == driver, "{} is of driver {:?}", node.display(), version.name());
    }
    for node in
        ["/dev/udmabuf", "/dev/dma_heap/system", "/dev/uinput", "/dev/video0", "/dev/kmsg", "/dev/ptmx"]
    {
        let kind = fs::metadata(node).with_context(|| format!("no {node}"))?.file_type();
        ensure!(kind.is_char_device(), "{node} is no device");
        fs::File::options()
            .read(true)
            .write(true)
            .open(node)
            .with_context(|| format!("cannot open {node}"))?;
    }
    fs::File::open("/sys/kernel/debug/sync/sw_sync").context("no sw_sync")?;
    Ok(())
}

fn default_device_has_the_default_planes() -> Result<()> {
    use PlaneType::{Cursor, Overlay, Primary};
    let types = Card::open(&vkms::card_by_device("lab0")?)?.plane_types()?;
    ensure!(types == [Primary, Overlay, Overlay, Overlay, Overlay, Cursor], "planes are {types:?}");
    Ok(())
}

fn planes_come_in_the_order_of_the_spec() -> Result<()> {
    use PlaneType::{Cursor, Overlay, Primary};
    let spec = "overlays=2,cursor,order=overlay+primary+overlay+cursor".parse()?;
    let device = Device::create("ordered", &spec)?;
    let types = Card::open(&device.card_node()?)?.plane_types()?;
    ensure!(types == [Overlay, Primary, Overlay, Cursor], "planes are {types:?}");
    device.remove()?;
    Ok(())
}

fn vkms_devices_come_and_go() -> Result<()> {
    let before = fs::read_dir("/sys/class/drm")?.count();
    for round in 0..5 {
        let device = Device::create("passing", &"crtcs=2,connectors=3,overlays=1,cursor,writeback".parse()?)?;
        let card = Card::open(&device.card_node()?)?;
        drm::Device::set_client_capability(&card, ClientCapability::Atomic, true)?;
        let resources = card.resource_handles()?;
        ensure!(resources.crtcs().len() == 2, "round {round}: {} CRTCs", resources.crtcs().len());
        ensure!(
            resources.connectors().len() == 3,
            "round {round}: {} connectors",
            resources.connectors().len()
        );
        ensure!(card.plane_types()?.len() == 6, "round {round}: {:?}", card.plane_types()?);
        drop(card);
        // Dropping removes it as `remove` does.
        drop(device);
        ensure!(vkms::card_by_device("passing").is_err(), "round {round}: the card outlived the device");
    }
    let after = fs::read_dir("/sys/class/drm")?.count();
    ensure!(before == after, "{before} entries in /sys/class/drm before, {after} after");
    let refused = Device::create("lab0", &vkms::Spec::default());
    ensure!(matches!(refused, Err(vkms::VkmsError::Configfs { .. })), "a second device lab0: {refused:?}");
    ensure!(vkms::card_by_device("lab0").is_ok(), "the refused device took the first one with it");
    Ok(())
}

fn connectors_are_plugged_and_unplugged() -> Result<()> {
    let device = Device::create("plugged", &"connectors=2,connected=1".parse()?)?;
    let card = Card::open(&device.card_node()?)?;
    let states = || -> Result<Vec<bool>> {
        let resources = card.resource_handles()?;
        let connectors = resources.connectors().iter();
        connectors
            .map(|id| Ok(card.get_connector(*id, true)?.state() == drm::control::connector::State::Connected))
            .collect()
    };
    ensure!(states()? == [true, false], "{:?} at first", states()?);
    device.set_connector(1, Status::Connected)?;
    device.set_connector(0, Status::Disconnected)?;
    ensure!(states()? == [false, true], "{:?} after the change", states()?);
    Ok(())
}

fn udev_knows_the_card() -> Result<()> {
    let device = fs::metadata(card_by_driver("vkms")?)?.rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let record = format!("/run/udev/data/c{major}:{minor}");
    let text = fs::read_to_string(&record).with_context(|| format!("no {record}"))?;
    ensure!(text.contains("master-of-seat"), "no seat in {record}: {text}");
    Ok(())
}

fn seatd_answers() -> Result<()> {
    UnixStream::connect("/run/seatd.sock").context("cannot connect to seatd")?;
    let mode = fs::metadata("/run/seatd.sock")?.permissions().mode() & 0o777;
    ensure!(mode == 0o666, "seatd's socket has mode {mode:o}");
    Ok(())
}

fn runtime_dir_is_private() -> Result<()> {
    let dir = std::env::var("XDG_RUNTIME_DIR")?;
    let meta = fs::metadata(&dir)?;
    ensure!(meta.permissions().mode() & 0o777 == 0o700, "{dir} has mode {:o}", meta.permissions().mode());
    ensure!(meta.uid() == rustix::process::geteuid().as_raw(), "{dir} belongs to {}", meta.uid());
    Ok(())
}

fn the_root_is_writable_and_an_overlay() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let real: Vec<&str> = mounts.lines().filter(|line| line.split(' ').nth(2) == Some("hostfs")).collect();
    let artefacts = std::env::var("PRIMEWAY_ARTEFACTS")?;
    ensure!(
        real.len() == 1 && real[0].split(' ').nth(1) == Some(artefacts.as_str()),
        "folders of the host that are mounted for real: {real:?}"
    );
    // A folder of the lower layer with content can be renamed and removed (it needs xattrs on the upper).
    fs::rename("/usr/share/doc", "/usr/share/doc-moved")
        .context("cannot rename a folder of the lower layer")?;
    fs::remove_dir_all("/usr/share/doc-moved/udev").context("cannot remove a folder of the lower layer")?;
    fs::write("/etc/primeway-lab-was-here", "x")?;
    Ok(())
}

fn virtual_terminals_exist() -> Result<()> {
    let started = Instant::now();
    loop {
        match fs::read_to_string("/sys/class/tty/tty0/active") {
            Ok(active) if active.trim().starts_with("tty") => return Ok(()),
            other if started.elapsed() > Duration::from_secs(2) => bail!("active terminal: {other:?}"),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
