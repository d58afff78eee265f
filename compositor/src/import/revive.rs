//! Buffers that were just destroyed, and come back if their client describes the same memory in the same way again.
//!
//! Clients that make a new wl_buffer for each frame destroy the old one of the same memory just before it. Taken in anew, it
//! would be imported, mapped and given a framebuffer again. So what was destroyed is kept until the end of the turn, or of the
//! turn in which its client has nothing more to say; and a buffer that says the same of the same dma-bufs *is* that buffer, with
//! its handles, framebuffers and mappings, as if the client had committed one wl_buffer twice. It costs the look at its files
//! that tells which they are, and closing them.
//!
//! What is kept counts against the client's quotas, is never more than [`MOST`] buffers, and goes at once when the client has
//! no room for another one.
//!
//! Owns: what is kept, and what is the same. Does not own: when a turn ends ([`crate::redraw`]).

use std::collections::VecDeque;

use primeway_protocols::linux_dmabuf::{BufferPlane, DmabufParams};
use smithay::backend::allocator::Buffer as _;
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags};
use smithay::reexports::wayland_server::Client;

use super::{Reservation, memory};
use crate::clients::ClientState;
use crate::state::State;

/// Buffers that are kept.
const MOST: usize = 64;

/// What is kept of a buffer while its wl_buffer is there.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) reservation: Reservation,
    /// The modifier that the client named, which is not always the buffer's.
    pub(super) modifier: u64,
}

impl Counted {
    /// Whether a description by `client` is that of `dmabuf`.
    fn describes(&self, dmabuf: &Dmabuf, client: &ClientState, params: &DmabufParams) -> bool {
        let size = dmabuf.size();
        let planes = || dmabuf.offsets().zip(dmabuf.strides()).zip(&self.reservation.files);
        let same = |(plane, ((offset, stride), file)): (&BufferPlane, ((u32, u32), &_))| {
            (plane.offset, plane.stride) == (offset, stride) && memory(plane).as_ref() == Some(file)
        };
        std::ptr::eq(&*self.reservation.client, client)
            && (size.w, size.h) == (params.width, params.height)
            && dmabuf.format().code as u32 == params.format
            && self.modifier == params.modifier
            && flags(dmabuf) == params.flags.bits()
            && dmabuf.num_planes() == params.planes.len()
            && params.planes.iter().zip(planes()).all(same)
    }
}

/// The protocol's flags of a buffer that was taken in; interlaced ones are not.
fn flags(dmabuf: &Dmabuf) -> u32 {
    if dmabuf.y_inverted() { DmabufFlags::Y_INVERT.bits() } else { 0 }
}

/// The buffers that were destroyed in this turn, the last one at the end.
#[derive(Debug, Default)]
pub(super) struct Ended(VecDeque<(Dmabuf, Counted)>);

impl Ended {
    /// Keeps one; gives back the one that has to go for it.
    fn push(&mut self, dmabuf: Dmabuf, counted: Counted) -> Option<Dmabuf> {
        let oldest = if self.0.len() < MOST { None } else { self.0.pop_front() };
        self.0.push_back((dmabuf, counted));
        oldest.map(|(dmabuf, _)| dmabuf)
    }

    fn take(&mut self, client: &ClientState, params: &DmabufParams) -> Option<(Dmabuf, Counted)> {
        let index = self.0.iter().rposition(|(dmabuf, counted)| counted.describes(dmabuf, client, params))?;
        self.0.remove(index)
    }
}

impl State {
    /// A wl_buffer is gone. Its planes and bytes count until the end of the turn.
    pub(crate) fn buffer_ended(&mut self, dmabuf: &Dmabuf) {
        let imports = &mut self.dmabuf.imports;
        let gone = match imports.counted.remove(&dmabuf.weak()) {
            Some(counted) => imports.ended.push(dmabuf.clone(), counted),
            None => Some(dmabuf.clone()),
        };
        self.dmabuf.dying.extend(gone.map(|dmabuf| dmabuf.weak()));
    }

    /// Brings a buffer back that was destroyed in this turn, if this describes it. It gives the description back otherwise, and
    /// the client has room for another buffer then if it had any before.
    pub(crate) fn revive(&mut self, client: &Client, params: DmabufParams) -> Result<Dmabuf, DmabufParams> {
        let Some(data) = ClientState::of(client).filter(|_| !self.dmabuf.imports.ended.0.is_empty()) else {
            return Err(params);
        };
        let imports = &mut self.dmabuf.imports;
        let Some((dmabuf, counted)) = imports.ended.take(data, &params) else {
            if !has_room(data, &params) {
                self.end_buffers_of(|_| true);
            }
            return Err(params);
        };
        imports.counted.insert(dmabuf.weak(), counted);
        imports.revived += 1;
        self.dmabuf.closing.extend(params.planes.into_iter().map(|plane| plane.fd));
        if self.dmabuf.closing.len() >= MOST {
            self.close_files();
        }
        Ok(dmabuf)
    }

    /// The turn ends: what was destroyed does not come back any more, unless its client has more to say.
    pub(crate) fn end_buffers(&mut self) {
        if !self.dmabuf.imports.ended.0.is_empty() {
            let waiting: Vec<u64> = self.runtime.clients.waiting().collect();
            self.end_buffers_of(|client| !waiting.contains(&client));
        }
        self.close_files();
    }

    fn end_buffers_of(&mut self, goes: impl Fn(u64) -> bool) {
        let dying = &mut self.dmabuf.dying;
        self.dmabuf.imports.ended.0.retain(|(dmabuf, counted)| {
            let goes = goes(counted.reservation.client.number());
            dying.extend(goes.then(|| dmabuf.weak()));
            !goes
        });
    }

    fn close_files(&mut self) {
        if !self.dmabuf.closing.is_empty() {
            drm_prime::close_together(self.dmabuf.closing.drain(..));
        }
    }
}

/// Whether a client's quotas have room for a buffer.
fn has_room(client: &ClientState, params: &DmabufParams) -> bool {
    let files: Vec<_> = params.planes.iter().filter_map(memory).collect();
    let usage = client.usage();
    usage.planes + files.len() as u64 <= client.limits.buffers
        && usage.bytes_with(&files) <= client.limits.bytes
}
