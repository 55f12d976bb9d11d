//! A balancer that counts and measures what another one is asked.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};

use super::{
    Metrics,
    label::{Place, Seen},
};
use crate::{
    balancer::{
        Balancer, BalancerError, CallMetrics, ClusterStatus, Intent, OriginStatus, Page, PlaceRequest, Placement,
        PlacementStatus, Reachability,
    },
    origin::{Origin, OriginId},
    stream::StreamKey,
};

/// Asks `inner`, and counts what comes of it in `metrics`.
pub struct Measured {
    inner: Arc<dyn Balancer>,
    metrics: Metrics,
}

impl Measured {
    /// A balancer that answers as `inner` does.
    pub fn new(inner: Arc<dyn Balancer>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }
}

impl<T> From<&Result<T, BalancerError>> for Place {
    fn from(result: &Result<T, BalancerError>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(BalancerError::NoOrigin { .. }) => Self::NoOrigin,
            Err(BalancerError::Full(_)) => Self::Full,
            Err(BalancerError::Unavailable(_)) => Self::Unavailable,
        }
    }
}

// What is not handed on would be answered by the trait itself.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Balancer for Measured {
    async fn register(&self, origin: Origin) -> Result<(), BalancerError> {
        self.inner.register(origin).await
    }

    async fn origins(&self) -> Result<Vec<OriginStatus>, BalancerError> {
        self.inner.origins().await
    }

    async fn report(&self, origin: &OriginId, seen: Reachability) {
        let label = if seen == Reachability::Reached { Seen::Reached } else { Seen::Failed };
        self.metrics.inner.reports.at((label,)).inc();
        self.inner.report(origin, seen).await;
    }

    async fn place(&self, request: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        let start = Instant::now();
        let result = self.inner.place(request).await;
        let counted = &self.metrics.inner;
        let intent = request.intent;
        counted.place.at((intent,)).observe(start.elapsed().as_secs_f64());
        counted.places.at((intent, (Place::from(&result),))).inc();
        if result.is_ok() && !request.avoid.is_empty() {
            counted.failovers.at((intent,)).inc();
        }
        result
    }

    fn acquire(&self, placement: &Placement, intent: Intent) -> watch::Receiver<u64> {
        self.inner.acquire(placement, intent)
    }

    fn release(&self, stream: &StreamKey, intent: Intent) {
        self.inner.release(stream, intent);
    }

    async fn placements(&self, page: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        self.inner.placements(page).await
    }

    async fn put_ufrag(&self, id: &str, stream: &StreamKey, ttl: Duration) -> Result<(), BalancerError> {
        self.inner.put_ufrag(id, stream, ttl).await
    }

    async fn stream_of_ufrag(&self, id: &str) -> Result<Option<StreamKey>, BalancerError> {
        self.inner.stream_of_ufrag(id).await
    }

    async fn spbhid(&self, spbhid: &str) -> Result<Option<StreamKey>, BalancerError> {
        self.inner.spbhid(spbhid).await
    }

    async fn ready(&self) -> Result<(), BalancerError> {
        self.inner.ready().await
    }

    fn cluster(&self) -> Option<ClusterStatus> {
        self.inner.cluster()
    }

    fn calls(&self) -> Option<CallMetrics> {
        self.inner.calls()
    }

    async fn drain(&self) {
        self.inner.drain().await;
    }

    async fn leave(&self) {
        self.inner.leave().await;
    }
}
