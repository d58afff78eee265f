//! [`Event`]: what the kernel's C would have done where the model cannot follow, or would have complained about. Reports
//! only; nothing here decides what a call answers.

use rustix::io::Errno;

/// What a call answers where the kernel would have oopsed: no kernel gives this errno for it, since none would answer.
pub const WOULD_OOPS: Errno = Errno::FAULT;

/// What would have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A null or freed pointer followed.
    WouldOops,
    /// Memory or a reference that nobody can give back any more.
    WouldLeak,
    /// A `WARN_ON`, or a reference dropped where its holder is still to be seen.
    Warn,
    /// Two locks taken against the order of the other paths.
    LockOrder,
}

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Row of the crate's checklist, e.g. `S06`.
    pub row: &'static str,
    /// What would have happened.
    pub kind: EventKind,
    /// To whom, in words.
    pub detail: String,
}
