//! Nodes of a mesh in this process, over real gossip and RPC on loopback.

use std::{sync::Arc, time::Duration};

use srs_proxy::{
    balancer::{Balancer, mesh},
    config::{self, BalancerType, Listen, Policy, Secret, Seed},
};
use tokio::task::JoinHandle;

/// A node that runs until it is dropped.
pub struct MeshNode {
    pub balancer: Arc<dyn Balancer>,
    pub seed: Seed,
    run: JoinHandle<()>,
}

impl Drop for MeshNode {
    fn drop(&mut self) {
        self.run.abort();
    }
}

/// How nodes of tests place: with short times, because they really pass.
pub fn placement() -> config::Balancer {
    config::Balancer {
        kind: BalancerType::Mesh,
        policy: Policy::PowerOfTwo,
        origin_ttl: Duration::from_secs(4),
        placement_hold: Duration::from_secs(2),
        connecting: Duration::from_secs(2),
        max_origins: 100,
        max_streams: 100_000,
    }
}

/// How the node `n` of a mesh is configured that finds the others by `seeds`.
pub fn settings(n: usize, seeds: Vec<Seed>) -> config::Mesh {
    let loopback = || Listen { host: Some("127.0.0.1".into()), port: 0 };
    config::Mesh {
        node_id: Some(format!("node-{n}")),
        gossip_listen: loopback(),
        grpc_listen: loopback(),
        seeds,
        key: Some(Secret::new("a key that only the tests have")),
        rpc_timeout: Duration::from_secs(1),
        renew_interval: Duration::from_millis(500),
        ..config::Mesh::default()
    }
}

/// Starts a node.
pub async fn start(mesh: &config::Mesh, placement: &config::Balancer) -> MeshNode {
    let mesh::Started { balancer, run, gossip_addr, .. } = mesh::start(mesh, placement).await.unwrap();
    let seed = Seed { host: gossip_addr.ip().to_string(), port: gossip_addr.port() };
    MeshNode { balancer, seed, run: tokio::spawn(run) }
}

/// Starts a mesh, and waits until all nodes serve and see each other.
pub async fn start_all(count: usize, placement: &config::Balancer) -> Vec<MeshNode> {
    let mut nodes: Vec<MeshNode> = Vec::new();
    for n in 0..count {
        let seeds = nodes.first().map(|first| first.seed.clone()).into_iter().collect();
        nodes.push(start(&settings(n, seeds), placement).await);
    }
    until_settled(&nodes).await;
    nodes
}

/// Waits until all nodes serve and see each other.
pub async fn until_settled(nodes: &[MeshNode]) {
    let settled = |node: &MeshNode| {
        let status = node.balancer.cluster().unwrap();
        status.stable && status.members.iter().filter(|member| member.live).count() == nodes.len()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !nodes.iter().all(settled) {
        let seen: Vec<_> = nodes.iter().map(|node| node.balancer.cluster().unwrap()).collect();
        assert!(tokio::time::Instant::now() < deadline, "the nodes do not see each other: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
