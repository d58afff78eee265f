//! The planner: which display plane shows which layer, and why not the others.
//!
//! It owns the decision alone. It creates no framebuffer, issues no ioctl and knows no client: plane capabilities
//! and layers come in, a [`Plan`] goes out together with one typed [`Refusal`] for every pair of layer and plane
//! that was considered and not used. The only question it asks the outside is [`plan`]'s `test`, which a KMS
//! backend answers with a TEST_ONLY commit.
//!
//! Coordinates are pixels of the CRTC, origin top left, y downwards. Layers are listed from the topmost down.
//!
//! ```text
//!  top    layer 0 ──> overlay with the highest position   (if nothing composited covers it)
//!         layer 1 ──> next overlay below
//!         layer 2 ──> composited into the primary          (wl_shm, refused format, no plane left …)
//!         layer 3 ──> composited: layer 2 was, and overlaps it
//!  bottom layer 4 ──> the primary itself, if opaque, as large as the output and nothing was composited
//! ```

mod geometry;
mod layer;
mod open;
mod plan;
mod plane;
mod refusal;
mod search;
#[cfg(test)]
mod tests;

pub use self::geometry::{Rect, SourceRect};
pub use self::layer::{Layer, Scannable};
pub use self::open::open_planes;
pub use self::plan::{Plan, PrimaryContent};
pub use self::plane::{PlaneCaps, PlaneType};
pub use self::refusal::{FramebufferRefusal, Refusal};
pub use self::search::plan;
