//! The placements of a node: which stream is on which origin, who uses it, and until when it is
//! kept. Pure: the time comes in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::super::{BalancerError, Intent, Placement, after};
use crate::{origin::OriginId, stream::StreamKey};

/// A placement.
#[derive(Debug)]
pub(super) struct Record {
    pub origin: OriginId,
    pub epoch: u64,
    pub publishers: usize,
    pub players: usize,
    /// When it is forgotten, if nobody uses it.
    unused_until: Option<Instant>,
    /// Tells those who hold it that it moved. Made for the first of them.
    moved: Option<watch::Sender<u64>>,
}

/// All placements.
#[derive(Debug)]
pub(super) struct Table {
    hold: Duration,
    connecting: Duration,
    capacity: usize,
    streams: BTreeMap<StreamKey, Record>,
    /// Those that nobody uses, by the time at which they are forgotten.
    unused: BTreeSet<(Instant, StreamKey)>,
    /// How many streams each origin has.
    by_origin: HashMap<OriginId, usize>,
    /// The highest epoch of any placement that was forgotten. A stream that comes again starts
    /// above it, so that its epoch never goes back.
    forgotten: u64,
}

impl Table {
    pub fn new(hold: Duration, connecting: Duration, capacity: usize) -> Self {
        Self {
            hold,
            connecting,
            capacity,
            streams: BTreeMap::new(),
            unused: BTreeSet::new(),
            by_origin: HashMap::new(),
            forgotten: 0,
        }
    }

    /// How many streams are placed on an origin.
    pub fn count(&self, origin: &OriginId) -> usize {
        self.by_origin.get(origin).copied().unwrap_or(0)
    }

    /// How many placements there are, those whose time is over included.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// The placements, ordered by stream.
    pub fn iter(&self) -> impl Iterator<Item = (&StreamKey, &Record)> {
        self.streams.iter()
    }

    /// Forgets up to `limit` placements whose time is over; says how many.
    pub fn expire(&mut self, now: Instant, limit: usize) -> usize {
        for done in 0..limit {
            match self.unused.first() {
                Some((until, _)) if *until <= now => self.forget_first_unused(),
                _ => return done,
            }
        }
        limit
    }

    /// The placement of a stream.
    pub fn get(&mut self, stream: &StreamKey, now: Instant) -> Option<&Record> {
        let until = self.streams.get(stream)?.unused_until;
        if until.is_some_and(|until| until <= now) {
            self.forget(stream);
        }
        self.streams.get(stream)
    }

    /// Keeps an unused placement for the client that has just asked for it.
    pub fn keep(&mut self, stream: &StreamKey, now: Instant) {
        let until = self.kept_until(now);
        if let Some(record) = self.streams.get_mut(stream)
            && let Some(earlier) = record.unused_until
            && earlier < until
        {
            record.unused_until = Some(until);
            self.unused.remove(&(earlier, stream.clone()));
            self.unused.insert((until, stream.clone()));
        }
    }

    /// Places a stream, or moves it, and gives its new epoch. Those who hold it learn of that.
    pub fn assign(&mut self, stream: &StreamKey, origin: OriginId, now: Instant) -> Result<u64, BalancerError> {
        if let Some(record) = self.streams.get_mut(stream) {
            let old = std::mem::replace(&mut record.origin, origin.clone());
            record.epoch = record.epoch.max(self.forgotten) + 1;
            let epoch = record.epoch;
            if let Some(moved) = &record.moved {
                moved.send_replace(epoch);
            }
            self.uncount(&old);
            *self.by_origin.entry(origin).or_default() += 1;
            self.keep(stream, now);
            return Ok(epoch);
        }
        while self.streams.len() >= self.capacity {
            if self.unused.is_empty() {
                return Err(BalancerError::Full(format!(
                    "{} streams are placed and in use, which is the limit (PROXY_MAX_STREAMS)",
                    self.streams.len()
                )));
            }
            self.forget_first_unused();
        }
        let epoch = self.forgotten + 1;
        self.insert(stream.clone(), origin, epoch, self.kept_until(now));
        Ok(epoch)
    }

    /// Notes one more user; gives the stream's epoch to watch.
    pub fn acquire(&mut self, placement: &Placement, intent: Intent, now: Instant) -> watch::Receiver<u64> {
        let stream = &placement.stream;
        if !self.streams.contains_key(stream) {
            // Its time was over before its client had connected, or its room was needed. The client
            // is on that origin now, so that is where the stream is.
            self.insert(stream.clone(), placement.origin.id(), placement.epoch, now);
        }
        let Some(record) = self.streams.get_mut(stream) else { return watch::channel(placement.epoch).1 };
        *record.users(intent) += 1;
        let unused_until = record.unused_until.take();
        let moved = record.moved.get_or_insert_with(|| watch::channel(record.epoch).0).subscribe();
        if let Some(until) = unused_until {
            self.unused.remove(&(until, stream.clone()));
        }
        moved
    }

    /// Notes one user less. A release without a hold changes nothing.
    pub fn release(&mut self, stream: &StreamKey, intent: Intent, now: Instant) {
        let until = after(now, self.hold);
        let Some(record) = self.streams.get_mut(stream) else { return };
        let users = record.users(intent);
        if *users == 0 {
            return;
        }
        *users -= 1;
        if record.publishers == 0 && record.players == 0 {
            record.unused_until = Some(until);
            record.moved = None;
            self.unused.insert((until, stream.clone()));
        }
    }

    fn insert(&mut self, stream: StreamKey, origin: OriginId, epoch: u64, until: Instant) {
        *self.by_origin.entry(origin.clone()).or_default() += 1;
        self.unused.insert((until, stream.clone()));
        let record = Record { origin, epoch, publishers: 0, players: 0, unused_until: Some(until), moved: None };
        self.streams.insert(stream, record);
    }

    fn forget_first_unused(&mut self) {
        if let Some((_, stream)) = self.unused.pop_first() {
            self.forget(&stream);
        }
    }

    fn forget(&mut self, stream: &StreamKey) {
        let Some(record) = self.streams.remove(stream) else { return };
        if let Some(until) = record.unused_until {
            self.unused.remove(&(until, stream.clone()));
        }
        self.uncount(&record.origin);
        self.forgotten = self.forgotten.max(record.epoch);
    }

    fn uncount(&mut self, origin: &OriginId) {
        if let Some(count) = self.by_origin.get_mut(origin) {
            *count -= 1;
            if *count == 0 {
                self.by_origin.remove(origin);
            }
        }
    }

    fn kept_until(&self, now: Instant) -> Instant {
        after(now, self.hold.max(self.connecting))
    }
}

impl Record {
    fn users(&mut self, intent: Intent) -> &mut usize {
        match intent {
            Intent::Publish => &mut self.publishers,
            Intent::Play => &mut self.players,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::origin::Origin;

    const HOLD: Duration = Duration::from_mins(1);
    const CAPACITY: usize = 4;

    fn stream(n: u8) -> StreamKey {
        StreamKey::from_shared(&format!("v/app/{n}")).unwrap()
    }

    fn placement(stream_number: u8, origin_number: u8, epoch: u64) -> Placement {
        let body = format!(r#"{{"ip":"h","server":"{origin_number}","service":"s","pid":"1","rtmp":["1935"]}}"#);
        let origin = Origin::from_heartbeat(body.as_bytes(), "").unwrap().into();
        Placement { stream: stream(stream_number), origin, epoch }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Assign { stream: u8, origin: u8 },
        Keep(u8),
        Hold { stream: u8, publish: bool },
        Release { stream: u8, publish: bool },
        Pass(Duration),
        Expire,
    }

    fn step() -> impl Strategy<Value = Step> {
        let stream = 0..8u8;
        prop_oneof![
            3 => (stream.clone(), 0..3u8).prop_map(|(stream, origin)| Step::Assign { stream, origin }),
            1 => stream.clone().prop_map(Step::Keep),
            2 => (stream.clone(), any::<bool>()).prop_map(|(stream, publish)| Step::Hold { stream, publish }),
            2 => (stream, any::<bool>()).prop_map(|(stream, publish)| Step::Release { stream, publish }),
            1 => (0..90u64).prop_map(|seconds| Step::Pass(Duration::from_secs(seconds))),
            1 => Just(Step::Expire),
        ]
    }

    fn intent(publish: bool) -> Intent {
        if publish { Intent::Publish } else { Intent::Play }
    }

    fn assert_consistent(table: &Table) {
        let mut by_origin: HashMap<OriginId, usize> = HashMap::new();
        let mut unused = BTreeSet::new();
        for (stream, record) in &table.streams {
            *by_origin.entry(record.origin.clone()).or_default() += 1;
            assert_eq!(record.unused_until.is_some(), record.publishers + record.players == 0, "{record:?}");
            unused.extend(record.unused_until.map(|until| (until, stream.clone())));
        }
        assert_eq!(by_origin, table.by_origin);
        assert_eq!(unused, table.unused);
    }

    proptest! {
        #[test]
        fn counts_and_deadlines_fit_the_placements_and_epochs_only_grow(steps in prop::collection::vec(step(), 1..60)) {
            let mut table = Table::new(HOLD, HOLD, CAPACITY);
            let mut now = Instant::now();
            let mut epochs = [0; 8];
            for step in steps {
                match step {
                    Step::Assign { stream: n, origin } => {
                        let in_use = table.streams.values().filter(|r| r.unused_until.is_none()).count();
                        let known = table.streams.contains_key(&stream(n));
                        match table.assign(&stream(n), placement(n, origin, 0).origin.id(), now) {
                            Ok(epoch) => {
                                prop_assert!(epoch > epochs[usize::from(n)]);
                                epochs[usize::from(n)] = epoch;
                            }
                            Err(_) => prop_assert!(!known && in_use >= CAPACITY),
                        }
                    }
                    Step::Keep(n) => table.keep(&stream(n), now),
                    Step::Hold { stream: n, publish } => {
                        // Only what is placed now: the bound does not count placements that come back.
                        if let Some(record) = table.get(&stream(n), now) {
                            let epoch = record.epoch;
                            let watch = table.acquire(&placement(n, 0, epoch), intent(publish), now);
                            prop_assert_eq!(*watch.borrow(), epoch);
                        }
                    }
                    Step::Release { stream: n, publish } => table.release(&stream(n), intent(publish), now),
                    Step::Pass(time) => now += time,
                    Step::Expire => {
                        table.expire(now, 2);
                    }
                }
                prop_assert!(table.streams.len() <= CAPACITY);
                assert_consistent(&table);
            }
        }
    }

    #[test]
    fn a_placement_that_comes_back_by_a_hold_is_moved_to_an_epoch_above_all_before() {
        let mut table = Table::new(HOLD, HOLD, CAPACITY);
        let now = Instant::now();
        let late = placement(1, 1, table.assign(&stream(1), placement(1, 1, 0).origin.id(), now).unwrap());
        table.expire(now + HOLD, 1);
        let later = table.assign(&stream(1), placement(1, 2, 0).origin.id(), now + HOLD).unwrap();
        table.expire(now + HOLD * 2, 1);

        let watch = table.acquire(&late, Intent::Publish, now + HOLD * 2);
        assert_consistent(&table);
        assert_eq!(*watch.borrow(), late.epoch, "the client is not sent away for nothing");
        let moved = table.assign(&stream(1), placement(1, 2, 0).origin.id(), now + HOLD * 2).unwrap();
        assert!(moved > later);
        assert_eq!(*watch.borrow(), moved);
    }
}
