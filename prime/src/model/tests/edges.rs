//! Limits, locks and counts at their very edges, each taken alone.

use super::*;
use std::cell::RefCell;
use std::os::fd::AsFd as _;

use attachment::{free_table, map_pages};
use dmabuf::DmabufOps;
use memory::Access;

use crate::GemDevice;
use crate::device::FramebufferRequest;
use crate::dmabuf::Layout;

thread_local! {
    /// What was called of [`WATCHED`], and under which locks.
    static CALLED: RefCell<Vec<(&'static str, Vec<LockClass>)>> = const { RefCell::new(Vec::new()) };
}

fn note(call: &syscall::Syscall<'_>, what: &'static str) {
    CALLED.with_borrow_mut(|called| called.push((what, call.held.borrow().clone())));
}

fn called() -> Vec<(&'static str, Vec<LockClass>)> {
    CALLED.take()
}

/// An exporter that says what is asked of it.
static WATCHED: DmabufOps = DmabufOps {
    exp_name: "watched",
    attach: None,
    detach: None,
    map: |call, attachment, dir| {
        note(call, "map");
        map_pages(call, attachment, dir)
    },
    unmap: |call, _, table, _| {
        note(call, "unmap");
        free_table(call, table);
    },
    release: |call, _| note(call, "release"),
    mmap: None,
    vmap: Some(|call, _| {
        note(call, "vmap");
        Ok(())
    }),
    vunmap: Some(|call, _| note(call, "vunmap")),
    kmap: None,
    begin_cpu_access: None,
    end_cpu_access: None,
};

fn watched(machine: &Machine) -> DmabufFd {
    let fd = machine.udmabuf(4096).unwrap();
    machine.state().dmabufs.get_mut(fd.key()).unwrap().ops = &WATCHED;
    fd
}

#[test]
fn s08_s09_mappings_of_7_2_come_and_go_under_the_reservation() {
    for (profile, locks) in [(Profile::MODERN, vec![LockClass::Resv]), (Profile::SEED, vec![])] {
        let bench = Bench::new(profile);
        let fd = watched(&bench.machine);
        let importer = fd.attach(&bench.vkms).unwrap();
        let table = importer.map(Direction::ToDevice).unwrap().unwrap();
        importer.unmap(table, Direction::ToDevice);
        drop((importer, fd));
        assert_eq!(bench.close(), []);
        assert_eq!(called(), [("map", locks.clone()), ("unmap", locks), ("release", vec![])], "{profile:?}");
    }
}

#[test]
fn s11_only_the_last_vunmap_is_forwarded() {
    let bench = Bench::new(Profile::MODERN);
    let fd = watched(&bench.machine);
    fd.vmap().unwrap();
    fd.vmap().unwrap();
    fd.vunmap();
    assert_eq!(called(), [("vmap", vec![LockClass::Resv])]);
    fd.vunmap();
    assert_eq!(called(), [("vunmap", vec![LockClass::Resv])]);
    drop(fd);
    assert_eq!(called().len(), 1);
    assert_eq!(bench.close(), []);
}

#[test]
fn s11_vmaps_of_an_object_are_counted_one_by_one() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    let key = fd.key();
    let count = || bench.object(&fd, |object| object.vmap_count);
    let (vmap, vunmap) = (prime::GEM_PRIME_OPS.vmap.unwrap(), prime::GEM_PRIME_OPS.vunmap.unwrap());
    let counts = [1, 2, 3].map(|_| {
        bench.machine.call(|call| vmap(call, key)).unwrap();
        count()
    });
    assert_eq!(counts, [1, 2, 3]);
    bench.machine.call(|call| vunmap(call, key));
    assert_eq!(count(), 2);
    (0..2).for_each(|_| bench.machine.call(|call| vunmap(call, key)));
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn s06_an_unpin_without_a_pin_is_noticed_and_counts_nothing() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    let importer = fd.attach(&bench.vkms).unwrap();
    let (key, attachment) = (fd.key(), importer.key());
    let pins = || bench.object(&fd, |object| object.pin_count);
    let detach = prime::GEM_PRIME_OPS.detach.unwrap();
    assert_eq!(pins(), 1);
    bench.machine.call(|call| detach(call, key, attachment));
    assert_eq!((pins(), noted(&bench.machine)), (0, vec![]));
    bench.machine.call(|call| detach(call, key, attachment));
    assert_eq!((pins(), rows(&noted(&bench.machine))), (0, vec![("S06", EventKind::Warn)]));
    drop((importer, fd));
    assert_eq!(rows(&bench.close()), [("S06", EventKind::Warn)]);
}

#[test]
fn s07_a_put_too_many_is_noticed_and_counts_nothing() {
    let bench = Bench::new(Profile::MODERN);
    let fd = bench.machine.udmabuf(4096).unwrap();
    let key = fd.key();
    bench.machine.call(|call| {
        dmabuf::put_token(call, key);
        dmabuf::put(call, key);
        assert_eq!(call.state().dmabufs.get(key).unwrap().f_count, 0);
    });
    assert_eq!(rows(&noted(&bench.machine)), [("S07", EventKind::WouldOops)]);
    assert_eq!(bench.machine.census().dmabufs, 0);
    // The descriptor of what is gone puts once more.
    drop(fd);
    assert_eq!(rows(&bench.close()), [("S07", EventKind::WouldOops)]);
}

#[test]
fn c1_an_import_says_if_its_object_is_linked_to_another_dmabuf() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    let other = bench.machine.udmabuf(4096).unwrap();
    let second = bench.vgem.open(Node::Primary).unwrap();
    import(&second, &fd).unwrap();
    assert_eq!(noted(&bench.machine), [], "linked to this one");
    let relink = |to: &DmabufFd| bench.object(&fd, |object| object.dma_buf = Some(to.key()));
    relink(&other);
    let third = bench.vgem.open(Node::Primary).unwrap();
    import(&third, &fd).unwrap();
    assert_eq!(rows(&noted(&bench.machine)), [("C1", EventKind::Warn)]);
    relink(&fd);
    drop((second, third, other, fd));
    assert_eq!(bench.close(), []);
}

#[test]
fn a_dumb_buffer_is_mapped_whole_or_in_part_but_not_beyond() {
    let bench = Bench::new(Profile::MODERN);
    let dumb = bench.a.create_dumb(64, 64, 32).unwrap();
    let len = dumb.size as usize;
    for wrong in [0, len + 1, usize::MAX] {
        assert_eq!(bench.a.map_dumb(dumb.handle, wrong).unwrap_err(), Errno::INVAL, "{wrong}");
    }
    for right in [1, len - 1, len] {
        assert_eq!(bench.a.map_dumb(dumb.handle, right).unwrap().mapping().len(), right);
    }
    assert_eq!(bench.a.map_dumb(dumb.handle + 1, len).unwrap_err(), Errno::NOENT);
    assert_eq!(bench.close(), []);
}

#[test]
fn the_bits_of_a_dumb_pixel_end_before_they_wrap() {
    let bench = Bench::new(Profile::MODERN);
    let made = |bpp| bench.a.create_dumb(1, 1, bpp).map(|dumb| dumb.size);
    assert_eq!(made(u32::MAX - 8), Ok(1 << 29));
    assert_eq!([made(u32::MAX - 7), made(u32::MAX), made(0)], [Err(Errno::INVAL); 3]);
    assert_eq!(bench.close(), []);
}

#[test]
fn what_is_received_can_be_written_if_its_file_can() {
    let bench = Bench::new(Profile::MODERN);
    bench.machine.accept_foreign(true);
    let file = rustix::fs::memfd_create(
        "client",
        rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING,
    )
    .unwrap();
    rustix::fs::ftruncate(&file, 4096).unwrap();
    rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW).unwrap();
    let received = bench.machine.receive(file.as_fd()).unwrap();
    received.map(0, 4096, Access::ReadWrite).unwrap();
    drop(received);
    assert_eq!(noted(&bench.machine), []);
}

#[test]
fn cleared_faults_do_not_come() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    bench.machine.fail(FaultPoint::Vmap, 1, Errno::NOMEM);
    assert_eq!(bench.machine.clear_faults(), 1);
    fd.vmap().unwrap();
    fd.vunmap();
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn only_who_was_master_by_itself_may_be_it_again() {
    let bench = Bench::new(Profile::MODERN);
    let lease = bench.b.create_empty_lease().unwrap();
    let never = bench.vkms.open(Node::Primary).unwrap();
    bench.machine.set_admin(false);
    assert_eq!([never.set_master(), never.drop_master()], [Err(Errno::ACCESS); 2]);
    assert_eq!([lease.set_master(), lease.drop_master()], [Err(Errno::ACCESS); 2]);
    bench.b.drop_master().unwrap();
    bench.b.set_master().unwrap();
    drop((lease, never));
    assert_eq!(bench.close(), []);
}

#[test]
fn a_file_takes_with_it_only_a_mastership_of_its_own() {
    let bench = Bench::new(Profile::MODERN);
    let other = bench.vkms.open(Node::Primary).unwrap();
    assert!(bench.b.is_master() && !other.is_master());
    drop(other);
    drop(bench.b.create_empty_lease().unwrap());
    assert!(bench.b.is_master());
    bench.b.drop_master().unwrap();
    let next = bench.vkms.open(Node::Primary).unwrap();
    assert!(next.is_master() && !bench.b.is_master(), "each mastership is another");
    let late = bench.vkms.open(Node::Primary).unwrap();
    drop(next);
    assert_eq!(late.set_plane(0, None), Err(Errno::ACCESS));
    late.set_master().unwrap();
    drop(late);
    assert_eq!(bench.close(), []);
}

#[test]
fn i13_every_capability_of_7_2() {
    let bench = Bench::new(Profile::MODERN);
    // In the order of drm.h: without a display only those with a value are known.
    let all = [
        (0x1, None, 1),
        (0x2, None, 1),
        (0x3, None, 0),
        (0x4, None, 0),
        (0x5, Some(3), 3),
        (0x6, Some(1), 1),
        (0x7, None, 0),
        (0x8, None, 512),
        (0x9, None, 512),
        (0x10, None, 1),
        (0x11, None, 0),
        (0x12, None, 1),
        (0x13, Some(0), 0),
        (0x14, Some(0), 0),
        (0x15, None, 0),
    ];
    for (number, without, with) in all {
        assert_eq!(bench.a.get_cap(number), without.ok_or(Errno::OPNOTSUPP), "{number:#x}");
        assert_eq!(bench.b.get_cap(number), Ok(with), "{number:#x}");
    }
    assert_eq!([0x0, 0xa, 0x16].map(|number| bench.b.get_cap(number)), [Err(Errno::INVAL); 3]);
    let (twin, second) = (bench.b.clone(), bench.vkms.open(Node::Primary).unwrap());
    assert!(bench.b.same_file(&twin) && !bench.b.same_file(&second) && !bench.b.same_file(&bench.a));
    drop((twin, second));
    assert_eq!(bench.close(), []);
}

#[test]
fn a_mastership_that_is_taken_is_a_new_one() {
    let bench = Bench::new(Profile::MODERN);
    let [first, second] = [(); 2].map(|()| bench.vkms.open(Node::Primary).unwrap());
    bench.b.drop_master().unwrap();
    first.set_master().unwrap();
    first.drop_master().unwrap();
    second.set_master().unwrap();
    let masters = [&bench.b, &first, &second].map(File::is_master);
    assert_eq!(masters, [false, false, true]);
    drop((first, second));
    assert_eq!(bench.close(), []);
}

#[test]
fn vkms_is_a_display_without_a_render_node() {
    let bench = Bench::new(Profile::MODERN);
    let (vgem, vkms) = (Driver::vgem(), Driver::vkms());
    assert_eq!([&*vgem.name, &*vkms.name], ["vgem", "vkms"]);
    // Major 226 is DRM's.
    assert_eq!([vgem.rdev, vkms.rdev], [0xe200, 0xe201]);
    assert_eq!(bench.vkms.open(Node::Render).unwrap_err(), Errno::NOENT);
    drop(bench.vgem.open(Node::Render).unwrap());
    assert_eq!(bench.b.addfb2(&kms::xrgb(64, 64, dumb(&bench.b))), Ok(42));
    assert_eq!(bench.close(), []);
}

#[test]
fn a_file_meets_the_contract() {
    let bench = Bench::new(Profile::MODERN);
    let device: &dyn GemDevice = &bench.b;
    assert_eq!(device.dev_id(), 0xe201);
    assert_eq!(
        (device.supports_modifiers(), bench.a.supports_modifiers()),
        (true, false),
        "vgem shows nothing"
    );
    assert!(device.identifies_dmabufs());
    assert!(!Bench::new(Profile::SEED).b.identifies_dmabufs());
    let dumb = device.create_dumb(64, 64, 32).unwrap();
    let fd = device.prime_handle_to_fd(dumb.handle).unwrap();
    assert!(rustix::fs::fcntl_getfl(&fd).unwrap().contains(rustix::fs::OFlags::RDWR));
    drop(fd);
    let layout = Layout { offset: 0, stride: dumb.stride };
    let request = FramebufferRequest {
        width: 64,
        height: 64,
        format: drm_fourcc::DrmFourcc::Xrgb8888,
        modifier: Some(drm_fourcc::DrmModifier::Linear),
        planes: [Some((dumb.handle, layout)), None, None, None],
    };
    let id = device.add_framebuffer(&request).unwrap();
    let told = bench.b.getfb2(id.get()).unwrap();
    assert_eq!(told.flags, MODIFIERS);
    bench.b.gem_close(told.handles[0]).ok();
    device.remove_framebuffer(id).unwrap();
    assert_eq!(bench.b.getfb2(id.get()).unwrap_err(), Errno::NOENT);
    assert_eq!(bench.close(), []);
}

#[test]
fn s07_where_nothing_was_removed_nothing_is_said() {
    let bench = Bench::new(Profile::SEED);
    let (_, fd) = bench.exported();
    let key = fd.key();
    drop(fd);
    let udmabuf = bench.machine.udmabuf(4096).unwrap();
    let gone = udmabuf.key();
    drop(udmabuf);
    bench.machine.take_events().clear();
    for key in [key, gone] {
        bench.machine.call(|call| handles::remove_members(call, bench.b.key(), key));
    }
    assert_eq!(bench.machine.take_events(), []);
    assert_eq!(bench.close(), []);
}

#[test]
fn a_dmabuf_is_no_file_to_read_or_write() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.a);
    let writable = bench.a.handle_to_fd(handle, DRM_RDWR).unwrap();
    let (_, fd) = bench.exported();
    assert_eq!([writable.read_bytes(), writable.write_bytes(), writable.truncate(0)], [Err(Errno::INVAL); 3]);
    assert_eq!((fd.write_bytes(), fd.unknown_ioctl()), (Err(Errno::BADF), Err(Errno::NOTTY)));
    let descriptors = bench.machine.state().descriptors;
    assert_eq!(fd.reopen().unwrap_err(), Errno::NXIO);
    assert_eq!(bench.machine.state().descriptors, descriptors);
    assert!(!fd.nonblocking());
    fd.set_nonblocking(true);
    assert!(fd.nonblocking() && !writable.nonblocking());
    fd.set_nonblocking(false);
    assert!(!fd.nonblocking());
    drop((fd, writable));
    assert_eq!(bench.close(), []);
}

#[test]
fn s11_an_object_freed_while_mapped_is_noticed() {
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    fd.vmap().unwrap();
    bench.a.gem_close(handle).unwrap();
    assert_eq!(noted(&bench.machine), []);
    drop(fd);
    assert_eq!(rows(&bench.close()), [("S11", EventKind::Warn)]);
}

#[test]
fn s06_an_object_freed_while_pinned_is_noticed() {
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    let importer = fd.attach(&bench.vkms).unwrap();
    let (key, attachment) = (fd.key(), importer.key());
    let attach = prime::GEM_PRIME_OPS.attach.unwrap();
    bench.machine.call(|call| attach(call, key, attachment)).unwrap();
    bench.a.gem_close(handle).unwrap();
    drop((importer, fd));
    assert_eq!(rows(&bench.close()), [("S06", EventKind::Warn)]);
}

#[test]
fn c1_an_object_freed_with_a_link_is_noticed() {
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    bench.a.gem_close(handle).unwrap();
    bench.object(&fd, |object| object.dma_buf = Some(fd.key()));
    drop(fd);
    assert_eq!(rows(&bench.close()), [("C1", EventKind::Warn)]);
}

#[test]
fn a_udmabuf_is_made_of_whole_pages_of_a_memfd_that_cannot_shrink() {
    let bench = Bench::new(Profile::MODERN);
    let memfd = |size| UdmabufMemory::Memfd { size, seal_shrink: true, seal_write: false };
    let made = |memory, offset, size| bench.machine.udmabuf_of(memory, offset, size).map(|fd| fd.size());
    let most = 64 << 20;
    assert_eq!(made(memfd(8192), 0, 8192), Ok(8192));
    assert_eq!(made(memfd(8192), 4096, 4096), Ok(4096));
    assert_eq!(made(memfd(2 * most), 0, most), Ok(most));
    for (offset, size) in [(1, 4096), (0, 4095), (0, 0), (4096, 8192), (8192, 4096), (!4095, 4096)] {
        assert_eq!(made(memfd(8192), offset, size), Err(Errno::INVAL), "{offset} {size}");
    }
    assert_eq!(made(memfd(2 * most), 0, most + 4096), Err(Errno::INVAL));
    let sealed = |seal_shrink, seal_write| UdmabufMemory::Memfd { size: 8192, seal_shrink, seal_write };
    for memory in [sealed(false, false), sealed(true, true), sealed(false, true)] {
        assert_eq!(made(memory, 0, 4096), Err(Errno::INVAL));
    }
    assert_eq!(made(UdmabufMemory::NotMemory, 0, 4096), Err(Errno::BADFD));
    assert_eq!(made(UdmabufMemory::NotMemory, 0, 1), Err(Errno::INVAL), "sizes come first");
    assert_eq!(bench.close(), []);
}

#[test]
fn there_is_room_for_exactly_the_fences_of_a_sync_file() {
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    let fence = bench.a.fence_attach(handle, fence::VGEM_FENCE_WRITE, 0).unwrap();
    let file = fd.export_sync_file(1).unwrap();
    let fences = |room| file.info(room, 0, 0).map(|info| info.fences);
    assert_eq!([fences(0), fences(1), fences(2)], [Ok(1); 3]);
    bench.a.fence_signal(fence, 0).unwrap();
    drop((file, fd));
    assert_eq!(bench.close(), []);
}

#[test]
fn a_trait_is_there_or_not() {
    for &it in SeedTrait::ALL {
        assert_eq!(Profile::SEED.with(it), Profile::SEED);
        assert_eq!(Profile::MODERN.without(it), Profile::MODERN);
        assert!(Profile::MODERN.with(it).has(it) && !Profile::SEED.without(it).has(it));
    }
}
