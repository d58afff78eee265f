//! One CRTC with its connector and planes: frames become atomic commits, one commit a frame.
//!
//! It owns the property ids, the mode and the composition swapchain of the CRTC. It does not decide what a frame
//! shows, and it does not hold frames: that is [`crate::output`].

use std::num::NonZeroU32;

use drm::DriverCapability;
use drm::control::{AtomicCommitFlags, RawResourceHandle, connector, crtc, property};
use drm_fourcc::DrmFourcc;
use drm_prime::scanout::{PlaneCaps, PlaneType, Rect, SourceRect};
use drm_prime::{PlaneFramebuffers, SharedFramebuffer, Staging};
use rustix::io::Errno;

use super::device::{
    CardError, ConnectorInfo, KmsDevice, Mode, Object, Properties, Request, argb64, connectors_on,
};
use super::in_fence::{InFence, OutFence};
use super::pacing::{Tearing, Vrr};
use super::plane::KmsPlane;
use super::watchdog::Watched;
use super::writeback::Writeback;
use crate::backend::buffers::Buffers;
use crate::backend::canvas::DumbCanvas;
use crate::backend::swapchain::Swapchain;
use crate::backend::{Canvas, FrameSpec, PlaneUpdate, SubmitError};
use crate::render::Target;
use crate::state::monotonic;

/// A connected display that is driven.
#[derive(Debug)]
pub struct KmsOutput {
    pub(super) pipe: Pipe,
    pub(super) name: String,
    pub(super) mode: Mode,
    /// The mode is not the display's favourite, but somebody's choice.
    chosen: bool,
    pub(super) physical_mm: (u32, u32),
    pub(super) caps: Vec<PlaneCaps>,
    primary: SizedSwapchain,
    holes: SizedSwapchain,
    cursor: SizedSwapchain,
    /// What was tested last and is of another size than what is composed, until something is composed.
    tried: Option<((u32, u32), DumbCanvas)>,
    /// What the planes show and are about to show.
    pub(super) shown: PlaneFramebuffers,
    /// The planes that the last commit left on, seen or not.
    lit: Vec<NonZeroU32>,
    /// Commits since the start, test commits not counted.
    pub(super) commits: u64,
    /// The last request; kept for its memory.
    request: Request,
    /// The frame of the last commit, while its flip is outstanding.
    pending: FrameSpec,
    pub(super) tearing: Tearing,
    pub(super) watched: Watched,
}

/// A swapchain with the size of its buffers.
#[derive(Debug, Default)]
struct SizedSwapchain((u32, u32), Swapchain<DumbCanvas>);

impl SizedSwapchain {
    fn of_size(&self, size: (u32, u32)) -> Option<&Swapchain<DumbCanvas>> {
        (self.0 == size).then_some(&self.1)
    }

    /// The same, with buffers of `size`: those of another size are let go, and gone when no frame shows them.
    fn resized(&mut self, size: (u32, u32)) -> &mut Swapchain<DumbCanvas> {
        if self.0 != size {
            *self = Self(size, Swapchain::default());
        }
        &mut self.1
    }
}

/// The objects of an output and their properties: what a commit names.
#[derive(Debug)]
pub struct Pipe {
    pub(super) crtc: crtc::Handle,
    pub(super) connector: connector::Handle,
    pub(super) writeback: Option<Writeback>,
    /// The next commit sets the mode and every plane.
    pub(super) needs_modeset: bool,
    planes: Vec<KmsPlane>,
    mode_blob: u64,
    connector_crtc: property::Handle,
    crtc_mode: property::Handle,
    crtc_active: property::Handle,
    crtc_out_fence: Option<property::Handle>,
    /// What is seen where no plane is.
    crtc_background: Option<property::Handle>,
    /// Of a display whose refresh rate may vary.
    crtc_vrr: Option<property::Handle>,
    /// What it is set to.
    vrr: bool,
}

impl KmsOutput {
    /// Prepares a connected connector on a CRTC, with the planes that it uses.
    ///
    /// # Errors
    /// When the driver lacks a property that atomic mode setting needs, or the connector has no mode.
    pub fn new(
        device: &dyn KmsDevice,
        info: &ConnectorInfo,
        crtc: crtc::Handle,
        planes: Vec<(KmsPlane, PlaneCaps)>,
    ) -> Result<Self, CardError> {
        let (planes, caps): (Vec<_>, Vec<_>) = planes.into_iter().unzip();
        if !caps.iter().any(|c| c.kind == PlaneType::Primary) {
            return Err(CardError::NoOutputs);
        }
        let mode = info.favourite().ok_or(CardError::NoOutputs)?;
        let blob = device.create_blob(&mode.bytes()).map_err(CardError::io("creating the mode blob"))?;
        let crtc_props = Properties::read(device, Object::Crtc(crtc))?;
        let connector_props = Properties::read(device, Object::Connector(info.handle))?;
        let pipe = Pipe {
            crtc,
            connector: info.handle,
            writeback: None,
            needs_modeset: true,
            planes,
            mode_blob: blob,
            connector_crtc: connector_props.require("CRTC_ID")?,
            crtc_mode: crtc_props.require("MODE_ID")?,
            crtc_active: crtc_props.require("ACTIVE")?,
            crtc_out_fence: crtc_props.id("OUT_FENCE_PTR"),
            crtc_background: crtc_props.id("BACKGROUND_COLOR"),
            crtc_vrr: crtc_props
                .id("VRR_ENABLED")
                .filter(|_| connector_props.value("vrr_capable") == Some(1)),
            vrr: false,
        };
        let asynchronous = device.capability(DriverCapability::AtomicASyncPageFlip);
        Ok(Self {
            pipe,
            name: info.name(),
            mode,
            chosen: false,
            physical_mm: info.size_mm.unwrap_or_default(),
            caps,
            primary: SizedSwapchain::default(),
            holes: SizedSwapchain::default(),
            cursor: SizedSwapchain::default(),
            tried: None,
            shown: PlaneFramebuffers::new(),
            lit: Vec::new(),
            commits: 0,
            request: Request::new(),
            pending: FrameSpec::default(),
            tearing: Tearing::new(asynchronous.is_ok_and(|value| value == 1)),
            watched: Watched::default(),
        })
    }

    /// The planes that show something.
    pub(super) fn lit(&self) -> &[NonZeroU32] {
        &self.lit
    }

    /// Has it use other planes from now on; those that show something are among them.
    pub(super) fn set_planes(&mut self, planes: Vec<(KmsPlane, PlaneCaps)>) {
        (self.pipe.planes, self.caps) = planes.into_iter().unzip();
    }

    /// From one vertical blank to the next.
    pub fn refresh_interval(&self) -> std::time::Duration {
        self.mode.refresh_interval()
    }

    /// Asks the driver whether it would show `frame`.
    ///
    /// # Errors
    /// The commit's errno.
    pub fn test(&mut self, device: &dyn KmsDevice, frame: &FrameSpec) -> Result<(), Errno> {
        let (pipe, request) = (&self.pipe, &mut self.request);
        self.shown.test(|staging| {
            let flags = pipe.flags(AtomicCommitFlags::TEST_ONLY);
            pipe.fill(request, staging, frame, None);
            device.commit(flags, request)
        })
    }

    /// Commits `frame`, of which only what differs from `before` is sent; its event comes with the next flip. Every
    /// plane waits for `fence` instead of its buffer's own fences.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn submit(
        &mut self,
        device: &dyn KmsDevice,
        frame: &FrameSpec,
        before: &FrameSpec,
        vrr: Vrr,
        fence: &mut InFence,
    ) -> Result<(), SubmitError> {
        if self.watched.is_recovering() {
            return Err(SubmitError::Busy);
        }
        let primary = self.primary();
        let wanted = self.pipe.crtc_vrr.is_some() && vrr.wants(frame);
        self.tearing.last = None;
        if frame.tearing {
            let more =
                self.pipe.needs_modeset || wanted != self.pipe.vrr || frame.backdrop != before.backdrop;
            let allowed = self.tearing.allows(primary, frame, before, more);
            self.tearing.last = Some(allowed);
            if allowed.is_ok() {
                match self.commit(device, frame, before, self.pipe.vrr, true, fence) {
                    Err(SubmitError::Failed(errno)) => self.tearing.refuse(primary, frame, errno),
                    result => return result,
                }
            }
        }
        match self.commit(device, frame, before, wanted, false, fence) {
            Err(SubmitError::Failed(errno)) if wanted && !self.pipe.vrr => {
                tracing::warn!(%errno, output = self.name, "no variable refresh rate");
                self.pipe.crtc_vrr = None;
                self.commit(device, frame, before, false, false, fence)
            }
            result => result,
        }
    }

    /// One attempt to commit a frame; one without waiting changes the framebuffer of the primary plane alone.
    fn commit(
        &mut self,
        device: &dyn KmsDevice,
        frame: &FrameSpec,
        before: &FrameSpec,
        vrr: bool,
        at_once: bool,
        fence: &mut InFence,
    ) -> Result<(), SubmitError> {
        let damage = self.pipe.damage_blobs(device, frame, before);
        let primary = self.primary();
        let (pipe, request) = (&self.pipe, &mut self.request);
        let value = fence.value();
        let wanted = pipe.crtc_out_fence.filter(|_| fence.is_wanted() && !at_once);
        let mut out = wanted.map(|property| (property, OutFence::new()));
        if pipe.needs_modeset {
            self.watched.lit = monotonic();
        }
        let sent = self.shown.commit(|staging| {
            let mut flags = pipe.flags(AtomicCommitFlags::NONBLOCK | AtomicCommitFlags::PAGE_FLIP_EVENT);
            pipe.fill(request, staging, frame, Some(before));
            if let (true, false, Some(first)) = (frame == before, pipe.needs_modeset, frame.planes.first()) {
                // Nothing changes, but a flip is asked for: name the CRTC by showing its first plane again.
                pipe.show(request, staging, first);
            }
            // Of the commits that succeed no two have the same.
            request.set_number(self.commits + 1);
            pipe.set_vrr(request, vrr);
            damage.iter().for_each(|(plane, blob)| pipe.tell_damage(request, *plane, *blob));
            if at_once {
                flags |= AtomicCommitFlags::PAGE_FLIP_ASYNC;
                pipe.wait_for(request, value, primary);
            } else {
                pipe.wait_for(request, value, frame.updates().map(|update| update.plane));
            }
            if let Some((property, out)) = &mut out {
                request.set(pipe.crtc.into(), *property, out.pointer());
            }
            device.commit(flags, request).map_err(|errno| match errno {
                Errno::ACCESS | Errno::PERM => SubmitError::Inactive,
                Errno::BUSY => SubmitError::Busy,
                errno => SubmitError::Failed(errno),
            })
        });
        for (_, blob) in damage {
            if let Err(err) = device.destroy_blob(blob) {
                tracing::debug!(%err, "damage blob not destroyed");
            }
        }
        sent?;
        if let Some((_, out)) = out {
            fence.came(out);
        }
        self.pipe.vrr = vrr;
        self.pipe.needs_modeset = false;
        self.pending.planes.clone_from(&frame.planes);
        self.pending.parked.clone_from(&frame.parked);
        (self.pending.alone, self.pending.tearing) = (frame.alone, frame.tearing);
        self.pending.backdrop = frame.backdrop;
        self.lit.clear();
        self.lit.extend(frame.updates().map(|update| update.plane));
        self.commits += 1;
        Ok(())
    }

    /// Commits the last frame once more, and all of it, with what `commit` does about the request. The events of the commits
    /// before it do not count: whoever takes this one has carried them out.
    fn again(
        &mut self,
        fence: Option<u64>,
        commit: impl FnOnce(&mut Request) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let needed = std::mem::replace(&mut self.pipe.needs_modeset, true);
        let (pipe, request, frame) = (&self.pipe, &mut self.request, &self.pending);
        let sent = self.shown.commit_now(|staging| {
            pipe.fill(request, staging, frame, None);
            pipe.set_vrr(request, pipe.vrr);
            pipe.wait_for(request, fence, frame.updates().map(|update| update.plane));
            commit(request)
        });
        self.pipe.needs_modeset = sent.is_err() || needed;
        sent?;
        self.pipe.needs_modeset = false;
        self.give_up();
        Ok(())
    }

    /// Commits the last frame once more, and all of it, if the kernel takes it without waiting for the commits before it; it is
    /// on the screen soon.
    ///
    /// # Errors
    /// EBUSY if it would have to wait; another errno of the commit.
    pub(super) fn show_again_at_once(
        &mut self,
        device: &dyn KmsDevice,
        fence: Option<u64>,
    ) -> Result<(), Errno> {
        let flags = AtomicCommitFlags::NONBLOCK | AtomicCommitFlags::ALLOW_MODESET;
        self.again(fence, |request| device.commit(flags, request))
    }

    /// The request that commits the last frame once more, and all of it, for somebody else to commit.
    pub(super) fn request_again(&mut self, fence: Option<u64>) -> Request {
        let mut copy = Request::new();
        let kept = self.again(fence, |request| {
            copy = request.clone();
            Err(Errno::AGAIN)
        });
        debug_assert!(kept.is_err(), "nothing was committed");
        copy
    }

    /// Somebody else has committed it.
    pub(super) fn shown_again(&mut self, fence: Option<u64>) {
        if let Err(err) = self.again(fence, |_| Ok(())) {
            tracing::error!(%err, "nothing was asked");
        }
    }

    /// Tells whether it shows any colour where no plane is.
    pub(super) fn shows_backdrop(&self) -> bool {
        self.pipe.crtc_background.is_some()
    }

    fn primary(&self) -> Option<NonZeroU32> {
        self.caps.iter().find(|caps| caps.kind == PlaneType::Primary).map(|caps| caps.id)
    }

    /// Tells whether a plane gains from being told what has changed.
    pub(super) fn takes_damage(&self, plane: NonZeroU32) -> bool {
        self.pipe.plane(plane).is_some_and(KmsPlane::takes_damage)
    }

    /// Tells whether the display's refresh rate varies now; `None` if it cannot.
    pub(super) fn vrr(&self) -> Option<bool> {
        self.pipe.crtc_vrr.map(|_| self.pipe.vrr)
    }

    /// The beginning of a request that leaves the planes as they are.
    pub fn request_same(&self, fence: Option<u64>) -> Request {
        let mut req = Request::new();
        self.pipe.wait_for(&mut req, fence, self.lit.iter().copied());
        req
    }

    /// Notes that a blocking commit has turned everything off, so that the next one sets the mode again.
    pub fn turned_off(&mut self) {
        let Ok(()) = self.shown.commit_now(|staging| {
            staging.turn_all_off();
            Ok::<_, std::convert::Infallible>(())
        });
        self.lit.clear();
        self.pending.clear();
        self.pipe.needs_modeset = true;
        self.pipe.vrr = false;
    }

    /// Has the display driven with a mode that it has, if it has no longer the one that it is driven with, or if nobody chose
    /// that and it likes another better now. Tells whether it is another.
    pub(super) fn follow(&mut self, device: &dyn KmsDevice, info: &ConnectorInfo) -> bool {
        self.physical_mm = info.size_mm.unwrap_or_default();
        let wanted = info.favourite().filter(|mode| !mode.is_like(&self.mode));
        let has = self.chosen && info.modes.iter().any(|mode| mode.is_like(&self.mode));
        let Some(mode) = wanted.filter(|_| !has) else { return false };
        match device.create_blob(&mode.bytes()) {
            Ok(blob) => {
                self.replace_mode(device, mode, blob);
                self.chosen = false;
                true
            }
            Err(err) => {
                tracing::warn!(%err, output = self.name, "mode not changed");
                false
            }
        }
    }

    /// Drives the display with another mode from the next frame on, if the driver takes it in a test.
    ///
    /// # Errors
    /// The errno of the test, or of the memory for it; nothing has changed then.
    pub(super) fn try_mode(
        &mut self,
        device: &dyn KmsDevice,
        buffers: &Buffers,
        mode: Mode,
    ) -> Result<(), Errno> {
        let failed = |err: std::io::Error| Errno::from_io_error(&err).unwrap_or(Errno::IO);
        let (w, h) = mode.size();
        let canvas = DumbCanvas::new(buffers, (w, h), DrmFourcc::Xrgb8888)?;
        let primary = self.primary().ok_or(Errno::NODEV)?;
        let whole = Rect::new(0, 0, w, h);
        let picture = PlaneUpdate::new(primary, canvas.framebuffer.clone(), SourceRect::whole(w, h), whole);
        let blob = device.create_blob(&mode.bytes()).map_err(failed)?;
        let before = (std::mem::replace(&mut self.pipe.mode_blob, blob), self.pipe.needs_modeset);
        self.pipe.needs_modeset = true;
        let tested = self.test(device, &FrameSpec { planes: vec![picture], ..FrameSpec::default() });
        let tried;
        (self.pipe.mode_blob, tried) = (before.0, self.pipe.mode_blob);
        self.pipe.needs_modeset = before.1;
        if let Err(errno) = tested {
            discard(device, tried);
            return Err(errno);
        }
        self.replace_mode(device, mode, tried);
        self.chosen = true;
        Ok(())
    }

    fn replace_mode(&mut self, device: &dyn KmsDevice, mode: Mode, blob: u64) {
        discard(device, std::mem::replace(&mut self.pipe.mode_blob, blob));
        self.mode = mode;
        self.pipe.needs_modeset = true;
        (self.primary, self.holes, self.tried) = Default::default();
    }

    /// Turns the CRTC and its planes off, with a commit that waits for those before it; the mode stays. The next frame turns
    /// it on.
    ///
    /// # Errors
    /// The commit's errno.
    pub(super) fn turn_off(&mut self, device: &dyn KmsDevice) -> Result<(), Errno> {
        if self.watched.is_recovering() {
            return Err(Errno::BUSY);
        }
        let (pipe, request) = (&self.pipe, &mut self.request);
        self.shown.commit_now(|staging| {
            request.clear();
            for plane in &pipe.planes {
                plane.turn_off(request);
            }
            staging.turn_all_off();
            request.set(pipe.crtc.into(), pipe.crtc_active, 0);
            if let Some(property) = pipe.crtc_vrr {
                request.set(pipe.crtc.into(), property, 0);
            }
            pipe.set_background(request, [0; 3]);
            device.commit(AtomicCommitFlags::ALLOW_MODESET, request)
        })?;
        self.turned_off();
        self.give_up();
        Ok(())
    }

    /// Turns the CRTC off, while `active`, and gives its mode blob back; the end of this output.
    pub fn disable(&self, device: &dyn KmsDevice, active: bool) {
        if active {
            self.let_go(device);
        }
        discard(device, self.pipe.mode_blob);
    }

    fn let_go(&self, device: &dyn KmsDevice) {
        let mut req = Request::new();
        for plane in &self.pipe.planes {
            plane.turn_off(&mut req);
        }
        for (connector, crtc_id) in connectors_on(device, self.pipe.crtc) {
            req.set(connector, crtc_id, 0);
        }
        req.set(self.pipe.crtc.into(), self.pipe.crtc_mode, 0);
        req.set(self.pipe.crtc.into(), self.pipe.crtc_active, 0);
        if let Some(property) = self.pipe.crtc_vrr {
            req.set(self.pipe.crtc.into(), property, 0);
        }
        self.pipe.set_background(&mut req, [0; 3]);
        if let Err(err) = device.commit(AtomicCommitFlags::ALLOW_MODESET, &mut req) {
            tracing::warn!(%err, output = self.name, "crtc not turned off");
        }
    }

    /// Pixels of the mode.
    pub fn size(&self) -> (u32, u32) {
        self.mode.size()
    }

    /// Any buffer of a canvas; see [`crate::backend::Backend::any_target`].
    ///
    /// # Errors
    /// When there is no memory.
    pub fn any_target(&mut self, buffers: &Buffers, canvas: Canvas) -> Result<SharedFramebuffer, Errno> {
        let ((size, format, swapchain), tried) = self.swapchain(canvas);
        if let Some(canvas) = swapchain.of_size(size).and_then(|swapchain| swapchain.first()) {
            return Ok(canvas.framebuffer.clone());
        }
        let canvas = match tried.take_if(|(of, canvas)| (*of, canvas.framebuffer.format()) == (size, format))
        {
            Some((_, canvas)) => canvas,
            None => DumbCanvas::new(buffers, size, format)?,
        };
        let framebuffer = canvas.framebuffer.clone();
        *tried = Some((size, canvas));
        Ok(framebuffer)
    }

    /// The size, format and buffers of a canvas, and the buffer that was tested last.
    #[allow(clippy::type_complexity, reason = "parts of two fields")]
    fn swapchain(
        &mut self,
        canvas: Canvas,
    ) -> (((u32, u32), DrmFourcc, &mut SizedSwapchain), &mut Option<((u32, u32), DumbCanvas)>) {
        let of = match canvas {
            Canvas::Primary(width, height) => ((width, height), DrmFourcc::Xrgb8888, &mut self.primary),
            Canvas::Holes(width, height) => ((width, height), DrmFourcc::Argb8888, &mut self.holes),
            Canvas::Cursor(width, height) => ((width, height), DrmFourcc::Argb8888, &mut self.cursor),
        };
        (of, &mut self.tried)
    }

    /// See [`crate::backend::Backend::compose`].
    ///
    /// # Errors
    /// Busy, or out of memory.
    pub fn compose(
        &mut self,
        buffers: &Buffers,
        canvas: Canvas,
        draw: &mut dyn FnMut(&mut Target, usize) -> bool,
    ) -> Result<SharedFramebuffer, SubmitError> {
        let ((size, format, swapchain), tried) = self.swapchain(canvas);
        let tried = match canvas {
            Canvas::Cursor(..) => None,
            _ => tried.take().filter(|(of, canvas)| (*of, canvas.framebuffer.format()) == (size, format)),
        };
        let drawn = swapchain.resized(size).compose(
            DumbCanvas::is_free,
            || tried.map_or_else(|| DumbCanvas::new(buffers, size, format), |(_, canvas)| Ok(canvas)),
            |canvas, age| draw(&mut canvas.target, age),
        )?;
        Ok(drawn.framebuffer.clone())
    }
}

fn discard(device: &dyn KmsDevice, blob: u64) {
    if let Err(err) = device.destroy_blob(blob) {
        tracing::debug!(%err, "mode blob not destroyed");
    }
}

impl Pipe {
    fn plane(&self, id: NonZeroU32) -> Option<&KmsPlane> {
        self.planes.iter().find(|p| NonZeroU32::from(p.handle) == id)
    }

    /// Has `req` be what makes the planes show `frame`. Without `before` it names every plane, otherwise those that differ.
    fn fill(
        &self,
        req: &mut Request,
        staging: &mut Staging<'_>,
        frame: &FrameSpec,
        before: Option<&FrameSpec>,
    ) {
        req.clear();
        let crtc = RawResourceHandle::from(self.crtc);
        if self.needs_modeset {
            let connector = RawResourceHandle::from(self.connector);
            req.set(connector, self.connector_crtc, u64::from(crtc.get()));
            req.set(crtc, self.crtc_mode, self.mode_blob);
            req.set(crtc, self.crtc_active, 1);
            if let Some(writeback) = &self.writeback {
                writeback.attach(req, crtc);
            }
        }
        let before = before.filter(|_| !self.needs_modeset);
        if before.is_none_or(|before| before.backdrop != frame.backdrop) {
            self.set_background(req, frame.backdrop);
        }
        for update in frame.updates() {
            let unchanged = before.is_some_and(|b| b.updates().any(|old| old == update));
            if !unchanged {
                self.show(req, staging, update);
            }
        }
        for plane in &self.planes {
            let id = NonZeroU32::from(plane.handle);
            let was_on = before.is_none_or(|b| b.updates().any(|p| p.plane == id));
            if was_on && !frame.updates().any(|p| p.plane == id) {
                plane.turn_off(req);
                staging.turn_off(id);
            }
        }
    }

    fn show(&self, req: &mut Request, staging: &mut Staging<'_>, update: &PlaneUpdate) {
        if let Some(plane) = self.plane(update.plane) {
            let id = staging.show(update.plane, &update.buffer);
            plane.show(req, self.crtc.into(), id, update);
        }
    }

    /// Has planes wait for `fence` and nothing else that a client can attach: also those that stay as they are, since
    /// drivers look at all planes of the CRTC again (vkms_crtc.c, drm_atomic_add_affected_planes).
    fn wait_for(&self, req: &mut Request, fence: Option<u64>, planes: impl IntoIterator<Item = NonZeroU32>) {
        let Some(fence) = fence else { return };
        planes.into_iter().filter_map(|id| self.plane(id)).for_each(|plane| plane.wait_for(req, fence));
    }

    /// Sets what is seen where no plane is.
    fn set_background(&self, req: &mut Request, color: [u16; 3]) {
        if let Some(property) = self.crtc_background {
            req.set(self.crtc.into(), property, argb64(color));
        }
    }

    /// Sets the refresh rate free or not, where that differs from what it is.
    fn set_vrr(&self, req: &mut Request, vrr: bool) {
        if let Some(property) = self.crtc_vrr.filter(|_| vrr != self.vrr || self.needs_modeset) {
            req.set(self.crtc.into(), property, u64::from(vrr));
        }
    }

    /// Blobs with what has changed on the planes that want to know (`struct drm_mode_rect`, drm_mode.h).
    fn damage_blobs(
        &self,
        device: &dyn KmsDevice,
        frame: &FrameSpec,
        before: &FrameSpec,
    ) -> Vec<(NonZeroU32, u64)> {
        let mut blobs = Vec::new();
        if self.needs_modeset {
            return blobs;
        }
        for update in frame.planes.iter().filter(|update| !before.planes.contains(update)) {
            let Some(rects) = update.damage.0.as_ref().filter(|rects| !rects.is_empty()) else { continue };
            if !self.plane(update.plane).is_some_and(KmsPlane::takes_damage) {
                continue;
            }
            let end =
                |from: i32, len: u32| i64::from(from).saturating_add(len.into()).min(i32::MAX.into()) as i32;
            let corners = rects.iter().flat_map(|r| [r.x, r.y, end(r.x, r.w), end(r.y, r.h)]);
            let bytes: Vec<u8> = corners.flat_map(i32::to_ne_bytes).collect();
            // Without them all of the buffer counts as changed.
            if let Ok(blob) = device.create_blob(&bytes) {
                blobs.push((update.plane, blob));
            }
        }
        blobs
    }

    fn tell_damage(&self, req: &mut Request, plane: NonZeroU32, blob: u64) {
        if let Some(plane) = self.plane(plane) {
            plane.damage(req, blob);
        }
    }

    fn flags(&self, flags: AtomicCommitFlags) -> AtomicCommitFlags {
        if self.needs_modeset { flags | AtomicCommitFlags::ALLOW_MODESET } else { flags }
    }
}
