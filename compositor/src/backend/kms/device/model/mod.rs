//! A display device out of a capability file: it records what it is asked and answers as such a device would.
//!
//! It owns the objects, the state that commits leave, the recorded requests and the flips. What it refuses is in `check`;
//! what a framebuffer is, it is told by whoever has the buffers ([`Model::set_framebuffers`]).
//!
//! What the kernel decides before it asks a driver (drm_atomic_uapi.c, drm_atomic.c, drm_atomic_helper.c) it decides in the
//! same order with the same errno; a test asks it and vkms the same. What drivers decide it knows of the file's rules.

mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drm::control::{AtomicCommitFlags, RawResourceHandle, connector, from_u32, plane, property};
use drm::{ClientCapability, DriverCapability};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::capabilities::{
    Capabilities, PlaneKind, PropertyFile, fourcc, interface, parse_mode, parse_modifier,
};
use super::{
    ConnectorInfo, FlipEvent, KmsDevice, Mode, Object, PlaneInfo, Property, PropertyKind, Request, Resources,
};
use crate::state::monotonic;

/// Ids of the first plane, CRTC, connector, property and blob.
const FIRST: [u32; 5] = [31, 131, 231, 331, 10_001];
/// Requests that are remembered, the newest ones.
const REMEMBERED: usize = 4096;

/// When commits are on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flips {
    /// So long after they were made.
    After(Duration),
    /// When [`Model::flip`] is called.
    ByHand,
    /// Never: no event comes, and the CRTC is busy until a commit that blocks.
    Never,
}

/// A change that a request asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The object's id.
    pub object: u32,
    /// The property's name.
    pub property: String,
    /// Its value.
    pub value: u64,
}

/// A request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its flags.
    pub flags: AtomicCommitFlags,
    /// Its changes, in order; one whose property does not exist has no name.
    pub changes: Vec<Change>,
    /// The contents of the blobs that they name.
    pub blobs: BTreeMap<u64, Vec<u8>>,
    /// The answer.
    pub answer: Result<(), Errno>,
}

impl Asked {
    /// The value that it sets a property of an object to, the last one.
    pub fn value(&self, object: u32, property: &str) -> Option<u64> {
        let of = |c: &&Change| c.object == object && c.property == property;
        self.changes.iter().rfind(of).map(|c| c.value)
    }

    /// It was no test.
    pub fn is_commit(&self) -> bool {
        !self.flags.contains(AtomicCommitFlags::TEST_ONLY)
    }
}

/// Requests that are refused.
#[derive(Clone, Copy, Debug)]
pub struct Refuse {
    /// Those that have all of these flags,
    pub with: AtomicCommitFlags,
    /// and none of these,
    pub without: AtomicCommitFlags,
    /// and would leave more planes on than this, if it matters,
    pub planes: Option<usize>,
    /// with this.
    pub errno: Errno,
}

/// What a framebuffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramebufferFacts {
    /// Pixels.
    pub size: (u32, u32),
    /// Fourcc.
    pub format: u32,
    /// Modifier.
    pub modifier: u64,
}

type Framebuffers = Box<dyn Fn(u32) -> Option<FramebufferFacts> + Send>;

/// A display device that is not there. Clones are the same device.
#[derive(Clone, Debug)]
pub struct Model {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    timer: OwnedFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plane,
    Crtc,
    Connector,
}

#[derive(Clone, Debug)]
struct PropertyState {
    id: u32,
    name: String,
    immutable: bool,
    kind: PropertyKind,
    value: u64,
    /// Reading it gives this, whatever was set: fences are not kept.
    reads_as: Option<u64>,
}

#[derive(Clone, Debug)]
struct ObjectState {
    id: u32,
    kind: Kind,
    /// Its place among those of its kind.
    index: usize,
    properties: Vec<PropertyState>,
}

impl ObjectState {
    fn get(&self, name: &str) -> u64 {
        self.properties.iter().find(|p| p.name == name).map_or(0, |p| p.value)
    }
}

#[derive(Debug)]
struct PendingFlip {
    crtc: u32,
    due: Option<Duration>,
    number: u64,
    /// Its CRTC was off before: its time is that of the last one, as with drivers whose counter stands still meanwhile.
    lights: bool,
}

struct Inner {
    capabilities: Capabilities,
    objects: Vec<ObjectState>,
    blobs: BTreeMap<u64, Vec<u8>>,
    /// They stay for the states that name them.
    destroyed: BTreeSet<u64>,
    next_blob: u64,
    /// When the last flip of each CRTC was.
    last_flips: BTreeMap<u32, Duration>,
    asked: Vec<Asked>,
    refuse: Vec<Refuse>,
    pending: Vec<PendingFlip>,
    flips: Flips,
    patience: Duration,
    sequence: u32,
    master: bool,
    clients: BTreeSet<u64>,
    framebuffers: Option<Framebuffers>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { capabilities, asked, pending, .. } = self;
        f.debug_struct("Inner")
            .field("driver", &capabilities.driver)
            .field("asked", &asked.len())
            .field("pending", pending)
            .finish_non_exhaustive()
    }
}

/// Makes the properties of the objects, each name with one id for all objects.
struct Maker {
    names: BTreeMap<String, u32>,
}

impl Maker {
    fn property(&mut self, name: &str, kind: PropertyKind, value: u64) -> PropertyState {
        let next = FIRST[3] + u32::try_from(self.names.len()).unwrap_or(0);
        let id = *self.names.entry(name.to_owned()).or_insert(next);
        PropertyState { id, name: name.to_owned(), immutable: false, kind, value, reads_as: None }
    }

    fn immutable(&mut self, name: &str, kind: PropertyKind, value: u64) -> PropertyState {
        PropertyState { immutable: true, ..self.property(name, kind, value) }
    }

    /// Those of the file. Properties of one name may have different bounds, so that ids are not shared with others.
    fn of_file(
        &mut self,
        object: u32,
        all: &BTreeMap<String, PropertyFile>,
        blobs: &mut BTreeMap<u64, Vec<u8>>,
    ) -> Vec<PropertyState> {
        let mut made = Vec::new();
        for (name, file) in all {
            let mut value = file.value;
            if let super::capabilities::KindFile::Blob(contents) = &file.kind
                && !contents.is_empty()
            {
                value = u64::from(FIRST[4]) + blobs.len() as u64;
                blobs.insert(value, contents.clone());
            }
            let state = self.property(&format!("{name}/{object}"), file.kind.kind(), value);
            made.push(PropertyState { name: name.clone(), immutable: file.immutable, ..state });
        }
        made
    }
}

const INT: PropertyKind = PropertyKind::SignedRange(i32::MIN as i64, i32::MAX as i64);
const EXTENT: PropertyKind = PropertyKind::Range(0, i32::MAX as u64);
const FIXED: PropertyKind = PropertyKind::Range(0, u32::MAX as u64);
const FENCE: PropertyKind = PropertyKind::SignedRange(-1, i32::MAX as i64);

fn blob_of_formats(formats: &[u32], pairs: &[(u32, u64)]) -> Vec<u8> {
    let mut modifiers: Vec<u64> = pairs.iter().map(|p| p.1).collect();
    modifiers.sort_unstable();
    modifiers.dedup();
    let mut entries: Vec<(u64, u32, u64)> = Vec::new();
    for modifier in modifiers {
        for (chunk, first) in formats.chunks(64).zip((0u32..).step_by(64)) {
            let bits = chunk.iter().zip(0..64).filter(|(f, _)| pairs.contains(&(**f, modifier)));
            let mask = bits.fold(0u64, |mask, (_, bit)| mask | 1 << bit);
            if mask != 0 {
                entries.push((mask, first, modifier));
            }
        }
    }
    let mut out = Vec::new();
    let count = u32::try_from(formats.len()).unwrap_or(0);
    // The kernel aligns the modifiers to eight bytes.
    let modifiers_at = (24 + count * 4).next_multiple_of(8);
    for word in [1, 0, count, 24, u32::try_from(entries.len()).unwrap_or(0), modifiers_at] {
        out.extend(word.to_ne_bytes());
    }
    formats.iter().for_each(|f| out.extend(f.to_ne_bytes()));
    out.resize(modifiers_at as usize, 0);
    for (mask, first, modifier) in entries {
        out.extend(mask.to_ne_bytes());
        out.extend(first.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(modifier.to_ne_bytes());
    }
    out
}

/// A mode without blanking to speak of: nobody looks at more than size and refresh.
fn mode(text: &str, preferred: bool) -> Option<Mode> {
    let (width, height, hertz) = parse_mode(text)?;
    let (htotal, vtotal) = (width + 80, height + 20);
    let mut name = [0; 32];
    let label = format!("{width}x{height}");
    name[..label.len()].copy_from_slice(label.as_bytes());
    Some(Mode {
        clock: u32::try_from(u64::from(htotal) * u64::from(vtotal) * u64::from(hertz) / 1000).ok()?,
        horizontal: [width, width + 8, width + 40, htotal, 0],
        vertical: [height, height + 2, height + 10, vtotal, 0],
        vrefresh: hertz,
        flags: 0,
        kind: 1 << 6 | if preferred { 1 << 3 } else { 0 },
        name,
    })
}

impl Inner {
    fn new(capabilities: Capabilities) -> Self {
        let (mut maker, mut blobs) = (Maker { names: BTreeMap::new() }, BTreeMap::new());
        let mut objects = Vec::new();
        let blob = |blobs: &mut BTreeMap<u64, Vec<u8>>, contents: Vec<u8>| {
            let id = u64::from(FIRST[4]) + blobs.len() as u64;
            blobs.insert(id, contents);
            id
        };
        for (index, file) in capabilities.planes.iter().enumerate() {
            let id = FIRST[0] + index as u32;
            let kinds = ["Overlay", "Primary", "Cursor"].iter().zip(0..).map(|(n, v)| (v, (*n).to_owned()));
            let kind = PropertyKind::Enum(kinds.collect());
            let value = match file.kind {
                PlaneKind::Overlay => 0,
                PlaneKind::Primary => 1,
                PlaneKind::Cursor => 2,
            };
            let pairs = plane_pairs(file);
            let formats = plane_formats(&pairs);
            let in_formats = blob(&mut blobs, blob_of_formats(&formats, &pairs));
            let mut properties = vec![
                maker.immutable("type", kind, value),
                maker.property("FB_ID", PropertyKind::Object, 0),
                PropertyState { reads_as: Some(u64::MAX), ..maker.property("IN_FENCE_FD", FENCE, u64::MAX) },
                maker.property("CRTC_ID", PropertyKind::Object, 0),
                maker.property("CRTC_X", INT, 0),
                maker.property("CRTC_Y", INT, 0),
                maker.property("CRTC_W", EXTENT, 0),
                maker.property("CRTC_H", EXTENT, 0),
                maker.property("SRC_X", FIXED, 0),
                maker.property("SRC_Y", FIXED, 0),
                maker.property("SRC_W", FIXED, 0),
                maker.property("SRC_H", FIXED, 0),
                maker.immutable("IN_FORMATS", PropertyKind::Blob, in_formats),
            ];
            if !file.size_hints.is_empty() {
                let pairs = file.size_hints.iter().flat_map(|(w, h)| [*w, *h]).flat_map(u16::to_ne_bytes);
                let hints = blob(&mut blobs, pairs.collect());
                properties.push(maker.immutable("SIZE_HINTS", PropertyKind::Blob, hints));
            }
            properties.extend(maker.of_file(id, &file.properties, &mut blobs));
            objects.push(ObjectState { id, kind: Kind::Plane, index, properties });
        }
        for (index, file) in capabilities.crtcs.iter().enumerate() {
            let id = FIRST[1] + index as u32;
            let out = maker.property("OUT_FENCE_PTR", PropertyKind::Range(0, u64::MAX), 0);
            let mut properties = vec![
                maker.property("ACTIVE", PropertyKind::Range(0, 1), 0),
                maker.property("MODE_ID", PropertyKind::Blob, 0),
                PropertyState { reads_as: Some(0), ..out },
                maker.property("VRR_ENABLED", PropertyKind::Range(0, 1), 0),
            ];
            properties.extend(maker.of_file(id, &file.properties, &mut blobs));
            objects.push(ObjectState { id, kind: Kind::Crtc, index, properties });
        }
        for (index, file) in capabilities.connectors.iter().enumerate() {
            let id = FIRST[2] + index as u32;
            let mut properties = vec![maker.property("CRTC_ID", PropertyKind::Object, 0)];
            properties.extend(maker.of_file(id, &file.properties, &mut blobs));
            objects.push(ObjectState { id, kind: Kind::Connector, index, properties });
        }
        Self {
            last_flips: BTreeMap::new(),
            next_blob: u64::from(FIRST[4]) + blobs.len() as u64,
            capabilities,
            objects,
            blobs,
            destroyed: BTreeSet::new(),
            asked: Vec::new(),
            refuse: Vec::new(),
            pending: Vec::new(),
            flips: Flips::After(Duration::from_millis(16)),
            patience: Duration::ZERO,
            sequence: 0,
            master: true,
            clients: BTreeSet::new(),
            framebuffers: None,
        }
    }

    fn object(&self, id: u32) -> Option<&ObjectState> {
        self.objects.iter().find(|o| o.id == id)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &ObjectState> {
        self.objects.iter().filter(move |o| o.kind == kind)
    }

    fn has(&self, client: ClientCapability) -> bool {
        self.clients.contains(&(client as u64))
    }

    /// The kernel hides writeback connectors, and cursor planes that need hotspots, from who does not ask for them.
    fn is_hidden(&self, object: &ObjectState) -> bool {
        let offers = |name: &str| self.capabilities.client_capabilities.iter().any(|c| c == name);
        match object.kind {
            Kind::Connector => {
                self.capabilities.connectors[object.index].kind == "Writeback"
                    && !self.has(ClientCapability::WritebackConnectors)
            }
            Kind::Plane => {
                self.capabilities.planes[object.index].kind == PlaneKind::Cursor
                    && offers("CURSOR_PLANE_HOTSPOT")
                    && !self.has(ClientCapability::CursorPlaneHotspot)
            }
            Kind::Crtc => false,
        }
    }
}

/// The pairs that a plane takes.
fn plane_pairs(file: &super::capabilities::PlaneFile) -> Vec<(u32, u64)> {
    let one = |(modifier, names): (&String, &Vec<String>)| {
        let modifier = parse_modifier(modifier)?;
        Some(names.iter().filter_map(move |name| Some((fourcc(name)?, modifier))).collect::<Vec<_>>())
    };
    file.formats.iter().filter_map(one).flatten().collect()
}

fn plane_formats(pairs: &[(u32, u64)]) -> Vec<u32> {
    let mut formats: Vec<u32> = Vec::new();
    for (format, _) in pairs {
        if !formats.contains(format) {
            formats.push(*format);
        }
    }
    formats
}

fn not_found<T>() -> io::Result<T> {
    Err(Errno::NOENT.into())
}

impl Model {
    /// A device of which nothing is on.
    ///
    /// # Errors
    /// When there is no descriptor to be had.
    pub fn new(capabilities: Capabilities) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { shared: Arc::new(Shared { inner: Mutex::new(Inner::new(capabilities)), timer }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it know framebuffers: formats and sizes are checked from now on, and ids that are none are refused.
    pub fn set_framebuffers(&self, lookup: impl Fn(u32) -> Option<FramebufferFacts> + Send + 'static) {
        self.inner().framebuffers = Some(Box::new(lookup));
    }

    /// Says when commits are on the screen.
    pub fn set_flips(&self, flips: Flips) {
        self.inner().flips = flips;
    }

    /// Has another display on a connector, by its place in the file; with no modes, none.
    pub fn set_modes(&self, connector: usize, modes: &[&str]) {
        if let Some(file) = self.inner().capabilities.connectors.get_mut(connector) {
            file.modes = modes.iter().map(|mode| (*mode).to_owned()).collect();
        }
    }

    /// Has commits that block wait so long for one before them that never ends.
    pub fn set_patience(&self, patience: Duration) {
        self.inner().patience = patience;
    }

    /// Gives mastership, or takes it away.
    pub fn set_master(&self, master: bool) {
        self.inner().master = master;
    }

    /// Refuses requests as a driver may for reasons of its own.
    pub fn refuse(&self, refusal: Refuse) {
        self.inner().refuse.push(refusal);
    }

    /// Refuses no more than its file says.
    pub fn refuse_nothing(&self) {
        self.inner().refuse.clear();
    }

    /// Brings everything that was committed on the screen.
    pub fn flip(&self) {
        let now = monotonic();
        let mut inner = self.inner();
        inner.pending.iter_mut().for_each(|flip| flip.due = Some(now));
        self.arm(&inner);
    }

    /// Everything that was committed is on the screen, and nobody hears of it.
    pub fn lose_events(&self) {
        self.inner().pending.clear();
    }

    /// Commits that are not on the screen yet.
    pub fn outstanding(&self) -> usize {
        self.inner().pending.len()
    }

    /// The requests so far, oldest first, and forgets them.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.inner().asked)
    }

    /// The value of a property now.
    pub fn value(&self, object: u32, property: &str) -> Option<u64> {
        let inner = self.inner();
        let object = inner.object(object)?;
        object.properties.iter().find(|p| p.name == property).map(|p| p.value)
    }

    /// Ids of the planes of a type, in the file's order.
    pub fn planes(&self, kind: PlaneKind) -> Vec<u32> {
        let inner = self.inner();
        let of = |o: &&ObjectState| inner.capabilities.planes[o.index].kind == kind;
        inner.of_kind(Kind::Plane).filter(of).map(|o| o.id).collect()
    }

    /// Ids of the CRTCs.
    pub fn crtcs(&self) -> Vec<u32> {
        self.inner().of_kind(Kind::Crtc).map(|o| o.id).collect()
    }

    /// Blobs that somebody has made and not destroyed.
    pub fn blobs(&self) -> usize {
        let inner = self.inner();
        let made = inner.blobs.range(u64::from(FIRST[4]) + 1_000_000..);
        made.filter(|(id, _)| !inner.destroyed.contains(id)).count()
    }

    /// Sets the timer to the first flip that is due.
    fn arm(&self, inner: &Inner) {
        let first = inner.pending.iter().filter_map(|flip| flip.due).min();
        let first = first.map_or(Duration::ZERO, |due| due.max(Duration::from_nanos(1)));
        let value = Timespec {
            tv_sec: i64::try_from(first.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: first.subsec_nanos().into(),
        };
        let setting = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if let Err(err) = timerfd_settime(&self.shared.timer, TimerfdTimerFlags::ABSTIME, &setting) {
            tracing::error!(%err, "the model's display stops");
        }
    }
}

impl KmsDevice for Model {
    fn driver(&self) -> String {
        self.inner().capabilities.driver.clone()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.shared.timer.as_fd()
    }

    fn is_master(&self) -> bool {
        self.inner().master
    }

    fn set_client_capability(&self, capability: ClientCapability, enable: bool) -> io::Result<()> {
        let mut inner = self.inner();
        let name = match capability {
            ClientCapability::UniversalPlanes | ClientCapability::Atomic => None,
            ClientCapability::WritebackConnectors => Some("WRITEBACK_CONNECTORS"),
            ClientCapability::CursorPlaneHotspot => Some("CURSOR_PLANE_HOTSPOT"),
            _ => return Err(Errno::INVAL.into()),
        };
        let offered = &inner.capabilities.client_capabilities;
        if name.is_some_and(|name| !offered.iter().any(|c| c == name)) {
            return Err(Errno::OPNOTSUPP.into());
        }
        if enable {
            inner.clients.insert(capability as u64);
        } else {
            inner.clients.remove(&(capability as u64));
        }
        Ok(())
    }

    fn capability(&self, capability: DriverCapability) -> io::Result<u64> {
        let name = match capability {
            DriverCapability::AtomicASyncPageFlip => "ATOMIC_ASYNC_PAGE_FLIP",
            DriverCapability::CursorWidth => "CURSOR_WIDTH",
            DriverCapability::CursorHeight => "CURSOR_HEIGHT",
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(self.inner().capabilities.capabilities.get(name).copied().unwrap_or(0))
    }

    fn resources(&self) -> io::Result<Resources> {
        fn ids<T: From<RawResourceHandle>>(inner: &Inner, kind: Kind) -> Vec<T> {
            let seen = inner.of_kind(kind).filter(|o| !inner.is_hidden(o));
            seen.filter_map(|o| from_u32(o.id)).collect()
        }
        let inner = self.inner();
        Ok(Resources {
            crtcs: ids(&inner, Kind::Crtc),
            connectors: ids(&inner, Kind::Connector),
            planes: ids(&inner, Kind::Plane),
        })
    }

    fn connector(&self, connector: connector::Handle, _probe: bool) -> io::Result<ConnectorInfo> {
        let inner = self.inner();
        let object = inner.object(connector.into()).filter(|o| o.kind == Kind::Connector);
        let Some(object) = object else { return not_found() };
        let file = &inner.capabilities.connectors[object.index];
        let modes = file.modes.iter().enumerate().filter_map(|(index, text)| mode(text, index == 0));
        Ok(ConnectorInfo {
            handle: connector,
            interface: interface(&file.kind).ok_or(Errno::INVAL)?,
            interface_id: file.number,
            connected: !file.modes.is_empty(),
            size_mm: None,
            crtcs: file.crtcs,
            modes: modes.collect(),
        })
    }

    fn plane(&self, plane: plane::Handle) -> io::Result<PlaneInfo> {
        let inner = self.inner();
        let object = inner.object(plane.into()).filter(|o| o.kind == Kind::Plane);
        let Some(object) = object else { return not_found() };
        let file = &inner.capabilities.planes[object.index];
        Ok(PlaneInfo { crtcs: file.crtcs, formats: plane_formats(&plane_pairs(file)) })
    }

    fn properties(&self, object: Object) -> io::Result<Vec<Property>> {
        let inner = self.inner();
        let Some(object) = inner.object(object.id().get()) else { return not_found() };
        let all = object.properties.iter().filter_map(|p| {
            Some(Property {
                id: from_u32::<property::Handle>(p.id)?,
                name: p.name.clone(),
                value: p.reads_as.unwrap_or(p.value),
                immutable: p.immutable,
                kind: p.kind.clone(),
            })
        });
        Ok(all.collect())
    }

    fn blob(&self, id: u64) -> io::Result<Vec<u8>> {
        self.inner().blobs.get(&id).cloned().map_or_else(not_found, Ok)
    }

    fn create_blob(&self, contents: &[u8]) -> io::Result<u64> {
        let mut inner = self.inner();
        // Far from the device's own.
        let id = inner.next_blob.max(u64::from(FIRST[4]) + 1_000_000);
        inner.next_blob = id + 1;
        inner.blobs.insert(id, contents.to_vec());
        Ok(id)
    }

    fn destroy_blob(&self, id: u64) -> io::Result<()> {
        let mut inner = self.inner();
        let known = inner.blobs.contains_key(&id);
        if known && inner.destroyed.insert(id) { Ok(()) } else { not_found() }
    }

    fn commit(&self, flags: AtomicCommitFlags, request: &mut Request) -> Result<(), Errno> {
        let waits = !flags.intersects(AtomicCommitFlags::NONBLOCK | AtomicCommitFlags::TEST_ONLY);
        let stuck = self.inner().pending.iter().any(|flip| flip.due.is_none());
        if waits && stuck {
            // Nobody else waits for it.
            let patience = self.inner().patience;
            std::thread::sleep(patience);
        }
        let mut inner = self.inner();
        let answer = check::commit(&mut inner, flags, request);
        let name = |object: u32, id: u32| {
            let of = inner.object(object)?.properties.iter().find(|p| p.id == id)?;
            Some(of.name.clone())
        };
        let changes: Vec<Change> = request
            .iter()
            .map(|(object, property, value)| Change {
                object,
                property: name(object, property).unwrap_or_default(),
                value,
            })
            .collect();
        let blob = |c: &Change| Some((c.value, inner.blobs.get(&c.value)?.clone()));
        let blobs = changes.iter().filter_map(blob).collect();
        if inner.asked.len() >= REMEMBERED {
            inner.asked.remove(0);
        }
        inner.asked.push(Asked { flags, changes, blobs, answer });
        self.arm(&inner);
        answer
    }

    fn elsewhere(&self) -> Option<Box<dyn KmsDevice + Send>> {
        Some(Box::new(self.clone()))
    }

    fn read_events(&self, flips: &mut Vec<FlipEvent>) -> io::Result<()> {
        let mut inner = self.inner();
        let now = monotonic();
        let before = flips.len();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut inner.pending).into_iter().partition(|f| f.due.is_some_and(|due| due <= now));
        inner.pending = later;
        for flip in due {
            inner.sequence = inner.sequence.wrapping_add(1);
            let (mut time, sequence) = (flip.due.unwrap_or(now), inner.sequence);
            let last = inner.last_flips.insert(flip.crtc, time);
            if flip.lights {
                time = last.unwrap_or_default();
            }
            flips.extend(from_u32(flip.crtc).map(|crtc| FlipEvent {
                crtc,
                time,
                sequence,
                number: flip.number,
            }));
        }
        let mut count = [0; 8];
        // Level triggered: what has fired is read, what comes next is armed.
        let _ = rustix::io::read(&self.shared.timer, &mut count);
        self.arm(&inner);
        if flips.len() == before { Err(Errno::AGAIN.into()) } else { Ok(()) }
    }
}
