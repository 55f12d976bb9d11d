//! What chitchat sends and receives through: a UDP socket whose packets are sealed.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use chitchat::{
    ChitchatEnvelope,
    transport::{RecvOutcome, SendOutcome, Socket, Transport},
};
use tokio::{net::UdpSocket, time};

use super::{
    counters::{Counters, Reason},
    inspect::{Inspected, Inspector, Kind},
    latest::Latest,
    packet::MAX_PACKET,
    seal::{Now, Opener, Sealer},
    tap::{self, Tap},
};

/// How long to wait after the socket failed, so that a fault that stays does not take a core.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// The most packets that are read before the next envelope is worked on.
const MAX_DRAIN: usize = 4096;
/// The most envelopes that wait, 64 KB each.
const MAX_WAITING: usize = 128;
/// The most peers whose knowledge is remembered.
const MAX_PEERS: usize = 1024;

/// What each peer was heard to know of this node's posts, by its gossip address.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<HashMap<SocketAddr, Knows>>>);

/// What one peer was heard to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Knows {
    /// Up to which version it has this node's posts.
    pub version: u64,
    /// How often it said so.
    pub said: u64,
}

impl Known {
    /// What a peer was heard to know.
    pub fn to(&self, peer: SocketAddr) -> Knows {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).copied().unwrap_or_default()
    }

    fn heard(&self, peer: SocketAddr, version: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_PEERS && !known.contains_key(&peer) {
            known.clear();
        }
        let entry = known.entry(peer).or_default();
        *entry = Knows { version, said: entry.said + 1 };
    }

    /// Forgets all peers but these.
    pub fn retain(&self, peers: &[SocketAddr]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|peer, _| peers.contains(peer));
    }
}

/// What a [`SealedSocket`] works with.
pub struct Parts {
    /// The socket, bound.
    pub socket: UdpSocket,
    /// Seals what is sent.
    pub sealer: Sealer,
    /// Opens what is received.
    pub opener: Opener,
    /// Reads it before chitchat does.
    pub inspector: Inspector,
    /// Where it is counted.
    pub counters: Arc<Counters>,
    /// What peers are heard to know.
    pub known: Known,
}

/// Gives chitchat its socket, once.
pub struct SealedTransport(Mutex<Option<Parts>>);

impl SealedTransport {
    /// A transport that gives away one socket.
    pub fn new(parts: Parts) -> Self {
        Self(Mutex::new(Some(parts)))
    }
}

#[async_trait]
impl Transport for SealedTransport {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let parts = parts.ok_or_else(|| io::Error::other("the socket is in use"))?;
        let ipv6 = parts.socket.local_addr()?.is_ipv6();
        let tap = Tap::open().await.map_err(|e| {
            io::Error::new(e.kind(), format!("the loopback interface, which every node needs, does not work: {e}"))
        })?;
        Ok(Box::new(SealedSocket {
            parts,
            ipv6,
            tap,
            packet: vec![0; MAX_PACKET + 1],
            inbound: Inbound::None,
            handed: Vec::new(),
            waiting: Latest::default(),
            told: 0,
        }))
    }
}

struct SealedSocket {
    parts: Parts,
    ipv6: bool,
    tap: Tap,
    packet: Vec<u8>,
    inbound: Inbound,
    handed: Vec<u8>,
    /// Envelopes that chitchat has not seen, by who sent them and what they are.
    waiting: Latest<(SocketAddr, Kind, u64), Vec<u8>>,
    told: u64,
}

/// The envelope that is on its way to chitchat. Receiving may be given up and begun again at any
/// point, so what is known stays here.
#[derive(Clone, Copy)]
enum Inbound {
    None,
    /// It is in `handed`.
    Complete(SocketAddr),
    /// The tap has it.
    Handed(SocketAddr, time::Instant),
}

impl SealedSocket {
    /// Waits until there is an envelope for chitchat, and takes it. All packets that are there are read
    /// first, so that of several envelopes that ask the same only the last is answered: answers cost
    /// more than questions, and a node that falls behind would never catch up.
    async fn receive(&mut self) -> SocketAddr {
        loop {
            for _ in 0..MAX_DRAIN {
                match self.parts.socket.try_recv_from(&mut self.packet) {
                    Ok((length, from)) => self.take_packet(length, from),
                    Err(_) => break,
                }
            }
            if let Some(((from, ..), envelope)) = self.waiting.take() {
                self.handed = envelope;
                return from;
            }
            match self.parts.socket.recv_from(&mut self.packet).await {
                Ok((length, from)) => self.take_packet(length, from),
                Err(error) => {
                    self.parts.counters.count_dropped(Reason::Garbage, 1, None, &error.to_string());
                    time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    fn take_packet(&mut self, length: usize, from: SocketAddr) {
        let Parts { opener, inspector, counters, known, .. } = &mut self.parts;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        counters.count_received(length);
        let opened = match opener.open(&mut self.packet[..length], now()) {
            Ok(opened) => opened,
            Err(reason) => {
                counters.count_dropped(reason, 1, Some(from), "");
                return;
            }
        };
        if opened.given_up > 0 {
            counters.count_dropped(Reason::Overflow, opened.given_up, Some(from), "");
        }
        let Some(envelope) = opened.envelope else { return };
        let Some(Inspected { kind, known: version }) = inspector.inspect(envelope) else {
            counters.count_dropped(Reason::Garbage, 1, Some(from), "an envelope that no node makes");
            return;
        };
        if let Some(version) = version {
            known.heard(from, version);
        }
        // What only tells is kept; what asks takes the place of what asked before.
        self.told += u64::from(kind == Kind::Tells);
        let serial = if kind == Kind::Tells { self.told } else { 0 };
        self.waiting.put((from, kind, serial), envelope.to_vec());
        if self.waiting.len() > MAX_WAITING && self.waiting.take().is_some() {
            counters.count_dropped(Reason::Overflow, 1, Some(from), "more than this node can read");
        }
    }

    /// The address as this socket takes it.
    fn mapped(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(v4) if self.ipv6 => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
            _ => to,
        }
    }
}

#[async_trait]
impl Socket for SealedSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.parts.socket.local_addr()?)
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let address = self.mapped(to);
        let Parts { socket, sealer, counters, .. } = &mut self.parts;
        let mut sent = SendOutcome { num_bytes_sent: 0 };
        // An envelope that is not sent is made up for later; an error would only fill the log.
        let envelope = match self.tap.encode(envelope).await {
            Ok(envelope) => envelope,
            Err(error) => {
                counters.count_dropped(Reason::Oversize, 1, Some(to), &error.to_string());
                return Ok(sent);
            }
        };
        let now = now();
        let Some(mut cut) = sealer.cut(envelope) else {
            counters.count_dropped(Reason::Oversize, 1, Some(to), "");
            return Ok(sent);
        };
        while let Some(packet) = sealer.next(&mut cut, envelope, now) {
            match socket.send_to(packet, address).await {
                Ok(bytes) => {
                    counters.count_sent(bytes);
                    sent.num_bytes_sent += bytes;
                }
                Err(error) => {
                    counters.count_dropped(Reason::Unsent, 1, Some(to), &error.to_string());
                    break;
                }
            }
        }
        Ok(sent)
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            match self.inbound {
                Inbound::None => self.inbound = Inbound::Complete(self.receive().await),
                Inbound::Complete(from) => {
                    let handed = self.tap.hand(&self.handed).await;
                    let limit = time::Instant::now() + tap::LIMIT;
                    self.inbound = if handed.is_ok() { Inbound::Handed(from, limit) } else { Inbound::None };
                }
                Inbound::Handed(from_addr, limit) => {
                    let decoded = time::timeout_at(limit, self.tap.decoded()).await;
                    self.inbound = Inbound::None;
                    match decoded {
                        Ok(Ok(envelope)) => {
                            let num_bytes_received = self.handed.len();
                            return Ok(RecvOutcome { from_addr, envelope, num_bytes_received });
                        }
                        Ok(Err(error)) => return Err(error.into()),
                        Err(_) => {
                            let counters = &self.parts.counters;
                            counters.count_dropped(Reason::Garbage, 1, Some(from_addr), "an envelope was lost inside");
                        }
                    }
                }
            }
        }
    }
}

fn now() -> Now {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { wall: wall.as_millis() as u64, monotonic: Instant::now() }
}
