//! The exporter over real sockets: who gets an answer, in which form, and that it comes in time. And
//! that what is written of the metrics is true.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::Value;
use srs_proxy::{
    app::App,
    balancer::{
        Balancer, BalancerError, Intent, OriginStatus, Page, PlaceRequest, Placement, PlacementStatus, Reachability,
    },
    config::{Config, load::load, sources::Sources},
    origin::{Origin, OriginId},
    shutdown::{Outcome, Shutdown},
    stream::StreamKey,
};
use srs_proxy_test_support::openmetrics::Scrape;
use srs_proxy_test_support::promql;
use srs_proxy_test_support::raw_http::{Answer, Client, LIMIT};
use srs_proxy_test_support::system::{MINIMAL, REGISTER, Server, memory, settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn read(answer: &Answer) -> Scrape {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(OPENMETRICS)));
    Scrape::read(std::str::from_utf8(&answer.body).unwrap())
}

/// A node that runs until it is dropped.
struct Node {
    http: SocketAddr,
    system: SocketAddr,
    exporter: SocketAddr,
    shutdown: Shutdown,
    run: JoinHandle<Outcome>,
}

fn config(settings: &[(&str, &str)]) -> Config {
    let none = BTreeMap::new();
    let listeners =
        ["RTMP_SERVER", "HTTP_SERVER", "HTTP_API", "SYSTEM_API", "EXPORTER_LISTEN", "WEBRTC_SERVER", "SRT_SERVER"]
            .map(|name| (format!("PROXY_{name}"), "127.0.0.1:0".to_owned()));
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let env: BTreeMap<_, _> = listeners.into_iter().chain(settings).collect();
    load(Sources { flags: &none, env: &env, dotenv: &none }).unwrap().config
}

impl Node {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let config = config(settings);
        let shutdown = Shutdown::new(config.drain.clone());
        let app = App::build(config).await.unwrap();
        let (http, system, exporter) = (app.http_addr(), app.system_addr(), app.exporter_addr().unwrap());
        let run = tokio::spawn(app.run(shutdown.clone()));
        let mut ready = shutdown.ready();
        timeout(LIMIT, ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
        Self { http, system, exporter, shutdown, run }
    }

    async fn get(&self, path: &str) -> Answer {
        Client::connect(self.exporter).await.get(path).await
    }

    async fn scrape(&self) -> Scrape {
        read(&self.get("/metrics").await)
    }

    async fn end(self) {
        self.shutdown.begin();
        assert_eq!(timeout(LIMIT, self.run).await.unwrap().unwrap(), Outcome::Clean);
    }
}

const MESH: [(&str, &str); 3] = [
    ("PROXY_LOAD_BALANCER_TYPE", "mesh"),
    ("PROXY_MESH_GOSSIP_LISTEN", "127.0.0.1:0"),
    ("PROXY_MESH_GRPC_LISTEN", "127.0.0.1:0"),
];

/// Nobody listens on this port, so that Redis is away.
async fn redis_that_is_away() -> Node {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port().to_string();
    drop(nobody);
    Node::start(&[("PROXY_LOAD_BALANCER_TYPE", "redis"), ("PROXY_REDIS_PORT", &port)]).await
}

/// A balancer that never answers.
#[derive(Default)]
struct Hanging {
    asked: AtomicUsize,
}

#[async_trait]
impl Balancer for Hanging {
    async fn register(&self, _: Origin) -> Result<(), BalancerError> {
        std::future::pending().await
    }

    async fn origins(&self) -> Result<Vec<OriginStatus>, BalancerError> {
        self.asked.fetch_add(1, Relaxed);
        std::future::pending().await
    }

    async fn report(&self, _: &OriginId, _: Reachability) {}

    async fn place(&self, _: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        std::future::pending().await
    }

    fn acquire(&self, _: &Placement, _: Intent) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn release(&self, _: &StreamKey, _: Intent) {}

    async fn placements(&self, _: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        std::future::pending().await
    }

    async fn put_ufrag(&self, _: &str, _: &StreamKey, _: Duration) -> Result<(), BalancerError> {
        std::future::pending().await
    }

    async fn stream_of_ufrag(&self, _: &str) -> Result<Option<StreamKey>, BalancerError> {
        std::future::pending().await
    }

    async fn ready(&self) -> Result<(), BalancerError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn every_balancer_gives_a_clean_answer_and_tells_what_it_is() {
    for (node, balancer, available) in [
        (Node::start(&[]).await, "memory", 1.0),
        (Node::start(&MESH).await, "mesh", 1.0),
        (redis_that_is_away().await, "redis", 0.0),
    ] {
        let scrape = node.scrape().await;
        let build = [("version", env!("CARGO_PKG_VERSION")), ("balancer", balancer)];
        assert_eq!(scrape.value("srs_proxy_build_info", &build), 1.0);
        assert_eq!(scrape.value("srs_proxy_balancer_available", &[]), available);
        assert_eq!(scrape.value("srs_proxy_ready", &[]), available);
        assert_eq!(scrape.value("srs_proxy_draining", &[]), 0.0);
        let names = scrape.names();
        assert_eq!(names.contains("srs_proxy_mesh_stable"), balancer == "mesh");
        assert_eq!(names.contains("srs_proxy_balancer_calls_total"), balancer != "memory");
        node.end().await;
    }
}

#[tokio::test]
async fn redis_that_is_away_is_told_by_what_is_missing_and_by_the_calls() {
    let node = redis_that_is_away().await;
    let scrape = node.scrape().await;
    assert_eq!(scrape.value("srs_proxy_scrape_incomplete", &[("part", "placements")]), 1.0);
    assert_eq!(scrape.value("srs_proxy_scrape_incomplete", &[("part", "ready")]), 0.0, "it says that it is not");
    assert!(!scrape.names().contains("srs_proxy_placements"));
    let calls = |outcome| scrape.value("srs_proxy_balancer_calls_total", &[("outcome", outcome)]);
    assert_eq!(calls("answered"), 0.0);
    let registered = Client::connect(node.system).await.post(REGISTER, "", MINIMAL).await;
    let after = node.scrape().await;
    let failed = |outcome| after.value("srs_proxy_balancer_calls_total", &[("outcome", outcome)]);
    assert!(failed("failed") + failed("late") >= 1.0, "{registered:?}");
    node.end().await;
}

#[tokio::test]
async fn the_exporter_serves_metrics_and_nothing_else_and_asks_for_no_token() {
    let node = Node::start(&[
        ("PROXY_HTTP_API_AUTH_ENABLED", "on"),
        ("PROXY_HTTP_API_AUTH_TYPE", "bearer"),
        ("PROXY_HTTP_API_AUTH_TOKEN", "s3cret"),
    ])
    .await;
    node.scrape().await;
    for path in ["/", "/healthz", "/api/v1/proxy/origins", "/metrics/", "/api/v1/versions"] {
        assert_eq!(node.get(path).await.status, 404, "{path}");
    }
    let answer = Client::connect(node.exporter).await.post("/metrics", "", "").await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.error(), "POST is not allowed for /metrics");

    let refused = Client::connect(node.system).await.get("/metrics").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    let mut client = Client::connect(node.system).await;
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer s3cret\r\n\r\n").await;
    read(&client.answer().await);
    node.end().await;
}

#[tokio::test]
async fn who_takes_only_the_older_format_gets_it() {
    let node = Node::start(&[]).await;
    let mut client = Client::connect(node.exporter).await;
    client.send("GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: text/plain\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(answer.body).unwrap();
    let lines: BTreeSet<_> = text.lines().collect();
    for line in [
        "# TYPE srs_proxy_sessions_started_total counter",
        "# TYPE srs_proxy_build_info gauge",
        "# TYPE srs_proxy_place_seconds histogram",
        "srs_proxy_ready 1",
    ] {
        assert!(lines.contains(line), "{line}");
    }
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    node.end().await;
}

#[tokio::test]
async fn a_draining_node_says_so() {
    let server = Server::start().await;
    server.draining.cancel();
    let scrape = read(&server.get("/metrics").await);
    assert_eq!(scrape.value("srs_proxy_draining", &[]), 1.0);
    assert_eq!(scrape.value("srs_proxy_ready", &[]), 0.0);
    assert_eq!(scrape.value("srs_proxy_balancer_available", &[]), 1.0);
}

#[tokio::test]
async fn requests_and_heartbeats_are_counted_by_what_became_of_them() {
    let server = Server::with_token("s3cret").await;
    let token = "Authorization: Bearer s3cret\r\n";
    for (body, headers, status) in [(MINIMAL, token, 200), (MINIMAL, "", 401), ("{}", token, 400)] {
        assert_eq!(server.client().await.post(REGISTER, headers, body).await.status, status);
    }
    for (path, status) in [("/healthz", 200), ("/nothing", 404), ("/metrics", 401)] {
        assert_eq!(server.get(path).await.status, status);
    }
    let mut client = server.client().await;
    client.send(format!("GET /metrics HTTP/1.1\r\nHost: test\r\n{token}\r\n")).await;
    let scrape = read(&client.answer().await);
    let requests = |class| scrape.value("srs_proxy_http_requests_total", &[("listener", "system"), ("class", class)]);
    // This scrape itself has not been answered yet.
    assert_eq!((requests("2xx"), requests("4xx"), requests("5xx")), (2.0, 4.0, 0.0));
    assert_eq!(scrape.value("srs_proxy_http_answer_seconds_count", &[("listener", "system")]), 6.0);
    for (outcome, count) in [("taken", 1.0), ("unauthorized", 1.0), ("invalid", 1.0), ("unavailable", 0.0)] {
        assert_eq!(scrape.value("srs_proxy_heartbeats_total", &[("outcome", outcome)]), count, "{outcome}");
    }
    assert_eq!(scrape.value("srs_proxy_origins", &[("state", "live")]), 1.0);
    assert_eq!(scrape.value("srs_proxy_connections_accepted_total", &[("listener", "system")]), 7.0);
}

#[tokio::test]
async fn an_origin_that_falls_silent_is_seen_by_its_age() {
    let server = Server::start().await;
    let age = async || {
        let scrape = read(&server.get("/metrics").await);
        scrape.value("srs_proxy_origin_heartbeat_age_seconds", &[("state", "live")])
    };
    assert_eq!(age().await, 0.0, "there is none");
    server.register(MINIMAL).await;
    let start = Instant::now();
    let first = age().await;
    let mut next = age().await;
    while next <= first {
        assert!(start.elapsed() < LIMIT);
        next = age().await;
    }
    assert!(next <= start.elapsed().as_secs_f64() + 1.0, "{next}");
}

#[tokio::test]
async fn a_balancer_that_hangs_costs_its_part_of_the_answer_and_two_seconds() {
    let balancer = Arc::new(Hanging::default());
    let server = Server::with(balancer.clone(), None, settings(LIMIT)).await;
    let start = Instant::now();
    // As many as are answered at once, and they do not wait for each other.
    let address = server.address;
    let waiting: Vec<_> =
        (0..8).map(|_| tokio::spawn(async move { Client::connect(address).await.get("/metrics").await })).collect();
    while balancer.asked.load(Relaxed) < waiting.len() {
        assert!(start.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = server.get("/metrics").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    assert_eq!(refused.error(), "too many scrapes at once");
    for answer in waiting {
        let scrape = read(&answer.await.unwrap());
        for (part, missing) in [("ready", 1.0), ("origins", 1.0), ("placements", 1.0), ("process", 0.0)] {
            assert_eq!(scrape.value("srs_proxy_scrape_incomplete", &[("part", part)]), missing, "{part}");
        }
        assert_eq!(scrape.value("srs_proxy_ready", &[]), 0.0);
        assert!(scrape.names().contains("srs_proxy_sessions") && !scrape.names().contains("srs_proxy_origins"));
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(read(&server.get("/metrics").await).value("srs_proxy_ready", &[]), 0.0, "the places are free again");
}

#[tokio::test]
async fn scrapes_that_overlap_are_all_answered() {
    let server = Server::with(memory(100), None, settings(LIMIT)).await;
    let address = server.address;
    let clients: Vec<_> = (0..6)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                for _ in 0..10 {
                    read(&client.get("/metrics").await);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// Answers every request on a connection of its own, by its path.
async fn origin(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap_or(0) > 0 {}
        let (kind, body) = match String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default() {
            path if path.contains(".m3u8") => ("application/vnd.apple.mpegurl", "#EXTM3U\n#EXTINF:1,\ns-0.ts\n".into()),
            path if path.contains(".ts") => ("video/mp2t", "t".repeat(5000)),
            _ => ("video/x-flv", "f".repeat(7000)),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
    }
}

#[tokio::test]
async fn streams_over_http_are_counted_whether_they_are_sessions_or_come_in_pieces() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let origin = tokio::spawn(origin(listener));
    let node = Node::start(&[]).await;
    let heartbeat =
        format!(r#"{{"ip":"127.0.0.1","server":"a","service":"b","pid":"1","rtmp":["{port}"],"http":["{port}"]}}"#);
    assert_eq!(Client::connect(node.system).await.post(REGISTER, "", heartbeat).await.status, 200);

    let mut client = Client::connect(node.http).await;
    let playlist = client.get("/live/s.m3u8").await;
    assert_eq!(playlist.status, 200, "{playlist:?}");
    let text = String::from_utf8(playlist.body).unwrap();
    let piece = text.lines().find(|line| line.starts_with("s-0.ts")).unwrap();
    assert_eq!(client.get(&format!("/live/{piece}")).await.body.len(), 5000);
    assert_eq!(Client::connect(node.http).await.get("/live/s.flv").await.body.len(), 7000);

    let bytes = |scrape: &Scrape, protocol| {
        let labels = [("protocol", protocol), ("role", "play"), ("direction", "from_origin")];
        scrape.value("srs_proxy_session_bytes_total", &labels)
    };
    let start = Instant::now();
    let mut scrape = node.scrape().await;
    while scrape.sum("srs_proxy_session_ends_total", &[]) == 0.0 || bytes(&scrape, "hls") < 5000.0 {
        assert!(start.elapsed() < LIMIT, "{scrape:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        scrape = node.scrape().await;
    }
    assert_eq!(bytes(&scrape, "hls"), 5000.0 + "#EXTM3U\n#EXTINF:1,\ns-0.ts\n".len() as f64);
    assert!((7000.0..8000.0).contains(&bytes(&scrape, "progressive")), "the header may be among them: {scrape:?}");
    assert_eq!(scrape.value("srs_proxy_http_playlists_total", &[("outcome", "rewritten")]), 1.0);
    let streams = [("listener", "streams"), ("class", "2xx")];
    assert_eq!(scrape.value("srs_proxy_http_requests_total", &streams), 3.0);
    let play = [("protocol", "progressive"), ("role", "play")];
    assert_eq!(scrape.value("srs_proxy_sessions_started_total", &play), 1.0);
    assert_eq!(scrape.value("srs_proxy_sessions", &play), 0.0);
    let over = [("protocol", "progressive"), ("side", "origin"), ("kind", "closed")];
    assert_eq!(scrape.value("srs_proxy_session_ends_total", &over), 1.0);
    assert_eq!(scrape.value("srs_proxy_origin_requests_total", &[("protocol", "http"), ("outcome", "ok")]), 3.0);
    node.end().await;
    origin.abort();
}

/// The metrics of all balancers, by the names that queries have.
async fn all() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut all = BTreeMap::new();
    for node in [Node::start(&MESH).await, Node::start(&[]).await] {
        for family in node.scrape().await.families {
            let name = match family.kind.as_str() {
                "counter" => format!("{}_total", family.name),
                "info" => format!("{}_info", family.name),
                _ => family.name.clone(),
            };
            assert!(!family.samples.is_empty(), "{name} is empty");
            let labels = family.samples[0].labels.keys().filter(|key| *key != "le").cloned().collect();
            all.insert(name, (family.kind, labels));
        }
        node.end().await;
    }
    all
}

#[tokio::test]
async fn the_documentation_names_every_metric_with_its_type_and_labels_and_no_other() {
    let mut documented = BTreeMap::new();
    for line in fs::read_to_string("docs/operate/metrics.md").unwrap().lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", name, kind, labels, meaning, ""] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels: BTreeSet<_> = labels.filter(|label| !label.is_empty()).collect();
        assert!(meaning.ends_with('.') || meaning.ends_with(')'), "{line}");
        assert_eq!(documented.insert(name.to_owned(), (kind.to_owned(), labels)), None, "{name} twice");
    }
    assert_eq!(documented, all().await);
}

/// Checks that a query names only series that there are.
fn check_query(query: &str, scrapes: &[Scrape]) {
    let selectors = promql::selectors(query);
    assert!(!selectors.is_empty(), "no metric in {query:?}");
    for selector in selectors {
        if selector.metric == "up" {
            continue;
        }
        let series: Vec<_> =
            scrapes.iter().flat_map(Scrape::samples).filter(|sample| sample.name == selector.metric).collect();
        assert!(!series.is_empty(), "no metric {:?} in {query:?}", selector.metric);
        for (label, value) in &selector.labels {
            if label == "job" || label == "instance" {
                continue;
            }
            for value in value.split('|') {
                let found = series.iter().any(|sample| sample.labels.get(label).is_some_and(|found| found == value));
                assert!(found, "no {}{{{label}={value:?}}}, in {query:?}", selector.metric);
            }
        }
        for label in &selector.by {
            let target = ["job", "instance", "le"].contains(&label.as_str());
            assert!(target || series.iter().any(|sample| sample.labels.contains_key(label)), "{label}: {query:?}");
        }
    }
}

async fn scrapes() -> Vec<Scrape> {
    let mut scrapes = Vec::new();
    for node in [Node::start(&MESH).await, Node::start(&[]).await] {
        scrapes.push(node.scrape().await);
        node.end().await;
    }
    scrapes
}

#[tokio::test]
async fn the_dashboard_asks_for_metrics_that_there_are() {
    let text = fs::read_to_string("deploy/grafana/srs-proxy.json").unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let scrapes = scrapes().await;
    let panels = dashboard["panels"].as_array().unwrap();
    let rows: Vec<_> = panels.iter().filter(|p| p["type"] == "row").map(|p| p["title"].as_str().unwrap()).collect();
    let expected = [
        "Overview",
        "Traffic",
        "Sessions",
        "Origins",
        "Placements",
        "Mesh",
        "HTTP",
        "WebRTC and SRT",
        "Errors",
        "Process",
    ];
    assert_eq!(rows, expected);
    let mut ids = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(panel["gridPos"]["x"].as_u64().unwrap() + panel["gridPos"]["w"].as_u64().unwrap() <= 24);
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            check_query(query, &scrapes);
            assert!(query.contains("job=~\"$job\",instance=~\"$instance\""), "{query}");
            shown.extend(promql::selectors(query).into_iter().map(|selector| selector.metric));
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
    // Whatever is counted can be seen.
    for name in all().await.keys() {
        let is_shown = shown.iter().any(|metric| metric == name || metric.strip_suffix("_bucket") == Some(name));
        assert!(is_shown, "{name} is on no panel");
    }
}

#[tokio::test]
async fn the_alerts_ask_for_metrics_that_there_are_and_say_what_to_do() {
    let text = fs::read_to_string("deploy/grafana/alerts.yml").unwrap();
    let rules: Value = serde_saphyr::from_str(&text).unwrap();
    let scrapes = scrapes().await;
    let mut names = BTreeSet::new();
    for group in rules["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            assert!(names.insert(name), "{name} twice");
            check_query(rule["expr"].as_str().unwrap(), &scrapes);
            for text in ["summary", "description", "runbook"] {
                assert!(rule["annotations"][text].as_str().is_some_and(|text| text.len() > 15), "{name}: {text}");
            }
            let severity = rule["labels"]["severity"].as_str().unwrap();
            assert!(["critical", "warning"].contains(&severity), "{name}");
        }
    }
    assert!(names.len() > 15, "{names:?}");
}
