//! A small compositor and real clients of it.
//!
//! Owns: the server's handler, the client's event log. Does not own: the connection (`wire`), what is right (the cases).
#![allow(dead_code)]

#[macro_use]
#[path = "../wire/mod.rs"]
mod wire;

use std::os::fd::{AsFd, OwnedFd};

use primeway_protocols::linux_dmabuf::{
    DmabufFeedback, DmabufFeedbackBuilder, DmabufFile, DmabufFormat, DmabufParams, FailedBuffer, ImportError,
    LinuxDmabufHandler, LinuxDmabufState, MOD_INVALID, MOD_LINEAR, PendingBuffer, is_dmabuf,
};
use wayland_client::backend::protocol::ProtocolError;
use wayland_client::protocol::{wl_buffer, wl_callback, wl_compositor, wl_registry, wl_surface};
use wayland_client::{
    Connection, Proxy, QueueHandle, WEnum, delegate_dispatch, delegate_noop, event_created_child,
};
use wayland_protocols::wp::linux_dmabuf::zv1::client::{
    zwp_linux_buffer_params_v1::{self, Flags, ZwpLinuxBufferParamsV1},
    zwp_linux_dmabuf_feedback_v1::{self, ZwpLinuxDmabufFeedbackV1},
    zwp_linux_dmabuf_v1::{self, ZwpLinuxDmabufV1},
};
use wayland_server::protocol as server;
use wayland_server::{Client, DataInit, Dispatch, Display, DisplayHandle};

pub use wire::memfd;
use wire::{Answered, Globals, Wire};

pub const XRGB: u32 = u32::from_le_bytes(*b"XR24");
pub const NV12: u32 = u32::from_le_bytes(*b"NV12");
/// Advertised in feedback for scanout only, never in the list for old clients.
pub const P010: u32 = u32::from_le_bytes(*b"P010");
/// Known to the compositor but never advertised.
pub const ARGB: u32 = u32::from_le_bytes(*b"AR24");
/// Some tiling, advertised with NV12 only.
pub const TILED: u64 = 1 << 56 | 1;
pub const MAIN_DEVICE: u64 = 0xe280;
pub const SCANOUT_DEVICE: u64 = 0xe200;

pub fn format(fourcc: u32, modifier: u64) -> DmabufFormat {
    DmabufFormat { fourcc, modifier }
}

/// What the test compositor can sample.
pub fn formats() -> Vec<DmabufFormat> {
    vec![format(XRGB, MOD_LINEAR), format(XRGB, MOD_INVALID), format(NV12, MOD_LINEAR), format(NV12, TILED)]
}

/// Its default feedback: P010 for scanout only, before the main device.
pub fn feedback() -> DmabufFeedback {
    use primeway_protocols::linux_dmabuf::TrancheFlags;
    DmabufFeedbackBuilder::new(MAIN_DEVICE, formats())
        .add_tranche(
            SCANOUT_DEVICE,
            TrancheFlags::Scanout,
            [format(P010, MOD_LINEAR), format(XRGB, MOD_LINEAR)],
        )
        .build()
        .unwrap()
}

/// The compositor's buffer: what it was given.
#[derive(Debug)]
pub struct Buffer(pub DmabufParams);

/// The compositor's state.
pub struct State {
    pub dmabuf: LinuxDmabufState,
    /// Take memfds for dma-bufs, as a software device does.
    pub accept_memfds: bool,
    /// What the next imports answer; `None` imports.
    pub import_error: Option<ImportError>,
    pub surface_feedback: Option<DmabufFeedback>,
    pub surfaces: Vec<server::wl_surface::WlSurface>,
    /// Description of each import, in order.
    pub imported: Vec<String>,
    /// `wl_buffer`s with contents that exist.
    pub buffers: usize,
    /// Keep the `create`s of clients waiting.
    pub later: bool,
    /// Those that wait.
    pub waiting: Vec<(DmabufParams, PendingBuffer<State>)>,
}

impl LinuxDmabufHandler for State {
    type Buffer = Buffer;

    fn linux_dmabuf_state(&mut self) -> &mut LinuxDmabufState {
        &mut self.dmabuf
    }

    fn accepts_fd(&self, fd: std::os::fd::BorrowedFd<'_>, _: DmabufFile) -> bool {
        self.accept_memfds || is_dmabuf(fd)
    }

    fn import(&mut self, _client: &Client, params: DmabufParams) -> Result<Buffer, ImportError> {
        let DmabufParams { width, height, format, modifier, flags, planes, sampling_device } = &params;
        let planes: Vec<_> = planes.iter().map(|plane| (plane.offset, plane.stride)).collect();
        let format = String::from_utf8_lossy(&format.to_le_bytes()).into_owned();
        let flags = flags.bits();
        self.imported.push(format!(
            "{format} {modifier:#x} {width}x{height} flags {flags} planes {planes:?} device {sampling_device:?}"
        ));
        match self.import_error {
            Some(error) => Err(error),
            None => {
                self.buffers += 1;
                Ok(Buffer(params))
            }
        }
    }

    fn import_later(&mut self, client: &Client, params: DmabufParams, answer: PendingBuffer<Self>) {
        if self.later {
            self.waiting.push((params, answer));
            return;
        }
        let result = self.import(client, params);
        let made = result.is_ok();
        assert_eq!(answer.send(result), made, "a client that asks is there");
    }

    fn new_surface_feedback(&mut self, _surface: &server::wl_surface::WlSurface) -> Option<DmabufFeedback> {
        self.surface_feedback.clone()
    }
}

impl Dispatch<server::wl_buffer::WlBuffer, Buffer> for State {
    fn request(
        _: &mut Self,
        _: &Client,
        _: &server::wl_buffer::WlBuffer,
        _: server::wl_buffer::Request,
        _: &Buffer,
        _: &DisplayHandle,
        _: &mut DataInit<'_, Self>,
    ) {
    }

    fn destroyed(
        state: &mut Self,
        _: wayland_server::backend::ClientId,
        _: &server::wl_buffer::WlBuffer,
        _: &Buffer,
    ) {
        state.buffers -= 1;
    }
}

primeway_protocols::delegate_linux_dmabuf!(State);

global!(State: server::wl_compositor::WlCompositor);
requests! { State:
    wl_compositor::WlCompositor, () => |state, _compositor, init|
        Request::CreateSurface { id } => state.surfaces.push(init.init(id, ()));
    wl_surface::WlSurface, () => |_state, _surface, _init| ;
}

/// The compositor.
pub type Server = wire::Server<State>;

impl Server {
    /// A compositor that takes memfds, with a global of version 6, or 3 without feedback.
    pub fn new(default_feedback: Option<DmabufFeedback>) -> Self {
        let display = Display::<State>::new().unwrap();
        let handle = display.handle();
        handle.create_global::<State, server::wl_compositor::WlCompositor, ()>(6, ());
        let state = State {
            dmabuf: LinuxDmabufState::new::<State>(&handle, formats(), default_feedback),
            accept_memfds: true,
            import_error: None,
            surface_feedback: None,
            surfaces: Vec::new(),
            imported: Vec::new(),
            buffers: 0,
            later: false,
            waiting: Vec::new(),
        };
        Self { display, state }
    }

    /// Connects a client that binds the dma-buf global at `version`.
    pub fn connect(&mut self, version: u32) -> TestClient {
        let mut log = Log::default();
        let wire = Wire::connect(self, &mut log);
        let (dmabuf, compositor) = (wire.bind(version), wire.bind(5));
        let mut client = TestClient { wire, log, dmabuf, compositor };
        client.roundtrip(self).unwrap();
        client
    }
}

/// What a client saw of a feedback object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feedback {
    Table(Vec<DmabufFormat>),
    MainDevice(u64),
    TargetDevice(u64),
    Flags(u32),
    Formats(Vec<u16>),
    TrancheDone,
    Done,
}

/// What a client saw.
#[derive(Debug, Default)]
pub struct Log {
    pub formats: Vec<u32>,
    pub modifiers: Vec<(u32, u64)>,
    pub created: Vec<wl_buffer::WlBuffer>,
    pub failed: usize,
    /// Events per feedback object, by protocol id.
    pub feedback: Vec<(u32, Feedback)>,
    /// Table fds received.
    pub tables: Vec<OwnedFd>,
}

/// One client with its own connection.
pub struct TestClient {
    wire: Wire<Log>,
    pub log: Log,
    pub dmabuf: ZwpLinuxDmabufV1,
    pub compositor: wl_compositor::WlCompositor,
}

/// A plane to add.
pub struct Plane {
    pub index: u32,
    /// Size of the memfd behind it.
    pub size: u64,
    pub offset: u32,
    pub stride: u32,
    pub modifier: u64,
}

impl TestClient {
    pub fn handle(&self) -> QueueHandle<Log> {
        self.wire.handle()
    }

    /// Version of the dma-buf global.
    pub fn offered_version(&self) -> u32 {
        self.wire.global("zwp_linux_dmabuf_v1").1
    }

    pub fn bind(&self, version: u32) -> ZwpLinuxDmabufV1 {
        self.wire.bind(version)
    }

    pub fn params(&self) -> ZwpLinuxBufferParamsV1 {
        self.dmabuf.create_params(&self.handle(), ())
    }

    /// A params object with planes on memfds of their own.
    pub fn params_with(&self, planes: &[Plane]) -> ZwpLinuxBufferParamsV1 {
        let params = self.params();
        for plane in planes {
            let fd = memfd(plane.size);
            let (high, low) = ((plane.modifier >> 32) as u32, plane.modifier as u32);
            params.add(fd.as_fd(), plane.index, plane.offset, plane.stride, high, low);
        }
        params
    }

    pub fn create_immed(
        &self,
        params: &ZwpLinuxBufferParamsV1,
        (width, height, fourcc): (i32, i32, u32),
    ) -> wl_buffer::WlBuffer {
        params.create_immed(width, height, fourcc, Flags::empty(), &self.handle(), ())
    }

    pub fn create_surface(&self) -> wl_surface::WlSurface {
        self.compositor.create_surface(&self.handle(), ())
    }

    pub fn surface_feedback(&self, surface: &wl_surface::WlSurface) -> ZwpLinuxDmabufFeedbackV1 {
        self.dmabuf.get_surface_feedback(surface, &self.handle(), ())
    }

    pub fn default_feedback(&self) -> ZwpLinuxDmabufFeedbackV1 {
        self.dmabuf.get_default_feedback(&self.handle(), ())
    }

    /// Takes the events of one feedback object out of the log.
    pub fn take_feedback(&mut self, object: &ZwpLinuxDmabufFeedbackV1) -> Vec<Feedback> {
        let id = object.id().protocol_id();
        let (taken, kept) =
            std::mem::take(&mut self.log.feedback).into_iter().partition(|(other, _)| *other == id);
        self.log.feedback = kept;
        Vec::into_iter(taken).map(|(_, event)| event).collect()
    }

    /// Lets the server handle everything sent so far and reads its answers.
    pub fn roundtrip(&mut self, server: &mut Server) -> Result<(), ProtocolError> {
        self.wire.roundtrip(&mut self.log, server)
    }

    /// Creates a good buffer both ways and destroys it: the connection works.
    pub fn assert_alive(&mut self, server: &mut Server) {
        let imports = server.state.imported.len();
        let planes = || [Plane { index: 0, size: 4096, offset: 0, stride: 64, modifier: MOD_LINEAR }];
        let created = self.log.created.len();
        let asked = self.params_with(&planes());
        asked.create(16, 16, XRGB, Flags::empty());
        let immed = self.params_with(&planes());
        let buffer = self.create_immed(&immed, (16, 16, XRGB));
        self.roundtrip(server).expect("the client is alive");
        assert_eq!(self.log.created.len(), created + 1);
        assert_eq!(server.state.imported.len(), imports + 2);
        buffer.destroy();
        self.log.created.pop().unwrap().destroy();
        asked.destroy();
        immed.destroy();
        self.roundtrip(server).expect("the client is alive");
    }
}

/// Says whether the server marked this client's buffer as failed.
pub fn is_failed_buffer(server: &Server, client: &Client, buffer: &wl_buffer::WlBuffer) -> bool {
    use wayland_server::Resource;
    let handle = server.display.handle();
    let id = buffer.id().protocol_id();
    let object = client.object_from_protocol_id::<server::wl_buffer::WlBuffer>(&handle, id).unwrap();
    object.data::<FailedBuffer>().is_some() && object.data::<Buffer>().is_none()
}

delegate_dispatch!(Log: [wl_registry::WlRegistry: Globals] => Wire<Log>);
delegate_dispatch!(Log: [wl_callback::WlCallback: Answered] => Wire<Log>);
delegate_noop!(Log: ignore wl_buffer::WlBuffer);
delegate_noop!(Log: ignore wl_surface::WlSurface);
delegate_noop!(Log: wl_compositor::WlCompositor);

impl wayland_client::Dispatch<ZwpLinuxDmabufV1, ()> for Log {
    fn event(
        log: &mut Self,
        _: &ZwpLinuxDmabufV1,
        event: zwp_linux_dmabuf_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            zwp_linux_dmabuf_v1::Event::Format { format } => log.formats.push(format),
            zwp_linux_dmabuf_v1::Event::Modifier { format, modifier_hi, modifier_lo } => {
                log.modifiers.push((format, u64::from(modifier_hi) << 32 | u64::from(modifier_lo)));
            }
            other => panic!("{other:?}"),
        }
    }
}

impl wayland_client::Dispatch<ZwpLinuxBufferParamsV1, ()> for Log {
    fn event(
        log: &mut Self,
        _: &ZwpLinuxBufferParamsV1,
        event: zwp_linux_buffer_params_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            zwp_linux_buffer_params_v1::Event::Created { buffer } => log.created.push(buffer),
            zwp_linux_buffer_params_v1::Event::Failed => log.failed += 1,
            other => panic!("{other:?}"),
        }
    }

    event_created_child!(Log, ZwpLinuxBufferParamsV1, [
        zwp_linux_buffer_params_v1::EVT_CREATED_OPCODE => (wl_buffer::WlBuffer, ()),
    ]);
}

impl wayland_client::Dispatch<ZwpLinuxDmabufFeedbackV1, ()> for Log {
    fn event(
        log: &mut Self,
        object: &ZwpLinuxDmabufFeedbackV1,
        event: zwp_linux_dmabuf_feedback_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use zwp_linux_dmabuf_feedback_v1::Event;
        let device = |bytes: Vec<u8>| u64::from_ne_bytes(bytes.try_into().expect("a dev_t has eight bytes"));
        let event = match event {
            Event::FormatTable { fd, size } => {
                let table = read_table(&fd, size);
                log.tables.push(fd);
                Feedback::Table(table)
            }
            Event::MainDevice { device: bytes } => Feedback::MainDevice(device(bytes)),
            Event::TrancheTargetDevice { device: bytes } => Feedback::TargetDevice(device(bytes)),
            Event::TrancheFlags { flags: WEnum::Value(flags) } => Feedback::Flags(flags.bits()),
            Event::TrancheFormats { indices } => Feedback::Formats(
                indices.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect(),
            ),
            Event::TrancheDone => Feedback::TrancheDone,
            Event::Done => Feedback::Done,
            other => panic!("{other:?}"),
        };
        log.feedback.push((object.id().protocol_id(), event));
    }
}

/// Reads a format table as the XML describes it. Without moving the position of the shared file.
fn read_table(fd: &OwnedFd, size: u32) -> Vec<DmabufFormat> {
    let mut bytes = vec![0; size as usize + 1];
    let read = rustix::io::pread(fd, &mut bytes, 0).unwrap();
    assert_eq!(read, size as usize, "the file is as long as announced");
    bytes[..read]
        .chunks_exact(16)
        .map(|entry| {
            let word = |range: std::ops::Range<usize>| u32::from_ne_bytes(entry[range].try_into().unwrap());
            let modifier = u64::from_ne_bytes(entry[8..].try_into().unwrap());
            DmabufFormat { fourcc: word(0..4), modifier }
        })
        .collect()
}
