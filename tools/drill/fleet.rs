//! Nodes as processes, and the origins behind them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::{
    Result, api,
    api::Placed,
    client::key,
    origin::Origin,
    support::{netns::Namespace, ports::free_port, process::Process},
};

/// How long a node may take to listen, and all nodes to know each other.
const START: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);
/// How often origins say that they live.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Any key; it guards nothing but loopback.
pub const KEY: &str = "ZHJpbGxzIG5lZWQgYSBrZXkgb2YgdGhpcnR5LXR3byE=";

/// What the nodes agree through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: one node.
    Memory,
    /// The Redis at this address.
    Redis(SocketAddr),
    /// Each other.
    Mesh,
}

/// Where a node is.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where it serves RTMP.
    pub rtmp: SocketAddr,
    /// Its system API.
    pub api: SocketAddr,
    /// Where it gossips.
    pub gossip: SocketAddr,
    /// Where it answers other nodes.
    pub grpc: SocketAddr,
    /// Where it runs, if not where the drill does.
    pub namespace: Option<Namespace>,
}

impl Place {
    /// Free ports on loopback.
    pub fn loopback() -> Self {
        Self::on(Ipv4Addr::LOCALHOST)
    }

    /// Free ports on an address of loopback.
    pub fn on(address: Ipv4Addr) -> Self {
        let free = || free_address(address);
        Self { rtmp: free(), api: free(), gossip: free(), grpc: free(), namespace: None }
    }

    /// The ordinary ports in a namespace.
    pub fn inside(namespace: &Namespace) -> Self {
        let (edge, mesh) = (namespace.edge(), namespace.mesh());
        let at = |address: Ipv4Addr, port| SocketAddr::from((address, port));
        Self {
            rtmp: at(edge, 1935),
            api: at(edge, 12025),
            gossip: at(mesh, 12026),
            grpc: at(mesh, 12027),
            namespace: Some(namespace.clone()),
        }
    }
}

/// A port on an address of loopback that nobody has, by TCP or by UDP.
pub fn free_address(address: Ipv4Addr) -> SocketAddr {
    let mut free = free_port();
    while UdpSocket::bind((address, free.port())).is_err() {
        free = free_port();
    }
    SocketAddr::from((address, free.port()))
}

/// One node.
pub struct Node {
    /// Its name, which survives a restart.
    pub name: String,
    /// Where it is.
    pub place: Place,
    settings: BTreeMap<String, String>,
    /// Its process, while it runs.
    pub process: Option<Process>,
}

/// Some nodes that know each other, with origins.
pub struct Fleet {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The origins.
    pub origins: Vec<Origin>,
    kind: Kind,
    binary: PathBuf,
    settings: BTreeMap<String, String>,
    seeds: Option<String>,
    heartbeats: Option<JoinHandle<()>>,
    directory: TempDir,
}

impl Fleet {
    /// No nodes yet. `settings` are those of every node, above the drills' own.
    pub fn new(binary: PathBuf, kind: Kind, settings: &[(&str, &str)]) -> Result<Self> {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let directory = tempfile::tempdir()?;
        let (nodes, origins) = (Vec::new(), Vec::new());
        Ok(Self { nodes, origins, kind, binary, settings, seeds: None, heartbeats: None, directory })
    }

    /// `count` nodes on loopback that know each other and four origins.
    pub async fn loopback(binary: PathBuf, kind: Kind, count: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let mut fleet = Self::new(binary, kind, settings)?;
        for _ in 0..count {
            fleet.add(Place::loopback(), &[]);
        }
        fleet.start_all().await?;
        fleet.add_origins(4, Ipv4Addr::LOCALHOST).await?;
        Ok(fleet)
    }

    /// The seeds of all nodes, instead of the nodes' addresses.
    pub fn set_seeds(&mut self, seeds: &str) {
        self.seeds = Some(seeds.to_owned());
    }

    /// Adds a node that does not run yet, and gives its number.
    pub fn add(&mut self, place: Place, settings: &[(&str, &str)]) -> usize {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let name = format!("node-{}", self.nodes.len());
        self.nodes.push(Node { name, place, settings, process: None });
        self.nodes.len() - 1
    }

    /// Starts a node, and does not wait for it.
    pub fn start(&mut self, n: usize) {
        let seeds = self.seeds.clone().unwrap_or_else(|| {
            self.nodes.iter().map(|node| node.place.gossip.to_string()).collect::<Vec<_>>().join(",")
        });
        let node = &mut self.nodes[n];
        let mut command = match &node.place.namespace {
            Some(namespace) => namespace.command(&self.binary),
            None => Command::new(&self.binary),
        };
        // The directory is empty: the proxy reads `.env` where it is started.
        command.current_dir(self.directory.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PROXY_")) {
            command.env_remove(name);
        }
        command
            .env("PROXY_RTMP_SERVER", node.place.rtmp.to_string())
            .env("PROXY_HTTP_SERVER", "127.0.0.1:0")
            .env("PROXY_HTTP_API", "127.0.0.1:0")
            .env("PROXY_WEBRTC_SERVER", "127.0.0.1:0")
            .env("PROXY_SRT_SERVER", "127.0.0.1:0")
            .env("PROXY_SYSTEM_API", node.place.api.to_string())
            .env("PROXY_RTMP_MAX_CONNECTIONS", "50000")
            .env("PROXY_RTMP_MAX_CONNECTIONS_PER_IP", "50000")
            .env("PROXY_GRACE_QUIT_TIMEOUT", "1s")
            .env("PROXY_FORCE_QUIT_TIMEOUT", "10s");
        match self.kind {
            Kind::Memory => {
                command.env("PROXY_LOAD_BALANCER_TYPE", "memory");
            }
            Kind::Redis(redis) => {
                command
                    .env("PROXY_LOAD_BALANCER_TYPE", "redis")
                    .env("PROXY_REDIS_HOST", redis.ip().to_string())
                    .env("PROXY_REDIS_PORT", redis.port().to_string());
            }
            Kind::Mesh => {
                command
                    .env("PROXY_LOAD_BALANCER_TYPE", "mesh")
                    .env("PROXY_MESH_NODE_ID", &node.name)
                    .env("PROXY_MESH_GOSSIP_LISTEN", node.place.gossip.to_string())
                    .env("PROXY_MESH_GRPC_LISTEN", node.place.grpc.to_string())
                    .env("PROXY_MESH_SEEDS", seeds)
                    .env("PROXY_MESH_KEY", KEY);
            }
        }
        command.envs(&self.settings).envs(&node.settings);
        node.process = Some(Process::spawn(&node.name, &command));
    }

    /// Changes where a node is, for its next start.
    pub fn relocate(&mut self, n: usize, place: Place) {
        self.nodes[n].place = place;
    }

    /// Waits until a node takes clients, and says how long that took.
    pub async fn ready(&mut self, n: usize) -> Result<Duration> {
        let started = Instant::now();
        while !api::is_ready(self.nodes[n].place.api).await {
            let node = &mut self.nodes[n];
            let process = node.process.as_mut().ok_or("the node was not started")?;
            if let Some(status) = process.try_exit() {
                return Err(format!("{} ended, {status}: {}", node.name, tail(&process.stderr())).into());
            }
            if started.elapsed() > START {
                return Err(format!("{} is not ready: {}", node.name, tail(&process.stderr())).into());
            }
            sleep(LOOK).await;
        }
        Ok(started.elapsed())
    }

    /// Starts all nodes at once, and waits until they know each other.
    pub async fn start_all(&mut self) -> Result<()> {
        (0..self.nodes.len()).for_each(|n| self.start(n));
        for n in 0..self.nodes.len() {
            self.ready(n).await?;
        }
        self.stable().await.map(drop)
    }

    /// The numbers of the nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].process.is_some()).collect()
    }

    /// Waits until all nodes that run see the same nodes, and says how long that took.
    pub async fn stable(&self) -> Result<Duration> {
        let started = Instant::now();
        if self.kind != Kind::Mesh {
            return Ok(started.elapsed());
        }
        let running = self.running();
        loop {
            let mut settled = 0;
            for n in &running {
                let cluster = api::cluster(self.nodes[*n].place.api).await?;
                settled += usize::from(is_settled(&cluster, running.len()));
            }
            if settled == running.len() {
                return Ok(started.elapsed());
            }
            if started.elapsed() > START {
                let cluster = api::cluster(self.nodes[running[0]].place.api).await?;
                return Err(format!("the nodes do not agree on who they are: {cluster}").into());
            }
            sleep(LOOK).await;
        }
    }

    /// Starts origins, registers each through another node, and waits until all nodes know all.
    pub async fn add_origins(&mut self, count: usize, address: Ipv4Addr) -> Result<()> {
        for n in 0..count {
            self.origins.push(Origin::start(&format!("origin-{n}"), (address, 0).into()).await?);
        }
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.place.api).collect();
        let heartbeats: Vec<_> = self.origins.iter().map(Origin::heartbeat).collect();
        for (n, heartbeat) in heartbeats.iter().enumerate() {
            api::register(nodes[n % nodes.len()], heartbeat).await?;
        }
        self.heartbeats = Some(tokio::spawn(async move {
            for round in 1.. {
                sleep(HEARTBEAT).await;
                for (n, heartbeat) in heartbeats.iter().enumerate() {
                    // A node that is down does not take it; the next one does, next time.
                    let _ = api::register(nodes[(n + round) % nodes.len()], heartbeat).await;
                }
            }
        }));
        let started = Instant::now();
        for n in self.running() {
            while api::count(self.nodes[n].place.api, "origins").await? < self.origins.len() {
                if started.elapsed() > START {
                    return Err(format!("{} does not learn of the origins", self.nodes[n].name).into());
                }
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Where clients reach a node.
    pub fn rtmp(&self, n: usize) -> SocketAddr {
        self.nodes[n].place.rtmp
    }

    /// Kills a node, as a crash does.
    pub fn kill(&mut self, n: usize) {
        self.nodes[n].process = None;
    }

    /// Asks a node to end.
    pub fn terminate(&self, n: usize) {
        if let Some(process) = &self.nodes[n].process {
            process.signal(Signal::TERM);
        }
    }

    /// Waits for the end of a node.
    pub async fn ended(&mut self, n: usize) -> Result<()> {
        let started = Instant::now();
        let Node { name, process, .. } = &mut self.nodes[n];
        if let Some(running) = process {
            while running.try_exit().is_none() {
                if started.elapsed() > START {
                    return Err(format!("{name} does not end: {}", tail(&running.stderr())).into());
                }
                sleep(LOOK).await;
            }
        }
        *process = None;
        Ok(())
    }

    /// All placements that a node knows, by stream.
    pub async fn placements(&self, n: usize) -> Result<BTreeMap<String, Placed>> {
        api::placements(self.nodes[n].place.api).await
    }

    /// Waits until a node knows so many placements.
    pub async fn wait_for_placements(&self, n: usize, count: usize) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let known = api::count(self.nodes[n].place.api, "streams").await?;
            if known >= count {
                return Ok(started.elapsed());
            }
            if started.elapsed() > START {
                return Err(format!("{} knows {known} of {count} placements", self.nodes[n].name).into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The names of the origins at which somebody asked for the stream.
    pub fn asked_at(&self, name: &str) -> Vec<&str> {
        self.origins.iter().filter(|origin| origin.asked(name).is_some()).map(|origin| origin.name.as_str()).collect()
    }

    /// What is known of a stream, for those who wonder why it is not where it should be.
    pub async fn story(&self, name: &str) -> String {
        let mut story = format!("{name} was asked for at {:?}", self.asked_at(name));
        for n in self.running() {
            let placed = self.placements(n).await.ok().and_then(|mut all| all.remove(&key(name)));
            let placed = placed.map(|placed| format!("{} (epoch {})", placed.origin, placed.epoch));
            // Writing to a string does not fail.
            let _ = write!(story, "; {} says {}", self.nodes[n].name, placed.unwrap_or_else(|| "nothing".into()));
        }
        story
    }

    /// The ids of the origins on which somebody publishes the stream.
    pub fn published_at(&self, name: &str) -> Vec<String> {
        self.origins.iter().filter(|origin| origin.has(name)).map(Origin::id).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(heartbeats) = &self.heartbeats {
            heartbeats.abort();
        }
    }
}

/// Whether a node says that all agree, and that so many serve.
pub fn is_settled(cluster: &serde_json::Value, nodes: usize) -> bool {
    let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let serving = members.iter().filter(|m| m["live"] == true && m["state"] == "serving" && m["same_view"] == true);
    cluster["stable"] == true && serving.count() == nodes
}

/// Does `work` for all `items`, `width` at a time, and gives what came of each, in their order.
pub async fn each<T: Send + 'static, F>(items: usize, width: usize, work: impl Fn(usize) -> F) -> Result<Vec<T>>
where
    F: Future<Output = T> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done = Vec::with_capacity(items);
    for n in 0..items {
        if running.len() >= width
            && let Some(finished) = running.join_next().await
        {
            done.push(finished?);
        }
        let work = work(n);
        running.spawn(async move { (n, work.await) });
    }
    while let Some(finished) = running.join_next().await {
        done.push(finished?);
    }
    done.sort_unstable_by_key(|(n, _)| *n);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
