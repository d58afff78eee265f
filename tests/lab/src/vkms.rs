//! Owns vkms devices made through configfs: the SPEC text, building, hotplug, removal, and finding cards.
//! Works inside the lab only (root, configfs mounted); the SPEC parser works anywhere.
//! Source: the kernel's Documentation/gpu/vkms.rst.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::sys;

/// Where configfs shows vkms.
const CONFIGFS: &str = "/sys/kernel/config/vkms";

/// vkms refuses more (`vkms_config_valid_crtc_number` and friends count up to 31).
const MAX_OBJECTS: usize = 31;

/// Failures of parsing a SPEC and of building a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VkmsError {
    /// A key that no SPEC has.
    #[error(
        "vkms spec: unknown item `{0}` (known: default, crtcs=N, connectors=N, connected=N, overlays=N, shared=N, cursor, writeback, order=KIND+KIND+…)"
    )]
    UnknownItem(String),
    /// A value that is not a number, or one out of range.
    #[error("vkms spec: `{item}` needs a number from {min} to {max}")]
    BadNumber {
        /// The whole item as written.
        item: String,
        /// The smallest number allowed.
        min: usize,
        /// The largest number allowed.
        max: usize,
    },
    /// The order names planes that the device does not have, or not all that it has.
    #[error("vkms spec: order `{order}` does not fit the planes: {reason}")]
    BadOrder {
        /// The order as written.
        order: String,
        /// What does not fit.
        reason: &'static str,
    },
    /// A step in configfs failed.
    #[error("vkms: cannot {action} {}", path.display())]
    Configfs {
        /// What was tried.
        action: &'static str,
        /// The configfs path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The device was enabled, but no card node of its name appeared.
    #[error("vkms: device `{0}` has no card node in /sys/class/drm")]
    NoCard(String),
    /// No card of this driver exists.
    #[error("no DRM card with driver `{0}`")]
    NoDriver(String),
}

/// The kind of a KMS plane, with configfs' numbers (those of the plane's "type" property).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaneKind {
    /// An overlay plane.
    Overlay = 0,
    /// The primary plane.
    Primary = 1,
    /// The cursor plane.
    Cursor = 2,
}

/// A vkms device: the same planes for each CRTC, and overlays that all of them can use.
///
/// Text form: items separated by commas. A SPEC starts from a bare device (one CRTC, one connector, a primary
/// plane) and adds what is named; `default` adds four overlays, a cursor and writeback.
///
/// ```
/// use lab::vkms::{PlaneKind, Spec};
/// let spec: Spec = "crtcs=1,overlays=1,writeback,order=overlay+primary".parse()?;
/// assert_eq!(spec.order, [PlaneKind::Overlay, PlaneKind::Primary]);
/// # Ok::<(), lab::vkms::VkmsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Number of CRTCs.
    pub crtcs: usize,
    /// Number of connectors; each can be driven by every CRTC.
    pub connectors: usize,
    /// How many of the connectors start as connected.
    pub connected: usize,
    /// Whether each CRTC has a writeback connector.
    pub writeback: bool,
    /// Overlays that every CRTC can use, created after all others.
    pub shared: usize,
    /// The planes of each CRTC in creation order. vkms blends in this order: the first lies at the bottom.
    pub order: Vec<PlaneKind>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            crtcs: 1,
            connectors: 1,
            connected: 1,
            writeback: true,
            shared: 0,
            order: default_order(4, true),
        }
    }
}

fn default_order(overlays: usize, cursor: bool) -> Vec<PlaneKind> {
    let mut order = vec![PlaneKind::Primary];
    order.extend(std::iter::repeat_n(PlaneKind::Overlay, overlays));
    order.extend(cursor.then_some(PlaneKind::Cursor));
    order
}

impl FromStr for Spec {
    type Err = VkmsError;

    fn from_str(text: &str) -> Result<Self, VkmsError> {
        let (mut crtcs, mut connectors, mut connected, mut shared) = (1, None, None, 0);
        let (mut overlays, mut cursor, mut writeback, mut order) = (0, false, false, None);
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (key, value) = item.split_once('=').map_or((item, None), |(key, value)| (key, Some(value)));
            let number = |min, max| {
                let number = value.and_then(|value| value.parse().ok()).filter(|n| (min..=max).contains(n));
                number.ok_or_else(|| VkmsError::BadNumber { item: item.to_owned(), min, max })
            };
            match (key, value) {
                ("default", None) => (overlays, cursor, writeback) = (4, true, true),
                ("cursor", None) => cursor = true,
                ("writeback", None) => writeback = true,
                ("crtcs", _) => crtcs = number(1, MAX_OBJECTS)?,
                ("connectors", _) => connectors = Some(number(1, MAX_OBJECTS)?),
                ("connected", _) => connected = Some(number(0, MAX_OBJECTS)?),
                ("overlays", _) => overlays = number(0, MAX_OBJECTS - 2)?,
                ("shared", _) => shared = number(0, MAX_OBJECTS - 2)?,
                ("order", Some(value)) => order = Some(value.to_owned()),
                _ => return Err(VkmsError::UnknownItem(item.to_owned())),
            }
        }
        let order = match order {
            Some(order) => parse_order(&order, overlays, cursor)?,
            None => default_order(overlays, cursor),
        };
        let per_crtc = order.len();
        if per_crtc * crtcs + shared > MAX_OBJECTS {
            let item = format!("crtcs={crtcs}");
            return Err(VkmsError::BadNumber { item, min: 1, max: (MAX_OBJECTS - shared) / per_crtc });
        }
        let connectors = connectors.unwrap_or(crtcs);
        let connected = connected.unwrap_or(connectors);
        if connected > connectors {
            let item = format!("connected={connected}");
            return Err(VkmsError::BadNumber { item, min: 0, max: connectors });
        }
        Ok(Self { crtcs, connectors, connected, writeback, shared, order })
    }
}

/// One `overlay` stands for all of them; several must be as many as there are.
fn parse_order(text: &str, overlays: usize, cursor: bool) -> Result<Vec<PlaneKind>, VkmsError> {
    let refuse = |reason| VkmsError::BadOrder { order: text.to_owned(), reason };
    let named: Vec<&str> = text.split('+').map(str::trim).collect();
    let count = |kind: &str| named.iter().filter(|name| **name == kind).count();
    if count("primary") != 1 {
        return Err(refuse("it names exactly one `primary`"));
    }
    if count("cursor") != usize::from(cursor) {
        return Err(refuse("`cursor` is named once if, and only if, the device has one"));
    }
    let all_at_once = count("overlay") == 1;
    if !all_at_once && count("overlay") != overlays {
        return Err(refuse("`overlay` is named once for all of them, or once for each"));
    }
    if all_at_once && overlays == 0 {
        return Err(refuse("the device has no overlays"));
    }
    let mut order = Vec::new();
    for name in named {
        match name {
            "primary" => order.push(PlaneKind::Primary),
            "cursor" => order.push(PlaneKind::Cursor),
            "overlay" if all_at_once => order.extend(std::iter::repeat_n(PlaneKind::Overlay, overlays)),
            "overlay" => order.push(PlaneKind::Overlay),
            _ => return Err(refuse("the kinds are primary, overlay, cursor")),
        }
    }
    Ok(order)
}

/// A vkms device built through configfs. Dropping it disables and removes it; see [`Device::keep`].
#[derive(Debug)]
pub struct Device {
    name: String,
    root: PathBuf,
    /// Paths in creation order: links first undone, then folders, last to first.
    made: Vec<Made>,
    keep: bool,
}

#[derive(Debug)]
enum Made {
    Dir(PathBuf),
    Link(PathBuf),
}

impl Device {
    /// Builds and enables the device `name`; its card node exists when this returns.
    ///
    /// `name` is also the device's name in sysfs (`/sys/devices/faux/NAME`), at most 20 letters.
    ///
    /// # Errors
    /// [`VkmsError::Configfs`] with the step that failed; what was made before is removed again.
    pub fn create(name: &str, spec: &Spec) -> Result<Self, VkmsError> {
        let root = Path::new(CONFIGFS).join(name);
        let mut device = Self { name: name.to_owned(), root: root.clone(), made: Vec::new(), keep: false };
        device.dir(root.clone())?;
        for crtc in 0..spec.crtcs {
            let dir = device.dir(root.join(format!("crtcs/crtc{crtc}")))?;
            write(&dir.join("writeback"), if spec.writeback { "1" } else { "0" })?;
        }
        for crtc in 0..spec.crtcs {
            for (index, kind) in spec.order.iter().enumerate() {
                let dir = device.dir(root.join(format!("planes/crtc{crtc}-plane{index}")))?;
                write(&dir.join("type"), &(*kind as u32).to_string())?;
                device.link(&format!("crtcs/crtc{crtc}"), dir.join("possible_crtcs"))?;
            }
        }
        for index in 0..spec.shared {
            let dir = device.dir(root.join(format!("planes/shared-plane{index}")))?;
            write(&dir.join("type"), &(PlaneKind::Overlay as u32).to_string())?;
            for crtc in 0..spec.crtcs {
                device.link(&format!("crtcs/crtc{crtc}"), dir.join("possible_crtcs"))?;
            }
        }
        for encoder in 0..spec.connectors.max(spec.crtcs) {
            let dir = device.dir(root.join(format!("encoders/encoder{encoder}")))?;
            for crtc in 0..spec.crtcs {
                device.link(&format!("crtcs/crtc{crtc}"), dir.join("possible_crtcs"))?;
            }
        }
        for connector in 0..spec.connectors {
            let dir = device.dir(root.join(format!("connectors/connector{connector}")))?;
            let status = if connector < spec.connected { Status::Connected } else { Status::Disconnected };
            write(&dir.join("status"), &(status as u32).to_string())?;
            device.link(&format!("encoders/encoder{connector}"), dir.join("possible_encoders"))?;
        }
        write(&root.join("enabled"), "1")?;
        device.card_node()?;
        Ok(device)
    }

    /// The name given to [`Device::create`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's `/dev/dri/cardN`, found by its name, never by number.
    ///
    /// # Errors
    /// [`VkmsError::NoCard`] when sysfs has no card of this name.
    pub fn card_node(&self) -> Result<PathBuf, VkmsError> {
        card_by_device(&self.name)
    }

    /// Plugs or unplugs connector number `index`; the kernel sends the hotplug event.
    ///
    /// # Errors
    /// [`VkmsError::Configfs`] when there is no such connector.
    pub fn set_connector(&self, index: usize, status: Status) -> Result<(), VkmsError> {
        write(&self.root.join(format!("connectors/connector{index}/status")), &(status as u32).to_string())
    }

    /// Leaves the device in place when this value goes.
    pub fn keep(mut self) {
        self.keep = true;
    }

    /// Disables and removes the device now.
    ///
    /// # Errors
    /// [`VkmsError::Configfs`] with the first step that failed.
    pub fn remove(mut self) -> Result<(), VkmsError> {
        self.keep = true;
        self.tear_down()
    }

    fn dir(&mut self, path: PathBuf) -> Result<PathBuf, VkmsError> {
        fs::create_dir(&path).map_err(|source| VkmsError::Configfs {
            action: "create",
            path: path.clone(),
            source,
        })?;
        self.made.push(Made::Dir(path.clone()));
        Ok(path)
    }

    fn link(&mut self, target: &str, dir: PathBuf) -> Result<(), VkmsError> {
        let path = dir.join(target.rsplit('/').next().unwrap_or(target));
        std::os::unix::fs::symlink(self.root.join(target), &path).map_err(|source| VkmsError::Configfs {
            action: "link",
            path: path.clone(),
            source,
        })?;
        self.made.push(Made::Link(path));
        Ok(())
    }

    fn tear_down(&mut self) -> Result<(), VkmsError> {
        let mut first = Ok(());
        let mut note = |action, path: &Path, result: io::Result<()>| {
            if let (Err(source), true) = (result, first.is_ok()) {
                first = Err(VkmsError::Configfs { action, path: path.to_owned(), source });
            }
        };
        // A device that could not even be made may be another one's name: leave that one alone.
        if !self.made.is_empty() {
            let enabled = self.root.join("enabled");
            note("disable", &enabled, fs::write(&enabled, "0"));
        }
        for made in self.made.iter().rev() {
            if let Made::Link(path) = made {
                note("unlink", path, fs::remove_file(path));
            }
        }
        for made in self.made.drain(..).rev() {
            if let Made::Dir(path) = made {
                note("remove", &path, fs::remove_dir(&path));
            }
        }
        first
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.keep
            && let Err(err) = self.tear_down()
        {
            eprintln!("lab: cannot remove vkms device {}: {err}", self.name);
        }
    }
}

/// Connector status with configfs' numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A display is plugged in.
    Connected = 1,
    /// Nothing is plugged in.
    Disconnected = 2,
    /// The driver cannot tell.
    Unknown = 3,
}

fn write(path: &Path, value: &str) -> Result<(), VkmsError> {
    fs::write(path, value).map_err(|source| VkmsError::Configfs {
        action: "write to",
        path: path.to_owned(),
        source,
    })
}

/// The `/dev/dri/cardN` whose parent device in sysfs is called `name`.
///
/// # Errors
/// [`VkmsError::NoCard`] when there is none.
pub fn card_by_device(name: &str) -> Result<PathBuf, VkmsError> {
    cards()
        .into_iter()
        .find(|card| {
            let link = Path::new("/sys/class/drm").join(card).join("device");
            fs::canonicalize(link).is_ok_and(|device| device.file_name().is_some_and(|file| file == name))
        })
        .map(|card| Path::new("/dev/dri").join(card))
        .ok_or_else(|| VkmsError::NoCard(name.to_owned()))
}

/// The first `/dev/dri/cardN` whose driver calls itself `driver` (DRM_IOCTL_VERSION): `vkms`, `vgem`, …
///
/// # Errors
/// [`VkmsError::NoDriver`] when there is none that can be opened.
pub fn card_by_driver(driver: &str) -> Result<PathBuf, VkmsError> {
    cards()
        .into_iter()
        .map(|card| Path::new("/dev/dri").join(card))
        .find(|node| sys::drm_driver(node).is_ok_and(|name| name == driver))
        .ok_or_else(|| VkmsError::NoDriver(driver.to_owned()))
}

/// Names `cardN` of the primary nodes, in numeric order.
fn cards() -> Vec<String> {
    let mut cards: Vec<(u32, String)> = fs::read_dir("/sys/class/drm")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some((name.strip_prefix("card")?.parse().ok()?, name)))
        .collect();
    cards.sort();
    cards.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use PlaneKind::{Cursor, Overlay, Primary};

    #[test]
    fn default_is_the_full_device() {
        assert_eq!("default".parse::<Spec>().unwrap(), Spec::default());
        assert_eq!(Spec::default().order, [Primary, Overlay, Overlay, Overlay, Overlay, Cursor]);
    }

    #[test]
    fn a_spec_starts_bare_and_adds() {
        let bare: Spec = "".parse().unwrap();
        assert_eq!(
            bare,
            Spec { crtcs: 1, connectors: 1, connected: 1, writeback: false, shared: 0, order: vec![Primary] }
        );
        let spec: Spec = "crtcs=2, overlays=1, cursor, connectors=3, connected=1".parse().unwrap();
        assert_eq!((spec.crtcs, spec.connectors, spec.connected, spec.writeback), (2, 3, 1, false));
        assert_eq!(spec.order, [Primary, Overlay, Cursor]);
    }

    #[test]
    fn order_is_creation_order() {
        let order = |text: &str| text.parse::<Spec>().map(|spec| spec.order);
        assert_eq!(
            order("overlays=2,cursor,order=overlay+primary+cursor").unwrap(),
            [Overlay, Overlay, Primary, Cursor]
        );
        assert_eq!(order("overlays=2,order=overlay+primary+overlay").unwrap(), [Overlay, Primary, Overlay]);
    }

    #[test]
    fn refusals_name_the_item() {
        let refusal = |text: &str| text.parse::<Spec>().unwrap_err().to_string();
        assert!(refusal("crtc=1").contains("unknown item `crtc=1`"));
        assert!(refusal("crtcs=0").contains("`crtcs=0` needs a number from 1"));
        assert!(refusal("crtcs=x").contains("`crtcs=x`"));
        assert!(refusal("cursor=1").contains("unknown item"));
        assert!(refusal("default,crtcs=6").contains("from 1 to 5"));
        assert!(refusal("connectors=1,connected=2").contains("from 0 to 1"));
        assert!(refusal("overlays=3,order=overlay+primary+overlay").contains("once for each"));
        assert!(refusal("order=overlay+primary").contains("no overlays"));
        assert!(refusal("cursor,order=primary").contains("`cursor` is named once"));
        assert!(refusal("order=primary+video").contains("kinds are"));
    }
}
