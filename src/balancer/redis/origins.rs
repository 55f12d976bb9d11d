//! Origins: written when their heartbeats come to this node, read when they come to others.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use redis::{Cmd, RedisResult, Value};
use tokio::{
    sync::MutexGuard,
    time::{MissedTickBehavior, interval},
};

use super::{
    NodeState, Shared,
    error::RedisError,
    events::Event,
    json::{Extras, Server, Suspicion, to_json},
    scripts::{self, millis},
};
use crate::{
    balancer::{BalancerError, DEFAULT_BACKEND_PREFIX, Reachability, now, registry::Change},
    origin::{Origin, OriginId},
};

/// How often origins are read without an event. The Go proxy publishes none.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an origin that no longer sent heartbeats while Redis was away is given.
const GRACE: Duration = Duration::from_secs(1);

/// What this node knows of a server's keys.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// The heartbeat that was taken last.
    updated: String,
    /// When this node changed it last. What was read before that is out of date.
    touched: Option<Instant>,
    /// Changes that are on their way.
    pending: usize,
    /// A heartbeat came while Redis was away.
    unwritten: bool,
}

impl Member {
    fn is_newer_than(&self, read: Instant) -> bool {
        self.pending > 0 || self.touched.is_some_and(|touched| touched >= read)
    }
}

/// A server as it was read.
struct ReadServer {
    id: OriginId,
    server: Server,
    suspicion: Option<Suspicion>,
    age: Duration,
}

impl Shared {
    /// Reads origins when somebody tells of a change and from time to time, for ever. Brings back what
    /// Redis has lost each time it comes back.
    pub async fn follow_origins(&self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.origins_changed.notified() => {}
                _ = ticks.tick() => {}
            }
            if !self.link.is_up() {
                continue;
            }
            let recovering = self.recovering.swap(false, Ordering::AcqRel);
            let done = if recovering { self.recover().await } else { self.read_origins(false).await };
            if let Err(error) = done {
                tracing::debug!(%error, "origins not read");
                self.recovering.fetch_or(recovering, Ordering::AcqRel);
            }
        }
    }

    async fn recover(&self) -> Result<(), RedisError> {
        self.renew_all();
        self.flush_leases().await;
        self.write_back().await?;
        self.read_origins(true).await?;
        self.with(|state, _, _| {
            // It may have been lost again.
            if !self.recovering.load(Ordering::Acquire) {
                state.frozen = None;
            }
        });
        Ok(())
    }

    /// Writes the origins that Redis does not have, and heartbeats that came in the meantime.
    async fn write_back(&self) -> Result<(), RedisError> {
        let ttl = self.config.origin_ttl;
        let (commands, ids) = self.with(|state, now, _| {
            let (mut commands, mut ids) = (Vec::new(), Vec::new());
            for (id, entry) in state.origins.iter() {
                let member = state.members.entry(id.clone()).or_default();
                let left = ttl.saturating_sub(entry.heartbeat_age(now)).max(ttl.min(GRACE));
                let mut server = Server::now(Origin::clone(&entry.origin));
                // The Go proxy reads no server without a time.
                if member.updated.is_empty() {
                    member.updated.clone_from(&server.updated);
                }
                server.updated.clone_from(&member.updated);
                let missing_only = !member.unwritten;
                let mut set = |key: String, json: String| {
                    let mut command = redis::cmd("SET");
                    command.arg(key).arg(json).arg("PX").arg(millis(left));
                    if missing_only {
                        command.arg("NX");
                    }
                    commands.push(command);
                };
                set(self.keys.server(id), server.to_json());
                set(self.keys.extras(id), to_json(&Extras::of(&server.origin)));
                if let Some(reason) = &entry.suspect_reason {
                    let suspicion = Suspicion { reason: reason.clone(), after: member.updated.clone() };
                    set(self.keys.suspect(id), to_json(&suspicion));
                }
                ids.push(id.clone());
            }
            (commands, ids)
        });
        if ids.is_empty() {
            return Ok(());
        }
        for answer in self.link.batch(&commands).await? {
            answer.map_err(|error| self.link.error(&error))?;
        }
        self.link.call(&scripts::list(&self.keys, &ids, &[])).await?;
        self.with(|state, _, _| state.members.values_mut().for_each(|member| member.unwritten = false));
        Ok(())
    }

    /// Reads all origins, unless somebody else does so after this call.
    pub async fn refresh_origins(&self) -> Result<(), RedisError> {
        let asked = now();
        let reading = self.reading.lock().await;
        if reading.is_some_and(|began| began >= asked) {
            return Ok(());
        }
        self.read_locked(reading, false).await
    }

    /// Reads all origins and takes what is new. With `again`, heartbeats that are known count anew.
    pub async fn read_origins(&self, again: bool) -> Result<(), RedisError> {
        let reading = self.reading.lock().await;
        self.read_locked(reading, again).await
    }

    async fn read_locked(&self, mut reading: MutexGuard<'_, Option<Instant>>, again: bool) -> Result<(), RedisError> {
        let started = now();
        *reading = Some(started);
        let list = self.link.run(redis::cmd("GET").arg(self.keys.servers())).await;
        if list == Ok(Value::Nil) && !again {
            // Nobody deletes the list; Redis has lost its data.
            self.write_back().await?;
        }
        let listed = match &list {
            Ok(Value::BulkString(json)) => serde_json::from_slice::<Vec<serde_json::Value>>(json).ok(),
            Ok(_) => Some(Vec::new()),
            // Of another type, which the list's script repairs.
            Err(error) if error.is_wrong_type() => None,
            Err(error) => return Err(error.clone()),
        };
        let broken = listed.is_none();
        if broken {
            self.foreign_data.warn(&self.keys.servers());
        }
        let listed: HashSet<String> =
            listed.unwrap_or_default().into_iter().filter_map(|key| Some(key.as_str()?.to_owned())).collect();
        let mut ids: Vec<OriginId> = listed.iter().filter_map(|key| self.keys.server_id(key.as_bytes())).collect();
        let local: Vec<OriginId> = self.with(|state, _, _| state.origins.iter().map(|(id, _)| id.clone()).collect());
        ids.extend(local.iter().filter(|id| !listed.contains(&self.keys.server(id))).cloned());
        ids.truncate(self.config.max_origins.saturating_mul(2));

        let (read, gone) = self.read_servers(&ids).await?;
        let alive: Vec<OriginId> = read.iter().map(|read| read.id.clone()).collect();
        // One that cannot be read stays until its next heartbeat, which replaces what is there.
        let local: Vec<OriginId> = local.into_iter().filter(|id| alive.contains(id) || gone.contains(id)).collect();
        self.with(|state, now, changes| self.take(state, read, &local, started, again, now, changes));

        let unlisted: Vec<_> = alive.into_iter().filter(|id| !listed.contains(&self.keys.server(id))).collect();
        let ended: Vec<_> = gone.iter().map(|id| self.keys.server(id)).filter(|key| listed.contains(key)).collect();
        if broken || !unlisted.is_empty() || !ended.is_empty() {
            let ended: Vec<_> = ended.into_iter().map(String::into_bytes).collect();
            self.link.call(&scripts::list(&self.keys, &unlisted, &ended)).await?;
        }
        Ok(())
    }

    /// The servers that are there, and the ids of those that are not.
    async fn read_servers(&self, ids: &[OriginId]) -> Result<(Vec<ReadServer>, Vec<OriginId>), RedisError> {
        const PARTS: usize = 4;
        let get = |name: &str, key: String| {
            let mut command = redis::cmd(name);
            command.arg(key);
            command
        };
        let commands = |id: &OriginId| -> [Cmd; PARTS] {
            [
                get("GET", self.keys.server(id)),
                get("GET", self.keys.extras(id)),
                get("GET", self.keys.suspect(id)),
                get("PTTL", self.keys.server(id)),
            ]
        };
        let commands: Vec<Cmd> = ids.iter().flat_map(commands).collect();
        let answers = self.link.batch(&commands).await?;
        let bytes = |answer: &RedisResult<Value>| match answer {
            Ok(Value::BulkString(bytes)) => Some(bytes.clone()),
            _ => None,
        };
        let (mut read, mut gone) = (Vec::new(), Vec::new());
        for (id, answers) in ids.iter().zip(answers.chunks(PARTS)) {
            match &answers[0] {
                Ok(Value::BulkString(json)) => {
                    let server = Server::parse(json, bytes(&answers[1]).as_deref());
                    let Some(server) = server.filter(|server| server.origin.id() == *id) else {
                        self.foreign_data.warn(&self.keys.server(id));
                        continue;
                    };
                    let left = match &answers[3] {
                        Ok(Value::Int(left)) => u64::try_from(*left).ok().map(Duration::from_millis),
                        _ => None,
                    };
                    // Without a time to live nobody knows; then it counts as young.
                    let age = left.map_or(Duration::ZERO, |left| self.config.origin_ttl.saturating_sub(left));
                    let suspicion = bytes(&answers[2]).and_then(|json| serde_json::from_slice(&json).ok());
                    read.push(ReadServer { id: id.clone(), server, suspicion, age });
                }
                Ok(_) => gone.push(id.clone()),
                Err(error) => {
                    tracing::debug!(origin = %id, %error, "the server is not read");
                    self.foreign_data.warn(&self.keys.server(id));
                }
            }
        }
        // In the order of their heartbeats, so that the younger of two that claim one place gets it.
        read.sort_by_key(|read| std::cmp::Reverse(read.age));
        Ok((read, gone))
    }

    #[expect(clippy::too_many_arguments, reason = "all of it was read at one time")]
    fn take(
        &self,
        state: &mut NodeState,
        read: Vec<ReadServer>,
        local: &[OriginId],
        started: Instant,
        again: bool,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        let alive: HashSet<OriginId> = read.iter().map(|read| read.id.clone()).collect();
        for ReadServer { id, server, suspicion, age } in read {
            if state.members.entry(id.clone()).or_default().is_newer_than(started) {
                continue;
            }
            let is_suspect =
                |state: &NodeState| state.origins.get(&id).is_some_and(|entry| entry.suspect_reason.is_some());
            let (was_suspect, logged) = (is_suspect(state), changes.len());
            let by_configuration = server.origin.server_id.starts_with(DEFAULT_BACKEND_PREFIX);
            let suspicion = suspicion.filter(|s| by_configuration || s.after == server.updated);
            let member = state.members.entry(id.clone()).or_default();
            if member.updated != server.updated || (again && state.origins.get(&id).is_some()) {
                member.updated = server.updated;
                let heartbeat = now.checked_sub(age).unwrap_or(now);
                let taken = if state.synced || state.origins.get(&id).is_some() {
                    state.origins.register(server.origin, heartbeat, changes)
                } else {
                    state.origins.adopt(server.origin, heartbeat, changes)
                };
                if let Err(error) = taken {
                    self.foreign_data.say(&format!("an origin in Redis is left out: {error}"));
                }
            }
            match suspicion {
                Some(suspicion) if !is_suspect(state) => {
                    state.origins.report(&id, Reachability::Failed(suspicion.reason), now, changes);
                }
                None if is_suspect(state) => state.origins.report(&id, Reachability::Reached, now, changes),
                _ => {}
            }
            if was_suspect && is_suspect(state) {
                // A suspicion that goes on is not logged again.
                let about = |change: &Change| match change {
                    Change::Suspected { id: whose, .. } | Change::Cleared { id: whose, .. } => *whose == id,
                    _ => false,
                };
                let mut index = 0;
                changes.retain(|change| {
                    index += 1;
                    index <= logged || !about(change)
                });
            }
        }
        for id in local.iter().filter(|id| !alive.contains(*id)) {
            if !state.members.get(id).is_some_and(|member| member.is_newer_than(started)) {
                state.origins.remove(id, now, changes);
            }
        }
        let NodeState { members, origins, .. } = state;
        members.retain(|id, member| alive.contains(id) || member.is_newer_than(started) || origins.get(id).is_some());
        state.synced = true;
    }

    /// Takes a heartbeat. While Redis is away it is kept and written later.
    pub async fn register(&self, origin: Origin) -> Result<(), BalancerError> {
        let id = origin.id();
        if self.with(|state, _, _| state.origins.get(&id).is_none()) {
            // Who else there is decides on whether it replaces somebody.
            let _ = self.refresh_origins().await;
        }
        let server = Server::now(origin.clone());
        let taken =
            self.with(|state, now, changes| -> Result<Option<(bool, Vec<OriginId>, Changing<'_>)>, BalancerError> {
                let before = state.origins.get(&id).map(|entry| Origin::clone(&entry.origin));
                state.origins.register(origin, now, changes)?;
                let Some(entry) = state.origins.get(&id) else { return Ok(None) };
                let news = !changes.is_empty() || before.as_ref() != Some(&entry.origin);
                let replaced = changes.iter().filter_map(|change| match change {
                    Change::Replaced { old, .. } => Some(old.id()),
                    _ => None,
                });
                let replaced: Vec<_> = replaced.collect();
                state.members.entry(id.clone()).or_default().updated.clone_from(&server.updated);
                let changing = Changing::begin(self, state, replaced.iter().chain([&id]));
                Ok(Some((news, replaced, changing)))
            })?;
        let Some((news, replaced, changing)) = taken else { return Ok(()) };

        let written = self.write(&id, &server, &replaced).await;
        drop(changing);
        if written.is_err() {
            self.with(|state, _, _| state.members.entry(id.clone()).or_default().unwritten = true);
        }
        match written {
            Ok(()) if news => self.tell(&Event::Origins { node: self.node.clone() }).await,
            Ok(()) => {}
            Err(error) => tracing::debug!(origin = %id, %error, "heartbeat not written yet"),
        }
        Ok(())
    }

    async fn write(&self, id: &OriginId, server: &Server, replaced: &[OriginId]) -> Result<(), RedisError> {
        let ttl = millis(self.config.origin_ttl);
        let set = |key: String, json: String| {
            let mut command = redis::cmd("SET");
            command.arg(key).arg(json).arg("PX").arg(&ttl);
            command
        };
        let del = |key: String| {
            let mut command = redis::cmd("DEL");
            command.arg(key);
            command
        };
        let mut commands = vec![
            set(self.keys.server(id), server.to_json()),
            set(self.keys.extras(id), to_json(&Extras::of(&server.origin))),
        ];
        if !server.origin.server_id.starts_with(DEFAULT_BACKEND_PREFIX) {
            commands.push(del(self.keys.suspect(id)));
        }
        for id in replaced {
            commands.extend([self.keys.server(id), self.keys.extras(id), self.keys.suspect(id)].map(del));
        }
        for answer in self.link.batch(&commands).await? {
            answer.map_err(|error| self.link.error(&error))?;
        }
        let gone: Vec<_> = replaced.iter().map(|id| self.keys.server(id).into_bytes()).collect();
        self.link.call(&scripts::list(&self.keys, std::slice::from_ref(id), &gone)).await.map(|_| ())
    }

    /// Takes what the data path saw, and tells the other nodes if it is news.
    pub async fn report(&self, id: &OriginId, seen: Reachability) {
        let reason = match &seen {
            Reachability::Failed(reason) => Some(reason.clone()),
            Reachability::Reached => None,
        };
        let changing = self.with(|state, now, changes| {
            state.origins.report(id, seen, now, changes);
            let news = changes.iter().any(|c| matches!(c, Change::Suspected { .. } | Change::Cleared { .. }));
            news.then(|| Changing::begin(self, state, std::iter::once(id)))
        });
        let Some(changing) = changing else { return };
        let written = self.write_suspicion(id, reason).await;
        drop(changing);
        match written {
            Ok(()) => self.tell(&Event::Origins { node: self.node.clone() }).await,
            Err(error) => tracing::debug!(origin = %id, %error, "suspicion not shared"),
        }
    }

    async fn write_suspicion(&self, id: &OriginId, reason: Option<String>) -> Result<(), RedisError> {
        let key = self.keys.suspect(id);
        let Some(reason) = reason else { return self.link.run(redis::cmd("DEL").arg(key)).await.map(|_| ()) };
        // It may have sent a heartbeat to another node that this one has not heard of.
        let json = self.link.run(redis::cmd("GET").arg(self.keys.server(id))).await?;
        let Value::BulkString(json) = json else { return Ok(()) };
        let Some(server) = Server::parse(&json, None) else { return Ok(()) };
        self.with(|state, _, _| {
            if let Some(member) = state.members.get_mut(id) {
                member.updated.clone_from(&server.updated);
            }
        });
        let suspicion = Suspicion { reason, after: server.updated };
        let mut set = redis::cmd("SET");
        set.arg(key).arg(to_json(&suspicion)).arg("PX").arg(millis(self.config.origin_ttl));
        self.link.run(&set).await.map(|_| ())
    }
}

/// Changes of servers that are on their way to Redis. What is read meanwhile is out of date.
struct Changing<'a> {
    shared: &'a Shared,
    ids: Vec<OriginId>,
}

impl<'a> Changing<'a> {
    fn begin<'i>(shared: &'a Shared, state: &mut NodeState, ids: impl Iterator<Item = &'i OriginId>) -> Self {
        let ids: Vec<_> = ids.cloned().collect();
        for id in &ids {
            state.members.entry(id.clone()).or_default().pending += 1;
        }
        Self { shared, ids }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.shared.with(|state, _, _| {
            for id in &self.ids {
                if let Some(member) = state.members.get_mut(id) {
                    member.pending = member.pending.saturating_sub(1);
                    member.touched = Some(now());
                }
            }
        });
    }
}

/// By id.
pub(super) type Members = HashMap<OriginId, Member>;
