//! What goes wrong costs the one that it went wrong for, and says why.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use srs_proxy::{
    balancer::{Balancer, Intent, OriginState, PlaceRequest, Reachability},
    codec::rtmp::{
        amf0::Value,
        handshake,
        message::{Header, kind},
    },
    origin::{OriginId, Protocol},
};
use srs_proxy_test_support::scripted::{Node, Peer, client_handshake, until, video, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A wait that a test configures, and one that it must stay well below.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(5);

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// An address where nobody listens.
async fn dead_address() -> SocketAddr {
    listen().await.local_addr().unwrap()
}

async fn node_and_origin() -> (Node, TcpListener) {
    let (node, listener) = (Node::start().await, listen().await);
    node.register("origin", listener.local_addr().unwrap(), "").await;
    (node, listener)
}

/// A session under way: the node, its client and its origin.
async fn session(what: &'static str) -> (Node, Peer, Peer) {
    let (node, listener) = node_and_origin().await;
    let (client, origin) = start(&node, listener, what).await;
    (node, client, origin)
}

async fn start(node: &Node, listener: TcpListener, what: &'static str) -> (Peer, Peer) {
    let origin = tokio::spawn(async move { Peer::accept_started(&listener, 1).await });
    let mut client = Peer::ask(node.address, what, "s").await;
    client.expect_status().await;
    (client, within(origin).await.unwrap())
}

/// Media still flows from the client to the origin.
async fn assert_flows(client: &mut Peer, origin: &mut Peer) {
    client.send(video(77, 1), b"still here").await;
    assert_eq!(origin.next_of(kind::VIDEO).await.1, b"still here");
}

async fn state(node: &Node, name: &str) -> OriginState {
    let origins = node.balancer.origins().await.unwrap();
    origins.iter().find(|o| o.origin.server_id == name).unwrap().state
}

// No origin, dead origins, frozen origins.

#[tokio::test]
async fn without_an_origin_the_client_is_told_and_closed() {
    let node = Node::start().await;
    for (what, code) in [("publish", "NetStream.Publish.Denied"), ("play", "NetStream.Play.StreamNotFound")] {
        let mut client = Peer::ask(node.address, what, "s").await;
        let (header, got) = client.expect_status().await;
        assert_eq!((header.stream_id, got.as_str()), (1, code));
        client.until_closed().await;
    }
}

#[tokio::test]
async fn a_dead_origin_is_skipped_within_the_same_request() {
    let (node, listener) = node_and_origin().await;
    node.register("dead", dead_address().await, "").await;
    let serving = tokio::spawn(async move {
        let mut peers = Vec::new();
        for _ in 0..15 {
            peers.push(Peer::accept_started(&listener, 1).await);
        }
        peers
    });
    for n in 0..15 {
        let mut client = Peer::ask(node.address, "play", &format!("s{n}")).await;
        assert_eq!(client.expect_status().await.1, "NetStream.Play.Start", "stream {n}");
    }
    within(serving).await.unwrap();
    assert_eq!(state(&node, "origin").await, OriginState::Live);
}

#[tokio::test]
async fn a_stream_whose_origin_dies_is_placed_anew_at_the_next_request() {
    let (node, first) = node_and_origin().await;
    let (client, origin) = start(&node, first, "publish").await;
    drop((client, origin));
    node.until_idle().await;

    let second = listen().await;
    node.register("second", second.local_addr().unwrap(), "").await;
    // The first no longer listens; the stream is still placed there.
    let (mut client, mut origin) = start(&node, second, "publish").await;
    assert_flows(&mut client, &mut origin).await;
    assert_eq!(state(&node, "origin").await, OriginState::Suspect);
}

#[tokio::test]
async fn an_origin_that_accepts_and_never_answers_counts_as_dead() {
    let node = Node::with(|_, upstream| upstream.answer_timeout = SHORT).await;
    let frozen = listen().await;
    node.register("frozen", frozen.local_addr().unwrap(), "").await;
    let id = OriginId::from("frozen-service-1");
    // Placed on the frozen one, before there is another.
    let mut client = Peer::ask(node.address, "play", "s").await;
    assert_eq!(client.expect_status().await.1, "NetStream.Play.StreamNotFound");
    assert_eq!(state(&node, "frozen").await, OriginState::Suspect);

    let healthy = listen().await;
    node.register("healthy", healthy.local_addr().unwrap(), "").await;
    let start_time = Instant::now();
    let (_client, _origin) = start(&node, healthy, "play").await;
    assert!(start_time.elapsed() < SHORT, "a suspect origin is not asked again");
    node.balancer.report(&id, Reachability::Reached).await;
    assert_eq!(state(&node, "frozen").await, OriginState::Live);
}

#[tokio::test]
async fn an_origin_that_freezes_behind_the_handshake_counts_as_dead() {
    let node = Node::with(|_, upstream| upstream.answer_timeout = SHORT).await;
    let frozen = listen().await;
    node.register("frozen", frozen.local_addr().unwrap(), "").await;
    let handshake = tokio::spawn(async move { Peer::accept(&frozen).await });
    let mut client = Peer::ask(node.address, "publish", "s").await;
    assert_eq!(client.expect_status().await.1, "NetStream.Publish.Denied");
    within(handshake).await.unwrap();
    assert_eq!(state(&node, "frozen").await, OriginState::Suspect);
}

#[tokio::test]
async fn an_origin_that_is_too_slow_for_one_more_connection_keeps_the_streams_that_it_serves() {
    let node = Node::with(|_, upstream| upstream.answer_timeout = SHORT).await;
    let slow = listen().await;
    node.register("slow", slow.local_addr().unwrap(), "").await;
    let serving = tokio::spawn(async move {
        let player = Peer::accept_started(&slow, 1).await;
        (slow, player)
    });
    let mut player = Peer::ask(node.address, "play", "s").await;
    player.expect_status().await;
    // From here on it serves the player, and leaves new connections in its backlog.
    let (_slow, mut origin) = within(serving).await.unwrap();
    let media = tokio::spawn(async move {
        for n in 0.. {
            let mut bytes = Vec::new();
            video(n, 1).encode_message(b"frame", 128, &mut bytes);
            if origin.stream.write_all(&bytes).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let other = listen().await;
    node.register("other", other.local_addr().unwrap(), "").await;

    let mut second = Peer::ask(node.address, "play", "s").await;
    assert_eq!(second.expect_status().await.1, "NetStream.Play.StreamNotFound");
    assert_eq!(state(&node, "slow").await, OriginState::Live);
    player.next_of(kind::VIDEO).await;
    // A stream that nobody is on goes where there is an answer, wherever it was placed first.
    let fresh = tokio::spawn(async move { Peer::accept_started(&other, 1).await });
    let mut client = Peer::ask(node.address, "play", "fresh").await;
    assert_eq!(client.expect_status().await.1, "NetStream.Play.Start");
    within(fresh).await.unwrap();
    drop(player);
    within(media).await.unwrap();
}

#[tokio::test]
async fn a_suspect_origin_that_answers_again_is_used_again() {
    let (node, listener) = node_and_origin().await;
    let id = OriginId::from("origin-service-1");
    node.balancer.report(&id, Reachability::Failed("refused".into())).await;
    assert_eq!(state(&node, "origin").await, OriginState::Suspect);

    let stop = tokio_util::sync::CancellationToken::new();
    let probing = tokio::spawn(srs_proxy::server::rtmp::probe_suspects(node.context.clone(), stop.clone()));
    let mut probe = Peer::accept(&listener).await;
    probe.until_closed().await;
    let start = Instant::now();
    while state(&node, "origin").await == OriginState::Suspect {
        assert!(start.elapsed() < LONG);
        tokio::task::yield_now().await;
    }
    stop.cancel();
    within(probing).await.unwrap();
}

// What an origin says reaches the client.

#[tokio::test]
async fn an_origin_that_refuses_is_heard_in_its_own_words() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move {
        let (mut origin, _) = Peer::accept_stream(&listener, 1).await;
        origin.status(1, "error", "NetStream.Publish.BadName").await;
    });
    let mut client = Peer::ask(node.address, "publish", "s").await;
    let (_, command) = client.expect("onStatus").await;
    assert_eq!(command.info_text("code").as_deref(), Some("NetStream.Publish.BadName"));
    assert_eq!(command.info_text("description").as_deref(), Some("in the origin's words"));
    client.until_closed().await;
    within(origin).await.unwrap();
    assert_eq!(state(&node, "origin").await, OriginState::Live, "a refusal is no failure");
}

#[tokio::test]
async fn an_origin_that_refuses_connect_is_heard_in_its_own_words() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move {
        let mut origin = Peer::accept(&listener).await;
        origin.expect("connect").await;
        let info = Value::object([
            ("level", Value::string("error")),
            ("code", Value::string("NetConnection.Connect.Rejected")),
            ("description", Value::string("no such app")),
        ]);
        origin.command(0, "_error", 1.0, [Value::Null, info]).await;
    });
    let mut client = Peer::ask(node.address, "play", "s").await;
    let (_, command) = client.expect("onStatus").await;
    assert_eq!(command.info_text("code").as_deref(), Some("NetConnection.Connect.Rejected"));
    assert_eq!(command.info_text("description").as_deref(), Some("no such app"));
    client.until_closed().await;
    within(origin).await.unwrap();
    assert_eq!(state(&node, "origin").await, OriginState::Live, "a refusal is no failure");
}

#[tokio::test]
async fn an_origin_that_closes_without_a_word_does_not_leave_the_client_guessing() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move {
        drop(Peer::accept_stream(&listener, 1).await);
    });
    let mut client = Peer::ask(node.address, "publish", "s").await;
    assert_eq!(client.expect_status().await.1, "NetStream.Publish.Denied");
    client.until_closed().await;
    within(origin).await.unwrap();
}

#[tokio::test]
async fn what_an_origin_says_last_arrives_before_the_close() {
    let (_node, mut client, mut origin) = session("play").await;
    origin.send(video(1, 1), &vec![5; 60_000]).await;
    origin.status(1, "status", "NetStream.Play.UnpublishNotify").await;
    drop(origin);
    assert_eq!(client.next_of(kind::VIDEO).await.1.len(), 60_000);
    assert_eq!(client.expect_status().await.1, "NetStream.Play.UnpublishNotify");
    client.until_closed().await;
}

#[tokio::test]
async fn what_a_publisher_says_last_arrives_before_the_close() {
    let (_node, mut client, mut origin) = session("publish").await;
    client.send(video(1, 1), &vec![5; 60_000]).await;
    client.command(0, "FCUnpublish", 5.0, [Value::Null, Value::string("s")]).await;
    drop(client);
    assert_eq!(origin.next_of(kind::VIDEO).await.1.len(), 60_000);
    origin.expect("FCUnpublish").await;
    origin.until_closed().await;
}

// One side vanishes.

#[tokio::test]
async fn a_client_that_vanishes_is_gone_from_the_origin_within_a_second() {
    for what in ["publish", "play"] {
        let (node, client, mut origin) = session(what).await;
        let start = Instant::now();
        client.reset();
        origin.until_closed().await;
        assert!(start.elapsed() < Duration::from_secs(1));
        drop(origin);
        node.until_idle().await;
    }
}

#[tokio::test]
async fn an_origin_that_vanishes_ends_its_clients_within_a_second() {
    for what in ["publish", "play"] {
        let (node, mut client, origin) = session(what).await;
        let start = Instant::now();
        origin.reset();
        client.until_closed().await;
        assert!(start.elapsed() < Duration::from_secs(1));
        drop(client);
        node.until_idle().await;
    }
}

#[tokio::test]
async fn a_session_in_which_nothing_moves_ends() {
    let (node, listener) = (Node::with(|rtmp, _| rtmp.idle_timeout = SHORT).await, listen().await);
    node.register("origin", listener.local_addr().unwrap(), "").await;
    let (mut client, mut origin) = start(&node, listener, "play").await;
    client.until_closed().await;
    origin.until_closed().await;
}

#[tokio::test]
async fn an_origin_that_takes_no_bytes_any_more_ends_the_session_and_becomes_suspect() {
    let (node, listener) = (Node::with(|rtmp, _| rtmp.send_timeout = SHORT).await, listen().await);
    node.register("origin", listener.local_addr().unwrap(), "").await;
    let (mut client, _origin) = start(&node, listener, "publish").await;
    let sending = tokio::spawn(async move {
        let frame = vec![0; 1_000_000];
        let mut bytes = Vec::new();
        video(1, 1).encode_message(&frame, 128, &mut bytes);
        while client.stream.write_all(&bytes).await.is_ok() {}
    });
    within(sending).await.unwrap();
    node.until_idle().await;
    assert_eq!(state(&node, "origin").await, OriginState::Suspect);
}

#[tokio::test]
async fn a_player_that_takes_no_bytes_any_more_ends_alone() {
    let (node, listener) = (Node::with(|rtmp, _| rtmp.send_timeout = SHORT).await, listen().await);
    node.register("origin", listener.local_addr().unwrap(), "").await;
    let (_client, mut origin) = start(&node, listener, "play").await;
    let mut bytes = Vec::new();
    video(1, 1).encode_message(&vec![0; 1_000_000], 128, &mut bytes);
    within(async { while origin.stream.write_all(&bytes).await.is_ok() {} }).await;
    node.until_idle().await;
    assert_eq!(state(&node, "origin").await, OriginState::Live);
}

// Placement and shutdown.

#[tokio::test]
async fn a_session_whose_stream_has_moved_is_told_and_closed() {
    let (node, mut client, _origin) = session("publish").await;
    node.register("second", dead_address().await, "").await;
    let failed = OriginId::from("origin-service-1");
    node.balancer.report(&failed, Reachability::Failed("test".into())).await;
    let stream = node.sessions.page(srs_proxy::balancer::Page { start: 0, count: 1 }).0[0].role().unwrap().1.clone();
    let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtmp, intent: Intent::Play, avoid: &[] };
    assert_eq!(node.balancer.place(request).await.unwrap().origin.server_id, "second");
    let (_, command) = client.expect("onStatus").await;
    assert_eq!(command.info_text("code").as_deref(), Some("NetStream.Publish.Denied"));
    assert!(command.info_text("description").unwrap().contains("moved"));
    client.until_closed().await;
}

#[tokio::test]
async fn a_node_that_closes_its_sessions_tells_them() {
    let (node, mut client, mut origin) = session("play").await;
    // In the middle of a message: nothing can be said, but it still ends at once.
    let (other, listener) = node_and_origin().await;
    let (mut cut_client, mut cut_origin) = start(&other, listener, "play").await;
    let mut bytes = Vec::new();
    video(1, 1).encode_message(&[0; 100], 128, &mut bytes);
    cut_origin.stream.write_all(&bytes[..50]).await.unwrap();

    node.closing.cancel();
    assert_eq!(client.expect_status().await.1, "NetStream.Play.Stop");
    client.until_closed().await;
    origin.until_closed().await;
    other.closing.cancel();
    cut_client.until_closed().await;
    // Nor does a handshake go on.
    let mut late = TcpStream::connect(node.address).await.unwrap();
    assert_eq!(within(late.read(&mut [0])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_second_stream_on_one_connection_is_refused_and_the_first_goes_on() {
    let (_node, mut client, mut origin) = session("publish").await;
    for (what, code) in [("publish", "NetStream.Publish.Denied"), ("play", "NetStream.Play.Failed")] {
        client.command(1, what, 9.0, [Value::Null, Value::string("other")]).await;
        assert_eq!(client.expect_status().await.1, code);
    }
    assert_flows(&mut client, &mut origin).await;
    // The same one again is the origin's to judge.
    client.command(1, "publish", 10.0, [Value::Null, Value::string("s?again")]).await;
    assert_eq!(origin.expect("publish").await.1.transaction, 10.0);
}

// Bad input.

/// Sends `bytes` behind the handshake of a second client, and checks that only that one is closed.
async fn assert_costs_only_itself(bytes: &[u8]) {
    let (node, mut client, mut origin) = session("publish").await;
    let mut bad = client_handshake(node.address).await;
    // The proxy may close while the rest is still being written.
    let _ = bad.write_all(bytes).await;
    within(async { while bad.read(&mut [0; 4096]).await.unwrap_or(0) > 0 {} }).await;
    assert_flows(&mut client, &mut origin).await;
    until("only the good session is left", || node.sessions.len() == 1).await;
}

#[tokio::test]
async fn random_bytes_cost_only_their_own_connection() {
    let mut bytes = vec![0; 100_000];
    rand::fill(&mut bytes[..]);
    assert_costs_only_itself(&bytes).await;
}

#[tokio::test]
async fn a_command_that_declares_16_mb_costs_only_its_own_connection() {
    let mut bytes = Vec::new();
    Header { length: 0x00FF_FFFF, ..Header::command() }.encode_full(&mut bytes);
    assert_costs_only_itself(&bytes).await;
}

#[tokio::test]
async fn media_before_any_command_is_bounded() {
    let mut bytes = Vec::new();
    Header { length: 0x00FF_FFFF, ..video(0, 1) }.encode_full(&mut bytes);
    bytes.resize(200_000, 0xC6);
    assert_costs_only_itself(&bytes).await;
}

#[tokio::test]
async fn an_impossible_chunk_size_costs_only_its_own_connection() {
    for size in [0, 0x8000_0000u32] {
        let mut bytes = Vec::new();
        Header::control(kind::SET_CHUNK_SIZE).encode_message(&size.to_be_bytes(), 128, &mut bytes);
        assert_costs_only_itself(&bytes).await;
    }
}

#[tokio::test]
async fn amf_nested_1000_deep_costs_only_its_own_connection() {
    let mut payload = Vec::new();
    Value::string("connect").encode(&mut payload);
    Value::Number(1.0).encode(&mut payload);
    payload.extend([3, 0, 1, b'a'].repeat(1000));
    let mut bytes = Vec::new();
    Header::command().encode_message(&payload, 128, &mut bytes);
    assert_costs_only_itself(&bytes).await;
}

#[tokio::test]
async fn a_publish_before_connect_or_without_a_name_costs_only_its_own_connection() {
    let mut payload = Vec::new();
    for value in [Value::string("publish"), Value::Number(1.0), Value::Null, Value::string("s")] {
        value.encode(&mut payload);
    }
    let mut bytes = Vec::new();
    Header::status(1).encode_message(&payload, 128, &mut bytes);
    assert_costs_only_itself(&bytes).await;

    let node = Node::start().await;
    let mut client = Peer::ask(node.address, "publish", "").await;
    assert_eq!(client.expect_status().await.1, "NetStream.Publish.BadName");
    client.until_closed().await;
}

#[tokio::test]
async fn another_protocol_is_closed_at_its_first_byte() {
    let (node, mut client, mut origin) = session("publish").await;
    let mut http = TcpStream::connect(node.address).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(within(http.read(&mut [0])).await.unwrap_or(0), 0);
    assert_flows(&mut client, &mut origin).await;
}

#[tokio::test]
async fn garbage_in_the_middle_of_a_session_ends_that_session() {
    let (node, mut client, mut origin) = session("publish").await;
    client.stream.write_all(&[0xFF; 64]).await.unwrap();
    origin.until_closed().await;
    drop(origin);
    node.until_idle().await;
}

#[tokio::test]
async fn handshakes_that_are_never_finished_are_gone_after_the_timeout() {
    let node = Node::with(|rtmp, _| rtmp.handshake_timeout = SHORT).await;
    let mut halves = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(&handshake::hello(0, |_| {})[..n * 7]).await.unwrap();
        halves.push(stream);
    }
    node.until_idle().await;
    for mut stream in halves {
        within(async { while stream.read(&mut [0; 4096]).await.unwrap_or(0) > 0 {} }).await;
    }
}

#[tokio::test]
async fn a_client_that_never_says_what_it_wants_is_gone_after_the_timeout() {
    let node = Node::with(|rtmp, _| rtmp.command_timeout = SHORT).await;
    let mut silent = Peer::connect(node.address).await;
    silent.until_closed().await;
    let mut undecided = Peer::connect_app(node.address, "rtmp://x/live").await;
    undecided.until_closed().await;
    node.until_idle().await;
}

#[tokio::test]
async fn a_connect_flood_from_one_address_is_refused_and_sessions_go_on() {
    let (node, listener) = (Node::with(|rtmp, _| rtmp.max_connections_per_ip = 5).await, listen().await);
    node.register("origin", listener.local_addr().unwrap(), "").await;
    let (mut client, mut origin) = start(&node, listener, "publish").await;
    let mut flood = Vec::new();
    for _ in 0..50 {
        flood.push(TcpStream::connect(node.address).await.unwrap());
    }
    let mut refused = 0;
    for stream in &mut flood[4..] {
        refused += usize::from(within(stream.read(&mut [0])).await.unwrap_or(0) == 0);
    }
    assert_eq!(refused, 46);
    assert_flows(&mut client, &mut origin).await;
    drop(flood);
    until("the flood is over", || node.sessions.len() == 1).await;
    assert!(Peer::ask(node.address, "play", "x").await.received > 0);
}
