//! The rules of the params object: each by name, and random requests against an oracle in `u128`.

use proptest::prelude::*;

use super::*;

const XRGB: u32 = u32::from_le_bytes(*b"XR24");
const NV12: u32 = u32::from_le_bytes(*b"NV12");
const P010: u32 = u32::from_le_bytes(*b"P010");
const YUV420: u32 = u32::from_le_bytes(*b"YU12");
const YUYV: u32 = u32::from_le_bytes(*b"YUYV");
const R1: u32 = u32::from_le_bytes(*b"R1  ");
/// Some tiling: `I915_FORMAT_MOD_X_TILED`.
const TILED: u64 = 1 << 56 | 1;
const ALL_MODIFIERS: &[u64] = &[MOD_LINEAR, MOD_INVALID, TILED];

fn plane(offset: u32, stride: u32, modifier: u64) -> PendingPlane<()> {
    PendingPlane { fd: (), offset, stride, modifier }
}

fn request(width: i32, height: i32, fourcc: u32) -> BufferRequest {
    BufferRequest { width, height, fourcc }
}

/// Adds the planes (index, offset, stride, modifier) and finishes, with every modifier advertised.
fn make(
    version: u32,
    planes: &[(u32, u32, u32, u64)],
    (width, height, fourcc): (i32, i32, u32),
) -> Result<Checked<()>, Refusal> {
    let mut pending = PendingPlanes::default();
    for &(index, offset, stride, modifier) in planes {
        pending.add(version, index, plane(offset, stride, modifier))?;
    }
    let layout = FormatLayout::from_fourcc(fourcc);
    let facts = FormatFacts { layout: layout.as_ref(), modifiers: ALL_MODIFIERS };
    pending.finish(version, request(width, height, fourcc), facts)
}

/// The code of the error on the wire; panics if there is none.
fn code(result: Result<Checked<()>, Refusal>) -> Code {
    match result {
        Err(Refusal::Fault(fault)) => fault.code(),
        other => panic!("no client fault: {other:?}"),
    }
}

#[test]
fn planes_come_out_in_the_order_of_their_index() {
    let checked = make(6, &[(1, 4096, 64, 0), (0, 0, 64, 0)], (64, 64, NV12)).unwrap();
    let offsets: Vec<_> = checked.planes.iter().map(|(plane, _)| plane.offset).collect();
    assert_eq!(offsets, [0, 4096]);
    assert_eq!(checked.modifier, MOD_LINEAR);
}

#[test]
fn an_index_is_below_four_and_set_once() {
    let mut pending = PendingPlanes::default();
    assert_eq!(pending.add(6, 4, plane(0, 4, 0)), Err(ClientFault::PlaneIndex(4)));
    assert_eq!(pending.add(6, u32::MAX, plane(0, 4, 0)), Err(ClientFault::PlaneIndex(u32::MAX)));
    assert_eq!(pending.add(6, 3, plane(0, 4, 0)), Ok(()));
    assert_eq!(pending.add(6, 3, plane(0, 4, 0)), Err(ClientFault::PlaneSet(3)));
}

#[test]
fn wrong_sets_of_planes_are_incomplete() {
    let (a, b, c) = ((0, 0, 64, 0), (1, 0, 64, 0), (2, 0, 64, 0));
    for (planes, format) in [
        (&[][..], XRGB),
        (&[b][..], XRGB),
        (&[a, b][..], XRGB),
        (&[a][..], NV12),
        (&[a, c][..], NV12),
        (&[a, b, c][..], NV12),
        (&[b, c][..], NV12),
        (&[a, b][..], YUV420),
    ] {
        assert_eq!(code(make(6, planes, (16, 16, format))), Code::Incomplete, "{planes:?}");
    }
}

#[test]
fn a_modifier_of_its_own_may_bring_planes_of_its_own() {
    let planes = [(0, 0, 64, TILED), (1, 1024, 0, TILED)];
    let checked = make(6, &planes, (16, 16, XRGB)).unwrap();
    assert_eq!(checked.planes[0].1, 64 * 16);
    assert_eq!(checked.planes[1].1, 1025, "of a plane that no format describes only the start is checked");
    assert_eq!(code(make(6, &[(0, 0, 64, TILED)], (16, 16, NV12))), Code::Incomplete);
    assert_eq!(code(make(6, &[(0, 0, 0, TILED)], (16, 16, XRGB))), Code::OutOfBounds);
}

#[test]
fn sizes_are_positive() {
    for (width, height) in [(0, 1), (1, 0), (-1, 1), (1, -1), (i32::MIN, i32::MIN)] {
        let result = make(6, &[(0, 0, 64, 0)], (width, height, XRGB));
        assert_eq!(code(result), Code::InvalidDimensions, "{width}x{height}");
    }
}

#[test]
fn a_row_fits_into_its_stride() {
    let row_of = |fourcc, width, stride| make(6, &[(0, 0, stride, 0)], (width, 1, fourcc));
    assert_eq!(code(row_of(XRGB, 16, 0)), Code::OutOfBounds);
    assert_eq!(code(row_of(XRGB, 16, 63)), Code::OutOfBounds);
    assert!(row_of(XRGB, 16, 64).is_ok());
    assert_eq!(code(row_of(XRGB, i32::MAX, u32::MAX)), Code::OutOfBounds);
    // An odd width still has a whole block at its end.
    assert_eq!(code(row_of(YUYV, 3, 7)), Code::OutOfBounds);
    assert!(row_of(YUYV, 3, 8).is_ok());
    assert_eq!(code(row_of(R1, 17, 2)), Code::OutOfBounds);
    assert!(row_of(R1, 17, 3).is_ok());
    // Chroma of an odd size rounds up: two bytes per two pixels.
    let nv12 = |stride| make(6, &[(0, 0, 8, 0), (1, 100, stride, 0)], (5, 5, NV12));
    assert_eq!(code(nv12(5)), Code::OutOfBounds);
    assert_eq!(nv12(6).unwrap().planes[1].1, 100 + 6 * 3);
    let p010 = make(6, &[(0, 0, 8, 0), (1, 100, 8, 0)], (4, 4, P010)).unwrap();
    assert_eq!(p010.planes.iter().map(|(_, end)| *end).collect::<Vec<_>>(), [32, 116]);
}

#[test]
fn what_a_layout_says_cannot_lower_the_demands() {
    let end = |layout: PlaneLayout, stride| {
        let layout = FormatLayout::new(&[layout]);
        let mut pending = PendingPlanes::default();
        pending.add(6, 0, plane(0, stride, MOD_LINEAR)).unwrap();
        let facts = FormatFacts { layout: layout.as_ref(), modifiers: ALL_MODIFIERS };
        pending.finish(6, request(16, 16, XRGB), facts).map(|checked| checked.planes[0].1)
    };
    // The base plane is never subsampled.
    assert_eq!(end(PlaneLayout::new(4, 2, 2), 64), Ok(64 * 16));
    assert!(end(PlaneLayout::new(4, 2, 2), 32).is_err());
    // A block without bytes, or without pixels.
    assert!(end(PlaneLayout::new(0, 1, 1), 0).is_err());
    assert_eq!(end(PlaneLayout::new(4, 0, 0).with_block(0, 0), 64), Ok(64 * 16));
}

#[test]
fn an_offset_near_the_end_of_u32_does_not_wrap() {
    let checked = make(6, &[(0, u32::MAX - 3, 64, 0)], (16, 16, XRGB)).unwrap();
    let end = u64::from(u32::MAX - 3) + 64 * 16;
    assert_eq!(checked.planes[0].1, end);
    assert_eq!(checked.check_size(0, end), Ok(()));
    assert_eq!(
        checked.check_size(0, end - 1),
        Err(ClientFault::OutOfBounds { plane: 0, end, size: end - 1 })
    );
    let huge = make(6, &[(0, u32::MAX, u32::MAX, 0)], (1, i32::MAX, XRGB)).unwrap();
    assert_eq!(huge.planes[0].1, u64::from(u32::MAX) + u64::from(u32::MAX) * (u64::from(u32::MAX) / 2));
}

#[test]
fn mixed_modifiers_are_fatal_since_five_and_unusable_before() {
    let planes = [(0, 0, 64, MOD_LINEAR), (1, 0, 64, TILED)];
    for version in [5, 6] {
        assert_eq!(code(make(version, &planes, (16, 16, NV12))), Code::InvalidFormat);
    }
    for version in [3, 4] {
        assert_eq!(
            make(version, &planes, (16, 16, NV12)).unwrap_err(),
            Refusal::Unusable(Unusable::MixedModifiers)
        );
    }
}

#[test]
fn before_three_every_modifier_is_implicit() {
    let planes = [(0, 0, 64, MOD_LINEAR), (1, 0, 64, TILED)];
    for version in [1, 2] {
        assert_eq!(make(version, &planes, (16, 16, NV12)).unwrap().modifier, MOD_INVALID);
    }
}

#[test]
fn an_unadvertised_pair_is_fatal_since_four() {
    let layout = FormatLayout::from_fourcc(XRGB);
    let finish = |version, modifiers: &[u64]| {
        let mut pending = PendingPlanes::default();
        pending.add(version, 0, plane(0, 64, TILED)).unwrap();
        let facts = FormatFacts { layout: layout.as_ref(), modifiers };
        pending.finish(version, request(16, 16, XRGB), facts)
    };
    for version in 4..=6 {
        assert_eq!(code(finish(version, &[MOD_LINEAR])), Code::InvalidFormat);
    }
    assert_eq!(finish(3, &[MOD_LINEAR]).unwrap_err(), Refusal::Unusable(Unusable::Modifier));
    // A fourcc that nobody advertised is wrong in every version.
    for version in 1..=6 {
        assert_eq!(code(finish(version, &[])), Code::InvalidFormat);
    }
    assert!(finish(6, &[MOD_LINEAR, TILED]).is_ok());
}

#[test]
fn a_format_without_layout_is_invalid() {
    let mut pending = PendingPlanes::default();
    pending.add(6, 0, plane(0, 64, 0)).unwrap();
    let facts = FormatFacts { layout: None, modifiers: ALL_MODIFIERS };
    assert_eq!(code(pending.finish(6, request(1, 1, XRGB), facts)), Code::InvalidFormat);
}

#[test]
fn after_any_attempt_everything_is_already_used() {
    let layout = FormatLayout::from_fourcc(XRGB);
    let facts = FormatFacts { layout: layout.as_ref(), modifiers: ALL_MODIFIERS };
    for width in [1, -1] {
        let mut pending = PendingPlanes::default();
        pending.add(6, 0, plane(0, 64, 0)).unwrap();
        let first = pending.finish(6, request(width, 1, XRGB), facts);
        assert_eq!(first.is_ok(), width == 1);
        assert_eq!(pending.add(6, 1, plane(0, 64, 0)), Err(ClientFault::AlreadyUsed));
        assert_eq!(pending.set_sampling_device(&[0; 8]), Err(ClientFault::AlreadyUsed));
        assert_eq!(code(pending.finish(6, request(1, 1, XRGB), facts)), Code::AlreadyUsed);
    }
}

#[test]
fn a_dev_t_has_eight_bytes() {
    let layout = FormatLayout::from_fourcc(XRGB);
    let facts = FormatFacts { layout: layout.as_ref(), modifiers: ALL_MODIFIERS };
    let mut pending = PendingPlanes::default();
    for len in [0, 4, 7, 9, 16] {
        let fault = pending.set_sampling_device(&vec![0; len]).unwrap_err();
        assert_eq!((&fault, fault.code()), (&ClientFault::DevTSize(len), Code::InvalidDevTSize));
    }
    pending.add(6, 0, plane(0, 64, 0)).unwrap();
    pending.set_sampling_device(&0xe280_u64.to_ne_bytes()).unwrap();
    let checked = pending.finish(6, request(1, 1, XRGB), facts).unwrap();
    assert_eq!(checked.sampling_device, Some(0xe280));
}

/// What the XML demands of LINEAR planes, in integers that cannot overflow: the bytes each plane needs, or none.
fn oracle(fourcc: u32, width: i32, height: i32, planes: &[(u32, u32)]) -> Option<Vec<u128>> {
    // Per plane: bytes per sample, columns per sample, rows per sample.
    let samples: &[(u128, u128, u128)] = match fourcc {
        XRGB => &[(4, 1, 1)],
        NV12 => &[(1, 1, 1), (2, 2, 2)],
        YUV420 => &[(1, 1, 1), (1, 2, 2), (1, 2, 2)],
        _ => return None,
    };
    if width <= 0 || height <= 0 || planes.len() != samples.len() {
        return None;
    }
    planes
        .iter()
        .zip(samples)
        .map(|(&(offset, stride), &(bytes, across, down))| {
            let (columns, rows) = ((width as u128).div_ceil(across), (height as u128).div_ceil(down));
            let stride = u128::from(stride);
            (stride > 0 && stride >= columns * bytes).then(|| u128::from(offset) + stride * rows)
        })
        .collect()
}

/// Numbers near every edge as often as any others.
fn edgy() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => 0_u32..70,
        3 => 0_u32..5000,
        1 => Just(u32::MAX),
        1 => (u32::MAX - 70)..=u32::MAX,
        1 => Just(i32::MAX as u32),
        1 => Just(i32::MAX as u32 + 1),
        2 => any::<u32>(),
    ]
}

proptest! {
    #[test]
    fn linear_buffers_agree_with_the_oracle(
        fourcc in prop_oneof![Just(XRGB), Just(NV12), Just(YUV420)],
        width in edgy(),
        height in edgy(),
        planes in prop::collection::vec((edgy(), edgy()), 0..=3),
        size in any::<u64>(),
    ) {
        let (width, height) = (width as i32, height as i32);
        let added: Vec<_> =
            planes.iter().zip(0..).map(|(&(offset, stride), index)| (index, offset, stride, 0)).collect();
        let ours = make(6, &added, (width, height, fourcc));
        match oracle(fourcc, width, height, &planes) {
            None => prop_assert!(matches!(ours, Err(Refusal::Fault(_))), "{:?}", ours),
            Some(ends) => {
                let checked = ours.unwrap();
                for (index, end) in ends.into_iter().enumerate() {
                    prop_assert_eq!(u128::from(checked.planes[index].1), end);
                    prop_assert_eq!(checked.check_size(index, size).is_ok(), end <= u128::from(size));
                }
            }
        }
    }

    #[test]
    fn adding_agrees_with_a_list(
        version in 1_u32..=6,
        adds in prop::collection::vec((0_u32..6, prop_oneof![Just(MOD_LINEAR), Just(TILED)]), 0..8),
    ) {
        let mut pending = PendingPlanes::default();
        let mut list: Vec<(u32, u64)> = Vec::new();
        for (index, modifier) in adds {
            let expected = if index > 3 {
                Err(Code::PlaneIdx)
            } else if list.iter().any(|&(other, _)| other == index) {
                Err(Code::PlaneSet)
            } else if version >= 5 && list.iter().any(|&(_, other)| other != modifier) {
                Err(Code::InvalidFormat)
            } else {
                list.push((index, modifier));
                Ok(())
            };
            let added = pending.add(version, index, plane(0, 64, modifier)).map_err(|fault| fault.code());
            prop_assert_eq!(added, expected);
        }
    }

    /// Whatever the layout and the modifier, nothing overflows and no accepted plane leaves its file.
    #[test]
    fn strange_layouts_stay_in_bounds(
        layouts in prop::collection::vec((edgy(), edgy(), edgy(), edgy(), edgy()), 1..=MAX_PLANES),
        modifier in prop_oneof![Just(MOD_LINEAR), Just(MOD_INVALID), Just(TILED)],
        (width, height) in (edgy(), edgy()),
        planes in prop::collection::vec((edgy(), edgy()), 1..=MAX_PLANES),
    ) {
        let layouts: Vec<_> = layouts
            .into_iter()
            .map(|(bytes_per_block, block_width, block_height, hsub, vsub)| PlaneLayout {
                bytes_per_block, block_width, block_height, hsub, vsub,
            })
            .collect();
        let layout = FormatLayout::new(&layouts);
        let mut pending = PendingPlanes::default();
        for (&(offset, stride), index) in planes.iter().zip(0..) {
            pending.add(6, index, plane(offset, stride, modifier)).unwrap();
        }
        let facts = FormatFacts { layout: layout.as_ref(), modifiers: ALL_MODIFIERS };
        if let Ok(checked) = pending.finish(6, request(width as i32, height as i32, XRGB), facts) {
            for (index, (plane, end)) in checked.planes.iter().enumerate() {
                prop_assert!(*end > u64::from(plane.offset));
                prop_assert!(checked.check_size(index, *end).is_ok());
                prop_assert!(checked.check_size(index, *end - 1).is_err());
            }
        }
    }
}
