//! What the display shows, read back through a writeback connector.
//!
//! The connector is attached when the mode is set (the kernel wants ALLOW_MODESET for it once); a capture is one
//! more commit that names a framebuffer to write to and waits for its fence.

use std::os::fd::AsFd as _;

use drm::control::{AtomicCommitFlags, RawResourceHandle, connector, crtc, property};
use drm_fourcc::DrmFourcc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::device::{CardError, KmsDevice, Object, Properties, Request};
use super::in_fence::OutFence;
use crate::backend::buffers::Buffers;
use crate::render::image::Picture;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// primeway was started without `--writeback`, or the device has no such connector for the output.
    #[error("no writeback connector is attached: start primeway with --writeback on a device that has one")]
    NoWriteback,
    /// No such output.
    #[error("there is no such output")]
    NoOutput,
    /// The output is off.
    #[error("the output is off")]
    Off,
    /// The session is inactive.
    #[error("the session is not active")]
    Inactive,
    /// A kernel call failed.
    #[error("{what}: {errno}")]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// Its errno.
        errno: Errno,
    },
}

/// A writeback connector of a CRTC.
#[derive(Debug)]
pub struct Writeback {
    connector: connector::Handle,
    crtc_id: property::Handle,
    fb_id: property::Handle,
    out_fence: property::Handle,
}

impl Writeback {
    /// Finds a writeback connector that `crtc` can feed.
    ///
    /// # Errors
    /// When the driver does not know writeback or has none for the CRTC.
    pub fn find(device: &dyn KmsDevice, crtc: crtc::Handle) -> Result<Self, CardError> {
        let resources = device.resources().map_err(CardError::io("reading resources"))?;
        for &handle in &resources.connectors {
            let Ok(info) = device.connector(handle, false) else { continue };
            if info.interface != connector::Interface::Writeback {
                continue;
            }
            if resources.crtcs_of(info.crtcs).any(|fed| fed == crtc) {
                let props = Properties::read(device, Object::Connector(handle))?;
                return Ok(Self {
                    connector: handle,
                    crtc_id: props.require("CRTC_ID")?,
                    fb_id: props.require("WRITEBACK_FB_ID")?,
                    out_fence: props.require("WRITEBACK_OUT_FENCE_PTR")?,
                });
            }
        }
        Err(CardError::Io {
            what: "no writeback connector for the output",
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    pub(super) fn attach(&self, req: &mut Request, crtc: RawResourceHandle) {
        req.set(self.connector.into(), self.crtc_id, u64::from(crtc.get()));
    }

    /// Writes what the CRTC shows next into memory, with a commit that `req` begins; waits for a pending flip and then for
    /// the picture, at most a second.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn capture(
        &self,
        device: &dyn KmsDevice,
        buffers: &Buffers,
        crtc: crtc::Handle,
        (width, height): (u32, u32),
        mut req: Request,
    ) -> Result<Picture, CaptureError> {
        let kernel = |what| move |errno| CaptureError::Kernel { what, errno };
        let (memory, framebuffer) = buffers
            .allocate(width, height, DrmFourcc::Xrgb8888)
            .map_err(kernel("allocating the capture buffer"))?;
        let mut fence = OutFence::new();
        let connector = self.connector.into();
        req.set(connector, self.crtc_id, u64::from(u32::from(crtc)));
        req.set(connector, self.fb_id, u64::from(framebuffer.id().get()));
        req.set(connector, self.out_fence, fence.pointer());
        device.commit(AtomicCommitFlags::empty(), &mut req).map_err(|errno| match errno {
            Errno::ACCESS | Errno::PERM => CaptureError::Inactive,
            errno => CaptureError::Kernel { what: "the writeback commit", errno },
        })?;
        let fence =
            fence.take().ok_or(CaptureError::Kernel { what: "the writeback fence", errno: Errno::BADF })?;
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&fence.as_fd(), PollFlags::IN)], Some(&second))
            .map_err(kernel("waiting for the picture"))?;
        if ready == 0 {
            return Err(CaptureError::Kernel { what: "waiting for the picture", errno: Errno::TIMEDOUT });
        }
        let (stride, row) = (memory.stride() as usize, width as usize * 4);
        let mut pixels = vec![0; row * height as usize];
        for (y, line) in pixels.chunks_exact_mut(row).enumerate() {
            if !memory.mapping().read(y * stride, line) {
                return Err(CaptureError::Kernel { what: "reading the picture", errno: Errno::FAULT });
            }
        }
        Ok(Picture { width, height, pixels })
    }
}
