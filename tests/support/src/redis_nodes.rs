//! Nodes on a Redis, within the process of the test.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use srs_proxy::{
    balancer::{Balancer, BalancerError, Intent, Page, PlaceRequest, Placement, redis::RedisBalancer},
    config,
    origin::{Origin, Protocol},
    stream::StreamKey,
};
use tokio::time::Instant;

use super::redis::{Redis, balancer_config};

/// How long nodes may take to find out something.
pub const LIMIT: Duration = Duration::from_secs(15);
/// A page with all placements.
pub const ALL: Page = Page { start: 0, count: usize::MAX };

/// Origin number `n`.
pub fn origin(n: u16) -> Origin {
    let body = format!(r#"{{"ip":"10.0.0.{n}","server":"vid-{n}","service":"run1","pid":"1","rtmp":["1935"]}}"#);
    Origin::from_heartbeat(body.as_bytes(), "SRS/7.0.18").unwrap()
}

/// A stream by its name.
pub fn stream(name: &str) -> StreamKey {
    StreamKey::from_shared(&format!("__defaultVhost__/live/{name}")).unwrap()
}

/// What a player asks.
pub fn request(stream: &StreamKey) -> PlaceRequest<'_> {
    PlaceRequest { stream, protocol: Protocol::Rtmp, intent: Intent::Play, avoid: &[] }
}

/// Asks as a player does.
pub async fn try_place(node: &Arc<dyn Balancer>, name: &str) -> Result<Placement, BalancerError> {
    node.place(request(&stream(name))).await
}

/// Asks as a player does, and is answered.
pub async fn place(node: &Arc<dyn Balancer>, name: &str) -> Placement {
    try_place(node, name).await.unwrap()
}

/// A node that begins to connect.
pub fn start(redis: &config::Redis) -> Arc<dyn Balancer> {
    Arc::new(RedisBalancer::start(&balancer_config(), redis).unwrap())
}

/// A node that is ready.
pub async fn ready(redis: &config::Redis) -> Arc<dyn Balancer> {
    let node = start(redis);
    eventually("the node is ready", async || node.ready().await.is_ok()).await;
    node
}

/// Waits until the condition holds.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a node knows so many origins.
pub async fn until_known(node: &Arc<dyn Balancer>, count: usize) {
    eventually(&format!("{count} origins are known"), async || node.origins().await.unwrap().len() == count).await;
}

/// Waits until a node has noticed that Redis is away; gives the reason that it tells.
pub async fn until_away(node: &Arc<dyn Balancer>) -> String {
    let told = async || node.ready().await.is_err_and(|error| !error.to_string().contains("connecting to"));
    eventually("the node notices that Redis is away", told).await;
    node.ready().await.unwrap_err().to_string()
}

/// The key of [`origin`].
pub fn go_key(n: u16) -> String {
    format!("srs-proxy-server:vid-{n}-run1-1")
}

/// The server to which the Go proxy would send a stream, if it is placed.
pub fn go_pick(redis: &Redis, stream: &str) -> Option<Value> {
    let key = redis.cli(&["GET", &format!("srs-proxy-url:{stream}")]);
    let server = redis.cli(&["GET", &key]);
    (!server.is_empty()).then(|| serde_json::from_str(&server).unwrap())
}
