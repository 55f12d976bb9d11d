//! A hybrid logical clock: it follows the wall clock, and never stands behind anything that it was
//! shown. It orders what nodes write; nothing expires by it.

use std::{sync::Arc, time::Duration};

use super::record::Stamp;

/// How far another clock may be ahead. One that is further off is wrong, and a wrong clock must not
/// spread.
const MAX_AHEAD: Duration = Duration::from_hours(24);

/// Microseconds since 1970.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The clock of a node.
pub struct Clock {
    wall: WallClock,
    last: u64,
}

impl Clock {
    /// A clock that follows `wall`.
    pub fn new(wall: WallClock) -> Self {
        Self { wall, last: 0 }
    }

    /// A time later than any before.
    pub fn now(&mut self) -> Stamp {
        self.last = (self.wall)().max(self.last + 1);
        Stamp(self.last)
    }

    /// The time without letting it pass.
    pub fn peek(&self) -> Stamp {
        Stamp((self.wall)().max(self.last))
    }

    /// Takes note of another node's time.
    pub fn observe(&mut self, other: Stamp) {
        let limit = (self.wall)().saturating_add(MAX_AHEAD.as_micros() as u64);
        if other.0 <= limit {
            self.last = self.last.max(other.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn clock() -> (Arc<AtomicU64>, Clock) {
        let wall = Arc::new(AtomicU64::new(1_000));
        let read = Arc::clone(&wall);
        (wall, Clock::new(Arc::new(move || read.load(Ordering::Relaxed))))
    }

    #[test]
    fn it_goes_on_when_the_wall_clock_is_set_back() {
        let (wall, mut clock) = clock();
        let first = clock.now();
        wall.store(10, Ordering::Relaxed);
        let second = clock.now();
        assert!(second > first);
        wall.store(5_000, Ordering::Relaxed);
        assert_eq!(clock.now(), Stamp(5_000));
    }

    #[test]
    fn it_is_later_than_everything_that_it_was_shown_except_nonsense() {
        let (_, mut clock) = clock();
        clock.observe(Stamp(7_777));
        assert_eq!(clock.now(), Stamp(7_778));
        clock.observe(Stamp(u64::MAX));
        assert_eq!(clock.now(), Stamp(7_779));
    }
}
