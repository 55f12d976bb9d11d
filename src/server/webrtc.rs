//! WebRTC: offers and answers by HTTP ([`signalling`]), media by UDP ([`media`]).

mod candidates;
mod lookup;
pub mod media;
mod peers;
pub mod registry;
mod session;
pub mod signalling;

use std::{net::SocketAddr, time::Duration};

use self::registry::{Registry, SessionDeps};
use crate::{config, relay::http::Client, stream::Vhosts};

/// How long placing a stream may take at the most, whatever the balancer.
const PLACING: Duration = Duration::from_secs(5);

/// How long other nodes find a session after it was told for the last time, as with the Go proxy.
const RECORD: Duration = Duration::from_secs(120);
/// How often a session is told anew.
const RENEWAL: Duration = Duration::from_secs(50);

/// The record that says that a session publishes. The record of its username has no room for that: the
/// Go proxy writes and reads it, too. No fragment of a username holds this sign (RFC 8839, section 5.4).
fn publisher_record(username: &str) -> String {
    format!("{username}#publish")
}

/// What offers and answers need.
pub struct Context {
    /// Takes the sessions that origins grant.
    pub registry: Registry,
    /// The vhosts that are told apart.
    pub vhosts: Vhosts,
    /// Asks origins.
    pub client: Client,
    /// Where media arrive, which may be every address of the machine.
    pub media: SocketAddr,
}

impl Context {
    fn means(&self) -> &SessionDeps {
        &self.registry.inner.means
    }
}

/// How long the answer to an offer may take, whoever has to be asked for it.
pub fn patience(webrtc: &config::Webrtc, upstream: &config::Upstream) -> Duration {
    let attempts = u32::try_from(upstream.max_attempts).unwrap_or(u32::MAX);
    // An answer is its header and its body.
    let answer = webrtc.answer_timeout.saturating_mul(2);
    PLACING.saturating_add(upstream.connect_timeout).saturating_add(answer).saturating_mul(attempts)
}
