//! What Mesa's software driver can reach: it reads and draws by mapping the buffer on its card with MODE_MAP_DUMB.
//!
//! The kernel does that for the card's own memory only, and never on a render node (prime.md: I14, CREATE_DUMB). Mesa 22.3
//! does not look at the failure and crashes in the first draw, so each buffer is tried here before.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use drm_prime::{HandleTable, KernelDevice};
use smithay::backend::allocator::dmabuf::Dmabuf;

use super::StartError;
use super::egl::NodeFile;

/// A file of the software driver's card for trying what it will do on its own one.
#[derive(Debug)]
pub(super) struct SoftwareReach(HandleTable);

impl SoftwareReach {
    /// Opens `node` once more.
    ///
    /// # Errors
    /// When it cannot be opened or imports nothing.
    pub(super) fn open(node: &Path) -> Result<Self, StartError> {
        let file = NodeFile::open(node)?;
        let device = KernelDevice::from_own_file(file.into_fd())
            .map_err(|source| StartError::Prime { node: node.to_owned(), source })?;
        Ok(Self(HandleTable::new(Arc::new(device))))
    }

    /// Tells whether every plane of a buffer can be mapped.
    pub(super) fn reaches(&self, dmabuf: &Dmabuf) -> bool {
        dmabuf.num_planes() > 0 && dmabuf.handles().all(|fd| self.maps(fd))
    }

    fn maps(&self, fd: BorrowedFd<'_>) -> bool {
        let page = rustix::param::page_size();
        self.0.import(fd).is_ok_and(|handle| self.0.device().map_dumb(handle.raw(), page).is_ok())
    }
}
