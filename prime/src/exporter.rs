//! Who exported a dma-buf, and whether its layout can be called linear. Evidence only: the caller decides what to do
//! with a buffer of unknown layout.
//!
//! # What the kernel tells
//!
//! A dma-buf's `fdinfo` has `exp_name`, the module that exported it (dma-buf.c). For udmabuf, the heaps, videobuf2, i915
//! and virtio-gpu that names the exporter. DRM drivers that use the PRIME helper (vgem, vkms, amdgpu, most others) all say `drm`:
//! the helper fills in its own module's name (drm_prime.c calls it a "white lie for debug"). No unprivileged
//! interface tells which DRM device a dma-buf came from. So `drm` counts as linear only if no DRM device of this kernel could have
//! made anything else: every one is of a driver whose memory has no tiled layout.
//!
//! A device's driver comes from sysfs: the name of the bound bus driver, or the `faux` bus (vgem and vkms are the only DRM
//! drivers there in Linux 7.2, whatever a configfs instance is called), or the device's own name for the driverless platform
//! devices that vgem and vkms were before. `DRM_IOCTL_VERSION` would say it plainly, and is not used: opening a card
//! node takes permission, and can make the opener master while the session is inactive.
//!
//! An implicit layout (`DRM_FORMAT_MOD_INVALID`) is private knowledge between an exporter's driver and itself. Exporters that
//! are no GPU drivers have no place for it, so their memory is laid out as format, offset and stride say.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use drm_fourcc::DrmModifier;

/// Exporters outside of DRM, by `exp_name`, that keep no layout: udmabuf.c, system_heap.c and cma_heap.c (the heap's
/// name), videobuf2-vmalloc.c (CPU memory: vivid, USB cameras).
const LINEAR_EXPORTERS: &[&str] = &[
    "udmabuf",
    "system",
    "system_cc_shared",
    "default_cma_region",
    "reserved",
    "linux,cma",
    "videobuf2_vmalloc",
];

/// DRM drivers without any tiled layout, by bus driver name (DRM name and bus name differ for the firmware ones): software devices and
/// display-only devices whose buffers are plain rows (shmem or a copy out of it). `faux` is the bus of vgem and vkms.
const LINEAR_DRIVERS: &[&str] = &[
    "faux",
    "vgem",
    "vkms",
    "simpledrm",
    "simple-framebuffer",
    "ofdrm",
    "efidrm",
    "efi-framebuffer",
    "vesadrm",
    "vesa-framebuffer",
    "bochs-drm",
    "cirrus",
    "cirrus-qemu",
    "ast",
    "mgag200",
    "hyperv_drm",
    "udl",
    "gud",
];

/// What the kernel says about a dma-buf's exporter (`/proc/self/fdinfo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExporterInfo {
    /// `exp_name`: the exporting module, or the heap's name.
    pub name: String,
    /// `count`: references on the dma-buf. Exact only while nobody else is at work on it.
    pub references: u64,
}

/// Reads a dma-buf's `fdinfo`. `None` if the descriptor is no dma-buf, or the kernel is older than 5.3.
///
/// # Errors
/// The errno of reading `/proc/self/fdinfo`; `ENOENT` without a `/proc`.
pub fn exporter_info(fd: BorrowedFd<'_>) -> io::Result<Option<ExporterInfo>> {
    // The descriptor is borrowed, so its number cannot be given away between here and the read.
    parse_fdinfo(&fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?)
}

/// The `exp_name` of a dma-buf (see [`exporter_info`]).
///
/// # Errors
/// As [`exporter_info`].
pub fn exporter_name(fd: BorrowedFd<'_>) -> io::Result<Option<String>> {
    Ok(exporter_info(fd)?.map(|info| info.name))
}

fn parse_fdinfo(text: &str) -> io::Result<Option<ExporterInfo>> {
    let field =
        |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let Some(name) = field("exp_name") else { return Ok(None) };
    let references = field("count").and_then(|count| count.parse().ok());
    let references = references.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(ExporterInfo { name: name.to_owned(), references }))
}

/// Whether a buffer of unspecified layout is laid out in plain rows, and how one knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Linearity {
    /// The exporter has no place for a layout of its own.
    LinearExporter {
        /// `exp_name`.
        exporter: String,
    },
    /// Exported by some DRM device, and all of them are of linear drivers.
    LinearDrivers {
        /// Drivers of this kernel's DRM devices.
        drivers: Vec<String>,
    },
    /// A GPU may have tiled it.
    Unknown {
        /// `exp_name`, if the kernel gives one.
        exporter: Option<String>,
        /// The first DRM driver that is not known to be linear, if that decided it.
        driver: Option<String>,
    },
}

impl Linearity {
    /// Whether the buffer is known to be linear.
    #[must_use]
    pub fn is_linear(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    /// The modifier to use for a buffer that came with `modifier`: `INVALID` becomes `LINEAR` if that is what it is.
    #[must_use]
    pub fn resolve(&self, modifier: DrmModifier) -> DrmModifier {
        if modifier == DrmModifier::Invalid && self.is_linear() { DrmModifier::Linear } else { modifier }
    }
}

/// The DRM drivers of this kernel, as of one look. Take it once and again at hotplug: it reads sysfs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinearExporters {
    drivers: Vec<String>,
}

impl LinearExporters {
    /// Looks at all DRM devices in `/sys/class/drm`, which shows those of the whole machine, in containers too.
    ///
    /// A device whose driver cannot be found out counts as `unknown`, which is not linear.
    ///
    /// # Errors
    /// The errno of reading `/sys/class/drm`. A kernel without the folder has no DRM devices, which is no error.
    pub fn scan() -> io::Result<Self> {
        Self::scan_in(Path::new("/sys/class/drm"))
    }

    /// A machine with devices of these drivers and no others, by bus driver name: for tests, and for who knows better.
    pub fn of_drivers(drivers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut drivers: Vec<String> = drivers.into_iter().map(Into::into).collect();
        drivers.sort_unstable();
        Self { drivers }
    }

    fn scan_in(class: &Path) -> io::Result<Self> {
        let entries = match fs::read_dir(class) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        let mut drivers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| is_node(name)) else { continue };
            let driver = driver_of(&class.join(name));
            if !drivers.contains(&driver) {
                drivers.push(driver);
            }
        }
        drivers.sort_unstable();
        Ok(Self { drivers })
    }

    /// The drivers found, sorted.
    #[must_use]
    pub fn drivers(&self) -> &[String] {
        &self.drivers
    }

    /// Judges one dma-buf.
    ///
    /// # Errors
    /// As [`exporter_info`].
    pub fn judge(&self, fd: BorrowedFd<'_>) -> io::Result<Linearity> {
        Ok(self.judge_name(exporter_name(fd)?))
    }

    fn judge_name(&self, exporter: Option<String>) -> Linearity {
        match exporter {
            Some(exporter) if LINEAR_EXPORTERS.contains(&exporter.as_str()) => {
                Linearity::LinearExporter { exporter }
            }
            Some(exporter) if exporter == "drm" => {
                let odd = self.drivers.iter().find(|driver| !LINEAR_DRIVERS.contains(&driver.as_str()));
                match odd {
                    None if !self.drivers.is_empty() => {
                        Linearity::LinearDrivers { drivers: self.drivers.clone() }
                    }
                    odd => Linearity::Unknown { exporter: Some(exporter), driver: odd.cloned() },
                }
            }
            exporter => Linearity::Unknown { exporter, driver: None },
        }
    }
}

/// Looks at the system and judges one dma-buf. For many buffers keep a [`LinearExporters`].
///
/// # Errors
/// As [`LinearExporters::scan`] and [`exporter_info`].
pub fn exporter_is_linear(fd: BorrowedFd<'_>) -> io::Result<Linearity> {
    LinearExporters::scan()?.judge(fd)
}

/// `cardN` and `renderDN`, not connectors (`card0-Virtual-1`).
fn is_node(name: &str) -> bool {
    ["card", "renderD"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// What identifies a device's driver in sysfs, else `unknown`.
fn driver_of(class: &Path) -> String {
    let name = |path: &Path| Some(fs::canonicalize(path).ok()?.file_name()?.to_str()?.to_owned());
    let device = class.join("device");
    if name(&device.join("subsystem")).as_deref() == Some("faux") {
        return "faux".to_owned();
    }
    let platform = || name(&device).filter(|name| ["vgem", "vkms"].contains(&name.as_str()));
    name(&device.join("driver")).or_else(platform).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn system(drivers: &[&str]) -> LinearExporters {
        LinearExporters { drivers: drivers.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn judge(drivers: &[&str], exporter: &str) -> Linearity {
        system(drivers).judge_name(Some(exporter.to_owned()))
    }

    #[test]
    fn fdinfo_of_a_dmabuf() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t9\nino:\t12\nsize:\t4096\ncount:\t3\nexp_name:\tudmabuf\nname:\tx\n";
        let expected = ExporterInfo { name: "udmabuf".into(), references: 3 };
        assert_eq!(parse_fdinfo(text).unwrap(), Some(expected));
        assert_eq!(parse_fdinfo("pos:\t0\nflags:\t0\n").unwrap(), None);
        parse_fdinfo("exp_name:\tdrm\n").unwrap_err();
    }

    #[test]
    fn fdinfo_of_something_else() {
        let null = fs::File::open("/dev/null").unwrap();
        assert_eq!(exporter_name(null.as_fd()).unwrap(), None);
    }

    #[test]
    fn drm_is_linear_only_if_every_driver_is() {
        assert!(judge(&["vgem", "vkms"], "drm").is_linear());
        assert!(judge(&["faux"], "drm").is_linear());
        let gpu = judge(&["amdgpu", "vgem"], "drm");
        assert_eq!(gpu, Linearity::Unknown { exporter: Some("drm".into()), driver: Some("amdgpu".into()) });
        assert!(!judge(&["unknown", "vgem"], "drm").is_linear());
        assert!(!judge(&[], "drm").is_linear());
    }

    #[test]
    fn other_exporters_speak_for_themselves() {
        for name in ["udmabuf", "system"] {
            assert!(judge(&["amdgpu"], name).is_linear(), "{name}");
        }
        for name in ["i915", "virtio_gpu", "nvidia-drm"] {
            assert!(!judge(&["vgem"], name).is_linear(), "{name}");
        }
        assert!(!system(&[]).judge_name(None).is_linear());
    }

    #[test]
    fn only_invalid_becomes_linear() {
        let linear = judge(&[], "udmabuf");
        assert_eq!(linear.resolve(DrmModifier::Invalid), DrmModifier::Linear);
        assert_eq!(linear.resolve(DrmModifier::I915_x_tiled), DrmModifier::I915_x_tiled);
        assert_eq!(judge(&["amdgpu"], "drm").resolve(DrmModifier::Invalid), DrmModifier::Invalid);
    }

    #[test]
    fn scan_reads_bus_and_driver_links() {
        let root = std::env::temp_dir().join(format!("drm-prime-scan-{}", std::process::id()));
        let link = |node: &str, name: &str, target: &str| {
            let device = root.join("class").join(node).join("device");
            let target = root.join(target);
            fs::create_dir_all(&device).unwrap();
            fs::create_dir_all(&target).unwrap();
            std::os::unix::fs::symlink(target, device.join(name)).unwrap();
        };
        link("card0", "subsystem", "bus/faux");
        link("card1", "subsystem", "bus/pci");
        link("card1", "driver", "bus/pci/drivers/amdgpu");
        link("card1-HDMI-A-1", "driver", "bus/pci/drivers/other");
        fs::create_dir_all(root.join("class/card2")).unwrap();
        fs::create_dir_all(root.join("platform/vgem")).unwrap();
        fs::create_dir_all(root.join("class/renderD128")).unwrap();
        std::os::unix::fs::symlink(root.join("platform/vgem"), root.join("class/renderD128/device")).unwrap();
        let found = LinearExporters::scan_in(&root.join("class"));
        let missing = LinearExporters::scan_in(&root.join("nowhere"));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.unwrap().drivers(), ["amdgpu", "faux", "unknown", "vgem"]);
        assert_eq!(missing.unwrap(), LinearExporters::default());
    }
}
