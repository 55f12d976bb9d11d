//! What happens when Redis is slow, down, restarted, failed over or full, and when nodes race.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::json;
use srs_proxy::{
    balancer::{Balancer, BalancerError, Intent, Lease, OriginState, PlaceRequest, Reachability, redis::RedisBalancer},
    config,
    origin::{Origin, OriginId, Protocol},
};
use srs_proxy_test_support::{
    redis::{Redis, RedisCluster, RedisSentinel, balancer_config},
    redis_nodes::*,
};
use tokio::time::Instant;

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
    // No other origin can be agreed on, so even a suspect one is better than none.
    node.report(&origin(1).id(), Reachability::Failed("refused".into())).await;
    assert_eq!(in_time(try_place(&node, "known")).await.unwrap().epoch, placed.epoch);
    node.report(&origin(1).id(), Reachability::Reached).await;
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
    node.register(origin(1)).await.unwrap();
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
    // By now it may have been silent for too long.
    node.register(origin(1)).await.unwrap();
    for i in 20..40 {
        eventually("new streams are placed", async || try_place(&node, &format!("s{i}")).await.is_ok()).await;
    }
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

#[tokio::test]
async fn origins_do_not_expire_while_nobody_can_hear_of_their_heartbeats() {
    let mut redis = Redis::start();
    let short = config::Balancer { origin_ttl: Duration::from_secs(1), ..balancer_config() };
    let node: Arc<dyn Balancer> = Arc::new(RedisBalancer::start(&short, &redis.config()).unwrap());
    eventually("the node is ready", async || node.ready().await.is_ok()).await;
    node.register(origin(1)).await.unwrap();
    let placed = place(&node, "s").await;
    redis.kill();
    until_away(&node).await;
    tokio::time::sleep(short.origin_ttl * 2).await;
    assert_eq!(place(&node, "s").await.epoch, placed.epoch);
    redis.restart();
    eventually("the node is ready again", async || node.ready().await.is_ok()).await;
    // It has sent no heartbeat since.
    until_known(&node, 0).await;
}

/// How often scripts have run so far, by their hash or their text.
fn scripts_run(redis: &Redis) -> u64 {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = |line: &str| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok();
    let scripts = stats.lines().filter(|line| line.starts_with("cmdstat_eval"));
    scripts.filter_map(calls).sum()
}

#[tokio::test]
async fn a_stream_that_is_placed_costs_one_request_and_a_fresh_one_two() {
    let redis = Redis::start();
    let node = ready(&redis.config()).await;
    node.register(origin(1)).await.unwrap();
    // By then Redis knows the scripts.
    place(&node, "first").await;
    let before = scripts_run(&redis);
    for i in 0..50 {
        place(&node, &format!("s{i}")).await;
    }
    let fresh = scripts_run(&redis);
    for i in 0..50 {
        place(&node, &format!("s{i}")).await;
    }
    assert_eq!((fresh - before, scripts_run(&redis) - fresh), (100, 50));
}

#[tokio::test]
async fn a_move_is_told_to_other_nodes_at_once_and_again_after_their_subscription_broke() {
    let redis = Redis::start();
    // Nobody finds out by a renewal within the time of this test.
    let slow = config::Balancer { connecting: Duration::from_secs(60), ..balancer_config() };
    let node = || Arc::new(RedisBalancer::start(&slow, &redis.config()).unwrap()) as Arc<dyn Balancer>;
    let (a, b) = (node(), node());
    for node in [&a, &b] {
        eventually("the node is ready", async || node.ready().await.is_ok()).await;
    }
    let subscribers = || redis.cli(&["PUBSUB", "NUMSUB", "srs-proxy-meta-events"]).ends_with('2');
    for n in 1..=2 {
        a.register(origin(n)).await.unwrap();
    }
    until_known(&b, 2).await;
    for round in 0..2 {
        eventually("both nodes listen", async || subscribers()).await;
        let first = place(&a, &format!("s{round}")).await;
        let mut lease = Lease::new(Arc::clone(&b), first.clone(), Intent::Play);
        // So that the first word on the hold has been said.
        let held = format!("srs-proxy-meta-url:{{srs-proxy-url:{}}}", first.stream);
        eventually("the hold is known", async || redis.cli(&["HLEN", &held]) == "3").await;
        let avoid = [first.origin.id()];
        a.place(PlaceRequest { avoid: &avoid, ..request(&first.stream) }).await.unwrap();
        tokio::time::timeout(Duration::from_secs(3), lease.moved()).await.expect("the other node is told");
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    }
}
