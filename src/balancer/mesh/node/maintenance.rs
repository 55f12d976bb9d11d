//! What a node does without being asked: it ends what is over, and settles conflicts.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::Node;
use crate::balancer::mesh::traits::{GossipStore, PeerClient};

/// How often what is over is ended, and conflicts are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How many records one tick looks at before it lets others have the lock.
pub(super) const TICK_RECORDS: usize = 1024;

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// Ends what is over and settles conflicts, for ever.
    pub(super) async fn run_maintenance(self: &Arc<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.with(|state, now| state.expire_origins(&self.board, now));
            while self.with(|state, now| state.expire_records(TICK_RECORDS, now)) == TICK_RECORDS {
                tokio::task::yield_now().await;
            }
            self.settle_conflicts().await;
            self.tell_conflicts().await;
        }
    }
}
