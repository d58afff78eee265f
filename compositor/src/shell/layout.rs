//! Where windows go when outputs come, go, move, or change their size.
//!
//! ```text
//!  window's output   │ is still there          │ is gone, others are left     │ none is left
//!  the window        │ moves with it, and      │ goes to the leftmost, and    │ stays where it is,
//!                    │ stays in reach          │ remembers where it was       │ and remembers
//!  and when an output of the remembered name comes back, it goes back there, unless somebody moved it meanwhile.
//! ```
//!
//! It owns these moves. It does not own the outputs' own places ([`crate::state`]).

use smithay::utils::{Logical, Point, Rectangle, Size};

use super::place::place;
use super::{Shell, WindowEntry};

/// An output's name and its part of the space of all outputs.
pub type Place = (String, Rectangle<i32, Logical>);

/// Where a window was on an output that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Home {
    output: String,
    /// From the output's corner.
    at: Point<i32, Logical>,
}

/// Pixels of a window that stay in reach.
const IN_REACH: i32 = 64;

/// The position next to `at` with which a window of `size` is in `area`, or, if it is too large, begins there.
fn within(
    at: Point<i32, Logical>,
    size: Size<i32, Logical>,
    area: Rectangle<i32, Logical>,
) -> Point<i32, Logical> {
    let fit = |at: i32, len: i32, start: i32, room: i32| at.min(start + room - len).max(start);
    let x = fit(at.x, size.w, area.loc.x, area.size.w);
    let y = fit(at.y, size.h, area.loc.y, area.size.h);
    (x, y).into()
}

/// The part of a window that is in an area, in pixels.
fn shown(window: Rectangle<i32, Logical>, area: Rectangle<i32, Logical>) -> i64 {
    window.intersection(area).map_or(0, |part| i64::from(part.size.w) * i64::from(part.size.h))
}

impl WindowEntry {
    /// The output that the window belongs to: the one that it fills, or the one that shows most of it.
    fn output_of<'a>(&self, outputs: &'a [Place]) -> Option<&'a Place> {
        if !self.sizing.is_floating() {
            return outputs.iter().find(|(_, area)| area.contains(self.anchor)).or(outputs.first());
        }
        let (geometry, corner) = (self.geometry(), self.position);
        let seen = |(_, area): &Place| (shown(geometry, *area), area.contains(corner));
        // Of equals the leftmost.
        outputs.iter().rev().max_by_key(|place| seen(place))
    }

    /// Takes it from one output to another place.
    fn take_to(&mut self, from: Point<i32, Logical>, area: Rectangle<i32, Logical>, keep: bool) {
        let by = area.loc - from;
        if let Some((position, size)) = &mut self.restore {
            *position = within(*position + by, *size, area);
        }
        if self.sizing.is_floating() {
            let at = self.position + by;
            // One that hangs over the edge because somebody put it there may stay so while its output does.
            let held = Rectangle::new(at, self.window.geometry().size).intersection(area);
            let reach = held.is_some_and(|part| part.size.w >= IN_REACH && part.size.h >= IN_REACH);
            self.position = if keep && reach { at } else { within(at, self.window.geometry().size, area) };
        } else {
            (self.position, self.anchor) = (area.loc, area.loc);
        }
    }
}

impl Shell {
    /// Outputs are elsewhere, larger or smaller, new or gone: has every window follow. Windows that fill an output of another
    /// size are told.
    pub fn outputs_changed(&mut self, before: &[Place], after: &[Place]) {
        let area_of = |outputs: &[Place], name: &str| {
            outputs.iter().find(|(known, _)| known == name).map(|(_, area)| *area)
        };
        let mut homeless = Vec::new();
        for (index, entry) in self.windows.iter_mut().enumerate() {
            let old = entry.output_of(before).cloned();
            let back = entry.home.as_ref().filter(|home| area_of(before, &home.output).is_none());
            let back = back.and_then(|home| Some((home.at, area_of(after, &home.output)?)));
            let new = if let Some((at, area)) = back {
                entry.home = None;
                // As if it had been there all the time.
                entry.take_to(entry.position - at, area, true);
                area
            } else if let Some((name, area)) = &old
                && let Some(new) = area_of(after, name)
            {
                entry.take_to(area.loc, new, true);
                new
            } else {
                if let Some((name, area)) = &old {
                    let at = entry.position - area.loc;
                    entry.home.get_or_insert_with(|| Home { output: name.clone(), at });
                }
                let Some((_, area)) = after.first() else { continue };
                match (&old, &entry.home) {
                    (Some((_, old)), _) => entry.take_to(old.loc, *area, false),
                    (None, Some(home)) => entry.take_to(entry.position - home.at, *area, false),
                    // It came when there was no output.
                    (None, None) if entry.sizing.is_floating() => homeless.push((index, *area)),
                    (None, None) => entry.take_to(entry.anchor, *area, false),
                }
                *area
            };
            if !entry.sizing.is_floating() && old.map(|(_, area)| area.size) != Some(new.size) {
                entry.fill(new.size);
            }
        }
        for (index, area) in homeless {
            let others = self.windows.iter().enumerate().filter(|(other, w)| *other != index && w.mapped);
            let taken: Vec<_> = others.map(|(_, window)| window.geometry()).collect();
            let entry = &mut self.windows[index];
            entry.position = place(entry.window.geometry().size, area, &taken);
        }
    }

    /// The corner of the output that a window fills.
    pub fn anchor(&self, surface: &super::WlSurface) -> Option<Point<i32, Logical>> {
        self.find(surface).filter(|entry| !entry.sizing.is_floating()).map(|entry| entry.anchor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_stays_within_or_begins_there() {
        let area = Rectangle::new((100, 0).into(), (800, 600).into());
        for (at, size, want) in [
            ((150, 50), (200, 100), (150, 50)),
            ((50, -20), (200, 100), (100, 0)),
            ((1000, 580), (200, 100), (700, 500)),
            ((300, 300), (2000, 2000), (100, 0)),
        ] {
            let got = within(at.into(), size.into(), area);
            assert_eq!((got.x, got.y), want, "{at:?} {size:?}");
        }
    }

    #[test]
    fn what_of_a_window_is_shown_is_counted() {
        let area = Rectangle::new((0, 0).into(), (100, 100).into());
        assert_eq!(shown(Rectangle::new((90, 90).into(), (50, 50).into()), area), 100);
        assert_eq!(shown(Rectangle::new((100, 0).into(), (50, 50).into()), area), 0);
    }
}
