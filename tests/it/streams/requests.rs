//! What clients may ask the server of HTTP streams, and what it does about those that ask otherwise.

use std::time::Duration;

use srs_proxy_test_support::http_node::{Node, Origin, answer};

/// A request whose answer would come from the origin.
const GET: &str = "GET /live/stream.m3u8 HTTP/1.1\r\nHost: test\r\n";

#[tokio::test]
async fn pages_of_every_site_may_play() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    for path in ["/live/stream.m3u8", "/live/stream.flv", "/", "*"] {
        let request = format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: test\r\nOrigin: https://player.example\r\n\
             Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: range\r\n\r\n"
        );
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 204, "{path}: {answer:?}");
        for name in ["origin", "methods", "headers"] {
            assert_eq!(answer.header(&format!("access-control-allow-{name}")), Some("*"), "{path}: {answer:?}");
        }
        assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    }
    origin.assert_not_asked().await;
}

#[tokio::test]
async fn an_origin_that_says_which_pages_may_play_is_not_overruled() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking("/live/stream-0.ts?spstream=__defaultVhost__/live/stream", "").await;
    let (mut leg, _) = origin.request().await;
    leg.send(answer("200 OK", "Access-Control-Allow-Origin: https://a.example\r\n", "ts")).await;
    let answer = client.answer().await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(answer.header("access-control-allow-headers"), None);
}

#[tokio::test]
async fn streams_can_only_be_fetched() {
    let (node, origin) = Node::with_origin().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
        let mut client = node.client().await;
        client.send(format!("{method} /live/stream.flv HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{method}");
        assert!(!answer.error().is_empty());
    }
    let mut client = node.client().await;
    client.send("POST /live/stream.flv HTTP/1.1\r\nHost: test\r\nContent-Length: 30\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 405);
    client.send(format!("{GET}\r\n")).await;
    assert_eq!(client.until_closed().await, b"", "what follows a refused request is not looked at");
    origin.assert_not_asked().await;
}

/// A request of which two servers in a row could see different ends (RFC 9112, section 11.2), or that
/// breaks the rules by which the end is seen.
#[tokio::test]
async fn a_request_whose_end_is_doubtful_is_refused_and_its_connection_closed() {
    let (node, origin) = Node::with_origin().await;
    let hidden = format!("{GET}\r\n");
    let inside = hidden.len();
    for headers in [
        format!("Content-Length: {inside}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {inside}\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Content-Length: 0\r\nContent-Length: {inside}\r\n\r\n{hidden}"),
        format!("Content-Length: {inside}\r\nContent-Length: {inside}\r\n\r\n{hidden}"),
        format!("Content-Length: 0, {inside}\r\n\r\n{hidden}"),
        format!("Content-Length: +0\r\n\r\n{hidden}"),
        format!("Content-Length: -1\r\n\r\n{hidden}"),
        format!("Content-Length: 0x0\r\n\r\n{hidden}"),
        format!("Content-Length: {inside}\r\n\r\n{hidden}"),
        format!("Content-Length : 0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\nzz\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: gzip\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("X: 1\r\n Content-Length: {inside}\r\n\r\n{hidden}"),
        format!("X: 1\rContent-Length: {inside}\r\n\r\n{hidden}"),
        format!("X: 1\0\r\n\r\n{hidden}"),
        format!("X\r\n\r\n{hidden}"),
        format!(": 1\r\n\r\n{hidden}"),
    ] {
        for method in ["GET", "HEAD", "OPTIONS", "POST"] {
            let mut client = node.client().await;
            client.send(format!("{method} /live/stream.flv HTTP/1.1\r\nHost: test\r\n{headers}")).await;
            let head = client.head().await.unwrap_or_else(|| panic!("{method} {headers:?}: closed without an answer"));
            // A body with one length is no doubt, but its method is refused.
            let refused = head.status == 400 || method == "POST" && head.status == 405;
            assert!(refused, "{method} {headers:?}: {head:?}");
            assert_eq!(head.header("connection"), Some("close"), "{method} {headers:?}: {head:?}");
            let rest = client.until_closed().await;
            assert!(
                !rest.windows(5).any(|part| part == b"HTTP/"),
                "{method} {headers:?}: the hidden request is answered"
            );
        }
    }
    origin.assert_not_asked().await;
}

#[tokio::test]
async fn a_doubtful_request_line_is_refused() {
    let (node, origin) = Node::with_origin().await;
    for line in [
        "GET /live/stream.flv HTTP/2.0",
        "GET  /live/stream.flv  HTTP/1.1",
        "GET /live/stream.flv",
        "GET /live/stream.flv HTTP/1.1 HTTP/1.1",
        "GET /live/str\0eam.flv HTTP/1.1",
        "G\tET /live/stream.flv HTTP/1.1",
        "GET live/stream.flv HTTP/1.1",
    ] {
        let mut client = node.client().await;
        client.send(format!("{line}\r\nHost: test\r\n\r\n")).await;
        if let Some(head) = client.head().await {
            assert_eq!(head.status, 400, "{line:?}: {head:?}");
        }
        client.until_closed().await;
    }
    origin.assert_not_asked().await;
}

/// RFC 9112, section 2.2, lets a line end so; the origin must not be left to judge it again.
#[tokio::test]
async fn lines_without_carriage_returns_reach_the_origin_as_proper_lines_or_not_at_all() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    client.send("GET /live/stream.flv HTTP/1.1\nHost: test\nX: 1\n\n").await;
    let mut raw = origin.accept().await;
    let request = raw.raw_header().await;
    assert!(request.starts_with(b"GET /live/stream.flv HTTP/1.1\r\n"));
    let bare = request.windows(2).filter(|pair| pair[1] == b'\n' && pair[0] != b'\r').count();
    assert_eq!(bare, 0, "{}", String::from_utf8_lossy(&request));
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    let (node, origin) = Node::with_origin().await;
    for request in [
        format!("GET /live/stream.flv?{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(60_000)),
        format!("{GET}X: {}\r\n\r\n", "x".repeat(60_000)),
        format!("{GET}{}\r\n", "X: 1\r\n".repeat(1000)),
    ] {
        let mut client = node.client().await;
        client.send(&request).await;
        let head = client.head().await.expect("an answer");
        assert!(matches!(head.status, 414 | 431), "{head:?}");
        client.until_closed().await;
    }
    origin.assert_not_asked().await;
    let long = format!("/live/stream.flv?token={}", "x".repeat(8000));
    let _client = node.asking(&long, "").await;
    assert_eq!(origin.request().await.1.target(), long);
}

#[tokio::test]
async fn a_half_sent_header_is_not_waited_for_beyond_its_time() {
    let node = Node::with(|http, _| http.header_timeout = Duration::from_millis(300)).await;
    let origin = Origin::start().await;
    node.register(&origin).await;
    for part in ["", "GET /live/stream.flv HTT", GET] {
        let mut client = node.client().await;
        client.send(part).await;
        client.until_closed().await;
    }
    let mut client = node.client().await;
    client.send(format!("{GET}X: ")).await;
    client.dribble(b'x').await;
    origin.assert_not_asked().await;
}

#[tokio::test]
async fn a_kept_connection_that_asks_nothing_more_is_closed() {
    let node = Node::with(|http, _| http.keepalive_timeout = Duration::from_millis(300)).await;
    let mut client = node.client().await;
    assert_eq!(client.get("/live/stream.m3u8").await.status, 503);
    assert_eq!(client.until_closed().await, b"");
}

#[tokio::test]
async fn a_client_that_keeps_its_connection_is_told_of_the_drain() {
    let (node, origin) = Node::with_origin().await;
    let idle = node.client().await;
    let piece = "/live/stream-0.ts?spstream=__defaultVhost__/live/stream";
    let mut client = node.asking(piece, "").await;
    let (mut leg, _) = origin.request().await;
    leg.send(answer("200 OK", "", "one")).await;
    let first = client.answer().await;
    assert_eq!((first.status, first.header("connection")), (200, None));

    client.send(format!("GET {piece} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
    assert_eq!(leg.request().await.unwrap().target(), "/live/stream-0.ts");
    node.draining.cancel();
    let mut idle = idle;
    assert_eq!(idle.until_closed().await, b"");
    leg.send(answer("200 OK", "", "two")).await;
    let last = client.answer().await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(last.body, b"two");
    assert_eq!(client.until_closed().await, b"");
}

#[tokio::test]
async fn a_name_that_can_be_no_stream_is_told_apart_from_one_that_is_not_there() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    for path in ["/live/a.ts?spstream=nothing", "/live/a.ts?spstream=a/%ff/b", "/live/a.ts?spbhid=%2e%2e"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(!answer.error().is_empty());
    }
    for path in ["/", "/favicon.ico", "/live/stream", "/live/x.ts?spbhid=unknown"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert!(!answer.error().is_empty());
    }
    origin.assert_not_asked().await;
}
