//! What is in the feedback of a surface: which device is the main one, and what a set of planes takes.
//!
//! It owns the tranches, which all point into the format table of the default feedback: one file for everybody. It does not
//! own who is told which of them (`policy`).

use std::collections::HashMap;
use std::io;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::PlaneCaps;
use primeway_protocols::linux_dmabuf::{DmabufFeedback, DmabufFeedbackBuilder, DmabufFormat, TrancheFlags};

use super::{Pair, PlaneId};

/// Sets of planes whose tranches are kept. There are as many as ways to cover an output's planes from above: a few.
const KEPT: usize = 64;

/// The DRM devices that matter to clients, as `dev_t`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// What composites; `None` where the CPU does.
    pub renderer: Option<u64>,
    /// What drives outputs, in the order of preference.
    pub displays: Vec<u64>,
}

impl Devices {
    /// Where clients had best allocate: what composites, which is where most of their frames go, or a display whose memory
    /// the CPU composites in. Without any device there is none to name.
    pub fn main(&self) -> Option<u64> {
        self.renderer.or(self.displays.first().copied())
    }
}

/// The feedback that there is to give.
#[derive(Debug)]
pub struct Tranches {
    main: u64,
    formats: Vec<Pair>,
    default: DmabufFeedback,
    /// By device, planes, and whether the surface is opaque.
    made: HashMap<(u64, Vec<PlaneId>, bool), Option<DmabufFeedback>>,
}

impl Tranches {
    /// `formats` is all that clients may use.
    ///
    /// # Errors
    /// When there is no memory for the format table.
    pub fn new(main: u64, formats: &[Pair]) -> io::Result<Self> {
        let default = DmabufFeedbackBuilder::new(main, formats.iter().copied().map(pair)).build()?;
        Ok(Self { main, formats: formats.to_vec(), default, made: HashMap::new() })
    }

    /// What everybody is told.
    pub fn default_feedback(&self) -> &DmabufFeedback {
        &self.default
    }

    /// Sets of planes whose tranches are kept.
    pub fn kept(&self) -> usize {
        self.made.len()
    }

    /// Has them made anew, of planes that have changed.
    pub fn forget(&mut self) {
        self.made.clear();
    }

    /// What a surface is told to which the planes `open`, some of the device's `planes`, are open. `None` if they take
    /// nothing that it may use.
    pub fn of(
        &mut self,
        device: u64,
        planes: &[PlaneCaps],
        open: &[PlaneId],
        opaque: bool,
    ) -> Option<DmabufFeedback> {
        let mut key = open.to_vec();
        key.sort_unstable();
        let key = (device, key, opaque);
        if let Some(made) = self.made.get(&key) {
            return made.clone();
        }
        let open: Vec<&PlaneCaps> = planes.iter().filter(|plane| open.contains(&plane.id)).collect();
        let made = self.make(device, &open, opaque);
        if self.made.len() >= KEPT {
            self.made.clear();
        }
        self.made.insert(key, made.clone());
        made
    }

    fn make(&self, device: u64, planes: &[&PlaneCaps], opaque: bool) -> Option<DmabufFeedback> {
        let taken = taken(&self.formats, planes, opaque);
        if taken.is_empty() {
            return None;
        }
        let all = self.formats.iter().copied().map(pair);
        let builder = DmabufFeedbackBuilder::new(self.main, all).share_table(&self.default);
        let builder = builder.add_tranche(device, TrancheFlags::Scanout, taken.into_iter().map(pair));
        builder.build().inspect_err(|err| tracing::error!(%err, "no feedback for a surface")).ok()
    }
}

/// What of `formats` some plane takes. An opaque surface's framebuffers are in the format's twin without alpha, so that
/// is what must be taken.
pub fn taken(formats: &[Pair], planes: &[&PlaneCaps], opaque: bool) -> Vec<Pair> {
    let takes = |&(format, modifier): &Pair| {
        // A layout that only the driver knows cannot be asked for.
        let Some(info) = drm_prime::format::info(format).filter(|_| modifier != DrmModifier::Invalid) else {
            return false;
        };
        let shown = if opaque { info.opaque } else { Some(info.fourcc) };
        let shown = shown.and_then(|fourcc| DrmFourcc::try_from(fourcc).ok());
        shown.is_some_and(|shown| planes.iter().any(|plane| plane.formats.contains(&(shown, modifier))))
    };
    formats.iter().copied().filter(takes).collect()
}

pub(super) fn pair((fourcc, modifier): Pair) -> DmabufFormat {
    DmabufFormat { fourcc: fourcc as u32, modifier: modifier.into() }
}
