//! Why a rung of the ladder does not bear a buffer, as data. It decides nothing and translates nothing for the wire.

use std::fmt;

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::ErrorChain;
use drm_prime::scanout::Refusal;
use primeway_protocols::linux_dmabuf::Flags;

use crate::render::RenderError;

/// The rungs, from the first that a buffer meets to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// What the client said of it.
    Description,
    /// The files it lies in, and whether the client may have more of them.
    Files,
    /// PRIME import into the display's device.
    Import,
    /// A display plane.
    Plane,
    /// A texture on the GPU.
    Gpu,
    /// The CPU, which reads or converts it.
    Cpu,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Description => "description",
            Self::Files => "files",
            Self::Import => "import",
            Self::Plane => "plane",
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
        })
    }
}

/// Why a rung does not bear a buffer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Fields instead of frames, which would be shown as combs: the XML recommends to reject them all.
    #[error("interlaced contents are not shown ({0:?})")]
    Interlaced(Flags),
    /// A code that the renderers have no name for.
    #[error("format {0:#010x} is not known")]
    UnknownFormat(u32),
    /// More or fewer planes than a buffer can have.
    #[error("not a possible number of planes")]
    Planes,
    /// A file that does not tell its size.
    #[error("plane {0} lies in a file whose size cannot be asked")]
    NoSize(usize),
    /// The client holds as much as it may.
    #[error("the client would hold {planes} planes and {bytes} bytes")]
    Quota {
        /// Buffer planes with this buffer.
        planes: u64,
        /// Bytes with this buffer.
        bytes: u64,
    },
    /// There is nobody to have the buffer.
    #[error("the client is gone")]
    ClientGone,
    /// The display's device does not take a plane's memory.
    #[error("not imported")]
    Import(#[source] drm_prime::ImportError),
    /// Another import keeps the display's device busy. It is made up for when the buffer is about to be shown.
    #[error("the device is busy with another import")]
    DeviceBusy,
    /// The layout is the exporting driver's secret, which an AddFB without modifier would have to guess.
    #[error("the layout is implicit, and the exporter is not known to be linear")]
    ImplicitLayout,
    /// The user wants everything composited.
    #[error("direct scanout is disabled")]
    Disabled,
    /// No plane of any output lists the pair.
    #[error("no plane takes {format} with modifier {:#x}", u64::from(*modifier))]
    NoPlane {
        /// The format.
        format: DrmFourcc,
        /// The modifier.
        modifier: DrmModifier,
    },
    /// No plane that takes the pair mirrors, and the buffer is stored bottom row first.
    #[error("stored bottom row first, and no plane for it has reflect-y")]
    NoReflectY,
    /// The display's device makes no framebuffer of it.
    #[error("no framebuffer")]
    Framebuffer(#[source] Refusal),
    /// The renderer draws on the CPU alone.
    #[error("no gpu composites")]
    NoGpu,
    /// The GPU's driver does not name the pair.
    #[error("the gpu does not name {format} with modifier {:#x}", u64::from(*modifier))]
    NotNamed {
        /// The format.
        format: DrmFourcc,
        /// The modifier.
        modifier: DrmModifier,
    },
    /// A software driver would draw the buffer wrongly, or crash over it.
    #[error("the software driver cannot be trusted with it")]
    Untrusted,
    /// The GPU's driver refused.
    #[error("no texture")]
    Texture(#[source] RenderError),
    /// The CPU knows no layout but plain rows.
    #[error("modifier {:#x} is not for the cpu", u64::from(*.0))]
    NotLinear(DrmModifier),
    /// Neither Pixman nor the YUV conversion knows the format.
    #[error("the cpu does not read {0}")]
    NotReadable(DrmFourcc),
    /// The memory cannot be read as the description says.
    #[error("not readable")]
    View(#[source] RenderError),
}

impl Reason {
    /// The rung that it is about.
    #[must_use]
    pub fn rung(&self) -> Rung {
        match self {
            Self::Interlaced(_) | Self::UnknownFormat(_) | Self::Planes => Rung::Description,
            Self::NoSize(_) | Self::Quota { .. } | Self::ClientGone => Rung::Files,
            Self::Import(_) | Self::DeviceBusy => Rung::Import,
            Self::ImplicitLayout
            | Self::Disabled
            | Self::NoPlane { .. }
            | Self::NoReflectY
            | Self::Framebuffer(_) => Rung::Plane,
            Self::NoGpu | Self::NotNamed { .. } | Self::Untrusted | Self::Texture(_) => Rung::Gpu,
            Self::NotLinear(_) | Self::NotReadable(_) | Self::View(_) => Rung::Cpu,
        }
    }

    /// The rung and the reason with all its sources, for people.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}: {}", self.rung(), ErrorChain(self))
    }
}

/// How a buffer can be shown: each way with why not, if not.
#[derive(Debug)]
pub struct Ways {
    /// By a plane. The reason's rung is the import if that is what failed.
    pub plane: Result<(), Reason>,
    /// As a texture of the GPU; not asked while the CPU can read the buffer.
    pub gpu: Option<Result<(), Reason>>,
    /// Read by the CPU.
    pub cpu: Result<(), Reason>,
}

impl Ways {
    /// Whether there is one.
    #[must_use]
    pub fn any(&self) -> bool {
        self.plane.is_ok() || self.composited()
    }

    /// Whether it can be composited. One that cannot is black wherever no plane takes it.
    #[must_use]
    pub fn composited(&self) -> bool {
        self.cpu.is_ok() || matches!(self.gpu, Some(Ok(())))
    }

    /// Why not, in the order of the rungs.
    pub fn reasons(&self) -> impl Iterator<Item = &Reason> {
        let gpu = self.gpu.as_ref().and_then(|gpu| gpu.as_ref().err());
        self.plane.as_ref().err().into_iter().chain(gpu).chain(self.cpu.as_ref().err())
    }
}

/// Why a buffer was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A rung that every buffer must pass.
    #[error("{}", .0.text())]
    At(Reason),
    /// No way to show it.
    #[error("no way to show it: {}", texts(.0))]
    NoWay(Box<Ways>),
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self::At(reason)
    }
}

impl Refused {
    /// The reasons, in the order of the rungs.
    pub fn reasons(&self) -> Vec<&Reason> {
        match self {
            Self::At(reason) => vec![reason],
            Self::NoWay(ways) => ways.reasons().collect(),
        }
    }
}

fn texts(ways: &Ways) -> String {
    ways.reasons().map(Reason::text).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nv12() -> Reason {
        Reason::NoPlane { format: DrmFourcc::Nv12, modifier: DrmModifier::Linear }
    }

    #[test]
    fn rungs_are_in_the_order_in_which_a_buffer_meets_them() {
        let reasons = [
            Reason::Interlaced(Flags::Interlaced),
            Reason::Quota { planes: 2, bytes: 3 },
            Reason::Import(drm_prime::ImportError::NotDmabuf { source: std::io::ErrorKind::Other.into() }),
            nv12(),
            Reason::NoGpu,
            Reason::NotReadable(DrmFourcc::Nv12),
        ];
        let rungs: Vec<_> = reasons.iter().map(Reason::rung).collect();
        assert!(rungs.is_sorted_by(|a, b| a < b), "{rungs:?}");
    }

    #[test]
    fn one_way_is_enough_and_each_missing_one_says_why() {
        let ways = |plane: bool, gpu: Option<bool>, cpu: bool| Ways {
            plane: if plane { Ok(()) } else { Err(nv12()) },
            gpu: gpu.map(|ok| if ok { Ok(()) } else { Err(Reason::NoGpu) }),
            cpu: if cpu { Ok(()) } else { Err(Reason::NotReadable(DrmFourcc::Nv12)) },
        };
        for (plane, gpu, cpu) in [(true, Some(false), false), (false, Some(true), false), (false, None, true)]
        {
            let ways = ways(plane, gpu, cpu);
            assert!(ways.any());
            assert_eq!(ways.composited(), !plane);
        }
        let none = ways(false, Some(false), false);
        assert!(!none.any() && !none.composited());
        let refused = Refused::NoWay(Box::new(none));
        assert_eq!(refused.reasons().len(), 3);
        assert_eq!(
            refused.to_string(),
            "no way to show it: plane: no plane takes NV12 with modifier 0x0; gpu: no gpu composites; \
             cpu: the cpu does not read NV12"
        );
    }
}
