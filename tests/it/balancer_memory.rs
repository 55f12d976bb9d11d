//! The memory balancer: what every balancer promises, and what only this one does.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use srs_proxy::{
    balancer::{Balancer, BalancerError, Intent, Lease, Page, PlaceRequest, Placement, memory::MemoryBalancer},
    config::{self, Policy},
    metrics::{Metrics, balancer::Measured},
    origin::{Endpoint, Origin, Protocol},
    stream::StreamKey,
};
use srs_proxy_test_support::conformance;

use srs_proxy_test_support::conformance::Fixture;

const ALL: Page = Page { start: 0, count: usize::MAX };

struct OneNode(Arc<MemoryBalancer>);

fn config() -> config::Balancer {
    config::Balancer { max_origins: 100, ..config::Balancer::default() }
}

#[async_trait]
impl Fixture for OneNode {
    async fn start() -> Self {
        Self(Arc::new(MemoryBalancer::new(&config())))
    }

    fn nodes(&self) -> Vec<Arc<dyn Balancer>> {
        vec![Arc::clone(&self.0) as _]
    }

    fn origin_ttl(&self) -> Duration {
        config().origin_ttl
    }

    fn placement_hold(&self) -> Duration {
        config().placement_hold
    }

    async fn elapse(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// The same, with what counts and measures around it, as in a running node.
struct MeasuredNode(Arc<dyn Balancer>);

#[async_trait]
impl Fixture for MeasuredNode {
    async fn start() -> Self {
        Self(Arc::new(Measured::new(Arc::new(MemoryBalancer::new(&config())), Metrics::default())))
    }

    fn nodes(&self) -> Vec<Arc<dyn Balancer>> {
        vec![Arc::clone(&self.0)]
    }

    fn origin_ttl(&self) -> Duration {
        config().origin_ttl
    }

    fn placement_hold(&self) -> Duration {
        config().placement_hold
    }

    async fn elapse(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

mod measured {
    use super::*;

    conformance!([tokio::test(start_paused = true)] MeasuredNode);
}

mod paused_clock {
    use super::*;

    conformance!([tokio::test(start_paused = true)] OneNode);
}

/// The cases in which many ask at once, with threads that really run at once.
mod many_threads {
    use super::*;

    conformance!([tokio::test(flavor = "multi_thread", worker_threads = 4)] OneNode:
        the_first_placement_has_one_winner_however_many_ask
        the_next_placement_after_a_failure_has_one_winner_however_many_ask
        placements_are_listed_in_order_page_by_page
        any_mix_of_calls_leaves_one_origin_for_each_epoch
    );
}

fn origin(server: &str, ip: &str) -> Origin {
    let body = format!(r#"{{"ip":"{ip}","server":"{server}","service":"s","pid":"1","rtmp":["1935"]}}"#);
    Origin::from_heartbeat(body.as_bytes(), "").unwrap()
}

fn stream(i: usize) -> StreamKey {
    StreamKey::from_shared(&format!("__defaultVhost__/live/{i}")).unwrap()
}

fn request(stream: &StreamKey) -> PlaceRequest<'_> {
    PlaceRequest { stream, protocol: Protocol::Rtmp, intent: Intent::Play, avoid: &[] }
}

async fn place(node: &MemoryBalancer, i: usize) -> Result<Placement, BalancerError> {
    node.place(request(&stream(i))).await
}

async fn node(config: config::Balancer) -> Arc<MemoryBalancer> {
    let node = Arc::new(MemoryBalancer::new(&config));
    node.register(origin("a", "10.0.0.1")).await.unwrap();
    node
}

fn lease(node: &Arc<MemoryBalancer>, placement: Placement, intent: Intent) -> Lease {
    Lease::new(Arc::clone(node) as _, placement, intent)
}

#[tokio::test(start_paused = true)]
async fn when_full_the_placement_that_was_unused_longest_makes_room() {
    let node = node(config::Balancer { max_streams: 3, ..config() }).await;
    let first = place(&node, 1).await.unwrap();
    let held = lease(&node, first, Intent::Publish);
    for i in 2..=4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        place(&node, i).await.unwrap();
    }
    let listed = node.placements(ALL).await.unwrap().0;
    let streams: Vec<_> = listed.into_iter().map(|status| status.placement.stream).collect();
    assert_eq!(streams, [stream(1), stream(3), stream(4)]);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn when_all_placements_are_in_use_the_error_names_the_setting() {
    let node = node(config::Balancer { max_streams: 3, ..config() }).await;
    let mut leases = Vec::new();
    for i in 1..=3 {
        leases.push(lease(&node, place(&node, i).await.unwrap(), Intent::Play));
    }
    let error = place(&node, 4).await.unwrap_err();
    assert!(matches!(&error, BalancerError::Full(text) if text.contains("PROXY_MAX_STREAMS")), "{error}");
    place(&node, 1).await.expect("those that are placed are still found");
    leases.pop();
    place(&node, 4).await.expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn a_placement_that_lost_its_room_before_it_was_held_is_still_where_its_client_is() {
    let node = node(config::Balancer { max_streams: 1, ..config() }).await;
    node.register(origin("b", "10.0.0.2")).await.unwrap();
    for _ in 0..20 {
        let first = place(&node, 1).await.unwrap();
        place(&node, 2).await.unwrap();
        let held = lease(&node, first.clone(), Intent::Publish);
        let again = place(&node, 1).await.unwrap();
        assert_eq!((again.origin.id(), again.epoch), (first.origin.id(), first.epoch));
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_hold_time_a_placement_still_waits_for_its_client_to_connect() {
    let node = node(config::Balancer { placement_hold: Duration::ZERO, ..config() }).await;
    let first = place(&node, 1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(place(&node, 1).await.unwrap().epoch, first.epoch);
    drop(lease(&node, first, Intent::Play));
    assert_eq!(node.placements(ALL).await.unwrap().1, 0);
}

#[tokio::test(start_paused = true)]
async fn a_player_in_another_protocol_does_not_take_the_stream_from_its_publisher() {
    let node = node(config()).await;
    let with_srt = Origin { srt: vec![Endpoint::parse("10080").unwrap()], ..origin("b", "10.0.0.2") };
    let first = place(&node, 1).await.unwrap();
    let mut publisher = lease(&node, first.clone(), Intent::Publish);
    node.register(with_srt.clone()).await.unwrap();

    let key = stream(1);
    let srt = PlaceRequest { protocol: Protocol::Srt, ..request(&key) };
    assert!(matches!(node.place(srt).await, Err(BalancerError::NoOrigin { .. })));
    assert_eq!(place(&node, 1).await.unwrap().epoch, first.epoch);
    assert!(tokio::time::timeout(Duration::from_secs(1), publisher.moved()).await.is_err());

    drop(publisher);
    assert_eq!(node.place(srt).await.unwrap().origin.id(), with_srt.id());
}

#[tokio::test(start_paused = true)]
async fn placements_of_an_origin_that_is_gone_are_not_listed_and_come_back_with_it() {
    let node = node(config()).await;
    let first = place(&node, 1).await.unwrap();
    let _used = lease(&node, first.clone(), Intent::Publish);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(node.placements(ALL).await.unwrap().1, 0);
    // The same process, cut off for a while, with its publisher still connected.
    node.register(origin("a", "10.0.0.1")).await.unwrap();
    assert_eq!(node.placements(ALL).await.unwrap().1, 1);
    assert_eq!(place(&node, 1).await.unwrap().epoch, first.epoch);
}

#[tokio::test]
async fn the_policy_is_the_one_that_is_configured() {
    let counts = async |policy| {
        let node = MemoryBalancer::new(&config::Balancer { policy, ..config() });
        for i in 1..=10 {
            node.register(origin(&format!("o{i}"), &format!("10.0.0.{i}"))).await.unwrap();
        }
        for i in 0..5000 {
            place(&node, i).await.unwrap();
        }
        let counts: Vec<_> = node.origins().await.unwrap().iter().map(|status| status.streams).collect();
        counts.iter().max().unwrap() - counts.iter().min().unwrap()
    };
    // 5000 throws of a fair die with ten sides are never that even.
    assert!(counts(Policy::PowerOfTwo).await <= 10);
    assert!(counts(Policy::Random).await > 10);
}

#[tokio::test(start_paused = true)]
async fn expired_placements_are_cleared_away_a_few_at_a_time_and_a_listing_clears_all() {
    let node = node(config()).await;
    for i in 0..20_000 {
        place(&node, i).await.unwrap();
    }
    assert_eq!(node.placements(ALL).await.unwrap().1, 20_000);
    tokio::time::sleep(Duration::from_mins(1)).await;
    place(&node, 1).await.unwrap();
    let status = node.origins().await.unwrap();
    assert!(status[0].streams > 19_900, "one call did it all: {}", status[0].streams);
    assert_eq!(node.placements(ALL).await.unwrap().1, 1);
    assert_eq!(node.origins().await.unwrap()[0].streams, 1);
}
