//! Fences, and who waits for which: reservation objects (dma-resv.c), the set of fences that a sync file is
//! (sync_file.c, dma-fence-unwrap.c), a dma-buf's answer to `poll` (dma-buf.c), and vgem's two fence calls (vgem_fence.c).
//!
//! Plain values: it finds no object and counts no descriptor, and takes no lock but that of a fence's own waiters. A
//! fence has no timeline: each is a context of its own, as vgem's are, so no fence is ever "later" than another.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{event::PollFlags, io::Errno};

/// `DMA_BUF_SYNC_READ`, dma-buf.h: also the flag of reading in `EXPORT_SYNC_FILE` and `IMPORT_SYNC_FILE`.
pub const DMA_BUF_SYNC_READ: u32 = 1;
/// `DMA_BUF_SYNC_WRITE`.
pub const DMA_BUF_SYNC_WRITE: u32 = 2;
/// `DMA_BUF_SYNC_END`.
pub const DMA_BUF_SYNC_END: u32 = 4;
/// `VGEM_FENCE_WRITE`, vgem_drm.h.
pub const VGEM_FENCE_WRITE: u32 = 1;
/// After this time a vgem fence signals by itself (vgem_fence.c).
pub const VGEM_FENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// What fences take the time from: the machine's monotonic clock, which tests can put forward.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// Nanoseconds put forward.
    ahead: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now(), ahead: AtomicU64::new(0) }
    }
}

impl Clock {
    /// Time since the clock was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed() + Duration::from_nanos(self.ahead.load(Ordering::Relaxed))
    }

    /// Puts the clock forward.
    pub fn advance(&self, by: Duration) {
        self.ahead.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A fence: not signalled, then signalled for ever. Clones are the same fence.
#[derive(Debug, Clone)]
pub struct Fence(Arc<State>);

#[derive(Debug)]
struct State {
    /// Names the fence; 0 is that of all stubs.
    context: u64,
    signalled: AtomicBool,
    /// When it signals by itself.
    expiry: Option<(Arc<Clock>, Duration)>,
    waiters: Mutex<()>,
    woken: Condvar,
}

/// So long a waiter sleeps before it looks at a clock that may have been put forward.
const CLOCK_GLANCE: Duration = Duration::from_millis(5);

impl PartialEq for Fence {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Fence {}

impl Default for Fence {
    fn default() -> Self {
        Self::new()
    }
}

impl Fence {
    /// A fence that signals when it is told to.
    #[must_use]
    pub fn new() -> Self {
        Self::with(false, None)
    }

    /// A fence that signals after `timeout` if not told to earlier.
    #[must_use]
    pub fn expiring(clock: &Arc<Clock>, timeout: Duration) -> Self {
        Self::with(false, Some((Arc::clone(clock), clock.now() + timeout)))
    }

    /// A signalled fence that stands for none (`dma_fence_get_stub`).
    #[must_use]
    pub fn stub() -> Self {
        Self::with(true, None)
    }

    fn with(signalled: bool, expiry: Option<(Arc<Clock>, Duration)>) -> Self {
        static CONTEXTS: AtomicU64 = AtomicU64::new(1);
        let context = if signalled { 0 } else { CONTEXTS.fetch_add(1, Ordering::Relaxed) };
        let signalled = AtomicBool::new(signalled);
        Self(Arc::new(State { context, signalled, expiry, waiters: Mutex::default(), woken: Condvar::new() }))
    }

    /// Signals; whether it had not been signalled before.
    #[allow(clippy::must_use_candidate)]
    pub fn signal(&self) -> bool {
        let first = !self.0.signalled.swap(true, Ordering::AcqRel);
        // Taking the lock keeps the wake-up from falling between a waiter's look and its sleep.
        drop(self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.woken.notify_all();
        first
    }

    /// Whether it is signalled, told or expired.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        self.0.signalled.load(Ordering::Acquire)
            || self.0.expiry.as_ref().is_some_and(|(clock, at)| clock.now() >= *at)
    }

    /// Waits until it is signalled, or for `timeout` at most; whether it is signalled. Real time, of one thread.
    #[must_use]
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut guard = self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_signalled() {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            let glance = self.0.expiry.is_some().then_some(CLOCK_GLANCE);
            guard = match left.into_iter().chain(glance).min() {
                Some(nap) => self.0.woken.wait_timeout(guard, nap).unwrap_or_else(PoisonError::into_inner).0,
                None => self.0.woken.wait(guard).unwrap_or_else(PoisonError::into_inner),
            };
        }
        true
    }
}

/// One or more fences that a waiter waits for together: what a sync file is. It never changes: a fence that is attached
/// to the buffer afterwards is none of its. Clones are the same set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceSet(Arc<[Fence]>);

impl FenceSet {
    /// All of `fences`; of none, a stub.
    fn of(fences: Vec<Fence>) -> Self {
        if fences.is_empty() { Self([Fence::stub()].into()) } else { Self(fences.into()) }
    }

    /// A set of one.
    #[must_use]
    pub fn one(fence: Fence) -> Self {
        Self::of(vec![fence])
    }

    /// The unsignalled fences of both (`SYNC_IOC_MERGE`): each once, in the order in which they were made.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let both = self.0.iter().chain(other.0.iter());
        let mut fences: Vec<_> = both.filter(|fence| !fence.is_signalled()).cloned().collect();
        fences.sort_by_key(|fence| fence.0.context);
        fences.dedup_by_key(|fence| fence.0.context);
        Self::of(fences)
    }

    /// Its fences, at least one (`SYNC_IOC_FILE_INFO` counts them).
    #[must_use]
    pub fn fences(&self) -> &[Fence] {
        &self.0
    }

    /// Whether all are signalled: what `POLLIN` on a sync file says, and status 1.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        self.0.iter().all(Fence::is_signalled)
    }

    /// Waits for all of them, for `timeout` at most; whether all are signalled.
    #[must_use]
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let started = Instant::now();
        self.0.iter().all(|fence| fence.wait(timeout.map(|t| t.saturating_sub(started.elapsed()))))
    }
}

/// How the work behind a fence uses the buffer (`enum dma_resv_usage`). Asking for one usage asks for those before it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Usage {
    /// Memory management: everybody waits.
    Kernel,
    /// Writing: implicit readers and writers wait.
    Write,
    /// Reading: implicit writers wait.
    Read,
    /// Nobody waits implicitly.
    Bookkeep,
}

impl Usage {
    /// What a new access has to wait for: reading waits for the writers, writing for everybody who reads or writes.
    #[must_use]
    pub fn awaited_by(access: ImplicitAccess) -> Self {
        match access {
            ImplicitAccess::Read => Self::Write,
            ImplicitAccess::Write => Self::Read,
        }
    }
}

/// What is to be done with a buffer, of which `dma_resv` makes the waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImplicitAccess {
    /// Reading only.
    Read,
    /// Writing, or both.
    Write,
}

impl ImplicitAccess {
    /// The access that the flags of `EXPORT_SYNC_FILE` or `IMPORT_SYNC_FILE` name.
    ///
    /// # Errors
    /// `EINVAL` for neither reading nor writing, and for any other bit.
    pub fn from_sync_file_flags(flags: u32) -> Result<Self, Errno> {
        match flags {
            DMA_BUF_SYNC_READ => Ok(Self::Read),
            _ if flags & !(DMA_BUF_SYNC_READ | DMA_BUF_SYNC_WRITE) == 0 && flags != 0 => Ok(Self::Write),
            _ => Err(Errno::INVAL),
        }
    }

    /// The access that the flags of `FENCE_ATTACH` name.
    ///
    /// # Errors
    /// `EINVAL` for other flags and for padding that is not 0.
    pub fn from_vgem_flags(flags: u32, pad: u32) -> Result<Self, Errno> {
        match (flags, pad) {
            (0, 0) => Ok(Self::Read),
            (VGEM_FENCE_WRITE, 0) => Ok(Self::Write),
            _ => Err(Errno::INVAL),
        }
    }

    /// How a fence of this access uses the buffer.
    #[must_use]
    pub fn usage(self) -> Usage {
        match self {
            Self::Read => Usage::Read,
            Self::Write => Usage::Write,
        }
    }
}

/// Checks the flags of `DMA_BUF_IOCTL_SYNC`, and says which access is to wait: `None` at the end of one.
///
/// # Errors
/// `EINVAL` for neither reading nor writing, and for any other bit.
pub fn sync_flags(flags: u64) -> Result<Option<ImplicitAccess>, Errno> {
    let end = u64::from(DMA_BUF_SYNC_END);
    let access = u32::try_from(flags & !end)
        .map_err(|_| Errno::INVAL)
        .and_then(ImplicitAccess::from_sync_file_flags)?;
    Ok((flags & end == 0).then_some(access))
}

/// The fences of a buffer (`struct dma_resv`). A GEM object and its dma-buf share one.
#[derive(Debug, Clone, Default)]
pub struct Resv {
    fences: Vec<(Fence, Usage)>,
}

impl Resv {
    /// Adds a fence. It takes the place of the first that is signalled, or that is the same fence with an equal or weaker
    /// usage: a fence is promoted, never degraded.
    pub fn add(&mut self, fence: Fence, usage: Usage) {
        let old = self.fences.iter_mut().find(|(old, old_usage)| {
            (old.0.context == fence.0.context && *old_usage >= usage) || old.is_signalled()
        });
        match old {
            Some(place) => *place = (fence, usage),
            None => self.fences.push((fence, usage)),
        }
    }

    /// Adds each fence of a sync file (`IMPORT_SYNC_FILE`).
    pub fn import(&mut self, fences: &FenceSet, access: ImplicitAccess) {
        for fence in fences.fences() {
            self.add(fence.clone(), access.usage());
        }
    }

    /// The unsignalled fences of this usage and those before it.
    pub fn pending(&self, usage: Usage) -> impl Iterator<Item = &Fence> {
        self.fences
            .iter()
            .filter(move |(fence, of)| *of <= usage && !fence.is_signalled())
            .map(|(fence, _)| fence)
    }

    /// Whether there is none (`dma_resv_test_signaled`).
    #[must_use]
    pub fn is_signalled(&self, usage: Usage) -> bool {
        self.pending(usage).next().is_none()
    }

    /// A snapshot of what a new access has to wait for (`EXPORT_SYNC_FILE`); a stub if that is nothing.
    #[must_use]
    pub fn export(&self, access: ImplicitAccess) -> FenceSet {
        FenceSet::of(self.pending(Usage::awaited_by(access)).cloned().collect())
    }
}

/// The two callbacks of a dma-buf's `poll`: while one waits for a fence, it holds a reference on the dma-buf's file, which
/// `count:` shows.
#[derive(Debug, Clone, Default)]
pub struct DmabufPoll {
    /// What the callback of `POLLIN` waits for.
    readers: Option<Fence>,
    /// What the callback of `POLLOUT` waits for.
    writers: Option<Fence>,
}

impl DmabufPoll {
    /// Which of the `events` are there: `POLLIN` when the writers are done, `POLLOUT` when all are. Others never are.
    #[must_use]
    pub fn poll(&mut self, resv: &Resv, events: PollFlags) -> PollFlags {
        let sides = [
            (PollFlags::OUT, ImplicitAccess::Write, &mut self.writers),
            (PollFlags::IN, ImplicitAccess::Read, &mut self.readers),
        ];
        let mut ready = PollFlags::empty();
        for (event, access, waits_for) in sides {
            if !events.contains(event) || waits_for.as_ref().is_some_and(|fence| !fence.is_signalled()) {
                continue;
            }
            *waits_for = resv.pending(Usage::awaited_by(access)).next().cloned();
            ready.set(event, waits_for.is_none());
        }
        ready
    }

    /// How many references on the dma-buf's file the callbacks hold.
    #[must_use]
    pub fn references(&self) -> usize {
        [&self.readers, &self.writers].into_iter().flatten().filter(|fence| !fence.is_signalled()).count()
    }
}

/// The fences that one vgem file attached and has not signalled (`struct vgem_file`).
#[derive(Debug)]
pub struct VgemFences {
    clock: Arc<Clock>,
    /// Numbers count up: that of a signalled fence is not given out again, unlike a GEM handle's.
    last: u32,
    fences: HashMap<u32, Fence>,
}

impl VgemFences {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<Clock>) -> Self {
        Self { clock, last: 0, fences: HashMap::new() }
    }

    /// Makes a fence that is to be attached, expiring after [`VGEM_FENCE_TIMEOUT`].
    #[must_use]
    pub fn make(&self) -> Fence {
        Fence::expiring(&self.clock, VGEM_FENCE_TIMEOUT)
    }

    /// Whether a fence of this access may be attached now.
    ///
    /// # Errors
    /// `EBUSY` if the buffer has a fence that this access would have to wait for.
    pub fn check(resv: &Resv, access: ImplicitAccess) -> Result<(), Errno> {
        if resv.is_signalled(Usage::awaited_by(access)) { Ok(()) } else { Err(Errno::BUSY) }
    }

    /// Remembers a fence that was attached, and returns its number, never 0.
    ///
    /// # Errors
    /// `ENOSPC` after 2^31 - 1 numbers; the fence is then signalled.
    pub fn remember(&mut self, fence: Fence) -> Result<u32, Errno> {
        if self.last >= i32::MAX.cast_unsigned() {
            fence.signal();
            return Err(Errno::NOSPC);
        }
        self.last += 1;
        self.fences.insert(self.last, fence);
        Ok(self.last)
    }

    /// Signals a fence and forgets it (`FENCE_SIGNAL`).
    ///
    /// # Errors
    /// `EINVAL` for flags; `ENOENT` for a number that is not a fence of this file, or no longer; `ETIMEDOUT` if it expired
    /// before, and it is forgotten all the same.
    pub fn signal(&mut self, fence: u32, flags: u32) -> Result<(), Errno> {
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let fence = self.fences.remove(&fence).ok_or(Errno::NOENT)?;
        let in_time = !fence.is_signalled();
        fence.signal();
        if in_time { Ok(()) } else { Err(Errno::TIMEDOUT) }
    }

    /// How many are not signalled by a call yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fences.len()
    }

    /// Whether all are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }
}

/// Closing the file signals what it left (`vgem_fence_close`).
impl Drop for VgemFences {
    fn drop(&mut self) {
        for fence in self.fences.values() {
            fence.signal();
        }
    }
}

#[cfg(test)]
mod tests;
