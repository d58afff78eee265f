//! `UDMABUF_CREATE` (udmabuf.c): what it looks at, in its order, before there is a dma-buf. The exporter itself is in
//! [`super::dmabuf`].

use rustix::io::Errno;

use super::{
    Machine,
    descriptor::DmabufFd,
    dmabuf::{self, PAGE_SIZE},
};

/// What `UDMABUF_CREATE` is given for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdmabufMemory {
    /// A memfd.
    Memfd {
        /// Its size in bytes.
        size: u64,
        /// `F_SEAL_SHRINK`, which must be there.
        seal_shrink: bool,
        /// `F_SEAL_WRITE`, which must not.
        seal_write: bool,
    },
    /// A descriptor of something else, or no descriptor.
    NotMemory,
}

/// Of all of a machine's udmabufs' modules, `size_limit_mb` is the default.
const LIMIT: u64 = 64 << 20;

impl Machine {
    /// Makes a dma-buf of `size` bytes from `offset` of some memory.
    ///
    /// # Errors
    /// In this order: `EINVAL` for an offset or a size that is no page multiple, for no size and more than 64 MiB; `EBADFD` for
    /// what is no memfd; `EINVAL` for its seals and for a range past its end; `ENOMEM`, `EMFILE`.
    pub fn udmabuf_of(&self, memory: UdmabufMemory, offset: u64, size: u64) -> Result<DmabufFd, Errno> {
        let aligned = offset.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
        if !aligned || size == 0 || size > LIMIT {
            return Err(Errno::INVAL);
        }
        let UdmabufMemory::Memfd { size: end, seal_shrink, seal_write } = memory else {
            return Err(Errno::BADFD);
        };
        let fits = offset.checked_add(size).is_some_and(|last| last <= end);
        if !seal_shrink || seal_write || !fits {
            return Err(Errno::INVAL);
        }
        let key = self.call(|call| dmabuf::udmabuf_create(call, size))?;
        Ok(DmabufFd::new(self.clone(), key))
    }
}
