//! Luma and chroma to red, green and blue, on the CPU.
//!
//! Owns the arithmetic and where samples lie in memory. Knows neither names of formats nor where memory comes from.
//!
//! Each pixel has the chroma sample of its block. Every code is taken at its word, also those below black and above white,
//! which together with chroma may well be colours that can be seen.
//!
//! All arithmetic is on 16-bit integers in forms that compilers turn into vector instructions: samples of any depth are
//! brought to 15 bits, factors multiply the high halves of products, and what comes out counts in parts of a step of
//! 1/255. The result is within 0.6 steps of exact. It is a crate of its own so that it is optimised in every build.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

/// Parts of a step of 1/255 in which sums are made.
const UNIT: i32 = 32;

/// Matrix coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.601.
    Bt601,
    /// ITU-R BT.709.
    Bt709,
    /// ITU-R BT.2020, non-constant luminance.
    Bt2020,
}

impl Matrix {
    /// The weights of red and blue in luma (ITU-T H.273, table 4).
    pub fn weights(self) -> (f64, f64) {
        match self {
            Self::Bt601 => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
            Self::Bt2020 => (0.2627, 0.0593),
        }
    }
}

/// Which codes are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Luma 16 to 235 of 255 and chroma 16 to 240, and those beyond on occasion.
    Limited,
    /// All.
    Full,
}

/// Why a picture could not be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A plane has fewer bytes than the picture needs.
    #[error("plane {0} is too small")]
    TooSmall(usize),
    /// Fewer planes than the layout has.
    #[error("plane {0} is missing")]
    MissingPlane(usize),
    /// 16-bit samples in rows of an odd number of bytes.
    #[error("16-bit samples in rows of an odd number of bytes")]
    Alignment,
}

/// One plane's bytes, from its first row on.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    /// `stride` bytes a row; the last row may end with its last sample.
    pub bytes: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// Where the samples of one channel lie: the plane, the first one's place in a row, and the way to the next one, in samples.
#[derive(Clone, Copy, Debug)]
struct Channel {
    plane: usize,
    first: usize,
    step: usize,
}

/// How luma and chroma are stored.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    luma: Channel,
    cb: Channel,
    cr: Channel,
    /// Pixels of a chroma sample, across and down.
    block: (usize, usize),
    /// Significant bits of a sample; more than 8 lie in the high bits of 16.
    bits: u32,
}

impl Layout {
    /// Luma in one plane and chroma in pairs in another: samples of 8 bits, or of `bits` in the high bits of 16. A
    /// chroma sample is for a `block` of 1 or 2 pixels across and down. `swapped`: cr comes first.
    pub const fn semi_planar(block: (usize, usize), bits: u32, swapped: bool) -> Self {
        let (cb, cr) = if swapped { (1, 0) } else { (0, 1) };
        let (cb, cr) = (Channel { plane: 1, first: cb, step: 2 }, Channel { plane: 1, first: cr, step: 2 });
        Self { luma: Channel { plane: 0, first: 0, step: 1 }, cb, cr, block, bits }
    }

    /// Three planes of samples of 8 bits. `swapped`: that of cr comes first.
    pub const fn planar(block: (usize, usize), swapped: bool) -> Self {
        let (cb, cr) = if swapped { (2, 1) } else { (1, 2) };
        let (cb, cr) = (Channel { plane: cb, first: 0, step: 1 }, Channel { plane: cr, first: 0, step: 1 });
        Self { luma: Channel { plane: 0, first: 0, step: 1 }, cb, cr, block, bits: 8 }
    }

    /// One plane with four samples of 8 bits for two pixels: the places of the first luma, cb and cr.
    pub const fn packed(luma: usize, cb: usize, cr: usize) -> Self {
        let (cb, cr) = (Channel { plane: 0, first: cb, step: 4 }, Channel { plane: 0, first: cr, step: 4 });
        Self { luma: Channel { plane: 0, first: luma, step: 2 }, cb, cr, block: (2, 1), bits: 8 }
    }

    /// Whether samples take two bytes, so that strides must be even.
    pub const fn is_wide(&self) -> bool {
        self.bits > 8
    }
}

/// What brings samples to colours. Factors are 65536 times what a sample is to be multiplied with; chroma samples come
/// without their middle and doubled.
#[derive(Clone, Copy, Debug)]
struct Factors {
    luma: i16,
    /// What black has, less what rounds the sum.
    black: i16,
    red_cr: i16,
    green_cb: i16,
    green_cr: i16,
    blue_cb: i16,
}

impl Factors {
    fn new(matrix: Matrix, range: Range, bits: u32) -> Self {
        let (kr, kb) = matrix.weights();
        let kg = 1.0 - kr - kb;
        // In samples of 15 bits: the length of luma's and chroma's ranges, and black.
        let one = f64::from(1u32 << 15) / f64::from(1u32 << bits);
        let eighth = f64::from(1u32 << 7);
        let (luma, chroma, black) = match range {
            Range::Limited => (219.0 * eighth, 224.0 * eighth, 16.0 * eighth),
            Range::Full => (f64::from((1u32 << bits) - 1) * one, f64::from((1u32 << bits) - 1) * one, 0.0),
        };
        let scale = 65536.0 * 255.0 * f64::from(UNIT);
        let of_chroma = |weight: f64| (scale * weight / chroma / 2.0).round() as i16;
        let black = 255.0 * f64::from(UNIT) * black / luma;
        // Each product is rounded down, which is half a unit too little; a sum has two or three of them.
        let rounding = f64::from(UNIT) / 2.0 + 1.25;
        Self {
            luma: (scale / luma).round() as i16,
            black: (black - rounding).round() as i16,
            red_cr: of_chroma(2.0 * (1.0 - kr)),
            green_cb: of_chroma(-2.0 * (1.0 - kb) * kb / kg),
            green_cr: of_chroma(-2.0 * (1.0 - kr) * kr / kg),
            blue_cb: of_chroma(2.0 * (1.0 - kb)),
        }
    }
}

/// The high half of a product.
fn times(sample: i16, factor: i16) -> i16 {
    ((i32::from(sample) * i32::from(factor)) >> 16) as i16
}

/// Reads one row of a channel as 15-bit samples.
fn read(planes: &[Plane<'_>], channel: Channel, bits: u32, row: usize, out: &mut [i16]) -> Result<(), Error> {
    let plane = planes.get(channel.plane).ok_or(Error::MissingPlane(channel.plane))?;
    let wide = usize::from(bits > 8) + 1;
    if wide == 2 && !plane.stride.is_multiple_of(2) {
        return Err(Error::Alignment);
    }
    let start = row * plane.stride;
    let needed = out.len() * channel.step * wide;
    let bytes = start.checked_add(needed).and_then(|end| plane.bytes.get(start..end));
    let bytes = bytes.ok_or(Error::TooSmall(channel.plane))?;
    // Samples are little endian, so the first ones of a group are in its low bits.
    let shift = 8 * channel.first * wide;
    match (wide, channel.step) {
        (1, 1) => gather(bytes, out, |[b]| i16::from(b) << 7),
        (1, 2) => gather(bytes, out, |b| ((u16::from_le_bytes(b) >> shift & 0xff) << 7) as i16),
        (1, _) => gather(bytes, out, |b| ((u32::from_le_bytes(b) >> shift & 0xff) << 7) as i16),
        (_, 1) => gather(bytes, out, |b| (u16::from_le_bytes(b) >> 1) as i16),
        (_, _) => gather(bytes, out, |b| ((u32::from_le_bytes(b) >> shift & 0xffff) >> 1) as i16),
    }
    Ok(())
}

/// Takes a sample out of each group of bytes.
fn gather<const GROUP: usize>(bytes: &[u8], out: &mut [i16], sample: impl Fn([u8; GROUP]) -> i16) {
    for (out, group) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = sample(*group);
    }
}

/// A row of the picture on its way.
#[derive(Debug)]
struct Row {
    luma: Vec<i16>,
    cb: Vec<i16>,
    cr: Vec<i16>,
    /// What chroma adds to each pixel: to blue, green and red.
    tint: [Vec<i16>; 3],
    channels: [Vec<u8>; 3],
}

impl Row {
    fn new(width: usize, across: usize) -> Self {
        let (samples, pixels) = (vec![0; width.div_ceil(across)], vec![0; width.next_multiple_of(across)]);
        Self {
            luma: vec![0; width],
            cb: samples.clone(),
            cr: samples,
            tint: [pixels.clone(), pixels.clone(), pixels],
            channels: [vec![0; width], vec![0; width], vec![0; width]],
        }
    }

    /// Works out the tint of `ACROSS` pixels for each chroma sample.
    fn tint<const ACROSS: usize>(&mut self, factors: &Factors) {
        let [blue, green, red] = &mut self.tint;
        let pixels = blue.as_chunks_mut().0.iter_mut().zip(green.as_chunks_mut().0);
        let pixels = pixels.zip(red.as_chunks_mut().0);
        for ((&cb, &cr), ((blue, green), red)) in self.cb.iter().zip(&self.cr).zip(pixels) {
            // Less the middle of 15 bits, and doubled, which fits 16.
            let (cb, cr) = ((cb - 0x4000) << 1, (cr - 0x4000) << 1);
            *blue = [times(cb, factors.blue_cb) - factors.black; ACROSS];
            *green = [times(cb, factors.green_cb) + times(cr, factors.green_cr) - factors.black; ACROSS];
            *red = [times(cr, factors.red_cr) - factors.black; ACROSS];
        }
    }

    /// Writes the pixels, four bytes each. One channel after the other, in loops that are short enough for vectors.
    fn write(&mut self, factors: &Factors, line: &mut [u8]) {
        self.luma.iter_mut().for_each(|luma| *luma = times(*luma, factors.luma));
        for (channel, tint) in self.channels.iter_mut().zip(&self.tint) {
            for (out, (luma, tint)) in channel.iter_mut().zip(self.luma.iter().zip(tint)) {
                *out = ((luma + tint) >> UNIT.ilog2()).clamp(0, 255) as u8;
            }
        }
        let [blue, green, red] = &self.channels;
        let channels = blue.iter().zip(green).zip(red);
        for (pixel, ((&blue, &green), &red)) in line.as_chunks_mut().0.iter_mut().zip(channels) {
            let word = u32::from(blue) | u32::from(green) << 8 | u32::from(red) << 16 | 0xff << 24;
            *pixel = word.to_le_bytes();
        }
    }
}

/// Converts a picture of `width` times `height` pixels to four bytes a pixel, blue, green, red and 255, tightly packed.
///
/// # Errors
/// When planes are missing or too small.
pub fn to_xrgb(
    layout: &Layout,
    (matrix, range): (Matrix, Range),
    (width, height): (usize, usize),
    planes: &[Plane<'_>],
) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; width * height * 4];
    if out.is_empty() {
        return Ok(out);
    }
    let factors = Factors::new(matrix, range, layout.bits);
    let (across, down) = layout.block;
    let mut row = Row::new(width, across);
    for (y, line) in out.chunks_exact_mut(width * 4).enumerate() {
        if y % down == 0 {
            read(planes, layout.cb, layout.bits, y / down, &mut row.cb)?;
            read(planes, layout.cr, layout.bits, y / down, &mut row.cr)?;
            if across == 1 { row.tint::<1>(&factors) } else { row.tint::<2>(&factors) }
        }
        read(planes, layout.luma, layout.bits, y, &mut row.luma)?;
        row.write(&factors, line);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
