//! A capture of the display, and its comparison with what must be seen.
//!
//! Owns the reading of the PNG that `capture` writes and the two comparisons: exact, and within a tolerance of
//! the floating-point reference. What must be seen comes from `picture`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::format::Format;
use crate::picture::Picture;

/// The pixels of a display.
#[derive(Debug, Clone)]
pub struct Screen {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Bytes R, G, B of each pixel, and what else the file has of it.
    bytes: Vec<u8>,
    channels: usize,
}

/// The largest difference of a channel, in steps of 1/255, and where it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// In steps of 1/255.
    pub steps: f64,
    /// Pixel of the picture.
    pub at: (u32, u32),
    /// What was shown there.
    pub shown: [u8; 3],
    /// What the reference says.
    pub wanted: [f64; 3],
}

impl Screen {
    /// Reads a PNG with 8 bits per channel.
    ///
    /// # Errors
    ///
    /// When it is not such a file.
    pub fn read(path: &Path) -> Result<Screen> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut reader = png::Decoder::new(BufReader::new(file)).read_info().context("not a PNG")?;
        let mut bytes = vec![0; reader.output_buffer_size().context("a PNG too large")?];
        let info = reader.next_frame(&mut bytes).context("a broken PNG")?;
        let channels = match (info.color_type, info.bit_depth) {
            (png::ColorType::Rgb, png::BitDepth::Eight) => 3,
            (png::ColorType::Rgba, png::BitDepth::Eight) => 4,
            other => bail!("a PNG of {other:?}, not 8-bit RGB or RGBA"),
        };
        Ok(Screen { width: info.width, height: info.height, bytes, channels })
    }

    /// The pixel at `(x, y)`; black outside.
    #[must_use]
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        if x >= self.width || y >= self.height {
            return [0; 3];
        }
        let start = (y as usize * self.width as usize + x as usize) * self.channels;
        [self.bytes[start], self.bytes[start + 1], self.bytes[start + 2]]
    }

    /// The largest difference to an opaque picture that lies at `place`.
    ///
    /// # Errors
    ///
    /// When the picture does not lie on the screen.
    pub fn difference(&self, picture: &Picture, format: &Format, place: (u32, u32)) -> Result<Difference> {
        self.difference_to((picture.width, picture.height), place, |x, y| picture.reference(format, x, y))
    }

    /// The largest difference to `wanted` in the rectangle of `size` at `place`.
    ///
    /// # Errors
    ///
    /// When the rectangle does not lie on the screen.
    pub fn difference_to(
        &self,
        size: (u32, u32),
        place: (u32, u32),
        wanted: impl Fn(u32, u32) -> [f64; 3],
    ) -> Result<Difference> {
        if place.0 + size.0 > self.width || place.1 + size.1 > self.height {
            bail!("{size:?} at {place:?} is not within {}x{}", self.width, self.height);
        }
        let mut worst = Difference { steps: -1.0, at: (0, 0), shown: [0; 3], wanted: [0.0; 3] };
        for y in 0..size.1 {
            for x in 0..size.0 {
                let (shown, wanted) = (self.pixel(place.0 + x, place.1 + y), wanted(x, y));
                for (shown_channel, wanted_channel) in shown.iter().zip(wanted) {
                    let steps = (f64::from(*shown_channel) - wanted_channel).abs();
                    if steps > worst.steps {
                        worst = Difference { steps, at: (x, y), shown, wanted };
                    }
                }
            }
        }
        Ok(worst)
    }

    /// The share of the pixels of a rectangle that differ from the background, which is the bottom right corner.
    ///
    /// # Errors
    ///
    /// When nothing of it lies on the screen.
    pub fn share_in_front(&self, position: [i32; 2], size: [i32; 2]) -> Result<f64> {
        let range = |start: i32, length: i32, end: u32| {
            start.clamp(0, end as i32) as u32..(start + length).clamp(0, end as i32) as u32
        };
        let columns = range(position[0], size[0], self.width);
        let rows = range(position[1], size[1], self.height);
        let all = columns.len() * rows.len();
        if all == 0 {
            bail!("{size:?} at {position:?} is nowhere on the screen");
        }
        let background = self.pixel(self.width - 1, self.height - 1);
        let front = rows
            .flat_map(|y| columns.clone().map(move |x| (x, y)))
            .filter(|(x, y)| self.pixel(*x, *y) != background)
            .count();
        Ok(front as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Pattern;

    #[test]
    fn a_single_wrong_pixel_is_found() {
        let format = Format::named("XR24").unwrap();
        let picture = Picture { pattern: Pattern::Solid(0xff0a_1428), width: 3, height: 2, frame: 0 };
        let mut screen = Screen { width: 8, height: 4, bytes: [10, 20, 40].repeat(32), channels: 3 };
        assert_eq!(screen.difference(&picture, &format, (2, 1)).unwrap().steps, 0.0);
        screen.bytes[(2 * 8 + 4) * 3 + 1] = 23;
        let worst = screen.difference(&picture, &format, (2, 1)).unwrap();
        assert_eq!((worst.steps, worst.at), (3.0, (2, 1)));
        assert!(screen.difference(&picture, &format, (6, 1)).is_err());
    }

    #[test]
    fn the_share_in_front_counts_what_is_on_the_screen() {
        let mut screen = Screen { width: 4, height: 2, bytes: vec![7; 32], channels: 4 };
        screen.bytes[..3].fill(8);
        assert_eq!(screen.share_in_front([-1, -1], [3, 2]).unwrap(), 0.5);
        assert_eq!(screen.share_in_front([2, 0], [9, 9]).unwrap(), 0.0);
        assert!(screen.share_in_front([4, 0], [9, 9]).is_err());
    }

    #[test]
    fn png_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 2, 1);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header().unwrap().write_image_data(&[1, 2, 3, 255, 4, 5, 6, 255]).unwrap();
        let screen = Screen::read(&path).unwrap();
        assert_eq!((screen.width, screen.height), (2, 1));
        assert_eq!((screen.pixel(0, 0), screen.pixel(1, 0)), ([1, 2, 3], [4, 5, 6]));
    }
}
