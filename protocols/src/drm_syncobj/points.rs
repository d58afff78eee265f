//! The points that a client sets for its next commit, and every check of them.
//!
//! Owns: the rules of the XML as pure functions; a timeline is an opaque `T`, told apart by its `Arc`. Does not own:
//! sending errors, waiting, signalling.

use std::sync::Arc;

use wayland_protocols::wp::linux_drm_syncobj::v1::server::wp_linux_drm_syncobj_surface_v1::Error as Code;

use super::{Attachment, SyncPoint, SyncPoints};

/// A fault of the client in what it set for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitFault {
    /// The error no_buffer.
    #[error("timeline points without a buffer")]
    NoBuffer,
    /// The error no_acquire_point.
    #[error("a buffer without an acquire point")]
    NoAcquirePoint,
    /// The error no_release_point.
    #[error("a buffer without a release point")]
    NoReleasePoint,
    /// The error conflicting_points.
    #[error("release point {release} does not come after acquire point {acquire} of the same timeline")]
    ConflictingPoints {
        /// The acquire point.
        acquire: u64,
        /// The release point.
        release: u64,
    },
    /// The error unsupported_buffer.
    #[error("the buffer cannot be synchronised explicitly")]
    UnsupportedBuffer,
}

impl CommitFault {
    /// The code on the wire.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::NoBuffer => Code::NoBuffer,
            Self::NoAcquirePoint => Code::NoAcquirePoint,
            Self::NoReleasePoint => Code::NoReleasePoint,
            Self::ConflictingPoints { .. } => Code::ConflictingPoints,
            Self::UnsupportedBuffer => Code::UnsupportedBuffer,
        }
    }
}

/// The points set since the last commit.
#[derive(Debug)]
pub(crate) struct PendingPoints<T> {
    pub(crate) acquire: Option<SyncPoint<T>>,
    pub(crate) release: Option<SyncPoint<T>>,
}

impl<T> Default for PendingPoints<T> {
    fn default() -> Self {
        Self { acquire: None, release: None }
    }
}

impl<T> PendingPoints<T> {
    /// Takes the points for a commit: both with a buffer, neither without one.
    pub(crate) fn take(&mut self, attachment: Attachment) -> Result<Option<SyncPoints<T>>, CommitFault> {
        let Self { acquire, release } = std::mem::take(self);
        let explicit = match attachment {
            Attachment::Kept | Attachment::Removed if acquire.is_some() || release.is_some() => {
                return Err(CommitFault::NoBuffer);
            }
            Attachment::Kept | Attachment::Removed => return Ok(None),
            Attachment::Buffer { explicit } => explicit,
        };
        let acquire = acquire.ok_or(CommitFault::NoAcquirePoint)?;
        let release = release.ok_or(CommitFault::NoReleasePoint)?;
        if Arc::ptr_eq(&acquire.timeline, &release.timeline) && release.point <= acquire.point {
            return Err(CommitFault::ConflictingPoints { acquire: acquire.point, release: release.point });
        }
        if !explicit {
            return Err(CommitFault::UnsupportedBuffer);
        }
        Ok(Some(SyncPoints { acquire, release }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DMABUF: Attachment = Attachment::Buffer { explicit: true };
    const OTHER: Attachment = Attachment::Buffer { explicit: false };

    fn pending(acquire: Option<(&Arc<u8>, u64)>, release: Option<(&Arc<u8>, u64)>) -> PendingPoints<u8> {
        let point = |(timeline, point): (&Arc<u8>, u64)| SyncPoint { timeline: Arc::clone(timeline), point };
        PendingPoints { acquire: acquire.map(point), release: release.map(point) }
    }

    #[test]
    fn points_and_buffers_come_together() {
        let (a, b) = (Arc::new(0), Arc::new(0));
        let (acquire, release) = (Some((&a, 1)), Some((&b, 1)));
        for without in [Attachment::Kept, Attachment::Removed] {
            assert!(pending(None, None).take(without).unwrap().is_none());
            for (acquire, release) in [(acquire, release), (acquire, None), (None, release)] {
                assert_eq!(pending(acquire, release).take(without).unwrap_err(), CommitFault::NoBuffer);
            }
        }
        for buffer in [DMABUF, OTHER] {
            assert_eq!(pending(None, None).take(buffer).unwrap_err(), CommitFault::NoAcquirePoint);
            assert_eq!(pending(None, release).take(buffer).unwrap_err(), CommitFault::NoAcquirePoint);
            assert_eq!(pending(acquire, None).take(buffer).unwrap_err(), CommitFault::NoReleasePoint);
        }
        assert_eq!(pending(acquire, release).take(OTHER).unwrap_err(), CommitFault::UnsupportedBuffer);
        let points = pending(acquire, release).take(DMABUF).unwrap().unwrap();
        assert!(Arc::ptr_eq(&points.acquire.timeline, &a) && Arc::ptr_eq(&points.release.timeline, &b));
    }

    #[test]
    fn points_are_taken_once() {
        let a = Arc::new(0);
        let mut points = pending(Some((&a, 1)), Some((&a, 2)));
        assert!(points.take(DMABUF).unwrap().is_some());
        assert_eq!(points.take(DMABUF).unwrap_err(), CommitFault::NoAcquirePoint);
    }

    proptest! {
        #[test]
        fn on_one_timeline_the_release_comes_after(acquire: u64, release: u64, same: bool) {
            let (a, b) = (Arc::new(0), Arc::new(0));
            let taken = pending(Some((&a, acquire)), Some((if same { &a } else { &b }, release))).take(DMABUF);
            let allowed = !same || acquire < release;
            prop_assert_eq!(taken.is_ok(), allowed);
            if let Err(fault) = taken {
                prop_assert_eq!(fault, CommitFault::ConflictingPoints { acquire, release });
            }
        }
    }
}
