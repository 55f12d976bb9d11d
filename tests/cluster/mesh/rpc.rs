//! Questions between nodes over gRPC on loopback: what is asked arrives, what is answered comes back,
//! and a peer that dies, restarts or is silent is told in time.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use srs_proxy::{
    balancer::{
        BalancerError,
        mesh::{
            link::{Membership, refusals::Refusal, server::Limits},
            model::member::Address,
            model::record::Stamp,
            traits::PeerClient,
            wire::MAX_ENTRIES,
            wire::message::{Cursor, Renewal, Request, Response},
        },
    },
    origin::Protocol,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use srs_proxy_test_support::mesh_rpc::{
    AT_ONCE, KEY, Node, PATIENT, SHORT, Scripted, ask, assert_refused, assert_unreachable, client, facts, keyed, open,
    place, placed, record, stream, wait_for_answer, wait_until,
};

/// Every kind of question with an answer to it.
fn dialogue() -> Vec<(Request, Response)> {
    let renewal = Renewal { stream: stream("a"), record: record(1), publishers: 1, players: 9 };
    let page = Response::Page {
        records: vec![(stream("a"), record(1)), (stream("a"), record(2))],
        origins: vec![(facts(), Duration::from_millis(1500))],
        min_epoch: 8,
        next: Some(Cursor::Origin("a-b-1".into())),
    };
    let no_origin = BalancerError::NoOrigin { protocol: Protocol::Srt, registered: 2 };
    let full = BalancerError::Full("PROXY_MAX_STREAMS".into());
    let held = Some(Address { node: "n9".into(), grpc: "n9.mesh:12027".into() });
    let elsewhere = Response::Redirect(Address { node: "n9".into(), grpc: "[::1]:12027".into() });
    let ttl = Duration::from_secs(120);
    vec![
        (place("a"), placed()),
        (place("a"), elsewhere),
        (place("a"), Response::Refused(no_origin)),
        (place("a"), Response::NotServing),
        (
            Request::Claim { stream: stream("a"), known: vec![record(1)] },
            Response::Claimed { known: vec![record(2)], min_epoch: 1, held: None },
        ),
        (
            Request::Claim { stream: stream("a"), known: vec![] },
            Response::Claimed { known: vec![], min_epoch: 0, held },
        ),
        (Request::RenewLeases(vec![renewal]), Response::Records(vec![(stream("a"), record(2))])),
        (Request::PushRecords { records: vec![(stream("a"), record(1))], adopt: true }, Response::Done),
        (Request::GetRecords(vec![stream("a"), stream("b")]), Response::Records(vec![])),
        (Request::Snapshot { after: None }, page),
        (Request::Snapshot { after: Some(Cursor::Stream(stream("a"))) }, Response::NotServing),
        (Request::PutUfrag { id: "ufrag".into(), stream: stream("a"), ttl }, Response::Done),
        (Request::PutUfrag { id: "ufrag".into(), stream: stream("a"), ttl }, Response::Refused(full)),
        (Request::StreamOfUfrag { id: "ufrag".into() }, Response::StreamOfUfrag(Some(stream("a")))),
        (Request::StreamOfUfrag { id: "none".into() }, Response::StreamOfUfrag(None)),
    ]
}

async fn every_question_is_answered(server: Membership, asking: Membership) {
    let node = Node::start(server).await;
    let client = client(asking.clone(), PATIENT);
    for (i, (request, response)) in dialogue().into_iter().enumerate() {
        *node.scripted.answer.lock().unwrap() = Some(response.clone());
        let clock = Stamp(u64::MAX - 1 - i as u64);
        let answer = client.call(&node.address, clock, request.clone()).await;
        assert_eq!(answer, Ok((Stamp(clock.0 + 1), response)));
        let asked = node.scripted.asked.lock().unwrap().pop();
        assert_eq!(asked, Some((asking.node.clone(), clock, request)));
    }
    node.stop().await;
}

#[tokio::test]
async fn every_question_is_asked_and_answered_in_the_open() {
    every_question_is_answered(open("n1"), open("n0")).await;
}

#[tokio::test]
async fn every_question_is_asked_and_answered_under_a_key() {
    every_question_is_answered(keyed("n1", KEY, None), keyed("n0", KEY, None)).await;
}

#[tokio::test]
async fn names_of_any_characters_arrive_as_they_are() {
    let names = |node: &str| Membership { cluster: "ä b%\u{1F980}".into(), ..open(node) };
    every_question_is_answered(names("Knoten 1/ß"), names("%00 :")).await;
}

#[tokio::test]
async fn a_batch_as_large_as_it_may_be_is_answered() {
    let node = Node::start(keyed("n1", KEY, None)).await;
    *node.scripted.answer.lock().unwrap() = Some(Response::Done);
    let client = client(keyed("n0", KEY, None), PATIENT);
    let records: Vec<_> = (0..MAX_ENTRIES).map(|i| (stream(&i.to_string()), record(1))).collect();
    let request = Request::PushRecords { records, adopt: false };
    assert_eq!(client.call(&node.address, Stamp(1), request).await, Ok((Stamp(2), Response::Done)));
}

#[tokio::test]
async fn a_dead_peer_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grpc = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = client(keyed("n0", KEY, None), PATIENT);
    let start = Instant::now();
    for _ in 0..20 {
        assert_unreachable(&ask(&client, &Address { node: "n1".into(), grpc: grpc.clone() }).await, "refused");
    }
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_address_that_is_none_is_unreachable() {
    let client = client(open("n0"), PATIENT);
    assert_unreachable(&ask(&client, &Address { node: "n1".into(), grpc: "nowhere".into() }).await, "");
}

#[tokio::test]
async fn a_peer_that_accepts_and_never_answers_is_unreachable_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = Address { node: "n1".into(), grpc: listener.local_addr().unwrap().to_string() };
    for membership in [open("n0"), keyed("n0", KEY, None)] {
        let client = client(membership, SHORT);
        let start = Instant::now();
        let mut calls = JoinSet::new();
        let client = Arc::new(client);
        for _ in 0..20 {
            let (client, silent) = (Arc::clone(&client), silent.clone());
            calls.spawn(async move { ask(&client, &silent).await });
        }
        while let Some(answer) = calls.join_next().await {
            assert_unreachable(&answer.unwrap(), "within 750ms");
        }
        assert!((SHORT..AT_ONCE).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_peer_that_thinks_for_too_long_is_unreachable_at_the_deadline_and_reached_later() {
    let node = Node::start_with(open("n1"), Scripted::gated(), Limits::default()).await;
    let client = client(open("n0"), SHORT);
    assert_unreachable(&ask(&client, &node.address).await, "no answer within 750ms");
    node.scripted.open();
    wait_for_answer(&client, &node.address).await;
}

#[tokio::test]
async fn a_call_that_takes_longer_than_the_server_allows_ends_there() {
    let limits = Limits { call: SHORT, ..Limits::default() };
    let node = Node::start_with(open("n1"), Scripted::gated(), limits).await;
    assert_unreachable(&ask(&client(open("n0"), PATIENT), &node.address).await, "the call took too long");
}

async fn a_restarted_peer_is_reached_at_the_next_call(server: Membership, asking: Membership) {
    let node = Node::start(server.clone()).await;
    let (address, socket) = (node.address.clone(), node.socket());
    let client = client(asking, PATIENT);
    assert_eq!(ask(&client, &address).await, Ok(placed()));
    node.stop().await;
    for _ in 0..5 {
        assert_unreachable(&ask(&client, &address).await, "");
    }
    let start = Instant::now();
    let node = Node::on(TcpListener::bind(socket).await.unwrap(), server, Scripted::default(), Limits::default());
    assert_eq!(ask(&client, &address).await, Ok(placed()));
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    node.stop().await;
}

#[tokio::test]
async fn a_restarted_peer_is_reached_at_the_next_call_in_the_open() {
    a_restarted_peer_is_reached_at_the_next_call(open("n1"), open("n0")).await;
}

#[tokio::test]
async fn a_restarted_peer_is_reached_at_the_next_call_under_a_key() {
    a_restarted_peer_is_reached_at_the_next_call(keyed("n1", KEY, None), keyed("n0", KEY, None)).await;
}

#[tokio::test]
async fn a_restart_between_two_calls_is_not_noticed() {
    let server = keyed("n1", KEY, None);
    let mut node = Node::start(server.clone()).await;
    let (address, socket) = (node.address.clone(), node.socket());
    let client = client(keyed("n0", KEY, None), PATIENT);
    for _ in 0..10 {
        assert_eq!(ask(&client, &address).await, Ok(placed()));
        node.stop().await;
        let listener = TcpListener::bind(socket).await.unwrap();
        node = Node::on(listener, server.clone(), Scripted::default(), Limits::default());
    }
    assert_eq!(ask(&client, &address).await, Ok(placed()));
}

#[tokio::test]
async fn a_key_is_changed_in_three_steps_without_a_failed_call() {
    let new: &[u8] = b"the next key of the cluster";
    let steps = [(KEY, None), (KEY, Some(new)), (new, Some(KEY)), (new, None)];
    let member = |node: &str, (key, previous): (&[u8], Option<&[u8]>)| keyed(node, key, previous);
    let mut nodes = Vec::new();
    for name in ["n0", "n1"] {
        nodes.push((Node::start(member(name, steps[0])).await, member(name, steps[0])));
    }
    for step in &steps[1..] {
        for i in 0..nodes.len() {
            let (old, _) = nodes.remove(i);
            let (name, socket) = (old.address.node.clone(), old.socket());
            old.stop().await;
            let listener = TcpListener::bind(socket).await.unwrap();
            let member = member(name.as_str(), *step);
            let node = Node::on(listener, member.clone(), Scripted::default(), Limits::default());
            nodes.insert(i, (node, member));
            for (_, asking) in &nodes {
                for (asked, _) in &nodes {
                    let answer = ask(&client(asking.clone(), PATIENT), &asked.address).await;
                    assert_eq!(answer, Ok(placed()), "{} asks {}", asking.node, asked.address);
                }
            }
        }
    }
    let old = client(keyed("n2", KEY, None), PATIENT);
    assert_refused(&ask(&old, &nodes[0].0.address).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_calls_at_once_share_one_connection() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let node = Node::start_with(keyed("n1", KEY, None), Scripted::gated(), limits).await;
    let client = Arc::new(client(keyed("n0", KEY, None), PATIENT));
    let mut calls = JoinSet::new();
    for i in 0..200 {
        let (client, to) = (Arc::clone(&client), node.address.clone());
        calls.spawn(async move { client.call(&to, Stamp(i), place(&i.to_string())).await });
    }
    wait_until(|| node.scripted.waiting.load(SeqCst) == 200).await;
    node.scripted.open();
    let mut clocks = Vec::new();
    while let Some(answer) = calls.join_next().await {
        let (clock, response) = answer.unwrap().unwrap();
        assert_eq!(response, placed());
        clocks.push(clock.0);
    }
    clocks.sort_unstable();
    assert_eq!(clocks, (1..=200).collect::<Vec<_>>());
    assert_eq!(node.refusals.count(Refusal::Limit), 0);
}

#[tokio::test]
async fn a_server_that_stops_finishes_the_calls_under_way_and_takes_no_more() {
    let node = Node::start_with(open("n1"), Scripted::gated(), Limits::default()).await;
    let client = Arc::new(client(open("n0"), PATIENT));
    let call = tokio::spawn({
        let (client, to) = (Arc::clone(&client), node.address.clone());
        async move { ask(&client, &to).await }
    });
    wait_until(|| node.scripted.waiting.load(SeqCst) == 1).await;
    node.stop.cancel();
    let socket = node.socket();
    timeout(PATIENT, async { while TcpStream::connect(socket).await.is_ok() {} }).await.expect("it stops listening");
    node.scripted.open();
    assert_eq!(call.await.unwrap(), Ok(placed()));
    timeout(PATIENT, node.task).await.unwrap().unwrap();
}

/// Prints how long a question takes; run with `--ignored --nocapture`, in the release profile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_a_round_trip() {
    let node = Node::start(keyed("n1", KEY, None)).await;
    let client = client(keyed("n0", KEY, None), PATIENT);
    let mut times = Vec::new();
    for _ in 0..10_000 {
        let start = Instant::now();
        assert_eq!(ask(&client, &node.address).await, Ok(placed()));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("place over TLS on loopback: p50 {:?}, p99 {:?}, max {:?}", times[5000], times[9900], times[9999]);
}
