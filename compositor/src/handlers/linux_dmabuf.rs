//! zwp_linux_dmabuf_v1: a buffer that passed the protocol's checks becomes smithay's `Dmabuf`, imported into the
//! backend at once.

use std::os::fd::{AsFd, BorrowedFd};

use drm_fourcc::{DrmFourcc, DrmModifier};
use primeway_protocols::delegate_linux_dmabuf;
use primeway_protocols::linux_dmabuf::{
    BufferPlane, DmabufFeedback, DmabufParams, ImportError, LinuxDmabufHandler, LinuxDmabufState,
};
use smithay::backend::allocator::dmabuf::{Dmabuf, DmabufFlags};
use smithay::reexports::wayland_server::backend::ClientId;
use smithay::reexports::wayland_server::protocol::wl_buffer::{self, WlBuffer};
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::reexports::wayland_server::{Client, DataInit, Dispatch, DisplayHandle, Resource};
use smithay::wayland::buffer::BufferHandler;

use crate::clients::{ClientState, FileId};
use crate::state::State;

impl LinuxDmabufHandler for State {
    type Buffer = Dmabuf;

    fn linux_dmabuf_state(&mut self) -> &mut LinuxDmabufState {
        &mut self.dmabuf.global
    }

    fn accepts_fd(&self, fd: BorrowedFd<'_>) -> bool {
        self.backend.buffers().is_dmabuf(fd)
    }

    fn import(&mut self, client: &Client, params: DmabufParams) -> Result<Dmabuf, ImportError> {
        let format = DrmFourcc::try_from(params.format).map_err(|_| ImportError::InvalidFormat)?;
        let modifier = match DrmModifier::from(params.modifier) {
            // No modifier, from an exporter that knows nothing but plain rows.
            DrmModifier::Invalid
                if params.planes.iter().all(|p| self.backend.buffers().is_linear(p.fd.as_fd())) =>
            {
                DrmModifier::Linear
            }
            modifier => modifier,
        };
        let files = params.planes.iter().map(memory).collect::<Option<Vec<_>>>();
        let files = files.ok_or(ImportError::Failed)?;
        let data = ClientState::of(client).ok_or(ImportError::Failed)?;
        {
            let usage = data.usage();
            let (planes, bytes) = (usage.planes + files.len() as u64, usage.bytes_with(&files));
            if planes > data.limits.buffers || bytes > data.limits.bytes {
                tracing::warn!(planes, bytes, "a client holds too many buffers");
                return Err(ImportError::Failed);
            }
        }
        let flags = DmabufFlags::from_bits_truncate(params.flags.bits());
        if flags.intersects(DmabufFlags::INTERLACED | DmabufFlags::BOTTOM_FIRST) {
            return Err(ImportError::Failed);
        }
        let mut builder = Dmabuf::builder((params.width, params.height), format, modifier, flags);
        for (index, plane) in (0..).zip(params.planes) {
            builder.add_plane(plane.fd, index, plane.offset, plane.stride);
        }
        let dmabuf = builder.build().ok_or(ImportError::Incomplete)?;
        if !self.painter.takes(&dmabuf) {
            tracing::debug!(%format, modifier = u64::from(modifier), "no way to read or show the buffer");
            // What was tried with it is forgotten with the buffer.
            self.painter.forget(&dmabuf.weak());
            return Err(ImportError::Failed);
        }
        // A buffer that the device refuses is still composited; the refusal shows up in its surface's reason.
        // Not the library's: it is connected to the relay, which is this process.
        let label = match data.credentials {
            Some(credentials) => format!("client {}", credentials.pid),
            None => format!("{:?}", client.id()),
        };
        if let Err(err) = self.backend.buffers_mut().import(&dmabuf, label.into()) {
            tracing::debug!(%err, "buffer will not be scanned out");
        }
        let mut usage = data.usage();
        files.into_iter().for_each(|(file, size)| usage.add_plane(file, size));
        Ok(dmabuf)
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

/// The file that a buffer plane lies in, and its size.
fn memory(plane: &BufferPlane) -> Option<(FileId, u64)> {
    let size = plane.size?;
    let stat = rustix::fs::fstat(&plane.fd).ok()?;
    Some(((stat.st_dev, stat.st_ino), size))
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

    fn destroyed(state: &mut Self, client: ClientId, buffer: &WlBuffer, dmabuf: &Dmabuf) {
        // A client that is gone holds nothing.
        if let Some(data) = state.client_state(client) {
            let mut usage = data.usage();
            let files = dmabuf.handles().filter_map(|fd| rustix::fs::fstat(fd).ok());
            files.for_each(|stat| usage.remove_plane((stat.st_dev, stat.st_ino)));
        }
        tracing::trace!(buffer = buffer.id().protocol_id(), "buffer destroyed");
        state.buffer_destroyed(buffer);
    }
}

delegate_linux_dmabuf!(State);
