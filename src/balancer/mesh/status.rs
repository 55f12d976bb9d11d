//! What a node shows of the mesh.

use std::time::Duration;

use super::{
    gossip::{self, Reason},
    link::refusals::{Refusal, Refusals},
    model::member::NodeState,
    model::record::NodeId,
};

/// The mesh, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The node that says so.
    pub node: NodeId,
    /// What it does.
    pub state: NodeState,
    /// Whether all nodes see the same serving nodes, so that homes decide alone.
    pub stable: bool,
    /// All nodes that it knows, itself included, ordered by name.
    pub members: Vec<MemberStatus>,
    /// Registered origins.
    pub origins: usize,
    /// Placed streams.
    pub placements: usize,
    /// Streams that are on two origins now.
    pub conflicts: usize,
    /// What happened since the node started.
    pub counters: Counters,
    /// What came and went over the network, where it is a real one.
    pub traffic: Option<Traffic>,
}

/// What happened, since the node started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams that this node placed, as their home.
    pub placed: u64,
    /// Streams that it moved to another origin.
    pub moved: u64,
    /// Placements that it took over from another home.
    pub adopted: u64,
    /// Conflicts that it settled.
    pub conflicts: u64,
    /// Decisions before which it asked all others.
    pub claims: u64,
    /// Claims that it lost to another node.
    pub claims_lost: u64,
    /// Requests to other nodes that were not answered.
    pub unanswered: u64,
    /// Posts of other nodes that made no sense.
    pub bad_posts: u64,
}

/// What came and went over the network since the node started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Gossip packets sent.
    pub sent: u64,
    /// Bytes in them, without the headers of UDP and IP.
    pub sent_bytes: u64,
    /// Gossip packets received, those that were dropped included.
    pub received: u64,
    /// Bytes in them, without the headers of UDP and IP.
    pub received_bytes: u64,
    /// How many connections, messages and posts were refused or dropped, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// How many connections and calls were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

impl Traffic {
    /// Reads the counters.
    pub fn read(gossip: &gossip::Counters, refusals: &Refusals) -> Self {
        Self {
            sent: gossip.sent(),
            sent_bytes: gossip.sent_bytes(),
            received: gossip.received(),
            received_bytes: gossip.received_bytes(),
            dropped: Reason::ALL.iter().map(|reason| (reason.as_str(), gossip.dropped(*reason))).collect(),
            refused: Refusal::ALL.iter().map(|refusal| (refusal.as_str(), refusals.count(*refusal))).collect(),
        }
    }
}

/// A node, as another sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its name.
    pub node: NodeId,
    /// What it does.
    pub state: NodeState,
    /// Milliseconds since 1970 at which it started.
    pub generation: u64,
    /// The version of its program; empty if unknown.
    pub version: String,
    /// Where it answers gRPC; empty if unknown.
    pub grpc: String,
    /// Whether it is seen.
    pub live: bool,
    /// Streams for which it answers.
    pub homes: usize,
    /// Time since its last sign of life.
    pub lag: Duration,
    /// Whether it sees the same serving nodes.
    pub same_view: bool,
}
