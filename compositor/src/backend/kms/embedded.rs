//! The backend on a device that is not there: a model of its display beside drm-prime's model of its memory.
//!
//! ```text
//!  capability file ──> Model ── commits, flips
//!                        │ what is framebuffer 7?
//!  drm-prime's model ── display file, PRIME file ──> handles, framebuffers      [super::buffers]
//! ```

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use drm_prime::model::{Driver, File, Machine, Node, Profile};
use rustix::io::Errno;

use super::Kms;
use super::device::model::{FramebufferFacts, Model};
use super::device::{CardError, Device, KmsDevice as _, check, enable_writeback};
use crate::backend::buffers::Buffers;

/// Widest and highest framebuffer in pixels, as in Pixman's images.
const LARGEST: u32 = 32767;

/// The memory of a model's display: buffers in memfds, whose framebuffers the model knows from now on.
///
/// # Errors
/// When the embedded device does not open.
pub fn buffers_of_model(model: &Model) -> Result<Buffers, CardError> {
    let failed = |what| move |errno: Errno| CardError::io(what)(errno.into());
    let machine = Machine::new(Profile::MODERN);
    machine.accept_foreign(true);
    let memory = machine.add_device(Driver {
        name: model.driver(),
        width: (1, LARGEST),
        height: (1, LARGEST),
        rdev: 0,
        ..Driver::vkms()
    });
    let open = || memory.open(Node::Primary).map_err(failed("opening the embedded device"));
    let (display, file) = (open()?, open()?);
    model.set_framebuffers(move |id| facts(&display, id));
    Ok(Buffers::new(Arc::new(file), "embedded"))
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
        check(&*device)?;
        let mut kms = Self::assemble(None, device, PathBuf::from("model"), 0, buffers_of_model(model)?);
        if let Err(err) = enable_writeback(&*kms.device) {
            tracing::debug!(err = &err as &dyn std::error::Error, "no writeback");
        }
        kms.scan()?;
        Ok(kms)
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
