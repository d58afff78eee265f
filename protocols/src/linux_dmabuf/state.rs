//! What the protocol remembers: the global, what was advertised, and who has which feedback.
//!
//! Owns: [`LinuxDmabufState`]. Does not own: requests (`dispatch`), the events of a feedback (`feedback`).

use std::collections::{HashMap, HashSet};

use wayland_protocols::wp::linux_dmabuf::zv1::server::{
    zwp_linux_dmabuf_feedback_v1::ZwpLinuxDmabufFeedbackV1, zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1,
};
use wayland_server::backend::{ClientId, GlobalId, ObjectId};
use wayland_server::protocol::wl_surface::WlSurface;
use wayland_server::{DisplayHandle, GlobalDispatch, Resource, Weak};

use super::{
    DmabufFeedback, DmabufFeedbackData, DmabufFormat, DmabufGlobalData, MAX_PARAMS, MAX_PENDING_PLANES,
};

/// Version of the global when there is feedback to give.
const VERSION: u32 = 6;
/// Version of the global without feedback: the last one that sends `modifier` events.
const VERSION_WITHOUT_FEEDBACK: u32 = 3;

/// State of the protocol, to be kept by the compositor.
#[derive(Debug)]
pub struct LinuxDmabufState {
    global: GlobalId,
    formats: Vec<DmabufFormat>,
    /// Modifiers per fourcc that were ever advertised.
    advertised: HashMap<u32, Vec<u64>>,
    default: Option<DefaultFeedback>,
    surfaces: HashMap<ObjectId, SurfaceFeedback>,
    /// What is held in params objects, per client that has any.
    pending: HashMap<ClientId, Pending>,
    max_params: usize,
    max_pending_planes: usize,
}

/// The params objects of a client.
#[derive(Debug, Default)]
struct Pending {
    objects: usize,
    planes: usize,
}

#[derive(Debug)]
struct DefaultFeedback {
    current: DmabufFeedback,
    objects: HashSet<ZwpLinuxDmabufFeedbackV1>,
}

/// A surface that has at least one feedback object.
///
/// It stays here until the last of them is destroyed. That may be after the surface: they are inert then.
#[derive(Debug)]
struct SurfaceFeedback {
    surface: Weak<WlSurface>,
    /// `None`: it follows the default feedback.
    own: Option<DmabufFeedback>,
    objects: HashSet<ZwpLinuxDmabufFeedbackV1>,
}

impl LinuxDmabufState {
    /// Creates the global.
    ///
    /// `formats` are advertised to clients that bind versions 1 to 3, in this order. With a default feedback the
    /// global has version 6, without one version 3.
    pub fn new<D>(
        display: &DisplayHandle,
        formats: impl IntoIterator<Item = DmabufFormat>,
        default_feedback: Option<DmabufFeedback>,
    ) -> Self
    where
        D: GlobalDispatch<ZwpLinuxDmabufV1, DmabufGlobalData> + 'static,
    {
        let version = if default_feedback.is_some() { VERSION } else { VERSION_WITHOUT_FEEDBACK };
        let global = display.create_global::<D, ZwpLinuxDmabufV1, _>(version, DmabufGlobalData::new());
        let formats: Vec<_> = formats.into_iter().collect();
        let mut state = Self {
            global,
            formats: Vec::new(),
            advertised: HashMap::new(),
            default: None,
            surfaces: HashMap::new(),
            pending: HashMap::new(),
            max_params: MAX_PARAMS,
            max_pending_planes: MAX_PENDING_PLANES,
        };
        state.advertise(formats.iter().copied());
        state.formats = formats;
        if let Some(current) = default_feedback {
            state.advertise(current.formats());
            state.default = Some(DefaultFeedback { current, objects: HashSet::new() });
        }
        state
    }

    /// The global's id, to disable or remove it.
    pub fn global(&self) -> GlobalId {
        self.global.clone()
    }

    /// The default feedback; `None` for a global of version 3.
    pub fn default_feedback(&self) -> Option<&DmabufFeedback> {
        self.default.as_ref().map(|default| &default.current)
    }

    /// Feedback objects that clients hold, of both kinds.
    pub fn feedback_objects(&self) -> usize {
        let default = self.default.as_ref().map_or(0, |default| default.objects.len());
        default + self.surfaces.values().map(|entry| entry.objects.len()).sum::<usize>()
    }

    /// Replaces the default feedback and sends it to every object that follows it, if it differs from the last one.
    ///
    /// Says whether it differs. A global of version 3 stays one: nothing happens.
    pub fn set_default_feedback(&mut self, feedback: &DmabufFeedback) -> bool {
        let Some(default) = &mut self.default else {
            return false;
        };
        if default.current == *feedback {
            return false;
        }
        default.current = feedback.clone();
        for object in &default.objects {
            send(feedback, object);
        }
        for surface in self.surfaces.values().filter(|surface| surface.own.is_none()) {
            surface.send(feedback);
        }
        self.advertise(feedback.formats());
        true
    }

    /// Gives a surface feedback of its own and sends it to its feedback objects, if it differs from the last one.
    ///
    /// Says whether anything was sent. A surface without feedback objects is not remembered: when it gets its
    /// first, [`new_surface_feedback`](super::LinuxDmabufHandler::new_surface_feedback) is asked.
    pub fn set_surface_feedback(&mut self, surface: &WlSurface, feedback: &DmabufFeedback) -> bool {
        self.change_surface(surface, Some(feedback))
    }

    /// Lets a surface follow the default feedback again, and sends that if it differs from the last one.
    ///
    /// Says whether anything was sent.
    pub fn reset_surface_feedback(&mut self, surface: &WlSurface) -> bool {
        self.change_surface(surface, None)
    }

    fn change_surface(&mut self, surface: &WlSurface, own: Option<&DmabufFeedback>) -> bool {
        let (Some(default), Some(entry)) = (&self.default, self.surfaces.get_mut(&surface.id())) else {
            return false;
        };
        let before = entry.own.as_ref().unwrap_or(&default.current);
        let after = own.unwrap_or(&default.current);
        let changed = before != after;
        if changed {
            entry.send(after);
        }
        entry.own = own.cloned();
        if let Some(own) = own {
            self.advertise(own.formats());
        }
        changed
    }

    /// Formats for clients without feedback.
    pub(crate) fn formats(&self) -> &[DmabufFormat] {
        &self.formats
    }

    /// Modifiers ever advertised with a fourcc.
    pub(crate) fn advertised_modifiers(&self, fourcc: u32) -> &[u64] {
        self.advertised.get(&fourcc).map_or(&[], Vec::as_slice)
    }

    /// Planes that a client holds in params objects. Each is an open file.
    pub fn pending_planes(&self, client: &ClientId) -> usize {
        self.pending.get(client).map_or(0, |pending| pending.planes)
    }

    /// Sets how many params objects a client may have and how many planes it may have added to them without asking
    /// for their buffers. What goes beyond makes no buffer: `failed`.
    pub fn set_quotas(&mut self, params: usize, planes: usize) {
        (self.max_params, self.max_pending_planes) = (params, planes);
    }

    /// Whether a client may add no plane to a params object.
    pub(crate) fn planes_full(&self, client: &ClientId) -> bool {
        self.pending_planes(client) >= self.max_pending_planes
    }

    /// Counts a new params object; says whether it is one too many.
    pub(crate) fn add_params(&mut self, client: ClientId) -> bool {
        let pending = self.pending.entry(client).or_default();
        pending.objects += 1;
        pending.objects > self.max_params
    }

    /// Forgets a params object.
    pub(crate) fn remove_params(&mut self, client: &ClientId) {
        if let Some(pending) = self.pending.get_mut(client) {
            pending.objects = pending.objects.saturating_sub(1);
            if pending.objects == 0 {
                self.pending.remove(client);
            }
        }
    }

    /// Counts a params object of `client` that went from `before` to `after` planes.
    pub(crate) fn count_planes(&mut self, client: &ClientId, before: usize, after: usize) {
        if let Some(pending) = self.pending.get_mut(client) {
            pending.planes = (pending.planes + after).saturating_sub(before);
        }
    }

    /// Registers an object of the default feedback and sends it.
    pub(crate) fn add_default_object(&mut self, object: ZwpLinuxDmabufFeedbackV1) {
        if let Some(default) = &mut self.default {
            send(&default.current, &object);
            default.objects.insert(object);
        }
    }

    /// Whether `surface` already has a feedback object.
    pub(crate) fn knows_surface(&self, surface: &WlSurface) -> bool {
        self.surfaces.contains_key(&surface.id())
    }

    /// Registers a feedback object of `surface` and sends the surface's feedback. `own` counts for the first only.
    pub(crate) fn add_surface_object(
        &mut self,
        surface: &WlSurface,
        object: ZwpLinuxDmabufFeedbackV1,
        own: Option<DmabufFeedback>,
    ) {
        let Some(default) = &self.default else {
            return;
        };
        let new = own.as_ref().filter(|_| !self.surfaces.contains_key(&surface.id())).cloned();
        let entry = self.surfaces.entry(surface.id()).or_insert_with(|| SurfaceFeedback {
            surface: surface.downgrade(),
            own,
            objects: HashSet::new(),
        });
        send(entry.own.as_ref().unwrap_or(&default.current), &object);
        entry.objects.insert(object);
        if let Some(new) = new {
            self.advertise(new.formats());
        }
    }

    /// Forgets a destroyed feedback object.
    pub(crate) fn remove_object(&mut self, object: &ZwpLinuxDmabufFeedbackV1, surface: Option<&ObjectId>) {
        match surface {
            None => {
                if let Some(default) = &mut self.default {
                    default.objects.remove(object);
                }
            }
            Some(id) => {
                if let Some(entry) = self.surfaces.get_mut(id) {
                    entry.objects.remove(object);
                    if entry.objects.is_empty() {
                        self.surfaces.remove(id);
                    }
                }
            }
        }
    }

    fn advertise(&mut self, formats: impl IntoIterator<Item = DmabufFormat>) {
        for DmabufFormat { fourcc, modifier } in formats {
            let modifiers = self.advertised.entry(fourcc).or_default();
            if !modifiers.contains(&modifier) {
                modifiers.push(modifier);
            }
        }
    }
}

impl SurfaceFeedback {
    fn send(&self, feedback: &DmabufFeedback) {
        if self.surface.is_alive() {
            for object in &self.objects {
                send(feedback, object);
            }
        }
    }
}

fn send(feedback: &DmabufFeedback, object: &ZwpLinuxDmabufFeedbackV1) {
    if let Some(data) = object.data::<DmabufFeedbackData>() {
        feedback.send(object, &mut data.last_table());
    }
}
