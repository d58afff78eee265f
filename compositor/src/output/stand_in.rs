//! What the driver says of a layer's place, if nothing but the layer's buffer keeps it off a plane: composition's buffer
//! stands in for it in a test commit. Planes that cannot scale, or not so far, are found before a client allocates for them.
//!
//! It owns the questions and the answers of the last plan. What follows from them is decided in [`crate::feedback`].

use std::num::NonZeroU32;

use drm_prime::SharedFramebuffer;
use drm_prime::scanout::{Layer, Plan, Rect, Scene, SourceRect, open_planes};

use super::layers::SurfaceLayer;
use super::{OutputState, RedrawParts};
use crate::backend::{Canvas, PlaneUpdate};

/// Answers that a plan has at most, so that no client buys test commits without end with surfaces. What was not asked is
/// found out when a client has another buffer.
const MOST: usize = 32;

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// Which plane was asked.
    pub plane: NonZeroU32,
    /// About which part of a buffer.
    pub src: SourceRect,
    /// At which place.
    pub dst: Rect,
    /// It was refused.
    pub refused: bool,
}

impl OutputState {
    /// Asks about every layer of a new plan whose buffer is refused. What the last plan's answers say is not asked again.
    pub(super) fn try_stand_ins(
        &mut self,
        scene: &Scene<'_>,
        layers: &[SurfaceLayer],
        buffers: &[Option<SharedFramebuffer>],
        plan: &Plan,
        parts: &mut RedrawParts<'_>,
    ) {
        let known = std::mem::take(&mut self.stand_ins);
        for (index, layer) in scene.layers.iter().enumerate().take(plan.visible) {
            if plan.planes[index].is_some() || self.stand_ins.len() >= MOST {
                continue;
            }
            let open: Vec<NonZeroU32> = open_planes(scene, plan, index).iter().map(|p| p.id).collect();
            for plane in open.into_iter().take(MOST.saturating_sub(self.stand_ins.len())) {
                let asked = |s: &&StandIn| (s.plane, s.src, s.dst) == (plane, layer.src, layer.dst);
                let answer = known.iter().chain(&self.stand_ins).find(asked).copied();
                let answer =
                    answer.or_else(|| self.stand_in(index, plane, layer, layers, buffers, plan, parts));
                self.stand_ins.extend(answer);
            }
        }
    }

    /// Asks about a plane. `None` if there is nothing to ask with: the plane does not take composition's format, or the
    /// layer's part of its buffer is larger than the output.
    #[allow(clippy::too_many_arguments, reason = "the plan and what it was made of")]
    fn stand_in(
        &self,
        index: usize,
        plane: NonZeroU32,
        layer: &Layer,
        layers: &[SurfaceLayer],
        buffers: &[Option<SharedFramebuffer>],
        plan: &Plan,
        parts: &mut RedrawParts<'_>,
    ) -> Option<StandIn> {
        let whole = self.picture();
        let buffer = parts.backend.any_target(self.id, Canvas::Primary(whole.w, whole.h)).ok()?;
        let pair = (buffer.format(), buffer.modifier());
        let caps = parts.backend.planes(self.id).iter().find(|caps| caps.id == plane)?;
        let rotations = caps.rotations;
        // Where in the buffer the part lies does not matter, but that it has fractions of pixels does.
        let fraction = |v: u32| v & 0xffff;
        let src = SourceRect { x: fraction(layer.src.x), y: fraction(layer.src.y), ..layer.src };
        let fits = |from: u32, len: u32, max: u32| u64::from(from) + u64::from(len) <= u64::from(max) << 16;
        if !caps.formats.contains(&pair)
            || !fits(src.x, src.w, buffer.width())
            || !fits(src.y, src.h, buffer.height())
        {
            return None;
        }
        let above = Plan { pointer: None, ..plan.above(index) };
        let composed = parts.backend.any_target(self.id, self.canvas(&above)).ok()?;
        let mut spec = self.spec(&above, layers, buffers, Some(&composed), None, parts.backend)?;
        spec.planes.retain(|update| update.plane != plane);
        let dst = layer.dst;
        let update = PlaneUpdate::new(plane, buffer, src, dst);
        let rotation = layer.rotation.within(rotations)?;
        spec.planes.push(PlaneUpdate { rotation, ..update });
        let refused = parts.backend.test(self.id, &spec).is_err();
        Some(StandIn { plane, src: layer.src, dst, refused })
    }
}
