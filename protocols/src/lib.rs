//! Wayland protocols, server side, for any compositor built on `wayland-server`.
//!
//! Owns: protocol implementations that could be written from the protocol's XML alone. Each one keeps the
//! objects and rules of its protocol and asks the compositor, through a trait, for what only the compositor
//! can know. Does not own: buffers, devices, rendering, surfaces' state.
//!
//! - [`alpha_modifier`]: `wp_alpha_modifier_v1`, how much of a surface is seen.
//! - [`color_representation`]: `wp_color_representation_manager_v1`, matrix and range of YUV buffers.
//! - [`drm_syncobj`]: `wp_linux_drm_syncobj_manager_v1`, explicit synchronisation.
//! - [`linux_dmabuf`]: `zwp_linux_dmabuf_v1`, versions 1 to 6.
//! - [`tearing_control`]: `wp_tearing_control_manager_v1`, pictures at once rather than whole.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod alpha_modifier;
pub mod color_representation;
pub mod drm_syncobj;
pub mod linux_dmabuf;
mod surface_objects;
pub mod tearing_control;

#[doc(hidden)]
pub use wayland_protocols;
#[doc(hidden)]
pub use wayland_server;
