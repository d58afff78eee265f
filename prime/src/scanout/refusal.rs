//! Why a layer is not on a plane, with the values that decided it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem::{self, Discriminant};
use std::sync::Arc;

use drm_fourcc::DrmFourcc;

use super::geometry::Rect;
use crate::framebuffer::FramebufferError;
use crate::{ErrorChain, Fault};

/// The error for which a buffer has no framebuffer. Two of them are equal if they are of one kind, which is what plans rest
/// on: a client that draws in three refused buffers in turn needs one plan, not one for each frame.
#[derive(Clone, Debug)]
pub struct FramebufferRefusal(pub Arc<FramebufferError>);

impl FramebufferRefusal {
    fn kind(&self) -> (Discriminant<FramebufferError>, Fault) {
        (mem::discriminant(&*self.0), self.0.fault())
    }
}

impl PartialEq for FramebufferRefusal {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind()
    }
}

impl Eq for FramebufferRefusal {}

impl Hash for FramebufferRefusal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind().hash(state);
    }
}

impl fmt::Display for FramebufferRefusal {
    /// The error with all its sources.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ErrorChain(&*self.0).fmt(f)
    }
}

/// Why a layer is not on a plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The content is not a dma-buf.
    #[error("the buffer is not a dma-buf")]
    NotDmabuf,
    /// The user wants everything composited.
    #[error("direct scanout is disabled")]
    Disabled,
    /// No framebuffer could be made of it.
    #[error("{0}")]
    Framebuffer(FramebufferRefusal),
    /// It is not imported yet: another import keeps the device busy.
    #[error("not imported yet, the device is busy with another import")]
    Importing,
    /// The plane's IN_FORMATS lacks the pair.
    #[error("{format} with modifier {modifier:#x} is not among the plane's formats")]
    Format {
        /// Format of the framebuffer.
        format: DrmFourcc,
        /// Modifier of the framebuffer.
        modifier: u64,
    },
    /// Something composited lies above and overlaps it.
    #[error("layer {layer} above it is composited and covers part of it")]
    CoveredByComposited {
        /// Index of that layer.
        layer: usize,
    },
    /// The primary plane takes one opaque layer.
    #[error("not opaque")]
    NotOpaque,
    /// The primary plane takes a layer exactly as large as the output.
    #[error("shown at {dst:?}, which is not the whole output")]
    NotFullOutput {
        /// Where the layer is shown.
        dst: Rect,
    },
    /// The primary plane holds the composited picture.
    #[error("the plane holds the composited picture")]
    HoldsComposited,
    /// Another layer has the plane.
    #[error("the plane is taken by layer {layer}")]
    Taken {
        /// Index of that layer.
        layer: usize,
    },
    /// The plane is blended above a layer that must stay above this one.
    #[error("the plane lies above layer {layer}, which must stay above this one")]
    StackOrder {
        /// Index of the layer above.
        layer: usize,
    },
    /// The plane lies under the primary plane.
    #[error("the plane lies under the primary plane")]
    BelowPrimary,
    /// The plane's place in the blending order is not known.
    #[error("the plane's place in the stack is not known (no zpos)")]
    StackingUnknown,
    /// The plane cannot mirror and the buffer is stored bottom row first.
    #[error("the buffer is stored bottom row first and the plane has no reflect-y")]
    NoReflectY,
    /// The buffer's transform is not one that planes are asked for.
    #[error("the buffer transform is not supported on planes")]
    Transform,
    /// The plane is kept for the pointer.
    #[error("the plane is kept for the cursor")]
    CursorPlane,
    /// The driver refused the combination in a TEST_ONLY commit.
    #[error("the driver's test commit failed: {errno}")]
    Test {
        /// The errno of the commit.
        errno: rustix::io::Errno,
    },
    /// The driver took the combination in a test and refused it when it was committed.
    #[error("the driver accepted the test and refused the commit: {errno}")]
    Commit {
        /// The errno of the commit.
        errno: rustix::io::Errno,
    },
}

impl Refusal {
    /// Tells whether a plane might take the same content from a buffer of another format, modifier or memory.
    pub fn is_of_the_buffer(&self) -> bool {
        match self {
            Self::Format { .. } => true,
            Self::Framebuffer(refusal) => refusal.0.fault() == Fault::CannotScanOut,
            _ => false,
        }
    }
}
