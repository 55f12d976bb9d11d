//! What a node shows of the mesh.

use std::time::Duration;

pub use super::node::Counters;
use super::{message::NodeState, record::NodeId};

/// The mesh, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The node that says so.
    pub node: NodeId,
    /// What it does.
    pub state: NodeState,
    /// Whether all nodes see the same serving nodes, so that homes decide alone.
    pub settled: bool,
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
    pub agrees: bool,
}
