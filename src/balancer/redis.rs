//! The balancer of nodes that share a Redis, nodes of the Go proxy among them.
//!
//! Redis judges placements: a script compares and sets the Go proxy's own key for a stream. What a
//! node knows beside that is for three things: to choose, to go on while Redis is away, and to bring
//! back what Redis has lost.

mod connection;
mod error;
mod events;
mod json;
mod keys;
mod last_seen;
mod link;
mod loads;
mod origins;
mod placement_scan;
mod renewals;
mod scripts;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redis::Value;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep_until, timeout},
};

pub use connection::RedisStartError;

use self::{
    error::RedisError,
    json::{UfragRecord, stream_of, to_json},
    keys::Keys,
    last_seen::LastSeen,
    link::Link,
    loads::Loads,
    scripts::{Found, PlacementScripts},
};
use super::{
    Balancer, BalancerError, CallMetrics, Intent, OriginStatus, Page, PlaceRequest, Placement, PlacementStatus,
    Reachability,
    decide::{Current, Verdict, decide},
    now,
    registry::{Change, Registry},
    ufrag_index::UfragIndex,
    usage::Usage,
};
use crate::log_throttle::LogThrottle;
use crate::sync::lock;
use crate::{
    config,
    origin::{Origin, OriginId},
    stream::StreamKey,
};

/// How often a placement is decided anew because somebody else was faster.
const ATTEMPTS: usize = 8;
/// The longest that a place request waits for an emptied Redis to be rebuilt, beside the deadlines.
const REBUILD_WAIT: Duration = Duration::from_secs(2);

/// Keeps origins and placements in Redis.
pub struct RedisBalancer {
    shared: Arc<Shared>,
    /// Ended with the balancer.
    _tasks: JoinSet<()>,
}

struct Shared {
    config: config::Balancer,
    /// How long a placement outlives the last word of those who use it or are about to.
    lease: Duration,
    timeout: Duration,
    /// Tells this run of this node from others.
    node: String,
    keys: Keys,
    link: Link,
    state: Mutex<NodeState>,
    ufrags: Mutex<UfragIndex>,
    /// Locked while origins are read; the start of the last read.
    reading: tokio::sync::Mutex<Option<Instant>>,
    listing: tokio::sync::Mutex<Option<placement_scan::Listing>>,
    origins_changed: Notify,
    leases_changed: Notify,
    /// Whether what Redis may have lost is still to be brought back.
    recovering: AtomicBool,
    foreign_data: ForeignDataLog,
}

struct NodeState {
    origins: Registry,
    members: origins::Members,
    usage: Usage,
    /// Acquired and released placements that have not been sent to Redis.
    pending_lease_updates: HashMap<StreamKey, renewals::Released>,
    last_seen: LastSeen,
    loads: Loads,
    /// The highest epoch that was ever seen.
    min_epoch: u64,
    /// When Redis was lost. Until it is back, nothing expires: heartbeats may come to other nodes.
    frozen: Option<Instant>,
    /// Whether origins have been read at least once.
    synced: bool,
}

impl RedisBalancer {
    /// Starts to connect; operations wait for that, within their deadlines. Must be called within a
    /// Tokio runtime.
    pub fn start(config: &config::Balancer, redis: &config::Redis) -> Result<Self, RedisStartError> {
        let keys = Keys::new(&redis.key_prefix);
        let lease = config.placement_hold.max(config.connecting);
        let shared = Arc::new(Shared {
            link: Link::new(redis, &keys)?,
            keys,
            lease,
            timeout: redis.timeout,
            node: format!("{:016x}", rand::random::<u64>()),
            state: Mutex::new(NodeState {
                origins: Registry::new(config.origin_ttl, config.max_origins),
                members: HashMap::new(),
                usage: Usage::default(),
                pending_lease_updates: HashMap::new(),
                last_seen: LastSeen::new(config.max_streams, lease),
                loads: Loads::default(),
                min_epoch: 0,
                frozen: None,
                synced: false,
            }),
            ufrags: Mutex::new(UfragIndex::new(config.max_streams)),
            reading: tokio::sync::Mutex::default(),
            listing: tokio::sync::Mutex::default(),
            origins_changed: Notify::new(),
            leases_changed: Notify::new(),
            recovering: AtomicBool::new(true),
            foreign_data: ForeignDataLog::default(),
            config: config.clone(),
        });
        let mut tasks = JoinSet::new();
        let task = || Arc::clone(&shared);
        let (link, follow, leases, listen, count) = (task(), task(), task(), task(), task());
        tasks.spawn(async move { link.link.keep_up(|| link.lost(), || link.back()).await });
        tasks.spawn(async move { follow.follow_origins().await });
        tasks.spawn(async move { leases.keep_leases().await });
        tasks.spawn(async move { listen.listen().await });
        tasks.spawn(async move { count.count().await });
        Ok(Self { shared, _tasks: tasks })
    }
}

impl Shared {
    /// The stream that a record under `key` names.
    async fn record(&self, key: &str) -> Result<Option<StreamKey>, BalancerError> {
        match self.link.run(redis::cmd("GET").arg(key)).await? {
            Value::BulkString(json) => {
                let stream = stream_of(&json);
                if stream.is_none() {
                    self.foreign_data.warn("a session record");
                }
                Ok(stream)
            }
            _ => Ok(None),
        }
    }

    /// Runs `work` under the lock, and logs what changed after it.
    fn with<T>(&self, work: impl FnOnce(&mut NodeState, Instant, &mut Vec<Change>) -> T) -> T {
        let mut changes = Vec::new();
        let result = {
            let mut state = lock(&self.state);
            let now = state.frozen.unwrap_or_else(now);
            let result = work(&mut state, now, &mut changes);
            drop(state);
            result
        };
        changes.iter().for_each(Change::log);
        result
    }

    fn lost(&self) {
        self.recovering.store(true, Ordering::Release);
        self.with(|state, now, _| state.frozen = Some(now));
    }

    fn back(&self) {
        self.origins_changed.notify_one();
    }

    fn is_synced(&self) -> bool {
        self.with(|state, _, _| state.synced)
    }

    fn scripts(&self) -> PlacementScripts<'_> {
        PlacementScripts { keys: &self.keys, node: &self.node, min_epoch: self.with(|state, _, _| state.min_epoch) }
    }

    /// Notes where Redis says that a stream is.
    fn saw(&self, stream: &StreamKey, found: &Found) {
        let Some(origin) = self.keys.server_id(&found.value) else { return };
        self.with(|state, now, _| {
            state.min_epoch = state.min_epoch.max(found.epoch);
            state.usage.moved(stream, &origin, found.epoch);
            state.last_seen.put(stream, &origin, found.epoch, now);
        });
    }

    async fn look(&self, stream: &StreamKey) -> Result<Option<Found>, RedisError> {
        let answer = self.link.call(&self.scripts().look(stream, self.lease)).await?;
        Ok(scripts::found(&answer))
    }

    async fn place(&self, request: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        let stream = request.stream;
        let mut found = match self.look(stream).await {
            Ok(found) => found,
            Err(error) => return self.place_known(request, error),
        };
        let mut read = false;
        for _ in 0..ATTEMPTS {
            let origin = found.as_ref().and_then(|found| self.keys.server_id(&found.value));
            if let (Some(found), None) = (&found, &origin) {
                self.foreign_data.warn(&self.keys.url(stream));
                tracing::debug!(%stream, bytes = found.value.len(), "the placement names no server");
            }
            let unheard = origin.as_ref().is_some_and(|id| self.with(|state, _, _| state.origins.get(id).is_none()));
            if unheard && !std::mem::replace(&mut read, true) {
                let _ = self.refresh_origins().await;
            }
            let published = found.as_ref().is_some_and(|found| found.published);
            match self.decide(request, origin.clone(), published) {
                Err(BalancerError::NoOrigin { .. }) if !std::mem::replace(&mut read, true) => {
                    let _ = self.refresh_origins().await;
                }
                Err(error) => return Err(error),
                Ok(Verdict::Keep(origin)) => {
                    if let Some(found) = &found {
                        self.saw(stream, found);
                    }
                    let epoch = found.map_or(0, |found| found.epoch);
                    return Ok(Placement { stream: stream.clone(), origin, epoch });
                }
                Ok(Verdict::Assign(to)) => {
                    if found.is_none() {
                        if let Some(at) = self.link.rebuilding_until() {
                            sleep_until(at).await;
                            found = self.look(stream).await?;
                            continue;
                        }
                        self.check_room()?;
                    }
                    let call = self.scripts().assign(stream, found.as_ref(), &to.id(), self.lease);
                    let (done, now) = match self.link.call(&call).await {
                        Ok(answer) => scripts::outcome(&answer),
                        Err(error) => return self.place_known(request, error),
                    };
                    if let (true, Some(now)) = (done, &now) {
                        self.saw(stream, now);
                        let (id, epoch) = (to.id(), now.epoch);
                        self.with(|state, _, _| state.loads.placed(origin.as_ref(), &id));
                        match origin {
                            None => tracing::debug!(%stream, origin = %id, epoch, "stream placed"),
                            Some(from) => tracing::info!(%stream, origin = %id, %from, epoch, "stream moved"),
                        }
                        return Ok(Placement { stream: stream.clone(), origin: to, epoch });
                    }
                    found = now;
                }
            }
        }
        Err(BalancerError::Unavailable("other nodes keep moving the stream: try again".into()))
    }

    fn decide(
        &self,
        request: PlaceRequest<'_>,
        origin: Option<OriginId>,
        published: bool,
    ) -> Result<Verdict, BalancerError> {
        self.with(|state, now, changes| {
            state.origins.expire(now, changes);
            let published = published || state.usage.users(request.stream).publishers > 0;
            let current = origin.map(|origin| Current { origin, published });
            let streams = |id: &OriginId| state.loads.count(id);
            decide(&state.origins, streams, current.as_ref(), &request, self.config.policy, &mut rand::rng())
        })
    }

    fn check_room(&self) -> Result<(), BalancerError> {
        let total = self.with(|state, _, _| state.loads.total());
        if total < self.config.max_streams {
            return Ok(());
        }
        Err(BalancerError::Full(format!("{total} streams are placed, which is the limit (PROXY_MAX_STREAMS)")))
    }

    /// The placement as this node knows it, while Redis cannot be asked. None is made or moved.
    fn place_known(&self, request: PlaceRequest<'_>, error: RedisError) -> Result<Placement, BalancerError> {
        let stream = request.stream;
        let known = self.with(|state, now, _| {
            let held = state.usage.get(stream).map(|held| (held.origin.clone(), held.epoch));
            held.or_else(|| state.last_seen.get(stream, now))
        });
        let Some((origin, epoch)) = known else { return Err(error.into()) };
        // Better a suspect one than none: no other can be agreed on.
        let usable = self.with(|state, _, _| state.origins.get(&origin).map(|entry| Arc::clone(&entry.origin)));
        match usable.filter(|usable| usable.serves(request.protocol) && !request.avoid.contains(&origin)) {
            Some(origin) => Ok(Placement { stream: stream.clone(), origin, epoch }),
            None => Err(error.into()),
        }
    }
}

#[async_trait]
impl Balancer for RedisBalancer {
    async fn register(&self, origin: Origin) -> Result<(), BalancerError> {
        tracing::debug!(origin = %origin.id(), device = %origin.device_id, "heartbeat");
        self.shared.register(origin).await
    }

    async fn origins(&self) -> Result<Vec<OriginStatus>, BalancerError> {
        Ok(self.shared.with(|state, now, changes| {
            state.origins.expire(now, changes);
            let status = |(id, entry): (&OriginId, &super::registry::Entry)| OriginStatus {
                origin: Arc::clone(&entry.origin),
                state: entry.state(),
                suspect_reason: entry.suspect_reason.clone(),
                heartbeat_age: entry.heartbeat_age(now),
                streams: state.loads.count(id),
            };
            state.origins.iter().map(status).collect()
        }))
    }

    async fn report(&self, origin: &OriginId, seen: Reachability) {
        self.shared.report(origin, seen).await;
    }

    async fn place(&self, request: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        let limit = self.shared.timeout * 2 + REBUILD_WAIT;
        timeout(limit, self.shared.place(request)).await.unwrap_or_else(|_| {
            Err(BalancerError::Unavailable(format!("no placement within {limit:?}: Redis answers too slowly")))
        })
    }

    fn acquire(&self, placement: &Placement, intent: Intent) -> watch::Receiver<u64> {
        self.shared.acquire(placement, intent)
    }

    fn release(&self, stream: &StreamKey, intent: Intent) {
        self.shared.release(stream, intent);
    }

    async fn placements(&self, page: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        self.shared.page(page).await
    }

    async fn put_ufrag(&self, id: &str, stream: &StreamKey, ttl: Duration) -> Result<(), BalancerError> {
        let shared = &self.shared;
        lock(&shared.ufrags).put(id, stream, ttl, now())?;
        let session = UfragRecord { stream_url: stream.as_str().into(), ufrag: id.into() };
        let mut set = redis::cmd("SET");
        set.arg(shared.keys.ufrag(id)).arg(to_json(&session)).arg("PX").arg(scripts::millis(ttl));
        if let Err(error) = shared.link.run(&set).await {
            // This node still finds it, and it is this node to which most of its clients come.
            tracing::warn!(%stream, %error, "ufrag not shared");
        }
        Ok(())
    }

    async fn stream_of_ufrag(&self, id: &str) -> Result<Option<StreamKey>, BalancerError> {
        let shared = &self.shared;
        shared.record(&shared.keys.ufrag(id)).await.or_else(|error| {
            let kept = lock(&shared.ufrags).get(id, now()).cloned();
            kept.map_or_else(|| Err(error), |stream| Ok(Some(stream)))
        })
    }

    async fn spbhid(&self, spbhid: &str) -> Result<Option<StreamKey>, BalancerError> {
        self.shared.record(&self.shared.keys.spbhid(spbhid)).await
    }

    fn calls(&self) -> Option<CallMetrics> {
        Some(self.shared.link.metrics())
    }

    async fn ready(&self) -> Result<(), BalancerError> {
        self.shared.link.check()?;
        if self.shared.is_synced() {
            return Ok(());
        }
        Err(BalancerError::Unavailable("origins have not been read from Redis yet".into()))
    }
}

/// Tells of what is in Redis and cannot be used, at a limited rate.
#[derive(Debug)]
struct ForeignDataLog(LogThrottle<()>);

impl Default for ForeignDataLog {
    fn default() -> Self {
        Self(LogThrottle::new(Duration::from_secs(10), 1))
    }
}

impl ForeignDataLog {
    fn warn(&self, what: &str) {
        self.say(&format!("{what}: neither the proxies nor the Go proxy wrote this; it is left out or replaced"));
    }

    fn say(&self, text: &str) {
        if let Some(held_back) = self.0.admit(&()) {
            tracing::warn!(held_back, "{text}");
        } else {
            tracing::debug!("{text}");
        }
    }
}
