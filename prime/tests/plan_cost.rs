//! What a plan costs when nothing changed: no question to the driver and no allocation, whatever is on screen.

use std::num::NonZeroU32;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{
    Canvas, Layer, PlaneCaps, PlaneType, Planner, Pointer, Rect, Refusal, Scannable, Scene, SourceRect, Zpos,
};

const OUTPUT: Rect = Rect::new(0, 0, 1920, 1080);
const FRAMES: u32 = 1000;
/// Later than anything waits for.
const LATER: Duration = Duration::from_secs(60);

fn planes() -> Vec<PlaneCaps> {
    let formats = [DrmFourcc::Xrgb8888, DrmFourcc::Argb8888].map(|f| (f, DrmModifier::Linear));
    let kinds =
        [PlaneType::Overlay, PlaneType::Primary, PlaneType::Overlay, PlaneType::Overlay, PlaneType::Cursor];
    let plane = |(index, kind): (u32, PlaneType)| {
        let id = NonZeroU32::MIN.saturating_add(index);
        PlaneCaps {
            cursor_sizes: vec![(64, 64)],
            ..PlaneCaps::new(id, kind, formats, Zpos::Fixed(index.into()))
        }
    };
    (0..).zip(kinds).map(plane).collect()
}

/// Windows side by side: on planes, composited, and one below the primary.
fn layers() -> Vec<Layer> {
    let window = |key: u64| {
        let dst = Rect::new(400 * (key % 4) as i32, 250 * (key / 4) as i32, 300, 200);
        let content = match key % 3 {
            0 => Err(Refusal::NotDmabuf),
            _ => Ok(Scannable::new(DrmFourcc::Xrgb8888, DrmModifier::Linear)),
        };
        Layer { key, ..Layer::new(dst, SourceRect::whole(300, 200), true, content) }
    };
    (0..16).map(window).collect()
}

fn pointer(x: i32) -> Pointer {
    let content = Ok(Scannable::new(DrmFourcc::Argb8888, DrmModifier::Linear));
    Pointer { dst: Rect::new(x, 0, 64, 64), hotspot: (0, 0), content }
}

/// Allocations in frames that differ in the pointer's place alone, with `more` in one of them, and plans made.
fn cost(more: impl Fn(u32)) -> (u64, u32) {
    let (planes, layers, mut planner) = (planes(), layers(), Planner::new());
    let canvas = Canvas { alpha: Some(DrmFourcc::Argb8888), ..Canvas::default() };
    let scene = Scene { canvas, ..Scene::new(&planes, &layers, OUTPUT) };
    let first = pointer(0);
    for now in [Duration::ZERO, LATER] {
        assert!(planner.plan(&Scene { pointer: Some(&first), ..scene }, now, |_| Ok(())));
    }
    let Some(plan) = planner.last() else { panic!("no plan") };
    assert!(plan.pointer.is_some() && plan.planes.iter().flatten().count() > 1);
    assert!(plan.composited().count() > 1 && !plan.underlays.is_empty());
    let mut made = 0;
    let counted = allocation_counter::measure(|| {
        for frame in 0..FRAMES {
            // A scene of the caller's own, as equal as can be.
            let pointer = pointer(frame as i32);
            let scene = Scene { pointer: Some(&pointer), ..scene };
            made += u32::from(planner.plan(&scene, LATER, |_| unreachable!("it is asked")));
            more(frame);
        }
    });
    (counted.count_total, made)
}

#[test]
fn a_plan_of_the_same_scene_allocates_nothing() {
    assert_eq!(cost(|_| ()), (0, 0));
}

#[test]
fn an_allocation_is_noticed() {
    let more = |frame| {
        if frame == FRAMES / 2 {
            std::hint::black_box(Box::new(frame));
        }
    };
    assert_eq!(cost(more), (1, 0));
}
