//! The planner: which display plane shows which layer, and why not the others.
//!
//! It owns the decision alone. It creates no framebuffer, issues no ioctl and knows no client: plane capabilities
//! and layers come in, a [`Plan`] goes out together with one typed [`Refusal`] for every pair of layer and plane
//! that was considered and not used. The only question it asks the outside is [`plan`]'s `test`, which a KMS
//! backend answers with a TEST_ONLY commit.
//!
//! Coordinates are pixels of the CRTC, origin top left, y downwards. Layers are listed from the topmost down.
//!
//! ```text
//!  top    layer 0 ──> overlay with the highest position   (if nothing composited covers it)
//!         layer 1 ──> next overlay below
//!         layer 2 ──> composited into the primary          (wl_shm, refused format, no plane left …)
//!         layer 3 ──> composited: layer 2 was, and overlaps it
//!  bottom layer 4 ──> the primary itself, if opaque, as large as the output and nothing was composited
//! ```

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem::{self, Discriminant};
use std::num::NonZeroU32;
use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::Fault;
use crate::framebuffer::FramebufferError;

/// A rectangle of CRTC pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left edge; may be negative for a layer that hangs over the output's edge.
    pub x: i32,
    /// Top edge.
    pub y: i32,
    /// Width in pixels.
    pub w: u32,
    /// Height in pixels.
    pub h: u32,
}

impl Rect {
    /// Makes a rectangle from its position and size.
    pub const fn new(x: i32, y: i32, w: u32, h: u32) -> Self {
        Self { x, y, w, h }
    }

    /// Tells whether the two rectangles share at least one pixel.
    pub fn overlaps(&self, other: &Rect) -> bool {
        let end = |at: i32, len: u32| i64::from(at) + i64::from(len);
        i64::from(self.x) < end(other.x, other.w)
            && i64::from(other.x) < end(self.x, self.w)
            && i64::from(self.y) < end(other.y, other.h)
            && i64::from(other.y) < end(self.y, self.h)
    }

    /// Pixels that the two rectangles share.
    pub fn overlap(&self, other: &Rect) -> u64 {
        let shared = |a: (i32, u32), b: (i32, u32)| {
            let end = |(at, len): (i32, u32)| i64::from(at) + i64::from(len);
            u64::try_from(end(a).min(end(b)) - i64::from(a.0.max(b.0))).unwrap_or(0)
        };
        let width = shared((self.x, self.w), (other.x, other.w));
        width * shared((self.y, self.h), (other.y, other.h))
    }
}

/// A source rectangle in 16.16 fixed point buffer pixels, as the plane properties SRC_X to SRC_H take it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceRect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}

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

/// A buffer that could be scanned out: its framebuffer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scannable {
    /// Format of the framebuffer (an opaque substitute where the layer is opaque).
    pub format: DrmFourcc,
    /// Its modifier, never INVALID.
    pub modifier: DrmModifier,
    /// The first row in memory is the bottom row of the picture.
    pub y_invert: bool,
}

/// Content that wants a plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Where it is shown.
    pub dst: Rect,
    /// What part of the buffer is shown.
    pub src: SourceRect,
    /// No pixel of it lets anything below shine through.
    pub opaque: bool,
    /// The buffer, or the reason why it can only be composited.
    pub content: Result<Scannable, Refusal>,
}

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
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(&*self.0);
        while let Some(err) = source {
            write!(f, ": {err}")?;
            source = err.source();
        }
        Ok(())
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

/// What the primary plane shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryContent {
    /// A composited picture (or, without any composited layer, the background).
    Composited,
    /// The buffer of this layer.
    Layer(usize),
}

/// A decision about every layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For each layer the plane that shows it, `None` if composited or hidden.
    pub planes: Vec<Option<NonZeroU32>>,
    /// What the primary plane shows.
    pub primary: PrimaryContent,
    /// Number of layers, from the top, that are visible at all; those below lie under an opaque layer as large
    /// as the output.
    pub visible: usize,
    /// Every pair that was considered and not used: (layer, plane, reason), by ascending layer.
    pub refusals: Vec<(usize, NonZeroU32, Refusal)>,
}

impl Plan {
    /// The plan that composites everything; the always valid fallback.
    pub fn composite_all(layers: &[Layer], output: Rect) -> Self {
        Self {
            planes: vec![None; layers.len()],
            primary: PrimaryContent::Composited,
            visible: visible_layers(layers, output),
            refusals: Vec::new(),
        }
    }

    /// Indices of the visible layers that no plane took, topmost first.
    pub fn composited(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.visible).filter(|&i| self.planes[i].is_none())
    }

    /// The refusals of one layer.
    pub fn refusals_of(&self, layer: usize) -> &[(usize, NonZeroU32, Refusal)] {
        let start = self.refusals.partition_point(|(l, ..)| *l < layer);
        let end = self.refusals.partition_point(|(l, ..)| *l <= layer);
        &self.refusals[start..end]
    }

    /// What was decided for the layers above `layer`: all others count as composited, as when the planner came to this one.
    pub fn above(&self, layer: usize) -> Self {
        let mut planes = vec![None; self.planes.len()];
        planes[..layer].copy_from_slice(&self.planes[..layer]);
        let primary = PrimaryContent::Composited;
        Self { planes, primary, visible: self.visible, refusals: Vec::new() }
    }

    /// The last word on why a layer is not on a plane: the refusal of the plane that came nearest to taking it.
    pub fn reason(&self, layer: usize) -> Option<&Refusal> {
        let rank = |r: &Refusal| match r {
            Refusal::CursorPlane => 0,
            Refusal::NotFullOutput { .. } | Refusal::NotOpaque => 1,
            Refusal::HoldsComposited | Refusal::BelowPrimary => 2,
            Refusal::Taken { .. } | Refusal::StackOrder { .. } => 3,
            _ => 4,
        };
        self.refusals_of(layer).iter().map(|(.., r)| r).max_by_key(|r| rank(r))
    }
}

/// The planes for which nothing but its buffer matters to a layer: one that shows it, or whose formats or memory are all
/// that keep it from being shown there. Empty for a layer that no other buffer would bring onto a plane.
///
/// `planes`, `layers` and `output` are those that `made` was made of. What the driver says in a test is not considered:
/// a plane that refused the layer so can be among those of a layer that another one shows.
pub fn open_planes<'a>(
    planes: &'a [PlaneCaps],
    layers: &[Layer],
    output: Rect,
    made: &Plan,
    layer: usize,
) -> Vec<&'a PlaneCaps> {
    let (Some(content), true) = (layers.get(layer).map(|l| &l.content), layer < made.visible) else {
        return Vec::new();
    };
    match content {
        Ok(_) if made.planes[layer].is_none() => {
            let refusals = made.refusals_of(layer);
            let refused = |p: &&PlaneCaps| {
                refusals.iter().any(|(_, id, r)| *id == p.id && matches!(r, Refusal::Format { .. }))
            };
            return planes.iter().filter(refused).collect();
        }
        Err(refusal) if !refusal.is_of_the_buffer() => return Vec::new(),
        _ => {}
    }
    let above = made.above(layer);
    let composited: Vec<usize> = (0..layer).filter(|&i| above.planes[i].is_none()).collect();
    let covered = composited.iter().copied().find(|&c| layers[c].dst.overlaps(&layers[layer].dst));
    let primary = planes.iter().find(|p| p.kind == PlaneType::Primary);
    let bottom = layer + 1 == made.visible && composited.is_empty();
    let refuse = |p: &PlaneCaps| match p.kind {
        PlaneType::Cursor => Some(Refusal::CursorPlane),
        PlaneType::Primary => refuse_primary(&layers[layer], output, bottom),
        PlaneType::Overlay => refuse_overlay(p, primary, &layers[layer], covered, &above, layers, planes),
    };
    planes.iter().filter(|p| refuse(p).is_none()).collect()
}

fn covers(layer: &Layer, output: Rect) -> bool {
    let (l, o) = (layer.dst, output);
    i64::from(l.x) <= i64::from(o.x)
        && i64::from(l.y) <= i64::from(o.y)
        && i64::from(l.x) + i64::from(l.w) >= i64::from(o.x) + i64::from(o.w)
        && i64::from(l.y) + i64::from(l.h) >= i64::from(o.y) + i64::from(o.h)
}

fn visible_layers(layers: &[Layer], output: Rect) -> usize {
    layers.iter().position(|l| l.opaque && covers(l, output)).map_or(layers.len(), |i| i + 1)
}

/// Decides which plane shows which layer.
///
/// `planes` are the planes that the CRTC can use, in any order; `layers` go from the topmost down; `output` is the
/// CRTC's whole picture. `test` is asked about each step of a growing plan, in which every layer without a plane
/// counts as composited; its error (a TEST_ONLY commit's errno) becomes [`Refusal::Test`] for that pair.
pub fn plan(
    planes: &[PlaneCaps],
    layers: &[Layer],
    output: Rect,
    mut test: impl FnMut(&Plan) -> Result<(), rustix::io::Errno>,
) -> Plan {
    let mut plan = Plan::composite_all(layers, output);
    let primary = planes.iter().find(|p| p.kind == PlaneType::Primary);
    let mut overlays: Vec<&PlaneCaps> = planes.iter().filter(|p| p.kind == PlaneType::Overlay).collect();
    overlays.sort_by_key(|p| std::cmp::Reverse(p.stack));
    let mut composited: Vec<usize> = Vec::new();

    for (index, layer) in layers.iter().enumerate().take(plan.visible) {
        let scannable = match &layer.content {
            Ok(scannable) => *scannable,
            Err(refusal) => {
                plan.refusals.extend(planes.iter().map(|p| (index, p.id, refusal.clone())));
                composited.push(index);
                continue;
            }
        };
        let covered = composited.iter().copied().find(|&c| layers[c].dst.overlaps(&layer.dst));
        let mut candidates: Vec<&PlaneCaps> = Vec::with_capacity(planes.len());
        candidates.extend(primary);
        candidates.extend(&overlays);
        for plane in planes.iter().filter(|p| p.kind == PlaneType::Cursor) {
            plan.refusals.push((index, plane.id, Refusal::CursorPlane));
        }
        for plane in candidates {
            let is_last = index + 1 == plan.visible;
            let refusal = if plane.kind == PlaneType::Primary {
                refuse_primary(layer, output, is_last && composited.is_empty())
            } else {
                refuse_overlay(plane, primary, layer, covered, &plan, layers, planes)
            };
            if let Some(refusal) = refusal.or_else(|| refuse_format(plane, scannable)) {
                plan.refusals.push((index, plane.id, refusal));
                continue;
            }
            let before = plan.primary;
            plan.planes[index] = Some(plane.id);
            if plane.kind == PlaneType::Primary {
                plan.primary = PrimaryContent::Layer(index);
            }
            match test(&plan) {
                Ok(()) => break,
                Err(errno) => {
                    plan.planes[index] = None;
                    plan.primary = before;
                    plan.refusals.push((index, plane.id, Refusal::Test { errno }));
                }
            }
        }
        if plan.planes[index].is_none() {
            composited.push(index);
        }
    }
    plan
}

fn refuse_primary(layer: &Layer, output: Rect, nothing_composited: bool) -> Option<Refusal> {
    if layer.dst != output {
        Some(Refusal::NotFullOutput { dst: layer.dst })
    } else if !layer.opaque {
        Some(Refusal::NotOpaque)
    } else if !nothing_composited {
        Some(Refusal::HoldsComposited)
    } else {
        None
    }
}

fn refuse_overlay(
    plane: &PlaneCaps,
    primary: Option<&PlaneCaps>,
    layer: &Layer,
    covered: Option<usize>,
    plan: &Plan,
    layers: &[Layer],
    planes: &[PlaneCaps],
) -> Option<Refusal> {
    let (Some(stack), Some(base)) = (plane.stack, primary.and_then(|p| p.stack)) else {
        return Some(Refusal::StackingUnknown);
    };
    if stack <= base {
        return Some(Refusal::BelowPrimary);
    }
    if let Some(layer) = covered {
        return Some(Refusal::CoveredByComposited { layer });
    }
    if let Some(layer) = plan.planes.iter().position(|p| *p == Some(plane.id)) {
        return Some(Refusal::Taken { layer });
    }
    // Everything already on a plane is above this layer; where they overlap, the planes must agree.
    let stack_of = |id: NonZeroU32| planes.iter().find(|p| p.id == id).and_then(|p| p.stack);
    plan.planes.iter().enumerate().find_map(|(above, id)| {
        let above_stack = stack_of((*id)?)?;
        (layers[above].dst.overlaps(&layer.dst) && above_stack <= stack)
            .then_some(Refusal::StackOrder { layer: above })
    })
}

fn refuse_format(plane: &PlaneCaps, content: Scannable) -> Option<Refusal> {
    if !plane.formats.contains(&(content.format, content.modifier)) {
        return Some(Refusal::Format { format: content.format, modifier: u64::from(content.modifier) });
    }
    (content.y_invert && !plane.reflect_y).then_some(Refusal::NoReflectY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUTPUT: Rect = Rect::new(0, 0, 1000, 500);

    fn id(raw: u32) -> NonZeroU32 {
        NonZeroU32::new(raw).unwrap()
    }

    fn plane(raw: u32, kind: PlaneType, stack: Option<i64>) -> PlaneCaps {
        let linear = |f| (f, DrmModifier::Linear);
        PlaneCaps {
            id: id(raw),
            kind,
            formats: [linear(DrmFourcc::Xrgb8888), linear(DrmFourcc::Argb8888), linear(DrmFourcc::Nv12)]
                .into(),
            stack,
            reflect_y: false,
        }
    }

    fn planes() -> Vec<PlaneCaps> {
        vec![
            plane(1, PlaneType::Primary, Some(0)),
            plane(2, PlaneType::Overlay, Some(1)),
            plane(3, PlaneType::Overlay, Some(2)),
            plane(4, PlaneType::Cursor, Some(3)),
        ]
    }

    fn layer(dst: Rect, opaque: bool) -> Layer {
        Layer {
            dst,
            src: SourceRect { x: 0, y: 0, w: dst.w << 16, h: dst.h << 16 },
            opaque,
            content: Ok(Scannable {
                format: DrmFourcc::Xrgb8888,
                modifier: DrmModifier::Linear,
                y_invert: false,
            }),
        }
    }

    fn shm(dst: Rect) -> Layer {
        Layer { content: Err(Refusal::NotDmabuf), ..layer(dst, true) }
    }

    fn run(planes: &[PlaneCaps], layers: &[Layer]) -> Plan {
        plan(planes, layers, OUTPUT, |_| Ok(()))
    }

    #[test]
    fn an_opaque_full_output_layer_takes_the_primary_and_hides_the_rest() {
        let plan = run(&planes(), &[layer(OUTPUT, true), shm(Rect::new(0, 0, 10, 10))]);
        assert_eq!(plan.primary, PrimaryContent::Layer(0));
        assert_eq!((plan.visible, plan.composited().count()), (1, 0));
    }

    #[test]
    fn a_translucent_full_output_layer_does_not_take_the_primary() {
        let plan = run(&planes(), &[layer(OUTPUT, false)]);
        assert_eq!(plan.primary, PrimaryContent::Composited);
        assert_eq!(plan.planes[0], Some(id(3)));
        assert!(plan.refusals.contains(&(0, id(1), Refusal::NotOpaque)));
    }

    #[test]
    fn overlapping_layers_keep_their_order_on_planes() {
        let plan =
            run(&planes(), &[layer(Rect::new(0, 0, 50, 50), true), layer(Rect::new(20, 20, 50, 50), true)]);
        assert_eq!(plan.planes, [Some(id(3)), Some(id(2))]);
    }

    #[test]
    fn a_layer_under_something_composited_is_composited() {
        let plan = run(&planes(), &[shm(Rect::new(0, 0, 50, 50)), layer(Rect::new(40, 40, 50, 50), true)]);
        assert_eq!(plan.planes, [None, None]);
        assert_eq!(plan.reason(1), Some(&Refusal::CoveredByComposited { layer: 0 }));
    }

    #[test]
    fn a_layer_beside_something_composited_is_not() {
        let plan = run(&planes(), &[shm(Rect::new(0, 0, 50, 50)), layer(Rect::new(50, 0, 50, 50), true)]);
        assert_eq!(plan.planes, [None, Some(id(3))]);
    }

    #[test]
    fn a_full_output_layer_under_a_composited_one_leaves_the_primary_to_composition() {
        let plan = run(&planes(), &[shm(Rect::new(0, 0, 50, 50)), layer(OUTPUT, true)]);
        assert_eq!(plan.primary, PrimaryContent::Composited);
        assert!(plan.refusals.contains(&(1, id(1), Refusal::HoldsComposited)));
    }

    #[test]
    fn an_overlay_of_unknown_position_is_refused() {
        let planes = [plane(1, PlaneType::Primary, None), plane(2, PlaneType::Overlay, None)];
        let plan = run(&planes, &[layer(Rect::new(0, 0, 5, 5), true)]);
        assert_eq!(plan.reason(0), Some(&Refusal::StackingUnknown));
    }

    #[test]
    fn an_overlay_under_the_primary_is_refused() {
        let planes = [plane(1, PlaneType::Primary, Some(1)), plane(2, PlaneType::Overlay, Some(0))];
        let plan = run(&planes, &[layer(Rect::new(0, 0, 5, 5), true)]);
        assert_eq!(plan.reason(0), Some(&Refusal::BelowPrimary));
    }

    #[test]
    fn a_failing_test_commit_is_the_reason_and_the_next_plane_is_tried() {
        let errno = rustix::io::Errno::INVAL;
        let layers = [layer(Rect::new(0, 0, 5, 5), true)];
        let plan = plan(&planes(), &layers, OUTPUT, |p| match p.planes[0] {
            Some(plane) if plane == id(3) => Err(errno),
            _ => Ok(()),
        });
        assert_eq!(plan.planes[0], Some(id(2)));
        assert!(plan.refusals.contains(&(0, id(3), Refusal::Test { errno })));
    }

    #[test]
    fn a_bottom_up_buffer_needs_reflect_y() {
        let mut wants = layer(Rect::new(0, 0, 5, 5), true);
        wants.content = wants.content.map(|s| Scannable { y_invert: true, ..s });
        let mut planes = planes();
        assert_eq!(run(&planes, &[wants.clone()]).reason(0), Some(&Refusal::NoReflectY));
        planes[1].reflect_y = true;
        assert_eq!(run(&planes, &[wants]).planes[0], Some(id(2)));
    }

    #[test]
    fn a_format_outside_in_formats_is_refused_with_its_values() {
        let mut wants = layer(Rect::new(0, 0, 5, 5), true);
        wants.content = wants.content.map(|s| Scannable { format: DrmFourcc::P010, ..s });
        let refusal = Refusal::Format { format: DrmFourcc::P010, modifier: 0 };
        assert_eq!(run(&planes(), &[wants]).reason(0), Some(&refusal));
    }

    fn open(planes: &[PlaneCaps], layers: &[Layer], layer: usize) -> Vec<u32> {
        let plan = run(planes, layers);
        open_planes(planes, layers, OUTPUT, &plan, layer).iter().map(|p| p.id.get()).collect()
    }

    fn of_format(layer: Layer, format: DrmFourcc) -> Layer {
        let content = layer.content.map(|s| Scannable { format, ..s });
        Layer { content, ..layer }
    }

    fn refused(dst: Rect, refusal: Refusal) -> Layer {
        Layer { content: Err(refusal), ..layer(dst, true) }
    }

    /// A buffer that lies in memory the device does not take.
    fn elsewhere() -> Refusal {
        let error = FramebufferError::OtherDevice { device: 1 };
        Refusal::Framebuffer(FramebufferRefusal(Arc::new(error)))
    }

    #[test]
    fn planes_are_open_to_whom_only_the_buffer_keeps_off_them() {
        let (small, format) =
            (Rect::new(0, 0, 50, 50), Refusal::Format { format: DrmFourcc::P010, modifier: 1 });
        for refusal in [format, elsewhere()] {
            assert_eq!(open(&planes(), &[refused(small, refusal.clone())], 0), [2, 3]);
            assert_eq!(open(&planes(), &[refused(OUTPUT, refusal)], 0), [1, 2, 3]);
        }
        assert_eq!(open(&planes(), &[of_format(layer(small, true), DrmFourcc::P010)], 0), [2, 3]);
        let damaged = FramebufferError::Layout(crate::LayoutError::PlaneCount {
            format: DrmFourcc::Nv12,
            modifier: 0,
            expected: 2,
            got: 1,
        });
        let damaged = Refusal::Framebuffer(FramebufferRefusal(Arc::new(damaged)));
        for refusal in [Refusal::NotDmabuf, Refusal::Transform, Refusal::Disabled, damaged] {
            assert!(open(&planes(), &[refused(small, refusal)], 0).is_empty());
        }
    }

    #[test]
    fn refused_framebuffers_are_told_apart_by_kind() {
        let refusal = |error| FramebufferRefusal(Arc::new(error));
        let other = |device| refusal(FramebufferError::OtherDevice { device });
        let system = || std::io::Error::from(rustix::io::Errno::NOMEM);
        assert_eq!(other(1), other(2));
        assert_ne!(other(1), refusal(FramebufferError::System { device: 1, source: system() }));
        let hashes = HashSet::from([
            other(1),
            other(2),
            refusal(FramebufferError::UnknownFormat { format: DrmFourcc::R8 }),
        ]);
        assert_eq!(hashes.len(), 2);
    }

    #[test]
    fn planes_are_not_open_to_what_is_covered_hidden_or_late() {
        let (left, right) = (Rect::new(0, 0, 50, 50), Rect::new(500, 0, 50, 50));
        // Covered by something composited, and beside it.
        assert!(open(&planes(), &[shm(left), refused(left, elsewhere())], 1).is_empty());
        assert_eq!(open(&planes(), &[shm(left), refused(right, elsewhere())], 1), [2, 3]);
        // Behind a full-screen layer.
        assert!(open(&planes(), &[layer(OUTPUT, true), refused(left, elsewhere())], 1).is_empty());
        // Every plane that would do is taken, or one is left, and the order of the stack matters.
        let two = [layer(left, true), layer(right, true), refused(left, elsewhere())];
        assert!(open(&planes(), &two, 2).is_empty());
        assert_eq!(open(&planes(), &[layer(left, true), refused(left, elsewhere())], 1), [2]);
        // The primary is for what is opaque and fills the output.
        let see_through = Layer { opaque: false, ..refused(OUTPUT, elsewhere()) };
        assert_eq!(open(&planes(), &[see_through], 0), [2, 3]);
        assert_eq!(open(&planes(), &[shm(left), refused(OUTPUT, elsewhere())], 1), [0u32; 0]);
    }

    #[test]
    fn planes_stay_open_to_what_is_on_one_and_no_longer_to_what_the_driver_refused() {
        let small = Rect::new(0, 0, 50, 50);
        // What lies below it does not matter: it chose later.
        assert_eq!(open(&planes(), &[layer(small, true), layer(small, true)], 0), [2, 3]);
        assert_eq!(open(&planes(), &[layer(OUTPUT, true)], 0), [1, 2, 3]);
        let (planes, layers) = (planes(), [layer(small, true)]);
        let plan = plan(&planes, &layers, OUTPUT, |_| Err(rustix::io::Errno::INVAL));
        assert!(open_planes(&planes, &layers, OUTPUT, &plan, 0).is_empty());
    }

    #[test]
    fn rectangles_share_what_lies_in_both() {
        let a = Rect::new(-10, 0, 30, 20);
        for (b, shared) in
            [((0, 10, 100, 100), 200), ((20, 0, 5, 5), 0), ((-10, 0, 30, 20), 600), ((0, 40, 5, 5), 0)]
        {
            let b = Rect::new(b.0, b.1, b.2, b.3);
            assert_eq!((a.overlap(&b), b.overlap(&a)), (shared, shared));
        }
        let all = Rect::new(i32::MIN, i32::MIN, u32::MAX, u32::MAX);
        assert_eq!(all.overlap(&all), u64::from(u32::MAX) * u64::from(u32::MAX));
    }

    prop_compose! {
        fn any_layer()(x in -50i32..950, y in -50i32..450, w in 1u32..400, h in 1u32..300, full in 0u8..8,
                       opaque: bool, dmabuf: bool) -> Layer {
            let dst = if full == 0 { OUTPUT } else { Rect::new(x, y, w, h) };
            if dmabuf { layer(dst, opaque) } else { shm(dst) }
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_what_the_stack_says(layers in prop::collection::vec(any_layer(), 0..8), bits: u16) {
            let planes = planes();
            let mut bits = bits;
            let plan = plan(&planes, &layers, OUTPUT, |_| {
                bits = bits.rotate_left(1);
                if bits & 1 == 0 { Ok(()) } else { Err(rustix::io::Errno::INVAL) }
            });
            let height = |i: usize| plan.planes[i].map_or(0, |p| i64::from(p.get()) - 1);
            for a in 0..plan.visible {
                for b in a + 1..plan.visible {
                    if layers[a].dst.overlaps(&layers[b].dst) {
                        // Equal heights are the primary's: composition keeps the order there.
                        prop_assert!(height(a) > height(b) || (height(a) == 0 && height(b) == 0));
                    }
                }
            }
            let mut used: Vec<_> = plan.planes.iter().flatten().collect();
            used.sort_unstable();
            used.dedup();
            prop_assert_eq!(used.len(), plan.planes.iter().flatten().count());
            for i in plan.composited() {
                prop_assert!(plan.reason(i).is_some());
            }
            let of_each: usize = (0..layers.len()).map(|i| plan.refusals_of(i).len()).sum();
            prop_assert_eq!(of_each, plan.refusals.len());
            prop_assert!((0..layers.len()).all(|i| plan.refusals_of(i).iter().all(|(l, ..)| *l == i)));
            if let PrimaryContent::Layer(_) = plan.primary {
                prop_assert_eq!(plan.composited().count(), 0);
            }
        }

        /// A layer whose buffer is refused gets onto a plane with another buffer if, and only if, one is open to it.
        #[test]
        fn an_open_plane_is_one_that_would_be_taken(
            mut layers in prop::collection::vec(any_layer(), 1..8),
            chosen: prop::sample::Index,
        ) {
            let planes = planes();
            let chosen = chosen.index(layers.len());
            layers[chosen].content = Err(elsewhere());
            let plan = run(&planes, &layers);
            let open: Vec<_> =
                open_planes(&planes, &layers, OUTPUT, &plan, chosen).iter().map(|p| p.id).collect();
            layers[chosen].content = layer(OUTPUT, true).content;
            match run(&planes, &layers).planes[chosen] {
                Some(plane) => prop_assert!(open.contains(&plane), "{plane} is not among {open:?}"),
                None => prop_assert!(open.is_empty(), "{open:?}"),
            }
        }
    }
}
