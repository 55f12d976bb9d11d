//! The system API over a real socket.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::json;
use srs_proxy::{
    balancer::{
        Balancer, BalancerError, Intent, OriginStatus, Page, PlaceRequest, Placement, PlacementStatus, Reachability,
    },
    config,
    origin::{Origin, OriginId},
    stream::StreamKey,
};
use tokio::sync::watch;

use srs_proxy_test_support::system::{HEARTBEAT, MINIMAL, REGISTER, Server, memory, settings};

const MIB: usize = 1024 * 1024;
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn the_heartbeat_of_a_real_srs_registers_it() {
    let server = Server::start().await;
    let answer = server.client().await.post(REGISTER, "User-Agent: SRS/7.0.18(Hang)\r\n", HEARTBEAT).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"code": 0, "pid": std::process::id().to_string()}));

    let mut listing = server.origins().await;
    let age = listing["origins"][0]["heartbeat_age_seconds"].take();
    assert!(age.as_f64().is_some_and(|age| (0.0..60.0).contains(&age)), "{age}");
    let cpu = listing["origins"][0]["cpu"].take();
    assert!((cpu.as_f64().unwrap() - 0.03).abs() < 0.0001, "{cpu}");
    let expected = json!({
        "code": 0, "total": 1, "start": 0, "count": 1,
        "origins": [{
            "id": "vid-548182a-w4cc4303-8789", "server_id": "vid-548182a", "service_id": "w4cc4303", "pid": "8789",
            "device_id": "origin1", "software": "SRS/7.0.18(Hang)", "ip": "10.98.0.2",
            "endpoints": {
                "rtmp": ["19351"], "http": ["8081"], "api": ["19851"],
                "srt": ["udp://0.0.0.0:10081"], "rtc": ["udp://0.0.0.0:8001"],
            },
            "state": "live", "suspect_reason": null, "heartbeat_age_seconds": null, "streams": 0, "cpu": null,
        }],
    });
    assert_eq!(listing, expected);
}

#[tokio::test]
async fn the_content_type_of_a_heartbeat_does_not_matter() {
    let server = Server::start().await;
    for headers in [
        "",
        "Content-Type: application/json\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: ?\r\n",
    ] {
        assert_eq!(server.client().await.post(REGISTER, headers, MINIMAL).await.status, 200, "{headers}");
    }
    let mut client = server.client().await;
    client.send(format!("POST {REGISTER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    for byte in MINIMAL.bytes() {
        client.send(format!("1\r\n{}\r\n", char::from(byte))).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_bad_heartbeat_is_refused_with_the_name_of_the_field_and_registers_nothing() {
    let server = Server::start().await;
    for (from, to, error) in [
        (r#""ip":"10.0.0.1","#, "", r#"field "ip" is missing"#),
        (r#""server":"a","#, "", r#"field "server" is missing"#),
        (r#""service":"b","#, "", r#"field "service" is missing"#),
        (r#""pid":"1","#, "", r#"field "pid" is missing"#),
        (r#","rtmp":["1935"]"#, "", r#"field "rtmp" is missing"#),
        (r#""pid":"1""#, r#""pid":1"#, r#"field "pid": expected a string"#),
        ("1935", "notaport", r#"field "rtmp": "notaport" is not an endpoint"#),
        ("1935", "0", r#"field "rtmp": "0" is not an endpoint"#),
        ("10.0.0.1", "0.0.0.0", r#"field "ip""#),
        (MINIMAL, "", "the body is not valid JSON"),
        (MINIMAL, "{", "the body is not valid JSON"),
        (MINIMAL, "null", "the body is not a JSON object"),
        (MINIMAL, "[]", "the body is not a JSON object"),
    ] {
        let body = MINIMAL.replace(from, to);
        let answer = server.register(&body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.error().starts_with(error), "{body}: {}", answer.error());
    }
    let mut not_text = MINIMAL.as_bytes().to_vec();
    not_text[8] = 0xff;
    assert_eq!(server.register(not_text).await.status, 400);
    let deep = "[".repeat(100_000);
    assert_eq!(server.register(deep).await.status, 400);
    assert_eq!(server.origins().await["total"], 0);
}

#[tokio::test]
async fn a_heartbeat_of_one_mebibyte_is_taken_and_a_larger_one_is_not() {
    let server = Server::start().await;
    let padded = |length: usize| format!("{MINIMAL}{}", " ".repeat(length - MINIMAL.len()));
    assert_eq!(server.register(padded(MIB)).await.status, 200);
    for length in [MIB + 1, 5 * MIB] {
        let answer = server.register(padded(length).replace("10.0.0.1", "10.0.0.2")).await;
        assert_eq!((answer.status, answer.error().contains("1048576 bytes")), (413, true));
    }

    // The same without a declared length.
    let mut client = server.client().await;
    client.send(format!("POST {REGISTER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    for _ in 0..=16 {
        client.send(format!("10000\r\n{}\r\n", " ".repeat(0x10000))).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 413);

    // Endless, or so it says.
    let mut client = server.client().await;
    client.send(format!("POST {REGISTER} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n")).await;
    assert_eq!(client.answer().await.status, 413);
    client.until_closed().await;

    // One who asks before he sends.
    let mut client = server.client().await;
    let expect = format!("Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", 2 * MIB);
    client.send(format!("POST {REGISTER} HTTP/1.1\r\nHost: x\r\n{expect}")).await;
    assert_eq!(client.answer().await.status, 413);
    assert_eq!(server.origins().await["total"], 1);
}

#[tokio::test]
async fn a_sender_that_never_stops_is_cut_off() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.send(format!("POST {REGISTER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let mut sent = 0;
    while client.send(&chunk).await {
        sent += 0x10000;
        assert!(sent < 512 * MIB, "the server reads for ever");
    }
    assert_eq!(server.origins().await["total"], 0);
}

#[tokio::test]
async fn without_the_token_nothing_is_registered_or_shown() {
    let server = Server::with_token("s3cret").await;
    for authorization in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer s3cretX\r\n",
        "Authorization: Basic s3cret\r\n",
        "Authorization: s3cret\r\n",
    ] {
        let answer = server.client().await.post(REGISTER, authorization, MINIMAL).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{authorization}");
        assert!(!answer.error().contains("s3cret"));
        for view in ["cluster", "origins", "streams", "sessions"] {
            let mut client = server.client().await;
            client.send(format!("GET /api/v1/proxy/{view} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n")).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{view}");
        }
    }
    assert!(server.balancer.origins().await.unwrap().is_empty());

    let answer = server.client().await.post(REGISTER, "Authorization: Bearer s3cret\r\n", MINIMAL).await;
    assert_eq!(answer.status, 200);
    let mut client = server.client().await;
    client.send("GET /api/v1/proxy/origins HTTP/1.1\r\nHost: x\r\nAuthorization: bearer s3cret\r\n\r\n").await;
    assert_eq!(client.answer().await.json()["total"], 1);
}

#[tokio::test]
async fn probes_need_no_token() {
    let server = Server::with_token("s3cret").await;
    for path in ["/healthz", "/readyz", "/api/v1/versions"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn an_origin_that_cannot_be_taken_is_told_so() {
    let server = Server::with(memory(1), None, settings(Duration::from_secs(30))).await;
    assert_eq!(server.register(MINIMAL).await.status, 200);
    let answer = server.register(MINIMAL.replace("10.0.0.1", "10.0.0.2").replace(r#""a""#, r#""z""#)).await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("PROXY_MAX_ORIGINS"), "{}", answer.error());
}

#[tokio::test]
async fn versions_are_where_srs_and_where_the_go_proxy_have_them() {
    let versions = Server::start().await.get("/api/v1/versions").await.json();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(versions["code"], 0);
    assert_eq!((&versions["version"], &versions["data"]["version"]), (&json!(version), &json!(version)));
    let data = &versions["data"];
    assert_eq!(format!("{}.{}.{}", data["major"], data["minor"], data["revision"]), version);
    assert!(versions["signature"].is_string());
}

#[tokio::test]
async fn a_node_that_starts_or_drains_is_healthy_but_not_ready() {
    let server = Server::start().await;
    assert_eq!(server.get("/readyz").await.json()["code"], 0);
    for (drains, told) in [(false, "starting"), (true, "draining")] {
        server.ready.send(false).unwrap();
        if drains {
            server.draining.cancel();
        }
        let answer = server.get("/readyz").await;
        assert_eq!(answer.status, 503);
        assert!(answer.error().contains(told), "{}", answer.error());
    }
    let health = server.get("/healthz").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));
    assert!(health.json()["uptime_seconds"].is_u64());
}

/// What nodes agree through is gone.
struct Broken;

fn gone<T>() -> Result<T, BalancerError> {
    Err(BalancerError::Unavailable("the store is gone".into()))
}

#[async_trait]
impl Balancer for Broken {
    async fn register(&self, _: Origin) -> Result<(), BalancerError> {
        gone()
    }
    async fn origins(&self) -> Result<Vec<OriginStatus>, BalancerError> {
        gone()
    }
    async fn report(&self, _: &OriginId, _: Reachability) {}
    async fn place(&self, _: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        gone()
    }
    fn acquire(&self, placement: &Placement, _: Intent) -> watch::Receiver<u64> {
        watch::channel(placement.epoch).1
    }
    fn release(&self, _: &StreamKey, _: Intent) {}
    async fn placements(&self, _: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        gone()
    }
    async fn put_ufrag(&self, _: &str, _: &StreamKey, _: Duration) -> Result<(), BalancerError> {
        gone()
    }
    async fn stream_of_ufrag(&self, _: &str) -> Result<Option<StreamKey>, BalancerError> {
        gone()
    }
    async fn ready(&self) -> Result<(), BalancerError> {
        gone()
    }
}

#[tokio::test]
async fn a_node_that_cannot_place_streams_says_why_and_stays_healthy() {
    let server = Server::with(Arc::new(Broken), None, settings(Duration::from_secs(30))).await;
    for path in ["/readyz", "/api/v1/proxy/origins", "/api/v1/proxy/streams"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.error().contains("the store is gone")), (503, true), "{path}");
    }
    assert_eq!(server.register(MINIMAL).await.status, 503);
    for path in ["/healthz", "/api/v1/proxy/sessions"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_errors_in_json() {
    let server = Server::start().await;
    for path in ["/", "/api/v1/srs", "/api/v1/srs/register/", "/api/v1/proxy/", "/healthz/x", "/%00"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        answer.error();
    }
    for (method, path, allowed) in [
        ("GET", REGISTER, "POST"),
        ("PUT", REGISTER, "POST"),
        ("POST", "/healthz", "GET,HEAD"),
        ("DELETE", "/api/v1/proxy/streams", "GET,HEAD"),
    ] {
        let mut client = server.client().await;
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
        answer.error();
    }
}

#[tokio::test]
async fn head_is_answered_like_get_but_without_a_body() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for path in ["/healthz", "/readyz", "/api/v1/versions", "/api/v1/proxy/origins"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let head = client.head().await.unwrap();
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(head.header("content-type"), Some("application/json"));
        assert_ne!(head.header("content-length"), Some("0"), "{path}");
        // On the same connection: had there been a body, this would be read as the answer.
        let get = client.get(path).await;
        assert_eq!(get.status, 200);
    }
}

#[tokio::test]
async fn slow_senders_are_cut_off_after_the_configured_time() {
    let server = Server::with(memory(100), None, settings(SHORT)).await;
    let started = std::time::Instant::now();
    let mut client = server.client().await;
    client.send(format!("POST {REGISTER} HTTP/1.1\r\nHo")).await;
    assert_eq!(client.dribble(b's').await, b"");
    assert!(started.elapsed() >= SHORT);

    let mut client = server.client().await;
    client.send(format!("POST {REGISTER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")).await;
    assert!(client.dribble(b' ').await.starts_with(b"HTTP/1.1 408 "));

    let mut client = server.client().await;
    client.send(format!("POST {REGISTER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5")).await;
    assert!(client.dribble(b'0').await.starts_with(b"HTTP/1.1 4"));
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn the_configured_number_of_connections_is_the_limit() {
    let limited = config::System { max_connections: 1, ..settings(Duration::from_secs(30)) };
    let server = Server::with(memory(100), None, limited).await;
    let mut client = server.client().await;
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(server.client().await.answer().await.status, 503);
    assert_eq!(client.get("/healthz").await.status, 200);
}
