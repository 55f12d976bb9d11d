//! The gossip store of the mesh, over chitchat.
//!
//! chitchat keeps, for each node, a map that only this node writes, and brings the maps to all others
//! by gossip. It runs on a thread of its own, so that work elsewhere does not make a node look dead.
//! Around it:
//!
//! - [`transport`]: QUIC between nodes that hold the key of the cluster
//! - [`inspect`]: checks messages before chitchat parses them, so that no peer can bring it down
//! - [`codec`]: turns envelopes into bytes and back
//! - [`store`], [`events`]: what this node sets, and what others set; neither waits
//! - [`advertise`], [`seeds`]: how nodes find each other
//! - [`replica`], [`worker`]: what runs on the gossip thread
//! - [`counters`]: packets, bytes and drops

pub mod advertise;
mod codec;
pub mod counters;
pub mod events;
pub mod inspect;
mod latest;
mod replica;
mod seeds;
pub mod store;
mod transport;
mod value;
mod worker;

use std::{
    fs, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use chitchat::{
    ChitchatConfig, ChitchatId, FailureDetectorConfig, ProtocolVersion, spawn_chitchat, transport::Transport,
};
use tokio::{
    net::UdpSocket,
    runtime,
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tracing::{error, warn};

pub use self::{
    advertise::Advertised,
    counters::{Counters, Reason},
    events::EventReceiver,
    store::ChitchatStore,
    transport::protocol,
};
use self::{
    inspect::Inspector,
    replica::Replica,
    seeds::Resolver,
    store::PendingWrites,
    transport::{KnownVersions, Parts, QuicTransport},
    worker::{Command, Worker},
};
use super::{
    link::tls::{Credentials, CredentialsError},
    model::member::Incarnation,
    model::record::NodeId,
};
use crate::sync::lock;
use crate::{
    config::{self, Secret, keys},
    net::{self, ListenError},
};

/// The socket's buffers, as far as the kernel allows: some thousand packets.
const SOCKET_BUFFER: usize = 4 << 20;
/// How long a dead node's keys are kept, in case it comes back. For half of it they are sent to
/// others. Every run of a node counts as one here, so a node that keeps crashing fills the digests.
const DEAD_NODE_GRACE: Duration = Duration::from_mins(5);
/// For how long it is remembered that a post was taken back. A node that was out of touch for longer
/// is sent everything anew.
const TOMBSTONE_GRACE: Duration = Duration::from_mins(2);
/// Stands for the key of a cluster that has none. No setting can be as short.
const NO_KEY: &[u8] = b"no key";
/// How long the gossip thread may take to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no gossip.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The host name, which stands for the name of the node, could not be read.
    #[error("PROXY_MESH_NODE_ID is empty, and the host name cannot be read: {0}")]
    HostName(io::Error),
    /// The keys make no credentials.
    #[error("PROXY_MESH_KEY: {0}")]
    Credentials(#[from] CredentialsError),
    /// The system refused something else.
    #[error("gossip: {0}")]
    System(#[from] io::Error),
    /// chitchat did not start.
    #[error("gossip: {0}")]
    Chitchat(String),
}

/// Gossip whose socket is open, but that says nothing yet.
pub struct Bound {
    node: NodeId,
    settings: config::Mesh,
    socket: UdpSocket,
    local: SocketAddr,
    advertised: Advertised,
}

/// Gossip that runs. Dropping it ends it at once, as a crash would.
pub struct Gossip {
    /// Sets keys of this node.
    pub board: ChitchatStore,
    /// What the other nodes set, and which are live. It ends if gossip ends by a fault.
    pub feed: EventReceiver,
    /// This run of this node.
    pub me: Incarnation,
    /// Packets, bytes and drops.
    pub counters: Arc<Counters>,
    local: SocketAddr,
    leaver: Leaver,
}

/// Ends gossip.
#[derive(Debug)]
pub struct Leaver {
    commands: mpsc::Sender<Command>,
}

/// The name of this node: the configured one, or that of the host.
pub fn node_id(settings: &config::Mesh) -> Result<NodeId, StartError> {
    let name = match &settings.node_id {
        Some(name) => name.clone(),
        None => fs::read_to_string("/proc/sys/kernel/hostname").map_err(StartError::HostName)?,
    };
    Ok(NodeId::from(name.trim()))
}

impl Bound {
    /// Opens the socket and finds out the own address.
    pub async fn open(settings: &config::Mesh) -> Result<Self, StartError> {
        let node = node_id(settings)?;
        if settings.key.is_none() {
            warn!("PROXY_MESH_KEY is empty: whoever can reach this node's gossip can say what he likes");
        }
        let setting = &keys::PROXY_MESH_GOSSIP_LISTEN.spec;
        let socket = net::listen_udp(&settings.gossip_listen, setting, SOCKET_BUFFER).await?;
        let local = socket.local_addr()?;
        let advertised = advertise::advertised(settings.advertise_host.as_deref(), local, &settings.seeds).await;
        Ok(Self { node, settings: settings.clone(), socket, local, advertised })
    }

    /// Under which address and name others reach this node.
    pub fn advertised(&self) -> &Advertised {
        &self.advertised
    }

    /// Where packets arrive.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Begins to gossip.
    pub async fn start(self) -> Result<Gossip, StartError> {
        self.start_over(|transport| Box::new(transport)).await
    }

    /// Begins to gossip over what `network` makes of the transport.
    async fn start_over(
        self,
        network: impl FnOnce(QuicTransport) -> Box<dyn Transport> + Send + 'static,
    ) -> Result<Gossip, StartError> {
        let Self { node, settings, socket, local, advertised } = self;
        let me = Incarnation { node, generation: next_generation() };
        let address = SocketAddr::new(advertised.ip, local.port());
        let id = ChitchatId::new(me.node.as_str(), me.generation, address);

        let counters = Arc::new(Counters::default());
        let known = KnownVersions::default();
        let secret = |key: &Option<Secret>| key.as_ref().map(|key| key.expose().as_bytes().to_vec());
        // Without a key everybody has the same authority, and so proves nothing.
        let key = secret(&settings.key).unwrap_or_else(|| NO_KEY.to_vec());
        let parts = Parts {
            socket: socket.into_std()?,
            credentials: Credentials::derive(&key, secret(&settings.key_previous).as_deref())?,
            cluster_id: settings.cluster_id.clone(),
            node: me.node.as_str().to_owned(),
            inspector: Inspector::new(me.node.as_str(), me.generation),
            counters: Arc::clone(&counters),
            known: known.clone(),
        };

        let (sender, feed) = events::channel();
        let pending = Arc::new(PendingWrites::default());
        let (commands, receiver) = mpsc::channel(1);
        let (started, starting) = oneshot::channel();
        let board = ChitchatStore::new(Arc::clone(&pending), Arc::clone(&counters));
        let runtime = runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
        let work = async move {
            let replica = Arc::new(Mutex::new(Replica::new(Arc::clone(&id.node_id), sender)));
            let transport = QuicTransport::open(parts)?;
            let network = network(transport.clone());
            let handle = spawn_chitchat(chitchat_config(&id, &settings), Vec::new(), &*network);
            let handle = handle.await.map_err(|e| StartError::Chitchat(e.to_string()))?;
            let chitchat = handle.chitchat();
            let heard = Arc::clone(&replica);
            let every = chitchat.lock().await.subscribe_event("", move |event| {
                let mut replica = lock(&heard);
                replica.post(event.node, event.key, event.value, Instant::now());
            });
            every.forever();
            let (interval, resolver) = (settings.gossip_interval, Resolver::new(settings.seeds));
            let worker = Worker {
                id,
                handle,
                chitchat,
                replica,
                pending,
                known,
                transport,
                interval,
                resolver,
                commands: receiver,
            };
            Ok::<_, StartError>(worker)
        };
        thread::Builder::new().name("gossip".into()).spawn(move || {
            runtime.block_on(async {
                match work.await {
                    Ok(worker) => {
                        let _ = started.send(Ok(()));
                        worker.run().await;
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            });
            // A name that is being looked up is not waited for.
            runtime.shutdown_background();
        })?;
        starting.await.unwrap_or_else(|_| Err(StartError::Chitchat("the thread ended".into())))?;
        Ok(Gossip { board, feed, me, counters, local, leaver: Leaver { commands } })
    }
}

impl Gossip {
    /// Opens the socket and begins to gossip.
    pub async fn start(settings: &config::Mesh) -> Result<Self, StartError> {
        Bound::open(settings).await?.start().await
    }

    /// Where packets arrive.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Brings the last posts to all who are alive, within a second, and ends.
    pub async fn leave(self) {
        self.leaver.leave().await;
    }

    /// Takes apart what different tasks need. Gossip ends when the [`Leaver`] is dropped or used.
    pub fn split(self) -> (ChitchatStore, EventReceiver, Leaver) {
        (self.board, self.feed, self.leaver)
    }
}

impl Leaver {
    /// Brings the last posts to all who are alive, within a second, and ends.
    pub async fn leave(self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).await.is_ok() && timeout(LEAVE_TIMEOUT, ended).await.is_err() {
            error!("gossip did not end within {LEAVE_TIMEOUT:?}");
        }
    }
}

fn chitchat_config(id: &ChitchatId, settings: &config::Mesh) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: id.clone(),
        cluster_id: settings.cluster_id.clone(),
        gossip_interval: settings.gossip_interval,
        listen_addr: id.gossip_advertise_addr,
        // They are called by the worker, which looks them up more often.
        seed_nodes: Vec::new(),
        failure_detector_config: failure_detector(settings.gossip_interval),
        marked_for_deletion_grace_period: TOMBSTONE_GRACE,
        catchup_callback: None,
        // Nobody watches the live nodes through chitchat, which would copy all their posts for it.
        extra_liveness_predicate: Some(Box::new(|_| false)),
        // A digest of many dead runs must leave room for posts, so it is compressed.
        protocol_version: ProtocolVersion::V1,
    }
}

/// A node counts as dead after 7.5 intervals without a sign of life, and the last interval between
/// two signs on top, which is less than one interval as a rule.
///
/// The detector multiplies its threshold with the mean of the intervals in its window and of five
/// that it begins with. Signs of life come with every packet, so a long window would learn from a
/// burst of pushes that they come every few milliseconds, and take the quiet after it for death.
fn failure_detector(interval: Duration) -> FailureDetectorConfig {
    FailureDetectorConfig {
        phi_threshold: 6.0,
        sampling_window_size: 1,
        max_interval: 4 * interval,
        initial_interval: 3 * interval / 2,
        dead_node_grace_period: DEAD_NODE_GRACE,
    }
}

/// The start of this run in milliseconds since 1970, and never the same twice in one process.
fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    now.max(last.unwrap_or_default() + 1)
}

#[cfg(test)]
mod tests;
