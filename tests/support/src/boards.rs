//! Nodes of a mesh as far as they gossip, on loopback, and what they see of each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use srs_proxy::{
    balancer::mesh::{
        gossip::{ChitchatStore, Counters, Gossip, Leaver},
        model::member::Incarnation,
        traits::GossipEvent,
    },
    config::{Listen, Mesh, Secret, Seed},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// How long a test waits for what should come within a second or two on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(20);
pub const KEY: &str = "the key of this test";

/// What one node sees of the others.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Seen {
    pub live: BTreeSet<Incarnation>,
    pub posts: BTreeMap<Incarnation, BTreeMap<String, Vec<u8>>>,
    pub news: u64,
    pub heard: u64,
    pub lost: Vec<Incarnation>,
    /// How often a post of each run was set or deleted.
    pub changes: BTreeMap<Incarnation, u64>,
}

impl Seen {
    fn take(&mut self, news: GossipEvent) {
        self.news += 1;
        match news {
            GossipEvent::Set { from, key, value } => {
                *self.changes.entry(from.clone()).or_default() += 1;
                self.posts.entry(from).or_default().insert(key, value.to_vec());
            }
            GossipEvent::Deleted { from, key } => {
                *self.changes.entry(from.clone()).or_default() += 1;
                let posts = self.posts.get_mut(&from).expect("a post of an unknown run was deleted");
                posts.remove(&key).expect("an unknown post was deleted");
                if posts.is_empty() {
                    self.posts.remove(&from);
                }
            }
            GossipEvent::Live(live) => {
                self.lost.extend(self.live.difference(&live).cloned());
                // What a run posted that a later one replaced is not told to be deleted.
                self.posts.retain(|run, _| !live.iter().any(|seen| seen.node == run.node && seen > run));
                self.live = live;
            }
            GossipEvent::Heard(nodes) => self.heard += nodes.len() as u64,
        }
    }

    /// What is seen, in a few words.
    fn told(&self) -> String {
        let posts: Vec<_> = self.posts.iter().map(|(run, posts)| format!("{} of {}", posts.len(), run.node)).collect();
        format!("alive {:?}, posts {posts:?}", self.live)
    }

    pub fn changes_of(&self, from: &Incarnation) -> u64 {
        self.changes.get(from).copied().unwrap_or_default()
    }

    pub fn value(&self, from: &Incarnation, key: &str) -> Option<&[u8]> {
        self.posts.get(from)?.get(key).map(Vec::as_slice)
    }
}

/// A node whose news are read as they come.
pub struct Node {
    pub me: Incarnation,
    pub address: SocketAddr,
    pub board: ChitchatStore,
    leaver: Option<Leaver>,
    pub counters: Arc<Counters>,
    pub seen: watch::Receiver<Seen>,
    reader: JoinHandle<()>,
}

pub fn settings(name: &str, seeds: &[SocketAddr]) -> Mesh {
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
    pub async fn start(settings: &Mesh) -> Self {
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
    pub async fn sees(&self, what: &str, condition: impl FnMut(&Seen) -> bool) -> Duration {
        let begin = Instant::now();
        let mut seen = self.seen.clone();
        let waited = timeout(LIMIT, seen.wait_for(condition)).await;
        assert!(
            waited.is_ok_and(|seen| seen.is_ok()),
            "{} does not see {what}: {}",
            self.me.node,
            self.seen.borrow().told()
        );
        begin.elapsed()
    }

    /// Ends as a crash does.
    pub fn kill(&mut self) {
        self.leaver = None;
    }

    pub async fn leave(mut self) {
        self.leaver.take().unwrap().leave().await;
        timeout(LIMIT, &mut self.reader).await.unwrap().unwrap();
    }
}

/// Nodes that all see each other.
pub async fn mesh(count: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for index in 0..count {
        let seeds: Vec<_> = nodes.iter().take(1).map(|node| node.address).collect();
        nodes.push(Node::start(&settings(&format!("node-{index}"), &seeds)).await);
    }
    all_live(&nodes).await;
    nodes
}

pub async fn all_live(nodes: &[Node]) {
    for node in nodes {
        let others: BTreeSet<_> = nodes.iter().map(|other| other.me.clone()).filter(|me| *me != node.me).collect();
        node.sees("all others alive", |seen| seen.live == others).await;
    }
}

pub fn others<'a>(nodes: &'a [Node], node: &'a Node) -> impl Iterator<Item = &'a Node> {
    nodes.iter().filter(|other| other.me != node.me)
}

/// Waits until the condition holds.
pub async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        sleep(Duration::from_millis(5)).await;
    }
}
