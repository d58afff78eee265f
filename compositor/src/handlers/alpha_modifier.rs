//! wp_alpha_modifier_v1: how much of a surface is seen goes with its commits. Planes and composition are told by `output`.

use primeway_protocols::alpha_modifier::{AlphaModifierHandler, AlphaModifierState};
use primeway_protocols::delegate_alpha_modifier;
use smithay::reexports::wayland_server::DisplayHandle;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::wayland::compositor::{Cacheable, SurfaceData, with_states};

use crate::state::State;

/// The factor of a commit.
#[derive(Clone, Copy, Debug, Default)]
struct Factor(Option<u32>);

impl Cacheable for Factor {
    fn commit(&mut self, _: &DisplayHandle) -> Self {
        *self
    }

    fn merge_into(self, into: &mut Self, _: &DisplayHandle) {
        *into = self;
    }
}

/// How much of a surface is seen, 0xffff for all.
pub(crate) fn alpha(states: &SurfaceData) -> u16 {
    if !states.cached_state.has::<Factor>() {
        return u16::MAX;
    }
    let factor = states.cached_state.get::<Factor>().current().0.unwrap_or(u32::MAX);
    // 0x10001 of 2^32-1 is 1 of 0xffff.
    ((u64::from(factor) + 0x8000) / 0x1_0001) as u16
}

impl AlphaModifierHandler for State {
    fn alpha_modifier_state(&mut self) -> &mut AlphaModifierState {
        &mut self.protocols.alpha_modifier
    }
}

impl State {
    /// Takes in what was said of a surface, which is about to commit.
    pub(super) fn commit_alpha(&mut self, surface: &WlSurface) {
        let factor = self.protocols.alpha_modifier.commit(surface);
        with_states(surface, |states| {
            // Surfaces of which nothing was ever said are left alone.
            if factor.is_some() || states.cached_state.has::<Factor>() {
                states.cached_state.get::<Factor>().pending().0 = factor;
            }
        });
    }
}

delegate_alpha_modifier!(State);
