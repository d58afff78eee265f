//! Where an imported buffer came from, with the evidence, and the process-wide list of exports that [`Origin::SameProcess`]
//! rests on. It judges only; handles are counted in [`crate::handles`].

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::dmabuf::DmabufId;

/// Where a handle's memory came from, as found out when the handle was obtained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Allocated on this very file. Importing its export gives the original handle, so closing per import would
    /// free the original (self-import).
    Owned,
    /// The table already had the handle from an earlier import.
    Known {
        /// Where the first import came from; never `Known` itself.
        first: Arc<Origin>,
    },
    /// Exported by another device of this process, which still holds it.
    SameProcess {
        /// Identity of the dma-buf: the evidence.
        dmabuf: DmabufId,
        /// `st_rdev` of the exporting device.
        exporter: u64,
        /// The handle on the exporting device's file.
        handle: NonZeroU32,
    },
    /// From somewhere else.
    Foreign {
        /// Identity of the dma-buf.
        dmabuf: DmabufId,
        /// The kernel's name for the exporter, if it gave one (see [`crate::exporter`]).
        exporter: Option<String>,
    },
}

impl Origin {
    /// The origin itself, or the first one for a known handle.
    #[must_use]
    pub fn first(&self) -> &Origin {
        match self {
            Self::Known { first } => first,
            other => other,
        }
    }

    /// Whether the memory was allocated on this file.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        matches!(self.first(), Self::Owned)
    }
}

/// What was seen of a handle's memory when the handle was obtained. The exporter's name takes an open, a read and a close
/// of a file in `/proc`, several times what the import itself costs: it is asked for when somebody wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Owned,
    SameProcess(DmabufId, Export),
    Foreign(DmabufId),
}

impl Seen {
    /// Imported; `export` is what another table of this process has exported under that identity.
    pub fn imported(dmabuf: DmabufId, export: Option<Export>) -> Self {
        export.map_or(Self::Foreign(dmabuf), |export| Self::SameProcess(dmabuf, export))
    }

    /// The whole origin; `exporter` is asked for foreign memory only. Never `Known`.
    pub fn origin(self, exporter: impl FnOnce(DmabufId) -> Option<String>) -> Origin {
        match self {
            Self::Owned => Origin::Owned,
            Self::SameProcess(dmabuf, Export { dev, handle, .. }) => {
                Origin::SameProcess { dmabuf, exporter: dev, handle }
            }
            Self::Foreign(dmabuf) => Origin::Foreign { dmabuf, exporter: exporter(dmabuf) },
        }
    }
}

/// One export of a table of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Export {
    /// Which table.
    pub table: u64,
    /// Its device's `st_rdev`.
    pub dev: u64,
    /// The handle there.
    pub handle: NonZeroU32,
}

/// Exports whose exporting handle is still open: only so long is the identity certain to name that buffer.
static EXPORTS: Mutex<Option<HashMap<DmabufId, Vec<Export>>>> = Mutex::new(None);

fn exports() -> MutexGuard<'static, Option<HashMap<DmabufId, Vec<Export>>>> {
    // Every change is one call on the map, so a panic elsewhere cannot leave it half done.
    EXPORTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that `export.table` has exported a dma-buf. Called under that table's lock.
pub(crate) fn register(dmabuf: DmabufId, export: Export) {
    let mut exports = exports();
    let list = exports.get_or_insert_default().entry(dmabuf).or_default();
    if !list.iter().any(|known| known.table == export.table && known.handle == export.handle) {
        list.push(export);
    }
}

/// Forgets an export. Called under the table's lock, before the handle is closed.
pub(crate) fn forget(dmabuf: DmabufId, table: u64, handle: NonZeroU32) {
    let mut exports = exports();
    let Some(map) = exports.as_mut() else { return };
    if let Some(list) = map.get_mut(&dmabuf) {
        list.retain(|known| !(known.table == table && known.handle == handle));
        if list.is_empty() {
            map.remove(&dmabuf);
        }
    }
}

/// The export of another table than `table`, if there is one.
pub(crate) fn find(dmabuf: DmabufId, table: u64) -> Option<Export> {
    let exports = exports();
    exports.as_ref()?.get(&dmabuf)?.iter().find(|export| export.table != table).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn exports_are_found_by_others_until_forgotten() {
        // A device number that no dma-buf has: the list is the process's.
        let dmabuf = DmabufId { dev: u64::MAX, ino: 1 };
        let export = |table, handle| Export { table, dev: 7, handle: number(handle) };
        let found = |by| find(dmabuf, by).map(|export| (export.table, export.handle.get()));
        assert_eq!(found(u64::MAX), None);
        register(dmabuf, export(u64::MAX, 1));
        register(dmabuf, export(u64::MAX, 1));
        assert_eq!((found(u64::MAX), found(1)), (None, Some((u64::MAX, 1))));
        register(dmabuf, export(u64::MAX - 1, 2));
        assert_eq!(found(u64::MAX), Some((u64::MAX - 1, 2)));
        forget(dmabuf, u64::MAX, number(2));
        forget(DmabufId { dev: u64::MAX, ino: 2 }, u64::MAX, number(1));
        assert_eq!(found(1), Some((u64::MAX, 1)));
        forget(dmabuf, u64::MAX, number(1));
        assert_eq!(found(1), Some((u64::MAX - 1, 2)));
        forget(dmabuf, u64::MAX - 1, number(2));
        assert_eq!(found(1), None);
        assert!(!exports().as_ref().unwrap().contains_key(&dmabuf), "the empty list stays");
    }

    /// One entry for one export, however often it is made; neither the table nor the handle alone makes two the same.
    #[test]
    fn an_export_is_listed_once() {
        let dmabuf = DmabufId { dev: u64::MAX, ino: 7 };
        let listed = || {
            let exports = exports();
            let list = exports.as_ref().and_then(|map| map.get(&dmabuf));
            let mut listed: Vec<_> =
                list.into_iter().flatten().map(|export| (export.table, export.handle.get())).collect();
            listed.sort_unstable();
            listed
        };
        for (table, handle) in [(8, 1), (8, 1), (8, 2), (9, 1), (9, 2), (8, 1), (9, 2)] {
            register(dmabuf, Export { table, dev: 7, handle: number(handle) });
        }
        assert_eq!(listed(), [(8, 1), (8, 2), (9, 1), (9, 2)]);
        forget(dmabuf, 8, number(1));
        assert_eq!(listed(), [(8, 2), (9, 1), (9, 2)]);
        for (table, handle) in [(8, 2), (9, 1), (9, 2)] {
            forget(dmabuf, table, number(handle));
        }
        assert_eq!(listed(), []);
    }

    #[test]
    fn an_exporter_is_asked_for_foreign_memory_only() {
        let dmabuf = DmabufId { dev: u64::MAX, ino: 3 };
        let ask = |id| {
            assert_eq!(id, dmabuf);
            Some("udmabuf".to_owned())
        };
        let named = Origin::Foreign { dmabuf, exporter: Some("udmabuf".to_owned()) };
        assert_eq!(Seen::imported(dmabuf, None).origin(ask), named);
        assert!(!named.is_owned());
        assert!(Seen::Owned.origin(|_| panic!("asked about our own")).is_owned());
        let export = Export { table: 1, dev: 7, handle: number(2) };
        let expected = Origin::SameProcess { dmabuf, exporter: 7, handle: number(2) };
        let same = Seen::imported(dmabuf, Some(export)).origin(|_| panic!("asked about our own"));
        assert_eq!(same, expected);
        let known = Origin::Known { first: Arc::new(Origin::Owned) };
        assert!(known.is_owned() && known.first() == &Origin::Owned && same.first() == &same);
    }
}
