//! A bare display master: planes set by hand, without any compositor.
//!
//! Owns the few KMS calls that let a test say what the kernel itself does with a buffer. With it the model in
//! `crc` is proven against the kernel before a compositor is judged by it.

use anyhow::{Context, Result, bail};
use drm::Device as _;
use drm::buffer::{Handle, PlanarBuffer};
use drm::control::{
    Device as _, Event, FbCmd2Flags, Mode, PageFlipFlags, PlaneType, connector, crtc, framebuffer, plane,
    property,
};
use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::buffer::ClientBuffer;
use crate::drm_node::DrmNode;

/// The master of a card with one CRTC in use.
#[derive(Debug)]
pub struct KmsMaster {
    node: DrmNode,
    crtc: crtc::Handle,
    connector: connector::Handle,
    mode: Mode,
    overlays: Vec<plane::Handle>,
}

/// A client buffer as ADDFB2 wants it.
struct Imported<'a> {
    buffer: &'a ClientBuffer,
    handles: Vec<Handle>,
}

impl PlanarBuffer for Imported<'_> {
    fn size(&self) -> (u32, u32) {
        (self.buffer.width, self.buffer.height)
    }
    fn format(&self) -> DrmFourcc {
        self.buffer.format.fourcc
    }
    fn modifier(&self) -> Option<DrmModifier> {
        Some(DrmModifier::Linear)
    }
    fn pitches(&self) -> [u32; 4] {
        std::array::from_fn(|i| self.buffer.layout.get(i).map_or(0, |plane| plane.stride))
    }
    fn handles(&self) -> [Option<Handle>; 4] {
        std::array::from_fn(|i| self.handles.get(i).copied())
    }
    fn offsets(&self) -> [u32; 4] {
        std::array::from_fn(|i| self.buffer.layout.get(i).map_or(0, |plane| plane.offset))
    }
}

impl KmsMaster {
    /// Becomes master of a card and chooses its first connected connector with its first mode.
    ///
    /// # Errors
    ///
    /// When somebody else is master, or nothing is connected.
    pub fn take(node: DrmNode) -> Result<KmsMaster> {
        node.set_client_capability(drm::ClientCapability::UniversalPlanes, true)
            .context("universal planes")?;
        node.acquire_master_lock().context("SET_MASTER")?;
        let resources = node.resource_handles().context("GETRESOURCES")?;
        let connected =
            resources.connectors().iter().filter_map(|handle| node.get_connector(*handle, true).ok());
        let Some(info) = connected.into_iter().find(|info| info.state() == connector::State::Connected)
        else {
            bail!("nothing is connected to {}", node.path().display());
        };
        let mode = *info.modes().first().context("a connector without modes")?;
        let crtc = *resources.crtcs().first().context("a card without CRTCs")?;
        let mut overlays = Vec::new();
        for handle in node.plane_handles().context("GETPLANERESOURCES")? {
            if plane_type(&node, handle)? == PlaneType::Overlay as u64 {
                overlays.push(handle);
            }
        }
        Ok(KmsMaster { crtc, connector: info.handle(), mode, overlays, node })
    }

    /// Width and height of the mode.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        let (width, height) = self.mode.size();
        (u32::from(width), u32::from(height))
    }

    fn import(&self, buffer: &ClientBuffer) -> Result<framebuffer::Handle> {
        let import = |plane| self.node.prime_fd_to_buffer(buffer.plane_fd(plane));
        let handles: Vec<Handle> =
            (0..buffer.layout.len()).map(import).collect::<Result<_, _>>().context("PRIME_FD_TO_HANDLE")?;
        let mut distinct = handles.clone();
        distinct.dedup();
        let framebuffer =
            self.node.add_planar_framebuffer(&Imported { buffer, handles }, FbCmd2Flags::MODIFIERS);
        for handle in distinct {
            self.node.close_buffer(handle).context("GEM_CLOSE")?;
        }
        framebuffer.context("ADDFB2")
    }

    /// Lights the display with a buffer of the size of the mode.
    ///
    /// # Errors
    ///
    /// The error of the ioctl that failed.
    pub fn show(&self, buffer: &ClientBuffer) -> Result<()> {
        let framebuffer = self.import(buffer)?;
        self.node
            .set_crtc(self.crtc, Some(framebuffer), (0, 0), &[self.connector], Some(self.mode))
            .context("SETCRTC")
    }

    /// Shows buffers of the size of the mode in turn, each at the next vblank, `count` times.
    ///
    /// # Errors
    ///
    /// The error of the ioctl that failed.
    pub fn flip(&self, buffers: &[ClientBuffer], count: usize) -> Result<()> {
        let framebuffers = buffers.iter().map(|buffer| self.import(buffer)).collect::<Result<Vec<_>>>()?;
        let first = *framebuffers.first().context("no buffer")?;
        let mode = Some(self.mode);
        self.node.set_crtc(self.crtc, Some(first), (0, 0), &[self.connector], mode).context("SETCRTC")?;
        for framebuffer in framebuffers.into_iter().cycle().skip(1).take(count) {
            self.node.page_flip(self.crtc, framebuffer, PageFlipFlags::EVENT, None).context("PAGE_FLIP")?;
            while !self
                .node
                .receive_events()
                .context("events")?
                .any(|event| matches!(event, Event::PageFlip(_)))
            {}
        }
        Ok(())
    }

    /// Puts a buffer on the overlay number `index` at `place`. YUV is shown in limited range.
    ///
    /// # Errors
    ///
    /// When there is no such overlay, or an ioctl failed.
    pub fn show_overlay(&self, index: usize, buffer: &ClientBuffer, place: (i32, i32)) -> Result<()> {
        let plane = *self.overlays.get(index).with_context(|| format!("no overlay {index}"))?;
        if buffer.format.is_yuv() {
            self.limited_range(plane)?;
        }
        let framebuffer = self.import(buffer)?;
        let (width, height) = (buffer.width, buffer.height);
        let (on_crtc, of_buffer) = ((place.0, place.1, width, height), (0, 0, width << 16, height << 16));
        self.node.set_plane(plane, self.crtc, Some(framebuffer), 0, on_crtc, of_buffer).context("SETPLANE")
    }

    fn limited_range(&self, plane: plane::Handle) -> Result<()> {
        let (handle, info, _) = property(&self.node, plane, "COLOR_RANGE")?;
        let property::ValueType::Enum(values) = info.value_type() else { bail!("COLOR_RANGE is no enum") };
        let (_, names) = values.values();
        let limited = names.iter().find(|value| value.name().to_string_lossy().contains("limited"));
        let value = limited.context("no limited range")?.value();
        self.node.set_property(plane, handle, value).context("COLOR_RANGE")
    }
}

fn property(
    node: &DrmNode,
    plane: plane::Handle,
    name: &str,
) -> Result<(property::Handle, property::Info, u64)> {
    for (handle, value) in node.get_properties(plane).context("OBJ_GETPROPERTIES")? {
        let info = node.get_property(handle).context("GETPROPERTY")?;
        if info.name().to_str() == Ok(name) {
            return Ok((handle, info, value));
        }
    }
    bail!("the plane has no property {name}")
}

fn plane_type(node: &DrmNode, plane: plane::Handle) -> Result<u64> {
    Ok(property(node, plane, "type")?.2)
}
