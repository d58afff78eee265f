//! What a plane can do. It owns the description alone; backends fill it.

use std::collections::HashSet;
use std::num::NonZeroU32;

use drm_fourcc::{DrmFourcc, DrmModifier};

/// The type of a KMS plane (its `type` property).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlaneType {
    /// Shows the composited picture, or one opaque layer as large as the output.
    Primary,
    /// Shows one layer.
    Overlay,
    /// Reserved for the pointer image; the planner never puts a layer there.
    Cursor,
}

/// What one plane can do, as the planner needs it.
#[derive(Clone, Debug)]
pub struct PlaneCaps {
    /// KMS object id (or an id of the backend's own for planes that are not KMS).
    pub id: NonZeroU32,
    /// Its type.
    pub kind: PlaneType,
    /// The (fourcc, modifier) pairs of IN_FORMATS.
    pub formats: HashSet<(DrmFourcc, DrmModifier)>,
    /// Position in the blending order, higher is nearer to the viewer. `None` when neither zpos nor a table of
    /// the driver tells: such a plane is refused, since drm_blend.c leaves the order of overlays undefined.
    pub stack: Option<i64>,
    /// The plane's `rotation` property has REFLECT_Y.
    pub reflect_y: bool,
}
