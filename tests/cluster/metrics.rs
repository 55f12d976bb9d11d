//! What a scrape says of Redis, of other nodes and of origins that are asked by HTTP.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use srs_proxy::{
    balancer::{Balancer, memory::MemoryBalancer},
    config::BalancerType,
    metrics::{Metrics, balancer::Measured, label::Upstream, scrape::Sources},
    relay::{dial::Dialer, http},
    session::Sessions,
};
use srs_proxy_test_support::mesh_nodes;
use srs_proxy_test_support::openmetrics::Scrape;
use srs_proxy_test_support::{
    redis::Redis,
    redis_nodes::{eventually, origin, place, ready},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// A node whose balancer is measured, as in a running one.
struct Node {
    balancer: Arc<dyn Balancer>,
    sources: Sources,
}

impl Node {
    fn new(balancer: Arc<dyn Balancer>, kind: BalancerType) -> Self {
        let metrics = Metrics::default();
        let balancer: Arc<dyn Balancer> = Arc::new(Measured::new(balancer, metrics.clone()));
        let sources = Sources {
            metrics,
            balancer: Arc::clone(&balancer),
            kind,
            sessions: Sessions::default(),
            ready: watch::channel(true).1,
            draining: CancellationToken::new(),
        };
        Self { balancer, sources }
    }

    async fn scrape(&self) -> Scrape {
        Scrape::read(&self.sources.scrape().await.unwrap())
    }
}

#[tokio::test]
async fn calls_to_redis_are_counted_and_timed_and_so_is_what_it_does_not_answer() {
    let mut redis = Redis::start();
    let node = Node::new(ready(&redis.config()).await, BalancerType::Redis);
    node.balancer.register(origin(1)).await.unwrap();
    place(&node.balancer, "s").await;
    let before = node.scrape().await;
    assert_eq!(before.value("srs_proxy_balancer_available", &[]), 1.0);
    let calls = |scrape: &Scrape, outcome| scrape.value("srs_proxy_balancer_calls_total", &[("outcome", outcome)]);
    assert!(calls(&before, "answered") >= 2.0);
    assert_eq!(before.value("srs_proxy_balancer_call_seconds_count", &[]), calls(&before, "answered"));
    eventually("the placement is counted", async || {
        node.scrape().await.samples().any(|s| s.name == "srs_proxy_placements" && s.value == 1.0)
    })
    .await;

    redis.kill();
    let asked = async || {
        let failed = node.balancer.stream_of_ufrag("nobody").await;
        failed.is_err() && node.scrape().await.value("srs_proxy_balancer_available", &[]) == 0.0
    };
    eventually("Redis is away", asked).await;
    let after = node.scrape().await;
    assert!(calls(&after, "failed") + calls(&after, "late") >= 1.0);
    assert_eq!(after.went_back(&before), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_mesh_and_what_they_say_to_each_other_are_counted() {
    let mesh = mesh_nodes::start_all(3, &mesh_nodes::placement()).await;
    let nodes: Vec<_> = mesh.iter().map(|node| Node::new(Arc::clone(&node.balancer), BalancerType::Mesh)).collect();
    nodes[0].balancer.register(origin(1)).await.unwrap();
    for node in &nodes {
        eventually("the origin is known", async || node.balancer.origins().await.unwrap().len() == 1).await;
    }
    // Two thirds of these have their home elsewhere.
    for n in 0..30 {
        place(&nodes[0].balancer, &format!("s{n}")).await;
    }
    let scrape = nodes[0].scrape().await;
    assert_eq!(scrape.value("srs_proxy_mesh_members", &[("state", "serving"), ("live", "true")]), 3.0);
    assert_eq!(scrape.value("srs_proxy_mesh_stable", &[]), 1.0);
    assert_eq!(scrape.value("srs_proxy_mesh_disagreeing_members", &[]), 0.0);
    assert_eq!(scrape.value("srs_proxy_places_total", &[("intent", "play"), ("outcome", "ok")]), 30.0);
    let answered = scrape.value("srs_proxy_balancer_calls_total", &[("outcome", "answered")]);
    assert!(answered >= 1.0 && scrape.value("srs_proxy_balancer_call_seconds_count", &[]) == answered);
    for direction in ["sent", "received"] {
        assert!(scrape.value("srs_proxy_mesh_gossip_packets_total", &[("direction", direction)]) >= 1.0);
        assert!(scrape.value("srs_proxy_mesh_gossip_bytes_total", &[("direction", direction)]) >= 30.0);
    }
    let mut placed = 0.0;
    for node in &nodes {
        placed += node.scrape().await.value("srs_proxy_mesh_placed_total", &[]);
    }
    assert_eq!(placed, 30.0, "each stream was placed by one home");
}

#[tokio::test]
async fn requests_to_origins_and_their_connections_are_counted_by_outcome() {
    let node = Node::new(Arc::new(MemoryBalancer::new(&mesh_nodes::placement())), BalancerType::Memory);
    let settings =
        http::Settings { connect_timeout: Duration::from_secs(5), keepalive: Duration::from_secs(5), max_idle: 4 };
    let client = http::Client::counting(Dialer::default(), settings, node.sources.metrics.origins(Upstream::Http));
    let patience = http::Patience { answer: Duration::from_secs(5), idle: Duration::from_secs(5) };
    let get = || Request::get("/").header("Host", "origin").body(Full::<Bytes>::default()).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let origin = tokio::spawn(async move {
        // Two answers on one connection, and none on the next.
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        }
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
    });
    for answered in [true, true, false] {
        assert_eq!(client.send("127.0.0.1", port, get(), patience).await.is_ok(), answered);
    }
    origin.await.unwrap();
    assert!(client.send("127.0.0.1", port, get(), patience).await.is_err(), "nobody listens");
    let scrape = node.scrape().await;
    let count = |name, outcome| scrape.value(name, &[("protocol", "http"), ("outcome", outcome)]);
    assert_eq!(count("srs_proxy_origin_requests_total", "ok"), 2.0);
    assert_eq!(count("srs_proxy_origin_requests_total", "closed"), 1.0);
    assert_eq!(count("srs_proxy_origin_requests_total", "connect"), 1.0);
    assert_eq!(count("srs_proxy_origin_connects_total", "ok"), 2.0, "one was kept for the second request");
    assert_eq!(count("srs_proxy_origin_connects_total", "connect"), 1.0);
    assert_eq!(scrape.value("srs_proxy_origin_connect_seconds_count", &[("protocol", "http")]), 2.0);
    assert_eq!(scrape.value("srs_proxy_origin_answer_seconds_count", &[("protocol", "http")]), 2.0);
}
