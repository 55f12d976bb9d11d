//! Takes the connections of other nodes and answers their calls.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tower::Service as _;

use super::{
    Membership,
    connection::{self, CONNECTION_WINDOW, STREAM_WINDOW},
    refusals::{Refusal, Refusals},
    service::Service,
};
use crate::sync::lock;
use crate::{
    balancer::mesh::{
        traits::RequestHandler,
        wire::{MAX_MESSAGE, proto::mesh_server::MeshServer},
    },
    net::canonical,
};

/// How long to wait when no connection can be accepted, for example because files have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a peer is asked whether it is still there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The most memory for the header of one call, in bytes.
const MAX_HEADER: u32 = 16 * 1024;

/// What others may take of this node.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a connection may take from its beginning to its first call.
    pub handshake: Duration,
    /// How long a call may take, the receipt of the question included.
    pub call: Duration,
    /// How long a connection may be without a call.
    pub idle: Duration,
    /// How many connections there may be in all.
    pub connections: usize,
    /// How many connections may be without proof that they come from a node of the cluster. They are
    /// counted apart, so that strangers cannot take the places of nodes.
    pub handshakes: usize,
    /// How many calls of one connection may be under way; more wait at the peer.
    pub calls: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            call: Duration::from_secs(10),
            idle: Duration::from_mins(5),
            connections: 512,
            handshakes: 256,
            calls: 512,
        }
    }
}

/// The gRPC server of a node. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    /// Who this node is.
    pub membership: Arc<Membership>,
    /// Who answers.
    pub handler: Arc<dyn RequestHandler>,
    /// What others may take.
    pub limits: Limits,
    /// Counts who is turned away.
    pub refusals: Arc<Refusals>,
}

impl Server {
    /// Serves until `stop`, then lets the calls that are under way end, for no longer than one may
    /// take. Does not return while a connection is open.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let established = Arc::new(Semaphore::new(self.limits.connections));
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let peer = canonical(peer);
                    let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else {
                        self.refusals.add(Refusal::Limit, peer, "too many connections that have proved nothing");
                        continue;
                    };
                    let (server, established) = (self.clone(), Arc::clone(&established));
                    connections.spawn(server.connection(stream, peer, handshake, established, stop.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection can be accepted");
                    if timeout(ACCEPT_PAUSE, stop.cancelled()).await.is_ok() {
                        break;
                    }
                }
            }
        }
        drop(listener);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.limits.call, all_ended).await.is_err() {
            connections.shutdown().await;
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        handshake: OwnedSemaphorePermit,
        established: Arc<Semaphore>,
        stop: CancellationToken,
    ) {
        let deadline = Instant::now() + self.limits.handshake;
        let _ = stream.set_nodelay(true);
        let place = || {
            let place = established.try_acquire_owned().ok();
            if place.is_none() {
                self.refusals.add(Refusal::Limit, peer, "too many connections");
            }
            place
        };
        let Some(credentials) = &self.membership.credentials else {
            drop(handshake);
            let Some(_place) = place() else { return };
            return self.http(stream, peer, deadline, stop).await;
        };
        let secured = tokio::select! {
            () = stop.cancelled() => return,
            secured = tokio::time::timeout_at(deadline, credentials.acceptor().accept(stream)) => secured,
        };
        drop(handshake);
        match secured {
            Ok(Ok(stream)) => {
                let Some(_place) = place() else { return };
                self.http(stream, peer, deadline, stop).await;
            }
            // A probe of the port, or a node that ended.
            Ok(Err(error)) if is_hang_up(&error) => tracing::debug!(%peer, %error, "connection ended in its handshake"),
            Ok(Err(error)) => self.refusals.add(Refusal::Handshake, peer, &error.to_string()),
            Err(_) => self.refusals.add(Refusal::Handshake, peer, "the TLS handshake did not end in time"),
        }
    }

    async fn http<S>(&self, stream: S, peer: SocketAddr, deadline: Instant, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::new(deadline, self.limits.idle));
        let service = MeshServer::new(Service {
            membership: Arc::clone(&self.membership),
            handler: Arc::clone(&self.handler),
            refusals: Arc::clone(&self.refusals),
            peer,
        })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
        let (limit, calls) = (self.limits.call, Arc::clone(&activity));
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (mut service, busy) = (service.clone(), calls.begin());
            async move {
                let answered = timeout(limit, service.call(request)).await;
                drop(busy);
                answered.unwrap_or_else(|_| {
                    Ok::<hyper::Response<Body>, Infallible>(
                        Status::deadline_exceeded("the call took too long").into_http(),
                    )
                })
            }
        });

        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.calls)
            .max_header_list_size(MAX_HEADER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = activity.lapse() => {
                if activity.is_unused() {
                    self.refusals.add(Refusal::Handshake, peer, "no call came in time");
                }
                return;
            }
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        match ended {
            Err(error) if activity.is_unused() && connection::is_foreign(&error) => {
                self.refusals.add(Refusal::Handshake, peer, &connection::describe(&error));
            }
            Err(error) => tracing::debug!(%peer, error = connection::describe(&error), "a node's connection ended"),
            Ok(()) => {}
        }
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// What goes on over one connection.
struct Activity {
    idle: Duration,
    state: Mutex<State>,
}

struct State {
    calls: usize,
    unused: bool,
    /// When the connection ends if it has no call by then.
    deadline: Instant,
}

impl Activity {
    fn new(first_call: Instant, idle: Duration) -> Self {
        Self { idle, state: Mutex::new(State { calls: 0, unused: true, deadline: first_call }) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut lock(&self.state))
    }

    fn is_unused(&self) -> bool {
        self.with(|state| state.unused)
    }

    fn begin(self: &Arc<Self>) -> Busy {
        self.with(|state| {
            state.calls += 1;
            state.unused = false;
        });
        Busy(Arc::clone(self))
    }

    /// Ends when there was no call for too long.
    async fn lapse(&self) {
        loop {
            let deadline = self.with(|state| {
                if state.calls > 0 {
                    state.deadline = Instant::now() + self.idle;
                }
                state.deadline
            });
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

/// A call under way.
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.calls -= 1;
            state.deadline = Instant::now() + self.0.idle;
        });
    }
}
