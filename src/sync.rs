//! Locks of the standard library, held for a moment and never across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. A holder that panicked has changed nothing by halves, since what is done under these
/// locks cannot fail in the middle, so what it left is used.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
