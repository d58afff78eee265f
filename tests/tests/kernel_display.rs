//! The model of displays against the kernel's: vkms is asked what its capability file says, and both are asked the same
//! requests.
//!
//! With `PRIMEWAY_WRITE_CAPABILITIES` set, the file that the kernel would have is left among the artefacts.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use drm::ClientCapability;
use drm::control::{AtomicCommitFlags as Flags, RawResourceHandle, connector, crtc, plane};
use drm_fourcc::DrmFourcc;
use drm_prime::{DumbBuffer, Framebuffer};
use lab::vkms::Device;
use primeway::backend::buffers::Buffers;
use primeway::backend::kms::buffers_of_model;
use primeway::backend::kms::device::capabilities::{Capabilities, PlaneKind};
use primeway::backend::kms::device::kernel::Card;
use primeway::backend::kms::device::model::Model;
use primeway::backend::kms::device::{KmsDevice, Object, Properties, Request};
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::session::artefacts;
use rustix::io::Errno;

const CASES: &[Case] = &[
    ("the_capability_file_of_vkms_is_what_it_says", the_capability_file_of_vkms_is_what_it_says),
    ("the_model_answers_as_vkms_does", the_model_answers_as_vkms_does),
];
/// The device of the file.
const SPEC: &str = "overlays=2,cursor,writeback";

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn file() -> Result<Capabilities> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/capabilities/vkms.json");
    Capabilities::load(&path).with_context(|| path.display().to_string())
}

fn open(node: &Path) -> Result<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open(node);
    Ok(file.with_context(|| node.display().to_string())?.into())
}

fn the_capability_file_of_vkms_is_what_it_says() -> Result<()> {
    let display = Device::create("capabilities", &SPEC.parse()?)?;
    let card = Card::open(open(&display.card_node()?)?).map_err(|(_, err)| err)?;
    let seen = Capabilities::of(&*card, "")?;
    if std::env::var_os("PRIMEWAY_WRITE_CAPABILITIES").is_some() {
        std::fs::write(artefacts().join("vkms.json"), serde_json::to_string(&seen)?)?;
    }
    // Connectors are numbered through all devices that there ever were.
    let numbered = |mut all: Capabilities| {
        all.connectors.iter_mut().for_each(|c| c.number = 0);
        all.without_rules()
    };
    let (seen, known) = (numbered(seen), numbered(file()?));
    ensure!(
        seen == known,
        "the device says
{}",
        serde_json::to_string(&seen)?
    );
    // And the model says the same again.
    let model = Model::new(file()?)?;
    for capability in [ClientCapability::UniversalPlanes, ClientCapability::Atomic] {
        model.set_client_capability(capability, true)?;
    }
    let told = numbered(Capabilities::of(&model, "")?);
    ensure!(told == known, "the model says\n{}", serde_json::to_string(&told)?);
    Ok(())
}

/// A value of a request, by what it stands for on either device.
#[derive(Clone, Copy, Debug)]
enum Value {
    Is(u64),
    /// The CRTC's id.
    Crtc,
    /// A framebuffer of the whole display, or of 64 × 48 pixels.
    Full,
    Small,
    /// A blob with the mode, or of one byte.
    Mode,
    Byte,
    /// The id of the primary plane, which is no CRTC, framebuffer or blob.
    Stranger,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Connector,
    Crtc,
    Primary,
    Overlay,
    Nobody,
}

/// A device with what requests name.
struct Stage<'a> {
    device: &'a dyn KmsDevice,
    roles: [Object; 4],
    properties: Vec<Properties>,
    memory: [(DumbBuffer, Framebuffer); 2],
    mode: u64,
    byte: u64,
    size: (u32, u32),
}

impl<'a> Stage<'a> {
    fn new(device: &'a dyn KmsDevice, buffers: &Buffers) -> Result<Self> {
        let resources = device.resources()?;
        let connected = |c: &&connector::Handle| device.connector(**c, true).is_ok_and(|info| info.connected);
        let connector = *resources.connectors.iter().find(connected).context("nothing connected")?;
        let mode = device.connector(connector, false)?.modes[0];
        let crtc: crtc::Handle = resources.crtcs[0];
        let of = |kind: u64| -> Result<plane::Handle> {
            for plane in &resources.planes {
                if Properties::read(device, Object::Plane(*plane))?.value("type") == Some(kind) {
                    return Ok(*plane);
                }
            }
            bail!("no plane of type {kind}");
        };
        let roles =
            [Object::Connector(connector), Object::Crtc(crtc), Object::Plane(of(1)?), Object::Plane(of(0)?)];
        let properties: Result<Vec<_>, _> = roles.iter().map(|o| Properties::read(device, *o)).collect();
        let size = mode.size();
        let allocate = |(width, height)| buffers.allocate(width, height, DrmFourcc::Xrgb8888);
        Ok(Self {
            device,
            roles,
            properties: properties?,
            memory: [allocate(size)?, allocate((64, 48))?],
            mode: device.create_blob(&mode.bytes())?,
            byte: device.create_blob(&[1])?,
            size,
        })
    }

    fn value(&self, value: Value) -> u64 {
        match value {
            Value::Is(value) => value,
            Value::Crtc => self.roles[1].id().get().into(),
            Value::Full => self.memory[0].1.id().get().into(),
            Value::Small => self.memory[1].1.id().get().into(),
            Value::Mode => self.mode,
            Value::Byte => self.byte,
            Value::Stranger => self.roles[2].id().get().into(),
        }
    }

    fn ask(&self, flags: Flags, changes: &[(Role, &str, Value)]) -> Result<Result<(), Errno>> {
        let mut request = Request::new();
        let unknown: RawResourceHandle = RawResourceHandle::new(0xffff).context("zero")?;
        for (role, name, value) in changes {
            let index = match role {
                Role::Connector => 0,
                Role::Crtc => 1,
                Role::Primary => 2,
                Role::Overlay => 3,
                Role::Nobody => usize::MAX,
            };
            let object = self.roles.get(index).map_or(unknown, |o| o.id());
            let property = self.properties.get(index).and_then(|p| p.id(name)).unwrap_or(unknown.into());
            request.set(object, property, self.value(*value));
        }
        Ok(self.device.commit(flags, &mut request))
    }

    /// A flip, and another one before it is done, which is refused, while a test is not: tried until it was early enough.
    fn busy(&self) -> Result<()> {
        let flip = Flags::NONBLOCK | Flags::PAGE_FLIP_EVENT;
        let changes = shows(Role::Overlay, Value::Small, [0, 0, 64, 48], [10, 20, 64, 48]);
        for _ in 0..50 {
            ensure!(self.ask(flip, &changes)? == Ok(()), "the first flip was refused");
            match self.ask(flip, &changes)? {
                Ok(()) => self.flip(2)?,
                Err(Errno::BUSY) => {
                    ensure!(self.ask(Flags::TEST_ONLY, &changes)? == Ok(()), "a test was refused");
                    return self.flip(1);
                }
                Err(errno) => bail!("the second flip: {errno}"),
            }
        }
        bail!("never busy")
    }

    /// Waits for so many flips.
    fn flip(&self, count: usize) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let limit = Timespec { tv_sec: 2, tv_nsec: 0 };
        let mut flips = Vec::new();
        while flips.len() < count {
            let ready =
                poll(&mut [PollFd::from_borrowed_fd(self.device.event_fd(), PollFlags::IN)], Some(&limit))?;
            ensure!(ready == 1, "no flip");
            match self.device.read_events(&mut flips) {
                Err(err) if err.kind() != std::io::ErrorKind::WouldBlock => return Err(err.into()),
                _ => {}
            }
        }
        let ours = flips.iter().all(|flip| Object::Crtc(flip.crtc) == self.roles[1]);
        ensure!(flips.len() == count && ours, "{flips:?}");
        Ok(())
    }
}

type Step = (&'static str, Flags, Vec<(Role, &'static str, Value)>);

/// A plane that shows a framebuffer: part of it in 16.16, and place.
fn shows(role: Role, fb: Value, src: [u64; 4], dst: [i64; 4]) -> Vec<(Role, &'static str, Value)> {
    let mut all = vec![(role, "FB_ID", fb), (role, "CRTC_ID", Value::Crtc)];
    for (name, value) in ["SRC_X", "SRC_Y", "SRC_W", "SRC_H"].into_iter().zip(src) {
        all.push((role, name, Value::Is(value << 16)));
    }
    for (name, value) in ["CRTC_X", "CRTC_Y", "CRTC_W", "CRTC_H"].into_iter().zip(dst) {
        all.push((role, name, Value::Is(value as u64)));
    }
    all
}

#[allow(clippy::too_many_lines, reason = "a list")]
fn steps((width, height): (u32, u32)) -> Vec<Step> {
    use Role::{Connector, Crtc, Nobody, Overlay, Primary};
    use Value::{Byte, Full, Is, Mode, Small, Stranger};
    let (w, h) = (u64::from(width), u64::from(height));
    let whole = || shows(Primary, Full, [0, 0, w, h], [0, 0, w as i64, h as i64]);
    let small = |src, dst| shows(Overlay, Small, src, dst);
    let on = || vec![(Connector, "CRTC_ID", Value::Crtc), (Crtc, "MODE_ID", Mode), (Crtc, "ACTIVE", Is(1))];
    let both = |mut a: Vec<(Role, &'static str, Value)>, b: Vec<(Role, &'static str, Value)>| {
        a.extend(b);
        a
    };
    let (none, test, modeset) = (Flags::empty(), Flags::TEST_ONLY, Flags::ALLOW_MODESET);
    let flip = Flags::NONBLOCK | Flags::PAGE_FLIP_EVENT;
    let placed = || small([0, 0, 64, 48], [10, 20, 64, 48]);
    vec![
        ("a test with an event", test | Flags::PAGE_FLIP_EVENT, whole()),
        ("a flip that does not wait", flip | Flags::PAGE_FLIP_ASYNC, whole()),
        ("an event of nothing", flip, vec![]),
        ("nothing", none, vec![]),
        ("a mode without leave", none, both(on(), whole())),
        ("active without a mode", modeset, vec![(Crtc, "ACTIVE", Is(1))]),
        ("a mode without a connector", modeset, vec![(Crtc, "MODE_ID", Mode), (Crtc, "ACTIVE", Is(1))]),
        ("a mode that is no mode", modeset, both(on(), vec![(Crtc, "MODE_ID", Byte)])),
        ("a mode that is no blob", modeset, both(on(), vec![(Crtc, "MODE_ID", Stranger)])),
        ("a mode in a test", test | modeset, both(on(), whole())),
        ("a mode", modeset, both(on(), whole())),
        ("the same once more", none, both(on(), whole())),
        ("a framebuffer without a CRTC", test, vec![(Overlay, "FB_ID", Small)]),
        ("a CRTC without a framebuffer", test, vec![(Overlay, "CRTC_ID", Value::Crtc)]),
        ("an overlay", test, placed()),
        ("hanging over the edge", test, small([0, 0, 64, 48], [-30, -20, 64, 48])),
        ("scaled up", test, small([0, 0, 64, 48], [0, 0, 128, 48])),
        ("scaled down", test, small([0, 0, 64, 48], [0, 0, 64, 24])),
        ("a part", test, small([10, 10, 20, 20], [0, 0, 20, 20])),
        ("beyond the framebuffer's right edge", test, small([10, 0, 64, 48], [0, 0, 64, 48])),
        ("beyond its lower edge", test, small([0, 1, 64, 48], [0, 0, 64, 48])),
        ("wider than numbers go", test, small([0, 0, 64, 48], [0, 0, 1 << 31, 48])),
        ("further right than numbers go", test, small([0, 0, 64, 48], [i64::from(i32::MAX), 0, 64, 48])),
        ("a CRTC that is none", test, vec![(Overlay, "FB_ID", Small), (Overlay, "CRTC_ID", Stranger)]),
        ("a framebuffer that is none", test, vec![(Overlay, "FB_ID", Stranger)]),
        ("a property that is none", test, vec![(Overlay, "no such property", Is(0))]),
        ("an object that is none", test, vec![(Nobody, "FB_ID", Is(0))]),
        ("a type", test, vec![(Overlay, "type", Is(1))]),
        ("more than active", test, vec![(Crtc, "ACTIVE", Is(2))]),
        ("two turns", test, both(placed(), vec![(Overlay, "rotation", Is(3))])),
        ("no turn", test, both(placed(), vec![(Overlay, "rotation", Is(16))])),
        ("half a turn", test, both(placed(), vec![(Overlay, "rotation", Is(4))])),
        ("a turn that is none", test, both(placed(), vec![(Overlay, "rotation", Is(64))])),
        ("a matrix that is none", test, both(placed(), vec![(Overlay, "COLOR_ENCODING", Is(7))])),
        ("a primary of a part", test, shows(Primary, Small, [0, 0, 64, 48], [5, 5, 64, 48])),
        ("no primary", test, vec![(Primary, "FB_ID", Is(0)), (Primary, "CRTC_ID", Is(0))]),
        ("off without leave", test, vec![(Crtc, "ACTIVE", Is(0))]),
        ("off with leave", test | modeset, vec![(Crtc, "ACTIVE", Is(0))]),
        ("no connector", test | modeset, vec![(Connector, "CRTC_ID", Is(0))]),
        ("a fence that is none", test, both(placed(), vec![(Overlay, "IN_FENCE_FD", Is(-2i64 as u64))])),
        ("no fence", test, both(placed(), vec![(Overlay, "IN_FENCE_FD", Is(u64::MAX))])),
        ("a free rate", test, vec![(Crtc, "VRR_ENABLED", Is(1))]),
        ("a rate that is none", test, vec![(Crtc, "VRR_ENABLED", Is(2))]),
        ("(busy)", flip, vec![]),
        ("a flip of another plane", flip, whole()),
        ("(the flip)", flip, vec![]),
        ("a commit that waits", none, placed()),
        (
            "everything off",
            modeset,
            vec![
                (Primary, "FB_ID", Is(0)),
                (Primary, "CRTC_ID", Is(0)),
                (Overlay, "FB_ID", Is(0)),
                (Overlay, "CRTC_ID", Is(0)),
                (Connector, "CRTC_ID", Is(0)),
                (Crtc, "MODE_ID", Is(0)),
                (Crtc, "ACTIVE", Is(0)),
            ],
        ),
        ("a flip while off", flip, vec![(Primary, "FB_ID", Is(0)), (Primary, "CRTC_ID", Is(0))]),
    ]
}

fn the_model_answers_as_vkms_does() -> Result<()> {
    let display = Device::create("differential", &SPEC.parse()?)?;
    let node = display.card_node()?;
    let card = Card::open(open(&node)?).map_err(|(_, err)| err)?;
    let model = Model::new(file()?)?;
    for capability in [ClientCapability::UniversalPlanes, ClientCapability::Atomic] {
        model.set_client_capability(capability, true)?;
    }
    ensure!(model.planes(PlaneKind::Overlay).len() == 2);
    let real = Stage::new(&*card, &Buffers::of_card(&*card, &node)?)?;
    let made_up = Stage::new(&model, &buffers_of_model(&model)?)?;
    ensure!(real.size == made_up.size, "{:?} and {:?}", real.size, made_up.size);
    let (mut differences, mut refused) = (Vec::new(), 0);
    for (what, flags, changes) in steps(real.size) {
        if what == "(the flip)" {
            real.flip(1)?;
            made_up.flip(1)?;
            continue;
        }
        if what == "(busy)" {
            real.busy().context("vkms")?;
            made_up.busy().context("the model")?;
            continue;
        }
        let answers = (real.ask(flags, &changes)?, made_up.ask(flags, &changes)?);
        refused += u32::from(answers.0.is_err());
        if answers.0 != answers.1 {
            differences.push(format!("{what}: vkms {:?}, the model {:?}", answers.0, answers.1));
        }
    }
    ensure!(refused >= 20, "{refused} refused");
    // Without mastership nothing is heard.
    drm_ffi::auth::release_master(card.event_fd())?;
    model.set_master(false);
    ensure!(!card.is_master() && !model.is_master());
    let answers = (real.ask(Flags::TEST_ONLY, &[])?, made_up.ask(Flags::TEST_ONLY, &[])?);
    ensure!(answers == (Err(Errno::ACCESS), Err(Errno::ACCESS)), "{answers:?}");
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}
