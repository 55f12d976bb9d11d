//! Peers that do not belong to the cluster, packets that no node sent, peers that mean harm, and the
//! change of the key.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use quinn::{Connection, ConnectionError, Endpoint, VarInt, WriteError};
use srs_proxy::{
    balancer::mesh::{
        gossip::{self, Counters, Reason},
        link::tls::Credentials,
        model::member::Incarnation,
        traits::GossipStore,
    },
    config::{Mesh, Secret},
};
use srs_proxy_test_support::boards::{KEY, LIMIT, Node, all_live, mesh, settings, wait_for};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep, timeout},
};

/// The name in the certificates of nodes.
const DOMAIN: &str = "node.mesh.srs-proxy.internal";

/// An envelope in chitchat's words, version 0 of its protocol.
mod envelope {
    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn name(node: &str) -> Vec<u8> {
        [&text(node)[..], &1_u64.to_le_bytes(), &[4, 127, 0, 0, 1, 1, 0]].concat()
    }

    /// Says that there is a node.
    pub fn syn(node: &str, cluster: &str) -> Vec<u8> {
        let digest = [&name(node)[..], &1_u64.to_le_bytes(), &[0; 16]].concat();
        [&45_139_u16.to_le_bytes()[..], &[0, 0, 1, 0], &digest, &text(cluster)].concat()
    }

    /// Says what it has posted.
    pub fn ack(node: &str, key: &str, value: &str) -> Vec<u8> {
        let post = [&[1][..], &text(key), &text(value), &1_u64.to_le_bytes(), &[0]].concat();
        let operations = [&[0][..], &name(node), &[0; 16], &post].concat();
        let block = [&[2][..], &(operations.len() as u16).to_le_bytes(), &operations, &[0]].concat();
        [&45_139_u16.to_le_bytes()[..], &[0, 2], &block].concat()
    }
}

/// Holds a key, and sends what nodes do not send.
struct Forger {
    endpoint: Endpoint,
    connection: Connection,
}

impl Forger {
    fn client(key: &str, cluster: &str) -> quinn::ClientConfig {
        let credentials = Credentials::derive(key.as_bytes(), None).unwrap();
        let (client, _) = credentials.quic(&gossip::protocol(cluster)).unwrap();
        quinn::ClientConfig::new(client)
    }

    async fn dial(to: SocketAddr, key: &str, cluster: &str) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let connection = endpoint.connect_with(Self::client(key, cluster), to, DOMAIN).unwrap().await?;
        Ok(Self { endpoint, connection })
    }

    async fn against(node: &Node) -> Self {
        Self::dial(node.address, KEY, "test").await.unwrap()
    }

    async fn send(&self, message: &[u8]) -> Result<(), WriteError> {
        let mut stream = self.connection.open_uni().await?;
        stream.write_all(message).await?;
        let _ = stream.finish();
        Ok(())
    }
}

/// Passes datagrams on to a node and back, and keeps those to the node.
async fn recorder(node: SocketAddr) -> (SocketAddr, Arc<UdpSocket>, Arc<Mutex<Vec<Vec<u8>>>>) {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let (address, recorded) = (front.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let (resender, kept) = (back.clone(), recorded.clone());
    tokio::spawn(async move {
        let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut there) => {
                    client = Some(from);
                    kept.lock().unwrap().push(there[..length].to_vec());
                    back.send_to(&there[..length], node).await.unwrap();
                }
                Ok(length) = back.recv(&mut here) => {
                    front.send_to(&here[..length], client.unwrap()).await.unwrap();
                }
            }
        }
    });
    (address, resender, recorded)
}

/// The first datagrams of different connections.
async fn initials(count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let config = Forger::client("a key that nobody has", "test");
    let (mut connecting, mut datagrams) = (Vec::new(), BTreeMap::new());
    let mut buffer = [0; 2000];
    for _ in 0..count {
        connecting.push(endpoint.connect_with(config.clone(), sink.local_addr().unwrap(), DOMAIN).unwrap());
        while datagrams.len() < connecting.len() {
            let (length, _) = sink.recv_from(&mut buffer).await.unwrap();
            // Those that are sent again have the same destination connection id (RFC 9000, section 17.2).
            let id = buffer[6..][..usize::from(buffer[5])].to_vec();
            datagrams.entry(id).or_insert_with(|| buffer[..length].to_vec());
        }
    }
    datagrams.into_values().collect()
}

async fn counted(counters: &Counters, reason: Reason, count: u64) {
    wait_for(reason.as_str(), || counters.dropped(reason) >= count).await;
}

fn nothing_changed(nodes: &[Node]) {
    for node in nodes {
        let seen = node.seen.borrow();
        assert!(seen.live.len() == nodes.len() - 1 && seen.lost.is_empty() && seen.posts.is_empty(), "{seen:?}");
    }
}

#[tokio::test]
async fn nodes_of_another_cluster_or_with_another_key_or_with_none_are_refused_and_counted() {
    let nodes = mesh(2).await;
    let other_key = Some(Secret::new("another key, as long"));
    let of_nodes = &nodes[0].counters;
    let seed = settings("x", &[nodes[0].address]);
    for (stranger, reason) in [
        (Mesh { key: other_key, ..seed.clone() }, Reason::Untrusted),
        (Mesh { key: None, ..seed.clone() }, Reason::Untrusted),
        (Mesh { cluster_id: "other".into(), ..seed.clone() }, Reason::ForeignCluster),
    ] {
        let before = of_nodes.dropped(reason);
        let other = Node::start(&stranger).await;
        counted(of_nodes, reason, before + 3).await;
        counted(&other.counters, reason, 3).await;
        assert!(other.seen.borrow().live.is_empty());
    }
    let open = Node::start(&Mesh { key: None, ..settings("open", &[]) }).await;
    let keyed = Node::start(&settings("keyed", &[open.address])).await;
    counted(&open.counters, Reason::Untrusted, 3).await;
    assert!(keyed.seen.borrow().live.is_empty() && open.seen.borrow().live.is_empty());
    nothing_changed(&nodes);
}

#[tokio::test]
async fn a_client_that_does_not_check_whom_it_talks_to_is_refused_all_the_same() {
    let nodes = mesh(2).await;
    for (key, cluster, reason) in
        [("another key, as long", "test", Reason::Untrusted), (KEY, "other", Reason::ForeignCluster)]
    {
        assert!(Forger::dial(nodes[0].address, key, cluster).await.is_err());
        counted(&nodes[0].counters, reason, 1).await;
    }
    // It trusts the cluster, but nobody in it trusts it.
    let credentials = Credentials::derive(b"another key, as long", Some(KEY.as_bytes())).unwrap();
    let (client, _) = credentials.quic(&gossip::protocol("test")).unwrap();
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let dialed = endpoint.connect_with(quinn::ClientConfig::new(client), nodes[0].address, DOMAIN).unwrap();
    let forger = Forger { connection: dialed.await.unwrap(), endpoint };
    let _ = forger.send(&envelope::syn("forged", "test")).await;
    let ended = timeout(LIMIT, forger.connection.closed()).await.unwrap();
    assert!(matches!(ended, ConnectionError::ConnectionClosed(_)), "{ended}");
    counted(&nodes[0].counters, Reason::Untrusted, 2).await;
    nothing_changed(&nodes);
}

#[tokio::test]
async fn datagrams_that_no_node_sent_change_nothing() {
    let nodes = mesh(2).await;
    let forger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let before = nodes[0].counters.received();
    let mut sent = 0;
    for length in [0, 1, 20, 40, 700, 1199, 1200, 1201, 9000, 65_000] {
        for first in [0x00, 0x40, 0x7f, 0x80, 0xc0, 0xe0, 0xff] {
            let mut datagram: Vec<u8> = (0..length).map(|_| rand::random()).collect();
            if let Some(byte) = datagram.first_mut() {
                *byte = first;
            }
            forger.send_to(&datagram, nodes[0].address).await.unwrap();
            sent += 1;
        }
    }
    forger.send_to(&envelope::syn("forged", "test"), nodes[0].address).await.unwrap();
    wait_for("the datagrams", || nodes[0].counters.received() > before + sent).await;
    let heard = nodes[0].seen.borrow().heard;
    nodes[0].sees("further signs of life", |seen| seen.heard > heard + 2).await;
    nothing_changed(&nodes);
}

#[tokio::test]
async fn a_flood_of_connections_from_made_up_addresses_holds_up_nobody_and_gets_little_back() {
    let nodes = mesh(3).await;
    let mut initials = initials(2000).await.into_iter();
    let to = nodes[0].address;
    let (mut sent, mut answered) = (0_usize, 0_usize);
    let mut took = Vec::new();
    for round in 0..100_u32 {
        let mut sockets = Vec::new();
        for initial in initials.by_ref().take(20) {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            sent += socket.send_to(&initial, to).await.unwrap();
            sockets.push(socket);
        }
        let begin = Instant::now();
        nodes[1].board.set("k", &round.to_be_bytes());
        nodes[1].board.push();
        nodes[0].sees("the value", |seen| seen.value(&nodes[1].me, "k") == Some(&round.to_be_bytes())).await;
        took.push(begin.elapsed());
        let mut buffer = [0; 2000];
        for socket in &sockets {
            while let Ok(length) = socket.try_recv(&mut buffer) {
                answered += length;
            }
        }
    }
    took.sort();
    println!("push meanwhile: median {:?}, longest {:?}; answered {answered} of {sent} bytes", took[50], took[99]);
    assert!(took[50] < Duration::from_millis(100), "{took:?}");
    assert!(answered < sent / 2, "answered {answered} bytes to {sent}");
    let late = Node::start(&settings("late", &[to])).await;
    late.sees("all others", |seen| seen.live.len() == 3).await;
    assert!(nodes.iter().all(|node| node.seen.borrow().lost.is_empty()));
}

#[tokio::test]
async fn recorded_datagrams_that_are_sent_again_change_nothing() {
    let first = Node::start(&settings("a", &[])).await;
    let (relay, back, recorded) = recorder(first.address).await;
    let second = Node::start(&settings("b", &[relay])).await;
    second.board.set("k", b"old");
    first.sees("the old value", |seen| seen.value(&second.me, "k") == Some(b"old")).await;
    second.board.set("k", b"new");
    first.sees("the new value", |seen| seen.value(&second.me, "k") == Some(b"new")).await;
    let recorded = recorded.lock().unwrap().clone();
    assert!(!recorded.is_empty());
    let (other, changes) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), first.seen.borrow().changes_of(&second.me));
    for datagram in recorded.iter().chain(&recorded) {
        back.send_to(datagram, first.address).await.unwrap();
        other.send_to(datagram, first.address).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    let nodes = [first, second];
    all_live(&nodes).await;
    let seen = nodes[0].seen.borrow();
    assert_eq!(seen.value(&nodes[1].me, "k"), Some(&b"new"[..]));
    assert_eq!(seen.changes_of(&nodes[1].me), changes, "something was taken twice");
    assert!(seen.lost.is_empty());
}

#[tokio::test]
async fn a_peer_with_the_right_key_cannot_bring_a_node_down() {
    let nodes = mesh(2).await;
    let forger = Forger::against(&nodes[0]).await;
    forger.send(&envelope::syn("forger", "test")).await.unwrap();
    // It is known, so its posts are taken.
    let run = Incarnation { node: "forger".into(), generation: 1 };
    forger.send(&envelope::ack("forger", "good", "=value")).await.unwrap();
    nodes[0].sees("its posts", |seen| seen.value(&run, "good") == Some(b"value")).await;
    for (count, key) in ["\u{e9}vil", "\u{1f4a3}", ""].into_iter().enumerate() {
        forger.send(&envelope::ack("forger", key, "=value")).await.unwrap();
        counted(&nodes[0].counters, Reason::Garbage, count as u64 + 1).await;
    }
    forger.send(b"no envelope").await.unwrap();
    counted(&nodes[0].counters, Reason::Garbage, 4).await;
    forger.send(&[]).await.unwrap();
    counted(&nodes[0].counters, Reason::Garbage, 5).await;
    // The stream may be stopped before all is written.
    let _ = forger.send(&vec![0; 65_508]).await;
    counted(&nodes[0].counters, Reason::Oversize, 1).await;
    let before = nodes[0].seen.borrow().heard;
    nodes[0].sees("further signs of life", |seen| seen.heard > before + 2).await;
    nodes[1].board.set("still", b"here");
    nodes[0].sees("what others post", |seen| seen.value(&nodes[1].me, "still") == Some(b"here")).await;
    assert!(nodes.iter().all(|node| node.seen.borrow().lost.iter().all(|run| run.node.as_str() == "forger")));
}

#[tokio::test]
async fn a_peer_with_the_right_key_is_held_to_its_limits() {
    let nodes = mesh(2).await;
    let forger = Forger::against(&nodes[0]).await;
    // Streams that never end: no more of them than a peer may have, and the others go on.
    let mut streams = Vec::new();
    while let Ok(opened) = timeout(Duration::from_millis(300), forger.connection.open_uni()).await {
        let mut stream = opened.unwrap();
        stream.write_all(b"x").await.unwrap();
        streams.push(stream);
    }
    assert!(streams.len() <= 32, "{} streams", streams.len());
    assert!(timeout(Duration::from_millis(100), forger.connection.open_bi()).await.is_err(), "nobody answers on one");
    // Connections from one address: the earliest give way.
    let config = Forger::client(KEY, "test");
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections
            .push(forger.endpoint.connect_with(config.clone(), nodes[0].address, DOMAIN).unwrap().await.unwrap());
    }
    let ended = timeout(LIMIT, forger.connection.closed()).await.unwrap();
    assert!(matches!(ended, ConnectionError::ApplicationClosed(_)), "{ended}");
    let open = || connections.iter().filter(|connection| connection.close_reason().is_none()).count();
    wait_for("few connections", || open() <= 4).await;
    connections.iter().for_each(|connection| connection.close(VarInt::from_u32(0), b""));
    let heard = nodes[0].seen.borrow().heard;
    nodes[0].sees("further signs of life", |seen| seen.heard > heard + 2).await;
    nothing_changed(&nodes);
}

#[tokio::test]
async fn the_key_is_changed_node_by_node_without_a_loss_of_membership() {
    const NEW: &str = "the next key of this test";
    let secret = |key: &str| Some(Secret::new(key));
    let mut nodes = mesh(3).await;
    for (key, previous) in [(secret(KEY), secret(NEW)), (secret(NEW), secret(KEY)), (secret(NEW), None)] {
        for index in 0..nodes.len() {
            let seed = nodes[(index + 1) % 3].address;
            let old = nodes.remove(index);
            let name = old.me.node.as_str().to_owned();
            old.leave().await;
            let new = Mesh { key: key.clone(), key_previous: previous.clone(), ..settings(&name, &[seed]) };
            nodes.insert(index, Node::start(&new).await);
            all_live(&nodes).await;
        }
    }
    for node in &nodes {
        let untrusted = node.counters.dropped(Reason::Untrusted);
        assert_eq!(untrusted, 0, "{} refused peers", node.me.node);
    }
}
