//! What is on an output: the surfaces of windows, popups and the pointer as a list of layers, topmost first.
//!
//! It owns the translation from Wayland surface state to a layer. It does not decide where a layer is shown from.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Mutex;
use std::time::Duration;

use smallvec::SmallVec;
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::Dmabuf;
use smithay::backend::renderer::element::Id;
use smithay::backend::renderer::utils::{
    Buffer, CommitCounter, DamageSnapshot, RendererSurfaceState, RendererSurfaceStateUserData,
};
use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{Buffer as BufferCoords, Physical, Point, Rectangle, Size, Transform};
use smithay::wayland::compositor::{SurfaceData, TraversalAction, with_surface_tree_downward};
use smithay::wayland::dmabuf::get_dmabuf;

use drm_prime::scanout::{ContentType, Layer, Rect, Refusal, Rotation, Scannable, SourceRect};

use super::color::{self, Color};
use super::rhythm;
use crate::fences::Release;
use crate::handlers::alpha_modifier::alpha;
use crate::handlers::content_type::content_type;
use crate::handlers::tearing_control::may_tear;
use crate::lock;

/// One surface with a buffer, as it is shown on one output.
#[derive(Debug)]
pub struct SurfaceLayer {
    /// The surface.
    pub surface: WlSurface,
    /// Its identity for damage tracking.
    pub id: Id,
    /// Its buffer; a clone held anywhere keeps `wl_buffer.release` back.
    pub buffer: Buffer,
    /// The promise to signal its release point, if it has one; held as the buffer is.
    pub(crate) release: Option<Release>,
    /// The dma-buf behind the buffer, if it is one.
    pub dmabuf: Option<Dmabuf>,
    /// What its luma and chroma are taken for; none for RGB.
    pub color: Option<Color>,
    /// How much of it is seen, 0xffff for all.
    pub alpha: u16,
    /// What its client says that it is.
    pub content_type: ContentType,
    /// Changes with every commit that changes the content.
    pub commit: CommitCounter,
    /// When its client made that commit, on CLOCK_MONOTONIC.
    pub made: Option<Duration>,
    /// Damage by commit, in buffer pixels.
    pub damage: DamageSnapshot<i32, BufferCoords>,
    /// What is shown, in pixels of the buffer as it lies in memory.
    pub src: Rectangle<f64, BufferCoords>,
    /// Where it is shown, in pixels of the output.
    pub dst: Rectangle<i32, Physical>,
    /// wl_surface.set_buffer_transform.
    pub transform: Transform,
    /// The first row in memory is the bottom row of the picture.
    pub y_invert: bool,
    /// Opaque parts, relative to `dst`.
    pub opaque_regions: SmallVec<[Rectangle<i32, Physical>; 4]>,
    /// The opaque parts cover all of it.
    pub opaque: bool,
    /// Its client would rather have it shown at once than whole.
    pub tearing: bool,
}

impl SurfaceLayer {
    /// How the picture was turned to get to memory: the buffer transform and then, for a buffer stored bottom row
    /// first, a vertical flip (which turns a rotation by r into a flip and a rotation by 180 - r).
    pub fn memory_transform(&self) -> Transform {
        if !self.y_invert {
            return self.transform;
        }
        match self.transform {
            Transform::Normal => Transform::Flipped180,
            Transform::_90 => Transform::Flipped90,
            Transform::_180 => Transform::Flipped,
            Transform::_270 => Transform::Flipped270,
            Transform::Flipped => Transform::_180,
            Transform::Flipped90 => Transform::_90,
            Transform::Flipped180 => Transform::Normal,
            Transform::Flipped270 => Transform::_270,
        }
    }

    /// How a plane has to turn the buffer, which undoes what the transform did. Both count counter-clockwise turns after a
    /// reflection along x, so that a reflected one is its own opposite.
    pub fn rotation(&self) -> Rotation {
        let (quarters, flipped) = match self.memory_transform() {
            Transform::Normal => (0, false),
            Transform::_90 => (3, false),
            Transform::_180 => (2, false),
            Transform::_270 => (1, false),
            Transform::Flipped => (0, true),
            Transform::Flipped90 => (1, true),
            Transform::Flipped180 => (2, true),
            Transform::Flipped270 => (3, true),
        };
        Rotation::new(quarters, flipped, false)
    }

    /// The largest part of the output in which it is opaque.
    fn opaque_region(&self) -> Rect {
        let largest = self.opaque_regions.iter().max_by_key(|r| i64::from(r.size.w) * i64::from(r.size.h));
        largest.map_or_else(Rect::default, |r| rect(Rectangle::new(self.dst.loc + r.loc, r.size)))
    }

    /// What it asks of the planner.
    pub fn request(&self, content: Result<Scannable, Refusal>, rate: u8) -> Layer {
        let mut hasher = DefaultHasher::new();
        self.surface.id().hash(&mut hasher);
        let mut request = Layer::new(self.dst_rect(), self.source_rect(), self.opaque, content);
        if !self.opaque {
            request.opaque_region = self.opaque_region();
        }
        let (rotation, alpha, content_type) = (self.rotation(), self.alpha, self.content_type);
        Layer { key: hasher.finish(), rotation, alpha, content_type, rate, ..request }
    }

    /// The size in which the picture is shown, as it lies in memory, if that is not simply the source rectangle's.
    pub fn scaled_size(&self) -> Option<Size<i32, BufferCoords>> {
        let turned = matches!(
            self.transform,
            Transform::_90 | Transform::_270 | Transform::Flipped90 | Transform::Flipped270
        );
        let (w, h) = (self.dst.size.w, self.dst.size.h);
        let size: Size<i32, BufferCoords> = if turned { (h, w).into() } else { (w, h).into() };
        let whole = |v: f64| v.fract() == 0.0;
        let plain = self.src.size == size.to_f64() && whole(self.src.loc.x) && whole(self.src.loc.y);
        (!plain).then_some(size)
    }

    /// The source rectangle in 16.16 fixed point.
    pub fn source_rect(&self) -> SourceRect {
        let fixed = |v: f64| (v.max(0.0) * 65536.0).round() as u32;
        SourceRect {
            x: fixed(self.src.loc.x),
            y: fixed(self.src.loc.y),
            w: fixed(self.src.size.w),
            h: fixed(self.src.size.h),
        }
    }

    /// The destination in the planner's terms.
    pub fn dst_rect(&self) -> Rect {
        rect(self.dst)
    }
}

/// Translates a rectangle of output pixels.
pub fn rect(r: Rectangle<i32, Physical>) -> Rect {
    Rect::new(r.loc.x, r.loc.y, r.size.w.max(0) as u32, r.size.h.max(0) as u32)
}

/// Appends the layers of a surface and its subsurfaces, topmost first, with the surface's origin at `location`
/// (output pixels); layers that lie outside the output are left out.
pub fn collect_tree(
    out: &mut Vec<SurfaceLayer>,
    root: &WlSurface,
    location: Point<i32, Physical>,
    output: Size<i32, Physical>,
) {
    let offset = |state: &RendererSurfaceState| state.view().map(|v| v.offset.to_physical(1));
    with_surface_tree_downward(
        root,
        location,
        |_, states, location| {
            let view = states.data_map.get::<RendererSurfaceStateUserData>().and_then(|s| offset(&lock(s)));
            match view {
                Some(offset) => TraversalAction::DoChildren(*location + offset),
                None => TraversalAction::SkipChildren,
            }
        },
        |surface, states, location| {
            let Some(state) = states.data_map.get::<RendererSurfaceStateUserData>() else { return };
            let state = lock(state);
            let Some(offset) = offset(&state) else { return };
            if let Some(layer) = layer(surface, states, &state, *location + offset)
                && layer.dst.overlaps(Rectangle::from_size(output))
            {
                out.push(layer);
            }
        },
        |_, _, _| true,
    );
}

/// The identity for damage tracking: another one for each change of what all pixels look like, since clients damage none
/// for it.
fn identity(surface: &WlSurface, states: &SurfaceData, looks: (Option<Color>, u16)) -> Id {
    type Looks = (Option<Color>, u16);
    #[derive(Debug, Default)]
    struct Identity(Mutex<Option<(Looks, Id)>>);
    if looks == (None, u16::MAX) {
        return Id::from_wayland_resource(surface);
    }
    let mut known = lock(&states.data_map.get_or_insert_threadsafe(Identity::default).0);
    match &*known {
        Some((of, id)) if *of == looks => id.clone(),
        _ => known.insert((looks, Id::new())).1.clone(),
    }
}

fn layer(
    surface: &WlSurface,
    states: &SurfaceData,
    state: &RendererSurfaceState,
    location: Point<i32, Physical>,
) -> Option<SurfaceLayer> {
    let (buffer, view, size) = (state.buffer()?.clone(), state.view()?, state.buffer_size()?);
    let dmabuf = get_dmabuf(&buffer).ok().cloned();
    let (transform, scale) = (state.buffer_transform(), state.buffer_scale());
    let mut src = view.src.to_buffer(f64::from(scale), transform, &size.to_f64());
    let y_invert = dmabuf.as_ref().is_some_and(Dmabuf::y_inverted);
    if let (true, Some(dmabuf)) = (y_invert, &dmabuf) {
        src.loc.y = f64::from(dmabuf.size().h) - src.loc.y - src.size.h;
    }
    let dst = Rectangle::new(location, view.dst.to_physical(1));
    let opaque_regions: SmallVec<[_; 4]> =
        state.opaque_regions().unwrap_or_default().iter().map(|r| r.to_physical(1)).collect();
    let whole = Rectangle::from_size(dst.size);
    let opaque = match &*opaque_regions {
        [] => false,
        [one] => one.contains_rect(whole),
        several => whole.subtract_rects(several.iter().copied()).is_empty(),
    };
    let color = color::of(states, dmabuf.as_ref());
    let alpha = alpha(states);
    Some(SurfaceLayer {
        surface: surface.clone(),
        id: identity(surface, states, (color, alpha)),
        buffer,
        release: Release::of(states),
        dmabuf,
        color,
        alpha,
        content_type: content_type(states),
        commit: state.current_commit(),
        made: rhythm::made(states),
        damage: state.damage(),
        src,
        dst,
        transform,
        y_invert,
        opaque_regions,
        opaque,
        tearing: may_tear(states),
    })
}
