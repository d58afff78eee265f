//! wl_shm, within the client's quotas: a pool is an open file and a mapping, and so is what its buffers keep of it.

use smithay::reexports::wayland_server::backend::ClientId;
use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::reexports::wayland_server::protocol::wl_shm::{self, WlShm};
use smithay::reexports::wayland_server::protocol::wl_shm_pool::{self, WlShmPool};
use smithay::reexports::wayland_server::{
    Client, DataInit, Dispatch, DisplayHandle, Resource as _, WEnum, delegate_global_dispatch,
};
use smithay::wayland::shm::{ShmBufferUserData, ShmHandler, ShmPoolUserData, ShmState};

use crate::clients::{ClientState, over_quota};
use crate::state::State;

impl ShmHandler for State {
    fn shm_state(&self) -> &ShmState {
        &self.protocols.shm
    }
}

delegate_global_dispatch!(State: [WlShm: ()] => ShmState);

impl Dispatch<WlShm, ()> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        shm: &WlShm,
        request: wl_shm::Request,
        data: &(),
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        if let (wl_shm::Request::CreatePool { .. }, Some(kept)) = (&request, ClientState::of(client)) {
            let mut usage = kept.usage();
            usage.took_file();
            usage.pools += 1;
            let pools = usage.pools;
            drop(usage);
            if pools > kept.limits.pools {
                over_quota(display, client, format!("{pools} wl_shm_pools"));
                return;
            }
        }
        <ShmState as Dispatch<WlShm, (), Self>>::request(state, client, shm, request, data, display, init);
    }
}

impl Dispatch<WlShmPool, ShmPoolUserData> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        pool: &WlShmPool,
        request: wl_shm_pool::Request,
        data: &ShmPoolUserData,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        match &request {
            wl_shm_pool::Request::CreateBuffer { format: WEnum::Unknown(format), .. } => {
                pool.post_error(wl_shm::Error::InvalidFormat, format!("there is no format {format:#010x}"));
                return;
            }
            wl_shm_pool::Request::CreateBuffer { .. } => {
                let Some(kept) = ClientState::of(client) else { return };
                let mut usage = kept.usage();
                usage.shm_buffers += 1;
                let buffers = usage.shm_buffers;
                drop(usage);
                if buffers > kept.limits.pools {
                    over_quota(display, client, format!("{buffers} wl_shm buffers"));
                    return;
                }
            }
            // smithay 0.7 sends the error and goes on to unwrap the size.
            wl_shm_pool::Request::Resize { size } if *size <= 0 => {
                pool.post_error(wl_shm::Error::InvalidFd, format!("a pool of {size} bytes"));
                return;
            }
            _ => {}
        }
        <ShmState as Dispatch<WlShmPool, ShmPoolUserData, Self>>::request(
            state, client, pool, request, data, display, init,
        );
    }

    fn destroyed(state: &mut Self, client: ClientId, pool: &WlShmPool, data: &ShmPoolUserData) {
        if let Some(kept) = state.client_state(client.clone()) {
            let mut usage = kept.usage();
            usage.pools = usage.pools.saturating_sub(1);
        }
        <ShmState as Dispatch<WlShmPool, ShmPoolUserData, Self>>::destroyed(state, client, pool, data);
    }
}

impl Dispatch<WlBuffer, ShmBufferUserData> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        buffer: &WlBuffer,
        request: <WlBuffer as smithay::reexports::wayland_server::Resource>::Request,
        data: &ShmBufferUserData,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        <ShmState as Dispatch<WlBuffer, ShmBufferUserData, Self>>::request(
            state, client, buffer, request, data, display, init,
        );
    }

    fn destroyed(state: &mut Self, client: ClientId, buffer: &WlBuffer, data: &ShmBufferUserData) {
        if let Some(kept) = state.client_state(client.clone()) {
            let mut usage = kept.usage();
            usage.shm_buffers = usage.shm_buffers.saturating_sub(1);
        }
        <ShmState as Dispatch<WlBuffer, ShmBufferUserData, Self>>::destroyed(state, client, buffer, data);
    }
}
