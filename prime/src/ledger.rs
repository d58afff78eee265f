//! The ledger: every live handle, framebuffer and descriptor of a table, with its owner and age. It holds labels and reads
//! the clock; what is live is known to [`crate::handles`], which fills it in.

use std::{
    fmt,
    num::NonZeroU32,
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::{dmabuf::DmabufId, origin::Origin};

/// On whose behalf something is held: a label for people, such as a client's name. Clones share the text.
///
/// ```
/// use drm_prime::Owner;
///
/// let client = Owner::new("client 1200 (weston-simple-dmabuf-egl)");
/// assert_eq!(client.as_str(), "client 1200 (weston-simple-dmabuf-egl)");
/// assert_eq!(Owner::default().as_str(), "unlabelled");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Owner(Option<Arc<str>>);

impl Owner {
    /// A label of that text.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(Some(text.into()))
    }

    /// The text; `unlabelled` for the default.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("unlabelled")
    }
}

impl From<&str> for Owner {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Owner {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// Where a table has the time from, by which ages are told: monotonic, from any start.
///
/// It is read when something is taken and when a ledger is asked for, never when a known buffer is committed. Where even
/// that is too much (a kernel without a vDSO makes it a system call), let the event loop tell the time: [`ToldClock`].
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Read(Arc<dyn Fn() -> Duration + Send + Sync>),
    Told(ToldClock),
}

impl Clock {
    /// A clock of one's own.
    #[must_use]
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Source::Read(Arc::new(now)))
    }

    /// Time since its start.
    #[must_use]
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::Read(now) => now(),
            Source::Told(told) => Duration::from_nanos(told.0.load(Ordering::Relaxed)),
        }
    }
}

impl Default for Clock {
    /// The system's monotonic clock.
    fn default() -> Self {
        let start = Instant::now();
        Self::new(move || start.elapsed())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// A clock that stands at the time it was last told. Clones are the same clock.
///
/// ```
/// use std::time::Duration;
/// use drm_prime::ledger::{Clock, ToldClock};
///
/// let told = ToldClock::default();
/// let clock = Clock::from(&told);
/// told.tell(Duration::from_secs(3)); // once per turn of the event loop
/// assert_eq!(clock.now(), Duration::from_secs(3));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ToldClock(Arc<AtomicU64>);

impl ToldClock {
    /// Sets the time, in whole nanoseconds of at most 584 years.
    pub fn tell(&self, now: Duration) {
        self.0.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl From<&ToldClock> for Clock {
    fn from(told: &ToldClock) -> Self {
        Self(Source::Told(told.clone()))
    }
}

/// One owner's share of a handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderEntry {
    /// Who.
    pub owner: Owner,
    /// How many references are held in that name.
    pub references: usize,
    /// Time since the oldest spell of holding began.
    pub age: Duration,
}

/// A live handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandleEntry {
    /// The handle's number.
    pub handle: NonZeroU32,
    /// How many [`GemHandle`](crate::GemHandle)s share it. 0 only for a handle that the device would not close: it is
    /// tried again.
    pub references: usize,
    /// Where its memory first came from; never `Known`. The exporter's name is there if somebody asked for it before.
    pub origin: Origin,
    /// Its dma-buf, if it has been imported or exported.
    pub dmabuf: Option<DmabufId>,
    /// Time since the handle was obtained.
    pub age: Duration,
    /// Who holds it; the references add up.
    pub holders: Vec<HolderEntry>,
}

/// What a framebuffer is called in logs and in `/sys/kernel/debug/dri`, to be read and compared, and no id to commit: that
/// comes from [`PlaneFramebuffers::commit`](crate::PlaneFramebuffers::commit).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FramebufferName(pub(crate) NonZeroU32);

impl FramebufferName {
    /// The number, for comparing with what debugfs says.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for FramebufferName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for FramebufferName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "framebuffer {}", self.0)
    }
}

/// A live framebuffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramebufferEntry {
    /// Its number.
    pub name: FramebufferName,
    /// For whom it was made.
    pub owner: Owner,
    /// Time since it was made.
    pub age: Duration,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The format, after the opaque substitution.
    pub format: DrmFourcc,
    /// The buffer's modifier.
    pub modifier: DrmModifier,
    /// It is given up, but the device would not close it: it is tried again.
    pub unclosed: bool,
}

/// An open descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorEntry {
    /// Its number in this process.
    pub descriptor: RawFd,
    /// For whom it is open.
    pub owner: Owner,
    /// Time since the table took it over.
    pub age: Duration,
}

/// All that one table and its device hold, at one moment. Sorted by number.
///
/// The table keeps no descriptor of any dma-buf, so the descriptors are the device's own; those that exports returned are
/// their caller's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// `st_rdev` of the device.
    pub device: u64,
    /// Open handles.
    pub handles: Vec<HandleEntry>,
    /// Open framebuffers.
    pub framebuffers: Vec<FramebufferEntry>,
    /// Open descriptors.
    pub descriptors: Vec<DescriptorEntry>,
}
