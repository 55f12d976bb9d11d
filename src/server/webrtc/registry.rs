//! The sessions whose media may arrive, by the usernames of their STUN requests.
//!
//! A session is known from the moment at which an origin has granted its offer, on the node that passed
//! the offer on. A client whose media arrive at another node is looked for through the balancer by that
//! username, and gets a session there: [`lookup`](super::lookup).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Span;

use super::session::{self, SessionHandle};
use crate::sync::lock;
use crate::{
    balancer::{Balancer, Intent, Lease},
    config::{self, keys},
    error::{Error, Kind, Result, Side},
    metrics::{Metrics, label::Listener},
    origin::Protocol,
    relay::{dial::Dialer, udp::Socket, workers::Workers},
    server::{
        admission::{Admission, Limits, Permit},
        session_log,
    },
    session::{SessionGuard, Sessions},
    stream::StreamKey,
};

/// For how long a session is found that is to be forgotten. There is no shorter time.
const FORGOTTEN: Duration = Duration::from_millis(1);

/// A session that an origin has granted.
pub struct PendingSession {
    /// Its place among those that there may be at once.
    pub permit: Permit,
    /// The usernames of its STUN requests, `ORIGIN_UFRAG:CLIENT_UFRAG`.
    pub usernames: Vec<String>,
    /// Holds its placement.
    pub lease: Lease,
    /// Its place in the list of sessions.
    pub session: SessionGuard,
    /// What its log lines belong to.
    pub span: Span,
}

/// What sessions need.
pub struct SessionDeps {
    /// Tells other nodes of sessions, and this one of those of others.
    pub balancer: Arc<dyn Balancer>,
    /// Lists the sessions.
    pub sessions: Sessions,
    /// Looks up the names of origins.
    pub dialer: Dialer,
    /// Where sessions run.
    pub workers: Arc<Workers>,
    /// The sockets of the listener, one for each worker.
    pub sockets: Vec<Arc<Socket>>,
    /// The settings.
    pub config: config::Webrtc,
    /// Settings of connections to origins.
    pub upstream: config::Upstream,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Knows the sessions that the end of the process waits for.
    pub tracker: TaskTracker,
    /// Cancelled when no more sessions are taken.
    pub draining: CancellationToken,
    /// Cancelled when the sessions that are left are to end.
    pub closing: CancellationToken,
}

/// Finds sessions by their usernames. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) means: SessionDeps,
    admission: Admission,
    by_username: Mutex<HashMap<Arc<str>, Arc<SessionHandle>>>,
}

impl Registry {
    /// Has no session.
    pub fn new(means: SessionDeps) -> Self {
        let limits = Limits {
            max: means.config.max_sessions,
            max_per_ip: means.config.max_sessions_per_ip,
            settings: [keys::PROXY_WEBRTC_MAX_SESSIONS.spec.name, keys::PROXY_WEBRTC_MAX_SESSIONS_PER_IP.spec.name],
        };
        let admission = Admission::new(limits, means.metrics.listener(Listener::Webrtc));
        Self { inner: Arc::new(Inner { means, admission, by_username: Mutex::default() }) }
    }

    /// A place for a session of a client at `ip`, unless a limit is reached.
    pub fn admit(&self, ip: IpAddr) -> Option<Permit> {
        self.inner.admission.admit(ip)
    }

    /// Takes a session: from now on its media are passed on, and other nodes find it. It ends by itself.
    /// An error is of the origin's side: it cannot be sent anything.
    pub async fn open(&self, opening: PendingSession) -> Result<()> {
        self.tell(&opening).await;
        self.start(opening).await
    }

    /// Takes a session that other nodes know already.
    pub(super) async fn start(&self, opening: PendingSession) -> Result<()> {
        let PendingSession { permit, usernames, lease, session, span } = opening;
        let means = &self.inner.means;
        let leg = self.leg(&lease).await;
        let leg = leg.inspect_err(|error| span.in_scope(|| session_log::ended(&session, error)))?;
        let usernames: Vec<Arc<str>> = usernames.into_iter().map(Into::into).collect();
        let live = Arc::new(SessionHandle::new(usernames, leg, session.handle(), Instant::now()));
        {
            let mut sessions = self.lock();
            for username in live.usernames() {
                // A client that offers again with the same credentials has given up what it had.
                if let Some(earlier) = sessions.insert(Arc::clone(username), Arc::clone(&live)) {
                    earlier.end();
                }
            }
        }
        let run = session::run(self.clone(), live, lease, session, span, permit);
        means.workers.spawn(means.tracker.track_future(run));
        Ok(())
    }

    /// Ends the session with this username, if there is one here. No node finds it any more.
    pub async fn close(&self, username: &str) {
        let Some(live) = self.find(username) else { return };
        live.end();
        let Some((intent, stream)) = live.session().role() else { return };
        for username in live.usernames() {
            self.inner.means.tell(username, stream, *intent, FORGOTTEN).await;
        }
    }

    /// The session with this username.
    pub(super) fn find(&self, username: &str) -> Option<Arc<SessionHandle>> {
        self.lock().get(username).cloned()
    }

    /// Forgets a session that has ended.
    pub(super) fn forget(&self, live: &Arc<SessionHandle>) {
        let mut sessions = self.lock();
        for username in live.usernames() {
            if sessions.get(username).is_some_and(|known| Arc::ptr_eq(known, live)) {
                sessions.remove(username);
            }
        }
    }

    /// Lets the other nodes find the session.
    async fn tell(&self, opening: &PendingSession) {
        let Some((intent, stream)) = opening.session.role() else { return };
        for username in &opening.usernames {
            self.inner.means.tell(username, stream, *intent, super::RECORD).await;
        }
    }

    /// A socket towards the place where the origin takes the session's media.
    async fn leg(&self, lease: &Lease) -> Result<Arc<Socket>> {
        let to = self.media_address(lease).await?;
        let failed = |error| Error::io(Side::Origin, &format!("a socket towards {to}"), error);
        Socket::connect(to).map(Arc::new).map_err(failed)
    }

    async fn media_address(&self, lease: &Lease) -> Result<SocketAddr> {
        let origin = &lease.placement().origin;
        let Some((host, port)) = origin.address(Protocol::Rtc) else {
            return Err(Error::origin(Kind::Unavailable, format!("{} takes no WebRTC media", origin.id())));
        };
        let SessionDeps { dialer, upstream, .. } = &self.inner.means;
        let addresses = dialer.lookup(host, upstream.connect_timeout).await?;
        let first = addresses.first().copied();
        let ip = first.ok_or_else(|| Error::origin(Kind::Connect, format!("{host} has no address")))?;
        Ok(SocketAddr::new(ip, port))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<SessionHandle>>> {
        lock(&self.inner.by_username)
    }
}

impl SessionDeps {
    /// Lets other nodes find a session by its username for some time from now on.
    pub(super) async fn tell(&self, username: &str, stream: &StreamKey, intent: Intent, time: Duration) {
        let mut ids = vec![username.to_owned()];
        if intent == Intent::Publish {
            ids.push(super::publisher_record(username));
        }
        for id in ids {
            if let Err(error) = self.balancer.put_ufrag(&id, stream, time).await {
                tracing::warn!(%stream, %error, "other nodes do not learn of a WebRTC session");
                return;
            }
        }
    }
}
