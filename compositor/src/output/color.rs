//! What a surface's luma and chroma are taken for: what its client says (color-representation), else by the picture's size.
//!
//! It owns that part of a surface's double-buffered state, and the rule for those who say nothing. Planes and composition
//! both go by it, so that a picture looks the same wherever it is shown. The protocol's own rules are in
//! `primeway_protocols::color_representation`.
//!
//! # Without a word of the client
//!
//! Limited range, and BT.709 if the picture is wider than 1279 or higher than 576, else BT.601. That is how players take
//! streams that say nothing: mpv (csputils.c, `mp_csp_guess_colorspace`) by the very same rule, GStreamer (video-info.c,
//! defaults for SD and HD) by the height of 576 alone. A compositor that took all for BT.709, as weston does, would show
//! old recordings with wrong reds; all for BT.601, as drivers' defaults are, films with wrong greens.
//!
//! # Chroma location
//!
//! It is checked and kept by the protocol and has no effect: there is no plane property for it, and a picture shown 1:1 takes
//! for each pixel the chroma sample of its block, on vkms as in composition.

use std::sync::Mutex;

use drm_prime::format;
use drm_prime::scanout::{ColorEncoding, ColorRange};
use primeway_protocols::color_representation::{
    AlphaMode, Coefficients, Contents, Model, Range, Representation, Supported,
};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::Dmabuf;
use smithay::reexports::wayland_server::DisplayHandle;
use smithay::wayland::compositor::{Cacheable, SurfaceData};

use crate::lock;

/// Matrix and range.
pub type Color = (ColorEncoding, ColorRange);

/// What both planes and composition honour: colours that are premultiplied as they are stored, RGB as it is, and luma and
/// chroma of three matrices. Of straight alpha neither renderer makes anything.
pub fn supported() -> Supported {
    let matrices = [Coefficients::Bt601, Coefficients::Bt709, Coefficients::Bt2020];
    let both = |matrix| [(matrix, Range::Full), (matrix, Range::Limited)];
    let mut coefficients = vec![(Coefficients::Identity, Range::Full)];
    coefficients.extend(matrices.into_iter().flat_map(both));
    Supported { alpha_modes: vec![AlphaMode::PremultipliedElectrical], coefficients }
}

/// What the pixels of a dma-buf are; nothing that could be compared, if its format is not known.
pub fn contents(dmabuf: &Dmabuf) -> Contents {
    match format::info(dmabuf.format().code) {
        Some(info) if info.is_yuv => {
            let chroma = info.planes.get(1);
            Contents::Pixels(Model::Ycbcr { is_420: chroma.is_some_and(|c| (c.hsub, c.vsub) == (2, 2)) })
        }
        Some(_) => Contents::Pixels(Model::Rgb),
        None => Contents::None,
    }
}

/// What the last commit of a surface left attached.
#[derive(Debug, Default)]
struct Attached(Mutex<Contents>);

/// Notes what a commit attaches, if anything; gives what the surface shows from this commit on.
pub fn attach(states: &SurfaceData, new: Option<Contents>) -> Contents {
    let mut attached = lock(&states.data_map.get_or_insert_threadsafe(Attached::default).0);
    if let Some(new) = new {
        *attached = new;
    }
    *attached
}

/// The part of a surface's double-buffered state.
#[derive(Clone, Copy, Debug, Default)]
struct SurfaceColor(Option<(Coefficients, Range)>);

impl Cacheable for SurfaceColor {
    fn commit(&mut self, _: &DisplayHandle) -> Self {
        *self
    }

    fn merge_into(self, into: &mut Self, _: &DisplayHandle) {
        *into = self;
    }
}

/// Has what a client says come with the commit that its surface is about to make.
pub fn set(states: &SurfaceData, representation: Representation) {
    // Surfaces of which nothing was ever said are left alone.
    if representation.coefficients.is_some() || states.cached_state.has::<SurfaceColor>() {
        states.cached_state.get::<SurfaceColor>().pending().0 = representation.coefficients;
    }
}

/// What the pixels that a surface shows are taken for; `None` for RGB.
pub fn of(states: &SurfaceData, dmabuf: Option<&Dmabuf>) -> Option<Color> {
    let dmabuf = dmabuf.filter(|dmabuf| matches!(contents(dmabuf), Contents::Pixels(Model::Ycbcr { .. })))?;
    let said = states.cached_state.has::<SurfaceColor>();
    let said = said.then(|| states.cached_state.get::<SurfaceColor>().current().0).flatten();
    let size = dmabuf.size();
    Some(said.and_then(color).unwrap_or_else(|| usual(size.w, size.h)))
}

/// The planner's words for the protocol's; `None` for what is not offered to clients.
fn color((coefficients, range): (Coefficients, Range)) -> Option<Color> {
    let encoding = match coefficients {
        Coefficients::Bt601 => ColorEncoding::Bt601,
        Coefficients::Bt709 => ColorEncoding::Bt709,
        Coefficients::Bt2020 => ColorEncoding::Bt2020,
        _ => return None,
    };
    let range = match range {
        Range::Full => ColorRange::Full,
        Range::Limited => ColorRange::Limited,
        _ => return None,
    };
    Some((encoding, range))
}

/// What a picture of this size is taken for if its client says nothing.
fn usual(width: i32, height: i32) -> Color {
    let is_hd = width >= 1280 || height > 576;
    (if is_hd { ColorEncoding::Bt709 } else { ColorEncoding::Bt601 }, ColorRange::Limited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_taken_for_what_its_size_is_usual_for() {
        for ((width, height), encoding) in [
            ((320, 240), ColorEncoding::Bt601),
            ((720, 576), ColorEncoding::Bt601),
            ((1279, 576), ColorEncoding::Bt601),
            ((720, 577), ColorEncoding::Bt709),
            // A film of 2.4:1 without its black bars.
            ((1280, 534), ColorEncoding::Bt709),
            ((1920, 1088), ColorEncoding::Bt709),
            ((3840, 2160), ColorEncoding::Bt709),
        ] {
            assert_eq!(usual(width, height), (encoding, ColorRange::Limited), "{width}x{height}");
        }
    }

    #[test]
    fn all_that_is_offered_is_understood() {
        let supported = supported();
        assert_eq!(supported.alpha_modes, [AlphaMode::PremultipliedElectrical]);
        let (rgb, ycbcr): (Vec<_>, Vec<_>) =
            supported.coefficients.into_iter().partition(|(matrix, _)| *matrix == Coefficients::Identity);
        assert_eq!(rgb, [(Coefficients::Identity, Range::Full)]);
        let colors: std::collections::HashSet<Color> =
            ycbcr.into_iter().map(|pair| color(pair).unwrap()).collect();
        assert_eq!(colors.len(), 6);
    }
}
