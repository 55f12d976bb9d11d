//! What runs on the gossip thread: it flushes writes, raises events, gossips with seeds, and catches up
//! peers that lag behind.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chitchat::{Chitchat, ChitchatHandle, ChitchatId};
use rand::seq::IndexedRandom;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{self, Instant, MissedTickBehavior},
};
use tracing::{error, warn};

use super::{
    replica::Replica,
    seeds::{self, Addresses, Resolver},
    store::PendingWrites,
    transport::{KnownVersions, QuicTransport},
    value,
};
use crate::sync::lock;

/// How long after one push the next may come.
const PUSH_INTERVAL: Duration = Duration::from_millis(15);
/// How often peers are looked at that lag far behind.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);
/// What counts as far: more than one exchange may carry.
const FAR_BEHIND: u64 = 500;
/// Posts that are taken at once, between which packets are read.
const FLUSH_BATCH: usize = 1000;
/// How long the last posts may take to reach the others.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often another run under this node's name is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Of how many intervals one calls a seed that is not seen, while others are seen.
const SEED_ROUNDS: u32 = 4;

/// A command to the gossip thread, which ends at once when nobody can send one any more.
pub(super) enum Command {
    /// To bring the last posts to the others and end.
    Leave(oneshot::Sender<()>),
}

pub(super) struct Worker {
    pub id: ChitchatId,
    pub handle: ChitchatHandle,
    pub chitchat: Arc<tokio::sync::Mutex<Chitchat>>,
    pub replica: Arc<Mutex<Replica>>,
    pub pending: Arc<PendingWrites>,
    pub known: KnownVersions,
    pub transport: QuicTransport,
    pub interval: Duration,
    pub resolver: Resolver,
    pub commands: mpsc::Receiver<Command>,
}

/// The loop's own state.
struct Running {
    handle: ChitchatHandle,
    chitchat: Arc<tokio::sync::Mutex<Chitchat>>,
    id: ChitchatId,
    pending: Arc<PendingWrites>,
    replica: Arc<Mutex<Replica>>,
    known: KnownVersions,
    addresses: Addresses,
    live: Vec<SocketAddr>,
    rounds: u32,
    duplicate_logged: Option<Instant>,
    interval: Duration,
    /// How often a peer had spoken when it was called to catch up, and when that was.
    called: HashMap<SocketAddr, (u64, Instant)>,
}

impl Worker {
    /// Runs until a command ends it, or until chitchat ends by a fault.
    pub async fn run(self) {
        let Self { id, handle, chitchat, replica, pending, known, transport, interval, resolver, mut commands } = self;
        let addresses = Addresses::default();
        let found = Arc::new(Notify::new());
        let (alone, is_alone) = watch::channel(true);
        let looking = tokio::spawn(look_up(resolver, addresses.clone(), Arc::clone(&found), is_alone));
        let faulty = handle.termination_watcher();
        tokio::pin!(faulty);
        let mut compare = time::interval(interval);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut catch_up = time::interval(CATCH_UP_INTERVAL);
        catch_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_push = Instant::now();
        let mut push_due = false;
        let changed = Arc::clone(&pending);
        let mut running = Running {
            handle,
            chitchat,
            id,
            pending,
            replica,
            known,
            addresses,
            live: Vec::new(),
            rounds: 0,
            duplicate_logged: None,
            interval,
            called: HashMap::new(),
        };
        let leaving = loop {
            tokio::select! {
                command = commands.recv() => break command,
                ended = &mut faulty => {
                    error!(?ended, "gossip ended by a fault");
                    break None;
                }
                () = changed.changed.notified() => {
                    running.flush().await;
                    push_due |= running.pending.take_push();
                }
                () = time::sleep_until(next_push), if push_due => {
                    push_due = false;
                    running.push();
                    next_push = Instant::now() + PUSH_INTERVAL;
                }
                () = found.notified() => running.call_seeds(),
                _ = catch_up.tick() => running.catch_up().await,
                _ = compare.tick() => {
                    running.compare().await;
                    let now_alone = running.live.is_empty();
                    alone.send_if_modified(|alone| std::mem::replace(alone, now_alone) != now_alone);
                    running.rounds = running.rounds.wrapping_add(1);
                    if now_alone || running.rounds.is_multiple_of(SEED_ROUNDS) {
                        running.call_seeds();
                    }
                }
            }
        };
        looking.abort();
        if let Some(Command::Leave(done)) = leaving {
            let _ = time::timeout(LEAVE_TIMEOUT, running.flush_to_peers()).await;
            let _ = time::timeout(LEAVE_TIMEOUT, running.handle.shutdown()).await;
            transport.close().await;
            let _ = done.send(());
        }
    }
}

/// Keeps the addresses of the seeds up to date.
async fn look_up(mut resolver: Resolver, addresses: Addresses, found: Arc<Notify>, mut alone: watch::Receiver<bool>) {
    loop {
        resolver.resolve(&addresses).await;
        found.notify_one();
        let pause = if *alone.borrow_and_update() { seeds::LOOKUP_INTERVAL_ALONE } else { seeds::LOOKUP_INTERVAL };
        tokio::select! {
            () = time::sleep(pause) => {}
            changed = alone.changed() => {
                if changed.is_err() {
                    return;
                }
                // Not at once: who lost sight of all others for a moment need not ask for them again.
                time::sleep(seeds::LOOKUP_INTERVAL_ALONE).await;
            }
        }
    }
}

impl Running {
    /// Moves what was posted into chitchat.
    async fn flush(&self) {
        loop {
            let posts = self.pending.take(FLUSH_BATCH);
            if posts.is_empty() {
                return;
            }
            let mut chitchat = self.chitchat.lock().await;
            let state = chitchat.self_node_state();
            for (key, value) in posts {
                match value {
                    Some(value) => state.set(key, value),
                    None if state.get(&key).is_some() => state.set_with_ttl(key, value::DELETED),
                    None => {}
                }
            }
            drop(chitchat);
            tokio::task::yield_now().await;
        }
    }

    /// Gossips with all who are alive.
    fn push(&self) {
        self.live.iter().for_each(|peer| self.gossip(*peer));
    }

    fn gossip(&self, peer: SocketAddr) {
        // It fails only when chitchat has ended, which is noticed elsewhere.
        let _ = self.handle.gossip(peer);
    }

    /// Gossips with those who lack more than they get in their turn. Each is called again only once it
    /// has answered, so that nobody is sent more than it can take in.
    async fn catch_up(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let version = self.version().await;
        let now = Instant::now();
        for peer in &self.live {
            let knows = self.known.of(*peer);
            if knows.version.saturating_add(FAR_BEHIND) >= version {
                self.called.remove(peer);
                continue;
            }
            let waits = self
                .called
                .get(peer)
                .is_some_and(|(said, at)| *said == knows.said && now.saturating_duration_since(*at) < self.interval);
            if !waits {
                self.called.insert(*peer, (knows.said, now));
                self.gossip(*peer);
            }
        }
    }

    async fn version(&self) -> u64 {
        self.chitchat.lock().await.self_node_state().max_version()
    }

    async fn compare(&mut self) {
        let chitchat = self.chitchat.lock().await;
        let now = Instant::now();
        lock(&self.replica).compare(&chitchat, now);
        let others = chitchat.live_nodes().filter(|id| id.node_id != self.id.node_id);
        self.live = others.map(|id| id.gossip_advertise_addr).collect();
        let twin = chitchat.live_nodes().find(|id| id.node_id == self.id.node_id && **id != self.id);
        if let Some(twin) = twin
            && self.duplicate_logged.is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_INTERVAL)
        {
            self.duplicate_logged = Some(now);
            warn!(
                node = &*twin.node_id,
                address = %twin.gossip_advertise_addr,
                "another node runs under this node's name, or ran a moment ago: PROXY_MESH_NODE_ID must differ"
            );
        }
        drop(chitchat);
        self.known.retain(&self.live);
        self.called.retain(|peer, _| self.live.contains(peer));
    }

    /// Gossips with all seeds while nobody is seen, and now and then with one that is not seen, so
    /// that parts of a mesh that lost each other meet again.
    fn call_seeds(&self) {
        let mut unseen = self.addresses.get();
        unseen.retain(|seed| *seed != self.id.gossip_advertise_addr && !self.live.contains(seed));
        if self.live.is_empty() {
            unseen.iter().for_each(|seed| self.gossip(*seed));
        } else if let Some(seed) = unseen.choose(&mut rand::rng()) {
            self.gossip(*seed);
        }
    }

    /// Brings all posts to all who are alive.
    async fn flush_to_peers(&self) {
        self.flush().await;
        let version = self.version().await;
        loop {
            let behind: Vec<_> = self.live.iter().filter(|peer| self.known.of(**peer).version < version).collect();
            if behind.is_empty() {
                return;
            }
            behind.into_iter().for_each(|peer| self.gossip(*peer));
            time::sleep(PUSH_INTERVAL).await;
        }
    }
}
