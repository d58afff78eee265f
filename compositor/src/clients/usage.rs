//! What one client holds. Owns the counts; the handlers count, and ask [`Limits`] whether there is room.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use drm_prime::DmabufId;
use smithay::reexports::wayland_server::Client;
use smithay::reexports::wayland_server::backend::{ClientData, ClientId, DisconnectReason, ObjectId};
use smithay::wayland::compositor::CompositorClientState;

use super::{Key, Limits};
use crate::fences::{HeldCommits, TimelineCount};

/// A client's process, as the kernel knew it when the client connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
}

/// What a client holds.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) surfaces: u64,
    /// Planes of its dma-buf wl_buffers.
    pub(crate) planes: u64,
    /// The dma-bufs behind them, with how many planes lie in each, and its size.
    memory: HashMap<DmabufId, (u64, u64)>,
    /// The sum of those sizes.
    pub(crate) bytes: u64,
    pub(crate) pools: u64,
    pub(crate) shm_buffers: u64,
    /// Fences that its commits wait for.
    pub(crate) fences: u64,
    /// Descriptors of acquire points that have not signalled, and that the kernel keeps watching.
    pub(crate) watched: Vec<OwnedFd>,
    /// Rectangles of its regions.
    pub(crate) regions: HashMap<ObjectId, u64>,
    /// Files that came over its socket.
    pub(super) files_received: u64,
    /// Those that a request has taken.
    pub(super) files_taken: u64,
}

impl Usage {
    /// Counts a plane that lies in `file` of `size` bytes.
    pub(crate) fn add_plane(&mut self, file: DmabufId, size: u64) {
        self.planes += 1;
        let entry = self.memory.entry(file).or_insert((0, size));
        entry.0 += 1;
        if entry.0 == 1 {
            self.bytes = self.bytes.saturating_add(size);
        }
    }

    /// The bytes that planes in these files would add.
    pub(crate) fn bytes_with(&self, files: &[(DmabufId, u64)]) -> u64 {
        let mut new: Vec<_> = files.iter().filter(|(id, _)| !self.memory.contains_key(id)).collect();
        new.sort_unstable();
        new.dedup_by_key(|(id, _)| *id);
        new.into_iter().fold(self.bytes, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// Takes a plane back.
    pub(crate) fn remove_plane(&mut self, file: DmabufId) {
        self.planes = self.planes.saturating_sub(1);
        let Some(entry) = self.memory.get_mut(&file) else { return };
        entry.0 -= 1;
        if entry.0 == 0 {
            self.bytes = self.bytes.saturating_sub(entry.1);
            self.memory.remove(&file);
        }
    }

    /// A request took a file.
    pub(crate) fn took_file(&mut self) {
        self.files_taken += 1;
    }

    /// Files that no request took.
    pub(super) fn stray_files(&self) -> u64 {
        self.files_received.saturating_sub(self.files_taken)
    }

    /// Open files of this process that are there because of it; `pending` of them in params objects.
    pub(super) fn files(&self, pending: u64) -> u64 {
        self.stray_files()
            + self.planes
            + self.pools
            + self.shm_buffers
            + self.fences
            + self.watched.len() as u64
            + pending
    }
}

/// What is kept for each client.
#[derive(Debug)]
pub struct ClientState {
    /// smithay's part.
    pub compositor: CompositorClientState,
    /// Who it is; `None` when the kernel did not say.
    pub credentials: Option<Credentials>,
    /// Its quotas.
    pub(crate) limits: Limits,
    /// Its commits that are held back.
    pub(crate) held: HeldCommits,
    /// Its timelines.
    pub(crate) timelines: TimelineCount,
    pub(super) key: Key,
    usage: Mutex<Usage>,
    /// Buffers of it that are being imported: a roundtrip of its waits for them.
    importing: AtomicU32,
    ended: AtomicBool,
    /// Clients that the Wayland library has given up.
    gone: Arc<Mutex<Vec<Key>>>,
}

impl ClientState {
    pub(super) fn new(
        key: Key,
        limits: Limits,
        credentials: Option<Credentials>,
        gone: Arc<Mutex<Vec<Key>>>,
    ) -> Self {
        Self {
            compositor: CompositorClientState::default(),
            credentials,
            limits,
            held: HeldCommits::default(),
            timelines: TimelineCount::default(),
            key,
            usage: Mutex::default(),
            importing: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            gone,
        }
    }

    /// Its connection's number, never used again.
    pub fn number(&self) -> u64 {
        self.key
    }

    /// What it holds.
    pub(crate) fn usage(&self) -> MutexGuard<'_, Usage> {
        crate::lock(&self.usage)
    }

    /// A buffer of it is being imported, until [`import_ended`](Self::import_ended).
    pub(crate) fn import_began(&self) {
        self.importing.fetch_add(1, Ordering::Relaxed);
    }

    /// The import of a buffer of it is over. Says whether it was the last one.
    pub(crate) fn import_ended(&self) -> bool {
        self.importing.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Whether buffers of it are being imported.
    pub(super) fn imports(&self) -> bool {
        self.importing.load(Ordering::Relaxed) > 0
    }

    /// The state of a client of this compositor; `None` for one that was not taken in by it.
    pub(crate) fn of(client: &Client) -> Option<&Self> {
        client.get_data::<Self>()
    }
}

impl ClientData for ClientState {
    fn initialized(&self, client: ClientId) {
        tracing::debug!(?client, "client connected");
    }

    fn disconnected(&self, client: ClientId, reason: DisconnectReason) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            tracing::debug!(?client, ?reason, "client gone");
            crate::lock(&self.gone).push(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_once_however_many_planes_lie_in_it() {
        let mut usage = Usage::default();
        let (a, b) = (DmabufId { dev: 1, ino: 1 }, DmabufId { dev: 1, ino: 2 });
        assert_eq!(usage.bytes_with(&[(a, 100), (a, 100), (b, 7)]), 107);
        usage.add_plane(a, 100);
        usage.add_plane(a, 100);
        usage.add_plane(b, 7);
        assert_eq!((usage.planes, usage.bytes, usage.bytes_with(&[(a, 100)])), (3, 107, 107));
        usage.remove_plane(a);
        assert_eq!((usage.planes, usage.bytes), (2, 107));
        usage.remove_plane(a);
        assert_eq!((usage.planes, usage.bytes, usage.bytes_with(&[(a, 100)])), (1, 7, 107));
    }
}
