//! What every balancer promises, whatever its nodes agree through. Each case is a function over a
//! [`Fixture`]; the macro `conformance!` makes one test of each.
//!
//! A case speaks to all nodes of the fixture in turn. What one node was told of an origin may take a
//! moment to reach the others, so cases wait for that; what a node answers about a placement must be
//! right at once.

mod origins;
mod placements;

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use srs_proxy::{
    balancer::{Balancer, Intent, OriginState, OriginStatus, Page, PlaceRequest, Placement, Reachability},
    origin::{Origin, OriginId, Protocol},
    stream::StreamKey,
};
use tokio::task::JoinSet;

pub use origins::*;
pub use placements::*;

/// How long nodes may take to tell each other something.
const LIMIT: Duration = Duration::from_secs(30);
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
#[macro_export]
macro_rules! conformance {
    ($attribute:tt $fixture:ty) => {
        $crate::conformance!($attribute $fixture:
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
        $($crate::conformance!(@test $attribute $fixture, $case);)*
    };
    (@test [$($attribute:tt)*] $fixture:ty, $case:ident) => {
        #[$($attribute)*]
        async fn $case() {
            $crate::conformance::$case::<$fixture>().await;
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
