//! The pointer's image in a buffer of a size that the cursor plane takes.
//!
//! It owns which size that is, and the damage of the picture. Whether a plane shows it is the planner's decision.

use std::num::NonZeroU32;

use drm_prime::SharedFramebuffer;
use drm_prime::scanout::{Plan, PlaneCaps, PlaneType, Pointer, Rect, Refusal, Scannable, SourceRect};
use smithay::backend::renderer::Color32F;
use smithay::backend::renderer::damage::OutputDamageTracker;
use smithay::utils::Transform;

use super::{OutputState, RedrawParts};
use crate::backend::{Canvas, PlaneUpdate};
use crate::cursor::CursorLayer;

/// The size where no cursor plane asks for another one.
const USUAL: (u32, u32) = (64, 64);

/// The picture that a plane shows.
#[derive(Debug, Default)]
pub(super) struct PointerCanvas {
    tracker: Option<((u32, u32), OutputDamageTracker)>,
    /// A size that the driver refused although it is among the plane's.
    refused: Option<(u32, u32)>,
}

/// The pointer as it is to be shown.
#[derive(Debug)]
pub(super) struct PointerUpdate {
    pub request: Pointer,
    buffer: Option<SharedFramebuffer>,
}

impl PointerUpdate {
    /// What a plane shows of it.
    pub fn on(&self, plane: NonZeroU32) -> Option<PlaneUpdate> {
        let dst = self.request.dst;
        let update = PlaneUpdate::new(plane, self.buffer.clone()?, SourceRect::whole(dst.w, dst.h), dst);
        Some(PlaneUpdate { hotspot: Some(self.request.hotspot), ..update })
    }
}

impl PointerCanvas {
    /// Takes in why the pointer is not on a cursor plane, if it is not.
    pub fn planned(&mut self, plan: &Plan, planes: &[PlaneCaps]) {
        let Some((size, _)) = self.tracker else { return };
        let cursor = |id: NonZeroU32| planes.iter().any(|p| p.id == id && p.kind == PlaneType::Cursor);
        let refused = |(id, refusal): &(NonZeroU32, Refusal)| {
            cursor(*id) && matches!(refusal, Refusal::Test { .. } | Refusal::Commit { .. })
        };
        if plan.pointer_refusals.iter().any(refused) {
            self.refused = Some(size);
        }
    }
}

impl OutputState {
    /// Draws the pointer for a plane, if there is a pointer; a request without a buffer if no plane could show it.
    pub(super) fn draw_pointer(&mut self, parts: &mut RedrawParts<'_>) -> Option<PointerUpdate> {
        let cursor = parts.cursor.as_ref()?;
        let bounds = cursor.bounds()?;
        let (position, hotspot) = (cursor.position, cursor.hotspot);
        let hotspot = (hotspot.x, hotspot.y);
        let composited = |refusal: Refusal| {
            let place = bounds.loc + position;
            let (w, h) = (bounds.size.w.max(0) as u32, bounds.size.h.max(0) as u32);
            let dst = Rect::new(place.x, place.y, w, h);
            PointerUpdate { request: Pointer { dst, hotspot, content: Err(refusal) }, buffer: None }
        };
        let size = match self.pointer_size(cursor, parts.backend.planes(self.id)) {
            Ok(size) => size,
            Err(refusal) => return Some(composited(refusal)),
        };
        if self.pointer.tracker.as_ref().is_none_or(|(drawn, _)| *drawn != size) {
            let tracker = OutputDamageTracker::new((size.0 as i32, size.1 as i32), 1.0, Transform::Normal);
            self.pointer.tracker = Some((size, tracker));
        }
        let (_, tracker) = self.pointer.tracker.as_mut()?;
        let painter = &mut *parts.painter;
        let drawn = parts.backend.compose(self.id, Canvas::Cursor(size.0, size.1), &mut |image, age| {
            painter.draw(tracker, image, age, &cursor.elements, Color32F::TRANSPARENT).unwrap_or(false)
        });
        let Ok(buffer) = drawn else { return Some(composited(Refusal::NotDmabuf)) };
        let content = Ok(Scannable::new(buffer.format(), buffer.modifier()));
        let dst = Rect::new(position.x, position.y, size.0, size.1);
        Some(PointerUpdate { request: Pointer { dst, hotspot, content }, buffer: Some(buffer) })
    }

    /// The smallest size that holds the image and that a plane might take.
    fn pointer_size(&self, cursor: &CursorLayer, planes: &[PlaneCaps]) -> Result<(u32, u32), Refusal> {
        let size = cursor.size().ok_or(Refusal::NotDmabuf)?;
        let fits = |s: &(u32, u32)| s.0 >= size.0 && s.1 >= size.1;
        let plane = planes.iter().find(|p| p.kind == PlaneType::Cursor);
        let sizes = match plane {
            Some(plane) if !plane.cursor_sizes.is_empty() => plane.cursor_sizes.as_slice(),
            Some(_) => &[USUAL],
            None if planes.iter().any(|p| p.kind == PlaneType::Overlay) => &[USUAL],
            None => return Err(Refusal::NotDmabuf),
        };
        let larger = |s: &&(u32, u32)| self.pointer.refused.is_none_or(|refused| s.0 > refused.0);
        let fitting = || sizes.iter().filter(|s| fits(s));
        let best = fitting().find(larger).or_else(|| fitting().next_back());
        let largest = sizes.last().copied().unwrap_or(USUAL);
        best.copied().ok_or(Refusal::CursorSize { size, largest })
    }
}
