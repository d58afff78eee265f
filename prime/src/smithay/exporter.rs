//! [`PrimeExporter`]: client buffers and swapchain buffers as framebuffers, each tried once, refusals remembered.
//! It decides nothing about planes, and keeps no framebuffer alive.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use ::smithay::{
    backend::{
        allocator::{
            Buffer,
            dmabuf::{AsDmabuf, Dmabuf, WeakDmabuf},
        },
        drm::{
            self as smithay_drm, DrmDeviceFd,
            exporter::{ExportBuffer, ExportFramebuffer},
        },
    },
    reexports::wayland_server::{DisplayHandle, Resource, protocol::wl_buffer::WlBuffer},
    wayland::dmabuf::get_dmabuf,
};
use drm::control::framebuffer;
use drm_fourcc::{DrmFormat, DrmFourcc, DrmModifier};

use crate::{
    BufferPlane, Dmabuf as PrimeDmabuf, Fault, Framebuffer, FramebufferError, HandleTable, LinearExporters,
    Linearity, Owner, format,
};

/// Why a buffer has no framebuffer here. Clones share the cause.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// `DrmCompositor` drives another device than the one whose handles the exporter keeps.
    #[error("the master's file is device {master:#x}, and framebuffers are made on {device:#x}")]
    OtherDevice {
        /// `st_rdev` of the master's file.
        master: u64,
        /// `st_rdev` of the exporter's device.
        device: u64,
    },
    /// The buffer came without a modifier, and its exporter may have tiled it.
    #[error("the layout of the buffer is known to its exporter only ({0:?})")]
    ImplicitLayout(Linearity),
    /// The device makes no framebuffer of it, its description is wrong, or the system failed.
    #[error(transparent)]
    Framebuffer(Arc<FramebufferError>),
    /// The kernel could not be asked about the buffer or the device.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
}

impl Refusal {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::OtherDevice { .. } | Self::ImplicitLayout(_) => Fault::CannotScanOut,
            Self::Framebuffer(error) => error.fault(),
            Self::System { .. } => Fault::System,
        }
    }

    fn system(action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::System { action, source: Arc::new(source.into()) }
    }
}

impl From<FramebufferError> for Refusal {
    fn from(error: FramebufferError) -> Self {
        Self::Framebuffer(Arc::new(error))
    }
}

/// [`PrimeExporter`] made no framebuffer. `E` is what the buffer's own [`AsDmabuf::export`] fails with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExportError<E> {
    /// The device or its driver does not take the buffer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The allocator's buffer did not become a dma-buf.
    #[error("the allocator's buffer cannot be exported: {0}")]
    Export(E),
}

/// A framebuffer for `DrmCompositor`. Clones share it; the last one closes it with `CLOSEFB`, which leaves planes on that
/// still show it. The GEM handles it was made of are counted in the exporter's table.
#[derive(Debug, Clone)]
pub struct PrimeFramebuffer {
    framebuffer: Arc<Framebuffer>,
    handle: framebuffer::Handle,
    format: DrmFormat,
}

impl PrimeFramebuffer {
    fn new(framebuffer: Arc<Framebuffer>, table: &HandleTable) -> Self {
        // Planes of a device without modifiers list their formats under INVALID, and DrmCompositor compares.
        let modifier = match table.device().supports_modifiers() {
            true => framebuffer.modifier(),
            false => DrmModifier::Invalid,
        };
        let format = DrmFormat { code: framebuffer.format(), modifier };
        Self { handle: framebuffer.id().into(), framebuffer, format }
    }

    /// The framebuffer itself: origin of its memory, handles, size.
    #[must_use]
    pub fn framebuffer(&self) -> &Framebuffer {
        &self.framebuffer
    }
}

impl AsRef<framebuffer::Handle> for PrimeFramebuffer {
    fn as_ref(&self) -> &framebuffer::Handle {
        &self.handle
    }
}

impl smithay_drm::Framebuffer for PrimeFramebuffer {
    fn format(&self) -> DrmFormat {
        self.format
    }
}

/// What became of a client buffer. The framebuffer belongs to those who show it.
#[derive(Debug)]
enum Outcome {
    Made(Weak<Framebuffer>),
    Refused(Refusal),
}

/// A client buffer while it lives, and whether its alpha is ignored.
type Key = (WeakDmabuf, bool);

struct Shared {
    table: HandleTable,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    exporters: LinearExporters,
    outcomes: HashMap<Key, Outcome>,
}

/// Makes framebuffers for smithay's `DrmCompositor`: of client buffers (`wl_buffer`s whose user data is smithay's `Dmabuf`) and
/// of the swapchain's own, of any type that is a dma-buf.
///
/// - Clones share everything: give one to each output of the device, and two outputs share a buffer's framebuffer.
/// - A client buffer is imported once. Its framebuffer lives as long as a compositor or a frame holds it; what is remembered
///   beyond that is the refusal, until the buffer is gone. Failures of the system are not remembered *here*, but `DrmCompositor`
///   remembers any failure for as long as it shows the element.
/// - A wanted opaque substitute that does not exist falls back to the format itself, as smithay's exporters do.
/// - In the table's ledger a client buffer is held by `client PID`, the others by `swapchain`.
/// - A buffer without modifier is taken as linear if its exporter cannot have tiled it ([`LinearExporters`]), else refused.
#[derive(Clone)]
pub struct PrimeExporter(Arc<Shared>);

impl fmt::Debug for PrimeExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrimeExporter").field("table", &self.0.table).finish_non_exhaustive()
    }
}

impl PrimeExporter {
    /// An exporter on a table's device, which must be the device that `DrmCompositor` drives.
    ///
    /// # Errors
    /// As [`LinearExporters::scan`].
    pub fn new(table: HandleTable) -> io::Result<Self> {
        let state = State { exporters: LinearExporters::scan()?, outcomes: HashMap::new() };
        Ok(Self(Arc::new(Shared { table, state: Mutex::new(state) })))
    }

    /// The table whose device the framebuffers are on.
    #[must_use]
    pub fn table(&self) -> &HandleTable {
        &self.0.table
    }

    /// Looks again which DRM drivers there are, after a device came or went, and forgets refusals that rest on it.
    ///
    /// # Errors
    /// As [`LinearExporters::scan`]; nothing has changed then.
    pub fn look_at_exporters(&self) -> io::Result<()> {
        let exporters = LinearExporters::scan()?;
        let mut state = self.state();
        state.exporters = exporters;
        state.outcomes.retain(|_, outcome| !matches!(outcome, Outcome::Refused(Refusal::ImplicitLayout(_))));
        Ok(())
    }

    /// Why a client buffer was refused, if it was; the refusal of the plain format comes before that of its opaque substitute.
    #[must_use]
    pub fn refusal(&self, buffer: &WlBuffer) -> Option<Refusal> {
        self.refusal_of(get_dmabuf(buffer).ok()?)
    }

    /// [`PrimeExporter::refusal`] for the dma-buf behind the `wl_buffer`.
    #[must_use]
    pub fn refusal_of(&self, dmabuf: &Dmabuf) -> Option<Refusal> {
        let state = self.state();
        [false, true].into_iter().find_map(|opaque| state.refused(&(dmabuf.weak(), opaque)))
    }

    /// Client buffers that live and were refused, with the reason; in no order.
    #[must_use]
    pub fn refusals(&self) -> Vec<(Dmabuf, Refusal)> {
        let state = self.state();
        let refused = state.outcomes.iter().filter_map(|((dmabuf, _), outcome)| match outcome {
            Outcome::Refused(refusal) => Some((dmabuf.upgrade()?, refusal.clone())),
            Outcome::Made(_) => None,
        });
        refused.collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs between two changes that belong together.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client_framebuffer(
        &self,
        buffer: &WlBuffer,
        dmabuf: &Dmabuf,
        opaque: bool,
    ) -> Result<PrimeFramebuffer, Refusal> {
        let key = (dmabuf.weak(), opaque);
        let mut state = self.state();
        match state.outcomes.get(&key) {
            Some(Outcome::Refused(refusal)) => return Err(refusal.clone()),
            Some(Outcome::Made(known)) => {
                if let Some(framebuffer) = known.upgrade() {
                    return Ok(PrimeFramebuffer::new(framebuffer, &self.0.table));
                }
            }
            None => {}
        }
        // Buffers that are gone; asked for here because this is where the map grows.
        state.outcomes.retain(|(dmabuf, _), _| !dmabuf.is_gone());
        match make(&self.0.table.owned_by(client_of(buffer)), &state.exporters, dmabuf, opaque) {
            Ok(framebuffer) => {
                let framebuffer = Arc::new(framebuffer);
                state.outcomes.insert(key, Outcome::Made(Arc::downgrade(&framebuffer)));
                Ok(PrimeFramebuffer::new(framebuffer, &self.0.table))
            }
            Err(refusal) => {
                tracing::debug!(err = %refusal, opaque, "client buffer refused");
                if refusal.fault() != Fault::System {
                    state.outcomes.insert(key, Outcome::Refused(refusal.clone()));
                }
                Err(refusal)
            }
        }
    }
}

impl State {
    fn refused(&self, key: &Key) -> Option<Refusal> {
        match self.outcomes.get(key)? {
            Outcome::Refused(refusal) => Some(refusal.clone()),
            Outcome::Made(_) => None,
        }
    }
}

/// The label of a buffer's client in the ledger.
fn client_of(buffer: &WlBuffer) -> Owner {
    let display = buffer.handle().upgrade().map(DisplayHandle::from);
    let credentials = display.and_then(|display| buffer.client()?.get_credentials(&display).ok());
    credentials.map_or_else(|| Owner::new("client"), |client| Owner::new(format!("client {}", client.pid)))
}

/// Imports a buffer and makes a framebuffer, with a modifier that is known.
fn make(
    table: &HandleTable,
    exporters: &LinearExporters,
    dmabuf: &Dmabuf,
    opaque: bool,
) -> Result<Framebuffer, Refusal> {
    let DrmFormat { code, mut modifier } = dmabuf.format();
    if modifier == DrmModifier::Invalid {
        for fd in dmabuf.handles() {
            let linearity =
                exporters.judge(fd).map_err(|err| Refusal::system("find out the exporter", err))?;
            if !linearity.is_linear() {
                return Err(Refusal::ImplicitLayout(linearity));
            }
        }
        modifier = DrmModifier::Linear;
    }
    let layouts = dmabuf.offsets().zip(dmabuf.strides());
    let planes: Vec<_> = dmabuf
        .handles()
        .zip(layouts)
        .map(|(fd, (offset, stride))| BufferPlane { fd, offset, stride })
        .collect();
    // A size below 0 becomes one beyond the limit, and is refused as such.
    let size = dmabuf.size();
    let buffer = PrimeDmabuf::new(size.w as u32, size.h as u32, code, modifier, &planes)
        .map_err(FramebufferError::from)?;
    let twin = format::info(code).and_then(|info| DrmFourcc::try_from(info.opaque?).ok());
    let opaque = opaque && twin.is_some();
    Ok(Framebuffer::new(table, &buffer, opaque)?)
}

impl<B: Buffer + AsDmabuf> ExportFramebuffer<B> for PrimeExporter {
    type Framebuffer = PrimeFramebuffer;
    type Error = ExportError<B::Error>;

    /// `Ok(None)` for a `wl_buffer` that is no dma-buf (`wl_shm`, single pixel): there is nothing to import.
    fn add_framebuffer(
        &self,
        drm: &DrmDeviceFd,
        buffer: ExportBuffer<'_, B>,
        use_opaque: bool,
    ) -> Result<Option<PrimeFramebuffer>, ExportError<B::Error>> {
        let master = drm.dev_id().map_err(|errno| Refusal::system("ask for the master's device", errno))?;
        let device = self.0.table.device().dev_id();
        if master != device {
            return Err(Refusal::OtherDevice { master, device }.into());
        }
        match buffer {
            ExportBuffer::Wayland(buffer) => match get_dmabuf(buffer) {
                Ok(dmabuf) => Ok(Some(self.client_framebuffer(buffer, dmabuf, use_opaque)?)),
                Err(_) => Ok(None),
            },
            ExportBuffer::Allocator(buffer) => {
                let dmabuf = buffer.export().map_err(ExportError::Export)?;
                let table = self.0.table.owned_by("swapchain");
                let framebuffer = make(&table, &self.state().exporters, &dmabuf, use_opaque)?;
                Ok(Some(PrimeFramebuffer::new(Arc::new(framebuffer), &self.0.table)))
            }
        }
    }

    /// False for what is no dma-buf, and for a buffer that was refused with and without its alpha; asks no kernel.
    fn can_add_framebuffer(&self, buffer: &ExportBuffer<'_, B>) -> bool {
        match buffer {
            ExportBuffer::Wayland(buffer) => get_dmabuf(buffer).is_ok_and(|dmabuf| {
                let state = self.state();
                ![false, true].into_iter().all(|opaque| state.refused(&(dmabuf.weak(), opaque)).is_some())
            }),
            ExportBuffer::Allocator(_) => true,
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
