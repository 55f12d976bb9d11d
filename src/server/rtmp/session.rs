//! One connection from its first byte to its last.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tracing::{Level, Span, debug, field, info, info_span, warn};

use super::{
    Context,
    duplex::Verdict,
    prologue::{self, CHUNK_SIZE, Prologue},
    status_code,
    upstream::{self, Leg},
};
use crate::{
    balancer::{BalancerError, Intent, Lease, PlaceRequest, Reachability},
    codec::rtmp::{command, handshake, message::Header},
    error::{Error, Kind, Result, Side},
    origin::{OriginId, Protocol},
    relay::{
        dial,
        tcp::{self, Limits, Relay},
    },
    session::{Delivery, Session, SessionGuard},
};

/// How long a client may take to read why its session ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long an origin that did not answer is watched for a sign of life in its other sessions.
const PROOF_OF_LIFE: Duration = Duration::from_millis(300);

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
    session.set_end(&error);
    span.in_scope(|| log_end(&session, &error));
}

/// Ordinary ends are quiet; what an operator may have to act on is a warning.
fn log_end(session: &Session, error: &Error) {
    let (from_client, from_origin) = session.bytes();
    let seconds = session.age().as_secs_f64();
    let level = match (error.side(), error.kind()) {
        // A port scan or a load balancer's probe.
        (Side::Client, Kind::Closed) if from_client == 0 => Level::DEBUG,
        (Side::Origin, Kind::Closed | Kind::Refused) | (Side::Client, _) | (_, Kind::Shutdown) => Level::INFO,
        _ => Level::WARN,
    };
    macro_rules! end {
        ($log:ident) => {
            $log!(seconds, from_client, from_origin, side = %error.side(), kind = error.kind().as_str(), reason = error.message(), "session ended")
        };
    }
    match level {
        Level::DEBUG => end!(debug),
        Level::INFO => end!(info),
        _ => end!(warn),
    }
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
                tcp::close(client, FAREWELL).await;
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

    let (answer, _) = handshake::answer(&c0c1, super::clock_ms(), |bytes| rand::fill(bytes)).map_err(protocol)?;
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
) -> Result<(Leg<'a>, Lease)> {
    let client = upstream::Client { session, prologue, vhosts: &context.vhosts, received };
    let mut avoid: Vec<OriginId> = Vec::new();
    let mut last = None;
    while avoid.len() < context.upstream.max_attempts {
        let request =
            PlaceRequest { stream: &prologue.stream, protocol: Protocol::Rtmp, intent: prologue.intent, avoid: &avoid };
        let placement = match context.balancer.place(request).await {
            Ok(placement) => placement,
            // What the last origin did says more than that there is no other.
            Err(error) => return Err(last.unwrap_or_else(|| unplaced(&error))),
        };
        let lease = Lease::new(Arc::clone(&context.balancer), placement, prologue.intent);
        let origin = Arc::clone(&lease.placement().origin);
        let id = origin.id();
        session.set_origin(Some(id.clone()));
        match upstream::open(&origin, client, context).await {
            Ok(leg) => {
                span.record("origin", id.as_str());
                context.balancer.report(&id, Reachability::Reached).await;
                return Ok((leg, lease));
            }
            Err(error) if error.kind() == Kind::Timeout && is_talking(&id, context).await => {
                // Too busy for one more connection, but not dead: whoever is on it stays on it.
                span.in_scope(|| warn!(origin = %id, %error, "the origin is slow, but its sessions go on"));
                if context.sessions.others_use(&prologue.stream, session.id) {
                    return Err(error);
                }
                avoid.push(id);
                last = Some(error);
            }
            Err(error) if error.is_retryable() => {
                span.in_scope(|| warn!(origin = %id, %error, "the origin fails; trying another"));
                context.balancer.report(&id, Reachability::Failed(error.message().to_owned())).await;
                avoid.push(id);
                last = Some(error);
            }
            Err(error) => {
                span.record("origin", id.as_str());
                return Err(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::internal(Kind::Unavailable, "no origin was tried")))
}

/// Whether an origin that did not answer a new connection still serves the old ones.
async fn is_talking(origin: &OriginId, context: &Context) -> bool {
    let before = context.sessions.bytes_from(origin);
    tokio::time::sleep(PROOF_OF_LIFE).await;
    context.sessions.bytes_from(origin) > before
}

fn unplaced(error: &BalancerError) -> Error {
    let kind = if matches!(error, BalancerError::Full(_)) { Kind::Limit } else { Kind::Unavailable };
    Error::internal(kind, error.to_string())
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
    let _ = timeout(FAREWELL, client.write_all(&bytes)).await;
    tcp::close(client, FAREWELL).await;
}

/// Moves bytes until the session ends, and says why it did.
async fn relay(
    client: TcpStream,
    leg: Leg<'_>,
    mut lease: Lease,
    prologue: &Prologue,
    context: &Context,
    span: &Span,
) -> Error {
    let Leg { stream: origin, duplex, opening } = leg;
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
        relay.flush_client(FAREWELL).await;
    }
    drop(lease);
    let (client, origin, _) = relay.into_parts();
    if end.side() == Side::Client {
        drop(client);
        tcp::close(origin, FAREWELL).await;
    } else {
        drop(origin);
        tcp::close(client, FAREWELL).await;
    }
    end
}
