//! Luma and chroma as they are shown: by planes, read back through the writeback connector, and by each renderer, for
//! every format, matrix and range within 2/255 of a floating-point reference.
//!
//! Owns these cases. The reference is in `palette`; what is said of a surface's colours goes over the wire
//! (color-representation), and only that changes from one cell to the next: neither buffer nor damage comes with it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::client::connection::{BufferRequest, Window, Wire};
use primeway_tests::format::{Format, MODIFIER_LINEAR};
use primeway_tests::kernel_cases::{self, NamedCase};
use primeway_tests::palette::{Matrix, Meaning, Palette};
use primeway_tests::stage::{Stage, YUV_TOLERANCE, background, note_figure, place};
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_protocols::wp::color_representation::v1::client::wp_color_representation_surface_v1::{
    ChromaLocation, Coefficients, Range, WpColorRepresentationSurfaceV1,
};

const REQUEST: BufferRequest = BufferRequest { modifier: MODIFIER_LINEAR, y_invert: false, immediate: true };
const PATIENCE: Duration = Duration::from_secs(10);
const FORMATS: [&str; 3] = ["NV12", "P010", "YU12"];

/// Who converts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// A plane.
    Plane,
    /// Pixman, from memory of another device.
    Pixman,
    /// GLES, from memory of another device: it goes through the CPU, and as RGB to GL.
    Gles,
    /// GLES, from the display's own memory.
    GlesOwn,
}

impl Way {
    const ALL: [Way; 4] = [Way::Plane, Way::Pixman, Way::Gles, Way::GlesOwn];

    fn name(self) -> &'static str {
        match self {
            Way::Plane => "plane",
            Way::Pixman => "pixman",
            Way::Gles => "gles",
            Way::GlesOwn => "gles_own",
        }
    }

    fn allocator(self) -> Allocator {
        if self == Way::GlesOwn { Allocator::Vkms } else { Allocator::Vgem }
    }

    fn stage(self, name: &str) -> Result<Stage> {
        let arguments: &[&str] = match self {
            Way::Plane => &["--renderer", "pixman"],
            Way::Pixman => &["--renderer", "pixman", "--no-direct-scanout"],
            Way::Gles | Way::GlesOwn => &["--renderer", "gles", "--no-direct-scanout"],
        };
        Stage::start_with(&format!("{}-{name}", self.name()), arguments)
    }
}

type CaseOf = (&'static str, fn(Way) -> Result<()>);

const CASES: &[CaseOf] = &[
    ("every_matrix_and_range_is_near_the_reference", every_matrix_and_range),
    ("without_a_word_the_size_decides", without_a_word_the_size_decides),
    ("each_pixel_has_the_chroma_of_its_block", each_pixel_has_the_chroma_of_its_block),
    ("what_was_said_goes_with_its_object", what_was_said_goes_with_its_object),
    ("a_part_of_a_window_is_seen", a_part_of_a_window_is_seen),
];

fn main() -> ExitCode {
    let mut cases: Vec<NamedCase> = Vec::new();
    for way in Way::ALL {
        let named = CASES
            .iter()
            .map(|&(name, case)| (format!("{}::{name}", way.name()), Box::new(move || case(way)) as _));
        cases.extend(named);
    }
    kernel_cases::run_named(env!("CARGO_CRATE_NAME"), cases)
}

/// A client in this process with a window for each of some formats, each of which shows a palette.
struct Panes {
    way: Way,
    wire: Wire,
    palette: Palette,
    panes: Vec<Pane>,
}

struct Pane {
    format: Format,
    window: Window,
    object: Option<WpColorRepresentationSurfaceV1>,
    _buffer: (ClientBuffer, WlBuffer),
}

impl Panes {
    fn open(stage: &Stage, way: Way, formats: &[&str], palette: Palette) -> Result<Panes> {
        Panes::open_high(stage, way, formats, palette, Palette::SIZE.1)
    }

    /// The same with buffers of so many rows, of which no more is shown than the palette.
    fn open_high(stage: &Stage, way: Way, formats: &[&str], palette: Palette, rows: u32) -> Result<Panes> {
        let wire = Wire::connect_to(&stage.compositor.display, 4)?;
        let mut panes = Panes { way, wire, palette, panes: Vec::new() };
        for name in formats {
            let format = Format::named(name)?;
            panes.wire.events.configured.0 = false;
            let mut window = panes.wire.open_window(name, false)?;
            panes.wire.crop(&mut window, Palette::SIZE)?;
            let mut buffer = ClientBuffer::allocate(way.allocator(), format, Palette::SIZE.0, rows)?;
            buffer.write(|format, layout, memory| palette.draw(format, layout, memory))?;
            let wl = panes.wire.create_buffer(&buffer, &REQUEST)?;
            let before = panes.wire.events.presented;
            panes.wire.commit(&window.surface, &wl);
            panes.shown(before + 1)?;
            panes.panes.push(Pane { format, window, object: None, _buffer: (buffer, wl) });
        }
        Ok(panes)
    }

    fn shown(&mut self, frames: u64) -> Result<()> {
        let shown = self.wire.wait(Instant::now() + PATIENCE, |events| events.presented >= frames)?;
        ensure!(shown, "a commit was not shown in {PATIENCE:?}");
        Ok(())
    }

    /// Calls `set` with the object of each window and commits what that set, and nothing else.
    fn set(&mut self, set: impl Fn(&WpColorRepresentationSurfaceV1)) -> Result<()> {
        for pane in &mut self.panes {
            let object = match &pane.object {
                Some(object) => object,
                None => pane.object.insert(self.wire.color(&pane.window.surface)?),
            };
            set(object);
        }
        self.commit()
    }

    fn commit(&mut self) -> Result<()> {
        let before = self.wire.events.presented;
        self.panes.iter().for_each(|pane| self.wire.commit_state(&pane.window.surface));
        self.shown(before + self.panes.len() as u64)
    }

    /// What is on the screen is the palette, by that meaning, and it is on a plane or not, as it should be. Gives the
    /// largest difference of each window.
    fn expect(&self, stage: &mut Stage, meaning: Meaning) -> Result<Vec<f64>> {
        let (stats, screen) = (stage.stats()?, stage.capture()?);
        let surfaces = stats.surfaces(std::process::id() as i32);
        let palette = self.palette;
        let check = |pane: &Pane| {
            let (name, bits) = (pane.format.name(), pane.format.bits);
            let surface = surfaces.iter().find(|s| s.title.as_ref() == Some(&name)).context("no window")?;
            let on_plane = surface.plane.is_some();
            ensure!(on_plane == (self.way == Way::Plane), "plane {:?}: {:?}", surface.plane, surface.reason);
            ensure!(surface.color == Some(meaning.name()), "{name} is said to be {:?}", surface.color);
            let wanted = |x, y| meaning.rgb(palette.codes((x, y), bits), bits);
            let worst = screen.difference_to(Palette::SIZE, place(surface)?, wanted)?;
            ensure!(worst.steps <= YUV_TOLERANCE, "{name}, {}: {worst:?}", meaning.name());
            Ok(worst.steps)
        };
        self.panes.iter().map(check).collect()
    }
}

/// vkms has no property `alpha`: a window that is seen in part is composited over the background, and says why.
fn a_part_of_a_window_is_seen(way: Way) -> Result<()> {
    let mut stage = way.stage("part")?;
    let mut panes = Panes::open(&stage, way, &["NV12"], Palette::Colors)?;
    let meaning = Meaning { matrix: Matrix::Bt601, full: false };
    panes.expect(&mut stage, meaning)?;
    let alpha = panes.wire.alpha(&panes.panes[0].window.surface)?;
    alpha.set_multiplier(u32::MAX / 4);
    panes.commit()?;
    let (stats, screen) = (stage.stats()?, stage.capture()?);
    let surface = stats.surface(std::process::id() as i32).context("no window")?;
    let reason = surface.reason.as_deref().unwrap_or_default();
    ensure!(surface.plane.is_none(), "on plane {:?}", surface.plane);
    ensure!(way != Way::Plane || reason.contains("no alpha property"), "{reason}");
    let under = background(&screen);
    let worst = screen.difference_to(Palette::SIZE, place(surface)?, |x, y| {
        let over = meaning.rgb(Palette::Colors.codes((x, y), 8), 8);
        std::array::from_fn(|channel| over[channel] * 0.25 + f64::from(under[channel]) * 0.75)
    })?;
    ensure!(worst.steps <= YUV_TOLERANCE, "{worst:?}");
    alpha.destroy();
    panes.commit()?;
    panes.expect(&mut stage, meaning)?;
    Ok(())
}

/// Says on the wire what luma and chroma mean.
fn say(object: &WpColorRepresentationSurfaceV1, meaning: Meaning) {
    let coefficients = match meaning.matrix {
        Matrix::Bt601 => Coefficients::Bt601,
        Matrix::Bt709 => Coefficients::Bt709,
        Matrix::Bt2020 => Coefficients::Bt2020,
    };
    object.set_coefficients_and_range(coefficients, if meaning.full { Range::Full } else { Range::Limited });
}

fn every_matrix_and_range(way: Way) -> Result<()> {
    let mut stage = way.stage("matrices")?;
    let mut panes = Panes::open(&stage, way, &FORMATS, Palette::Colors)?;
    for meaning in Meaning::ALL {
        panes.set(|object| say(object, meaning))?;
        for (format, worst) in FORMATS.iter().zip(panes.expect(&mut stage, meaning)?) {
            let cell = format!("{} {format} {}", way.name(), meaning.name());
            note_figure(&format!("{cell}: at most {worst:.2} of 255 from the reference"))?;
        }
    }
    Ok(())
}

/// A client that says nothing: small pictures are BT.601, large ones BT.709, limited range both.
fn without_a_word_the_size_decides(way: Way) -> Result<()> {
    let mut stage = way.stage("unsaid")?;
    for (rows, matrix) in [(Palette::SIZE.1, Matrix::Bt601), (576, Matrix::Bt601), (578, Matrix::Bt709)] {
        let panes = Panes::open_high(&stage, way, &FORMATS, Palette::Colors, rows)?;
        panes.expect(&mut stage, Meaning { matrix, full: false })?;
    }
    Ok(())
}

/// Sharp edges of chroma, with another luma in each pixel: nothing is smeared, whatever is said of where samples lie.
fn each_pixel_has_the_chroma_of_its_block(way: Way) -> Result<()> {
    let mut stage = way.stage("edges")?;
    let mut panes = Panes::open(&stage, way, &FORMATS, Palette::Edges)?;
    let meaning = Meaning { matrix: Matrix::Bt709, full: true };
    panes.set(|object| say(object, meaning))?;
    panes.expect(&mut stage, meaning)?;
    for location in [ChromaLocation::Type0, ChromaLocation::Type5] {
        panes.set(|object| object.set_chroma_location(location))?;
        panes.expect(&mut stage, meaning)?;
    }
    Ok(())
}

/// What is set is not there before its commit, and goes with the first commit after its object.
fn what_was_said_goes_with_its_object(way: Way) -> Result<()> {
    let mut stage = way.stage("objects")?;
    let usual = Meaning { matrix: Matrix::Bt601, full: false };
    let said = Meaning { matrix: Matrix::Bt2020, full: true };
    let mut panes = Panes::open(&stage, way, &["NV12"], Palette::Colors)?;
    let object = panes.wire.color(&panes.panes[0].window.surface)?;
    say(&object, said);
    panes.wire.roundtrip()?;
    panes.expect(&mut stage, usual)?;
    panes.commit()?;
    panes.expect(&mut stage, said)?;
    object.destroy();
    panes.wire.roundtrip()?;
    panes.expect(&mut stage, said)?;
    panes.commit()?;
    panes.expect(&mut stage, usual)?;
    Ok(())
}
