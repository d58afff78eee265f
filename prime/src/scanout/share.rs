//! Planes to CRTCs: a plane that several CRTCs can use is used by one of them.

use std::num::NonZeroU32;

use super::plane::{PlaneCaps, PlaneType};

/// What a CRTC wants of the planes of its device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The CRTC's index: its bit in [`PlaneCaps::crtcs`].
    pub crtc: u32,
    /// Overlays that it has use for.
    pub overlays: usize,
    /// Planes that it shows something on, which it keeps: the kernel moves no plane from CRTC to CRTC in one commit that
    /// names only one of them.
    pub lit: Vec<NonZeroU32>,
}

impl Claim {
    fn can_use(&self, plane: &PlaneCaps) -> bool {
        self.crtc < 32 && plane.crtcs & (1 << self.crtc) != 0
    }
}

/// Gives each plane to one CRTC at most: the answer names the planes of each claim, as indices of `planes`.
///
/// Lit planes stay. Every CRTC gets a primary plane if there is any way to give it one, then a cursor plane; overlays
/// go to whoever wants most of those it has not got, and what nobody wants is spread evenly.
pub fn share(planes: &[PlaneCaps], claims: &[Claim]) -> Vec<Vec<usize>> {
    let mut owner: Vec<Option<usize>> = planes
        .iter()
        .map(|plane| claims.iter().position(|c| c.lit.contains(&plane.id) && c.can_use(plane)))
        .collect();
    for kind in [PlaneType::Primary, PlaneType::Cursor] {
        for claim in 0..claims.len() {
            let has = |owner: &[Option<usize>]| {
                (0..planes.len()).any(|p| owner[p] == Some(claim) && planes[p].kind == kind)
            };
            if !has(&owner) {
                give(planes, claims, kind, claim, &mut owner, &mut vec![false; planes.len()]);
            }
        }
    }
    let choices = |plane: &PlaneCaps| claims.iter().filter(|c| c.can_use(plane)).count();
    let mut free: Vec<usize> =
        (0..planes.len()).filter(|&p| owner[p].is_none() && planes[p].kind == PlaneType::Overlay).collect();
    // Those that fewest can use first.
    free.sort_by_key(|&p| choices(&planes[p]));
    for plane in free {
        let got = |claim: usize| {
            (0..planes.len())
                .filter(|&p| owner[p] == Some(claim) && planes[p].kind == PlaneType::Overlay)
                .count()
        };
        let takers = (0..claims.len()).filter(|&c| claims[c].can_use(&planes[plane]));
        owner[plane] = takers.max_by_key(|&c| {
            let got = got(c);
            (claims[c].overlays.saturating_sub(got), std::cmp::Reverse(got), std::cmp::Reverse(c))
        });
    }
    (0..claims.len()).map(|c| (0..planes.len()).filter(|&p| owner[p] == Some(c)).collect()).collect()
}

/// Finds `claim` a plane of `kind`, whose owner finds another one if need be (an augmenting path).
fn give(
    planes: &[PlaneCaps],
    claims: &[Claim],
    kind: PlaneType,
    claim: usize,
    owner: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for plane in 0..planes.len() {
        let caps = &planes[plane];
        if tried[plane] || caps.kind != kind || !claims[claim].can_use(caps) {
            continue;
        }
        tried[plane] = true;
        let free = match owner[plane] {
            None => true,
            Some(holder) if claims[holder].lit.contains(&caps.id) => false,
            Some(holder) => give(planes, claims, kind, holder, owner, tried),
        };
        if free {
            owner[plane] = Some(claim);
            return true;
        }
    }
    false
}
