//! Whom a node sees, who is the home of a stream, and whether all see the same. Pure: the time comes
//! in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::{
    member::{Address, Incarnation, NodeInfo, NodeState},
    record::NodeId,
};

/// How long a node that is no longer seen is still asked before others decide in its place (rule 8).
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long a node that did not answer is left alone.
const UNRESPONSIVE: Duration = Duration::from_secs(1);
/// The most nodes that are remembered.
const MAX_MEMBERS: usize = 1024;

/// Another node.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its latest run.
    pub generation: u64,
    /// What it says of itself, once that is known.
    pub info: Option<NodeInfo>,
    /// When the last sign of life came.
    pub heard: Instant,
    /// Since when it is no longer seen, if it is not.
    gone: Option<Instant>,
    unresponsive_until: Option<Instant>,
}

impl Member {
    /// Whether it is seen and has not said that it left.
    pub fn is_live(&self) -> bool {
        self.gone.is_none()
    }

    fn state(&self) -> Option<NodeState> {
        self.info.as_ref().map(|info| info.state)
    }

    fn is(&self, state: NodeState) -> bool {
        self.is_live() && self.state() == Some(state)
    }
}

/// What [`View`] found to be different.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Nodes that are no longer seen, or that run anew.
    pub gone: Vec<NodeId>,
    /// Runs of nodes that are seen now, for the first time or again.
    pub seen: Vec<Incarnation>,
    /// Whether the set of serving nodes is another one.
    pub serving: bool,
}

/// All nodes, as one of them sees them.
#[derive(Debug)]
pub struct View {
    me: Incarnation,
    state: NodeState,
    members: BTreeMap<NodeId, Member>,
    /// The serving nodes, this one included if it serves.
    serving: BTreeSet<Incarnation>,
    hash: u64,
    changed: Option<Instant>,
    fresh: Duration,
}

impl View {
    /// A node that sees only itself. A node counts as heard of for `fresh` after a sign of life.
    pub fn new(me: Incarnation, fresh: Duration) -> Self {
        let mut view = Self {
            me,
            state: NodeState::Joining,
            members: BTreeMap::new(),
            serving: BTreeSet::new(),
            hash: 0,
            changed: None,
            fresh,
        };
        view.hash = hash(&view.serving);
        view
    }

    /// This node.
    pub fn me(&self) -> &NodeId {
        &self.me.node
    }

    /// What this node does.
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// The hash of the serving nodes, the same for all who see the same.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The other nodes.
    pub fn members(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members.iter()
    }

    /// The nodes that serve, this one included.
    pub fn serving(&self) -> &BTreeSet<Incarnation> {
        &self.serving
    }

    /// Where to ask a node.
    pub fn address(&self, node: &NodeId) -> Option<Address> {
        let info = self.members.get(node)?.info.as_ref()?;
        Some(Address { node: node.clone(), grpc: info.grpc.clone() })
    }

    /// Changes what this node does.
    pub fn set_state(&mut self, state: NodeState, now: Instant) -> Changed {
        self.state = state;
        self.recount(now, Vec::new())
    }

    /// Takes who is seen.
    pub fn set_live(&mut self, live: &BTreeSet<Incarnation>, now: Instant) -> Changed {
        let (mut gone, mut appeared) = (Vec::new(), Vec::new());
        for (node, member) in &mut self.members {
            let seen = live.iter().find(|seen| seen.node == *node);
            if member.gone.is_none() && seen.is_none_or(|seen| seen.generation > member.generation) {
                member.gone = Some(now);
                gone.push(node.clone());
            }
        }
        for seen in live {
            if seen.node == self.me.node {
                continue;
            }
            let member = self.members.get(&seen.node);
            match member {
                Some(member) if member.generation > seen.generation => {}
                Some(member) if member.generation == seen.generation => {
                    if member.gone.is_some() && member.state() != Some(NodeState::Left) {
                        self.appear(seen, now);
                        appeared.push(seen.clone());
                    }
                }
                _ => {
                    self.appear(seen, now);
                    appeared.push(seen.clone());
                }
            }
        }
        self.members
            .retain(|_, member| member.gone.is_none_or(|since| now.saturating_duration_since(since) < REMEMBERED * 6));
        Changed { seen: appeared, ..self.recount(now, gone) }
    }

    fn appear(&mut self, seen: &Incarnation, now: Instant) {
        if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&seen.node) {
            return;
        }
        let known = self.members.remove(&seen.node).filter(|known| known.generation == seen.generation);
        let info = known.and_then(|known| known.info);
        let member = Member { generation: seen.generation, info, heard: now, gone: None, unresponsive_until: None };
        self.members.insert(seen.node.clone(), member);
    }

    /// Takes what a node says of itself.
    pub fn set_info(&mut self, from: &Incarnation, info: NodeInfo, now: Instant) -> Changed {
        if from.node == self.me.node {
            return Changed::default();
        }
        let mut gone = Vec::new();
        let known = self.members.get(&from.node);
        if known.is_none_or(|known| known.generation < from.generation) {
            // Its posts are here before the news that it lives.
            gone.extend(known.filter(|known| known.is_live()).map(|_| from.node.clone()));
            self.appear(from, now);
            if let Some(member) = self.members.get_mut(&from.node) {
                member.gone = Some(now);
            }
        }
        let Some(member) = self.members.get_mut(&from.node).filter(|m| m.generation == from.generation) else {
            return Changed::default();
        };
        let left = info.state == NodeState::Left && member.gone.is_none();
        if left {
            member.gone = Some(now);
        }
        member.info = Some(info);
        member.heard = now;
        gone.extend(left.then(|| from.node.clone()));
        self.recount(now, gone)
    }

    /// Takes a sign of life.
    pub fn heard(&mut self, node: &NodeId, now: Instant) {
        if let Some(member) = self.members.get_mut(node) {
            member.heard = now;
        }
    }

    /// Notes that a node did not answer, or that it did.
    pub fn answered(&mut self, node: &NodeId, answered: bool, now: Instant) {
        if let Some(member) = self.members.get_mut(node) {
            member.unresponsive_until = (!answered).then(|| now + UNRESPONSIVE);
        }
    }

    /// Whether a node did not answer lately.
    pub fn is_unresponsive(&self, node: &NodeId, now: Instant) -> bool {
        self.members.get(node).is_some_and(|member| member.unresponsive_until.is_some_and(|until| now < until))
    }

    fn recount(&mut self, now: Instant, gone: Vec<NodeId>) -> Changed {
        let mut serving: BTreeSet<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.is(NodeState::Serving))
            .map(|(node, member)| Incarnation { node: node.clone(), generation: member.generation })
            .collect();
        if self.state == NodeState::Serving {
            serving.insert(self.me.clone());
        }
        let changed = serving != self.serving;
        if changed {
            self.hash = hash(&serving);
            self.serving = serving;
        }
        if changed || !gone.is_empty() {
            self.changed = Some(now);
        }
        Changed { gone, serving: changed, ..Changed::default() }
    }

    /// Whether all who can decide see the same serving nodes, and have done so for `calm` (rule 6).
    pub fn stable(&self, calm: Duration, now: Instant) -> bool {
        let calm = self.changed.is_none_or(|since| now.saturating_duration_since(since) >= calm);
        calm && self.members.values().filter(|member| member.is_live()).all(|member| match &member.info {
            Some(info) if info.state == NodeState::Joining => true,
            Some(info) => info.view == self.hash && now.saturating_duration_since(member.heard) <= self.fresh,
            None => false,
        })
    }

    /// The nodes that may decide on `name`, best first: the serving ones, by rendezvous hash
    /// (rule 2). The home is the first. While nobody serves, those that drain.
    pub fn ranked(&self, name: &str) -> Vec<NodeId> {
        let mut ranked: Vec<_> = self.deciders().map(|node| (rank(&node, name), node)).collect();
        ranked.sort_by(|a, b| b.cmp(a));
        ranked.into_iter().map(|(_, node)| node).collect()
    }

    /// The home of `name`, these nodes not counted.
    pub fn home(&self, name: &str, without: &[NodeId]) -> Option<NodeId> {
        self.deciders()
            .filter(|node| !without.contains(node))
            .map(|node| (rank(&node, name), node))
            .max()
            .map(|(_, n)| n)
    }

    fn deciders(&self) -> impl Iterator<Item = NodeId> {
        let mut deciders: Vec<_> = self.serving.iter().map(|serving| serving.node.clone()).collect();
        if deciders.is_empty() {
            let draining = self.members.iter().filter(|(_, member)| member.is(NodeState::Draining));
            deciders.extend(draining.map(|(node, _)| node.clone()));
            if self.state == NodeState::Draining {
                deciders.push(self.me.node.clone());
            }
        }
        deciders.into_iter()
    }

    /// Whom to ask before deciding without being sure to be the only one (rule 8): all who live, though
    /// they may not have answered lately, and those who were seen a short while ago.
    pub fn to_consult(&self, now: Instant) -> Vec<Address> {
        let asked = |member: &Member| match member.gone {
            None => true,
            Some(since) => member.state() != Some(NodeState::Left) && now.saturating_duration_since(since) < REMEMBERED,
        };
        let asked = self.members.iter().filter(|(_, member)| asked(member));
        asked.filter_map(|(node, _)| self.address(node)).collect()
    }
}

/// The rank of a node for a name; the highest is home.
pub fn rank(node: &NodeId, name: &str) -> u64 {
    first_u64(Sha256::new().chain_update(node.as_str()).chain_update([0]).chain_update(name))
}

fn hash(serving: &BTreeSet<Incarnation>) -> u64 {
    first_u64(serving.iter().fold(Sha256::new(), |hash, serving| {
        hash.chain_update(serving.node.as_str()).chain_update([0]).chain_update(serving.generation.to_be_bytes())
    }))
}

fn first_u64(hash: Sha256) -> u64 {
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
