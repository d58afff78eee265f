//! The KMS backend: the cards of the session with their outputs, and a PRIME file beside each.
//!
//! ```text
//!  libseat ──┬─ card fd (master) ──> atomic commits, events          [device::kernel, output]     one [display] device
//!            │        │ empty lease, or a second open
//!            │        └─ PRIME file ──> handles, framebuffers        [super::buffers]  used by id in the commits above
//!            └─ the next card, and its PRIME file: a client's buffer is imported there too, when it is to be shown there
//! ```
//!
//! It owns the session and the devices that came from it, which may come and go. Clients' buffers are taken in by the first
//! device; on the others they are imported at first use, and where the kernel does not, that is the planes' refusal and the
//! picture is composited. Without any device an embedded one takes them in, until one comes. When the session is inactive
//! nothing is committed; buffers are still imported, since the PRIME file needs no mastership.

pub mod device;
pub mod display;
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

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::SharedFramebuffer;
use drm_prime::scanout::PlaneCaps;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use smallvec::SmallVec;
use smithay::backend::session::Session;
use smithay::backend::session::libseat::LibSeatSession;
use smithay::backend::udev;

use self::embedded::buffers_of_nothing;
pub use self::embedded::{buffers_of_model, buffers_of_model_on};
pub use self::session::insert_sources;

use self::device::kernel::Card;
use self::device::{CardError, Mode, enable_writeback};
pub use self::display::{Changes, crtc_of, slot_of};
use self::display::{DisplayDevice, SLOTS};
use self::output::KmsOutput;
use self::pacing::{TearingRefusal, Vrr};
use self::watchdog::Watchdog;
use self::writeback::CaptureError;
use crate::backend::buffers::Buffers;
use crate::backend::{Canvas, Flip, FrameSpec, OutputId, SubmitError};
use crate::reactor::{Source, Timers, Watch};
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
    /// In the order in which they came.
    devices: Vec<DisplayDevice>,
    /// Takes clients' buffers in while there is no device.
    nowhere: Buffers,
    /// The one device that was asked for.
    asked: Option<PathBuf>,
    /// Devices that were looked at and are not driven, by number.
    passed_over: HashSet<u64>,
    active: bool,
    writeback: bool,
    /// Hears of flips, once there is an event loop.
    watch: Option<Watch>,
    /// Notices flips that do not complete.
    watchdog: Watchdog,
    vrr: Vrr,
}

impl Kms {
    /// The session that the devices are from, if there is one.
    pub fn session(&self) -> Option<&LibSeatSession> {
        self.session.as_ref()
    }

    /// Opens `node`, or the devices of the seat that drive displays.
    ///
    /// # Errors
    /// See [`StartError`]; without `node`, when there is none at all.
    pub fn open(session: LibSeatSession, node: Option<&Path>, writeback: bool) -> Result<Self, StartError> {
        let seat = session.seat();
        let mut kms = Self::without_device(Some(session), writeback)?;
        if let Some(node) = node {
            let asked = |reason| StartError::Asked { node: node.to_path_buf(), reason };
            kms.asked = Some(node.to_path_buf());
            return match kms.start(node) {
                Ok(_) => Ok(kms),
                Err(StartError::Card { source: source @ CardError::NoOutputs, .. }) => {
                    Err(asked(source.to_string()))
                }
                Err(StartError::Open { reason, .. }) if !node_exists(node) => Err(asked(reason)),
                Err(err) => Err(err),
            };
        }
        let (_, why_not) = kms.take_in_new();
        if kms.devices.is_empty() {
            return Err(why_not.unwrap_or(StartError::NoDevice { seat }));
        }
        Ok(kms)
    }

    fn without_device(session: Option<LibSeatSession>, writeback: bool) -> Result<Self, StartError> {
        let nowhere = buffers_of_nothing();
        Ok(Self {
            session,
            devices: Vec::new(),
            nowhere: nowhere
                .map_err(|err| StartError::Source { what: "a device in memory", reason: err.to_string() })?,
            asked: None,
            passed_over: HashSet::new(),
            active: true,
            writeback,
            watch: None,
            watchdog: Watchdog::default(),
            vrr: Vrr::default(),
        })
    }

    /// The nodes of the devices that may be driven, with their numbers.
    fn candidates(&self) -> Vec<(PathBuf, u64)> {
        let nodes = match (&self.asked, &self.session) {
            (Some(node), _) => vec![node.clone()],
            (None, Some(session)) => udev::all_gpus(session.seat()).unwrap_or_default(),
            (None, None) => Vec::new(),
        };
        let mut all: Vec<_> = nodes
            .into_iter()
            .filter_map(|node| Some((device_of(&node)?, node)))
            .map(|(id, node)| (node, id))
            .collect();
        all.sort();
        all
    }

    /// Drives the devices that are there and are not driven yet. Also says what was in the way of one that has outputs.
    pub(crate) fn take_in_new(&mut self) -> (Changes, Option<StartError>) {
        let (mut changes, mut why_not) = (Changes::default(), None);
        for (node, id) in self.candidates() {
            if self.devices.iter().any(|device| device.id == id) || self.passed_over.contains(&id) {
                continue;
            }
            match self.start(&node) {
                Ok(found) => changes.extend(found),
                Err(err) => {
                    tracing::info!(err = &err as &dyn std::error::Error, "device passed over");
                    self.passed_over.insert(id);
                    // A device without outputs (a render-only GPU, vgem) is no news if another one explains more.
                    let dull = matches!(err, StartError::Card { source: CardError::NoOutputs, .. });
                    if !dull && why_not.is_none() {
                        why_not = Some(err);
                    }
                }
            }
        }
        (changes, why_not)
    }

    /// Lets go of the devices that are gone; returns their outputs.
    pub(crate) fn drop_gone(&mut self) -> Changes {
        let there: Vec<u64> = self.candidates().into_iter().map(|(_, id)| id).collect();
        self.passed_over.retain(|id| there.contains(id));
        let is_there = |device: &DisplayDevice| self.session.is_none() || there.contains(&device.id);
        let gone: Vec<u32> = self.devices.iter().filter(|d| !is_there(d)).map(|d| d.slot).collect();
        let mut changes = Changes::default();
        gone.into_iter().for_each(|slot| changes.extend(self.drop_device(slot)));
        changes
    }

    /// Lets go of a device; returns its outputs. Nothing is committed: it may be gone.
    pub fn drop_device(&mut self, slot: u32) -> Changes {
        let mut changes = Changes::default();
        let Some(index) = self.devices.iter().position(|device| device.slot == slot) else { return changes };
        let device = self.devices.remove(index);
        tracing::info!(node = %device.node.display(), "display device gone");
        if self.devices.is_empty() {
            // Clients may go on bringing buffers.
            self.nowhere.look_at_exporters();
        }
        changes.removed.extend(device.ids());
        if let Some(watch) = &self.watch {
            watch.remove(device.device.event_fd(), Source::Card(device.slot));
        }
        let card = device.into_card().map(Rc::try_unwrap);
        if let (Some(Ok(card)), Some(session)) = (card, &mut self.session)
            && let Err(err) = session.close(card.into_fd())
        {
            tracing::debug!(%err, "device not given back");
        }
        changes
    }

    fn start(&mut self, node: &Path) -> Result<Changes, StartError> {
        let full =
            || StartError::Open { node: node.to_path_buf(), reason: "there are too many devices".to_owned() };
        let slot = self.free_slot().ok_or_else(full)?;
        let Some(session) = &mut self.session else { return Ok(Changes::default()) };
        let (card, id) = open_card(session, node)?;
        let buffers = match Buffers::of_card(&*card, node) {
            Ok(buffers) => buffers,
            Err(source) => {
                give_back(session, card, node);
                return Err(StartError::Prime { node: node.to_path_buf(), source });
            }
        };
        let mut device = DisplayDevice::of_card(slot, card, node, id, buffers, self.writeback);
        // Also without --writeback: one that was left attached must be seen to be detached.
        let seen = enable_writeback(&*device.device);
        let ready = if self.writeback { seen } else { Ok(()) };
        match ready.and_then(|()| device.scan(self.active)) {
            Ok(changes) => {
                let watched = self.add(device);
                watched.map_err(|err| StartError::Source { what: "the card", reason: err.to_string() })?;
                Ok(changes)
            }
            Err(source) => {
                if let (Some(card), Some(session)) = (device.into_card(), &mut self.session) {
                    give_back(session, card, node);
                }
                Err(StartError::Card { node: node.to_path_buf(), source })
            }
        }
    }

    fn free_slot(&self) -> Option<u32> {
        (0..SLOTS).find(|slot| self.devices.iter().all(|device| device.slot != *slot))
    }

    /// Drives one more device, whose outputs have been looked at.
    fn add(&mut self, device: DisplayDevice) -> std::io::Result<()> {
        if let Some(watch) = &self.watch {
            watch.add(device.device.event_fd(), Source::Card(device.slot), EventFlags::IN)?;
        }
        self.devices.push(device);
        // What was taken in without a device is imported by this one at first use.
        if let Ok(unused) = buffers_of_nothing() {
            self.nowhere = unused;
        }
        Ok(())
    }

    /// Has an event loop hear of the flips of all devices, also those to come.
    ///
    /// # Errors
    /// When a descriptor cannot be watched.
    pub fn watch_cards(&mut self, watch: &Watch) -> Result<(), StartError> {
        for device in &self.devices {
            watch
                .add(device.device.event_fd(), Source::Card(device.slot), EventFlags::IN)
                .map_err(|err| StartError::Source { what: "the card", reason: err.to_string() })?;
        }
        self.watch = Some(watch.clone());
        Ok(())
    }

    /// Leaves nothing of ours on the screens, where the next master could read it: while active by turning the outputs off,
    /// otherwise by removing the framebuffers that they show or are about to show.
    pub fn leave(&mut self) {
        let active = self.active;
        self.devices.iter_mut().for_each(|device| device.leave(active));
    }

    /// Looks at the connectors of a device again, of all without a number.
    ///
    /// # Errors
    /// When a device does not answer.
    pub fn scan(&mut self, device: Option<u64>) -> Result<Changes, CardError> {
        let (mut changes, active) = (Changes::default(), self.active);
        for one in self.devices.iter_mut().filter(|one| device.is_none_or(|id| id == one.id)) {
            changes.extend(one.scan(active)?);
        }
        Ok(changes)
    }

    fn device(&self, output: OutputId) -> Option<&DisplayDevice> {
        self.devices.iter().find(|device| device.slot == slot_of(output))
    }

    fn device_mut(&mut self, output: OutputId) -> Option<&mut DisplayDevice> {
        self.devices.iter_mut().find(|device| device.slot == slot_of(output))
    }

    fn output(&self, id: OutputId) -> Option<&KmsOutput> {
        self.device(id)?.output(id)
    }

    /// The buffers of the first device, or those of nobody's.
    pub fn buffers(&self) -> &Buffers {
        self.devices.first().map_or(&self.nowhere, |device| &device.buffers)
    }

    /// See [`Kms::buffers`].
    pub fn buffers_mut(&mut self) -> &mut Buffers {
        self.devices.first_mut().map_or(&mut self.nowhere, |device| &mut device.buffers)
    }

    /// The buffers of an output's device.
    pub fn buffers_of(&self, output: OutputId) -> Option<&Buffers> {
        Some(&self.device(output)?.buffers)
    }

    /// See [`Kms::buffers_of`].
    pub fn buffers_of_mut(&mut self, output: OutputId) -> Option<&mut Buffers> {
        Some(&mut self.device_mut(output)?.buffers)
    }

    /// Live GEM handles, and framebuffers of clients' buffers, of all devices.
    pub fn resources(&self) -> (usize, usize) {
        let all = self.devices.iter().map(|device| &device.buffers).chain([&self.nowhere]);
        all.map(Buffers::resources).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// The buffers of every device.
    pub fn all_buffers(&mut self) -> impl Iterator<Item = &mut Buffers> {
        self.devices.iter_mut().map(|device| &mut device.buffers).chain([&mut self.nowhere])
    }

    /// See [`crate::backend::Backend::forbid`].
    pub fn forbid(&mut self, output: OutputId, plane: NonZeroU32, pair: (DrmFourcc, DrmModifier)) {
        if let Some(device) = self.device_mut(output) {
            device.forbid(output, plane, pair);
        }
    }

    /// Ids of the outputs that are driven.
    pub fn output_ids(&self) -> impl Iterator<Item = OutputId> + '_ {
        self.devices.iter().flat_map(DisplayDevice::ids)
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

    /// The modes of an output's display.
    pub fn modes(&self, id: OutputId) -> Vec<Mode> {
        self.device(id).map(|device| device.modes(id)).unwrap_or_default()
    }

    /// The mode that an output is driven with.
    pub fn mode(&self, id: OutputId) -> Option<Mode> {
        Some(self.output(id)?.mode)
    }

    /// Displays that are connected and not driven, since all CRTCs that could are in use.
    pub fn unlit(&self) -> Vec<String> {
        self.devices.iter().flat_map(DisplayDevice::unlit).collect()
    }

    /// Has an output driven with another mode from the next frame on.
    ///
    /// # Errors
    /// The errno with which the driver refuses it; nothing has changed then.
    pub fn set_mode(&mut self, id: OutputId, mode: Mode) -> Result<(), Errno> {
        self.device_mut(id).ok_or(Errno::NODEV)?.set_mode(id, mode)
    }

    /// Turns an output's CRTC off; the next frame turns it on.
    ///
    /// # Errors
    /// The commit's errno.
    pub fn turn_off(&mut self, id: OutputId) -> Result<(), Errno> {
        self.device_mut(id).ok_or(Errno::NODEV)?.turn_off(id)
    }

    /// The planes of all outputs.
    pub(super) fn every_plane(&self) -> impl Iterator<Item = &PlaneCaps> {
        self.devices.iter().flat_map(|device| &device.outputs).flat_map(|o| &o.caps)
    }

    /// See [`crate::backend::Backend::planes`].
    pub fn planes(&self, output: OutputId) -> &[PlaneCaps] {
        self.output(output).map_or(&[], |o| &o.caps)
    }

    /// Commits of an output since the start.
    pub fn commits(&self, output: OutputId) -> u64 {
        self.output(output).map_or(0, |o| o.commits)
    }

    /// The first device's node.
    pub fn node(&self) -> Option<&Path> {
        Some(&self.devices.first()?.node)
    }

    /// The node of an output's device.
    pub fn node_of(&self, output: OutputId) -> Option<&Path> {
        Some(&self.device(output)?.node)
    }

    /// Has flips that do not complete noticed, and displays refreshed as `vrr` says.
    pub fn set_pacing(&mut self, timers: Timers, vrr: Vrr) {
        (self.watchdog, self.vrr) = (Watchdog::new(timers), vrr);
    }

    /// Tells whether the next commit of an output sets its mode.
    pub fn sets_mode(&self, output: OutputId) -> bool {
        self.output(output).is_some_and(|o| o.pipe.needs_modeset)
    }

    /// Tells whether an output shows any colour where no plane is.
    pub fn shows_backdrop(&self, output: OutputId) -> bool {
        self.output(output).is_some_and(KmsOutput::shows_backdrop)
    }

    /// See [`crate::backend::Backend::maps_in_commit`].
    pub fn maps_in_commit(&self, output: OutputId) -> bool {
        self.device(output).is_some_and(DisplayDevice::maps_in_commit)
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

    /// The first device's kernel driver; empty without one.
    pub fn driver(&self) -> &str {
        self.devices.first().map_or("", DisplayDevice::driver)
    }

    /// The devices' numbers (`st_rdev` of their nodes).
    pub fn device_ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.devices.iter().map(|device| device.id)
    }

    /// The number of an output's device.
    pub fn device_of(&self, output: OutputId) -> Option<u64> {
        Some(self.device(output)?.id)
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
        for output in self.devices.iter_mut().flat_map(|device| &mut device.outputs) {
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
        self.device_mut(output).ok_or(Errno::NODEV)?.test(output, frame)
    }

    /// See [`crate::backend::Backend::any_target`].
    ///
    /// # Errors
    /// When there is no memory.
    pub fn any_target(&mut self, id: OutputId, canvas: Canvas) -> Result<SharedFramebuffer, Errno> {
        self.device_mut(id).ok_or(Errno::NODEV)?.any_target(id, canvas)
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
        let device = self.device_mut(id).ok_or(SubmitError::Failed(Errno::NODEV))?;
        device.compose(id, canvas, draw)
    }

    /// See [`crate::backend::Backend::submit`].
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn submit(&mut self, id: OutputId, frame: &FrameSpec, before: &FrameSpec) -> Result<(), SubmitError> {
        if !self.active {
            return Err(SubmitError::Inactive);
        }
        let vrr = self.vrr;
        let device = self.device_mut(id).ok_or(SubmitError::Failed(Errno::NODEV))?;
        let sent = device.submit(id, frame, before, vrr);
        if sent.is_ok() {
            self.watchdog.wake();
        }
        sent
    }

    /// Reads the events that are waiting on a card.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn read_flips(&mut self, slot: u32) -> std::io::Result<SmallVec<[Flip; 4]>> {
        let device = self.devices.iter_mut().find(|device| device.slot == slot);
        device.map_or_else(|| Ok(SmallVec::new()), DisplayDevice::read_flips)
    }

    /// The slots of the devices, for [`Kms::read_flips`] and [`Kms::drop_device`].
    pub fn slots(&self) -> SmallVec<[u32; 4]> {
        self.devices.iter().map(|device| device.slot).collect()
    }

    /// Reads back what an output shows (the first one, without a name).
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn capture(&mut self, name: Option<&str>) -> Result<Picture, CaptureError> {
        if !self.active {
            return Err(CaptureError::Inactive);
        }
        let named = |id: &OutputId| name.is_none_or(|n| self.output(*id).is_some_and(|o| o.name == n));
        let id = self.output_ids().find(named).ok_or(CaptureError::NoOutput)?;
        self.device_mut(id).ok_or(CaptureError::NoOutput)?.capture(id)
    }
}

/// What the planes of a device can do.
///
/// # Errors
/// When a plane lacks the properties of atomic commits.
pub fn planes_of(device: &dyn device::KmsDevice) -> Result<Vec<PlaneCaps>, CardError> {
    Ok(plane::read_planes(device)?.into_iter().map(|(_, caps)| caps).collect())
}

/// The number of a DRM node; none of something else.
fn device_of(node: &Path) -> Option<u64> {
    let number = rustix::fs::stat(node).ok()?.st_rdev;
    (rustix::fs::major(number) == DRM_MAJOR).then_some(number)
}

/// Tells whether a path names a DRM node at all.
fn node_exists(node: &Path) -> bool {
    device_of(node).is_some()
}

/// Gives a card that is not driven back to the session.
fn give_back(session: &mut LibSeatSession, card: Rc<Card>, node: &Path) {
    if let Ok(card) = Rc::try_unwrap(card)
        && let Err(err) = session.close(card.into_fd())
    {
        tracing::debug!(%err, node = %node.display(), "device not given back");
    }
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
