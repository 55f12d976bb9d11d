//! Sessions whose offer another node has passed on, found through the balancer when their media arrive
//! here: a load balancer may send a client's HTTP to one node and its UDP to another, and a client that
//! changes its network may reach another node than before.
//!
//! Whoever sends requests with usernames that nobody has given makes a node ask for them, so questions
//! are few at once and few in a second, and none is repeated soon. A request that is not asked for is
//! repeated by its client.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, info_span};

use super::{
    publisher_record,
    registry::{PendingSession, Registry, SessionDeps},
};
use crate::sync::lock;
use crate::{
    balancer::{BalancerError, Intent},
    error::{Error, Kind, Result},
    net,
    origin::Protocol,
    relay::udp::Path,
    server::origin_search::{self, OriginSearch, StreamRequest},
    session::Delivery,
};

/// Questions under way at once.
const AT_ONCE: usize = 16;
/// Questions in a second.
const IN_A_SECOND: usize = 500;
/// How long a username that was asked for is not asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest username that is asked for: two fragments of ICE (RFC 8839, section 5.4).
const MAX_USERNAME: usize = 2 * 256 + 1;

/// The usernames that were asked for lately. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lookups {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    asked: HashMap<Box<str>, Instant>,
    under_way: usize,
}

impl Lookups {
    /// Looks for the session of a username, beside everything else. Once it is found, it is in the
    /// registry.
    pub(super) fn look_up(&self, registry: &Registry, username: &str, path: Path) {
        if registry.inner.means.draining.is_cancelled() || !self.begin(username, Instant::now()) {
            return;
        }
        let (registry, lookups, username) = (registry.clone(), self.clone(), username.to_owned());
        tokio::spawn(async move {
            if let Err(error) = find(&registry, &username, path).await {
                debug!(client = %path, %error, "no session for a STUN request");
            }
            lookups.lock().under_way -= 1;
        });
    }

    /// Whether to ask for a username now.
    fn begin(&self, username: &str, now: Instant) -> bool {
        let mut state = self.lock();
        if username.len() > MAX_USERNAME || state.under_way >= AT_ONCE {
            return false;
        }
        if state.asked.len() >= IN_A_SECOND {
            state.asked.retain(|_, at| now.saturating_duration_since(*at) < RETRY_AFTER);
        }
        if state.asked.len() >= IN_A_SECOND {
            return false;
        }
        let recently = state.asked.get(username).is_some_and(|at| now.saturating_duration_since(*at) < RETRY_AFTER);
        if !recently {
            state.asked.insert(username.into(), now);
            state.under_way += 1;
        }
        !recently
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Opens the session of a username here, if there is one.
async fn find(registry: &Registry, username: &str, path: Path) -> Result<()> {
    let means = &registry.inner.means;
    let Some(stream) = means.balancer.stream_of_ufrag(username).await.map_err(|error| unavailable(&error))? else {
        return Err(Error::client(Kind::Refused, "the username belongs to no session"));
    };
    let publishes = means
        .balancer
        .stream_of_ufrag(&publisher_record(username))
        .await
        .map_err(|error| unavailable(&error))?
        .is_some();
    let intent = if publishes { Intent::Publish } else { Intent::Play };
    let peer = net::canonical(path.peer);
    let Some(permit) = registry.admit(peer.ip()) else {
        return Err(Error::internal(Kind::Limit, "too many sessions"));
    };

    let session = means.sessions.start(Delivery::Webrtc, peer);
    session.set_role(intent, stream.clone());
    let want = StreamRequest { stream: &stream, protocol: Protocol::Rtc, intent, session: session.id };
    let SessionDeps { balancer, sessions, dialer, upstream, .. } = means;
    let lease = OriginSearch::new(origin_search::Deps { balancer, sessions, dialer, upstream }, want).next().await;
    let lease = lease.inspect_err(|error| session.set_end(error))?;
    let origin = lease.placement().origin.id();
    session.set_origin(Some(origin.clone()));
    let span = info_span!(
        "session",
        id = session.id,
        protocol = "webrtc",
        %peer,
        intent = intent.as_str(),
        %stream,
        %origin,
    );
    registry.start(PendingSession { permit, usernames: vec![username.to_owned()], lease, session, span }).await
}

fn unavailable(error: &BalancerError) -> Error {
    Error::internal(Kind::Unavailable, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_username_is_asked_for_once_in_a_while() {
        let lookups = Lookups::default();
        assert!(lookups.begin("a:b", Instant::now()));
        assert!(!lookups.begin("a:b", Instant::now()));
        assert!(lookups.begin("a:c", Instant::now()));
        tokio::time::advance(RETRY_AFTER).await;
        assert!(lookups.begin("a:b", Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_usernames_cause_few_questions_and_fill_no_memory() {
        let lookups = Lookups::default();
        let begun = |n: usize| {
            let begun = lookups.begin(&format!("{n}:x"), Instant::now());
            if begun {
                lookups.lock().under_way -= 1;
            }
            begun
        };
        assert_eq!((0..10_000).filter(|n| begun(*n)).count(), IN_A_SECOND);
        assert_eq!(lookups.lock().asked.len(), IN_A_SECOND);
        tokio::time::advance(RETRY_AFTER).await;
        assert!(begun(10_000), "others are asked for later");
        assert!(!lookups.begin(&"x".repeat(MAX_USERNAME + 1), Instant::now()));

        let at_once = (0..100).filter(|n| lookups.begin(&format!("{n}:y"), Instant::now())).count();
        assert_eq!(at_once, AT_ONCE, "however slow the answers are");
    }
}
