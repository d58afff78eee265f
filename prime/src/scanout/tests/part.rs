//! How large the composited picture is, and for how long.

use super::*;

const GRID: u32 = 64;

fn can_position() -> Vec<PlaneCaps> {
    let mut planes = planes();
    planes[0].covers_part = true;
    planes
}

fn scene<'a>(planes: &'a [PlaneCaps], layers: &'a [Layer]) -> Scene<'a> {
    let canvas =
        Canvas { grid: NonZeroU32::new(GRID), alpha: Some(DrmFourcc::Argb8888), ..Canvas::default() };
    Scene { canvas, crtc_shows_backdrop: true, ..Scene::new(planes, layers, OUTPUT) }
}

/// The part of a plan at a time, in milliseconds, and whether it is a new plan.
fn part_at(planner: &mut Planner, layers: &[Layer], now: u64) -> (Option<Rect>, bool) {
    let planes = can_position();
    let made = planner.plan(&scene(&planes, layers), Duration::from_millis(now), |_| Ok(()));
    (planner.last().unwrap().part, made)
}

fn part_of(planes: &[PlaneCaps], layers: &[Layer]) -> Option<Rect> {
    plan(&scene(planes, layers), |_| Ok(())).part
}

fn window(x: i32, y: i32) -> Layer {
    shm(Rect::new(x, y, 100, 50))
}

#[test]
fn it_is_what_is_drawn_on_a_grid_and_inside_the_output() {
    let planes = can_position();
    assert_eq!(part_of(&planes, &[window(70, 10)]), Some(Rect::new(64, 0, 128, 64)));
    assert_eq!(part_of(&planes, &[window(64, 64)]), Some(Rect::new(64, 64, 128, 64)));
    let two = [window(70, 10), window(300, 200)];
    assert_eq!(part_of(&planes, &two), Some(Rect::new(64, 0, 384, 256)));
    // The output ends at 1000 and at 500.
    assert_eq!(part_of(&planes, &[window(950, 480)]), Some(Rect::new(896, 448, 104, 52)));
    assert_eq!(part_of(&planes, &[window(-40, -20)]), Some(Rect::new(0, 0, 64, 64)));
    // What planes show is not drawn, nor what cannot be seen.
    let shown = layer(Rect::new(500, 300, 50, 50), true);
    assert_eq!(part_of(&planes, &[window(70, 10), shown]), Some(Rect::new(64, 0, 128, 64)));
    let behind = shm(Rect::new(80, 20, 10, 10));
    assert_eq!(part_of(&planes, &[window(70, 10), behind]), Some(Rect::new(64, 0, 128, 64)));
    // Nothing at all.
    assert_eq!(part_of(&planes, &[]), Some(Rect::new(0, 0, 64, 64)));
}

#[test]
fn an_output_elsewhere_has_its_grid_there() {
    let planes = can_position();
    let layers = [window(-90, 130)];
    let made = Scene { output: Rect::new(-100, 30, 300, 200), ..scene(&planes, &layers) };
    assert_eq!(plan(&made, |_| Ok(())).part, Some(Rect::new(-100, 94, 128, 128)));
}

#[test]
fn a_hole_is_drawn() {
    let mut planes = can_position();
    planes[1].zpos = Zpos::Fixed(-1);
    planes.truncate(2);
    let layers = [window(70, 10), layer(Rect::new(130, 20, 300, 100), true)];
    let made = plan(&scene(&planes, &layers), |_| Ok(()));
    assert_eq!((made.underlays, made.part), (vec![1], Some(Rect::new(64, 0, 384, 128))));
}

#[test]
fn it_is_the_whole_output_where_a_part_would_not_do() {
    let planes = can_position();
    let layers = [window(70, 10)];
    let good = scene(&planes, &layers);
    assert!(plan(&good, |_| Ok(())).part.is_some());
    assert_eq!(part_of(&super::planes(), &layers), None, "the plane cannot");
    assert_eq!(plan(&Scene { crtc_shows_backdrop: false, ..good }, |_| Ok(())).part, None);
    assert_eq!(plan(&Scene { canvas: Canvas::default(), ..good }, |_| Ok(())).part, None);
    assert_eq!(part_of(&planes, &[shm(OUTPUT)]), None, "all is needed");
    assert_eq!(part_of(&planes, &[layer(OUTPUT, true)]), None, "nothing is composited");
    let content = Err(Refusal::NotDmabuf);
    let pointer = Pointer { dst: Rect::new(70, 10, 8, 8), hotspot: (0, 0), content };
    assert_eq!(plan(&Scene { pointer: Some(&pointer), ..good }, |_| Ok(())).part, None, "it moves about");
    assert_eq!(Plan::composite_all(&layers, OUTPUT).part, None);
}

#[test]
fn a_composited_pointer_makes_one_plan_of_another_size_and_no_more() {
    let (planes, layers) = (can_position(), [window(70, 10)]);
    let mut planner = Planner::new();
    let content = Err(Refusal::NotDmabuf);
    let mut pointer = Pointer { dst: Rect::new(0, 0, 8, 8), hotspot: (0, 0), content };
    for step in 0..400 {
        pointer.dst.x = step;
        let scene = Scene { pointer: Some(&pointer), ..scene(&planes, &layers) };
        planner.plan(&scene, Duration::from_millis(10 * step as u64), |_| Ok(()));
        assert_eq!(planner.last().unwrap().part, None);
    }
}

#[test]
fn it_grows_at_once_and_becomes_smaller_when_it_has_been_too_large_for_a_while() {
    let mut planner = Planner::new();
    let (small, large) = (Rect::new(64, 0, 128, 64), Rect::new(64, 0, 384, 256));
    let (one, two) = ([window(70, 10)], [window(70, 10), window(300, 200)]);
    assert_eq!(part_at(&mut planner, &one, 0), (Some(small), true));
    assert_eq!(part_at(&mut planner, &two, 5000), (Some(large), true));
    assert_eq!(part_at(&mut planner, &one, 5010), (Some(large), true));
    assert_eq!(part_at(&mut planner, &one, 5999), (Some(large), false));
    // What was needed since it grew counts to the end of that time, and then no more.
    assert_eq!(part_at(&mut planner, &one, 6000), (Some(large), true));
    assert_eq!(part_at(&mut planner, &one, 6999), (Some(large), false));
    assert_eq!(part_at(&mut planner, &one, 7000), (Some(small), true));
    // And then it stands for ever.
    assert_eq!(part_at(&mut planner, &one, 3_600_000), (Some(small), false));
    planner.forget();
    assert_eq!(part_at(&mut planner, &two, 3_600_001), (Some(large), true));
}

#[test]
fn a_window_dragged_about_costs_few_sizes() {
    let mut planner = Planner::new();
    let mut sizes = vec![part_at(&mut planner, &[window(0, 0)], 0).0];
    // Right across the output in three seconds, and at rest.
    for step in 0..180 {
        let drawn = [window(step as i32 * 5, step as i32 * 2)];
        let (part, _) = part_at(&mut planner, &drawn, 5000 + 17 * step);
        assert!(part.unwrap_or(OUTPUT).contains(&drawn[0].dst));
        sizes.push(part);
    }
    let rest = [window(895, 358)];
    for step in 0..300 {
        sizes.push(part_at(&mut planner, &rest, 8060 + 10 * step).0);
    }
    sizes.dedup();
    // At first, grown once, the output, and what is needed in the end.
    assert_eq!(sizes.len(), 4, "{sizes:?}");
    assert_eq!(*sizes.last().unwrap(), Some(Rect::new(832, 320, 168, 128)));
    assert_eq!(sizes[2], None, "{sizes:?}");
}

#[test]
fn a_window_that_moves_to_and_fro_has_what_it_needs_and_no_more() {
    let mut planner = Planner::new();
    let at = |step: u64| [window([300, 340, 390, 340][step as usize % 4], 200)];
    let mut sizes: Vec<_> = (0..600).map(|step| part_at(&mut planner, &at(step), 10 * step).0).collect();
    assert_eq!(*sizes.last().unwrap(), Some(Rect::new(256, 192, 256, 64)));
    sizes.dedup();
    assert!(sizes.len() <= 4, "{sizes:?}");
}

#[test]
fn with_nothing_left_it_stays_where_it_was() {
    let mut planner = Planner::new();
    assert_eq!(part_at(&mut planner, &[window(300, 200)], 0).0, Some(Rect::new(256, 192, 192, 64)));
    assert_eq!(part_at(&mut planner, &[], 10).0, Some(Rect::new(256, 192, 192, 64)));
    assert_eq!(part_at(&mut planner, &[], 1010).0, Some(Rect::new(256, 192, 192, 64)));
    assert_eq!(part_at(&mut planner, &[], 2010).0, Some(Rect::new(256, 192, 64, 64)));
}

#[test]
fn where_the_driver_refuses_it_the_picture_covers_the_output_and_planes_are_as_before() {
    let planes = can_position();
    let mut layers = vec![window(70, 10), layer(Rect::new(500, 300, 50, 50), true)];
    let mut planner = Planner::new();
    let mut answers = |layers: &[Layer], now: u64| {
        let (mut parts, mut wholes) = (0, 0);
        planner.plan(&scene(&planes, layers), Duration::from_millis(now), |plan| match plan.part {
            Some(_) => {
                parts += 1;
                Err(Errno::INVAL)
            }
            None => {
                wholes += 1;
                Ok(())
            }
        });
        let plan = planner.last().unwrap();
        assert_eq!((plan.part, plan.asked), (None, parts + wholes));
        assert_eq!(plan.planes, [None, Some(id(3))]);
        assert!(plan.refusals_of(1).iter().all(|(.., r)| !matches!(r, Refusal::Test { .. })), "{plan:?}");
        (parts, wholes)
    };
    assert_eq!(answers(&layers, 0), (1, 1));
    // The same again is known.
    layers[0].dst.w = 90;
    assert_eq!(answers(&layers, 1), (0, 0));
    // With something else it is asked once more, and not again.
    for (step, expected) in [(1, (1, 1)), (2, (0, 1)), (3, (0, 1))] {
        layers[1].dst.x = 500 + step;
        assert_eq!(answers(&layers, 2 + step as u64), expected, "{step}");
    }
    // A new mode may be another matter.
    planner.forget();
    assert!(planner.plan(&scene(&planes, &layers), Duration::from_secs(9), |_| Ok(())));
    assert!(planner.last().unwrap().part.is_some());
}

#[test]
fn a_refused_commit_makes_it_the_whole_output_for_a_while() {
    let mut planner = Planner::new();
    let layers = [window(70, 10)];
    assert!(part_at(&mut planner, &layers, 0).0.is_some());
    planner.refused(Errno::INVAL, Duration::from_millis(1));
    assert_eq!(planner.last().unwrap().part, None);
    assert_eq!(part_at(&mut planner, &layers, 2), (None, false));
    let changed = [Layer { rate: 3, ..layers[0].clone() }];
    assert_eq!(part_at(&mut planner, &changed, 3), (None, true));
    assert_eq!(part_at(&mut planner, &layers, 6000), (Some(Rect::new(64, 0, 128, 64)), true));
}

/// What is refused for a layer is not blamed on the part, and costs one plane.
#[test]
fn a_layer_that_is_refused_does_not_cost_the_part() {
    let planes = can_position();
    let layers =
        [window(70, 10), layer(Rect::new(500, 300, 50, 50), true), layer(Rect::new(600, 300, 50, 50), true)];
    let made = plan(&scene(&planes, &layers), |plan| match plan.planes[2] {
        Some(_) => Err(Errno::INVAL),
        None => Ok(()),
    });
    assert_eq!((made.planes[1].is_some(), made.planes[2]), (true, None));
    assert_eq!(made.part, Some(Rect::new(64, 0, 640, 384)));
    assert!(made.asked <= MAX_ASKS);
}
