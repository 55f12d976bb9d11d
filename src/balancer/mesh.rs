//! Nodes that agree by gossip and by asking each other. `mesh/RULES.md` says by what rules.

pub mod gossip;
pub mod gossip_keys;
pub mod link;
pub mod model;
pub mod node;
mod start;
pub mod status;
pub mod traits;
pub mod wire;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::start::{StartError, Started, start};
use self::{
    gossip::Leaver,
    link::refusals::Refusals,
    node::Node,
    status::{ClusterStatus, Traffic},
    traits::{GossipStore, PeerClient},
};
use super::{
    Balancer, BalancerError, CallMetrics, Intent, OriginStatus, Page, PlaceRequest, Placement, PlacementStatus,
    Reachability,
};
use crate::sync::lock;
use crate::{
    origin::{Origin, OriginId},
    stream::StreamKey,
};

/// The balancer of a node of a mesh.
pub struct MeshBalancer<B, P> {
    node: Arc<Node<B, P>>,
    end: Mutex<Option<(Leaver, CancellationToken)>>,
    traffic: Option<(Arc<gossip::Counters>, Arc<Refusals>)>,
    calls: Option<CallMetrics>,
}

impl<B: GossipStore, P: PeerClient> MeshBalancer<B, P> {
    /// The balancer that `node` is. The node must run.
    pub fn new(node: Arc<Node<B, P>>) -> Self {
        Self { node, end: Mutex::new(None), traffic: None, calls: None }
    }

    /// Ends gossip by `leaver` when the node leaves, and fires `stop` then.
    fn ended_by(self, leaver: Leaver, stop: CancellationToken) -> Self {
        Self { end: Mutex::new(Some((leaver, stop))), ..self }
    }

    /// Shows these counters with the state of the mesh.
    fn with_counters(self, gossip: Arc<gossip::Counters>, refusals: Arc<Refusals>, calls: CallMetrics) -> Self {
        Self { traffic: Some((gossip, refusals)), calls: Some(calls), ..self }
    }
}

#[async_trait]
impl<B: GossipStore, P: PeerClient> Balancer for MeshBalancer<B, P> {
    async fn register(&self, origin: Origin) -> Result<(), BalancerError> {
        self.node.register(origin)
    }

    async fn origins(&self) -> Result<Vec<OriginStatus>, BalancerError> {
        Ok(self.node.origins())
    }

    async fn report(&self, origin: &OriginId, seen: Reachability) {
        self.node.report(origin, seen);
    }

    async fn place(&self, request: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        self.node.place(request).await
    }

    fn acquire(&self, placement: &Placement, intent: Intent) -> watch::Receiver<u64> {
        self.node.acquire(placement, intent)
    }

    fn release(&self, stream: &StreamKey, intent: Intent) {
        self.node.release(stream, intent);
    }

    async fn placements(&self, page: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        Ok(self.node.placements(page))
    }

    async fn put_ufrag(&self, id: &str, stream: &StreamKey, ttl: Duration) -> Result<(), BalancerError> {
        self.node.put_ufrag(id, stream, ttl).await
    }

    async fn stream_of_ufrag(&self, id: &str) -> Result<Option<StreamKey>, BalancerError> {
        self.node.stream_of_ufrag(id).await
    }

    async fn ready(&self) -> Result<(), BalancerError> {
        self.node.ready()
    }

    fn cluster(&self) -> Option<ClusterStatus> {
        let mut status = self.node.status();
        status.traffic = self.traffic.as_ref().map(|(gossip, refusals)| Traffic::read(gossip, refusals));
        Some(status)
    }

    fn calls(&self) -> Option<CallMetrics> {
        self.calls.clone()
    }

    async fn drain(&self) {
        self.node.drain().await;
    }

    async fn leave(&self) {
        self.node.leave();
        let end = lock(&self.end).take();
        if let Some((leaver, stop)) = end {
            leaver.leave().await;
            stop.cancel();
        }
    }
}
