//! Asks suspect origins whether they answer again. A heartbeat clears a suspicion as well, but some
//! origins send none, and some send them while they serve nobody.

use std::sync::Arc;

use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::balancer::{OriginState, Reachability};
use crate::server::origin_probe::probe;

/// Probes under way at once.
const MAX_PROBES: usize = 16;

/// Probes suspect origins every `probe_interval` until `stop` is cancelled.
pub async fn probe_suspects(context: Arc<Context>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(context.upstream.probe_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Ok(origins) = context.balancer.origins().await else { continue };
        let mut probes = JoinSet::new();
        for status in origins.into_iter().filter(|o| o.state == OriginState::Suspect) {
            while probes.len() >= MAX_PROBES {
                probes.join_next().await;
            }
            let context = Arc::clone(&context);
            probes.spawn(async move {
                match probe(&status.origin, &context.dialer, &context.upstream).await {
                    Ok(()) => context.balancer.report(&status.origin.id(), Reachability::Reached).await,
                    Err(error) => tracing::debug!(origin = %status.origin.id(), %error, "the origin still fails"),
                }
            });
        }
        while probes.join_next().await.is_some() {}
    }
}
