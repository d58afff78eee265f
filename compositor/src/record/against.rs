//! A device of a capability file that answers the questions of a replay.
//!
//! It owns the translation of a plan into the requests that a device is asked: framebuffers are made up, in the format and
//! size that each layer needs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use drm::control::AtomicCommitFlags;
use drm_prime::scanout::{Plan, PlaneCaps, PlaneType, PrimaryContent, Rect, Scannable, Scene, SourceRect};
use rustix::io::Errno;

use crate::backend::kms::device::capabilities::{Capabilities, CapabilitiesError};
use crate::backend::kms::device::model::{FramebufferFacts, Model};
use crate::backend::kms::device::{CardError, KmsDevice as _, Object, Properties, Request, check};
use crate::backend::kms::planes_of;

/// Why a capability file cannot be replayed against.
#[derive(Debug, thiserror::Error)]
pub enum AgainstError {
    /// It is none.
    #[error(transparent)]
    Capabilities(#[from] CapabilitiesError),
    /// The device cannot be driven.
    #[error(transparent)]
    Card(#[from] CardError),
    /// It has nothing connected.
    #[error("it has no connector with a mode")]
    NothingConnected,
}

type Framebuffers = Arc<Mutex<HashMap<u32, FramebufferFacts>>>;

/// The device with one output.
#[derive(Debug)]
pub struct Against {
    model: Model,
    planes: Vec<PlaneCaps>,
    framebuffers: Framebuffers,
    base: Vec<(Object, &'static str, u64)>,
}

impl Against {
    /// A device of a file, whose first output has a mode of `size`.
    ///
    /// # Errors
    /// When the file is none, or the device has no output.
    pub fn new(file: &Path, size: Rect) -> Result<Self, AgainstError> {
        let mut capabilities = Capabilities::load(file)?;
        let connected = capabilities.connectors.iter_mut().find(|c| !c.modes.is_empty());
        connected.ok_or(AgainstError::NothingConnected)?.modes = vec![format!("{}x{}@60", size.w, size.h)];
        let failed = CardError::io("the model");
        let model = Model::new(capabilities).map_err(failed)?;
        let framebuffers = Framebuffers::default();
        let known = framebuffers.clone();
        model.set_framebuffers(move |id| lock(&known).get(&id).copied());
        check(&model)?;
        let resources = model.resources().map_err(CardError::io("the model"))?;
        let info = |c: &_| model.connector(*c, false).ok();
        let connector = resources.connectors.iter().filter_map(info).find(|c| c.connected);
        let connector = connector.ok_or(AgainstError::NothingConnected)?;
        let crtc = resources.crtcs_of(connector.crtcs).next().ok_or(AgainstError::NothingConnected)?;
        let mode = connector.modes.first().ok_or(AgainstError::NothingConnected)?;
        let mode = model.create_blob(&mode.bytes()).map_err(CardError::io("the model"))?;
        let base = vec![
            (Object::Connector(connector.handle), "CRTC_ID", u64::from(u32::from(crtc))),
            (Object::Crtc(crtc), "MODE_ID", mode),
            (Object::Crtc(crtc), "ACTIVE", 1),
        ];
        let index = resources.crtcs.iter().position(|c| *c == crtc).unwrap_or(0);
        let mut planes = planes_of(&model)?;
        planes.retain(|caps| caps.crtcs & 1 << index != 0);
        Ok(Self { model, planes, framebuffers, base })
    }

    /// The planes of its output.
    pub fn planes(&self) -> &[PlaneCaps] {
        &self.planes
    }

    /// Asks whether it would show a plan.
    ///
    /// # Errors
    /// The errno that it answers with.
    pub fn test(&self, scene: &Scene<'_>, plan: &Plan) -> Result<(), Errno> {
        lock(&self.framebuffers).clear();
        let mut request = Request::new();
        let mut set = |object: Object, settings: &[(&str, u64)]| -> Result<(), Errno> {
            let properties = Properties::read(&self.model, object).map_err(|_| Errno::NODEV)?;
            for (name, value) in settings {
                if let Some(id) = properties.id(name) {
                    request.set(object.id(), id, *value);
                }
            }
            Ok(())
        };
        for (object, name, value) in &self.base {
            set(*object, &[(name, *value)])?;
        }
        for (caps, framebuffer) in self.planes.iter().zip(1u32..) {
            let object = Object::Plane(drm::control::RawResourceHandle::from(caps.id).into());
            let Some((content, src, dst)) = shown(caps, scene, plan) else {
                set(object, &[("FB_ID", 0), ("CRTC_ID", 0)])?;
                continue;
            };
            let whole = |from: u32, len: u32| (u64::from(from) + u64::from(len)).div_ceil(1 << 16) as u32;
            let facts = FramebufferFacts {
                size: (whole(src.x, src.w), whole(src.y, src.h)),
                format: content.format as u32,
                modifier: content.modifier.into(),
            };
            lock(&self.framebuffers).insert(framebuffer, facts);
            let signed = |v: i32| i64::from(v) as u64;
            let crtc = self.base[1].0.id().get();
            set(
                object,
                &[
                    ("FB_ID", framebuffer.into()),
                    ("CRTC_ID", crtc.into()),
                    ("SRC_X", src.x.into()),
                    ("SRC_Y", src.y.into()),
                    ("SRC_W", src.w.into()),
                    ("SRC_H", src.h.into()),
                    ("CRTC_X", signed(dst.x)),
                    ("CRTC_Y", signed(dst.y)),
                    ("CRTC_W", dst.w.into()),
                    ("CRTC_H", dst.h.into()),
                ],
            )?;
            let Some(setting) = plan.setting(caps.id) else { continue };
            set(object, &[("rotation", setting.rotation.bits()), ("alpha", setting.alpha.into())])?;
            if let Some(zpos) = setting.zpos {
                set(object, &[("zpos", zpos as u64)])?;
            }
        }
        self.model.commit(AtomicCommitFlags::TEST_ONLY | AtomicCommitFlags::ALLOW_MODESET, &mut request)
    }
}

fn lock(framebuffers: &Framebuffers) -> std::sync::MutexGuard<'_, HashMap<u32, FramebufferFacts>> {
    framebuffers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a plane shows of a plan, and where.
fn shown(caps: &PlaneCaps, scene: &Scene<'_>, plan: &Plan) -> Option<(Scannable, SourceRect, Rect)> {
    let layer = plan.planes.iter().position(|plane| *plane == Some(caps.id));
    if let Some(layer) = layer.and_then(|index| scene.layers.get(index)) {
        return Some((*layer.content.as_ref().ok()?, layer.src, layer.dst));
    }
    if let (Some(pointer), true) = (scene.pointer, plan.pointer == Some(caps.id)) {
        let src = SourceRect::whole(pointer.dst.w, pointer.dst.h);
        return Some((*pointer.content.as_ref().ok()?, src, pointer.dst));
    }
    let composited = plan.primary == PrimaryContent::Composited && caps.kind == PlaneType::Primary;
    composited.then(|| {
        let alpha = scene.canvas.alpha.filter(|_| !plan.underlays.is_empty());
        let content = Scannable::new(alpha.unwrap_or(scene.canvas.opaque), scene.canvas.modifier);
        let place = plan.part.unwrap_or(scene.output);
        (content, SourceRect::whole(place.w, place.h), place)
    })
}
