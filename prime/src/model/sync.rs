//! Where the model gets its synchronisation from: `std`, or `shuttle` under the hidden feature of that name, so that a
//! concurrency tester can choose the schedule. It adds nothing to either.
//!
//! Everything two threads of the model can race on goes through [`Mutex`], which makes each step of the kernel
//! a scheduling point; plain `Arc`s and counters that only name things stay with `std`.

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{Mutex, MutexGuard};

use std::sync::{PoisonError, TryLockError};

/// Locks unless somebody else has it locked.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Locks, whatever a panicking test left behind: the model's steps are complete or not begun.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
