//! Counters of gossip; drops are also logged, at a limited rate.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::sync::lock;
use tracing::{debug, warn};

/// How often one reason is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a connection or a message was refused or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A connection with a node of another cluster.
    ForeignCluster,
    /// A connection of which one side does not trust the certificate of the other, or does not speak as a
    /// node does.
    Untrusted,
    /// A connection whose handshake did not end in time: the peer is gone.
    Timeout,
    /// A message that makes no sense.
    Garbage,
    /// A connection or a message beyond what this node can take.
    Overflow,
    /// A message or a post that is too long.
    Oversize,
    /// A message of this node to itself.
    Own,
    /// A message that gave way to others, or whose connection was lost.
    Unsent,
    /// A post under a key that is not allowed.
    BadKey,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::ForeignCluster,
        Self::Untrusted,
        Self::Timeout,
        Self::Garbage,
        Self::Overflow,
        Self::Oversize,
        Self::Own,
        Self::Unsent,
        Self::BadKey,
    ];

    /// The word for metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ForeignCluster => "foreign_cluster",
            Self::Untrusted => "untrusted",
            Self::Timeout => "timeout",
            Self::Garbage => "garbage",
            Self::Overflow => "overflow",
            Self::Oversize => "oversize",
            Self::Own => "own",
            Self::Unsent => "unsent",
            Self::BadKey => "bad_key",
        }
    }

    const fn event(self) -> &'static str {
        match self {
            Self::ForeignCluster => "gossip with another cluster refused: PROXY_MESH_CLUSTER_ID differs",
            Self::Untrusted => "gossip with an untrusted peer refused: PROXY_MESH_KEY differs, or it is no node",
            Self::Timeout => "gossip handshake timed out",
            Self::Garbage => "malformed gossip message dropped",
            Self::Overflow => "gossip beyond a limit dropped",
            Self::Oversize => "oversized gossip message dropped",
            Self::Own => "gossip with this node itself dropped",
            Self::Unsent => "gossip message not sent",
            Self::BadKey => "a post is refused: its key does not begin with an ASCII character",
        }
    }
}

/// Counters of one node's gossip. They only grow.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
    logged: Mutex<[Option<LastLogged>; Reason::ALL.len()]>,
}

#[derive(Debug, Clone, Copy)]
struct LastLogged {
    at: Instant,
    count: u64,
}

impl Counters {
    /// UDP packets sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// UDP packets received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes in the packets sent, without the headers of UDP and IP.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Bytes in the packets received, without the headers of UDP and IP.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// What was dropped for a reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_sent(&self, packets: usize, bytes: usize) {
        self.sent.fetch_add(packets as u64, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, packets: usize, bytes: usize) {
        self.received.fetch_add(packets as u64, Ordering::Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what was dropped, and logs it unless the same reason was logged within [`LOG_INTERVAL`].
    pub(super) fn count_dropped(&self, reason: Reason, count: u64, peer: Option<SocketAddr>, detail: &str) {
        let total = self.dropped[reason as usize].fetch_add(count, Ordering::Relaxed) + count;
        let Some(count) = self.admit(reason, total, Instant::now()) else { return };
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        let event = reason.event();
        // A seed list may name this node, and nodes come and go.
        if matches!(reason, Reason::Own | Reason::Timeout | Reason::Unsent) {
            debug!(peer, count, detail, "{event}");
        } else {
            warn!(peer, count, detail, "{event}");
        }
    }

    /// Returns how many were dropped since the reason was last logged, if it may be logged now.
    fn admit(&self, reason: Reason, total: u64, now: Instant) -> Option<u64> {
        let mut logged = lock(&self.logged);
        let last = &mut logged[reason as usize];
        if last.is_some_and(|last| now.saturating_duration_since(last.at) < LOG_INTERVAL) {
            return None;
        }
        let before = last.map_or(0, |last| last.count);
        *last = Some(LastLogged { at: now, count: total });
        Some(total.saturating_sub(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_logged_once_in_a_while_with_the_count_since_then() {
        let counters = Counters::default();
        let now = Instant::now();
        assert_eq!(counters.admit(Reason::Untrusted, 1, now), Some(1));
        assert_eq!(counters.admit(Reason::Untrusted, 2, now), None);
        assert_eq!(counters.admit(Reason::Own, 7, now), Some(7));
        assert_eq!(counters.admit(Reason::Untrusted, 9, now + LOG_INTERVAL), Some(8));
    }

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let counters = Counters::default();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.count_dropped(reason, index as u64 + 1, None, "");
        }
        assert!(Reason::ALL.iter().all(|reason| counters.dropped(*reason) == *reason as u64 + 1));
    }
}
