//! `PRIME_FD_TO_HANDLE`: whose buffer it is, what an import holds, and the unwinds.

use super::*;

#[test]
fn s04_add_enomem_leaves_everything_as_it_was() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let before = (fd.count(), bench.machine.census());
        bench.machine.fail(FaultPoint::MemberAlloc, 1, Errno::NOMEM);
        assert_eq!(import(&bench.b, &fd), Err(Errno::NOMEM));
        let after = (fd.count(), bench.machine.census());
        match profile {
            Profile::MODERN => assert_eq!(after, before),
            // C3: the number stays, its object is gone.
            _ => assert_eq!(after, (before.0, Census { handles: before.1.handles + 1, ..before.1 })),
        }
        drop(fd);
        bench.close();
    }
}

#[test]
fn s04_the_newest_entry_comes_first_in_the_seeds_list() {
    let newest = |profile: Profile| {
        let bench = Bench::new(profile);
        let (_, twin, fd) = bench.twins();
        let found = import(&bench.b, &fd).unwrap();
        drop(fd);
        bench.close();
        if found == twin { "newest" } else { "oldest" }
    };
    assert_eq!(newest(Profile::MODERN), "oldest");
    assert_eq!(newest(Profile::MODERN.with(SeedTrait::ListCache)), "newest");
}

#[test]
fn s19_a_device_knows_its_own() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let other = bench.vgem.open(Node::Render).unwrap();
        let before = bench.machine.census();
        import(&other, &fd).unwrap();
        let after = bench.machine.census();
        assert_eq!((after.objects, after.attachments), (before.objects, 0), "{profile:?}");
        drop((fd, other));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s19_without_import_sg_table_even_self_import_fails_in_the_seed() {
    let mut driver = Driver::vgem();
    driver.import = Import::Missing;
    let attempt = |profile: Profile| {
        let bench = Bench::with(profile, driver.clone(), Driver::vkms());
        let (_, fd) = bench.exported();
        let (own, foreign) = (bench.vgem.open(Node::Primary).unwrap(), bench.machine.udmabuf(4096).unwrap());
        let answers = (import(&own, &fd), import(&own, &foreign));
        drop((fd, own, foreign));
        assert_eq!(bench.close(), []);
        answers
    };
    assert_eq!(attempt(Profile::MODERN), (Ok(1), Err(Errno::INVAL)));
    assert_eq!(attempt(Profile::SEED), (Err(Errno::INVAL), Err(Errno::INVAL)));
    assert_eq!(attempt(Profile::SEED.without(SeedTrait::SelfImportNeedsSgTable)), (Ok(1), Err(Errno::INVAL)));
}

#[test]
fn s20_a_foreign_import_attaches_and_holds() {
    let mut importer = Driver::vkms();
    importer.import = Import::SgTable;
    for (profile, count) in [(Profile::MODERN, 6), (Profile::SEED, 4)] {
        let bench = Bench::with(profile, Driver::vgem(), importer.clone());
        let (_, fd) = bench.exported();
        let handle = import(&bench.b, &fd).unwrap();
        let census = bench.machine.census();
        assert_eq!((fd.count(), census.attachments, census.sg_tables, census.pins), (count, 1, 1, 1));
        bench.b.gem_close(handle).unwrap();
        let census = bench.machine.census();
        assert_eq!((census.attachments, census.sg_tables, census.pins), (0, 0, 0));
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s20_each_failure_unwinds_what_came_before() {
    let mut importer = Driver::vkms();
    importer.import = Import::SgTable;
    let mended = Profile::SEED.without(SeedTrait::DetachUnmappedOopses).without(SeedTrait::PinFailureLeaks);
    for profile in [Profile::MODERN, mended] {
        use FaultPoint as F;
        let points = [
            F::AttachmentAlloc,
            F::Pin,
            F::GetSgTable,
            F::SgAlloc,
            F::DmaMap,
            F::DriverImport,
            F::HandleAlloc,
        ];
        for point in points {
            let bench = Bench::with(profile, Driver::vgem(), importer.clone());
            let (_, fd) = bench.exported();
            let before = (fd.count(), bench.machine.census());
            bench.machine.fail(point, 1, Errno::NOMEM);
            assert_eq!(import(&bench.b, &fd), Err(Errno::NOMEM), "{point:?}");
            assert_eq!((fd.count(), bench.machine.census()), before, "{profile:?} {point:?}");
            assert_eq!(bench.machine.clear_faults(), 0);
            import(&bench.b, &fd).unwrap();
            drop(fd);
            assert_eq!(bench.close(), [], "{profile:?} {point:?}");
        }
    }
}

#[test]
fn s20_a_driver_that_refuses_leaves_nothing() {
    let mut importer = Driver::vkms();
    importer.import = Import::Refused(Errno::NODEV);
    for profile in BOTH {
        let bench = Bench::with(profile, Driver::vgem(), importer.clone());
        let (_, fd) = bench.exported();
        let before = (fd.count(), bench.machine.census());
        assert_eq!(import(&bench.b, &fd), Err(Errno::NODEV));
        assert_eq!((fd.count(), bench.machine.census()), before, "{profile:?}");
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s20_a_null_table_is_enomem_now_and_was_a_null_object() {
    let mut exporter = Driver::vgem();
    exporter.null_sg_table = true;
    let mut importer = Driver::vkms();
    importer.import = Import::SgTable;
    let attempt = |profile: Profile| {
        let bench = Bench::with(profile, exporter.clone(), importer.clone());
        let (_, fd) = bench.exported();
        let before = fd.count();
        let answer = import(&bench.b, &fd);
        assert_eq!(fd.count(), before);
        drop(fd);
        (answer, rows(&bench.close()))
    };
    assert_eq!(attempt(Profile::MODERN), (Err(Errno::NOMEM), vec![]));
    let oops = |row| (row, EventKind::WouldOops);
    assert_eq!(attempt(Profile::SEED), (Err(WOULD_OOPS), vec![oops("S06"), oops("S20")]));
    let mended = Profile::SEED.without(SeedTrait::DetachUnmappedOopses);
    assert_eq!(attempt(mended), (Err(WOULD_OOPS), vec![oops("S20")]));
    assert_eq!(attempt(mended.without(SeedTrait::NullSgtUnchecked)), (Err(Errno::NOMEM), vec![]));
}

#[test]
fn s21_what_is_no_dmabuf() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        assert_eq!(bench.a.fd_to_handle(FdArg::Bad), Err(Errno::BADF));
        assert_eq!(bench.a.fd_to_handle(FdArg::OPath), Err(Errno::BADF));
        assert_eq!(bench.a.fd_to_handle(FdArg::NotDmabuf), Err(Errno::INVAL));
        let elsewhere = Bench::new(profile);
        let (_, fd) = elsewhere.exported();
        assert_eq!(import(&bench.a, &fd), Err(Errno::INVAL), "a descriptor of another machine");
        drop(fd);
        assert_eq!(bench.close(), []);
        assert_eq!(elsewhere.close(), []);
    }
}

#[test]
fn s21_a_hit_counts_nothing() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let handle = import(&bench.b, &fd).unwrap();
        let before = (fd.count(), bench.machine.census());
        assert_eq!(import(&bench.b, &fd), Ok(handle));
        assert_eq!((fd.count(), bench.machine.census()), before);
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s22_a_failed_handle_gives_everything_back() {
    for profile in BOTH {
        for point in [FaultPoint::HandleAlloc, FaultPoint::HandleAllow] {
            let bench = Bench::new(profile);
            let (_, fd) = bench.exported();
            let before = (fd.count(), bench.machine.census());
            bench.machine.fail(point, 1, Errno::NOMEM);
            let answer = import(&bench.b, &fd);
            if (profile, point) == (Profile::SEED, FaultPoint::HandleAllow) {
                // No such step in the seed.
                assert_eq!(answer, Ok(1));
            } else {
                assert_eq!(answer, Err(Errno::NOMEM));
                assert_eq!((fd.count(), bench.machine.census()), before, "{profile:?} {point:?}");
            }
            drop(fd);
            assert_eq!(bench.close(), []);
        }
    }
}

#[test]
fn s22_the_seeds_failed_add_leaves_a_dangling_handle() {
    let bench = Bench::new(Profile::SEED);
    let (_, fd) = bench.exported();
    bench.machine.fail(FaultPoint::MemberAlloc, 1, Errno::NOMEM);
    assert_eq!(import(&bench.b, &fd), Err(Errno::NOMEM));
    assert_eq!(rows(&noted(&bench.machine)), [("S22", EventKind::Warn)]);
    assert_eq!(bench.b.handle_to_fd(1, 0).unwrap_err(), WOULD_OOPS, "the object is gone");
    assert_eq!(import(&bench.b, &fd), Ok(2), "the number is taken");
    assert_eq!(rows(&noted(&bench.machine)), [("S22", EventKind::WouldOops)]);
    bench.b.gem_close(1).unwrap();
    assert_eq!(rows(&noted(&bench.machine)), [("S22", EventKind::WouldOops)]);
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn s22_the_dangling_handle_is_mended_by_deleting_it() {
    let bench = Bench::new(Profile::SEED.without(SeedTrait::AddFailureDangles));
    let (_, fd) = bench.exported();
    bench.machine.fail(FaultPoint::MemberAlloc, 1, Errno::NOMEM);
    assert_eq!(import(&bench.b, &fd), Err(Errno::NOMEM));
    assert_eq!(bench.b.handle_to_fd(1, 0).unwrap_err(), Errno::NOENT);
    assert_eq!(import(&bench.b, &fd), Ok(1));
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn s24_feature_then_callback() {
    let mut odd = Driver::vgem();
    odd.prime = false;
    odd.fd_to_handle = false;
    let bench = Bench::with(Profile::SEED, odd.clone(), Driver::vgem());
    assert_eq!(bench.a.fd_to_handle(FdArg::Bad), Err(Errno::INVAL));
    bench.close();
    odd.prime = true;
    let bench = Bench::with(Profile::SEED, odd.clone(), Driver::vgem());
    assert_eq!(bench.a.fd_to_handle(FdArg::Bad), Err(Errno::NOSYS));
    assert_eq!(bench.b.fd_to_handle(FdArg::Bad), Err(Errno::BADF));
    bench.close();
    let bench = Bench::with(Profile::MODERN, odd, Driver::vgem());
    assert_eq!(bench.a.fd_to_handle(FdArg::Bad), Err(Errno::BADF));
    bench.close();
}

#[test]
fn s29_a_buffer_is_found_under_its_handle() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let fds: Vec<_> = (0..20).map(|_| bench.exported()).collect();
        let handles: Vec<_> = fds.iter().map(|(_, fd)| import(&bench.b, fd).unwrap()).collect();
        assert_eq!(handles, (1..=20).collect::<Vec<_>>());
        for ((_, fd), handle) in fds.iter().zip(&handles).rev() {
            assert_eq!(import(&bench.b, fd), Ok(*handle));
        }
        drop(fds);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s22_a_dangling_handle_takes_the_count_of_another() {
    let bench = Bench::new(Profile::SEED);
    let (handle, fd) = bench.exported();
    let twin = bench.vgem.open(Node::Primary).unwrap();
    bench.machine.fail(FaultPoint::MemberAlloc, 1, Errno::NOMEM);
    assert_eq!(import(&twin, &fd), Err(Errno::NOMEM));
    assert_eq!(rows(&noted(&bench.machine)), [("S22", EventKind::Warn)]);
    bench.a.gem_close(handle).unwrap();
    // Its own handle is the last, and the object lives in its dma-buf: the second close finds no count to drop.
    twin.gem_close(1).unwrap();
    assert_eq!(rows(&noted(&bench.machine)), [("S22", EventKind::Warn)]);
    drop((fd, twin));
    assert_eq!(bench.close(), []);
}

#[test]
fn a_name_goes_with_the_last_handle() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        let name = bench.a.gem_flink(handle).unwrap();
        let second = bench.a.gem_open(name).unwrap();
        bench.a.gem_close(handle).unwrap();
        let third = bench.a.gem_open(name).unwrap();
        bench.a.gem_close(second).unwrap();
        bench.a.gem_close(third).unwrap();
        assert_eq!(bench.a.gem_open(name), Err(Errno::NOENT), "{profile:?}");
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}
