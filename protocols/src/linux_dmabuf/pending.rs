//! The answer that a `create` is owed: [`PendingBuffer`].
//!
//! Owns: that there is one answer and no more, whatever dies meanwhile. Does not own: importing, or when it is done.

use std::fmt;
use std::marker::PhantomData;

use wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_buffer_params_v1::ZwpLinuxBufferParamsV1;
use wayland_server::backend::ClientId;
use wayland_server::protocol::wl_buffer::WlBuffer;
use wayland_server::{Client, Dispatch, DisplayHandle, Resource};

use super::dispatch::NoBuffer;
use super::{ImportError, LinuxDmabufHandler};

/// The answer to a `create` that a client waits for: `created` or `failed`, now or later, from any thread.
///
/// It is given once, by [`send`](Self::send). A value that is dropped answers `failed`; the event goes out with the next
/// flush of the client.
///
/// The client, or its params object, may be gone by then. The XML has destroying the params object *before* `create` as the
/// way to cancel it and is silent about afterwards; since the buffer could only be told of by an event of that object, there
/// is none then: nobody is told anything and no `wl_buffer` comes to be. [`is_wanted`](Self::is_wanted) says so early.
#[must_use = "dropping it answers `failed`"]
pub struct PendingBuffer<D> {
    params: ZwpLinuxBufferParamsV1,
    client: Client,
    display: DisplayHandle,
    answered: bool,
    handler: PhantomData<fn(D)>,
}

impl<D> PendingBuffer<D> {
    pub(super) fn new(params: &ZwpLinuxBufferParamsV1, client: &Client, display: &DisplayHandle) -> Self {
        Self {
            params: params.clone(),
            client: client.clone(),
            display: display.clone(),
            answered: false,
            handler: PhantomData,
        }
    }

    /// Whose buffer it is.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether there is still somebody to tell. Without, the import may as well not be made.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.params.is_alive() && self.is_connected(&self.client.id())
    }

    fn is_connected(&self, client: &ClientId) -> bool {
        self.display.backend_handle().get_client_data(client.clone()).is_ok()
    }
}

impl<D> PendingBuffer<D>
where
    D: LinuxDmabufHandler + Dispatch<WlBuffer, <D as LinuxDmabufHandler>::Buffer> + 'static,
{
    /// Tells the client. A buffer becomes the user data of a new `wl_buffer`.
    ///
    /// Says whether the client has a `wl_buffer` now. If not, the buffer was dropped: its
    /// `Dispatch::destroyed` will never be called.
    pub fn send(mut self, result: Result<D::Buffer, ImportError>) -> bool {
        self.answered = true;
        if !self.is_wanted() {
            tracing::debug!("a buffer came too late for its client");
            return false;
        }
        match result {
            Ok(buffer) => match self.client.create_resource::<WlBuffer, _, D>(&self.display, 1, buffer) {
                Ok(buffer) => {
                    self.params.created(&buffer);
                    true
                }
                Err(err) => {
                    tracing::debug!(%err, "client of a new buffer is gone");
                    false
                }
            },
            Err(error) => {
                NoBuffer::from(error).tell(&self.params);
                false
            }
        }
    }
}

impl<D> Drop for PendingBuffer<D> {
    fn drop(&mut self) {
        // Events to objects that are gone go nowhere.
        if !self.answered && self.params.is_alive() {
            self.params.failed();
        }
    }
}

impl<D> fmt::Debug for PendingBuffer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingBuffer").field("params", &self.params.id()).finish_non_exhaustive()
    }
}
