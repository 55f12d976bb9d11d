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
