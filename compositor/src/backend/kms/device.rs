//! The card: an open device node, its capabilities, and the properties of its objects.
//!
//! It owns the file description that is master. GEM handles never live on it ([`crate::backend::buffers`] has a file of its
//! own), and no object of it is dropped behind our back: there is no state capture and no restore.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drm::control::atomic::AtomicModeReq;
use drm::control::{
    AtomicCommitFlags, Device as ControlDevice, PlaneType as KmsPlaneType, RawResourceHandle, ResourceHandle,
    connector, crtc, plane, property,
};
use drm::{ClientCapability, Device as BasicDevice};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::scanout::{PlaneCaps, PlaneType};
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
            set(plane.into(), &properties, &["rotation"], ROTATE_0);
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

/// Bits of the `rotation` property (drm_mode.h).
pub(super) const ROTATE_0: u64 = 1;
pub(super) const REFLECT_Y: u64 = 1 << 5;

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

/// A plane's property ids.
#[derive(Debug)]
pub struct PlaneProps {
    pub(super) fb: property::Handle,
    pub(super) crtc: property::Handle,
    pub(super) src: [property::Handle; 4],
    pub(super) dst: [property::Handle; 4],
    pub(super) in_fence: Option<property::Handle>,
    pub(super) rotation: Option<property::Handle>,
    pub(super) encoding: Option<(property::Handle, u64)>,
    pub(super) range: Option<(property::Handle, u64)>,
}

/// A plane as the backend drives it.
#[derive(Debug)]
pub struct KmsPlane {
    pub(super) handle: plane::Handle,
    pub(super) props: PlaneProps,
}

impl KmsPlane {
    /// Turns it off, and upright again for a master who does not know of rotations.
    pub(super) fn turn_off(&self, req: &mut AtomicModeReq) {
        let plane = self.handle.into();
        req.add_raw_property(plane, self.props.fb, 0);
        req.add_raw_property(plane, self.props.crtc, 0);
        if let Some(rotation) = self.props.rotation {
            req.add_raw_property(plane, rotation, ROTATE_0);
        }
    }
}

/// Reads the planes that the CRTC numbered `crtc_index` can use.
///
/// # Errors
/// When a plane lacks the properties of atomic commits.
pub fn read_planes(
    card: &Card,
    crtc: drm::control::crtc::Handle,
) -> Result<(Vec<KmsPlane>, Vec<PlaneCaps>), CardError> {
    let resources = card.resource_handles().map_err(CardError::io("reading resources"))?;
    let driver = card.driver();
    let mut planes = Vec::new();
    let mut caps = Vec::new();
    let handles = card.plane_handles().map_err(CardError::io("reading planes"))?;
    for (index, handle) in handles.into_iter().enumerate() {
        let info = card.get_plane(handle).map_err(CardError::io("reading a plane"))?;
        if !resources.filter_crtcs(info.possible_crtcs()).contains(&crtc) {
            continue;
        }
        let props = card.properties(handle)?;
        let kind = match props.value("type") {
            Some(v) if v == KmsPlaneType::Primary as u64 => PlaneType::Primary,
            Some(v) if v == KmsPlaneType::Cursor as u64 => PlaneType::Cursor,
            _ => PlaneType::Overlay,
        };
        let formats = match props.blob("IN_FORMATS") {
            Some(blob) => parse_in_formats(&blob),
            None => info
                .formats()
                .iter()
                .filter_map(|f| Some((DrmFourcc::try_from(*f).ok()?, DrmModifier::Linear)))
                .collect(),
        };
        let stack = stack_position(&driver, index, props.value("zpos"));
        caps.push(PlaneCaps {
            id: NonZeroU32::from(handle),
            kind,
            formats,
            stack,
            reflect_y: props.choice("rotation", "reflect-y").is_some(),
        });
        let (encoding, range) = ("COLOR_ENCODING", "COLOR_RANGE");
        planes.push(KmsPlane {
            handle,
            props: PlaneProps {
                fb: props.require("FB_ID")?,
                crtc: props.require("CRTC_ID")?,
                src: [
                    props.require("SRC_X")?,
                    props.require("SRC_Y")?,
                    props.require("SRC_W")?,
                    props.require("SRC_H")?,
                ],
                dst: [
                    props.require("CRTC_X")?,
                    props.require("CRTC_Y")?,
                    props.require("CRTC_W")?,
                    props.require("CRTC_H")?,
                ],
                in_fence: props.id("IN_FENCE_FD"),
                rotation: props.id("rotation"),
                encoding: props.id(encoding).zip(props.choice(encoding, "ITU-R BT.601 YCbCr")),
                range: props.id(range).zip(props.choice(range, "YCbCr limited range")),
            },
        });
    }
    Ok((planes, caps))
}

/// A plane's place in the blending order: its zpos, or what is known of the driver. vkms has no zpos and blends by
/// plane index (vkms_crtc.c walks the plane mask), which is the order of creation.
fn stack_position(driver: &str, index: usize, zpos: Option<u64>) -> Option<i64> {
    match (zpos, driver) {
        (Some(zpos), _) => i64::try_from(zpos).ok(),
        (None, "vkms") => i64::try_from(index).ok(),
        (None, _) => None,
    }
}

/// Parses the blob of IN_FORMATS (`struct drm_format_modifier_blob`, drm_mode.h); formats that the fourcc table does
/// not know and entries outside the blob are left out.
fn parse_in_formats(blob: &[u8]) -> HashSet<(DrmFourcc, DrmModifier)> {
    let u32_at =
        |at: usize| blob.get(at..at.checked_add(4)?).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let u64_at =
        |at: usize| blob.get(at..at.checked_add(8)?).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    let header = || -> Option<[usize; 4]> {
        Some([u32_at(8)? as usize, u32_at(12)? as usize, u32_at(16)? as usize, u32_at(20)? as usize])
    };
    let Some([count, formats_at, modifiers, modifiers_at]) = header() else { return HashSet::new() };
    let mut pairs = HashSet::new();
    for entry in 0..modifiers.min(blob.len()) {
        let at = modifiers_at + entry * 24;
        let (Some(mask), Some(offset), Some(modifier)) = (u64_at(at), u32_at(at + 8), u64_at(at + 16)) else {
            break;
        };
        for bit in (0..64).filter(|bit| mask & (1 << bit) != 0) {
            let index = offset as usize + bit;
            let format = (index < count).then(|| u32_at(formats_at + index * 4)).flatten();
            if let Some(format) = format.and_then(|f| DrmFourcc::try_from(f).ok()) {
                pairs.insert((format, DrmModifier::from(modifier)));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(formats: &[u32], modifiers: &[(u64, u32, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        let modifiers_at = 24 + formats.len() as u32 * 4;
        for word in [1, 0, formats.len() as u32, 24, modifiers.len() as u32, modifiers_at] {
            out.extend(word.to_ne_bytes());
        }
        formats.iter().for_each(|f| out.extend(f.to_ne_bytes()));
        for (mask, offset, modifier) in modifiers {
            out.extend(mask.to_ne_bytes());
            out.extend(offset.to_ne_bytes());
            out.extend(0u32.to_ne_bytes());
            out.extend(modifier.to_ne_bytes());
        }
        out
    }

    #[test]
    fn in_formats_pairs_come_from_the_mask_and_its_offset() {
        let formats = [DrmFourcc::Xrgb8888 as u32, DrmFourcc::Nv12 as u32, DrmFourcc::P010 as u32];
        let pairs = parse_in_formats(&blob(&formats, &[(0b11, 1, 0), (0b1, 0, 0x0100_0000_0000_0001)]));
        let expected = [
            (DrmFourcc::Nv12, DrmModifier::Linear),
            (DrmFourcc::P010, DrmModifier::Linear),
            (DrmFourcc::Xrgb8888, DrmModifier::from(0x0100_0000_0000_0001)),
        ];
        assert_eq!(pairs, expected.into());
    }

    #[test]
    fn a_truncated_in_formats_blob_gives_what_it_holds() {
        let whole = blob(&[DrmFourcc::Xrgb8888 as u32], &[(1, 0, 0)]);
        for len in 0..whole.len() {
            assert!(parse_in_formats(&whole[..len]).is_empty());
        }
        assert_eq!(parse_in_formats(&whole).len(), 1);
    }

    #[test]
    fn the_stack_is_zpos_or_a_known_driver_or_unknown() {
        assert_eq!(stack_position("i915", 0, Some(7)), Some(7));
        assert_eq!(stack_position("vkms", 2, None), Some(2));
        assert_eq!(stack_position("other", 2, None), None);
    }
}
