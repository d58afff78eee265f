//! What is advertised was tried: on devices that refuse something, it is not offered, and who uses it all the same gets the
//! protocol's answer.

use std::collections::HashSet;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drm_prime::Mapping;
use drm_prime::device::faults::{Call, Faulty};
use drm_prime::device::{DumbAllocation, FramebufferRequest, GemDevice};
use drm_prime::model::File;
use primeway::backend::OutputId;
use primeway::backend::headless::Headless;
use primeway_tests::format::{MODIFIER_INVALID, MODIFIER_LINEAR};
use primeway_tests::picture::Pattern;
use rustix::io::Errno;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{Error, Flags};

use crate::headless_support::Server;
use crate::headless_support::client::{Client, Event};

use super::{OUTPUT, assert_shows, present, start};

const SIZE: (u32, u32) = (64, 64);
const OUTPUT_ID: OutputId = primeway::backend::headless::OUTPUT;

fn code(name: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*name)
}

/// The formats that each plane takes, as numbers.
fn plane_formats(server: &Server) -> Vec<Vec<u32>> {
    server
        .ask(|state| {
            let planes = state.backend.planes(OUTPUT_ID);
            planes.iter().map(|plane| plane.formats.iter().map(|(f, _)| *f as u32).collect()).collect()
        })
        .unwrap()
}

#[test]
fn nothing_is_lost_on_a_device_that_takes_what_it_lists() {
    let (server, _client) = start();
    for formats in plane_formats(&server) {
        assert_eq!(formats.len(), 4, "{formats:?}");
    }
    let refused = server
        .ask(|state| {
            let before = state.painter.formats();
            let after = primeway::import::probe::run(&mut state.backend, &mut state.painter);
            before.into_iter().filter(|pair| !after.contains(pair)).collect::<Vec<_>>()
        })
        .unwrap();
    assert_eq!(refused, [], "the renderer draws all that it lists");
    assert!(advertised(&server).len() > 40);
    let resources = server.stats().unwrap().resources;
    assert_eq!((resources.framebuffers, resources.mapped), (0, 0));
    let ledger = server.ask(|state| state.backend.buffers().ledger()).unwrap();
    let left = ledger.handles.iter().flat_map(|h| &h.holders).filter(|h| h.owner.as_str() == "probe").count();
    assert_eq!(left, 0, "{ledger:?}");
}

#[test]
fn a_format_without_framebuffer_is_composited_without_asking_again() {
    // A driver that lists NV12 and P010 and makes no framebuffer of them.
    let formats = &[0x3432_5258, 0x3432_5241]; // XR24, AR24
    let server = Server::start_on(OUTPUT, &[], |handle| {
        let driver = drm_prime::model::Driver { formats, ..Headless::driver() };
        Ok(Headless::on(handle, OUTPUT, driver, |file| Arc::new(file))?)
    })
    .unwrap();
    for mut kept in plane_formats(&server) {
        kept.sort_unstable();
        assert_eq!(kept, [code(b"AR24"), code(b"XR24")]);
    }
    let mut client = server.connect().unwrap();
    let buffer = client.dmabuf("NV12", SIZE, Pattern::Card).unwrap();
    let window = client.open_window("nv12").unwrap();
    assert!(!present(&mut client, &window.surface, &buffer));
    let report = server.window("nv12").unwrap();
    let ways = report.ways.join("; ");
    assert!(ways.contains("plane: no plane takes NV12"), "{ways}");
    // What the device does take goes on as ever.
    let buffer = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    assert!(present(&mut client, &window.surface, &buffer));
    server.settle().unwrap();
    assert_shows(&server.picture().unwrap(), (0, 0), &buffer);
}

#[test]
fn a_failure_of_the_system_says_nothing_about_a_format() {
    for errno in [Errno::NOMEM, Errno::INVAL] {
        let server = Server::start_on(OUTPUT, &[], move |handle| {
            Ok(Headless::on(handle, OUTPUT, Headless::driver(), move |file| {
                let device = Faulty::new(file);
                // The first is that of the composition's buffer, the next two are formats that are tried.
                device.fail(Call::AddFramebuffer, 2, errno);
                device.fail(Call::AddFramebuffer, 3, errno);
                Arc::new(device)
            })?)
        })
        .unwrap();
        let kept = if errno == Errno::NOMEM { 4 } else { 2 };
        assert!(plane_formats(&server).iter().all(|formats| formats.len() == kept), "{errno}");
    }
}

#[test]
fn what_one_plane_refuses_another_may_take() {
    let (server, mut client) = start();
    let top = NonZeroU32::new(3).unwrap();
    server
        .ask(move |state| {
            let pair = (drm_fourcc::DrmFourcc::Argb8888, drm_fourcc::DrmModifier::Linear);
            state.backend.forbid(OUTPUT_ID, top, pair);
        })
        .unwrap();
    let buffer = client.dmabuf("AR24", SIZE, Pattern::Noise(1)).unwrap();
    let window = client.open_window("alpha").unwrap();
    assert!(present(&mut client, &window.surface, &buffer));
    assert_eq!(server.window("alpha").unwrap().plane, Some(2));
}

/// Asks for a LINEAR buffer of [`SIZE`] by `create` and by `create_immed`.
fn use_format(server: &Server, name: &str) {
    let fourcc = code(name.as_bytes().try_into().unwrap());
    for immediate in [false, true] {
        let mut client = server.connect().unwrap();
        let (memory, _) = Client::memory(name, SIZE, Pattern::Noise(1), false).unwrap();
        let params = client.params().unwrap();
        for (index, plane) in (0..).zip(&memory.layout) {
            params.add(memory.as_fd(), index, plane.offset, plane.stride, 0, 0);
        }
        let size = (SIZE.0 as i32, SIZE.1 as i32);
        if immediate {
            client.create_immed(&params, size, fourcc, Flags::empty());
        } else {
            client.create(&params, size, fourcc, Flags::empty());
        }
        let error = client.expect_error().unwrap();
        assert_eq!(error.interface, "zwp_linux_buffer_params_v1");
        assert_eq!(error.code, Error::InvalidFormat as u32, "{name}, {immediate}: {}", error.message);
    }
}

#[test]
fn a_format_that_the_renderer_draws_black_is_not_advertised_and_invalid() {
    let (server, client) = start();
    let all = advertised(&server);
    drop((client, server));
    let server = Server::start_on(OUTPUT, &[], |handle| {
        Ok(Headless::on(handle, OUTPUT, Headless::driver(), |file| Arc::new(OddExports(file)))?)
    });
    let server = server.unwrap();
    let left = advertised(&server);
    let lost: HashSet<_> = all.difference(&left).copied().collect();
    let expected: HashSet<_> = [b"XR24", b"AR24", b"XB24", b"AB24"]
        .into_iter()
        .flat_map(|name| [(code(name), MODIFIER_LINEAR), (code(name), MODIFIER_INVALID)])
        .collect();
    assert_eq!(lost, expected);
    use_format(&server, "XR24");
    use_format(&server, "XB24");
    // Who uses what is left goes on.
    let mut client = server.connect().unwrap();
    let buffer = client.dmabuf("RG16", SIZE, Pattern::Noise(1)).unwrap();
    client.show_window("goes on", &buffer).unwrap();
    assert!(!client.seen.log.contains(&Event::Failed));
}

#[test]
fn without_an_example_to_draw_everything_is_kept() {
    let (server, client) = start();
    let all = advertised(&server);
    drop((client, server));
    for call in [Call::HandleToFd, Call::CreateDumb] {
        let server = Server::start_on(OUTPUT, &[], move |handle| {
            Ok(Headless::on(handle, OUTPUT, Headless::driver(), move |file| {
                let device = Faulty::new(file);
                device.fail(call, 1, Errno::NOSYS);
                Arc::new(device)
            })?)
        });
        let server = server.unwrap();
        assert_eq!(advertised(&server), all, "{call:?}");
        assert!(plane_formats(&server).iter().all(|formats| formats.len() == 4), "{call:?}");
    }
}

fn advertised(server: &Server) -> HashSet<(u32, u64)> {
    let mut client = server.connect().unwrap();
    client.roundtrip().unwrap();
    client.seen.globals.formats.clone()
}

/// A device whose dma-bufs, however they were drawn, hold what is black in BGRX and RGBX order, and in no other.
#[derive(Debug)]
struct OddExports(File);

impl GemDevice for OddExports {
    fn dev_id(&self) -> u64 {
        GemDevice::dev_id(&self.0)
    }

    fn supports_modifiers(&self) -> bool {
        self.0.supports_modifiers()
    }

    fn is_dmabuf(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        self.0.is_dmabuf(fd)
    }

    fn prime_fd_to_handle(&self, fd: BorrowedFd<'_>) -> io::Result<NonZeroU32> {
        self.0.prime_fd_to_handle(fd)
    }

    fn prime_handle_to_fd(&self, handle: NonZeroU32) -> io::Result<OwnedFd> {
        let size = rustix::fs::fstat(self.0.prime_handle_to_fd(handle)?)?.st_size as u64;
        let file = rustix::fs::memfd_create("odd", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, size)?;
        let bytes: Vec<u8> = [0, 0, 0, 0xff].repeat(64 * 1024);
        rustix::io::pwrite(&file, &bytes[..bytes.len().min(size as usize)], 0)?;
        Ok(file)
    }

    fn gem_close(&self, handle: NonZeroU32) -> io::Result<()> {
        GemDevice::gem_close(&self.0, handle)
    }

    fn add_framebuffer(&self, request: &FramebufferRequest) -> io::Result<NonZeroU32> {
        self.0.add_framebuffer(request)
    }

    fn close_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        self.0.close_framebuffer(id)
    }

    fn remove_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        self.0.remove_framebuffer(id)
    }

    fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> io::Result<DumbAllocation> {
        GemDevice::create_dumb(&self.0, width, height, bpp)
    }

    fn map_dumb(&self, handle: NonZeroU32, len: usize) -> io::Result<Mapping> {
        GemDevice::map_dumb(&self.0, handle, len)
    }
}
