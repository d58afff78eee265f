//! Tests of the handle table on a device that reuses numbers at once, as kernels do.

use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;
use crate::{
    Fault,
    fake::{FakeDevice, memory},
};

fn table() -> (Arc<FakeDevice>, HandleTable) {
    let device = Arc::new(FakeDevice::new(0xe200));
    (device.clone(), HandleTable::new(device))
}

/// The buffer that a handle names on the device right now.
fn named(device: &FakeDevice, handle: &GemHandle) -> Option<DmabufId> {
    device.state().handles.get(&handle.raw()).and_then(|object| object.dmabuf)
}

/// Handles still open, and closes of handles that were not.
fn left(device: &FakeDevice) -> (usize, usize) {
    let state = device.state();
    (state.handles.len(), state.bad_closes)
}

/// Fails if the count is not raised: the first drop would close the handle of the second.
#[test]
fn second_import_survives_the_first() {
    let (device, table) = table();
    let fd = memory(4096);
    let first = table.import(fd.as_fd()).unwrap();
    let second = table.import(fd.as_fd()).unwrap();
    assert_eq!(first.raw(), second.raw());
    drop(first);
    assert_eq!(device.calls("close"), 0);
    assert_eq!(named(&device, &second), Some(DmabufId::of(fd.as_fd()).unwrap()));
    drop(second);
    assert_eq!((device.calls("close"), device.state().bad_closes), (1, 0));
}

/// Fails if the count is not lowered: the handle would stay open for ever.
#[test]
fn last_drop_closes_once() {
    let (device, table) = table();
    let fd = memory(4096);
    let handles: Vec<_> = (0..5).map(|_| table.import(fd.as_fd()).unwrap()).collect();
    assert_eq!((table.stats().handles, table.stats().references), (1, 5));
    drop(handles);
    assert!(device.state().handles.is_empty());
    assert_eq!((device.calls("close"), device.state().bad_closes), (1, 0));
    let stats = table.stats();
    assert_eq!((stats.handles, stats.imports, stats.hits, stats.closes, stats.violations), (0, 5, 4, 1, 0));
}

#[test]
fn clones_are_counted() {
    let (device, table) = table();
    let first = table.import(memory(4096).as_fd()).unwrap();
    let clone = first.clone();
    drop(first);
    assert_eq!(device.state().handles.len(), 1);
    drop(clone);
    assert_eq!(left(&device), (0, 0));
}

/// A client hands back the compositor's own buffer, e.g. a screen capture.
#[test]
fn self_import_leaves_the_original_alive() {
    let (device, table) = table();
    let own = table.create_dumb(64, 64, 32).unwrap();
    assert_eq!(own.handle().origin(), &Origin::Owned);
    let exported = own.export().unwrap();
    let import = table.import(exported.as_fd()).unwrap();
    assert_eq!(import.raw(), own.handle().raw());
    assert_eq!(import.origin(), &Origin::Owned);
    drop(import);
    assert_eq!(device.calls("close"), 0);
    assert!(device.state().handles.contains_key(&own.handle().raw()));
    drop(own);
    assert!(device.state().handles.is_empty());
}

#[test]
fn import_outlives_the_original() {
    let (device, table) = table();
    let own = table.create_dumb(64, 64, 32).unwrap();
    let exported = own.export().unwrap();
    let import = table.import(exported.as_fd()).unwrap();
    drop(own);
    assert_eq!(named(&device, &import), Some(DmabufId::of(exported.as_fd()).unwrap()));
    drop(import);
    assert_eq!((device.calls("close"), device.state().bad_closes), (1, 0));
}

#[test]
fn origins_carry_their_evidence() {
    let (_, importer) = table();
    let exporting = Arc::new(FakeDevice::new(0xe201));
    let exporter = HandleTable::new(exporting);
    let buffer = exporter.create_dumb(64, 64, 32).unwrap();
    let fd = buffer.export().unwrap();
    let dmabuf = DmabufId::of(fd.as_fd()).unwrap();
    let import = importer.import(fd.as_fd()).unwrap();
    let same = Origin::SameProcess { dmabuf, exporter: 0xe201, handle: buffer.handle().raw() };
    assert_eq!(import.origin(), &same);
    let again = importer.import(fd.as_fd()).unwrap();
    assert_eq!(again.origin(), &Origin::Known { first: Arc::new(same.clone()) });
    assert_eq!(again.origin().first(), &same);
    drop((import, again));
    // Once the exporter has closed its handle the number proves nothing any more.
    drop(buffer);
    let late = importer.import(fd.as_fd()).unwrap();
    assert!(matches!(late.origin(), Origin::Foreign { dmabuf: id, .. } if *id == dmabuf), "{late:?}");
    assert!(!exporter.import(memory(1).as_fd()).unwrap().origin().is_owned());
}

#[test]
fn the_export_of_an_import_is_nobodys_own() {
    let (_, table) = table();
    let (_, other) = self::table();
    let fd = memory(4096);
    let import = table.import(fd.as_fd()).unwrap();
    let exported = table.export(&import).unwrap();
    assert_eq!(DmabufId::of(exported.as_fd()).unwrap(), DmabufId::of(fd.as_fd()).unwrap());
    let again = other.import(exported.as_fd()).unwrap();
    assert!(matches!(again.origin(), Origin::Foreign { .. }), "{again:?}");
}

#[test]
fn entries_tell_what_is_open() {
    let (_, table) = table();
    let fd = memory(4096);
    let own = table.create_dumb(8, 8, 32).unwrap();
    let import = table.import(fd.as_fd()).unwrap();
    let _second = import.clone();
    let entries = table.ledger().handles;
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].handle, entries[0].references, entries[0].dmabuf), (own.handle().raw(), 1, None));
    assert_eq!((entries[1].handle, entries[1].references), (import.raw(), 2));
    assert_eq!(entries[1].dmabuf, Some(DmabufId::of(fd.as_fd()).unwrap()));
}

#[test]
fn handles_outlive_the_table_value() {
    let (device, table) = table();
    let handle = table.import(memory(4096).as_fd()).unwrap();
    drop(table);
    assert_eq!(device.state().handles.len(), 1);
    drop(handle);
    assert!(device.state().handles.is_empty());
}

/// Another part of the process closes a handle of ours, and the number goes to another buffer.
#[test]
fn a_stolen_number_is_noticed_and_not_closed_twice() {
    let (device, table) = table();
    let (one, two) = (memory(4096), memory(4096));
    let old = table.import(one.as_fd()).unwrap();
    device.gem_close(old.raw()).unwrap();
    let new = table.import(two.as_fd()).unwrap();
    assert_eq!(new.raw(), old.raw());
    assert_eq!(table.stats().violations, 1);
    let old_clone = old.clone();
    drop((old, old_clone));
    assert_eq!(named(&device, &new), Some(DmabufId::of(two.as_fd()).unwrap()));
    drop(new);
    assert!(device.state().handles.is_empty());
    assert_eq!((device.calls("close"), device.state().bad_closes), (2, 0));
}

#[test]
fn export_of_a_stolen_handle_is_refused() {
    let (device, table) = table();
    let own = table.create_dumb(8, 8, 32).unwrap();
    device.gem_close(own.handle().raw()).unwrap();
    let other = table.create_dumb(8, 8, 32).unwrap();
    assert_eq!(other.handle().raw(), own.handle().raw());
    let error = own.export().unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
    other.export().unwrap();
}

#[test]
fn failures_name_their_fault() {
    let (device, table) = table();
    let fd = memory(4096);
    let fail = |errno| {
        device.state().fail.insert("import", errno);
        let error = table.import(fd.as_fd()).unwrap_err();
        assert_eq!(table.stats(), TableStats::default());
        error
    };
    // A memfd is no dma-buf, so the kernel's EINVAL means what it says.
    let error = fail(Errno::INVAL);
    assert!(matches!(error, ImportError::NotDmabuf { .. }), "{error:?}");
    assert_eq!(error.fault(), Fault::Client);
    let error = fail(Errno::NODEV);
    assert!(matches!(error, ImportError::NotImportable { device: 0xe200, .. }), "{error:?}");
    assert_eq!(error.fault(), Fault::CannotScanOut);
    for errno in [Errno::NOMEM, Errno::MFILE] {
        let error = fail(errno);
        assert!(matches!(error, ImportError::System { .. }), "{error:?}");
        assert_eq!(error.fault(), Fault::System);
    }
    table.import(fd.as_fd()).unwrap();
}

#[test]
fn a_dumb_buffer_that_cannot_be_mapped_leaves_nothing() {
    let (device, table) = table();
    device.state().fail.insert("map", Errno::NOMEM);
    let error = table.create_dumb(64, 64, 32).unwrap_err();
    assert_eq!(error.fault(), Fault::System);
    assert!(device.state().handles.is_empty());
    let error = table.create_dumb(0, 64, 32).unwrap_err();
    assert_eq!(error.fault(), Fault::CannotScanOut);
}

/// Fails if the lock does not span import and count up, or count down and close: an import then gets a handle
/// that is about to be closed, or that names another buffer by now.
#[test]
fn racing_imports_and_closes_never_meet_a_dying_handle() {
    let mut device = FakeDevice::new(1);
    device.yields = true;
    let device = Arc::new(device);
    let table = HandleTable::new(device.clone());
    let buffers: Vec<_> = (0..3).map(|_| memory(4096)).collect();
    std::thread::scope(|scope| {
        for seed in 0..4_usize {
            let (table, device, buffers) = (&table, &device, &buffers);
            scope.spawn(move || {
                for round in 0..3000 {
                    let fd = buffers[(seed + round) % buffers.len()].as_fd();
                    let handle = table.import(fd).unwrap();
                    let clone = (round % 3 == 0).then(|| handle.clone());
                    assert_eq!(named(device, &handle), Some(DmabufId::of(fd).unwrap()));
                    drop(handle);
                    if let Some(clone) = clone {
                        assert_eq!(named(device, &clone), Some(DmabufId::of(fd).unwrap()));
                    }
                }
            });
        }
    });
    assert_eq!(left(&device), (0, 0));
    assert_eq!((table.stats().handles, table.stats().violations), (0, 0));
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
    fn counts_agree_with_guards(ops in proptest::collection::vec(op(), 1..60)) {
        let (device, table) = table();
        let buffers: Vec<_> = (0..3).map(|_| memory(4096)).collect();
        let mut guards: Vec<(GemHandle, u64)> = Vec::new();
        let mut dumbs = Vec::new();
        let mut exports = Vec::new();
        let serial = |handle: &GemHandle| device.state().handles[&handle.raw()].serial;
        for op in ops {
            match op {
                Op::Import(n) => {
                    let guard = table.import(buffers[n % buffers.len()].as_fd()).unwrap();
                    let serial = serial(&guard);
                    guards.push((guard, serial));
                }
                Op::Create => dumbs.push(table.create_dumb(8, 8, 32).unwrap()),
                Op::Export(n) if !dumbs.is_empty() => exports.push(dumbs[n % dumbs.len()].export().unwrap()),
                Op::ImportExport(n) if !exports.is_empty() => {
                    let guard = table.import(exports[n % exports.len()].as_fd()).unwrap();
                    let serial = serial(&guard);
                    guards.push((guard, serial));
                }
                Op::Clone(n) if !guards.is_empty() => guards.push(guards[n % guards.len()].clone()),
                Op::Drop(n) if !guards.is_empty() => drop(guards.swap_remove(n % guards.len())),
                Op::DropDumb(n) if !dumbs.is_empty() => drop(dumbs.swap_remove(n % dumbs.len())),
                _ => {}
            }
            let stats = table.stats();
            prop_assert_eq!(stats.references, guards.len() + dumbs.len());
            prop_assert_eq!(stats.handles, device.state().handles.len());
            prop_assert_eq!((stats.violations, device.state().bad_closes), (0, 0));
            for (guard, expected) in &guards {
                prop_assert_eq!(serial(guard), *expected);
            }
        }
        drop((guards, dumbs));
        prop_assert_eq!(device.state().handles.len(), 0);
    }
}
