//! What the display really shows: pictures and CRCs on the lab's kernel, against references computed here.
//!
//! Owns the picture cases. Each starts its own primeway; the expected picture never comes from the compositor,
//! except for the colour of its empty background, which is read from a corner of the capture.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::crc::{Layer, Scene};
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::format::Format;
use primeway_tests::kernel_cases::{self, Case, NamedCase};
use primeway_tests::kms_master::KmsMaster;
use primeway_tests::picture::Picture;
use primeway_tests::stage::{Stage, background, layer, noise, note_figure, place};

/// A case for one of the renderers.
type CaseOf = (&'static str, fn(Renderer) -> Result<()>);

/// What is composited at least in part, which both renderers must show alike.
const COMPOSITED: &[CaseOf] = &[
    ("xrgb_windows_are_exact", xrgb_windows_are_exact),
    ("nv12_composited_is_near_the_reference", |r| composited(r, "NV12", "vgem")),
    ("p010_composited_is_near_the_reference", |r| composited(r, "P010", "vkms")),
    // GLES reads the display's own memory without a copy, and the memory of others through the CPU.
    ("xrgb_of_the_display_composited_is_exact", |r| composited(r, "XR24", "vkms")),
    ("argb_composited_blends", argb_composited_blends),
    ("y_invert_is_upright", y_invert_is_upright),
    ("overlapping_windows_stack_in_order", overlapping_windows_stack_in_order),
    ("composited_popups_lie_over_their_windows", |r| popup_lies_over_its_window(r, "popup-shm", "shm")),
    ("viewport_scales", viewport_scales),
];

/// What planes show, whatever composites the background.
const SCANNED_OUT: &[Case] = &[
    ("kernel_crc_is_the_model", kernel_crc_is_the_model),
    ("xrgb_full_screen_is_exact", xrgb_full_screen_is_exact),
    ("nv12_scanned_out_is_near_the_reference", || yuv_scanned_out("NV12")),
    ("p010_scanned_out_is_near_the_reference", || yuv_scanned_out("P010")),
    ("argb_overlay_blends", argb_overlay_blends),
    ("subsurface_lies_over_its_parent", subsurface_lies_over_its_parent),
    ("inverted_subsurface_lies_over_its_inverted_parent", inverted_subsurface_lies_over_its_inverted_parent),
    ("popups_lie_over_their_windows", || popup_lies_over_its_window(PIXMAN, "popup", "vgem")),
    ("memory_of_gbm_is_scanned_out", memory_of_gbm_is_scanned_out),
    ("stacking_with_an_overlay_created_first", stacking_with_an_overlay_created_first),
    ("what_lies_over_an_underlay_is_blended", what_lies_over_an_underlay_is_blended),
    ("turned_buffers_are_shown_by_planes", turned_buffers_are_shown_by_planes),
    ("a_letterboxed_window_is_on_the_primary_plane", a_letterboxed_window_is_on_the_primary_plane),
    ("windows_lie_on_the_background_of_the_crtc", windows_lie_on_the_background_of_the_crtc),
    ("the_composited_picture_is_as_large_as_its_windows", the_composited_picture_is_as_large_as_its_windows),
    ("the_composited_picture_lies_where_its_windows_are", the_composited_picture_lies_where_its_windows_are),
    ("a_hole_is_in_a_picture_smaller_than_the_output", a_hole_is_in_a_picture_smaller_than_the_output),
    ("outputs_share_their_overlays", outputs_share_their_overlays),
];

const PIXMAN: Renderer = Renderer("pixman");
const GLES: Renderer = Renderer("gles");

/// What composites in the primeway under test.
#[derive(Clone, Copy)]
struct Renderer(&'static str);

impl Renderer {
    /// Starts a compositor with it.
    fn stage(self, name: &str) -> Result<Stage> {
        let mut stage = Stage::start_with(&format!("{}-{name}", self.0), &["--renderer", self.0])?;
        let renderer = stage.stats()?.renderer;
        ensure!(renderer.name == self.0 && !renderer.reads_back, "composited by {renderer:?}");
        Ok(stage)
    }
}

fn main() -> ExitCode {
    let mut cases: Vec<NamedCase> = Vec::new();
    for renderer in [PIXMAN, GLES] {
        let named = COMPOSITED
            .iter()
            .map(|&(name, case)| (format!("{}::{name}", renderer.0), Box::new(move || case(renderer)) as _));
        cases.extend(named);
    }
    cases.extend(SCANNED_OUT.iter().map(|&(name, case)| (name.to_owned(), Box::new(case) as _)));
    kernel_cases::run_named(env!("CARGO_CRATE_NAME"), cases)
}

/// Without a compositor: the model that the other cases rely on is what this kernel does.
fn kernel_crc_is_the_model() -> Result<()> {
    let master = KmsMaster::take(DrmNode::of_driver("vkms")?)?;
    let (width, height) = master.size();
    let draw = |allocator, format: &str, picture: Picture| -> Result<(ClientBuffer, Format)> {
        let format = Format::named(format)?;
        let mut buffer = ClientBuffer::allocate(allocator, format, picture.width, picture.height)?;
        buffer.draw(&picture, false)?;
        Ok((buffer, format))
    };
    let under = noise(1, width, height);
    let (primary, format) = draw(Allocator::Vgem, "XR24", under)?;
    master.show(&primary)?;
    let mut scene = Scene {
        width,
        height,
        background: [0; 3],
        layers: vec![Layer { picture: under, format, x: 0, y: 0 }],
    };
    let device = DebugDevice::of_driver("vkms")?;
    let active: Vec<String> = device.planes()?.into_iter().filter_map(|plane| plane.crtc).collect();
    let crtc = active.first().context("no CRTC is on")?;
    let mut reader = device.crc(crtc)?;
    let mut compare = |scene: &Scene, what: &str| -> Result<()> {
        let (wanted, shown) = (scene.crc(), reader.stable(10, Duration::from_secs(10))?);
        ensure!(wanted == shown, "{what}: the model says {wanted:08x}, the kernel {shown:08x}");
        Ok(())
    };
    compare(&scene, "XRGB")?;
    let overlays = [
        (Allocator::Udmabuf, "AR24", (40, 30)),
        (Allocator::Heap, "NV12", (-10, 300)),
        (Allocator::Vgem, "P010", (900, 650)),
        (Allocator::Vkms, "RG16", (500, 100)),
    ];
    let mut shown = Vec::new();
    for (index, (allocator, name, (x, y))) in overlays.into_iter().enumerate() {
        let picture = noise(index as u32 + 2, 202, 150);
        let (buffer, format) = draw(allocator, name, picture)?;
        master.show_overlay(index, &buffer, (x, y))?;
        scene.layers.push(Layer { picture, format, x, y });
        shown.push(buffer);
        compare(&scene, name)?;
    }
    Ok(())
}

fn xrgb_full_screen_is_exact() -> Result<()> {
    let mut stage = Stage::start("xrgb-full")?;
    let client = stage.add("full", &["--fullscreen", "--pattern", "noise:5"])?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_some(), "not scanned out: {:?}", surface.reason);
    let screen = stage.capture()?;
    let size = (screen.width, screen.height);
    stage.expect_noise(&screen, client, "XR24", 5, size)?;
    stage.expect_crc(&screen, vec![layer(noise(5, size.0, size.1), Format::named("XR24")?, &surface)])
}

/// Windows of every exporter, on planes or not, are exact; the CRC of the whole screen is the model's.
fn xrgb_windows_are_exact(renderer: Renderer) -> Result<()> {
    let mut stage = renderer.stage("xrgb-windows")?;
    let (format, size) = (Format::named("XR24")?, (190, 140));
    let allocators = ["vgem", "udmabuf", "heap", "vkms", "shm"];
    for (seed, allocator) in allocators.iter().enumerate() {
        stage.add_noise("XR24", seed as u32, size, &["--alloc", allocator])?;
    }
    stage.settle()?;
    let screen = stage.capture()?;
    let mut layers = Vec::new();
    for (index, allocator) in allocators.iter().enumerate() {
        let surface = stage.surface(index)?;
        let seed = index as u32;
        stage.expect_noise(&screen, index, "XR24", seed, size).with_context(|| (*allocator).to_owned())?;
        let is_shm = *allocator == "shm";
        ensure!(surface.plane.is_none() || !is_shm, "wl_shm cannot be on plane {:?}", surface.plane);
        ensure!(surface.plane.is_some() || is_shm, "{allocator} is not scanned out: {:?}", surface.reason);
        layers.push(layer(noise(seed, size.0, size.1), format, &surface));
    }
    stage.expect_crc(&screen, layers)
}

fn yuv_scanned_out(name: &str) -> Result<()> {
    let mut stage = Stage::start(if name == "NV12" { "nv12-plane" } else { "p010-plane" })?;
    let client = stage.add_noise(name, 9, (320, 240), &[])?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_some(), "{name} is not scanned out: {:?}", surface.reason);
    let screen = stage.capture()?;
    let worst = stage.expect_noise(&screen, client, name, 9, (320, 240))?;
    note_figure(&format!("{name} scanned out: at most {:.2} of 255 from the reference", worst.steps))?;
    stage.expect_crc(&screen, vec![layer(noise(9, 320, 240), Format::named(name)?, &surface)])
}

/// More windows than overlays: some must be composited, converted from YUV, and all must look the same.
fn composited(renderer: Renderer, name: &str, allocator: &str) -> Result<()> {
    const WINDOWS: u32 = 7;
    let mut stage = renderer.stage(&format!("{name}-{allocator}-composited"))?;
    for seed in 0..WINDOWS {
        stage.add_noise(name, seed, (140, 120), &["--alloc", allocator])?;
    }
    stage.settle()?;
    let screen = stage.capture()?;
    let mut composited = Vec::new();
    for seed in 0..WINDOWS {
        let surface = stage.surface(seed as usize)?;
        let worst = stage.expect_noise(&screen, seed as usize, name, seed, (140, 120))?;
        if surface.plane.is_none() {
            ensure!(surface.reason.is_some(), "a composited surface without a reason");
            composited.push(worst.steps);
        }
    }
    ensure!(!composited.is_empty(), "all of {WINDOWS} windows are on planes: nothing was composited");
    let worst = composited.iter().copied().fold(0.0, f64::max);
    note_figure(&format!(
        "{name} of {allocator}, composited by {} in {} windows: at most {worst:.2} of 255 from the reference",
        renderer.0,
        composited.len()
    ))?;
    Ok(())
}

/// What premultiplied pixels over an opaque background must look like.
fn blended(picture: &Picture, format: &Format, under: [u8; 3], x: u32, y: u32) -> [f64; 3] {
    let over = picture.rgba(format, x, y);
    let keep = 1.0 - f64::from(over.a) / 255.0;
    let channel = |over: u8, under: u8| f64::from(over) + f64::from(under) * keep;
    [channel(over.r, under[0]), channel(over.g, under[1]), channel(over.b, under[2])]
}

fn argb_overlay_blends() -> Result<()> {
    let mut stage = Stage::start("argb-overlay")?;
    let format = Format::named("AR24")?;
    let client = stage.add_noise("AR24", 3, (300, 200), &["--alloc", "udmabuf"])?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_some(), "ARGB is not scanned out: {:?}", surface.reason);
    let screen = stage.capture()?;
    let (picture, under) = (noise(3, 300, 200), background(&screen));
    let worst =
        screen.difference_to((300, 200), place(&surface)?, |x, y| blended(&picture, &format, under, x, y))?;
    ensure!(worst.steps <= 1.0, "blended by the plane: {worst:?}");
    stage.expect_crc(&screen, vec![layer(picture, format, &surface)])
}

/// The renderer blends as the planes do.
fn argb_composited_blends(renderer: Renderer) -> Result<()> {
    let mut stage = renderer.stage("argb-composited")?;
    let format = Format::named("AR24")?;
    let client = stage.add_noise("AR24", 4, (300, 200), &["--alloc", "shm"])?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_none(), "wl_shm cannot be scanned out");
    let screen = stage.capture()?;
    let (picture, under) = (noise(4, 300, 200), background(&screen));
    let worst =
        screen.difference_to((300, 200), place(&surface)?, |x, y| blended(&picture, &format, under, x, y))?;
    ensure!(worst.steps <= 1.0, "blended by the renderer: {worst:?}");
    Ok(())
}

/// Y_INVERT: on a plane, and composited where there are more windows than planes.
fn y_invert_is_upright(renderer: Renderer) -> Result<()> {
    const WINDOWS: u32 = 6;
    let mut stage = renderer.stage("y-invert")?;
    for seed in 0..WINDOWS {
        let format = if seed % 2 == 0 { "XR24" } else { "NV12" };
        let allocator = if seed % 4 == 0 { "vkms" } else { "vgem" };
        stage.add_noise(format, seed, (160, 120), &["--y-invert", "--alloc", allocator])?;
    }
    stage.settle()?;
    let screen = stage.capture()?;
    for seed in 0..WINDOWS {
        let name = if seed % 2 == 0 { "XR24" } else { "NV12" };
        stage.expect_noise(&screen, seed as usize, name, seed, (160, 120))?;
    }
    Ok(())
}

/// Windows that do not fit side by side: whatever is on planes and whatever is composited, the later lies above.
fn overlapping_windows_stack_in_order(renderer: Renderer) -> Result<()> {
    let mut stage = renderer.stage("overlap")?;
    let size = (600, 500);
    let kinds = [("vgem", "XR24"), ("udmabuf", "AR24"), ("shm", "AR24"), ("heap", "XR24")];
    for (seed, (allocator, format)) in kinds.iter().enumerate() {
        stage.add_noise(format, seed as u32, size, &["--alloc", allocator])?;
    }
    stage.settle()?;
    let screen = stage.capture()?;
    let mut scene =
        Scene { width: screen.width, height: screen.height, background: [0; 3], layers: Vec::new() };
    let mut planes = Vec::new();
    for (seed, (_, format)) in kinds.iter().enumerate() {
        let surface = stage.surface(seed)?;
        planes.push((surface.position, surface.plane));
        scene.layers.push(layer(noise(seed as u32, size.0, size.1), Format::named(format)?, &surface));
    }
    // Nothing says that a corner is free here, so the background is that of an empty display.
    stage.clients.clear();
    stage.settle()?;
    scene.background = background(&stage.capture()?);
    let wanted = scene.compose();
    let worst = screen.difference_to((screen.width, screen.height), (0, 0), |x, y| {
        let [_, r, g, b] = wanted[(y * screen.width + x) as usize];
        [r, g, b].map(|c| f64::from(c) / 257.0)
    })?;
    ensure!(worst.steps <= 2.0, "windows at {planes:?}: {worst:?}");
    Ok(())
}

fn subsurface_lies_over_its_parent() -> Result<()> {
    subsurface("subsurface", &["--subsurface", "40,30"])
}

/// Both stored bottom row first, both on planes, which turn them.
fn inverted_subsurface_lies_over_its_inverted_parent() -> Result<()> {
    subsurface("inverted-subsurface", &["--subsurface", "40,30", "--y-invert"])
}

fn subsurface(name: &str, arguments: &[&str]) -> Result<()> {
    let mut stage = Stage::start(name)?;
    // The subsurface is half as large as its parent.
    let client = stage.add_noise("XR24", 2, (300, 200), arguments)?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_some(), "composited: {surface:?}");
    let (format, (left, top)) = (Format::named("XR24")?, place(&surface)?);
    let (parent, child) = (noise(2, 300, 200), noise(2, 150, 100));
    let worst = stage.capture()?.difference_to((300, 200), (left, top), |x, y| {
        if (40..190).contains(&x) && (30..130).contains(&y) {
            child.reference(&format, x - 40, y - 30)
        } else {
            parent.reference(&format, x, y)
        }
    })?;
    ensure!(worst.steps == 0.0, "{worst:?}");
    Ok(())
}

/// A popup that sticks out of its window to the right and below.
fn popup_lies_over_its_window(renderer: Renderer, name: &str, allocator: &str) -> Result<()> {
    let mut stage = renderer.stage(name)?;
    // The popup is half as large as its window.
    let client = stage.add_noise("XR24", 2, (300, 200), &["--alloc", allocator, "--popup", "200,150"])?;
    stage.settle()?;
    let pid = stage.clients[client].pid();
    let stats = stage.stats()?;
    let popup = stats.surfaces(pid).into_iter().find(|surface| surface.role.as_deref() == Some("popup"));
    let popup = popup.with_context(|| format!("no popup in {stats:#?}"))?;
    let surface = stage.surface(client)?;
    let (left, top) = place(&surface)?;
    ensure!(place(popup)? == (left + 200, top + 150), "the window is at {left},{top}, {popup:?}");
    let is_shm = allocator == "shm";
    ensure!(
        popup.plane.is_some() != is_shm,
        "{allocator}: the popup is on plane {:?}: {popup:?}",
        popup.plane
    );
    let (format, screen) = (Format::named("XR24")?, stage.capture()?);
    let (window, over) = (noise(2, 300, 200), noise(2, 150, 100));
    let worst = screen.difference_to((350, 250), (left, top), |x, y| {
        if x >= 200 && y >= 150 {
            over.reference(&format, x - 200, y - 150)
        } else if x < 300 && y < 200 {
            window.reference(&format, x, y)
        } else {
            background(&screen).map(f64::from)
        }
    })?;
    ensure!(worst.steps == 0.0, "{worst:?}");
    stage.expect_crc(&screen, vec![layer(window, format, &surface), layer(over, format, popup)])
}

/// What Mesa's clients get on this device: the display's own memory, on another file.
fn memory_of_gbm_is_scanned_out() -> Result<()> {
    let mut stage = Stage::start("gbm")?;
    let mut layers = Vec::new();
    for (seed, format) in (0..).zip(["XR24", "NV12"]) {
        let client = stage.add_noise(format, seed, (320, 240), &["--alloc", "gbm"])?;
        stage.settle()?;
        let surface = stage.surface(client)?;
        ensure!(surface.plane.is_some(), "{format} of gbm is not scanned out: {:?}", surface.reason);
        ensure!(surface.origin.as_deref() == Some("foreign (drm)"), "{:?}", surface.origin);
        layers.push((client, format, seed));
    }
    let screen = stage.capture()?;
    let mut scene = Vec::new();
    for (client, format, seed) in layers {
        stage.expect_noise(&screen, client, format, seed, (320, 240))?;
        scene.push(layer(noise(seed, 320, 240), Format::named(format)?, &stage.surface(client)?));
    }
    stage.expect_crc(&screen, scene)
}

/// vkms scales nothing, so a scaled surface is composited; its inside has the buffer's colour.
fn viewport_scales(renderer: Renderer) -> Result<()> {
    let mut stage = renderer.stage("viewport")?;
    let arguments = ["--pattern", "solid:ff336699", "--size", "100x80", "--viewport", "300x240"];
    let client = stage.add("scaled", &arguments)?;
    stage.settle()?;
    let surface = stage.surface(client)?;
    ensure!(
        surface.plane.is_none(),
        "vkms cannot scale, but the compositor claims plane {:?}",
        surface.plane
    );
    let (left, top) = place(&surface)?;
    let inside = |_, _| [0x33, 0x66, 0x99].map(f64::from);
    let screen = stage.capture()?;
    let worst = screen.difference_to((296, 236), (left + 2, top + 2), inside)?;
    ensure!(worst.steps <= 1.0, "{worst:?}");
    let beyond = screen.pixel(left + 301, top + 10);
    ensure!(beyond == background(&screen), "the window is wider than its viewport: {beyond:?}");
    Ok(())
}

/// vkms blends in creation order. With an overlay below the primary plane, a window on that overlay is seen through a
/// hole in the composited picture.
fn stacking_with_an_overlay_created_first() -> Result<()> {
    let _only = lab_device("overlays=1,writeback,order=overlay+primary")?;
    let mut stage = Stage::start("overlay-first")?;
    let client = stage.add_noise("XR24", 6, (300, 200), &[])?;
    stage.settle()?;
    let screen = stage.capture()?;
    stage.expect_noise(&screen, client, "XR24", 6, (300, 200)).context("the window is not seen")?;
    let surface = stage.surface(client)?;
    ensure!(surface.plane.is_some(), "it is not on the plane: {:?}", surface.reason);
    Ok(())
}

/// Shows the same clients with planes and without, and returns the planes that the clients were on; the pictures must be
/// the same but for rounding.
fn same_without_planes(
    name: &str,
    steps: u8,
    add: impl Fn(&mut Stage) -> Result<()>,
) -> Result<Vec<Option<u32>>> {
    let mut shown = Vec::new();
    let mut planes = Vec::new();
    for (way, arguments) in [("planes", [].as_slice()), ("composed", &["--no-direct-scanout"])] {
        let mut stage = Stage::start_with(&format!("{name}-{way}"), arguments)?;
        add(&mut stage)?;
        stage.settle()?;
        shown.push(stage.capture()?);
        let clients = 0..stage.clients.len();
        planes.push(clients.map(|i| Ok(stage.surface(i)?.plane)).collect::<Result<Vec<_>>>()?);
    }
    ensure!(planes[1].iter().all(Option::is_none), "on planes all the same: {planes:?}");
    let (with, without) = (&shown[0], &shown[1]);
    let worst =
        with.difference_to((with.width, with.height), (0, 0), |x, y| without.pixel(x, y).map(f64::from))?;
    ensure!(worst.steps <= f64::from(steps), "{name}: {worst:?} on {planes:?}");
    Ok(planes.swap_remove(0))
}

/// Windows that overlap the one on the underlay, with alpha and without.
fn what_lies_over_an_underlay_is_blended() -> Result<()> {
    let _only = lab_device("overlays=1,writeback,order=overlay+primary")?;
    let planes = same_without_planes("underlay", 1, |stage| {
        stage.add_noise("XR24", 1, (900, 700), &[])?;
        stage.add_noise("AR24", 2, (500, 300), &["--alloc", "shm"])?;
        stage.add_noise("XR24", 3, (300, 500), &["--alloc", "shm"])?;
        Ok(())
    })?;
    ensure!(planes[0].is_some() && planes[1..].iter().all(Option::is_none), "{planes:?}");
    Ok(())
}

/// Every buffer transform, some of them of buffers that are stored bottom row first.
fn turned_buffers_are_shown_by_planes() -> Result<()> {
    for first in [0, 4] {
        let planes = same_without_planes(&format!("turned-{first}"), 0, |stage| {
            for transform in first..first + 4u32 {
                let (number, more) = (transform.to_string(), ["--y-invert"]);
                let mut arguments = vec!["--transform", number.as_str()];
                arguments.extend_from_slice(&more[..(transform % 2) as usize]);
                stage.add_noise("XR24", transform, (160, 120), &arguments)?;
            }
            Ok(())
        })?;
        ensure!(planes.iter().all(Option::is_some), "from {first}: {planes:?}");
    }
    Ok(())
}

/// A full-screen window that is smaller than the output, with black around it.
fn a_letterboxed_window_is_on_the_primary_plane() -> Result<()> {
    let planes = same_without_planes("letterbox", 0, |stage| {
        stage.add_noise("XR24", 9, (640, 480), &["--fullscreen"])?;
        let stats = stage.stats()?;
        let primary = stats.outputs[0].planes.iter().find(|plane| plane.kind == "Primary");
        let content = primary.context("no primary plane")?.content.clone();
        ensure!(content == "client" || content == "composited", "{content}");
        Ok(())
    })?;
    let mut stage = Stage::start("letterbox")?;
    stage.add_noise("XR24", 9, (640, 480), &["--fullscreen"])?;
    let stats = stage.stats()?;
    let primary = stats.outputs[0].planes.iter().find(|plane| plane.kind == "Primary");
    ensure!(planes[0].is_some() && planes[0] == primary.map(|plane| plane.id), "{planes:?} of {primary:?}");
    Ok(())
}

/// Windows beside each other, the lowest on the primary plane: what is between them is the CRTC's BACKGROUND_COLOR, and is not
/// drawn. It is black again afterwards.
fn windows_lie_on_the_background_of_the_crtc() -> Result<()> {
    let add = |stage: &mut Stage| {
        (0..3).try_for_each(|seed| stage.add_noise("XR24", seed, (180, 140), &[]).map(|_| ()))
    };
    let planes = same_without_planes("background", 0, add)?;
    ensure!(planes.iter().all(Option::is_some), "{planes:?}");
    let mut stage = Stage::start("background")?;
    add(&mut stage)?;
    stage.settle()?;
    let lit: Vec<_> = stage.stats()?.outputs[0].planes.iter().map(|plane| plane.content.clone()).collect();
    let drawn = lit.iter().filter(|content| *content == "composited").count();
    ensure!(drawn == 0, "{lit:?}");
    let device = DebugDevice::of_driver("vkms")?;
    let during = device.backgrounds()?;
    ensure!(during == [0xffff_2424_2929_3333], "{during:x?}");
    // A window without a buffer that planes take: the background is drawn with it.
    stage.add_noise("XR24", 7, (100, 80), &["--alloc", "shm"])?;
    stage.settle()?;
    let lit: Vec<_> = stage.stats()?.outputs[0].planes.iter().map(|plane| plane.content.clone()).collect();
    ensure!(lit.iter().any(|content| content == "composited"), "{lit:?}");
    drop(stage);
    let after = device.backgrounds()?;
    ensure!(after == [0xffff_0000_0000_0000], "{after:x?}");
    Ok(())
}

/// A window of noise: its client, its seed and its size.
type Noise = (usize, u32, (u32, u32));

/// What is on the screen is what `windows`, lowest first, would be over the background, by the kernel's CRC; those that are
/// composited, and those `below` the composited picture, lie in it. Returns its size and place.
fn composited_at(stage: &mut Stage, windows: &[Noise], below: Option<usize>) -> Result<[i32; 4]> {
    stage.settle()?;
    let screen = stage.capture()?;
    ensure!(background(&screen) == [0x24, 0x29, 0x33], "{:?}", background(&screen));
    let stats = stage.stats()?;
    let primary = stats.outputs[0].planes.iter().find(|plane| plane.kind == "Primary");
    let primary = primary.context("no primary plane")?.id;
    let planes = DebugDevice::of_driver("vkms")?.planes()?;
    let shown = planes.iter().find(|plane| plane.id == primary).context("no such plane")?;
    let ([w, h, x, y], buffer) = (shown.position, shown.framebuffer.as_ref().context("it is off")?);
    ensure!(buffer.size.map(|side| side as i32) == [w, h], "a buffer of {:?} at {w}x{h}", buffer.size);
    let mut layers = Vec::new();
    for &(client, seed, size) in windows {
        let surface = stage.surface(client)?;
        let layer = layer(noise(seed, size.0, size.1), Format::named("XR24")?, &surface);
        let right = (layer.x + size.0 as i32).min(screen.width as i32);
        let bottom = (layer.y + size.1 as i32).min(screen.height as i32);
        let inside = layer.x >= x && layer.y >= y && right <= x + w && bottom <= y + h;
        let drawn = surface.plane.is_none() || below == Some(client);
        ensure!(!drawn || inside, "{layer:?} is not in {:?}", shown.position);
        layers.push(layer);
    }
    stage.expect_crc(&screen, layers)?;
    Ok(shown.position)
}

/// Windows that are composited, some larger than the output: what is seen is the same wherever the composited picture lies. It
/// grows at once and becomes smaller in time, and its old buffers are gone then.
fn the_composited_picture_is_as_large_as_its_windows() -> Result<()> {
    let mut stage = Stage::start("composited-part")?;
    let mut windows: Vec<Noise> = Vec::new();
    let mut places = Vec::new();
    for (seed, size) in [(1, (180, 140)), (2, (90, 201)), (3, (61, 33)), (4, (1200, 50)), (5, (300, 900))] {
        // If it grew twice within a second, it would cover the output.
        std::thread::sleep(Duration::from_millis(1100));
        windows.push((stage.add_noise("XR24", seed, size, &["--alloc", "shm"])?, seed, size));
        places.push(composited_at(&mut stage, &windows, None).with_context(|| format!("{windows:?}"))?);
    }
    note_figure(&format!("the composited picture of more and more windows: {places:?}"))?;
    ensure!(places.iter().take(3).all(|place| place[0] < 1024 && place[1] < 768), "{places:?}");
    ensure!(places.windows(2).all(|two| two[0][0] <= two[1][0] && two[0][1] <= two[1][1]), "{places:?}");
    while stage.clients.len() > 1 {
        drop(stage.clients.pop());
        windows.pop();
    }
    ensure!(composited_at(&mut stage, &windows, None)? == places[4], "it became smaller at once");
    // The windows did not end all at once: what was needed meanwhile is drawn for a second, too.
    for seed in [8, 9] {
        std::thread::sleep(Duration::from_millis(1100));
        windows.push((stage.add_noise("XR24", seed, (40, 40), &[])?, seed, (40, 40)));
    }
    let [w, h, ..] = composited_at(&mut stage, &windows, None)?;
    ensure!(w < places[4][0] && h < places[4][1] && w <= 256 && h <= 256, "{w}x{h} after {places:?}");
    let all = DebugDevice::of_driver("vkms")?.framebuffers()?;
    let mut own = all.iter().filter(|fb| !fb.imported && fb.format == "XR24");
    ensure!(own.all(|fb| fb.size.map(|side| side as i32) == [w, h]), "old buffers are left: {all:?}");
    Ok(())
}

/// A composited picture that does not begin in the corner of the output.
fn the_composited_picture_lies_where_its_windows_are() -> Result<()> {
    let mut stage = Stage::start("composited-place")?;
    let mut windows: Vec<Noise> = Vec::new();
    let shm = ["--alloc", "shm"];
    for (seed, size, more) in [(1, (300, 200), &[][..]), (2, (180, 140), &shm), (3, (40, 40), &[])] {
        windows.push((stage.add_noise("XR24", seed, size, more)?, seed, size));
        // The picture had another place before there was a window.
        std::thread::sleep(Duration::from_millis(1100));
    }
    windows.push((stage.add_noise("XR24", 4, (30, 50), &[])?, 4, (30, 50)));
    let place = composited_at(&mut stage, &windows, None)?;
    ensure!(place[2] > 0 && place[0] <= 256 && place[1] <= 256, "{place:?}");
    Ok(())
}

/// A window on a plane below the primary is seen through a hole in a composited picture that is smaller than the output.
fn a_hole_is_in_a_picture_smaller_than_the_output() -> Result<()> {
    let _only = lab_device("overlays=1,writeback,order=overlay+primary")?;
    let mut stage = Stage::start("composited-hole")?;
    let below = stage.add_noise("XR24", 1, (500, 300), &[])?;
    std::thread::sleep(Duration::from_millis(1100));
    let above = stage.add_noise("XR24", 2, (430, 260), &["--alloc", "shm"])?;
    let windows = [(below, 1, (500, 300)), (above, 2, (430, 260))];
    let [w, h, ..] = composited_at(&mut stage, &windows, Some(below))?;
    ensure!(stage.surface(below)?.plane.is_some() && stage.surface(above)?.plane.is_none());
    ensure!(w < 1024 || h < 768, "{w}x{h}");
    Ok(())
}

/// Overlays that both CRTCs can use are used by one of them, and each output has some.
fn outputs_share_their_overlays() -> Result<()> {
    let _only = lab_device("crtcs=2,shared=4,writeback")?;
    let mut stage = Stage::start("shared")?;
    let windows: Result<Vec<_>> = (0..2).map(|seed| stage.add_noise("XR24", seed, (200, 150), &[])).collect();
    stage.settle()?;
    let stats = stage.stats()?;
    let ids: Vec<Vec<u32>> =
        stats.outputs.iter().map(|o| o.planes.iter().map(|plane| plane.id).collect()).collect();
    ensure!(
        ids.len() == 2 && ids.iter().all(|of| of.len() == 3),
        "not a primary and two overlays each: {ids:?}"
    );
    ensure!(!ids[0].iter().any(|id| ids[1].contains(id)), "a plane of both outputs: {ids:?}");
    for window in windows? {
        let surface = stage.surface(window)?;
        ensure!(surface.plane.is_some(), "not on a plane: {:?}", surface.reason);
    }
    Ok(())
}

/// Replaces the lab's display by one of another shape, for as long as the result lives.
fn lab_device(spec: &str) -> Result<OnlyDevice> {
    let disabled = disable_devices()?;
    let device = lab::vkms::Device::create("stacking", &spec.parse()?)?;
    Ok(OnlyDevice { device: Some(device), disabled })
}

struct OnlyDevice {
    device: Option<lab::vkms::Device>,
    disabled: Vec<std::path::PathBuf>,
}

impl Drop for OnlyDevice {
    fn drop(&mut self) {
        drop(self.device.take());
        for switch in &self.disabled {
            if let Err(err) = std::fs::write(switch, "1") {
                eprintln!("cannot enable {} again: {err}", switch.display());
            }
        }
    }
}

fn disable_devices() -> Result<Vec<std::path::PathBuf>> {
    let mut switches = Vec::new();
    for entry in std::fs::read_dir("/sys/kernel/config/vkms").context("configfs")? {
        let switch = entry?.path().join("enabled");
        if std::fs::read_to_string(&switch)?.trim() == "1" {
            std::fs::write(&switch, "0")?;
            switches.push(switch);
        }
    }
    Ok(switches)
}
