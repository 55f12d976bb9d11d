//! One answer to who asks for the metrics: everything that this node counts, and what others know.

mod write;

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use self::write::write;
use super::{
    Metrics,
    label::{Part, Table},
    process::{self, Process},
};
use crate::{
    balancer::{Balancer, CallMetrics, ClusterStatus, OriginStatus, Page},
    config::BalancerType,
    session::{Sessions, Totals},
};

/// How long those who are asked may take, all together. Prometheus itself waits 10 s by default.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);

/// Who is asked when somebody wants the metrics.
#[derive(Clone)]
pub struct Sources {
    /// What is counted.
    pub metrics: Metrics,
    /// Knows the origins, the placements and the other nodes.
    pub balancer: Arc<dyn Balancer>,
    /// What the nodes agree through.
    pub kind: BalancerType,
    /// Know what they have moved.
    pub sessions: Sessions,
    /// Whether this node takes new sessions: false until it has started and while it drains.
    pub ready: watch::Receiver<bool>,
    /// Cancelled when this node drains.
    pub draining: CancellationToken,
}

/// What was found.
#[derive(Debug)]
struct Found {
    metrics: Metrics,
    kind: BalancerType,
    totals: Totals,
    serving: bool,
    draining: bool,
    /// Whether the balancer can place streams; false also if it does not say.
    available: bool,
    origins: Option<Vec<OriginStatus>>,
    placements: Option<usize>,
    cluster: Option<ClusterStatus>,
    calls: Option<CallMetrics>,
    process: Option<Process>,
    /// 1 for what is missing because it could not be had.
    incomplete: Table<(Part,), u8>,
}

impl Sources {
    /// The metrics in the text format of OpenMetrics 1.0. Whoever is asked and does not answer within
    /// 2 s, or cannot, is left out, which `srs_proxy_scrape_incomplete` tells.
    pub async fn scrape(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.find().await));
        let mut answer = String::with_capacity(96 * 1024);
        text::encode(&mut answer, &registry)?;
        Ok(answer)
    }

    async fn find(&self) -> Found {
        let (ready, origins, placements, process) = tokio::join!(
            timeout(SCRAPE_TIMEOUT, self.balancer.ready()),
            timeout(SCRAPE_TIMEOUT, self.balancer.origins()),
            timeout(SCRAPE_TIMEOUT, self.balancer.placements(Page { start: 0, count: 0 })),
            // The system may have to count the open files one by one.
            timeout(SCRAPE_TIMEOUT, tokio::task::spawn_blocking(process::read)),
        );
        let available = matches!(ready, Ok(Ok(())));
        let origins = origins.ok().and_then(Result::ok);
        let placements = placements.ok().and_then(Result::ok).map(|(_, total)| total);
        let process = process.ok().and_then(Result::ok).flatten();
        let mut incomplete = Table::default();
        // That streams cannot be placed is an answer, too.
        *incomplete.at_mut((Part::Ready,)) = u8::from(ready.is_err());
        *incomplete.at_mut((Part::Origins,)) = u8::from(origins.is_none());
        *incomplete.at_mut((Part::Placements,)) = u8::from(placements.is_none());
        *incomplete.at_mut((Part::Process,)) = u8::from(process.is_none());
        Found {
            metrics: self.metrics.clone(),
            kind: self.kind,
            totals: self.sessions.totals(),
            serving: *self.ready.borrow(),
            draining: self.draining.is_cancelled(),
            available,
            origins,
            placements,
            cluster: self.balancer.cluster(),
            calls: self.balancer.calls(),
            process,
            incomplete,
        }
    }
}

impl Collector for Found {
    fn encode(&self, encoder: DescriptorEncoder) -> std::fmt::Result {
        write(self, encoder)
    }
}
