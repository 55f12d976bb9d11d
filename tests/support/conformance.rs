//! What every balancer promises, whatever its nodes agree through. Each case is a function over a
//! [`Fixture`]; the macro `conformance!` makes one test of each.
//!
//! A case speaks to all nodes of the fixture in turn. What one node was told of an origin may take a
//! moment to reach the others, so cases wait for that; what a node answers about a placement must be
//! right at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use srs_proxy::{
    balancer::{
        Balancer, BalancerError, DEFAULT_BACKEND_PREFIX, Intent, Lease, OriginState, OriginStatus, Page, PlaceRequest,
        Placement, Reachability,
    },
    origin::{Endpoint, Origin, OriginId, Protocol},
    stream::StreamKey,
};
use tokio::task::JoinSet;

/// How long nodes may take to tell each other something.
const LIMIT: Duration = Duration::from_secs(10);
const ALL: Page = Page { start: 0, count: usize::MAX };

/// One or more nodes that share their state, fresh for each case.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// Starts the nodes.
    async fn start() -> Self;
    /// The nodes. They differ from each other in nothing that a case relies on.
    fn nodes(&self) -> Vec<Arc<dyn Balancer>>;
    /// How long an origin counts as registered after its last heartbeat.
    fn origin_ttl(&self) -> Duration;
    /// How long a placement outlives its last session.
    fn placement_hold(&self) -> Duration;
    /// Lets time pass: really, or by a paused clock.
    async fn elapse(&self, time: Duration);
}

/// Makes a test of each case: `conformance!([tokio::test(start_paused = true)] MyFixture);`
macro_rules! conformance {
    ($attribute:tt $fixture:ty) => {
        conformance!($attribute $fixture:
            a_placed_stream_stays_on_its_origin_for_all_nodes
            a_stream_on_an_origin_that_failed_moves_at_the_next_request
            streams_on_other_origins_stay_when_one_fails
            suspect_origins_are_used_when_nothing_else_is_left
            a_stream_stays_on_a_suspect_origin_when_nothing_else_is_left
            a_suspicion_ends_with_a_connection
            a_suspicion_ends_with_a_heartbeat
            a_refresh_of_the_configured_backend_does_not_end_a_suspicion
            a_report_on_an_unknown_origin_changes_nothing
            an_avoided_origin_is_never_given
            an_avoided_origin_is_not_given_as_the_last_resort
            a_restarted_origin_replaces_its_old_self
            an_origin_at_the_address_of_another_replaces_it
            live_origins_with_one_server_id_are_both_kept
            an_origin_without_heartbeats_expires_and_its_streams_move
            a_heartbeat_keeps_an_origin_and_its_streams
            a_released_placement_is_kept_for_the_hold_time_and_then_forgotten
            a_placement_that_was_never_held_is_forgotten
            a_held_placement_does_not_expire
            a_placement_held_by_one_session_survives_the_end_of_another
            a_release_without_a_hold_changes_nothing
            an_epoch_never_goes_back_even_when_the_placement_was_forgotten
            those_who_hold_a_placement_learn_that_it_moved
            a_hold_on_a_placement_that_has_moved_already_says_so
            the_first_placement_has_one_winner_however_many_ask
            the_next_placement_after_a_failure_has_one_winner_however_many_ask
            without_an_origin_the_error_says_what_was_wanted
            only_origins_that_serve_the_protocol_are_given
            a_stream_moves_when_its_origin_no_longer_serves_the_protocol
            fresh_streams_are_spread_over_the_origins
            session_records_lead_any_node_to_the_stream_until_they_expire
            placements_are_listed_in_order_page_by_page
            placements_count_their_users
            every_node_is_ready
            any_mix_of_calls_leaves_one_origin_for_each_epoch
        );
    };
    ($attribute:tt $fixture:ty: $($case:ident)*) => {
        $(conformance!(@test $attribute $fixture, $case);)*
    };
    (@test [$($attribute:tt)*] $fixture:ty, $case:ident) => {
        #[$($attribute)*]
        async fn $case() {
            conformance::$case::<$fixture>().await;
        }
    };
}

/// The fixture under test, and the heartbeats that keep its origins registered.
struct Cluster<F> {
    fixture: F,
    nodes: Vec<Arc<dyn Balancer>>,
    heartbeats: JoinSet<()>,
}

impl<F: Fixture> Cluster<F> {
    async fn start() -> Self {
        let fixture = F::start().await;
        let nodes = fixture.nodes();
        assert!(!nodes.is_empty());
        Self { fixture, nodes, heartbeats: JoinSet::new() }
    }

    /// Starts with origins 1 to `count`, whose heartbeats go on.
    async fn with_origins(count: u16) -> Self {
        let mut cluster = Self::start().await;
        for n in 1..=count {
            cluster.keep_registered(origin(n)).await;
        }
        cluster
    }

    /// Any node; another one for each `n`.
    fn node(&self, n: usize) -> &Arc<dyn Balancer> {
        &self.nodes[n % self.nodes.len()]
    }

    /// Registers an origin once, and waits until all nodes know it.
    async fn register(&self, origin: Origin) {
        let id = origin.id();
        self.nodes[0].register(origin).await.unwrap();
        self.until(&format!("all nodes know {id}"), |origins| origins.iter().any(|o| o.origin.id() == id)).await;
    }

    /// Registers an origin and sends its heartbeats until the case ends.
    async fn keep_registered(&mut self, origin: Origin) {
        self.register(origin.clone()).await;
        let (node, period) = (Arc::clone(&self.nodes[0]), self.fixture.origin_ttl() / 4);
        self.heartbeats.spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                node.register(origin.clone()).await.unwrap();
            }
        });
    }

    /// Reports that an origin failed, and waits until all nodes suspect it.
    async fn fail(&self, id: &OriginId) {
        self.nodes[0].report(id, Reachability::Failed("connection refused".into())).await;
        self.until_state(id, OriginState::Suspect).await;
    }

    async fn until_state(&self, id: &OriginId, state: OriginState) {
        self.until(&format!("all nodes see {id} as {}", state.as_str()), |origins| {
            origins.iter().any(|o| o.origin.id() == *id && o.state == state)
        })
        .await;
    }

    /// Waits until the list of origins fulfils `condition` on all nodes.
    async fn until(&self, what: &str, condition: impl Fn(&[OriginStatus]) -> bool) {
        for node in &self.nodes {
            eventually(what, async || condition(&node.origins().await.unwrap())).await;
        }
    }

    /// Waits until exactly these origins are registered on all nodes.
    async fn until_registered(&self, ids: &[OriginId]) {
        let wanted: HashSet<_> = ids.iter().cloned().collect();
        self.until(&format!("exactly {ids:?} are registered"), |origins| {
            origins.iter().map(|o| o.origin.id()).collect::<HashSet<_>>() == wanted
        })
        .await;
    }

    /// Asserts that all nodes give this placement.
    async fn assert_placed(&self, placement: &Placement) {
        for node in &self.nodes {
            let got = place(node, &placement.stream).await;
            assert_eq!((got.origin.id(), got.epoch), (placement.origin.id(), placement.epoch));
        }
    }

    /// How many placements there are, once all nodes agree.
    async fn until_placements(&self, count: usize) {
        for node in &self.nodes {
            eventually(&format!("{count} placements are listed"), async || {
                let (listed, total) = node.placements(ALL).await.unwrap();
                assert_eq!(listed.len(), total);
                total == count
            })
            .await;
        }
    }
}

async fn eventually<Fut: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> Fut) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Origin number `n`, on a host of its own.
fn origin(n: u16) -> Origin {
    let body = format!(
        r#"{{"ip":"10.0.{}.{}","server":"vid-{n}","service":"run1","pid":"1","rtmp":["1935"]}}"#,
        n / 250,
        n % 250 + 1
    );
    Origin::from_heartbeat(body.as_bytes(), "SRS/7.0.18(Hang)").unwrap()
}

/// The next run of an origin.
fn restarted(mut origin: Origin) -> Origin {
    origin.service_id.push('+');
    origin.pid.push('1');
    origin
}

fn stream(name: &str) -> StreamKey {
    StreamKey::from_shared(&format!("__defaultVhost__/live/{name}")).unwrap()
}

fn request<'a>(stream: &'a StreamKey, avoid: &'a [OriginId]) -> PlaceRequest<'a> {
    PlaceRequest { stream, protocol: Protocol::Rtmp, intent: Intent::Play, avoid }
}

async fn place(node: &Arc<dyn Balancer>, stream: &StreamKey) -> Placement {
    let placement = node.place(request(stream, &[])).await.unwrap();
    assert_eq!(placement.stream, *stream);
    placement
}

pub async fn a_placed_stream_stays_on_its_origin_for_all_nodes<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(5).await;
    for i in 0..20 {
        let first = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        cluster.assert_placed(&first).await;
    }
}

pub async fn a_stream_on_an_origin_that_failed_moves_at_the_next_request<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    cluster.fail(&first.origin.id()).await;
    let second = place(cluster.node(1), &first.stream).await;
    assert_ne!(second.origin.id(), first.origin.id());
    assert!(second.epoch > first.epoch);
    cluster.assert_placed(&second).await;
}

pub async fn streams_on_other_origins_stay_when_one_fails<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let mut placed = Vec::new();
    for i in 0..15 {
        placed.push(place(cluster.node(i), &stream(&format!("s{i}"))).await);
    }
    let failed = placed[0].origin.id();
    cluster.fail(&failed).await;
    for (i, before) in placed.iter().enumerate() {
        let after = place(cluster.node(i + 1), &before.stream).await;
        assert_ne!(after.origin.id(), failed, "{}", before.stream);
        if before.origin.id() != failed {
            assert_eq!((after.origin.id(), after.epoch), (before.origin.id(), before.epoch));
        }
    }
}

pub async fn suspect_origins_are_used_when_nothing_else_is_left<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    cluster.fail(&origin(1).id()).await;
    cluster.fail(&origin(2).id()).await;
    let first = place(cluster.node(0), &stream("s")).await;
    cluster.assert_placed(&first).await;
}

pub async fn a_stream_stays_on_a_suspect_origin_when_nothing_else_is_left<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    let first = place(cluster.node(0), &stream("s")).await;
    cluster.fail(&origin(1).id()).await;
    cluster.fail(&origin(2).id()).await;
    for _ in 0..10 {
        cluster.assert_placed(&first).await;
    }
    // The other one recovers, and is better than a suspect one.
    let other = if first.origin.id() == origin(1).id() { origin(2) } else { origin(1) };
    cluster.node(1).report(&other.id(), Reachability::Reached).await;
    cluster.until_state(&other.id(), OriginState::Live).await;
    let second = place(cluster.node(2), &first.stream).await;
    assert_eq!(second.origin.id(), other.id());
    assert!(second.epoch > first.epoch);
}

pub async fn a_suspicion_ends_with_a_connection<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    let id = origin(1).id();
    cluster.fail(&id).await;
    let statuses = cluster.node(1).origins().await.unwrap();
    assert!(statuses[0].suspect_reason.as_ref().is_some_and(|r| r.contains("connection refused")), "{statuses:?}");
    cluster.node(1).report(&id, Reachability::Reached).await;
    cluster.until_state(&id, OriginState::Live).await;
    assert_eq!(cluster.node(0).origins().await.unwrap()[0].suspect_reason, None);
}

pub async fn a_suspicion_ends_with_a_heartbeat<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    cluster.fail(&origin(1).id()).await;
    cluster.node(0).register(origin(1)).await.unwrap();
    cluster.until_state(&origin(1).id(), OriginState::Live).await;
}

pub async fn a_refresh_of_the_configured_backend_does_not_end_a_suspicion<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    let mut backend = origin(2);
    backend.server_id = format!("{DEFAULT_BACKEND_PREFIX}x");
    cluster.register(backend.clone()).await;
    cluster.fail(&backend.id()).await;
    cluster.fail(&origin(1).id()).await;
    cluster.node(0).register(backend.clone()).await.unwrap();
    cluster.node(0).register(origin(1)).await.unwrap();
    // By then the refresh, which was sent before, is known as well.
    cluster.until_state(&origin(1).id(), OriginState::Live).await;
    cluster.until_state(&backend.id(), OriginState::Suspect).await;
    for i in 0..20 {
        let placed = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        assert_eq!(placed.origin.id(), origin(1).id());
    }
}

pub async fn a_report_on_an_unknown_origin_changes_nothing<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    let first = place(cluster.node(0), &stream("s")).await;
    for node in &cluster.nodes {
        node.report(&OriginId::from("no-such-origin"), Reachability::Failed("refused".into())).await;
        node.report(&OriginId::from("no-such-origin"), Reachability::Reached).await;
    }
    cluster.until_registered(&[origin(1).id()]).await;
    cluster.assert_placed(&first).await;
}

pub async fn an_avoided_origin_is_never_given<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let avoid = [origin(1).id(), origin(3).id()];
    for i in 0..20 {
        let key = stream(&format!("s{i}"));
        let before = place(cluster.node(i), &key).await;
        let after = cluster.node(i + 1).place(request(&key, &avoid)).await.unwrap();
        assert_eq!(after.origin.id(), origin(2).id());
        assert_eq!(after.epoch > before.epoch, before.origin.id() != origin(2).id());
        cluster.assert_placed(&after).await;
    }
}

pub async fn an_avoided_origin_is_not_given_as_the_last_resort<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let other = if first.origin.id() == origin(1).id() { origin(2).id() } else { origin(1).id() };
    cluster.fail(&first.origin.id()).await;
    cluster.fail(&other).await;
    let avoid = [first.origin.id()];
    let second = cluster.node(1).place(request(&first.stream, &avoid)).await.unwrap();
    assert_eq!(second.origin.id(), other);
    let avoid = [first.origin.id(), other];
    let error = cluster.node(2).place(request(&first.stream, &avoid)).await.unwrap_err();
    assert_eq!(error, BalancerError::NoOrigin { protocol: Protocol::Rtmp, registered: 2 });
    cluster.assert_placed(&second).await;
}

pub async fn a_restarted_origin_replaces_its_old_self<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    cluster.register(origin(1)).await;
    let first = place(cluster.node(0), &stream("s")).await;
    // At another address: a container that was started again.
    let mut next = restarted(origin(1));
    next.ip = "10.0.9.9".into();
    cluster.register(next.clone()).await;
    cluster.until_registered(&[next.id()]).await;
    let second = place(cluster.node(1), &first.stream).await;
    assert_eq!(second.origin.id(), next.id());
    assert!(second.epoch > first.epoch);
    cluster.assert_placed(&second).await;
}

pub async fn an_origin_at_the_address_of_another_replaces_it<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    cluster.register(origin(1)).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let mut next = origin(2);
    next.ip.clone_from(&first.origin.ip);
    cluster.register(next.clone()).await;
    cluster.until_registered(&[next.id()]).await;
    let second = place(cluster.node(1), &first.stream).await;
    assert_eq!(second.origin.id(), next.id());
    assert!(second.epoch > first.epoch);
}

pub async fn live_origins_with_one_server_id_are_both_kept<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    let one = origin(1);
    let mut clone = restarted(origin(2));
    clone.server_id.clone_from(&one.server_id);
    cluster.register(one.clone()).await;
    cluster.register(clone.clone()).await;
    cluster.until_registered(&[clone.id()]).await;
    // The first one is alive after all.
    for _ in 0..3 {
        cluster.register(one.clone()).await;
        cluster.register(clone.clone()).await;
        cluster.until_registered(&[one.id(), clone.id()]).await;
    }
}

pub async fn an_origin_without_heartbeats_expires_and_its_streams_move<F: Fixture>() {
    let mut cluster = Cluster::<F>::start().await;
    cluster.register(origin(1)).await;
    let first = place(cluster.node(0), &stream("s")).await;
    cluster.keep_registered(origin(2)).await;
    cluster.fixture.elapse(cluster.fixture.origin_ttl() / 2).await;
    for node in &cluster.nodes {
        assert_eq!(node.origins().await.unwrap().len(), 2);
    }
    cluster.fixture.elapse(cluster.fixture.origin_ttl() * 3 / 4).await;
    cluster.until_registered(&[origin(2).id()]).await;
    let second = place(cluster.node(1), &first.stream).await;
    assert_eq!(second.origin.id(), origin(2).id());
    assert!(second.epoch > first.epoch);
}

pub async fn a_heartbeat_keeps_an_origin_and_its_streams<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let _used = Lease::new(Arc::clone(cluster.node(0)), first.clone(), Intent::Publish);
    cluster.fixture.elapse(cluster.fixture.origin_ttl() * 2).await;
    cluster.assert_placed(&first).await;
    let ttl = cluster.fixture.origin_ttl();
    cluster.until("heartbeats are young", |origins| origins.iter().all(|o| o.heartbeat_age < ttl)).await;
}

pub async fn a_released_placement_is_kept_for_the_hold_time_and_then_forgotten<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let hold = cluster.fixture.placement_hold();
    let first = place(cluster.node(0), &stream("s")).await;
    let lease = Lease::new(Arc::clone(cluster.node(0)), first.clone(), Intent::Publish);
    cluster.fixture.elapse(hold * 2).await;
    drop(lease);
    cluster.fixture.elapse(hold * 3 / 4).await;
    for node in &cluster.nodes {
        assert_eq!(node.placements(ALL).await.unwrap().1, 1);
    }
    cluster.fixture.elapse(hold / 2).await;
    cluster.until_placements(0).await;
}

pub async fn a_placement_that_was_never_held_is_forgotten<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    place(cluster.node(0), &stream("s")).await;
    cluster.until_placements(1).await;
    cluster.fixture.elapse(cluster.fixture.placement_hold() * 5 / 4).await;
    cluster.until_placements(0).await;
    cluster.until("no origin counts it", |origins| origins.iter().all(|o| o.streams == 0)).await;
}

pub async fn a_held_placement_does_not_expire<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let lease = Lease::new(Arc::clone(cluster.node(1)), first.clone(), Intent::Play);
    cluster.fixture.elapse(cluster.fixture.placement_hold() * 4).await;
    cluster.until_placements(1).await;
    assert_eq!(lease.placement().epoch, first.epoch);
    cluster.assert_placed(&first).await;
}

pub async fn a_placement_held_by_one_session_survives_the_end_of_another<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let _publisher = Lease::new(Arc::clone(cluster.node(0)), first.clone(), Intent::Publish);
    for i in 0..3 {
        drop(Lease::new(Arc::clone(cluster.node(i)), first.clone(), Intent::Play));
        drop(Lease::new(Arc::clone(cluster.node(i)), first.clone(), Intent::Publish));
    }
    cluster.fixture.elapse(cluster.fixture.placement_hold() * 3 / 2).await;
    cluster.until_placements(1).await;
    cluster.assert_placed(&first).await;
}

pub async fn a_release_without_a_hold_changes_nothing<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let _publisher = Lease::new(Arc::clone(cluster.node(0)), first.clone(), Intent::Publish);
    cluster.node(0).release(&first.stream, Intent::Play);
    cluster.node(0).release(&stream("unknown"), Intent::Play);
    cluster.fixture.elapse(cluster.fixture.placement_hold() * 3 / 2).await;
    cluster.assert_placed(&first).await;
}

pub async fn an_epoch_never_goes_back_even_when_the_placement_was_forgotten<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let key = stream("s");
    let mut last = 0;
    for i in 0..4 {
        let fresh = place(cluster.node(i), &key).await;
        assert!(fresh.epoch > last, "epoch {} after {last}", fresh.epoch);
        let avoid = [fresh.origin.id()];
        let moved = cluster.node(i + 1).place(request(&key, &avoid)).await.unwrap();
        assert!(moved.epoch > fresh.epoch);
        last = moved.epoch;
        cluster.fixture.elapse(cluster.fixture.placement_hold() * 5 / 4).await;
        cluster.until_placements(0).await;
    }
}

pub async fn those_who_hold_a_placement_learn_that_it_moved<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let other = place(cluster.node(0), &stream("other")).await;
    let mut leases = Vec::new();
    for node in &cluster.nodes {
        leases.push(Lease::new(Arc::clone(node), first.clone(), Intent::Publish));
        leases.push(Lease::new(Arc::clone(node), first.clone(), Intent::Play));
    }
    let mut unmoved = Lease::new(Arc::clone(cluster.node(0)), other, Intent::Play);
    cluster.assert_placed(&first).await;
    for lease in &mut leases {
        let early = tokio::time::timeout(Duration::from_millis(1), lease.moved()).await;
        assert!(early.is_err(), "told of a move before there was one");
    }

    let avoid = [first.origin.id()];
    let last = cluster.nodes.len() - 1;
    let second = cluster.node(last).place(request(&first.stream, &avoid)).await.unwrap();
    assert!(second.epoch > first.epoch);
    for lease in &mut leases {
        tokio::time::timeout(LIMIT, lease.moved()).await.expect("everyone is told");
    }
    assert!(tokio::time::timeout(Duration::from_millis(1), unmoved.moved()).await.is_err(), "another stream's move");

    // The move is noticed once: whoever holds the new placement is not told of it again.
    let mut renewed = Lease::new(Arc::clone(cluster.node(0)), second, Intent::Play);
    drop(leases);
    assert!(tokio::time::timeout(Duration::from_millis(1), renewed.moved()).await.is_err());
}

pub async fn a_hold_on_a_placement_that_has_moved_already_says_so<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let avoid = [first.origin.id()];
    cluster.node(0).place(request(&first.stream, &avoid)).await.unwrap();
    for node in &cluster.nodes {
        let mut late = Lease::new(Arc::clone(node), first.clone(), Intent::Play);
        tokio::time::timeout(LIMIT, late.moved()).await.expect("told at once");
    }
}

pub async fn the_first_placement_has_one_winner_however_many_ask<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(4).await;
    one_winner(&cluster, (0..20).map(|i| (stream(&format!("s{i}")), Vec::new())).collect()).await;
}

pub async fn the_next_placement_after_a_failure_has_one_winner_however_many_ask<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(4).await;
    let mut asked = Vec::new();
    for i in 0..20 {
        let first = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        asked.push((first.stream, vec![first.origin.id()]));
    }
    one_winner(&cluster, asked).await;
}

/// Asks all nodes for each stream many times at once.
async fn one_winner<F: Fixture>(cluster: &Cluster<F>, asked: Vec<(StreamKey, Vec<OriginId>)>) {
    let mut tasks = JoinSet::new();
    for (key, avoid) in asked {
        for node in &cluster.nodes {
            for _ in 0..8 {
                let (node, key, avoid) = (Arc::clone(node), key.clone(), avoid.clone());
                tasks.spawn(async move { node.place(request(&key, &avoid)).await.unwrap() });
            }
        }
    }
    let mut winners: HashMap<StreamKey, HashSet<(OriginId, u64)>> = HashMap::new();
    for placement in tasks.join_all().await {
        winners.entry(placement.stream.clone()).or_default().insert((placement.origin.id(), placement.epoch));
    }
    for (stream, winners) in winners {
        assert_eq!(winners.len(), 1, "{stream} was placed as {winners:?}");
    }
}

pub async fn without_an_origin_the_error_says_what_was_wanted<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    let key = stream("s");
    for node in &cluster.nodes {
        let error = node.place(request(&key, &[])).await.unwrap_err();
        assert_eq!(error, BalancerError::NoOrigin { protocol: Protocol::Rtmp, registered: 0 });
    }
    cluster.register(origin(1)).await;
    for node in &cluster.nodes {
        let wanted = PlaceRequest { protocol: Protocol::Srt, ..request(&key, &[]) };
        let error = node.place(wanted).await.unwrap_err();
        assert_eq!(error, BalancerError::NoOrigin { protocol: Protocol::Srt, registered: 1 });
    }
    cluster.until_placements(0).await;
    place(cluster.node(1), &key).await;
}

pub async fn only_origins_that_serve_the_protocol_are_given<F: Fixture>() {
    let mut cluster = Cluster::<F>::with_origins(3).await;
    let mut with_srt = origin(4);
    with_srt.srt = vec![Endpoint::parse("10080").unwrap()];
    cluster.keep_registered(with_srt.clone()).await;
    for i in 0..20 {
        let key = stream(&format!("s{i}"));
        let wanted = PlaceRequest { protocol: Protocol::Srt, ..request(&key, &[]) };
        assert_eq!(cluster.node(i).place(wanted).await.unwrap().origin.id(), with_srt.id());
    }
    // Better a suspect one that serves it than a live one that does not.
    cluster.fail(&with_srt.id()).await;
    let key = stream("last");
    let wanted = PlaceRequest { protocol: Protocol::Srt, ..request(&key, &[]) };
    assert_eq!(cluster.node(0).place(wanted).await.unwrap().origin.id(), with_srt.id());
}

pub async fn a_stream_moves_when_its_origin_no_longer_serves_the_protocol<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    let with_srt = |n| Origin { srt: vec![Endpoint::parse("10080").unwrap()], ..origin(n) };
    cluster.register(with_srt(1)).await;
    let key = stream("s");
    let wanted = PlaceRequest { protocol: Protocol::Srt, ..request(&key, &[]) };
    let first = cluster.node(0).place(wanted).await.unwrap();
    cluster.register(with_srt(2)).await;
    cluster.register(origin(1)).await;
    cluster
        .until("origin 1 has no SRT", |origins| {
            origins.iter().any(|o| o.origin.id() == origin(1).id() && !o.origin.serves(Protocol::Srt))
        })
        .await;
    let second = cluster.node(1).place(wanted).await.unwrap();
    assert_eq!(second.origin.id(), origin(2).id());
    assert!(second.epoch > first.epoch);
}

pub async fn fresh_streams_are_spread_over_the_origins<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(4).await;
    let mut counts: BTreeMap<OriginId, usize> = BTreeMap::new();
    for i in 0..200 {
        let placed = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        *counts.entry(placed.origin.id()).or_default() += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|n| *n >= 20), "{counts:?}");
    cluster
        .until("origins count their streams", |origins| {
            origins.iter().all(|o| counts.get(&o.origin.id()) == Some(&o.streams))
        })
        .await;
}

pub async fn session_records_lead_any_node_to_the_stream_until_they_expire<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    let ttl = Duration::from_secs(2);
    cluster.node(0).put_session("ufrag", &stream("a"), ttl).await.unwrap();
    cluster.node(0).put_session("other", &stream("b"), ttl * 1000).await.unwrap();
    for node in &cluster.nodes {
        let found = async || node.session("ufrag").await.unwrap() == Some(stream("a"));
        eventually("the record is known", found).await;
        assert_eq!(node.session("unknown").await.unwrap(), None);
    }
    cluster.fixture.elapse(ttl * 5 / 4).await;
    for node in &cluster.nodes {
        assert_eq!(node.session("ufrag").await.unwrap(), None);
        assert_eq!(node.session("other").await.unwrap(), Some(stream("b")));
    }
    cluster.node(0).put_session("other", &stream("c"), ttl).await.unwrap();
    for node in &cluster.nodes {
        let found = async || node.session("other").await.unwrap() == Some(stream("c"));
        eventually("the later record is known", found).await;
    }
}

pub async fn placements_are_listed_in_order_page_by_page<F: Fixture>() {
    const STREAMS: usize = 10_000;
    let cluster = Cluster::<F>::with_origins(3).await;
    let mut leases = Vec::new();
    let mut expected = Vec::new();
    for batch in (0..STREAMS).collect::<Vec<_>>().chunks(500) {
        let mut tasks = JoinSet::new();
        for i in batch {
            let node = Arc::clone(cluster.node(*i));
            let key = stream(&format!("s{i}"));
            expected.push(key.clone());
            tasks.spawn(async move {
                let placement = place(&node, &key).await;
                Lease::new(node, placement, Intent::Play)
            });
        }
        leases.extend(tasks.join_all().await);
    }
    expected.sort();
    cluster.until_placements(STREAMS).await;

    let node = cluster.node(1);
    let mut listed = Vec::new();
    while listed.len() < STREAMS {
        let (page, total) = node.placements(Page { start: listed.len(), count: 999 }).await.unwrap();
        assert_eq!(total, STREAMS);
        assert_eq!(page.len(), 999.min(STREAMS - listed.len()));
        listed.extend(page.into_iter().map(|status| status.placement.stream));
    }
    assert!(listed == expected, "the pages are not the ordered whole");
    for (start, count) in [(STREAMS, 10), (usize::MAX, usize::MAX), (5, 0)] {
        let (page, total) = node.placements(Page { start, count }).await.unwrap();
        assert_eq!((page.len(), total), (0, STREAMS));
    }
}

pub async fn placements_count_their_users<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let lease = |intent| Lease::new(Arc::clone(cluster.node(0)), first.clone(), intent);
    let (publisher, _player, player) = (lease(Intent::Publish), lease(Intent::Play), lease(Intent::Play));
    let users = async || {
        let (listed, _) = cluster.node(0).placements(ALL).await.unwrap();
        (listed[0].publishers, listed[0].players)
    };
    assert_eq!(users().await, (1, 2));
    drop(player);
    assert_eq!(users().await, (1, 1));
    drop(publisher);
    assert_eq!(users().await, (0, 1));
}

pub async fn every_node_is_ready<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    for node in &cluster.nodes {
        assert_eq!(node.ready().await, Ok(()));
    }
}

/// Which origin each stream had at each epoch, as anyone saw it.
type History = Mutex<HashMap<(StreamKey, u64), OriginId>>;

pub async fn any_mix_of_calls_leaves_one_origin_for_each_epoch<F: Fixture>() {
    const STREAMS: usize = 12;
    let cluster = Cluster::<F>::with_origins(4).await;
    let history: Arc<History> = Arc::default();
    let mut tasks = JoinSet::new();
    for task in 0..8 * cluster.nodes.len() {
        let (node, history) = (Arc::clone(cluster.node(task)), Arc::clone(&history));
        tasks.spawn(async move {
            let mut rng = StdRng::seed_from_u64(task as u64);
            let mut latest = [0; STREAMS];
            let mut leases = Vec::new();
            for _ in 0..300 {
                let n = rng.random_range(1..=4);
                let failed = Reachability::Failed("refused".into());
                match rng.random_range(0..10) {
                    0 => node.report(&origin(n).id(), failed).await,
                    1 => node.report(&origin(n).id(), Reachability::Reached).await,
                    2 => node.register(origin(n)).await.unwrap(),
                    3 => leases.clear(),
                    _ => {
                        let i = rng.random_range(0..STREAMS);
                        let key = stream(&format!("s{i}"));
                        let avoid = if rng.random_bool(0.2) { vec![origin(n).id()] } else { Vec::new() };
                        let placed = node.place(request(&key, &avoid)).await.unwrap();
                        assert!(!avoid.contains(&placed.origin.id()));
                        assert!(placed.epoch >= latest[i], "{key} went back to epoch {}", placed.epoch);
                        latest[i] = placed.epoch;
                        let id = placed.origin.id();
                        let first = history.lock().unwrap().entry((key, placed.epoch)).or_insert(id.clone()).clone();
                        assert_eq!(first, id, "two origins at one epoch");
                        let intent = if rng.random_bool(0.3) { Intent::Publish } else { Intent::Play };
                        leases.push(Lease::new(Arc::clone(&node), placed, intent));
                    }
                }
                tokio::task::yield_now().await;
            }
        });
    }
    tasks.join_all().await;

    for n in 1..=4 {
        cluster.node(0).register(origin(n)).await.unwrap();
        cluster.until_state(&origin(n).id(), OriginState::Live).await;
    }
    for i in 0..STREAMS {
        let placed = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        cluster.assert_placed(&placed).await;
    }
    cluster.until_placements(STREAMS).await;
    for node in &cluster.nodes {
        let (listed, _) = node.placements(ALL).await.unwrap();
        assert!(listed.iter().all(|status| status.publishers == 0 && status.players == 0), "{listed:?}");
    }
    cluster
        .until("origins count what is placed on them", |origins| {
            origins.iter().map(|o| o.streams).sum::<usize>() == STREAMS
        })
        .await;
}
