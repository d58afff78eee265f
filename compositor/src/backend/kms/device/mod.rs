//! The display device: what the KMS backend asks of it, as a trait, and the properties of its objects by name.
//!
//! ```text
//!   output, plane, writeback ──> KmsDevice ──> kernel   the node that the session opened: ioctls
//!                                         └──> model    a capability file: records what it is asked
//! ```
//!
//! The device is master, or would be. GEM handles never live on its file ([`crate::backend::buffers`] has one of its own),
//! and no object of it is dropped behind our back: there is no state capture and no restore.

mod atomic;
pub mod capabilities;
pub mod kernel;
pub mod model;
mod request;

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use drm::control::{AtomicCommitFlags, RawResourceHandle, connector, crtc, plane, property};
use drm::{ClientCapability, DriverCapability};
use drm_prime::scanout::Rotation;
use rustix::io::Errno;

pub use self::request::Request;

/// A display device, as far as the backend needs one.
///
/// Every call is one question or one change; nothing is cached and nothing is retried. What the kernel answers, a model
/// answers too, errno included.
pub trait KmsDevice: std::fmt::Debug {
    /// The driver's name; empty if it cannot be read.
    fn driver(&self) -> String;

    /// A descriptor that is readable while events wait.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// Tells whether its file is master. The session hands mastership out and takes it back; nobody else does.
    fn is_master(&self) -> bool;

    /// Has the kernel show a client more than it does without asking.
    ///
    /// # Errors
    /// EINVAL or EOPNOTSUPP where the driver does not know it.
    fn set_client_capability(&self, capability: ClientCapability, enable: bool) -> io::Result<()>;

    /// A number that the driver tells of itself.
    ///
    /// # Errors
    /// EINVAL where it does not.
    fn capability(&self, capability: DriverCapability) -> io::Result<u64>;

    /// What there is. The order of the CRTCs is that of the bits in `possible_crtcs`.
    ///
    /// # Errors
    /// EOPNOTSUPP of a device without a display.
    fn resources(&self) -> io::Result<Resources>;

    /// A connector; with `probe` the hardware is asked what is connected, which may take long.
    ///
    /// # Errors
    /// ENOENT when there is none.
    fn connector(&self, connector: connector::Handle, probe: bool) -> io::Result<ConnectorInfo>;

    /// What a plane can do besides its properties.
    ///
    /// # Errors
    /// ENOENT when there is none.
    fn plane(&self, plane: plane::Handle) -> io::Result<PlaneInfo>;

    /// The properties of an object with their values.
    ///
    /// # Errors
    /// ENOENT when there is none.
    fn properties(&self, object: Object) -> io::Result<Vec<Property>>;

    /// The contents of a property blob.
    ///
    /// # Errors
    /// ENOENT when there is none.
    fn blob(&self, id: u64) -> io::Result<Vec<u8>>;

    /// Makes a property blob; who made it destroys it, which leaves it to the states that name it.
    ///
    /// # Errors
    /// When there is no memory.
    fn create_blob(&self, contents: &[u8]) -> io::Result<u64>;

    /// Destroys a blob of one's own.
    ///
    /// # Errors
    /// ENOENT or EPERM for one that is not.
    fn destroy_blob(&self, id: u64) -> io::Result<()>;

    /// Commits a request, all of it or nothing. The request is left as it was.
    ///
    /// # Errors
    /// The kernel's errno.
    fn commit(&self, flags: AtomicCommitFlags, request: &mut Request) -> Result<(), Errno>;

    /// The same file for another thread, where a commit may wait; none of a device that cannot be shared.
    fn elsewhere(&self) -> Option<Box<dyn KmsDevice + Send>>;

    /// Appends the flips whose events are waiting.
    ///
    /// # Errors
    /// EAGAIN when none is; others when the device is gone.
    fn read_events(&self, flips: &mut Vec<FlipEvent>) -> io::Result<()>;
}

/// A display device. Clones are the same device.
pub type Device = Rc<dyn KmsDevice>;

/// The objects of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CRTCs, in the order of their bits.
    pub crtcs: Vec<crtc::Handle>,
    /// Connectors, writeback connectors only after asking for them.
    pub connectors: Vec<connector::Handle>,
    /// Planes of every type.
    pub planes: Vec<plane::Handle>,
}

impl Resources {
    /// The CRTCs of a `possible_crtcs` mask.
    pub fn crtcs_of(&self, mask: u32) -> impl Iterator<Item = crtc::Handle> + '_ {
        self.crtcs.iter().zip(0..32).filter(move |(_, bit)| mask & (1 << bit) != 0).map(|(crtc, _)| *crtc)
    }
}

/// A connector.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectorInfo {
    /// Its id.
    pub handle: connector::Handle,
    /// Its type.
    pub interface: connector::Interface,
    /// Its number among those of the type.
    pub interface_id: u32,
    /// Something is connected.
    pub connected: bool,
    /// Millimetres, if the display tells.
    pub size_mm: Option<(u32, u32)>,
    /// The CRTCs that may feed it, as a mask: those of all its encoders.
    pub crtcs: u32,
    /// Its modes, the driver's favourite first if it has one.
    pub modes: Vec<Mode>,
}

impl ConnectorInfo {
    /// Type and number, such as `HDMI-A-1`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.interface.as_str(), self.interface_id)
    }

    /// The mode that the display likes best.
    pub fn favourite(&self) -> Option<Mode> {
        self.modes.iter().find(|mode| mode.is_preferred()).or(self.modes.first()).copied()
    }
}

/// `DRM_MODE_TYPE_PREFERRED`.
const PREFERRED: u32 = 1 << 3;

/// A display mode (`struct drm_mode_modeinfo`, drm_mode.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's fields")]
pub struct Mode {
    /// Kilohertz.
    pub clock: u32,
    /// Display, sync start, sync end, total, skew.
    pub horizontal: [u16; 5],
    /// Display, sync start, sync end, total, scan.
    pub vertical: [u16; 5],
    pub vrefresh: u32,
    pub flags: u32,
    pub kind: u32,
    /// Ended by a zero.
    pub name: [u8; 32],
}

impl Mode {
    /// Pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.horizontal[0].into(), self.vertical[0].into())
    }

    /// The display likes it best.
    pub fn is_preferred(&self) -> bool {
        self.kind & PREFERRED != 0
    }

    /// The same picture at the same rate, whatever the driver says of where it has it from.
    pub fn is_like(&self, other: &Self) -> bool {
        let timings = |mode: &Self| (mode.clock, mode.horizontal, mode.vertical, mode.flags);
        timings(self) == timings(other)
    }

    /// From one vertical blank to the next.
    pub fn refresh_interval(&self) -> Duration {
        let pixels = u64::from(self.horizontal[3]) * u64::from(self.vertical[3]);
        // The clock is in kHz: pixels / kHz = ms.
        Duration::from_nanos(pixels * 1_000_000 / u64::from(self.clock).max(1))
    }

    /// The contents of its blob.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(68);
        bytes.extend(self.clock.to_ne_bytes());
        for value in self.horizontal.into_iter().chain(self.vertical) {
            bytes.extend(value.to_ne_bytes());
        }
        for value in [self.vrefresh, self.flags, self.kind] {
            bytes.extend(value.to_ne_bytes());
        }
        bytes.extend(self.name);
        bytes
    }
}

/// What a plane can do besides its properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaneInfo {
    /// The CRTCs that it may be on, as a mask.
    pub crtcs: u32,
    /// Fourccs; IN_FORMATS, where it is, has the modifiers too.
    pub formats: Vec<u32>,
}

/// An object that has properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A connector.
    Connector(connector::Handle),
    /// A CRTC.
    Crtc(crtc::Handle),
    /// A plane.
    Plane(plane::Handle),
}

impl Object {
    /// Its id.
    pub fn id(self) -> RawResourceHandle {
        match self {
            Self::Connector(handle) => handle.into(),
            Self::Crtc(handle) => handle.into(),
            Self::Plane(handle) => handle.into(),
        }
    }
}

/// A property of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its id; many objects may share it.
    pub id: property::Handle,
    /// Its name.
    pub name: String,
    /// Its value when it was read.
    pub value: u64,
    /// It cannot be set.
    pub immutable: bool,
    /// What values it takes.
    pub kind: PropertyKind,
}

/// What values a property takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyKind {
    /// Numbers from one to another.
    Range(u64, u64),
    /// The same with signs, as 64-bit two's complement.
    SignedRange(i64, i64),
    /// One of these values.
    Enum(Vec<(u64, String)>),
    /// Any of these bits, which are given by number.
    Bitmask(Vec<(u64, String)>),
    /// The id of a blob, or 0.
    Blob,
    /// The id of an object, or 0.
    Object,
    /// Something else.
    Other,
}

/// A commit is on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlipEvent {
    /// Of this CRTC.
    pub crtc: crtc::Handle,
    /// Since then, on CLOCK_MONOTONIC.
    pub time: Duration,
    /// The vertical blank's number.
    pub sequence: u32,
    /// The number of the request that asked for it, see [`Request::set_number`].
    pub number: u64,
}

/// Why a node cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The node has no display hardware behind it.
    #[error("it has no display outputs")]
    NoOutputs,
    /// Universal planes or atomic commits are missing.
    #[error(
        "its driver `{driver}` has no atomic mode setting; primeway needs a Linux kernel with an atomic KMS driver"
    )]
    NoAtomic {
        /// The driver's name.
        driver: String,
        /// Error of the client capability.
        source: io::Error,
    },
    /// Somebody else is master.
    #[error("another program controls the display; end it, or switch to a free VT, and start again")]
    NotMaster,
    /// Another ioctl failed.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl CardError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

pub(super) fn errno(err: &io::Error) -> Errno {
    Errno::from_io_error(err).unwrap_or(Errno::IO)
}

/// Makes a device ready to be driven: it has outputs, atomic commits, and we are its master.
///
/// # Errors
/// Which of them is missing.
pub fn check(device: &dyn KmsDevice) -> Result<(), CardError> {
    let resources = device.resources().map_err(|_| CardError::NoOutputs)?;
    if resources.crtcs.is_empty() || resources.connectors.is_empty() {
        return Err(CardError::NoOutputs);
    }
    for capability in [ClientCapability::UniversalPlanes, ClientCapability::Atomic] {
        device
            .set_client_capability(capability, true)
            .map_err(|source| CardError::NoAtomic { driver: device.driver(), source })?;
    }
    // Drivers that have the host draw the pointer hide their cursor planes from who does not set hotspots; the others do
    // not know the capability.
    if let Err(err) = device.set_client_capability(ClientCapability::CursorPlaneHotspot, true) {
        tracing::debug!(%err, "no hotspots on cursor planes");
    }
    if !device.is_master() {
        return Err(CardError::NotMaster);
    }
    Ok(())
}

/// Makes writeback connectors visible.
///
/// # Errors
/// When the driver knows none.
pub fn enable_writeback(device: &dyn KmsDevice) -> Result<(), CardError> {
    device
        .set_client_capability(ClientCapability::WritebackConnectors, true)
        .map_err(CardError::io("writeback connectors are not supported"))
}

/// The connectors that a CRTC feeds now, writeback connectors included, each with its CRTC_ID property.
pub fn connectors_on(
    device: &dyn KmsDevice,
    crtc: crtc::Handle,
) -> Vec<(RawResourceHandle, property::Handle)> {
    let Ok(resources) = device.resources() else { return Vec::new() };
    let on = |connector: &connector::Handle| {
        let properties = Properties::read(device, Object::Connector(*connector)).ok()?;
        let feeds = properties.value("CRTC_ID") == Some(u64::from(u32::from(crtc)));
        Some(((*connector).into(), properties.id("CRTC_ID").filter(|_| feeds)?))
    };
    resources.connectors.iter().filter_map(on).collect()
}

/// Turns every plane, CRTC and connector off in one commit.
///
/// # Errors
/// The commit's errno.
pub fn turn_everything_off(device: &dyn KmsDevice) -> Result<(), Errno> {
    let mut request = Request::new();
    let mut set = |object: Object, settings: &[(&str, u64)]| {
        let properties = Properties::read(device, object).map_err(|_| Errno::IO)?;
        for (name, value) in settings {
            if let Some(id) = properties.id(name) {
                request.set(object.id(), id, *value);
            }
        }
        Ok(())
    };
    let resources = device.resources().map_err(|err| errno(&err))?;
    for &plane in &resources.planes {
        // A master who does not know of rotations would show its pictures so.
        let upright = ("rotation", Rotation::NORMAL.bits());
        set(Object::Plane(plane), &[("FB_ID", 0), ("CRTC_ID", 0), upright])?;
    }
    for &connector in &resources.connectors {
        set(Object::Connector(connector), &[("CRTC_ID", 0)])?;
    }
    for &crtc in &resources.crtcs {
        // Nor of a background that is not black.
        let black = ("BACKGROUND_COLOR", argb64([0; 3]));
        set(Object::Crtc(crtc), &[("MODE_ID", 0), ("ACTIVE", 0), ("VRR_ENABLED", 0), black])?;
    }
    device.commit(AtomicCommitFlags::ALLOW_MODESET, &mut request)
}

/// Opaque ARGB16161616 of red, green and blue, as the kernel has colours in properties (DRM_ARGB64_PREP, drm_mode.h).
pub(super) fn argb64([red, green, blue]: [u16; 3]) -> u64 {
    [u16::MAX, red, green, blue].into_iter().fold(0, |value, channel| value << 16 | u64::from(channel))
}

/// The properties of one object, by name.
#[derive(Debug)]
pub struct Properties {
    by_name: HashMap<String, Property>,
}

impl Properties {
    /// Reads them.
    ///
    /// # Errors
    /// When the object is gone.
    pub fn read(device: &dyn KmsDevice, object: Object) -> Result<Self, CardError> {
        let all = device.properties(object).map_err(CardError::io("reading properties"))?;
        Ok(Self { by_name: all.into_iter().map(|p| (p.name.clone(), p)).collect() })
    }

    /// A property's id.
    pub fn id(&self, name: &str) -> Option<property::Handle> {
        self.by_name.get(name).map(|p| p.id)
    }

    /// A property's value when the object was read.
    pub fn value(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).map(|p| p.value)
    }

    /// A property's id.
    ///
    /// # Errors
    /// When the object lacks it.
    pub fn require(&self, name: &'static str) -> Result<property::Handle, CardError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.id(name).ok_or_else(|| CardError::Io { what: name, source: missing() })
    }

    /// The bounds of a number that can be set.
    pub fn range(&self, name: &str) -> Option<(i64, i64)> {
        let property = self.by_name.get(name).filter(|p| !p.immutable)?;
        match property.kind {
            PropertyKind::Range(min, max) => {
                Some((i64::try_from(min).ok()?, i64::try_from(max).unwrap_or(i64::MAX)))
            }
            PropertyKind::SignedRange(min, max) => Some((min, max)),
            _ => None,
        }
    }

    /// The value (enum) or bit number (bitmask) of a named choice of a property.
    pub fn choice(&self, property: &str, name: &str) -> Option<u64> {
        match &self.by_name.get(property)?.kind {
            PropertyKind::Enum(values) | PropertyKind::Bitmask(values) => {
                values.iter().find(|(_, known)| known == name).map(|(value, _)| *value)
            }
            _ => None,
        }
    }

    /// The contents of a blob property.
    pub fn blob(&self, device: &dyn KmsDevice, name: &str) -> Option<Vec<u8>> {
        device.blob(self.value(name)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_laid_out_as_the_kernel_has_it() {
        let mode = Mode {
            clock: 65_000,
            horizontal: [1024, 1048, 1184, 1344, 0],
            vertical: [768, 771, 777, 806, 0],
            vrefresh: 60,
            flags: 0xa,
            kind: 0x48,
            name: *b"1024x768\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let bytes = mode.bytes();
        assert_eq!(bytes.len(), 68, "sizeof(struct drm_mode_modeinfo)");
        assert_eq!(bytes[..6], [0xe8, 0xfd, 0, 0, 0, 4]);
        assert_eq!(bytes[36..45], *b"1024x768\0");
        assert!(mode.is_preferred());
        assert_eq!((mode.size(), mode.refresh_interval().as_micros()), ((1024, 768), 16_665));
    }
}
