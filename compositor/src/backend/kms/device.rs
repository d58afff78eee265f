//! The card: an open device node, its capabilities, and the properties of its objects.
//!
//! It owns the file description that is master. GEM handles never live on it ([`crate::backend::buffers`] has a file of its
//! own), and no object of it is dropped behind our back: there is no state capture and no restore.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drm::control::atomic::AtomicModeReq;
use drm::control::{
    AtomicCommitFlags, Device as ControlDevice, RawResourceHandle, ResourceHandle, connector, crtc, property,
};
use drm::{ClientCapability, Device as BasicDevice};
use drm_prime::scanout::Rotation;
use rustix::io::Errno;

/// An open card. Clones share the file description.
#[derive(Clone, Debug)]
pub struct Card(Arc<OwnedFd>);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl BasicDevice for Card {}
impl ControlDevice for Card {}

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
        source: std::io::Error,
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
        source: std::io::Error,
    },
}

impl CardError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

impl Card {
    /// Takes a node that the session opened.
    ///
    /// # Errors
    /// When it has no outputs, no atomic commits, or another master; the descriptor comes back for the session.
    pub fn new(fd: OwnedFd) -> Result<Self, (Option<OwnedFd>, CardError)> {
        let card = Self(Arc::new(fd));
        match card.check() {
            Ok(()) => Ok(card),
            Err(err) => Err((Arc::into_inner(card.0), err)),
        }
    }

    fn check(&self) -> Result<(), CardError> {
        let resources = self.resource_handles().map_err(|_| CardError::NoOutputs)?;
        if resources.crtcs().is_empty() || resources.connectors().is_empty() {
            return Err(CardError::NoOutputs);
        }
        for capability in [ClientCapability::UniversalPlanes, ClientCapability::Atomic] {
            self.set_client_capability(capability, true)
                .map_err(|source| CardError::NoAtomic { driver: self.driver(), source })?;
        }
        if !self.is_master() {
            return Err(CardError::NotMaster);
        }
        Ok(())
    }

    /// The driver's name; empty if it cannot be read.
    pub fn driver(&self) -> String {
        self.get_driver().map(|d| d.name().to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Tells whether this file description is master: AUTH_MAGIC of the impossible magic 0 is EACCES without
    /// mastership and EINVAL with it (drm_auth.c).
    pub fn is_master(&self) -> bool {
        drm_ffi::auth::auth_magic_token(self.as_fd(), 0)
            .is_err_and(|err| err.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()))
    }

    /// Makes writeback connectors visible.
    ///
    /// # Errors
    /// When the driver knows none.
    pub fn enable_writeback(&self) -> Result<(), CardError> {
        self.set_client_capability(ClientCapability::WritebackConnectors, true)
            .map_err(CardError::io("writeback connectors are not supported"))
    }

    /// The connectors that a CRTC feeds now, writeback connectors included, each with its CRTC_ID property.
    pub fn connectors_on(&self, crtc: crtc::Handle) -> Vec<(RawResourceHandle, property::Handle)> {
        let Ok(resources) = self.resource_handles() else { return Vec::new() };
        let on = |connector: &connector::Handle| {
            let properties = self.properties(*connector).ok()?;
            let feeds = properties.value("CRTC_ID") == Some(u64::from(u32::from(crtc)));
            Some(((*connector).into(), properties.id("CRTC_ID").filter(|_| feeds)?))
        };
        resources.connectors().iter().filter_map(on).collect()
    }

    /// Turns every plane, CRTC and connector off in one commit.
    ///
    /// # Errors
    /// The commit's errno.
    pub fn turn_everything_off(&self) -> Result<(), Errno> {
        let failed = |err: std::io::Error| Errno::from_io_error(&err).unwrap_or(Errno::IO);
        let mut req = AtomicModeReq::new();
        let mut set = |object: RawResourceHandle, properties: &Properties, names: &[&str], value: u64| {
            for id in names.iter().filter_map(|name| properties.id(name)) {
                req.add_raw_property(object, id, value);
            }
        };
        let read = |_: CardError| Errno::IO;
        for plane in self.plane_handles().map_err(failed)? {
            let properties = self.properties(plane).map_err(read)?;
            set(plane.into(), &properties, &["FB_ID", "CRTC_ID"], 0);
            // A master who does not know of rotations would show its pictures so.
            set(plane.into(), &properties, &["rotation"], Rotation::NORMAL.bits());
        }
        let resources = self.resource_handles().map_err(failed)?;
        for &connector in resources.connectors() {
            set(connector.into(), &self.properties(connector).map_err(read)?, &["CRTC_ID"], 0);
        }
        for &crtc in resources.crtcs() {
            set(crtc.into(), &self.properties(crtc).map_err(read)?, &["MODE_ID", "ACTIVE"], 0);
        }
        self.atomic_commit(AtomicCommitFlags::ALLOW_MODESET, req).map_err(failed)
    }

    /// The properties of an object, by name.
    ///
    /// # Errors
    /// When the object is gone.
    pub fn properties<H: ResourceHandle>(&self, handle: H) -> Result<Properties, CardError> {
        let set = self.get_properties(handle).map_err(CardError::io("reading properties"))?;
        let mut by_name = HashMap::new();
        for (&id, &value) in set.iter() {
            let info = self.get_property(id).map_err(CardError::io("reading a property"))?;
            by_name.insert(info.name().to_string_lossy().into_owned(), (id, value));
        }
        Ok(Properties { card: self.clone(), by_name })
    }
}

/// The properties of one object.
#[derive(Debug)]
pub struct Properties {
    card: Card,
    by_name: HashMap<String, (property::Handle, u64)>,
}

impl Properties {
    /// A property's id.
    pub fn id(&self, name: &str) -> Option<property::Handle> {
        self.by_name.get(name).map(|p| p.0)
    }

    /// A property's value when the object was read.
    pub fn value(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).map(|p| p.1)
    }

    /// A property's id.
    ///
    /// # Errors
    /// When the object lacks it.
    pub fn require(&self, name: &'static str) -> Result<property::Handle, CardError> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        self.id(name).ok_or_else(|| CardError::Io { what: name, source: missing() })
    }

    /// The bounds of a number that can be set.
    pub fn range(&self, name: &str) -> Option<(i64, i64)> {
        let info = self.card.get_property(self.id(name)?).ok().filter(property::Info::mutable)?;
        match info.value_type() {
            property::ValueType::UnsignedRange(min, max) => {
                Some((i64::try_from(min).ok()?, i64::try_from(max).unwrap_or(i64::MAX)))
            }
            property::ValueType::SignedRange(min, max) => Some((min, max)),
            _ => None,
        }
    }

    /// The value (enum) or bit number (bitmask) of a named choice of a property.
    pub fn choice(&self, property: &str, name: &str) -> Option<u64> {
        let (id, _) = self.by_name.get(property)?;
        let mut enums = Vec::new();
        drm_ffi::mode::get_property(
            self.card.as_fd(),
            u32::from(*id),
            Some(&mut Vec::new()),
            Some(&mut enums),
        )
        .ok()?;
        enums.iter().find_map(|e| {
            let bytes: Vec<u8> = e.name.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
            (bytes == name.as_bytes()).then_some(e.value)
        })
    }

    /// The contents of a blob property.
    pub fn blob(&self, name: &str) -> Option<Vec<u8>> {
        self.card.get_property_blob(self.value(name)?).ok()
    }
}
