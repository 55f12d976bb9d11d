//! The search for an origin that takes a client: one after the other, until one does. What it meets
//! is reported, so that nobody else runs into it.

use std::{sync::Arc, time::Duration};

use tracing::warn;

use super::origin_probe;
use crate::{
    balancer::{Balancer, BalancerError, Intent, Lease, PlaceRequest, Reachability},
    config::Upstream,
    error::{Error, Kind, Result},
    origin::{Origin, OriginId, Protocol},
    relay::dial::Dialer,
    session::Sessions,
    stream::StreamKey,
};

/// How long an origin that did not answer is watched for a sign of life in its other sessions.
const PROOF_OF_LIFE: Duration = Duration::from_millis(300);

/// What a client wants.
#[derive(Debug, Clone, Copy)]
pub struct StreamRequest<'a> {
    /// The stream.
    pub stream: &'a StreamKey,
    /// In which protocol.
    pub protocol: Protocol,
    /// What for.
    pub intent: Intent,
    /// The client's session, where it has one; ids begin at 1.
    pub session: u64,
}

/// What a search needs.
#[derive(Clone, Copy)]
pub struct Deps<'a> {
    /// Places the stream.
    pub balancer: &'a Arc<dyn Balancer>,
    /// Tell which origins live.
    pub sessions: &'a Sessions,
    /// Connects to origins.
    pub dialer: &'a Dialer,
    /// Settings of those connections.
    pub upstream: &'a Upstream,
}

/// A search that is under way.
pub struct OriginSearch<'a> {
    means: Deps<'a>,
    want: StreamRequest<'a>,
    avoid: Vec<OriginId>,
    last: Option<Error>,
}

impl<'a> OriginSearch<'a> {
    /// Has tried none.
    pub fn new(means: Deps<'a>, want: StreamRequest<'a>) -> Self {
        Self { means, want, avoid: Vec::new(), last: None }
    }

    /// The next origin to try; an error once there is none, which is what the last one failed with.
    pub async fn next(&mut self) -> Result<Lease> {
        if self.avoid.len() >= self.means.upstream.max_attempts {
            return Err(self.give_up());
        }
        let StreamRequest { stream, protocol, intent, .. } = self.want;
        let request = PlaceRequest { stream, protocol, intent, avoid: &self.avoid };
        match self.means.balancer.place(request).await {
            Ok(placement) => Ok(Lease::new(Arc::clone(self.means.balancer), placement, intent)),
            // What the last origin did says more than that there is no other.
            Err(error) => Err(self.last.take().unwrap_or_else(|| unplaced(&error))),
        }
    }

    /// Takes note that the origin answers.
    pub async fn reached(&self, lease: &Lease) {
        self.means.balancer.report(&lease.placement().origin.id(), Reachability::Reached).await;
    }

    /// Takes note of why the origin does not take the client. An error if no other may be tried.
    pub async fn failed(&mut self, lease: &Lease, error: Error) -> Result<()> {
        let id = lease.placement().origin.id();
        let stream = self.want.stream;
        if !error.is_retryable() {
            return Err(error);
        }
        // Where one of its listeners is gone, its publishers are not: to move the stream would end them.
        if self.want.protocol != Protocol::Rtmp && self.answers_rtmp(lease).await {
            return Err(error);
        }
        if error.kind() == Kind::Timeout && self.is_talking(&id).await {
            // Too busy for one more connection, but not dead: whoever is on it stays on it.
            warn!(%stream, origin = %id, %error, "the origin is slow, but its sessions go on");
            if self.means.sessions.others_use(stream, self.want.session) {
                return Err(error);
            }
        } else {
            warn!(%stream, origin = %id, %error, "the origin fails; trying another");
            self.means.balancer.report(&id, Reachability::Failed(error.message().to_owned())).await;
        }
        self.avoid.push(id);
        self.last = Some(error);
        Ok(())
    }

    /// Whether an origin that did not answer a new connection still serves the old ones.
    async fn is_talking(&self, origin: &OriginId) -> bool {
        let before = self.means.sessions.bytes_from(origin);
        tokio::time::sleep(PROOF_OF_LIFE).await;
        self.means.sessions.bytes_from(origin) > before
    }

    /// Whether the origin takes publishers, whatever else it does not.
    async fn answers_rtmp(&self, lease: &Lease) -> bool {
        origin_probe::probe(&lease.placement().origin, self.means.dialer, self.means.upstream).await.is_ok()
    }

    fn give_up(&mut self) -> Error {
        self.last.take().unwrap_or_else(|| Error::internal(Kind::Unavailable, "no origin was tried"))
    }
}

/// Reports an origin whose leg of a session has failed, if it does not take publishers any more.
pub async fn probe_and_report(
    balancer: &dyn Balancer,
    origin: &Origin,
    dialer: &Dialer,
    upstream: &Upstream,
    error: &Error,
) {
    if origin_probe::probe(origin, dialer, upstream).await.is_err() {
        let id = origin.id();
        warn!(origin = %id, %error, "the origin has failed a session");
        balancer.report(&id, Reachability::Failed(error.message().to_owned())).await;
    }
}

fn unplaced(error: &BalancerError) -> Error {
    let kind = if matches!(error, BalancerError::Full(_)) { Kind::Limit } else { Kind::Unavailable };
    Error::internal(kind, error.to_string())
}
