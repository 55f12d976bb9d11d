//! Progressive streams (FLV, TS) over HTTP: what the origin sends is what the client gets, and what
//! happens when one of them goes away.

use std::time::{Duration, Instant};

use srs_proxy::{
    balancer::{Balancer, OriginState},
    codec::rtmp::handshake::{self, C0C1},
};
use srs_proxy_test_support::http_node::{Leg, Node, Origin, answer, chunk, refusing, text, unchunked, until};
use srs_proxy_test_support::raw_http::{Client, LIMIT};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const FLV: &str = "/live/stream.flv";
const STREAM: &str = "__defaultVhost__/live/stream";
const LIVE: &str = "HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nConnection: close\r\n\r\n";
const LIVE_CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A client that plays, and the origin's end of the stream: the first bytes have passed.
async fn playing(node: &Node, origin: &Origin) -> (Client, Leg) {
    let mut client = node.asking(FLV, "").await;
    let (mut leg, _) = origin.request().await;
    leg.send(LIVE).await;
    leg.send("FLV").await;
    assert_eq!(client.head().await.unwrap().status, 200);
    assert_eq!(client.bytes(3).await, b"FLV");
    (client, leg)
}

#[tokio::test]
async fn bytes_pass_as_they_arrive_and_the_answers_own_headers_with_them() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking(FLV, "").await;
    let (mut leg, _) = origin.request().await;
    let own = "HTTP/1.1 203 Whatever\r\nContent-Type: video/x-flv\r\nServer: SRS/7.0\r\nX-Own: 1\r\nX-Own: 2\r\n\
        Set-Cookie: a=b\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\n\r\n";
    leg.send(own).await;
    let head = client.head().await.unwrap();
    assert_eq!(head.status, 203);
    for (name, value) in [("content-type", "video/x-flv"), ("server", "SRS/7.0"), ("set-cookie", "a=b")] {
        assert_eq!(head.header(name), Some(value));
    }
    let own: Vec<_> = head.headers.iter().filter(|(name, _)| name == "x-own").map(|(_, value)| value).collect();
    assert_eq!(own, ["1", "2"]);
    for name in ["keep-alive", "x-hop", "transfer-encoding", "content-length"] {
        assert_eq!(head.header(name), None, "{name}");
    }
    assert_eq!(head.header("access-control-allow-origin"), Some("*"));
    for part in ["first", "second", "third"] {
        leg.send(part).await;
        assert_eq!(client.bytes(part.len()).await, part.as_bytes());
    }
    drop(leg);
    assert_eq!(client.until_closed().await, b"");
    node.until_sessions(0).await;
}

#[tokio::test]
async fn the_origin_gets_the_request_with_who_asks_and_where() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    let request = "GET /live/a%20b.flv?token=a%2Bb&empty=&flag HTTP/1.1\r\nHost: media.example:8080\r\n\
        User-Agent: player\r\nCookie: a=b\r\nX-Forwarded-For: 192.0.2.1\r\nTE: trailers\r\nConnection: TE, X-Hop\r\n\
        X-Hop: 1\r\n\r\n";
    client.send(request).await;
    let (_leg, request) = origin.request().await;
    assert_eq!(request.line, "GET /live/a%20b.flv?token=a%2Bb&empty=&flag HTTP/1.1");
    for (name, value) in [
        ("host", "media.example:8080"),
        ("user-agent", "player"),
        ("cookie", "a=b"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-for", "192.0.2.1, 127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "media.example:8080"),
    ] {
        assert_eq!(request.header(name), Some(value), "{request:?}");
    }
    for name in ["te", "x-hop", "transfer-encoding", "content-length"] {
        assert_eq!(request.header(name), None, "{request:?}");
    }
}

#[tokio::test]
async fn a_chunked_stream_that_ends_well_ends_well_for_the_client() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking(FLV, "").await;
    let (mut leg, _) = origin.request().await;
    leg.send(LIVE_CHUNKED).await;
    leg.send([chunk(b"one"), chunk(b"two"), b"0\r\n\r\n".to_vec()].concat()).await;
    let head = client.head().await.unwrap();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(head.header("content-length"), None);
    drop(leg);
    assert_eq!(unchunked(&client.until_closed().await).unwrap(), b"onetwo");
}

#[tokio::test]
async fn a_chunked_stream_that_breaks_off_is_not_made_to_look_whole() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking(FLV, "").await;
    let (mut leg, _) = origin.request().await;
    leg.send(LIVE_CHUNKED).await;
    leg.send(chunk(b"one")).await;
    client.head().await.unwrap();
    drop(leg);
    let rest = client.until_closed().await;
    assert_eq!(rest, chunk(b"one"));
    assert_eq!(unchunked(&rest), None);
}

#[tokio::test]
async fn a_stream_with_a_length_keeps_it() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking(FLV, "").await;
    let (mut leg, _) = origin.request().await;
    leg.send(answer("200 OK", "Content-Type: video/x-flv\r\n", "a recording")).await;
    let head = client.head().await.unwrap();
    assert_eq!(head.header("content-length"), Some("11"));
    assert_eq!(client.bytes(11).await, b"a recording");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_a_chunked_stream_without_chunks() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    client.send(format!("GET {FLV} HTTP/1.0\r\n\r\n")).await;
    let (mut leg, request) = origin.request().await;
    assert!(request.line.ends_with(" HTTP/1.1"), "{request:?}");
    assert_eq!(request.header("host"), Some(origin.address.to_string().as_str()));
    leg.send(LIVE_CHUNKED).await;
    leg.send(chunk(b"one")).await;
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("transfer-encoding")), (200, None));
    assert_eq!(client.bytes(3).await, b"one");
    leg.send([chunk(b"two"), b"0\r\n\r\n".to_vec()].concat()).await;
    assert_eq!(client.until_closed().await, b"two");
    node.until_sessions(0).await;
}

#[tokio::test]
async fn the_end_of_a_stream_is_the_end_of_the_connection_for_a_client_of_http_1_0() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    client.send(format!("GET {FLV} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")).await;
    let (mut leg, _) = origin.request().await;
    leg.send(LIVE).await;
    leg.send("one").await;
    client.head().await.unwrap();
    drop(leg);
    assert_eq!(client.until_closed().await, b"one");
}

#[tokio::test]
async fn a_head_is_asked_as_a_head_and_leaves_the_connection_open() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    client.send(format!("HEAD {FLV}?a=b HTTP/1.1\r\nHost: test\r\n\r\n")).await;
    let (mut leg, request) = origin.request().await;
    assert_eq!(request.line, format!("HEAD {FLV}?a=b HTTP/1.1"));
    leg.send("HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nContent-Length: 77\r\nConnection: close\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("video/x-flv")));
    assert_eq!(head.header("content-length"), Some("77"));
    node.until_sessions(0).await;
    drop(leg);
    client.send("OPTIONS / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 204);

    // Of a live stream nobody knows the length, which is not 0.
    client.send(format!("HEAD {FLV} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
    let (mut leg, _) = origin.request().await;
    leg.send(LIVE_CHUNKED).await;
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, None));
}

#[tokio::test]
async fn a_client_that_goes_away_takes_the_origins_leg_with_it() {
    let (node, origin) = Node::with_origin().await;
    let (client, mut leg) = playing(&node, &origin).await;
    assert_eq!(node.sessions.len(), 1);
    drop(client);
    leg.until_closed().await;
    node.until_sessions(0).await;

    // Whose stream had to be framed anew is no different.
    let mut client = node.client().await;
    client.send(format!("GET {FLV} HTTP/1.0\r\n\r\n")).await;
    let (mut leg, _) = origin.request().await;
    leg.send(LIVE_CHUNKED).await;
    client.head().await.unwrap();
    drop(client);
    leg.until_closed().await;
    node.until_sessions(0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_takes_the_origins_leg_with_it() {
    let (node, origin) = Node::with_origin().await;
    let client = node.asking(FLV, "").await;
    let (mut leg, _) = origin.request().await;
    drop(client);
    leg.until_closed().await;
    node.until_sessions(0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_origin_back_and_is_closed() {
    const MANY: usize = 256 * 1024 * 1024;
    for version in ["1.1", "1.0"] {
        let node = Node::with(|http, _| http.send_timeout = Duration::from_secs(1)).await;
        let origin = Origin::start().await;
        node.register(&origin).await;
        let mut client = node.client().await;
        client.send(format!("GET {FLV} HTTP/{version}\r\nHost: test\r\n\r\n")).await;
        let (mut leg, _) = origin.request().await;
        leg.send(LIVE_CHUNKED).await;
        client.head().await.unwrap();
        let taken = leg.flood(&chunk(&vec![7; 65_536]), MANY).await;
        // All that can be on its way is in the system's buffers and one of the node's.
        assert!(taken < MANY / 4, "HTTP/{version}: {taken} bytes were taken for a client that does not read");
        let start = Instant::now();
        node.until_sessions(0).await;
        assert!(start.elapsed() < LIMIT / 2, "HTTP/{version}: the client was kept for {:?}", start.elapsed());
        client.until_closed().await;
    }
}

#[tokio::test]
async fn an_origin_that_refuses_is_passed_over() {
    let (node, origin) = Node::with_origin().await;
    let (_socket, gone) = refusing();
    node.register_address(gone).await;
    // Whatever is placed first: of many streams some meet the one that is gone.
    for n in 0..10 {
        let mut client = node.asking(&format!("/live/stream-{n}.flv"), "").await;
        let (mut leg, request) = origin.request().await;
        assert_eq!(request.target(), format!("/live/stream-{n}.flv"));
        leg.send(LIVE).await;
        assert_eq!(client.head().await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_origin_that_still_takes_publishers_keeps_its_streams() {
    let node = Node::start().await;
    let (_socket, gone) = refusing();
    let rtmp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    node.register_addresses(gone, rtmp.local_addr().unwrap().port()).await;
    let placed = node.place(STREAM).await;
    let other = Origin::start().await;
    node.register(&other).await;
    let serving = tokio::spawn(async move {
        loop {
            let (mut client, _) = rtmp.accept().await.unwrap();
            let mut hello = [0; C0C1];
            client.read_exact(&mut hello).await.unwrap();
            let (answer, _) = handshake::answer(&hello, 0, |_| {}).unwrap();
            client.write_all(&answer[..]).await.unwrap();
        }
    });
    for path in [FLV, "/live/stream.m3u8", "/live/stream.flv"] {
        let answer = node.client().await.get(path).await;
        assert_eq!(answer.status, 502, "{path}: {answer:?}");
    }
    let still = node.place(STREAM).await;
    assert_eq!((still.origin.id(), still.epoch), (placed.origin.id(), placed.epoch));
    assert!(node.balancer.origins().await.unwrap().iter().all(|origin| origin.state == OriginState::Live));
    serving.abort();
}

#[tokio::test]
async fn if_no_origin_can_be_reached_the_answer_says_which_stream_and_why() {
    let node = Node::start().await;
    let sockets = [refusing(), refusing()];
    for (_, address) in &sockets {
        node.register_address(*address).await;
    }
    for path in [FLV, "/live/stream.m3u8", "/live/stream-0.ts?spstream=__defaultVhost__/live/stream"] {
        let answer = node.client().await.get(path).await;
        assert_eq!(answer.status, 502, "{path}: {answer:?}");
        assert_eq!(answer.json()["stream"], STREAM);
        assert!(answer.error().contains("connecting to 127.0.0.1:"), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    assert!(node.sessions.is_empty());
}

#[tokio::test]
async fn without_an_origin_the_client_is_told_when_to_come_back() {
    let node = Node::start().await;
    for path in [FLV, "/live/stream.m3u8", "/live/stream.mpd"] {
        let answer = node.client().await.get(path).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert_eq!(answer.json()["stream"], STREAM);
        assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    }
}

#[tokio::test]
async fn what_the_origin_refuses_is_answered_as_the_origin_did() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    for status in ["404 Not Found", "403 Forbidden", "500 Oh", "302 Found"] {
        client.send(format!("GET {FLV} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let (mut leg, _) = origin.request().await;
        leg.send(answer(status, "Content-Type: text/html\r\nLocation: /x\r\n", status)).await;
        let got = client.answer().await;
        assert_eq!(got.status.to_string(), status[..3]);
        assert_eq!(text(&got), status);
        assert_eq!((got.header("content-type"), got.header("location")), (Some("text/html"), Some("/x")));
    }
    assert!(node.sessions.is_empty());
}

#[tokio::test]
async fn an_origin_that_breaks_off_before_its_answer_is_asked_once_more() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking(FLV, "").await;
    drop(origin.request().await);
    let (mut leg, _) = origin.request().await;
    leg.send(LIVE).await;
    assert_eq!(client.head().await.unwrap().status, 200);

    let mut client = node.asking(FLV, "").await;
    drop(origin.request().await);
    drop(origin.request().await);
    let answer = client.answer().await;
    assert_eq!((answer.status, &answer.json()["stream"]), (502, &STREAM.into()));
}

#[tokio::test]
async fn an_origin_that_does_not_speak_http_is_a_bad_gateway() {
    let (node, origin) = Node::with_origin().await;
    for nonsense in [&b"\x03\0\0\0\0\0\0"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"] {
        let mut client = node.asking(FLV, "").await;
        let (mut leg, _) = origin.request().await;
        leg.send(nonsense).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, &answer.json()["stream"]), (502, &STREAM.into()));
    }
}

#[tokio::test]
async fn an_origin_that_never_answers_is_a_gateway_timeout() {
    let node = Node::with(|http, _| http.answer_timeout = Duration::from_millis(300)).await;
    let origin = Origin::start().await;
    node.register(&origin).await;
    let mut client = node.asking(FLV, "").await;
    let (mut leg, _) = origin.request().await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &answer.json()["stream"]), (504, &STREAM.into()));
    leg.until_closed().await;
}

#[tokio::test]
async fn a_stream_on_which_nothing_comes_any_more_ends() {
    for version in ["1.1", "1.0"] {
        let node = Node::with(|http, _| http.idle_timeout = Duration::from_millis(300)).await;
        let origin = Origin::start().await;
        node.register(&origin).await;
        let mut client = node.client().await;
        client.send(format!("GET {FLV} HTTP/{version}\r\nHost: test\r\n\r\n")).await;
        let (mut leg, _) = origin.request().await;
        leg.send(LIVE).await;
        client.head().await.unwrap();
        assert_eq!(client.until_closed().await, b"", "HTTP/{version}");
        leg.until_closed().await;
    }
}

#[tokio::test]
async fn a_stream_goes_on_through_the_grace_of_a_drain_and_no_longer() {
    let (node, origin) = Node::with_origin().await;
    let (mut client, mut leg) = playing(&node, &origin).await;
    node.draining.cancel();
    let refused = async || tokio::net::TcpStream::connect(node.address).await.is_err();
    let start = Instant::now();
    while !refused().await {
        assert!(start.elapsed() < LIMIT, "clients are still taken");
        tokio::task::yield_now().await;
    }
    leg.send("more").await;
    assert_eq!(client.bytes(4).await, b"more");

    node.closing.cancel();
    assert_eq!(client.until_closed().await, b"");
    leg.until_closed().await;
    until("the server has ended", || node.sessions.is_empty()).await;
}

#[tokio::test]
async fn a_hundred_players_of_one_stream_are_a_hundred_sessions_with_its_bytes() {
    let (node, origin) = Node::with_origin().await;
    let mut players = Vec::new();
    for _ in 0..100 {
        players.push(playing(&node, &origin).await);
    }
    assert_eq!(node.sessions.len(), 100);
    for (client, leg) in &mut players {
        leg.send(vec![7; 10_000]).await;
        client.some(10_000).await;
    }
    drop(players);
    node.until_sessions(0).await;
}
