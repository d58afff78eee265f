//! One layer on one plane, by what the plane can do alone: neither its neighbours nor the driver have a say here.

use super::geometry::Rect;
use super::layer::{Layer, Pointer, Scannable};
use super::plane::{BlendMode, PlaneCaps, Rotation, Scaling};
use super::refusal::Refusal;

/// How a plane shows a layer that it can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub rotation: Rotation,
    pub blend: Option<BlendMode>,
}

/// Tells how `plane` shows `layer`, or why it cannot. Without `content` it is asked about the layer's shape only.
pub(super) fn fit(plane: &PlaneCaps, layer: &Layer, content: Option<&Scannable>) -> Result<Fit, Refusal> {
    if let Some(content) = content {
        takes(plane, content)?;
    }
    let supported = plane.rotations;
    let rotation = layer.rotation.within(supported);
    let rotation = rotation.ok_or(Refusal::Rotation { wanted: layer.rotation, supported })?;
    scales(plane, layer)?;
    let size = (layer.dst.w, layer.dst.h);
    if let Some((smallest, largest)) = plane.sizes
        && (size.0 < smallest.0 || size.1 < smallest.1 || size.0 > largest.0 || size.1 > largest.1)
    {
        return Err(Refusal::Size { size, smallest, largest });
    }
    if layer.alpha != u16::MAX && !plane.alpha {
        return Err(Refusal::Alpha { alpha: layer.alpha });
    }
    Ok(Fit { rotation, blend: blend(plane, layer.opaque)? })
}

fn takes(plane: &PlaneCaps, content: &Scannable) -> Result<(), Refusal> {
    if !plane.formats.contains(&(content.format, content.modifier)) {
        return Err(Refusal::Format { format: content.format, modifier: u64::from(content.modifier) });
    }
    if content.foreign && !plane.foreign {
        return Err(Refusal::Foreign);
    }
    let (encoding, range) = content.color;
    let is_yuv = crate::format::info(content.format).is_some_and(|info| info.is_yuv);
    if is_yuv && !(plane.yuv.encodings[encoding as usize] && plane.yuv.ranges[range as usize]) {
        return Err(Refusal::Color { encoding, range });
    }
    Ok(())
}

fn scales(plane: &PlaneCaps, layer: &Layer) -> Result<(), Refusal> {
    let (src, dst) = (layer.src, layer.dst);
    let from = if layer.rotation.turns_sides() { (src.h, src.w) } else { (src.w, src.h) };
    let same = |from: u32, to: u32| u64::from(from) == u64::from(to) << 16;
    if same(from.0, dst.w) && same(from.1, dst.h) {
        return Ok(());
    }
    let factor = |from: u32, to: u32| (u64::from(to) << 32).checked_div(u64::from(from));
    let within = |from: u32, to: u32, min: u32, max: u32| {
        factor(from, to).is_some_and(|f| (u64::from(min)..=u64::from(max)).contains(&f))
    };
    let scales = match plane.scaling {
        Scaling::Unknown => true,
        Scaling::Never => false,
        Scaling::Range { min, max } => within(from.0, dst.w, min, max) && within(from.1, dst.h, min, max),
    };
    let refusal = || Refusal::Scaling { from, to: (dst.w, dst.h), allowed: plane.scaling };
    scales.then_some(()).ok_or_else(refusal)
}

fn blend(plane: &PlaneCaps, opaque: bool) -> Result<Option<BlendMode>, Refusal> {
    let modes = plane.blend;
    let mode = match (opaque, modes.premultiplied, modes.none) {
        (_, true, _) => BlendMode::Premultiplied,
        (true, false, true) => BlendMode::None,
        _ => return Err(Refusal::Blend),
    };
    Ok(modes.settable.then_some(mode))
}

/// The same for the pointer's image on a cursor plane or an overlay.
pub(super) fn fit_pointer(plane: &PlaneCaps, pointer: &Pointer) -> Result<Fit, Refusal> {
    let content = pointer.content.as_ref().map_err(Clone::clone)?;
    let size = (pointer.dst.w, pointer.dst.h);
    if let (Some(&largest), false) = (plane.cursor_sizes.last(), plane.cursor_sizes.contains(&size)) {
        return Err(Refusal::CursorSize { size, largest });
    }
    fit(plane, &pointer.as_layer(), Some(content))
}

impl Pointer {
    /// The pointer as a layer.
    pub(super) fn as_layer(&self) -> Layer {
        let src = super::SourceRect::whole(self.dst.w, self.dst.h);
        Layer::new(self.dst, src, false, self.content.clone())
    }
}

/// Tells whether a primary plane may show `layer` at its place, given what is around it.
pub(super) fn fills(plane: &PlaneCaps, dst: Rect, output: Rect, crtc_shows_backdrop: bool) -> bool {
    dst == output || (plane.covers_part && crtc_shows_backdrop && output.contains(&dst))
}
