//! Planes that several CRTCs can use.

use super::*;

fn caps(raw: u32, kind: PlaneType, crtcs: u32) -> PlaneCaps {
    PlaneCaps { crtcs, ..plane(raw, kind, Some(i64::from(raw))) }
}

fn claim(crtc: u32, overlays: usize, lit: &[u32]) -> Claim {
    Claim { crtc, overlays, lit: lit.iter().map(|&raw| id(raw)).collect() }
}

#[test]
fn whoever_wants_more_gets_more_and_lit_planes_stay() {
    let planes: Vec<PlaneCaps> = [caps(1, PlaneType::Primary, 0b01), caps(2, PlaneType::Primary, 0b10)]
        .into_iter()
        .chain((3..7).map(|raw| caps(raw, PlaneType::Overlay, 0b11)))
        .collect();
    assert_eq!(share(&planes, &[claim(0, 3, &[]), claim(1, 1, &[])]), [vec![0, 2, 3, 5], vec![1, 4]]);
    assert_eq!(share(&planes, &[claim(0, 0, &[]), claim(1, 9, &[])]), [vec![0], vec![1, 2, 3, 4, 5]]);
    assert_eq!(share(&planes, &[claim(0, 0, &[4]), claim(1, 9, &[])]), [vec![0, 3], vec![1, 2, 4, 5]]);
    // What nobody wants is spread, and one CRTC alone has everything that it can use.
    let shared = share(&planes, &[claim(0, 0, &[]), claim(1, 0, &[])]);
    assert_eq!((shared[0].len(), shared[1].len()), (3, 3));
    assert_eq!(share(&planes, &[claim(1, 0, &[])]), [vec![1, 2, 3, 4, 5]]);
}

#[test]
fn a_primary_is_found_for_all_if_there_is_a_way() {
    // The first CRTC would take the only plane of the second.
    let planes = [caps(1, PlaneType::Primary, 0b11), caps(2, PlaneType::Primary, 0b01)];
    assert_eq!(share(&planes, &[claim(0, 0, &[]), claim(1, 0, &[])]), [vec![1], vec![0]]);
    assert_eq!(share(&planes, &[claim(0, 0, &[1]), claim(1, 0, &[])]), [vec![0], vec![]]);
}

proptest! {
    #[test]
    fn no_plane_is_used_twice_nor_where_it_cannot_be(
        raw in prop::collection::vec((0..3u8, 0..16u32), 0..10),
        claims in prop::collection::vec((0..5usize, prop::collection::vec(1..10u32, 0..4)), 0..4),
    ) {
        let kinds = [PlaneType::Primary, PlaneType::Overlay, PlaneType::Cursor];
        let planes: Vec<PlaneCaps> =
            raw.iter().zip(1..).map(|(&(kind, crtcs), id)| caps(id, kinds[kind as usize], crtcs)).collect();
        let claims: Vec<Claim> =
            claims.iter().zip(0..).map(|((overlays, lit), crtc)| claim(crtc, *overlays, lit)).collect();
        let shared = share(&planes, &claims);
        prop_assert_eq!(shared.len(), claims.len());
        for (index, caps) in planes.iter().enumerate() {
            let owners: Vec<usize> = (0..claims.len()).filter(|&c| shared[c].contains(&index)).collect();
            prop_assert!(owners.len() <= 1);
            prop_assert!(owners.iter().all(|c| caps.crtcs & (1 << c) != 0));
            // The first who shows something on it keeps it.
            let lit = claims.iter().position(|c| c.lit.contains(&caps.id) && caps.crtcs & (1 << c.crtc) != 0);
            prop_assert!(lit.is_none() || owners.first() == lit.as_ref());
            if caps.kind == PlaneType::Overlay && claims.iter().any(|c| caps.crtcs & (1 << c.crtc) != 0) {
                prop_assert_eq!(owners.len(), 1);
            }
        }
    }
}
