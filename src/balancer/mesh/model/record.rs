//! What nodes tell each other of a stream, and which of two such records counts.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use crate::origin::OriginId;

/// The most nodes that a record's history names. Those whose part is oldest are left out first.
pub const MAX_HISTORY: usize = 8;

/// The name of a node, the same after a restart. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.0)
    }
}

/// A time on the hybrid logical clock: microseconds since 1970 where clocks are right, and later than
/// everything that its node had seen in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp(pub u64);

/// A stream's placement, as one node wrote it at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The origin that holds the stream.
    pub origin: OriginId,
    /// Grows by at least one whenever the stream moves to another origin.
    pub epoch: u64,
    /// When the stream came to this origin.
    pub since: Stamp,
    /// Whether a publisher sends it there.
    pub published: bool,
    /// Who wrote the record.
    pub writer: NodeId,
    /// When it was written. A node writes one record at a time, so this and the writer name it.
    pub written: Stamp,
    /// The latest record of each other node that the writer knew. The record stands in their place.
    pub history: BTreeMap<NodeId, Stamp>,
}

impl Record {
    /// Whether whoever wrote this record knew `other`, or an even later one of the same writer.
    pub fn supersedes(&self, other: &Self) -> bool {
        if self.writer == other.writer {
            return self.written >= other.written;
        }
        self.history.get(&other.writer).is_some_and(|known| *known >= other.written)
    }

    /// The history of a record that takes the place of all of these.
    pub fn history_of<'a>(records: impl IntoIterator<Item = &'a Self>) -> BTreeMap<NodeId, Stamp> {
        let mut history: BTreeMap<NodeId, Stamp> = BTreeMap::new();
        for record in records {
            let known = record.history.iter().map(|(node, stamp)| (node, *stamp));
            for (node, stamp) in known.chain([(&record.writer, record.written)]) {
                let latest = history.entry(node.clone()).or_default();
                *latest = stamp.max(*latest);
            }
        }
        while history.len() > MAX_HISTORY
            && let Some(oldest) = history.iter().min_by_key(|(_, stamp)| **stamp).map(|(node, _)| node.clone())
        {
            history.remove(&oldest);
        }
        history
    }

    /// Orders records that were written without knowledge of each other; the greater one wins: a live
    /// publisher beats none, then the higher epoch, the earlier time, the smaller origin id. Records
    /// that agree on all this say the same; who wrote them last decides only which of them is kept.
    pub fn compare(&self, other: &Self) -> Ordering {
        self.published
            .cmp(&other.published)
            .then_with(|| self.epoch.cmp(&other.epoch))
            .then_with(|| other.since.cmp(&self.since))
            .then_with(|| other.origin.cmp(&self.origin))
            .then_with(|| self.written.cmp(&other.written))
            .then_with(|| self.writer.cmp(&other.writer))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(writer: &str, written: u64) -> Record {
        Record {
            origin: "o".into(),
            epoch: 1,
            since: Stamp(1),
            published: false,
            writer: writer.into(),
            written: Stamp(written),
            history: BTreeMap::new(),
        }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        (any::<bool>(), 0..3u64, 0..3u64, 0..3u8, 0..3u64, 0..3u8).prop_map(
            |(published, epoch, since, origin, written, writer)| Record {
                origin: format!("o{origin}").as_str().into(),
                epoch,
                since: Stamp(since),
                published,
                ..record(&format!("n{writer}"), written)
            },
        )
    }

    /// What a node did of which a record may come.
    #[derive(Debug, Clone)]
    enum Step {
        Write(usize),
        Send { from: usize, to: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let node = 0..4usize;
        prop_oneof![
            node.clone().prop_map(Step::Write),
            (node.clone(), node).prop_map(|(from, to)| Step::Send { from, to }),
        ]
    }

    /// Plays nodes that write records, and tell each other what they know. Gives all that was written,
    /// each with all that its writer knew of, directly or not.
    fn play(steps: &[Step]) -> Vec<(Record, Vec<usize>)> {
        let mut written: Vec<(Record, Vec<usize>)> = Vec::new();
        let mut known: [Vec<usize>; 4] = Default::default();
        let mut clocks = [0; 4];
        for step in steps {
            match *step {
                Step::Write(node) => {
                    clocks[node] += 1;
                    let name = format!("n{node}");
                    let mut history = Record::history_of(known[node].iter().map(|i| &written[*i].0));
                    history.remove(&NodeId::from(name.as_str()));
                    let mut past: Vec<_> = known[node].iter().flat_map(|i| written[*i].1.clone()).collect();
                    past.push(written.len());
                    known[node] = vec![written.len()];
                    written.push((Record { history, ..record(&name, clocks[node]) }, past));
                }
                Step::Send { from, to } => {
                    for i in known[from].clone() {
                        if !known[to].iter().any(|known| written[*known].0.supersedes(&written[i].0)) {
                            known[to].retain(|known| !written[i].0.supersedes(&written[*known].0));
                            known[to].push(i);
                            clocks[to] = clocks[to].max(written[i].0.written.0);
                        }
                    }
                }
            }
        }
        written
    }

    proptest! {
        #[test]
        fn a_record_supersedes_exactly_those_that_its_writer_knew(steps in prop::collection::vec(step(), 1..40)) {
            let written = play(&steps);
            for (one, past) in &written {
                for (i, (other, _)) in written.iter().enumerate() {
                    prop_assert_eq!(one.supersedes(other), past.contains(&i), "{:?} {:?}", one, other);
                }
            }
        }

        #[test]
        fn records_that_supersede_each_other_are_the_same_and_superseding_passes_on(
            steps in prop::collection::vec(step(), 1..40),
        ) {
            let written = play(&steps);
            for (a, _) in &written {
                prop_assert!(a.supersedes(a));
                for (b, _) in written.iter().filter(|(b, _)| a.supersedes(b)) {
                    prop_assert!(a == b || !b.supersedes(a), "{a:?} {b:?}");
                    for (c, _) in written.iter().filter(|(c, _)| b.supersedes(c)) {
                        prop_assert!(a.supersedes(c), "{a:?} {b:?} {c:?}");
                    }
                }
            }
        }

        #[test]
        fn all_nodes_put_the_same_records_in_the_same_order(
            a in any_record(), b in any_record(), c in any_record(),
        ) {
            prop_assert_eq!(a.compare(&b), b.compare(&a).reverse());
            prop_assert_eq!(a.compare(&b) == Ordering::Equal, a == b);
            if a.compare(&b).is_le() && b.compare(&c).is_le() {
                prop_assert!(a.compare(&c).is_le());
            }
        }

        #[test]
        fn a_history_names_the_latest_record_of_each_of_the_writers_heard_of_last(
            parts in prop::collection::vec((0..20u8, 1..1000u64, prop::collection::btree_map(0..20u8, 1..1000u64, 0..8)), 0..8),
        ) {
            let name = |n: u8| NodeId::from(format!("n{n}").as_str());
            let records: Vec<_> = parts
                .iter()
                .map(|(writer, written, history)| Record {
                    history: history.iter().map(|(node, stamp)| (name(*node), Stamp(*stamp))).collect(),
                    ..record(name(*writer).as_str(), *written)
                })
                .collect();
            let mut latest: BTreeMap<NodeId, Stamp> = BTreeMap::new();
            for (writer, written, history) in &parts {
                for (node, stamp) in history.iter().chain([(writer, written)]) {
                    let known = latest.entry(name(*node)).or_default();
                    *known = (*known).max(Stamp(*stamp));
                }
            }
            let history = Record::history_of(&records);
            prop_assert_eq!(history.len(), latest.len().min(MAX_HISTORY));
            for (node, stamp) in &history {
                prop_assert_eq!(latest.get(node), Some(stamp));
            }
            let oldest_kept = history.values().min().copied().unwrap_or_default();
            let left_out = latest.iter().filter(|(node, _)| !history.contains_key(*node));
            for (node, stamp) in left_out {
                prop_assert!(*stamp <= oldest_kept, "{node} was left out at {stamp:?}");
            }
        }
    }

    #[test]
    fn a_publisher_counts_before_the_epoch_the_epoch_before_the_time_and_the_time_before_the_origin() {
        let said = |published, epoch, since, origin: &str| Record {
            origin: origin.into(),
            epoch,
            since: Stamp(since),
            published,
            ..record("n", 1)
        };
        // Best first. Each is worse than the one before in one thing, and better in all that comes after.
        let ordered = [
            said(true, 2, 5, "b"),
            said(true, 2, 6, "a"),
            said(true, 1, 1, "a"),
            said(false, 9, 1, "a"),
            said(false, 9, 1, "b"),
            said(false, 9, 2, "a"),
            said(false, 8, 0, "a"),
        ];
        for (i, better) in ordered.iter().enumerate() {
            for worse in &ordered[i + 1..] {
                // Neither who wrote it nor when comes into it.
                let worse = Record { writer: "z".into(), written: Stamp(99), ..worse.clone() };
                assert_eq!(better.compare(&worse), Ordering::Greater, "{better:?} {worse:?}");
            }
        }
    }

    #[test]
    fn a_later_record_of_one_writer_stands_in_the_place_of_its_earlier_ones() {
        let (early, late) = (record("a", 1), record("a", 2));
        assert!(late.supersedes(&early) && !early.supersedes(&late));
        let knew = Record { history: [("a".into(), Stamp(1))].into(), ..record("b", 9) };
        assert!(knew.supersedes(&early) && !knew.supersedes(&late));
        assert!(!early.supersedes(&knew) && !late.supersedes(&knew));
    }
}
