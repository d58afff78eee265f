//! Lock order, and the races that the seed's spans allow, taken apart step by step.

use super::*;

use std::sync::{Arc, mpsc};
use std::thread::Scope;
use std::time::Duration;

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

/// The locks of a file's device and its own.
fn locks(file: &File) -> (Arc<device::DeviceLocks>, Arc<file::FileLocks>) {
    let state = file.device().machine().state();
    let own = state.files.get(file.key()).unwrap().locks.clone();
    (state.devices[file.device().key].locks.clone(), own)
}

/// Whether a call on a thread of its own is over within this time.
fn returns<'scope>(
    scope: &'scope Scope<'scope, '_>,
    within: Duration,
    call: impl FnOnce() + Send + 'scope,
) -> bool {
    let (done, wait) = mpsc::channel();
    scope.spawn(move || {
        call();
        // Nobody may wait any more.
        done.send(()).ok();
    });
    wait.recv_timeout(within).is_ok()
}

/// Whether a call waits while somebody else has one of the locks. What is expected only tells how long to look.
fn waits(profile: Profile, class: LockClass, call: fn(&File, u32, &DmabufFd), expected: bool) -> bool {
    let bench = Bench::new(profile);
    let (_, fd) = bench.exported();
    let own = dumb(&bench.a);
    let (device, file) = locks(&bench.a);
    let lock = match class {
        LockClass::Prime => &file.prime,
        LockClass::ObjectName => &device.object_name,
        LockClass::Struct => &device.struct_mutex,
        LockClass::Table => &file.table,
        other => panic!("{other:?} is not asked for"),
    };
    let patience = if expected { Duration::from_millis(20) } else { Duration::from_secs(20) };
    std::thread::scope(|scope| {
        bench.machine.call(|held| {
            let _held = held.lock(lock);
            !returns(scope, patience, || call(&bench.a, own, &fd))
        })
    })
}

#[test]
fn s33_each_call_takes_the_locks_of_its_kernel() {
    type Op = fn(&File, u32, &DmabufFd);
    let export: Op = |file, own, _| drop(file.handle_to_fd(own, 0));
    let hit: Op = |file, _, fd| assert!(import(file, fd).is_ok());
    let miss: Op = |file, _, _| {
        let fd = file.device().machine().udmabuf(4096).unwrap();
        assert!(import(file, &fd).is_ok());
    };
    let close: Op = |file, own, _| file.gem_close(own).unwrap();
    let make: Op = |file, _, _| assert_ne!(dumb(file), 0);
    use LockClass::{ObjectName, Prime, Struct, Table};
    for (what, op, modern, seed) in [
        ("export", export, [true, true, false, true], [true, false, false, true]),
        ("make", make, [false, true, false, true], [false, false, false, true]),
        ("miss", miss, [true, true, false, true], [true, false, false, true]),
        ("hit", hit, [true, false, false, false], [true, false, false, false]),
        // The seed only looks for an entry where a dma-buf is linked, and this object has none.
        ("close", close, [true, true, false, true], [false, false, true, true]),
    ] {
        for (profile, expected) in [(Profile::MODERN, modern), (Profile::SEED, seed)] {
            for (class, expected) in [Prime, ObjectName, Struct, Table].into_iter().zip(expected) {
                assert_eq!(waits(profile, class, op, expected), expected, "{what} {profile:?} {class:?}");
            }
        }
    }
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
fn c3b_an_imports_handle_closed_under_an_export_leaks_without_the_lock() {
    let bench = Bench::new(Profile::MODERN.with(SeedTrait::UnlockedLookup));
    let (_, fd) = bench.exported();
    let handle = import(&bench.b, &fd).unwrap();
    let (file, device) = (bench.b.key(), bench.vkms.key);
    bench.machine.call(|call| {
        let key = handles::lookup(call, file, handle).unwrap();
        handles::delete(call, file, handle).unwrap();
        let exported = prime::link(call, file, device, key, handle, false).unwrap();
        object::put(call, key);
        handles::report_orphan(call, file, handle, key, exported);
        handles::report_orphan(call, file, handle, key, exported);
        dmabuf::put(call, exported);
    });
    assert_eq!(rows(&noted(&bench.machine)), [("C3b", EventKind::WouldLeak)], "once");
    drop((bench.b, fd, bench.a));
    assert_eq!(rows(&noted(&bench.machine)), [("S28", EventKind::Warn), ("S28", EventKind::WouldLeak)]);
    assert_eq!(bench.machine.census().dmabuf_references, 1, "the entry's");
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

/// Whether a call keeps the lock of the names while it waits for the file's table. The file is of vkms; `prepare` makes what
/// the call is given.
fn names_stay_locked(profile: Profile, tries: u32, prepare: fn(&File) -> u32, call: fn(&File, u32)) -> bool {
    let bench = Bench::new(profile);
    let given = prepare(&bench.b);
    let (device, file) = locks(&bench.b);
    let name = || bench.machine.call(|call| drop(call.lock(&device.object_name)));
    std::thread::scope(|scope| {
        bench.machine.call(|held| {
            let _table = held.lock(&file.table);
            scope.spawn(|| call(&bench.b, given));
            (0..tries).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                !returns(scope, Duration::from_millis(50), name)
            })
        })
    })
}

#[test]
fn s33_new_handles_of_7_2_are_made_under_the_names_lock() {
    type Op = (fn(&File) -> u32, fn(&File, u32));
    let open: Op =
        (|file| file.gem_flink(dumb(file)).unwrap(), |file, name| assert!(file.gem_open(name).is_ok()));
    let getfb2: Op = (
        |file| file.addfb2(&kms::xrgb(64, 64, dumb(file))).unwrap(),
        |file, framebuffer| assert!(file.getfb2(framebuffer).is_ok()),
    );
    for (prepare, call) in [open, getfb2] {
        assert!(names_stay_locked(Profile::MODERN, 200, prepare, call));
        assert!(!names_stay_locked(Profile::SEED, 2, prepare, call));
    }
}
