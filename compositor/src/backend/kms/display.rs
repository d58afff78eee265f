//! One display device: its outputs, their planes, and the buffers that they show.
//!
//! It owns the card, the PRIME file beside it, and which CRTC, connector and planes an output has. It knows no other device
//! and no session ([`super`]).

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use drm::control::{connector, crtc};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{Claim, PlaneCaps, share};
use drm_prime::{SharedFramebuffer, quirks};
use rustix::io::Errno;
use smallvec::SmallVec;

use super::device::kernel::Card;
use super::device::{CardError, ConnectorInfo, Device, FlipEvent, Mode, Resources, turn_everything_off};
use super::in_fence::InFence;
use super::output::KmsOutput;
use super::pacing::Vrr;
use super::plane::{self, KmsPlane};
use super::writeback::{CaptureError, Writeback};
use crate::backend::buffers::Buffers;
use crate::backend::{Canvas, Flip, FrameSpec, OutputId, SubmitError};
use crate::render::Target;
use crate::render::image::Picture;
use crate::state::monotonic;

/// Bits of an [`OutputId`] that are the CRTC's object id; those above are the device's slot.
const CRTC_BITS: u32 = 24;
/// Devices that there may be at once.
pub(super) const SLOTS: u32 = 1 << (32 - CRTC_BITS);

/// The CRTC's object id.
pub fn crtc_of(output: OutputId) -> u32 {
    output & ((1 << CRTC_BITS) - 1)
}

/// The slot of the output's device.
pub fn slot_of(output: OutputId) -> u32 {
    output >> CRTC_BITS
}

/// What looking at the connectors has changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Outputs that are driven now.
    pub added: Vec<OutputId>,
    /// Outputs that are gone.
    pub removed: Vec<OutputId>,
    /// Outputs that have another mode.
    pub resized: Vec<OutputId>,
}

impl Changes {
    /// Adds what has changed elsewhere.
    pub fn extend(&mut self, other: Self) {
        self.added.extend(other.added);
        self.removed.extend(other.removed);
        self.resized.extend(other.resized);
    }
}

/// A display device that is driven.
#[derive(Debug)]
pub struct DisplayDevice {
    /// Tells it from the others while it is there; the first one has 0.
    pub(super) slot: u32,
    pub(super) device: Device,
    /// The same, to be given back to the session; none of a model.
    pub(super) card: Option<Rc<Card>>,
    pub(super) node: PathBuf,
    driver: String,
    /// `st_rdev` of the node.
    pub(super) id: u64,
    /// Writeback connectors are attached.
    writeback: bool,
    pub(super) outputs: Vec<KmsOutput>,
    /// Connected displays for which there is no CRTC, as far as that was told.
    unlit: HashSet<connector::Handle>,
    /// Events as they are read; kept for its memory.
    events: Vec<FlipEvent>,
    /// What planes wait for.
    pub(super) fence: InFence,
    /// What planes list and do not take, as far as it was tried.
    forbidden: HashSet<(NonZeroU32, (DrmFourcc, DrmModifier))>,
    /// Client buffers and their framebuffers.
    pub(super) buffers: Buffers,
}

impl DisplayDevice {
    /// What drives no output yet.
    pub(super) fn new(slot: u32, device: Device, node: &Path, id: u64, buffers: Buffers) -> Self {
        Self {
            slot,
            driver: device.driver(),
            device,
            card: None,
            node: node.to_path_buf(),
            id,
            writeback: false,
            outputs: Vec::new(),
            unlit: HashSet::new(),
            events: Vec::new(),
            fence: InFence::new(&buffers),
            forbidden: HashSet::new(),
            buffers,
        }
    }

    /// The same of a card of the session.
    pub(super) fn of_card(
        slot: u32,
        card: Rc<Card>,
        node: &Path,
        id: u64,
        buffers: Buffers,
        writeback: bool,
    ) -> Self {
        let device: Device = card.clone();
        Self { card: Some(card), writeback, ..Self::new(slot, device, node, id, buffers) }
    }

    /// Lets go of everything, and returns the card for the session. Framebuffers that frames still hold go with these.
    pub(super) fn into_card(self) -> Option<Rc<Card>> {
        self.card
    }

    /// See [`crate::backend::Backend::maps_in_commit`]. Not so where the planes would wait for what clients draw into the
    /// buffers that they hold.
    pub(super) fn maps_in_commit(&self) -> bool {
        matches!(self.fence, InFence::Signalled(_)) && quirks::maps_in_commit(&self.driver)
    }

    /// The kernel driver's name.
    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    pub(super) fn id_of(&self, crtc: crtc::Handle) -> OutputId {
        self.slot << CRTC_BITS | u32::from(crtc)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = OutputId> + '_ {
        self.outputs.iter().map(|o| self.id_of(o.pipe.crtc))
    }

    pub(super) fn output(&self, id: OutputId) -> Option<&KmsOutput> {
        self.outputs.iter().find(|o| self.id_of(o.pipe.crtc) == id)
    }

    fn index(&self, id: OutputId) -> Option<usize> {
        self.outputs.iter().position(|o| self.id_of(o.pipe.crtc) == id)
    }

    /// Leaves nothing of ours on the screen, where the next master could read it: while `active` by turning the outputs
    /// off, otherwise by removing the framebuffers that they show or are about to show.
    pub(super) fn leave(&mut self, active: bool) {
        if active {
            match turn_everything_off(&*self.device) {
                Ok(()) => return,
                Err(err) => tracing::warn!(%err, "outputs not turned off"),
            }
        }
        for output in &mut self.outputs {
            if let Err(err) = output.shown.turn_off() {
                tracing::warn!(%err, output = output.name, "framebuffers not removed");
            }
        }
    }

    /// Looks at the connectors again: keeps what is driven and still connected, drops the rest, adds the new. What is
    /// connected and has no longer the mode that it is driven with gets another.
    ///
    /// # Errors
    /// When the device does not answer.
    pub(super) fn scan(&mut self, active: bool) -> Result<Changes, CardError> {
        let resources = self.device.resources().map_err(CardError::io("reading resources"))?;
        let connected = self.connected(&resources);
        let still = |o: &KmsOutput| connected.iter().any(|info| info.handle == o.pipe.connector);
        let mut changes = Changes::default();
        for output in self.outputs.iter().filter(|o| !still(o)) {
            tracing::info!(output = output.name, "output gone");
            changes.removed.push(self.id_of(output.pipe.crtc));
            output.disable(&*self.device, active);
        }
        self.outputs.retain(still);
        let slot = self.slot;
        for output in &mut self.outputs {
            let info = connected.iter().find(|info| info.handle == output.pipe.connector);
            if info.is_some_and(|info| output.follow(&*self.device, info)) {
                changes.resized.push(slot << CRTC_BITS | u32::from(output.pipe.crtc));
            }
        }
        let found = self.place(&resources, connected);
        let mut shares = self.share_planes(&resources.crtcs, &found)?.into_iter();
        for (output, planes) in self.outputs.iter_mut().zip(&mut shares) {
            output.set_planes(planes);
        }
        for ((info, crtc), planes) in found.into_iter().zip(shares) {
            let mut output = KmsOutput::new(&*self.device, &info, crtc, planes)?;
            if self.writeback {
                output.pipe.writeback = Some(Writeback::find(&*self.device, crtc)?);
            }
            tracing::info!(output = output.name, mode = ?output.mode.size(), "output found");
            changes.added.push(self.id_of(crtc));
            self.outputs.push(output);
        }
        Ok(changes)
    }

    /// The connectors with a display.
    fn connected(&self, resources: &Resources) -> Vec<ConnectorInfo> {
        let all = resources.connectors.iter().filter_map(|handle| self.device.connector(*handle, true).ok());
        let lit = |info: &ConnectorInfo| {
            info.connected && info.interface != connector::Interface::Writeback && !info.modes.is_empty()
        };
        all.filter(lit).collect()
    }

    /// Finds CRTCs for the displays that are not driven yet. One that gets none is told of, once.
    fn place(
        &mut self,
        resources: &Resources,
        connected: Vec<ConnectorInfo>,
    ) -> Vec<(ConnectorInfo, crtc::Handle)> {
        let mut found: Vec<(ConnectorInfo, crtc::Handle)> = Vec::new();
        let mut unlit = HashSet::new();
        for info in connected {
            if self.outputs.iter().any(|o| o.pipe.connector == info.handle) {
                continue;
            }
            let driven = self.outputs.iter().map(|o| o.pipe.crtc);
            let used: HashSet<crtc::Handle> = driven.chain(found.iter().map(|(_, crtc)| *crtc)).collect();
            let nameable = |crtc: &crtc::Handle| u32::from(*crtc) < 1 << CRTC_BITS;
            let crtc = resources.crtcs_of(info.crtcs).filter(nameable).find(|c| !used.contains(c));
            let Some(crtc) = crtc else {
                unlit.insert(info.handle);
                if !self.unlit.contains(&info.handle) {
                    tracing::warn!(output = info.name(), "no free crtc for a connector");
                }
                continue;
            };
            found.push((info, crtc));
        }
        self.unlit = unlit;
        found
    }

    /// The displays that are connected and not driven, for want of a CRTC.
    pub(super) fn unlit(&self) -> impl Iterator<Item = String> + '_ {
        self.unlit.iter().filter_map(|handle| Some(self.device.connector(*handle, false).ok()?.name()))
    }

    /// The modes of an output's display.
    pub(super) fn modes(&self, id: OutputId) -> Vec<Mode> {
        let connector = self.output(id).map(|output| output.pipe.connector);
        let info = connector.and_then(|connector| self.device.connector(connector, false).ok());
        info.map(|info| info.modes).unwrap_or_default()
    }

    /// Gives each plane to one output: first those that are driven, then those that were found. What an output shows
    /// something on it keeps.
    fn share_planes(
        &self,
        crtcs: &[crtc::Handle],
        found: &[(ConnectorInfo, crtc::Handle)],
    ) -> Result<Vec<Vec<(KmsPlane, PlaneCaps)>>, CardError> {
        let (planes, mut caps): (Vec<_>, Vec<_>) = plane::read_planes(&*self.device)?.into_iter().unzip();
        for caps in &mut caps {
            let id = caps.id;
            for (_, pair) in self.forbidden.iter().filter(|(plane, _)| *plane == id) {
                caps.forbid(*pair);
            }
        }
        let claim = |crtc: crtc::Handle, lit: &[NonZeroU32]| {
            let index = crtcs.iter().zip(0..).find(|(c, _)| **c == crtc).map_or(u32::MAX, |(_, index)| index);
            Claim { crtc: index, overlays: caps.len(), lit: lit.to_vec() }
        };
        let driven = self.outputs.iter().map(|output| claim(output.pipe.crtc, output.lit()));
        let claims: Vec<Claim> = driven.chain(found.iter().map(|(_, crtc)| claim(*crtc, &[]))).collect();
        let mut all: Vec<Option<(KmsPlane, PlaneCaps)>> = Vec::new();
        let shares = share(&caps, &claims);
        all.extend(planes.into_iter().zip(caps).map(Some));
        let take = |shared: Vec<usize>| shared.into_iter().filter_map(|plane| all[plane].take()).collect();
        Ok(shares.into_iter().map(take).collect())
    }

    /// See [`crate::backend::Backend::forbid`]. It holds for the plane on every output, also on those to come.
    pub(super) fn forbid(&mut self, output: OutputId, plane: NonZeroU32, pair: (DrmFourcc, DrmModifier)) {
        self.forbidden.insert((plane, pair));
        let Some(index) = self.index(output) else { return };
        let caps = self.outputs[index].caps.iter_mut().filter(|caps| caps.id == plane);
        caps.for_each(|caps| caps.forbid(pair));
    }

    /// See [`crate::backend::Backend::test`].
    pub(super) fn test(&mut self, id: OutputId, frame: &FrameSpec) -> Result<(), Errno> {
        let index = self.index(id).ok_or(Errno::NODEV)?;
        self.outputs[index].test(&*self.device, frame)
    }

    /// See [`crate::backend::Backend::any_target`].
    pub(super) fn any_target(&mut self, id: OutputId, canvas: Canvas) -> Result<SharedFramebuffer, Errno> {
        let index = self.index(id).ok_or(Errno::NODEV)?;
        self.outputs[index].any_target(&self.buffers, canvas)
    }

    /// See [`crate::backend::Backend::compose`].
    pub(super) fn compose(
        &mut self,
        id: OutputId,
        canvas: Canvas,
        draw: &mut dyn FnMut(&mut Target, usize) -> bool,
    ) -> Result<SharedFramebuffer, SubmitError> {
        let index = self.index(id).ok_or(SubmitError::Failed(Errno::NODEV))?;
        self.outputs[index].compose(&self.buffers, canvas, draw)
    }

    /// See [`crate::backend::Backend::submit`].
    pub(super) fn submit(
        &mut self,
        id: OutputId,
        frame: &FrameSpec,
        before: &FrameSpec,
        vrr: Vrr,
    ) -> Result<(), SubmitError> {
        let index = self.index(id).ok_or(SubmitError::Failed(Errno::NODEV))?;
        let (device, fence) = (&*self.device, &mut self.fence);
        match self.outputs[index].submit(device, frame, before, vrr, fence) {
            // Whoever had the device before may have lit CRTCs and connectors in another combination.
            Err(SubmitError::Failed(_)) if self.outputs[index].pipe.needs_modeset => {
                tracing::info!(
                    output = self.outputs[index].name,
                    "mode refused: turning everything off first"
                );
                turn_everything_off(device).map_err(SubmitError::Failed)?;
                self.outputs.iter_mut().for_each(KmsOutput::turned_off);
                self.outputs[index].submit(device, frame, before, vrr, fence)
            }
            result => result,
        }
    }

    /// Turns an output's CRTC off, and leaves it to the next frame to turn it on.
    ///
    /// # Errors
    /// The commit's errno.
    pub(super) fn turn_off(&mut self, id: OutputId) -> Result<(), Errno> {
        let index = self.index(id).ok_or(Errno::NODEV)?;
        self.outputs[index].turn_off(&*self.device)
    }

    /// Has an output driven with another mode from the next frame on, if the driver takes it in a test.
    ///
    /// # Errors
    /// The errno of the test; the mode is as before then.
    pub(super) fn set_mode(&mut self, id: OutputId, mode: Mode) -> Result<(), Errno> {
        let index = self.index(id).ok_or(Errno::NODEV)?;
        self.outputs[index].try_mode(&*self.device, &self.buffers, mode)
    }

    /// Reads the events that are waiting on the card.
    ///
    /// # Errors
    /// When the device is gone.
    pub(super) fn read_flips(&mut self) -> std::io::Result<SmallVec<[Flip; 4]>> {
        let mut events = std::mem::take(&mut self.events);
        let read = self.device.read_events(&mut events);
        let mut flips = SmallVec::new();
        for event in events.drain(..) {
            let id = self.id_of(event.crtc);
            let Some(index) = self.index(id) else { continue };
            let output = &mut self.outputs[index];
            // A commit that was given up, or that a session change has written off, may still have its event. Times do not
            // tell, see below.
            if event.number <= output.watched.given_up {
                continue;
            }
            if output.shown.flipped() {
                // The first event of a CRTC that is lit may carry the time of the last vertical blank before it was turned
                // off, or none (vkms): that is no time of this frame.
                let told = event.time >= output.watched.lit;
                let time = if told { event.time } else { monotonic() };
                flips.push(Flip { output: id, time, sequence: told.then_some(event.sequence) });
            }
        }
        self.events = events;
        read.map(|()| flips)
    }

    /// Reads back what an output shows.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub(super) fn capture(&mut self, id: OutputId) -> Result<Picture, CaptureError> {
        let index = self.index(id).ok_or(CaptureError::NoOutput)?;
        let output = &self.outputs[index];
        if output.lit().is_empty() {
            return Err(CaptureError::Off);
        }
        let writeback = output.pipe.writeback.as_ref().ok_or(CaptureError::NoWriteback)?;
        let size = output.mode.size();
        let request = output.request_same(self.fence.value());
        writeback.capture(&*self.device, &self.buffers, output.pipe.crtc, size, request)
    }
}
