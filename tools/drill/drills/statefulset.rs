//! Three nodes as a StatefulSet runs them: each under a name that DNS knows, at an address that
//! changes with every restart.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    Result,
    client::{self, Failure, Held, Role},
    fleet::{Fleet, Kind, Place},
    options::Options,
    report::{Report, seconds},
    support::{
        dnsmasq::{self, Dnsmasq},
        netns::Network,
    },
};

const NODES: usize = 3;
/// The headless service, and its domain.
const SERVICE: &str = "mesh.test";
/// On the nodes that are not being restarted.
const PUBLISHERS: usize = 50;
/// Of each stream.
const PLAYERS: usize = 2;
/// Publishers on the node that is being restarted.
const MOVED: usize = 20;
const FRAME: Duration = Duration::from_millis(100);
/// How soon an encoder comes back.
const BACK: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(30);

/// The set, and the addresses that it has had.
struct Set<'a> {
    network: &'a Network,
    fleet: Fleet,
    dns: Dnsmasq,
    names: BTreeMap<String, Vec<std::net::Ipv4Addr>>,
    next_host: u8,
}

pub async fn run(options: &Options, network: &Network, report: &mut Report) -> Result<()> {
    if !dnsmasq::is_installed() {
        report.state("skipped", "dnsmasq is not installed (Debian: dnsmasq-base)");
        return Ok(());
    }
    let mut set = Set {
        network,
        fleet: Fleet::new(options.proxy.clone(), Kind::Mesh, &[])?,
        dns: Dnsmasq::start(&network.hub(), &BTreeMap::new()),
        names: BTreeMap::new(),
        next_host: 10,
    };
    set.fleet.set_seeds(&format!("{SERVICE}:12026"));
    for n in 0..NODES {
        let place = set.new_place();
        let host = format!("node-{n}.{SERVICE}");
        set.fleet.add(place, &[("PROXY_MESH_ADVERTISE_HOST", &host)]);
    }
    set.publish_names();
    let started = Instant::now();
    set.fleet.start_all().await?;
    report.state("started in parallel, until all are ready and see each other", seconds(started.elapsed()));
    set.fleet.add_origins(4, network.hub().edge()).await?;

    set.fleet.kill(1);
    let took = set.start_elsewhere(1).await?;
    report.state("killed and restarted at a new address under the same name, until all see it", seconds(took));
    let name = "after-restart";
    let publisher = client::publisher(set.fleet.rtmp(1), name).await;
    let player = client::player(set.fleet.rtmp(0), name).await;
    let works = publisher.is_ok() && player.is_ok();
    report.right("published through it and played through another", works, "true", works);

    for n in 0..NODES {
        rolling(&mut set, n, report).await?;
    }
    Ok(())
}

impl Set<'_> {
    fn new_place(&mut self) -> Place {
        let namespace = self.network.add(self.next_host);
        self.next_host += 1;
        namespace.resolve_at(self.network.hub().mesh());
        Place::inside(&namespace)
    }

    /// Tells DNS where all nodes are, whether they are ready or not.
    fn publish_names(&mut self) {
        self.names.clear();
        for (n, node) in self.fleet.nodes.iter().enumerate() {
            let Some(namespace) = &node.place.namespace else { continue };
            self.names.entry(SERVICE.to_owned()).or_default().push(namespace.mesh());
            self.names.insert(format!("node-{n}.{SERVICE}"), vec![namespace.mesh()]);
        }
        self.dns.set(&self.names);
    }

    /// Starts a node that does not run at a new address.
    async fn start_elsewhere(&mut self, n: usize) -> Result<Duration> {
        let old = self.fleet.nodes[n].place.namespace.clone();
        let place = self.new_place();
        self.fleet.relocate(n, place);
        self.publish_names();
        let started = Instant::now();
        self.fleet.start(n);
        self.fleet.ready(n).await?;
        self.fleet.stable().await?;
        let took = started.elapsed();
        if let Some(old) = old {
            old.remove();
        }
        Ok(took)
    }
}

/// Restarts one node while clients use all of them.
async fn rolling(set: &mut Set<'_>, n: usize, report: &mut Report) -> Result<()> {
    let others: Vec<SocketAddr> = (1..NODES).map(|k| set.fleet.rtmp((n + k) % NODES)).collect();
    let mut bystanders = Vec::new();
    for k in 0..PUBLISHERS {
        let name = format!("stays-{n}-{k}");
        let publisher = client::publisher(others[k % others.len()], &name).await?;
        bystanders.push(Held::new(publisher, &name, Role::Publisher(FRAME)));
        for p in 0..PLAYERS {
            match client::player(others[(k + p) % others.len()], &name).await {
                Ok(player) => bystanders.push(Held::new(player, &name, Role::Player)),
                Err(failure) => return Err(format!("{failure}: {}", set.fleet.story(&name).await).into()),
            }
        }
    }
    let mut moving = Vec::new();
    for k in 0..MOVED {
        let name = format!("moves-{n}-{k}");
        let publisher = client::publisher(set.fleet.rtmp(n), &name).await?;
        moving.push(Held::new(publisher, &name, Role::Publisher(FRAME)));
    }

    set.fleet.terminate(n);
    let mut failed = Vec::new();
    for (k, session) in moving.iter().enumerate() {
        wait_for_end(session).await?;
        if let Err(failure) = come_back(others[k % others.len()], others[(k + 1) % others.len()], &session.name).await {
            failed.push(failure);
        }
    }
    for failure in failed.iter().take(5) {
        eprintln!("  {failure}");
    }
    set.fleet.ended(n).await?;
    let took = set.start_elsewhere(n).await?;
    report.state(format!("node-{n} ended and started at a new address, until all see it"), seconds(took));
    report.right(
        format!("node-{n}: clients that did not come back at the first try, of {MOVED}"),
        failed.len(),
        "0",
        failed.is_empty(),
    );
    let disturbed = bystanders.iter().filter(|session| !session.is_undisturbed() || session.frames() == 0).count();
    report.right(
        format!("node-{n}: sessions on other nodes that saw something, of {}", bystanders.len()),
        disturbed,
        "0",
        disturbed == 0,
    );
    Ok(())
}

async fn wait_for_end(session: &Held) -> Result<()> {
    let started = Instant::now();
    while session.end().is_none() {
        if started.elapsed() > LIMIT {
            return Err("a node that was asked to end keeps its sessions".into());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// An encoder returns through one node, and is played through another.
async fn come_back(one: SocketAddr, other: SocketAddr, name: &str) -> Result<(), Failure> {
    sleep(BACK).await;
    let _publisher = client::publisher(one, name).await?;
    client::player(other, name).await?;
    Ok(())
}
