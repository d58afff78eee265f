//! Ends: of cache entries, dma-bufs, handles and files.

use super::*;

#[test]
fn s07_the_seeds_close_removes_every_entry_of_the_dmabuf() {
    let left = |profile: Profile| {
        let bench = Bench::new(profile);
        let (_, twin, fd) = bench.twins();
        let before = bench.machine.census().members;
        bench.b.gem_close(twin).unwrap();
        let after = bench.machine.census().members;
        drop(fd);
        bench.close();
        (before, after)
    };
    assert_eq!(left(Profile::MODERN), (2, 1));
    assert_eq!(left(Profile::MODERN.with(SeedTrait::CloseByDmabuf)), (2, 0));
    assert_eq!(
        left(Profile::SEED.without(SeedTrait::ExportSkipsCache).without(SeedTrait::CloseByDmabuf)),
        (2, 1)
    );
}

#[test]
fn s07_the_seed_puts_before_it_unlinks() {
    let attempt = |profile| {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        drop(fd);
        // The cache has the last reference.
        bench.a.gem_close(handle).unwrap();
        rows(&bench.machine.events())
    };
    assert_eq!(attempt(Profile::MODERN), []);
    assert_eq!(attempt(Profile::SEED), [("S07", EventKind::Warn)]);
    assert_eq!(attempt(Profile::SEED.without(SeedTrait::PutBeforeUnlink)), []);
}

#[test]
fn s10_release_gives_the_objects_reference_back() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (handle, fd) = bench.exported();
        bench.a.gem_close(handle).unwrap();
        assert_eq!(bench.machine.census().objects, 1, "the dma-buf has it");
        drop(fd);
        let census = bench.machine.census();
        assert_eq!((census.objects, census.dmabufs), (0, 0));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s10_a_release_that_finds_another_link_gives_nothing_back() {
    // After the unwind of S18 the released dma-buf is no longer the object's.
    let bench = Bench::new(Profile::SEED);
    let handle = dumb(&bench.a);
    bench.machine.fail(FaultPoint::MemberAlloc, 1, Errno::NOMEM);
    let before = bench.machine.census().object_references;
    bench.a.handle_to_fd(handle, 0).unwrap_err();
    assert_eq!(bench.machine.census().object_references, before);
    assert_eq!(bench.close(), []);
}

#[test]
fn s28_a_file_with_an_entry_left_warns() {
    let bench = Bench::new(Profile::SEED);
    let (handle, fd) = bench.exported();
    // An entry of a handle that is no longer there, as the race of C3b leaves it.
    let a = bench.a.key();
    bench.machine.call(|call| {
        let mut state = call.state();
        let file = state.files.get_mut(a).unwrap();
        file.handles.remove(handle);
    });
    drop((fd, bench.a, bench.b));
    let kinds = rows(&noted(&bench.machine));
    assert_eq!(kinds, [("S28", EventKind::Warn), ("S28", EventKind::WouldLeak)]);
    assert!(!bench.machine.census().is_empty());
}

#[test]
fn s28_a_file_ends_with_an_empty_cache() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let pairs: Vec<_> = (0..3).map(|_| bench.exported()).collect();
        for (_, fd) in &pairs {
            import(&bench.b, fd).unwrap();
        }
        assert_eq!(bench.machine.census().members, 6);
        let Bench { machine, a, b, .. } = bench;
        drop((a, b));
        assert_eq!((machine.census().members, noted(&machine)), (0, vec![]));
        drop(pairs);
        assert!(machine.census().is_empty());
    }
}

#[test]
fn s30_an_entry_is_removed_with_its_handle() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let handle = import(&bench.b, &fd).unwrap();
        assert_eq!(bench.machine.census().members, 2);
        bench.b.gem_close(handle).unwrap();
        assert_eq!(bench.machine.census().members, 1);
        assert_eq!(import(&bench.b, &fd), Ok(handle), "a new import, under the freed number");
        drop(fd);
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s31_gem_close_of_an_unknown_handle() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let handle = dumb(&bench.a);
        for bad in [0, handle + 1, u32::MAX] {
            assert_eq!(bench.a.gem_close(bad), Err(Errno::INVAL));
        }
        bench.a.gem_close(handle).unwrap();
        assert_eq!(bench.a.gem_close(handle), Err(Errno::INVAL));
        assert_eq!(bench.a.gem_change_handle(1, 2), Err(Errno::INVAL));
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn s32_file_close_drops_framebuffers_handles_and_cache() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let handle = import(&bench.b, &fd).unwrap();
        let fb = bench.b.addfb2(&kms::xrgb(64, 64, handle)).unwrap();
        bench.b.set_plane(0, Some(fb)).unwrap();
        let before = fd.count();
        let Bench { machine, vkms, a, b, .. } = bench;
        drop(b);
        assert_eq!(vkms.plane_framebuffer(0), None, "taken off the plane");
        assert_eq!(before - fd.count(), if profile == Profile::SEED { 2 } else { 3 });
        assert_eq!(machine.census().framebuffers, 0);
        drop((a, fd));
        assert!(machine.census().is_empty());
        assert_eq!(noted(&machine), []);
    }
}

#[test]
fn c6_a_number_is_not_reused_before_its_entry_is_gone() {
    // Between the phases the number leads nowhere, and is not free.
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.a);
    let key = bench.a.key();
    bench.machine.call(|call| {
        *call.state().files.get_mut(key).unwrap().handles.get_mut(handle).unwrap() = None;
    });
    assert_eq!(bench.a.gem_close(handle), Err(Errno::INVAL));
    assert_eq!(bench.a.handle_to_fd(handle, 0).unwrap_err(), Errno::NOENT);
    assert_ne!(dumb(&bench.a), handle);
}

#[test]
fn events_do_not_fill_the_memory() {
    let bench = Bench::new(Profile::SEED);
    for _ in 0..(1 << 16) + 10 {
        bench.machine.state().report("S07", EventKind::Warn, "");
    }
    assert_eq!(bench.machine.take_events().len(), 1 << 16);
    bench.machine.state().report("S08", EventKind::Warn, "");
    assert_eq!(rows(&bench.close()), [("S08", EventKind::Warn)]);
}
