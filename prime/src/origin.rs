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

/// One export of a table of this process.
#[derive(Debug, Clone, Copy)]
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
