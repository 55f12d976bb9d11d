//! What a node knows of every stream, and what it answers for. Pure: times come in, effects come out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::{
    member::Incarnation,
    record::{NodeId, Record, Stamp},
    tombstones::Tombstones,
};
use crate::{
    balancer::{BalancerError, after},
    origin::OriginId,
    stream::StreamKey,
};

/// How long a record counts that its writer, which lives, has not posted yet.
const UNPOSTED: Duration = Duration::from_secs(10);
/// How many times more streams others may tell of than this node would place.
const FOREIGN_FACTOR: usize = 2;

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long a placement outlives its last session.
    pub hold: Duration,
    /// How long it waits at the least for the client that asked for it.
    pub connecting: Duration,
    /// How long sessions count that their node does not renew.
    pub lease: Duration,
}

/// A change that others must be told of, or that this node must act on.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// This node's record of the stream is to be posted.
    Post(StreamKey, Record),
    /// This node's record of the stream is to be taken back.
    Unpost(StreamKey),
    /// What is known of the stream has changed, and it is this now.
    Resolved(StreamKey, Record),
    /// A record is gone that none of those that are left took the place of. Sessions that use what it
    /// said must be accounted for.
    Unaccounted(StreamKey),
}

/// Sessions of a node on a stream.
#[derive(Debug)]
struct UsageReport {
    published: bool,
    origin: OriginId,
    until: Instant,
}

/// A record, and until when it counts.
#[derive(Debug)]
struct Known {
    record: Record,
    /// Whether this run of this node wrote it.
    own: bool,
    /// For records of others: `None` while their writer keeps them posted.
    until: Option<Instant>,
    /// The run of the writer that has it on the board.
    posted: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    /// None of them supersedes another; the one that counts first.
    records: Vec<Known>,
    leases: BTreeMap<NodeId, UsageReport>,
    /// Until when this node's record is kept without a session.
    kept: Instant,
    /// When something ends, at the earliest.
    due: Option<Instant>,
}

/// All streams that a node knows.
#[derive(Debug)]
pub struct Ledger {
    me: NodeId,
    times: Times,
    capacity: usize,
    streams: BTreeMap<StreamKey, Entry>,
    due: BTreeSet<(Instant, StreamKey)>,
    by_origin: HashMap<OriginId, usize>,
    /// Streams of which records conflict, since when.
    conflicts: BTreeMap<StreamKey, Instant>,
    tombstones: Tombstones,
    effects: Vec<Effect>,
}

impl Ledger {
    /// Knows nothing.
    pub fn new(me: NodeId, times: Times, capacity: usize) -> Self {
        Self {
            me,
            times,
            capacity,
            streams: BTreeMap::new(),
            due: BTreeSet::new(),
            by_origin: HashMap::new(),
            conflicts: BTreeMap::new(),
            tombstones: Tombstones::new(capacity),
            effects: Vec::new(),
        }
    }

    /// What is to be done since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The epochs at which placements ended.
    pub fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Takes note that a placement of the stream ended elsewhere at this epoch.
    pub fn raise_min_epoch(&mut self, stream: &StreamKey, min_epoch: u64) {
        if min_epoch > 0 {
            self.tombstones.note(stream, min_epoch);
        }
    }

    /// Takes a min_epoch for all streams from another node.
    pub fn raise_min_epochs(&mut self, min_epoch: u64) {
        self.tombstones.raise(min_epoch);
    }

    /// How many streams are known.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// How many streams are placed on an origin.
    pub fn count(&self, origin: &OriginId) -> usize {
        self.by_origin.get(origin).copied().unwrap_or(0)
    }

    /// The record that counts.
    pub fn get(&self, stream: &StreamKey) -> Option<&Record> {
        Some(&self.streams.get(stream)?.records.first()?.record)
    }

    /// The record that counts, unless others contradict it.
    pub fn agreed(&self, stream: &StreamKey) -> Option<&Record> {
        self.get(stream).filter(|_| !self.conflicts.contains_key(stream))
    }

    /// The highest epoch of any record of a stream.
    pub fn highest(&self, stream: &StreamKey) -> u64 {
        let records = self.streams.get(stream).into_iter().flat_map(|entry| &entry.records);
        records.map(|known| known.record.epoch).max().unwrap_or(0)
    }

    /// All records of a stream, the one that counts first.
    pub fn all(&self, stream: &StreamKey) -> Vec<Record> {
        let records = self.streams.get(stream).map(|entry| entry.records.as_slice()).unwrap_or_default();
        records.iter().map(|known| known.record.clone()).collect()
    }

    /// This node's own record, if that is the only one.
    pub fn is_own(&self, stream: &StreamKey) -> bool {
        self.streams.get(stream).is_some_and(|entry| matches!(&entry.records[..], [known] if known.own))
    }

    /// This node's own record, whatever others say.
    pub fn own(&self, stream: &StreamKey) -> Option<&Record> {
        let mut records = self.streams.get(stream)?.records.iter();
        records.find(|known| known.own).map(|known| &known.record)
    }

    /// The streams for which this node answers.
    pub fn own_records(&self) -> impl Iterator<Item = (&StreamKey, &Record)> {
        self.streams.iter().filter_map(|(stream, entry)| {
            entry.records.iter().find(|known| known.own).map(|known| (stream, &known.record))
        })
    }

    /// All who wrote a record.
    pub fn writers(&self) -> BTreeSet<NodeId> {
        let records = self.streams.values().flat_map(|entry| &entry.records);
        records.map(|known| known.record.writer.clone()).collect()
    }

    /// Streams and the record of each that counts, ordered by stream, from the one after `after`.
    pub fn iter_after(&self, after: Option<&StreamKey>) -> impl Iterator<Item = (&StreamKey, &Record)> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.streams
            .range::<StreamKey, _>((start, Bound::Unbounded))
            .filter_map(|(stream, entry)| Some((stream, &entry.records.first()?.record)))
    }

    /// Streams of which records conflict, and since when.
    pub fn conflicts(&self) -> impl Iterator<Item = (&StreamKey, Instant)> {
        self.conflicts.iter().map(|(stream, since)| (stream, *since))
    }

    /// Takes a record that another node wrote. `posted` is the run of its writer that has it on the board
    /// and takes it from there when it ends, if one has.
    pub fn merge(&mut self, stream: &StreamKey, record: &Record, posted: Option<u64>, now: Instant) {
        if !self.streams.contains_key(stream) && self.streams.len() >= self.capacity.saturating_mul(FOREIGN_FACTOR) {
            return;
        }
        let until = posted.is_none().then(|| now + UNPOSTED);
        self.edit(stream, now, |entry| {
            for known in &mut entry.records {
                if known.record.supersedes(record) {
                    if known.record == *record && posted.is_some() && !known.own {
                        (known.until, known.posted) = (None, posted);
                    }
                    return;
                }
            }
            entry.records.retain(|known| !record.supersedes(&known.record));
            entry.records.push(Known { record: record.clone(), own: false, until, posted });
        });
    }

    /// Takes note that `writer` no longer has a record of the stream on the board.
    pub fn unposted(&mut self, stream: &StreamKey, writer: &NodeId, now: Instant) {
        if self.streams.contains_key(stream) {
            self.edit(stream, now, |entry| {
                // One that was learned in another way may be later than what was taken back.
                entry.records.retain(|known| known.record.writer != *writer || known.own || known.until.is_some());
            });
        }
    }

    /// Takes note that a node is gone: what it wrote counts for as long as its sessions may.
    pub fn orphan(&mut self, writer: &NodeId, now: Instant) {
        let until = after(now, self.times.hold.max(self.times.connecting) + self.times.lease);
        let orphaned = |known: &Known| known.record.writer == *writer && !known.own;
        for stream in self.written_as(orphaned) {
            self.edit(&stream, now, |entry| {
                for known in entry.records.iter_mut().filter(|known| orphaned(known)) {
                    known.until = Some(until);
                }
            });
        }
    }

    /// Takes note that a run of a node is seen, and with it all that it has on the board.
    pub fn reclaim(&mut self, run: &Incarnation, now: Instant) {
        let reclaimed = |known: &Known| {
            known.record.writer == run.node && known.posted == Some(run.generation) && known.until.is_some()
        };
        for stream in self.written_as(reclaimed) {
            self.edit(&stream, now, |entry| {
                for known in entry.records.iter_mut().filter(|known| reclaimed(known)) {
                    known.until = None;
                }
            });
        }
    }

    /// Writes this node's record of a stream, which takes the place of all that are known, and keeps
    /// it for the client that asked. The stream stays where it is, or moves to `origin`, or is new.
    pub fn assign(
        &mut self,
        stream: &StreamKey,
        origin: &OriginId,
        stamp: Stamp,
        now: Instant,
    ) -> Result<Record, BalancerError> {
        let current = self.get(stream).cloned();
        if current.is_none() {
            self.make_room(now)?;
        }
        let known = self.all(stream);
        let highest = self.highest(stream).max(self.tombstones.min_epoch(stream));
        let (epoch, since) = match &current {
            // Where the others agree on the origin, nothing moves.
            Some(current) if known.iter().all(|record| record.origin == *origin) => {
                (current.epoch.max(highest), current.since)
            }
            Some(current) if current.origin == *origin => (highest + 1, current.since),
            _ => (highest + 1, stamp),
        };
        self.write(stream, origin, epoch, since, stamp, now);
        self.keep(stream, now);
        self.get(stream)
            .cloned()
            .ok_or_else(|| BalancerError::Unavailable("the stream ended while it was placed".into()))
    }

    /// Lifts the epoch of a stream that stays where it is above all at which it ended once (rule 4).
    pub fn raise_epoch(&mut self, stream: &StreamKey, stamp: Stamp, now: Instant) {
        let min_epoch = self.tombstones.min_epoch(stream);
        if let Some(Record { origin, since, epoch, .. }) = self.get(stream).cloned()
            && epoch <= min_epoch
        {
            self.write(stream, &origin, min_epoch + 1, since, stamp, now);
        }
    }

    /// Takes over what is known of a stream, as its home (rule 5). Nothing moves.
    pub fn adopt(&mut self, stream: &StreamKey, stamp: Stamp, now: Instant) {
        let Some(current) = self.get(stream).cloned() else { return };
        if self.conflicts.contains_key(stream) || self.is_own(stream) {
            return;
        }
        self.write(stream, &current.origin, current.epoch, current.since, stamp, now);
    }

    /// Ends a conflict: the record that counts stays, and all that it contradicts are superseded
    /// (rule 9). Says whether there was anything to settle.
    pub fn resolve(&mut self, stream: &StreamKey, stamp: Stamp, now: Instant) -> bool {
        if !self.conflicts.contains_key(stream) {
            return false;
        }
        let Some(winner) = self.get(stream).cloned() else { return false };
        // Sessions of a stream that ended before may have been given an epoch up to the min_epoch.
        let epoch = self.highest(stream).max(self.tombstones.min_epoch(stream)) + 1;
        self.write(stream, &winner.origin, epoch, winner.since, stamp, now);
        true
    }

    /// Sees to it that sessions of this node on `origin` are accounted for: if no record names it, and
    /// none is later than the one that brought them there, there is one now. It contradicts others
    /// that are there, which settles who has to go.
    pub fn reassert(&mut self, stream: &StreamKey, origin: &OriginId, epoch: u64, stamp: Stamp, now: Instant) {
        let known = self.all(stream);
        if known.iter().any(|record| record.origin == *origin || record.epoch > epoch) {
            return;
        }
        if let Some(own) = self.own(stream).cloned() {
            self.write(stream, &own.origin, epoch + 1, own.since, stamp, now);
            return;
        }
        let writer = self.me.clone();
        let kept = after(now, self.times.hold.max(self.times.connecting));
        self.edit(stream, now, |entry| {
            entry.kept = entry.kept.max(kept);
            let published = entry.published(origin);
            let history = BTreeMap::new();
            let record =
                Record { origin: origin.clone(), epoch, since: stamp, published, writer, written: stamp, history };
            entry.records.push(Known { record, own: true, until: None, posted: None });
        });
    }

    /// Keeps this node's record for a client that asked just now.
    pub fn keep(&mut self, stream: &StreamKey, now: Instant) {
        let kept = after(now, self.times.hold.max(self.times.connecting));
        if self.streams.contains_key(stream) {
            self.edit(stream, now, |entry| entry.kept = entry.kept.max(kept));
        }
    }

    /// Takes the sessions that a node has on a stream; none if both counts are zero.
    pub fn lease(
        &mut self,
        stream: &StreamKey,
        node: &NodeId,
        record: &Record,
        users: (u32, u32),
        stamp: Stamp,
        now: Instant,
    ) {
        if !self.streams.contains_key(stream) {
            return;
        }
        let (publishers, players) = users;
        let until = after(now, self.times.lease);
        let hold = after(now, self.times.hold);
        self.edit(stream, now, |entry| {
            if publishers == 0 && players == 0 {
                entry.leases.remove(node);
                if entry.leases.is_empty() {
                    // Another client may have asked since.
                    entry.kept = entry.kept.max(hold);
                }
            } else {
                let lease = UsageReport { published: publishers > 0, origin: record.origin.clone(), until };
                if entry.leases.insert(node.clone(), lease).is_none() {
                    entry.kept = now;
                }
            }
        });
        self.refresh(stream, stamp, now);
    }

    /// Ends what is over. At most `limit` streams are looked at; says how many were.
    pub fn expire(&mut self, stamp: impl Fn() -> Stamp, now: Instant, limit: usize) -> usize {
        for done in 0..limit {
            let stream = match self.due.first() {
                Some((due, stream)) if *due <= now => stream.clone(),
                _ => return done,
            };
            self.edit(&stream, now, |_| {});
            self.refresh(&stream, stamp(), now);
        }
        limit
    }

    fn written_as(&self, matches: impl Fn(&Known) -> bool) -> Vec<StreamKey> {
        let matching = self.streams.iter().filter(|(_, entry)| entry.records.iter().any(&matches));
        matching.map(|(stream, _)| stream.clone()).collect()
    }

    /// Writes the record of this node anew if whether it is published has changed.
    fn refresh(&mut self, stream: &StreamKey, stamp: Stamp, now: Instant) {
        let Some(entry) = self.streams.get(stream) else { return };
        let Some(own) = entry.records.iter().find(|known| known.own) else { return };
        let published = entry.published(&own.record.origin);
        if own.record.published != published {
            self.edit(stream, now, |entry| {
                for own in entry.records.iter_mut().filter(|known| known.own) {
                    own.record.published = published;
                    own.record.written = stamp;
                }
            });
        }
    }

    fn write(&mut self, stream: &StreamKey, origin: &OriginId, epoch: u64, since: Stamp, stamp: Stamp, now: Instant) {
        let me = self.me.clone();
        let connecting = after(now, self.times.hold.max(self.times.connecting));
        self.edit(stream, now, |entry| {
            let mut history = Record::history_of(entry.records.iter().map(|known| &known.record));
            history.remove(&me);
            // What the former home said of publishers holds until their nodes renew.
            let taken_over = entry.records.first().filter(|known| !known.own && known.record.origin == *origin);
            let published =
                entry.published(origin) || (entry.leases.is_empty() && taken_over.is_some_and(|k| k.record.published));
            if !entry.records.iter().any(|known| known.own) && entry.leases.is_empty() {
                entry.kept = entry.kept.max(connecting);
            }
            let record =
                Record { origin: origin.clone(), epoch, since, published, writer: me.clone(), written: stamp, history };
            entry.records = vec![Known { record, own: true, until: None, posted: None }];
        });
    }

    /// Makes an edit to an entry, which is made if it is missing, and brings all that depends on it
    /// up to date.
    fn edit(&mut self, stream: &StreamKey, now: Instant, edit: impl FnOnce(&mut Entry)) {
        let entry = self.streams.entry(stream.clone()).or_insert_with(|| Entry {
            records: Vec::new(),
            leases: BTreeMap::new(),
            kept: now,
            due: None,
        });
        let own_at = entry.records.iter().position(|known| known.own);
        let all_before: Vec<_> = entry.records.iter().map(|known| known.record.clone()).collect();
        let (before, own_before) = (all_before.first(), own_at.map(|at| &all_before[at]));

        edit(entry);
        let ends = entry.own_ends(self.times.hold);
        entry.leases.retain(|_, lease| now < lease.until);
        if entry.leases.is_empty() {
            entry.kept = ends;
        }
        let counts = |known: &Known| if known.own { now < ends } else { known.until.is_none_or(|until| now < until) };
        entry.records.retain(counts);
        entry.records.sort_by(|a, b| b.record.compare(&a.record));
        let highest = entry.records.iter().map(|known| known.record.epoch).max();
        let highest_before = all_before.iter().map(|record| record.epoch).max();
        if let Some(ended) = highest_before.filter(|before| highest.is_none_or(|highest| highest < *before)) {
            self.tombstones.note(stream, ended);
        }

        let current = entry.records.first().map(|known| known.record.clone());
        let own = entry.records.iter().find(|known| known.own).map(|known| known.record.clone());
        let agreed =
            entry.records.iter().all(|known| Some(&known.record.origin) == current.as_ref().map(|c| &c.origin));
        let due = entry.next_due(self.times.hold);
        if due != entry.due {
            if let Some(before) = std::mem::replace(&mut entry.due, due) {
                self.due.remove(&(before, stream.clone()));
            }
            self.due.extend(due.map(|due| (due, stream.clone())));
        }
        let replaced = |before: &Record| {
            let by = |known: &Known| known.record == *before || known.record.supersedes(before);
            entry.records.iter().any(by) || current.as_ref().is_some_and(|current| current.origin == before.origin)
        };
        let doubt = !all_before.iter().all(replaced);
        let place = |record: &Record| (record.origin.clone(), record.epoch);
        let moved = before.map(place) != current.as_ref().map(place);
        let conflicted = self.conflicts.contains_key(stream);

        if before.map(|r| &r.origin) != current.as_ref().map(|r| &r.origin) {
            if let Some(before) = before {
                self.uncount(&before.origin);
            }
            if let Some(current) = &current {
                *self.by_origin.entry(current.origin.clone()).or_default() += 1;
            }
        }
        match (own_before, own) {
            (None, None) => {}
            (Some(_), None) => {
                self.effects.push(Effect::Unpost(stream.clone()));
            }
            (before, Some(own)) => {
                if before != Some(&own) {
                    self.effects.push(Effect::Post(stream.clone(), own));
                }
            }
        }
        if agreed {
            self.conflicts.remove(stream);
        } else {
            self.conflicts.entry(stream.clone()).or_insert(now);
        }
        if doubt {
            self.effects.push(Effect::Unaccounted(stream.clone()));
        }
        match current {
            None => {
                self.streams.remove(stream);
                if let Some(due) = due {
                    self.due.remove(&(due, stream.clone()));
                }
            }
            // While records contradict each other, nobody is sent away.
            Some(current) if agreed && !doubt && (conflicted || moved) => {
                self.effects.push(Effect::Resolved(stream.clone(), current));
            }
            Some(_) => {}
        }
    }

    fn uncount(&mut self, origin: &OriginId) {
        if let Some(count) = self.by_origin.get_mut(origin) {
            *count -= 1;
            if *count == 0 {
                self.by_origin.remove(origin);
            }
        }
    }

    /// Ends as many placements of this node, those first that were unused longest, as make room for
    /// another; none if that does not.
    fn make_room(&mut self, now: Instant) -> Result<(), BalancerError> {
        let needed = (self.streams.len() + 1).saturating_sub(self.capacity);
        let unused = self.due.iter().map(|(_, stream)| stream).filter(|stream| {
            self.is_own(stream) && self.streams.get(*stream).is_some_and(|entry| entry.leases.is_empty())
        });
        let unused: Vec<_> = unused.take(needed).cloned().collect();
        if unused.len() < needed {
            return Err(BalancerError::Full(format!(
                "{} streams are placed and in use, which is the limit (PROXY_MAX_STREAMS)",
                self.streams.len()
            )));
        }
        for stream in unused {
            self.edit(&stream, now, |entry| entry.records.clear());
        }
        Ok(())
    }
}

impl Entry {
    fn published(&self, origin: &OriginId) -> bool {
        self.leases.values().any(|lease| lease.published && lease.origin == *origin)
    }

    /// When this node's own record ends.
    fn own_ends(&self, hold: Duration) -> Instant {
        let leased = self.leases.values().map(|lease| after(lease.until, hold)).max();
        leased.map_or(self.kept, |leased| leased.max(self.kept))
    }

    fn next_due(&self, hold: Duration) -> Option<Instant> {
        let own = self.records.iter().any(|known| known.own).then(|| self.own_ends(hold));
        let leases = self.leases.values().map(|lease| lease.until);
        let records = self.records.iter().filter_map(|known| known.until);
        leases.chain(records).chain(own).min()
    }
}

#[cfg(test)]
mod tests;
