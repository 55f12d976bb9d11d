//! A network that delays, loses and cuts, and the gossip on it. All chance comes from one seed; time
//! is tokio's paused clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use srs_proxy::balancer::mesh::{
    model::member::{Address, Incarnation},
    model::record::{NodeId, Stamp},
    node::Node,
    traits::{EventStream, GossipEvent, GossipStore, PeerClient, RequestHandler},
    wire::message::{CallError, Request, Response},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout_at},
};

/// How often a node gossips.
pub const GOSSIP: Duration = Duration::from_millis(250);
/// How long a node may be silent before it counts as dead.
const SILENT: Duration = Duration::from_secs(2);
/// How long a request may take.
pub const RPC: Duration = Duration::from_millis(300);
/// How many posts of one node one exchange carries.
const EXCHANGE: usize = 40;

/// What a node of the simulation hears.
pub struct SimFeed(mpsc::Receiver<GossipEvent>);

#[async_trait]
impl EventStream for SimFeed {
    async fn next(&mut self) -> Option<GossipEvent> {
        self.0.recv().await
    }

    fn try_next(&mut self) -> Option<GossipEvent> {
        self.0.try_recv().ok()
    }
}

pub type SimNode = Node<SimBoard, SimPeers>;

/// What one node has seen of another's posts.
#[derive(Debug, Clone, Default)]
struct Replica {
    /// The last version that was seen.
    version: u64,
    heartbeat: u64,
    posts: BTreeMap<String, (u64, Option<Bytes>)>,
}

struct Station {
    incarnation: Incarnation,
    node: Option<Arc<SimNode>>,
    news: mpsc::Sender<GossipEvent>,
    replicas: BTreeMap<Incarnation, Replica>,
    heard: BTreeMap<Incarnation, (u64, Instant)>,
    live: BTreeSet<Incarnation>,
    crashed: bool,
    /// How much longer everything takes there.
    slow: Duration,
}

/// How bad the network is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// The share of messages that are lost.
    pub loss: f64,
    /// The longest way of a message.
    pub latency: Duration,
}

struct State {
    rng: StdRng,
    weather: Weather,
    stations: BTreeMap<NodeId, Station>,
    /// Nodes on the same side reach each other.
    sides: BTreeMap<NodeId, u8>,
}

/// The network. Cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

impl Network {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            weather: Weather::default(),
            stations: BTreeMap::new(),
            sides: BTreeMap::new(),
        })))
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    pub fn set_weather(&self, weather: Weather) {
        self.with(|state| state.weather = weather);
    }

    /// Cuts the network: nodes of different sides do not reach each other.
    pub fn cut(&self, sides: BTreeMap<NodeId, u8>) {
        self.with(|state| state.sides = sides);
    }

    pub fn set_slow(&self, node: &NodeId, slow: Duration) {
        self.with(|state| {
            if let Some(station) = state.stations.get_mut(node) {
                station.slow = slow;
            }
        });
    }

    /// Adds a node, in place of its earlier run if there was one.
    pub fn add(&self, incarnation: &Incarnation) -> (SimBoard, SimPeers, SimFeed) {
        let (news, receiver) = mpsc::channel(100_000);
        let station = Station {
            incarnation: incarnation.clone(),
            node: None,
            news,
            replicas: BTreeMap::from([(incarnation.clone(), Replica::default())]),
            heard: BTreeMap::new(),
            live: BTreeSet::new(),
            crashed: false,
            slow: Duration::ZERO,
        };
        self.with(|state| state.stations.insert(incarnation.node.clone(), station));
        let board = SimBoard { network: self.clone(), me: incarnation.clone() };
        (board, SimPeers { network: self.clone(), me: incarnation.node.clone() }, SimFeed(receiver))
    }

    pub fn start(&self, node: &Arc<SimNode>) {
        self.with(|state| {
            if let Some(station) = state.stations.get_mut(node.id()) {
                station.node = Some(Arc::clone(node));
            }
        });
    }

    pub fn crash(&self, node: &NodeId) {
        self.with(|state| {
            if let Some(station) = state.stations.get_mut(node) {
                station.crashed = true;
                station.node = None;
            }
        });
    }

    /// Gossips for ever.
    pub async fn run(self) {
        loop {
            sleep(GOSSIP / 2).await;
            let exchanges = self.with(State::exchanges);
            for (from, to) in exchanges {
                self.exchange(&from, &to);
            }
            self.with(State::judge);
        }
    }

    /// Node `from` tells `to` what it has seen, some time later.
    fn exchange(&self, from: &NodeId, to: &NodeId) {
        let Some((delay, delta)) = self.with(|state| state.delta(from, to)) else { return };
        let (network, to) = (self.clone(), to.clone());
        tokio::spawn(async move {
            sleep(delay).await;
            network.with(|state| state.take(&to, delta));
        });
    }
}

/// Posts of nodes: heartbeat, the version from which they are told, and posts in order of version.
type Delta = Vec<(Incarnation, u64, u64, Vec<(u64, String, Option<Bytes>)>)>;

impl State {
    fn reaches(&self, from: &NodeId, to: &NodeId) -> bool {
        let side = |node| self.sides.get(node).copied().unwrap_or(0);
        let alive = |node| self.stations.get(node).is_some_and(|station| !station.crashed);
        alive(from) && alive(to) && side(from) == side(to)
    }

    /// How long a message takes, or nothing if it is lost.
    fn way(&mut self, from: &NodeId, to: &NodeId) -> Option<Duration> {
        let slow = |node| self.stations.get(node).map_or(Duration::ZERO, |station: &Station| station.slow);
        let slow = slow(from) + slow(to);
        if !self.reaches(from, to) || self.rng.random_bool(self.weather.loss) {
            return None;
        }
        let latency = self.weather.latency.as_micros() as u64;
        Some(slow + Duration::from_micros(self.rng.random_range(0..=latency.max(200))))
    }

    fn exchanges(&mut self) -> Vec<(NodeId, NodeId)> {
        let names: Vec<_> = self.stations.iter().filter(|(_, s)| !s.crashed).map(|(name, _)| name.clone()).collect();
        let mut exchanges = Vec::new();
        for name in &names {
            if let Some(station) = self.stations.get_mut(name)
                && let Some(own) = station.replicas.get_mut(&station.incarnation)
            {
                own.heartbeat += 1;
            }
            for _ in 0..3 {
                let peer = &names[self.rng.random_range(0..names.len())];
                if peer != name {
                    exchanges.push((name.clone(), peer.clone()));
                    exchanges.push((peer.clone(), name.clone()));
                }
            }
        }
        exchanges
    }

    fn delta(&mut self, from: &NodeId, to: &NodeId) -> Option<(Duration, Delta)> {
        let delay = self.way(from, to)?;
        let (teller, hearer) = (self.stations.get(from)?, self.stations.get(to)?);
        let mut delta = Vec::new();
        for (of, replica) in &teller.replicas {
            if *of == hearer.incarnation {
                continue;
            }
            let known = hearer.replicas.get(of).map_or(0, |replica| replica.version);
            let mut posts: Vec<_> = replica.posts.iter().filter(|(_, (version, _))| *version > known).collect();
            posts.sort_by_key(|(_, (version, _))| *version);
            let posts = posts.into_iter().take(EXCHANGE);
            let posts = posts.map(|(key, (version, value))| (*version, key.clone(), value.clone())).collect();
            delta.push((of.clone(), replica.heartbeat, known, posts));
        }
        Some((delay, delta))
    }

    fn take(&mut self, to: &NodeId, delta: Delta) {
        let Some(station) = self.stations.get_mut(to).filter(|station| !station.crashed) else { return };
        for (of, heartbeat, from, posts) in delta {
            if of.node == station.incarnation.node {
                continue;
            }
            let latest =
                !station.replicas.keys().any(|known| known.node == of.node && known.generation > of.generation);
            if !latest {
                continue;
            }
            let replica = station.replicas.entry(of.clone()).or_default();
            replica.heartbeat = replica.heartbeat.max(heartbeat);
            if from > replica.version {
                // What an earlier run of this node had seen is missing.
                continue;
            }
            for (version, key, value) in posts {
                if version <= replica.version {
                    continue;
                }
                replica.version = version;
                replica.posts.insert(key.clone(), (version, value.clone()));
                let from = of.clone();
                let news = match value {
                    Some(value) => GossipEvent::Set { from, key, value },
                    None => GossipEvent::Deleted { from, key },
                };
                station.news.try_send(news).unwrap();
            }
        }
    }

    /// Tells each node who is alive, by the signs of life that it has.
    fn judge(&mut self) {
        let now = Instant::now();
        for station in self.stations.values_mut().filter(|station| !station.crashed) {
            let mut heard = Vec::new();
            for (of, replica) in &station.replicas {
                let last = station.heard.entry(of.clone()).or_insert((0, now));
                if replica.heartbeat > last.0 {
                    *last = (replica.heartbeat, now);
                    heard.push(of.node.clone());
                }
            }
            let alive = |of: &Incarnation| {
                let newest = station.replicas.keys().filter(|o| o.node == of.node).map(|o| o.generation).max();
                let (heartbeat, at) = station.heard.get(of).copied().unwrap_or((0, now));
                newest == Some(of.generation) && heartbeat > 0 && now.duration_since(at) < SILENT
            };
            let others = station.replicas.keys().filter(|of| of.node != station.incarnation.node);
            let live: BTreeSet<_> = others.filter(|of| alive(of)).cloned().collect();
            if live != station.live {
                station.live.clone_from(&live);
                station.news.try_send(GossipEvent::Live(live)).unwrap();
            }
            if !heard.is_empty() {
                station.news.try_send(GossipEvent::Heard(heard)).unwrap();
            }
        }
    }
}

/// Where a node of the simulation posts.
pub struct SimBoard {
    network: Network,
    me: Incarnation,
}

impl SimBoard {
    fn post(&self, key: &str, value: Option<Bytes>) {
        self.network.with(|state| {
            let Some(station) = state.stations.get_mut(&self.me.node) else { return };
            let Some(own) = station.replicas.get_mut(&self.me) else { return };
            let same = own.posts.get(key).map_or(value.is_none(), |(_, posted)| *posted == value);
            if !same {
                own.version += 1;
                own.posts.insert(key.into(), (own.version, value));
            }
        });
    }
}

impl GossipStore for SimBoard {
    fn set(&self, key: &str, value: &[u8]) {
        self.post(key, Some(Bytes::copy_from_slice(value)));
    }

    fn delete(&self, key: &str) {
        self.post(key, None);
    }

    fn push(&self) {
        let peers: Vec<_> = self.network.with(|state| state.stations.keys().cloned().collect());
        for peer in peers.iter().filter(|peer| **peer != self.me.node) {
            self.network.exchange(&self.me.node, peer);
        }
    }
}

/// How a node of the simulation asks others.
pub struct SimPeers {
    network: Network,
    me: NodeId,
}

/// The address of a run of a node: another run is not reached by it.
pub fn address(incarnation: &Incarnation) -> String {
    format!("{}.{}:1", incarnation.node, incarnation.generation)
}

#[async_trait]
impl PeerClient for SimPeers {
    async fn call(&self, to: &Address, clock: Stamp, request: Request) -> Result<(Stamp, Response), CallError> {
        let deadline = Instant::now() + request.patience(RPC);
        let silent = || CallError::Unreachable("no answer in time".into());
        let (there, back, node) = self.network.with(|state| {
            let there = state.way(&self.me, &to.node);
            let back = state.way(&to.node, &self.me);
            let station = state.stations.get(&to.node);
            let same_side = state.sides.get(&self.me) == state.sides.get(&to.node);
            let refused = same_side && station.is_none_or(|s| s.crashed || address(&s.incarnation) != to.grpc);
            let node = station.filter(|_| !refused).and_then(|station| station.node.clone());
            (there, back, if refused { Err(()) } else { Ok(node) })
        });
        let Ok(node) = node else { return Err(CallError::Unreachable("connection refused".into())) };
        let (Some(there), Some(node)) = (there, node) else {
            sleep_until(deadline).await;
            return Err(silent());
        };
        let from = self.me.clone();
        // Who asks may stop to wait; who is asked goes on.
        let answer = tokio::spawn(async move {
            sleep(there).await;
            node.handle(from, clock, request).await
        });
        let answer = timeout_at(deadline, async {
            let answer = answer.await;
            match back {
                Some(back) => sleep(back).await,
                None => std::future::pending().await,
            }
            answer
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(silent()),
        }
    }
}
