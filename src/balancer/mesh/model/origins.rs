//! The origins, as all nodes together know them. Each node posts facts; facts of several nodes are
//! joined by taking the latest of each kind, so that the order of arrival does not matter. Pure: the
//! times come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::{Duration, Instant},
};

use super::record::Stamp;
use crate::{
    balancer::{
        BalancerError, OriginState, Reachability,
        registry::{Change, Registry},
    },
    origin::{Origin, OriginId},
};

/// How many times within its time to live an origin's heartbeats are told, though they say nothing new.
const TELLINGS: u32 = 10;
/// The longest time between two such tellings.
const MAX_UNTOLD: Duration = Duration::from_secs(15);

/// What is known of an origin. Facts of several nodes are joined by taking the latest of each.
#[derive(Debug, Clone, PartialEq)]
pub struct OriginFacts {
    /// The origin, as its latest heartbeat described it.
    pub origin: Origin,
    /// When that heartbeat came. Only some of those that say nothing new are told.
    pub last_heartbeat: Stamp,
    /// When a connection to it failed last, and how.
    pub failed: Option<(Stamp, String)>,
    /// When it last proved to be alive after a failure.
    pub recovered_at: Stamp,
    /// When another origin took its place.
    pub replaced_at: Stamp,
}

/// All origins that a node knows, and what is to be posted of them.
#[derive(Debug)]
pub(in crate::balancer) struct Origins {
    registry: Registry,
    facts: BTreeMap<OriginId, Facts>,
    ttl: Duration,
    capacity: usize,
    /// Origins of which this node knows more than it has posted.
    unposted: BTreeSet<OriginId>,
    /// Origins that were forgotten, whose posts are to be taken back.
    over: Vec<OriginId>,
}

#[derive(Debug)]
struct Facts {
    joined: OriginFacts,
    /// When this node learned of the latest heartbeat.
    learned: Instant,
    /// When this node posted the facts last.
    posted: Option<Instant>,
}

impl Origins {
    /// Knows no origin.
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self {
            registry: Registry::new(ttl, capacity),
            facts: BTreeMap::new(),
            ttl,
            capacity,
            unposted: BTreeSet::new(),
            over: Vec::new(),
        }
    }

    /// Those that are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What is known of an origin, whether it is registered or not.
    pub fn facts(&self, id: &OriginId) -> Option<&OriginFacts> {
        self.facts.get(id).map(|facts| &facts.joined)
    }

    /// What is known, ordered by id, from the origin after `after`; each with the age of its latest
    /// heartbeat.
    pub fn iter_after(&self, after: Option<&OriginId>, now: Instant) -> impl Iterator<Item = (&OriginFacts, Duration)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let facts = self.facts.range::<OriginId, _>((start, Bound::Unbounded));
        facts.map(move |(_, facts)| (&facts.joined, now.saturating_duration_since(facts.learned)))
    }

    /// Takes a heartbeat that came to this node.
    pub fn heartbeat(
        &mut self,
        origin: Origin,
        stamp: Stamp,
        now: Instant,
        changes: &mut Vec<Change>,
    ) -> Result<(), BalancerError> {
        let id = origin.id();
        let earlier = changes.len();
        self.registry.register(origin.clone(), now, changes)?;
        let mut cleared = false;
        for change in &changes[earlier..] {
            match change {
                Change::Replaced { old, .. } => {
                    let old = old.id();
                    if let Some(facts) = self.facts.get_mut(&old) {
                        facts.joined.replaced_at = stamp;
                        self.unposted.insert(old);
                    }
                }
                Change::Cleared { .. } => cleared = true,
                _ => {}
            }
        }
        if self.registry.get(&id).is_none() {
            return Ok(());
        }
        let untold = (self.ttl / TELLINGS).min(MAX_UNTOLD);
        self.make_room(&id);
        let facts = self.facts.entry(id.clone()).or_insert_with(|| Facts::new(origin.clone(), stamp, now));
        let stale = facts.posted.is_none_or(|posted| now.saturating_duration_since(posted) >= untold);
        let news = facts.joined.origin != origin || facts.joined.replaced_at >= facts.joined.last_heartbeat;
        facts.joined.origin = origin;
        facts.joined.last_heartbeat = stamp;
        facts.learned = now;
        if cleared {
            facts.joined.recovered_at = stamp;
        }
        if stale || news || cleared {
            self.unposted.insert(id);
        }
        Ok(())
    }

    /// Forgets the origin that was heard of longest ago and is no longer registered, if there is no room
    /// for another: one that starts again and again leaves many behind.
    fn make_room(&mut self, id: &OriginId) {
        if self.facts.contains_key(id) || self.facts.len() < self.capacity.saturating_mul(2) {
            return;
        }
        let gone = self.facts.iter().filter(|(id, _)| self.registry.get(id).is_none());
        if let Some(oldest) = gone.min_by_key(|(_, facts)| facts.learned).map(|(id, _)| id.clone()) {
            self.facts.remove(&oldest);
            self.unposted.remove(&oldest);
            self.over.push(oldest);
        }
    }

    /// Takes what the data path of this node saw.
    pub fn report(&mut self, id: &OriginId, seen: Reachability, stamp: Stamp, now: Instant, changes: &mut Vec<Change>) {
        let earlier = changes.len();
        let reason = match &seen {
            Reachability::Failed(reason) => Some(reason.clone()),
            Reachability::Reached => None,
        };
        self.registry.report(id, seen, now, changes);
        if !changes[earlier..].iter().any(|change| matches!(change, Change::Suspected { .. } | Change::Cleared { .. }))
        {
            return;
        }
        let Some(facts) = self.facts.get_mut(id) else { return };
        match reason {
            Some(_) => {
                let reason = self.registry.get(id).and_then(|entry| entry.suspect_reason.clone()).unwrap_or_default();
                facts.joined.failed = Some((stamp, reason));
            }
            None => facts.joined.recovered_at = stamp,
        }
        self.unposted.insert(id.clone());
    }

    /// Takes what another node told. `age` is the time since the origin's heartbeat, if it is known.
    pub fn learn(&mut self, told: &OriginFacts, age: Duration, now: Instant, changes: &mut Vec<Change>) {
        let id = told.origin.id();
        if !self.facts.contains_key(&id) && self.facts.len() >= self.capacity.saturating_mul(2) {
            return;
        }
        let learned = now.checked_sub(age).unwrap_or(now);
        let facts = self.facts.entry(id.clone()).or_insert_with(|| {
            let unknown = Facts::new(told.origin.clone(), Stamp::default(), learned);
            Facts { learned, ..unknown }
        });
        let joined = &mut facts.joined;
        let beat = told.last_heartbeat > joined.last_heartbeat;
        if beat {
            joined.origin = told.origin.clone();
            joined.last_heartbeat = told.last_heartbeat;
            facts.learned = learned;
        }
        if told.failed.as_ref().map(|(at, _)| *at) > joined.failed.as_ref().map(|(at, _)| *at) {
            joined.failed.clone_from(&told.failed);
        }
        joined.recovered_at = joined.recovered_at.max(told.recovered_at);
        joined.replaced_at = joined.replaced_at.max(told.replaced_at);

        if joined.replaced_at >= joined.last_heartbeat {
            self.registry.retire(&id, now);
            return;
        }
        if beat {
            self.registry.observe(&joined.origin, learned, now, changes);
        }
        let suspected =
            joined.failed.as_ref().filter(|(at, _)| *at > joined.recovered_at).map(|(_, reason)| reason.clone());
        let suspect = self.registry.get(&id).is_some_and(|entry| entry.state() == OriginState::Suspect);
        match suspected {
            Some(reason) if !suspect => self.registry.report(&id, Reachability::Failed(reason), now, changes),
            None if suspect => self.registry.report(&id, Reachability::Reached, now, changes),
            _ => {}
        }
    }

    /// Sees to it that this node's posts name the origin, for readers of a record that follows.
    pub fn ensure_posted(&mut self, id: &OriginId) {
        if self.facts.get(id).is_some_and(|facts| facts.posted.is_none()) {
            self.unposted.insert(id.clone());
        }
    }

    /// Ends what is over.
    pub fn expire(&mut self, now: Instant, changes: &mut Vec<Change>) -> Vec<OriginId> {
        self.registry.expire(now, changes);
        let kept = self.ttl.saturating_mul(2).saturating_add(MAX_UNTOLD);
        let over = |facts: &Facts| now.saturating_duration_since(facts.learned) >= kept;
        let mut over: Vec<_> = self.facts.iter().filter(|(_, f)| over(f)).map(|(id, _)| id.clone()).collect();
        for id in &over {
            self.facts.remove(id);
            self.unposted.remove(id);
        }
        over.append(&mut self.over);
        over
    }

    /// What is to be posted since the last call.
    pub fn take_unposted(&mut self, now: Instant) -> Vec<OriginFacts> {
        let mut posts = Vec::new();
        for id in std::mem::take(&mut self.unposted) {
            if let Some(facts) = self.facts.get_mut(&id) {
                facts.posted = Some(now);
                posts.push(facts.joined.clone());
            }
        }
        posts
    }
}

impl Facts {
    fn new(origin: Origin, last_heartbeat: Stamp, learned: Instant) -> Self {
        let joined = OriginFacts {
            origin,
            last_heartbeat,
            failed: None,
            recovered_at: Stamp::default(),
            replaced_at: Stamp::default(),
        };
        Self { joined, learned, posted: None }
    }
}

#[cfg(test)]
mod tests;
