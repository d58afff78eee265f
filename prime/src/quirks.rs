//! Drivers that accept a framebuffer and then show it wrongly, or worse. Named here, so that such buffers are composited.
//! What a driver refuses by itself is not here: its errno tells.

use crate::device::FramebufferRequest;
use crate::scanout::{Scaling, Zpos};

/// Something that a driver gets wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Quirk {
    /// vkms (seen in 7.2.13) adds the offset of the first buffer plane twice, in `drm_gem_fb_vmap` and in
    /// `packed_pixels_offset`, and so reads beyond the mapping: its worker faults and the display stops.
    #[error("it adds the offset of the first buffer plane twice")]
    FirstPlaneOffset,
    /// vkms (seen in 7.2.13) reads every buffer plane from the first object (`packed_pixels_addr` uses `map[0]`).
    #[error("it reads every buffer plane from the first object")]
    SeveralObjects,
}

/// The quirk that a framebuffer of `request` would meet on a device of `driver`, if any.
#[must_use]
pub fn met_by(driver: &str, request: &FramebufferRequest) -> Option<Quirk> {
    if driver != "vkms" {
        return None;
    }
    let first = request.planes.iter().flatten().next()?;
    if first.1.offset != 0 {
        return Some(Quirk::FirstPlaneOffset);
    }
    let apart = request.planes.iter().flatten().any(|(handle, _)| *handle != first.0);
    apart.then_some(Quirk::SeveralObjects)
}

/// A plane's place in the blending order on a driver without zpos: `index` is the plane's among all of the device.
///
/// | driver | order | source |
/// |---|---|---|
/// | vkms | planes as they were created, whatever their type: an overlay created before the primary lies under it | `vkms_crtc.c` walks the plane mask; seen in 7.2.13 |
#[must_use]
pub fn stacking(driver: &str, index: usize) -> Zpos {
    match (driver, i64::try_from(index)) {
        ("vkms", Ok(index)) => Zpos::Fixed(index),
        _ => Zpos::Unknown,
    }
}

/// What is known of a driver's scaling; the kernel has no property for it.
#[must_use]
pub fn scaling(driver: &str) -> Scaling {
    // vkms_plane.c: DRM_PLANE_NO_SCALING.
    if driver == "vkms" { Scaling::Never } else { Scaling::Unknown }
}

/// Whether a driver gains from being told which parts of a buffer have changed (FB_DAMAGE_CLIPS), which costs two system
/// calls a frame. Those do that copy what is shown elsewhere, over a bus or to a host: `atomic_update` of each of them
/// (Linux 7.2) walks the clips. Those that scan memory out, i915 and amdgpu among them, save power with some panels (PSR2) if
/// at all.
#[must_use]
pub fn wants_damage(driver: &str) -> bool {
    const COPIES: [&str; 11] = [
        "ast",
        "cirrus-qemu",
        "gm12u320",
        "gud",
        "hyperv_drm",
        "mgag200",
        "ofdrm",
        "simpledrm",
        "udl",
        "virtio_gpu",
        "vmwgfx",
    ];
    COPIES.contains(&driver)
}

/// Whether a driver's primary plane may cover less than the CRTC, with black or the CRTC's background colour around it; the
/// kernel has no property for it, and most drivers refuse (`can_position` of `drm_atomic_helper_check_plane_state`). Whether it
/// takes such a frame is asked in a test commit all the same.
///
/// | driver | allowed by | around it (read in Linux 7.2) |
/// |---|---|---|
/// | mediatek | `mtk_plane_atomic_check` | opaque black: `mtk_ovl_config` |
/// | rockchip | `vop2_plane_atomic_check`, `vop_plane_atomic_check` | the colour that `vop2_post_config` sets; VOP's default, black |
/// | vc4 | `vc4_plane_setup_clipping_and_scaling` | black: `needs_bg_fill`, where the lowest plane does not cover the screen |
/// | vkms | `vkms_plane_atomic_check` | the colour that its composer fills lines with |
#[must_use]
pub fn primary_covers_part(driver: &str) -> bool {
    ["mediatek", "rockchip", "vc4", "vkms"].contains(&driver)
}

/// Whether a driver maps a picture for the CPU in the commit that shows it, and takes the mapping away when no plane of its has
/// that memory any more. A plane that cannot be seen keeps the mapping then, which costs more than all the rest of a commit.
///
/// | driver | by (read in Linux 7.2) |
/// |---|---|
/// | vkms | `vkms_prepare_fb`, `vkms_cleanup_fb`: `drm_gem_fb_vmap` counts, in the object or in the dma-buf |
#[must_use]
pub fn maps_in_commit(driver: &str) -> bool {
    driver == "vkms"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmabuf::Layout;
    use drm_fourcc::{DrmFourcc, DrmModifier};
    use std::num::NonZeroU32;

    fn request(planes: &[(u32, u32)]) -> FramebufferRequest {
        let mut all = [None; 4];
        for (slot, (handle, offset)) in all.iter_mut().zip(planes) {
            let layout = Layout { offset: *offset, stride: 64 };
            *slot = NonZeroU32::new(*handle).map(|handle| (handle, layout));
        }
        let (format, modifier) = (DrmFourcc::Nv12, Some(DrmModifier::Linear));
        FramebufferRequest { width: 64, height: 64, format, modifier, planes: all }
    }

    #[test]
    fn vkms_is_kept_from_what_it_reads_wrongly() {
        assert_eq!(met_by("vkms", &request(&[(1, 0), (1, 4096)])), None);
        assert_eq!(met_by("vkms", &request(&[(1, 64)])), Some(Quirk::FirstPlaneOffset));
        assert_eq!(met_by("vkms", &request(&[(1, 0), (2, 0)])), Some(Quirk::SeveralObjects));
    }

    #[test]
    fn the_order_of_planes_is_known_of_vkms_alone() {
        assert_eq!(stacking("vkms", 2), Zpos::Fixed(2));
        assert_eq!(stacking("i915", 2), Zpos::Unknown);
        assert_eq!((scaling("vkms"), scaling("i915")), (Scaling::Never, Scaling::Unknown));
        assert!(maps_in_commit("vkms") && !maps_in_commit("i915"));
        assert!(["vkms", "rockchip"].into_iter().all(primary_covers_part));
        assert!(!["i915", "amdgpu", "virtio_gpu", ""].into_iter().any(primary_covers_part));
    }

    #[test]
    fn other_drivers_are_not() {
        assert_eq!(met_by("i915", &request(&[(1, 64), (2, 0)])), None);
    }
}
