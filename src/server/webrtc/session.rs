//! One session: from the answer of its origin to its end.
//!
//! The client's datagrams are sent to the origin by whoever received them ([`SessionHandle::pass`]); the origin's
//! are sent to the client by a task of the session's own. Another one waits for what ends it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Span, info};

use super::{
    RECORD, RENEWAL,
    peers::{Peers, Route},
    registry::{Registry, SessionDeps},
};
use crate::sync::lock;
use crate::{
    balancer::Lease,
    codec::stun::{self, Kind as Packet, Message},
    error::{Error, Kind, Result, Side},
    metrics::{
        Metrics,
        label::{Dropped, UdpListener},
    },
    relay::udp::{Flow, Path, Reader, Socket, forward},
    server::{admission::Permit, origin_search, session_log},
    session::{Session, SessionGuard},
};

/// How long a client may be silent once a side has said goodbye. Anybody can say it in its place, and
/// what goes on shows that.
const AFTER_GOODBYE: Duration = Duration::from_secs(5);

/// A session that media belong to.
pub(super) struct SessionHandle {
    usernames: Vec<Arc<str>>,
    /// The socket towards the origin.
    leg: Arc<Socket>,
    peers: Mutex<Peers>,
    session: Arc<Session>,
    started: Instant,
    goodbye: AtomicBool,
    end: CancellationToken,
}

impl SessionHandle {
    pub fn new(usernames: Vec<Arc<str>>, leg: Arc<Socket>, session: Arc<Session>, started: Instant) -> Self {
        let (peers, goodbye, end) = (Mutex::default(), AtomicBool::new(false), CancellationToken::new());
        Self { usernames, leg, peers, session, started, goodbye, end }
    }

    /// The usernames of its STUN requests.
    pub fn usernames(&self) -> &[Arc<str>] {
        &self.usernames
    }

    /// Whether a STUN request with this username belongs to it.
    pub fn answers_to(&self, username: &str) -> bool {
        !self.has_ended() && self.usernames.iter().any(|own| **own == *username)
    }

    /// Its place in the list of sessions.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Asks for its end.
    pub fn end(&self) {
        self.end.cancel();
    }

    /// Whether its end was asked for, or has come.
    pub fn has_ended(&self) -> bool {
        self.end.is_cancelled()
    }

    /// Whether the client was seen at this address.
    pub fn knows(&self, path: Path) -> bool {
        self.peers().knows(path)
    }

    /// Sends a datagram of the client to the origin; `request` is what it is if it is a binding request.
    /// Gives whether the system took it.
    pub fn pass(&self, path: Path, datagram: &[u8], request: Option<&Message<'_>>, now: Instant) -> bool {
        self.session.count(Side::Client, 1, datagram.len() as u64);
        match request {
            Some(request) => self.peers().request(path, request, datagram.len(), now),
            None => self.peers().other(path, datagram.len(), now),
        }
        self.note_goodbye(datagram);
        self.leg.send(datagram).is_ok()
    }

    fn note_goodbye(&self, datagram: &[u8]) {
        if Packet::of(datagram) == Packet::Dtls && stun::is_dtls_close(datagram) {
            self.goodbye.store(true, Relaxed);
        }
    }

    /// When it ends if the client stays silent.
    fn silent_at(&self, limit: Duration) -> Instant {
        let limit = if self.goodbye.load(Relaxed) { limit.min(AFTER_GOODBYE) } else { limit };
        self.peers().heard().unwrap_or(self.started) + limit
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        lock(&self.peers)
    }
}

/// Sends the origin's datagrams to where the client is.
struct ToClient {
    live: Arc<SessionHandle>,
    unproven: u64,
    unknown: u64,
}

impl Flow for ToClient {
    fn route(&mut self, datagram: &[u8]) -> Option<Path> {
        self.live.note_goodbye(datagram);
        let way = self.live.peers().way(datagram, Instant::now());
        match way {
            Route::To(path) => return Some(path),
            Route::Unproven => self.unproven += 1,
            Route::Unknown => self.unknown += 1,
        }
        None
    }
}

/// Runs a session to its end.
pub(super) async fn run(
    registry: Registry,
    live: Arc<SessionHandle>,
    lease: Lease,
    session: SessionGuard,
    span: Span,
    permit: Permit,
) {
    span.in_scope(|| info!("session started"));
    let means = &registry.inner.means;
    let origin = Arc::clone(&lease.placement().origin);
    let error = last(&live, lease, means).await;
    live.end();
    registry.forget(&live);
    span.in_scope(|| session_log::ended(&session, &error));
    drop((session, permit));
    if error.side() == Side::Origin {
        let SessionDeps { balancer, dialer, upstream, .. } = means;
        origin_search::probe_and_report(&**balancer, &origin, dialer, upstream, &error).await;
    }
}

/// Passes the origin's datagrams on, and gives what ends the session.
async fn last(live: &Arc<SessionHandle>, mut lease: Lease, means: &SessionDeps) -> Error {
    // A task of its own: what else is waited for is not looked at for each datagram.
    let mut pump = JoinSet::new();
    let out = &means.sockets[live.session.id as usize % means.sockets.len()];
    pump.spawn(pass_all(Arc::clone(live), Arc::clone(out), means.metrics.clone()));
    tokio::select! {
        ended = pump.join_next() => match ended {
            Some(Ok(Err(error))) => error,
            _ => Error::internal(Kind::Closed, "the task that passes datagrams on has ended"),
        },
        () = live.end.cancelled() => Error::client(Kind::Closed, "the client has ended its session"),
        () = lease.moved() => {
            means.metrics.session_moved();
            Error::internal(Kind::Shutdown, "the stream moved to another origin: offer again")
        }
        () = means.closing.cancelled() => Error::internal(Kind::Shutdown, "this node is shutting down: offer again"),
        error = silence(live, means.config.idle_timeout) => error,
        () = keep_known(live, means) => Error::internal(Kind::Closed, "the session has no stream"),
    }
}

async fn pass_all(live: Arc<SessionHandle>, out: Arc<Socket>, metrics: Metrics) -> Result<()> {
    let gone = |error| Error::io(Side::Origin, "the origin takes no media", error);
    let reader = Reader::new(Arc::clone(&live.leg)).map_err(gone)?;
    let mut flow = ToClient { live, unproven: 0, unknown: 0 };
    loop {
        let done = forward(&reader, &out, &mut flow).await.map_err(gone)?;
        flow.live.session.count(Side::Origin, done.packets, done.bytes);
        let (unproven, unknown) = (std::mem::take(&mut flow.unproven), std::mem::take(&mut flow.unknown));
        for (reason, count) in
            [(Dropped::Unproven, unproven), (Dropped::Unknown, unknown), (Dropped::Unsent, done.unsent)]
        {
            if count > 0 {
                metrics.dropped(UdpListener::Webrtc, reason, count);
            }
        }
    }
}

/// Returns once the client has been silent for too long.
async fn silence(live: &SessionHandle, limit: Duration) -> Error {
    loop {
        let at = live.silent_at(limit);
        if at <= Instant::now() {
            let silent = live.peers().heard().is_some();
            let text = if silent { "the client has sent nothing" } else { "the client has never sent anything" };
            return Error::client(Kind::Timeout, format!("{text} for {limit:?}"));
        }
        // A goodbye makes it sooner.
        let look_again = Instant::now() + AFTER_GOODBYE;
        sleep_until(at.min(look_again).into()).await;
    }
}

/// Keeps other nodes able to find the session.
async fn keep_known(live: &SessionHandle, means: &SessionDeps) {
    let Some((intent, stream)) = live.session.role() else { return };
    loop {
        sleep(RENEWAL).await;
        for username in &live.usernames {
            means.tell(username, stream, *intent, RECORD).await;
        }
    }
}
