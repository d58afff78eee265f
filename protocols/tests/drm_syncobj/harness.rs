//! A small compositor and real clients of it, in one thread over a socket pair.
//!
//! Owns: the server's handler, buffers of two kinds, pumping both sides. Does not own: what is right (the cases).

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use primeway_protocols::drm_syncobj::{
    Attachment, CommitFault, DrmSyncobjHandler, DrmSyncobjState, ImportTimelineError,
};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use wayland_client::backend::WaylandError;
use wayland_client::backend::protocol::ProtocolError;
use wayland_client::protocol::{
    wl_buffer, wl_callback, wl_compositor, wl_registry, wl_shm, wl_shm_pool, wl_surface,
};
use wayland_client::{Connection, DispatchError, EventQueue, QueueHandle};
use wayland_protocols::wp::linux_drm_syncobj::v1::client::{
    wp_linux_drm_syncobj_manager_v1::{self, WpLinuxDrmSyncobjManagerV1},
    wp_linux_drm_syncobj_surface_v1::{self, WpLinuxDrmSyncobjSurfaceV1},
    wp_linux_drm_syncobj_timeline_v1::{self, WpLinuxDrmSyncobjTimelineV1},
};
use wayland_server::protocol as server;
use wayland_server::{
    Client, DataInit, Dispatch, Display, DisplayHandle, GlobalDispatch, New, Resource, WEnum,
};

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

macro_rules! global {
    ($($interface:ty),+) => {$(
        impl GlobalDispatch<$interface, ()> for State {
            fn bind(
                _: &mut Self, _: &DisplayHandle, _: &Client, resource: New<$interface>, _: &(),
                data_init: &mut DataInit<'_, Self>,
            ) {
                data_init.init(resource, ());
            }
        }
    )+};
}
global!(server::wl_compositor::WlCompositor, server::wl_shm::WlShm);

macro_rules! requests {
    ($($interface:ident::$object:ident, $data:ty => |$state:ident, $surface:ident, $init:ident| $($pattern:pat => $action:expr),*;)+) => {$(
        impl Dispatch<server::$interface::$object, $data> for State {
            fn request(
                $state: &mut Self, _: &Client, $surface: &server::$interface::$object,
                request: server::$interface::Request, _: &$data, _: &DisplayHandle,
                $init: &mut DataInit<'_, Self>,
            ) {
                #[allow(unused_imports, reason = "buffers have no request of interest")]
                use server::$interface::Request;
                match request {
                    $($pattern => { $action; })*
                    _ => {}
                }
            }
        }
    )+};
}
requests! {
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
pub struct Server {
    display: Display<State>,
    pub state: State,
}

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
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.display.handle().insert_client(ours, Arc::new(())).unwrap();
        let connection = Connection::from_socket(theirs).unwrap();
        let queue = connection.new_event_queue();
        let registry = connection.display().get_registry(&queue.handle(), ());
        let mut log = Log::default();
        let mut pump = Pump { connection, queue };
        pump.roundtrip(&mut log, self).unwrap();
        let handle = pump.queue.handle();
        let name = |interface: &str| {
            let found = log.globals.iter().find(|(_, name, _)| name == interface);
            found.map(|&(name, ..)| name).expect("the global is there")
        };
        let syncobj = registry.bind(name("wp_linux_drm_syncobj_manager_v1"), 1, &handle, ());
        let compositor = registry.bind(name("wl_compositor"), 5, &handle, ());
        let shm: wl_shm::WlShm = registry.bind(name("wl_shm"), 1, &handle, ());
        let pool = shm.create_pool(file(4096).as_fd(), 4096, &handle, ());
        TestClient { pump, log, syncobj, compositor, pool }
    }

    fn dispatch(&mut self) {
        self.display.dispatch_clients(&mut self.state).unwrap();
        self.display.flush_clients().unwrap();
    }

    /// Timelines that exist.
    pub fn live(&self) -> usize {
        self.state.live.load(Ordering::Relaxed)
    }
}

/// What a client saw.
#[derive(Debug, Default)]
pub struct Log {
    pub globals: Vec<(u32, String, u32)>,
    synced: bool,
}

struct Pump {
    connection: Connection,
    queue: EventQueue<Log>,
}

/// One client with its own connection.
pub struct TestClient {
    pump: Pump,
    pub log: Log,
    pub syncobj: WpLinuxDrmSyncobjManagerV1,
    compositor: wl_compositor::WlCompositor,
    pool: wl_shm_pool::WlShmPool,
}

impl TestClient {
    fn handle(&self) -> QueueHandle<Log> {
        self.pump.queue.handle()
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
        self.import(&file(TIMELINE + name))
    }

    pub fn import(&self, fd: &OwnedFd) -> WpLinuxDrmSyncobjTimelineV1 {
        self.syncobj.import_timeline(fd.as_fd(), &self.handle(), ())
    }

    /// Lets the server handle everything sent so far and reads its answers.
    pub fn roundtrip(&mut self, server: &mut Server) -> Result<(), ProtocolError> {
        self.pump.roundtrip(&mut self.log, server)
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

impl Pump {
    fn roundtrip(&mut self, log: &mut Log, server: &mut Server) -> Result<(), ProtocolError> {
        log.synced = false;
        self.connection.display().sync(&self.queue.handle(), ());
        for _ in 0..64 {
            // A dead connection cannot be written to, but the error may still wait to be read.
            let _ = self.connection.flush();
            server.dispatch();
            if let Some(guard) = self.queue.prepare_read() {
                match guard.read() {
                    Ok(_) => {}
                    Err(WaylandError::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(WaylandError::Protocol(error)) => return Err(error),
                    Err(WaylandError::Io(err)) => panic!("connection lost without an error: {err}"),
                }
            }
            match self.queue.dispatch_pending(log) {
                Ok(_) if log.synced => return Ok(()),
                Ok(_) => {}
                Err(DispatchError::Backend(WaylandError::Protocol(error))) => return Err(error),
                Err(err) => panic!("{err}"),
            }
        }
        panic!("the server does not answer");
    }
}

/// A file of `size` bytes.
pub fn file(size: u64) -> OwnedFd {
    let fd = memfd_create("drm-syncobj-case", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}

macro_rules! ignore_events {
    ($($interface:ty => $event:ty),+ $(,)?) => {$(
        impl wayland_client::Dispatch<$interface, ()> for Log {
            fn event(
                _: &mut Self, _: &$interface, _: $event, _: &(), _: &Connection, _: &QueueHandle<Self>,
            ) {
            }
        }
    )+};
}
ignore_events!(
    wl_buffer::WlBuffer => wl_buffer::Event,
    wl_compositor::WlCompositor => wl_compositor::Event,
    wl_shm::WlShm => wl_shm::Event,
    wl_shm_pool::WlShmPool => wl_shm_pool::Event,
    wl_surface::WlSurface => wl_surface::Event,
    WpLinuxDrmSyncobjManagerV1 => wp_linux_drm_syncobj_manager_v1::Event,
    WpLinuxDrmSyncobjSurfaceV1 => wp_linux_drm_syncobj_surface_v1::Event,
    WpLinuxDrmSyncobjTimelineV1 => wp_linux_drm_syncobj_timeline_v1::Event,
);

impl wayland_client::Dispatch<wl_registry::WlRegistry, ()> for Log {
    fn event(
        log: &mut Self,
        _: &wl_registry::WlRegistry,
        event: wl_registry::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_registry::Event::Global { name, interface, version } = event {
            log.globals.push((name, interface, version));
        }
    }
}

impl wayland_client::Dispatch<wl_callback::WlCallback, ()> for Log {
    fn event(
        log: &mut Self,
        _: &wl_callback::WlCallback,
        _: wl_callback::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        log.synced = true;
    }
}
