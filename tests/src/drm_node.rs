//! DRM device nodes of this machine, found by driver name.
//!
//! Owns the file type that the `drm` crate's ioctls run on in tests. Card numbers depend on the order of
//! registration, so nothing here or elsewhere in the tests names a card by number.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use drm::Device as _;
use drm::control::Device as _;
use drm_fourcc::DrmFourcc;

use crate::buffer::Mapping;

/// An open card node.
#[derive(Debug)]
pub struct DrmNode {
    file: File,
    path: PathBuf,
}

impl AsFd for DrmNode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl drm::Device for DrmNode {}
impl drm::control::Device for DrmNode {}

impl DrmNode {
    /// Opens a card node by path.
    ///
    /// # Errors
    ///
    /// When the node cannot be opened for reading and writing.
    pub fn open(path: &Path) -> Result<DrmNode> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(DrmNode { file, path: path.to_owned() })
    }

    /// Opens the first card node of a driver, `vgem` for example.
    ///
    /// # Errors
    ///
    /// When no card of this machine has that driver, or the node cannot be opened.
    pub fn of_driver(driver: &str) -> Result<DrmNode> {
        let mut seen = Vec::new();
        for path in card_nodes()? {
            let Ok(node) = DrmNode::open(&path) else { continue };
            let name = node.driver()?;
            if name == driver {
                return Ok(node);
            }
            seen.push(name);
        }
        bail!("no DRM card of driver {driver} here (found: {})", seen.join(" "))
    }

    /// Opens the card that shows pictures: vkms, or virtio-gpu in the emulated guest.
    ///
    /// # Errors
    ///
    /// When there is neither.
    pub fn of_display() -> Result<DrmNode> {
        DrmNode::of_driver("vkms").or_else(|_| DrmNode::of_driver("virtio_gpu"))
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The driver's name by `DRM_IOCTL_VERSION`.
    ///
    /// # Errors
    ///
    /// The ioctl's error.
    pub fn driver(&self) -> Result<String> {
        let driver = self.get_driver().context("DRM_IOCTL_VERSION")?;
        Ok(driver.name().to_string_lossy().into_owned())
    }

    /// Allocates `size` bytes as a dumb buffer and exports them. The GEM handle is closed again: the returned
    /// dma-buf is the only reference.
    ///
    /// # Errors
    ///
    /// The error of the ioctl that failed.
    pub fn dumb_dmabuf(&self, size: u64) -> Result<OwnedFd> {
        const ROW: u32 = 4096;
        let rows = u32::try_from(size.div_ceil(u64::from(ROW))).context("dumb buffer too large")?;
        // Pixels of 32 bits: virtio-gpu makes no others.
        let dumb =
            self.create_dumb_buffer((ROW / 4, rows), DrmFourcc::Xrgb8888, 32).context("CREATE_DUMB")?;
        let fd = self.buffer_to_prime_fd(drm::buffer::Buffer::handle(&dumb), drm::CLOEXEC | drm::RDWR);
        self.destroy_dumb_buffer(dumb).context("DESTROY_DUMB")?;
        fd.context("PRIME_HANDLE_TO_FD")
    }

    /// Maps a dma-buf that this device exported, for writing even when its descriptor is read-only: the device's
    /// own handle of it can be mapped as a dumb buffer, a foreign one cannot.
    ///
    /// # Errors
    ///
    /// When it is not this device's memory, or an ioctl fails.
    pub fn map_own_dmabuf(&self, dmabuf: BorrowedFd<'_>, size: u64) -> Result<Mapping> {
        let handle = self.prime_fd_to_buffer(dmabuf).context("PRIME_FD_TO_HANDLE")?;
        let mapping = drm_ffi::mode::dumbbuffer::map(self.as_fd(), handle.into(), 0, 0)
            .and_then(|map| Mapping::of_dumb(self.as_fd(), size, map.offset));
        // The mapping holds the memory; the handle is of this file alone.
        self.close_buffer(handle).context("GEM_CLOSE")?;
        mapping.context("MAP_DUMB")
    }
}

/// The card nodes in `/dev/dri`, sorted.
///
/// # Errors
///
/// When `/dev/dri` cannot be listed.
pub fn card_nodes() -> Result<Vec<PathBuf>> {
    let mut nodes: Vec<PathBuf> = std::fs::read_dir("/dev/dri")
        .context("cannot list /dev/dri")?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("card")))
        .collect();
    nodes.sort();
    Ok(nodes)
}
