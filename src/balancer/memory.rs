//! The balancer of a node that stands alone.

mod table;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::watch;

use self::table::Table;
use super::{
    Balancer, BalancerError, Intent, OriginStatus, Page, PlaceRequest, Placement, PlacementStatus, Reachability,
    decide::{Current, Verdict, decide},
    registry::{Change, Entry, Registry},
    ufrag_index::UfragIndex,
};
use crate::sync::lock;
use crate::{
    config,
    origin::{Origin, OriginId},
    stream::StreamKey,
};

/// How many unused placements one [`Balancer::place`] clears away. More than one comes with each
/// call, so the backlog shrinks, and no call waits for it.
const SWEEP: usize = 8;
/// How many are cleared away before a listing lets go of the lock.
const LISTING_SWEEP: usize = 1024;

/// Keeps origins and placements in the memory of this process.
///
/// An origin that expired, became suspect or was replaced ends its placements without a scan: a
/// placement is judged by its origin when it is asked for, and moves then.
#[derive(Debug)]
pub struct MemoryBalancer {
    policy: config::Policy,
    state: Mutex<State>,
    ufrags: Mutex<UfragIndex>,
}

#[derive(Debug)]
struct State {
    origins: Registry,
    placements: Table,
}

/// What [`State::place`] did, for the log.
enum Outcome {
    Kept,
    Placed,
    Moved { from: OriginId },
}

impl MemoryBalancer {
    /// An empty balancer with the given policy, times and bounds. The bound on streams is the bound
    /// on session records too.
    pub fn new(config: &config::Balancer) -> Self {
        Self {
            policy: config.policy,
            state: Mutex::new(State {
                origins: Registry::new(config.origin_ttl, config.max_origins),
                placements: Table::new(config.placement_hold, config.connecting, config.max_streams),
            }),
            ufrags: Mutex::new(UfragIndex::new(config.max_streams)),
        }
    }

    /// Runs `work` under the lock, and logs what changed after it.
    fn with<T>(&self, work: impl FnOnce(&mut State, Instant, &mut Vec<Change>) -> T) -> T {
        let mut changes = Vec::new();
        let result = work(&mut lock(&self.state), super::now(), &mut changes);
        changes.iter().for_each(Change::log);
        result
    }
}

impl State {
    fn place(
        &mut self,
        request: &PlaceRequest<'_>,
        policy: config::Policy,
        now: Instant,
        changes: &mut Vec<Change>,
    ) -> Result<(Placement, Outcome), BalancerError> {
        self.origins.expire(now, changes);
        self.placements.expire(now, SWEEP);

        let stream = request.stream;
        let (current, epoch) = match self.placements.get(stream, now) {
            Some(record) => {
                (Some(Current { origin: record.origin.clone(), published: record.publishers > 0 }), record.epoch)
            }
            None => (None, 0),
        };
        let streams = |origin: &OriginId| self.placements.count(origin);
        let placement = |origin, epoch| Placement { stream: stream.clone(), origin, epoch };
        match decide(&self.origins, streams, current.as_ref(), request, policy, &mut rand::rng())? {
            Verdict::Keep(origin) => {
                self.placements.keep(stream, now);
                Ok((placement(origin, epoch), Outcome::Kept))
            }
            Verdict::Assign(origin) => {
                let epoch = self.placements.assign(stream, origin.id(), now)?;
                let outcome = current.map_or(Outcome::Placed, |from| Outcome::Moved { from: from.origin });
                Ok((placement(origin, epoch), outcome))
            }
        }
    }

    fn statuses(&self, now: Instant) -> Vec<OriginStatus> {
        let status = |(id, entry): (&OriginId, &Entry)| OriginStatus {
            origin: Arc::clone(&entry.origin),
            state: entry.state(),
            suspect_reason: entry.suspect_reason.clone(),
            heartbeat_age: entry.heartbeat_age(now),
            streams: self.placements.count(id),
        };
        self.origins.iter().map(status).collect()
    }

    /// A page of the placements whose origin is registered; the others have ended.
    fn page(&self, page: Page) -> (Vec<PlacementStatus>, usize) {
        let total = self.origins.iter().map(|(id, _)| self.placements.count(id)).sum();
        let status = |(stream, record): (&StreamKey, &table::Record)| {
            let origin = Arc::clone(&self.origins.get(&record.origin)?.origin);
            let placement = Placement { stream: stream.clone(), origin, epoch: record.epoch };
            Some(PlacementStatus { placement, publishers: record.publishers, players: record.players })
        };
        // Mostly all are live; a page far down must not cost a lookup for each placement before it.
        let all_live = total == self.placements.len();
        let live = |record: &table::Record| all_live || self.origins.get(&record.origin).is_some();
        let live = self.placements.iter().filter(|(_, record)| live(record));
        (live.skip(page.start).take(page.count).filter_map(status).collect(), total)
    }
}

#[async_trait]
impl Balancer for MemoryBalancer {
    async fn register(&self, origin: Origin) -> Result<(), BalancerError> {
        tracing::debug!(origin = %origin.id(), device = %origin.device_id, "heartbeat");
        self.with(|state, now, changes| state.origins.register(origin, now, changes))
    }

    async fn origins(&self) -> Result<Vec<OriginStatus>, BalancerError> {
        Ok(self.with(|state, now, changes| {
            state.origins.expire(now, changes);
            state.statuses(now)
        }))
    }

    async fn report(&self, origin: &OriginId, seen: Reachability) {
        self.with(|state, now, changes| state.origins.report(origin, seen, now, changes));
    }

    async fn place(&self, request: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        let (placement, outcome) = self.with(|state, now, changes| state.place(&request, self.policy, now, changes))?;
        let Placement { stream, origin, epoch } = &placement;
        match outcome {
            Outcome::Kept => {}
            Outcome::Placed => tracing::debug!(%stream, origin = %origin.id(), epoch, "stream placed"),
            Outcome::Moved { from } => tracing::info!(%stream, origin = %origin.id(), %from, epoch, "stream moved"),
        }
        Ok(placement)
    }

    fn acquire(&self, placement: &Placement, intent: Intent) -> watch::Receiver<u64> {
        lock(&self.state).placements.acquire(placement, intent, super::now())
    }

    fn release(&self, stream: &StreamKey, intent: Intent) {
        lock(&self.state).placements.release(stream, intent, super::now());
    }

    async fn placements(&self, page: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        loop {
            let listed = self.with(|state, now, changes| {
                state.origins.expire(now, changes);
                let done = state.placements.expire(now, LISTING_SWEEP) < LISTING_SWEEP;
                done.then(|| state.page(page))
            });
            match listed {
                Some(listed) => return Ok(listed),
                None => tokio::task::yield_now().await,
            }
        }
    }

    async fn put_ufrag(&self, id: &str, stream: &StreamKey, ttl: Duration) -> Result<(), BalancerError> {
        lock(&self.ufrags).put(id, stream, ttl, super::now())
    }

    async fn stream_of_ufrag(&self, id: &str) -> Result<Option<StreamKey>, BalancerError> {
        Ok(lock(&self.ufrags).get(id, super::now()).cloned())
    }

    async fn ready(&self) -> Result<(), BalancerError> {
        Ok(())
    }
}
