//! Kernels people have: each capability off, each seed trait alone, faults at every step.

use super::*;

#[test]
fn each_trait_alone_is_a_kernel_that_works() {
    for it in SeedTrait::ALL {
        for profile in [Profile::MODERN.with(*it), Profile::SEED.without(*it)] {
            assert_ne!(profile, Profile::default());
            let bench = Bench::new(profile);
            let handle = dumb(&bench.a);
            let fd = bench.a.handle_to_fd(handle, DRM_CLOEXEC).unwrap();
            let foreign = import(&bench.b, &fd).unwrap();
            assert_eq!(import(&bench.b, &fd), Ok(foreign), "{it:?}");
            let fb = bench.b.addfb2(&kms::xrgb(64, 64, foreign)).unwrap();
            bench.b.gem_close(foreign).unwrap();
            bench.b.rmfb(fb).unwrap();
            bench.a.gem_close(handle).unwrap();
            drop(fd);
            assert_eq!(bench.close(), [], "{it:?}");
        }
    }
    assert_eq!(Profile::SEED.traits().count(), SeedTrait::ALL.len());
    assert!(SeedTrait::ALL.iter().all(|it| Profile::MODERN.with(*it).without(*it) == Profile::MODERN));
}

#[test]
fn any_single_fault_leaves_7_2_clean() {
    use FaultPoint as F;
    let points = [
        F::FdReserve,
        F::ObjectAlloc,
        F::HandleAlloc,
        F::HandleAllow,
        F::DriverExport,
        F::DmabufAlloc,
        F::MemberAlloc,
        F::AttachmentAlloc,
        F::Pin,
        F::GetSgTable,
        F::SgAlloc,
        F::DmaMap,
        F::DriverImport,
        F::Pages,
        F::FramebufferAlloc,
        F::FramebufferId,
    ];
    let mut importer = Driver::vkms();
    importer.import = Import::SgTable;
    for point in points {
        for errno in [Errno::NOMEM, Errno::MFILE, Errno::INVAL, Errno::NODEV, Errno::BUSY, Errno::ACCESS] {
            for nth in 1..4 {
                let bench = Bench::with(Profile::MODERN, Driver::vgem(), importer.clone());
                bench.machine.fail(point, nth, errno);
                let story = || {
                    let handle = bench.a.create_dumb(64, 64, 32)?.handle;
                    let fd = bench.a.handle_to_fd(handle, DRM_RDWR)?;
                    let twin = fd.try_clone()?;
                    let foreign = import(&bench.b, &twin)?;
                    let fb = bench.b.addfb2(&kms::xrgb(64, 64, foreign))?;
                    let minted = bench.b.getfb2(fb)?.handles[0];
                    bench.b.handle_to_fd(minted, 0)?;
                    fd.map(0, 4096, memory::Access::ReadWrite)?;
                    Ok::<(), Errno>(())
                };
                let outcome = story();
                let fired = bench.machine.clear_faults() == 0;
                assert_eq!(outcome, if fired { Err(errno) } else { Ok(()) }, "{point:?} {nth}");
                assert_eq!(bench.close(), [], "{point:?} {nth}");
            }
        }
    }
}

#[test]
fn no_sync_files() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    let file = fd.export_sync_file(1).unwrap();
    assert_eq!(fd.export_sync_file(0).unwrap_err(), Errno::INVAL);
    assert_eq!(fd.import_sync_file(None, 1), Err(Errno::INVAL));
    fd.import_sync_file(&file, 2).unwrap();
    bench.machine.set_sync_files(false);
    assert_eq!(fd.export_sync_file(1).unwrap_err(), Errno::NOTTY);
    assert_eq!(fd.import_sync_file(&file, 2), Err(Errno::NOTTY));
    drop((file, fd));
    assert_eq!(bench.close(), []);
}

#[test]
fn no_modifiers() {
    let mut old = Driver::vkms();
    old.modifiers = false;
    let bench = Bench::with(Profile::MODERN, Driver::vgem(), old);
    let mut request = kms::xrgb(64, 64, dumb(&bench.b));
    request.flags = MODIFIERS;
    assert_eq!(bench.b.addfb2(&request), Err(Errno::INVAL));
    request.flags = 0;
    let fb = bench.b.addfb2(&request).unwrap();
    assert_eq!((bench.b.getfb2(fb).unwrap().flags, bench.b.get_cap(0x10)), (0, Ok(0)));
    assert_eq!(bench.close(), []);
}

#[test]
fn no_empty_lease() {
    let mut old = Driver::vkms();
    old.empty_lease = false;
    let bench = Bench::with(Profile::MODERN, Driver::vkms(), old);
    assert_eq!(bench.b.create_empty_lease().unwrap_err(), Errno::INVAL);
    let lease = bench.a.create_empty_lease().unwrap();
    assert!(lease.is_master() && !lease.same_file(&bench.a));
    assert_eq!(lease.create_empty_lease().unwrap_err(), Errno::INVAL, "no leases of leases");
    let fb = lease.addfb2(&kms::xrgb(64, 64, dumb(&lease))).unwrap();
    bench.a.set_plane(0, Some(fb)).unwrap();
    assert_eq!(bench.a.rmfb(fb), Err(Errno::NOENT));
    bench.a.drop_master().unwrap();
    assert!(!lease.is_master());
    assert_eq!(bench.a.create_empty_lease().unwrap_err(), Errno::ACCESS);
    drop(lease);
    assert_eq!(bench.vgem.plane_framebuffer(0), None);
    assert_eq!(bench.close(), []);
}

#[test]
fn masters_come_and_go() {
    let bench = Bench::new(Profile::MODERN);
    let second = bench.vkms.open(Node::Primary).unwrap();
    assert!(bench.b.is_master() && !second.is_master());
    assert_eq!(second.set_plane(0, None), Err(Errno::ACCESS));
    assert_eq!((second.set_master(), second.drop_master()), (Err(Errno::BUSY), Err(Errno::INVAL)));
    bench.b.drop_master().unwrap();
    second.set_master().unwrap();
    assert!(second.is_master() && !bench.b.is_master());
    bench.machine.set_admin(false);
    assert_eq!(bench.b.set_master(), Err(Errno::BUSY), "it was master once");
    drop(second);
    bench.b.set_master().unwrap();
    assert_eq!(bench.close(), []);
}

#[test]
fn an_unplugged_device_answers_enodev() {
    let bench = Bench::new(Profile::MODERN);
    let (handle, fd) = bench.exported();
    bench.vgem.unplug();
    assert_eq!(bench.a.handle_to_fd(handle, !0).unwrap_err(), Errno::NODEV);
    assert_eq!(bench.a.gem_close(handle), Err(Errno::NODEV));
    assert_eq!(bench.vgem.open(Node::Primary).unwrap_err(), Errno::NODEV);
    import(&bench.b, &fd).unwrap();
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn i13_capabilities() {
    let bench = Bench::new(Profile::MODERN);
    assert_eq!((bench.a.get_cap(5), bench.b.get_cap(5)), (Ok(3), Ok(3)));
    assert_eq!((bench.a.get_cap(1), bench.b.get_cap(1)), (Err(Errno::OPNOTSUPP), Ok(1)));
    assert_eq!((bench.a.get_cap(0x13), bench.b.get_cap(99)), (Ok(0), Err(Errno::INVAL)));
    assert_eq!(bench.b.get_cap(0x10), Ok(1));
    assert!(bench.a.create_dumb(1, 1, 8).is_ok(), "all the same");
    assert_eq!(bench.close(), []);
}
