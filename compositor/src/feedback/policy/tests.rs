//! What surfaces are told, with a made clock: surfaces, outputs and tranches are numbers here.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

type Numbers = Policy<u8, u8, Vec<u32>>;

const FIRST: u8 = 1;
const SECOND: u8 = 2;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn planes(ids: &[u32]) -> Vec<PlaneId> {
    ids.iter().filter_map(|id| PlaneId::new(*id)).collect()
}

/// A surface to which these planes are open.
fn seen(surface: u8, open: &[u32]) -> Planned<u8> {
    let dst = Rect::new(0, 0, 10, 10);
    let shape = Shape { src: SourceRect::default(), dst };
    Planned { surface, area: 100, shape, opaque: true, plane: None, open: planes(open), refused: Vec::new() }
}

/// What planes take: their numbers, below 100.
fn tranche(open: &[PlaneId], _opaque: bool) -> Option<Vec<u32>> {
    let mut taken: Vec<u32> = open.iter().map(|plane| plane.get()).filter(|id| *id < 100).collect();
    taken.sort_unstable();
    (!taken.is_empty()).then_some(taken)
}

/// A policy whose outputs' plans are given as needed.
#[derive(Default)]
struct Bench(Numbers);

impl Bench {
    fn plan(&mut self, millis: u64, output: u8, layers: &[Planned<u8>]) {
        self.0.planned(at(millis), output, layers.to_vec(), tranche);
    }

    /// One surface alone on the first output.
    fn only(&mut self, millis: u64, open: &[u32]) {
        self.plan(millis, FIRST, &[seen(7, open)]);
    }

    fn due(&mut self, millis: u64) -> Vec<(u8, Option<Vec<u32>>)> {
        self.0.due(at(millis))
    }

    fn told(&self) -> Option<&[u32]> {
        self.0.told(&7).map(Vec::as_slice)
    }
}

#[test]
fn a_surface_is_told_when_planes_have_been_open_for_two_seconds() {
    let mut bench = Bench::default();
    assert_eq!(bench.0.deadline(), None);
    bench.only(1000, &[1, 2]);
    assert_eq!((bench.0.deadline(), bench.told()), (Some(at(3000)), None));
    bench.only(2000, &[1, 2]);
    assert_eq!(bench.due(2999), []);
    assert_eq!(bench.due(3000), [(7, Some(vec![1, 2]))]);
    assert_eq!((bench.0.deadline(), bench.told()), (None, Some(&[1, 2][..])));
    assert_eq!(bench.due(9000), []);
}

#[test]
fn a_change_of_mind_starts_the_two_seconds_anew_and_one_back_ends_them() {
    let mut bench = Bench::default();
    bench.only(0, &[1]);
    bench.only(1500, &[2]);
    assert_eq!(bench.due(2000), []);
    bench.only(3000, &[]);
    assert_eq!(bench.0.deadline(), None, "nothing is to be told, so nothing may wake up");
    assert_eq!(bench.due(9000), []);
    bench.only(10_000, &[1]);
    assert_eq!(bench.due(12_000), [(7, Some(vec![1]))]);
    // Covered for a moment.
    bench.only(13_000, &[]);
    bench.only(14_000, &[1]);
    assert_eq!((bench.0.deadline(), bench.due(20_000)), (None, vec![]));
    bench.only(21_000, &[]);
    assert_eq!(bench.due(23_000), [(7, None)]);
}

#[test]
fn what_goes_is_forgotten() {
    let mut bench = Bench::default();
    bench.only(0, &[1]);
    bench.0.surface_gone(&7);
    assert!(bench.0.is_empty() && bench.0.deadline().is_none());
    // Unmapped, or its window closed, before it was told anything.
    bench.only(0, &[1]);
    bench.plan(100, FIRST, &[]);
    assert!(bench.0.is_empty() && bench.0.deadline().is_none());
    // And after it was told something: it is told of that end, too.
    bench.only(0, &[1]);
    bench.due(2000);
    bench.0.output_gone(at(3000), FIRST);
    assert_eq!((bench.0.len(), bench.due(5000)), (1, vec![(7, None)]));
    assert!(bench.0.is_empty());
}

#[test]
fn the_output_that_shows_most_of_it_decides() {
    let mut bench = Bench::default();
    let part = |area, open: &[u32]| [Planned { area, ..seen(7, open) }];
    bench.plan(0, FIRST, &part(60, &[1]));
    bench.plan(0, SECOND, &part(40, &[2]));
    assert_eq!(bench.due(2000), [(7, Some(vec![1]))]);
    bench.plan(3000, FIRST, &part(40, &[1]));
    bench.plan(3000, SECOND, &part(60, &[2]));
    assert_eq!(bench.due(5000), [(7, Some(vec![2]))]);
    // Half and half: no reason to change.
    bench.plan(6000, SECOND, &part(40, &[2]));
    assert_eq!(bench.due(8000), [(7, Some(vec![1]))]);
    bench.plan(9000, SECOND, &part(40, &[2]));
    assert_eq!(bench.0.deadline(), None);
    bench.0.output_gone(at(9000), FIRST);
    assert_eq!(bench.due(11_000), [(7, Some(vec![2]))]);
}

/// The driver refuses what the client made of the tranche: it is told of none, and its old format brings none back.
#[test]
fn a_plane_that_the_driver_refused_stays_refused_until_the_surface_is_shown_otherwise() {
    let mut bench = Bench::default();
    bench.only(0, &[1, 2]);
    assert_eq!(bench.due(2000), [(7, Some(vec![1, 2]))]);
    let refused = |ids: &[u32], open: &[u32]| [Planned { refused: planes(ids), ..seen(7, open) }];
    bench.plan(3000, FIRST, &refused(&[1, 2], &[]));
    assert_eq!(bench.due(5000), [(7, None)]);
    for millis in [6000, 7000, 8000] {
        bench.only(millis, &[1, 2]);
        assert_eq!(bench.0.deadline(), None);
    }
    let mut moved = seen(7, &[1, 2]);
    moved.shape.dst.x = 1;
    bench.plan(9000, FIRST, &[moved]);
    assert_eq!(bench.due(11_000), [(7, Some(vec![1, 2]))]);
    // One that shows it after all is refused no longer.
    bench.plan(12_000, FIRST, &refused(&[1, 2], &[]));
    bench.plan(12_000, FIRST, &[Planned { plane: PlaneId::new(2), ..seen(7, &[1, 2]) }]);
    assert_eq!(bench.due(14_000), [(7, Some(vec![2]))]);
}

#[test]
fn planes_that_take_nothing_of_use_are_no_reason() {
    let mut bench = Bench::default();
    bench.only(0, &[100]);
    assert_eq!((bench.0.deadline(), bench.due(2000)), (None, vec![]));
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Plan {
        output: u8,
        layers: Vec<Planned<u8>>,
    },
    OutputGone(u8),
    SurfaceGone(u8),
    /// The timer is served so many milliseconds later.
    Wait(u64),
}

prop_compose! {
    fn any_layer()(surface in 0u8..4, area in 0u64..3, open in prop::collection::vec(1u32..4, 0..3),
                   refused in prop::collection::vec(1u32..4, 0..2), on: bool, x in 0i32..2) -> Planned<u8> {
        let mut layer = Planned { area, refused: planes(&refused), ..seen(surface, &open) };
        layer.shape.dst.x = x;
        layer.plane = layer.open.first().copied().filter(|_| on);
        layer
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (FIRST..=SECOND, prop::collection::vec(any_layer(), 0..4)).prop_map(|(output, mut layers)| {
            layers.sort_by_key(|layer| layer.surface);
            layers.dedup_by_key(|layer| layer.surface);
            Step::Plan { output, layers }
        }),
        1 => (FIRST..=SECOND).prop_map(Step::OutputGone),
        1 => (0u8..4).prop_map(Step::SurfaceGone),
        6 => (0u64..3000).prop_map(Step::Wait),
    ]
}

/// What happened to each surface as its client sees it.
#[derive(Default)]
struct Clients {
    told: HashMap<u8, (Duration, Option<Vec<u32>>)>,
}

impl Clients {
    fn hear(&mut self, now: Duration, news: Vec<(u8, Option<Vec<u32>>)>) {
        for (surface, feedback) in news {
            if let Some((last, before)) = self.told.get(&surface) {
                assert!(now - *last >= PATIENCE, "{surface} told at {last:?} and at {now:?}");
                assert_ne!(*before, feedback, "{surface} told the same again");
            } else {
                assert!(feedback.is_some(), "{surface} told the default that it had");
            }
            self.told.insert(surface, (now, feedback));
        }
    }
}

proptest! {
    /// Whatever the plans are: never more than one change in two seconds, never the same twice, a timer only where a
    /// change waits; and after two quiet seconds everybody has been told what the last plans say, and those who are
    /// shown nowhere are forgotten.
    #[test]
    fn clients_hear_little_and_the_right_thing_in_the_end(steps in prop::collection::vec(any_step(), 0..60)) {
        let mut policy = Numbers::default();
        let mut clients = Clients::default();
        let mut now = Duration::ZERO;
        let mut last: HashMap<u8, HashMap<u8, Planned<u8>>> = HashMap::new();
        for step in steps {
            match step {
                Step::Plan { output, layers } => {
                    policy.planned(now, output, layers.clone(), tranche);
                    last.insert(output, layers.into_iter().map(|layer| (layer.surface, layer)).collect());
                }
                Step::OutputGone(output) => {
                    policy.output_gone(now, output);
                    last.remove(&output);
                }
                Step::SurfaceGone(surface) => {
                    policy.surface_gone(&surface);
                    clients.told.remove(&surface);
                    last.values_mut().for_each(|shown| { shown.remove(&surface); });
                }
                Step::Wait(millis) => {
                    now += at(millis);
                    clients.hear(now, policy.due(now));
                }
            }
            if let Some(deadline) = policy.deadline() {
                prop_assert!(deadline <= now + PATIENCE);
            }
        }
        now += PATIENCE;
        clients.hear(now, policy.due(now));
        prop_assert_eq!(policy.deadline(), None);
        prop_assert_eq!(policy.due(now + PATIENCE), vec![]);
        for surface in 0..4 {
            let heard = clients.told.get(&surface).and_then(|(_, feedback)| feedback.as_ref());
            prop_assert_eq!(heard, policy.told(&surface));
            let views: Vec<_> = last.values().filter_map(|shown| shown.get(&surface)).collect();
            match views.as_slice() {
                [] => prop_assert!(policy.told(&surface).is_none() && !policy.surfaces.contains_key(&surface)),
                [view] if view.refused.is_empty() => {
                    // A plane that was refused before in the same shape may be missing; none may be too many.
                    let wish = tranche(&view.open, true).unwrap_or_default();
                    let told = policy.told(&surface).cloned().unwrap_or_default();
                    prop_assert!(told.iter().all(|plane| wish.contains(plane)), "{told:?} of {wish:?}");
                    if let Some(on) = view.plane {
                        prop_assert!(told.contains(&on.get()), "{told:?} lacks {on}");
                    }
                }
                _ => {}
            }
        }
        prop_assert!(policy.len() <= 4);
    }

    /// Without refusals of the driver what is told in the end is exactly what the last plan of the deciding output says.
    #[test]
    fn plans_alone_decide(plans in prop::collection::vec((any_layer(), 0u64..3000), 1..40)) {
        let mut policy = Numbers::default();
        let mut now = Duration::ZERO;
        let mut wish = None;
        for (layer, millis) in plans {
            let layer = Planned { surface: 0, refused: Vec::new(), ..layer };
            wish = tranche(&layer.open, true);
            policy.planned(now, FIRST, [layer], tranche);
            now += at(millis);
            policy.due(now);
        }
        policy.due(now + PATIENCE);
        prop_assert_eq!(policy.told(&0), wish.as_ref());
    }
}
