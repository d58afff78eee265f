//! The planner's decisions, on planes and layers made up.

mod part;
mod picture;
mod shared;
mod time;

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};
use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::framebuffer::FramebufferError;

const OUTPUT: Rect = Rect::new(0, 0, 1000, 500);

fn id(raw: u32) -> NonZeroU32 {
    NonZeroU32::new(raw).unwrap()
}

fn plane(raw: u32, kind: PlaneType, stack: Option<i64>) -> PlaneCaps {
    let formats = [DrmFourcc::Xrgb8888, DrmFourcc::Argb8888, DrmFourcc::Nv12];
    let zpos = stack.map_or(Zpos::Unknown, Zpos::Fixed);
    PlaneCaps::new(id(raw), kind, formats.map(|f| (f, DrmModifier::Linear)), zpos)
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
    let content = Scannable::new(DrmFourcc::Xrgb8888, DrmModifier::Linear);
    Layer::new(dst, SourceRect::whole(dst.w, dst.h), opaque, Ok(content))
}

fn shm(dst: Rect) -> Layer {
    Layer { content: Err(Refusal::NotDmabuf), ..layer(dst, true) }
}

fn run(planes: &[PlaneCaps], layers: &[Layer]) -> Plan {
    ask(planes, layers, |_| Ok(()))
}

fn ask(planes: &[PlaneCaps], layers: &[Layer], test: impl FnMut(&Plan) -> Result<(), Errno>) -> Plan {
    plan(&Scene::new(planes, layers, OUTPUT), test)
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
    let errno = Errno::INVAL;
    let layers = [layer(Rect::new(0, 0, 5, 5), true)];
    let plan = ask(&planes(), &layers, |p| match p.planes[0] {
        Some(plane) if plane == id(3) => Err(errno),
        _ => Ok(()),
    });
    assert_eq!(plan.planes[0], Some(id(2)));
    assert!(plan.refusals.contains(&(0, id(3), Refusal::Test { errno })));
}

#[test]
fn a_bottom_up_buffer_needs_reflect_y() {
    let mut wants = layer(Rect::new(0, 0, 5, 5), true);
    wants.rotation = Rotation::REFLECT_Y;
    let mut planes = planes();
    let refusal = Refusal::Rotation { wanted: Rotation::REFLECT_Y, supported: Rotations::NONE };
    assert_eq!(run(&planes, &[wants.clone()]).reason(0), Some(&refusal));
    planes[1].rotations = Rotations::from_bits(Rotation::REFLECT_Y.bits());
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
    open_planes(&Scene::new(planes, layers, OUTPUT), &plan, layer).iter().map(|p| p.id.get()).collect()
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
    let (small, format) = (Rect::new(0, 0, 50, 50), Refusal::Format { format: DrmFourcc::P010, modifier: 1 });
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
    let system = || std::io::Error::from(Errno::NOMEM);
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
    let two = [layer(left, false), layer(right, true), refused(left, elsewhere())];
    assert!(open(&planes(), &two, 2).is_empty());
    assert_eq!(open(&planes(), &[layer(left, false), refused(left, elsewhere())], 1), [2]);
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
    let plan = ask(&planes, &layers, |_| Err(Errno::INVAL));
    assert!(open_planes(&Scene::new(&planes, &layers, OUTPUT), &plan, 0).is_empty());
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
        let plan = ask(&planes, &layers, |_| {
            bits = bits.rotate_left(1);
            if bits & 1 == 0 { Ok(()) } else { Err(Errno::INVAL) }
        });
        let height = |i: usize| plan.planes[i].map_or(0, |p| i64::from(p.get()) - 1);
        for a in 0..plan.visible {
            for b in a + 1..plan.visible {
                if plan.hidden[a].or(plan.hidden[b]).is_none() && layers[a].dst.overlaps(&layers[b].dst) {
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
        layers.iter_mut().zip(0..).for_each(|(layer, key)| layer.key = key);
        layers[chosen].content = Err(elsewhere());
        let mut planner = Planner::new();
        planner.plan(&Scene::new(&planes, &layers, OUTPUT), Duration::ZERO, |_| Ok(()));
        let open: Vec<_> =
            open_planes(&planner.scene(), planner.last().unwrap(), chosen).iter().map(|p| p.id).collect();
        layers[chosen].content = layer(OUTPUT, true).content;
        planner.plan(&Scene::new(&planes, &layers, OUTPUT), Duration::ZERO, |_| Ok(()));
        match planner.last().unwrap().planes[chosen] {
            Some(plane) => prop_assert!(open.contains(&plane), "{plane} is not among {open:?}"),
            None => prop_assert!(open.is_empty(), "{open:?}"),
        }
    }
}

#[test]
fn turns_are_said_in_the_fewest_words_and_in_those_that_a_plane_has() {
    let words = |rotation: Rotation| rotation.to_string();
    assert_eq!(words(Rotation::NORMAL), "rotate-0");
    assert_eq!(words(Rotation::new(2, true, false)), "reflect-y");
    assert_eq!(words(Rotation::new(2, true, true)), "rotate-0");
    assert_eq!(words(Rotation::new(1, true, false)), "rotate-90+reflect-x");
    let reflects = Rotations::from_bits(0b11_0001);
    assert_eq!(reflects.to_string(), "rotate-0, reflect-x, reflect-y");
    assert_eq!(Rotation::new(2, false, false).within(reflects), Some(Rotation::new(0, true, true)));
    assert_eq!(Rotation::new(1, false, false).within(reflects), None);
    assert_eq!(
        Rotation::REFLECT_Y.within(Rotations::from_bits(0b01_0101)),
        Some(Rotation::new(2, true, false))
    );
}
