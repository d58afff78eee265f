//! `zwp_linux_dmabuf_v1`: clients hand over dma-bufs as `wl_buffer`s.
//!
//! Owns: the protocol's objects, its rules and errors, format tables and feedback. Does not own: what a buffer is
//! ([`LinuxDmabufHandler::Buffer`]), importing it, and which formats there are.
//!
//! # Use
//!
//! ```
//! use primeway_protocols::linux_dmabuf::{
//!     DmabufFeedbackBuilder, DmabufFormat, DmabufParams, ImportError, LinuxDmabufHandler, LinuxDmabufState,
//!     MOD_INVALID, MOD_LINEAR,
//! };
//! use wayland_server::{Client, DataInit, Dispatch, Display, DisplayHandle, protocol::wl_buffer};
//!
//! struct State { dmabuf: LinuxDmabufState }
//! struct Buffer(DmabufParams);
//!
//! impl LinuxDmabufHandler for State {
//!     type Buffer = Buffer;
//!     fn linux_dmabuf_state(&mut self) -> &mut LinuxDmabufState {
//!         &mut self.dmabuf
//!     }
//!     fn import(&mut self, _client: &Client, params: DmabufParams) -> Result<Buffer, ImportError> {
//!         Ok(Buffer(params))
//!     }
//! }
//!
//! // The compositor dispatches its own wl_buffers.
//! impl Dispatch<wl_buffer::WlBuffer, Buffer> for State {
//!     fn request(
//!         _: &mut Self, _: &Client, _: &wl_buffer::WlBuffer, _: wl_buffer::Request, _: &Buffer,
//!         _: &DisplayHandle, _: &mut DataInit<'_, Self>,
//!     ) {
//!     }
//! }
//! primeway_protocols::delegate_linux_dmabuf!(State);
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let display = Display::<State>::new()?;
//! let xrgb8888 = u32::from_le_bytes(*b"XR24");
//! let formats = [MOD_LINEAR, MOD_INVALID].map(|modifier| DmabufFormat { fourcc: xrgb8888, modifier });
//! let main_device = 0xe280; // 226:128
//! let feedback = DmabufFeedbackBuilder::new(main_device, formats).build()?;
//! let dmabuf = LinuxDmabufState::new::<State>(&display.handle(), formats, Some(feedback));
//! let state = State { dmabuf };
//! # let _ = state;
//! # Ok(())
//! # }
//! ```
//!
//! # What happens to a request
//!
//! ```text
//!  add            plane_idx, plane_set, invalid_format (mixed modifiers, from version 5)
//!  create(_immed) incomplete, invalid_dimensions, invalid_format, incomplete (count), out_of_bounds (stride)
//!                 -> accepts_fd per plane     -> not a dma-buf: `failed` | invalid_wl_buffer
//!                 -> real size of each fd     -> out_of_bounds
//!                 -> import                   -> wl_buffer, or what ImportError says
//!                    (create: import_later, whose PendingBuffer may be answered later)
//! ```
//!
//! Errors that the XML calls fatal end the client. Everything else does not: planes that are no dma-bufs, and pairs
//! that were not advertised to a client that has no way to be told so (versions 1 to 3). A pair counts as
//! advertised for ever once it was sent to anyone, so that a client which answers old feedback lives on, and it
//! does not matter which kind of tranche it was in.
//!
//! # Errors, rules and tests
//!
//! Every error of the XML, when a client gets it, and the tests that show that it gets this code and that another
//! client goes on. What else may come of a bad buffer stands below it. A test checks this table: each error is in it,
//! each test exists.
//!
//! | error | rule | tests |
//! |---|---|---|
//! | already_used | anything but `destroy` after `create` or `create_immed`, whatever came of it | `a_used_params_object_can_only_be_destroyed`, `after_any_attempt_everything_is_already_used` |
//! | plane_idx | `add`: an index above 3 | `a_plane_index_of_four_is_out_of_range`, `an_index_is_below_four_and_set_once` |
//! | plane_set | `add`: an index for the second time | `a_plane_is_set_once`, `adding_agrees_with_a_list` |
//! | incomplete | no planes; a gap; not as many as the format has (more only with a modifier that has planes of its own) | `wrong_plane_counts_are_incomplete`, `gaps_are_incomplete`, `a_modifier_of_its_own_may_bring_planes_of_its_own` |
//! | invalid_format | a fourcc that is unknown or was never advertised; from version 4 a pair that never was; from version 5 planes of different modifiers | `unknown_and_unadvertised_formats_are_invalid`, `an_unadvertised_modifier_is_invalid_since_version_four`, `mixed_modifiers_are_an_invalid_format_since_version_five` |
//! | invalid_dimensions | a width or height below 1 | `negative_and_empty_sizes_are_invalid_dimensions`, `sizes_are_positive` |
//! | out_of_bounds | stride 0; a row longer than its stride; offset + stride * rows behind the end of the file | `a_stride_of_zero_is_out_of_bounds`, `a_row_wider_than_its_stride_is_out_of_bounds`, `an_offset_near_u32_max_is_out_of_bounds`, `a_plane_that_ends_behind_its_file_is_out_of_bounds`, `linear_buffers_agree_with_the_oracle` |
//! | invalid_wl_buffer | `create_immed` of what no other error fits: not a dma-buf, unknown flags, before version 4 an unadvertised pair | `a_memfd_is_no_dmabuf`, `unknown_flags_are_not_dropped`, `import_errors_have_their_codes` |
//! | invalid_dev_t_size | `set_sampling_device`: an array that is not 8 bytes long | `a_dev_t_of_another_size_is_an_error`, `a_dev_t_has_eight_bytes` |
//! | (`failed`) | `create` of what would be invalid_wl_buffer; an import that fails for reasons which the client could not know; over a quota | `a_memfd_is_no_dmabuf`, `an_unforeseeable_failure_ends_nobody`, `a_client_cannot_hoard_planes`, `params_objects_are_limited` |
//!
//! Versions 1 and 2 have no modifiers: what their clients send is ignored and the modifier is implicit
//! ([`MOD_INVALID`]).

mod dispatch;
mod dmabuf_fd;
mod feedback;
mod layout;
mod params;
mod pending;
mod state;

use std::os::fd::{BorrowedFd, OwnedFd};

use wayland_server::protocol::wl_buffer::WlBuffer;
use wayland_server::protocol::wl_surface::WlSurface;
use wayland_server::{Client, Dispatch};

pub use dispatch::{DmabufFeedbackData, DmabufGlobalData, DmabufParamsData, FailedBuffer};
pub use dmabuf_fd::{DMA_BUF_MAGIC, DmabufFile, is_dmabuf};
pub use feedback::{DmabufFeedback, DmabufFeedbackBuilder, FormatTable, Tranche};
pub use layout::{FormatLayout, PlaneLayout};
pub use pending::PendingBuffer;
pub use state::LinuxDmabufState;
/// Flags of a buffer: `YInvert`, `Interlaced`, `BottomFirst`.
pub use wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_buffer_params_v1::Flags;
/// Flags of a feedback tranche: `Scanout`, `Sampling`.
pub use wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_dmabuf_feedback_v1::TrancheFlags;

/// Most planes of a buffer, as in `DRM_IOCTL_MODE_ADDFB2`.
pub const MAX_PLANES: usize = 4;
/// Most planes that a client may have added without asking for their buffers.
///
/// Each is an fd of the compositor. The params object that goes beyond it makes no buffer: `failed`. The default of
/// [`LinuxDmabufState::set_quotas`].
pub const MAX_PENDING_PLANES: usize = 128;
/// Most params objects that a client may have; those it makes beyond make no buffer: `failed`. The default of
/// [`LinuxDmabufState::set_quotas`].
pub const MAX_PARAMS: usize = 512;
/// `DRM_FORMAT_MOD_LINEAR`.
pub const MOD_LINEAR: u64 = 0;
/// `DRM_FORMAT_MOD_INVALID`: the layout is implicit, the exporter knows it.
pub const MOD_INVALID: u64 = 0x00ff_ffff_ffff_ffff;

/// A pixel format and a layout modifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DmabufFormat {
    /// `DRM_FORMAT_*` of `drm_fourcc.h`.
    pub fourcc: u32,
    /// `DRM_FORMAT_MOD_*` of `drm_fourcc.h`.
    pub modifier: u64,
}

/// One plane of a client's buffer.
#[derive(Debug)]
pub struct BufferPlane {
    /// The dma-buf. Several planes may hold different fds of the same one.
    pub fd: OwnedFd,
    /// Start of the plane in the dma-buf, in bytes.
    pub offset: u32,
    /// Distance from one row to the next, in bytes. Never 0 for a plane of the format.
    pub stride: u32,
    /// What the file said of itself; `None` if it could not be asked.
    pub file: Option<DmabufFile>,
}

/// A client's buffer that passed every check of the protocol.
#[derive(Debug)]
pub struct DmabufParams {
    /// Width of the base plane in pixels, positive.
    pub width: i32,
    /// Height of the base plane in pixels, positive.
    pub height: i32,
    /// `DRM_FORMAT_*` of `drm_fourcc.h`, advertised.
    pub format: u32,
    /// The one modifier of all planes, advertised with `format`; [`MOD_INVALID`] if implicit.
    pub modifier: u64,
    /// Flags as sent. A compositor that cannot show interlaced contents fails the import.
    pub flags: Flags,
    /// Planes in the order of their index, without gaps. As many as the format has; more only with a modifier
    /// that is neither LINEAR nor implicit.
    pub planes: Vec<BufferPlane>,
    /// The device (`dev_t`) that the client wants the buffer to be imported to for sampling, from version 6. It may
    /// be one that was never advertised: then the import is likely to fail, which is no fault.
    pub sampling_device: Option<u64>,
}

/// Why [`LinuxDmabufHandler::import`] gave no buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The buffer cannot be used, for a reason that the client could not foresee.
    ///
    /// `create`: the `failed` event. `create_immed`: the `wl_buffer` exists but is marked as failed (its user
    /// data is [`FailedBuffer`]), and `failed` is sent. The client lives on.
    #[error("the buffer cannot be imported")]
    Failed,
    /// As [`Failed`](Self::Failed), but `create_immed` ends the client with invalid_wl_buffer.
    #[error("the buffer is invalid")]
    InvalidWlBuffer,
    /// The client's fault: the error incomplete.
    #[error("missing or too many planes")]
    Incomplete,
    /// The client's fault: the error invalid_format. Not for a pair that was advertised.
    #[error("the format is not supported")]
    InvalidFormat,
    /// The client's fault: the error invalid_dimensions.
    #[error("the width or height is invalid")]
    InvalidDimensions,
    /// The client's fault: the error out_of_bounds.
    #[error("a plane goes out of the bounds of its dma-buf")]
    OutOfBounds,
}

/// What the protocol asks of a compositor.
pub trait LinuxDmabufHandler: Sized + 'static {
    /// An imported buffer: the user data of its `wl_buffer`, dropped with it.
    type Buffer: Send + Sync + 'static;

    /// The protocol's state, which the compositor keeps.
    fn linux_dmabuf_state(&mut self) -> &mut LinuxDmabufState;

    /// Planes of a fourcc, `None` for a format that the compositor does not know: clients get invalid_format.
    ///
    /// By default the formats of [`FormatLayout::from_fourcc`].
    fn format_layout(&self, fourcc: u32) -> Option<FormatLayout> {
        FormatLayout::from_fourcc(fourcc)
    }

    /// Whether a file may back a buffer. By default dma-bufs only; a software device may take memfds too. `file` is what is known
    /// of it so far, which may be enough.
    fn accepts_fd(&self, fd: BorrowedFd<'_>, _file: DmabufFile) -> bool {
        is_dmabuf(fd)
    }

    /// A client's file arrived with an `add` request, whatever becomes of it. For compositors that count the files
    /// which clients send.
    fn plane_received(&mut self, _client: &Client) {}

    /// Makes a buffer of planes that passed every check.
    ///
    /// `params` is the implementation's: fds that it does not keep are closed when it drops them.
    ///
    /// # Errors
    ///
    /// Why there is no buffer; each variant of [`ImportError`] says what the client gets.
    fn import(&mut self, client: &Client, params: DmabufParams) -> Result<Self::Buffer, ImportError>;

    /// As [`import`](Self::import) for a `create`, which may be answered later, since its answer is an event: `answer`
    /// waits for it, here or on another thread. What takes long to import should.
    ///
    /// By default it is answered at once.
    fn import_later(&mut self, client: &Client, params: DmabufParams, answer: PendingBuffer<Self>)
    where
        Self: Dispatch<WlBuffer, Self::Buffer>,
    {
        let result = self.import(client, params);
        answer.send(result);
    }

    /// Feedback of a surface that gets its first feedback object; `None` for the default feedback.
    fn new_surface_feedback(&mut self, _surface: &WlSurface) -> Option<DmabufFeedback> {
        None
    }
}

/// Implements the protocol's dispatch traits for a compositor's state.
///
/// The type has to be a [`LinuxDmabufHandler`] and to dispatch `WlBuffer` with
/// [`LinuxDmabufHandler::Buffer`] as user data.
#[macro_export]
macro_rules! delegate_linux_dmabuf {
    ($ty:ty) => {
        $crate::wayland_server::delegate_global_dispatch!($ty: [
            $crate::wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1:
                $crate::linux_dmabuf::DmabufGlobalData
        ] => $crate::linux_dmabuf::LinuxDmabufState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1:
                $crate::linux_dmabuf::DmabufGlobalData
        ] => $crate::linux_dmabuf::LinuxDmabufState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_buffer_params_v1::ZwpLinuxBufferParamsV1:
                $crate::linux_dmabuf::DmabufParamsData
        ] => $crate::linux_dmabuf::LinuxDmabufState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_dmabuf_feedback_v1::ZwpLinuxDmabufFeedbackV1:
                $crate::linux_dmabuf::DmabufFeedbackData
        ] => $crate::linux_dmabuf::LinuxDmabufState);
        $crate::wayland_server::delegate_dispatch!($ty: [
            $crate::wayland_server::protocol::wl_buffer::WlBuffer: $crate::linux_dmabuf::FailedBuffer
        ] => $crate::linux_dmabuf::LinuxDmabufState);
    };
}
