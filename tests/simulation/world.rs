//! Nodes, origins and clients on the simulated network, what happens to them, and what must hold
//! all the while.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use srs_proxy::{
    balancer::{
        Balancer, Intent, Lease, PlaceRequest, Placement, Reachability,
        mesh::{
            MeshBalancer,
            model::member::{Incarnation, NodeState},
            model::record::NodeId,
            node::Settings,
        },
    },
    config::Policy,
    origin::{Origin, OriginId, Protocol},
    stream::StreamKey,
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use super::network::{Network, RPC, SimNode, Weather, address};

const ORIGINS: usize = 4;
const STREAMS: usize = 12;
const ORIGIN_TTL: Duration = Duration::from_secs(6);
/// How long after the last trouble all nodes must agree.
pub const QUIET: Duration = Duration::from_secs(8);

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nodes come and go.
    Nodes,
    /// Origins die and come back as well.
    Origins,
    /// The network is cut, loses and delays as well, and nodes are slow.
    Network,
}

struct Run {
    incarnation: Incarnation,
    node: Arc<SimNode>,
    balancer: Arc<dyn Balancer>,
    tasks: Vec<AbortHandle>,
}

/// A session that a client has now.
#[derive(Debug, Clone)]
struct Use {
    node: NodeId,
    stream: StreamKey,
    origin: OriginId,
    epoch: u64,
}

struct State {
    rng: StdRng,
    started: Instant,
    runs: BTreeMap<NodeId, Run>,
    dead_origins: BTreeSet<usize>,
    uses: BTreeMap<u64, Use>,
    next_use: u64,
    /// The latest epoch that each run of a node told of each stream.
    epochs: BTreeMap<(Incarnation, StreamKey), u64>,
    /// The origin that was told for each epoch of each stream.
    history: BTreeMap<(StreamKey, u64), OriginId>,
    generation: u64,
    log: String,
    placed: usize,
    refused: usize,
    ending: bool,
    /// Nodes that drain.
    leaving: usize,
    /// What did not hold, first of all.
    failure: Option<String>,
}

/// The simulated world. Cheap to clone.
#[derive(Clone)]
pub struct World {
    pub network: Network,
    seed: u64,
    trouble: Trouble,
    state: Arc<Mutex<State>>,
}

/// What was seen in a run.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    pub placed: usize,
    pub refused: usize,
    pub conflicts: u64,
    pub claims: u64,
    pub adopted: u64,
}

fn stream(n: usize) -> StreamKey {
    StreamKey::from_shared(&format!("__defaultVhost__/live/{n}")).unwrap()
}

fn origin(n: usize) -> Origin {
    let body = format!(r#"{{"ip":"10.0.0.{n}","server":"o{n}","service":"s","pid":"1","rtmp":["1935"]}}"#);
    Origin::from_heartbeat(body.as_bytes(), "").unwrap()
}

impl World {
    pub fn new(seed: u64, trouble: Trouble) -> Self {
        Self {
            network: Network::new(seed),
            seed,
            trouble,
            state: Arc::new(Mutex::new(State {
                rng: StdRng::seed_from_u64(seed ^ 0x9E37_79B9_7F4A_7C15),
                started: Instant::now(),
                runs: BTreeMap::new(),
                dead_origins: BTreeSet::new(),
                uses: BTreeMap::new(),
                next_use: 0,
                epochs: BTreeMap::new(),
                history: BTreeMap::new(),
                generation: 0,
                log: String::new(),
                placed: 0,
                refused: 0,
                ending: false,
                leaving: 0,
                failure: None,
            })),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }

    fn log(&self, what: impl std::fmt::Display) {
        self.with(|state| {
            let _ = writeln!(state.log, "{:>9.3} {what}", state.started.elapsed().as_secs_f64());
        });
    }

    fn assert(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            self.log(format_args!("FAILED: {what}"));
            self.with(|state| {
                let log = &state.log;
                let failure = || format!("seed {} ({:?}): {what}\n{log}", self.seed, self.trouble);
                state.failure = state.failure.take().or_else(|| Some(failure()));
            });
        }
    }

    /// What did not hold so far.
    pub fn failure(&self) -> Option<String> {
        self.with(|state| state.failure.clone())
    }

    fn chance<T>(&self, work: impl FnOnce(&mut StdRng) -> T) -> T {
        self.with(|state| work(&mut state.rng))
    }

    /// Starts a node, or starts it anew.
    pub fn start(&self, name: &str, expects_others: bool) {
        let (incarnation, seed, skew) = self.with(|state| {
            state.generation += 1;
            let incarnation = Incarnation { node: name.into(), generation: state.generation };
            (incarnation, state.rng.random(), state.rng.random_range(0..1_000_000))
        });
        self.log(format_args!("{name} starts as {}", incarnation.generation));
        let (board, peers, news) = self.network.add(&incarnation);
        let started = self.with(|state| state.started);
        let settings = Settings {
            me: incarnation.clone(),
            grpc: address(&incarnation),
            wall: Arc::new(move || 1_000_000_000 + skew + started.elapsed().as_micros() as u64),
            seed,
            policy: Policy::PowerOfTwo,
            origin_ttl: ORIGIN_TTL,
            hold: Duration::from_secs(3),
            connecting: Duration::from_secs(3),
            max_origins: 100,
            max_streams: 1000,
            renew: Duration::from_secs(1),
            rpc: RPC,
            join: Duration::from_secs(2),
            fresh: Duration::from_millis(1_500),
            expects_others,
        };
        let node = SimNode::new(settings, board, peers);
        self.network.start(&node);
        let run = tokio::spawn(Arc::clone(&node).run(news)).abort_handle();
        let balancer: Arc<dyn Balancer> = Arc::new(MeshBalancer::new(Arc::clone(&node)));
        self.with(|state| state.runs.insert(name.into(), Run { incarnation, node, balancer, tasks: vec![run] }));
    }

    fn crash(&self, name: &NodeId) {
        self.log(format_args!("{name} crashes"));
        self.network.crash(name);
        self.remove(name);
    }

    fn remove(&self, name: &NodeId) {
        self.with(|state| {
            if let Some(run) = state.runs.remove(name) {
                run.tasks.iter().for_each(AbortHandle::abort);
            }
            state.uses.retain(|_, used| used.node != *name);
            if state.runs.values().all(|run| *run.node.phase().borrow() != NodeState::Serving) {
                // Nobody is left who knows anything.
                state.history.clear();
                state.epochs.clear();
                let _ = writeln!(state.log, "all knowledge is lost");
            }
        });
    }

    /// Drains a node, whose sessions end a little later, and ends it.
    async fn leave(self, name: NodeId) {
        let Some(node) = self.with(|state| state.runs.get(&name).map(|run| Arc::clone(&run.node))) else { return };
        self.log(format_args!("{name} drains"));
        self.with(|state| state.leaving += 1);
        self.clone().drain(&name, &node).await;
        self.with(|state| state.leaving -= 1);
    }

    async fn drain(self, name: &NodeId, node: &Arc<SimNode>) {
        node.drain().await;
        sleep(Duration::from_millis(500)).await;
        let runs = || self.with(|state| state.runs.get(name).is_some_and(|run| Arc::ptr_eq(&run.node, node)));
        if runs() {
            node.leave();
            sleep(Duration::from_millis(300)).await;
        }
        if runs() {
            self.log(format_args!("{name} leaves"));
            self.network.crash(name);
            self.remove(name);
        }
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.with(|state| state.runs.keys().cloned().collect())
    }

    /// Heartbeats of the origins that live, each to any node.
    pub async fn heartbeats(self) {
        loop {
            for n in 0..ORIGINS {
                let to = self.with(|state| {
                    let balancers: Vec<_> = state.runs.values().map(|run| Arc::clone(&run.balancer)).collect();
                    let dead = state.dead_origins.contains(&n) || balancers.is_empty();
                    (!dead).then(|| Arc::clone(&balancers[state.rng.random_range(0..balancers.len())]))
                });
                if let Some(balancer) = to {
                    let _ = balancer.register(origin(n)).await;
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn is_dead(&self, id: &OriginId) -> bool {
        self.with(|state| state.dead_origins.iter().any(|n| id.as_str().starts_with(&format!("o{n}-"))))
    }

    /// Starts clients at any nodes, until the end nears.
    pub async fn clients(self) {
        let mut clients = JoinSet::new();
        loop {
            let (pause, client) = self.with(|state| {
                let pause = Duration::from_millis(state.rng.random_range(0..120));
                let names: Vec<_> = state.runs.keys().cloned().collect();
                if state.ending || names.is_empty() {
                    return (pause, None);
                }
                let name = names[state.rng.random_range(0..names.len())].clone();
                let intent = if state.rng.random_bool(0.3) { Intent::Publish } else { Intent::Play };
                (pause, Some((name, stream(state.rng.random_range(0..STREAMS)), intent)))
            });
            if let Some((name, key, intent)) = client {
                // Now and then many ask for one stream at once, through several nodes.
                let crowd = if self.chance(|rng| rng.random_bool(0.2)) { self.nodes() } else { vec![name] };
                for name in crowd {
                    let task = clients.spawn(self.clone().client(name.clone(), key.clone(), intent));
                    self.with(|state| {
                        if let Some(run) = state.runs.get_mut(&name) {
                            run.tasks.push(task);
                        }
                    });
                }
            }
            sleep(pause).await;
        }
    }

    async fn client(self, name: NodeId, key: StreamKey, intent: Intent) {
        let Some((balancer, incarnation)) =
            self.with(|state| state.runs.get(&name).map(|run| (Arc::clone(&run.balancer), run.incarnation.clone())))
        else {
            return;
        };
        let mut avoid = Vec::new();
        for _ in 0..6 {
            let Some(placement) = self.place(&balancer, &incarnation, &key, intent, &avoid).await else { return };
            let id = placement.origin.id();
            if self.is_dead(&id) {
                balancer.report(&id, Reachability::Failed("connection refused".into())).await;
                avoid.push(id);
                continue;
            }
            avoid.clear();
            let mut lease = Lease::new(Arc::clone(&balancer), placement.clone(), intent);
            let used = self.with(|state| {
                state.next_use += 1;
                let used = Use { node: name.clone(), stream: key.clone(), origin: id.clone(), epoch: placement.epoch };
                state.uses.insert(state.next_use, used);
                state.next_use
            });
            let stay = Duration::from_millis(self.chance(|rng| rng.random_range(0..8_000)));
            let until = Instant::now() + stay;
            let mut moved = false;
            while !moved && (Instant::now() < until || self.with(|state| state.ending)) && !self.is_dead(&id) {
                sleep(Duration::from_millis(20)).await;
                // Not awaited: who waits for a watch is woken in an order of chance.
                moved = lease.moved().now_or_never().is_some();
            }
            self.with(|state| state.uses.remove(&used));
            drop(lease);
            if self.is_dead(&id) {
                balancer.report(&id, Reachability::Failed("connection reset".into())).await;
                avoid.push(id);
            } else if !moved {
                return;
            }
        }
    }

    async fn place(
        &self,
        balancer: &Arc<dyn Balancer>,
        incarnation: &Incarnation,
        key: &StreamKey,
        intent: Intent,
        avoid: &[OriginId],
    ) -> Option<Placement> {
        let at = (incarnation.clone(), key.clone());
        let users = |state: &State| -> BTreeMap<u64, OriginId> {
            let uses = state.uses.iter().filter(|(_, used)| used.stream == *key);
            uses.map(|(id, used)| (*id, used.origin.clone())).collect()
        };
        let (told, before) = self.with(|state| (state.epochs.get(&at).copied().unwrap_or(0), users(state)));
        let request = PlaceRequest { stream: key, protocol: Protocol::Rtmp, intent, avoid };
        let answer = timeout(Duration::from_secs(5), balancer.place(request)).await;
        self.assert(answer.is_ok(), || format!("{} did not answer for {key} within 5 s", incarnation.node));
        let placement = match answer.ok()? {
            Ok(placement) => placement,
            Err(error) => {
                self.log(format_args!("{} refuses {key}: {error}", incarnation.node));
                self.with(|state| state.refused += 1);
                return None;
            }
        };
        let (origin, epoch) = (placement.origin.id(), placement.epoch);
        self.log(format_args!("{} places {key} ({}) on {origin} at {epoch}", incarnation.node, intent.as_str()));
        self.assert(epoch >= told, || format!("{} went back from epoch {told} to {epoch} of {key}", incarnation.node));
        self.assert(!avoid.contains(&origin), || format!("{origin} was to be avoided"));
        let (first, after) = self.with(|state| {
            state.placed += 1;
            let latest = state.epochs.entry(at).or_default();
            *latest = epoch.max(*latest);
            let first = state.history.entry((key.clone(), epoch)).or_insert_with(|| origin.clone()).clone();
            (first, users(state))
        });
        if self.trouble != Trouble::Network {
            self.assert(first == origin, || format!("{key} was on {first} and on {origin} at epoch {epoch}"));
        }
        if self.trouble == Trouble::Nodes {
            for (id, used) in &before {
                let stays = after.contains_key(id);
                self.assert(!stays || *used == origin, || {
                    format!("{key} is in use on {used} and was placed on {origin}")
                });
            }
        }
        Some(placement)
    }

    /// Makes trouble for a while.
    pub async fn trouble(&self, names: &[String], time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(Duration::from_millis(self.chance(|rng| rng.random_range(50..1_500)))).await;
            let kinds = match self.trouble {
                Trouble::Nodes => 4,
                Trouble::Origins => 6,
                Trouble::Network => 10,
            };
            let name = names[self.chance(|rng| rng.random_range(0..names.len()))].clone();
            let runs = self.with(|state| state.runs.contains_key(&NodeId::from(name.as_str())));
            let others = self.nodes().len() > 1;
            match self.chance(|rng| rng.random_range(0..kinds)) {
                0 if runs && others => self.crash(&name.as_str().into()),
                1 if runs && others => {
                    tokio::spawn(self.clone().leave(name.as_str().into()));
                }
                0..=2 if !runs => self.start(&name, true),
                3 if runs && others => {
                    self.crash(&name.as_str().into());
                    self.start(&name, true);
                }
                4 => {
                    let n = self.chance(|rng| rng.random_range(0..ORIGINS));
                    if self.with(|state| state.dead_origins.len() < ORIGINS - 1 && state.dead_origins.insert(n)) {
                        self.log(format_args!("origin {n} dies"));
                    }
                }
                5 => self.with(|state| {
                    state.dead_origins.pop_first();
                }),
                6 => {
                    let sides = self.with(|state| {
                        names.iter().map(|name| (name.as_str().into(), u8::from(state.rng.random_bool(0.5)))).collect()
                    });
                    self.log(format_args!("cut {sides:?}"));
                    self.network.cut(sides);
                }
                7 => {
                    self.log("heal");
                    self.network.cut(BTreeMap::new());
                }
                8 => {
                    let weather = self.chance(|rng| Weather {
                        loss: rng.random_range(0.0..0.3),
                        latency: Duration::from_millis(rng.random_range(0..150)),
                    });
                    self.log(format_args!("{weather:?}"));
                    self.network.set_weather(weather);
                }
                9 => {
                    let slow = Duration::from_millis(
                        self.chance(|rng| *[0, 0, 100, 400, 3_000].get(rng.random_range(0..5)).unwrap()),
                    );
                    self.log(format_args!("{name} is slow by {slow:?}"));
                    self.network.set_slow(&name.as_str().into(), slow);
                }
                _ => {}
            }
        }
    }

    /// Ends all trouble, waits, and asserts that all nodes agree.
    pub async fn agree(&self, names: &[String]) -> Summary {
        self.log("all trouble ends");
        self.network.cut(BTreeMap::new());
        self.network.set_weather(Weather { loss: 0.0, latency: Duration::from_millis(5) });
        for name in names {
            self.network.set_slow(&name.as_str().into(), Duration::ZERO);
        }
        self.with(|state| {
            state.dead_origins.clear();
            state.ending = true;
        });
        // Nodes that drain end first.
        while self.with(|state| state.leaving > 0) {
            sleep(Duration::from_millis(100)).await;
        }
        if self.nodes().is_empty() {
            self.start(&names[0], true);
        }
        sleep(QUIET).await;

        let runs: Vec<_> = self
            .with(|state| state.runs.values().map(|run| (Arc::clone(&run.node), Arc::clone(&run.balancer))).collect());
        let mut summary = Summary::default();
        for (node, _) in &runs {
            let status = node.status();
            self.assert(status.state == NodeState::Serving, || format!("{} is not serving: {status:?}", node.id()));
            self.assert(status.stable, || format!("{} sees another cluster than the others: {status:#?}", node.id()));
            self.assert(status.conflicts == 0, || format!("conflicts at {}: {status:?}", node.id()));
            summary.conflicts += status.counters.conflicts;
            summary.claims += status.counters.claims;
            summary.adopted += status.counters.adopted;
        }
        for n in 0..STREAMS {
            let key = stream(n);
            let uses: Vec<Use> =
                self.with(|state| state.uses.values().filter(|used| used.stream == key).cloned().collect());
            let mut answers = BTreeSet::new();
            // Nodes that remember that the stream ended once have its epoch lifted when they ask.
            for (n, (_, balancer)) in std::iter::repeat_n(&runs, 4).flatten().enumerate() {
                if n % runs.len() == 0 {
                    answers.clear();
                }
                let request = PlaceRequest { stream: &key, protocol: Protocol::Rtmp, intent: Intent::Play, avoid: &[] };
                let answer = balancer.place(request).await;
                self.assert(answer.is_ok(), || format!("{key} is refused when all is well: {answer:?}"));
                answers.extend(answer.map(|placement| (placement.origin.id(), placement.epoch)));
            }
            self.assert(answers.len() == 1, || format!("nodes disagree on {key}: {answers:?}"));
            for used in uses {
                let there = answers.iter().all(|(origin, epoch)| used.origin == *origin && used.epoch <= *epoch);
                self.assert(there, || format!("{used:?} is not where the stream is: {answers:?}"));
            }
        }
        self.with(|state| {
            summary.placed = state.placed;
            summary.refused = state.refused;
        });
        summary
    }
}
