//! What a node of a cluster shows, and what it tells the others, from its start to its end.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use serde_json::json;
use srs_proxy::{
    app::App,
    balancer::Balancer,
    config::{Config, load::load, sources::Sources},
    shutdown::{Outcome, Shutdown, Signal},
};
use srs_proxy_test_support::in_cluster;
use srs_proxy_test_support::in_cluster::InCluster;
use srs_proxy_test_support::raw_http;
use srs_proxy_test_support::raw_http::Client;
use srs_proxy_test_support::scripted::{LIMIT, Peer, until, within};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_util::sync::CancellationToken;

fn config(settings: &[(&str, &str)]) -> Config {
    let none = BTreeMap::new();
    let local = [
        "PROXY_RTMP_SERVER",
        "PROXY_HTTP_SERVER",
        "PROXY_HTTP_API",
        "PROXY_SYSTEM_API",
        "PROXY_WEBRTC_SERVER",
        "PROXY_SRT_SERVER",
    ]
    .map(|name| (name, "127.0.0.1:0"));
    let env: BTreeMap<String, String> =
        [&local, settings].concat().iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    load(Sources { flags: &none, env: &env, dotenv: &none }).unwrap().config
}

/// A node that serves.
struct Node {
    rtmp: SocketAddr,
    api: SocketAddr,
    balancer: Arc<InCluster>,
    shutdown: Shutdown,
    run: JoinHandle<Outcome>,
}

impl Node {
    async fn start(balancer: Arc<InCluster>, settings: &[(&str, &str)]) -> Self {
        let config = config(settings);
        let shutdown = Shutdown::new(config.drain.clone());
        let app = App::with_balancer(config, Arc::clone(&balancer) as Arc<dyn Balancer>).await.unwrap();
        let (rtmp, api) = (app.rtmp_addr(), app.system_addr());
        let run = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { app.run(shutdown).await }
        });
        within(shutdown.ready().wait_for(|ready| *ready)).await.unwrap();
        Self { rtmp, api, balancer, shutdown, run }
    }

    async fn get(&self, path: &str) -> raw_http::Answer {
        Client::connect(self.api).await.get(path).await
    }

    async fn ended(self) -> Outcome {
        within(self.run).await.unwrap()
    }
}

#[tokio::test]
async fn a_node_hands_over_beside_its_last_sessions_and_leaves_after_them() {
    let balancer = InCluster::new();
    balancer.slow_drain.store(true, SeqCst);
    balancer.say(in_cluster::cluster());
    let node = Node::start(balancer, &[]).await;
    let last_session = CancellationToken::new();
    node.shutdown.tasks().spawn(last_session.clone().cancelled_owned());
    assert_eq!(node.get("/readyz").await.status, 200);

    node.shutdown.begin();
    let refused = async {
        while TcpStream::connect(node.rtmp).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within(refused).await;
    until("the hand-over begins", || node.balancer.calls() == ["drain"]).await;
    let ready = node.get("/readyz").await;
    assert_eq!((ready.status, ready.error().contains("draining")), (503, true));
    let view = node.get("/api/v1/proxy/cluster").await.json();
    assert_eq!((&view["state"], &view["ready"]), (&json!("draining"), &json!(false)), "{view}");

    let balancer = Arc::clone(&node.balancer);
    balancer.release();
    until("the hand-over ends", || balancer.calls() == ["drain", "drained"]).await;
    assert_eq!(node.get("/healthz").await.status, 200);
    assert_eq!(balancer.calls(), ["drain", "drained"], "a session goes on");
    last_session.cancel();
    assert_eq!(node.ended().await, Outcome::Clean);
    assert_eq!(balancer.calls(), ["drain", "drained", "leave", "left"]);
}

#[tokio::test]
async fn a_hand_over_that_hangs_is_no_reason_for_a_forced_end() {
    let balancer = InCluster::new();
    balancer.slow_drain.store(true, SeqCst);
    let short = [("PROXY_GRACE_QUIT_TIMEOUT", "1s"), ("PROXY_FORCE_QUIT_TIMEOUT", "1s")];
    let node = Node::start(Arc::clone(&balancer), &short).await;
    node.shutdown.begin();
    assert_eq!(node.ended().await, Outcome::Clean);
    assert_eq!(balancer.calls(), ["drain", "leave", "left"]);
}

#[tokio::test]
async fn the_others_are_told_of_a_forced_end_but_not_waited_for() {
    let balancer = InCluster::new();
    balancer.stuck_leave.store(true, SeqCst);
    let short = [("PROXY_GRACE_QUIT_TIMEOUT", "100ms"), ("PROXY_FORCE_QUIT_TIMEOUT", "200ms")];
    let node = Node::start(Arc::clone(&balancer), &short).await;
    node.shutdown.tasks().spawn(std::future::pending::<()>());
    let begun = Instant::now();
    node.shutdown.begin();
    assert_eq!(node.ended().await, Outcome::Forced);
    assert_eq!(balancer.calls(), ["drain", "drained", "leave"]);
    assert!(begun.elapsed() < LIMIT / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_signal_is_not_kept_waiting_by_a_farewell() {
    let balancer = InCluster::new();
    balancer.slow_drain.store(true, SeqCst);
    let node = Node::start(Arc::clone(&balancer), &[]).await;
    node.shutdown.begin();
    until("the hand-over begins", || balancer.calls() == ["drain"]).await;
    node.shutdown.abort(Signal::Terminate);
    assert_eq!(node.ended().await, Outcome::Aborted(Signal::Terminate));
    assert_eq!(balancer.calls(), ["drain"]);
}

#[tokio::test]
async fn while_placements_are_unavailable_probes_and_clients_are_told_why_and_nobody_waits() {
    let balancer = InCluster::new();
    balancer.refuse(Some("this node is joining the mesh"));
    let node = Node::start(Arc::clone(&balancer), &[]).await;
    let ready = node.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.error().contains("this node is joining the mesh"), "{}", ready.error());
    for (what, code) in [("publish", "NetStream.Publish.Denied"), ("play", "NetStream.Play.StreamNotFound")] {
        let mut client = Peer::ask(node.rtmp, what, "s").await;
        let (_, told) = client.expect("onStatus").await;
        assert_eq!(told.info_text("code").as_deref(), Some(code));
        let description = told.info_text("description").unwrap();
        assert!(description.contains("this node is joining the mesh"), "{description}");
        within(client.until_closed()).await;
    }

    balancer.refuse(None);
    assert_eq!(node.get("/readyz").await.status, 200);
    node.shutdown.begin();
    assert_eq!(node.ended().await, Outcome::Clean);
}

#[tokio::test]
async fn the_default_backend_is_registered_once_placements_are_available() {
    let balancer = InCluster::new();
    balancer.refuse(Some("the store is away"));
    let backend = [("PROXY_DEFAULT_BACKEND_ENABLED", "on"), ("PROXY_ORIGIN_SERVER_TTL", "3s")];
    let node = Node::start(Arc::clone(&balancer), &backend).await;
    balancer.refuse(None);
    let registered = async {
        while balancer.origins().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(registered).await;
    assert_eq!(balancer.origins().await.unwrap()[0].origin.id().as_str(), "default-127.0.0.1:1935-configured-0");
    node.shutdown.begin();
    assert_eq!(node.ended().await, Outcome::Clean);
}
