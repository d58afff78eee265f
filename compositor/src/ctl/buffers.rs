//! `buffers`: one row for each owner of memory: buffers, bytes, framebuffers, GEM handles, files, where the memory comes from.
//!
//! It owns the report and how it is collected; the numbers are those of the ledger and of the quotas.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smithay::reexports::wayland_server::Resource as _;

use super::identity::{Identity, surfaces};
use crate::backend::buffers::origin_text;
use crate::clients::{ClientState, owner};
use crate::state::State;

/// What everybody holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuffersReport {
    /// By owner.
    pub owners: Vec<OwnerBuffers>,
}

/// What one owner holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerBuffers {
    /// Its name in the ledger: `client PID`, `composition` …
    pub owner: String,
    /// App ids of its windows.
    pub app_ids: Vec<String>,
    /// Its dma-buf wl_buffers that are imported.
    pub dmabufs: usize,
    /// Its wl_shm wl_buffers.
    pub shm_buffers: u64,
    /// Bytes of its dma-bufs, each counted once; of composition, of what it draws into.
    pub bytes: u64,
    /// Framebuffers.
    pub framebuffers: usize,
    /// GEM handles of the PRIME file.
    pub handles: usize,
    /// Files of the compositor that are open because of it.
    pub files: u64,
    /// Where the memory of its handles comes from, with how many of them.
    pub origins: BTreeMap<String, usize>,
    /// Milliseconds since the oldest of its handles was opened.
    pub oldest_ms: Option<u64>,
}

/// Collects the rows.
pub fn buffers(state: &State) -> BuffersReport {
    let mut owners: BTreeMap<String, OwnerBuffers> = BTreeMap::new();
    let row = |owners: &mut BTreeMap<String, OwnerBuffers>, name: &str, f: &dyn Fn(&mut OwnerBuffers)| {
        let entry = owners.entry(name.to_owned());
        f(entry.or_insert_with(|| OwnerBuffers { owner: name.to_owned(), ..OwnerBuffers::default() }));
    };
    // Nobody asks when a buffer is imported: it costs four system calls.
    state.backend.buffers().name_origins();
    let ledger = state.backend.buffers().ledger();
    for handle in &ledger.handles {
        for holder in &handle.holders {
            let age = u64::try_from(holder.age.as_millis()).unwrap_or(u64::MAX);
            row(&mut owners, &holder.owner.to_string(), &|row| {
                row.handles += 1;
                row.oldest_ms = row.oldest_ms.max(Some(age));
                *row.origins.entry(origin_text(&handle.origin)).or_default() += 1;
            });
        }
    }
    for fb in &ledger.framebuffers {
        let of_client = fb.owner.as_str().starts_with("client ");
        row(&mut owners, &fb.owner.to_string(), &|row| {
            row.framebuffers += 1;
            if !of_client {
                row.bytes += picture_bytes(fb.width, fb.height, fb.format);
            }
        });
    }
    for descriptor in &ledger.descriptors {
        row(&mut owners, &descriptor.owner.to_string(), &|row| row.files += 1);
    }
    for (_, by) in state.backend.buffers().of_clients() {
        row(&mut owners, &by.to_string(), &|row| row.dmabufs += 1);
    }
    let mut counted = Vec::new();
    for surface in surfaces(state) {
        let Some(client) = surface.client() else { continue };
        let (name, who) = (owner(&client).to_string(), Identity::of(&surface, &state.shell));
        let usage = ClientState::of(&client).map(|data| (data.number(), data.usage()));
        row(&mut owners, &name, &|row| {
            if let Some(app_id) = who.app_id.clone().filter(|id| !row.app_ids.contains(id)) {
                row.app_ids.push(app_id);
            }
            if let Some((_, usage)) = usage.as_ref().filter(|(number, _)| !counted.contains(number)) {
                row.bytes += usage.bytes;
                row.shm_buffers += usage.shm_buffers;
                row.files += usage.planes + usage.pools + usage.shm_buffers;
            }
        });
        counted.extend(usage.map(|(number, _)| number));
    }
    BuffersReport { owners: owners.into_values().collect() }
}

fn picture_bytes(width: u32, height: u32, format: drm_fourcc::DrmFourcc) -> u64 {
    drm_prime::format::info(format).map_or(0, |info| {
        (0..info.plane_count()).map(|p| info.min_stride(p, width) * info.plane_rows(p, height)).sum()
    })
}
