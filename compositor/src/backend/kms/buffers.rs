//! The PRIME file of the card: imported client buffers and their framebuffers.
//!
//! It owns the table of GEM handles and which framebuffer belongs to which `wl_buffer`. Client buffers are imported
//! when they are created, framebuffers are made at first use; both go with the `wl_buffer`, except for what a
//! frame still shows.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::Refusal;
use drm_prime::{
    Acquisition, BufferPlane, DeviceError, Dmabuf as PrimeDmabuf, DumbBuffer, Framebuffer, GemHandle,
    HandleTable, KernelDevice, Origin,
};
use rustix::io::Errno;
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};

/// What is kept for one `wl_buffer`.
#[derive(Debug, Default)]
struct Entry {
    handles: Vec<GemHandle>,
    /// Framebuffers with and without alpha (index 1: opaque); a refusal is remembered too.
    framebuffers: [Option<Result<Arc<Framebuffer>, Refusal>>; 2],
}

/// The buffers of one device.
#[derive(Debug)]
pub struct Buffers {
    table: HandleTable,
    acquisition: &'static str,
    entries: HashMap<WeakDmabuf, Entry>,
}

impl Buffers {
    /// Opens the PRIME file of the device that `master` drives.
    ///
    /// # Errors
    /// When no file description of its own can be had and sharing is impossible too.
    pub fn new(master: &impl AsFd, node: &Path) -> Result<Self, DeviceError> {
        let device = KernelDevice::acquire(master.as_fd(), Some(node))?;
        let acquisition = match device.acquisition() {
            Acquisition::EmptyLease { .. } => "empty-lease",
            Acquisition::SecondOpen => "second-open",
            Acquisition::Degraded => "degraded",
        };
        tracing::info!(acquisition, "prime file opened");
        Ok(Self { table: HandleTable::new(Arc::new(device)), acquisition, entries: HashMap::new() })
    }

    /// How the PRIME file was got, for people.
    pub fn acquisition(&self) -> &'static str {
        self.acquisition
    }

    /// Imports every plane of a buffer into the PRIME file.
    ///
    /// # Errors
    /// The driver's refusal.
    pub fn import(&mut self, dmabuf: &Dmabuf) -> Result<(), Refusal> {
        let mut handles = Vec::with_capacity(dmabuf.num_planes());
        for fd in dmabuf.handles() {
            handles
                .push(self.table.import(fd).map_err(|err| Refusal::Framebuffer { reason: err.to_string() })?);
        }
        self.entries.entry(dmabuf.weak()).or_default().handles = handles;
        Ok(())
    }

    /// The framebuffer of a buffer, made at first use.
    ///
    /// # Errors
    /// Why there is none, remembered.
    pub fn framebuffer(&mut self, dmabuf: &Dmabuf, opaque: bool) -> Result<Arc<Framebuffer>, Refusal> {
        let entry = self.entries.entry(dmabuf.weak()).or_default();
        let slot = &mut entry.framebuffers[usize::from(opaque)];
        slot.get_or_insert_with(|| {
            let result = describe(dmabuf)
                .and_then(|d| {
                    Framebuffer::new(&self.table, &d, opaque)
                        .map_err(|err| Refusal::Framebuffer { reason: err.to_string() })
                })
                .map(Arc::new);
            match &result {
                Ok(fb) => tracing::debug!(fb = fb.id().get(), format = %fb.format(), "framebuffer created"),
                Err(reason) => tracing::debug!(%reason, "framebuffer refused"),
            }
            result
        })
        .clone()
    }

    /// Forgets a buffer and every other one that is gone by now.
    pub fn forget(&mut self, dmabuf: &Dmabuf) {
        self.entries.remove(&dmabuf.weak());
        self.entries.retain(|weak, _| !weak.is_gone());
    }

    /// Where the buffer comes from.
    pub fn origin(&self, dmabuf: &Dmabuf) -> Option<String> {
        let handle = self.entries.get(&dmabuf.weak())?.handles.first()?;
        Some(origin_text(handle.origin()))
    }

    /// Allocates memory to draw into, with its framebuffer.
    ///
    /// # Errors
    /// When the device has no memory, or refuses the framebuffer.
    pub fn allocate(
        &self,
        width: u32,
        height: u32,
        format: DrmFourcc,
    ) -> Result<(DumbBuffer, Arc<Framebuffer>), Errno> {
        let buffer = self.table.create_dumb(width, height, 32).map_err(|err| {
            tracing::error!(%err, width, height, "cannot allocate a dumb buffer");
            Errno::NOMEM
        })?;
        let framebuffer = Framebuffer::for_dumb(&self.table, &buffer, format).map_err(|err| {
            tracing::error!(%err, %format, "no framebuffer for a dumb buffer");
            Errno::INVAL
        })?;
        Ok((buffer, Arc::new(framebuffer)))
    }

    /// Live GEM handles, and framebuffers of client buffers.
    pub fn resources(&self) -> (usize, usize) {
        let framebuffers = self.entries.values().flat_map(|e| &e.framebuffers);
        (self.table.stats().handles, framebuffers.filter(|f| matches!(f, Some(Ok(_)))).count())
    }
}

/// An origin in the words of `explain`.
fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Owned => "own".to_owned(),
        Origin::Known { first } => format!("known ({})", origin_text(first)),
        Origin::SameProcess { exporter, handle, .. } => {
            format!("same process (device {exporter:#x}, handle {handle})")
        }
        Origin::Foreign { exporter, .. } => {
            format!("foreign ({})", exporter.as_deref().unwrap_or("unknown exporter"))
        }
    }
}

/// Describes a client's buffer to the PRIME library.
fn describe(dmabuf: &Dmabuf) -> Result<PrimeDmabuf<'_>, Refusal> {
    let planes: Vec<BufferPlane<'_>> = dmabuf
        .handles()
        .zip(dmabuf.offsets().zip(dmabuf.strides()))
        .map(|(fd, (offset, stride))| BufferPlane { fd, offset, stride })
        .collect();
    let (size, format) = (dmabuf.size(), dmabuf.format());
    let modifier: DrmModifier = format.modifier;
    PrimeDmabuf::new(size.w.max(0) as u32, size.h.max(0) as u32, format.code, modifier, &planes)
        .map_err(|err| Refusal::Framebuffer { reason: err.to_string() })
}
