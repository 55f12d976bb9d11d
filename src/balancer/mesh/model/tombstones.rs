//! The epochs at which placements ended, so that a stream that comes again does not go back (rule 4).

use std::collections::{HashMap, VecDeque};

use crate::stream::StreamKey;

/// What is remembered of streams that ended: each for itself, and of the longest past the highest
/// epoch of all.
#[derive(Debug)]
pub struct Tombstones {
    capacity: usize,
    by_stream: HashMap<StreamKey, u64>,
    order: VecDeque<StreamKey>,
    past: u64,
}

impl Tombstones {
    /// Remembers up to `capacity` streams one by one.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), by_stream: HashMap::new(), order: VecDeque::new(), past: 0 }
    }

    /// Takes note that a placement of the stream ended at this epoch.
    pub fn note(&mut self, stream: &StreamKey, epoch: u64) {
        if epoch <= self.past {
            return;
        }
        if let Some(known) = self.by_stream.get_mut(stream) {
            *known = epoch.max(*known);
            return;
        }
        self.by_stream.insert(stream.clone(), epoch);
        self.order.push_back(stream.clone());
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
            && let Some(epoch) = self.by_stream.remove(&oldest)
        {
            self.past = self.past.max(epoch);
        }
    }

    /// Takes what another node remembers of the longest past.
    pub fn raise(&mut self, past: u64) {
        self.past = self.past.max(past);
    }

    /// The epoch above which the stream's next placement must be.
    pub fn min_epoch(&self, stream: &StreamKey) -> u64 {
        self.by_stream.get(stream).copied().unwrap_or(0).max(self.past)
    }

    /// A min_epoch for all streams.
    pub fn highest(&self) -> u64 {
        self.by_stream.values().copied().max().unwrap_or(0).max(self.past)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(n: usize) -> StreamKey {
        StreamKey::from_shared(&format!("v/app/{n}")).unwrap()
    }

    #[test]
    fn no_stream_goes_back_however_many_have_ended_since() {
        let mut ended = Tombstones::new(10);
        for n in 0..100 {
            ended.note(&stream(n), n as u64 + 1);
        }
        for n in 0..100 {
            assert!(ended.min_epoch(&stream(n)) > n as u64, "{n}");
        }
        assert_eq!((ended.by_stream.len(), ended.order.len()), (10, 10));
        assert_eq!(ended.highest(), 100);
        assert_eq!(ended.min_epoch(&stream(1000)), 90, "one that was never seen");
    }

    #[test]
    fn a_lower_epoch_changes_nothing() {
        let mut ended = Tombstones::new(10);
        ended.note(&stream(1), 7);
        ended.note(&stream(1), 3);
        assert_eq!((ended.min_epoch(&stream(1)), ended.min_epoch(&stream(2))), (7, 0));
    }
}
