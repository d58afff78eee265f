//! A small compositor and real clients of it.
//!
//! Owns: the server's handler, buffers of two kinds. Does not own: the connection (`wire`), what is right (the cases).

#[macro_use]
#[path = "../wire/mod.rs"]
mod wire;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use primeway_protocols::drm_syncobj::{
    Attachment, CommitFault, DrmSyncobjHandler, DrmSyncobjState, ImportTimelineError,
};
use rustix::fs::fstat;
use wayland_client::backend::protocol::ProtocolError;
use wayland_client::protocol::{
    wl_buffer, wl_callback, wl_compositor, wl_registry, wl_shm, wl_shm_pool, wl_surface,
};
use wayland_client::{QueueHandle, delegate_dispatch, delegate_noop};
use wayland_protocols::wp::linux_drm_syncobj::v1::client::{
    wp_linux_drm_syncobj_manager_v1::WpLinuxDrmSyncobjManagerV1,
    wp_linux_drm_syncobj_surface_v1::WpLinuxDrmSyncobjSurfaceV1,
    wp_linux_drm_syncobj_timeline_v1::WpLinuxDrmSyncobjTimelineV1,
};
use wayland_server::protocol as server;
use wayland_server::{Client, Display, Resource, WEnum};

pub use wire::memfd;
use wire::{Answered, Globals, Wire};

/// What the test compositor takes for a timeline: a file of this size or more, whose size is its name.
const TIMELINE: u64 = 1 << 16;

/// A timeline of the compositor; there are as many as were not dropped.
pub struct Timeline {
    pub name: u64,
    live: Arc<AtomicUsize>,
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a commit came to: timeline and value of the acquire point and of the release point.
pub type Taken = Result<Option<[(u64, u64); 2]>, CommitFault>;

/// The compositor's state.
#[derive(Default)]
pub struct State {
    pub syncobj: DrmSyncobjState<Timeline>,
    /// Timelines that exist.
    pub live: Arc<AtomicUsize>,
    /// What came of each commit, in order.
    pub commits: Vec<Taken>,
    attached: Option<Attachment>,
}

impl DrmSyncobjHandler for State {
    type Timeline = Timeline;

    fn drm_syncobj_state(&mut self) -> &mut DrmSyncobjState<Timeline> {
        &mut self.syncobj
    }

    fn import_timeline(&mut self, _: &Client, fd: OwnedFd) -> Result<Timeline, ImportTimelineError> {
        let size = fstat(fd).unwrap().st_size as u64;
        if size < TIMELINE {
            return Err(ImportTimelineError::Invalid);
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        Ok(Timeline { name: size - TIMELINE, live: self.live.clone() })
    }
}

primeway_protocols::delegate_drm_syncobj!(State);

/// User data of a buffer: whether it can be synchronised explicitly.
struct Explicit(bool);

global!(State: server::wl_compositor::WlCompositor, server::wl_shm::WlShm);

requests! { State:
    wl_compositor::WlCompositor, () => |_state, _compositor, init|
        Request::CreateSurface { id } => init.init(id, ());
    wl_shm::WlShm, () => |_state, _shm, init|
        Request::CreatePool { id, .. } => init.init(id, ());
    // XRGB8888 stands for a dma-buf.
    wl_shm_pool::WlShmPool, () => |_state, _pool, init|
        Request::CreateBuffer { id, format, .. } =>
            init.init(id, Explicit(format == WEnum::Value(server::wl_shm::Format::Xrgb8888)));
    wl_buffer::WlBuffer, Explicit => |_state, _buffer, _init| ;
    wl_surface::WlSurface, () => |state, surface, _init|
        Request::Attach { buffer, .. } => state.attached = Some(match buffer {
            Some(buffer) => Attachment::Buffer { explicit: buffer.data::<Explicit>().unwrap().0 },
            None => Attachment::Removed,
        }),
        Request::Commit => state.commit(surface);
}

impl State {
    fn commit(&mut self, surface: &server::wl_surface::WlSurface) {
        let attachment = self.attached.take().unwrap_or(Attachment::Kept);
        let taken = self.syncobj.commit(surface, attachment);
        self.commits.push(taken.map(|points| {
            points.map(|p| [p.acquire, p.release].map(|point| (point.timeline.name, point.point)))
        }));
    }
}

/// The compositor.
pub type Server = wire::Server<State>;

impl Server {
    pub fn new() -> Self {
        let display = Display::<State>::new().unwrap();
        let handle = display.handle();
        handle.create_global::<State, server::wl_compositor::WlCompositor, ()>(5, ());
        handle.create_global::<State, server::wl_shm::WlShm, ()>(1, ());
        let mut state = State::default();
        state.syncobj.create_global::<State>(&handle);
        Self { display, state }
    }

    /// Connects a client that binds everything.
    pub fn connect(&mut self) -> TestClient {
        let mut log = Log;
        let wire = Wire::connect(self, &mut log);
        let (syncobj, compositor) = (wire.bind(1), wire.bind(5));
        let shm: wl_shm::WlShm = wire.bind(1);
        let pool = shm.create_pool(memfd(4096).as_fd(), 4096, &wire.handle(), ());
        TestClient { wire, log, syncobj, compositor, pool }
    }

    /// Timelines that exist.
    pub fn live(&self) -> usize {
        self.state.live.load(Ordering::Relaxed)
    }
}

/// Keeps nothing: what a client is told is an error or nothing.
struct Log;

/// One client with its own connection.
pub struct TestClient {
    wire: Wire<Log>,
    log: Log,
    pub syncobj: WpLinuxDrmSyncobjManagerV1,
    compositor: wl_compositor::WlCompositor,
    pool: wl_shm_pool::WlShmPool,
}

impl TestClient {
    fn handle(&self) -> QueueHandle<Log> {
        self.wire.handle()
    }

    pub fn surface(&self) -> wl_surface::WlSurface {
        self.compositor.create_surface(&self.handle(), ())
    }

    /// A buffer that stands for a dma-buf, or one of another kind.
    pub fn buffer(&self, explicit: bool) -> wl_buffer::WlBuffer {
        let format = if explicit { wl_shm::Format::Xrgb8888 } else { wl_shm::Format::Argb8888 };
        self.pool.create_buffer(0, 4, 4, 16, format, &self.handle(), ())
    }

    pub fn explicit(&self, surface: &wl_surface::WlSurface) -> WpLinuxDrmSyncobjSurfaceV1 {
        self.syncobj.get_surface(surface, &self.handle(), ())
    }

    /// A timeline that the compositor knows by `name`.
    pub fn timeline(&self, name: u64) -> WpLinuxDrmSyncobjTimelineV1 {
        self.import(&memfd(TIMELINE + name))
    }

    pub fn import(&self, fd: &OwnedFd) -> WpLinuxDrmSyncobjTimelineV1 {
        self.syncobj.import_timeline(fd.as_fd(), &self.handle(), ())
    }

    /// Lets the server handle everything sent so far and reads its answers.
    pub fn roundtrip(&mut self, server: &mut Server) -> Result<(), ProtocolError> {
        self.wire.roundtrip(&mut self.log, server)
    }

    /// Shows a buffer with points: the connection works.
    pub fn assert_alive(&mut self, server: &mut Server) {
        let (surface, buffer, timeline) = (self.surface(), self.buffer(true), self.timeline(7));
        let explicit = self.explicit(&surface);
        explicit.set_acquire_point(&timeline, 0, 1);
        explicit.set_release_point(&timeline, 0, 2);
        surface.attach(Some(&buffer), 0, 0);
        surface.commit();
        self.roundtrip(server).expect("the client is alive");
        assert_eq!(server.state.commits.pop(), Some(Ok(Some([(7, 1), (7, 2)]))));
        explicit.destroy();
        timeline.destroy();
        buffer.destroy();
        surface.destroy();
        self.roundtrip(server).expect("the client is alive");
    }
}

delegate_dispatch!(Log: [wl_registry::WlRegistry: Globals] => Wire<Log>);
delegate_dispatch!(Log: [wl_callback::WlCallback: Answered] => Wire<Log>);
delegate_noop!(Log: ignore wl_buffer::WlBuffer);
delegate_noop!(Log: ignore wl_shm::WlShm);
delegate_noop!(Log: ignore wl_surface::WlSurface);
delegate_noop!(Log: wl_compositor::WlCompositor);
delegate_noop!(Log: wl_shm_pool::WlShmPool);
delegate_noop!(Log: WpLinuxDrmSyncobjManagerV1);
delegate_noop!(Log: WpLinuxDrmSyncobjSurfaceV1);
delegate_noop!(Log: WpLinuxDrmSyncobjTimelineV1);
