use std::collections::{BTreeSet, VecDeque};

use async_trait::async_trait;
use chitchat::{
    ChitchatEnvelope,
    transport::{RecvOutcome, SendOutcome, Socket},
};
use rand::RngExt;
use tokio::time::sleep_until;

use super::*;
use crate::{
    balancer::mesh::traits::{GossipEvent, GossipStore},
    config::{Listen, Mesh, Seed},
};

const DELAY: Duration = Duration::from_millis(100);
const LOSS: f64 = 0.2;

/// A network that loses and delays what is sent.
struct Bad(QuicTransport);

struct BadSocket {
    socket: Box<dyn Socket>,
    delayed: VecDeque<(Instant, SocketAddr, ChitchatEnvelope)>,
}

#[async_trait]
impl Transport for Bad {
    async fn open(&self, address: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(BadSocket { socket: self.0.open(address).await?, delayed: VecDeque::new() }))
    }
}

#[async_trait]
impl Socket for BadSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.socket.local_addr()
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        if !rand::rng().random_bool(LOSS) {
            self.delayed.push_back((Instant::now() + DELAY, to, envelope));
        }
        Ok(SendOutcome { num_bytes_sent: 0 })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            let next = self.delayed.front().map(|(at, ..)| *at);
            tokio::select! {
                received = self.socket.recv() => return received,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some((_, to, envelope)) = self.delayed.pop_front() {
                        self.socket.send(to, envelope).await?;
                    }
                }
            }
        }
    }
}

fn settings(name: &str, seeds: &[SocketAddr]) -> Mesh {
    Mesh {
        node_id: Some(name.into()),
        gossip_listen: Listen { host: Some("127.0.0.1".into()), port: 0 },
        key: Some(Secret::new("a key of sixteen bytes")),
        seeds: seeds.iter().map(|seed| Seed { host: seed.ip().to_string(), port: seed.port() }).collect(),
        ..Mesh::default()
    }
}

/// Reads the news for `period`, and gives how often somebody who was alive was not any more, and who
/// is alive in the end.
async fn watch(mut gossip: Gossip, period: Duration) -> (usize, BTreeSet<Incarnation>) {
    let (mut live, mut lost) = (BTreeSet::new(), 0);
    let end = Instant::now() + period;
    let mut posts = tokio::time::interval(Duration::from_millis(300));
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = sleep_until(end) => return (lost, live),
            _ = posts.tick() => {
                round += 1;
                gossip.board.set("node", &round.to_be_bytes());
                gossip.board.push();
            }
            news = gossip.feed.recv() => match news.unwrap() {
                GossipEvent::Live(now) => {
                    lost += live.difference(&now).count();
                    live = now;
                }
                GossipEvent::Set { .. } | GossipEvent::Deleted { .. } | GossipEvent::Heard(_) => {}
            }
        }
    }
}

async fn flaps(count: usize, period: Duration) -> usize {
    let mut nodes: Vec<Gossip> = Vec::new();
    for index in 0..count {
        let seeds: Vec<_> = nodes.iter().take(1).map(Gossip::local_addr).collect();
        let bound = Bound::open(&settings(&format!("node-{index}"), &seeds)).await.unwrap();
        nodes.push(bound.start_over(|transport| Box::new(Bad(transport))).await.unwrap());
    }
    let watching: Vec<_> = nodes.into_iter().map(|node| tokio::spawn(watch(node, period))).collect();
    let mut lost = 0;
    for node in watching {
        let (of_this, live) = node.await.unwrap();
        assert_eq!(live.len(), count - 1, "not all are seen");
        lost += of_this;
    }
    lost
}

#[tokio::test]
async fn nobody_seems_dead_on_a_network_that_loses_a_fifth_and_is_slow() {
    assert_eq!(flaps(5, Duration::from_secs(10)).await, 0);
}

/// The measure of the whole minute; `cargo test --lib -- --ignored flap` runs it.
#[tokio::test]
#[ignore = "takes two minutes"]
async fn nobody_flaps_within_a_minute_on_a_bad_network() {
    for count in [3, 5] {
        let lost = flaps(count, Duration::from_secs(60)).await;
        println!("{count} nodes, 60 s, a fifth lost, {DELAY:?} each way: {lost} flaps");
        assert_eq!(lost, 0);
    }
}

#[test]
fn no_two_runs_have_the_same_generation() {
    let mut seen: Vec<_> = (0..1000).map(|_| next_generation()).collect();
    let made = seen.clone();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, made);
}

#[test]
fn a_node_without_a_name_has_that_of_its_host() {
    assert_eq!(node_id(&settings("a", &[])).unwrap().as_str(), "a");
    let name = node_id(&Mesh::default()).unwrap();
    assert!(!name.as_str().is_empty() && name.as_str().trim() == name.as_str());
}

#[test]
fn the_time_until_a_node_counts_as_dead_does_not_shrink_when_signs_of_life_come_often() {
    let interval = Duration::from_millis(250);
    let config = failure_detector(interval);
    // phi is the time since the last sign divided by the mean of the window and five such intervals.
    let limit = |last: Duration| {
        let mean = (last.as_secs_f64() + 5.0 * config.initial_interval.as_secs_f64()) / 6.0;
        Duration::from_secs_f64(config.phi_threshold * mean)
    };
    assert_eq!(config.sampling_window_size, 1);
    assert!(limit(Duration::ZERO) >= 7 * interval && limit(interval) <= 9 * interval);
    assert!(limit(config.max_interval) < 12 * interval);
}
