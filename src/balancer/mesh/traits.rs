//! What the mesh needs of the world: a board on which every node posts what all shall see, and a way
//! to ask one node a question. The real ones are [`super::gossip`] and [`super::link`]; the
//! simulation brings its own.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    model::member::{Address, Incarnation},
    model::record::{NodeId, Stamp},
    wire::message::{CallError, Request, Response},
};

/// Where this node posts. Posts reach every other live node some time later; of one node's posts a
/// reader sees them in the order in which they were made, except that it may see only the last of
/// several under one key.
pub trait GossipStore: Send + Sync + 'static {
    /// Posts a value under a key, which begins with an ASCII character. What is there already in the
    /// same words is not posted again.
    fn set(&self, key: &str, value: &[u8]);

    /// Takes back what was posted under a key.
    fn delete(&self, key: &str);

    /// Sends what is new to the others at once, as far as that is cheap, instead of in its turn.
    fn push(&self);
}

/// What this node sees of the others' posts. GossipEvent come in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GossipEvent {
    /// A node posted something, or something else than before. A run that is back after a silence does
    /// not post anew.
    Set {
        /// Which node.
        from: Incarnation,
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
    },
    /// A node took a post back. What a run posted that has ended is not taken back.
    Deleted {
        /// Which node.
        from: Incarnation,
        /// The key.
        key: String,
    },
    /// Who is alive, this node not included; of several runs of a node the last one only.
    Live(BTreeSet<Incarnation>),
    /// Nodes of which signs of life came since the last such news.
    Heard(Vec<NodeId>),
}

/// Where the news come from.
#[async_trait]
pub trait EventStream: Send + 'static {
    /// Waits for the next news. Nothing once there are no more to come.
    async fn next(&mut self) -> Option<GossipEvent>;

    /// The next news, if there are any now.
    fn try_next(&mut self) -> Option<GossipEvent>;
}

/// Asks other nodes. The call ends within the deadline that the implementation is made with.
#[async_trait]
pub trait PeerClient: Send + Sync + 'static {
    /// Asks `to`. `clock` is the asking node's clock, which the other side merges into its own; the
    /// answer brings the other's.
    async fn call(&self, to: &Address, clock: Stamp, request: Request) -> Result<(Stamp, Response), CallError>;
}

/// Answers what other nodes ask.
#[async_trait]
pub trait RequestHandler: Send + Sync + 'static {
    /// Answers `request` of node `from`, whose clock is `clock`, with this node's clock.
    async fn handle(&self, from: NodeId, clock: Stamp, request: Request) -> (Stamp, Response);
}
