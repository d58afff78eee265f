//! wp_viewporter; the viewport is read with the surface's state.

use smithay::delegate_viewporter;

use crate::state::State;

delegate_viewporter!(State);
