//! wp_presentation; the feedback itself is sent by [`crate::output`].

use smithay::delegate_presentation;

use crate::state::State;

delegate_presentation!(State);
