//! One HTTP connection and its deadlines.

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, StatusCode, header},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Limits, Reached, error};
use crate::sync::lock;
use crate::{metrics::ListenerMetrics, net};

/// The largest header that is read, in bytes.
const MAX_HEADER: usize = 32 * 1024;
/// What a client must take of an answer in each `send_timeout`, in bytes, unless it takes all.
const MIN_PROGRESS: usize = 16 * 1024;

/// Takes a connection from the handler of a request to its end.
type Successor = Box<dyn FnOnce(TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Lets the handler of a request take the client's connection over, instead of answering: an extension
/// of the request. What the client sent behind the request is lost.
#[derive(Clone, Default)]
pub struct Takeover(Arc<Mutex<Option<Successor>>>);

impl Takeover {
    /// Has `successor` run in place of the connection's task, once all former answers are sent. It has
    /// to answer the request, to mind its own deadlines, and to end when the server does.
    pub async fn by<F>(self, successor: impl FnOnce(TcpStream) -> F + Send + 'static) -> Infallible
    where
        F: Future<Output = ()> + Send + 'static,
    {
        *self.slot() = Some(Box::new(|stream| Box::pin(successor(stream))));
        pending().await
    }

    fn slot(&self) -> MutexGuard<'_, Option<Successor>> {
        lock(&self.0)
    }
}

/// How a connection ended.
enum End {
    Done(Result<(), String>),
    TakenOver(Successor),
}

/// Serves one connection to its end, or until `close`. One that is taken over goes on beyond that.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    metrics: ListenerMetrics,
    stop: CancellationToken,
    close: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let reached = stream.local_addr().ok().map(|address| Reached(net::canonical(address)));
    let activity = Arc::new(Activity::new(limits));
    let io = TokioIo::new(Observed { stream, activity: Arc::clone(&activity) });
    let takeover = Takeover::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(takeover.clone());
        if let Some(reached) = reached {
            request.extensions_mut().insert(reached);
        }
        answer(request, router.clone(), &metrics, Arc::clone(&activity))
    });
    let mut builder = http1::Builder::new();
    // hyper runs this while it waits for a request, from the end of the one before.
    builder.timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout).max_buf_size(MAX_HEADER);
    let mut connection = builder.serve_connection(io, service);

    let mut stopped = pin!(stop.cancelled());
    let mut stopping = false;
    let mut timer = pin!(tokio::time::sleep(limits.header_timeout));
    let running = poll_fn(|cx| {
        if !stopping && stopped.as_mut().poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(End::Done(result.map_err(|error| error.to_string())));
        }
        if activity.is_all_sent()
            && let Some(successor) = takeover.slot().take()
        {
            return Poll::Ready(End::TakenOver(successor));
        }
        // Only what the connection has just done can have changed the deadline.
        if let Some((deadline, reason)) = activity.deadline() {
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(End::Done(Err(reason.to_owned())));
        }
        Poll::Pending
    });
    match close.run_until_cancelled(running).await {
        Some(End::TakenOver(successor)) => {
            let stream = connection.into_parts().io.into_inner().stream;
            successor(stream).await;
        }
        Some(End::Done(Err(reason))) => tracing::debug!(%peer, reason, "HTTP connection ended"),
        Some(End::Done(Ok(()))) | None => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    router: Router,
    metrics: &ListenerMetrics,
    activity: Arc<Activity>,
) -> Result<Response<Answer>, Infallible> {
    let started = activity.request_started();
    let in_request = InRequest(Arc::clone(&activity));
    let request = request.map(Body::new);
    let left = activity.limits.request_timeout.saturating_sub(started.elapsed());
    let response = match tokio::time::timeout(left, router.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Err(_) => {
            let mut response = error(StatusCode::REQUEST_TIMEOUT, "the request took too long");
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    metrics.answered(response.status(), started.elapsed());
    Ok(response.map(|body| Answer { body, _in_request: in_request }))
}

/// What a connection is at, which says until when it may be.
struct Activity {
    limits: Limits,
    state: Mutex<State>,
}

struct State {
    /// When the first byte of a header came whose end did not come yet.
    header_since: Option<Instant>,
    /// Whether a request is being answered.
    in_request: bool,
    /// Since when the client has left an answer waiting, and how much it has taken since.
    stalled: Option<(Instant, usize)>,
}

impl Activity {
    fn new(limits: Limits) -> Self {
        let state = State { header_since: Some(Instant::now()), in_request: false, stalled: None };
        Self { limits, state: Mutex::new(state) }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let state = self.state();
        let header = state.header_since.and_then(|since| since.checked_add(self.limits.header_timeout));
        let send = state.stalled.and_then(|(since, _)| since.checked_add(self.limits.send_timeout));
        let header = header.map(|at| (at, "the header of a request took too long"));
        let send = send.map(|at| (at, "the client did not take its answer"));
        [header, send].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn bytes_read(&self) {
        let mut state = self.state();
        if !state.in_request {
            state.header_since.get_or_insert_with(Instant::now);
        }
    }

    /// Gives the time of the request's first byte.
    fn request_started(&self) -> Instant {
        let mut state = self.state();
        state.in_request = true;
        state.header_since.take().unwrap_or_else(Instant::now)
    }

    fn request_ended(&self) {
        self.state().in_request = false;
    }

    fn send_blocked(&self) {
        self.state().stalled.get_or_insert_with(|| (Instant::now(), 0));
    }

    fn bytes_sent(&self, n: usize) {
        let mut state = self.state();
        if let Some((_, taken)) = &mut state.stalled {
            *taken += n;
            if *taken >= MIN_PROGRESS {
                state.stalled = None;
            }
        }
    }

    /// hyper leaves bytes to be sent only when the client takes no more.
    fn is_all_sent(&self) -> bool {
        self.state().stalled.is_none()
    }

    fn all_sent(&self) {
        self.state().stalled = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Lives from the header of a request to the last byte of its answer.
struct InRequest(Arc<Activity>);

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    _in_request: InRequest,
}

impl hyper::body::Body for Answer {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that tells what happens on it.
struct Observed {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Observed {
    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.activity.send_blocked(),
            Poll::Ready(Ok(n)) => self.activity.bytes_sent(*n),
            Poll::Ready(Err(_)) => {}
        }
        result
    }
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.bytes_read();
        }
        result
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper asks for this when it has handed over all it had.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(result, Poll::Ready(Ok(()))) {
            self.activity.all_sent();
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
