//! Tests of nodes that agree: by Redis and by gossip, in one process and as real nodes, also across network namespaces.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod mesh {
    mod balancer;
    mod gossip;
    mod gossip_hostile;
    mod nodes;
    mod partition;
    mod rpc;
    mod rpc_refusal;
}
mod metrics;
mod redis {
    mod balancer;
    mod failures;
    mod mixed_fleet;
    mod nodes;
}
