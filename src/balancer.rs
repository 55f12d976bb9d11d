//! Where a stream is placed. One trait, one policy; the implementations differ only in how nodes
//! come to agree.

mod calls;
mod decide;
mod lease;
pub mod memory;
pub mod mesh;
pub mod policy;
pub mod redis;
mod registry;
mod ufrag_index;
mod usage;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::watch;

pub use calls::CallMetrics;
pub(crate) use calls::{CallOutcome, LATENCY_BUCKETS};
pub use lease::Lease;
pub use mesh::status::{ClusterStatus, MemberStatus};

use crate::{
    origin::{Origin, OriginId, Protocol},
    stream::StreamKey,
};

/// How the `server` id begins of the origin that the configuration names and this node itself
/// registers (`PROXY_DEFAULT_BACKEND_*`), as in the Go proxy. Its heartbeats come from the node, so
/// they prove nothing: they do not clear a suspicion.
pub const DEFAULT_BACKEND_PREFIX: &str = "default-";

/// What a client wants with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intent {
    /// To send it.
    Publish,
    /// To receive it.
    Play,
}

impl Intent {
    /// The word for logs, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "play",
        }
    }
}

/// The question that [`Balancer::place`] answers.
#[derive(Debug, Clone, Copy)]
pub struct PlaceRequest<'a> {
    /// The stream to place.
    pub stream: &'a StreamKey,
    /// The protocol in which the origin must serve it.
    pub protocol: Protocol,
    /// What the client wants with it.
    pub intent: Intent,
    /// Origins that this client has just failed to reach; none of them is given again.
    pub avoid: &'a [OriginId],
}

/// A stream's origin.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The stream.
    pub stream: StreamKey,
    /// The origin that holds it.
    pub origin: Arc<Origin>,
    /// Grows by at least one whenever the stream moves to another origin; never goes back.
    pub epoch: u64,
}

/// What the data path saw of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reachability {
    /// It was connected to and it answered.
    Reached,
    /// It refused, timed out or broke off before it answered; the text says which.
    Failed(String),
}

/// How an origin stands with this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OriginState {
    /// Heartbeats arrive and connections succeed.
    Live,
    /// A connection failed since the last heartbeat or success; used only if nothing else is left.
    Suspect,
}

impl OriginState {
    /// The word for logs, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspect => "suspect",
        }
    }
}

/// An origin and what is known of it.
#[derive(Debug, Clone)]
pub struct OriginStatus {
    /// The origin.
    pub origin: Arc<Origin>,
    /// How it stands.
    pub state: OriginState,
    /// Why it is suspect.
    pub suspect_reason: Option<String>,
    /// Time since its last heartbeat.
    pub heartbeat_age: Duration,
    /// Streams placed on it.
    pub streams: usize,
}

/// A placement and what is known of it.
#[derive(Debug, Clone)]
pub struct PlacementStatus {
    /// The placement.
    pub placement: Placement,
    /// Publishers that use it through this node.
    pub publishers: usize,
    /// Players that use it through this node.
    pub players: usize,
}

/// A part of a long list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// How many items to skip.
    pub start: usize,
    /// The most items to return.
    pub count: usize,
}

/// Why the balancer has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BalancerError {
    /// No origin that may be used serves the protocol.
    #[error("no origin that serves {protocol} is registered and reachable ({registered} registered)")]
    NoOrigin {
        /// The protocol that was asked for.
        protocol: Protocol,
        /// How many origins are registered in all.
        registered: usize,
    },
    /// A bound was reached; the text names the setting.
    #[error("{0}")]
    Full(String),
    /// What the nodes agree through cannot be reached.
    #[error("placements are unavailable: {0}")]
    Unavailable(String),
}

/// Agrees with the other nodes on origins and placements.
///
/// All methods may be called from many tasks at once. Implementations answer within a deadline of
/// their own and never block a session that is already running.
#[async_trait]
pub trait Balancer: Send + Sync + 'static {
    /// Takes an origin's heartbeat. A restarted origin replaces its old self, whose placements end.
    async fn register(&self, origin: Origin) -> Result<(), BalancerError>;

    /// All origins that are registered and whose heartbeat is not too old, ordered by id.
    async fn origins(&self) -> Result<Vec<OriginStatus>, BalancerError>;

    /// Reports what the data path saw of an origin. One that is not registered is ignored.
    async fn report(&self, origin: &OriginId, seen: Reachability);

    /// The origin of a stream: the one it has, while that one is live, else one chosen now.
    async fn place(&self, request: PlaceRequest<'_>) -> Result<Placement, BalancerError>;

    /// Counts a session of this node as a user of the placement, which therefore does not expire, and
    /// returns the stream's epoch to watch: when it exceeds the placement's, the stream has moved.
    /// The placement is one that [`place`](Self::place) of this node returned. Prefer [`Lease`], which
    /// cannot forget to release.
    fn acquire(&self, placement: &Placement, intent: Intent) -> watch::Receiver<u64>;

    /// Undoes one [`Self::acquire`].
    fn release(&self, stream: &StreamKey, intent: Intent);

    /// The placements, ordered by stream, and how many there are in all.
    async fn placements(&self, page: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError>;

    /// Keeps a short-lived record, such as a WebRTC ufrag, that leads any node to its stream.
    async fn put_ufrag(&self, id: &str, stream: &StreamKey, ttl: Duration) -> Result<(), BalancerError>;

    /// The stream of a record that [`Self::put_ufrag`] kept and that has not expired.
    async fn stream_of_ufrag(&self, id: &str) -> Result<Option<StreamKey>, BalancerError>;

    /// The stream of a record that the Go proxy made for players of HLS (`spbhid`), where nodes share
    /// a store with it.
    async fn spbhid(&self, _: &str) -> Result<Option<StreamKey>, BalancerError> {
        Ok(None)
    }

    /// Whether this node can place streams now.
    async fn ready(&self) -> Result<(), BalancerError>;

    /// What this node knows of the others, where it knows them.
    fn cluster(&self) -> Option<ClusterStatus> {
        None
    }

    /// Counts of the calls of this node to Redis or to other nodes, where it makes any.
    fn calls(&self) -> Option<CallMetrics> {
        None
    }

    /// Gives up what only a node that serves may do. Its sessions go on, and it may still be asked.
    async fn drain(&self) {}

    /// Ends: tells the others, so that nobody waits for this node. Its sessions have ended.
    async fn leave(&self) {}
}

/// Stands for deadlines that the clock cannot express.
const FAR: Duration = Duration::from_hours(10 * 365 * 24);

/// The time, by the clock of the runtime, which tests stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// `now + duration`, or a far future if the clock has no such time.
fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or_else(|| now + FAR)
}
