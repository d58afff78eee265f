//! Deterministic test pictures and the reference for what a display must show of them.
//!
//! Owns the pattern (a pure function of position and frame number), its encoding into the bytes of any
//! [`Format`], and the floating-point conversion back to RGB that pictures are judged by: BT.601, limited
//! range, nearest chroma sample. It does not know memory or devices.

use crate::format::{Format, PlaneLayout, Samples};

/// What a test client draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Colour bars above a two-axis gradient, with a white box that moves with the frame number.
    Card,
    /// One colour, `0xAARRGGBB` with straight alpha.
    Solid(u32),
    /// Reproducible noise: every pixel differs from its neighbours, so a shift by one is seen.
    Noise(u32),
}

/// A pixel with 8-bit channels. Alpha is straight until [`Rgba::premultiplied`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rgba {
    /// Red.
    pub r: u8,
    /// Green.
    pub g: u8,
    /// Blue.
    pub b: u8,
    /// Alpha, 255 is opaque.
    pub a: u8,
}

impl Rgba {
    /// Multiplies the colour by its alpha, as Wayland wants every format with alpha.
    #[must_use]
    pub fn premultiplied(self) -> Rgba {
        let mul = |c: u8| ((u32::from(c) * u32::from(self.a) + 127) / 255) as u8;
        Rgba { r: mul(self.r), g: mul(self.g), b: mul(self.b), a: self.a }
    }
}

/// Seven bars as on a test card.
const BARS: [(u8, u8, u8); 7] = [
    (235, 235, 235),
    (219, 219, 16),
    (16, 219, 219),
    (16, 219, 16),
    (219, 16, 219),
    (219, 16, 16),
    (16, 16, 219),
];

impl Pattern {
    /// The colour at `(x, y)` of a picture of `width` x `height` pixels, in frame `frame`.
    #[must_use]
    pub fn pixel(self, x: u32, y: u32, width: u32, height: u32, frame: u32) -> Rgba {
        match self {
            Pattern::Solid(argb) => {
                let [a, r, g, b] = argb.to_be_bytes();
                Rgba { r, g, b, a }
            }
            Pattern::Noise(seed) => {
                let mut n =
                    x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77) ^ frame ^ seed.rotate_left(16);
                n ^= n >> 15;
                n = n.wrapping_mul(0x2c1b_3c6d);
                n ^= n >> 12;
                n = n.wrapping_mul(0x297a_2d39);
                n ^= n >> 15;
                let [a, r, g, b] = n.to_be_bytes();
                Rgba { r, g, b, a }
            }
            Pattern::Card => card(x, y, width, height, frame),
        }
    }
}

fn card(x: u32, y: u32, width: u32, height: u32, frame: u32) -> Rgba {
    let side = (width.min(height) / 8).max(1);
    let left = frame.wrapping_mul(4) % (width.saturating_sub(side)).max(1);
    let top = height * 5 / 8;
    if (left..left + side).contains(&x) && (top..top + side).contains(&y) {
        return Rgba { r: 255, g: 255, b: 255, a: 255 };
    }
    let ramp = |at: u32, of: u32| (at * 255 / of.max(2).saturating_sub(1)).min(255) as u8;
    if y < height / 2 {
        let (r, g, b) = BARS[(x as usize * 7 / width.max(1) as usize).min(6)];
        return Rgba { r, g, b, a: 255 };
    }
    let (across, down) = (ramp(x, width), ramp(y, height));
    Rgba { r: across, g: down, b: 255 - across, a: 255 - across / 2 }
}

/// Luma and chroma in units of the format's bits (0..=255 for 8 bits, 0..=1023 for 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Yuv {
    /// Luma.
    pub y: u16,
    /// Blue difference.
    pub u: u16,
    /// Red difference.
    pub v: u16,
}

/// Weights of ITU-R BT.601.
const KR: f64 = 0.299;
const KB: f64 = 0.114;

/// Encodes a colour as BT.601, limited range, rounded to `bits`.
#[must_use]
pub fn rgb_to_yuv(pixel: Rgba, bits: u32) -> Yuv {
    let [r, g, b] = [pixel.r, pixel.g, pixel.b].map(|c| f64::from(c) / 255.0);
    let luma = KR * r + (1.0 - KR - KB) * g + KB * b;
    let unit = f64::from(1u32 << (bits - 8));
    let store = |value: f64| (value * unit).round() as u16;
    Yuv {
        y: store(16.0 + 219.0 * luma),
        u: store(128.0 + 224.0 * (b - luma) / (2.0 * (1.0 - KB))),
        v: store(128.0 + 224.0 * (r - luma) / (2.0 * (1.0 - KR))),
    }
}

/// The reference: what stored luma and chroma mean as RGB in 0..=255, not rounded, clamped.
#[must_use]
pub fn yuv_to_rgb(yuv: Yuv, bits: u32) -> [f64; 3] {
    let unit = f64::from(1u32 << (bits - 8));
    let y = (f64::from(yuv.y) / unit - 16.0) / 219.0;
    let u = (f64::from(yuv.u) / unit - 128.0) / 224.0 * 2.0 * (1.0 - KB);
    let v = (f64::from(yuv.v) / unit - 128.0) / 224.0 * 2.0 * (1.0 - KR);
    let (r, b) = (y + v, y + u);
    let g = (y - KR * r - KB * b) / (1.0 - KR - KB);
    [r, g, b].map(|c| (c * 255.0).clamp(0.0, 255.0))
}

/// A test picture: pattern, size and frame number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture {
    /// What is drawn.
    pub pattern: Pattern,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Moves the box of [`Pattern::Card`].
    pub frame: u32,
}

impl Picture {
    fn at(&self, x: u32, y: u32) -> Rgba {
        self.pattern.pixel(x, y, self.width, self.height, self.frame)
    }

    /// What the format stores for `(x, y)`: the nearest chroma sample of a subsampled format is the colour
    /// of the top-left pixel of its block.
    #[must_use]
    pub fn yuv(&self, format: &Format, x: u32, y: u32) -> Yuv {
        let luma = rgb_to_yuv(self.at(x, y), format.bits);
        let chroma = rgb_to_yuv(self.at(x - x % format.hsub, y - y % format.vsub), format.bits);
        Yuv { y: luma.y, ..chroma }
    }

    /// The bytes of pixel `(x, y)` that an RGB format with 8 bits per channel stores: premultiplied, and
    /// opaque where the format has no alpha.
    #[must_use]
    pub fn rgba(&self, format: &Format, x: u32, y: u32) -> Rgba {
        let pixel = self.at(x, y);
        if format.has_alpha() { pixel.premultiplied() } else { Rgba { a: 255, ..pixel } }
    }

    /// The reference colour of an opaque pixel in 0..=255, as exact as `f64` is.
    #[must_use]
    pub fn reference(&self, format: &Format, x: u32, y: u32) -> [f64; 3] {
        if format.is_yuv() {
            return yuv_to_rgb(self.yuv(format, x, y), format.bits);
        }
        let pixel = self.rgba(format, x, y);
        if format.samples == Samples::Rgb565 {
            let scale = |c: u8, max: u32| f64::from(u32::from(c) * max / 255) * 255.0 / f64::from(max);
            return [scale(pixel.r, 31), scale(pixel.g, 63), scale(pixel.b, 31)];
        }
        [pixel.r, pixel.g, pixel.b].map(f64::from)
    }

    /// Writes the picture into `memory`, which holds all planes of `layout`. Rows go top to bottom, or bottom
    /// to top with `y_invert`.
    pub fn draw(&self, format: &Format, layout: &[PlaneLayout], memory: &mut [u8], y_invert: bool) {
        for row in 0..self.height {
            let y = if y_invert { self.height - 1 - row } else { row };
            for x in 0..self.width {
                self.draw_pixel(format, layout, memory, (x, row), y);
            }
        }
    }

    fn draw_pixel(&self, format: &Format, layout: &[PlaneLayout], memory: &mut [u8], at: (u32, u32), y: u32) {
        let (x, row) = at;
        let base = |plane: usize, row: u32| {
            layout[plane].offset as usize + layout[plane].stride as usize * row as usize
        };
        match format.samples {
            Samples::Bytes { r, g, b, a } => {
                let pixel = self.rgba(format, x, y);
                let start = base(0, row) + x as usize * 4;
                let bytes = &mut memory[start..start + 4];
                bytes.fill(0);
                bytes[r] = pixel.r;
                bytes[g] = pixel.g;
                bytes[b] = pixel.b;
                if let Some(a) = a {
                    bytes[a] = pixel.a;
                }
            }
            Samples::Rgb565 => {
                let pixel = self.rgba(format, x, y);
                let part = |c: u8, max: u32| (u32::from(c) * max / 255) as u16;
                let word = part(pixel.r, 31) << 11 | part(pixel.g, 63) << 5 | part(pixel.b, 31);
                let start = base(0, row) + x as usize * 2;
                memory[start..start + 2].copy_from_slice(&word.to_le_bytes());
            }
            Samples::SemiPlanar { bytes, swapped } => {
                let yuv = self.yuv(format, x, y);
                let mut put = |start: usize, value: u16| put_sample(memory, start, value, bytes, format.bits);
                put(base(0, row) + x as usize * bytes, yuv.y);
                if x.is_multiple_of(format.hsub) && y.is_multiple_of(format.vsub) {
                    let start = base(1, row / format.vsub) + (x / format.hsub) as usize * 2 * bytes;
                    let (first, second) = if swapped { (yuv.v, yuv.u) } else { (yuv.u, yuv.v) };
                    put(start, first);
                    put(start + bytes, second);
                }
            }
            Samples::Planar { swapped } => {
                let yuv = self.yuv(format, x, y);
                memory[base(0, row) + x as usize] = yuv.y as u8;
                if x.is_multiple_of(format.hsub) && y.is_multiple_of(format.vsub) {
                    let (u_plane, v_plane) = if swapped { (2, 1) } else { (1, 2) };
                    let chroma_row = row / format.vsub;
                    memory[base(u_plane, chroma_row) + (x / format.hsub) as usize] = yuv.u as u8;
                    memory[base(v_plane, chroma_row) + (x / format.hsub) as usize] = yuv.v as u8;
                }
            }
        }
    }
}

fn put_sample(memory: &mut [u8], start: usize, value: u16, bytes: usize, bits: u32) {
    if bytes == 2 {
        let word = value << (16 - bits);
        memory[start..start + 2].copy_from_slice(&word.to_le_bytes());
    } else {
        memory[start] = value as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(name: &str, pattern: Pattern, width: u32, height: u32) -> (Vec<u8>, Vec<PlaneLayout>) {
        let format = Format::named(name).unwrap();
        let layout = format.layout(width, height);
        let mut memory = vec![0; format.size(width, height) as usize];
        Picture { pattern, width, height, frame: 0 }.draw(&format, &layout, &mut memory, false);
        (memory, layout)
    }

    #[test]
    fn xrgb_is_little_endian() {
        let (memory, _) = draw("XR24", Pattern::Solid(0xff11_2233), 4, 4);
        assert_eq!(&memory[..4], &[0x33, 0x22, 0x11, 0]);
    }

    #[test]
    fn argb_is_premultiplied() {
        let (memory, _) = draw("AR24", Pattern::Solid(0x80ff_0000), 4, 4);
        assert_eq!(&memory[..4], &[0, 0, 0x80, 0x80]);
    }

    #[test]
    fn known_colours_encode_as_the_standard_says() {
        let grey = |v| Rgba { r: v, g: v, b: v, a: 255 };
        assert_eq!(rgb_to_yuv(grey(255), 8), Yuv { y: 235, u: 128, v: 128 });
        assert_eq!(rgb_to_yuv(grey(0), 8), Yuv { y: 16, u: 128, v: 128 });
        assert_eq!(rgb_to_yuv(Rgba { r: 255, g: 0, b: 0, a: 255 }, 8), Yuv { y: 81, u: 90, v: 240 });
        assert_eq!(rgb_to_yuv(Rgba { r: 0, g: 0, b: 255, a: 255 }, 10), Yuv { y: 164, u: 960, v: 439 });
    }

    #[test]
    fn yuv_round_trip_stays_close() {
        for n in 0..4096u32 {
            let pixel = Pattern::Noise(7).pixel(n, n / 3, 64, 64, 0);
            let back = yuv_to_rgb(rgb_to_yuv(pixel, 10), 10);
            for (got, want) in back.into_iter().zip([pixel.r, pixel.g, pixel.b]) {
                assert!((got - f64::from(want)).abs() < 0.7, "{pixel:?} came back as {back:?}");
            }
        }
    }

    #[test]
    fn nv12_chroma_is_at_its_place() {
        let (memory, layout) = draw("NV12", Pattern::Solid(0xffff_0000), 6, 4);
        let chroma = layout[1].offset as usize;
        assert_eq!(memory[layout[0].stride as usize * 3 + 5], 81);
        assert_eq!(&memory[chroma..chroma + 6], &[90, 240, 90, 240, 90, 240]);
    }

    #[test]
    fn p010_keeps_its_bits_high() {
        let (memory, _) = draw("P010", Pattern::Solid(0xffff_ffff), 2, 2);
        assert_eq!(u16::from_le_bytes([memory[0], memory[1]]), 940 << 6);
    }

    #[test]
    fn y_invert_reverses_rows() {
        let format = Format::named("XR24").unwrap();
        let layout = format.layout(16, 8);
        let picture = Picture { pattern: Pattern::Noise(1), width: 16, height: 8, frame: 0 };
        let (mut up, mut down) = (vec![0; 8192], vec![0; 8192]);
        picture.draw(&format, &layout, &mut up, false);
        picture.draw(&format, &layout, &mut down, true);
        let stride = layout[0].stride as usize;
        for row in 0..8 {
            assert_eq!(up[row * stride..][..64], down[(7 - row) * stride..][..64]);
        }
    }
}
