//! What time and memory do to plans: hysteresis, the driver's verdicts, and what a plan costs.

use super::*;

/// Layers side by side that differ in their key; topmost first.
fn row(keys: &[u64]) -> Vec<Layer> {
    let at = |key: u64| Rect::new(60 * key as i32, 0, 50, 50);
    keys.iter().map(|&key| Layer { key, ..layer(at(key), true) }).collect()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Plans `layers` at a time, and says who is on planes by key.
fn on(planner: &mut Planner, layers: &[Layer], now: u64) -> Vec<u64> {
    let planes = planes();
    planner.plan(&Scene::new(&planes, layers, OUTPUT), ms(now), |_| Ok(()));
    let plan = planner.last().unwrap();
    let mut keys: Vec<u64> =
        layers.iter().zip(&plan.planes).filter(|(_, p)| p.is_some()).map(|(l, _)| l.key).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn who_is_on_a_plane_stays_there() {
    let mut planner = Planner::new();
    assert_eq!(on(&mut planner, &row(&[0]), 0), [0]);
    let first = planner.last().unwrap().planes[0];
    assert_eq!(on(&mut planner, &row(&[1, 0]), 100), [0, 1]);
    assert_eq!(planner.last().unwrap().planes[1], first);
    assert_eq!(on(&mut planner, &row(&[2, 1, 0]), 200), [0, 1]);
    assert_eq!(planner.last().unwrap().planes[2], first);
}
