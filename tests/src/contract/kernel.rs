//! [`Kernel`]: the contract as the running kernel answers it, on vgem, vkms and udmabuf.
//!
//! Owns the descriptors behind the slots and the look into debugfs for the census. It checks nothing.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use drm::control::{Device as _, connector, framebuffer};
use drm_ffi::drm_sys::{
    drm_gem_close, drm_gem_flink, drm_gem_open, drm_get_cap, drm_mode_closefb, drm_mode_create_dumb,
    drm_mode_destroy_dumb, drm_mode_fb_cmd, drm_mode_fb_cmd2, drm_mode_map_dumb, drm_prime_handle,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use super::slots::{Slots, closing};
use super::sys::{self, Mapping};
use super::{
    Answer, Caps, Census, Contract, Device, Dumb, Fb2, FbInfo, Fd, FdArg, File, Map, Memory, Node, PAGE,
    SyncArg, SyncFile, Whence,
};
use crate::debugfs::DebugDevice;
use crate::drm_node::DrmNode;

/// A descriptor of a DRM node, for the `drm` crate's mode-setting calls.
#[derive(Debug)]
struct Card<'a>(BorrowedFd<'a>);

impl AsFd for Card<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

impl drm::Device for Card<'_> {}
impl drm::control::Device for Card<'_> {}

/// The running kernel.
#[derive(Debug)]
pub struct Kernel {
    nodes: HashMap<(Device, Node), PathBuf>,
    files: Slots<File, OwnedFd>,
    fds: Slots<Fd, OwnedFd>,
    maps: Slots<Map, Mapping>,
    syncs: Slots<SyncFile, OwnedFd>,
    /// `/dev/null`, opened beforehand because a limit may be in force.
    null: OwnedFd,
    /// The same, by path only.
    path: OwnedFd,
    /// Memory that is no dma-buf.
    memfd: OwnedFd,
    udmabuf: OwnedFd,
    /// The limit that [`Contract::limit_fds`] has replaced.
    limit: Option<Rlimit>,
}

fn errno(err: &std::io::Error) -> Errno {
    Errno::from_io_error(err).unwrap_or(Errno::IO)
}

/// A number that no descriptor of this process has.
const NO_DESCRIPTOR: i32 = 9999;

impl Kernel {
    /// Finds the nodes of vgem and vkms.
    ///
    /// # Errors
    ///
    /// When a device is missing.
    pub fn new() -> Result<Kernel> {
        let mut nodes = HashMap::new();
        for (device, driver) in [(Device::Vgem, "vgem"), (Device::Vkms, "vkms")] {
            let card = DrmNode::of_driver(driver)?.path().to_owned();
            let name = card.file_name().context("a node without a name")?.to_owned();
            let siblings = PathBuf::from("/sys/class/drm").join(name).join("device/drm");
            for sibling in fs::read_dir(&siblings).with_context(|| siblings.display().to_string())? {
                let sibling = sibling?.file_name();
                if sibling.to_string_lossy().starts_with("renderD") {
                    nodes.insert((device, Node::Render), PathBuf::from("/dev/dri").join(sibling));
                }
            }
            nodes.insert((device, Node::Primary), card);
        }
        let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let memfd = rustix::fs::memfd_create("contract", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&memfd, PAGE)?;
        Ok(Kernel {
            nodes,
            files: Slots::default(),
            fds: Slots::default(),
            maps: Slots::default(),
            syncs: Slots::default(),
            null: open("/dev/null", OFlags::RDWR)?,
            path: open("/dev/null", OFlags::PATH)?,
            memfd,
            udmabuf: open("/dev/udmabuf", OFlags::RDWR).context("/dev/udmabuf")?,
            limit: None,
        })
    }

    fn file(&self, file: File) -> BorrowedFd<'_> {
        self.files.get(file).as_fd()
    }

    fn fd(&self, fd: Fd) -> BorrowedFd<'_> {
        self.fds.get(fd).as_fd()
    }

    /// Does something that needs descriptors of its own although a limit is in force.
    fn unlimited<T>(&self, act: impl FnOnce(&Kernel) -> T) -> T {
        let Some(normal) = self.limit else { return act(self) };
        let limited = getrlimit(Resource::Nofile);
        // Both calls only move the soft limit below the hard one, which is always allowed.
        let _ = setrlimit(Resource::Nofile, normal);
        let value = act(self);
        let _ = setrlimit(Resource::Nofile, limited);
        value
    }

    fn ready(&self, fd: BorrowedFd<'_>, events: u16) -> Answer<u16> {
        // poll refuses more descriptors than the limit allows.
        self.unlimited(|_| {
            let mut polled =
                [PollFd::from_borrowed_fd(fd, PollFlags::from_bits_retain(events.cast_signed()))];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut polled, Some(&now))?;
            Ok(polled[0].revents().bits().cast_unsigned())
        })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.limit_fds(None);
    }
}

/// The last line of dma-buf's list: how many, how many bytes.
fn bufinfo() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/sys/kernel/debug/dma_buf/bufinfo").context("dma_buf/bufinfo")?;
    let total = text.lines().rev().find(|line| line.starts_with("Total")).context("no total")?;
    let mut numbers = total.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    Ok((numbers.next().context("no count")?, numbers.next().context("no size")?))
}

impl Contract for Kernel {
    fn caps(&self) -> Caps {
        Caps { closefb: true, sync_files: true, modifiers: true, empty_lease: true }
    }

    fn limit_fds(&mut self, free: Option<usize>) {
        if let Some(normal) = self.limit.take() {
            let _ = setrlimit(Resource::Nofile, normal);
        }
        let Some(free) = free else { return };
        let normal = getrlimit(Resource::Nofile);
        let mut numbers: Vec<u64> = fs::read_dir("/proc/self/fd")
            .map(|entries| {
                entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
            })
            .unwrap_or_default();
        // The listing's own descriptor is in the list and closed by now, at the lowest number that was free: taking it
        // out again needs a look at which one it was.
        numbers.retain(|number| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
        let current = (0..).filter(|number| !numbers.contains(number)).nth(free);
        let limited = Rlimit { current, maximum: normal.maximum };
        if setrlimit(Resource::Nofile, limited).is_ok() {
            self.limit = Some(normal);
        }
    }

    fn census(&mut self) -> Result<Census> {
        self.unlimited(|_| {
            let (dmabufs, bytes) = bufinfo()?;
            let card = DebugDevice::of_node(self.nodes.get(&(Device::Vkms, Node::Primary)).context("vkms")?)?;
            let framebuffers = card.framebuffers()?.len() as u64;
            Ok(Census { dmabufs, bytes, framebuffers, objects: 0 })
        })
    }

    closing!();

    fn set_admin(&mut self, on: bool) -> Answer<()> {
        let mut sets = rustix::thread::capabilities(None)?;
        sets.effective.set(CapabilitySet::SYS_ADMIN, on);
        rustix::thread::set_capabilities(None, sets)
    }

    fn set_master(&mut self, file: File, on: bool) -> Answer<()> {
        let file = self.file(file);
        let set = if on { drm_ffi::auth::acquire_master } else { drm_ffi::auth::release_master };
        set(file).map_err(|err| errno(&err))
    }

    fn open(&mut self, device: Device, node: Node) -> Answer<File> {
        // A node that the device does not have is asked for all the same: there are answers that come before ENOENT.
        let missing = PathBuf::from(format!("/dev/dri/no-{node:?}-node-of-{device:?}"));
        let path = self.nodes.get(&(device, node)).unwrap_or(&missing);
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(self.files.insert(fd))
    }

    fn dup_file(&mut self, file: File) -> Answer<File> {
        let dup = rustix::io::fcntl_dupfd_cloexec(self.file(file), 0)?;
        Ok(self.files.insert(dup))
    }

    fn get_cap(&mut self, file: File, cap: u64) -> Answer<u64> {
        let mut request = drm_get_cap { capability: cap, value: 0 };
        sys::ioctl(self.file(file), &mut request)?;
        Ok(request.value)
    }

    fn empty_lease(&mut self, file: File) -> Answer<File> {
        let flags = OFlags::CLOEXEC.bits();
        let lease = drm_ffi::mode::create_lease(self.file(file), &[], flags).map_err(|err| errno(&err))?;
        let fd = i32::try_from(lease.fd).map_err(|_| Errno::BADF)?;
        Ok(self.files.insert(sys::adopt(fd)))
    }

    fn create_dumb(&mut self, file: File, width: u32, height: u32, bpp: u32) -> Answer<Dumb> {
        let mut request = drm_mode_create_dumb { width, height, bpp, flags: 0, handle: 0, pitch: 0, size: 0 };
        sys::ioctl(self.file(file), &mut request)?;
        Ok(Dumb { handle: request.handle, pitch: request.pitch, size: request.size })
    }

    fn map_dumb(&mut self, file: File, handle: u32) -> Answer<()> {
        sys::ioctl(self.file(file), &mut drm_mode_map_dumb { handle, pad: 0, offset: 0 })
    }

    fn mmap_dumb(&mut self, file: File, handle: u32, len: u64) -> Answer<Map> {
        let mut request = drm_mode_map_dumb { handle, pad: 0, offset: 0 };
        sys::ioctl(self.file(file), &mut request)?;
        let map = Mapping::new(self.file(file), request.offset, len, true)?;
        Ok(self.maps.insert(map))
    }

    fn destroy_dumb(&mut self, file: File, handle: u32) -> Answer<()> {
        sys::ioctl(self.file(file), &mut drm_mode_destroy_dumb { handle })
    }

    fn gem_close(&mut self, file: File, handle: u32) -> Answer<()> {
        sys::ioctl(self.file(file), &mut drm_gem_close { handle, pad: 0 })
    }

    fn change_handle(&mut self, file: File, handle: u32, new: u32) -> Answer<()> {
        sys::ioctl(self.file(file), &mut sys::ChangeHandle { handle, new_handle: new })
    }

    fn flink(&mut self, file: File, handle: u32) -> Answer<u32> {
        let mut request = drm_gem_flink { handle, name: 0 };
        sys::ioctl(self.file(file), &mut request)?;
        Ok(request.name)
    }

    fn gem_open(&mut self, file: File, name: u32) -> Answer<u32> {
        let mut request = drm_gem_open { name, handle: 0, size: 0 };
        sys::ioctl(self.file(file), &mut request)?;
        Ok(request.handle)
    }

    fn handle_to_fd(&mut self, file: File, handle: u32, flags: u32) -> Answer<Fd> {
        let mut request = sys::HandleToFd(drm_prime_handle { handle, flags, fd: -1 });
        sys::ioctl(self.file(file), &mut request)?;
        Ok(self.fds.insert(sys::adopt(request.0.fd)))
    }

    fn fd_to_handle(&mut self, file: File, fd: FdArg, flags: u32) -> Answer<u32> {
        let fd = match fd {
            FdArg::Dmabuf(fd) => self.fd(fd).as_raw_fd(),
            FdArg::Bad => NO_DESCRIPTOR,
            FdArg::OPath => self.path.as_raw_fd(),
            FdArg::DevNull => self.null.as_raw_fd(),
            FdArg::Memfd => self.memfd.as_raw_fd(),
            FdArg::Drm(file) => self.file(file).as_raw_fd(),
        };
        let mut request = sys::FdToHandle(drm_prime_handle { handle: 0, flags, fd });
        sys::ioctl(self.file(file), &mut request)?;
        Ok(request.0.handle)
    }

    fn addfb2(&mut self, file: File, request: &Fb2) -> Answer<u32> {
        let mut request = sys::AddFb2(drm_mode_fb_cmd2 {
            fb_id: 0,
            width: request.width,
            height: request.height,
            pixel_format: request.format,
            flags: request.flags,
            handles: request.handles,
            pitches: request.pitches,
            offsets: request.offsets,
            modifier: request.modifiers,
        });
        sys::ioctl(self.file(file), &mut request)?;
        Ok(request.0.fb_id)
    }

    fn rmfb(&mut self, file: File, id: u32) -> Answer<()> {
        sys::ioctl(self.file(file), &mut sys::RemoveFb(id))
    }

    fn closefb(&mut self, file: File, id: u32, pad: u32) -> Answer<()> {
        sys::ioctl(self.file(file), &mut drm_mode_closefb { fb_id: id, pad })
    }

    fn getfb(&mut self, file: File, id: u32) -> Answer<FbInfo> {
        let mut fb =
            drm_mode_fb_cmd { fb_id: id, width: 0, height: 0, pitch: 0, bpp: 0, depth: 0, handle: 0 };
        sys::ioctl(self.file(file), &mut fb)?;
        let drm_mode_fb_cmd { width, height, pitch, bpp, depth, handle, .. } = fb;
        Ok(FbInfo { width, height, pitch, bpp, depth, handle })
    }

    fn getfb2(&mut self, file: File, id: u32) -> Answer<Fb2> {
        let mut request = sys::GetFb2(drm_mode_fb_cmd2 { fb_id: id, ..drm_mode_fb_cmd2::default() });
        sys::ioctl(self.file(file), &mut request)?;
        let fb = request.0;
        Ok(Fb2 {
            width: fb.width,
            height: fb.height,
            format: fb.pixel_format,
            flags: fb.flags,
            handles: fb.handles,
            pitches: fb.pitches,
            offsets: fb.offsets,
            modifiers: fb.modifier,
        })
    }

    fn show(&mut self, file: File, id: u32) -> Answer<()> {
        let card = Card(self.file(file));
        let show = || -> std::io::Result<()> {
            let resources = card.resource_handles()?;
            let connectors =
                resources.connectors().iter().filter_map(|handle| card.get_connector(*handle, true).ok());
            let connected = connectors.into_iter().find(|info| info.state() == connector::State::Connected);
            let (Some(connector), Some(crtc)) = (connected, resources.crtcs().first()) else {
                return Err(std::io::ErrorKind::NotFound.into());
            };
            let mode = connector.modes().iter().find(|mode| mode.size() == (1024, 768)).copied();
            let framebuffer = drm::control::from_u32::<framebuffer::Handle>(id);
            card.set_crtc(*crtc, framebuffer, (0, 0), &[connector.handle()], mode)
        };
        show().map_err(|err| errno(&err))
    }

    fn shown(&mut self, file: File) -> Answer<(u32, u32)> {
        let card = Card(self.file(file));
        let shown = || -> std::io::Result<(u32, u32)> {
            let Some(crtc) = card.resource_handles()?.crtcs().first().copied() else {
                return Err(std::io::ErrorKind::NotFound.into());
            };
            // Without the universal planes capability overlays alone are listed.
            drm::Device::set_client_capability(&card, drm::ClientCapability::UniversalPlanes, true)?;
            let mut on_plane = 0;
            for plane in card.plane_handles()? {
                let plane = card.get_plane(plane)?;
                if plane.crtc() == Some(crtc) {
                    on_plane = plane.framebuffer().map_or(0, u32::from);
                }
            }
            Ok((card.get_crtc(crtc)?.framebuffer().map_or(0, u32::from), on_plane))
        };
        shown().map_err(|err| errno(&err))
    }

    fn picture(&mut self, _file: File) -> Result<u32> {
        let card = DebugDevice::of_node(self.nodes.get(&(Device::Vkms, Node::Primary)).context("vkms")?)?;
        let active: Vec<String> = card.planes()?.into_iter().filter_map(|plane| plane.crtc).collect();
        card.crc(active.first().context("no CRTC is on")?)?.stable(1, Duration::from_secs(10))
    }

    fn dup_fd(&mut self, fd: Fd) -> Answer<Fd> {
        let dup = rustix::io::fcntl_dupfd_cloexec(self.fd(fd), 0)?;
        Ok(self.fds.insert(dup))
    }

    fn inode(&mut self, fd: Fd) -> Answer<u64> {
        Ok(rustix::fs::fstat(self.fd(fd))?.st_ino)
    }

    fn size(&mut self, fd: Fd) -> Answer<u64> {
        Ok(rustix::fs::fstat(self.fd(fd))?.st_size.unsigned_abs())
    }

    fn count(&mut self, fd: Fd) -> Answer<u64> {
        self.unlimited(|kernel| {
            let path = format!("/proc/self/fdinfo/{}", kernel.fd(fd).as_raw_fd());
            let text = fs::read_to_string(path).map_err(|err| errno(&err))?;
            let count = text.lines().find_map(|line| line.strip_prefix("count:")?.trim().parse().ok());
            count.ok_or(Errno::NOENT)
        })
    }

    fn seek(&mut self, fd: Fd, offset: i64, whence: Whence) -> Answer<u64> {
        let position = match whence {
            Whence::Set => SeekFrom::Start(offset.cast_unsigned()),
            Whence::Cur => SeekFrom::Current(offset),
            Whence::End => SeekFrom::End(offset),
        };
        rustix::fs::seek(self.fd(fd), position)
    }

    fn read(&mut self, fd: Fd) -> Answer<()> {
        rustix::io::read(self.fd(fd), &mut [0_u8; 1]).map(drop)
    }

    fn write(&mut self, fd: Fd) -> Answer<()> {
        rustix::io::write(self.fd(fd), &[0]).map(drop)
    }

    fn ftruncate(&mut self, fd: Fd, len: u64) -> Answer<()> {
        rustix::fs::ftruncate(self.fd(fd), len)
    }

    fn unknown_ioctl(&mut self, fd: Fd) -> Answer<()> {
        sys::ioctl(self.fd(fd), &mut sys::Unknown(0))
    }

    fn same_file(&mut self, a: Fd, b: Fd) -> Answer<bool> {
        sys::same_file(self.fd(a), self.fd(b))
    }

    fn reopen(&mut self, fd: Fd) -> Answer<()> {
        let path = format!("/proc/self/fd/{}", self.fd(fd).as_raw_fd());
        rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(drop)
    }

    fn nonblocking(&mut self, fd: Fd) -> Answer<bool> {
        Ok(rustix::fs::fcntl_getfl(self.fd(fd))?.contains(OFlags::NONBLOCK))
    }

    fn set_nonblocking(&mut self, fd: Fd, on: bool) -> Answer<()> {
        let mut flags = rustix::fs::fcntl_getfl(self.fd(fd))?;
        flags.set(OFlags::NONBLOCK, on);
        rustix::fs::fcntl_setfl(self.fd(fd), flags)
    }

    fn mmap(&mut self, fd: Fd, offset: u64, len: u64, writable: bool) -> Answer<Map> {
        let map = Mapping::new(self.fd(fd), offset, len, writable)?;
        Ok(self.maps.insert(map))
    }

    fn peek(&mut self, map: Map, offset: u64) -> u8 {
        self.maps.get(map).peek(offset)
    }

    fn poke(&mut self, map: Map, offset: u64, value: u8) {
        self.maps.get(map).poke(offset, value);
    }

    fn flood(&mut self, map: Map, value: u8) {
        self.maps.get(map).flood(value);
    }

    fn poke_forked(&mut self, map: Map, offset: u64, value: u8) -> Answer<u8> {
        let map = self.maps.get(map);
        sys::in_child(|| {
            let before = map.peek(offset);
            map.poke(offset, value);
            before
        })
    }

    fn sync(&mut self, fd: Fd, flags: u64) -> Answer<()> {
        sys::ioctl(self.fd(fd), &mut sys::Sync(flags))
    }

    fn poll(&mut self, fd: Fd, events: u16) -> Answer<u16> {
        self.ready(self.fd(fd), events)
    }

    fn export_sync_file(&mut self, fd: Fd, flags: u32) -> Answer<SyncFile> {
        let mut request = sys::ExportSyncFile { flags, fd: -1 };
        sys::ioctl(self.fd(fd), &mut request)?;
        Ok(self.syncs.insert(sys::adopt(request.fd)))
    }

    fn import_sync_file(&mut self, fd: Fd, sync: SyncArg, flags: u32) -> Answer<()> {
        let sync = match sync {
            SyncArg::File(sync) => self.syncs.get(sync).as_raw_fd(),
            SyncArg::Bad => NO_DESCRIPTOR,
            SyncArg::DevNull => self.null.as_raw_fd(),
        };
        sys::ioctl(self.fd(fd), &mut sys::ImportSyncFile { flags, fd: sync })
    }

    fn signalled(&mut self, sync: SyncFile) -> Answer<bool> {
        Ok(self.ready(self.syncs.get(sync).as_fd(), super::READABLE)? & super::READABLE != 0)
    }

    fn fence_attach(&mut self, file: File, handle: u32, flags: u32, pad: u32) -> Answer<u32> {
        let mut request = sys::FenceAttach { handle, flags, out_fence: 0, pad };
        sys::ioctl(self.file(file), &mut request)?;
        Ok(request.out_fence)
    }

    fn fence_signal(&mut self, file: File, fence: u32, flags: u32) -> Answer<()> {
        sys::ioctl(self.file(file), &mut sys::FenceSignal { fence, flags })
    }

    fn udmabuf(&mut self, memory: Memory, offset: u64, size: u64) -> Answer<Fd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = |size, seals| {
            self.unlimited(|_| {
                let memfd = rustix::fs::memfd_create("udmabuf", flags)?;
                rustix::fs::ftruncate(&memfd, size)?;
                rustix::fs::fcntl_add_seals(&memfd, seals)?;
                Ok::<_, Errno>(memfd)
            })
        };
        let memfd = match memory {
            Memory::Sealed(size) => Some(memfd(size, SealFlags::SHRINK)?),
            Memory::Unsealed(size) => Some(memfd(size, SealFlags::empty())?),
            Memory::WriteSealed(size) => Some(memfd(size, SealFlags::SHRINK | SealFlags::WRITE)?),
            Memory::DevNull | Memory::Bad => None,
        };
        let number = match (&memfd, memory) {
            (Some(memfd), _) => memfd.as_raw_fd(),
            (None, Memory::DevNull) => self.null.as_raw_fd(),
            (None, _) => NO_DESCRIPTOR,
        };
        let mut request = sys::UdmabufCreate { memfd: number.cast_unsigned(), flags: 1, offset, size };
        // The number is the answer: this ioctl fills in nothing.
        let fd = sys::ioctl_fd(self.udmabuf.as_fd(), &mut request)?;
        Ok(self.fds.insert(fd))
    }
}
