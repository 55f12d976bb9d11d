//! What a scrape says: clean, right, bounded, and in time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use srs_proxy::{
    balancer::{Balancer, Intent, Lease, PlaceRequest},
    error::{Error, Kind},
    metrics::label::{HttpListener, Label, Limit, Listener, Playlist, UdpListener},
    origin::Protocol,
    server::admission::{self, Admission},
    session::{Delivery, Sessions},
    stream::{StreamKey, Vhosts},
};
use srs_proxy_test_support::openmetrics::Scrape;
use srs_proxy_test_support::scripted;
use srs_proxy_test_support::scripted::{LIMIT, Node, Peer, audio, until, video, within};
use tokio::net::{TcpListener, TcpStream};

const PUBLISH: [(&str, &str); 2] = [("protocol", "rtmp"), ("role", "publish")];
const PLAY: [(&str, &str); 2] = [("protocol", "rtmp"), ("role", "play")];

async fn scrape(node: &Node) -> Scrape {
    Scrape::read(&node.sources().scrape().await.unwrap())
}

/// Waits until a scrape is as it should be; counters must not go back meanwhile.
async fn scrape_until(node: &Node, what: &str, is_so: impl Fn(&Scrape) -> bool) -> Scrape {
    let start = std::time::Instant::now();
    let mut last = scrape(node).await;
    while !is_so(&last) {
        assert!(start.elapsed() < LIMIT, "gave up waiting: {what}: {last:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let next = scrape(node).await;
        assert_eq!(next.went_back(&last), [""; 0]);
        last = next;
    }
    last
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn stream(name: &str) -> StreamKey {
    StreamKey::from_rtmp("rtmp://127.0.0.1/live", "live", name, &Vhosts::any()).unwrap()
}

#[tokio::test]
async fn a_publish_and_a_play_count_while_they_run_and_when_they_have_ended() {
    let node = Node::start().await;
    let (listener, address) = listen().await;
    node.register("origin", address, "").await;
    let before = scrape(&node).await;
    assert_eq!(before.sum("srs_proxy_sessions", &[]), 0.0);

    let (mut publisher, mut origin) =
        tokio::join!(Peer::ask(node.address, "publish", "s"), Peer::accept_started(&listener, 1));
    publisher.expect_status().await;
    let (mut player, mut players_origin) =
        tokio::join!(Peer::ask(node.address, "play", "s"), Peer::accept_started(&listener, 1));
    player.expect_status().await;
    let running = scrape(&node).await;
    assert_eq!(running.value("srs_proxy_sessions", &PUBLISH), 1.0);
    assert_eq!(running.value("srs_proxy_sessions", &PLAY), 1.0);
    assert_eq!(running.sum("srs_proxy_sessions", &[]), 2.0);
    assert_eq!(running.value("srs_proxy_sessions_started_total", &PUBLISH), 1.0);
    assert_eq!(running.sum("srs_proxy_sessions_started_total", &[]), 2.0);
    assert_eq!(running.sum("srs_proxy_session_ends_total", &[]), 0.0);
    assert_eq!(running.value("srs_proxy_connections", &[("listener", "rtmp")]), 2.0);
    assert_eq!(running.value("srs_proxy_placements", &[]), 1.0);
    assert_eq!(running.value("srs_proxy_origins", &[("state", "live")]), 1.0);
    assert_eq!(running.value("srs_proxy_origin_streams", &[("bound", "max")]), 1.0);
    for intent in ["publish", "play"] {
        assert_eq!(running.value("srs_proxy_places_total", &[("intent", intent), ("outcome", "ok")]), 1.0);
        assert_eq!(running.value("srs_proxy_place_seconds_count", &[("intent", intent)]), 1.0);
    }
    let rtmp_ok = [("protocol", "rtmp"), ("outcome", "ok")];
    assert_eq!(running.value("srs_proxy_origin_connects_total", &rtmp_ok), 2.0);
    assert_eq!(running.value("srs_proxy_origin_requests_total", &rtmp_ok), 2.0);
    assert_eq!(running.value("srs_proxy_origin_connect_seconds_count", &[("protocol", "rtmp")]), 2.0);
    assert_eq!(running.value("srs_proxy_origin_reports_total", &[("seen", "reached")]), 2.0);

    let bytes = |scrape: &Scrape, role: &str, direction: &str| {
        let labels = [("protocol", "rtmp"), ("role", role), ("direction", direction)];
        scrape.value("srs_proxy_session_bytes_total", &labels)
    };
    let payload = vec![7; 50_000];
    publisher.send(video(0, 1), &payload).await;
    origin.next_of(9).await;
    players_origin.send(audio(0, 1), &payload).await;
    player.next_of(8).await;
    let moved = scrape_until(&node, "the bytes are counted", |scrape| {
        bytes(scrape, "publish", "from_client") - bytes(&running, "publish", "from_client") >= 50_000.0
            && bytes(scrape, "play", "from_origin") - bytes(&running, "play", "from_origin") >= 50_000.0
    })
    .await;
    assert!(bytes(&moved, "play", "from_client") < 10_000.0, "{moved:?}");

    drop((publisher, player));
    let ended = scrape_until(&node, "the sessions have ended", |scrape| {
        scrape.sum("srs_proxy_sessions", &[]) == 0.0 && scrape.sum("srs_proxy_connections", &[]) == 0.0
    })
    .await;
    assert_eq!(ended.went_back(&moved), [""; 0]);
    assert!(bytes(&ended, "publish", "from_client") >= bytes(&moved, "publish", "from_client"));
    let client_closed = [("protocol", "rtmp"), ("side", "client"), ("kind", "closed")];
    assert_eq!(ended.value("srs_proxy_session_ends_total", &client_closed), 2.0);
    assert_eq!(ended.sum("srs_proxy_session_ends_total", &[]), 2.0);
    assert_eq!(ended.sum("srs_proxy_sessions_started_total", &[]), 2.0);
    assert_eq!(ended.series(), before.series(), "sessions add no series");
}

#[tokio::test]
async fn a_client_that_never_says_what_it_wants_counts_as_unknown_once_it_has_ended() {
    let node = Node::start().await;
    let client = Peer::connect(node.address).await;
    let unknown = [("protocol", "rtmp"), ("role", "unknown")];
    let here = scrape_until(&node, "it is here", |scrape| scrape.value("srs_proxy_sessions", &unknown) == 1.0).await;
    assert_eq!(here.sum("srs_proxy_sessions_started_total", &[]), 0.0);
    assert_eq!(here.sum("srs_proxy_session_bytes_total", &[]), 0.0);
    drop(client);
    let gone = scrape_until(&node, "it is gone", |scrape| scrape.value("srs_proxy_sessions", &unknown) == 0.0).await;
    assert_eq!(gone.value("srs_proxy_sessions_started_total", &unknown), 1.0);
    let labels = [("protocol", "rtmp"), ("role", "unknown"), ("direction", "from_client")];
    assert!(gone.value("srs_proxy_session_bytes_total", &labels) >= 3073.0, "its handshake");
}

#[tokio::test]
async fn an_origin_that_refuses_is_counted_and_so_is_the_one_that_takes_its_place() {
    let node = Node::start().await;
    let (dead, dead_address) = listen().await;
    drop(dead);
    let (listener, address) = listen().await;
    node.register("dead", dead_address, "").await;
    node.register("live", address, "").await;
    // If chance picks the live one first, it is the one with more streams for the next client.
    let mut kept = Vec::new();
    for name in ["a", "b"] {
        let (client, origin) =
            tokio::join!(Peer::ask(node.address, "publish", name), Peer::accept_started(&listener, 1));
        kept.push((client, origin));
    }
    let scrape = scrape(&node).await;
    assert_eq!(scrape.value("srs_proxy_failovers_total", &[("intent", "publish")]), 1.0);
    assert_eq!(scrape.value("srs_proxy_failovers_total", &[("intent", "play")]), 0.0);
    for name in ["srs_proxy_origin_connects_total", "srs_proxy_origin_requests_total"] {
        assert_eq!(scrape.value(name, &[("protocol", "rtmp"), ("outcome", "connect")]), 1.0, "{name}");
        assert_eq!(scrape.value(name, &[("protocol", "rtmp"), ("outcome", "ok")]), 2.0, "{name}");
    }
    assert_eq!(scrape.value("srs_proxy_origin_connect_seconds_count", &[("protocol", "rtmp")]), 2.0);
    assert_eq!(scrape.value("srs_proxy_origin_reports_total", &[("seen", "failed")]), 1.0);
    assert_eq!(scrape.value("srs_proxy_origins", &[("state", "suspect")]), 1.0);
    assert_eq!(scrape.value("srs_proxy_origins", &[("state", "live")]), 1.0);
}

#[tokio::test]
async fn a_client_for_whom_there_is_no_origin_is_counted() {
    let node = Node::start().await;
    let mut client = Peer::ask(node.address, "play", "s").await;
    client.until_closed().await;
    node.until_idle().await;
    let scrape = scrape(&node).await;
    assert_eq!(scrape.value("srs_proxy_places_total", &[("intent", "play"), ("outcome", "no_origin")]), 1.0);
    let labels = [("protocol", "rtmp"), ("side", "internal"), ("kind", "unavailable")];
    assert_eq!(scrape.value("srs_proxy_session_ends_total", &labels), 1.0);
    assert_eq!(scrape.sum("srs_proxy_origin_connects_total", &[]), 0.0);
}

#[tokio::test]
async fn connections_that_are_refused_are_counted_by_the_limit() {
    let node = Node::with(|rtmp, _| rtmp.max_connections_per_ip = 1).await;
    let _first = Peer::connect(node.address).await;
    let mut second = Peer::new(TcpStream::connect(node.address).await.unwrap(), 0);
    second.until_closed().await;
    let scrape = scrape(&node).await;
    assert_eq!(scrape.value("srs_proxy_connections_accepted_total", &[("listener", "rtmp")]), 1.0);
    let refused =
        |limit| scrape.value("srs_proxy_connections_refused_total", &[("listener", "rtmp"), ("limit", limit)]);
    assert_eq!((refused("address"), refused("total")), (1.0, 0.0));
}

#[tokio::test]
async fn a_session_whose_stream_moves_is_counted() {
    let node = Node::start().await;
    let (first, first_address) = listen().await;
    node.register("first", first_address, "").await;
    let (mut client, _origin) = tokio::join!(Peer::ask(node.address, "play", "s"), Peer::accept_started(&first, 1));
    client.expect_status().await;
    let (_second, second_address) = listen().await;
    node.register("second", second_address, "").await;
    let (stream, avoid) = (stream("s"), [scripted::origin("first", first_address, "").id()]);
    let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtmp, intent: Intent::Play, avoid: &avoid };
    let failed = srs_proxy::balancer::Reachability::Failed("test".into());
    node.balancer.report(&avoid[0], failed).await;
    node.balancer.place(request).await.unwrap();
    client.until_closed().await;
    let moved =
        scrape_until(&node, "it has ended", |scrape| scrape.sum("srs_proxy_session_ends_total", &[]) == 1.0).await;
    assert_eq!(moved.value("srs_proxy_session_moves_total", &[]), 1.0);
}

#[tokio::test]
async fn streams_and_peers_and_origins_add_no_series() {
    let node = Node::with(|_, _| {}).await;
    let before = scrape(&node).await.series();
    let limits = admission::Limits { max: 1000, max_per_ip: 0, settings: ["ALL", "ONE"] };
    let admission = Admission::new(limits, node.metrics.listener(Listener::Streams));
    let mut sessions = Vec::new();
    for n in 0..1000_u32 {
        let peer: SocketAddr = ([10, 1, (n / 250) as u8, (n % 250) as u8], 1024 + n as u16).into();
        assert!(admission.admit(peer.ip()).is_none());
        if n % 100 == 0 {
            node.register(&format!("origin-{n}"), ([10, 2, 0, (n / 100) as u8], 1935).into(), "").await;
        }
        let delivery = Delivery::ALL[n as usize % 4];
        let intent = if n % 2 == 0 { Intent::Publish } else { Intent::Play };
        let session = node.sessions.start(delivery, peer);
        let stream = stream(&format!("stream-{n}"));
        session.set_role(intent, stream.clone());
        session.set_bytes(1, 2);
        let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtmp, intent, avoid: &[] };
        let placement = node.context.balancer.place(request).await.unwrap();
        sessions.push((session, Lease::new(Arc::clone(&node.context.balancer), placement, intent)));
    }
    let during = scrape(&node).await;
    assert_eq!(during.series(), before);
    assert_eq!(during.sum("srs_proxy_sessions", &[]), 1000.0);
    assert_eq!(during.value("srs_proxy_placements", &[]), 1000.0);
    assert_eq!(
        during.value("srs_proxy_connections_refused_total", &[("listener", "streams"), ("limit", "address")]),
        1000.0
    );
    drop(sessions);
    let after = scrape(&node).await;
    assert_eq!(after.series(), before);
    assert_eq!(after.sum("srs_proxy_session_bytes_total", &[]), 3000.0);
    let complete = after.sum("srs_proxy_session_ends_total", &[("side", "none"), ("kind", "complete")]);
    assert_eq!(complete, 1000.0);
    let names = before.iter().flat_map(|(_, labels)| labels.keys().map(String::as_str));
    let allowed = [
        "balancer",
        "bound",
        "class",
        "direction",
        "intent",
        "kind",
        "le",
        "limit",
        "listener",
        "outcome",
        "part",
        "protocol",
        "reason",
        "role",
        "seen",
        "side",
        "state",
        "version",
    ];
    names.for_each(|name| assert!(allowed.contains(&name), "{name}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counters_never_go_back_while_sessions_come_and_go_and_scrapes_overlap() {
    let node = Node::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let churn: Vec<_> = (0..2)
        .map(|worker| {
            let (sessions, stop): (Sessions, _) = (node.sessions.clone(), Arc::clone(&stop));
            tokio::task::spawn_blocking(move || {
                let mut count = 0_u64;
                while !stop.load(Relaxed) {
                    let delivery = Delivery::ALL[count as usize % Delivery::ALL.len()];
                    let session = sessions.start(delivery, ([127, 0, 0, 1], worker).into());
                    session.set_bytes(10, 0);
                    if !count.is_multiple_of(3) {
                        session.set_role(if count % 3 == 1 { Intent::Publish } else { Intent::Play }, stream("s"));
                    }
                    session.set_bytes(10, 90);
                    if count.is_multiple_of(2) {
                        session.set_end(&Error::client(Kind::Closed, "test"));
                    }
                    count += 1;
                }
                count
            })
        })
        .collect();
    let scrapes: Vec<_> = (0..4)
        .map(|_| {
            let sources = node.sources();
            tokio::spawn(async move {
                let mut last = Scrape::read(&sources.scrape().await.unwrap());
                for _ in 0..25 {
                    let next = Scrape::read(&within(sources.scrape()).await.unwrap());
                    assert_eq!(next.went_back(&last), [""; 0]);
                    last = next;
                }
            })
        })
        .collect();
    for scrapes in scrapes {
        scrapes.await.unwrap();
    }
    stop.store(true, Relaxed);
    let mut sessions = 0;
    for churn in churn {
        sessions += churn.await.unwrap();
    }
    let scrape = scrape(&node).await;
    assert_eq!(scrape.sum("srs_proxy_sessions_started_total", &[]), sessions as f64);
    assert_eq!(scrape.sum("srs_proxy_session_ends_total", &[]), sessions as f64);
    assert_eq!(scrape.sum("srs_proxy_session_bytes_total", &[]), (sessions * 100) as f64);
}

#[tokio::test]
async fn what_the_server_of_http_streams_counts_is_told() {
    let node = Node::start().await;
    let http = node.metrics.http();
    http.playlist(Playlist::Rewritten);
    http.playlist(Playlist::TooLarge);
    http.retried();
    http.piece(Delivery::Hls, 300, 1_000_000);
    let session = node.sessions.start(Delivery::Hls, ([127, 0, 0, 1], 1).into());
    session.set_role(Intent::Play, stream("s"));
    session.set_bytes(0, 5);
    let scrape = scrape(&node).await;
    let playlists = |outcome| scrape.value("srs_proxy_http_playlists_total", &[("outcome", outcome)]);
    assert_eq!((playlists("rewritten"), playlists("too_large"), playlists("invalid")), (1.0, 1.0, 0.0));
    assert_eq!(scrape.value("srs_proxy_http_retries_total", &[]), 1.0);
    let bytes = |direction| {
        let labels = [("protocol", "hls"), ("role", "play"), ("direction", direction)];
        scrape.value("srs_proxy_session_bytes_total", &labels)
    };
    assert_eq!((bytes("from_client"), bytes("from_origin")), (300.0, 1_000_005.0));
    let listeners = [&["rtmp"], HttpListener::VALUES, UdpListener::VALUES].concat();
    assert_eq!(listeners, Listener::VALUES, "listeners are called the same everywhere");
    assert_eq!(Limit::VALUES, ["total", "address"]);
}

#[test]
fn the_checker_of_these_tests_refuses_what_is_not_openmetrics() {
    let right = "# HELP a_bytes Help.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{l=\"x\\\"\\\\\\n\"} 1\n\
        # HELP h Help.\n# TYPE h histogram\nh_sum 1.5\nh_count 2\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\n\
        # HELP b Help.\n# TYPE b info\nb_info{v=\"1\"} 1\n# HELP g Help.\n# TYPE g gauge\ng -1\n# EOF\n";
    let read = Scrape::parse(right).unwrap();
    assert_eq!(read.value("a_bytes_total", &[("l", "x\"\\\n")]), 1.0);
    for (from, to) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF\n# EOF\n"),
        ("a_bytes_total", "a_bytes"),
        ("a_bytes_total{l=\"x\\\"\\\\\\n\"} 1\n", "a_bytes_total 1\na_bytes_total 1\n"),
        ("a_bytes_total{l=\"x\\\"\\\\\\n\"} 1\n", "a_bytes_total{l=\"a\"} 1\na_bytes_total{m=\"a\"} 1\n"),
        ("\\n\"} 1", "\\t\"} 1"),
        ("l=\"x", "l=\"x\"x"),
        ("l=\"x", "l=\"\",l=\"x"),
        ("l=\"x", "1=\"x"),
        ("\"} 1\n", "\"} -1\n"),
        ("\"} 1\n", "\"} 1 1\n"),
        ("\"} 1\n", "\"} one\n"),
        ("UNIT a_bytes bytes", "UNIT a_bytes seconds"),
        ("# HELP a_bytes Help.\n", ""),
        ("# TYPE a_bytes counter\n", ""),
        ("# TYPE a_bytes counter\n", "# TYPE a_bytes counter\n# TYPE a_bytes counter\n"),
        ("# HELP g Help.\n", "# HELP g Help.\n\n"),
        ("# TYPE g gauge\ng -1\n", "g -1\n# TYPE g gauge\n"),
        ("# HELP g Help.\n# TYPE g gauge\ng -1\n", "# HELP a_bytes Help.\n# TYPE a_bytes counter\na_bytes_total 1\n"),
        ("h_count 2", "h_count 3"),
        ("le=\"1.0\"} 1", "le=\"1.0\"} 3"),
        ("h_bucket{le=\"+Inf\"} 2\n", ""),
        ("le=\"1.0\"", "le=\"+Inf\""),
        ("h_sum 1.5\n", ""),
        ("b_info{v=\"1\"} 1", "b_info{v=\"1\"} 0"),
        ("g -1", "g  -1"),
    ] {
        let wrong = right.replacen(from, to, 1);
        assert_ne!(wrong, right, "{from}");
        assert!(Scrape::parse(&wrong).is_err(), "{from:?} -> {to:?}");
    }
}

#[tokio::test]
async fn the_gauge_of_connections_falls_when_they_end() {
    let node = Node::start().await;
    let admission = Admission::new(
        admission::Limits { max: 2, max_per_ip: 2, settings: ["ALL", "ONE"] },
        node.metrics.listener(Listener::Api),
    );
    let permits = [1, 2].map(|n| admission.admit([10, 0, 0, n].into()).unwrap());
    let open = |scrape: &Scrape| scrape.value("srs_proxy_connections", &[("listener", "api")]);
    assert_eq!(open(&scrape(&node).await), 2.0);
    drop(permits);
    assert_eq!(open(&scrape(&node).await), 0.0);
    until("nothing is left", || node.sessions.is_empty()).await;
}
