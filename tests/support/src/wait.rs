//! Waiting for a condition instead of for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for what should come within a second or two on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(15);

/// Waits until the condition holds; panics with `what` after the limit.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for_some(what, limit, || condition().then_some(()));
}

/// Waits until there is something; panics with `what` after the limit.
pub fn wait_for_some<T>(what: &str, limit: Duration, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
