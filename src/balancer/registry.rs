//! The origins that a node knows: who is registered, who replaced whom, who is suspect. Pure: the
//! time comes in, changes worth a log line come out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{BalancerError, DEFAULT_BACKEND_PREFIX, OriginState, Reachability};
use crate::authority::host_port;
use crate::origin::{Origin, OriginId, Protocol};

/// The longest reason that is kept of a failure, in bytes.
const MAX_REASON: usize = 256;

/// A registered origin.
#[derive(Debug)]
pub(super) struct Entry {
    pub origin: Arc<Origin>,
    pub suspect_reason: Option<String>,
    heartbeat: Instant,
}

impl Entry {
    pub fn state(&self) -> OriginState {
        if self.suspect_reason.is_some() { OriginState::Suspect } else { OriginState::Live }
    }

    pub fn heartbeat_age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heartbeat)
    }
}

/// A change in what is known of an origin.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// A new origin.
    Registered(Arc<Origin>),
    /// `old` is gone because `new` runs in its place.
    Replaced { old: Arc<Origin>, new: Arc<Origin> },
    /// `returned` was taken for replaced, but lives beside `others`.
    Contested { returned: Arc<Origin>, others: Vec<Arc<Origin>> },
    /// A connection failed.
    Suspected { id: OriginId, reason: String },
    /// A connection succeeded, or a heartbeat arrived.
    Cleared { id: OriginId, by: &'static str },
    /// No heartbeat came for too long.
    Expired { id: OriginId, age: Duration },
}

impl Change {
    /// Writes the log line.
    pub fn log(&self) {
        match self {
            Self::Registered(origin) => tracing::info!(
                origin = %origin.id(), device = %origin.device_id, address = address_text(origin),
                software = %origin.software, "origin registered"
            ),
            Self::Replaced { old, new } => tracing::info!(
                origin = %new.id(), device = %new.device_id, address = address_text(new), replaced = %old.id(),
                "origin restarted; streams of its old self are placed anew"
            ),
            Self::Contested { returned, others } => {
                let others: Vec<_> = others.iter().map(|o| format!("{} at {}", o.id(), address_text(o))).collect();
                tracing::warn!(
                    origin = %returned.id(), device = %returned.device_id, address = address_text(returned),
                    others = others.join(", "),
                    "origins share a server id or an RTMP address, yet all send heartbeats; all are kept, but give \
                     each its own"
                );
            }
            Self::Suspected { id, reason } => tracing::warn!(origin = %id, reason, "origin is suspect"),
            Self::Cleared { id, by } => tracing::info!(origin = %id, by, "origin is no longer suspect"),
            Self::Expired { id, age } => {
                tracing::warn!(origin = %id, heartbeat_age = ?age, "origin expired: no heartbeat");
            }
        }
    }
}

/// All origins that are registered.
#[derive(Debug)]
pub(super) struct Registry {
    ttl: Duration,
    capacity: usize,
    origins: BTreeMap<OriginId, Entry>,
    /// Who was replaced, and when. One that sends a heartbeat again is alive after all.
    replaced: HashMap<OriginId, Instant>,
    /// No origin expires before this.
    next_expiry: Option<Instant>,
}

impl Registry {
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, origins: BTreeMap::new(), replaced: HashMap::new(), next_expiry: None }
    }

    pub fn get(&self, id: &OriginId) -> Option<&Entry> {
        self.origins.get(id)
    }

    /// All origins, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = (&OriginId, &Entry)> {
        self.origins.iter()
    }

    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Forgets origins whose last heartbeat is too old. Cheap while none is.
    pub fn expire(&mut self, now: Instant, changes: &mut Vec<Change>) {
        if self.next_expiry.is_none_or(|at| now < at) {
            return;
        }
        let ttl = self.ttl;
        self.origins.retain(|id, entry| {
            let age = entry.heartbeat_age(now);
            if age >= ttl {
                changes.push(Change::Expired { id: id.clone(), age });
            }
            age < ttl
        });
        self.replaced.retain(|_, at| now.saturating_duration_since(*at) < ttl);
        let oldest = self.origins.values().map(|entry| entry.heartbeat).chain(self.replaced.values().copied()).min();
        self.next_expiry = oldest.and_then(|at| at.checked_add(ttl));
    }

    /// Takes a heartbeat.
    pub fn register(&mut self, origin: Origin, now: Instant, changes: &mut Vec<Change>) -> Result<(), BalancerError> {
        self.expire(now, changes);
        let id = origin.id();
        let by_configuration = origin.server_id.starts_with(DEFAULT_BACKEND_PREFIX);
        if by_configuration && self.registers_itself(&origin, now, changes) {
            return Ok(());
        }

        if let Some(entry) = self.origins.get_mut(&id) {
            entry.heartbeat = now;
            if !by_configuration && entry.suspect_reason.take().is_some() {
                changes.push(Change::Cleared { id: id.clone(), by: "heartbeat" });
            }
            if *entry.origin == origin {
                return Ok(());
            }
            let moved = !same_address(&entry.origin, &origin);
            entry.origin = Arc::new(origin);
            let origin = Arc::clone(&entry.origin);
            if moved {
                let rivals = self.find(|other| same_address(other, &origin) && other.id() != id);
                self.replace(&rivals, &origin, now, changes);
            }
            return Ok(());
        }

        let neighbours = self.find(|other| same_address(other, &origin));
        let namesakes = self.find(|other| other.server_id == origin.server_id);
        let returned = self.replaced.contains_key(&id);
        let mut rivals = neighbours;
        // Of several with one server id, a newcomer can be the next run of any.
        if returned || namesakes.len() == 1 {
            rivals.extend(namesakes.into_iter().filter(|other| !same_address(other, &origin)));
        }

        let ends = if returned { 0 } else { rivals.len() };
        if self.origins.len() - ends >= self.capacity {
            return Err(BalancerError::Full(format!(
                "{} origins are registered, which is the limit (PROXY_MAX_ORIGINS)",
                self.origins.len()
            )));
        }

        let origin = Arc::new(origin);
        self.replaced.remove(&id);
        if returned && !rivals.is_empty() {
            changes.push(Change::Contested { returned: Arc::clone(&origin), others: rivals });
        } else if rivals.is_empty() {
            changes.push(Change::Registered(Arc::clone(&origin)));
        } else {
            self.replace(&rivals, &origin, now, changes);
        }
        self.origins.insert(id, Entry { origin, suspect_reason: None, heartbeat: now });
        self.next_expiry = self.next_expiry.or_else(|| now.checked_add(self.ttl));
        Ok(())
    }

    /// Takes an origin that other nodes have known for longer than this one, at the time of its last
    /// heartbeat. It replaces nobody, unless two claim one address.
    pub fn adopt(
        &mut self,
        origin: Origin,
        heartbeat: Instant,
        changes: &mut Vec<Change>,
    ) -> Result<(), BalancerError> {
        let contested = self.origins.values().any(|other| same_address(&other.origin, &origin));
        if contested || self.origins.len() >= self.capacity {
            return self.register(origin, heartbeat, changes);
        }
        let origin = Arc::new(origin);
        changes.push(Change::Registered(Arc::clone(&origin)));
        self.origins.insert(origin.id(), Entry { origin, suspect_reason: None, heartbeat });
        self.next_expiry = [self.next_expiry, heartbeat.checked_add(self.ttl)].into_iter().flatten().min();
        Ok(())
    }

    /// Forgets an origin, because the other nodes have.
    pub fn remove(&mut self, id: &OriginId, now: Instant, changes: &mut Vec<Change>) {
        if let Some(entry) = self.origins.remove(id) {
            changes.push(Change::Expired { id: id.clone(), age: entry.heartbeat_age(now) });
        }
    }

    /// Takes what the data path saw.
    pub fn report(&mut self, id: &OriginId, seen: Reachability, now: Instant, changes: &mut Vec<Change>) {
        self.expire(now, changes);
        let Some(entry) = self.origins.get_mut(id) else { return };
        match seen {
            Reachability::Reached => {
                if entry.suspect_reason.take().is_some() {
                    changes.push(Change::Cleared { id: id.clone(), by: "connection" });
                }
            }
            Reachability::Failed(mut reason) => {
                reason.truncate(reason.floor_char_boundary(MAX_REASON));
                if entry.suspect_reason.is_none() {
                    changes.push(Change::Suspected { id: id.clone(), reason: reason.clone() });
                }
                entry.suspect_reason = Some(reason);
            }
        }
    }

    /// Takes a heartbeat that came to another node at `heartbeat`. What it means for other origins
    /// was decided there.
    pub fn observe(&mut self, origin: &Origin, heartbeat: Instant, now: Instant, changes: &mut Vec<Change>) {
        self.expire(now, changes);
        let id = origin.id();
        if now.saturating_duration_since(heartbeat) >= self.ttl {
            return;
        }
        if let Some(entry) = self.origins.get_mut(&id) {
            entry.heartbeat = entry.heartbeat.max(heartbeat);
            if *entry.origin != *origin {
                entry.origin = Arc::new(origin.clone());
            }
        } else if self.origins.len() < self.capacity {
            let origin = Arc::new(origin.clone());
            changes.push(Change::Registered(Arc::clone(&origin)));
            self.replaced.remove(&id);
            self.origins.insert(id, Entry { origin, suspect_reason: None, heartbeat });
            self.next_expiry = [self.next_expiry, heartbeat.checked_add(self.ttl)].into_iter().flatten().min();
        }
    }

    /// Takes note that another node saw an origin replaced.
    pub fn retire(&mut self, id: &OriginId, now: Instant) {
        self.origins.remove(id);
        self.remember_replaced(id.clone(), now);
    }

    /// Whether the origin that `configured` describes sends heartbeats of its own. What it says of
    /// itself counts for more than what the configuration says of it. An entry may be there all the
    /// same: another node took the heartbeat, and this one did not know of it in time.
    fn registers_itself(&mut self, configured: &Origin, now: Instant, changes: &mut Vec<Change>) -> bool {
        let themselves = |other: &Origin| !other.server_id.starts_with(DEFAULT_BACKEND_PREFIX);
        let Some(own) = self.find(|other| themselves(other) && same_address(other, configured)).pop() else {
            return false;
        };
        let id = configured.id();
        tracing::debug!(origin = %id, "the default backend registers itself; its configured entry is not needed");
        if let Some(entry) = self.origins.get(&id).map(|entry| Arc::clone(&entry.origin)) {
            self.replace(&[entry], &own, now, changes);
        }
        true
    }

    fn find(&self, matches: impl Fn(&Origin) -> bool) -> Vec<Arc<Origin>> {
        self.origins.values().filter(|entry| matches(&entry.origin)).map(|entry| Arc::clone(&entry.origin)).collect()
    }

    fn replace(&mut self, rivals: &[Arc<Origin>], new: &Arc<Origin>, now: Instant, changes: &mut Vec<Change>) {
        for old in rivals {
            self.origins.remove(&old.id());
            self.remember_replaced(old.id(), now);
            changes.push(Change::Replaced { old: Arc::clone(old), new: Arc::clone(new) });
        }
    }

    fn remember_replaced(&mut self, id: OriginId, now: Instant) {
        if self.replaced.len() >= self.capacity
            && let Some(oldest) = self.replaced.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone())
        {
            self.replaced.remove(&oldest);
        }
        self.replaced.insert(id, now);
        self.next_expiry = [self.next_expiry, now.checked_add(self.ttl)].into_iter().flatten().min();
    }
}

/// Whether two origins claim the same RTMP address. A port belongs to one process only.
fn same_address(a: &Origin, b: &Origin) -> bool {
    match (a.address(Protocol::Rtmp), b.address(Protocol::Rtmp)) {
        (Some((a, a_port)), Some((b, b_port))) => a_port == b_port && a.eq_ignore_ascii_case(b),
        _ => false,
    }
}

fn address_text(origin: &Origin) -> String {
    match origin.address(Protocol::Rtmp) {
        Some((host, port)) => host_port(host, port),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
