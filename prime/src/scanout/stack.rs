//! The order of planes: zpos values under which whatever overlaps is blended as the layers lie.

use super::geometry::Rect;
use super::plane::Zpos;

/// A plane that is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub zpos: Zpos,
    /// What it covers; `None` for a pointer, which may be anywhere.
    pub covers: Option<Rect>,
}

impl Entry {
    fn meets(&self, other: &Self) -> bool {
        match (self.covers, other.covers) {
            (Some(a), Some(b)) => a.overlaps(&b),
            _ => true,
        }
    }
}

/// The lowest values that have each of `entries`, which go from the bottom to the top, above all those before it that it
/// overlaps; `None` if there are none. A place that is not known counts as below all others for the first entry and as
/// above all others for a pointer, and is otherwise no place.
pub(super) fn solve(entries: &[Entry]) -> Option<Vec<i64>> {
    let mut values: Vec<i64> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let below = entries[..index].iter().zip(&values).filter(|(lower, _)| lower.meets(entry));
        let least = below.map(|(_, value)| value.saturating_add(1)).max().unwrap_or(i64::MIN);
        values.push(match entry.zpos {
            Zpos::Fixed(value) => (value >= least).then_some(value)?,
            Zpos::Range { min, max } => Some(least.max(min)).filter(|value| *value <= max)?,
            Zpos::Unknown if entry.covers.is_none() => i64::MAX,
            Zpos::Unknown if index == 0 => i64::MIN,
            Zpos::Unknown => return None,
        });
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: Rect = Rect::new(0, 0, 10, 10);

    fn entry(zpos: Zpos, covers: Rect) -> Entry {
        Entry { zpos, covers: Some(covers) }
    }

    #[test]
    fn values_are_the_lowest_that_keep_the_order() {
        let range = |min, max| Zpos::Range { min, max };
        let left = Rect::new(0, 0, 5, 10);
        let right = Rect::new(5, 0, 5, 10);
        let stack = [
            entry(range(0, 3), FULL),
            entry(range(0, 3), left),
            entry(range(0, 3), right),
            entry(range(2, 3), FULL),
        ];
        assert_eq!(solve(&stack), Some(vec![0, 1, 1, 2]));
        let pointer = Entry { zpos: range(0, 3), covers: None };
        assert_eq!(solve(&[&stack[..], &[pointer]].concat()), Some(vec![0, 1, 1, 2, 3]));
        assert_eq!(solve(&[&stack[..], &[pointer, pointer]].concat()), None);
    }

    #[test]
    fn fixed_places_are_taken_as_they_are() {
        let fixed = Zpos::Fixed;
        assert_eq!(solve(&[entry(fixed(5), FULL), entry(fixed(5), FULL)]), None);
        assert_eq!(solve(&[entry(fixed(5), FULL), entry(fixed(6), FULL)]), Some(vec![5, 6]));
        assert_eq!(solve(&[entry(Zpos::Unknown, FULL), entry(fixed(-9), FULL)]), Some(vec![i64::MIN, -9]));
        assert_eq!(solve(&[entry(fixed(0), FULL), entry(Zpos::Unknown, FULL)]), None);
        let pointer = Entry { zpos: Zpos::Unknown, covers: None };
        assert_eq!(solve(&[entry(fixed(0), FULL), pointer]), Some(vec![0, i64::MAX]));
    }

    proptest! {
        /// Whatever choice of values keeps the order, one is found.
        #[test]
        fn a_stack_that_can_be_is_found(
            ranges in prop::collection::vec((0i64..4, 0i64..3, 0i32..12, 1u32..8), 1..5)
        ) {
            let stack: Vec<Entry> = ranges
                .iter()
                .map(|&(min, more, x, w)| {
                    let zpos = if more == 0 { Zpos::Fixed(min) } else { Zpos::Range { min, max: min + more } };
                    entry(zpos, Rect::new(x, 0, w, 1))
                })
                .collect();
            let keeps = |values: &[i64]| {
                (0..stack.len()).all(|top| {
                    (0..top).all(|low| !stack[low].meets(&stack[top]) || values[low] < values[top])
                })
            };
            let mut all: Vec<Vec<i64>> = vec![Vec::new()];
            for &(min, more, ..) in &ranges {
                all = all.iter().flat_map(|v| (min..=min + more).map(move |z| [&v[..], &[z]].concat())).collect();
            }
            match solve(&stack) {
                Some(values) => prop_assert!(all.contains(&values) && keeps(&values)),
                None => prop_assert!(!all.iter().any(|v| keeps(v))),
            }
        }
    }
}
