//! Who was turned away, counted and logged at a limited rate.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::log_throttle::LogThrottle;

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
    counts: [AtomicU64; Refusal::ALL.len()],
    logged: LogThrottle<Refusal>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { counts: Default::default(), logged: LogThrottle::new(LOG_PERIOD, Refusal::ALL.len()) }
    }
}

impl Refusals {
    /// How often it happened since the start.
    pub fn count(&self, refusal: Refusal) -> u64 {
        self.counts[refusal as usize].load(Relaxed)
    }

    pub(super) fn add(&self, refusal: Refusal, peer: SocketAddr, error: &str) {
        self.counts[refusal as usize].fetch_add(1, Relaxed);
        if let Some(held_back) = self.logged.admit(&refusal) {
            tracing::warn!(%peer, reason = refusal.as_str(), error, held_back, "connection or call of another node refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted() {
        let refusals = Refusals::default();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        for refusal in [Refusal::Node, Refusal::Node, Refusal::Cluster] {
            refusals.add(refusal, peer, "a test");
        }
        assert_eq!(Refusal::ALL.map(|refusal| refusals.count(refusal)), [0, 0, 0, 1, 2, 0]);
    }
}
