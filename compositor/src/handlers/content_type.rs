//! wp_content_type_v1: what clients say that a surface shows. The planner is told by `output`.

use drm_prime::scanout::ContentType;
use smithay::delegate_content_type;
use smithay::reexports::wayland_protocols::wp::content_type::v1::server::wp_content_type_v1::Type;
use smithay::wayland::compositor::SurfaceData;
use smithay::wayland::content_type::ContentTypeSurfaceCachedState;

use crate::state::State;

/// What a surface shows.
pub(crate) fn content_type(states: &SurfaceData) -> ContentType {
    if !states.cached_state.has::<ContentTypeSurfaceCachedState>() {
        return ContentType::default();
    }
    match states.cached_state.get::<ContentTypeSurfaceCachedState>().current().content_type() {
        Type::Video => ContentType::Video,
        Type::Game => ContentType::Game,
        _ => ContentType::Still,
    }
}

delegate_content_type!(State);
