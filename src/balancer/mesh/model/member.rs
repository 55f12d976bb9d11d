//! The nodes of the mesh, and what each says of itself.

use std::fmt;

use super::record::NodeId;

/// What a node does, in the order of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeState {
    /// It learns what the others know, and decides nothing.
    Joining,
    /// It takes clients and is the home of its share of the streams.
    Serving,
    /// It ends: its sessions go on, but it is the home of nothing.
    Draining,
    /// It has ended.
    Left,
}

impl NodeState {
    /// The word for logs, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Left => "left",
        }
    }
}

/// One run of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation {
    /// The node.
    pub node: NodeId,
    /// Milliseconds since 1970 at which it started; a later run has a greater one.
    pub generation: u64,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// What it does.
    pub state: NodeState,
    /// Where it answers gRPC, as `host:port`.
    pub grpc: String,
    /// A hash of the serving nodes that it sees.
    pub view: u64,
    /// The version of the program.
    pub version: String,
}

/// Another node, as a request is addressed to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Who is meant. Another node that answers there in its place refuses.
    pub node: NodeId,
    /// Where it answers gRPC, as `host:port`.
    pub grpc: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.node, self.grpc)
    }
}
