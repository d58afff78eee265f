//! The kernel's display device: the node that the session opened.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use drm::control::{AtomicCommitFlags, Device as ControlDevice, connector, from_u32, plane};
use drm::{ClientCapability, Device as BasicDevice, DriverCapability};
use drm_ffi as ffi;
use rustix::io::Errno;

use super::{
    ConnectorInfo, FlipEvent, KmsDevice, Mode, Object, PlaneInfo, Property, PropertyKind, Request, Resources,
    check,
};

/// Flags of a property (drm_mode.h).
const RANGE: u32 = 1 << 1;
const IMMUTABLE: u32 = 1 << 2;
const ENUM: u32 = 1 << 3;
const BLOB: u32 = 1 << 4;
const BITMASK: u32 = 1 << 5;
const EXTENDED: u32 = 0xffc0;
const OBJECT: u32 = 1 << 6;
const SIGNED_RANGE: u32 = 2 << 6;
/// `DRM_MODE_CONNECTED`.
const CONNECTED: u32 = 1;

/// An open card.
#[derive(Debug)]
pub struct Card {
    fd: OwnedFd,
    /// Properties that were asked for, by id: only their values change, and objects share them.
    properties: RefCell<HashMap<u32, Kind>>,
}

/// What a property is, whoever has it.
#[derive(Clone, Debug)]
struct Kind {
    name: String,
    immutable: bool,
    kind: PropertyKind,
}

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
impl BasicDevice for Card {}
impl ControlDevice for Card {}

impl Card {
    /// A node that is looked at and not driven: its file need not be master.
    pub fn beside(fd: OwnedFd) -> Self {
        Self { fd, properties: RefCell::default() }
    }

    /// What a property is.
    fn kind(&self, id: u32) -> io::Result<Kind> {
        if let Some(known) = self.properties.borrow().get(&id) {
            return Ok(known.clone());
        }
        let (mut bounds, mut enums) = (Vec::new(), Vec::new());
        let info = ffi::mode::get_property(self.as_fd(), id, Some(&mut bounds), Some(&mut enums))?;
        let (name, immutable) = (text(&info.name), info.flags & IMMUTABLE != 0);
        let kind = Kind { name, immutable, kind: kind_of(info.flags, &bounds, &enums) };
        self.properties.borrow_mut().insert(id, kind.clone());
        Ok(kind)
    }

    /// Takes a node that the session opened.
    ///
    /// # Errors
    /// When it has no outputs, no atomic commits, or another master; the descriptor comes back for the session.
    pub fn open(fd: OwnedFd) -> Result<Rc<Self>, (OwnedFd, super::CardError)> {
        let card = Self::beside(fd);
        match check(&card) {
            Ok(()) => Ok(Rc::new(card)),
            Err(err) => Err((card.fd, err)),
        }
    }

    /// The descriptor, for the session.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Takes a node to look at: that another program is its master is no obstacle.
    ///
    /// # Errors
    /// When it has no outputs, or no atomic commits.
    pub fn look_at(fd: OwnedFd) -> Result<Rc<Self>, super::CardError> {
        let card = Self::beside(fd);
        match check(&card) {
            Ok(()) | Err(super::CardError::NotMaster) => Ok(Rc::new(card)),
            Err(err) => Err(err),
        }
    }
}

fn handles<T: From<drm::control::RawResourceHandle>>(ids: Vec<u32>) -> Vec<T> {
    ids.into_iter().filter_map(from_u32).collect()
}

fn text(name: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn mode(info: &ffi::drm_mode_modeinfo) -> Mode {
    Mode {
        clock: info.clock,
        horizontal: [info.hdisplay, info.hsync_start, info.hsync_end, info.htotal, info.hskew],
        vertical: [info.vdisplay, info.vsync_start, info.vsync_end, info.vtotal, info.vscan],
        vrefresh: info.vrefresh,
        flags: info.flags,
        kind: info.type_,
        name: info.name.map(|c| c as u8),
    }
}

impl KmsDevice for Card {
    fn driver(&self) -> String {
        self.get_driver().map(|d| d.name().to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    /// AUTH_MAGIC of the impossible magic 0 is EACCES without mastership and EINVAL with it (drm_auth.c).
    fn is_master(&self) -> bool {
        ffi::auth::auth_magic_token(self.as_fd(), 0)
            .is_err_and(|err| err.raw_os_error() == Some(Errno::INVAL.raw_os_error()))
    }

    fn set_client_capability(&self, capability: ClientCapability, enable: bool) -> io::Result<()> {
        BasicDevice::set_client_capability(self, capability, enable)
    }

    fn capability(&self, capability: DriverCapability) -> io::Result<u64> {
        self.get_driver_capability(capability)
    }

    fn resources(&self) -> io::Result<Resources> {
        let (mut crtcs, mut connectors, mut planes) = (Vec::new(), Vec::new(), Vec::new());
        ffi::mode::get_resources(self.as_fd(), None, Some(&mut crtcs), Some(&mut connectors), None)?;
        // Fails on a device without the client capability for universal planes as little as on any.
        ffi::mode::get_plane_resources(self.as_fd(), Some(&mut planes))?;
        Ok(Resources { crtcs: handles(crtcs), connectors: handles(connectors), planes: handles(planes) })
    }

    fn connector(&self, connector: connector::Handle, probe: bool) -> io::Result<ConnectorInfo> {
        let (mut modes, mut encoders) = (Vec::new(), Vec::new());
        let info = ffi::mode::get_connector(
            self.as_fd(),
            connector.into(),
            None,
            None,
            Some(&mut modes),
            Some(&mut encoders),
            probe,
        )?;
        let crtcs = encoders.into_iter().filter_map(|e| ffi::mode::get_encoder(self.as_fd(), e).ok());
        Ok(ConnectorInfo {
            handle: connector,
            interface: info.connector_type.into(),
            interface_id: info.connector_type_id,
            connected: info.connection == CONNECTED,
            size_mm: (info.mm_width > 0 && info.mm_height > 0).then_some((info.mm_width, info.mm_height)),
            crtcs: crtcs.fold(0, |mask, encoder| mask | encoder.possible_crtcs),
            modes: modes.iter().map(mode).collect(),
        })
    }

    fn plane(&self, plane: plane::Handle) -> io::Result<PlaneInfo> {
        let mut formats = Vec::new();
        let info = ffi::mode::get_plane(self.as_fd(), plane.into(), Some(&mut formats))?;
        Ok(PlaneInfo { crtcs: info.possible_crtcs, formats })
    }

    fn properties(&self, object: Object) -> io::Result<Vec<Property>> {
        let kind = match object {
            Object::Connector(_) => ffi::DRM_MODE_OBJECT_CONNECTOR,
            Object::Crtc(_) => ffi::DRM_MODE_OBJECT_CRTC,
            Object::Plane(_) => ffi::DRM_MODE_OBJECT_PLANE,
        };
        let (mut ids, mut values) = (Vec::new(), Vec::new());
        ffi::mode::get_properties(self.as_fd(), object.id().get(), kind, Some(&mut ids), Some(&mut values))?;
        let all = ids.into_iter().zip(values);
        all.filter_map(|(id, value)| Some((from_u32(id)?, id, value)))
            .map(|(handle, id, value)| {
                let Kind { name, immutable, kind } = self.kind(id)?;
                Ok(Property { id: handle, name, value, immutable, kind })
            })
            .collect()
    }

    fn blob(&self, id: u64) -> io::Result<Vec<u8>> {
        self.get_property_blob(id)
    }

    fn create_blob(&self, contents: &[u8]) -> io::Result<u64> {
        let mut contents = contents.to_vec();
        ffi::mode::create_property_blob(self.as_fd(), &mut contents).map(|blob| blob.blob_id.into())
    }

    fn destroy_blob(&self, id: u64) -> io::Result<()> {
        self.destroy_property_blob(id)
    }

    fn commit(&self, flags: AtomicCommitFlags, request: &mut Request) -> Result<(), Errno> {
        super::atomic::commit(self.as_fd(), flags, request)
    }

    fn elsewhere(&self) -> Option<Box<dyn KmsDevice + Send>> {
        let fd =
            self.fd.try_clone().inspect_err(|err| tracing::warn!(%err, "no descriptor for a thread")).ok()?;
        Some(Box::new(Self::beside(fd)))
    }

    fn read_events(&self, flips: &mut Vec<FlipEvent>) -> io::Result<()> {
        super::atomic::read_events(self.as_fd(), flips)
    }
}

fn kind_of(flags: u32, bounds: &[u64], enums: &[ffi::drm_mode_property_enum]) -> PropertyKind {
    let choices = || enums.iter().map(|e| (e.value, text(&e.name))).collect();
    match (flags & EXTENDED, bounds) {
        (OBJECT, _) => PropertyKind::Object,
        (SIGNED_RANGE, &[min, max]) => PropertyKind::SignedRange(min as i64, max as i64),
        (0, &[min, max]) if flags & RANGE != 0 => PropertyKind::Range(min, max),
        (0, _) if flags & ENUM != 0 => PropertyKind::Enum(choices()),
        (0, _) if flags & BITMASK != 0 => PropertyKind::Bitmask(choices()),
        (0, _) if flags & BLOB != 0 => PropertyKind::Blob,
        _ => PropertyKind::Other,
    }
}
