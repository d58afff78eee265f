//! [`Model`]: the contract as `drm_prime::model` answers it.
//!
//! Owns the model's values behind the slots. It adds nothing to what the model says: where a call has no counterpart there,
//! [`Caps`] say so and the suite's table names the reason.

use std::hash::{DefaultHasher, Hasher};

use anyhow::{Context, Result};
use drm_prime::errno_name;
use drm_prime::model::memory::Access;
use drm_prime::model::{
    self, DmabufFd, DmabufMap, Driver, DumbMap, Fb2Request, Machine, Profile, UdmabufMemory,
};
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::slots::{Slots, closing};
use super::{
    Answer, Caps, Census, Contract, Device, Dumb, Fb2, FbInfo, Fd, FdArg, File, Map, Memory, Node, SyncArg,
    SyncFile, Whence, sys,
};

/// A mapping, by where it came from.
#[derive(Debug)]
enum Mapped {
    Dmabuf(DmabufMap),
    Dumb(DumbMap),
}

impl Mapped {
    fn bytes(&self) -> &drm_prime::Mapping {
        match self {
            Mapped::Dmabuf(map) => map.mapping(),
            Mapped::Dumb(map) => map.mapping(),
        }
    }

    fn bytes_mut(&mut self) -> &mut drm_prime::Mapping {
        match self {
            Mapped::Dmabuf(map) => map.mapping_mut(),
            Mapped::Dumb(map) => map.mapping_mut(),
        }
    }
}

/// What a machine of the model can do less than a kernel of today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// It has `CLOSEFB`.
    pub closefb: bool,
    /// It has sync files.
    pub sync_files: bool,
    /// Its display takes modifiers.
    pub modifiers: bool,
    /// It leases nothing to who asks for nothing.
    pub empty_lease: bool,
}

impl Switches {
    /// Everything.
    pub const ALL: Switches =
        Switches { closefb: true, sync_files: true, modifiers: true, empty_lease: true };
    /// Each switch off by itself, and all of them, by name.
    pub const EACH: &[(&str, Switches)] = &[
        ("no_closefb", Switches { closefb: false, ..Switches::ALL }),
        ("no_sync_file", Switches { sync_files: false, ..Switches::ALL }),
        ("no_modifiers", Switches { modifiers: false, ..Switches::ALL }),
        ("no_empty_lease", Switches { empty_lease: false, ..Switches::ALL }),
        ("old_kernel", Switches { closefb: false, sync_files: false, modifiers: false, empty_lease: false }),
    ];
}

/// A machine with a vgem and a vkms device.
#[derive(Debug)]
pub struct Model {
    machine: Machine,
    switches: Switches,
    vgem: model::Device,
    vkms: model::Device,
    files: Slots<File, model::File>,
    fds: Slots<Fd, DmabufFd>,
    maps: Slots<Map, Mapped>,
    syncs: Slots<SyncFile, model::SyncFile>,
}

impl Model {
    /// A machine of a profile.
    #[must_use]
    pub fn new(profile: Profile) -> Model {
        Model::with(profile, Switches::ALL, Driver::vkms().first_id)
    }

    /// A machine of a profile, with some abilities switched off. Ids of framebuffers begin at `first_id`.
    #[must_use]
    pub fn with(profile: Profile, switches: Switches, first_id: u32) -> Model {
        let machine = Machine::new(profile);
        let Switches { closefb, modifiers, empty_lease, sync_files } = switches;
        machine.set_sync_files(sync_files);
        let vgem = machine.add_device(Driver { closefb, modifiers, empty_lease, ..Driver::vgem() });
        let vkms = machine.add_device(Driver { closefb, modifiers, empty_lease, first_id, ..Driver::vkms() });
        Model {
            machine,
            switches,
            vgem,
            vkms,
            files: Slots::default(),
            fds: Slots::default(),
            maps: Slots::default(),
            syncs: Slots::default(),
        }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    fn file(&self, file: File) -> &model::File {
        self.files.get(file)
    }

    fn fd(&self, fd: Fd) -> &DmabufFd {
        self.fds.get(fd)
    }
}

fn length(len: u64) -> Answer<usize> {
    usize::try_from(len).map_err(|_| Errno::INVAL)
}

impl Contract for Model {
    fn caps(&self) -> Caps {
        let Switches { closefb, sync_files, modifiers, empty_lease } = self.switches;
        Caps { closefb, sync_files, modifiers, empty_lease }
    }

    fn limit_fds(&mut self, free: Option<usize>) {
        let open = self.machine.census().descriptors;
        self.machine.limit_fds(free.map(|free| open + free));
    }

    fn census(&mut self) -> Result<Census> {
        let census = self.machine.census();
        Ok(Census {
            dmabufs: census.dmabufs as u64,
            bytes: census.dmabuf_references,
            framebuffers: census.framebuffers as u64,
            objects: (census.objects + census.attachments + census.handles + census.members) as u64,
        })
    }

    closing!();

    fn set_admin(&mut self, on: bool) -> Answer<()> {
        self.machine.set_admin(on);
        Ok(())
    }

    fn set_master(&mut self, file: File, on: bool) -> Answer<()> {
        let file = self.file(file);
        if on { file.set_master() } else { file.drop_master() }
    }

    fn open(&mut self, device: Device, node: Node) -> Answer<File> {
        let device = match device {
            Device::Vgem => &self.vgem,
            Device::Vkms => &self.vkms,
        };
        let node = match node {
            Node::Primary => model::Node::Primary,
            Node::Render => model::Node::Render,
        };
        Ok(self.files.insert(device.open(node)?))
    }

    fn dup_file(&mut self, file: File) -> Answer<File> {
        let dup = self.file(file).try_clone()?;
        Ok(self.files.insert(dup))
    }

    fn get_cap(&mut self, file: File, cap: u64) -> Answer<u64> {
        self.file(file).get_cap(cap)
    }

    fn empty_lease(&mut self, file: File) -> Answer<File> {
        let lease = self.file(file).create_empty_lease()?;
        Ok(self.files.insert(lease))
    }

    fn create_dumb(&mut self, file: File, width: u32, height: u32, bpp: u32) -> Answer<Dumb> {
        let model::Dumb { handle, pitch, size } = self.file(file).create_dumb(width, height, bpp)?;
        Ok(Dumb { handle, pitch, size })
    }

    fn map_dumb(&mut self, file: File, handle: u32) -> Answer<()> {
        self.file(file).map_dumb(handle, 1).map(drop)
    }

    fn mmap_dumb(&mut self, file: File, handle: u32, len: u64) -> Answer<Map> {
        let map = self.file(file).map_dumb(handle, length(len)?)?;
        Ok(self.maps.insert(Mapped::Dumb(map)))
    }

    fn destroy_dumb(&mut self, file: File, handle: u32) -> Answer<()> {
        self.file(file).destroy_dumb(handle)
    }

    fn gem_close(&mut self, file: File, handle: u32) -> Answer<()> {
        self.file(file).gem_close(handle)
    }

    fn change_handle(&mut self, file: File, handle: u32, new: u32) -> Answer<()> {
        self.file(file).gem_change_handle(handle, new)
    }

    fn flink(&mut self, file: File, handle: u32) -> Answer<u32> {
        self.file(file).gem_flink(handle)
    }

    fn gem_open(&mut self, file: File, name: u32) -> Answer<u32> {
        self.file(file).gem_open(name)
    }

    fn handle_to_fd(&mut self, file: File, handle: u32, flags: u32) -> Answer<Fd> {
        let fd = self.file(file).handle_to_fd(handle, flags)?;
        Ok(self.fds.insert(fd))
    }

    fn fd_to_handle(&mut self, file: File, fd: FdArg, _flags: u32) -> Answer<u32> {
        let fd = match fd {
            FdArg::Dmabuf(fd) => model::FdArg::Dmabuf(self.fd(fd)),
            FdArg::Bad => model::FdArg::Bad,
            FdArg::OPath => model::FdArg::OPath,
            FdArg::DevNull | FdArg::Memfd | FdArg::Drm(_) => model::FdArg::NotDmabuf,
        };
        self.file(file).fd_to_handle(fd)
    }

    fn addfb2(&mut self, file: File, request: &Fb2) -> Answer<u32> {
        self.file(file).addfb2(&Fb2Request {
            width: request.width,
            height: request.height,
            pixel_format: request.format,
            flags: request.flags,
            handles: request.handles,
            pitches: request.pitches,
            offsets: request.offsets,
            modifiers: request.modifiers,
        })
    }

    fn rmfb(&mut self, file: File, id: u32) -> Answer<()> {
        self.file(file).rmfb(id)
    }

    fn closefb(&mut self, file: File, id: u32, pad: u32) -> Answer<()> {
        self.file(file).closefb(id, pad)
    }

    fn getfb(&mut self, file: File, id: u32) -> Answer<FbInfo> {
        let model::Fb { width, height, pitch, bpp, depth, handle } = self.file(file).getfb(id)?;
        Ok(FbInfo { width, height, pitch, bpp, depth, handle })
    }

    fn getfb2(&mut self, file: File, id: u32) -> Answer<Fb2> {
        let fb = self.file(file).getfb2(id)?;
        Ok(Fb2 {
            width: fb.width,
            height: fb.height,
            format: fb.pixel_format,
            flags: fb.flags,
            handles: fb.handles,
            pitches: fb.pitches,
            offsets: fb.offsets,
            modifiers: fb.modifiers,
        })
    }

    fn show(&mut self, file: File, id: u32) -> Answer<()> {
        self.file(file).set_plane(0, Some(id))
    }

    fn shown(&mut self, _file: File) -> Answer<(u32, u32)> {
        let shown = self.vkms.plane_framebuffer(0).unwrap_or(0);
        Ok((shown, shown))
    }

    /// A digest of the pixels that the plane's framebuffer has, read through an export of its memory.
    fn picture(&mut self, _file: File) -> Result<u32> {
        let id = self.vkms.plane_framebuffer(0).context("the plane is off")?;
        let looker = self.vkms.open(model::Node::Primary).map_err(errno_name).map_err(anyhow::Error::msg)?;
        let read = || -> Answer<u32> {
            let fb = looker.getfb2(id)?;
            let fd = looker.handle_to_fd(fb.handles[0], model::DRM_CLOEXEC | model::DRM_RDWR)?;
            let map = fd.map(0, length(fd.size())?, Access::ReadOnly)?;
            let mut digest = DefaultHasher::new();
            let mut row = vec![0; fb.width as usize * 4];
            for y in 0..fb.height {
                let start = fb.offsets[0] as usize + y as usize * fb.pitches[0] as usize;
                if !map.mapping().read(start, &mut row) {
                    return Err(Errno::FAULT);
                }
                digest.write(&row);
            }
            Ok(digest.finish() as u32)
        };
        read().map_err(errno_name).map_err(anyhow::Error::msg)
    }

    fn dup_fd(&mut self, fd: Fd) -> Answer<Fd> {
        let dup = self.fd(fd).try_clone()?;
        Ok(self.fds.insert(dup))
    }

    fn inode(&mut self, fd: Fd) -> Answer<u64> {
        Ok(self.fd(fd).inode())
    }

    fn size(&mut self, fd: Fd) -> Answer<u64> {
        Ok(self.fd(fd).size())
    }

    fn count(&mut self, fd: Fd) -> Answer<u64> {
        Ok(self.fd(fd).count())
    }

    fn seek(&mut self, fd: Fd, offset: i64, whence: Whence) -> Answer<u64> {
        let whence = match whence {
            Whence::Set => model::Whence::Set,
            Whence::Cur => model::Whence::Current,
            Whence::End => model::Whence::End,
        };
        self.fd(fd).seek(whence, offset)
    }

    fn read(&mut self, fd: Fd) -> Answer<()> {
        self.fd(fd).read_bytes()
    }

    fn write(&mut self, fd: Fd) -> Answer<()> {
        self.fd(fd).write_bytes()
    }

    fn ftruncate(&mut self, fd: Fd, len: u64) -> Answer<()> {
        self.fd(fd).truncate(len)
    }

    fn unknown_ioctl(&mut self, fd: Fd) -> Answer<()> {
        self.fd(fd).unknown_ioctl()
    }

    fn same_file(&mut self, a: Fd, b: Fd) -> Answer<bool> {
        Ok(self.fd(a).same_file(self.fd(b)))
    }

    fn reopen(&mut self, fd: Fd) -> Answer<()> {
        self.fd(fd).reopen().map(drop)
    }

    fn nonblocking(&mut self, fd: Fd) -> Answer<bool> {
        Ok(self.fd(fd).nonblocking())
    }

    fn set_nonblocking(&mut self, fd: Fd, on: bool) -> Answer<()> {
        self.fd(fd).set_nonblocking(on);
        Ok(())
    }

    fn mmap(&mut self, fd: Fd, offset: u64, len: u64, writable: bool) -> Answer<Map> {
        let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
        let map = self.fd(fd).map(offset, length(len)?, access)?;
        Ok(self.maps.insert(Mapped::Dmabuf(map)))
    }

    fn peek(&mut self, map: Map, offset: u64) -> u8 {
        let mut byte = [0];
        let inside = self.maps.get(map).bytes().read(offset as usize, &mut byte);
        assert!(inside, "byte {offset} of a mapping");
        byte[0]
    }

    fn poke(&mut self, map: Map, offset: u64, value: u8) {
        let stored = self.maps.get_mut(map).bytes_mut().write(offset as usize, &[value]);
        assert!(stored, "byte {offset} of a mapping");
    }

    fn flood(&mut self, map: Map, value: u8) {
        let bytes = self.maps.get_mut(map).bytes_mut();
        let stored = bytes.fill(0, bytes.len(), value);
        assert!(stored, "a store to a read-only mapping");
    }

    fn poke_forked(&mut self, map: Map, offset: u64, value: u8) -> Answer<u8> {
        let bytes = self.maps.get_mut(map).bytes_mut();
        sys::in_child(|| {
            let mut before = [0];
            let inside = bytes.read(offset as usize, &mut before);
            if inside && bytes.write(offset as usize, &[value]) { before[0] } else { u8::MAX }
        })
    }

    fn sync(&mut self, fd: Fd, flags: u64) -> Answer<()> {
        self.fd(fd).sync(flags)
    }

    fn poll(&mut self, fd: Fd, events: u16) -> Answer<u16> {
        Ok(self.fd(fd).poll(PollFlags::from_bits_retain(events.cast_signed())).bits().cast_unsigned())
    }

    fn export_sync_file(&mut self, fd: Fd, flags: u32) -> Answer<SyncFile> {
        let sync = self.fd(fd).export_sync_file(flags)?;
        Ok(self.syncs.insert(sync))
    }

    fn import_sync_file(&mut self, fd: Fd, sync: SyncArg, flags: u32) -> Answer<()> {
        let sync = match sync {
            SyncArg::File(sync) => Some(self.syncs.get(sync)),
            SyncArg::Bad | SyncArg::DevNull => None,
        };
        self.fd(fd).import_sync_file(sync, flags)
    }

    fn signalled(&mut self, sync: SyncFile) -> Answer<bool> {
        Ok(self.syncs.get(sync).poll(PollFlags::IN).contains(PollFlags::IN))
    }

    fn fence_attach(&mut self, file: File, handle: u32, flags: u32, pad: u32) -> Answer<u32> {
        self.file(file).fence_attach(handle, flags, pad)
    }

    fn fence_signal(&mut self, file: File, fence: u32, flags: u32) -> Answer<()> {
        self.file(file).fence_signal(fence, flags)
    }

    fn udmabuf(&mut self, memory: Memory, offset: u64, size: u64) -> Answer<Fd> {
        let memory = match memory {
            Memory::Sealed(size) => UdmabufMemory::Memfd { size, seal_shrink: true, seal_write: false },
            Memory::Unsealed(size) => UdmabufMemory::Memfd { size, seal_shrink: false, seal_write: false },
            Memory::WriteSealed(size) => UdmabufMemory::Memfd { size, seal_shrink: true, seal_write: true },
            Memory::DevNull | Memory::Bad => UdmabufMemory::NotMemory,
        };
        let fd = self.machine.udmabuf_of(memory, offset, size)?;
        Ok(self.fds.insert(fd))
    }
}
