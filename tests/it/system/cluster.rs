//! What the system API shows of a cluster.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use srs_proxy::{
    balancer::{Balancer, Intent, PlaceRequest, Reachability},
    origin::{OriginId, Protocol},
    stream::StreamKey,
};
use srs_proxy_test_support::in_cluster;
use srs_proxy_test_support::in_cluster::InCluster;
use srs_proxy_test_support::system::{MINIMAL, Server, settings};

const CLUSTER: &str = "/api/v1/proxy/cluster";

async fn server(balancer: &Arc<InCluster>) -> Server {
    let balancer = Arc::clone(balancer) as Arc<dyn Balancer>;
    Server::with(balancer, None, settings(Duration::from_secs(30))).await
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

#[tokio::test]
async fn a_node_of_a_cluster_shows_its_members_what_they_hold_and_what_happened() {
    let balancer = InCluster::new();
    balancer.say(in_cluster::cluster());
    let server = server(&balancer).await;
    server.register(MINIMAL).await;
    let mut view = server.get(CLUSTER).await.json();
    let age = view["origins"]["list"][0]["heartbeat_age_seconds"].take();
    assert!(age.as_f64().is_some_and(|age| (0.0..60.0).contains(&age)), "{age}");
    let expected = json!({
        "code": 0, "balancer": "memory", "node": "proxy-0", "state": "serving", "ready": true, "reason": null,
        "stable": true,
        "members": [
            {
                "node": "proxy-0", "state": "serving", "live": true, "version": "0.1.0",
                "incarnation": 1_795_337_000_123_u64, "grpc": "proxy-0:12027", "homes": 5, "lag_ms": 83, "same_view": true,
            },
            {
                "node": "proxy-1", "state": "draining", "live": true, "version": "0.1.0",
                "incarnation": 1_795_337_000_123_u64, "grpc": "proxy-1:12027", "homes": 5, "lag_ms": 83, "same_view": true,
            },
            {
                "node": "proxy-2", "state": "left", "live": false, "version": null,
                "incarnation": 1_795_337_000_123_u64, "grpc": null, "homes": 0, "lag_ms": 75_000, "same_view": false,
            },
        ],
        "origins": {
            "total": 1, "live": 1, "suspect": 0,
            "list": [{"id": "a-b-1", "state": "live", "heartbeat_age_seconds": null, "streams": 0}],
        },
        "placements": 10,
        "conflicts": {"open": 1, "resolved": 4},
        "counters": {
            "decisions": {
                "placed": 1, "moved": 2, "adopted": 3, "claims": 5, "claims_lost": 6, "unanswered": 7, "bad_posts": 8,
            },
            "gossip": null,
            "refused": null,
        },
    });
    assert_eq!(view, expected);
}

#[tokio::test]
async fn a_node_that_knows_no_others_is_a_cluster_of_one() {
    let before = now();
    let server = Server::start().await;
    server.register(MINIMAL).await;
    let stream = StreamKey::from_shared("v/live/a").unwrap();
    let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtmp, intent: Intent::Publish, avoid: &[] };
    server.balancer.place(request).await.unwrap();
    let mut view = server.get(CLUSTER).await.json();
    let incarnation = view["members"][0]["incarnation"].take().as_u64().unwrap();
    assert!((before.saturating_sub(1000)..=now()).contains(&incarnation), "{incarnation}");
    let name = view["node"].take();
    assert!(name.as_str().is_some_and(|name| !name.is_empty()));
    assert_eq!(view["members"][0]["node"].take(), name);
    assert_eq!(view["origins"]["list"][0]["streams"], 1);
    view["origins"].take();
    let expected = json!({
        "code": 0, "balancer": "memory", "node": null, "state": "serving", "ready": true, "reason": null,
        "stable": true,
        "members": [{
            "node": null, "state": "serving", "live": true, "version": env!("CARGO_PKG_VERSION"), "incarnation": null,
            "grpc": null, "homes": 1, "lag_ms": 0, "same_view": true,
        }],
        "origins": null, "placements": 1, "conflicts": {"open": 0, "resolved": 0}, "counters": null,
    });
    assert_eq!(view, expected);
}

#[tokio::test]
async fn the_state_of_this_node_follows_its_life_whatever_the_others_know_of_it() {
    let balancer = InCluster::new();
    let server = server(&balancer).await;
    let shown = async || {
        let view = server.get(CLUSTER).await.json();
        let is_this = |member: &&Value| member["node"] == view["node"];
        let member = view["members"].as_array().unwrap().iter().find(is_this).unwrap();
        assert_eq!(member["state"], view["state"], "{view}");
        (view["state"].as_str().unwrap().to_owned(), view["ready"].as_bool().unwrap())
    };
    server.ready.send(false).unwrap();
    assert_eq!(shown().await, ("joining".to_owned(), false));
    server.ready.send(true).unwrap();
    assert_eq!(shown().await, ("serving".to_owned(), true));
    server.draining.cancel();
    assert_eq!(shown().await, ("draining".to_owned(), false));
    // The mesh learns of the drain a moment later.
    balancer.say(in_cluster::cluster());
    assert_eq!(shown().await, ("draining".to_owned(), false));
}

#[tokio::test]
async fn the_answer_comes_even_while_placements_are_unavailable() {
    let balancer = InCluster::new();
    balancer.refuse(Some("the store is gone"));
    let server = server(&balancer).await;
    let answer = server.get(CLUSTER).await;
    let view = answer.json();
    assert_eq!((answer.status, &view["ready"], &view["state"]), (200, &json!(false), &json!("serving")));
    assert!(view["reason"].as_str().unwrap().contains("the store is gone"), "{view}");
    assert_eq!(
        (&view["origins"], &view["placements"], &view["members"][0]["homes"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn a_balancer_that_does_not_answer_holds_up_neither_probes_nor_people() {
    let balancer = InCluster::new();
    balancer.silent.store(true, SeqCst);
    let server = server(&balancer).await;
    let begun = Instant::now();
    let (ready, view) = tokio::join!(server.get("/readyz"), server.get(CLUSTER));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!((ready.status, ready.error().contains("no answer within")), (503, true));
    let view = view.json();
    assert_eq!((&view["ready"], &view["origins"], &view["placements"]), (&json!(false), &Value::Null, &Value::Null));
    assert!(view["reason"].as_str().unwrap().contains("no answer within"), "{view}");
}

#[tokio::test]
async fn of_many_origins_the_suspect_ones_are_listed_first_and_all_are_counted() {
    let balancer = InCluster::new();
    let server = server(&balancer).await;
    for i in 0..120 {
        let origin = MINIMAL.replace("10.0.0.1", &format!("10.0.0.{i}")).replace(r#""a""#, &format!(r#""a{i:03}""#));
        assert_eq!(server.register(origin).await.status, 200);
    }
    balancer.report(&OriginId::from("a119-b-1"), Reachability::Failed("refused".into())).await;
    let origins = server.get(CLUSTER).await.json()["origins"].take();
    let counts = [&origins["total"], &origins["live"], &origins["suspect"]].map(|count| count.as_u64().unwrap());
    assert_eq!(counts, [120, 119, 1]);
    let list = origins["list"].as_array().unwrap();
    assert_eq!((list.len(), &list[0]["id"], &list[1]["id"]), (100, &json!("a119-b-1"), &json!("a000-b-1")));
    assert_eq!(list[0]["state"], "suspect");
}
