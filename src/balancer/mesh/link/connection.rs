//! One connection to a peer.

use std::{
    error::Error,
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep_until},
};
use tonic::body::Body;

use super::tls::Credentials;
use crate::balancer::mesh::wire::message::CallError;
use crate::sync::lock;

/// How much of one message may be on its way, in bytes.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
/// How much of all messages of a connection may be on its way, in bytes.
pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;
/// How often a peer is asked whether it is still there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long a connection is kept without a call.
const IDLE: Duration = Duration::from_mins(1);

/// An HTTP/2 connection. Cheap to clone; it closes with its last clone.
#[derive(Clone)]
pub(super) struct Link {
    send: SendRequest<Body>,
    used: Arc<Mutex<Instant>>,
    id: u64,
}

impl Link {
    /// Connects to `address`, which is `host:port`.
    pub async fn connect(address: &str, credentials: Option<&Credentials>) -> Result<Self, CallError> {
        let stream = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
        let _ = stream.set_nodelay(true);
        let Some(credentials) = credentials else { return Self::http(stream, address).await };
        let (connector, domain) = credentials.connector();
        match connector.connect(domain, stream).await {
            Ok(stream) => Self::http(stream, address).await,
            Err(error) if is_refusal(&error) => Err(CallError::Refused(error.to_string())),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn http<S>(stream: S, address: &str) -> Result<Self, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failure(&error))?;
        let used = Arc::new(Mutex::new(Instant::now()));
        let (idle, peer) = (unused_for(Arc::clone(&used), IDLE), address.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(peer, error = describe(&error), "the connection to a node ended");
                },
                () = idle => {}
            }
        });
        Ok(Self { send, used, id: NEXT.fetch_add(1, Relaxed) })
    }

    /// Tells links apart.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Whether calls are certain to fail.
    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }
}

impl tower::Service<Request<Body>> for Link {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        // That the connection is closed is told by the call itself, so that it is told in one way only.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        *lock(&self.used) = Instant::now();
        Box::pin(self.send.send_request(request))
    }
}

async fn unused_for(used: Arc<Mutex<Instant>>, limit: Duration) {
    loop {
        let deadline = *lock(&used) + limit;
        if deadline <= Instant::now() {
            return;
        }
        sleep_until(deadline).await;
    }
}

fn unreachable(error: &io::Error) -> CallError {
    CallError::Unreachable(error.to_string())
}

/// What an HTTP/2 error says of the peer.
pub(super) fn failure(error: &hyper::Error) -> CallError {
    let text = describe(error);
    if is_foreign(error) { CallError::Refused(text) } else { CallError::Unreachable(text) }
}

/// Whether the error shows that the other side does not speak as a node of the cluster does, rather
/// than that it went away.
pub(super) fn is_foreign(error: &hyper::Error) -> bool {
    chain(error).any(|cause| {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return is_refusal(error);
        }
        let reason = cause.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
        matches!(
            reason,
            Some(
                h2::Reason::PROTOCOL_ERROR
                    | h2::Reason::FRAME_SIZE_ERROR
                    | h2::Reason::COMPRESSION_ERROR
                    | h2::Reason::INADEQUATE_SECURITY
                    | h2::Reason::HTTP_1_1_REQUIRED
            )
        )
    })
}

/// Whether TLS failed because one side does not trust or understand the other. HTTP/2 keeps only the
/// kind of such an error, which is one that no socket has.
fn is_refusal(error: &io::Error) -> bool {
    error.kind() == ErrorKind::InvalidData
}

/// The error and its causes in one line.
pub(super) fn describe(error: &hyper::Error) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_as_long_as_it_is_used() {
        let start = Instant::now();
        let used = Arc::new(Mutex::new(start));
        let again = start + IDLE / 2;
        let unused = tokio::spawn(unused_for(Arc::clone(&used), IDLE));
        sleep_until(again).await;
        *used.lock().unwrap() = again;
        unused.await.unwrap();
        assert_eq!(start.elapsed(), IDLE + IDLE / 2);
    }
}
