//! Capability files: what a display device can do, in a file that people can read and write.
//!
//! It owns the format, reading it with errors that name the place, and writing the file of a device that is there. What a
//! device of such a file answers is [`super::model`]'s.
//!
//! # Format
//!
//! JSON. What every atomic driver has is not in it: the properties that place a plane, a CRTC's mode, a connector's CRTC
//! (their names are in [`STANDARD`]); nor what a connector tells of the display on it.
//!
//! | member | meaning |
//! |---|---|
//! | `version` | 1 |
//! | `driver` | as `DRM_IOCTL_VERSION` names it |
//! | `source` | where the facts come from |
//! | `capabilities` | `DRM_CAP_*` that matter to planes, by name: `ATOMIC_ASYNC_PAGE_FLIP`, `CURSOR_WIDTH`, `CURSOR_HEIGHT` |
//! | `client_capabilities` | those besides universal planes and atomic: `WRITEBACK_CONNECTORS`, `CURSOR_PLANE_HOTSPOT` |
//! | `crtcs` | of each its `properties`, and by `planes_at_once`, `scaled_planes` and `needs_primary` what it refuses |
//! | `connectors` | `kind` and `number` as in `HDMI-A-1`, `crtcs` as a mask, `modes` as `WIDTHxHEIGHT@HZ` (none: not connected), `properties` |
//! | `planes` | `kind`, `crtcs` as a mask, `formats`: each modifier with fourccs, `size_hints`, `properties`, and what it refuses: `scaling` as the bounds of source by destination in 16.16 (none: it does not scale), `covers_part` of a primary plane, `async_flips` |
//! | a property | `value`, `immutable`, and one of `range`, `signed_range`, `enum`, `bitmask`, `blob` |

use std::collections::BTreeMap;
use std::io;

use drm::ClientCapability;
use drm::DriverCapability;
use drm::control::connector::Interface;
use serde::{Deserialize, Serialize};

use super::{KmsDevice, Object, Property, PropertyKind};

/// The version that is read and written.
pub const VERSION: u32 = 1;
/// Longest file that is read.
const LARGEST: usize = 4 << 20;
/// Most objects of a kind.
const MOST: usize = 32;

/// Properties that are not in the file: of planes, CRTCs and connectors.
pub const STANDARD: [&[&str]; 3] = [
    &[
        "type",
        "FB_ID",
        "IN_FENCE_FD",
        "CRTC_ID",
        "CRTC_X",
        "CRTC_Y",
        "CRTC_W",
        "CRTC_H",
        "SRC_X",
        "SRC_Y",
        "SRC_W",
        "SRC_H",
        "IN_FORMATS",
        "SIZE_HINTS",
    ],
    &["ACTIVE", "MODE_ID", "OUT_FENCE_PTR", "VRR_ENABLED"],
    &["CRTC_ID", "DPMS", "EDID", "TILE", "link-status", "non-desktop"],
];

/// Why a file is no capability file.
#[derive(Debug, thiserror::Error)]
pub enum CapabilitiesError {
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[from] io::Error),
    /// It is longer than any such file.
    #[error("is longer than {LARGEST} bytes")]
    TooLong,
    /// It is not what the format says; the text has line and column.
    #[error("is no capability file: {0}")]
    Format(#[source] serde_json::Error),
    /// It is of another version.
    #[error("has version {0}, and this primeway reads version {VERSION}")]
    Version(u32),
    /// Something in it cannot be.
    #[error("{what}: {value:?} {why}")]
    Value {
        /// Where.
        what: &'static str,
        /// What is there.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the table above")]
pub struct Capabilities {
    pub version: u32,
    pub driver: String,
    pub source: String,
    #[serde(default)]
    pub capabilities: BTreeMap<String, u64>,
    #[serde(default)]
    pub client_capabilities: Vec<String>,
    pub crtcs: Vec<CrtcFile>,
    pub connectors: Vec<ConnectorFile>,
    pub planes: Vec<PlaneFile>,
}

/// A CRTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the table above")]
pub struct CrtcFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planes_at_once: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled_planes: Option<usize>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub needs_primary: bool,
    #[serde(default)]
    pub properties: BTreeMap<String, PropertyFile>,
}

/// A connector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the table above")]
pub struct ConnectorFile {
    pub kind: String,
    pub number: u32,
    pub crtcs: u32,
    #[serde(default)]
    pub modes: Vec<String>,
    #[serde(default)]
    pub properties: BTreeMap<String, PropertyFile>,
}

/// A plane's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the property's own names")]
pub enum PlaneKind {
    Overlay,
    Primary,
    Cursor,
}

/// A plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the table above")]
pub struct PlaneFile {
    pub kind: PlaneKind,
    pub crtcs: u32,
    /// By modifier, `0x…`.
    pub formats: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub size_hints: Vec<(u16, u16)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub covers_part: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub async_flips: bool,
    #[serde(default)]
    pub properties: BTreeMap<String, PropertyFile>,
}

/// A property.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the table above")]
pub struct PropertyFile {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub value: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub immutable: bool,
    #[serde(flatten)]
    pub kind: KindFile,
}

/// What values a property takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the table above")]
pub enum KindFile {
    Range(u64, u64),
    SignedRange(i64, i64),
    Enum(BTreeMap<String, u64>),
    Bitmask(BTreeMap<String, u64>),
    Blob(Vec<u8>),
    Object(()),
}

impl KindFile {
    pub(super) fn kind(&self) -> PropertyKind {
        let choices = |names: &BTreeMap<String, u64>| {
            let mut all: Vec<_> = names.iter().map(|(name, value)| (*value, name.clone())).collect();
            all.sort_unstable();
            all
        };
        match self {
            Self::Range(min, max) => PropertyKind::Range(*min, *max),
            Self::SignedRange(min, max) => PropertyKind::SignedRange(*min, *max),
            Self::Enum(names) => PropertyKind::Enum(choices(names)),
            Self::Bitmask(names) => PropertyKind::Bitmask(choices(names)),
            Self::Blob(_) => PropertyKind::Blob,
            Self::Object(()) => PropertyKind::Object,
        }
    }
}

impl Capabilities {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn load(path: &std::path::Path) -> Result<Self, CapabilitiesError> {
        use std::io::Read as _;
        let mut text = Vec::new();
        std::fs::File::open(path)?.take(LARGEST as u64 + 1).read_to_end(&mut text)?;
        Self::parse(&text)
    }

    /// Reads the contents of a file.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub fn parse(text: &[u8]) -> Result<Self, CapabilitiesError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if text.len() > LARGEST {
            return Err(CapabilitiesError::TooLong);
        }
        // Another version may have other members.
        let Versioned { version } = serde_json::from_slice(text).map_err(CapabilitiesError::Format)?;
        if version != VERSION {
            return Err(CapabilitiesError::Version(version));
        }
        let capabilities: Self = serde_json::from_slice(text).map_err(CapabilitiesError::Format)?;
        capabilities.check()?;
        Ok(capabilities)
    }

    fn check(&self) -> Result<(), CapabilitiesError> {
        let wrong = |what, value: &dyn ToString, why| {
            Err(CapabilitiesError::Value { what, value: value.to_string(), why })
        };
        for (what, count) in [
            ("crtcs", self.crtcs.len()),
            ("connectors", self.connectors.len()),
            ("planes", self.planes.len()),
        ] {
            if count == 0 || count > MOST * 2 || (what == "crtcs" && count > MOST) {
                return wrong(what, &count, "of them");
            }
        }
        let masks = self.planes.iter().map(|p| p.crtcs).chain(self.connectors.iter().map(|c| c.crtcs));
        for mask in masks {
            if mask == 0 || u64::from(mask) >> self.crtcs.len() != 0 {
                return wrong("a mask of CRTCs", &mask, "names none, or one that is not there");
            }
        }
        for connector in &self.connectors {
            if interface(&connector.kind).is_none() {
                return wrong("kind", &connector.kind, "is no connector");
            }
            for mode in &connector.modes {
                if parse_mode(mode).is_none() {
                    return wrong("a mode", mode, "is not WIDTHxHEIGHT@HZ");
                }
            }
        }
        for plane in &self.planes {
            if plane.scaling.is_some_and(|(min, max)| min == 0 || min > max) {
                return wrong("scaling", &format!("{:?}", plane.scaling), "are no bounds");
            }
            for (modifier, formats) in &plane.formats {
                if parse_modifier(modifier).is_none() {
                    return wrong("a modifier", modifier, "is not 0x…");
                }
                for format in formats {
                    if fourcc(format).is_none() {
                        return wrong("a format", format, "is not four letters of ASCII");
                    }
                }
            }
        }
        Ok(())
    }

    /// The same without what a device does not tell: the source, and the rules of what it refuses.
    #[must_use]
    pub fn without_rules(mut self) -> Self {
        self.source.clear();
        for crtc in &mut self.crtcs {
            (crtc.planes_at_once, crtc.scaled_planes, crtc.needs_primary) = (None, None, false);
        }
        for plane in &mut self.planes {
            (plane.scaling, plane.covers_part, plane.async_flips) = (None, false, false);
        }
        self
    }

    /// The file of a device that is there. The rules of what it refuses are not known and left out.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn of(device: &dyn KmsDevice, source: &str) -> io::Result<Self> {
        let number = |capability| device.capability(capability).unwrap_or(0);
        let capabilities = [
            ("ATOMIC_ASYNC_PAGE_FLIP", DriverCapability::AtomicASyncPageFlip),
            ("CURSOR_HEIGHT", DriverCapability::CursorHeight),
            ("CURSOR_WIDTH", DriverCapability::CursorWidth),
        ];
        let clients = [
            ("CURSOR_PLANE_HOTSPOT", ClientCapability::CursorPlaneHotspot),
            ("WRITEBACK_CONNECTORS", ClientCapability::WritebackConnectors),
        ];
        // Only what is not STANDARD.
        let rest = |object: Object| -> io::Result<_> {
            let standard = match object {
                Object::Plane(_) => STANDARD[0],
                Object::Crtc(_) => STANDARD[1],
                Object::Connector(_) => STANDARD[2],
            };
            let all = device.properties(object)?.into_iter();
            let own = all.filter(|p| !standard.contains(&p.name.as_str()));
            Ok(own.filter_map(|p| Some((p.name.clone(), property_file(device, &p)?))).collect())
        };
        let knows = |capability| device.set_client_capability(capability, true).is_ok();
        let client_capabilities: Vec<String> =
            clients.into_iter().filter(|(_, c)| knows(*c)).map(|(name, _)| name.into()).collect();
        // Only now all connectors are to be seen.
        let resources = device.resources()?;
        let crtcs: io::Result<Vec<_>> = resources
            .crtcs
            .iter()
            .map(|crtc| Ok(CrtcFile { properties: rest(Object::Crtc(*crtc))?, ..CrtcFile::default() }))
            .collect();
        let connector = |handle| -> io::Result<ConnectorFile> {
            let info = device.connector(handle, true)?;
            let name = |m: &super::Mode| format!("{}x{}@{}", m.size().0, m.size().1, m.vrefresh);
            let mut modes: Vec<String> = Vec::new();
            let preferred = info.modes.iter().filter(|m| m.is_preferred()).chain(&info.modes);
            for mode in preferred.filter(|_| info.connected).map(name) {
                if !modes.contains(&mode) {
                    modes.push(mode);
                }
            }
            Ok(ConnectorFile {
                kind: info.interface.as_str().into(),
                number: info.interface_id,
                crtcs: info.crtcs,
                modes,
                properties: rest(Object::Connector(handle))?,
            })
        };
        let connectors: io::Result<Vec<_>> = resources.connectors.iter().map(|c| connector(*c)).collect();
        let planes: io::Result<Vec<_>> =
            resources.planes.iter().map(|p| plane_file(device, *p, &rest)).collect();
        Ok(Self {
            version: VERSION,
            driver: device.driver(),
            source: source.into(),
            capabilities: capabilities.into_iter().map(|(name, c)| (name.into(), number(c))).collect(),
            client_capabilities,
            crtcs: crtcs?,
            connectors: connectors?,
            planes: planes?,
        })
    }
}

fn plane_file(
    device: &dyn KmsDevice,
    handle: drm::control::plane::Handle,
    rest: &dyn Fn(Object) -> io::Result<BTreeMap<String, PropertyFile>>,
) -> io::Result<PlaneFile> {
    let object = Object::Plane(handle);
    let properties = device.properties(object)?;
    let value = |name: &str| properties.iter().find(|p| p.name == name).map(|p| p.value);
    let blob = |name: &str| value(name).filter(|id| *id != 0).and_then(|id| device.blob(id).ok());
    let info = device.plane(handle)?;
    let pairs = match blob("IN_FORMATS") {
        Some(blob) => super::super::plane::in_formats(&blob),
        None => info.formats.iter().map(|format| (*format, 0)).collect(),
    };
    let mut formats: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (format, modifier) in pairs {
        formats.entry(format!("{modifier:#x}")).or_default().push(drm_prime::format::name(format));
    }
    let hints = blob("SIZE_HINTS").unwrap_or_default();
    let hint = |b: &[u8]| (u16::from_ne_bytes([b[0], b[1]]), u16::from_ne_bytes([b[2], b[3]]));
    Ok(PlaneFile {
        kind: match value("type") {
            Some(1) => PlaneKind::Primary,
            Some(2) => PlaneKind::Cursor,
            _ => PlaneKind::Overlay,
        },
        crtcs: info.crtcs,
        formats,
        size_hints: hints.chunks_exact(4).map(hint).collect(),
        scaling: None,
        covers_part: false,
        async_flips: false,
        properties: rest(object)?,
    })
}

/// A property as it is when nothing is shown: the value that the driver gives a mutable one may be another by now.
fn property_file(device: &dyn KmsDevice, property: &Property) -> Option<PropertyFile> {
    let choices = |all: &[(u64, String)]| all.iter().map(|(value, name)| (name.clone(), *value)).collect();
    let kind = match &property.kind {
        PropertyKind::Range(min, max) => KindFile::Range(*min, *max),
        PropertyKind::SignedRange(min, max) => KindFile::SignedRange(*min, *max),
        PropertyKind::Enum(all) => KindFile::Enum(choices(all)),
        PropertyKind::Bitmask(all) => KindFile::Bitmask(choices(all)),
        PropertyKind::Blob => {
            let small = device.blob(property.value).ok().filter(|b| property.immutable && b.len() <= 256);
            KindFile::Blob(small.unwrap_or_default())
        }
        PropertyKind::Object => KindFile::Object(()),
        PropertyKind::Other => return None,
    };
    let is_number = !matches!(kind, KindFile::Blob(_) | KindFile::Object(()));
    let value = if is_number { property.value } else { 0 };
    Some(PropertyFile { value, immutable: property.immutable, kind })
}

/// Every connector type of drm_mode.h, by the name that outputs have.
pub(super) fn interface(name: &str) -> Option<Interface> {
    (0..=20u32).map(Interface::from).find(|interface| interface.as_str() == name)
}

/// The code of a format's four letters.
pub(super) fn fourcc(name: &str) -> Option<u32> {
    let letters = <[u8; 4]>::try_from(name.as_bytes()).ok()?;
    letters.iter().all(|b| b.is_ascii_graphic() || *b == b' ').then(|| u32::from_le_bytes(letters))
}

pub(super) fn parse_modifier(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Width, height and vertical blanks a second.
pub(super) fn parse_mode(text: &str) -> Option<(u16, u16, u32)> {
    let (size, hertz) = text.split_once('@')?;
    let (width, height) = size.split_once('x')?;
    let (width, height, hertz) = (width.parse().ok()?, height.parse().ok()?, hertz.parse().ok()?);
    let sane = (16..=16384).contains(&width) && (16..=16384).contains(&height) && (1..=1000).contains(&hertz);
    sane.then_some((width, height, hertz))
}
