//! linux-dmabuf feedback: which devices, formats and modifiers clients are told to prefer.
//!
//! It owns the feedback of surfaces and which of the machine's devices it names. It does not own the events nor who
//! listens to them ([`primeway_protocols::linux_dmabuf`]), nor which plane takes what ([`drm_prime::scanout`]).

use std::collections::HashSet;
use std::io;

use drm_fourcc::{DrmFourcc, DrmModifier};
use primeway_protocols::linux_dmabuf::{
    DmabufFeedback, DmabufFeedbackBuilder, DmabufFormat, LinuxDmabufState, TrancheFlags,
};
use smithay::reexports::wayland_server::DisplayHandle;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;

use crate::output::SurfaceStats;
use crate::output::layers::SurfaceLayer;
use crate::state::State;

/// A format with its modifier, as planes and renderers name it.
pub type Pair = (DrmFourcc, DrmModifier);

/// A display device and what its planes take.
#[derive(Clone, Debug)]
pub struct Display {
    /// Its number.
    pub device: u64,
    /// What some plane of it takes.
    pub formats: HashSet<Pair>,
}

/// What surfaces are told.
#[derive(Debug, Default)]
pub struct Feedback {
    scanout: Option<DmabufFeedback>,
}

impl Feedback {
    /// Creates the global. `formats` is all that clients may use; `renderer` is the device that composites, if it is
    /// one. Without any device there is none to name: version 3, formats and modifiers as events.
    ///
    /// # Errors
    /// When there is no memory for the format table.
    pub fn start(
        wayland: &DisplayHandle,
        formats: &[Pair],
        renderer: Option<u64>,
        display: Option<&Display>,
    ) -> io::Result<(LinuxDmabufState, Self)> {
        let all = || formats.iter().copied().map(pair);
        // Clients allocate best on what composites, which is where most of their frames go.
        let Some(main) = renderer.or(display.map(|display| display.device)) else {
            return Ok((LinuxDmabufState::new::<State>(wayland, all(), None), Self::default()));
        };
        let default = DmabufFeedbackBuilder::new(main, all()).build()?;
        let mut scanout = None;
        if let Some(display) = display {
            let both = formats.iter().copied();
            let both = both.filter(|f| display.formats.contains(f) && f.1 != DrmModifier::Invalid);
            let builder = DmabufFeedbackBuilder::new(main, all());
            let builder = builder.add_tranche(display.device, TrancheFlags::Scanout, both.map(pair));
            scanout = Some(builder.share_table(&default).build()?);
        }
        Ok((LinuxDmabufState::new::<State>(wayland, all(), Some(default)), Self { scanout }))
    }

    /// An output has a new plan for its layers.
    pub fn planned(&mut self, global: &mut LinuxDmabufState, layers: &[SurfaceLayer]) {
        let Some(feedback) = &self.scanout else { return };
        // Who shows dma-bufs hears which of them planes would take; sent once, since it does not change.
        for layer in layers.iter().filter(|l| l.dmabuf.is_some()) {
            global.set_surface_feedback(&layer.surface, feedback);
        }
    }

    /// The feedback of a surface that asks for the first time; `None` for the default.
    pub fn of(&self, surface: &WlSurface) -> Option<DmabufFeedback> {
        // Until a surface shows a dma-buf it gets the default: weston's clients rely on that order.
        self.scanout.clone().filter(|_| SurfaceStats::of(surface).dmabuf)
    }
}

fn pair((fourcc, modifier): Pair) -> DmabufFormat {
    DmabufFormat { fourcc: fourcc as u32, modifier: modifier.into() }
}
