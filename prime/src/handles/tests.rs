//! Tests of the handle table on a device that reuses numbers at once, as kernels do.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    Fault,
    device::faults::Call,
    ledger::ToldClock,
    testbed::{TestDevice, device, memory, table},
};

/// A table on a kernel whose inode numbers tell nothing.
fn asking_table() -> (Arc<TestDevice>, HandleTable) {
    let device = Arc::new(device(0xe200).without_identity());
    (device.clone(), HandleTable::new(device))
}

fn id(fd: &OwnedFd) -> DmabufId {
    DmabufId::of(fd.as_fd()).unwrap()
}

/// Fails if the count is not raised: the first drop would close the handle of the second.
#[test]
fn second_import_survives_the_first() {
    for (device, table) in [table(), asking_table()] {
        let fd = memory(4096);
        let first = table.import(fd.as_fd()).unwrap();
        let second = table.import(fd.as_fd()).unwrap();
        assert_eq!(first.raw(), second.raw());
        drop(first);
        assert_eq!(device.uses(Call::GemClose), 0);
        assert_eq!(device.named(&second), Some(id(&fd)));
        drop(second);
        assert_eq!((device.uses(Call::GemClose), table.stats().violations), (1, 0));
        assert!(device.is_clean());
    }
}

/// Fails if the count is not lowered: the handle would stay open for ever.
#[test]
fn last_drop_closes_once() {
    for ((device, table), spared) in [(table(), 4), (asking_table(), 0)] {
        let fd = memory(4096);
        let handles: Vec<_> = (0..5).map(|_| table.import(fd.as_fd()).unwrap()).collect();
        assert_eq!((table.stats().handles, table.stats().references), (1, 5));
        drop(handles);
        assert!(device.is_clean());
        let expected = TableStats { imports: 5, hits: 4, spared, closes: 1, ..TableStats::default() };
        assert_eq!(table.stats(), expected);
        assert_eq!((device.uses(Call::GemClose), device.uses(Call::FdToHandle)), (1, 5 - spared));
    }
}

#[test]
fn clones_are_counted() {
    let (device, table) = table();
    let first = table.import(memory(4096).as_fd()).unwrap();
    let clone = first.clone();
    drop(first);
    assert_eq!(device.handles(), 1);
    drop(clone);
    assert!(device.is_clean());
}

/// A client hands back the compositor's own buffer, e.g. a screen capture.
#[test]
fn self_import_leaves_the_original_alive() {
    for (device, table) in [table(), asking_table()] {
        let own = table.create_dumb(64, 64, 32).unwrap();
        assert_eq!(own.handle().origin(), &Origin::Owned);
        let exported = own.export().unwrap();
        let import = table.import(exported.as_fd()).unwrap();
        assert_eq!(import.raw(), own.handle().raw());
        assert_eq!(import.origin(), &Origin::Owned);
        drop(import);
        assert_eq!(device.uses(Call::GemClose), 0);
        assert_eq!(device.named(own.handle()), Some(id(&exported)));
        drop((own, exported));
        assert!(device.is_clean());
    }
}

#[test]
fn import_outlives_the_original() {
    let (device, table) = table();
    let own = table.create_dumb(64, 64, 32).unwrap();
    let exported = own.export().unwrap();
    let import = table.import(exported.as_fd()).unwrap();
    drop(own);
    assert_eq!(device.named(&import), Some(id(&exported)));
    drop(import);
    assert_eq!((device.uses(Call::GemClose), table.stats().violations), (1, 0));
}

#[test]
fn origins_carry_their_evidence() {
    let (_, importer) = table();
    let exporter = HandleTable::new(Arc::new(device(0xe201)));
    let buffer = exporter.create_dumb(64, 64, 32).unwrap();
    let fd = buffer.export().unwrap();
    let dmabuf = id(&fd);
    let import = importer.import(fd.as_fd()).unwrap();
    let same = Origin::SameProcess { dmabuf, exporter: 0xe201, handle: buffer.handle().raw() };
    assert_eq!(import.origin(), &same);
    let again = importer.import(fd.as_fd()).unwrap();
    assert_eq!(again.origin(), &Origin::Known { first: Arc::new(same.clone()) });
    assert_eq!(again.clone().origin().first(), &same);
    assert!(!again.origin().is_owned());
    drop((import, again));
    // Once the exporter has closed its handle the number proves nothing any more.
    drop(buffer);
    let late = importer.import(fd.as_fd()).unwrap();
    assert!(matches!(late.origin(), Origin::Foreign { dmabuf: id, .. } if *id == dmabuf), "{late:?}");
    assert!(!exporter.import(memory(1).as_fd()).unwrap().origin().is_owned());
}

/// Where all dma-bufs share one inode number, an export of ours proves nothing about a buffer of that number.
#[test]
fn without_identities_nothing_is_said_to_be_of_this_process() {
    let (_, importer) = asking_table();
    let exporting = HandleTable::new(Arc::new(device(0xe201).without_identity()));
    let buffer = exporting.create_dumb(64, 64, 32).unwrap();
    let fd = buffer.export().unwrap();
    let import = importer.import(fd.as_fd()).unwrap();
    assert!(matches!(import.origin(), Origin::Foreign { .. }), "{import:?}");
    assert_eq!(origin::find(id(&fd), 0), None, "the export was registered under a number that names nothing");
    let (_, identifying) = table();
    let import = identifying.import(fd.as_fd()).unwrap();
    assert!(matches!(import.origin(), Origin::Foreign { .. }), "{import:?}");
}

/// The name takes system calls, so it is asked for once, and not at import.
#[test]
fn an_exporter_is_asked_for_its_name_once_for_all_references() {
    let (device, table) = table();
    let fd = memory(4096);
    let (first, second) = (table.import(fd.as_fd()).unwrap(), table.import(fd.as_fd()).unwrap());
    assert_eq!(device.uses(Call::HandleToFd), 0);
    let nameless = Origin::Foreign { dmabuf: id(&fd), exporter: None };
    assert_eq!(table.entries()[0].origin, nameless);
    assert_eq!((first.origin(), second.origin().first()), (&nameless, &nameless));
    assert_eq!((first.clone().origin(), second.origin().first()), (&nameless, &nameless));
    assert_eq!(device.uses(Call::HandleToFd), 1);
    // It is not asked about a handle that is somebody else's by now.
    let other = memory(4096);
    let stale = table.import(other.as_fd()).unwrap();
    device.inner().gem_close(stale.raw().get()).unwrap();
    let thief = table.import(memory(4096).as_fd()).unwrap();
    assert_eq!(thief.raw(), stale.raw());
    assert_eq!(stale.origin(), &Origin::Foreign { dmabuf: id(&other), exporter: None });
    assert_eq!(device.uses(Call::HandleToFd), 1);
}

#[test]
fn the_export_of_an_import_is_nobodys_own() {
    let (_, table) = table();
    let (_, other) = self::table();
    let fd = memory(4096);
    let import = table.import(fd.as_fd()).unwrap();
    let exported = table.export(&import).unwrap();
    assert_eq!(id(&exported), id(&fd));
    let again = other.import(exported.as_fd()).unwrap();
    assert!(matches!(again.origin(), Origin::Foreign { .. }), "{again:?}");
}

#[test]
fn what_is_known_by_its_identity_is_not_asked_about() {
    let (device, table) = table();
    let fd = memory(4096);
    let import = table.import(fd.as_fd()).unwrap();
    let duplicate = fd.try_clone().unwrap();
    let again = table.import(duplicate.as_fd()).unwrap();
    assert_eq!((import.raw(), device.uses(Call::FdToHandle)), (again.raw(), 1));
    let stat = DmabufStat::of(fd.as_fd()).unwrap();
    let asked = table.import_again(&stat).unwrap();
    assert_eq!((asked.raw(), device.uses(Call::FdToHandle)), (import.raw(), 2));
    assert_eq!((table.stats().spared, table.stats().hits, table.stats().references), (1, 2, 3));
    drop((import, again, asked));
    // The key goes with the handle.
    let late = table.import_stat(&stat).unwrap();
    assert_eq!((device.uses(Call::FdToHandle), table.stats().spared), (3, 1));
    drop(late);
    let own = table.create_dumb(8, 8, 32).unwrap();
    let exported = own.export().unwrap();
    assert_eq!(table.import(exported.as_fd()).unwrap().raw(), own.handle().raw());
    assert_eq!(device.uses(Call::FdToHandle), 3, "our own export is known, too");
}

#[test]
fn the_ledger_lists_holders_with_owner_and_age() {
    let device = Arc::new(device(0xe200));
    let told = ToldClock::default();
    told.tell(Duration::from_secs(100));
    let table = HandleTable::with_clock(device.clone(), Clock::from(&told));
    let at = |seconds: u64| told.tell(Duration::from_secs(100 + seconds));
    let fd = memory(4096);
    at(1);
    let own = table.owned_by("composition").create_dumb(8, 8, 32).unwrap();
    at(2);
    let first = table.owned_by("client 7").import(fd.as_fd()).unwrap();
    at(4);
    let second = table.owned_by("capture").import(fd.as_fd()).unwrap();
    at(7);
    let third = table.owned_by("client 7").import(fd.as_fd()).unwrap();
    let fourth = second.clone();
    let fifth = table.import(fd.as_fd()).unwrap();
    at(10);
    let told_of = |entry: &HandleEntry| {
        let mut holders: Vec<_> = entry
            .holders
            .iter()
            .map(|holder| (holder.owner.to_string(), holder.references, holder.age.as_secs()))
            .collect();
        holders.sort();
        (entry.handle, entry.references, entry.age.as_secs(), holders)
    };
    let holder = |owner: &str, references: usize, age: u64| (owner.to_owned(), references, age);
    let ledger = table.ledger();
    assert_eq!((ledger.device, ledger.handles.len(), ledger.framebuffers.len()), (0xe200, 2, 0));
    let (mine, client) = (&ledger.handles[0], &ledger.handles[1]);
    assert_eq!(told_of(mine), (own.handle().raw(), 1, 9, vec![holder("composition", 1, 9)]));
    assert_eq!((&mine.origin, mine.dmabuf), (&Origin::Owned, None));
    let holders = vec![holder("capture", 2, 6), holder("client 7", 2, 8), holder("unlabelled", 1, 3)];
    assert_eq!(told_of(client), (first.raw(), 5, 8, holders));
    assert_eq!(client.dmabuf, Some(id(&fd)));
    assert_eq!((third.owner().as_str(), fourth.owner().as_str()), ("client 7", "capture"));
    assert_eq!(table.entries(), ledger.handles);
    drop((first, third));
    let holders = vec![holder("capture", 2, 6), holder("unlabelled", 1, 3)];
    assert_eq!(told_of(&table.entries()[1]).3, holders);
    drop(second);
    assert_eq!(told_of(&table.entries()[1]).3, vec![holder("capture", 1, 6), holder("unlabelled", 1, 3)]);
    drop((fourth, own));
    let holders = vec![holder("unlabelled", 1, 3)];
    assert_eq!(told_of(&table.entries()[0]), (fifth.raw(), 1, 8, holders));
    // A clock that goes backwards makes nothing negative.
    told.tell(Duration::ZERO);
    assert_eq!(table.entries()[0].age, Duration::ZERO);
}

#[test]
fn the_ledger_lists_what_the_device_holds_open() {
    let (_, plain) = table();
    assert_eq!(plain.ledger().descriptors, []);
    let told = ToldClock::default();
    let device = Arc::new(device(1).holding(vec![9, 4]));
    let table = HandleTable::with_clock(device, Clock::from(&told));
    told.tell(Duration::from_secs(5));
    let listed = table.ledger().descriptors;
    let descriptors: Vec<_> = listed.iter().map(|entry| (entry.descriptor, entry.age.as_secs())).collect();
    assert_eq!(descriptors, [(4, 5), (9, 5)]);
    assert_eq!(listed[0].owner.as_str(), "device");
}

#[test]
fn handles_outlive_the_table_value() {
    let (device, table) = table();
    let handle = table.import(memory(4096).as_fd()).unwrap();
    drop(table);
    assert_eq!(device.handles(), 1);
    drop(handle);
    assert!(device.is_clean());
}

/// Another part of the process closes a handle of ours, and the number goes to another buffer.
#[test]
fn a_stolen_number_is_noticed_and_not_closed_twice() {
    for (device, table) in [table(), asking_table()] {
        let (one, two) = (memory(4096), memory(4096));
        let old = table.import(one.as_fd()).unwrap();
        device.inner().gem_close(old.raw().get()).unwrap();
        let new = table.import(two.as_fd()).unwrap();
        assert_eq!(new.raw(), old.raw());
        assert_eq!(table.stats().violations, 1);
        let old_clone = old.clone();
        assert_eq!(table.stats().references, 1, "a reference on a handle that is gone counts nothing");
        drop((old, old_clone));
        assert_eq!(device.named(&new), Some(id(&two)));
        drop(new);
        assert!(device.is_clean());
        assert_eq!((device.uses(Call::GemClose), table.stats().violations), (1, 1));
    }
}

/// The dma-buf comes back from the device under another number than the table has for it.
#[test]
fn a_lost_handle_is_noticed_when_the_device_is_asked() {
    for (device, table) in [table(), asking_table()] {
        let fd = memory(4096);
        let lost = table.import(fd.as_fd()).unwrap();
        device.inner().gem_close(lost.raw().get()).unwrap();
        // Somebody else takes the number, so that the buffer gets another.
        let thief = device.inner().create_dumb(8, 8, 32).unwrap();
        let stat = DmabufStat::of(fd.as_fd()).unwrap();
        let found = table.import_again(&stat).unwrap();
        assert_ne!(found.raw(), lost.raw());
        assert_eq!(device.named(&found), Some(id(&fd)));
        assert_eq!(table.import(fd.as_fd()).unwrap().raw(), found.raw());
        let noticed = u64::from(device.identifies_dmabufs());
        assert_eq!(table.stats().violations, noticed, "without identities it looks like another buffer");
        if noticed == 1 {
            // The thief's handle is not closed for us.
            drop(lost);
            assert_eq!(table.stats().handles, 1);
            device.inner().gem_close(thief.handle).unwrap();
            drop(found);
            assert!(device.is_clean());
        }
    }
}

#[test]
fn a_handle_closed_by_somebody_else_is_noticed_at_its_own_close() {
    let (device, table) = table();
    let import = table.import(memory(4096).as_fd()).unwrap();
    device.inner().gem_close(import.raw().get()).unwrap();
    drop(import);
    let stats = table.stats();
    assert_eq!((stats.violations, stats.closes, stats.handles, stats.unclosed), (1, 0, 0, 0));
}

#[test]
fn export_of_a_stolen_handle_is_refused() {
    let (device, table) = table();
    let own = table.create_dumb(8, 8, 32).unwrap();
    device.inner().gem_close(own.handle().raw().get()).unwrap();
    let other = table.create_dumb(8, 8, 32).unwrap();
    assert_eq!((other.handle().raw(), table.stats().violations), (own.handle().raw(), 1));
    let errno = |error: ExportError| error.source.raw_os_error();
    let missing = Some(Errno::NOENT.raw_os_error());
    assert_eq!(errno(own.export().unwrap_err()), missing);
    assert_eq!(device.uses(Call::HandleToFd), 0);
    other.export().unwrap();
    // A table does not export what is another's.
    let (_, elsewhere) = self::table();
    elsewhere.create_dumb(8, 8, 32).unwrap();
    let foreign = elsewhere.create_dumb(8, 8, 32).unwrap();
    assert_eq!(errno(table.export(foreign.handle()).unwrap_err()), missing);
    assert_eq!(table.stats().violations, 1);
}

#[test]
fn an_export_notices_that_the_handle_is_gone_or_anothers() {
    let (device, table) = table();
    let fd = memory(4096);
    let missing = Some(Errno::NOENT.raw_os_error());
    let gone = table.import(fd.as_fd()).unwrap();
    device.inner().gem_close(gone.raw().get()).unwrap();
    assert_eq!(table.export(&gone).unwrap_err().source.raw_os_error(), missing);
    assert_eq!((table.stats().violations, table.stats().handles), (1, 0));
    let stolen = table.import(fd.as_fd()).unwrap();
    device.inner().gem_close(stolen.raw().get()).unwrap();
    let thief = device.inner().create_dumb(8, 8, 32).unwrap();
    assert_eq!(thief.handle, stolen.raw().get());
    assert_eq!(table.export(&stolen).unwrap_err().source.raw_os_error(), missing);
    assert_eq!((table.stats().violations, table.stats().handles), (2, 0));
    // Any other failure says nothing about the handle.
    drop((gone, stolen));
    let import = table.import(fd.as_fd()).unwrap();
    device.fail(Call::HandleToFd, 1, Errno::MFILE);
    assert!(table.export(&import).is_err());
    assert_eq!((table.stats().violations, table.stats().handles), (2, 1));
    table.export(&import).unwrap();
}

#[test]
fn failures_name_their_fault() {
    let (device, table) = table();
    let fail_with = |fd: BorrowedFd<'_>, errno| {
        device.fail(Call::FdToHandle, 1, errno);
        let error = table.import(fd).unwrap_err();
        assert_eq!(table.stats(), TableStats::default());
        error
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    for errno in [Errno::INVAL, Errno::BADF] {
        let error = fail_with(null.as_fd(), errno);
        assert!(matches!(error, ImportError::NotDmabuf { .. }), "{error:?}");
        assert_eq!(error.fault(), Fault::Client);
    }
    let fd = memory(4096);
    let fail = |errno| fail_with(fd.as_fd(), errno);
    let error = fail(Errno::NODEV);
    assert!(matches!(error, ImportError::NotImportable { device: 0xe200, .. }), "{error:?}");
    assert_eq!(error.fault(), Fault::CannotScanOut);
    for errno in [Errno::NOMEM, Errno::MFILE] {
        let error = fail(errno);
        assert!(matches!(error, ImportError::System { .. }), "{error:?}");
        assert_eq!(error.fault(), Fault::System);
    }
    let buffer = device.machine().udmabuf(4096).unwrap().into_owned().unwrap();
    for errno in [Errno::INVAL, Errno::OPNOTSUPP] {
        device.fail(Call::FdToHandle, 1, errno);
        let error = table.import(buffer.as_fd()).unwrap_err();
        assert!(matches!(error, ImportError::NotImportable { .. }), "{error:?}");
    }
    table.import(fd.as_fd()).unwrap();
}

#[test]
fn errnos_of_the_system_are_told_from_those_of_buffers() {
    let system = |errno: Errno| is_system_errno(&errno.into());
    for errno in
        [Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::NODEV, Errno::IO, Errno::ACCESS, Errno::BUSY]
    {
        assert!(system(errno), "{errno}");
    }
    for errno in [Errno::INVAL, Errno::NOENT, Errno::RANGE, Errno::OPNOTSUPP, Errno::NOSPC] {
        assert!(!system(errno), "{errno}");
    }
    assert!(is_system_errno(&io::ErrorKind::Other.into()), "not the kernel's word about the buffer");
}

#[test]
fn a_dumb_buffer_that_cannot_be_mapped_leaves_nothing() {
    let (device, table) = table();
    device.fail(Call::MapDumb, 1, Errno::NOMEM);
    let error = table.create_dumb(64, 64, 32).unwrap_err();
    assert_eq!(error.fault(), Fault::System);
    assert!(device.is_clean());
    let error = table.create_dumb(0, 64, 32).unwrap_err();
    assert_eq!(error.fault(), Fault::CannotScanOut);
}

/// Fails if the lock does not span import and count up, or count down and close: an import then gets a handle
/// that is about to be closed, or that names another buffer by now.
#[test]
fn racing_imports_and_closes_never_meet_a_dying_handle() {
    for asking in [false, true] {
        let device = device(1).yielding();
        let device = Arc::new(if asking { device.without_identity() } else { device });
        let table = HandleTable::new(device.clone());
        let buffers: Vec<_> = (0..3).map(|_| memory(4096)).collect();
        std::thread::scope(|scope| {
            for seed in 0..4_usize {
                let (table, device, buffers) = (&table, &device, &buffers);
                scope.spawn(move || {
                    for round in 0..1500 {
                        let fd = &buffers[(seed + round) % buffers.len()];
                        let handle = table.import(fd.as_fd()).unwrap();
                        let clone = (round % 3 == 0).then(|| handle.clone());
                        assert_eq!(device.named(&handle), Some(id(fd)));
                        drop(handle);
                        if let Some(clone) = clone {
                            assert_eq!(device.named(&clone), Some(id(fd)));
                        }
                    }
                });
            }
        });
        assert!(device.is_clean());
        assert_eq!((table.stats().handles, table.stats().references, table.stats().violations), (0, 0, 0));
    }
}

#[derive(Debug, Clone)]
enum Op {
    Import(usize),
    Create,
    Export(usize),
    ImportExport(usize),
    Clone(usize),
    Drop(usize),
    DropDumb(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let pick = 0..8_usize;
    prop_oneof![
        4 => pick.clone().prop_map(Op::Import),
        1 => Just(Op::Create),
        1 => pick.clone().prop_map(Op::Export),
        2 => pick.clone().prop_map(Op::ImportExport),
        2 => pick.clone().prop_map(Op::Clone),
        4 => pick.clone().prop_map(Op::Drop),
        1 => pick.prop_map(Op::DropDumb),
    ]
}

proptest! {
    /// After every operation the table counts exactly the guards that exist, and each names the buffer it was made of.
    #[test]
    fn counts_agree_with_guards(ops in proptest::collection::vec(op(), 1..60), asking in any::<bool>()) {
        let (device, table) = if asking { asking_table() } else { table() };
        let buffers: Vec<_> = (0..3).map(|_| memory(4096)).collect();
        let mut guards: Vec<(GemHandle, DmabufId)> = Vec::new();
        let mut dumbs = Vec::new();
        let mut exports = Vec::new();
        for op in ops {
            match op {
                Op::Import(n) => {
                    let fd = &buffers[n % buffers.len()];
                    guards.push((table.import(fd.as_fd()).unwrap(), id(fd)));
                }
                Op::Create => dumbs.push(table.create_dumb(8, 8, 32).unwrap()),
                Op::Export(n) if !dumbs.is_empty() => exports.push(dumbs[n % dumbs.len()].export().unwrap()),
                Op::ImportExport(n) if !exports.is_empty() => {
                    let fd = &exports[n % exports.len()];
                    guards.push((table.import(fd.as_fd()).unwrap(), id(fd)));
                }
                Op::Clone(n) if !guards.is_empty() => guards.push(guards[n % guards.len()].clone()),
                Op::Drop(n) if !guards.is_empty() => drop(guards.swap_remove(n % guards.len())),
                Op::DropDumb(n) if !dumbs.is_empty() => drop(dumbs.swap_remove(n % dumbs.len())),
                _ => {}
            }
            let stats = table.stats();
            prop_assert_eq!(stats.references, guards.len() + dumbs.len());
            prop_assert_eq!((stats.handles, stats.violations, stats.unclosed), (device.handles(), 0, 0));
            for (guard, expected) in &guards {
                prop_assert_eq!(device.named(guard), Some(*expected));
            }
            for entry in table.entries() {
                prop_assert_eq!(entry.references, entry.holders.iter().map(|holder| holder.references).sum::<usize>());
            }
        }
        drop((guards, dumbs, exports));
        prop_assert!(device.is_clean());
    }
}

/// Waits until a thread is in a held import.
fn until_waiting(device: &TestDevice) {
    while device.waiting(Call::FdToHandle) == 0 {
        std::thread::yield_now();
    }
}

/// While one thread is in an import that takes long, another goes on: with what the table knows, with closes, which are done
/// later, with allocations and with questions.
#[test]
fn an_import_that_takes_long_keeps_no_other_work_waiting() {
    let (device, table) = table();
    let (known, gone, slow) = (memory(4096), memory(4096), memory(4096));
    let first = table.import(known.as_fd()).unwrap();
    let dying = table.import(gone.as_fd()).unwrap();
    device.hold(Call::FdToHandle);
    let late = std::thread::scope(|scope| {
        let importing = scope.spawn(|| table.import(slow.as_fd()).unwrap());
        until_waiting(&device);
        assert!(table.knows(id(&known)) && !table.knows(id(&slow)));
        let second = table.import(known.as_fd()).unwrap();
        assert_eq!(second.raw(), first.raw());
        assert_eq!(table.try_import(known.as_fd()).unwrap().unwrap().raw(), first.raw());
        assert!(table.try_import(slow.as_fd()).unwrap().is_none(), "the device is busy");
        let dumb = table.create_dumb(8, 8, 32).unwrap();
        let number = dying.raw();
        drop(dying);
        assert_eq!((device.uses(Call::GemClose), table.stats().closes), (0, 0), "not while the gate is shut");
        assert_eq!(device.buffer_of(number), Some(id(&gone)));
        // One that is wanted again before it was closed is not closed.
        let revived = table.import(gone.as_fd()).unwrap();
        assert_eq!(revived.raw(), number);
        drop(first);
        assert_eq!((table.stats().handles, table.stats().violations), (3, 0));
        drop(revived);
        drop(dumb);
        device.release(Call::FdToHandle);
        (importing.join().unwrap(), second)
    });
    assert_eq!(device.named(&late.0), Some(id(&slow)));
    assert_eq!((table.stats().handles, table.stats().closes), (2, 2), "closed on the way out");
    assert_eq!(device.handles(), 2);
    drop(late);
    assert!(device.is_clean());
    assert_eq!(table.stats().violations, 0);
}

/// Two imports of one buffer at once: the one that had to wait takes what the first one made.
#[test]
fn who_waits_for_an_import_of_the_same_buffer_does_not_repeat_it() {
    let (device, table) = table();
    let slow = memory(4096);
    device.hold(Call::FdToHandle);
    let handles: Vec<_> = std::thread::scope(|scope| {
        let importing: Vec<_> = (0..2).map(|_| scope.spawn(|| table.import(slow.as_fd()).unwrap())).collect();
        until_waiting(&device);
        device.release(Call::FdToHandle);
        importing.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(handles[0].raw(), handles[1].raw());
    assert_eq!(device.uses(Call::FdToHandle), 1);
    drop(handles);
    assert!(device.is_clean());
}

/// A failed import closes what was dropped meanwhile, too.
#[test]
fn a_failed_import_opens_the_gate() {
    let (device, table) = table();
    let (gone, slow) = (memory(4096), memory(4096));
    let dying = table.import(gone.as_fd()).unwrap();
    device.hold(Call::FdToHandle);
    device.fail(Call::FdToHandle, 1, Errno::NODEV);
    std::thread::scope(|scope| {
        let importing = scope.spawn(|| table.import(slow.as_fd()).unwrap_err());
        until_waiting(&device);
        drop(dying);
        assert_eq!(table.stats().handles, 1);
        device.release(Call::FdToHandle);
        assert!(matches!(importing.join().unwrap(), ImportError::NotImportable { .. }));
    });
    assert!(device.is_clean());
}
