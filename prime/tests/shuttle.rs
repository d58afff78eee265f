//! The model and the handle table under every interleaving that two schedulers come up with: a random one, and one that
//! changes priorities a few times only (PCT), which finds the rare orders of few steps. Each modelled lock is a point
//! where the thread may change; a deadlock fails the run and prints its schedule.
//!
//! A scenario says what is wrong after one interleaving. `Modern` must find nothing in any; the same scenario on a kernel with
//! a known race must find something in some, or it could not see.
#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    num::NonZeroU32,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use drm_prime::{
    DmabufId, GemDevice, GemHandle, HandleTable,
    model::{
        Census, DRM_CLOEXEC, Direction, DmabufFd, Driver, FdArg, File, Machine, Node, Profile, SeedTrait,
    },
};
use rustix::{
    event::PollFlags,
    fs::{MemfdFlags, SealFlags},
    io::Errno,
};
use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    thread,
};

/// The schedules are the same in each run; `SHUTTLE_SEED` asks for others.
fn seed() -> u64 {
    std::env::var("SHUTTLE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5)
}

/// What one interleaving left behind that it should not have.
type Findings = Vec<String>;

/// Runs a scenario `count` times under each scheduler; gives the findings of those interleavings that had any.
fn explore(
    scenario: impl Fn() -> Findings + Clone + Send + Sync + 'static,
    seed: u64,
    count: usize,
) -> Vec<Findings> {
    let findings = Arc::new(std::sync::Mutex::new(Vec::new()));
    let ran = Arc::new(AtomicUsize::new(0));
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let (scenario, findings, ran) = (scenario.clone(), findings.clone(), ran.clone());
        Runner::new(scheduler, Config::new()).run(move || {
            let found = scenario();
            ran.fetch_add(1, Ordering::Relaxed);
            if !found.is_empty() {
                findings.lock().unwrap().push(found);
            }
        });
    };
    run(Box::new(RandomScheduler::new_from_seed(seed, count)));
    run(Box::new(PctScheduler::new_from_seed(seed, 4, count)));
    assert_eq!(ran.load(Ordering::Relaxed), 2 * count);
    std::mem::take(&mut *findings.lock().unwrap())
}

/// No interleaving may find anything.
fn never(scenario: impl Fn() -> Findings + Clone + Send + Sync + 'static) {
    let findings = explore(scenario, seed(), 600);
    assert!(findings.is_empty(), "{} of 1200 interleavings, e.g. {:?}", findings.len(), findings[0]);
}

/// Some interleaving must find something, of the kind asked for, and some other nothing: then it is a race.
fn sometimes(what: impl Fn(&str) -> bool, scenario: impl Fn() -> Findings + Clone + Send + Sync + 'static) {
    for round in 0..60 {
        let findings = explore(scenario.clone(), seed() + round, 50);
        assert!(findings.len() < 100, "it goes wrong in every order: that is no race");
        if findings.iter().flatten().any(|found| what(found)) {
            return;
        }
    }
    let other = explore(scenario, seed(), 500);
    panic!(
        "none of 6000 interleavings shows it; {} of 1000 show others, e.g. {:?}",
        other.len(),
        other.first()
    );
}

/// A kernel with a vgem file that holds a buffer, and a vkms file.
struct Pair {
    machine: Machine,
    vgem: Arc<File>,
    vkms: Arc<File>,
    handle: u32,
}

impl Pair {
    fn new(profile: Profile) -> Self {
        let machine = Machine::new(profile);
        let open = |driver| Arc::new(machine.add_device(driver).open(Node::Primary).unwrap());
        let (vgem, vkms) = (open(Driver::vgem()), open(Driver::vkms()));
        let handle = vgem.create_dumb(64, 64, 32).unwrap().handle;
        Self { machine, vgem, vkms, handle }
    }

    fn export(&self) -> DmabufFd {
        self.vgem.handle_to_fd(self.handle, DRM_CLOEXEC).unwrap()
    }

    /// What is wrong once all threads are gone, with both files open and all handles closed.
    fn leftovers(self, findings: &mut Findings) {
        let idle = Census { files: 2, descriptors: 2, ..Census::default() };
        let census = self.machine.census();
        if census != idle {
            findings.push(format!("with the files open: {census:?}"));
        }
        drop((self.vgem, self.vkms));
        let census = self.machine.census();
        if !census.is_empty() {
            findings.push(format!("after the files: {census:?}"));
        }
        findings.extend(self.machine.take_events().iter().map(|event| format!("{event:?}")));
    }
}

/// Runs the bodies in threads of their own, and waits for them.
fn threads(bodies: Vec<Box<dyn FnOnce() + Send>>) {
    let running: Vec<_> = bodies.into_iter().map(thread::spawn).collect();
    for thread in running {
        thread.join().unwrap();
    }
}

/// Imports a dma-buf, and closes what it got; another thread may have closed the same number already.
fn import_and_close(file: &File, fd: &DmabufFd) {
    let handle = file.fd_to_handle(FdArg::Dmabuf(fd)).unwrap();
    let closed = file.gem_close(handle);
    assert!(matches!(closed, Ok(()) | Err(Errno::INVAL)), "{closed:?}");
}

/// Imports, exports and closes of one buffer on two files, each twice at once.
fn mixed(profile: Profile) -> Findings {
    let pair = Pair::new(profile);
    let fd = Arc::new(pair.export());
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for _ in 0..2 {
        let (vkms, fd) = (pair.vkms.clone(), fd.clone());
        bodies.push(Box::new(move || import_and_close(&vkms, &fd)));
    }
    let (vkms, original) = (pair.vkms.clone(), fd.clone());
    bodies.push(Box::new(move || {
        let handle = vkms.fd_to_handle(FdArg::Dmabuf(&original)).unwrap();
        match vkms.handle_to_fd(handle, 0) {
            Ok(again) => assert!(again.same_file(&original)),
            Err(errno) => assert_eq!(errno, Errno::NOENT),
        }
        let _by_whom = vkms.gem_close(handle);
    }));
    let (vgem, handle, original) = (pair.vgem.clone(), pair.handle, fd.clone());
    bodies.push(Box::new(move || {
        // Self-import gives the handle itself, however the others are getting on.
        assert_eq!(vgem.fd_to_handle(FdArg::Dmabuf(&original)), Ok(handle));
        let again = vgem.handle_to_fd(handle, 0).unwrap();
        drop(original);
        assert_eq!(vgem.gem_close(handle), Ok(()));
        drop(again);
    }));
    threads(bodies);
    let mut findings = Findings::new();
    stale(&pair.vkms, &fd, &mut findings);
    drop(fd);
    pair.leftovers(&mut findings);
    findings
}

/// After all threads: the handle that an import gives must be the one of a live buffer, and the only one.
fn stale(file: &File, fd: &DmabufFd, findings: &mut Findings) {
    let handle = file.fd_to_handle(FdArg::Dmabuf(fd)).unwrap();
    match file.handle_to_fd(handle, 0) {
        Ok(again) if again.same_file(fd) => {}
        other => findings.push(format!("handle {handle} is stale: {other:?}")),
    }
    if let Err(errno) = file.gem_close(handle) {
        findings.push(format!("handle {handle} cannot be closed: {errno:?}"));
    }
}

/// Two threads export a handle while two close it.
fn export_against_close(profile: Profile) -> Findings {
    let pair = Pair::new(profile);
    let odd = Arc::new(std::sync::Mutex::new(Findings::new()));
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for thread in 0..4 {
        let (vgem, handle, odd) = (pair.vgem.clone(), pair.handle, odd.clone());
        bodies.push(Box::new(move || {
            let (answer, refusal) = if thread % 2 == 0 {
                (vgem.handle_to_fd(handle, DRM_CLOEXEC).map(drop), Errno::NOENT)
            } else {
                (vgem.gem_close(handle), Errno::INVAL)
            };
            if answer.is_err_and(|errno| errno != refusal) {
                odd.lock().unwrap().push(format!("export or close says {answer:?}"));
            }
        }));
    }
    threads(bodies);
    let mut findings = std::mem::take(&mut *odd.lock().unwrap());
    pair.leftovers(&mut findings);
    findings
}

/// Two files hold an object; its dma-buf's last references go in one while the other exports it, twice at once.
fn export_against_release(profile: Profile) -> Findings {
    let pair = Pair::new(profile);
    let other = Arc::new(pair.vgem.device().open(Node::Primary).unwrap());
    // A handle outside of the cache: the second file's entry does not keep the dma-buf.
    let second = other.gem_open(pair.vgem.gem_flink(pair.handle).unwrap()).unwrap();
    let fd = pair.export();
    let odd = Arc::new(std::sync::Mutex::new(Findings::new()));
    let (vgem, handle) = (pair.vgem.clone(), pair.handle);
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> =
        vec![Box::new(move || drop(fd)), Box::new(move || vgem.gem_close(handle).unwrap())];
    for _ in 0..2 {
        let (other, odd) = (other.clone(), odd.clone());
        bodies.push(Box::new(move || {
            if let Err(errno) = other.handle_to_fd(second, DRM_CLOEXEC) {
                odd.lock().unwrap().push(format!("export says {errno:?}"));
            }
        }));
    }
    threads(bodies);
    let mut findings = std::mem::take(&mut *odd.lock().unwrap());
    other.gem_close(second).unwrap();
    drop(other);
    pair.leftovers(&mut findings);
    findings
}

/// Four threads import the same new buffer, and nobody closes it until all have.
fn first_imports(profile: Profile) -> Findings {
    let pair = Pair::new(profile);
    let fd = Arc::new(pair.export());
    let handles = Arc::new(std::sync::Mutex::new(Vec::new()));
    let body = || {
        let (vkms, fd, handles) = (pair.vkms.clone(), fd.clone(), handles.clone());
        Box::new(move || {
            let handle = vkms.fd_to_handle(FdArg::Dmabuf(&fd)).unwrap();
            handles.lock().unwrap().push(handle);
        }) as Box<dyn FnOnce() + Send>
    };
    threads((0..4).map(|_| body()).collect());
    let mut findings = Findings::new();
    let mut handles = std::mem::take(&mut *handles.lock().unwrap());
    handles.dedup();
    if handles.len() != 1 {
        findings.push(format!("one buffer, handles {handles:?}"));
    }
    stale(&pair.vkms, &fd, &mut findings);
    assert_eq!(pair.vgem.gem_close(pair.handle), Ok(()));
    drop(fd);
    pair.leftovers(&mut findings);
    findings
}

/// The exporter's file goes away while others import from it.
fn exporter_goes(profile: Profile) -> Findings {
    let pair = Pair::new(profile);
    let fd = Arc::new(pair.export());
    let Pair { machine, vgem, vkms, .. } = pair;
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = vec![Box::new(move || drop(vgem))];
    for _ in 0..3 {
        let (vkms, fd) = (vkms.clone(), fd.clone());
        bodies.push(Box::new(move || import_and_close(&vkms, &fd)));
    }
    threads(bodies);
    let mut findings = Findings::new();
    stale(&vkms, &fd, &mut findings);
    drop((fd, vkms));
    let census = machine.census();
    if !census.is_empty() {
        findings.push(format!("{census:?}"));
    }
    findings.extend(machine.take_events().iter().map(|event| format!("{event:?}")));
    findings
}

/// One thread closes a handle while others import buffers that may get its number, and export them again.
fn close_against_new(profile: Profile) -> Findings {
    let pair = Pair::new(profile);
    let old = pair.vkms.fd_to_handle(FdArg::Dmabuf(&pair.export())).unwrap();
    let fds: Vec<_> = (0..3)
        .map(|_| {
            let handle = pair.vgem.create_dumb(64, 64, 32).unwrap().handle;
            let fd = Arc::new(pair.vgem.handle_to_fd(handle, DRM_CLOEXEC).unwrap());
            pair.vgem.gem_close(handle).unwrap();
            fd
        })
        .collect();
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    let vkms = pair.vkms.clone();
    bodies.push(Box::new(move || vkms.gem_close(old).unwrap()));
    let handles = Arc::new(std::sync::Mutex::new(Vec::new()));
    for (number, fd) in fds.iter().cloned().enumerate() {
        let (vkms, handles) = (pair.vkms.clone(), handles.clone());
        bodies.push(Box::new(move || {
            let handle = vkms.fd_to_handle(FdArg::Dmabuf(&fd)).unwrap();
            let right = vkms.handle_to_fd(handle, 0).unwrap().same_file(&fd);
            handles.lock().unwrap().push((number, handle, right));
        }));
    }
    threads(bodies);
    let mut findings = Findings::new();
    for (number, handle, right) in std::mem::take(&mut *handles.lock().unwrap()) {
        if !right {
            findings.push(format!("handle {handle} of buffer {number} was exported as another buffer"));
        }
        let again = pair.vkms.fd_to_handle(FdArg::Dmabuf(&fds[number])).unwrap();
        if again != handle {
            findings.push(format!("buffer {number} has handles {handle} and {again}"));
            pair.vkms.gem_close(again).unwrap();
        }
        pair.vkms.gem_close(handle).unwrap();
    }
    drop(fds);
    pair.vgem.gem_close(pair.handle).unwrap();
    pair.leftovers(&mut findings);
    findings
}

/// Four threads map one attachment.
fn maps_at_once(profile: Profile) -> Findings {
    let pair = Pair::new(profile);
    let fd = pair.export();
    let importer = Arc::new(fd.attach(pair.vkms.device()).unwrap());
    let body = || {
        let importer = importer.clone();
        Box::new(move || {
            let table = importer.map(Direction::Bidirectional).unwrap().unwrap();
            importer.unmap(table, Direction::Bidirectional);
        }) as Box<dyn FnOnce() + Send>
    };
    threads((0..4).map(|_| body()).collect());
    drop((fd, importer));
    pair.vgem.gem_close(pair.handle).unwrap();
    let mut findings = Findings::new();
    pair.leftovers(&mut findings);
    findings
}

/// Two threads attach and signal fences, two poll and export what is pending.
fn fences() -> Findings {
    let pair = Pair::new(Profile::MODERN);
    let fd = Arc::new(pair.export());
    let both = PollFlags::IN | PollFlags::OUT;
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for write in 0..2 {
        let (vgem, handle) = (pair.vgem.clone(), pair.handle);
        bodies.push(Box::new(move || match vgem.fence_attach(handle, write, 0) {
            Ok(fence) => vgem.fence_signal(fence, 0).unwrap(),
            Err(errno) => assert_eq!(errno, Errno::BUSY),
        }));
        let fd = fd.clone();
        bodies.push(Box::new(move || {
            let before = fd.export_sync_file(2).unwrap();
            if fd.poll(both).contains(PollFlags::OUT) {
                // What was pending before is done, for all of it is.
                assert!(before.fences().is_signalled());
            }
            fd.import_sync_file(Some(&before), 1).unwrap();
        }));
    }
    threads(bodies);
    let mut findings = Findings::new();
    if (fd.poll(both), fd.count()) != (both, 3) {
        findings.push(format!("all are signalled, and {} references left", fd.count()));
    }
    drop(fd);
    pair.vgem.gem_close(pair.handle).unwrap();
    pair.leftovers(&mut findings);
    findings
}

/// A table of counted handles on one file.
trait Table: Send + Sync {
    /// One reference, given back when dropped.
    type Handle: Send;

    fn new(file: Arc<File>) -> Arc<Self>;
    fn import(self: &Arc<Self>, fd: &OwnedFd) -> Self::Handle;
    fn raw(handle: &Self::Handle) -> NonZeroU32;
}

impl Table for HandleTable {
    type Handle = GemHandle;

    fn new(file: Arc<File>) -> Arc<Self> {
        Arc::new(Self::new(file))
    }

    fn import(self: &Arc<Self>, fd: &OwnedFd) -> GemHandle {
        HandleTable::import(self, fd.as_fd()).unwrap()
    }

    fn raw(handle: &GemHandle) -> NonZeroU32 {
        handle.raw()
    }
}

/// How not to do it: the lock is not held from the import to the count, nor from the count to the close.
struct Naive {
    file: Arc<File>,
    counts: shuttle::sync::Mutex<HashMap<NonZeroU32, usize>>,
}

struct NaiveHandle {
    table: Arc<Naive>,
    raw: NonZeroU32,
}

impl Table for Naive {
    type Handle = NaiveHandle;

    fn new(file: Arc<File>) -> Arc<Self> {
        Arc::new(Self { file, counts: shuttle::sync::Mutex::default() })
    }

    fn import(self: &Arc<Self>, fd: &OwnedFd) -> NaiveHandle {
        let raw = self.file.prime_fd_to_handle(fd.as_fd()).unwrap();
        *self.counts.lock().unwrap().entry(raw).or_default() += 1;
        NaiveHandle { table: self.clone(), raw }
    }

    fn raw(handle: &NaiveHandle) -> NonZeroU32 {
        handle.raw
    }
}

impl Drop for NaiveHandle {
    fn drop(&mut self) {
        let last = {
            let mut counts = self.table.counts.lock().unwrap();
            let count = counts.entry(self.raw).or_default();
            *count = count.saturating_sub(1);
            *count == 0
        };
        if last {
            let _found_closed = GemDevice::gem_close(&*self.table.file, self.raw);
        }
    }
}

/// Four threads import two buffers through one table, look whether the handle they hold is that buffer's, and give it back.
fn counted<T: Table + 'static>() -> Findings {
    let pair = Pair::new(Profile::MODERN);
    let other = pair.vgem.create_dumb(64, 64, 32).unwrap().handle;
    let export =
        |handle| GemDevice::prime_handle_to_fd(&*pair.vgem, NonZeroU32::new(handle).unwrap()).unwrap();
    let fds = Arc::new([export(pair.handle), export(other)]);
    let table = T::new(pair.vkms.clone());
    let stale = Arc::new(std::sync::Mutex::new(Findings::new()));
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for thread in 0..4 {
        let (table, vkms, fds, stale) = (table.clone(), pair.vkms.clone(), fds.clone(), stale.clone());
        bodies.push(Box::new(move || {
            for round in 0..2 {
                let fd = &fds[(thread + round) % 2];
                let handle = table.import(fd);
                let raw = T::raw(&handle);
                let ours = GemDevice::prime_handle_to_fd(&*vkms, raw)
                    .and_then(|again| Ok(DmabufId::of(again.as_fd())? == DmabufId::of(fd.as_fd())?));
                if !matches!(ours, Ok(true)) {
                    stale.lock().unwrap().push(format!("held handle {raw} is stale: {ours:?}"));
                }
            }
        }));
    }
    threads(bodies);
    let mut findings = std::mem::take(&mut *stale.lock().unwrap());
    drop((table, fds));
    pair.vgem.gem_close(pair.handle).unwrap();
    pair.vgem.gem_close(other).unwrap();
    pair.leftovers(&mut findings);
    findings
}

/// Clones, exports and drops of one handle's references, with an import between; and what the table says of itself.
fn references() -> Findings {
    let pair = Pair::new(Profile::MODERN);
    let fd = GemDevice::prime_handle_to_fd(&*pair.vgem, NonZeroU32::new(pair.handle).unwrap()).unwrap();
    let fd = Arc::new(fd);
    let table = HandleTable::new(pair.vkms.clone());
    let first = HandleTable::import(&table, fd.as_fd()).unwrap();
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for thread in 0..4 {
        let (table, fd, handle) = (table.clone(), fd.clone(), first.clone());
        bodies.push(Box::new(move || {
            if thread % 2 == 0 {
                let exported = table.export(&handle).unwrap();
                drop(handle);
                let again = HandleTable::import(&table, exported.as_fd()).unwrap();
                assert_eq!(DmabufId::of(exported.as_fd()).unwrap(), DmabufId::of(fd.as_fd()).unwrap());
                drop(again);
            } else {
                let second = handle.clone();
                drop(handle);
                assert!(table.stats().references > 0);
                drop(second);
            }
        }));
    }
    bodies.push(Box::new(move || drop(first)));
    threads(bodies);
    let mut findings = Findings::new();
    let stats = table.stats();
    let left = (stats.handles, stats.references, stats.unclosed, stats.violations);
    if left != (0, 0, 0, 0) || stats.imports != 3 || stats.closes != stats.imports - stats.hits {
        findings.push(format!("{stats:?}"));
    }
    drop((table, fd));
    pair.vgem.gem_close(pair.handle).unwrap();
    pair.leftovers(&mut findings);
    findings
}

/// A buffer that has left as a real descriptor comes back from all sides while its exporter lets go of it.
fn comes_back() -> Findings {
    let pair = Pair::new(Profile::MODERN);
    let fd = Arc::new(pair.export().into_owned().unwrap());
    let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    let (vgem, handle) = (pair.vgem.clone(), pair.handle);
    bodies.push(Box::new(move || vgem.gem_close(handle).unwrap()));
    for _ in 0..2 {
        let (vkms, fd) = (pair.vkms.clone(), fd.clone());
        bodies.push(Box::new(move || {
            let handle = vkms.fd_to_handle(FdArg::Real(fd.as_fd())).unwrap();
            drop(fd);
            let closed = vkms.gem_close(handle);
            assert!(matches!(closed, Ok(()) | Err(Errno::INVAL)), "{closed:?}");
        }));
    }
    let machine = pair.machine.clone();
    bodies.push(Box::new(move || {
        let token = machine.receive(fd.as_fd()).unwrap();
        drop(fd);
        assert!(token.count() > 0);
        drop(token.into_owned().unwrap());
    }));
    threads(bodies);
    let mut findings = Findings::new();
    pair.leftovers(&mut findings);
    findings
}

/// Four threads import one foreign memfd that the machine has never seen.
fn adopted_at_once() -> Findings {
    let pair = Pair::new(Profile::MODERN);
    pair.machine.accept_foreign(true);
    let memfd = rustix::fs::memfd_create("foreign", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&memfd, 4096).unwrap();
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
    let memfd = Arc::new(memfd);
    let handles = Arc::new(std::sync::Mutex::new(Vec::new()));
    let body = || {
        let (vkms, memfd, handles) = (pair.vkms.clone(), memfd.clone(), handles.clone());
        Box::new(move || {
            let handle = vkms.fd_to_handle(FdArg::Real(memfd.as_fd())).unwrap();
            handles.lock().unwrap().push(handle);
        }) as Box<dyn FnOnce() + Send>
    };
    threads((0..4).map(|_| body()).collect());
    let mut findings = Findings::new();
    let mut handles = std::mem::take(&mut *handles.lock().unwrap());
    handles.dedup();
    if handles.len() != 1 || pair.machine.census().dmabufs != 1 {
        findings.push(format!("one memfd, handles {handles:?}, {:?}", pair.machine.census()));
    }
    pair.vkms.gem_close(handles[0]).unwrap();
    pair.vgem.gem_close(pair.handle).unwrap();
    pair.leftovers(&mut findings);
    findings
}

#[test]
fn real_descriptors_come_back_and_go_in_any_order() {
    never(comes_back);
}

#[test]
fn a_foreign_memfd_is_adopted_once() {
    never(adopted_at_once);
}

#[test]
fn i1_counted_handles_are_never_stale_and_never_left() {
    never(counted::<HandleTable>);
    never(references);
}

#[test]
fn i1_a_count_without_the_lock_is_stale_in_some_order() {
    sometimes(|found| found.contains("is stale"), counted::<Naive>);
}

#[test]
fn s33_imports_exports_and_closes_leave_nothing_and_nest_in_order() {
    never(|| mixed(Profile::MODERN));
}

#[test]
fn s33_first_imports_agree_on_one_handle() {
    never(|| first_imports(Profile::MODERN));
}

#[test]
fn s33_an_exporter_may_go_at_any_moment() {
    never(|| exporter_goes(Profile::MODERN));
}

#[test]
fn c3b_export_against_close_leaks_nothing_now() {
    never(|| export_against_close(Profile::MODERN));
}

#[test]
fn c3b_a_lookup_outside_of_the_lock_leaks_in_some_order() {
    let kernel = Profile::MODERN.with(SeedTrait::UnlockedLookup);
    sometimes(|found| found.starts_with("with the files open"), move || export_against_close(kernel));
}

#[test]
fn c3b_the_seed_as_written_leaks_in_some_order() {
    sometimes(|found| found.contains("WouldLeak"), || export_against_close(Profile::SEED));
}

#[test]
fn c1_a_weak_link_revives_a_released_dmabuf_in_some_order() {
    never(|| export_against_release(Profile::MODERN));
    let racy = Profile::MODERN.with(SeedTrait::WeakExportLink).with(SeedTrait::ExportSkipsCache);
    for kernel in [racy, Profile::SEED] {
        sometimes(|found| found.contains("WouldOops"), move || export_against_release(kernel));
    }
}

#[test]
fn c6_a_number_is_not_reused_before_its_cache_entry_is_gone() {
    never(|| close_against_new(Profile::MODERN));
    let kernel = Profile::MODERN.with(SeedTrait::OnePhaseDelete);
    sometimes(|found| found.contains("another buffer"), move || close_against_new(kernel));
}

#[test]
fn s08_a_look_at_the_mapping_outside_of_the_lock_leaks_in_some_order() {
    never(|| maps_at_once(Profile::MODERN));
    let mended = Profile::MODERN.with(SeedTrait::CachedMapping);
    never(move || maps_at_once(mended));
    let racy = mended.with(SeedTrait::MapCheckUnlocked);
    sometimes(|found| found.contains("S08"), move || maps_at_once(racy));
}

#[test]
fn fences_attached_polled_and_signalled_at_once_leave_nothing() {
    never(fences);
}
