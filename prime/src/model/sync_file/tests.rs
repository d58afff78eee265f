//! The fence parts of IGT's vgem_basic, dmabuf_sync_file and prime_vgem on a machine, and a walk recorded on Linux 7.2.13.

use std::time::Duration;

use super::*;
use crate::model::{DRM_CLOEXEC, DRM_RDWR, Device, DmabufFd, Driver, FdArg, File, Node, fence};

const IN: PollFlags = PollFlags::IN;
const BOTH: PollFlags = PollFlags::IN.union(PollFlags::OUT);
const NONE: PollFlags = PollFlags::empty();

struct Vgem {
    machine: Machine,
    device: Device,
    file: File,
}

fn vgem() -> Vgem {
    let machine = Machine::default();
    let device = machine.add_device(Driver::vgem());
    let file = device.open(Node::Primary).unwrap();
    Vgem { machine, device, file }
}

impl Vgem {
    fn dumb(&self) -> u32 {
        self.file.create_dumb(1024, 1, 32).unwrap().handle
    }

    fn buffer(&self) -> (u32, DmabufFd) {
        let handle = self.dumb();
        (handle, self.file.handle_to_fd(handle, DRM_CLOEXEC | DRM_RDWR).unwrap())
    }
}

fn info(file: &SyncFile) -> (bool, usize) {
    let info = file.info(0, 0, 0).unwrap();
    (info.signalled, info.fences)
}

#[test]
fn vgem_basic_fence_read_and_write() {
    let it = vgem();
    let (handle, fd) = it.buffer();
    let read = it.file.fence_attach(handle, 0, 0).unwrap();
    assert_eq!(fd.poll(BOTH), IN);
    it.file.fence_signal(read, 0).unwrap();
    assert_eq!(fd.poll(BOTH), BOTH);
    let write = it.file.fence_attach(handle, 1, 0).unwrap();
    assert_eq!(fd.poll(BOTH), NONE);
    it.file.fence_signal(write, 0).unwrap();
    assert_eq!(fd.poll(BOTH), BOTH);
    assert_eq!(fd.poll(PollFlags::PRI), NONE);
}

#[test]
fn vgem_basic_fence_before_export() {
    let it = vgem();
    let handle = it.dumb();
    let fence = it.file.fence_attach(handle, 1, 0).unwrap();
    let fd = it.file.handle_to_fd(handle, 0).unwrap();
    assert_eq!(fd.poll(BOTH), NONE);
    it.file.fence_signal(fence, 0).unwrap();
    assert_eq!(fd.poll(BOTH), BOTH);
}

#[test]
fn vgem_basic_fence_outlives_the_export_and_ends_with_the_file() {
    let it = vgem();
    let handle = it.dumb();
    drop(it.file.handle_to_fd(handle, 0).unwrap());
    it.file.fence_attach(handle, 1, 0).unwrap();
    let fd = it.file.handle_to_fd(handle, 0).unwrap();
    let waiting = fd.export_sync_file(1).unwrap();
    assert_eq!((fd.poll(BOTH), waiting.poll(BOTH)), (NONE, NONE));
    drop(it.file);
    assert_eq!((fd.poll(BOTH), waiting.poll(BOTH)), (BOTH, IN));
    drop((fd, waiting));
    assert!(it.machine.census().is_empty());
}

#[test]
fn vgem_basic_conflicts_and_bad_arguments() {
    let it = vgem();
    let handle = it.dumb();
    let attach = |handle, flags, pad| it.file.fence_attach(handle, flags, pad);
    assert_eq!([attach(handle, 2, 0), attach(handle, 0, 1)], [Err(Errno::INVAL); 2]);
    assert_eq!([attach(99, 0, 0), attach(0, 1, 0)], [Err(Errno::NOENT); 2]);
    assert_eq!(attach(99, 2, 0), Err(Errno::INVAL));
    let read = attach(handle, 0, 0).unwrap();
    assert_eq!(attach(handle, 1, 0), Err(Errno::BUSY));
    assert_eq!(it.file.fence_signal(read, 1), Err(Errno::INVAL));
    assert_eq!(it.file.fence_signal(read + 1, 0), Err(Errno::NOENT));
    it.file.fence_signal(read, 0).unwrap();
    let write = attach(handle, 1, 0).unwrap();
    assert_eq!([attach(handle, 0, 0), attach(handle, 1, 0)], [Err(Errno::BUSY); 2]);
    // Numbers are a file's own.
    let other = it.device.open(Node::Render).unwrap();
    assert_eq!(other.fence_signal(write, 0), Err(Errno::NOENT));
    it.machine.clock().advance(fence::VGEM_FENCE_TIMEOUT);
    assert_eq!(it.file.fence_signal(write, 0), Err(Errno::TIMEDOUT));
    // Only vgem has these ioctls.
    let vkms = it.machine.add_device(Driver::vkms()).open(Node::Primary).unwrap();
    let dumb = vkms.create_dumb(16, 16, 32).unwrap().handle;
    assert_eq!(vkms.fence_attach(dumb, 0, 0), Err(Errno::INVAL));
    assert_eq!(vkms.fence_signal(1, 0), Err(Errno::INVAL));
}

#[test]
fn prime_vgem_fences_are_the_buffers_whoever_holds_it() {
    let it = vgem();
    let (handle, fd) = it.buffer();
    let vkms = it.machine.add_device(Driver::vkms()).open(Node::Primary).unwrap();
    let imported = vkms.fd_to_handle(FdArg::Dmabuf(&fd)).unwrap();
    let other = it.device.open(Node::Render).unwrap();
    let same = other.fd_to_handle(FdArg::Dmabuf(&fd)).unwrap();
    let fence = it.file.fence_attach(handle, 1, 0).unwrap();
    assert_eq!(vkms.handle_to_fd(imported, 0).unwrap().poll(BOTH), NONE);
    assert_eq!(other.fence_attach(same, 0, 0), Err(Errno::BUSY));
    it.file.fence_signal(fence, 0).unwrap();
    assert!(other.fence_attach(same, 0, 0).is_ok());
    assert_eq!(vkms.handle_to_fd(imported, 0).unwrap().poll(BOTH), IN);
}

#[test]
fn dmabuf_sync_file_export_is_a_snapshot() {
    let it = vgem();
    let (handle, fd) = it.buffer();
    assert_eq!(info(&fd.export_sync_file(3).unwrap()), (true, 1));
    let first = it.file.fence_attach(handle, 0, 0).unwrap();
    let (reader, writer) = (fd.export_sync_file(1).unwrap(), fd.export_sync_file(2).unwrap());
    assert_eq!((info(&reader), info(&writer)), ((true, 1), (false, 1)));
    let second = it.file.fence_attach(handle, 0, 0).unwrap();
    let both = fd.export_sync_file(2).unwrap();
    it.file.fence_signal(first, 0).unwrap();
    assert_eq!((info(&writer), info(&both)), ((true, 1), (false, 2)));
    it.file.fence_signal(second, 0).unwrap();
    assert_eq!(info(&both), (true, 2));
}

#[test]
fn dmabuf_sync_file_import_readers_and_a_writer() {
    let it = vgem();
    let (_, target) = it.buffer();
    let sources: Vec<_> = (0..33).map(|_| it.buffer()).collect();
    let fences: Vec<_> = sources
        .iter()
        .enumerate()
        .map(|(at, (handle, fd))| {
            let fence = it.file.fence_attach(*handle, 1, 0).unwrap();
            let file = fd.export_sync_file(1).unwrap();
            target.import_sync_file(Some(&file), if at < 32 { 1 } else { 2 }).unwrap();
            fence
        })
        .collect();
    assert_eq!(info(&target.export_sync_file(2).unwrap()), (false, 33));
    assert_eq!(info(&target.export_sync_file(1).unwrap()), (false, 1));
    for fence in &fences[..32] {
        assert_eq!(target.poll(BOTH), NONE);
        it.file.fence_signal(*fence, 0).unwrap();
    }
    assert_eq!(target.poll(BOTH), NONE);
    it.file.fence_signal(fences[32], 0).unwrap();
    assert_eq!(target.poll(BOTH), BOTH);
}

#[test]
fn a_kernel_without_sync_files_says_enotty_before_anything_else() {
    let it = vgem();
    let (_, fd) = it.buffer();
    it.machine.set_sync_files(false);
    assert_eq!(fd.export_sync_file(0).unwrap_err(), Errno::NOTTY);
    assert_eq!(fd.import_sync_file(None, 0), Err(Errno::NOTTY));
    // The older ways of waiting are there.
    assert_eq!((fd.poll(BOTH), fd.sync(3)), (BOTH, Ok(())));
    it.machine.set_sync_files(true);
    assert!(fd.export_sync_file(1).is_ok());
}

#[test]
fn descriptors_run_out_before_anything_is_made_and_none_is_lost() {
    let it = vgem();
    let (handle, fd) = it.buffer();
    let file = fd.export_sync_file(1).unwrap();
    let before = it.machine.census();
    it.machine.limit_fds(Some(before.descriptors));
    assert_eq!(fd.export_sync_file(0).unwrap_err(), Errno::INVAL, "flags come first");
    assert_eq!(fd.export_sync_file(1).unwrap_err(), Errno::MFILE);
    assert_eq!(file.merge(None, 1, 0).unwrap_err(), Errno::MFILE, "the descriptor comes first");
    assert_eq!(file.try_clone().unwrap_err(), Errno::MFILE);
    it.machine.limit_fds(None);
    for (point, call) in [
        (
            FaultPoint::SyncFileAlloc,
            (|it, _, fd| fd.export_sync_file(1).map(drop).and(it.file.try_clone().map(drop))) as Call,
        ),
        (FaultPoint::SyncFileAlloc, |_, file, _| file.merge(Some(file), 0, 0).map(drop)),
        (FaultPoint::ResvAlloc, |_, file, fd| fd.import_sync_file(Some(file), 1)),
        (FaultPoint::FenceAlloc, |it, _, _| it.file.fence_attach(1, 0, 0).map(drop)),
        (FaultPoint::ResvAlloc, |it, _, _| it.file.fence_attach(1, 0, 0).map(drop)),
    ] {
        it.machine.fail(point, 1, Errno::NOMEM);
        assert_eq!(call(&it, &file, &fd), Err(Errno::NOMEM), "{point:?}");
        assert_eq!(it.machine.census(), before, "{point:?}");
        assert_eq!(fd.poll(BOTH), BOTH, "{point:?} left a fence");
    }
    // The number of the fence that could not be attached was not taken.
    assert_eq!(it.file.fence_attach(handle, 0, 0), Ok(1));
}

type Call = fn(&Vgem, &SyncFile, &DmabufFd) -> Result<(), Errno>;

#[test]
fn sync_waits_for_what_the_access_has_to_wait_for() {
    let it = vgem();
    let (handle, fd) = it.buffer();
    let fence = it.file.fence_attach(handle, 0, 0).unwrap();
    assert_eq!([fd.sync(1), fd.sync(5), fd.sync(7)], [Ok(()); 3]);
    assert_eq!([fd.sync(0), fd.sync(4), fd.sync(8), fd.sync(9)], [Err(Errno::INVAL); 4]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| fd.sync(2));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        it.file.fence_signal(fence, 0).unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(()));
    });
}

/// Each figure is what vgem and the dma-buf core of Linux 7.2.13 said to the same calls in the lab.
#[test]
fn the_walk_recorded_on_linux() {
    let it = vgem();
    let attach = |handle, flags| it.file.fence_attach(handle, flags, 0);
    let signal = |fence, flags| it.file.fence_signal(fence, flags);
    let (h, d) = it.buffer();
    assert_eq!([attach(h, 0), attach(h, 0)], [Ok(1), Ok(2)]);
    assert_eq!((d.count(), d.poll(BOTH), d.count()), (3, IN, 4));
    assert_eq!(attach(h, 1), Err(Errno::BUSY));
    let noent = Err(Errno::NOENT);
    assert_eq!([signal(1, 0), signal(1, 0), signal(9, 0), signal(0, 0)], [Ok(()), noent, noent, noent]);
    assert_eq!([signal(9, 1), signal(2, 0)], [Err(Errno::INVAL), Ok(())]);
    assert_eq!((d.count(), attach(h, 0)), (3, Ok(3)));
    assert_eq!((d.poll(BOTH), d.count()), (IN, 4));
    let s = d.export_sync_file(2).unwrap();
    for flags in [0, 4, 7] {
        assert_eq!(d.export_sync_file(flags).unwrap_err(), Errno::INVAL);
    }
    assert_eq!(info(&s), (false, 1));
    assert!(s.info(5, 0, 0).is_ok());
    assert_eq!([s.info(1, 1, 0), s.info(0, 0, 1)], [Err(Errno::INVAL); 2]);
    assert_eq!((s.poll(BOTH), d.export_sync_file(1).unwrap().poll(BOTH)), (NONE, IN));
    let (_, d2) = it.buffer();
    for (flags, file) in [(0, Some(&s)), (4, Some(&s)), (1, None)] {
        assert_eq!(d2.import_sync_file(file, flags), Err(Errno::INVAL));
    }
    let pending = |fd: &DmabufFd, flags| info(&fd.export_sync_file(flags).unwrap());
    d2.import_sync_file(Some(&s), 1).unwrap();
    assert_eq!(d2.poll(BOTH), IN);
    d2.import_sync_file(Some(&s), 2).unwrap();
    assert_eq!((d2.poll(BOTH), pending(&d2, 2)), (NONE, (false, 1)));
    d2.import_sync_file(Some(&s), 1).unwrap();
    assert_eq!((pending(&d2, 2), pending(&d2, 1)), ((false, 2), (false, 1)));
    let (h3, d3) = it.buffer();
    assert_eq!(attach(h3, 1), Ok(4));
    let s3 = d3.export_sync_file(3).unwrap();
    let m = s.merge(Some(&s3), 0, 0).unwrap();
    assert_eq!((info(&m), info(&s.merge(Some(&s), 0, 0).unwrap())), ((false, 2), (false, 1)));
    assert_eq!(s.merge(None, 0, 0).unwrap_err(), Errno::NOENT);
    assert_eq!(s.merge(Some(&s3), 1, 0).unwrap_err(), Errno::INVAL);
    assert_eq!(s.merge(Some(&s3), 0, 1).unwrap_err(), Errno::INVAL);
    assert_eq!(m.info(1, 0, 0), Err(Errno::INVAL));
    d2.import_sync_file(Some(&m), 2).unwrap();
    assert_eq!(pending(&d2, 2), (false, 3));
    assert_eq!([signal(1, 0), signal(2, 0), signal(3, 0), signal(4, 0)], [noent, noent, Ok(()), Ok(())]);
    assert_eq!((info(&m), pending(&d2, 2)), ((true, 2), (true, 1)));
    assert_eq!(info(&m.merge(Some(&m), 0, 0).unwrap()), (true, 1));
    assert_eq!((d2.poll(BOTH), d2.count()), (BOTH, 3));
}
