//! How long the answer to "where is this stream?" takes: by itself, and as clients see it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use srs_proxy::{
    balancer::{
        Balancer, Intent, PlaceRequest,
        mesh::{self, model::member::NodeState},
    },
    config::{self, BalancerType, Listen, Policy, Secret, Seed},
    origin::{Origin, Protocol},
    stream::StreamKey,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    Result,
    client::{Client, key},
    fleet::{Fleet, KEY, Kind, Place},
    options::Options,
    report::{Report, Times, ms},
};

const NODES: usize = 3;
/// Questions before the first that counts: connections are made, memory is there.
const WARM_UP: usize = 100;
const LIMIT: Duration = Duration::from_secs(30);
const TARGET: Duration = Duration::from_millis(2);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    in_process(options.tries, report).await?;

    let alone = Fleet::loopback(options.proxy.clone(), Kind::Memory, 1, &[]).await?;
    let without = publish_fresh(&alone, options.tries).await?;
    drop(alone);
    let mesh = Fleet::loopback(options.proxy.clone(), Kind::Mesh, NODES, &[]).await?;
    let with = publish_fresh(&mesh, options.tries).await?;
    report.state("publish of a fresh name, one node with memory", &without);
    report.state(format!("publish of a fresh name, {NODES} nodes"), &with);
    Ok(())
}

/// Publishes fresh names one after the other through one node.
async fn publish_fresh(fleet: &Fleet, count: usize) -> Result<Times> {
    let mut times: Vec<Duration> = Vec::with_capacity(count);
    for n in 0..count {
        let name = format!("place-{n}");
        let mut client = Client::open(fleet.rtmp(0)).await?;
        let asked = Instant::now();
        client.publish(&name).await?;
        times.push(asked.elapsed());
    }
    Ok(times.into_iter().collect())
}

/// Asks one of three nodes of this process, which talk to each other over real sockets.
async fn in_process(count: usize, report: &mut Report) -> Result<()> {
    let mut running = JoinSet::new();
    let nodes = start_nodes(&mut running).await?;
    let heartbeat = |n: usize| {
        let address = SocketAddr::from(([10, 0, 0, n as u8 + 1], 1935));
        crate::support::nginx::heartbeat(&format!("origin-{n}"), "run1", 1, address)
    };
    for n in 0..4 {
        let origin = Origin::from_heartbeat(heartbeat(n).as_bytes(), "")?;
        nodes[n % NODES].register(origin).await?;
    }
    let started = Instant::now();
    while !stable(&nodes).await {
        if started.elapsed() > LIMIT {
            return Err("the nodes do not agree on who they are".into());
        }
        sleep(Duration::from_millis(10)).await;
    }

    let (mut home, mut remote) = (Vec::new(), Vec::new());
    for n in 0..count + WARM_UP {
        let stream = StreamKey::from_shared(&key(&format!("in-process-{n}")))?;
        let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtmp, intent: Intent::Publish, avoid: &[] };
        let before = placed_by(&nodes[0]);
        let asked = Instant::now();
        nodes[0].place(request).await?;
        let took = asked.elapsed();
        if n >= WARM_UP {
            if placed_by(&nodes[0]) > before { home.push(took) } else { remote.push(took) }
        }
    }
    for (whose, times) in [("at home", home), ("at another node's", remote)] {
        let (count, times) = (times.len(), times.into_iter().collect::<Times>());
        report.good(
            format!("place() of a fresh name {whose}, {count} times"),
            format!("p50 {}, p99 {}", ms(times.percentile(50)), ms(times.percentile(99))),
            "p99 ≤ 2 ms",
            times.percentile(99) <= TARGET,
        );
    }
    Ok(())
}

async fn start_nodes(running: &mut JoinSet<()>) -> Result<Vec<Arc<dyn Balancer>>> {
    let places: Vec<_> = (0..NODES).map(|_| Place::loopback()).collect();
    let seeds: Vec<_> =
        places.iter().map(|p| Seed { host: p.gossip.ip().to_string(), port: p.gossip.port() }).collect();
    let placement = config::Balancer {
        kind: BalancerType::Mesh,
        policy: Policy::PowerOfTwo,
        origin_ttl: Duration::from_mins(5),
        placement_hold: Duration::from_mins(10),
        connecting: Duration::from_secs(30),
        max_origins: 100,
        max_streams: 100_000,
    };
    let listen = |address: SocketAddr| Listen { host: Some(address.ip().to_string()), port: address.port() };
    let mut nodes: Vec<Arc<dyn Balancer>> = Vec::new();
    for (n, place) in places.iter().enumerate() {
        let settings = config::Mesh {
            node_id: Some(format!("node-{n}")),
            gossip_listen: listen(place.gossip),
            grpc_listen: listen(place.grpc),
            seeds: seeds.clone(),
            key: Some(Secret::new(KEY)),
            ..config::Mesh::default()
        };
        let started = mesh::start(&settings, &placement).await?;
        running.spawn(started.run);
        nodes.push(started.balancer);
    }
    Ok(nodes)
}

/// Whether all nodes serve, see each other and know the origins.
async fn stable(nodes: &[Arc<dyn Balancer>]) -> bool {
    for node in nodes {
        let Some(cluster) = node.cluster() else { return false };
        let serving = cluster.members.iter().filter(|member| member.live && member.state == NodeState::Serving);
        let origins = node.origins().await.map_or(0, |origins| origins.len());
        if !cluster.stable || serving.count() != nodes.len() || origins != 4 {
            return false;
        }
    }
    true
}

/// How many streams a node has placed as their home.
fn placed_by(node: &Arc<dyn Balancer>) -> u64 {
    node.cluster().map_or(0, |cluster| cluster.counters.placed)
}
