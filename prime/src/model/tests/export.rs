//! `PRIME_HANDLE_TO_FD`: order of checks, what an export holds, and the unwinds.

use super::*;

#[test]
fn s15_an_export_has_the_objects_size_and_the_flags_access() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        assert_eq!((fd.size(), fd.writable(), fd.exporter_name()), (64 * 64 * 4, false, "drm"));
        // I6: the first export decides.
        if profile == Profile::MODERN {
            assert!(!bench.a.handle_to_fd(handle, DRM_RDWR).unwrap().writable());
            let second = dumb(&bench.a);
            assert!(bench.a.handle_to_fd(second, DRM_RDWR | DRM_CLOEXEC).unwrap().writable());
        }
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s15_the_seeds_export_consumes_the_callers_reference() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let handle = dumb(&bench.a);
        let before = bench.machine.census().object_references;
        let fd = bench.a.handle_to_fd(handle, 0).unwrap();
        assert_eq!(bench.machine.census().object_references, before + 1, "{profile:?}");
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s16_an_unknown_handle_is_enoent() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        for handle in [0, 1, 7, u32::MAX] {
            assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap_err(), Errno::NOENT);
        }
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s16_an_import_gives_its_dmabuf_before_any_export() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let fd = bench.machine.udmabuf(8192).unwrap();
        let handle = import(&bench.a, &fd).unwrap();
        let before = fd.count();
        let back = bench.a.handle_to_fd(handle, 0).unwrap();
        assert!(back.same_file(&fd));
        assert_eq!(fd.count(), before + 1);
        assert_eq!(bench.machine.census().dmabufs, 1);
        drop((fd, back));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s16_emfile_comes_before_enoent_in_7_2_and_after_it_in_the_seed() {
    for (profile, bad) in [(Profile::MODERN, Errno::MFILE), (Profile::SEED, Errno::NOENT)] {
        let bench = Bench::new(profile);
        let handle = dumb(&bench.a);
        bench.machine.limit_fds(Some(2));
        assert_eq!(bench.a.handle_to_fd(9, 0).unwrap_err(), bad, "{profile:?}");
        assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap_err(), Errno::MFILE);
        assert_eq!(bench.a.handle_to_fd(9, 1).unwrap_err(), Errno::INVAL, "flags come first");
        bench.machine.limit_fds(None);
        let fd = bench.a.handle_to_fd(handle, 0).unwrap();
        assert_eq!(fd.count(), if profile == Profile::SEED { 2 } else { 3 });
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s17_a_fresh_export_is_in_the_files_cache() {
    for (profile, count) in [(Profile::MODERN, 3), (Profile::SEED, 2)] {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        assert_eq!((fd.count(), bench.machine.census().members), (count, 1));
        assert_eq!(import(&bench.a, &fd), Ok(handle));
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s17_a_known_buffer_is_added_once() {
    for profile in [Profile::MODERN, Profile::SEED, Profile::SEED.without(SeedTrait::ExportSkipsCache)] {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        let again = bench.a.handle_to_fd(handle, 0).unwrap();
        assert_eq!(bench.machine.census().members, 1, "{profile:?}");
        drop((fd, again));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s18_export_errno_drops_the_lookups_reference() {
    for profile in BOTH {
        for point in [FaultPoint::DriverExport, FaultPoint::DmabufAlloc] {
            let bench = Bench::new(profile);
            let handle = dumb(&bench.a);
            let before = bench.machine.census();
            bench.machine.fail(point, 1, Errno::BUSY);
            assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap_err(), Errno::BUSY);
            assert_eq!(bench.machine.census(), before, "{profile:?} {point:?}");
            assert_eq!(
                bench.a.handle_to_fd(handle, 0).unwrap().count(),
                if profile == Profile::SEED { 2 } else { 3 }
            );
            assert_eq!(bench.close(), []);
        }
    }
}

#[test]
fn s18_add_enomem_clears_the_link() {
    let bench = Bench::new(Profile::SEED);
    let handle = dumb(&bench.a);
    let before = bench.machine.census();
    bench.machine.fail(FaultPoint::MemberAlloc, 1, Errno::NOMEM);
    assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap_err(), Errno::NOMEM);
    assert_eq!(bench.machine.census(), before);
    let fd = bench.a.handle_to_fd(handle, 0).unwrap();
    assert_eq!((fd.count(), fd.inode()), (2, 2), "a second dma-buf");
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn s18_add_enomem_leaves_the_link_to_the_last_handle_in_7_2() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.a);
    bench.machine.fail(FaultPoint::MemberAlloc, 1, Errno::NOMEM);
    assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap_err(), Errno::NOMEM);
    let census = bench.machine.census();
    assert_eq!((census.dmabufs, census.dmabuf_references, census.members), (1, 1, 0));
    let fd = bench.a.handle_to_fd(handle, 0).unwrap();
    assert_eq!((fd.count(), fd.inode()), (3, 1), "the same dma-buf");
    drop(fd);
    bench.a.gem_close(handle).unwrap();
    assert_eq!(bench.machine.census().dmabufs, 0);
    assert_eq!(bench.close(), []);
}

#[test]
fn s18_emfile_after_the_seeds_export_undoes_it() {
    let bench = Bench::new(Profile::SEED);
    let handle = dumb(&bench.a);
    let before = bench.machine.census();
    bench.machine.fail(FaultPoint::FdReserve, 1, Errno::MFILE);
    assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap_err(), Errno::MFILE);
    assert_eq!(bench.machine.census(), before);
    assert_eq!(bench.close(), []);
}

#[test]
fn s18_emfile_on_a_known_dmabuf_gives_its_reference_back() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        let before = (fd.count(), bench.machine.census());
        bench.machine.fail(FaultPoint::FdReserve, 1, Errno::MFILE);
        assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap_err(), Errno::MFILE);
        assert_eq!((fd.count(), bench.machine.census()), before, "{profile:?}");
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s18_c2_a_second_file_gets_a_second_handle_in_the_seed_only() {
    let shown = |profile: Profile| {
        let bench = Bench::new(profile);
        // Two handles of one object on two files, without the cache: through a framebuffer.
        let display = &bench.b;
        let other = bench.vkms.open(Node::Primary).unwrap();
        let handle = dumb(display);
        let fb = display.addfb2(&kms::xrgb(64, 64, handle)).unwrap();
        let twin = other.getfb2(fb).unwrap().handles[0];
        let first = display.handle_to_fd(handle, 0).unwrap();
        let again = other.handle_to_fd(twin, 0).unwrap();
        assert!(first.same_file(&again));
        let imported = import(&other, &again).unwrap();
        drop((first, again, other));
        bench.close();
        imported == twin
    };
    assert!(shown(Profile::MODERN));
    assert!(!shown(Profile::SEED));
    assert!(!shown(Profile::MODERN.with(SeedTrait::ExportSkipsCache)));
    assert!(shown(Profile::SEED.without(SeedTrait::ExportSkipsCache)));
}

#[test]
fn s23_feature_then_callback_then_flags() {
    let mut odd = Driver::vgem();
    odd.prime = false;
    odd.handle_to_fd = false;
    let bench = Bench::with(Profile::SEED, odd.clone(), Driver::vgem());
    assert_eq!(bench.a.handle_to_fd(9, 1).unwrap_err(), Errno::INVAL);
    bench.close();
    odd.prime = true;
    let bench = Bench::with(Profile::SEED, odd.clone(), Driver::vgem());
    assert_eq!(bench.a.handle_to_fd(9, 1).unwrap_err(), Errno::NOSYS);
    assert_eq!(bench.b.handle_to_fd(9, 1).unwrap_err(), Errno::INVAL);
    assert_eq!(bench.b.handle_to_fd(9, DRM_RDWR).unwrap_err(), Errno::INVAL);
    assert_eq!(bench.b.handle_to_fd(9, DRM_CLOEXEC).unwrap_err(), Errno::NOENT);
    assert_eq!(bench.a.get_cap(5), Ok(1), "C13: only what the driver has");
    bench.close();
    odd.prime = false;
    let bench = Bench::with(Profile::MODERN, odd, Driver::vgem());
    let (handle, _fd) = bench.exported();
    assert_eq!(bench.a.get_cap(5), Ok(3), "C13: no longer a feature");
    for flags in [1, 4, DRM_CLOEXEC | 1, !0, !(DRM_CLOEXEC | DRM_RDWR)] {
        assert_eq!(bench.a.handle_to_fd(handle, flags).unwrap_err(), Errno::INVAL, "{flags:#x}");
    }
    for flags in [0, DRM_CLOEXEC, DRM_RDWR, DRM_CLOEXEC | DRM_RDWR] {
        bench.a.handle_to_fd(handle, flags).unwrap();
    }
    drop(_fd);
    assert_eq!(bench.close(), []);
}
