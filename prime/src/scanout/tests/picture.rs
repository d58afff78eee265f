//! What planes show together under a plan, pixel by pixel, beside a compositor that draws the same layers into one picture.
//!
//! Colours are premultiplied and real numbers, so that the order of blending makes no difference but where it matters.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use super::*;

const OUT: Rect = Rect::new(0, 0, 12, 9);

type Pixel = [f64; 4];

fn over(top: Pixel, below: Pixel) -> Pixel {
    std::array::from_fn(|i| top[i] + below[i] * (1.0 - top[3]))
}

#[derive(Clone, Debug)]
struct Image {
    w: usize,
    pixels: Vec<Pixel>,
}

impl Image {
    fn filled(w: u32, h: u32, pixel: Pixel) -> Self {
        Self { w: w as usize, pixels: vec![pixel; (w * h) as usize] }
    }

    fn h(&self) -> usize {
        self.pixels.len() / self.w
    }

    fn made(w: usize, h: usize, pixel: impl Fn(usize, usize) -> Pixel) -> Self {
        let pixels = (0..w * h).map(|i| pixel(i % w, i / w)).collect();
        Self { w, pixels }
    }

    fn at(&self, x: usize, y: usize) -> Pixel {
        self.pixels[y * self.w + x]
    }

    /// Puts `image` at `dst`, through `mix(image's pixel, own pixel)`.
    fn put(&mut self, image: &Image, dst: Rect, mix: impl Fn(Pixel, Pixel) -> Pixel) {
        for y in 0..OUT.h as i32 {
            for x in 0..OUT.w as i32 {
                let (dx, dy) = (x - dst.x, y - dst.y);
                if dx < 0 || dy < 0 || dx >= dst.w as i32 || dy >= dst.h as i32 {
                    continue;
                }
                let own = &mut self.pixels[y as usize * self.w + x as usize];
                *own = mix(image.at(dx as usize, dy as usize), *own);
            }
        }
    }
}

/// A layer's memory, of which `layer.src` is a part.
#[derive(Clone, Debug)]
struct Content {
    layer: Layer,
    memory: Image,
}

impl Content {
    fn part(&self) -> Image {
        let src = self.layer.src;
        let [x, y, w, h] = [src.x, src.y, src.w, src.h].map(|v| (v >> 16) as usize);
        Image::made(w, h, |px, py| self.memory.at(x + px, y + py))
    }

    fn faded(&self, image: Image, alpha: u16) -> Image {
        let alpha = f64::from(alpha) / 65535.0;
        Image::made(image.w, image.h(), |x, y| image.at(x, y).map(|v| v * alpha))
    }

    fn scaled(&self, image: &Image) -> Image {
        let dst = self.layer.dst;
        let from = |at: usize, to: u32, of: usize| (2 * at + 1) * of / (2 * to as usize);
        Image::made(dst.w as usize, dst.h as usize, |x, y| {
            image.at(from(x, dst.w, image.w), from(y, dst.h, image.h()))
        })
    }

    /// What the compositor draws: where a pixel comes from is found by undoing the turn, then the reflections.
    fn reference(&self) -> Image {
        let part = self.part();
        let (quarters, reflect_x, reflect_y) = self.layer.rotation.parts();
        let (w, h) = if quarters % 2 == 1 { (part.h(), part.w) } else { (part.w, part.h()) };
        let turned = Image::made(w, h, |x, y| {
            let (mut px, mut py) = match quarters {
                0 => (x, y),
                1 => (part.w - 1 - y, x),
                2 => (part.w - 1 - x, part.h() - 1 - y),
                _ => (y, part.h() - 1 - x),
            };
            if reflect_x {
                px = part.w - 1 - px;
            }
            if reflect_y {
                py = part.h() - 1 - py;
            }
            part.at(px, py)
        });
        self.faded(self.scaled(&turned), self.layer.alpha)
    }

    /// What a plane shows: the picture reflected and then turned step by step.
    fn on_plane(&self, setting: &PlaneSetting) -> Image {
        let mut picture = self.part();
        let (quarters, reflect_x, reflect_y) = setting.rotation.parts();
        let (w, h) = (picture.w, picture.h());
        if reflect_x {
            picture = Image::made(w, h, |x, y| picture.at(w - 1 - x, y));
        }
        if reflect_y {
            picture = Image::made(w, h, |x, y| picture.at(x, h - 1 - y));
        }
        for _ in 0..quarters {
            let (w, h) = (picture.w, picture.h());
            picture = Image::made(h, w, |x, y| picture.at(w - 1 - y, x));
        }
        self.faded(self.scaled(&picture), setting.alpha)
    }
}

/// A whole scene.
#[derive(Clone, Debug)]
struct Show {
    planes: Vec<PlaneCaps>,
    contents: Vec<Content>,
    pointer: Option<(Pointer, Image)>,
    crtc_shows_backdrop: bool,
    holes: bool,
    overlays: bool,
    grid: Option<NonZeroU32>,
}

impl Show {
    fn layers(&self) -> Vec<Layer> {
        self.contents.iter().map(|c| c.layer.clone()).collect()
    }

    fn scene<'a>(&'a self, layers: &'a [Layer]) -> Scene<'a> {
        Scene {
            planes: &self.planes,
            layers,
            pointer: self.pointer.as_ref().map(|p| &p.0),
            output: OUT,
            canvas: Canvas {
                alpha: self.holes.then_some(DrmFourcc::Argb8888),
                grid: self.grid,
                ..Canvas::default()
            },
            crtc_shows_backdrop: self.crtc_shows_backdrop,
            overlays: self.overlays,
        }
    }

    fn backdrop(&self) -> Image {
        Image::filled(OUT.w, OUT.h, [0.1, 0.2, 0.3, 1.0])
    }

    fn reference(&self) -> Image {
        let mut picture = self.backdrop();
        for content in self.contents.iter().rev() {
            picture.put(&content.reference(), content.layer.dst, over);
        }
        if let Some((pointer, image)) = &self.pointer {
            picture.put(image, pointer.dst, over);
        }
        picture
    }

    /// As large as the output, of which a plane shows a part.
    fn composited(&self, plan: &Plan) -> Image {
        let mut picture = self.backdrop();
        let drawn: Vec<_> = plan.drawn().collect();
        for (index, hole) in drawn.into_iter().rev() {
            let content = &self.contents[index];
            if hole {
                picture.put(&content.reference(), content.layer.dst, |_, _| [0.0; 4]);
            } else {
                picture.put(&content.reference(), content.layer.dst, over);
            }
        }
        if let (Some((pointer, image)), None) = (&self.pointer, plan.pointer) {
            picture.put(image, pointer.dst, over);
        }
        picture
    }

    /// What the CRTC shows: the backdrop or else black, and over it every plane that is on, lowest first.
    fn on_planes(&self, plan: &Plan) -> Image {
        let mut on: Vec<(i64, NonZeroU32, Image, Rect)> = Vec::new();
        for caps in &self.planes {
            let layer = plan.planes.iter().position(|p| *p == Some(caps.id));
            let primary = caps.kind == PlaneType::Primary && plan.primary == PrimaryContent::Composited;
            let Some(setting) = plan.setting(caps.id) else {
                assert!(layer.is_none() && !primary && plan.pointer != Some(caps.id), "no setting");
                continue;
            };
            let (image, dst) = match (layer, &self.pointer) {
                (Some(layer), _) => (self.contents[layer].on_plane(setting), self.contents[layer].layer.dst),
                (None, _) if primary => {
                    let part = plan.part.unwrap_or(OUT);
                    assert!(OUT.contains(&part) && part.area() > 0, "{part:?}");
                    let all = self.composited(plan);
                    let at = |x, y| all.at(x + part.x as usize, y + part.y as usize);
                    (Image::made(part.w as usize, part.h as usize, at), part)
                }
                (None, Some((pointer, image))) if plan.pointer == Some(caps.id) => {
                    (image.clone(), pointer.dst)
                }
                _ => continue,
            };
            let zpos = match (caps.zpos, caps.kind) {
                (Zpos::Fixed(zpos), _) => zpos,
                (Zpos::Range { min, max }, _) => {
                    let zpos = setting.zpos.expect("zpos is set");
                    assert!((min..=max).contains(&zpos));
                    zpos
                }
                (Zpos::Unknown, PlaneType::Primary) => i64::MIN,
                (Zpos::Unknown, PlaneType::Cursor) => i64::MAX,
                (Zpos::Unknown, PlaneType::Overlay) => panic!("an overlay of unknown place is used"),
            };
            on.push((zpos, caps.id, image, dst));
        }
        on.sort_by_key(|(zpos, id, ..)| (*zpos, *id));
        let black = Image::filled(OUT.w, OUT.h, [0.0, 0.0, 0.0, 1.0]);
        let mut picture = if self.crtc_shows_backdrop { self.backdrop() } else { black };
        for (_, _, image, dst) in on {
            picture.put(&image, dst, over);
        }
        picture
    }
}

fn look(seed: u64, opaque: bool) -> Pixel {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    let bits = hasher.finish();
    let alpha = if opaque { 1.0 } else { [0.0, 0.25, 0.5, 1.0][(bits >> 60) as usize & 3] };
    let colour = |shift: u32| f64::from((bits >> shift) as u8) / 255.0 * alpha;
    [colour(0), colour(8), colour(16), alpha]
}

fn any_rotation() -> impl Strategy<Value = Rotation> {
    (0..4u8, any::<bool>(), any::<bool>()).prop_map(|(quarters, x, y)| Rotation::new(quarters, x, y))
}

prop_compose! {
    fn any_content()(
        seed: u64,
        (x, y, w, h) in (-3..10i32, -3..8i32, 1..9u32, 1..7u32),
        crop in (0..3u32, 0..3u32, 0..2u32, 0..2u32),
        rotation in prop_oneof![2 => Just(Rotation::NORMAL), 1 => any_rotation()],
        factor in prop_oneof![4 => Just(None), 1 => (1..7u32, 1..7u32).prop_map(Some)],
        alpha in prop_oneof![5 => Just(u16::MAX), 1 => any::<u16>()],
        (opaque, full, rate) in (any::<bool>(), 0..5u8, 0..3u8),
        solid in prop_oneof![2 => Just(None), 1 => (0..4u32, 0..4u32, 1..9u32, 1..9u32).prop_map(Some)],
        refused in 0..7u8,
        nv12: bool,
    ) -> Content {
        // What fills the output, or a letterbox, mostly hides what is behind it.
        let (opaque, alpha) = if full < 2 { (opaque || rate > 0, u16::MAX) } else { (opaque, alpha) };
        let dst = match full {
            0 => OUT,
            1 => Rect::new(2, 0, 8, OUT.h),
            _ => Rect::new(x, y, w, h),
        };
        let size = if rotation.turns_sides() { (dst.h, dst.w) } else { (dst.w, dst.h) };
        let (w, h) = factor.unwrap_or(size);
        let src = SourceRect { x: crop.0 << 16, y: crop.1 << 16, w: w << 16, h: h << 16 };
        let (width, height) = (crop.0 + w + crop.2, crop.1 + h + crop.3);
        // A part of it that is opaque, where that part is simply the same in memory.
        let plain = rotation == Rotation::NORMAL && factor.is_none();
        let solid = solid.filter(|_| plain && !opaque).map(|(x, y, w, h)| {
            Rect::new(dst.x + x as i32, dst.y + y as i32, w, h).intersection(&dst).unwrap_or_default()
        });
        let memory = Image::made(width as usize, height as usize, |mx, my| {
            let (px, py) = (mx as i32 - crop.0 as i32 + dst.x, my as i32 - crop.1 as i32 + dst.y);
            let solid = solid.is_some_and(|s| s.overlaps(&Rect::new(px, py, 1, 1)));
            look(seed.wrapping_add((my * 32 + mx) as u64), opaque || solid)
        });
        let format = match (opaque, nv12) {
            (true, true) => DrmFourcc::Nv12,
            (true, false) => DrmFourcc::Xrgb8888,
            (false, _) => DrmFourcc::Argb8888,
        };
        let content = match refused {
            0 => Err(Refusal::NotDmabuf),
            _ => Ok(Scannable { foreign: seed % 7 == 0, ..Scannable::new(format, DrmModifier::Linear) }),
        };
        let mut layer = Layer { rotation, alpha, rate, key: seed, ..Layer::new(dst, src, opaque, content) };
        if let Some(solid) = solid {
            layer.opaque_region = solid;
        }
        Content { layer, memory }
    }
}

prop_compose! {
    fn any_caps(raw: u32, kind: PlaneType)(
        zpos in prop_oneof![
            4 => Just(Zpos::Fixed(i64::from(raw))),
            2 => (0..7i64).prop_map(Zpos::Fixed),
            3 => (0..3i64, 0..6i64).prop_map(|(min, more)| Zpos::Range { min, max: min + more }),
            1 => Just(Zpos::Unknown),
        ],
        rotations in prop_oneof![Just(Rotations::ALL), Just(Rotations::NONE), any::<u64>().prop_map(Rotations::from_bits)],
        scaling in prop_oneof![
            Just(Scaling::Unknown), Just(Scaling::Never), Just(Scaling::Range { min: 1 << 15, max: 2 << 16 })
        ],
        (alpha, covers_part, premultiplied, none, settable) in
            (any::<bool>(), prop::bool::weighted(0.7), prop::bool::weighted(0.9), any::<bool>(), any::<bool>()),
        (argb, nv12, foreign) in (prop::bool::weighted(0.9), any::<bool>(), any::<bool>()),
        largest in prop_oneof![3 => Just(None), 1 => Just(Some(((1, 1), (6, 6))))],
    ) -> PlaneCaps {
        let formats = [(DrmFourcc::Xrgb8888, true), (DrmFourcc::Argb8888, argb), (DrmFourcc::Nv12, nv12)];
        let formats = formats.into_iter().filter(|(_, has)| *has).map(|(f, _)| (f, DrmModifier::Linear));
        PlaneCaps {
            rotations, scaling, alpha, covers_part, foreign,
            blend: BlendModes { premultiplied, none, settable },
            sizes: largest.filter(|_| kind == PlaneType::Overlay),
            cursor_sizes: if kind == PlaneType::Cursor { vec![(2, 2)] } else { Vec::new() },
            ..PlaneCaps::new(id(raw), kind, formats, zpos)
        }
    }
}

prop_compose! {
    fn any_planes()(
        below in prop::collection::vec(any_caps(1, PlaneType::Overlay), 0..2),
        primary in any_caps(2, PlaneType::Primary),
        overlays in (any_caps(3, PlaneType::Overlay), any_caps(4, PlaneType::Overlay), any_caps(5, PlaneType::Overlay)),
        cursor in prop::option::of(any_caps(6, PlaneType::Cursor)),
        count in 0..4usize,
    ) -> Vec<PlaneCaps> {
        let overlays = [overlays.0, overlays.1, overlays.2].into_iter().take(count);
        below.into_iter().chain([primary]).chain(overlays).chain(cursor).collect()
    }
}

prop_compose! {
    fn any_pointer()(x in -2..13i32, y in -2..10i32, seed: u64, shown: bool, refused in 0..4u8) -> Option<(Pointer, Image)> {
        let content = match refused {
            0 => Err(Refusal::NotDmabuf),
            _ => Ok(Scannable::new(DrmFourcc::Argb8888, DrmModifier::Linear)),
        };
        let pointer = Pointer { dst: Rect::new(x, y, 2, 2), hotspot: (0, 0), content };
        let image = Image::made(2, 2, |x, y| look(seed.wrapping_add((y * 2 + x) as u64), false));
        shown.then_some((pointer, image))
    }
}

prop_compose! {
    fn any_show()(
        planes in any_planes(),
        contents in prop::collection::vec(any_content(), 0..6),
        pointer in any_pointer(),
        (crtc_shows_backdrop, holes, overlays) in
            (prop::bool::weighted(0.7), prop::bool::weighted(0.7), prop::bool::weighted(0.95)),
        grid in 0..4u32,
    ) -> Show {
        let grid = NonZeroU32::new(grid);
        Show { planes, contents, pointer, crtc_shows_backdrop, holes, overlays, grid }
    }
}

/// What the driver sees of a plan, as a number.
fn said(show: &Show, plan: &Plan, seed: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut settings = plan.settings.clone();
    settings.sort_by_key(|s| s.plane);
    (settings, seed).hash(&mut hasher);
    let format = if plan.underlays.is_empty() { DrmFourcc::Xrgb8888 } else { DrmFourcc::Argb8888 };
    let canvas = Ok(Scannable::new(format, DrmModifier::Linear));
    for caps in &show.planes {
        let layer = plan.planes.iter().position(|p| *p == Some(caps.id)).map(|i| &show.contents[i].layer);
        let pointer = show.pointer.as_ref().filter(|_| plan.pointer == Some(caps.id)).map(|p| &p.0);
        let place = |p: &Pointer| if caps.kind == PlaneType::Cursor { Rect::new(0, 0, 2, 2) } else { p.dst };
        let pointer = pointer.map(|p| (&p.content, SourceRect::whole(2, 2), place(p)));
        let primary = caps.kind == PlaneType::Primary && plan.primary == PrimaryContent::Composited;
        let part = plan.part.unwrap_or(OUT);
        let canvas = primary.then_some((&canvas, SourceRect::whole(part.w, part.h), part));
        if let Some(shown) = layer.map(|l| (&l.content, l.src, l.dst)).or(pointer).or(canvas) {
            (caps.id, shown).hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn check(
    show: &Show,
    planner: &mut Planner,
    now: u64,
    grumpy: u64,
    seed: u64,
) -> Result<Plan, TestCaseError> {
    let layers = show.layers();
    let mut asked = 0;
    let scene = show.scene(&layers);
    let made = planner.plan(&scene, Duration::from_millis(now), |plan| {
        asked += 1;
        assert!(plan.refusals.is_empty());
        if said(show, plan, seed) % 8 >= grumpy { Ok(()) } else { Err(Errno::INVAL) }
    });
    let plan = planner.last().unwrap().clone();
    let counted = if made { plan.asked } else { 0 };
    prop_assert!(asked <= MAX_ASKS && asked == counted);
    // The picture is right.
    let (wanted, shown) = (show.reference(), show.on_planes(&plan));
    for (index, (wanted, shown)) in wanted.pixels.iter().zip(&shown.pixels).enumerate() {
        let off = (0..3).map(|i| (wanted[i] - shown[i]).abs()).fold(0.0, f64::max);
        let (x, y) = (index % OUT.w as usize, index / OUT.w as usize);
        prop_assert!(off < 1e-9, "({x}, {y}): {shown:?} instead of {wanted:?} under {plan:#?}");
    }
    // Every pair that is not used has its reason, and no other.
    for layer in 0..layers.len() {
        let mut has: Vec<u32> = plan.refusals_of(layer).iter().map(|(_, p, _)| p.get()).collect();
        has.extend(plan.planes[layer].map(NonZeroU32::get));
        has.sort_unstable();
        prop_assert_eq!(has, show.planes.iter().map(|p| p.id.get()).collect::<Vec<_>>());
    }
    // What is on planes was accepted as a whole.
    let on = plan.pointer.is_some() || plan.planes.iter().any(Option::is_some) || plan.part.is_some();
    prop_assert!(!on || said(show, &plan, seed) % 8 >= grumpy || grumpy == 0);
    Ok(plan)
}

#[derive(Debug, Default)]
struct Seen {
    over: u32,
    under: u32,
    direct: u32,
    letterboxed: u32,
    turned: u32,
    faded: u32,
    scaled: u32,
    pointer: u32,
    set: u32,
    part: u32,
    part_with_hole: u32,
}

impl Seen {
    fn count(&mut self, show: &Show, plan: &Plan) {
        self.under += plan.underlays.len() as u32;
        self.pointer += u32::from(plan.pointer.is_some());
        self.part += u32::from(plan.part.is_some());
        self.part_with_hole += u32::from(plan.part.is_some() && !plan.underlays.is_empty());
        self.set += u32::from(plan.settings.iter().any(|s| s.zpos.is_some_and(|z| z > 0)));
        if let PrimaryContent::Layer(layer) = plan.primary {
            self.direct += 1;
            self.letterboxed += u32::from(show.contents[layer].layer.dst != OUT);
        }
        for (content, _) in show.contents.iter().zip(&plan.planes).filter(|(_, plane)| plane.is_some()) {
            let layer = &content.layer;
            self.over += 1;
            self.turned += u32::from(layer.rotation != Rotation::NORMAL);
            self.faded += u32::from(layer.alpha != u16::MAX);
            let sides = if layer.rotation.turns_sides() {
                (layer.src.h, layer.src.w)
            } else {
                (layer.src.w, layer.src.h)
            };
            self.scaled += u32::from(sides != (layer.dst.w << 16, layer.dst.h << 16));
        }
    }
}

/// Scenes one after another, some of them the one before with something changed, on one planner.
#[test]
fn planes_show_what_a_compositor_would_draw() {
    // Strategies of whole scenes are large values.
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(try_scenes).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn try_scenes() {
    let cases = if std::env::var_os("PRIMEWAY_LONG").is_some() { 200_000 } else { 1500 };
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let seen = std::cell::RefCell::new(Seen::default());
    let change = prop_oneof![
        any_show().prop_map(|show| (0u8, show)),
        any_show().prop_map(|show| (1, show)),
        any_show().prop_map(|show| (2, show)),
    ];
    let input = (any_show(), prop::collection::vec((change, 0..3000u64), 0..4), 0..7u64, any::<u64>());
    let ran = runner.run(&input, |(mut show, changes, grumpy, seed)| {
        let (mut planner, mut now) = (Planner::new(), 0);
        let plan = check(&show, &mut planner, now, grumpy, seed)?;
        seen.borrow_mut().count(&show, &plan);
        for ((what, other), pause) in changes {
            now += pause;
            match what {
                0 => show = other,
                1 => show.contents = other.contents,
                _ => show.pointer = other.pointer,
            }
            let plan = check(&show, &mut planner, now, grumpy, seed)?;
            seen.borrow_mut().count(&show, &plan);
        }
        Ok(())
    });
    if let Err(failure) = ran {
        let text = failure.to_string();
        panic!("{}", text.chars().take(20_000).collect::<String>());
    }
    let seen = seen.into_inner();
    let Seen { over, under, direct, letterboxed, turned, faded, scaled, pointer, set, part, part_with_hole } =
        seen;
    let counts =
        [over, under, direct, letterboxed, turned, faded, scaled, pointer, set, part, part_with_hole];
    assert!(counts.iter().all(|count| *count > 5), "hardly tried: {seen:?}");
}
