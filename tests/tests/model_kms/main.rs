//! What vkms cannot show, on models of displays that can: the compositor in this process, real clients, and a display that is
//! a capability file. Every case looks at the atomic requests that were made.
//!
//! Which of the planes' features are proven here and which on a kernel is told in `tests/PLANES.md`.

#![allow(clippy::unwrap_used)]

mod flips;
#[allow(dead_code, reason = "the headless cases use the rest")]
#[path = "../headless_support/mod.rs"]
mod headless_support;
mod hearing;
mod outputs;
mod parked;
mod part;
mod planes;
mod rates;
mod recording;
mod rows;
mod watcher;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drm::control::AtomicCommitFlags;
use primeway::backend::kms::device::capabilities::{Capabilities, PlaneKind};
use primeway::backend::kms::device::model::{Asked, Model};
use primeway::backend::kms::pacing::Vrr;
use primeway_tests::picture::Pattern;

use crate::headless_support::Server;
use crate::headless_support::client::{Buffer, Client};

/// The mode of most cases.
const OUTPUT: (u32, u32) = (256, 192);
const NOISE: Pattern = Pattern::Noise(1);

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/capabilities")
}

/// A device of a file, with a mode that is cheap to draw.
fn capabilities(driver: &str) -> Capabilities {
    let mut all = Capabilities::load(&folder().join(format!("{driver}.json"))).unwrap();
    let first = all.connectors.iter_mut().find(|c| !c.modes.is_empty()).unwrap();
    first.modes = vec![format!("{}x{}@60", OUTPUT.0, OUTPUT.1)];
    all
}

/// A session on it.
struct Session {
    model: Model,
    server: Server,
    client: Client,
}

fn start(driver: &str) -> Session {
    start_with(capabilities(driver), Vrr::Auto)
}

fn start_with(capabilities: Capabilities, vrr: Vrr) -> Session {
    let model = Model::new(capabilities).unwrap();
    let server = Server::start_kms(&model, vrr).unwrap();
    let client = server.connect().unwrap();
    Session { model, server, client }
}

impl Session {
    /// A full-screen buffer.
    fn full(&mut self) -> Buffer {
        self.client.dmabuf("XR24", OUTPUT, NOISE).unwrap()
    }

    fn small(&mut self) -> Buffer {
        self.client.dmabuf("XR24", (64, 48), NOISE).unwrap()
    }

    /// What was committed since the last time, without tests.
    fn commits(&self) -> Vec<Asked> {
        self.model.take_asked().into_iter().filter(Asked::is_commit).collect()
    }

    fn primary(&self) -> u32 {
        self.model.planes(PlaneKind::Primary)[0]
    }

    fn crtc(&self) -> u32 {
        self.model.crtcs()[0]
    }

    /// Asks the backend something.
    fn kms<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut primeway::backend::kms::Kms, u32) -> T + Send + 'static,
    ) -> T {
        let crtc = self.crtc();
        self.server.ask(move |state| question(state.backend.kms().unwrap(), crtc)).unwrap()
    }
}

fn is_async(asked: &Asked) -> bool {
    asked.flags.contains(AtomicCommitFlags::PAGE_FLIP_ASYNC)
}

/// Waits until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
