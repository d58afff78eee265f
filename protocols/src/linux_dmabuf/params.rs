//! The planes that a client collects in a `zwp_linux_buffer_params_v1`, and every check of them.
//!
//! Owns: the rules of the XML as pure functions over numbers; the fds are an opaque `F`. Does not own: sending
//! errors, looking at fds, importing (`dispatch`).
//!
//! A request goes through [`PendingPlanes::finish`] (everything that needs no fd) and then through
//! [`Checked::check_size`] per plane, once the size of its fd is known. All arithmetic is in `u64`: the largest
//! sum that can appear, `u32::MAX + u32::MAX * i32::MAX`, is below 2^63 + 2^32.

use wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_buffer_params_v1::Error as Code;

use super::{DmabufFormat, FormatLayout, MAX_PLANES, MOD_INVALID, MOD_LINEAR, PlaneLayout};

/// First version in which an unadvertised format + modifier pair is a protocol error.
const UNADVERTISED_IS_FATAL_SINCE: u32 = 4;
/// First version in which planes with different modifiers are a protocol error.
const MIXED_MODIFIERS_ARE_FATAL_SINCE: u32 = 5;
/// First version with `modifier` events. Older clients cannot know any modifier but the implicit one.
const EXPLICIT_MODIFIERS_SINCE: u32 = 3;

/// A fault of the client, and the protocol error that it gets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientFault {
    #[error("the params object was already used to create a wl_buffer")]
    AlreadyUsed,
    #[error("plane index {0} is out of bounds, a buffer has at most {MAX_PLANES} planes")]
    PlaneIndex(u32),
    #[error("plane index {0} was already set")]
    PlaneSet(u32),
    #[error("no plane was added")]
    NoPlanes,
    #[error("plane {0} is missing although a later plane was added")]
    Gap(usize),
    #[error("format {fourcc:#010x} has {expected} planes but {got} were added")]
    PlaneCount { fourcc: u32, expected: usize, got: usize },
    #[error("format {0:#010x} is not supported")]
    UnknownFormat(u32),
    #[error("format {:#010x} with modifier {:#018x} was not advertised", .0.fourcc, .0.modifier)]
    Unadvertised(DmabufFormat),
    #[error("planes with different modifiers: {0:#018x} and {1:#018x}")]
    MixedModifiers(u64, u64),
    #[error("size {0}x{1} is not positive")]
    Dimensions(i32, i32),
    #[error("plane {plane}: a row takes {row} bytes but the stride is {stride}")]
    Stride { plane: usize, row: u64, stride: u32 },
    #[error("plane {plane} ends at byte {end} but its file has {size}")]
    OutOfBounds { plane: usize, end: u64, size: u64 },
    #[error("an array of {0} bytes is no dev_t")]
    DevTSize(usize),
}

impl ClientFault {
    /// The code on the wire.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::AlreadyUsed => Code::AlreadyUsed,
            Self::PlaneIndex(_) => Code::PlaneIdx,
            Self::PlaneSet(_) => Code::PlaneSet,
            Self::NoPlanes | Self::Gap(_) | Self::PlaneCount { .. } => Code::Incomplete,
            Self::UnknownFormat(_) | Self::Unadvertised(_) | Self::MixedModifiers(..) => Code::InvalidFormat,
            Self::Dimensions(..) => Code::InvalidDimensions,
            Self::Stride { .. } | Self::OutOfBounds { .. } => Code::OutOfBounds,
            Self::DevTSize(_) => Code::InvalidDevTSize,
        }
    }
}

/// Why planes make no buffer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Fatal in `create` and `create_immed` alike.
    #[error(transparent)]
    Fault(#[from] ClientFault),
    /// The XML makes no protocol error of it: `failed` for `create`, invalid_wl_buffer for `create_immed`.
    #[error("{0}")]
    Unusable(Unusable),
}

/// Causes of [`Refusal::Unusable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("the modifier was not advertised for this format")]
    Modifier,
    #[error("the planes have different modifiers")]
    MixedModifiers,
    #[error("unknown flags")]
    Flags,
    #[error("a plane is not a dma-buf")]
    NotADmabuf,
    #[error("the client holds too many params objects, or too many planes in them")]
    TooManyPending,
}

/// One plane as the client gave it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PendingPlane<F> {
    pub(crate) fd: F,
    pub(crate) offset: u32,
    pub(crate) stride: u32,
    pub(crate) modifier: u64,
}

/// What a params object has collected so far.
#[derive(Debug)]
pub(crate) struct PendingPlanes<F> {
    planes: [Option<PendingPlane<F>>; MAX_PLANES],
    sampling_device: Option<u64>,
    used: bool,
    /// Over the client's quota: planes are dropped and no buffer is made.
    over_quota: bool,
}

impl<F> Default for PendingPlanes<F> {
    fn default() -> Self {
        Self { planes: [const { None }; MAX_PLANES], sampling_device: None, used: false, over_quota: false }
    }
}

/// Arguments of `create` and `create_immed`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BufferRequest {
    pub(crate) width: i32,
    pub(crate) height: i32,
    pub(crate) fourcc: u32,
}

/// What the compositor knows about a fourcc.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FormatFacts<'a> {
    /// `None`: the format is unknown.
    pub(crate) layout: Option<&'a FormatLayout>,
    /// Modifiers that were advertised with the fourcc, in any way, at any time.
    pub(crate) modifiers: &'a [u64],
}

/// Planes that passed every check that needs no fd.
#[derive(Debug)]
pub(crate) struct Checked<F> {
    /// In the order of their index, without gaps, each with the byte behind its last one.
    pub(crate) planes: Vec<(PendingPlane<F>, u64)>,
    pub(crate) modifier: u64,
    pub(crate) sampling_device: Option<u64>,
}

impl<F> PendingPlanes<F> {
    /// Planes held now.
    pub(crate) fn held(&self) -> usize {
        self.planes.iter().flatten().count()
    }

    /// Drops the planes, and those still to come; there will be no buffer.
    pub(crate) fn refuse_over_quota(&mut self) {
        self.planes = [const { None }; MAX_PLANES];
        self.over_quota = true;
    }

    /// Adds a plane for an object of `version`.
    pub(crate) fn add(
        &mut self,
        version: u32,
        index: u32,
        mut plane: PendingPlane<F>,
    ) -> Result<(), ClientFault> {
        self.ensure_unused()?;
        if version < EXPLICIT_MODIFIERS_SINCE {
            plane.modifier = MOD_INVALID;
        }
        let slot = usize::try_from(index)
            .ok()
            .filter(|&index| index < MAX_PLANES)
            .ok_or(ClientFault::PlaneIndex(index))?;
        if self.planes[slot].is_some() {
            return Err(ClientFault::PlaneSet(index));
        }
        if version >= MIXED_MODIFIERS_ARE_FATAL_SINCE
            && let Some(other) = self.planes.iter().flatten().find(|other| other.modifier != plane.modifier)
        {
            return Err(ClientFault::MixedModifiers(other.modifier, plane.modifier));
        }
        if !self.over_quota {
            self.planes[slot] = Some(plane);
        }
        Ok(())
    }

    /// Sets the device of the next create request from the bytes of a `dev_t`.
    pub(crate) fn set_sampling_device(&mut self, device: &[u8]) -> Result<(), ClientFault> {
        self.ensure_unused()?;
        let bytes = device.try_into().map_err(|_| ClientFault::DevTSize(device.len()))?;
        self.sampling_device = Some(u64::from_ne_bytes(bytes));
        Ok(())
    }

    /// Drops what was collected; nothing but destroy is legal afterwards.
    pub(crate) fn discard(&mut self) {
        *self = Self { used: true, ..Self::default() };
    }

    fn ensure_unused(&self) -> Result<(), ClientFault> {
        if self.used { Err(ClientFault::AlreadyUsed) } else { Ok(()) }
    }

    /// Takes the planes out and checks all that can be checked without looking at a file.
    ///
    /// The object counts as used from here on, whatever the answer.
    pub(crate) fn finish(
        &mut self,
        version: u32,
        request: BufferRequest,
        facts: FormatFacts<'_>,
    ) -> Result<Checked<F>, Refusal> {
        self.ensure_unused()?;
        let Self { planes, sampling_device, over_quota, .. } =
            std::mem::replace(self, Self { used: true, ..Self::default() });
        if over_quota {
            return Err(Refusal::Unusable(Unusable::TooManyPending));
        }
        let planes = without_gaps(planes)?;

        let (width, height) = match (u32::try_from(request.width), u32::try_from(request.height)) {
            (Ok(width @ 1..), Ok(height @ 1..)) => (width, height),
            _ => return Err(ClientFault::Dimensions(request.width, request.height).into()),
        };
        let layout = match facts.layout {
            Some(layout) if !facts.modifiers.is_empty() => layout,
            _ => return Err(ClientFault::UnknownFormat(request.fourcc).into()),
        };
        let modifier = one_modifier(version, request.fourcc, &planes, facts.modifiers)?;
        let row_layout = Rows::of(modifier);
        if !row_layout.allows_count(planes.len(), layout) {
            return Err(ClientFault::PlaneCount {
                fourcc: request.fourcc,
                expected: layout.planes().len(),
                got: planes.len(),
            }
            .into());
        }
        let planes = planes
            .into_iter()
            .enumerate()
            .map(|(index, plane)| {
                let end = row_layout.end(index, &plane, layout.planes().get(index), width, height)?;
                Ok((plane, end))
            })
            .collect::<Result<Vec<_>, ClientFault>>()?;
        Ok(Checked { planes, modifier, sampling_device })
    }
}

impl<F> Checked<F> {
    /// Checks plane `index` against the `size` of its file in bytes.
    pub(crate) fn check_size(&self, index: usize, size: u64) -> Result<(), ClientFault> {
        match self.planes.get(index) {
            Some(&(_, end)) if end > size => Err(ClientFault::OutOfBounds { plane: index, end, size }),
            _ => Ok(()),
        }
    }
}

/// The planes in order; a plane missing before the last one is a gap.
fn without_gaps<F>(
    planes: [Option<PendingPlane<F>>; MAX_PLANES],
) -> Result<Vec<PendingPlane<F>>, ClientFault> {
    let Some(last) = planes.iter().rposition(Option::is_some) else {
        return Err(ClientFault::NoPlanes);
    };
    planes
        .into_iter()
        .take(last + 1)
        .enumerate()
        .map(|(index, plane)| plane.ok_or(ClientFault::Gap(index)))
        .collect()
}

/// The modifier of the buffer, if its planes agree on one that was advertised.
fn one_modifier<F>(
    version: u32,
    fourcc: u32,
    planes: &[PendingPlane<F>],
    advertised: &[u64],
) -> Result<u64, Refusal> {
    let Some(first) = planes.first() else {
        return Err(ClientFault::NoPlanes.into());
    };
    for plane in planes {
        if !advertised.contains(&plane.modifier) {
            return Err(if version >= UNADVERTISED_IS_FATAL_SINCE {
                ClientFault::Unadvertised(DmabufFormat { fourcc, modifier: plane.modifier }).into()
            } else {
                Refusal::Unusable(Unusable::Modifier)
            });
        }
    }
    match planes.iter().find(|plane| plane.modifier != first.modifier) {
        None => Ok(first.modifier),
        Some(other) if version >= MIXED_MODIFIERS_ARE_FATAL_SINCE => {
            Err(ClientFault::MixedModifiers(first.modifier, other.modifier).into())
        }
        Some(_) => Err(Refusal::Unusable(Unusable::MixedModifiers)),
    }
}

/// How much a modifier lets us know about rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// LINEAR, or implicit: exactly the planes of the format, each `rows` strides long, a row within a stride.
    Plain,
    /// Any other modifier: its planes may be more than the format's (compression data), and only the XML's rule
    /// for the base plane can be computed.
    Opaque,
}

impl Rows {
    fn of(modifier: u64) -> Self {
        if modifier == MOD_LINEAR || modifier == MOD_INVALID { Self::Plain } else { Self::Opaque }
    }

    fn allows_count(self, count: usize, layout: &FormatLayout) -> bool {
        match self {
            Self::Plain => count == layout.planes().len(),
            Self::Opaque => count >= layout.planes().len(),
        }
    }

    /// The byte behind the last one that the plane needs; `layout` is `None` for a plane of the modifier's own.
    fn end<F>(
        self,
        index: usize,
        plane: &PendingPlane<F>,
        layout: Option<&PlaneLayout>,
        width: u32,
        height: u32,
    ) -> Result<u64, ClientFault> {
        let (offset, stride) = (u64::from(plane.offset), u64::from(plane.stride));
        let Some(layout) = layout else {
            return Ok(offset + 1);
        };
        let size = PlaneSize::of(index, layout, width, height);
        let row = match self {
            Self::Plain => size.row_bytes,
            Self::Opaque => 1,
        };
        if stride == 0 || row > stride {
            return Err(ClientFault::Stride { plane: index, row, stride: plane.stride });
        }
        Ok(match self {
            Self::Opaque if index > 0 => offset + stride,
            _ => offset + stride * size.rows,
        })
    }
}

/// Rows of a plane and the bytes that each needs.
struct PlaneSize {
    rows: u64,
    row_bytes: u64,
}

impl PlaneSize {
    fn of(index: usize, layout: &PlaneLayout, width: u32, height: u32) -> Self {
        // Plane 0 is never subsampled (`drm_format_info_plane_width`).
        let (hsub, vsub) = if index == 0 { (1, 1) } else { (layout.hsub.max(1), layout.vsub.max(1)) };
        let blocks_across = width.div_ceil(hsub).div_ceil(layout.block_width.max(1));
        Self {
            // The stride of a format with blocks of several rows is that of a row of blocks.
            rows: u64::from(height.div_ceil(vsub).div_ceil(layout.block_height.max(1))),
            row_bytes: u64::from(blocks_across) * u64::from(layout.bytes_per_block),
        }
    }
}

#[cfg(test)]
#[path = "params_tests.rs"]
mod tests;
