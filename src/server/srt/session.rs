//! One session, from the conclusion of its caller to its end.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{Instrument, Span, field, info, info_span};

use super::{
    Context,
    table::Connection,
    upstream::{self, OriginLeg, Refusal},
};
use crate::{
    balancer::Lease,
    codec::srt::{
        self,
        handshake::{Handshake, Packet, Reason},
    },
    error::{Error, Kind, Side},
    metrics::label::{Dropped, UdpListener},
    origin::Protocol,
    relay::udp::{self, Flow, Path, Socket},
    server::{
        admission::Permit,
        origin_search::{self, Deps, OriginSearch, StreamRequest},
        session_log,
    },
    session::{Session, SessionGuard},
};

/// How long a caller that waits for its answer may be silent. Callers of libsrt repeat a conclusion
/// four times in a second, and give up after this time if not told otherwise.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(3);
/// How often within a limit on silence it is looked whether something came.
const LOOKS: u32 = 4;

/// A session as its demux knows it.
pub(super) struct SessionHandle {
    session: SessionGuard,
    /// Once the origin has accepted.
    origin: OnceLock<Arc<Socket>>,
    over: OnceLock<EndReason>,
    told: Notify,
}

/// How a session ended at the demux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndReason {
    /// The client shut the connection down.
    Closed,
    /// The client's socket began another connection.
    Replaced,
    /// Nobody listens at the origin's address any more.
    OriginGone,
}

impl EndReason {
    fn error(self) -> Error {
        match self {
            Self::Closed => Error::client(Kind::Closed, "closed the connection"),
            Self::Replaced => Error::client(Kind::Closed, "began another connection from the same socket"),
            Self::OriginGone => Error::origin(Kind::Closed, "nobody listens at the address any more"),
        }
    }
}

impl SessionHandle {
    pub fn new(session: SessionGuard) -> Self {
        Self { session, origin: OnceLock::new(), over: OnceLock::new(), told: Notify::new() }
    }

    /// Sends a packet of the client to the origin.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.origin.get().ok_or(io::ErrorKind::NotConnected)?.send(packet)
    }

    /// Ends the session. The first reason counts.
    pub fn end(&self, over: EndReason) {
        if self.over.set(over).is_ok() {
            self.told.notify_one();
        }
    }

    async fn ended(&self) -> EndReason {
        loop {
            if let Some(over) = self.over.get() {
                return *over;
            }
            self.told.notified().await;
        }
    }
}

impl std::ops::Deref for SessionHandle {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// What a session begins with.
pub(super) struct PendingSession {
    pub connection: Connection,
    /// The way to the client.
    pub path: Path,
    /// What the caller sent.
    pub conclusion: Box<[u8]>,
    pub live: Arc<SessionHandle>,
    /// Held until the origin has answered.
    pub turn: OwnedSemaphorePermit,
    pub permit: Permit,
    /// The socket that the client's packets come to.
    pub out: Arc<Socket>,
    pub demux: mpsc::UnboundedSender<Event>,
}

/// What a session keeps of it.
struct Client {
    connection: Connection,
    path: Path,
    live: Arc<SessionHandle>,
    out: Arc<Socket>,
    demux: mpsc::UnboundedSender<Event>,
}

/// What sessions report to the demultiplexer of their listener.
pub(super) enum Event {
    /// The origin takes the caller.
    Accepted {
        /// Whom.
        connection: Connection,
        /// The way to it.
        path: Path,
        /// The origin's socket.
        route: u32,
        /// What the caller is answered.
        answer: Box<[u8]>,
        /// Told whether the caller was answered.
        done: oneshot::Sender<bool>,
    },
    /// The session has ended.
    Ended {
        /// Whose.
        connection: Connection,
        /// The way to it.
        path: Path,
        /// What the caller is answered, if it still waits for an answer.
        refusal: Option<Box<[u8]>>,
    },
    /// Some time has passed.
    Tidy,
    /// No session is left anywhere, and none may begin.
    Stop,
}

/// Serves a caller.
pub(super) async fn run(opening: PendingSession, context: Arc<Context>) {
    let PendingSession { connection, path, conclusion, live, turn, permit, out, demux } = opening;
    let client = Client { connection, path, live, out, demux };
    let span = span(&client.live);
    // Boxed, so that what the beginning needs is given back before the long part.
    let opened = Box::pin(open(&client, &conclusion, &context, &span)).await;
    drop(turn);
    let mut failed = None;
    let (error, refusal) = match opened {
        Ok((leg, lease)) => {
            drop(conclusion);
            let origin = Arc::clone(&lease.placement().origin);
            let (end, told) = relay(&client, leg, lease, &context, &span).await;
            failed = (end.side() == Side::Origin && !told).then_some(origin);
            (end, None)
        }
        Err(Refusal { error, packet }) => {
            let packet = packet.map(Packet::into_bytes).or_else(|| refusal(&conclusion, &error, &client.live));
            (error, packet)
        }
    };
    span.in_scope(|| session_log::ended(&client.live, &error));
    let _ = client.demux.send(Event::Ended { connection, path, refusal });
    drop((client, permit));
    if let Some(origin) = failed {
        let Context { balancer, dialer, upstream, .. } = &*context;
        origin_search::probe_and_report(&**balancer, &origin, dialer, upstream, &error).await;
    }
}

fn span(session: &Session) -> Span {
    let span = info_span!(
        "session",
        id = session.id,
        protocol = "srt",
        peer = %session.peer,
        intent = field::Empty,
        stream = field::Empty,
        origin = field::Empty,
    );
    if let Some((intent, stream)) = session.role() {
        span.record("intent", intent.as_str());
        span.record("stream", stream.as_str());
    }
    span
}

/// Opens the origin's leg and has the caller answered, while the caller waits for it.
async fn open(
    client: &Client,
    conclusion: &[u8],
    context: &Context,
    span: &Span,
) -> Result<(OriginLeg, Lease), Refusal> {
    let live = &client.live;
    let opening = async {
        let (mut leg, lease) = place(client, conclusion, context, span).await?;
        let (done, accepted) = oneshot::channel();
        let answer = leg.answer.take().map(Packet::into_bytes).unwrap_or_default();
        let Client { connection, path, .. } = *client;
        let _ = live.origin.set(Arc::clone(leg.reader.socket()));
        let _ = client.demux.send(Event::Accepted { connection, path, route: leg.socket, answer, done });
        if accepted.await != Ok(true) {
            let _ = leg.reader.socket().send(&srt::shutdown(leg.socket, timestamp(live)));
            return Err(Error::internal(Kind::Limit, "two origins use one socket id towards this client").into());
        }
        Ok((leg, lease))
    };
    tokio::select! {
        opened = opening => opened,
        over = live.ended() => Err(over.error().into()),
        () = silence(SEARCH_TIMEOUT, || live.packets().0) => {
            Err(Error::client(Kind::Closed, format!("gave up: sent nothing for {SEARCH_TIMEOUT:?}")).into())
        }
        () = context.closing.cancelled() => Err(shutting_down().into()),
    }
}

/// Has the stream placed and asks the origin; one that does not answer is reported, and the next one
/// is tried.
async fn place(
    client: &Client,
    conclusion: &[u8],
    context: &Context,
    span: &Span,
) -> Result<(OriginLeg, Lease), Refusal> {
    let live = &client.live;
    let Some((intent, stream)) = live.role() else {
        return Err(Error::client(Kind::Protocol, "names no stream").into());
    };
    let Context { balancer, sessions, dialer, upstream, .. } = context;
    let want = StreamRequest { stream, protocol: Protocol::Srt, intent: *intent, session: live.id };
    let mut attempts = OriginSearch::new(Deps { balancer, sessions, dialer, upstream }, want);
    loop {
        let lease = attempts.next().await?;
        let origin = &lease.placement().origin;
        match upstream::open(origin, conclusion, live.peer.ip(), context).await {
            Ok(leg) => {
                live.set_origin(Some(origin.id()));
                span.record("origin", origin.id().as_str());
                attempts.reached(&lease).await;
                return Ok((leg, lease));
            }
            Err(Refusal { error, packet: None }) if error.is_retryable() => {
                attempts.failed(&lease, error).instrument(span.clone()).await?;
            }
            Err(refusal) => {
                span.record("origin", origin.id().as_str());
                return Err(refusal);
            }
        }
    }
}

/// What tells the caller why there is no session, unless the caller itself has ended it.
fn refusal(conclusion: &[u8], error: &Error, session: &Session) -> Option<Box<[u8]>> {
    let reason = match (error.side(), error.kind()) {
        (Side::Client, _) => return None,
        (_, Kind::Limit) => Reason::OVERLOAD,
        (Side::Internal, _) => Reason::DOWN,
        (Side::Origin, _) => Reason::GATEWAY,
    };
    let handshake = Handshake::parse(conclusion).ok()?;
    Some(handshake.rejection(reason, timestamp(session)).into())
}

/// Where the origin's packets go.
struct ToClient {
    path: Path,
    /// The client's socket.
    socket: u32,
    closed: bool,
}

impl Flow for ToClient {
    fn route(&mut self, packet: &[u8]) -> Option<Path> {
        if srt::destination(packet) != Some(self.socket) {
            return None;
        }
        self.closed |= srt::is_shutdown(packet);
        Some(self.path)
    }
}

/// Moves packets until the session ends, and says why it did, and whether the origin knows.
async fn relay(
    client: &Client,
    leg: OriginLeg,
    mut lease: Lease,
    context: &Arc<Context>,
    span: &Span,
) -> (Error, bool) {
    let Client { connection, path, live, out, .. } = client;
    span.in_scope(|| info!("session started"));
    let (caller, route, origin) = (connection.caller.socket, leg.socket, Arc::clone(leg.reader.socket()));
    // A task of its own: what else is waited for is not looked at for each packet.
    let mut pump = JoinSet::new();
    let flow = ToClient { path: *path, socket: caller, closed: false };
    pump.spawn(pass_all(leg, flow, live.session.handle(), Arc::clone(out), Arc::clone(context)));
    let (end, closed) = tokio::select! {
        ended = pump.join_next() => match ended {
            Some(Ok(Ok(()))) => (Error::origin(Kind::Closed, "closed the connection"), true),
            Some(Ok(Err(error))) => (error, false),
            _ => (Error::internal(Kind::Closed, "the task that passes packets on has ended"), false),
        },
        end = interruption(live, &mut lease, context) => (end, false),
    };
    pump.shutdown().await;
    // Whoever has ended the session knows it.
    let client_knows = closed || (end.side() == Side::Client && end.kind() == Kind::Closed);
    if !client_knows {
        let _ = out.send_to(&srt::shutdown(caller, timestamp(live)), *path);
    }
    let origin_knows = closed || live.over.get() == Some(&EndReason::Closed);
    if !origin_knows {
        let _ = origin.send(&srt::shutdown(route, timestamp(live)));
    }
    (end, origin_knows)
}

/// Sends on what the origin sends, until it has closed the connection.
async fn pass_all(
    leg: OriginLeg,
    mut flow: ToClient,
    session: Arc<Session>,
    out: Arc<Socket>,
    context: Arc<Context>,
) -> Result<(), Error> {
    for packet in &leg.early {
        session.count(Side::Origin, 1, packet.len() as u64);
        if let Some(path) = flow.route(packet) {
            let _ = out.send_to(packet, path);
        }
    }
    while !flow.closed {
        match udp::forward(&leg.reader, &out, &mut flow).await {
            Ok(done) => {
                session.count(Side::Origin, done.packets, done.bytes);
                if done.unsent > 0 {
                    context.metrics.dropped(UdpListener::Srt, Dropped::Unsent, done.unsent);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(EndReason::OriginGone.error()),
            Err(error) => return Err(Error::io(Side::Origin, "receiving", error)),
        }
    }
    Ok(())
}

/// Returns when a session has to end for another reason than the origin's word.
async fn interruption(live: &SessionHandle, lease: &mut Lease, context: &Context) -> Error {
    let idle = context.srt.idle_timeout;
    tokio::select! {
        over = live.ended() => over.error(),
        () = silence(idle, || live.packets().0) => Error::client(Kind::Timeout, format!("sent nothing for {idle:?}")),
        () = silence(idle, || live.packets().1) => Error::origin(Kind::Timeout, format!("sent nothing for {idle:?}")),
        () = lease.moved() => {
            context.metrics.session_moved();
            Error::internal(Kind::Shutdown, "the stream moved to another origin: connect again")
        }
        () = context.closing.cancelled() => shutting_down(),
    }
}

/// Returns when `count` has not changed for `limit`, or up to a quarter longer.
async fn silence(limit: Duration, count: impl Fn() -> u64) {
    let (mut seen, mut since) = (count(), Instant::now());
    while since.elapsed() < limit {
        sleep_until(Instant::now() + limit / LOOKS).await;
        let counted = count();
        if counted != seen {
            (seen, since) = (counted, Instant::now());
        }
    }
}

fn shutting_down() -> Error {
    Error::internal(Kind::Shutdown, "this node is shutting down: connect again")
}

/// Microseconds since the session began; wraps as all timestamps of SRT do.
fn timestamp(session: &Session) -> u32 {
    session.age().as_micros() as u32
}
