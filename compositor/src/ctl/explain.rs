//! `explain`: of every surface, whether a plane scans it out, why the others do not, who is in the way, and what would help.
//!
//! It owns the report and how it is collected. The words are in [`super::refusal`], the advice is in [`super::remedy`].

use std::num::NonZeroU32;
use std::time::Duration;

use drm_prime::format;
use drm_prime::scanout::{Layer, Plan, PlaneCaps, PlaneType, PrimaryContent, Scene, Zpos};
use serde::{Deserialize, Serialize};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::Dmabuf;
use smithay::backend::renderer::utils::RendererSurfaceStateUserData;
use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::with_states;
use smithay::wayland::dmabuf::get_dmabuf;

use super::identity::{Identity, surfaces};
use super::refusal::{RefusalReport, modifier_name};
use super::remedy::{Case, Culprit};
use crate::fences::Waiting;
use crate::output::{OutputState, SurfaceStats, trace::Standing};
use crate::state::{State, monotonic};

/// Which surfaces are asked about; without anything, those of the focused window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Those of windows with this app id.
    #[serde(default)]
    pub app_id: Option<String>,
    /// Those of this process.
    #[serde(default)]
    pub pid: Option<i32>,
    /// The one of this object id.
    #[serde(default)]
    pub surface: Option<u32>,
    /// All of them.
    #[serde(default)]
    pub all: bool,
}

/// What is said of the surfaces that were asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// Each of them that can be seen is scanned out, and there is one.
    pub scanned_out: bool,
    /// One entry for each surface and output that shows it, the topmost first.
    pub surfaces: Vec<Explanation>,
}

/// A surface on an output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who it is.
    #[serde(flatten)]
    pub who: Identity,
    /// The output; none for a surface that is on none.
    pub output: Option<String>,
    /// Its buffer.
    pub buffer: Option<BufferReport>,
    /// Where it is shown, in pixels of the output.
    pub position: (i32, i32),
    /// How large.
    pub size: (u32, u32),
    /// Whether it is scanned out, and since when.
    pub verdict: Verdict,
    /// What each plane of the output says, the topmost plane first.
    pub planes: Vec<PlaneVerdict>,
    /// What stands in the way.
    pub culprit: Option<Culprit>,
    /// What would help, the likeliest first.
    pub remedies: Vec<String>,
    /// What its client was told to allocate.
    pub feedback: Option<FeedbackReport>,
    /// What it waits for before it shows its next picture.
    pub waits_for: Option<String>,
    /// Why it is black or missing, if it could not be composited.
    pub undrawn: Option<String>,
}

/// A buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferReport {
    /// Pixels.
    pub size: (i32, i32),
    /// Its fourcc; none for wl_shm.
    pub format: Option<String>,
    /// Its modifier by name; none for wl_shm.
    pub modifier: Option<String>,
    /// Where its memory comes from.
    pub origin: Option<String>,
}

/// How a surface gets to the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A plane shows its buffer.
    ScannedOut,
    /// It is drawn into a picture that a plane shows.
    Composited,
    /// It cannot be seen.
    Hidden,
}

/// Whether a surface is scanned out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// How it gets to the screen.
    pub way: Way,
    /// The plane that shows it.
    pub plane: Option<NonZeroU32>,
    /// Since then, in milliseconds since 1970.
    pub since_unix_ms: Option<u64>,
    /// Frames with new content since then.
    pub frames: u64,
    /// An estimate of what composition reads and writes for it and scanout would not, from its size and the frames since
    /// then.
    pub avoidable_bytes_per_second: Option<u64>,
}

/// What a plane says of a surface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaneVerdict {
    /// KMS object id.
    pub plane: NonZeroU32,
    /// primary, overlay or cursor.
    pub r#type: String,
    /// It shows the surface.
    pub shows: bool,
    /// Why it does not.
    pub refusal: Option<RefusalReport>,
    /// What the driver likely minds, if it refused a test and was asked about that while there was nothing else to do.
    pub guess: Option<String>,
}

/// What a client was told to allocate for a surface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedbackReport {
    /// When, in milliseconds since 1970.
    pub at_unix_ms: Option<u64>,
    /// What of its buffer's format planes take; of all formats, if they do not take that one.
    pub formats: Vec<String>,
    /// Its client's buffers of the surface's size.
    pub buffers: usize,
    /// Those of them that are as it was told.
    pub following: usize,
}

/// What is asked of one moment: both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Duration,
    unix: Duration,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { monotonic: monotonic(), unix: unix.unwrap_or_default() }
    }

    /// How long ago something was.
    pub fn since(&self, monotonic: Duration) -> Duration {
        self.monotonic.saturating_sub(monotonic)
    }

    /// A time of CLOCK_MONOTONIC in milliseconds since 1970.
    pub fn unix_ms(&self, monotonic: Duration) -> u64 {
        let at = self.unix.saturating_sub(self.since(monotonic));
        u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
    }
}

/// `primary`, `overlay` or `cursor`.
pub fn plane_type(kind: PlaneType) -> &'static str {
    match kind {
        PlaneType::Primary => "primary",
        PlaneType::Overlay => "overlay",
        PlaneType::Cursor => "cursor",
    }
}

/// Where a plane is in the stack, as far as that is known; `plan` says what was set.
pub fn zpos(caps: &PlaneCaps, plan: &Plan) -> Option<i64> {
    match caps.zpos {
        Zpos::Unknown => None,
        Zpos::Fixed(z) => Some(z),
        Zpos::Range { min, .. } => plan.setting(caps.id).and_then(|s| s.zpos).or(Some(min)),
    }
}

/// The planes of a scene, the topmost first.
pub fn stacked<'a>(scene: &Scene<'a>, plan: &Plan) -> Vec<&'a PlaneCaps> {
    let mut planes: Vec<&PlaneCaps> = scene.planes.iter().collect();
    let by_type = |kind| match kind {
        PlaneType::Primary => 0,
        PlaneType::Overlay => 1,
        PlaneType::Cursor => 2,
    };
    planes.sort_by_key(|caps| std::cmp::Reverse((zpos(caps, plan), by_type(caps.kind), caps.id)));
    planes
}

/// Answers about the surfaces that were asked about.
///
/// # Errors
/// A text for the user, when there is none.
pub fn explain(state: &State, query: &Query) -> Result<ExplainReport, String> {
    let moment = Moment::now();
    let all = surfaces(state);
    let asked = select(state, &all, query)?;
    let mut report = Vec::new();
    for surface in asked {
        let before = report.len();
        for entry in &state.outputs {
            report.extend(on_output(state, &entry.state, surface, moment));
        }
        if report.len() == before {
            report.push(nowhere(state, surface));
        }
    }
    let seen = |e: &&Explanation| e.verdict.way != Way::Hidden;
    let scanned_out = report.iter().any(|e| e.verdict.way == Way::ScannedOut)
        && report.iter().filter(seen).all(|e| e.verdict.way == Way::ScannedOut);
    Ok(ExplainReport { scanned_out, surfaces: report })
}

fn select<'a>(state: &State, all: &'a [WlSurface], query: &Query) -> Result<Vec<&'a WlSurface>, String> {
    let Query { app_id, pid, surface, all: everything } = query;
    let named = app_id.is_some() || pid.is_some() || surface.is_some();
    let identity = |surface: &WlSurface| Identity::of(surface, &state.shell);
    let found: Vec<&WlSurface> = if named {
        let matches = |who: Identity| {
            app_id.as_ref().is_none_or(|id| who.app_id.as_ref() == Some(id))
                && pid.is_none_or(|pid| who.pid == pid)
                && surface.is_none_or(|surface| who.surface == surface)
        };
        all.iter().filter(|surface| matches(identity(surface))).collect()
    } else if *everything {
        all.iter().collect()
    } else {
        let keyboard = state.input.seat.get_keyboard();
        let focus = keyboard.and_then(|keyboard| keyboard.current_focus()).or_else(|| state.shell.topmost());
        let focus = focus.map(|focus| identity(&focus));
        let of_it = |who: &Identity, focus: &Identity| {
            (who.connection, who.window) == (focus.connection, focus.window)
        };
        all.iter().filter(|s| focus.as_ref().is_some_and(|focus| of_it(&identity(s), focus))).collect()
    };
    // A surface without a buffer shows nothing that could be explained.
    let found: Vec<_> = found.into_iter().filter(|surface| buffer(state, surface).is_some()).collect();
    match (found.is_empty(), named || *everything) {
        (false, _) => Ok(found),
        (true, true) => Err("no surface that is asked about is shown".to_owned()),
        (true, false) => Err("no window has the focus: name one, or ask for --all".to_owned()),
    }
}

fn with_buffer<T>(surface: &WlSurface, f: impl FnOnce((i32, i32), Option<&Dmabuf>) -> T) -> Option<T> {
    with_states(surface, |states| {
        let data = crate::lock(states.data_map.get::<RendererSurfaceStateUserData>()?);
        let (buffer, size) = (data.buffer()?, data.buffer_size()?);
        Some(f((size.w, size.h), get_dmabuf(buffer).ok()))
    })
}

fn buffer(state: &State, surface: &WlSurface) -> Option<BufferReport> {
    with_buffer(surface, |size, dmabuf| BufferReport {
        size: dmabuf.map_or(size, |d| (d.size().w, d.size().h)),
        format: dmabuf.map(|d| format::name(d.format().code as u32)),
        modifier: dmabuf.map(|d| modifier_name(d.format().modifier.into())),
        origin: dmabuf.and_then(|d| state.backend.buffers().origin(d)),
    })
}

/// The names of an output's layers.
pub fn names<'a>(state: &'a State, output: &'a OutputState) -> impl Fn(usize) -> String + 'a {
    move |layer| {
        let standing = output.trace().standing().get(layer).filter(|s| s.surface.is_alive());
        standing.map_or_else(
            || "a window that is gone".to_owned(),
            |standing| Identity::of(&standing.surface, &state.shell).name(),
        )
    }
}

fn on_output(
    state: &State,
    output: &OutputState,
    surface: &WlSurface,
    moment: Moment,
) -> Option<Explanation> {
    let (scene, plan) = output.last_plan()?;
    let index = output.trace().standing().iter().position(|standing| standing.surface == *surface)?;
    let (standing, layer) = (&output.trace().standing()[index], scene.layers.get(index)?);
    let names = names(state, output);
    let case = Case { scene: &scene, plan, layer: index, names: &names, driver: state.backend.driver() };
    if let Some(dark) = dark(state, [output].into_iter()) {
        let at = ((layer.dst.x, layer.dst.y), (layer.dst.w, layer.dst.h));
        return Some(unseen(state, surface, Some(output.output.name()), at, dark));
    }
    let buffer = buffer(state, surface);
    let stats = SurfaceStats::of(surface);
    let verdict = verdict(&case, standing, layer, &stats, buffer.as_ref(), moment);
    let feedback = feedback(state, surface, moment);
    let mut remedies = case.remedies();
    if let Some(told) = feedback.as_ref().filter(|_| verdict.way == Way::Composited) {
        remedies.extend(told.advice());
    }
    let waiting = state.runtime.fences.of(surface).filter(Waiting::is_late);
    Some(Explanation {
        who: Identity::of(surface, &state.shell),
        output: Some(output.output.name()),
        buffer,
        position: (layer.dst.x, layer.dst.y),
        size: (layer.dst.w, layer.dst.h),
        verdict,
        planes: plane_verdicts(&case, output),
        culprit: case.culprit(),
        remedies,
        feedback,
        waits_for: waiting.map(|waiting| waiting.to_string()),
        undrawn: stats.undrawn,
    })
}

fn plane_verdicts(case: &Case<'_>, output: &OutputState) -> Vec<PlaneVerdict> {
    let refused = |caps: &PlaneCaps| {
        let mut refusals = case.plan.refusals_of(case.layer).iter();
        let (.., refusal) = refusals.find(|(_, plane, _)| *plane == caps.id)?;
        Some(RefusalReport::new(refusal, Some(caps), case.names))
    };
    let verdict = |caps: &&PlaneCaps| PlaneVerdict {
        plane: caps.id,
        r#type: plane_type(caps.kind).to_owned(),
        shows: case.plan.planes[case.layer] == Some(caps.id),
        refusal: refused(caps),
        guess: output.guess(case.layer, caps.id).map(ToString::to_string),
    };
    stacked(case.scene, case.plan).iter().map(verdict).collect()
}

fn verdict(
    case: &Case<'_>,
    standing: &Standing,
    layer: &Layer,
    stats: &SurfaceStats,
    buffer: Option<&BufferReport>,
    moment: Moment,
) -> Verdict {
    let (plan, index, way) = (case.plan, case.layer, case.way());
    let frames = stats.presented.saturating_sub(standing.presented);
    let seconds = moment.since(standing.since).as_secs_f64();
    // A rate is of some time: a window that has just come has shown one frame in no time.
    let avoidable = (way == Way::Composited && plan.primary == PrimaryContent::Composited && seconds >= 1.0)
        .then(|| (bytes_per_frame(layer, buffer) * frames as f64 / seconds) as u64);
    Verdict {
        way,
        plane: plan.planes[index],
        since_unix_ms: Some(moment.unix_ms(standing.since)),
        frames,
        avoidable_bytes_per_second: avoidable,
    }
}

/// What composition reads of a buffer and writes of a picture of 4 bytes a pixel, and the display reads again.
fn bytes_per_frame(layer: &Layer, buffer: Option<&BufferReport>) -> f64 {
    let fourcc = buffer.and_then(|b| b.format.as_deref());
    let info = fourcc.and_then(|name| format::all().iter().find(|info| format::name(info.fourcc) == name));
    let whole = |v: u32| u64::from(v >> 16).max(1);
    let (w, h) = (whole(layer.src.w), whole(layer.src.h));
    let read = match info {
        None => w * h * 4,
        Some(info) => {
            let rows = |plane| info.plane_rows(plane, u32::try_from(h).unwrap_or(u32::MAX));
            let stride = |plane| info.min_stride(plane, u32::try_from(w).unwrap_or(u32::MAX));
            (0..info.plane_count()).map(|plane| stride(plane) * rows(plane)).sum()
        }
    };
    (read + layer.dst.area() * 4) as f64
}

/// Why nothing is shown on any of these outputs, and what would change that.
fn dark<'a>(
    state: &State,
    outputs: impl Iterator<Item = &'a OutputState> + Clone,
) -> Option<(Culprit, Vec<String>)> {
    let culprit = |text: String| Culprit { kind: "settings".to_owned(), text, plane: None, window: None };
    if state.backend.is_paused() {
        let text = "the session is not active: another virtual terminal is shown";
        let remedy = "switch back to primeway's virtual terminal (Ctrl+Alt+F1 …)";
        return Some((culprit(text.to_owned()), vec![remedy.to_owned()]));
    }
    let names: Vec<String> = outputs.clone().filter(|o| o.is_off()).map(|o| o.output.name()).collect();
    if names.is_empty() || names.len() < outputs.count() {
        return None;
    }
    let verb = if names.len() == 1 { "is" } else { "are" };
    let text = format!("{} {verb} off", names.join(", "));
    Some((culprit(text), names.iter().map(|name| format!("primeway output {name} --on")).collect()))
}

/// A surface that no output shows.
fn nowhere(state: &State, surface: &WlSurface) -> Explanation {
    let place = ((0, 0), (0, 0));
    if let Some(dark) = dark(state, state.outputs.iter().map(|entry| &entry.state)) {
        return unseen(state, surface, None, place, dark);
    }
    let text = if state.outputs.is_empty() {
        "there is no output"
    } else {
        "it is behind a full-screen window, or outside of every output"
    };
    let culprit = Culprit { kind: "window".to_owned(), text: text.to_owned(), plane: None, window: None };
    unseen(state, surface, None, place, (culprit, Vec::new()))
}

/// A surface that is not to be seen, and why.
fn unseen(
    state: &State,
    surface: &WlSurface,
    output: Option<String>,
    (position, size): ((i32, i32), (u32, u32)),
    (culprit, remedies): (Culprit, Vec<String>),
) -> Explanation {
    Explanation {
        who: Identity::of(surface, &state.shell),
        output,
        buffer: buffer(state, surface),
        position,
        size,
        verdict: Verdict {
            way: Way::Hidden,
            plane: None,
            since_unix_ms: None,
            frames: 0,
            avoidable_bytes_per_second: None,
        },
        planes: Vec::new(),
        culprit: Some(culprit),
        remedies,
        feedback: None,
        waits_for: None,
        undrawn: None,
    }
}

fn feedback(state: &State, surface: &WlSurface, moment: Moment) -> Option<FeedbackReport> {
    let told = state.dmabuf.feedback.of(surface)?;
    let tranche = told.tranches().first()?;
    let (size, own) = with_buffer(surface, |_, dmabuf| dmabuf.map(|d| (d.size(), d.format())))??;
    let owner = surface.client().as_ref().map(crate::clients::owner)?;
    let of_size = state.backend.buffers().of_clients();
    let of_size = of_size.filter(|(d, by)| **by == owner && d.size() == size).map(|(d, _)| d.format());
    let takes = |format: &smithay::backend::allocator::Format| {
        let wanted = (format.code as u32, u64::from(format.modifier));
        tranche.formats.iter().any(|f| (f.fourcc, f.modifier) == wanted)
    };
    let buffers: Vec<bool> = of_size.map(|format| takes(&format)).collect();
    let same = |f: &&primeway_protocols::linux_dmabuf::DmabufFormat| f.fourcc == own.code as u32;
    let named = |f: &primeway_protocols::linux_dmabuf::DmabufFormat| {
        format!("{} {}", format::name(f.fourcc), modifier_name(f.modifier))
    };
    let mut formats: Vec<String> = tranche.formats.iter().filter(same).map(named).collect();
    if formats.is_empty() {
        formats = tranche.formats.iter().map(named).collect();
    }
    Some(FeedbackReport {
        at_unix_ms: state.dmabuf.feedback.told_at(surface).map(|at| moment.unix_ms(at)),
        formats,
        buffers: buffers.len(),
        following: buffers.iter().filter(|follows| **follows).count(),
    })
}

impl FeedbackReport {
    /// What there is to say of it, if its client has not followed.
    fn advice(&self) -> Option<String> {
        const SHOWN: usize = 6;
        let Self { formats, buffers, following, .. } = self;
        if following == buffers {
            return None;
        }
        let more = if formats.len() > SHOWN { " …" } else { "" };
        let formats = formats.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let at = self.at_unix_ms.map(super::show::clock).unwrap_or_default();
        Some(format!(
            "feedback tranche with {formats}{more} sent {at}; the client has not reallocated ({following} of {buffers} buffers)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_follow_is_told_of_with_the_time() {
        let told = |following| FeedbackReport {
            at_unix_ms: Some(0),
            formats: (0..9).map(|i| format!("NV12 {i}")).collect(),
            buffers: 4,
            following,
        };
        let clock = super::super::show::clock(0);
        let text = format!(
            "feedback tranche with NV12 0, NV12 1, NV12 2, NV12 3, NV12 4, NV12 5 … sent {clock}; the client has not \
             reallocated (1 of 4 buffers)"
        );
        assert_eq!(told(1).advice(), Some(text));
        assert_eq!(told(4).advice(), None);
    }

    #[test]
    fn what_is_avoidable_is_what_is_read_and_written() {
        let whole = drm_prime::scanout::SourceRect::whole(1920, 1080);
        let dst = drm_prime::scanout::Rect::new(0, 0, 1920, 1080);
        let layer = Layer::new(dst, whole, true, Err(drm_prime::scanout::Refusal::NotDmabuf));
        let buffer = |format: &str| BufferReport {
            size: (1920, 1080),
            format: Some(format.to_owned()),
            modifier: None,
            origin: None,
        };
        let pixels = 1920.0 * 1080.0;
        assert_eq!(bytes_per_frame(&layer, Some(&buffer("NV12"))), pixels * 5.5);
        assert_eq!(bytes_per_frame(&layer, None), pixels * 8.0);
    }
}
