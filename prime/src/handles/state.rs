//! The books of a table: who holds which handle, which identity belongs to it, which framebuffers are open. It calls no
//! device and takes no lock; [`super`] keeps the books and the device in step.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc, time::Duration};

use super::TableStats;
use crate::{
    dmabuf::DmabufId,
    ledger::{FramebufferEntry, FramebufferName, HandleEntry, HolderEntry, Owner},
    origin::Provenance,
};

#[derive(Debug)]
struct Holder {
    owner: Owner,
    references: usize,
    since: Duration,
}

/// An open handle.
#[derive(Debug)]
pub(super) struct Entry {
    references: usize,
    /// Told apart from an earlier owner of the same number.
    pub generation: u64,
    pub provenance: Arc<Provenance>,
    pub dmabuf: Option<DmabufId>,
    since: Duration,
    /// Few: one per owner.
    holders: Vec<Holder>,
    /// Nobody holds it, and the device did not close it.
    unclosed: bool,
}

impl Entry {
    fn take(&mut self, owner: &Owner, now: Duration) {
        self.references += 1;
        match self.holders.iter_mut().find(|holder| holder.owner == *owner) {
            Some(holder) => holder.references += 1,
            None => self.holders.push(Holder { owner: owner.clone(), references: 1, since: now }),
        }
    }

    fn give_back(&mut self, owner: &Owner) {
        self.references -= 1;
        if let Some(index) = self.holders.iter().position(|holder| holder.owner == *owner) {
            self.holders[index].references -= 1;
            if self.holders[index].references == 0 {
                self.holders.swap_remove(index);
            }
        }
    }
}

/// A framebuffer as it was made.
#[derive(Debug)]
pub(super) struct FramebufferRecord {
    /// Told apart from an earlier owner of the same number.
    serial: u64,
    entry: FramebufferEntry,
    since: Duration,
}

#[derive(Debug, Default)]
pub(super) struct State {
    entries: HashMap<NonZeroU32, Entry>,
    /// The handle of each dma-buf, where an identity names one dma-buf alone ([`State::by_identity`]).
    by_dmabuf: HashMap<DmabufId, NonZeroU32>,
    framebuffers: HashMap<NonZeroU32, FramebufferRecord>,
    /// Handles and framebuffers that the device would not close.
    unclosed: usize,
    serial: u64,
    pub by_identity: bool,
    pub stats: TableStats,
}

impl State {
    /// Empty books; `by_identity` says whether an identity names one dma-buf alone.
    pub fn new(by_identity: bool) -> Self {
        Self { by_identity, ..Self::default() }
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub fn get(&self, handle: NonZeroU32) -> Option<&Entry> {
        self.entries.get(&handle)
    }

    /// The entry, if it is still the one that a reference of that generation was taken on.
    pub fn current(&self, handle: NonZeroU32, generation: u64) -> Option<&Entry> {
        self.entries.get(&handle).filter(|entry| entry.generation == generation)
    }

    /// The handle that an identity is known to have, where identities tell.
    pub fn of_dmabuf(&self, dmabuf: DmabufId) -> Option<NonZeroU32> {
        self.by_dmabuf.get(&dmabuf).copied()
    }

    /// Adds a handle with one reference; returns its generation. There must be no entry of that number.
    pub fn insert(
        &mut self,
        handle: NonZeroU32,
        provenance: Provenance,
        dmabuf: Option<DmabufId>,
        owner: &Owner,
        now: Duration,
    ) -> u64 {
        let generation = self.next_serial();
        let (provenance, holders) = (Arc::new(provenance), Vec::with_capacity(1));
        let (references, since, unclosed) = (0, now, false);
        let mut entry = Entry { references, generation, provenance, dmabuf: None, since, holders, unclosed };
        entry.take(owner, now);
        self.entries.insert(handle, entry);
        if let Some(dmabuf) = dmabuf {
            self.identify(handle, dmabuf);
        }
        generation
    }

    /// One more reference; revives a handle that could not be closed.
    pub fn take(&mut self, handle: NonZeroU32, owner: &Owner, now: Duration) {
        if let Some(entry) = self.entries.get_mut(&handle) {
            self.unclosed -= usize::from(std::mem::take(&mut entry.unclosed));
            entry.take(owner, now);
        }
    }

    /// One reference less, if it counts at all; true if it was the last one.
    pub fn give_back(&mut self, handle: NonZeroU32, generation: u64, owner: &Owner) -> bool {
        let Some(entry) = self.entries.get_mut(&handle).filter(|entry| entry.generation == generation) else {
            return false;
        };
        entry.give_back(owner);
        entry.references == 0
    }

    /// Notes which dma-buf a handle has.
    pub fn identify(&mut self, handle: NonZeroU32, dmabuf: DmabufId) {
        if let Some(entry) = self.entries.get_mut(&handle) {
            entry.dmabuf = Some(dmabuf);
            if self.by_identity {
                self.by_dmabuf.insert(dmabuf, handle);
            }
        }
    }

    /// Takes an entry out, with its identity.
    pub fn remove(&mut self, handle: NonZeroU32) -> Option<Entry> {
        let mut entry = self.entries.remove(&handle)?;
        self.unclosed -= usize::from(std::mem::take(&mut entry.unclosed));
        if let Some(dmabuf) = entry.dmabuf
            && self.by_dmabuf.get(&dmabuf) == Some(&handle)
        {
            self.by_dmabuf.remove(&dmabuf);
        }
        Some(entry)
    }

    /// Puts back an entry without references whose handle is still open.
    pub fn put_back(&mut self, handle: NonZeroU32, mut entry: Entry) {
        self.unclosed += 1;
        entry.unclosed = true;
        let dmabuf = entry.dmabuf;
        self.entries.insert(handle, entry);
        if let Some(dmabuf) = dmabuf {
            self.identify(handle, dmabuf);
        }
    }

    /// Takes out the handles that the device would not close.
    pub fn take_unclosed(&mut self) -> Vec<(NonZeroU32, Entry)> {
        let stuck: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.unclosed).map(|(handle, _)| *handle).collect();
        stuck.into_iter().filter_map(|handle| Some((handle, self.remove(handle)?))).collect()
    }

    /// Whether there is anything that the device would not close.
    pub fn has_unclosed(&self) -> bool {
        self.unclosed > 0
    }

    /// Notes a new framebuffer; returns its serial.
    pub fn insert_framebuffer(&mut self, id: NonZeroU32, entry: FramebufferEntry, now: Duration) -> u64 {
        let serial = self.next_serial();
        self.framebuffers.insert(id, FramebufferRecord { serial, entry, since: now });
        serial
    }

    /// Forgets a framebuffer, unless its number already belongs to the next one.
    pub fn remove_framebuffer(&mut self, id: NonZeroU32, serial: u64) {
        if self.framebuffers.get(&id).is_some_and(|record| record.serial == serial) {
            self.framebuffers.remove(&id);
        }
    }

    /// Notes that the device would not close a framebuffer.
    pub fn keep_framebuffer(&mut self, id: NonZeroU32, serial: u64) {
        let record = self.framebuffers.get_mut(&id).filter(|record| record.serial == serial);
        if let Some(record) = record.filter(|record| !record.entry.unclosed) {
            record.entry.unclosed = true;
            self.unclosed += 1;
        }
    }

    /// The framebuffers that the device would not close. They count as closed until they are kept again.
    pub fn take_unclosed_framebuffers(&mut self) -> Vec<(NonZeroU32, u64)> {
        let mut stuck = Vec::new();
        for (id, record) in self.framebuffers.iter_mut().filter(|(_, record)| record.entry.unclosed) {
            record.entry.unclosed = false;
            stuck.push((*id, record.serial));
        }
        self.unclosed -= stuck.len();
        stuck
    }

    pub fn stats(&self) -> TableStats {
        TableStats {
            handles: self.entries.len(),
            references: self.entries.values().map(|entry| entry.references).sum(),
            framebuffers: self.framebuffers.len(),
            unclosed: self.unclosed,
            ..self.stats
        }
    }

    /// The open handles, by number.
    pub fn handles(&self, now: Duration) -> Vec<HandleEntry> {
        let age = |since: Duration| now.saturating_sub(since);
        let holder = |holder: &Holder| HolderEntry {
            owner: holder.owner.clone(),
            references: holder.references,
            age: age(holder.since),
        };
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .map(|(handle, entry)| HandleEntry {
                handle: *handle,
                references: entry.references,
                origin: entry.provenance.seen().clone(),
                dmabuf: entry.dmabuf,
                age: age(entry.since),
                holders: entry.holders.iter().map(holder).collect(),
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.handle);
        entries
    }

    /// The open framebuffers, by number.
    pub fn framebuffers(&self, now: Duration) -> Vec<FramebufferEntry> {
        let mut entries: Vec<_> = self
            .framebuffers
            .iter()
            .map(|(id, record)| FramebufferEntry {
                name: FramebufferName(*id),
                age: now.saturating_sub(record.since),
                ..record.entry.clone()
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.name);
        entries
    }
}
