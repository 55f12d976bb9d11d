//! Questions between nodes over gRPC on loopback: what is asked arrives, what is answered comes back,
//! and what does not belong to the cluster is turned away without harm to others.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use srs_proxy::{
    balancer::{
        BalancerError, Intent,
        mesh::{
            message::{Address, CallError, OriginFacts, Renewal, Request, Response},
            port::{Answer, Peers},
            record::{NodeId, Record, Stamp},
            rpc::{
                Membership,
                client::Client,
                refusals::{Refusal, Refusals},
                server::{Limits, Server},
                tls::Credentials,
                wire::{MAX_ENTRIES, MAX_MESSAGE},
            },
        },
    },
    origin::{Origin, Protocol},
    stream::StreamKey,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// The deadline of calls that are expected to succeed, on a machine that may be busy.
const PATIENT: Duration = Duration::from_secs(10);
/// The deadline of calls that are expected to fail by it.
const SHORT: Duration = Duration::from_millis(300);
/// Much less than [`PATIENT`]: what comes within this time did not wait for the deadline.
const AT_ONCE: Duration = Duration::from_secs(5);
const KEY: &[u8] = b"the key of the cluster, 32 bytes";

fn stream(name: &str) -> StreamKey {
    StreamKey::from_shared(&format!("v/live/{name}")).unwrap()
}

fn record(epoch: u64) -> Record {
    Record {
        origin: "a-b-1".into(),
        epoch,
        since: Stamp(5),
        published: true,
        writer: "n1".into(),
        written: Stamp(6),
        history: BTreeMap::from([("n2".into(), Stamp(4))]),
    }
}

fn facts() -> OriginFacts {
    let body = br#"{"ip":"10.0.0.1","server":"a","service":"b","pid":"1","rtmp":["1935"],"srt":["udp://:10080"]}"#;
    OriginFacts {
        origin: Origin::from_heartbeat(body, "SRS/7").unwrap(),
        beat: Stamp(7),
        failed: Some((Stamp(8), "connection refused".into())),
        cleared: Stamp(9),
        retired: Stamp(0),
    }
}

fn place(name: &str) -> Request {
    Request::Place {
        stream: stream(name),
        protocol: Protocol::Rtmp,
        intent: Intent::Publish,
        avoid: vec!["x-y-2".into()],
        known: vec![record(1)],
        floor: 3,
        unreachable: vec!["n3".into()],
        insist: true,
    }
}

fn placed() -> Response {
    Response::Placed { record: record(4), origin: Box::new(facts()) }
}

/// Every kind of question with an answer to it.
fn dialogue() -> Vec<(Request, Response)> {
    let renewal = Renewal { stream: stream("a"), record: record(1), publishers: 1, players: 9 };
    let page = Response::Page {
        records: vec![(stream("a"), record(1)), (stream("a"), record(2))],
        origins: vec![(facts(), Duration::from_millis(1500))],
        floor: 8,
        more: true,
    };
    let no_origin = BalancerError::NoOrigin { protocol: Protocol::Srt, registered: 2 };
    let held = Response::Held { node: "n9".into(), grpc: "n9.mesh:12027".into() };
    let elsewhere = Response::Elsewhere { node: "n9".into(), grpc: "[::1]:12027".into() };
    let ttl = Duration::from_secs(120);
    vec![
        (place("a"), placed()),
        (place("a"), elsewhere),
        (place("a"), Response::Refused(no_origin)),
        (place("a"), Response::NotServing),
        (
            Request::Claim { stream: stream("a"), known: vec![record(1)] },
            Response::Granted { known: vec![record(2)], floor: 1 },
        ),
        (Request::Claim { stream: stream("a"), known: vec![] }, held),
        (Request::Renew(vec![renewal]), Response::Records(vec![(stream("a"), record(2))])),
        (Request::Tell { records: vec![(stream("a"), record(1))], adopt: true }, Response::Done),
        (Request::Lookup(vec![stream("a"), stream("b")]), Response::Records(vec![])),
        (Request::Snapshot { after: None }, page),
        (Request::Snapshot { after: Some(stream("a")) }, Response::NotServing),
        (Request::PutSession { id: "ufrag".into(), stream: stream("a"), ttl }, Response::Done),
        (Request::Session { id: "ufrag".into() }, Response::Session(Some(stream("a")))),
        (Request::Session { id: "none".into() }, Response::Session(None)),
    ]
}

/// Gives the answer that it is told to, after as long as it is told to.
#[derive(Default)]
struct Scripted {
    answer: Mutex<Option<Response>>,
    asked: Mutex<Vec<(NodeId, Stamp, Request)>>,
    /// Answers only once this has permits.
    gate: Option<Semaphore>,
    waiting: AtomicUsize,
}

impl Scripted {
    fn gated() -> Self {
        Self { gate: Some(Semaphore::new(0)), ..Self::default() }
    }

    fn open(&self) {
        self.gate.as_ref().unwrap().add_permits(1);
    }
}

#[async_trait]
impl Answer for Scripted {
    async fn answer(&self, from: NodeId, clock: Stamp, request: Request) -> (Stamp, Response) {
        if let Some(gate) = &self.gate {
            self.waiting.fetch_add(1, SeqCst);
            drop(gate.acquire().await.unwrap());
        }
        let answer = self.answer.lock().unwrap().clone().unwrap_or(Response::NotServing);
        self.asked.lock().unwrap().push((from, clock, request));
        (Stamp(clock.0 + 1), answer)
    }
}

struct Node {
    address: Address,
    scripted: Arc<Scripted>,
    refusals: Arc<Refusals>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    async fn start(membership: Membership) -> Self {
        Self::start_with(membership, Scripted::default(), Limits::default()).await
    }

    async fn start_with(membership: Membership, scripted: Scripted, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, membership, scripted, limits)
    }

    fn on(listener: TcpListener, membership: Membership, scripted: Scripted, limits: Limits) -> Self {
        let grpc = listener.local_addr().unwrap().to_string();
        let address = Address { node: membership.node.clone(), grpc };
        let (scripted, refusals, stop) = (Arc::new(scripted), Arc::<Refusals>::default(), CancellationToken::new());
        scripted.answer.lock().unwrap().get_or_insert_with(placed);
        let answer: Arc<dyn Answer> = Arc::clone(&scripted) as _;
        let server = Server { membership: Arc::new(membership), answer, limits, refusals: Arc::clone(&refusals) };
        let task = tokio::spawn(server.serve(listener, stop.clone()));
        Self { address, scripted, refusals, stop, task }
    }

    fn socket(&self) -> SocketAddr {
        self.address.grpc.parse().unwrap()
    }

    /// Waits until something was refused so often.
    async fn refused(&self, refusal: Refusal, times: u64) {
        wait_until(|| self.refusals.count(refusal) >= times).await;
        assert_eq!(self.refusals.count(refusal), times, "{refusal:?}");
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENT, self.task).await.unwrap().unwrap();
    }
}

async fn wait_until(condition: impl Fn() -> bool) {
    timeout(PATIENT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("the condition holds in time");
}

fn open(node: &str) -> Membership {
    Membership { cluster: "c".into(), node: node.into(), credentials: None }
}

fn keyed(node: &str, key: &[u8], previous: Option<&[u8]>) -> Membership {
    Membership { credentials: Some(Credentials::derive(key, previous).unwrap()), ..open(node) }
}

fn client(membership: Membership, timeout: Duration) -> Client {
    Client::new(Arc::new(membership), timeout)
}

async fn ask(client: &Client, to: &Address) -> Result<Response, CallError> {
    client.call(to, Stamp(1), place("a")).await.map(|(_, response)| response)
}

#[track_caller]
fn assert_refused(answer: &Result<Response, CallError>, why: &str) {
    assert!(matches!(answer, Err(CallError::Refused(text)) if text.contains(why)), "{why}: {answer:?}");
}

#[track_caller]
fn assert_unreachable(answer: &Result<Response, CallError>, why: &str) {
    assert!(matches!(answer, Err(CallError::Unreachable(text)) if text.contains(why)), "{why}: {answer:?}");
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
async fn a_node_with_another_key_is_refused_and_counted() {
    let node = Node::start(keyed("n1", KEY, None)).await;
    let stranger = client(keyed("n0", b"another key", None), PATIENT);
    assert_refused(&ask(&stranger, &node.address).await, "certificate");
    node.refused(Refusal::Handshake, 1).await;
    assert!(node.scripted.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_node_that_trusts_the_cluster_but_is_not_certified_by_it_is_refused() {
    // It knows the server's authority, but its own certificate is another's.
    let node = Node::start(keyed("n1", KEY, None)).await;
    let stranger = client(keyed("n0", b"another key", Some(KEY)), PATIENT);
    assert_refused(&ask(&stranger, &node.address).await, "");
    node.refused(Refusal::Handshake, 1).await;
    assert!(node.scripted.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn with_a_key_nobody_is_served_in_the_open() {
    let node = Node::start(keyed("n1", KEY, None)).await;
    let answer = ask(&client(open("n0"), PATIENT), &node.address).await;
    assert!(answer.is_err(), "{answer:?}");
    node.refused(Refusal::Handshake, 1).await;
    assert!(node.scripted.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn with_a_key_nobody_is_asked_in_the_open() {
    let node = Node::start(open("n1")).await;
    let answer = ask(&client(keyed("n0", KEY, None), PATIENT), &node.address).await;
    assert!(answer.is_err(), "{answer:?}");
    node.refused(Refusal::Handshake, 1).await;
    assert!(node.scripted.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_call_from_another_cluster_is_refused_and_counted() {
    let node = Node::start(keyed("n1", KEY, None)).await;
    let foreign = Membership { cluster: "d".into(), ..keyed("n0", KEY, None) };
    assert_refused(&ask(&client(foreign, PATIENT), &node.address).await, "this is another cluster");
    node.refused(Refusal::Cluster, 1).await;
    assert!(node.scripted.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_call_that_was_meant_for_another_node_is_refused_and_counted() {
    let node = Node::start(open("n1")).await;
    let client = client(open("n0"), PATIENT);
    let wrong = Address { node: "n2".into(), ..node.address.clone() };
    assert_refused(&ask(&client, &wrong).await, "this is node n1");
    node.refused(Refusal::Node, 1).await;
    assert!(node.scripted.asked.lock().unwrap().is_empty());
    assert_eq!(ask(&client, &node.address).await, Ok(placed()));
}

#[tokio::test]
async fn garbage_on_the_port_is_counted_and_disturbs_nobody() {
    for membership in [open("n1"), keyed("n1", KEY, None)] {
        let asking = Membership { node: "n0".into(), ..membership.clone() };
        let node = Node::start(membership).await;
        let client = client(asking, PATIENT);
        assert_eq!(ask(&client, &node.address).await, Ok(placed()));
        let mut garbage = TcpStream::connect(node.socket()).await.unwrap();
        garbage.write_all(&[b'x'; 300]).await.unwrap();
        // It is hung up on, with or without a word.
        let _ = timeout(PATIENT, garbage.read_to_end(&mut Vec::new())).await.expect("the connection ends");
        node.refused(Refusal::Handshake, 1).await;
        assert_eq!(ask(&client, &node.address).await, Ok(placed()));
        node.stop().await;
    }
}

#[tokio::test]
async fn a_connection_that_says_nothing_ends_in_time_and_takes_no_nodes_place() {
    for membership in [open("n1"), keyed("n1", KEY, None)] {
        let asking = Membership { node: "n0".into(), ..membership.clone() };
        let limits = Limits { handshake: SHORT, ..Limits::default() };
        let node = Node::start_with(membership, Scripted::default(), limits).await;
        let mut silent = TcpStream::connect(node.socket()).await.unwrap();
        // The beginning of a TLS handshake record that never goes on, and no HTTP/2 either way.
        silent.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
        assert_eq!(ask(&client(asking, PATIENT), &node.address).await, Ok(placed()));
        let _ = timeout(PATIENT, silent.read_to_end(&mut Vec::new())).await.expect("the connection ends");
        node.refused(Refusal::Handshake, 1).await;
        node.stop().await;
    }
}

#[tokio::test]
async fn strangers_who_fill_the_port_do_not_take_the_connections_of_nodes() {
    let limits = Limits { handshakes: 2, ..Limits::default() };
    let node = Node::start_with(keyed("n1", KEY, None), Scripted::default(), limits).await;
    let client = client(keyed("n0", KEY, None), PATIENT);
    assert_eq!(ask(&client, &node.address).await, Ok(placed()));
    let mut strangers = Vec::new();
    for _ in 0..2 {
        strangers.push(TcpStream::connect(node.socket()).await.unwrap());
    }
    let mut refused = TcpStream::connect(node.socket()).await.unwrap();
    let _ = timeout(PATIENT, refused.read_to_end(&mut Vec::new())).await.expect("the third is hung up on");
    node.refused(Refusal::Limit, 1).await;
    assert_eq!(ask(&client, &node.address).await, Ok(placed()));
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_refused_and_the_others_go_on() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let node = Node::start_with(open("n1"), Scripted::default(), limits).await;
    let (first, second) = (client(open("n0"), PATIENT), client(open("n2"), PATIENT));
    assert_eq!(ask(&first, &node.address).await, Ok(placed()));
    assert_unreachable(&ask(&second, &node.address).await, "");
    node.refused(Refusal::Limit, 1).await;
    assert_eq!(ask(&first, &node.address).await, Ok(placed()));
    drop(first);
    wait_for_answer(&second, &node.address).await;
}

/// Asks until the answer is there.
async fn wait_for_answer(client: &Client, to: &Address) {
    timeout(PATIENT, async { while ask(client, to).await != Ok(placed()) {} }).await.expect("an answer comes in time");
}

/// More bytes than a message may have, in fewer records than it may have.
fn oversized() -> Vec<(StreamKey, Record)> {
    (0..MAX_MESSAGE / 1000).map(|i| (stream(&format!("{i}{}", "x".repeat(1000))), record(1))).collect()
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_connection_stays() {
    let node = Node::start_with(open("n1"), Scripted::default(), Limits { connections: 1, ..Limits::default() }).await;
    let client = client(open("n0"), PATIENT);
    let ask_for = async |request| client.call(&node.address, Stamp(1), request).await.map(|(_, response)| response);

    let answer = ask_for(Request::Tell { records: oversized(), adopt: false }).await;
    assert_refused(&answer, "bytes; the limit is 4194304");
    let answer = ask_for(Request::Lookup(vec![stream("a"); MAX_ENTRIES + 1])).await;
    assert_refused(&answer, "field streams: has 10001 items; the limit is 10000");
    node.refused(Refusal::Message, 1).await;
    *node.scripted.answer.lock().unwrap() = Some(Response::Records(oversized()));
    assert_refused(&ask_for(Request::Lookup(vec![stream("a")])).await, "OutOfRange");

    *node.scripted.answer.lock().unwrap() = Some(placed());
    assert_eq!(ask(&client, &node.address).await, Ok(placed()));
}

#[tokio::test]
async fn a_stranger_who_announces_too_large_a_message_is_refused_before_it_comes() {
    let node = Node::start(open("n1")).await;
    let stream = TcpStream::connect(node.socket()).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/srs_proxy.mesh.v1.Mesh/Tell", node.address.grpc);
    let request = hyper::Request::post(uri).header("content-type", "application/grpc").body(()).unwrap();
    let (response, mut body) = requests.send_request(request, false).unwrap();
    // Not compressed, and one byte more than the limit.
    let length = u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes();
    body.send_data([&[0], &length[..]].concat().into(), false).unwrap();
    let response = timeout(PATIENT, response).await.unwrap().unwrap();
    assert_eq!(response.headers()["grpc-status"], "11", "OUT_OF_RANGE");
    assert!(node.scripted.asked.lock().unwrap().is_empty());
    connection.abort();
}

#[tokio::test]
async fn a_batch_as_large_as_it_may_be_is_answered() {
    let node = Node::start(keyed("n1", KEY, None)).await;
    *node.scripted.answer.lock().unwrap() = Some(Response::Done);
    let client = client(keyed("n0", KEY, None), PATIENT);
    let records: Vec<_> = (0..MAX_ENTRIES).map(|i| (stream(&i.to_string()), record(1))).collect();
    let request = Request::Tell { records, adopt: false };
    assert_eq!(client.call(&node.address, Stamp(1), request).await, Ok((Stamp(2), Response::Done)));
}

#[tokio::test]
async fn an_answer_that_belongs_to_another_question_is_a_refusal() {
    let node = Node::start(open("n1")).await;
    *node.scripted.answer.lock().unwrap() = Some(Response::Done);
    assert_refused(&ask(&client(open("n0"), PATIENT), &node.address).await, "does not belong to the question");
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
            assert_unreachable(&answer.unwrap(), "within 300ms");
        }
        assert!((SHORT..AT_ONCE).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_peer_that_thinks_for_too_long_is_unreachable_at_the_deadline_and_reached_later() {
    let node = Node::start_with(open("n1"), Scripted::gated(), Limits::default()).await;
    let client = client(open("n0"), SHORT);
    assert_unreachable(&ask(&client, &node.address).await, "no answer within 300ms");
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
