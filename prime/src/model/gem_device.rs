//! [`GemDevice`] for a model's [`File`]: what the handle table, the framebuffers and the compositor run on where there is no
//! DRM. Descriptors are real ones, made by [`super::escape`].

use std::{
    io,
    num::NonZeroU32,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::io::Errno;

use super::{DRM_CLOEXEC, DRM_RDWR, Fb2Request, FdArg, File, MODIFIERS, SeedTrait, escape};
use crate::{
    Mapping,
    device::{DumbAllocation, FramebufferRequest, GemDevice},
};

impl GemDevice for File {
    fn dev_id(&self) -> u64 {
        self.driver().rdev
    }

    fn supports_modifiers(&self) -> bool {
        let driver = self.driver();
        driver.modeset && driver.modifiers
    }

    fn identifies_dmabufs(&self) -> bool {
        // A buffer's memfd has one dma-buf at a time, which its handle keeps, unless links are weak.
        !self.device().machine().profile().has(SeedTrait::WeakExportLink)
    }

    fn is_dmabuf(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        escape::is_buffer(self.device().machine(), fd)
    }

    fn prime_fd_to_handle(&self, fd: BorrowedFd<'_>) -> io::Result<NonZeroU32> {
        nonzero(self.fd_to_handle(FdArg::Real(fd))?)
    }

    fn prime_handle_to_fd(&self, handle: NonZeroU32) -> io::Result<OwnedFd> {
        let rdwr = match self.device().machine().profile().has(SeedTrait::CloexecOnly) {
            true => 0,
            false => DRM_RDWR,
        };
        self.handle_to_fd(handle.get(), DRM_CLOEXEC | rdwr)?.into_owned()
    }

    fn gem_close(&self, handle: NonZeroU32) -> io::Result<()> {
        Ok(Self::gem_close(self, handle.get())?)
    }

    fn add_framebuffer(&self, request: &FramebufferRequest) -> io::Result<NonZeroU32> {
        let mut fb = Fb2Request {
            width: request.width,
            height: request.height,
            pixel_format: request.format as u32,
            flags: if request.modifier.is_some() { MODIFIERS } else { 0 },
            ..Fb2Request::default()
        };
        for (i, (handle, layout)) in request.planes.iter().flatten().enumerate() {
            fb.handles[i] = handle.get();
            fb.pitches[i] = layout.stride;
            fb.offsets[i] = layout.offset;
            fb.modifiers[i] = request.modifier.map_or(0, u64::from);
        }
        nonzero(self.addfb2(&fb)?)
    }

    fn close_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        match self.driver().closefb {
            true => Ok(self.closefb(id.get(), 0)?),
            false => Ok(self.rmfb(id.get())?),
        }
    }

    fn remove_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        Ok(self.rmfb(id.get())?)
    }

    fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> io::Result<DumbAllocation> {
        let dumb = Self::create_dumb(self, width, height, bpp)?;
        Ok(DumbAllocation { handle: nonzero(dumb.handle)?, stride: dumb.pitch, size: dumb.size })
    }

    fn map_dumb(&self, handle: NonZeroU32, len: usize) -> io::Result<Mapping> {
        Ok(Self::map_dumb(self, handle.get(), len)?.into_mapping())
    }
}

fn nonzero(id: u32) -> io::Result<NonZeroU32> {
    NonZeroU32::new(id).ok_or_else(|| Errno::INVAL.into())
}
