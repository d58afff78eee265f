//! A client that notes what it is told of outputs: which there are, their modes and places, and which its window is on.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use primeway_tests::buffer::{Allocator, ClientBuffer};
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_compositor::WlCompositor;
use wayland_client::protocol::wl_output::{self, WlOutput};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_shm::{self, WlShm};
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::protocol::wl_surface::{self, WlSurface};
use wayland_client::{Connection, Dispatch, EventQueue, Proxy as _, QueueHandle, delegate_noop};
use wayland_protocols::xdg::shell::client::xdg_surface::{self, XdgSurface};
use wayland_protocols::xdg::shell::client::xdg_toplevel::XdgToplevel;
use wayland_protocols::xdg::shell::client::xdg_wm_base::XdgWmBase;
use wayland_protocols::xdg::xdg_output::zv1::client::zxdg_output_manager_v1::ZxdgOutputManagerV1;
use wayland_protocols::xdg::xdg_output::zv1::client::zxdg_output_v1::{self, ZxdgOutputV1};

use crate::headless_support::Server;

/// What is known of an output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub name: String,
    pub mode: (i32, i32),
    pub position: (i32, i32),
    /// By xdg_output.
    pub logical: (i32, i32),
}

#[derive(Debug, Default)]
pub struct Seen {
    /// By the number of the global.
    outputs: HashMap<u32, (Option<WlOutput>, Told)>,
    /// Numbers of the globals, as they were entered and left.
    on: Vec<u32>,
    /// Frame callbacks.
    pub frames: u32,
    compositor: Option<WlCompositor>,
    shm: Option<WlShm>,
    base: Option<XdgWmBase>,
    manager: Option<ZxdgOutputManagerV1>,
}

pub struct Watcher {
    connection: Connection,
    queue: EventQueue<Seen>,
    pub seen: Seen,
    _window: Option<(WlSurface, XdgSurface, XdgToplevel, WlBuffer, ClientBuffer)>,
}

impl Watcher {
    pub fn connect(server: &Server) -> Watcher {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.ask(move |state| primeway::run::add_client(state, theirs)).unwrap();
        let connection = Connection::from_socket(ours).unwrap();
        let mut queue = connection.new_event_queue();
        connection.display().get_registry(&queue.handle(), ());
        let mut seen = Seen::default();
        for _ in 0..3 {
            queue.roundtrip(&mut seen).unwrap();
        }
        Watcher { connection, queue, seen, _window: None }
    }

    /// Opens a window and draws it once.
    pub fn open(&mut self, size: (u32, u32)) {
        let handle = self.queue.handle();
        let (compositor, base) = (self.seen.compositor.clone().unwrap(), self.seen.base.clone().unwrap());
        let surface = compositor.create_surface(&handle, ());
        let xdg = base.get_xdg_surface(&surface, &handle, ());
        let toplevel = xdg.get_toplevel(&handle, ());
        toplevel.set_title("watcher".into());
        surface.commit();
        self.queue.roundtrip(&mut self.seen).unwrap();
        let format = primeway_tests::format::Format::named("XR24").unwrap();
        let memory = ClientBuffer::allocate(Allocator::Shm, format, size.0, size.1).unwrap();
        let shm = self.seen.shm.clone().unwrap();
        let bytes = (size.0 * size.1 * 4) as i32;
        let pool = shm.create_pool(memory.as_fd(), bytes, &handle, ());
        let stride = (size.0 * 4) as i32;
        let buffer = pool.create_buffer(
            0,
            size.0 as i32,
            size.1 as i32,
            stride,
            wl_shm::Format::Xrgb8888,
            &handle,
            (),
        );
        surface.attach(Some(&buffer), 0, 0);
        surface.damage(0, 0, i32::MAX, i32::MAX);
        surface.frame(&handle, ());
        surface.commit();
        self.queue.roundtrip(&mut self.seen).unwrap();
        self._window = Some((surface, xdg, toplevel, buffer, memory));
    }

    /// Waits until the outputs and those that the window is on are these, by name.
    pub fn wait(&mut self, outputs: &[&str], on: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.queue.roundtrip(&mut self.seen).unwrap();
            let names = |all: &mut dyn Iterator<Item = &(Option<WlOutput>, Told)>| {
                let mut names: Vec<String> = all.map(|(_, told)| told.name.clone()).collect();
                names.sort();
                names
            };
            let there = names(&mut self.seen.outputs.values());
            let ours = names(&mut self.seen.on.iter().map(|number| &self.seen.outputs[number]));
            if there == outputs && ours == on {
                return;
            }
            assert!(Instant::now() < deadline, "there are {there:?}, and the window is on {ours:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is known of an output.
    pub fn told(&self, name: &str) -> Told {
        self.seen.outputs.values().find(|(_, told)| told.name == name).unwrap().1.clone()
    }

    /// Binds an output that is gone, as one does who has not read of its end.
    pub fn bind_too_late(&mut self, number: u32) {
        let handle = self.queue.handle();
        let registry = self.connection.display().get_registry(&handle, ());
        registry.bind::<WlOutput, _, _>(number, 4, &handle, u32::MAX);
        self.queue.roundtrip(&mut self.seen).unwrap();
    }

    /// The number of an output's global.
    pub fn number(&self, name: &str) -> u32 {
        *self.seen.outputs.iter().find(|(_, (_, told))| told.name == name).unwrap().0
    }
}

impl Dispatch<WlRegistry, ()> for Seen {
    fn event(
        seen: &mut Self,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        handle: &QueueHandle<Self>,
    ) {
        match event {
            wl_registry::Event::Global { name, interface, .. } => match interface.as_str() {
                "wl_compositor" => seen.compositor = Some(registry.bind(name, 4, handle, ())),
                "wl_shm" => seen.shm = Some(registry.bind(name, 1, handle, ())),
                "xdg_wm_base" => seen.base = Some(registry.bind(name, 1, handle, ())),
                "zxdg_output_manager_v1" => seen.manager = Some(registry.bind(name, 3, handle, ())),
                "wl_output" if !seen.outputs.contains_key(&name) => {
                    let output: WlOutput = registry.bind(name, 4, handle, name);
                    if let Some(manager) = &seen.manager {
                        manager.get_xdg_output(&output, handle, name);
                    }
                    seen.outputs.insert(name, (Some(output), Told::default()));
                }
                _ => {}
            },
            wl_registry::Event::GlobalRemove { name } => {
                assert!(!seen.on.contains(&name), "a surface is still on an output that is gone");
                if let Some((Some(output), _)) = seen.outputs.remove(&name) {
                    output.release();
                }
            }
            _ => {}
        }
    }
}

impl Dispatch<WlOutput, u32> for Seen {
    fn event(
        seen: &mut Self,
        _: &WlOutput,
        event: wl_output::Event,
        number: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let Some((_, told)) = seen.outputs.get_mut(number) else { return };
        match event {
            wl_output::Event::Geometry { x, y, .. } => told.position = (x, y),
            wl_output::Event::Mode { width, height, .. } => told.mode = (width, height),
            wl_output::Event::Name { name } => told.name = name,
            _ => {}
        }
    }
}

impl Dispatch<ZxdgOutputV1, u32> for Seen {
    fn event(
        seen: &mut Self,
        _: &ZxdgOutputV1,
        event: zxdg_output_v1::Event,
        number: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let (Some((_, told)), zxdg_output_v1::Event::LogicalSize { width, height }) =
            (seen.outputs.get_mut(number), event)
        {
            told.logical = (width, height);
        }
    }
}

impl Dispatch<WlSurface, ()> for Seen {
    fn event(
        seen: &mut Self,
        _: &WlSurface,
        event: wl_surface::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let number = |output: WlOutput| output.data::<u32>().copied().unwrap();
        match event {
            wl_surface::Event::Enter { output } => seen.on.push(number(output)),
            wl_surface::Event::Leave { output } => {
                let left = number(output);
                let at = seen.on.iter().position(|on| *on == left).unwrap();
                seen.on.remove(at);
            }
            _ => {}
        }
    }
}

impl Dispatch<WlCallback, ()> for Seen {
    fn event(
        seen: &mut Self,
        _: &WlCallback,
        _: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        seen.frames += 1;
    }
}

impl Dispatch<XdgSurface, ()> for Seen {
    fn event(
        _: &mut Self,
        surface: &XdgSurface,
        event: xdg_surface::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            surface.ack_configure(serial);
        }
    }
}

delegate_noop!(Seen: WlCompositor);
delegate_noop!(Seen: WlShmPool);
delegate_noop!(Seen: ignore WlShm);
delegate_noop!(Seen: ignore WlBuffer);
delegate_noop!(Seen: ignore XdgWmBase);
delegate_noop!(Seen: ignore XdgToplevel);
delegate_noop!(Seen: ZxdgOutputManagerV1);
