//! Lock order, and the races that the seed's spans allow, taken apart step by step.

use super::*;

/// What a machine with nothing wrong does for a while, from several threads.
fn busy(bench: &Bench) {
    let (_, fd) = bench.exported();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let handle = import(&bench.b, &fd).unwrap();
                    if let Ok(again) = bench.b.handle_to_fd(handle, 0) {
                        assert!(again.same_file(&fd));
                    }
                    bench.b.gem_close(handle).ok();
                    let own = dumb(&bench.a);
                    drop(bench.a.handle_to_fd(own, 0));
                    bench.a.gem_close(own).unwrap();
                }
            });
        }
    });
}

#[test]
fn s33_no_call_takes_locks_out_of_order() {
    for profile in BOTH {
        let bench = Bench::new(profile);
        busy(&bench);
        let order = bench.machine.events().into_iter().filter(|event| event.kind == EventKind::LockOrder);
        assert_eq!(order.collect::<Vec<_>>(), [], "{profile:?}");
    }
}

#[test]
fn s33_an_inversion_is_reported() {
    let machine = Machine::new(Profile::MODERN);
    let [prime, name] = [LockClass::Prime, LockClass::ObjectName].map(lock::ModelLock::new);
    machine.call(|call| {
        let _outer = call.lock(&prime);
        let _inner = call.lock(&name);
    });
    assert_eq!(noted(&machine), []);
    machine.call(|call| {
        let _outer = call.lock(&name);
        let _inner = call.lock(&prime);
    });
    assert_eq!(rows(&noted(&machine)), [("S33", EventKind::LockOrder)]);
}

#[test]
fn s33_four_threads_leak_nothing_in_7_2() {
    let bench = Bench::new(Profile::MODERN);
    busy(&bench);
    assert_eq!(bench.close(), []);
}

#[test]
fn c3b_a_handle_closed_under_an_export_leaks_in_the_seed() {
    // The export's lookup comes first; the close happens before the lock; then the export goes on.
    let bench = Bench::new(Profile::SEED);
    let handle = dumb(&bench.a);
    let file = bench.a.key();
    bench.machine.call(|call| {
        let key = handles::lookup(call, file, handle).unwrap();
        handles::delete(call, file, handle).unwrap();
        let fd = prime::weak_export(call, file, key, handle, false, &|_| Ok(())).unwrap();
        dmabuf::put(call, fd);
    });
    assert_eq!(rows(&noted(&bench.machine)), [("C3b", EventKind::WouldLeak)]);
    let Bench { machine, a, b, .. } = bench;
    drop((a, b));
    assert_eq!(rows(&noted(&machine)), [("S28", EventKind::Warn), ("S28", EventKind::WouldLeak)]);
    assert_eq!(machine.census().dmabufs, 1, "member, dma-buf and object hold each other up");
}

#[test]
fn c3b_a_handle_closed_under_an_export_is_enoent_in_7_2() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.a);
    let file = bench.a.key();
    bench.machine.call(|call| {
        let key = handles::lookup(call, file, handle).unwrap();
        handles::delete(call, file, handle).unwrap();
        assert_eq!(prime::link(call, file, bench.a.device().key, key, handle, false), Err(Errno::NOENT));
        object::put(call, key);
    });
    assert_eq!(bench.close(), []);
}

#[test]
fn s10_a_dmabuf_caught_in_its_release_oopses_in_the_seed() {
    // Between the last put and the release at the end of that call, the weak link still leads to it.
    let bench = Bench::new(Profile::SEED);
    let (handle, fd) = bench.exported();
    let twin = bench.vgem.open(Node::Primary).unwrap();
    let own = import(&twin, &fd).unwrap();
    bench.a.gem_close(handle).unwrap();
    let (file, key) = (twin.key(), fd.key());
    bench.machine.call(|call| {
        handles::remove_members(call, file, key);
        dmabuf::put_token(call, key);
        assert_eq!(prime::handle_to_fd(call, file, own, 0), Err(WOULD_OOPS));
    });
    std::mem::forget(fd);
    assert_eq!(rows(&noted(&bench.machine)), [("S10", EventKind::WouldOops)]);
}

#[test]
fn s08_two_racing_maps_leak_a_table_in_the_seed() {
    let attempt = |profile: Profile| {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let importer = fd.attach(&bench.vkms).unwrap();
        // Both have looked before either has mapped.
        bench.machine.call(|call| {
            for _ in 0..2 {
                prime::map_after_check(call, importer.key(), Direction::ToDevice).unwrap();
            }
        });
        drop((importer, fd));
        let Bench { machine, a, b, .. } = bench;
        drop((a, b));
        (machine.census().sg_tables, rows(&noted(&machine)))
    };
    assert_eq!(attempt(Profile::SEED), (1, vec![("S08", EventKind::WouldLeak)]));
    assert_eq!(attempt(Profile::SEED.without(SeedTrait::MapCheckUnlocked)), (0, vec![]));
}
