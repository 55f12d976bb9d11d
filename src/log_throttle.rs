//! Keeps a log message that repeats from filling the log.

use std::{collections::HashMap, hash::Hash, sync::Mutex, time::Duration};

use crate::sync::lock;
use tokio::time::Instant;

/// Lets each message through once in a period, and counts those that it holds back. Knows a bounded
/// number of messages; while all of them are recent, further ones are held back too.
#[derive(Debug)]
pub(crate) struct LogThrottle<K> {
    period: Duration,
    capacity: usize,
    seen: Mutex<HashMap<K, Seen>>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    held_back: u64,
}

impl<K: Eq + Hash + Clone> LogThrottle<K> {
    pub fn new(period: Duration, capacity: usize) -> Self {
        Self { period, capacity, seen: Mutex::default() }
    }

    /// How many equal messages were held back since the last one, if this one may be written.
    pub fn admit(&self, message: &K) -> Option<u64> {
        let now = Instant::now();
        let recent = |seen: &Seen| now.saturating_duration_since(seen.at) < self.period;
        let mut messages = lock(&self.seen);
        if let Some(seen) = messages.get_mut(message) {
            if recent(seen) {
                seen.held_back += 1;
                return None;
            }
            let held_back = std::mem::take(&mut seen.held_back);
            seen.at = now;
            return Some(held_back);
        }
        if messages.len() >= self.capacity {
            messages.retain(|_, seen| recent(seen));
        }
        if messages.len() >= self.capacity {
            return None;
        }
        messages.insert(message.clone(), Seen { at: now, held_back: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn an_equal_message_is_written_once_in_a_period_with_the_count_of_the_others() {
        let throttle = LogThrottle::new(PERIOD, 10);
        assert_eq!(throttle.admit(&"a"), Some(0));
        assert_eq!(throttle.admit(&"a"), None);
        assert_eq!(throttle.admit(&"b"), Some(0));
        assert_eq!(throttle.admit(&"a"), None);
        tokio::time::advance(PERIOD).await;
        assert_eq!(throttle.admit(&"a"), Some(2));
        assert_eq!(throttle.admit(&"a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_different_messages_neither_fills_memory_nor_the_log() {
        let throttle = LogThrottle::new(PERIOD, 10);
        assert_eq!((0..1000).filter(|i| throttle.admit(i).is_some()).count(), 10);
        assert_eq!(throttle.seen.lock().unwrap().len(), 10);
        tokio::time::advance(PERIOD).await;
        assert_eq!(throttle.admit(&1000), Some(0));
    }
}
