//! Fault points inside the model: a named step can be told to fail once, with an errno, at its n-th use. What the
//! failure unwinds is the business of the step's caller.

use std::collections::HashMap;

use rustix::io::Errno;

/// A step that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultPoint {
    /// Reservation of a descriptor (`get_unused_fd_flags`).
    FdReserve,
    /// Allocation of a GEM object.
    ObjectAlloc,
    /// Allocation of a handle's number (`idr_alloc`).
    HandleAlloc,
    /// Permission to map the handle (`drm_vma_node_allow`), after its number exists.
    HandleAllow,
    /// The driver's export callback.
    DriverExport,
    /// Allocation of a dma-buf (`dma_buf_export`).
    DmabufAlloc,
    /// Allocation of a cache entry (`drm_prime_add_buf_handle`).
    MemberAlloc,
    /// Allocation of an attachment (`dma_buf_attach`).
    AttachmentAlloc,
    /// Allocation of an attachment's private data (the seed's `drm_gem_map_attach`).
    PrivAlloc,
    /// The exporter's pin callback.
    Pin,
    /// The exporter's table of pages (`get_sg_table`).
    GetSgTable,
    /// Each allocation while that table is built.
    SgAlloc,
    /// Mapping the table for the importer's device (`dma_map_sgtable`).
    DmaMap,
    /// The importer's driver callback, with or without a table.
    DriverImport,
    /// The exporter's vmap callback.
    Vmap,
    /// Allocation of pages for a mapping.
    Pages,
    /// Allocation of a vgem fence.
    FenceAlloc,
    /// Room for a fence on a buffer (`dma_resv_reserve_fences`).
    ResvAlloc,
    /// Allocation of a sync file.
    SyncFileAlloc,
    /// Allocation of a framebuffer.
    FramebufferAlloc,
    /// Allocation of a framebuffer's id.
    FramebufferId,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: HashMap<FaultPoint, Vec<(u64, Errno)>>,
}

impl Faults {
    /// Lets the `nth` use from now (the first is 1) fail; 0 counts as 1.
    pub(super) fn arm(&mut self, point: FaultPoint, nth: u64, errno: Errno) {
        self.armed.entry(point).or_default().push((nth.max(1), errno));
    }

    pub(super) fn clear(&mut self) {
        self.armed.clear();
    }

    /// Number of faults still to come.
    pub(super) fn pending(&self) -> usize {
        self.armed.values().map(Vec::len).sum()
    }

    /// Counts one use.
    pub(super) fn hit(&mut self, point: FaultPoint) -> Result<(), Errno> {
        if self.armed.is_empty() {
            return Ok(());
        }
        let Some(armed) = self.armed.get_mut(&point) else { return Ok(()) };
        let mut failure = None;
        armed.retain_mut(|(left, errno)| {
            *left -= 1;
            if *left == 0 {
                failure.get_or_insert(*errno);
            }
            *left > 0
        });
        if armed.is_empty() {
            self.armed.remove(&point);
        }
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_use_fails_once() {
        let mut faults = Faults::default();
        faults.arm(FaultPoint::Pin, 2, Errno::IO);
        faults.arm(FaultPoint::Pin, 3, Errno::NOMEM);
        let mut uses = || faults.hit(FaultPoint::Pin);
        assert_eq!([uses(), uses(), uses(), uses()], [Ok(()), Err(Errno::IO), Err(Errno::NOMEM), Ok(())]);
        assert_eq!(faults.pending(), 0);
    }
}
