//! A small compositor and real clients of it.
//!
//! Owns: the server's handler, contents of three kinds. Does not own: the connection (`wire`), what is right (the cases).

#[macro_use]
#[path = "../wire/mod.rs"]
mod wire;

use std::os::fd::AsFd;

use primeway_protocols::color_representation::{
    AlphaMode, Coefficients, ColorRepresentationHandler, ColorRepresentationState, CommitFault, Contents,
    Model, Range, Representation, Supported,
};
use wayland_client::backend::protocol::ProtocolError;
use wayland_client::protocol::{
    wl_buffer, wl_callback, wl_compositor, wl_registry, wl_shm, wl_shm_pool, wl_surface,
};
use wayland_client::{Connection, Dispatch as ClientDispatch, QueueHandle, delegate_dispatch, delegate_noop};
use wayland_protocols::wp::color_representation::v1::client::{
    wp_color_representation_manager_v1::{self, WpColorRepresentationManagerV1},
    wp_color_representation_surface_v1::{self as wire_enum, WpColorRepresentationSurfaceV1},
};
use wayland_server::protocol as server;
use wayland_server::{Display, Resource, WEnum};

use wire::{Answered, Globals, Wire, memfd};

/// What the test compositor supports.
pub fn supported() -> Supported {
    Supported {
        alpha_modes: vec![AlphaMode::PremultipliedElectrical],
        coefficients: vec![
            (Coefficients::Identity, Range::Full),
            (Coefficients::Bt709, Range::Limited),
            (Coefficients::Bt2020, Range::Full),
        ],
    }
}

/// The compositor's state.
pub struct State {
    pub color: ColorRepresentationState,
    /// What came of each commit, in order.
    pub commits: Vec<Result<Representation, CommitFault>>,
    attached: Contents,
}

impl ColorRepresentationHandler for State {
    fn color_representation_state(&mut self) -> &mut ColorRepresentationState {
        &mut self.color
    }
}

primeway_protocols::delegate_color_representation!(State);

global!(State: server::wl_compositor::WlCompositor, server::wl_shm::WlShm);

requests! { State:
    wl_compositor::WlCompositor, () => |_state, _compositor, init|
        Request::CreateSurface { id } => init.init(id, ());
    wl_shm::WlShm, () => |_state, _shm, init|
        Request::CreatePool { id, .. } => init.init(id, ());
    wl_shm_pool::WlShmPool, () => |_state, _pool, init|
        Request::CreateBuffer { id, format, .. } => init.init(id, contents(format));
    wl_buffer::WlBuffer, Contents => |_state, _buffer, _init| ;
    wl_surface::WlSurface, () => |state, surface, _init|
        Request::Attach { buffer, .. } =>
            state.attached = buffer.map_or(Contents::None, |b| *b.data::<Contents>().unwrap()),
        Request::Commit => state.commit(surface);
}

fn contents(format: WEnum<server::wl_shm::Format>) -> Contents {
    use server::wl_shm::Format;
    match format {
        WEnum::Value(Format::Nv12) => Contents::Pixels(Model::Ycbcr { is_420: true }),
        WEnum::Value(Format::Yuv444) => Contents::Pixels(Model::Ycbcr { is_420: false }),
        _ => Contents::Pixels(Model::Rgb),
    }
}

impl State {
    fn commit(&mut self, surface: &server::wl_surface::WlSurface) {
        let set = self.color.commit(surface, self.attached);
        self.commits.push(set);
    }
}

/// The compositor.
pub type Server = wire::Server<State>;

impl Server {
    pub fn new() -> Self {
        let display = Display::<State>::new().unwrap();
        let handle = display.handle();
        handle.create_global::<State, server::wl_compositor::WlCompositor, _>(5, ());
        handle.create_global::<State, server::wl_shm::WlShm, _>(1, ());
        let color = ColorRepresentationState::new::<State>(&handle, supported());
        Self { display, state: State { color, commits: Vec::new(), attached: Contents::None } }
    }

    /// Connects a client that binds everything.
    pub fn connect(&mut self) -> TestClient {
        let mut log = Log::default();
        let wire = Wire::connect(self, &mut log);
        let (color, compositor) = (wire.bind(1), wire.bind(5));
        let shm: wl_shm::WlShm = wire.bind(1);
        let pool = shm.create_pool(memfd(4096).as_fd(), 4096, &wire.handle(), ());
        let mut client = TestClient { wire, log, color, compositor, pool };
        client.roundtrip(self).unwrap();
        client
    }
}

/// What a manager says, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    AlphaMode(u32),
    Coefficients(u32, u32),
    Done,
}

/// What a client is told.
#[derive(Default)]
pub struct Log {
    pub said: Vec<Said>,
}

/// One client with its own connection.
pub struct TestClient {
    wire: Wire<Log>,
    pub log: Log,
    pub color: WpColorRepresentationManagerV1,
    compositor: wl_compositor::WlCompositor,
    pool: wl_shm_pool::WlShmPool,
}

impl TestClient {
    pub fn handle(&self) -> QueueHandle<Log> {
        self.wire.handle()
    }

    pub fn surface(&self) -> wl_surface::WlSurface {
        self.compositor.create_surface(&self.handle(), ())
    }

    pub fn buffer(&self, format: wl_shm::Format) -> wl_buffer::WlBuffer {
        self.pool.create_buffer(0, 4, 4, 16, format, &self.handle(), ())
    }

    pub fn object(&self, surface: &wl_surface::WlSurface) -> WpColorRepresentationSurfaceV1 {
        self.color.get_surface(surface, &self.handle(), ())
    }

    /// Lets the server handle everything sent so far and reads its answers.
    pub fn roundtrip(&mut self, server: &mut Server) -> Result<(), ProtocolError> {
        self.wire.roundtrip(&mut self.log, server)
    }

    /// Shows a buffer with a matrix: the connection works.
    pub fn assert_alive(&mut self, server: &mut Server) {
        let (surface, buffer) = (self.surface(), self.buffer(wl_shm::Format::Nv12));
        let object = self.object(&surface);
        object.set_coefficients_and_range(wire_enum::Coefficients::Bt709, wire_enum::Range::Limited);
        surface.attach(Some(&buffer), 0, 0);
        surface.commit();
        self.roundtrip(server).expect("the client is alive");
        let set = server.state.commits.pop().unwrap().unwrap();
        assert_eq!(set.coefficients, Some((Coefficients::Bt709, Range::Limited)));
        object.destroy();
        buffer.destroy();
        surface.destroy();
        self.roundtrip(server).expect("the client is alive");
    }
}

impl ClientDispatch<WpColorRepresentationManagerV1, ()> for Log {
    fn event(
        log: &mut Self,
        _: &WpColorRepresentationManagerV1,
        event: wp_color_representation_manager_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use wp_color_representation_manager_v1::Event;
        log.said.push(match event {
            Event::SupportedAlphaMode { alpha_mode } => Said::AlphaMode(alpha_mode.into()),
            Event::SupportedCoefficientsAndRanges { coefficients, range } => {
                Said::Coefficients(coefficients.into(), range.into())
            }
            _ => Said::Done,
        });
    }
}

delegate_dispatch!(Log: [wl_registry::WlRegistry: Globals] => Wire<Log>);
delegate_dispatch!(Log: [wl_callback::WlCallback: Answered] => Wire<Log>);
delegate_noop!(Log: ignore wl_buffer::WlBuffer);
delegate_noop!(Log: ignore wl_shm::WlShm);
delegate_noop!(Log: ignore wl_surface::WlSurface);
delegate_noop!(Log: wl_compositor::WlCompositor);
delegate_noop!(Log: wl_shm_pool::WlShmPool);
delegate_noop!(Log: WpColorRepresentationSurfaceV1);
