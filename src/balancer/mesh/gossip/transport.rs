//! What chitchat sends and receives through: QUIC connections to the other nodes.

mod connections;
mod endpoint;
mod inbox;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::{
    ChitchatEnvelope, ChitchatMessage,
    transport::{RecvOutcome, SendOutcome, Socket, Transport},
};
use tokio::time;

pub use self::endpoint::protocol;
use self::{connections::Connections, inbox::Inbox};
use super::{
    StartError,
    codec::{self, Codec},
    counters::{Counters, Reason},
    inspect::{Inspector, MessageKind},
};
use crate::sync::lock;
use crate::{balancer::mesh::link::tls::Credentials, net::canonical};

/// The longest message that chitchat makes.
const MAX_ENVELOPE: usize = 65_507;
/// The most peers whose versions are kept.
const MAX_PEERS: usize = 1024;

/// Up to which version each peer has this node's keys, by its gossip address.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownVersions(Arc<Mutex<HashMap<SocketAddr, KnownVersion>>>);

/// What one peer reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KnownVersion {
    /// Up to which version it has this node's keys.
    pub version: u64,
    /// How often it reported.
    pub said: u64,
}

impl KnownVersions {
    /// Returns what a peer reported.
    pub fn of(&self, peer: SocketAddr) -> KnownVersion {
        lock(&self.0).get(&peer).copied().unwrap_or_default()
    }

    fn heard(&self, peer: SocketAddr, version: u64) {
        let mut known = lock(&self.0);
        if known.len() >= MAX_PEERS && !known.contains_key(&peer) {
            known.clear();
        }
        let entry = known.entry(peer).or_default();
        *entry = KnownVersion { version, said: entry.said + 1 };
    }

    /// Forgets all peers but these.
    pub fn retain(&self, peers: &[SocketAddr]) {
        lock(&self.0).retain(|peer, _| peers.contains(peer));
    }
}

/// Who a [`QuicTransport`] connects, and where it reports.
pub(super) struct Parts {
    /// The socket, bound.
    pub socket: std::net::UdpSocket,
    /// What proves that this node belongs to the cluster.
    pub credentials: Credentials,
    pub cluster_id: String,
    pub node: String,
    /// Reads what is received before chitchat does.
    pub inspector: Inspector,
    pub counters: Arc<Counters>,
    pub known: KnownVersions,
}

/// Chitchat's messages over QUIC. Cheap to clone.
#[derive(Clone)]
pub(super) struct QuicTransport {
    connections: Arc<Connections>,
    inbox: Arc<Inbox>,
    counters: Arc<Counters>,
    local: SocketAddr,
}

impl QuicTransport {
    /// Opens the endpoint. Must be called within the runtime that is to drive it.
    pub fn open(parts: Parts) -> Result<Self, StartError> {
        let Parts { socket, credentials, cluster_id, node, inspector, counters, known } = parts;
        let local = socket.local_addr()?;
        let endpoint = endpoint::open(socket, &credentials, &cluster_id, &node, Arc::clone(&counters))?;
        let inbox = Arc::new(Inbox::new(inspector, Arc::clone(&counters), known));
        let certificate = credentials.certificate().clone();
        let connections = Connections::new(endpoint, certificate, Arc::clone(&counters), Arc::clone(&inbox));
        tokio::spawn(Arc::clone(&connections).accept());
        Ok(Self { connections, inbox, counters, local })
    }

    /// Tells the peers that this node is gone.
    pub async fn close(&self) {
        self.connections.close().await;
    }
}

#[async_trait]
impl Transport for QuicTransport {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let codec = Codec::open().await.map_err(|e| {
            io::Error::new(e.kind(), format!("the loopback interface, which every node needs, does not work: {e}"))
        })?;
        Ok(Box::new(QuicSocket { transport: self.clone(), codec, decoding: None }))
    }
}

struct QuicSocket {
    transport: QuicTransport,
    codec: Codec,
    /// The message that the codec has: from whom it is, how long it is, and until when it is waited for.
    /// Receiving may be given up and begun again at any point, so it is kept here.
    decoding: Option<(SocketAddr, usize, time::Instant)>,
}

#[async_trait]
impl Socket for QuicSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.transport.local)
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let to = canonical(to);
        let kind = match &envelope.message {
            ChitchatMessage::Syn { .. } => MessageKind::Syn,
            ChitchatMessage::SynAck { .. } => MessageKind::SynAck,
            _ => MessageKind::Ack,
        };
        // What is not sent is made up for later; an error would only fill the log.
        match self.codec.encode(envelope).await {
            Ok(message) => {
                self.transport.connections.send(to, kind, Bytes::copy_from_slice(message));
                Ok(SendOutcome { num_bytes_sent: message.len() })
            }
            Err(error) => {
                self.transport.counters.count_dropped(Reason::Oversize, 1, Some(to), &error.to_string());
                Ok(SendOutcome { num_bytes_sent: 0 })
            }
        }
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            let Some((from_addr, num_bytes_received, limit)) = self.decoding else {
                let (from, message) = self.transport.inbox.take().await;
                // The loopback interface takes it at once or not at all.
                if self.codec.hand_over(&message).is_ok() {
                    self.decoding = Some((from, message.len(), time::Instant::now() + codec::LIMIT));
                }
                continue;
            };
            let decoded = time::timeout_at(limit, self.codec.decoded()).await;
            self.decoding = None;
            match decoded {
                Ok(Ok(envelope)) => return Ok(RecvOutcome { from_addr, envelope, num_bytes_received }),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    let counters = &self.transport.counters;
                    counters.count_dropped(Reason::Garbage, 1, Some(from_addr), "a message was lost inside");
                }
            }
        }
    }
}
