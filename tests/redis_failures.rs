//! What happens when Redis is slow, down, restarted, failed over, full, or holds what somebody else
//! wrote; and beside nodes of the Go proxy, in whose place these tests write.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::{Value, json};
use srs_proxy::{
    balancer::{
        Balancer, BalancerError, Intent, Lease, OriginState, Page, PlaceRequest, Placement, Reachability,
        redis::RedisBalancer,
    },
    config,
    origin::{Origin, OriginId, Protocol},
    stream::StreamKey,
};
use support::redis::{Redis, RedisCluster, RedisSentinel, balancer_config};
use tokio::{task::JoinSet, time::Instant};

const LIMIT: Duration = Duration::from_secs(15);
const ALL: Page = Page { start: 0, count: usize::MAX };

fn origin(n: u16) -> Origin {
    let body = format!(r#"{{"ip":"10.0.0.{n}","server":"vid-{n}","service":"run1","pid":"1","rtmp":["1935"]}}"#);
    Origin::from_heartbeat(body.as_bytes(), "SRS/7.0.18").unwrap()
}

/// A server as the Go proxy writes it.
fn go_server(n: u16, updated: &str) -> String {
    format!(
        r#"{{"ip":"10.0.0.{n}","device_id":"d","server_id":"vid-{n}","service_id":"run1","pid":"1","rtmp":["1935"],"http":["8080"],"update_at":"{updated}"}}"#
    )
}

fn go_key(n: u16) -> String {
    format!("srs-proxy-server:vid-{n}-run1-1")
}

/// Registers an origin as the Go proxy does: it reads the list, writes it whole, and lets the server
/// expire.
fn go_register(redis: &Redis, n: u16, updated: &str) {
    redis.cli(&["SET", &go_key(n), &go_server(n, updated), "EX", "300"]);
    let list = redis.cli(&["GET", "srs-proxy-all-servers"]);
    let mut list: Vec<String> = serde_json::from_str(&list).unwrap_or_default();
    if !list.contains(&go_key(n)) {
        list.push(go_key(n));
    }
    redis.cli(&["SET", "srs-proxy-all-servers", &json!(list).to_string()]);
}

/// The server to which the Go proxy would send a stream, if it is placed.
fn go_pick(redis: &Redis, stream: &str) -> Option<Value> {
    let key = redis.cli(&["GET", &format!("srs-proxy-url:{stream}")]);
    let server = redis.cli(&["GET", &key]);
    (!server.is_empty()).then(|| serde_json::from_str(&server).unwrap())
}

fn stream(name: &str) -> StreamKey {
    StreamKey::from_shared(&format!("__defaultVhost__/live/{name}")).unwrap()
}

fn request(stream: &StreamKey) -> PlaceRequest<'_> {
    PlaceRequest { stream, protocol: Protocol::Rtmp, intent: Intent::Play, avoid: &[] }
}

async fn try_place(node: &Arc<dyn Balancer>, name: &str) -> Result<Placement, BalancerError> {
    node.place(request(&stream(name))).await
}

async fn place(node: &Arc<dyn Balancer>, name: &str) -> Placement {
    try_place(node, name).await.unwrap()
}

fn start(redis: &config::Redis) -> Arc<dyn Balancer> {
    Arc::new(RedisBalancer::start(&balancer_config(), redis).unwrap())
}

async fn ready(redis: &config::Redis) -> Arc<dyn Balancer> {
    let node = start(redis);
    eventually("the node is ready", async || node.ready().await.is_ok()).await;
    node
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_known(node: &Arc<dyn Balancer>, count: usize) {
    eventually(&format!("{count} origins are known"), async || node.origins().await.unwrap().len() == count).await;
}

async fn until_away(node: &Arc<dyn Balancer>) -> String {
    let told = async || node.ready().await.is_err_and(|error| !error.to_string().contains("connecting to"));
    eventually("the node notices that Redis is away", told).await;
    node.ready().await.unwrap_err().to_string()
}

/// Asserts that the answer came within the deadline for one operation, and a little.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let result = work.await;
    assert!(start.elapsed() < Duration::from_millis(1500), "it took {:?}", start.elapsed());
    result
}

#[tokio::test]
async fn while_redis_is_down_known_streams_are_served_new_ones_fail_at_once_and_it_recovers_by_itself() {
    let mut redis = Redis::start();
    let node = ready(&redis.config()).await;
    node.register(origin(1)).await.unwrap();
    let placed = place(&node, "known").await;
    let mut lease = Lease::new(Arc::clone(&node), placed.clone(), Intent::Publish);
    let unheld = place(&node, "unheld").await;

    redis.kill();
    let told = until_away(&node).await;
    assert!(told.contains(&format!("Redis at 127.0.0.1:{}", redis.port())), "{told}");
    for before in [&placed, &unheld] {
        let after = in_time(node.place(request(&before.stream))).await.unwrap();
        assert_eq!((after.origin.id(), after.epoch), (before.origin.id(), before.epoch));
    }
    let error = in_time(try_place(&node, "new")).await.unwrap_err();
    assert!(matches!(&error, BalancerError::Unavailable(text) if text.contains("look whether it runs")), "{error}");
    assert_eq!(node.origins().await.unwrap().len(), 1);
    assert!(tokio::time::timeout(Duration::from_millis(1), lease.moved()).await.is_err());

    redis.restart();
    eventually("the node is ready again", async || node.ready().await.is_ok()).await;
    place(&node, "new").await;
    assert_eq!(place(&node, "known").await.epoch, placed.epoch);
}

#[tokio::test]
async fn a_frozen_redis_costs_no_more_than_the_deadline() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    node.register(origin(1)).await.unwrap();
    let placed = place(&node, "known").await;
    redis.freeze();
    let error = in_time(try_place(&node, "new")).await.unwrap_err();
    assert!(error.to_string().contains("does not answer within 1s"), "{error}");
    let known = in_time(try_place(&node, "known")).await.unwrap();
    assert_eq!(known.epoch, placed.epoch);
    until_away(&node).await;
    let quick = Instant::now();
    assert!(try_place(&node, "new").await.is_err());
    assert!(quick.elapsed() < Duration::from_millis(200), "once it is known to be away, nobody waits for it");
    redis.thaw();
    eventually("new streams are placed again", async || try_place(&node, "new").await.is_ok()).await;
}

#[tokio::test]
async fn a_node_that_starts_before_redis_is_not_ready_until_redis_is_there() {
    let mut redis = Redis::start();
    redis.kill();
    let node = start(&redis.config());
    until_away(&node).await;
    in_time(node.register(origin(1))).await.expect("heartbeats are kept");
    assert!(in_time(try_place(&node, "s")).await.is_err());
    redis.restart();
    eventually("the node is ready", async || node.ready().await.is_ok()).await;
    eventually("the heartbeat is written", async || redis.cli(&["GET", &go_key(1)]).contains("vid-1")).await;
    place(&node, "s").await;
    assert_eq!(go_pick(&redis, stream("s").as_str()).unwrap()["server_id"], "vid-1");
}

#[tokio::test]
async fn an_emptied_redis_is_refilled_and_streams_in_use_are_not_placed_twice() {
    let mut redis = Redis::start();
    let (a, b) = (ready(&redis.config()).await, ready(&redis.config()).await);
    for n in 1..=8 {
        a.register(origin(n)).await.unwrap();
    }
    until_known(&b, 8).await;
    let mut leases = Vec::new();
    for i in 0..50 {
        leases.push(Lease::new(Arc::clone(&a), place(&a, &format!("s{i}")).await, Intent::Publish));
    }
    a.report(&origin(8).id(), Reachability::Failed("refused".into())).await;

    redis.kill();
    until_away(&a).await;
    redis.restart();
    assert_eq!(redis.cli(&["GET", "srs-proxy-all-servers"]), "");
    // The other node knows nothing of these streams.
    eventually("the other node places again", async || b.ready().await.is_ok()).await;
    for lease in &mut leases {
        let held = lease.placement().clone();
        let now = b.place(request(&held.stream)).await.unwrap();
        if held.origin.id() != origin(8).id() {
            assert_eq!((now.origin.id(), now.epoch), (held.origin.id(), held.epoch), "{}", held.stream);
            assert!(tokio::time::timeout(Duration::from_millis(1), lease.moved()).await.is_err());
        }
    }
    until_known(&b, 8).await;
    let suspect = async || {
        let origins = b.origins().await.unwrap();
        origins.iter().any(|o| o.origin.id() == origin(8).id() && o.state == OriginState::Suspect)
    };
    eventually("the suspicion is known again", suspect).await;
}

#[tokio::test]
async fn keys_that_are_flushed_under_a_running_node_come_back() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    node.register(origin(1)).await.unwrap();
    let lease = Lease::new(Arc::clone(&node), place(&node, "s").await, Intent::Publish);
    redis.cli(&["FLUSHALL"]);
    let placed = async || go_pick(&redis, stream("s").as_str()).is_some_and(|server| server["server_id"] == "vid-1");
    eventually("the server and the placement are back", placed).await;
    assert_eq!(place(&node, "s").await.epoch, lease.placement().epoch);
}

#[tokio::test]
async fn a_full_redis_keeps_known_streams_and_says_that_it_is_full() {
    let redis = Redis::start_with(&["--maxmemory-policy", "noeviction"]);
    let node = ready(&redis.config()).await;
    node.register(origin(1)).await.unwrap();
    let placed = place(&node, "known").await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = try_place(&node, "new").await.unwrap_err().to_string();
    assert!(error.contains("out of memory: raise its maxmemory"), "{error}");
    assert!(until_away(&node).await.contains("maxmemory"));
    assert_eq!(place(&node, "known").await.epoch, placed.epoch);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("the node is ready again", async || node.ready().await.is_ok()).await;
    place(&node, "new").await;
}

#[tokio::test]
async fn a_wrong_password_is_told_without_the_password() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let wrong = config::Redis { password: Some(config::Secret::new("s3cret")), ..redis.config() };
    let told = until_away(&start(&wrong)).await;
    assert!(told.contains("PROXY_REDIS_PASSWORD") && !told.contains("s3cret"), "{told}");
    let right = config::Redis { password: Some(config::Secret::new("right")), ..redis.config() };
    ready(&right).await;
}

#[tokio::test]
async fn a_server_with_tls_is_reached_with_certificates_and_not_without() {
    let redis = Redis::start_with_tls();
    let node = ready(&redis.config()).await;
    node.register(origin(1)).await.unwrap();
    place(&node, "s").await;
    let mut strict = redis.config();
    strict.tls = Some(config::RedisTls::default());
    let told = until_away(&start(&strict)).await;
    assert!(told.contains("certificate"), "{told}");
    let missing = config::RedisTls { ca: Some("/no/such/ca.pem".into()), identity: None };
    let error = RedisBalancer::start(&balancer_config(), &config::Redis { tls: Some(missing), ..redis.config() });
    assert!(error.err().unwrap().to_string().starts_with("/no/such/ca.pem: "));
}

#[tokio::test]
async fn a_failover_of_the_sentinels_is_followed() {
    let mut sentinel = RedisSentinel::start();
    let node = ready(&sentinel.config()).await;
    node.register(origin(1)).await.unwrap();
    let lease = Lease::new(Arc::clone(&node), place(&node, "known").await, Intent::Publish);
    sentinel.master.kill();
    until_away(&node).await;
    assert_eq!(place(&node, "known").await.epoch, lease.placement().epoch);
    eventually("the node uses the new master", async || node.ready().await.is_ok()).await;
    assert!(sentinel.replica.cli(&["INFO", "replication"]).contains("role:master"));
    place(&node, "new").await;
    assert_eq!(place(&node, "known").await.epoch, lease.placement().epoch);
}

#[tokio::test]
async fn a_cluster_that_lost_a_node_serves_what_is_known_and_recovers_with_it() {
    let mut cluster = RedisCluster::start();
    let node = ready(&cluster.config()).await;
    node.register(origin(1)).await.unwrap();
    let mut placed = Vec::new();
    for i in 0..20 {
        placed.push(place(&node, &format!("s{i}")).await);
    }
    cluster.nodes[1].kill();
    until_away(&node).await;
    for before in &placed {
        let after = node.place(request(&before.stream)).await.unwrap();
        assert_eq!((after.origin.id(), after.epoch), (before.origin.id(), before.epoch));
    }
    cluster.nodes[1].restart();
    eventually("the node is ready again", async || node.ready().await.is_ok()).await;
    for i in 20..40 {
        eventually("new streams are placed", async || try_place(&node, &format!("s{i}")).await.is_ok()).await;
    }
}

#[tokio::test]
async fn foreign_and_corrupt_values_are_left_out_and_repaired() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    node.register(origin(1)).await.unwrap();
    for (i, value) in
        ["", "garbage", "srs-proxy-server:", "srs-proxy-server:gone", "[1,2", "\u{7f}\u{0}"].iter().enumerate()
    {
        if !value.contains('\u{0}') {
            redis.cli(&["SET", &format!("srs-proxy-url:{}", stream(&format!("s{i}"))), value]);
        }
        place(&node, &format!("s{i}")).await;
        assert_eq!(go_pick(&redis, stream(&format!("s{i}")).as_str()).unwrap()["server_id"], "vid-1");
    }
    redis.cli(&["LPUSH", &format!("srs-proxy-url:{}", stream("list")), "x"]);
    place(&node, "list").await;

    for bad in ["{", "null", "[]", "\"x\"", "{\"ip\":1}"] {
        node.register(origin(1)).await.unwrap();
        redis.cli(&["SET", "srs-proxy-server:bad", bad]);
        redis.cli(&["SET", "srs-proxy-all-servers", &json!(["srs-proxy-server:bad", 7, null, "other"]).to_string()]);
        let listed = async || redis.cli(&["GET", "srs-proxy-all-servers"]).contains(&go_key(1));
        eventually("the list has our origin again", listed).await;
        assert_eq!(node.origins().await.unwrap().len(), 1);
    }
    for broken in ["{not json", "\"text\"", "17"] {
        node.register(origin(1)).await.unwrap();
        redis.cli(&["SET", "srs-proxy-all-servers", broken]);
        let repaired = async || {
            let list = redis.cli(&["GET", "srs-proxy-all-servers"]);
            serde_json::from_str::<Vec<String>>(&list).is_ok_and(|list| list.contains(&go_key(1)))
        };
        eventually("the list is repaired", repaired).await;
    }
    node.register(origin(1)).await.unwrap();
    redis.cli(&["DEL", "srs-proxy-all-servers"]);
    redis.cli(&["LPUSH", "srs-proxy-all-servers", "x"]);
    let repaired = async || redis.cli(&["TYPE", "srs-proxy-all-servers"]) == "string";
    eventually("the list of another type is repaired", repaired).await;
    assert_eq!(node.ready().await, Ok(()));
}

#[tokio::test]
async fn the_placement_of_a_stream_in_use_is_repaired_when_somebody_overwrites_it() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    node.register(origin(1)).await.unwrap();
    let mut lease = Lease::new(Arc::clone(&node), place(&node, "s").await, Intent::Publish);
    redis.cli(&["SET", &format!("srs-proxy-url:{}", stream("s")), "garbage"]);
    eventually("it is repaired", async || go_pick(&redis, stream("s").as_str()).is_some()).await;
    assert!(tokio::time::timeout(Duration::from_millis(1), lease.moved()).await.is_err());
}

#[tokio::test]
async fn origins_that_registered_at_a_go_node_are_used_and_ours_can_be_used_by_go() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    go_register(&redis, 1, "2024-09-01T10:20:30.123456789+08:00");
    let placed = place(&node, "a").await;
    assert_eq!(placed.origin.id(), origin(1).id());
    assert!(placed.origin.serves(Protocol::Http));
    assert_eq!(go_pick(&redis, stream("a").as_str()).unwrap()["ip"], "10.0.0.1");

    node.register(origin(2)).await.unwrap();
    let server: Value = serde_json::from_str(&redis.cli(&["GET", &go_key(2)])).unwrap();
    assert_eq!(
        (&server["server_id"], &server["service_id"], &server["pid"]),
        (&json!("vid-2"), &json!("run1"), &json!("1"))
    );
    assert_eq!(server["rtmp"], json!(["1935"]));
    assert!(humantime_like(server["update_at"].as_str().unwrap()), "{server}");
    let ttl: u64 = redis.cli(&["PTTL", &go_key(2)]).parse().unwrap();
    assert!((1..=8000).contains(&ttl), "{ttl}");
    let list: Vec<String> = serde_json::from_str(&redis.cli(&["GET", "srs-proxy-all-servers"])).unwrap();
    assert_eq!(list.into_iter().collect::<HashSet<_>>(), HashSet::from([go_key(1), go_key(2)]));
}

/// RFC 3339, as Go reads it.
fn humantime_like(text: &str) -> bool {
    let digits = text.replace(|c: char| c.is_ascii_digit(), "0");
    digits.starts_with("0000-00-00T00:00:00") && digits.ends_with('Z')
}

#[tokio::test]
async fn a_stream_that_go_placed_stays_there_without_a_time_to_live_while_its_server_lives() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    for n in 1..=5 {
        go_register(&redis, n, "t1");
    }
    let url = format!("srs-proxy-url:{}", stream("s"));
    redis.cli(&["SET", &url, &go_key(3)]);
    let first = place(&node, "s").await;
    assert_eq!(first.origin.id(), origin(3).id());
    let lease = Lease::new(Arc::clone(&node), first.clone(), Intent::Play);
    let again = place(&node, "s").await;
    assert_eq!((again.origin.id(), again.epoch), (first.origin.id(), first.epoch));
    drop(lease);
    let (listed, _) = node.placements(ALL).await.unwrap();
    assert_eq!(listed[0].placement.origin.id(), origin(3).id());
    assert_eq!(redis.cli(&["PTTL", &url]), "-1");

    // Its server ends: the stream moves when it is asked for, and expires when it is not.
    redis.cli(&["SET", &format!("srs-proxy-url:{}", stream("abandoned")), &go_key(3)]);
    redis.cli(&["DEL", &go_key(3)]);
    let fading =
        async || redis.cli(&["PTTL", &format!("srs-proxy-url:{}", stream("abandoned"))]).parse::<i64>().unwrap() > 0;
    eventually("the abandoned placement expires", fading).await;
    let moved = place(&node, "s").await;
    assert_ne!(moved.origin.id(), first.origin.id());
    assert!(moved.epoch > first.epoch);
}

#[tokio::test]
async fn a_stream_that_go_moves_is_noticed_by_those_who_use_it() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    go_register(&redis, 1, "t1");
    go_register(&redis, 2, "t1");
    until_known(&node, 2).await;
    let first = place(&node, "s").await;
    let mut lease = Lease::new(Arc::clone(&node), first.clone(), Intent::Play);
    let other = if first.origin.id() == origin(1).id() { 2 } else { 1 };
    redis.cli(&["SET", &format!("srs-proxy-url:{}", stream("s")), &go_key(other)]);
    tokio::time::timeout(LIMIT, lease.moved()).await.expect("the move is noticed");
    let second = place(&node, "s").await;
    assert_eq!(second.origin.id(), origin(other).id());
    assert!(second.epoch > first.epoch);
}

#[tokio::test]
async fn a_heartbeat_at_a_go_node_ends_a_suspicion() {
    let redis = Redis::start();
    let (a, b) = (ready(&redis.config()).await, ready(&redis.config()).await);
    go_register(&redis, 1, "t1");
    until_known(&a, 1).await;
    until_known(&b, 1).await;
    a.report(&origin(1).id(), Reachability::Failed("refused".into())).await;
    for node in [&a, &b] {
        let suspect = async || node.origins().await.unwrap()[0].state == OriginState::Suspect;
        eventually("all suspect it", suspect).await;
    }
    go_register(&redis, 1, "t2");
    for node in [&a, &b] {
        let live = async || node.origins().await.unwrap()[0].state == OriginState::Live;
        eventually("nobody suspects it", live).await;
    }
}

#[tokio::test]
async fn a_session_is_found_by_go_and_a_session_of_go_is_found() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    node.put_session("ours", &stream("a"), Duration::from_secs(120)).await.unwrap();
    let session: Value = serde_json::from_str(&redis.cli(&["GET", "srs-proxy-ufrag:ours"])).unwrap();
    assert_eq!(session, json!({"stream_url": "__defaultVhost__/live/a", "ufrag": "ours"}));
    redis.cli(&["SET", "srs-proxy-ufrag:go", r#"{"stream_url":"__defaultVhost__/live/b","ufrag":"go"}"#]);
    assert_eq!(node.session("go").await.unwrap(), Some(stream("b")));
    redis.cli(&["SET", "srs-proxy-ufrag:bad", "{"]);
    assert_eq!(node.session("bad").await.unwrap(), None);
}

#[tokio::test]
async fn the_list_of_servers_loses_nobody_to_our_own_writers_and_what_go_loses_is_repaired() {
    let redis = Redis::start();
    let nodes = [ready(&redis.config()).await, ready(&redis.config()).await, ready(&redis.config()).await];
    let mut tasks = JoinSet::new();
    for n in 1..=60 {
        let node = Arc::clone(&nodes[usize::from(n) % nodes.len()]);
        tasks.spawn(async move { node.register(origin(n)).await.unwrap() });
    }
    tasks.join_all().await;
    let listed = || -> HashSet<String> {
        let list: Vec<String> = serde_json::from_str(&redis.cli(&["GET", "srs-proxy-all-servers"])).unwrap();
        list.into_iter().collect()
    };
    let all: HashSet<String> = (1..=60).map(go_key).collect();
    assert_eq!(listed(), all);
    // A node of the Go proxy writes back a list that it read long ago.
    redis.cli(&["SET", "srs-proxy-all-servers", &json!([go_key(1)]).to_string()]);
    eventually("all are listed again", async || listed() == all).await;
    until_known(&nodes[0], 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_race_for_a_thousand_fresh_names_never_differ() {
    let redis = Redis::start();
    let (a, b) = (ready(&redis.config()).await, ready(&redis.config()).await);
    for n in 1..=4 {
        a.register(origin(n)).await.unwrap();
    }
    until_known(&b, 4).await;
    let mut origins: HashSet<OriginId> = HashSet::new();
    for i in 0..1000 {
        let name = format!("s{i}");
        let (one, other) = tokio::join!(place(&a, &name), place(&b, &name));
        assert_eq!((one.origin.id(), one.epoch), (other.origin.id(), other.epoch), "{name}");
        origins.insert(one.origin.id());
    }
    assert_eq!(origins.len(), 4, "the load is spread");
}

#[tokio::test]
async fn a_key_prefix_separates_clusters_on_one_server() {
    let redis = Redis::start();
    let prefixed = config::Redis { key_prefix: "b:".into(), ..redis.config() };
    let (a, b) = (ready(&redis.config()).await, ready(&prefixed).await);
    a.register(origin(1)).await.unwrap();
    b.register(origin(2)).await.unwrap();
    assert_eq!(place(&a, "s").await.origin.id(), origin(1).id());
    assert_eq!(place(&b, "s").await.origin.id(), origin(2).id());
    assert_eq!((a.placements(ALL).await.unwrap().1, b.placements(ALL).await.unwrap().1), (1, 1));
    let list = redis.cli(&["GET", "b:srs-proxy-all-servers"]);
    assert_eq!(list, json!([format!("b:{}", go_key(2))]).to_string());
    for key in redis.cli(&["KEYS", "*"]).lines() {
        assert!(key.starts_with("srs-proxy-") || key.starts_with("b:srs-proxy-"), "{key}");
    }
}

#[tokio::test]
async fn a_player_in_another_protocol_does_not_take_a_stream_from_its_publisher_on_another_node() {
    let redis = Redis::start();
    let (a, b) = (ready(&redis.config()).await, ready(&redis.config()).await);
    a.register(origin(1)).await.unwrap();
    let first = place(&a, "s").await;
    let publisher = Lease::new(Arc::clone(&a), first.clone(), Intent::Publish);
    let with_srt = Origin { srt: origin(2).rtmp, ..origin(2) };
    a.register(with_srt.clone()).await.unwrap();
    until_known(&b, 2).await;
    let key = stream("s");
    let srt = PlaceRequest { protocol: Protocol::Srt, ..request(&key) };
    // The flag is on its way while the hold is young.
    eventually("the publisher is known", async || {
        redis.cli(&["HVALS", &format!("srs-proxy-meta-url:{{srs-proxy-url:{key}}}")]).contains(":1")
    })
    .await;
    assert!(matches!(b.place(srt).await, Err(BalancerError::NoOrigin { .. })));
    assert_eq!(place(&b, "s").await.epoch, first.epoch);
    drop(publisher);
    let moves = async || b.place(srt).await.is_ok_and(|placed| placed.origin.id() == with_srt.id());
    eventually("the player gets it when the publisher has gone", moves).await;
}

#[tokio::test]
async fn the_number_of_streams_is_bounded() {
    let redis = Redis::start();
    let bounded = config::Balancer { max_streams: 3, ..balancer_config() };
    let node: Arc<dyn Balancer> = Arc::new(RedisBalancer::start(&bounded, &redis.config()).unwrap());
    eventually("the node is ready", async || node.ready().await.is_ok()).await;
    node.register(origin(1)).await.unwrap();
    let mut full = None;
    for i in 0..20 {
        full = full.or(try_place(&node, &format!("s{i}")).await.err());
    }
    assert!(matches!(&full, Some(BalancerError::Full(text)) if text.contains("PROXY_MAX_STREAMS")), "{full:?}");
    place(&node, "s0").await;
}
