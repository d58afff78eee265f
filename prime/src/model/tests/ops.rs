//! The GEM dma-buf ops: vmap, kmap, mmap, and the table's identity.

use super::*;
use memory::Access;

#[test]
fn s11_vmap_is_forwarded_once_and_counted() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        fd.vmap().unwrap();
        bench.machine.fail(FaultPoint::Vmap, 1, Errno::NOMEM);
        fd.vmap().unwrap();
        assert_eq!(
            (bench.machine.clear_faults(), bench.machine.census().vmaps),
            (1, 2),
            "not forwarded again"
        );
        fd.vunmap();
        fd.vunmap();
        assert_eq!(bench.machine.census().vmaps, 0);
        bench.machine.fail(FaultPoint::Vmap, 1, Errno::NOMEM);
        assert_eq!(fd.vmap(), Err(Errno::NOMEM));
        fd.vunmap();
        drop(fd);
        assert_eq!(rows(&bench.close()), [("S11", EventKind::Warn)]);
    }
}

#[test]
fn s11_a_missing_callback_oopses_in_the_seed() {
    let mut driver = Driver::vgem();
    driver.vmap = false;
    let attempt = |profile| {
        let bench = Bench::with(profile, driver.clone(), Driver::vkms());
        let (_, fd) = bench.exported();
        let answer = fd.vmap();
        drop(fd);
        (answer, rows(&bench.close()))
    };
    assert_eq!(attempt(Profile::MODERN), (Err(Errno::OPNOTSUPP), vec![]));
    assert_eq!(attempt(Profile::SEED), (Err(WOULD_OOPS), vec![("S11", EventKind::WouldOops)]));
    assert_eq!(attempt(Profile::SEED.without(SeedTrait::VmapUnchecked)), (Err(Errno::OPNOTSUPP), vec![]));
}

#[test]
fn s12_the_kmap_stubs_map_nothing() {
    let bench = Bench::new(Profile::SEED);
    let (_, fd) = bench.exported();
    assert_eq!((fd.kmap(0), fd.kmap(u64::MAX)), (Ok(None), Ok(None)));
    drop(fd);
    assert_eq!(bench.close(), []);
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    assert_eq!(fd.kmap(0), Err(Errno::OPNOTSUPP), "C10: the operation is gone");
}

#[test]
fn s13_mmap_is_einval_in_the_seed() {
    let bench = Bench::new(Profile::SEED);
    let (_, fd) = bench.exported();
    for (offset, len) in [(0, 1), (0, 4096), (4096, 4096), (0, 1 << 20)] {
        assert_eq!(fd.map(offset, len, Access::ReadOnly).unwrap_err(), Errno::INVAL);
    }
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn s13_mmap_of_7_2_holds_and_is_bounded() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.a);
    let fd = bench.a.handle_to_fd(handle, DRM_RDWR).unwrap();
    for (offset, len) in [(0, 0), (1, 4096), (0, 16385), (4096, 16384), (16384, 1), (!4095, 4096)] {
        assert_eq!(fd.map(offset, len, Access::ReadOnly).unwrap_err(), Errno::INVAL, "{offset} {len}");
    }
    let mut map = fd.map(0, 16384, Access::ReadWrite).unwrap();
    assert!(map.mapping_mut().write(16383, b"x"));
    assert_eq!(fd.count(), 4);
    bench.a.gem_close(handle).unwrap();
    drop(fd);
    assert_eq!(bench.machine.census().dmabufs, 1, "the mapping keeps it");
    let mut byte = [0];
    assert!(map.mapping().read(16383, &mut byte));
    assert_eq!(&byte, b"x");
    drop(map);
    assert_eq!(bench.close(), []);
}

#[test]
fn i6_the_first_export_fixes_the_access() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.a);
    let fd = bench.a.handle_to_fd(handle, 0).unwrap();
    let again = bench.a.handle_to_fd(handle, DRM_RDWR).unwrap();
    assert_eq!(again.map(0, 4096, Access::ReadWrite).unwrap_err(), Errno::ACCESS);
    fd.map(0, 4096, Access::ReadOnly).unwrap();
    drop((fd, again));
    assert_eq!(bench.close(), []);
}

#[test]
fn a_shmem_dmabuf_ignores_the_mappings_offset() {
    let bench = Bench::new(Profile::MODERN);
    let dumb = bench.a.create_dumb(64, 64, 32).unwrap();
    let mut own = bench.a.map_dumb(dumb.handle, dumb.size as usize).unwrap();
    assert!(own.mapping_mut().write(0, b"zero") && own.mapping_mut().write(4096, b"one."));
    let fd = bench.a.handle_to_fd(dumb.handle, 0).unwrap();
    let at = |fd: &DmabufFd, offset| {
        let (map, mut bytes) = (fd.map(offset, 4096, Access::ReadOnly).unwrap(), [0; 4]);
        assert!(map.mapping().read(0, &mut bytes));
        bytes
    };
    assert_eq!([at(&fd, 0), at(&fd, 4096)], [*b"zero", *b"zero"]);
    let udmabuf = bench.machine.udmabuf(8192).unwrap();
    let mut map = udmabuf.map(0, 8192, Access::ReadWrite).unwrap();
    assert!(map.mapping_mut().write(4096, b"one."));
    assert_eq!(at(&udmabuf, 4096), *b"one.");
    drop((fd, udmabuf, map, own));
    assert_eq!(bench.close(), []);
}

#[test]
fn s14_only_the_same_table_of_ops_is_ones_own() {
    let mut foreign = Driver::vgem();
    foreign.ops = &DRIVER_OPS;
    for profile in BOTH {
        let bench = Bench::with(profile, foreign.clone(), Driver::vkms());
        let (_, fd) = bench.exported();
        let before = bench.machine.census().objects;
        let other = bench.vgem.open(Node::Primary).unwrap();
        import(&other, &fd).unwrap();
        // Its own buffer, with ops of its own: imported as a stranger's.
        assert_eq!(bench.machine.census().objects, before + 1, "{profile:?}");
        drop((fd, other));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn a_udmabuf_has_whole_pages_up_to_its_limit() {
    let bench = Bench::new(Profile::MODERN);
    let made = |size| bench.machine.udmabuf(size).map(|fd| fd.size());
    assert_eq!([made(4096), made(64 << 20)], [Ok(4096), Ok(64 << 20)]);
    assert_eq!([made(0), made(4095), made((64 << 20) + 4096)], [Err(Errno::INVAL); 3]);
    assert_eq!(bench.close(), []);
}

#[test]
fn lseek_finds_both_ends_and_nothing_else() {
    let bench = Bench::new(Profile::MODERN);
    for pages in 0..10 {
        let fd = bench.machine.udmabuf(4096 << pages).unwrap();
        assert_eq!((fd.seek(Whence::End, 0), fd.seek(Whence::Set, 0)), (Ok(4096 << pages), Ok(0)));
        for (whence, offset) in [(Whence::End, 1), (Whence::End, -1), (Whence::Set, 1), (Whence::Current, 0)]
        {
            assert_eq!(fd.seek(whence, offset), Err(Errno::INVAL));
        }
    }
    for bad in [0, 1, 4095, (64 << 20) + 4096] {
        assert_eq!(bench.machine.udmabuf(bad).unwrap_err(), Errno::INVAL);
    }
    assert_eq!(bench.close(), []);
}

#[test]
fn fences_are_waited_for_and_exported() {
    use rustix::event::PollFlags;
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    let all = PollFlags::IN | PollFlags::OUT;
    assert_eq!((fd.poll(all), fd.count()), (all, 3));
    let fence = bench.a.fence_attach(handle, 0, 0).unwrap();
    assert_eq!((fd.poll(all), fd.count()), (PollFlags::IN, 4), "a reader: others may read");
    assert_eq!(bench.a.fence_attach(handle, fence::VGEM_FENCE_WRITE, 0), Err(Errno::BUSY));
    let [read, write] = [1, 2].map(|flags| fd.export_sync_file(flags).unwrap());
    assert!(read.fences().is_signalled() && !write.fences().is_signalled());
    bench.a.fence_signal(fence, 0).unwrap();
    assert!(write.fences().is_signalled());
    assert_eq!((fd.poll(all), fd.count()), (all, 3));
    assert_eq!(bench.a.fence_signal(fence, 0), Err(Errno::NOENT));
    fd.sync(3).unwrap();
    assert_eq!([fd.sync(0), fd.sync(8), fd.sync(4)], [Err(Errno::INVAL); 3]);
    drop((read, write, fd));
    assert_eq!(bench.close(), []);
}

#[test]
fn a_waiting_poll_keeps_the_dmabuf() {
    use rustix::event::PollFlags;
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    let fence = bench.a.fence_attach(handle, fence::VGEM_FENCE_WRITE, 0).unwrap();
    assert!(fd.poll(PollFlags::IN).is_empty());
    bench.a.gem_close(handle).unwrap();
    drop(fd);
    assert_eq!(bench.machine.census().dmabufs, 1);
    bench.a.fence_signal(fence, 0).unwrap();
    assert_eq!(bench.machine.census().dmabufs, 0);
    assert_eq!(bench.close(), []);
}

#[test]
fn udmabuf_notices_an_end_without_a_begin() {
    let bench = Bench::new(Profile::MODERN);
    let fd = bench.machine.udmabuf(4096).unwrap();
    assert_eq!(fd.sync(4 | 1), Err(Errno::INVAL));
    fd.sync(1).unwrap();
    fd.sync(4 | 1).unwrap();
    let (_, gem) = bench.exported();
    gem.sync(4 | 1).unwrap();
    drop((fd, gem));
    assert_eq!(bench.close(), []);
}
