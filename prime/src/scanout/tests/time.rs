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

#[test]
fn a_better_layer_waits_for_a_plane_and_gets_it() {
    let mut planner = Planner::new();
    assert_eq!(on(&mut planner, &row(&[0, 1]), 0), [0, 1]);
    let mut three = row(&[2, 0, 1]);
    three[0].dst.h = 60;
    three[0].src.h = 60 << 16;
    // Being larger is not enough at once.
    assert_eq!(on(&mut planner, &three, 100), [0, 1]);
    assert_eq!(on(&mut planner, &three, 1099), [0, 1]);
    // The plan does not stand for ever though nothing changed.
    assert_eq!(on(&mut planner, &three, 1100), [0, 2]);
    // It stays so: the other one has no better claim, however long it waits.
    assert_eq!(on(&mut planner, &three, 2200), [0, 2]);
    assert_eq!(on(&mut planner, &three, 60_000), [0, 2]);
    // Two steps more often is enough at once.
    three[2].rate = 4;
    assert_eq!(on(&mut planner, &three, 60_001), [1, 2]);
}

#[test]
fn equals_do_not_take_turns() {
    let mut planner = Planner::new();
    let layers = row(&[0, 1, 2]);
    let first = on(&mut planner, &layers, 0);
    let made = (1..200u64).filter(|turn| {
        let planes = planes();
        let scene = Scene::new(&planes, &layers, OUTPUT);
        let made = planner.plan(&scene, ms(turn * 100), |_| Ok(()));
        assert_eq!(on(&mut planner, &layers, turn * 100), first);
        made
    });
    assert_eq!(made.count(), 1, "once, when the third had waited long enough");
}

#[test]
fn who_comes_and_goes_too_often_stays_composited_for_a_while() {
    let mut planner = Planner::new();
    let alone = row(&[7]);
    let cover = shm(Rect::new(420, 0, 10, 10));
    let covered = vec![Layer { key: 1, ..cover }, alone[0].clone()];
    let mut now = 0;
    let mut flap = |planner: &mut Planner| {
        now += 100;
        on(planner, &covered, now);
        now += 100;
        (on(planner, &alone, now), now)
    };
    assert_eq!(on(&mut planner, &alone, 0), [7]);
    assert_eq!(flap(&mut planner).0, [7]);
    assert_eq!(flap(&mut planner).0, [7]);
    let (on_planes, mut now) = flap(&mut planner);
    assert_eq!(on_planes, [0u64; 0]);
    let held = Refusal::Held { losses: 3, wait: HOLD };
    assert_eq!(planner.last().unwrap().reason(0), Some(&held));
    // It returns by itself, HOLD after it lost the plane for the third time.
    now += HOLD.as_millis() as u64 - 100;
    assert_eq!(on(&mut planner, &alone, now - 1), [0u64; 0]);
    assert_eq!(on(&mut planner, &alone, now), [7]);
    // Twice as long the next time, and after a while of rest it is as good as new.
    assert_eq!(on(&mut planner, &covered, now + 10), [0u64; 0]);
    assert_eq!(on(&mut planner, &alone, now + 1009), [0u64; 0]);
    assert_eq!(on(&mut planner, &alone, now + 1010), [7]);
    assert_eq!(on(&mut planner, &covered, now + 9000), [0u64; 0]);
    assert_eq!(on(&mut planner, &alone, now + 9001), [7]);
}

/// Counts what a driver is asked in a test.
fn asked(
    planner: &mut Planner,
    scene: &Scene<'_>,
    now: u64,
    answer: impl Fn(&Plan) -> Result<(), Errno>,
) -> usize {
    let mut count = 0;
    planner.plan(scene, ms(now), |plan| {
        count += 1;
        answer(plan)
    });
    count
}

#[test]
fn a_thousand_scaled_layers_cost_a_few_questions() {
    let planes: Vec<PlaneCaps> = std::iter::once(plane(1, PlaneType::Primary, Some(0)))
        .chain((2..10).map(|raw| plane(raw, PlaneType::Overlay, Some(i64::from(raw)))))
        .collect();
    let mut layers: Vec<Layer> = (0..1024)
        .map(|key| {
            let dst = Rect::new(30 * (key % 32) as i32, 15 * (key / 32) as i32, 20, 10);
            Layer { key, src: SourceRect::whole(40, 20), ..layer(dst, true) }
        })
        .collect();
    let mut planner = Planner::new();
    let refuse = |_: &Plan| Err(Errno::INVAL);
    let count = asked(&mut planner, &Scene::new(&planes, &layers, OUTPUT), 0, refuse);
    assert!((1..=MAX_ASKS).contains(&count), "{count}");
    let plan = planner.last().unwrap();
    assert_eq!((plan.composited().count(), plan.asked), (1024, count));
    for i in 0..1024 {
        assert_eq!(plan.refusals_of(i).len(), planes.len());
    }
    let ranked = plan.refusals.iter().find(|(_, _, r)| matches!(r, Refusal::NotAmongBest { .. }));
    assert_eq!(ranked.map(|r| &r.2), Some(&Refusal::NotAmongBest { rank: 65, bound: MAX_CANDIDATES }));
    assert!(plan.refusals.iter().any(|(.., r)| matches!(r, Refusal::Test { errno: Errno::INVAL })));
    // Not one of them has another shape when it moves, so sooner or later nothing is asked any more.
    let mut last = count;
    for turn in 1..10i32 {
        layers.iter_mut().for_each(|layer| layer.dst.y += if turn % 2 == 0 { 1 } else { -1 });
        layers.iter_mut().for_each(|layer| layer.dst.y = layer.dst.y.max(0));
        last = asked(&mut planner, &Scene::new(&planes, &layers, OUTPUT), 0, refuse);
        assert!(last <= MAX_ASKS);
    }
    assert_eq!(last, 0);
    assert!(planner.verdicts() <= MAX_VERDICTS);
}

#[test]
fn one_culprit_among_eight_costs_few_questions_and_nobody_else_a_plane() {
    let planes: Vec<PlaneCaps> = std::iter::once(plane(1, PlaneType::Primary, Some(0)))
        .chain((2..11).map(|raw| plane(raw, PlaneType::Overlay, Some(i64::from(raw)))))
        .collect();
    let layers: Vec<Layer> = row(&[0, 1, 2, 3, 4, 5, 6, 7]);
    for culprit in 0..8 {
        let mut planner = Planner::new();
        let answer = |plan: &Plan| match plan.planes[culprit] {
            Some(_) => Err(Errno::INVAL),
            None => Ok(()),
        };
        let count = asked(&mut planner, &Scene::new(&planes, &layers, OUTPUT), 0, answer);
        let plan = planner.last().unwrap();
        assert_eq!(plan.composited().collect::<Vec<_>>(), [culprit], "after {count} questions");
        assert!(plan.refusals_of(culprit).iter().any(|(.., r)| matches!(r, Refusal::Test { .. })));
    }
}

#[test]
fn what_the_driver_said_is_not_asked_again() {
    let (planes, mut planner) = (planes(), Planner::new());
    let (one, two) = (row(&[0]), row(&[0, 1]));
    let fine = |_: &Plan| Ok(());
    let ask = |planner: &mut Planner, layers: &[Layer], now| {
        asked(planner, &Scene::new(&planes, layers, OUTPUT), now, fine)
    };
    assert_eq!(ask(&mut planner, &one, 0), 1);
    assert_eq!(ask(&mut planner, &two, 1), 1);
    // Back and forth.
    assert_eq!(ask(&mut planner, &one, 2) + ask(&mut planner, &two, 3) + ask(&mut planner, &one, 4), 0);
    assert_eq!((planner.asked(), planner.verdicts()), (2, 2));
    // Another format is another configuration.
    let mut other = one.clone();
    other[0].content = Ok(Scannable::new(DrmFourcc::Nv12, DrmModifier::Linear));
    assert_eq!(ask(&mut planner, &other, 5), 1);
    // A new mode, and all answers are void.
    planner.forget();
    assert_eq!(ask(&mut planner, &one, 6), 1);
    // As many as there may be, and no more.
    for step in 0..200 {
        let mut moved = one.clone();
        moved[0].dst.x += step;
        ask(&mut planner, &moved, 7);
    }
    assert_eq!(planner.verdicts(), MAX_VERDICTS);
}

#[test]
fn errors_of_the_moment_are_not_remembered() {
    let (planes, mut planner) = (planes(), Planner::new());
    let (layers, other) = (row(&[0]), row(&[1]));
    for errno in [Errno::NOMEM, Errno::BUSY, Errno::INTR] {
        asked(&mut planner, &Scene::new(&planes, &layers, OUTPUT), 0, |_| Err(errno));
        assert!(planner.last().unwrap().planes[0].is_none());
        asked(&mut planner, &Scene::new(&planes, &other, OUTPUT), 0, |_| Ok(()));
        assert!(asked(&mut planner, &Scene::new(&planes, &layers, OUTPUT), 0, |_| Ok(())) > 0);
        assert!(planner.last().unwrap().planes[0].is_some(), "{errno}");
        planner.forget();
    }
}

#[test]
fn a_refused_commit_takes_everything_off_until_something_changes() {
    let mut planner = Planner::new();
    let layers = row(&[0, 1]);
    assert_eq!(on(&mut planner, &layers, 0), [0, 1]);
    planner.refused(Errno::INVAL, ms(1));
    let plan = planner.last().unwrap().clone();
    assert_eq!((plan.composited().count(), plan.settings.len()), (2, 0));
    assert_eq!(plan.reason(1), Some(&Refusal::Commit { errno: Errno::INVAL }));
    assert_eq!(on(&mut planner, &layers, 2), [0u64; 0]);
    // Something changes: one plane less is tried than was refused.
    assert_eq!(on(&mut planner, &row(&[0]), 3), [0]);
    assert_eq!(on(&mut planner, &layers, 4).len(), 1);
    // In time it is tried again, whatever the reason was.
    assert_eq!(on(&mut planner, &row(&[0]), 6000), [0]);
    assert_eq!(on(&mut planner, &layers, 6001), [0, 1]);
}

#[test]
fn without_overlays_the_primary_and_the_cursor_plane_are_left() {
    let planes = planes();
    let pointer = Pointer {
        dst: Rect::new(5, 5, 64, 64),
        hotspot: (3, 4),
        content: Ok(Scannable::new(DrmFourcc::Argb8888, DrmModifier::Linear)),
    };
    let layers = [layer(OUTPUT, true)];
    let mut scene =
        Scene { pointer: Some(&pointer), overlays: false, ..Scene::new(&planes, &layers, OUTPUT) };
    let made = plan(&scene, |_| Ok(()));
    assert_eq!((made.planes[0], made.pointer), (Some(id(1)), Some(id(4))));
    let small = [layer(Rect::new(0, 0, 9, 9), true)];
    scene.layers = &small;
    let made = plan(&scene, |_| Ok(()));
    assert_eq!((made.planes[0], made.pointer), (None, Some(id(4))));
    assert!(made.refusals.contains(&(0, id(3), Refusal::Disabled)));
}

#[test]
fn a_pointer_moves_on_its_plane_without_a_new_plan() {
    let (planes, mut planner) = (planes(), Planner::new());
    let layers = row(&[0]);
    let mut pointer = Pointer {
        dst: Rect::new(5, 5, 64, 64),
        hotspot: (0, 0),
        content: Ok(Scannable::new(DrmFourcc::Argb8888, DrmModifier::Linear)),
    };
    for step in 0..100 {
        pointer.dst.x = step * 3;
        let scene = Scene { pointer: Some(&pointer), ..Scene::new(&planes, &layers, OUTPUT) };
        assert_eq!(planner.plan(&scene, ms(0), |_| Ok(())), step == 0);
    }
    assert_eq!((planner.asked(), planner.last().unwrap().pointer), (1, Some(id(4))));
    // Another size is another matter.
    pointer.dst.w = 128;
    let scene = Scene { pointer: Some(&pointer), ..Scene::new(&planes, &layers, OUTPUT) };
    assert!(planner.plan(&scene, ms(0), |_| Ok(())));
    // A pointer on an overlay, or composited, is part of the plan wherever it is.
    let planes = &planes[..3];
    for step in 0..3 {
        pointer.dst.x = step;
        let scene = Scene { pointer: Some(&pointer), ..Scene::new(planes, &layers, OUTPUT) };
        assert!(planner.plan(&scene, ms(0), |_| Ok(())));
        assert_eq!(planner.last().unwrap().pointer, Some(id(3)));
    }
}
