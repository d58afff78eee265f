//! drm-prime on the lab's kernel: framebuffers of a second DRM file, scanned out by the master.
//!
//! Owns the cases of the crate's contract that only a kernel can answer. The master here is a handful of ioctls; no
//! compositor runs. What a plane shows is read from debugfs and from the CRC of the display, never from the crate.

use std::fs::{self, File};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drm::Device as _;
use drm::control::{Device as _, Mode, connector, crtc, framebuffer};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::device::faults::{Call, Faulty};
use drm_prime::device::kernel::DeviceError;
use drm_prime::{
    Acquisition, BufferPlane, Denials, Dmabuf, DumbBuffer, Fault, Framebuffer, FramebufferError,
    FramebufferRequest, GemDevice, HandleTable, ImportError, KernelDevice, LinearExporters, Origin,
    SizeError, exporter, is_dmabuf,
};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::crc::{Layer, Scene};
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::format::Format;
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::picture::{Pattern, Picture};
use rustix::io::Errno;

const CASES: &[Case] = &[
    ("an_empty_lease_is_a_file_of_its_own", an_empty_lease_is_a_file_of_its_own),
    ("a_second_open_is_a_file_of_its_own", a_second_open_is_a_file_of_its_own),
    ("a_second_open_does_not_stay_master", a_second_open_does_not_stay_master),
    ("without_a_lease_and_a_node_the_file_is_shared", without_a_lease_and_a_node_the_file_is_shared),
    ("a_node_of_another_device_is_refused", a_node_of_another_device_is_refused),
    ("importing_goes_on_without_master", importing_goes_on_without_master),
    ("lease_scans_out_vgem", || scans_out(Way::Lease, Allocator::Vgem)),
    ("lease_scans_out_udmabuf", || scans_out(Way::Lease, Allocator::Udmabuf)),
    ("lease_scans_out_heap", || scans_out(Way::Lease, Allocator::Heap)),
    ("lease_scans_out_the_devices_other_file", || scans_out(Way::Lease, Allocator::Vkms)),
    ("lease_scans_out_its_own_dumb_buffer", || scans_out_own(Way::Lease)),
    ("second_open_scans_out_vgem", || scans_out(Way::Open, Allocator::Vgem)),
    ("second_open_scans_out_udmabuf", || scans_out(Way::Open, Allocator::Udmabuf)),
    ("second_open_scans_out_its_own_dumb_buffer", || scans_out_own(Way::Open)),
    ("old_kernel_scans_out_vgem", || scans_out(Way::Old, Allocator::Vgem)),
    ("old_kernel_scans_out_udmabuf", || scans_out(Way::Old, Allocator::Udmabuf)),
    ("old_kernel_scans_out_heap", || scans_out(Way::Old, Allocator::Heap)),
    ("old_kernel_scans_out_its_own_dumb_buffer", || scans_out_own(Way::Old)),
    ("old_kernel_is_told_by_each_denial_alone", old_kernel_is_told_by_each_denial_alone),
    ("old_kernel_takes_no_modifiers", old_kernel_takes_no_modifiers),
    ("old_kernel_turns_the_plane_off", old_kernel_turns_the_plane_off),
    ("self_import_leaves_the_original_alive", self_import_leaves_the_original_alive),
    ("an_export_of_this_process_is_known", an_export_of_this_process_is_known),
    ("a_known_buffer_is_not_asked_about", a_known_buffer_is_not_asked_about),
    ("a_handle_closed_by_somebody_else_is_noticed", a_handle_closed_by_somebody_else_is_noticed),
    ("alpha_is_ignored_by_the_opaque_substitute", alpha_is_ignored_by_the_opaque_substitute),
    ("nv12_shares_one_handle", nv12_shares_one_handle),
    ("closefb_keeps_the_plane_on", closefb_keeps_the_plane_on),
    ("rmfb_turns_the_plane_off", rmfb_turns_the_plane_off),
    ("the_master_cannot_remove_our_framebuffer", the_master_cannot_remove_our_framebuffer),
    ("lies_about_sizes_are_refused_before_the_import", lies_about_sizes_are_refused_before_the_import),
    ("what_the_driver_does_not_take_is_refused", what_the_driver_does_not_take_is_refused),
    ("what_is_no_dmabuf_is_the_clients_fault", what_is_no_dmabuf_is_the_clients_fault),
    ("errnos_are_the_contracts", || errnos_are_the_contracts(Way::Lease)),
    ("errnos_are_the_contracts_on_an_old_kernel", || errnos_are_the_contracts(Way::Old)),
    ("references_return_to_where_they_were", || references_return_to_where_they_were(Way::Lease)),
    ("references_return_on_an_old_kernel", || references_return_to_where_they_were(Way::Old)),
    ("many_cycles_leave_nothing", || many_cycles_leave_nothing(Way::Lease)),
    ("many_cycles_leave_nothing_on_an_old_kernel", || many_cycles_leave_nothing(Way::Old)),
    ("exporters_are_named_and_judged", exporters_are_named_and_judged),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

/// How the device gets its file.
#[derive(Debug, Clone, Copy)]
enum Way {
    Lease,
    Open,
    /// As on a kernel without empty leases, CLOSEFB and modifiers.
    Old,
}

/// The master of the vkms card, without any buffer of its own.
struct Master {
    node: DrmNode,
    debug: DebugDevice,
    crtc: crtc::Handle,
    connector: connector::Handle,
    mode: Mode,
}

impl Master {
    fn take() -> Result<Master> {
        let node = DrmNode::of_driver("vkms")?;
        node.acquire_master_lock().context("SET_MASTER")?;
        let resources = node.resource_handles().context("GETRESOURCES")?;
        let connected = resources.connectors().iter().find_map(|handle| {
            let info = node.get_connector(*handle, true).ok()?;
            (info.state() == connector::State::Connected).then_some(info)
        });
        let info = connected.context("nothing is connected to the vkms card")?;
        let mode = *info.modes().first().context("a connector without modes")?;
        let crtc = *resources.crtcs().first().context("a card without CRTCs")?;
        let debug = DebugDevice::of_node(node.path())?;
        Ok(Master { connector: info.handle(), debug, crtc, mode, node })
    }

    fn size(&self) -> (u32, u32) {
        let (width, height) = self.mode.size();
        (u32::from(width), u32::from(height))
    }

    fn device(&self, way: Way) -> Result<KernelDevice> {
        let device = match way {
            Way::Lease => KernelDevice::acquire(self.node.as_fd(), None)?,
            Way::Open => KernelDevice::open_again(self.node.as_fd(), self.node.path())?,
            Way::Old => {
                KernelDevice::acquire_without(Denials::ALL, self.node.as_fd(), Some(self.node.path()))?
            }
        };
        let expected = match way {
            Way::Lease => matches!(device.acquisition(), Acquisition::EmptyLease { lessee } if lessee > 0),
            Way::Open | Way::Old => device.acquisition() == Acquisition::SecondOpen,
        };
        ensure!(expected, "acquired by {:?} instead of {way:?}", device.acquisition());
        Ok(device)
    }

    fn table(&self, way: Way) -> Result<HandleTable> {
        Ok(HandleTable::new(Arc::new(self.device(way)?)))
    }

    fn show(&self, id: NonZeroU32) -> Result<()> {
        let framebuffer = framebuffer::Handle::from(id);
        self.node
            .set_crtc(self.crtc, Some(framebuffer), (0, 0), &[self.connector], Some(self.mode))
            .context("SETCRTC")
    }

    /// Ids of the framebuffers on planes, and the format of each.
    fn on_planes(&self) -> Result<Vec<(u32, String)>> {
        let planes = self.debug.planes()?;
        Ok(planes.into_iter().filter_map(|plane| plane.framebuffer).map(|fb| (fb.id, fb.format)).collect())
    }

    fn expect_on_plane(&self, id: NonZeroU32, format: &str) -> Result<()> {
        let shown = self.on_planes()?;
        ensure!(shown == [(id.get(), format.to_owned())], "planes show {shown:?}, not {id} {format}");
        Ok(())
    }

    fn crc(&self) -> Result<u32> {
        let active: Vec<String> = self.debug.planes()?.into_iter().filter_map(|plane| plane.crtc).collect();
        let crtc = active.first().context("no CRTC is on")?;
        self.debug.crc(crtc)?.stable(3, Duration::from_secs(10))
    }

    fn expect_picture(&self, picture: Picture, format: Format) -> Result<()> {
        let (width, height) = self.size();
        let layers = vec![Layer { picture, format, x: 0, y: 0 }];
        let expected = Scene { width, height, background: [0; 3], layers }.crc();
        let crc = self.crc()?;
        ensure!(crc == expected, "the display's CRC is {crc:#010x}, the picture's {expected:#010x}");
        Ok(())
    }

    fn noise(&self, seed: u32) -> Picture {
        let (width, height) = self.size();
        Picture { pattern: Pattern::Noise(seed), width, height, frame: 0 }
    }

    /// A buffer of the size of the mode with noise in it.
    fn buffer(&self, allocator: Allocator, format: Format, seed: u32) -> Result<ClientBuffer> {
        let (width, height) = self.size();
        let mut buffer = ClientBuffer::allocate(allocator, format, width, height)?;
        buffer.draw(&self.noise(seed), false)?;
        Ok(buffer)
    }
}

fn xrgb() -> Result<Format> {
    Format::named("XR24")
}

/// The description of a client buffer; every plane lies in the same dma-buf.
fn describe(buffer: &ClientBuffer) -> Result<Dmabuf<'_>> {
    let planes: Vec<_> = buffer
        .layout
        .iter()
        .map(|plane| BufferPlane { fd: buffer.as_fd(), offset: plane.offset, stride: plane.stride })
        .collect();
    Ok(Dmabuf::new(buffer.width, buffer.height, buffer.format.fourcc, DrmModifier::Linear, &planes)?)
}

fn single(fd: BorrowedFd<'_>, size: (u32, u32), offset: u32, stride: u32) -> Result<Dmabuf<'_>> {
    let plane = BufferPlane { fd, offset, stride };
    Ok(Dmabuf::new(size.0, size.1, DrmFourcc::Xrgb8888, DrmModifier::Linear, &[plane])?)
}

/// A small buffer of another exporter.
fn small(allocator: Allocator) -> Result<ClientBuffer> {
    ClientBuffer::allocate(allocator, xrgb()?, 64, 64)
}

fn references(fd: BorrowedFd<'_>) -> Result<u64> {
    Ok(exporter::exporter_info(fd)?.context("no fdinfo of a dma-buf")?.references)
}

fn expect_errno<T: std::fmt::Debug>(what: &str, result: std::io::Result<T>, errno: Errno) -> Result<()> {
    match result {
        Err(err) if err.raw_os_error() == Some(errno.raw_os_error()) => Ok(()),
        other => bail!("{what}: {other:?} instead of {errno:?}"),
    }
}

/// dma-bufs alive in this kernel.
fn dmabufs() -> Result<String> {
    let text = fs::read_to_string("/sys/kernel/debug/dma_buf/bufinfo").context("dma_buf/bufinfo")?;
    Ok(text.lines().rev().find(|line| line.starts_with("Total")).context("no total")?.to_owned())
}

fn open_files() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

fn an_empty_lease_is_a_file_of_its_own() -> Result<()> {
    let master = Master::take()?;
    let device = KernelDevice::acquire(master.node.as_fd(), Some(master.node.path()))?;
    ensure!(matches!(device.acquisition(), Acquisition::EmptyLease { .. }), "{:?}", device.acquisition());
    ensure!(device.is_apart_from(master.node.as_fd()) == Some(true), "kcmp says one file");
    ensure!(device.dev_id() == rustix::fs::fstat(&master.node)?.st_rdev, "another device");
    ensure!(device.driver() == "vkms" && device.supports_modifiers());
    Ok(())
}

fn a_second_open_is_a_file_of_its_own() -> Result<()> {
    let master = Master::take()?;
    let device = master.device(Way::Open)?;
    ensure!(device.is_apart_from(master.node.as_fd()) == Some(true), "kcmp says one file");
    ensure!(device.dev_id() == rustix::fs::fstat(&master.node)?.st_rdev, "another device");
    let files = master.debug.files()?;
    ensure!(files.iter().filter(|file| file.master).count() == 1, "masters: {files:?}");
    Ok(())
}

fn a_second_open_does_not_stay_master() -> Result<()> {
    let master = Master::take()?;
    master.node.release_master_lock().context("DROP_MASTER")?;
    let _device = master.device(Way::Open)?;
    let files = master.debug.files()?;
    ensure!(files.len() >= 2 && files.iter().all(|file| !file.master), "a master is left: {files:?}");
    master.node.acquire_master_lock().context("SET_MASTER again")
}

fn without_a_lease_and_a_node_the_file_is_shared() -> Result<()> {
    let master = Master::take()?;
    master.node.release_master_lock().context("DROP_MASTER")?;
    let device = KernelDevice::acquire(master.node.as_fd(), None)?;
    ensure!(device.acquisition() == Acquisition::Degraded, "{:?}", device.acquisition());
    ensure!(device.is_apart_from(master.node.as_fd()) == Some(false), "kcmp says two files");
    let table = HandleTable::new(Arc::new(device));
    let buffer = small(Allocator::Vgem)?;
    Framebuffer::new(&table, &describe(&buffer)?, false)?;
    Ok(())
}

fn a_node_of_another_device_is_refused() -> Result<()> {
    let master = Master::take()?;
    master.node.release_master_lock().context("DROP_MASTER")?;
    let vgem = DrmNode::of_driver("vgem")?;
    for attempt in [
        KernelDevice::acquire(master.node.as_fd(), Some(vgem.path())),
        KernelDevice::open_again(master.node.as_fd(), vgem.path()),
    ] {
        match attempt {
            Err(DeviceError::WrongNode { node, expected, got }) => {
                ensure!(node == vgem.path() && expected != got, "{node:?} {expected} {got}");
            }
            other => bail!("{other:?}"),
        }
    }
    Ok(())
}

fn importing_goes_on_without_master() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    master.node.release_master_lock().context("DROP_MASTER")?;
    let buffer = master.buffer(Allocator::Vgem, xrgb()?, 1)?;
    let framebuffer = Framebuffer::new(&table, &describe(&buffer)?, false)?;
    ensure!(master.show(framebuffer.id()).is_err(), "a commit without master");
    master.node.acquire_master_lock().context("SET_MASTER")?;
    master.show(framebuffer.id())?;
    master.expect_picture(master.noise(1), xrgb()?)
}

/// A foreign buffer is scanned out where it lies: its pixels change, without a commit, and so does the display.
fn scans_out(way: Way, allocator: Allocator) -> Result<()> {
    let master = Master::take()?;
    let table = master.table(way)?;
    let mut buffer = master.buffer(allocator, xrgb()?, 2)?;
    let framebuffer = Framebuffer::new(&table, &describe(&buffer)?, false)?;
    let expected = match allocator {
        Allocator::Udmabuf => "udmabuf",
        Allocator::Heap => "system",
        _ => "drm",
    };
    match framebuffer.origin() {
        Origin::Foreign { exporter: Some(exporter), .. } if exporter == expected => {}
        other => bail!("origin {other:?}"),
    }
    master.show(framebuffer.id())?;
    master.expect_on_plane(framebuffer.id(), "XR24")?;
    master.expect_picture(master.noise(2), xrgb()?)?;
    buffer.draw(&master.noise(3), false)?;
    master.expect_picture(master.noise(3), xrgb()?)
}

/// The device's own memory comes back as a client's buffer, and both its framebuffers show the same pixels.
fn scans_out_own(way: Way) -> Result<()> {
    let master = Master::take()?;
    let table = master.table(way)?;
    let (width, height) = master.size();
    let mut dumb = table.create_dumb(width, height, 32)?;
    let format = xrgb()?;
    ensure!(dumb.stride() == width * 4, "stride {}", dumb.stride());
    let pixels = |seed| {
        let mut pixels = vec![0; format.size(width, height) as usize];
        master.noise(seed).draw(&format, &format.layout(width, height), &mut pixels, false);
        pixels
    };
    ensure!(dumb.mapping_mut().write(0, &pixels(4)), "the mapping is too small");
    let own = Framebuffer::for_dumb(&table, &dumb, DrmFourcc::Xrgb8888)?;
    master.show(own.id())?;
    master.expect_on_plane(own.id(), "XR24")?;
    master.expect_picture(master.noise(4), format)?;

    let exported = dumb.export()?;
    let imported =
        Framebuffer::new(&table, &single(exported.as_fd(), (width, height), 0, dumb.stride())?, false)?;
    ensure!(imported.handles()[0].raw() == dumb.handle().raw(), "self-import made another handle");
    ensure!(imported.origin() == &Origin::Owned, "origin {:?}", imported.origin());
    master.show(imported.id())?;
    master.expect_on_plane(imported.id(), "XR24")?;
    drop(own);
    ensure!(dumb.mapping_mut().write(0, &pixels(5)), "the mapping is too small");
    master.expect_picture(master.noise(5), format)
}

fn self_import_leaves_the_original_alive() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let dumb = table.create_dumb(64, 64, 32)?;
    let exported = dumb.export()?;
    let before = references(exported.as_fd())?;
    ensure!(before == 3, "a first export has {before} references");
    let import = table.import(exported.as_fd())?;
    ensure!(import.raw() == dumb.handle().raw() && import.origin() == &Origin::Owned, "{import:?}");
    ensure!(references(exported.as_fd())? == before, "a self-import took a reference");
    drop(import);
    ensure!(table.stats().handles == 1 && table.stats().closes == 0, "{:?}", table.stats());
    // The kernel still knows the handle: it can be exported, and a framebuffer can be made of it.
    table.device().prime_handle_to_fd(dumb.handle().raw()).context("the original handle is gone")?;
    Framebuffer::for_dumb(&table, &dumb, DrmFourcc::Xrgb8888)?;
    let raw = dumb.handle().raw();
    drop(dumb);
    expect_errno("export after the last close", table.device().prime_handle_to_fd(raw), Errno::NOENT)
}

/// A vgem buffer of 64x64 pixels, exported.
fn vgem_export() -> Result<(DumbBuffer, OwnedFd)> {
    let node = File::options().read(true).write(true).open(DrmNode::of_driver("vgem")?.path())?;
    let vgem = HandleTable::new(Arc::new(KernelDevice::from_own_file(node.into())?));
    let dumb = vgem.create_dumb(64, 64, 32)?;
    let exported = dumb.export()?;
    Ok((dumb, exported))
}

fn a_known_buffer_is_not_asked_about() -> Result<()> {
    let master = Master::take()?;
    let device = Arc::new(Faulty::new(master.device(Way::Lease)?));
    let table = HandleTable::new(device.clone());
    let (_dumb, exported) = vgem_export()?;
    let before = references(exported.as_fd())?;
    let first = table.import(exported.as_fd())?;
    let imported = references(exported.as_fd())?;
    let duplicate = exported.try_clone()?;
    let second = table.import(duplicate.as_fd())?;
    ensure!((first.raw(), device.uses(Call::FdToHandle)) == (second.raw(), 1), "{:?}", table.stats());
    drop(duplicate);
    ensure!(references(exported.as_fd())? == imported, "a known buffer took a reference");
    drop(first);
    ensure!(device.uses(Call::GemClose) == 0, "closed under the second import");
    drop(second);
    ensure!(references(exported.as_fd())? == before, "the handle is still open");
    // The identity went with the handle.
    table.import(exported.as_fd())?;
    ensure!(device.uses(Call::FdToHandle) == 2 && table.stats().spared == 1, "{:?}", table.stats());
    Ok(())
}

fn a_handle_closed_by_somebody_else_is_noticed() -> Result<()> {
    let master = Master::take()?;
    let device = Arc::new(Faulty::new(master.device(Way::Lease)?));
    let table = HandleTable::new(device.clone());
    let (_dumb, exported) = vgem_export()?;
    let before = references(exported.as_fd())?;
    let lost = table.import(exported.as_fd())?;
    device.inner().gem_close(lost.raw())?;
    // The table answers by identity, ADDFB2 does not know the handle, and then the kernel is asked.
    let framebuffer = Framebuffer::new(&table, &single(exported.as_fd(), (64, 64), 0, 256)?, false)?;
    ensure!(device.uses(Call::AddFramebuffer) == 2 && device.uses(Call::FdToHandle) == 2, "{device:?}");
    drop((framebuffer, lost));
    ensure!(table.stats().handles == 0, "{:?}", table.entries());
    ensure!(references(exported.as_fd())? == before, "something of the import is left");
    Ok(())
}

fn an_export_of_this_process_is_known() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let vgem = KernelDevice::from_own_file(OwnedFd::from(
        File::options().read(true).write(true).open(DrmNode::of_driver("vgem")?.path())?,
    ))?;
    let exporter = vgem.dev_id();
    let vgem = HandleTable::new(Arc::new(vgem));
    let dumb = vgem.create_dumb(64, 64, 32)?;
    let exported = dumb.export()?;
    let import = table.import(exported.as_fd())?;
    match import.origin() {
        Origin::SameProcess { exporter: device, handle, .. } => {
            ensure!(*device == exporter && *handle == dumb.handle().raw(), "{import:?}");
        }
        other => bail!("origin {other:?}"),
    }
    let again = table.import(exported.as_fd())?;
    ensure!(again.raw() == import.raw() && again.origin().first() == import.origin(), "{again:?}");
    Ok(())
}

fn alpha_is_ignored_by_the_opaque_substitute() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let format = Format::named("AR24")?;
    let buffer = master.buffer(Allocator::Vgem, format, 6)?;
    let plain = Framebuffer::new(&table, &describe(&buffer)?, false)?;
    let opaque = Framebuffer::new(&table, &describe(&buffer)?, true)?;
    ensure!(table.stats().handles == 1 && table.stats().references == 2, "{:?}", table.stats());
    master.show(plain.id())?;
    master.expect_on_plane(plain.id(), "AR24")?;
    master.show(opaque.id())?;
    master.expect_on_plane(opaque.id(), "XR24")
}

fn nv12_shares_one_handle() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let buffer = master.buffer(Allocator::Udmabuf, Format::named("NV12")?, 7)?;
    let start = references(buffer.as_fd())?;
    let framebuffer = Framebuffer::new(&table, &describe(&buffer)?, false)?;
    ensure!(table.stats().handles == 1 && table.stats().references == 2, "{:?}", table.stats());
    master.show(framebuffer.id())?;
    master.expect_on_plane(framebuffer.id(), "NV12")?;
    let before = master.crc()?;
    let mut buffer = buffer;
    buffer.draw(&master.noise(8), false)?;
    ensure!(master.crc()? != before, "the display did not follow the buffer");
    framebuffer.remove()?;
    ensure!(table.stats().handles == 0, "{:?}", table.stats());
    ensure!(references(buffer.as_fd())? == start, "references are left");
    Ok(())
}

fn closefb_keeps_the_plane_on() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let buffer = master.buffer(Allocator::Vgem, xrgb()?, 9)?;
    let framebuffer = Framebuffer::new(&table, &describe(&buffer)?, false)?;
    let id = framebuffer.id();
    master.show(id)?;
    drop(framebuffer);
    drop(buffer);
    ensure!(table.stats().handles == 0, "{:?}", table.stats());
    master.expect_on_plane(id, "XR24")?;
    master.expect_picture(master.noise(9), xrgb()?)?;
    expect_errno("a second CLOSEFB", table.device().close_framebuffer(id), Errno::NOENT)
}

fn rmfb_turns_the_plane_off() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let buffer = master.buffer(Allocator::Vgem, xrgb()?, 10)?;
    let framebuffer = Framebuffer::new(&table, &describe(&buffer)?, false)?;
    master.show(framebuffer.id())?;
    framebuffer.remove()?;
    let shown = master.on_planes()?;
    ensure!(shown.is_empty(), "planes still show {shown:?}");
    Ok(())
}

/// Without `CLOSEFB` a framebuffer goes the old way, and takes the picture along.
fn old_kernel_turns_the_plane_off() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Old)?;
    let buffer = master.buffer(Allocator::Vgem, xrgb()?, 9)?;
    for _ in 0..2 {
        let framebuffer = Framebuffer::new(&table, &describe(&buffer)?, false)?;
        let id = framebuffer.id();
        master.show(id)?;
        master.expect_on_plane(id, "XR24")?;
        drop(framebuffer);
        let shown = master.on_planes()?;
        ensure!(shown.is_empty(), "planes still show {shown:?}");
        expect_errno("a second RMFB", table.device().close_framebuffer(id), Errno::NOENT)?;
    }
    ensure!(table.stats().handles == 0 && table.stats().violations == 0, "{:?}", table.stats());
    Ok(())
}

fn old_kernel_takes_no_modifiers() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Old)?;
    ensure!(!table.device().supports_modifiers(), "it says that it takes modifiers");
    let fd = DrmNode::of_driver("vgem")?.dumb_dmabuf(1 << 16)?;
    let plane = [BufferPlane { fd: fd.as_fd(), offset: 0, stride: 512 }];
    let of = |modifier| Dmabuf::new(64, 64, DrmFourcc::Xrgb8888, modifier, &plane);
    // Linear goes without the flag, and what means something cannot be said.
    for modifier in [DrmModifier::Linear, DrmModifier::Invalid] {
        Framebuffer::new(&table, &of(modifier)?, false).with_context(|| format!("{modifier:?}"))?;
    }
    match Framebuffer::new(&table, &of(DrmModifier::I915_x_tiled)?, false) {
        Err(error @ FramebufferError::ModifiersUnsupported { .. }) => {
            ensure!(error.fault() == Fault::CannotScanOut, "{error:?}");
        }
        other => bail!("{other:?}"),
    }
    let handle = table.import(fd.as_fd())?;
    let request = FramebufferRequest {
        width: 64,
        height: 64,
        format: DrmFourcc::Xrgb8888,
        modifier: Some(DrmModifier::Linear),
        planes: [Some((handle.raw(), drm_prime::Layout { offset: 0, stride: 512 })), None, None, None],
    };
    expect_errno("ADDFB2 with the flag", table.device().add_framebuffer(&request), Errno::INVAL)
}

fn old_kernel_is_told_by_each_denial_alone() -> Result<()> {
    let master = Master::take()?;
    let acquire =
        |denials| KernelDevice::acquire_without(denials, master.node.as_fd(), Some(master.node.path()));
    let without = Denials::default();
    let device = acquire(Denials { empty_lease: true, ..without })?;
    ensure!(device.acquisition() == Acquisition::SecondOpen, "{:?}", device.acquisition());
    ensure!(device.supports_modifiers(), "modifiers went with the lease");
    let device = acquire(Denials { modifiers: true, ..without })?;
    ensure!(matches!(device.acquisition(), Acquisition::EmptyLease { .. }), "{:?}", device.acquisition());
    ensure!(!device.supports_modifiers(), "modifiers were not denied");
    let table = HandleTable::new(Arc::new(acquire(Denials { closefb: true, ..without })?));
    let buffer = master.buffer(Allocator::Vgem, xrgb()?, 9)?;
    let framebuffer = Framebuffer::new(&table, &describe(&buffer)?, false)?;
    master.show(framebuffer.id())?;
    drop(framebuffer);
    ensure!(master.on_planes()?.is_empty(), "CLOSEFB was not denied");
    Ok(())
}

fn the_master_cannot_remove_our_framebuffer() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let buffer = small(Allocator::Vgem)?;
    let framebuffer = Framebuffer::new(&table, &describe(&buffer)?, false)?;
    let removed = master.node.destroy_framebuffer(framebuffer::Handle::from(framebuffer.id()));
    expect_errno("RMFB from the master", removed, Errno::NOENT)
}

fn lies_about_sizes_are_refused_before_the_import() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let fd = DrmNode::of_driver("vgem")?.dumb_dmabuf(4096)?;
    let lies = [
        single(fd.as_fd(), (32, 33), 0, 128)?,
        single(fd.as_fd(), (32, 32), 1, 128)?,
        single(fd.as_fd(), (32, 32), u32::MAX - 127, 128)?,
        single(fd.as_fd(), (32, 32), 0, u32::MAX)?,
        single(fd.as_fd(), ((1 << 30) - 1, 1), 0, u32::MAX)?,
        // 32-bit maths would find 4096 bytes: 31 * stride wraps.
        single(fd.as_fd(), (32, 32), 0, u32::MAX / 31 + 128)?,
    ];
    for lie in lies {
        match Framebuffer::new(&table, &lie, false) {
            Err(error @ FramebufferError::Size(SizeError::OutOfBounds { plane: 0, actual: 4096, .. })) => {
                ensure!(error.fault() == Fault::Client, "{error:?}");
            }
            other => bail!("{lie:?}: {other:?}"),
        }
    }
    ensure!(table.stats().imports == 0 && master.debug.framebuffers()?.is_empty(), "the kernel was asked");
    Framebuffer::new(&table, &single(fd.as_fd(), (32, 32), 0, 128)?, false)?;
    Ok(())
}

fn what_the_driver_does_not_take_is_refused() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let fd = DrmNode::of_driver("vgem")?.dumb_dmabuf(1 << 20)?;
    let plane = |stride| [BufferPlane { fd: fd.as_fd(), offset: 0, stride }];
    let of = |width, height, format, modifier, stride| {
        Dmabuf::new(width, height, format, modifier, &plane(stride))
    };
    let refused = [
        // vkms has no such format, no such modifier, and no framebuffer beyond 8192 or below 10 pixels.
        of(64, 64, DrmFourcc::Xrgb2101010, DrmModifier::Linear, 256)?,
        of(64, 64, DrmFourcc::Xrgb8888, DrmModifier::I915_x_tiled, 512)?,
        of(8193, 10, DrmFourcc::Xrgb8888, DrmModifier::Linear, 8193 * 4)?,
        of(9, 9, DrmFourcc::Xrgb8888, DrmModifier::Linear, 64)?,
    ];
    for buffer in refused {
        match Framebuffer::new(&table, &buffer, false) {
            Err(FramebufferError::Refused { source, .. }) => {
                expect_errno::<()>("ADDFB2", Err(source), Errno::INVAL)?;
            }
            other => bail!("{buffer:?}: {other:?}"),
        }
        ensure!(table.stats().handles == 0, "a refusal left a handle");
    }
    let implicit = of(64, 64, DrmFourcc::Xrgb8888, DrmModifier::Invalid, 256)?;
    Framebuffer::new(&table, &implicit, false).context("an implicit layout")?;
    Ok(())
}

fn what_is_no_dmabuf_is_the_clients_fault() -> Result<()> {
    let master = Master::take()?;
    let table = master.table(Way::Lease)?;
    let memfd = small(Allocator::Memfd)?;
    let null = File::open("/dev/null")?;
    let path = rustix::fs::open("/dev/null", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())?;
    for (name, fd, errno) in [
        ("memfd", memfd.as_fd(), Errno::INVAL),
        ("/dev/null", null.as_fd(), Errno::INVAL),
        ("card", master.node.as_fd(), Errno::INVAL),
        ("O_PATH", path.as_fd(), Errno::BADF),
    ] {
        ensure!(!is_dmabuf(fd)?, "{name} passes for a dma-buf");
        match table.import(fd) {
            Err(error @ ImportError::NotDmabuf { .. }) => {
                ensure!(error.fault() == Fault::Client, "{name}: {error:?}");
                let ImportError::NotDmabuf { source } = error else { bail!("{name}") };
                expect_errno::<()>(name, Err(source), errno)?;
            }
            other => bail!("{name}: {other:?}"),
        }
    }
    ensure!(is_dmabuf(small(Allocator::Vgem)?.as_fd())? && is_dmabuf(small(Allocator::Udmabuf)?.as_fd())?);
    Ok(())
}

fn errnos_are_the_contracts(way: Way) -> Result<()> {
    let master = Master::take()?;
    let (device, other) = (master.device(way)?, master.device(Way::Open)?);
    let bad = NonZeroU32::new(4711).context("zero")?;
    expect_errno("H2F of no handle", device.prime_handle_to_fd(bad), Errno::NOENT)?;
    expect_errno("GEM_CLOSE of no handle", device.gem_close(bad), Errno::INVAL)?;
    expect_errno("CLOSEFB of no framebuffer", device.close_framebuffer(bad), Errno::NOENT)?;
    expect_errno("RMFB of no framebuffer", device.remove_framebuffer(bad), Errno::NOENT)?;
    expect_errno("CREATE_DUMB 0x0", device.create_dumb(0, 0, 32), Errno::INVAL)?;
    expect_errno("MAP_DUMB of no handle", device.map_dumb(bad, 4096), Errno::NOENT)?;

    let buffer = small(Allocator::Vgem)?;
    let handle = device.prime_fd_to_handle(buffer.as_fd())?;
    ensure!(device.prime_fd_to_handle(buffer.as_fd())? == handle, "a second import made a second handle");
    expect_errno("MAP_DUMB of an import", device.map_dumb(handle, 4096), Errno::INVAL)?;
    let layout = drm_prime::Layout { offset: 0, stride: 256 };
    let request = FramebufferRequest {
        width: 64,
        height: 64,
        format: DrmFourcc::Xrgb8888,
        modifier: device.supports_modifiers().then_some(DrmModifier::Linear),
        planes: [Some((handle, layout)), None, None, None],
    };
    expect_errno("ADDFB2 with the other file's handle", other.add_framebuffer(&request), Errno::NOENT)?;
    let id = device.add_framebuffer(&request)?;
    expect_errno("CLOSEFB of the other file's framebuffer", other.close_framebuffer(id), Errno::NOENT)?;
    device.gem_close(handle).context("GEM_CLOSE after ADDFB2")?;
    expect_errno("GEM_CLOSE twice", device.gem_close(handle), Errno::INVAL)?;
    let next = device.prime_fd_to_handle(small(Allocator::Udmabuf)?.as_fd())?;
    ensure!(next == handle, "the number {handle} was not reused at once, {next} was given out");
    device.gem_close(next)?;
    device.close_framebuffer(id)?;
    expect_errno("CLOSEFB twice", device.close_framebuffer(id), Errno::NOENT)
}

fn references_return_to_where_they_were(way: Way) -> Result<()> {
    let master = Master::take()?;
    let (first, second) = (master.table(way)?, master.table(Way::Open)?);
    let buffer = small(Allocator::Udmabuf)?;
    let count = || references(buffer.as_fd());
    let start = count()?;
    let import = first.import(buffer.as_fd())?;
    ensure!(count()? == start + 3, "an import took {} references", count()? - start);
    let again = first.import(buffer.as_fd())?;
    let framebuffer = Framebuffer::new(&first, &describe(&buffer)?, false)?;
    ensure!(count()? == start + 3, "a known buffer took more references");
    let elsewhere = second.import(buffer.as_fd())?;
    ensure!(count()? == start + 6, "the other file's import took {} references", count()? - start - 3);
    drop((import, again));
    ensure!(count()? == start + 6, "the framebuffer's handle was closed");
    drop(elsewhere);
    ensure!(count()? == start + 3, "the other file's import is not given back");
    drop(framebuffer);
    ensure!(count()? == start, "{} references are left", count()? - start);
    Ok(())
}

fn many_cycles_leave_nothing(way: Way) -> Result<()> {
    let master = Master::take()?;
    let table = master.table(way)?;
    let buffers = [small(Allocator::Vgem)?, small(Allocator::Udmabuf)?];
    let nv12 = ClientBuffer::allocate(Allocator::Vgem, Format::named("NV12")?, 64, 64)?;
    let state = || -> Result<_> {
        let handle = table.import(buffers[0].as_fd())?.raw();
        Ok((handle, master.debug.framebuffers()?.len(), dmabufs()?, open_files()?))
    };
    let before = state()?;
    let rounds = if matches!(way, Way::Old) { 200 } else { 1000 };
    for round in 0..rounds {
        let buffer = Framebuffer::new(&table, &describe(&buffers[round % 2])?, round % 3 == 0)?;
        let planar = Framebuffer::new(&table, &describe(&nv12)?, false)?;
        let dumb = table.create_dumb(64, 64, 32)?;
        let own = Framebuffer::for_dumb(&table, &dumb, DrmFourcc::Xrgb8888)?;
        let back = table.import(dumb.export()?.as_fd())?;
        if round % 2 == 0 {
            drop((buffer, dumb, planar, own, back));
        } else {
            drop((back, own, planar, dumb, buffer));
        }
    }
    let after = state()?;
    ensure!(before == after, "before {before:?}, after {after:?}");
    let stats = table.stats();
    ensure!(stats.handles == 0 && stats.violations == 0, "{stats:?}");
    Ok(())
}

fn exporters_are_named_and_judged() -> Result<()> {
    let system = LinearExporters::scan()?;
    ensure!(system.drivers() == ["faux"], "drivers {:?}", system.drivers());
    for (allocator, name) in [
        (Allocator::Vgem, "drm"),
        (Allocator::Vkms, "drm"),
        (Allocator::Udmabuf, "udmabuf"),
        (Allocator::Heap, "system"),
    ] {
        let buffer = small(allocator)?;
        let exporter = exporter::exporter_name(buffer.as_fd())?;
        ensure!(exporter.as_deref() == Some(name), "{allocator:?} is exported by {exporter:?}");
        let linearity = system.judge(buffer.as_fd())?;
        ensure!(linearity.is_linear(), "{allocator:?}: {linearity:?}");
        ensure!(linearity.resolve(DrmModifier::Invalid) == DrmModifier::Linear);
    }
    Ok(())
}
