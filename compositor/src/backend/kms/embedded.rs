//! The backend on a device that is not there: a model of its display beside drm-prime's model of its memory.
//!
//! ```text
//!  capability file ──> Model ── commits, flips
//!                        │ what is framebuffer 7?
//!  drm-prime's model ── display file, PRIME file ──> handles, framebuffers      [super::buffers]
//! ```

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use drm_prime::model::{Driver, File, Machine, Node, Profile};
use rustix::io::Errno;

use super::Kms;
use super::device::model::{FramebufferFacts, Model};
use super::device::{CardError, Device, KmsDevice as _, check, enable_writeback};
use super::display::{Changes, DisplayDevice};
use super::in_fence::InFence;
use crate::backend::buffers::Buffers;

/// Widest and highest framebuffer in pixels, as in Pixman's images.
const LARGEST: u32 = 32767;

/// The memory of a model's display: buffers in memfds, whose framebuffers the model knows from now on.
///
/// # Errors
/// When the embedded device does not open.
pub fn buffers_of_model(model: &Model) -> Result<Buffers, CardError> {
    buffers_of_model_on(model, driver(model.driver()))
}

/// The same where the memory's driver is another, such as one that imports nothing.
///
/// # Errors
/// When the embedded device does not open.
pub fn buffers_of_model_on(model: &Model, driver: Driver) -> Result<Buffers, CardError> {
    let [display, file] = open(driver)?;
    model.set_framebuffers(move |id| facts(&display, id));
    Ok(Buffers::new(Arc::new(file), "embedded"))
}

/// Takes in what clients bring while there is no device at all.
///
/// # Errors
/// When the embedded device does not open.
pub(super) fn buffers_of_nothing() -> Result<Buffers, CardError> {
    let [_, file] = open(driver("none".to_owned()))?;
    Ok(Buffers::unacquainted(Arc::new(file), "embedded"))
}

/// A driver of memory, by the name of a display's.
fn driver(name: String) -> Driver {
    Driver { name, width: (1, LARGEST), height: (1, LARGEST), rdev: 0, ..Driver::vkms() }
}

/// Two files of a device of its own.
fn open(driver: Driver) -> Result<[File; 2], CardError> {
    let failed = |errno: Errno| CardError::io("opening the embedded device")(errno.into());
    let machine = Machine::new(Profile::MODERN);
    machine.accept_foreign(true);
    let memory = machine.add_device(driver);
    let open = || memory.open(Node::Primary).map_err(failed);
    Ok([open()?, open()?])
}

impl Kms {
    /// Drives the display of a model. There is no session; whoever has the model flips its pages.
    ///
    /// # Errors
    /// What the device lacks.
    pub fn on_model(model: &Model) -> Result<Self, CardError> {
        Self::on_device(Rc::new(model.clone()), model)
    }

    /// The same through a device that passes on what it is asked to the model.
    ///
    /// # Errors
    /// What the device lacks.
    pub fn on_device(device: Device, model: &Model) -> Result<Self, CardError> {
        let nothing = |err: super::StartError| CardError::io("no buffers")(std::io::Error::other(err));
        let mut kms = Self::without_device(None, false).map_err(nothing)?;
        kms.add_model(device, buffers_of_model(model)?)?;
        Ok(kms)
    }

    /// Drives one more display that is not there, with its memory.
    ///
    /// # Errors
    /// What the device lacks, or no room for it.
    pub fn add_model(&mut self, device: Device, buffers: Buffers) -> Result<Changes, CardError> {
        check(&*device)?;
        let Some(slot) = self.free_slot() else { return Err(CardError::NoOutputs) };
        let mut added = DisplayDevice::new(slot, device, Path::new("model"), slot.into(), buffers);
        added.fence = InFence::of_model();
        if let Err(err) = enable_writeback(&*added.device) {
            tracing::debug!(err = &err as &dyn std::error::Error, "no writeback");
        }
        let changes = added.scan(self.active)?;
        self.add(added).map_err(CardError::io("watching it"))?;
        Ok(changes)
    }
}

/// What a framebuffer is, by its number alone (`GETFB2`).
fn facts(display: &File, id: u32) -> Option<FramebufferFacts> {
    let fb = display.getfb2(id).ok()?;
    let mut handles: Vec<u32> = fb.handles.into_iter().filter(|handle| *handle != 0).collect();
    handles.sort_unstable();
    handles.dedup();
    for handle in handles {
        if let Err(err) = display.gem_close(handle) {
            tracing::error!(%err, "a handle of the model's display is left");
        }
    }
    Some(FramebufferFacts { size: (fb.width, fb.height), format: fb.pixel_format, modifier: fb.modifiers[0] })
}
