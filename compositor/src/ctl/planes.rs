//! `planes`: one row for each plane of each output, and what the planes can do.
//!
//! It owns the report and how it is collected.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use drm_prime::format;
use drm_prime::scanout::{PlaneCaps, PlaneType, Scaling, Scene, Zpos};
use serde::{Deserialize, Serialize};
use smithay::reexports::wayland_server::Resource as _;

use super::explain::{Moment, plane_type, stacked, zpos};
use super::identity::Identity;
use super::refusal::{RefusalReport, modifier_name};
use crate::backend::{Backend, OutputId};
use crate::output::OutputState;
use crate::state::State;

/// The planes of every output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanesReport {
    /// Left to right.
    pub outputs: Vec<OutputPlanes>,
}

/// The planes of an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputPlanes {
    /// Its name.
    pub output: String,
    /// The CRTC's object id.
    pub crtc: u32,
    /// Pixels.
    pub size: (i32, i32),
    /// It is off, on purpose.
    #[serde(default)]
    pub off: bool,
    /// How it flips from picture to picture.
    pub flips: FlipReport,
    /// The topmost first.
    pub planes: Vec<PlaneRow>,
}

/// How an output flips from picture to picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlipReport {
    /// Flips that did not complete and were made up for.
    pub lost: u64,
    /// Its display is refreshed when there is something new, rather than at a fixed rate; none if it cannot be.
    pub vrr: Option<bool>,
    /// Of a last frame that its client wanted to be shown at once: `at once`, or why it was not.
    pub tearing: Option<String>,
}

impl FlipReport {
    fn of(backend: &Backend, output: OutputId) -> Self {
        match backend {
            Backend::Kms(kms) => Self {
                lost: kms.lost_flips(output),
                vrr: kms.vrr(output),
                tearing: kms.tearing(output).map(|how| match how {
                    Ok(()) => "at once".to_owned(),
                    Err(refusal) => refusal.to_string(),
                }),
            },
            Backend::Headless(_) => Self::default(),
        }
    }
}

/// A plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaneRow {
    /// KMS object id.
    pub plane: NonZeroU32,
    /// primary, overlay or cursor.
    pub r#type: String,
    /// Its place in the stack; none where it is not known.
    pub z: Option<i64>,
    /// What it shows: a client's name, `composited`, `pointer` or `-`; `parked` if it holds a buffer out of sight that was shown
    /// and is likely to be shown again, so that the kernel keeps it mapped.
    pub who: String,
    /// The surface, if it shows one.
    pub surface: Option<Identity>,
    /// What it shows, if it is on.
    pub shows: Option<PlaneContent>,
    /// Why it does not show the pointer, where that is composited.
    pub pointer: Option<RefusalReport>,
    /// What it can do.
    pub caps: CapsReport,
}

/// What a plane shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaneContent {
    /// The framebuffer's object id.
    pub fb: u32,
    /// Its fourcc.
    pub format: String,
    /// Its modifier by name.
    pub modifier: String,
    /// The buffer's pixels.
    pub size: (u32, u32),
    /// Where on the output.
    pub position: (i32, i32),
    /// How large there.
    pub shown_size: (u32, u32),
    /// What its next picture waits for.
    pub fence: Option<String>,
    /// For how many milliseconds it has shown this buffer.
    pub held_ms: Option<u64>,
}

/// What a plane can do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CapsReport {
    /// Modifiers by fourcc.
    pub formats: BTreeMap<String, Vec<String>>,
    /// fixed N, N to M, or unknown.
    pub zpos: String,
    /// Smallest and largest size, where the kernel tells.
    pub sizes: Option<((u32, u32), (u32, u32))>,
    /// Buffer sizes of a cursor plane.
    pub cursor_sizes: Vec<(u32, u32)>,
    /// never, unknown, or the factors.
    pub scaling: String,
    /// The bits of `rotation`.
    pub rotations: String,
    /// It has the property `alpha`.
    pub alpha: bool,
    /// It blends premultiplied pixels.
    pub blends: bool,
    /// Of BT.601, BT.709 and BT.2020.
    pub encodings: [bool; 3],
    /// Of limited and full range.
    pub ranges: [bool; 2],
    /// Of a primary plane: it may cover less than the output.
    pub covers_part: bool,
    /// It shows memory of other devices.
    pub foreign: bool,
}

impl CapsReport {
    /// Describes a plane.
    pub fn new(caps: &PlaneCaps) -> Self {
        let mut formats: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (fourcc, modifier) in caps.formats.iter() {
            formats.entry(format::name(*fourcc as u32)).or_default().push((*modifier).into());
        }
        let named = |(fourcc, mut modifiers): (String, Vec<u64>)| {
            modifiers.sort_unstable();
            (fourcc, modifiers.into_iter().map(modifier_name).collect())
        };
        let factor = |fixed: u32| f64::from(fixed) / 65536.0;
        Self {
            formats: formats.into_iter().map(named).collect(),
            zpos: match caps.zpos {
                Zpos::Unknown => "unknown".to_owned(),
                Zpos::Fixed(z) => format!("fixed {z}"),
                Zpos::Range { min, max } => format!("{min} to {max}"),
            },
            sizes: caps.sizes,
            cursor_sizes: caps.cursor_sizes.clone(),
            scaling: match caps.scaling {
                Scaling::Unknown => "unknown".to_owned(),
                Scaling::Never => "never".to_owned(),
                Scaling::Range { min, max } => format!("{:.2}x to {:.2}x", factor(min), factor(max)),
            },
            rotations: caps.rotations.to_string(),
            alpha: caps.alpha,
            blends: caps.blend.premultiplied,
            encodings: caps.yuv.encodings,
            ranges: caps.yuv.ranges,
            covers_part: caps.covers_part,
            foreign: caps.foreign,
        }
    }
}

/// Collects the planes.
pub fn planes(state: &State) -> PlanesReport {
    let moment = Moment::now();
    let outputs = state.outputs.iter().map(|entry| of_output(state, &entry.state, moment)).collect();
    PlanesReport { outputs }
}

fn of_output(state: &State, output: &OutputState, moment: Moment) -> OutputPlanes {
    let rows = match output.last_plan() {
        Some((scene, plan)) => {
            let scene = Scene { planes: state.backend.planes(output.id), ..scene };
            stacked(&scene, plan).into_iter().map(|caps| row(state, output, caps, moment)).collect()
        }
        None => Vec::new(),
    };
    OutputPlanes {
        output: output.output.name(),
        crtc: crate::backend::kms::crtc_of(output.id),
        size: (output.size.w, output.size.h),
        off: output.is_off(),
        flips: FlipReport::of(&state.backend, output.id),
        planes: rows,
    }
}

fn row(state: &State, output: &OutputState, caps: &PlaneCaps, moment: Moment) -> PlaneRow {
    let plan = output.last_plan().map(|(_, plan)| plan);
    let update = output.planes().find(|update| update.plane == caps.id);
    let parked = output.parked().find(|update| update.plane == caps.id);
    let standing = output.trace().standing().iter().find(|s| s.plane == Some(caps.id));
    let standing = standing.filter(|s| s.surface.is_alive() && update.is_some());
    let surface = standing.map(|s| Identity::of(&s.surface, &state.shell));
    let pointer = plan.is_some_and(|plan| plan.pointer == Some(caps.id));
    let who = match (&surface, update) {
        (_, None) if parked.is_some() => "parked".to_owned(),
        (_, None) => "-".to_owned(),
        (Some(who), _) => who.name(),
        (None, _) if pointer => "pointer".to_owned(),
        (None, _) if caps.kind == PlaneType::Primary => "composited".to_owned(),
        (None, _) => "a window that is gone".to_owned(),
    };
    let fence = standing.and_then(|s| state.runtime.fences.of(&s.surface)).map(|w| w.to_string());
    let held = output.trace().held(caps.id).map(|at| moment.since(at).as_millis());
    let shows = update.or(parked).map(|update| PlaneContent {
        fb: update.buffer.name().number(),
        format: format::name(update.buffer.format() as u32),
        modifier: modifier_name(update.buffer.modifier().into()),
        size: (update.buffer.width(), update.buffer.height()),
        position: (update.dst.x, update.dst.y),
        shown_size: (update.dst.w, update.dst.h),
        fence,
        held_ms: held.map(|held| u64::try_from(held).unwrap_or(u64::MAX)),
    });
    let composited = plan.filter(|plan| plan.pointer.is_none() && caps.kind == PlaneType::Cursor);
    let refused = composited.and_then(|plan| plan.pointer_refusals.iter().find(|(id, _)| *id == caps.id));
    PlaneRow {
        plane: caps.id,
        r#type: plane_type(caps.kind).to_owned(),
        z: plan.and_then(|plan| zpos(caps, plan)),
        who,
        surface,
        shows,
        pointer: refused.map(|(_, refusal)| {
            RefusalReport::new(refusal, Some(caps), &super::explain::names(state, output))
        }),
        caps: CapsReport::new(caps),
    }
}
