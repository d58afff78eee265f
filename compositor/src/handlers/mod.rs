//! One protocol per file: requests become calls on the parts of [`State`](crate::state::State). Nothing is decided
//! here.

pub(crate) mod alpha_modifier;
mod attach;
mod color_representation;
mod compositor;
pub(crate) mod content_type;
mod data_device;
mod drm_syncobj;
mod guard;
mod linux_dmabuf;
mod output;
mod presentation;
mod seat;
mod shm;
mod subcompositor;
pub(crate) mod tearing_control;
mod viewporter;
mod xdg_shell;
mod xdg_surface;
