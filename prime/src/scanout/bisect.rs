//! Which property of a layer a driver most likely minds, when it refused a test that nothing the plane says of itself predicts.
//!
//! It owns the search: what to ask next, and what the answers say. It asks nobody. Whoever does asks one question at a time,
//! as long as there is nothing better to do, and may stop for ever after any of them.
//!
//! ```text
//!  as it was ── accepted ──> it was a matter of the moment
//!      │ refused
//!  nothing unusual left ── refused ──> the buffer or the plane itself
//!      │ accepted
//!  without one property, for each ── accepted ──> that one
//!      │ all refused
//!  nothing unusual but one property, for each ──> those that are refused, or all of them together
//! ```
//!
//! What comes out is a guess: drivers may mind the sum of bandwidths, the order of planes or the time of day.

use std::fmt;

use super::geometry::{Rect, SourceRect};
use super::layer::Layer;
use super::plane::Rotation;

/// Questions that a search asks at most.
pub const MAX_TRIALS: usize = 2 + 2 * PROPERTIES.len();
/// Pixels to which a layer is cut for [`Property::Size`].
const SMALL: u32 = 64;

/// What can be unusual about a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Property {
    /// It is larger or smaller on the CRTC than in its buffer.
    Scaling,
    /// It is turned or reflected.
    Rotation,
    /// It is seen in part.
    Alpha,
    /// Its part of the buffer does not begin at the first pixel.
    Crop,
    /// It is larger than a few pixels.
    Size,
    /// It is not in the corner of the CRTC.
    Position,
    /// Other layers are on planes, too.
    OtherPlanes,
}

/// In the order in which they are tried: the likeliest first.
const PROPERTIES: [Property; 7] = [
    Property::Scaling,
    Property::Rotation,
    Property::Alpha,
    Property::Crop,
    Property::Size,
    Property::Position,
    Property::OtherPlanes,
];

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scaling => "scaling",
            Self::Rotation => "rotation",
            Self::Alpha => "alpha",
            Self::Crop => "the part of the buffer",
            Self::Size => "size",
            Self::Position => "position",
            Self::OtherPlanes => "the number of planes",
        })
    }
}

/// Properties that a trial does without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Without(u8);

impl Without {
    fn with(self, property: Property) -> Self {
        Self(self.0 | 1 << property as u8)
    }

    fn but(self, property: Property) -> Self {
        Self(self.0 & !(1 << property as u8))
    }

    /// Whether the trial does without a property.
    pub fn has(self, property: Property) -> bool {
        self.0 & (1 << property as u8) != 0
    }
}

/// What is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Names the trial when it is answered.
    pub without: Without,
    /// The layer as it is to be tried.
    pub layer: Layer,
    /// With whatever else is on planes; otherwise with nothing but the composited picture.
    pub with_others: bool,
}

/// What the answers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Likely {
    /// It was accepted when it was asked again.
    TheMoment,
    /// Refused whatever else is changed.
    TheBuffer,
    /// Accepted without this one.
    Property(Property),
    /// Accepted without all of these, and without none of them alone.
    Together(Vec<Property>),
}

/// The end of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// What it likely was.
    pub likely: Likely,
    /// Questions that were asked.
    pub trials: usize,
}

impl fmt::Display for Guess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trials = self.trials;
        match &self.likely {
            Likely::TheMoment => write!(f, "likely a matter of the moment: accepted when asked again")?,
            Likely::TheBuffer => write!(f, "likely the buffer's format, layout or memory on this plane")?,
            Likely::Property(property) => write!(f, "likely: {property}")?,
            Likely::Together(all) => {
                let names: Vec<String> = all.iter().map(ToString::to_string).collect();
                write!(f, "likely: {}", names.join(" with "))?;
            }
        }
        write!(f, ", a guess from {trials} {}", if trials == 1 { "test" } else { "tests" })
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody is to ask this, and to [`Bisection::answer`].
    Ask(Trial),
    /// There is nothing more to ask.
    Done(Guess),
}

/// A search for what a driver minds about one layer on one plane.
#[derive(Clone, Debug)]
pub struct Bisection {
    layer: Layer,
    output: Rect,
    others: bool,
    answers: Vec<(Without, bool)>,
}

impl Bisection {
    /// Begins a search; `others` tells whether other layers were on planes, too.
    pub fn new(layer: Layer, output: Rect, others: bool) -> Self {
        Self { layer, output, others, answers: Vec::new() }
    }

    /// Takes in whether a trial was accepted.
    pub fn answer(&mut self, without: Without, accepted: bool) {
        self.answers.push((without, accepted));
    }

    /// What to ask now, or what was found.
    pub fn step(&self) -> Step {
        let known = |without: Without| self.answers.iter().find(|(w, _)| *w == without).map(|(_, yes)| *yes);
        let ask = |without| Step::Ask(self.trial(without));
        let present: Vec<Property> = PROPERTIES.into_iter().filter(|p| self.is_unusual(*p)).collect();
        let all = present.iter().fold(Without::default(), |set, p| set.with(*p));
        match known(Without::default()) {
            None => return ask(Without::default()),
            Some(true) => return self.done(Likely::TheMoment),
            Some(false) => {}
        }
        match known(all) {
            None => return ask(all),
            Some(false) => return self.done(Likely::TheBuffer),
            Some(true) => {}
        }
        for property in &present {
            let alone = Without::default().with(*property);
            match known(alone) {
                None => return ask(alone),
                Some(true) => return self.done(Likely::Property(*property)),
                Some(false) => {}
            }
        }
        let mut minded = Vec::new();
        for property in &present {
            match known(all.but(*property)) {
                None => return ask(all.but(*property)),
                Some(false) => minded.push(*property),
                Some(true) => {}
            }
        }
        self.done(Likely::Together(if minded.is_empty() { present } else { minded }))
    }

    fn done(&self, likely: Likely) -> Step {
        Step::Done(Guess { likely, trials: self.answers.len() })
    }

    fn is_unusual(&self, property: Property) -> bool {
        let (Layer { src, dst, .. }, plain) = (&self.layer, unturned(&self.layer));
        match property {
            Property::Scaling => (src.w, src.h) != (plain.0 << 16, plain.1 << 16),
            Property::Rotation => self.layer.rotation.bits() != Rotation::NORMAL.bits(),
            Property::Alpha => self.layer.alpha != u16::MAX,
            Property::Crop => (src.x, src.y) != (0, 0),
            Property::Size => dst.w > SMALL || dst.h > SMALL,
            Property::Position => (dst.x, dst.y) != (self.output.x, self.output.y),
            Property::OtherPlanes => self.others,
        }
    }

    fn trial(&self, without: Without) -> Trial {
        let mut layer = self.layer.clone();
        if without.has(Property::Rotation) {
            (layer.dst.w, layer.dst.h) = unturned(&layer);
            layer.rotation = Rotation::NORMAL;
        }
        if without.has(Property::Scaling) {
            let (w, h) = (whole(layer.src.w), whole(layer.src.h));
            let turned = layer.rotation.turns_sides();
            (layer.dst.w, layer.dst.h) = if turned { (h, w) } else { (w, h) };
            (layer.src.w, layer.src.h) = (w << 16, h << 16);
        }
        if without.has(Property::Alpha) {
            layer.alpha = u16::MAX;
        }
        if without.has(Property::Crop) {
            (layer.src.x, layer.src.y) = (0, 0);
        }
        if without.has(Property::Size) {
            shrink(&mut layer);
        }
        if without.has(Property::Position) {
            (layer.dst.x, layer.dst.y) = (self.output.x, self.output.y);
        }
        Trial { without, layer, with_others: self.others && !without.has(Property::OtherPlanes) }
    }
}

/// Whole pixels of a length in 16.16 fixed point, at least one.
fn whole(fixed: u32) -> u32 {
    (fixed >> 16).max(1)
}

/// The size on the CRTC, had the picture not been turned.
fn unturned(layer: &Layer) -> (u32, u32) {
    let (w, h) = (layer.dst.w, layer.dst.h);
    if layer.rotation.turns_sides() { (h, w) } else { (w, h) }
}

/// Cuts a layer to a few pixels, scaled as it was.
fn shrink(layer: &mut Layer) {
    let turned = layer.rotation.turns_sides();
    let cut = |src: &mut u32, dst: &mut u32| {
        if *dst > SMALL {
            let part = u64::from(*src) * u64::from(SMALL) / u64::from(*dst);
            *src = u32::try_from(part).unwrap_or(u32::MAX).max(1 << 16);
            *dst = SMALL;
        }
    };
    let SourceRect { w, h, .. } = &mut layer.src;
    let (across, down) = if turned { (h, w) } else { (w, h) };
    cut(across, &mut layer.dst.w);
    cut(down, &mut layer.dst.h);
}

#[cfg(test)]
mod tests {
    use drm_fourcc::{DrmFourcc, DrmModifier};
    use proptest::prelude::*;

    use super::super::layer::Scannable;
    use super::*;

    const OUTPUT: Rect = Rect::new(0, 0, 1920, 1080);

    /// Everything about it is unusual.
    fn odd() -> Layer {
        let content = Ok(Scannable::new(DrmFourcc::Nv12, DrmModifier::Linear));
        let src = SourceRect { x: 8 << 16, y: 0, w: 640 << 16, h: 360 << 16 };
        let rotation = Rotation::new(1, false, false);
        Layer { rotation, alpha: 0x8000, ..Layer::new(Rect::new(10, 20, 720, 1280), src, true, content) }
    }

    /// Runs a search against a driver, and checks every question.
    fn run(layer: Layer, others: bool, takes: impl Fn(&Trial) -> bool) -> Guess {
        let mut search = Bisection::new(layer, OUTPUT, others);
        for _ in 0..=MAX_TRIALS {
            match search.step() {
                Step::Done(guess) => return guess,
                Step::Ask(trial) => {
                    assert!(!search.answers.iter().any(|(w, _)| *w == trial.without), "asked twice");
                    search.answer(trial.without, takes(&trial));
                }
            }
        }
        panic!("more than {MAX_TRIALS} questions");
    }

    fn scaled(trial: &Trial) -> bool {
        let (w, h) = unturned(&trial.layer);
        (trial.layer.src.w, trial.layer.src.h) != (w << 16, h << 16)
    }

    #[test]
    fn the_one_property_that_a_driver_minds_is_found() {
        let turned = |t: &Trial| t.layer.rotation.bits() != 1;
        type Driver = (Property, fn(&Trial) -> bool);
        let drivers: [Driver; 7] = [
            (Property::Scaling, |t| !scaled(t)),
            (Property::Rotation, |t| t.layer.rotation.bits() == 1),
            (Property::Alpha, |t| t.layer.alpha == u16::MAX),
            (Property::Crop, |t| t.layer.src.x == 0),
            (Property::Size, |t| t.layer.dst.w <= 64),
            (Property::Position, |t| t.layer.dst.x == 0),
            (Property::OtherPlanes, |t| !t.with_others),
        ];
        for (minds, takes) in drivers {
            let guess = run(odd(), true, takes);
            assert_eq!(guess.likely, Likely::Property(minds));
            assert!(guess.trials <= 9, "{guess:?}");
        }
        let both = run(odd(), true, |t| !scaled(t) && !turned(t));
        assert_eq!(both.likely, Likely::Together(vec![Property::Scaling, Property::Rotation]));
    }

    #[test]
    fn a_layer_is_cut_and_scaled_as_it_was() {
        let all = Bisection::new(odd(), OUTPUT, true);
        let small = all.trial(Without::default().with(Property::Size)).layer;
        // 640x360 turned is 360x640, shown as 720x1280: twice as large.
        assert_eq!((small.dst, small.src.w, small.src.h), (Rect::new(10, 20, 64, 64), 32 << 16, 32 << 16));
        let plain = all.trial(Without::default().with(Property::Scaling)).layer;
        assert_eq!((plain.dst.w, plain.dst.h), (360, 640));
    }

    #[test]
    fn what_was_a_matter_of_the_moment_or_of_the_buffer_is_said() {
        assert_eq!(run(odd(), false, |_| true), Guess { likely: Likely::TheMoment, trials: 1 });
        let never = run(odd(), false, |_| false);
        assert_eq!(never, Guess { likely: Likely::TheBuffer, trials: 2 });
        assert_eq!(
            never.to_string(),
            "likely the buffer's format, layout or memory on this plane, a guess from 2 tests"
        );
        // Nothing is unusual about a small layer in the corner.
        let src = SourceRect::whole(32, 32);
        let plain = Layer::new(Rect::new(0, 0, 32, 32), src, true, odd().content);
        assert_eq!(run(plain, false, |_| false), Guess { likely: Likely::TheBuffer, trials: 1 });
    }

    #[test]
    fn a_guess_says_that_it_is_one() {
        let guess = Guess { likely: Likely::Property(Property::Scaling), trials: 3 };
        assert_eq!(guess.to_string(), "likely: scaling, a guess from 3 tests");
        let both = vec![Property::Rotation, Property::Size];
        let guess = Guess { likely: Likely::Together(both), trials: 11 };
        assert_eq!(guess.to_string(), "likely: rotation with size, a guess from 11 tests");
    }

    proptest! {
        /// Whatever a driver minds, and however moody it is, the search ends in time.
        #[test]
        fn it_ends(answers in proptest::collection::vec(any::<bool>(), MAX_TRIALS), others in any::<bool>()) {
            let count = std::cell::Cell::new(0);
            let next = || { count.set(count.get() + 1); answers[count.get() - 1] };
            let guess = run(odd(), others, |_| next());
            prop_assert!(guess.trials <= MAX_TRIALS);
        }

        /// A driver that minds any of a set of properties is taken at its word: doing without what was found is accepted
        /// whenever it is one, and it is in the set.
        #[test]
        fn what_is_found_is_minded(minds in 1u8..128) {
            let guess = run(odd(), true, |t| (!t.without.0) & minds == 0);
            let in_set = |p: &Property| minds & (1 << *p as u8) != 0;
            match guess.likely {
                Likely::Property(p) => prop_assert!(in_set(&p) && minds.count_ones() == 1),
                Likely::Together(all) => prop_assert!(all.iter().all(in_set) && all.len() == minds.count_ones() as usize),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
