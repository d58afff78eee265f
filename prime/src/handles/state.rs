//! The books of a table: who holds which handle, which identity belongs to it, which framebuffers are open. It calls no
//! device and takes no lock; [`super`] keeps the books and the device in step.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    num::NonZeroU32,
    time::Duration,
};

use super::TableStats;
use crate::{
    dmabuf::DmabufId,
    ledger::{FramebufferEntry, HandleEntry, HolderEntry, Owner},
    origin::Seen,
};

/// Hashes numbers that the kernel gave out. Nobody else picks them, so nobody can make them collide.
#[derive(Debug, Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        // The multiplication mixes upwards, and a table takes the lowest bits.
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(32) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

#[derive(Debug)]
struct Holder {
    owner: Owner,
    references: usize,
    since: Duration,
}

/// Who holds a handle: mostly one owner, who costs no allocation.
#[derive(Debug, Default)]
struct Holders {
    first: Option<Holder>,
    others: Vec<Holder>,
}

impl Holders {
    fn iter(&self) -> impl Iterator<Item = &Holder> {
        self.first.iter().chain(&self.others)
    }

    fn take(&mut self, owner: &Owner, now: Duration) {
        let mut known = self.first.iter_mut().chain(&mut self.others);
        if let Some(holder) = known.find(|holder| holder.owner == *owner) {
            holder.references += 1;
            return;
        }
        let holder = Holder { owner: owner.clone(), references: 1, since: now };
        match &mut self.first {
            None => self.first = Some(holder),
            Some(_) => self.others.push(holder),
        }
    }

    fn give_back(&mut self, owner: &Owner) {
        let mut known = self.first.iter_mut().chain(&mut self.others);
        if let Some(holder) = known.find(|holder| holder.owner == *owner) {
            holder.references -= 1;
        }
        self.others.retain(|holder| holder.references > 0);
        if self.first.as_ref().is_some_and(|holder| holder.references == 0) {
            self.first = self.others.pop();
        }
    }
}

/// An open handle.
#[derive(Debug)]
pub(super) struct Entry {
    references: usize,
    /// Told apart from an earlier owner of the same number.
    pub generation: u64,
    pub seen: Seen,
    /// The exporter's name, or that it has none, once somebody asked.
    pub exporter: Option<Option<String>>,
    pub dmabuf: Option<DmabufId>,
    since: Duration,
    holders: Holders,
    /// Nobody holds it, and the device did not close it.
    unclosed: bool,
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
    entries: NumberMap<NonZeroU32, Entry>,
    /// The handle of each dma-buf, where an identity names one dma-buf alone ([`State::by_identity`]).
    by_dmabuf: NumberMap<DmabufId, NonZeroU32>,
    framebuffers: NumberMap<NonZeroU32, FramebufferRecord>,
    /// Handles whose last reference was given back, with the generation that they had: they are to be closed.
    idle: Vec<(NonZeroU32, u64)>,
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
        seen: Seen,
        dmabuf: Option<DmabufId>,
        owner: &Owner,
        now: Duration,
    ) -> u64 {
        let generation = self.next_serial();
        let mut holders = Holders::default();
        holders.take(owner, now);
        let (references, since, unclosed, exporter) = (1, now, false, None);
        let entry = Entry { references, generation, seen, exporter, dmabuf, since, holders, unclosed };
        if let Some(dmabuf) = dmabuf.filter(|_| self.by_identity) {
            self.by_dmabuf.insert(dmabuf, handle);
        }
        self.entries.insert(handle, entry);
        generation
    }

    /// One more reference; revives a handle that could not be closed.
    pub fn take(&mut self, handle: NonZeroU32, owner: &Owner, now: Duration) -> Option<&Entry> {
        let entry = self.entries.get_mut(&handle)?;
        self.unclosed -= usize::from(std::mem::take(&mut entry.unclosed));
        entry.references += 1;
        entry.holders.take(owner, now);
        Some(entry)
    }

    /// One reference less, if it counts at all; true if it was the last one. The handle is to be closed then, unless it is
    /// taken again before that.
    pub fn give_back(&mut self, handle: NonZeroU32, generation: u64, owner: &Owner) -> bool {
        let Some(entry) = self.entries.get_mut(&handle).filter(|entry| entry.generation == generation) else {
            return false;
        };
        entry.references -= 1;
        entry.holders.give_back(owner);
        let last = entry.references == 0;
        if last {
            self.idle.push((handle, generation));
        }
        last
    }

    /// Whether a handle may wait for being closed.
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Takes out a handle that nobody holds any more.
    pub fn take_idle(&mut self) -> Option<(NonZeroU32, Entry)> {
        while let Some((handle, generation)) = self.idle.pop() {
            let entry = self.current(handle, generation);
            if entry.is_some_and(|entry| entry.references == 0 && !entry.unclosed) {
                return Some((handle, self.remove(handle)?));
            }
        }
        None
    }

    /// Remembers the exporter's name of a handle.
    pub fn name_exporter(&mut self, handle: NonZeroU32, generation: u64, exporter: Option<String>) {
        if let Some(entry) = self.entries.get_mut(&handle).filter(|entry| entry.generation == generation) {
            entry.exporter = Some(exporter);
        }
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
                origin: entry.seen.origin(|_| entry.exporter.clone().flatten()),
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
            .values()
            .map(|record| FramebufferEntry { age: now.saturating_sub(record.since), ..record.entry.clone() })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.name);
        entries
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, hash::BuildHasher};

    use drm_fourcc::{DrmFourcc, DrmModifier};

    use super::*;
    use crate::ledger::FramebufferName;

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn framebuffer(owner: &str) -> FramebufferEntry {
        FramebufferEntry {
            name: FramebufferName(number(5)),
            owner: owner.into(),
            age: Duration::ZERO,
            width: 1,
            height: 2,
            format: DrmFourcc::Nv12,
            modifier: DrmModifier::Linear,
            unclosed: false,
        }
    }

    /// A table takes the lowest bits for the place and the highest for a tag: neighbours must differ in both.
    #[test]
    fn neighbouring_numbers_are_spread() {
        let hash = BuildHasherDefault::<NumberHasher>::default();
        let spread = |hashes: &mut dyn Iterator<Item = u64>| {
            let hashes: Vec<_> = hashes.take(128).collect();
            let different = |part: &dyn Fn(u64) -> u64| {
                hashes.iter().map(|hash| part(*hash)).collect::<HashSet<_>>().len()
            };
            (different(&|hash| hash), different(&|hash| hash & 127), different(&|hash| hash >> 57))
        };
        let (all, low, high) = spread(&mut (1..).map(|n| hash.hash_one(number(n))));
        assert!(all == 128 && low > 64 && high > 64, "handles: {all} {low} {high}");
        let (all, low, high) = spread(&mut (1..).map(|ino| hash.hash_one(DmabufId { dev: 14, ino })));
        assert!(all == 128 && low > 64 && high > 64, "inodes: {all} {low} {high}");
        let (all, low, high) = spread(&mut (1..).map(|dev| hash.hash_one(DmabufId { dev, ino: 14 })));
        assert!(all == 128 && low > 64 && high > 64, "devices: {all} {low} {high}");
        let (all, ..) = spread(&mut (0..128_u8).map(|byte| hash.hash_one([byte, 1])));
        assert_eq!(all, 128);
    }

    /// The number of a framebuffer can be the next one's by the time its close is booked.
    #[test]
    fn a_late_booking_leaves_the_next_framebuffer_alone() {
        let mut state = State::new(true);
        let first = state.insert_framebuffer(number(5), framebuffer("first"), Duration::ZERO);
        let second = state.insert_framebuffer(number(5), framebuffer("second"), Duration::from_secs(1));
        assert_ne!(first, second);
        state.remove_framebuffer(number(5), first);
        state.keep_framebuffer(number(5), first);
        assert!(!state.has_unclosed());
        let listed = state.framebuffers(Duration::from_secs(4));
        assert_eq!(listed, [FramebufferEntry { age: Duration::from_secs(3), ..framebuffer("second") }]);
        state.keep_framebuffer(number(5), second);
        state.keep_framebuffer(number(5), second);
        assert_eq!((state.has_unclosed(), state.stats().unclosed), (true, 1), "counted once");
        assert!(state.framebuffers(Duration::ZERO)[0].unclosed);
        assert_eq!(state.take_unclosed_framebuffers(), [(number(5), second)]);
        assert_eq!((state.take_unclosed_framebuffers(), state.has_unclosed()), (vec![], false));
        state.remove_framebuffer(number(5), second);
        assert_eq!(state.stats().framebuffers, 0);
    }

    #[test]
    fn a_handle_that_would_not_close_is_revived_or_taken_out() {
        let (owner, ino) = (Owner::default(), DmabufId { dev: 1, ino: 9 });
        let mut state = State::new(true);
        let insert =
            |state: &mut State| state.insert(number(3), Seen::Owned, Some(ino), &owner, Duration::ZERO);
        let generation = insert(&mut state);
        assert!(!state.give_back(number(3), generation + 1, &owner), "another generation counts nothing");
        assert!(state.give_back(number(3), generation, &owner));
        let entry = state.remove(number(3)).unwrap();
        assert_eq!((state.of_dmabuf(ino), state.stats().handles), (None, 0));
        state.put_back(number(3), entry);
        assert_eq!((state.of_dmabuf(ino), state.has_unclosed()), (Some(number(3)), true));
        assert_eq!(
            state.take(number(3), &owner, Duration::ZERO).map(|entry| entry.generation),
            Some(generation)
        );
        assert!(!state.has_unclosed());
        assert!(state.take_unclosed().is_empty());
        assert!(state.give_back(number(3), generation, &owner));
        let entry = state.remove(number(3)).unwrap();
        state.put_back(number(3), entry);
        let stuck = state.take_unclosed();
        assert_eq!((stuck.len(), stuck[0].0, state.has_unclosed()), (1, number(3), false));
        assert_eq!((state.of_dmabuf(ino), state.get(number(3)).is_none()), (None, true));
        // One that is struck while it is unclosed is not counted any more either.
        let generation = insert(&mut state);
        assert!(state.give_back(number(3), generation, &owner));
        let entry = state.remove(number(3)).unwrap();
        state.put_back(number(3), entry);
        assert!(state.remove(number(3)).is_some());
        assert!(!state.has_unclosed());
    }

    #[test]
    fn an_identity_belongs_to_the_last_handle_that_had_it() {
        let owner = Owner::default();
        let (one, two) = (DmabufId { dev: 1, ino: 1 }, DmabufId { dev: 1, ino: 2 });
        let mut state = State::new(true);
        state.insert(number(1), Seen::Foreign(one), Some(one), &owner, Duration::ZERO);
        state.insert(number(2), Seen::Owned, None, &owner, Duration::ZERO);
        assert_eq!((state.of_dmabuf(one), state.of_dmabuf(two)), (Some(number(1)), None));
        state.identify(number(2), two);
        assert_eq!(
            (state.of_dmabuf(two), state.get(number(2)).unwrap().dmabuf),
            (Some(number(2)), Some(two))
        );
        state.identify(number(2), one);
        state.remove(number(1));
        assert_eq!(state.of_dmabuf(one), Some(number(2)), "it was another's already");
        let mut asking = State::new(false);
        asking.insert(number(1), Seen::Foreign(one), Some(one), &owner, Duration::ZERO);
        asking.identify(number(1), two);
        assert_eq!((asking.of_dmabuf(one), asking.of_dmabuf(two)), (None, None));
        assert_eq!(asking.get(number(1)).unwrap().dmabuf, Some(two));
    }
}
