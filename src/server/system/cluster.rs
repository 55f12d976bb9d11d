//! `GET /api/v1/proxy/cluster`: this node, the others as it sees them, and what they hold together.
//!
//! Times are in milliseconds here, because nodes hear of each other several times a second; heartbeats
//! of origins are in seconds, as everywhere. What is not known is null. The answer comes even while
//! placements are unavailable, because that is when people ask; its `reason` says why they are.

use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{App, SystemState, views::seconds};
use crate::{
    balancer::{
        Balancer, ClusterStatus, MemberStatus, OriginState, OriginStatus, Page,
        mesh::{
            model::member::NodeState,
            status::{Counters, Traffic},
        },
    },
    config::BalancerType,
};

/// How long the balancer may take for one part of the answer.
const PART: Duration = Duration::from_secs(2);
/// How many origins are listed. The rest is in the view of the origins, page by page.
const MAX_ORIGINS: usize = 100;

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    /// 0.
    pub code: u16,
    /// What the nodes agree through.
    pub balancer: String,
    /// The name of the node that answers.
    pub node: String,
    /// What it does: `joining`, `serving`, `draining` or `left`.
    pub state: String,
    /// Whether it takes new sessions and can place their streams.
    pub ready: bool,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// Whether all nodes see the same serving nodes. A node that knows no others is settled.
    pub stable: bool,
    /// The nodes that it knows, itself included, ordered by name.
    pub members: Vec<MemberView>,
    /// The registered origins; null while they are unavailable.
    pub origins: Option<OriginsView>,
    /// How many streams are placed; null while placements are unavailable.
    pub placements: Option<usize>,
    /// Streams that were placed on two origins.
    pub conflicts: ConflictsView,
    /// What happened since this node started; null if nothing is counted.
    pub counters: Option<CountersView>,
}

/// A node, as the one that answers sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub node: String,
    /// What it does: `joining`, `serving`, `draining` or `left`.
    pub state: String,
    /// Whether it is seen.
    pub live: bool,
    /// The version of its program.
    pub version: Option<String>,
    /// Milliseconds since 1970 at which this run of it started.
    pub incarnation: u64,
    /// Where it answers gRPC, as `host:port`.
    pub grpc: Option<String>,
    /// Streams for which it answers.
    pub homes: Option<usize>,
    /// Milliseconds since its last sign of life.
    pub lag_ms: u64,
    /// Whether it sees the same serving nodes.
    pub same_view: bool,
}

/// The registered origins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OriginsView {
    /// How many there are.
    pub total: usize,
    /// How many of them are live.
    pub live: usize,
    /// How many of them are suspect.
    pub suspect: usize,
    /// The first 100, suspect ones before others, each kind ordered by id. All of them, and more of
    /// each, are at `/api/v1/proxy/origins`.
    pub list: Vec<OriginView>,
}

/// An origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OriginView {
    /// Its id.
    pub id: String,
    /// How it stands: `live` or `suspect`.
    pub state: String,
    /// Seconds since its last heartbeat.
    pub heartbeat_age_seconds: f64,
    /// Streams placed on it.
    pub streams: usize,
}

/// Streams that were placed on two origins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictsView {
    /// How many are now.
    pub open: usize,
    /// How many this node has settled since it started.
    pub resolved: u64,
}

/// What happened since this node started. What its parts count goes here, one group for each part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersView {
    /// What it decided on streams.
    pub decisions: DecisionsView,
    /// What came and went by gossip.
    pub gossip: Option<GossipView>,
    /// Connections and calls of others that were refused, by reason.
    pub refused: Option<BTreeMap<String, u64>>,
}

/// What came and went by gossip, since the node started. Bytes are those in the packets, without the
/// headers of UDP and IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipView {
    /// Packets sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Packets received, those that were dropped included.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Packets and posts that were dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// What a node decided on streams, since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionsView {
    /// Streams that it placed, as their home.
    pub placed: u64,
    /// Streams that it moved to another origin.
    pub moved: u64,
    /// Placements that it took over from another home.
    pub adopted: u64,
    /// Decisions before which it asked all others.
    pub claims: u64,
    /// Claims that it lost to another node.
    pub claims_lost: u64,
    /// Requests to other nodes that were not answered.
    pub unanswered: u64,
    /// Posts of other nodes that made no sense.
    pub bad_posts: u64,
}

impl MemberView {
    fn new(status: &MemberStatus) -> Self {
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            node: status.node.as_str().to_owned(),
            state: status.state.as_str().to_owned(),
            live: status.live,
            version: known(&status.version),
            incarnation: status.generation,
            grpc: known(&status.grpc),
            homes: Some(status.homes),
            lag_ms: millis(status.lag),
            same_view: status.same_view,
        }
    }
}

impl OriginsView {
    fn new(origins: &[OriginStatus]) -> Self {
        let suspect = |origin: &OriginStatus| origin.state == OriginState::Suspect;
        let (bad, good): (Vec<_>, Vec<_>) = origins.iter().partition(|origin| suspect(origin));
        let view = |origin: &OriginStatus| OriginView {
            id: origin.origin.id().as_str().to_owned(),
            state: origin.state.as_str().to_owned(),
            heartbeat_age_seconds: seconds(origin.heartbeat_age),
            streams: origin.streams,
        };
        Self {
            total: origins.len(),
            live: good.len(),
            suspect: bad.len(),
            list: bad.into_iter().chain(good).take(MAX_ORIGINS).map(view).collect(),
        }
    }
}

impl CountersView {
    fn new(counters: &Counters, traffic: Option<&Traffic>) -> Self {
        let by_reason = |counts: &[(&str, u64)]| counts.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect();
        let gossip = |traffic: &Traffic| GossipView {
            sent: traffic.sent,
            sent_bytes: traffic.sent_bytes,
            received: traffic.received,
            received_bytes: traffic.received_bytes,
            dropped: by_reason(&traffic.dropped),
        };
        let Counters { placed, moved, adopted, claims, claims_lost, unanswered, bad_posts, conflicts: _ } = *counters;
        Self {
            decisions: DecisionsView { placed, moved, adopted, claims, claims_lost, unanswered, bad_posts },
            gossip: traffic.map(gossip),
            refused: traffic.map(|traffic| by_reason(&traffic.refused)),
        }
    }
}

/// A node that knows no others: it stands alone, or agrees with them through a store.
pub(super) struct StandaloneNode {
    name: String,
    started: SystemTime,
}

impl StandaloneNode {
    pub(super) fn new(state: &SystemState) -> Self {
        let now = SystemTime::now();
        Self { name: host_name(), started: now.checked_sub(state.started.elapsed()).unwrap_or(now) }
    }

    fn member(&self, state: NodeState, homes: Option<usize>) -> MemberView {
        MemberView {
            node: self.name.clone(),
            state: state.as_str().to_owned(),
            live: true,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            incarnation: millis(self.started.duration_since(UNIX_EPOCH).unwrap_or_default()),
            grpc: None,
            homes,
            lag_ms: 0,
            same_view: true,
        }
    }
}

/// The name of this node: the one that it has in a mesh, else that of its machine.
pub(in crate::server) fn node_name(balancer: &dyn Balancer) -> String {
    balancer.cluster().map_or_else(host_name, |status| status.node.as_str().to_owned())
}

/// The name of this machine, or of its container.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a node does, whatever the mesh has noticed of it so far.
fn own_state(state: &SystemState, status: Option<&ClusterStatus>) -> NodeState {
    let known = match status {
        Some(status) => status.state,
        None if !*state.ready.borrow() => NodeState::Joining,
        None => NodeState::Serving,
    };
    if state.draining.is_cancelled() { known.max(NodeState::Draining) } else { known }
}

/// What this node knows of the cluster.
pub(super) async fn cluster(State(app): State<Arc<App>>) -> Response {
    let state = &app.state;
    let (readiness, origins, placements) = tokio::join!(
        super::readiness(&app),
        timeout(PART, state.balancer.origins()),
        timeout(PART, state.balancer.placements(Page { start: 0, count: 0 })),
    );
    let placements = placements.ok().and_then(Result::ok).map(|(_, total)| total);
    let status = state.balancer.cluster();
    let own = own_state(state, status.as_ref());

    let (node, members) = if let Some(status) = &status {
        let mut members: Vec<_> = status.members.iter().map(MemberView::new).collect();
        for member in members.iter_mut().filter(|member| member.node == status.node.as_str()) {
            own.as_str().clone_into(&mut member.state);
        }
        (status.node.as_str().to_owned(), members)
    } else {
        // Where nodes share a store, each answers for every stream.
        let homes = placements.filter(|_| state.kind == BalancerType::Memory);
        (app.alone.name.clone(), vec![app.alone.member(own, homes)])
    };
    Json(ClusterView {
        code: 0,
        balancer: state.kind.as_str().to_owned(),
        node,
        state: own.as_str().to_owned(),
        ready: readiness.is_ok(),
        reason: readiness.err(),
        stable: status.as_ref().is_none_or(|status| status.stable),
        members,
        origins: origins.ok().and_then(Result::ok).map(|origins| OriginsView::new(&origins)),
        placements: status.as_ref().map(|status| status.placements).or(placements),
        conflicts: status.as_ref().map_or_else(ConflictsView::default, |status| ConflictsView {
            open: status.conflicts,
            resolved: status.counters.conflicts,
        }),
        counters: status.as_ref().map(|status| CountersView::new(&status.counters, status.traffic.as_ref())),
    })
    .into_response()
}
