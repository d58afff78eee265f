//! [`MemberCache`]: which dma-buf a file knows under which handle. The seed walks a list, newest entry first; Linux 7.2
//! looks up by either key. It counts no references: who adds or removes an entry does.

use std::{collections::HashMap, hash::Hash};

use super::DmaBufKey;

/// One entry, which holds a reference on its dma-buf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) dmabuf: DmaBufKey,
    pub(super) handle: u32,
}

#[derive(Debug)]
pub(super) enum MemberCache {
    /// Newest last: walked from the end.
    List(Vec<Member>),
    /// A dma-buf can have several handles (GETFB2 makes more, row I5); the kernel then finds any of them, this the oldest.
    Keyed { by_handle: HashMap<u32, Vec<DmaBufKey>>, by_dmabuf: HashMap<DmaBufKey, Vec<u32>> },
}

impl MemberCache {
    pub(super) fn new(list: bool) -> Self {
        if list {
            Self::List(Vec::new())
        } else {
            Self::Keyed { by_handle: HashMap::new(), by_dmabuf: HashMap::new() }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::List(members) => members.len(),
            Self::Keyed { by_dmabuf, .. } => by_dmabuf.values().map(Vec::len).sum(),
        }
    }

    pub(super) fn add(&mut self, member: Member) {
        match self {
            Self::List(members) => members.push(member),
            Self::Keyed { by_handle, by_dmabuf } => {
                by_handle.entry(member.handle).or_default().push(member.dmabuf);
                by_dmabuf.entry(member.dmabuf).or_default().push(member.handle);
            }
        }
    }

    /// The handle of a dma-buf.
    pub(super) fn handle_of(&self, dmabuf: DmaBufKey) -> Option<u32> {
        match self {
            Self::List(members) => {
                members.iter().rev().find(|member| member.dmabuf == dmabuf).map(|member| member.handle)
            }
            Self::Keyed { by_dmabuf, .. } => by_dmabuf.get(&dmabuf)?.first().copied(),
        }
    }

    /// The dma-buf of a handle.
    pub(super) fn dmabuf_of(&self, handle: u32) -> Option<DmaBufKey> {
        match self {
            Self::List(members) => {
                members.iter().rev().find(|member| member.handle == handle).map(|member| member.dmabuf)
            }
            Self::Keyed { by_handle, .. } => by_handle.get(&handle)?.first().copied(),
        }
    }

    /// All dma-bufs of a handle: more than one only where an entry was left behind.
    pub(super) fn dmabufs_of(&self, handle: u32) -> Vec<DmaBufKey> {
        match self {
            Self::List(members) => {
                members.iter().filter(|member| member.handle == handle).map(|member| member.dmabuf).collect()
            }
            Self::Keyed { by_handle, .. } => by_handle.get(&handle).cloned().unwrap_or_default(),
        }
    }

    /// Unlinks one entry of a handle.
    pub(super) fn remove_handle(&mut self, handle: u32) -> Option<DmaBufKey> {
        match self {
            Self::List(members) => {
                let at = members.iter().rposition(|member| member.handle == handle)?;
                Some(members.remove(at).dmabuf)
            }
            Self::Keyed { by_handle, by_dmabuf } => {
                let dmabuf = *by_handle.get(&handle)?.first()?;
                take(by_handle, handle, dmabuf);
                take(by_dmabuf, dmabuf, handle);
                Some(dmabuf)
            }
        }
    }

    /// Unlinks every entry of a dma-buf; says how many there were.
    pub(super) fn remove_dmabuf(&mut self, dmabuf: DmaBufKey) -> usize {
        match self {
            Self::List(members) => {
                let before = members.len();
                members.retain(|member| member.dmabuf != dmabuf);
                before - members.len()
            }
            Self::Keyed { by_handle, by_dmabuf } => {
                let handles = by_dmabuf.remove(&dmabuf).unwrap_or_default();
                for handle in &handles {
                    take(by_handle, *handle, dmabuf);
                }
                handles.len()
            }
        }
    }

    /// All dma-bufs of the cache, one per entry.
    pub(super) fn dmabufs(&self) -> Vec<DmaBufKey> {
        match self {
            Self::List(members) => members.iter().map(|member| member.dmabuf).collect(),
            Self::Keyed { by_dmabuf, .. } => {
                by_dmabuf.iter().flat_map(|(key, handles)| handles.iter().map(|_| *key)).collect()
            }
        }
    }
}

/// Takes one `value` from under `key`.
fn take<K: Copy + Eq + Hash, V: PartialEq>(map: &mut HashMap<K, Vec<V>>, key: K, value: V) {
    let Some(values) = map.get_mut(&key) else { return };
    if let Some(at) = values.iter().position(|other| *other == value) {
        values.remove(at);
    }
    if values.is_empty() {
        map.remove(&key);
    }
}
