//! What does not belong to the cluster, or breaks the rules of the wire, is turned away, counted, and
//! harms nobody else.

use srs_proxy::{
    balancer::mesh::{
        link::{Membership, refusals::Refusal, server::Limits},
        model::member::Address,
        model::record::{Record, Stamp},
        traits::PeerClient,
        wire::message::{Request, Response},
        wire::{MAX_ENTRIES, MAX_MESSAGE},
    },
    stream::StreamKey,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use srs_proxy_test_support::mesh_rpc::{
    KEY, Node, PATIENT, SHORT, Scripted, ask, assert_refused, assert_unreachable, client, keyed, open, placed, record,
    stream, wait_for_answer,
};

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
    // The server may have hung up before its reason arrives.
    let answer = ask(&stranger, &node.address).await;
    assert!(answer.is_err(), "{answer:?}");
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

/// More bytes than a message may have, in fewer records than it may have.
fn oversized() -> Vec<(StreamKey, Record)> {
    (0..MAX_MESSAGE / 1000).map(|i| (stream(&format!("{i}{}", "x".repeat(1000))), record(1))).collect()
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_connection_stays() {
    let node = Node::start_with(open("n1"), Scripted::default(), Limits { connections: 1, ..Limits::default() }).await;
    let client = client(open("n0"), PATIENT);
    let ask_for = async |request| client.call(&node.address, Stamp(1), request).await.map(|(_, response)| response);

    let answer = ask_for(Request::PushRecords { records: oversized(), adopt: false }).await;
    assert_refused(&answer, "bytes; the limit is 4194304");
    let answer = ask_for(Request::GetRecords(vec![stream("a"); MAX_ENTRIES + 1])).await;
    assert_refused(&answer, "field streams: has 10001 items; the limit is 10000");
    node.refused(Refusal::Message, 1).await;
    *node.scripted.answer.lock().unwrap() = Some(Response::Records(oversized()));
    assert_refused(&ask_for(Request::GetRecords(vec![stream("a")])).await, "OutOfRange");

    *node.scripted.answer.lock().unwrap() = Some(placed());
    assert_eq!(ask(&client, &node.address).await, Ok(placed()));
}

#[tokio::test]
async fn a_stranger_who_announces_too_large_a_message_is_refused_before_it_comes() {
    let node = Node::start(open("n1")).await;
    let stream = TcpStream::connect(node.socket()).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/srs_proxy.mesh.v1.Mesh/Call", node.address.grpc);
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
async fn an_answer_that_belongs_to_another_question_is_a_refusal() {
    let node = Node::start(open("n1")).await;
    *node.scripted.answer.lock().unwrap() = Some(Response::Done);
    assert_refused(&ask(&client(open("n0"), PATIENT), &node.address).await, "does not belong to the question");
}
