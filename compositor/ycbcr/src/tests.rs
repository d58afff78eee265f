//! The arithmetic against floating point, and every layout.
#![allow(clippy::unwrap_used)]

use super::*;

const COLORS: [(Matrix, Range); 6] = {
    use Matrix::{Bt601, Bt709, Bt2020};
    use Range::{Full, Limited};
    [(Bt601, Limited), (Bt601, Full), (Bt709, Limited), (Bt709, Full), (Bt2020, Limited), (Bt2020, Full)]
};

const NV12: Layout = Layout::semi_planar((2, 2), 8, false);
const P010: Layout = Layout::semi_planar((2, 2), 10, false);

/// Floating point, channel by channel; blue, green, red.
fn exact((matrix, range): (Matrix, Range), bits: u32, [y, cb, cr]: [u32; 3]) -> [f64; 3] {
    let (kr, kb) = matrix.weights();
    let (peak, unit) = (f64::from((1u32 << bits) - 1), f64::from(1u32 << (bits - 8)));
    let (y, cb, cr) = (f64::from(y), f64::from(cb) - 128.0 * unit, f64::from(cr) - 128.0 * unit);
    let (y, cb, cr) = match range {
        Range::Limited => ((y - 16.0 * unit) / (219.0 * unit), cb / (224.0 * unit), cr / (224.0 * unit)),
        Range::Full => (y / peak, cb / peak, cr / peak),
    };
    let (r, b) = (y + 2.0 * (1.0 - kr) * cr, y + 2.0 * (1.0 - kb) * cb);
    let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
    [b, g, r].map(|c| (c * 255.0).clamp(0.0, 255.0))
}

/// Every code of 8 bits with every other, one chroma channel at a time being thinned out.
#[test]
fn every_code_of_8_bits_is_near_exact() {
    let luma: Vec<u8> = (0..=255).collect();
    for color in COLORS {
        let mut worst = 0.0f64;
        for cb in (0..=255u8).step_by(5) {
            for cr in (0..=255u8).step_by(15) {
                let (cbs, crs) = ([cb; 256], [cr; 256]);
                let planes = [&luma[..], &cbs, &crs].map(|bytes| Plane { bytes, stride: 256 });
                let out = to_xrgb(&Layout::planar((1, 1), false), color, (256, 1), &planes).unwrap();
                for (y, pixel) in out.chunks(4).enumerate() {
                    let exact = exact(color, 8, [y as u32, cb.into(), cr.into()]);
                    for (got, exact) in pixel.iter().zip(exact) {
                        worst = worst.max((f64::from(*got) - exact).abs());
                    }
                }
            }
        }
        assert!(worst <= 0.6, "{color:?}: {worst}");
    }
}

#[test]
fn codes_of_10_bits_are_near_exact() {
    let words = |codes: &[u32]| -> Vec<u8> {
        codes.iter().flat_map(|code| ((code << 6) as u16).to_le_bytes()).collect()
    };
    let codes: Vec<u32> = (0..1024).collect();
    let luma = words(&codes);
    for color in COLORS {
        let mut worst = 0.0f64;
        for cb in (0..=1023).step_by(93) {
            for cr in (0..=1023).step_by(31) {
                let chroma = words(&[cb, cr].repeat(512));
                let planes = [&luma[..], &chroma].map(|bytes| Plane { bytes, stride: 2048 });
                let out = to_xrgb(&P010, color, (1024, 1), &planes).unwrap();
                for (pixel, y) in out.chunks(4).zip(&codes) {
                    for (got, exact) in pixel.iter().zip(exact(color, 10, [*y, cb, cr])) {
                        worst = worst.max((f64::from(*got) - exact).abs());
                    }
                }
            }
        }
        assert!(worst <= 0.6, "{color:?}: {worst}");
    }
}

/// The same colours of 3 by 3 pixels in every layout, also with an odd size and more bytes in a row than needed.
#[test]
fn every_layout_has_its_samples_where_they_are_looked_for() {
    let (semi, planar) = (Layout::semi_planar, Layout::planar);
    // Luma is 20 * x + 60 * y + 30, and chroma 40 and 200 with 16 more for each block to the right and 32 below.
    let luma = |x: usize, y: usize| (20 * x + 60 * y + 30) as u8;
    let chroma = |x: usize, y: usize| [(40 + 16 * x + 32 * y) as u8, (200 - 16 * x - 32 * y) as u8];
    let rows = |f: &dyn Fn(usize) -> Vec<u8>, rows: usize| -> Vec<u8> {
        (0..rows).flat_map(|y| f(y).into_iter().chain([0xaa; 16]).take(16)).collect()
    };
    let plain = rows(&|y| (0..3).map(|x| luma(x, y)).collect(), 3);
    let pairs = |w: usize, h: usize, first: usize| {
        rows(&|y| (0..w).flat_map(|x| [chroma(x, y)[first], chroma(x, y)[1 - first]]).collect(), h)
    };
    let single = |w: usize, h: usize, of: usize| rows(&|y| (0..w).map(|x| chroma(x, y)[of]).collect(), h);
    let packed = |luma_first: bool| {
        let group = |x: usize, y: usize| {
            let [cb, cr] = chroma(x, y);
            let (l, m) = (luma(2 * x, y), luma(2 * x + 1, y));
            if luma_first { [l, cb, m, cr] } else { [cb, l, cr, m] }
        };
        rows(&|y| (0..2).flat_map(|x| group(x, y)).collect(), 3)
    };
    let cases: [(Layout, Vec<Vec<u8>>); 14] = [
        (semi((2, 2), 8, false), vec![plain.clone(), pairs(2, 2, 0)]),
        (semi((2, 2), 8, true), vec![plain.clone(), pairs(2, 2, 1)]),
        (semi((2, 1), 8, false), vec![plain.clone(), pairs(2, 3, 0)]),
        (semi((2, 1), 8, true), vec![plain.clone(), pairs(2, 3, 1)]),
        (semi((1, 1), 8, false), vec![plain.clone(), pairs(3, 3, 0)]),
        (semi((1, 1), 8, true), vec![plain.clone(), pairs(3, 3, 1)]),
        (planar((2, 2), false), vec![plain.clone(), single(2, 2, 0), single(2, 2, 1)]),
        (planar((2, 2), true), vec![plain.clone(), single(2, 2, 1), single(2, 2, 0)]),
        (planar((2, 1), false), vec![plain.clone(), single(2, 3, 0), single(2, 3, 1)]),
        (planar((2, 1), true), vec![plain.clone(), single(2, 3, 1), single(2, 3, 0)]),
        (planar((1, 1), false), vec![plain.clone(), single(3, 3, 0), single(3, 3, 1)]),
        (planar((1, 1), true), vec![plain.clone(), single(3, 3, 1), single(3, 3, 0)]),
        (Layout::packed(0, 1, 3), vec![packed(true)]),
        (Layout::packed(1, 0, 2), vec![packed(false)]),
    ];
    for (layout, memory) in cases {
        let (across, down) = layout.block;
        let planes: Vec<_> = memory.iter().map(|bytes| Plane { bytes, stride: 16 }).collect();
        let out = to_xrgb(&layout, COLORS[2], (3, 3), &planes).unwrap();
        for (n, pixel) in out.chunks(4).enumerate() {
            let (x, y) = (n % 3, n / 3);
            let [cb, cr] = chroma(x / across, y / down);
            let exact = exact(COLORS[2], 8, [luma(x, y), cb, cr].map(u32::from));
            let near = pixel.iter().zip(exact).all(|(got, exact)| (f64::from(*got) - exact).abs() <= 0.6);
            assert!(near && pixel[3] == 255, "{layout:?} at {x}, {y}: {pixel:?}, not {exact:?}");
        }
    }
}

#[test]
fn what_is_missing_is_an_error() {
    let convert = |layout: &Layout, planes: &[Plane<'_>]| to_xrgb(layout, COLORS[0], (2, 2), planes);
    let plane = |bytes, stride| Plane { bytes, stride };
    assert_eq!(convert(&NV12, &[plane(&[0; 4], 2)]), Err(Error::MissingPlane(1)));
    assert_eq!(convert(&NV12, &[plane(&[0; 3], 2), plane(&[0; 2], 2)]), Err(Error::TooSmall(0)));
    assert_eq!(convert(&NV12, &[plane(&[0; 4], 2), plane(&[0; 1], 2)]), Err(Error::TooSmall(1)));
    assert_eq!(convert(&P010, &[plane(&[0; 10], 5), plane(&[0; 6], 4)]), Err(Error::Alignment));
    let (y, uv) = ([0; 4], [0; 2]);
    assert_eq!(convert(&NV12, &[plane(&y, 2), plane(&uv, 2)]).unwrap().len(), 16);
    assert!(to_xrgb(&NV12, COLORS[0], (0, 0), &[]).unwrap().is_empty());
}
