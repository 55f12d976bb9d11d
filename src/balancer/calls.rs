//! Counts of the calls that a node makes to agree with others.

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use tokio::time::error::Elapsed;

/// The upper bounds of the buckets of all latencies of the process, in seconds.
pub(crate) const LATENCY_BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The outcome of a call to Redis or to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    Answered,
    /// Refused, or the connection failed.
    Failed,
    /// Not answered within the deadline.
    Late,
}

impl CallOutcome {
    pub const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Late];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Late => "late",
        }
    }
}

/// Calls by outcome, and the latency of the answered ones. Clones share the counts.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    counts: Arc<[Counter; CallOutcome::ALL.len()]>,
    latency: Histogram,
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self { counts: Arc::default(), latency: Histogram::new(LATENCY_BUCKETS) }
    }
}

impl CallMetrics {
    /// Counts a call with a deadline that took `elapsed`.
    pub(super) fn observe<T, E>(&self, result: &Result<Result<T, E>, Elapsed>, elapsed: Duration) {
        let outcome = match result {
            Ok(Ok(_)) => CallOutcome::Answered,
            Ok(Err(_)) => CallOutcome::Failed,
            Err(_) => CallOutcome::Late,
        };
        self.counts[outcome as usize].inc();
        if outcome == CallOutcome::Answered {
            self.latency.observe(elapsed.as_secs_f64());
        }
    }

    pub(crate) fn count(&self, outcome: CallOutcome) -> u64 {
        self.counts[outcome as usize].get()
    }

    pub(crate) fn latency(&self) -> &Histogram {
        &self.latency
    }
}
