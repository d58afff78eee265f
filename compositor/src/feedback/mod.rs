//! linux-dmabuf feedback: which devices, formats and modifiers each surface is told to prefer.
//!
//! ```text
//!  output's plan ──> planes open to each dma-buf ──> policy (2 s of the same mind) ──> protocols::LinuxDmabufState
//!                    [drm_prime::scanout]            └── tranche (device, formats)
//! ```
//!
//! | what the plan says of a surface | what it is told |
//! |---|---|
//! | a plane shows it | what the planes take that are open to it, with that one |
//! | `Format`, or `Framebuffer` for its layout or memory | what the planes take that nothing but its buffer keeps it off |
//! | `Test`, `Commit`: the driver refused it in its place | the same without that plane, until it is shown otherwise |
//! | covered, late, hidden, transformed, `wl_shm`, not visible, `Disabled` | the default feedback |
//!
//! It owns what surfaces are told and when. It works only when a plan is new, and a timer runs only while a change waits for
//! its two seconds.
//!
//! It does not own the events nor who listens to them ([`primeway_protocols::linux_dmabuf`]), nor which plane shows what
//! ([`drm_prime::scanout`]).

pub mod policy;
pub mod tranche;

use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{Plan, PlaneCaps, Refusal, Scene, open_planes};
use primeway_protocols::linux_dmabuf::{DmabufFeedback, LinuxDmabufState};
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{DisplayHandle, Resource as _};

pub use self::policy::{Planned, Policy, Shape};
pub use self::tranche::{Devices, Tranches};

use crate::backend::OutputId;
use crate::output::layers::SurfaceLayer;
use crate::output::{OutputState, StandIn};
use crate::reactor::{TimerId, Timers};
use crate::state::{State, monotonic};

/// A format with its modifier, as planes and renderers name it.
pub type Pair = (DrmFourcc, DrmModifier);
/// A plane's object id on its device.
pub type PlaneId = NonZeroU32;
/// An output: its device and its id there.
pub type OutputKey = (u64, OutputId);

/// What surfaces are told.
#[derive(Debug, Default)]
pub struct Feedback {
    /// `None` where there is no device to name, and so no feedback.
    tranches: Option<Tranches>,
    policy: Policy<WlSurface, OutputKey, DmabufFeedback>,
    /// Runs while a change waits, until then.
    timer: Option<(TimerId, Duration)>,
    /// Times that somebody was told something.
    told: u64,
}

impl Feedback {
    /// Creates the global. `formats` is all that clients may use. Without any device there is none to name: version 3,
    /// formats and modifiers as events.
    ///
    /// # Errors
    /// When there is no memory for the format table.
    pub fn start(
        wayland: &DisplayHandle,
        formats: &[Pair],
        devices: &Devices,
    ) -> io::Result<(LinuxDmabufState, Self)> {
        let tranches = devices.main().map(|main| Tranches::new(main, formats)).transpose()?;
        let default = tranches.as_ref().map(|tranches| tranches.default_feedback().clone());
        let formats = formats.iter().copied().map(tranche::pair);
        let global = LinuxDmabufState::new::<State>(wayland, formats, default);
        Ok((global, Self { tranches, ..Self::default() }))
    }

    /// The feedback of a surface that asks for the first time; `None` for the default, which every surface gets until it
    /// has shown a dma-buf for a while: weston's clients rely on that order.
    pub fn of(&self, surface: &WlSurface) -> Option<DmabufFeedback> {
        self.policy.told(surface).cloned()
    }

    /// When a surface was told what it has been told, on CLOCK_MONOTONIC.
    pub fn told_at(&self, surface: &WlSurface) -> Option<Duration> {
        self.policy.told_at(surface)
    }

    /// Times that a surface was told something else than before.
    pub fn times_told(&self) -> u64 {
        self.told
    }

    /// Surfaces that something is remembered of.
    pub fn surfaces(&self) -> usize {
        self.policy.len()
    }

    /// An output of `device` has a new plan for `layers`.
    pub fn planned(
        &mut self,
        timers: &Timers,
        device: u64,
        planes: &[PlaneCaps],
        output: &OutputState,
        layers: &[SurfaceLayer],
    ) {
        let (Some(tranches), Some((scene, plan))) = (&mut self.tranches, output.last_plan()) else {
            return;
        };
        let made = Made { scene, plan, stand_ins: output.stand_ins() };
        let shown = layers.iter().enumerate().filter(|(_, l)| l.dmabuf.is_some() && l.surface.is_alive());
        let shown = shown.map(|(index, layer)| made.planned(layer.surface.clone(), index));
        let now = monotonic();
        self.policy.planned(now, (device, output.id), shown, |open, opaque| {
            tranches.of(device, planes, open, opaque)
        });
        self.arm(timers, now);
    }

    /// What planes take may be another than it was.
    pub fn planes_changed(&mut self) {
        if let Some(tranches) = &mut self.tranches {
            tranches.forget();
        }
    }

    /// An output is gone.
    pub fn output_gone(&mut self, timers: &Timers, output: OutputId) {
        let now = monotonic();
        // Its device may be gone, too.
        for key in self.policy.outputs().into_iter().filter(|(_, id)| *id == output) {
            self.policy.output_gone(now, key);
        }
        self.arm(timers, now);
    }

    /// A surface is gone.
    pub fn surface_gone(&mut self, timers: &Timers, surface: &WlSurface) {
        self.policy.surface_gone(surface);
        if self.timer.is_some() {
            self.arm(timers, monotonic());
        }
    }

    /// Tells who has waited long enough.
    fn tell(&mut self, global: &mut LinuxDmabufState, now: Duration) {
        for (surface, feedback) in self.policy.due(now) {
            self.told += 1;
            let sent = match &feedback {
                Some(feedback) => global.set_surface_feedback(&surface, feedback),
                None => global.reset_surface_feedback(&surface),
            };
            tracing::debug!(surface = %surface.id(), scanout = feedback.is_some(), sent, "feedback changed");
        }
    }

    /// Sets the timer for the change that is due first, or removes it. One that runs out early is set again.
    fn arm(&mut self, timers: &Timers, now: Duration) {
        let deadline = self.policy.deadline();
        if let (Some(deadline), Some((_, armed))) = (deadline, &self.timer)
            && *armed <= deadline
        {
            return;
        }
        if let Some((id, _)) = self.timer.take() {
            timers.cancel(id);
        }
        let Some(deadline) = deadline else { return };
        let id = timers.after(deadline.saturating_sub(now), |state| {
            let (feedback, now) = (&mut state.dmabuf.feedback, monotonic());
            feedback.timer = None;
            feedback.tell(&mut state.dmabuf.global, now);
            feedback.arm(&state.runtime.timers, now);
        });
        self.timer = Some((id, deadline));
    }
}

/// A plan and what it was made of.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    /// The output with its planes and layers.
    pub scene: Scene<'a>,
    /// What became of them.
    pub plan: &'a Plan,
    /// What the driver said of places.
    pub stand_ins: &'a [StandIn],
}

impl Made<'_> {
    /// What became of a layer, for the policy.
    pub fn planned<S>(&self, surface: S, index: usize) -> Planned<S> {
        let (layer, plan) = (&self.scene.layers[index], self.plan);
        let open = open_planes(&self.scene, plan, index);
        let by_the_driver = plan
            .refusals_of(index)
            .iter()
            .filter(|(.., refusal)| matches!(refusal, Refusal::Test { .. } | Refusal::Commit { .. }));
        let by_the_driver = by_the_driver.map(|(_, plane, _)| *plane);
        let asked = |s: &&StandIn| s.refused && (s.src, s.dst) == (layer.src, layer.dst);
        let of_the_place = self.stand_ins.iter().filter(asked).map(|s| s.plane);
        Planned {
            surface,
            area: layer.dst.overlap(&self.scene.output),
            shape: Shape { src: layer.src, dst: layer.dst },
            opaque: layer.opaque,
            plane: plan.planes[index],
            open: open.into_iter().map(|plane| plane.id).collect(),
            refused: by_the_driver.chain(of_the_place).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
