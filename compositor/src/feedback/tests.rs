//! From plans to what clients read: devices, pairs, and one table for all. Plans are the planner's own.

use std::collections::HashMap;
use std::os::fd::AsFd as _;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{
    self, Layer, PlaneType, Rect, Rotation, Rotations, Scannable, Scene, SourceRect, Zpos,
};
use primeway_protocols::linux_dmabuf::{DmabufFormat, TrancheFlags};

use super::*;

const XRGB: DrmFourcc = DrmFourcc::Xrgb8888;
const ARGB: DrmFourcc = DrmFourcc::Argb8888;
const NV12: DrmFourcc = DrmFourcc::Nv12;
const LINEAR: DrmModifier = DrmModifier::Linear;
const TILED: DrmModifier = DrmModifier::I915_x_tiled;
const OUTPUT: Rect = Rect::new(0, 0, 1000, 500);
const WINDOW: Rect = Rect::new(100, 100, 200, 100);
/// Two display devices and a GPU without outputs.
const LEFT: u64 = 0xe200;
const RIGHT: u64 = 0xe201;
const GPU: u64 = 0xe280;
/// Both devices call their CRTC so.
const CRTC: OutputId = 40;

/// What the renderer reads.
const USABLE: [Pair; 7] = [
    (XRGB, LINEAR),
    (XRGB, TILED),
    (XRGB, DrmModifier::Invalid),
    (ARGB, LINEAR),
    (ARGB, TILED),
    (NV12, LINEAR),
    (DrmFourcc::P010, LINEAR),
];

/// What both overlays take together from a surface with alpha, and from an opaque one.
const SEEN_THROUGH: [Pair; 4] = [(XRGB, LINEAR), (XRGB, TILED), (ARGB, LINEAR), (NV12, LINEAR)];
const OPAQUE: [Pair; 5] = [(XRGB, LINEAR), (XRGB, TILED), (ARGB, LINEAR), (ARGB, TILED), (NV12, LINEAR)];

fn plane(id: u32, kind: PlaneType, stack: i64, formats: &[Pair]) -> PlaneCaps {
    PlaneCaps::new(PlaneId::new(id).unwrap(), kind, formats.iter().copied(), Zpos::Fixed(stack))
}

/// A primary that shows only what has no alpha, and two overlays that differ.
fn planes() -> [PlaneCaps; 3] {
    [
        plane(1, PlaneType::Primary, 0, &[(XRGB, LINEAR), (XRGB, TILED)]),
        plane(2, PlaneType::Overlay, 1, &[(NV12, LINEAR), (DrmFourcc::Rgb565, LINEAR), (XRGB, TILED)]),
        plane(3, PlaneType::Overlay, 2, &[(ARGB, LINEAR), (XRGB, LINEAR), (XRGB, DrmModifier::Invalid)]),
    ]
}

fn layer(dst: Rect, opaque: bool, content: Result<Pair, Refusal>) -> Layer {
    let content = content.map(|(format, modifier)| Scannable::new(format, modifier));
    Layer::new(dst, SourceRect::whole(dst.w, dst.h), opaque, content)
}

/// What a plane refuses, in a buffer of a layout that the planes do not know.
fn unfit(dst: Rect) -> Layer {
    layer(dst, false, Err(Refusal::Format { format: ARGB, modifier: 99 }))
}

/// The surfaces of a machine: each layer's surface is its number from the top, plus ten for each output.
struct Bench {
    tranches: Tranches,
    policy: Policy<usize, OutputKey, DmabufFeedback>,
    stand_ins: Vec<StandIn>,
    now: Duration,
}

impl Bench {
    fn new(devices: &Devices) -> Self {
        let tranches = Tranches::new(devices.main().unwrap(), &USABLE).unwrap();
        Self { tranches, policy: Policy::default(), stand_ins: Vec::new(), now: Duration::ZERO }
    }

    fn show(&mut self, device: u64, first: usize, layers: &[Layer]) {
        self.show_on(&planes(), device, first, layers);
    }

    fn show_on(&mut self, planes: &[PlaneCaps], device: u64, first: usize, layers: &[Layer]) {
        let scene = Scene::new(planes, layers, OUTPUT);
        let plan = scanout::plan(&scene, |_| Ok(()));
        let made = Made { scene, plan: &plan, stand_ins: &self.stand_ins };
        let shown = (0..layers.len()).map(|index| made.planned(first + index, index));
        let tranches = &mut self.tranches;
        self.policy.planned(self.now, (device, CRTC), shown, |open, opaque| {
            tranches.of(device, planes, open, opaque)
        });
        self.now += policy::PATIENCE;
    }

    fn told(&mut self) -> HashMap<usize, Option<DmabufFeedback>> {
        self.policy.due(self.now).into_iter().collect()
    }

    /// What one surface alone is told: the target device and the pairs of its scanout tranche.
    fn alone(&mut self, planes: &[PlaneCaps], layer: Layer) -> Option<Vec<DmabufFormat>> {
        self.show_on(planes, LEFT, 0, &[layer]);
        self.told().remove(&0).flatten().map(|feedback| feedback.tranches()[0].formats.clone())
    }
}

fn pairs(pairs: &[Pair]) -> Option<Vec<DmabufFormat>> {
    Some(pairs.iter().copied().map(tranche::pair).collect())
}

#[test]
fn the_main_device_is_what_composites() {
    let devices = |renderer, displays: &[u64]| Devices { renderer, displays: displays.to_vec() };
    assert_eq!(devices(Some(GPU), &[LEFT, RIGHT]).main(), Some(GPU));
    assert_eq!(devices(Some(RIGHT), &[LEFT, RIGHT]).main(), Some(RIGHT));
    assert_eq!(devices(None, &[LEFT, RIGHT]).main(), Some(LEFT));
    assert_eq!(devices(Some(GPU), &[]).main(), Some(GPU));
    assert_eq!(devices(None, &[]).main(), None);
}

#[test]
fn the_target_device_is_that_of_the_output() {
    for renderer in [Some(GPU), None] {
        let devices = Devices { renderer, displays: vec![LEFT, RIGHT] };
        let main = renderer.unwrap_or(LEFT);
        let mut bench = Bench::new(&devices);
        bench.show(LEFT, 0, &[unfit(WINDOW)]);
        bench.show(RIGHT, 10, &[unfit(WINDOW)]);
        let told = bench.told();
        assert_eq!(told.len(), 2);
        for (surface, device) in [(0, LEFT), (10, RIGHT)] {
            let feedback = told[&surface].as_ref().unwrap();
            assert_eq!(feedback.main_device(), main);
            let tranches: Vec<_> = feedback.tranches().iter().map(|t| (t.target_device, t.flags)).collect();
            assert_eq!(tranches, [(device, TrancheFlags::Scanout), (main, TrancheFlags::Sampling)]);
        }
        // A window that is pulled over to the other device.
        bench.show(LEFT, 0, &[]);
        bench.show(RIGHT, 0, &[unfit(WINDOW)]);
        let told = bench.told();
        assert_eq!(told[&0].as_ref().unwrap().tranches()[0].target_device, RIGHT);
        assert_eq!(told[&10], None, "it is gone");
    }
}

#[test]
fn pairs_are_those_of_the_planes_that_are_open() {
    let devices = Devices { renderer: Some(GPU), displays: vec![LEFT] };
    let mut bench = Bench::new(&devices);
    let mut alone = |planes: &[PlaneCaps], layer: Layer| {
        // What it was told before is over.
        bench.show(LEFT, 0, &[]);
        bench.told();
        bench.alone(planes, layer)
    };
    // A window with alpha: the overlays, of what clients may use.
    assert_eq!(alone(&planes(), unfit(WINDOW)), pairs(&SEEN_THROUGH));
    // An opaque one: what has a twin without alpha that they take.
    let opaque = Layer { opaque: true, ..unfit(WINDOW) };
    assert_eq!(alone(&planes(), opaque.clone()), pairs(&OPAQUE));
    // Full screen and opaque: the primary, too, which shows the twin of what has alpha.
    let mut primary_alone = planes();
    primary_alone[1].zpos = Zpos::Unknown;
    primary_alone[2].zpos = Zpos::Unknown;
    let full = Layer { dst: OUTPUT, ..opaque };
    assert_eq!(alone(&primary_alone, full.clone()), pairs(&OPAQUE[..4]));
    // Full screen with alpha: no primary.
    assert_eq!(alone(&primary_alone, unfit(OUTPUT)), None);
    // One that is on a plane is told the same.
    assert_eq!(alone(&planes(), layer(WINDOW, false, Ok((ARGB, LINEAR)))), pairs(&SEEN_THROUGH));
    // Stored bottom row first, and one plane mirrors.
    let mirrored = Layer { rotation: Rotation::REFLECT_Y, ..unfit(WINDOW) };
    assert_eq!(alone(&planes(), mirrored.clone()), None);
    let mut mirrors = planes();
    mirrors[1].rotations = Rotations::ALL;
    assert_eq!(Bench::new(&devices).alone(&mirrors, mirrored), pairs(&[(XRGB, TILED), (NV12, LINEAR)]));
}

#[test]
fn a_plane_that_cannot_show_anything_in_the_place_is_left_out() {
    let devices = Devices { renderer: Some(GPU), displays: vec![LEFT] };
    let layer = unfit(WINDOW);
    let answer = |plane, refused| StandIn {
        plane: PlaneId::new(plane).unwrap(),
        src: layer.src,
        dst: layer.dst,
        refused,
    };
    for (answers, told) in [
        ([answer(2, false), answer(3, true)], pairs(&[(XRGB, TILED), (NV12, LINEAR)])),
        ([answer(2, true), answer(3, true)], None),
    ] {
        let mut bench = Bench { stand_ins: answers.to_vec(), ..Bench::new(&devices) };
        assert_eq!(bench.alone(&planes(), layer.clone()), told);
        // Elsewhere it has not been asked.
        let moved = Layer { dst: Rect { x: WINDOW.x + 2, ..WINDOW }, ..layer.clone() };
        let told = bench.alone(&planes(), moved);
        assert_eq!(told, pairs(&SEEN_THROUGH));
    }
}

#[test]
fn what_the_driver_refused_is_known() {
    let layers = [layer(WINDOW, true, Ok((XRGB, LINEAR)))];
    let planes = planes();
    let scene = Scene::new(&planes, &layers, OUTPUT);
    let plan = scanout::plan(&scene, |_| Err(rustix::io::Errno::RANGE));
    let made = Made { scene, plan: &plan, stand_ins: &[] };
    let planned = made.planned((), 0);
    // The other overlay does not take the format.
    assert_eq!((planned.open, planned.refused), (vec![planes[1].id], vec![planes[2].id]));
}

#[test]
fn what_another_buffer_would_not_help_follows_the_default() {
    let devices = Devices { renderer: Some(GPU), displays: vec![LEFT] };
    for refusal in [Refusal::Disabled, Refusal::Transform, Refusal::NotDmabuf] {
        let mut bench = Bench::new(&devices);
        bench.show(LEFT, 0, &[layer(WINDOW, true, Err(refusal))]);
        assert_eq!((bench.policy.deadline(), bench.told().len()), (None, 0));
    }
    // Covered, after it was told; and no plane left.
    let mut bench = Bench::new(&devices);
    let shm = layer(WINDOW, true, Err(Refusal::NotDmabuf));
    bench.show(LEFT, 1, &[unfit(WINDOW)]);
    assert!(bench.told()[&1].is_some());
    bench.show(LEFT, 0, &[shm, unfit(WINDOW)]);
    assert_eq!(bench.told(), HashMap::from([(1, None)]));
    bench.show(LEFT, 1, &[unfit(WINDOW)]);
    assert!(bench.told()[&1].is_some());
    let taken = layer(WINDOW, true, Ok((NV12, LINEAR)));
    let taken_too = layer(WINDOW, true, Ok((XRGB, LINEAR)));
    bench.show(LEFT, 100, &[taken_too, taken, unfit(WINDOW)]);
    assert_eq!(bench.told().get(&102), None);
}

/// One sealed file, whichever surface on whichever device is told whatever.
#[test]
fn every_table_is_the_same_file() {
    let devices = Devices { renderer: Some(GPU), displays: vec![LEFT, RIGHT] };
    let mut bench = Bench::new(&devices);
    let inode = |feedback: &DmabufFeedback| rustix::fs::fstat(feedback.table().as_fd()).unwrap().st_ino;
    let default = inode(bench.tranches.default_feedback());
    bench.show(LEFT, 0, &[unfit(WINDOW), unfit(OUTPUT)]);
    bench.show(RIGHT, 10, &[layer(OUTPUT, true, Ok((XRGB, TILED)))]);
    let told: Vec<DmabufFeedback> = bench.told().into_values().flatten().collect();
    assert_eq!(told.len(), 2, "the window that is composited covers the one below");
    assert!(told.iter().all(|feedback| inode(feedback) == default));
    // It changes with the pairs, and only with them.
    let other = Tranches::new(GPU, &USABLE[1..]).unwrap();
    assert_ne!(inode(other.default_feedback()), default);
}

#[test]
fn planes_that_have_changed_are_looked_at_again() {
    let mut planes = planes();
    let ids = [planes[1].id];
    let mut tranches = Tranches::new(GPU, &USABLE).unwrap();
    let mut told = |planes: &[PlaneCaps], changed| {
        if changed {
            tranches.forget();
        }
        tranches.of(LEFT, planes, &ids, false).map(|feedback| feedback.tranches()[0].formats.clone())
    };
    assert_eq!(told(&planes, false), pairs(&[(XRGB, TILED), (NV12, LINEAR)]));
    planes[1].forbid((XRGB, TILED));
    assert_eq!(told(&planes, true), pairs(&[(NV12, LINEAR)]));
}

#[test]
fn what_is_kept_has_a_bound() {
    let caps: Vec<PlaneCaps> = (1..200).map(|id| plane(id, PlaneType::Overlay, 1, &USABLE)).collect();
    let mut tranches = Tranches::new(GPU, &USABLE).unwrap();
    let first = tranches.of(LEFT, &caps, &[caps[0].id], true);
    for caps in &caps {
        let again = tranches.of(LEFT, std::slice::from_ref(caps), &[caps.id], true);
        assert_eq!(again, first, "made anew it says the same");
    }
    assert!(tranches.kept() <= 64);
}
