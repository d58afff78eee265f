//! Scripted Wayland clients: a commit loop with dma-bufs that counts what the compositor says about them.
//!
//! Owns the options, the loop and the report. `link` has what every client
//! needs, `connection` the protocol objects, `bad` the buffers that
//! lie, `churn` the creation and destruction of many buffers, `raw` the
//! wire without a library. Nothing here knows how the display works.

pub mod bad;
mod churn;
pub mod connection;
pub mod crowd;
pub mod link;
pub mod malformed;
pub mod raw;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use wayland_client::Proxy;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_output::Transform;

use crate::buffer::{Allocator, ClientBuffer, Placement};
use crate::format::Format;
use crate::picture::{Pattern, Picture};
use connection::{BufferRequest, Window, Wire};

/// What a client does.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its buffers come from.
    pub allocator: Allocator,
    /// Their format.
    pub format: Format,
    /// Where their planes lie.
    pub placement: Placement,
    /// Their size; `None` is 256x256, or the output's size in full screen.
    pub size: Option<(u32, u32)>,
    /// What is drawn.
    pub pattern: Pattern,
    /// Asks for full screen.
    pub fullscreen: bool,
    /// Scales the surface by wp_viewport.
    pub viewport: Option<(u32, u32)>,
    /// What the buffers are said to be turned by: a number of wl_output.transform.
    pub transform: u32,
    /// Adds a subsurface of the same kind of buffer at this place, as large as a quarter of the window.
    pub subsurface: Option<(i32, i32)>,
    /// Adds a popup of the same kind of buffer at this place of the window, as large as a quarter of it.
    pub popup: Option<(i32, i32)>,
    /// Ends after so many frames.
    pub frames: Option<u64>,
    /// Ends after this time.
    pub time: Option<Duration>,
    /// Commits one frame and then only waits.
    pub still: bool,
    /// Draws each frame instead of committing prepared ones in turn.
    pub redraw: bool,
    /// Makes a new `wl_buffer` for each frame.
    pub new_buffer_each_frame: bool,
    /// Buffers in the loop.
    pub buffers: usize,
    /// Creates and destroys so many `wl_buffer`s instead of the frame loop.
    pub churn: Option<u64>,
    /// How buffers are asked for.
    pub request: BufferRequest,
    /// linux-dmabuf is bound at most at this version.
    pub dmabuf_version: u32,
    /// Window title.
    pub title: String,
    /// Where the running counts are written, for readers in other processes.
    pub progress: Option<PathBuf>,
}

/// What a client counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Frames committed.
    pub frames: u64,
    /// Frames the compositor presented.
    pub presented: u64,
    /// Of these, with the ZERO_COPY flag.
    pub zero_copy: u64,
    /// Frames the compositor never showed.
    pub discarded: u64,
    /// `wl_buffer`s created.
    pub buffers_created: u64,
    /// What went wrong, in words; empty when nothing did.
    pub errors: Vec<String>,
}

impl Report {
    /// Zero-copy frames of the presented ones, in percent; 0 when nothing was presented.
    #[must_use]
    pub fn zero_copy_percent(&self) -> f64 {
        if self.presented == 0 { 0.0 } else { 100.0 * self.zero_copy as f64 / self.presented as f64 }
    }
}

/// A buffer and its `wl_buffer` in the loop.
#[derive(Debug)]
struct Slot {
    buffer: ClientBuffer,
    wl: Option<WlBuffer>,
    busy: bool,
}

/// Runs a client to its end. `presented` is called once, when the first frame is on the screen.
///
/// # Errors
///
/// When the connection, a device or the protocol fails before the loop; in the loop, failures are in the report.
pub fn run(options: &Options, presented: &mut dyn FnMut(&Report)) -> Result<Report> {
    let mut wire = Wire::connect(options.dmabuf_version)?;
    let mut window = wire.open_window(&options.title, options.fullscreen)?;
    if let Some(size) = options.viewport {
        wire.set_viewport(&mut window, size)?;
    }
    if let Ok(transform) = Transform::try_from(options.transform) {
        window.surface.set_buffer_transform(transform);
    }
    let size = match options.size {
        Some(size) => size,
        None if options.fullscreen && wire.events.configure_size.0 > 0 => wire.events.configure_size,
        None => (256, 256),
    };
    let mut script =
        Script { options, wire, window, size, report: Report::default(), written: Instant::now() };
    let result = script.run(presented);
    script.collect_counts();
    if let Err(err) = result {
        script.report.errors.push(format!("{err:#}"));
    }
    script.write_progress(true);
    let Script { mut wire, window, report, .. } = script;
    if report.errors.is_empty() {
        window.close();
        wire.roundtrip()?;
    }
    Ok(report)
}

struct Script<'a> {
    options: &'a Options,
    wire: Wire,
    window: Window,
    size: (u32, u32),
    report: Report,
    written: Instant,
}

impl Script<'_> {
    fn run(&mut self, presented: &mut dyn FnMut(&Report)) -> Result<()> {
        if let Some(count) = self.options.churn {
            return self.churn(count);
        }
        let deadline = Instant::now() + self.options.time.unwrap_or(Duration::from_secs(365 * 86400));
        let mut slots = self.allocate_slots(if self.options.still { 1 } else { self.options.buffers })?;
        self.add_subsurface()?;
        let mut popup = self.options.popup;
        self.wire.events.frame_done = true;
        let mut announced = false;
        while !self.wire.events.closed && Instant::now() < deadline && !self.is_complete() {
            let ready = self.wait_for_slot(&mut slots, deadline)?;
            self.collect_counts();
            if !announced && self.report.presented > 0 {
                announced = true;
                presented(&self.report);
            }
            self.write_progress(false);
            if let Some(index) = ready {
                self.commit(&mut slots[index])?;
                // Its parent must be mapped.
                if let Some(place) = popup.take() {
                    self.add_popup(place)?;
                }
            }
        }
        self.wait_for_feedback()?;
        self.collect_counts();
        if !announced && self.report.presented > 0 {
            presented(&self.report);
        }
        while self.options.still && !self.wire.events.closed && Instant::now() < deadline {
            self.wire.wait(deadline, |events| events.closed)?;
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        let wanted = if self.options.still { Some(1) } else { self.options.frames };
        wanted.is_some_and(|wanted| self.report.frames >= wanted)
    }

    fn picture(&self, frame: u32) -> Picture {
        let (width, height) = self.size;
        Picture { pattern: self.options.pattern, width, height, frame }
    }

    fn allocate(&self, size: (u32, u32)) -> Result<ClientBuffer> {
        ClientBuffer::allocate_placed(
            self.options.allocator,
            self.options.format,
            size,
            self.options.placement,
        )
    }

    fn allocate_slots(&mut self, count: usize) -> Result<Vec<Slot>> {
        let (width, height) = self.size;
        (0..count.max(1))
            .map(|index| {
                let mut buffer = self.allocate((width, height))?;
                buffer.draw(&self.picture(index as u32 * 8), self.options.request.y_invert)?;
                Ok(Slot { buffer, wl: None, busy: false })
            })
            .collect()
    }

    fn add_subsurface(&mut self) -> Result<()> {
        let Some(place) = self.options.subsurface else { return Ok(()) };
        let wl = self.quarter((self.size.0 / 2, self.size.1 / 2))?;
        let surface = self.wire.open_subsurface(&self.window.surface, place)?;
        self.wire.commit_quietly(&surface, &wl);
        Ok(())
    }

    fn add_popup(&mut self, place: (i32, i32)) -> Result<()> {
        let size = (self.size.0 / 2, self.size.1 / 2);
        let wl = self.quarter(size)?;
        let surface = self.wire.open_popup(&mut self.window, place, size)?;
        self.wire.commit_quietly(&surface, &wl);
        Ok(())
    }

    /// A buffer for a surface beside the window's own.
    fn quarter(&mut self, (width, height): (u32, u32)) -> Result<WlBuffer> {
        let mut buffer = self.allocate((width, height))?;
        let picture = Picture { pattern: self.options.pattern, width, height, frame: 0 };
        buffer.draw(&picture, self.options.request.y_invert)?;
        self.report.buffers_created += 1;
        self.wire.create_buffer(&buffer, &self.options.request)
    }

    /// Waits for a frame callback and a free buffer; `None` when the deadline passed, or after a second, so that
    /// the counts move on.
    fn wait_for_slot(&mut self, slots: &mut [Slot], deadline: Instant) -> Result<Option<usize>> {
        let until = deadline.min(Instant::now() + Duration::from_secs(1));
        let busy: Vec<_> =
            slots.iter().filter(|slot| slot.busy).filter_map(|slot| Some(slot.wl.as_ref()?.id())).collect();
        let all_busy = busy.len() == slots.len();
        self.wire.wait(until, |events| {
            events.closed
                || (events.frame_done && (!all_busy || busy.iter().any(|id| events.released.contains(id))))
        })?;
        let released = std::mem::take(&mut self.wire.events.released);
        for slot in slots.iter_mut() {
            if slot.wl.as_ref().is_some_and(|wl| released.contains(&wl.id())) {
                slot.busy = false;
            }
        }
        if !self.wire.events.frame_done {
            return Ok(None);
        }
        Ok(slots.iter().position(|slot| !slot.busy))
    }

    fn commit(&mut self, slot: &mut Slot) -> Result<()> {
        if self.options.new_buffer_each_frame
            && let Some(old) = slot.wl.take()
        {
            old.destroy();
        }
        if self.options.redraw {
            slot.buffer.draw(&self.picture(self.report.frames as u32), self.options.request.y_invert)?;
        }
        let wl = match &slot.wl {
            Some(wl) => wl.clone(),
            None => {
                let wl = self
                    .wire
                    .create_buffer(&slot.buffer, &self.options.request)
                    .context("cannot make a wl_buffer")?;
                self.report.buffers_created += 1;
                slot.wl.insert(wl).clone()
            }
        };
        slot.busy = true;
        self.wire.commit(&self.window.surface, &wl);
        self.report.frames += 1;
        Ok(())
    }

    /// The feedback of the last frames comes after the loop.
    fn wait_for_feedback(&mut self) -> Result<()> {
        if !self.wire.has_presentation() {
            return Ok(());
        }
        let frames = self.report.frames;
        let answered = self.wire.wait(Instant::now() + Duration::from_secs(2), |events| {
            events.presented + events.discarded >= frames
        })?;
        let (presented, discarded) = (self.wire.events.presented, self.wire.events.discarded);
        // Without new content the last frame may wait for the next commit, but only the last.
        ensure!(
            answered || presented + discarded + 1 >= frames,
            "{frames} frames, {presented} presented, {discarded} discarded"
        );
        Ok(())
    }

    fn collect_counts(&mut self) {
        self.report.presented = self.wire.events.presented;
        self.report.zero_copy = self.wire.events.zero_copy;
        self.report.discarded = self.wire.events.discarded;
    }

    /// Writes the counts at most five times a second; a reader sees a whole file or the one before.
    fn write_progress(&mut self, last: bool) {
        let Some(path) = &self.options.progress else { return };
        if !last && self.written.elapsed() < Duration::from_millis(200) {
            return;
        }
        self.written = Instant::now();
        let draft = path.with_extension("new");
        let result = serde_json::to_vec(&self.report)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&draft, text))
            .and_then(|()| std::fs::rename(&draft, path));
        if let Err(err) = result {
            self.report.errors.push(format!("cannot write {}: {err}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_of_nothing_is_zero() {
        assert_eq!(Report::default().zero_copy_percent(), 0.0);
        let report = Report { presented: 200, zero_copy: 190, ..Report::default() };
        assert_eq!(report.zero_copy_percent(), 95.0);
    }
}
