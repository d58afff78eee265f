//! Refusals in the words of the control socket: a kind for programs, the values that decided it, and a text that names
//! windows instead of numbers of layers.
//!
//! It owns the words. What would help is in [`super::remedy`]; that a refusal exists is the planner's decision.

use drm_fourcc::DrmModifier;
use drm_prime::scanout::{PlaneCaps, Refusal, Scaling};
use drm_prime::{FramebufferError, errno_name, format};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Why a surface is not on a plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusalReport {
    /// The planner's name of it, such as `format` or `covered-by-composited`.
    pub kind: String,
    /// A sentence.
    pub text: String,
    /// What decided it: other values for each kind.
    pub values: Value,
}

/// Who is meant by a layer's number.
pub type Names<'a> = dyn Fn(usize) -> String + 'a;

/// A modifier as people say it: LINEAR, `I915_X_TILED`, or the number in hex.
pub fn modifier_name(modifier: u64) -> String {
    match DrmModifier::from(modifier) {
        DrmModifier::Linear => "LINEAR".to_owned(),
        DrmModifier::Invalid => "INVALID".to_owned(),
        DrmModifier::Unrecognized(_) => format!("{modifier:#x}"),
        known => format!("{known:?}").to_uppercase(),
    }
}

/// The modifiers with which a plane takes a format, as people say them.
pub fn accepted(caps: &PlaneCaps, fourcc: drm_fourcc::DrmFourcc) -> Vec<String> {
    let mut modifiers: Vec<u64> =
        caps.formats.iter().filter(|(f, _)| *f == fourcc).map(|(_, modifier)| (*modifier).into()).collect();
    modifiers.sort_unstable();
    modifiers.into_iter().map(modifier_name).collect()
}

/// Why a plane does not take a pair, and the modifiers with which it takes the format; nothing if it lists the pair.
pub fn not_listed(
    caps: &PlaneCaps,
    fourcc: drm_fourcc::DrmFourcc,
    modifier: u64,
) -> Option<(String, Vec<String>)> {
    if caps.formats.iter().any(|(f, m)| *f == fourcc && u64::from(*m) == modifier) {
        return None;
    }
    let (accepted, name) = (accepted(caps, fourcc), format::name(fourcc as u32));
    let text = if accepted.is_empty() {
        format!("{name} is not among the plane's formats")
    } else {
        let modifier = modifier_name(modifier);
        format!("modifier {modifier} is not in IN_FORMATS for {name}; accepted: {}", accepted.join(", "))
    };
    Some((text, accepted))
}

/// The formats that a plane takes with any modifier.
pub fn formats(caps: &PlaneCaps) -> Vec<String> {
    let mut formats: Vec<String> =
        caps.formats.iter().map(|(fourcc, _)| format::name(*fourcc as u32)).collect();
    formats.sort_unstable();
    formats.dedup();
    formats
}

fn pixels(size: (u32, u32)) -> String {
    format!("{}x{}", size.0, size.1)
}

/// The factor of a scaled picture, destination by source; the sizes of the source are 16.16 fixed point.
pub fn factors(from: (u32, u32), to: (u32, u32)) -> (f64, f64) {
    let factor = |from: u32, to: u32| f64::from(to) * 65536.0 / f64::from(from.max(1));
    (factor(from.0, to.0), factor(from.1, to.1))
}

fn allowed(scaling: Scaling) -> String {
    let factor = |fixed: u32| f64::from(fixed) / 65536.0;
    match scaling {
        Scaling::Unknown => "any as far as is known".to_owned(),
        Scaling::Never => "none".to_owned(),
        Scaling::Range { min, max } => format!("{:.2}x to {:.2}x", factor(min), factor(max)),
    }
}

impl RefusalReport {
    /// Puts a refusal by a plane into words.
    pub fn new(refusal: &Refusal, plane: Option<&PlaneCaps>, names: &Names<'_>) -> Self {
        let (kind, text, values) = words(refusal, plane, names);
        Self { kind: kind.to_owned(), text: text.unwrap_or_else(|| refusal.to_string()), values }
    }
}

type Words = (&'static str, Option<String>, Value);

fn words(refusal: &Refusal, plane: Option<&PlaneCaps>, names: &Names<'_>) -> Words {
    let plain = |kind| (kind, None, Value::Null);
    match refusal {
        Refusal::NotDmabuf => plain("not-dmabuf"),
        Refusal::Disabled => plain("disabled"),
        Refusal::Framebuffer(why) => {
            let text = match &*why.0 {
                FramebufferError::Refused { format, modifier, source, .. } => {
                    let errno = Errno::from_io_error(source).map_or_else(|| source.to_string(), errno_name);
                    let what = format!("{} {}", format::name(*format as u32), modifier_name(*modifier));
                    Some(match plane.and_then(|caps| not_listed(caps, *format, *modifier)) {
                        Some((words, _)) => {
                            format!("{words}, and the device makes no framebuffer of it: {errno}")
                        }
                        None => format!("the device makes no framebuffer of {what}: {errno}"),
                    })
                }
                _ => None,
            };
            let values = json!({ "error": why.to_string(), "fault": format!("{:?}", why.0.fault()) });
            ("framebuffer", text, values)
        }
        Refusal::Importing => plain("importing"),
        Refusal::Format { format, modifier } => {
            let fourcc = format::name(*format as u32);
            let (text, accepted) = plane
                .and_then(|caps| not_listed(caps, *format, *modifier))
                .unwrap_or_else(|| (format!("{fourcc} is not among the plane's formats"), Vec::new()));
            let modifier = modifier_name(*modifier);
            let values = json!({ "format": fourcc, "modifier": modifier, "accepted": accepted });
            ("format", Some(text), values)
        }
        Refusal::CoveredByComposited { layer } => of_layer("covered-by-composited", *layer, names, |who| {
            format!("{who} lies over it and is composited")
        }),
        Refusal::NotOpaque => plain("not-opaque"),
        Refusal::NotFullOutput { dst } => {
            let text = format!("{}x{} at {},{} is not the whole output", dst.w, dst.h, dst.x, dst.y);
            let values = json!({ "position": [dst.x, dst.y], "size": [dst.w, dst.h] });
            ("not-full-output", Some(text), values)
        }
        Refusal::HoldsComposited => plain("holds-composited"),
        Refusal::Taken { layer } => of_layer("taken", *layer, names, |who| format!("the plane shows {who}")),
        Refusal::TakenByPointer => plain("taken-by-pointer"),
        Refusal::StackOrder { layer } => of_layer("stack-order", *layer, names, |who| {
            format!("the plane lies above {who}, which must stay above this")
        }),
        Refusal::BelowPrimary => plain("below-primary"),
        Refusal::UnderlayNotOpaque => plain("underlay-not-opaque"),
        Refusal::StackingUnknown => plain("stacking-unknown"),
        Refusal::NoZpos => plain("no-zpos"),
        Refusal::Rotation { wanted, supported } => {
            let values = json!({ "wanted": wanted.to_string(), "supported": supported.to_string() });
            ("rotation", None, values)
        }
        Refusal::Scaling { from, to, allowed: range } => {
            let (x, y) = factors(*from, *to);
            let text = format!("scaled {x:.2}x by {y:.2}x, and the plane allows {}", allowed(*range));
            let values = json!({ "factor": [x, y], "size": [to.0, to.1], "allowed": allowed(*range) });
            ("scaling", Some(text), values)
        }
        Refusal::Size { size, smallest, largest } => {
            let text = if size.0 > largest.0 || size.1 > largest.1 {
                format!("{} is larger than {}", pixels(*size), pixels(*largest))
            } else {
                format!("{} is smaller than {}", pixels(*size), pixels(*smallest))
            };
            let values = json!({ "size": size, "smallest": smallest, "largest": largest });
            ("size", Some(text), values)
        }
        Refusal::CursorSize { size, largest } => {
            let text = format!("a pointer of {} is larger than {}", pixels(*size), pixels(*largest));
            ("cursor-size", Some(text), json!({ "size": size, "largest": largest }))
        }
        Refusal::Alpha { alpha } => ("alpha", None, json!({ "alpha": alpha })),
        Refusal::Blend => plain("blend"),
        Refusal::Color { encoding, range } => {
            let values = json!({ "encoding": format!("{encoding:?}"), "range": format!("{range:?}") });
            ("color", None, values)
        }
        Refusal::Foreign => plain("foreign"),
        Refusal::CoveredByPointer => plain("covered-by-pointer"),
        Refusal::Hidden { by } => of_layer("hidden", *by, names, |who| format!("hidden behind {who}")),
        Refusal::ShownBy { plane } => ("shown-by", None, json!({ "plane": plane })),
        Refusal::NotAmongBest { rank, bound } => {
            ("not-among-best", None, json!({ "rank": rank, "bound": bound }))
        }
        Refusal::Unasked { asked } => ("unasked", None, json!({ "asked": asked })),
        Refusal::Held { losses, wait } => {
            ("held", None, json!({ "losses": losses, "wait_ms": millis(*wait) }))
        }
        Refusal::Transform => plain("transform"),
        Refusal::CursorPlane => plain("cursor-plane"),
        Refusal::Test { errno } => {
            let errno = errno_name(*errno);
            ("test", Some(format!("TEST_ONLY failed: {errno}")), json!({ "errno": errno }))
        }
        Refusal::Commit { errno } => {
            let errno = errno_name(*errno);
            let text = format!("the driver took the test and refused the commit: {errno}");
            ("commit", Some(text), json!({ "errno": errno }))
        }
        // The planner may learn to say more.
        _ => plain("other"),
    }
}

fn of_layer(kind: &'static str, layer: usize, names: &Names<'_>, text: impl FnOnce(&str) -> String) -> Words {
    let who = names(layer);
    (kind, Some(text(&who)), json!({ "layer": layer, "who": who }))
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use drm_fourcc::DrmFourcc;
    use drm_prime::scanout::{PlaneType, Zpos};

    use super::*;

    fn plane() -> PlaneCaps {
        let formats = [
            (DrmFourcc::Nv12, DrmModifier::Linear),
            (DrmFourcc::Nv12, DrmModifier::I915_x_tiled),
            (DrmFourcc::Xrgb8888, DrmModifier::Linear),
        ];
        PlaneCaps::new(NonZeroU32::MIN, PlaneType::Overlay, formats, Zpos::Fixed(1))
    }

    fn of(refusal: &Refusal) -> RefusalReport {
        RefusalReport::new(refusal, Some(&plane()), &|layer| format!("window {layer}"))
    }

    #[test]
    fn a_modifier_is_refused_with_those_that_are_taken() {
        let modifier = DrmModifier::I915_y_tiled.into();
        let refused = of(&Refusal::Format { format: DrmFourcc::Nv12, modifier });
        let text = "modifier I915_Y_TILED is not in IN_FORMATS for NV12; accepted: LINEAR, I915_X_TILED";
        assert_eq!((refused.kind.as_str(), refused.text.as_str()), ("format", text));
        assert_eq!(refused.values["accepted"], json!(["LINEAR", "I915_X_TILED"]));
        let none = of(&Refusal::Format { format: DrmFourcc::P010, modifier: 0 });
        assert_eq!(none.text, "P010 is not among the plane's formats");
    }

    #[test]
    fn layers_are_named() {
        let refused = of(&Refusal::CoveredByComposited { layer: 3 });
        assert_eq!(refused.text, "window 3 lies over it and is composited");
        assert_eq!(refused.values, json!({ "layer": 3, "who": "window 3" }));
    }

    #[test]
    fn numbers_are_in_units_of_people() {
        let scaled = Refusal::Scaling {
            from: (100 << 16, 50 << 16),
            to: (150, 50),
            allowed: Scaling::Range { min: 1 << 15, max: 1 << 16 },
        };
        assert_eq!(of(&scaled).text, "scaled 1.50x by 1.00x, and the plane allows 0.50x to 1.00x");
        let errno = rustix::io::Errno::INVAL;
        assert_eq!(of(&Refusal::Test { errno }).text, "TEST_ONLY failed: EINVAL");
        assert_eq!(modifier_name(0x0100_0000_dead_beef), "0x1000000deadbeef");
        let size = Refusal::Size { size: (300, 10), smallest: (1, 1), largest: (256, 256) };
        assert_eq!(of(&size).text, "300x10 is larger than 256x256");
    }
}
