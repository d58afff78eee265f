//! What an output shows and when: the cycle (`cycle`), the plan, and the frames in flight.
//!
//! It owns the frames: the one on screen and the one that is pending each hold their client buffers and
//! framebuffers, and `wl_buffer.release` goes out, or a release point signals, when the last of them is dropped. It does not
//! know how a frame
//! reaches the screen ([`crate::backend`]) nor where windows are ([`crate::shell`]).

mod bisect;
mod clock;
pub mod color;
mod cycle;
pub mod layers;
mod pace;
mod parked;
mod pointer;
mod present;
mod rhythm;
mod stand_in;
mod stats;
pub mod trace;
mod whole;

use std::time::Duration;

use drm_prime::SharedFramebuffer;
use drm_prime::scanout::{
    Layer, Plan, PlaneType, Planner, PrimaryContent, Rect, Refusal, Scannable, Scene, SourceRect,
};
use smithay::backend::renderer::Color32F;
use smithay::backend::renderer::utils::Buffer;
use smithay::output::{Mode as WlMode, Output, PhysicalProperties, Subpixel};
use smithay::reexports::wayland_server::Resource;
use smithay::reexports::wayland_server::backend::ClientId;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{Logical, Physical, Point, Rectangle, Size, Transform};
use smithay::wayland::dmabuf::get_dmabuf;
use smithay::wayland::presentation::PresentationFeedbackCallback;

use self::parked::Parked;
use crate::backend::{Backend, Canvas, FrameSpec, OutputId, PlaneUpdate, SubmitError};
use crate::cursor::CursorLayer;
use crate::fences::{Release, pending_planes};
use crate::record::{Ask, Assigned, Recorder};
use crate::render::{LayerElement, Painter};

use cycle::Cycle;
pub use cycle::Redraw;
use layers::SurfaceLayer;
use pointer::{PointerCanvas, PointerUpdate};
pub(crate) use rhythm::{call, commits, committed, forget, replace};
pub use stand_in::StandIn;
pub use stats::SurfaceStats;
pub use trace::Trace;

/// A surface's part in a frame.
#[derive(Debug)]
pub struct Shown {
    surface: WlSurface,
    zero_copy: bool,
    /// It was not held back until the vertical blank.
    torn: bool,
    /// The refresh rate was free.
    varies: bool,
    /// The frame brings new content of this surface.
    fresh: Option<stats::Fresh>,
    feedback: Vec<PresentationFeedbackCallback>,
}

impl Drop for Shown {
    /// What was never shown is discarded.
    fn drop(&mut self) {
        self.feedback.drain(..).for_each(PresentationFeedbackCallback::discarded);
    }
}

/// A submitted frame with everything it keeps alive.
#[derive(Debug, Default)]
struct Frame {
    spec: FrameSpec,
    shown: Vec<Shown>,
    /// Client buffers that planes scan out: dropped, and so released, with the frame.
    buffers: Vec<(WlSurface, Buffer)>,
    /// The promises that go with them.
    _releases: Vec<Release>,
}

impl Frame {
    /// Lets go of everything but its memory.
    fn emptied(mut self) -> Self {
        self.spec.clear();
        self.shown.clear();
        self.buffers.clear();
        self._releases.clear();
        self
    }
}

/// An output.
#[derive(Debug)]
pub struct OutputState {
    /// Its Wayland side.
    pub output: Output,
    /// Its backend side.
    pub id: OutputId,
    /// Size of its picture in pixels.
    pub size: Size<i32, Physical>,
    /// Where it is in the space of all outputs.
    pub position: Point<i32, Logical>,
    /// From one vertical blank to the next.
    pub refresh: Duration,
    /// Where it is in its cycle.
    pub redraw: Redraw,
    cycle: Cycle,
    /// Frames shown.
    pub frames: u64,
    /// Plans made.
    pub plans: u64,
    /// It shows nothing, on purpose.
    off: bool,
    /// A timer for the surfaces that cannot be seen is running.
    pub throttling: bool,
    /// Damage of the composited picture, and of the one with holes.
    trackers: [whole::Tracker; 2],
    parked: Parked,
    pointer: PointerCanvas,
    entered: Vec<WlSurface>,
    planner: Planner,
    /// What is behind all layers.
    backdrop: Color32F,
    /// What was last asked of the planner; kept for its memory.
    requests: Vec<Layer>,
    /// Planes that were asked about the layers whose buffers they do not take.
    stand_ins: Vec<StandIn>,
    /// What planes that are told of damage showed last.
    told: Vec<whole::Told>,
    /// What of the composited picture has changed, for planes that are told.
    clips: whole::Clips,
    /// Where plans are recorded.
    pub recorder: Option<Recorder>,
    /// The planner has forgotten everything since the last plan.
    forgot: bool,
    /// A mode was refused with overlays: the next plan does without.
    without_overlays: bool,
    current: Frame,
    pending: Option<Frame>,
    /// What composition drew last, while it is up to date.
    composed: Option<SharedFramebuffer>,
    /// There was a layer in it that could not be drawn.
    undrawn: bool,
    trace: Trace,
    searches: bisect::Searches,
    /// The last layers, emptied.
    layers: Vec<SurfaceLayer>,
    /// The buffers that planes would show for them, emptied.
    framebuffers: Vec<Option<SharedFramebuffer>>,
    /// Frames that are over, emptied.
    spare: Vec<Frame>,
}

/// What came of a redraw.
#[derive(Debug, PartialEq, Eq)]
pub enum Drawn {
    /// A frame is pending.
    Submitted,
    /// Nothing changed.
    Unchanged,
    /// Nothing could be shown now; what is on screen stays.
    Failed,
}

/// The parts of the compositor that a redraw borrows.
#[derive(Debug)]
pub struct RedrawParts<'a> {
    /// Where the frame goes.
    pub backend: &'a mut Backend,
    /// What composites.
    pub painter: &'a mut Painter,
    /// The pointer's image, if it is on this output.
    pub cursor: Option<CursorLayer>,
    /// What is behind all layers.
    pub backdrop: Color32F,
    /// Planes may show clients' buffers.
    pub direct_scanout: bool,
    /// Copy on purpose while claiming zero-copy: the checker of the demo must notice.
    pub copy_on_purpose: bool,
}

impl OutputState {
    /// Makes the Wayland side of an output.
    pub fn new(name: String, id: OutputId, size: (u32, u32), mm: (u32, u32), refresh: Duration) -> Self {
        let size: Size<i32, Physical> = (size.0 as i32, size.1 as i32).into();
        let physical = PhysicalProperties {
            size: (mm.0 as i32, mm.1 as i32).into(),
            subpixel: Subpixel::Unknown,
            make: "unknown".into(),
            model: name.clone(),
        };
        let output = Output::new(name, physical);
        let mode = wl_mode(size, refresh);
        output.change_current_state(Some(mode), Some(Transform::Normal), None, Some((0, 0).into()));
        output.set_preferred(mode);
        Self {
            output,
            id,
            size,
            position: (0, 0).into(),
            refresh,
            redraw: Redraw::Idle,
            cycle: Cycle::new(refresh),
            frames: 0,
            plans: 0,
            off: false,
            throttling: false,
            trackers: Default::default(),
            parked: Parked::default(),
            pointer: PointerCanvas::default(),
            entered: Vec::new(),
            planner: Planner::new(),
            backdrop: Color32F::BLACK,
            requests: Vec::new(),
            stand_ins: Vec::new(),
            told: Vec::new(),
            clips: whole::Clips::default(),
            recorder: None,
            forgot: false,
            without_overlays: false,
            current: Frame::default(),
            pending: None,
            composed: None,
            undrawn: false,
            trace: Trace::default(),
            searches: bisect::Searches::default(),
            layers: Vec::new(),
            framebuffers: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Takes another mode: the next frame has its size, and nothing of the last ones counts.
    pub(crate) fn set_mode(&mut self, size: (u32, u32), refresh: Duration) {
        self.reset();
        let (old, size) = (self.output.current_mode(), Size::from((size.0 as i32, size.1 as i32)));
        (self.size, self.refresh) = (size, refresh);
        let mode = wl_mode(size, refresh);
        self.output.change_current_state(Some(mode), None, None, None);
        if let Some(old) = old.filter(|old| *old != mode) {
            self.output.delete_mode(old);
        }
        self.output.set_preferred(mode);
        (self.trackers, self.clips) = Default::default();
        self.cycle = Cycle::new(refresh);
        self.composed = None;
        self.forget_told();
    }

    /// The part of the space of all outputs that it shows.
    pub fn geometry(&self) -> Rectangle<i32, Logical> {
        Rectangle::new(self.position, self.size.to_logical(1))
    }

    /// Its picture in the planner's terms.
    pub fn picture(&self) -> Rect {
        Rect::new(0, 0, self.size.w as u32, self.size.h as u32)
    }

    /// What was asked of the planner last, and its answer.
    pub fn last_plan(&self) -> Option<(Scene<'_>, &Plan)> {
        Some((self.planner.scene(), self.planner.last()?))
    }

    /// What became of its planes and frames lately.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What the driver said of places when that plan was made.
    pub fn stand_ins(&self) -> &[StandIn] {
        &self.stand_ins
    }

    /// Forgets a pending frame whose event will not count, and what is on screen: somebody else was master.
    pub fn reset(&mut self) {
        self.pending = None;
        self.redraw = Redraw::Idle;
        self.cycle.clock.forget_phase();
        self.planner.forget();
        self.forgot = true;
    }

    /// Tells whether somebody is still writing to a buffer of the pending frame.
    pub fn awaits_fence(&self) -> bool {
        let buffers = self.pending.iter().flat_map(|frame| &frame.buffers);
        buffers
            .filter_map(|(_, buffer)| get_dmabuf(buffer).ok())
            .any(|dmabuf| pending_planes(dmabuf.handles()) != 0)
    }

    /// What the planes show now: plane, framebuffer, and whether it is the client's own buffer.
    pub fn planes(&self) -> impl Iterator<Item = &PlaneUpdate> {
        self.current.spec.planes.iter()
    }

    /// How many of the layers last drawn, from the top, can be seen.
    pub fn visible(&self) -> usize {
        if self.off {
            return 0;
        }
        self.planner.last().map_or(0, |plan| plan.visible)
    }

    /// The surfaces that can be seen, as of the last plan.
    pub fn seen(&self) -> impl Iterator<Item = &WlSurface> {
        self.entered.iter().take(self.visible())
    }

    /// Tells whether something of a client was shown when the plan was made.
    pub fn shows_client(&self, client: Option<&ClientId>) -> bool {
        client.is_some() && self.entered.iter().any(|s| s.client().map(|c| c.id()).as_ref() == client)
    }

    /// Memory for layers; [`OutputState::keep_memory`] gives it back.
    pub(crate) fn take_memory(&mut self) -> Vec<SurfaceLayer> {
        std::mem::take(&mut self.layers)
    }

    /// Lets go of layers that were drawn, but not of their memory.
    pub(crate) fn keep_memory(&mut self, mut layers: Vec<SurfaceLayer>) {
        layers.clear();
        self.layers = layers;
    }

    /// Tells clients which of their surfaces are on this output now.
    fn update_entered(&mut self, layers: &[SurfaceLayer]) {
        let now: Vec<WlSurface> = layers.iter().map(|l| l.surface.clone()).collect();
        for gone in self.entered.iter().filter(|s| !now.contains(s)) {
            self.output.leave(gone);
        }
        for surface in &now {
            self.output.enter(surface);
        }
        self.entered = now;
    }

    /// The end of the output, or of its picture: no surface is on it any more, its frames let go of what they hold. `told` is
    /// asked to send what the surfaces' clients are told.
    pub(crate) fn leave_all(&mut self, mut told: impl FnMut(&WlSurface)) {
        for surface in self.entered.drain(..) {
            self.output.leave(&surface);
            told(&surface);
        }
        self.let_go(told);
    }

    /// Its frames let go of what they hold: none of them is on the screen.
    fn let_go(&mut self, told: impl FnMut(&WlSurface)) {
        self.reset();
        self.current = Frame::default();
        self.composed = None;
        self.parked.clear();
        self.forget_told();
        self.end_cycle(told);
    }

    /// It was turned off, or is to be lit again with the next frame.
    pub(crate) fn set_off(&mut self, off: bool, mut told: impl FnMut(&WlSurface)) {
        self.off = off;
        if off {
            self.entered.iter().for_each(&mut told);
            self.trace.off(crate::state::monotonic());
            self.let_go(told);
        }
    }

    /// It shows nothing, on purpose.
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// Draws and submits a frame of `layers` (topmost first); `now` is the time in CLOCK_MONOTONIC.
    pub fn draw(&mut self, layers: &[SurfaceLayer], now: Duration, parts: &mut RedrawParts<'_>) -> Drawn {
        let mut planner = std::mem::take(&mut self.planner);
        let mut requests = std::mem::take(&mut self.requests);
        let drawn = self.draw_with(layers, now, &mut planner, &mut requests, parts);
        (self.planner, self.requests) = (planner, requests);
        drawn
    }

    fn draw_with(
        &mut self,
        layers: &[SurfaceLayer],
        now: Duration,
        planner: &mut Planner,
        requests: &mut Vec<Layer>,
        parts: &mut RedrawParts<'_>,
    ) -> Drawn {
        self.trace.begun(now);
        self.parked.begin(now);
        self.backdrop = parts.backdrop;
        let mut buffers = std::mem::take(&mut self.framebuffers);
        let direct = parts.direct_scanout.then_some(self.id);
        make_requests(layers, direct, parts.backend, now, requests, &mut buffers);
        let drawn = self.draw_buffers(layers, &buffers, now, planner, requests, parts);
        buffers.clear();
        self.framebuffers = buffers;
        drawn
    }

    fn draw_buffers(
        &mut self,
        layers: &[SurfaceLayer],
        buffers: &[Option<SharedFramebuffer>],
        now: Duration,
        planner: &mut Planner,
        requests: &mut Vec<Layer>,
        parts: &mut RedrawParts<'_>,
    ) -> Drawn {
        let pointer = self.draw_pointer(parts);
        let (output, canvas) = (self.picture(), parts.backend.canvas());
        let crtc_shows_backdrop = parts.backdrop == Color32F::BLACK || parts.backend.shows_backdrop(self.id);
        let scene = Scene {
            planes: &[],
            layers: requests,
            pointer: pointer.as_ref().map(|p| &p.request),
            output,
            canvas,
            crtc_shows_backdrop,
            overlays: !self.without_overlays,
        };
        let stale = !planner.stands(&Scene { planes: parts.backend.planes(self.id), ..scene }, now);
        if stale {
            let planes = parts.backend.planes(self.id).to_vec();
            let scene = Scene { planes: &planes, ..scene };
            self.plan(planner, &scene, now, layers, buffers, pointer.as_ref(), parts);
            if let Some(plan) = planner.last() {
                self.try_stand_ins(&scene, layers, buffers, plan, parts);
                self.pointer.planned(plan, &planes);
            }
        }
        // Another surface may have taken the place of one with the very same request.
        if stale || !layers.iter().map(|l| &l.surface).eq(&self.entered) {
            self.update_entered(layers);
            self.plans += 1;
            planner.last().into_iter().for_each(|plan| self.record(now, layers, plan, parts.backend));
        }
        let Some(claimed) = planner.last() else { return Drawn::Failed };
        let copying = parts.copy_on_purpose.then(|| Plan::composite_all(requests, self.picture()));
        let plan = copying.as_ref().unwrap_or(claimed);
        let uses_planes =
            plan.pointer.is_some() || plan.part.is_some() || plan.planes.iter().any(Option::is_some);
        match self.show(layers, buffers, pointer.as_ref(), plan, claimed, parts) {
            // A mode may need what the overlays take: it is tried without them first.
            Err(_) if uses_planes && !self.without_overlays && parts.backend.sets_mode(self.id) => {
                self.without_overlays = true;
                let drawn = self.draw_with(layers, now, planner, requests, parts);
                self.without_overlays = false;
                drawn
            }
            Err(errno) if uses_planes => {
                // The driver took the test and refused the commit: compose these layers, until they change.
                planner.refused(errno, now);
                self.plans += 1;
                let Some(plan) = planner.last() else { return Drawn::Failed };
                if let Some(recorder) = &self.recorder {
                    recorder.refused(&self.output.name(), now, errno, plan);
                }
                self.record(now, layers, plan, parts.backend);
                self.show(layers, buffers, pointer.as_ref(), plan, plan, parts).unwrap_or(Drawn::Failed)
            }
            Err(_) => Drawn::Failed,
            Ok(drawn) => drawn,
        }
    }

    /// Notes where a new plan puts everybody.
    fn record(&mut self, now: Duration, layers: &[SurfaceLayer], plan: &Plan, backend: &Backend) {
        stats::record_plan(layers, plan);
        self.trace.planned(now, layers, plan, backend.planes(self.id));
    }

    /// Composes what the plan leaves to composition and submits the frame.
    ///
    /// # Errors
    /// The errno of a commit that the driver refused.
    fn show(
        &mut self,
        layers: &[SurfaceLayer],
        buffers: &[Option<SharedFramebuffer>],
        pointer: Option<&PointerUpdate>,
        plan: &Plan,
        claimed: &Plan,
        parts: &mut RedrawParts<'_>,
    ) -> Result<Drawn, rustix::io::Errno> {
        if plan.primary == PrimaryContent::Composited {
            match self.compose(layers, plan, parts) {
                Ok(buffer) => self.composed = Some(buffer),
                Err(SubmitError::Busy | SubmitError::Inactive) => return Ok(Drawn::Failed),
                Err(err) => {
                    tracing::error!(%err, output = self.output.name(), "cannot compose");
                    return Ok(Drawn::Failed);
                }
            }
        }
        let mut frame = self.spare.pop().unwrap_or_default();
        let composed = self.composed.as_ref();
        let drawn = match self.fill(&mut frame.spec, plan, layers, buffers, composed, pointer, parts.backend)
        {
            Some(()) => self.submit(&mut frame, layers, plan, claimed, parts),
            None => Ok(Drawn::Failed),
        };
        self.pending = match drawn {
            Ok(Drawn::Submitted) => Some(frame),
            _ => {
                self.spare.push(frame.emptied());
                None
            }
        };
        drawn
    }

    fn submit(
        &mut self,
        Frame { spec, shown, buffers, _releases: held }: &mut Frame,
        layers: &[SurfaceLayer],
        plan: &Plan,
        claimed: &Plan,
        parts: &mut RedrawParts<'_>,
    ) -> Result<Drawn, rustix::io::Errno> {
        self.pace(spec, layers, plan);
        let wants_event = layers.iter().take(plan.visible).any(|l| present::has_feedback(&l.surface));
        // A display that somebody else has had meanwhile is set anew, whatever is to be shown.
        let stands = self.frames > 0 && !parts.backend.sets_mode(self.id);
        if stands {
            self.park(spec, parts.backend);
        }
        if *spec == self.current.spec && !wants_event && stands {
            // The same pictures, but their clients may have committed them anew, with other release points.
            self.current._releases.clear();
            self.current._releases.extend(releases(layers, plan));
            return Ok(Drawn::Unchanged);
        }
        self.tell_damage(spec, layers, plan, parts);
        let mut sent = parts.backend.submit(self.id, spec, &self.current.spec);
        if let Err(SubmitError::Failed(errno)) = sent
            && !spec.parked.is_empty()
        {
            spec.parked.clear();
            sent = parts.backend.submit(self.id, spec, &self.current.spec);
            if sent.is_ok() {
                tracing::debug!(%errno, output = self.output.name(), "no buffers are parked any more");
                self.parked.give_up();
            }
        }
        match sent {
            Ok(()) => {}
            Err(SubmitError::Inactive | SubmitError::Busy) => {
                self.forget_told();
                return Ok(Drawn::Failed);
            }
            Err(SubmitError::Failed(errno)) => {
                self.forget_told();
                tracing::warn!(%errno, output = self.output.name(), "commit refused");
                return Err(errno);
            }
        }
        for (index, layer) in layers.iter().enumerate().take(plan.visible) {
            let zero_copy = claimed.planes[index].is_some();
            shown.push(Shown {
                zero_copy,
                torn: parts.backend.tore(self.id),
                varies: parts.backend.varies(self.id),
                fresh: stats::take_fresh(layer, self.id, self.frames),
                feedback: present::take_feedback(&layer.surface),
                surface: layer.surface.clone(),
            });
            if plan.planes[index].is_some() {
                buffers.push((layer.surface.clone(), layer.buffer.clone()));
            }
        }
        held.extend(releases(layers, plan));
        self.redraw = Redraw::Waiting { again: false };
        Ok(Drawn::Submitted)
    }

    #[allow(clippy::too_many_arguments, reason = "the scene and what it was made of")]
    fn plan(
        &mut self,
        planner: &mut Planner,
        scene: &Scene<'_>,
        now: Duration,
        layers: &[SurfaceLayer],
        buffers: &[Option<SharedFramebuffer>],
        pointer: Option<&PointerUpdate>,
        parts: &mut RedrawParts<'_>,
    ) {
        let mut asked = Vec::new();
        planner.plan(scene, now, |plan| {
            let composed = match plan.primary {
                PrimaryContent::Composited => Some(parts.backend.any_target(self.id, self.canvas(plan))?),
                PrimaryContent::Layer(_) => None,
            };
            let spec = self.spec(plan, layers, buffers, composed.as_ref(), pointer, parts.backend);
            let answer = parts.backend.test(self.id, &spec.ok_or(rustix::io::Errno::INVAL)?);
            if self.recorder.is_some() {
                let errno = answer.err().map(rustix::io::Errno::raw_os_error);
                asked.push(Ask { plan: Assigned::of(plan), errno });
            }
            answer
        });
        if let Some(plan) = planner.last() {
            if let Some(recorder) = &self.recorder {
                let forgot = std::mem::take(&mut self.forgot);
                recorder.planned(&self.output.name(), now, forgot, scene, asked, plan);
            }
            tracing::debug!(output = self.output.name(), planes = ?plan.planes, asked = plan.asked, "planned");
        }
    }

    fn spec(
        &self,
        plan: &Plan,
        layers: &[SurfaceLayer],
        buffers: &[Option<SharedFramebuffer>],
        composed: Option<&SharedFramebuffer>,
        pointer: Option<&PointerUpdate>,
        backend: &Backend,
    ) -> Option<FrameSpec> {
        let mut spec = FrameSpec::default();
        self.fill(&mut spec, plan, layers, buffers, composed, pointer, backend)?;
        Some(spec)
    }

    /// Fills an empty frame with what a plan puts on planes; nothing if a buffer is missing.
    #[allow(clippy::too_many_arguments, reason = "what was planned, of what, and with what")]
    fn fill(
        &self,
        spec: &mut FrameSpec,
        plan: &Plan,
        layers: &[SurfaceLayer],
        buffers: &[Option<SharedFramebuffer>],
        composed: Option<&SharedFramebuffer>,
        pointer: Option<&PointerUpdate>,
        backend: &Backend,
    ) -> Option<()> {
        let shown = if backend.shows_backdrop(self.id) { self.backdrop } else { Color32F::BLACK };
        spec.backdrop =
            [shown.r(), shown.g(), shown.b()].map(|part| (part * f32::from(u16::MAX)).round() as u16);
        let mut show = |update: PlaneUpdate| {
            let setting = plan.setting(update.plane);
            spec.planes.push(update.set(setting));
        };
        if plan.primary == PrimaryContent::Composited {
            let primary = backend.planes(self.id).iter().find(|p| p.kind == PlaneType::Primary)?;
            let place = plan.part.unwrap_or(self.picture());
            let src = SourceRect::whole(place.w, place.h);
            show(PlaneUpdate::new(primary.id, composed?.clone(), src, place));
        }
        for (index, plane) in plan.planes.iter().enumerate().take(plan.visible) {
            let (Some(plane), layer) = (*plane, &layers[index]) else { continue };
            let update =
                PlaneUpdate::new(plane, buffers[index].clone()?, layer.source_rect(), layer.dst_rect());
            let color = layer.color.unwrap_or_default();
            show(PlaneUpdate { commit: Some(layer.commit), color, ..update });
        }
        if let Some(plane) = plan.pointer {
            show(pointer?.on(plane)?);
        }
        Some(())
    }

    /// What the composited picture of a plan is drawn into.
    fn canvas(&self, plan: &Plan) -> Canvas {
        let Rect { w, h, .. } = plan.part.unwrap_or(self.picture());
        if plan.underlays.is_empty() { Canvas::Primary(w, h) } else { Canvas::Holes(w, h) }
    }

    /// Draws the composited picture of a plan: what lies outside of its part is cut off.
    fn compose(
        &mut self,
        layers: &[SurfaceLayer],
        plan: &Plan,
        parts: &mut RedrawParts<'_>,
    ) -> Result<SharedFramebuffer, SubmitError> {
        let (mut elements, mut undrawn) = (Vec::new(), false);
        if let (None, Some(cursor)) = (plan.pointer, parts.cursor.take()) {
            elements.extend(cursor.placed());
        }
        for (index, hole) in plan.drawn() {
            if hole {
                elements.push(LayerElement::hole(&layers[index]));
                continue;
            }
            match parts.painter.element(&layers[index]) {
                Ok(element) => {
                    elements.push(element);
                    if self.undrawn {
                        stats::record_composed(&layers[index], None);
                    }
                }
                Err(err) => {
                    tracing::trace!(%err, surface = layers[index].surface.id().protocol_id(), "layer not drawn");
                    stats::record_composed(&layers[index], Some(&err));
                    elements.push(LayerElement::blank(&layers[index]));
                    undrawn = true;
                }
            }
        }
        self.undrawn = undrawn;
        let (canvas, place) = (self.canvas(plan), plan.part.unwrap_or(self.picture()));
        if (place.x, place.y) != (0, 0) {
            elements =
                elements.into_iter().map(|element| element.moved((-place.x, -place.y).into())).collect();
        }
        let tracker = self.trackers[usize::from(!plan.underlays.is_empty())].of(place);
        let (painter, backdrop) = (&mut *parts.painter, parts.backdrop);
        let mut failure = None;
        let buffer = parts.backend.compose(self.id, canvas, &mut |image, age| match painter
            .draw(tracker, image, age, &elements, backdrop)
        {
            Ok(changed) => changed,
            Err(err) => {
                failure = Some(err);
                false
            }
        })?;
        if let Some(err) = failure {
            tracing::warn!(%err, "composition failed");
        }
        let primary = parts.backend.planes(self.id).iter().find(|p| p.kind == PlaneType::Primary);
        if primary.is_some_and(|primary| parts.backend.takes_damage(self.id, primary.id)) {
            self.clips.composed(canvas, place, &elements);
        }
        Ok(buffer)
    }
}

fn wl_mode(size: Size<i32, Physical>, refresh: Duration) -> WlMode {
    let millihertz = 1_000_000_000_000u128.checked_div(refresh.as_nanos()).unwrap_or(60_000);
    WlMode { size, refresh: i32::try_from(millihertz).unwrap_or(60_000) }
}

/// The promises of what planes scan out.
fn releases(layers: &[SurfaceLayer], plan: &Plan) -> impl Iterator<Item = Release> {
    let visible = layers.iter().zip(&plan.planes).take(plan.visible);
    visible.filter(|(_, plane)| plane.is_some()).filter_map(|(l, _)| Some(l.release.as_ref()?.for_frame()))
}

/// Fills in what each layer asks of the planner, and the buffers that planes of the output would show for them.
fn make_requests(
    layers: &[SurfaceLayer],
    direct_scanout: Option<OutputId>,
    backend: &mut Backend,
    now: Duration,
    requests: &mut Vec<Layer>,
    buffers: &mut Vec<Option<SharedFramebuffer>>,
) {
    requests.clear();
    buffers.clear();
    for layer in layers {
        let buffer = match (&layer.dmabuf, direct_scanout) {
            (None, _) => Err(Refusal::NotDmabuf),
            (Some(_), None) => Err(Refusal::Disabled),
            (Some(dmabuf), Some(output)) => backend.framebuffer(output, dmabuf, layer.opaque),
        };
        let content = buffer.as_ref().map_err(Clone::clone);
        let color = layer.color.unwrap_or_default();
        let content = content.map(|b| Scannable { color, ..Scannable::new(b.format(), b.modifier()) });
        requests.push(layer.request(content, pace::rate(layer, now)));
        buffers.push(buffer.ok());
    }
}
