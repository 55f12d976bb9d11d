//! Short-lived records that lead to a stream. Pure: the time comes in.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{BalancerError, after};
use crate::stream::StreamKey;

/// The longest id in bytes. The longest that is in use, a WebRTC ufrag, has 256 (RFC 8839, 5.4).
const MAX_ID: usize = 1024;
/// How many expired records one call clears away.
const SWEEP: usize = 16;

/// All records.
#[derive(Debug)]
pub(super) struct UfragIndex {
    capacity: usize,
    by_id: HashMap<Arc<str>, (StreamKey, Instant)>,
    by_expiry: BTreeSet<(Instant, Arc<str>)>,
}

impl UfragIndex {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, by_id: HashMap::new(), by_expiry: BTreeSet::new() }
    }

    /// Keeps a record, in place of an earlier one with the same id.
    pub fn put(&mut self, id: &str, stream: &StreamKey, ttl: Duration, now: Instant) -> Result<(), BalancerError> {
        if id.len() > MAX_ID {
            return Err(BalancerError::Full(format!("a session id has {} bytes; the limit is {MAX_ID}", id.len())));
        }
        self.expire(now);
        if let Some((id, (_, until))) = self.by_id.remove_entry(id) {
            self.by_expiry.remove(&(until, id));
        }
        if self.by_id.len() >= self.capacity {
            return Err(BalancerError::Full(format!(
                "{} session records are kept, which is the limit (PROXY_MAX_STREAMS)",
                self.by_id.len()
            )));
        }
        let id: Arc<str> = id.into();
        let until = after(now, ttl);
        self.by_expiry.insert((until, Arc::clone(&id)));
        self.by_id.insert(id, (stream.clone(), until));
        Ok(())
    }

    /// The stream of a record that has not expired.
    pub fn get(&self, id: &str, now: Instant) -> Option<&StreamKey> {
        self.by_id.get(id).filter(|(_, until)| now < *until).map(|(stream, _)| stream)
    }

    fn expire(&mut self, now: Instant) {
        for _ in 0..SWEEP {
            match self.by_expiry.first() {
                Some((until, _)) if *until <= now => {}
                _ => return,
            }
            if let Some((_, id)) = self.by_expiry.pop_first() {
                self.by_id.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn stream(name: &str) -> StreamKey {
        StreamKey::from_shared(&format!("v/app/{name}")).unwrap()
    }

    #[test]
    fn a_later_record_takes_the_place_and_the_ttl_of_an_earlier_one() {
        let mut records = UfragIndex::new(1);
        let start = Instant::now();
        records.put("u", &stream("a"), TTL, start).unwrap();
        records.put("u", &stream("b"), TTL, start + TTL / 2).unwrap();
        assert_eq!(records.get("u", start + TTL), Some(&stream("b")));
        assert_eq!(records.get("u", start + TTL + TTL / 2), None);
        assert_eq!((records.by_id.len(), records.by_expiry.len()), (1, 1));
    }

    #[test]
    fn the_number_of_records_is_bounded_and_expired_ones_make_room() {
        let mut records = UfragIndex::new(100);
        let start = Instant::now();
        for i in 0..100 {
            records.put(&i.to_string(), &stream("a"), TTL, start).unwrap();
        }
        let error = records.put("x", &stream("a"), TTL, start).unwrap_err();
        assert!(error.to_string().contains("PROXY_MAX_STREAMS"), "{error}");
        assert!(records.put("0", &stream("b"), TTL, start).is_ok(), "one that exists may be replaced");
        for i in 0..100 {
            records.put(&format!("new {i}"), &stream("a"), TTL, start + TTL).unwrap();
        }
        assert_eq!((records.by_id.len(), records.by_expiry.len()), (100, 100));
    }

    #[test]
    fn an_endless_ttl_and_an_endless_id_do_no_harm() {
        let mut records = UfragIndex::new(1);
        let start = Instant::now();
        assert!(records.put(&"x".repeat(MAX_ID + 1), &stream("a"), TTL, start).is_err());
        records.put("u", &stream("a"), Duration::MAX, start).unwrap();
        assert_eq!(records.get("u", start + TTL), Some(&stream("a")));
    }
}
