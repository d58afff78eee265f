//! The crate's front page: what drm-prime does, and the list of its modules. No code of its own.
//!
//! A client's dma-buf becomes an imported GEM handle, the handle becomes a KMS framebuffer, and the framebuffer
//! is scanned out by a plane. This crate owns that path, and knows neither Wayland nor any toolkit.
//!
//! # Who closes what
//!
//! GEM handles are not reference counted by the kernel: importing a buffer that the file already knows returns
//! the handle it already has, and one `GEM_CLOSE` ends all of them (`drm.h`, `DRM_IOCTL_PRIME_FD_TO_HANDLE`).
//! [`HandleTable`] counts instead. Two buffer planes of one dma-buf, two framebuffers of one buffer, and a buffer that
//! comes back to the device which allocated it, all share one table entry; the last [`GemHandle`] to be dropped
//! closes it. Nothing else in the process may close a handle on the same file, which is why [`KernelDevice`] has
//! a DRM file description of its own.
//!
//! # Import and scan out
//!
//! ```no_run
//! use std::{fs::File, os::fd::AsFd, sync::Arc};
//! use drm_fourcc::{DrmFourcc, DrmModifier};
//! use drm_prime::{BufferPlane, Dmabuf, Framebuffer, HandleTable, KernelDevice};
//!
//! # fn demo(card: File, client_fd: std::os::fd::OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
//! let device = KernelDevice::acquire(card.as_fd(), Some("/dev/dri/card0".as_ref()))?;
//! let table = HandleTable::new(Arc::new(device));
//! let plane = BufferPlane { fd: client_fd.as_fd(), offset: 0, stride: 4 * 640 };
//! let buffer = Dmabuf::new(640, 480, DrmFourcc::Xrgb8888, DrmModifier::Linear, &[plane])?;
//! let framebuffer = Framebuffer::new(&table, &buffer, false)?;
//! println!("commit framebuffer {} with the master's file", framebuffer.id());
//! # Ok(())
//! # }
//! ```
//!
//! # Embed in a smithay compositor
//!
//! With the feature `smithay` there is a [module of that name](smithay/index.html): an exporter and an allocator for
//! smithay's `DrmCompositor`, with an example. No other part of the crate knows a toolkit.
//!
//! # Run the model in a test
//!
//! [`model`] is the kernel's PRIME system in software. Whatever runs on a [`GemDevice`] runs on it, without hardware or rights;
//! every step can be made to fail, and what is left over afterwards is counted.
//!
//! ```
//! use std::{os::fd::AsFd, sync::Arc};
//! use drm_fourcc::{DrmFourcc, DrmModifier};
//! use drm_prime::model::{Driver, FaultPoint, Machine, Node, Profile};
//! use drm_prime::{BufferPlane, Dmabuf, Fault, Framebuffer, HandleTable};
//! use rustix::io::Errno;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let machine = Machine::new(Profile::MODERN);
//! let renderer = HandleTable::new(Arc::new(machine.add_device(Driver::vgem()).open(Node::Primary)?));
//! let display = HandleTable::new(Arc::new(machine.add_device(Driver::vkms()).open(Node::Primary)?));
//!
//! let memory = renderer.create_dumb(640, 480, 32)?;
//! let fd = memory.export()?;
//! let plane = BufferPlane { fd: fd.as_fd(), offset: 0, stride: memory.stride() };
//! let buffer = Dmabuf::new(640, 480, DrmFourcc::Xrgb8888, DrmModifier::Linear, &[plane])?;
//!
//! // The machine runs out of memory in the middle of the import. It is nobody's fault, and nothing is left of it.
//! let before = machine.census();
//! machine.fail(FaultPoint::AttachmentAlloc, 1, Errno::NOMEM);
//! let error = Framebuffer::new(&display, &buffer, false).unwrap_err();
//! assert_eq!(error.fault(), Fault::System);
//! assert_eq!(machine.census(), before);
//!
//! // The second time it works, and everything goes with the last owner.
//! let framebuffer = Framebuffer::new(&display, &buffer, false)?;
//! assert_eq!(machine.census().framebuffers, 1);
//! drop((framebuffer, display, memory, renderer, fd));
//! assert!(machine.census().is_empty() && machine.events().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | what comes with it |
//! |---|---|
//! | (none) | handles, framebuffers, the planner, the model; no toolkit, no Wayland |
//! | `smithay` | the exporter and the allocator for compositors on smithay 0.7.0 |
//! | `shuttle` | for this crate's own tests: the model's locks under a chosen schedule |
//!
//! # What shows that the model is right
//!
//! [`model::rows`] lists the rows of the kernel's drm_prime.c and the tests of each. The same contract runs on the model and on a
//! real kernel in this crate's repository, and random scripts compare the two call by call.
#![warn(missing_docs)]

pub mod cache;
mod chain;
pub mod device;
pub mod dmabuf;
pub mod dumb;
mod errno;
pub mod exporter;
pub mod exporting;
pub mod flip;
pub mod format;
pub mod framebuffer;
pub mod handles;
pub mod ledger;
pub mod model;
pub mod origin;
pub mod quirks;
pub mod scanout;
#[cfg(feature = "smithay")]
pub mod smithay;
pub mod sys;
#[cfg(test)]
mod testbed;

pub use cache::FramebufferCache;
pub use chain::ErrorChain;
pub use device::kernel::{Acquisition, Denials, DeviceError, KernelDevice};
pub use device::timeline::{NoTimelines, Timeline, TimelineError, Timelines};
pub use device::{DumbAllocation, FramebufferRequest, GemDevice};
pub use dmabuf::{
    BufferPlane, Dmabuf, DmabufId, DmabufStat, Layout, LayoutError, MAX_BUFFER_PLANES, SizeError, is_dmabuf,
    is_dmabuf_on,
};
pub use dumb::{DumbBuffer, DumbError};
pub use errno::errno_name;
pub use exporter::{ExporterInfo, LinearExporters, Linearity, exporter_is_linear, exporter_name};
pub use flip::{CommitId, FramebufferWatch, PlaneFramebuffers, SharedFramebuffer, Staging};
pub use format::FormatInfo;
pub use framebuffer::{Framebuffer, FramebufferError};
pub use handles::{ExportError, GemHandle, HandleTable, ImportError, TableStats};
pub use ledger::{Clock, FramebufferName, HandleEntry, Ledger, Owner, ToldClock};
pub use origin::Origin;
pub use sys::{Mapping, close_together};

/// Whose fault an error is. Every error of this crate answers with its `fault()`; no variant mixes two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The buffer's description contradicts the buffer: its author gets the protocol's error.
    Client,
    /// The buffer is sound, and this device does not take it: compose it instead.
    CannotScanOut,
    /// Neither: out of memory, out of descriptors, device gone. Trying again later can succeed.
    System,
}
