//! Where a new window goes: beside the others in rows from the top left while there is room, then in a cascade.

use smithay::utils::{Logical, Point, Rectangle, Size};

const CASCADE_STEP: i32 = 32;
const CASCADE_LENGTH: i32 = 8;

/// Finds a place for a window of `size` in `area` beside those at `taken`.
pub fn place(
    size: Size<i32, Logical>,
    area: Rectangle<i32, Logical>,
    taken: &[Rectangle<i32, Logical>],
) -> Point<i32, Logical> {
    let edges = |start: i32, ends: &dyn Fn(&Rectangle<i32, Logical>) -> i32| {
        let mut edges: Vec<i32> = std::iter::once(start).chain(taken.iter().map(ends)).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    };
    let columns = edges(area.loc.x, &|r| r.loc.x.saturating_add(r.size.w));
    let rows = edges(area.loc.y, &|r| r.loc.y.saturating_add(r.size.h));
    for y in rows {
        for &x in &columns {
            let candidate = Rectangle::new((x, y).into(), size);
            if area.contains_rect(candidate) && !taken.iter().any(|t| t.overlaps(candidate)) {
                return (x, y).into();
            }
        }
    }
    let step = CASCADE_STEP * (taken.len() as i32 % CASCADE_LENGTH);
    area.loc + Point::from((step, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: i32, y: i32, w: i32, h: i32) -> Rectangle<i32, Logical> {
        Rectangle::new((x, y).into(), (w, h).into())
    }

    #[test]
    fn windows_stand_side_by_side_then_in_the_next_row_then_in_a_cascade() {
        let area = rect(0, 0, 1000, 700);
        let mut taken = Vec::new();
        for expected in [(0, 0), (400, 0), (0, 300), (400, 300)] {
            let at = place((400, 300).into(), area, &taken);
            assert_eq!((at.x, at.y), expected);
            taken.push(Rectangle::new(at, (400, 300).into()));
        }
        let at = place((400, 300).into(), area, &taken);
        assert_eq!((at.x, at.y), (128, 128));
    }

    #[test]
    fn a_window_larger_than_the_output_starts_at_its_corner() {
        let at = place((5000, 5000).into(), rect(100, 0, 1000, 700), &[]);
        assert_eq!((at.x, at.y), (100, 0));
    }
}
