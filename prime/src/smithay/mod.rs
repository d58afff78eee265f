//! For compositors built on smithay 0.7.0 (feature `smithay`): [`PrimeExporter`] and [`PrimeAllocator`] for its
//! `DrmCompositor`. The only module that names smithay, and nothing else in the crate depends on it. It commits nothing.
//!
//! smithay's own exporter imports client buffers through gbm. A display without a gbm driver cannot do that (vkms, the
//! display-only drivers of embedded machines, USB displays), and then no client buffer reaches a plane. This one uses PRIME
//! and `ADDFB2` alone, on a DRM file description of drm-prime's own, so no handle is shared with gbm or EGL.
//!
//! | smithay asks for | here |
//! |---|---|
//! | `ExportFramebuffer<B>` | [`PrimeExporter`], for any `B: Buffer + AsDmabuf` |
//! | `Framebuffer` | [`PrimeFramebuffer`], closed with `CLOSEFB` when the last clone is dropped |
//! | `Allocator`, `Buffer`, `AsDmabuf` | [`PrimeAllocator`] and [`PrimeBuffer`]: dumb buffers, for `PixmanRenderer` without a GPU |
//!
//! # In a compositor
//!
//! What `DrmCompositor::new` takes as `allocator` and `framebuffer_exporter` (it exists only with smithay's own feature
//! `backend_gbm`; the whole compositor is `compositor/examples/embed.rs` in this crate's repository):
//!
//! ```no_run
//! use std::{error::Error, os::fd::AsFd, path::Path, sync::Arc};
//! use drm_prime::{HandleTable, KernelDevice, smithay::{PrimeAllocator, PrimeExporter}};
//! use smithay::backend::allocator::{Allocator, dmabuf::AsDmabuf};
//! use smithay::backend::drm::{DrmDeviceFd, exporter::ExportFramebuffer};
//! use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
//!
//! /// The bounds of `DrmCompositor::new`.
//! fn drive_output<A, F>(allocator: A, exporter: F)
//! where
//!     A: Allocator<Error: Send + Sync, Buffer: AsDmabuf<Error: Send + Sync>>,
//!     F: ExportFramebuffer<A::Buffer, Error: Send + Sync>,
//! {
//! #   let _ = (allocator, exporter);
//! }
//!
//! fn start(master: &DrmDeviceFd, node: &Path) -> Result<PrimeExporter, Box<dyn Error>> {
//!     // A file description of its own: framebuffers made there are committed through `master`.
//!     let table = HandleTable::new(Arc::new(KernelDevice::acquire(master.as_fd(), Some(node))?));
//!     let exporter = PrimeExporter::new(table.clone())?;
//!     drive_output(PrimeAllocator::new(table), exporter.clone());
//!     Ok(exporter)
//! }
//!
//! /// Why a client's buffer was composited, for logs and for the user.
//! fn explain(exporter: &PrimeExporter, buffer: &WlBuffer) {
//!     if let Some(refusal) = exporter.refusal(buffer) {
//!         println!("not on a plane: {refusal} ({:?})", refusal.fault());
//!     }
//! }
//! ```

mod allocator;
mod exporter;

pub use allocator::{AllocateError, PrimeAllocator, PrimeBuffer};
pub use exporter::{ExportError, PrimeExporter, PrimeFramebuffer, Refusal};
