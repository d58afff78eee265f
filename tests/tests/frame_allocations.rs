//! What a frame that planes scan out costs in memory: no allocation, from the vertical blank to the next frame's commit.
//!
//! The display is a model, whose own allocations do not count; requests of clients are dispatched outside of what is counted.
//! Where a client asks for presentation feedback, the Wayland library allocates for its event.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "the headless cases use the rest")]
#[path = "headless_support/mod.rs"]
mod headless_support;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;

use drm::control::{AtomicCommitFlags, connector, plane};
use drm::{ClientCapability, DriverCapability};
use primeway::backend::kms::Kms;
use primeway::backend::kms::device::capabilities::Capabilities;
use primeway::backend::kms::device::model::{Flips, Model};
use primeway::backend::kms::device::{
    ConnectorInfo, FlipEvent, KmsDevice, Object, PlaneInfo, Property, Request, Resources,
};
use primeway_tests::picture::Pattern;
use rustix::io::Errno;

use headless_support::Server;
use headless_support::client::{Buffer, Client, Window};

const OUTPUT: (u32, u32) = (256, 192);
/// Frames before vectors have the size that they need.
const WARM: usize = 20;
const COUNTED: usize = 50;

/// The model, whose allocations do not count.
#[derive(Debug)]
struct Uncounted(Model);

fn uncounted<T>(does: impl FnOnce() -> T) -> T {
    let mut result = None;
    allocation_counter::opt_out(|| result = Some(does()));
    result.unwrap()
}

impl KmsDevice for Uncounted {
    fn driver(&self) -> String {
        self.0.driver()
    }
    fn event_fd(&self) -> BorrowedFd<'_> {
        self.0.event_fd()
    }
    fn is_master(&self) -> bool {
        self.0.is_master()
    }
    fn set_client_capability(&self, capability: ClientCapability, enable: bool) -> io::Result<()> {
        self.0.set_client_capability(capability, enable)
    }
    fn capability(&self, capability: DriverCapability) -> io::Result<u64> {
        self.0.capability(capability)
    }
    fn resources(&self) -> io::Result<Resources> {
        self.0.resources()
    }
    fn connector(&self, connector: connector::Handle, probe: bool) -> io::Result<ConnectorInfo> {
        self.0.connector(connector, probe)
    }
    fn plane(&self, plane: plane::Handle) -> io::Result<PlaneInfo> {
        self.0.plane(plane)
    }
    fn properties(&self, object: Object) -> io::Result<Vec<Property>> {
        self.0.properties(object)
    }
    fn blob(&self, id: u64) -> io::Result<Vec<u8>> {
        self.0.blob(id)
    }
    fn create_blob(&self, contents: &[u8]) -> io::Result<u64> {
        self.0.create_blob(contents)
    }
    fn destroy_blob(&self, id: u64) -> io::Result<()> {
        self.0.destroy_blob(id)
    }
    fn commit(&self, flags: AtomicCommitFlags, request: &mut Request) -> Result<(), Errno> {
        uncounted(|| self.0.commit(flags, request))
    }
    fn elsewhere(&self) -> Option<Box<dyn KmsDevice + Send>> {
        None
    }

    fn read_events(&self, flips: &mut Vec<FlipEvent>) -> io::Result<()> {
        uncounted(|| self.0.read_events(flips))
    }
}

/// A window with two buffers that it shows in turn.
struct Shown {
    window: Window,
    buffers: [Buffer; 2],
}

impl Shown {
    fn new(client: &mut Client, title: &str, size: (u32, u32)) -> Shown {
        let buffers = [1, 2].map(|n| client.dmabuf("XR24", size, Pattern::Noise(n)).unwrap());
        Shown { window: client.open_window(title).unwrap(), buffers }
    }

    fn commit(&self, client: &mut Client, frame: usize) {
        client.frame(&self.window.surface);
        client.attach(&self.window.surface, &self.buffers[frame % 2]);
        self.window.surface.commit();
    }
}

/// Allocations of each counted frame, with `more` in each.
fn allocations(sizes: &[(u32, u32)], more: fn()) -> Vec<u64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/capabilities/i915.json");
    let mut capabilities = Capabilities::load(&path).unwrap();
    for connector in capabilities.connectors.iter_mut().filter(|c| !c.modes.is_empty()) {
        connector.modes = vec![format!("{}x{}@60", OUTPUT.0, OUTPUT.1)];
    }
    let model = Model::new(capabilities).unwrap();
    let device = model.clone();
    let server = Server::start_kms_with(move || {
        Kms::on_device(Rc::new(Uncounted(device.clone())), &device).map_err(anyhow::Error::from)
    })
    .unwrap();
    let mut client = server.connect().unwrap();
    let windows: Vec<Shown> = sizes.iter().map(|size| Shown::new(&mut client, "shown", *size)).collect();
    for shown in &windows {
        assert!(client.present(&shown.window.surface, &shown.buffers[1]).unwrap());
    }
    server.settle().unwrap();
    // From now on there is always a frame that waits for its vertical blank, and another one that waits for it.
    model.set_flips(Flips::Never);
    let mut counted = Vec::new();
    for frame in 0..WARM + COUNTED {
        windows.iter().for_each(|shown| shown.commit(&mut client, frame));
        client.roundtrip().unwrap();
        if frame == 0 {
            // The first of them is pending now, or will be when it is due.
            server.ask(|state| state.redraw_queued()).unwrap();
            continue;
        }
        let display = model.clone();
        let (count, frames, pending) = server
            .ask(move |state| {
                display.flip();
                let before = state.outputs[0].state.frames;
                let info = allocation_counter::measure(|| {
                    state.card_readable(0);
                    state.redraw_queued();
                    more();
                });
                (info.count_total, state.outputs[0].state.frames - before, display.outstanding())
            })
            .unwrap();
        assert_eq!((frames, pending), (1, 1), "frame {frame} was shown, and the next one committed");
        if frame >= WARM {
            counted.push(count);
        }
    }
    let zero_copy = server.surfaces().unwrap().iter().all(|surface| surface.plane.is_some());
    assert!(zero_copy, "{:?}", server.surfaces().unwrap());
    counted
}

#[test]
fn a_full_screen_frame_allocates_nothing() {
    assert_eq!(allocations(&[OUTPUT], || ()), [0; COUNTED]);
}

#[test]
fn frames_of_several_windows_on_planes_allocate_nothing() {
    assert_eq!(allocations(&[(64, 48), (80, 40)], || ()), [0; COUNTED]);
}

#[test]
fn an_allocation_is_counted() {
    assert_eq!(allocations(&[OUTPUT], || drop(std::hint::black_box(Box::new(1)))), [1; COUNTED]);
}
