//! HTTP/1.1 requests to origins, over connections that are kept for the next request.
//!
//! A connection has no task of its own: whoever waits for its answer or reads its body moves it on.
//! So bytes go from the origin's socket to the client's in one task, and nothing is copied on the way.

mod wire;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
    thread::{self, ThreadId},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

use self::wire::Wire;
use super::dial::Dialer;
use crate::sync::lock;
use crate::{
    error::{Error, Kind, Result},
    metrics::OriginMetrics,
};

/// What one read takes at the most, in bytes, which is also the largest header of an answer.
const MAX_READ: usize = 128 * 1024;

/// How connections are made and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long name resolution and connecting may take.
    pub connect_timeout: Duration,
    /// How long a connection is kept for the next request.
    pub keepalive: Duration,
    /// How many connections to one address are kept, for each thread.
    pub max_idle: usize,
}

/// What one answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the request to the header of the answer.
    pub answer: Duration,
    /// Between two reads of the body.
    pub idle: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The origin does not take connections: nothing was sent.
    #[error(transparent)]
    Unreachable(Error),
    /// The origin took the connection and gave no answer, or none that can be understood.
    #[error(transparent)]
    Unanswered(Error),
}

impl SendError {
    /// How it failed.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Unreachable(error) | Self::Unanswered(error) => error.kind(),
        }
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Unreachable(error) | SendError::Unanswered(error) => error,
        }
    }
}

/// Sends requests, and keeps connections for the next ones. Cheap to clone.
///
/// A connection is used again only on the thread that made it, whose runtime watches its socket.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dialer: Dialer,
    settings: Settings,
    metrics: OriginMetrics,
    idle: Mutex<HashMap<Key, Vec<(Instant, PooledConnection)>>>,
}

/// The thread that made a connection, and where it leads.
type Key = (ThreadId, Arc<str>, u16);

/// A connection to an origin.
#[derive(Debug)]
struct PooledConnection {
    requests: SendRequest<Full<Bytes>>,
    /// Nothing once it has ended.
    connection: Option<Box<Connection<TokioIo<Wire>, Full<Bytes>>>>,
}

impl Client {
    /// Connects by `dialer`.
    pub fn new(dialer: Dialer, settings: Settings) -> Self {
        Self::counting(dialer, settings, OriginMetrics::default())
    }

    /// As [`Self::new`], and counts connections and requests in `metrics`.
    pub fn counting(dialer: Dialer, settings: Settings, metrics: OriginMetrics) -> Self {
        Self { inner: Arc::new(Inner { dialer, settings, metrics, idle: Mutex::default() }) }
    }

    /// What makes the connections.
    pub fn dialer(&self) -> &Dialer {
        &self.inner.dialer
    }

    /// Sends a request, whose target is in origin form, to `host:port`. All errors are of the origin's
    /// side. A connection that was kept and turns out to have ended is no error.
    pub async fn send(
        &self,
        host: &str,
        port: u16,
        request: Request<Full<Bytes>>,
        patience: Patience,
    ) -> Result<Response<OriginBody>, SendError> {
        let key: Key = (thread::current().id(), host.into(), port);
        self.count(async {
            // A connection that was kept may end at any moment, and only safe requests can then be repeated.
            if matches!(*request.method(), Method::GET | Method::HEAD) {
                while let Some(leg) = self.inner.take(&key) {
                    match self.exchange(leg, &key, request.clone(), patience).await {
                        Err(error) if error.kind() != Kind::Timeout => {
                            tracing::trace!(host, port, %error, "a connection that was kept has ended");
                        }
                        answered => return answered.map_err(SendError::Unanswered),
                    }
                }
            }
            let leg = self.connect(&key, Wire::new).await?;
            self.exchange(leg, &key, request, patience).await.map_err(SendError::Unanswered)
        })
        .await
    }

    /// Does as [`Self::send`], over a connection of its own, and the body of the answer can be taken as
    /// it is ([`OriginBody::into_raw`]). The request should ask the origin to close the connection.
    pub async fn open(
        &self,
        host: &str,
        port: u16,
        request: Request<Full<Bytes>>,
        patience: Patience,
    ) -> Result<Response<OriginBody>, SendError> {
        let key: Key = (thread::current().id(), host.into(), port);
        self.count(async {
            let leg = self.connect(&key, Wire::taped).await?;
            self.exchange(leg, &key, request, patience).await.map_err(SendError::Unanswered)
        })
        .await
    }

    async fn count<T>(&self, work: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
        let start = Instant::now();
        let result = work.await;
        self.inner.metrics.answered(result.as_ref().err().map(SendError::kind), start.elapsed());
        result
    }

    async fn connect(&self, key: &Key, wire: impl FnOnce(TcpStream) -> Wire) -> Result<PooledConnection, SendError> {
        let (_, host, port) = key;
        let start = Instant::now();
        let connected = self.inner.dialer.connect(host, *port, self.inner.settings.connect_timeout).await;
        self.inner.metrics.connected(connected.as_ref().err().map(Error::kind), start.elapsed());
        let stream = connected.map_err(SendError::Unreachable)?;
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(MAX_READ)
            .handshake(TokioIo::new(wire(stream)))
            .await
            .map_err(|error| Error::origin(Kind::Closed, format!("{host}:{port}: {}", describe(&error))))
            .map_err(SendError::Unanswered)?;
        Ok(PooledConnection { requests, connection: Some(Box::new(connection)) })
    }

    async fn exchange(
        &self,
        mut leg: PooledConnection,
        key: &Key,
        request: Request<Full<Bytes>>,
        patience: Patience,
    ) -> Result<Response<OriginBody>> {
        let (_, host, port) = key;
        let answer = {
            let sent = leg.requests.send_request(request);
            let mut sent = std::pin::pin!(sent);
            let connection = &mut leg.connection;
            timeout(
                patience.answer,
                std::future::poll_fn(|cx| {
                    loop {
                        if let Poll::Ready(answer) = sent.as_mut().poll(cx) {
                            return Poll::Ready(answer);
                        }
                        // What ended the connection is told by the request.
                        let Some(running) = connection else { return Poll::Pending };
                        if Pin::new(running).poll(cx).is_ready() {
                            *connection = None;
                            continue;
                        }
                        return sent.as_mut().poll(cx);
                    }
                }),
            )
            .await
        };
        let answer = answer.map_err(|_| {
            Error::origin(Kind::Timeout, format!("{host}:{port} has not answered in {:?}", patience.answer))
        })?;
        let answer = answer.map_err(|error| {
            let kind = if error.is_parse() { Kind::Protocol } else { Kind::Closed };
            Error::origin(kind, format!("{host}:{port}: {}", describe(&error)))
        })?;
        Ok(answer.map(|incoming| OriginBody {
            incoming,
            leg: Some(leg),
            client: self.clone(),
            key: key.clone(),
            idle: patience.idle,
            last: Instant::now(),
            timer: None,
        }))
    }

    /// Closes connections that were kept long enough, for ever.
    pub async fn tidy(&self) {
        loop {
            sleep(self.inner.settings.keepalive).await;
            let mut idle = self.inner.idle();
            for legs in idle.values_mut() {
                legs.retain(|(since, _)| since.elapsed() < self.inner.settings.keepalive);
            }
            idle.retain(|_, legs| !legs.is_empty());
        }
    }
}

impl Inner {
    /// A connection that still stands as far as can be seen, the latest first.
    fn take(&self, key: &Key) -> Option<PooledConnection> {
        loop {
            let (since, mut leg) = self.idle().get_mut(key)?.pop()?;
            if since.elapsed() < self.settings.keepalive && leg.is_idle() {
                return Some(leg);
            }
        }
    }

    fn keep(&self, key: &Key, leg: PooledConnection) {
        let mut idle = self.idle();
        let legs = idle.entry(key.clone()).or_default();
        if legs.len() < self.settings.max_idle {
            legs.push((Instant::now(), leg));
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Key, Vec<(Instant, PooledConnection)>>> {
        lock(&self.idle)
    }
}

impl PooledConnection {
    /// Whether it waits for a request.
    fn is_idle(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(&mut cx).is_ready()
        {
            self.connection = None;
        }
        self.connection.is_some() && self.requests.is_ready()
    }
}

/// The body of an origin's answer. Reading it moves the connection on; dropping it before its end
/// closes the connection.
#[derive(Debug)]
pub struct OriginBody {
    incoming: Incoming,
    leg: Option<PooledConnection>,
    client: Client,
    key: Key,
    idle: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

/// An answer's body as it is on the wire, with whatever framing its header says.
#[derive(Debug)]
pub struct RawBody {
    /// What has come of it.
    pub begun: Vec<u8>,
    /// Where the rest comes. The origin closes it at the body's end if it was asked to.
    pub stream: TcpStream,
}

impl OriginBody {
    /// The body as it is, before any of it was read. The body itself if it is too late for that, or if it
    /// did not come by [`Client::open`].
    pub fn into_raw(mut self) -> Result<RawBody, Box<Self>> {
        if self.incoming.is_end_stream() {
            return Err(Box::new(self));
        }
        let Some(PooledConnection { connection: Some(connection), .. }) =
            self.leg.take_if(|leg| leg.connection.is_some())
        else {
            return Err(Box::new(self));
        };
        let (stream, tape) = connection.into_parts().io.into_inner().into_parts();
        // hyper may have begun to take the body apart; the tape has it whole.
        match tape.as_deref().and_then(wire::behind_head) {
            Some(begun) => Ok(RawBody { begun: begun.to_vec(), stream }),
            None => Err(Box::new(self)),
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        loop {
            if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
                return Poll::Ready(frame);
            }
            let Some(leg) = &mut self.leg else { return Poll::Pending };
            let Some(connection) = &mut leg.connection else { return Poll::Pending };
            if Pin::new(connection).poll(cx).is_ready() {
                leg.connection = None;
                continue;
            }
            return Pin::new(&mut self.incoming).poll_frame(cx);
        }
    }

    /// Ready once nothing has come for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.idle)));
            ready!(timer.as_mut().poll(cx));
            let quiet = self.last.elapsed();
            if quiet >= self.idle {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + self.idle.saturating_sub(quiet));
        }
    }

    fn keep_connection(&mut self) {
        if let Some(mut leg) = self.leg.take()
            && leg.is_idle()
        {
            self.client.inner.keep(&self.key, leg);
        }
    }
}

impl Body for OriginBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let (host, port) = (Arc::clone(&self.key.1), self.key.2);
        match self.poll_incoming(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.last = Instant::now();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.leg = None;
                let message = format!("{host}:{port} broke off its answer: {}", describe(&error));
                Poll::Ready(Some(Err(Error::origin(Kind::Closed, message))))
            }
            Poll::Ready(None) => {
                self.keep_connection();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.poll_idle(cx));
                self.leg = None;
                let message = format!("{host}:{port} has sent nothing for {:?}", self.idle);
                Poll::Ready(Some(Err(Error::origin(Kind::Timeout, message))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for OriginBody {
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.keep_connection();
        }
    }
}

/// An error with its cause, which hyper leaves out of its own words.
fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
