//! Why a handle could not be had, and which errnos say something about the buffer. It tries nothing again.

use std::{io, num::NonZeroU32};

use rustix::io::Errno;

use crate::{Fault, dmabuf::DmabufId};

/// A dma-buf could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The descriptor is no dma-buf. The client's fault.
    #[error("the descriptor is no dma-buf")]
    NotDmabuf {
        /// What the import said.
        #[source]
        source: io::Error,
    },
    /// The device does not take this exporter's memory (`DRM_CAP_PRIME` promises nothing).
    #[error("device {device:#x} does not import {dmabuf} from exporter {exporter:?}")]
    NotImportable {
        /// The dma-buf.
        dmabuf: DmabufId,
        /// `st_rdev` of the importing device.
        device: u64,
        /// The kernel's name for the exporter.
        exporter: Option<String>,
        /// The driver's errno.
        #[source]
        source: io::Error,
    },
    /// The system failed: memory, descriptors, a device that went away.
    #[error("cannot {action} on device {device:#x}")]
    System {
        /// What was tried.
        action: &'static str,
        /// `st_rdev` of the importing device.
        device: u64,
        /// The kernel's errno.
        #[source]
        source: io::Error,
    },
}

impl ImportError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotDmabuf { .. } => Fault::Client,
            Self::NotImportable { .. } => Fault::CannotScanOut,
            Self::System { .. } => Fault::System,
        }
    }
}

/// A handle could not be exported. Always the system's fault.
#[derive(Debug, thiserror::Error)]
#[error("cannot export handle {handle} of device {device:#x}")]
pub struct ExportError {
    /// The handle.
    pub handle: NonZeroU32,
    /// `st_rdev` of the device.
    pub device: u64,
    /// The kernel's errno.
    #[source]
    pub source: io::Error,
}

/// Errnos that say nothing about the buffer: it may be tried again, and is not refused for good.
pub(crate) fn is_system_errno(err: &io::Error) -> bool {
    const SYSTEM: &[Errno] = &[
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NODEV,
        Errno::NXIO,
        Errno::IO,
        Errno::INTR,
        Errno::AGAIN,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOTTY,
        Errno::BUSY,
        Errno::FAULT,
    ];
    err.raw_os_error().is_none() || is_one_of(err, SYSTEM)
}

/// Whether an error is one of the kernel's of that list.
pub(crate) fn is_one_of(err: &io::Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| err.raw_os_error() == Some(errno.raw_os_error()))
}
