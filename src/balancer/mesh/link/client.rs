//! Asks other nodes.

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hyper::Uri;
use prost::Message as _;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request as Call, Status};

use super::{
    Membership,
    connection::{self, Link},
    metadata,
};
use crate::balancer::{
    CallMetrics,
    mesh::{
        model::member::Address,
        model::record::Stamp,
        traits::PeerClient,
        wire::{
            MAX_MESSAGE,
            message::{CallError, Request, Response},
            proto::{self, mesh_client::MeshClient},
        },
    },
};
use crate::sync::lock;

/// The most peers to which connections are kept.
const MAX_PEERS: usize = 256;
/// How long connecting may take. No call waits that long, but the next one finds the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How many calls in a row may miss their deadline before the connection counts as dead.
const MISSES: u32 = 3;
/// HTTP/2 wants an authority; nobody reads it.
const ORIGIN: &str = "http://node.mesh.srs-proxy.internal";

/// Keeps one connection to each peer that it asks.
pub struct Client {
    membership: Arc<Membership>,
    timeout: Duration,
    peers: Mutex<HashMap<Address, Arc<Peer>>>,
    metrics: CallMetrics,
}

impl Client {
    /// Calls end within what [`Request::patience`] makes of `timeout`.
    pub fn new(membership: Arc<Membership>, timeout: Duration) -> Self {
        Self { membership, timeout, peers: Mutex::default(), metrics: CallMetrics::default() }
    }

    /// What came of all calls.
    pub fn metrics(&self) -> CallMetrics {
        self.metrics.clone()
    }

    fn peer(&self, address: &Address) -> Arc<Peer> {
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(address) {
            *lock(&peer.used) = Instant::now();
            return Arc::clone(peer);
        }
        // Who moved is not where it was, and who is there now is not who was there.
        peers.retain(|known, _| known.node != address.node && known.grpc != address.grpc);
        if peers.len() >= MAX_PEERS {
            let oldest = peers.iter().min_by_key(|(_, peer)| *lock(&peer.used)).map(|(address, _)| address.clone());
            oldest.and_then(|address| peers.remove(&address));
        }
        let peer = Arc::new(Peer {
            grpc: address.grpc.clone(),
            used: Mutex::new(Instant::now()),
            link: Mutex::default(),
            missed: AtomicU32::new(0),
            connecting: tokio::sync::Mutex::default(),
        });
        peers.insert(address.clone(), Arc::clone(&peer));
        peer
    }

    /// Asks over the connection that there is or a new one. `tried` becomes the connection in use.
    async fn ask(
        &self,
        peer: &Arc<Peer>,
        call: &metadata::Call,
        question: proto::Request,
        tried: &mut Option<u64>,
    ) -> Result<(Stamp, Response), CallError> {
        let (link, is_new) = self.link(peer).await?;
        *tried = Some(link.id());
        let again = (!is_new).then(|| question.clone());
        let failed = match send(link, call, question).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        if !failed.is_broken {
            return Err(failed.error);
        }
        peer.discard(tried.take());
        // The connection may have been dead since long before, its peer alive again by now. Questions
        // may be asked twice.
        let Some(question) = again else { return Err(failed.error) };
        let (link, _) = self.link(peer).await?;
        *tried = Some(link.id());
        send(link, call, question).await.map_err(|failed| {
            if failed.is_broken {
                peer.discard(tried.take());
            }
            failed.error
        })
    }

    async fn link(&self, peer: &Arc<Peer>) -> Result<(Link, bool), CallError> {
        if let Some(link) = peer.open() {
            return Ok((link, false));
        }
        // Over a slow network the calls of now may be too early for it.
        let (peer, credentials) = (Arc::clone(peer), self.membership.credentials.clone());
        let connecting = tokio::spawn(async move {
            let _first = peer.connecting.lock().await;
            if let Some(link) = peer.open() {
                return Ok((link, false));
            }
            let link = timeout(CONNECT, Link::connect(&peer.grpc, credentials.as_ref()))
                .await
                .map_err(|_| CallError::Unreachable(format!("not connected within {CONNECT:?}")))??;
            *lock(&peer.link) = Some(link.clone());
            Ok((link, true))
        });
        connecting.await.unwrap_or_else(|error| Err(CallError::Unreachable(error.to_string())))
    }
}

#[async_trait]
impl PeerClient for Client {
    async fn call(&self, to: &Address, clock: Stamp, request: Request) -> Result<(Stamp, Response), CallError> {
        let limit = request.patience(self.timeout);
        let call = metadata::Call {
            cluster: self.membership.cluster.clone(),
            from: self.membership.node.clone(),
            to: to.node.clone(),
            clock,
        };
        let question = proto::Request::from(&request);
        let size = question.encoded_len();
        if size > MAX_MESSAGE {
            return Err(CallError::Refused(format!("the question has {size} bytes; the limit is {MAX_MESSAGE}")));
        }
        let peer = self.peer(to);
        let mut tried = None;
        let start = Instant::now();
        let asked = async {
            let (clock, response) = self.ask(&peer, &call, question, &mut tried).await?;
            if !response.answers(&request) {
                return Err(CallError::Refused("the answer does not belong to the question".into()));
            }
            Ok((clock, response))
        };
        let answer = timeout(limit, asked).await;
        self.metrics.observe(&answer, start.elapsed());
        if answer.is_ok() {
            peer.missed.store(0, Ordering::Relaxed);
        }
        answer.unwrap_or_else(|_| {
            // A peer that vanished without a word answers nothing on this connection ever again.
            if peer.missed.fetch_add(1, Ordering::Relaxed) + 1 >= MISSES {
                peer.missed.store(0, Ordering::Relaxed);
                peer.discard(tried);
            }
            Err(CallError::Unreachable(format!("no answer within {limit:?}")))
        })
    }
}

/// Another node.
struct Peer {
    grpc: String,
    used: Mutex<Instant>,
    link: Mutex<Option<Link>>,
    /// Calls in a row that were not answered in time.
    missed: AtomicU32,
    /// Held by the one who connects, for all who wait for it.
    connecting: tokio::sync::Mutex<()>,
}

impl Peer {
    fn open(&self) -> Option<Link> {
        lock(&self.link).as_ref().filter(|link| !link.is_closed()).cloned()
    }

    /// Has the next call connect anew, if it is still this connection that is kept.
    fn discard(&self, id: Option<u64>) {
        let mut link = lock(&self.link);
        if link.as_ref().map(Link::id) == id {
            *link = None;
        }
    }
}

/// A call without an answer.
struct Failed {
    error: CallError,
    /// Whether the connection is to blame.
    is_broken: bool,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        let mut cause = status.source();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<hyper::Error>() {
                return Self { error: connection::failure(error), is_broken: true };
            }
            cause = error.source();
        }
        let text = format!("{:?}: {}", status.code(), status.message());
        let error = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => CallError::Unreachable(text),
            _ => CallError::Refused(text),
        };
        Self { error, is_broken: false }
    }
}

async fn send(link: Link, call: &metadata::Call, question: proto::Request) -> Result<(Stamp, Response), Failed> {
    let mut client = MeshClient::with_origin(link, Uri::from_static(ORIGIN))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let mut request = Call::new(question);
    call.write(request.metadata_mut());
    let reply = client.call(request).await?;
    let not_a_node = |text: String| Failed { error: CallError::Refused(text), is_broken: false };
    let clock = metadata::read_clock(reply.metadata()).map_err(not_a_node)?;
    let response = Response::try_from(reply.into_inner()).map_err(|error| not_a_node(error.to_string()))?;
    Ok((clock, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let membership = Membership { cluster: "c".into(), node: "n0".into(), credentials: None };
        Client::new(Arc::new(membership), Duration::from_millis(300))
    }

    fn address(node: &str, grpc: &str) -> Address {
        Address { node: node.into(), grpc: grpc.into() }
    }

    #[tokio::test]
    async fn a_node_that_moved_and_a_node_that_took_anothers_place_are_connected_to_anew() {
        let client = client();
        let first = client.peer(&address("n1", "a:1"));
        assert!(Arc::ptr_eq(&first, &client.peer(&address("n1", "a:1"))));
        client.peer(&address("n1", "b:1"));
        client.peer(&address("n2", "b:1"));
        assert_eq!(lock(&client.peers).keys().cloned().collect::<Vec<_>>(), [address("n2", "b:1")]);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_bounded_and_the_one_that_was_not_used_for_longest_goes_first() {
        let client = client();
        let nth = |i: usize| address(&format!("n{i}"), &format!("h{i}:1"));
        for i in 0..MAX_PEERS {
            client.peer(&nth(i));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        client.peer(&nth(0));
        client.peer(&nth(MAX_PEERS));
        let peers = lock(&client.peers);
        assert_eq!(peers.len(), MAX_PEERS);
        assert!(peers.contains_key(&nth(0)) && !peers.contains_key(&nth(1)));
    }
}
