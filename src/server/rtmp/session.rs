//! One connection from its first byte to its last.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tracing::{Instrument, Span, field, info, info_span};

use super::{
    Context,
    duplex::Verdict,
    prologue::{self, CHUNK_SIZE, Prologue},
    status_code,
    upstream::{self, OriginLeg},
};
use crate::{
    balancer::{Intent, Lease, Reachability},
    codec::rtmp::{command, handshake, message::Header},
    error::{Error, Kind, Result, Side},
    origin::Protocol,
    relay::{
        dial,
        tcp::{self, Limits, Relay},
    },
    server::{
        origin_probe,
        origin_search::{Deps, OriginSearch, StreamRequest},
        session_log,
    },
    session::{Delivery, Session, SessionGuard},
};

/// How long a client may take to read why its session ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const SHUTTING_DOWN: &str = "this node is shutting down: connect again";

/// Serves a connection.
pub async fn run(client: TcpStream, peer: SocketAddr, context: &Arc<Context>) {
    let session = context.sessions.start(Delivery::Rtmp, peer);
    let span = info_span!(
        "session",
        id = session.id,
        protocol = "rtmp",
        %peer,
        intent = field::Empty,
        stream = field::Empty,
        origin = field::Empty,
    );
    let error = serve(client, &session, context, &span).await;
    span.in_scope(|| session_log::ended(&session, &error));
}

async fn serve(mut client: TcpStream, session: &SessionGuard, context: &Arc<Context>, span: &Span) -> Error {
    // Boxed, so that what the beginning needs is given back before the long part.
    match Box::pin(unless_closing(context, begin(&mut client, session, context, span))).await {
        Ok((prologue, received)) => {
            let opening = place_and_open(session, &prologue, received, context, span);
            match Box::pin(unless_closing(context, opening)).await {
                Ok((leg, lease)) => relay(client, leg, lease, &prologue, context, span).await,
                Err(error) => {
                    refuse(client, &prologue, &error).await;
                    error
                }
            }
        }
        Err(error) => {
            if error.kind() != Kind::Closed {
                tcp::close(client, CLOSE_TIMEOUT).await;
            }
            error
        }
    }
}

/// What has not begun when the node closes its sessions does not begin any more.
async fn unless_closing<T>(context: &Context, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = work => result,
        () = context.closing.cancelled() => Err(Error::internal(Kind::Shutdown, SHUTTING_DOWN)),
    }
}

/// Handshake and commands, up to the name of a stream.
async fn begin(client: &mut TcpStream, session: &Session, context: &Context, span: &Span) -> Result<(Prologue, u64)> {
    dial::tune(client).map_err(|e| Error::io(Side::Client, "preparing the connection", e))?;
    let mut received = 0;
    let limit = context.rtmp.handshake_timeout;
    let shaking = timeout(limit, shake_hands(client, &mut received)).await;
    session.set_bytes(received, 0);
    shaking.unwrap_or_else(|_| Err(Error::client(Kind::Timeout, format!("no whole handshake in {limit:?}"))))?;

    let limit = context.rtmp.command_timeout;
    let reading = timeout(limit, prologue::read(client, &context.vhosts, &mut received)).await;
    session.set_bytes(received, 0);
    let prologue = reading
        .unwrap_or_else(|_| Err(Error::client(Kind::Timeout, format!("neither publish nor play in {limit:?}"))))?;

    span.record("intent", prologue.intent.as_str());
    span.record("stream", prologue.stream.as_str());
    session.set_role(prologue.intent, prologue.stream.clone());
    Ok((prologue, received))
}

async fn shake_hands(client: &mut TcpStream, received: &mut u64) -> Result<()> {
    let failed = |e| Error::io(Side::Client, "the handshake", e);
    let protocol = |e: handshake::HandshakeError| Error::client(Kind::Protocol, e.to_string());

    let mut c0c1 = Box::new([0; handshake::C0C1]);
    // The first byte tells another protocol before it has sent 1,537 of them.
    client.read_exact(&mut c0c1[..1]).await.map_err(failed)?;
    *received += 1;
    handshake::check_version(c0c1[0]).map_err(protocol)?;
    client.read_exact(&mut c0c1[1..]).await.map_err(failed)?;
    *received += handshake::BLOCK as u64;

    let (answer, _) =
        handshake::answer(&c0c1, origin_probe::clock_ms(), |bytes| rand::fill(bytes)).map_err(protocol)?;
    client.write_all(&answer[..]).await.map_err(failed)?;
    // C2 echoes S1, which proves nothing that matters here.
    client.read_exact(&mut c0c1[1..]).await.map_err(failed)?;
    *received += handshake::BLOCK as u64;
    Ok(())
}

/// Has the stream placed and opens the origin's leg; an origin that fails before it was asked to
/// publish or play is reported, and the next one is tried.
async fn place_and_open<'a>(
    session: &'a Session,
    prologue: &'a Prologue,
    received: u64,
    context: &'a Context,
    span: &Span,
) -> Result<(OriginLeg<'a>, Lease)> {
    let client = upstream::Client { session, prologue, vhosts: &context.vhosts, received };
    let want = StreamRequest {
        stream: &prologue.stream,
        protocol: Protocol::Rtmp,
        intent: prologue.intent,
        session: session.id,
    };
    let Context { balancer, sessions, dialer, upstream, .. } = context;
    let mut attempts = OriginSearch::new(Deps { balancer, sessions, dialer, upstream }, want);
    loop {
        let lease = attempts.next().await?;
        let origin = Arc::clone(&lease.placement().origin);
        session.set_origin(Some(origin.id()));
        match upstream::open(&origin, client, context).await {
            Ok(leg) => {
                span.record("origin", origin.id().as_str());
                attempts.reached(&lease).await;
                return Ok((leg, lease));
            }
            Err(error) => {
                if !error.is_retryable() {
                    span.record("origin", origin.id().as_str());
                }
                attempts.failed(&lease, error).instrument(span.clone()).await?;
            }
        }
    }
}

/// Tells a client that was promised an answer why there is no stream.
async fn refuse(mut client: TcpStream, prologue: &Prologue, error: &Error) {
    let kind = if error.kind() == Kind::Refused { Kind::Refused } else { Kind::Unavailable };
    let ours = status_code(prologue.intent, kind);
    let (code, description) = match error.status() {
        Some(status) if !status.code.is_empty() => (status.code.as_str(), status.description.clone()),
        _ => (ours, format!("{}: {}", error.side(), error.message())),
    };
    let mut bytes = Vec::new();
    let status = command::on_status_error(code, &description);
    Header::status(prologue.stream_id).encode_message(&status, CHUNK_SIZE, &mut bytes);
    let _ = timeout(CLOSE_TIMEOUT, client.write_all(&bytes)).await;
    tcp::close(client, CLOSE_TIMEOUT).await;
}

/// Moves bytes until the session ends, and says why it did.
async fn relay(
    client: TcpStream,
    leg: OriginLeg<'_>,
    mut lease: Lease,
    prologue: &Prologue,
    context: &Context,
    span: &Span,
) -> Error {
    let OriginLeg { stream: origin, duplex, opening } = leg;
    let limits = Limits { idle: context.rtmp.idle_timeout, send: context.rtmp.send_timeout };
    let mut relay = match Relay::new(client, origin, opening, duplex, context.pool.clone(), limits) {
        Ok(relay) => relay,
        Err(error) => return error,
    };
    span.in_scope(|| info!("session started"));

    let mut end = tokio::select! {
        end = relay.run() => end,
        () = lease.moved() => {
            context.metrics.session_moved();
            Error::internal(Kind::Shutdown, "the stream moved to another origin: connect again")
        }
        () = context.closing.cancelled() => Error::internal(Kind::Shutdown, SHUTTING_DOWN),
    };

    let verdict = relay.filter().verdict().cloned();
    match (&verdict, end.side(), end.kind()) {
        (Some(Verdict::Refused(text)), Side::Origin, Kind::Closed) => {
            end = Error::origin(Kind::Refused, text.clone());
        }
        (None, Side::Origin, Kind::Closed) => {
            // Silence would make the client guess.
            let text = "the origin closed the connection without a word: the stream may be in use already";
            end = Error::origin(Kind::Refused, text);
            relay.filter().queue_status(status_code(prologue.intent, Kind::Refused), text);
        }
        (_, Side::Origin, Kind::Timeout) => {
            let id = lease.placement().origin.id();
            context.balancer.report(&id, Reachability::Failed(end.message().to_owned())).await;
        }
        (_, Side::Internal, _) => {
            let code =
                if prologue.intent == Intent::Publish { "NetStream.Publish.Denied" } else { "NetStream.Play.Stop" };
            relay.filter().queue_status(code, end.message());
        }
        _ => {}
    }
    if end.side() != Side::Client {
        relay.flush_client(CLOSE_TIMEOUT).await;
    }
    drop(lease);
    let (client, origin, _) = relay.into_parts();
    if end.side() == Side::Client {
        drop(client);
        tcp::close(origin, CLOSE_TIMEOUT).await;
    } else {
        drop(origin);
        tcp::close(client, CLOSE_TIMEOUT).await;
    }
    end
}
