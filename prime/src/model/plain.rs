//! What a dma-buf's file answers to calls that are not for dma-bufs (dma-buf.c has no such operations; fs/read_write.c,
//! fs/open.c), and the file's own flags.

use rustix::io::Errno;

use super::descriptor::DmabufFd;

impl DmabufFd {
    /// `read`.
    ///
    /// # Errors
    /// `EINVAL` always.
    pub fn read_bytes(&self) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// `write`.
    ///
    /// # Errors
    /// `EBADF` for what was exported for reading; `EINVAL`.
    pub fn write_bytes(&self) -> Result<(), Errno> {
        Err(if self.writable() { Errno::INVAL } else { Errno::BADF })
    }

    /// `ftruncate`.
    ///
    /// # Errors
    /// `EINVAL` always.
    pub fn truncate(&self, _len: u64) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// An ioctl that dma-bufs do not have.
    ///
    /// # Errors
    /// `ENOTTY` always.
    pub fn unknown_ioctl(&self) -> Result<(), Errno> {
        Err(Errno::NOTTY)
    }

    /// `open` of its link in `/proc/self/fd`.
    ///
    /// # Errors
    /// `EMFILE`; `ENXIO` otherwise: so an inode stands for one open file.
    pub fn reopen(&self) -> Result<Self, Errno> {
        let mut state = self.machine().state();
        state.reserve_fd()?;
        state.descriptors -= 1;
        Err(Errno::NXIO)
    }

    /// Whether `O_NONBLOCK` is set: on the file, so for all descriptors of the dma-buf.
    #[must_use]
    pub fn nonblocking(&self) -> bool {
        self.machine().state().dmabufs.get(self.key()).is_some_and(|dmabuf| dmabuf.nonblocking)
    }

    /// Sets or clears `O_NONBLOCK`.
    pub fn set_nonblocking(&self, on: bool) {
        if let Some(dmabuf) = self.machine().state().dmabufs.get_mut(self.key()) {
            dmabuf.nonblocking = on;
        }
    }
}
