//! The ledger of the PRIME file in the words of the control socket. It only translates.

use drm_prime::Ledger;
use drm_prime::ledger::{DescriptorEntry, FramebufferEntry, HandleEntry, HolderEntry};
use serde::{Deserialize, Serialize};

use crate::backend::buffers::origin_text;

/// Everything that is open on the PRIME file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerReport {
    /// The device's number (`st_rdev`).
    pub device: u64,
    /// GEM handles, by number.
    pub handles: Vec<HandleReport>,
    /// Framebuffers, by number.
    pub framebuffers: Vec<FramebufferReport>,
    /// Open descriptors of the device, by number.
    pub descriptors: Vec<DescriptorReport>,
}

/// A GEM handle.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct HandleReport {
    /// Its number.
    pub handle: u32,
    /// References on it; 0 for one that the device would not close.
    pub references: usize,
    /// Where its memory comes from.
    pub origin: String,
    /// Inode number of its dma-buf.
    pub inode: Option<u64>,
    /// Milliseconds since it was obtained.
    pub age_ms: u64,
    /// For whom it is open.
    pub holders: Vec<HolderReport>,
}

/// One owner's share of a handle.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct HolderReport {
    /// Who.
    pub owner: String,
    /// References in that name.
    pub references: usize,
    /// Milliseconds since the oldest of them was taken.
    pub age_ms: u64,
}

/// A framebuffer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct FramebufferReport {
    /// Its number, as debugfs has it.
    pub fb: u32,
    /// For whom it was made.
    pub owner: String,
    /// Milliseconds since it was made.
    pub age_ms: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Its fourcc.
    pub format: String,
    /// The number of its modifier.
    pub modifier: u64,
    /// Given up, but the device would not close it.
    pub unclosed: bool,
}

/// A descriptor.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct DescriptorReport {
    /// Its number.
    pub descriptor: i32,
    /// For whom it is open.
    pub owner: String,
    /// Milliseconds since it was opened.
    pub age_ms: u64,
}

fn millis(age: std::time::Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

impl From<Ledger> for LedgerReport {
    fn from(ledger: Ledger) -> Self {
        Self {
            device: ledger.device,
            handles: ledger.handles.into_iter().map(HandleReport::from).collect(),
            framebuffers: ledger.framebuffers.into_iter().map(FramebufferReport::from).collect(),
            descriptors: ledger.descriptors.into_iter().map(DescriptorReport::from).collect(),
        }
    }
}

impl From<HandleEntry> for HandleReport {
    fn from(entry: HandleEntry) -> Self {
        Self {
            handle: entry.handle.get(),
            references: entry.references,
            origin: origin_text(&entry.origin),
            inode: entry.dmabuf.map(|dmabuf| dmabuf.ino),
            age_ms: millis(entry.age),
            holders: entry.holders.into_iter().map(HolderReport::from).collect(),
        }
    }
}

impl From<HolderEntry> for HolderReport {
    fn from(entry: HolderEntry) -> Self {
        let HolderEntry { owner, references, age } = entry;
        Self { owner: owner.to_string(), references, age_ms: millis(age) }
    }
}

impl From<FramebufferEntry> for FramebufferReport {
    fn from(entry: FramebufferEntry) -> Self {
        Self {
            fb: entry.name.number(),
            owner: entry.owner.to_string(),
            age_ms: millis(entry.age),
            width: entry.width,
            height: entry.height,
            format: entry.format.to_string(),
            modifier: entry.modifier.into(),
            unclosed: entry.unclosed,
        }
    }
}

impl From<DescriptorEntry> for DescriptorReport {
    fn from(entry: DescriptorEntry) -> Self {
        let DescriptorEntry { descriptor, owner, age } = entry;
        Self { descriptor, owner: owner.to_string(), age_ms: millis(age) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use drm_prime::{DmabufId, Origin, Owner};
    use serde_json::json;

    use super::*;

    #[test]
    fn every_line_has_its_owner_and_age() {
        let owner = Owner::new("client 7");
        let age = Duration::from_micros(1500);
        let holder = HolderEntry { owner: owner.clone(), references: 2, age };
        let ledger = Ledger {
            device: 0xe200,
            handles: vec![HandleEntry {
                handle: NonZeroU32::MIN,
                references: 2,
                origin: Origin::Owned,
                dmabuf: Some(DmabufId { dev: 1, ino: 99 }),
                age: 2 * age,
                holders: vec![holder],
            }],
            framebuffers: Vec::new(),
            descriptors: vec![DescriptorEntry { descriptor: 9, owner, age: Duration::MAX }],
        };
        let report = LedgerReport::from(ledger);
        let text = serde_json::to_value(&report).unwrap();
        let expected = json!({
            "device": 0xe200,
            "handles": [{
                "handle": 1, "references": 2, "origin": "own", "inode": 99, "age_ms": 3,
                "holders": [{ "owner": "client 7", "references": 2, "age_ms": 1 }],
            }],
            "framebuffers": [],
            "descriptors": [{ "descriptor": 9, "owner": "client 7", "age_ms": u64::MAX }],
        });
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_value::<LedgerReport>(text).unwrap(), report);
    }
}
