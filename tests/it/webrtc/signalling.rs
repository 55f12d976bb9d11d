//! Offers and answers of WebRTC through nodes, in front of origins that answer what a test tells them to.

use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::{body::Body, http::StatusCode, response::Response};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpListener};

use srs_proxy_test_support::api::{Asked, Origin};
use srs_proxy_test_support::raw_http::Answer;
use srs_proxy_test_support::webrtc_node::{Node, balancer, register};

const OFFER: &str = include_str!("../../fixtures/webrtc/chromium-publish.sdp");
const WHIP: &str = include_str!("../../fixtures/webrtc/srs-whip.http");
const PUBLISH: &str = include_str!("../../fixtures/webrtc/srs-publish.http");
const LOCATION: &str = "/rtc/v1/whip/?action=delete&token=l04b205je&app=live&stream=livestream&session=18dm5796:KkUC";
const LIMITS: [(&str, &str); 3] = [
    ("PROXY_WEBRTC_ANSWER_TIMEOUT", "300ms"),
    ("PROXY_ORIGIN_ANSWER_TIMEOUT", "300ms"),
    ("PROXY_ORIGIN_CONNECT_TIMEOUT", "2s"),
];

fn body(recorded: &str) -> &str {
    recorded.split_once("\r\n\r\n").unwrap().1
}

fn response(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(name.parse::<axum::http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    response
}

/// What SRS answers to an offer, and to whatever concerns a session.
fn srs(asked: &Asked) -> Response {
    match (asked.method.as_str(), asked.path()) {
        ("POST", "/rtc/v1/publish/" | "/rtc/v1/play/") => {
            response(200, &[("content-type", "application/json")], body(PUBLISH))
        }
        ("POST", _) => granted(LOCATION),
        _ => response(200, &[], ""),
    }
}

fn granted(location: &str) -> Response {
    let link = "<stun:stun.example>; rel=\"ice-server\"";
    let headers = [
        ("content-type", "application/sdp"),
        ("location", location),
        ("link", link),
        ("link", "<turn:turn.example>; rel=\"ice-server\""),
        ("etag", "\"abc\""),
        ("keep-alive", "timeout=5"),
        ("server", "SRS/7"),
    ];
    response(201, &headers, body(WHIP))
}

fn json_offer(url: &str) -> String {
    json!({"api": "http://x/rtc/v1/publish/", "streamurl": url, "sdp": OFFER}).to_string()
}

fn candidates(sdp: &str) -> Vec<String> {
    let lines = sdp.lines().filter_map(|line| line.strip_prefix("a=candidate:"));
    lines.map(|line| line.split(' ').skip(4).take(2).collect::<Vec<_>>().join(" ")).collect()
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).unwrap()
}

#[tokio::test]
async fn every_path_takes_its_offer_and_the_session_is_listed_until_it_is_deleted() {
    let origin = Origin::scripted("a", srs).await;
    let node = Node::before(&[&origin], &[]).await;
    for (path, role) in [
        ("/rtc/v1/whip/?app=live&stream=s", "publish"),
        ("/rtc/v1/whip?app=live&stream=s", "publish"),
        ("/rtc/v1/whip/?app=live&stream=s&action=play", "play"),
        ("/rtc/v1/whep/?app=live&stream=s", "play"),
        ("/rtc/v1/whep?app=live&stream=s", "play"),
        ("/rtc/v1/whip-play/?app=live&stream=s", "play"),
        ("/rtc/v1/publish/", "publish"),
        ("/rtc/v1/publish", "publish"),
        ("/rtc/v1/play/", "play"),
    ] {
        let json = path.contains("publish") || path.contains("/play");
        let offer = if json { json_offer("webrtc://127.0.0.1/live/s?token=1") } else { OFFER.to_owned() };
        let answer = node.post(path, offer).await;
        assert_eq!(answer.status, if json { 200 } else { 201 }, "{path}: {answer:?}");
        let sessions = node.until_sessions(1).await;
        assert_eq!(sessions[0]["stream"], "__defaultVhost__/live/s", "{path}");
        assert_eq!((&sessions[0]["intent"], &sessions[0]["origin"]), (&json!(role), &json!("a-run-1")), "{path}");

        let asked = origin.asked().pop().unwrap();
        let (target, query) = path.split_once('?').unwrap_or((path, ""));
        let with_slash = format!("{}/", target.trim_end_matches('/'));
        let expected = if query.is_empty() { with_slash } else { format!("{with_slash}?{query}") };
        assert_eq!(asked.line(), format!("POST {expected}"), "SRS would send it elsewhere without the slash");
        let location = if json {
            format!("/rtc/v1/whip/?app=live&stream=s&session={}", answer.json()["sessionid"].as_str().unwrap())
        } else {
            answer.header("location").unwrap().to_owned()
        };
        assert_eq!(node.request("DELETE", &location, "", "").await.status, 200);
        node.until_sessions(0).await;
    }
}

#[tokio::test]
async fn the_answer_reaches_the_client_with_this_nodes_address_and_everything_else_as_it_was() {
    let origin = Origin::scripted("a", srs).await;
    let node = Node::before(&[&origin], &[]).await;
    let answer = node.post("/rtc/v1/whip/?app=live&stream=livestream", OFFER).await;
    let ours = format!("127.0.0.1 {} typ host\r\n", node.media.port());
    let expected = body(WHIP)
        .replace(
            "a=candidate:0 1 udp 2130706431 192.0.2.10 28000 typ host generation 0\r\n",
            &format!("a=candidate:1 1 udp 2130706431 {ours}"),
        )
        .replace("a=candidate:1 1 tcp 2130706431 192.0.2.10 28000 typ host tcptype passive\r\n", "");
    assert_eq!(text(&answer), expected);
    assert_eq!(answer.header("content-type"), Some("application/sdp"));
    assert_eq!((answer.header("etag"), answer.header("server")), (Some("\"abc\""), Some("SRS/7")));
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "link").count(), 2);
    assert_eq!(answer.header("keep-alive"), None);
    assert_eq!(answer.header("access-control-expose-headers"), Some("*"));
    let location = answer.header("location").unwrap();
    assert_eq!(location, format!("{LOCATION}&sporigin={}&spsession=18dm5796%3AKkUC", tag(&origin)));

    let answer = node.post("/rtc/v1/play/", json_offer("webrtc://127.0.0.1/live/s2")).await;
    let (json, recorded) = (answer.json(), serde_json::from_str::<Value>(body(PUBLISH)).unwrap());
    for field in ["code", "server", "service", "pid", "sessionid"] {
        assert_eq!(json[field], recorded[field], "{field}");
    }
    let sdp = json["sdp"].as_str().unwrap();
    assert_eq!(candidates(sdp), vec![format!("127.0.0.1 {}", node.media.port()); 2]);
}

/// The tag that stands for an origin.
fn tag(origin: &Origin) -> String {
    origin.tagged("").trim_start_matches('.').to_owned()
}

#[tokio::test]
async fn the_request_reaches_the_origin_as_it_came_and_says_whose_it_is() {
    let origin = Origin::scripted("a", srs).await;
    let auth = ["PROXY_HTTP_API_AUTH_ENABLED", "PROXY_HTTP_API_AUTH_TYPE", "PROXY_HTTP_API_AUTH_TOKEN"];
    let settings: Vec<_> = auth.into_iter().zip(["on", "bearer", "s3cret"]).collect();
    let node = Node::before(&[&origin], &settings).await;
    let headers = "Host: live.example:1985\r\nContent-Type: application/sdp\r\nAuthorization: Bearer t0ken\r\n\
        X-Forwarded-For: 192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\nConnection: X-Private\r\nX-Private: 1\r\nX-Own: 2\r\n\
        Accept-Encoding: gzip\r\n";
    let target = "/rtc/v1/whip/?app=%6cive&stream=s&&sign=%2F+x==&secret";
    let answer = node.request("POST", target, headers, OFFER).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let asked = origin.asked().pop().unwrap();
    assert_eq!((asked.line(), asked.body.as_slice()), (format!("POST {target}"), OFFER.as_bytes()));
    for (name, value) in [
        ("host", Some("live.example:1985")),
        ("content-type", Some("application/sdp")),
        ("authorization", Some("Bearer t0ken")),
        ("x-forwarded-for", Some("192.0.2.7, 127.0.0.1")),
        ("x-real-ip", Some("127.0.0.1")),
        ("x-own", Some("2")),
        ("x-private", None),
        ("accept-encoding", None),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
    assert_eq!(node.sessions().await[0]["stream"], "live.example/live/s");
}

#[tokio::test]
async fn candidates_are_what_the_client_asks_for_then_what_is_configured_then_where_it_came_in() {
    let origin = Origin::scripted("a", srs).await;
    let configured = ("PROXY_WEBRTC_CANDIDATE", "198.51.100.1,nowhere.invalid,2001:db8::1");
    let everywhere = ("PROXY_WEBRTC_SERVER", "0.0.0.0:0");
    let node = Node::before(&[&origin], &[configured, everywhere]).await;
    let port = node.media.port();
    for (query, host, first, last) in [
        ("", "proxy.example", None, format!("127.0.0.1 {port}")),
        ("", "203.0.113.5:1985", None, format!("203.0.113.5 {port}")),
        ("", "[2001:db8::5]:1985", None, format!("2001:db8::5 {port}")),
        ("&eip=203.0.113.9", "x.example", Some(format!("203.0.113.9 {port}")), format!("127.0.0.1 {port}")),
        ("&eip=203.0.113.9:9000", "x.example", Some("203.0.113.9 9000".into()), format!("127.0.0.1 {port}")),
        (
            "&eip=&candidate=203.0.113.9%3A9000",
            "x.example",
            Some("203.0.113.9 9000".into()),
            format!("127.0.0.1 {port}"),
        ),
        ("&eip=elsewhere.example", "x.example", None, format!("127.0.0.1 {port}")),
    ] {
        let target = format!("/rtc/v1/whep/?stream=s{query}");
        let answer = node.request("POST", &target, &format!("Host: {host}\r\n"), OFFER).await;
        let middle = [format!("198.51.100.1 {port}"), format!("2001:db8::1 {port}")];
        let expected: Vec<_> = first.into_iter().chain(middle).chain([last]).collect();
        let found = candidates(&text(&answer));
        assert_eq!(found, [expected.clone(), expected].concat(), "{target} {host}");
    }
    // The listener has one address only, so the host leads nowhere else.
    let node = Node::before(&[&origin], &[]).await;
    let answer = node.request("POST", "/rtc/v1/whep/", "Host: 203.0.113.5\r\n", OFFER).await;
    assert_eq!(candidates(&text(&answer))[0], format!("127.0.0.1 {}", node.media.port()));
}

#[tokio::test]
async fn a_session_is_reached_at_its_origin_through_any_node_and_its_url_is_as_the_origin_gave_it() {
    let script = |asked: &Asked| match asked.method.as_str() {
        "POST" => granted("/rtc/v1/whip/x%2Fy?token=%2F+x&&session=18dm5796:KkUC"),
        "PATCH" => response(200, &[("content-type", "application/trickle-ice-sdpfrag"), ("etag", "\"2\"")], {
            "a=ice-ufrag:18dm5796\r\nm=audio 9 X 0\r\na=candidate:1 1 udp 1 10.0.0.1 1 typ host\r\n"
        }),
        "GET" | "HEAD" => response(418, &[("content-type", "text/plain"), ("etag", "\"1\"")], "state"),
        _ => response(204, &[("x-own", "1")], ""),
    };
    let (a, b) = (Origin::scripted("a", script).await, Origin::scripted("b", script).await);
    let balancer = balancer();
    register(&balancer, &a).await;
    register(&balancer, &b).await;
    let (one, two) = (Node::start(&balancer, &[]).await, Node::start(&balancer, &[]).await);
    let answer = one.post("/rtc/v1/whip/?app=live&stream=s", OFFER).await;
    let location = answer.header("location").unwrap().to_owned();
    let (holder, other) = if a.asked().is_empty() { (&b, &a) } else { (&a, &b) };
    let given = "/rtc/v1/whip/x%2Fy?token=%2F+x&&session=18dm5796:KkUC";

    let patch = "Content-Type: application/trickle-ice-sdpfrag\r\nIf-Match: \"abc\"\r\nAuthorization: Bearer t\r\n";
    let patched = two.request("PATCH", &location, patch, "a=ice-ufrag:KkUC\r\n").await;
    let asked = holder.asked().pop().unwrap();
    assert_eq!((asked.line(), asked.body.as_slice()), (format!("PATCH {given}"), b"a=ice-ufrag:KkUC\r\n".as_slice()));
    assert_eq!((asked.header("if-match"), asked.header("authorization")), (Some("\"abc\""), Some("Bearer t")));
    assert_eq!((patched.status, patched.header("etag")), (200, Some("\"2\"")));
    assert_eq!(candidates(&text(&patched)), [format!("127.0.0.1 {}", two.media.port())]);

    for node in [&one, &two] {
        let got = node.request("GET", &location, "", "").await;
        assert_eq!((got.status, text(&got).as_str(), got.header("etag")), (418, "state", Some("\"1\"")));
        assert_eq!(node.request("HEAD", &location, "", "").await.status, 418);
        let allowed = node.request("OPTIONS", &location, "", "").await;
        assert_eq!((allowed.status, allowed.header("x-own")), (204, Some("1")));
        assert_eq!(holder.lines().last().unwrap(), &format!("OPTIONS {given}"));
    }
    one.until_sessions(1).await;
    for node in [&two, &one] {
        let deleted = node.request("DELETE", &location, "", "").await;
        assert_eq!((deleted.status, deleted.header("x-own")), (204, Some("1")));
        assert_eq!(holder.lines().last().unwrap(), &format!("DELETE {given}"));
    }
    one.until_sessions(0).await;
    assert!(other.asked().is_empty(), "{:?}", other.lines());
}

#[tokio::test]
async fn a_session_ends_only_if_its_origin_grants_the_end() {
    let script = |asked: &Asked| if asked.method == "POST" { granted(LOCATION) } else { response(403, &[], "no") };
    let origin = Origin::scripted("a", script).await;
    let node = Node::before(&[&origin], &[]).await;
    let answer = node.post("/rtc/v1/whip/?app=live&stream=s", OFFER).await;
    let refused = node.request("DELETE", answer.header("location").unwrap(), "", "").await;
    assert_eq!((refused.status, text(&refused).as_str()), (403, "no"));
    assert_eq!(node.sessions().await.len(), 1);
}

#[tokio::test]
async fn a_url_that_the_client_made_itself_leads_to_the_origin_of_the_stream() {
    let (a, b) = (Origin::scripted("a", srs).await, Origin::scripted("b", srs).await);
    let node = Node::before(&[&a, &b], &[]).await;
    for n in 0..8 {
        node.post(&format!("/rtc/v1/whip/?app=live&stream=s{n}"), OFFER).await;
        let target = format!("/rtc/v1/whip/?app=live&stream=s{n}&session=18dm5796:KkUC&token=t");
        assert_eq!(node.request("DELETE", &target, "", "").await.status, 200);
        let lines = if a.lines().last().is_some_and(|line| line.ends_with(&target)) { a.lines() } else { b.lines() };
        let expected = [format!("POST /rtc/v1/whip/?app=live&stream=s{n}"), format!("DELETE {target}")];
        assert_eq!(lines[lines.len() - 2..], expected);
    }
}

#[tokio::test]
async fn what_leads_to_no_session_is_refused_and_no_origin_is_asked() {
    let origin = Origin::scripted("a", srs).await;
    let node = Node::before(&[&origin], &[]).await;
    let tag = tag(&origin);
    for (method, target, status) in [
        ("DELETE", "/rtc/v1/whip/?session=a:b&sporigin=0123456789&spsession=a:b".to_owned(), 404),
        ("DELETE", "/rtc/v1/whip/?sporigin=".to_owned(), 404),
        ("DELETE", format!("/rtc/v1/whip/../../../api/v1/clients/1?sporigin={tag}"), 400),
        ("DELETE", format!("/rtc/v1/whip/%2e%2e/%2e%2e/api/v1/clients/1?sporigin={tag}"), 400),
        ("DELETE", format!("/api/v1/clients/1/2?sporigin={tag}&spsession=a:b"), 404),
        ("GET", format!("/rtc/v1/nack/?sporigin={tag}"), 404),
        ("GET", "/rtc/v1/whip/".to_owned(), 405),
        ("GET", "/rtc/v1/publish/".to_owned(), 405),
        ("PUT", format!("/rtc/v1/whip/?sporigin={tag}"), 405),
        ("POST", format!("/rtc/v1/whip/x?sporigin={tag}"), 405),
    ] {
        let answer = node.request(method, &target, "", "").await;
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
    }
    assert!(origin.asked().is_empty(), "{:?}", origin.lines());
}

#[tokio::test]
async fn an_origins_refusal_reaches_the_client_as_it_is_and_leaves_no_session() {
    for (status, headers, body) in [
        (401, vec![("www-authenticate", "Bearer realm=\"a\"")], "who are you"),
        (403, vec![("content-type", "application/json")], "{\"code\":7}"),
        (409, vec![("retry-after", "5")], "busy"),
        (307, vec![("location", "https://other.example/whip")], ""),
        (500, vec![], ""),
    ] {
        let answered = headers.clone();
        let origin = Origin::scripted("a", move |_| response(status, &answered, body)).await;
        let node = Node::before(&[&origin], &[]).await;
        let answer = node.post("/rtc/v1/whip/?stream=s", OFFER).await;
        assert_eq!((answer.status, text(&answer).as_str()), (status, body));
        for (name, value) in headers {
            assert_eq!(answer.header(name), Some(value));
        }
        assert!(node.sessions().await.is_empty());
        assert_eq!(origin.asked().len(), 1);
    }
    let origin = Origin::fixed("a", 200, "{\"code\":400}").await;
    let node = Node::before(&[&origin], &[]).await;
    let answer = node.post("/rtc/v1/publish/", json_offer("webrtc://h/live/s")).await;
    assert_eq!((answer.status, text(&answer).as_str()), (200, "{\"code\":400}"));
    assert!(node.sessions().await.is_empty());
}

#[tokio::test]
async fn an_offer_goes_to_another_origin_where_one_does_not_answer() {
    let (dead, frozen) = (Origin::dead("a").await, Origin::frozen("b").await);
    let alive = Origin::scripted("c", srs).await;
    for silent in [&dead, &frozen] {
        let node = Node::before(&[silent, &alive], &LIMITS).await;
        for n in 0..4 {
            let answer = node.post(&format!("/rtc/v1/whip/?stream=s{n}"), OFFER).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        assert!(node.sessions().await.iter().all(|session| session["origin"] == "c-run-1"));
    }
}

#[tokio::test]
async fn a_bad_offer_is_refused_with_a_reason_and_no_origin_is_asked() {
    let origin = Origin::scripted("a", srs).await;
    let node = Node::before(&[&origin], &[]).await;
    let long = format!("{OFFER}a={}\r\n", "x".repeat(256 * 1024));
    for (target, body, status, reason) in [
        ("/rtc/v1/whip/", "", 400, "does not begin with v=0"),
        ("/rtc/v1/whip/", "v=0", 400, "no m= section"),
        ("/rtc/v1/whip/", "v=0\r\nm=audio 9 X 0\r\n", 400, "no a=ice-ufrag"),
        ("/rtc/v1/whip/?stream=%0A", OFFER, 400, "control character"),
        ("/rtc/v1/whep/", &long, 413, "larger than 262144 bytes"),
        ("/rtc/v1/play/", "v=0", 400, "no JSON object"),
        ("/rtc/v1/play/", "{\"streamurl\":\"webrtc://h/live/s\",\"sdp\":\"\"}", 400, "does not begin with v=0"),
        ("/rtc/v1/play/", "{\"streamurl\":\"webrtc://h/live\",\"sdp\":\"v=0\"}", 400, "names no stream"),
    ] {
        let answer = node.post(target, body).await;
        assert_eq!((answer.status, answer.error().contains(reason)), (status, true), "{target}: {answer:?}");
    }
    let answer = node.request("POST", "/rtc/v1/whip/", "Content-Type: image/png\r\n", OFFER).await;
    assert_eq!((answer.status, answer.error().contains("application/sdp")), (415, true), "{answer:?}");
    assert!(origin.asked().is_empty() && node.sessions().await.is_empty());
}

#[tokio::test]
async fn without_an_origin_the_client_is_told_to_come_back() {
    let only_rtmp = Origin::scripted("a", srs).await;
    let balancer = balancer();
    let node = Node::start(&balancer, &[]).await;
    let heartbeat = json!({
        "ip": "127.0.0.1", "server": "a", "service": "run", "pid": "1", "rtmp": ["1935"],
        "api": [only_rtmp.address.port().to_string()],
    });
    let heartbeat = srs_proxy::origin::Origin::from_heartbeat(heartbeat.to_string().as_bytes(), "SRS/7").unwrap();
    for registered in [false, true] {
        if registered {
            srs_proxy::balancer::Balancer::register(&*balancer, heartbeat.clone()).await.unwrap();
        }
        for (method, target) in [("POST", "/rtc/v1/whip/?stream=s"), ("DELETE", "/rtc/v1/whip/?stream=s")] {
            let answer = node.request(method, target, "", OFFER).await;
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")), "{answer:?}");
            assert!(answer.error().contains("no origin that serves rtc"), "{answer:?}");
        }
    }
    assert!(only_rtmp.asked().is_empty() && node.sessions().await.is_empty());
}

#[tokio::test]
async fn no_more_sessions_are_taken_than_there_may_be_until_one_has_ended() {
    let origin = Origin::scripted("a", srs).await;
    let node = Node::before(&[&origin], &[("PROXY_WEBRTC_MAX_SESSIONS", "1")]).await;
    let first = node.post("/rtc/v1/whip/?stream=a", OFFER).await;
    assert_eq!(first.status, 201);
    let refused = node.post("/rtc/v1/whip/?stream=b", OFFER).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")), "{refused:?}");
    assert!(refused.error().contains("no more WebRTC sessions"), "{refused:?}");
    assert_eq!(origin.asked().len(), 1, "the origin is not asked in vain");
    node.request("DELETE", first.header("location").unwrap(), "", "").await;
    node.until_sessions(0).await;
    assert_eq!(node.post("/rtc/v1/whip/?stream=b", OFFER).await.status, 201);
}

#[tokio::test]
async fn a_refused_offer_gives_its_place_back() {
    let origin = Origin::scripted("a", |_| response(403, &[], "")).await;
    let node = Node::before(&[&origin], &[("PROXY_WEBRTC_MAX_SESSIONS", "1")]).await;
    for _ in 0..3 {
        assert_eq!(node.post("/rtc/v1/whip/?stream=a", OFFER).await.status, 403);
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_is_a_bad_gateway_and_leaves_no_session() {
    let huge = "x".repeat(600 * 1024);
    for (target, answered, reason) in [
        ("/rtc/v1/whip/", "<html>", "does not begin with v=0"),
        ("/rtc/v1/whip/", "", "does not begin with v=0"),
        ("/rtc/v1/whip/", "v=0\r\nm=audio 9 X 0\r\n", "no a=ice-ufrag"),
        ("/rtc/v1/whip/", &huge, "larger than"),
        ("/rtc/v1/play/", "v=0", "no JSON"),
        ("/rtc/v1/play/", "{\"code\":0,\"sdp\":\"x\"}", "does not begin with v=0"),
    ] {
        let origin = Origin::fixed("a", 200, answered).await;
        let node = Node::before(&[&origin], &[]).await;
        let offer = if target.contains("play") { json_offer("webrtc://h/live/s") } else { OFFER.to_owned() };
        let answer = node.post(target, offer).await;
        assert_eq!((answer.status, answer.error().contains(reason)), (502, true), "{target}: {answer:?}");
        assert!(node.sessions().await.is_empty());
    }
}

/// Takes requests and closes the connection without an answer, as SRS does to refuse an offer.
async fn closing(name: &str) -> (Origin, Arc<Mutex<usize>>) {
    let origin = Origin::dead(name).await;
    let listener = TcpListener::bind(origin.address).await.unwrap();
    let asked: Arc<Mutex<usize>> = Arc::default();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 8192];
            if stream.read(&mut bytes).await.is_ok() {
                *seen.lock().unwrap() += 1;
            }
        }
    });
    (origin, asked)
}

#[tokio::test]
async fn an_origin_that_closes_without_an_answer_has_refused_and_no_other_is_asked() {
    let ((a, a_asked), (b, b_asked)) = (closing("a").await, closing("b").await);
    let node = Node::before(&[&a, &b], &LIMITS).await;
    let answer = node.post("/rtc/v1/whip/?stream=s", OFFER).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    answer.error();
    assert_eq!(*a_asked.lock().unwrap() + *b_asked.lock().unwrap(), 1);
    assert!(node.sessions().await.is_empty());
}

#[tokio::test]
async fn origins_that_cannot_be_reached_or_stay_silent_are_told_apart() {
    for (origin, status) in [(Origin::dead("a").await, 502), (Origin::frozen("a").await, 504)] {
        let node = Node::before(&[&origin], &LIMITS).await;
        let answer = node.post("/rtc/v1/whip/?stream=s", OFFER).await;
        assert_eq!(answer.status, status, "{answer:?}");
        answer.error();
        let target = format!("/rtc/v1/whip/?session=a:b&sporigin={}", tag(&origin));
        let deleted = node.request("DELETE", &target, "", "").await;
        assert_eq!(deleted.status, status, "{deleted:?}");
        assert!(node.sessions().await.is_empty());
    }
}

#[tokio::test]
async fn a_node_that_drains_takes_no_offers_and_still_ends_its_sessions() {
    let origin = Origin::scripted("a", srs).await;
    let node = Node::before(&[&origin], &[]).await;
    let first = node.post("/rtc/v1/whip/?stream=s", OFFER).await;
    node.shutdown.begin();
    node.shutdown.draining().cancelled().await;
    let refused = node.post("/rtc/v1/whip/?stream=t", OFFER).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")), "{refused:?}");
    assert_eq!(node.request("DELETE", first.header("location").unwrap(), "", "").await.status, 200);
}

#[tokio::test]
async fn browsers_may_offer_from_any_page_and_read_what_they_need() {
    let origin = Origin::scripted("a", srs).await;
    let node = Node::before(&[&origin], &[]).await;
    let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n";
    for (path, takes) in [
        ("/rtc/v1/whip/?stream=s", Some("application/sdp")),
        ("/rtc/v1/whep", Some("application/sdp")),
        ("/rtc/v1/play/", Some("application/json")),
        ("/rtc/v1/whip/?sporigin=0123456789&spsession=a", Some("application/sdp")),
        ("/rtc/v1/whip/x?sporigin=0123456789&spsession=a", None),
    ] {
        let answer = node.request("OPTIONS", path, preflight, "").await;
        assert_eq!((answer.status, answer.header("accept-post")), (204, takes), "{path}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let methods = answer.header("access-control-allow-methods").unwrap();
        assert!(["POST", "PATCH", "DELETE"].iter().all(|method| methods.contains(method)));
        assert!(answer.header("access-control-allow-headers").unwrap().contains("Authorization"));
    }
    assert!(origin.asked().is_empty());
    let answer = node.post("/rtc/v1/whip/?stream=s", OFFER).await;
    // The star stands for Location, Link and ETag: the page sends no cookies.
    for header in ["access-control-allow-origin", "access-control-expose-headers"] {
        assert_eq!(answer.headers.iter().filter(|(name, _)| name == header).count(), 1);
        assert_eq!(answer.header(header), Some("*"));
    }
}

/// Collects log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn tokens_are_neither_logged_nor_repeated_in_errors() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("srs_proxy=trace")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let granting = Origin::scripted("a", srs).await;
    let refusing = Origin::scripted("b", |_| response(403, &[], "no")).await;
    let garbled = Origin::scripted("c", |_| response(201, &[], "<html>")).await;
    let (dead, frozen) = (Origin::dead("d").await, Origin::frozen("e").await);
    let headers = "Authorization: Bearer s3cret\r\n";
    for origin in [&granting, &refusing, &garbled, &dead, &frozen] {
        let node = Node::before(&[origin], &LIMITS).await;
        for offer in [OFFER, "v=s3cret"] {
            let posts = [
                ("/rtc/v1/whip/?stream=s&token=s3cret", offer.to_owned()),
                ("/rtc/v1/play/?token=s3cret", json_offer("webrtc://h/live/s?token=s3cret")),
                ("/rtc/v1/play/", "{\"streamurl\":\"webrtc://h/live?token=s3cret\",\"sdp\":s3cret}".to_owned()),
            ];
            for (target, body) in posts {
                let answer = node.request("POST", target, headers, body).await;
                assert!(!format!("{:?}{}", answer.headers, text(&answer)).contains("s3cret"), "{answer:?}");
            }
        }
        let target = format!("/rtc/v1/whip/?token=s3cret&session=a:b&sporigin={}", tag(origin));
        let deleted = node.request("DELETE", &target, headers, "").await;
        assert!(!text(&deleted).contains("s3cret"), "{deleted:?}");
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("session ended") && !log.contains("s3cret"), "{log}");
}
