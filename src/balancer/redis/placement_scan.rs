//! All placements: for lists, and to count how many each origin has.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use redis::{Cmd, RedisResult, Value, cluster_routing::Route};
use tokio::time::{Instant, sleep};

use super::{
    Shared,
    connection::{Connection, Scanned},
    error::RedisError,
    link::Operation,
    scripts::{self, Call},
};
use crate::{
    balancer::{BalancerError, Page, Placement, PlacementStatus},
    origin::{Origin, OriginId},
    stream::StreamKey,
};

/// The shortest time between two counts.
const MIN_PERIOD: Duration = Duration::from_secs(1);
/// A count is followed by a pause that is so many times as long.
const PAUSE_FACTOR: u32 = 20;
/// How long the further pages of a list come from the same scan.
const LISTING_TTL: Duration = Duration::from_secs(2);
/// Placements that are read at once.
const BATCH: usize = 500;
/// How long a scan may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Abandoned placements of the Go proxy that one count lets expire.
const MAX_EXPIRED_PER_SCAN: usize = 256;

/// Finds the servers that each hold a shard of the keys.
struct Shards;

/// Scans some more keys.
struct ScanStep<'a> {
    shard: Option<Route>,
    cursor: Vec<u8>,
    pattern: &'a str,
}

/// Reads the placements of scanned keys.
struct ReadShard {
    shard: Option<Route>,
    commands: Vec<Cmd>,
}

impl Operation for Shards {
    type Output = Vec<Option<Route>>;

    async fn run(&self, mut connection: Connection) -> RedisResult<Self::Output> {
        connection.shards().await
    }
}

impl Operation for ScanStep<'_> {
    type Output = Scanned;

    async fn run(&self, mut connection: Connection) -> RedisResult<Self::Output> {
        connection.scan(self.shard, &self.cursor, self.pattern).await
    }
}

impl Operation for ReadShard {
    type Output = Vec<Value>;

    async fn run(&self, mut connection: Connection) -> RedisResult<Self::Output> {
        connection.read(self.shard, &self.commands).await
    }
}

/// A placement as it was read.
struct ScannedPlacement {
    origin: OriginId,
    value: Vec<u8>,
    /// 0 if it was not asked for, or if only the Go proxy has touched the placement.
    epoch: u64,
}

/// All placements at some time, ordered by stream.
pub(super) struct Listing {
    at: Instant,
    placements: Arc<Vec<(StreamKey, OriginId, u64)>>,
}

impl Shared {
    /// Counts placements from time to time, for ever.
    pub async fn count(&self) {
        loop {
            let start = Instant::now();
            if self.link.is_up()
                && let Err(error) = self.scan(false).await
            {
                tracing::debug!(%error, "placements not counted");
            }
            sleep(MIN_PERIOD.max(start.elapsed() * PAUSE_FACTOR)).await;
        }
    }

    /// A page of the placements whose origin is registered; the others have ended.
    pub async fn page(&self, page: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        let placements = {
            let mut listing = self.listing.lock().await;
            match &*listing {
                Some(listing) if page.start > 0 && listing.at.elapsed() < LISTING_TTL => {
                    Arc::clone(&listing.placements)
                }
                _ => {
                    let found = self.scan(true).await?.into_iter();
                    let placements = Arc::new(found.map(|(stream, f)| (stream, f.origin, f.epoch)).collect());
                    *listing = Some(Listing { at: Instant::now(), placements: Arc::clone(&placements) });
                    placements
                }
            }
        };
        Ok(self.with(|state, _, _| {
            let origins: HashMap<&OriginId, &Arc<Origin>> =
                state.origins.iter().map(|(id, entry)| (id, &entry.origin)).collect();
            let live = placements.iter().filter_map(|(stream, id, epoch)| Some((stream, *origins.get(id)?, *epoch)));
            let total = live.clone().count();
            let status = |(stream, origin, epoch): (&StreamKey, &Arc<Origin>, u64)| {
                let users = state.usage.users(stream);
                let placement = Placement { stream: stream.clone(), origin: Arc::clone(origin), epoch };
                PlacementStatus { placement, publishers: users.publishers, players: users.players }
            };
            (live.skip(page.start).take(page.count).map(status).collect(), total)
        }))
    }

    /// Reads all placements, and takes what they say of the load of origins.
    async fn scan(&self, with_epochs: bool) -> Result<BTreeMap<StreamKey, ScannedPlacement>, RedisError> {
        let found = self.find(with_epochs).await?;
        let mut counts: HashMap<OriginId, usize> = HashMap::new();
        for placement in found.values() {
            *counts.entry(placement.origin.clone()).or_default() += 1;
        }
        let abandoned = self.with(|state, _, _| {
            let abandoned = found.iter().filter(|(_, placement)| {
                let id = &placement.origin;
                state.origins.get(id).is_none() && !state.members.contains_key(id)
            });
            let abandoned: Vec<_> =
                abandoned.take(MAX_EXPIRED_PER_SCAN).map(|(stream, f)| (stream.clone(), f.value.clone())).collect();
            counts.retain(|id, _| state.origins.get(id).is_some());
            state.loads.counted(counts);
            abandoned
        });
        self.expire_abandoned(&abandoned).await?;
        Ok(found)
    }

    async fn find(&self, with_epochs: bool) -> Result<BTreeMap<StreamKey, ScannedPlacement>, RedisError> {
        let deadline = Instant::now() + LIMIT;
        let pattern = self.keys.urls();
        let mut found = BTreeMap::new();
        for shard in self.link.operate(&Shards).await? {
            let mut cursor = b"0".to_vec();
            loop {
                let (next, keys) = self.link.operate(&ScanStep { shard, cursor, pattern: &pattern }).await?;
                let streams: Vec<StreamKey> = keys.iter().filter_map(|key| self.keys.stream(key)).collect();
                for streams in streams.chunks(BATCH) {
                    self.read(shard, streams, with_epochs, &mut found).await?;
                }
                if next == b"0" {
                    break;
                }
                if Instant::now() > deadline || found.len() > self.config.max_streams.saturating_mul(2) {
                    return Err(RedisError::ScanLimit { limit: LIMIT });
                }
                cursor = next;
            }
        }
        Ok(found)
    }

    async fn read(
        &self,
        shard: Option<Route>,
        streams: &[StreamKey],
        with_epochs: bool,
        found: &mut BTreeMap<StreamKey, ScannedPlacement>,
    ) -> Result<(), RedisError> {
        let get = |name: &str, key: String| {
            let mut command = redis::cmd(name);
            command.arg(key);
            command
        };
        let mut commands: Vec<_> = streams.iter().map(|stream| get("GET", self.keys.url(stream))).collect();
        if with_epochs {
            for stream in streams {
                let mut command = get("HGET", self.keys.placement(stream));
                command.arg("epoch");
                commands.push(command);
            }
        }
        let mut values = self.link.operate(&ReadShard { shard, commands }).await?.into_iter();
        let placed: Vec<_> = values.by_ref().take(streams.len()).collect();
        let epochs = values.map(|value| match value {
            Value::BulkString(digits) => String::from_utf8(digits).ok().and_then(|text| text.parse().ok()).unwrap_or(0),
            _ => 0,
        });
        let epochs = epochs.chain(std::iter::repeat(0));
        for ((stream, value), epoch) in streams.iter().zip(placed).zip(epochs) {
            if let Value::BulkString(value) = value
                && let Some(origin) = self.keys.server_id(&value)
            {
                found.insert(stream.clone(), ScannedPlacement { origin, value, epoch });
            }
        }
        Ok(())
    }

    /// The Go proxy's placements live for ever, those on servers that are gone included.
    async fn expire_abandoned(&self, abandoned: &[(StreamKey, Vec<u8>)]) -> Result<(), RedisError> {
        if !self.is_synced() {
            return Ok(());
        }
        let expire =
            |(stream, value): &(StreamKey, Vec<u8>)| scripts::expire_abandoned(&self.keys, stream, value, self.lease);
        let calls: Vec<Call> = abandoned.iter().map(expire).collect();
        if !calls.is_empty() {
            self.link.calls(&calls).await?;
        }
        Ok(())
    }
}
