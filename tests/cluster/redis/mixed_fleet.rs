//! Beside nodes of the Go proxy, in whose place these tests write, and beside whoever else writes what
//! is not ours.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::{Value, json};
use srs_proxy::{
    balancer::{Intent, Lease, OriginState, Reachability},
    origin::Protocol,
};
use srs_proxy_test_support::{redis::Redis, redis_nodes::*};
use tokio::task::JoinSet;

/// A server as the Go proxy writes it.
fn go_server(n: u16, updated: &str) -> String {
    format!(
        r#"{{"ip":"10.0.0.{n}","device_id":"d","server_id":"vid-{n}","service_id":"run1","pid":"1","rtmp":["1935"],"http":["8080"],"update_at":"{updated}"}}"#
    )
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
    node.put_ufrag("ours", &stream("a"), Duration::from_secs(120)).await.unwrap();
    let session: Value = serde_json::from_str(&redis.cli(&["GET", "srs-proxy-ufrag:ours"])).unwrap();
    assert_eq!(session, json!({"stream_url": "__defaultVhost__/live/a", "ufrag": "ours"}));
    redis.cli(&["SET", "srs-proxy-ufrag:go", r#"{"stream_url":"__defaultVhost__/live/b","ufrag":"go"}"#]);
    assert_eq!(node.stream_of_ufrag("go").await.unwrap(), Some(stream("b")));
    redis.cli(&["SET", "srs-proxy-ufrag:bad", "{"]);
    assert_eq!(node.stream_of_ufrag("bad").await.unwrap(), None);
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
