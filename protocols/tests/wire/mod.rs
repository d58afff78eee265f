//! A compositor and clients of it in one thread over socket pairs: what the harness of every protocol has.
//!
//! Owns: connecting, the globals, pumping both sides. Does not own: what the compositor does, what a client's log keeps.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use wayland_client::backend::WaylandError;
use wayland_client::backend::protocol::ProtocolError;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::{Connection, Dispatch, DispatchError, EventQueue, Proxy, QueueHandle};
use wayland_server::Display;

/// Globals of the core protocol that are bound and do nothing else.
#[allow(unused_macros, reason = "not every harness has some")]
macro_rules! global {
    ($state:ty: $($interface:ty),+) => {$(
        impl wayland_server::GlobalDispatch<$interface, ()> for $state {
            fn bind(
                _: &mut Self, _: &wayland_server::DisplayHandle, _: &wayland_server::Client, resource: wayland_server::New<$interface>, _: &(),
                data_init: &mut wayland_server::DataInit<'_, Self>,
            ) {
                data_init.init(resource, ());
            }
        }
    )+};
}

/// What a compositor does with requests of the core protocol; all others do nothing.
#[allow(unused_macros, reason = "not every harness has some")]
macro_rules! requests {
    ($all:ty: $($interface:ident::$object:ident, $data:ty => |$state:ident, $surface:ident, $init:ident| $($pattern:pat => $action:expr),*;)+) => {$(
        impl wayland_server::Dispatch<wayland_server::protocol::$interface::$object, $data> for $all {
            fn request(
                $state: &mut Self, _: &wayland_server::Client, $surface: &wayland_server::protocol::$interface::$object,
                request: wayland_server::protocol::$interface::Request, _: &$data, _: &wayland_server::DisplayHandle,
                $init: &mut wayland_server::DataInit<'_, Self>,
            ) {
                #[allow(unused_imports, reason = "buffers have no request of interest")]
                use wayland_server::protocol::$interface::Request;
                match request {
                    $($pattern => { $action; })*
                    _ => {}
                }
            }
        }
    )+};
}

/// A compositor with its state.
pub struct Server<S: 'static> {
    pub display: Display<S>,
    pub state: S,
}

impl<S: 'static> Server<S> {
    /// Handles what the clients sent and answers.
    pub fn dispatch(&mut self) {
        self.display.dispatch_clients(&mut self.state).unwrap();
        self.display.flush_clients().unwrap();
    }
}

/// The globals of a registry: name, interface, version.
#[derive(Default)]
pub struct Globals(Mutex<Vec<(u32, String, u32)>>);

/// Whether a round trip was answered.
pub type Answered = Arc<AtomicBool>;

/// A client's connection, whose events go to a log `L`; those of the registry and of callbacks it delegates to this.
pub struct Wire<L> {
    connection: Connection,
    queue: EventQueue<L>,
    registry: WlRegistry,
}

impl<L: Dispatch<WlRegistry, Globals> + Dispatch<WlCallback, Answered> + 'static> Wire<L> {
    /// Connects and learns the globals.
    pub fn connect<S: 'static>(server: &mut Server<S>, log: &mut L) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.display.handle().insert_client(ours, Arc::new(())).unwrap();
        let connection = Connection::from_socket(theirs).unwrap();
        let queue = connection.new_event_queue();
        let registry = connection.display().get_registry(&queue.handle(), Globals::default());
        let mut wire = Self { connection, queue, registry };
        wire.roundtrip(log, server).unwrap();
        wire
    }

    /// For requests that make objects.
    pub fn handle(&self) -> QueueHandle<L> {
        self.queue.handle()
    }

    /// Name and version of a global.
    pub fn global(&self, interface: &str) -> (u32, u32) {
        let globals = self.registry.data::<Globals>().unwrap().0.lock().unwrap();
        let found = globals.iter().find(|(_, name, _)| name == interface);
        found.map(|&(name, _, version)| (name, version)).expect("the global is there")
    }

    pub fn bind<I: Proxy + 'static>(&self, version: u32) -> I
    where
        L: Dispatch<I, ()>,
    {
        self.registry.bind(self.global(I::interface().name).0, version, &self.handle(), ())
    }

    /// Lets the server handle everything sent so far and reads its answers.
    pub fn roundtrip<S: 'static>(
        &mut self,
        log: &mut L,
        server: &mut Server<S>,
    ) -> Result<(), ProtocolError> {
        let answered = Answered::default();
        self.connection.display().sync(&self.handle(), answered.clone());
        for _ in 0..64 {
            // A dead connection cannot be written to, but the error may still wait to be read.
            let _ = self.connection.flush();
            server.dispatch();
            if let Some(guard) = self.queue.prepare_read() {
                match guard.read() {
                    Ok(_) => {}
                    Err(WaylandError::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(WaylandError::Protocol(error)) => {
                        // Events that came before the error hold fds, and the queue holds itself while it has any.
                        let _ = self.queue.dispatch_pending(log);
                        return Err(error);
                    }
                    Err(WaylandError::Io(err)) => panic!("connection lost without an error: {err}"),
                }
            }
            match self.queue.dispatch_pending(log) {
                Ok(_) if answered.load(Ordering::Relaxed) => return Ok(()),
                Ok(_) => {}
                Err(DispatchError::Backend(WaylandError::Protocol(error))) => return Err(error),
                Err(err) => panic!("{err}"),
            }
        }
        panic!("the server does not answer");
    }
}

impl<L: Dispatch<WlRegistry, Globals>> Dispatch<WlRegistry, Globals, L> for Wire<L> {
    fn event(
        _: &mut L,
        _: &WlRegistry,
        event: wl_registry::Event,
        globals: &Globals,
        _: &Connection,
        _: &QueueHandle<L>,
    ) {
        if let wl_registry::Event::Global { name, interface, version } = event {
            globals.0.lock().unwrap().push((name, interface, version));
        }
    }
}

impl<L: Dispatch<WlCallback, Answered>> Dispatch<WlCallback, Answered, L> for Wire<L> {
    fn event(
        _: &mut L,
        _: &WlCallback,
        _: wl_callback::Event,
        answered: &Answered,
        _: &Connection,
        _: &QueueHandle<L>,
    ) {
        answered.store(true, Ordering::Relaxed);
    }
}

/// A memfd of `size` bytes.
pub fn memfd(size: u64) -> OwnedFd {
    let fd = memfd_create("case", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}
