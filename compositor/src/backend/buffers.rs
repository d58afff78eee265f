//! The buffers of a backend's device: imported client buffers and their framebuffers.
//!
//! It owns the table of GEM handles and which framebuffer belongs to which `wl_buffer`. Client buffers are imported
//! when they are created, framebuffers are made at first use; both go with the `wl_buffer`, except for what a
//! frame still shows.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{FramebufferRefusal, Refusal};
use drm_prime::{
    Acquisition, BufferPlane, DeviceError, Dmabuf as PrimeDmabuf, DumbBuffer, Framebuffer, FramebufferCache,
    GemDevice, GemHandle, HandleTable, KernelDevice, LayoutError, Ledger, LinearExporters, Origin, Owner,
    SharedFramebuffer, Timelines,
};
use rustix::io::Errno;
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};

/// The buffers of one device.
#[derive(Debug)]
pub struct Buffers {
    table: HandleTable,
    acquisition: &'static str,
    /// Handles of every `wl_buffer`, held from its creation on.
    imported: HashMap<WeakDmabuf, Vec<GemHandle>>,
    /// Those among them whose import the device was too busy for, with their owners.
    postponed: HashMap<WeakDmabuf, Owner>,
    framebuffers: FramebufferCache<WeakDmabuf>,
    exporters: LinearExporters,
    /// What composition draws into is exported as well.
    share_targets: bool,
    timelines: Option<Timelines>,
}

impl Buffers {
    /// Opens the PRIME file of the device that `master` drives.
    ///
    /// # Errors
    /// When no file description of its own can be had and sharing is impossible too.
    pub fn of_card(master: &impl AsFd, node: &Path) -> Result<Self, DeviceError> {
        let device = KernelDevice::acquire(master.as_fd(), Some(node))?;
        let acquisition = match device.acquisition() {
            Acquisition::EmptyLease { .. } => "empty-lease",
            Acquisition::SecondOpen => "second-open",
            Acquisition::Degraded => "degraded",
        };
        let timelines = Timelines::of_device(&device);
        let timelines =
            timelines.inspect_err(|err| tracing::debug!(%err, "no timelines on the display's device"));
        Ok(Self { timelines: timelines.ok(), ..Self::new(Arc::new(device), acquisition) })
    }

    /// The buffers of a file that nobody else imports on. `acquisition` says, for people, how it was got.
    pub fn new(device: Arc<dyn GemDevice>, acquisition: &'static str) -> Self {
        tracing::info!(acquisition, "prime file opened");
        let mut buffers = Self::unacquainted(device, acquisition);
        buffers.look_at_exporters();
        buffers
    }

    /// The same, without a look at the machine's exporters.
    pub fn unacquainted(device: Arc<dyn GemDevice>, acquisition: &'static str) -> Self {
        let table = HandleTable::new(device);
        let framebuffers = FramebufferCache::new(table.clone());
        Self {
            table,
            acquisition,
            imported: HashMap::new(),
            postponed: HashMap::new(),
            framebuffers,
            exporters: LinearExporters::default(),
            share_targets: false,
            timelines: None,
        }
    }

    /// How the PRIME file was got, for people.
    pub fn acquisition(&self) -> &'static str {
        self.acquisition
    }

    /// The timelines of the PRIME file, if its driver has them.
    pub fn timelines(&self) -> Option<&Timelines> {
        self.timelines.as_ref()
    }

    /// Has what is drawn into from now on exported for a GPU, or no longer.
    pub fn share_targets(&mut self, share: bool) {
        self.share_targets = share;
    }

    /// Tells whether what is drawn into is to be exported for a GPU.
    pub fn shares_targets(&self) -> bool {
        self.share_targets
    }

    /// Looks again which DRM drivers there are: needed when a device came or went.
    pub fn look_at_exporters(&mut self) {
        match LinearExporters::scan() {
            Ok(exporters) => self.exporters = exporters,
            Err(err) => tracing::warn!(%err, "cannot tell which exporters are linear"),
        }
    }

    /// Has the machine's exporters be what they are said to be, until somebody looks again.
    pub fn suppose_exporters(&mut self, exporters: LinearExporters) {
        self.exporters = exporters;
    }

    /// Tells whether the device may take a descriptor for a buffer; its file lives on the device `dev`.
    pub fn is_dmabuf(&self, fd: BorrowedFd<'_>, dev: u64) -> bool {
        self.table.device().is_dmabuf_on(fd, dev).unwrap_or(false)
    }

    /// Tells whether a buffer of unspecified layout is known to be laid out in plain rows. What no driver of the kernel
    /// exported is.
    pub fn is_linear(&self, fd: BorrowedFd<'_>) -> bool {
        if !drm_prime::is_dmabuf(fd).unwrap_or(true) {
            return true;
        }
        match self.exporters.judge(fd) {
            Ok(linearity) => linearity.is_linear(),
            Err(err) => {
                tracing::debug!(%err, "exporter not known");
                false
            }
        }
    }

    /// The table of the device's handles.
    pub fn table(&self) -> &HandleTable {
        &self.table
    }

    /// Keeps the handles of a buffer's planes open until it is forgotten.
    pub fn keep(&mut self, dmabuf: &Dmabuf, handles: Vec<GemHandle>) {
        // Imported by a device that went away meanwhile: this one imports the buffer at first use.
        if handles.iter().any(|handle| !handle.shares_table_with(&self.table)) {
            return;
        }
        self.imported.insert(dmabuf.weak(), handles);
    }

    /// Tells whether a buffer's planes are imported.
    pub fn is_imported(&self, dmabuf: &Dmabuf) -> bool {
        self.imported.contains_key(&dmabuf.weak())
    }

    /// Has a buffer imported when it is about to be shown.
    pub fn postpone(&mut self, dmabuf: &Dmabuf, owner: Owner) {
        self.postponed.insert(dmabuf.weak(), owner);
    }

    /// Imports a postponed buffer, unless the device is still busy.
    fn make_up_for(&mut self, dmabuf: &Dmabuf, key: &WeakDmabuf) -> Result<(), Refusal> {
        let Some(owner) = self.postponed.get(key) else { return Ok(()) };
        let table = self.table.owned_by(owner.clone());
        let handles: Result<Option<Vec<_>>, _> = dmabuf.handles().map(|fd| table.try_import(fd)).collect();
        // What the device refuses, it refuses again when the framebuffer is made, and says why.
        if let Ok(handles) = handles {
            self.keep(dmabuf, handles.ok_or(Refusal::Importing)?);
        }
        self.postponed.remove(key);
        Ok(())
    }

    /// The framebuffer of a buffer, made at first use. A known buffer costs no system call.
    ///
    /// # Errors
    /// Why there is none, remembered unless the system was at fault.
    pub fn framebuffer(&mut self, dmabuf: &Dmabuf, opaque: bool) -> Result<SharedFramebuffer, Refusal> {
        let format = dmabuf.format();
        if format.modifier == DrmModifier::Invalid {
            // A layout that only the GPU's driver knows, which an AddFB without a modifier would have to guess.
            return Err(Refusal::Format { format: format.code, modifier: format.modifier.into() });
        }
        let key = dmabuf.weak();
        if let Some(known) = self.framebuffers.get(&key, opaque) {
            return known.map_err(|err| Refusal::Framebuffer(FramebufferRefusal(err)));
        }
        if !self.postponed.is_empty() {
            self.make_up_for(dmabuf, &key)?;
        }
        let owner = self.imported.get(&key).and_then(|handles| handles.first()).map(GemHandle::owner);
        let owner = owner.cloned().unwrap_or_default();
        let made = self.framebuffers.get_or_make(key, opaque, |table| {
            Framebuffer::new(&table.owned_by(owner), &describe(dmabuf)?, opaque)
        });
        made.map_err(|err| Refusal::Framebuffer(FramebufferRefusal(err)))
    }

    /// Forgets a buffer that is gone.
    pub fn forget(&mut self, dmabuf: &WeakDmabuf) {
        self.imported.remove(dmabuf);
        self.postponed.remove(dmabuf);
        self.framebuffers.remove(dmabuf);
    }

    /// The clients' buffers whose planes are imported, with their owners.
    pub fn of_clients(&self) -> impl Iterator<Item = (Dmabuf, &Owner)> {
        let imported = self.imported.iter();
        imported.filter_map(|(dmabuf, handles)| Some((dmabuf.upgrade()?, handles.first()?.owner())))
    }

    /// Where the buffer comes from.
    pub fn origin(&self, dmabuf: &Dmabuf) -> Option<String> {
        let handle = self.imported.get(&dmabuf.weak())?.first()?;
        Some(origin_text(handle.origin()))
    }

    /// Asks for the exporter of every imported buffer that nobody has asked for; the ledger names it from then on.
    pub fn name_origins(&self) {
        self.imported.values().flatten().for_each(|handle| {
            let _ = handle.origin();
        });
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
    ) -> Result<(DumbBuffer, Framebuffer), Errno> {
        let table = self.table.owned_by("composition");
        let buffer = table.create_dumb(width, height, 32).map_err(|err| {
            tracing::error!(%err, width, height, "cannot allocate a dumb buffer");
            Errno::NOMEM
        })?;
        let framebuffer = Framebuffer::for_dumb(&table, &buffer, format).map_err(|err| {
            tracing::error!(%err, %format, "no framebuffer for a dumb buffer");
            Errno::INVAL
        })?;
        Ok((buffer, framebuffer))
    }

    /// Live GEM handles, and framebuffers of client buffers.
    pub fn resources(&self) -> (usize, usize) {
        (self.table.stats().handles, self.framebuffers.framebuffers())
    }

    /// Everything that is open on the device's file, with owners and ages.
    pub fn ledger(&self) -> Ledger {
        self.table.ledger()
    }
}

/// An origin in the words of `explain`.
pub(crate) fn origin_text(origin: &Origin) -> String {
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
fn describe(dmabuf: &Dmabuf) -> Result<PrimeDmabuf<'_>, LayoutError> {
    let planes: Vec<BufferPlane<'_>> = dmabuf
        .handles()
        .zip(dmabuf.offsets().zip(dmabuf.strides()))
        .map(|(fd, (offset, stride))| BufferPlane { fd, offset, stride })
        .collect();
    let (size, format) = (dmabuf.size(), dmabuf.format());
    PrimeDmabuf::new(size.w.max(0) as u32, size.h.max(0) as u32, format.code, format.modifier, &planes)
}
