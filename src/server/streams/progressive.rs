//! Progressive streams (FLV, TS, AAC, MP3): one answer that goes on for as long as the stream does.
//!
//! Once the origin has answered, nothing of HTTP is left to do: both connections are joined as they
//! are, with the framing that the origin chose. Where a client does not understand that, the body is
//! taken apart and framed anew.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Wakers, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::net::TcpStream;
use tracing::{Instrument, Span, field, info, info_span};

use super::{
    Context,
    forward::{Answer, Forward},
    headers::{self, Framing},
};
use crate::{
    balancer::{Intent, Lease},
    codec::rtmp::edits::Edits,
    error::{Error, Kind, Result, Side},
    metrics::label::Listener,
    relay::{
        http::{OriginBody, RawBody},
        tcp::{self, Filter, Limits, Opening, Relay},
    },
    server::session_log,
    session::{Delivery, Session, SessionGuard},
};

/// How long a client may take to read the end of its stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Plays a stream: the origin's bytes as they arrive, until either side goes away, the stream moves to
/// another origin, or this node ends.
pub(super) async fn play(forward: &Forward<'_>) -> Result<Response> {
    let context = forward.context;
    let session = context.sessions.start(Delivery::Progressive, forward.peer);
    session.set_role(Intent::Play, forward.stream.clone());
    let span = info_span!(
        "session",
        id = session.id,
        protocol = "http",
        peer = %session.peer,
        intent = Intent::Play.as_str(),
        stream = %forward.stream,
        origin = field::Empty,
    );
    let sent = tokio::select! {
        sent = forward.send(session.id).instrument(span.clone()) => sent,
        () = context.closing.cancelled() => Err(shutting_down()),
    };
    let (answer, lease) = sent.inspect_err(|error| span.in_scope(|| session_log::ended(&session, error)))?;
    if forward.is_head() || !answer.response.status().is_success() {
        return Ok(answer.into_response());
    }
    let origin = lease.placement().origin.id();
    span.record("origin", origin.as_str());
    span.in_scope(|| info!("session started"));
    session.set_origin(Some(origin));

    let takeover = forward.takeover().filter(|_| answer.framing != Framing::Other);
    let playing = Playing { context: Arc::clone(context), session, lease, span };
    let Answer { response, framing, .. } = answer;
    let (mut head, body) = response.into_parts();
    let body = match takeover {
        None => body,
        Some(takeover) => match body.into_raw() {
            Ok(raw) => {
                headers::allow_every_origin(&mut head.headers);
                // The server does not get to see this answer.
                let listener = playing.context.metrics.listener(Listener::Streams);
                listener.answered(head.status, playing.session.age());
                let head = headers::head(head.status, &head.headers, framing);
                match takeover.by(|client| playing.join(client, head, raw)).await {}
            }
            Err(body) => *body,
        },
    };
    let Playing { context, session, lease, span } = playing;
    let ending = Box::pin(ending(lease, context));
    let body = Reframed { body, session, ending, span, received: 0, end: None };
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Why a stream ends that both sides would go on with.
async fn ending(mut lease: Lease, context: Arc<Context>) -> Error {
    tokio::select! {
        () = lease.moved() => {
            context.metrics.session_moved();
            Error::internal(Kind::Shutdown, "the stream moved to another origin: connect again")
        }
        () = context.closing.cancelled() => shutting_down(),
    }
}

fn shutting_down() -> Error {
    Error::internal(Kind::Shutdown, "this node is shutting down: connect again")
}

/// A session that plays.
struct Playing {
    context: Arc<Context>,
    session: SessionGuard,
    lease: Lease,
    span: Span,
}

impl Playing {
    /// Joins the client's connection and the origin's, to the end of either.
    async fn join(self, client: TcpStream, head: Vec<u8>, raw: RawBody) {
        let Self { context, session, lease, span } = self;
        let http = &context.http;
        let limits = Limits { idle: http.idle_timeout, send: http.send_timeout };
        let opening = Opening { to_client: head, from_client: Vec::new(), from_origin: raw.begun };
        let download = Download { session: &session };
        let end = match Relay::new(client, raw.stream, opening, download, context.pool.clone(), limits) {
            Ok(mut relay) => {
                let end = tokio::select! {
                    end = relay.run() => end,
                    end = ending(lease, Arc::clone(&context)) => end,
                };
                let (client, origin, _) = relay.into_parts();
                drop(origin);
                if end.side() == Side::Origin {
                    tcp::close(client, CLOSE_TIMEOUT).await;
                }
                end
            }
            Err(error) => error,
        };
        span.in_scope(|| session_log::ended(&session, &end));
    }
}

/// Passes what the origin sends. The client has nothing more to say.
struct Download<'a> {
    session: &'a Session,
}

impl Filter for Download<'_> {
    fn filter(&mut self, from: Side, bytes: &mut [u8], _: usize, edits: &mut Edits) -> Result<usize> {
        if from == Side::Client {
            edits.remove(0..bytes.len());
        }
        Ok(bytes.len())
    }

    fn has_queued(&self, _: Side) -> bool {
        false
    }

    fn progress(&mut self, from_client: u64, from_origin: u64) {
        self.session.set_bytes(from_client, from_origin);
    }
}

/// The body of a stream that is framed anew.
struct Reframed {
    body: OriginBody,
    session: SessionGuard,
    ending: Pin<Box<dyn Future<Output = Error> + Send>>,
    span: Span,
    received: u64,
    end: Option<Error>,
}

impl hyper::body::Body for Reframed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Wakers<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.received += frame.data_ref().map_or(0, Bytes::len) as u64;
                self.session.set_bytes(0, self.received);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.ended(error)))),
            Poll::Ready(None) => {
                self.end = Some(over());
                Poll::Ready(None)
            }
            Poll::Pending => match self.ending.as_mut().poll(cx) {
                Poll::Ready(error) => Poll::Ready(Some(Err(self.ended(error)))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Reframed {
    /// Keeps the reason for the log; the connection ends without the mark of a whole answer.
    fn ended(&mut self, error: Error) -> Error {
        let told = Error::new(error.side(), error.kind(), error.message());
        self.end = Some(error);
        told
    }
}

impl Drop for Reframed {
    fn drop(&mut self) {
        let gone = || Error::client(Kind::Closed, "the client has gone, or was too slow");
        let end = self.end.take().unwrap_or_else(|| if self.body.is_end_stream() { over() } else { gone() });
        self.span.in_scope(|| session_log::ended(&self.session, &end));
    }
}

fn over() -> Error {
    Error::origin(Kind::Closed, "the stream is over")
}
