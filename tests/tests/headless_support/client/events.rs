//! Events of the server as one list, and the globals.
//!
//! Owns the translation from wayland-client's dispatch to [`Event`]. It reacts to nothing but, unless
//! switched off, configure.

use primeway_tests::client::link::{Feedback, Globals};
use primeway_tests::delegate_link;
use wayland_client::backend::ObjectId;
use wayland_client::protocol::wl_buffer::{self, WlBuffer};
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_keyboard::{self, WlKeyboard};
use wayland_client::protocol::wl_region::WlRegion;
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_subsurface::WlSubsurface;
use wayland_client::{Connection, Dispatch, Proxy as _, QueueHandle, delegate_noop, event_created_child};
use wayland_protocols::wp::alpha_modifier::v1::client::wp_alpha_modifier_surface_v1::WpAlphaModifierSurfaceV1;
use wayland_protocols::wp::color_representation::v1::client::wp_color_representation_surface_v1::WpColorRepresentationSurfaceV1;
use wayland_protocols::wp::content_type::v1::client::wp_content_type_v1::WpContentTypeV1;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    self, ZwpLinuxBufferParamsV1,
};
use wayland_protocols::wp::presentation_time::client::wp_presentation_feedback::{
    self, WpPresentationFeedback,
};
use wayland_protocols::wp::tearing_control::v1::client::wp_tearing_control_v1::WpTearingControlV1;
use wayland_protocols::wp::viewporter::client::wp_viewport::WpViewport;
use wayland_protocols::xdg::shell::client::xdg_popup::{self, XdgPopup};
use wayland_protocols::xdg::shell::client::xdg_positioner::XdgPositioner;
use wayland_protocols::xdg::shell::client::xdg_surface::{self, XdgSurface};
use wayland_protocols::xdg::shell::client::xdg_toplevel::{self, XdgToplevel};

/// Something the server said. Objects are named by their number on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A frame callback is done.
    Frame(u32),
    /// `wl_buffer.release`.
    Release(u32),
    /// The content of a commit is on screen.
    Presented {
        /// Which request it answers.
        token: u32,
        /// Nanoseconds of CLOCK_MONOTONIC.
        time: u64,
        /// Nanoseconds to the next refresh.
        refresh: u32,
        /// The output's frame counter.
        sequence: u64,
        /// The ZERO_COPY flag.
        zero_copy: bool,
    },
    /// The content of a commit was never shown.
    Discarded(u32),
    /// `xdg_surface.configure`: the object and the serial.
    Configure(u32, u32),
    /// `xdg_toplevel.configure`.
    Toplevel {
        /// The xdg_toplevel.
        object: u32,
        /// Width and height; 0 leaves them to the client.
        size: (i32, i32),
        /// Values of `xdg_toplevel.state`.
        states: Vec<u32>,
    },
    /// `xdg_popup.configure`: x, y, width, height.
    Popup(u32, [i32; 4]),
    /// `xdg_popup.repositioned`: the object and the client's token.
    Repositioned(u32, u32),
    /// `xdg_popup.popup_done`.
    PopupDone(u32),
    /// A surface has the keyboard.
    KeyboardEnter(u32),
    /// A surface has lost the keyboard.
    KeyboardLeave(u32),
    /// `zwp_linux_buffer_params_v1.created`.
    Created(WlBuffer),
    /// `zwp_linux_buffer_params_v1.failed`.
    Failed,
}

/// Globals and the events so far.
#[derive(Debug)]
pub struct Seen {
    /// In the order of arrival; tests may clear it.
    pub log: Vec<Event>,
    /// Acknowledge configure events at once.
    pub acknowledge: bool,
    /// What the server offers.
    pub globals: Globals,
}

impl Seen {
    pub(super) fn new() -> Seen {
        Seen { log: Vec::new(), acknowledge: true, globals: Globals::with_dmabuf(4) }
    }

    /// Whether an xdg_surface was configured.
    #[must_use]
    pub fn configured(&self, xdg_surface: u32) -> bool {
        self.log.iter().any(|event| matches!(event, Event::Configure(object, _) if *object == xdg_surface))
    }

    /// Where an event is in the list.
    #[must_use]
    pub fn position(&self, wanted: &Event) -> Option<usize> {
        self.log.iter().position(|event| event == wanted)
    }

    /// Whether the compositor gave a buffer back.
    #[must_use]
    pub fn released(&self, buffer: u32) -> bool {
        self.log.contains(&Event::Release(buffer))
    }

    /// Whether a frame callback is done.
    #[must_use]
    pub fn frame_done(&self, token: u32) -> bool {
        self.log.contains(&Event::Frame(token))
    }

    /// Where the answer to a feedback request is in the list.
    #[must_use]
    pub fn presented_at(&self, wanted: u32) -> Option<usize> {
        self.log.iter().position(|event| matches!(event, Event::Presented { token, .. } if *token == wanted))
    }

    /// The ZERO_COPY flag of the answer to a feedback request, once it came.
    #[must_use]
    pub fn zero_copy(&self, wanted: u32) -> Option<bool> {
        self.log.iter().find_map(|event| match event {
            Event::Presented { token, zero_copy, .. } if *token == wanted => Some(*zero_copy),
            _ => None,
        })
    }

    /// The last size and states that a toplevel was told.
    #[must_use]
    pub fn toplevel(&self, wanted: u32) -> Option<((i32, i32), Vec<u32>)> {
        self.log.iter().rev().find_map(|event| match event {
            Event::Toplevel { object, size, states } if *object == wanted => Some((*size, states.clone())),
            _ => None,
        })
    }

    /// The last place that a popup was told: x, y, width, height.
    #[must_use]
    pub fn popup(&self, wanted: u32) -> Option<[i32; 4]> {
        self.log.iter().rev().find_map(|event| match event {
            Event::Popup(object, place) if *object == wanted => Some(*place),
            _ => None,
        })
    }
}

fn number(id: &ObjectId) -> u32 {
    id.protocol_id()
}

/// A `wl_surface.frame` with its token.
impl Dispatch<WlCallback, u32> for Seen {
    fn event(
        state: &mut Self,
        _: &WlCallback,
        event: wl_callback::Event,
        token: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_callback::Event::Done { .. } = event {
            state.log.push(Event::Frame(*token));
        }
    }
}

impl Dispatch<WlBuffer, ()> for Seen {
    fn event(
        state: &mut Self,
        buffer: &WlBuffer,
        event: wl_buffer::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_buffer::Event::Release = event {
            state.log.push(Event::Release(number(&buffer.id())));
        }
    }
}

impl Dispatch<WlKeyboard, ()> for Seen {
    fn event(
        state: &mut Self,
        _: &WlKeyboard,
        event: wl_keyboard::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_keyboard::Event::Enter { surface, .. } => {
                state.log.push(Event::KeyboardEnter(number(&surface.id())));
            }
            wl_keyboard::Event::Leave { surface, .. } => {
                state.log.push(Event::KeyboardLeave(number(&surface.id())));
            }
            _ => {}
        }
    }
}

impl Dispatch<XdgSurface, ()> for Seen {
    fn event(
        state: &mut Self,
        surface: &XdgSurface,
        event: xdg_surface::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            if state.acknowledge {
                surface.ack_configure(serial);
            }
            state.log.push(Event::Configure(number(&surface.id()), serial));
        }
    }
}

impl Dispatch<XdgToplevel, ()> for Seen {
    fn event(
        state: &mut Self,
        toplevel: &XdgToplevel,
        event: xdg_toplevel::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_toplevel::Event::Configure { width, height, states } = event {
            let states =
                states.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
            let object = number(&toplevel.id());
            state.log.push(Event::Toplevel { object, size: (width, height), states });
        }
    }
}

impl Dispatch<XdgPopup, ()> for Seen {
    fn event(
        state: &mut Self,
        popup: &XdgPopup,
        event: xdg_popup::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let object = number(&popup.id());
        match event {
            xdg_popup::Event::Configure { x, y, width, height } => {
                state.log.push(Event::Popup(object, [x, y, width, height]));
            }
            xdg_popup::Event::Repositioned { token } => state.log.push(Event::Repositioned(object, token)),
            xdg_popup::Event::PopupDone => state.log.push(Event::PopupDone(object)),
            _ => {}
        }
    }
}

impl Dispatch<ZwpLinuxBufferParamsV1, ()> for Seen {
    fn event(
        state: &mut Self,
        _: &ZwpLinuxBufferParamsV1,
        event: zwp_linux_buffer_params_v1::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            zwp_linux_buffer_params_v1::Event::Created { buffer } => state.log.push(Event::Created(buffer)),
            zwp_linux_buffer_params_v1::Event::Failed => state.log.push(Event::Failed),
            _ => {}
        }
    }

    event_created_child!(Seen, ZwpLinuxBufferParamsV1, [
        zwp_linux_buffer_params_v1::EVT_CREATED_OPCODE => (WlBuffer, ()),
    ]);
}

impl Dispatch<WpPresentationFeedback, u32> for Seen {
    fn event(
        state: &mut Self,
        _: &WpPresentationFeedback,
        event: wp_presentation_feedback::Event,
        token: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match Feedback::of(&event) {
            Some(Feedback::Presented { time, refresh, sequence, zero_copy }) => {
                state.log.push(Event::Presented { token: *token, time, refresh, sequence, zero_copy });
            }
            Some(Feedback::Discarded) => state.log.push(Event::Discarded(*token)),
            None => {}
        }
    }
}

delegate_link!(Seen);
delegate_noop!(Seen: WlRegion);
delegate_noop!(Seen: WlSubsurface);
delegate_noop!(Seen: WpAlphaModifierSurfaceV1);
delegate_noop!(Seen: WpColorRepresentationSurfaceV1);
delegate_noop!(Seen: WpContentTypeV1);
delegate_noop!(Seen: XdgPositioner);
delegate_noop!(Seen: WpViewport);
delegate_noop!(Seen: WpTearingControlV1);
delegate_noop!(Seen: ignore WlSeat);
