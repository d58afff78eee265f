//! A compositor with clients that hold still, and what its display must show.
//!
//! Owns the steps that picture cases share: start, add a client and wait for its frame, come to rest, capture,
//! compare. The expected picture never comes from the compositor, except for the colour of its empty background.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::crc::{Layer, Scene};
use crate::ctl::{Stats, Surface};
use crate::debugfs::DebugDevice;
use crate::format::Format;
use crate::picture::{Pattern, Picture};
use crate::screen::{Difference, Screen};
use crate::session::{Compositor, RunningClient, artefacts};

/// The largest difference allowed for luma and chroma, in steps of 1/255.
pub const YUV_TOLERANCE: f64 = 2.0;

/// A compositor and its clients; the clients end first.
#[derive(Debug)]
pub struct Stage {
    /// In the order they were added.
    pub clients: Vec<RunningClient>,
    /// Under test.
    pub compositor: Compositor,
    name: String,
}

/// What the clients draw; every pixel differs from its neighbours.
#[must_use]
pub fn noise(seed: u32, width: u32, height: u32) -> Picture {
    Picture { pattern: Pattern::Noise(seed), width, height, frame: 0 }
}

impl Stage {
    /// Starts a compositor; `name` names its socket, logs and pictures.
    ///
    /// # Errors
    ///
    /// When it does not get ready.
    pub fn start(name: &str) -> Result<Stage> {
        Stage::start_with(name, &[])
    }

    /// The same with more on the compositor's command line.
    ///
    /// # Errors
    ///
    /// When it does not get ready.
    pub fn start_with(name: &str, arguments: &[&str]) -> Result<Stage> {
        Ok(Stage::of(Compositor::start_with(name, arguments)?, name))
    }

    /// A compositor that runs already; `name` names the pictures.
    #[must_use]
    pub fn of(compositor: Compositor, name: &str) -> Stage {
        Stage { clients: Vec::new(), compositor, name: name.to_owned() }
    }

    /// Starts a still client and waits until it is on the screen; returns its index.
    ///
    /// # Errors
    ///
    /// When it shows no frame.
    pub fn add(&mut self, name: &str, arguments: &[&str]) -> Result<usize> {
        let mut all = vec!["--static"];
        all.extend_from_slice(arguments);
        let mut client = RunningClient::start_test_client(&self.compositor.display, name, &all)?;
        client.wait_presented(Duration::from_secs(10))?;
        self.clients.push(client);
        Ok(self.clients.len() - 1)
    }

    /// Adds a client that shows [`noise`] of a size in a format.
    ///
    /// # Errors
    ///
    /// When it shows no frame.
    pub fn add_noise(&mut self, format: &str, seed: u32, size: (u32, u32), more: &[&str]) -> Result<usize> {
        let (pattern, size) = (format!("noise:{seed}"), format!("{}x{}", size.0, size.1));
        let mut arguments = vec!["--format", format, "--pattern", &pattern, "--size", &size];
        arguments.extend_from_slice(more);
        self.add(&format!("{format}-{seed}"), &arguments)
    }

    /// What the compositor says now.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn stats(&mut self) -> Result<Stats> {
        self.compositor.check_alive()?;
        self.compositor.ctl.stats()
    }

    /// What the compositor says of the window of a client.
    ///
    /// # Errors
    ///
    /// When it has ended, or does not list the window.
    pub fn surface(&mut self, index: usize) -> Result<Surface> {
        let pid = self.clients[index].pid();
        let stats = self.stats()?;
        stats.surface(pid).cloned().with_context(|| format!("no surface of client {index} in {stats:#?}"))
    }

    /// What the display shows, through the writeback connector.
    ///
    /// # Errors
    ///
    /// When the compositor refuses.
    pub fn capture(&mut self) -> Result<Screen> {
        let path = artefacts().join(format!("{}.png", self.name));
        self.compositor.capture(&path)?;
        Screen::read(&path)
    }

    /// The kernel's CRC of the resting display.
    ///
    /// # Errors
    ///
    /// When it does not come to rest.
    pub fn crc(&self) -> Result<u32> {
        active_crc("vkms")
    }

    /// Waits until the planner has come to rest, so that plane assignments do not change any more.
    ///
    /// # Errors
    ///
    /// When the display does not come to rest, or the compositor has ended.
    pub fn settle(&mut self) -> Result<()> {
        self.crc()?;
        self.compositor.check_alive()
    }

    /// The kernel's CRC is that of `layers` over the background of `screen`.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn expect_crc(&self, screen: &Screen, layers: Vec<Layer>) -> Result<()> {
        let scene =
            Scene { width: screen.width, height: screen.height, background: background(screen), layers };
        let (wanted, shown) = (scene.crc(), self.crc()?);
        ensure!(wanted == shown, "the CRC of the expected picture is {wanted:08x}, the kernel's {shown:08x}");
        Ok(())
    }

    /// The [`noise`] of one client is on the screen, exact for RGB and within [`YUV_TOLERANCE`] for YUV.
    ///
    /// # Errors
    ///
    /// When it is not; the message has the worst pixel.
    pub fn expect_noise(
        &mut self,
        screen: &Screen,
        client: usize,
        name: &str,
        seed: u32,
        size: (u32, u32),
    ) -> Result<Difference> {
        let (surface, format) = (self.surface(client)?, Format::named(name)?);
        let allowed = if format.is_yuv() { YUV_TOLERANCE } else { 0.0 };
        let worst = screen.difference(&noise(seed, size.0, size.1), &format, place(&surface)?)?;
        ensure!(worst.steps <= allowed, "{name} on plane {:?}: {worst:?}", surface.plane);
        Ok(worst)
    }
}

/// The CRC of the first CRTC that is on, once the picture rests.
///
/// # Errors
///
/// When none is on, or it does not come to rest.
pub fn active_crc(driver: &str) -> Result<u32> {
    let device = DebugDevice::of_driver(driver)?;
    let active: Vec<String> = device.planes()?.into_iter().filter_map(|plane| plane.crtc).collect();
    let crtc = active.first().context("no CRTC is on")?;
    device.crc(crtc)?.stable(10, Duration::from_secs(10))
}

/// Left and top of a window.
///
/// # Errors
///
/// When it is partly outside.
pub fn place(surface: &Surface) -> Result<(u32, u32)> {
    let [x, y] = surface.position;
    Ok((u32::try_from(x).context("left of the screen")?, u32::try_from(y).context("above the screen")?))
}

/// A picture at the place of a window.
#[must_use]
pub fn layer(picture: Picture, format: Format, surface: &Surface) -> Layer {
    Layer { picture, format, x: surface.position[0], y: surface.position[1] }
}

/// The bottom right corner: background where no window reaches it.
#[must_use]
pub fn background(screen: &Screen) -> [u8; 3] {
    screen.pixel(screen.width - 1, screen.height - 1)
}

/// Writes a measured figure to `figures.txt` among the artefacts, for readers of a passed run.
///
/// # Errors
///
/// When the file cannot be written.
pub fn note_figure(figure: &str) -> Result<()> {
    let path = artefacts().join("figures.txt");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).context("figures.txt")?;
    writeln!(file, "{figure}").with_context(|| format!("cannot write {}", path.display()))
}
