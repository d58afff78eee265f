//! Attachments and their mappings, as an importing driver sees them.

use super::*;

#[test]
fn s03_an_attachment_starts_without_a_mapping_and_lives_until_detach() {
    for profile in BOTH {
        let bench = Bench::new(profile.without(SeedTrait::DetachUnmappedOopses));
        let (_, fd) = bench.exported();
        let importer = fd.attach(&bench.vkms).unwrap();
        let census = bench.machine.census();
        assert_eq!((census.attachments, census.sg_tables, census.pins), (1, 0, 1), "{profile:?}");
        assert_eq!(census.attachment_privs, usize::from(profile == Profile::SEED));
        drop(importer);
        let census = bench.machine.census();
        assert_eq!((census.attachments, census.attachment_privs, census.pins), (0, 0, 0));
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s05_enomem_attaches_nothing() {
    for (profile, points) in [
        (Profile::MODERN, &[FaultPoint::AttachmentAlloc][..]),
        (Profile::SEED, &[FaultPoint::AttachmentAlloc, FaultPoint::PrivAlloc]),
    ] {
        for point in points {
            let bench = Bench::new(profile);
            let (_, fd) = bench.exported();
            let before = (fd.count(), bench.machine.census());
            bench.machine.fail(*point, 1, Errno::NOMEM);
            assert_eq!(fd.attach(&bench.vkms).unwrap_err(), Errno::NOMEM);
            assert_eq!((fd.count(), bench.machine.census()), before);
            drop(fd);
            assert_eq!(bench.close(), []);
        }
    }
}

#[test]
fn s05_a_failed_pin_leaks_in_the_seed() {
    let mut driver = Driver::vgem();
    driver.pin = Pin::Fails(Errno::NOSPC);
    let attempt = |profile| {
        let bench = Bench::with(profile, driver.clone(), Driver::vkms());
        let (_, fd) = bench.exported();
        assert_eq!(fd.attach(&bench.vkms).unwrap_err(), Errno::NOSPC, "its errno passes through");
        drop((fd, bench.a, bench.b));
        (bench.machine.census().attachment_privs, rows(&noted(&bench.machine)))
    };
    assert_eq!(attempt(Profile::MODERN), (0, vec![]));
    assert_eq!(attempt(Profile::SEED), (1, vec![("S05", EventKind::WouldLeak)]));
    assert_eq!(attempt(Profile::SEED.without(SeedTrait::PinFailureLeaks)), (0, vec![]));
}

#[test]
fn s05_without_get_sg_table_7_2_attaches_nothing() {
    let mut driver = Driver::vgem();
    driver.get_sg_table = false;
    let bench = Bench::with(Profile::MODERN, driver.clone(), Driver::vkms());
    let (_, fd) = bench.exported();
    assert_eq!(fd.attach(&bench.vkms).unwrap_err(), Errno::NOSYS);
    assert_eq!(import(&bench.b, &fd), Err(Errno::NOSYS));
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn s06_detach_unpins_and_frees_the_mapping() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let importer = fd.attach(&bench.vkms).unwrap();
        let table = importer.map(Direction::Bidirectional).unwrap().unwrap();
        assert!(importer.table(table).unwrap().size() == fd.size());
        if profile == Profile::MODERN {
            importer.unmap(table, Direction::Bidirectional);
        }
        drop(importer);
        let census = bench.machine.census();
        assert_eq!((census.sg_tables, census.pins, census.attachments), (0, 0, 0), "{profile:?}");
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s06_detaching_what_was_never_mapped_oopses_in_the_seed() {
    let attempt = |profile| {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        drop(fd.attach(&bench.vkms).unwrap());
        drop(fd);
        rows(&bench.close())
    };
    assert_eq!(attempt(Profile::MODERN), []);
    assert_eq!(attempt(Profile::SEED), [("S06", EventKind::WouldOops)]);
    assert_eq!(attempt(Profile::SEED.without(SeedTrait::DetachUnmappedOopses)), []);
}

#[test]
fn s08_the_seed_keeps_one_mapping_and_its_direction() {
    let bench = Bench::new(Profile::SEED);
    let (_, fd) = bench.exported();
    let importer = fd.attach(&bench.vkms).unwrap();
    assert_eq!(importer.map(Direction::None), Err(Errno::INVAL));
    let table = importer.map(Direction::ToDevice).unwrap().unwrap();
    assert_eq!(importer.map(Direction::ToDevice), Ok(Some(table)), "the same table");
    assert_eq!(importer.map(Direction::FromDevice), Err(Errno::BUSY));
    assert_eq!(bench.machine.census().sg_tables, 1);
    assert_eq!(rows(&noted(&bench.machine)), [("S08", EventKind::Warn), ("S08", EventKind::Warn)]);
    drop((importer, fd));
    assert_eq!(bench.close(), []);
}

#[test]
fn s08_each_mapping_of_7_2_is_a_table_of_its_own() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    let importer = fd.attach(&bench.vkms).unwrap();
    assert_eq!(importer.map(Direction::None), Err(Errno::INVAL));
    let [to, from] =
        [Direction::ToDevice, Direction::FromDevice].map(|dir| importer.map(dir).unwrap().unwrap());
    assert_ne!(to, from);
    assert_eq!(bench.machine.census().sg_tables, 2);
    importer.unmap(to, Direction::ToDevice);
    importer.unmap(from, Direction::ToDevice);
    assert_eq!(bench.machine.census().sg_tables, 0);
    drop((importer, fd));
    assert_eq!(rows(&bench.close()), [("S08", EventKind::Warn), ("S09", EventKind::Warn)]);
}

#[test]
fn s08_errnos_of_the_mapping() {
    for (profile, unmapped) in [(Profile::MODERN, Errno::INVAL), (Profile::SEED, Errno::NOMEM)] {
        let bench = Bench::new(profile.without(SeedTrait::DetachUnmappedOopses));
        let (_, fd) = bench.exported();
        let importer = fd.attach(&bench.vkms).unwrap();
        bench.machine.fail(FaultPoint::GetSgTable, 1, Errno::IO);
        assert_eq!(importer.map(Direction::ToDevice), Err(Errno::IO), "passed through");
        bench.machine.fail(FaultPoint::DmaMap, 1, Errno::INVAL);
        assert_eq!(importer.map(Direction::ToDevice), Err(unmapped), "{profile:?}");
        assert_eq!(bench.machine.census().sg_tables, 0);
        let table = importer.map(Direction::ToDevice).unwrap().unwrap();
        importer.unmap(table, Direction::ToDevice);
        drop((importer, fd));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s09_unmap_is_nothing_in_the_seed() {
    for (profile, left) in [(Profile::MODERN, 0), (Profile::SEED, 1)] {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let importer = fd.attach(&bench.vkms).unwrap();
        let table = importer.map(Direction::Bidirectional).unwrap().unwrap();
        importer.unmap(table, Direction::Bidirectional);
        assert_eq!(bench.machine.census().sg_tables, left, "{profile:?}");
        drop((importer, fd));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s25_s26_tables_are_made_of_the_buffers_pages() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let handle = bench.a.create_dumb(256, 256, 32).unwrap().handle;
        let fd = bench.a.handle_to_fd(handle, 0).unwrap();
        let importer = fd.attach(&bench.vkms).unwrap();
        let table = importer.map(Direction::Bidirectional).unwrap().unwrap();
        let (pages, addrs) = importer.page_arrays(table, 64).unwrap();
        assert!(pages.iter().zip(&addrs).all(|(page, addr)| page.address() == *addr));
        assert!(importer.table(table).unwrap().entries().len() > 1, "scattered");
        assert_eq!(importer.page_arrays(table, 63), Err(sg::MinusOne));
        assert_eq!(rows(&noted(&bench.machine)), [("S26", EventKind::Warn)], "{profile:?}");
        importer.unmap(table, Direction::Bidirectional);
        drop((importer, fd));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s27_destroying_an_import_unmaps_detaches_and_puts() {
    let mut importer = Driver::vkms();
    importer.import = Import::SgTable;
    for profile in BOTH {
        let bench = Bench::with(profile, Driver::vgem(), importer.clone());
        let (_, fd) = bench.exported();
        let before = (fd.count(), bench.machine.census());
        let handle = import(&bench.b, &fd).unwrap();
        bench.b.gem_close(handle).unwrap();
        assert_eq!((fd.count(), bench.machine.census()), before, "{profile:?}");
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s27_a_native_object_has_no_attachment_to_destroy() {
    let mut driver = Driver::vgem();
    driver.destroys_all_as_imports = true;
    for profile in BOTH {
        let bench = Bench::with(profile, driver.clone(), Driver::vkms());
        let handle = dumb(&bench.a);
        bench.a.gem_close(handle).unwrap();
        assert_eq!(rows(&bench.close()), [("S27", EventKind::WouldOops)], "{profile:?}");
    }
}
