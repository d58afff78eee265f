//! Pictures of luma and chroma as they are stored, and what they mean as colours by every matrix and range.
//!
//! Owns a picture with thousands of stored colours, the extremes among them, each in a block of 2 by 2 pixels, so
//! that where chroma samples lie makes no difference inside of one; and the reference that displays are judged by, written
//! from ITU-T H.273 in floating point and nothing else. `picture` has the pictures of RGB colours.

use crate::format::{Format, PlaneLayout, Samples};

/// Matrix coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.601.
    Bt601,
    /// ITU-R BT.709.
    Bt709,
    /// ITU-R BT.2020, non-constant luminance.
    Bt2020,
}

/// What stored samples mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// The matrix.
    pub matrix: Matrix,
    /// All codes are used, from 0 on; else luma is 16 to 235 of 255 and chroma 16 to 240.
    pub full: bool,
}

impl Meaning {
    /// All that there are here.
    pub const ALL: [Meaning; 6] = {
        const fn both(matrix: Matrix) -> [Meaning; 2] {
            [Meaning { matrix, full: false }, Meaning { matrix, full: true }]
        }
        let ([a, b], [c, d], [e, f]) = (both(Matrix::Bt601), both(Matrix::Bt709), both(Matrix::Bt2020));
        [a, b, c, d, e, f]
    };

    /// As people write it: `BT.709 limited`.
    #[must_use]
    pub fn name(self) -> String {
        let matrix = match self.matrix {
            Matrix::Bt601 => "BT.601",
            Matrix::Bt709 => "BT.709",
            Matrix::Bt2020 => "BT.2020",
        };
        format!("{matrix} {}", if self.full { "full" } else { "limited" })
    }

    /// Red, green and blue in 0..=255, not rounded, clamped, of stored codes of `bits` bits: H.273, equations 8.3.
    #[must_use]
    pub fn rgb(self, [y, cb, cr]: [u16; 3], bits: u32) -> [f64; 3] {
        let (kr, kb) = match self.matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
            Matrix::Bt2020 => (0.2627, 0.0593),
        };
        let (y, cb, cr) = (f64::from(y), f64::from(cb), f64::from(cr));
        let (peak, middle, unit) =
            (f64::from((1u32 << bits) - 1), f64::from(1u32 << (bits - 1)), f64::from(1u32 << (bits - 8)));
        let (y, cb, cr) = if self.full {
            (y / peak, (cb - middle) / peak, (cr - middle) / peak)
        } else {
            (
                (y - 16.0 * unit) / (219.0 * unit),
                (cb - middle) / (224.0 * unit),
                (cr - middle) / (224.0 * unit),
            )
        };
        let (r, b) = (y + 2.0 * (1.0 - kr) * cr, y + 2.0 * (1.0 - kb) * cb);
        let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
        [r, g, b].map(|c| c.clamp(0.0, 1.0) * 255.0)
    }
}

/// Which codes a picture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Palette {
    /// 24 codes of luma by 32 and 16 of chroma in every combination, the extremes and what is next to them included.
    Colors,
    /// Another luma in every pixel, and chroma that jumps from block to block.
    Edges,
}

impl Palette {
    /// Width and height of its picture.
    pub const SIZE: (u32, u32) = (256, 192);

    /// What pixel `(x, y)` has in a format of `bits` bits: luma and both chroma samples.
    #[must_use]
    pub fn codes(self, (x, y): (u32, u32), bits: u32) -> [u16; 3] {
        let (column, row) = (x / 2, y / 2);
        match self {
            Palette::Colors => {
                // 96 rows of blocks: 4 for each code of luma; 128 columns: 8 codes of cb by 16 of cr.
                let luma = levels(row / 4, 24, bits, [16, 235]);
                let cb = levels(column / 16 + 8 * (row % 4), 32, bits, [16, 240]);
                let cr = levels(column % 16, 16, bits, [16, 240]);
                [luma, cb, cr]
            }
            Palette::Edges => {
                let peak = (1u32 << bits) - 1;
                let luma = (x * 7 + y * 13) % 128 + 64;
                let chroma = |n: u32| if n.is_multiple_of(2) { peak / 4 } else { peak - peak / 4 } as u16;
                [(luma << (bits - 8)) as u16, chroma(column), chroma(row)]
            }
        }
    }

    /// Writes the picture into the memory of a buffer of [`Palette::SIZE`] in a subsampled format.
    ///
    /// # Panics
    ///
    /// When the format is none of luma and chroma, or the memory is too small.
    pub fn draw(self, format: &Format, layout: &[PlaneLayout], memory: &mut [u8]) {
        let (width, height) = Self::SIZE;
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            let [luma, cb, cr] = self.codes((x, y), format.bits);
            let first = x % format.hsub == 0 && y % format.vsub == 0;
            let (cx, cy) = (x / format.hsub, y / format.vsub);
            let mut put = |plane: usize, row: u32, sample: u32, code: u16| {
                let bytes = u32::from(format.bits > 8) + 1;
                let at = (layout[plane].offset + layout[plane].stride * row + sample * bytes) as usize;
                let word = if bytes == 2 { code << (16 - format.bits) } else { code };
                memory[at..at + bytes as usize].copy_from_slice(&word.to_le_bytes()[..bytes as usize]);
            };
            put(0, y, x, luma);
            match format.samples {
                Samples::SemiPlanar { swapped, .. } if first => {
                    put(1, cy, cx * 2 + u32::from(swapped), cb);
                    put(1, cy, cx * 2 + u32::from(!swapped), cr);
                }
                Samples::Planar { swapped } if first => {
                    put(1 + usize::from(swapped), cy, cx, cb);
                    put(2 - usize::from(swapped), cy, cx, cr);
                }
                Samples::SemiPlanar { .. } | Samples::Planar { .. } => {}
                other => panic!("{other:?} is not luma and chroma"),
            }
        }
    }
}

/// The `index`th of `count` codes of `bits` bits: all over the range, and both ends of it, of the nominal range (in 8 bits)
/// and the middle, each with its neighbours.
fn levels(index: u32, count: u32, bits: u32, nominal: [u32; 2]) -> u16 {
    let (peak, unit, middle) = ((1u32 << bits) - 1, 1u32 << (bits - 8), 1u32 << (bits - 1));
    let [low, high] = nominal.map(|code| code * unit);
    let special = [
        0,
        1,
        peak - 1,
        peak,
        low - 1,
        low,
        low + 1,
        high - 1,
        high,
        high + 1,
        middle - 1,
        middle,
        middle + 1,
    ];
    match special.get(index as usize) {
        Some(code) => *code as u16,
        None => {
            let (at, of) = (index - special.len() as u32, count - special.len() as u32);
            ((2 * at + 1) * peak / (2 * of)) as u16
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const LIMITED: Meaning = Meaning { matrix: Matrix::Bt709, full: false };
    const FULL: Meaning = Meaning { matrix: Matrix::Bt2020, full: true };

    #[test]
    fn white_black_and_grey_are_so_by_every_meaning() {
        for meaning in Meaning::ALL {
            for bits in [8, 10] {
                let (unit, middle) = (1u16 << (bits - 8), 1u16 << (bits - 1));
                let [black, white] =
                    if meaning.full { [0, (1 << bits) - 1] } else { [16 * unit, 235 * unit] };
                assert_eq!(meaning.rgb([black, middle, middle], bits), [0.0; 3]);
                let white = meaning.rgb([white, middle, middle], bits);
                assert!(white.iter().all(|c| (c - 255.0).abs() < 1e-9), "{white:?}");
            }
        }
    }

    #[test]
    fn primaries_are_what_the_recommendations_say() {
        // BT.709, limited: red is (63, 102, 240) in 8 bits, (250, 409, 960) in 10.
        for (codes, bits) in [([63, 102, 240], 8), ([250, 409, 960], 10)] {
            let [r, g, b] = LIMITED.rgb(codes, bits);
            assert!((r - 255.0).abs() < 1.0 && g < 1.0 && b < 1.0, "{r} {g} {b}");
        }
        // BT.2020, full: blue is (0.0593, 0.5, -0.0402).
        let [r, g, b] = FULL.rgb([15, 255, 118], 8);
        assert!(r < 1.0 && g < 1.0 && (b - 255.0).abs() < 1.5, "{r} {g} {b}");
    }

    #[test]
    fn the_palette_has_every_combination_once() {
        for bits in [8, 10] {
            let (width, height) = Palette::SIZE;
            let blocks = (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| (x * 2, y * 2)));
            let codes: Vec<_> = blocks.map(|at| Palette::Colors.codes(at, bits)).collect();
            let distinct = |channel: usize| codes.iter().map(|c| c[channel]).collect::<HashSet<_>>();
            // Some of the evenly spread codes may be extremes, too.
            assert!(distinct(0).len() >= 22 && distinct(1).len() >= 30 && distinct(2).len() >= 14);
            let peak = (1u16 << bits) - 1;
            for luma in [0, peak] {
                for cb in [0, peak] {
                    for cr in [0, peak] {
                        assert!(codes.contains(&[luma, cb, cr]), "{luma} {cb} {cr}");
                    }
                }
            }
        }
    }

    #[test]
    fn samples_lie_where_their_format_has_them() {
        let at = (5, 3);
        let [luma, cb, cr] = Palette::Edges.codes(at, 8);
        for (name, swapped) in [("YU12", false), ("YV12", true)] {
            let format = Format::named(name).unwrap();
            let layout = format.layout(256, 192);
            let mut memory = vec![0; format.size(256, 192) as usize];
            Palette::Edges.draw(&format, &layout, &mut memory);
            let sample = |plane: usize, x: u32, y: u32| {
                u16::from(memory[(layout[plane].offset + layout[plane].stride * y + x) as usize])
            };
            let chroma = if swapped { [cr, cb] } else { [cb, cr] };
            assert_eq!([sample(0, 5, 3), sample(1, 2, 1), sample(2, 2, 1)], [luma, chroma[0], chroma[1]]);
        }
        let format = Format::named("P010").unwrap();
        let layout = format.layout(256, 192);
        let mut memory = vec![0; format.size(256, 192) as usize];
        Palette::Edges.draw(&format, &layout, &mut memory);
        let start = (layout[1].offset + layout[1].stride + 2 * 4) as usize;
        let word = u16::from_le_bytes([memory[start], memory[start + 1]]);
        assert_eq!(word, Palette::Edges.codes(at, 10)[1] << 6);
    }
}
