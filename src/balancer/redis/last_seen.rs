//! The placements that this node has seen last, for the time while Redis is away. Pure: the time
//! comes in.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::super::after;
use crate::{origin::OriginId, stream::StreamKey};

/// At most so many placements, each for a time after it was seen.
#[derive(Debug)]
pub(super) struct LastSeen {
    capacity: usize,
    keep: Duration,
    streams: HashMap<StreamKey, Seen>,
    by_expiry: BTreeSet<(Instant, StreamKey)>,
}

#[derive(Debug)]
struct Seen {
    origin: OriginId,
    epoch: u64,
    until: Instant,
}

impl LastSeen {
    pub fn new(capacity: usize, keep: Duration) -> Self {
        Self { capacity, keep, streams: HashMap::new(), by_expiry: BTreeSet::new() }
    }

    /// Where a stream was seen last, and at which epoch.
    pub fn get(&self, stream: &StreamKey, now: Instant) -> Option<(OriginId, u64)> {
        let seen = self.streams.get(stream).filter(|seen| now < seen.until)?;
        Some((seen.origin.clone(), seen.epoch))
    }

    /// Notes where a stream is. News from the past are ignored.
    pub fn put(&mut self, stream: &StreamKey, origin: &OriginId, epoch: u64, now: Instant) {
        if self.streams.get(stream).is_some_and(|seen| seen.epoch > epoch) {
            return;
        }
        self.forget(stream);
        while self.streams.len() >= self.capacity {
            let Some((_, oldest)) = self.by_expiry.pop_first() else { return };
            self.streams.remove(&oldest);
        }
        let until = after(now, self.keep);
        self.by_expiry.insert((until, stream.clone()));
        self.streams.insert(stream.clone(), Seen { origin: origin.clone(), epoch, until });
    }

    /// Notes a move of a stream, if it is known at all.
    pub fn moved(&mut self, stream: &StreamKey, origin: &OriginId, epoch: u64, now: Instant) {
        if self.streams.contains_key(stream) {
            self.put(stream, origin, epoch, now);
        }
    }

    fn forget(&mut self, stream: &StreamKey) {
        if let Some(seen) = self.streams.remove(stream) {
            self.by_expiry.remove(&(seen.until, stream.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(10);

    fn stream(n: usize) -> StreamKey {
        StreamKey::from_shared(&format!("v/app/{n}")).unwrap()
    }

    fn id(n: usize) -> OriginId {
        OriginId::from(n.to_string().as_str())
    }

    #[test]
    fn a_placement_is_known_for_a_time_after_it_was_seen_last() {
        let mut last_seen = LastSeen::new(10, KEEP);
        let start = Instant::now();
        last_seen.put(&stream(1), &id(1), 5, start);
        last_seen.put(&stream(1), &id(1), 5, start + KEEP / 2);
        assert_eq!(last_seen.get(&stream(1), start + KEEP), Some((id(1), 5)));
        assert_eq!(last_seen.get(&stream(1), start + KEEP * 2), None);
    }

    #[test]
    fn a_move_replaces_what_is_known_and_the_past_does_not() {
        let mut last_seen = LastSeen::new(10, KEEP);
        let now = Instant::now();
        last_seen.moved(&stream(1), &id(2), 6, now);
        assert_eq!(last_seen.get(&stream(1), now), None, "nobody here has asked for it");
        last_seen.put(&stream(1), &id(1), 5, now);
        last_seen.moved(&stream(1), &id(2), 6, now);
        last_seen.put(&stream(1), &id(1), 5, now);
        assert_eq!(last_seen.get(&stream(1), now), Some((id(2), 6)));
    }

    #[test]
    fn the_one_that_was_seen_longest_ago_makes_room() {
        let mut last_seen = LastSeen::new(100, KEEP);
        let start = Instant::now();
        for n in 0..1000 {
            last_seen.put(&stream(n), &id(1), 1, start + Duration::from_millis(n as u64));
        }
        assert_eq!((last_seen.streams.len(), last_seen.by_expiry.len()), (100, 100));
        let now = start + Duration::from_secs(1);
        assert_eq!((last_seen.get(&stream(899), now), last_seen.get(&stream(900), now)), (None, Some((id(1), 1))));
    }
}
