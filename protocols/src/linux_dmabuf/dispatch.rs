//! Requests: from the wire to the checks and the compositor, and the answer back to the wire.
//!
//! Owns: the dispatch implementations and the objects' user data. Does not own: the rules (`params`), the memory of
//! what was advertised (`state`).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wayland_protocols::wp::linux_dmabuf::zv1::server::{
    zwp_linux_buffer_params_v1::{self, Error as Code, Flags, ZwpLinuxBufferParamsV1},
    zwp_linux_dmabuf_feedback_v1::{self, ZwpLinuxDmabufFeedbackV1},
    zwp_linux_dmabuf_v1::{self, ZwpLinuxDmabufV1},
};
use wayland_server::backend::{ClientId, ObjectId};
use wayland_server::protocol::wl_buffer::{self, WlBuffer};
use wayland_server::{Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, WEnum};

use super::params::{
    BufferRequest, ClientFault, FormatFacts, PendingPlane, PendingPlanes, Refusal, Unusable,
};
use super::{
    BufferPlane, DmabufFile, DmabufParams, FormatTable, ImportError, LinuxDmabufHandler, LinuxDmabufState,
    MAX_PLANES, MOD_INVALID, PendingBuffer,
};

/// User data of the global and of its objects.
#[derive(Debug)]
pub struct DmabufGlobalData(());

impl DmabufGlobalData {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// User data of a params object: the planes collected so far.
#[derive(Debug, Default)]
pub struct DmabufParamsData(Mutex<PendingPlanes<OwnedFd>>);

impl DmabufParamsData {
    fn lock(&self) -> MutexGuard<'_, PendingPlanes<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// User data of a feedback object.
#[derive(Debug)]
pub struct DmabufFeedbackData {
    /// The surface that it was asked for; `None` for default feedback.
    surface: Option<ObjectId>,
    last_table: Mutex<Option<Arc<FormatTable>>>,
}

impl DmabufFeedbackData {
    fn new(surface: Option<ObjectId>) -> Self {
        Self { surface, last_table: Mutex::new(None) }
    }

    pub(crate) fn last_table(&self) -> MutexGuard<'_, Option<Arc<FormatTable>>> {
        self.last_table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// User data of a `wl_buffer` from `create_immed` whose import failed.
///
/// It has no contents. What its use does is up to the compositor; `buffer.data::<Buffer>()` is `None`.
#[derive(Debug)]
pub struct FailedBuffer(());

impl<D> GlobalDispatch<ZwpLinuxDmabufV1, DmabufGlobalData, D> for LinuxDmabufState
where
    D: LinuxDmabufHandler
        + GlobalDispatch<ZwpLinuxDmabufV1, DmabufGlobalData>
        + Dispatch<ZwpLinuxDmabufV1, DmabufGlobalData>,
{
    fn bind(
        state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<ZwpLinuxDmabufV1>,
        _global: &DmabufGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        let object = data_init.init(resource, DmabufGlobalData::new());
        advertise(&object, state.linux_dmabuf_state());
    }
}

/// Sends what clients of versions 1 to 3 are told at bind: each fourcc once, and from version 3 its modifiers.
fn advertise(object: &ZwpLinuxDmabufV1, state: &LinuxDmabufState) {
    let version = object.version();
    if version >= zwp_linux_dmabuf_v1::REQ_GET_DEFAULT_FEEDBACK_SINCE {
        return;
    }
    let explicit = version >= zwp_linux_dmabuf_v1::EVT_MODIFIER_SINCE;
    let mut sent = Vec::new();
    for format in state.formats() {
        // Without modifier events only an implicit modifier can be meant.
        let usable = explicit || format.modifier == MOD_INVALID;
        if usable && !sent.contains(&format.fourcc) {
            sent.push(format.fourcc);
            object.format(format.fourcc);
        }
        if explicit {
            let [high, low] = [(format.modifier >> 32) as u32, format.modifier as u32];
            object.modifier(format.fourcc, high, low);
        }
    }
}

impl<D> Dispatch<ZwpLinuxDmabufV1, DmabufGlobalData, D> for LinuxDmabufState
where
    D: LinuxDmabufHandler
        + Dispatch<ZwpLinuxDmabufV1, DmabufGlobalData>
        + Dispatch<ZwpLinuxBufferParamsV1, DmabufParamsData>
        + Dispatch<ZwpLinuxDmabufFeedbackV1, DmabufFeedbackData>,
{
    fn request(
        state: &mut D,
        client: &Client,
        _object: &ZwpLinuxDmabufV1,
        request: zwp_linux_dmabuf_v1::Request,
        _data: &DmabufGlobalData,
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        match request {
            zwp_linux_dmabuf_v1::Request::CreateParams { params_id } => {
                let data = DmabufParamsData::default();
                if state.linux_dmabuf_state().add_params(client.id()) {
                    data.lock().refuse_over_quota();
                }
                data_init.init(params_id, data);
            }
            zwp_linux_dmabuf_v1::Request::GetDefaultFeedback { id } => {
                let object = data_init.init(id, DmabufFeedbackData::new(None));
                state.linux_dmabuf_state().add_default_object(object);
            }
            zwp_linux_dmabuf_v1::Request::GetSurfaceFeedback { id, surface } => {
                let object = data_init.init(id, DmabufFeedbackData::new(Some(surface.id())));
                let own = if state.linux_dmabuf_state().knows_surface(&surface) {
                    None
                } else {
                    state.new_surface_feedback(&surface)
                };
                state.linux_dmabuf_state().add_surface_object(&surface, object, own);
            }
            // Buffers and other objects outlive the factory.
            zwp_linux_dmabuf_v1::Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }
}

impl<D> Dispatch<ZwpLinuxDmabufFeedbackV1, DmabufFeedbackData, D> for LinuxDmabufState
where
    D: LinuxDmabufHandler + Dispatch<ZwpLinuxDmabufFeedbackV1, DmabufFeedbackData>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _object: &ZwpLinuxDmabufFeedbackV1,
        request: zwp_linux_dmabuf_feedback_v1::Request,
        _data: &DmabufFeedbackData,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        match request {
            // Forgotten in `destroyed`, which also sees clients that end.
            zwp_linux_dmabuf_feedback_v1::Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }

    fn destroyed(
        state: &mut D,
        _client: ClientId,
        object: &ZwpLinuxDmabufFeedbackV1,
        data: &DmabufFeedbackData,
    ) {
        state.linux_dmabuf_state().remove_object(object, data.surface.as_ref());
    }
}

impl<D> Dispatch<WlBuffer, FailedBuffer, D> for LinuxDmabufState
where
    D: Dispatch<WlBuffer, FailedBuffer>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _buffer: &WlBuffer,
        request: wl_buffer::Request,
        _data: &FailedBuffer,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        match request {
            wl_buffer::Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
    }
}

impl<D> Dispatch<ZwpLinuxBufferParamsV1, DmabufParamsData, D> for LinuxDmabufState
where
    D: LinuxDmabufHandler
        + Dispatch<ZwpLinuxBufferParamsV1, DmabufParamsData>
        + Dispatch<WlBuffer, <D as LinuxDmabufHandler>::Buffer>
        + Dispatch<WlBuffer, FailedBuffer>,
{
    fn request(
        state: &mut D,
        client: &Client,
        object: &ZwpLinuxBufferParamsV1,
        request: zwp_linux_buffer_params_v1::Request,
        data: &DmabufParamsData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        let before = data.lock().held();
        match request {
            zwp_linux_buffer_params_v1::Request::Add {
                fd,
                plane_idx,
                offset,
                stride,
                modifier_hi,
                modifier_lo,
            } => {
                let modifier = u64::from(modifier_hi) << 32 | u64::from(modifier_lo);
                let plane = PendingPlane { fd, offset, stride, modifier };
                state.plane_received(client);
                let full = state.linux_dmabuf_state().planes_full(&client.id());
                let added = {
                    let mut pending = data.lock();
                    if full {
                        pending.refuse_over_quota();
                    }
                    pending.add(object.version(), plane_idx, plane)
                };
                data.post_fault(object, added);
            }
            zwp_linux_buffer_params_v1::Request::SetSamplingDevice { device } => {
                let set = data.lock().set_sampling_device(&device);
                data.post_fault(object, set);
            }
            zwp_linux_buffer_params_v1::Request::Create { width, height, format, flags } => {
                let request = BufferRequest { width, height, fourcc: format };
                match check(state, object, data, request, flags) {
                    Ok(params) => {
                        let answer = PendingBuffer::new(object, client, display);
                        state.import_later(client, params, answer);
                    }
                    Err(none) => {
                        none.log(request);
                        none.tell(object);
                    }
                }
            }
            zwp_linux_buffer_params_v1::Request::CreateImmed { buffer_id, width, height, format, flags } => {
                let request = BufferRequest { width, height, fourcc: format };
                let made = check(state, object, data, request, flags)
                    .and_then(|params| state.import(client, params).map_err(NoBuffer::from));
                if let Err(none) = &made {
                    none.log(request);
                }
                match made {
                    Ok(buffer) => {
                        data_init.init(buffer_id, buffer);
                    }
                    // An id may stay without an object only because the error ends the client.
                    Err(NoBuffer::Fatal(code, why)) => object.post_error(code, why),
                    Err(NoBuffer::Invalid(why)) => object.post_error(Code::InvalidWlBuffer, why),
                    Err(NoBuffer::Failed) => {
                        data_init.init(buffer_id, FailedBuffer(()));
                        object.failed();
                    }
                }
            }
            zwp_linux_buffer_params_v1::Request::Destroy => {}
            other => tracing::error!(request = ?other, "unknown request"),
        }
        let after = data.lock().held();
        state.linux_dmabuf_state().count_planes(&client.id(), before, after);
    }

    fn destroyed(state: &mut D, client: ClientId, _object: &ZwpLinuxBufferParamsV1, data: &DmabufParamsData) {
        let before = data.lock().held();
        let state = state.linux_dmabuf_state();
        state.count_planes(&client, before, 0);
        state.remove_params(&client);
    }
}

impl DmabufParamsData {
    /// Ends the client if there is a fault, and closes the fds collected so far.
    fn post_fault(&self, object: &ZwpLinuxBufferParamsV1, result: Result<(), ClientFault>) {
        if let Err(fault) = result {
            self.lock().discard();
            object.post_error(fault.code(), fault.to_string());
        }
    }
}

/// What the client gets instead of a buffer.
pub(super) enum NoBuffer {
    Fatal(Code, String),
    /// The `failed` event, and for `create_immed` a buffer without contents.
    Failed,
    /// The `failed` event for `create`, invalid_wl_buffer for `create_immed`.
    Invalid(String),
}

impl NoBuffer {
    /// Answers a `create`.
    pub(super) fn tell(self, object: &ZwpLinuxBufferParamsV1) {
        match self {
            Self::Fatal(code, why) => object.post_error(code, why),
            Self::Failed | Self::Invalid(_) => object.failed(),
        }
    }

    fn log(&self, request: BufferRequest) {
        if let Self::Fatal(_, why) | Self::Invalid(why) = self {
            tracing::debug!(
                width = request.width,
                height = request.height,
                format = format_args!("{:#010x}", request.fourcc),
                why,
                "dma-buf refused"
            );
        }
    }
}

impl From<ClientFault> for NoBuffer {
    fn from(fault: ClientFault) -> Self {
        Self::Fatal(fault.code(), fault.to_string())
    }
}

impl From<Refusal> for NoBuffer {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Fault(fault) => fault.into(),
            Refusal::Unusable(Unusable::TooManyPending) => Self::Failed,
            Refusal::Unusable(why) => why.into(),
        }
    }
}

impl From<Unusable> for NoBuffer {
    fn from(why: Unusable) -> Self {
        Self::Invalid(why.to_string())
    }
}

impl From<ImportError> for NoBuffer {
    fn from(error: ImportError) -> Self {
        let code = match error {
            ImportError::Failed => return Self::Failed,
            ImportError::InvalidWlBuffer => return Self::Invalid(error.to_string()),
            ImportError::Incomplete => Code::Incomplete,
            ImportError::InvalidFormat => Code::InvalidFormat,
            ImportError::InvalidDimensions => Code::InvalidDimensions,
            ImportError::OutOfBounds => Code::OutOfBounds,
        };
        Self::Fatal(code, error.to_string())
    }
}

/// Checks the collected planes. Those that make no buffer are closed here.
fn check<D: LinuxDmabufHandler>(
    state: &mut D,
    object: &ZwpLinuxBufferParamsV1,
    data: &DmabufParamsData,
    request: BufferRequest,
    flags: WEnum<Flags>,
) -> Result<DmabufParams, NoBuffer> {
    let layout = state.format_layout(request.fourcc);
    let modifiers = state.linux_dmabuf_state().advertised_modifiers(request.fourcc);
    let facts = FormatFacts { layout: layout.as_ref(), modifiers };
    let checked = data.lock().finish(object.version(), request, facts)?;
    let WEnum::Value(flags) = flags else {
        return Err(Unusable::Flags.into());
    };
    let mut files = [None; MAX_PLANES];
    for (index, (plane, _)) in checked.planes.iter().enumerate() {
        let fd = plane.fd.as_fd();
        // First what it is, then its size: a file that is no buffer is not asked for more.
        let file = DmabufFile::of(fd).filter(|file| state.accepts_fd(fd, *file));
        let file = file.ok_or(Unusable::NotADmabuf)?.with_size(fd);
        files[index] = Some(file);
        if let Some(size) = file.size {
            checked.check_size(index, size)?;
        }
    }
    Ok(DmabufParams {
        width: request.width,
        height: request.height,
        format: request.fourcc,
        modifier: checked.modifier,
        flags,
        planes: checked
            .planes
            .into_iter()
            .zip(files)
            .map(|((PendingPlane { fd, offset, stride, .. }, _), file)| BufferPlane {
                fd,
                offset,
                stride,
                file,
            })
            .collect(),
        sampling_device: checked.sampling_device,
    })
}
