//! Questions between nodes over gRPC, and the encoding of what nodes post.
//!
//! The messages and the service are tonic's. The connections are ours: one HTTP/2 connection for each
//! peer, made at the first call and made anew at the first call after it broke, so that a refused
//! connection is told at once and a restarted peer is reached at once. With a cluster key
//! everything runs over TLS 1.3 ([`tls`]), without one over plain HTTP/2.

pub mod client;
mod connection;
mod metadata;
pub mod refusals;
pub mod server;
mod service;
pub mod tls;

use super::model::record::NodeId;

/// Who this node is among the others.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The name that all nodes of a cluster share.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// What proves that this node belongs to the cluster, and that others do. Without it everybody
    /// who can connect belongs to it.
    pub credentials: Option<tls::Credentials>,
}
