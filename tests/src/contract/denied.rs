//! [`Denied`]: a side of the contract without what older kernels lack.
//!
//! Owns which calls an old kernel refuses and with which errno. Everything else goes to the side underneath.

use anyhow::Result;
use rustix::io::Errno;

use super::{
    Answer, CAP_ADDFB2_MODIFIERS, Caps, Census, Contract, Device, Dumb, FB_MODIFIERS, Fb2, FbInfo, Fd, FdArg,
    File, Map, Memory, Node, SyncArg, SyncFile, Whence,
};

/// What is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Denials {
    /// `CLOSEFB`, before Linux 6.8.
    pub closefb: bool,
    /// Sync files of dma-bufs, before Linux 6.0.
    pub sync_files: bool,
    /// Modifiers, with drivers that have none.
    pub modifiers: bool,
    /// Leases of nothing, before Linux 5.15.
    pub empty_lease: bool,
}

impl Denials {
    /// An old kernel: everything at once.
    pub const ALL: Denials = Denials { closefb: true, sync_files: true, modifiers: true, empty_lease: true };
    /// Each denial by itself, and all of them, by name.
    pub const EACH: &[(&str, Denials)] = &[
        ("no_closefb", Denials { closefb: true, ..Denials::NONE }),
        ("no_sync_file", Denials { sync_files: true, ..Denials::NONE }),
        ("no_modifiers", Denials { modifiers: true, ..Denials::NONE }),
        ("no_empty_lease", Denials { empty_lease: true, ..Denials::NONE }),
        ("old_kernel", Denials::ALL),
    ];
    /// Nothing.
    pub const NONE: Denials =
        Denials { closefb: false, sync_files: false, modifiers: false, empty_lease: false };
}

/// A side without what [`Denials`] name.
#[derive(Debug)]
pub struct Denied<C> {
    inner: C,
    denials: Denials,
}

impl<C: Contract> Denied<C> {
    /// Takes `denials` away from `inner`.
    pub fn new(inner: C, denials: Denials) -> Denied<C> {
        Denied { inner, denials }
    }
}

impl<C: Contract> Contract for Denied<C> {
    fn caps(&self) -> Caps {
        let caps = self.inner.caps();
        Caps {
            closefb: caps.closefb && !self.denials.closefb,
            sync_files: caps.sync_files && !self.denials.sync_files,
            modifiers: caps.modifiers && !self.denials.modifiers,
            empty_lease: caps.empty_lease && !self.denials.empty_lease,
        }
    }

    fn get_cap(&mut self, file: File, cap: u64) -> Answer<u64> {
        let value = self.inner.get_cap(file, cap)?;
        Ok(if cap == CAP_ADDFB2_MODIFIERS && self.denials.modifiers { 0 } else { value })
    }

    fn empty_lease(&mut self, file: File) -> Answer<File> {
        if self.denials.empty_lease { Err(Errno::INVAL) } else { self.inner.empty_lease(file) }
    }

    fn addfb2(&mut self, file: File, request: &Fb2) -> Answer<u32> {
        // Drivers without a display, and nodes without the right, say so before the flags are looked at.
        if self.denials.modifiers && request.flags & FB_MODIFIERS != 0 {
            let probe = Fb2 { flags: u32::MAX, ..*request };
            return self.inner.addfb2(file, &probe);
        }
        self.inner.addfb2(file, request)
    }

    fn getfb2(&mut self, file: File, id: u32) -> Answer<Fb2> {
        let mut fb = self.inner.getfb2(file, id)?;
        if self.denials.modifiers {
            fb.flags &= !FB_MODIFIERS;
            fb.modifiers = [0; 4];
        }
        Ok(fb)
    }

    fn closefb(&mut self, file: File, id: u32, pad: u32) -> Answer<()> {
        if self.denials.closefb { Err(Errno::INVAL) } else { self.inner.closefb(file, id, pad) }
    }

    fn export_sync_file(&mut self, fd: Fd, flags: u32) -> Answer<SyncFile> {
        if self.denials.sync_files { Err(Errno::NOTTY) } else { self.inner.export_sync_file(fd, flags) }
    }

    fn import_sync_file(&mut self, fd: Fd, sync: SyncArg, flags: u32) -> Answer<()> {
        if self.denials.sync_files { Err(Errno::NOTTY) } else { self.inner.import_sync_file(fd, sync, flags) }
    }

    fn limit_fds(&mut self, free: Option<usize>) {
        self.inner.limit_fds(free);
    }

    fn census(&mut self) -> Result<Census> {
        self.inner.census()
    }

    fn close_everything(&mut self) {
        self.inner.close_everything();
    }

    fn open(&mut self, device: Device, node: Node) -> Answer<File> {
        self.inner.open(device, node)
    }

    fn dup_file(&mut self, file: File) -> Answer<File> {
        self.inner.dup_file(file)
    }

    fn close_file(&mut self, file: File) {
        self.inner.close_file(file);
    }

    fn set_admin(&mut self, on: bool) -> Answer<()> {
        self.inner.set_admin(on)
    }

    fn set_master(&mut self, file: File, on: bool) -> Answer<()> {
        self.inner.set_master(file, on)
    }

    fn create_dumb(&mut self, file: File, width: u32, height: u32, bpp: u32) -> Answer<Dumb> {
        self.inner.create_dumb(file, width, height, bpp)
    }

    fn map_dumb(&mut self, file: File, handle: u32) -> Answer<()> {
        self.inner.map_dumb(file, handle)
    }

    fn mmap_dumb(&mut self, file: File, handle: u32, len: u64) -> Answer<Map> {
        self.inner.mmap_dumb(file, handle, len)
    }

    fn destroy_dumb(&mut self, file: File, handle: u32) -> Answer<()> {
        self.inner.destroy_dumb(file, handle)
    }

    fn gem_close(&mut self, file: File, handle: u32) -> Answer<()> {
        self.inner.gem_close(file, handle)
    }

    fn change_handle(&mut self, file: File, handle: u32, new: u32) -> Answer<()> {
        self.inner.change_handle(file, handle, new)
    }

    fn flink(&mut self, file: File, handle: u32) -> Answer<u32> {
        self.inner.flink(file, handle)
    }

    fn gem_open(&mut self, file: File, name: u32) -> Answer<u32> {
        self.inner.gem_open(file, name)
    }

    fn handle_to_fd(&mut self, file: File, handle: u32, flags: u32) -> Answer<Fd> {
        self.inner.handle_to_fd(file, handle, flags)
    }

    fn fd_to_handle(&mut self, file: File, fd: FdArg, flags: u32) -> Answer<u32> {
        self.inner.fd_to_handle(file, fd, flags)
    }

    fn rmfb(&mut self, file: File, id: u32) -> Answer<()> {
        self.inner.rmfb(file, id)
    }

    fn getfb(&mut self, file: File, id: u32) -> Answer<FbInfo> {
        self.inner.getfb(file, id)
    }

    fn show(&mut self, file: File, id: u32) -> Answer<()> {
        self.inner.show(file, id)
    }

    fn shown(&mut self, file: File) -> Answer<(u32, u32)> {
        self.inner.shown(file)
    }

    fn picture(&mut self, file: File) -> Result<u32> {
        self.inner.picture(file)
    }

    fn dup_fd(&mut self, fd: Fd) -> Answer<Fd> {
        self.inner.dup_fd(fd)
    }

    fn close_fd(&mut self, fd: Fd) {
        self.inner.close_fd(fd);
    }

    fn inode(&mut self, fd: Fd) -> Answer<u64> {
        self.inner.inode(fd)
    }

    fn size(&mut self, fd: Fd) -> Answer<u64> {
        self.inner.size(fd)
    }

    fn count(&mut self, fd: Fd) -> Answer<u64> {
        self.inner.count(fd)
    }

    fn seek(&mut self, fd: Fd, offset: i64, whence: Whence) -> Answer<u64> {
        self.inner.seek(fd, offset, whence)
    }

    fn read(&mut self, fd: Fd) -> Answer<()> {
        self.inner.read(fd)
    }

    fn write(&mut self, fd: Fd) -> Answer<()> {
        self.inner.write(fd)
    }

    fn ftruncate(&mut self, fd: Fd, len: u64) -> Answer<()> {
        self.inner.ftruncate(fd, len)
    }

    fn unknown_ioctl(&mut self, fd: Fd) -> Answer<()> {
        self.inner.unknown_ioctl(fd)
    }

    fn same_file(&mut self, a: Fd, b: Fd) -> Answer<bool> {
        self.inner.same_file(a, b)
    }

    fn reopen(&mut self, fd: Fd) -> Answer<()> {
        self.inner.reopen(fd)
    }

    fn nonblocking(&mut self, fd: Fd) -> Answer<bool> {
        self.inner.nonblocking(fd)
    }

    fn set_nonblocking(&mut self, fd: Fd, on: bool) -> Answer<()> {
        self.inner.set_nonblocking(fd, on)
    }

    fn mmap(&mut self, fd: Fd, offset: u64, len: u64, writable: bool) -> Answer<Map> {
        self.inner.mmap(fd, offset, len, writable)
    }

    fn peek(&mut self, map: Map, offset: u64) -> u8 {
        self.inner.peek(map, offset)
    }

    fn poke(&mut self, map: Map, offset: u64, value: u8) {
        self.inner.poke(map, offset, value);
    }

    fn flood(&mut self, map: Map, value: u8) {
        self.inner.flood(map, value);
    }

    fn unmap(&mut self, map: Map) {
        self.inner.unmap(map);
    }

    fn poke_forked(&mut self, map: Map, offset: u64, value: u8) -> Answer<u8> {
        self.inner.poke_forked(map, offset, value)
    }

    fn sync(&mut self, fd: Fd, flags: u64) -> Answer<()> {
        self.inner.sync(fd, flags)
    }

    fn poll(&mut self, fd: Fd, events: u16) -> Answer<u16> {
        self.inner.poll(fd, events)
    }

    fn signalled(&mut self, sync: SyncFile) -> Answer<bool> {
        self.inner.signalled(sync)
    }

    fn close_sync(&mut self, sync: SyncFile) {
        self.inner.close_sync(sync);
    }

    fn fence_attach(&mut self, file: File, handle: u32, flags: u32, pad: u32) -> Answer<u32> {
        self.inner.fence_attach(file, handle, flags, pad)
    }

    fn fence_signal(&mut self, file: File, fence: u32, flags: u32) -> Answer<()> {
        self.inner.fence_signal(file, fence, flags)
    }

    fn udmabuf(&mut self, memory: Memory, offset: u64, size: u64) -> Answer<Fd> {
        self.inner.udmabuf(memory, offset, size)
    }
}
