//! Many clients at once, each with a window and buffers of its own that it shows in turn and replaces.
//!
//! Owns the connections and what they do. All of it runs on the thread that calls: a crowd is work for the
//! compositor, not for the machine. It reads what the compositor says and stops at the first error.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::raw::{Arg, Event, Raw, message};
use crate::buffer::{Allocator, ClientBuffer};
use crate::format::Format;

/// Side of a window in pixels.
const SIDE: i32 = 32;
/// Bytes of a row.
const STRIDE: u32 = SIDE as u32 * 4;

/// What a crowd is made of.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Clients.
    pub clients: usize,
    /// Buffers of each, all of different memory.
    pub buffers: usize,
}

/// What a crowd did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commits with a buffer.
    pub commits: u64,
    /// Buffers destroyed and made again.
    pub replaced: u64,
    /// Buffers that the compositor gave back.
    pub released: u64,
}

/// Connected clients with their windows.
#[derive(Debug)]
pub struct Crowd {
    members: Vec<Member>,
    /// What was done so far.
    pub tally: Tally,
}

#[derive(Debug)]
struct Member {
    raw: Raw,
    dmabuf: u32,
    surface: u32,
    wm_base: u32,
    xdg_surface: u32,
    slots: Vec<Slot>,
    turn: usize,
}

#[derive(Debug)]
struct Slot {
    file: OwnedFd,
    buffer: u32,
}

impl Crowd {
    /// Connects as many clients, `connect` being asked for each, and shows the first buffer of every one.
    ///
    /// # Errors
    ///
    /// When the compositor refuses something, or there is no memory.
    pub fn gather(
        mut connect: impl FnMut() -> Result<Raw>,
        allocator: Allocator,
        size: Size,
    ) -> Result<Crowd> {
        let mut crowd = Crowd { members: Vec::with_capacity(size.clients), tally: Tally::default() };
        for number in 0..size.clients {
            let member = connect().and_then(|raw| Member::arrive(raw, allocator, size.buffers));
            crowd.members.push(member.with_context(|| format!("client {number}"))?);
        }
        crowd.round()?;
        Ok(crowd)
    }

    /// Every client replaces the buffer that it showed longest ago and shows it; then all is read that the compositor
    /// said meanwhile.
    ///
    /// # Errors
    ///
    /// When the compositor ended a connection.
    pub fn round(&mut self) -> Result<()> {
        for (number, member) in self.members.iter_mut().enumerate() {
            member.show_next(&mut self.tally).with_context(|| format!("client {number}"))?;
        }
        Ok(())
    }

    /// Rounds at an even pace, `interval` apart, as far as the compositor keeps up.
    ///
    /// # Errors
    ///
    /// As [`Crowd::round`].
    pub fn work(&mut self, time: Duration, interval: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let mut next = Instant::now();
        while Instant::now() < end {
            self.round()?;
            next = (next + interval).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Waits until the compositor has handled all requests of every client.
    ///
    /// # Errors
    ///
    /// When it ended a connection.
    pub fn settle(&mut self) -> Result<()> {
        for (number, member) in self.members.iter_mut().enumerate() {
            match member.raw.roundtrip()? {
                Ok(events) => member.hear(&events, &mut self.tally)?,
                Err(end) => bail!("client {number} was ended: {end:?}"),
            }
        }
        Ok(())
    }
}

impl Member {
    fn arrive(mut raw: Raw, allocator: Allocator, buffers: usize) -> Result<Member> {
        let dmabuf = raw.bind("zwp_linux_dmabuf_v1", 3)?;
        let compositor = raw.bind("wl_compositor", 4)?;
        let wm_base = raw.bind("xdg_wm_base", 3)?;
        let [surface, xdg_surface, toplevel] = std::array::from_fn(|_| raw.id());
        raw.request(compositor, 0, &[Arg::U(surface)])?;
        raw.request(wm_base, 2, &[Arg::U(xdg_surface), Arg::U(surface)])?;
        raw.request(xdg_surface, 1, &[Arg::U(toplevel)])?;
        raw.request(surface, 6, &[])?;
        let mut member = Member { raw, dmabuf, surface, wm_base, xdg_surface, slots: Vec::new(), turn: 0 };
        let events = member.raw.roundtrip()?.ok().context("the connection ended")?;
        let configured = events.iter().any(|event| (event.object, event.opcode) == (xdg_surface, 0));
        ensure!(configured, "the window was not configured");
        member.hear(&events, &mut Tally::default())?;
        for _ in 0..buffers {
            let memory = ClientBuffer::allocate(allocator, Format::named("XR24")?, SIDE as u32, SIDE as u32)?;
            let file = memory.plane_fd(0).try_clone_to_owned()?;
            let buffer = member.make_buffer(file.as_fd())?;
            member.slots.push(Slot { file, buffer });
        }
        Ok(member)
    }

    fn make_buffer(&mut self, file: std::os::fd::BorrowedFd<'_>) -> Result<u32> {
        let (params, buffer) = (self.raw.id(), self.raw.id());
        let format = Arg::U(u32::from_le_bytes(*b"XR24"));
        let mut bytes = message(self.dmabuf, 1, &[Arg::U(params)]);
        bytes.extend(message(params, 1, &[0, 0, STRIDE, 0, 0].map(Arg::U)));
        let size = [Arg::U(buffer), Arg::I(SIDE), Arg::I(SIDE), format, Arg::U(0)];
        bytes.extend(message(params, 3, &size));
        bytes.extend(message(params, 0, &[]));
        self.raw.send(&bytes, &[file])?;
        Ok(buffer)
    }

    fn show_next(&mut self, tally: &mut Tally) -> Result<()> {
        let index = self.turn % self.slots.len();
        self.turn += 1;
        let file = self.slots[index].file.try_clone()?;
        let old = std::mem::replace(&mut self.slots[index].buffer, 0);
        let new = self.make_buffer(file.as_fd())?;
        self.slots[index].buffer = new;
        let mut bytes = message(old, 0, &[]);
        bytes.extend(message(self.surface, 1, &[Arg::U(new), Arg::I(0), Arg::I(0)]));
        bytes.extend(message(self.surface, 2, &[0, 0, SIDE, SIDE].map(Arg::I)));
        bytes.extend(message(self.surface, 6, &[]));
        self.raw.send(&bytes, &[])?;
        tally.replaced += 1;
        tally.commits += 1;
        match self.raw.read(Duration::ZERO)? {
            Ok(events) => self.hear(&events, tally),
            Err(end) => bail!("ended: {end:?}"),
        }
    }

    /// Answers what must be answered and counts releases.
    fn hear(&mut self, events: &[Event], tally: &mut Tally) -> Result<()> {
        for event in events {
            match (event.object, event.opcode) {
                (object, 0) if object == self.xdg_surface => {
                    self.raw.request(self.xdg_surface, 4, &[Arg::U(event.word(0))])?;
                }
                (object, 0) if object == self.wm_base => {
                    self.raw.request(self.wm_base, 3, &[Arg::U(event.word(0))])?;
                }
                (object, 0) if self.slots.iter().any(|slot| slot.buffer == object) => tally.released += 1,
                _ => {}
            }
        }
        Ok(())
    }
}
