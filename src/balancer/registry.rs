//! The origins that a node knows: who is registered, who replaced whom, who is suspect. Pure: the
//! time comes in, changes worth a log line come out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{BalancerError, DEFAULT_BACKEND_PREFIX, OriginState, Reachability};
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
        Some((host, port)) if host.contains(':') => format!("[{host}]:{port}"),
        Some((host, port)) => format!("{host}:{port}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Endpoint;

    const TTL: Duration = Duration::from_mins(5);
    const ALMOST_TTL: Duration = Duration::from_millis(299_999);

    fn origin(server: &str, pid: &str, address: &str) -> Origin {
        let (ip, port) = address.rsplit_once(':').unwrap();
        let body = format!(r#"{{"ip":"{ip}","server":"{server}","service":"s","pid":"{pid}","rtmp":["{port}"]}}"#);
        Origin::from_heartbeat(body.as_bytes(), "").unwrap()
    }

    struct Scene {
        registry: Registry,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self { registry: Registry::new(TTL, 4), now: Instant::now() }
        }

        /// Sends a heartbeat; gives the names of the changes.
        fn beat(&mut self, server: &str, pid: &str, address: &str) -> Result<String, BalancerError> {
            let mut changes = Vec::new();
            self.registry.register(origin(server, pid, address), self.now, &mut changes)?;
            Ok(names(&changes))
        }

        fn report(&mut self, id: &str, seen: Reachability) -> String {
            let mut changes = Vec::new();
            self.registry.report(&OriginId::from(id), seen, self.now, &mut changes);
            names(&changes)
        }

        fn ids(&self) -> String {
            self.registry.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>().join(" ")
        }
    }

    fn names(changes: &[Change]) -> String {
        let name = |change: &Change| match change {
            Change::Registered(new) => format!("+{}", new.id()),
            Change::Replaced { old, new } => format!("{}>{}", old.id(), new.id()),
            Change::Contested { returned, others } => {
                format!("{}={}", returned.id(), others.iter().map(|o| o.id().to_string()).collect::<Vec<_>>().join(","))
            }
            Change::Suspected { id, .. } => format!("?{id}"),
            Change::Cleared { id, by } => format!("!{id} by {by}"),
            Change::Expired { id, .. } => format!("-{id}"),
        };
        changes.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_change_is_told_once_and_a_heartbeat_without_news_tells_nothing() {
        let mut scene = Scene::new();
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "+a-s-1");
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "");
        assert_eq!(scene.report("a-s-1", Reachability::Failed("refused".into())), "?a-s-1");
        assert_eq!(scene.report("a-s-1", Reachability::Failed("timed out".into())), "");
        let entry = scene.registry.get(&OriginId::from("a-s-1")).unwrap();
        assert_eq!(entry.suspect_reason.as_deref(), Some("timed out"), "the latest reason is kept");
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "!a-s-1 by heartbeat");
        assert_eq!(scene.report("a-s-1", Reachability::Failed("refused".into())), "?a-s-1");
        assert_eq!(scene.report("a-s-1", Reachability::Reached), "!a-s-1 by connection");
        assert_eq!(scene.report("a-s-1", Reachability::Reached), "");
        scene.now += TTL;
        assert_eq!(scene.report("a-s-1", Reachability::Reached), "-a-s-1");
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "+a-s-1");
    }

    #[test]
    fn the_time_of_expiry_follows_the_heartbeats() {
        let mut scene = Scene::new();
        scene.beat("a", "1", "10.0.0.1:1935").unwrap();
        scene.now += TTL / 2;
        assert_eq!(scene.beat("b", "1", "10.0.0.2:1935").unwrap(), "+b-s-1");
        scene.now += ALMOST_TTL.saturating_sub(TTL / 2);
        assert_eq!(scene.beat("b", "1", "10.0.0.2:1935").unwrap(), "");
        scene.now += Duration::from_millis(1);
        assert_eq!(scene.beat("c", "1", "10.0.0.3:1935").unwrap(), "-a-s-1 +c-s-1");
        scene.now += ALMOST_TTL;
        assert_eq!(scene.beat("c", "1", "10.0.0.3:1935").unwrap(), "-b-s-1");
    }

    #[test]
    fn an_origin_that_takes_another_ones_address_replaces_it() {
        let mut scene = Scene::new();
        scene.beat("a", "1", "10.0.0.1:1935").unwrap();
        assert_eq!(scene.beat("b", "1", "10.0.0.1:1935").unwrap(), "a-s-1>b-s-1");
        scene.beat("c", "1", "10.0.0.1:1936").unwrap();
        // A reload moves an origin that is known to an address that is taken.
        assert_eq!(scene.beat("c", "1", "10.0.0.1:1935").unwrap(), "b-s-1>c-s-1");
        assert_eq!(scene.ids(), "c-s-1");
    }

    #[test]
    fn cloned_server_ids_are_told_once_and_then_live_side_by_side() {
        let mut scene = Scene::new();
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "+a-s-1");
        assert_eq!(scene.beat("a", "2", "10.0.0.2:1935").unwrap(), "a-s-1>a-s-2");
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "a-s-1=a-s-2");
        for _ in 0..3 {
            assert_eq!(scene.beat("a", "2", "10.0.0.2:1935").unwrap(), "");
            assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "");
        }
        // The restart of one of them is told by its address, and leaves the other alone.
        assert_eq!(scene.beat("a", "3", "10.0.0.2:1935").unwrap(), "a-s-2>a-s-3");
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "");
        assert_eq!(scene.ids(), "a-s-1 a-s-3");
    }

    #[test]
    fn origins_that_claim_one_address_and_all_send_heartbeats_do_not_replace_each_other_for_ever() {
        let mut scene = Scene::new();
        scene.beat("a", "1", "127.0.0.1:1935").unwrap();
        assert_eq!(scene.beat("b", "1", "127.0.0.1:1935").unwrap(), "a-s-1>b-s-1");
        assert_eq!(scene.beat("a", "1", "127.0.0.1:1935").unwrap(), "a-s-1=b-s-1");
        assert_eq!(scene.beat("b", "1", "127.0.0.1:1935").unwrap(), "");
        assert_eq!(scene.beat("a", "1", "127.0.0.1:1935").unwrap(), "");
    }

    #[test]
    fn an_origin_that_others_knew_before_replaces_only_who_claims_its_address() {
        let mut scene = Scene::new();
        let mut adopt = |server: &str, pid: &str, address: &str| {
            let mut changes = Vec::new();
            scene.registry.adopt(origin(server, pid, address), scene.now, &mut changes).unwrap();
            names(&changes)
        };
        assert_eq!(adopt("a", "1", "10.0.0.1:1935"), "+a-s-1");
        assert_eq!(adopt("a", "2", "10.0.0.2:1935"), "+a-s-2");
        assert_eq!(adopt("b", "1", "10.0.0.2:1935"), "a-s-2>b-s-1");
        scene.now += TTL;
        assert_eq!(scene.report("x", Reachability::Reached), "-a-s-1 -b-s-1");
    }

    #[test]
    fn an_origin_that_others_have_forgotten_is_told_as_expired() {
        let mut scene = Scene::new();
        scene.beat("a", "1", "10.0.0.1:1935").unwrap();
        let mut changes = Vec::new();
        scene.registry.remove(&OriginId::from("a-s-1"), scene.now, &mut changes);
        scene.registry.remove(&OriginId::from("a-s-1"), scene.now, &mut changes);
        assert_eq!(names(&changes), "-a-s-1");
        assert_eq!(scene.beat("a", "2", "10.0.0.1:1935").unwrap(), "+a-s-2", "nobody was replaced");
    }

    #[test]
    fn an_origin_that_was_replaced_long_ago_is_a_new_one() {
        let mut scene = Scene::new();
        scene.beat("a", "1", "10.0.0.1:1935").unwrap();
        scene.beat("a", "2", "10.0.0.2:1935").unwrap();
        scene.now += ALMOST_TTL;
        scene.beat("a", "2", "10.0.0.2:1935").unwrap();
        scene.now += Duration::from_millis(1);
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "a-s-2>a-s-1");
    }

    #[test]
    fn the_configured_backend_gives_way_to_the_same_origin_when_it_registers_itself() {
        let mut scene = Scene::new();
        assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "+default-x-s-1");
        assert_eq!(scene.beat("a", "1", "127.0.0.1:1935").unwrap(), "default-x-s-1>a-s-1");
        assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "");
        assert_eq!(scene.ids(), "a-s-1");
        scene.now += TTL;
        assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "-a-s-1 +default-x-s-1");
    }

    #[test]
    fn the_configured_backend_gives_way_to_a_heartbeat_that_came_to_another_node_too() {
        let mut scene = Scene::new();
        scene.beat("default-x", "1", "127.0.0.1:1935").unwrap();
        let mut changes = Vec::new();
        scene.registry.observe(&origin("a", "1", "127.0.0.1:1935"), scene.now, scene.now, &mut changes);
        assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "default-x-s-1>a-s-1");
        assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "");
        assert_eq!(scene.ids(), "a-s-1");
    }

    #[test]
    fn nodes_that_differ_about_the_configured_backend_tell_nothing_and_the_last_wins() {
        let mut scene = Scene::new();
        let configured = |http: &str| Origin {
            http: vec![Endpoint::parse(http).unwrap()],
            ..origin("default-10.0.0.1:1935", "0", "10.0.0.1:1935")
        };
        let mut changes = Vec::new();
        for http in ["8080", "8081", "8080", "8081"] {
            scene.registry.register(configured(http), scene.now, &mut changes).unwrap();
            let kept: Vec<_> = scene.registry.iter().map(|(_, entry)| entry.origin.http.clone()).collect();
            assert_eq!(kept, [configured(http).http]);
        }
        assert_eq!(names(&changes), "+default-10.0.0.1:1935-s-0");
    }

    #[test]
    fn a_refresh_of_the_configured_backend_proves_nothing() {
        let mut scene = Scene::new();
        scene.beat("default-x", "1", "127.0.0.1:1935").unwrap();
        scene.report("default-x-s-1", Reachability::Failed("refused".into()));
        assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "");
        assert_eq!(scene.report("default-x-s-1", Reachability::Reached), "!default-x-s-1 by connection");
    }

    #[test]
    fn a_full_registry_refuses_newcomers_but_not_restarts() {
        let mut scene = Scene::new();
        for i in 1..=4 {
            scene.beat(&format!("a{i}"), "1", &format!("10.0.0.{i}:1935")).unwrap();
        }
        let error = scene.beat("a5", "1", "10.0.0.5:1935").unwrap_err();
        assert!(error.to_string().contains("PROXY_MAX_ORIGINS"), "{error}");
        assert_eq!(scene.beat("a4", "2", "10.0.0.4:1935").unwrap(), "a4-s-1>a4-s-2");
        assert!(scene.beat("a4", "1", "10.0.0.4:1935").is_err(), "returned, but there is no room");
        assert_eq!(scene.ids(), "a1-s-1 a2-s-1 a3-s-1 a4-s-2");
        scene.now += TTL;
        assert!(scene.beat("a5", "1", "10.0.0.5:1935").is_ok(), "room is made by those who expired");
    }

    #[test]
    fn what_is_remembered_of_replaced_origins_is_bounded() {
        let mut scene = Scene::new();
        for pid in 0..1000 {
            scene.now += Duration::from_millis(1);
            scene.beat("a", &pid.to_string(), "10.0.0.1:1935").unwrap();
        }
        assert_eq!(scene.ids(), "a-s-999");
        assert_eq!(scene.registry.replaced.len(), 4);
        assert!(scene.registry.replaced.contains_key(&OriginId::from("a-s-998")), "the latest are kept");
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let mut scene = Scene::new();
        scene.beat("a", "1", "10.0.0.1:1935").unwrap();
        scene.report("a-s-1", Reachability::Failed("é".repeat(1000)));
        let entry = scene.registry.get(&OriginId::from("a-s-1")).unwrap();
        assert_eq!(entry.suspect_reason.as_ref().unwrap().len(), MAX_REASON);
    }
}
