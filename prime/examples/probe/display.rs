//! The display side of a card: its planes, and whether one of them would show a framebuffer (`TEST_ONLY`). It changes nothing.

use std::{
    collections::HashMap,
    fs::File,
    io,
    num::NonZeroU32,
    os::fd::{AsFd, BorrowedFd},
};

use drm::{
    ClientCapability, Device,
    control::{
        AtomicCommitFlags, Device as ControlDevice, Mode, PlaneType, RawResourceHandle, ResourceHandle,
        atomic::AtomicModeReq, connector, crtc, plane, property,
    },
};
use drm_prime::{DumbBuffer, Framebuffer, HandleTable};

/// The master's file of a card.
pub struct Card(pub File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Device for Card {}
impl ControlDevice for Card {}

/// A plane that could be on the display.
pub struct Plane {
    /// KMS object id.
    pub handle: plane::Handle,
    /// Primary, overlay or cursor.
    pub kind: PlaneType,
    /// Codes of `drm_fourcc.h`.
    pub formats: Vec<u32>,
}

/// The first connected output, and the state in which its planes are tested.
pub struct Output<'a> {
    card: &'a Card,
    /// The mode's name.
    pub mode: Mode,
    /// Its CRTC.
    pub crtc: crtc::Handle,
    /// Planes of that CRTC.
    pub planes: Vec<Plane>,
    connector: connector::Handle,
    mode_blob: property::Value<'static>,
    /// Lies under whatever is tested on another plane than the primary one.
    base: (DumbBuffer, Framebuffer),
}

impl<'a> Output<'a> {
    /// Finds an output that can be tested. `None` if nothing is connected.
    pub fn find(card: &'a Card, table: &HandleTable) -> Result<Option<Self>, Box<dyn std::error::Error>> {
        card.set_client_capability(ClientCapability::UniversalPlanes, true)?;
        card.set_client_capability(ClientCapability::Atomic, true)?;
        let resources = card.resource_handles()?;
        let mut infos = resources.connectors().iter().filter_map(|c| card.get_connector(*c, true).ok());
        let connected = infos.find(|info| info.state() == connector::State::Connected);
        let Some(info) = connected else { return Ok(None) };
        let Some(mode) = info.modes().first().copied() else { return Ok(None) };
        let encoders = info.encoders().iter().filter_map(|encoder| card.get_encoder(*encoder).ok());
        let mut crtcs = encoders.flat_map(|encoder| resources.filter_crtcs(encoder.possible_crtcs()));
        let Some(crtc) = crtcs.next() else { return Ok(None) };
        let mut planes = Vec::new();
        for handle in card.plane_handles()? {
            let plane = card.get_plane(handle)?;
            if !resources.filter_crtcs(plane.possible_crtcs()).contains(&crtc) {
                continue;
            }
            let kind = match properties(card, handle)?.get("type").map(|(_, value)| *value) {
                Some(value) if value == PlaneType::Primary as u64 => PlaneType::Primary,
                Some(value) if value == PlaneType::Cursor as u64 => PlaneType::Cursor,
                _ => PlaneType::Overlay,
            };
            planes.push(Plane { handle, kind, formats: plane.formats().to_vec() });
        }
        let (width, height) = mode.size();
        let base = table.create_dumb(width.into(), height.into(), 32)?;
        let shown = Framebuffer::for_dumb(table, &base, drm_fourcc::DrmFourcc::Xrgb8888)?;
        let mode_blob = card.create_property_blob(&mode)?;
        let connector = info.handle();
        Ok(Some(Self { card, mode, crtc, planes, connector, mode_blob, base: (base, shown) }))
    }

    /// Width and height of the mode.
    pub fn size(&self) -> (u32, u32) {
        (self.mode.size().0.into(), self.mode.size().1.into())
    }

    /// Whether a plane would show the framebuffer over the whole mode.
    pub fn test(&self, plane: &Plane, framebuffer: &Framebuffer) -> io::Result<()> {
        let mut request = AtomicModeReq::new();
        let raw = |handle: RawResourceHandle| u64::from(u32::from(handle));
        set(self.card, &mut request, self.connector, &[("CRTC_ID", raw(self.crtc.into()))])?;
        let mode = u64::from(self.mode_blob);
        set(self.card, &mut request, self.crtc, &[("ACTIVE", 1), ("MODE_ID", mode)])?;
        if plane.kind != PlaneType::Primary
            && let Some(primary) = self.planes.iter().find(|plane| plane.kind == PlaneType::Primary)
        {
            self.put(&mut request, primary, self.base.1.id())?;
        }
        self.put(&mut request, plane, framebuffer.id())?;
        let flags = AtomicCommitFlags::TEST_ONLY | AtomicCommitFlags::ALLOW_MODESET;
        self.card.atomic_commit(flags, request)
    }

    fn put(&self, request: &mut AtomicModeReq, plane: &Plane, framebuffer: NonZeroU32) -> io::Result<()> {
        let (width, height) = self.size();
        let values = [
            ("CRTC_ID", u64::from(u32::from(self.crtc))),
            ("FB_ID", framebuffer.get().into()),
            ("SRC_X", 0),
            ("SRC_Y", 0),
            ("SRC_W", u64::from(width) << 16),
            ("SRC_H", u64::from(height) << 16),
            ("CRTC_X", 0),
            ("CRTC_Y", 0),
            ("CRTC_W", width.into()),
            ("CRTC_H", height.into()),
        ];
        set(self.card, request, plane.handle, &values)
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        // The blob goes with the file at the latest.
        self.card.destroy_property_blob(self.mode_blob.into()).ok();
    }
}

fn properties<T: ResourceHandle>(
    card: &Card,
    object: T,
) -> io::Result<HashMap<String, (property::Handle, u64)>> {
    let all = card.get_properties(object)?;
    let named = all.into_iter().map(|(handle, value)| {
        let name = card.get_property(handle)?.name().to_string_lossy().into_owned();
        Ok((name, (handle, value)))
    });
    named.collect()
}

fn set<T: ResourceHandle>(
    card: &Card,
    request: &mut AtomicModeReq,
    object: T,
    values: &[(&str, u64)],
) -> io::Result<()> {
    let properties = properties(card, object)?;
    for (name, value) in values {
        let (property, _) = properties.get(*name).ok_or(io::ErrorKind::NotFound)?;
        request.add_raw_property(object.into(), *property, *value);
    }
    Ok(())
}
