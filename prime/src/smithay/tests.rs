//! The exporter and the allocator on a device of this crate's own, with real `wl_buffer` objects and no client behind them.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use ::smithay::{
    backend::{
        allocator::{
            Allocator, Buffer,
            dmabuf::{AsDmabuf, Dmabuf, DmabufFlags},
        },
        drm::{
            DrmDeviceFd, Framebuffer as _,
            exporter::{ExportBuffer, ExportFramebuffer},
        },
    },
    reexports::wayland_server::{
        Client, DataInit, Dispatch, Display, DisplayHandle,
        backend::{ClientData, ClientId, DisconnectReason},
        protocol::wl_buffer::{self, WlBuffer},
    },
    utils::{Buffer as BufferCoords, DeviceFd, Size},
};
use drm_fourcc::{DrmFormat, DrmFourcc, DrmModifier};
use rustix::io::Errno;

use super::*;
use crate::{
    ImportError, Origin,
    device::faults::Call,
    model::Driver,
    smithay::{AllocateError, PrimeAllocator, PrimeBuffer},
    testbed::{TestDevice, device_with, memory},
};

struct Compositor;

struct Peer;

impl ClientData for Peer {
    fn initialized(&self, _: ClientId) {}
    fn disconnected(&self, _: ClientId, _: DisconnectReason) {}
}

impl<T: Send + Sync + 'static> Dispatch<WlBuffer, T> for Compositor {
    fn request(
        _: &mut Self,
        _: &Client,
        _: &WlBuffer,
        _: wl_buffer::Request,
        _: &T,
        _: &DisplayHandle,
        _: &mut DataInit<'_, Self>,
    ) {
    }
}

/// A device, what would drive it, and a client to own buffers.
struct Bench {
    device: Arc<TestDevice>,
    master: DrmDeviceFd,
    exporter: PrimeExporter,
    display: Display<Compositor>,
    client: Client,
    _peer: UnixStream,
}

#[expect(clippy::disallowed_methods, reason = "a file that cannot have a master")]
fn master() -> DrmDeviceFd {
    // Any device number does: the exporter only compares.
    let null = std::fs::File::open("/dev/null").unwrap();
    DrmDeviceFd::new(DeviceFd::from(OwnedFd::from(null)))
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Driver)) -> Self {
        let master = master();
        let dev = master.dev_id().unwrap();
        let device = Arc::new(device_with(|driver| {
            driver.rdev = dev;
            change(driver);
        }));
        let exporter = PrimeExporter::new(HandleTable::new(device.clone())).unwrap();
        let display = Display::new().unwrap();
        let (ours, peer) = UnixStream::pair().unwrap();
        let client = display.handle().insert_client(ours, Arc::new(Peer)).unwrap();
        Self { device, master, exporter, display, client, _peer: peer }
    }

    fn wl_buffer<T: Send + Sync + 'static>(&self, data: T) -> WlBuffer {
        self.client.create_resource::<WlBuffer, T, Compositor>(&self.display.handle(), 1, data).unwrap()
    }

    fn try_client(
        &self,
        buffer: &WlBuffer,
        opaque: bool,
    ) -> Result<Option<PrimeFramebuffer>, ExportError<std::convert::Infallible>> {
        ExportFramebuffer::<Dmabuf>::add_framebuffer(
            &self.exporter,
            &self.master,
            ExportBuffer::Wayland(buffer),
            opaque,
        )
    }

    fn can_add(&self, buffer: &WlBuffer) -> bool {
        self.exporter.can_add_framebuffer(&ExportBuffer::<Dmabuf>::Wayland(buffer))
    }
}

fn dmabuf(code: DrmFourcc, modifier: DrmModifier) -> Dmabuf {
    let mut builder = Dmabuf::builder((16, 16), code, modifier, DmabufFlags::empty());
    assert!(builder.add_plane(memory(4096), 0, 0, 128));
    builder.build().unwrap()
}

fn linear(code: DrmFourcc) -> Dmabuf {
    dmabuf(code, DrmModifier::Linear)
}

fn refusal<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, ExportError<E>>) -> Refusal {
    match result.unwrap_err() {
        ExportError::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_buffer_is_imported_once_and_closed_with_its_last_holder() {
    let bench = Bench::new();
    let buffer = bench.wl_buffer(linear(DrmFourcc::Xrgb8888));
    assert!(bench.can_add(&buffer));
    let first = bench.try_client(&buffer, false).unwrap().unwrap();
    let other_output = bench.exporter.clone();
    let second: PrimeFramebuffer = ExportFramebuffer::<Dmabuf>::add_framebuffer(
        &other_output,
        &bench.master,
        ExportBuffer::Wayland(&buffer),
        false,
    )
    .unwrap()
    .unwrap();
    assert_eq!((bench.device.uses(Call::FdToHandle), bench.device.uses(Call::AddFramebuffer)), (1, 1));
    assert_eq!(first.as_ref(), second.as_ref());
    assert_eq!(u32::from(*first.as_ref()), first.framebuffer().id().get());
    assert_eq!(first.format(), DrmFormat { code: DrmFourcc::Xrgb8888, modifier: DrmModifier::Linear });
    drop(first);
    assert_eq!(bench.device.uses(Call::CloseFramebuffer), 0, "a frame still holds it");
    drop(second);
    assert_eq!(
        (bench.device.uses(Call::CloseFramebuffer), bench.device.uses(Call::RemoveFramebuffer)),
        (1, 0)
    );
    assert_eq!((bench.device.uses(Call::GemClose), bench.device.handles()), (1, 0));
    // Shown again later: made anew.
    assert!(bench.try_client(&buffer, false).unwrap().is_some());
    assert_eq!(bench.device.uses(Call::AddFramebuffer), 2);
}

#[test]
fn a_refusal_is_remembered_with_its_reason_until_the_buffer_is_gone() {
    let bench = Bench::new();
    let data = linear(DrmFourcc::Xrgb8888);
    let weak = data.weak();
    let buffer = bench.wl_buffer(data.clone());
    for opaque in [false, true] {
        bench.device.fail(Call::AddFramebuffer, 1, Errno::INVAL);
        let refused = refusal(bench.try_client(&buffer, opaque));
        assert_eq!(refused.fault(), Fault::CannotScanOut);
        let Refusal::Framebuffer(error) = refused else { panic!("{refused:?}") };
        let FramebufferError::Refused { source, .. } = &*error else { panic!("{error:?}") };
        assert_eq!(source.raw_os_error(), Some(Errno::INVAL.raw_os_error()));
        assert_eq!(bench.can_add(&buffer), !opaque, "the other kind has not been tried yet");
    }
    let asked = (bench.device.uses(Call::FdToHandle), bench.device.uses(Call::AddFramebuffer));
    assert!(matches!(refusal(bench.try_client(&buffer, true)), Refusal::Framebuffer(_)));
    assert_eq!((bench.device.uses(Call::FdToHandle), bench.device.uses(Call::AddFramebuffer)), asked);
    assert!(matches!(bench.exporter.refusal(&buffer), Some(Refusal::Framebuffer(_))));
    assert_eq!(bench.exporter.refusals().len(), 2);
    assert_eq!(bench.device.handles(), 0, "nothing is left behind");

    drop(data);
    let (device, exporter) = (bench.device.clone(), bench.exporter.clone());
    drop((buffer, bench));
    assert!(weak.is_gone());
    assert!(exporter.refusals().is_empty());
    // What is remembered of it goes when the next buffer comes.
    let bench = Bench { exporter: exporter.clone(), ..Bench::new() };
    let next = bench.wl_buffer(linear(DrmFourcc::Xrgb8888));
    assert!(bench.try_client(&next, false).unwrap().is_some());
    assert_eq!(exporter.state().outcomes.len(), 1);
    assert_eq!(device.framebuffers(), 0);
}

#[test]
fn the_ledger_tells_clients_and_swapchain_apart() {
    let bench = Bench::new();
    let mut allocator = PrimeAllocator::new(bench.exporter.table().clone());
    let own = allocator.create_buffer(16, 16, DrmFourcc::Xrgb8888, &[DrmModifier::Linear]).unwrap();
    let own = bench.exporter.add_framebuffer(&bench.master, ExportBuffer::Allocator(&own), true);
    let buffer = bench.wl_buffer(linear(DrmFourcc::Xrgb8888));
    let made = bench.try_client(&buffer, false).unwrap().unwrap();
    let client = format!("client {}", std::process::id());
    let ledger = bench.exporter.table().ledger();
    let framebuffers: Vec<_> = ledger.framebuffers.iter().map(|entry| entry.owner.as_str()).collect();
    assert_eq!(framebuffers, ["swapchain", &client]);
    let holders = ledger.handles.iter().flat_map(|entry| &entry.holders);
    let holders: Vec<_> = holders.map(|holder| holder.owner.as_str()).collect();
    assert_eq!(holders, ["swapchain", &client]);
    drop((own.unwrap(), made));
}

#[test]
fn a_failure_of_the_system_is_tried_again() {
    let bench = Bench::new();
    let buffer = bench.wl_buffer(linear(DrmFourcc::Xrgb8888));
    bench.device.fail(Call::FdToHandle, 1, Errno::NOMEM);
    let failed = refusal(bench.try_client(&buffer, false));
    assert_eq!(failed.fault(), Fault::System);
    assert!(bench.exporter.refusal(&buffer).is_none() && bench.can_add(&buffer));
    assert!(bench.try_client(&buffer, false).unwrap().is_some());
}

#[test]
fn the_opaque_substitute_is_used_where_there_is_one() {
    let bench = Bench::new();
    for (code, opaque, expected) in [
        (DrmFourcc::Argb8888, false, DrmFourcc::Argb8888),
        (DrmFourcc::Argb8888, true, DrmFourcc::Xrgb8888),
        (DrmFourcc::Xrgb8888, true, DrmFourcc::Xrgb8888),
        (DrmFourcc::Rgba1010102, true, DrmFourcc::Rgbx1010102),
        (DrmFourcc::R8, true, DrmFourcc::R8),
        (DrmFourcc::Axbxgxrx106106106106, true, DrmFourcc::Axbxgxrx106106106106),
    ] {
        let buffer = bench.wl_buffer(linear(code));
        let made = bench.try_client(&buffer, opaque).unwrap().unwrap();
        assert_eq!(made.format().code, expected, "{code} {opaque}");
    }
}

#[test]
fn a_buffer_of_another_master_is_not_taken() {
    let bench = Bench::with(|driver| driver.rdev = 0xe200);
    let buffer = bench.wl_buffer(linear(DrmFourcc::Xrgb8888));
    let refused = refusal(bench.try_client(&buffer, false));
    assert!(matches!(refused, Refusal::OtherDevice { device: 0xe200, .. }), "{refused:?}");
    assert_eq!(bench.device.uses(Call::FdToHandle), 0);
}

#[test]
fn an_implicit_layout_of_an_unknown_exporter_is_refused() {
    let bench = Bench::new();
    let buffer = bench.wl_buffer(dmabuf(DrmFourcc::Xrgb8888, DrmModifier::Invalid));
    let refused = refusal(bench.try_client(&buffer, false));
    assert!(matches!(&refused, Refusal::ImplicitLayout(Linearity::Unknown { .. })), "{refused:?}");
    assert_eq!(bench.device.uses(Call::FdToHandle), 0);
    assert!(bench.exporter.refusal(&buffer).is_some());
    bench.exporter.look_at_exporters().unwrap();
    assert!(bench.exporter.refusal(&buffer).is_none(), "it may be known now");
}

#[test]
fn a_device_without_modifiers_lists_its_formats_under_invalid() {
    let bench = Bench::with(|driver| driver.modifiers = false);
    let buffer = bench.wl_buffer(linear(DrmFourcc::Xrgb8888));
    let made = bench.try_client(&buffer, false).unwrap().unwrap();
    assert_eq!(made.format().modifier, DrmModifier::Invalid);
    assert_eq!(bench.device.last_request().unwrap().modifier, None);
}

#[test]
fn what_is_no_dmabuf_has_no_framebuffer() {
    let bench = Bench::new();
    let shm = bench.wl_buffer("a pool");
    assert!(!bench.can_add(&shm));
    assert!(bench.try_client(&shm, false).unwrap().is_none());
    assert!(bench.exporter.refusal(&shm).is_none());
}

#[test]
fn a_lying_description_is_the_clients_fault() {
    let bench = Bench::new();
    let mut builder =
        Dmabuf::builder((64, 64), DrmFourcc::Xrgb8888, DrmModifier::Linear, DmabufFlags::empty());
    builder.add_plane(memory(4096), 0, 0, 256);
    let too_large = bench.wl_buffer(builder.build().unwrap());
    assert_eq!(refusal(bench.try_client(&too_large, false)).fault(), Fault::Client);
    let mut builder =
        Dmabuf::builder((0, 16), DrmFourcc::Xrgb8888, DrmModifier::Linear, DmabufFlags::empty());
    builder.add_plane(memory(4096), 0, 0, 256);
    let empty = bench.wl_buffer(builder.build().unwrap());
    assert_eq!(refusal(bench.try_client(&empty, false)).fault(), Fault::Client);
    assert_eq!(bench.device.uses(Call::FdToHandle), 0);
}

/// An allocator's buffer of no type that this crate knows.
struct Bare(Result<Dmabuf, std::fmt::Error>);

impl Buffer for Bare {
    fn size(&self) -> Size<i32, BufferCoords> {
        (16, 16).into()
    }
    fn format(&self) -> DrmFormat {
        DrmFormat { code: DrmFourcc::Xrgb8888, modifier: DrmModifier::Linear }
    }
}

impl AsDmabuf for Bare {
    type Error = std::fmt::Error;
    fn export(&self) -> Result<Dmabuf, std::fmt::Error> {
        self.0.clone()
    }
}

#[test]
fn any_buffer_that_is_a_dmabuf_is_taken() {
    let bench = Bench::new();
    let good = Bare(Ok(linear(DrmFourcc::Xrgb8888)));
    let made = bench.exporter.add_framebuffer(&bench.master, ExportBuffer::Allocator(&good), true);
    assert_eq!(made.unwrap().unwrap().format().code, DrmFourcc::Xrgb8888);
    let bad = Bare(Err(std::fmt::Error));
    assert!(bench.exporter.can_add_framebuffer(&ExportBuffer::Allocator(&bad)));
    let failed = bench.exporter.add_framebuffer(&bench.master, ExportBuffer::Allocator(&bad), true);
    assert!(matches!(failed, Err(ExportError::Export(std::fmt::Error))));
}

#[test]
fn a_swapchain_buffer_is_known_again_as_our_own() {
    let bench = Bench::new();
    let mut allocator = PrimeAllocator::new(bench.exporter.table().clone());
    let modifiers = [DrmModifier::Linear];
    let buffer = allocator.create_buffer(64, 32, DrmFourcc::Argb8888, &modifiers).unwrap();
    assert_eq!((buffer.width(), buffer.height(), buffer.dumb().stride()), (64, 32, 256));
    let made = bench.exporter.add_framebuffer(&bench.master, ExportBuffer::Allocator(&buffer), true).unwrap();
    let made = made.unwrap();
    assert_eq!(made.framebuffer().origin(), &Origin::Owned);
    assert_eq!(made.format().code, DrmFourcc::Xrgb8888);
    assert_eq!(bench.device.handles(), 1);
    drop(buffer);
    assert_eq!(bench.device.uses(Call::GemClose), 0, "the framebuffer counts its handle");
    drop(made);
    assert_eq!((bench.device.uses(Call::GemClose), bench.exporter.table().stats().violations), (1, 0));
}

#[test]
fn the_allocator_makes_what_dumb_buffers_can_be() {
    let bench = Bench::new();
    let mut allocator = PrimeAllocator::new(bench.exporter.table().clone());
    let mut create = |code, modifier| allocator.create_buffer(16, 16, code, &[modifier]);
    assert_eq!(create(DrmFourcc::Rgb565, DrmModifier::Linear).unwrap().dumb().bpp(), 16);
    assert_eq!(create(DrmFourcc::Xrgb8888, DrmModifier::Invalid).unwrap().dumb().bpp(), 32);
    for (code, modifier) in [
        (DrmFourcc::Nv12, DrmModifier::Linear),
        (DrmFourcc::Yuyv, DrmModifier::Linear),
        (DrmFourcc::Xrgb8888, DrmModifier::I915_x_tiled),
    ] {
        let error = create(code, modifier).unwrap_err();
        assert!(matches!(error, AllocateError::Unsupported { format, .. } if format == code), "{error:?}");
    }
    bench.device.fail(Call::CreateDumb, 1, Errno::ACCESS);
    let error = PrimeAllocator::new(bench.exporter.table().clone())
        .create_buffer(16, 16, DrmFourcc::Xrgb8888, &[DrmModifier::Linear])
        .unwrap_err();
    assert!(matches!(&error, AllocateError::Dumb(_)), "{error:?}");
    assert_eq!(error.fault(), Fault::CannotScanOut);
}

#[test]
fn a_swapchain_buffer_is_exported_as_one_dmabuf() {
    let bench = Bench::new();
    let mut allocator = PrimeAllocator::new(bench.exporter.table().clone());
    let buffer: PrimeBuffer =
        allocator.create_buffer(16, 16, DrmFourcc::Xrgb8888, &[DrmModifier::Linear]).unwrap();
    let (one, two) = (buffer.export().unwrap(), buffer.clone().export().unwrap());
    assert_eq!(one, two);
    let fd = one.handles().next().unwrap();
    assert_eq!(
        bench.exporter.table().import(fd.as_fd()).map(|h| h.raw()).unwrap(),
        buffer.dumb().handle().raw()
    );
    let not_one = std::fs::File::open("/dev/null").unwrap();
    bench.device.fail(Call::FdToHandle, 1, Errno::INVAL);
    let error = bench.exporter.table().import(not_one.as_fd()).unwrap_err();
    assert!(matches!(error, ImportError::NotDmabuf { .. }), "{error:?}");
}
