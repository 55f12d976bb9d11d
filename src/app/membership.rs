//! What the other nodes learn of this one's end: that it drains, and that it is gone.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::balancer::Balancer;

/// How long the hand-over to the other nodes may take.
const HAND_OVER: Duration = Duration::from_secs(8);
/// How long the farewell may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// When `draining` fires, gives up what only a node that serves may do. Sessions go on meanwhile, so
/// nothing waits for it but the end of the process, which comes after `force` at the latest: half of
/// that is left for everything else.
pub async fn hand_over(balancer: Arc<dyn Balancer>, draining: CancellationToken, force: Duration) {
    draining.cancelled().await;
    let limit = HAND_OVER.min(force / 2);
    if timeout(limit, balancer.drain()).await.is_err() {
        warn!(?limit, "the hand-over to the other nodes is not complete; they find out by themselves");
    }
}

/// Tells the other nodes that this one has ended.
pub async fn leave(balancer: &dyn Balancer) {
    if timeout(CLOSE_TIMEOUT, balancer.leave()).await.is_err() {
        warn!(limit = ?CLOSE_TIMEOUT, "the other nodes are not told of the end; they find out by themselves");
    }
}
