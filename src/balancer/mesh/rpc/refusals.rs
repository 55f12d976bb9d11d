//! Who was turned away, counted and logged at a limited rate.

use std::{
    array,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Each reason is logged once in this time.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Why a connection or a call was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The other side does not have the cluster key, or did not speak as a node does, or not in time.
    Handshake,
    /// There were too many connections.
    Limit,
    /// A call did not say where it belongs.
    Metadata,
    /// A call was meant for another cluster.
    Cluster,
    /// A call was meant for another node.
    Node,
    /// A question broke a rule of the wire.
    Message,
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 6] = [Self::Handshake, Self::Limit, Self::Metadata, Self::Cluster, Self::Node, Self::Message];

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Limit => "limit",
            Self::Metadata => "metadata",
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::Message => "message",
        }
    }
}

/// How often each [`Refusal`] happened.
#[derive(Debug)]
pub struct Refusals {
    reasons: [Entry; Refusal::ALL.len()],
}

#[derive(Debug, Default)]
struct Entry {
    count: AtomicU64,
    logged: Mutex<Option<(Instant, u64)>>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { reasons: array::from_fn(|_| Entry::default()) }
    }
}

impl Refusals {
    /// How often it happened since the start.
    pub fn count(&self, refusal: Refusal) -> u64 {
        self.reasons[refusal as usize].count.load(Relaxed)
    }

    pub(super) fn add(&self, refusal: Refusal, peer: SocketAddr, error: &str) {
        if let Some(held_back) = self.admit(refusal) {
            let reason = refusal.as_str();
            tracing::warn!(%peer, reason, error, held_back, "another node's connection or call was refused");
        }
    }

    /// Counts it, and tells how many were not logged since the last, if this one may be.
    fn admit(&self, refusal: Refusal) -> Option<u64> {
        let entry = &self.reasons[refusal as usize];
        let count = entry.count.fetch_add(1, Relaxed) + 1;
        let now = Instant::now();
        let mut logged = entry.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before) = logged.map_or((None, 0), |(at, before)| (Some(at), before));
        if at.is_some_and(|at| now.saturating_duration_since(at) < LOG_PERIOD) {
            return None;
        }
        *logged = Some((now, count));
        Some(count.saturating_sub(before + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_counted_always_and_logged_once_in_a_period() {
        let refusals = Refusals::default();
        assert_eq!(refusals.admit(Refusal::Node), Some(0));
        assert_eq!(refusals.admit(Refusal::Node), None);
        assert_eq!(refusals.admit(Refusal::Cluster), Some(0));
        assert_eq!(refusals.admit(Refusal::Node), None);
        tokio::time::advance(LOG_PERIOD).await;
        assert_eq!(refusals.admit(Refusal::Node), Some(2));
        assert_eq!(refusals.count(Refusal::Node), 4);
        assert_eq!(refusals.count(Refusal::Cluster), 1);
        assert_eq!(refusals.count(Refusal::Limit), 0);
    }
}
