//! zwp_linux_dmabuf_v1: a buffer that passed the protocol's checks goes through [`crate::import`], and the client hears what
//! became of it.

use std::os::fd::BorrowedFd;

use primeway_protocols::delegate_linux_dmabuf;
use primeway_protocols::linux_dmabuf::{
    DmabufFeedback, DmabufFile, DmabufParams, ImportError, LinuxDmabufHandler, LinuxDmabufState,
    PendingBuffer,
};
use smithay::backend::allocator::dmabuf::Dmabuf;
use smithay::reexports::wayland_server::backend::ClientId;
use smithay::reexports::wayland_server::protocol::wl_buffer::{self, WlBuffer};
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{Client, DataInit, Dispatch, DisplayHandle, Resource};

use crate::clients::{self, ClientState};
use crate::import::{Candidate, Reason, Refusal, Refused};
use crate::state::State;

impl LinuxDmabufHandler for State {
    type Buffer = Dmabuf;

    fn linux_dmabuf_state(&mut self) -> &mut LinuxDmabufState {
        &mut self.dmabuf.global
    }

    fn accepts_fd(&self, fd: BorrowedFd<'_>, file: DmabufFile) -> bool {
        self.backend.buffers().is_dmabuf(fd, file.dev)
    }

    fn import(&mut self, client: &Client, params: DmabufParams) -> Result<Dmabuf, ImportError> {
        let params = match self.revive(client, params) {
            Ok(dmabuf) => return Ok(dmabuf),
            Err(params) => params,
        };
        let data = self.client_state(client.id());
        let candidate = Candidate::new(data.as_ref(), clients::owner(client), params, &self.backend);
        self.create_now(candidate).map_err(|refusal| self.refused(refusal))
    }

    fn import_later(&mut self, client: &Client, params: DmabufParams, answer: PendingBuffer<Self>) {
        let params = match self.revive(client, params) {
            Ok(dmabuf) => return self.answer_with(dmabuf, answer),
            Err(params) => params,
        };
        let data = self.client_state(client.id());
        match Candidate::new(data.as_ref(), clients::owner(client), params, &self.backend) {
            Ok(candidate) => self.create_later(candidate, answer),
            Err(refusal) => {
                answer.send(Err(self.refused(refusal)));
            }
        }
    }

    fn plane_received(&mut self, client: &Client) {
        if let Some(data) = ClientState::of(client) {
            data.usage().took_file();
        }
    }

    fn new_surface_feedback(&mut self, surface: &WlSurface) -> Option<DmabufFeedback> {
        self.dmabuf.feedback.of(surface)
    }
}

impl State {
    /// Notes a refusal and says what the client is told.
    pub(crate) fn refused(&mut self, refusal: Refusal) -> ImportError {
        let error = match &refusal.why {
            Refused::At(Reason::UnknownFormat(_)) => ImportError::InvalidFormat,
            Refused::At(Reason::Planes) => ImportError::Incomplete,
            // What no client could have known.
            _ => ImportError::Failed,
        };
        self.dmabuf.imports.refused(refusal);
        error
    }
}

impl Dispatch<WlBuffer, Dmabuf> for State {
    fn request(
        _: &mut Self,
        _: &Client,
        _: &WlBuffer,
        request: wl_buffer::Request,
        _: &Dmabuf,
        _: &DisplayHandle,
        _: &mut DataInit<'_, Self>,
    ) {
        if !matches!(request, wl_buffer::Request::Destroy) {
            tracing::debug!("unknown wl_buffer request");
        }
    }

    fn destroyed(state: &mut Self, _: ClientId, buffer: &WlBuffer, dmabuf: &Dmabuf) {
        tracing::trace!(buffer = buffer.id().protocol_id(), "buffer destroyed");
        // The surface and the frames that show it keep the memory; what is kept for it goes after them.
        state.buffer_ended(dmabuf);
    }
}

delegate_linux_dmabuf!(State);
