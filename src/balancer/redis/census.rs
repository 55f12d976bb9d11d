//! All placements: for lists, and to count how many each origin has.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use redis::{RedisResult, Value, cluster_routing::Route};
use tokio::time::{Instant, sleep};

use super::{
    Shared,
    connection::Connection,
    link::{Fault, Operation},
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
const REST: u32 = 20;
/// How long the further pages of a list come from the same scan.
const SAME_LIST: Duration = Duration::from_secs(2);
/// How long a scan may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Abandoned placements of the Go proxy that one count lets expire.
const FADING: usize = 256;

/// Asks who holds a part of the keys.
struct Parts;

/// Looks at some more keys.
struct Step<'a> {
    part: Option<Route>,
    cursor: Vec<u8>,
    pattern: &'a str,
}

impl Operation for Parts {
    type Output = Vec<Option<Route>>;

    async fn run(&self, mut connection: Connection) -> RedisResult<Self::Output> {
        connection.parts().await
    }
}

impl Operation for Step<'_> {
    type Output = (Vec<u8>, Vec<Vec<u8>>);

    async fn run(&self, mut connection: Connection) -> RedisResult<Self::Output> {
        connection.scan(self.part, self.cursor.clone(), self.pattern).await
    }
}

/// All placements at some time, ordered by stream.
pub(super) struct Listing {
    at: Instant,
    placements: Arc<Vec<(StreamKey, OriginId)>>,
}

impl Shared {
    /// Counts placements from time to time, for ever.
    pub async fn count(&self) {
        loop {
            let start = Instant::now();
            if self.link.is_up()
                && let Err(fault) = self.scan().await
            {
                tracing::debug!("placements are not counted: {}", fault.0);
            }
            sleep(MIN_PERIOD.max(start.elapsed() * REST)).await;
        }
    }

    /// A page of the placements whose origin is registered; the others have ended.
    pub async fn page(&self, page: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        let placements = {
            let mut listing = self.listing.lock().await;
            match &*listing {
                Some(listing) if page.start > 0 && listing.at.elapsed() < SAME_LIST => Arc::clone(&listing.placements),
                _ => {
                    let placements = Arc::new(self.scan().await?);
                    *listing = Some(Listing { at: Instant::now(), placements: Arc::clone(&placements) });
                    placements
                }
            }
        };
        let origins: HashMap<OriginId, Arc<Origin>> = self.with(|state, _, _| {
            state.origins.iter().map(|(id, entry)| (id.clone(), Arc::clone(&entry.origin))).collect()
        });
        let live = placements.iter().filter_map(|(stream, id)| Some((stream, origins.get(id)?)));
        let total = live.clone().count();
        let shown: Vec<_> = live.skip(page.start).take(page.count).collect();
        let epochs = self.epochs(shown.iter().map(|(stream, _)| *stream)).await?;
        let status = |((stream, origin), epoch): ((&StreamKey, &Arc<Origin>), u64)| {
            let users = self.with(|state, _, _| state.holds.users(stream));
            let placement = Placement { stream: stream.clone(), origin: Arc::clone(origin), epoch };
            PlacementStatus { placement, publishers: users.publishers, players: users.players }
        };
        Ok((shown.into_iter().zip(epochs).map(status).collect(), total))
    }

    async fn epochs(&self, streams: impl Iterator<Item = &StreamKey>) -> Result<Vec<u64>, Fault> {
        let get = |stream: &StreamKey| {
            let mut command = redis::cmd("HGET");
            command.arg(self.keys.placement(stream)).arg("epoch");
            command
        };
        let commands: Vec<_> = streams.map(get).collect();
        let epoch = |answer| match answer {
            Ok(Value::BulkString(digits)) => String::from_utf8(digits).ok()?.parse().ok(),
            _ => None,
        };
        // One that only the Go proxy has touched has none yet.
        Ok(self.link.batch(&commands).await?.into_iter().map(|answer| epoch(answer).unwrap_or(0)).collect())
    }

    /// Reads all placements, and takes what they say of the load of origins.
    async fn scan(&self) -> Result<Vec<(StreamKey, OriginId)>, Fault> {
        let streams = self.streams().await?;
        let mut placements = BTreeMap::new();
        let mut valued = Vec::new();
        let get = |stream| {
            let mut command = redis::cmd("GET");
            command.arg(self.keys.url(stream));
            command
        };
        let commands: Vec<_> = streams.iter().map(get).collect();
        for (stream, value) in streams.into_iter().zip(self.link.batch(&commands).await?) {
            if let Ok(Value::BulkString(value)) = value
                && let Some(id) = self.keys.server_id(&value)
            {
                placements.insert(stream.clone(), id);
                valued.push((stream, value));
            }
        }
        let mut counts: HashMap<OriginId, usize> = HashMap::new();
        for id in placements.values() {
            *counts.entry(id.clone()).or_default() += 1;
        }
        let known = self.with(|state, _, _| {
            counts.retain(|id, _| state.origins.get(id).is_some());
            let known: Vec<_> = counts.keys().cloned().collect();
            state.loads.counted(counts);
            known
        });
        valued.retain(|(stream, _)| placements.get(stream).is_some_and(|id| !known.contains(id)));
        self.fade(&valued).await?;
        Ok(placements.into_iter().collect())
    }

    async fn streams(&self) -> Result<Vec<StreamKey>, Fault> {
        let deadline = Instant::now() + LIMIT;
        let pattern = self.keys.urls();
        let mut streams = Vec::new();
        let parts = self.link.operate(&Parts).await?;
        for part in parts {
            let mut cursor = b"0".to_vec();
            loop {
                let (next, keys) = self.link.operate(&Step { part, cursor, pattern: &pattern }).await?;
                streams.extend(keys.iter().filter_map(|key| self.keys.stream(key)));
                if next == b"0" {
                    break;
                }
                if Instant::now() > deadline || streams.len() > self.config.max_streams.saturating_mul(2) {
                    return Err(Fault(format!(
                        "there are more keys in Redis than can be looked through in {LIMIT:?}: give the proxies a \
                         database of their own"
                    )));
                }
                cursor = next;
            }
        }
        streams.sort_unstable();
        streams.dedup();
        Ok(streams)
    }

    /// The Go proxy's placements live for ever, those on servers that are gone included.
    async fn fade(&self, abandoned: &[(StreamKey, Vec<u8>)]) -> Result<(), Fault> {
        if !self.is_synced() {
            return Ok(());
        }
        let fade = |(stream, value): &(StreamKey, Vec<u8>)| scripts::fade(&self.keys, stream, value, self.lease);
        let calls: Vec<Call> = abandoned.iter().take(FADING).map(fade).collect();
        if !calls.is_empty() {
            self.link.calls(&calls).await?;
        }
        Ok(())
    }
}
