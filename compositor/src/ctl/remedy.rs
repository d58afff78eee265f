//! What stands in a surface's way to a plane, and what would change that.
//!
//! It owns the step from refusals to advice, which rests on a plan and what it was made of and on nothing else, so that it
//! can be tested without clients. It changes nothing.

use std::num::NonZeroU32;

use drm_prime::scanout::{Layer, Plan, PlaneCaps, PlaneType, Refusal, Scene};
use drm_prime::{Fault, FramebufferError, errno_name, format};
use serde::{Deserialize, Serialize};

use super::explain::Way;
use super::refusal::{Names, RefusalReport, accepted, factors, formats, not_listed};

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Culprit {
    /// `client`, `window`, `plane`, `driver`, `pointer` or `settings`.
    pub kind: String,
    /// A sentence.
    pub text: String,
    /// The plane that came nearest to showing it.
    pub plane: Option<NonZeroU32>,
    /// The window that is in the way, if one is.
    pub window: Option<String>,
}

/// A plan, and whom it is asked about.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// What the plan was made of.
    pub scene: &'a Scene<'a>,
    /// The plan.
    pub plan: &'a Plan,
    /// The layer asked about.
    pub layer: usize,
    /// Who the layers are.
    pub names: &'a Names<'a>,
    /// The kernel driver's name.
    pub driver: &'a str,
}

impl std::fmt::Debug for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("plan", self.plan).field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl Case<'_> {
    /// The refusal of the plane that came nearest to showing the layer; none if a plane shows it.
    pub fn nearest(&self) -> Option<(NonZeroU32, &Refusal)> {
        if self.plan.planes[self.layer].is_some() {
            return None;
        }
        let reason = self.plan.reason(self.layer)?;
        let of = self.plan.refusals_of(self.layer).iter().find(|(.., refusal)| refusal == reason)?;
        Some((of.1, reason))
    }

    /// How the layer gets to the screen.
    pub fn way(&self) -> Way {
        let hidden = self.plan.hidden.get(self.layer).is_some_and(Option::is_some);
        match self.plan.planes[self.layer] {
            Some(_) => Way::ScannedOut,
            None if hidden || self.layer >= self.plan.visible => Way::Hidden,
            None => Way::Composited,
        }
    }

    fn caps(&self, plane: NonZeroU32) -> Option<&PlaneCaps> {
        self.scene.planes.iter().find(|caps| caps.id == plane)
    }

    fn asked(&self) -> &Layer {
        &self.scene.layers[self.layer]
    }

    /// What stands in the way; nothing where a plane shows the layer, or it cannot be seen.
    pub fn culprit(&self) -> Option<Culprit> {
        let (plane, refusal) = self.nearest()?;
        let words = RefusalReport::new(refusal, self.caps(plane), self.names).text;
        let kind = of_kind(refusal);
        let named = |layer: usize| (Some((self.names)(layer)), self.why_composited(layer));
        let (window, why) = match refusal {
            Refusal::CoveredByComposited { layer } => named(*layer),
            Refusal::Taken { layer } | Refusal::StackOrder { layer } | Refusal::Hidden { by: layer } => {
                (Some((self.names)(*layer)), None)
            }
            Refusal::HoldsComposited => self.first_composited().map_or((None, None), named),
            Refusal::TakenByPointer | Refusal::CoveredByPointer => (None, self.why_no_cursor_plane()),
            _ => (None, None),
        };
        let text = match (refusal, &window, why) {
            (Refusal::HoldsComposited, None, _) => format!("{words}: the background"),
            (Refusal::HoldsComposited, Some(window), Some(why)) => format!("{words}: {window}, {why}"),
            (_, _, Some(why)) => format!("{words}: {why}"),
            _ => words,
        };
        Some(Culprit { kind: kind.to_owned(), text, plane: Some(plane), window })
    }

    /// Why another layer is composited.
    fn why_composited(&self, layer: usize) -> Option<String> {
        let reason = self.plan.reason(layer)?;
        Some(RefusalReport::new(reason, None, self.names).text)
    }

    fn first_composited(&self) -> Option<usize> {
        self.plan.composited().find(|&layer| layer != self.layer)
    }

    fn why_no_cursor_plane(&self) -> Option<String> {
        let cursor = |id| self.caps(id).is_some_and(|caps| caps.kind == PlaneType::Cursor);
        let refusal = self.plan.pointer_refusals.iter().find(|(id, _)| cursor(*id));
        match refusal {
            Some((plane, refusal)) => {
                let words = RefusalReport::new(refusal, self.caps(*plane), self.names).text;
                Some(format!("cursor plane {plane} does not show it, {words}"))
            }
            None if self.scene.planes.iter().any(|caps| caps.kind == PlaneType::Cursor) => None,
            None => Some("the output has no cursor plane".to_owned()),
        }
    }

    /// What would bring the layer onto a plane, the likeliest first.
    pub fn remedies(&self) -> Vec<String> {
        let Some((plane, refusal)) = self.nearest() else { return Vec::new() };
        let caps = self.caps(plane);
        let mut advice = Vec::new();
        match refusal {
            Refusal::NotDmabuf => {
                advice.push("have the client draw into dma-bufs (a GPU, or linux-dmabuf): wl_shm memory is always composited".into());
            }
            Refusal::Disabled => advice.push("start primeway without --no-direct-scanout".into()),
            Refusal::Framebuffer(why) => match (&*why.0, why.0.fault()) {
                (FramebufferError::Refused { format, modifier, .. }, _)
                    if caps.is_some_and(|caps| not_listed(caps, *format, *modifier).is_some()) =>
                {
                    other_formats(caps, *format, *modifier, &mut advice);
                }
                (_, Fault::CannotScanOut) => advice.push(
                    "allocate LINEAR memory on the display's device (or use --device for the other one)"
                        .into(),
                ),
                _ => advice.push(format!(
                    "the buffer has no framebuffer ({why}); `primeway buffers` tells what is held"
                )),
            },
            Refusal::Importing => advice.push("wait: another import keeps the device busy".into()),
            Refusal::Format { format, modifier } => other_formats(caps, *format, *modifier, &mut advice),
            Refusal::CoveredByComposited { layer } => self.covered_by(*layer, &mut advice),
            Refusal::NotOpaque | Refusal::UnderlayNotOpaque => {
                advice.push(
                    "set an opaque region over the whole surface, or use a format without alpha".into(),
                );
            }
            Refusal::NotFullOutput { .. } | Refusal::HoldsComposited | Refusal::CursorPlane => {
                self.on_primary(&mut advice);
            }
            Refusal::Taken { layer } => {
                let overlays = self.scene.planes.iter().filter(|p| p.kind == PlaneType::Overlay).count();
                let who = (self.names)(*layer);
                advice.push(format!(
                    "show fewer windows: {overlays} overlays go to those that change most often, such as {who}"
                ));
            }
            Refusal::CoveredByPointer | Refusal::TakenByPointer => {
                advice.push("move the pointer away".into());
            }
            Refusal::Hidden { .. } => advice.push("nothing to do: it cannot be seen".into()),
            Refusal::Held { wait, .. } => {
                advice.push(format!("wait {} s: it has come and gone too often", wait.as_secs().max(1)));
            }
            Refusal::NotAmongBest { .. } => advice.push("show fewer windows that change".into()),
            other => self.by_the_plane(other, &mut advice),
        }
        advice
    }

    fn covered_by(&self, layer: usize, advice: &mut Vec<String>) {
        let who = (self.names)(layer);
        advice.push(format!("move {who} away from it, or this window to the front"));
        let other = Case { layer, ..*self };
        let help = other.nearest().filter(|(_, r)| !matches!(r, Refusal::CoveredByComposited { .. }));
        if let Some(first) = help.and_then(|_| other.remedies().into_iter().next()) {
            advice.push(format!("or bring {who} onto a plane: {first}"));
        }
    }

    /// No overlay is in question.
    fn on_primary(&self, advice: &mut Vec<String>) {
        let overlays = self.scene.planes.iter().filter(|p| p.kind == PlaneType::Overlay).count();
        if overlays == 0 {
            advice.push("the output has no overlay planes: only a window as large as the output, opaque and alone, is scanned out".into());
        }
        if self.asked().dst != self.scene.output {
            advice.push("make the window full screen".into());
        } else if let Some(layer) = self.first_composited() {
            advice.push(format!("close or move {}", (self.names)(layer)));
        }
    }

    /// What is a matter of the plane and its driver.
    fn by_the_plane(&self, refusal: &Refusal, advice: &mut Vec<String>) {
        let driver = self.driver;
        let text = match refusal {
            Refusal::Rotation { supported, .. } => {
                format!(
                    "have the client draw upright (wl_surface.set_buffer_transform); the plane has {supported}"
                )
            }
            Refusal::Scaling { to, .. } => format!("have the client draw {}x{} pixels, unscaled", to.0, to.1),
            Refusal::Size { smallest, largest, .. } => format!(
                "resize the window: the plane takes {}x{} to {}x{}",
                smallest.0, smallest.1, largest.0, largest.1
            ),
            Refusal::CursorSize { largest, .. } => {
                format!("use a pointer of at most {}x{}", largest.0, largest.1)
            }
            Refusal::Alpha { .. } => "show it fully: the plane has no property `alpha`".into(),
            Refusal::Blend => "use a format without alpha, or set an opaque region".into(),
            Refusal::Color { .. } => {
                "use another matrix or range: the plane's COLOR_ENCODING and COLOR_RANGE lack this one".into()
            }
            Refusal::Foreign => {
                "allocate on the display's device, or give --device the one that the memory is of".into()
            }
            Refusal::StackingUnknown => format!(
                "the driver {driver} has no zpos and no row in primeway's table of stacking orders: find the order out and report it"
            ),
            Refusal::NoZpos | Refusal::BelowPrimary | Refusal::StackOrder { .. } => {
                "stack the windows otherwise: the planes' zpos do not allow this order".into()
            }
            Refusal::Test { errno } => self.after_test(&errno_name(*errno)),
            Refusal::Commit { .. } => {
                "it is tried again in 5 s, or when something changes; the kernel log may say more".into()
            }
            Refusal::Unasked { .. } => "show fewer windows: the driver was asked often enough".into(),
            _ => return,
        };
        advice.push(text);
    }

    /// The driver alone knows: what is unusual about the layer is likeliest.
    fn after_test(&self, errno: &str) -> String {
        let layer = self.asked();
        let mut odd = Vec::new();
        let whole = |v: u32, to: u32| u64::from(v) == u64::from(to) << 16;
        let unscaled = whole(layer.src.w, layer.dst.w) && whole(layer.src.h, layer.dst.h);
        if !unscaled && !layer.rotation.turns_sides() {
            let (x, y) = factors((layer.src.w, layer.src.h), (layer.dst.w, layer.dst.h));
            odd.push(format!("scaled {x:.2}x by {y:.2}x"));
        }
        if layer.rotation.bits() != 1 {
            odd.push(layer.rotation.to_string());
        }
        if layer.alpha != u16::MAX {
            odd.push("partly seen".to_owned());
        }
        if !self.scene.output.contains(&layer.dst) {
            odd.push("over the output's edge".to_owned());
        }
        if odd.is_empty() {
            format!("the driver says {errno} and no more; the kernel log may (drm.debug=0x14)")
        } else {
            format!("the driver says {errno} and no more; unusual about it: {}", odd.join(", "))
        }
    }
}

/// With what the plane takes, instead of what it does not.
fn other_formats(
    caps: Option<&PlaneCaps>,
    fourcc: drm_fourcc::DrmFourcc,
    modifier: u64,
    advice: &mut Vec<String>,
) {
    let accepted = caps.map(|caps| accepted(caps, fourcc)).unwrap_or_default();
    let name = format::name(fourcc as u32);
    if !accepted.is_empty() {
        advice.push(format!("allocate {name} with {}", accepted.join(" or ")));
    } else if modifier == u64::from(drm_fourcc::DrmModifier::Invalid) {
        advice.push("allocate with an explicit modifier: INVALID leaves the layout to the driver".into());
    } else if let Some(caps) = caps {
        let yuv = format::info(fourcc).is_some_and(|info| info.is_yuv);
        let known =
            |name: &String| format::all().iter().any(|i| format::name(i.fourcc) == *name && i.is_yuv == yuv);
        let (mut same, all) = (formats(caps), formats(caps));
        same.retain(known);
        let others = if same.is_empty() { all } else { same };
        advice.push(format!("use another format; the plane takes {}", others.join(", ")));
    }
}

fn of_kind(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotDmabuf
        | Refusal::Framebuffer(_)
        | Refusal::Importing
        | Refusal::Format { .. }
        | Refusal::NotOpaque
        | Refusal::UnderlayNotOpaque
        | Refusal::Transform
        | Refusal::Foreign
        | Refusal::Held { .. } => "client",
        Refusal::CoveredByComposited { .. }
        | Refusal::Taken { .. }
        | Refusal::StackOrder { .. }
        | Refusal::HoldsComposited
        | Refusal::Hidden { .. }
        | Refusal::NotAmongBest { .. } => "window",
        Refusal::CoveredByPointer | Refusal::TakenByPointer => "pointer",
        Refusal::Disabled => "settings",
        Refusal::Test { .. }
        | Refusal::Commit { .. }
        | Refusal::Unasked { .. }
        | Refusal::StackingUnknown => "driver",
        _ => "plane",
    }
}

#[cfg(test)]
mod tests {
    use drm_fourcc::{DrmFourcc, DrmModifier};
    use drm_prime::scanout::{FramebufferRefusal, Rect, Scannable, SourceRect, Zpos, plan};

    use super::*;

    const OUTPUT: Rect = Rect::new(0, 0, 100, 100);

    fn planes() -> Vec<PlaneCaps> {
        let formats =
            [(DrmFourcc::Xrgb8888, DrmModifier::Linear), (DrmFourcc::Nv12, DrmModifier::I915_x_tiled)];
        [(1, PlaneType::Primary, Zpos::Fixed(0)), (2, PlaneType::Overlay, Zpos::Fixed(1))]
            .map(|(id, kind, zpos)| PlaneCaps::new(NonZeroU32::new(id).unwrap(), kind, formats, zpos))
            .to_vec()
    }

    fn layer(dst: Rect, content: Result<Scannable, Refusal>) -> Layer {
        Layer::new(dst, SourceRect::whole(dst.w, dst.h), true, content)
    }

    fn good() -> Result<Scannable, Refusal> {
        Ok(Scannable::new(DrmFourcc::Xrgb8888, DrmModifier::Linear))
    }

    fn ask(layers: &[Layer], asked: usize) -> (Culprit, Vec<String>) {
        let planes = planes();
        let scene = Scene::new(&planes, layers, OUTPUT);
        let plan = plan(&scene, |_| Ok(()));
        let names = |layer: usize| format!("window {layer}");
        let case = Case { scene: &scene, plan: &plan, layer: asked, names: &names, driver: "x" };
        (case.culprit().unwrap(), case.remedies())
    }

    #[test]
    fn a_modifier_of_the_plane_is_proposed() {
        let tiled = Ok(Scannable::new(DrmFourcc::Nv12, DrmModifier::I915_y_tiled));
        let (culprit, advice) = ask(&[layer(Rect::new(0, 0, 50, 50), tiled)], 0);
        assert_eq!((culprit.kind.as_str(), culprit.plane.map(NonZeroU32::get)), ("client", Some(2)));
        assert_eq!(advice, ["allocate NV12 with I915_X_TILED"]);
        let other = Ok(Scannable::new(DrmFourcc::P010, DrmModifier::Linear));
        let (_, advice) = ask(&[layer(Rect::new(0, 0, 50, 50), other)], 0);
        assert_eq!(advice, ["use another format; the plane takes NV12"]);
    }

    #[test]
    fn who_has_no_framebuffer_for_its_format_is_told_the_others() {
        let source = std::io::Error::from_raw_os_error(22);
        let (width, height, device) = (50, 50, 7);
        let refused = |format| {
            let source = std::io::Error::from_raw_os_error(source.raw_os_error().unwrap());
            let why = FramebufferError::Refused { device, format, modifier: 0, width, height, source };
            Err(Refusal::Framebuffer(FramebufferRefusal(std::sync::Arc::new(why))))
        };
        let place = Rect::new(0, 0, 50, 50);
        let (culprit, advice) = ask(&[layer(place, refused(DrmFourcc::Xrgb2101010))], 0);
        let text = "XR30 is not among the plane's formats, and the device makes no framebuffer of it: EINVAL";
        assert_eq!((culprit.kind.as_str(), culprit.text.as_str()), ("client", text));
        assert_eq!(advice, ["use another format; the plane takes XR24"]);
        let (culprit, advice) = ask(&[layer(place, refused(DrmFourcc::Xrgb8888))], 0);
        assert_eq!(culprit.text, "the device makes no framebuffer of XR24 LINEAR: EINVAL");
        assert!(advice[0].starts_with("allocate LINEAR memory on the display's device"), "{advice:?}");
    }

    #[test]
    fn the_window_in_the_way_is_named_with_what_would_help_it() {
        let cover = layer(Rect::new(10, 10, 5, 5), Err(Refusal::NotDmabuf));
        let (culprit, advice) = ask(&[cover, layer(Rect::new(0, 0, 50, 50), good())], 1);
        assert_eq!((culprit.kind.as_str(), culprit.window.as_deref()), ("window", Some("window 0")));
        let text = "window 0 lies over it and is composited: the buffer is not a dma-buf";
        assert_eq!(culprit.text, text);
        assert_eq!(advice.len(), 2);
        assert!(advice[1].starts_with("or bring window 0 onto a plane: have the client draw into dma-bufs"));
    }

    #[test]
    fn windows_that_have_the_planes_are_named() {
        let at = |x| layer(Rect::new(x, 0, 10, 10), good());
        let (culprit, advice) = ask(&[at(0), at(20)], 1);
        assert_eq!(culprit.text, "the plane shows window 0");
        assert_eq!(
            advice,
            ["show fewer windows: 1 overlays go to those that change most often, such as window 0"]
        );
    }

    #[test]
    fn who_is_shown_has_no_culprit() {
        let planes = planes();
        let layers = [layer(OUTPUT, good())];
        let scene = Scene::new(&planes, &layers, OUTPUT);
        let plan = plan(&scene, |_| Ok(()));
        let case = Case { scene: &scene, plan: &plan, layer: 0, names: &|_| String::new(), driver: "x" };
        assert!(plan.planes[0].is_some() && case.culprit().is_none() && case.remedies().is_empty());
    }
}
