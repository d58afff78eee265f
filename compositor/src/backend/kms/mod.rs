//! The KMS backend: a card from the session, its outputs, and the PRIME file beside it.
//!
//! ```text
//!  libseat ── card fd (master) ──> atomic commits, events            [device::kernel, output]
//!                    │ empty lease, or a second open
//!                    └─ PRIME file ──> handles, framebuffers         [super::buffers]  used by id in the commits above
//! ```
//!
//! It owns the session and the devices that came from it. When the session is inactive nothing is committed; buffers
//! are still imported, since the PRIME file needs no mastership.

pub mod device;
mod embedded;
mod in_fence;
pub mod output;
pub mod pacing;
mod plane;
pub mod probe;
mod session;
mod watchdog;
pub mod writeback;

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use drm::control::{connector, crtc};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::SharedFramebuffer;
use drm_prime::scanout::{Claim, PlaneCaps, share};
use rustix::io::Errno;
use smallvec::SmallVec;
use smithay::backend::session::Session;
use smithay::backend::session::libseat::LibSeatSession;
use smithay::backend::udev;

pub use self::embedded::buffers_of_model;
pub use self::session::{insert_sources, watch_card};

use self::device::kernel::Card;
use self::device::{CardError, ConnectorInfo, Device, FlipEvent, enable_writeback, turn_everything_off};
use self::in_fence::InFence;
use self::output::KmsOutput;
use self::pacing::{TearingRefusal, Vrr};
use self::plane::KmsPlane;
use self::watchdog::Watchdog;
use self::writeback::{CaptureError, Writeback};
use crate::backend::buffers::Buffers;
use crate::backend::{Canvas, Flip, FrameSpec, OutputId, SubmitError};
use crate::reactor::Timers;
use crate::render::Target;
use crate::render::image::Picture;

/// Major device number of DRM nodes (drm.h).
const DRM_MAJOR: u32 = 226;

/// Why the backend did not start; each text, with its sources, says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// libseat has no seat for us.
    #[error(
        "no seat ({0}): start seatd or log in on a text console (logind); if one of them runs, another session holds \
         the seat on this VT: end it or switch to a free VT; or use --backend headless"
    )]
    NoSeat(String),
    /// Nothing under /dev/dri drives a display of the seat.
    #[error(
        "no display device on {seat}: no /dev/dri/card* has outputs; load a KMS driver, or use --backend headless"
    )]
    NoDevice {
        /// The seat's name.
        seat: String,
    },
    /// A device was there but cannot be used.
    #[error("{}", node.display())]
    Card {
        /// Its node.
        node: PathBuf,
        /// Why.
        source: CardError,
    },
    /// A device that was asked for cannot be used.
    #[error("{}: {reason}; give --device the /dev/dri/card* node of a display, or leave it out", node.display())]
    Asked {
        /// The node.
        node: PathBuf,
        /// Why not this one.
        reason: String,
    },
    /// The session did not hand the device out.
    #[error(
        "{}: the seat does not hand it out ({reason}): start seatd or log in through logind, or use --backend headless",
        node.display()
    )]
    Open {
        /// Its node.
        node: PathBuf,
        /// libseat's error.
        reason: String,
    },
    /// No PRIME file.
    #[error("{}: no file for buffer imports", node.display())]
    Prime {
        /// The card's node.
        node: PathBuf,
        /// Why.
        source: drm_prime::DeviceError,
    },
    /// An event source could not be set up.
    #[error("cannot set up {what}: {reason}")]
    Source {
        /// Which.
        what: &'static str,
        /// Its error.
        reason: String,
    },
}

/// An output as found.
#[derive(Clone, Debug)]
pub struct OutputInfo {
    /// Connector type and number, such as `HDMI-A-1`.
    pub name: String,
    /// Pixels of its mode.
    pub size: (u32, u32),
    /// Millimetres, (0, 0) if unknown.
    pub physical_mm: (u32, u32),
    /// From one vertical blank to the next.
    pub refresh: Duration,
}

/// The backend.
#[derive(Debug)]
pub struct Kms {
    /// None of a device that is not there.
    session: Option<LibSeatSession>,
    device: Device,
    node: PathBuf,
    driver: String,
    device_id: u64,
    active: bool,
    writeback: bool,
    outputs: Vec<KmsOutput>,
    /// Events as they are read; kept for its memory.
    events: Vec<FlipEvent>,
    /// Notices flips that do not complete.
    watchdog: Watchdog,
    vrr: Vrr,
    /// What planes wait for.
    fence: InFence,
    /// What planes list and do not take, as far as it was tried.
    forbidden: HashSet<(NonZeroU32, (DrmFourcc, DrmModifier))>,
    /// Client buffers and their framebuffers.
    pub buffers: Buffers,
}

impl Kms {
    /// Opens `node`, or the first device of the seat that drives a display.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn open(session: LibSeatSession, node: Option<&Path>, writeback: bool) -> Result<Self, StartError> {
        let seat = session.seat();
        if let Some(node) = node {
            let asked = |reason| StartError::Asked { node: node.to_path_buf(), reason };
            return Self::start(session, node.to_path_buf(), writeback).map_err(|err| match err {
                StartError::Card { source: source @ CardError::NoOutputs, .. } => asked(source.to_string()),
                StartError::Open { reason, .. } if !node_exists(node) => asked(reason),
                err => err,
            });
        }
        let mut candidates = udev::all_gpus(&seat).unwrap_or_default();
        candidates.sort();
        let mut why_not = None;
        for node in candidates {
            match Self::start(session.clone(), node, writeback) {
                Ok(kms) => return Ok(kms),
                Err(err) => {
                    tracing::info!(err = &err as &dyn std::error::Error, "device passed over");
                    // A device without outputs (a render-only GPU, vgem) is no news if another one explains more.
                    let dull = matches!(err, StartError::Card { source: CardError::NoOutputs, .. });
                    if !dull && why_not.is_none() {
                        why_not = Some(err);
                    }
                }
            }
        }
        Err(why_not.unwrap_or(StartError::NoDevice { seat }))
    }

    fn start(mut session: LibSeatSession, node: PathBuf, writeback: bool) -> Result<Self, StartError> {
        open_card(&mut session, &node).and_then(|(card, device_id)| {
            let buffers = Buffers::of_card(&*card, &node)
                .map_err(|source| StartError::Prime { node: node.clone(), source })?;
            let device: Device = card;
            let mut kms = Self::assemble(Some(session), device, node.clone(), device_id, buffers);
            kms.writeback = writeback;
            // Also without --writeback: one that was left attached must be seen to be detached.
            let seen = enable_writeback(&*kms.device);
            let ready = if writeback { seen } else { Ok(()) };
            let scanned = ready.and_then(|()| kms.scan());
            scanned.map_err(|source| StartError::Card { node, source })?;
            Ok(kms)
        })
    }

    /// What drives no output yet.
    fn assemble(
        session: Option<LibSeatSession>,
        device: Device,
        node: PathBuf,
        device_id: u64,
        buffers: Buffers,
    ) -> Self {
        Self {
            session,
            driver: device.driver(),
            device,
            node,
            device_id,
            active: true,
            writeback: false,
            outputs: Vec::new(),
            events: Vec::new(),
            watchdog: Watchdog::default(),
            vrr: Vrr::default(),
            fence: InFence::new(&buffers),
            forbidden: HashSet::new(),
            buffers,
        }
    }

    /// Leaves nothing of ours on the screen, where the next master could read it: while active by turning the outputs
    /// off, otherwise by removing the framebuffers that they show or are about to show.
    pub fn leave(&mut self) {
        if self.active {
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

    /// Looks at the connectors again: keeps what is driven and still connected, drops the rest, adds the new.
    /// Returns the outputs that were added and those that were removed.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn scan(&mut self) -> Result<(Vec<OutputId>, Vec<OutputId>), CardError> {
        let resources = self.device.resources().map_err(CardError::io("reading resources"))?;
        let mut connected = Vec::new();
        for &handle in &resources.connectors {
            let Ok(info) = self.device.connector(handle, true) else { continue };
            let is_display = info.interface != connector::Interface::Writeback;
            if info.connected && is_display && !info.modes.is_empty() {
                connected.push(info);
            }
        }
        let still: HashSet<_> = connected.iter().map(|info| info.handle).collect();
        let removed: Vec<OutputId> = self
            .outputs
            .iter()
            .filter(|o| !still.contains(&o.pipe.connector))
            .map(|o| o.pipe.crtc.into())
            .collect();
        for output in self.outputs.iter().filter(|o| !still.contains(&o.pipe.connector)) {
            tracing::info!(output = output.name, "output gone");
            if self.active {
                output.disable(&*self.device);
            }
        }
        self.outputs.retain(|o| still.contains(&o.pipe.connector));
        let mut found: Vec<(ConnectorInfo, crtc::Handle)> = Vec::new();
        for info in connected {
            if self.outputs.iter().any(|o| o.pipe.connector == info.handle) {
                continue;
            }
            let driven = self.outputs.iter().map(|o| o.pipe.crtc);
            let used: HashSet<crtc::Handle> = driven.chain(found.iter().map(|(_, crtc)| *crtc)).collect();
            let crtc = resources.crtcs_of(info.crtcs).find(|c| !used.contains(c));
            let Some(crtc) = crtc else {
                tracing::warn!(connector = %info.interface.as_str(), "no free crtc for a connector");
                continue;
            };
            found.push((info, crtc));
        }
        let mut shares = self.share_planes(&resources.crtcs, &found)?.into_iter();
        for (output, planes) in self.outputs.iter_mut().zip(&mut shares) {
            output.set_planes(planes);
        }
        let mut added = Vec::new();
        for ((info, crtc), planes) in found.into_iter().zip(shares) {
            let mut output = KmsOutput::new(&*self.device, &info, crtc, planes)?;
            if self.writeback {
                output.pipe.writeback = Some(Writeback::find(&*self.device, crtc)?);
            }
            tracing::info!(output = output.name, mode = ?output.mode.size(), "output found");
            added.push(crtc.into());
            self.outputs.push(output);
        }
        Ok((added, removed))
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
    pub fn forbid(&mut self, output: OutputId, plane: NonZeroU32, pair: (DrmFourcc, DrmModifier)) {
        self.forbidden.insert((plane, pair));
        let caps = self.output_mut(output).into_iter().flat_map(|o| &mut o.caps);
        caps.filter(|caps| caps.id == plane).for_each(|caps| caps.forbid(pair));
    }

    /// Ids of the outputs that are driven.
    pub fn output_ids(&self) -> impl Iterator<Item = OutputId> + '_ {
        self.outputs.iter().map(|o| o.pipe.crtc.into())
    }

    /// What the Wayland side of an output needs to know.
    pub fn describe(&self, id: OutputId) -> Option<OutputInfo> {
        let output = self.output(id)?;
        Some(OutputInfo {
            name: output.name.clone(),
            size: output.mode.size(),
            physical_mm: output.physical_mm,
            refresh: output.refresh_interval(),
        })
    }

    /// The planes of all outputs.
    pub(super) fn every_plane(&self) -> impl Iterator<Item = &PlaneCaps> {
        self.outputs.iter().flat_map(|o| &o.caps)
    }

    fn output(&self, id: OutputId) -> Option<&KmsOutput> {
        self.outputs.iter().find(|o| u32::from(o.pipe.crtc) == id)
    }

    fn output_mut(&mut self, id: OutputId) -> Option<&mut KmsOutput> {
        self.outputs.iter_mut().find(|o| u32::from(o.pipe.crtc) == id)
    }

    /// See [`crate::backend::Backend::planes`].
    pub fn planes(&self, output: OutputId) -> &[PlaneCaps] {
        self.output(output).map_or(&[], |o| &o.caps)
    }

    /// Commits of an output since the start.
    pub fn commits(&self, output: OutputId) -> u64 {
        self.output(output).map_or(0, |o| o.commits)
    }

    /// The device's node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Has flips that do not complete noticed, and displays refreshed as `vrr` says.
    pub fn set_pacing(&mut self, timers: Timers, vrr: Vrr) {
        (self.watchdog, self.vrr) = (Watchdog::new(timers), vrr);
    }

    /// Tells whether the next commit of an output sets its mode.
    pub fn sets_mode(&self, output: OutputId) -> bool {
        self.output(output).is_some_and(|o| o.pipe.needs_modeset)
    }

    /// Tells whether a plane gains from being told what has changed.
    pub fn takes_damage(&self, output: OutputId, plane: NonZeroU32) -> bool {
        self.output(output).is_some_and(|o| o.takes_damage(plane))
    }

    /// How an output's last frame was shown, if its client wanted it at once: so, or why not.
    pub fn tearing(&self, output: OutputId) -> Option<Result<(), TearingRefusal>> {
        self.output(output)?.tearing.last
    }

    /// Tells whether an output's refresh rate varies now; `None` if its display cannot.
    pub fn vrr(&self, output: OutputId) -> Option<bool> {
        self.output(output)?.vrr()
    }

    /// The kernel driver's name.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The device's number (`st_rdev` of the node).
    pub fn device_id(&self) -> u64 {
        self.device_id
    }

    /// Tells whether the session is active.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// The session went away: nothing is committed until it returns.
    pub fn pause(&mut self) {
        self.active = false;
    }

    /// The session is back: whoever was master meanwhile may have left anything, so every output is set anew.
    pub fn resume(&mut self) {
        self.active = true;
        for output in &mut self.outputs {
            output.pipe.needs_modeset = true;
        }
    }

    /// Switches to another virtual terminal.
    pub fn change_vt(&mut self, vt: i32) {
        if let Some(Err(err)) = self.session.as_mut().map(|session| session.change_vt(vt)) {
            tracing::warn!(%err, vt, "cannot switch the virtual terminal");
        }
    }

    /// See [`crate::backend::Backend::test`].
    ///
    /// # Errors
    /// The commit's errno.
    pub fn test(&mut self, output: OutputId, frame: &FrameSpec) -> Result<(), Errno> {
        let output = self.outputs.iter_mut().find(|o| u32::from(o.pipe.crtc) == output);
        output.ok_or(Errno::NODEV)?.test(&*self.device, frame)
    }

    /// See [`crate::backend::Backend::any_target`].
    ///
    /// # Errors
    /// When there is no memory.
    pub fn any_target(&mut self, id: OutputId, canvas: Canvas) -> Result<SharedFramebuffer, Errno> {
        let output = self.outputs.iter_mut().find(|o| u32::from(o.pipe.crtc) == id);
        output.ok_or(Errno::NODEV)?.any_target(&self.buffers, canvas)
    }

    /// See [`crate::backend::Backend::compose`].
    ///
    /// # Errors
    /// Busy, or out of memory.
    pub fn compose(
        &mut self,
        id: OutputId,
        canvas: Canvas,
        draw: &mut dyn FnMut(&mut Target, usize) -> bool,
    ) -> Result<SharedFramebuffer, SubmitError> {
        let output = self.outputs.iter_mut().find(|o| u32::from(o.pipe.crtc) == id);
        let output = output.ok_or(SubmitError::Failed(Errno::NODEV))?;
        output.compose(&self.buffers, canvas, draw)
    }

    /// See [`crate::backend::Backend::submit`].
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn submit(&mut self, id: OutputId, frame: &FrameSpec, before: &FrameSpec) -> Result<(), SubmitError> {
        if !self.active {
            return Err(SubmitError::Inactive);
        }
        let (device, vrr, fence) = (&*self.device, self.vrr, &mut self.fence);
        let index = self.outputs.iter().position(|output| u32::from(output.pipe.crtc) == id);
        let index = index.ok_or(SubmitError::Failed(Errno::NODEV))?;
        let sent = match self.outputs[index].submit(device, frame, before, vrr, fence) {
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
        };
        if sent.is_ok() {
            self.watchdog.wake();
        }
        sent
    }

    /// Reads the events that are waiting on the card.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn read_flips(&mut self) -> std::io::Result<SmallVec<[Flip; 4]>> {
        let mut events = std::mem::take(&mut self.events);
        let read = self.device.read_events(&mut events);
        let mut flips = SmallVec::new();
        for event in events.drain(..) {
            let id = u32::from(event.crtc);
            let Some(output) = self.output_mut(id) else { continue };
            // An older event is that of a commit that a session change has already written off, or that was given up.
            // The first one of a CRTC that is lit may have no time yet (vkms gives 0), and counts.
            if !event.time.is_zero() && event.time < output.watched.ignore_until {
                continue;
            }
            if output.shown.flipped() {
                flips.push(Flip { output: id, time: event.time, sequence: event.sequence });
            }
        }
        self.events = events;
        read.map(|()| flips)
    }

    /// Reads back what an output shows (the first one, without a name).
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn capture(&mut self, name: Option<&str>) -> Result<Picture, CaptureError> {
        if !self.active {
            return Err(CaptureError::Inactive);
        }
        let output = self.outputs.iter().find(|o| name.is_none_or(|n| n == o.name));
        let output = output.ok_or(CaptureError::NoOutput)?;
        let writeback = output.pipe.writeback.as_ref().ok_or(CaptureError::NoWriteback)?;
        let size = output.mode.size();
        let request = output.request_same(self.fence.value());
        writeback.capture(&*self.device, &self.buffers, output.pipe.crtc, size, request)
    }
}

/// What the planes of a device can do.
///
/// # Errors
/// When a plane lacks the properties of atomic commits.
pub fn planes_of(device: &dyn device::KmsDevice) -> Result<Vec<PlaneCaps>, CardError> {
    Ok(plane::read_planes(device)?.into_iter().map(|(_, caps)| caps).collect())
}

/// Tells whether a path names a DRM node at all.
fn node_exists(node: &Path) -> bool {
    rustix::fs::stat(node).is_ok_and(|stat| rustix::fs::major(stat.st_rdev) == DRM_MAJOR)
}

fn open_card(session: &mut LibSeatSession, node: &Path) -> Result<(Rc<Card>, u64), StartError> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    let open = |reason: String| StartError::Open { node: node.to_path_buf(), reason };
    let fd = session.open(node, flags).map_err(|err| open(err.to_string()))?;
    let stat = rustix::fs::fstat(&fd).map_err(|err| open(err.to_string()))?;
    match Card::open(fd) {
        Ok(card) => Ok((card, stat.st_rdev)),
        Err((fd, source)) => {
            if let Err(err) = session.close(fd) {
                tracing::debug!(%err, node = %node.display(), "device not given back");
            }
            Err(StartError::Card { node: node.to_path_buf(), source })
        }
    }
}
