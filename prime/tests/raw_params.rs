//! What a client, a driver or a caller may say, however absurd, is answered and never a panic: raw descriptions, their checks,
//! framebuffers on the model, the maths of formats, the planner. Overflow is a panic in these builds.
//!
//! A few thousand inputs each by default; a million each with `PRIMEWAY_LONG=1`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    num::NonZeroU32,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::{
    BufferPlane, Dmabuf, DumbBuffer, FormatInfo, Framebuffer, FramebufferError, HandleTable, Layout,
    MAX_BUFFER_PLANES, format,
    model::{Driver, File, Machine, Node, Profile},
    scanout::{
        self, Canvas, Layer, Plan, PlaneCaps, PlaneType, PrimaryContent, Rect, Refusal, Rotation, Rotations,
        Scaling, Scannable, Scene, SourceRect, Zpos,
    },
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rustix::io::Errno;

/// Runs `check` on as many inputs as this run is to have.
fn try_all<S: Strategy>(name: &str, inputs: S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let cases = if std::env::var_os("PRIMEWAY_LONG").is_some() { 1_000_000 } else { 3_000 };
    let start = Instant::now();
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    if let Err(err) = TestRunner::new(config).run(&inputs, check) {
        panic!("{err}");
    }
    println!("{name}: {cases} inputs in {:.1} s", start.elapsed().as_secs_f64());
}

/// Numbers at which sums and products turn over, and small and ordinary ones.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0..300_u32,
        Just(0),
        Just(u32::MAX),
        (0..32_u32, -2..3_i64)
            .prop_map(|(bit, off)| ((1_i64 << bit) + off).clamp(0, i64::from(u32::MAX)) as u32),
        Just(4096),
        Just(8192),
    ]
}

fn known_format() -> impl Strategy<Value = &'static FormatInfo> {
    (0..format::all().len()).prop_map(|index| &format::all()[index])
}

fn code() -> impl Strategy<Value = u32> {
    prop_oneof![8 => known_format().prop_map(|info| info.fourcc), 1 => any::<u32>()]
}

/// The name of a code; the one that is no format for those without, and as rarely as they come.
fn fourcc(code: u32) -> DrmFourcc {
    DrmFourcc::try_from(code).unwrap_or(DrmFourcc::Big_endian)
}

fn modifier() -> impl Strategy<Value = DrmModifier> {
    prop_oneof![
        4 => Just(DrmModifier::Linear),
        2 => Just(DrmModifier::Invalid),
        1 => Just(DrmModifier::I915_y_tiled_ccs),
        1 => any::<u64>().prop_map(DrmModifier::from),
    ]
}

/// A buffer plane as a client words it: which of its descriptors, offset, stride.
type RawPlane = (usize, u32, u32);

fn planes() -> impl Strategy<Value = Vec<RawPlane>> {
    prop::collection::vec((0..6_usize, number(), number()), 0..7)
}

/// A raw description: size, format, modifier, buffer planes.
type RawParams = ((u32, u32), u32, DrmModifier, Vec<RawPlane>);

/// Half of them absurd; the other half could be a buffer, so that not all fail at the first check.
fn params() -> impl Strategy<Value = RawParams> {
    let absurd = ((number(), number()), code(), modifier(), planes());
    let layout = (0..6_usize, prop_oneof![3 => Just(0), 1 => 0..70_000_u32], 0..40_u32);
    let likely = ((1..130_u32, 1..130_u32), code(), modifier(), prop::collection::vec(layout, 1..4))
        .prop_map(|((width, height), code, modifier, mut planes)| {
            let info = format::info_raw(code);
            planes.resize(info.map_or(1, |info| info.plane_count()), planes[0]);
            for (index, (_, _, stride)) in planes.iter_mut().enumerate() {
                let least = info.map_or(0, |info| info.min_stride(index, width));
                *stride = (*stride).saturating_sub(8) + u32::try_from(least).unwrap_or(u32::MAX);
            }
            ((width, height), code, modifier, planes)
        });
    prop_oneof![absurd, likely]
}

/// A display of the model, and descriptors of all kinds.
struct Display {
    machine: Machine,
    table: HandleTable,
    dumb: DumbBuffer,
    files: Vec<OwnedFd>,
}

impl Display {
    fn new() -> Self {
        let machine = Machine::new(Profile::MODERN);
        let file: File = machine.add_device(Driver::vkms()).open(Node::Primary).unwrap();
        let table = HandleTable::new(Arc::new(file));
        let buffer = |pages: u64| machine.udmabuf(pages * 4096).unwrap().into_owned().unwrap();
        let mut files = vec![buffer(1), buffer(16), buffer(64)];
        files.push(std::fs::File::open("/dev/null").unwrap().into());
        files.push(rustix::pipe::pipe().unwrap().0);
        let dumb = table.create_dumb(100, 100, 32).unwrap();
        files.push(dumb.export().unwrap());
        Self { machine, table, dumb, files }
    }

    fn planes(&self, raw: &[RawPlane]) -> Vec<BufferPlane<'_>> {
        let plane = |(file, offset, stride): &RawPlane| BufferPlane {
            fd: self.files[file % self.files.len()].as_fd(),
            offset: *offset,
            stride: *stride,
        };
        raw.iter().map(plane).collect()
    }
}

#[test]
fn descriptions_become_framebuffers_or_errors() {
    let display = Display::new();
    let (before, stats) = (display.machine.census(), display.table.stats());
    let made = std::cell::Cell::new(0_u32);
    try_all(
        "descriptions",
        (params(), any::<bool>(), modifier()),
        |((size, code, modifier, raw), opaque, other)| {
            let planes = display.planes(&raw);
            let Ok(buffer) = Dmabuf::new(size.0, size.1, fourcc(code), modifier, &planes) else {
                return Ok(());
            };
            prop_assert!((1..=MAX_BUFFER_PLANES).contains(&buffer.plane_count()));
            let fits = buffer.check_sizes();
            let _ = buffer.ids();
            if let Ok(renamed) = buffer.with_modifier(other) {
                prop_assert_eq!(renamed.plane_count(), buffer.plane_count());
            }
            match Framebuffer::new(&display.table, &buffer, opaque) {
                Ok(framebuffer) => {
                    made.set(made.get() + 1);
                    prop_assert!(fits.is_ok());
                    prop_assert_eq!((framebuffer.width(), framebuffer.height()), size);
                    prop_assert_eq!(framebuffer.handles().len(), buffer.plane_count());
                }
                Err(err) => {
                    let _ = (err.fault(), err.to_string());
                    prop_assert!(
                        fits.is_ok() || !matches!(err, FramebufferError::Refused { .. }),
                        "{:?}",
                        err
                    );
                }
            }
            let now = display.table.stats();
            prop_assert_eq!(
                (now.handles, now.references, now.framebuffers),
                (stats.handles, stats.references, 0)
            );
            Ok(())
        },
    );
    assert!(made.get() > 20, "only {} descriptions were good enough: nothing has been tested", made.get());
    assert_eq!((display.machine.census(), display.machine.events().len()), (before, 0));
    assert_eq!((display.table.stats().violations, display.table.stats().unclosed), (0, 0));
}

#[test]
fn layouts_in_dumb_buffers_become_framebuffers_or_errors() {
    let display = Display::new();
    let before = display.machine.census();
    let layouts = prop::collection::vec((number(), number()), 0..7);
    let likely = ((1..101_u32, 1..101_u32), code(), prop::collection::vec((0..10_000_u32, 0..800_u32), 1..4));
    let inputs = prop_oneof![((number(), number()), code(), layouts), likely];
    let made = std::cell::Cell::new(0_u32);
    try_all("layouts", inputs, |((width, height), code, layouts)| {
        let fourcc = fourcc(code);
        let layouts: Vec<_> = layouts.into_iter().map(|(offset, stride)| Layout { offset, stride }).collect();
        let (table, dumb) = (&display.table, &display.dumb);
        match Framebuffer::for_dumb_planes(table, dumb, fourcc, width, height, &layouts) {
            Ok(framebuffer) => {
                let info = format::info(fourcc).unwrap();
                for (plane, layout) in layouts.iter().enumerate() {
                    let end = info.plane_end(plane, width, height, layout.offset, layout.stride);
                    prop_assert!(end <= dumb.size());
                }
                made.set(made.get() + 1);
                drop(framebuffer);
            }
            Err(err) => drop((err.fault(), err.to_string())),
        }
        let _ = Framebuffer::for_dumb(table, dumb, fourcc);
        Ok(())
    });
    assert!(made.get() > 5, "only {} layouts were good enough: nothing has been tested", made.get());
    assert_eq!(display.machine.census(), before);
}

#[test]
fn the_maths_of_formats_never_turns_over() {
    let inputs = (any::<u32>(), known_format(), 0..8_usize, [(); 4].map(|()| number()));
    try_all("formats", inputs, |(code, info, plane, [width, height, offset, stride])| {
        prop_assert_eq!(format::name(code).chars().count(), 4);
        prop_assert!(format::info_raw(code).is_none_or(|info| info.fourcc == code));
        prop_assert!((1..=MAX_BUFFER_PLANES).contains(&info.plane_count()));
        let (least, rows) = (info.min_stride(plane, width), info.plane_rows(plane, height));
        let end = info.plane_end(plane, width, height, offset, stride);
        // The same in numbers that have room.
        let exact =
            u128::from(offset) + u128::from(least) + u128::from(rows.saturating_sub(1)) * u128::from(stride);
        prop_assert_eq!(u128::from(end), exact.min(u128::from(u64::MAX)));
        prop_assert!(least <= u64::from(width) * 8 && rows <= u64::from(height));
        prop_assert_eq!(least > 0, plane < info.plane_count() && width > 0);
        Ok(())
    });
}

fn rect() -> impl Strategy<Value = Rect> {
    let edge = prop_oneof![any::<i32>(), -20..20_i32, Just(i32::MIN), Just(i32::MAX), Just(0)];
    prop_oneof![
        (edge.clone(), edge, number(), number()).prop_map(|(x, y, w, h)| Rect::new(x, y, w, h)),
        Just(Rect::new(0, 0, 1024, 768)),
    ]
}

fn scannable() -> impl Strategy<Value = Scannable> {
    let format = prop_oneof![Just(DrmFourcc::Xrgb8888), Just(DrmFourcc::Nv12)];
    (format, modifier(), any::<bool>())
        .prop_map(|(format, modifier, foreign)| Scannable { foreign, ..Scannable::new(format, modifier) })
}

fn layer() -> impl Strategy<Value = Layer> {
    let content = prop_oneof![5 => scannable().prop_map(Ok), 1 => Just(Err(Refusal::NotDmabuf))];
    let src = [(); 4].map(|()| number()).prop_map(|[x, y, w, h]| SourceRect { x, y, w, h });
    let alpha = prop_oneof![3 => Just(u16::MAX), 1 => any::<u16>()];
    let turned = (prop_oneof![3 => Just(0_u8), 1 => 0..4_u8], any::<bool>());
    (rect(), src, any::<bool>(), content, alpha, turned, rect(), any::<u8>()).prop_map(
        |(dst, src, opaque, content, alpha, (quarters, reflect_y), opaque_region, rate)| Layer {
            // Keys may repeat.
            key: u64::from(rate % 4),
            rotation: Rotation::new(quarters, false, reflect_y),
            alpha,
            opaque_region,
            rate,
            ..Layer::new(dst, src, opaque, content)
        },
    )
}

fn caps() -> impl Strategy<Value = PlaneCaps> {
    let kind = prop_oneof![
        2 => Just(PlaneType::Primary),
        4 => Just(PlaneType::Overlay),
        1 => Just(PlaneType::Cursor),
    ];
    let zpos = prop_oneof![
        3 => (0..6_i64).prop_map(Zpos::Fixed),
        1 => any::<i64>().prop_map(Zpos::Fixed),
        1 => any::<(i64, i64)>().prop_map(|(min, max)| Zpos::Range { min, max }),
        1 => Just(Zpos::Unknown),
    ];
    let scaling = prop_oneof![
        3 => Just(Scaling::Unknown),
        1 => any::<(u32, u32)>().prop_map(|(min, max)| Scaling::Range { min, max }),
    ];
    let flags = any::<[bool; 4]>();
    // Ids may repeat: a driver's word is no better than a client's.
    (1..8_u32, kind, zpos, scaling, any::<u64>(), flags).prop_map(
        |(id, kind, zpos, scaling, rotations, [yuv, alpha, covers_part, foreign])| {
            let formats = [(DrmFourcc::Xrgb8888, DrmModifier::Linear)];
            let more = yuv.then_some((DrmFourcc::Nv12, DrmModifier::Linear));
            let id = NonZeroU32::MIN.saturating_add(id);
            PlaneCaps {
                scaling,
                rotations: Rotations::from_bits(rotations),
                alpha,
                covers_part,
                foreign,
                ..PlaneCaps::new(id, kind, formats.into_iter().chain(more), zpos)
            }
        },
    )
}

#[test]
fn the_planner_answers_whatever_it_is_given() {
    let inputs =
        (prop::collection::vec(caps(), 0..7), prop::collection::vec(layer(), 0..7), rect(), any::<u64>());
    let on_planes = std::cell::Cell::new(0_u32);
    try_all("plans", inputs, |(planes, layers, output, answers)| {
        let mut asked = 0_u32;
        let alpha = (answers & 1 == 1).then_some(DrmFourcc::Xrgb8888);
        let (grid, crtc_shows_backdrop) = (NonZeroU32::new(answers as u32 >> 8), answers & 2 == 2);
        let canvas = Canvas { alpha, grid, ..Canvas::default() };
        let scene = Scene { canvas, crtc_shows_backdrop, ..Scene::new(&planes, &layers, output) };
        let plan = scanout::plan(&scene, |_: &Plan| {
            asked += 1;
            if answers >> (asked % 64) & 1 == 1 { Ok(()) } else { Err(Errno::INVAL) }
        });
        prop_assert!(asked as usize <= scanout::MAX_ASKS);
        prop_assert_eq!(plan.planes.len(), layers.len());
        prop_assert!(plan.visible <= layers.len());
        prop_assert!(plan.part.is_none_or(|part| output.contains(&part)));
        prop_assert!(plan.composited().all(|index| index < plan.visible));
        prop_assert!(plan.planes[plan.visible..].iter().all(Option::is_none));
        prop_assert!(plan.planes.iter().flatten().all(|id| planes.iter().any(|plane| plane.id == *id)));
        if let PrimaryContent::Layer(index) = plan.primary {
            let dst = layers[index].dst;
            prop_assert!(layers[index].opaque);
            prop_assert!(dst == output || (crtc_shows_backdrop && output.contains(&dst)));
        }
        for (index, shown) in plan.planes.iter().enumerate() {
            let reason = plan.reason(index);
            prop_assert!(shown.is_some() || index >= plan.visible || planes.is_empty() || reason.is_some());
        }
        on_planes.set(on_planes.get() + u32::from(plan.planes.iter().any(Option::is_some)));
        Ok(())
    });
    assert!(on_planes.get() > 20, "hardly any layer got a plane: nothing has been tested");
}
