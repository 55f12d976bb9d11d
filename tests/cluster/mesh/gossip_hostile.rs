//! Packets that are not genuine, peers that mean harm, and the change of the key.

use std::{
    net::SocketAddr,
    time::{Instant, SystemTime},
};

use srs_proxy::{
    balancer::mesh::{
        gossip::{
            Reason,
            seal::{Keys, Now, Sealer},
        },
        message::Incarnation,
        traits::GossipStore,
    },
    config::{Mesh, Secret},
};
use srs_proxy_test_support::boards::{KEY, Node, all_live, mesh, settings, wait_for};
use tokio::net::UdpSocket;

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

/// Sends what nodes do not send.
struct Forger {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Forger {
    async fn against(node: &Node) -> Self {
        Self { socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(), to: node.address }
    }

    async fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, self.to).await.unwrap();
    }
}

fn wall() -> Now {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    Now { wall, monotonic: Instant::now() }
}

fn sealed(cluster: &str, keys: &[&str], envelope: &[u8], at: Now) -> Vec<u8> {
    let mut sealer = Sealer::new(&Keys::new(cluster, keys.iter().copied()), rand::random());
    let mut cut = sealer.cut(envelope).unwrap();
    sealer.next(&mut cut, envelope, at).unwrap().to_vec()
}

async fn counted(node: &Node, reason: Reason, count: u64) {
    wait_for(reason.as_str(), || node.counters.dropped(reason) >= count).await;
}

#[tokio::test]
async fn packets_that_are_not_genuine_are_counted_and_change_nothing() {
    let nodes = mesh(2).await;
    let forger = Forger::against(&nodes[0]).await;
    let syn = envelope::syn("forged", "test");
    let past = Now { wall: wall().wall - 61_000, ..wall() };
    for (packet, reason) in [
        (sealed("test", &["another key, as long"], &syn, wall()), Reason::BadSeal),
        (sealed("test", &[], &syn, wall()), Reason::BadSeal),
        (sealed("other", &[KEY], &syn, wall()), Reason::ForeignCluster),
        (sealed("test", &[KEY], &syn, past), Reason::Clock),
        (sealed("test", &[KEY], b"no envelope", wall()), Reason::Garbage),
        (syn.clone(), Reason::Garbage),
        (vec![0xff; 700], Reason::Garbage),
        (vec![0; 1201], Reason::Oversize),
    ] {
        let before = nodes[0].counters.dropped(reason);
        forger.send(&packet).await;
        counted(&nodes[0], reason, before + 1).await;
    }
    assert_eq!(nodes[0].counters.dropped(Reason::Replay), 0);

    let stranger = Mesh { key: Some(Secret::new("another key, as long")), ..settings("x", &[nodes[0].address]) };
    let other = Node::start(&stranger).await;
    let before = nodes[0].counters.dropped(Reason::BadSeal);
    counted(&nodes[0], Reason::BadSeal, before + 3).await;
    assert!(other.seen.borrow().live.is_empty());
    for node in &nodes {
        let seen = node.seen.borrow();
        assert!(seen.live.len() == 1 && seen.lost.is_empty() && seen.posts.is_empty(), "{seen:?}");
    }
}

#[tokio::test]
async fn a_replayed_packet_is_taken_once() {
    let nodes = mesh(2).await;
    let forger = Forger::against(&nodes[0]).await;
    let packet = sealed("test", &[KEY], &envelope::ack("nobody", "key", "=value"), wall());
    for _ in 0..10 {
        forger.send(&packet).await;
    }
    counted(&nodes[0], Reason::Replay, 9).await;
    assert_eq!(nodes[0].counters.dropped(Reason::Replay), 9);
}

#[tokio::test]
async fn a_peer_with_the_right_key_cannot_bring_a_node_down() {
    let nodes = mesh(2).await;
    let forger = Forger::against(&nodes[0]).await;
    let send = async |envelope: &[u8]| forger.send(&sealed("test", &[KEY], envelope, wall())).await;
    send(&envelope::syn("forger", "test")).await;
    // It is known, so its posts are taken.
    let run = Incarnation { node: "forger".into(), generation: 1 };
    send(&envelope::ack("forger", "good", "=value")).await;
    nodes[0].sees("its posts", |seen| seen.value(&run, "good") == Some(b"value")).await;
    for (count, key) in ["\u{e9}vil", "\u{1f4a3}", ""].into_iter().enumerate() {
        send(&envelope::ack("forger", key, "=value")).await;
        counted(&nodes[0], Reason::Garbage, count as u64 + 1).await;
    }
    let before = nodes[0].seen.borrow().heard;
    nodes[0].sees("further signs of life", |seen| seen.heard > before + 2).await;
    nodes[1].board.set("still", b"here");
    nodes[0].sees("what others post", |seen| seen.value(&nodes[1].me, "still") == Some(b"here")).await;
    assert!(nodes.iter().all(|node| node.seen.borrow().lost.iter().all(|run| run.node.as_str() == "forger")));
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
        let sealed_otherwise = node.counters.dropped(Reason::BadSeal);
        assert_eq!(sealed_otherwise, 0, "{} refused packets", node.me.node);
    }
}
