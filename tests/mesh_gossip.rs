//! Boards of a mesh on loopback: what is posted reaches all, and what is not genuine changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use srs_proxy::{
    balancer::mesh::{
        gossip::{Gossip, GossipBoard, Leaver},
        message::Incarnation,
        port::{Board, News},
    },
    config::{Listen, Mesh, Secret, Seed},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

/// How long a test waits for what should come within a second or two on an idle machine.
const LIMIT: Duration = Duration::from_secs(20);
const KEY: &str = "the key of this test";

/// What one node sees of the others.
#[derive(Debug, Default, Clone, PartialEq)]
struct Seen {
    live: BTreeSet<Incarnation>,
    posts: BTreeMap<Incarnation, BTreeMap<String, Vec<u8>>>,
    news: u64,
    heard: u64,
    lost: Vec<Incarnation>,
}

impl Seen {
    fn take(&mut self, news: News) {
        self.news += 1;
        match news {
            News::Set { from, key, value } => {
                self.posts.entry(from).or_default().insert(key, value.to_vec());
            }
            News::Deleted { from, key } => {
                let posts = self.posts.get_mut(&from).expect("a post of an unknown run was deleted");
                posts.remove(&key).expect("an unknown post was deleted");
                if posts.is_empty() {
                    self.posts.remove(&from);
                }
            }
            News::Live(live) => {
                self.lost.extend(self.live.difference(&live).cloned());
                self.live = live;
            }
            News::Heard(nodes) => self.heard += nodes.len() as u64,
        }
    }

    fn value(&self, from: &Incarnation, key: &str) -> Option<&[u8]> {
        self.posts.get(from)?.get(key).map(Vec::as_slice)
    }
}

/// A node whose news are read as they come.
struct Node {
    me: Incarnation,
    address: SocketAddr,
    board: GossipBoard,
    leaver: Option<Leaver>,
    counters: std::sync::Arc<srs_proxy::balancer::mesh::gossip::Counters>,
    seen: watch::Receiver<Seen>,
    reader: JoinHandle<()>,
}

fn settings(name: &str, seeds: &[SocketAddr]) -> Mesh {
    Mesh {
        node_id: Some(name.to_owned()),
        cluster_id: "test".into(),
        gossip_listen: Listen { host: Some("127.0.0.1".into()), port: 0 },
        key: Some(Secret::new(KEY)),
        seeds: seeds.iter().map(|seed| Seed { host: seed.ip().to_string(), port: seed.port() }).collect(),
        gossip_interval: Duration::from_millis(250),
        ..Mesh::default()
    }
}

impl Node {
    async fn start(settings: &Mesh) -> Self {
        let gossip = Gossip::start(settings).await.unwrap();
        let (me, address, counters) = (gossip.me.clone(), gossip.local_addr(), gossip.counters.clone());
        let (board, mut feed, leaver) = gossip.split();
        let (tell, seen) = watch::channel(Seen::default());
        let reader = tokio::spawn(async move {
            while let Some(news) = feed.recv().await {
                tell.send_modify(|seen| seen.take(news));
            }
        });
        Self { me, address, board, leaver: Some(leaver), counters, seen, reader }
    }

    /// Waits until what this node sees fulfils the condition; gives how long that took.
    async fn sees(&self, what: &str, condition: impl FnMut(&Seen) -> bool) -> Duration {
        let begin = Instant::now();
        let mut seen = self.seen.clone();
        let waited = timeout(LIMIT, seen.wait_for(condition)).await;
        assert!(waited.is_ok_and(|seen| seen.is_ok()), "{} does not see {what}", self.me.node);
        begin.elapsed()
    }

    /// Ends as a crash does.
    fn kill(&mut self) {
        self.leaver = None;
    }

    async fn leave(mut self) {
        self.leaver.take().unwrap().leave().await;
        timeout(LIMIT, &mut self.reader).await.unwrap().unwrap();
    }
}

/// Nodes that all see each other.
async fn mesh(count: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for index in 0..count {
        let seeds: Vec<_> = nodes.iter().take(1).map(|node| node.address).collect();
        nodes.push(Node::start(&settings(&format!("node-{index}"), &seeds)).await);
    }
    all_live(&nodes).await;
    nodes
}

async fn all_live(nodes: &[Node]) {
    for node in nodes {
        let others: BTreeSet<_> = nodes.iter().map(|other| other.me.clone()).filter(|me| *me != node.me).collect();
        node.sees("all others alive", |seen| seen.live == others).await;
    }
}

fn others<'a>(nodes: &'a [Node], node: &'a Node) -> impl Iterator<Item = &'a Node> {
    nodes.iter().filter(|other| other.me != node.me)
}

#[tokio::test]
async fn what_one_posts_all_see_and_what_it_takes_back_is_gone() {
    for count in [3, 5] {
        let nodes = mesh(count).await;
        for node in &nodes {
            node.board.set("origin/a", b"\x00\xff");
            node.board.set("node", node.me.node.as_str().as_bytes());
            node.board.push();
        }
        for node in &nodes {
            for other in others(&nodes, node) {
                let text = other.me.node.as_str().as_bytes();
                node.sees("the posts", |seen| {
                    seen.value(&other.me, "node") == Some(text) && seen.value(&other.me, "origin/a") == Some(b"\x00\xff")
                })
                .await;
            }
        }
        for node in &nodes {
            node.board.delete("origin/a");
            node.board.delete("never there");
            node.board.push();
        }
        for node in &nodes {
            let gone = |seen: &Seen| seen.posts.values().all(|posts| posts.keys().eq(["node"]));
            node.sees("that posts were taken back", gone).await;
            assert!(node.seen.borrow().lost.is_empty());
        }
    }
}

#[tokio::test]
async fn a_push_is_there_before_the_next_interval() {
    let nodes = mesh(3).await;
    let mut took = Vec::new();
    for round in 0..20_u32 {
        let value = round.to_be_bytes();
        let begin = Instant::now();
        nodes[0].board.set("k", &value);
        nodes[0].board.push();
        for node in &nodes[1..] {
            node.sees("the value", |seen| seen.value(&nodes[0].me, "k") == Some(&value)).await;
        }
        took.push(begin.elapsed());
    }
    took.sort();
    println!("push to both others: median {:?}, longest {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_millis(100), "{took:?}");
}
