//! The connections to and from peers, by their addresses.
//!
//! A connection is dialed when there is a message for a peer to which there is none. Either side sends
//! over the latest one that it has, so that a peer that has restarted is reached over the connection
//! that its new run made. A message is one unidirectional stream.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use quinn::{
    ConnectError, Connection, ConnectionError, Endpoint, Incoming, ReadToEndError, VarInt, WriteError,
    rustls::{AlertDescription, pki_types::CertificateDer},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{MAX_ENVELOPE, inbox::Inbox};
use crate::sync::lock;
use crate::{
    balancer::mesh::{
        gossip::{
            counters::{Counters, Reason},
            inspect::MessageKind,
            latest::Latest,
        },
        link::tls::DOMAIN,
    },
    net::canonical,
};

/// Handshakes of others that may be under way.
pub(super) const MAX_HANDSHAKES: usize = 256;
/// Handshakes from one IP address that may be under way.
const MAX_HANDSHAKES_PER_IP: usize = 32;
/// Beyond so many handshakes a sender has to show that its address is its own, which costs this node no
/// memory and hardly any time.
const HANDSHAKES_UNVALIDATED: usize = 16;
/// How long a handshake that another node began may take.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a handshake that this node began may take. A peer that is gone is dialed again with the next
/// message for it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The most peers.
const MAX_PEERS: usize = 1024;
/// Connections that one peer may have: its own, ours, and those of its earlier runs.
const MAX_PER_PEER: usize = 4;
/// The most messages that wait for one peer.
const MAX_QUEUED: usize = 16;
/// How long a peer is remembered to which there is no connection and no message.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// All connections of this node. Must not outlive its runtime.
pub(super) struct Connections {
    endpoint: Endpoint,
    /// By which this node recognizes itself.
    certificate: CertificateDer<'static>,
    counters: Arc<Counters>,
    inbox: Arc<Inbox>,
    peers: Mutex<HashMap<SocketAddr, Arc<Peer>>>,
    /// Addresses that turned out to be this node's.
    own: Mutex<HashSet<SocketAddr>>,
    handshakes: Mutex<Handshakes>,
}

#[derive(Default)]
struct Handshakes {
    count: usize,
    by_ip: HashMap<IpAddr, usize>,
}

struct Peer {
    address: SocketAddr,
    state: Mutex<PeerState>,
    /// There is a message.
    queued: Notify,
    /// There is another connection.
    connected: Notify,
}

#[derive(Default)]
struct PeerState {
    /// The latest is the last.
    connections: Vec<Connection>,
    queue: Latest<(MessageKind, u64), Bytes>,
    serial: u64,
}

/// Why a message was not sent.
enum SendError {
    Dial(Reason, String),
    Lost,
    /// This node dialed itself.
    Own,
}

impl Connections {
    pub fn new(
        endpoint: Endpoint,
        certificate: CertificateDer<'static>,
        counters: Arc<Counters>,
        inbox: Arc<Inbox>,
    ) -> Arc<Self> {
        let (peers, own, handshakes) = <_>::default();
        Arc::new(Self { endpoint, certificate, counters, inbox, peers, own, handshakes })
    }

    /// Queues a message for a peer. Of several of one kind that ask, only the last is kept.
    pub fn send(self: &Arc<Self>, to: SocketAddr, kind: MessageKind, message: Bytes) {
        if lock(&self.own).contains(&to) {
            self.counters.count_dropped(Reason::Own, 1, Some(to), "");
            return;
        }
        let Some(peer) = self.peer(to) else {
            self.counters.count_dropped(Reason::Overflow, 1, Some(to), "too many peers");
            return;
        };
        let mut state = lock(&peer.state);
        state.serial += 1;
        let serial = if kind == MessageKind::Ack { state.serial } else { 0 };
        state.queue.put((kind, serial), message);
        if state.queue.len() > MAX_QUEUED {
            state.queue.take();
            self.counters.count_dropped(Reason::Unsent, 1, Some(to), "more than the peer takes");
        }
        drop(state);
        peer.queued.notify_one();
    }

    /// The peer at an address, new or known. None if there are too many.
    fn peer(self: &Arc<Self>, address: SocketAddr) -> Option<Arc<Peer>> {
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(&address) {
            return Some(Arc::clone(peer));
        }
        if peers.len() >= MAX_PEERS {
            return None;
        }
        let (state, queued, connected) = <_>::default();
        let peer = Arc::new(Peer { address, state, queued, connected });
        peers.insert(address, Arc::clone(&peer));
        tokio::spawn(Arc::clone(self).send_queued(Arc::clone(&peer)));
        Some(peer)
    }

    /// Sends what is queued for a peer, until the peer is forgotten.
    async fn send_queued(self: Arc<Self>, peer: Arc<Peer>) {
        loop {
            let next = lock(&peer.state).queue.take();
            let Some((_, message)) = next else {
                if timeout(FORGET_AFTER, peer.queued.notified()).await.is_err() && self.forget(&peer) {
                    return;
                }
                continue;
            };
            match self.send_now(&peer, &message).await {
                Ok(()) => continue,
                Err(SendError::Own) => {
                    lock(&self.own).insert(peer.address);
                    self.counters.count_dropped(Reason::Own, 1, Some(peer.address), "");
                }
                Err(SendError::Dial(reason, error)) => {
                    self.counters.count_dropped(reason, 1, Some(peer.address), &error);
                }
                Err(SendError::Lost) => {
                    self.counters.count_dropped(Reason::Unsent, 1, Some(peer.address), "the connection was lost");
                    continue;
                }
            }
            // What has waited meanwhile is old. Whatever comes next dials again.
            while lock(&peer.state).queue.take().is_some() {}
        }
    }

    /// Forgets a peer that has no connection and no message.
    fn forget(&self, peer: &Peer) -> bool {
        let mut peers = lock(&self.peers);
        let state = lock(&peer.state);
        let unused = state.connections.is_empty() && state.queue.len() == 0;
        if unused {
            peers.remove(&peer.address);
        }
        unused
    }

    async fn send_now(self: &Arc<Self>, peer: &Arc<Peer>, message: &Bytes) -> Result<(), SendError> {
        loop {
            let connection = if let Some(connection) = peer.connection() {
                connection
            } else {
                tokio::select! {
                    dialed = self.dial(peer) => dialed?,
                    // It was quicker.
                    () = peer.connected.notified() => continue,
                }
            };
            let mut stream = tokio::select! {
                opened = connection.open_uni() => opened.map_err(|_| SendError::Lost)?,
                () = peer.connected.notified() => continue,
            };
            tokio::select! {
                written = stream.write_chunk(message.clone()) => {
                    written.map_err(|_: WriteError| SendError::Lost)?;
                    let _ = stream.finish();
                    return Ok(());
                }
                () = peer.connected.notified() => {
                    let _ = stream.reset(VarInt::from_u32(0));
                }
            }
        }
    }

    async fn dial(self: &Arc<Self>, peer: &Arc<Peer>) -> Result<Connection, SendError> {
        let unsent = |error: ConnectError| SendError::Dial(Reason::Unsent, error.to_string());
        let connecting = self.endpoint.connect(peer.address, DOMAIN).map_err(unsent)?;
        match timeout(DIAL_TIMEOUT, connecting).await {
            Ok(Ok(connection)) if self.is_own(&connection) => Err(SendError::Own),
            Ok(Ok(connection)) => {
                self.add(peer, connection.clone());
                Ok(connection)
            }
            Ok(Err(error)) => {
                let reason = reason(&error).unwrap_or(Reason::Unsent);
                Err(SendError::Dial(reason, error.to_string()))
            }
            Err(_) => Err(SendError::Dial(Reason::Timeout, "the peer does not answer".into())),
        }
    }

    /// Whether both ends of a connection are this node.
    fn is_own(&self, connection: &Connection) -> bool {
        let chain = connection.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        chain.is_some_and(|chain| chain.first() == Some(&self.certificate))
    }

    /// Uses a connection from now on.
    fn add(self: &Arc<Self>, peer: &Arc<Peer>, connection: Connection) {
        let mut state = lock(&peer.state);
        if state.connections.len() >= MAX_PER_PEER {
            state.connections.remove(0).close(VarInt::from_u32(0), b"");
        }
        state.connections.push(connection.clone());
        drop(state);
        tokio::spawn(Arc::clone(self).receive(Arc::clone(peer), connection));
    }

    /// Receives messages until the connection ends.
    async fn receive(self: Arc<Self>, peer: Arc<Peer>, connection: Connection) {
        let mut reading = FuturesUnordered::new();
        let error = loop {
            tokio::select! {
                stream = connection.accept_uni() => match stream {
                    Ok(mut stream) => reading.push(async move { stream.read_to_end(MAX_ENVELOPE).await }),
                    Err(error) => break error,
                },
                Some(read) = reading.next() => match read {
                    Ok(message) => self.inbox.put(peer.address, message),
                    Err(ReadToEndError::TooLong) => {
                        self.counters.count_dropped(Reason::Oversize, 1, Some(peer.address), "");
                    }
                    Err(ReadToEndError::Read(_)) => {}
                },
            }
        };
        // Only now a peer may have found out that it does not like this node's certificate.
        if let Some(reason) = reason(&error) {
            self.counters.count_dropped(reason, 1, Some(peer.address), &error.to_string());
        }
        lock(&peer.state).connections.retain(|other| other.stable_id() != connection.stable_id());
    }

    /// Takes the connections of others until the endpoint is closed.
    pub async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            let from = canonical(incoming.remote_address());
            let is_validated = incoming.remote_address_validated();
            let refusal = {
                let mut handshakes = lock(&self.handshakes);
                if handshakes.count >= HANDSHAKES_UNVALIDATED && !is_validated {
                    drop(handshakes);
                    // It fails only for those that were validated.
                    let _ = incoming.retry();
                    continue;
                }
                handshakes.begin(from.ip())
            };
            if let Err(refusal) = refusal {
                self.counters.count_dropped(Reason::Overflow, 1, Some(from), refusal);
                incoming.ignore();
                continue;
            }
            tokio::spawn(Arc::clone(&self).handshake(incoming, from));
        }
    }

    async fn handshake(self: Arc<Self>, incoming: Incoming, from: SocketAddr) {
        let accepted = match incoming.accept() {
            Ok(connecting) => timeout(ACCEPT_TIMEOUT, connecting).await,
            Err(error) => Ok(Err(error)),
        };
        lock(&self.handshakes).end(from.ip());
        match accepted {
            // The side that dialed says so.
            Ok(Ok(connection)) if self.is_own(&connection) => {}
            Ok(Ok(connection)) => match self.peer(from) {
                Some(peer) => {
                    self.add(&peer, connection);
                    peer.connected.notify_one();
                }
                None => self.counters.count_dropped(Reason::Overflow, 1, Some(from), "too many peers"),
            },
            Ok(Err(error)) => {
                if let Some(reason) = reason(&error) {
                    self.counters.count_dropped(reason, 1, Some(from), &error.to_string());
                }
            }
            Err(_) => self.counters.count_dropped(Reason::Timeout, 1, Some(from), "the handshake did not end in time"),
        }
    }

    /// Closes all connections, so that peers need not find out by themselves.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        // Long enough to send it; what quinn waits for beyond that are answers to late packets.
        sleep(Duration::from_millis(10)).await;
    }
}

impl Peer {
    /// The latest connection that is open.
    fn connection(&self) -> Option<Connection> {
        let state = lock(&self.state);
        state.connections.iter().rev().find(|connection| connection.close_reason().is_none()).cloned()
    }
}

impl Handshakes {
    fn begin(&mut self, ip: IpAddr) -> Result<(), &'static str> {
        if self.count >= MAX_HANDSHAKES {
            return Err("too many handshakes");
        }
        let of_ip = self.by_ip.entry(ip).or_default();
        if *of_ip >= MAX_HANDSHAKES_PER_IP {
            return Err("too many handshakes from one address");
        }
        *of_ip += 1;
        self.count += 1;
        Ok(())
    }

    fn end(&mut self, ip: IpAddr) {
        self.count -= 1;
        if let Some(of_ip) = self.by_ip.get_mut(&ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                self.by_ip.remove(&ip);
            }
        }
    }
}

/// What the end of a connection says of the peer. None if it says only that the peer is gone.
fn reason(error: &ConnectionError) -> Option<Reason> {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        ConnectionError::VersionMismatch => return Some(Reason::Untrusted),
        _ => return None,
    };
    // TLS alerts are the errors from 0x100 (RFC 9001, section 4.8).
    let alert = u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())?;
    Some(match AlertDescription::from(alert) {
        AlertDescription::NoApplicationProtocol => Reason::ForeignCluster,
        _ => Reason::Untrusted,
    })
}
