//! What a node shows of the mesh.

use std::{collections::BTreeMap, time::Duration};

use super::Node;
use crate::balancer::mesh::{
    model::{member::NodeState, record::NodeId},
    status::{ClusterStatus, MemberStatus},
    traits::{GossipStore, PeerClient},
};

impl<B: GossipStore, P: PeerClient> Node<B, P> {
    /// What the node knows of the mesh.
    pub fn status(&self) -> ClusterStatus {
        self.with(|state, now| {
            let mut owned: BTreeMap<NodeId, usize> = BTreeMap::new();
            for (_, record) in state.ledger.iter_after(None) {
                *owned.entry(record.writer.clone()).or_default() += 1;
            }
            let mut homes = |node: &NodeId| owned.remove(node).unwrap_or(0);
            let mut members = vec![MemberStatus {
                node: self.id().clone(),
                state: state.view.state(),
                generation: self.settings.me.generation,
                version: env!("CARGO_PKG_VERSION").into(),
                grpc: self.settings.grpc.clone(),
                live: true,
                homes: homes(self.id()),
                lag: Duration::ZERO,
                same_view: true,
            }];
            for (node, member) in state.view.members() {
                let info = member.info.as_ref();
                members.push(MemberStatus {
                    node: node.clone(),
                    state: info.map_or(NodeState::Joining, |info| info.state),
                    generation: member.generation,
                    version: info.map(|info| info.version.clone()).unwrap_or_default(),
                    grpc: info.map(|info| info.grpc.clone()).unwrap_or_default(),
                    live: member.is_live(),
                    homes: homes(node),
                    lag: now.saturating_duration_since(member.heard),
                    same_view: info.is_some_and(|info| info.view == state.view.hash()),
                });
            }
            members.sort_by(|a, b| a.node.cmp(&b.node));
            ClusterStatus {
                node: self.id().clone(),
                state: state.view.state(),
                stable: state.stable(now),
                members,
                origins: state.origins.registry().len(),
                placements: state.ledger.len(),
                conflicts: state.ledger.conflicts().count(),
                counters: state.counters,
                traffic: None,
            }
        })
    }
}
