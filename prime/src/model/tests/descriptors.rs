//! Real descriptors, and the model as a [`GemDevice`].

use std::{
    num::NonZeroU32,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{MemfdFlags, SealFlags};

use super::*;
use crate::{BufferPlane, Dmabuf, Framebuffer, GemDevice, HandleTable, Mapping, Origin};
use drm_fourcc::{DrmFourcc, DrmModifier};

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("client", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn real(file: &File, fd: &OwnedFd) -> Result<u32, Errno> {
    file.fd_to_handle(FdArg::Real(fd.as_fd()))
}

#[test]
fn a_descriptor_that_comes_back_is_known() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        let outside = fd.into_owned().unwrap();
        let dup = outside.try_clone().unwrap();
        assert_eq!(real(&bench.a, &dup), Ok(handle), "{profile:?}");
        let foreign = real(&bench.b, &outside).unwrap();
        assert_eq!(bench.machine.census().objects, 2);
        bench.b.gem_close(foreign).unwrap();
        bench.a.gem_close(handle).unwrap();
        assert_eq!(bench.machine.census().dmabufs, 1, "the descriptors keep it");
        let again = real(&bench.a, &outside).unwrap();
        bench.a.gem_close(again).unwrap();
        drop(outside);
        assert_eq!(bench.machine.census().dmabufs, 1);
        drop(dup);
        bench.machine.take_events().clear();
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn descriptors_are_one_file_while_the_model_holds_the_buffer() {
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    let first = fd.into_owned().unwrap();
    let second = bench.a.handle_to_fd(handle, 0).unwrap().into_owned().unwrap();
    // kcmp may be filtered where the tests run; then nobody can ask.
    assert!(crate::sys::same_file(first.as_fd(), second.as_fd()).unwrap_or(true));
    let token = bench.a.handle_to_fd(handle, 0).unwrap();
    assert_eq!(token.count(), 4, "one for all that left");
    drop((first, second));
    assert_eq!(token.count(), 4, "not seen to die while kept");
    bench.a.gem_close(handle).unwrap();
    assert_eq!(token.count(), 1, "let go of, and seen");
    drop(token);
    assert_eq!(bench.close(), []);
}

#[test]
fn the_bytes_are_the_buffers() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.a);
    let mut own = bench.a.map_dumb(handle, 16384).unwrap();
    assert!(own.mapping_mut().write(5000, b"primary"));
    let outside = bench.a.handle_to_fd(handle, DRM_RDWR).unwrap().into_owned().unwrap();
    let mut map = Mapping::of_dmabuf(outside.as_fd(), true).unwrap();
    let mut bytes = [0; 7];
    assert!(map.read(5000, &mut bytes));
    assert_eq!(&bytes, b"primary");
    assert!(map.write(0, b"back") && own.mapping().read(0, &mut bytes[..4]));
    assert_eq!(&bytes[..4], b"back");
    drop((own, outside));
    bench.a.gem_close(handle).unwrap();
    assert_eq!(bench.machine.census().dmabufs, 1, "a mapping outside keeps it");
    drop(map);
    assert_eq!(bench.close(), []);
}

#[test]
fn i6_a_read_only_export_cannot_be_mapped_for_writing() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    let outside = fd.into_owned().unwrap();
    let refused = Mapping::of_dmabuf(outside.as_fd(), true).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
    Mapping::of_dmabuf(outside.as_fd(), false).unwrap();
    drop(outside);
    assert_eq!(bench.close(), []);
}

#[test]
fn a_memfd_is_a_buffer_only_where_it_is_accepted_and_sealed() {
    let bench = Bench::new(Profile::MODERN);
    let sealed = memfd(8192, SealFlags::SHRINK);
    let is_dmabuf = |fd: &OwnedFd| bench.b.is_dmabuf(fd.as_fd()).unwrap();
    assert_eq!((real(&bench.b, &sealed), is_dmabuf(&sealed)), (Err(Errno::INVAL), false));
    let (handle, own) = bench.exported();
    let own = own.into_owned().unwrap();
    assert!(is_dmabuf(&own));
    bench.a.gem_close(handle).unwrap();
    drop(own);
    bench.machine.accept_foreign(true);
    assert!(is_dmabuf(&sealed) && !is_dmabuf(&memfd(8192, SealFlags::GROW)));
    assert_eq!(real(&bench.b, &memfd(8192, SealFlags::GROW)), Err(Errno::INVAL));
    let null = std::fs::File::open("/dev/null").unwrap().into();
    assert_eq!(real(&bench.b, &null), Err(Errno::INVAL));
    let path = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    assert_eq!(real(&bench.b, &path), Err(Errno::BADF));
    let handle = real(&bench.b, &sealed).unwrap();
    assert_eq!(real(&bench.b, &sealed.try_clone().unwrap()), Ok(handle));
    let fd = bench.b.handle_to_fd(handle, 0).unwrap();
    assert_eq!((fd.size(), fd.exporter_name()), (8192, "foreign"));
    let back = fd.into_owned().unwrap();
    assert!(crate::sys::same_file(sealed.as_fd(), back.as_fd()).unwrap_or(true));
    bench.b.gem_close(handle).unwrap();
    assert_eq!(bench.machine.census().dmabufs, 0);
    assert_eq!(bench.close(), []);
}

#[test]
fn a_received_descriptor_is_a_descriptor() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    let twin = fd.try_clone().unwrap();
    let outside = fd.into_owned().unwrap();
    let received = bench.machine.receive(outside.as_fd()).unwrap();
    assert!(received.same_file(&twin));
    let elsewhere = Bench::new(Profile::MODERN);
    let (_, same_key) = elsewhere.exported();
    assert!(!received.same_file(&same_key), "a dma-buf of another machine");
    let other = bench.machine.udmabuf(4096).unwrap();
    assert!(!received.same_file(&other));
    drop((same_key, other));
    assert_eq!(elsewhere.close(), []);
    bench.machine.limit_fds(Some(0));
    assert_eq!(bench.machine.receive(outside.as_fd()).unwrap_err(), Errno::MFILE);
    drop((received, twin, outside));
    assert_eq!(bench.close(), []);
}

#[test]
fn many_that_died_outside_are_found_without_being_asked_for() {
    let bench = Bench::new(Profile::MODERN);
    for _ in 0..300 {
        let (handle, fd) = bench.exported();
        let outside = fd.into_owned().unwrap();
        bench.a.gem_close(handle).unwrap();
        // Away with the descriptor only after the model has let go.
        drop(outside);
    }
    let held = bench.machine.state().dmabufs.len();
    assert!(held <= 65, "{held}");
    assert_eq!(bench.close(), []);
}

#[test]
fn the_handle_table_runs_on_it() {
    let bench = Bench::new(Profile::MODERN);
    let (renderer, display) =
        (HandleTable::new(Arc::new(bench.a.clone())), HandleTable::new(Arc::new(bench.b.clone())));
    let mut buffer = renderer.create_dumb(64, 64, 32).unwrap();
    assert!(buffer.mapping_mut().fill(0, 16384, 0x55));
    let fd = buffer.export().unwrap();
    let handle = display.import(fd.as_fd()).unwrap();
    assert!(matches!(handle.origin(), Origin::SameProcess { .. }), "{:?}", handle.origin());
    assert_eq!(display.import(fd.as_fd()).unwrap().raw(), handle.raw());
    let plane = BufferPlane { fd: fd.as_fd(), offset: 0, stride: buffer.stride() };
    let dmabuf = Dmabuf::new(64, 64, DrmFourcc::Xrgb8888, DrmModifier::Linear, &[plane]).unwrap();
    let framebuffer = Framebuffer::new(&display, &dmabuf, false).unwrap();
    bench.b.set_plane(0, Some(framebuffer.id().get())).unwrap();
    assert_eq!(bench.machine.census().framebuffers, 1);
    drop((handle, framebuffer));
    assert_eq!(bench.machine.census().framebuffers, 1, "closed, and still on the plane");
    bench.b.set_plane(0, None).unwrap();
    assert_eq!(bench.machine.census().framebuffers, 0);
    drop((buffer, renderer, display, fd));
    assert_eq!(bench.close(), []);
}

#[test]
fn errnos_pass_through_the_contract() {
    let mut old = Driver::vkms();
    old.closefb = false;
    old.modifiers = false;
    let bench = Bench::with(Profile::MODERN, Driver::vgem(), old);
    let device: &dyn GemDevice = &bench.b;
    let one = NonZeroU32::MIN;
    let raw = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(raw(device.gem_close(one)), Some(Errno::INVAL.raw_os_error()));
    assert_eq!(raw(device.prime_handle_to_fd(one).map(drop)), Some(Errno::NOENT.raw_os_error()));
    assert_eq!(raw(device.close_framebuffer(one)), Some(Errno::NOENT.raw_os_error()), "through RMFB");
    assert!(!device.supports_modifiers());
    assert_eq!(bench.b.closefb(1, 0), Err(Errno::INVAL), "no such call");
    assert_eq!(bench.close(), []);
}
