//! The event stream: what is shown where, once whole and then in changes.
//!
//! It owns what an event is and which events lie between two moments. Who hears them is in [`super::watch`].

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use smithay::reexports::wayland_server::Resource as _;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;

use super::explain::Way;
use super::identity::{Identity, surfaces};
use super::refusal::RefusalReport;
use super::remedy::Case;
use crate::output::OutputState;
use crate::state::State;

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Everything: the first line, and the next one for a reader who was too slow for the changes.
    State {
        /// Changes were left out before it.
        missed: bool,
        /// What there is.
        #[serde(flatten)]
        all: Snapshot,
    },
    /// There is another output.
    OutputAdded {
        /// It.
        output: OutputSummary,
    },
    /// An output is gone.
    OutputRemoved {
        /// Its name.
        output: String,
    },
    /// A surface is shown, or could be.
    SurfaceMapped {
        /// It.
        surface: SurfaceSummary,
    },
    /// A surface is not shown any more.
    SurfaceGone {
        /// It.
        surface: Identity,
    },
    /// A surface gets to the screen in another way, or not for the same reason, or more is known of the reason.
    Verdict {
        /// It, as it is now.
        surface: SurfaceSummary,
    },
    /// A plane shows somebody else.
    Plane {
        /// The output.
        output: String,
        /// The plane.
        plane: NonZeroU32,
        /// Whom it showed.
        from: Option<String>,
        /// Whom it shows.
        to: Option<String>,
    },
    /// A client was told what to allocate for a surface.
    Feedback {
        /// The surface.
        surface: Identity,
        /// What planes take; otherwise the default again.
        scanout: bool,
    },
}

/// Everything that events are about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Left to right.
    pub outputs: Vec<OutputSummary>,
    /// The topmost first.
    pub surfaces: Vec<SurfaceSummary>,
}

/// An output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputSummary {
    /// Its name.
    pub output: String,
    /// Pixels.
    pub size: (i32, i32),
    /// Its planes, and whom they show.
    pub planes: Vec<(NonZeroU32, Option<String>)>,
}

/// A surface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SurfaceSummary {
    /// Who it is.
    #[serde(flatten)]
    pub who: Identity,
    /// The output that shows it; the first of several.
    pub output: Option<String>,
    /// How it gets to the screen.
    pub way: Way,
    /// The plane that shows it.
    pub plane: Option<NonZeroU32>,
    /// Why none does.
    pub reason: Option<RefusalReport>,
    /// What the driver likely minds, if it refused a test and was asked about that.
    #[serde(default)]
    pub guess: Option<String>,
    /// Its client was told what planes take.
    pub feedback: bool,
}

/// Looks at everything.
pub fn snapshot(state: &State) -> Snapshot {
    let outputs = state.outputs.iter().map(|entry| output(state, &entry.state)).collect();
    let surfaces = surfaces(state);
    let shown = surfaces.iter().filter(|surface| {
        let on = |o: &OutputState| o.trace().standing().iter().any(|s| s.surface == **surface);
        state.outputs.iter().any(|entry| on(&entry.state)) || !has_no_buffer(surface)
    });
    Snapshot { outputs, surfaces: shown.map(|surface| summary(state, surface)).collect() }
}

fn has_no_buffer(surface: &WlSurface) -> bool {
    use smithay::backend::renderer::utils::with_renderer_surface_state;
    with_renderer_surface_state(surface, |state| state.buffer().is_none()).unwrap_or(true)
}

fn output(state: &State, output: &OutputState) -> OutputSummary {
    let change = output.trace().changes().last();
    let who = |(plane, holder): &(NonZeroU32, crate::output::trace::Holder)| {
        let standing = output.trace().standing().iter().find(|s| s.plane == Some(*plane));
        let known = standing.filter(|s| s.surface.is_alive()).map(|s| Identity::of(&s.surface, &state.shell));
        (*plane, super::timeline::holder_name(holder, known.as_ref().into_iter()))
    };
    OutputSummary {
        output: output.output.name(),
        size: (output.size.w, output.size.h),
        planes: change.map(|change| change.planes.iter().map(who).collect()).unwrap_or_default(),
    }
}

fn summary(state: &State, surface: &WlSurface) -> SurfaceSummary {
    let on = |output: &OutputState| output.trace().standing().iter().position(|s| s.surface == *surface);
    let shown = state.outputs.iter().find_map(|entry| {
        let index = on(&entry.state)?;
        let (scene, plan) = entry.state.last_plan()?;
        let names = super::explain::names(state, &entry.state);
        let driver = state.backend.driver();
        let case = Case { scene: &scene, plan, layer: index, names: &names, driver };
        let reason = case.nearest().map(|(plane, refusal)| {
            let caps = scene.planes.iter().find(|caps| caps.id == plane);
            RefusalReport::new(refusal, caps, &names)
        });
        let guess = scene.planes.iter().find_map(|caps| entry.state.guess(index, caps.id));
        let guess = guess.map(ToString::to_string);
        Some((entry.state.output.name(), case.way(), plan.planes[index], reason, guess))
    });
    let (output, way, plane, reason, guess) = match shown {
        Some((output, way, plane, reason, guess)) => (Some(output), way, plane, reason, guess),
        None => (None, Way::Hidden, None, None, None),
    };
    let feedback = state.dmabuf.feedback.of(surface).is_some();
    SurfaceSummary { who: Identity::of(surface, &state.shell), output, way, plane, reason, guess, feedback }
}

/// What happened between two moments.
pub fn changes(before: &Snapshot, after: &Snapshot) -> Vec<Event> {
    let mut events = Vec::new();
    for gone in &before.outputs {
        if !after.outputs.iter().any(|o| o.output == gone.output) {
            events.push(Event::OutputRemoved { output: gone.output.clone() });
        }
    }
    for output in &after.outputs {
        match before.outputs.iter().find(|o| o.output == output.output) {
            None => events.push(Event::OutputAdded { output: output.clone() }),
            Some(old) => plane_changes(old, output, &mut events),
        }
    }
    for gone in &before.surfaces {
        if !after.surfaces.iter().any(|s| s.who.is(&gone.who)) {
            events.push(Event::SurfaceGone { surface: gone.who.clone() });
        }
    }
    for surface in &after.surfaces {
        match before.surfaces.iter().find(|s| s.who.is(&surface.who)) {
            None => events.push(Event::SurfaceMapped { surface: surface.clone() }),
            Some(old) => surface_changes(old, surface, &mut events),
        }
    }
    events
}

fn plane_changes(before: &OutputSummary, after: &OutputSummary, events: &mut Vec<Event>) {
    let showed = |all: &OutputSummary, plane: NonZeroU32| {
        all.planes.iter().find(|(id, _)| *id == plane).and_then(|(_, who)| who.clone())
    };
    let new = after.planes.iter().filter(|(id, _)| !before.planes.iter().any(|(old, _)| old == id));
    for (plane, _) in before.planes.iter().chain(new) {
        let (from, to) = (showed(before, *plane), showed(after, *plane));
        if from != to {
            events.push(Event::Plane { output: after.output.clone(), plane: *plane, from, to });
        }
    }
}

fn surface_changes(before: &SurfaceSummary, after: &SurfaceSummary, events: &mut Vec<Event>) {
    let stands = |s: &SurfaceSummary| (s.way, s.plane, s.output.clone(), s.reason.clone(), s.guess.clone());
    if stands(before) != stands(after) {
        events.push(Event::Verdict { surface: after.clone() });
    }
    if before.feedback != after.feedback {
        events.push(Event::Feedback { surface: after.who.clone(), scanout: after.feedback });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surface(number: u32, plane: Option<u32>) -> SurfaceSummary {
        SurfaceSummary {
            who: Identity { connection: 1, surface: number, ..Identity::default() },
            output: Some("A".to_owned()),
            way: if plane.is_some() { Way::ScannedOut } else { Way::Composited },
            plane: plane.and_then(NonZeroU32::new),
            reason: None,
            guess: None,
            feedback: false,
        }
    }

    fn all(surfaces: &[SurfaceSummary], shown: Option<&str>) -> Snapshot {
        let planes = vec![(NonZeroU32::MIN, shown.map(str::to_owned))];
        let output = OutputSummary { output: "A".to_owned(), size: (1, 1), planes };
        Snapshot { outputs: vec![output], surfaces: surfaces.to_vec() }
    }

    #[test]
    fn nothing_happens_between_equal_moments() {
        let same = all(&[surface(1, Some(1))], Some("x"));
        assert_eq!(changes(&same, &same), []);
    }

    #[test]
    fn surfaces_come_go_and_change_their_way() {
        let before = all(&[surface(1, None), surface(2, Some(1))], Some("2"));
        let after = all(&[surface(1, Some(1)), surface(3, None)], Some("1"));
        let plane = NonZeroU32::MIN;
        let (from, to) = (Some("2".to_owned()), Some("1".to_owned()));
        let expected = [
            Event::Plane { output: "A".to_owned(), plane, from, to },
            Event::SurfaceGone { surface: surface(2, None).who },
            Event::Verdict { surface: surface(1, Some(1)) },
            Event::SurfaceMapped { surface: surface(3, None) },
        ];
        assert_eq!(changes(&before, &after), expected);
    }

    #[test]
    fn outputs_come_and_go_and_feedback_is_news() {
        let told = SurfaceSummary { feedback: true, ..surface(1, None) };
        let (before, after) = (all(&[surface(1, None)], None), all(std::slice::from_ref(&told), None));
        assert_eq!(changes(&before, &after), [Event::Feedback { surface: told.who.clone(), scanout: true }]);
        let none = Snapshot { outputs: Vec::new(), ..after.clone() };
        assert_eq!(changes(&after, &none), [Event::OutputRemoved { output: "A".to_owned() }]);
        assert_eq!(changes(&none, &after), [Event::OutputAdded { output: after.outputs[0].clone() }]);
    }

    #[test]
    fn a_line_says_which_event_it_is() {
        let line = serde_json::to_value(Event::State { missed: false, all: all(&[surface(1, None)], None) });
        let line = line.unwrap();
        assert_eq!((&line["event"], &line["surfaces"][0]["way"]), (&"state".into(), &"composited".into()));
        let back: Event = serde_json::from_value(line).unwrap();
        assert!(matches!(back, Event::State { missed: false, .. }));
    }
}
