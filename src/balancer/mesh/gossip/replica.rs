//! The keys of the other nodes, compared with the events sent so far, so that every change is one event.
//! chitchat reports keys that are set; keys and nodes that are gone have to be looked for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
    time::Duration,
};

use chitchat::{Chitchat, ChitchatId, NodeState};
use tokio::time::Instant;

use super::{events::EventSender, value};
use crate::balancer::mesh::{model::member::Incarnation, model::record::NodeId};

/// How often the posts of a node are gone through after some may have vanished.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a post must be absent before it counts as gone. A node that was out of touch for long is
/// sent everything anew, and meanwhile lacks some.
const ABSENT_FOR: Duration = Duration::from_secs(5);

/// The state of the other nodes as far as events were sent of it.
pub struct Replica {
    me: Arc<str>,
    sender: EventSender,
    hasher: RandomState,
    nodes: HashMap<Arc<str>, Node>,
    live: BTreeSet<Incarnation>,
}

struct Node {
    id: ChitchatId,
    incarnation: Incarnation,
    /// A hash of each post's value.
    posts: HashMap<String, u64>,
    /// Since when posts are absent.
    absent: HashMap<String, Instant>,
    heartbeat: u64,
    collected: u64,
    compared: Instant,
}

impl Replica {
    /// Starts with no state. Changes of `me` raise no events.
    pub fn new(me: Arc<str>, sender: EventSender) -> Self {
        Self { me, sender, hasher: RandomState::new(), nodes: HashMap::new(), live: BTreeSet::new() }
    }

    /// Records a key that was just set.
    pub fn post(&mut self, id: &ChitchatId, key: &str, text: &str, now: Instant) {
        if id.node_id == self.me {
            return;
        }
        let node = self.nodes.entry(Arc::clone(&id.node_id)).or_insert_with(|| Node::new(id.clone(), now));
        // Which of several runs counts is decided when all is gone through.
        if node.id == *id {
            node.post(key, text, &self.hasher, &self.sender);
        }
    }

    /// Compares the state of chitchat with what was sent, and sends the differences.
    pub fn compare(&mut self, chitchat: &Chitchat, now: Instant) {
        let alive: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
        let mut latest: BTreeMap<&Arc<str>, (bool, u64, &ChitchatId)> = BTreeMap::new();
        for id in chitchat.node_states().keys().filter(|id| id.node_id != self.me) {
            let rank = (alive.contains(id), id.generation_id, id);
            latest.entry(&id.node_id).and_modify(|best| *best = rank.max(*best)).or_insert(rank);
        }

        let sender = &self.sender;
        self.nodes.retain(|name, node| latest.get(name).is_some_and(|(_, _, id)| **id == node.id));
        let mut live = BTreeSet::new();
        let mut heard = Vec::new();
        for (is_alive, _, id) in latest.into_values() {
            let Some(state) = chitchat.node_state(id) else { continue };
            let node = self.nodes.entry(Arc::clone(&id.node_id)).or_insert_with(|| {
                let mut node = Node::new(id.clone(), now);
                node.load(state, &self.hasher, sender);
                node
            });
            node.find_absent(state, now, sender);
            let heartbeat = u64::from(state.heartbeat());
            if heartbeat > node.heartbeat {
                node.heartbeat = heartbeat;
                heard.push(node.incarnation.node.clone());
            }
            if is_alive {
                live.insert(node.incarnation.clone());
            }
        }
        if live != self.live {
            self.live.clone_from(&live);
            sender.live(live);
        }
        if !heard.is_empty() {
            sender.heard(heard);
        }
    }
}

impl Node {
    fn new(id: ChitchatId, now: Instant) -> Self {
        let incarnation = Incarnation { node: NodeId::from(&*id.node_id), generation: id.generation_id };
        Self {
            id,
            incarnation,
            posts: HashMap::new(),
            absent: HashMap::new(),
            heartbeat: 0,
            collected: 0,
            compared: now,
        }
    }

    fn post(&mut self, key: &str, text: &str, hasher: &RandomState, sender: &EventSender) {
        let Some(value) = value::decode(text) else {
            self.gone(key, sender);
            return;
        };
        self.absent.remove(key);
        let hash = hasher.hash_one(text);
        if self.posts.get(key) == Some(&hash) {
            return;
        }
        self.posts.insert(key.to_owned(), hash);
        sender.set(&self.incarnation, key, value);
    }

    fn gone(&mut self, key: &str, sender: &EventSender) {
        self.absent.remove(key);
        if self.posts.remove(key).is_some() {
            sender.deleted(&self.incarnation, key);
        }
    }

    /// Sends all keys, in the order in which they were set.
    fn load(&mut self, state: &NodeState, hasher: &RandomState, sender: &EventSender) {
        let mut posts: Vec<_> = state.key_values_including_deleted().filter(|(_, post)| !post.is_deleted()).collect();
        posts.sort_unstable_by_key(|(_, post)| post.version);
        posts.into_iter().for_each(|(key, post)| self.post(key, &post.value, hasher, sender));
    }

    /// Posts vanish only when something was collected, so only then there is anything to find.
    fn find_absent(&mut self, state: &NodeState, now: Instant, sender: &EventSender) {
        let collected = state.last_gc_version();
        let due = collected != self.collected || !self.absent.is_empty();
        // Below this version what was sent anew is not complete.
        let complete = state.max_version() >= collected;
        if !due || !complete || now.saturating_duration_since(self.compared) < COMPARE_INTERVAL {
            return;
        }
        self.compared = now;
        self.collected = collected;
        let is_there = |key: &String| state.get_versioned(key).is_some_and(|post| !post.is_deleted());
        self.absent.retain(|key, _| !is_there(key));
        for key in self.posts.keys().filter(|key| !is_there(key)) {
            self.absent.entry(key.clone()).or_insert(now);
        }
        let over = self.absent.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= ABSENT_FOR);
        let over: Vec<String> = over.map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| self.gone(key, sender));
    }
}

#[cfg(test)]
mod tests;
