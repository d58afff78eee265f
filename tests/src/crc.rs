//! The CRC that vkms must report for a picture, computed from the picture alone.
//!
//! Owns a model of what the kernel's composer does with opaque and premultiplied RGB and with YUV layers
//! (`vkms_composer.c`, `vkms_formats.c`, `drm_fixed.h`): 16 bits per channel in the order alpha, red, green,
//! blue, little endian, one `crc32_le` run over all lines that starts at 0 and is not inverted. It does not
//! read the kernel's CRC (`debugfs` does).

use crate::format::{Format, Samples};
use crate::picture::{Picture, Yuv};

/// Sixteen bits per channel, as the composer keeps them: alpha, red, green, blue.
pub type Wide = [u16; 4];

/// A picture at a place on the display.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// What the buffer holds.
    pub picture: Picture,
    /// The format it is stored in.
    pub format: Format,
    /// Left edge on the display, may be negative.
    pub x: i32,
    /// Top edge on the display, may be negative.
    pub y: i32,
}

/// What a display shows: layers from the lowest to the highest over a background.
#[derive(Debug, Clone)]
pub struct Scene {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Red, green and blue of the uncovered display.
    pub background: [u8; 3],
    /// Lowest first.
    pub layers: Vec<Layer>,
}

impl Scene {
    /// The composed pixels, row by row.
    #[must_use]
    pub fn compose(&self) -> Vec<Wide> {
        let [r, g, b] = self.background.map(|c| u16::from(c) * 257);
        let mut pixels = vec![[0xffff, r, g, b]; self.width as usize * self.height as usize];
        for layer in &self.layers {
            for row in 0..layer.picture.height {
                for column in 0..layer.picture.width {
                    let (x, y) = (layer.x + column as i32, layer.y + row as i32);
                    if x < 0 || y < 0 || x >= self.width as i32 || y >= self.height as i32 {
                        continue;
                    }
                    let out = &mut pixels[y as usize * self.width as usize + x as usize];
                    *out = blend(layer.read(column, row), *out);
                }
            }
        }
        pixels
    }

    /// The CRC that the kernel reports for this scene.
    #[must_use]
    pub fn crc(&self) -> u32 {
        crc_of(&self.compose())
    }
}

impl Layer {
    fn read(&self, x: u32, y: u32) -> Wide {
        if self.format.is_yuv() {
            return yuv_to_wide(self.picture.yuv(&self.format, x, y), self.format.bits);
        }
        let pixel = self.picture.rgba(&self.format, x, y);
        if self.format.samples == Samples::Rgb565 {
            let expand = |c: u8, max: u64| {
                let value = u64::from(c) * max / 255;
                ((value * 65535 + max / 2) / max) as u16
            };
            return [0xffff, expand(pixel.r, 31), expand(pixel.g, 63), expand(pixel.b, 31)];
        }
        [pixel.a, pixel.r, pixel.g, pixel.b].map(|c| u16::from(c) * 257)
    }
}

/// `pre_mul_alpha_blend` of the composer: 32-bit arithmetic, and the result is opaque.
fn blend(src: Wide, dst: Wide) -> Wide {
    let channel = |i: usize| {
        let sum = u32::from(src[i])
            .wrapping_mul(0xffff)
            .wrapping_add(u32::from(dst[i]).wrapping_mul(0xffff - u32::from(src[0])));
        (sum.wrapping_add(0x7fff) / 0xffff) as u16
    };
    [0xffff, channel(1), channel(2), channel(3)]
}

/// `yuv_bt601_limited` of the kernel, 32.32 fixed point.
const BT601_LIMITED: [[i64; 3]; 3] =
    [[5020601039, 0, 6881764740], [5020601039, -1689204679, -3505362278], [5020601039, 8697922339, 0]];

fn yuv_to_wide(yuv: Yuv, bits: u32) -> Wide {
    let widen =
        |sample: u16| if bits == 8 { i64::from(sample) * 257 } else { i64::from(sample) << (16 - bits) };
    let parts = [widen(yuv.y) - 16 * 257, widen(yuv.u) - 128 * 257, widen(yuv.v) - 128 * 257];
    let channel = |row: usize| {
        let sum: i64 = (0..3).map(|i| fixed_mul(BT601_LIMITED[row][i], parts[i] << 32)).sum();
        ((sum + (1 << 31)) >> 32).clamp(0, 0xffff) as u16
    };
    [0xffff, channel(0), channel(1), channel(2)]
}

/// `drm_fixp_mul`: it drops low bits of its operands so that the product fits 64 bits.
fn fixed_mul(mut a: i64, mut b: i64) -> i64 {
    let top = |v: i64| (1..=62).rev().find(|shift| ((v >> shift) & 1) != ((v >> 63) & 1)).unwrap_or(0);
    let mut shift = top(a) + top(b);
    if shift > 61 {
        shift -= 61;
        a >>= (shift >> 1) + (shift & 1);
        b >>= shift >> 1;
    } else {
        shift = 0;
    }
    let result = a.wrapping_mul(b);
    if shift > 32 { result << (shift - 32) } else { result >> (32 - shift) }
}

/// `crc32_le` over the pixels, starting at 0, without the final inversion.
#[must_use]
pub fn crc_of(pixels: &[Wide]) -> u32 {
    let table = table();
    let mut crc = 0u32;
    for channel in pixels.iter().flatten() {
        for byte in channel.to_le_bytes() {
            crc = (crc >> 8) ^ table[((crc ^ u32::from(byte)) & 0xff) as usize];
        }
    }
    crc
}

fn table() -> [u32; 256] {
    std::array::from_fn(|n| {
        (0..8).fold(n as u32, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Pattern, yuv_to_rgb};

    #[test]
    fn crc_is_the_reflected_polynomial_without_inversion() {
        // Of the standard CRC-32 only the start value and the final inversion are missing; with a start of 0
        // leading zero bytes change nothing, and 0x8000_0000 stands for the last byte being 0x80.
        assert_eq!(crc_of(&[[0, 0, 0, 0]]), 0);
        assert_eq!(crc_of(&[[0, 0, 0, 0x8000]]), 0xedb8_8320);
        assert_eq!(crc_of(&[[0, 0, 0, 0x0100]]), 0x7707_3096);
    }

    #[test]
    fn opaque_replaces_and_transparent_keeps() {
        let under = [0xffff, 1000, 2000, 3000];
        assert_eq!(blend([0xffff, 7, 8, 9], under), [0xffff, 7, 8, 9]);
        assert_eq!(blend([0, 0, 0, 0], under), under);
        assert_eq!(blend([0x8080, 0x8080, 0, 0], [0xffff, 0, 0xffff, 0]), [0xffff, 0x8080, 0x7f7f, 0]);
    }

    #[test]
    fn fixed_point_colour_is_near_the_float_reference() {
        for (y, u, v) in
            [(16, 128, 128), (235, 128, 128), (81, 90, 240), (145, 54, 34), (41, 240, 110), (200, 60, 200)]
        {
            let wide = yuv_to_wide(Yuv { y, u, v }, 8);
            let exact = yuv_to_rgb(Yuv { y, u, v }, 8);
            for i in 0..3 {
                assert!((f64::from(wide[i + 1]) / 257.0 - exact[i]).abs() < 1.6, "{wide:?} {exact:?}");
            }
        }
    }

    #[test]
    fn layers_are_clipped_and_stacked_in_order() {
        let solid = |argb| Picture { pattern: Pattern::Solid(argb), width: 2, height: 2, frame: 0 };
        let format = Format::named("XR24").unwrap();
        let scene = Scene {
            width: 3,
            height: 1,
            background: [1, 2, 3],
            layers: vec![
                Layer { picture: solid(0xff00_00ff), format, x: -1, y: 0 },
                Layer { picture: solid(0xffff_0000), format, x: 2, y: -1 },
            ],
        };
        assert_eq!(
            scene.compose(),
            vec![[0xffff, 0, 0, 0xffff], [0xffff, 257, 514, 771], [0xffff, 0xffff, 0, 0]]
        );
    }
}
