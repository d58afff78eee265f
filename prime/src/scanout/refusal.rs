//! Why a layer is not on a plane, with the values that decided it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem::{self, Discriminant};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use drm_fourcc::DrmFourcc;

use super::geometry::Rect;
use super::plane::{ColorEncoding, ColorRange, Rotation, Rotations, Scaling};
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
    /// The primary plane takes an opaque layer.
    #[error("not opaque")]
    NotOpaque,
    /// The primary plane takes a layer exactly as large as the output, unless the plane may cover less and all around the
    /// layer is black.
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
    /// The pointer has the plane.
    #[error("the plane shows the pointer")]
    TakenByPointer,
    /// The plane is blended above a layer that must stay above this one.
    #[error("the plane lies above layer {layer}, which must stay above this one")]
    StackOrder {
        /// Index of the layer above.
        layer: usize,
    },
    /// The plane lies under the primary plane, and the composited picture cannot have a hole there.
    #[error("the plane lies under the primary plane")]
    BelowPrimary,
    /// The plane lies under the primary plane, and what shines through the layer would not be there.
    #[error("the plane lies under the primary plane and the layer is not opaque")]
    UnderlayNotOpaque,
    /// The plane's place in the blending order is not known.
    #[error("the plane's place in the stack is not known (no zpos)")]
    StackingUnknown,
    /// The zpos values that the planes allow do not give the order of the layers.
    #[error("no zpos that the plane can have gives the order of the layers")]
    NoZpos,
    /// The plane shows no such turn or reflection.
    #[error("the picture needs {wanted} and the plane has {supported} only")]
    Rotation {
        /// How the buffer has to be turned.
        wanted: Rotation,
        /// What the plane can do.
        supported: Rotations,
    },
    /// The plane does not scale so.
    #[error("scaled from {from:?} to {to:?} pixels, and the plane allows {allowed:?}")]
    Scaling {
        /// Width and height of the part of the buffer as it is shown, in 16.16 fixed point.
        from: (u32, u32),
        /// Pixels on the CRTC.
        to: (u32, u32),
        /// What the plane does.
        allowed: Scaling,
    },
    /// The plane does not take the size.
    #[error("{size:?} pixels are not within {smallest:?} to {largest:?}")]
    Size {
        /// Pixels on the CRTC.
        size: (u32, u32),
        /// The plane's least.
        smallest: (u32, u32),
        /// The plane's most.
        largest: (u32, u32),
    },
    /// The cursor plane takes no buffer of the pointer's size.
    #[error("a pointer of {size:?} pixels is not among the sizes of the cursor plane, at most {largest:?}")]
    CursorSize {
        /// Pixels of the pointer's buffer.
        size: (u32, u32),
        /// The plane's largest.
        largest: (u32, u32),
    },
    /// The layer is seen in part, and the plane has no property `alpha`.
    #[error("shown with alpha {alpha:#x} of 0xffff and the plane has no alpha property")]
    Alpha {
        /// The layer's.
        alpha: u16,
    },
    /// The plane does not blend premultiplied colours.
    #[error("the plane does not blend premultiplied pixels")]
    Blend,
    /// The plane does not convert the YUV picture's colours.
    #[error("{encoding} in {range} range is not among the plane's colour properties")]
    Color {
        /// The buffer's matrix.
        encoding: ColorEncoding,
        /// The buffer's range.
        range: ColorRange,
    },
    /// The memory is another device's, and the plane shows the device's own only.
    #[error("the memory belongs to another device")]
    Foreign,
    /// The pointer is composited and lies over it.
    #[error("the pointer above it is composited and covers part of it")]
    CoveredByPointer,
    /// It cannot be seen.
    #[error("hidden behind an opaque layer")]
    Hidden {
        /// Index of that layer.
        by: usize,
    },
    /// Another plane shows it.
    #[error("plane {plane} shows it")]
    ShownBy {
        /// Which.
        plane: NonZeroU32,
    },
    /// Too many layers want a plane more.
    #[error("number {rank} in the order of who gains most; the first {bound} are considered")]
    NotAmongBest {
        /// Its place in that order, from 1 on.
        rank: usize,
        /// [`super::MAX_CANDIDATES`].
        bound: usize,
    },
    /// The driver would have to be asked, once too often for one plan.
    #[error("the driver was asked about {asked} other combinations, the most for one plan")]
    Unasked {
        /// [`super::MAX_ASKS`], or those about this layer alone.
        asked: usize,
    },
    /// It has come and gone too often: it stays composited for a while.
    #[error("it lost its plane {losses} times in a short while and waits {wait:?}")]
    Held {
        /// How often.
        losses: u32,
        /// How long it waits from the last time on.
        wait: Duration,
    },
    /// The buffer's transform is not one that planes are asked for.
    #[error("the buffer transform is not supported on planes")]
    Transform,
    /// In a recording: what was said when it was made.
    #[error("{reason}")]
    Recorded {
        /// The text of another refusal.
        reason: String,
    },
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
