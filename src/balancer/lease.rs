//! The use of a placement by one session, which ends with the session.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Balancer, Intent, Placement};

/// While it lives, the placement does not expire. Dropping it releases the placement.
pub struct Lease {
    balancer: Arc<dyn Balancer>,
    placement: Placement,
    intent: Intent,
    epoch: watch::Receiver<u64>,
}

impl Lease {
    /// Acquires `placement` for a session.
    pub fn new(balancer: Arc<dyn Balancer>, placement: Placement, intent: Intent) -> Self {
        let epoch = balancer.acquire(&placement, intent);
        Self { balancer, placement, intent, epoch }
    }

    /// The placement that is held.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Whether the stream has moved to another origin.
    pub fn has_moved(&self) -> bool {
        *self.epoch.borrow() > self.placement.epoch
    }

    /// Returns when the stream has moved to another origin. Pending for ever if it never does.
    pub async fn moved(&mut self) {
        let held = self.placement.epoch;
        if self.epoch.wait_for(|epoch| *epoch > held).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.balancer.release(&self.placement.stream, self.intent);
    }
}
