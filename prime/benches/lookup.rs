//! Finding a buffer that is known already, with 10, 1,000 and 100,000 handles alive: what the kernel's cache costs now and
//! cost as a list, what the handle table makes of it, and what a commit costs.
//!
//! Eight buffers are asked for in turn, as a compositor does with those that its clients draw into; they lie evenly among
//! the others. The figure is one lookup. `everything` asks for all in random order, so that the machine's memory is
//! measured, too.
#![allow(clippy::unwrap_used, reason = "a benchmark has nobody to tell")]

use std::{
    collections::HashMap,
    io,
    num::NonZeroU32,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use divan::{Bencher, black_box, counter::ItemsCount};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::{
    BufferPlane, Dmabuf, DmabufId, DmabufStat, DumbAllocation, FramebufferCache, FramebufferRequest,
    GemDevice, GemHandle, HandleTable, Mapping, PlaneFramebuffers,
    model::{DmabufFd, Driver, FdArg, File, Machine, Node, Profile},
};
use rustix::{fs::MemfdFlags, io::Errno};

const LIVE: [usize; 3] = [10, 1_000, 100_000];
const ASKED: usize = 8;

/// A model's file on which real descriptors stand for tokens by their identity, so that more buffers can be alive than a
/// process may have descriptors.
#[derive(Debug)]
struct Tokens {
    file: File,
    tokens: Mutex<HashMap<DmabufId, DmabufFd>>,
    identifies: bool,
}

impl GemDevice for Tokens {
    fn dev_id(&self) -> u64 {
        self.file.dev_id()
    }

    fn supports_modifiers(&self) -> bool {
        true
    }

    fn identifies_dmabufs(&self) -> bool {
        self.identifies
    }

    fn prime_fd_to_handle(&self, fd: BorrowedFd<'_>) -> io::Result<NonZeroU32> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.get(&DmabufId::of(fd)?).ok_or(Errno::INVAL)?;
        let handle = self.file.fd_to_handle(FdArg::Dmabuf(token))?;
        NonZeroU32::new(handle).ok_or_else(|| Errno::INVAL.into())
    }

    fn prime_handle_to_fd(&self, handle: NonZeroU32) -> io::Result<OwnedFd> {
        self.file.prime_handle_to_fd(handle)
    }

    fn gem_close(&self, handle: NonZeroU32) -> io::Result<()> {
        GemDevice::gem_close(&self.file, handle)
    }

    fn add_framebuffer(&self, request: &FramebufferRequest) -> io::Result<NonZeroU32> {
        self.file.add_framebuffer(request)
    }

    fn close_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        self.file.close_framebuffer(id)
    }

    fn remove_framebuffer(&self, id: NonZeroU32) -> io::Result<()> {
        self.file.remove_framebuffer(id)
    }

    fn create_dumb(&self, width: u32, height: u32, bpp: u32) -> io::Result<DumbAllocation> {
        GemDevice::create_dumb(&self.file, width, height, bpp)
    }

    fn map_dumb(&self, handle: NonZeroU32, len: usize) -> io::Result<Mapping> {
        GemDevice::map_dumb(&self.file, handle, len)
    }
}

fn vkms(profile: Profile) -> (Machine, File) {
    let machine = Machine::new(profile);
    let file = machine.add_device(Driver::vkms()).open(Node::Primary).unwrap();
    (machine, file)
}

/// A table with `live` handles; the descriptors of those that are asked for stay open.
struct Full {
    table: HandleTable,
    _handles: Vec<GemHandle>,
    asked: Vec<OwnedFd>,
}

impl Full {
    fn new(profile: Profile, live: usize, identifies: bool) -> Self {
        let (machine, file) = vkms(profile);
        let device = Arc::new(Tokens { file, tokens: Mutex::default(), identifies });
        let table = HandleTable::new(device.clone());
        let (mut handles, mut asked) = (Vec::new(), Vec::new());
        for number in 0..live {
            let fd = rustix::fs::memfd_create("buffer", MemfdFlags::CLOEXEC).unwrap();
            let id = DmabufId::of(fd.as_fd()).unwrap();
            device.tokens.lock().unwrap().insert(id, machine.udmabuf(4096).unwrap());
            handles.push(table.import(fd.as_fd()).unwrap());
            if is_asked(number, live) {
                asked.push(fd);
            }
        }
        Self { table, _handles: handles, asked }
    }
}

/// Eight of `live`, evenly spread.
fn is_asked(number: usize, live: usize) -> bool {
    number % (live / ASKED) == (live / ASKED) / 2 && number / (live / ASKED) < ASKED
}

/// The kernel's own lookup, without the system call around it.
fn raw(bencher: Bencher<'_, '_>, profile: Profile, live: usize) {
    let (machine, file) = vkms(profile);
    let buffers: Vec<_> = (0..live).map(|_| machine.udmabuf(4096).unwrap()).collect();
    for buffer in &buffers {
        file.fd_to_handle(FdArg::Dmabuf(buffer)).unwrap();
    }
    let asked: Vec<_> =
        buffers.iter().enumerate().filter(|(n, _)| is_asked(*n, live)).map(|(_, fd)| fd).collect();
    bencher.counter(ItemsCount::new(asked.len())).bench_local(|| {
        for fd in &asked {
            black_box(file.fd_to_handle(FdArg::Dmabuf(fd)).unwrap());
        }
    });
}

#[divan::bench(args = LIVE)]
fn raw_modern(bencher: Bencher<'_, '_>, live: usize) {
    raw(bencher, Profile::MODERN, live);
}

#[divan::bench(args = LIVE)]
fn raw_seed(bencher: Bencher<'_, '_>, live: usize) {
    raw(bencher, Profile::SEED, live);
}

fn table(bencher: Bencher<'_, '_>, profile: Profile, live: usize, identifies: bool) {
    let full = Full::new(profile, live, identifies);
    bencher.counter(ItemsCount::new(full.asked.len())).bench_local(|| {
        for fd in &full.asked {
            black_box(full.table.import(fd.as_fd()).unwrap());
        }
    });
}

/// Recognised by identity: one `fstat`.
#[divan::bench(args = LIVE)]
fn table_by_identity(bencher: Bencher<'_, '_>, live: usize) {
    table(bencher, Profile::MODERN, live, true);
}

/// Recognised by identity, the `fstat` done before.
#[divan::bench(args = LIVE)]
fn table_by_identity_seen(bencher: Bencher<'_, '_>, live: usize) {
    let full = Full::new(Profile::MODERN, live, true);
    let seen: Vec<_> = full.asked.iter().map(|fd| DmabufStat::of(fd.as_fd()).unwrap()).collect();
    bencher.counter(ItemsCount::new(seen.len())).bench_local(|| {
        for stat in &seen {
            black_box(full.table.import_stat(stat).unwrap());
        }
    });
}

/// A kernel whose inode numbers tell nothing is asked.
#[divan::bench(args = LIVE)]
fn table_asking_modern(bencher: Bencher<'_, '_>, live: usize) {
    table(bencher, Profile::MODERN, live, false);
}

#[divan::bench(args = LIVE)]
fn table_asking_seed(bencher: Bencher<'_, '_>, live: usize) {
    table(bencher, Profile::SEED, live, false);
}

/// A cache with `live` framebuffers of one dma-buf.
fn cache(live: usize) -> FramebufferCache<usize> {
    let (machine, file) = vkms(Profile::MODERN);
    let memory = machine.udmabuf(64 * 64 * 4).unwrap().into_owned().unwrap();
    let mut cache = FramebufferCache::new(HandleTable::new(Arc::new(file)));
    let plane = BufferPlane { fd: memory.as_fd(), offset: 0, stride: 256 };
    let buffer = Dmabuf::new(64, 64, DrmFourcc::Xrgb8888, DrmModifier::Linear, &[plane]).unwrap();
    for key in 0..live {
        cache.get_or_import(key, &buffer, false).unwrap();
    }
    cache
}

/// A commit of one plane that shows a known buffer, and its event: all that this crate does in a frame.
#[divan::bench(args = LIVE)]
fn commit(bencher: Bencher<'_, '_>, live: usize) {
    let cache = cache(live);
    let asked: Vec<_> = (0..live).filter(|number| is_asked(*number, live)).collect();
    let mut planes = PlaneFramebuffers::new();
    bencher.counter(ItemsCount::new(asked.len())).bench_local(|| {
        for key in &asked {
            let framebuffer = cache.get(key, false).unwrap().unwrap();
            let id = planes.commit(|staging| Ok::<_, ()>(staging.show(NonZeroU32::MIN, &framebuffer).get()));
            black_box(id.unwrap());
            planes.flipped();
        }
    });
}

/// As `commit`, every framebuffer in turn, in an order that no cache of the processor guesses.
#[divan::bench(args = LIVE)]
fn commit_everything(bencher: Bencher<'_, '_>, live: usize) {
    let cache = cache(live);
    // A step that has no factor in common with any number of buffers visits all of them.
    let mut keys = (0..).map(|n: usize| (n * 61_403) % live);
    let mut planes = PlaneFramebuffers::new();
    bencher.counter(ItemsCount::new(ASKED)).bench_local(|| {
        for key in keys.by_ref().take(ASKED) {
            let framebuffer = cache.get(&key, false).unwrap().unwrap();
            let id = planes.commit(|staging| Ok::<_, ()>(staging.show(NonZeroU32::MIN, &framebuffer).get()));
            black_box(id.unwrap());
            planes.flipped();
        }
    });
}

fn main() {
    divan::main();
}
