//! Which requests the model refuses, with which errno, and what the others leave behind.
//!
//! First what the kernel looks at in each change (drm_atomic_uapi.c), then what it looks at in the state that would be
//! (drm_atomic.c, drm_atomic_helper.c), then the rules of the capability file.

use std::collections::BTreeSet;

use drm::control::AtomicCommitFlags;
use rustix::io::Errno;

use super::super::capabilities::PlaneKind;
use super::super::{PropertyKind, Request};
use super::{Flips, Inner, Kind, ObjectState, PendingFlip, Refuse, plane_pairs};
use crate::state::monotonic;

/// Bytes of `struct drm_mode_modeinfo` and of `struct drm_mode_rect`.
const MODE: usize = 68;
const CLIP: usize = 16;
/// Bits of the rotation property that say how far.
const TURNS: u64 = 0xf;

/// Tries a request, and leaves the state that it asks for unless it is a test or refused.
pub(super) fn commit(inner: &mut Inner, flags: AtomicCommitFlags, request: &Request) -> Result<(), Errno> {
    if !inner.master {
        return Err(Errno::ACCESS);
    }
    let is_async = flags.contains(AtomicCommitFlags::PAGE_FLIP_ASYNC);
    let test = flags.contains(AtomicCommitFlags::TEST_ONLY);
    if (is_async && !async_flips(inner)) || (test && flags.contains(AtomicCommitFlags::PAGE_FLIP_EVENT)) {
        return Err(Errno::INVAL);
    }
    let mut next = inner.objects.clone();
    let mut touched = BTreeSet::new();
    let mut fences = BTreeSet::new();
    for (object, property, value) in request.iter() {
        let index = next.iter().position(|o| o.id == object).ok_or(Errno::NOENT)?;
        // What is named takes part with the CRTC that it is on.
        touched.extend(crtc_of(&next[index]));
        set(inner, &mut next[index], property, value, is_async, &mut fences)?;
        touched.extend(crtc_of(&next[index]));
    }
    if flags.contains(AtomicCommitFlags::PAGE_FLIP_EVENT) && touched.is_empty() {
        return Err(Errno::INVAL);
    }
    let modeset = check_state(inner, &next, &touched)?;
    if modeset && !flags.contains(AtomicCommitFlags::ALLOW_MODESET) {
        return Err(Errno::INVAL);
    }
    if flags.contains(AtomicCommitFlags::PAGE_FLIP_EVENT) {
        let on =
            |objects: &[ObjectState], id: &u32| objects.iter().any(|o| o.id == *id && o.get("ACTIVE") == 1);
        if !touched.iter().all(|id| on(&next, id) || on(&inner.objects, id)) {
            return Err(Errno::INVAL);
        }
    }
    let on = next.iter().filter(|o| o.kind == Kind::Plane && o.get("FB_ID") != 0).count();
    let refused = |r: &&Refuse| {
        flags.contains(r.with) && !flags.intersects(r.without) && r.planes.is_none_or(|most| on > most)
    };
    if let Some(refusal) = inner.refuse.iter().find(refused) {
        return Err(refusal.errno);
    }
    if test {
        return Ok(());
    }
    let now = monotonic();
    // What is done and was not read yet keeps nobody waiting.
    let busy = |f: &PendingFlip| touched.contains(&f.crtc) && f.due.is_none_or(|due| due > now);
    if flags.contains(AtomicCommitFlags::NONBLOCK) && inner.pending.iter().any(busy) {
        return Err(Errno::BUSY);
    }
    // A commit that blocks waits for those before it.
    if inner.flips == Flips::Never {
        inner.pending.retain(|f| !touched.contains(&f.crtc));
    }
    inner.pending.iter_mut().filter(|f| busy(f)).for_each(|f| f.due = Some(now));
    let was_on: BTreeSet<u32> =
        inner.objects.iter().filter(|o| o.kind == Kind::Crtc && o.get("ACTIVE") == 1).map(|o| o.id).collect();
    inner.objects = next;
    if flags.contains(AtomicCommitFlags::PAGE_FLIP_EVENT) {
        let due = match inner.flips {
            Flips::After(_) if is_async => Some(now),
            Flips::After(delay) => Some(now + delay),
            Flips::ByHand | Flips::Never => None,
        };
        inner.pending.extend(touched.into_iter().map(|crtc| {
            let lights = !was_on.contains(&crtc);
            PendingFlip { crtc, due, number: request.number, lights }
        }));
    }
    Ok(())
}

fn async_flips(inner: &Inner) -> bool {
    inner.capabilities.capabilities.get("ATOMIC_ASYNC_PAGE_FLIP") == Some(&1)
}

fn crtc_of(object: &ObjectState) -> Option<u32> {
    match object.kind {
        Kind::Crtc => Some(object.id),
        Kind::Plane | Kind::Connector => u32::try_from(object.get("CRTC_ID")).ok().filter(|id| *id != 0),
    }
}

/// Makes one change of a state.
fn set(
    inner: &Inner,
    object: &mut ObjectState,
    property: u32,
    value: u64,
    is_async: bool,
    fences: &mut BTreeSet<u32>,
) -> Result<(), Errno> {
    let (id, kind, index) = (object.id, object.kind, object.index);
    let property = object.properties.iter_mut().find(|p| p.id == property).ok_or(Errno::NOENT)?;
    let name = property.name.as_str();
    let valid = match &property.kind {
        _ if property.immutable => false,
        PropertyKind::Range(min, max) => (*min..=*max).contains(&value),
        PropertyKind::SignedRange(min, max) => (*min..=*max).contains(&(value as i64)),
        PropertyKind::Enum(values) => values.iter().any(|(known, _)| *known == value),
        PropertyKind::Bitmask(bits) => value & !bits.iter().fold(0, |all, (bit, _)| all | 1 << bit) == 0,
        PropertyKind::Blob => {
            value == 0 || (inner.blobs.contains_key(&value) && !inner.destroyed.contains(&value))
        }
        PropertyKind::Object => value == 0 || exists(inner, name, value),
        PropertyKind::Other => true,
    };
    if !valid {
        return Err(Errno::INVAL);
    }
    if is_async && property.reads_as.unwrap_or(property.value) != value {
        let flip = matches!(name, "FB_ID" | "IN_FENCE_FD" | "FB_DAMAGE_CLIPS");
        let allowed = kind == Kind::Plane && flip && {
            let plane = &inner.capabilities.planes[index];
            plane.async_flips || plane.kind == PlaneKind::Primary
        };
        if !allowed {
            return Err(Errno::INVAL);
        }
    }
    let length = inner.blobs.get(&value).map(Vec::len);
    let sound = match name {
        "MODE_ID" => value == 0 || length == Some(MODE),
        "FB_DAMAGE_CLIPS" => value == 0 || length.is_some_and(|len| len % CLIP == 0),
        "rotation" => (value & TURNS).is_power_of_two(),
        // A second fence would replace the first.
        "IN_FENCE_FD" => value == u64::MAX || fences.insert(id),
        _ => true,
    };
    if !sound {
        return Err(Errno::INVAL);
    }
    property.value = value;
    Ok(())
}

/// Tells whether an id names what a property of that name is about.
fn exists(inner: &Inner, property: &str, value: u64) -> bool {
    let Ok(id) = u32::try_from(value) else { return false };
    if property == "CRTC_ID" {
        return inner.object(id).is_some_and(|o| o.kind == Kind::Crtc);
    }
    inner.framebuffers.as_ref().is_none_or(|lookup| lookup(id).is_some())
}

/// Checks the state that would be; tells whether modes change.
fn check_state(inner: &Inner, next: &[ObjectState], touched: &BTreeSet<u32>) -> Result<bool, Errno> {
    let mut modeset = false;
    let before = |id: u32| inner.object(id);
    for object in next {
        let Some(old) = before(object.id) else { continue };
        let changed = |name: &str| object.get(name) != old.get(name);
        modeset |= match object.kind {
            Kind::Crtc => changed("ACTIVE") || changed("MODE_ID"),
            Kind::Connector => changed("CRTC_ID"),
            Kind::Plane => false,
        };
    }
    let connectors = |crtc: u32| {
        let feeds = move |o: &&ObjectState| o.kind == Kind::Connector && o.get("CRTC_ID") == u64::from(crtc);
        next.iter().filter(feeds)
    };
    for plane in next.iter().filter(|o| o.kind == Kind::Plane) {
        let old = before(plane.id);
        let named = crtc_of(plane).into_iter().chain(old.and_then(crtc_of)).any(|c| touched.contains(&c));
        if named || plane.get("FB_ID") != old.map_or(0, |o| o.get("FB_ID")) {
            check_plane(inner, next, plane, old)?;
        }
    }
    for crtc in next.iter().filter(|o| o.kind == Kind::Crtc && touched.contains(&o.id)) {
        let (active, has_mode) = (crtc.get("ACTIVE") == 1, crtc.get("MODE_ID") != 0);
        let bit = 1 << crtc.index;
        let mut fed = connectors(crtc.id).peekable();
        if (active && !has_mode) || has_mode != fed.peek().is_some() {
            return Err(Errno::INVAL);
        }
        if fed.any(|c| inner.capabilities.connectors[c.index].crtcs & bit == 0) {
            return Err(Errno::INVAL);
        }
        if active {
            check_rules(inner, next, crtc)?;
        }
    }
    Ok(modeset)
}

fn size_of_mode(inner: &Inner, crtc: &ObjectState) -> Option<(u64, u64)> {
    let mode = inner.blobs.get(&crtc.get("MODE_ID"))?;
    let u16_at = |at: usize| mode.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    Some((u16_at(4)?.into(), u16_at(14)?.into()))
}

/// `drm_atomic_plane_check` and then `drm_atomic_helper_check_plane_state`.
fn check_plane(
    inner: &Inner,
    next: &[ObjectState],
    plane: &ObjectState,
    old: Option<&ObjectState>,
) -> Result<(), Errno> {
    let (fb, crtc) = (plane.get("FB_ID"), plane.get("CRTC_ID"));
    if (fb == 0) != (crtc == 0) {
        return Err(Errno::INVAL);
    }
    if fb == 0 {
        return Ok(());
    }
    let file = &inner.capabilities.planes[plane.index];
    let on = next.iter().find(|o| u64::from(o.id) == crtc).ok_or(Errno::INVAL)?;
    if file.crtcs & 1 << on.index == 0 {
        return Err(Errno::INVAL);
    }
    let facts = inner.framebuffers.as_ref().and_then(|lookup| lookup(u32::try_from(fb).ok()?));
    let [sx, sy, sw, sh] = ["SRC_X", "SRC_Y", "SRC_W", "SRC_H"].map(|name| plane.get(name));
    let [dx, dy, dw, dh] = ["CRTC_X", "CRTC_Y", "CRTC_W", "CRTC_H"].map(|name| plane.get(name));
    if let Some(facts) = facts
        && !plane_pairs(file).contains(&(facts.format, facts.modifier))
    {
        return Err(Errno::INVAL);
    }
    let beyond = |at: u64, len: u64| at as i64 + len as i64 > i64::from(i32::MAX);
    if beyond(dx, dw) || beyond(dy, dh) {
        return Err(Errno::RANGE);
    }
    if let Some(facts) = facts {
        let (width, height) = (u64::from(facts.size.0) << 16, u64::from(facts.size.1) << 16);
        if sx + sw > width || sy + sh > height {
            return Err(Errno::NOSPC);
        }
        let clips = inner.blobs.get(&plane.get("FB_DAMAGE_CLIPS"));
        for clip in clips.into_iter().flat_map(|blob| blob.chunks_exact(CLIP)) {
            let at =
                |i: usize| clip.get(i * 4..i * 4 + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
            let (Some(x1), Some(y1), Some(x2), Some(y2)) = (at(0), at(1), at(2), at(3)) else { continue };
            if x1 >= x2 || y1 >= y2 || x1 < 0 || y1 < 0 {
                return Err(Errno::INVAL);
            }
        }
    }
    if old.is_some_and(|old| old.get("CRTC_ID") != 0 && old.get("CRTC_ID") != crtc) {
        return Err(Errno::INVAL);
    }
    check_scaling(file.scaling, plane, (sw, sh), (dw, dh))?;
    if file.kind == PlaneKind::Primary && !file.covers_part {
        let covers = size_of_mode(inner, on).is_none_or(|(w, h)| {
            dx as i64 <= 0
                && dy as i64 <= 0
                && dx as i64 + dw as i64 >= w as i64
                && dy as i64 + dh as i64 >= h as i64
        });
        if !covers {
            return Err(Errno::INVAL);
        }
    }
    if file.kind == PlaneKind::Cursor && !file.size_hints.is_empty() {
        let fits = |(w, h): &(u16, u16)| (u64::from(*w), u64::from(*h)) == (dw, dh);
        if !file.size_hints.iter().any(fits) {
            return Err(Errno::INVAL);
        }
    }
    Ok(())
}

/// `drm_rect_calc_hscale` and `_vscale`: source by destination in 16.16.
fn check_scaling(
    bounds: Option<(u32, u32)>,
    plane: &ObjectState,
    src: (u64, u64),
    dst: (u64, u64),
) -> Result<(), Errno> {
    let turned = plane.get("rotation") & 0b1010 != 0;
    let src = if turned { (src.1, src.0) } else { src };
    let (min, max) = bounds.unwrap_or((1 << 16, 1 << 16));
    for (src, dst) in [(src.0, dst.0), (src.1, dst.1)] {
        // Nothing is shown of it.
        if dst == 0 {
            continue;
        }
        let scale = if src > dst << 16 { src.div_ceil(dst) } else { src / dst };
        if !(u64::from(min)..=u64::from(max)).contains(&scale) {
            return Err(Errno::RANGE);
        }
    }
    Ok(())
}

/// The rules of the file for one CRTC.
fn check_rules(inner: &Inner, next: &[ObjectState], crtc: &ObjectState) -> Result<(), Errno> {
    let file = &inner.capabilities.crtcs[crtc.index];
    let on: Vec<&ObjectState> = next
        .iter()
        .filter(|o| o.kind == Kind::Plane && o.get("FB_ID") != 0 && o.get("CRTC_ID") == u64::from(crtc.id))
        .collect();
    let scaled = |o: &&&ObjectState| {
        let turned = o.get("rotation") & 0b1010 != 0;
        let src = (o.get("SRC_W"), o.get("SRC_H"));
        let src = if turned { (src.1, src.0) } else { src };
        src != (o.get("CRTC_W") << 16, o.get("CRTC_H") << 16)
    };
    let too_many = |count: usize, most: Option<usize>| most.is_some_and(|most| count > most);
    let primary = |o: &&ObjectState| inner.capabilities.planes[o.index].kind == PlaneKind::Primary;
    let refused = too_many(on.len(), file.planes_at_once)
        || too_many(on.iter().filter(scaled).count(), file.scaled_planes)
        || (file.needs_primary && !on.iter().any(primary));
    if refused { Err(Errno::INVAL) } else { Ok(()) }
}
