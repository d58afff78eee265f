//! Planes: what they can do, read from their properties, and how an update is written into a request.
//!
//! What the kernel does not tell of a driver comes from [`drm_prime::quirks`].

use std::collections::HashSet;
use std::num::NonZeroU32;

use drm::DriverCapability;
use drm::control::{PlaneType as KmsPlaneType, RawResourceHandle, plane, property};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{BlendMode, BlendModes, PlaneCaps, PlaneType, Rotation, Rotations, YuvCaps, Zpos};
use drm_prime::{CommitId, quirks};

use super::device::{CardError, KmsDevice, Object, Properties, Request};
use crate::backend::PlaneUpdate;

/// Names of COLOR_ENCODING's choices, in the order of [`drm_prime::scanout::ColorEncoding`] (drm_color_mgmt.c).
const ENCODINGS: [&str; 3] = ["ITU-R BT.601 YCbCr", "ITU-R BT.709 YCbCr", "ITU-R BT.2020 YCbCr"];
/// Names of COLOR_RANGE's, in the order of [`drm_prime::scanout::ColorRange`].
const RANGES: [&str; 2] = ["YCbCr limited range", "YCbCr full range"];
/// Names of the `rotation` property's bits, from bit 0 on (drm_blend.c).
const ROTATIONS: [&str; 6] = ["rotate-0", "rotate-90", "rotate-180", "rotate-270", "reflect-x", "reflect-y"];

/// A plane's property ids, and the values of their choices.
#[derive(Debug)]
struct PlaneProps {
    fb: property::Handle,
    crtc: property::Handle,
    src: [property::Handle; 4],
    dst: [property::Handle; 4],
    in_fence: Option<property::Handle>,
    rotation: Option<property::Handle>,
    zpos: Option<property::Handle>,
    alpha: Option<property::Handle>,
    /// With the values of "None" and "Pre-multiplied".
    blend: Option<(property::Handle, [Option<u64>; 2])>,
    encoding: Option<(property::Handle, [Option<u64>; 3])>,
    range: Option<(property::Handle, [Option<u64>; 2])>,
    hotspot: Option<[property::Handle; 2]>,
    /// Where the driver makes use of it.
    damage: Option<property::Handle>,
}

/// A plane as the backend drives it.
#[derive(Debug)]
pub struct KmsPlane {
    pub(super) handle: plane::Handle,
    props: PlaneProps,
}

impl KmsPlane {
    /// Turns it off, and upright and full again for a master who does not know of rotations.
    pub(super) fn turn_off(&self, req: &mut Request) {
        let (plane, props) = (self.handle.into(), &self.props);
        req.set(plane, props.fb, 0);
        req.set(plane, props.crtc, 0);
        if let Some(rotation) = props.rotation {
            req.set(plane, rotation, Rotation::NORMAL.bits());
        }
        if let Some(alpha) = props.alpha {
            req.set(plane, alpha, u64::from(u16::MAX));
        }
    }

    /// It is told which parts of a buffer have changed.
    pub(super) fn takes_damage(&self) -> bool {
        self.props.damage.is_some()
    }

    /// Tells it which parts of its buffer have changed: the rectangles of a blob.
    pub(super) fn damage(&self, req: &mut Request, blob: u64) {
        if let Some(property) = self.props.damage {
            req.set(self.handle.into(), property, blob);
        }
    }

    /// Has it wait for a fence.
    pub(super) fn wait_for(&self, req: &mut Request, fence: u64) {
        if let Some(property) = self.props.in_fence {
            req.set(self.handle.into(), property, fence);
        }
    }

    /// Has it show a framebuffer as `update` says.
    pub(super) fn show(
        &self,
        req: &mut Request,
        crtc: RawResourceHandle,
        id: CommitId<'_>,
        update: &PlaneUpdate,
    ) {
        // Signed properties travel as 64-bit two's complement.
        let signed = |v: i32| i64::from(v) as u64;
        let (plane, props): (RawResourceHandle, _) = (self.handle.into(), &self.props);
        let mut set = |property: Option<property::Handle>, value: Option<u64>| {
            if let (Some(property), Some(value)) = (property, value) {
                req.set(plane, property, value);
            }
        };
        set(Some(props.fb), Some(u64::from(id.get())));
        set(Some(props.crtc), Some(u64::from(crtc.get())));
        let (src, dst) = (update.src, update.dst);
        for (property, value) in props.src.iter().zip([src.x, src.y, src.w, src.h]) {
            set(Some(*property), Some(u64::from(value)));
        }
        let dst = [signed(dst.x), signed(dst.y), u64::from(dst.w), u64::from(dst.h)];
        for (property, value) in props.dst.iter().zip(dst) {
            set(Some(*property), Some(value));
        }
        set(props.rotation, Some(update.rotation.bits()));
        set(props.zpos, update.zpos.map(|zpos| zpos as u64));
        set(props.alpha, Some(u64::from(update.alpha)));
        if let (Some((property, values)), Some(mode)) = (props.blend, update.blend) {
            set(Some(property), values[usize::from(mode == BlendMode::Premultiplied)]);
        }
        if drm_prime::format::info(update.buffer.format()).is_some_and(|info| info.is_yuv) {
            let (encoding, range) = update.color;
            set(props.encoding.map(|p| p.0), props.encoding.and_then(|p| p.1[encoding as usize]));
            set(props.range.map(|p| p.0), props.range.and_then(|p| p.1[range as usize]));
        }
        if let (Some([x, y]), Some((left, top))) = (props.hotspot, update.hotspot) {
            set(Some(x), Some(signed(left)));
            set(Some(y), Some(signed(top)));
        }
    }
}

/// Reads all planes of a card.
///
/// # Errors
/// When a plane lacks the properties of atomic commits.
pub fn read_planes(device: &dyn KmsDevice) -> Result<Vec<(KmsPlane, PlaneCaps)>, CardError> {
    let resources = device.resources().map_err(CardError::io("reading resources"))?;
    let driver = device.driver();
    let mut planes = Vec::with_capacity(resources.planes.len());
    for (index, handle) in resources.planes.into_iter().enumerate() {
        let info = device.plane(handle).map_err(CardError::io("reading a plane"))?;
        let crtcs = info.crtcs;
        let props = Properties::read(device, Object::Plane(handle))?;
        let formats = match props.blob(device, "IN_FORMATS") {
            Some(blob) => parse_in_formats(&blob),
            None => info
                .formats
                .iter()
                .filter_map(|f| Some((DrmFourcc::try_from(*f).ok()?, DrmModifier::Linear)))
                .collect(),
        };
        let read = plane_props(&props, &driver)?;
        let caps = caps(device, &driver, index, handle, crtcs, formats, &props, &read);
        planes.push((KmsPlane { handle, props: read }, caps));
    }
    Ok(planes)
}

#[allow(clippy::too_many_arguments, reason = "what a plane is made of")]
fn caps(
    device: &dyn KmsDevice,
    driver: &str,
    index: usize,
    handle: plane::Handle,
    crtcs: u32,
    formats: HashSet<(DrmFourcc, DrmModifier)>,
    props: &Properties,
    read: &PlaneProps,
) -> PlaneCaps {
    let kind = match props.value("type") {
        Some(v) if v == KmsPlaneType::Primary as u64 => PlaneType::Primary,
        Some(v) if v == KmsPlaneType::Cursor as u64 => PlaneType::Cursor,
        _ => PlaneType::Overlay,
    };
    let zpos = match (props.value("zpos"), props.range("zpos")) {
        (_, Some((min, max))) => Zpos::Range { min, max },
        (Some(zpos), None) => i64::try_from(zpos).map_or(Zpos::Unknown, Zpos::Fixed),
        (None, None) => quirks::stacking(driver, index),
    };
    let bits = ROTATIONS.iter().zip(0..).filter(|(name, _)| props.choice("rotation", name).is_some());
    let rotations = bits.map(|(_, bit)| 1 << bit).sum();
    let yuv = YuvCaps {
        encodings: read.encoding.map_or(YuvCaps::FIXED.encodings, |p| p.1.map(|v| v.is_some())),
        ranges: read.range.map_or(YuvCaps::FIXED.ranges, |p| p.1.map(|v| v.is_some())),
    };
    let blend = read.blend.map_or(BlendModes::FIXED, |(_, [none, premultiplied])| BlendModes {
        premultiplied: premultiplied.is_some(),
        none: none.is_some(),
        settable: true,
    });
    PlaneCaps {
        crtcs,
        cursor_sizes: if kind == PlaneType::Cursor { cursor_sizes(device, props) } else { Vec::new() },
        scaling: quirks::scaling(driver),
        rotations: Rotations::from_bits(rotations),
        alpha: read.alpha.is_some(),
        blend,
        yuv,
        covers_part: kind == PlaneType::Primary && quirks::primary_covers_part(driver),
        ..PlaneCaps::new(NonZeroU32::from(handle), kind, formats, zpos)
    }
}

fn plane_props(props: &Properties, driver: &str) -> Result<PlaneProps, CardError> {
    let choices = |property: &str, names: [&str; 3]| names.map(|name| props.choice(property, name));
    let two = |property: &str, names: [&str; 2]| names.map(|name| props.choice(property, name));
    Ok(PlaneProps {
        fb: props.require("FB_ID")?,
        crtc: props.require("CRTC_ID")?,
        src: [
            props.require("SRC_X")?,
            props.require("SRC_Y")?,
            props.require("SRC_W")?,
            props.require("SRC_H")?,
        ],
        dst: [
            props.require("CRTC_X")?,
            props.require("CRTC_Y")?,
            props.require("CRTC_W")?,
            props.require("CRTC_H")?,
        ],
        in_fence: props.id("IN_FENCE_FD"),
        rotation: props.id("rotation"),
        zpos: props.range("zpos").and_then(|_| props.id("zpos")),
        alpha: props.id("alpha"),
        blend: props
            .id("pixel blend mode")
            .map(|id| (id, two("pixel blend mode", ["None", "Pre-multiplied"]))),
        encoding: props.id("COLOR_ENCODING").map(|id| (id, choices("COLOR_ENCODING", ENCODINGS))),
        range: props.id("COLOR_RANGE").map(|id| (id, two("COLOR_RANGE", RANGES))),
        hotspot: props.id("HOTSPOT_X").zip(props.id("HOTSPOT_Y")).map(|(x, y)| [x, y]),
        damage: props.id("FB_DAMAGE_CLIPS").filter(|_| quirks::wants_damage(driver)),
    })
}

/// The sizes of a cursor plane's buffers, smallest first: those of SIZE_HINTS or else the usual one and the one that
/// DRM_CAP_CURSOR_WIDTH and _HEIGHT promise, of which the driver may refuse the former.
fn cursor_sizes(device: &dyn KmsDevice, props: &Properties) -> Vec<(u32, u32)> {
    let hints = props.blob(device, "SIZE_HINTS").map(|blob| parse_size_hints(&blob)).unwrap_or_default();
    if !hints.is_empty() {
        return hints;
    }
    let side = |capability| {
        let value = device.capability(capability).ok().and_then(|v| u32::try_from(v).ok());
        value.filter(|v| (1..=4096).contains(v)).unwrap_or(64)
    };
    let promised = (side(DriverCapability::CursorWidth), side(DriverCapability::CursorHeight));
    let mut sizes = vec![(64, 64), promised];
    sizes.retain(|size| size.0 <= promised.0 && size.1 <= promised.1);
    sizes.dedup();
    sizes
}

/// Parses the blob of SIZE_HINTS (`struct drm_plane_size_hint`, drm_mode.h): pairs of 16-bit numbers.
fn parse_size_hints(blob: &[u8]) -> Vec<(u32, u32)> {
    let hint = |b: &[u8]| {
        let [w0, w1, h0, h1] = *<&[u8; 4]>::try_from(b).ok()?;
        Some((u32::from(u16::from_ne_bytes([w0, w1])), u32::from(u16::from_ne_bytes([h0, h1]))))
    };
    let mut sizes: Vec<_> = blob.chunks_exact(4).filter_map(hint).filter(|s| s.0 > 0 && s.1 > 0).collect();
    sizes.sort_unstable();
    sizes
}

/// The pairs of IN_FORMATS whose format the fourcc table knows.
fn parse_in_formats(blob: &[u8]) -> HashSet<(DrmFourcc, DrmModifier)> {
    let known = |(code, modifier)| Some((DrmFourcc::try_from(code).ok()?, DrmModifier::from(modifier)));
    in_formats(blob).into_iter().filter_map(known).collect()
}

/// Parses the blob of IN_FORMATS (`struct drm_format_modifier_blob`, drm_mode.h); entries outside the blob are left out.
pub(super) fn in_formats(blob: &[u8]) -> Vec<(u32, u64)> {
    let u32_at =
        |at: usize| blob.get(at..at.checked_add(4)?).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let u64_at =
        |at: usize| blob.get(at..at.checked_add(8)?).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    let header = || -> Option<[usize; 4]> {
        Some([u32_at(8)? as usize, u32_at(12)? as usize, u32_at(16)? as usize, u32_at(20)? as usize])
    };
    let Some([count, formats_at, modifiers, modifiers_at]) = header() else { return Vec::new() };
    let mut pairs = Vec::new();
    for entry in 0..modifiers.min(blob.len()) {
        let at = modifiers_at + entry * 24;
        let (Some(mask), Some(offset), Some(modifier)) = (u64_at(at), u32_at(at + 8), u64_at(at + 16)) else {
            break;
        };
        for bit in (0..64).filter(|bit| mask & (1 << bit) != 0) {
            let index = offset as usize + bit;
            let format = (index < count).then(|| u32_at(formats_at + index * 4)).flatten();
            pairs.extend(format.map(|format| (format, modifier)));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(formats: &[u32], modifiers: &[(u64, u32, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        let modifiers_at = 24 + formats.len() as u32 * 4;
        for word in [1, 0, formats.len() as u32, 24, modifiers.len() as u32, modifiers_at] {
            out.extend(word.to_ne_bytes());
        }
        formats.iter().for_each(|f| out.extend(f.to_ne_bytes()));
        for (mask, offset, modifier) in modifiers {
            out.extend(mask.to_ne_bytes());
            out.extend(offset.to_ne_bytes());
            out.extend(0u32.to_ne_bytes());
            out.extend(modifier.to_ne_bytes());
        }
        out
    }

    #[test]
    fn in_formats_pairs_come_from_the_mask_and_its_offset() {
        let formats = [DrmFourcc::Xrgb8888 as u32, DrmFourcc::Nv12 as u32, DrmFourcc::P010 as u32];
        let pairs = parse_in_formats(&blob(&formats, &[(0b11, 1, 0), (0b1, 0, 0x0100_0000_0000_0001)]));
        let expected = [
            (DrmFourcc::Nv12, DrmModifier::Linear),
            (DrmFourcc::P010, DrmModifier::Linear),
            (DrmFourcc::Xrgb8888, DrmModifier::from(0x0100_0000_0000_0001)),
        ];
        assert_eq!(pairs, expected.into());
    }

    #[test]
    fn a_truncated_in_formats_blob_gives_what_it_holds() {
        let whole = blob(&[DrmFourcc::Xrgb8888 as u32], &[(1, 0, 0)]);
        for len in 0..whole.len() {
            assert!(parse_in_formats(&whole[..len]).is_empty());
        }
        assert_eq!(parse_in_formats(&whole).len(), 1);
    }

    #[test]
    fn size_hints_are_pairs_smallest_first() {
        let hints: Vec<u8> =
            [256u16, 256, 64, 64, 0, 0, 128].into_iter().flat_map(u16::to_ne_bytes).collect();
        assert_eq!(parse_size_hints(&hints), [(64, 64), (256, 256)]);
        assert!(parse_size_hints(&[1, 0, 1]).is_empty());
    }
}
