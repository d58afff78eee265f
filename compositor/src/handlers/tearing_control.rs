//! wp_tearing_control_manager_v1: the hint goes with the surface's state; what comes of it is decided in `output` and by the
//! backend.

use primeway_protocols::delegate_tearing_control;
use primeway_protocols::tearing_control::{PresentationHint, TearingControlHandler, TearingControlState};
use smithay::reexports::wayland_server::DisplayHandle;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::{Cacheable, SurfaceData, with_states};

use crate::state::State;

/// The hint of a commit.
#[derive(Clone, Copy, Debug, Default)]
struct Hint {
    tearing: bool,
}

impl Cacheable for Hint {
    fn commit(&mut self, _display: &DisplayHandle) -> Self {
        *self
    }

    fn merge_into(self, into: &mut Self, _display: &DisplayHandle) {
        *into = self;
    }
}

/// Tells whether a surface's content may tear.
pub(crate) fn may_tear(states: &SurfaceData) -> bool {
    states.cached_state.has::<Hint>() && states.cached_state.get::<Hint>().current().tearing
}

impl TearingControlHandler for State {
    fn tearing_control_state(&mut self) -> &mut TearingControlState {
        &mut self.protocols.tearing_control
    }

    fn presentation_hint(&mut self, surface: &WlSurface, hint: PresentationHint) {
        with_states(surface, |states| {
            states.cached_state.get::<Hint>().pending().tearing = hint == PresentationHint::Async;
        });
    }
}

delegate_tearing_control!(State);
